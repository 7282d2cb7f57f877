/* plan.h - the plan of a pack: reading and checking its JSON, and how much memory it needs for given capacities.
 *
 * A plan is untrusted text: every index, size and type is checked here, so that the executor need not. What can't be
 * checked is the machine code that stands beside it.
 */
#ifndef BLADE_PLAN_H
#define BLADE_PLAN_H

#include "dtype.h"
#include "pack.h"

/* Inputs that the runtime writes before each step, and outputs that it reads: X(id, name, type, columns, rows). The
 * buffer holds rows x columns elements; both are expressions in the sizes s[] and the plan p. Outputs begin at
 * LOGITS. */
#define PLAN_IO(X)                                                                                            \
    X(TOKENS, "tokens", S32, 1, s[SIZE_TOKENS])                                                               \
    X(POSITIONS, "positions", S32, 1, s[SIZE_TOKENS])                                                         \
    X(KV_SLOT, "kv_slot", S32, 1, s[SIZE_TOKENS])                 /* page * page_tokens + offset in it */     \
    X(BLOCK_TABLE, "block_table", S32, s[SIZE_TABLE_WIDTH], s[SIZE_SEQS])                                     \
    X(DECODE_TILES, "decode_tiles", S32, 4, s[SIZE_DECODE_TILES])    /* first row, 1, sequence, 0 */          \
    X(PREFILL_TILES, "prefill_tiles", S32, 4, s[SIZE_PREFILL_TILES]) /* first row, rows, sequence, 0 */       \
    X(OUTPUT_ROWS, "output_rows", S32, 1, s[SIZE_OUTPUTS])                                                    \
    X(HIDDEN_ROWS, "hidden_rows", S32, 1, s[SIZE_HIDDENS])                                                    \
    X(SAMPLE_PARAMS, "sample_params", F32, 8, s[SIZE_OUTPUTS])    /* 1/temperature top_p min_p u top_k 0.. */ \
    X(ADJUST_START, "adjust_start", S32, 1, s[SIZE_OUTPUTS] + 1)                                              \
    X(ADJUST_TOKEN, "adjust_token", S32, 1, s[SIZE_EXTRA])                                                    \
    X(ADJUST_VALUE, "adjust_value", F32, 2, s[SIZE_EXTRA])        /* factor r, addend a */                    \
    X(LOGITS, "logits", F32, p->logits_stride, s[SIZE_OUTPUTS])   /* raw; columns >= vocab are padding */     \
    X(SAMPLED, "sampled", S32, 1, s[SIZE_OUTPUTS])                                                            \
    X(SAMPLED_LOGPROB, "sampled_logprob", F32, 1, s[SIZE_OUTPUTS]) /* under the raw logits */                 \
    X(LOGZ, "logz", F32, 2, s[SIZE_OUTPUTS])                       /* max, log-sum-exp; raw logits */         \
    X(HIDDEN, "hidden", F32, p->hidden_stride, s[SIZE_HIDDENS])   /* behind the final norm */

typedef enum PlanIo {
#define X(id, name, type, columns, rows) IO_##id,
    PLAN_IO(X)
#undef X
    IO_COUNT,
    IO_FIRST_OUTPUT = IO_LOGITS
} PlanIo;
extern const char *const plan_io_names[IO_COUNT];

/* A step's inputs can be written while another step runs on the other set of inputs. */
enum { PLAN_INPUT_SETS = 2 };

typedef enum BufferKind {
    BUFFER_WEIGHT,     /* filled by load steps */
    BUFFER_MAPPED,     /* a tensor of the checkpoint where it lies in the file */
    BUFFER_CONSTANT,   /* contents in the plan */
    BUFFER_INPUT,      /* known by name: PLAN_IO */
    BUFFER_OUTPUT,
    BUFFER_ACTIVATION, /* lives during a step */
    BUFFER_KV,         /* pages of the KV cache */
    BUFFER_TEMPORARY,  /* needed only while weights are loaded */
    BUFFER_KINDS
} BufferKind;
extern const char *const buffer_kind_names[BUFFER_KINDS];

/* ceil(n * size / div); n alone when size < 0. */
typedef struct Extent {
    int64_t n, div;
    int size; /* SizeId, or -1 */
} Extent;

/* A tensor that the plan names, and what it must look like: -1, DT_NONE and rank -1 mean "anything". A tensor is used
 * where it lies in the file when its address is a multiple of `align`, and is copied otherwise. */
typedef struct TensorSpec {
    const char *name;
    int64_t align; /* "align"; 64 for mapped buffers, the size of an element for load steps (0) */
    DType type;
    int rank;
    int64_t shape[8];
    int64_t bytes;
} TensorSpec;

typedef struct PlanFill { /* random contents for runs without a checkpoint */
    DType type;           /* DT_NONE: leave zeros; integers get random bits */
    double scale, mean;   /* uniform with this standard deviation around the mean */
} PlanFill;

