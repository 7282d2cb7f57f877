/* scalar.c - instructions of one thread that have no equal in LLVM's own: approximations (exact here: a kernel must not
 * rely on their last bits), bit fields, permuted bytes, conversions. */
#include "dtype.h"

#include "base.h"

#include <math.h>
#include <string.h>

float simt_exp2(float x) { return exp2f(x); }
float simt_log2(float x) { return log2f(x); }
float simt_rcp(float x) { return 1 / x; }
float simt_rsqrt(float x) { return (float)(1 / sqrt((double)x)); }
float simt_sqrt(float x) { return sqrtf(x); }
float simt_fma(float a, float b, float c) { return fmaf(a, b, c); }
double simt_fma_f64(double a, double b, double c) { return fma(a, b, c); }
float simt_fmod(float a, float b) { return fmodf(a, b); }

float simt_fmed3(float a, float b, float c)
{
    return fmaxf(fminf(a, b), fminf(fmaxf(a, b), c));
}

/* Byte i of the result: selector i (4 bits) names a byte of b:a, its top bit repeats that byte's sign. */
uint32_t simt_prmt(uint32_t a, uint32_t b, uint32_t selectors)
{
    uint64_t all = (uint64_t)b << 32 | a;
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t s = selectors >> 4 * i & 15, byte = (uint32_t)(all >> 8 * (s & 7)) & 0xFF;
        out |= (s & 8 ? (byte & 0x80 ? 0xFFu : 0) : byte) << 8 * i;
    }
    return out;
}

/* V_PERM_B32: bytes 0..3 are those of b, 4..7 those of a; 8..11 signs of bytes 1, 3, 5, 7; 12 zero, above 0xFF. */
uint32_t simt_perm(uint32_t a, uint32_t b, uint32_t selectors)
{
    uint64_t all = (uint64_t)a << 32 | b;
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t s = selectors >> 8 * i & 0xFF, byte;
        if (s < 8)
            byte = (uint32_t)(all >> 8 * s) & 0xFF;
        else if (s < 12)
            byte = all >> (16 * (s - 8) + 15) & 1 ? 0xFF : 0;
        else
            byte = s == 12 ? 0 : 0xFF;
        out |= byte << 8 * i;
    }
    return out;
}

uint32_t simt_ubfe(uint32_t v, uint32_t offset, uint32_t width)
{
    offset &= 31, width &= 31;
    return v >> offset & ((1u << width) - 1);
}

int32_t simt_sbfe(uint32_t v, uint32_t offset, uint32_t width)
{
    uint32_t field = simt_ubfe(v, offset, width);
    width &= 31;
    return width && field >> (width - 1) ? (int32_t)(field | ~0u << width) : (int32_t)field;
}

static int64_t dot4(uint32_t a, bool a_signed, uint32_t b, bool b_signed, int32_t c)
{
    int64_t sum = c;
    for (int i = 0; i < 4; i++) {
        int x = (int)(a >> 8 * i & 0xFF), y = (int)(b >> 8 * i & 0xFF);
        sum += (int64_t)(a_signed ? (int8_t)x : x) * (b_signed ? (int8_t)y : y);
    }
    return sum;
}

static int32_t clamped(int64_t v, uint32_t clamp)
{
    return clamp ? (int32_t)MAX(INT32_MIN, MIN(INT32_MAX, v)) : (int32_t)(uint32_t)(uint64_t)v;
}

int32_t simt_sdot4(uint32_t a, uint32_t b, int32_t c, uint32_t clamp)
{
    return clamped(dot4(a, true, b, true, c), clamp);
}

int32_t simt_sudot4(uint32_t a_signed, uint32_t a, uint32_t b_signed, uint32_t b, int32_t c, uint32_t clamp)
{
    return clamped(dot4(a, a_signed, b, b_signed, c), clamp);
}

/* The first operand becomes the upper half. */
void simt_ff2bf16x2(void *out, const void *in)
{
    float v[2];
    memcpy(v, in, sizeof v);
    memcpy(out, (uint16_t[2]){f32_to_bf16(v[1]), f32_to_bf16(v[0])}, 4);
}

void simt_f2bf16(void *out, const void *in)
{
    float v;
    memcpy(&v, in, 4);
    memcpy(out, &(uint16_t){f32_to_bf16(v)}, 2);
}

/* LLVM's own names for conversions have 16-bit floats in the lower half of a vector register, as these have. */
static float carried(uint16_t bits)
{
    uint32_t wide = bits;
    float v;
    memcpy(&v, &wide, 4);
    return v;
}

float simt_truncate_bf16(float v) { return carried(f32_to_bf16(v)); }
float simt_truncate_f16(float v) { return carried(f32_to_f16(v)); }

float simt_extend_f16(float carrier)
{
    uint32_t bits;
    memcpy(&bits, &carrier, 4);
    return f16_to_f32((uint16_t)bits);
}
