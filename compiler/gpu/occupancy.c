/* occupancy.c - how many blocks fit on a multiprocessor (NVIDIA), compute unit (CDNA) or pair of them (RDNA), from
 * the tables that the vendors publish. Sources: CUDA C++ Programming Guide, "Compute Capabilities"; CUDA occupancy
 * calculator; LLVM "User Guide for AMDGPU Backend"; AMD instruction set guides of CDNA2, CDNA3 and RDNA3. */
#include "emit.h"

#include <string.h>

typedef struct Limits {
    const char *name;
    int registers;      /* NVIDIA: of a multiprocessor; AMD: of a lane of a SIMD */
    int granule;        /* registers are given out by so many: NVIDIA to a warp, AMD to a lane */
    int warps;          /* of a multiprocessor; AMD: of a SIMD */
    int blocks;         /* of a multiprocessor */
    int parts;          /* partitions, SIMDs: every warp lives in one of them */
    int shared;         /* bytes of a multiprocessor */
    int shared_granule;
    int reserved;       /* bytes of it that the system takes from every block */
} Limits;

static const Limits table[] = {
    {"sm_80", 65536, 256, 64, 32, 4, 164 << 10, 128, 1024}, {"sm_86", 65536, 256, 48, 16, 4, 100 << 10, 128, 1024},
    {"sm_89", 65536, 256, 48, 24, 4, 100 << 10, 128, 1024}, {"sm_90a", 65536, 256, 64, 32, 4, 228 << 10, 128, 1024},
    {"sm_100a", 65536, 256, 64, 32, 4, 228 << 10, 128, 1024}, {"gfx90a", 512, 8, 8, 16, 4, 64 << 10, 512, 0},
    {"gfx942", 512, 8, 8, 16, 4, 64 << 10, 512, 0},
    {"gfx1100", 1536, 24, 16, 32, 4, 128 << 10, 512, 0}, /* two compute units */
};

static const Limits *limits_of(const Target *t)
{
    const char *name = !strncmp(t->name, "simt:", 5) ? t->name + 5 : t->name;
    for (size_t i = 0; i < COUNT(table); i++)
        if (!strcmp(table[i].name, name))
            return &table[i];
    return NULL;
}

/* Warps that the registers of one partition allow. */
static int warps_by_registers(const Target *t, const Limits *l, int registers)
{
    if (!t->gpu->nvidia)
        return l->registers / (int)round_up(MAX(registers, 1), l->granule);
    return l->registers / l->parts / (int)round_up((int64_t)registers * t->gpu->wave, l->granule);
}

int gpu_occupancy(const Target *t, const KernelInfo *info, const char **limit)
{
    const Limits *l = limits_of(t);
    *limit = "";
    if (!l || info->threads <= 0 || info->registers <= 0)
        return 0;
    int warps = (info->threads + t->gpu->wave - 1) / t->gpu->wave;
    int64_t shared = info->shared || l->reserved ? round_up(info->shared, l->shared_granule) + l->reserved : 0;
    int all = t->gpu->nvidia ? l->warps : l->warps * l->parts;
    struct { const char *name; int64_t blocks; } by[] = {
        {"threads", all / warps},
        {"registers", warps_by_registers(t, l, info->registers) * l->parts / warps},
        {"shared", shared ? l->shared / shared : INT32_MAX},
        {"blocks", l->blocks}};
    int64_t least = INT32_MAX;
    for (size_t i = 0; i < COUNT(by); i++)
        if (by[i].blocks < least) {
            least = by[i].blocks;
            *limit = by[i].name;
        }
    return (int)least;
}

/* Share of the warps that a multiprocessor could hold. */
static int percent_of_warps(const Target *t, const KernelInfo *info)
{
    const Limits *l = limits_of(t);
    int warps = (info->threads + t->gpu->wave - 1) / t->gpu->wave;
    int all = t->gpu->nvidia ? l->warps : l->warps * l->parts;
    return MIN(100, 100 * info->occupancy * warps / all);
}

void gpu_resources(const Kernel *k, const Target *t, const KernelInfo *info, size_t bytes, Buf *out)
{
    const char *limit;
    buf_printf(out, "%-8s %8s %9s %8s %7s %6s %10s %9s  %-10s %s\n", "target", "threads", "registers", "shared",
               "spills", "stack", t->gpu->nvidia ? "blocks/SM" : "blocks/CU", "occupancy", "limited by", "kernel");
    buf_printf(out, "%-8s %8d ", t->name, info->threads);
    if (gpu_occupancy(t, info, &limit))
        buf_printf(out, "%9d %8lld %7d %6d %10d %8d%%  %-10s %s, %zu bytes\n", info->registers, (long long)info->shared,
                   info->spills, info->stack, info->occupancy, percent_of_warps(t, info), limit, k->name, bytes);
    else
        buf_printf(out, "%9s %8lld %7s %6s %10s %9s  %-10s %s, %zu bytes\n", "-", (long long)info->shared, "-", "-",
                   "-", "-", "unknown", k->name, bytes);
}
