/* Metrics: buckets, Prometheus text, escaping, the history behind the live page, many threads at once. promtool, where
 * it is installed, reads the text as well. */
#include "metrics.h"

#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "dashboard.h"
#include "history.h"
#include "test.h"

/* The value of a line that begins with `series` and a blank; fails the test when there is not exactly one. */
static double value_of(const Metrics *m, const char *series)
{
    Buf text = {0};
    char line[512];
    double value = NAN;
    metrics_render(m, &text);
    snprintf(line, sizeof line, "\n%s ", series);
    const char *at = strstr(text.data, line);
    if (!at)
        print_error("no line for %s in\n%s\n", series, text.data);
    assert_non_null(at);
    assert_null(strstr(at + 1, line));
    assert_int_equal(sscanf(at + strlen(line), "%lf", &value), 1);
    buf_free(&text);
    return value;
}

#define LABELS "model_name=\"m\",engine=\"0\""

static void test_counters_and_gauges(void **state)
{
    (void)state;
    Metrics *m = metrics_new("m");
    metrics_add(m, METRIC_PROMPT_TOKENS, 5);
    metrics_add(m, METRIC_PROMPT_TOKENS, 9007199254740000.0);
    metrics_set(m, METRIC_RUNNING, 7);
    metrics_set(m, METRIC_RUNNING, 3);
    metrics_set(m, METRIC_KV_USAGE, 0.125);
    assert_true(value_of(m, "vllm:prompt_tokens_total{" LABELS "}") == 9007199254740005.0);
    assert_true(value_of(m, "vllm:generation_tokens_total{" LABELS "}") == 0);
    assert_true(value_of(m, "vllm:num_requests_running{" LABELS "}") == 3);
    assert_true(value_of(m, "vllm:kv_cache_usage_perc{" LABELS "}") == 0.125);
    assert_true(value_of(m, "vllm:gpu_cache_usage_perc{" LABELS "}") == 0.125);
    assert_true(metrics_counter(m, METRIC_PROMPT_TOKENS) == 9007199254740005.0);
    assert_true(metrics_gauge(m, METRIC_RUNNING) == 3);
    metrics_free(m);
}

static void test_histogram(void **state)
{
    (void)state;
    Metrics *m = metrics_new("m");
    static const double observed[] = {0, 0.001, 0.0011, 0.5, 0.50001, 2560, 2561, 1e300};
    for (size_t i = 0; i < COUNT(observed); i++)
        metrics_observe(m, METRIC_TTFT, observed[i]);
    metrics_observe(m, METRIC_TTFT, NAN);
    metrics_observe(m, METRIC_TTFT, -1);
    metrics_observe(m, METRIC_TTFT, INFINITY);
#define TTFT "vllm:time_to_first_token_seconds"
    assert_true(value_of(m, TTFT "_bucket{" LABELS ",le=\"0.001\"}") == 2); /* a bound belongs to its bucket */
    assert_true(value_of(m, TTFT "_bucket{" LABELS ",le=\"0.005\"}") == 3);
    assert_true(value_of(m, TTFT "_bucket{" LABELS ",le=\"0.5\"}") == 4);
    assert_true(value_of(m, TTFT "_bucket{" LABELS ",le=\"1.0\"}") == 5);
    assert_true(value_of(m, TTFT "_bucket{" LABELS ",le=\"2560.0\"}") == 6);
    assert_true(value_of(m, TTFT "_bucket{" LABELS ",le=\"+Inf\"}") == 8);
    assert_true(value_of(m, TTFT "_count{" LABELS "}") == 8);
    assert_true(value_of(m, TTFT "_sum{" LABELS "}") == 1e300);
    metrics_observe(m, METRIC_ITL, 0.02);
    assert_true(value_of(m, "vllm:inter_token_latency_seconds_sum{" LABELS "}") == 0.02);
    assert_true(value_of(m, "vllm:time_per_output_token_seconds_sum{" LABELS "}") == 0.02);
    metrics_free(m);
}

