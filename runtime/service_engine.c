/* service_engine.c - the engine thread of a service: takes requests over, steps, and tells the output thread what came
 * out. See service_int.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "service_int.h"

/* ---- what the engine thread tells -------------------------------------------------------------------------------- */

/* Hands the records over, with one wake-up. Never waits for the output thread to be done with anything. */
static void flush(Service *s)
{
    if (!s->told.list.len)
        return;
    pthread_mutex_lock(&s->out_lock);
    if (!s->pending.list.len) {
        Records empty = s->pending;
        s->pending = s->told;
        s->told = empty;
    } else {
        for (size_t i = 0; i < s->told.list.len; i++)
            vec_push(&s->pending.list, s->told.list.at[i]);
        for (size_t i = 0; i < s->told.tops.len; i++)
            vec_push(&s->pending.tops, s->told.tops.at[i]);
    }
    pthread_cond_signal(&s->out_ready);
    pthread_mutex_unlock(&s->out_lock);
    s->told.list.len = s->told.tops.len = 0;
}

static void tell_end(Service *s, Choice *c, CompletionReason reason, const char *error, bool gone)
{
    if (error && !c->error)
        c->error = xstrdup(error);
    vec_push(&s->told.list, (Record){c, now_seconds(), RECORD_END, .end = {reason, gone}});
}

/* ---- completions that the engine thread knows -------------------------------------------------------------------- */

static Completion **bucket_of(Service *s, uint64_t id)
{
    return &s->buckets[id % COUNT(s->buckets)];
}

static void add_waiting(Service *s, Completion *m)
{
    m->waits = true;
    m->older = s->newest;
    *(s->newest ? &s->newest->newer : &s->oldest) = m;
    s->newest = m;
}

static void remove_waiting(Service *s, Completion *m)
{
    if (!m->waits)
        return;
    m->waits = false;
    *(m->older ? &m->older->newer : &s->oldest) = m->newer;
    *(m->newer ? &m->newer->older : &s->newest) = m->older;
}

static void know(Service *s, Completion *m)
{
    Completion **bucket = bucket_of(s, m->id);
    m->next = *bucket;
    *bucket = m;
    add_waiting(s, m);
}

static void forget(Service *s, Completion *m)
{
    Completion **at = bucket_of(s, m->id);
    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    remove_waiting(s, m);
}

static Completion *find(Service *s, uint64_t id)
{
    Completion *m = *bucket_of(s, id);
    while (m && m->id != id)
        m = m->next;
    return m;
}

static void leave_queue(Service *s, Choice *c)
{
    if (!c->queued)
        return;
    c->queued = false;
    atomic_fetch_sub(&s->waiting, 1);
    atomic_fetch_sub(&s->waiting_tokens, c->completion->prompt_len);
}

/* The engine does not have this choice any more, or never had it. */
static void end_choice(Service *s, Choice *c, CompletionReason reason, const char *error)
{
    Completion *m = c->completion;
    c->state = CHOICE_GONE;
    c->request = NULL;
    leave_queue(s, c);
    tell_end(s, c, reason, error, true);
    atomic_fetch_sub(&s->live, 1);
    if (--m->known == 0)
        forget(s, m);
}

/* ---- sinks of the engine ----------------------------------------------------------------------------------------- */

static void on_start(void *context, int cached_tokens)
{
    Choice *c = context;
    Service *s = c->completion->service;
    leave_queue(s, c);
    if (!c->index)
        remove_waiting(s, c->completion);
    vec_push(&s->told.list, (Record){c, now_seconds(), RECORD_START, .cached = cached_tokens});
}

/* The first token of the first choice: the prompt is in the cache, so the other choices may begin. */
static void release(Service *s, Completion *m)
{
    m->released = true;
    if (m->n > 1)
        vec_push(&s->ready, m);
}

static bool on_token(void *context, const EngineToken *t)
{
    Choice *c = context;
    Completion *m = c->completion;
    Service *s = m->service;
    for (int i = 0; i < t->top_count; i++)
        vec_push(&s->told.tops, t->top[i]);
    float logprob = m->sampling.logprobs >= 0 ? t->logprob : 0;
    vec_push(&s->told.list,
             (Record){c, now_seconds(), RECORD_TOKEN, .token = {t->token, logprob, t->top_count, false}});
    if (!c->index && !t->index)
        release(s, m);
    return true;
}

/* Row of the prompt's token at `position`: what the model thinks of the next one. */
static void on_row(void *context, int position, const float *logits, float log_sum_exp)
{
    Choice *c = context;
    const Completion *m = c->completion;
    if (!c->prompt) {
        c->prompt = xcalloc((size_t)m->prompt_len, sizeof *c->prompt);
        c->prompt[0] = (PromptToken){.id = m->prompt[0], .logprob = NAN};
    }
    if (position + 1 >= m->prompt_len)
        return;
    PromptToken *p = &c->prompt[position + 1];
    p->id = m->prompt[position + 1];
    p->logprob = logits[p->id] - log_sum_exp;
    p->rank = 1;
    for (int64_t t = 0; t < m->service->vocab; t++)
        p->rank += logits[t] > logits[p->id];
    if (m->prompt_logprobs)
        p->top_count = sampling_top(logits, m->service->vocab, log_sum_exp, m->prompt_logprobs, p->top);
}

