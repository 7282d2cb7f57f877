/* load_client.c - sends the requests of a run on time and takes the time of every token; see load.h.
 *
 * One thread, libcurl's multi interface on epoll: only sockets that have something are looked at, so some hundred
 * streams cost what their bytes cost. A timerfd gives both libcurl's timeouts and the next arrival, to the
 * microsecond. Bodies were made before; the clock is read in the callback that libcurl calls with fresh bytes.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "load.h"
#include "load_sse.h"

#define MAX_ERROR_BODY 4096
#define EVENTS 64

typedef struct Client Client;

typedef struct Transfer {
    Client *client;
    CURL *easy;
    LoadRecord *record;
    double sent, last, now; /* seconds on the monotonic clock; last: of the latest chunk that counts */
    Sse sse;
    Buf body;               /* of an answer that is no stream */
    int64_t chunks, completion_tokens;
    bool finished;          /* a finish reason or [DONE] has come */
    char stream_error[256], curl_error[CURL_ERROR_SIZE];
    struct Transfer *next;  /* of the free ones */
} Transfer;

struct Client {
    const LoadServer *server;
    const LoadSchedule *plan;
    LoadRecord *records;
    size_t sent, done;
    CURLM *multi;
    int epoll, timer;
    double begin, curl_deadline; /* on the monotonic clock; INFINITY: libcurl waits for no time */
    double next_progress;
    Transfer *idle;
    VEC(Transfer *) transfers;   /* all that were ever made, for the end */
};

/* ---- chunks of an answer --------------------------------------------------------------------------------------- */

static void on_token(Transfer *t)
{
    LoadRecord *r = t->record;
    if (!t->chunks++)
        r->ttft = t->now - t->sent;
    else
        vec_push(&r->itl, t->now - t->last);
    t->last = t->now;
}

static void on_event(void *context, const char *data, size_t len)
{
    Transfer *t = context;
    LoadChunk chunk;
    load_chunk_read(data, len, &chunk);
    if (*chunk.error && !*t->stream_error)
        memcpy(t->stream_error, chunk.error, sizeof chunk.error);
    if (chunk.token)
        on_token(t);
    else if (chunk.finish)
        t->last = t->now;
    t->finished |= chunk.finish || chunk.done;
    if (chunk.prompt_tokens >= 0)
        t->record->prompt_tokens = chunk.prompt_tokens;
    if (chunk.completion_tokens >= 0) {
        t->completion_tokens = chunk.completion_tokens;
        t->record->usage = true;
    }
}

static size_t on_bytes(char *bytes, size_t size, size_t n, void *context)
{
    Transfer *t = context;
    long status = 0;
    n *= size;
    t->now = now_seconds();
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status == 200)
        sse_feed(&t->sse, bytes, n, on_event, t);
    if (t->body.len < MAX_ERROR_BODY && !t->chunks)
        buf_put(&t->body, bytes, MIN(n, MAX_ERROR_BODY - t->body.len));
    return n;
}

/* ---- the end of an answer -------------------------------------------------------------------------------------- */

static LoadOutcome outcome_of(const Transfer *t, CURLcode code)
{
    if (code == CURLE_OPERATION_TIMEDOUT)
        return LOAD_TIMEOUT;
    if (t->record->status && t->record->status != 200)
        return LOAD_REFUSED;
    if (*t->stream_error || t->sse.too_long)
        return LOAD_STREAM;
    if (code != CURLE_OK)
        return LOAD_CONNECTION;
    if (!t->chunks)
        return t->finished ? LOAD_EMPTY : LOAD_STREAM;
    return t->finished ? LOAD_OK : LOAD_INCOMPLETE;
}

static char *message_of(const Transfer *t, LoadOutcome outcome, CURLcode code)
{
    char text[256] = "";
    switch (outcome) {
    case LOAD_TIMEOUT:
    case LOAD_CONNECTION:
        return xstrdup(*t->curl_error ? t->curl_error : curl_easy_strerror(code));
    case LOAD_REFUSED:
        load_error_text(t->body.data, t->body.len, text, sizeof text);
        return xstrdup(text);
    case LOAD_STREAM:
        if (t->sse.too_long)
            return xstrdup("an event is too long");
        if (*t->stream_error)
            return xstrdup(t->stream_error);
        load_error_text(t->body.data, t->body.len, text, sizeof text);
        return xstrdup(*text ? text : "the answer was empty");
    case LOAD_INCOMPLETE:
        return xstrdup("the stream ended without a finish reason and [DONE]");
    case LOAD_EMPTY:
        return xstrdup("no token came");
    case LOAD_OK:
    case LOAD_CANCELLED:
        break;
    }
    return NULL;
}

