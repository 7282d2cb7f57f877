/* code.h - what every lowering needs to write LLVM IR: context, builder and types at hand, constants, intrinsics, and the
 * elementwise operations (math.c). Elements of 16-bit floats travel as i16, predicates as i1. */
#ifndef BLADE_CODE_H
#define BLADE_CODE_H

#include "target.h"
#include <llvm-c/Core.h>

typedef LLVMValueRef V;

#define CODE_FIELDS                \
    const Target *t;               \
    LLVMContextRef ctx;            \
    LLVMModuleRef module;          \
    LLVMBuilderRef b;              \
    LLVMTypeRef i1, i8, i16, i32, i64, f32, f64, ptr;

typedef struct Code {
    CODE_FIELDS
} Code;

Code code_new(const Target *t, LLVMModuleRef module); /* with a builder of its own; LLVMDisposeBuilder(b) ends it */
LLVMTypeRef elem_type(Code *c, DType t);
LLVMTypeRef vec_type(LLVMTypeRef elem, int n); /* n == 1: the element itself */
V i32_const(Code *c, int64_t v);
V i64_const(Code *c, int64_t v);
V elem_const(Code *c, const Ins *i); /* of a CONST */
V splat(Code *c, V scalar, int n);
V call(Code *c, const char *intrinsic, LLVMTypeRef *overloads, int n_overloads, V *args, int n);

/* math.c: elementwise operations on vectors of any length */
V math_unary(Code *c, Op op, V x, int n);
V math_binary(Code *c, Op op, DType elem, V x, V y, int n);
V math_fma(Code *c, V x, V y, V z, int n);
V math_cast(Code *c, V x, DType from, DType to, int n);

#endif
