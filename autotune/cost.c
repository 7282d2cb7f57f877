/* cost.c - the analytic cost of a kernel; see cost.h. */
#include "cost_walk.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A core: cycles and bytes a cycle. */
static const double clock_rate = 4e9, dot_pipes = 2, pipes = 4, loads_a_cycle = 2, issue = 6, dot_latency = 4;
static const double wide_loads = 1, spill_cycles = 2.5, line_overhead = 1; /* 512-bit results of loads; of a tile */
static const double memory_core = 10, memory_all = 16, second_cache = 32; /* bytes a cycle; memory_all: of all cores */
static const double second_cache_bytes = 1 << 20, strided = 0.12;
static const double launch_seconds = 2e-6, block_cycles = 150;

enum { SAMPLES = 5 /* blocks looked at along each dimension of the grid */, UNKNOWN_TRIPS = 8 };

/* ---- integer scalars -------------------------------------------------------------------------------------------- */

static int64_t fold(Op op, int64_t x, int64_t y, int64_t z)
{
    switch (op) {
    case OP_ADD: return x + y;
    case OP_SUB: return x - y;
    case OP_MUL: return x * y;
    case OP_DIV: return y > 0 ? x / y : 0;
    case OP_REM: return y > 0 ? x % y : 0;
    case OP_MIN: return MIN(x, y);
    case OP_MAX: return MAX(x, y);
    case OP_AND: return x & y;
    case OP_OR: return x | y;
    case OP_LT: return x < y;
    case OP_LE: return x <= y;
    case OP_GT: return x > y;
    case OP_GE: return x >= y;
    case OP_EQ: return x == y;
    case OP_NE: return x != y;
    case OP_SELECT: return x ? y : z;
    default: return x; /* CAST */
    }
}

static bool folds(Op op)
{
    return op == OP_CAST || op == OP_SELECT || op_info[op].class == CLASS_CMP ||
           (op_info[op].class == CLASS_BIN && op != OP_XOR && op != OP_SHL && op != OP_SHR);
}

const Memory *cost_memory(const Walk *w, Ref view)
{
    return &w->k->mem.at[ir_at(w->k, ir_at(w->k, view)->arg[0])->integer];
}

/* The value of an integer scalar where it follows from sizes, block and loop indices. */
static void evaluate(Walk *w, Ref r)
{
    const Ins *i = ir_at(w->k, r);
    for (int n = 0; n < i->nargs; n++)
        w->depends[r] |= w->depends[i->arg[n]];
    if (!is_scalar(i->type) || (!is_integer(i->type.elem) && i->type.elem != DT_PRED))
        return;
    int64_t x[3] = {0};
    bool all = true;
    for (int n = 0; n < i->nargs && n < 3; n++) {
        x[n] = w->value[i->arg[n]];
        all = all && w->known[i->arg[n]];
    }
    w->known[r] = true;
    if (i->op == OP_CONST)
        w->value[r] = i->integer;
    else if (i->op == OP_SIZE)
        w->value[r] = w->in->sizes[i->integer];
    else if (i->op == OP_LOAD && cost_memory(w, i->arg[0])->space == SPACE_GLOBAL)
        w->value[r] = w->in->typical[cost_memory(w, i->arg[0])->index % COST_ARGS];
    else if (all && folds(i->op))
        w->value[r] = fold(i->op, x[0], x[1], x[2]);
    else if (i->op != OP_BLOCK && i->op != OP_LOOP)
        w->known[r] = false;
}

/* ---- cycles ----------------------------------------------------------------------------------------------------- */

static double vectors_of(const Walk *w, Type t)
{
    int bits = MAX(dtype_bits(t.elem), 8);
    return t.rows * ceil((double)t.cols * bits / w->t->vector_bits);
}

static double operation(const Ins *i)
{
    switch (i->op) {
    case OP_EXP: return 19;
    case OP_LOG: return 25;
    case OP_SIN:
    case OP_COS: return 40;
    case OP_TANH: return 30;
    case OP_DIV: return dtype_is_float(i->type.elem) ? 8 : 1;
    case OP_SQRT: return 8;
    case OP_CAST: return 2;
    case OP_TRANSPOSE: return 4;
    case OP_REDUCE: return 8;
    case OP_SLICE:
    case OP_JOIN:
    case OP_BITCAST: return 0;
    default: return 1;
    }
}

/* Operations of a dot product of 32 bits a lane; more where it is made of several instructions. */
static double dot_operations(const Walk *w, DType a)
{
    if (a == DT_S8)
        return w->t->vnni ? 1 : 9;
    return a == DT_BF16 && !w->t->bf16_dot ? 4 : 1;
}

