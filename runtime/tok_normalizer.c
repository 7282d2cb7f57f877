/* tok_normalizer.c - the "normalizer" of tokenizer.json: a list of steps, each rewriting the text. See tok.h. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "json.h"
#include "tok.h"

typedef enum StepKind { NORM_UNICODE, NORM_LOWERCASE, NORM_PREPEND, NORM_REPLACE, NORM_STRIP } StepKind;

typedef struct Step {
    StepKind kind;
    bool compat, compose;  /* NORM_UNICODE */
    bool left, right;      /* NORM_STRIP */
    Buf content;           /* NORM_PREPEND, NORM_REPLACE */
    TokRegex *pattern;     /* NORM_REPLACE */
} Step;

struct Normalizer {
    VEC(Step) steps;
};

/* ---- canonical forms ----------------------------------------------------------------------------------------- */

/* Canonical ordering of a run of combining marks: a stable merge sort, so that a hostile run stays cheap. */
static void sort_marks(int32_t *cp, int32_t *tmp, size_t n)
{
    if (n < 2)
        return;
    size_t half = n / 2, i = 0, j = half, k = 0;
    sort_marks(cp, tmp, half);
    sort_marks(cp + half, tmp, n - half);
    memcpy(tmp, cp, n * sizeof *cp);
    while (k < n) {
        bool right = i == half || (j < n && utf8proc_get_property(tmp[j])->combining_class <
                                                utf8proc_get_property(tmp[i])->combining_class);
        cp[k++] = right ? tmp[j++] : tmp[i++];
    }
}

static void order_marks(int32_t *cp, size_t n)
{
    int32_t *tmp = xmalloc(n * sizeof *tmp);
    for (size_t i = 0, j; i < n; i = j + 1) {
        for (j = i; j < n && utf8proc_get_property(cp[j])->combining_class; j++)
            ;
        sort_marks(cp + i, tmp, j - i);
    }
    free(tmp);
}