static void on_hidden(void *context, int position, const float *state)
{
    (void)position;
    Choice *c = context;
    int size = c->completion->service->hidden_size;
    if (!c->hidden)
        c->hidden = xcalloc((size_t)size, sizeof *c->hidden);
    for (int i = 0; i < size; i++)
        c->hidden[i] += state[i];
}

static CompletionReason reason_of(const Service *s, const Completion *m, FinishReason reason)
{
    switch (reason) {
    case FINISH_STOP:
        return COMPLETION_STOP;
    case FINISH_LENGTH:
        return COMPLETION_LENGTH;
    case FINISH_ABORT:
        return s->state == SERVICE_FAILED ? COMPLETION_ERROR : m->expired ? COMPLETION_EXPIRED : COMPLETION_ABORT;
    default:
        return COMPLETION_ERROR;
    }
}

/* Choices that are held until the first one has a token. */
static void end_held(Service *s, Completion *m, CompletionReason reason, const char *error)
{
    for (int i = 0; i < m->n; i++)
        if (m->choices[i].state == CHOICE_HELD)
            end_choice(s, &m->choices[i], reason, error);
}

/* The token that was told last ended the sequence: the engine gives it right before the end. */
static void mark_stop(Service *s, const Choice *c)
{
    Record *r = s->told.list.len ? &s->told.list.at[s->told.list.len - 1] : NULL;
    if (r && r->choice == c && r->kind == RECORD_TOKEN)
        r->token.stops = true;
}

static void on_finish(void *context, FinishReason finish)
{
    Choice *c = context;
    Completion *m = c->completion;
    Service *s = m->service;
    CompletionReason reason = reason_of(s, m, finish);
    char error[128] = "";
    if (reason == COMPLETION_EXPIRED)
        snprintf(error, sizeof error, "the request waited longer than %g seconds for its turn; try again later",
                 s->o.max_queue_time);
    else if (reason == COMPLETION_ERROR)
        snprintf(error, sizeof error, "the model's output is not a number; are the weights damaged?");
    if (finish == FINISH_STOP)
        mark_stop(s, c);
    end_choice(s, c, reason, *error ? error : NULL);
    if (!c->index && !m->released)
        end_held(s, m, reason, *error ? error : NULL);
}

/* ---- what the engine thread takes over --------------------------------------------------------------------------- */

EngineHidden completion_hidden(Pooling p)
{
    return p == POOLING_LAST ? HIDDEN_LAST : p == POOLING_MEAN ? HIDDEN_ALL : HIDDEN_NONE;
}

static void start_choice(Service *s, Choice *c)
{
    Completion *m = c->completion;
    SamplingParams sampling = m->sampling;
    sampling.seed += (uint64_t)c->index;
    EngineRequest r = {
        .prompt = m->prompt,
        .prompt_len = m->prompt_len,
        .sampling = &sampling,
        .all_rows = m->prompt_logprobs >= 0 && !c->index,
        .hidden = completion_hidden(m->pooling),
        .priority = m->priority,
        .salt = m->salt,
        .sink = {c, on_start, on_token, on_row, on_hidden, on_finish},
    };
    Err err;
    c->request = engine_add(s->engine, &r, &err);
    c->state = CHOICE_ENGINE;
    if (c->request)
        return;
    end_choice(s, c, COMPLETION_ERROR, err.text);
    if (!c->index)
        end_held(s, m, COMPLETION_ERROR, err.text);
}

static void start_released(Service *s)
{
    for (size_t i = 0; i < s->ready.len; i++)
        for (int k = 0; k < s->ready.at[i]->n; k++)
            if (s->ready.at[i]->choices[k].state == CHOICE_HELD)
                start_choice(s, &s->ready.at[i]->choices[k]);
    s->ready.len = 0;
}

/* choice -1: all. */
static void cancel(Service *s, Completion *m, int choice)
{
    for (int i = 0; i < m->n; i++) {
        Choice *c = &m->choices[i];
        if (choice >= 0 && choice != i)
            continue;
        if (c->state == CHOICE_ENGINE)
            engine_cancel(c->request);
        else if (c->state == CHOICE_HELD)
            end_choice(s, c, COMPLETION_ABORT, NULL);
    }
}

static void swap_inbox(Service *s)
{
    s->taken.list.len = 0;
    pthread_mutex_lock(&s->lock);
    Commands taken = s->inbox;
    s->inbox = s->taken;
    s->taken = taken;
    pthread_mutex_unlock(&s->lock);
}

static void take_inbox(Service *s)
{
    swap_inbox(s);
    for (size_t i = 0; i < s->taken.list.len; i++) {
        const Command *command = &s->taken.list.at[i];
        Completion *m = command->add ? command->add : find(s, command->id);
        if (command->add) {
            know(s, m);
            start_choice(s, &m->choices[0]);
        } else if (m) {
            cancel(s, m, command->choice);
        }
    }
}

