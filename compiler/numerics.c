/* numerics.c - the numerics rule: the order of every float sum belongs to the operator, so what a setting could reorder
 * is refused. The rules, each decidable from the IR alone:
 *
 *   1. `reduce add` along columns names the operator's tree; an operator that declares none has no such reduction.
 *   2. `atomic_add` on floats is refused: its order is that of the threads.
 *   3. A frag into which a loop adds tiles along an axis, and that is reduced along it afterwards, is as wide as the
 *      tree (then each lane sums its elements in ascending order, whatever the step). Likewise the tile whose
 *      `reduce add` such a loop adds up: its width must be the tree's or the segment's, else it would be the cut.
 *   4. Two gemm accumulators over one B are not added: that cuts K. A scaled sum (groups, experts) is the operator's.
 *   5. A loop that starts at a block's own place does not carry a float sum: that cuts it by block. An operator with
 *      segments may, since it says how they are combined.
 *
 * Integers sum exactly, so none of this concerns them. A sum is found through add, sub, neg, cast, slice, select and
 * the addend of fma; a schedule that hides it better is caught by the tests that compare settings bit for bit. */
#include "ir.h"

typedef struct Term { /* of a sum: a value, or the product of two */
    Ref a, b;
} Term;

enum { MAX_TERMS = 32, FUEL = 256 /* instructions that one question looks at */ };
enum { AXIS_ROWS = 1, AXIS_COLS = 2 };

typedef struct Sum {
    Term term[MAX_TERMS];
    int count, fuel;
} Sum;

typedef struct Rule {
    const Kernel *k;
    Err *err;
    Ref *end;      /* by LOOP: its END */
    Ref *previous; /* by SET and GEMM: the one of the same frag before it; by FRAG: the last one */
    bool *resets;  /* by SET: the value does not contain the frag's own */
    bool *at_block; /* scalars computed from a block index of several, loads aside */
    bool *active;     /* by FRAG: axes_walked is looking at it */
    uint8_t *carried; /* by FRAG: the axes along which some loop adds tiles to it */
    Ref *product;  /* the B memory whose float gemm a value holds, unscaled; 0 none */
    Ref loop[MAX_DEPTH]; /* open loops, 0 for a WHEN */
    int depth;
} Rule;

static bool is_float_tile(const Kernel *k, Ref r) { return dtype_is_float(type_of(k, r).elem); }

static int reduced_extent(const Kernel *k, const Ins *reduce)
{
    Type t = type_of(k, reduce->arg[0]);
    return reduce->b ? t.cols : t.rows;
}

static bool is_float_sum(const Kernel *k, const Ins *i)
{
    return i->op == OP_REDUCE && i->a == REDUCE_ADD && dtype_is_float(i->type.elem) && reduced_extent(k, i) > 1;
}

/* ---- sums -------------------------------------------------------------------------------------------------------- */

static void add_term(Sum *s, Ref a, Ref b)
{
    if (s->count < MAX_TERMS)
        s->term[s->count++] = (Term){a, b};
}

static void collect(const Kernel *k, Ref r, Sum *s)
{
    if (--s->fuel < 0)
        return;
    const Ins *i = ir_at(k, r);
    switch (i->op) {
    case OP_ADD:
    case OP_SUB: collect(k, i->arg[0], s), collect(k, i->arg[1], s); break;
    case OP_FMA: add_term(s, i->arg[0], i->arg[1]), collect(k, i->arg[2], s); break;
    case OP_SELECT: collect(k, i->arg[1], s), collect(k, i->arg[2], s); break;
    case OP_NEG:
    case OP_CAST:
    case OP_SLICE: collect(k, i->arg[0], s); break;
    case OP_MUL: add_term(s, i->arg[0], i->arg[1]); break;
    default: add_term(s, r, 0);
    }
}

/* The frag behind a value that is only scaled, converted or cut. */
static bool holds(const Kernel *k, Ref r, Ref frag, int fuel)
{
    if (r == frag || !r || !fuel)
        return r == frag;
    const Ins *i = ir_at(k, r);
    switch (i->op) {
    case OP_MUL: return holds(k, i->arg[0], frag, fuel / 2) || holds(k, i->arg[1], frag, fuel / 2);
    case OP_NEG:
    case OP_CAST:
    case OP_SLICE: return holds(k, i->arg[0], frag, fuel - 1);
    default: return false;
    }
}

