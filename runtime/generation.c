/* generation.c - implementation of generation.h; see there. */
#include "generation.h"

#include <stdlib.h>

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
        if (*key < '0' || *key > '9' || *end || id > INT32_MAX || !json_is_number(value))
            return err_set(err, "\"logit_bias\": an object {\"TOKEN_ID\": bias} was expected");
        vec_push(&p->logit_bias, (LogitBias){(uint32_t)id, (float)json_number_value(value)});
    }
    return true;
}

static bool read_stop_ids(const json_t *r, SamplingParams *p, Err *err)
{
    const json_t *ids = json_object_get(r, "stop_token_ids");
    if (!ids || json_is_null(ids))
        return true;
    p->stop_tokens.len = 0;
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
            return err_set(err, "\"stop_token_ids\": a list of token ids was expected");
        vec_push(&p->stop_tokens, (uint32_t)json_integer_value(id));
    }
    return json_is_array(ids) || err_set(err, "\"stop_token_ids\": a list of token ids was expected");
}

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

bool request_params_read(const json_t *request, RequestParams *p, Err *err)
{
    return read_numbers(request, &p->params, err) && read_logit_bias(request, &p->params, err) &&
           read_stop_ids(request, &p->params, err) && read_stop(request, &p->stops, err);
}

RequestParams request_params_copy(const RequestParams *p)
{
    RequestParams copy = {.params = p->params};
    copy.params.logit_bias.at = NULL;
    copy.params.logit_bias.len = copy.params.logit_bias.cap = 0;
    copy.params.stop_tokens.at = NULL;
    copy.params.stop_tokens.len = copy.params.stop_tokens.cap = 0;
    for (size_t i = 0; i < p->params.logit_bias.len; i++)
        vec_push(&copy.params.logit_bias, p->params.logit_bias.at[i]);
    for (size_t i = 0; i < p->params.stop_tokens.len; i++)
        vec_push(&copy.params.stop_tokens, p->params.stop_tokens.at[i]);
    for (size_t i = 0; i < p->stops.len; i++)
        vec_push(&copy.stops, xstrdup(p->stops.at[i]));
    return copy;
}

void request_params_free(RequestParams *p)
{
    vec_free(&p->params.logit_bias);
    vec_free(&p->params.stop_tokens);
    stops_clear(&p->stops);
}
