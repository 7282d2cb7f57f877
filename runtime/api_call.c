/* api_call.c - the life of a call: read, submitted, answered whole or as a stream of events, logged. See api_int.h. */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api_int.h"
#include "log.h"

/* ---- begin and end ----------------------------------------------------------------------------------------------- */

static void put_head(ApiCall *c)
{
    const char *object = c->request.stream ? c->format->chunk_object : c->format->object;
    buf_puts(&c->head, "{\"id\":");
    json_put_str(&c->head, c->id);
    buf_puts(&c->head, ",\"object\":");
    json_put_str(&c->head, object);
    buf_puts(&c->head, ",\"created\":");
    json_put_int(&c->head, c->created);
    buf_puts(&c->head, ",\"model\":");
    json_put_str(&c->head, c->request.model);
    buf_puts(&c->head, ",\"system_fingerprint\":");
    json_put_str(&c->head, c->api->o.fingerprint);
    buf_puts(&c->head, ",\"choices\":[");
}

static void link_call(ApiCall *c)
{
    Api *a = c->api;
    pthread_mutex_lock(&a->lock);
    c->next = a->calls;
    if (a->calls)
        a->calls->prev = c;
    a->calls = c;
    pthread_mutex_unlock(&a->lock);
}

static void unlink_call(ApiCall *c)
{
    pthread_mutex_lock(&c->api->lock);
    *(c->prev ? &c->prev->next : &c->api->calls) = c->next;
    if (c->next)
        c->next->prev = c->prev;
    pthread_mutex_unlock(&c->api->lock);
}

ApiCall *call_new(Api *a, HttpExchange *x, ApiKind kind, const ApiFormat *format)
{
    ApiError e = {0};
    size_t len;
    const char *body = http_body(x, &len);
    ApiCall *c = xcalloc(1, sizeof *c);
    if (!api_request_read(kind, body, len, &a->o.model, &c->request, &e)) {
        free(c);
        reply_error(x, a, &e);
        return NULL;
    }
    c->api = a;
    c->exchange = x;
    c->request.n = MAX(c->request.n, 1);
    c->format = format;
    c->created = (int64_t)time(NULL);
    c->style = (TokenStyle){a->o.model.tokenizer, c->request.tokens_as_ids};
    const char *id = c->request.request_id ? c->request.request_id : http_id(x);
    snprintf(c->id, sizeof c->id, "%s%s", format->id_prefix, id);
    atomic_init(&c->references, 1);
    pthread_mutex_init(&c->lock, NULL);
    put_head(c);
    link_call(c);
    return c;
}

static void free_choice(ApiChoice *c)
{
    for (size_t i = 0; i < c->tools.len; i++) {
        buf_free(&c->tools.at[i].name);
        buf_free(&c->tools.at[i].arguments);
    }
    vec_free(&c->tools);
    reply_free(c->parser);
    token_lists_free(&c->lists);
    buf_free(&c->text);
    buf_free(&c->reasoning);
    buf_free(&c->logprobs);
    buf_free(&c->ids);
    buf_free(&c->stop_reason);
}

static void free_prompt(ApiPrompted *p)
{
    vec_free(&p->ids);
    buf_free(&p->echo);
    buf_free(&p->logprobs);
    token_lists_free(&p->lists);
}

