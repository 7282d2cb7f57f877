/* memory.c - loads, stores, gathers and scatters on GPUs: which address a thread's register stands for, how many
 * neighbours move in one access, and what lies outside. */
#include "gpu.h"

enum { MOST_BYTES = 16 };

static V mul64(Lower *l, V x, int64_t by) { return LLVMBuildNSWMul(l->b, x, c64(l, by), ""); }
static V add64(Lower *l, V x, V y) { return LLVMBuildNSWAdd(l->b, x, y, ""); }

V bytes_at(Lower *l, V pointer, V offset) { return LLVMBuildGEP2(l->b, l->i8, pointer, &offset, 1, ""); }

static int memory_index(Lower *l, const Ins *view) { return (int)ir_at(l->k, view->arg[0])->integer; }
static const Memory *memory_of(Lower *l, const Ins *view) { return &l->k->mem.at[memory_index(l, view)]; }

/* ---- addresses ---------------------------------------------------------------------------------------------- */

static V coordinate(Lower *l, const Ins *view, int d)
{
    DType t = type_of(l->k, view->arg[d + 1]).elem;
    return math_cast(&l->code, scalar(l, view->arg[d + 1]), t, DT_S64, 1);
}

static V extent_value(Lower *l, Dim d)
{
    if (d.size < 0)
        return c64(l, d.n);
    V size = load_size(l, d.size);
    return d.n == 1 ? size : mul64(l, size, d.n);
}

static V lead_offset(Lower *l, const Ins *view, int count)
{
    const Memory *m = memory_of(l, view);
    V offset = c64(l, 0);
    for (int d = 0; d < count; d++) {
        if (d)
            offset = LLVMBuildNSWMul(l->b, offset, extent_value(l, m->dim[d]), "");
        offset = add64(l, offset, coordinate(l, view, d));
    }
    return offset;
}

static int64_t panel_block(const Memory *m) /* elements of `wide` columns, all of K */
{
    return round_up(m->dim[m->rank - 2].n, m->unit) * m->wide;
}

/* Elements from the base to the corner (ROWS), or to the addressed matrix (PANEL). */
V view_corner(Lower *l, const Ins *view)
{
    const Memory *m = memory_of(l, view);
    int last = m->rank - 1, mem = memory_index(l, view);
    if (m->layout == LAYOUT_PANEL)
        return mul64(l, lead_offset(l, view, m->rank - 2),
                     panel_block(m) * (round_up(m->dim[last].n, m->wide) / m->wide));
    if (m->rank == 1)
        return coordinate(l, view, 0);
    V row = lead_offset(l, view, last);
    row = l->pitch[mem] ? mul64(l, row, l->pitch[mem]) : LLVMBuildNSWMul(l->b, row, extent_value(l, m->dim[last]), "");
    return add64(l, row, coordinate(l, view, last));
}

/* Lane and warp bits that go to neighbouring bits of the axis move together. */
V thread_part(Lower *l, const Layout *layout, bool rows)
{
    V sum = c32(l, 0);
    int n = layout->lanes + layout->warps;
    for (int i = 0, run; i < n; i += run) {
        int to[LANE_BITS + WARP_BITS];
        for (int k = 0; k < n; k++) {
            Bit b = k < layout->lanes ? layout->lane[k] : layout->warp[k - layout->lanes];
            uint16_t mask = rows ? b.row : b.col;
            to[k] = mask ? __builtin_ctz(mask) : -1;
        }
        for (run = 1; to[i] >= 0 && i + run < n && to[i + run] == to[i] + run;)
            run++;
        if (to[i] < 0)
            continue;
        V bits = LLVMBuildAnd(l->b, LLVMBuildLShr(l->b, l->tid, c32(l, i), ""), c32(l, (1 << run) - 1), "");
        sum = LLVMBuildOr(l->b, sum, LLVMBuildShl(l->b, bits, c32(l, to[i]), ""), "");
    }
    return sum;
}

/* ---- windows ------------------------------------------------------------------------------------------------ */

static V limit(Lower *l, const Ins *view, int dim, int most)
{
    const Memory *m = memory_of(l, view);
    V left = LLVMBuildNSWSub(l->b, extent_value(l, m->dim[dim]), coordinate(l, view, dim), "");
    V capped = math_binary(&l->code, OP_MIN, DT_S64, left, c64(l, most), 1);
    return LLVMBuildTrunc(l->b, capped, l->i32, "");
}