/* Cycles of a register tile: lines of K, each loading B column blocks, unpacked into `parts`, times R broadcasts. */
static double gemm_cycles(const Walk *w, const Ins *i)
{
    const Ins *a = ir_at(w->k, i->arg[1]), *b = ir_at(w->k, i->arg[2]);
    const Memory *mb = cost_memory(w, i->arg[2]);
    double wide = 512.0 / w->t->vector_bits, rows = a->type.rows, blocks = b->type.cols / PANEL_COLS * wide;
    double lines = (double)a->type.cols / mb->unit, per = a->type.elem == DT_S8 ? 4 : a->type.elem == DT_BF16 ? 2 : 1;
    double parts = MAX(mb->unit / per, 1), unroll = MAX(i->a, 1);
    double dots = rows * blocks * parts * dot_operations(w, a->type.elem);
    double unpack = parts > 1 ? 1.5 * blocks * parts : 0;
    double live = rows * blocks + blocks * (parts > 1 ? 2 : 1) + 1, spilled = MAX(0, live - w->t->vector_registers);
    double loads = blocks + rows * parts + (i->nargs == 4 ? i->b : 0);
    double line = MAX(dots / dot_pipes, (dots + unpack) / pipes);
    line = MAX(line, loads / (w->t->vector_bits == 512 ? wide_loads : loads_a_cycle));
    line = MAX(line, (dots + unpack + loads + 2 / unroll) / issue);
    line = MAX(line, dot_latency * parts) + spilled * parts * spill_cycles + line_overhead / unroll;
    double sums = 2 * rows * blocks; /* cleared, added to what was there */
    return lines * line + sums / dot_pipes;
}

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

static double view_bytes(const Ins *view)
{
    return (double)view->type.rows * view->type.cols * dtype_bits(view->type.elem) / 8;
}

/* Times that an instruction here runs in a block, and how often it meets other data because its view moves. */
static void touch(Walk *w, Ref view, double bytes, double prefetched)
{
    const Memory *m = cost_memory(w, view);
    if (m->space != SPACE_GLOBAL || m->index >= COST_ARGS || !w->in->cold[m->index])
        return;
    Touch *t = &w->touch[m->index];
    double distinct = 1;
    for (int d = 1; d <= w->depth; d++)
        if (w->depends[view] >> d & 1)
            distinct *= w->trips[d];
    if (m->layout == LAYOUT_PANEL) /* a part of a panel's columns is a stream with gaps */
        bytes *= 1 + strided * MAX((double)m->wide / ir_at(w->k, view)->type.cols - 1, 0);
    t->distinct = MAX(t->distinct, distinct * bytes);
    t->total += w->times[w->depth] * bytes;
    t->prefetched += w->times[w->depth] * prefetched;
    t->argument = (double)memory_bytes(m, w->in->sizes);
}

/* ---- the walk --------------------------------------------------------------------------------------------------- */

static void enter(Walk *w, double trips)
{
    w->depth++;
    w->stages[w->depth] = w->stages[w->depth - 1];
    w->copies[w->depth] = false;
    w->trips[w->depth] = trips;
    w->times[w->depth] = w->times[w->depth - 1] * trips;
}

static void enter_loop(Walk *w, Ref r)
{
    const Ins *i = ir_at(w->k, r);
    Ref lo = i->arg[0], hi = i->arg[1];
    double trips = UNKNOWN_TRIPS;
    if (w->known[lo] && w->known[hi])
        trips = w->value[hi] > w->value[lo] ? ceil((double)(w->value[hi] - w->value[lo]) / (double)i->integer) : 0;
    enter(w, trips);
    w->stages[w->depth] = MAX(i->b, 1);
    w->depends[r] |= (uint64_t)1 << w->depth;
    w->known[r] = w->known[lo];
    w->value[r] = w->value[lo] + (int64_t)(trips / 2) * i->integer;
}

static void count(Walk *w, Ref r)
{
    const Ins *i = ir_at(w->k, r);
    double times = w->times[w->depth];
    Type moved = i->op == OP_STORE || i->op == OP_SET ? type_of(w->k, i->arg[1]) : i->type;
    switch (i->op) {
    case OP_GEMM:
        w->cycles += times * gemm_cycles(w, i);
        touch(w, i->arg[2], view_bytes(ir_at(w->k, i->arg[2])),
              i->nargs == 4 ? 64.0 * i->b * ir_at(w->k, i->arg[1])->type.cols / cost_memory(w, i->arg[2])->unit : 0);
        break;
    case OP_LOAD:
        touch(w, i->arg[0], view_bytes(ir_at(w->k, i->arg[0])), 0);
        /* fall through */
    case OP_STORE:
    case OP_GATHER:
    case OP_SCATTER: w->cycles += times * vectors_of(w, moved) / loads_a_cycle; break;
    case OP_SET: w->cycles += times * vectors_of(w, moved) / pipes; break;
    default:
        if (op_info[i->op].class != CLASS_LEAF && op_info[i->op].class != CLASS_MEM && i->type.elem != DT_NONE)
            w->cycles += times * operation(i) * (is_scalar(i->type) ? 0.5 : vectors_of(w, i->type)) / dot_pipes;
    }
}

