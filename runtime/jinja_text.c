/* jinja_text.c - owns Python's view of text: code points, white space, case, splitting, searching. */
#include <utf8proc.h>

#include "jinja_int.h"

/* ---- code points ------------------------------------------------------------------------------------------------- */

size_t jj_cp_count(Text t)
{
    size_t n = 0;
    for (size_t i = 0; i < t.n; i++)
        n += (t.s[i] & 0xC0) != 0x80;
    return n;
}

size_t jj_cp_offset(Text t, size_t index)
{
    for (size_t i = 0; i < t.n; i++)
        if ((t.s[i] & 0xC0) != 0x80 && index-- == 0)
            return i;
    return t.n;
}

/* The code point that ends at byte `end`. */
static uint32_t cp_before(Text t, size_t end, size_t *start)
{
    uint32_t cp;
    *start = end - 1;
    while (*start > 0 && (t.s[*start] & 0xC0) == 0x80)
        --*start;
    utf8_decode(t.s + *start, end - *start, &cp);
    return cp;
}

Text jj_reverse(Render *r, Text t)
{
    char *s = jj_alloc(r, t.n);
    size_t at = 0;
    for (size_t end = t.n, start; end > 0; end = start) {
        cp_before(t, end, &start);
        memcpy(s + at, t.s + start, end - start);
        at += end - start;
    }
    return (Text){s, t.n};
}

static utf8proc_category_t category(uint32_t cp)
{
    return utf8proc_category((utf8proc_int32_t)cp);
}

static bool is_letter(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

static bool is_numeric(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
}

typedef struct Span {
    uint32_t first, last;
} Span;

static bool in_spans(uint32_t cp, const Span *spans, size_t n)
{
    for (size_t i = 0; i < n && spans[i].first <= cp; i++)
        if (cp <= spans[i].last)
            return true;
    return false;
}

/* Decimal digits and, beyond category Nd, Numeric_Type=Digit: superscripts, circled digits and the like. */
static bool is_digit(uint32_t cp)
{
    static const Span digits[] = {
        {0xB2, 0xB3}, {0xB9, 0xB9}, {0x1369, 0x1371}, {0x19DA, 0x19DA}, {0x2070, 0x2070}, {0x2074, 0x2079},
        {0x2080, 0x2089}, {0x2460, 0x2468}, {0x2474, 0x247C}, {0x2488, 0x2490}, {0x24EA, 0x24EA}, {0x24F5, 0x24FD},
        {0x24FF, 0x24FF}, {0x2776, 0x277E}, {0x2780, 0x2788}, {0x278A, 0x2792}, {0x10A40, 0x10A43}, {0x10E60, 0x10E68},
        {0x11052, 0x1105A}, {0x1F100, 0x1F10A}};
    return category(cp) == UTF8PROC_CATEGORY_ND || in_spans(cp, digits, COUNT(digits));
}

bool jj_is_word(uint32_t cp)
{
    return is_letter(cp) || is_numeric(cp) || cp == '_';
}

/* str.isspace(): bidirectional class WS, B or S, or category Zs. */
bool jj_is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 0x1C && cp <= 0x20) || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F ||
           cp == 0x3000;
}

bool jj_is_printable(uint32_t cp)
{
    switch (category(cp)) {
    case UTF8PROC_CATEGORY_CN: case UTF8PROC_CATEGORY_CC: case UTF8PROC_CATEGORY_CF: case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO: case UTF8PROC_CATEGORY_ZL: case UTF8PROC_CATEGORY_ZP: return false;
    case UTF8PROC_CATEGORY_ZS: return cp == ' ';
    default: return true;
    }
}

/* Category Ll and Unicode's Other_Lowercase. */
static bool is_lower(uint32_t cp)
{
    static const Span others[] = {
        {0xAA, 0xAA}, {0xBA, 0xBA}, {0x2B0, 0x2B8}, {0x2C0, 0x2C1}, {0x2E0, 0x2E4}, {0x345, 0x345}, {0x37A, 0x37A},
        {0x1D2C, 0x1D6A}, {0x1D78, 0x1D78}, {0x1D9B, 0x1DBF}, {0x2071, 0x2071}, {0x207F, 0x207F}, {0x2090, 0x209C},
        {0x2170, 0x217F}, {0x24D0, 0x24E9}, {0x2C7C, 0x2C7D}, {0xA69C, 0xA69D}, {0xA770, 0xA770}, {0xA7F8, 0xA7F9},
        {0xAB5C, 0xAB5F}, {0x10780, 0x10780}, {0x10783, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA}};
    return category(cp) == UTF8PROC_CATEGORY_LL || in_spans(cp, others, COUNT(others));
}

