/* Tests of templates/rope.lua: inverse frequencies and factors of every scaling against transformers' tables
 * (tests/golden/operators/rope_tables.json), and what is refused. */
#include "test.h"

#include "generator.h"
#include "json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static Generator *open_generator(void)
{
    Err err = {0};
    const Target *t = target_find("x86-64", &err);
    Generator *g = gen_open(SOURCE_DIR, t, &err);
    if (!g)
        fail_msg("%s", err.text);
    return g;
}

static json_t *ask(Generator *g, json_t *config, json_int_t head_dim, Err *err)
{
    Buf text = {0};
    json_t *question = json_pack("{s:O, s:I}", "config", config, "head_dim", head_dim);
    json_t *answer = gen_call(g, "rope_json", question, &text, err) ? json_parse(text.data, text.len, "answer", err) : NULL;
    json_decref(question);
    buf_free(&text);
    return answer;
}

/* Relative: transformers computes frequencies in f32, the generator in f64. Observed: 6e-7 at most. */
static const double tolerance = 2e-6;

static void check_case(Generator *g, const json_t *c)
{
    Err err = {0};
    json_t *config = json_pack("{s:O, s:O}", "rope_parameters", json_object_get(c, "rope_parameters"),
                               "max_position_embeddings", json_object_get(c, "max_position_embeddings"));
    json_t *got = ask(g, config, json_integer_value(json_object_get(c, "head_dim")), &err);
    const char *name = json_string_value(json_object_get(c, "name"));
    if (!got)
        fail_msg("%s: %s", name, err.text);
    assert_int_equal(json_integer_value(json_object_get(got, "rotary")),
                     json_integer_value(json_object_get(c, "rotary_dim")));
    double factor = json_number_value(json_object_get(c, "attention_scaling"));
    assert_true(fabs(json_number_value(json_object_get(got, "factor")) - factor) <= tolerance * factor);
    json_t *want = json_object_get(c, "inv_freq"), *have = json_object_get(got, "inv_freq");
    assert_int_equal(json_array_size(have), json_array_size(want));
    for (size_t i = 0; i < json_array_size(want); i++) {
        double w = json_number_value(json_array_get(want, i)), h = json_number_value(json_array_get(have, i));
        if (fabs(w - h) > tolerance * fabs(w))
            fail_msg("%s: inv_freq[%zu] is %.9g, transformers has %.9g", name, i, h, w);
    }
    json_decref(got);
    json_decref(config);
}

static void tables_equal_transformers(void **state)
{
    (void)state;
    Err err = {0};
    json_t *file = json_read(SOURCE_DIR "/tests/golden/operators/rope_tables.json", 64 << 20, &err);
    if (!file)
        fail_msg("%s", err.text);
    Generator *g = open_generator();
    json_t *c;
    size_t i;
    json_array_foreach(json_object_get(file, "cases"), i, c)
        check_case(g, c);
    assert_true(i >= 10);
    gen_close(g);
    json_decref(file);
}

static void mistakes_are_named(void **state)
{
    (void)state;
    static const struct { const char *config, *message; } cases[] = {
        {"{\"rope_scaling\": {\"rope_type\": \"spiral\"}}", "'spiral' is not supported; supported: default, linear"},
        {"{\"rope_scaling\": {\"type\": \"linear\"}}", "needs \"factor\""},
        {"{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8}}", "needs \"low_freq_factor\""},
        {"{\"partial_rotary_factor\": 0.05}", "rotary columns"},
    };
    Generator *g = open_generator();
    for (size_t i = 0; i < COUNT(cases); i++) {
        Err err = {0};
        json_t *config = json_parse(cases[i].config, strlen(cases[i].config), "test", &err);
        assert_null(ask(g, config, 20, &err));
        if (!strstr(err.text, cases[i].message))
            fail_msg("%s: '%s' does not say '%s'", cases[i].config, err.text, cases[i].message);
        json_decref(config);
    }
    gen_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(tables_equal_transformers), cmocka_unit_test(mistakes_are_named)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