static int64_t divisor_or(const Kernel *k, Ref r, int64_t zero)
{
    int64_t d = ir_divisor(k, r);
    return d ? d : zero;
}

static int64_t gcd(int64_t a, int64_t b)
{
    while (b) {
        int64_t t = a % b;
        a = b, b = t;
    }
    return a;
}

enum { BIG = 1 << 20 };

/* Largest power of two of bytes that every (row, 0) is known to be a multiple of. */
static int known_align(Lower *l, const Ins *view, int64_t pitch, int size)
{
    const Memory *m = memory_of(l, view);
    int64_t a = divisor_or(l->k, view->arg[m->rank], BIG);
    if (m->rank > 1)
        a = gcd(a, pitch ? pitch : m->dim[m->rank - 1].n);
    a = (a * size) & -(a * size);
    return (int)MIN(a, MOST_BYTES);
}

static int limit_step(Lower *l, const Ins *view, int dim)
{
    Dim d = memory_of(l, view)->dim[dim];
    int64_t s = gcd(divisor_or(l->k, view->arg[dim + 1], BIG), d.n);
    return (int)MIN(s & -s, BIG);
}

bool window_of(Lower *l, const Ins *view, Window *w)
{
    const Memory *m = memory_of(l, view);
    int mem = memory_index(l, view), last = m->rank - 1;
    bool turned = view->a & VIEW_TRANSPOSED;
    if (m->layout != LAYOUT_ROWS || dtype_bits(m->elem) < 8)
        return false;
    int size = dtype_bits(m->elem) / 8, rows_over, cols_over;
    *w = (Window){.m = m,
                  .type = elem_type(&l->code, m->elem),
                  .size = size,
                  .rows = view->type.rows,
                  .cols = view->type.cols,
                  .safe = l->base[mem],
                  .row_step = BIG,
                  .col_step = BIG};
    if (m->elem == DT_BOOL)
        w->type = l->i8;
    w->corner = bytes_at(l, l->base[mem], mul64(l, view_corner(l, view), size));
    int64_t across = m->rank > 1 ? l->pitch[mem] * size : 0;
    w->row_stride = turned ? size : across;
    w->col_stride = turned ? across : size;
    w->align = known_align(l, view, l->pitch[mem], size);
    view_needs_mask(l->k, view, &rows_over, &cols_over);
    int row_dim = turned ? last : last - 1, col_dim = turned ? last - 1 : last;
    if (rows_over)
        w->row_limit = limit(l, view, row_dim, w->rows), w->row_step = limit_step(l, view, row_dim);
    if (cols_over)
        w->col_limit = limit(l, view, col_dim, w->cols), w->col_step = limit_step(l, view, col_dim);
    return true;
}