/* Category Lu and Unicode's Other_Uppercase. */
static bool is_upper(uint32_t cp)
{
    static const Span others[] = {
        {0x2160, 0x216F}, {0x24B6, 0x24CF}, {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189}};
    return category(cp) == UTF8PROC_CATEGORY_LU || in_spans(cp, others, COUNT(others));
}

static bool is_cased(uint32_t cp)
{
    return is_lower(cp) || is_upper(cp) || category(cp) == UTF8PROC_CATEGORY_LT;
}

/* isupper, islower: some cased character, and none of the other case. */
static bool is_all_case(Text t, bool upper)
{
    bool any = false;
    for (size_t i = 0; i < t.n;) {
        uint32_t cp;
        i += utf8_decode(t.s + i, t.n - i, &cp);
        if (!is_cased(cp))
            continue;
        any = true;
        if (upper ? !is_upper(cp) : !is_lower(cp))
            return false;
    }
    return any;
}

/* Upper case starts each run of cased characters, lower case continues it. */
static bool is_title(Text t)
{
    bool any = false, inside = false;
    for (size_t i = 0; i < t.n;) {
        uint32_t cp;
        i += utf8_decode(t.s + i, t.n - i, &cp);
        bool cased = is_cased(cp);
        if (cased && is_lower(cp) != inside)
            return false;
        any |= cased;
        inside = cased;
    }
    return any;
}

static bool is_alnum(uint32_t cp)
{
    return is_letter(cp) || is_numeric(cp);
}

static bool is_decimal(uint32_t cp)
{
    return category(cp) == UTF8PROC_CATEGORY_ND;
}

static bool is_ascii(uint32_t cp)
{
    return cp < 0x80;
}

bool jj_is_class(Text t, const char *class)
{
    static const struct { const char *name; bool (*has)(uint32_t); bool of_empty; } classes[] = {
        {"alpha", is_letter, false}, {"digit", is_digit, false}, {"alnum", is_alnum, false},
        {"space", jj_is_space, false}, {"decimal", is_decimal, false}, {"numeric", is_numeric, false},
        {"ascii", is_ascii, true}, {"printable", jj_is_printable, true}};
    if (!strcmp(class, "upper") || !strcmp(class, "lower"))
        return is_all_case(t, class[0] == 'u');
    if (!strcmp(class, "title"))
        return is_title(t);
    size_t k = 0;
    while (strcmp(classes[k].name, class))
        k++;
    for (size_t i = 0; i < t.n;) {
        uint32_t cp;
        i += utf8_decode(t.s + i, t.n - i, &cp);
        if (!classes[k].has(cp))
            return false;
    }
    return t.n > 0 || classes[k].of_empty;
}

/* ---- case -------------------------------------------------------------------------------------------------------- */

/* Full case folding; returns the number of code points, 1 to 4. */
static size_t fold(uint32_t cp, utf8proc_int32_t out[4])
{
    int boundclass = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, out, 4, UTF8PROC_CASEFOLD, &boundclass);
    return n >= 1 && n <= 4 ? (size_t)n : 0;
}

/* Characters whose upper case has several letters (sharp s, ligatures) fold to those letters. */
static void put_upper(Out *o, uint32_t cp)
{
    utf8proc_int32_t letters[4];
    size_t n = category(cp) == UTF8PROC_CATEGORY_LU ? 0 : fold(cp, letters);
    if (n < 2)
        out_cp(o, (uint32_t)utf8proc_toupper((utf8proc_int32_t)cp));
    else
        for (size_t i = 0; i < n; i++)
            out_cp(o, (uint32_t)utf8proc_toupper(letters[i]));
}

