/* gemm.c - the host's matrix microkernel: frag[R, C] += A[R, K] x B[K, C], B packed as panels (ir.h).
 *
 * A is read row-major, 32 bits at a time, and broadcast; B is read as whole lines of 16 columns x 32 bits. Every
 * accumulator walks K upwards, alone, so neither R nor C changes a bit of any element. An atom is one row of the table:
 * element types, how many vectors a line unpacks into, and the dot product of 32-bit units. */
#include "lower.h"

enum { UNIT_BYTES = 4 /* of A, read for one part */, LINE_BYTES = PANEL_COLS * UNIT_BYTES };

typedef struct Atom {
    DType a, b, acc;
    int parts;      /* vectors that a line unpacks into */
    V (*unpack)(Lower *l, V line, int part);
    V (*dot)(Lower *l, V acc, V b, V a);
    bool (*native)(const Target *t);
} Atom;

static V v_i32(Lower *l, int64_t c)
{
    return splat(&l->code, i32_const(&l->code, c), 16);
}

static V float_vec(Lower *l, V x)
{
    return LLVMBuildBitCast(l->b, x, vec_type(l->f32, 16), "");
}

static V shift_right(Lower *l, V x, int by)
{
    return by ? LLVMBuildLShr(l->b, x, v_i32(l, by), "") : x;
}

/* ---- unpacking: a line of B is <16 x i32> ------------------------------------------------------------------------ */

static V unpack_whole(Lower *l, V line, int part)
{
    (void)l, (void)part;
    return line;
}

/* u4 for byte dots: low nibbles are k 0..3, high nibbles k 4..7 */
static V unpack_nibbles(Lower *l, V line, int part)
{
    return LLVMBuildAnd(l->b, shift_right(l, line, part * 4), v_i32(l, 0x0F0F0F0F), "");
}

/* u4 for bf16 dots: part p holds k 2p and 2p+1 at bits 4p and 16+4p; 0x4300 | q is the bf16 number 128 + q */
static V unpack_nibble_pairs(Lower *l, V line, int part)
{
    V q = LLVMBuildAnd(l->b, shift_right(l, line, part * 4), v_i32(l, 0x000F000F), "");
    return LLVMBuildOr(l->b, q, v_i32(l, 0x43004300), "");
}

/* pairs of bf16 or f16, one at a time, widened to f32 */
static V unpack_bf16(Lower *l, V line, int part)
{
    V bits = part ? LLVMBuildAnd(l->b, line, v_i32(l, (int32_t)0xFFFF0000), "") : LLVMBuildShl(l->b, line, v_i32(l, 16), "");
    return bits;
}

static V unpack_f16(Lower *l, V line, int part)
{
    V half = LLVMBuildTrunc(l->b, shift_right(l, line, part * 16), vec_type(l->i16, 16), "");
    return math_cast(&l->code, half, DT_F16, DT_F32, 16);
}

/* ---- dot products: acc + b . a for 16 columns, `a` the same 32 bits in every lane -------------------------------- */

static V dot_f32(Lower *l, V acc, V b, V a)
{
    return math_fma(&l->code, float_vec(l, a), float_vec(l, b), acc, 16);
}

static V dot_bf16_native(Lower *l, V acc, V b, V a)
{
    LLVMTypeRef pairs = vec_type(LLVMBFloatTypeInContext(l->ctx), 32);
    V args[] = {acc, LLVMBuildBitCast(l->b, b, pairs, ""), LLVMBuildBitCast(l->b, a, pairs, "")};
    return call(&l->code, "llvm.x86.avx512bf16.dpbf16ps.512", NULL, 0, args, 3);
}

/* Without the instruction: two fused multiply-adds, low half first. */
static V dot_bf16(Lower *l, V acc, V b, V a)
{
    for (int part = 0; part < 2; part++)
        acc = math_fma(&l->code, float_vec(l, unpack_bf16(l, a, part)), float_vec(l, unpack_bf16(l, b, part)), acc, 16);
    return acc;
}

static V dot_bytes_native(Lower *l, V acc, V b, V a)
{
    V args[] = {acc, b, a};
    return call(&l->code, "llvm.x86.avx512.vpdpbusd.512", NULL, 0, args, 3);
}

