/* The API between an HTTP server and a service that are both played by the test: what is asked of the service, what is
 * answered, byte by byte where it is a stream; and who may end what, from several threads at once. */
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api.h"
#include "log.h"
#include "test.h"

/* ---- the HTTP server, as far as the API sees it ------------------------------------------------------------------ */

struct HttpExchange {
    const char *body, *path;
    pthread_mutex_t lock;
    Buf out, headers; /* headers: "Name: value\n" each */
    int status;
    bool streamed;
    int ended;        /* how often */
    void (*on_close)(void *context);
    void *context;
    bool closed;
};

const char *http_id(const HttpExchange *x)
{
    (void)x;
    return "7";
}

const char *http_path(const HttpExchange *x)
{
    return x->path;
}

const char *http_query(const HttpExchange *x, const char *name)
{
    (void)x;
    (void)name;
    return NULL;
}

const char *http_body(const HttpExchange *x, size_t *len)
{
    *len = strlen(x->body);
    return x->body;
}

void http_set_header(HttpExchange *x, const char *name, const char *value)
{
    buf_printf(&x->headers, "%s: %s\n", name, value);
}

static void end_exchange(HttpExchange *x)
{
    pthread_mutex_lock(&x->lock);
    x->ended++;
    pthread_mutex_unlock(&x->lock);
}

void http_reply(HttpExchange *x, int status, const char *content_type, const char *body, size_t len)
{
    assert_int_equal(x->status, 0);
    assert_true(len > 0 && *content_type);
    x->status = status;
    buf_put(&x->out, body, len);
    end_exchange(x);
}

void http_stream_begin(HttpExchange *x, int status, const char *content_type)
{
    assert_int_equal(x->status, 0);
    assert_string_equal(content_type, "text/event-stream; charset=utf-8");
    x->status = status;
    x->streamed = true;
}

void http_stream_write(HttpExchange *x, const void *bytes, size_t len)
{
    assert_true(x->streamed && !x->ended);
    buf_put(&x->out, bytes, len);
}

void http_stream_end(HttpExchange *x)
{
    end_exchange(x);
}

void http_on_close(HttpExchange *x, void (*fn)(void *context), void *context)
{
    pthread_mutex_lock(&x->lock);
    x->on_close = fn;
    x->context = context;
    bool closed = x->closed;
    pthread_mutex_unlock(&x->lock);
    if (closed)
        fn(context);
}

/* The client goes away: on_close is called, unless the exchange has ended, and is through before anyone can end it. */
static void close_exchange(HttpExchange *x)
{
    pthread_mutex_lock(&x->lock);
    x->closed = true;
    if (!x->ended && x->on_close)
        x->on_close(x->context);
    pthread_mutex_unlock(&x->lock);
}

static HttpExchange exchange(const char *body)
{
    HttpExchange x = {.body = body, .path = "/"};
    pthread_mutex_init(&x.lock, NULL);
    return x;
}

static void drop(HttpExchange *x)
{
    pthread_mutex_destroy(&x->lock);
    buf_free(&x->out);
    buf_free(&x->headers);
}

/* ---- the service, likewise --------------------------------------------------------------------------------------- */

typedef struct Submitted {
    CompletionRequest request; /* pointers in it are not valid, but for the sink */
    SamplingParams sampling;
    uint32_t prompt[64];
    char stop[16];
} Submitted;

static Submitted submitted[16];
static atomic_int submitted_count, cancelled[16];
static SubmitResult results[16]; /* of the i-th submission */
static const char *failure;
static void (*during_submit)(int i); /* called inside service_submit */

SubmitResult service_submit(Service *s, const CompletionRequest *r, uint64_t *id, Err *err)
{
    (void)s;
    int i = atomic_load(&submitted_count);
    if (results[i] != SUBMIT_OK) {
        err_set(err, "refused");
        return results[i];
    }
    submitted[i] = (Submitted){.request = *r, .sampling = *r->sampling};
    memcpy(submitted[i].prompt, r->prompt, MIN((size_t)r->prompt_len, COUNT(submitted->prompt)) * sizeof *r->prompt);
    if (r->stops_count)
        snprintf(submitted[i].stop, sizeof submitted[i].stop, "%s", r->stops[0]);
    *id = (uint64_t)i;
    atomic_fetch_add(&submitted_count, 1);
    if (during_submit)
        during_submit(i);
    return SUBMIT_OK;
}

void service_cancel(Service *s, uint64_t id)
{
    (void)s;
    atomic_fetch_add(&cancelled[id], 1);
}

const char *service_failure(const Service *s)
{
    (void)s;
    return failure;
}

