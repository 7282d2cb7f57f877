/* hip_driver.h - what Blade uses of AMD's HIP, written down from its documentation, so that building needs no ROCm:
 * names of entry points in libamdhip64.so and numbers. Source: "HIP API reference", AMD, ROCm 5.3 and later.
 */
#ifndef BLADE_HIP_DRIVER_H
#define BLADE_HIP_DRIVER_H

/* X(member of GpuCalls, entry point, optional): signatures as in device_gpu.h. */
#define HIP_SYMBOLS(X)                                    \
    X(init, "hipInit", false)                             \
    X(device_count, "hipGetDeviceCount", false)           \
    X(device_name, "hipDeviceGetName", false)             \
    X(memory_info, "hipMemGetInfo", false)                \
    X(alloc, "hipMalloc", false)                          \
    X(free, "hipFree", false)                             \
    X(alloc_async, "hipMallocAsync", true)                \
    X(free_async, "hipFreeAsync", true)                   \
    X(host_alloc, "hipHostMalloc", false)                 \
    X(host_free, "hipHostFree", false)                    \
    X(copy_in, "hipMemcpyHtoDAsync", false)               \
    X(copy_out, "hipMemcpyDtoHAsync", false)              \
    X(copy, "hipMemcpyDtoDAsync", false)                  \
    X(set, "hipMemsetD8Async", false)                     \
    X(set_rows, "hipMemset2DAsync", false)                \
    X(stream_new, "hipStreamCreateWithFlags", false)      \
    X(stream_free, "hipStreamDestroy", false)             \
    X(stream_wait, "hipStreamSynchronize", false)         \
    X(event_new, "hipEventCreateWithFlags", false)        \
    X(event_free, "hipEventDestroy", false)               \
    X(event_record, "hipEventRecord", false)              \
    X(event_wait, "hipEventSynchronize", false)           \
    X(module_free, "hipModuleUnload", false)              \
    X(module_function, "hipModuleGetFunction", false)     \
    X(launch, "hipModuleLaunchKernel", false)             \
    X(capture_begin, "hipStreamBeginCapture", false)      \
    X(capture_end, "hipStreamEndCapture", false)          \
    X(graph_make, "hipGraphInstantiateWithFlags", false)  \
    X(graph_free, "hipGraphDestroy", false)               \
    X(graph_launch, "hipGraphLaunch", false)              \
    X(executable_free, "hipGraphExecDestroy", false)

/* The entry points that CUDA has otherwise: X(name without "hip", entry point, parameters, optional). The structure of
 * properties changed with ROCm 6, and the newer one has a name of its own; a version has one of them or both. */
#define HIP_CALLS(X)                                                                               \
    X(GetDeviceProperties6, "hipGetDevicePropertiesR0600", (void *properties, int device), true)   \
    X(GetDeviceProperties, "hipGetDeviceProperties", (void *properties, int device), true)         \
    X(SetDevice, "hipSetDevice", (int device), false)                                              \
    X(ModuleLoadData, "hipModuleLoadData", (void **module, const void *image), false)

/* These two give text, not an error. */
#define HIP_TEXTS(X)                         \
    X(GetErrorName, "hipGetErrorName")       \
    X(GetErrorString, "hipGetErrorString")

enum { HIP_PROPERTIES_BYTES = 4096 }; /* more than either structure has */

/* Errors; those that the stand-in of the tests gives. */
enum {
    hipSuccess = 0,
    hipErrorInvalidValue = 1,
    hipErrorOutOfMemory = 2,
    hipErrorNotInitialized = 3,
    hipErrorNoDevice = 100,
    hipErrorInvalidDevice = 101,
    hipErrorInvalidImage = 200,
    hipErrorInvalidHandle = 400,
    hipErrorNotFound = 500,
    hipErrorIllegalAddress = 700,
    hipErrorLaunchOutOfResources = 701,
    hipErrorLaunchFailure = 719,
    hipErrorStreamCaptureUnsupported = 900,
    hipErrorUnknown = 999,
};

#endif