static void test_labelled_counters(void **state)
{
    (void)state;
    Metrics *m = metrics_new("m");
    metrics_finished(m, "stop");
    metrics_finished(m, "stop");
    metrics_finished(m, "length");
    metrics_finished(m, "something new");
    assert_true(value_of(m, "vllm:request_success_total{" LABELS ",finished_reason=\"stop\"}") == 2);
    assert_true(value_of(m, "vllm:request_success_total{" LABELS ",finished_reason=\"length\"}") == 1);
    assert_true(value_of(m, "vllm:request_success_total{" LABELS ",finished_reason=\"abort\"}") == 0);
    assert_true(value_of(m, "vllm:request_success_total{" LABELS ",finished_reason=\"error\"}") == 1);
    metrics_http(m, "POST", "/v1/completions", 200);
    metrics_http(m, "POST", "/v1/completions", 204);
    metrics_http(m, "POST", "/v1/completions", 499);
    metrics_http(m, "GET", "", 404);
    metrics_http(m, "BREW\"\n", "/a\"b\\c\nd", 77777);
    assert_true(value_of(m, "http_requests_total{method=\"POST\",handler=\"/v1/completions\",status=\"2xx\"}") == 2);
    assert_true(value_of(m, "http_requests_total{method=\"POST\",handler=\"/v1/completions\",status=\"4xx\"}") == 1);
    assert_true(value_of(m, "http_requests_total{method=\"GET\",handler=\"none\",status=\"4xx\"}") == 1);
    assert_true(value_of(m, "http_requests_total{method=\"other\",handler=\"/a\\\"b\\\\c\\nd\",status=\"5xx\"}") == 1);
    metrics_free(m);
}

/* A client that invents paths and methods can't make the text grow without end. */
static void test_labels_are_bounded(void **state)
{
    (void)state;
    Metrics *m = metrics_new("m");
    Buf text = {0};
    for (int i = 0; i < 5000; i++) {
        char path[32], method[32];
        snprintf(path, sizeof path, "/%d", i);
        snprintf(method, sizeof method, "M%d", i);
        metrics_http(m, method, path, 200);
    }
    assert_true(value_of(m, "http_requests_total{method=\"other\",handler=\"other\",status=\"2xx\"}") == 5000 - 64);
    metrics_render(m, &text);
    assert_true(text.len < 64 * 1024);
    buf_free(&text);
    metrics_free(m);
}

static void test_model_name_is_escaped(void **state)
{
    (void)state;
    Metrics *m = metrics_new("a\"b\\c\nd\xff\xc3\xa9");
    assert_true(value_of(m, "vllm:num_requests_waiting{"
                            "model_name=\"a\\\"b\\\\c\\nd\xef\xbf\xbd\xc3\xa9\",engine=\"0\"}") == 0);
    Buf text = {0};
    metrics_dashboard(m, NULL, &text);
    json_t *page = json_loadb(text.data, text.len, 0, NULL);
    assert_non_null(page);
    assert_string_equal(json_string_value(json_object_get(page, "model")), "a\"b\\c\nd\xef\xbf\xbd\xc3\xa9");
    json_decref(page);
    buf_free(&text);
    metrics_free(m);
}

static void test_process(void **state)
{
    (void)state;
    Metrics *m = metrics_new("m");
    double resident = value_of(m, "process_resident_memory_bytes"), now = (double)time(NULL);
    assert_true(resident > 100e3 && resident < value_of(m, "process_virtual_memory_bytes"));
    double started = value_of(m, "process_start_time_seconds");
    assert_true(started > now - 600 && started < now + 2);
    double files = value_of(m, "process_open_fds");
    int more[2];
    assert_int_equal(pipe(more), 0);
    assert_true(value_of(m, "process_open_fds") == files + 2);
    close(more[0]);
    close(more[1]);
    double cpu = value_of(m, "process_cpu_seconds_total");
    while (clock() < (clock_t)((cpu + 0.05) * CLOCKS_PER_SEC))
        ;
    assert_true(value_of(m, "process_cpu_seconds_total") >= cpu + 0.04);
    assert_true(value_of(m, "blade:build_info{version=\"" BLADE_VERSION "\"}") == 1);
    metrics_cache_config(m, 16, 4096);
    assert_true(value_of(m, "vllm:cache_config_info{" LABELS ",block_size=\"16\",num_gpu_blocks=\"4096\"}") == 1);
    metrics_free(m);
}

