/* paged_model.h - a model made for the tests of engine and service, in place of model.c: its KV pages hold token ids, and
 * the logits of a row are a function of all ids that its tile finds through the block table. It runs on the real thread
 * pool. paged_alone says what a request must get, whatever shares its steps. */
#ifndef BLADE_PAGED_MODEL_H
#define BLADE_PAGED_MODEL_H

#include <pthread.h>
#include <stdatomic.h>

#include "model.h"
#include "pool.h"
#include "sampler.h"

enum { PAGED_VOCAB = 24, PAGED_CONTEXT = 100, PAGED_HIDDEN = 3 };

struct Model {
    Plan plan;
    ModelLimits limits;
    Pool *pool;
    void *io[PLAN_INPUT_SETS][IO_COUNT];
    int32_t *slots;  /* [pages, page_tokens] token ids */
    uint64_t *state; /* [tokens] hash of the ids up to each row's */
    int set;
    ModelStep step;
    bool queue; /* steps run on a thread of their own */
    bool running;
    pthread_t thread;
    _Atomic int poisoned; /* pages seen that nobody had zeroed */
    atomic_bool broken;   /* the next step fails */
    atomic_bool lost;     /* waiting for a step fails */
    _Atomic int step_us;  /* a step takes at least so many microseconds */
};

/* `pages` of the KV cache, of 8 tokens; 0: room for every sequence. The caller becomes the pool's thread 0. */
void paged_setup(Model *m, int tokens, int seqs, int pages);
void paged_teardown(Model *m);

/* State of a row, from HASH_SEED on, token by token; and the logits that follow from it, with a log-sum-exp of 10. */
uint64_t paged_hash(uint64_t state, int32_t token);
float paged_logit(uint64_t state, int token);
void paged_hidden(uint64_t state, float out[PAGED_HIDDEN]);
/* Of adjusted logits: greedy, or token u * PAGED_VOCAB for any temperature (the rules of real sampling are the
 * kernel's). */
int32_t paged_choose(const float logits[PAGED_VOCAB], const float params[8]);

/* The tokens of a request that nobody disturbs, computed directly; returns their number. */
int paged_alone(const SamplingParams *p, const uint32_t *prompt, int n, const uint32_t *eos, int eos_count,
                uint32_t out[PAGED_CONTEXT], bool *stopped);

#endif
