/* metrics.c - counters, gauges, histograms, their Prometheus text and the JSON of the live page; see metrics.h.
 *
 * Numbers are atomics of their own, written without locks; a reader sees each of them whole, not all of one instant.
 * Only the counts of HTTP answers, whose labels are not known beforehand, and the history (history.c) take locks.
 */
#include "metrics.h"

#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "dashboard.h"
#include "history.h"
#include "json_write.h"

/* Upper bounds of buckets: those of vLLM (vllm/v1/metrics/loggers.py) and finer ones below, for small models. */
static const double seconds[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
                                 20, 40, 80, 160, 640, 2560};
static const double short_seconds[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4,
                                       0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80};
static const double long_seconds[] = {0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50,
                                      60, 120, 240, 480, 960, 1920, 7680};
static const double counts[] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000,
                                200000, 500000, 1000000};
static const double step_counts[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
static const double small_counts[] = {1, 2, 5, 10, 20};

enum { MAX_BOUNDS = 25 };

typedef struct MetricInfo {
    const char *name, *help;
    const double *bounds; /* of histograms, ascending; the last bucket, +Inf, is implied */
    int bounds_count;
} MetricInfo;

#define X(id, name, help) {name, help, NULL, 0},
static const MetricInfo counter_info[] = {METRIC_COUNTERS(X)}, gauge_info[] = {METRIC_GAUGES(X)};
#undef X
#define X(id, name, help, bounds) {name, help, bounds, COUNT(bounds)},
static const MetricInfo histogram_info[] = {METRIC_HISTOGRAMS(X)};
#undef X
#define X(id, name, help, bounds) _Static_assert(COUNT(bounds) <= MAX_BOUNDS, #bounds " is longer than MAX_BOUNDS");
METRIC_HISTOGRAMS(X)
#undef X

/* Dashboards and autoscalers that are older than vLLM 0.11 ask for inter-token latency under this name. */
static const MetricInfo older_itl = {"vllm:time_per_output_token_seconds", "vllm:inter_token_latency_seconds under its "
                                     "older name.", short_seconds, COUNT(short_seconds)};

static const char *const reasons[] = {"stop", "length", "abort", "error"};
static const char *const methods[] = {"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "other"};

typedef struct Histogram {
    _Atomic uint64_t buckets[MAX_BOUNDS + 1]; /* not cumulative */
    _Atomic double sum;
} Histogram;

/* Answers of one method, route and class of status. */
typedef struct HttpCount {
    const char *method;
    char *handler;
    int class; /* 1..5: 1xx..5xx */
    uint64_t count;
} HttpCount;

enum { MAX_HANDLERS = 64 }; /* different routes; what comes on top counts as "other" */

struct Metrics {
    char *model, *labels;      /* valid UTF-8; model_name="...",engine="0" */
    double started;            /* Unix time, seconds */
    double began;              /* the same instant by now_seconds() */
    double process_started;    /* Unix time, seconds */
    _Atomic double counters[METRIC_COUNTERS_COUNT], gauges[METRIC_GAUGES_COUNT];
    Histogram histograms[METRIC_HISTOGRAMS_COUNT];
    _Atomic uint64_t finished[COUNT(reasons)];
    _Atomic int64_t page_tokens, pages;
    pthread_mutex_t *http_lock;
    VEC(HttpCount) http;
    int handlers; /* different ones in http */
    History *history;
};

/* ---- life -------------------------------------------------------------------------------------------------------- */

static double unix_time(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* The text as UTF-8, U+FFFD in place of what is not. */
static void put_valid(const char *text, Buf *out)
{
    for (size_t n = strlen(text); n;) {
        uint32_t cp;
        char bytes[4];
        size_t used = utf8_decode(text, n, &cp);
        buf_put(out, bytes, utf8_encode(cp, bytes));
        text += used;
        n -= used;
    }
}

static void put_label(const char *name, const char *value, Buf *out)
{
    buf_printf(out, "%s=\"", name);
    for (; *value; value++) {
        if (*value == '\n')
            buf_puts(out, "\\n");
        else if (*value == '"' || *value == '\\')
            buf_printf(out, "\\%c", *value);
        else
            buf_putc(out, *value);
    }
    buf_putc(out, '"');
}

/* When this process began, from its age in /proc/self/stat: field 22, in ticks since the machine started. */
static double process_start(void)
{
    char stat[1024];
    struct timespec boot = {0};
    unsigned long long ticks;
    file_first_line("/proc/self/stat", stat, sizeof stat);
    clock_gettime(CLOCK_BOOTTIME, &boot);
    const char *field = strrchr(stat, ')'); /* field 2 may hold blanks */
    for (int i = 2; field && i < 22; i++)
        field = strchr(field + 1, ' ');
    if (!field || sscanf(field, "%llu", &ticks) != 1)
        return unix_time();
    double age = (double)boot.tv_sec + (double)boot.tv_nsec * 1e-9 - (double)ticks / (double)sysconf(_SC_CLK_TCK);
    return unix_time() - age;
}

Metrics *metrics_new(const char *model_name)
{
    Metrics *m = xcalloc(1, sizeof *m);
    Buf name = {0}, labels = {0};
    put_valid(model_name, &name);
    buf_puts(&name, "");
    put_label("model_name", name.data, &labels);
    buf_puts(&labels, ",engine=\"0\"");
    m->model = name.data;
    m->labels = labels.data;
    m->started = unix_time();
    m->began = now_seconds();
    m->process_started = process_start();
    m->http_lock = xmalloc(sizeof *m->http_lock);
    pthread_mutex_init(m->http_lock, NULL);
    m->history = history_new();
    return m;
}

void metrics_free(Metrics *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->http.len; i++)
        free(m->http.at[i].handler);
    vec_free(&m->http);
    pthread_mutex_destroy(m->http_lock);
    free(m->http_lock);
    history_free(m->history);
    free(m->model);
    free(m->labels);
    free(m);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static void add(_Atomic double *to, double value)
{
    double old = atomic_load_explicit(to, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(to, &old, old + value, memory_order_relaxed, memory_order_relaxed))
        ;
}

static double get(const _Atomic double *from)
{
    return atomic_load_explicit(from, memory_order_relaxed);
}

void metrics_add(Metrics *m, MetricCounter id, double value)
{
    if (m)
        add(&m->counters[id], value);
}

void metrics_set(Metrics *m, MetricGauge id, double value)
{
    if (!m)
        return;
    atomic_store_explicit(&m->gauges[id], value, memory_order_relaxed);
    if (id == METRIC_KV_USAGE)
        atomic_store_explicit(&m->gauges[METRIC_GPU_CACHE_USAGE], value, memory_order_relaxed);
}

/* The first bucket whose bound is not below the value; the last one when there is none. */
static int bucket_of(const MetricInfo *info, double value)
{
    int low = 0, high = info->bounds_count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (value <= info->bounds[middle])
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

void metrics_observe(Metrics *m, MetricHistogram id, double value)
{
    if (!m || !(value >= 0) || isinf(value))
        return;
    Histogram *h = &m->histograms[id];
    atomic_fetch_add_explicit(&h->buckets[bucket_of(&histogram_info[id], value)], 1, memory_order_relaxed);
    add(&h->sum, value);
    if (id == METRIC_TTFT)
        history_latency(m->history, HISTORY_TTFT, value);
    if (id == METRIC_ITL)
        history_latency(m->history, HISTORY_ITL, value);
}

/* Index of `word` among the n, or of the last of them. */
static size_t index_of(const char *word, const char *const *words, size_t n)
{
    size_t i = 0;
    while (i < n - 1 && strcmp(word, words[i]) != 0)
        i++;
    return i;
}

void metrics_finished(Metrics *m, const char *reason)
{
    if (m)
        atomic_fetch_add_explicit(&m->finished[index_of(reason, reasons, COUNT(reasons))], 1, memory_order_relaxed);
}

/* Whether the handler has been seen; if not, and there is room, it is counted as seen from now on. */
static bool handler_known(Metrics *m, const char *handler)
{
    for (size_t i = 0; i < m->http.len; i++)
        if (!strcmp(m->http.at[i].handler, handler))
            return true;
    return m->handlers < MAX_HANDLERS && ++m->handlers;
}

static HttpCount *http_count(Metrics *m, const char *method, const char *handler, int class)
{
    if (!handler_known(m, handler))
        handler = "other";
    for (size_t i = 0; i < m->http.len; i++) {
        HttpCount *c = &m->http.at[i];
        if (c->class == class && c->method == method && !strcmp(c->handler, handler))
            return c;
    }
    vec_push(&m->http, (HttpCount){method, xstrdup(handler), class, 0});
    return &m->http.at[m->http.len - 1];
}

void metrics_http(Metrics *m, const char *method, const char *handler, int status)
{
    if (!m)
        return;
    method = methods[index_of(method, methods, COUNT(methods))];
    pthread_mutex_lock(m->http_lock);
    http_count(m, method, *handler ? handler : "none", MIN(MAX(status / 100, 1), 5))->count++;
    pthread_mutex_unlock(m->http_lock);
}

void metrics_cache_config(Metrics *m, int64_t page_tokens, int64_t pages)
{
    if (!m)
        return;
    atomic_store_explicit(&m->page_tokens, page_tokens, memory_order_relaxed);
    atomic_store_explicit(&m->pages, pages, memory_order_relaxed);
}

double metrics_counter(const Metrics *m, MetricCounter id)
{
    return m ? get(&m->counters[id]) : 0;
}

double metrics_gauge(const Metrics *m, MetricGauge id)
{
    return m ? get(&m->gauges[id]) : 0;
}

/* ---- Prometheus text --------------------------------------------------------------------------------------------- */

static void put_head(const MetricInfo *info, const char *type, Buf *out)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", info->name, info->help, info->name, type);
}

static void put_value(const char *name, const char *help, const char *type, double value, Buf *out)
{
    put_head(&(MetricInfo){name, help}, type, out);
    buf_printf(out, "%s %.16g\n", name, value);
}

/* Bounds look as those of Prometheus' own libraries: le="1.0", le="0.25". */
static void put_bound(double bound, Buf *out)
{
    buf_printf(out, bound == floor(bound) ? "%.1f" : "%.15g", bound);
}

static void put_histogram(const Metrics *m, const MetricInfo *info, const Histogram *h, Buf *out)
{
    uint64_t count = 0;
    double sum = get(&h->sum);
    put_head(info, "histogram", out);
    for (int i = 0; i <= info->bounds_count; i++) {
        count += atomic_load_explicit(&h->buckets[i], memory_order_relaxed);
        buf_printf(out, "%s_bucket{%s,le=\"", info->name, m->labels);
        if (i < info->bounds_count)
            put_bound(info->bounds[i], out);
        else
            buf_puts(out, "+Inf");
        buf_printf(out, "\"} %llu\n", (unsigned long long)count);
    }
    buf_printf(out, "%s_sum{%s} %.16g\n", info->name, m->labels, sum);
    buf_printf(out, "%s_count{%s} %llu\n", info->name, m->labels, (unsigned long long)count);
}

static void put_finished(const Metrics *m, Buf *out)
{
    static const MetricInfo info = {"vllm:request_success_total", "Finished requests, by the reason of their end."};
    put_head(&info, "counter", out);
    for (size_t i = 0; i < COUNT(reasons); i++)
        buf_printf(out, "%s{%s,finished_reason=\"%s\"} %llu\n", info.name, m->labels, reasons[i],
                   (unsigned long long)atomic_load_explicit(&m->finished[i], memory_order_relaxed));
}

static void put_http(const Metrics *m, Buf *out)
{
    static const MetricInfo info = {"http_requests_total", "Answered HTTP requests, by method, route and status."};
    put_head(&info, "counter", out);
    pthread_mutex_lock(m->http_lock);
    for (size_t i = 0; i < m->http.len; i++) {
        const HttpCount *c = &m->http.at[i];
        buf_printf(out, "%s{", info.name);
        put_label("method", c->method, out);
        buf_putc(out, ',');
        put_label("handler", c->handler, out);
        buf_printf(out, ",status=\"%dxx\"} %llu\n", c->class, (unsigned long long)c->count);
    }
    pthread_mutex_unlock(m->http_lock);
}

static void put_infos(const Metrics *m, Buf *out)
{
    static const MetricInfo cache = {"vllm:cache_config_info", "Tokens of a page and pages of the KV cache."};
    static const MetricInfo build = {"blade:build_info", "Version of Blade."};
    int64_t pages = atomic_load_explicit(&m->pages, memory_order_relaxed);
    if (pages) {
        put_head(&cache, "gauge", out);
        buf_printf(out, "%s{%s,block_size=\"%lld\",num_gpu_blocks=\"%lld\"} 1\n", cache.name, m->labels,
                   (long long)atomic_load_explicit(&m->page_tokens, memory_order_relaxed), (long long)pages);
    }
    put_head(&build, "gauge", out);
    buf_printf(out, "%s{version=\"%s\"} 1\n", build.name, BLADE_VERSION);
}

/* Bytes of memory: virtual, resident. */
static void memory_bytes(double *virtual, double *resident)
{
    char statm[256];
    double pages[2] = {0};
    file_first_line("/proc/self/statm", statm, sizeof statm);
    sscanf(statm, "%lf %lf", &pages[0], &pages[1]);
    *virtual = pages[0] * (double)sysconf(_SC_PAGESIZE);
    *resident = pages[1] * (double)sysconf(_SC_PAGESIZE);
}

static int open_files(void)
{
    int n = -1; /* the one that reads the folder */
    DIR *folder = opendir("/proc/self/fd");
    if (!folder)
        return 0;
    for (const struct dirent *entry; (entry = readdir(folder));)
        n += entry->d_name[0] != '.';
    closedir(folder);
    return n;
}

static void put_process(const Metrics *m, Buf *out)
{
    struct timespec cpu = {0};
    struct rlimit files = {0};
    double virtual, resident;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    getrlimit(RLIMIT_NOFILE, &files);
    memory_bytes(&virtual, &resident);
    put_value("process_cpu_seconds_total", "Processor time used.", "counter",
              (double)cpu.tv_sec + (double)cpu.tv_nsec * 1e-9, out);
    put_value("process_resident_memory_bytes", "Memory in use.", "gauge", resident, out);
    put_value("process_virtual_memory_bytes", "Address space in use.", "gauge", virtual, out);
    put_value("process_start_time_seconds", "When the process began, Unix time.", "gauge", m->process_started, out);
    put_value("process_open_fds", "Open files and sockets.", "gauge", open_files(), out);
    put_value("process_max_fds", "Limit of open files and sockets.", "gauge", (double)files.rlim_cur, out);
}

void metrics_render(const Metrics *m, Buf *out)
{
    if (!m)
        return;
    for (int i = 0; i < METRIC_COUNTERS_COUNT; i++) {
        put_head(&counter_info[i], "counter", out);
        buf_printf(out, "%s{%s} %.16g\n", counter_info[i].name, m->labels, get(&m->counters[i]));
    }
    for (int i = 0; i < METRIC_GAUGES_COUNT; i++) {
        put_head(&gauge_info[i], "gauge", out);
        buf_printf(out, "%s{%s} %.16g\n", gauge_info[i].name, m->labels, get(&m->gauges[i]));
    }
    for (int i = 0; i < METRIC_HISTOGRAMS_COUNT; i++)
        put_histogram(m, &histogram_info[i], &m->histograms[i], out);
    put_histogram(m, &older_itl, &m->histograms[METRIC_ITL], out);
    put_finished(m, out);
    put_http(m, out);
    put_infos(m, out);
    put_process(m, out);
}

/* ---- the live page ----------------------------------------------------------------------------------------------- */

static double uptime(const Metrics *m)
{
    return now_seconds() - m->began;
}

static uint64_t finished_count(const Metrics *m)
{
    uint64_t n = 0;
    for (size_t i = 0; i < COUNT(reasons); i++)
        n += atomic_load_explicit(&m->finished[i], memory_order_relaxed);
    return n;
}

void metrics_tick(Metrics *m)
{
    if (!m)
        return;
    history_tick(m->history, &(HistorySample){
        .t = uptime(m),
        .running = get(&m->gauges[METRIC_RUNNING]),
        .waiting = get(&m->gauges[METRIC_WAITING]),
        .kv_usage = get(&m->gauges[METRIC_KV_USAGE]),
        .prompt_tokens = get(&m->counters[METRIC_PROMPT_TOKENS]),
        .generated_tokens = get(&m->counters[METRIC_GENERATION_TOKENS]),
        .prefix_queries = get(&m->counters[METRIC_PREFIX_QUERIES]),
        .prefix_hits = get(&m->counters[METRIC_PREFIX_HITS]),
        .finished = (double)finished_count(m),
    });
}

void metrics_history(const Metrics *m, Buf *out)
{
    if (m)
        history_json(m->history, 0, out);
}

static void put_recent(const Metrics *m, const char *name, HistoryLatency kind, Buf *out)
{
    double p50 = history_recent(m->history, kind, 0.5), p99 = history_recent(m->history, kind, 0.99);
    if (isnan(p50))
        buf_printf(out, ",\"%s\":{\"p50\":null,\"p99\":null}", name);
    else
        buf_printf(out, ",\"%s\":{\"p50\":%.4g,\"p99\":%.4g}", name, p50, p99);
}

static void put_now(const Metrics *m, Buf *out)
{
    buf_printf(out, ",\"now\":{\"running\":%.16g,\"waiting\":%.16g,\"kv_usage\":%.6g", get(&m->gauges[METRIC_RUNNING]),
               get(&m->gauges[METRIC_WAITING]), get(&m->gauges[METRIC_KV_USAGE]));
    buf_printf(out, ",\"kv_pages\":%lld,\"page_tokens\":%lld",
               (long long)atomic_load_explicit(&m->pages, memory_order_relaxed),
               (long long)atomic_load_explicit(&m->page_tokens, memory_order_relaxed));
    put_recent(m, "ttft", HISTORY_TTFT, out);
    put_recent(m, "itl", HISTORY_ITL, out);
    buf_putc(out, '}');
}

static void put_totals(const Metrics *m, Buf *out)
{
    static const struct {
        const char *name;
        MetricCounter id;
    } totals[] = {{"prompt_tokens", METRIC_PROMPT_TOKENS}, {"generated_tokens", METRIC_GENERATION_TOKENS},
                  {"prefix_queries", METRIC_PREFIX_QUERIES}, {"prefix_hits", METRIC_PREFIX_HITS},
                  {"preemptions", METRIC_PREEMPTIONS}, {"rejections", METRIC_REJECTIONS}, {"steps", METRIC_STEPS}};
    buf_puts(out, ",\"totals\":{");
    for (size_t i = 0; i < COUNT(totals); i++)
        buf_printf(out, "\"%s\":%.16g,", totals[i].name, get(&m->counters[totals[i].id]));
    buf_puts(out, "\"finished\":");
    for (size_t i = 0; i < COUNT(reasons); i++)
        buf_printf(out, "%s\"%s\":%llu", i ? "," : "{", reasons[i],
                   (unsigned long long)atomic_load_explicit(&m->finished[i], memory_order_relaxed));
    buf_puts(out, "}}");
}

void metrics_dashboard(const Metrics *m, const char *after, Buf *out)
{
    if (!m) {
        buf_puts(out, "{}");
        return;
    }
    buf_puts(out, "{\"model\":");
    json_put_str(out, m->model);
    buf_printf(out, ",\"version\":\"%s\",\"started\":%.3f,\"uptime\":%.2f", BLADE_VERSION, m->started, uptime(m));
    put_now(m, out);
    put_totals(m, out);
    buf_puts(out, ",\"history\":");
    history_json(m->history, after ? strtoll(after, NULL, 10) : 0, out);
    buf_putc(out, '}');
}
