/* lower.c - tile IR to LLVM IR for CPUs: the kernel's frame, control flow, and tile operations that touch no memory.
 *
 * A kernel becomes  void kernel(void **buffers, int64 *sizes, int64 begin, int64 end, void *scratch)  which runs the blocks
 * begin..end-1 one after the other. Threads are the caller's business: blocks are independent. No fast-math flag is
 * ever set, so LLVM keeps every order of evaluation. */
#include "lower.h"

#include <string.h>

static V *new_value(Lower *l, Ref r, int count)
{
    return l->val[r].at = arena_array(l->arena, V, MAX(count, 1));
}

static int tile_vectors(Type t) { return t.rows * vectors(t.cols); }

V tile_vec(Lower *l, Ref r, int row, int vec, int n)
{
    const Ins *i = ir_at(l->k, r);
    int lane = lanes(i->type.cols), per_row = vectors(i->type.cols);
    if (i->type.rows == 1)
        row = 0;
    if (i->type.cols == 1)
        vec = 0;
    V v = l->val[r].at[row * per_row + vec];
    if (i->op == OP_FRAG)
        v = LLVMBuildLoad2(l->b, vec_type(elem_type(&l->code, i->type.elem), lane), v, "");
    return lane == 1 ? splat(&l->code, v, n) : v;
}

/* ---- elementwise and shape ------------------------------------------------------------------------------------ */

static void lower_elementwise(Lower *l, const Ins *i, Ref r)
{
    int n = lanes(i->type.cols), per_row = vectors(i->type.cols);
    V *out = new_value(l, r, tile_vectors(i->type));
    DType elem = type_of(l->k, i->arg[0]).elem;
    for (int row = 0; row < i->type.rows; row++)
        for (int v = 0; v < per_row; v++) {
            V x[3] = {0};
            for (int a = 0; a < i->nargs; a++)
                x[a] = tile_vec(l, i->arg[a], row, v, n);
            V *to = &out[row * per_row + v];
            if (i->op == OP_CAST)
                *to = math_cast(&l->code, x[0], elem, i->type.elem, n);
            else if (i->op == OP_BITCAST)
                *to = LLVMBuildBitCast(l->b, x[0], vec_type(elem_type(&l->code, i->type.elem), n), "");
            else if (i->op == OP_FMA)
                *to = math_fma(&l->code, x[0], x[1], x[2], n);
            else if (i->op == OP_SELECT)
                *to = LLVMBuildSelect(l->b, x[0], x[1], x[2], "");
            else if (i->nargs == 1)
                *to = math_unary(&l->code, i->op, x[0], n);
            else
                *to = math_binary(&l->code, i->op, elem, x[0], x[1], n);
        }
}

static V element(Lower *l, Ref tile, int row, int col)
{
    Type t = type_of(l->k, tile);
    int n = lanes(t.cols);
    V v = tile_vec(l, tile, row, col / n, n);
    return n == 1 ? v : LLVMBuildExtractElement(l->b, v, i32_const(&l->code, col % n), "");
}

static V from_elements(Lower *l, V *elements, int n)
{
    if (n == 1)
        return elements[0];
    V v = LLVMGetPoison(vec_type(LLVMTypeOf(elements[0]), n));
    for (int i = 0; i < n; i++)
        v = LLVMBuildInsertElement(l->b, v, elements[i], i32_const(&l->code, i), "");
    return v;
}

/* Lane-aligned pieces move whole vectors; anything else goes element by element (LLVM makes shuffles of it). */
static void lower_slice(Lower *l, const Ins *i, Ref r)
{
    Type from = type_of(l->k, i->arg[0]);
    int n = lanes(i->type.cols), per_row = vectors(i->type.cols);
    V *out = new_value(l, r, tile_vectors(i->type));
    for (int row = 0; row < i->type.rows; row++)
        for (int v = 0; v < per_row; v++) {
            int at_row = i->pos[0] + row, at_col = i->pos[1] + v * n;
            if (lanes(from.cols) == n && at_col % n == 0) {
                out[row * per_row + v] = tile_vec(l, i->arg[0], at_row, at_col / n, n);
                continue;
            }
            V e[16];
            for (int c = 0; c < n; c++)
                e[c] = element(l, i->arg[0], at_row, at_col + c);
            out[row * per_row + v] = from_elements(l, e, n);
        }
}