/* Multiplies 16-bit lanes and adds neighbours: pmaddwd where there is one. */
static V multiply_add_pairs(Lower *l, V x, V y)
{
    static const struct { int bits; const char *name; } forms[] = {
        {512, "llvm.x86.avx512.pmaddw.d.512"}, {256, "llvm.x86.avx2.pmadd.wd"}, {128, "llvm.x86.sse2.pmadd.wd"}};
    int width = l->t->vector_bits, n = width / 16, pieces = 512 / width;
    if (!l->t->x86) {
        V p = NULL;
        for (int part = 0; part < 2; part++) {
            V s[2] = {x, y};
            for (int i = 0; i < 2; i++) {
                V w = LLVMBuildBitCast(l->b, s[i], vec_type(l->i32, 16), "");
                w = part ? w : LLVMBuildShl(l->b, w, v_i32(l, 16), "");
                s[i] = LLVMBuildAShr(l->b, w, v_i32(l, 16), "");
            }
            V product = LLVMBuildMul(l->b, s[0], s[1], "");
            p = p ? LLVMBuildAdd(l->b, p, product, "") : product;
        }
        return p;
    }
    const char *name = forms[width == 512 ? 0 : width == 256 ? 1 : 2].name;
    V out = NULL;
    for (int piece = 0; piece < pieces; piece++) {
        V at[32], args[2] = {x, y};
        for (int i = 0; i < n; i++)
            at[i] = i32_const(&l->code, piece * n + i);
        for (int i = 0; i < 2; i++)
            args[i] = LLVMBuildShuffleVector(l->b, args[i], LLVMGetPoison(LLVMTypeOf(args[i])), LLVMConstVector(at, (unsigned)n), "");
        V r = call(&l->code, name, NULL, 0, args, 2);
        V widen[16];
        for (int i = 0; i < 16; i++)
            widen[i] = i < n / 2 ? i32_const(&l->code, i) : LLVMGetPoison(l->i32);
        if (pieces == 1)
            return r;
        V wide = LLVMBuildShuffleVector(l->b, r, LLVMGetPoison(LLVMTypeOf(r)), LLVMConstVector(widen, 16), "");
        V pick[16];
        for (int i = 0; i < 16; i++)
            pick[i] = i32_const(&l->code, i / (n / 2) == piece ? 16 + i % (n / 2) : i);
        out = out ? LLVMBuildShuffleVector(l->b, out, wide, LLVMConstVector(pick, 16), "") : wide;
    }
    return out;
}

/* Exact without vpdpbusd: even and odd bytes as 16-bit lanes, unsigned of b times signed of a. */
static V dot_bytes(Lower *l, V acc, V b, V a)
{
    LLVMTypeRef words = vec_type(l->i16, 32);
    V eight = splat(&l->code, LLVMConstInt(l->i16, 8, false), 32), low = splat(&l->code, LLVMConstInt(l->i16, 255, false), 32);
    V bw = LLVMBuildBitCast(l->b, b, words, ""), aw = LLVMBuildBitCast(l->b, a, words, "");
    V b_even = LLVMBuildAnd(l->b, bw, low, ""), b_odd = LLVMBuildLShr(l->b, bw, eight, "");
    V a_even = LLVMBuildAShr(l->b, LLVMBuildShl(l->b, aw, eight, ""), eight, ""), a_odd = LLVMBuildAShr(l->b, aw, eight, "");
    V sum = LLVMBuildAdd(l->b, multiply_add_pairs(l, b_even, a_even), multiply_add_pairs(l, b_odd, a_odd), "");
    return LLVMBuildAdd(l->b, acc, sum, "");
}

static bool always(const Target *t) { (void)t; return true; }
static bool has_vnni(const Target *t) { return t->vnni; }
static bool has_bf16(const Target *t) { return t->bf16_dot; }

static const Atom atoms[] = { /* the first that fits the types and the target is taken */
    {DT_F32, DT_F32, DT_F32, 1, unpack_whole, dot_f32, always},
    {DT_F32, DT_F16, DT_F32, 2, unpack_f16, dot_f32, always},
    {DT_F32, DT_BF16, DT_F32, 2, unpack_bf16, dot_f32, always},
    {DT_BF16, DT_BF16, DT_F32, 1, unpack_whole, dot_bf16_native, has_bf16},
    {DT_BF16, DT_BF16, DT_F32, 1, unpack_whole, dot_bf16, always},
    {DT_BF16, DT_U4, DT_F32, 4, unpack_nibble_pairs, dot_bf16_native, has_bf16},
    {DT_BF16, DT_U4, DT_F32, 4, unpack_nibble_pairs, dot_bf16, always},
    {DT_S8, DT_U4, DT_S32, 2, unpack_nibbles, dot_bytes_native, has_vnni},
    {DT_S8, DT_U4, DT_S32, 2, unpack_nibbles, dot_bytes, always},
    {DT_S8, DT_U8, DT_S32, 1, unpack_whole, dot_bytes_native, has_vnni},
    {DT_S8, DT_U8, DT_S32, 1, unpack_whole, dot_bytes, always},
};

