/* http_answer.c - exchanges: what handlers read of a request, and the way of the answer from any thread to the network
 * thread. Owns the rule for waking connections up: `suspended` says that the library waits; whoever has something for
 * it clears the flag and resumes it, under the exchange's lock, so there is one resume for each suspend. */
#include "http_int.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "log.h"

/* ---- life -------------------------------------------------------------------------------------------------------- */

HttpExchange *http_exchange_new(Http *h, HttpConnection *c, struct MHD_Connection *mhd)
{
    HttpExchange *x = xcalloc(1, sizeof *x);
    x->http = h;
    x->connection = c;
    x->mhd = mhd;
    x->refs = 1;
    x->began = x->progress = now_seconds();
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->called, NULL);
    return x;
}

static void exchange_free(HttpExchange *x)
{
    Http *h = x->http;
    bool active = x->active;
    atomic_fetch_sub(&h->body_bytes, x->body_bytes);
    pthread_cond_destroy(&x->called);
    pthread_mutex_destroy(&x->lock);
    buf_free(&x->fields);
    buf_free(&x->body);
    buf_free(&x->headers);
    buf_free(&x->out);
    free(x->content_type);
    free(x->target);
    free(x->path);
    free(x);
    if (!active)
        return;
    pthread_mutex_lock(&h->lock);
    h->active--;
    pthread_cond_broadcast(&h->idle);
    pthread_mutex_unlock(&h->lock);
}

/* Gives up one reference; the lock is held, and is not afterwards. */
static void unref_locked(HttpExchange *x)
{
    bool last = --x->refs == 0;
    pthread_mutex_unlock(&x->lock);
    if (last)
        exchange_free(x);
}

void http_exchange_unref(HttpExchange *x)
{
    pthread_mutex_lock(&x->lock);
    unref_locked(x);
}

/* The lock is held. */
static void wake(HttpExchange *x)
{
    if (!x->suspended)
        return;
    x->suspended = false;
    MHD_resume_connection(x->mhd);
    http_wake(x->http);
}

/* The lock is held. The network thread sees the socket hang up and does the rest. */
static void hang_up(HttpExchange *x)
{
    if (!x->done)
        shutdown(x->connection->fd, SHUT_RDWR);
}

/* The lock is held; it is let go while the function runs. `calling` keeps the exchange from being ended meanwhile. */
static void call_on_close(HttpExchange *x, void (*fn)(void *context), void *context)
{
    x->calling = true;
    x->caller = pthread_self();
    x->refs++;
    pthread_mutex_unlock(&x->lock);
    fn(context);
    pthread_mutex_lock(&x->lock);
    x->calling = false;
    pthread_cond_broadcast(&x->called);
    unref_locked(x);
}

void http_exchange_gone(HttpExchange *x)
{
    pthread_mutex_lock(&x->lock);
    if (x->closed || x->ended) {
        pthread_mutex_unlock(&x->lock);
        return;
    }
    x->closed = true;
    buf_free(&x->out);
    x->sent = 0;
    hang_up(x);
    wake(x);
    if (x->on_close)
        call_on_close(x, x->on_close, x->on_close_context);
    else
        pthread_mutex_unlock(&x->lock);
}

/* The handler's part is over. The lock is held, and is not afterwards. */
static void end(HttpExchange *x)
{
    assert(!x->ended);
    x->ended = true;
    wake(x);
    while (x->calling && !pthread_equal(x->caller, pthread_self()))
        pthread_cond_wait(&x->called, &x->lock);
    unref_locked(x);
}

/* ---- the library's side ------------------------------------------------------------------------------------------ */

static void add_header(struct MHD_Response *response, const char *name, const char *value)
{
    if (MHD_add_response_header(response, name, value) != MHD_YES)
        log_event(LOG_WARNING, "header dropped", "name", "s", name, "value", "s", value, NULL);
}

enum MHD_Result http_exchange_queue(HttpExchange *x, int status, struct MHD_Response *response)
{
    const char *origin = x->http->o.cors;
    if (!response)
        return MHD_NO;
    add_header(response, "X-Request-Id", x->id);
    if (origin) {
        add_header(response, "Access-Control-Allow-Origin", origin);
        add_header(response, "Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
        if (strcmp(origin, "*"))
            add_header(response, "Vary", "Origin");
    }
    x->phase = PHASE_ANSWERED;
    enum MHD_Result ok = MHD_queue_response(x->mhd, (unsigned)status, response);
    MHD_destroy_response(response);
    return ok;
}

/* The lock is held, on the network thread, in a callback of the library. */
static void suspend(HttpExchange *x)
{
    x->suspended = true;
    MHD_suspend_connection(x->mhd);
}

/* The library asks for the next bytes of a stream. */
static ssize_t read_stream(void *context, uint64_t position, char *bytes, size_t max)
{
    (void)position;
    HttpExchange *x = context;
    pthread_mutex_lock(&x->lock);
    size_t n = MIN(x->out.len - x->sent, max);
    ssize_t result = (ssize_t)n;
    if (x->closed || x->overflow)
        result = MHD_CONTENT_READER_END_WITH_ERROR;
    else if (n > 0)
        memcpy(bytes, x->out.data + x->sent, n);
    else if (x->ended)
        result = MHD_CONTENT_READER_END_OF_STREAM;
    else
        suspend(x);
    if (result > 0) {
        x->response_bytes += n;
        x->sent += n;
        if (x->sent == x->out.len)
            x->sent = x->out.len = 0;
    }
    pthread_mutex_unlock(&x->lock);
    return result;
}

static struct MHD_Response *whole_response(HttpExchange *x)
{
    if (strcmp(x->method, "HEAD"))
        x->response_bytes = x->out.len;
    if (!x->out.len)
        return MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    struct MHD_Response *response = MHD_create_response_from_buffer(x->out.len, x->out.data, MHD_RESPMEM_MUST_FREE);
    x->out = (Buf){0};
    return response;
}

enum MHD_Result http_exchange_answer(HttpExchange *x)
{
    struct MHD_Response *response = NULL;
    pthread_mutex_lock(&x->lock);
    int status = x->status;
    if (x->closed) {
        pthread_mutex_unlock(&x->lock);
        return MHD_NO;
    }
    if (x->answer == ANSWER_NONE) {
        suspend(x);
        pthread_mutex_unlock(&x->lock);
        return MHD_YES;
    }
    if (x->answer == ANSWER_WHOLE)
        response = whole_response(x);
    else
        response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, HTTP_POOL, read_stream, x, NULL);
    if (response && x->content_type)
        add_header(response, "Content-Type", x->content_type);
    const char *at = x->headers.data, *stop = at + x->headers.len;
    for (const char *value; response && at < stop; at = value + strlen(value) + 1) {
        value = at + strlen(at) + 1;
        add_header(response, at, value);
    }
    pthread_mutex_unlock(&x->lock);
    return http_exchange_queue(x, status, response);
}