static void expire(Service *s)
{
    double now = s->o.max_queue_time > 0 && s->oldest ? now_seconds() : 0;
    while (s->oldest && now - s->oldest->submitted > s->o.max_queue_time) {
        Completion *m = s->oldest;
        remove_waiting(s, m);
        m->expired = true;
        cancel(s, m, 0); /* the others end with it */
    }
}

/* Once a step, as late as new requests can still take part in it. */
static void arrivals(void *service)
{
    Service *s = service;
    start_released(s);
    take_inbox(s);
    expire(s);
    flush(s);
}

/* ---- the engine thread ------------------------------------------------------------------------------------------- */

static void measure_step(Service *s, const EngineStats *stats)
{
    Metrics *m = s->o.metrics;
    if (stats->steps > s->steps) {
        metrics_add(m, METRIC_STEPS, (double)(stats->steps - s->steps));
        metrics_add(m, METRIC_PREEMPTIONS, (double)(stats->preemptions - s->preemptions));
        metrics_observe(m, METRIC_ITERATION_TOKENS, stats->step_tokens);
        metrics_observe(m, METRIC_STEP_TIME, stats->step_seconds);
    }
    s->steps = stats->steps;
    s->preemptions = stats->preemptions;
    double used = stats->pages ? (double)stats->pages_used / (double)stats->pages : 0;
    metrics_set(m, METRIC_RUNNING, stats->running);
    metrics_set(m, METRIC_WAITING, (double)MAX(atomic_load(&s->live) - stats->running, 0));
    metrics_set(m, METRIC_KV_USAGE, used);
    metrics_set(m, METRIC_GPU_CACHE_USAGE, used);
}

static void publish_stats(Service *s)
{
    const EngineStats *stats = engine_stats(s->engine);
    pthread_mutex_lock(&s->stats_lock);
    s->stats = *stats;
    pthread_mutex_unlock(&s->stats_lock);
    if (s->o.metrics)
        measure_step(s, stats);
}

static bool open_engine(Service *s, Err *err)
{
    EngineOptions options = {.arrivals = arrivals, .context = s};
    if (!s->o.open(s->o.context, &options, &s->engine, err))
        return false;
    s->limits = *engine_limits(s->engine);
    s->vocab = engine_vocab(s->engine);
    s->hidden_size = engine_hidden_size(s->engine);
    s->stats = *engine_stats(s->engine);
    metrics_cache_config(s->o.metrics, s->limits.page_tokens, s->limits.pages);
    return true;
}

static void set_state(Service *s, ServiceState state, const Err *err)
{
    pthread_mutex_lock(&s->lock);
    s->state = state;
    if (err)
        s->failure = *err;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/* Until there is something to do; false when the service ends. */
static bool wait_for_work(Service *s)
{
    bool idle = s->state == SERVICE_FAILED || engine_idle(s->engine);
    pthread_mutex_lock(&s->lock);
    while (idle && !s->stop && !s->inbox.list.len)
        pthread_cond_wait(&s->work, &s->lock);
    bool go_on = !s->stop;
    pthread_mutex_unlock(&s->lock);
    return go_on;
}

/* Ends the completions that never reached the engine. */
static void refuse_inbox(Service *s, CompletionReason reason, const char *error)
{
    swap_inbox(s);
    for (size_t i = 0; i < s->taken.list.len; i++) {
        Completion *m = s->taken.list.at[i].add;
        if (!m)
            continue;
        know(s, m);
        end_held(s, m, reason, error);
    }
}

/* The engine is lost: everyone is told now; what the engine still holds is freed with it. */
static void fail(Service *s, const Err *err)
{
    set_state(s, SERVICE_FAILED, err);
    s->ready.len = 0;
    refuse_inbox(s, COMPLETION_ERROR, s->failure.text);
    for (size_t i = 0; i < COUNT(s->buckets); i++)
        for (Completion *m = s->buckets[i], *next; m; m = next) {
            next = m->next;
            for (int k = 0; k < m->n; k++)
                if (m->choices[k].state == CHOICE_ENGINE)
                    tell_end(s, &m->choices[k], COMPLETION_ERROR, s->failure.text, false);
            end_held(s, m, COMPLETION_ERROR, s->failure.text);
        }
    flush(s);
}

static void run(Service *s)
{
    Err err;
    while (wait_for_work(s)) {
        if (s->state == SERVICE_FAILED) {
            swap_inbox(s); /* cancellations, of nothing */
            continue;
        }
        if (!engine_step(s->engine, &err))
            fail(s, &err);
        flush(s);
        publish_stats(s);
    }
}

void *service_engine_main(void *service)
{
    Service *s = service;
    Err err = {0};
    bool ok = open_engine(s, &err);
    pthread_setname_np(pthread_self(), "engine"); /* behind open: its threads keep the name of the program */
    set_state(s, ok ? SERVICE_OPEN : SERVICE_FAILED, &err);
    if (!ok)
        return NULL;
    run(s);
    refuse_inbox(s, COMPLETION_ABORT, NULL);
    s->o.close(s->o.context); /* ends what is in the engine */
    flush(s);
    return NULL;
}
