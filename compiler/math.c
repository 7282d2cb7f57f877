/* math.c - the helpers of code.h, and elementwise operations. Transcendental functions are fixed polynomials in fused multiply-adds,
 * so that a result does not depend on vector length, position or libm. Coefficients: Taylor and minimax forms found in
 * any handbook (Cephes' single precision functions give the same degree); errors are checked by `bladegen check`. */
#include "code.h"

#include <math.h>
#include <string.h>

Code code_new(const Target *t, LLVMModuleRef module)
{
    LLVMContextRef x = LLVMGetModuleContext(module);
    return (Code){.t = t, .ctx = x, .module = module, .b = LLVMCreateBuilderInContext(x), .i1 = LLVMInt1TypeInContext(x),
                  .i8 = LLVMInt8TypeInContext(x), .i16 = LLVMInt16TypeInContext(x), .i32 = LLVMInt32TypeInContext(x),
                  .i64 = LLVMInt64TypeInContext(x), .f32 = LLVMFloatTypeInContext(x),
                  .f64 = LLVMDoubleTypeInContext(x), .ptr = LLVMPointerTypeInContext(x, 0)};
}

LLVMTypeRef elem_type(Code *c, DType t)
{
    switch (t) {
    case DT_F32: return c->f32;
    case DT_F64: return c->f64;
    case DT_PRED: return c->i1;
    default: return LLVMIntTypeInContext(c->ctx, (unsigned)dtype_bits(t));
    }
}

LLVMTypeRef vec_type(LLVMTypeRef elem, int n)
{
    return n == 1 ? elem : LLVMVectorType(elem, (unsigned)n);
}

V i32_const(Code *c, int64_t v) { return LLVMConstInt(c->i32, (unsigned long long)v, true); }
V i64_const(Code *c, int64_t v) { return LLVMConstInt(c->i64, (unsigned long long)v, true); }

V splat(Code *c, V scalar, int n)
{
    if (n == 1)
        return scalar;
    if (LLVMIsConstant(scalar)) {
        V all[64];
        for (int i = 0; i < n; i++)
            all[i] = scalar;
        return LLVMConstVector(all, (unsigned)n);
    }
    LLVMTypeRef t = vec_type(LLVMTypeOf(scalar), n);
    V one = LLVMBuildInsertElement(c->b, LLVMGetPoison(t), scalar, i32_const(c, 0), "");
    return LLVMBuildShuffleVector(c->b, one, LLVMGetPoison(t), LLVMConstNull(vec_type(c->i32, n)), "");
}

V call(Code *c, const char *intrinsic, LLVMTypeRef *overloads, int n_overloads, V *args, int n)
{
    unsigned id = LLVMLookupIntrinsicID(intrinsic, strlen(intrinsic));
    V fn = LLVMGetIntrinsicDeclaration(c->module, id, overloads, (size_t)n_overloads);
    LLVMTypeRef type = LLVMIntrinsicGetType(c->ctx, id, overloads, (size_t)n_overloads);
    return LLVMBuildCall2(c->b, type, fn, args, (unsigned)n, "");
}

V elem_const(Code *c, const Ins *i)
{
    DType e = i->type.elem;
    if (e == DT_F32 || e == DT_F64)
        return LLVMConstReal(elem_type(c, e), i->number);
    if (e == DT_BF16)
        return LLVMConstInt(elem_type(c, e), f32_to_bf16((float)i->number), false);
    if (e == DT_F16)
        return LLVMConstInt(elem_type(c, e), f32_to_f16((float)i->number), false);
    return LLVMConstInt(elem_type(c, e), (unsigned long long)i->integer, true);
}

/* ---- arithmetic ------------------------------------------------------------------------------------------------ */

static V fconst(Code *c, double v, int n)
{
    return splat(c, LLVMConstReal(c->f32, v), n);
}

static V iconst(Code *c, int64_t v, int n)
{
    return splat(c, i32_const(c, v), n);
}

V math_fma(Code *c, V x, V y, V z, int n)
{
    (void)n;
    if (!c->t->fma)
        return LLVMBuildFAdd(c->b, LLVMBuildFMul(c->b, x, y, ""), z, "");
    LLVMTypeRef t = LLVMTypeOf(x);
    return call(c, "llvm.fma", &t, 1, (V[]){x, y, z}, 3);
}