static void walk_block(Walk *w, const int64_t *block)
{
    w->depth = 0;
    w->cycles = block_cycles;
    w->times[0] = 1;
    w->stages[0] = 1;
    w->copies[0] = false;
    memset(w->touch, 0, sizeof w->touch);
    memset(w->depends, 0, w->k->ins.len * sizeof *w->depends);
    for (Ref r = 1; r < (Ref)w->k->ins.len; r++) {
        const Ins *i = ir_at(w->k, r);
        evaluate(w, r);
        if (i->op == OP_BLOCK)
            w->value[r] = block[i->integer];
        else if (i->op == OP_LOOP)
            enter_loop(w, r);
        else if (i->op == OP_WHEN)
            enter(w, w->known[i->arg[0]] ? w->value[i->arg[0]] != 0 : 0.5);
        else if (i->op == OP_END)
            w->depth--;
        else if (i->op != OP_ELSE && w->t->gpu)
            cost_gpu_count(w, r);
        else if (i->op != OP_ELSE)
            count(w, r);
    }
}

/* Cycles of the block just walked, one of `blocks`: what they all read anew is at most the argument. */
static double block_time(const Walk *w, double blocks)
{
    double distinct = 0, total = 0, prefetched = 0, threads = w->in->threads;
    for (int i = 0; i < COST_ARGS; i++) {
        const Touch *t = &w->touch[i];
        distinct += MIN(t->distinct, t->argument / blocks);
        total += t->total;
        prefetched += t->prefetched;
    }
    if (total <= 0)
        return w->cycles;
    double memory = distinct / MIN(memory_core, memory_all / threads), nearby = (total - distinct) / second_cache;
    if (distinct > second_cache_bytes)
        memory = total / MIN(memory_core, memory_all / threads), nearby = 0;
    double compute = MAX(w->cycles, nearby), first = MIN(1, distinct / total), hidden = MIN(1, prefetched / distinct);
    double exposed = MAX(compute * first, memory) + compute * (1 - first);
    return hidden * MAX(compute, memory) + (1 - hidden) * exposed;
}

/* Average over blocks spread over the grid. */
static double average(Walk *w, const int64_t *grid, double blocks)
{
    int64_t n[MAX_GRID] = {1, 1, 1};
    double sum = 0;
    for (int d = 0; d < w->k->grid_rank; d++)
        n[d] = MIN(grid[d], SAMPLES);
    for (int64_t s = 0; s < n[0] * n[1] * n[2]; s++) {
        int64_t at[MAX_GRID] = {s / (n[1] * n[2]), s / n[2] % n[1], s % n[2]}, block[MAX_GRID] = {0};
        for (int d = 0; d < w->k->grid_rank; d++)
            block[d] = n[d] > 1 ? at[d] * (grid[d] - 1) / (n[d] - 1) : 0;
        walk_block(w, block);
        w->gpu.blocks++;
        sum += block_time(w, blocks);
    }
    return sum / (double)(n[0] * n[1] * n[2]);
}

/* Extents of the grid: evaluated like any scalar, before a block is known. */
static double grid_extents(Walk *w, int64_t *grid)
{
    double blocks = 1;
    for (Ref r = 1; r < (Ref)w->k->ins.len; r++)
        evaluate(w, r);
    for (int d = 0; d < w->k->grid_rank; d++) {
        grid[d] = MAX(w->value[w->k->grid[d]], 1);
        blocks *= (double)grid[d];
    }
    return blocks;
}

double cost_seconds(const Kernel *k, const Target *t, const CostInput *in)
{
    Walk w = {.k = k, .t = t, .in = in};
    int64_t grid[MAX_GRID] = {1, 1, 1};
    double threads = MAX(in->threads, 1);
    w.value = xcalloc(k->ins.len, sizeof *w.value);
    w.known = xcalloc(k->ins.len, sizeof *w.known);
    w.depends = xcalloc(k->ins.len, sizeof *w.depends);
    double blocks = grid_extents(&w, grid), block = average(&w, grid, blocks);
    free(w.value);
    free(w.known);
    free(w.depends);
    if (t->gpu)
        return cost_gpu_seconds(&w, blocks);
    double rounds = blocks <= threads ? 1 : blocks / threads + 0.5 * (1 - 1 / threads); /* the last ones are uneven */
    return launch_seconds + rounds * block / clock_rate;
}
