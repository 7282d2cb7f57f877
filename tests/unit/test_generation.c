/* Sampling parameters from generation_config.json and from JSON requests. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "generation.h"
#include "test.h"

static char dir[] = "/tmp/blade-test-generation-XXXXXX";

static void write_file(const char *name, const char *text)
{
    char path[256];
    Err err = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (!file_write_atomic(path, text, strlen(text), &err))
        fail_msg("%s", err.text);
}

/* What a checkpoint with this generation_config.json gives; `eos` of config.json is 9. */
static bool read_config(const char *text, Generation *g, Err *err)
{
    write_file("config.json", "{\"eos_token_id\": 9}");
    write_file("generation_config.json", text);
    Checkpoint *c = ckpt_open_config(dir, err);
    if (!c)
        fail_msg("%s", err->text);
    bool ok = generation_read(c, NULL, g, err);
    ckpt_close(c);
    return ok;
}

static void defaults(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double temperature, top_p;
        int64_t top_k;
        size_t eos;
        uint32_t last_eos;
    } cases[] = {
        {"{}", 0, 1, 0, 1, 9},
        {"{\"eos_token_id\": 3}", 0, 1, 0, 1, 3},
        {"{\"eos_token_id\": [3, 4], \"do_sample\": true}", 1, 1, 0, 2, 4},
        {"{\"temperature\": 0.6, \"top_p\": 0.9, \"top_k\": 20}", 0.6, 0.9, 20, 1, 9},
        {"{\"do_sample\": true, \"temperature\": 0.6}", 0.6, 1, 0, 1, 9},
        {"{\"do_sample\": false, \"temperature\": 0.6, \"top_p\": 0.5}", 0, 0.5, 0, 1, 9},
        {"{\"do_sample\": null, \"temperature\": null, \"eos_token_id\": null}", 0, 1, 0, 1, 9},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        Generation g = {0};
        Err err = {0};
        if (!read_config(cases[i].text, &g, &err))
            fail_msg("%s: %s", cases[i].text, err.text);
        assert_true(g.params.temperature == cases[i].temperature);
        assert_true(g.params.top_p == cases[i].top_p);
        assert_int_equal(g.params.top_k, cases[i].top_k);
        assert_int_equal(g.eos.len, cases[i].eos);
        assert_int_equal(g.eos.at[g.eos.len - 1], cases[i].last_eos);
        generation_free(&g);
    }
}

static void wrong_defaults(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{\"temperature\": \"hot\"}", "\"temperature\" is a string"},
        {"{\"top_p\": 2}", "\"top_p\" is 2"},
        {"{\"eos_token_id\": [1, \"a\"]}", "\"eos_token_id\": a token id or a list"},
        {"{\"eos_token_id\": -1}", "\"eos_token_id\": a token id or a list"},
        {"{\"do_sample\": 1}", "\"do_sample\" is 1"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        Generation g = {0};
        Err err = {0};
        assert_false(read_config(cases[i][0], &g, &err));
        if (!strstr(err.text, cases[i][1]) || !strstr(err.text, "generation_config.json"))
            fail_msg("%s gave \"%s\"", cases[i][0], err.text);
        generation_free(&g);
    }
}

static Tokenizer *tokenizer;

/* a b c, a blank, " a" and "ab" as tokens: " ab" is " a", "b" and " b" is " ", "b". */
static const char tokenizer_json[] =
    "{\"model\":{\"type\":\"BPE\",\"merges\":[\"\u0120 a\",\"a b\"],"
    "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"\u0120\":3,\"\u0120a\":4,\"ab\":5}},"
    "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}}";

static bool read_request(const char *text, RequestParams *p, Err *err)
{
    json_t *o = json_parse(text, strlen(text), "request", err);
    if (!o)
        fail_msg("%s", err->text);
    bool ok = request_params_read(o, tokenizer, p, err);
    json_decref(o);
    return ok;
}

static void requests(void **state)
{
    (void)state;
    Err err = {0};
    RequestParams base = {.params = sampling_defaults()};
    base.params.temperature = 0.5;
    vec_push(&base.stops, xstrdup("old"));
    vec_push(&base.params.stop_tokens, 1);
    RequestParams p = request_params_copy(&base);
    assert_true(read_request("{\"prompt\": \"x\", \"top_k\": null}", &p, &err)); /* says nothing */
    assert_true(p.params.temperature == 0.5 && p.stops.len == 1 && p.params.logprobs == -1);
    assert_true(p.params.stop_tokens.len == 1 && p.params.stop_tokens.at != base.params.stop_tokens.at);
    assert_true(read_request("{\"max_tokens\": 7, \"temperature\": 0, \"seed\": -1, \"stop\": [\"a\", \"bc\"],"
                             "\"stop_token_ids\": [], \"logit_bias\": {\"5\": -2.5, \"6\": 1}, \"logprobs\": 2,"
                             "\"min_tokens\": 3, \"ignore_eos\": true, \"frequency_penalty\": 0.25}", &p, &err));
    assert_true(p.params.max_tokens == 7 && p.params.temperature == 0 && p.params.seed == UINT64_MAX);
    assert_true(p.params.min_tokens == 3 && p.params.ignore_eos && p.params.logprobs == 2);
    assert_true(p.params.frequency_penalty == 0.25 && p.params.stop_tokens.len == 0);
    assert_int_equal(p.stops.len, 2);
    assert_string_equal(p.stops.at[1], "bc");
    assert_int_equal(p.params.logit_bias.len, 2);
    assert_true(p.params.logit_bias.at[0].token == 5 && p.params.logit_bias.at[0].bias == -2.5f);
    assert_true(read_request("{\"stop\": \"one\", \"max_completion_tokens\": 9}", &p, &err));
    assert_true(p.stops.len == 1 && p.params.max_tokens == 9);
    request_params_free(&p);
    request_params_free(&base);
}