static V intrinsic1(Code *c, const char *name, V x)
{
    LLVMTypeRef t = LLVMTypeOf(x);
    return call(c, name, &t, 1, &x, 1);
}

/* To nearest even without an instruction for it: adding 2^23 (2^52) with x's sign drops the fraction. */
static V lower_rint(Code *c, V x)
{
    if (c->t->round)
        return intrinsic1(c, "llvm.rint", x);
    LLVMTypeRef type = LLVMTypeOf(x), elem = LLVMGetTypeKind(type) == LLVMVectorTypeKind ? LLVMGetElementType(type) : type;
    int n = type == elem ? 1 : (int)LLVMGetVectorSize(type);
    V big = splat(c, LLVMConstReal(elem, elem == c->f64 ? 0x1p52 : 0x1p23), n);
    V magic = call(c, "llvm.copysign", &type, 1, (V[]){big, x}, 2);
    V near = LLVMBuildFSub(c->b, LLVMBuildFAdd(c->b, x, magic, ""), magic, "");
    V large = LLVMBuildFCmp(c->b, LLVMRealUGE, intrinsic1(c, "llvm.fabs", x), big, ""); /* already whole, or NaN */
    return LLVMBuildSelect(c->b, large, x, near, "");
}

static V lower_floor(Code *c, V x, int n)
{
    if (c->t->round)
        return intrinsic1(c, "llvm.floor", x);
    V near = lower_rint(c, x);
    LLVMTypeRef elem = n == 1 ? LLVMTypeOf(x) : LLVMGetElementType(LLVMTypeOf(x));
    V one = splat(c, LLVMConstReal(elem, 1), n);
    V above = LLVMBuildFCmp(c->b, LLVMRealOGT, near, x, "");
    return LLVMBuildSelect(c->b, above, LLVMBuildFSub(c->b, near, one, ""), near, "");
}

/* a[0] + x (a[1] + x (...)), highest coefficient last. */
static V horner(Code *c, V x, const double *a, int count, int n)
{
    V p = fconst(c, a[count - 1], n);
    for (int i = count - 2; i >= 0; i--)
        p = math_fma(c, p, x, fconst(c, a[i], n), n);
    return p;
}

static V as_int(Code *c, V x, int n)
{
    return LLVMBuildBitCast(c->b, x, vec_type(c->i32, n), "");
}

static V as_float(Code *c, V x, int n)
{
    return LLVMBuildBitCast(c->b, x, vec_type(c->f32, n), "");
}

static V select_lt(Code *c, V x, double bound, V then, V other, int n)
{
    return LLVMBuildSelect(c->b, LLVMBuildFCmp(c->b, LLVMRealOLT, x, fconst(c, bound, n), ""), then, other, "");
}

static V clamp(Code *c, V x, double lo, double hi, int n)
{
    x = math_binary(c, OP_MAX, DT_F32, x, fconst(c, lo, n), n);
    return math_binary(c, OP_MIN, DT_F32, x, fconst(c, hi, n), n);
}

/* e^x = 2^k e^r, r = x - k ln 2, |r| <= 0.35, 2^k added to the exponent; 0 below -87.33, infinity above 88.72, NaN for
 * NaN. The clamps take NaN through: a comparison with it fails. */
static V lower_exp(Code *c, V x, int n)
{
    static const double a[] = {1, 1, 0.5, 1.6666666e-1, 4.1666648e-2, 8.3334519e-3, 1.3888803e-3};
    static const double low = -87.336544, high = 88.722839;
    V y = select_lt(c, x, low, fconst(c, low, n), x, n);
    y = LLVMBuildSelect(c->b, LLVMBuildFCmp(c->b, LLVMRealOGT, y, fconst(c, high, n), ""), fconst(c, high, n), y, "");
    V k = lower_rint(c, LLVMBuildFMul(c->b, y, fconst(c, 1.4426950408889634, n), ""));
    V r = math_fma(c, k, fconst(c, -0.693359375, n), y, n);
    r = math_fma(c, k, fconst(c, 2.12194440e-4, n), r, n);
    V p = as_int(c, horner(c, r, a, COUNT(a), n), n);
    V whole = LLVMBuildFreeze(c->b, LLVMBuildFPToSI(c->b, k, vec_type(c->i32, n), ""), "");
    V e = as_float(c, LLVMBuildAdd(c->b, p, LLVMBuildShl(c->b, whole, iconst(c, 23, n), ""), ""), n);
    e = select_lt(c, x, low, fconst(c, 0, n), e, n);
    V over = LLVMBuildFCmp(c->b, LLVMRealOGT, x, fconst(c, high, n), "");
    return LLVMBuildSelect(c->b, over, fconst(c, INFINITY, n), e, "");
}

