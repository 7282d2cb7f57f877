/* hip.c - the stand-in's libamdhip64.so: the entry points of runtime/hip_driver.h. */
#include <stdio.h>
#include <string.h>

#include "hip_driver.h"
#include "standin.h"

/* The newer structure: the name first, the architecture's somewhere behind numbers. */
static int properties(char *p)
{
    memset(p, 0x5A, 1472);
    snprintf(p, 256, "%s", st_device()->name);
    snprintf(p + 1160, 256, "%s:sramecc+:xnack-", st_device()->target);
    return st_status();
}

static int launch(void *f, const unsigned *grid, const unsigned *block, unsigned shared, void *s, void **p,
                  void **extra)
{
    if (extra || shared || grid[1] != 1 || grid[2] != 1 || block[1] != 1 || block[2] != 1)
        return hipErrorInvalidValue;
    return st_launch(f, grid[0], block[0], shared, s, p);
}

ENTRY(hipInit, (unsigned flags), flags ? hipErrorInvalidValue : st_init(false, "gfx942"))
ENTRY(hipGetDeviceCount, (int *count), st_count(count))
ENTRY(hipDeviceGetName, (char *name, int size, int device), device ? hipErrorInvalidDevice : st_name(name, size))
ENTRY(hipGetDeviceProperties, (void *p, int device), device ? hipErrorInvalidDevice : properties(p))
ENTRY(hipGetDevicePropertiesR0600, (void *p, int device), device ? hipErrorInvalidDevice : properties(p))
ENTRY(hipSetDevice, (int device), device ? hipErrorInvalidDevice : st_status())
ENTRY(hipMemGetInfo, (size_t *available, size_t *total), st_memory(available, total))
ENTRY(hipMalloc, (void **p, size_t n), st_alloc(p, n))
ENTRY(hipFree, (void *p), st_free(p))
ENTRY(hipMallocAsync, (void **p, size_t n, void *stream), stream ? st_alloc(p, n) : hipErrorInvalidHandle)
ENTRY(hipFreeAsync, (void *p, void *stream), st_free_later(p, stream))
ENTRY(hipHostMalloc, (void **p, size_t n, unsigned flags), flags > 7 ? hipErrorInvalidValue : st_host_alloc(p, n))
ENTRY(hipHostFree, (void *p), st_host_free(p))
ENTRY(hipMemcpyHtoDAsync, (void *to, const void *from, size_t n, void *s), st_copy(ST_IN, to, from, n, s))
ENTRY(hipMemcpyDtoHAsync, (void *to, const void *from, size_t n, void *s), st_copy(ST_OUT, to, from, n, s))
ENTRY(hipMemcpyDtoDAsync, (void *to, const void *from, size_t n, void *s), st_copy(ST_WITHIN, to, from, n, s))
ENTRY(hipMemsetD8Async, (void *to, unsigned char byte, size_t n, void *s), st_set(to, n, byte, n, 1, s))
ENTRY(hipMemset2DAsync, (void *to, size_t pitch, int byte, size_t width, size_t rows, void *s),
      st_set(to, pitch, (unsigned)byte & 255, width, rows, s))
ENTRY(hipStreamCreateWithFlags, (void **stream, unsigned flags),
      flags > 1 ? hipErrorInvalidValue : st_stream_new(stream))
ENTRY(hipStreamDestroy, (void *stream), st_stream_free(stream))
ENTRY(hipStreamSynchronize, (void *stream), st_stream_wait(stream))
ENTRY(hipEventCreateWithFlags, (void **event, unsigned flags), flags > 7 ? hipErrorInvalidValue : st_event_new(event))
ENTRY(hipEventDestroy, (void *event), st_event_free(event))
ENTRY(hipEventRecord, (void *event, void *stream), st_event_record(event, stream))
ENTRY(hipEventSynchronize, (void *event), st_event_wait(event))
ENTRY(hipModuleLoadData, (void **module, const void *image), st_module_load(module, image, NULL, 0))
ENTRY(hipModuleUnload, (void *module), st_module_free(module))
ENTRY(hipModuleGetFunction, (void **function, void *module, const char *name),
      st_module_function(function, module, name))
ENTRY(hipModuleLaunchKernel,
      (void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *s,
       void **parameters, void **extra),
      launch(f, (unsigned[]){gx, gy, gz}, (unsigned[]){bx, by, bz}, shared, s, parameters, extra))
ENTRY(hipStreamBeginCapture, (void *s, int mode), mode > 2 ? hipErrorInvalidValue : st_capture_begin(s))
ENTRY(hipStreamEndCapture, (void *stream, void **graph), st_capture_end(stream, graph))
ENTRY(hipGraphInstantiateWithFlags, (void **executable, void *graph, unsigned long long flags),
      flags ? hipErrorInvalidValue : st_graph_make(executable, graph))
ENTRY(hipGraphDestroy, (void *graph), st_graph_free(graph))
ENTRY(hipGraphLaunch, (void *executable, void *stream), st_graph_launch(executable, stream))
ENTRY(hipGraphExecDestroy, (void *executable), st_executable_free(executable))

static const struct {
    int error;
    const char *name, *text;
} errors[] = {
    {hipSuccess, "hipSuccess", "no error"},
    {hipErrorInvalidValue, "hipErrorInvalidValue", "invalid argument"},
    {hipErrorOutOfMemory, "hipErrorOutOfMemory", "out of memory"},
    {hipErrorNotInitialized, "hipErrorNotInitialized", "initialization error"},
    {hipErrorNoDevice, "hipErrorNoDevice", "no ROCm-capable device is detected"},
    {hipErrorInvalidDevice, "hipErrorInvalidDevice", "invalid device ordinal"},
    {hipErrorInvalidImage, "hipErrorInvalidImage", "device kernel image is invalid"},
    {hipErrorInvalidHandle, "hipErrorInvalidHandle", "invalid resource handle"},
    {hipErrorNotFound, "hipErrorNotFound", "named symbol not found"},
    {hipErrorIllegalAddress, "hipErrorIllegalAddress", "an illegal memory access was encountered"},
    {hipErrorLaunchOutOfResources, "hipErrorLaunchOutOfResources", "out of resources"},
    {hipErrorLaunchFailure, "hipErrorLaunchFailure", "unspecified launch failure"},
    {hipErrorStreamCaptureUnsupported, "hipErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {hipErrorUnknown, "hipErrorUnknown", "unknown error"},
};

ST_EXPORT const char *hipGetErrorName(int error);
ST_EXPORT const char *hipGetErrorString(int error);

static int find_error(int error)
{
    for (int i = 0; i < (int)COUNT(errors); i++)
        if (errors[i].error == error)
            return i;
    return (int)COUNT(errors) - 1;
}

ST_EXPORT const char *hipGetErrorName(int error)
{
    return errors[find_error(error)].name;
}

ST_EXPORT const char *hipGetErrorString(int error)
{
    return errors[find_error(error)].text;
}