/* Blocks of columns are rows, each a stretch of memory: all of K between the view's first and last. */
bool panel_window(Lower *l, const Ins *view, Window *w)
{
    const Memory *m = memory_of(l, view);
    int mem = memory_index(l, view), bits = dtype_bits(m->elem);
    Ref k0 = view->arg[m->rank - 1], n0 = view->arg[m->rank];
    if (m->layout != LAYOUT_PANEL || (view->a & VIEW_TRANSPOSED) || view->type.cols % m->wide ||
        view->type.rows % m->unit || ir_divisor(l->k, k0) % m->unit || ir_divisor(l->k, n0) % m->wide)
        return false;
    int per_word = 32 / bits, rows_over, cols_over;
    *w = (Window){.m = m,
                  .type = l->i32,
                  .size = 4,
                  .rows = view->type.cols / m->wide,
                  .cols = view->type.rows * m->wide / per_word,
                  .safe = l->base[mem],
                  .col_stride = 4,
                  .row_stride = panel_block(m) * bits / 8,
                  .row_step = BIG,
                  .col_step = BIG,
                  .align = m->wide * m->unit * bits / 8 % MOST_BYTES ? 4 : MOST_BYTES};
    V block = mul64(l, LLVMBuildUDiv(l->b, coordinate(l, view, m->rank - 1), c64(l, m->wide), ""), panel_block(m));
    V offset = add64(l, view_corner(l, view), add64(l, block, mul64(l, coordinate(l, view, m->rank - 2), m->wide)));
    V bytes = LLVMBuildLShr(l->b, mul64(l, offset, bits), c64(l, 3), "");
    w->corner = bytes_at(l, l->base[mem], bytes);
    view_needs_mask(l->k, view, &rows_over, &cols_over);
    if (cols_over) {
        V left = LLVMBuildNSWSub(l->b, c64(l, round_up(m->dim[m->rank - 1].n, m->wide)),
                                 coordinate(l, view, m->rank - 1), "");
        left = LLVMBuildSDiv(l->b, left, c64(l, m->wide), "");
        w->row_limit =
            LLVMBuildTrunc(l->b, math_binary(&l->code, OP_MIN, DT_S64, left, c64(l, w->rows), 1), l->i32, "");
    }
    if (rows_over) {
        V left = LLVMBuildNSWSub(l->b, c64(l, round_up(m->dim[m->rank - 2].n, m->unit)),
                                 coordinate(l, view, m->rank - 2), "");
        left = LLVMBuildSDiv(l->b, mul64(l, left, m->wide), c64(l, per_word), "");
        w->col_limit =
            LLVMBuildTrunc(l->b, math_binary(&l->code, OP_MIN, DT_S64, left, c64(l, w->cols), 1), l->i32, "");
        w->col_step = m->unit * m->wide / per_word;
    }
    return true;
}

static V below(Lower *l, V part, int plus, V limit_v, int size, int covered)
{
    if (!limit_v && covered <= size)
        return NULL;
    if (plus >= size)
        return LLVMConstInt(l->i1, 0, false);
    V at = LLVMBuildAdd(l->b, part, c32(l, plus), "");
    return LLVMBuildICmp(l->b, LLVMIntSLT, at, limit_v ? limit_v : c32(l, size), "");
}

V window_inside(Lower *l, const Window *w, const Layout *layout, V row, V col, Bit reg)
{
    V r = below(l, row, reg.row, w->row_limit, w->rows, layout_span(layout, true));
    V c = below(l, col, reg.col, w->col_limit, w->cols, layout_span(layout, false));
    return both(l, r, c);
}

V window_thread_offset(Lower *l, const Window *w, const Layout *layout)
{
    V row = LLVMBuildZExt(l->b, thread_part(l, layout, true), l->i64, "");
    V col = LLVMBuildZExt(l->b, thread_part(l, layout, false), l->i64, "");
    return add64(l, mul64(l, row, w->row_stride), mul64(l, col, w->col_stride));
}

V window_pointer(Lower *l, const Window *w, V thread_offset, Bit reg)
{
    bool past = l->t->fault == GPU_FAULT_PAST && w->m->space == SPACE_GLOBAL && w->m->access == ACCESS_IN;
    V base = bytes_at(l, w->corner, thread_offset);
    int64_t plus = (reg.row + past) * w->row_stride + reg.col * w->col_stride;
    return plus ? bytes_at(l, base, c64(l, plus)) : base;
}

/* Registers 0..run-1, and every aligned group of as many, are neighbours in memory and inside or outside together. */
int window_run(const Window *w, const Layout *layout, int most)
{
    bool along_cols = w->col_stride == w->size;
    int run = 1, step = along_cols ? w->col_step : w->row_step, size = along_cols ? w->cols : w->rows;
    bool limited = along_cols ? w->col_limit != NULL : w->row_limit != NULL;
    for (int i = 0; i < layout->regs; i++) {
        Bit b = layout->reg[i];
        int next = 2 * run;
        if ((along_cols ? b.col : b.row) != run || (along_cols ? b.row : b.col) ||
            next * w->size > MIN(most, w->align) || (limited && step % next) || size % next)
            break;
        run = next;
    }
    return run;
}

/* ---- accesses ----------------------------------------------------------------------------------------------- */

bool is_false(V v) { return v && LLVMIsAConstantInt(v) && !LLVMConstIntGetZExtValue(v); }

