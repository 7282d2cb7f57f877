/* api_request.c - implementation of api_request.h, see there: a body that is JSON becomes an ApiRequest. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "api_request_int.h"
#include "json.h"

/* ---- errors ------------------------------------------------------------------------------------------------------ */

/* Leaves valid UTF-8 without control characters; what was cut may end inside a character. */
static void clean(char *s)
{
    size_t n = strlen(s), used;
    n = utf8_complete(s, n);
    s[n] = 0;
    for (size_t i = 0; i < n; i += used) {
        uint32_t cp;
        used = utf8_decode(s + i, n - i, &cp);
        if (used == 1 && ((unsigned char)s[i] < 0x20 || (unsigned char)s[i] >= 0x7f))
            s[i] = '?';
    }
}

bool api_error_set(ApiError *e, const char *param, const char *format, ...)
{
    char text[sizeof e->err.text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    *e = (ApiError){.status = 400, .type = "invalid_request_error"};
    snprintf(e->param, sizeof e->param, "%s", param);
    err_set(&e->err, "%s", text);
    clean(e->param);
    clean(e->err.text);
    return false;
}

bool api_expected(ApiError *e, const char *param, const char *what)
{
    return api_error_set(e, param, "\"%s\": %s was expected", param, what);
}

ApiPath api_path(const char *format, ...)
{
    ApiPath path;
    va_list args;
    va_start(args, format);
    vsnprintf(path.s, sizeof path.s, format, args);
    va_end(args);
    return path;
}

/* An error whose message begins with the name of the field, in quotes or not. */
static bool named_error(ApiError *e, const Err *err)
{
    char name[sizeof e->param];
    const char *at = err->text + (err->text[0] == '"');
    snprintf(name, sizeof name, "%.*s", (int)strspn(at, "abcdefghijklmnopqrstuvwxyz_"), at);
    return api_error_set(e, name, "%s", err->text);
}

static bool missing(ApiError *e, const char *name, const char *what)
{
    api_error_set(e, name, "\"%s\" is missing: %s", name, what);
    e->code = "missing_required_parameter";
    return false;
}

/* ---- single fields ----------------------------------------------------------------------------------------------- */

json_t *api_get(const json_t *object, const char *key)
{
    json_t *v = json_object_get(object, key);
    return json_is_null(v) ? NULL : v;
}

static bool get_bool(const json_t *o, const char *key, bool dflt, bool *out, ApiError *e)
{
    Err err;
    return json_get_bool(o, key, dflt, out, &err) || named_error(e, &err);
}

static bool get_int(const json_t *o, const char *key, int64_t lo, int64_t hi, int64_t dflt, int *out, ApiError *e)
{
    Err err;
    int64_t value;
    if (!json_get_int(o, key, lo, hi, dflt, &value, &err))
        return named_error(e, &err);
    *out = (int)value;
    return true;
}

/* A string, or `dflt`; with `needed`, not an empty one. */
static bool get_text(const json_t *o, const char *key, const char *dflt, bool needed, const char **out, ApiError *e)
{
    Err err;
    if (!json_get_str(o, key, dflt, out, &err))
        return named_error(e, &err);
    return !needed || !*out || **out || api_error_set(e, key, "\"%s\" is empty: leave it out", key);
}

static bool get_object(const json_t *o, const char *key, ApiError *e)
{
    const json_t *v = api_get(o, key);
    return !v || json_is_object(v) || api_expected(e, key, "an object {...}");
}

/* ---- fields of all kinds ----------------------------------------------------------------------------------------- */

static bool read_model(ApiRequest *r, const ApiModel *m, ApiError *e)
{
    const char *name;
    if (!get_text(r->body, "model", m->names[0], false, &name, e))
        return false;
    for (int i = 0; m->names[i]; i++)
        if (!strcmp(m->names[i], name)) {
            r->model = m->names[i];
            return true;
        }
    api_error_set(e, "model", "the model \"%.200s\" does not exist; this server has \"%s\"", name, m->names[0]);
    e->status = 404;
    e->code = "model_not_found";
    return false;
}

static bool read_request_id(ApiRequest *r, ApiError *e)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    if (!get_text(r->body, "request_id", NULL, true, &r->request_id, e))
        return false;
    size_t n = r->request_id ? strlen(r->request_id) : 0;
    return (n <= 64 && (!n || strspn(r->request_id, letters) == n)) ||
           api_expected(e, "request_id", "at most 64 letters, digits, '-', '_' and '.'");
}