/* ln x = k ln 2 + ln m, m in [0.7071, 1.4142); -inf at 0, NaN below. Subnormals count as the smallest normal number. */
static V lower_log(Code *c, V x, int n)
{
    static const double a[] = {3.3333331174e-1, -2.4999993993e-1, 2.0000714765e-1, -1.6668057665e-1, 1.4249322787e-1,
                               -1.2420140846e-1, 1.1676998740e-1, -1.1514610310e-1, 7.0376836292e-2};
    V y = math_binary(c, OP_MAX, DT_F32, x, fconst(c, 1.17549435e-38, n), n);
    V bits = as_int(c, y, n);
    V shifted = LLVMBuildSub(c->b, bits, iconst(c, 0x3F3504F3, n), ""); /* bits of sqrt(1/2) */
    V k = LLVMBuildAShr(c->b, shifted, iconst(c, 23, n), "");
    V m = as_float(c, LLVMBuildSub(c->b, bits, LLVMBuildShl(c->b, k, iconst(c, 23, n), ""), ""), n);
    V kf = LLVMBuildSIToFP(c->b, k, vec_type(c->f32, n), "");
    V f = LLVMBuildFSub(c->b, m, fconst(c, 1, n), "");
    V f2 = LLVMBuildFMul(c->b, f, f, "");
    V p = LLVMBuildFMul(c->b, LLVMBuildFMul(c->b, horner(c, f, a, COUNT(a), n), f, ""), f2, "");
    p = math_fma(c, kf, fconst(c, -2.12194440e-4, n), p, n);
    p = math_fma(c, f2, fconst(c, -0.5, n), p, n);
    V result = math_fma(c, kf, fconst(c, 0.693359375, n), LLVMBuildFAdd(c->b, f, p, ""), n);
    V is_inf = LLVMBuildFCmp(c->b, LLVMRealOEQ, x, fconst(c, INFINITY, n), "");
    result = LLVMBuildSelect(c->b, is_inf, x, result, "");
    V zero = LLVMBuildFCmp(c->b, LLVMRealOEQ, x, fconst(c, 0, n), "");
    result = LLVMBuildSelect(c->b, zero, fconst(c, -INFINITY, n), result, "");
    V bad = LLVMBuildFCmp(c->b, LLVMRealULT, x, fconst(c, 0, n), ""); /* below zero or NaN */
    return LLVMBuildSelect(c->b, bad, fconst(c, NAN, n), result, "");
}

/* sin and cos: the quarter turn is taken off in f64, so that positions up to 2^30 radians keep f32 accuracy. */
static V lower_sincos(Code *c, V x, int quarter, int n)
{
    static const double s[] = {1, -1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4};
    static const double a[] = {1, -0.5, 4.166664568298827e-2, -1.388731625493765e-3, 2.443315711809948e-5};
    LLVMTypeRef f64n = vec_type(c->f64, n);
    V wide = LLVMBuildFPExt(c->b, x, f64n, "");
    V turns = LLVMBuildFMul(c->b, wide, splat(c, LLVMConstReal(c->f64, 0.63661977236758134308), n), "");
    V k = lower_rint(c, turns);
    V r = LLVMBuildFSub(c->b, wide, LLVMBuildFMul(c->b, k, splat(c, LLVMConstReal(c->f64, 1.57079632679489655800), n), ""), "");
    r = LLVMBuildFSub(c->b, r, LLVMBuildFMul(c->b, k, splat(c, LLVMConstReal(c->f64, 6.12323399573676603587e-17), n), ""), "");
    V rf = LLVMBuildFPTrunc(c->b, r, vec_type(c->f32, n), "");
    V q = LLVMBuildAdd(c->b, LLVMBuildFPToSI(c->b, k, vec_type(c->i32, n), ""), iconst(c, quarter, n), "");
    V r2 = LLVMBuildFMul(c->b, rf, rf, "");
    V sine = LLVMBuildFMul(c->b, rf, horner(c, r2, s, COUNT(s), n), "");
    V cosine = horner(c, r2, a, COUNT(a), n);
    V odd = LLVMBuildICmp(c->b, LLVMIntNE, LLVMBuildAnd(c->b, q, iconst(c, 1, n), ""), iconst(c, 0, n), "");
    V y = as_int(c, LLVMBuildSelect(c->b, odd, cosine, sine, ""), n);
    V sign = LLVMBuildShl(c->b, LLVMBuildAnd(c->b, q, iconst(c, 2, n), ""), iconst(c, 30, n), "");
    return as_float(c, LLVMBuildXor(c->b, y, sign, ""), n);
}

