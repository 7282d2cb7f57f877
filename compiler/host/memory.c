/* memory.c - loads, stores, gathers and scatters on the host: addresses from views, masks at borders. */
#include "lower.h"

int64_t row_stride(const Memory *m)
{
    return m->pitch ? m->pitch : m->dim[m->rank - 1].n;
}

int64_t panel_elements(const Memory *m)
{
    return round_up(m->dim[m->rank - 2].n, m->unit) * m->wide;
}

static V mul(Lower *l, V x, int64_t by)
{
    return LLVMBuildNSWMul(l->b, x, i64_const(&l->code, by), "");
}

static V coordinate(Lower *l, const Ins *view, int d)
{
    V v = tile_vec(l, view->arg[d + 1], 0, 0, 1);
    DType t = type_of(l->k, view->arg[d + 1]).elem;
    return math_cast(&l->code, v, t, DT_S64, 1);
}

static const Memory *memory_of(Lower *l, const Ins *view)
{
    return &l->k->mem.at[ir_at(l->k, view->arg[0])->integer];
}

static V base_of(Lower *l, const Ins *view)
{
    return l->base[ir_at(l->k, view->arg[0])->integer];
}

static V extent_value(Lower *l, Dim d)
{
    if (d.size < 0)
        return i64_const(&l->code, d.n);
    V at = i64_const(&l->code, d.size);
    V size = LLVMBuildLoad2(l->b, l->i64, LLVMBuildGEP2(l->b, l->i64, l->sizes, &at, 1, ""), "");
    return d.n == 1 ? size : mul(l, size, d.n);
}

/* Row-major offset over dimensions 0..count-1 given the elements that one step of dimension count-1 covers. */
static V lead_offset(Lower *l, const Ins *view, int count, int64_t inner)
{
    const Memory *m = memory_of(l, view);
    V offset = i64_const(&l->code, 0);
    for (int d = 0; d < count; d++) {
        V c = coordinate(l, view, d);
        if (d)
            offset = LLVMBuildNSWMul(l->b, offset, extent_value(l, m->dim[d]), "");
        offset = LLVMBuildNSWAdd(l->b, offset, c, "");
    }
    return count ? mul(l, offset, inner) : offset;
}

/* The corner of a ROWS view, or the start of the addressed matrix of a PANEL view. */
V view_offset(Lower *l, const Ins *view)
{
    const Memory *m = memory_of(l, view);
    if (m->layout == LAYOUT_PANEL)
        return lead_offset(l, view, m->rank - 2, panel_elements(m) * (round_up(m->dim[m->rank - 1].n, m->wide) / m->wide));
    if (m->rank == 1)
        return coordinate(l, view, 0);
    int last = m->rank - 1;
    V row = lead_offset(l, view, last, 1);
    row = m->pitch ? mul(l, row, m->pitch) : LLVMBuildNSWMul(l->b, row, extent_value(l, m->dim[last]), "");
    return LLVMBuildNSWAdd(l->b, row, coordinate(l, view, last), "");
}

static V add_const(Lower *l, V x, int64_t c)
{
    return c ? LLVMBuildNSWAdd(l->b, x, i64_const(&l->code, c), "") : x;
}

/* Element (k, n) of a panel: [n/wide][k/unit][n%wide][k%unit]. */
static V panel_offset(Lower *l, const Memory *m, V k, V n)
{
    V block = mul(l, LLVMBuildUDiv(l->b, n, i64_const(&l->code, m->wide), ""), panel_elements(m));
    V line = mul(l, LLVMBuildUDiv(l->b, k, i64_const(&l->code, m->unit), ""), (int64_t)m->wide * m->unit);
    V col = mul(l, LLVMBuildURem(l->b, n, i64_const(&l->code, m->wide), ""), m->unit);
    V rest = LLVMBuildURem(l->b, k, i64_const(&l->code, m->unit), "");
    return LLVMBuildNSWAdd(l->b, LLVMBuildNSWAdd(l->b, block, line, ""), LLVMBuildNSWAdd(l->b, col, rest, ""), "");
}