static bool read_queueing(ApiRequest *r, ApiError *e)
{
    const char *salt;
    if (!get_int(r->body, "priority", INT32_MIN, INT32_MAX, 0, &r->priority, e) ||
        !get_text(r->body, "cache_salt", NULL, true, &salt, e))
        return false;
    uint64_t hash = salt ? hash_str(HASH_SEED, salt) : 0;
    r->salt = salt && !hash ? 1 : hash;
    return true;
}

static bool read_truncate(ApiRequest *r, const ApiModel *m, ApiError *e)
{
    static const char key[] = "truncate_prompt_tokens";
    Err err;
    if (!json_get_int(r->body, key, -1, m->max_model_len, INT64_MIN, &r->truncate, &err))
        return named_error(e, &err);
    if (r->truncate == 0)
        return api_error_set(e, key, "\"%s\" is 0, which leaves no prompt; -1 or 1 and more are allowed", key);
    r->truncate = r->truncate == INT64_MIN ? -1 : r->truncate == -1 ? -2 : r->truncate;
    return true;
}

/* ---- prompts ----------------------------------------------------------------------------------------------------- */

static bool read_ids(const json_t *list, const char *path, const ApiModel *m, TokenIds *out, ApiError *e)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *id = json_array_get(list, i);
        if (json_is_integer(id) && json_integer_value(id) >= 0 && json_integer_value(id) < m->vocab) {
            vec_push(out, (uint32_t)json_integer_value(id));
            continue;
        }
        ApiPath at = api_path("%s[%zu]", path, i);
        return api_error_set(e, at.s, "\"%s\": a token id from 0 to %" PRId64 " was expected", at.s, m->vocab - 1);
    }
    return true;
}

static bool add_prompt(ApiRequest *r, const json_t *v, const char *path, const ApiModel *m, ApiError *e)
{
    ApiPrompt p = {.text = json_string_value(v), .text_len = json_string_length(v)};
    if (!p.text && !json_array_size(v))
        return api_expected(e, path, "a text or a list of token ids, not an empty one,");
    vec_push(&r->prompts, p);
    return p.text || read_ids(v, path, m, &r->prompts.at[r->prompts.len - 1].ids, e);
}

/* A text, a list of token ids, or a list of these. */
static bool read_prompts(ApiRequest *r, const char *key, const ApiModel *m, ApiError *e)
{
    const json_t *v = api_get(r->body, key);
    if (!v)
        return missing(e, key, "a text, a list of token ids, or a list of these was expected");
    if (!json_is_array(v) || json_is_number(json_array_get(v, 0)))
        return add_prompt(r, v, key, m, e);
    size_t n = json_array_size(v);
    if (n < 1 || n > API_MAX_PROMPTS)
        return api_error_set(e, key, "\"%s\": a list of 1 to %d was expected", key, API_MAX_PROMPTS);
    for (size_t i = 0; i < n; i++)
        if (!add_prompt(r, json_array_get(v, i), api_path("%s[%zu]", key, i).s, m, e))
            return false;
    return true;
}

/* ---- sampling ---------------------------------------------------------------------------------------------------- */

