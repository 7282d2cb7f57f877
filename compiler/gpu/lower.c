/* lower.c - tile IR to LLVM IR for GPUs: the kernel's frame, control flow, and operations that touch no memory and need
 * no other thread. No fast-math flag is ever set, so LLVM keeps every order of evaluation. */
#include "gpu.h"

#include <stdio.h>
#include <string.h>

/* ---- values ------------------------------------------------------------------------------------------------- */

V *new_value(Lower *l, Ref r, const Layout *layout)
{
    l->val[r].layout = *layout;
    return l->val[r].reg = arena_array(l->arena, V, reg_count(layout));
}

V scalar(Lower *l, Ref r)
{
    Layout one = layout_scalar(l->shape);
    return operand_in(l, r, &one)[0];
}

/* Row or column numbers in any layout. */
static V *coordinates(Lower *l, const Ins *i, const Layout *want)
{
    bool rows = i->op == OP_ROW;
    V *out = arena_array(l->arena, V, reg_count(want)), part = thread_part(l, want, rows);
    for (int reg = 0; reg < reg_count(want); reg++) {
        Bit b = layout_reg(want, reg);
        out[reg] = LLVMBuildAdd(l->b, part, c32(l, rows ? b.row : b.col), "");
    }
    return out;
}

static V *present(Lower *l, Ref r) /* the registers as they are */
{
    const Ins *i = ir_at(l->k, r);
    Value *v = &l->val[r];
    if (i->op != OP_FRAG)
        return v->reg;
    int n = reg_count(&v->layout);
    V *out = arena_array(l->arena, V, n);
    for (int reg = 0; reg < n; reg++)
        out[reg] = LLVMBuildLoad2(l->b, elem_type(&l->code, i->type.elem), v->reg[reg], "");
    return out;
}

V *operand_in(Lower *l, Ref r, const Layout *want)
{
    const Ins *i = ir_at(l->k, r);
    Layout in = layout_slice(want, i->type.rows == 1, i->type.cols == 1);
    V *have = NULL, *out = arena_array(l->arena, V, reg_count(want));
    if (i->op == OP_ROW || i->op == OP_COL)
        have = coordinates(l, i, &in);
    else
        have = relayout(l, present(l, r), &l->val[r].layout, &in, i->type.elem, r);
    for (int reg = 0; reg < reg_count(want); reg++) {
        Bit b = layout_reg(want, reg);
        out[reg] = have[layout_find(&in, (Bit){i->type.rows == 1 ? 0 : b.row, i->type.cols == 1 ? 0 : b.col})];
    }
    return out;
}

/* ---- elementwise and shape ---------------------------------------------------------------------------------- */

static V elementwise(Lower *l, const Ins *i, const V *x)
{
    Type from = type_of(l->k, i->arg[0]);
    switch (i->op) {
    case OP_CAST: return math_cast(&l->code, x[0], from.elem, i->type.elem, 1);
    case OP_BITCAST: return LLVMBuildBitCast(l->b, x[0], elem_type(&l->code, i->type.elem), "");
    case OP_FMA: return math_fma(&l->code, x[0], x[1], x[2], 1);
    case OP_SELECT: return LLVMBuildSelect(l->b, x[0], x[1], x[2], "");
    default:
        return i->nargs == 1 ? math_unary(&l->code, i->op, x[0], 1)
                             : math_binary(&l->code, i->op, from.elem, x[0], x[1], 1);
    }
}

static void lower_elementwise(Lower *l, const Ins *i, Ref r)
{
    Layout layout = l->val[r].layout;
    V *in[3] = {0}, *out = new_value(l, r, &layout);
    for (int n = 0; n < i->nargs; n++)
        in[n] = operand_in(l, i->arg[n], &layout);
    for (int reg = 0; reg < reg_count(&layout); reg++) {
        V x[3];
        for (int n = 0; n < i->nargs; n++)
            x[n] = in[n][reg];
        out[reg] = elementwise(l, i, x);
    }
}

