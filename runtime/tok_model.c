/* tok_model.c - reads the two big members of tokenizer.json, model.vocab and model.merges, without building a tree of
 * half a million nodes: that alone takes jansson a quarter of a second for Llama 3. See tok.h. */
#include <stdlib.h>
#include <string.h>

#include "tok.h"

/* ---- scanning ------------------------------------------------------------------------------------------------ */

typedef struct Scanner {
    const char *s;
    size_t n, i;
} Scanner;

static char skip_space(Scanner *sc)
{
    while (sc->i < sc->n && (sc->s[sc->i] == ' ' || (sc->s[sc->i] >= '\t' && sc->s[sc->i] <= '\r')))
        sc->i++;
    return sc->i < sc->n ? sc->s[sc->i] : 0;
}

static bool take(Scanner *sc, char c)
{
    if (skip_space(sc) != c || sc->i == sc->n)
        return false;
    sc->i++;
    return true;
}

/* Is the quote at p escaped: behind an odd number of backslashes? */
static bool is_escaped(const char *from, const char *p)
{
    size_t n = 0;
    while (p - n > from && p[-1 - (ptrdiff_t)n] == '\\')
        n++;
    return n & 1;
}

/* i is at a quote; moves behind the closing one and returns what is between, escapes as they are. */
static Span scan_string(Scanner *sc)
{
    const char *from = sc->s + sc->i + 1, *end = sc->s + sc->n, *p = from;
    while ((p = memchr(p, '"', (size_t)(end - p))) && is_escaped(from, p))
        p++;
    sc->i = p ? (size_t)(p - sc->s) + 1 : sc->n;
    return (Span){from, (size_t)((p ? p : end) - from)};
}

/* i is at an opening bracket; moves behind the one that closes it. */
static Span scan_value(Scanner *sc)
{
    size_t from = sc->i, depth = 0;
    while (sc->i < sc->n) {
        char c = sc->s[sc->i];
        if (c == '"') {
            scan_string(sc);
            continue;
        }
        sc->i++;
        depth += c == '{' || c == '[';
        depth -= (c == '}' || c == ']') && depth;
        if (!depth)
            break;
    }
    return (Span){sc->s + from, sc->i - from};
}

static bool is_key(Span s, const char *name)
{
    return s.len == strlen(name) && !memcmp(s.at, name, s.len);
}

void model_cut(ModelText *m, const char *json, size_t len)
{
    *m = (ModelText){0};
    Scanner sc = {json, len, 0};
    size_t depth = 0, copied = 0;
    bool in_model = false;
    while (sc.i < len) {
        char c = json[sc.i];
        if (c != '"') {
            sc.i++;
            depth += c == '{' || c == '[';
            depth -= (c == '}' || c == ']') && depth;
            continue;
        }
        Span key = scan_string(&sc);
        if (!take(&sc, ':'))
            continue;
        char next = skip_space(&sc);
        if (depth == 1)
            in_model = is_key(key, "model");
        bool vocab = next == '{' && is_key(key, "vocab"), merges = next == '[' && is_key(key, "merges");
        if (depth != 2 || !in_model || !(vocab || merges))
            continue;
        buf_put(&m->rest, json + copied, sc.i - copied);
        *(vocab ? &m->vocab : &m->merges) = scan_value(&sc);
        buf_puts(&m->rest, "null");
        copied = sc.i;
    }
    buf_put(&m->rest, json + copied, len - copied);
}

/* ---- strings ------------------------------------------------------------------------------------------------- */

static int hex4(const char *s, size_t n)
{
    int v = 0;
    if (n < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        char c = (char)(s[i] | 32);
        int d = s[i] >= '0' && s[i] <= '9' ? s[i] - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (d < 0)
            return -1;
        v = v << 4 | d;
    }
    return v;
}

/* \uXXXX or a surrogate pair at s (behind the u); returns bytes used, 0 for a mistake. */
static size_t unicode_escape(Buf *out, const char *s, size_t n)
{
    int hi = hex4(s, n), lo;
    if (hi < 0 || (hi >= 0xDC00 && hi < 0xE000))
        return 0;
    if (hi < 0xD800 || hi >= 0xE000) {
        tok_put_char(out, (uint32_t)hi);
        return 4;
    }
    if (n < 10 || s[4] != '\\' || s[5] != 'u' || (lo = hex4(s + 6, n - 6)) < 0xDC00 || lo >= 0xE000)
        return 0;
    tok_put_char(out, 0x10000u + ((uint32_t)(hi - 0xD800) << 10) + (uint32_t)(lo - 0xDC00));
    return 10;
}