/* tanh x = sign(x) (1 - e) / (1 + e), e = exp(-2|x|); absolute error below 2e-7. */
static V lower_tanh(Code *c, V x, int n)
{
    V e = lower_exp(c, LLVMBuildFMul(c->b, intrinsic1(c, "llvm.fabs", x), fconst(c, -2, n), ""), n);
    V one = fconst(c, 1, n);
    V t = LLVMBuildFDiv(c->b, LLVMBuildFSub(c->b, one, e, ""), LLVMBuildFAdd(c->b, one, e, ""), "");
    LLVMTypeRef type = LLVMTypeOf(x);
    return call(c, "llvm.copysign", &type, 1, (V[]){t, x}, 2);
}

V math_unary(Code *c, Op op, V x, int n)
{
    LLVMTypeKind kind = LLVMGetTypeKind(n == 1 ? LLVMTypeOf(x) : LLVMGetElementType(LLVMTypeOf(x)));
    bool is_float = kind == LLVMFloatTypeKind || kind == LLVMDoubleTypeKind;
    switch (op) {
    case OP_NEG: return is_float ? LLVMBuildFNeg(c->b, x, "") : LLVMBuildNeg(c->b, x, "");
    case OP_NOT: return LLVMBuildNot(c->b, x, "");
    case OP_ABS:
        if (is_float)
            return intrinsic1(c, "llvm.fabs", x);
        return LLVMBuildSelect(c->b, LLVMBuildICmp(c->b, LLVMIntSLT, x, LLVMConstNull(LLVMTypeOf(x)), ""),
                               LLVMBuildNeg(c->b, x, ""), x, "");
    case OP_SQRT: return intrinsic1(c, "llvm.sqrt", x);
    case OP_RINT: return lower_rint(c, x);
    case OP_FLOOR: return lower_floor(c, x, n);
    case OP_EXP: return lower_exp(c, x, n);
    case OP_LOG: return lower_log(c, x, n);
    case OP_SIN: return lower_sincos(c, x, 0, n);
    case OP_COS: return lower_sincos(c, x, 1, n);
    default: return lower_tanh(c, x, n);
    }
}

static V compare(Code *c, Op op, bool is_float, bool is_signed, V x, V y)
{
    static const LLVMRealPredicate real[] = {LLVMRealOEQ, LLVMRealUNE, LLVMRealOLT, LLVMRealOLE, LLVMRealOGT, LLVMRealOGE};
    static const LLVMIntPredicate sint[] = {LLVMIntEQ, LLVMIntNE, LLVMIntSLT, LLVMIntSLE, LLVMIntSGT, LLVMIntSGE};
    static const LLVMIntPredicate uint[] = {LLVMIntEQ, LLVMIntNE, LLVMIntULT, LLVMIntULE, LLVMIntUGT, LLVMIntUGE};
    _Static_assert(OP_GE - OP_EQ == 5, "the tables follow the order of ops.h");
    int at = op - OP_EQ;
    return is_float ? LLVMBuildFCmp(c->b, real[at], x, y, "")
                    : LLVMBuildICmp(c->b, is_signed ? sint[at] : uint[at], x, y, "");
}

