/* math.c - elementwise operations on the host. Transcendental functions are fixed polynomials in fused multiply-adds,
 * so that a result does not depend on vector length, position or libm. Coefficients: Taylor and minimax forms found in
 * any handbook (Cephes' single precision functions give the same degree); errors are checked by `bladegen check`. */
#include "lower.h"

#include <math.h>

static V fconst(Lower *l, double v, int n)
{
    return splat(l, LLVMConstReal(l->f32, v), n);
}

static V iconst(Lower *l, int64_t v, int n)
{
    return splat(l, i32_const(l, v), n);
}

V math_fma(Lower *l, V x, V y, V z, int n)
{
    (void)n;
    if (!l->t->fma)
        return LLVMBuildFAdd(l->b, LLVMBuildFMul(l->b, x, y, ""), z, "");
    LLVMTypeRef t = LLVMTypeOf(x);
    return call(l, "llvm.fma", &t, 1, (V[]){x, y, z}, 3);
}

static V intrinsic1(Lower *l, const char *name, V x)
{
    LLVMTypeRef t = LLVMTypeOf(x);
    return call(l, name, &t, 1, &x, 1);
}

/* To nearest even without an instruction for it: adding 2^23 (2^52) with x's sign drops the fraction. */
static V lower_rint(Lower *l, V x)
{
    if (l->t->round)
        return intrinsic1(l, "llvm.rint", x);
    LLVMTypeRef type = LLVMTypeOf(x), elem = LLVMGetTypeKind(type) == LLVMVectorTypeKind ? LLVMGetElementType(type) : type;
    int n = type == elem ? 1 : (int)LLVMGetVectorSize(type);
    V big = splat(l, LLVMConstReal(elem, elem == l->f64 ? 0x1p52 : 0x1p23), n);
    V magic = call(l, "llvm.copysign", &type, 1, (V[]){big, x}, 2);
    V near = LLVMBuildFSub(l->b, LLVMBuildFAdd(l->b, x, magic, ""), magic, "");
    V large = LLVMBuildFCmp(l->b, LLVMRealUGE, intrinsic1(l, "llvm.fabs", x), big, ""); /* already whole, or NaN */
    return LLVMBuildSelect(l->b, large, x, near, "");
}

static V lower_floor(Lower *l, V x, int n)
{
    if (l->t->round)
        return intrinsic1(l, "llvm.floor", x);
    V near = lower_rint(l, x);
    LLVMTypeRef elem = n == 1 ? LLVMTypeOf(x) : LLVMGetElementType(LLVMTypeOf(x));
    V one = splat(l, LLVMConstReal(elem, 1), n);
    V above = LLVMBuildFCmp(l->b, LLVMRealOGT, near, x, "");
    return LLVMBuildSelect(l->b, above, LLVMBuildFSub(l->b, near, one, ""), near, "");
}

/* c[0] + x (c[1] + x (...)), highest coefficient last. */
static V horner(Lower *l, V x, const double *c, int count, int n)
{
    V p = fconst(l, c[count - 1], n);
    for (int i = count - 2; i >= 0; i--)
        p = math_fma(l, p, x, fconst(l, c[i], n), n);
    return p;
}

static V as_int(Lower *l, V x, int n)
{
    return LLVMBuildBitCast(l->b, x, vec_type(l->i32, n), "");
}

static V as_float(Lower *l, V x, int n)
{
    return LLVMBuildBitCast(l->b, x, vec_type(l->f32, n), "");
}

static V select_lt(Lower *l, V x, double bound, V then, V other, int n)
{
    return LLVMBuildSelect(l->b, LLVMBuildFCmp(l->b, LLVMRealOLT, x, fconst(l, bound, n), ""), then, other, "");
}

static V clamp(Lower *l, V x, double lo, double hi, int n)
{
    x = math_binary(l, OP_MAX, DT_F32, x, fconst(l, lo, n), n);
    return math_binary(l, OP_MIN, DT_F32, x, fconst(l, hi, n), n);
}

/* e^x = 2^k e^r, r = x - k ln 2, |r| <= 0.35, 2^k added to the exponent; 0 below -87.33, infinity above 88.72, NaN for
 * NaN. The clamps take NaN through: a comparison with it fails. */
