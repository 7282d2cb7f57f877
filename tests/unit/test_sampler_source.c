/* Tests of templates/device/sampler.cu without a GPU: a C compiler compiles it (kernels/device_host.h), the SIMT
 * machine runs it in both orders, on the cases of the operator, against its reference; and a row of bad numbers. */
#include "test.h"

#include "generator.h"
#include "simt/simt.h"

#include <math.h>
#include <stdlib.h>

typedef struct Variant {
    int vocab, threads, wave;
    const void *entry;
} Variant;

#define VARIANT(vocab, threads, wave) void kernel_##vocab##_##threads##_##wave(void);
#include "sampler_variants.h"
#undef VARIANT

#define VARIANT(vocab, threads, wave) \
    {vocab, threads, wave, (const void *)(uintptr_t)kernel_##vocab##_##threads##_##wave},
static const Variant variants[] = {
#include "sampler_variants.h"
};
#undef VARIANT

enum { SHARED = 60 << 10 };

static int ran;

/* Runs one variant in one order on copies of what it writes. */
static bool launch(const Variant *v, const Kernel *k, void **buffers, const int64_t *sizes, SimtOrder order, Err *err)
{
    void *arguments[SIMT_MAX_ARGUMENTS];
    int count = 0;
    while (buffers[count] && count < 11) {
        arguments[count] = buffers[count];
        count++;
    }
    arguments[count++] = (void *)(uintptr_t)sizes;
    SimtLaunch l = {.name = k->name, .entry = v->entry, .arguments = arguments, .count = count,
                    .blocks = sizes[SIZE_OUTPUTS] + 1, /* one too many, which returns at once */
                    .threads = v->threads, .wave = v->wave, .shared = SHARED, .order = order};
    ran++;
    return simt_launch(&l, err);
}

static int64_t bytes_of(const Kernel *k, int argument, const int64_t *sizes)
{
    for (size_t i = 0; i < k->mem.len; i++)
        if (k->mem.at[i].space == SPACE_GLOBAL && k->mem.at[i].index == argument)
            return memory_bytes(&k->mem.at[i], sizes);
    return 0;
}

/* All variants of the kernel's vocabulary give the same; the last one's results stay in the buffers. */
static bool run(void *context, const Kernel *k, void **buffers, const int64_t *sizes, Err *err)
{
    const char *vocab = strstr(k->name, "vocab=");
    static const int outputs[] = {0, 7, 8, 9, 10};
    void *before[11], *first[11] = {0};
    bool ok = true;
    int seen = 0;
    (void)context;
    for (int i = 0; i < 11; i++) {
        size_t n = (size_t)bytes_of(k, i, sizes);
        before[i] = xmalloc(n + 1);
        memcpy(before[i], buffers[i], n);
    }
    for (size_t v = 0; v < 2 * COUNT(variants) && ok; v++) {
        if (variants[v / 2].vocab != atoi(vocab + 6))
            continue;
        for (int i = 0; i < 11; i++)
            memcpy(buffers[i], before[i], (size_t)bytes_of(k, i, sizes));
        ok = launch(&variants[v / 2], k, buffers, sizes, v % 2 ? SIMT_REVERSE : SIMT_FORWARD, err);
        for (size_t o = 0; o < COUNT(outputs) && ok; o++) {
            int i = outputs[o];
            size_t n = (size_t)bytes_of(k, i, sizes);
            if (!seen)
                first[i] = memcpy(xmalloc(n + 1), buffers[i], n);
            else if (memcmp(first[i], buffers[i], n))
                ok = err_set(err, "variant %zu gives other bits in argument %d", v, i);
        }
        seen++;
    }
    for (int i = 0; i < 11; i++) {
        free(before[i]);
        free(first[i]);
    }
    return ok && (seen > 0 || err_set(err, "no variant for %s", k->name));
}

static void cases_of_the_operator(void **state)
{
    (void)state;
    Err err = {0};
    CheckResult result = {0};
    Generator *g = gen_open(SOURCE_DIR, target_find("x86-64", &err), &err);
    if (!g)
        fail_msg("%s", err.text);
    if (!gen_check(g, "sample", false, run, NULL, &result, &err))
        fail_msg("%s", err.text);
    assert_int_equal(result.failed, 0);
    assert_true(result.passed >= 7);
    assert_true(ran >= 28);
    gen_close(g);
}

/* NaN counts as -infinity, and nothing is read out of bounds for parameters that make no sense. */
static void bad_numbers(void **state)
{
    (void)state;
    enum { VOCAB = 50, PITCH = 80, ROWS = 6 };
    static float logits[ROWS * PITCH], peaks[ROWS], segments[ROWS * 2], params[ROWS * 8], logprob[ROWS], logz[ROWS * 2];
    static int start[2 * ROWS], sampled[ROWS];
    static const float bad[] = {NAN, INFINITY, -1, 1e30f, -INFINITY, 0};
    int64_t sizes[SIZE_COUNT] = {0};
    float nothing[2] = {0};
    int none[1] = {0};
    Err err = {0};
    for (int r = 0; r < ROWS; r++) {
        for (int i = 0; i < PITCH; i++)
            logits[r * PITCH + i] = i % 3 ? NAN : i == 9 ? 2.0f : 1.0f;
        peaks[r] = 2.0f;
        for (int i = 0; i < 8; i++)
            params[8 * r + i] = i == 4 ? 5 : i == 0 ? (r == 0 ? NAN : r == 1 ? 1e30f : 1) : bad[r];
    }
    sizes[SIZE_OUTPUTS] = ROWS;
    for (size_t v = 0; v < COUNT(variants); v++) {
        void *arguments[] = {logits, peaks, segments, params, start, none, nothing, nothing, sampled, logprob, logz,
                             sizes};
        if (variants[v].vocab != VOCAB)
            continue;
        memset(sampled, 0xff, sizeof sampled);
        SimtLaunch l = {.name = "sample", .entry = variants[v].entry, .arguments = arguments, .count = COUNT(arguments),
                        .blocks = ROWS, .threads = variants[v].threads, .wave = variants[v].wave, .shared = SHARED};
        if (!simt_launch(&l, &err))
            fail_msg("%s", err.text);
        for (int r = 0; r < ROWS; r++)
            assert_true(sampled[r] >= 0 && sampled[r] < VOCAB);
        assert_int_equal(sampled[0], 9); /* no temperature: the largest */
        assert_int_equal(sampled[1], 9);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(cases_of_the_operator), cmocka_unit_test(bad_numbers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