/* ---- what handlers read ------------------------------------------------------------------------------------------ */

const char *http_id(const HttpExchange *x)
{
    return x->id;
}

const char *http_path(const HttpExchange *x)
{
    return x->path;
}

static const char *find_field(const HttpExchange *x, char kind, const char *name,
                              int (*compare)(const char *, const char *))
{
    const char *at = x->fields.data, *stop = at + x->fields.len;
    for (const char *value; at < stop; at = value + strlen(value) + 1) {
        value = at + 1 + strlen(at + 1) + 1;
        if (*at == kind && !compare(at + 1, name))
            return value;
    }
    return NULL;
}

const char *http_query(const HttpExchange *x, const char *name)
{
    return find_field(x, 'q', name, strcmp);
}

const char *http_header(const HttpExchange *x, const char *name)
{
    return find_field(x, 'h', name, strcasecmp);
}

const char *http_body(const HttpExchange *x, size_t *len)
{
    *len = x->body.len;
    return x->body.data ? x->body.data : "";
}

void http_on_close(HttpExchange *x, void (*fn)(void *context), void *context)
{
    pthread_mutex_lock(&x->lock);
    assert(!x->ended);
    x->on_close = fn;
    x->on_close_context = context;
    if (x->closed && fn)
        call_on_close(x, fn, context);
    else
        pthread_mutex_unlock(&x->lock);
}

/* The header promises constness; the lock is no part of what the caller sees. */
bool http_closed(const HttpExchange *x)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)&x->lock;
    pthread_mutex_lock(lock);
    bool closed = x->closed;
    pthread_mutex_unlock(lock);
    return closed;
}

/* ---- what handlers write ----------------------------------------------------------------------------------------- */

void http_set_header(HttpExchange *x, const char *name, const char *value)
{
    pthread_mutex_lock(&x->lock);
    assert(x->answer == ANSWER_NONE);
    buf_put(&x->headers, name, strlen(name) + 1);
    buf_put(&x->headers, value, strlen(value) + 1);
    pthread_mutex_unlock(&x->lock);
}

/* The lock is held. */
static void begin(HttpExchange *x, HttpAnswer answer, int status, const char *content_type)
{
    assert(x->answer == ANSWER_NONE && !x->ended);
    x->answer = answer;
    x->status = status;
    x->content_type = content_type ? xstrdup(content_type) : NULL;
}

void http_reply(HttpExchange *x, int status, const char *content_type, const char *body, size_t len)
{
    pthread_mutex_lock(&x->lock);
    begin(x, ANSWER_WHOLE, status, content_type);
    if (!x->closed && len)
        buf_put(&x->out, body, len);
    end(x);
}

void http_stream_begin(HttpExchange *x, int status, const char *content_type)
{
    pthread_mutex_lock(&x->lock);
    begin(x, ANSWER_STREAM, status, content_type);
    wake(x);
    pthread_mutex_unlock(&x->lock);
}

/* What was sent goes when it is the greater part, so that each byte is moved at most once. */
static void forget_sent(HttpExchange *x)
{
    if (x->sent <= x->out.len / 2)
        return;
    x->out.len -= x->sent;
    memmove(x->out.data, x->out.data + x->sent, x->out.len);
    x->sent = 0;
}

/* A write is taken when what was unsent before it is within the limit: one large write alone closes nothing. */
void http_stream_write(HttpExchange *x, const void *bytes, size_t len)
{
    pthread_mutex_lock(&x->lock);
    assert(x->answer == ANSWER_STREAM && !x->ended);
    if (x->out.len - x->sent > x->http->o.max_unsent && !x->overflow) {
        x->overflow = true;
        buf_free(&x->out);
        x->sent = 0;
        hang_up(x);
    }
    if (len && !x->closed && !x->overflow) {
        forget_sent(x);
        buf_put(&x->out, bytes, len);
        wake(x);
    }
    pthread_mutex_unlock(&x->lock);
}

void http_stream_end(HttpExchange *x)
{
    pthread_mutex_lock(&x->lock);
    assert(x->answer == ANSWER_STREAM);
    end(x);
}