static void put_title(Out *o, uint32_t cp)
{
    utf8proc_int32_t letters[4];
    uint32_t title = (uint32_t)utf8proc_totitle((utf8proc_int32_t)cp);
    size_t n = category(title) == UTF8PROC_CATEGORY_LT || category(cp) != UTF8PROC_CATEGORY_LL ? 0 : fold(cp, letters);
    if (n < 2) {
        out_cp(o, title);
        return;
    }
    bool done = false; /* the first letter that has an upper case gets it */
    for (size_t i = 0; i < n; i++) {
        utf8proc_int32_t upper = utf8proc_toupper(letters[i]);
        out_cp(o, (uint32_t)(done ? letters[i] : upper));
        done |= upper != letters[i];
    }
}

static void put_fold(Out *o, uint32_t cp)
{
    utf8proc_int32_t letters[4];
    size_t n = fold(cp, letters);
    for (size_t i = 0; i < n; i++)
        out_cp(o, (uint32_t)letters[i]);
}

/* Skipped when looking for the letters around a sigma: marks, modifiers, format characters and word-internal marks. */
static bool is_case_ignorable(uint32_t cp)
{
    switch (category(cp)) {
    case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_ME: case UTF8PROC_CATEGORY_CF: case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK: return true;
    default: return cp == '\'' || cp == '.' || cp == ':' || cp == 0xB7 || cp == 0x2018 || cp == 0x2019 || cp == 0x2024;
    }
}

/* A capital sigma at [at, after) ends a word: a letter comes before it and none after. */
static bool is_final_sigma(Render *r, Text t, size_t at, size_t after)
{
    uint32_t cp = 0;
    size_t i = at, start;
    while (i > 0 && is_case_ignorable(cp = cp_before(t, i, &start)))
        i = start;
    bool after_letter = i > 0 && is_cased(cp), before_letter = false;
    jj_spend(r, at - i);
    for (i = after; after_letter && i < t.n;) {
        i += utf8_decode(t.s + i, t.n - i, &cp);
        if (!is_case_ignorable(cp)) {
            before_letter = is_cased(cp);
            break;
        }
    }
    jj_spend(r, i - after);
    return after_letter && !before_letter;
}

static void put_lower(Out *o, Text t, size_t at, size_t after, uint32_t cp)
{
    if (cp == 0x130) { /* I with a dot above: i and a combining dot */
        out_cp(o, 'i');
        out_cp(o, 0x307);
    } else if (cp == 0x3A3 && is_final_sigma(o->r, t, at, after)) {
        out_cp(o, 0x3C2);
    } else {
        out_cp(o, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp));
    }
}

Text jj_case(Render *r, Text t, Case to)
{
    Out o = {.r = r};
    bool inside = false; /* the previous character was cased */
    jj_spend(r, t.n * 4);
    for (size_t i = 0, next; i < t.n; i = next) {
        uint32_t cp;
        next = i + utf8_decode(t.s + i, t.n - i, &cp);
        bool capital = to == CASE_TITLE ? !inside : to == CASE_CAPITALIZE && i == 0;
        if (to == CASE_UPPER || (to == CASE_SWAP && is_lower(cp)))
            put_upper(&o, cp);
        else if (to == CASE_FOLD)
            put_fold(&o, cp);
        else if (to == CASE_SWAP && !is_upper(cp))
            out_cp(&o, cp);
        else if (capital)
            put_title(&o, cp);
        else
            put_lower(&o, t, i, next, cp);
        inside = is_cased(cp);
    }
    return out_done(&o);
}

/* ---- searching and cutting --------------------------------------------------------------------------------------- */

static bool in_set(uint32_t cp, const Text *set)
{
    for (size_t i = 0; i < set->n;) {
        uint32_t member;
        i += utf8_decode(set->s + i, set->n - i, &member);
        if (member == cp)
            return true;
    }
    return false;
}

Text jj_strip(Text t, const Text *chars, bool left, bool right)
{
    uint32_t cp;
    while (left && t.n) {
        size_t n = utf8_decode(t.s, t.n, &cp);
        if (!(chars ? in_set(cp, chars) : jj_is_space(cp)))
            break;
        t = (Text){t.s + n, t.n - n};
    }
    while (right && t.n) {
        size_t start;
        cp = cp_before(t, t.n, &start);
        if (!(chars ? in_set(cp, chars) : jj_is_space(cp)))
            break;
        t.n = start;
    }
    return t;
}