typedef struct PlanBuffer {
    const char *name;
    BufferKind kind;
    int io; /* PlanIo of an input or output, else -1 */
    int terms;
    Extent *bytes;      /* total size is the sum of the terms; inputs and outputs: by their PLAN_IO row */
    int64_t page_bytes; /* kv, else 0: total = page_bytes * kv_pages, pages one after the other */
    TensorSpec tensor;  /* mapped */
    PlanFill fill;
    const void *data;   /* constant: data_bytes of it */
    int64_t data_bytes;
} PlanBuffer;

enum { PLAN_MAX_GRID = 4, PLAN_MAX_ARGS = 64, PLAN_MAX_INPUTS = 4, PLAN_MAX_THREADS = 1024, PLAN_MAX_SHARED = 1 << 20 };

typedef struct PlanKernel {
    const char *name, *symbol;
    int64_t offset, size; /* in the pack's code */
    int64_t scratch;      /* CPU: bytes a thread */
    int threads;          /* GPU: of a block; 0: the code is for a CPU */
    int64_t shared;       /* GPU: bytes of on-chip memory of a block */
    int dims;
    Extent grid[PLAN_MAX_GRID]; /* blocks = product */
} PlanKernel;

typedef struct PlanArg {
    int buffer;         /* -1: a tensor of the checkpoint (load steps only) */
    int64_t offset;     /* bytes */
    TensorSpec *tensor; /* NULL unless buffer < 0 */
} PlanArg;

typedef enum Builtin { BUILTIN_NONE, BUILTIN_ARGSORT } Builtin;

typedef struct PlanLaunch {
    int kernel; /* -1 when builtin */
    Builtin builtin;
    int args_count;
    PlanArg *args;
    int64_t *sizes; /* load steps: SIZE_COUNT values; else NULL */
} PlanLaunch;

typedef struct PlanStep {
    int64_t max_tokens; /* 0: any number */
    int count;
    PlanLaunch *launches;
} PlanStep;

/* A kernel that measures what the machine can do; see bench.c. */
typedef struct PlanLimit {
    const char *name; /* "read", "int8", "bf16", "f32" */
    int kernel;
    int64_t bytes_per_block, ops_per_block, output_bytes;
    int inputs;
    int64_t input_bytes[PLAN_MAX_INPUTS];
} PlanLimit;

typedef struct Plan {
    Arena *arena; /* owns all of it */
    const char *architecture, *weights;
    int64_t layers, hidden, vocab, context, kv_heads, head_dim;
    int64_t page_tokens, prefill_tile, logits_stride;
    int64_t hidden_stride;        /* elements; 0: the plan gives no hidden states */
    double flops_per_token;       /* of the matmuls, a token through all layers */
    double flops_per_output;      /* a row of logits */
    double weight_bytes_per_step; /* read by a step, whatever the number of tokens */
    const char *peak; /* "int8", "bf16" or "f32" */
    int kernels_count, buffers_count, load_count, steps_count, sample_count, limits_count;
    PlanKernel *kernels;
    PlanBuffer *buffers;
    PlanLaunch *load;
    PlanStep *steps;
    PlanLaunch *sample;
    PlanLimit *limits;
    int io[IO_COUNT]; /* buffer of each input and output, -1 when the plan has none */
} Plan;

/* Reads and checks a plan whose code section has `code_len` bytes; NULL and a message on any mistake. */
Plan *plan_parse(const char *text, size_t size, size_t code_len, Err *err);
void plan_free(Plan *p); /* NULL is allowed */

/* Number of blocks of a kernel's grid; -1 when it is absurd. Sizes are not negative. */
int64_t plan_blocks(const PlanKernel *k, const int64_t sizes[SIZE_COUNT]);
/* Whether the number of blocks follows from this size. */
bool plan_grid_has(const PlanKernel *k, SizeId size);
/* Bytes of a buffer for these capacities; -1 when absurd. */
int64_t plan_buffer_bytes(const Plan *p, int buffer, const int64_t caps[SIZE_COUNT]);
/* The same for an input or output, whether the plan has it or not. */
int64_t plan_io_bytes(const Plan *p, PlanIo io, const int64_t caps[SIZE_COUNT]);
/* Bytes of one page in all kv buffers together. */
int64_t plan_page_bytes(const Plan *p);
/* First step whose max_tokens covers `tokens`; NULL when there is none. */
const PlanStep *plan_step_for(const Plan *p, int64_t tokens);

/* Bytes that a buffer takes in its region: 64-byte aligned, at least 64 readable bytes behind its end. */
int64_t plan_room(int64_t bytes);

/* Memory in bytes by kind of buffer, exact for these capacities: what is allocated, and what stays in the file. */
typedef struct PlanMemory {
    int64_t kind[BUFFER_KINDS]; /* BUFFER_MAPPED is not allocated, BUFFER_TEMPORARY only while loading */
    int64_t scratch;            /* of all threads */
    int64_t code;
    int64_t total;              /* allocated while running: all but mapped and temporary */
    int64_t peak;               /* total + temporary */
} PlanMemory;
bool plan_memory(const Plan *p, const int64_t caps[SIZE_COUNT], int threads, PlanMemory *m, Err *err);

#endif
