/* Written JSON, read back by jansson: every code point, every byte, numbers to the last bit of a float. */
#include <float.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "json_write.h"
#include "test.h"

/* What is in `out` as a JSON value; empties `out`. */
static json_t *read_back(Buf *out)
{
    json_error_t error;
    json_t *value = json_loadb(out->data, out->len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (!value)
        fail_msg("%s in: %.200s", error.text, out->data);
    out->len = 0;
    return value;
}

static void every_code_point(void **state)
{
    (void)state;
    Buf out = {0};
    for (uint32_t cp = 0; cp < 0x110000; cp = cp == 0xD7FF ? 0xE000 : cp + 1) {
        char text[4];
        size_t n = utf8_encode(cp, text);
        json_put_text(&out, text, n);
        json_t *value = read_back(&out);
        assert_int_equal(json_string_length(value), n);
        assert_memory_equal(json_string_value(value), text, n);
        json_decref(value);
    }
    buf_free(&out);
}

static void lines_stay_whole(void **state)
{
    (void)state;
    Buf out = {0};
    json_put_text(&out, "a\n\r\0\x7F\xE2\x80\xA8" "b\"\\", 11);
    assert_string_equal(out.data, "\"a\\n\\r\\u0000\\u007f\\u2028b\\\"\\\\\"");
    buf_free(&out);
}

static void wrong_bytes(void **state)
{
    (void)state;
    static const struct { const char *text, *expected; } cases[] = {
        {"\xFF", "\xEF\xBF\xBD"},
        {"a\xC3", "a\xEF\xBF\xBD"},
        {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"}, /* a surrogate */
        {"\xC0\x80z", "\xEF\xBF\xBD\xEF\xBF\xBDz"},               /* a NUL in two bytes */
        {"\xF0\x9F\x98", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
    };
    Buf out = {0};
    for (size_t i = 0; i < COUNT(cases); i++) {
        json_put_str(&out, cases[i].text);
        json_t *value = read_back(&out);
        assert_string_equal(json_string_value(value), cases[i].expected);
        json_decref(value);
    }
    buf_free(&out);
}

static void numbers(void **state)
{
    (void)state;
    Buf out = {0};
    const float floats[] = {0, -1.5f, 0.1f, FLT_MIN, -FLT_MAX, 1e-40f, 3.14159274f, -16777217};
    for (size_t i = 0; i < COUNT(floats); i++) {
        json_put_real(&out, floats[i]);
        json_t *value = read_back(&out);
        assert_true((float)json_number_value(value) == floats[i]);
        json_decref(value);
    }
    json_put_real(&out, NAN);
    json_put_real(&out, -INFINITY);
    json_put_int(&out, INT64_MIN);
    json_put_bool(&out, true);
    json_put_str(&out, NULL);
    assert_string_equal(out.data, "null-1e308-9223372036854775808truenull");
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_point),
        cmocka_unit_test(lines_stay_whole),
        cmocka_unit_test(wrong_bytes),
        cmocka_unit_test(numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
