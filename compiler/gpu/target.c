/* target.c - the GPU targets: a row each, and for every one its twin that the host's CPU executes (simt:NAME). */
#include "../target.h"

#define NVIDIA(prefix, on_host, id, llvm_cpu, llvm_features, ...)                                                     \
    {.name = prefix id, .family = "gpu", .triple = "nvptx64-nvidia-cuda", .cpu = llvm_cpu, .features = llvm_features, \
     .simt = on_host, .fma = true, .f16c = true, .round = true, .lower = gpu_lower,                                   \
     .gpu = &(const Gpu){.nvidia = true, .matrix = MATRIX_MMA, .wave = 32, .max_warps = 32, .stages = 8, __VA_ARGS__}}
#define AMD(prefix, on_host, id, ...)                                                                                 \
    {.name = prefix id, .family = "gpu", .triple = "amdgcn-amd-amdhsa", .cpu = id, .features = "", .simt = on_host,   \
     .fma = true, .f16c = true, .round = true, .lower = gpu_lower,                                                    \
     .gpu = &(const Gpu){.max_warps = 16, .stages = 1, .shared = 64 << 10, __VA_ARGS__}}

/* PTX 7.1 has all that sm_80 needs; LLVM 19 knows nothing beyond sm_90a, so sm_100a is code for sm_90 under another
 * header. */
#define GPUS(prefix, on_host)                                                                          \
    NVIDIA(prefix, on_host, "sm_80", "sm_80", "+ptx71", .shared = 163 << 10),                          \
    NVIDIA(prefix, on_host, "sm_86", "sm_86", "+ptx71", .shared = 99 << 10),                           \
    NVIDIA(prefix, on_host, "sm_89", "sm_89", "+ptx78", .shared = 99 << 10),                           \
    NVIDIA(prefix, on_host, "sm_90a", "sm_90a", "+ptx80", .shared = 227 << 10),                        \
    NVIDIA(prefix, on_host, "sm_100a", "sm_90", "+ptx80", .shared = 227 << 10, .header = "sm_100a"),   \
    AMD(prefix, on_host, "gfx90a", .matrix = MATRIX_MFMA, .wave = 64, .k_bytes = 4),                   \
    AMD(prefix, on_host, "gfx942", .matrix = MATRIX_MFMA, .wave = 64, .k_bytes = 8),                   \
    AMD(prefix, on_host, "gfx1100", .matrix = MATRIX_WMMA, .wave = 32)

static const Target targets[] = {GPUS("", false), GPUS("simt:", true)};

const Target *gpu_target_at(int i)
{
    return i >= 0 && i < (int)COUNT(targets) ? &targets[i] : NULL;
}
