/* writes.c - blocks run in any order and at once, so no two may write the same element of an output. Refuses a store
 * whose coordinates do not depend on every block index of the grid, unless a `when` pins the missing ones to one value:
 *
 *     store y[t, 0]  on the grid (tokens, 4)          refused: the 4 blocks of a token write the same row
 *     when eq(block 1, 0) ... store y[t, 0] ... end   fine: one of them does
 *
 * Dependence is traced through arithmetic, loads, frags and shared tiles, and is enough: that two indices give
 * different places is the schedule's business, and tested by running it. Needs what the rest of ir_check ensures. */
#include "ir.h"

enum { MAX_PASSES = 64 }; /* one for each frag that feeds an earlier one; two or three in practice */

typedef uint8_t Dims; /* a set of grid dimensions */

typedef struct Writes {
    const Kernel *k;
    Dims *on;  /* by Ref: the block indices that a value depends on; of a memory, those its contents depend on */
    bool grew; /* the last pass added to a frag or a shared tile */
} Writes;

typedef struct Control { /* per open region */
    Dims on;     /* block indices that decide whether and how often it runs, outer regions included */
    Dims pinned; /* block indices that have one value only in it, outer regions included */
} Control;

static void add(Writes *w, Ref r, Dims dims)
{
    if (dims & ~w->on[r])
        w->grew = true;
    w->on[r] |= dims;
}

static Dims operands_on(const Writes *w, const Ins *i, int from)
{
    Dims dims = 0;
    for (int n = from; n < i->nargs; n++)
        dims |= w->on[i->arg[n]];
    return dims;
}

/* The block indices that are known when `predicate` holds: those on one side of an equality only. */
static Dims pinned_by(const Writes *w, Ref predicate, int depth)
{
    const Ins *i = ir_at(w->k, predicate);
    if (i->op == OP_AND && depth < 8)
        return pinned_by(w, i->arg[0], depth + 1) | pinned_by(w, i->arg[1], depth + 1);
    return i->op == OP_EQ ? w->on[i->arg[0]] ^ w->on[i->arg[1]] : 0;
}

static Ref base_of(const Kernel *k, Ref view) { return ir_at(k, view)->arg[0]; }

static bool is_write(Op op) { return op == OP_STORE || op == OP_SCATTER || op == OP_COPY; }

static Dims dims_of(Writes *w, Ref r, Dims control)
{
    const Ins *i = ir_at(w->k, r);
    switch (i->op) {
    case OP_BLOCK: return (Dims)(1 << i->integer);
    case OP_MEMORY:
    case OP_FRAG: return w->on[r];
    case OP_VIEW: return operands_on(w, i, 1);
    case OP_LOAD:
    case OP_GATHER: return operands_on(w, i, 0) | w->on[base_of(w->k, i->arg[0])];
    case OP_SET:
    case OP_GEMM: add(w, i->arg[0], operands_on(w, i, 1) | control); return 0;
    default:
        if (is_write(i->op))
            add(w, base_of(w->k, i->arg[0]), operands_on(w, i, 0) | control);
        return operands_on(w, i, 0);
    }
}

/* Follows the regions; `stack` has room for MAX_DEPTH + 1. Returns the depth after the instruction. */
static int step(const Writes *w, Control *stack, int depth, Ref r)
{
    const Ins *i = ir_at(w->k, r);
    Control outer = stack[depth];
    switch (i->op) {
    case OP_LOOP:
        stack[depth + 1] = (Control){outer.on | operands_on(w, i, 0), outer.pinned};
        return depth + 1;
    case OP_WHEN:
        stack[depth + 1] = (Control){outer.on | w->on[i->arg[0]], outer.pinned | pinned_by(w, i->arg[0], 0)};
        return depth + 1;
    case OP_ELSE: stack[depth].pinned = stack[depth - 1].pinned; return depth;
    case OP_END: return depth - 1;
    default: return depth;
    }
}

static void pass(Writes *w)
{
    Control stack[MAX_DEPTH + 1] = {0};
    int depth = 0;
    w->grew = false;
    for (Ref r = 1; r < (Ref)w->k->ins.len; r++) {
        w->on[r] = dims_of(w, r, stack[depth].on);
        depth = step(w, stack, depth, r);
    }
}

/* Dimensions that have more than one block. */
static Dims wide_dims(const Kernel *k)
{
    Dims dims = 0;
    int64_t n;
    for (int d = 0; d < k->grid_rank; d++)
        if (!ir_const_value(k, k->grid[d], &n) || n > 1)
            dims |= (Dims)(1 << d);
    return dims;
}

static bool check_write(const Writes *w, Ref r, Dims wide, Dims pinned, Err *err)
{
    const Ins *i = ir_at(w->k, r), *view = ir_at(w->k, i->arg[0]);
    const Memory *m = &w->k->mem.at[ir_at(w->k, view->arg[0])->integer];
    Dims place = operands_on(w, view, 1) | (i->op == OP_SCATTER ? w->on[i->arg[1]] : 0);
    Dims missing = wide & ~place & ~pinned;
    if (m->space == SPACE_SHARED || !missing)
        return true;
    int d = __builtin_ctz(missing);
    return ir_error(w->k, r, err, "blocks would write the same elements of '%s': the place does not depend on block "
                    "%d; use block %d in the coordinates, or write when block %d is 0 only", m->name, d, d, d);
}

static bool check_writes(Writes *w, Err *err)
{
    w->grew = true;
    for (int n = 0; n < MAX_PASSES && w->grew; n++)
        pass(w);
    Control stack[MAX_DEPTH + 1] = {0};
    Dims wide = wide_dims(w->k);
    int depth = 0;
    for (Ref r = 1; r < (Ref)w->k->ins.len; r++) {
        if (is_write(ir_at(w->k, r)->op) && !check_write(w, r, wide, stack[depth].pinned, err))
            return false;
        depth = step(w, stack, depth, r);
    }
    return true;
}

bool ir_check_writes(const Kernel *k, Err *err)
{
    Arena *a = arena_new();
    Writes w = {.k = k, .on = arena_array(a, Dims, k->ins.len)};
    bool ok = check_writes(&w, err);
    arena_free(a);
    return ok;
}
