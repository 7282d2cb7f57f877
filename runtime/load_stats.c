/* load_stats.c - the figures of a run from the records of its requests; see load_stats.h. */
#include "load_stats.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef VEC(double) Values;

void load_record_free(LoadRecord *r)
{
    vec_free(&r->itl);
    free(r->error);
    r->error = NULL;
}

/* ---- distributions --------------------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double load_percentile(const double *sorted, size_t n, double p)
{
    if (!n)
        return NAN;
    double at = p / 100 * (double)(n - 1);
    size_t below = MIN((size_t)at, n - 1), above = MIN(below + 1, n - 1);
    return sorted[below] + (at - (double)below) * (sorted[above] - sorted[below]);
}

LoadDist load_dist(double *values, size_t n)
{
    if (!n)
        return (LoadDist){0, NAN, NAN, NAN, NAN, NAN, NAN};
    qsort(values, n, sizeof *values, ascending);
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        sum += values[i];
    double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++)
        squares += (values[i] - mean) * (values[i] - mean);
    return (LoadDist){
        .count = n, .mean = mean, .median = load_percentile(values, n, 50), .std = sqrt(squares / (double)n),
        .p90 = load_percentile(values, n, 90), .p99 = load_percentile(values, n, 99), .max = values[n - 1],
    };
}

static LoadDist dist_and_free(Values *v)
{
    LoadDist d = load_dist(v->at, v->len);
    vec_free(v);
    return d;
}

/* ---- one request ----------------------------------------------------------------------------------------------- */

double load_tpot(const LoadRecord *r)
{
    return r->output_tokens > 1 ? (r->latency - r->ttft) / (double)(r->output_tokens - 1) : NAN;
}

static double own_itl(const LoadRecord *r)
{
    Values v = {0};
    for (size_t i = 0; i < r->itl.len; i++)
        vec_push(&v, r->itl.at[i]);
    return dist_and_free(&v).p99;
}

/* A value that does not exist (the gap between tokens of a request with one token) meets every target. */
static bool meets(double value, double target)
{
    return target <= 0 || isnan(value) || value <= target;
}

bool load_is_good(const LoadRecord *r, const LoadTargets *t)
{
    return r->outcome == LOAD_OK && meets(r->ttft, t->ttft) && meets(r->latency, t->latency)
        && meets(load_tpot(r), t->tpot) && (t->itl <= 0 || meets(own_itl(r), t->itl));
}

const char *load_outcome_name(LoadOutcome outcome, int status, char buffer[32])
{
    static const char *const names[] = {
        [LOAD_OK] = "ok", [LOAD_REFUSED] = "refused", [LOAD_CONNECTION] = "connection", [LOAD_TIMEOUT] = "timeout",
        [LOAD_STREAM] = "error in stream", [LOAD_INCOMPLETE] = "cut off", [LOAD_EMPTY] = "no token",
        [LOAD_CANCELLED] = "cancelled",
    };
    if (outcome == LOAD_REFUSED)
        snprintf(buffer, 32, "HTTP %d", status);
    else
        snprintf(buffer, 32, "%s", names[outcome]);
    return buffer;
}

/* ---- failures -------------------------------------------------------------------------------------------------- */

static LoadFailures *failures_of(LoadMetrics *m, const LoadRecord *r)
{
    for (int i = 0; i < m->failures_count; i++)
        if (m->failures[i].outcome == r->outcome && (r->outcome != LOAD_REFUSED || m->failures[i].status == r->status))
            return &m->failures[i];
    if (m->failures_count == LOAD_MAX_KINDS)
        return NULL;
    LoadFailures *f = &m->failures[m->failures_count++];
    *f = (LoadFailures){.outcome = r->outcome, .status = r->status, .retry_min = NAN, .retry_max = NAN,
                        .example = r->error};
    return f;
}

static void add_failure(LoadMetrics *m, const LoadRecord *r)
{
    m->failed++;
    LoadFailures *f = failures_of(m, r);
    if (!f)
        return;
    f->count++;
    f->retry_min = fmin(f->retry_min, r->retry_after); /* fmin and fmax pass over NAN */
    f->retry_max = fmax(f->retry_max, r->retry_after);
}

static int most_frequent_first(const void *a, const void *b)
{
    const LoadFailures *x = a, *y = b;
    return (x->count < y->count) - (x->count > y->count);
}

/* ---- peaks ----------------------------------------------------------------------------------------------------- */

