/* Sampling parameters: ranges, penalties against a direct count, the draw, top log-probabilities. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sampler.h"
#include "test.h"

static void ranges(void **state)
{
    (void)state;
    Err err = {0};
    SamplingParams p = sampling_defaults();
    assert_true(sampling_check(&p, 100, &err));
    static const struct {
        const char *name;
        size_t offset;
        double bad[3];
    } rows[] = {
        {"temperature", offsetof(SamplingParams, temperature), {-0.1, 101, NAN}},
        {"top_p", offsetof(SamplingParams, top_p), {-0.1, 1.1, NAN}},
        {"min_p", offsetof(SamplingParams, min_p), {-0.1, 1.1, NAN}},
        {"repetition_penalty", offsetof(SamplingParams, repetition_penalty), {0, -1, NAN}},
        {"presence_penalty", offsetof(SamplingParams, presence_penalty), {-2.1, 2.1, NAN}},
        {"frequency_penalty", offsetof(SamplingParams, frequency_penalty), {-2.1, 2.1, NAN}},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        for (int j = 0; j < 3; j++) {
            SamplingParams q = sampling_defaults();
            *(double *)((char *)&q + rows[i].offset) = rows[i].bad[j];
            assert_false(sampling_check(&q, 100, &err));
            assert_non_null(strstr(err.text, rows[i].name));
        }
    p.min_tokens = 17;
    assert_false(sampling_check(&p, 100, &err));
    p = sampling_defaults();
    vec_push(&p.stop_tokens, 100);
    assert_false(sampling_check(&p, 100, &err));
    assert_string_equal(err.text, "stop_token_ids: there is no token 100");
    vec_free(&p.stop_tokens);
    vec_push(&p.logit_bias, (LogitBias){5, 101});
    assert_false(sampling_check(&p, 100, &err));
    vec_free(&p.logit_bias);
}

static void parameter_row(void **state)
{
    (void)state;
    SamplingParams p = sampling_defaults();
    float row[8];
    Sampler *s = sampler_new(&p, NULL, 0, NULL, 0);
    sampler_row(s, row);
    assert_true(row[0] == 0 && row[1] == 1 && row[2] == 0 && row[4] == 0 && row[5] == 0);
    assert_int_equal(sampler_max_adjustments(s, 1000, 500), 0);
    sampler_free(s);
    p.temperature = 0.5;
    p.top_k = 40;
    p.min_p = 0.25;
    p.seed = 9;
    s = sampler_new(&p, NULL, 0, NULL, 0);
    sampler_accept(s, 3);
    sampler_row(s, row);
    assert_true(row[0] == 2 && row[2] == 0.25f && row[4] == 40 && row[3] == sampling_draw(9, 1));
    sampler_free(s);
}

#define VOCAB 50

/* Adjustments as a dense row, from the sampler. */
static void dense(const Sampler *s, int64_t tokens, float r[VOCAB], float a[VOCAB])
{
    int32_t ids[VOCAB];
    float values[VOCAB][2];
    for (int t = 0; t < VOCAB; t++)
        r[t] = 1, a[t] = 0;
    int n = sampler_adjust(s, ids, values);
    assert_true(n <= sampler_max_adjustments(s, tokens, VOCAB));
    for (int i = 0; i < n; i++) {
        assert_true(r[ids[i]] == 1 && a[ids[i]] == 0); /* a token appears once, and not for nothing */
        assert_true(values[i][0] != 1 || values[i][1] != 0);
        r[ids[i]] = values[i][0];
        a[ids[i]] = values[i][1];
    }
}

