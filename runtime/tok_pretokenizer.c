/* tok_pretokenizer.c - the "pre_tokenizer" of tokenizer.json. Each of the package's pre-tokenizers is expressed by
 * four steps over the pieces: put a space in front, turn spaces into Metaspace's character, split at a pattern,
 * turn bytes into GPT-2's characters. See tok.h. */
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "tok.h"

typedef enum PreKind { PRE_SPACE, PRE_METASPACE, PRE_SPLIT, PRE_BYTES } PreKind;
typedef enum Behavior { ISOLATED, REMOVED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS } Behavior;
typedef enum Prepend { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER } Prepend;

typedef struct PreStep {
    PreKind kind;
    TokRegex *pattern; /* PRE_SPLIT */
    Behavior behavior;
    bool invert;
    char meta[5]; /* PRE_METASPACE */
    Prepend prepend;
} PreStep;

struct Pretokenizer {
    VEC(PreStep) steps;
};

#define GPT2_PATTERN "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* ---- splitting ----------------------------------------------------------------------------------------------- */

/* A stretch of a piece: a match of the pattern, or what lies between two. */
typedef struct Stretch {
    size_t from, to;
    bool match;
} Stretch;
typedef VEC(Stretch) Stretches;

/* All of s[0..n) in order; stretches may be empty where the pattern matches nothing. */
static bool find_stretches(Stretches *out, TokMatcher *m, bool invert, Err *err)
{
    size_t done = 0;
    out->len = 0;
    while (tok_match_next(m, err)) {
        if (done != m->from)
            vec_push(out, (Stretch){done, m->from, invert});
        vec_push(out, (Stretch){m->from, m->to, !invert});
        done = m->to;
    }
    if (done != m->n)
        vec_push(out, (Stretch){done, m->n, invert});
    return !err->text[0];
}

static void put_piece(Pieces *out, const Piece *from, size_t start, size_t end)
{
    if (start < end)
        vec_push(&out->list, (Piece){from->at + start, end - start, TOK_NONE, from->first && !start});
}

static void put_stretches(Pieces *out, const Piece *piece, const Stretches *list, Behavior behavior)
{
    for (size_t i = 0; i < list->len; i++) {
        const Stretch *s = &list->at[i];
        size_t end = s->to;
        bool more = i + 1 < list->len;
        switch (behavior) {
        case ISOLATED: break;
        case REMOVED:
            if (s->match)
                continue;
            break;
        case MERGED_WITH_PREVIOUS:
            if (more && !s->match && list->at[i + 1].match)
                end = list->at[++i].to;
            break;
        case MERGED_WITH_NEXT:
            if (more && s->match && !list->at[i + 1].match)
                end = list->at[++i].to;
            break;
        case CONTIGUOUS:
            while (i + 1 < list->len && list->at[i + 1].match == s->match)
                end = list->at[++i].to;
            break;
        }
        put_piece(out, piece, s->from, end);
    }
}

/* The text stays; only the list of pieces changes. */
static bool split(const PreStep *st, Pieces *pieces, Err *err)
{
    Pieces out = {.text = pieces->text};
    Stretches list = {0};
    TokMatcher m = {.re = st->pattern};
    bool ok = true;
    for (size_t i = 0; i < pieces->list.len && ok; i++) {
        const Piece *p = &pieces->list.at[i];
        if (p->id != TOK_NONE) {
            vec_push(&out.list, *p);
            continue;
        }
        m = (TokMatcher){.re = st->pattern, .s = pieces->text.data + p->at, .n = p->len, .data = m.data};
        ok = find_stretches(&list, &m, st->invert, err);
        put_stretches(&out, p, &list, st->behavior);
    }
    tok_match_done(&m);
    vec_free(&list);
    vec_free(&pieces->list);
    *pieces = out;
    return ok;
}

/* ---- rewriting ----------------------------------------------------------------------------------------------- */

static bool starts_with(const char *s, size_t n, const char *prefix)
{
    size_t len = strlen(prefix);
    return n >= len && !memcmp(s, prefix, len);
}

