/* tok_regex.c - the patterns of tokenizer.json, written for Oniguruma (Ruby syntax), run by PCRE2. See tok.h.
 *
 * The two agree on most of what such patterns use. translate() rewrites where they mean different things by the same
 * text, and refuses what is left:
 *   \s \w \b      PCRE2's sets differ in some characters: written out
 *   \p{Lu}, \d    PCRE2 10.42 knows Unicode 14, Oniguruma 16: new characters are added from tok_unicode.inc
 *   \p{Han}       PCRE2 means script extensions by it: \p{sc:Han}
 *   ^ $           always match at lines, as in Ruby (PCRE2_MULTILINE)
 *   [a&&b], [a[b]], {n,m}+, \h, inline options in mid-pattern, back references: refused */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "tok.h"

#define MATCH_LIMIT 20000000 /* steps for one match: enough for a run of 20 MB of white space; under a second */

struct TokRegex {
    pcre2_code *code; /* NULL for a literal */
    pcre2_match_context *limits;
    Buf literal;
};

/* ---- translation --------------------------------------------------------------------------------------------- */

typedef struct Translator {
    const char *s;
    size_t n, i;
    Buf out;
    bool in_class;
    Err *err;
} Translator;

#define SPACE "\\t-\\r \\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
#define NOT_SPACE                                                                                              \
    "\\x{0}-\\x{8}\\x{E}-\\x{1F}!-\\x{84}\\x{86}-\\x{9F}\\x{A1}-\\x{167F}\\x{1681}-\\x{1FFF}\\x{200B}-\\x{2027}" \
    "\\x{202A}-\\x{202E}\\x{2030}-\\x{205E}\\x{2060}-\\x{2FFF}\\x{3001}-\\x{10FFFF}"
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define WORD_OUTSIDE "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}" /* Oniguruma: \w has these, [\w] has not */

static const struct {
    uint32_t first, last;
    char name[4];
} new_chars[] = {
#include "tok_unicode.inc"
};

static bool refuse(Translator *t, const char *what)
{
    return err_set(t->err, "pattern %.*s: %s at offset %zu is not supported", (int)MIN(t->n, (size_t)300), t->s, what,
                   t->i);
}

/* The new characters of a category ("L", "Lu") or script. */
static void put_new(Buf *out, const char *name)
{
    for (size_t i = 0; i < COUNT(new_chars); i++) {
        bool same = strlen(name) == 1 ? new_chars[i].name[0] == name[0] && !new_chars[i].name[2]
                                      : !strcmp(new_chars[i].name, name);
        if (same)
            buf_printf(out, "\\x{%X}-\\x{%X}", new_chars[i].first, new_chars[i].last);
    }
}

static void put_word(Buf *out, bool in_class)
{
    buf_puts(out, in_class ? WORD : WORD WORD_OUTSIDE);
    put_new(out, "L");
    put_new(out, "M");
    put_new(out, "Nd");
    put_new(out, "Pc");
}

/* Puts a set: bare inside a class, in brackets outside. */
static void put_set(Translator *t, const char *property, const char *new_name, bool negated)
{
    if (!t->in_class)
        buf_puts(&t->out, negated ? "[^" : "[");
    if (property)
        buf_puts(&t->out, property);
    if (new_name)
        put_new(&t->out, new_name);
    else
        put_word(&t->out, t->in_class);
    if (!t->in_class)
        buf_putc(&t->out, ']');
}

static bool is_category(const char *name)
{
    static const char *const all[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd", "Nl",
                                      "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk",
                                      "So", "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Cn", "Co"};
    for (size_t i = 0; i < COUNT(all); i++)
        if (!strcmp(all[i], name))
            return true;
    return false;
}