static void lower_join(Lower *l, const Ins *i, Ref r)
{
    Type a = type_of(l->k, i->arg[0]);
    int n = lanes(i->type.cols), per_row = vectors(i->type.cols);
    V *out = new_value(l, r, tile_vectors(i->type));
    for (int row = 0; row < i->type.rows; row++)
        for (int v = 0; v < per_row; v++) {
            if (n == 16 && a.cols % 16 == 0) {
                int left = a.cols / 16;
                out[row * per_row + v] = tile_vec(l, i->arg[v >= left], row, v >= left ? v - left : v, 16);
                continue;
            }
            V e[16];
            for (int c = 0; c < n; c++) {
                int col = v * n + c;
                e[c] = col < a.cols ? element(l, i->arg[0], row, col) : element(l, i->arg[1], row, col - a.cols);
            }
            out[row * per_row + v] = from_elements(l, e, n);
        }
}

/* 16 x 16 by four stages of exchanges between rows `s` apart; other shapes element by element. */
static void lower_transpose(Lower *l, const Ins *i, Ref r)
{
    V *out = new_value(l, r, tile_vectors(i->type));
    if (i->type.rows != 16 || i->type.cols != 16) {
        int n = lanes(i->type.cols), per_row = vectors(i->type.cols);
        for (int row = 0; row < i->type.rows; row++)
            for (int v = 0; v < per_row; v++) {
                V e[16];
                for (int c = 0; c < n; c++)
                    e[c] = element(l, i->arg[0], v * n + c, row);
                out[row * per_row + v] = from_elements(l, e, n);
            }
        return;
    }
    for (int row = 0; row < 16; row++)
        out[row] = tile_vec(l, i->arg[0], row, 0, 16);
    for (int s = 8; s; s /= 2)
        for (int row = 0; row < 16; row++) {
            if (row & s)
                continue;
            V low[16], high[16], a = out[row], b = out[row + s];
            for (int lane = 0; lane < 16; lane++) {
                low[lane] = i32_const(&l->code, lane & s ? 16 + lane - s : lane);
                high[lane] = i32_const(&l->code, lane & s ? 16 + lane : lane + s);
            }
            out[row] = LLVMBuildShuffleVector(l->b, a, b, LLVMConstVector(low, 16), "");
            out[row + s] = LLVMBuildShuffleVector(l->b, a, b, LLVMConstVector(high, 16), "");
        }
}

static void lower_reshape(Lower *l, const Ins *i, Ref r)
{
    int from = type_of(l->k, i->arg[0]).cols, n = lanes(i->type.cols), count = tile_vectors(i->type);
    V *out = new_value(l, r, count);
    for (int v = 0; v < count; v++) {
        V e[16];
        for (int c = 0; c < n; c++)
            e[c] = element(l, i->arg[0], (v * n + c) / from, (v * n + c) % from);
        out[v] = from_elements(l, e, n);
    }
}

static void lower_scan(Lower *l, const Ins *i, Ref r)
{
    int n = lanes(i->type.cols), per_row = vectors(i->type.cols);
    V *out = new_value(l, r, tile_vectors(i->type));
    for (int row = 0; row < i->type.rows; row++) {
        V sum = NULL, e[16];
        for (int col = 0; col < i->type.cols; col++) {
            V x = element(l, i->arg[0], row, col);
            sum = sum ? LLVMBuildAdd(l->b, sum, x, "") : x;
            e[col % n] = sum;
            if (col % n == n - 1)
                out[row * per_row + col / n] = from_elements(l, e, n);
        }
    }
}

static V combine(Lower *l, ReduceKind kind, DType elem, V x, V y, int n)
{
    return math_binary(&l->code, kind == REDUCE_ADD ? OP_ADD : kind == REDUCE_MAX ? OP_MAX : OP_MIN, elem, x, y, n);
}

/* Halves the vector until one lane is left: lane i meets lane i + n/2, then n/4, ... */
static V reduce_lanes(Lower *l, ReduceKind kind, DType elem, V v, int n)
{
    for (int half = n / 2; half; half /= 2) {
        V low[16], high[16];
        for (int i = 0; i < half; i++) {
            low[i] = i32_const(&l->code, i);
            high[i] = i32_const(&l->code, i + half);
        }
        V poison = LLVMGetPoison(LLVMTypeOf(v));
        V a = LLVMBuildShuffleVector(l->b, v, poison, LLVMConstVector(low, (unsigned)half), "");
        V b = LLVMBuildShuffleVector(l->b, v, poison, LLVMConstVector(high, (unsigned)half), "");
        v = combine(l, kind, elem, a, b, half);
    }
    return n == 1 ? v : LLVMBuildExtractElement(l->b, v, i32_const(&l->code, 0), "");
}

