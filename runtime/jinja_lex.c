/* jinja_lex.c - owns the first step of jinja_parse: template source -> tokens.
 *
 * White space control follows jinja2 with trim_blocks and lstrip_blocks: a `-` inside a tag strips all white space on
 * that side; otherwise a block or comment loses the blanks before it on its line and the newline right after it, unless
 * `+` keeps them. {{ }} keeps everything. Of the whole source one final newline is dropped. */
#include "jinja_int.h"

#define MAX_BRACKETS 200

typedef struct Lexer {
    Parse *p;
    Text src;
    size_t pos;
    int line; /* of pos, from 1 */
} Lexer;

Text jj_normalize_newlines(Arena *a, Text t)
{
    if (!t.n || !memchr(t.s, '\r', t.n))
        return t;
    char *copy = arena_alloc(a, t.n);
    size_t n = 0;
    for (size_t i = 0; i < t.n; i++) {
        if (t.s[i] == '\r' && i + 1 < t.n && t.s[i + 1] == '\n')
            continue;
        copy[n++] = t.s[i] == '\r' ? '\n' : t.s[i];
    }
    return (Text){copy, n};
}

/* The byte `ahead` of the position; 0 beyond the end. */
static char peek(const Lexer *l, size_t ahead)
{
    return l->src.n - l->pos > ahead ? l->src.s[l->pos + ahead] : 0;
}

static bool looking_at(const Lexer *l, const char *s)
{
    size_t n = strlen(s);
    return l->src.n - l->pos >= n && !memcmp(l->src.s + l->pos, s, n);
}

static void advance(Lexer *l, size_t to)
{
    for (; l->pos < to; l->pos++)
        l->line += l->src.s[l->pos] == '\n';
}

/* Length in bytes of the white space character at `at`; 0 when there is none. */
static size_t space_at(const Lexer *l, size_t at)
{
    if (at >= l->src.n)
        return 0;
    uint32_t cp;
    size_t n = utf8_decode(l->src.s + at, l->src.n - at, &cp);
    return jj_is_space(cp) ? n : 0;
}

static void skip_space(Lexer *l)
{
    size_t to = l->pos;
    for (size_t n; (n = space_at(l, to));)
        to += n;
    advance(l, to);
}

static Token *emit(Lexer *l, int type, Text text)
{
    Token t = {.type = (uint8_t)type, .line = l->line, .text = text};
    vec_push(&l->p->tokens, t);
    return &l->p->tokens.at[l->p->tokens.len - 1];
}

/* ---- text between tags ------------------------------------------------------------------------------------------- */

static bool all_space(const Lexer *l, size_t from, size_t to)
{
    for (size_t n; from < to; from += n)
        if (!(n = space_at(l, from)))
            return false;
    return true;
}

/* Emits the text up to a tag at `to` that is marked with `sign` ('-', '+' or 0). */
static void lex_data(Lexer *l, size_t to, char sign, bool lstrip)
{
    Text t = {l->src.s + l->pos, to - l->pos};
    if (sign == '-') {
        t = jj_strip(t, NULL, false, true);
    } else if (sign != '+' && lstrip) {
        size_t start = to;
        while (start > l->pos && l->src.s[start - 1] != '\n')
            start--;
        bool line_start = start == 0 || l->src.s[start - 1] == '\n';
        if (line_start && all_space(l, start, to))
            t.n = start - l->pos;
    }
    if (t.n)
        emit(l, T_DATA, t);
    advance(l, to);
}

/* The next "{{", "{%" or "{#"; the end of the source when there is none. */
static size_t find_tag(const Lexer *l)
{
    for (size_t i = l->pos; i + 1 < l->src.n; i++) {
        char c = l->src.s[i + 1];
        if (l->src.s[i] == '{' && (c == '{' || c == '%' || c == '#'))
            return i;
    }
    return l->src.n;
}

/* Consumes "%}" with its sign and the white space that goes with it; false when that is not what comes. `close` is the
 * second half of the tag, '%' or '#'. */
static bool close_block(Lexer *l, char close)
{
    char end[3] = {close, '}', 0};
    char sign = peek(l, 0);
    bool has_sign = sign == '-' || sign == '+';
    if (peek(l, has_sign) != end[0] || peek(l, has_sign + 1u) != end[1])
        return false;
    advance(l, l->pos + has_sign + 2);
    if (sign == '-')
        skip_space(l);
    else if (sign != '+' && peek(l, 0) == '\n')
        advance(l, l->pos + 1);
    return true;
}

