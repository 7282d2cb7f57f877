/* ir.h - tile IR: the private header of the compiler. Structures first, then prototypes grouped by file.
 *
 * A Kernel is a list of instructions in program order; loops and conditionals are regions closed by `end`. A Ref is an
 * index into that list. Every value is a tile [rows, cols] of one element type; a scalar is 1 x 1. Results are
 * immutable but for `frag`, a mutable register tile that `set` and `gemm` change. Memory is reached through views only.
 *
 * The order of every sum is part of the operator (numerics contract): `reduce add` names its tree, `gemm` walks K
 * upwards with one accumulator an element, and numerics.c refuses anything that a setting could reorder.
 */
#ifndef BLADE_IR_H
#define BLADE_IR_H

#include "base.h"
#include "dtype.h"
#include "pack.h" /* SizeId, the sizes by name */

typedef int32_t Ref; /* index of an instruction; 0 is "none" */

typedef enum Op {
    OP_NONE,
#define OP(id, text, min, max, class) OP_##id,
#include "ops.h"
    OP_COUNT
} Op;

typedef enum OpClass { CLASS_NONE, CLASS_LEAF, CLASS_CTRL, CLASS_MEM, CLASS_UN, CLASS_BIN, CLASS_CMP, CLASS_TERN,
                       CLASS_SHAPE, CLASS_ACC } OpClass;

typedef struct OpInfo {
    const char *text;
    int min, max;
    OpClass class;
} OpInfo;
extern const OpInfo op_info[OP_COUNT];

typedef struct Type {
    DType elem; /* DT_NONE: no value (control, stores, views carry the element they address) */
    int rows, cols;
} Type;

/* Layout class of a register tile. On the host all are blocks of vector registers; on GPUs they choose the fragment. */
typedef enum FragClass { FRAG_FLAT, FRAG_ACC, FRAG_A, FRAG_B, FRAG_ROWS, FRAG_COLS, FRAG_CLASSES } FragClass;
extern const char *const frag_names[FRAG_CLASSES];

typedef enum ReduceKind { REDUCE_ADD, REDUCE_MAX, REDUCE_MIN, REDUCE_KINDS } ReduceKind;
extern const char *const reduce_names[REDUCE_KINDS];

typedef enum LoopKind { LOOP_SERIAL, LOOP_PIPELINED, LOOP_KINDS } LoopKind;

enum { MAX_RANK = 5, MAX_OPERANDS = 6, PANEL_COLS = 16, MAX_GRID = 3, MAX_UNIT = 128, MAX_WARPS = 32 };
enum { MAX_TILE = 65536 /* elements in registers */, MAX_VIEW = 1 << 24 /* rows or columns of a view */ };
enum { MAX_INS = 65536 /* of a kernel, ins.at[0] included */, MAX_DEPTH = 32 /* nested regions */ };

/* An extent: `n`, or n * size when size >= 0. */
typedef struct Dim {
    int64_t n;
    int size; /* SizeId, or -1 */
} Dim;

/* How elements lie in memory.
 *   ROWS   row-major; `pitch` elements from row to row of the last two dimensions
 *   PANEL  the last two dimensions are a matrix B[K,N] packed for gemm: [N/wide][K/unit][wide][unit], `unit` elements of
 *          K side by side (together 32 bits), `wide` columns before K advances; K and N are padded up */
typedef enum MemoryLayout { LAYOUT_ROWS, LAYOUT_PANEL } MemoryLayout;
typedef enum Space { SPACE_GLOBAL, SPACE_SHARED } Space;
typedef enum Access { ACCESS_IN, ACCESS_OUT, ACCESS_INOUT } Access;

typedef struct Memory {
    const char *name;
    DType elem;
    int rank;
    Dim dim[MAX_RANK];
    int64_t pitch; /* elements; >= last extent; 0 means the last extent */
    MemoryLayout layout;
    int unit; /* PANEL: elements of K side by side; a power of two, 32 bits on CPUs, up to 64 bytes for GPUs */
    int wide; /* PANEL: columns side by side, a multiple of 16 */
    bool pairs; /* PANEL of u4: nibbles lie for 16-bit dot products (k 2p,2p+1 at bits 4p,16+4p), else for byte dots */
    Space space;
    Access access;
    int index; /* argument number for SPACE_GLOBAL */
} Memory;

typedef struct Loc {
    const char *file; /* schedule file, or the IR text's name; NULL when unknown */
    int line;
} Loc;

typedef struct Ins {
    Op op;
    Type type;
    int nargs;
    Ref arg[MAX_OPERANDS];
    union {
        double number;   /* CONST of a float type */
        int64_t integer; /* CONST of an integer type; LOOP step; SIZE id; BLOCK dimension; MEMORY index in mem[] */
        int pos[2];      /* SLICE: first row and column */
    };
    int a, b; /* FRAG class; LOOP kind and stages; REDUCE kind and axis (0 rows, 1 cols); VIEW flags;
                            GEMM unroll, and cache lines to prefetch a line of K */
    int c;               /* REDUCE order: width of the tree, 0 when the order cannot matter (max, min) */
    Loc loc;
} Ins;