int service_retry_after(const Service *s)
{
    (void)s;
    return 7;
}

/* One delta with one token, whose log-probability is -0.5 and whose rival is token 1 with -1. */
static void say(int i, int choice, const char *text, uint32_t token)
{
    TopLogprob top[2] = {{token, -0.5f}, {1, -1}};
    int wanted = submitted[i].sampling.logprobs;
    CompletionToken t = {token, -0.5f, MIN(MAX(wanted, 0), 2), top};
    CompletionDelta d = {choice, text, strlen(text), &t, 1};
    submitted[i].request.sink.delta(submitted[i].request.sink.context, &d);
}

static void finish(int i, CompletionEnd end)
{
    end.prompt_tokens = submitted[i].request.prompt_len;
    end.last = end.last || submitted[i].request.choices == 1;
    submitted[i].request.sink.finish(submitted[i].request.sink.context, &end);
}

static const CompletionEnd stopped = {.reason = COMPLETION_STOP, .stop_token = -1, .completion_tokens = 2};

/* ---- a model ----------------------------------------------------------------------------------------------------- */

/* Byte-level: "a".."d", the two bytes of an e with accent, a special token. */
static const char tokenizer_json[] =
    "{\"model\":{\"type\":\"BPE\",\"merges\":[],"
    "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"d\":3,\"\\u00c3\":4,\"\\u00a9\":5}},"
    "\"decoder\":{\"type\":\"ByteLevel\"},"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},"
    "\"added_tokens\":[{\"id\":6,\"content\":\"<s>\",\"special\":true}]}";

static const char chat_template[] =
    "{% if tools %}d{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}c{% endif %}{% if think %}<think>\n{% endif %}";

static const char *const names[] = {"toy", "other", NULL};
static Tokenizer *tokenizer;
static ChatTemplate *chat;
static Api *api;

static void write_file(const char *path, const char *text)
{
    Err err;
    if (!file_write_atomic(path, text, strlen(text), &err))
        fail_msg("%s", err.text);
}

static int set_up(void **state)
{
    (void)state;
    Err err;
    char folder[] = "/tmp/blade-test-XXXXXX", path[64];
    tokenizer = tok_parse(tokenizer_json, sizeof tokenizer_json - 1, NULL, 0, &err);
    assert_non_null(tokenizer);
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/t", folder);
    write_file(path, chat_template);
    if (!chat_load_file(&chat, folder, path, &err))
        fail_msg("%s", err.text);
    unlink(path);
    rmdir(folder);
    log_setup(LOG_ERROR, false);
    api = api_new(&(ApiOptions){
        .model = {names, tokenizer, sampling_defaults(), 7, 32, true},
        .chat = chat,
        .tools = REPLY_HERMES,
        .reasoning = true,
        .pooling = POOLING_MEAN,
        .root = "folder",
        .fingerprint = "fp",
    });
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    api_free(api);
    chat_free(chat);
    tok_free(tokenizer);
    return 0;
}

static int reset(void **state)
{
    (void)state;
    atomic_store(&submitted_count, 0);
    memset(results, 0, sizeof results);
    for (size_t i = 0; i < COUNT(cancelled); i++)
        atomic_store(&cancelled[i], 0);
    failure = NULL;
    during_submit = NULL;
    return 0;
}

/* ---- asking ------------------------------------------------------------------------------------------------------ */

static void ask(HttpExchange *x, const char *method, const char *path)
{
    const HttpRoute *r = api_routes;
    while (r->method && (strcmp(r->method, method) != 0 || strcmp(r->path, path) != 0))
        r++;
    assert_non_null(r->method);
    r->handle(api, x);
}

/* The JSON of the answer, which must have ended once; a value at a path of keys and indices: "choices.0.text". */
static json_t *answer(const HttpExchange *x, int status)
{
    json_error_t error;
    assert_int_equal(x->ended, 1);
    if (x->status != status)
        fail_msg("status %d: %s", x->status, x->out.data);
    json_t *value = json_loadb(x->out.data, x->out.len, JSON_REJECT_DUPLICATES, &error);
    if (!value)
        fail_msg("%s: %s", error.text, x->out.data);
    return value;
}

static const json_t *at(const json_t *value, const char *path)
{
    while (*path) {
        size_t n = strcspn(path, ".");
        char key[64];
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        value = json_is_array(value) ? json_array_get(value, (size_t)atoi(key)) : json_object_get(value, key);
        path += n + (path[n] == '.');
    }
    return value;
}

