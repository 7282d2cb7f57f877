/* tok_added.c - added tokens: found in the text before the model sees it, with their flags single_word, lstrip,
 * rstrip, normalized, special. See tok.h.
 *
 * The package searches leftmost-longest without overlaps, and so does this: the patterns are sorted, and at each
 * position the range of those that still fit shrinks byte by byte. */
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "tok.h"

typedef struct PatternSet {
    VEC(const AddedToken *) sorted; /* by the bytes of `normalized` */
    bool starts[256];               /* first bytes */
} PatternSet;

struct Added {
    VEC(AddedToken) list;
    VEC(const AddedToken *) by_id;
    PatternSet raw, normalized;
    Map *ids; /* content -> index in list + 1 */
    uint32_t next_id;
    TokRegex *word; /* a character of a word, for single_word */
};

/* ---- building ------------------------------------------------------------------------------------------------ */

Added *added_new(void)
{
    Added *a = xcalloc(1, sizeof *a);
    a->ids = map_new();
    return a;
}

void added_free(Added *a)
{
    if (!a)
        return;
    for (size_t i = 0; i < a->list.len; i++) {
        buf_free(&a->list.at[i].content);
        buf_free(&a->list.at[i].normalized);
    }
    vec_free(&a->list);
    vec_free(&a->by_id);
    vec_free(&a->raw.sorted);
    vec_free(&a->normalized.sorted);
    map_free(a->ids);
    tok_regex_free(a->word);
    free(a);
}

static AddedToken *find(const Added *a, const char *s, size_t n)
{
    uintptr_t i = (uintptr_t)map_get(a->ids, s, n);
    return i ? &a->list.at[i - 1] : NULL;
}

void added_batch(Added *a, const Vocab *v)
{
    a->next_id = (uint32_t)vocab_count(v);
    for (size_t i = 0; i < a->list.len; i++)
        a->next_id = MAX(a->next_id, a->list.at[i].id + 1);
}

static AddedToken *find_or_make(Added *a, const char *s, size_t n, const Vocab *v)
{
    AddedToken *t = find(a, s, n);
    if (t)
        return t;
    uint32_t id = vocab_find(v, s, n);
    vec_push(&a->list, (AddedToken){.id = id != TOK_NONE ? id : a->next_id++});
    map_put(a->ids, s, n, (void *)(uintptr_t)a->list.len);
    t = &a->list.at[a->list.len - 1];
    buf_put(&t->content, s, n);
    return t;
}

static bool read_flags(AddedToken *t, const json_t *json, Err *err)
{
    bool special;
    if (!json_get_bool(json, "special", false, &special, err) ||
        !json_get_bool(json, "single_word", false, &t->single_word, err) ||
        !json_get_bool(json, "lstrip", false, &t->lstrip, err) ||
        !json_get_bool(json, "rstrip", false, &t->rstrip, err) ||
        !json_get_bool(json, "normalized", !special, &t->match_normalized, err))
        return false;
    t->special = t->special || special; /* once special, a token stays special */
    return true;
}

bool added_put(Added *a, const json_t *json, const Vocab *v, const Normalizer *nz, Err *err)
{
    const json_t *content = json_is_string(json) ? json : json_object_get(json, "content");
    if (!json_is_string(content))
        return err_set(err, "an added token has no \"content\"");
    const char *s = json_string_value(content);
    size_t n = json_string_length(content);
    if (!n)
        return true; /* the package ignores it */
    if (a->next_id > TOK_MAX_ID)
        return err_set(err, "too many tokens");
    AddedToken *t = find_or_make(a, s, n, v);
    if (json_is_string(json))
        t->special = true;
    else if (!read_flags(t, json, err))
        return err_prefix(err, "added token \"%.80s\"", s);
    bool first = true;
    t->normalized.len = 0;
    buf_put(&t->normalized, s, n);
    if (t->match_normalized && !normalizer_apply(nz, &t->normalized, &first, err))
        return err_prefix(err, "added token \"%.80s\"", s);
    return t->normalized.len || err_set(err, "added token \"%.80s\": the normalizer leaves nothing of it", s);
}

static int by_pattern(const void *pa, const void *pb)
{
    const Buf *a = &(*(const AddedToken *const *)pa)->normalized, *b = &(*(const AddedToken *const *)pb)->normalized;
    int c = memcmp(a->data, b->data, MIN(a->len, b->len));
    return c ? c : (a->len > b->len) - (a->len < b->len);
}

static int by_id(const void *pa, const void *pb)
{
    uint32_t a = (*(const AddedToken *const *)pa)->id, b = (*(const AddedToken *const *)pb)->id;
    return (a > b) - (a < b);
}

static void sort_set(PatternSet *set)
{
    if (set->sorted.len)
        qsort(set->sorted.at, set->sorted.len, sizeof *set->sorted.at, by_pattern);
    for (size_t i = 0; i < set->sorted.len; i++)
        set->starts[(uint8_t)set->sorted.at[i]->normalized.data[0]] = true;
}

