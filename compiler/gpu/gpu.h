/* gpu.h - private to compiler/gpu: layouts of register tiles, and the state of one lowering.
 *
 * A tile [R, C] lies in the registers of a block's threads. Which thread and which register hold element (row, col) is
 * linear over GF(2): every bit of the register's number, of the lane and of the warp contributes a pattern of row and
 * column bits, and an element's place is the exclusive or of those whose bit is set. A bit that contributes nothing is
 * a replica: all threads that differ in it hold the same. Tiles are padded to powers of two; what lies outside is
 * never read from memory, stored, or summed.
 *
 * Scalars are alike in all threads, so control flow is uniform over the block and a barrier may stand anywhere. */
#ifndef BLADE_GPU_H
#define BLADE_GPU_H

#include "../code.h"

enum { REG_BITS = 11, LANE_BITS = 6, WARP_BITS = 5, SHARED_ALIGN = 128 };

typedef struct Bit { /* what one bit contributes */
    uint16_t row, col;
} Bit;

typedef struct Layout {
    int regs, lanes, warps; /* number of bits; lanes and warps are those of the block */
    Bit reg[REG_BITS], lane[LANE_BITS], warp[WARP_BITS];
} Layout;

typedef struct Shape { /* of the block */
    int lanes, warps[2]; /* bits: of the lane; of warps along rows and columns */
} Shape;

/* layout.c */
Layout layout_flat(Shape s, int rows, int cols, int side); /* 2^side elements of a row side by side in a thread */
Layout layout_scalar(Shape s);
Layout layout_slice(const Layout *l, bool rows, bool cols); /* without the rows' bits, or the columns' */
/* The same elements, row-major; extents are powers of two. */
Layout layout_reshaped(const Layout *l, Type from, Type to);
Layout layout_turned(Layout l); /* of the transposed tile */
bool layout_same(const Layout *a, const Layout *b);
bool layout_same_threads(const Layout *a, const Layout *b); /* registers apart */
bool layout_replicated(const Layout *l); /* do several threads hold the same element */
Bit layout_reg(const Layout *l, int reg); /* what a register contributes */
int layout_find(const Layout *l, Bit want); /* the register that contributes this; -1 when there is none */
int layout_span(const Layout *l, bool rows); /* one more than the largest row or column that it covers */
void layout_print(const Layout *l, Buf *out); /* "reg c0 c1 r3; lane c3 c4 r0 r1 r2; warp -" */

/* matrix.c: what the matrix units want; see there */
Layout layout_acc(const Target *t, Shape s, int rows, int cols);
Layout layout_factor(const Target *t, Shape s, int rows, int cols); /* of A in registers, [R, K] */

typedef struct Value {
    Layout layout;
    V *reg; /* an LLVM scalar a register; FRAG: their allocas; VIEW: reg[0] is the element offset of its corner */
} Value;

typedef struct Region { /* an open loop or conditional */
    Ref ref;
    LLVMBasicBlockRef header, exit; /* LOOP: test block; WHEN: else block and join */
    V phi;
    bool has_else;
    int depth_barriers;
} Region;

typedef struct Lower {
    const Kernel *k;
    union {
        Code code;
        struct { CODE_FIELDS };
    };
    const Gpu *g;
    Shape shape;
    LLVMBuilderRef entry; /* inserts at the end of the entry block: allocas */
    LLVMTypeRef global, on_chip; /* pointer types */
    V fn, sizes, shared, tid, lane, warp;
    V *base;        /* pointer of each Memory */
    int64_t *pitch; /* by Memory: elements from row to row (ROWS) where it is a number, padding included */
    bool *staged;   /* by Memory: a pipelined loop fills it (pipeline.c) */
    int *slots;     /* by Memory: copies of a staged on-chip tile, else 1 */
    int64_t *bytes; /* by Memory, on-chip: of one slot */
    Value *val;     /* by Ref */
    bool *barrier;  /* by Ref: a barrier goes before it */
    V scratch;      /* the area for exchanges, behind all on-chip tiles */
    int64_t shared_bytes, scratch_bytes; /* of all tiles; of the area */
    V grid[MAX_GRID], block[MAX_GRID];
    Region region[MAX_DEPTH];
    int depth;
    bool in_pipeline;
    Arena *arena;
    Err *err;
} Lower;

static inline V c32(Lower *l, int64_t v) { return i32_const(&l->code, v); }
static inline V c64(Lower *l, int64_t v) { return i64_const(&l->code, v); }
static inline Bit bit_xor(Bit a, Bit b) { return (Bit){a.row ^ b.row, a.col ^ b.col}; }
static inline int log2_up(int n) { return n <= 1 ? 0 : 32 - __builtin_clz((unsigned)n - 1); }
static inline int reg_count(const Layout *l) { return 1 << l->regs; }