static const Atom *find_atom(Lower *l, const Ins *i)
{
    DType a = type_of(l->k, i->arg[1]).elem, b = type_of(l->k, i->arg[2]).elem, acc = type_of(l->k, i->arg[0]).elem;
    for (size_t n = 0; n < COUNT(atoms); n++)
        if (atoms[n].a == a && atoms[n].b == b && atoms[n].acc == acc && atoms[n].native(l->t))
            return &atoms[n];
    err_set(l->err, "%s:%d: gemm: the target %s has no instruction for %s x %s -> %s", i->loc.file ? i->loc.file : "?",
            i->loc.line, l->t->name, dtype_name(a), dtype_name(b), dtype_name(acc));
    return NULL;
}

/* ---- the loop ---------------------------------------------------------------------------------------------------- */

typedef struct Gemm {
    const Atom *atom;
    int rows, blocks;          /* tile: rows x blocks of 16 columns */
    V a, b;                    /* byte pointers at (row 0, k 0) and (k 0, column 0) */
    int64_t a_stride;          /* bytes from row to row */
    int64_t b_line;            /* bytes from line to line of K: all columns of a panel */
    int64_t b_panel;           /* bytes from panel to panel */
    int in_panel;              /* column blocks in a panel */
    V next;                    /* where to prefetch from, or NULL; `ahead` cache lines a line of K */
    int ahead;
    V *acc;                    /* allocas, row by row */
} Gemm;

static V byte_at(Lower *l, V base, V offset, int64_t plus);

/* Into the second cache: what the next tile of columns will read. */
static void gemm_prefetch(Lower *l, const Gemm *g, V line, int ahead)
{
    V offset = LLVMBuildNSWMul(l->b, line, i64_const(&l->code, (int64_t)g->ahead * LINE_BYTES), "");
    for (int n = 0; n < g->ahead; n++) {
        V p = byte_at(l, g->next, offset, ((int64_t)ahead * g->ahead + n) * LINE_BYTES);
        call(&l->code, "llvm.prefetch", &l->ptr, 1, (V[]){p, i32_const(&l->code, 0), i32_const(&l->code, 2), i32_const(&l->code, 1)}, 4);
    }
}

static V byte_at(Lower *l, V base, V offset, int64_t plus)
{
    V p = LLVMBuildGEP2(l->b, l->i8, base, &offset, 1, "");
    V c = i64_const(&l->code, plus);
    return plus ? LLVMBuildGEP2(l->b, l->i8, p, &c, 1, "") : p;
}

/* One line of each column block: `line` is its index along K (an i64 value) plus `ahead` constant lines. */
static void gemm_line(Lower *l, const Gemm *g, V line, int ahead, V *sum)
{
    const Atom *at = g->atom;
    LLVMTypeRef vec = vec_type(l->i32, 16);
    V a_off = LLVMBuildNSWMul(l->b, line, i64_const(&l->code, (int64_t)at->parts * UNIT_BYTES), "");
    V b_off = LLVMBuildNSWMul(l->b, line, i64_const(&l->code, g->b_line), "");
    V lines[16];
    if (g->next)
        gemm_prefetch(l, g, line, ahead);
    for (int n = 0; n < g->blocks; n++) {
        int64_t plus = n / g->in_panel * g->b_panel + n % g->in_panel * LINE_BYTES + ahead * g->b_line;
        lines[n] = LLVMBuildLoad2(l->b, vec, byte_at(l, g->b, b_off, plus), "");
        LLVMSetAlignment(lines[n], 64);
    }
    for (int part = 0; part < at->parts; part++) {
        V unpacked[16];
        for (int n = 0; n < g->blocks; n++)
            unpacked[n] = at->unpack(l, lines[n], part);
        for (int r = 0; r < g->rows; r++) {
            int64_t plus = r * g->a_stride + ((int64_t)ahead * at->parts + part) * UNIT_BYTES;
            V x = LLVMBuildLoad2(l->b, l->i32, byte_at(l, g->a, a_off, plus), "");
            LLVMSetAlignment(x, 1);
            x = splat(&l->code, x, 16);
            for (int n = 0; n < g->blocks; n++)
                sum[r * g->blocks + n] = at->dot(l, sum[r * g->blocks + n], unpacked[n], x);
        }
    }
}

