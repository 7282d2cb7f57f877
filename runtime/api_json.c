/* api_json.c - the bytes of a request to JSON: what jansson would take too much of, or not take, is found before. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api_request_int.h"

static bool check_utf8(const char *s, size_t n, Err *err)
{
    for (size_t i = 0, used; i < n; i += used) {
        uint32_t cp;
        used = 1;
        if ((unsigned char)s[i] < 0x80)
            continue;
        used = utf8_decode(s + i, n - i, &cp);
        if (used == 1)
            return err_set(err, "the text is not valid UTF-8: byte 0x%02x at position %zu", (unsigned char)s[i], i);
    }
    return true;
}

/* Bytes of the string literal at s, quotes included; at most n. 0 when it holds the character U+0000. */
static size_t string_length(const char *s, size_t n)
{
    size_t i = 1;
    for (; i < n && s[i] != '"'; i += s[i] == '\\' ? 2 : 1)
        if (s[i] == '\\' && n - i >= 6 && !memcmp(s + i, "\\u0000", 6))
            return 0;
    return i < n ? i + 1 : n;
}

static size_t number_length(const char *s, size_t n)
{
    size_t i = 1;
    while (i < n && s[i] && strchr("0123456789+-.eE", s[i]))
        i++;
    return i;
}

/* An integer that jansson refuses. */
static bool too_big(const char *s, size_t n)
{
    char digits[24];
    if (n < 19 || memchr(s, '.', n) || memchr(s, 'e', n) || memchr(s, 'E', n))
        return false;
    if (n >= sizeof digits)
        return true;
    memcpy(digits, s, n);
    digits[n] = 0;
    errno = 0;
    strtoll(digits, NULL, 10);
    return errno == ERANGE;
}

typedef struct Scan {
    Buf out;         /* the text up to `copied`, when anything had to be changed */
    size_t copied;
    size_t depth;
} Scan;

/* Takes what a token needs as a value from *room; false when that is gone. */
static bool take_room(char c, size_t *room)
{
    size_t need = c == '{' || c == '[' ? API_LIST_VALUES : c == ',' || c == ':';
    bool fits = need <= *room;
    *room -= MIN(need, *room);
    return fits;
}

/* Deals with the token at s[i]; returns its bytes, 0 on an error. */
static size_t scan_token(Scan *k, const char *s, size_t i, size_t n, Err *err)
{
    char c = s[i];
    size_t len = 1;
    if (c == '"') {
        len = string_length(s + i, n - i);
        if (!len)
            err_set(err, "the string at position %zu holds the character \\u0000, which no text may hold", i);
    } else if (c == '{' || c == '[') {
        len = ++k->depth <= API_MAX_DEPTH;
        if (!len)
            err_set(err, "more than %d levels of [ and { at position %zu", API_MAX_DEPTH, i);
    } else if (c == '}' || c == ']') {
        k->depth -= k->depth > 0;
    } else if (c == '-' || (c >= '0' && c <= '9')) {
        len = number_length(s + i, n - i);
        if (too_big(s + i, len)) {
            buf_put(&k->out, s + k->copied, i + len - k->copied);
            buf_puts(&k->out, ".0");
            k->copied = i + len;
        }
    }
    return len;
}

static json_t *load(const char *text, size_t len, bool unique, Err *err)
{
    json_error_t e;
    json_t *value = json_loadb(text, len, unique ? JSON_REJECT_DUPLICATES : 0, &e);
    if (!value)
        err_set(err, "not valid JSON: line %d, column %d: %s", MAX(e.line, 1), MAX(e.column, 0), e.text);
    return value;
}

/* The text before parsing; k->out is a copy where something had to be changed. */
static bool scan(Scan *k, const char *text, size_t len, size_t *room, Err *err)
{
    for (size_t i = 0, used; i < len; i += used) {
        used = scan_token(k, text, i, len, err);
        if (!used)
            return false;
        if (!take_room(text[i], room))
            return err_set(err, "more than %d values; a list or an object counts as %d", API_MAX_VALUES,
                           API_LIST_VALUES);
    }
    return true;
}

json_t *api_json_parse(const char *text, size_t len, bool unique, size_t *room, Err *err)
{
    Scan k = {0};
    if (!check_utf8(text, len, err) || !scan(&k, text, len, room, err)) {
        buf_free(&k.out);
        return NULL;
    }
    if (k.copied)
        buf_put(&k.out, text + k.copied, len - k.copied);
    json_t *value = k.copied ? load(k.out.data, k.out.len, unique, err) : load(text, len, unique, err);
    buf_free(&k.out);
    return value;
}
