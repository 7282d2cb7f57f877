/* generation.h - where sampling parameters come from: the checkpoint's own defaults, JSON requests, and which tokens
 * end a sequence.
 *
 * Defaults of a checkpoint: temperature, top_k, top_p, min_p and repetition_penalty of generation_config.json.
 * Without a temperature there, or with "do_sample": false, it is greedy (temperature 0); with "do_sample": true and
 * no temperature it is 1, as in transformers. What a command line or a request says wins over them, name by name.
 */
#ifndef BLADE_GENERATION_H
#define BLADE_GENERATION_H

#include "checkpoint.h"
#include "sampler.h"
#include "tokenizer.h"

typedef struct Generation {
    SamplingParams params;
    TokenIds eos; /* eos_token_id of generation_config.json, else of config.json, else the tokenizer's */
} Generation;

/* `tokenizer` may be NULL. False and a message that names the file when a value makes no sense. */
bool generation_read(const Checkpoint *c, const Tokenizer *tokenizer, Generation *out, Err *err);
void generation_free(Generation *g);

typedef VEC(char *) StopStrings;

/* What one request says besides its prompt; it owns its lists and stop strings. */
typedef struct RequestParams {
    SamplingParams params;
    StopStrings stops; /* strdup'ed */
} RequestParams;

/* Overrides *p with the keys of a JSON object, named as in OpenAI's API and vLLM's extensions: max_tokens (also
 * max_completion_tokens), min_tokens, temperature, top_p, top_k, min_p, seed, repetition_penalty, presence_penalty,
 * frequency_penalty, logit_bias {"ID": bias}, stop (string or list), stop_token_ids, allowed_token_ids, bad_words (list
 * of strings), ignore_eos, logprobs (0..20). Other keys are not looked at; a value of the wrong type is an error whose
 * message begins with the key in quotes. `t` is needed for bad_words only; NULL: they are an error. */
bool request_params_read(const json_t *request, const Tokenizer *t, RequestParams *p, Err *err);
/* A copy that owns its lists. */
RequestParams request_params_copy(const RequestParams *p);
void request_params_free(RequestParams *p);

#endif
