/* cuda_driver.h - what Blade uses of NVIDIA's driver API, written down from its documentation, so that building needs
 * no toolkit: names of entry points in libcuda.so.1 and numbers. Source: "CUDA Driver API", NVIDIA, version 11.4 and
 * later.
 */
#ifndef BLADE_CUDA_DRIVER_H
#define BLADE_CUDA_DRIVER_H

/* X(member of GpuCalls, entry point, optional): signatures as in device_gpu.h. */
#define CUDA_SYMBOLS(X)                                   \
    X(init, "cuInit", false)                              \
    X(device_count, "cuDeviceGetCount", false)            \
    X(device_name, "cuDeviceGetName", false)              \
    X(memory_info, "cuMemGetInfo_v2", false)              \
    X(alloc, "cuMemAlloc_v2", false)                      \
    X(free, "cuMemFree_v2", false)                        \
    X(alloc_async, "cuMemAllocAsync", true)               \
    X(free_async, "cuMemFreeAsync", true)                 \
    X(host_alloc, "cuMemHostAlloc", false)                \
    X(host_free, "cuMemFreeHost", false)                  \
    X(copy_in, "cuMemcpyHtoDAsync_v2", false)             \
    X(copy_out, "cuMemcpyDtoHAsync_v2", false)            \
    X(copy, "cuMemcpyDtoDAsync_v2", false)                \
    X(set, "cuMemsetD8Async", false)                      \
    X(set_rows, "cuMemsetD2D8Async", false)               \
    X(stream_new, "cuStreamCreate", false)                \
    X(stream_free, "cuStreamDestroy_v2", false)           \
    X(stream_wait, "cuStreamSynchronize", false)          \
    X(event_new, "cuEventCreate", false)                  \
    X(event_free, "cuEventDestroy_v2", false)             \
    X(event_record, "cuEventRecord", false)               \
    X(event_wait, "cuEventSynchronize", false)            \
    X(module_free, "cuModuleUnload", false)               \
    X(module_function, "cuModuleGetFunction", false)      \
    X(launch, "cuLaunchKernel", false)                    \
    X(capture_begin, "cuStreamBeginCapture_v2", false)    \
    X(capture_end, "cuStreamEndCapture", false)           \
    X(graph_make, "cuGraphInstantiateWithFlags", false)   \
    X(graph_free, "cuGraphDestroy", false)                \
    X(graph_launch, "cuGraphLaunch", false)               \
    X(executable_free, "cuGraphExecDestroy", false)

/* The entry points that HIP has otherwise: X(name without "cu", entry point, parameters). */
#define CUDA_CALLS(X)                                                                              \
    X(DeviceGet, "cuDeviceGet", (int *device, int ordinal))                                        \
    X(DeviceGetAttribute, "cuDeviceGetAttribute", (int *value, int attribute, int device))         \
    X(DevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (void **context, int device))            \
    X(DevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (int device))                       \
    X(CtxSetCurrent, "cuCtxSetCurrent", (void *context))                                           \
    X(ModuleLoadDataEx, "cuModuleLoadDataEx",                                                      \
      (void **module, const void *image, unsigned count, const int *options, void **values))       \
    X(FuncGetAttribute, "cuFuncGetAttribute", (int *value, int attribute, void *function))         \
    X(FuncSetAttribute, "cuFuncSetAttribute", (void *function, int attribute, int value))          \
    X(GetErrorName, "cuGetErrorName", (int error, const char **name))                              \
    X(GetErrorString, "cuGetErrorString", (int error, const char **text))

enum {
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 0,
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
    CU_JIT_ERROR_LOG_BUFFER = 5,
    CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6,
};

/* Errors; those that the stand-in of the tests gives. */
enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_IMAGE = 200,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
    CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701,
    CUDA_ERROR_LAUNCH_FAILED = 719,
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
    CUDA_ERROR_UNKNOWN = 999,
};

#endif