static void lex_comment(Lexer *l)
{
    int line = l->line;
    if (l->pos == l->src.n) /* jinja2 lets a comment begin at the very end */
        return;
    while (l->pos < l->src.n) {
        if (close_block(l, '#'))
            return;
        advance(l, l->pos + 1);
    }
    parse_fail(l->p, line, "missing end of comment '#}'");
}

/* At "{%" with an optional sign: consumes the opening of a block whose only word is `word`. Its end is left to the
 * caller. */
static bool open_word(Lexer *l, size_t at, const char *word, char *sign)
{
    Lexer probe = *l;
    probe.pos = at + 2;
    *sign = peek(&probe, 0) == '-' || peek(&probe, 0) == '+' ? peek(&probe, 0) : 0;
    probe.pos += *sign != 0;
    skip_space(&probe);
    if (!looking_at(&probe, word))
        return false;
    probe.pos += strlen(word);
    skip_space(&probe);
    if (!looking_at(&probe, "%}") && !looking_at(&probe, "-%}") && !(looking_at(&probe, "+%}") && word[0] == 'e'))
        return false;
    l->pos = probe.pos;
    l->line = probe.line;
    return true;
}

/* After "{% raw": everything up to "{% endraw %}" is text. */
static void lex_raw(Lexer *l)
{
    int line = l->line;
    if (peek(l, 0) == '-') {
        advance(l, l->pos + 3);
        skip_space(l);
    } else {
        advance(l, l->pos + 2);
    }
    if (l->pos == l->src.n) /* like a comment */
        return;
    for (size_t at = l->pos; at + 1 < l->src.n; at++) {
        if (l->src.s[at] != '{' || l->src.s[at + 1] != '%')
            continue;
        Lexer end = *l;
        char sign;
        if (!open_word(&end, at, "endraw", &sign))
            continue;
        lex_data(l, at, sign, true);
        advance(l, end.pos);
        close_block(l, '%');
        return;
    }
    parse_fail(l->p, line, "missing end of raw block '{%% endraw %%}'");
}

/* ---- inside tags ------------------------------------------------------------------------------------------------- */

static bool is_digit(char c, int base)
{
    return base == 16 ? (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'f') : c >= '0' && c < '0' + base;
}

/* The end of digits with single underscores between them, from `at`; `at` itself when there is no digit. */
static size_t scan_digits(const Lexer *l, size_t at, int base)
{
    size_t end = at;
    for (size_t i = at; i < l->src.n; i++) {
        if (is_digit(l->src.s[i], base))
            end = i + 1;
        else if (l->src.s[i] != '_' || i == at || l->src.s[i - 1] == '_')
            break;
    }
    return end;
}

/* The end of a floating-point literal at the position; 0 when it is none. */
static size_t scan_float(const Lexer *l)
{
    if (l->pos > 0 && l->src.s[l->pos - 1] == '.')
        return 0;
    size_t end = scan_digits(l, l->pos, 10), i = end;
    bool is_float = false;
    if (i < l->src.n && l->src.s[i] == '.' && (end = scan_digits(l, i + 1, 10)) > i + 1) {
        is_float = true;
        i = end;
    }
    if (i < l->src.n && (l->src.s[i] | 32) == 'e') {
        size_t digits = i + 1;
        if (digits < l->src.n && (l->src.s[digits] == '+' || l->src.s[digits] == '-'))
            digits++;
        end = scan_digits(l, digits, 10);
        if (end > digits)
            return end;
    }
    return is_float ? i : 0;
}

static size_t scan_integer(const Lexer *l, int *base)
{
    static const struct { char letter; int base; } prefixes[] = {{'x', 16}, {'o', 8}, {'b', 2}};
    *base = 10;
    if (peek(l, 0) != '0')
        return scan_digits(l, l->pos, 10);
    for (size_t i = 0; i < COUNT(prefixes); i++) {
        size_t digits = l->pos + 2 + (peek(l, 2) == '_');
        size_t end = (peek(l, 1) | 32) == prefixes[i].letter ? scan_digits(l, digits, prefixes[i].base) : 0;
        if (end > digits) {
            *base = prefixes[i].base;
            return end;
        }
    }
    size_t end = l->pos + 1; /* 0, 00 */
    while (end < l->src.n && l->src.s[end] == '0')
        end++;
    return end;
}

