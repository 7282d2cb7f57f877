/* standin.h - a GPU driver for tests, behind the entry points of cuda.c and hip.c: kernels are objects for this CPU
 * that the SIMT machine runs, everything else behaves like a driver at its worst.
 *
 *   - Nothing that is begun on a stream happens before somebody waits for it: what was overwritten too early, or read
 *     without waiting, shows.
 *   - The device's memory can't be touched by the host in between; pages behind each allocation fault; fresh memory
 *     is 0xFF. Addresses that are not the device's are refused as arguments of kernels.
 *   - An error of a kernel stays: all later calls give it too.
 *
 * Environment: BLADE_STANDIN_TARGET, the architecture ("sm_80" for cuda.c, "gfx942" for hip.c; the library of the
 * other vendor has no device then). BLADE_STANDIN_MEMORY, MiB (1024). BLADE_STANDIN_FAIL=WHAT:N, the N-th allocation
 * ("alloc"), launch ("launch") or wait ("sync") fails, or the device is lost at the N-th launch ("lost") or launch of
 * a graph ("graph"). BLADE_STANDIN_ORDER=reverse, warps take turns from the last to the first.
 *
 * Functions give 0 or an error's number, which CUDA and HIP have in common. Any thread may call them.
 */
#ifndef BLADE_STANDIN_H
#define BLADE_STANDIN_H

#include "base.h"
#include "simt/simt.h"

typedef enum StCopy { ST_IN, ST_OUT, ST_WITHIN } StCopy;

typedef struct StDevice {
    char name[64];        /* "SIMT sm_80" */
    char target[32];      /* "sm_80" */
    bool nvidia;
    int major, minor;     /* compute capability */
    int wave;
    int64_t memory, used; /* bytes */
} StDevice;

#define ST_EXPORT __attribute__((visibility("default")))

/* An entry point that is a function of the stand-in, under its lock. */
#define ENTRY(name, parameters, call)          \
    ST_EXPORT int name parameters;             \
    ST_EXPORT int name parameters              \
    {                                          \
        st_lock();                             \
        int status = call;                     \
        st_unlock();                           \
        return status;                         \
    }

/* memory.c */
int st_memory(size_t *available, size_t *total);
int st_alloc(void **p, size_t n);
int st_free(void *p);
int st_host_alloc(void **p, size_t n);
int st_host_free(void *p);
bool st_on_device(const void *p, size_t n); /* inside of one living allocation */
bool st_is_device(const void *p);           /* anywhere in the device's range */
bool st_is_pinned(const void *p, size_t n);
void st_reachable(bool yes);                /* the device's memory, for this process */

int st_regions(const SimtRegion **regions); /* the living allocations; how many */

/* stream.c */
int st_stream_new(void **stream);
int st_stream_free(void *stream);
int st_stream_wait(void *stream);
int st_event_new(void **event);
int st_event_free(void *event);
int st_event_record(void *event, void *stream);
int st_event_wait(void *event);
int st_free_later(void *p, void *stream);
int st_copy(StCopy kind, void *to, const void *from, size_t n, void *stream);
int st_set(void *to, size_t pitch, unsigned byte, size_t width, size_t rows, void *stream);
int st_launch(void *function, unsigned blocks, unsigned threads, unsigned shared, void *stream, void **parameters);
int st_capture_begin(void *stream);
int st_capture_end(void *stream, void **graph);
int st_graph_make(void **executable, void *graph);
int st_graph_free(void *graph);
int st_graph_launch(void *executable, void *stream);
int st_executable_free(void *executable);

/* module.c */
int st_module_load(void **module, const void *image, char *log, size_t log_bytes);
int st_module_free(void *module);
int st_module_function(void **function, void *module, const char *name);

typedef struct StKernel {
    const void *entry;
    char name[96];
    int64_t shared_allowed;
} StKernel;

/* device.c */
/* Reads the environment; what failed before is forgotten: a new device. */
int st_init(bool nvidia, const char *default_target);
int st_count(int *count);
int st_name(char *name, int size);
const StDevice *st_device(void);
int st_status(void); /* the error that stays, or 0 */
void st_lock(void); /* recursive */
void st_unlock(void);
bool st_fails(const char *what);             /* counts, and says whether this is the one to fail */
int st_break(int error, const char *format, ...) PRINTF(2, 3); /* an error that stays; tells it on standard error */
int st_refuse(int error, const char *format, ...) PRINTF(2, 3); /* one that does not */

#endif
