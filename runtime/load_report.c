/* load_report.c - results as tables for people and as JSON for programs; see load.h.
 *
 * The long table has the lines of `vllm bench serve`, the JSON its names (milliseconds, p99_ttft_ms, ...), so that what
 * reads the one reads the other. A figure that does not exist is "-" and null.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "load.h"

#define WIDTH 56

/* ---- a run as a table ------------------------------------------------------------------------------------------ */

static void rule(Buf *out, const char *title, char c)
{
    int bars = WIDTH - (int)strlen(title), left = bars / 2;
    for (int i = 0; i < left; i++)
        buf_putc(out, c);
    buf_puts(out, title);
    for (int i = left; i < bars; i++)
        buf_putc(out, c);
    buf_putc(out, '\n');
}

static void number(Buf *out, const char *name, double value, int digits)
{
    if (isnan(value))
        buf_printf(out, "%-42s -\n", name);
    else
        buf_printf(out, "%-42s %.*f\n", name, digits, value);
}

static void distribution(Buf *out, const char *title, const char *name, const LoadDist *d)
{
    const struct { const char *what; double seconds; } rows[] = {
        {"Mean", d->mean}, {"Median", d->median}, {"P90", d->p90}, {"P99", d->p99}, {"Max", d->max},
    };
    rule(out, title, '-');
    for (size_t i = 0; i < COUNT(rows); i++) {
        char line[48];
        snprintf(line, sizeof line, "%s %s (ms):", rows[i].what, name);
        number(out, line, rows[i].seconds * 1e3, 2);
    }
}

static void failures(Buf *out, const LoadMetrics *m)
{
    char name[32];
    for (int i = 0; i < m->failures_count; i++) {
        const LoadFailures *f = &m->failures[i];
        buf_printf(out, "  %-40s %zu", load_outcome_name(f->outcome, f->status, name), f->count);
        if (!isnan(f->retry_min))
            buf_printf(out, "  (Retry-After %.0f-%.0f s)", f->retry_min, f->retry_max);
        buf_printf(out, "\n    %.*s\n", WIDTH + 40, f->example ? f->example : "");
    }
}

static bool has_targets(const LoadTargets *t)
{
    return t->ttft > 0 || t->tpot > 0 || t->itl > 0 || t->latency > 0;
}

static void notes(Buf *out, const LoadMetrics *m)
{
    if (m->unmeasured_prompts)
        buf_printf(out, "note: %zu requests without a known number of input tokens (no usage), counted as 0\n",
                   m->unmeasured_prompts);
    if (m->without_usage)
        buf_printf(out, "note: the server reported no usage for %zu requests: output tokens are counted chunks, input tokens\n"
                   "as asked for\n", m->without_usage);
}

static void counts(const LoadReport *r, const LoadRun *run, Buf *out)
{
    const LoadMetrics *m = &run->metrics;
    buf_printf(out, "%-42s %zu\n%-42s %zu\n", "Successful requests:", m->completed, "Failed requests:", m->failed);
    failures(out, m);
    if (r->concurrency)
        buf_printf(out, "%-42s %lld\n", "Maximum request concurrency:", (long long)r->concurrency);
    if (isfinite(run->rate))
        number(out, "Request rate configured (RPS):", run->rate, 2);
    number(out, "Benchmark duration (s):", m->duration, 2);
    buf_printf(out, "%-42s %lld\n", "Total input tokens:", (long long)m->input_tokens);
    buf_printf(out, "%-42s %lld\n", "Total generated tokens:", (long long)m->output_tokens);
    number(out, "Request throughput (req/s):", m->request_throughput, 2);
    if (has_targets(&r->targets))
        number(out, "Request goodput (req/s):", m->goodput, 2);
    number(out, "Output token throughput (tok/s):", m->output_throughput, 2);
    number(out, "Peak output token throughput (tok/s):", m->peak_output, 2);
    buf_printf(out, "%-42s %zu\n", "Peak concurrent requests:", m->peak_concurrency);
    number(out, "Total token throughput (tok/s):", m->total_throughput, 2);
}

void load_report_run(const LoadReport *r, const LoadRun *run, Buf *out)
{
    const LoadMetrics *m = &run->metrics;
    rule(out, " Load Test Result ", '=');
    counts(r, run, out);
    distribution(out, " Time to First Token ", "TTFT", &m->ttft);
    distribution(out, " Time per Output Token (excl. 1st token) ", "TPOT", &m->tpot);
    distribution(out, " Inter-token Latency ", "ITL", &m->itl);
    distribution(out, " End-to-end Latency ", "E2EL", &m->latency);
    rule(out, "", '=');
    notes(out, m);
    if (!r->concurrency && m->lag.p99 > 0.02)
        buf_printf(out, "note: the client itself was late by %.0f ms (p99): this machine is too busy for this rate\n",
                   m->lag.p99 * 1e3);
}

