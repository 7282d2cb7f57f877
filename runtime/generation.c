/* generation.c - implementation of generation.h; see there. */
#include "generation.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_WORD 1024 /* bytes of a bad word */

/* ---- the checkpoint's defaults ----------------------------------------------------------------------------------- */

static bool read_defaults(const json_t *config, SamplingParams *p, Err *err)
{
    bool do_sample;
    const json_t *said = json_object_get(config, "do_sample");
    if (!json_get_bool(config, "do_sample", false, &do_sample, err) ||
        !json_get_real(config, "temperature", 0, 100, do_sample ? 1 : 0, &p->temperature, err) ||
        !json_get_real(config, "top_p", 0, 1, 1, &p->top_p, err) ||
        !json_get_real(config, "min_p", 0, 1, 0, &p->min_p, err) ||
        !json_get_int(config, "top_k", -1, INT32_MAX, 0, &p->top_k, err) ||
        !json_get_real(config, "repetition_penalty", 0.01, 100, 1, &p->repetition_penalty, err))
        return false;
    if (json_is_false(said))
        p->temperature = 0;
    return true;
}

/* "eos_token_id": an integer or a list of them. */
static bool read_eos(const json_t *config, TokenIds *out, Err *err)
{
    const json_t *v = json_object_get(config, "eos_token_id");
    size_t n = json_is_array(v) ? json_array_size(v) : json_is_integer(v);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
            return err_set(err, "\"eos_token_id\": a token id or a list of token ids was expected");
        vec_push(out, (uint32_t)json_integer_value(id));
    }
    return true;
}

bool generation_read(const Checkpoint *c, const Tokenizer *tokenizer, Generation *out, Err *err)
{
    *out = (Generation){.params = sampling_defaults()};
    const json_t *config = ckpt_generation_config(c);
    if (!read_defaults(config, &out->params, err) || !read_eos(config, &out->eos, err))
        return err_prefix(err, "%s/generation_config.json", ckpt_dir(c));
    if (!out->eos.len && !read_eos(ckpt_config(c), &out->eos, err))
        return err_prefix(err, "%s/config.json", ckpt_dir(c));
    if (!out->eos.len && tokenizer && tok_eos(tokenizer) >= 0)
        vec_push(&out->eos, (uint32_t)tok_eos(tokenizer));
    return true;
}

void generation_free(Generation *g)
{
    vec_free(&g->eos);
}

/* ---- a request's own --------------------------------------------------------------------------------------------- */

static bool read_numbers(const json_t *r, SamplingParams *p, Err *err)
{
    int64_t logprobs = p->logprobs, seed = (int64_t)p->seed;
    bool ok = json_get_int(r, "max_tokens", 0, INT32_MAX, p->max_tokens, &p->max_tokens, err) &&
              json_get_int(r, "max_completion_tokens", 0, INT32_MAX, p->max_tokens, &p->max_tokens, err) &&
              json_get_int(r, "min_tokens", 0, INT32_MAX, p->min_tokens, &p->min_tokens, err) &&
              json_get_real(r, "temperature", 0, 100, p->temperature, &p->temperature, err) &&
              json_get_real(r, "top_p", 0, 1, p->top_p, &p->top_p, err) &&
              json_get_int(r, "top_k", -1, INT32_MAX, p->top_k, &p->top_k, err) &&
              json_get_real(r, "min_p", 0, 1, p->min_p, &p->min_p, err) &&
              json_get_int(r, "seed", INT64_MIN, INT64_MAX, seed, &seed, err) &&
              json_get_real(r, "repetition_penalty", 0.01, 100, p->repetition_penalty, &p->repetition_penalty, err) &&
              json_get_real(r, "presence_penalty", -2, 2, p->presence_penalty, &p->presence_penalty, err) &&
              json_get_real(r, "frequency_penalty", -2, 2, p->frequency_penalty, &p->frequency_penalty, err) &&
              json_get_bool(r, "ignore_eos", p->ignore_eos, &p->ignore_eos, err) &&
              json_get_int(r, "logprobs", 0, SAMPLING_MAX_LOGPROBS, logprobs, &logprobs, err);
    p->logprobs = (int)logprobs;
    p->seed = (uint64_t)seed;
    return ok;
}

static bool read_logit_bias(const json_t *r, SamplingParams *p, Err *err)
{
    json_t *bias = json_object_get(r, "logit_bias"), *value;
    if (!bias || json_is_null(bias))
        return true;
    if (!json_is_object(bias))
        return err_set(err, "\"logit_bias\": an object {\"TOKEN_ID\": bias} was expected");
    const char *key;
    p->logit_bias.len = 0;
    json_object_foreach(bias, key, value) {
        char *end;
        unsigned long id = strtoul(key, &end, 10);
        bool number = *key >= '0' && *key <= '9' && !(key[0] == '0' && key[1]) && !*end && id <= INT32_MAX;
        if (!number || !json_is_number(value))
            return err_set(err, "\"logit_bias\": an object {\"TOKEN_ID\": bias} was expected");
        if (!(fabs(json_number_value(value)) <= 100))
            return err_set(err, "\"logit_bias\": the bias of token %lu is %g, from -100 to 100 is allowed", id,
                           json_number_value(value));
        vec_push(&p->logit_bias, (LogitBias){(uint32_t)id, (float)json_number_value(value)});
    }
    return true;
}