/* Log-probabilities of chats: a bool, and how many others beside the chosen one. -1: none. */
static bool read_chat_logprobs(const json_t *body, int *out, ApiError *e)
{
    bool wanted;
    if (!get_bool(body, "logprobs", false, &wanted, e) ||
        !get_int(body, "top_logprobs", 0, SAMPLING_MAX_LOGPROBS, 0, out, e))
        return false;
    if (*out && !wanted)
        return api_error_set(e, "top_logprobs", "\"top_logprobs\" needs \"logprobs\": true");
    if (!wanted)
        *out = -1;
    return true;
}

static bool read_params(ApiRequest *r, const ApiModel *m, ApiError *e)
{
    Err err;
    int logprobs = -1;
    json_t *body = json_copy(r->body);
    bool ok = true, chat = r->kind == API_CHAT;
    if (chat) {
        ok = read_chat_logprobs(body, &logprobs, e);
        json_object_del(body, "logprobs");
    }
    if (ok && !request_params_read(body, m->tokenizer, &r->params, &err))
        ok = named_error(e, &err);
    if (ok && chat)
        r->params.params.logprobs = logprobs;
    json_decref(body);
    return ok;
}

static bool check_params(const ApiRequest *r, const ApiModel *m, ApiError *e)
{
    SamplingParams p = r->params.params; /* shares the lists */
    Err err;
    if (api_get(r->body, "top_p") && p.top_p <= 0)
        return api_error_set(e, "top_p", "\"top_p\" is 0, a number above 0 and up to 1 was expected");
    if (p.max_tokens < 0)
        p.max_tokens = m->max_model_len;
    return sampling_check(&p, m->vocab, &err) || named_error(e, &err);
}

static bool check_stops(const StopStrings *stops, ApiError *e)
{
    if (stops->len > API_MAX_STOPS)
        return api_error_set(e, "stop", "\"stop\" has %zu strings, at most %d are allowed", stops->len, API_MAX_STOPS);
    for (size_t i = 0; i < stops->len; i++)
        if (!*stops->at[i] || strlen(stops->at[i]) > API_MAX_STOP_BYTES)
            return api_error_set(e, "stop", "\"stop\": strings of 1 to %d bytes are allowed", API_MAX_STOP_BYTES);
    return true;
}

static bool read_seed(ApiRequest *r, ApiError *e)
{
    r->has_seed = api_get(r->body, "seed");
    if (r->has_seed || getrandom(&r->params.params.seed, sizeof r->params.params.seed, 0) > 0)
        return true;
    api_error_set(e, "seed", "there is no randomness to take a seed from; give one");
    e->status = 500;
    e->type = "server_error";
    return false;
}

/* No new token at all is a wish that needs something else to answer with. */
static bool check_max_tokens(const ApiRequest *r, ApiError *e)
{
    const char *key = api_get(r->body, "max_completion_tokens") ? "max_completion_tokens" : "max_tokens";
    if (r->params.params.max_tokens || (r->kind == API_COMPLETION && (r->echo || r->prompt_logprobs >= 0)))
        return true;
    return api_error_set(e, key, "\"%s\" is 0, 1 or more is allowed%s", key,
                         r->kind == API_COMPLETION ? " unless echo or prompt_logprobs ask for the prompt" : "");
}

static bool read_sampling(ApiRequest *r, const ApiModel *m, ApiError *e)
{
    r->params.params = sampling_copy(&m->defaults);
    r->params.params.max_tokens = r->kind == API_CHAT ? -1 : 16;
    return read_params(r, m, e) && check_params(r, m, e) && check_stops(&r->params.stops, e) && read_seed(r, e);
}

/* ---- what chats and completions share ---------------------------------------------------------------------------- */

static bool read_choices(ApiRequest *r, ApiError *e)
{
    int best_of;
    if (!get_int(r->body, "n", 1, API_MAX_CHOICES, 1, &r->n, e) ||
        !get_int(r->body, "best_of", 1, API_MAX_CHOICES, r->n, &best_of, e))
        return false;
    if (best_of != r->n)
        return api_error_set(e, "best_of", "\"best_of\": choosing among %d is not supported; leave it out, or make it "
                             "equal to n", best_of);
    return (int64_t)r->n * (int64_t)r->prompts.len <= API_MAX_PROMPTS ||
           api_error_set(e, "n", "n times the number of prompts is beyond %d", API_MAX_PROMPTS);
}