static void load_sums(Lower *l, const Gemm *g, LLVMTypeRef type, V *sum)
{
    for (int i = 0; i < g->rows * g->blocks; i++)
        sum[i] = LLVMBuildLoad2(l->b, type, g->acc[i], "");
}

static void store_sums(Lower *l, const Gemm *g, V *sum)
{
    for (int i = 0; i < g->rows * g->blocks; i++)
        LLVMBuildStore(l->b, sum[i], g->acc[i]);
}

/* lines = K / unit; `unroll` lines a turn, the rest after the loop. The sums live in allocas that become registers. */
static void gemm_loop(Lower *l, const Gemm *g, int64_t lines, int unroll, LLVMTypeRef type)
{
    V *sum = arena_array(l->arena, V, g->rows * g->blocks);
    int64_t turns = lines / unroll;
    if (turns > 1) {
        LLVMBasicBlockRef from = LLVMGetInsertBlock(l->b);
        LLVMBasicBlockRef body = LLVMAppendBasicBlockInContext(l->ctx, l->fn, "k");
        LLVMBasicBlockRef after = LLVMAppendBasicBlockInContext(l->ctx, l->fn, "k.end");
        LLVMBuildBr(l->b, body);
        LLVMPositionBuilderAtEnd(l->b, body);
        V line = LLVMBuildPhi(l->b, l->i64, "line"), zero = i64_const(&l->code, 0);
        LLVMAddIncoming(line, &zero, &from, 1);
        load_sums(l, g, type, sum);
        for (int u = 0; u < unroll; u++)
            gemm_line(l, g, line, u, sum);
        store_sums(l, g, sum);
        V next = LLVMBuildNSWAdd(l->b, line, i64_const(&l->code, unroll), "");
        LLVMAddIncoming(line, &next, &body, 1);
        LLVMBuildCondBr(l->b, LLVMBuildICmp(l->b, LLVMIntSLT, next, i64_const(&l->code, turns * unroll), ""), body, after);
        LLVMPositionBuilderAtEnd(l->b, after);
    } else
        turns = 0;
    if (lines > turns * unroll) {
        load_sums(l, g, type, sum);
        for (int64_t at = turns * unroll; at < lines; at++)
            gemm_line(l, g, i64_const(&l->code, at), 0, sum);
        store_sums(l, g, sum);
    }
}

/* Byte address of the corner of a panel view; its elements may be nibbles. */
static V panel_pointer(Lower *l, Ref view)
{
    const Ins *v = ir_at(l->k, view);
    int bits = dtype_bits(v->type.elem);
    V elements = element_offset(l, v, l->val[view].at[0], 0, 0);
    V offset = LLVMBuildLShr(l->b, LLVMBuildNSWMul(l->b, elements, i64_const(&l->code, bits), ""), i64_const(&l->code, 3), "");
    return byte_at(l, l->base[ir_at(l->k, v->arg[0])->integer], offset, 0);
}

void lower_gemm(Lower *l, const Ins *i)
{
    const Atom *atom = find_atom(l, i);
    if (!atom)
        return;
    const Ins *a = ir_at(l->k, i->arg[1]), *b = ir_at(l->k, i->arg[2]);
    const Memory *ma = &l->k->mem.at[ir_at(l->k, a->arg[0])->integer], *mb = &l->k->mem.at[ir_at(l->k, b->arg[0])->integer];
    Gemm g = {.atom = atom, .rows = a->type.rows, .blocks = b->type.cols / PANEL_COLS, .acc = l->val[i->arg[0]].at};
    g.a_stride = (ma->rank > 1 ? row_stride(ma) : 0) * dtype_bits(ma->elem) / 8;
    g.in_panel = mb->wide / PANEL_COLS;
    g.b_line = (int64_t)g.in_panel * LINE_BYTES;
    g.b_panel = panel_elements(mb) * dtype_bits(mb->elem) / 8;
    V a_off = LLVMBuildNSWMul(l->b, element_offset(l, a, l->val[i->arg[1]].at[0], 0, 0),
                              i64_const(&l->code, dtype_bits(ma->elem) / 8), "");
    g.a = LLVMBuildGEP2(l->b, l->i8, l->base[ir_at(l->k, a->arg[0])->integer], &a_off, 1, "");
    g.b = panel_pointer(l, i->arg[2]);
    if (i->nargs == 4) {
        g.next = panel_pointer(l, i->arg[3]);
        g.ahead = i->b;
    }
    LLVMTypeRef type = vec_type(elem_type(&l->code, atom->acc), 16);
    gemm_loop(l, &g, a->type.cols / mb->unit, MAX(i->a, 1), type);
}
