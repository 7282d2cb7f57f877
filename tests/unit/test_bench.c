/* Tests of runtime/bench.c on the toy model: the limit kernels run over what they are given, prefill and decode make
 * legal steps (the executor refuses others, the sanitizers see the rest), sizes that do not fit are refused. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "toy.h"

static char dir[64];

static Model *load(void)
{
    Err err = {0};
    ModelOptions o = {.model = dir, .cache = dir, .generator = FAKE_PATH, .threads = 2, .max_num_seqs = 4,
                      .max_num_batched_tokens = 8, .random_weights = true};
    Model *m = model_load(&o, &err);
    if (!m)
        fail_msg("%s", err.text);
    return m;
}

static void limits_are_measured(void **state)
{
    (void)state;
    Model *m = load();
    BenchLimits l;
    Err err = {0};
    assert_true(bench_limits_begin(&l, m, 1 << 20, &err));
    assert_int_equal(l.read_blocks, 256);
    assert_true(l.peak_blocks > 0);
    bench_limits_measure(&l, m);
    float sum = 0;
    for (int k = 0; k < 1024; k++)
        sum += ((const float *)l.source)[1024 * 255 + k];
    assert_true(l.read_rate > 1e6 && l.peak_rate > 1e6);
    assert_int_equal(l.peak->ops_per_block, 2000);
    model_run_limit(m, l.read, (void *[]){l.source, l.results}, l.read_blocks);
    assert_true(((const float *)l.results)[16 * 255] == sum);
    bench_limits_end(&l, m);
    model_free(m);
}

static void steps_are_timed(void **state)
{
    (void)state;
    Model *m = load();
    Err err = {0};
    static const int64_t prompts[] = {1, 3, 8, 9, 40};
    for (size_t i = 0; i < COUNT(prompts); i++)
        for (int64_t seqs = 1; seqs <= 4; seqs++) {
            double seconds, operations;
            if (!bench_prefill(m, seqs, prompts[i], &seconds, &operations, &err))
                fail_msg("%s", err.text);
            assert_true(seconds > 0);
            assert_true(operations == 32.0 * (double)(seqs * prompts[i]) + 8.0 * (double)seqs);
            if (!bench_decode(m, seqs, prompts[i], 5, &seconds, &err))
                fail_msg("%s", err.text);
            assert_true(seconds > 0);
        }
    assert_true(bench_decode_bytes(m, 2, 10) == 64 + 2 * 10 * 4); /* weights, 16 bytes of KV for 4 tokens */
    assert_true(bench_decode_operations(m, 3) == 3 * 40);
    model_free(m);
}

static void too_long_contexts_are_refused(void **state)
{
    (void)state;
    Model *m = load();
    Err err = {0};
    double seconds, operations;
    assert_false(bench_prefill(m, 1, 65, &seconds, &operations, &err));
    assert_false(bench_prefill(m, 5, 8, &seconds, &operations, &err));
    assert_false(bench_decode(m, 1, 60, 10, &seconds, &err));
    assert_non_null(strstr(err.text, "do not fit the KV cache"));
    model_free(m);
}

int main(void)
{
    Err err = {0};
    strcpy(dir, "/tmp/blade_bench_XXXXXX");
    if (!mkdtemp(dir) || !toy_checkpoint(dir, &err))
        die("%s", err.text);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limits_are_measured),
        cmocka_unit_test(steps_are_timed),
        cmocka_unit_test(too_long_contexts_are_refused),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) || failed;
}