static bool read_stream(ApiRequest *r, ApiError *e)
{
    static const char *const known[] = {"include_usage", "continuous_usage_stats", "include_obfuscation"};
    const json_t *options = api_get(r->body, "stream_options");
    bool *const out[] = {&r->include_usage, &r->continuous_usage, &(bool){false}};
    const char *key;
    json_t *value;
    if (!get_bool(r->body, "stream", false, &r->stream, e) || !get_object(r->body, "stream_options", e))
        return false;
    if (options && !r->stream)
        return api_error_set(e, "stream_options", "\"stream_options\" needs \"stream\": true");
    json_object_foreach((json_t *)options, key, value) {
        ApiPath path = api_path("stream_options.%s", key);
        size_t i = 0;
        while (i < COUNT(known) && strcmp(known[i], key) != 0)
            i++;
        if (i == COUNT(known))
            return api_error_set(e, path.s, "unknown field \"%s\"", path.s);
        if (!json_is_boolean(value) && !json_is_null(value))
            return api_expected(e, path.s, "true or false");
        *out[i] = json_is_true(value);
    }
    return true;
}

static bool read_prompt_logprobs(ApiRequest *r, ApiError *e)
{
    if (!get_int(r->body, "prompt_logprobs", 0, SAMPLING_MAX_LOGPROBS, -1, &r->prompt_logprobs, e))
        return false;
    bool echoed = r->kind == API_COMPLETION && r->echo && r->params.params.logprobs >= 0;
    if (r->stream && (r->prompt_logprobs >= 0 || echoed)) {
        const char *key = r->prompt_logprobs >= 0 ? "prompt_logprobs" : "logprobs";
        return api_error_set(e, key, "\"%s\" of the prompt are not available with \"stream\": true", key);
    }
    if (echoed)
        r->prompt_logprobs = MAX(r->prompt_logprobs, r->params.params.logprobs);
    return true;
}

static bool read_output(ApiRequest *r, ApiError *e)
{
    bool skip;
    if (!get_bool(r->body, "echo", false, &r->echo, e) ||
        !get_bool(r->body, "include_stop_str_in_output", false, &r->include_stop, e) ||
        !get_bool(r->body, "skip_special_tokens", true, &skip, e) ||
        !get_bool(r->body, "return_token_ids", false, &r->return_token_ids, e) ||
        !get_bool(r->body, "return_tokens_as_token_ids", false, &r->tokens_as_ids, e))
        return false;
    r->keep_special = !skip;
    return true;
}

static bool read_generation(ApiRequest *r, const ApiModel *m, ApiError *e)
{
    return read_sampling(r, m, e) && read_choices(r, e) && read_stream(r, e) && read_output(r, e) &&
           read_prompt_logprobs(r, e) && check_max_tokens(r, e) && read_truncate(r, m, e);
}

/* ---- chat -------------------------------------------------------------------------------------------------------- */

/* reasoning_effort is a variable of templates, unless chat_template_kwargs has it. */
static bool read_kwargs(ApiRequest *r, ApiError *e)
{
    static const char *const efforts[] = {"none", "minimal", "low", "medium", "high", "xhigh", "max"};
    const char *effort;
    size_t i = 0;
    if (!get_object(r->body, "chat_template_kwargs", e) ||
        !get_text(r->body, "reasoning_effort", NULL, true, &effort, e))
        return false;
    if (!effort)
        return true;
    while (i < COUNT(efforts) && strcmp(efforts[i], effort) != 0)
        i++;
    if (i == COUNT(efforts))
        return api_expected(e, "reasoning_effort", "none, minimal, low, medium, high, xhigh or max");
    if (!api_get(r->body, "chat_template_kwargs"))
        json_object_set_new(r->body, "chat_template_kwargs", json_object());
    json_t *kwargs = json_object_get(r->body, "chat_template_kwargs");
    if (!json_object_get(kwargs, "reasoning_effort"))
        json_object_set(kwargs, "reasoning_effort", json_object_get(r->body, "reasoning_effort"));
    return true;
}