static void check_value(const json_t *value, const char *path, const char *expected)
{
    const json_t *got = at(value, path);
    char *text = got ? json_dumps(got, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(6)) : NULL;
    if (!text || strcmp(text, expected) != 0)
        fail_msg("%s is %s, not %s", path, text ? text : "missing", expected);
    free(text);
}

/* Whole answers for bodies that are refused. */
static void check_refused(const char *route, const char *body, int status, const char *param, const char *code)
{
    HttpExchange x = exchange(body);
    ask(&x, "POST", route);
    json_t *a = answer(&x, status);
    check_value(a, "error.param", param);
    check_value(a, "error.code", code);
    json_decref(a);
    drop(&x);
}

/* ---- whole answers ----------------------------------------------------------------------------------------------- */

static void completion(void **state)
{
    (void)state;
    HttpExchange x = exchange("{\"prompt\":\"ab\",\"max_tokens\":5,\"echo\":true,\"stop\":\"cc\",\"seed\":3,"
                              "\"return_token_ids\":true,\"cache_salt\":\"x\",\"priority\":-2}");
    ask(&x, "POST", "/v1/completions");
    assert_int_equal(submitted_count, 1);
    const CompletionRequest *r = &submitted[0].request;
    assert_true(r->prompt_len == 2 && submitted[0].prompt[1] == 1 && r->choices == 1 && r->priority == -2 && r->salt);
    assert_true(submitted[0].sampling.max_tokens == 5 && submitted[0].sampling.seed == 3);
    assert_string_equal(submitted[0].stop, "cc");
    say(0, 0, "c", 2);
    say(0, 0, "d\n", 3);
    finish(0, (CompletionEnd){.reason = COMPLETION_STOP, .stop_string = "cc", .stop_token = -1, .completion_tokens = 2,
                              .cached_tokens = 1});
    json_t *a = answer(&x, 200);
    check_value(a, "id", "\"cmpl-7\"");
    check_value(a, "object", "\"text_completion\"");
    check_value(a, "model", "\"toy\"");
    check_value(a, "system_fingerprint", "\"fp\"");
    check_value(a, "choices", "[{\"index\":0,\"text\":\"abcd\\n\",\"logprobs\":null,\"finish_reason\":\"stop\","
                              "\"stop_reason\":\"cc\",\"token_ids\":[2,3],\"prompt_token_ids\":[0,1]}]");
    check_value(a, "usage", "{\"prompt_tokens\":2,\"total_tokens\":4,\"completion_tokens\":2,"
                            "\"prompt_tokens_details\":{\"cached_tokens\":1}}");
    json_decref(a);
    drop(&x);
}

static void several_prompts_and_choices(void **state)
{
    (void)state;
    HttpExchange x = exchange("{\"prompt\":[\"a\",[1,2]],\"n\":2}");
    ask(&x, "POST", "/v1/completions");
    assert_int_equal(submitted_count, 2);
    assert_true(submitted[1].request.prompt_len == 2 && submitted[1].prompt[0] == 1);
    say(1, 1, "d", 3);
    say(0, 0, "a", 0);
    say(1, 0, "c", 2);
    say(0, 1, "b", 1);
    CompletionEnd end = {.reason = COMPLETION_LENGTH, .stop_token = -1, .completion_tokens = 1, .cached_tokens = 1};
    for (int i = 0; i < 2; i++)
        for (end.choice = 0; end.choice < 2; end.choice++) {
            assert_int_equal(x.ended, 0);
            end.last = end.choice == 1;
            finish(i, end);
        }
    json_t *a = answer(&x, 200);
    for (int i = 0; i < 4; i++) {
        char path[32], text[8];
        snprintf(path, sizeof path, "choices.%d.text", i);
        snprintf(text, sizeof text, "\"%c\"", 'a' + i);
        check_value(a, path, text);
    }
    check_value(a, "choices.3.finish_reason", "\"length\"");
    check_value(a, "usage.total_tokens", "7");
    check_value(a, "usage.prompt_tokens_details.cached_tokens", "2");
    json_decref(a);
    drop(&x);
}