size_t jj_find(Text t, Text part, size_t from)
{
    if (from > t.n || part.n > t.n - from)
        return SIZE_MAX;
    const char *at = part.n == 1 ? memchr(t.s + from, part.s[0], t.n - from)
                                 : memmem(t.s + from, t.n - from, part.s, part.n);
    return at ? (size_t)(at - t.s) : SIZE_MAX;
}

static Text reversed_bytes(Render *r, Text t)
{
    char *s = jj_alloc(r, t.n);
    for (size_t i = 0; i < t.n; i++)
        s[i] = t.s[t.n - 1 - i];
    return (Text){s, t.n};
}

/* Backwards through copies, so that the time is linear for any text. */
size_t jj_rfind(Render *r, Text t, Text part)
{
    if (part.n > t.n)
        return SIZE_MAX;
    size_t at = jj_find(reversed_bytes(r, t), reversed_bytes(r, part), 0);
    return at == SIZE_MAX ? at : t.n - at - part.n;
}

Text jj_replace(Render *r, Text t, Text old, Text new, int64_t count)
{
    Out o = {.r = r};
    size_t at = 0;
    jj_spend(r, t.n);
    while (count != 0) {
        size_t found = jj_find(t, old, at);
        if (found == SIZE_MAX)
            break;
        out_put(&o, t.s + at, found - at);
        out_text(&o, new);
        at = found + old.n;
        count -= count > 0;
        if (old.n)
            continue;
        if (at == t.n) /* an empty text is found before each character and at the end */
            return out_done(&o);
        uint32_t cp;
        size_t n = utf8_decode(t.s + at, t.n - at, &cp);
        out_put(&o, t.s + at, n);
        at += n;
    }
    out_put(&o, t.s + at, t.n - at);
    return out_done(&o);
}

Text jj_escape_html(Render *r, Text t)
{
    static const struct { char c; const char *entity; } entities[] = {
        {'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'\'', "&#39;"}, {'"', "&#34;"}};
    Out o = {.r = r};
    jj_spend(r, t.n);
    for (size_t i = 0; i < t.n; i++) {
        size_t k = 0;
        while (k < COUNT(entities) && entities[k].c != t.s[i])
            k++;
        if (k < COUNT(entities))
            out_puts(&o, entities[k].entity);
        else
            out_put(&o, t.s + i, 1);
    }
    return out_done(&o);
}

/* ---- splitting and joining --------------------------------------------------------------------------------------- */

/* A list that grows. */
typedef struct Pieces {
    Render *r;
    List *list;
    size_t cap;
} Pieces;

static void add_piece(Pieces *p, const char *s, size_t n)
{
    if (!p->list || p->list->n == p->cap) {
        p->cap = p->cap ? p->cap * 2 : 8;
        List *grown = jj_list(p->r, p->cap);
        grown->n = p->list ? p->list->n : 0;
        if (grown->n)
            memcpy(grown->at, p->list->at, grown->n * sizeof *grown->at);
        p->list = grown;
    }
    p->list->at[p->list->n++] = v_str((Text){s, n});
}

static const List *finish(Pieces *p, bool reverse)
{
    List *l = p->list ? p->list : jj_list(p->r, 0);
    for (size_t i = 0; reverse && i < l->n / 2; i++) {
        Value v = l->at[i];
        l->at[i] = l->at[l->n - 1 - i];
        l->at[l->n - 1 - i] = v;
    }
    return l;
}

static const List *split_space(Render *r, Text t, int64_t max)
{
    Pieces p = {.r = r};
    for (t = jj_strip(t, NULL, true, false); t.n; t = jj_strip(t, NULL, true, false)) {
        size_t end = 0, n = 0;
        uint32_t cp = 0;
        for (; end < t.n; end += n) {
            n = utf8_decode(t.s + end, t.n - end, &cp);
            if (jj_is_space(cp))
                break;
        }
        if (max >= 0 && (int64_t)(p.list ? p.list->n : 0) == max) {
            add_piece(&p, t.s, t.n);
            break;
        }
        add_piece(&p, t.s, end);
        t = (Text){t.s + end, t.n - end};
    }
    return finish(&p, false);
}