/* Only a finish reason came: the end-of-sequence token was the first one. That is one token without text. */
static void count_bare_finish(Transfer *t)
{
    if (t->chunks || t->completion_tokens < 1 || !t->finished || !(t->last > 0))
        return;
    t->chunks = 1;
    t->record->ttft = t->last - t->sent;
}

static void complete(Transfer *t, CURLcode code)
{
    LoadRecord *r = t->record;
    long status = 0;
    curl_off_t retry = 0;
    t->now = now_seconds();
    if (code == CURLE_OK)
        sse_end(&t->sse, on_event, t);
    count_bare_finish(t);
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(t->easy, CURLINFO_RETRY_AFTER, &retry);
    r->status = (int)status;
    r->retry_after = retry > 0 ? (double)retry : NAN;
    r->end = t->now - t->client->begin;
    r->latency = t->last > 0 ? t->last - t->sent : NAN;
    r->output_tokens = r->usage ? t->completion_tokens : t->chunks;
    r->outcome = outcome_of(t, code);
    r->error = message_of(t, r->outcome, code);
}

/* ---- transfers ------------------------------------------------------------------------------------------------- */

static Transfer *take_transfer(Client *c)
{
    Transfer *t = c->idle;
    if (t) {
        c->idle = t->next;
        curl_easy_reset(t->easy);
    } else {
        t = xcalloc(1, sizeof *t);
        t->easy = curl_easy_init();
        t->client = c;
        vec_push(&c->transfers, t);
    }
    return t;
}

static void give_transfer(Transfer *t)
{
    Client *c = t->client;
    CURL *easy = t->easy;
    sse_free(&t->sse);
    buf_free(&t->body);
    *t = (Transfer){.client = c, .easy = easy, .next = c->idle};
    c->idle = t;
}

static bool start_transfer(Client *c, size_t i, Err *err)
{
    Transfer *t = take_transfer(c);
    load_curl_setup(c->server, t->easy, load_endpoint_path(c->server));
    curl_easy_setopt(t->easy, CURLOPT_POSTFIELDS, c->plan->requests[i].body);
    curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->plan->requests[i].len);
    curl_easy_setopt(t->easy, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(t->easy, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(t->easy, CURLOPT_PRIVATE, t);
    curl_easy_setopt(t->easy, CURLOPT_ERRORBUFFER, t->curl_error);
    t->sent = now_seconds();
    t->record = &c->records[i];
    t->record->start = t->sent - c->begin;
    CURLMcode code = curl_multi_add_handle(c->multi, t->easy);
    return code == CURLM_OK || err_set(err, "libcurl: %s", curl_multi_strerror(code));
}

static void reap(Client *c)
{
    CURLMsg *message;
    int left;
    while ((message = curl_multi_info_read(c->multi, &left))) {
        if (message->msg != CURLMSG_DONE)
            continue;
        Transfer *t = NULL;
        CURLcode code = message->data.result;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&t);
        complete(t, code);
        curl_multi_remove_handle(c->multi, t->easy);
        give_transfer(t);
        c->done++;
    }
}

/* ---- waiting --------------------------------------------------------------------------------------------------- */

/* libcurl says what it wants to know of a socket. `known` is set once the socket is in the epoll set. */
static int on_socket(CURL *easy, curl_socket_t fd, int what, void *context, void *known)
{
    Client *c = context;
    struct epoll_event e = {.data.fd = fd};
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(c->epoll, EPOLL_CTL_DEL, fd, NULL);
        return 0;
    }
    e.events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
    epoll_ctl(c->epoll, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &e);
    curl_multi_assign(c->multi, fd, c);
    return 0;
}

static int on_timeout(CURLM *multi, long milliseconds, void *context)
{
    Client *c = context;
    (void)multi;
    c->curl_deadline = milliseconds < 0 ? INFINITY : now_seconds() + (double)milliseconds / 1e3;
    return 0;
}

/* Lets the timer fire at this moment of the monotonic clock; INFINITY: never. */
static void set_timer(const Client *c, double at)
{
    struct itimerspec spec = {0};
    if (isfinite(at)) {
        double seconds = floor(at);
        spec.it_value.tv_sec = (time_t)seconds;
        spec.it_value.tv_nsec = (long)((at - seconds) * 1e9) | 1; /* all zero would mean never */
    }
    timerfd_settime(c->timer, TFD_TIMER_ABSTIME, &spec, NULL);
}

