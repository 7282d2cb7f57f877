/* dtype.c - names, sizes and single-value conversions of element types. */
#include "dtype.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static const struct {
    const char *name, *safetensors;
    int bits;
    bool is_float, is_signed;
} info[DT_COUNT] = {
#define X(id, name, bits, st, flt, sgn) {name, st, bits, flt, sgn},
    DTYPES(X)
#undef X
};

const char *dtype_name(DType t) { return info[t].name; }
int dtype_bits(DType t) { return info[t].bits; }
bool dtype_is_float(DType t) { return info[t].is_float; }
bool dtype_is_signed(DType t) { return info[t].is_signed; }

DType dtype_parse(const char *name, size_t len)
{
    for (int t = 1; t < DT_COUNT; t++)
        if (strlen(info[t].name) == len && !memcmp(info[t].name, name, len))
            return (DType)t;
    return DT_NONE;
}

DType dtype_parse_safetensors(const char *name, size_t len)
{
    for (int t = 1; t < DT_COUNT; t++)
        if (len && strlen(info[t].safetensors) == len && !memcmp(info[t].safetensors, name, len))
            return (DType)t;
    return DT_NONE;
}

float bf16_to_f32(uint16_t v)
{
    uint32_t u = (uint32_t)v << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

uint16_t f32_to_bf16(float v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    if (isnan(v))
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

float f16_to_f32(uint16_t v)
{
    int exponent = v >> 10 & 31, mantissa = v & 0x3FF;
    double m = exponent == 31  ? (mantissa ? NAN : INFINITY)
               : exponent == 0 ? ldexp(mantissa, -24)
                               : ldexp(1024 + mantissa, exponent - 25);
    return (float)(v & 0x8000 ? -m : m);
}

uint16_t f32_to_f16(float v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    u &= 0x7FFFFFFF;
    if (u > 0x7F800000)
        return sign | 0x7E00;
    if (u >= 0x477FF000) /* rounds to 65536 or more */
        return sign | 0x7C00;
    if (u < 0x38800000) { /* subnormal: the value in units of 2^-24, rounded to even by the addition */
        float a, magic = 0.5f;
        memcpy(&a, &u, 4);
        a += magic;
        uint32_t b;
        memcpy(&b, &a, 4);
        return (uint16_t)(sign | (b - 0x3F000000));
    }
    u += 0xFFF + (u >> 13 & 1);
    return (uint16_t)(sign | ((u - 0x38000000) >> 13));
}

double dtype_get(DType t, const void *array, size_t i)
{
    const uint8_t *p = array;
#define AT(type) (((const type *)array)[i])
    switch (t) {
    case DT_U4: return p[i / 2] >> (i % 2 * 4) & 15;
    case DT_S4: return (int8_t)(p[i / 2] >> (i % 2 * 4) << 4) >> 4;
    case DT_S8: return AT(int8_t);
    case DT_U8:
    case DT_BOOL: return AT(uint8_t);
    case DT_S16: return AT(int16_t);
    case DT_U16: return AT(uint16_t);
    case DT_S32: return AT(int32_t);
    case DT_U32: return AT(uint32_t);
    case DT_S64: return (double)AT(int64_t);
    case DT_U64: return (double)AT(uint64_t);
    case DT_F16: return f16_to_f32(AT(uint16_t));
    case DT_BF16: return bf16_to_f32(AT(uint16_t));
    case DT_F32: return AT(float);
    case DT_F64: return AT(double);
    default: assert(!"dtype_get: type without a value"); return 0;
    }
#undef AT
}

static double clamp(double v, double lo, double hi)
{
    return v != v ? 0 : v < lo ? lo : v > hi ? hi : nearbyint(v);
}

void dtype_set(DType t, void *array, size_t i, double v)
{
    uint8_t *p = array;
    switch (t) {
    case DT_U4:
    case DT_S4: {
        int q = (int)(t == DT_U4 ? clamp(v, 0, 15) : clamp(v, -8, 7)) & 15;
        int shift = (int)(i % 2 * 4);
        p[i / 2] = (uint8_t)((p[i / 2] & ~(15 << shift)) | q << shift);
        break;
    }
    case DT_S8: ((int8_t *)array)[i] = (int8_t)clamp(v, -128, 127); break;
    case DT_U8:
    case DT_BOOL: p[i] = (uint8_t)clamp(v, 0, 255); break;
    case DT_S16: ((int16_t *)array)[i] = (int16_t)clamp(v, -32768, 32767); break;
    case DT_U16: ((uint16_t *)array)[i] = (uint16_t)clamp(v, 0, 65535); break;
    case DT_S32: ((int32_t *)array)[i] = (int32_t)clamp(v, -2147483648.0, 2147483647.0); break;
    case DT_U32: ((uint32_t *)array)[i] = (uint32_t)clamp(v, 0, 4294967295.0); break;
    case DT_S64: ((int64_t *)array)[i] = (int64_t)clamp(v, -9223372036854775808.0, 9223372036854774784.0); break;
    case DT_U64: ((uint64_t *)array)[i] = (uint64_t)clamp(v, 0, 18446744073709549568.0); break;
    case DT_F16: ((uint16_t *)array)[i] = f32_to_f16((float)v); break;
    case DT_BF16: ((uint16_t *)array)[i] = f32_to_bf16((float)v); break;
    case DT_F32: ((float *)array)[i] = (float)v; break;
    case DT_F64: ((double *)array)[i] = v; break;
    default: assert(!"dtype_set: type without a value");
    }
}
