/* api.c - the table of routes, errors, and what is not about completions: models, tokens, health, metrics. */
#include "api_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dashboard.h"
#include "log.h"

/* ---- begin and end ----------------------------------------------------------------------------------------------- */

static size_t longest_token(const Tokenizer *t)
{
    size_t longest = 1, len;
    for (size_t id = 0; id < tok_vocab_size(t); id++)
        if (tok_text(t, (uint32_t)id, &len))
            longest = MAX(longest, len);
    return longest;
}

Api *api_new(const ApiOptions *options)
{
    Api *a = xcalloc(1, sizeof *a);
    a->o = *options;
    a->longest_token = longest_token(a->o.model.tokenizer);
    a->started = (int64_t)time(NULL);
    pthread_mutex_init(&a->lock, NULL);
    return a;
}

void api_free(Api *a)
{
    if (!a)
        return;
    pthread_mutex_destroy(&a->lock);
    free(a);
}

void api_abort_all(Api *a)
{
    pthread_mutex_lock(&a->lock);
    for (ApiCall *c = a->calls; c; c = c->next)
        for (size_t i = 0; i < atomic_load(&c->submitted); i++)
            service_cancel(a->o.service, c->prompts.at[i].completion);
    pthread_mutex_unlock(&a->lock);
}

void api_record(void *context, const HttpRecord *r)
{
    const Api *a = context;
    LogLevel level = r->status >= 500 && r->status != 503 ? LOG_WARNING : r->status >= 400 ? LOG_INFO : LOG_DEBUG;
    metrics_http(a->o.metrics, r->method, r->path, r->status);
    log_event(level, "http", "id", "s", r->id, "method", "s", r->method, "path", "s", r->path, "client", "s", r->client,
              "status", "d", r->status, "request_bytes", "l", (int64_t)r->request_bytes, "response_bytes", "l",
              (int64_t)r->response_bytes, "seconds", "f", r->seconds, NULL);
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

void reply_json(HttpExchange *x, int status, const Buf *body)
{
    http_reply(x, status, "application/json", body->data, body->len);
}

void error_put(Buf *out, const ApiError *e)
{
    buf_puts(out, "{\"error\":{\"message\":");
    json_put_str(out, e->err.text);
    buf_puts(out, ",\"type\":");
    json_put_str(out, e->type);
    buf_puts(out, ",\"param\":");
    json_put_str(out, *e->param ? e->param : NULL);
    buf_puts(out, ",\"code\":");
    json_put_str(out, e->code);
    buf_puts(out, "}}");
}

void reply_error(HttpExchange *x, const Api *a, const ApiError *e)
{
    Buf body = {0};
    char seconds[16];
    if (e->status == 429 || e->status == 503) {
        snprintf(seconds, sizeof seconds, "%d", service_retry_after(a->o.service));
        http_set_header(x, "Retry-After", seconds);
    }
    error_put(&body, e);
    reply_json(x, e->status, &body);
    buf_free(&body);
}

/* ---- models ------------------------------------------------------------------------------------------------------ */

static void put_model(const Api *a, const char *name, Buf *out)
{
    buf_puts(out, "{\"id\":");
    json_put_str(out, name);
    buf_printf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"blade\",\"root\":", (long long)a->started);
    json_put_str(out, a->o.root);
    buf_printf(out, ",\"parent\":null,\"max_model_len\":%lld}", (long long)a->o.model.max_model_len);
}

static void list_models(void *context, HttpExchange *x)
{
    const Api *a = context;
    Buf body = {0};
    buf_puts(&body, "{\"object\":\"list\",\"data\":[");
    for (const char *const *name = a->o.model.names; *name; name++) {
        if (name > a->o.model.names)
            buf_putc(&body, ',');
        put_model(a, *name, &body);
    }
    buf_puts(&body, "]}");
    reply_json(x, 200, &body);
    buf_free(&body);
}

