/* service_output.c - the output thread of a service: tokens become text, stop strings end choices, sinks are called,
 * requests are measured. See service_int.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "service_int.h"

void completion_free(Completion *m)
{
    for (int i = 0; i < m->n; i++) {
        Choice *c = &m->choices[i];
        free(c->error);
        free(c->prompt);
        free(c->hidden);
        text_free(c->stream);
        buf_free(&c->text);
        vec_free(&c->tokens);
        vec_free(&c->ends);
        vec_free(&c->tops);
    }
    free(m->prompt);
    sampling_free(&m->sampling);
    free(m);
}

/* ---- deltas ------------------------------------------------------------------------------------------------------ */

/* Tokens at the front whose text is certain as a whole. A token without text may be half a character, so it waits for
 * the next one with text. */
static size_t certain_tokens(const Choice *c)
{
    uint64_t certain = c->delivered + c->text.len, end = c->delivered;
    size_t n = 0;
    for (size_t i = 0; i < c->tokens.len && c->ends.at[i] <= certain; i++) {
        if (c->ends.at[i] > end)
            n = i + 1;
        end = c->ends.at[i];
    }
    return n;
}

/* Forgets the first n tokens, `tops` log-probabilities and `len` bytes. */
static void drop_delivered(Choice *c, size_t n, size_t tops, size_t len)
{
    c->tokens.len -= n;
    c->ends.len -= n;
    c->tops.len -= tops;
    c->text.len -= len;
    c->delivered += len;
    if (c->tokens.len) {
        memmove(c->tokens.at, c->tokens.at + n, c->tokens.len * sizeof *c->tokens.at);
        memmove(c->ends.at, c->ends.at + n, c->ends.len * sizeof *c->ends.at);
    }
    if (c->tops.len)
        memmove(c->tops.at, c->tops.at + tops, c->tops.len * sizeof *c->tops.at);
    if (c->text.len)
        memmove(c->text.data, c->text.data + len, c->text.len);
}

/* Hands out what is certain, or all there is. */
static void deliver(Choice *c, bool all)
{
    if (!all && !c->text.len)
        return;
    size_t n = all ? c->tokens.len : certain_tokens(c), tops = 0;
    size_t len = all ? c->text.len : n ? (size_t)(c->ends.at[n - 1] - c->delivered) : 0;
    if (!n && !len)
        return;
    for (size_t i = 0; i < n; i++) {
        c->tokens.at[i].top = c->tops.at + tops;
        tops += (size_t)c->tokens.at[i].top_count;
    }
    const CompletionSink *sink = &c->completion->sink;
    sink->delta(sink->context, &(CompletionDelta){
        .choice = c->index,
        .text = len ? c->text.data : "",
        .text_len = len,
        .tokens = c->tokens.at,
        .tokens_count = (int)n,
    });
    drop_delivered(c, n, tops, len);
}

/* ---- the end of a choice ----------------------------------------------------------------------------------------- */

static const char *finished_reason(CompletionReason r)
{
    static const char *const names[] = {"stop", "length", "abort", "abort", "error"};
    return names[r];
}

static void measure(const Service *s, const Choice *c, CompletionReason reason, double now)
{
    Metrics *metrics = s->o.metrics;
    const Completion *m = c->completion;
    metrics_finished(metrics, finished_reason(reason));
    if (reason == COMPLETION_EXPIRED && !c->index)
        metrics_add(metrics, METRIC_REJECTIONS, 1);
    if (reason != COMPLETION_STOP && reason != COMPLETION_LENGTH)
        return;
    if (isnan(c->first_time))
        metrics_add(metrics, METRIC_PROMPT_TOKENS, m->prompt_len);
    metrics_observe(metrics, METRIC_E2E, now - m->submitted);
    metrics_observe(metrics, METRIC_PROMPT_LENGTH, m->prompt_len);
    metrics_observe(metrics, METRIC_GENERATION_LENGTH, c->count);
    metrics_observe(metrics, METRIC_PREFILL_TIME, (isnan(c->first_time) ? now : c->first_time) - c->start_time);
    metrics_observe(metrics, METRIC_INFERENCE_TIME, now - c->start_time);
    if (c->count)
        metrics_observe(metrics, METRIC_DECODE_TIME, c->last_time - c->first_time);
    if (c->count > 1)
        metrics_observe(metrics, METRIC_TPOT, (c->last_time - c->first_time) / (c->count - 1));
    if (c->index)
        return;
    metrics_observe(metrics, METRIC_PARAMS_N, m->n);
    metrics_observe(metrics, METRIC_PARAMS_MAX_TOKENS, (double)m->sampling.max_tokens);
}

static int64_t stop_token_of(const Choice *c)
{
    const SamplingParams *p = &c->completion->sampling;
    for (size_t i = 0; c->count && i < p->stop_tokens.len; i++)
        if (p->stop_tokens.at[i] == c->last_token)
            return c->last_token;
    return -1;
}

/* The pooled hidden state; to be freed. */
static float *embedding_of(const Service *s, const Choice *c)
{
    float *e = xmalloc(sizeof *e * (size_t)s->hidden_size);
    double parts = c->completion->pooling == POOLING_MEAN ? c->completion->prompt_len : 1;
    for (int i = 0; i < s->hidden_size; i++)
        e[i] = (float)(c->hidden[i] / parts);
    return e;
}

