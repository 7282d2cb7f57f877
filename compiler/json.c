/* json.c - implementation of json.h; see there. */
#include "json.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_INT_DIGITS 18 /* always fit into int64_t */

/* ---- Python's dialect ---------------------------------------------------------------------------------------- */

static bool is_word_char(char c)
{
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    return letter || (c >= '0' && c <= '9') || c == '.' || c == '+' || c == '-';
}

/* Bytes of the string literal at s, quotes included; stops at the end of the text. */
static size_t string_length(const char *s, size_t n)
{
    size_t i = 1;
    while (i < n && s[i] != '"')
        i += s[i] == '\\' ? 2 : 1;
    return MIN(i + 1, n);
}

static bool is_long_integer(const char *s, size_t n)
{
    size_t sign = s[0] == '-';
    for (size_t i = sign; i < n; i++)
        if (s[i] < '0' || s[i] > '9')
            return false;
    return n - sign > MAX_INT_DIGITS;
}

static void put_word(Buf *out, const char *s, size_t n)
{
    static const struct {
        const char *python, *json;
    } words[] = {
        {"NaN", "null"},
        {"Infinity", "1.7976931348623157e308"},
        {"-Infinity", "-1.7976931348623157e308"},
    };
    for (size_t i = 0; i < COUNT(words); i++)
        if (n == strlen(words[i].python) && !memcmp(s, words[i].python, n)) {
            buf_puts(out, words[i].json);
            return;
        }
    buf_put(out, s, n);
    if (is_long_integer(s, n))
        buf_puts(out, ".0");
}

/* Rewrites Python's extra forms into JSON; anything else, mistakes too, goes through as it is. */
static void standardize(Buf *out, const char *s, size_t n)
{
    buf_reserve(out, n);
    for (size_t i = 0, len; i < n; i += len) {
        len = 1;
        if (s[i] == '"') {
            len = string_length(s + i, n - i);
            buf_put(out, s + i, len);
        } else if (is_word_char(s[i])) {
            while (i + len < n && is_word_char(s[i + len]))
                len++;
            put_word(out, s + i, len);
        } else {
            buf_putc(out, s[i]);
        }
    }
}

/* ---- parsing -------------------------------------------------------------------------------------------------- */

/* Jansson quotes the offending text: keep control characters of a hostile file off the terminal. */
static void hide_controls(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7F)
            *s = '?';
}

json_t *json_parse(const char *text, size_t size, const char *where, Err *err)
{
    Buf standard = {0};
    standardize(&standard, text, size);
    json_error_t e;
    json_t *root = json_loadb(standard.data, standard.len, 0, &e);
    buf_free(&standard);
    if (!root) {
        hide_controls(e.text);
        err_set(err, "%s: line %d: not valid JSON: %s", where, MAX(e.line, 1), e.text);
        return NULL;
    }
    if (!json_is_object(root)) {
        json_decref(root);
        err_set(err, "%s: a JSON object {...} was expected", where);
        return NULL;
    }
    return root;
}

json_t *json_read(const char *path, size_t limit, Err *err)
{
    Buf text = {0};
    if (!file_read(&text, path, limit, err))
        return NULL;
    json_t *root = json_parse(text.data, text.len, path, err);
    buf_free(&text);
    return root;
}

/* ---- typed access --------------------------------------------------------------------------------------------- */

/* The value for messages: `text` when it is short, otherwise its type. */
static const char *describe(const json_t *v, char text[64])
{
    static const char *const types[] = {
        [JSON_OBJECT] = "an object",   [JSON_ARRAY] = "an array",  [JSON_STRING] = "a string",
        [JSON_INTEGER] = "an integer", [JSON_REAL] = "a number",   [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",        [JSON_NULL] = "null",
    };
    if (json_is_integer(v))
        snprintf(text, 64, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    else if (json_is_real(v))
        snprintf(text, 64, "%g", json_real_value(v));
    else
        snprintf(text, 64, "%s", types[json_typeof(v)]);
    return text;
}

static const json_t *value_at(const json_t *obj, const char *key)
{
    const json_t *v = json_object_get(obj, key);
    return json_is_null(v) ? NULL : v;
}

static bool to_int(const json_t *v, int64_t *out)
{
    if (json_is_integer(v)) {
        *out = json_integer_value(v);
        return true;
    }
    double d = json_real_value(v); /* 0 for any other type */
    if (!json_is_real(v) || d != floor(d) || fabs(d) > 0x1p53)
        return false;
    *out = (int64_t)d;
    return true;
}

bool json_get_int(const json_t *obj, const char *key, int64_t lo, int64_t hi, int64_t dflt, int64_t *out, Err *err)
{
    char text[64];
    const json_t *v = value_at(obj, key);
    *out = dflt;
    if (!v)
        return true;
    int64_t value;
    if (!to_int(v, &value) || value < lo || value > hi)
        return err_set(err, "\"%s\" is %s, an integer from %" PRId64 " to %" PRId64 " was expected", key,
                       describe(v, text), lo, hi);
    *out = value;
    return true;
}

bool json_get_real(const json_t *obj, const char *key, double lo, double hi, double dflt, double *out, Err *err)
{
    char text[64];
    const json_t *v = value_at(obj, key);
    *out = dflt;
    if (!v)
        return true;
    double value = json_number_value(v);
    if (!json_is_number(v) || value < lo || value > hi)
        return err_set(err, "\"%s\" is %s, a number from %g to %g was expected", key, describe(v, text), lo, hi);
    *out = value;
    return true;
}

bool json_get_bool(const json_t *obj, const char *key, bool dflt, bool *out, Err *err)
{
    char text[64];
    const json_t *v = value_at(obj, key);
    *out = dflt;
    if (!v)
        return true;
    if (!json_is_boolean(v))
        return err_set(err, "\"%s\" is %s, true or false was expected", key, describe(v, text));
    *out = json_is_true(v);
    return true;
}

bool json_get_str(const json_t *obj, const char *key, const char *dflt, const char **out, Err *err)
{
    char text[64];
    const json_t *v = value_at(obj, key);
    *out = dflt;
    if (!v)
        return true;
    if (!json_is_string(v))
        return err_set(err, "\"%s\" is %s, a string was expected", key, describe(v, text));
    *out = json_string_value(v);
    return true;
}
