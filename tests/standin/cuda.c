/* cuda.c - the stand-in's libcuda.so.1: the entry points of runtime/cuda_driver.h. */
#include <stdio.h>

#include "cuda_driver.h"
#include "standin.h"

static int attribute(int *value, int which)
{
    const StDevice *d = st_device();
    *value = which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR   ? d->major
             : which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR ? d->minor
                                                                     : -1;
    return *value < 0 ? CUDA_ERROR_INVALID_VALUE : st_status();
}

static int device_get(int *device, int ordinal)
{
    *device = ordinal;
    return ordinal ? CUDA_ERROR_INVALID_DEVICE : st_status();
}

static int context_new(void **context)
{
    static int the_context;
    *context = &the_context;
    return st_status();
}

static int module_load(void **module, const void *image, unsigned count, const int *options, void **values)
{
    char *log = NULL;
    size_t bytes = 0;
    for (unsigned i = 0; i < count; i++)
        if (options[i] == CU_JIT_ERROR_LOG_BUFFER)
            log = values[i];
        else if (options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
            bytes = (size_t)(uintptr_t)values[i];
    return st_module_load(module, image, log, log ? bytes : 0);
}

static int function_get(int *value, int which, const void *function)
{
    *value = SIMT_MAX_THREADS;
    return which != CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK || !function ? CUDA_ERROR_INVALID_VALUE : st_status();
}

static int function_set(void *function, int which, int value)
{
    StKernel *k = function;
    if (which != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || value > 227 << 10)
        return CUDA_ERROR_INVALID_VALUE;
    k->shared_allowed = value;
    return st_status();
}

static int launch(void *f, const unsigned *grid, const unsigned *block, unsigned shared, void *s, void **p,
                  void **extra)
{
    if (extra || grid[1] != 1 || grid[2] != 1 || block[1] != 1 || block[2] != 1)
        return CUDA_ERROR_INVALID_VALUE;
    return st_launch(f, grid[0], block[0], shared, s, p);
}

ENTRY(cuInit, (unsigned flags), flags ? CUDA_ERROR_INVALID_VALUE : st_init(true, "sm_80"))
ENTRY(cuDeviceGetCount, (int *count), st_count(count))
ENTRY(cuDeviceGet, (int *device, int ordinal), device_get(device, ordinal))
ENTRY(cuDeviceGetName, (char *name, int size, int device), device ? CUDA_ERROR_INVALID_DEVICE : st_name(name, size))
ENTRY(cuDeviceGetAttribute, (int *value, int which, int device),
      device ? CUDA_ERROR_INVALID_DEVICE : attribute(value, which))
ENTRY(cuDevicePrimaryCtxRetain, (void **context, int device), device ? CUDA_ERROR_INVALID_DEVICE : context_new(context))
ENTRY(cuDevicePrimaryCtxRelease_v2, (int device), device ? CUDA_ERROR_INVALID_DEVICE : st_status())
ENTRY(cuCtxSetCurrent, (void *context), context ? st_status() : CUDA_ERROR_INVALID_CONTEXT)
ENTRY(cuMemGetInfo_v2, (size_t *available, size_t *total), st_memory(available, total))
ENTRY(cuMemAlloc_v2, (void **p, size_t n), st_alloc(p, n))
ENTRY(cuMemFree_v2, (void *p), st_free(p))
ENTRY(cuMemAllocAsync, (void **p, size_t n, void *stream), stream ? st_alloc(p, n) : CUDA_ERROR_INVALID_HANDLE)
ENTRY(cuMemFreeAsync, (void *p, void *stream), st_free_later(p, stream))
ENTRY(cuMemHostAlloc, (void **p, size_t n, unsigned flags), flags > 7 ? CUDA_ERROR_INVALID_VALUE : st_host_alloc(p, n))
ENTRY(cuMemFreeHost, (void *p), st_host_free(p))
ENTRY(cuMemcpyHtoDAsync_v2, (void *to, const void *from, size_t n, void *s), st_copy(ST_IN, to, from, n, s))
ENTRY(cuMemcpyDtoHAsync_v2, (void *to, const void *from, size_t n, void *s), st_copy(ST_OUT, to, from, n, s))
ENTRY(cuMemcpyDtoDAsync_v2, (void *to, const void *from, size_t n, void *s), st_copy(ST_WITHIN, to, from, n, s))
ENTRY(cuMemsetD8Async, (void *to, unsigned char byte, size_t n, void *s), st_set(to, n, byte, n, 1, s))
ENTRY(cuMemsetD2D8Async, (void *to, size_t pitch, unsigned char byte, size_t width, size_t rows, void *s),
      st_set(to, pitch, byte, width, rows, s))
ENTRY(cuStreamCreate, (void **stream, unsigned flags), flags > 1 ? CUDA_ERROR_INVALID_VALUE : st_stream_new(stream))
ENTRY(cuStreamDestroy_v2, (void *stream), st_stream_free(stream))
ENTRY(cuStreamSynchronize, (void *stream), st_stream_wait(stream))
ENTRY(cuEventCreate, (void **event, unsigned flags), flags > 7 ? CUDA_ERROR_INVALID_VALUE : st_event_new(event))
ENTRY(cuEventDestroy_v2, (void *event), st_event_free(event))
ENTRY(cuEventRecord, (void *event, void *stream), st_event_record(event, stream))
ENTRY(cuEventSynchronize, (void *event), st_event_wait(event))
ENTRY(cuModuleLoadDataEx, (void **module, const void *image, unsigned count, const int *options, void **values),
      module_load(module, image, count, options, values))
ENTRY(cuModuleUnload, (void *module), st_module_free(module))
ENTRY(cuModuleGetFunction, (void **function, void *module, const char *name),
      st_module_function(function, module, name))
ENTRY(cuFuncGetAttribute, (int *value, int which, void *function), function_get(value, which, function))
ENTRY(cuFuncSetAttribute, (void *function, int which, int value), function_set(function, which, value))
ENTRY(cuLaunchKernel,
      (void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *s,
       void **parameters, void **extra),
      launch(f, (unsigned[]){gx, gy, gz}, (unsigned[]){bx, by, bz}, shared, s, parameters, extra))
ENTRY(cuStreamBeginCapture_v2, (void *s, int mode), mode > 2 ? CUDA_ERROR_INVALID_VALUE : st_capture_begin(s))
ENTRY(cuStreamEndCapture, (void *stream, void **graph), st_capture_end(stream, graph))
ENTRY(cuGraphInstantiateWithFlags, (void **executable, void *graph, unsigned long long flags),
      flags ? CUDA_ERROR_INVALID_VALUE : st_graph_make(executable, graph))
ENTRY(cuGraphDestroy, (void *graph), st_graph_free(graph))
ENTRY(cuGraphLaunch, (void *executable, void *stream), st_graph_launch(executable, stream))
ENTRY(cuGraphExecDestroy, (void *executable), st_executable_free(executable))

static const struct {
    int error;
    const char *name, *text;
} errors[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
     "too many resources requested for launch"},
    {CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {CUDA_ERROR_UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

ST_EXPORT int cuGetErrorName(int error, const char **name);
ST_EXPORT int cuGetErrorString(int error, const char **text);

static int find_error(int error)
{
    for (int i = 0; i < (int)COUNT(errors); i++)
        if (errors[i].error == error)
            return i;
    return -1;
}

ST_EXPORT int cuGetErrorName(int error, const char **name)
{
    int i = find_error(error);
    *name = i < 0 ? NULL : errors[i].name;
    return i < 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

ST_EXPORT int cuGetErrorString(int error, const char **text)
{
    int i = find_error(error);
    *text = i < 0 ? NULL : errors[i].text;
    return i < 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