V load_masked(Lower *l, LLVMTypeRef type, V pointer, V safe, V inside, int align)
{
    if (is_false(inside))
        return LLVMConstNull(type);
    if (l->t->fault == GPU_FAULT_MASK)
        inside = NULL;
    if (inside)
        pointer = LLVMBuildSelect(l->b, inside, pointer, safe, "");
    V v = LLVMBuildLoad2(l->b, type, pointer, "");
    LLVMSetAlignment(v, (unsigned)align);
    return inside ? LLVMBuildSelect(l->b, inside, v, LLVMConstNull(type), "") : v;
}

static V extract(Lower *l, V vector, int at, int n)
{
    return n == 1 ? vector : LLVMBuildExtractElement(l->b, vector, c32(l, at), "");
}

V *load_window(Lower *l, const Window *w, const Layout *layout)
{
    int run = window_run(w, layout, MOST_BYTES);
    V *out = arena_array(l->arena, V, reg_count(layout));
    V row = thread_part(l, layout, true), col = thread_part(l, layout, false), at = window_thread_offset(l, w, layout);
    for (int reg = 0; reg < reg_count(layout); reg += run) {
        Bit b = layout_reg(layout, reg);
        V v = load_masked(l, vec_type(w->type, run), window_pointer(l, w, at, b), w->safe,
                          window_inside(l, w, layout, row, col, b), run * w->size);
        for (int n = 0; n < run; n++)
            out[reg + n] = extract(l, v, n, run);
    }
    return out;
}

/* True in one of the threads that hold the same. */
static V owner(Lower *l, const Layout *layout)
{
    int64_t mask = 0;
    for (int i = 0; i < layout->lanes; i++)
        if (!layout->lane[i].row && !layout->lane[i].col)
            mask |= 1 << i;
    for (int i = 0; i < layout->warps; i++)
        if (!layout->warp[i].row && !layout->warp[i].col)
            mask |= 1 << (layout->lanes + i);
    return mask ? LLVMBuildICmp(l->b, LLVMIntEQ, LLVMBuildAnd(l->b, l->tid, c32(l, mask), ""), c32(l, 0), "") : NULL;
}

V both(Lower *l, V a, V b) { return a && b ? LLVMBuildAnd(l->b, a, b, "") : a ? a : b; }

LLVMBasicBlockRef open_if(Lower *l, V condition)
{
    if (!condition)
        return NULL;
    LLVMBasicBlockRef then = new_block(l, "inside"), join = new_block(l, "after");
    LLVMBuildCondBr(l->b, condition, then, join);
    LLVMPositionBuilderAtEnd(l->b, then);
    return join;
}

void close_if(Lower *l, LLVMBasicBlockRef join)
{
    if (!join)
        return;
    LLVMBuildBr(l->b, join);
    LLVMPositionBuilderAtEnd(l->b, join);
}

static void store_run(Lower *l, const Window *w, V pointer, V *x, int run)
{
    V v = x[0];
    if (run > 1) {
        v = LLVMGetPoison(vec_type(w->type, run));
        for (int n = 0; n < run; n++)
            v = LLVMBuildInsertElement(l->b, v, x[n], c32(l, n), "");
    }
    LLVMSetAlignment(LLVMBuildStore(l->b, v, pointer), (unsigned)(run * w->size));
}

void store_window(Lower *l, const Window *w, const Layout *layout, V *x)
{
    int run = window_run(w, layout, MOST_BYTES);
    V row = thread_part(l, layout, true), col = thread_part(l, layout, false), at = window_thread_offset(l, w, layout);
    LLVMBasicBlockRef outer = open_if(l, owner(l, layout));
    for (int reg = 0; reg < reg_count(layout); reg += run) {
        Bit b = layout_reg(layout, reg);
        V inside = window_inside(l, w, layout, row, col, b);
        if (is_false(inside))
            continue;
        LLVMBasicBlockRef join = open_if(l, inside);
        store_run(l, w, window_pointer(l, w, at, b), &x[reg], run);
        close_if(l, join);
    }
    close_if(l, outer);
}

/* ---- panels, element by element ----------------------------------------------------------------------------- */