V math_binary(Code *c, Op op, DType elem, V x, V y, int n)
{
    bool f = dtype_is_float(elem), s = dtype_is_signed(elem);
    (void)n;
    switch (op) {
    case OP_ADD: return f ? LLVMBuildFAdd(c->b, x, y, "") : LLVMBuildAdd(c->b, x, y, "");
    case OP_SUB: return f ? LLVMBuildFSub(c->b, x, y, "") : LLVMBuildSub(c->b, x, y, "");
    case OP_MUL: return f ? LLVMBuildFMul(c->b, x, y, "") : LLVMBuildMul(c->b, x, y, "");
    case OP_DIV: return f ? LLVMBuildFDiv(c->b, x, y, "") : LLVMBuildUDiv(c->b, x, y, "");
    case OP_REM: return LLVMBuildURem(c->b, x, y, "");
    case OP_MIN: return LLVMBuildSelect(c->b, compare(c, OP_LT, f, s, x, y), x, y, "");
    case OP_MAX: return LLVMBuildSelect(c->b, compare(c, OP_GT, f, s, x, y), x, y, "");
    case OP_AND: return LLVMBuildAnd(c->b, x, y, "");
    case OP_OR: return LLVMBuildOr(c->b, x, y, "");
    case OP_XOR: return LLVMBuildXor(c->b, x, y, "");
    case OP_SHL: return LLVMBuildShl(c->b, x, y, "");
    case OP_SHR: return s ? LLVMBuildAShr(c->b, x, y, "") : LLVMBuildLShr(c->b, x, y, "");
    default: return compare(c, op, f, s, x, y);
    }
}

/* ---- conversions --------------------------------------------------------------------------------------------- */

static V bf16_to_float(Code *c, V x, int n)
{
    V wide = LLVMBuildZExt(c->b, x, vec_type(c->i32, n), "");
    return as_float(c, LLVMBuildShl(c->b, wide, iconst(c, 16, n), ""), n);
}

/* Round to nearest even; NaN stays NaN. The hardware form also takes subnormals to zero. */
static V float_to_bf16(Code *c, V x, int n)
{
    if (c->t->bf16_dot && n == 16) {
        V r = call(c, "llvm.x86.avx512bf16.cvtneps2bf16.512", NULL, 0, &x, 1);
        return LLVMBuildBitCast(c->b, r, vec_type(c->i16, n), "");
    }
    V u = as_int(c, x, n);
    V odd = LLVMBuildAnd(c->b, LLVMBuildLShr(c->b, u, iconst(c, 16, n), ""), iconst(c, 1, n), "");
    V rounded = LLVMBuildAdd(c->b, u, LLVMBuildAdd(c->b, odd, iconst(c, 0x7FFF, n), ""), "");
    V nan = LLVMBuildFCmp(c->b, LLVMRealUNO, x, x, "");
    rounded = LLVMBuildSelect(c->b, nan, iconst(c, 0x7FC00000, n), rounded, "");
    return LLVMBuildTrunc(c->b, LLVMBuildLShr(c->b, rounded, iconst(c, 16, n), ""), vec_type(c->i16, n), "");
}

static V half_to_float(Code *c, V x, int n)
{
    if (c->t->f16c) {
        V h = LLVMBuildBitCast(c->b, x, vec_type(LLVMHalfTypeInContext(c->ctx), n), "");
        return LLVMBuildFPExt(c->b, h, vec_type(c->f32, n), "");
    }
    /* shift exponent and mantissa into place, scale by 2^112; exact for all finite halves */
    V u = LLVMBuildZExt(c->b, x, vec_type(c->i32, n), "");
    V magnitude = LLVMBuildShl(c->b, LLVMBuildAnd(c->b, u, iconst(c, 0x7FFF, n), ""), iconst(c, 13, n), "");
    V value = LLVMBuildFMul(c->b, as_float(c, magnitude, n), fconst(c, 0x1p112, n), "");
    V sign = LLVMBuildShl(c->b, LLVMBuildAnd(c->b, u, iconst(c, 0x8000, n), ""), iconst(c, 16, n), "");
    return as_float(c, LLVMBuildOr(c->b, as_int(c, value, n), sign, ""), n);
}

