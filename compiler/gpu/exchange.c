/* exchange.c - what needs more than one thread: barriers, shuffles, tiles brought from one layout to another,
 * reductions. */
#include "gpu.h"

#include <llvm-c/IRReader.h>
#include <llvm-c/Linker.h>
#include <math.h>
#include <string.h>

/* ---- barriers and shuffles ---------------------------------------------------------------------------------- */

/* AMD: LLVM's C interface has no fences of a workgroup's scope, so the barrier comes as text. */
static V amd_barrier(Lower *l)
{
    static const char text[] = "define internal void @block_barrier() #0 {\n"
                               "  fence syncscope(\"workgroup\") release\n"
                               "  call void @llvm.amdgcn.s.barrier()\n"
                               "  fence syncscope(\"workgroup\") acquire\n"
                               "  ret void\n"
                               "}\n"
                               "declare void @llvm.amdgcn.s.barrier() #1\n"
                               "attributes #0 = { alwaysinline convergent nounwind }\n"
                               "attributes #1 = { convergent nounwind }\n";
    V fn = LLVMGetNamedFunction(l->module, "block_barrier");
    if (fn)
        return fn;
    LLVMMemoryBufferRef buffer = LLVMCreateMemoryBufferWithMemoryRangeCopy(text, sizeof text - 1, "barrier");
    LLVMModuleRef m;
    char *message = NULL;
    if (LLVMParseIRInContext(l->ctx, buffer, &m, &message))
        die("barrier: %s", message);
    LLVMSetTarget(m, LLVMGetTarget(l->module));
    LLVMSetDataLayout(m, LLVMGetDataLayoutStr(l->module));
    /* linking takes what is used only, so it is made visible first */
    fn = LLVMGetNamedFunction(m, "block_barrier");
    LLVMSetLinkage(fn, LLVMExternalLinkage);
    LLVMLinkModules2(l->module, m);
    fn = LLVMGetNamedFunction(l->module, "block_barrier");
    LLVMSetLinkage(fn, LLVMInternalLinkage);
    return fn;
}

void block_barrier(Lower *l)
{
    if (l->t->fault == GPU_FAULT_BARRIER)
        return;
    if (!l->g->nvidia) {
        V fn = amd_barrier(l);
        LLVMBuildCall2(l->b, LLVMGlobalGetValueType(fn), fn, NULL, 0, "");
    } else if (l->shape.warps[0] + l->shape.warps[1])
        call(&l->code, "llvm.nvvm.barrier0", NULL, 0, NULL, 0);
    else
        call(&l->code, "llvm.nvvm.bar.warp.sync", NULL, 0, (V[]){c32(l, -1)}, 1);
}

static V shuffle32(Lower *l, V x, V lane)
{
    if (l->g->nvidia)
        return call(&l->code, "llvm.nvvm.shfl.sync.idx.i32", NULL, 0, (V[]){c32(l, -1), x, lane, c32(l, 31)}, 4);
    V at = LLVMBuildShl(l->b, lane, c32(l, 2), "");
    return call(&l->code, "llvm.amdgcn.ds.bpermute", NULL, 0, (V[]){at, x}, 2);
}

/* An element of any type, from another lane. */
static V shuffle(Lower *l, V x, V lane)
{
    LLVMTypeRef type = LLVMTypeOf(x);
    unsigned bits = type == l->f32 ? 32 : type == l->f64 ? 64 : LLVMGetIntTypeWidth(type);
    V word = type == l->f32 || type == l->f64 ? LLVMBuildBitCast(l->b, x, bits == 32 ? l->i32 : l->i64, "") : x;
    if (bits == 64) {
        V low = shuffle32(l, LLVMBuildTrunc(l->b, word, l->i32, ""), lane);
        V high = shuffle32(l, LLVMBuildTrunc(l->b, LLVMBuildLShr(l->b, word, c64(l, 32), ""), l->i32, ""), lane);
        word = LLVMBuildOr(l->b, LLVMBuildZExt(l->b, low, l->i64, ""),
                           LLVMBuildShl(l->b, LLVMBuildZExt(l->b, high, l->i64, ""), c64(l, 32), ""), "");
    } else
        word = shuffle32(l, bits < 32 ? LLVMBuildZExt(l->b, word, l->i32, "") : word, lane);
    if (bits < 32)
        return LLVMBuildTrunc(l->b, word, type, "");
    return LLVMBuildBitCast(l->b, word, type, "");
}

