/* sampler.h - what a request asks of sampling, and how that becomes the inputs of the generated sampling kernel.
 *
 * The kernel applies, for each row of raw logits and in this order: the adjustments (r, a) of its tokens, logit =
 * (logit > 0 ? logit / r : logit * r) + a; temperature; top_k, top_p, min_p; the draw u. A Sampler keeps what the
 * adjustments depend on: which tokens the sequence has. The draw is a function of seed and position only, so a
 * request gives the same tokens in any batch.
 *
 * Penalties as in vLLM: repetition over prompt and output (Keskar et al., arXiv 1909.05858), presence and frequency
 * over the output only (OpenAI API reference). Bad words likewise: the last token of one is forbidden where the output
 * ends with the tokens before it. Where all allowed tokens are forbidden, by bad words or min_tokens, they are allowed.
 */
#ifndef BLADE_SAMPLER_H
#define BLADE_SAMPLER_H

#include "base.h"

typedef struct LogitBias {
    uint32_t token;
    float bias;
} LogitBias;

typedef VEC(uint32_t) SamplingTokens;

typedef struct SamplingParams {
    double temperature;        /* 0: greedy; 0..100 */
    double top_p;              /* 0..1, 1: off (0 keeps the most likely token only) */
    double min_p;              /* 0..1, 0: off */
    int64_t top_k;             /* 0 or -1: off */
    double repetition_penalty; /* > 0, 1: off */
    double presence_penalty, frequency_penalty; /* -2..2, 0: off */
    uint64_t seed;
    int64_t max_tokens;        /* new tokens at most, >= 0 */
    int64_t min_tokens;        /* end-of-sequence and stop tokens are forbidden before so many new tokens */
    bool ignore_eos;           /* end-of-sequence tokens do not end the sequence */
    int logprobs;              /* tokens to report with each one, 0..20; -1: no log-probabilities */
    /* lists, owned by whoever made the struct */
    VEC(LogitBias) logit_bias;     /* -100..100 each, at most 1024 */
    SamplingTokens stop_tokens;    /* end the sequence, besides end-of-sequence tokens; at most 1024 */
    SamplingTokens allowed_tokens; /* nothing else is generated, unless empty; at most the vocabulary */
    SamplingTokens bad_words;      /* sequences that are not generated, each behind its length: {2, 17, 4, 1, 9} */
} SamplingParams;

enum { SAMPLING_MAX_LOGPROBS = 20, SAMPLING_MAX_BIAS = 1024, SAMPLING_MAX_BAD_WORDS = 16384 /* entries of the list */ };

/* Greedy, everything off, 16 new tokens, seed 0. */
SamplingParams sampling_defaults(void);
/* Checks every range; the message begins with the name of the parameter as requests spell it (top_p, stop_token_ids,
 * ...). `vocab` bounds the token ids. */
bool sampling_check(const SamplingParams *p, int64_t vocab, Err *err);
/* A copy with lists of its own, and the end of such lists. */
SamplingParams sampling_copy(const SamplingParams *p);
void sampling_free(SamplingParams *p);

typedef struct Sampler Sampler;

/* `eos` are the end-of-sequence tokens; everything is copied. Tokens must be below 2^31. */
Sampler *sampler_new(const SamplingParams *p, const uint32_t *prompt, int n, const uint32_t *eos, int eos_count);
void sampler_free(Sampler *s); /* NULL is allowed */
const SamplingParams *sampler_params(const Sampler *s);

/* Adjustments that a row may need at most, when the sequence grows to `tokens` tokens of a vocabulary of `vocab`. */
int64_t sampler_max_adjustments(const Sampler *s, int64_t tokens, int64_t vocab);

/* The row of sample_params for the next token. */
void sampler_row(const Sampler *s, float row[8]);
/* Writes the adjustments of the next token; returns their number. */
int sampler_adjust(const Sampler *s, int32_t *tokens, float (*values)[2]);

/* Takes note of a generated token. */
void sampler_accept(Sampler *s, uint32_t token);
int64_t sampler_count(const Sampler *s);                 /* tokens generated so far */
bool sampler_is_stop(const Sampler *s, uint32_t token);  /* whether this token ends the sequence */

/* The draw in [0, 1) for the token at `position` among the generated ones: 24 bits of a counter-based generator. */
float sampling_draw(uint64_t seed, uint64_t position);

typedef struct TopLogprob {
    uint32_t token;
    float logprob;
} TopLogprob;

/* The n most likely tokens of a row of raw logits, most likely first (equal ones: lower id first); returns min(n,
 * vocab). `log_sum_exp` is that of the row. */
int sampling_top(const float *logits, int64_t vocab, float log_sum_exp, int n, TopLogprob *out);

#endif