static void finish(Service *s, Choice *c, CompletionReason reason, const char *error, double now)
{
    Completion *m = c->completion;
    deliver(c, true);
    c->finished = true;
    bool whole = reason == COMPLETION_STOP || reason == COMPLETION_LENGTH;
    const char *stop = c->stream ? text_stop(c->stream) : NULL;
    float *embedding = whole && c->hidden ? embedding_of(s, c) : NULL;
    CompletionEnd end = {
        .choice = c->index,
        .last = --m->unfinished == 0,
        .reason = reason,
        .stop_string = stop,
        .stop_token = reason == COMPLETION_STOP && !stop ? stop_token_of(c) : -1,
        .error = error,
        .prompt_tokens = m->prompt_len,
        .completion_tokens = c->count,
        .cached_tokens = c->cached,
        .queue_seconds = (isnan(c->start_time) ? now : c->start_time) - m->submitted,
        .first_token_seconds = c->first_time - m->submitted,
        .total_seconds = now - m->submitted,
        .prompt = whole ? c->prompt : NULL,
        .embedding = embedding,
        .embedding_len = embedding ? s->hidden_size : 0,
    };
    measure(s, c, reason, now);
    m->sink.finish(m->sink.context, &end);
    free(embedding);
    service_note_finish(s, end.last);
}

/* ---- records ----------------------------------------------------------------------------------------------------- */

static void on_start(const Service *s, Choice *c, const Record *r)
{
    c->start_time = r->time;
    c->cached = r->cached;
    metrics_observe(s->o.metrics, METRIC_QUEUE_TIME, r->time - c->completion->submitted);
    metrics_add(s->o.metrics, METRIC_PREFIX_QUERIES, c->completion->prompt_len);
    metrics_add(s->o.metrics, METRIC_PREFIX_HITS, r->cached);
}

static void note_time(const Service *s, Choice *c, double now)
{
    if (isnan(c->first_time)) {
        c->first_time = now;
        metrics_add(s->o.metrics, METRIC_PROMPT_TOKENS, c->completion->prompt_len);
        metrics_observe(s->o.metrics, METRIC_TTFT, now - c->completion->submitted);
    } else {
        metrics_observe(s->o.metrics, METRIC_ITL, now - c->last_time);
    }
    c->last_time = now;
}

static void on_token(Service *s, Choice *c, const Record *r, const TopLogprob *tops)
{
    if (c->finished)
        return;
    note_time(s, c, r->time);
    c->count++;
    c->last_token = r->token.id;
    bool silent = r->token.stops && !c->completion->include_stop; /* the text ends before it */
    bool go_on = silent || text_push(c->stream, r->token.id, &c->text);
    vec_push(&c->tokens, (CompletionToken){r->token.id, r->token.logprob, r->token.top_count, NULL});
    vec_push(&c->ends, c->delivered + c->text.len + text_held(c->stream));
    for (int i = 0; i < r->token.top_count; i++)
        vec_push(&c->tops, tops[i]);
    if (!c->touched)
        vec_push(&s->touched, c);
    c->touched = true;
    if (go_on)
        return;
    finish(s, c, COMPLETION_STOP, NULL, r->time);
    service_cancel_choice(s, c->completion->id, c->index);
}

static void on_end(Service *s, Choice *c, const Record *r)
{
    if (!c->finished) {
        bool stopped = c->stream && !text_finish(c->stream, &c->text);
        finish(s, c, stopped ? COMPLETION_STOP : r->end.reason, c->error, r->time);
    }
    if (r->end.gone && --c->completion->remaining == 0)
        vec_push(&s->gone, c->completion);
}

static void work_on(Service *s)
{
    const Records *all = &s->records;
    size_t tokens = 0;
    const TopLogprob *tops = all->tops.at;
    for (size_t i = 0; i < all->list.len; i++) {
        const Record *r = &all->list.at[i];
        if (r->kind == RECORD_START) {
            on_start(s, r->choice, r);
        } else if (r->kind == RECORD_TOKEN) {
            on_token(s, r->choice, r, tops);
            tops += r->token.top_count;
            tokens++;
        } else {
            on_end(s, r->choice, r);
        }
    }
    if (tokens)
        metrics_add(s->o.metrics, METRIC_GENERATION_TOKENS, (double)tokens);
    for (size_t i = 0; i < s->touched.len; i++) {
        s->touched.at[i]->touched = false;
        if (!s->touched.at[i]->finished)
            deliver(s->touched.at[i], false);
    }
    for (size_t i = 0; i < s->gone.len; i++)
        completion_free(s->gone.at[i]);
    s->touched.len = s->gone.len = 0;
}

/* ---- the thread -------------------------------------------------------------------------------------------------- */

static void tick(Service *s)
{
    double now = now_seconds();
    if (!s->o.metrics || now < s->next_tick)
        return;
    metrics_tick(s->o.metrics);
    s->next_tick = MAX(s->next_tick + 1, now + 0.5);
}

/* With the lock held, until there are records, or it is time for a tick. */
static void sleep_until_ready(Service *s)
{
    if (!s->o.metrics) {
        pthread_cond_wait(&s->out_ready, &s->out_lock);
        return;
    }
    struct timespec until = {(time_t)s->next_tick, (long)(fmod(s->next_tick, 1) * 1e9)};
    pthread_cond_timedwait(&s->out_ready, &s->out_lock, &until);
}

/* Swaps the pending records in; false when there are none and none will come. */
static bool take_records(Service *s)
{
    pthread_mutex_lock(&s->out_lock);
    if (!s->pending.list.len && !s->out_stop)
        sleep_until_ready(s);
    Records empty = s->records;
    empty.list.len = empty.tops.len = 0;
    s->records = s->pending;
    s->pending = empty;
    bool go_on = s->records.list.len || !s->out_stop;
    pthread_mutex_unlock(&s->out_lock);
    return go_on;
}

void *service_output_main(void *service)
{
    Service *s = service;
    pthread_setname_np(pthread_self(), "output");
    s->next_tick = now_seconds() + 1;
    while (take_records(s)) {
        work_on(s);
        tick(s);
    }
    return NULL;
}
