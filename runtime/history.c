/* history.c - points of the live page and percentiles; see history.h.
 *
 * Latencies are counted in buckets whose bounds are taken from the number itself: the exponent of the double and the
 * first four bits of its mantissa, so a bucket is 1/16 of its octave wide and finding it is a shift.
 */
#include "history.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    STEP_BITS = 4,     /* 16 buckets an octave */
    LOWEST = -17,      /* the first bucket begins at 2^-17 s = 7.6 us; what is below goes there */
    OCTAVES = 27,      /* the last one ends at 2^10 s */
    BUCKETS = OCTAVES << STEP_BITS,
};

#define X(name) double name;
typedef struct Point {
    double t;
    HISTORY_GAUGES(X)
    HISTORY_TOTALS(X)
    HISTORY_PERCENTILES(X)
} Point;
#undef X

/* The columns of the JSON; `t` is written apart. */
#define X(name) {#name, offsetof(Point, name)},
static const struct {
    const char *name;
    size_t offset;
} columns[] = {HISTORY_GAUGES(X) HISTORY_TOTALS(X) HISTORY_PERCENTILES(X)};
#undef X

struct History {
    _Atomic uint32_t now[HISTORY_LATENCIES][BUCKETS]; /* since the last point */
    pthread_mutex_t lock;                             /* of all below */
    uint32_t seconds[HISTORY_RECENT][HISTORY_LATENCIES][BUCKETS]; /* point n at n % HISTORY_RECENT */
    uint32_t recent[HISTORY_LATENCIES][BUCKETS];      /* their sum */
    Point points[HISTORY_POINTS];                     /* point n at n % HISTORY_POINTS */
    int64_t count;                                    /* points so far */
    HistorySample last;
};

History *history_new(void)
{
    History *h = xcalloc(1, sizeof *h);
    pthread_mutex_init(&h->lock, NULL);
    return h;
}

void history_free(History *h)
{
    if (!h)
        return;
    pthread_mutex_destroy(&h->lock);
    free(h);
}

/* ---- latencies --------------------------------------------------------------------------------------------------- */

static int bucket_of(double seconds)
{
    if (!(seconds >= ldexp(1, LOWEST)))
        return 0;
    uint64_t bits;
    memcpy(&bits, &seconds, sizeof bits);
    uint64_t bucket = (bits >> (52 - STEP_BITS)) - ((uint64_t)(1023 + LOWEST) << STEP_BITS);
    return (int)MIN(bucket, BUCKETS - 1);
}

/* Where a bucket begins, in seconds. */
static double bucket_bound(int bucket)
{
    int steps = 1 << STEP_BITS;
    return ldexp(1 + (double)(bucket % steps) / steps, LOWEST + bucket / steps);
}

void history_latency(History *h, HistoryLatency kind, double seconds)
{
    atomic_fetch_add_explicit(&h->now[kind][bucket_of(seconds)], 1, memory_order_relaxed);
}

/* Interpolates inside the bucket that the percentile falls into. */
static double percentile(const uint32_t counts[BUCKETS], double p)
{
    uint64_t all = 0, below = 0;
    for (int i = 0; i < BUCKETS; i++)
        all += counts[i];
    double rank = p * (double)all;
    for (int i = 0; i < BUCKETS; i++) {
        if (counts[i] && (double)(below + counts[i]) >= rank) {
            double low = bucket_bound(i), high = bucket_bound(i + 1);
            return low + (high - low) * (rank - (double)below) / counts[i];
        }
        below += counts[i];
    }
    return NAN;
}

/* Takes the counts since the last point; they replace those of a minute ago. */
static const uint32_t *take_latencies(History *h, HistoryLatency kind)
{
    uint32_t *second = h->seconds[h->count % HISTORY_RECENT][kind], *recent = h->recent[kind];
    for (int i = 0; i < BUCKETS; i++) {
        uint32_t n = atomic_exchange_explicit(&h->now[kind][i], 0, memory_order_relaxed);
        recent[i] += n - second[i];
        second[i] = n;
    }
    return second;
}

double history_recent(History *h, HistoryLatency kind, double p)
{
    pthread_mutex_lock(&h->lock);
    double seconds = percentile(h->recent[kind], p);
    pthread_mutex_unlock(&h->lock);
    return seconds;
}

/* ---- points ------------------------------------------------------------------------------------------------------ */

static void add_point(History *h, const HistorySample *s)
{
    const uint32_t *ttft = take_latencies(h, HISTORY_TTFT), *itl = take_latencies(h, HISTORY_ITL);
    Point *p = &h->points[h->count % HISTORY_POINTS];
    double passed = s->t - h->last.t;
    p->t = s->t;
#define X(name) p->name = s->name;
    HISTORY_GAUGES(X)
#undef X
#define X(name) p->name = (s->name - h->last.name) / passed;
    HISTORY_TOTALS(X)
#undef X
    p->ttft_p50 = percentile(ttft, 0.5);
    p->ttft_p99 = percentile(ttft, 0.99);
    p->itl_p50 = percentile(itl, 0.5);
    p->itl_p99 = percentile(itl, 0.99);
    h->last = *s;
    h->count++;
}

void history_tick(History *h, const HistorySample *s)
{
    pthread_mutex_lock(&h->lock);
    if (s->t > h->last.t)
        add_point(h, s);
    pthread_mutex_unlock(&h->lock);
}

/* Points first..count-1 of the double that lies at `offset`. */
static void put_column(const History *h, int64_t first, const char *name, size_t offset, const char *format, Buf *out)
{
    buf_printf(out, ",\"%s\":[", name);
    for (int64_t i = first; i < h->count; i++) {
        double value;
        memcpy(&value, (const char *)&h->points[i % HISTORY_POINTS] + offset, sizeof value);
        if (i > first)
            buf_putc(out, ',');
        if (isfinite(value))
            buf_printf(out, format, value);
        else
            buf_puts(out, "null");
    }
    buf_putc(out, ']');
}

void history_json(History *h, int64_t after, Buf *out)
{
    pthread_mutex_lock(&h->lock);
    int64_t first = MAX(h->count - HISTORY_POINTS, 0);
    if (after > first && after <= h->count)
        first = after;
    buf_printf(out, "{\"last\":%lld", (long long)h->count);
    put_column(h, first, "t", offsetof(Point, t), "%.2f", out);
    for (size_t i = 0; i < COUNT(columns); i++)
        put_column(h, first, columns[i].name, columns[i].offset, "%.4g", out);
    buf_putc(out, '}');
    pthread_mutex_unlock(&h->lock);
}