static void lower_transpose(Lower *l, const Ins *i, Ref r)
{
    Layout turned = layout_turned(l->val[r].layout);
    l->val[r].reg = operand_in(l, i->arg[0], &turned);
}

static void lower_reshape(Lower *l, const Ins *i, Ref r)
{
    Layout from = layout_reshaped(&l->val[r].layout, i->type, type_of(l->k, i->arg[0]));
    l->val[r].reg = operand_in(l, i->arg[0], &from);
}

static void lower_set(Lower *l, const Ins *i)
{
    Value *frag = &l->val[i->arg[0]];
    V *from = operand_in(l, i->arg[1], &frag->layout);
    for (int reg = 0; reg < reg_count(&frag->layout); reg++)
        LLVMBuildStore(l->b, from[reg], frag->reg[reg]);
}

static void lower_frag(Lower *l, const Ins *i, Ref r)
{
    Layout layout = l->val[r].layout;
    V *out = new_value(l, r, &layout);
    for (int reg = 0; reg < reg_count(&layout); reg++)
        out[reg] = LLVMBuildAlloca(l->entry, elem_type(&l->code, i->type.elem), "");
}

/* ---- control ------------------------------------------------------------------------------------------------ */

LLVMBasicBlockRef new_block(Lower *l, const char *name) { return LLVMAppendBasicBlockInContext(l->ctx, l->fn, name); }

static void open_loop(Lower *l, Ref r, V lo, V hi)
{
    Region *region = &l->region[l->depth++];
    LLVMBasicBlockRef from = LLVMGetInsertBlock(l->b), body = new_block(l, "body");
    *region = (Region){.ref = r, .header = new_block(l, "loop"), .exit = new_block(l, "exit")};
    LLVMBuildBr(l->b, region->header);
    LLVMPositionBuilderAtEnd(l->b, region->header);
    region->phi = LLVMBuildPhi(l->b, l->i64, "i");
    LLVMAddIncoming(region->phi, &lo, &from, 1);
    LLVMBuildCondBr(l->b, LLVMBuildICmp(l->b, LLVMIntSLT, region->phi, hi, ""), body, region->exit);
    LLVMPositionBuilderAtEnd(l->b, body);
    Layout one = layout_scalar(l->shape);
    new_value(l, r, &one)[0] = region->phi;
}

static void close_loop(Lower *l)
{
    Region *region = &l->region[--l->depth];
    V next = LLVMBuildNSWAdd(l->b, region->phi, c64(l, ir_at(l->k, region->ref)->integer), "");
    LLVMBasicBlockRef latch = LLVMGetInsertBlock(l->b);
    LLVMAddIncoming(region->phi, &next, &latch, 1);
    LLVMBuildBr(l->b, region->header);
    LLVMPositionBuilderAtEnd(l->b, region->exit);
}

static void open_when(Lower *l, Ref r, V condition)
{
    Region *region = &l->region[l->depth++];
    *region = (Region){.ref = r, .header = new_block(l, "else"), .exit = new_block(l, "join")};
    LLVMBasicBlockRef then = new_block(l, "then");
    LLVMBuildCondBr(l->b, condition, then, region->header);
    LLVMPositionBuilderAtEnd(l->b, then);
}

static void turn_when(Lower *l)
{
    Region *region = &l->region[l->depth - 1];
    region->has_else = true;
    LLVMBuildBr(l->b, region->exit);
    LLVMPositionBuilderAtEnd(l->b, region->header);
}

static void close_when(Lower *l)
{
    Region *region = &l->region[--l->depth];
    LLVMBuildBr(l->b, region->exit);
    if (!region->has_else) {
        LLVMPositionBuilderAtEnd(l->b, region->header);
        LLVMBuildBr(l->b, region->exit);
    }
    LLVMPositionBuilderAtEnd(l->b, region->exit);
}