/* Half a character: U+FFFD as text, its byte as bytes; texts that look alike make one key. */
static void logprobs(void **state)
{
    (void)state;
    HttpExchange x = exchange("{\"prompt\":\"a\",\"logprobs\":2}");
    ask(&x, "POST", "/v1/completions");
    say(0, 0, "", 4);
    say(0, 0, "\xC3\xA9", 5);
    say(0, 0, "", 6);
    say(0, 0, "b", 1);
    finish(0, stopped);
    json_t *a = answer(&x, 200);
    check_value(a, "choices.0.logprobs",
                "{\"text_offset\":[0,1,1,1],\"token_logprobs\":[-0.5,-0.5,-0.5,-0.5],"
                "\"tokens\":[\"\xEF\xBF\xBD\",\"\xEF\xBF\xBD\",\"<s>\",\"b\"],"
                "\"top_logprobs\":[{\"\xEF\xBF\xBD\":-0.5,\"b\":-1},{\"\xEF\xBF\xBD\":-0.5,\"b\":-1},"
                "{\"<s>\":-0.5,\"b\":-1},{\"b\":-0.5}]}");
    json_decref(a);
    drop(&x);

    x = exchange("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"logprobs\":true,\"top_logprobs\":1}");
    ask(&x, "POST", "/v1/chat/completions");
    say(1, 0, "\xC3\xA9", 4);
    finish(1, stopped);
    a = answer(&x, 200);
    check_value(a, "choices.0.logprobs.content",
                "[{\"token\":\"\xEF\xBF\xBD\",\"logprob\":-0.5,\"bytes\":[195],"
                "\"top_logprobs\":[{\"token\":\"\xEF\xBF\xBD\",\"logprob\":-0.5,\"bytes\":[195]}]}]");
    json_decref(a);
    drop(&x);
}

static void prompt_logprobs(void **state)
{
    (void)state;
    static const PromptToken prompt[] = {
        {.id = 0, .logprob = NAN},
        {.id = 1, .rank = 3, .logprob = -INFINITY, .top_count = 1, .top = {{2, -0.25f}}},
    };
    CompletionEnd end = {.reason = COMPLETION_LENGTH, .stop_token = -1, .prompt = prompt};
    HttpExchange x = exchange("{\"prompt\":\"ab\",\"echo\":true,\"logprobs\":1,\"prompt_logprobs\":1,"
                              "\"max_tokens\":0}");
    ask(&x, "POST", "/v1/completions");
    assert_int_equal(submitted[0].request.prompt_logprobs, 1);
    finish(0, end);
    json_t *a = answer(&x, 200);
    check_value(a, "choices.0.text", "\"ab\"");
    check_value(a, "choices.0.logprobs",
                "{\"text_offset\":[0,1],\"token_logprobs\":[null,-9999],\"tokens\":[\"a\",\"b\"],"
                "\"top_logprobs\":[null,{\"b\":-9999,\"c\":-0.25}]}");
    check_value(a, "choices.0.prompt_logprobs",
                "[null,{\"1\":{\"logprob\":-9999,\"rank\":3,\"decoded_token\":\"b\"},"
                "\"2\":{\"logprob\":-0.25,\"rank\":1,\"decoded_token\":\"c\"}}]");
    json_decref(a);
    drop(&x);
}

static void embeddings(void **state)
{
    (void)state;
    static const float vector[] = {3, 4, 12};
    CompletionEnd end = {.reason = COMPLETION_LENGTH, .stop_token = -1, .embedding = vector, .embedding_len = 3};
    HttpExchange x = exchange("{\"input\":[\"a\",\"ab\"],\"dimensions\":2}");
    ask(&x, "POST", "/v1/embeddings");
    assert_true(submitted[0].request.pooling == POOLING_MEAN && submitted[0].sampling.max_tokens == 0);
    finish(1, end);
    finish(0, end);
    json_t *a = answer(&x, 200);
    check_value(a, "data.1", "{\"object\":\"embedding\",\"index\":1,\"embedding\":[0.6,0.8]}");
    check_value(a, "usage", "{\"prompt_tokens\":3,\"total_tokens\":3}");
    json_decref(a);
    drop(&x);

    x = exchange("{\"input\":\"a\",\"encoding_format\":\"base64\",\"dimensions\":1,\"pooling\":\"last\"}");
    ask(&x, "POST", "/v1/embeddings");
    assert_int_equal(submitted[2].request.pooling, POOLING_LAST);
    finish(2, end);
    a = answer(&x, 200);
    check_value(a, "data.0.embedding", "\"AACAPw==\""); /* 1.0f */
    json_decref(a);
    drop(&x);

    x = exchange("{\"input\":\"a\",\"dimensions\":4}");
    ask(&x, "POST", "/v1/embeddings");
    finish(3, end);
    a = answer(&x, 400);
    check_value(a, "error.param", "\"dimensions\"");
    json_decref(a);
    drop(&x);
}

/* ---- chat -------------------------------------------------------------------------------------------------------- */

#define TOOLS "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\"}}}]"