/* Does `set frag, value` add to the frag's own value? Then *s has what is added, and the frag. */
static bool adds_to_itself(const Kernel *k, Ref frag, Ref value, Sum *s)
{
    *s = (Sum){.fuel = FUEL};
    collect(k, value, s);
    for (int n = 0; n < s->count && s->count > 1; n++)
        if (holds(k, s->term[n].a, frag, FUEL) || holds(k, s->term[n].b, frag, FUEL))
            return true;
    return false;
}

static bool reads(const Kernel *k, Ref r, Ref frag, int *fuel)
{
    if (r == frag || --*fuel < 0)
        return r == frag;
    const Ins *i = ir_at(k, r);
    for (int n = 0; n < i->nargs; n++)
        if (reads(k, i->arg[n], frag, fuel))
            return true;
    return false;
}

/* ---- loops ------------------------------------------------------------------------------------------------------- */

static void track_regions(Rule *u, Ref r)
{
    const Ins *i = ir_at(u->k, r);
    if (i->op == OP_LOOP || i->op == OP_WHEN)
        u->loop[u->depth++] = i->op == OP_LOOP ? r : 0;
    else if (i->op == OP_END && u->loop[--u->depth])
        u->end[u->loop[u->depth]] = r;
}

/* Does the frag keep its value from one turn of the loop to the next? */
static bool carries(const Rule *u, Ref frag, Ref loop)
{
    if (frag > loop)
        return false;
    for (Ref set = u->previous[frag]; set > loop; set = u->previous[set])
        if (set < u->end[loop] && u->resets[set])
            return false;
    return true;
}

/* The innermost open loop if it carries the frag, else 0. Outer loops carry only what inner ones do. */
static Ref carrier(const Rule *u, Ref frag)
{
    for (int d = u->depth - 1; d >= 0; d--)
        if (u->loop[d])
            return carries(u, frag, u->loop[d]) ? u->loop[d] : 0;
    return 0;
}

static bool wide_block(const Kernel *k, int dim)
{
    int64_t n;
    return !ir_const_value(k, k->grid[dim], &n) || n > 1;
}

static bool at_block(const Rule *u, const Ins *i)
{
    if (i->op == OP_BLOCK)
        return wide_block(u->k, (int)i->integer);
    if (i->op == OP_LOAD || i->op == OP_GATHER || i->op == OP_FRAG)
        return false;
    bool any = i->nargs > 0 && u->at_block[i->arg[0]];
    for (int n = 1; n < i->nargs && i->op != OP_LOOP; n++)
        any = any || u->at_block[i->arg[n]];
    return any;
}

/* ---- axes -------------------------------------------------------------------------------------------------------- */

/* The axes of the tile whose coordinate depends on the loop's index. */
static int axes_of_view(const Rule *u, Ref ref, Ref loop)
{
    const Ins *view = ir_at(u->k, ref);
    int last = view->nargs - 1, axes = 0, fuel = FUEL;
    bool transposed = view->a & VIEW_TRANSPOSED;
    if (reads(u->k, view->arg[last], loop, &fuel))
        axes |= transposed ? AXIS_ROWS : AXIS_COLS;
    if (last > 1 && reads(u->k, view->arg[last - 1], loop, &fuel))
        axes |= transposed ? AXIS_COLS : AXIS_ROWS;
    return axes;
}

static int axes_walked(const Rule *u, Ref r, Ref loop, int *fuel);

static int axes_of_factor(const Rule *u, Ref a, Ref loop, int *fuel)
{
    return ir_at(u->k, a)->op == OP_VIEW ? axes_of_view(u, a, loop) : axes_walked(u, a, loop, fuel);
}

/* Those of all that is put into a frag. */
static int axes_of_frag(const Rule *u, Ref frag, Ref loop, int *fuel)
{
    int axes = 0;
    if (u->active[frag])
        return 0;
    u->active[frag] = true;
    for (Ref m = u->previous[frag]; m && --*fuel > 0; m = u->previous[m]) {
        const Ins *i = ir_at(u->k, m);
        axes |= i->op == OP_SET ? axes_walked(u, i->arg[1], loop, fuel)
                                : (axes_of_factor(u, i->arg[1], loop, fuel) & AXIS_ROWS) |
                                      (axes_of_view(u, i->arg[2], loop) & AXIS_COLS);
    }
    u->active[frag] = false;
    return axes;
}