/* ---- a sweep as a table ---------------------------------------------------------------------------------------- */

static void cell(Buf *out, double value, int width, int digits)
{
    if (isnan(value))
        buf_printf(out, " %*s", width, "-");
    else
        buf_printf(out, " %*.*f", width, digits, value);
}

static size_t refused(const LoadMetrics *m)
{
    size_t n = 0;
    for (int i = 0; i < m->failures_count; i++)
        if (m->failures[i].outcome == LOAD_REFUSED && (m->failures[i].status == 429 || m->failures[i].status == 503))
            n += m->failures[i].count;
    return n;
}

static void sweep_row(const LoadReport *r, const LoadRun *run, Buf *out)
{
    const LoadMetrics *m = &run->metrics;
    cell(out, run->rate, 6, 2);
    buf_printf(out, " %6zu %7zu %6zu", m->completed, refused(m), m->failed - refused(m));
    cell(out, m->request_throughput, 7, 2);
    if (has_targets(&r->targets))
        cell(out, m->goodput, 7, 2);
    cell(out, m->output_throughput, 8, 1);
    const LoadDist *dists[] = {&m->ttft, &m->itl, &m->tpot};
    for (size_t i = 0; i < COUNT(dists); i++) {
        cell(out, dists[i]->median * 1e3, 8, 1);
        cell(out, dists[i]->p99 * 1e3, 8, 1);
    }
    buf_putc(out, '\n');
}

void load_report_sweep(const LoadReport *r, Buf *out)
{
    const char *good = has_targets(&r->targets) ? "    good" : "", *unit = *good ? "   req/s" : "";
    buf_printf(out, "%7s %6s %7s %6s %7s%s %8s  %16s  %16s  %16s\n", "rate", "ok", "429/503", "failed", "done", good,
               "output", "TTFT ms", "ITL ms", "TPOT ms");
    buf_printf(out, "%7s %6s %7s %6s %7s%s %8s", "req/s", "", "", "", "req/s", unit, "tok/s");
    for (int i = 0; i < 3; i++)
        buf_printf(out, " %8s %8s", "median", "p99");
    buf_putc(out, '\n');
    for (size_t i = 0; i < r->runs.len; i++)
        sweep_row(r, &r->runs.at[i], out);
}

/* ---- JSON ------------------------------------------------------------------------------------------------------ */

/* Puts `value` (a new reference) under the key. */
static void set(json_t *object, const char *key, json_t *value)
{
    json_object_set_new(object, key, value);
}

static json_t *real(double value)
{
    return isfinite(value) ? json_real(value) : isinf(value) ? json_string("inf") : json_null();
}

static json_t *milliseconds(double seconds)
{
    return isfinite(seconds) ? json_real(seconds * 1e3) : json_null();
}

static json_t *count(size_t n)
{
    return json_integer((json_int_t)n);
}

static json_t *string_or_null(const char *text)
{
    return text ? json_string(text) : json_null();
}

static void set_dist(json_t *object, const char *name, const LoadDist *d)
{
    const struct { const char *what; double seconds; } rows[] = {
        {"mean", d->mean}, {"median", d->median}, {"std", d->std}, {"p90", d->p90}, {"p99", d->p99}, {"max", d->max},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char key[32];
        snprintf(key, sizeof key, "%s_%s_ms", rows[i].what, name);
        set(object, key, milliseconds(rows[i].seconds));
    }
}

static json_t *failures_json(const LoadMetrics *m)
{
    json_t *list = json_array();
    char name[32];
    for (int i = 0; i < m->failures_count; i++) {
        const LoadFailures *f = &m->failures[i];
        json_t *entry = json_object();
        set(entry, "kind", json_string(load_outcome_name(f->outcome, f->status, name)));
        if (f->outcome == LOAD_REFUSED)
            set(entry, "status", json_integer(f->status));
        set(entry, "count", count(f->count));
        if (!isnan(f->retry_min)) {
            set(entry, "retry_after_min", real(f->retry_min));
            set(entry, "retry_after_max", real(f->retry_max));
        }
        set(entry, "example", string_or_null(f->example));
        json_array_append_new(list, entry);
    }
    return list;
}