V element_offset(Lower *l, const Ins *view, V corner, int r, int c)
{
    const Memory *m = memory_of(l, view);
    bool transposed = view->a & VIEW_TRANSPOSED;
    int along_row = transposed ? c : r, along_col = transposed ? r : c; /* in the memory's own last two dimensions */
    if (m->layout == LAYOUT_ROWS)
        return add_const(l, corner, (m->rank > 1 ? along_row * row_stride(m) : 0) + along_col);
    V k = add_const(l, coordinate(l, view, m->rank - 2), along_row);
    V n = add_const(l, coordinate(l, view, m->rank - 1), along_col);
    return LLVMBuildNSWAdd(l->b, corner, panel_offset(l, m, k, n), "");
}

static V pointer(Lower *l, const Ins *view, V offset)
{
    return LLVMBuildGEP2(l->b, elem_type(&l->code, memory_of(l, view)->elem), base_of(l, view), &offset, 1, "");
}

/* ---- masks ------------------------------------------------------------------------------------------------------ */

typedef struct Border {
    int rows, cols; /* may the tile pass the end along this axis */
    int row_dim, col_dim;
} Border;

static Border border_of(Lower *l, const Ins *view)
{
    const Memory *m = memory_of(l, view);
    Border b = {.row_dim = m->rank - 2, .col_dim = m->rank - 1};
    if (view->a & VIEW_TRANSPOSED)
        b = (Border){.row_dim = m->rank - 1, .col_dim = m->rank - 2};
    view_needs_mask(l->k, view, &b.rows, &b.cols);
    return b;
}

static V inside(Lower *l, const Ins *view, int dim, V coordinates, int n)
{
    V extent = extent_value(l, memory_of(l, view)->dim[dim]);
    return LLVMBuildICmp(l->b, LLVMIntSLT, coordinates, splat(&l->code, extent, n), "");
}

/* n predicates for lanes c.. of row r; NULL when all hold. */
static V mask_of(Lower *l, const Ins *view, const Border *b, int r, int c, int n)
{
    V mask = NULL;
    if (b->cols) {
        V lane[16];
        for (int i = 0; i < n; i++)
            lane[i] = i64_const(&l->code, c + i);
        V offsets = n == 1 ? lane[0] : LLVMConstVector(lane, (unsigned)n);
        V at = LLVMBuildNSWAdd(l->b, splat(&l->code, coordinate(l, view, b->col_dim), n), offsets, "");
        mask = inside(l, view, b->col_dim, at, n);
    }
    if (b->rows) {
        V ok = splat(&l->code, inside(l, view, b->row_dim, add_const(l, coordinate(l, view, b->row_dim), r), 1), n);
        mask = mask ? LLVMBuildAnd(l->b, mask, ok, "") : ok;
    }
    return mask;
}

/* ---- vectors ---------------------------------------------------------------------------------------------------- */

/* Elements of tensors in a checkpoint may lie at any address, so nothing but scratch memory is assumed aligned. */
static V load_vector(Lower *l, const Ins *view, V offset, int n, V mask)
{
    LLVMTypeRef type = vec_type(elem_type(&l->code, memory_of(l, view)->elem), n);
    V p = pointer(l, view, offset);
    if (!mask) {
        V v = LLVMBuildLoad2(l->b, type, p, "");
        LLVMSetAlignment(v, 1);
        return v;
    }
    if (n == 1) { /* read the base instead, then drop it: never touches memory outside */
        V safe = LLVMBuildSelect(l->b, mask, p, base_of(l, view), "");
        V v = LLVMBuildLoad2(l->b, type, safe, "");
        LLVMSetAlignment(v, 1);
        return LLVMBuildSelect(l->b, mask, v, LLVMConstNull(type), "");
    }
    LLVMTypeRef overloads[] = {type, l->ptr};
    return call(&l->code, "llvm.masked.load", overloads, 2, (V[]){p, i32_const(&l->code, 1), mask, LLVMConstNull(type)}, 4);
}