static void lower_reduce(Lower *l, const Ins *i, Ref r)
{
    Type t = type_of(l->k, i->arg[0]);
    int n = lanes(t.cols), per_row = vectors(t.cols);
    V *out = new_value(l, r, tile_vectors(i->type));
    ReduceKind kind = (ReduceKind)i->a;
    if (i->b == 0) { /* down the rows, ascending */
        for (int v = 0; v < per_row; v++) {
            out[v] = tile_vec(l, i->arg[0], 0, v, n);
            for (int row = 1; row < t.rows; row++)
                out[v] = combine(l, kind, t.elem, out[v], tile_vec(l, i->arg[0], row, v, n), n);
        }
        return;
    }
    for (int row = 0; row < t.rows; row++) {
        V v = tile_vec(l, i->arg[0], row, 0, n);
        for (int at = 1; at < per_row; at++)
            v = combine(l, kind, t.elem, v, tile_vec(l, i->arg[0], row, at, n), n);
        out[row] = (n & (n - 1)) == 0 ? reduce_lanes(l, kind, t.elem, v, n) : NULL;
        if (!out[row]) { /* not a power of two: in order */
            out[row] = element(l, i->arg[0], row, 0);
            for (int c = 1; c < t.cols; c++)
                out[row] = combine(l, kind, t.elem, out[row], element(l, i->arg[0], row, c), 1);
        }
    }
}

/* ---- leaves and control --------------------------------------------------------------------------------------- */

static void lower_coordinates(Lower *l, const Ins *i, Ref r)
{
    V *out = new_value(l, r, tile_vectors(i->type));
    if (i->op == OP_ROW) {
        for (int row = 0; row < i->type.rows; row++)
            out[row] = i32_const(&l->code, row);
        return;
    }
    int n = lanes(i->type.cols);
    for (int v = 0; v < vectors(i->type.cols); v++) {
        V e[16];
        for (int c = 0; c < n; c++)
            e[c] = i32_const(&l->code, v * n + c);
        out[v] = n == 1 ? e[0] : LLVMConstVector(e, (unsigned)n);
    }
}

static void lower_frag(Lower *l, const Ins *i, Ref r)
{
    int count = tile_vectors(i->type);
    V *out = new_value(l, r, count);
    for (int n = 0; n < count; n++)
        out[n] = LLVMBuildAlloca(l->entry, vec_type(elem_type(&l->code, i->type.elem), lanes(i->type.cols)), "");
}

static void lower_set(Lower *l, const Ins *i)
{
    Type t = type_of(l->k, i->arg[0]);
    int n = lanes(t.cols), per_row = vectors(t.cols);
    V *from = arena_array(l->arena, V, tile_vectors(t));
    for (int at = 0; at < tile_vectors(t); at++)
        from[at] = tile_vec(l, i->arg[1], at / per_row, at % per_row, n);
    for (int at = 0; at < tile_vectors(t); at++)
        LLVMBuildStore(l->b, from[at], l->val[i->arg[0]].at[at]);
}

static LLVMBasicBlockRef new_block(Lower *l, const char *name)
{
    return LLVMAppendBasicBlockInContext(l->ctx, l->fn, name);
}

static V counted_loop_open(Lower *l, V lo, V hi, Region *region)
{
    LLVMBasicBlockRef from = LLVMGetInsertBlock(l->b), body = new_block(l, "body");
    region->header = new_block(l, "loop");
    region->exit = new_block(l, "exit");
    LLVMBuildBr(l->b, region->header);
    LLVMPositionBuilderAtEnd(l->b, region->header);
    region->phi = LLVMBuildPhi(l->b, l->i64, "i");
    LLVMAddIncoming(region->phi, &lo, &from, 1);
    LLVMBuildCondBr(l->b, LLVMBuildICmp(l->b, LLVMIntSLT, region->phi, hi, ""), body, region->exit);
    LLVMPositionBuilderAtEnd(l->b, body);
    return region->phi;
}

static void counted_loop_close(Lower *l, Region *region, int64_t step)
{
    V next = LLVMBuildNSWAdd(l->b, region->phi, i64_const(&l->code, step), "");
    LLVMBasicBlockRef latch = LLVMGetInsertBlock(l->b);
    LLVMAddIncoming(region->phi, &next, &latch, 1);
    LLVMBuildBr(l->b, region->header);
    LLVMPositionBuilderAtEnd(l->b, region->exit);
}