static void metaspace(const PreStep *st, const Piece *p, const char *s, Buf *out)
{
    bool wanted = st->prepend == PREPEND_ALWAYS || (st->prepend == PREPEND_FIRST && p->first);
    if (wanted && s[0] != ' ' && !starts_with(s, p->len, st->meta))
        buf_puts(out, st->meta);
    for (size_t i = 0, run; i < p->len; i += run) {
        run = 1;
        if (s[i] == ' ') {
            buf_puts(out, st->meta);
            continue;
        }
        while (i + run < p->len && s[i + run] != ' ')
            run++;
        buf_put(out, s + i, run);
    }
}

/* Writes each piece anew into a fresh text. */
static void rewrite(const PreStep *st, Pieces *pieces)
{
    Buf out = {0};
    buf_reserve(&out, pieces->text.len + pieces->text.len / 2);
    for (size_t i = 0; i < pieces->list.len; i++) {
        Piece *p = &pieces->list.at[i];
        const char *s = pieces->text.data + p->at;
        size_t at = out.len;
        if (p->id != TOK_NONE)
            continue; /* nobody reads the text of an added token again */
        if (st->kind == PRE_METASPACE) {
            metaspace(st, p, s, &out);
        } else if (st->kind == PRE_BYTES) {
            tok_bytes_to_chars(&out, s, p->len);
        } else {
            if (s[0] != ' ')
                buf_putc(&out, ' ');
            buf_put(&out, s, p->len);
        }
        p->at = at;
        p->len = out.len - at;
    }
    buf_free(&pieces->text);
    pieces->text = out;
}

bool pretokenizer_apply(const Pretokenizer *pt, Pieces *pieces, Err *err)
{
    for (size_t i = 0; pt && i < pt->steps.len; i++) {
        const PreStep *st = &pt->steps.at[i];
        if (st->kind != PRE_SPLIT)
            rewrite(st, pieces);
        else if (!split(st, pieces, err))
            return false;
    }
    return true;
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

static bool put_split(Pretokenizer *pt, TokRegex *pattern, Behavior behavior, bool invert)
{
    if (pattern)
        vec_push(&pt->steps, (PreStep){.kind = PRE_SPLIT, .pattern = pattern, .behavior = behavior, .invert = invert});
    return pattern != NULL;
}

static bool put_pattern(Pretokenizer *pt, const char *pattern, Behavior behavior, bool invert, Err *err)
{
    return put_split(pt, tok_regex_new(pattern, strlen(pattern), err), behavior, invert);
}

static bool read_behavior(const json_t *json, const char *dflt, Behavior *out, Err *err)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name;
    if (!json_get_str(json, "behavior", dflt, &name, err))
        return false;
    for (size_t i = 0; i < COUNT(names); i++)
        if (!strcmp(name, names[i])) {
            *out = (Behavior)i;
            return true;
        }
    return err_set(err, "behavior \"%s\" is not supported (supported: Isolated Removed MergedWithPrevious "
                        "MergedWithNext Contiguous)", name);
}

static bool read_split(Pretokenizer *pt, const json_t *json, Err *err)
{
    Behavior behavior;
    bool invert;
    return read_behavior(json, "", &behavior, err) && json_get_bool(json, "invert", false, &invert, err) &&
           put_split(pt, tok_regex_json(json_object_get(json, "pattern"), err), behavior, invert);
}

static bool read_byte_level(Pretokenizer *pt, const json_t *json, Err *err)
{
    bool space, regex;
    if (!json_get_bool(json, "add_prefix_space", true, &space, err) ||
        !json_get_bool(json, "use_regex", true, &regex, err))
        return false;
    if (space)
        vec_push(&pt->steps, (PreStep){.kind = PRE_SPACE});
    if (regex && !put_pattern(pt, GPT2_PATTERN, ISOLATED, false, err))
        return false;
    vec_push(&pt->steps, (PreStep){.kind = PRE_BYTES});
    return true;
}