static const List *rsplit_space(Render *r, Text t, int64_t max)
{
    Pieces p = {.r = r};
    for (t = jj_strip(t, NULL, false, true); t.n; t = jj_strip(t, NULL, false, true)) {
        size_t start = t.n, before;
        while (start > 0 && !jj_is_space(cp_before(t, start, &before)))
            start = before;
        if (max >= 0 && (int64_t)(p.list ? p.list->n : 0) == max) {
            add_piece(&p, t.s, t.n);
            break;
        }
        add_piece(&p, t.s + start, t.n - start);
        t.n = start;
    }
    return finish(&p, true);
}

static const List *split_text(Render *r, Text t, Text sep, int64_t max)
{
    Pieces p = {.r = r};
    size_t at = 0, found;
    while (max-- != 0 && (found = jj_find(t, sep, at)) != SIZE_MAX) {
        add_piece(&p, t.s + at, found - at);
        at = found + sep.n;
    }
    add_piece(&p, t.s + at, t.n - at);
    return finish(&p, false);
}

static const List *rsplit_text(Render *r, Text t, Text sep, int64_t max)
{
    Pieces p = {.r = r};
    Text back = reversed_bytes(r, t), rsep = reversed_bytes(r, sep);
    size_t at = 0, found; /* counted from the end */
    while (max-- != 0 && (found = jj_find(back, rsep, at)) != SIZE_MAX) {
        add_piece(&p, t.s + t.n - found, found - at);
        at = found + sep.n;
    }
    add_piece(&p, t.s, t.n - at);
    return finish(&p, true);
}

/* `sep` NULL: runs of white space. max < 0: no limit. An empty separator is the caller's error. */
const List *jj_split(Render *r, Text t, const Text *sep, int64_t max, bool from_right)
{
    jj_spend(r, t.n);
    if (!sep)
        return from_right ? rsplit_space(r, t, max) : split_space(r, t, max);
    return from_right ? rsplit_text(r, t, *sep, max) : split_text(r, t, *sep, max);
}

static bool is_line_end(uint32_t cp)
{
    return (cp >= '\n' && cp <= '\r') || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
}

const List *jj_splitlines(Render *r, Text t, bool keep)
{
    Pieces p = {.r = r};
    size_t start = 0;
    jj_spend(r, t.n);
    for (size_t i = 0, next; i < t.n; i = next) {
        uint32_t cp;
        next = i + utf8_decode(t.s + i, t.n - i, &cp);
        if (!is_line_end(cp))
            continue;
        if (cp == '\r' && next < t.n && t.s[next] == '\n')
            next++;
        add_piece(&p, t.s + start, (keep ? next : i) - start);
        start = next;
    }
    if (start < t.n)
        add_piece(&p, t.s + start, t.n - start);
    return finish(&p, false);
}

Text jj_join(Render *r, Text sep, const List *items, bool strict)
{
    Out o = {.r = r};
    for (size_t i = 0; i < items->n; i++) {
        if (strict && items->at[i].kind != V_STR)
            jj_fail(r, "join() expects strings, element %zu is %s", i, jj_type(items->at[i]));
        if (i)
            out_text(&o, sep);
        jj_print(&o, items->at[i]);
    }
    return out_done(&o);
}

Text jj_pad(Render *r, Text t, int64_t width, uint32_t fill, char align)
{
    int64_t n = (int64_t)jj_cp_count(t), missing = width > n ? width - n : 0;
    /* Python's str.center puts the odd one left or right depending on both lengths */
    int64_t left = align == '<' ? 0 : align == '>' ? missing : missing / 2 + (missing & width & 1);
    Out o = {.r = r};
    jj_spend(r, (size_t)missing * 4);
    for (int64_t i = 0; i < left; i++)
        out_cp(&o, fill);
    out_text(&o, t);
    for (int64_t i = left; i < missing; i++)
        out_cp(&o, fill);
    return out_done(&o);
}