static void lower_control(Lower *l, const Ins *i, Ref r)
{
    if (i->op == OP_LOOP) {
        Region *region = &l->region[l->depth++];
        *region = (Region){.ref = r};
        V lo = tile_vec(l, i->arg[0], 0, 0, 1), hi = tile_vec(l, i->arg[1], 0, 0, 1);
        new_value(l, r, 1)[0] = counted_loop_open(l, lo, hi, region);
    } else if (i->op == OP_WHEN) {
        Region *region = &l->region[l->depth++];
        *region = (Region){.ref = r, .header = new_block(l, "else"), .exit = new_block(l, "join")};
        LLVMBasicBlockRef then = new_block(l, "then");
        LLVMBuildCondBr(l->b, tile_vec(l, i->arg[0], 0, 0, 1), then, region->header);
        LLVMPositionBuilderAtEnd(l->b, then);
    } else if (i->op == OP_ELSE) {
        Region *region = &l->region[l->depth - 1];
        region->has_else = true;
        LLVMBuildBr(l->b, region->exit);
        LLVMPositionBuilderAtEnd(l->b, region->header);
    } else {
        Region *region = &l->region[--l->depth];
        const Ins *open = ir_at(l->k, region->ref);
        if (open->op == OP_LOOP) {
            counted_loop_close(l, region, open->integer);
            return;
        }
        LLVMBuildBr(l->b, region->exit);
        if (!region->has_else) {
            LLVMPositionBuilderAtEnd(l->b, region->header);
            LLVMBuildBr(l->b, region->exit);
        }
        LLVMPositionBuilderAtEnd(l->b, region->exit);
    }
}

static void lower_ins(Lower *l, Ref r)
{
    const Ins *i = ir_at(l->k, r);
    switch (op_info[i->op].class) {
    case CLASS_UN: case CLASS_BIN: case CLASS_CMP: case CLASS_TERN:
        lower_elementwise(l, i, r);
        return;
    case CLASS_CTRL:
        lower_control(l, i, r);
        return;
    default:
        break;
    }
    switch (i->op) {
    case OP_CONST: new_value(l, r, 1)[0] = elem_const(&l->code, i); break;
    case OP_SIZE: case OP_MEMORY: break; /* done in the frame */
    case OP_BLOCK: new_value(l, r, 1)[0] = l->block[i->integer]; break;
    case OP_FRAG: lower_frag(l, i, r); break;
    case OP_ROW: case OP_COL: lower_coordinates(l, i, r); break;
    case OP_CAST: case OP_BITCAST: lower_elementwise(l, i, r); break;
    case OP_SLICE: lower_slice(l, i, r); break;
    case OP_JOIN: lower_join(l, i, r); break;
    case OP_TRANSPOSE: lower_transpose(l, i, r); break;
    case OP_RESHAPE: lower_reshape(l, i, r); break;
    case OP_SCAN: lower_scan(l, i, r); break;
    case OP_REDUCE: lower_reduce(l, i, r); break;
    case OP_SET: lower_set(l, i); break;
    case OP_GEMM: lower_gemm(l, i); break;
    case OP_VIEW: new_value(l, r, 1)[0] = view_offset(l, i); break;
    default:
        if (i->op == OP_LOAD || i->op == OP_GATHER)
            new_value(l, r, tile_vectors(i->type));
        lower_memory(l, i, r);
    }
}

/* ---- the frame ------------------------------------------------------------------------------------------------- */

static V load_at(Lower *l, LLVMTypeRef type, V base, int64_t index)
{
    V at = i64_const(&l->code, index);
    return LLVMBuildLoad2(l->entry, type, LLVMBuildGEP2(l->entry, type, base, &at, 1, ""), "");
}