static void lex_number(Lexer *l)
{
    int base;
    size_t end = scan_float(l);
    bool is_float = end != 0;
    if (!is_float)
        end = scan_integer(l, &base);
    Text t = {l->src.s + l->pos, end - l->pos};
    Token *token = emit(l, is_float ? T_FLOAT : T_INT, t);
    token->value.kind = is_float ? V_FLOAT : V_INT;
    if (!(is_float ? jj_parse_float(t, &token->value.f) : jj_parse_int(t, base == 10 ? 10 : 0, &token->value.i)))
        parse_fail(l->p, l->line, "the number %.*s does not fit in 64 bits", TEXT_ARG(t));
    advance(l, end);
}

static bool is_name_start(char c)
{
    return ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_' || (unsigned char)c >= 0x80;
}

static void lex_name(Lexer *l)
{
    size_t end = l->pos;
    while (end < l->src.n) {
        uint32_t cp;
        size_t n = utf8_decode(l->src.s + end, l->src.n - end, &cp);
        if (!jj_is_word(cp))
            break;
        end += n;
    }
    if (end == l->pos)
        parse_fail(l->p, l->line, "unexpected character");
    emit(l, T_NAME, (Text){l->src.s + l->pos, end - l->pos});
    advance(l, end);
}

/* Reads exactly `digits` hexadecimal digits. */
static bool hex_escape(Text t, size_t at, size_t digits, uint32_t *cp)
{
    *cp = 0;
    if (t.n - at < digits)
        return false;
    for (size_t i = at; i < at + digits; i++) {
        char c = t.s[i];
        if (!is_digit(c, 16))
            return false;
        *cp = *cp << 4 | (uint32_t)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
    }
    return true;
}

/* Decodes \x, \u, \U at t.s[*at] (the letter); a pair of surrogates is one character. False on a malformed escape. */
static bool unicode_escape(Text t, size_t *at, uint32_t *cp)
{
    size_t digits = t.s[*at] == 'x' ? 2 : t.s[*at] == 'u' ? 4 : 8;
    if (!hex_escape(t, *at + 1, digits, cp))
        return false;
    *at += 1 + digits;
    uint32_t low;
    if (*cp >= 0xD800 && *cp < 0xDC00 && t.n - *at >= 6 && t.s[*at] == '\\' && t.s[*at + 1] == 'u' &&
        hex_escape(t, *at + 2, 4, &low) && low >= 0xDC00 && low < 0xE000) {
        *cp = 0x10000 + ((*cp - 0xD800) << 10) + (low - 0xDC00);
        *at += 6;
    }
    return *cp <= 0x10FFFF && !(*cp >= 0xD800 && *cp < 0xE000);
}

/* One escape at t.s[*at] = '\\'; writes at most 4 bytes (2 for an unknown escape, which stays as it is). */
static size_t unescape_one(Lexer *l, Text t, size_t *at, char *out)
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    char c = t.s[++*at];
    const char *simple = c ? strchr(from, c) : NULL;
    uint32_t cp = 0;
    if (simple) {
        ++*at;
        out[0] = to[simple - from];
        return 1;
    }
    if (c == '\n') {
        ++*at;
        return 0;
    }
    if (c == 'x' || c == 'u' || c == 'U') {
        if (!unicode_escape(t, at, &cp))
            parse_fail(l->p, l->line, "malformed \\%c escape in a string", c);
        return utf8_encode(cp, out);
    }
    if (c == 'N')
        parse_fail(l->p, l->line, "\\N{...} escapes are not supported in strings; write \\u and the number");
    if (is_digit(c, 8)) {
        for (int i = 0; i < 3 && *at < t.n && is_digit(t.s[*at], 8); i++)
            cp = cp * 8 + (uint32_t)(t.s[(*at)++] - '0');
        return utf8_encode(cp, out);
    }
    out[0] = '\\';
    return 1;
}

static Text unescape(Lexer *l, Text t)
{
    t = jj_normalize_newlines(l->p->arena, t);
    if (!t.n || !memchr(t.s, '\\', t.n))
        return t;
    char *out = arena_alloc(l->p->arena, t.n + 4);
    size_t n = 0;
    for (size_t i = 0; i < t.n;) {
        if (t.s[i] == '\\')
            n += unescape_one(l, t, &i, out + n);
        else
            out[n++] = t.s[i++];
    }
    return (Text){out, n};
}