/* assign.c: chooses the layout of every value; l->val[].layout. */
void assign_layouts(Lower *l);

/* barrier.c: finds where blocks must wait for one another's accesses to memory; l->barrier. */
void place_barriers(Lower *l);

/* lower.c */
void lower_ins(Lower *l, Ref r);
void lower_range(Lower *l, Ref from, Ref to); /* from .. to-1 */
V *new_value(Lower *l, Ref r, const Layout *layout);
V *operand_in(Lower *l, Ref r, const Layout *want); /* all registers of `want`; a row or column of 1 is repeated */
V scalar(Lower *l, Ref r); /* of a 1 x 1 value */
V load_size(Lower *l, int id); /* a run-time size (sizes.h), i64; it never changes, so loops need not load it again */
LLVMBasicBlockRef new_block(Lower *l, const char *name);

/* pipeline.c */
int staged_slots(Lower *l, size_t mem, bool *staged); /* how many copies of this tile a pipelined loop wants */
Ref lower_pipeline(Lower *l, Ref loop); /* gives its END */

/* exchange.c: between threads */
void block_barrier(Lower *l);
V *relayout(Lower *l, V *from, const Layout *have, const Layout *want, DType elem, Ref at); /* `at`: for messages */
V shuffle_xor(Lower *l, V x, int lanes);
void lower_scan(Lower *l, const Ins *i, Ref r);
void lower_reduce(Lower *l, const Ins *i, Ref r);
void lower_rearranged(Lower *l, const Ins *i, Ref r); /* SLICE, JOIN */

/* memory.c. A window is a view as a rectangle in memory, element (row, col) at
 * corner + row * row_stride + col * col_stride bytes. */
typedef struct Window {
    const Memory *m;
    LLVMTypeRef type;  /* of an element */
    int size;          /* bytes of one */
    V corner, safe;    /* pointers; `safe` may be read whatever the tile */
    int64_t row_stride, col_stride;
    int rows, cols;    /* of the tile */
    V row_limit, col_limit; /* i32: rows and columns before these lie inside; NULL: all do */
    int col_step, row_step; /* the limits are multiples of these */
    int align; /* bytes: of every element whose number along the contiguous axis is a multiple of align / size */
} Window;
bool window_of(Lower *l, const Ins *view, Window *w); /* false for panels */
/* Panels whose columns are whole: words, a row a block of columns. */
bool panel_window(Lower *l, const Ins *view, Window *w);
V thread_part(Lower *l, const Layout *layout, bool rows); /* i32: what lane and warp contribute to row or column */
V view_corner(Lower *l, const Ins *view);
/* NULL: always; may be constant false. */
V window_inside(Lower *l, const Window *w, const Layout *layout, V row, V col, Bit reg);
V window_pointer(Lower *l, const Window *w, V thread_offset, Bit reg);
V window_thread_offset(Lower *l, const Window *w, const Layout *layout); /* i64 bytes */
/* Registers side by side in memory, at most so many bytes. */
int window_run(const Window *w, const Layout *layout, int most);
/* Zero outside; `inside` may be NULL. */
V load_masked(Lower *l, LLVMTypeRef type, V pointer, V safe, V inside, int align);
V *load_window(Lower *l, const Window *w, const Layout *layout);
void store_window(Lower *l, const Window *w, const Layout *layout, V *x);
void access_memory(Lower *l, const Ins *i, Ref r);
/* Byte address of element (k, n) of the view, i32 each, to the byte. */
V panel_pointer(Lower *l, const Ins *view, V k, V n);
V both(Lower *l, V a, V b); /* conditions; NULL always holds */
bool is_false(V condition); /* a constant */
/* A region that runs where the condition holds (NULL: always, and opens none); close_if takes what open_if gave. */
LLVMBasicBlockRef open_if(Lower *l, V condition);
void close_if(Lower *l, LLVMBasicBlockRef join);
V bytes_at(Lower *l, V pointer, V offset); /* pointer + offset (i64) */

/* copy.c */
void lower_copy(Lower *l, const Ins *i); /* complete on return for this thread */
void copy_start(Lower *l, const Ins *i); /* asynchronous; a part of the group that copy_commit closes */
void copy_commit(Lower *l);
void copy_wait(Lower *l, int groups); /* until at most so many of this thread's groups are under way */
V *copy_fetch(Lower *l, const Ins *i, int *count); /* into registers */
void copy_drop(Lower *l, const Ins *i, V *x); /* from registers to where it goes */

/* matrix.c: the units */
bool matrix_product(Lower *l, const Ins *gemm); /* is there an instruction for its types */

/* gemm.c */
void multiply(Lower *l, const Ins *i);

#endif
