/* service.c - begin and end of a service, requests in, what is going on; see service.h. The threads are in
 * service_engine.c and service_output.c. */
#include "service.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "service_int.h"

/* ---- begin and end ----------------------------------------------------------------------------------------------- */

static void make_condition(pthread_cond_t *c)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(c, &attr);
    pthread_condattr_destroy(&attr);
}

static void destroy(Service *s)
{
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->out_lock);
    pthread_mutex_destroy(&s->stats_lock);
    pthread_cond_destroy(&s->work);
    pthread_cond_destroy(&s->changed);
    pthread_cond_destroy(&s->out_ready);
    Records *records[] = {&s->told, &s->pending, &s->records};
    for (size_t i = 0; i < COUNT(records); i++) {
        vec_free(&records[i]->list);
        vec_free(&records[i]->tops);
    }
    vec_free(&s->inbox.list);
    vec_free(&s->taken.list);
    vec_free(&s->ready);
    vec_free(&s->touched);
    vec_free(&s->gone);
    free(s);
}

static void stop_output(Service *s)
{
    pthread_mutex_lock(&s->out_lock);
    s->out_stop = true;
    pthread_cond_signal(&s->out_ready);
    pthread_mutex_unlock(&s->out_lock);
    pthread_join(s->output_thread, NULL);
}

static bool start_threads(Service *s, Err *err)
{
    int failed = pthread_create(&s->output_thread, NULL, service_output_main, s);
    if (!failed && (failed = pthread_create(&s->engine_thread, NULL, service_engine_main, s)))
        stop_output(s);
    return !failed || err_set(err, "cannot start a thread: %s", strerror(failed));
}

Service *service_new(const ServiceOptions *options, Err *err)
{
    Service *s = xcalloc(1, sizeof *s);
    s->o = *options;
    s->born = now_seconds();
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->out_lock, NULL);
    pthread_mutex_init(&s->stats_lock, NULL);
    make_condition(&s->work);
    make_condition(&s->changed);
    make_condition(&s->out_ready);
    if (!start_threads(s, err)) {
        destroy(s);
        return NULL;
    }
    pthread_mutex_lock(&s->lock);
    while (s->state == SERVICE_OPENING)
        pthread_cond_wait(&s->changed, &s->lock);
    bool ok = s->state == SERVICE_OPEN;
    pthread_mutex_unlock(&s->lock);
    if (ok)
        return s;
    err_set(err, "%s", s->failure.text);
    service_free(s);
    return NULL;
}

void service_free(Service *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = s->closing = true;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->engine_thread, NULL);
    stop_output(s);
    destroy(s);
}