/* What a model says, piece by piece: reasoning, content, two calls. */
static const char *const pieces[] = {
    "<think>hm", "</think>", "ok", "<tool_", "call>\n{\"name\": \"f\", \"arguments\": {\"x\":", " 1}}\n</tool_call>",
    "\n<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>",
};

static void say_pieces(int i)
{
    for (size_t k = 0; k < COUNT(pieces); k++)
        say(i, 0, pieces[k], 0);
    finish(i, stopped);
}

static void chat_whole(void **state)
{
    (void)state;
    HttpExchange x = exchange("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]," TOOLS "}");
    ask(&x, "POST", "/v1/chat/completions");
    assert_true(submitted[0].request.prompt_len == 3 && submitted[0].prompt[0] == 3 && submitted[0].prompt[2] == 2);
    assert_int_equal(submitted[0].sampling.max_tokens, 29); /* all the context has left */
    say_pieces(0);
    json_t *a = answer(&x, 200);
    check_value(a, "object", "\"chat.completion\"");
    check_value(a, "choices.0.finish_reason", "\"tool_calls\"");
    check_value(a, "choices.0.message.content", "\"ok\"");
    check_value(a, "choices.0.message.reasoning_content", "\"hm\"");
    check_value(a, "choices.0.message.tool_calls.0.function", "{\"name\":\"f\",\"arguments\":\"{\\\"x\\\": 1}\"}");
    check_value(a, "choices.0.message.tool_calls.1.function", "{\"name\":\"g\",\"arguments\":\"{}\"}");
    const char *ids[] = {json_string_value(at(a, "choices.0.message.tool_calls.0.id")),
                         json_string_value(at(a, "choices.0.message.tool_calls.1.id"))};
    assert_true(!strncmp(ids[0], "call_", 5) && strcmp(ids[0], ids[1]) != 0);
    json_decref(a);
    drop(&x);
}

/* The events of a stream: each a "data: " line and an empty one, the last one [DONE]. An array of the others. */
static json_t *events(const HttpExchange *x)
{
    assert_true(x->streamed && x->ended == 1);
    json_t *list = json_array();
    for (const char *p = x->out.data; *p;) {
        const char *end = strstr(p, "\n\n");
        assert_non_null(end);
        assert_memory_equal(p, "data: ", 6);
        assert_null(memchr(p, '\n', (size_t)(end - p)));
        json_t *event = json_loadb(p + 6, (size_t)(end - p) - 6, JSON_REJECT_DUPLICATES, NULL);
        if (event)
            json_array_append_new(list, event);
        else
            assert_string_equal(p, "data: [DONE]\n\n");
        p = end + 2;
    }
    assert_string_equal(x->out.data + x->out.len - 14, "data: [DONE]\n\n");
    return list;
}

static void chat_stream(void **state)
{
    (void)state;
    Buf content = {0}, reasoning = {0}, arguments[2] = {0};
    HttpExchange x = exchange("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"stream\":true,"
                              "\"stream_options\":{\"include_usage\":true}," TOOLS "}");
    ask(&x, "POST", "/v1/chat/completions");
    assert_false(x.streamed);
    say_pieces(0);
    json_t *list = events(&x);
    size_t n = json_array_size(list), calls = 0;
    check_value(list, "0.choices", "[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                                   "\"logprobs\":null,\"finish_reason\":null}]");
    for (size_t i = 0; i < n; i++) {
        const json_t *e = json_array_get(list, i), *delta = at(e, "choices.0.delta"), *call;
        check_value(e, "object", "\"chat.completion.chunk\"");
        assert_int_equal(json_is_null(at(e, "usage")), i + 1 < n);
        buf_puts(&content, json_is_string(at(delta, "content")) ? json_string_value(at(delta, "content")) : "");
        if (at(delta, "reasoning_content"))
            buf_puts(&reasoning, json_string_value(at(delta, "reasoning_content")));
        size_t k;
        json_array_foreach(at(delta, "tool_calls"), k, call) {
            size_t index = (size_t)json_integer_value(at(call, "index"));
            assert_int_equal(at(call, "id") != NULL, index == calls);
            assert_int_equal(at(call, "function.name") != NULL, index == calls);
            calls = MAX(calls, index + 1);
            buf_puts(&arguments[index], json_string_value(at(call, "function.arguments")));
        }
    }
    assert_string_equal(content.data, "ok");
    assert_string_equal(reasoning.data, "hm");
    assert_string_equal(arguments[0].data, "{\"x\": 1}");
    assert_string_equal(arguments[1].data, "{}");
    const json_t *last = json_array_get(list, n - 2);
    check_value(last, "choices.0.finish_reason", "\"tool_calls\"");
    check_value(json_array_get(list, n - 1), "choices", "[]");
    check_value(json_array_get(list, n - 1), "usage.total_tokens", "5");
    json_decref(list);
    buf_free(&content);
    buf_free(&reasoning);
    buf_free(&arguments[0]);
    buf_free(&arguments[1]);
    drop(&x);
}