static void on_ready(Client *c, const struct epoll_event *e)
{
    int running, what = 0;
    if (e->data.fd == c->timer)
        return; /* setting it anew makes it quiet again */
    what |= e->events & EPOLLIN ? CURL_CSELECT_IN : 0;
    what |= e->events & EPOLLOUT ? CURL_CSELECT_OUT : 0;
    what |= e->events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0;
    curl_multi_socket_action(c->multi, e->data.fd, what, &running);
}

static bool wait_for_events(Client *c, double next_arrival, Err *err)
{
    struct epoll_event events[EVENTS];
    int running;
    set_timer(c, fmin(next_arrival, c->curl_deadline));
    int n = epoll_wait(c->epoll, events, EVENTS, -1);
    if (n < 0 && errno != EINTR)
        return err_set(err, "epoll_wait: %s", strerror(errno));
    for (int i = 0; i < n; i++)
        on_ready(c, &events[i]);
    if (c->curl_deadline <= now_seconds()) {
        c->curl_deadline = INFINITY; /* libcurl sets it again when it needs another */
        curl_multi_socket_action(c->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    }
    return true;
}

/* ---- a run ----------------------------------------------------------------------------------------------------- */

/* Sends what is due. *next becomes the time to look again; INFINITY when an answer has to come first. */
static bool send_due(Client *c, double *next, Err *err)
{
    const LoadSchedule *plan = c->plan;
    size_t limit = plan->concurrency ? (size_t)plan->concurrency : SIZE_MAX;
    *next = INFINITY;
    while (c->sent < plan->n && c->sent - c->done < limit) {
        double due = c->begin + plan->arrivals[c->sent];
        if (due > now_seconds()) {
            *next = due;
            return true;
        }
        if (!start_transfer(c, c->sent++, err))
            return false;
    }
    return true;
}

static void show_progress(Client *c)
{
    double now = now_seconds();
    if (!c->plan->progress || now < c->next_progress)
        return;
    c->next_progress = now + 0.2;
    fprintf(stderr, "\r\033[K%.0f s: %zu of %zu answered, %zu in flight", now - c->begin, c->done, c->plan->n,
            c->sent - c->done);
}

static bool run_all(Client *c, Err *err)
{
    double next;
    bool ok = true;
    while (ok && c->done < c->plan->n && !*c->plan->stop) {
        ok = send_due(c, &next, err) && wait_for_events(c, next, err);
        reap(c);
        show_progress(c);
    }
    if (c->plan->progress)
        fputs("\r\033[K", stderr);
    return ok;
}

static bool open_client(Client *c, Err *err)
{
    struct epoll_event e = {.events = EPOLLIN};
    c->multi = curl_multi_init();
    c->epoll = epoll_create1(EPOLL_CLOEXEC);
    c->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    e.data.fd = c->timer;
    if (!c->multi || c->epoll < 0 || c->timer < 0 || epoll_ctl(c->epoll, EPOLL_CTL_ADD, c->timer, &e))
        return err_set(err, "the client can't be set up: %s", strerror(errno));
    c->curl_deadline = INFINITY;
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, on_timeout);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
    return true;
}

static void close_client(Client *c)
{
    for (size_t i = 0; i < c->transfers.len; i++) {
        Transfer *t = c->transfers.at[i];
        curl_multi_remove_handle(c->multi, t->easy);
        curl_easy_cleanup(t->easy);
        sse_free(&t->sse);
        buf_free(&t->body);
        free(t);
    }
    vec_free(&c->transfers);
    curl_multi_cleanup(c->multi);
    close(c->timer);
    close(c->epoll);
}

static void clear_records(const LoadSchedule *plan, LoadRecord *records)
{
    for (size_t i = 0; i < plan->n; i++)
        records[i] = (LoadRecord){
            .scheduled = plan->arrivals[i], .ttft = NAN, .latency = NAN, .retry_after = NAN, .outcome = LOAD_CANCELLED,
            .prompt_tokens = plan->requests[i].prompt_tokens,
        };
}

bool load_send(const LoadServer *s, const LoadSchedule *plan, LoadRecord *records, double *duration, Err *err)
{
    Client c = {.server = s, .plan = plan, .records = records, .epoll = -1, .timer = -1};
    clear_records(plan, records);
    bool ok = open_client(&c, err);
    c.begin = now_seconds();
    ok = ok && run_all(&c, err);
    *duration = now_seconds() - c.begin;
    close_client(&c);
    return ok;
}