static void test_null_is_allowed(void **state)
{
    (void)state;
    Buf out = {0};
    metrics_add(NULL, METRIC_STEPS, 1);
    metrics_set(NULL, METRIC_RUNNING, 1);
    metrics_observe(NULL, METRIC_ITL, 1);
    metrics_finished(NULL, "stop");
    metrics_http(NULL, "GET", "/", 200);
    metrics_cache_config(NULL, 16, 1);
    metrics_tick(NULL);
    metrics_render(NULL, &out);
    metrics_history(NULL, &out);
    assert_int_equal(out.len, 0);
    metrics_dashboard(NULL, NULL, &out);
    assert_string_equal(out.data, "{}");
    assert_true(metrics_counter(NULL, METRIC_STEPS) == 0 && metrics_gauge(NULL, METRIC_RUNNING) == 0);
    buf_free(&out);
    metrics_free(NULL);
}

/* ---- promtool ---------------------------------------------------------------------------------------------------- */

/* What promtool has against names that are vLLM's own. */
static bool is_vllms_fault(const char *line)
{
    return strstr(line, "metric names should not contain ':'") ||
           (strstr(line, "vllm:iteration_tokens_total") &&
            strstr(line, "non-counter metrics should not have \"_total\" suffix"));
}

static void fill(Metrics *m)
{
    for (int i = 0; i < METRIC_COUNTERS_COUNT; i++)
        metrics_add(m, (MetricCounter)i, 1.5 * i);
    for (int i = 0; i < METRIC_HISTOGRAMS_COUNT; i++)
        for (double value = 1e-4; value < 1e5; value *= 1.7)
            metrics_observe(m, (MetricHistogram)i, value);
    metrics_http(m, "GET", "/a\"b\\c\nd", 200);
    metrics_finished(m, "stop");
    metrics_cache_config(m, 16, 100);
}