static void lower_control(Lower *l, const Ins *i, Ref r)
{
    if (i->op == OP_LOOP)
        open_loop(l, r, scalar(l, i->arg[0]), scalar(l, i->arg[1]));
    else if (i->op == OP_WHEN)
        open_when(l, r, scalar(l, i->arg[0]));
    else if (i->op == OP_ELSE)
        turn_when(l);
    else if (ir_at(l->k, l->region[l->depth - 1].ref)->op == OP_LOOP)
        close_loop(l);
    else
        close_when(l);
}

/* ---- dispatch ----------------------------------------------------------------------------------------------- */

static void set_scalar(Lower *l, Ref r, V v)
{
    Layout one = layout_scalar(l->shape);
    new_value(l, r, &one)[0] = v;
}

static void lower_leaf(Lower *l, const Ins *i, Ref r)
{
    switch (i->op) {
    case OP_CONST: set_scalar(l, r, elem_const(&l->code, i)); break;
    case OP_BLOCK: set_scalar(l, r, l->block[i->integer]); break;
    case OP_FRAG: lower_frag(l, i, r); break;
    default: break; /* SIZE and MEMORY: in the frame; ROW and COL: where they are used */
    }
}

void lower_ins(Lower *l, Ref r)
{
    const Ins *i = ir_at(l->k, r);
    if (l->err->text[0])
        return;
    if (l->barrier[r])
        block_barrier(l);
    switch (op_info[i->op].class) {
    case CLASS_UN:
    case CLASS_BIN:
    case CLASS_CMP:
    case CLASS_TERN: lower_elementwise(l, i, r); return;
    case CLASS_CTRL: lower_control(l, i, r); return;
    case CLASS_LEAF: lower_leaf(l, i, r); return;
    default: break;
    }
    switch (i->op) {
    case OP_CAST:
    case OP_BITCAST: lower_elementwise(l, i, r); break;
    case OP_SLICE:
    case OP_JOIN: lower_rearranged(l, i, r); break;
    case OP_TRANSPOSE: lower_transpose(l, i, r); break;
    case OP_RESHAPE: lower_reshape(l, i, r); break;
    case OP_SCAN: lower_scan(l, i, r); break;
    case OP_REDUCE: lower_reduce(l, i, r); break;
    case OP_SET: lower_set(l, i); break;
    case OP_GEMM: multiply(l, i); break;
    case OP_VIEW: set_scalar(l, r, view_corner(l, i)); break;
    case OP_COPY: lower_copy(l, i); break;
    default: access_memory(l, i, r);
    }
}

void lower_range(Lower *l, Ref from, Ref to)
{
    for (Ref r = from; r < to && !l->err->text[0]; r++) {
        const Ins *i = ir_at(l->k, r);
        if (i->op == OP_LOOP && i->a == LOOP_PIPELINED)
            r = lower_pipeline(l, r);
        else
            lower_ins(l, r);
    }
}

/* ---- the frame ---------------------------------------------------------------------------------------------- */

static V intrinsic(Lower *l, const char *name) { return call(&l->code, name, NULL, 0, NULL, 0); }

static void add_attribute(Lower *l, const char *name, const char *value)
{
    LLVMAttributeRef a =
        LLVMCreateStringAttribute(l->ctx, name, (unsigned)strlen(name), value, (unsigned)strlen(value));
    LLVMAddAttributeAtIndex(l->fn, LLVMAttributeFunctionIndex, a);
}

static void annotate_nvidia(Lower *l, const char *key, int value)
{
    LLVMMetadataRef node[] = {LLVMValueAsMetadata(l->fn), LLVMMDStringInContext2(l->ctx, key, strlen(key)),
                              LLVMValueAsMetadata(c32(l, value))};
    LLVMAddNamedMetadataOperand(l->module, "nvvm.annotations",
                                LLVMMetadataAsValue(l->ctx, LLVMMDNodeInContext2(l->ctx, node, 3)));
}

