/* Tests of compiler/json.c: Python's dialect, messages, range checks. */
#include "test.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

static json_t *parse(const char *text)
{
    Err err = {0};
    json_t *v = json_parse(text, strlen(text), "config.json", &err);
    if (!v)
        fail_msg("%s", err.text);
    return v;
}

static void python_forms_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *text, *expected; /* compact, keys sorted */
    } cases[] = {
        {"{\"a\": NaN}", "{\"a\":null}"},
        {"{\"a\": [NaN,NaN , 1]}", "{\"a\":[null,null,1]}"},
        {"{\"a\":Infinity}", "{\"a\":1.7976931348623157e308}"},
        {"{\"a\":-Infinity}", "{\"a\":-1.7976931348623157e308}"},
        {"{\"a\": 1000000000000000019884624838656}", "{\"a\":1e30}"},
        {"{\"a\": -9223372036854775809}", "{\"a\":-9.2233720368547758e18}"},
        {"{\"a\": 999999999999999999}", "{\"a\":999999999999999999}"},
        {"{\"a\": 1, \"a\": 2}", "{\"a\":2}"},
        {"{\"NaN\": \"Infinity \\\"NaN\\\" 1000000000000000019884624838656\"}",
         "{\"NaN\":\"Infinity \\\"NaN\\\" 1000000000000000019884624838656\"}"},
        {"{\"a\\\\\": NaN}", "{\"a\\\\\":null}"},
        {"{\"a\": 1e-05, \"b\": -0.5E+3}", "{\"a\":1.0000000000000001e-5,\"b\":-500.0}"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        json_t *v = parse(cases[i].text);
        char *text = json_dumps(v, JSON_COMPACT | JSON_SORT_KEYS);
        assert_string_equal(text, cases[i].expected);
        free(text);
        json_decref(v);
    }
}

static void mistakes_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "config.json: line 1: not valid JSON"},
        {"{", "config.json: line 1: not valid JSON"},
        {"{\n\"a\": 1,\n}", "config.json: line 3: not valid JSON"},
        {"{\"a\": nan}", "invalid token near 'nan'"},
        {"{\"a\": xNaN}", "invalid token near 'x"},
        {"{\"a\": +Infinity}", "invalid token"},
        {"{\"a\": 1e999}", "real number overflow"},
        {"{\"a\": 01}", "not valid JSON"},
        {"{\"a\": \"\\", "not valid JSON"},
        {"{\"a\": \"open", "premature end of input"},
        {"{\"a\": \x1b[31m}", "near '?"},
        {"{\"a\": \"\xff\"}", "unable to decode byte 0xff"},
        {"{} {}", "end of file expected"},
        {"[1, 2]", "a JSON object {...} was expected"},
        {"3", "not valid JSON"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        Err err = {0};
        assert_null(json_parse(cases[i].text, strlen(cases[i].text), "config.json", &err));
        if (!strstr(err.text, cases[i].message))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, err.text, cases[i].message);
        for (const char *s = err.text; *s; s++)
            assert_true((unsigned char)*s >= 0x20);
    }
}

static void nesting_is_limited(void **state)
{
    (void)state;
    Err err = {0};
    Buf text = {0};
    buf_puts(&text, "{\"a\":");
    for (int i = 0; i < 100000; i++)
        buf_putc(&text, '[');
    assert_null(json_parse(text.data, text.len, "config.json", &err));
    assert_non_null(strstr(err.text, "maximum parsing depth reached"));
    buf_free(&text);
}

static void integers_are_checked(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t expected;
        const char *message; /* NULL: the value is accepted */
    } cases[] = {
        {"{}", -7, NULL},
        {"{\"n\": null}", -7, NULL},
        {"{\"n\": NaN}", -7, NULL},
        {"{\"n\": 1}", 1, NULL},
        {"{\"n\": 4096}", 4096, NULL},
        {"{\"n\": 4096.0}", 4096, NULL},
        {"{\"n\": 4.096e3}", 4096, NULL},
        {"{\"n\": 0}", 0, "\"n\" is 0, an integer from 1 to 4096 was expected"},
        {"{\"n\": -3}", 0, "\"n\" is -3, an integer"},
        {"{\"n\": 4097}", 0, "\"n\" is 4097"},
        {"{\"n\": 2.5}", 0, "\"n\" is 2.5"},
        {"{\"n\": 1e300}", 0, "\"n\" is 1e+300"},
        {"{\"n\": Infinity}", 0, "\"n\" is 1.797"},
        {"{\"n\": 1000000000000000019884624838656}", 0, "\"n\" is 1e+30"},
        {"{\"n\": \"12\"}", 0, "\"n\" is a string"},
        {"{\"n\": true}", 0, "\"n\" is true"},
        {"{\"n\": [1]}", 0, "\"n\" is an array"},
        {"{\"n\": {}}", 0, "\"n\" is an object"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        Err err = {0};
        int64_t n;
        json_t *v = parse(cases[i].text);
        bool ok = json_get_int(v, "n", 1, 4096, -7, &n, &err);
        if (cases[i].message ? ok || !strstr(err.text, cases[i].message) : !ok || n != cases[i].expected)
            fail_msg("case %zu: %s gives %lld, \"%s\"", i, cases[i].text, (long long)n, err.text);
        json_decref(v);
    }
}

static void other_types_are_checked(void **state)
{
    (void)state;
    Err err = {0};
    double real;
    bool flag;
    const char *text;
    json_t *v = parse("{\"real\": 0.25, \"int\": 3, \"flag\": true, \"text\": \"silu\", \"none\": null,"
                      " \"inf\": Infinity}");
    assert_true(json_get_real(v, "real", 0, 1, 9, &real, &err) && real == 0.25);
    assert_true(json_get_real(v, "int", 0, 10, 9, &real, &err) && real == 3);
    assert_true(json_get_real(v, "none", 0, 1, 9, &real, &err) && real == 9);
    assert_true(json_get_real(v, "inf", 0, DBL_MAX, 9, &real, &err) && real == DBL_MAX);
    assert_false(json_get_real(v, "int", 0, 1, 9, &real, &err));
    assert_string_equal(err.text, "\"int\" is 3, a number from 0 to 1 was expected");
    assert_true(json_get_bool(v, "flag", false, &flag, &err) && flag);
    assert_true(json_get_bool(v, "absent", true, &flag, &err) && flag);
    assert_false(json_get_bool(v, "int", true, &flag, &err));
    assert_string_equal(err.text, "\"int\" is 3, true or false was expected");
    assert_true(json_get_str(v, "text", "x", &text, &err) && !strcmp(text, "silu"));
    assert_true(json_get_str(v, "none", "x", &text, &err) && !strcmp(text, "x"));
    assert_false(json_get_str(v, "flag", "x", &text, &err));
    assert_string_equal(err.text, "\"flag\" is true, a string was expected");
    assert_true(json_get_str(NULL, "text", "x", &text, &err) && !strcmp(text, "x"));
    json_decref(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(python_forms_are_read), cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(nesting_is_limited),    cmocka_unit_test(integers_are_checked),
        cmocka_unit_test(other_types_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