/* promtool check metrics <text; its messages go to `messages`. Its exit status. */
static int promtool(const Buf *text, Buf *messages)
{
    char in[] = "/tmp/blade-metrics-XXXXXX", command[128], line[1024];
    int fd = mkstemp(in);
    assert_true(fd >= 0 && write(fd, text->data, text->len) == (ssize_t)text->len);
    close(fd);
    snprintf(command, sizeof command, "promtool check metrics 2>&1 <%s", in);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (!is_vllms_fault(line))
            buf_puts(messages, line);
    int status = pclose(f);
    unlink(in);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* promtool's status is 0, 3 with remarks on style, 1 when it can't read the text. */
static void test_promtool(void **state)
{
    (void)state;
    if (system("command -v promtool >/dev/null 2>&1")) {
        print_message("promtool is not installed (package prometheus)\n");
        skip();
    }
    Metrics *m = metrics_new("a\"b\\c\nd\xff");
    Buf text = {0}, messages = {0};
    fill(m);
    metrics_render(m, &text);
    int status = promtool(&text, &messages);
    if (messages.len)
        print_error("promtool: %s", messages.data);
    assert_int_equal(messages.len, 0);
    assert_true(status == 0 || status == 3);
    buf_puts(&text, "vllm:num_requests_running{model_name=\"unfinished\n"); /* the check can fail */
    assert_int_equal(promtool(&text, &messages), 1);
    buf_free(&messages);
    buf_free(&text);
    metrics_free(m);
}

/* ---- history ----------------------------------------------------------------------------------------------------- */

static json_t *history_points(History *h, int64_t after)
{
    Buf text = {0};
    history_json(h, after, &text);
    json_error_t where;
    json_t *points = json_loadb(text.data, text.len, 0, &where);
    if (!points)
        print_error("%s at %d in %s\n", where.text, where.position, text.data);
    assert_non_null(points);
    buf_free(&text);
    return points;
}

static double point(const json_t *points, const char *column, size_t i)
{
    const json_t *value = json_array_get(json_object_get(points, column), i);
    assert_non_null(value);
    return json_is_null(value) ? NAN : json_number_value(value);
}

static size_t points_count(const json_t *points)
{
    size_t n = json_array_size(json_object_get(points, "t"));
    const char *name;
    const json_t *column;
    json_object_foreach((json_t *)points, name, column)
        if (json_is_array(column))
            assert_int_equal(json_array_size(column), n);
    return n;
}

static void test_rates(void **state)
{
    (void)state;
    History *h = history_new();
    history_tick(h, &(HistorySample){.t = 1, .running = 3, .waiting = 2, .kv_usage = 0.25, .prompt_tokens = 100});
    history_tick(h, &(HistorySample){.t = 1, .running = 99}); /* no time has passed: no point */
    history_tick(h, &(HistorySample){.t = 3, .prompt_tokens = 400, .generated_tokens = 10, .prefix_queries = 8,
                                     .prefix_hits = 6, .finished = 4});
    json_t *p = history_points(h, 0);
    assert_int_equal(points_count(p), 2);
    assert_int_equal(json_integer_value(json_object_get(p, "last")), 2);
    assert_true(point(p, "t", 0) == 1 && point(p, "t", 1) == 3);
    assert_true(point(p, "running", 0) == 3 && point(p, "waiting", 0) == 2 && point(p, "kv_usage", 0) == 0.25);
    assert_true(point(p, "prompt_tokens", 0) == 100 && point(p, "prompt_tokens", 1) == 150);
    assert_true(point(p, "generated_tokens", 1) == 5 && point(p, "finished", 1) == 2);
    assert_true(point(p, "prefix_queries", 1) == 4 && point(p, "prefix_hits", 1) == 3);
    assert_true(isnan(point(p, "ttft_p50", 0)) && isnan(point(p, "itl_p99", 1)));
    json_decref(p);
    history_free(h);
}

static void test_ring(void **state)
{
    (void)state;
    History *h = history_new();
    json_t *p = history_points(h, 0);
    assert_int_equal(points_count(p), 0);
    json_decref(p);
    for (int i = 1; i <= 2000; i++)
        history_tick(h, &(HistorySample){.t = i, .running = i % 7, .generated_tokens = 10.0 * i});
    static const struct {
        int64_t after;
        size_t count;
    } cases[] = {{0, 900}, {-5, 900}, {3, 900}, {1100, 900}, {1101, 899}, {1999, 1}, {2000, 0}, {2001, 900},
                 {INT64_MAX, 900}, {INT64_MIN, 900}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        p = history_points(h, cases[i].after);
        assert_int_equal(points_count(p), cases[i].count);
        assert_int_equal(json_integer_value(json_object_get(p, "last")), 2000);
        for (size_t k = 0; k < cases[i].count; k++) {
            int n = 2000 - (int)cases[i].count + 1 + (int)k;
            assert_true(point(p, "t", k) == n && point(p, "running", k) == n % 7);
            assert_true(point(p, "generated_tokens", k) == 10);
        }
        json_decref(p);
    }
    history_free(h);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Against sorting, for latencies from microseconds to minutes: the error stays within the width of a bucket, 1/16. */
static void test_percentiles(void **state)
{
    (void)state;
    enum { N = 5000 };
    static double sorted[N];
    History *h = history_new();
    srand(7);
    for (int i = 0; i < N; i++) {
        sorted[i] = 1e-5 * exp(16 * (rand() / (double)RAND_MAX));
        history_latency(h, HISTORY_ITL, sorted[i]);
    }
    qsort(sorted, N, sizeof *sorted, by_value);
    assert_true(isnan(history_recent(h, HISTORY_ITL, 0.5))); /* nothing before the first point */
    history_tick(h, &(HistorySample){.t = 1});
    for (int i = 1; i < 100; i++) {
        double exact = sorted[i * N / 100], found = history_recent(h, HISTORY_ITL, i / 100.0);
        assert_true(fabs(found - exact) <= exact / 16);
    }
    json_t *p = history_points(h, 0);
    assert_true(fabs(point(p, "itl_p50", 0) - sorted[N / 2]) < sorted[N / 2] / 16);
    assert_true(fabs(point(p, "itl_p99", 0) - sorted[N * 99 / 100]) < sorted[N * 99 / 100] / 16);
    assert_true(isnan(point(p, "ttft_p50", 0)));
    json_decref(p);
    history_free(h);
}

static void test_extreme_latencies(void **state)
{
    (void)state;
    History *h = history_new();
    static const double strange[] = {0, -1, NAN, 1e-300, INFINITY, 1e300};
    for (size_t i = 0; i < COUNT(strange); i++)
        history_latency(h, HISTORY_TTFT, strange[i]);
    history_tick(h, &(HistorySample){.t = 1});
    assert_true(history_recent(h, HISTORY_TTFT, 0) <= ldexp(1, -16));
    assert_true(history_recent(h, HISTORY_TTFT, 1) <= 1024);
    assert_true(history_recent(h, HISTORY_TTFT, 1) > 900);
    history_free(h);
}

/* What history_recent knows is a minute old at most. */
static void test_recent_forgets(void **state)
{
    (void)state;
    History *h = history_new();
    history_latency(h, HISTORY_TTFT, 10);
    history_tick(h, &(HistorySample){.t = 1});
    for (int i = 2; i <= HISTORY_RECENT; i++) {
        history_latency(h, HISTORY_TTFT, 0.1);
        history_tick(h, &(HistorySample){.t = i});
    }
    assert_true(history_recent(h, HISTORY_TTFT, 1) > 9);
    history_tick(h, &(HistorySample){.t = HISTORY_RECENT + 1});
    assert_true(history_recent(h, HISTORY_TTFT, 1) < 0.11);
    for (int i = 2; i <= HISTORY_RECENT; i++)
        history_tick(h, &(HistorySample){.t = HISTORY_RECENT + i});
    assert_true(isnan(history_recent(h, HISTORY_TTFT, 0.5)));
    history_free(h);
}

/* ---- the live page ----------------------------------------------------------------------------------------------- */

static json_t *page_of(const Metrics *m, const char *after)
{
    Buf text = {0};
    metrics_dashboard(m, after, &text);
    json_t *page = json_loadb(text.data, text.len, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(page);
    buf_free(&text);
    return page;
}

static void test_dashboard(void **state)
{
    (void)state;
    Metrics *m = metrics_new("m");
    metrics_set(m, METRIC_RUNNING, 3);
    metrics_set(m, METRIC_KV_USAGE, 0.5);
    metrics_add(m, METRIC_GENERATION_TOKENS, 1234);
    metrics_finished(m, "length");
    metrics_observe(m, METRIC_TTFT, 0.25);
    json_t *page = page_of(m, NULL);
    double uptime;
    const char *model, *version;
    json_t *ttft;
    assert_int_equal(json_unpack(page, "{s:s,s:s,s:F,s:{s:o}}", "model", &model, "version", &version, "uptime", &uptime,
                                 "now", "ttft", &ttft), 0);
    assert_string_equal(model, "m");
    assert_true(uptime >= 0 && uptime < 60);
    assert_true(json_is_null(json_object_get(ttft, "p50"))); /* no point yet */
    json_decref(page);
    usleep(2000);
    metrics_tick(m);
    page = page_of(m, "0");
    double p50;
    int running, generated, length, last;
    assert_int_equal(json_unpack(page, "{s:{s:i,s:{s:F}},s:{s:i,s:{s:i}},s:{s:i}}", "now", "running", &running,
                                 "ttft", "p50", &p50, "totals", "generated_tokens", &generated, "finished", "length",
                                 &length, "history", "last", &last), 0);
    assert_int_equal(running, 3);
    assert_int_equal(generated, 1234);
    assert_int_equal(length, 1);
    assert_int_equal(last, 1);
    assert_true(p50 > 0.23 && p50 < 0.27);
    assert_int_equal(points_count(json_object_get(page, "history")), 1);
    json_decref(page);
    static const struct {
        const char *after;
        size_t points;
    } cases[] = {{"1", 0}, {"2", 1}, {"", 1}, {"nonsense", 1}, {"-9999999999999999999999", 1},
                 {"9999999999999999999999", 1}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        page = page_of(m, cases[i].after);
        assert_int_equal(points_count(json_object_get(page, "history")), cases[i].points);
        json_decref(page);
    }
    metrics_free(m);
}

static void test_embedded_page(void **state)
{
    (void)state;
    Buf file = {0};
    assert_true(file_read(&file, SOURCE_DIR "/runtime/dashboard.html", 1 << 20, NULL));
    assert_int_equal(dashboard_html_len, file.len);
    assert_memory_equal(dashboard_html, file.data, file.len);
    assert_int_equal(dashboard_html[file.len], 0);
    buf_free(&file);
}

/* ---- Grafana ----------------------------------------------------------------------------------------------------- */

/* Calls check(context, query) for every "expr" and "query" of a dashboard file. */
static int each_query(const json_t *node, const Metrics *m, void (*check)(const Metrics *m, const char *query))
{
    int n = 0;
    const char *key;
    json_t *value;
    size_t i;
    json_object_foreach((json_t *)node, key, value)
        if (!strcmp(key, "expr")) {
            check(m, json_string_value(value));
            n++;
        } else {
            n += each_query(value, m, check);
        }
    json_array_foreach(node, i, value)
        n += each_query(value, m, check);
    return n;
}

/* Every name with a colon or of the process that a query mentions is a series of metrics_render. */
static void names_exist(const Metrics *m, const char *query)
{
    static const char word[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_:";
    Buf text = {0};
    int names = 0;
    buf_putc(&text, '\n');
    metrics_render(m, &text);
    for (const char *s = query; *s;) {
        size_t n = strspn(s, word);
        char name[128];
        snprintf(name, sizeof name, "\n%.*s", (int)n, s);
        if (memchr(s, ':', n) || !strncmp(s, "process_", 8) || !strncmp(s, "http_", 5)) {
            const char *line = strstr(text.data, name);
            if (!line || !strchr("{ ", line[n + 1]))
                fail_msg("grafana.json asks for '%s', which is not there", name + 1);
            names++;
        }
        s += n ? n : 1;
    }
    assert_true(names > 0);
    buf_free(&text);
}

static void test_grafana(void **state)
{
    (void)state;
    json_t *file = json_load_file(SOURCE_DIR "/scripts/grafana.json", JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(file);
    Metrics *m = metrics_new("m");
    fill(m);
    assert_true(each_query(file, m, names_exist) >= 12);
    json_decref(file);
    metrics_free(m);
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

enum { THREADS = 4, ROUNDS = 20000 };

static void *write_all(void *context)
{
    Metrics *m = context;
    for (int i = 0; i < ROUNDS; i++) {
        metrics_add(m, METRIC_GENERATION_TOKENS, 1);
        metrics_observe(m, METRIC_ITL, 0.25);
        metrics_set(m, METRIC_RUNNING, i);
        if (i % 100 == 0) {
            metrics_finished(m, "stop");
            metrics_http(m, "GET", "/metrics", 200);
        }
    }
    return NULL;
}

static void *read_all(void *context)
{
    for (int i = 0; i < 50; i++) {
        Buf out = {0};
        metrics_tick(context);
        metrics_render(context, &out);
        metrics_dashboard(context, "3", &out);
        buf_free(&out);
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    Metrics *m = metrics_new("m");
    pthread_t writers[THREADS], reader;
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&writers[i], NULL, write_all, m), 0);
    assert_int_equal(pthread_create(&reader, NULL, read_all, m), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(writers[i], NULL);
    pthread_join(reader, NULL);
    assert_true(value_of(m, "vllm:generation_tokens_total{" LABELS "}") == THREADS * ROUNDS);
    assert_true(value_of(m, "vllm:inter_token_latency_seconds_count{" LABELS "}") == THREADS * ROUNDS);
    assert_true(value_of(m, "vllm:inter_token_latency_seconds_sum{" LABELS "}") == THREADS * ROUNDS * 0.25);
    double few = THREADS * ROUNDS / 100;
    assert_true(value_of(m, "vllm:request_success_total{" LABELS ",finished_reason=\"stop\"}") == few);
    assert_true(value_of(m, "http_requests_total{method=\"GET\",handler=\"/metrics\",status=\"2xx\"}") == few);
    metrics_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counters_and_gauges), cmocka_unit_test(test_histogram),
        cmocka_unit_test(test_labelled_counters), cmocka_unit_test(test_labels_are_bounded),
        cmocka_unit_test(test_model_name_is_escaped), cmocka_unit_test(test_process),
        cmocka_unit_test(test_null_is_allowed), cmocka_unit_test(test_promtool),
        cmocka_unit_test(test_rates), cmocka_unit_test(test_ring), cmocka_unit_test(test_percentiles),
        cmocka_unit_test(test_extreme_latencies), cmocka_unit_test(test_recent_forgets),
        cmocka_unit_test(test_dashboard), cmocka_unit_test(test_embedded_page), cmocka_unit_test(test_grafana),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
