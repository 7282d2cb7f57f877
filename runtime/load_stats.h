/* load_stats.h - the mathematics of a load test: when requests arrive, what became of each, and the figures of a run.
 *
 * Definitions are those of `vllm bench serve`, so that results can be put side by side:
 *     TTFT   from sending the request to its first token (not the announcement of the role that chats begin with)
 *     ITL    gaps between the chunks that carry tokens, of all requests together
 *     TPOT   (latency - TTFT) / (output tokens - 1), one value a request of two tokens or more
 *     E2EL   latency: from sending the request to the last chunk with tokens or a finish reason
 * Percentiles interpolate linearly; the standard deviation is that of the population. Only requests that succeeded
 * count, throughput is theirs divided by the duration of the whole run. Times are seconds everywhere.
 */
#ifndef BLADE_LOAD_STATS_H
#define BLADE_LOAD_STATS_H

#include "base.h"

/* ---- random numbers (SplitMix64: Steele, Lea, Flood 2014), the same on every machine --------------------------- */

typedef struct LoadRng {
    uint64_t state; /* any value is a seed */
} LoadRng;
uint64_t load_random(LoadRng *r);
double load_uniform(LoadRng *r);                             /* in [0, 1) */
int64_t load_between(LoadRng *r, int64_t lo, int64_t hi);    /* lo..hi */
double load_gamma(LoadRng *r, double shape);                 /* of scale 1; shape > 0; shape 1 is exponential */

/* Seconds from the start of the run at which each of n requests is sent, ascending. Gaps follow a gamma distribution of
 * shape `burstiness` (1: a Poisson process; less: bursts; more: evener; INFINITY: even) and mean 1 / rate, scaled so
 * that the last request comes at n / rate exactly. A rate of INFINITY sends all at once. */
void load_arrivals(double *times, size_t n, double rate, double burstiness, uint64_t seed);

/* ---- one request ----------------------------------------------------------------------------------------------- */

typedef enum LoadOutcome {
    LOAD_OK,
    LOAD_REFUSED,    /* a status other than 200, see LoadRecord.status */
    LOAD_CONNECTION, /* could not connect, or the connection broke */
    LOAD_TIMEOUT,
    LOAD_STREAM,     /* the stream held an error, or was no event stream */
    LOAD_INCOMPLETE, /* the stream ended without a finish reason or [DONE] */
    LOAD_EMPTY,      /* it ended without a token */
    LOAD_CANCELLED,  /* the user interrupted the run; counted nowhere */
} LoadOutcome;

typedef struct LoadRecord {
    double scheduled, start, end; /* since the run began: planned, sent, all of the answer was there */
    double ttft, latency;         /* since start; NAN without a token */
    VEC(double) itl;
    int64_t prompt_tokens;        /* of usage, else as prepared, -1 when neither says */
    int64_t output_tokens;        /* of usage, else the chunks counted */
    bool usage;                   /* the server reported usage */
    LoadOutcome outcome;
    int status;                   /* of HTTP; 0 without an answer */
    double retry_after;           /* seconds asked for; NAN: not said */
    char *error;                  /* one line; NULL when it succeeded */
} LoadRecord;
void load_record_free(LoadRecord *r);

/* ---- a run ----------------------------------------------------------------------------------------------------- */

typedef struct LoadDist {
    size_t count;
    double mean, median, std, p90, p99, max; /* NAN when count is 0 */
} LoadDist;

/* p in 0..100 of n ascending values; NAN when n is 0. */
double load_percentile(const double *sorted, size_t n, double p);
/* Sorts the values. */
LoadDist load_dist(double *values, size_t n);

/* What a good request keeps to; 0: no such target. itl holds for 99 % of a request's own gaps. */
typedef struct LoadTargets {
    double ttft, tpot, itl, latency;
} LoadTargets;

#define LOAD_MAX_KINDS 16

typedef struct LoadFailures { /* requests that failed alike */
    LoadOutcome outcome;
    int status;
    size_t count;
    double retry_min, retry_max; /* Retry-After seen; NAN: none */
    const char *example;         /* message of the first; belongs to its record */
} LoadFailures;

typedef struct LoadMetrics {
    double duration;
    size_t completed, failed, good;
    size_t unmeasured_prompts; /* completed requests whose prompt_tokens are not known, counted as 0 */
    size_t without_usage;      /* completed requests whose output tokens are counted chunks */
    int64_t input_tokens, output_tokens;
    double request_throughput, output_throughput, total_throughput, goodput; /* a second */
    size_t peak_concurrency;   /* requests in flight at once, exactly, failed ones too */
    double peak_output;        /* tokens in the fullest second */
    LoadDist ttft, tpot, itl, latency;
    LoadDist lag;              /* sent later than scheduled: the client's own delay, or too many in flight */
    LoadFailures failures[LOAD_MAX_KINDS]; /* most frequent first; kinds beyond these are only in `failed` */
    int failures_count;
} LoadMetrics;
LoadMetrics load_metrics(const LoadRecord *records, size_t n, double duration, const LoadTargets *targets);
bool load_is_good(const LoadRecord *r, const LoadTargets *targets);
double load_tpot(const LoadRecord *r); /* NAN with less than two tokens */

/* "HTTP 429", "timeout", ...; written to buffer. */
const char *load_outcome_name(LoadOutcome outcome, int status, char buffer[32]);

#endif