/* The axes along which a value's tile moves from one turn of the loop to the next. */
static int axes_walked(const Rule *u, Ref r, Ref loop, int *fuel)
{
    const Ins *i = ir_at(u->k, r);
    int axes = 0;
    if (--*fuel < 0 || i->op == OP_VIEW || i->op == OP_LOOP)
        return 0;
    if (i->op == OP_LOAD)
        return axes_of_view(u, i->arg[0], loop);
    if (i->op == OP_FRAG)
        return axes_of_frag(u, r, loop, fuel);
    for (int n = 0; n < i->nargs; n++)
        axes |= axes_walked(u, i->arg[n], loop, fuel);
    if (i->op == OP_RESHAPE)
        return axes ? AXIS_ROWS | AXIS_COLS : 0;
    if (i->op == OP_TRANSPOSE)
        return (axes & AXIS_ROWS ? AXIS_COLS : 0) | (axes & AXIS_COLS ? AXIS_ROWS : 0);
    return i->op == OP_REDUCE ? axes & (i->b ? AXIS_ROWS : AXIS_COLS) : axes;
}

static int reduced_axis(const Ins *reduce) { return reduce->b ? AXIS_COLS : AXIS_ROWS; }

/* ---- the rules --------------------------------------------------------------------------------------------------- */

static bool check_reduce(const Rule *u, Ref r)
{
    const Ins *i = ir_at(u->k, r);
    int tree = u->k->numerics.tree;
    if (!is_float_sum(u->k, i) || (i->b == 0 && i->c == 0))
        return true; /* down the rows: ascending, no tree */
    if (!tree)
        return ir_error(u->k, r, u->err, "the operator declares no order for sums; add numerics = function() return { tree = 16 } end to its spec");
    return i->c == tree ||
           ir_error(u->k, r, u->err, "a tree of %d, but the operator sums with a tree of %d", i->c, tree);
}

static bool is_fixed(const Kernel *k, int extent)
{
    return extent == k->numerics.tree || extent == k->numerics.segment;
}

/* Rule 3, first half: what was carried and is reduced now. */
static bool check_reduced_frag(const Rule *u, Ref r)
{
    const Ins *i = ir_at(u->k, r);
    if (!is_float_sum(u->k, i))
        return true;
    Ref from = i->arg[0];
    for (Op op = ir_at(u->k, from)->op; op == OP_CAST || op == OP_SLICE || op == OP_NEG; op = ir_at(u->k, from)->op)
        from = ir_at(u->k, from)->arg[0];
    int extent = reduced_extent(u->k, i);
    if (!(u->carried[from] & reduced_axis(i)) || is_fixed(u->k, extent))
        return true;
    return ir_error(u->k, r, u->err, "a loop adds tiles into this frag, %d long, so the order of the sum depends on "
                    "that; make it %d long, the operator's tree", extent, u->k->numerics.tree);
}

/* Rule 3, second half. */
static bool check_added_sums(const Rule *u, Ref r, Ref loop, const Sum *s)
{
    for (int n = 0; n < s->count; n++) {
        const Ins *i = ir_at(u->k, s->term[n].a);
        int fuel = FUEL;
        if (!s->term[n].b && is_float_sum(u->k, i) && !is_fixed(u->k, reduced_extent(u->k, i)) &&
            axes_walked(u, i->arg[0], loop, &fuel) & reduced_axis(i))
            return ir_error(u->k, r, u->err, "a loop adds up sums of %d elements, so their order depends on the tile; "
                            "add the tiles into a frag %d long and reduce it after the loop", reduced_extent(u->k, i),
                            u->k->numerics.tree);
    }
    return true;
}

/* Rule 5. */
static bool check_cut(const Rule *u, Ref r, Ref frag)
{
    if (u->k->numerics.segment)
        return true;
    for (int d = u->depth - 1; d >= 0; d--) {
        Ref loop = u->loop[d];
        if (loop && !carries(u, frag, loop))
            break;
        if (loop && u->at_block[ir_at(u->k, loop)->arg[0]])
            return ir_error(u->k, r, u->err, "the sum is cut: its loop starts at a place of this block; let one block "
                            "sum from the start, or declare segments in the operator's numerics");
    }
    return true;
}

