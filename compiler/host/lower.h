/* lower.h - private to compiler/host: the state of one lowering and the helpers its files share.
 *
 * A tile of R x C elements is R * C/L LLVM vectors of L lanes, row by row; L = 16 where 16 divides C, else L = C. A
 * column of R x 1 is R scalars. LLVM splits 16 lanes into what the target's registers hold. bf16 and f16 travel as
 * i16. */
#ifndef BLADE_HOST_LOWER_H
#define BLADE_HOST_LOWER_H

#include "../target.h"
#include <llvm-c/Core.h>

typedef LLVMValueRef V;

typedef struct Value {
    V *at; /* rows * (cols / lanes) vectors; FRAG: their allocas; VIEW: at[0] is the element offset of its corner */
} Value;

typedef struct Region { /* an open loop or conditional */
    Ref ref;
    LLVMBasicBlockRef header, exit; /* LOOP: test block; WHEN: else block and join */
    V phi, next;
    bool has_else;
} Region;

typedef struct Lower {
    const Kernel *k;
    const Target *t;
    LLVMContextRef ctx;
    LLVMModuleRef module;
    LLVMBuilderRef b, entry; /* `entry` inserts at the end of the entry block: allocas and invariant loads */
    V fn, sizes, scratch;
    V *base;    /* pointer of each Memory */
    Value *val; /* by Ref */
    V grid[MAX_GRID], block[MAX_GRID];
    Region region[32];
    int depth;
    int64_t scratch_bytes;
    LLVMTypeRef i1, i8, i16, i32, i64, f32, f64, ptr;
    Arena *arena;
    Err *err;
} Lower;

static inline int lanes(int cols) { return cols % 16 == 0 ? 16 : cols; }
static inline int vectors(int cols) { return cols / lanes(cols); }

/* lower.c */
LLVMTypeRef elem_type(Lower *l, DType t);
LLVMTypeRef vec_type(LLVMTypeRef elem, int n); /* n == 1: the element itself */
V i32_const(Lower *l, int64_t v);
V i64_const(Lower *l, int64_t v);
V splat(Lower *l, V scalar, int n);
V call(Lower *l, const char *intrinsic, LLVMTypeRef *overloads, int n_overloads, V *args, int n);
V tile_vec(Lower *l, Ref r, int row, int vec, int n); /* operand's vector `vec` of `n` lanes in `row`, broadcast as needed */

/* memory.c */
V view_offset(Lower *l, const Ins *view); /* elements from the base to the corner */
V element_offset(Lower *l, const Ins *view, V corner, int r, int c);
void lower_memory(Lower *l, const Ins *i, Ref r);
int64_t row_stride(const Memory *m); /* elements between rows of the last two dimensions (ROWS) */
int64_t panel_elements(const Memory *m); /* elements of `wide` columns, all of K (PANEL) */

/* math.c: elementwise operations on vectors of any length */
V math_unary(Lower *l, Op op, V x, int n);
V math_binary(Lower *l, Op op, DType elem, V x, V y, int n);
V math_fma(Lower *l, V x, V y, V z, int n);
V math_cast(Lower *l, V x, DType from, DType to, int n);

/* gemm.c */
void lower_gemm(Lower *l, const Ins *i);

#endif