static void show_model(void *context, HttpExchange *x)
{
    const Api *a = context;
    const char *wanted = http_path(x) + strlen("/v1/models/");
    for (const char *const *name = a->o.model.names; *name; name++) {
        if (strcmp(*name, wanted))
            continue;
        Buf body = {0};
        put_model(a, *name, &body);
        reply_json(x, 200, &body);
        buf_free(&body);
        return;
    }
    ApiError e = {.status = 404, .type = "invalid_request_error", .code = "model_not_found", .param = "model"};
    err_set(&e.err, "the model \"%.200s\" does not exist; this server has \"%.200s\"", wanted, a->o.model.names[0]);
    reply_error(x, a, &e);
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

static bool ids_of(const Api *a, const ApiRequest *r, TokenIds *ids, ApiError *e)
{
    Err err;
    Buf text = {0};
    const ApiPrompt *p = r->prompts.len ? &r->prompts.at[0] : NULL;
    if (!p && !chat_prompt(a, r->body, &text, e))
        return false;
    buf_reserve(&text, 1);
    bool ok = tok_encode(a->o.model.tokenizer, p ? p->text : text.data, p ? p->text_len : text.len, r->add_special,
                         true, ids, &err) ||
              api_error_set(e, p ? "prompt" : "messages", "%s", err.text);
    buf_free(&text);
    return ok;
}

static void put_token_strings(const Api *a, const TokenIds *ids, Buf *out)
{
    buf_putc(out, '[');
    for (size_t i = 0; i < ids->len; i++) {
        size_t len = 0;
        const char *text = tok_text(a->o.model.tokenizer, ids->at[i], &len);
        if (i)
            buf_putc(out, ',');
        json_put_text(out, text ? text : "", len);
    }
    buf_putc(out, ']');
}

void api_tokenize(void *context, HttpExchange *x)
{
    const Api *a = context;
    ApiRequest r;
    ApiError e = {0};
    TokenIds ids = {0};
    Buf body = {0};
    size_t len;
    const char *text = http_body(x, &len);
    if (!api_request_read(API_TOKENIZE, text, len, &a->o.model, &r, &e)) {
        reply_error(x, a, &e);
        return;
    }
    if (ids_of(a, &r, &ids, &e)) {
        buf_printf(&body, "{\"count\":%zu,\"max_model_len\":%lld,\"tokens\":[", ids.len,
                   (long long)a->o.model.max_model_len);
        token_ids_put(&body, ids.at, ids.len);
        buf_puts(&body, "],\"token_strs\":");
        if (r.return_strings)
            put_token_strings(a, &ids, &body);
        else
            buf_puts(&body, "null");
        buf_putc(&body, '}');
        reply_json(x, 200, &body);
    } else {
        reply_error(x, a, &e);
    }
    buf_free(&body);
    vec_free(&ids);
    api_request_free(&r);
}

void api_detokenize(void *context, HttpExchange *x)
{
    const Api *a = context;
    ApiRequest r;
    ApiError e = {0};
    Buf text = {0}, out = {0};
    size_t len;
    const char *body = http_body(x, &len);
    if (!api_request_read(API_DETOKENIZE, body, len, &a->o.model, &r, &e)) {
        reply_error(x, a, &e);
        return;
    }
    tok_decode(a->o.model.tokenizer, r.prompts.at[0].ids.at, r.prompts.at[0].ids.len, !r.keep_special, &text);
    buf_puts(&out, "{\"prompt\":");
    json_put_text(&out, text.data ? text.data : "", text.len);
    buf_putc(&out, '}');
    reply_json(x, 200, &out);
    buf_free(&text);
    buf_free(&out);
    api_request_free(&r);
}

/* ---- watching ---------------------------------------------------------------------------------------------------- */

static void health(void *context, HttpExchange *x)
{
    const Api *a = context;
    const char *failure = service_failure(a->o.service);
    if (!failure) {
        http_reply(x, 200, "application/json", "{\"status\":\"ok\"}", 15);
        return;
    }
    ApiError e = {.status = 503, .type = "server_error", .code = "engine_failed"};
    err_set(&e.err, "%s", failure);
    reply_error(x, a, &e);
}

static void version(void *context, HttpExchange *x)
{
    (void)context;
    static const char body[] = "{\"version\":\"" BLADE_VERSION "\"}";
    http_reply(x, 200, "application/json", body, sizeof body - 1);
}

static void metrics(void *context, HttpExchange *x)
{
    const Api *a = context;
    Buf body = {0};
    buf_puts(&body, "");
    metrics_render(a->o.metrics, &body);
    http_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", body.data, body.len);
    buf_free(&body);
}

static void dashboard(void *context, HttpExchange *x)
{
    (void)context;
    http_set_header(x, "Cache-Control", "no-cache");
    http_reply(x, 200, "text/html; charset=utf-8", dashboard_html, dashboard_html_len);
}

static void dashboard_data(void *context, HttpExchange *x)
{
    const Api *a = context;
    Buf body = {0};
    metrics_dashboard(a->o.metrics, http_query(x, "after"), &body);
    http_set_header(x, "Cache-Control", "no-store");
    reply_json(x, 200, &body);
    buf_free(&body);
}

const HttpRoute api_routes[] = {
    {"POST", "/v1/chat/completions", api_chat},
    {"POST", "/v1/completions", api_completion},
    {"POST", "/v1/embeddings", api_embedding},
    {"GET", "/v1/models", list_models},
    {"GET", "/v1/models/*", show_model},
    {"POST", "/tokenize", api_tokenize},
    {"POST", "/detokenize", api_detokenize},
    {"GET", "/version", version},
    {"GET", "/metrics", metrics},
    {"GET", "/dashboard/data", dashboard_data},
    {"GET", "/dashboard", dashboard, true}, /* a page without numbers: it asks for the key itself */
    {"GET", "/health", health, true},
    {"GET", "/ping", health, true},
    {NULL},
};