static void unref(ApiCall *c)
{
    if (atomic_fetch_sub(&c->references, 1) != 1)
        return;
    assert(c->ended);
    unlink_call(c);
    for (size_t i = 0; c->choices && i < c->prompts.len * (size_t)c->request.n; i++)
        free_choice(&c->choices[i]);
    free(c->choices);
    for (size_t i = 0; i < c->prompts.len; i++)
        free_prompt(&c->prompts.at[i]);
    vec_free(&c->prompts);
    api_request_free(&c->request);
    buf_free(&c->head);
    buf_free(&c->out);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* ---- the answer -------------------------------------------------------------------------------------------------- */

typedef struct Totals {
    int64_t prompt, cached, generated; /* tokens */
} Totals;

static Totals count_tokens(const ApiCall *c)
{
    Totals t = {0};
    for (size_t i = 0; i < c->prompts.len; i++) {
        t.prompt += (int64_t)c->prompts.at[i].ids.len;
        t.cached += c->prompts.at[i].cached;
    }
    for (size_t i = 0; i < c->prompts.len * (size_t)c->request.n; i++)
        t.generated += c->choices[i].tokens;
    return t;
}

/* Nothing for a call that never ran: the server's own line about it says why. */
static void log_end(const ApiCall *c, int status)
{
    const CompletionEnd *f = &c->first;
    if (!c->reason)
        return;
    Totals t = count_tokens(c);
    log_event(status < 500 ? LOG_INFO : LOG_WARNING, "completion", "id", "s", c->id, "status", "d", status, "stream",
              "s", c->request.stream ? "yes" : "no", "reason", "s", c->reason, "prompt_tokens", "l", t.prompt,
              "cached_tokens", "l", t.cached, "completion_tokens", "l", t.generated, "queue_seconds", "f",
              f->queue_seconds, "first_token_seconds", "f", f->first_token_seconds, "total_seconds", "f",
              f->total_seconds, NULL);
}

static void put_usage(const ApiCall *c, Buf *out)
{
    Totals t = count_tokens(c);
    buf_printf(out, "{\"prompt_tokens\":%lld,\"total_tokens\":%lld,\"completion_tokens\":%lld,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%lld}}", (long long)t.prompt,
               (long long)(t.prompt + t.generated), (long long)t.generated, (long long)t.cached);
}

/* "metrics", when the server was told to: times since the request's arrival, of the first choice that ended. */
static void put_timing(const ApiCall *c, Buf *out)
{
    if (!c->api->o.timing)
        return;
    buf_puts(out, ",\"metrics\":{\"time_in_queue\":");
    json_put_real(out, c->first.queue_seconds);
    buf_puts(out, ",\"time_to_first_token\":");
    json_put_real(out, c->first.first_token_seconds);
    buf_puts(out, ",\"total_time\":");
    json_put_real(out, c->first.total_seconds);
    buf_putc(out, '}');
}

/* An event is begun, elements of "choices" are put behind it, it is sent. `first`: with the extras of the answer. */
static void begin_event(ApiCall *c)
{
    c->out.len = 0;
    buf_puts(&c->out, "data: ");
    buf_put(&c->out, c->head.data, c->head.len);
}

static void send_event(ApiCall *c, bool first)
{
    buf_putc(&c->out, ']');
    if (first && c->format->extras)
        c->format->extras(c, &c->out);
    if (c->request.continuous_usage) {
        buf_puts(&c->out, ",\"usage\":");
        put_usage(c, &c->out);
    } else if (c->request.include_usage) {
        buf_puts(&c->out, ",\"usage\":null");
    }
    buf_puts(&c->out, "}\n\n");
    http_stream_write(c->exchange, c->out.data, c->out.len);
}

/* The first chunk of every choice, when the first of them has something to say: refusals have a status until then. */
static void begin_stream(ApiCall *c)
{
    if (c->begun)
        return;
    c->begun = true;
    http_set_header(c->exchange, "Cache-Control", "no-cache");
    http_set_header(c->exchange, "X-Accel-Buffering", "no");
    http_stream_begin(c->exchange, 200, "text/event-stream; charset=utf-8");
    for (size_t i = 0; i < c->prompts.len * (size_t)c->request.n; i++) {
        begin_event(c);
        if (c->format->open(&c->choices[i], &c->out))
            send_event(c, true);
    }
}

static void send_chunk(ApiChoice *choice)
{
    ApiCall *c = choice->prompt->call;
    begin_event(c);
    if (c->format->chunk(choice, &c->out))
        send_event(c, false);
}

static void end_stream(ApiCall *c)
{
    if (c->request.include_usage) {
        begin_event(c);
        buf_puts(&c->out, "],\"usage\":");
        put_usage(c, &c->out);
        put_timing(c, &c->out);
        buf_puts(&c->out, "}\n\n");
        http_stream_write(c->exchange, c->out.data, c->out.len);
    }
    http_stream_write(c->exchange, "data: [DONE]\n\n", 14);
    http_stream_end(c->exchange);
}

static void put_whole(ApiCall *c, Buf *out)
{
    buf_put(out, c->head.data, c->head.len);
    for (size_t i = 0; i < c->prompts.len * (size_t)c->request.n; i++) {
        if (i)
            buf_putc(out, ',');
        c->format->whole(&c->choices[i], out);
    }
    buf_putc(out, ']');
    if (c->format->extras)
        c->format->extras(c, out);
    buf_puts(out, ",\"usage\":");
    put_usage(c, out);
    put_timing(c, out);
    buf_putc(out, '}');
}

/* Everything has come. */
static void complete(ApiCall *c)
{
    c->ended = true;
    log_end(c, atomic_load(&c->unwanted) ? 499 : 200); /* 499: nobody is there to read it */
    if (c->request.stream) {
        end_stream(c);
        return;
    }
    c->out.len = 0;
    if (c->format->answer)
        c->format->answer(c, &c->out);
    else
        put_whole(c, &c->out);
    reply_json(c->exchange, 200, &c->out);
}

/* ---- errors ------------------------------------------------------------------------------------------------------ */

/* Cancels what was submitted, and makes sure that what is being submitted follows. */
static void cancel_all(ApiCall *c)
{
    atomic_store(&c->unwanted, true);
    for (size_t i = 0; i < atomic_load(&c->submitted); i++)
        service_cancel(c->api->o.service, c->prompts.at[i].completion);
}

void call_fail(ApiCall *c, const ApiError *e)
{
    if (c->ended)
        return;
    c->ended = true;
    log_end(c, e->status);
    if (!c->begun) {
        reply_error(c->exchange, c->api, e);
    } else { /* the status has been sent: the error is an event */
        c->out.len = 0;
        buf_puts(&c->out, "data: ");
        error_put(&c->out, e);
        buf_puts(&c->out, "\n\ndata: [DONE]\n\n");
        http_stream_write(c->exchange, c->out.data, c->out.len);
        http_stream_end(c->exchange);
    }
    cancel_all(c);
}

static void fail_locked(ApiCall *c, const ApiError *e)
{
    pthread_mutex_lock(&c->lock);
    call_fail(c, e);
    pthread_mutex_unlock(&c->lock);
}

void call_refuse(ApiCall *c, const ApiError *e)
{
    fail_locked(c, e);
    unref(c);
}

static ApiError submit_error(const ApiCall *c, SubmitResult result, const Err *err)
{
    static const ApiError kinds[] = {
        [SUBMIT_INVALID] = {.status = 400, .type = "invalid_request_error"},
        [SUBMIT_FULL] = {.status = 429, .type = "rate_limit_error", .code = "queue_full"},
        [SUBMIT_CLOSING] = {.status = 503, .type = "server_error", .code = "shutting_down"},
    };
    ApiError e = kinds[result];
    e.err = *err;
    if (result == SUBMIT_CLOSING && service_failure(c->api->o.service))
        e.code = "engine_failed";
    return e;
}

static ApiError end_error(const CompletionEnd *end)
{
    bool expired = end->reason == COMPLETION_EXPIRED;
    ApiError e = {.status = expired ? 503 : 500, .type = "server_error", .code = expired ? "queue_timeout" : NULL};
    err_set(&e.err, "%s", end->error ? end->error : "the completion failed");
    return e;
}

/* ---- results: on the service's output thread --------------------------------------------------------------------- */

static ApiChoice *choice_of(const ApiPrompted *p, int choice)
{
    return &p->call->choices[p->number * p->call->request.n + choice];
}

static void on_delta(void *context, const CompletionDelta *d)
{
    ApiPrompted *p = context;
    ApiCall *c = p->call;
    ApiChoice *choice = choice_of(p, d->choice);
    if (atomic_load_explicit(&c->unwanted, memory_order_relaxed))
        return;
    pthread_mutex_lock(&c->lock);
    if (!c->ended) {
        choice->tokens += d->tokens_count;
        if (c->request.return_token_ids)
            for (int i = 0; i < d->tokens_count; i++) {
                if (choice->ids.len)
                    buf_putc(&choice->ids, ',');
                json_put_int(&choice->ids, d->tokens[i].id);
            }
        c->format->delta(choice, d);
        if (c->request.stream) {
            begin_stream(c);
            send_chunk(choice);
        }
    }
    pthread_mutex_unlock(&c->lock);
}

static void put_stop_reason(Buf *out, const CompletionEnd *end)
{
    if (end->stop_string)
        json_put_str(out, end->stop_string);
    else if (end->stop_token >= 0)
        json_put_int(out, end->stop_token);
}

static const char *reason_name(CompletionReason reason)
{
    static const char *const names[] = {"stop", "length", "abort", "expired", "error"};
    return names[reason];
}

/* What is kept of the end of a choice. */
static void note_end(ApiPrompted *p, ApiChoice *choice, const CompletionEnd *end)
{
    ApiCall *c = p->call;
    choice->reason = end->reason;
    choice->tokens = end->completion_tokens;
    put_stop_reason(&choice->stop_reason, end);
    if (end->choice == 0)
        p->cached = end->cached_tokens;
    if (end->prompt && json_is_number(json_object_get(c->request.body, "prompt_logprobs")))
        prompt_logprobs_put(&p->logprobs, &c->style, end->prompt, end->prompt_tokens);
    if (!c->reason) {
        c->first = *end;
        c->reason = reason_name(end->reason);
    }
}

static void finish_choice(ApiCall *c, ApiChoice *choice, const CompletionEnd *end)
{
    if (end->reason == COMPLETION_EXPIRED || end->reason == COMPLETION_ERROR) {
        ApiError e = end_error(end);
        call_fail(c, &e);
        return;
    }
    c->format->finish(choice, end);
    if (c->request.stream && !c->ended) {
        begin_stream(c);
        begin_event(c);
        c->format->last(choice, &c->out);
        send_event(c, false);
    }
}

static void on_finish(void *context, const CompletionEnd *end)
{
    ApiPrompted *p = context;
    ApiCall *c = p->call;
    ApiChoice *choice = choice_of(p, end->choice);
    bool last = end->last;
    pthread_mutex_lock(&c->lock);
    note_end(p, choice, end);
    c->unfinished--;
    if (!c->ended)
        finish_choice(c, choice, end);
    if (!c->ended && !c->unfinished)
        complete(c);
    pthread_mutex_unlock(&c->lock);
    if (last)
        unref(c);
}

/* ---- submitting: on the handler's thread ------------------------------------------------------------------------- */

/* The client has gone. Any thread; takes no lock. */
static void on_close(void *context)
{
    cancel_all(context);
}

/* The field that the prompt came from. */
static const char *prompt_field(const ApiCall *c)
{
    return c->request.kind == API_CHAT ? "messages" : c->request.kind == API_EMBEDDING ? "input" : "prompt";
}

/* The tokens that an answer may have, checked against the context as OpenAI's API does. */
static bool fit_context(const ApiCall *c, const ApiPrompted *p, SamplingParams *s, ApiError *e)
{
    int64_t context = c->api->o.model.max_model_len, prompt = (int64_t)p->ids.len;
    if (!prompt)
        return api_error_set(e, prompt_field(c), "the prompt is empty: there is no token to start from");
    if (s->max_tokens < 0)
        s->max_tokens = MAX(context - prompt, 1);
    if (prompt + s->max_tokens <= context)
        return true;
    api_error_set(e, prompt_field(c), "This model's maximum context length is %lld tokens. However, you requested %lld "
                  "tokens (%lld in the prompt, %lld in the completion). Please reduce the length of the prompt or the "
                  "completion.", (long long)context, (long long)(prompt + s->max_tokens), (long long)prompt,
                  (long long)s->max_tokens);
    e->code = "context_length_exceeded";
    return false;
}

static SubmitResult submit(ApiPrompted *p, const SamplingParams *s, Err *err)
{
    const ApiCall *c = p->call;
    const ApiRequest *r = &c->request;
    return service_submit(c->api->o.service, &(CompletionRequest){
        .prompt = p->ids.at,
        .prompt_len = (int)p->ids.len,
        .sampling = s,
        .stops = (const char *const *)r->params.stops.at,
        .stops_count = (int)r->params.stops.len,
        .include_stop = r->include_stop,
        .keep_special = r->keep_special,
        .prompt_logprobs = r->prompt_logprobs,
        .pooling = r->pooling,
        .choices = r->n,
        .priority = r->priority,
        .salt = r->salt,
        .sink = {.context = p, .delta = on_delta, .finish = on_finish},
    }, &p->completion, err);
}

/* Submits one prompt. False: the call has failed, or nobody wants it any more. */
static bool submit_prompt(ApiCall *c, size_t i)
{
    ApiPrompted *p = &c->prompts.at[i];
    SamplingParams s = c->request.params.params;
    ApiError e = {0};
    if (atomic_load(&c->unwanted)) {
        e = (ApiError){.status = 499, .type = "invalid_request_error"};
        err_set(&e.err, "the client went away");
    } else if (fit_context(c, p, &s, &e)) {
        Err err = {0};
        atomic_fetch_add(&c->references, 1);
        SubmitResult result = submit(p, &s, &err);
        if (result == SUBMIT_OK) {
            atomic_store(&c->submitted, i + 1);
            if (atomic_load(&c->unwanted)) /* since then: whoever said so may not have seen this one */
                service_cancel(c->api->o.service, p->completion);
            return true;
        }
        atomic_fetch_sub(&c->references, 1);
        e = submit_error(c, result, &err);
    }
    fail_locked(c, &e);
    return false;
}

static void make_choices(ApiCall *c)
{
    size_t count = c->prompts.len * (size_t)c->request.n;
    c->choices = xcalloc(count, sizeof *c->choices);
    c->unfinished = (int)count;
    for (size_t i = 0; i < count; i++) {
        ApiChoice *choice = &c->choices[i];
        choice->prompt = &c->prompts.at[i / (size_t)c->request.n];
        choice->index = (int)i;
        choice->lists.chars = utf8_count(choice->prompt->echo.data, choice->prompt->echo.len);
        if (c->reply.style != REPLY_PLAIN || c->reply.reasoning)
            choice->parser = reply_new(&c->reply);
    }
}

void call_submit(ApiCall *c)
{
    make_choices(c);
    http_on_close(c->exchange, on_close, c);
    for (size_t i = 0; i < c->prompts.len && submit_prompt(c, i); i++)
        ;
    unref(c);
}

/* ---- prompts ----------------------------------------------------------------------------------------------------- */

/* Keeps the last tokens only, when the request says so. */
static void truncate_ids(const ApiCall *c, TokenIds *ids)
{
    int64_t keep = c->request.truncate;
    if (keep == -2)
        keep = MAX(c->api->o.model.max_model_len - MAX(c->request.params.params.max_tokens, 0), 1);
    if (keep < 0 || (int64_t)ids->len <= keep)
        return;
    memmove(ids->at, ids->at + ids->len - keep, (size_t)keep * sizeof *ids->at);
    ids->len = (size_t)keep;
}

/* Tokens are at most so many times shorter than the text they come from, normalizers included. */
enum { SHRINK = 4 };

bool call_encode(const ApiCall *c, const char *text, size_t len, TokenIds *ids, ApiError *e)
{
    const Api *a = c->api;
    Err err;
    if (c->request.truncate == -1 && len / SHRINK / a->longest_token > (size_t)a->o.model.max_model_len) {
        api_error_set(e, prompt_field(c), "This model's maximum context length is %lld tokens. However, your prompt "
                      "has %zu bytes, far more than so many tokens can stand for. Please reduce its length.",
                      (long long)a->o.model.max_model_len, len);
        e->code = "context_length_exceeded";
        return false;
    }
    return tok_encode(a->o.model.tokenizer, text, len, c->request.add_special, true, ids, &err) ||
           api_error_set(e, prompt_field(c), "%s", err.text);
}

ApiPrompted *call_add_prompt(ApiCall *c, TokenIds *ids)
{
    int number = (int)c->prompts.len;
    truncate_ids(c, ids);
    vec_push(&c->prompts, (ApiPrompted){.call = c, .number = number});
    ApiPrompted *p = &c->prompts.at[number];
    p->ids.at = ids->at;
    p->ids.len = ids->len;
    p->ids.cap = ids->cap;
    *ids = (TokenIds){0};
    return p;
}

static bool add_text(ApiCall *c, size_t i, ApiError *e)
{
    const ApiPrompt *from = &c->request.prompts.at[i];
    const Tokenizer *t = c->api->o.model.tokenizer;
    TokenIds ids = {0};
    if (from->text && !call_encode(c, from->text, from->text_len, &ids, e)) {
        vec_free(&ids);
        return false;
    }
    for (size_t k = 0; !from->text && k < from->ids.len; k++)
        vec_push(&ids, from->ids.at[k]);
    ApiPrompted *p = call_add_prompt(c, &ids);
    if (c->request.echo && from->text)
        buf_put(&p->echo, from->text, from->text_len);
    else if (c->request.echo)
        tok_decode(t, p->ids.at, p->ids.len, !c->request.keep_special, &p->echo);
    return true;
}

void call_submit_texts(ApiCall *c)
{
    ApiError e = {0};
    bool ok = true;
    for (size_t i = 0; i < c->request.prompts.len && ok; i++)
        ok = add_text(c, i, &e);
    if (ok)
        call_submit(c);
    else
        call_refuse(c, &e);
}
