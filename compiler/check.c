/* check.c - the verifier of tile IR. One walk over the instructions in program order, with the open regions on a stack,
 * refuses everything that lowering could not translate or that would read what nobody wrote. Messages name the line of
 * the schedule, the operation, and what to do. */
#include "ir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Region { /* an open loop or conditional */
    Ref open;           /* its LOOP or WHEN, or ELSE once that was seen */
    bool is_loop, has_else;
    bool runs;          /* a loop that runs at least once */
} Region;

typedef struct Check {
    const Kernel *k;
    Err *err;
    Ref *home;     /* the region in which each value was made, by opener; 0 at the top level */
    bool *is_open; /* regions, by opener */
    bool *host;    /* values made of constants and sizes only */
    int *slot;     /* of a frag, index in `ready` */
    int frags;
    uint8_t *ready; /* frags that are set on every path to this point */
    uint8_t *before[MAX_DEPTH], *then[MAX_DEPTH]; /* `ready` at the start of a region, and after its first branch */
    bool *stored;   /* memories that some instruction writes */
    Region region[MAX_DEPTH];
    int depth;
    Ref first_control;
} Check;

bool ir_error(const Kernel *k, Ref at, Err *err, const char *format, ...)
{
    char text[1024], where[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    const Ins *i = ir_at(k, at);
    if (i->loc.file)
        snprintf(where, sizeof where, "%s:%d", i->loc.file, i->loc.line);
    else
        snprintf(where, sizeof where, "kernel \"%s\", %%%d", k->name, at);
    return at ? err_set(err, "%s: '%s': %s", where, op_info[i->op].text, text)
              : err_set(err, "kernel \"%s\": %s", k->name, text);
}

#define BAD(c, r, ...) ir_error((c)->k, r, (c)->err, __VA_ARGS__)

static const Memory *memory_of(const Kernel *k, const Ins *view)
{
    return &k->mem.at[ir_at(k, view->arg[0])->integer];
}

/* ---- operands and types ------------------------------------------------------------------------------------------ */

static bool check_operands(Check *c, Ref r)
{
    const Ins *i = ir_at(c->k, r);
    for (int n = 0; n < i->nargs; n++) {
        Ref arg = i->arg[n];
        if (arg <= 0 || arg >= r)
            return BAD(c, r, "operand %d is not defined before it is used", n + 1);
        Ref home = c->home[arg];
        if (home && !c->is_open[home])
            return BAD(c, r, "operand %d ('%s') was made inside a '%s' that has ended; carry it out in a frag", n + 1,
                       op_info[ir_at(c->k, arg)->op].text, op_info[ir_at(c->k, home)->op].text);
        if (ir_at(c->k, arg)->op == OP_FRAG && !(i->op == OP_SET && n == 0) && !c->ready[c->slot[arg]])
            return BAD(c, r, "reads a frag that is not set on every path to here; set it first (to 0 for a sum)");
    }
    return true;
}

static bool is_arithmetic(DType t)
{
    return t == DT_F32 || t == DT_F64 || (is_integer(t) && dtype_bits(t) >= 8 && t != DT_BOOL);
}

/* May this operation work on elements of this type? */
static bool accepts(Op op, DType t)
{
    bool is_int = is_integer(t) && is_arithmetic(t);
    switch (op) {
    case OP_EXP: case OP_LOG: case OP_SIN: case OP_COS: case OP_TANH:
        return t == DT_F32;
    case OP_SQRT: case OP_RINT: case OP_FLOOR: case OP_FMA:
        return t == DT_F32 || t == DT_F64;
    case OP_NEG: case OP_ABS:
        return is_arithmetic(t) && dtype_is_signed(t);
    case OP_NOT: case OP_AND: case OP_OR: case OP_XOR:
        return is_int || t == DT_PRED;
    case OP_REM: case OP_SHL: case OP_SHR:
        return is_int;
    case OP_EQ: case OP_NE:
        return is_arithmetic(t) || t == DT_PRED || t == DT_BOOL;
    case OP_ADD: case OP_SUB: case OP_MUL: case OP_DIV: case OP_MIN: case OP_MAX: case OP_LT: case OP_LE: case OP_GT:
    case OP_GE: case OP_REDUCE: case OP_ATOMIC_ADD:
        return is_arithmetic(t);
    default:
        return true;
    }
}

static bool same_type(Type a, Type b)
{
    return a.elem == b.elem && a.rows == b.rows && a.cols == b.cols;
}

/* A tile in registers: on CPUs whole vectors of 16 columns, or one short one; 4-bit elements exist in memory only. */
static bool check_tile(Check *c, Ref r, Type t)
{
    if (t.cols > 16 && t.cols % 16 && !c->k->warps[0])
        return BAD(c, r, "a tile of %d columns; use a multiple of 16, or fewer than 16", t.cols);
    bool moves_only = ir_at(c->k, r)->op == OP_COPY && c->k->warps[0];
    if (t.elem != DT_NONE && t.elem != DT_PRED && dtype_bits(t.elem) < 8 && !moves_only)
        return BAD(c, r, "%s exists in memory only, for gemm; declare the memory as u8 and take it apart",
                   dtype_name(t.elem));
    return true;
}

static bool check_types(Check *c, Ref r)
{
    const Ins *i = ir_at(c->k, r);
    Ins again = *i;
    if (!ir_infer(c->k, &again, c->err))
        return i->loc.file ? err_prefix(c->err, "%s:%d", i->loc.file, i->loc.line) : false;
    if (!same_type(again.type, i->type))
        return BAD(c, r, "its type is not what its operands give");
    if (i->op == OP_VIEW || op_info[i->op].class == CLASS_LEAF)
        return true;
    DType elem = i->nargs ? type_of(c->k, i->arg[i->op == OP_ATOMIC_ADD]).elem : DT_NONE;
    if (elem != DT_NONE && !accepts(i->op, elem))
        return BAD(c, r, "not for %s; cast first", dtype_name(elem));
    if (i->op == OP_CAST && i->type.elem == DT_PRED)
        return BAD(c, r, "a predicate comes from a comparison; compare with 0");
    if (i->op == OP_ATOMIC_ADD && !is_scalar(type_of(c->k, i->arg[0])))
        return BAD(c, r, "adds one element; use a 1x1 view");
    bool copies = i->op == OP_COPY || i->op == OP_STORE || i->op == OP_SCATTER;
    return check_tile(c, r, copies ? type_of(c->k, i->arg[0]) : i->type);
}

static bool fits_in(DType t, int64_t v)
{
    int bits = t == DT_PRED ? 1 : dtype_bits(t);
    if (bits >= 64)
        return true;
    return dtype_is_signed(t) ? v >= -((int64_t)1 << (bits - 1)) && v < (int64_t)1 << (bits - 1)
                              : v >= 0 && v < (int64_t)1 << bits;
}

static bool check_leaf(Check *c, Ref r)
{
    const Ins *i = ir_at(c->k, r);
    Type t = i->type;
    bool scalar_s64 = t.elem == DT_S64 && is_scalar(t);
    if (i->op != OP_MEMORY && (t.elem == DT_NONE || t.rows < 1 || t.cols < 1))
        return BAD(c, r, "has no type");
    switch (i->op) {
    case OP_CONST:
        if (!is_scalar(t) || (!dtype_is_float(t.elem) && !fits_in(t.elem, i->integer)))
            return BAD(c, r, "%lld does not fit %s", (long long)i->integer, dtype_name(t.elem));
        return true;
    case OP_SIZE:
        return (scalar_s64 && i->integer >= 0 && i->integer < SIZE_COUNT) || BAD(c, r, "no such run-time size");
    case OP_BLOCK:
        return (scalar_s64 && i->integer >= 0 && i->integer < c->k->grid_rank) ||
               BAD(c, r, "dimension %lld of a grid that has %d; set the grid first", (long long)i->integer,
                   c->k->grid_rank);
    case OP_ROW:
        return (t.elem == DT_S32 && t.cols == 1) || BAD(c, r, "is a column of s32, [R,1]");
    case OP_COL:
        return (t.elem == DT_S32 && t.rows == 1) || BAD(c, r, "is a row of s32, [1,C]");
    default:
        return true;
    }
}

/* ---- memory and gemm --------------------------------------------------------------------------------------------- */

static bool check_extents(Check *c, Ref r, const Memory *m)
{
    int64_t elements = 1;
    if (m->rank < 1 || m->rank > MAX_RANK)
        return BAD(c, r, "'%s' has %d dimensions; 1 to %d exist", m->name, m->rank, MAX_RANK);
    for (int d = 0; d < m->rank; d++) {
        Dim dim = m->dim[d];
        if (dim.n < 1 || dim.size >= SIZE_COUNT || __builtin_mul_overflow(elements, dim.n, &elements) ||
            elements > (int64_t)1 << 46)
            return BAD(c, r, "extent %d of '%s' is not 1 or more, or the whole is beyond any memory", d + 1, m->name);
        if (m->space == SPACE_SHARED && dim.size >= 0)
            return BAD(c, r, "extent %d of the shared tile '%s' is a run-time size; it must be a number", d + 1,
                       m->name);
    }
    return true;
}

static bool check_memory(Check *c, Ref r)
{
    const Ins *i = ir_at(c->k, r);
    const Memory *m = &c->k->mem.at[i->integer];
    if (c->first_control)
        return BAD(c, r, "'%s' is declared after the first loop or condition; declare memory at the top", m->name);
    if (m->elem == DT_NONE || m->elem == DT_PRED || m->elem != i->type.elem)
        return BAD(c, r, "'%s' has elements of no storable type", m->name);
    if (!check_extents(c, r, m))
        return false;
    Dim last = m->dim[m->rank - 1];
    if (m->layout == LAYOUT_ROWS)
        return m->pitch == 0 || (last.size < 0 && m->pitch >= last.n && m->pitch < (int64_t)1 << 40) ||
               BAD(c, r, "the pitch of '%s' must be at least the last extent, a number", m->name);
    if (m->rank < 2 || m->pitch || last.size >= 0 || m->dim[m->rank - 2].size >= 0)
        return BAD(c, r, "the panel '%s' needs two last extents that are numbers, and no pitch", m->name);
    return (m->unit >= 1 && m->unit <= MAX_UNIT && (m->unit & (m->unit - 1)) == 0) ||
           BAD(c, r, "unit %d of the panel '%s'; powers of two up to %d exist", m->unit, m->name, MAX_UNIT);
}

/* The products that targets have instructions for, and how many elements of K lie side by side in B. */
static const struct {
    DType a, b, acc;
    int unit;
    bool pairs; /* order of nibbles, see Memory */
} products[] = {
    {DT_F32, DT_F32, DT_F32, 1},   {DT_F32, DT_F16, DT_F32, 2},      {DT_F32, DT_BF16, DT_F32, 2},
    {DT_BF16, DT_BF16, DT_F32, 2}, {DT_BF16, DT_U4, DT_F32, 8, true}, {DT_S8, DT_U4, DT_S32, 8},
    {DT_S8, DT_U8, DT_S32, 4},
};

enum { MAX_GEMM_COLS = 256 };

/* Row of the table, or -1. */
static int find_product(DType a, DType b, DType acc)
{
    for (size_t n = 0; n < COUNT(products); n++)
        if (products[n].a == a && products[n].b == b && products[n].acc == acc)
            return (int)n;
    return -1;
}

/* What CPUs need besides: whole panels of 32-bit units, and no masks. */
static bool check_host_gemm(Check *c, Ref r, int unit)
{
    const Kernel *k = c->k;
    const Ins *i = ir_at(k, r), *a = ir_at(k, i->arg[1]), *b = ir_at(k, i->arg[2]);
    const Memory *ma = memory_of(k, a), *mb = memory_of(k, b);
    if (mb->layout != LAYOUT_PANEL || mb->unit != unit || (b->a & VIEW_TRANSPOSED))
        return BAD(c, r, "B ('%s') must be a panel of unit %d, not transposed", mb->name, unit);
    if (b->type.cols % PANEL_COLS || b->type.cols > MAX_GEMM_COLS)
        return BAD(c, r, "%d columns of B; use a multiple of %d up to %d", b->type.cols, PANEL_COLS, MAX_GEMM_COLS);
    int over_rows, over_cols;
    if (view_needs_mask(k, a, &over_rows, &over_cols) || view_needs_mask(k, b, &over_rows, &over_cols))
        return BAD(c, r, "its tiles of '%s' and '%s' may pass their ends, which gemm does not mask; cut the %s to fit, "
                   "or give the view `inside` where the memory has room", ma->name, mb->name,
                   over_rows ? "rows" : "columns");
    int step = MIN(b->type.cols, mb->wide);
    if (MAX(b->type.cols, mb->wide) % step || ir_divisor(k, b->arg[mb->rank]) % step)
        return BAD(c, r, "%d columns of B from a column not known to be a multiple of %d straddle its panels of %d",
                   b->type.cols, step, mb->wide);
    return true;
}

static bool check_gemm(Check *c, Ref r)
{
    const Kernel *k = c->k;
    const Ins *i = ir_at(k, r), *a = ir_at(k, i->arg[1]), *b = ir_at(k, i->arg[2]);
    const Memory *ma = a->op == OP_VIEW ? memory_of(k, a) : NULL, *mb = memory_of(k, b);
    DType acc = type_of(k, i->arg[0]).elem;
    int product = find_product(a->type.elem, mb->elem, acc), unit = product < 0 ? 0 : products[product].unit;
    if (!unit)
        return BAD(c, r, "no product of %s and %s into %s; see the table in check.c", dtype_name(a->type.elem),
                   dtype_name(mb->elem), dtype_name(acc));
    if (ma && (ma->layout != LAYOUT_ROWS || (a->a & VIEW_TRANSPOSED)))
        return BAD(c, r, "A ('%s') must be rows, not a panel and not transposed", ma->name);
    if (!k->warps[0] && !check_host_gemm(c, r, unit))
        return false;
    if (mb->pairs != products[product].pairs)
        return BAD(c, r, "the nibbles of B ('%s') must lie %s", mb->name, mb->pairs ? "for byte dots" : "in pairs");
    if (i->nargs == 4 && memory_of(k, ir_at(k, i->arg[3])) != mb)
        return BAD(c, r, "what is prefetched must be a view of '%s' too", mb->name);
    if (mb->layout != LAYOUT_PANEL)
        return true;
    if (mb->unit % unit)
        return BAD(c, r, "B ('%s') must be a panel whose unit is a multiple of %d", mb->name, unit);
    if (a->type.cols % unit)
        return BAD(c, r, "K is %d, not a multiple of the panel's unit %d", a->type.cols, unit);
    return ir_divisor(k, b->arg[mb->rank - 1]) % unit == 0 ||
           BAD(c, r, "the first K of B is not known to be a multiple of the panel's unit %d", unit);
}

/* Rows of a run-time length have no constant distance, which tiles of several rows need. */
static bool check_view(Check *c, Ref r)
{
    const Ins *i = ir_at(c->k, r);
    const Memory *m = memory_of(c->k, i);
    int across = i->a & VIEW_TRANSPOSED ? i->type.cols : i->type.rows;
    return m->layout != LAYOUT_ROWS || m->dim[m->rank - 1].size < 0 || across == 1 ||
           BAD(c, r, "%d rows of '%s', whose rows have a run-time length; take one row at a time", across, m->name);
}

/* Reads of shared tiles need a writer somewhere; the order of loads and stores inside loops is the schedule's. */
static bool check_reads(Check *c, Ref r)
{
    const Ins *i = ir_at(c->k, r);
    int from = i->op == OP_COPY || i->op == OP_GEMM ? 1 : 0, to = i->op == OP_GEMM ? 2 : from;
    if (i->op != OP_LOAD && i->op != OP_GATHER && i->op != OP_COPY && i->op != OP_GEMM)
        return true;
    for (int n = from; n <= to; n++) {
        const Ins *view = ir_at(c->k, i->arg[n]);
        if (view->op != OP_VIEW)
            continue;
        const Memory *m = memory_of(c->k, view);
        if (m->space == SPACE_SHARED && !c->stored[ir_at(c->k, view->arg[0])->integer])
            return BAD(c, r, "reads the shared tile '%s', which nothing stores to", m->name);
    }
    return true;
}

/* ---- regions ----------------------------------------------------------------------------------------------------- */

static bool open_region(Check *c, Ref r)
{
    const Ins *i = ir_at(c->k, r);
    if (c->depth == MAX_DEPTH)
        return BAD(c, r, "more than %d regions inside each other", MAX_DEPTH);
    Region *g = &c->region[c->depth];
    *g = (Region){.open = r, .is_loop = i->op == OP_LOOP};
    memcpy(c->before[c->depth++], c->ready, (size_t)c->frags);
    int64_t lo, hi;
    g->runs = g->is_loop && ir_const_value(c->k, i->arg[0], &lo) && ir_const_value(c->k, i->arg[1], &hi) && lo < hi;
    c->is_open[r] = true;
    if (g->is_loop)
        c->home[r] = r;
    return true;
}

static bool turn_region(Check *c, Ref r)
{
    Region *g = c->depth ? &c->region[c->depth - 1] : NULL;
    if (!g || g->is_loop || g->has_else)
        return BAD(c, r, "stands outside a 'when', or a second time in it");
    g->has_else = true;
    memcpy(c->then[c->depth - 1], c->ready, (size_t)c->frags);
    memcpy(c->ready, c->before[c->depth - 1], (size_t)c->frags);
    c->is_open[g->open] = false;
    c->is_open[r] = true;
    g->open = r;
    return true;
}

/* After a loop that may not run, and after a lone branch, only what was set before counts. */
static bool close_region(Check *c, Ref r)
{
    if (!c->depth)
        return BAD(c, r, "closes nothing");
    Region *g = &c->region[--c->depth];
    const uint8_t *before = c->before[c->depth], *then = c->then[c->depth];
    for (int n = 0; n < c->frags; n++)
        c->ready[n] = before[n] || (c->ready[n] && (g->is_loop ? g->runs : g->has_else && then[n]));
    c->is_open[g->open] = false;
    return true;
}

static bool check_control(Check *c, Ref r)
{
    if (!c->first_control)
        c->first_control = r;
    const Ins *i = ir_at(c->k, r);
    if (i->op == OP_LOOP && i->a == LOOP_PIPELINED && (i->b < 1 || i->b > 64))
        return BAD(c, r, "%d stages; 1 to 64 exist", i->b);
    return i->op == OP_ELSE ? turn_region(c, r) : i->op == OP_END ? close_region(c, r) : open_region(c, r);
}

/* ---- the grid ---------------------------------------------------------------------------------------------------- */

/* Values that can be computed before any block runs: constants, sizes, and integer arithmetic on them. */
static bool is_host(const Check *c, const Ins *i)
{
    bool pure = i->op == OP_CONST || i->op == OP_SIZE || i->op == OP_CAST || i->op == OP_SELECT ||
                op_info[i->op].class == CLASS_BIN || op_info[i->op].class == CLASS_CMP;
    for (int n = 0; n < i->nargs; n++)
        pure = pure && c->host[i->arg[n]];
    return pure && is_scalar(i->type);
}

static bool check_grid(Check *c)
{
    const Kernel *k = c->k;
    Ref last = 0;
    if (k->grid_rank < 1 || k->grid_rank > MAX_GRID)
        return BAD(c, 0, "the grid is not set; give 1 to %d extents", MAX_GRID);
    for (int d = 0; d < k->grid_rank; d++) {
        Ref g = k->grid[d];
        if (g <= 0 || g >= (Ref)k->ins.len || !c->host[g] || type_of(k, g).elem != DT_S64)
            return BAD(c, 0, "extent %d of the grid must be an s64 scalar made of constants and sizes", d + 1);
        last = MAX(last, g);
    }
    for (Ref r = 1; r < last; r++)
        if (!c->host[r] && (op_info[ir_at(k, r)->op].class != CLASS_LEAF || ir_at(k, r)->op == OP_BLOCK))
            return BAD(c, r, "stands before the grid is set; set the grid first");
    return true;
}

/* ---- the walk ---------------------------------------------------------------------------------------------------- */

static bool check_instruction(Check *c, Ref r)
{
    const Ins *i = ir_at(c->k, r);
    if (i->op <= OP_NONE || i->op >= OP_COUNT)
        return err_set(c->err, "kernel \"%s\": instruction %d has no operation", c->k->name, r);
    c->home[r] = c->depth ? c->region[c->depth - 1].open : 0;
    if (!check_operands(c, r) || !check_types(c, r))
        return false;
    c->host[r] = is_host(c, i);
    switch (i->op) {
    case OP_MEMORY: return check_memory(c, r);
    case OP_VIEW: return check_view(c, r);
    case OP_FRAG: c->ready[c->slot[r]] = 0; break;
    case OP_SET: c->ready[c->slot[i->arg[0]]] = 1; break;
    case OP_GEMM: return check_reads(c, r) && check_gemm(c, r);
    default: break;
    }
    if (op_info[i->op].class == CLASS_CTRL)
        return check_control(c, r);
    if (op_info[i->op].class != CLASS_LEAF)
        return check_reads(c, r);
    return check_leaf(c, r) && (i->op == OP_MEMORY || check_tile(c, r, i->type));
}

/* Numbers the frags and finds the memories that are written, before the walk. */
static void survey(Check *c)
{
    const Kernel *k = c->k;
    for (Ref r = 1; r < (Ref)k->ins.len; r++) {
        const Ins *i = ir_at(k, r);
        if (i->op == OP_FRAG)
            c->slot[r] = c->frags++;
        bool writes = i->op == OP_STORE || i->op == OP_SCATTER || i->op == OP_COPY;
        if (writes && i->arg[0] > 0 && i->arg[0] < r && ir_at(k, i->arg[0])->op == OP_VIEW)
            c->stored[ir_at(k, ir_at(k, i->arg[0])->arg[0])->integer] = true;
    }
}

static void allocate(Check *c, Arena *a)
{
    size_t n = c->k->ins.len;
    c->home = arena_array(a, Ref, n);
    c->slot = arena_array(a, int, n);
    c->is_open = arena_array(a, bool, n);
    c->host = arena_array(a, bool, n);
    c->stored = arena_array(a, bool, MAX(c->k->mem.len, 1));
    survey(c);
    c->ready = arena_array(a, uint8_t, MAX(c->frags, 1));
    for (int d = 0; d < MAX_DEPTH; d++) {
        c->before[d] = arena_array(a, uint8_t, MAX(c->frags, 1));
        c->then[d] = arena_array(a, uint8_t, MAX(c->frags, 1));
    }
}

static bool walk(Check *c)
{
    for (Ref r = 1; r < (Ref)c->k->ins.len; r++)
        if (!check_instruction(c, r))
            return false;
    if (c->depth)
        return BAD(c, c->region[c->depth - 1].open, "has no 'end'");
    return check_grid(c);
}

bool ir_check(const Kernel *k, Err *err)
{
    if (k->warps[0] * k->warps[1] > MAX_WARPS || (k->warps[0] & (k->warps[0] - 1)) || (k->warps[1] & (k->warps[1] - 1)))
        return err_set(err, "kernel \"%s\": %d x %d warps; powers of two, %d in all at most", k->name, k->warps[0],
                       k->warps[1], MAX_WARPS);
    if (k->ins.len > MAX_INS)
        return err_set(err, "kernel \"%s\": more than %d instructions; unroll less", k->name, MAX_INS - 1);
    Arena *a = arena_new();
    Check c = {.k = k, .err = err};
    allocate(&c, a);
    bool ok = walk(&c);
    arena_free(a);
    return ok && ir_check_writes(k, err);
}
