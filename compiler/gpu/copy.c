/* copy.c - from memory to memory: NVIDIA's asynchronous copies where both sides are aligned, registers in between
 * otherwise. Outside a window zeros are written. */
#include "gpu.h"

typedef struct Copy {
    Window to, from;
    Layout layout;
    int run;           /* registers that move in one piece */
} Copy;

static bool windows(Lower *l, const Ins *i, Copy *c)
{
    const Ins *to = ir_at(l->k, i->arg[0]), *from = ir_at(l->k, i->arg[1]);
    if (window_of(l, to, &c->to) && window_of(l, from, &c->from))
        return true;
    if (panel_window(l, to, &c->to) && panel_window(l, from, &c->from) && c->to.m->wide == c->from.m->wide &&
        c->to.m->unit == c->from.m->unit && c->to.m->pairs == c->from.m->pairs)
        return true;
    return ir_error(l->k, i->arg[1], l->err, "copy: '%s' and '%s' lie differently; load and store instead",
                    c->to.m->name, c->from.m->name);
}

static Copy plan_copy(Lower *l, const Ins *i)
{
    Copy c = {0};
    if (!windows(l, i, &c))
        return c;
    int side = log2_up(16 / c.to.size);
    c.layout = layout_flat(l->shape, c.to.rows, c.to.cols, MIN(side, log2_up(c.to.cols)));
    c.run = MIN(window_run(&c.to, &c.layout, 16), window_run(&c.from, &c.layout, 16));
    return c;
}

/* A window of one row or column is repeated: its stride along the other axis is none. */
static void repeat(Copy *c)
{
    if (c->from.rows == 1 && c->to.rows > 1)
        c->from.row_stride = 0, c->from.rows = c->to.rows, c->from.row_limit = NULL;
    if (c->from.cols == 1 && c->to.cols > 1)
        c->from.col_stride = 0, c->from.cols = c->to.cols, c->from.col_limit = NULL, c->run = 1;
}

V *copy_fetch(Lower *l, const Ins *i, int *count)
{
    Copy c = plan_copy(l, i);
    repeat(&c);
    *count = reg_count(&c.layout);
    return l->err->text[0] ? NULL : load_window(l, &c.from, &c.layout);
}

void copy_drop(Lower *l, const Ins *i, V *x)
{
    Copy c = plan_copy(l, i);
    if (!l->err->text[0])
        store_window(l, &c.to, &c.layout, x);
}

/* `inside` of the source decides whether zeros are written; of the destination whether anything is. */
static void copy_piece(Lower *l, V to, V from, V safe, V inside, int bytes)
{
    static const char *const names[] = {"llvm.nvvm.cp.async.ca.shared.global.4",
                                        "llvm.nvvm.cp.async.ca.shared.global.8",
                                        "llvm.nvvm.cp.async.cg.shared.global.16"};
    static const char *const sized[] = {"llvm.nvvm.cp.async.ca.shared.global.4.s",
                                        "llvm.nvvm.cp.async.ca.shared.global.8.s",
                                        "llvm.nvvm.cp.async.cg.shared.global.16.s"};
    int at = log2_up(bytes / 4);
    if (!inside || l->t->fault == GPU_FAULT_MASK) {
        call(&l->code, names[at], NULL, 0, (V[]){to, from}, 2);
        return;
    }
    V size = LLVMBuildSelect(l->b, inside, c32(l, bytes), c32(l, 0), "");
    call(&l->code, sized[at], NULL, 0, (V[]){to, LLVMBuildSelect(l->b, inside, from, safe, ""), size}, 3);
}

static void copy_pieces(Lower *l, const Copy *c)
{
    V to_at = window_thread_offset(l, &c->to, &c->layout), from_at = window_thread_offset(l, &c->from, &c->layout);
    V row = thread_part(l, &c->layout, true), col = thread_part(l, &c->layout, false);
    for (int reg = 0; reg < reg_count(&c->layout); reg += c->run) {
        Bit b = layout_reg(&c->layout, reg);
        Window tile = {.rows = c->to.rows, .cols = c->to.cols};
        V exists = window_inside(l, &tile, &c->layout, row, col, b);
        V inside = window_inside(l, &c->from, &c->layout, row, col, b);
        if (is_false(exists))
            continue;
        LLVMBasicBlockRef join = open_if(l, exists);
        copy_piece(l, window_pointer(l, &c->to, to_at, b), window_pointer(l, &c->from, from_at, b), c->from.safe,
                   inside, c->run * c->to.size);
        close_if(l, join);
    }
}

static bool can_be_asynchronous(Lower *l, const Copy *c)
{
    return l->g->nvidia && c->to.m->space == SPACE_SHARED && c->from.m->space == SPACE_GLOBAL &&
           c->run * c->to.size >= 4;
}

void copy_start(Lower *l, const Ins *i)
{
    Copy c = plan_copy(l, i);
    if (l->err->text[0])
        return;
    repeat(&c);
    if (can_be_asynchronous(l, &c))
        copy_pieces(l, &c);
    else
        store_window(l, &c.to, &c.layout, load_window(l, &c.from, &c.layout));
}

void copy_commit(Lower *l)
{
    if (l->g->nvidia)
        call(&l->code, "llvm.nvvm.cp.async.commit.group", NULL, 0, NULL, 0);
}

void copy_wait(Lower *l, int groups)
{
    groups += l->t->fault == GPU_FAULT_WAIT;
    if (l->g->nvidia)
        call(&l->code, "llvm.nvvm.cp.async.wait.group", NULL, 0, (V[]){c32(l, groups)}, 1);
}

void lower_copy(Lower *l, const Ins *i)
{
    copy_start(l, i);
    copy_commit(l);
    copy_wait(l, 0);
}