/* Loads argument pointers, places shared tiles in the scratch memory, reads the sizes. */
static void lower_bases(Lower *l, V buffers)
{
    for (size_t m = 0; m < l->k->mem.len; m++) {
        const Memory *mem = &l->k->mem.at[m];
        if (mem->space == SPACE_GLOBAL) {
            l->base[m] = load_at(l, l->ptr, buffers, mem->index);
            continue;
        }
        V at = i64_const(&l->code, l->scratch_bytes);
        l->base[m] = LLVMBuildGEP2(l->entry, l->i8, l->scratch, &at, 1, "");
        l->scratch_bytes += (memory_bytes(mem, NULL) + 127) / 64 * 64;
    }
    for (size_t r = 1; r < l->k->ins.len; r++) {
        const Ins *i = ir_at(l->k, (Ref)r);
        if (i->op == OP_SIZE)
            new_value(l, (Ref)r, 1)[0] = load_at(l, l->i64, l->sizes, i->integer);
    }
}

/* Grid extents are built from constants and sizes by scalar operations at the top of the kernel. */
static void lower_grid(Lower *l, V index)
{
    for (int d = l->k->grid_rank - 1; d >= 0; d--) {
        V extent = l->grid[d] = tile_vec(l, l->k->grid[d], 0, 0, 1);
        l->block[d] = d ? LLVMBuildURem(l->b, index, extent, "") : index;
        index = d ? LLVMBuildUDiv(l->b, index, extent, "") : index;
    }
}

static void set_attributes(Lower *l)
{
    const char *attributes[][2] = {{"target-cpu", l->t->cpu}, {"target-features", l->t->features},
                                   {"prefer-vector-width", l->t->vector_bits == 512 ? "512" : "256"},
                                   {"min-legal-vector-width", l->t->vector_bits == 512 ? "512" : "0"}};
    for (size_t i = 0; i < COUNT(attributes); i++)
        LLVMAddAttributeAtIndex(l->fn, LLVMAttributeFunctionIndex,
                                LLVMCreateStringAttribute(l->ctx, attributes[i][0], (unsigned)strlen(attributes[i][0]),
                                                          attributes[i][1], (unsigned)strlen(attributes[i][1])));
    unsigned nounwind = LLVMGetEnumAttributeKindForName("nounwind", 8);
    LLVMAddAttributeAtIndex(l->fn, LLVMAttributeFunctionIndex, LLVMCreateEnumAttribute(l->ctx, nounwind, 0));
}

/* Scalars that the grid needs come first in the kernel; everything from the first other instruction on is the
 * block's. */
static void lower_body(Lower *l, V begin, V end)
{
    Region blocks = {0};
    V index = counted_loop_open(l, begin, end, &blocks);
    Ref last_grid = 0;
    for (int d = 0; d < l->k->grid_rank; d++)
        last_grid = MAX(last_grid, l->k->grid[d]);
    for (Ref r = 1; r <= last_grid; r++)
        if (ir_at(l->k, r)->op != OP_BLOCK)
            lower_ins(l, r);
    lower_grid(l, index);
    for (Ref r = last_grid + 1; r < (Ref)l->k->ins.len; r++)
        lower_ins(l, r);
    counted_loop_close(l, &blocks, 1);
    LLVMBuildRetVoid(l->b);
}

bool host_lower(const Kernel *k, const Target *t, LLVMModuleRef module, KernelInfo *info, Err *err)
{
    LLVMContextRef ctx = LLVMGetModuleContext(module);
    Lower l = {.k = k, .code = code_new(t, module), .arena = arena_new(), .err = err,
               .entry = LLVMCreateBuilderInContext(ctx)};
    LLVMTypeRef params[] = {l.ptr, l.ptr, l.i64, l.i64, l.ptr};
    l.fn = LLVMAddFunction(module, "kernel", LLVMFunctionType(LLVMVoidTypeInContext(ctx), params, COUNT(params), false));
    set_attributes(&l);
    l.val = arena_array(l.arena, Value, k->ins.len);
    l.base = arena_array(l.arena, V, MAX(k->mem.len, 1));
    l.sizes = LLVMGetParam(l.fn, 1);
    l.scratch = LLVMGetParam(l.fn, 4);

    LLVMBasicBlockRef entry = new_block(&l, "entry"), start = new_block(&l, "start");
    LLVMPositionBuilderAtEnd(l.entry, entry);
    LLVMPositionBuilderAtEnd(l.b, start);
    lower_bases(&l, LLVMGetParam(l.fn, 0));
    lower_body(&l, LLVMGetParam(l.fn, 2), LLVMGetParam(l.fn, 3));
    LLVMBuildBr(l.entry, start);
    *info = (KernelInfo){.scratch = l.scratch_bytes};

    LLVMDisposeBuilder(l.b);
    LLVMDisposeBuilder(l.entry);
    arena_free(l.arena);
    return !err->text[0];
}
