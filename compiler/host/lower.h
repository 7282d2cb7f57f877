/* lower.h - private to compiler/host: the state of one lowering and the helpers its files share.
 *
 * A tile of R x C elements is R * C/L LLVM vectors of L lanes, row by row; L = 16 where 16 divides C, else L = C. A
 * column of R x 1 is R scalars. LLVM splits 16 lanes into what the target's registers hold. bf16 and f16 travel as
 * i16. */
#ifndef BLADE_HOST_LOWER_H
#define BLADE_HOST_LOWER_H

#include "../code.h"

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
    union {
        Code code;
        struct { CODE_FIELDS };
    };
    LLVMBuilderRef entry; /* inserts at the end of the entry block: allocas and invariant loads */
    V fn, sizes, scratch;
    V *base;    /* pointer of each Memory */
    Value *val; /* by Ref */
    V grid[MAX_GRID], block[MAX_GRID];
    Region region[32];
    int depth;
    int64_t scratch_bytes;
    Arena *arena;
    Err *err;
} Lower;

static inline int lanes(int cols) { return cols % 16 == 0 ? 16 : cols; }
static inline int vectors(int cols) { return cols / lanes(cols); }

/* lower.c */
V tile_vec(Lower *l, Ref r, int row, int vec, int n); /* operand's vector `vec` of `n` lanes in `row`, broadcast as needed */

/* memory.c */
V view_offset(Lower *l, const Ins *view); /* elements from the base to the corner */
V element_offset(Lower *l, const Ins *view, V corner, int r, int c);
void lower_memory(Lower *l, const Ins *i, Ref r);
int64_t row_stride(const Memory *m); /* elements between rows of the last two dimensions (ROWS) */
int64_t panel_elements(const Memory *m); /* elements of `wide` columns, all of K (PANEL) */

/* gemm.c */
void lower_gemm(Lower *l, const Ins *i);

#endif
