/* model.h - a checkpoint made ready to run: pack found or built, code and weights loaded, buffers allocated, and one
 * function that runs a step. What the engine, bench and the tests use.
 *
 * A step: write the inputs (model_io gives the arrays; contents as in plan.h), set the sizes, model_run, read the
 * outputs. Nothing is allocated and no system call is made in between, but to wake sleeping threads.
 *
 *     ModelStep s = {.tokens = 1, .seqs = 1, .outputs = 1, .decode_tiles = 1};
 *     ((int32_t *)model_io(m, IO_TOKENS))[0] = 42; ...
 *     model_run(m, &s, &err);
 *     int32_t next = ((int32_t *)model_io(m, IO_SAMPLED))[0];
 *
 * One thread at a time may use a Model. Without a queue it is the pool's thread 0: load and run on the same thread.
 */
#ifndef BLADE_MODEL_H
#define BLADE_MODEL_H

#include "checkpoint.h"
#include "device.h"
#include "plan.h"

typedef struct Model Model;

typedef void ModelProgress(void *context, const char *what, int64_t done, int64_t total);

typedef struct ModelOptions {
    const char *model;   /* checkpoint folder; with random_weights a config.json or a folder with one */
    bool random_weights; /* do not read weights: fill them with random numbers */
    const char *weights; /* "auto" (NULL), "f32", "bf16", "f16", "w8", "w4", "w4a16" */
    const char *kv;      /* of the KV cache: "auto" (NULL), "f32", "f16", "bf16", "int8" */
    const char *pack;    /* use this pack file; NULL: find or build one */
    const char *cache;   /* folder of built packs; NULL: $XDG_CACHE_HOME/blade or ~/.cache/blade */
    const char *generator; /* path of libbladegen.so; NULL: search (jit.h) */
    int threads;         /* 0: one a core */
    const char *device;  /* "auto" (NULL), "host", "cuda", "cuda:1", "hip", ... (device.h) */
    bool no_graphs;      /* on a GPU: launch every kernel of a step by itself */
    /* Capacities; 0 means the default in brackets. */
    int64_t max_num_batched_tokens; /* tokens of a step [512] */
    int64_t max_num_seqs;           /* sequences of a step [64] */
    int64_t max_model_len;          /* tokens of a sequence [the model's context, or what fits the KV cache] */
    int64_t max_outputs;            /* rows of logits a step [max_num_seqs] */
    int64_t max_adjustments;        /* logit adjustments a step [262144] */
    int64_t kv_cache_memory;        /* bytes [max_num_seqs sequences, at most 2/5 of the memory that is left] */
    bool queue;                     /* steps run on a thread of the device's own; the caller prepares the next one */
    bool plan_only;                 /* no code, no weights, no buffers: model_memory and model_limits only */
    ModelProgress *progress;        /* called from the loading thread; may be NULL */
    void *context;
} ModelOptions;

typedef struct ModelLimits {
    int64_t tokens, seqs, outputs; /* of a step */
    int64_t decode_tiles;          /* = tokens */
    int64_t prefill_tiles;         /* = min(tokens, tokens / prefill_tile + seqs) */
    int64_t adjustments;
    int64_t hiddens;               /* = tokens */
    int64_t max_model_len;         /* tokens of a sequence, prompt and completion */
    int64_t pages, page_tokens;    /* KV cache */
    int64_t table_width;           /* pages of a sequence: ceil(max_model_len / page_tokens) */
} ModelLimits;

/* NULL and a message for the user on failure. The default for max_model_len is lowered when the KV cache can't hold one
 * sequence of the model's context; one that was asked for and does not fit is an error. */
Model *model_load(const ModelOptions *options, Err *err);
void model_free(Model *m); /* NULL is allowed */

const Plan *model_plan(const Model *m);
const ModelLimits *model_limits(const Model *m);
const PlanMemory *model_memory(const Model *m);
int model_threads(const Model *m);
/* Of the device, as far as this process may have it; both in bytes. */
void model_available(const Model *m, int64_t *available, int64_t *total);
const char *model_device_label(const Model *m); /* "host", "cuda:0 (NVIDIA H200)" */
bool model_on_gpu(const Model *m);
const char *model_target(const Model *m);  /* of the pack: "x86-64-v4" */
uint64_t model_fingerprint(const Model *m); /* of the checkpoint */
const char *model_warning(const Model *m); /* something the user should know after loading; NULL when nothing */

/* The host's array of an output, or of an input in set 0, for the limits above, never NULL (but IO_HIDDEN, when the
 * pack gives no hidden states). Row stride of the block table is the step's table_width, of the logits
 * model_plan()->logits_stride, of hidden states model_plan()->hidden_stride. */
void *model_io(Model *m, PlanIo io);
/* The array of an input in set 0 or 1: one set can be written while the step of the other runs. */
void *model_input(Model *m, int set, PlanIo io);

/* Zeroes a page in all layers, behind the steps that were begun. Do it when a page is handed to a sequence: stale
 * contents may hold NaN, and 0 * NaN. */
void model_zero_page(Model *m, int64_t page);

typedef struct ModelStep { /* sizes of this step; none above its limit */
    int64_t tokens, seqs, outputs, decode_tiles, prefill_tiles, adjustments, hiddens;
    int64_t table_width; /* columns of block_table; 0: the limit */
    bool logits_unread;  /* nobody will look at IO_LOGITS: they may stay on the device */
} ModelStep;

/* Begins to run the model and then sampling on the rows of logits, with the inputs of this set; model_wait returns when
 * that is done and the outputs can be read. With ModelOptions.queue the caller goes on meanwhile. An error means a size
 * above its limit; nothing was begun. */
bool model_start(Model *m, int set, const ModelStep *step, Err *err);
/* False and a message when the device has failed; all steps fail from then on. */
bool model_wait(Model *m, Err *err);

/* model_start with set 0 and model_wait. */
bool model_run(Model *m, const ModelStep *step, Err *err);
/* The two halves of model_run: logits only; sampling again on the logits that are there. */
bool model_run_logits(Model *m, const ModelStep *step, Err *err);
bool model_run_sample(Model *m, const ModelStep *step, Err *err);

/* Picks the launch list of another token bucket (for tests: results must not change); -1: by the number of tokens. */
void model_force_step(Model *m, int step);

/* From now on runs add the seconds of each launch to seconds[kernel of the plan]; NULL ends it. */
void model_set_profile(Model *m, double *seconds);
/* Runs blocks of one of the plan's limit kernels; the buffers are the device's (bench.c). */
void model_run_limit(Model *m, const PlanLimit *limit, void *const *buffers, int64_t blocks);
Device *model_device(Model *m);

#endif