static V lower_exp(Lower *l, V x, int n)
{
    static const double c[] = {1, 1, 0.5, 1.6666666e-1, 4.1666648e-2, 8.3334519e-3, 1.3888803e-3};
    static const double low = -87.336544, high = 88.722839;
    V y = select_lt(l, x, low, fconst(l, low, n), x, n);
    y = LLVMBuildSelect(l->b, LLVMBuildFCmp(l->b, LLVMRealOGT, y, fconst(l, high, n), ""), fconst(l, high, n), y, "");
    V k = lower_rint(l, LLVMBuildFMul(l->b, y, fconst(l, 1.4426950408889634, n), ""));
    V r = math_fma(l, k, fconst(l, -0.693359375, n), y, n);
    r = math_fma(l, k, fconst(l, 2.12194440e-4, n), r, n);
    V p = as_int(l, horner(l, r, c, COUNT(c), n), n);
    V whole = LLVMBuildFreeze(l->b, LLVMBuildFPToSI(l->b, k, vec_type(l->i32, n), ""), "");
    V e = as_float(l, LLVMBuildAdd(l->b, p, LLVMBuildShl(l->b, whole, iconst(l, 23, n), ""), ""), n);
    e = select_lt(l, x, low, fconst(l, 0, n), e, n);
    V over = LLVMBuildFCmp(l->b, LLVMRealOGT, x, fconst(l, high, n), "");
    return LLVMBuildSelect(l->b, over, fconst(l, INFINITY, n), e, "");
}

/* ln x = k ln 2 + ln m, m in [0.7071, 1.4142); -inf at 0, NaN below. Subnormals count as the smallest normal number. */
static V lower_log(Lower *l, V x, int n)
{
    static const double c[] = {3.3333331174e-1, -2.4999993993e-1, 2.0000714765e-1, -1.6668057665e-1, 1.4249322787e-1,
                               -1.2420140846e-1, 1.1676998740e-1, -1.1514610310e-1, 7.0376836292e-2};
    V y = math_binary(l, OP_MAX, DT_F32, x, fconst(l, 1.17549435e-38, n), n);
    V bits = as_int(l, y, n);
    V shifted = LLVMBuildSub(l->b, bits, iconst(l, 0x3F3504F3, n), ""); /* bits of sqrt(1/2) */
    V k = LLVMBuildAShr(l->b, shifted, iconst(l, 23, n), "");
    V m = as_float(l, LLVMBuildSub(l->b, bits, LLVMBuildShl(l->b, k, iconst(l, 23, n), ""), ""), n);
    V kf = LLVMBuildSIToFP(l->b, k, vec_type(l->f32, n), "");
    V f = LLVMBuildFSub(l->b, m, fconst(l, 1, n), "");
    V f2 = LLVMBuildFMul(l->b, f, f, "");
    V p = LLVMBuildFMul(l->b, LLVMBuildFMul(l->b, horner(l, f, c, COUNT(c), n), f, ""), f2, "");
    p = math_fma(l, kf, fconst(l, -2.12194440e-4, n), p, n);
    p = math_fma(l, f2, fconst(l, -0.5, n), p, n);
    V result = math_fma(l, kf, fconst(l, 0.693359375, n), LLVMBuildFAdd(l->b, f, p, ""), n);
    V is_inf = LLVMBuildFCmp(l->b, LLVMRealOEQ, x, fconst(l, INFINITY, n), "");
    result = LLVMBuildSelect(l->b, is_inf, x, result, "");
    V zero = LLVMBuildFCmp(l->b, LLVMRealOEQ, x, fconst(l, 0, n), "");
    result = LLVMBuildSelect(l->b, zero, fconst(l, -INFINITY, n), result, "");
    V bad = LLVMBuildFCmp(l->b, LLVMRealULT, x, fconst(l, 0, n), ""); /* below zero or NaN */
    return LLVMBuildSelect(l->b, bad, fconst(l, NAN, n), result, "");
}

