/* Figures of a load test: percentiles against numpy's, arrivals against the distribution they claim, counts exactly. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "load_stats.h"
#include "test.h"

#define NEAR(a, b, tolerance) assert_true(fabs((a) - (b)) <= (tolerance))

static void percentiles(void **state)
{
    (void)state;
    double v[] = {5, 1, 4, 2, 3, 9, 7};
    LoadDist d = load_dist(v, COUNT(v));
    /* numpy: mean, median, std, percentile(90), percentile(99) of the same values */
    NEAR(d.mean, 4.428571428571429, 1e-12);
    NEAR(d.median, 4, 0);
    NEAR(d.std, 2.610809554642438, 1e-12);
    NEAR(d.p90, 7.8, 1e-12);
    NEAR(d.p99, 8.88, 1e-12);
    assert_true(d.max == 9 && d.count == 7);
    NEAR(load_percentile(v, 7, 0), 1, 0);
    NEAR(load_percentile(v, 7, 25), 2.5, 1e-12);
    NEAR(load_percentile(v, 7, 100), 9, 0);
    double one[] = {3};
    d = load_dist(one, 1);
    assert_true(d.mean == 3 && d.median == 3 && d.std == 0 && d.p99 == 3);
    d = load_dist(NULL, 0);
    assert_true(!d.count && isnan(d.mean) && isnan(d.p99));
}

/* Mean and coefficient of variation of the gaps; share of gaps beyond the mean. */
static void gaps(const double *times, size_t n, double *mean, double *variation, double *beyond)
{
    double sum = 0, squares = 0, before = 0;
    size_t longer = 0;
    for (size_t i = 0; i < n; i++) {
        assert_true(times[i] >= before);
        sum += times[i] - before;
        squares += (times[i] - before) * (times[i] - before);
        before = times[i];
    }
    *mean = sum / (double)n;
    *variation = sqrt(squares / (double)n - *mean * *mean) / *mean;
    before = 0;
    for (size_t i = 0; i < n; i++) {
        longer += times[i] - before > *mean;
        before = times[i];
    }
    *beyond = (double)longer / (double)n;
}

static void arrivals(void **state)
{
    (void)state;
    enum { N = 200000 };
    double *t = xcalloc(N, sizeof *t), *again = xcalloc(N, sizeof *t), mean, variation, beyond;
    load_arrivals(t, N, 8, 1, 7);
    gaps(t, N, &mean, &variation, &beyond);
    NEAR(t[N - 1], N / 8.0, 1e-6);
    NEAR(mean, 0.125, 1e-9);
    NEAR(variation, 1, 0.01);        /* observed 0.9989 */
    NEAR(beyond, exp(-1), 0.005);    /* of an exponential distribution; observed 0.3672 */
    load_arrivals(again, N, 8, 1, 7);
    assert_memory_equal(t, again, N * sizeof *t);
    load_arrivals(again, N, 8, 1, 8);
    assert_true(memcmp(t, again, N * sizeof *t) != 0);
    /* A gamma distribution of shape k has the variation 1 / sqrt(k); its scale does not matter. */
    const double shapes[] = {0.25, 0.5, 2, 16};
    for (size_t i = 0; i < COUNT(shapes); i++) {
        load_arrivals(t, N, 100, shapes[i], 1);
        gaps(t, N, &mean, &variation, &beyond);
        NEAR(t[N - 1], N / 100.0, 1e-6);
        NEAR(variation * sqrt(shapes[i]), 1, 0.02);
    }
    load_arrivals(t, 4, 2, INFINITY, 1);
    for (int i = 0; i < 4; i++)
        NEAR(t[i], (i + 1) / 2.0, 1e-12);
    load_arrivals(t, 4, INFINITY, 1, 1);
    for (int i = 0; i < 4; i++)
        assert_true(t[i] == 0);
    free(t);
    free(again);
}

static void numbers(void **state)
{
    (void)state;
    /* The reference values of SplitMix64 with seed 1234567. */
    LoadRng r = {1234567};
    assert_true(load_random(&r) == 6457827717110365317ull);
    assert_true(load_random(&r) == 3203168211198807973ull);
    assert_true(load_random(&r) == 9817491932198370423ull);
    int seen[5] = {0};
    for (int i = 0; i < 10000; i++) {
        int64_t v = load_between(&r, 3, 7);
        assert_in_range(v, 3, 7);
        seen[v - 3]++;
    }
    for (int i = 0; i < 5; i++)
        assert_in_range(seen[i], 1800, 2200);
    double sum = 0;
    for (int i = 0; i < 100000; i++)
        sum += load_gamma(&r, 0.5);
    NEAR(sum / 100000, 0.5, 0.01);
}

/* ---- records --------------------------------------------------------------------------------------------------- */

static LoadRecord ok_record(double start, double ttft, double gap, int tokens)
{
    LoadRecord r = {.scheduled = start, .start = start, .ttft = ttft, .prompt_tokens = 10, .usage = true, .status = 200,
                    .retry_after = NAN, .output_tokens = tokens};
    for (int i = 1; i < tokens; i++)
        vec_push(&r.itl, gap);
    r.latency = ttft + gap * (tokens - 1);
    r.end = start + r.latency;
    return r;
}

static LoadRecord bad_record(double start, LoadOutcome outcome, int status, double retry)
{
    return (LoadRecord){.scheduled = start, .start = start, .end = start + 0.1, .ttft = NAN, .latency = NAN,
                        .status = status, .outcome = outcome, .retry_after = retry, .error = xstrdup("why")};
}

