/* matrix.c - products of matrices that a warp computes together. Each layout says which element lies where in a lane's
 * registers; a product is the exact sum of its terms, rounded once (tensor cores round in ways of their own).
 * Sources: PTX ISA, "Matrix Fragments for mma.m16n8k16", "... mma.m16n8k32", "ldmatrix"; AMD "CDNA3 Instruction Set
 * Architecture", matrix operand layouts, "RDNA3 Instruction Set Architecture", 7.9 WMMA. */
#include "machine.h"

#include "dtype.h"

#include <math.h>
#include <string.h>

enum { MAX_M = 32, MAX_N = 32, MAX_K = 32 };

/* Layouts are compiled once for every instruction, with its shape and types as constants. */
#define INLINE static inline __attribute__((always_inline))

typedef enum Element { BF16, F16, S8, U8 } Element;

typedef struct Product {
    int m, n, k;
    bool integer, saturate; /* the accumulators */
    double a[MAX_M * MAX_K], b[MAX_K * MAX_N], c[MAX_M * MAX_N];
} Product;

/* The matrices are left as they are: layouts fill them whole. */
INLINE void set_shape(Product *p, int m, int n, int k, bool integer)
{
    p->m = m;
    p->n = n;
    p->k = k;
    p->integer = integer;
    p->saturate = false;
}

INLINE double element(Element type, const void *registers, int i)
{
    uint16_t half;
    if (type == S8 || type == U8)
        return type == S8 ? ((const int8_t *)registers)[i] : ((const uint8_t *)registers)[i];
    memcpy(&half, (const char *)registers + 2 * i, 2);
    if (type == F16)
        return (double)f16_to_f32(half);
    uint32_t bits = (uint32_t)half << 16;
    float v;
    memcpy(&v, &bits, 4);
    return (double)v;
}

INLINE double accumulator(const Product *p, const void *registers, int i)
{
    int32_t whole;
    float real;
    memcpy(&whole, (const char *)registers + 4 * i, 4);
    memcpy(&real, &whole, 4);
    return p->integer ? whole : (double)real;
}

INLINE void give(const Product *p, void *registers, int i, double v)
{
    float real = (float)v;
    int32_t whole = 0;
    if (p->integer)
        whole = p->saturate ? (int32_t)fmax(INT32_MIN, fmin(INT32_MAX, v)) : (int32_t)(uint32_t)(uint64_t)(int64_t)v;
    memcpy((char *)registers + 4 * i, p->integer ? (void *)&whole : (void *)&real, 4);
}

/* c += a b, by strips of 8 columns. The terms are exact in a double: it makes no difference whether the processor
 * fuses. */
INLINE void multiply_body(Product *p)
{
    for (int i = 0; i < p->m; i++)
        for (int strip = 0; strip < p->n; strip += 8) {
            double sum[8], *c = &p->c[i * p->n + strip];
            for (int j = 0; j < 8; j++)
                sum[j] = c[j];
            for (int k = 0; k < p->k; k++)
                for (int j = 0; j < 8; j++)
                    sum[j] += p->a[i * p->k + k] * p->b[k * p->n + strip + j];
            for (int j = 0; j < 8; j++)
                c[j] = sum[j];
        }
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) static void multiply_avx2(Product *p) { multiply_body(p); }
static void multiply_plain(Product *p) { multiply_body(p); }

static void multiply(Product *p)
{
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        multiply_avx2(p);
    else
        multiply_plain(p);
}
#else
static void multiply(Product *p) { multiply_body(p); }
#endif