static json_t *record_json(const LoadRecord *r)
{
    json_t *object = json_object(), *itl = json_array();
    char name[32];
    set(object, "outcome", json_string(load_outcome_name(r->outcome, r->status, name)));
    set(object, "status", json_integer(r->status));
    set(object, "scheduled", real(r->scheduled));
    set(object, "start", real(r->start));
    set(object, "ttft_ms", milliseconds(r->ttft));
    set(object, "e2el_ms", milliseconds(r->latency));
    set(object, "prompt_tokens", r->prompt_tokens < 0 ? json_null() : json_integer(r->prompt_tokens));
    set(object, "output_tokens", json_integer(r->output_tokens));
    for (size_t i = 0; i < r->itl.len; i++)
        json_array_append_new(itl, milliseconds(r->itl.at[i]));
    set(object, "itl_ms", itl);
    if (!isnan(r->retry_after))
        set(object, "retry_after", real(r->retry_after));
    if (r->error)
        set(object, "error", json_string(r->error));
    return object;
}

static void set_totals(json_t *object, const LoadMetrics *m)
{
    set(object, "duration", real(m->duration));
    set(object, "completed", count(m->completed));
    set(object, "failed", count(m->failed));
    set(object, "refused", count(refused(m)));
    set(object, "failures", failures_json(m));
    set(object, "total_input_tokens", json_integer(m->input_tokens));
    set(object, "total_output_tokens", json_integer(m->output_tokens));
    set(object, "request_throughput", real(m->request_throughput));
    set(object, "output_throughput", real(m->output_throughput));
    set(object, "total_token_throughput", real(m->total_throughput));
    set(object, "max_output_tokens_per_s", real(m->peak_output));
    set(object, "peak_concurrent_requests", count(m->peak_concurrency));
    set(object, "requests_without_usage", count(m->without_usage));
}

static json_t *run_json(const LoadReport *r, const LoadRun *run)
{
    const LoadMetrics *m = &run->metrics;
    json_t *object = json_object();
    set(object, "request_rate", real(run->rate));
    set(object, "num_prompts", count(run->n));
    set_totals(object, m);
    set(object, "request_goodput", has_targets(&r->targets) ? real(m->goodput) : json_null());
    set_dist(object, "ttft", &m->ttft);
    set_dist(object, "tpot", &m->tpot);
    set_dist(object, "itl", &m->itl);
    set_dist(object, "e2el", &m->latency);
    set(object, "p99_client_lag_ms", milliseconds(m->lag.p99));
    json_t *records = r->details ? json_array() : NULL;
    for (size_t i = 0; records && i < run->n; i++)
        json_array_append_new(records, record_json(&run->records[i]));
    if (records)
        set(object, "requests", records);
    return object;
}

static json_t *range_json(LoadRange range)
{
    if (range.lo == range.hi)
        return json_integer(range.lo);
    return json_pack("[I,I]", (json_int_t)range.lo, (json_int_t)range.hi);
}

static json_t *workload_json(const LoadReport *r)
{
    const LoadWorkload *w = r->workload;
    json_t *object = json_object();
    set(object, "prompts", json_string(r->prompts));
    set(object, "dataset", string_or_null(w->dataset));
    set(object, "prompt_len", w->dataset ? json_null() : range_json(w->prompt_len));
    set(object, "output_len", range_json(w->output_len));
    set(object, "prefix_share", real(w->prefix_share));
    set(object, "ignore_eos", json_boolean(w->ignore_eos));
    set(object, "seed", json_integer((json_int_t)w->seed));
    set(object, "burstiness", real(r->burstiness));
    set(object, "max_concurrency", r->concurrency ? json_integer(r->concurrency) : json_null());
    return object;
}

static json_t *targets_json(const LoadTargets *t)
{
    const struct { const char *key; double seconds; } rows[] = {
        {"ttft_ms", t->ttft}, {"tpot_ms", t->tpot}, {"itl_ms", t->itl}, {"e2el_ms", t->latency},
    };
    json_t *object = json_object();
    for (size_t i = 0; i < COUNT(rows); i++)
        if (rows[i].seconds > 0)
            set(object, rows[i].key, milliseconds(rows[i].seconds));
    return object;
}

json_t *load_report_json(const LoadReport *r)
{
    json_t *object = json_object(), *runs = json_array();
    char date[32];
    time_t now = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    set(object, "date", json_string(date));
    set(object, "tool", json_string("blade load " BLADE_VERSION));
    set(object, "label", string_or_null(r->label));
    set(object, "base_url", json_string(r->server->base));
    set(object, "endpoint", json_string(load_endpoint_path(r->server)));
    set(object, "model_id", json_string(r->server->model));
    set(object, "workload", workload_json(r));
    set(object, "targets", targets_json(&r->targets));
    for (size_t i = 0; i < r->runs.len; i++)
        json_array_append_new(runs, run_json(r, &r->runs.at[i]));
    set(object, "runs", runs);
    return object;
}