static void metrics(void **state)
{
    (void)state;
    LoadRecord r[] = {
        ok_record(0, 0.1, 0.25, 5),   /* in flight 0 .. 1.1 */
        ok_record(0.5, 0.2, 0.5, 3),  /* 0.5 .. 1.7 */
        ok_record(1.1, 0.3, 0, 1),    /* 1.1 .. 1.4: begins when the first ends */
        bad_record(1.3, LOAD_REFUSED, 503, NAN),
        bad_record(0.2, LOAD_REFUSED, 429, 2),
        bad_record(0.2, LOAD_REFUSED, 429, 9),
        bad_record(1.6, LOAD_TIMEOUT, 200, NAN),
        bad_record(0, LOAD_CANCELLED, 0, NAN),
    };
    r[1].usage = false;
    r[2].prompt_tokens = -1;
    LoadTargets targets = {.ttft = 0.25, .itl = 0.5};
    LoadMetrics m = load_metrics(r, COUNT(r), 2, &targets);
    assert_int_equal(m.completed, 3);
    assert_int_equal(m.failed, 4);
    assert_int_equal(m.good, 2);
    assert_int_equal(m.input_tokens, 20);
    assert_int_equal(m.output_tokens, 9);
    assert_int_equal(m.unmeasured_prompts, 1);
    assert_int_equal(m.without_usage, 1);
    assert_int_equal(m.peak_concurrency, 3);
    NEAR(m.request_throughput, 1.5, 1e-12);
    NEAR(m.output_throughput, 4.5, 1e-12);
    NEAR(m.total_throughput, 14.5, 1e-12);
    NEAR(m.goodput, 1, 1e-12);
    NEAR(m.ttft.median, 0.2, 1e-12);
    NEAR(m.itl.mean, (4 * 0.25 + 2 * 0.5) / 6, 1e-12);
    assert_int_equal(m.itl.count, 6);
    assert_int_equal(m.tpot.count, 2);
    NEAR(m.tpot.mean, 0.375, 1e-12);
    NEAR(m.latency.max, 1.2, 1e-12);
    NEAR(m.peak_output, 5, 0); /* 0.1 .. 0.85 and 0.7 in the first second, 1.1, 1.2, 1.4, 1.7 in the next: 5 and 4 */
    assert_int_equal(m.failures_count, 3);
    assert_int_equal(m.failures[0].status, 429);
    assert_int_equal(m.failures[0].count, 2);
    assert_true(m.failures[0].retry_min == 2 && m.failures[0].retry_max == 9);
    assert_true(isnan(m.failures[1].retry_min) && isnan(m.failures[2].retry_max));
    for (size_t i = 0; i < COUNT(r); i++)
        load_record_free(&r[i]);
}

static void nothing_done(void **state)
{
    (void)state;
    LoadTargets none = {0};
    LoadMetrics m = load_metrics(NULL, 0, 1, &none);
    assert_true(!m.completed && !m.failed && !m.peak_concurrency && m.peak_output == 0 && isnan(m.ttft.p99));
    /* More kinds of failures than are told apart are counted all the same. */
    LoadRecord r[LOAD_MAX_KINDS + 5];
    for (size_t i = 0; i < COUNT(r); i++)
        r[i] = bad_record(0, LOAD_REFUSED, 400 + (int)i, NAN);
    m = load_metrics(r, COUNT(r), 1, &none);
    assert_int_equal(m.failed, COUNT(r));
    assert_int_equal(m.failures_count, LOAD_MAX_KINDS);
    assert_int_equal(m.peak_concurrency, COUNT(r));
    for (size_t i = 0; i < COUNT(r); i++)
        load_record_free(&r[i]);
}

static void goodness(void **state)
{
    (void)state;
    LoadRecord r = ok_record(0, 0.1, 0.01, 101), one = ok_record(0, 0.1, 0, 1);
    const struct { LoadTargets targets; bool good, one; } cases[] = {
        {{0}, true, true},
        {{.ttft = 0.1}, true, true},
        {{.ttft = 0.099}, false, false},
        {{.tpot = 0.011}, true, true},
        {{.tpot = 0.009}, false, true},
        {{.itl = 0.011}, true, true},
        {{.itl = 0.009}, false, true},
        {{.latency = 1.2}, true, true},
        {{.latency = 1.05, .ttft = 1}, false, true},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_equal(load_is_good(&r, &cases[i].targets), cases[i].good);
        assert_int_equal(load_is_good(&one, &cases[i].targets), cases[i].one);
    }
    r.itl.at[50] = 1; /* one stall in a hundred gaps leaves 99 % of them within the target */
    assert_true(load_is_good(&r, &(LoadTargets){.itl = 0.5}));
    r.itl.at[51] = 1;
    assert_false(load_is_good(&r, &(LoadTargets){.itl = 0.5}));
    r.outcome = LOAD_INCOMPLETE;
    assert_false(load_is_good(&r, &(LoadTargets){0}));
    load_record_free(&r);
    load_record_free(&one);
}

static void names(void **state)
{
    (void)state;
    char buffer[32];
    assert_string_equal(load_outcome_name(LOAD_REFUSED, 429, buffer), "HTTP 429");
    assert_string_equal(load_outcome_name(LOAD_TIMEOUT, 200, buffer), "timeout");
    assert_string_equal(load_outcome_name(LOAD_CANCELLED, 0, buffer), "cancelled");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(percentiles), cmocka_unit_test(arrivals), cmocka_unit_test(numbers), cmocka_unit_test(metrics),
        cmocka_unit_test(nothing_done), cmocka_unit_test(goodness), cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