static bool read_documents(const json_t *body, ApiError *e)
{
    const json_t *list = api_get(body, "documents");
    if (list && !json_is_array(list))
        return api_expected(e, "documents", "a list of objects");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!json_is_object(json_array_get(list, i)))
            return api_expected(e, api_path("documents[%zu]", i).s, "an object {...}");
    return true;
}

/* How the prompt ends: with the header of an answer, or inside the last message. */
static bool read_ending(ApiRequest *r, bool echo, ApiError *e)
{
    bool begin, resume;
    if (!get_bool(r->body, "continue_final_message", false, &resume, e) ||
        !get_bool(r->body, "add_generation_prompt", !resume, &begin, e))
        return false;
    if (begin && resume)
        return api_error_set(e, "continue_final_message", "\"continue_final_message\" and \"add_generation_prompt\" "
                             "exclude each other");
    json_object_set_new(r->body, "add_generation_prompt", json_boolean(begin));
    const json_t *messages = json_object_get(r->body, "messages");
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const json_t *text = json_object_get(last, "content");
    if (resume && !json_is_string(text))
        return api_error_set(e, "continue_final_message", "\"continue_final_message\": the last message has no content "
                             "to continue");
    r->echo_text = resume && echo ? json_string_value(text) : NULL;
    return true;
}

/* Messages and all that goes into the chat template. */
static bool read_conversation(ApiRequest *r, const ApiModel *m, ApiError *e)
{
    if (!m->has_template)
        return api_error_set(e, "messages", "this model has no chat template, so it knows no messages; use a plain "
                             "prompt (/v1/completions), or start the server with --chat-template");
    if (!api_get(r->body, "messages"))
        return missing(e, "messages", "a list of messages was expected");
    return api_messages_read(r->body, e) && api_tools_read(r->body, &r->tools, e) && read_documents(r->body, e) &&
           read_kwargs(r, e) && read_ending(r, r->echo, e) &&
           get_bool(r->body, "add_special_tokens", false, &r->add_special, e);
}

static bool read_chat(ApiRequest *r, const ApiModel *m, ApiError *e)
{
    return read_generation(r, m, e) && read_conversation(r, m, e) &&
           get_bool(r->body, "include_reasoning", true, &r->include_reasoning, e) &&
           get_bool(r->body, "parallel_tool_calls", true, &r->parallel_calls, e);
}

/* ---- the other kinds --------------------------------------------------------------------------------------------- */

static bool read_completion(ApiRequest *r, const ApiModel *m, ApiError *e)
{
    return read_prompts(r, "prompt", m, e) && read_generation(r, m, e) &&
           get_bool(r->body, "add_special_tokens", true, &r->add_special, e);
}

static bool read_embedding(ApiRequest *r, const ApiModel *m, ApiError *e)
{
    const char *format, *pooling;
    Err err;
    if (!read_prompts(r, "input", m, e) || !read_truncate(r, m, e) ||
        !get_bool(r->body, "add_special_tokens", true, &r->add_special, e) ||
        !get_text(r->body, "encoding_format", "float", false, &format, e) ||
        !get_text(r->body, "pooling", "", false, &pooling, e))
        return false;
    if (!json_get_int(r->body, "dimensions", 1, 1 << 20, 0, &r->dimensions, &err))
        return named_error(e, &err);
    r->base64 = !strcmp(format, "base64");
    if (!r->base64 && strcmp(format, "float") != 0)
        return api_expected(e, "encoding_format", "\"float\" or \"base64\"");
    if (api_get(r->body, "pooling") && strcmp(pooling, "last") != 0 && strcmp(pooling, "mean") != 0)
        return api_expected(e, "pooling", "\"last\" or \"mean\"");
    r->pooling = *pooling == 'l' ? POOLING_LAST : *pooling == 'm' ? POOLING_MEAN : POOLING_NONE;
    return true;
}

