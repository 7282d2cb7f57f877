/* device_cuda.c - NVIDIA's driver for device_gpu.c: entry points of libcuda.so.1, and what is not as in HIP. */
#include <stdint.h>

#include "cuda_driver.h"
#include "device_gpu.h"

static GpuCalls calls;

static struct {
#define X(name, symbol, parameters) int (*name) parameters;
    CUDA_CALLS(X)
#undef X
} cu;

static const GpuSymbol symbols[] = {
#define X(member, symbol, optional) {symbol, &calls.member, optional},
    CUDA_SYMBOLS(X)
#undef X
#define X(name, symbol, parameters) {symbol, &cu.name, false},
    CUDA_CALLS(X)
#undef X
};

static void describe(int error, const char **name, const char **text)
{
    if (cu.GetErrorName(error, name))
        *name = NULL;
    if (cu.GetErrorString(error, text))
        *text = NULL;
}

static bool failed(int error, const char *doing, Err *err)
{
    const char *name, *text;
    describe(error, &name, &text);
    return err_set(err, "%s: %s", doing, name ? name : "unknown error");
}

static bool open(int index, const char *name, char target[DEVICE_TARGET_BYTES], void **context, Err *err)
{
    int device, major = 0, minor = 0, error = cu.DeviceGet(&device, index);
    if (!error)
        error = cu.DeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
    if (!error)
        error = cu.DeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
    if (error)
        return failed(error, "asking for its compute capability", err);
    if (!device_target_nvidia(name, major, minor, target, err))
        return false;
    error = cu.DevicePrimaryCtxRetain(context, device);
    return !error || failed(error, "creating a context", err);
}

static void close(int index, void *context)
{
    (void)context;
    int device;
    if (!cu.DeviceGet(&device, index))
        cu.DevicePrimaryCtxRelease(device);
}

static int enter(int index, void *context)
{
    (void)index;
    return cu.CtxSetCurrent(context);
}

static int load(void **module, const void *image, char *log, unsigned log_bytes)
{
    static const int options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[] = {log, (void *)(uintptr_t)log_bytes};
    return cu.ModuleLoadDataEx(module, image, COUNT(options), options, values);
}

/* Asking for an attribute makes a driver that loads functions when they are first used load this one now: in the
 * middle of a graph it could not. */
static int prepare(void *function, int threads, int shared)
{
    enum { PLAIN_SHARED = 48 << 10 }; /* bytes that a block gets without asking */
    int most, error = cu.FuncGetAttribute(&most, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, function);
    if (!error && threads > most)
        return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    if (!error && shared > PLAIN_SHARED)
        error = cu.FuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared);
    return error;
}

const GpuVendor gpu_cuda = {
    .name = "cuda", .libraries = {"libcuda.so.1"}, .install = "NVIDIA's driver", .dynamic_shared = true,
    .calls = &calls, .symbols = symbols, .symbols_count = COUNT(symbols), .open = open, .close = close, .enter = enter,
    .load = load, .prepare = prepare, .describe = describe,
};