/* \p{Name}, \p{^Name}, \P{Name}; i is at the letter p. */
static bool property(Translator *t)
{
    bool negated = t->s[t->i] == 'P';
    size_t from = t->i + 1, to = from;
    while (to < t->n && t->s[to] != '}')
        to++;
    char name[40], text[64];
    if (from >= t->n || t->s[from] != '{' || to == t->n || to - from - 1 >= sizeof name)
        return refuse(t, "this form of \\p");
    from++;
    if (t->s[from] == '^') {
        negated = !negated;
        from++;
    }
    memcpy(name, t->s + from, to - from);
    name[to - from] = 0;
    if (strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_") != to - from || to == from)
        return refuse(t, "this property name");
    const char *script = is_category(name) ? "" : "sc:";
    t->i = to + 1;
    if (negated && t->in_class) {
        buf_printf(&t->out, "\\P{%s%s}", script, name);
        return true;
    }
    snprintf(text, sizeof text, "\\p{%s%s}", script, name);
    put_set(t, text, name, negated);
    return true;
}

static void word_boundary(Buf *out, bool negated)
{
    Buf word = {0};
    put_word(&word, false);
    buf_printf(out, negated ? "(?:(?<=[%s])(?=[%s])|(?<![%s])(?![%s]))" : "(?:(?<=[%s])(?![%s])|(?<![%s])(?=[%s]))",
               word.data, word.data, word.data, word.data);
    buf_free(&word);
}

static int hex_value(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* \xHH, \x{H...}, \uHHHH; i is at the letter. */
static bool hex_escape(Translator *t)
{
    bool braces = t->s[t->i] == 'x' && t->i + 1 < t->n && t->s[t->i + 1] == '{';
    size_t most = braces ? 6 : t->s[t->i] == 'u' ? 4 : 2, i = t->i + 1 + braces, digits = 0;
    uint32_t cp = 0;
    for (; i < t->n && digits < most && hex_value(t->s[i]) >= 0; i++, digits++)
        cp = cp << 4 | (uint32_t)hex_value(t->s[i]);
    if (!digits || (braces && (i == t->n || t->s[i] != '}')) || (!braces && digits < most))
        return refuse(t, "this form of character code");
    if (t->s[t->i] == 'x' && !braces && cp >= 0x80)
        return refuse(t, "a single byte \\x80..\\xFF");
    buf_printf(&t->out, "\\x{%X}", cp);
    t->i = i + braces;
    return true;
}

/* i is behind the backslash. */
static bool escape(Translator *t)
{
    if (t->i == t->n)
        return refuse(t, "a backslash");
    char c = t->s[t->i];
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (c == 'p' || c == 'P')
        return property(t);
    if (c == 'x' || c == 'u')
        return hex_escape(t);
    if (strchr("WbBAzZ", c) && c && t->in_class)
        return refuse(t, "this escape in a class");
    if (letter && !strchr("sSdDwWbBAzZnrtfaev", c))
        return refuse(t, "this escape");
    t->i++;
    switch (c) {
    case 's':
    case 'S':
        buf_puts(&t->out, t->in_class ? c == 's' ? SPACE : NOT_SPACE : c == 's' ? "[" SPACE "]" : "[^" SPACE "]");
        return true;
    case 'd': put_set(t, "\\p{Nd}", "Nd", false); return true;
    case 'D':
        if (t->in_class)
            buf_puts(&t->out, "\\P{Nd}");
        else
            put_set(t, "\\p{Nd}", "Nd", true);
        return true;
    case 'w': put_set(t, NULL, NULL, false); return true;
    case 'W': put_set(t, NULL, NULL, true); return true;
    case 'b':
    case 'B': word_boundary(&t->out, c == 'B'); return true;
    case 'v': buf_puts(&t->out, "\\x{B}"); return true;
    }
    buf_putc(&t->out, '\\');
    buf_putc(&t->out, c);
    return true;
}

/* i is behind the opening bracket; copies up to the closing one. */
static bool char_class(Translator *t)
{
    t->in_class = true;
    buf_putc(&t->out, '[');
    if (t->i < t->n && t->s[t->i] == '^') {
        buf_putc(&t->out, '^');
        t->i++;
    }
    if (t->i < t->n && t->s[t->i] == ']')
        return refuse(t, "a class that begins with ]");
    while (t->i < t->n && t->s[t->i] != ']') {
        char c = t->s[t->i];
        if (c == '[')
            return refuse(t, "a class in a class (write \\[ for the bracket)");
        if (c == '&' && t->i + 1 < t->n && t->s[t->i + 1] == '&')
            return refuse(t, "&& in a class");
        t->i++;
        if (c != '\\')
            buf_putc(&t->out, c);
        else if (!escape(t))
            return false;
    }
    if (t->i == t->n)
        return refuse(t, "a class without end");
    buf_putc(&t->out, ']');
    t->i++;
    t->in_class = false;
    return true;
}

/* Copies what follows the opening parenthesis; i is behind it. */
static bool group(Translator *t)
{
    static const char *const known[] = {"?:", "?=", "?!", "?<=", "?<!", "?>", "?i:", "?-i:"};
    buf_putc(&t->out, '(');
    if (t->i == t->n || t->s[t->i] != '?')
        return true;
    for (size_t k = 0; k < COUNT(known); k++) {
        size_t len = strlen(known[k]);
        if (t->n - t->i >= len && !memcmp(t->s + t->i, known[k], len)) {
            buf_puts(&t->out, known[k]);
            t->i += len;
            return true;
        }
    }
    if (t->i == 1 && t->n >= 4 && !memcmp(t->s, "(?i)", 4)) {
        buf_puts(&t->out, "?i)");
        t->i = 4;
        return true;
    }
    return refuse(t, "this kind of group");
}

/* {n}, {n,}, {n,m}: the same in both, but a + behind it is not. */
static bool interval(Translator *t)
{
    size_t i = t->i;
    while (i < t->n && ((t->s[i] >= '0' && t->s[i] <= '9') || t->s[i] == ','))
        i++;
    if (i < t->n && t->s[i] == '}' && i > t->i) {
        if (t->s[t->i] == ',')
            return refuse(t, "{,n}");
        if (i + 1 < t->n && t->s[i + 1] == '+')
            return refuse(t, "{n,m}+");
    }
    buf_putc(&t->out, '{');
    return true;
}

static bool translate(Translator *t)
{
    while (t->i < t->n) {
        char c = t->s[t->i++];
        bool ok = true;
        if (c == '\\')
            ok = escape(t);
        else if (c == '[')
            ok = char_class(t);
        else if (c == '(')
            ok = group(t);
        else if (c == '{')
            ok = interval(t);
        else
            buf_putc(&t->out, c);
        if (!ok)
            return false;
    }
    return true;
}

/* ---- compiling ----------------------------------------------------------------------------------------------- */

static pcre2_code *compile(const Buf *pattern, const char *source, Err *err)
{
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_max_pattern_length(context, 1 << 16);
    int code;
    PCRE2_SIZE at;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern->data, pattern->len, options, &code, &at, context);
    pcre2_compile_context_free(context);
    if (!re) {
        PCRE2_UCHAR text[128];
        pcre2_get_error_message(code, text, sizeof text);
        err_set(err, "pattern %.300s: %s", source, (char *)text);
        return NULL;
    }
    pcre2_jit_compile(re, PCRE2_JIT_COMPLETE); /* without a JIT on this machine pcre2_match interprets */
    return re;
}

TokRegex *tok_regex_new(const char *pattern, size_t len, Err *err)
{
    if (!len || !tok_is_utf8(pattern, len) || len > 8192) {
        err_set(err, "a pattern must have 1 to 8192 bytes of UTF-8, this one has %zu", len);
        return NULL;
    }
    Translator t = {.s = pattern, .n = len, .err = err};
    char source[301];
    snprintf(source, sizeof source, "%.*s", (int)MIN(len, (size_t)300), pattern);
    pcre2_code *code = translate(&t) ? compile(&t.out, source, err) : NULL;
    buf_free(&t.out);
    if (!code)
        return NULL;
    TokRegex *re = xcalloc(1, sizeof *re);
    re->code = code;
    re->limits = pcre2_match_context_create(NULL);
    pcre2_set_match_limit(re->limits, MATCH_LIMIT);
    return re;
}

TokRegex *tok_regex_literal(const char *text, size_t len, Err *err)
{
    if (!len) {
        err_set(err, "an empty pattern is not supported");
        return NULL;
    }
    TokRegex *re = xcalloc(1, sizeof *re);
    buf_put(&re->literal, text, len);
    return re;
}

TokRegex *tok_regex_json(const json_t *pattern, Err *err)
{
    const json_t *string = json_object_get(pattern, "String"), *regex = json_object_get(pattern, "Regex");
    if (json_is_string(string))
        return tok_regex_literal(json_string_value(string), json_string_length(string), err);
    if (json_is_string(regex))
        return tok_regex_new(json_string_value(regex), json_string_length(regex), err);
    err_set(err, "\"pattern\" must be {\"String\": ...} or {\"Regex\": ...}");
    return NULL;
}

void tok_regex_free(TokRegex *re)
{
    if (!re)
        return;
    pcre2_code_free(re->code);
    pcre2_match_context_free(re->limits);
    buf_free(&re->literal);
    free(re);
}

/* ---- matching ------------------------------------------------------------------------------------------------ */

/* Searches from m->at and sets from, to. 1 found, 0 none, -1 failed. */
static int search(TokMatcher *m, Err *err)
{
    const TokRegex *re = m->re;
    if (!re->code) {
        const char *p = memmem(m->s + m->at, m->n - m->at, re->literal.data, re->literal.len);
        m->from = p ? (size_t)(p - m->s) : 0;
        m->to = m->from + re->literal.len;
        return p != NULL;
    }
    if (!m->data)
        m->data = pcre2_match_data_create(1, NULL);
    int rc = pcre2_match(re->code, (PCRE2_SPTR)m->s, m->n, m->at, PCRE2_NO_UTF_CHECK, m->data, re->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(re->code, (PCRE2_SPTR)m->s, m->n, m->at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, m->data,
                         re->limits);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0) {
        PCRE2_UCHAR text[128];
        pcre2_get_error_message(rc, text, sizeof text);
        err_set(err, "a pattern of tokenizer.json failed on this text: %s", (char *)text);
        return -1;
    }
    const PCRE2_SIZE *pair = pcre2_get_ovector_pointer(m->data);
    m->from = pair[0];
    m->to = pair[1];
    return m->from <= m->to; /* \K, which could reverse them, is refused */
}

/* As Oniguruma's find_iter: an empty match right behind the last match does not count. */
bool tok_match_next(TokMatcher *m, Err *err)
{
    err->text[0] = 0;
    while (m->at <= m->n && search(m, err) == 1) {
        if (m->from == m->to && m->matched_before && m->last_end == m->to) {
            uint32_t cp;
            m->at += m->at < m->n ? utf8_decode(m->s + m->at, m->n - m->at, &cp) : 1;
            continue;
        }
        m->at = m->last_end = m->to;
        m->matched_before = true;
        return true;
    }
    return false;
}

void tok_match_done(TokMatcher *m)
{
    pcre2_match_data_free(m->data);
    m->data = NULL;
}