V shuffle_xor(Lower *l, V x, int lanes) { return shuffle(l, x, LLVMBuildXor(l->b, l->lane, c32(l, lanes), "")); }

static V thread_bit(Lower *l, int bit) /* i1 */
{
    V b = LLVMBuildAnd(l->b, LLVMBuildLShr(l->b, l->tid, c32(l, bit), ""), c32(l, 1), "");
    return LLVMBuildICmp(l->b, LLVMIntNE, b, c32(l, 0), "");
}

/* ---- from one layout to another ----------------------------------------------------------------------------- */

static bool is_zero(Bit b) { return !b.row && !b.col; }
static bool same(Bit a, Bit b) { return a.row == b.row && a.col == b.col; }

/* How the wanted elements are found in what is there: some thread bits pick among registers, lane bits name the lane.
 */
typedef struct Route {
    const Layout *have, *want;
    int picks, pick[LANE_BITS + WARP_BITS]; /* thread bits on which the source's register depends */
    Bit picked[LANE_BITS + WARP_BITS];
    int from[LANE_BITS]; /* lane bit of the source: the thread bit that it equals, or -1 */
    bool moves;          /* the source is another lane */
} Route;

static Bit thread_vector(const Layout *l, int bit) { return bit < l->lanes ? l->lane[bit] : l->warp[bit - l->lanes]; }

static int lane_with(const Layout *l, Bit v)
{
    for (int i = 0; i < l->lanes && !is_zero(v); i++)
        if (same(l->lane[i], v))
            return i;
    return -1;
}

static bool has_reg(const Layout *l, Bit v) { return layout_find(l, v) >= 0; }

/* Stays within warps; false when it does not. */
static bool find_route(const Layout *have, const Layout *want, Route *r)
{
    *r = (Route){.have = have, .want = want};
    for (int i = 0; i < LANE_BITS; i++)
        r->from[i] = -1;
    for (int bit = 0; bit < want->lanes + want->warps; bit++) {
        Bit w = thread_vector(want, bit), h = thread_vector(have, bit);
        bool is_lane = bit < want->lanes;
        if (same(w, h)) {
            if (is_lane)
                r->from[bit] = bit;
            continue;
        }
        if (!is_lane && !is_zero(h))
            return false;
        int lane = lane_with(have, w);
        if (is_zero(w))
            r->moves = true;
        else if (lane >= 0 && is_lane)
            r->from[lane] = bit, r->moves = true;
        else if (has_reg(have, w))
            r->pick[r->picks] = bit, r->picked[r->picks++] = w;
        else
            return false;
    }
    for (int i = 0; i < have->lanes; i++) /* lanes that hold what no wanted thread bit names */
        r->moves |= r->from[i] != i && !is_zero(have->lane[i]);
    for (int reg = 0; reg < want->regs; reg++)
        if (!has_reg(have, want->reg[reg]) && lane_with(have, want->reg[reg]) < 0)
            return false;
    return r->picks <= 3;
}

/* The register of the source for this place, and the lanes that the place itself names. */
static int source_reg(const Route *r, Bit place, int *lanes)
{
    *lanes = 0;
    for (int i = 0; i < r->have->lanes; i++) {
        Bit v = r->have->lane[i];
        bool in = !is_zero(v) && (place.row & v.row) == v.row && (place.col & v.col) == v.col;
        if (in && !has_reg(r->have, v)) {
            *lanes |= 1 << i;
            place = bit_xor(place, v);
        }
    }
    return layout_find(r->have, place);
}

static V source_lane(Lower *l, const Route *r, int lanes)
{
    V lane = c32(l, lanes);
    for (int i = 0; i < r->have->lanes; i++) {
        if (r->from[i] < 0)
            continue;
        V bit = LLVMBuildAnd(l->b, LLVMBuildLShr(l->b, l->lane, c32(l, r->from[i]), ""), c32(l, 1), "");
        lane = LLVMBuildXor(l->b, lane, LLVMBuildShl(l->b, bit, c32(l, i), ""), "");
    }
    return lane;
}

