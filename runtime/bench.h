/* bench.h - measures a model: what the machine can do at most, and steps of prefill and decode. cmd_bench.c prints
 * it. */
#ifndef BLADE_BENCH_H
#define BLADE_BENCH_H

#include "model.h"

/* ---- limits of the machine, by kernels of the pack ------------------------------------------------------------- */

typedef struct BenchLimits {
    const PlanLimit *read, *peak; /* NULL when the pack has no such kernel */
    double read_rate;             /* bytes/s, best so far; 0 when unknown */
    double peak_rate;             /* operations/s of the instruction that the matmuls use (plan: "peak") */
    void *source, *results;       /* device memory that the kernels read and write */
    size_t source_bytes, results_bytes;
    int64_t read_blocks, peak_blocks;
} BenchLimits;

/* Allocates the memory: `read_bytes` for reading, far more than all caches hold (less when there is not so much). */
bool bench_limits_begin(BenchLimits *l, Model *m, size_t read_bytes, Err *err);
/* Measures both again and keeps the best; about a tenth of a second each. */
void bench_limits_measure(BenchLimits *l, Model *m);
void bench_limits_end(BenchLimits *l, Model *m);

/* ---- steps ------------------------------------------------------------------------------------------------------ */

/* Seconds that it takes to compute `seqs` prompts of `prompt` random tokens, in steps of at most the model's limit of
 * tokens; with the operations of the matmuls in that time in *operations. */
bool bench_prefill(Model *m, int64_t seqs, int64_t prompt, double *seconds, double *operations, Err *err);

/* Median of the seconds of a step in which each of `batch` sequences with `context` tokens gets another one, greedily
 * sampled, over `steps` steps. */
bool bench_decode(Model *m, int64_t batch, int64_t context, int64_t steps, double *seconds, Err *err);

/* Bytes that such a step must read: weights and the KV cache. */
double bench_decode_bytes(const Model *m, int64_t batch, int64_t context);
/* Operations of its matmuls. */
double bench_decode_operations(const Model *m, int64_t batch);

#endif