/* Resolves the escapes of `raw` into `out` (whose content is replaced) when there are any. */
static bool unescape(Span raw, Buf *out, Span *result, Err *err)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    *result = raw;
    out->len = 0;
    if (!tok_is_utf8(raw.at, raw.len))
        return err_set(err, "a string is not UTF-8");
    if (!memchr(raw.at, '\\', raw.len))
        return true;
    for (size_t i = 0; i < raw.len; i++) {
        if (raw.at[i] != '\\') {
            buf_putc(out, raw.at[i]);
            continue;
        }
        char c = ++i < raw.len ? raw.at[i] : 0;
        const char *name = c ? strchr(names, c) : NULL;
        size_t used = c == 'u' ? unicode_escape(out, raw.at + i + 1, raw.len - i - 1) : 0;
        if (name)
            buf_putc(out, values[name - names]);
        else if (!used)
            return err_set(err, "a string has a bad escape: \"%.*s\"", (int)MIN(raw.len, (size_t)80), raw.at);
        i += used;
    }
    *result = (Span){out->data ? out->data : "", out->len};
    return true;
}

static bool read_string(Scanner *sc, Buf *scratch, Span *out, Err *err)
{
    if (skip_space(sc) != '"')
        return err_set(err, "a string was expected at \"%.*s\"", (int)MIN(sc->n - sc->i, (size_t)40), sc->s + sc->i);
    return unescape(scan_string(sc), scratch, out, err);
}

/* ---- the two members ----------------------------------------------------------------------------------------- */

static bool read_id(Scanner *sc, uint32_t *id)
{
    skip_space(sc);
    size_t from = sc->i;
    uint64_t v = 0;
    for (; sc->i < sc->n && sc->s[sc->i] >= '0' && sc->s[sc->i] <= '9' && sc->i - from < 10; sc->i++)
        v = 10 * v + (uint64_t)(sc->s[sc->i] - '0');
    *id = (uint32_t)MIN(v, (uint64_t)TOK_NONE);
    return sc->i > from;
}

bool model_read_vocab(Vocab *v, Span text, Err *err)
{
    Scanner sc = {text.at, text.len, 0};
    Buf scratch = {0};
    bool ok = take(&sc, '{');
    for (bool more = ok && skip_space(&sc) != '}'; more; more = ok && take(&sc, ',')) {
        Span token;
        uint32_t id = 0;
        ok = read_string(&sc, &scratch, &token, err);
        if (ok && (!take(&sc, ':') || !read_id(&sc, &id)))
            ok = err_set(err, "token \"%.*s\" has no id", (int)MIN(token.len, (size_t)80), token.at);
        ok = ok && vocab_add(v, token.at, token.len, id, err);
    }
    if (ok && !take(&sc, '}'))
        ok = err_set(err, "a comma or the end was expected behind %zu tokens", vocab_count(v));
    buf_free(&scratch);
    return ok || err_prefix(err, "model.vocab");
}

/* "a b": exactly one space, as the package wants it. */
static bool read_merge_string(Scanner *sc, Buf *scratch, Span *a, Span *b, Err *err)
{
    Span s;
    if (!read_string(sc, scratch, &s, err))
        return false;
    const char *space = memchr(s.at, ' ', s.len);
    if (!space || memchr(space + 1, ' ', (size_t)(s.at + s.len - space - 1)))
        return err_set(err, "\"%.*s\": two tokens with one space between were expected", (int)MIN(s.len, (size_t)80),
                       s.at);
    *a = (Span){s.at, (size_t)(space - s.at)};
    *b = (Span){space + 1, s.len - a->len - 1};
    return true;
}

/* Old files carry the first line of merges.txt; the package skips it. */
static bool take_version_line(Scanner *sc)
{
    static const char line[] = "\"#version";
    if (sc->n - sc->i < strlen(line) || memcmp(sc->s + sc->i, line, strlen(line)))
        return false;
    scan_string(sc);
    return true;
}

static bool read_merge_pair(Scanner *sc, Buf scratch[2], Span *a, Span *b, Err *err)
{
    sc->i++;
    if (!read_string(sc, &scratch[0], a, err))
        return false;
    if (!take(sc, ','))
        return err_set(err, "two strings were expected");
    if (!read_string(sc, &scratch[1], b, err))
        return false;
    return take(sc, ']') || err_set(err, "two strings were expected");
}

bool model_read_merges(Span text, bool (*merge)(void *user, Span a, Span b, Err *err), void *user, Err *err)
{
    Scanner sc = {text.at, text.len, 0};
    Buf scratch[2] = {0};
    size_t rank = 0;
    bool ok = take(&sc, '[');
    for (bool more = ok && skip_space(&sc) != ']'; more; more = ok && take(&sc, ',')) {
        Span a, b;
        skip_space(&sc);
        if (take_version_line(&sc))
            continue;
        ok = skip_space(&sc) == '[' ? read_merge_pair(&sc, scratch, &a, &b, err)
                                    : read_merge_string(&sc, &scratch[0], &a, &b, err);
        ok = ok && merge(user, a, b, err);
        rank += ok;
    }
    if (ok && !take(&sc, ']'))
        ok = err_set(err, "a comma or the end was expected");
    buf_free(&scratch[0]);
    buf_free(&scratch[1]);
    return ok || err_prefix(err, "model.merges, entry %zu", rank + 1);
}