void added_finish(Added *a)
{
    bool words = false;
    for (size_t i = 0; i < a->list.len; i++) {
        AddedToken *t = &a->list.at[i];
        const AddedToken *same = find(a, t->normalized.data, t->normalized.len);
        t->skipped = same && same->special;
        words = words || t->single_word;
        vec_push(&a->by_id, t);
        PatternSet *set = t->match_normalized ? &a->normalized : &a->raw;
        vec_push(&set->sorted, t);
    }
    if (a->by_id.len)
        qsort(a->by_id.at, a->by_id.len, sizeof *a->by_id.at, by_id);
    sort_set(&a->raw);
    sort_set(&a->normalized);
    if (words)
        a->word = tok_regex_new("[" RUST_WORD "]", strlen("[" RUST_WORD "]"), NULL);
}

const AddedToken *added_by_id(const Added *a, uint32_t id)
{
    size_t lo = 0, hi = a->by_id.len;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (a->by_id.at[mid]->id < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < a->by_id.len && a->by_id.at[lo]->id == id ? a->by_id.at[lo] : NULL;
}

const AddedToken *added_by_content(const Added *a, const char *s, size_t n)
{
    return find(a, s, n);
}

size_t added_limit(const Added *a)
{
    return a->by_id.len ? (size_t)a->by_id.at[a->by_id.len - 1]->id + 1 : 0;
}

/* ---- searching ----------------------------------------------------------------------------------------------- */

/* First of sorted[lo..hi) whose byte at `depth` is at least c; all of them are longer than depth and share what
 * precedes. */
static size_t lower_bound(const PatternSet *set, size_t lo, size_t hi, size_t depth, unsigned c)
{
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if ((uint8_t)set->sorted.at[mid]->normalized.data[depth] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest pattern that s begins with, or NULL. */
static const AddedToken *longest(const PatternSet *set, const char *s, size_t n)
{
    const AddedToken *best = NULL;
    size_t lo = 0, hi = set->sorted.len;
    for (size_t depth = 0; lo < hi; depth++) {
        if (set->sorted.at[lo]->normalized.len == depth)
            best = set->sorted.at[lo];
        while (lo < hi && set->sorted.at[lo]->normalized.len == depth)
            lo++;
        if (depth == n)
            break;
        unsigned c = (uint8_t)s[depth];
        lo = lower_bound(set, lo, hi, depth, c);
        hi = lower_bound(set, lo, hi, depth, c + 1);
    }
    return best;
}

static size_t char_before(const char *s, size_t at, uint32_t *cp)
{
    size_t start = at - 1;
    while (start && ((uint8_t)s[start] & 0xC0) == 0x80)
        start--;
    utf8_decode(s + start, at - start, cp);
    return start;
}

static bool is_word(const Added *a, const char *s, size_t n)
{
    Err err;
    TokMatcher m = {.re = a->word, .s = s, .n = n};
    bool found = tok_match_next(&m, &err);
    tok_match_done(&m);
    return found;
}

/* Is s[from..to) a word of its own? */
static bool stands_alone(const Added *a, const char *s, size_t n, size_t from, size_t to)
{
    uint32_t cp;
    if (from) {
        size_t start = char_before(s, from, &cp);
        if (is_word(a, s + start, from - start))
            return false;
    }
    return to == n || !is_word(a, s + to, utf8_decode(s + to, n - to, &cp));
}

static size_t strip_left(const char *s, size_t at, size_t least)
{
    uint32_t cp;
    while (at > least) {
        size_t start = char_before(s, at, &cp);
        if (!tok_is_space(cp) || start < least)
            break;
        at = start;
    }
    return at;
}

static size_t strip_right(const char *s, size_t n, size_t at)
{
    uint32_t cp;
    while (at < n) {
        size_t len = utf8_decode(s + at, n - at, &cp);
        if (!tok_is_space(cp))
            break;
        at += len;
    }
    return at;
}

static void put_piece(Pieces *out, const Piece *p, size_t from, size_t to, uint32_t id)
{
    if (from < to)
        vec_push(&out->list, (Piece){p->at + from, to - from, id, p->first && !from});
}

static void split_piece(const Added *a, const PatternSet *set, bool parse_special, const Pieces *in, const Piece *p,
                        Pieces *out)
{
    const char *s = in->text.data + p->at;
    size_t done = 0; /* what earlier tokens have taken, white space included */
    for (size_t i = 0; i < p->len;) {
        const AddedToken *t = set->starts[(uint8_t)s[i]] ? longest(set, s + i, p->len - i) : NULL;
        if (!t) {
            i++;
            continue;
        }
        size_t from = i, to = i += t->normalized.len; /* the search goes on behind the match, taken or not */
        if ((t->special && !parse_special) || (t->single_word && !stands_alone(a, s, p->len, from, to)))
            continue;
        if (t->lstrip)
            from = strip_left(s, from, MIN(done, from));
        if (t->rstrip)
            to = strip_right(s, p->len, MAX(to, done));
        put_piece(out, p, done, from, TOK_NONE);
        put_piece(out, p, from, to, t->id);
        done = to;
    }
    put_piece(out, p, done, p->len, TOK_NONE);
}

void added_split(const Added *a, bool normalized, bool parse_special, Pieces *pieces)
{
    const PatternSet *set = normalized ? &a->normalized : &a->raw;
    if (!set->sorted.len)
        return;
    Pieces out = {.text = pieces->text};
    for (size_t i = 0; i < pieces->list.len; i++) {
        const Piece *p = &pieces->list.at[i];
        if (p->id != TOK_NONE)
            vec_push(&out.list, *p);
        else
            split_piece(a, set, parse_special, pieces, p, &out);
    }
    vec_free(&pieces->list);
    *pieces = out;
}
