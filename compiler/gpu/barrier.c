/* barrier.c - where a block's threads must wait for one another: between two accesses to the same memory, one of them a
 * write, unless every element is touched by the same thread both times. Conservative: views of one memory count as
 * overlapping where constants do not tell otherwise. Control flow is uniform (gpu.h), so a barrier may stand at any
 * instruction. */
#include "gpu.h"

#include <stdlib.h>

typedef struct Touch {
    Ref view, value; /* the tile that is loaded or stored; 0 where threads and elements go no fixed way together */
    bool write, carried; /* carried: from the turn of a loop before */
} Touch;

typedef struct Pending { /* accesses since the last barrier on some path */
    VEC(Touch) list;
} Pending;

static bool add_access(Pending *p, Touch a)
{
    for (size_t i = 0; i < p->list.len; i++) {
        Touch *b = &p->list.at[i];
        if (b->view == a.view && b->value == a.value && b->write == a.write && b->carried == a.carried)
            return false;
    }
    vec_push(&p->list, a);
    return true;
}

static bool same_coordinate(const Kernel *k, Ref a, Ref b)
{
    int64_t x, y;
    if (ir_const_value(k, a, &x) && ir_const_value(k, b, &y))
        return x == y;
    return a == b && ir_at(k, a)->op != OP_FRAG;
}

static bool same_place(const Lower *l, Touch a, Touch b)
{
    const Ins *x = ir_at(l->k, a.view), *y = ir_at(l->k, b.view);
    if (!a.value || !b.value || a.carried || x->nargs != y->nargs || x->a != y->a || x->type.rows != y->type.rows ||
        x->type.cols != y->type.cols)
        return false;
    for (int n = 0; n < x->nargs; n++)
        if (!same_coordinate(l->k, x->arg[n], y->arg[n]))
            return false;
    const Layout *p = &l->val[a.value].layout, *q = &l->val[b.value].layout;
    return layout_same_threads(p, q) && !layout_replicated(p);
}

/* Places along dimension d of what a view covers, if they are known: [*from, *to). */
static bool known_range(const Kernel *k, const Ins *view, int d, int64_t *from, int64_t *to)
{
    int behind = view->nargs - 2 - d; /* dimensions after this one */
    bool turned = view->a & VIEW_TRANSPOSED;
    int rows = turned ? view->type.cols : view->type.rows, cols = turned ? view->type.rows : view->type.cols;
    if (!ir_const_value(k, view->arg[d + 1], from))
        return false;
    *to = *from + (behind == 0 ? cols : behind == 1 ? rows : 1);
    return true;
}

/* Two views of one memory that never overlap, in whatever turn of a loop. */
static bool disjoint(const Lower *l, Touch a, Touch b)
{
    const Ins *x = ir_at(l->k, a.view), *y = ir_at(l->k, b.view);
    int64_t x0, x1, y0, y1;
    if (!a.value || !b.value)
        return false;
    for (int d = 0; d < x->nargs - 1; d++)
        if (known_range(l->k, x, d, &x0, &x1) && known_range(l->k, y, d, &y0, &y1) && (x1 <= y0 || y1 <= x0))
            return true;
    return false;
}

static bool conflict(const Lower *l, Touch a, Touch b)
{
    return (a.write || b.write) && ir_at(l->k, a.view)->arg[0] == ir_at(l->k, b.view)->arg[0] && !same_place(l, a, b) &&
           !disjoint(l, a, b);
}

static int accesses_of(const Lower *l, Ref r, Touch out[3])
{
    const Ins *i = ir_at(l->k, r);
    int n = 0;
    switch (i->op) {
    case OP_LOAD: out[n++] = (Touch){.view = i->arg[0], .value = r}; break;
    case OP_GATHER: out[n++] = (Touch){.view = i->arg[0]}; break;
    case OP_STORE: out[n++] = (Touch){.view = i->arg[0], .value = i->arg[1], .write = true}; break;
    case OP_SCATTER:
    case OP_ATOMIC_ADD: out[n++] = (Touch){.view = i->arg[0], .write = true}; break;
    case OP_COPY:
        out[n++] = (Touch){.view = i->arg[1]};
        out[n++] = (Touch){.view = i->arg[0], .write = true};
        break;
    case OP_GEMM:
        if (ir_at(l->k, i->arg[1])->op == OP_VIEW)
            out[n++] = (Touch){.view = i->arg[1]};
        out[n++] = (Touch){.view = i->arg[2]};
        break;
    default: break;
    }
    return n;
}

static bool concerns(const Lower *l, Touch a)
{
    int64_t mem = ir_at(l->k, ir_at(l->k, a.view)->arg[0])->integer;
    const Memory *m = &l->k->mem.at[mem];
    return !l->staged[mem] && (m->space == SPACE_SHARED || m->access != ACCESS_IN);
}

static void step(Lower *l, Ref r, Pending *p)
{
    Touch now[3];
    int n = accesses_of(l, r, now);
    for (int k = 0; k < n && !l->barrier[r]; k++)
        for (size_t i = 0; i < p->list.len && concerns(l, now[k]); i++)
            l->barrier[r] |= conflict(l, p->list.at[i], now[k]);
    if (l->barrier[r])
        p->list.len = 0;
    for (int k = 0; k < n; k++)
        if (concerns(l, now[k]))
            add_access(p, now[k]);
}

static void copy_pending(Pending *to, const Pending *from, bool carried)
{
    for (size_t i = 0; i < from->list.len; i++) {
        Touch a = from->list.at[i];
        a.carried |= carried;
        add_access(to, a);
    }
}

static Ref walk(Lower *l, Ref r, Pending *p);

/* Once with what came before, then with what the turn before left, until no barrier is added. */
static Ref walk_loop(Lower *l, Ref open, Pending *p)
{
    Pending before = {0};
    copy_pending(&before, p, false);
    Ref end = 0;
    for (int turn = 0; turn < 3; turn++) {
        Pending in = {0};
        copy_pending(&in, &before, false);
        copy_pending(&in, p, turn > 0);
        p->list.len = 0;
        copy_pending(p, &in, false);
        end = walk(l, open + 1, p);
        vec_free(&in.list);
    }
    copy_pending(p, &before, false); /* the loop may not run */
    vec_free(&before.list);
    return end;
}

static Ref walk_when(Lower *l, Ref open, Pending *p)
{
    Pending other = {0};
    copy_pending(&other, p, false);
    Ref end = walk(l, open + 1, p);
    if (ir_at(l->k, end)->op == OP_ELSE)
        end = walk(l, end + 1, &other);
    copy_pending(p, &other, false);
    vec_free(&other.list);
    return end;
}

/* Walks to the END or ELSE of this region and gives its place. */
static Ref walk(Lower *l, Ref r, Pending *p)
{
    for (; r < (Ref)l->k->ins.len; r++) {
        Op op = ir_at(l->k, r)->op;
        if (op == OP_END || op == OP_ELSE)
            return r;
        if (op == OP_LOOP)
            r = walk_loop(l, r, p);
        else if (op == OP_WHEN)
            r = walk_when(l, r, p);
        else
            step(l, r, p);
    }
    return r;
}

void place_barriers(Lower *l)
{
    Pending p = {0};
    l->barrier = arena_array(l->arena, bool, l->k->ins.len);
    walk(l, 1, &p);
    vec_free(&p.list);
}