/* Requests in flight at once: walks the starts and the ends in the order of time; an end at the moment of a start comes
 * first. */
static size_t peak_concurrency(const LoadRecord *records, size_t n)
{
    Values starts = {0}, ends = {0};
    for (size_t i = 0; i < n; i++) {
        if (records[i].outcome == LOAD_CANCELLED)
            continue;
        vec_push(&starts, records[i].start);
        vec_push(&ends, records[i].end);
    }
    if (starts.len) {
        qsort(starts.at, starts.len, sizeof *starts.at, ascending);
        qsort(ends.at, ends.len, sizeof *ends.at, ascending);
    }
    size_t peak = 0, ended = 0;
    for (size_t i = 0; i < starts.len; i++) {
        while (ended < i && ends.at[ended] <= starts.at[i])
            ended++;
        peak = MAX(peak, i + 1 - ended);
    }
    vec_free(&starts);
    vec_free(&ends);
    return peak;
}

/* Adds the tokens of a request to the seconds in which its chunks came, evenly among the chunks. */
static void add_seconds(const LoadRecord *r, double first, double *seconds, size_t n)
{
    double at = r->start + r->ttft - first, tokens = (double)r->output_tokens / (double)(r->itl.len + 1);
    seconds[MIN((size_t)at, n - 1)] += tokens;
    for (size_t k = 0; k < r->itl.len; k++) {
        at += r->itl.at[k];
        seconds[MIN((size_t)at, n - 1)] += tokens;
    }
}

/* Tokens of the fullest second, of those since the first request was sent. */
static double peak_output(const LoadRecord *records, size_t n)
{
    double first = INFINITY, last = 0, peak = 0;
    for (size_t i = 0; i < n; i++)
        if (records[i].outcome == LOAD_OK) {
            first = fmin(first, records[i].start);
            last = fmax(last, records[i].start + records[i].latency);
        }
    if (first > last)
        return 0;
    size_t count = (size_t)(last - first) + 2;
    double *seconds = xcalloc(count, sizeof *seconds);
    for (size_t i = 0; i < n; i++)
        if (records[i].outcome == LOAD_OK)
            add_seconds(&records[i], first, seconds, count);
    for (size_t i = 0; i < count; i++)
        peak = fmax(peak, seconds[i]);
    free(seconds);
    return peak;
}

/* ---- the run --------------------------------------------------------------------------------------------------- */

static void add_tokens(LoadMetrics *m, const LoadRecord *r)
{
    m->completed++;
    m->input_tokens += MAX(r->prompt_tokens, 0);
    m->output_tokens += r->output_tokens;
    m->unmeasured_prompts += r->prompt_tokens < 0;
    m->without_usage += !r->usage;
}

static void set_rates(LoadMetrics *m)
{
    double seconds = m->duration > 0 ? m->duration : 1;
    m->request_throughput = (double)m->completed / seconds;
    m->output_throughput = (double)m->output_tokens / seconds;
    m->total_throughput = (double)(m->input_tokens + m->output_tokens) / seconds;
    m->goodput = (double)m->good / seconds;
}

LoadMetrics load_metrics(const LoadRecord *records, size_t n, double duration, const LoadTargets *targets)
{
    LoadMetrics m = {.duration = duration};
    Values ttft = {0}, tpot = {0}, itl = {0}, latency = {0}, lag = {0};
    for (size_t i = 0; i < n; i++) {
        const LoadRecord *r = &records[i];
        if (r->outcome == LOAD_CANCELLED)
            continue;
        vec_push(&lag, r->start - r->scheduled);
        if (r->outcome != LOAD_OK) {
            add_failure(&m, r);
            continue;
        }
        add_tokens(&m, r);
        m.good += load_is_good(r, targets);
        vec_push(&ttft, r->ttft);
        vec_push(&latency, r->latency);
        if (r->output_tokens > 1)
            vec_push(&tpot, load_tpot(r));
        for (size_t k = 0; k < r->itl.len; k++)
            vec_push(&itl, r->itl.at[k]);
    }
    set_rates(&m);
    m.ttft = dist_and_free(&ttft);
    m.tpot = dist_and_free(&tpot);
    m.itl = dist_and_free(&itl);
    m.latency = dist_and_free(&latency);
    m.lag = dist_and_free(&lag);
    m.peak_concurrency = peak_concurrency(records, n);
    m.peak_output = peak_output(records, n);
    qsort(m.failures, (size_t)m.failures_count, sizeof *m.failures, most_frequent_first);
    return m;
}