static void penalties(void **state)
{
    (void)state;
    srand(3);
    for (int round = 0; round < 200; round++) {
        SamplingParams p = sampling_defaults();
        p.max_tokens = 100;
        p.repetition_penalty = rand() % 2 ? 1.25 : 1;
        p.presence_penalty = rand() % 2 ? 0.5 : 0;
        p.frequency_penalty = rand() % 2 ? 0.125 : 0;
        p.min_tokens = rand() % 2 ? 20 : 0;
        float bias[VOCAB] = {0};
        for (int i = rand() % 4; i > 0; i--) {
            LogitBias b = {(uint32_t)(rand() % VOCAB), 1.5f};
            vec_push(&p.logit_bias, b);
            bias[b.token] += b.bias;
        }
        vec_push(&p.stop_tokens, 7);
        uint32_t prompt[30], eos[] = {2};
        int in_prompt[VOCAB] = {0}, count[VOCAB] = {0};
        for (int i = 0; i < 30; i++)
            in_prompt[prompt[i] = (uint32_t)(rand() % VOCAB)]++;
        Sampler *s = sampler_new(&p, prompt, 30, eos, 1);
        for (int step = 0; step < 60; step++) {
            float r[VOCAB], a[VOCAB];
            dense(s, 30 + step, r, a);
            for (int t = 0; t < VOCAB; t++) {
                bool forbidden = step < p.min_tokens && (t == 2 || t == 7);
                double presence = count[t] ? p.presence_penalty : 0;
                float expected = forbidden ? -INFINITY : (float)(bias[t] - presence - count[t] * p.frequency_penalty);
                assert_true(a[t] == expected);
                assert_true(r[t] == (in_prompt[t] || count[t] ? (float)p.repetition_penalty : 1));
            }
            uint32_t token = (uint32_t)(rand() % VOCAB);
            count[token]++;
            sampler_accept(s, token);
        }
        sampler_free(s);
        vec_free(&p.logit_bias);
        vec_free(&p.stop_tokens);
    }
}

/* A row of logits in -240..240, as the sampling kernel adjusts it. */
static void adjusted_row(const Sampler *s, int64_t tokens, float x[VOCAB])
{
    float r[VOCAB], a[VOCAB];
    dense(s, tokens, r, a);
    for (int t = 0; t < VOCAB; t++) {
        x[t] = (float)(rand() % 48001 - 24000) / 100;
        x[t] = (x[t] > 0 ? x[t] / r[t] : x[t] * r[t]) + a[t];
    }
}

/* Whatever else is asked for, the best allowed token stands 25 temperatures above every other one, and allowed tokens
 * keep their distances. */
static void allowed_tokens(void **state)
{
    (void)state;
    static const double temperatures[] = {0, 0.7, 1, 5, 100}, penalties_of[] = {1, 1.3, 100, 0.01};
    srand(5);
    for (int round = 0; round < 400; round++) {
        SamplingParams p = sampling_defaults(), plain;
        p.temperature = temperatures[round % 5];
        p.repetition_penalty = penalties_of[rand() % 4];
        p.frequency_penalty = rand() % 2 ? 2 : 0;
        p.min_tokens = rand() % 3 ? 0 : 5;
        p.max_tokens = 100;
        vec_push(&p.logit_bias, (LogitBias){(uint32_t)(rand() % VOCAB), 100});
        bool allowed[VOCAB] = {false};
        for (int i = rand() % 5; i >= 0; i--) {
            vec_push(&p.allowed_tokens, (uint32_t)(rand() % VOCAB));
            allowed[p.allowed_tokens.at[p.allowed_tokens.len - 1]] = true;
        }
        uint32_t prompt[] = {1, 2, 3}, eos[] = {2};
        plain = sampling_copy(&p);
        plain.allowed_tokens.len = 0;
        Sampler *s = sampler_new(&p, prompt, 3, eos, 1), *free_one = sampler_new(&plain, prompt, 3, eos, 1);
        for (int step = 0; step < 60; step++) {
            float r[VOCAB], a[VOCAB], fr[VOCAB], fa[VOCAB], x[VOCAB], best = -INFINITY, moved = NAN;
            dense(s, 3 + step, r, a);
            dense(free_one, 3 + step, fr, fa);
            adjusted_row(s, 3 + step, x);
            uint32_t token = p.allowed_tokens.at[0];
            for (uint32_t t = 0; t < VOCAB; t++)
                if (allowed[t] && x[t] > best)
                    best = x[token = t];
            for (int t = 0; t < VOCAB; t++) {
                if (!allowed[t]) {
                    assert_true(x[t] < best - 25 * (float)p.temperature);
                } else if (a[t] > -INFINITY && fa[t] > -INFINITY) {
                    assert_true(r[t] == fr[t]);
                    assert_true(isnan(moved) || fabsf(a[t] - fa[t] - moved) <= 0x1p-8f);
                    moved = a[t] - fa[t];
                }
            }
            sampler_accept(s, token);
            sampler_accept(free_one, token);
        }
        sampler_free(s);
        sampler_free(free_one);
        sampling_free(&p);
        sampling_free(&plain);
    }
}