static V follow(Lower *l, const Route *r, V *from, Bit place, int pick)
{
    if (pick < r->picks) {
        V with = follow(l, r, from, bit_xor(place, r->picked[pick]), pick + 1),
          without = follow(l, r, from, place, pick + 1);
        return with == without ? with : LLVMBuildSelect(l->b, thread_bit(l, r->pick[pick]), with, without, "");
    }
    int lanes, reg = source_reg(r, place, &lanes);
    if (reg < 0)
        die("relayout: no register for a place (internal error)");
    return r->moves || lanes ? shuffle(l, from[reg], source_lane(l, r, lanes)) : from[reg];
}

/* ---- through on-chip memory --------------------------------------------------------------------------------- */

static LLVMTypeRef stored_type(Lower *l, DType elem) { return elem == DT_PRED ? l->i8 : elem_type(&l->code, elem); }
static int stored_size(DType elem) { return elem == DT_PRED ? 1 : dtype_bits(elem) / 8; }

static V area_pointer(Lower *l, const Layout *layout, int reg, int pitch, int64_t plus, int size)
{
    Bit b = layout_reg(layout, reg);
    V row = LLVMBuildAdd(l->b, thread_part(l, layout, true), c32(l, b.row), "");
    V col = LLVMBuildAdd(l->b, thread_part(l, layout, false), c32(l, b.col + plus), "");
    V at = LLVMBuildAdd(l->b, LLVMBuildMul(l->b, row, c32(l, pitch), ""), col, "");
    return bytes_at(l, l->scratch, LLVMBuildZExt(l->b, LLVMBuildMul(l->b, at, c32(l, size), ""), l->i64, ""));
}

static void area_write(Lower *l, V *x, const Layout *layout, int pitch, int64_t plus, DType elem)
{
    for (int reg = 0; reg < reg_count(layout); reg++) {
        V v = elem == DT_PRED ? LLVMBuildZExt(l->b, x[reg], l->i8, "") : x[reg];
        LLVMBuildStore(l->b, v, area_pointer(l, layout, reg, pitch, plus, stored_size(elem)));
    }
}

static V *area_read(Lower *l, const Layout *layout, int pitch, int64_t plus, DType elem)
{
    V *out = arena_array(l->arena, V, reg_count(layout));
    for (int reg = 0; reg < reg_count(layout); reg++) {
        V p = area_pointer(l, layout, reg, pitch, plus, stored_size(elem));
        out[reg] = LLVMBuildLoad2(l->b, stored_type(l, elem), p, "");
        if (elem == DT_PRED)
            out[reg] = LLVMBuildTrunc(l->b, out[reg], l->i1, "");
    }
    return out;
}

static void area_reserve(Lower *l, int64_t bytes)
{
    l->scratch_bytes = MAX(l->scratch_bytes, round_up(bytes, SHARED_ALIGN));
}

static V *through_memory(Lower *l, V *from, const Layout *have, const Layout *want, DType elem, int64_t plus)
{
    int rows = MAX(layout_span(have, true), layout_span(want, true)),
        pitch = MAX(layout_span(have, false), layout_span(want, false));
    area_reserve(l, (int64_t)(rows * pitch + plus) * stored_size(elem));
    area_write(l, from, have, pitch, 0, elem);
    block_barrier(l);
    V *out = area_read(l, want, pitch, plus, elem);
    block_barrier(l);
    return out;
}

static void clash(Lower *l, Ref at, const Layout *have, const Layout *want)
{
    Buf text = {0};
    layout_print(have, &text);
    buf_puts(&text, "\n  is wanted as  ");
    layout_print(want, &text);
    ir_error(l->k, at, l->err,
             "a tile would be exchanged through memory inside a pipelined loop: it lies as  %s\n"
             "  bring it there before the loop, or change the warps",
             text.data);
    buf_free(&text);
}

V *relayout(Lower *l, V *from, const Layout *have, const Layout *want, DType elem, Ref at)
{
    Route r;
    if (layout_same(have, want))
        return from;
    if (!find_route(have, want, &r)) {
        if (l->in_pipeline)
            clash(l, at, have, want);
        return through_memory(l, from, have, want, elem, 0);
    }
    V *out = arena_array(l->arena, V, reg_count(want));
    for (int reg = 0; reg < reg_count(want); reg++)
        out[reg] = follow(l, &r, from, layout_reg(want, reg), 0);
    return out;
}

