/* engine.h - continuous batching: requests in, tokens out.
 *
 * The life of a request: engine_add checks it and puts it into the queue; every engine_step lets the scheduler choose
 * tokens of all requests, while the device still runs the step before; hands each request that has come to its end of
 * known tokens the next one, through the request's sink; and starts the step. A stop token, a length or the sink ends a
 * request, and its pages are free at once.
 *
 * Token ids only: text, stop strings and sockets are the business of the other side of the sink. One thread owns an
 * engine (the one that owns the model); engine_cancel alone may be called from another.
 */
#ifndef BLADE_ENGINE_H
#define BLADE_ENGINE_H

#include "model.h"
#include "sampler.h"

typedef struct Engine Engine;
typedef struct Request Request;

typedef enum FinishReason {
    FINISH_STOP,   /* a stop token, an end-of-sequence token, or the sink said so */
    FINISH_LENGTH, /* max_tokens, or the context is full */
    FINISH_ABORT,  /* engine_cancel */
    FINISH_ERROR,  /* the model's output is not a number */
} FinishReason;
const char *finish_name(FinishReason r); /* "stop", "length", "abort", "error" */

typedef struct EngineToken {
    uint32_t token;
    int index;     /* among the generated tokens */
    float logprob; /* under the raw logits */
    int top_count;
    const TopLogprob *top; /* [top_count], most likely first; SamplingParams.logprobs of them */
    const float *logits;   /* [vocab] the raw row it was chosen from; NULL unless EngineRequest.logits */
} EngineToken;

/* Where a request's results go; called from engine_step. */
typedef struct EngineSink {
    void *context;
    /* The first step with this request begins; so many tokens of its prompt come from the prefix cache. Called once, also
     * when it is preempted later. May be NULL. */
    void (*start)(void *context, int cached_tokens);
    /* A new token; false ends the request with FINISH_STOP. */
    bool (*token)(void *context, const EngineToken *t);
    /* Requests with all_rows: the raw logits [vocab] that follow the prompt's token at `position`, each position
     * once and in order. May be NULL. */
    void (*row)(void *context, int position, const float *logits, float log_sum_exp);
    /* Requests with `hidden`: the hidden state [model_plan()->hidden] behind the final norm of the prompt's token at
     * `position`, each position once and in order. May be NULL. */
    void (*hidden)(void *context, int position, const float *state);
    /* The end; the Request is gone afterwards. */
    void (*finish)(void *context, FinishReason reason);
} EngineSink;

typedef enum EngineHidden { HIDDEN_NONE, HIDDEN_LAST, HIDDEN_ALL } EngineHidden; /* of which tokens of the prompt */

typedef struct EngineRequest {
    const uint32_t *prompt; /* copied */
    int prompt_len;
    const SamplingParams *sampling; /* copied; max_tokens 0: compute the prompt only */
    bool all_rows;
    bool logits;         /* EngineToken.logits is wanted: costs a copy on a GPU */
    EngineHidden hidden; /* with max_tokens 0, and not with all_rows */
    int priority;        /* lower ones run first and are preempted last; 0 is ordinary */
    uint64_t salt; /* requests share cached prefixes only with those of the same salt */
    EngineSink sink;
} EngineRequest;

typedef struct EngineOptions {
    int max_num_seqs, max_num_batched_tokens; /* 0: the model's limits; never above them */
    bool prefix_cache;
    /* A step that computes pieces of prompts while other sequences decode takes at most about so many times as long as one
     * that only decodes; 0: no limit but max_num_batched_tokens. */
    double max_decode_stretch;
    /* Called once a step, as late as a new request can still take part in it: the place for engine_add. May be NULL. */
    void (*arrivals)(void *context);
    void *context;
    uint64_t shuffle_pages;   /* test: seed of a random page order; 0: in order */
    const uint32_t *eos;      /* end-of-sequence tokens; copied */
    int eos_count;
} EngineOptions;

/* The model must outlive the engine. NULL and a message when its plan lacks an input or output. */
Engine *engine_new(Model *model, const EngineOptions *options, Err *err);
void engine_free(Engine *e); /* ends unfinished requests with FINISH_ABORT; NULL is allowed */

/* Whether the request can be served; else a message for the user: wrong parameters, tokens beyond the vocabulary, a prompt
 * beyond the context. From any thread: it looks only at what never changes. */
bool engine_accepts(const Engine *e, const EngineRequest *r, Err *err);

/* NULL and a message when engine_accepts says no. max_tokens is cut to what the context has left. */
Request *engine_add(Engine *e, const EngineRequest *r, Err *err);

/* Ends the request in the next step. Allowed from any thread until its `finish` has been called. */
void engine_cancel(Request *r);

/* Takes the results of the step that is running and starts the next one; does nothing when there is nothing to do. */
bool engine_step(Engine *e, Err *err);
bool engine_idle(const Engine *e); /* no request is left */

/* Sums since engine_new, and what is there now. */
typedef struct EngineStats {
    int64_t steps, tokens, prompt_tokens, cached_tokens, generated_tokens, preemptions;
    int running, waiting;      /* sequences */
    int64_t pages, pages_used; /* of the KV cache: all; held by sequences (cached ones that nobody holds count as free) */
    int step_tokens;           /* of the last step */
    double step_seconds;       /* from its start to its results */
} EngineStats;
const EngineStats *engine_stats(const Engine *e); /* valid until the next step */
const ModelLimits *engine_limits(const Engine *e);
int64_t engine_vocab(const Engine *e); /* entries of a row of logits */
int engine_hidden_size(const Engine *e); /* of a hidden state; 0: the pack has none */

/* Checks the KV pages against the sequences that are there; false and a message when something is lost. */
bool engine_check(const Engine *e, Err *err);

#endif