/* An end-of-sequence token that min_tokens forbids, as the only allowed one: it comes all the same. */
static void allowed_and_forbidden(void **state)
{
    (void)state;
    SamplingParams p = sampling_defaults();
    uint32_t eos[] = {2};
    float x[VOCAB];
    p.min_tokens = 3;
    vec_push(&p.allowed_tokens, 2);
    Sampler *s = sampler_new(&p, NULL, 0, eos, 1);
    adjusted_row(s, 0, x);
    for (int t = 0; t < VOCAB; t++)
        assert_true(t == 2 ? x[t] > 241 : x[t] <= 240);
    sampler_free(s);
    vec_push(&p.allowed_tokens, 5); /* now there is another one */
    s = sampler_new(&p, NULL, 0, eos, 1);
    adjusted_row(s, 0, x);
    assert_true(x[2] == -INFINITY && x[5] > 241);
    sampler_free(s);
    sampling_free(&p);
}

/* Against a direct comparison of the output's end with every word. */
static void bad_words(void **state)
{
    (void)state;
    srand(6);
    for (int round = 0; round < 300; round++) {
        enum { WORDS = 6, LONGEST = 4, LETTERS = 3 };
        SamplingParams p = sampling_defaults();
        uint32_t words[WORDS][LONGEST], out[80];
        int lengths[WORDS];
        for (int w = 0; w < WORDS; w++) {
            lengths[w] = 1 + rand() % LONGEST;
            vec_push(&p.bad_words, (uint32_t)lengths[w]);
            for (int i = 0; i < lengths[w]; i++)
                vec_push(&p.bad_words, words[w][i] = (uint32_t)(rand() % LETTERS));
        }
        Err err = {0};
        assert_true(sampling_check(&p, LETTERS, &err));
        Sampler *s = sampler_new(&p, (uint32_t[]){0, 1, 2}, 3, NULL, 0);
        for (int step = 0; step < 80; step++) {
            float r[VOCAB], a[VOCAB];
            dense(s, 3 + step, r, a);
            for (uint32_t t = 0; t < VOCAB; t++) {
                bool bad = false;
                out[step] = t;
                for (int w = 0; w < WORDS; w++)
                    bad = bad || (lengths[w] <= step + 1 &&
                                  !memcmp(out + step + 1 - lengths[w], words[w], sizeof **words * (size_t)lengths[w]));
                assert_true(a[t] == (bad ? -INFINITY : 0));
            }
            out[step] = (uint32_t)(rand() % LETTERS);
            sampler_accept(s, out[step]);
        }
        sampler_free(s);
        sampling_free(&p);
    }
}

