/* ops.h - the tile operations, one row each. Enum, names, verifier, printer, parser and Lua constructors expand from
 * it.
 *
 *   OP(id, text, min operands, max operands, class)
 *
 * Classes decide the result type and how an operation is printed, checked and lowered:
 *   LEAF     declares something; operands none
 *   CTRL     opens, splits or closes a region
 *   MEM      touches memory through a view
 *   UN BIN CMP TERN   elementwise on tiles; an operand of 1 row or 1 column is broadcast (scalars are 1 x 1 tiles)
 *   SHAPE    moves elements inside a tile
 *   ACC      accumulates into a mutable tile
 */
#ifndef OP
#error "define OP(id, text, min, max, class) before including ops.h"
#endif

OP(CONST, "const", 0, 0, LEAF)   /* a number, 1 x 1 */
OP(SIZE, "size", 0, 0, LEAF)     /* a run-time size by name (sizes.h), s64 */
OP(BLOCK, "block", 0, 0, LEAF)   /* index of this block along grid dimension d, s64, 0 <= block < grid[d] */
OP(MEMORY, "memory", 0, 0, LEAF) /* a global argument or a shared (on-chip, per block) tile; base of views */
OP(FRAG, "frag", 0, 0, LEAF)     /* a mutable register tile; as an operand it reads its present value */
OP(ROW, "row", 0, 0, LEAF)       /* s32 tile [R,1]: 0,1,2,... down the rows */
OP(COL, "col", 0, 0, LEAF)       /* s32 tile [1,C]: 0,1,2,... along the columns */

OP(LOOP, "loop", 2, 2, CTRL)     /* for i = lo, hi-1, step; the value is i (s64); kind serial or pipelined(stages) */
OP(WHEN, "when", 1, 1, CTRL)     /* region runs if the scalar predicate holds */
OP(ELSE, "else", 0, 0, CTRL)
OP(END, "end", 0, 0, CTRL)

OP(VIEW, "view", 1, 6, MEM)      /* base, coordinates...: a tile of memory; moves nothing */
OP(LOAD, "load", 1, 1, MEM)      /* view -> tile; elements outside the memory's shape read as 0 */
OP(STORE, "store", 2, 2, MEM)    /* view, tile; elements outside are not written */
OP(GATHER, "gather", 2, 2, MEM)  /* view, s32 index tile: element [r, index] along the view's last dimension */
OP(SCATTER, "scatter", 3, 3, MEM) /* view, s32 index tile, tile; indices of one operation must differ */
OP(COPY, "copy", 2, 2, MEM)      /* destination view, source view; synchronous meaning, engine chosen by the target */
OP(SET, "set", 2, 2, MEM)        /* frag, tile (broadcast): the only way to change a frag but gemm */
OP(PREFETCH, "prefetch", 1, 1, MEM)

OP(NEG, "neg", 1, 1, UN)
OP(ABS, "abs", 1, 1, UN)
OP(SQRT, "sqrt", 1, 1, UN)
OP(EXP, "exp", 1, 1, UN)         /* e^x, f32: fixed polynomial, the same bits on every target with fma */
OP(LOG, "log", 1, 1, UN)
OP(SIN, "sin", 1, 1, UN)         /* f32 argument reduced in f64, |x| < 2^30 */
OP(COS, "cos", 1, 1, UN)
OP(TANH, "tanh", 1, 1, UN)
OP(RINT, "rint", 1, 1, UN)       /* to nearest, ties to even */
OP(FLOOR, "floor", 1, 1, UN)
OP(NOT, "not", 1, 1, UN)

OP(ADD, "add", 2, 2, BIN)
OP(SUB, "sub", 2, 2, BIN)
OP(MUL, "mul", 2, 2, BIN)
OP(DIV, "div", 2, 2, BIN)        /* integers: floor of the quotient for operands >= 0 */
OP(REM, "rem", 2, 2, BIN)
OP(MIN, "min", 2, 2, BIN)        /* floats: a NaN operand yields the other */
OP(MAX, "max", 2, 2, BIN)
OP(AND, "and", 2, 2, BIN)
OP(OR, "or", 2, 2, BIN)
OP(XOR, "xor", 2, 2, BIN)
OP(SHL, "shl", 2, 2, BIN)
OP(SHR, "shr", 2, 2, BIN)        /* arithmetic for signed, logical for unsigned */

OP(EQ, "eq", 2, 2, CMP)
OP(NE, "ne", 2, 2, CMP)
OP(LT, "lt", 2, 2, CMP)
OP(LE, "le", 2, 2, CMP)
OP(GT, "gt", 2, 2, CMP)
OP(GE, "ge", 2, 2, CMP)

OP(FMA, "fma", 3, 3, TERN)       /* a*b + c, one rounding (two where the target has no fma) */
OP(SELECT, "select", 3, 3, TERN) /* predicate, then, else */

OP(CAST, "cast", 1, 1, SHAPE)    /* value conversion; floats to 8-bit integers round to even and saturate */
OP(BITCAST, "bitcast", 1, 1, SHAPE) /* same bits, element of the same size */
OP(SLICE, "slice", 1, 1, SHAPE)  /* rows [r0,r0+R) and columns [c0,c0+C) of a tile */
OP(JOIN, "join", 2, 2, SHAPE)    /* two tiles side by side along the columns */
OP(TRANSPOSE, "transpose", 1, 1, SHAPE) /* [R,C] -> [C,R]; explicit relayout */
OP(RESHAPE, "reshape", 1, 1, SHAPE) /* the elements in row-major order as another [R,C]; extents are powers of two */
OP(SCAN, "scan", 1, 1, SHAPE)    /* sums along the columns up to and with each element; integers only, so exact */
OP(REDUCE, "reduce", 1, 1, SHAPE) /* along columns (-> [R,1]) or rows (-> [1,C]), in the declared order */

OP(GEMM, "gemm", 3, 4, ACC)      /* frag += view A [R,K] x view B [K,C]; every element one accumulator, K ascending. A fourth
                                    operand, another view of B's memory, is where to prefetch from meanwhile */
OP(ATOMIC_ADD, "atomic_add", 2, 2, ACC) /* counters only: refused for results */

#undef OP