/* A word alone, and behind a blank only where that gives as many tokens (vLLM's rule). */
static void bad_words(void **state)
{
    (void)state;
    static const struct {
        const char *words;
        uint32_t tokens[8];
        size_t n;
    } rows[] = {
        {"[\"a\"]", {1, 0, 1, 4}, 4},
        {"[\"  a\"]", {1, 0, 1, 4}, 4},
        {"[\"ab\"]", {1, 5}, 2},
        {"[\"b\", \"ca\"]", {1, 1, 2, 2, 0}, 5},
        {"[\"a a\"]", {2, 0, 4, 2, 4, 4}, 6},
        {"[]", {0}, 0},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char text[100];
        RequestParams p = {.params = sampling_defaults()};
        Err err = {0};
        snprintf(text, sizeof text, "{\"bad_words\": %s, \"allowed_token_ids\": [1, 5]}", rows[i].words);
        if (!read_request(text, &p, &err))
            fail_msg("%s: %s", text, err.text);
        assert_int_equal(p.params.bad_words.len, rows[i].n);
        for (size_t k = 0; k < rows[i].n; k++)
            assert_int_equal(p.params.bad_words.at[k], rows[i].tokens[k]);
        assert_true(p.params.allowed_tokens.len == 2 && p.params.allowed_tokens.at[1] == 5);
        assert_true(sampling_check(&p.params, 6, &err));
        RequestParams copy = request_params_copy(&p);
        assert_int_equal(copy.params.bad_words.len, rows[i].n);
        request_params_free(&copy);
        request_params_free(&p);
    }
}

static void wrong_requests(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{\"max_tokens\": 1.5}", "\"max_tokens\""},
        {"{\"temperature\": -1}", "\"temperature\""},
        {"{\"seed\": \"x\"}", "\"seed\""},
        {"{\"logprobs\": 21}", "\"logprobs\""},
        {"{\"stop\": 5}", "\"stop\""},
        {"{\"stop\": [\"a\", 5]}", "\"stop\""},
        {"{\"stop_token_ids\": 5}", "\"stop_token_ids\""},
        {"{\"stop_token_ids\": [-1]}", "\"stop_token_ids\""},
        {"{\"logit_bias\": [1]}", "\"logit_bias\""},
        {"{\"logit_bias\": {\"x\": 1}}", "\"logit_bias\""},
        {"{\"logit_bias\": {\"-1\": 1}}", "\"logit_bias\""},
        {"{\"logit_bias\": {\"1\": true}}", "\"logit_bias\""},
        {"{\"logit_bias\": {\"1\": 100.5}}", "\"logit_bias\""},
        {"{\"logit_bias\": {\"01\": 1}}", "\"logit_bias\""},
        {"{\"logit_bias\": {\"99999999999999999999\": 1}}", "\"logit_bias\""},
        {"{\"allowed_token_ids\": []}", "\"allowed_token_ids\""},
        {"{\"allowed_token_ids\": [1e30]}", "\"allowed_token_ids\""},
        {"{\"allowed_token_ids\": {}}", "\"allowed_token_ids\""},
        {"{\"bad_words\": \"a\"}", "\"bad_words\""},
        {"{\"bad_words\": [5]}", "\"bad_words\""},
        {"{\"bad_words\": [\" \"]}", "\"bad_words\""},
        {"{\"ignore_eos\": 1}", "\"ignore_eos\""},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        RequestParams p = {.params = sampling_defaults()};
        Err err = {0};
        if (read_request(cases[i][0], &p, &err))
            fail_msg("%s was accepted", cases[i][0]);
        if (!strstr(err.text, cases[i][1]))
            fail_msg("%s gave \"%s\"", cases[i][0], err.text);
        request_params_free(&p);
    }
}

static int setup(void **state)
{
    (void)state;
    Err err;
    tokenizer = tok_parse(tokenizer_json, sizeof tokenizer_json - 1, NULL, 0, &err);
    return tokenizer && mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    char path[256];
    const char *const names[] = {"config.json", "generation_config.json"};
    for (size_t i = 0; i < COUNT(names); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    tok_free(tokenizer);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(wrong_defaults),
        cmocka_unit_test(requests),
        cmocka_unit_test(bad_words),
        cmocka_unit_test(wrong_requests),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