/* UAX #15. The four forms are two choices: compatibility mappings or not, composition or not. */
static void unicode_form(const Step *st, Buf *text)
{
    bool ascii = true;
    for (size_t i = 0; i < text->len && ascii; i++)
        ascii = (uint8_t)text->data[i] < 0x80;
    if (ascii)
        return;
    utf8proc_option_t options = UTF8PROC_STABLE | (st->compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
                                (st->compat ? UTF8PROC_COMPAT : 0);
    VEC(int32_t) cps = {0};
    int boundary = 0;
    for (size_t i = 0; i < text->len;) {
        uint32_t cp;
        int32_t parts[32]; /* the longest mapping has 18 */
        i += utf8_decode(text->data + i, text->len - i, &cp);
        utf8proc_ssize_t n = utf8proc_decompose_char((int32_t)cp, parts, COUNT(parts), options, &boundary);
        for (utf8proc_ssize_t k = 0; k < n && k < (utf8proc_ssize_t)COUNT(parts); k++)
            vec_push(&cps, parts[k]);
    }
    order_marks(cps.at, cps.len);
    utf8proc_ssize_t n = utf8proc_normalize_utf32(cps.at, (utf8proc_ssize_t)cps.len, options);
    text->len = 0;
    for (utf8proc_ssize_t k = 0; k < n; k++)
        tok_put_char(text, (uint32_t)cps.at[k]);
    vec_free(&cps);
}

/* ---- the other steps ----------------------------------------------------------------------------------------- */

static void replace_text(Buf *text, Buf *with)
{
    buf_free(text);
    *text = *with;
    buf_reserve(text, 0);
}

static void lowercase(Buf *text)
{
    Buf out = {0};
    buf_reserve(&out, text->len);
    for (size_t i = 0; i < text->len;) {
        uint32_t cp;
        i += utf8_decode(text->data + i, text->len - i, &cp);
        if (cp == 0x130) /* the one letter whose lower case is two characters */
            buf_puts(&out, "i\xCC\x87");
        else
            tok_put_char(&out, (uint32_t)utf8proc_tolower((int32_t)cp));
    }
    replace_text(text, &out);
}

static bool replace(const Step *st, Buf *text, bool *first, Err *err)
{
    TokMatcher m = {.re = st->pattern, .s = text->data, .n = text->len};
    Buf out = {0};
    size_t done = 0;
    while (tok_match_next(&m, err)) {
        if (!done && !m.from && m.to && !st->content.len)
            *first = false;
        buf_put(&out, text->data + done, m.from - done);
        buf_put(&out, st->content.data, st->content.len);
        done = m.to;
    }
    tok_match_done(&m);
    if (err->text[0]) {
        buf_free(&out);
        return false;
    }
    buf_put(&out, text->data + done, text->len - done);
    replace_text(text, &out);
    return true;
}

static void strip(const Step *st, Buf *text, bool *first)
{
    size_t from = 0, to = text->len;
    uint32_t cp;
    while (st->left && from < to) {
        size_t len = utf8_decode(text->data + from, to - from, &cp);
        if (!tok_is_space(cp))
            break;
        from += len;
        *first = false;
    }
    while (st->right && to > from) {
        size_t at = to - 1;
        while (at > from && ((uint8_t)text->data[at] & 0xC0) == 0x80)
            at--;
        utf8_decode(text->data + at, to - at, &cp);
        if (!tok_is_space(cp))
            break;
        to = at;
    }
    memmove(text->data, text->data + from, to - from);
    text->len = to - from;
}

static bool apply_step(const Step *st, Buf *text, bool *first, Err *err)
{
    switch (st->kind) {
    case NORM_UNICODE: unicode_form(st, text); return true;
    case NORM_LOWERCASE: lowercase(text); return true;
    case NORM_REPLACE: return replace(st, text, first, err);
    case NORM_STRIP: strip(st, text, first); return true;
    case NORM_PREPEND:
        buf_put(text, st->content.data, st->content.len);
        memmove(text->data + st->content.len, text->data, text->len - st->content.len);
        memcpy(text->data, st->content.data, st->content.len);
        return true;
    }
    return true;
}

bool normalizer_apply(const Normalizer *nz, Buf *text, bool *first, Err *err)
{
    for (size_t i = 0; nz && i < nz->steps.len && text->len; i++)
        if (!apply_step(&nz->steps.at[i], text, first, err))
            return false;
    return true;
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

static bool read_content(Step *st, const json_t *json, const char *key, Err *err)
{
    const json_t *s = json_object_get(json, key);
    if (!json_is_string(s))
        return err_set(err, "\"%s\" must be a string", key);
    buf_put(&st->content, json_string_value(s), json_string_length(s));
    return true;
}

static bool read_step(Step *st, const json_t *json, const char *type, Err *err)
{
    static const struct {
        const char *name;
        bool compat, compose;
    } forms[] = {{"NFC", false, true}, {"NFD", false, false}, {"NFKC", true, true}, {"NFKD", true, false}};
    for (size_t i = 0; i < COUNT(forms); i++)
        if (!strcmp(type, forms[i].name)) {
            *st = (Step){.kind = NORM_UNICODE, .compat = forms[i].compat, .compose = forms[i].compose};
            return true;
        }
    if (!strcmp(type, "Lowercase")) {
        st->kind = NORM_LOWERCASE;
        return true;
    }
    if (!strcmp(type, "Prepend")) {
        st->kind = NORM_PREPEND;
        return read_content(st, json, "prepend", err);
    }
    if (!strcmp(type, "Strip")) {
        st->kind = NORM_STRIP;
        return json_get_bool(json, "strip_left", false, &st->left, err) &&
               json_get_bool(json, "strip_right", false, &st->right, err);
    }
    if (!strcmp(type, "Replace")) {
        st->kind = NORM_REPLACE;
        st->pattern = tok_regex_json(json_object_get(json, "pattern"), err);
        return st->pattern && read_content(st, json, "content", err);
    }
    return err_set(err, "type \"%s\" is not supported (supported: NFC NFD NFKC NFKD Lowercase Prepend Replace Strip "
                        "Sequence)", type);
}

static bool read_any(Normalizer *nz, const json_t *json, int depth, Err *err)
{
    const char *type;
    if (!json_get_str(json, "type", "", &type, err))
        return false;
    if (strcmp(type, "Sequence")) {
        vec_push(&nz->steps, (Step){0});
        return read_step(&nz->steps.at[nz->steps.len - 1], json, type, err) || err_prefix(err, "normalizer");
    }
    if (depth == TOK_MAX_DEPTH)
        return err_set(err, "normalizer: Sequences nested more than %d deep", TOK_MAX_DEPTH);
    const json_t *list = json_object_get(json, "normalizers");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!read_any(nz, json_array_get(list, i), depth + 1, err))
            return false;
    return true;
}

bool normalizer_parse(Normalizer **out, const json_t *json, Err *err)
{
    *out = NULL;
    if (!json || json_is_null(json))
        return true;
    *out = xcalloc(1, sizeof **out);
    return read_any(*out, json, 0, err);
}

void normalizer_free(Normalizer *nz)
{
    if (!nz)
        return;
    for (size_t i = 0; i < nz->steps.len; i++) {
        buf_free(&nz->steps.at[i].content);
        tok_regex_free(nz->steps.at[i].pattern);
    }
    vec_free(&nz->steps);
    free(nz);
}