/* The template has opened <think>; and without the wish to see it. */
static void reasoning_begun_by_the_template(void **state)
{
    (void)state;
    static const char *const bodies[] = {
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"chat_template_kwargs\":{\"think\":true}}",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"chat_template_kwargs\":{\"think\":true},"
        "\"include_reasoning\":false}",
    };
    for (int i = 0; i < 2; i++) {
        HttpExchange x = exchange(bodies[i]);
        ask(&x, "POST", "/v1/chat/completions");
        say(i, 0, "hm</think>ok", 0);
        finish(i, stopped);
        json_t *a = answer(&x, 200);
        check_value(a, "choices.0.message.content", "\"ok\"");
        assert_int_equal(at(a, "choices.0.message.reasoning_content") != NULL, i == 0);
        json_decref(a);
        drop(&x);
    }
}

/* ---- streams ----------------------------------------------------------------------------------------------------- */

static void completion_stream(void **state)
{
    (void)state;
    HttpExchange x = exchange("{\"prompt\":\"a\",\"stream\":true,\"logprobs\":0,\"echo\":false}");
    ask(&x, "POST", "/v1/completions");
    say(0, 0, "", 4); /* held back: no event of its own */
    assert_true(x.streamed && !x.out.len);
    say(0, 0, "\xC3\xA9", 5);
    finish(0, stopped);
    json_t *list = events(&x);
    assert_int_equal(json_array_size(list), 2);
    check_value(list, "0.choices.0.text", "\"\xC3\xA9\"");
    check_value(list, "0.choices.0.logprobs.text_offset", "[0,1]");
    check_value(list, "0.choices.0.finish_reason", "null");
    check_value(list, "1.choices", "[{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"stop\","
                                   "\"stop_reason\":null}]");
    assert_null(at(list, "1.usage"));
    assert_string_equal(x.headers.data, "Cache-Control: no-cache\nX-Accel-Buffering: no\n");
    json_decref(list);
    drop(&x);
}

static void usage_all_along(void **state)
{
    (void)state;
    HttpExchange x = exchange("{\"prompt\":\"ab\",\"stream\":true,\"echo\":true,"
                              "\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}}");
    ask(&x, "POST", "/v1/completions");
    say(0, 0, "c", 2);
    say(0, 0, "d", 3);
    finish(0, stopped);
    json_t *list = events(&x);
    check_value(list, "0.choices.0.text", "\"ab\"");
    check_value(list, "1.usage.completion_tokens", "1");
    check_value(list, "2.usage.completion_tokens", "2");
    check_value(list, "4.usage.completion_tokens", "2");
    json_decref(list);
    drop(&x);
}

/* ---- errors ------------------------------------------------------------------------------------------------------ */

static void refusals_of_the_service(void **state)
{
    (void)state;
    static const struct { SubmitResult result; int status; } cases[] = {
        {SUBMIT_INVALID, 400}, {SUBMIT_FULL, 429}, {SUBMIT_CLOSING, 503},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        results[0] = cases[i].result;
        HttpExchange x = exchange("{\"prompt\":\"a\",\"stream\":true}");
        ask(&x, "POST", "/v1/completions");
        json_t *a = answer(&x, cases[i].status);
        check_value(a, "error.message", "\"refused\"");
        assert_int_equal(x.headers.data != NULL, cases[i].status != 400);
        if (x.headers.data)
            assert_string_equal(x.headers.data, "Retry-After: 7\n");
        json_decref(a);
        drop(&x);
    }
}

/* What waits too long has a status of its own even when a stream was asked for; later errors are events. */
static void failures_before_and_in_a_stream(void **state)
{
    (void)state;
    static const CompletionEnd expired = {.reason = COMPLETION_EXPIRED, .stop_token = -1, .error = "too late"};
    static const CompletionEnd broken = {.reason = COMPLETION_ERROR, .stop_token = -1, .error = "NaN"};
    HttpExchange x = exchange("{\"prompt\":\"a\",\"stream\":true}");
    ask(&x, "POST", "/v1/completions");
    finish(0, expired);
    json_t *a = answer(&x, 503);
    check_value(a, "error.message", "\"too late\"");
    assert_string_equal(x.headers.data, "Retry-After: 7\n");
    json_decref(a);
    drop(&x);

    x = exchange("{\"prompt\":\"a\",\"stream\":true}");
    ask(&x, "POST", "/v1/completions");
    say(1, 0, "b", 1);
    finish(1, broken);
    a = events(&x);
    assert_int_equal(json_array_size(a), 2);
    check_value(a, "1.error", "{\"message\":\"NaN\",\"type\":\"server_error\",\"param\":null,\"code\":null}");
    json_decref(a);
    drop(&x);
}