static V *own(Lower *l, Ref r, Layout *layout) /* an operand as it lies */
{
    const Ins *i = ir_at(l->k, r);
    *layout = l->val[r].layout;
    if (i->op == OP_ROW || i->op == OP_COL)
        *layout = layout_flat(l->shape, i->type.rows, i->type.cols, 2);
    return operand_in(l, r, layout);
}

/* A slice at a multiple of its own size is a change of registers where the bits above it are registers. */
static void lower_slice(Lower *l, const Ins *i, Ref r)
{
    Layout have, want = l->val[r].layout;
    V *from = own(l, i->arg[0], &have), *out = new_value(l, r, &want);
    Route route;
    int rows = 1 << log2_up(i->type.rows), cols = 1 << log2_up(i->type.cols);
    bool aligned = i->pos[0] % rows == 0 && i->pos[1] % cols == 0 && find_route(&have, &want, &route);
    if (!aligned) {
        int pitch = MAX(layout_span(&have, false), layout_span(&want, false));
        V *got = through_memory(l, from, &have, &want, i->type.elem, (int64_t)i->pos[0] * pitch + i->pos[1]);
        memcpy(out, got, (size_t)reg_count(&want) * sizeof *out);
        return;
    }
    Bit corner = {(uint16_t)i->pos[0], (uint16_t)i->pos[1]};
    for (int reg = 0; reg < reg_count(&want); reg++)
        out[reg] = follow(l, &route, from, bit_xor(layout_reg(&want, reg), corner), 0);
}

static void lower_join(Lower *l, const Ins *i, Ref r)
{
    Layout a, b, want = l->val[r].layout;
    V *left = own(l, i->arg[0], &a), *right = own(l, i->arg[1], &b);
    int first = type_of(l->k, i->arg[0]).cols, pitch = MAX(layout_span(&want, false), first + layout_span(&b, false));
    int rows = MAX(layout_span(&want, true), MAX(layout_span(&a, true), layout_span(&b, true)));
    if (l->in_pipeline)
        clash(l, r, &a, &want);
    area_reserve(l, (int64_t)rows * pitch * stored_size(i->type.elem));
    area_write(l, left, &a, pitch, 0, i->type.elem);
    block_barrier(l); /* padding of the left lies under the right */
    area_write(l, right, &b, pitch, first, i->type.elem);
    block_barrier(l);
    l->val[r].reg = area_read(l, &want, pitch, 0, i->type.elem);
    block_barrier(l);
}

void lower_rearranged(Lower *l, const Ins *i, Ref r)
{
    if (i->op == OP_SLICE)
        lower_slice(l, i, r);
    else
        lower_join(l, i, r);
}

/* ---- reductions --------------------------------------------------------------------------------------------- */

static V combine(Lower *l, ReduceKind kind, DType elem, V x, V y)
{
    LLVMTypeRef t = LLVMTypeOf(x);
    if (kind != REDUCE_ADD && dtype_is_float(elem)) /* symmetric, so that all threads agree */
        return call(&l->code, kind == REDUCE_MAX ? "llvm.maxnum" : "llvm.minnum", &t, 1, (V[]){x, y}, 2);
    return math_binary(&l->code, kind == REDUCE_ADD ? OP_ADD : kind == REDUCE_MAX ? OP_MAX : OP_MIN, elem, x, y, 1);
}

static V identity(Lower *l, ReduceKind kind, DType elem)
{
    LLVMTypeRef t = elem_type(&l->code, elem);
    if (kind == REDUCE_ADD)
        return LLVMConstNull(t);
    if (dtype_is_float(elem))
        return LLVMConstReal(t, kind == REDUCE_MAX ? -INFINITY : INFINITY);
    int bits = dtype_bits(elem);
    uint64_t top = (uint64_t)1 << (bits - 1), all = top | (top - 1);
    bool largest = kind == REDUCE_MIN;
    uint64_t v = dtype_is_signed(elem) ? (largest ? top - 1 : top) : (largest ? all : 0);
    return LLVMConstInt(t, v, false);
}

