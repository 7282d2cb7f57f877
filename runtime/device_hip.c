/* device_hip.c - AMD's HIP for device_gpu.c: entry points of libamdhip64.so, and what is not as in CUDA. */
#include <stdlib.h>
#include <string.h>

#include "device_gpu.h"
#include "hip_driver.h"

static GpuCalls calls;

static struct {
#define X(name, symbol, parameters, optional) int (*name) parameters;
    HIP_CALLS(X)
#undef X
#define X(name, symbol) const char *(*name)(int error);
    HIP_TEXTS(X)
#undef X
} hip;

static const GpuSymbol symbols[] = {
#define X(member, symbol, optional) {symbol, &calls.member, optional},
    HIP_SYMBOLS(X)
#undef X
#define X(name, symbol, parameters, optional) {symbol, &hip.name, optional},
    HIP_CALLS(X)
#undef X
#define X(name, symbol) {symbol, &hip.name, false},
    HIP_TEXTS(X)
#undef X
};

static void describe(int error, const char **name, const char **text)
{
    *name = hip.GetErrorName(error);
    *text = hip.GetErrorString(error);
}

/* Only the structure of properties tells the architecture. It differs between versions, but nothing else in it is a
 * text that begins so. */
static const char *find_arch(const char *properties)
{
    for (const char *p = properties; p < properties + HIP_PROPERTIES_BYTES - 32; p++)
        if (!memcmp(p, "gfx", 3))
            return p;
    return "of an unknown architecture";
}

static bool open(int index, const char *name, char target[DEVICE_TARGET_BYTES], void **context, Err *err)
{
    *context = NULL;
    char *properties = xcalloc(1, HIP_PROPERTIES_BYTES + 1);
    int error = hip.GetDeviceProperties6  ? hip.GetDeviceProperties6(properties, index)
                : hip.GetDeviceProperties ? hip.GetDeviceProperties(properties, index)
                                          : GPU_NOT_SUPPORTED;
    bool ok = error ? err_set(err, "asking for its properties: %s", hip.GetErrorName(error))
                    : device_target_amd(name, find_arch(properties), target, err);
    free(properties);
    return ok;
}

static void close(int index, void *context)
{
    (void)index;
    (void)context;
}

static int enter(int index, void *context)
{
    (void)context;
    return hip.SetDevice(index);
}

static int load(void **module, const void *image, char *log, unsigned log_bytes)
{
    (void)log;
    (void)log_bytes;
    return hip.ModuleLoadData(module, image);
}

/* The code object says all of it. */
static int prepare(void *function, int threads, int shared)
{
    (void)function;
    (void)threads;
    (void)shared;
    return hipSuccess;
}

const GpuVendor gpu_hip = {
    .name = "hip", .libraries = {"libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5"},
    .install = "AMD's ROCm", .calls = &calls, .symbols = symbols,
    .symbols_count = COUNT(symbols), .open = open, .close = close, .enter = enter, .load = load,
    .prepare = prepare, .describe = describe,
};