/* sin and cos: the quarter turn is taken off in f64, so that positions up to 2^30 radians keep f32 accuracy. */
static V lower_sincos(Lower *l, V x, int quarter, int n)
{
    static const double s[] = {1, -1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4};
    static const double c[] = {1, -0.5, 4.166664568298827e-2, -1.388731625493765e-3, 2.443315711809948e-5};
    LLVMTypeRef f64n = vec_type(l->f64, n);
    V wide = LLVMBuildFPExt(l->b, x, f64n, "");
    V turns = LLVMBuildFMul(l->b, wide, splat(l, LLVMConstReal(l->f64, 0.63661977236758134308), n), "");
    V k = lower_rint(l, turns);
    V r = LLVMBuildFSub(l->b, wide, LLVMBuildFMul(l->b, k, splat(l, LLVMConstReal(l->f64, 1.57079632679489655800), n), ""), "");
    r = LLVMBuildFSub(l->b, r, LLVMBuildFMul(l->b, k, splat(l, LLVMConstReal(l->f64, 6.12323399573676603587e-17), n), ""), "");
    V rf = LLVMBuildFPTrunc(l->b, r, vec_type(l->f32, n), "");
    V q = LLVMBuildAdd(l->b, LLVMBuildFPToSI(l->b, k, vec_type(l->i32, n), ""), iconst(l, quarter, n), "");
    V r2 = LLVMBuildFMul(l->b, rf, rf, "");
    V sine = LLVMBuildFMul(l->b, rf, horner(l, r2, s, COUNT(s), n), "");
    V cosine = horner(l, r2, c, COUNT(c), n);
    V odd = LLVMBuildICmp(l->b, LLVMIntNE, LLVMBuildAnd(l->b, q, iconst(l, 1, n), ""), iconst(l, 0, n), "");
    V y = as_int(l, LLVMBuildSelect(l->b, odd, cosine, sine, ""), n);
    V sign = LLVMBuildShl(l->b, LLVMBuildAnd(l->b, q, iconst(l, 2, n), ""), iconst(l, 30, n), "");
    return as_float(l, LLVMBuildXor(l->b, y, sign, ""), n);
}

/* tanh x = sign(x) (1 - e) / (1 + e), e = exp(-2|x|); absolute error below 2e-7. */
static V lower_tanh(Lower *l, V x, int n)
{
    V e = lower_exp(l, LLVMBuildFMul(l->b, intrinsic1(l, "llvm.fabs", x), fconst(l, -2, n), ""), n);
    V one = fconst(l, 1, n);
    V t = LLVMBuildFDiv(l->b, LLVMBuildFSub(l->b, one, e, ""), LLVMBuildFAdd(l->b, one, e, ""), "");
    LLVMTypeRef type = LLVMTypeOf(x);
    return call(l, "llvm.copysign", &type, 1, (V[]){t, x}, 2);
}

V math_unary(Lower *l, Op op, V x, int n)
{
    LLVMTypeKind kind = LLVMGetTypeKind(n == 1 ? LLVMTypeOf(x) : LLVMGetElementType(LLVMTypeOf(x)));
    bool is_float = kind == LLVMFloatTypeKind || kind == LLVMDoubleTypeKind;
    switch (op) {
    case OP_NEG: return is_float ? LLVMBuildFNeg(l->b, x, "") : LLVMBuildNeg(l->b, x, "");
    case OP_NOT: return LLVMBuildNot(l->b, x, "");
    case OP_ABS:
        if (is_float)
            return intrinsic1(l, "llvm.fabs", x);
        return LLVMBuildSelect(l->b, LLVMBuildICmp(l->b, LLVMIntSLT, x, LLVMConstNull(LLVMTypeOf(x)), ""),
                               LLVMBuildNeg(l->b, x, ""), x, "");
    case OP_SQRT: return intrinsic1(l, "llvm.sqrt", x);
    case OP_RINT: return lower_rint(l, x);
    case OP_FLOOR: return lower_floor(l, x, n);
    case OP_EXP: return lower_exp(l, x, n);
    case OP_LOG: return lower_log(l, x, n);
    case OP_SIN: return lower_sincos(l, x, 0, n);
    case OP_COS: return lower_sincos(l, x, 1, n);
    default: return lower_tanh(l, x, n);
    }
}

static V compare(Lower *l, Op op, bool is_float, bool is_signed, V x, V y)
{
    static const LLVMRealPredicate real[] = {LLVMRealOEQ, LLVMRealUNE, LLVMRealOLT, LLVMRealOLE, LLVMRealOGT, LLVMRealOGE};
    static const LLVMIntPredicate sint[] = {LLVMIntEQ, LLVMIntNE, LLVMIntSLT, LLVMIntSLE, LLVMIntSGT, LLVMIntSGE};
    static const LLVMIntPredicate uint[] = {LLVMIntEQ, LLVMIntNE, LLVMIntULT, LLVMIntULE, LLVMIntUGT, LLVMIntUGE};
    _Static_assert(OP_GE - OP_EQ == 5, "the tables follow the order of ops.h");
    int at = op - OP_EQ;
    return is_float ? LLVMBuildFCmp(l->b, real[at], x, y, "")
                    : LLVMBuildICmp(l->b, is_signed ? sint[at] : uint[at], x, y, "");
}