static void fill_outside(Lower *l, const Ins *i, Type t, const Layout *layout, V *x)
{
    bool rows = i->b == 0;
    int extent = rows ? t.rows : t.cols;
    if (layout_span(layout, rows) <= extent)
        return;
    V part = thread_part(l, layout, rows), none = identity(l, (ReduceKind)i->a, t.elem);
    for (int reg = 0; reg < reg_count(layout); reg++) {
        Bit b = layout_reg(layout, reg);
        V at = LLVMBuildAdd(l->b, part, c32(l, rows ? b.row : b.col), "");
        x[reg] = LLVMBuildSelect(l->b, LLVMBuildICmp(l->b, LLVMIntSLT, at, c32(l, extent), ""), x[reg], none, "");
    }
}

static void drop_reg(Layout *l, int bit)
{
    memmove(&l->reg[bit], &l->reg[bit + 1], (size_t)(l->regs - bit - 1) * sizeof *l->reg);
    l->regs--;
}

static void reduce_reg(Lower *l, const Ins *i, DType elem, Layout *now, V *x, int bit)
{
    int low = (1 << bit) - 1;
    for (int reg = 0; reg < reg_count(now) / 2; reg++) {
        int at = (reg & ~low) << 1 | (reg & low);
        x[reg] = combine(l, (ReduceKind)i->a, elem, x[at], x[at | 1 << bit]);
    }
    drop_reg(now, bit);
}

/* The values of all warps that differ in these bits, the highest first: a tree as among registers. */
static V combine_warps(Lower *l, const Ins *i, DType elem, V *all, int count)
{
    for (int half = count / 2; half; half /= 2)
        for (int n = 0; n < half; n++)
            all[n] = combine(l, (ReduceKind)i->a, elem, all[n], all[n + half]);
    return all[0];
}

/* Where all lanes of a warp hold the same, the warp's is one value. */
static bool lanes_agree(const Layout *l)
{
    for (int i = 0; i < l->lanes; i++)
        if (!is_zero(l->lane[i]))
            return false;
    return true;
}

static void reduce_warps(Lower *l, const Ins *i, DType elem, Layout *now, V *x, const int *bits, int count)
{
    int lanes = lanes_agree(now) ? 0 : now->lanes, holders = 1 << (lanes + now->warps), size = stored_size(elem),
        clear = 0;
    V holder = lanes ? l->tid : l->warp;
    for (int n = 0; n < count; n++)
        clear |= 1 << (lanes + bits[n]);
    area_reserve(l, (int64_t)reg_count(now) * holders * size);
    LLVMTypeRef type = stored_type(l, elem);
    for (int reg = 0; reg < reg_count(now); reg++) {
        V at = LLVMBuildZExt(l->b, LLVMBuildAdd(l->b, holder, c32(l, reg * holders), ""), l->i64, "");
        LLVMBuildStore(l->b, x[reg], LLVMBuildGEP2(l->b, type, l->scratch, &at, 1, ""));
    }
    block_barrier(l);
    V others = LLVMBuildAnd(l->b, holder, c32(l, holders - 1 - clear), "");
    for (int reg = 0; reg < reg_count(now); reg++) {
        V all[1 << WARP_BITS];
        for (int c = 0; c < 1 << count; c++) {
            int set = 0;
            for (int n = 0; n < count; n++) /* bits[0] is the highest */
                set |= (c >> (count - 1 - n) & 1) << (lanes + bits[n]);
            V at = LLVMBuildZExt(l->b, LLVMBuildAdd(l->b, others, c32(l, set + reg * holders), ""), l->i64, "");
            all[c] = LLVMBuildLoad2(l->b, type, LLVMBuildGEP2(l->b, type, l->scratch, &at, 1, ""), "");
        }
        x[reg] = combine_warps(l, i, elem, all, 1 << count);
    }
    block_barrier(l);
    for (int n = 0; n < count; n++)
        now->warp[bits[n]] = (Bit){0};
}

static int bit_in(const Bit *b, int n, Bit v)
{
    for (int i = 0; i < n; i++)
        if (same(b[i], v))
            return i;
    return -1;
}

typedef struct Reduction {
    Lower *l;
    const Ins *ins;
    DType elem;
    Layout now; /* of x; the axis loses its bits one by one */
    V *x;
    int warps[WARP_BITS], waiting; /* bits of the warp's number that are to be taken next, together */
} Reduction;

enum { IN_REG = 1, IN_LANE = 2, IN_WARP = 4, ANYWHERE = 7 };

