/* Bodies of API requests: any bytes to the reader of each kind; what is accepted must be in range in every number, what
 * is refused must say so in valid text. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(condition) do { if (!(condition)) abort(); } while (0)

enum { VOCAB = 300, CONTEXT = 4096 };

static const char *const names[] = {"model", "other", NULL};
static ApiModel model = {.names = names, .vocab = VOCAB, .max_model_len = CONTEXT, .has_template = true};

static void make_model(void)
{
    static const char json[] = "{\"model\":{\"type\":\"BPE\",\"merges\":[\"a b\"],\"vocab\":{\"a\":0,\"b\":1,"
                               "\"\\u0120\":2,\"ab\":3}},\"pre_tokenizer\":{\"type\":\"ByteLevel\"},"
                               "\"decoder\":{\"type\":\"ByteLevel\"}}";
    Err err;
    model.tokenizer = tok_parse(json, sizeof json - 1, NULL, 0, &err);
    model.defaults = sampling_defaults();
    REQUIRE(model.tokenizer);
}

static void check_text(const char *s)
{
    json_t *value = json_string(s); /* NULL when it is not UTF-8 */
    REQUIRE(value);
    json_decref(value);
}

static void check_error(const ApiError *e)
{
    REQUIRE(e->status == 400 || e->status == 404);
    REQUIRE(e->type && *e->err.text);
    check_text(e->param);
    check_text(e->err.text);
}

static void check_prompts(const ApiRequest *r)
{
    REQUIRE(r->prompts.len <= API_MAX_PROMPTS);
    for (size_t i = 0; i < r->prompts.len; i++) {
        const ApiPrompt *p = &r->prompts.at[i];
        REQUIRE(p->text ? strlen(p->text) == p->text_len && !p->ids.len : p->ids.len || r->kind == API_DETOKENIZE);
        for (size_t k = 0; k < p->ids.len; k++)
            REQUIRE(p->ids.at[k] < VOCAB);
    }
    bool chat = r->kind == API_CHAT || (r->kind == API_TOKENIZE && json_object_get(r->body, "messages"));
    REQUIRE(chat ? r->prompts.len == 0 : r->prompts.len >= 1);
}

static void check_sampling(const ApiRequest *r)
{
    SamplingParams p = r->params.params;
    Err err;
    REQUIRE(p.max_tokens >= 0 || (p.max_tokens == -1 && r->kind == API_CHAT));
    if (p.max_tokens < 0)
        p.max_tokens = CONTEXT;
    REQUIRE(sampling_check(&p, VOCAB, &err));
    REQUIRE(p.top_p > 0 && p.top_p <= 1 && isfinite(p.temperature));
    REQUIRE(r->params.stops.len <= API_MAX_STOPS);
    for (size_t i = 0; i < r->params.stops.len; i++)
        REQUIRE(*r->params.stops.at[i] && strlen(r->params.stops.at[i]) <= API_MAX_STOP_BYTES);
    bool generates = r->kind == API_CHAT || r->kind == API_COMPLETION;
    REQUIRE(generates ? p.max_tokens || r->echo || r->prompt_logprobs >= 0 : !p.max_tokens);
}

/* What the chat template relies on. */
static void check_messages(const ApiRequest *r)
{
    const json_t *messages = json_object_get(r->body, "messages");
    if (!messages)
        return;
    REQUIRE(json_array_size(messages) >= 1 && json_is_boolean(json_object_get(r->body, "add_generation_prompt")));
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *m = json_array_get(messages, i), *content = json_object_get(m, "content");
        const json_t *calls = json_object_get(m, "tool_calls"), *function;
        REQUIRE(json_is_string(json_object_get(m, "role")));
        REQUIRE(!content || json_is_null(content) || json_is_string(content));
        REQUIRE(!calls || json_is_null(calls) || json_array_size(calls));
        for (size_t k = 0; k < json_array_size(calls); k++) {
            function = json_object_get(json_array_get(calls, k), "function");
            REQUIRE(json_is_object(json_object_get(function, "arguments")));
        }
    }
    REQUIRE(r->tools == (json_array_size(json_object_get(r->body, "tools")) > 0));
}

static void check_request(const ApiRequest *r)
{
    REQUIRE(json_is_object(r->body) && (r->model == names[0] || r->model == names[1]));
    REQUIRE(r->n >= 1 && r->n <= API_MAX_CHOICES && r->n * r->prompts.len <= API_MAX_PROMPTS);
    REQUIRE(r->prompt_logprobs >= -1 && r->prompt_logprobs <= SAMPLING_MAX_LOGPROBS);
    REQUIRE(r->truncate == -1 || r->truncate == -2 || (r->truncate >= 1 && r->truncate <= CONTEXT));
    REQUIRE(r->dimensions >= 0 && r->dimensions <= 1 << 20);
    REQUIRE(!r->stream || r->prompt_logprobs < 0);
    REQUIRE(r->stream || !(r->include_usage || r->continuous_usage));
    REQUIRE(!r->request_id || (*r->request_id && strlen(r->request_id) <= 64));
    check_prompts(r);
    check_sampling(r);
    check_messages(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!model.tokenizer)
        make_model();
    for (int kind = API_CHAT; kind <= API_DETOKENIZE; kind++) {
        ApiRequest r;
        ApiError e;
        if (!api_request_read((ApiKind)kind, (const char *)data, size, &model, &r, &e)) {
            check_error(&e);
            continue;
        }
        check_request(&r);
        api_request_free(&r);
    }
    return 0;
}