V math_binary(Lower *l, Op op, DType elem, V x, V y, int n)
{
    bool f = dtype_is_float(elem), s = dtype_is_signed(elem);
    (void)n;
    switch (op) {
    case OP_ADD: return f ? LLVMBuildFAdd(l->b, x, y, "") : LLVMBuildAdd(l->b, x, y, "");
    case OP_SUB: return f ? LLVMBuildFSub(l->b, x, y, "") : LLVMBuildSub(l->b, x, y, "");
    case OP_MUL: return f ? LLVMBuildFMul(l->b, x, y, "") : LLVMBuildMul(l->b, x, y, "");
    case OP_DIV: return f ? LLVMBuildFDiv(l->b, x, y, "") : LLVMBuildUDiv(l->b, x, y, "");
    case OP_REM: return LLVMBuildURem(l->b, x, y, "");
    case OP_MIN: return LLVMBuildSelect(l->b, compare(l, OP_LT, f, s, x, y), x, y, "");
    case OP_MAX: return LLVMBuildSelect(l->b, compare(l, OP_GT, f, s, x, y), x, y, "");
    case OP_AND: return LLVMBuildAnd(l->b, x, y, "");
    case OP_OR: return LLVMBuildOr(l->b, x, y, "");
    case OP_XOR: return LLVMBuildXor(l->b, x, y, "");
    case OP_SHL: return LLVMBuildShl(l->b, x, y, "");
    case OP_SHR: return s ? LLVMBuildAShr(l->b, x, y, "") : LLVMBuildLShr(l->b, x, y, "");
    default: return compare(l, op, f, s, x, y);
    }
}

/* ---- conversions --------------------------------------------------------------------------------------------- */

static V bf16_to_float(Lower *l, V x, int n)
{
    V wide = LLVMBuildZExt(l->b, x, vec_type(l->i32, n), "");
    return as_float(l, LLVMBuildShl(l->b, wide, iconst(l, 16, n), ""), n);
}

/* Round to nearest even; NaN stays NaN. The hardware form also takes subnormals to zero. */
static V float_to_bf16(Lower *l, V x, int n)
{
    if (l->t->bf16_dot && n == 16) {
        V r = call(l, "llvm.x86.avx512bf16.cvtneps2bf16.512", NULL, 0, &x, 1);
        return LLVMBuildBitCast(l->b, r, vec_type(l->i16, n), "");
    }
    V u = as_int(l, x, n);
    V odd = LLVMBuildAnd(l->b, LLVMBuildLShr(l->b, u, iconst(l, 16, n), ""), iconst(l, 1, n), "");
    V rounded = LLVMBuildAdd(l->b, u, LLVMBuildAdd(l->b, odd, iconst(l, 0x7FFF, n), ""), "");
    V nan = LLVMBuildFCmp(l->b, LLVMRealUNO, x, x, "");
    rounded = LLVMBuildSelect(l->b, nan, iconst(l, 0x7FC00000, n), rounded, "");
    return LLVMBuildTrunc(l->b, LLVMBuildLShr(l->b, rounded, iconst(l, 16, n), ""), vec_type(l->i16, n), "");
}

static V half_to_float(Lower *l, V x, int n)
{
    if (l->t->f16c) {
        V h = LLVMBuildBitCast(l->b, x, vec_type(LLVMHalfTypeInContext(l->ctx), n), "");
        return LLVMBuildFPExt(l->b, h, vec_type(l->f32, n), "");
    }
    /* shift exponent and mantissa into place, scale by 2^112; exact for all finite halves */
    V u = LLVMBuildZExt(l->b, x, vec_type(l->i32, n), "");
    V magnitude = LLVMBuildShl(l->b, LLVMBuildAnd(l->b, u, iconst(l, 0x7FFF, n), ""), iconst(l, 13, n), "");
    V value = LLVMBuildFMul(l->b, as_float(l, magnitude, n), fconst(l, 0x1p112, n), "");
    V sign = LLVMBuildShl(l->b, LLVMBuildAnd(l->b, u, iconst(l, 0x8000, n), ""), iconst(l, 16, n), "");
    return as_float(l, LLVMBuildOr(l->b, as_int(l, value, n), sign, ""), n);
}

