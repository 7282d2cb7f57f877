/* cost_gpu.c - the analytic cost of a GPU's kernel; see cost.h. Clocks, rates and counts are those of the vendors' data
 * sheets for A100, RTX 3090, L40S, H200, B200, MI250X (one die), MI300X and RX 7900 XTX. */
#include "../compiler/gpu/emit.h"
#include "cost_walk.h"

#include <math.h>
#include <string.h>

typedef struct Chip {
    const char *target;
    double processors;  /* multiprocessors, compute units */
    double clock;       /* Hz */
    double memory;      /* bytes a second */
    double products;    /* bf16 multiply-adds of a multiprocessor's matrix units a cycle */
    double bytes_ratio; /* the same of 8-bit integers, to that */
    double lanes;       /* f32 operations of a multiprocessor a cycle */
} Chip;

static const Chip chips[] = {
    {"sm_80", 108, 1.41e9, 2.0e12, 1024, 2, 64},   {"sm_86", 82, 1.7e9, 0.93e12, 256, 2, 128},
    {"sm_89", 142, 2.2e9, 0.86e12, 512, 2, 128},   {"sm_90a", 132, 1.75e9, 4.8e12, 1280, 2, 128},
    {"sm_100a", 148, 1.85e9, 8.0e12, 1280, 2, 128}, {"gfx90a", 110, 1.7e9, 1.6e12, 512, 1, 64},
    {"gfx942", 304, 2.1e9, 5.3e12, 1024, 2, 64},   {"gfx1100", 96, 2.4e9, 0.96e12, 256, 1, 128},
};

static const double launch = 3e-6, latency = 0.7e-6; /* seconds; of memory, to the first use */
static const double near_rate = 3;                   /* the second cache, to memory */
static const double shared_bytes = 128;              /* of on-chip memory a cycle */
static const double barrier = 60;                    /* cycles of a turn besides its work */
static const double overlap = 0.25;                  /* of what is not the bottleneck, this much shows */
static const double spill_cost = 16;                 /* of as many registers again as there are; the gates refuse most */
static const double partitions = 4;                  /* of a multiprocessor; a warp lives in one */
enum { OWN_REGISTERS = 72 /* of a thread: addresses, fragments */, MOST_REGISTERS = 255 };

static const Chip *chip_of(const Target *t)
{
    const char *name = !strncmp(t->name, "simt:", 5) ? t->name + 5 : t->name;
    for (size_t i = 0; i < COUNT(chips); i++)
        if (!strcmp(chips[i].target, name))
            return &chips[i];
    return &chips[0];
}

static int warps_of(const Kernel *k)
{
    return MAX(k->warps[0], 1) * MAX(k->warps[1], 1);
}

static double bytes_of(Type t)
{
    return (double)t.rows * t.cols * dtype_bits(t.elem) / 8;
}

/* ---- counting --------------------------------------------------------------------------------------------------- */

static void move(Walk *w, Ref view, Type t)
{
    const Memory *m = cost_memory(w, view);
    double bytes = w->times[w->depth] * bytes_of(t);
    if (m->space == SPACE_SHARED)
        w->gpu.shared += bytes / shared_bytes;
    else if (m->index < COST_ARGS && w->in->cold[m->index])
        w->gpu.cold[m->index] += bytes;
    else
        w->gpu.near += bytes;
}

static void copy(Walk *w, const Ins *i)
{
    move(w, i->arg[0], type_of(w->k, i->arg[0]));
    move(w, i->arg[1], type_of(w->k, i->arg[1]));
    if (!w->copies[w->depth])
        w->gpu.turns += w->times[w->depth];
    w->copies[w->depth] = true;
    w->gpu.stages = MIN(w->stages[w->depth], w->t->gpu->stages);
}

/* Every column of warps reads the rows of A that it has not in registers, every row of warps the columns of B. */
static void gemm(Walk *w, const Ins *i)
{
    const Chip *c = chip_of(w->t);
    Type a = type_of(w->k, i->arg[1]), b = type_of(w->k, i->arg[2]);
    double products = (double)a.rows * b.cols * a.cols, times = w->times[w->depth];
    bool in_memory = ir_at(w->k, i->arg[1])->op == OP_VIEW;
    if (a.elem == DT_F32)
        w->gpu.lanes += times * products / c->lanes;
    else
        w->gpu.matrix += times * products / (c->products * (a.elem == DT_S8 ? c->bytes_ratio : 1));
    if (dtype_bits(b.elem) < 8) /* unpacked by every row of warps */
        w->gpu.lanes += times * (double)b.rows * b.cols * MAX(w->k->warps[0], 1) / c->lanes;
    w->gpu.shared += times * (bytes_of(b) * MAX(w->k->warps[0], 1) +
                              (in_memory ? bytes_of(a) * MAX(w->k->warps[1], 1) : 0)) / shared_bytes;
}