/* Takes this bit of the axis, 0 for none, if it lies in one of the places `where`. */
static void reduce_bit(Reduction *s, Bit v, int where)
{
    int none = is_zero(v), reg = none ? -1 : bit_in(s->now.reg, s->now.regs, v);
    int lane = none ? -1 : bit_in(s->now.lane, s->now.lanes, v),
        warp = none ? -1 : bit_in(s->now.warp, s->now.warps, v);
    if (warp >= 0) {
        if (where & IN_WARP)
            s->warps[s->waiting++] = warp;
        return;
    }
    if (s->waiting && (none || reg >= 0 || lane >= 0)) {
        reduce_warps(s->l, s->ins, s->elem, &s->now, s->x, s->warps, s->waiting);
        s->waiting = 0;
    }
    if (reg >= 0 && where & IN_REG)
        reduce_reg(s->l, s->ins, s->elem, &s->now, s->x, reg);
    if (lane < 0 || !(where & IN_LANE))
        return;
    for (int n = 0; n < reg_count(&s->now); n++)
        s->x[n] = combine(s->l, (ReduceKind)s->ins->a, s->elem, s->x[n], shuffle_xor(s->l, s->x[n], 1 << lane));
    s->now.lane[lane] = (Bit){0};
}

static void reduce_bits(Reduction *s, int from, int to, int where) /* downwards */
{
    for (int at = from; at >= to; at--)
        reduce_bit(s, s->ins->b == 0 ? (Bit){.row = (uint16_t)(1u << at)} : (Bit){.col = (uint16_t)(1u << at)}, where);
    reduce_bit(s, (Bit){0}, where);
}

/* Sums of floats have one order, whatever the layout: along columns neighbours first, since they share a thread; then
 * halving: element i meets i + n/2, then n/4, ... What is the same in any order starts where it costs least. */
static void reduce_axis(Reduction *s)
{
    if (s->ins->a == REDUCE_ADD && dtype_is_float(s->elem)) {
        bool rows = s->ins->b == 0;
        if (!rows)
            reduce_bits(s, 0, 0, ANYWHERE);
        reduce_bits(s, 15, rows ? 0 : 1, ANYWHERE);
        return;
    }
    for (int where = IN_REG; where <= IN_WARP; where *= 2)
        reduce_bits(s, 15, 0, where);
}

void lower_reduce(Lower *l, const Ins *i, Ref r)
{
    Type t = type_of(l->k, i->arg[0]);
    Layout want = l->val[r].layout;
    Reduction s = {.l = l, .ins = i, .elem = t.elem};
    V *from = own(l, i->arg[0], &s.now);
    s.x = arena_array(l->arena, V, reg_count(&s.now));
    memcpy(s.x, from, (size_t)reg_count(&s.now) * sizeof *from);
    fill_outside(l, i, t, &s.now, s.x);
    reduce_axis(&s);
    l->val[r].reg = relayout(l, s.x, &s.now, &want, t.elem, r);
}

/* ---- running sums ------------------------------------------------------------------------------------------- */

/* Each element's sum up to itself, and the total of the 2^n columns around it, n growing bit by bit. Registers that
 * differ in bits that are done share a total: that of the one without them. */
typedef struct Scan {
    Lower *l;
    const Layout *layout;
    V *sum, *total; /* by register */
    int done;       /* bits of the register's number */
    V none;
} Scan;

static void scan_reg(Scan *s, int bit)
{
    for (int reg = 0; reg < reg_count(s->layout); reg++)
        if (reg >> bit & 1)
            s->sum[reg] = LLVMBuildAdd(s->l->b, s->sum[reg], s->total[reg & ~s->done & ~(1 << bit)], "");
    for (int reg = 0; reg < reg_count(s->layout); reg++)
        if (!(reg & s->done) && !(reg >> bit & 1))
            s->total[reg] = LLVMBuildAdd(s->l->b, s->total[reg], s->total[reg | 1 << bit], "");
    s->done |= 1 << bit;
}

/* What comes before this thread, by register without the bits that are done; added to all that share it. */
static void scan_add(Scan *s, V *before)
{
    for (int reg = 0; reg < reg_count(s->layout); reg++)
        s->sum[reg] = LLVMBuildAdd(s->l->b, s->sum[reg], before[reg & ~s->done], "");
}