static void lex_string(Lexer *l)
{
    char quote = peek(l, 0);
    size_t start = l->pos + 1, i = start;
    while (i < l->src.n && l->src.s[i] != quote)
        i += l->src.s[i] == '\\' ? 2 : 1;
    if (i >= l->src.n)
        parse_fail(l->p, l->line, "a string has no closing %c", quote);
    emit(l, T_STRING, unescape(l, (Text){l->src.s + start, i - start}));
    advance(l, i + 1);
}

static void lex_operator(Lexer *l, char *brackets, size_t *depth)
{
    static const struct { char s[3]; uint8_t type; } two[] = {
        {"**", T_POW}, {"//", T_FLOORDIV}, {"==", T_EQ}, {"!=", T_NE}, {"<=", T_LE}, {">=", T_GE}};
    for (size_t i = 0; i < COUNT(two); i++)
        if (looking_at(l, two[i].s)) {
            emit(l, two[i].type, (Text){l->src.s + l->pos, 2});
            advance(l, l->pos + 2);
            return;
        }
    char c = peek(l, 0);
    if (!c || !strchr("+-/*%~[](){}><=.:|,;", c))
        parse_fail(l->p, l->line, "unexpected character '%c'", c > ' ' && c < 127 ? c : '?');
    if (strchr("([{", c)) {
        if (*depth == MAX_BRACKETS)
            parse_fail(l->p, l->line, "brackets are nested more than %d deep", MAX_BRACKETS);
        brackets[(*depth)++] = c == '(' ? ')' : (char)(c + 2);
    } else if (strchr(")]}", c)) {
        if (!*depth || brackets[--*depth] != c)
            parse_fail(l->p, l->line, "unexpected '%c'", c);
    }
    emit(l, c, (Text){l->src.s + l->pos, 1});
    advance(l, l->pos + 1);
}

static bool close_print(Lexer *l)
{
    bool strip = peek(l, 0) == '-';
    if (peek(l, strip) != '}' || peek(l, strip + 1u) != '}')
        return false;
    advance(l, l->pos + 2 + strip);
    if (strip)
        skip_space(l);
    return true;
}

/* After "{{" or "{%": tokens up to the end of the tag. At the end of the source the parser will complain. */
static void lex_code(Lexer *l, bool block)
{
    char brackets[MAX_BRACKETS];
    size_t depth = 0;
    emit(l, block ? T_BLOCK_BEGIN : T_PRINT_BEGIN, block ? TEXT("{%") : TEXT("{{"));
    for (skip_space(l); l->pos < l->src.n; skip_space(l)) {
        int line = l->line;
        if (!depth && (block ? close_block(l, '%') : close_print(l))) {
            emit(l, block ? T_BLOCK_END : T_PRINT_END, block ? TEXT("%}") : TEXT("}}"))->line = line;
            return;
        }
        char c = peek(l, 0);
        if (c >= '0' && c <= '9')
            lex_number(l);
        else if (is_name_start(c))
            lex_name(l);
        else if (c == '\'' || c == '"')
            lex_string(l);
        else
            lex_operator(l, brackets, &depth);
    }
}

static void lex_tag(Lexer *l, size_t at)
{
    char what = l->src.s[at + 1], sign;
    Lexer raw = *l;
    if (what == '%' && open_word(&raw, at, "raw", &sign)) {
        lex_data(l, at, sign, true);
        advance(l, raw.pos);
        lex_raw(l);
        return;
    }
    sign = at + 2 < l->src.n ? l->src.s[at + 2] : 0;
    if (sign != '-' && sign != '+')
        sign = 0;
    lex_data(l, at, sign, what != '{');
    advance(l, at + 2 + (sign != 0));
    if (what == '#')
        lex_comment(l);
    else
        lex_code(l, what == '%');
}

void jj_lex(Parse *p, Text source)
{
    Lexer l = {.p = p, .src = source, .line = 1};
    for (size_t i = 0, n; i < source.n; i += n) {
        uint32_t cp;
        n = utf8_decode(source.s + i, source.n - i, &cp);
        if (cp == 0xFFFD && n == 1)
            parse_fail(p, 1, "the template is not valid UTF-8 (byte %zu)", i);
    }
    l.src = jj_normalize_newlines(p->arena, source);
    if (l.src.n && l.src.s[l.src.n - 1] == '\n')
        l.src.n--;
    while (l.pos < l.src.n) {
        size_t at = find_tag(&l);
        if (at == l.src.n)
            lex_data(&l, at, 0, false);
        else
            lex_tag(&l, at);
    }
    emit(&l, T_EOF, TEXT("end of template"));
}