/* Round to nearest even by adding half of the last kept bit; magnitudes from 65520 on become infinity. */
static V float_to_half(Code *c, V x, int n)
{
    if (c->t->f16c) {
        V h = LLVMBuildFPTrunc(c->b, x, vec_type(LLVMHalfTypeInContext(c->ctx), n), "");
        return LLVMBuildBitCast(c->b, h, vec_type(c->i16, n), "");
    }
    V u = as_int(c, x, n), sign = LLVMBuildAnd(c->b, LLVMBuildLShr(c->b, u, iconst(c, 16, n), ""), iconst(c, 0x8000, n), "");
    V a = LLVMBuildAnd(c->b, u, iconst(c, 0x7FFFFFFF, n), "");
    V odd = LLVMBuildAnd(c->b, LLVMBuildLShr(c->b, a, iconst(c, 13, n), ""), iconst(c, 1, n), "");
    V r = LLVMBuildAdd(c->b, a, LLVMBuildAdd(c->b, odd, iconst(c, 0xFFF, n), ""), "");
    V normal = LLVMBuildLShr(c->b, LLVMBuildSub(c->b, r, iconst(c, 0x38000000, n), ""), iconst(c, 13, n), "");
    V small = LLVMBuildSub(c->b, as_int(c, LLVMBuildFAdd(c->b, as_float(c, a, n), fconst(c, 0.5, n), ""), n),
                           iconst(c, 0x3F000000, n), "");
    V h = LLVMBuildSelect(c->b, LLVMBuildICmp(c->b, LLVMIntULT, a, iconst(c, 0x38800000, n), ""), small, normal, "");
    h = LLVMBuildSelect(c->b, LLVMBuildICmp(c->b, LLVMIntUGE, a, iconst(c, 0x477FF000, n), ""), iconst(c, 0x7C00, n), h, "");
    h = LLVMBuildSelect(c->b, LLVMBuildICmp(c->b, LLVMIntUGT, a, iconst(c, 0x7F800000, n), ""), iconst(c, 0x7E00, n), h, "");
    return LLVMBuildTrunc(c->b, LLVMBuildOr(c->b, h, sign, ""), vec_type(c->i16, n), "");
}

static V to_float(Code *c, V x, DType from, int n)
{
    if (from == DT_BF16)
        return bf16_to_float(c, x, n);
    if (from == DT_F16)
        return half_to_float(c, x, n);
    if (from == DT_F32)
        return x;
    if (from == DT_F64)
        return LLVMBuildFPTrunc(c->b, x, vec_type(c->f32, n), "");
    return dtype_is_signed(from) ? LLVMBuildSIToFP(c->b, x, vec_type(c->f32, n), "")
                                 : LLVMBuildUIToFP(c->b, x, vec_type(c->f32, n), "");
}

static V float_to_int(Code *c, V x, DType to, int n)
{
    if (dtype_bits(to) == 8) {
        x = clamp(c, x, dtype_is_signed(to) ? -128 : 0, dtype_is_signed(to) ? 127 : 255, n);
        V wide = LLVMBuildFPToSI(c->b, lower_rint(c, x), vec_type(c->i32, n), "");
        return LLVMBuildTrunc(c->b, wide, vec_type(c->i8, n), "");
    }
    LLVMTypeRef t = vec_type(elem_type(c, to), n);
    return dtype_is_signed(to) ? LLVMBuildFPToSI(c->b, x, t, "") : LLVMBuildFPToUI(c->b, x, t, "");
}

V math_cast(Code *c, V x, DType from, DType to, int n)
{
    LLVMTypeRef t = vec_type(elem_type(c, to), n);
    if (from == to)
        return x;
    if (!dtype_is_float(from) && !dtype_is_float(to)) {
        int a = dtype_bits(from), b = dtype_bits(to);
        return a == b ? x : a > b ? LLVMBuildTrunc(c->b, x, t, "")
               : dtype_is_signed(from) ? LLVMBuildSExt(c->b, x, t, "") : LLVMBuildZExt(c->b, x, t, "");
    }
    if (to == DT_F64)
        return from == DT_F32            ? LLVMBuildFPExt(c->b, x, t, "")
               : dtype_is_float(from)    ? LLVMBuildFPExt(c->b, to_float(c, x, from, n), t, "")
               : dtype_is_signed(from)   ? LLVMBuildSIToFP(c->b, x, t, "")
                                         : LLVMBuildUIToFP(c->b, x, t, "");
    if (from == DT_F64 && !dtype_is_float(to) && dtype_bits(to) > 8)
        return dtype_is_signed(to) ? LLVMBuildFPToSI(c->b, x, t, "") : LLVMBuildFPToUI(c->b, x, t, "");
    V f = to_float(c, x, from, n);
    return to == DT_F32    ? f
           : to == DT_BF16 ? float_to_bf16(c, f, n)
           : to == DT_F16  ? float_to_half(c, f, n)
                           : float_to_int(c, f, to, n);
}