static void wrong_lists(void **state)
{
    (void)state;
    static const struct {
        uint32_t bad_words[4];
        size_t n;
        bool ok;
    } rows[] = {
        {{1, 9}, 2, true}, {{2, 9, 9}, 3, true}, {{1, 9, 1, 8}, 4, true}, {{1, 10}, 2, false}, {{0}, 1, false},
        {{2, 9}, 2, false}, {{1, 9, 1}, 3, false}, {{UINT32_MAX, 1}, 2, false}, {{1}, 1, false},
    };
    Err err = {0};
    for (size_t i = 0; i < COUNT(rows); i++) {
        SamplingParams p = sampling_defaults();
        for (size_t k = 0; k < rows[i].n; k++)
            vec_push(&p.bad_words, rows[i].bad_words[k]);
        assert_int_equal(sampling_check(&p, 10, &err), rows[i].ok);
        sampling_free(&p);
    }
    SamplingParams p = sampling_defaults();
    vec_push(&p.allowed_tokens, 10);
    assert_false(sampling_check(&p, 10, &err));
    assert_string_equal(err.text, "allowed_token_ids: there is no token 10");
    p.allowed_tokens.at[0] = 9;
    assert_true(sampling_check(&p, 10, &err));
    SamplingParams copy = sampling_copy(&p);
    assert_true(copy.allowed_tokens.at != p.allowed_tokens.at && copy.allowed_tokens.at[0] == 9);
    sampling_free(&copy);
    for (int i = 0; i < 10; i++)
        vec_push(&p.allowed_tokens, 0);
    assert_false(sampling_check(&p, 10, &err));
    sampling_free(&p);
}

static void stops(void **state)
{
    (void)state;
    SamplingParams p = sampling_defaults();
    uint32_t eos[] = {2, 3};
    vec_push(&p.stop_tokens, 7);
    for (int ignore = 0; ignore < 2; ignore++) {
        p.ignore_eos = ignore;
        Sampler *s = sampler_new(&p, NULL, 0, eos, 2);
        assert_true(sampler_is_stop(s, 7));
        assert_int_equal(sampler_is_stop(s, 2), !ignore);
        assert_int_equal(sampler_is_stop(s, 3), !ignore);
        assert_false(sampler_is_stop(s, 4));
        sampler_free(s);
    }
    vec_free(&p.stop_tokens);
}

static void draws_are_uniform(void **state)
{
    (void)state;
    int bins[16] = {0};
    double sum = 0, product = 0;
    const int n = 1 << 16;
    for (int i = 0; i < n; i++) {
        float u = sampling_draw((uint64_t)i / 256, (uint64_t)i % 256);
        assert_true(u >= 0 && u < 1);
        bins[(int)(u * 16)]++;
        sum += u;
        product += u * sampling_draw((uint64_t)i / 256, (uint64_t)i % 256 + 1);
    }
    for (int i = 0; i < 16; i++) /* expected 4096, standard deviation 62 */
        assert_in_range(bins[i], 4096 - 310, 4096 + 310);
    assert_true(fabs(sum / n - 0.5) < 0.006 && fabs(product / n - 0.25) < 0.006);
}

static int by_logit(const void *x, const void *y)
{
    const TopLogprob *a = x, *b = y;
    if (a->logprob != b->logprob)
        return a->logprob < b->logprob ? 1 : -1;
    return a->token < b->token ? -1 : 1;
}

static void top_logprobs(void **state)
{
    (void)state;
    srand(4);
    for (int round = 0; round < 300; round++) {
        float logits[VOCAB];
        TopLogprob sorted[VOCAB], top[SAMPLING_MAX_LOGPROBS];
        for (int t = 0; t < VOCAB; t++) {
            logits[t] = (float)(rand() % 30);
            sorted[t] = (TopLogprob){(uint32_t)t, logits[t]};
        }
        qsort(sorted, VOCAB, sizeof *sorted, by_logit);
        int n = rand() % (SAMPLING_MAX_LOGPROBS + 1);
        assert_int_equal(sampling_top(logits, VOCAB, 2, n, top), n);
        for (int i = 0; i < n; i++)
            assert_true(top[i].token == sorted[i].token && top[i].logprob == sorted[i].logprob - 2);
    }
    float two[2] = {1, 2};
    TopLogprob top[5];
    assert_int_equal(sampling_top(two, 2, 0, 5, top), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges),
        cmocka_unit_test(parameter_row),
        cmocka_unit_test(penalties),
        cmocka_unit_test(allowed_tokens),
        cmocka_unit_test(allowed_and_forbidden),
        cmocka_unit_test(bad_words),
        cmocka_unit_test(wrong_lists),
        cmocka_unit_test(stops),
        cmocka_unit_test(draws_are_uniform),
        cmocka_unit_test(top_logprobs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
