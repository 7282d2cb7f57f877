/* dtype.h - element types, shared by the tile IR, the checkpoint reader, the pack format and the runtime. */
#ifndef BLADE_DTYPE_H
#define BLADE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* X(enum suffix, name, bits, safetensors name or "", floating, signed) */
#define DTYPES(X) \
    X(NONE, "none", 0, "", 0, 0)          \
    X(PRED, "pred", 1, "", 0, 0)          \
    X(U4, "u4", 4, "", 0, 0)              \
    X(S4, "s4", 4, "", 0, 1)              \
    X(S8, "s8", 8, "I8", 0, 1)            \
    X(U8, "u8", 8, "U8", 0, 0)            \
    X(S16, "s16", 16, "I16", 0, 1)        \
    X(U16, "u16", 16, "U16", 0, 0)        \
    X(S32, "s32", 32, "I32", 0, 1)        \
    X(U32, "u32", 32, "U32", 0, 0)        \
    X(S64, "s64", 64, "I64", 0, 1)        \
    X(U64, "u64", 64, "U64", 0, 0)        \
    X(BOOL, "bool", 8, "BOOL", 0, 0)      \
    X(F8_E4M3, "f8_e4m3", 8, "F8_E4M3", 1, 1) \
    X(F8_E5M2, "f8_e5m2", 8, "F8_E5M2", 1, 1) \
    X(F16, "f16", 16, "F16", 1, 1)        \
    X(BF16, "bf16", 16, "BF16", 1, 1)     \
    X(F32, "f32", 32, "F32", 1, 1)        \
    X(F64, "f64", 64, "F64", 1, 1)

typedef enum DType {
#define X(id, name, bits, st, flt, sgn) DT_##id,
    DTYPES(X)
#undef X
    DT_COUNT
} DType;

const char *dtype_name(DType t);
int dtype_bits(DType t);
static inline size_t dtype_size(DType t) { return (size_t)dtype_bits(t) / 8; } /* bytes; 0 for sub-byte types */
bool dtype_is_float(DType t);
bool dtype_is_signed(DType t);
DType dtype_parse(const char *name, size_t len);             /* by our name; DT_NONE when unknown */
DType dtype_parse_safetensors(const char *name, size_t len); /* "F32", "BF16", ...; DT_NONE when unknown */

/* Conversions of single values (round to nearest even), for references, readers and tests. */
float bf16_to_f32(uint16_t v);
uint16_t f32_to_bf16(float v);
float f16_to_f32(uint16_t v);
uint16_t f32_to_f16(float v);
/* Element i of an array of any type but the 8-bit floats, as a double (integers beyond 2^53 round). */
double dtype_get(DType t, const void *array, size_t i);
void dtype_set(DType t, void *array, size_t i, double v); /* saturates integers, rounds to nearest even */

#endif