/* Tiles of less than an element a thread are computed by all. */
static void elementwise(Walk *w, const Ins *i)
{
    double threads = warps_of(w->k) * w->t->gpu->wave, elements = (double)i->type.rows * i->type.cols;
    double each = i->op == OP_EXP || i->op == OP_LOG || i->op == OP_TANH ? 12 : i->op == OP_REDUCE ? 4 : 1;
    w->gpu.lanes += w->times[w->depth] * MAX(elements, threads) * each / chip_of(w->t)->lanes;
}

void cost_gpu_count(Walk *w, Ref r)
{
    const Ins *i = ir_at(w->k, r);
    switch (i->op) {
    case OP_COPY: copy(w, i); break;
    case OP_GEMM: gemm(w, i); break;
    case OP_LOAD:
    case OP_GATHER: move(w, i->arg[0], i->type); break;
    case OP_STORE: move(w, i->arg[0], type_of(w->k, i->arg[1])); break;
    case OP_SLICE:
    case OP_JOIN:
    case OP_BITCAST: break;
    default:
        if (op_info[i->op].class != CLASS_LEAF && op_info[i->op].class != CLASS_MEM && i->type.elem != DT_NONE)
            elementwise(w, i);
    }
}

/* ---- the sum ---------------------------------------------------------------------------------------------------- */

/* Registers of a thread, at a guess: all mutable tiles, and what every kernel needs. */
static double registers_of(const Walk *w)
{
    double bytes = 0;
    for (size_t r = 1; r < w->k->ins.len; r++)
        if (w->k->ins.at[r].op == OP_FRAG)
            bytes += bytes_of(w->k->ins.at[r].type);
    return OWN_REGISTERS + bytes / 4 / (warps_of(w->k) * w->t->gpu->wave);
}

/* On-chip memory of a block: tiles that are copied ahead exist once a stage. */
static double shared_of(const Walk *w)
{
    double bytes = 0;
    for (size_t m = 0; m < w->k->mem.len; m++) {
        const Memory *memory = &w->k->mem.at[m];
        bool ahead = false;
        for (size_t r = 1; r < w->k->ins.len; r++)
            ahead = ahead || (w->k->ins.at[r].op == OP_COPY && cost_memory(w, w->k->ins.at[r].arg[0]) == memory);
        if (memory->space == SPACE_SHARED)
            bytes += (double)memory_bytes(memory, w->in->sizes) * (ahead ? MAX(w->gpu.stages, 1) : 1);
    }
    return bytes;
}

static double resident_blocks(const Walk *w, double registers)
{
    const char *limit;
    KernelInfo info = {.threads = warps_of(w->k) * w->t->gpu->wave, .shared = (int64_t)shared_of(w),
                       .registers = (int)MIN(registers, MOST_REGISTERS)};
    return MAX(gpu_occupancy(w->t, &info, &limit), 1);
}

/* Seconds of bytes from memory and from the second cache; what all blocks read anew is the argument at least. */
static double move_seconds(const Walk *w, const Chip *c, double blocks)
{
    double memory = 0, near = w->gpu.near * blocks / w->gpu.blocks;
    for (size_t m = 0; m < w->k->mem.len; m++) {
        const Memory *a = &w->k->mem.at[m];
        if (a->space != SPACE_GLOBAL || a->index >= COST_ARGS)
            continue;
        double bytes = w->gpu.cold[a->index] * blocks / w->gpu.blocks;
        double once = MIN(bytes, (double)memory_bytes(a, w->in->sizes));
        memory += once;
        near += bytes - once;
    }
    return MAX(memory / c->memory, (memory + near) / (near_rate * c->memory));
}

/* Seconds of a multiprocessor that holds so many blocks, from their beginning to their end. */
static double wave_seconds(const Walk *w, const Chip *c, double resident)
{
    const GpuCounts *g = &w->gpu;
    double most = MAX(MAX(g->matrix, g->lanes), g->shared), busy = most + overlap * (g->matrix + g->lanes + g->shared - most);
    double turns = g->turns / g->blocks, alone = MAX(partitions / warps_of(w->k), 1);
    busy /= g->blocks * c->clock;
    double work = busy * alone + turns * barrier / c->clock;
    double arriving = g->stages > 1 ? MAX(turns * latency / (g->stages - 1) - work, 0) : turns * latency;
    return MAX(2 * latency + work + arriving, resident * busy);
}

double cost_gpu_seconds(const Walk *w, double blocks)
{
    const Chip *c = chip_of(w->t);
    double registers = registers_of(w), resident = resident_blocks(w, registers);
    double waves = floor(blocks / (resident * c->processors)), rest = blocks - waves * resident * c->processors;
    double seconds = waves * wave_seconds(w, c, resident);
    if (rest > 0)
        seconds += wave_seconds(w, c, ceil(rest / c->processors));
    double spilled = MAX(registers - MOST_REGISTERS, 0) / MOST_REGISTERS;
    return launch + MAX(seconds, move_seconds(w, c, blocks)) * (1 + spill_cost * spilled);
}