/* The second of three prompts is refused: one answer, the first one is cancelled, the third never asked for. */
static void refused_half_way(void **state)
{
    (void)state;
    results[1] = SUBMIT_FULL;
    HttpExchange x = exchange("{\"prompt\":[\"a\",\"b\",\"c\"]}");
    ask(&x, "POST", "/v1/completions");
    assert_int_equal(submitted_count, 1);
    assert_int_equal(cancelled[0], 1);
    json_decref(answer(&x, 429));
    say(0, 0, "x", 0);
    finish(0, (CompletionEnd){.reason = COMPLETION_ABORT, .stop_token = -1});
    assert_int_equal(x.ended, 1);
    drop(&x);
}

static void context_length(void **state)
{
    (void)state;
    check_refused("/v1/completions", "{\"prompt\":\"aaaaaaaaaa\",\"max_tokens\":23}", 400, "\"prompt\"",
                  "\"context_length_exceeded\"");
    check_refused("/v1/completions", "{\"prompt\":\"\"}", 400, "\"prompt\"", "null");
    check_refused("/v1/completions", "{\"prompt\":\"a\",\"model\":\"x\"}", 404, "\"model\"", "\"model_not_found\"");
    check_refused("/v1/completions", "{\"prompt\":", 400, "null", "null");
    check_refused("/v1/chat/completions", "{\"messages\":[]}", 400, "\"messages\"", "null");
    Buf body = {0};
    buf_puts(&body, "{\"prompt\":\"");
    for (int i = 0; i < 4000; i++)
        buf_putc(&body, 'a');
    buf_puts(&body, "\"}");
    HttpExchange x = exchange(body.data);
    ask(&x, "POST", "/v1/completions");
    assert_non_null(strstr(x.out.data, "4000 bytes")); /* not even tokenized */
    json_decref(answer(&x, 400));
    drop(&x);
    buf_free(&body);
    assert_int_equal(submitted_count, 0);
    x = exchange("{\"prompt\":\"abcdabcd\",\"truncate_prompt_tokens\":3,\"max_tokens\":29}");
    ask(&x, "POST", "/v1/completions");
    assert_true(submitted[0].request.prompt_len == 3 && submitted[0].prompt[0] == 1);
    finish(0, stopped);
    assert_int_equal(x.status, 200);
    drop(&x);
}

/* ---- who goes away ----------------------------------------------------------------------------------------------- */

static HttpExchange *leaving;

static void leave(int i)
{
    if (i == 0)
        close_exchange(leaving);
}

/* The client goes before, during and after submitting: what was submitted is cancelled, the exchange is ended. */
static void clients_leave(void **state)
{
    (void)state;
    for (int when = 0; when < 3; when++) {
        reset(NULL);
        HttpExchange x = exchange("{\"prompt\":[\"a\",\"b\"],\"stream\":true}");
        leaving = &x;
        x.closed = when == 0;
        during_submit = when == 1 ? leave : NULL;
        ask(&x, "POST", "/v1/completions");
        if (when == 2)
            close_exchange(&x);
        int count = atomic_load(&submitted_count);
        assert_int_equal(count, when);
        for (int i = 0; i < count; i++) {
            assert_true(atomic_load(&cancelled[i]) > 0);
            say(i, 0, "late", 0);
            finish(i, (CompletionEnd){.reason = COMPLETION_ABORT, .stop_token = -1});
        }
        assert_int_equal(x.ended, 1);
        drop(&x);
    }
}

static void aborting_all(void **state)
{
    (void)state;
    HttpExchange x = exchange("{\"prompt\":\"a\",\"stream\":true}");
    ask(&x, "POST", "/v1/completions");
    say(0, 0, "b", 1);
    api_abort_all(api);
    assert_int_equal(cancelled[0], 1);
    finish(0, (CompletionEnd){.reason = COMPLETION_ABORT, .stop_token = -1});
    json_t *list = events(&x);
    check_value(list, "1.choices.0.finish_reason", "\"abort\"");
    json_decref(list);
    drop(&x);
    api_abort_all(api);
    assert_int_equal(cancelled[0], 1);
}

