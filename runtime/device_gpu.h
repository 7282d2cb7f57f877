/* device_gpu.h - a GPU's driver as device_gpu.c uses it; private to it, device_cuda.c and device_hip.c.
 *
 * CUDA's driver API and HIP have most functions in common, name apart: GPU_CALLS lists them with the parameters that
 * both take. Handles are pointers in both, and so are addresses on the device. Every function gives 0 or an error's
 * number.
 */
#ifndef BLADE_DEVICE_GPU_H
#define BLADE_DEVICE_GPU_H

#include "device.h"

/* X(member, parameters) */
#define GPU_CALLS(X)                                                                                        \
    X(init, (unsigned flags))                                                                               \
    X(device_count, (int *count))                                                                           \
    X(device_name, (char *name, int size, int device))                                                      \
    X(memory_info, (size_t *available, size_t *total))                                                      \
    X(alloc, (void **p, size_t n))                                                                          \
    X(free, (void *p))                                                                                      \
    X(alloc_async, (void **p, size_t n, void *stream))                                                      \
    X(free_async, (void *p, void *stream))                                                                  \
    X(host_alloc, (void **p, size_t n, unsigned flags))                                                     \
    X(host_free, (void *p))                                                                                 \
    X(copy_in, (void *to, const void *host, size_t n, void *stream))                                        \
    X(copy_out, (void *host, const void *from, size_t n, void *stream))                                     \
    X(copy, (void *to, const void *from, size_t n, void *stream))                                           \
    X(set, (void *to, unsigned byte, size_t n, void *stream))                                               \
    X(set_rows, (void *to, size_t pitch, unsigned byte, size_t width, size_t rows, void *stream))           \
    X(stream_new, (void **stream, unsigned flags))                                                          \
    X(stream_free, (void *stream))                                                                          \
    X(stream_wait, (void *stream))                                                                          \
    X(event_new, (void **event, unsigned flags))                                                            \
    X(event_free, (void *event))                                                                            \
    X(event_record, (void *event, void *stream))                                                            \
    X(event_wait, (void *event))                                                                            \
    X(module_free, (void *module))                                                                          \
    X(module_function, (void **function, void *module, const char *name))                                   \
    X(launch, (void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,         \
               unsigned block_y, unsigned block_z, unsigned shared, void *stream, void **params, void **extra)) \
    X(capture_begin, (void *stream, int mode))                                                              \
    X(capture_end, (void *stream, void **graph))                                                            \
    X(graph_make, (void **executable, void *graph, unsigned long long flags))                               \
    X(graph_free, (void *graph))                                                                            \
    X(graph_launch, (void *executable, void *stream))                                                       \
    X(executable_free, (void *executable))

typedef struct GpuCalls {
#define X(member, parameters) int (*member) parameters;
    GPU_CALLS(X)
#undef X
} GpuCalls;

/* Numbers that mean the same in both. */
enum {
    GPU_OUT_OF_MEMORY = 2,
    GPU_NOT_SUPPORTED = 801,
    GPU_HOST_PORTABLE = 1,        /* flag of host_alloc: pinned for all contexts */
    GPU_STREAM_NON_BLOCKING = 1,  /* flag of stream_new: does not wait for the default stream */
    GPU_EVENT_NO_TIMING = 2,      /* flag of event_new */
    GPU_CAPTURE_THREAD_LOCAL = 1, /* mode of capture_begin */
};

typedef struct GpuSymbol {
    const char *name;
    void *address; /* of the function pointer */
    bool optional;
} GpuSymbol;

typedef struct GpuVendor {
    const char *name;      /* "cuda" */
    const char *libraries[5]; /* "libcuda.so.1": the first that is there; NULL behind the last */
    const char *install;   /* what to install when it is not there */
    bool dynamic_shared;   /* a launch says how much on-chip memory a block gets; else the code does */
    GpuCalls *calls;       /* filled in when the library is loaded */
    const GpuSymbol *symbols;
    size_t symbols_count;
    /* Makes the device ready, after init: its target and, for CUDA, its context. */
    bool (*open)(int index, const char *name, char target[DEVICE_TARGET_BYTES], void **context, Err *err);
    void (*close)(int index, void *context);
    int (*enter)(int index, void *context); /* the calling thread works on this device from now on */
    /* Loads an image: PTX text (NUL-terminated), a cubin or a code object. The compiler's log goes to `log` if there is
     * one. */
    int (*load)(void **module, const void *image, char *log, unsigned log_bytes);
    /* Makes a function ready for launches with so many threads and bytes of on-chip memory a block. */
    int (*prepare)(void *function, int threads, int shared);
    void (*describe)(int error, const char **name, const char **text);
} GpuVendor;

extern const GpuVendor gpu_cuda, gpu_hip;

#endif