static void make_kernel(Lower *l, int threads)
{
    enum { PTX_KERNEL = 71, AMDGPU_KERNEL = 91 }; /* calling conventions, llvm/IR/CallingConv.h */
    char text[32];
    snprintf(text, sizeof text, "%d,%d", threads, threads);
    LLVMSetFunctionCallConv(l->fn, l->g->nvidia ? PTX_KERNEL : AMDGPU_KERNEL);
    add_attribute(l, "target-cpu", l->t->cpu);
    if (l->t->features[0])
        add_attribute(l, "target-features", l->t->features);
    if (l->g->nvidia) {
        annotate_nvidia(l, "kernel", 1);
        annotate_nvidia(l, "maxntidx", threads);
        annotate_nvidia(l, "minctasm", 1); /* else ptxas would rather spill registers than have few blocks at once */
    } else
        add_attribute(l, "amdgpu-flat-work-group-size", text);
}

static void thread_numbers(Lower *l)
{
    l->tid = intrinsic(l, l->g->nvidia ? "llvm.nvvm.read.ptx.sreg.tid.x" : "llvm.amdgcn.workitem.id.x");
    l->lane = LLVMBuildAnd(l->b, l->tid, c32(l, l->g->wave - 1), "");
    l->warp = LLVMBuildLShr(l->b, l->tid, c32(l, l->shape.lanes), "");
}

V load_size(Lower *l, int id)
{
    V at = c64(l, id), p = LLVMBuildGEP2(l->b, l->i64, l->sizes, &at, 1, "");
    V v = LLVMBuildLoad2(l->b, l->i64, p, "");
    LLVMSetMetadata(v, LLVMGetMDKindIDInContext(l->ctx, "invariant.load", 14),
                    LLVMMetadataAsValue(l->ctx, LLVMMDNodeInContext2(l->ctx, NULL, 0)));
    return v;
}

/* Rows that a matrix unit reads are 64 bytes, or an odd multiple of that, beyond a multiple of 128 apart: then eight
 * threads that read 16 bytes each from two neighbouring rows meet all banks once. */
static int64_t padded_pitch(const Memory *m)
{
    int64_t bytes = m->dim[m->rank - 1].n * dtype_bits(m->elem) / 8;
    if (m->pitch || bytes < 64)
        return m->pitch ? m->pitch : m->dim[m->rank - 1].n;
    bytes = round_up(bytes, 64);
    return (bytes % 128 ? bytes : bytes + 64) * 8 / dtype_bits(m->elem);
}

static bool feeds_gemm(Lower *l, size_t mem)
{
    for (size_t r = 1; r < l->k->ins.len; r++) {
        const Ins *i = ir_at(l->k, (Ref)r);
        for (int n = 1; i->op == OP_GEMM && n <= 2; n++) {
            const Ins *v = ir_at(l->k, i->arg[n]);
            if (v->op == OP_VIEW && ir_at(l->k, v->arg[0])->integer == (int64_t)mem)
                return true;
        }
    }
    return false;
}

static void place_memory(Lower *l, size_t m)
{
    const Memory *mem = &l->k->mem.at[m];
    Dim last = mem->dim[mem->rank - 1];
    l->slots[m] = 1;
    l->pitch[m] = mem->pitch ? mem->pitch : last.size < 0 ? last.n : 0;
    if (mem->space == SPACE_GLOBAL) {
        l->base[m] = LLVMGetParam(l->fn, (unsigned)mem->index);
        return;
    }
    l->bytes[m] = memory_bytes(mem, NULL);
    if (mem->layout == LAYOUT_ROWS && feeds_gemm(l, m)) {
        int64_t rows = l->bytes[m] / (l->pitch[m] * dtype_bits(mem->elem) / 8);
        l->pitch[m] = padded_pitch(mem);
        l->bytes[m] = rows * l->pitch[m] * dtype_bits(mem->elem) / 8;
    }
    l->bytes[m] = round_up(l->bytes[m], SHARED_ALIGN);
    l->slots[m] = staged_slots(l, m, &l->staged[m]);
    V at = c64(l, l->shared_bytes);
    l->base[m] = LLVMBuildGEP2(l->b, l->i8, l->shared, &at, 1, "");
    l->shared_bytes += l->bytes[m] * l->slots[m];
}