static bool read_prepend(const json_t *json, Prepend *out, Err *err)
{
    static const char *const names[] = {"always", "first", "never"};
    const char *name;
    bool space;
    if (!json_get_str(json, "prepend_scheme", "always", &name, err) ||
        !json_get_bool(json, "add_prefix_space", true, &space, err))
        return false;
    for (size_t i = 0; i < COUNT(names); i++)
        if (!strcmp(name, names[i])) {
            *out = space ? (Prepend)i : PREPEND_NEVER;
            return true;
        }
    return err_set(err, "prepend_scheme \"%s\" is not supported (supported: always first never)", name);
}

static bool read_metaspace(Pretokenizer *pt, const json_t *json, Err *err)
{
    PreStep st = {.kind = PRE_METASPACE};
    const char *meta;
    uint32_t cp;
    bool cut;
    if (!json_get_str(json, "replacement", "\xE2\x96\x81", &meta, err) || !read_prepend(json, &st.prepend, err) ||
        !json_get_bool(json, "split", true, &cut, err))
        return false;
    size_t len = strlen(meta);
    if (!len || utf8_decode(meta, len, &cp) != len)
        return err_set(err, "\"replacement\" must be one character");
    memcpy(st.meta, meta, len);
    vec_push(&pt->steps, st);
    return !cut || put_split(pt, tok_regex_literal(meta, len, err), MERGED_WITH_NEXT, false);
}

static bool read_digits(Pretokenizer *pt, const json_t *json, Err *err)
{
    bool each;
    return json_get_bool(json, "individual_digits", false, &each, err) &&
           put_pattern(pt, "\\p{N}", each ? ISOLATED : CONTIGUOUS, false, err);
}

static bool read_punctuation(Pretokenizer *pt, const json_t *json, Err *err)
{
    Behavior behavior;
    return read_behavior(json, "Isolated", &behavior, err) &&
           put_pattern(pt, "[\\p{P}$+<=>^`|~]", behavior, false, err);
}

static bool read_whitespace(Pretokenizer *pt, const json_t *json, Err *err)
{
    (void)json;
    return put_pattern(pt, "[" RUST_WORD "]+|[^" RUST_WORD "\\s]+", REMOVED, true, err);
}

static bool read_whitespace_split(Pretokenizer *pt, const json_t *json, Err *err)
{
    (void)json;
    return put_pattern(pt, "\\s", REMOVED, false, err);
}

static const struct {
    const char *type;
    bool (*read)(Pretokenizer *pt, const json_t *json, Err *err);
} readers[] = {
    {"ByteLevel", read_byte_level},     {"Split", read_split},
    {"Metaspace", read_metaspace},      {"Digits", read_digits},
    {"Punctuation", read_punctuation},  {"Whitespace", read_whitespace},
    {"WhitespaceSplit", read_whitespace_split},
};

static bool read_any(Pretokenizer *pt, const json_t *json, int depth, Err *err)
{
    const char *type;
    if (!json_get_str(json, "type", "", &type, err))
        return false;
    for (size_t i = 0; i < COUNT(readers); i++)
        if (!strcmp(type, readers[i].type))
            return readers[i].read(pt, json, err) || err_prefix(err, "pre_tokenizer %s", type);
    if (strcmp(type, "Sequence"))
        return err_set(err, "pre_tokenizer \"%s\" is not supported (supported: ByteLevel Split Metaspace Digits "
                            "Punctuation Whitespace WhitespaceSplit Sequence)", type);
    if (depth == TOK_MAX_DEPTH)
        return err_set(err, "pre_tokenizer: Sequences nested more than %d deep", TOK_MAX_DEPTH);
    const json_t *list = json_object_get(json, "pretokenizers");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!read_any(pt, json_array_get(list, i), depth + 1, err))
            return false;
    return true;
}

bool pretokenizer_parse(Pretokenizer **out, const json_t *json, Err *err)
{
    *out = NULL;
    if (!json || json_is_null(json))
        return true;
    *out = xcalloc(1, sizeof **out);
    return read_any(*out, json, 0, err);
}

void pretokenizer_free(Pretokenizer *pt)
{
    if (!pt)
        return;
    for (size_t i = 0; i < pt->steps.len; i++)
        tok_regex_free(pt->steps.at[i].pattern);
    vec_free(&pt->steps);
    free(pt);
}