static bool check_set(const Rule *u, Ref r)
{
    const Ins *i = ir_at(u->k, r);
    Ref frag = i->arg[0], loop = is_float_tile(u->k, frag) ? carrier(u, frag) : 0;
    Sum s;
    int fuel = FUEL;
    if (!loop || !adds_to_itself(u->k, frag, i->arg[1], &s))
        return true;
    u->carried[frag] |= (uint8_t)axes_walked(u, i->arg[1], loop, &fuel);
    return check_added_sums(u, r, loop, &s) && check_cut(u, r, frag);
}

/* Rule 4: which gemm does a value hold? */
static Ref product_of(const Rule *u, Ref r)
{
    const Ins *i = ir_at(u->k, r);
    Ref first = i->nargs ? u->product[i->arg[0]] : 0;
    switch (i->op) {
    case OP_FRAG: return u->product[r];
    case OP_NEG:
    case OP_CAST:
    case OP_SLICE:
    case OP_RESHAPE:
    case OP_TRANSPOSE: return first;
    case OP_ADD:
    case OP_SUB:
    case OP_JOIN: return first ? first : u->product[i->arg[1]];
    case OP_FMA: return u->product[i->arg[2]];
    default: return 0;
    }
}

static void follow_products(const Rule *u)
{
    const Kernel *k = u->k;
    for (int pass = 0; pass < 2; pass++) /* twice, for frags that a loop carries */
        for (Ref r = 1; r < (Ref)k->ins.len; r++) {
            const Ins *i = ir_at(k, r);
            if (i->op == OP_GEMM && is_float_tile(k, i->arg[0]))
                u->product[i->arg[0]] = ir_at(k, i->arg[2])->arg[0];
            else if (i->op == OP_SET && u->product[i->arg[1]])
                u->product[i->arg[0]] = u->product[i->arg[1]];
            u->product[r] = product_of(u, r);
        }
}

static bool check_products(const Rule *u, Ref r)
{
    const Ins *i = ir_at(u->k, r);
    if ((i->op != OP_ADD && i->op != OP_SUB) || i->arg[0] == i->arg[1] || u->k->numerics.segment)
        return true;
    Ref a = u->product[i->arg[0]], b = u->product[i->arg[1]];
    if (!a || a != b)
        return true;
    return ir_error(u->k, r, u->err, "adds two gemm results over '%s', which cuts K; let one accumulator walk all of K",
                    u->k->mem.at[ir_at(u->k, a)->integer].name);
}

static bool check_rules(Rule *u, Ref r)
{
    const Ins *i = ir_at(u->k, r);
    switch (i->op) {
    case OP_REDUCE: return check_reduce(u, r) && check_reduced_frag(u, r);
    case OP_SET: return check_set(u, r);
    case OP_GEMM: return !is_float_tile(u->k, i->arg[0]) || check_cut(u, r, i->arg[0]);
    case OP_ATOMIC_ADD:
        return !is_float_tile(u->k, i->arg[1]) ||
               ir_error(u->k, r, u->err, "adds floats in the order of the threads; only integer counters may do that");
    default: return check_products(u, r);
    }
}

/* Where regions end, which sets start a frag anew, and what depends on a block index. */
static void survey(Rule *u)
{
    for (Ref r = 1; r < (Ref)u->k->ins.len; r++) {
        const Ins *i = ir_at(u->k, r);
        track_regions(u, r);
        u->at_block[r] = at_block(u, i);
        if (i->op != OP_SET && i->op != OP_GEMM)
            continue;
        int fuel = FUEL;
        u->resets[r] = i->op == OP_SET && !reads(u->k, i->arg[1], i->arg[0], &fuel);
        u->previous[r] = u->previous[i->arg[0]];
        u->previous[i->arg[0]] = r;
    }
    follow_products(u);
}

bool ir_check_numerics(const Kernel *k, Err *err)
{
    Arena *a = arena_new();
    size_t n = k->ins.len;
    Rule u = {.k = k, .err = err, .end = arena_array(a, Ref, n), .previous = arena_array(a, Ref, n),
              .resets = arena_array(a, bool, n), .at_block = arena_array(a, bool, n),
              .active = arena_array(a, bool, n), .carried = arena_array(a, uint8_t, n),
              .product = arena_array(a, Ref, n)};
    survey(&u);
    bool ok = true;
    for (Ref r = 1; ok && r < (Ref)n; r++) {
        track_regions(&u, r);
        ok = check_rules(&u, r);
    }
    arena_free(a);
    return ok;
}