/* Round to nearest even by adding half of the last kept bit; magnitudes from 65520 on become infinity. */
static V float_to_half(Lower *l, V x, int n)
{
    if (l->t->f16c) {
        V h = LLVMBuildFPTrunc(l->b, x, vec_type(LLVMHalfTypeInContext(l->ctx), n), "");
        return LLVMBuildBitCast(l->b, h, vec_type(l->i16, n), "");
    }
    V u = as_int(l, x, n), sign = LLVMBuildAnd(l->b, LLVMBuildLShr(l->b, u, iconst(l, 16, n), ""), iconst(l, 0x8000, n), "");
    V a = LLVMBuildAnd(l->b, u, iconst(l, 0x7FFFFFFF, n), "");
    V odd = LLVMBuildAnd(l->b, LLVMBuildLShr(l->b, a, iconst(l, 13, n), ""), iconst(l, 1, n), "");
    V r = LLVMBuildAdd(l->b, a, LLVMBuildAdd(l->b, odd, iconst(l, 0xFFF, n), ""), "");
    V normal = LLVMBuildLShr(l->b, LLVMBuildSub(l->b, r, iconst(l, 0x38000000, n), ""), iconst(l, 13, n), "");
    V small = LLVMBuildSub(l->b, as_int(l, LLVMBuildFAdd(l->b, as_float(l, a, n), fconst(l, 0.5, n), ""), n),
                           iconst(l, 0x3F000000, n), "");
    V h = LLVMBuildSelect(l->b, LLVMBuildICmp(l->b, LLVMIntULT, a, iconst(l, 0x38800000, n), ""), small, normal, "");
    h = LLVMBuildSelect(l->b, LLVMBuildICmp(l->b, LLVMIntUGE, a, iconst(l, 0x477FF000, n), ""), iconst(l, 0x7C00, n), h, "");
    h = LLVMBuildSelect(l->b, LLVMBuildICmp(l->b, LLVMIntUGT, a, iconst(l, 0x7F800000, n), ""), iconst(l, 0x7E00, n), h, "");
    return LLVMBuildTrunc(l->b, LLVMBuildOr(l->b, h, sign, ""), vec_type(l->i16, n), "");
}

static V to_float(Lower *l, V x, DType from, int n)
{
    if (from == DT_BF16)
        return bf16_to_float(l, x, n);
    if (from == DT_F16)
        return half_to_float(l, x, n);
    if (from == DT_F32)
        return x;
    if (from == DT_F64)
        return LLVMBuildFPTrunc(l->b, x, vec_type(l->f32, n), "");
    return dtype_is_signed(from) ? LLVMBuildSIToFP(l->b, x, vec_type(l->f32, n), "")
                                 : LLVMBuildUIToFP(l->b, x, vec_type(l->f32, n), "");
}

static V float_to_int(Lower *l, V x, DType to, int n)
{
    if (dtype_bits(to) == 8) {
        x = clamp(l, x, dtype_is_signed(to) ? -128 : 0, dtype_is_signed(to) ? 127 : 255, n);
        V wide = LLVMBuildFPToSI(l->b, lower_rint(l, x), vec_type(l->i32, n), "");
        return LLVMBuildTrunc(l->b, wide, vec_type(l->i8, n), "");
    }
    LLVMTypeRef t = vec_type(elem_type(l, to), n);
    return dtype_is_signed(to) ? LLVMBuildFPToSI(l->b, x, t, "") : LLVMBuildFPToUI(l->b, x, t, "");
}

V math_cast(Lower *l, V x, DType from, DType to, int n)
{
    LLVMTypeRef t = vec_type(elem_type(l, to), n);
    if (from == to)
        return x;
    if (!dtype_is_float(from) && !dtype_is_float(to)) {
        int a = dtype_bits(from), b = dtype_bits(to);
        return a == b ? x : a > b ? LLVMBuildTrunc(l->b, x, t, "")
               : dtype_is_signed(from) ? LLVMBuildSExt(l->b, x, t, "") : LLVMBuildZExt(l->b, x, t, "");
    }
    if (to == DT_F64)
        return from == DT_F32            ? LLVMBuildFPExt(l->b, x, t, "")
               : dtype_is_float(from)    ? LLVMBuildFPExt(l->b, to_float(l, x, from, n), t, "")
               : dtype_is_signed(from)   ? LLVMBuildSIToFP(l->b, x, t, "")
                                         : LLVMBuildUIToFP(l->b, x, t, "");
    if (from == DT_F64 && !dtype_is_float(to) && dtype_bits(to) > 8)
        return dtype_is_signed(to) ? LLVMBuildFPToSI(l->b, x, t, "") : LLVMBuildFPToUI(l->b, x, t, "");
    V f = to_float(l, x, from, n);
    return to == DT_F32    ? f
           : to == DT_BF16 ? float_to_bf16(l, f, n)
           : to == DT_F16  ? float_to_half(l, f, n)
                           : float_to_int(l, f, to, n);
}