static bool read_tokenize(ApiRequest *r, const ApiModel *m, ApiError *e)
{
    const json_t *prompt = api_get(r->body, "prompt");
    if (!get_bool(r->body, "return_token_strs", false, &r->return_strings, e))
        return false;
    if (api_get(r->body, "messages") && prompt)
        return api_error_set(e, "prompt", "\"prompt\" and \"messages\" exclude each other");
    if (api_get(r->body, "messages"))
        return read_conversation(r, m, e);
    if (!prompt)
        return missing(e, "prompt", "a text was expected, or \"messages\"");
    if (!json_is_string(prompt))
        return api_expected(e, "prompt", "a text");
    return add_prompt(r, prompt, "prompt", m, e) && get_bool(r->body, "add_special_tokens", true, &r->add_special, e);
}

static bool read_detokenize(ApiRequest *r, const ApiModel *m, ApiError *e)
{
    bool skip;
    const json_t *ids = api_get(r->body, "tokens");
    if (!json_is_array(ids))
        return ids ? api_expected(e, "tokens", "a list of token ids") :
                     missing(e, "tokens", "a list of token ids was expected");
    if (!get_bool(r->body, "skip_special_tokens", false, &skip, e))
        return false;
    r->keep_special = !skip;
    vec_push(&r->prompts, (ApiPrompt){0});
    return read_ids(ids, "tokens", m, &r->prompts.at[0].ids, e);
}

/* ---- the door ---------------------------------------------------------------------------------------------------- */

static bool parse_body(ApiRequest *r, const char *text, size_t len, ApiError *e)
{
    Err err;
    size_t room = API_MAX_VALUES;
    if (!len)
        return api_error_set(e, "", "the body is empty: a JSON object {...} was expected");
    r->body = api_json_parse(text, len, true, &room, &err);
    if (!r->body)
        return api_error_set(e, "", "the body: %s", err.text);
    return json_is_object(r->body) || api_error_set(e, "", "the body: a JSON object {...} was expected");
}

static bool read_all(ApiRequest *r, const char *text, size_t len, const ApiModel *m, ApiError *e)
{
    static bool (*const readers[])(ApiRequest *, const ApiModel *, ApiError *) = {
        [API_CHAT] = read_chat,         [API_COMPLETION] = read_completion, [API_EMBEDDING] = read_embedding,
        [API_TOKENIZE] = read_tokenize, [API_DETOKENIZE] = read_detokenize,
    };
    return parse_body(r, text, len, e) && api_fields_check(r->kind, r->body, e) && read_model(r, m, e) &&
           read_request_id(r, e) && read_queueing(r, e) && readers[r->kind](r, m, e);
}

bool api_request_read(ApiKind kind, const char *text, size_t len, const ApiModel *m, ApiRequest *out, ApiError *error)
{
    *out = (ApiRequest){.kind = kind, .n = 1, .prompt_logprobs = -1, .truncate = -1, .parallel_calls = true};
    out->params.params = sampling_defaults();
    out->params.params.max_tokens = 0; /* of kinds that generate nothing */
    if (read_all(out, text, len, m, error))
        return true;
    api_request_free(out);
    return false;
}

void api_request_free(ApiRequest *r)
{
    for (size_t i = 0; i < r->prompts.len; i++)
        vec_free(&r->prompts.at[i].ids);
    vec_free(&r->prompts);
    request_params_free(&r->params);
    json_decref(r->body);
    *r = (ApiRequest){0};
}