static void when_mask(Lower *l, V mask, LLVMBasicBlockRef *join)
{
    LLVMBasicBlockRef then = LLVMAppendBasicBlockInContext(l->ctx, l->fn, "inside");
    *join = LLVMAppendBasicBlockInContext(l->ctx, l->fn, "after");
    LLVMBuildCondBr(l->b, mask, then, *join);
    LLVMPositionBuilderAtEnd(l->b, then);
}

static void store_scalar(Lower *l, const Ins *view, V offset, V value, V mask)
{
    LLVMBasicBlockRef join = NULL;
    if (mask)
        when_mask(l, mask, &join);
    LLVMSetAlignment(LLVMBuildStore(l->b, value, pointer(l, view, offset)), 1);
    if (mask) {
        LLVMBuildBr(l->b, join);
        LLVMPositionBuilderAtEnd(l->b, join);
    }
}

static void store_vector(Lower *l, const Ins *view, V offset, V value, int n, V mask)
{
    if (n == 1) {
        store_scalar(l, view, offset, value, mask);
        return;
    }
    V p = pointer(l, view, offset);
    if (!mask) {
        LLVMSetAlignment(LLVMBuildStore(l->b, value, p), 1);
        return;
    }
    LLVMTypeRef overloads[] = {LLVMTypeOf(value), l->ptr};
    call(&l->code, "llvm.masked.store", overloads, 2, (V[]){value, p, i32_const(&l->code, 1), mask}, 4);
}

static bool contiguous(Lower *l, const Ins *view)
{
    return memory_of(l, view)->layout == LAYOUT_ROWS && !(view->a & VIEW_TRANSPOSED);
}

static V insert(Lower *l, V vector, V x, int lane, int n)
{
    return n == 1 ? x : LLVMBuildInsertElement(l->b, vector, x, i32_const(&l->code, lane), "");
}

static V extract(Lower *l, V vector, int lane, int n)
{
    return n == 1 ? vector : LLVMBuildExtractElement(l->b, vector, i32_const(&l->code, lane), "");
}

static void lower_load(Lower *l, const Ins *view, V corner, V *out)
{
    int n = lanes(view->type.cols), per_row = vectors(view->type.cols);
    Border b = border_of(l, view);
    LLVMTypeRef type = vec_type(elem_type(&l->code, view->type.elem), n);
    for (int r = 0; r < view->type.rows; r++)
        for (int v = 0; v < per_row; v++) {
            int c = v * n;
            V *to = &out[r * per_row + v];
            if (contiguous(l, view)) {
                *to = load_vector(l, view, element_offset(l, view, corner, r, c), n, mask_of(l, view, &b, r, c, n));
                continue;
            }
            *to = LLVMGetPoison(type);
            for (int i = 0; i < n; i++)
                *to = insert(l, *to, load_vector(l, view, element_offset(l, view, corner, r, c + i), 1,
                                                 mask_of(l, view, &b, r, c + i, 1)), i, n);
        }
}

/* Stores the vectors of a tile of the view's shape, row by row. */
static void store_tile(Lower *l, const Ins *view, V corner, V *x)
{
    int n = lanes(view->type.cols), per_row = vectors(view->type.cols);
    Border b = border_of(l, view);
    for (int at = 0; at < view->type.rows * per_row; at++) {
        int r = at / per_row, c = at % per_row * n;
        if (contiguous(l, view)) {
            store_vector(l, view, element_offset(l, view, corner, r, c), x[at], n, mask_of(l, view, &b, r, c, n));
            continue;
        }
        for (int i = 0; i < n; i++)
            store_scalar(l, view, element_offset(l, view, corner, r, c + i), extract(l, x[at], i, n),
                         mask_of(l, view, &b, r, c + i, 1));
    }
}

static void lower_store(Lower *l, const Ins *view, V corner, Ref value)
{
    int per_row = vectors(view->type.cols), count = view->type.rows * per_row;
    V *x = arena_array(l->arena, V, count);
    for (int at = 0; at < count; at++)
        x[at] = tile_vec(l, value, at / per_row, at % per_row, lanes(view->type.cols));
    store_tile(l, view, corner, x);
}