/* [n/wide][k/unit][n%wide][k%unit]; k and n count from the view's corner. */
V panel_pointer(Lower *l, const Ins *view, V k, V n)
{
    const Memory *m = memory_of(l, view);
    int mem = memory_index(l, view);
    k = add64(l, coordinate(l, view, m->rank - 2), LLVMBuildZExt(l->b, k, l->i64, ""));
    n = add64(l, coordinate(l, view, m->rank - 1), LLVMBuildZExt(l->b, n, l->i64, ""));
    V block = mul64(l, LLVMBuildUDiv(l->b, n, c64(l, m->wide), ""), panel_block(m));
    V line = mul64(l, LLVMBuildUDiv(l->b, k, c64(l, m->unit), ""), (int64_t)m->wide * m->unit);
    V column = mul64(l, LLVMBuildURem(l->b, n, c64(l, m->wide), ""), m->unit);
    V at = add64(l, add64(l, block, line), add64(l, column, LLVMBuildURem(l->b, k, c64(l, m->unit), "")));
    at = mul64(l, add64(l, view_corner(l, view), at), dtype_bits(m->elem));
    return bytes_at(l, l->base[mem], LLVMBuildLShr(l->b, at, c64(l, 3), ""));
}

static V panel_inside(Lower *l, const Ins *view, const Layout *layout, V row, V col, Bit b)
{
    const Memory *m = memory_of(l, view);
    int rows_over, cols_over;
    bool turned = view->a & VIEW_TRANSPOSED;
    view_needs_mask(l->k, view, &rows_over, &cols_over);
    int row_dim = turned ? m->rank - 1 : m->rank - 2, col_dim = turned ? m->rank - 2 : m->rank - 1;
    V rows = rows_over ? limit(l, view, row_dim, view->type.rows) : NULL;
    V cols = cols_over ? limit(l, view, col_dim, view->type.cols) : NULL;
    return both(l, below(l, row, b.row, rows, view->type.rows, layout_span(layout, true)),
                below(l, col, b.col, cols, view->type.cols, layout_span(layout, false)));
}

static V element_of_panel(Lower *l, const Ins *view, V row, V col, Bit b)
{
    row = LLVMBuildAdd(l->b, row, c32(l, b.row), "");
    col = LLVMBuildAdd(l->b, col, c32(l, b.col), "");
    return view->a & VIEW_TRANSPOSED ? panel_pointer(l, view, col, row) : panel_pointer(l, view, row, col);
}

static V *load_panel(Lower *l, const Ins *view, const Layout *layout)
{
    V *out = arena_array(l->arena, V, reg_count(layout));
    V row = thread_part(l, layout, true), col = thread_part(l, layout, false);
    LLVMTypeRef type = elem_type(&l->code, memory_of(l, view)->elem);
    for (int reg = 0; reg < reg_count(layout); reg++) {
        Bit b = layout_reg(layout, reg);
        out[reg] = load_masked(l, type, element_of_panel(l, view, row, col, b), l->base[memory_index(l, view)],
                               panel_inside(l, view, layout, row, col, b), dtype_bits(memory_of(l, view)->elem) / 8);
    }
    return out;
}

static void store_panel(Lower *l, const Ins *view, const Layout *layout, V *x)
{
    V row = thread_part(l, layout, true), col = thread_part(l, layout, false);
    LLVMBasicBlockRef outer = open_if(l, owner(l, layout));
    for (int reg = 0; reg < reg_count(layout); reg++) {
        Bit b = layout_reg(layout, reg);
        V inside = panel_inside(l, view, layout, row, col, b);
        if (is_false(inside))
            continue;
        LLVMBasicBlockRef join = open_if(l, inside);
        LLVMSetAlignment(LLVMBuildStore(l->b, x[reg], element_of_panel(l, view, row, col, b)),
                         (unsigned)dtype_bits(memory_of(l, view)->elem) / 8);
        close_if(l, join);
    }
    close_if(l, outer);
}

/* ---- operations --------------------------------------------------------------------------------------------- */

static void lower_load(Lower *l, const Ins *i, Ref r)
{
    Window w;
    const Ins *view = ir_at(l->k, i->arg[0]);
    l->val[r].reg = window_of(l, view, &w) ? load_window(l, &w, &l->val[r].layout)
                                           : load_panel(l, view, &l->val[r].layout);
}