/* TRANSPOSED: tile columns run along the last but one dimension. INSIDE: known to lie within the memory's shape. */
enum { VIEW_TRANSPOSED = 1, VIEW_INSIDE = 2 };

/* What the operator's spec promises about the order of sums; see numerics.c. */
typedef struct Numerics {
    int tree;    /* every `reduce add` uses a tree of this width; 0: the operator has none */
    int segment; /* attention: KV positions a segment; 0: none */
} Numerics;

/* Flaws of a GPU's code that a schedule knows of and accepts (gpu/gates.c): accepts = { "spills", ... }. */
enum { ACCEPT_SPILLS = 1, ACCEPT_STACK = 2, ACCEPT_NOTES = 4 };
extern const char *const accept_names[3]; /* by bit */

/* A body in CUDA and HIP that stands in for the kernel's instructions where a vendor's compiler is there (source.h). */
typedef struct External {
    const char *file, *text; /* path in the source folder, for messages; contents; NULL: none */
    const char *defines;     /* "NAME=VALUE ..." */
    int threads;             /* of a block */
    int64_t shared;          /* bytes of on-chip memory of a block, all of it static */
} External;

typedef struct Kernel {
    Arena *arena;
    const char *name; /* operator name and variant, for messages and symbols */
    const char *source; /* the IR text this was parsed from, NULL for a traced kernel; Locs in it are not printed */
    VEC(Ins) ins;     /* ins.at[0] is unused */
    VEC(Memory) mem;
    Ref grid[MAX_GRID]; /* scalar extents; grid[0] varies slowest */
    int grid_rank;
    int warps[2]; /* of a GPU's block, along rows and columns of its tiles; 0: a kernel for CPUs */
    Numerics numerics;
    unsigned accepts; /* ACCEPT_ bits */
    External external;
} Kernel;

static inline Ins *ir_at(const Kernel *k, Ref r) { return &k->ins.at[r]; }
static inline bool is_scalar(Type t) { return t.rows == 1 && t.cols == 1; }
static inline bool is_integer(DType t) { return t != DT_PRED && t != DT_NONE && !dtype_is_float(t); }
static inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
static inline Type type_of(const Kernel *k, Ref r) { return k->ins.at[r].type; }

/* ir.c: construction. Builders infer the type, check operands, and return 0 with a message on a mistake. */
Kernel *kernel_new(const char *name);
void kernel_free(Kernel *k);
Ref ir_const_int(Kernel *k, DType elem, int64_t v, Loc loc);
Ref ir_const_float(Kernel *k, DType elem, double v, Loc loc);
Ref ir_memory(Kernel *k, const Memory *m, Loc loc);
Ref ir_leaf(Kernel *k, Op op, Type type, int64_t value, int a, Loc loc); /* SIZE BLOCK FRAG ROW COL */
Ref ir_view(Kernel *k, Ref base, const Ref *coords, int n, int rows, int cols, int flags, Loc loc, Err *err);
/* Everything else: `template` carries op, operands, and the fields the operation needs; its type only where it can't be
 * inferred (CAST and BITCAST element, SLICE extent, LOAD none). */
Ref ir_add(Kernel *k, const Ins *template, Err *err);
bool op_has_result(Op op); /* a value, or what views and view operands name */
/* Checks the operands of *ins and sets its type, as ir_add does; for the verifier. */
bool ir_infer(const Kernel *k, Ins *ins, Err *err);
/* True when both operands may stand in one elementwise operation; *out is the broadcast shape. */
bool ir_broadcast(Type a, Type b, Type *out);
bool ir_const_value(const Kernel *k, Ref r, int64_t *v); /* integer constant? */
int64_t ir_divisor(const Kernel *k, Ref r);              /* largest known d with value % d == 0; 0 for the constant 0 */
int64_t ir_upper(const Kernel *k, Ref r);                /* largest possible value of a scalar >= 0, or INT64_MAX */
bool view_needs_mask(const Kernel *k, const Ins *view, int *rows, int *cols); /* does it overlap the border, by axis */
int64_t memory_bytes(const Memory *m, const int64_t *sizes); /* total bytes for given sizes */

/* print.c, parse.c: the text form, grammar in parse.c. print(parse(print(k))) == print(k), for any k that the builders
 * made, checked or not. The text may be any bytes; `file` names it in messages and in the Loc of lines without one. */
void ir_print(const Kernel *k, Buf *out);
Kernel *ir_parse(const char *text, size_t len, const char *file, Err *err);

/* check.c: ir_check verifies all that lowering relies on: types, scopes, regions, frags set before they are read,
 * memory declarations, gemm operands, grid, disjoint writes (writes.c). Messages: "file:line: 'op': reason; fix". */
bool ir_check(const Kernel *k, Err *err);
bool ir_error(const Kernel *k, Ref at, Err *err, const char *format, ...) PRINTF(4, 5); /* such a message; false */

/* writes.c: no two blocks write the same element of an output. Part of ir_check; needs the rest of it done. */
bool ir_check_writes(const Kernel *k, Err *err);

/* numerics.c: refuses orders of summation that are not the operator's own. Needs a kernel that passed ir_check. */
bool ir_check_numerics(const Kernel *k, Err *err);

#endif