/* gather and scatter: index tile [R or 1, C] of offsets along the last dimension, from the view's corner. */
static void lower_indexed(Lower *l, const Ins *i, Ref r)
{
    const Ins *view = ir_at(l->k, i->arg[0]);
    Type shape = i->op == OP_GATHER ? i->type : type_of(l->k, i->arg[2]);
    Type index = type_of(l->k, i->arg[1]);
    shape.rows = MAX(shape.rows, index.rows);
    shape.cols = MAX(shape.cols, index.cols);
    V corner = l->val[i->arg[0]].at[0];
    int n = lanes(shape.cols), per_row = vectors(shape.cols);
    for (int row = 0; row < shape.rows; row++)
        for (int v = 0; v < per_row; v++) {
            V idx = tile_vec(l, i->arg[1], row, v, n);
            V value = i->op == OP_SCATTER ? tile_vec(l, i->arg[2], row, v, n)
                                          : LLVMGetPoison(vec_type(elem_type(&l->code, shape.elem), n));
            for (int lane = 0; lane < n; lane++) {
                V at = LLVMBuildSExt(l->b, extract(l, idx, lane, n), l->i64, "");
                V offset = LLVMBuildNSWAdd(l->b, element_offset(l, view, corner, view->type.rows > 1 ? row : 0, 0), at, "");
                if (i->op == OP_SCATTER)
                    store_scalar(l, view, offset, extract(l, value, lane, n), NULL);
                else
                    value = insert(l, value, load_vector(l, view, offset, 1, NULL), lane, n);
            }
            if (i->op == OP_GATHER)
                l->val[r].at[row * per_row + v] = value;
        }
}

/* A row or a column of the source is repeated, as everywhere. */
static void lower_copy(Lower *l, const Ins *i)
{
    const Ins *to = ir_at(l->k, i->arg[0]), *from = ir_at(l->k, i->arg[1]);
    int per_row = vectors(to->type.cols), count = to->type.rows * per_row, from_row = vectors(from->type.cols);
    V *source = arena_array(l->arena, V, from->type.rows * from_row), *x = arena_array(l->arena, V, count);
    lower_load(l, from, l->val[i->arg[1]].at[0], source);
    for (int at = 0; at < count; at++) {
        V v = source[(from->type.rows == 1 ? 0 : at / per_row) * from_row + (from->type.cols == 1 ? 0 : at % per_row)];
        x[at] = from->type.cols == 1 ? splat(&l->code, v, lanes(to->type.cols)) : v;
    }
    store_tile(l, to, l->val[i->arg[0]].at[0], x);
}

static void lower_atomic(Lower *l, const Ins *i)
{
    const Ins *view = ir_at(l->k, i->arg[0]);
    V p = pointer(l, view, element_offset(l, view, l->val[i->arg[0]].at[0], 0, 0));
    LLVMBuildAtomicRMW(l->b, LLVMAtomicRMWBinOpAdd, p, tile_vec(l, i->arg[1], 0, 0, 1), LLVMAtomicOrderingMonotonic, false);
}

static void lower_prefetch(Lower *l, const Ins *i)
{
    const Ins *view = ir_at(l->k, i->arg[0]);
    V p = pointer(l, view, element_offset(l, view, l->val[i->arg[0]].at[0], 0, 0));
    call(&l->code, "llvm.prefetch", &l->ptr, 1, (V[]){p, i32_const(&l->code, 0), i32_const(&l->code, 3), i32_const(&l->code, 1)}, 4);
}

void lower_memory(Lower *l, const Ins *i, Ref r)
{
    const Ins *view = ir_at(l->k, i->arg[0]);
    V corner = l->val[i->arg[0]].at[0];
    switch (i->op) {
    case OP_LOAD: lower_load(l, view, corner, l->val[r].at); break;
    case OP_STORE: lower_store(l, view, corner, i->arg[1]); break;
    case OP_GATHER:
    case OP_SCATTER: lower_indexed(l, i, r); break;
    case OP_COPY: lower_copy(l, i); break;
    case OP_PREFETCH: lower_prefetch(l, i); break;
    default: lower_atomic(l, i); break;
    }
}
