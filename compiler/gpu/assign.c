/* assign.c - chooses a layout for every value. The accumulators of matrix units are fixed by the hardware; they spread
 * to whatever meets them elementwise, forwards and backwards, so that loads bring tiles where they are used and nothing
 * is exchanged. What is left lies flat, the largest tiles first. */
#include "gpu.h"

typedef struct Assign {
    Lower *l;
    const Kernel *k;
    bool *fixed, changed;
} Assign;

static bool is_tile(const Assign *a, Ref r)
{
    Type t = type_of(a->k, r);
    Op op = ir_at(a->k, r)->op;
    return t.elem != DT_NONE && t.rows > 0 && op != OP_VIEW && op != OP_MEMORY && op_has_result(op);
}

static void fix(Assign *a, Ref r, Layout layout)
{
    if (a->fixed[r])
        return;
    a->l->val[r].layout = layout;
    a->fixed[r] = a->changed = true;
}

/* An operand as it is wanted by a value of this type and layout. */
static void fix_operand(Assign *a, Ref r, Type into, const Layout *layout)
{
    Type t = type_of(a->k, r);
    if (!a->fixed[r] && !is_scalar(t))
        fix(a, r, layout_slice(layout, t.rows == 1 && into.rows > 1, t.cols == 1 && into.cols > 1));
}

static bool same_shape(Type a, Type b) { return a.rows == b.rows && a.cols == b.cols; }

/* Result and operands of one shape lie alike. */
static void spread(Assign *a, Ref r, int first)
{
    const Ins *i = ir_at(a->k, r);
    for (int n = first; n < i->nargs && !a->fixed[r]; n++)
        if (a->fixed[i->arg[n]] && same_shape(type_of(a->k, i->arg[n]), i->type))
            fix(a, r, a->l->val[i->arg[n]].layout);
    for (int n = first; n < i->nargs && a->fixed[r]; n++)
        fix_operand(a, i->arg[n], i->type, &a->l->val[r].layout);
}

static void spread_set(Assign *a, const Ins *i)
{
    Ref frag = i->arg[0], value = i->arg[1];
    Type t = type_of(a->k, frag);
    if (a->fixed[value] && same_shape(type_of(a->k, value), t))
        fix(a, frag, a->l->val[value].layout);
    if (a->fixed[frag])
        fix_operand(a, value, t, &a->l->val[frag].layout);
}

static void visit(Assign *a, Ref r)
{
    const Ins *i = ir_at(a->k, r);
    switch (op_info[i->op].class) {
    case CLASS_UN:
    case CLASS_BIN:
    case CLASS_CMP:
    case CLASS_TERN: spread(a, r, 0); return;
    default: break;
    }
    switch (i->op) {
    case OP_CAST:
    case OP_BITCAST: spread(a, r, 0); break;
    case OP_SET: spread_set(a, i); break;
    case OP_GATHER: spread(a, r, 1); break;
    case OP_REDUCE:
        if (a->fixed[i->arg[0]])
            fix(a, r, layout_slice(&a->l->val[i->arg[0]].layout, i->b == 0, i->b == 1));
        break;
    case OP_SCAN: spread(a, r, 0); break;
    case OP_SLICE: /* a column stays with the rows' threads */
        if (a->fixed[i->arg[0]] && i->type.cols == 1 && i->type.rows == type_of(a->k, i->arg[0]).rows)
            fix(a, r, layout_slice(&a->l->val[i->arg[0]].layout, false, true));
        break;
    case OP_RESHAPE:
        if (a->fixed[i->arg[0]])
            fix(a, r, layout_reshaped(&a->l->val[i->arg[0]].layout, type_of(a->k, i->arg[0]), i->type));
        else if (a->fixed[r])
            fix(a, i->arg[0], layout_reshaped(&a->l->val[r].layout, i->type, type_of(a->k, i->arg[0])));
        break;
    case OP_TRANSPOSE:
        if (a->fixed[i->arg[0]])
            fix(a, r, layout_turned(a->l->val[i->arg[0]].layout));
        else if (a->fixed[r])
            fix(a, i->arg[0], layout_turned(a->l->val[r].layout));
        break;
    default: break;
    }
}

static void settle(Assign *a)
{
    do {
        a->changed = false;
        for (Ref r = 1; r < (Ref)a->k->ins.len; r++)
            visit(a, r);
        for (Ref r = (Ref)a->k->ins.len - 1; r > 0; r--)
            visit(a, r);
    } while (a->changed);
}

static void fix_matrices(Assign *a)
{
    for (Ref r = 1; r < (Ref)a->k->ins.len; r++) {
        const Ins *i = ir_at(a->k, r);
        if (i->op != OP_GEMM || !matrix_product(a->l, i))
            continue;
        Type acc = type_of(a->k, i->arg[0]), factor = type_of(a->k, i->arg[1]);
        fix(a, i->arg[0], layout_acc(a->l->t, a->l->shape, acc.rows, acc.cols));
        if (ir_at(a->k, i->arg[1])->op != OP_VIEW)
            fix(a, i->arg[1], layout_factor(a->l->t, a->l->shape, factor.rows, factor.cols));
    }
}

static Ref largest_left(const Assign *a) /* the first of them; 0 when none is left */
{
    int64_t most = 0;
    Ref found = 0;
    for (Ref r = 1; r < (Ref)a->k->ins.len; r++) {
        Type t = type_of(a->k, r);
        if (a->fixed[r] || !is_tile(a, r) || (int64_t)t.rows * t.cols <= most)
            continue;
        most = (int64_t)t.rows * t.cols;
        found = r;
    }
    return found;
}

void assign_layouts(Lower *l)
{
    const Kernel *k = l->k;
    Assign a = {.l = l, .k = k, .fixed = arena_array(l->arena, bool, k->ins.len)};
    for (Ref r = 1; r < (Ref)k->ins.len; r++)
        if (is_tile(&a, r) && is_scalar(type_of(k, r)))
            fix(&a, r, layout_scalar(l->shape));
    fix_matrices(&a);
    settle(&a);
    for (Ref r; (r = largest_left(&a)); settle(&a))
        fix(&a, r, layout_flat(l->shape, type_of(k, r).rows, type_of(k, r).cols, 2));
}