static int arguments(const Kernel *k)
{
    int n = 0;
    for (size_t m = 0; m < k->mem.len; m++)
        if (k->mem.at[m].space == SPACE_GLOBAL)
            n = MAX(n, k->mem.at[m].index + 1);
    return n;
}

/* Block coordinates from the number in the line of blocks; surplus blocks leave. */
static void lower_grid(Lower *l)
{
    V index = intrinsic(l, l->g->nvidia ? "llvm.nvvm.read.ptx.sreg.ctaid.x" : "llvm.amdgcn.workgroup.id.x"), all = NULL;
    index = LLVMBuildZExt(l->b, index, l->i64, "");
    for (int d = 0; d < l->k->grid_rank; d++) {
        l->grid[d] = scalar(l, l->k->grid[d]);
        all = all ? LLVMBuildNSWMul(l->b, all, l->grid[d], "") : l->grid[d];
    }
    LLVMBasicBlockRef inside = new_block(l, "inside"), outside = new_block(l, "outside");
    LLVMBuildCondBr(l->b, LLVMBuildICmp(l->b, LLVMIntSLT, index, all, ""), inside, outside);
    LLVMPositionBuilderAtEnd(l->b, outside);
    LLVMBuildRetVoid(l->b);
    LLVMPositionBuilderAtEnd(l->b, inside);
    for (int d = l->k->grid_rank - 1; d >= 0; d--) {
        l->block[d] = d ? LLVMBuildURem(l->b, index, l->grid[d], "") : index;
        index = d ? LLVMBuildUDiv(l->b, index, l->grid[d], "") : index;
    }
}

static void lower_body(Lower *l)
{
    Ref last_grid = 0;
    for (int d = 0; d < l->k->grid_rank; d++)
        last_grid = MAX(last_grid, l->k->grid[d]);
    for (size_t r = 1; r < l->k->ins.len; r++)
        if (ir_at(l->k, (Ref)r)->op == OP_SIZE)
            set_scalar(l, (Ref)r, load_size(l, (int)ir_at(l->k, (Ref)r)->integer));
    for (Ref r = 1; r <= last_grid; r++)
        if (ir_at(l->k, r)->op != OP_BLOCK)
            lower_ins(l, r);
    lower_grid(l);
    lower_range(l, last_grid + 1, (Ref)l->k->ins.len);
    LLVMBuildRetVoid(l->b);
}

/* The on-chip memory is known in size at the end only. */
static void finish_shared(Lower *l)
{
    int64_t bytes = l->shared_bytes + l->scratch_bytes;
    V at = c64(l, l->shared_bytes), area = LLVMConstGEP2(l->i8, l->shared, &at, 1);
    LLVMReplaceAllUsesWith(l->scratch, area);
    LLVMDeleteGlobal(l->scratch);
    LLVMTypeRef type = LLVMArrayType2(l->i8, (uint64_t)(l->g->nvidia ? 0 : MAX(bytes, 1)));
    V final = LLVMAddGlobalInAddressSpace(l->module, type, "shared.final", 3);
    LLVMSetLinkage(final, l->g->nvidia ? LLVMExternalLinkage : LLVMInternalLinkage);
    LLVMSetAlignment(final, SHARED_ALIGN);
    if (!l->g->nvidia)
        LLVMSetInitializer(final, LLVMGetUndef(type));
    LLVMReplaceAllUsesWith(l->shared, final);
    LLVMDeleteGlobal(l->shared);
    LLVMSetValueName2(final, "shared", 6);
}