/* A list of token ids; *out is as it was when there is none. */
static bool read_ids(const json_t *r, const char *key, SamplingTokens *out, Err *err)
{
    const json_t *ids = json_object_get(r, key);
    if (!ids || json_is_null(ids))
        return true;
    out->len = 0;
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
            return err_set(err, "\"%s\": a list of token ids was expected", key);
        vec_push(out, (uint32_t)json_integer_value(id));
    }
    return json_is_array(ids) || err_set(err, "\"%s\": a list of token ids was expected", key);
}

/* An empty list would allow nothing at all. */
static bool read_allowed(const json_t *r, SamplingParams *p, Err *err)
{
    const json_t *ids = json_object_get(r, "allowed_token_ids");
    if (json_is_array(ids) && !json_array_size(ids))
        return err_set(err, "\"allowed_token_ids\" is empty: leave it out to allow every token");
    return read_ids(r, "allowed_token_ids", &p->allowed_tokens, err);
}

/* ---- bad words --------------------------------------------------------------------------------------------------- */

/* Tokens of a word as it stands at the beginning of a text, or behind a blank. */
static bool word_tokens(const Tokenizer *t, const char *word, bool blank, TokenIds *out, Err *err)
{
    Buf text = {0};
    buf_puts(&text, blank ? " " : "");
    buf_puts(&text, word);
    bool ok = tok_encode(t, text.data, text.len, false, true, out, err);
    buf_free(&text);
    return ok || err_prefix(err, "\"bad_words\"");
}

static void add_sequence(SamplingTokens *words, const TokenIds *ids)
{
    vec_push(words, (uint32_t)ids->len);
    for (size_t i = 0; i < ids->len; i++)
        vec_push(words, ids->at[i]);
}

/* As vLLM has it: the word alone, and behind a blank where that gives as many tokens but another first one. */
static bool add_bad_word(const Tokenizer *t, const char *word, SamplingTokens *words, Err *err)
{
    TokenIds alone = {0}, behind = {0};
    word += strspn(word, " \t\r\n\v\f");
    if (!*word)
        return err_set(err, "\"bad_words\": a word is empty");
    bool ok = word_tokens(t, word, false, &alone, err) && word_tokens(t, word, true, &behind, err);
    if (ok && alone.len)
        add_sequence(words, &alone);
    if (ok && alone.len && behind.len == alone.len && behind.at[0] != alone.at[0])
        add_sequence(words, &behind);
    vec_free(&alone);
    vec_free(&behind);
    return ok;
}

static bool read_bad_words(const json_t *r, const Tokenizer *t, SamplingTokens *out, Err *err)
{
    const json_t *words = json_object_get(r, "bad_words");
    if (!words || json_is_null(words))
        return true;
    if (!json_is_array(words))
        return err_set(err, "\"bad_words\": a list of strings was expected");
    if (!t && json_array_size(words))
        return err_set(err, "\"bad_words\" needs a tokenizer");
    out->len = 0;
    for (size_t i = 0; i < json_array_size(words); i++) {
        const json_t *word = json_array_get(words, i);
        if (!json_is_string(word))
            return err_set(err, "\"bad_words\": a list of strings was expected");
        if (json_string_length(word) > MAX_WORD || out->len > SAMPLING_MAX_BAD_WORDS)
            return err_set(err, "\"bad_words\": at most %d tokens, and %d bytes a word, are allowed",
                           SAMPLING_MAX_BAD_WORDS, MAX_WORD);
        if (!add_bad_word(t, json_string_value(word), out, err))
            return false;
    }
    return true;
}

/* ---- stop strings ------------------------------------------------------------------------------------------------ */

static void stops_clear(StopStrings *stops)
{
    for (size_t i = 0; i < stops->len; i++)
        free(stops->at[i]);
    vec_free(stops);
}

static bool read_stop(const json_t *r, StopStrings *stops, Err *err)
{
    const json_t *stop = json_object_get(r, "stop");
    if (!stop || json_is_null(stop))
        return true;
    stops_clear(stops);
    size_t n = json_is_array(stop) ? json_array_size(stop) : 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(stop) ? json_array_get(stop, i) : stop;
        if (!json_is_string(s))
            return err_set(err, "\"stop\": a string or a list of strings was expected");
        vec_push(stops, xstrdup(json_string_value(s)));
    }
    return true;
}

bool request_params_read(const json_t *r, const Tokenizer *t, RequestParams *p, Err *err)
{
    return read_numbers(r, &p->params, err) && read_logit_bias(r, &p->params, err) &&
           read_ids(r, "stop_token_ids", &p->params.stop_tokens, err) && read_allowed(r, &p->params, err) &&
           read_bad_words(r, t, &p->params.bad_words, err) && read_stop(r, &p->stops, err);
}

RequestParams request_params_copy(const RequestParams *p)
{
    RequestParams copy = {.params = sampling_copy(&p->params)};
    for (size_t i = 0; i < p->stops.len; i++)
        vec_push(&copy.stops, xstrdup(p->stops.at[i]));
    return copy;
}

void request_params_free(RequestParams *p)
{
    sampling_free(&p->params);
    stops_clear(&p->stops);
}