#define MEET(id)                                                           \
    static const Collective id = {#id, run_##id};                          \
    void simt_##id(int site, void *out, const void *in)                    \
    {                                                                      \
        thread_meet(&id, site, warp_all(thread_self()->machine), in, out); \
    }

/* ---- NVIDIA mma.sync ------------------------------------------------------------------------------------------ */

/* m16n8, `kb` bytes of K (16 or 32). Lane l is number t = l % 4 of group g = l / 4. Register r of A holds row
 * g + 8 (r & 1), bytes 4t + 16 (r / 2) .. +3 of K; register r of B column g, bytes 4t + 16 r .. +3; C row
 * g + 8 (r / 2), column 2t + r % 2. */
INLINE void mma(const Warp *w, Element ta, Element tb, int kb)
{
    bool bytes = ta == S8 || ta == U8;
    int unit = bytes ? 4 : 2 /* elements a register */, a_regs = kb / 8, b_regs = kb / 16;
    Product p;
    set_shape(&p, 16, 8, bytes ? kb : kb / 2, bytes);
    for (int l = 0; l < w->lanes; l++) {
        const uint32_t *a = warp_lane(w, l)->in, *b = a + a_regs, *c = b + b_regs;
        int g = l / 4, t = l % 4;
        for (int i = 0; i < a_regs * unit; i++) {
            int r = i / unit;
            p.a[(g + 8 * (r & 1)) * p.k + unit * t + 4 * unit * (r / 2) + i % unit] = element(ta, a, i);
        }
        for (int i = 0; i < b_regs * unit; i++)
            p.b[(unit * t + 4 * unit * (i / unit) + i % unit) * p.n + g] = element(tb, b, i);
        for (int r = 0; r < 4; r++)
            p.c[(g + 8 * (r / 2)) * p.n + 2 * t + r % 2] = accumulator(&p, c, r);
    }
    multiply(&p);
    for (int l = 0; l < w->lanes; l++)
        for (int r = 0; r < 4; r++)
            give(&p, warp_lane(w, l)->out, r, p.c[(l / 4 + 8 * (r / 2)) * p.n + 2 * (l % 4) + r % 2]);
}

static void run_mma_bf16(const Warp *w) { mma(w, BF16, BF16, 32); }
static void run_mma_f16(const Warp *w) { mma(w, F16, F16, 32); }
static void run_mma_s8(const Warp *w) { mma(w, S8, S8, 32); }
static void run_mma_s8_u8(const Warp *w) { mma(w, S8, U8, 32); }
static void run_mma_u8_s8(const Warp *w) { mma(w, U8, S8, 32); }
static void run_mma_u8(const Warp *w) { mma(w, U8, U8, 32); }
static void run_mma_k16_s8(const Warp *w) { mma(w, S8, S8, 16); }
MEET(mma_bf16)
MEET(mma_f16)
MEET(mma_s8)
MEET(mma_s8_u8)
MEET(mma_u8_s8)
MEET(mma_u8)
MEET(mma_k16_s8)

/* ---- NVIDIA ldmatrix ------------------------------------------------------------------------------------------ */

/* Row i of matrix j begins at the address that lane 8j + i gives; lane l gets elements 2 (l % 4) and the next of row
 * l / 4, transposed: of column l / 4. */
static void ldmatrix(const Warp *w, int count, bool transposed)
{
    const uint16_t *row[32];
    for (int l = 0; l < 8 * count; l++) {
        memcpy(&row[l], warp_lane(w, l)->in, sizeof row[l]);
        const Machine *m = w->machine;
        uintptr_t at = (uintptr_t)row[l] - (uintptr_t)m->shared;
        if (at > (uintptr_t)m->launch->shared || (uintptr_t)m->launch->shared - at < 16 || at % 16) {
            machine_fail(w->machine, warp_lane(w, l), "ldmatrix from byte %lld of on-chip memory, which has %lld bytes",
                         (long long)(intptr_t)at, (long long)m->launch->shared);
            return;
        }
    }
    for (int l = 0; l < w->lanes; l++)
        for (int j = 0; j < count; j++) {
            const uint16_t *const *r = &row[8 * j];
            int i = l / 4, k = 2 * (l % 4);
            uint16_t pair[2] = {transposed ? r[k][i] : r[i][k], transposed ? r[k + 1][i] : r[i][k + 1]};
            memcpy((char *)warp_lane(w, l)->out + 4 * j, pair, 4);
        }
}

static void run_ldmatrix_x1(const Warp *w) { ldmatrix(w, 1, false); }
static void run_ldmatrix_x2(const Warp *w) { ldmatrix(w, 2, false); }
static void run_ldmatrix_x4(const Warp *w) { ldmatrix(w, 4, false); }
static void run_ldmatrix_x1_trans(const Warp *w) { ldmatrix(w, 1, true); }
static void run_ldmatrix_x2_trans(const Warp *w) { ldmatrix(w, 2, true); }
static void run_ldmatrix_x4_trans(const Warp *w) { ldmatrix(w, 4, true); }
MEET(ldmatrix_x1)
MEET(ldmatrix_x2)
MEET(ldmatrix_x4)
MEET(ldmatrix_x1_trans)
MEET(ldmatrix_x2_trans)
MEET(ldmatrix_x4_trans)

/* ---- AMD MFMA ------------------------------------------------------------------------------------------------- */

/* m x m with 64 lanes; a lane holds `each` elements of K. Lane l: row (A) or column (B) l % m, K from each (l / m) on;
 * register r of C: row 4 (64/m) (r / 4) + 4 (l / m) + r % 4, column l % m. */
INLINE void mfma(const Warp *w, Element type, int m, int each)
{
    int groups = 64 / m, registers = m * m / 64;
    size_t bytes = (size_t)each * (type == S8 ? 1 : 2);
    Product p;
    set_shape(&p, m, m, groups * each, type == S8);
    for (int l = 0; l < w->lanes; l++) {
        const char *a = warp_lane(w, l)->in, *b = a + bytes, *c = b + bytes;
        uint32_t controls[3];
        memcpy(controls, c + 4 * registers, sizeof controls);
        if (controls[0] | controls[1] | controls[2]) {
            machine_fail(w->machine, warp_lane(w, l), "mfma with cbsz, abid or blgp, which are not supported");
            return;
        }
        for (int i = 0; i < each; i++) {
            int k = each * (l / m) + i;
            p.a[l % m * p.k + k] = element(type, a, i);
            p.b[k * p.n + l % m] = element(type, b, i);
        }
        for (int r = 0; r < registers; r++)
            p.c[(4 * groups * (r / 4) + 4 * (l / m) + r % 4) * p.n + l % m] = accumulator(&p, c, r);
    }
    multiply(&p);
    for (int l = 0; l < w->lanes; l++)
        for (int r = 0; r < registers; r++)
            give(&p, warp_lane(w, l)->out, r, p.c[(4 * groups * (r / 4) + 4 * (l / m) + r % 4) * p.n + l % m]);
}

INLINE void wide_mfma(const Warp *w, Element type, int m, int each)
{
    if (w->lanes == 64)
        mfma(w, type, m, each);
    else
        machine_fail(w->machine, warp_lane(w, 0), "mfma with wavefronts of %d lanes, not 64", w->lanes);
}

static void run_mfma_bf16(const Warp *w) { wide_mfma(w, BF16, 16, 4); }
static void run_mfma_f16(const Warp *w) { wide_mfma(w, F16, 16, 4); }
static void run_mfma_s8(const Warp *w) { wide_mfma(w, S8, 16, 4); }
static void run_mfma_k32_s8(const Warp *w) { wide_mfma(w, S8, 16, 8); }
static void run_mfma32_bf16(const Warp *w) { wide_mfma(w, BF16, 32, 4); }
static void run_mfma32_f16(const Warp *w) { wide_mfma(w, F16, 32, 4); }
static void run_mfma32_s8(const Warp *w) { wide_mfma(w, S8, 32, 4); }
static void run_mfma32_k16_s8(const Warp *w) { wide_mfma(w, S8, 32, 8); }
MEET(mfma_bf16)
MEET(mfma_f16)
MEET(mfma_s8)
MEET(mfma_k32_s8)
MEET(mfma32_bf16)
MEET(mfma32_f16)
MEET(mfma32_s8)
MEET(mfma32_k16_s8)

/* ---- AMD WMMA (RDNA3, 32 lanes) ------------------------------------------------------------------------------- */

typedef struct Wmma { /* where in a lane's pack operands lie */
    Element ta, tb;
    size_t a, b, c;
    bool saturate;
} Wmma;

/* Lanes 16..31 must hold the same rows of A and columns of B as lanes 0..15. */
static bool replicated(const Warp *w, const Wmma *f, size_t bytes)
{
    for (int l = 0; l < 16; l++) {
        const char *low = warp_lane(w, l)->in, *high = warp_lane(w, l + 16)->in;
        if (memcmp(low + f->a, high + f->a, bytes) || memcmp(low + f->b, high + f->b, bytes)) {
            machine_fail(w->machine, warp_lane(w, l), "wmma whose lanes %d and %d hold different operands", l, l + 16);
            return false;
        }
    }
    return true;
}

/* Lane l: row (A) or column (B) l % 16, all 16 elements of K; register r of C: row 2r + l / 16, column l % 16. */
static void wmma(const Warp *w, const Wmma *f)
{
    bool bytes = f->ta == S8 || f->ta == U8;
    Product p;
    set_shape(&p, 16, 16, 16, bytes);
    p.saturate = f->saturate;
    if (w->lanes != 32)
        machine_fail(w->machine, warp_lane(w, 0), "wmma with wavefronts of %d lanes, not 32", w->lanes);
    if (w->lanes != 32 || !replicated(w, f, bytes ? 16 : 32))
        return;
    for (int l = 0; l < 32; l++) {
        const char *in = warp_lane(w, l)->in;
        for (int k = 0; k < 16; k++) {
            p.a[l % 16 * 16 + k] = element(f->ta, in + f->a, k);
            p.b[k * 16 + l % 16] = element(f->tb, in + f->b, k);
        }
        for (int r = 0; r < 8; r++)
            p.c[(2 * r + l / 16) * 16 + l % 16] = accumulator(&p, in + f->c, r);
    }
    multiply(&p);
    for (int l = 0; l < 32; l++)
        for (int r = 0; r < 8; r++)
            give(&p, warp_lane(w, l)->out, r, p.c[(2 * r + l / 16) * 16 + l % 16]);
}

static void run_wmma_bf16(const Warp *w) { wmma(w, &(Wmma){BF16, BF16, 0, 32, 64, false}); }
static void run_wmma_f16(const Warp *w) { wmma(w, &(Wmma){F16, F16, 0, 32, 64, false}); }

/* Arguments: is A signed, A, is B signed, B, C, clamp. */
static void run_wmma_iu8(const Warp *w)
{
    const char *in = warp_lane(w, 0)->in;
    uint32_t a_signed, b_signed, clamp;
    memcpy(&a_signed, in, 4);
    memcpy(&b_signed, in + 20, 4);
    memcpy(&clamp, in + 72, 4);
    wmma(w, &(Wmma){a_signed ? S8 : U8, b_signed ? S8 : U8, 4, 24, 40, clamp != 0});
}
MEET(wmma_bf16)
MEET(wmma_f16)
MEET(wmma_iu8)