static void scan_lane(Scan *s, int bit)
{
    Lower *l = s->l;
    V *before = arena_array(l->arena, V, reg_count(s->layout)), upper = thread_bit(l, bit);
    for (int reg = 0; reg < reg_count(s->layout); reg++) {
        if (reg & s->done)
            continue;
        V other = shuffle_xor(l, s->total[reg], 1 << bit);
        before[reg] = LLVMBuildSelect(l->b, upper, other, s->none, "");
        s->total[reg] = LLVMBuildAdd(l->b, s->total[reg], other, "");
    }
    scan_add(s, before);
}

/* `bits` of the warp's number go to neighbouring bits of the column, ascending: the totals of all these warps. */
static void scan_warps(Scan *s, DType elem, const int *bits, int count)
{
    Lower *l = s->l;
    int threads = 1 << (s->layout->lanes + s->layout->warps), clear = 0;
    V *before = arena_array(l->arena, V, reg_count(s->layout)), mine = c32(l, 0);
    LLVMTypeRef type = stored_type(l, elem);
    area_reserve(l, (int64_t)reg_count(s->layout) * threads * stored_size(elem));
    for (int n = 0; n < count; n++) {
        clear |= 1 << (s->layout->lanes + bits[n]);
        mine = LLVMBuildOr(
            l->b, mine, LLVMBuildSelect(l->b, thread_bit(l, s->layout->lanes + bits[n]), c32(l, 1 << n), c32(l, 0), ""),
            "");
    }
    V others = LLVMBuildAnd(l->b, l->tid, c32(l, threads - 1 - clear), "");
    for (int reg = 0; reg < reg_count(s->layout); reg++) {
        V at = LLVMBuildZExt(l->b, LLVMBuildAdd(l->b, l->tid, c32(l, reg * threads), ""), l->i64, "");
        if (!(reg & s->done))
            LLVMBuildStore(l->b, s->total[reg], LLVMBuildGEP2(l->b, type, l->scratch, &at, 1, ""));
    }
    block_barrier(l);
    for (int reg = 0; reg < reg_count(s->layout); reg++) {
        if (reg & s->done)
            continue;
        before[reg] = s->total[reg] = s->none;
        for (int c = 0; c < 1 << count; c++) {
            int set = reg * threads;
            for (int n = 0; n < count; n++)
                set += (c >> n & 1) << (s->layout->lanes + bits[n]);
            V at = LLVMBuildZExt(l->b, LLVMBuildAdd(l->b, others, c32(l, set), ""), l->i64, "");
            V x = LLVMBuildLoad2(l->b, type, LLVMBuildGEP2(l->b, type, l->scratch, &at, 1, ""), "");
            V earlier = LLVMBuildICmp(l->b, LLVMIntSLT, c32(l, c), mine, "");
            before[reg] = LLVMBuildAdd(l->b, before[reg], LLVMBuildSelect(l->b, earlier, x, s->none, ""), "");
            s->total[reg] = LLVMBuildAdd(l->b, s->total[reg], x, "");
        }
    }
    block_barrier(l);
    scan_add(s, before);
}

void lower_scan(Lower *l, const Ins *i, Ref r)
{
    Layout layout = l->val[r].layout;
    DType elem = i->type.elem;
    int count = reg_count(&layout), warps[WARP_BITS], waiting = 0;
    V *from = operand_in(l, i->arg[0], &layout), *out = new_value(l, r, &layout);
    Scan s = {l, &layout, out, arena_array(l->arena, V, count), 0, LLVMConstNull(elem_type(&l->code, elem))};
    memcpy(s.sum, from, (size_t)count * sizeof *from);
    memcpy(s.total, from, (size_t)count * sizeof *from);
    for (int at = 0; at <= 16; at++) {
        Bit v = {.col = at < 16 ? (uint16_t)(1u << at) : 0};
        int warp = v.col ? bit_in(layout.warp, layout.warps, v) : -1;
        if (warp >= 0) {
            warps[waiting++] = warp;
            continue;
        }
        if (waiting)
            scan_warps(&s, elem, warps, waiting);
        waiting = 0;
        int reg = v.col ? bit_in(layout.reg, layout.regs, v) : -1,
            lane = v.col ? bit_in(layout.lane, layout.lanes, v) : -1;
        if (reg >= 0)
            scan_reg(&s, reg);
        else if (lane >= 0)
            scan_lane(&s, lane);
    }
}