bool service_drain(Service *s, double seconds)
{
    double end = now_seconds() + MIN(MAX(seconds, 0), 1e9);
    struct timespec until = {(time_t)end, (long)(fmod(end, 1) * 1e9)};
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    while (s->unfinished && pthread_cond_timedwait(&s->changed, &s->lock, &until) == 0)
        ;
    bool done = !s->unfinished;
    pthread_mutex_unlock(&s->lock);
    return done;
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static bool check(const Service *s, const CompletionRequest *r, Err *err)
{
    if (r->choices < 1 || r->prompt_logprobs < -1 || r->prompt_logprobs > SAMPLING_MAX_LOGPROBS)
        return err_set(err, "n is %d and prompt_logprobs is %d; n >= 1 and -1..%d are allowed", r->choices,
                       r->prompt_logprobs, SAMPLING_MAX_LOGPROBS);
    EngineRequest e = {
        .prompt = r->prompt,
        .prompt_len = r->prompt_len,
        .sampling = r->sampling,
        .all_rows = r->prompt_logprobs >= 0,
        .hidden = completion_hidden(r->pooling),
    };
    return engine_accepts(s->engine, &e, err);
}

/* Sequences that could still run now. */
static int64_t free_places(const Service *s)
{
    int64_t started = atomic_load(&s->live) - atomic_load(&s->waiting);
    return MAX(s->limits.seqs - started, 0);
}

/* With the lock held. */
static SubmitResult admit(const Service *s, const CompletionRequest *r, Err *err)
{
    int64_t waiting = atomic_load(&s->waiting), tokens = atomic_load(&s->waiting_tokens), most;
    SubmitResult result = SUBMIT_OK;
    if (s->state == SERVICE_FAILED || s->closing)
        result = SUBMIT_CLOSING;
    else if (waiting && (most = s->o.max_queued_requests) && waiting + r->choices - free_places(s) > most)
        result = SUBMIT_FULL;
    else if (waiting && (most = s->o.max_queued_tokens) && tokens + (int64_t)r->choices * r->prompt_len > most)
        result = SUBMIT_FULL;
    if (s->state == SERVICE_FAILED)
        err_set(err, "the engine has failed: %s", s->failure.text);
    else if (s->closing)
        err_set(err, "the server is shutting down");
    else if (result == SUBMIT_FULL)
        err_set(err, "the server is busy: %" PRId64 " requests with %" PRId64 " prompt tokens wait; try again later",
                waiting, tokens);
    return result;
}

static void init_choice(const Service *s, Completion *m, int index, const CompletionRequest *r)
{
    Choice *c = &m->choices[index];
    c->completion = m;
    c->index = index;
    c->queued = true;
    c->start_time = c->first_time = c->last_time = NAN;
    if (r->sampling->max_tokens > 0)
        c->stream = text_new(s->o.tokenizer, r->prompt, (size_t)r->prompt_len, &(TextOptions){
            .stops = r->stops,
            .stops_count = (size_t)r->stops_count,
            .include_stop = r->include_stop,
            .keep_special = r->keep_special,
            .min_tokens = r->sampling->min_tokens,
        });
}

static Completion *make_completion(Service *s, const CompletionRequest *r)
{
    Completion *m = xcalloc(1, sizeof *m + (size_t)r->choices * sizeof *m->choices);
    m->service = s;
    m->prompt = xmalloc((size_t)r->prompt_len * sizeof *m->prompt);
    memcpy(m->prompt, r->prompt, (size_t)r->prompt_len * sizeof *m->prompt);
    m->prompt_len = r->prompt_len;
    m->sampling = sampling_copy(r->sampling);
    m->include_stop = r->include_stop;
    m->prompt_logprobs = r->prompt_logprobs;
    m->pooling = r->pooling;
    m->priority = r->priority;
    m->salt = r->salt;
    m->sink = r->sink;
    m->submitted = now_seconds();
    m->n = m->known = m->unfinished = m->remaining = r->choices;
    for (int i = 0; i < m->n; i++)
        init_choice(s, m, i, r);
    return m;
}

/* With the lock held. */
static void post(Service *s, Command command)
{
    vec_push(&s->inbox.list, command);
    pthread_cond_signal(&s->work);
}

/* Puts a new completion into the inbox; with `m` NULL only says whether there is room. */
static SubmitResult enter(Service *s, const CompletionRequest *r, Completion *m, uint64_t *id, Err *err)
{
    pthread_mutex_lock(&s->lock);
    SubmitResult result = admit(s, r, err);
    if (m && result == SUBMIT_OK) {
        *id = m->id = ++s->last_id;
        s->unfinished++;
        atomic_fetch_add(&s->live, m->n);
        atomic_fetch_add(&s->waiting, m->n);
        atomic_fetch_add(&s->waiting_tokens, (int64_t)m->n * m->prompt_len);
        post(s, (Command){.add = m});
    }
    pthread_mutex_unlock(&s->lock);
    return result;
}

SubmitResult service_submit(Service *s, const CompletionRequest *r, uint64_t *id, Err *err)
{
    if (!check(s, r, err))
        return SUBMIT_INVALID;
    SubmitResult result = enter(s, r, NULL, id, err); /* a refusal costs little */
    if (result == SUBMIT_OK) {
        Completion *m = make_completion(s, r);
        result = enter(s, r, m, id, err);
        if (result != SUBMIT_OK)
            completion_free(m);
    }
    if (result == SUBMIT_FULL)
        metrics_add(s->o.metrics, METRIC_REJECTIONS, 1);
    return result;
}

void service_cancel_choice(Service *s, uint64_t id, int choice)
{
    pthread_mutex_lock(&s->lock);
    post(s, (Command){.id = id, .choice = choice});
    pthread_mutex_unlock(&s->lock);
}

void service_cancel(Service *s, uint64_t id)
{
    service_cancel_choice(s, id, -1);
}

/* ---- what is going on -------------------------------------------------------------------------------------------- */

const char *service_failure(const Service *s)
{
    Service *locked = (Service *)s;
    pthread_mutex_lock(&locked->lock);
    bool failed = s->state == SERVICE_FAILED;
    pthread_mutex_unlock(&locked->lock);
    return failed ? s->failure.text : NULL;
}

const ModelLimits *service_limits(const Service *s)
{
    return &s->limits;
}

ServiceStats service_stats(const Service *s)
{
    Service *locked = (Service *)s;
    pthread_mutex_lock(&locked->stats_lock);
    ServiceStats stats = {.engine = s->stats};
    pthread_mutex_unlock(&locked->stats_lock);
    stats.running = stats.engine.running;
    stats.waiting = (int)MAX(atomic_load(&s->live) - stats.running, 0);
    stats.waiting_tokens = atomic_load(&s->waiting_tokens);
    stats.pages = stats.engine.pages;
    stats.pages_used = stats.engine.pages_used;
    return stats;
}

enum { RATE_SECONDS = 10 }; /* over which the rate of finishing is taken */

void service_note_finish(Service *s, bool last)
{
    double now = now_seconds();
    pthread_mutex_lock(&s->stats_lock);
    s->finishes = 1 + s->finishes * exp((s->finishes_time - now) / RATE_SECONDS);
    s->finishes_time = now;
    pthread_mutex_unlock(&s->stats_lock);
    if (!last)
        return;
    pthread_mutex_lock(&s->lock);
    if (--s->unfinished == 0)
        pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

int service_retry_after(const Service *s)
{
    Service *locked = (Service *)s;
    double now = now_seconds();
    pthread_mutex_lock(&locked->stats_lock);
    double finishes = s->finishes * exp((s->finishes_time - now) / RATE_SECONDS);
    pthread_mutex_unlock(&locked->stats_lock);
    double rate = finishes / (RATE_SECONDS * (1 - exp((s->born - now) / RATE_SECONDS)));
    double seconds = ceil((double)atomic_load(&s->waiting) / rate);
    return (int)MIN(MAX(seconds, 1), 60);
}
