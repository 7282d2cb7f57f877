/* load_plot.c - curves of latency over the request rate from results; see load.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "chart.h"
#include "load.h"

typedef struct Curve { /* of one result: a point a run, ascending in x */
    const char *label;
    double *x, *median, *p99;
    size_t n;
} Curve;

static double value_of(const json_t *run, const char *key)
{
    const json_t *v = json_object_get(run, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* The rate asked for; where all was sent at once, the throughput that came out. */
static double rate_of(const json_t *run)
{
    double rate = value_of(run, "request_rate");
    return isfinite(rate) ? rate : value_of(run, "request_throughput");
}

static int by_rate(const void *a, const void *b)
{
    double x = rate_of(*(json_t *const *)a), y = rate_of(*(json_t *const *)b);
    return (x > y) - (x < y);
}

/* The runs of a result; one without "runs" is a run itself, as vllm bench serve writes it. */
static size_t runs_of(json_t *result, json_t ***runs)
{
    json_t *list = json_object_get(result, "runs");
    size_t n = list ? json_array_size(list) : 1;
    *runs = xcalloc(n + 1, sizeof **runs);
    for (size_t i = 0; i < n; i++)
        (*runs)[i] = list ? json_array_get(list, i) : result;
    qsort(*runs, n, sizeof **runs, by_rate);
    return n;
}

static Curve read_curve(Arena *arena, json_t *result, const char *name, const char *metric)
{
    json_t **runs;
    size_t n = runs_of(result, &runs);
    const char *label = json_string_value(json_object_get(result, "label"));
    const char *median = arena_printf(arena, "median_%s_ms", metric), *p99 = arena_printf(arena, "p99_%s_ms", metric);
    Curve c = {.label = label ? label : name, .n = n};
    c.x = arena_array(arena, double, n + 1);
    c.median = arena_array(arena, double, n + 1);
    c.p99 = arena_array(arena, double, n + 1);
    for (size_t i = 0; i < n; i++) {
        c.x[i] = rate_of(runs[i]);
        c.median[i] = value_of(runs[i], median);
        c.p99[i] = value_of(runs[i], p99);
    }
    free(runs);
    return c;
}

/* Values that span more than a factor of 30 need a logarithmic axis to be seen. */
static bool wants_log(const ChartSeries *series, size_t n)
{
    double lo = INFINITY, hi = 0;
    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < series[k].n; i++)
            if (series[k].y[i] > 0) {
                lo = fmin(lo, series[k].y[i]);
                hi = fmax(hi, series[k].y[i]);
            }
    return hi > 30 * lo;
}

static bool draw(json_t *const *results, const char *const *names, size_t n, const char *prefix, const char *metric,
                 const char *title, Err *err)
{
    Arena *arena = arena_new();
    ChartSeries *series = arena_array(arena, ChartSeries, 2 * n);
    for (size_t i = 0; i < n; i++) {
        Curve c = read_curve(arena, results[i], names[i], metric);
        series[2 * i] = (ChartSeries){arena_printf(arena, "%s, median", c.label), c.x, c.median, c.n, (int)i, false};
        series[2 * i + 1] = (ChartSeries){arena_printf(arena, "%s, p99", c.label), c.x, c.p99, c.n, (int)i, true};
    }
    Chart chart = {
        .title = title, .x_label = "request rate (requests/s)", .y_label = arena_printf(arena, "%s (ms)", title),
        .series = series, .series_count = 2 * n, .log_y = wants_log(series, 2 * n),
    };
    Buf svg = {0};
    chart_svg(&chart, &svg);
    bool ok = file_write_atomic(arena_printf(arena, "%s-%s.svg", prefix, metric), svg.data, svg.len, err);
    buf_free(&svg);
    arena_free(arena);
    return ok;
}

bool load_plot(json_t *const *results, const char *const *names, size_t n, const char *prefix, Err *err)
{
    return draw(results, names, n, prefix, "ttft", "Time to first token", err)
        && draw(results, names, n, prefix, "itl", "Inter-token latency", err);
}