static V placeholder(Lower *l, const char *name)
{
    V v = LLVMAddGlobalInAddressSpace(l->module, LLVMArrayType2(l->i8, 0), name, 3);
    LLVMSetAlignment(v, SHARED_ALIGN);
    return v;
}

static void make_function(Lower *l)
{
    enum { MOST = 72 };
    LLVMTypeRef params[MOST];
    int n = arguments(l->k) + 1;
    if (n > MOST) {
        err_set(l->err, "kernel \"%s\": %d arguments, more than %d", l->k->name, n - 1, MOST - 1);
        return;
    }
    for (int i = 0; i < n; i++)
        params[i] = l->global;
    l->fn = LLVMAddFunction(l->module, "kernel",
                            LLVMFunctionType(LLVMVoidTypeInContext(l->ctx), params, (unsigned)n, false));
    l->sizes = LLVMGetParam(l->fn, (unsigned)n - 1);
    make_kernel(l, 1 << (l->shape.lanes + l->shape.warps[0] + l->shape.warps[1]));
}

static void lower_kernel(Lower *l)
{
    make_function(l);
    if (!l->fn)
        return;
    l->shared = placeholder(l, "shared.open");
    l->scratch = placeholder(l, "scratch.open");
    LLVMBasicBlockRef entry = new_block(l, "entry"), start = new_block(l, "start");
    LLVMPositionBuilderAtEnd(l->entry, entry);
    LLVMPositionBuilderAtEnd(l->b, start);
    thread_numbers(l);
    for (size_t m = 0; m < l->k->mem.len; m++)
        place_memory(l, m);
    assign_layouts(l);
    place_barriers(l);
    lower_body(l);
    LLVMBuildBr(l->entry, start);
    finish_shared(l);
}

bool gpu_lower(const Kernel *k, const Target *t, LLVMModuleRef module, KernelInfo *info, Err *err)
{
    size_t mems = MAX(k->mem.len, 1);
    Lower l = {.k = k, .code = code_new(t, module), .g = t->gpu, .arena = arena_new(), .err = err};
    l.shape = (Shape){log2_up(l.g->wave), {log2_up(MAX(k->warps[0], 1)), log2_up(MAX(k->warps[1], 1))}};
    l.entry = LLVMCreateBuilderInContext(l.ctx);
    l.global = LLVMPointerTypeInContext(l.ctx, 1);
    l.on_chip = LLVMPointerTypeInContext(l.ctx, 3);
    l.val = arena_array(l.arena, Value, k->ins.len);
    l.base = arena_array(l.arena, V, mems);
    l.pitch = arena_array(l.arena, int64_t, mems);
    l.bytes = arena_array(l.arena, int64_t, mems);
    l.slots = arena_array(l.arena, int, mems);
    l.staged = arena_array(l.arena, bool, mems);
    lower_kernel(&l);
    *info = (KernelInfo){.threads = 1 << (l.shape.lanes + l.shape.warps[0] + l.shape.warps[1]),
                         .shared = l.shared_bytes + l.scratch_bytes};
    if (!err->text[0] && info->shared > t->gpu->shared)
        err_set(err, "kernel \"%s\": %lld bytes of on-chip memory, %s has %d; use smaller tiles or fewer stages",
                k->name, (long long)info->shared, t->name, t->gpu->shared);
    if (!err->text[0] && info->threads > t->gpu->wave * t->gpu->max_warps)
        err_set(err, "kernel \"%s\": %d threads a block, %s allows %d; use fewer warps", k->name, info->threads,
                t->name, t->gpu->wave * t->gpu->max_warps);
    LLVMDisposeBuilder(l.b);
    LLVMDisposeBuilder(l.entry);
    arena_free(l.arena);
    return !err->text[0];
}
