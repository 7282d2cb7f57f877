/* history.h - the last 15 minutes of a server, a point a second, and percentiles of latencies without keeping samples.
 *
 * history_latency may be called from any thread and takes no lock; the other functions share one.
 */
#ifndef BLADE_HISTORY_H
#define BLADE_HISTORY_H

#include "base.h"

enum { HISTORY_POINTS = 900, HISTORY_RECENT = 60 }; /* points kept; those that history_recent looks back */

/* What a point consists of: X(name), in the order of the JSON.
 * Gauges are taken as they are; totals become rates per second since the point before. */
#define HISTORY_GAUGES(X) X(running) X(waiting) X(kv_usage)
#define HISTORY_TOTALS(X) X(prompt_tokens) X(generated_tokens) X(prefix_queries) X(prefix_hits) X(finished)
/* Seconds; NAN (null) in a second without any. */
#define HISTORY_PERCENTILES(X) X(ttft_p50) X(ttft_p99) X(itl_p50) X(itl_p99)

typedef enum HistoryLatency { HISTORY_TTFT, HISTORY_ITL, HISTORY_LATENCIES } HistoryLatency;

#define X(name) double name;
typedef struct HistorySample {
    double t; /* seconds since the server began */
    HISTORY_GAUGES(X)
    HISTORY_TOTALS(X)
} HistorySample;
#undef X

typedef struct History History;
History *history_new(void);
void history_free(History *h); /* NULL is allowed */

/* Seconds of one request (HISTORY_TTFT) or one token (HISTORY_ITL). */
void history_latency(History *h, HistoryLatency kind, double seconds);

/* Adds a point; what does not lie behind the last one in time is ignored. */
void history_tick(History *h, const HistorySample *s);

/* The percentile p (0..1) of the latencies in the last HISTORY_RECENT points, to within 6 %; NAN without any. */
double history_recent(History *h, HistoryLatency kind, double p);

/* Appends {"last": N, "t": [...], "running": [...], ...}: arrays of equal length, oldest first, of the points numbered above
 * `after`; N is the number of the newest one, counted from 1. All points when there is no such number. */
void history_json(History *h, int64_t after, Buf *out);

#endif