static void lower_store(Lower *l, const Ins *i)
{
    Window w;
    const Ins *view = ir_at(l->k, i->arg[0]);
    Type t = type_of(l->k, i->arg[1]);
    /* a value that is repeated takes a layout of the whole tile */
    Layout layout = l->val[i->arg[1]].layout;
    Op op = ir_at(l->k, i->arg[1])->op;
    if (t.rows != view->type.rows || t.cols != view->type.cols || op == OP_ROW || op == OP_COL)
        layout = layout_flat(l->shape, view->type.rows, view->type.cols, 2);
    V *x = operand_in(l, i->arg[1], &layout);
    if (window_of(l, view, &w))
        store_window(l, &w, &layout, x);
    else
        store_panel(l, view, &layout, x);
}

/* Address of what an index tile's register asks for: elements along the view's last dimension. */
static V indexed(Lower *l, const Ins *view, V row, V index, Bit b)
{
    V at = LLVMBuildSExt(l->b, index, l->i64, "");
    const Memory *m = memory_of(l, view);
    int size = dtype_bits(m->elem) / 8;
    V offset = add64(l, view_corner(l, view), at);
    if (view->type.rows > 1) {
        V down = LLVMBuildZExt(l->b, LLVMBuildAdd(l->b, row, c32(l, b.row), ""), l->i64, "");
        offset = add64(l, offset, mul64(l, down, l->pitch[memory_index(l, view)]));
    }
    return bytes_at(l, l->base[memory_index(l, view)], mul64(l, offset, size));
}

static void lower_indexed(Lower *l, const Ins *i, Ref r)
{
    const Ins *view = ir_at(l->k, i->arg[0]);
    Type shape = i->op == OP_GATHER ? i->type : type_of(l->k, i->arg[2]), index = type_of(l->k, i->arg[1]);
    shape.rows = MAX(shape.rows, index.rows);
    shape.cols = MAX(shape.cols, index.cols);
    Layout layout = i->op == OP_GATHER ? l->val[r].layout : layout_flat(l->shape, shape.rows, shape.cols, 0);
    V *at = operand_in(l, i->arg[1], &layout), *x = i->op == OP_SCATTER ? operand_in(l, i->arg[2], &layout) : NULL;
    V *out = i->op == OP_GATHER ? new_value(l, r, &layout) : NULL;
    V row = thread_part(l, &layout, true), col = thread_part(l, &layout, false);
    Window tile = {.rows = shape.rows, .cols = shape.cols};
    LLVMTypeRef type = elem_type(&l->code, memory_of(l, view)->elem);
    int size = dtype_bits(memory_of(l, view)->elem) / 8;
    LLVMBasicBlockRef outer = x ? open_if(l, owner(l, &layout)) : NULL;
    for (int reg = 0; reg < reg_count(&layout); reg++) {
        Bit b = layout_reg(&layout, reg);
        V inside = window_inside(l, &tile, &layout, row, col, b), p = indexed(l, view, row, at[reg], b);
        if (out) {
            out[reg] = load_masked(l, type, p, l->base[memory_index(l, view)], inside, size);
            continue;
        }
        LLVMBasicBlockRef join = open_if(l, inside);
        LLVMSetAlignment(LLVMBuildStore(l->b, x[reg], p), (unsigned)size);
        close_if(l, join);
    }
    close_if(l, outer);
}

static void lower_atomic(Lower *l, const Ins *i)
{
    Window w;
    Layout one = layout_scalar(l->shape);
    if (!window_of(l, ir_at(l->k, i->arg[0]), &w))
        return;
    V x = scalar(l, i->arg[1]);
    LLVMBasicBlockRef join = open_if(l, owner(l, &one));
    LLVMBuildAtomicRMW(l->b, LLVMAtomicRMWBinOpAdd, w.corner, x, LLVMAtomicOrderingMonotonic, false);
    close_if(l, join);
}

void access_memory(Lower *l, const Ins *i, Ref r)
{
    switch (i->op) {
    case OP_LOAD: lower_load(l, i, r); break;
    case OP_STORE: lower_store(l, i); break;
    case OP_GATHER:
    case OP_SCATTER: lower_indexed(l, i, r); break;
    case OP_ATOMIC_ADD: lower_atomic(l, i); break;
    default: break; /* PREFETCH is a hint that GPUs' caches do not need */
    }
}