static void *leave_soon(void *x)
{
    close_exchange(x);
    return NULL;
}

static atomic_bool asked;

/* The output thread: ends completions as they come, a cancelled one with "abort". */
static void *play_service(void *context)
{
    for (int done = 0; !atomic_load(&asked) || done < atomic_load(&submitted_count);) {
        if (done == atomic_load(&submitted_count)) {
            sched_yield();
            continue;
        }
        say(done, 0, "b", 1);
        CompletionEnd end = stopped;
        end.reason = atomic_load(&cancelled[done]) ? COMPLETION_ABORT : COMPLETION_STOP;
        finish(done++, end);
    }
    return context;
}

/* Handler, output thread, and a client that goes away, all at the same time; the third submission may be refused. */
static void races(void **state)
{
    (void)state;
    for (int round = 0; round < 400; round++) {
        reset(NULL);
        HttpExchange x = exchange(round % 2 ? "{\"prompt\":[\"a\",\"b\",\"c\"],\"stream\":true}"
                                            : "{\"prompt\":[\"a\",\"b\",\"c\"]}");
        pthread_t output, client;
        results[2] = round % 3 ? SUBMIT_OK : SUBMIT_FULL;
        atomic_store(&asked, false);
        pthread_create(&output, NULL, play_service, NULL);
        pthread_create(&client, NULL, leave_soon, &x);
        ask(&x, "POST", "/v1/completions");
        atomic_store(&asked, true);
        pthread_join(output, NULL);
        pthread_join(client, NULL);
        assert_int_equal(x.ended, 1);
        drop(&x);
    }
}

/* ---- the rest ---------------------------------------------------------------------------------------------------- */

static void small_routes(void **state)
{
    (void)state;
    HttpExchange x = exchange("");
    ask(&x, "GET", "/v1/models");
    json_t *a = answer(&x, 200);
    check_value(a, "data.1.id", "\"other\"");
    check_value(a, "data.0.max_model_len", "32");
    json_decref(a);
    drop(&x);

    x = exchange("");
    x.path = "/v1/models/none";
    ask(&x, "GET", "/v1/models/*");
    a = answer(&x, 404);
    check_value(a, "error.code", "\"model_not_found\"");
    json_decref(a);
    drop(&x);

    x = exchange("{\"prompt\":\"ab<s>\",\"return_token_strs\":true}");
    ask(&x, "POST", "/tokenize");
    a = answer(&x, 200);
    check_value(a, "tokens", "[0,1,6]");
    check_value(a, "token_strs", "[\"a\",\"b\",\"<s>\"]");
    check_value(a, "count", "3");
    json_decref(a);
    drop(&x);

    x = exchange("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}");
    ask(&x, "POST", "/tokenize");
    a = answer(&x, 200);
    check_value(a, "tokens", "[0,2]");
    json_decref(a);
    drop(&x);

    x = exchange("{\"tokens\":[0,4,5]}");
    ask(&x, "POST", "/detokenize");
    a = answer(&x, 200);
    check_value(a, "prompt", "\"a\xC3\xA9\"");
    json_decref(a);
    drop(&x);
}

static void health(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        failure = i ? "out of order" : NULL;
        HttpExchange x = exchange("");
        ask(&x, "GET", "/health");
        json_t *a = answer(&x, i ? 503 : 200);
        if (i)
            check_value(a, "error.message", "\"out of order\"");
        json_decref(a);
        drop(&x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(completion, reset),
        cmocka_unit_test_setup(several_prompts_and_choices, reset),
        cmocka_unit_test_setup(logprobs, reset),
        cmocka_unit_test_setup(prompt_logprobs, reset),
        cmocka_unit_test_setup(embeddings, reset),
        cmocka_unit_test_setup(chat_whole, reset),
        cmocka_unit_test_setup(chat_stream, reset),
        cmocka_unit_test_setup(reasoning_begun_by_the_template, reset),
        cmocka_unit_test_setup(completion_stream, reset),
        cmocka_unit_test_setup(usage_all_along, reset),
        cmocka_unit_test_setup(refusals_of_the_service, reset),
        cmocka_unit_test_setup(failures_before_and_in_a_stream, reset),
        cmocka_unit_test_setup(refused_half_way, reset),
        cmocka_unit_test_setup(context_length, reset),
        cmocka_unit_test_setup(clients_leave, reset),
        cmocka_unit_test_setup(aborting_all, reset),
        cmocka_unit_test_setup(races, reset),
        cmocka_unit_test_setup(small_routes, reset),
        cmocka_unit_test_setup(health, reset),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
