/* parse.c - reads the text form of tile IR that print.c writes; built by the builders, so types are checked at once.
 *
 *     text        = { line }                      one instruction a line; ";" starts a comment
 *     line        = [ kernel | grid | instruction ] [ ";" comment ]
 *     kernel      = "kernel" string [ "numerics" [ "tree" int ] [ "segment" int ] ] { "accepts" flaw } [ "warps" int int ]
 *                                                                                          first, once
 *     grid        = "grid" value { "," value }                                              once
 *     instruction = [ value "=" ] op ... [ ":" type ]
 *     type        = element [ "[" int "," int "]" ]            without brackets a scalar
 *     value       = "%" int                       numbers may have gaps; they become the order of the lines
 *
 * What follows each op stands above its function. A comment that is `file:line` is the Loc of its instruction.
 * The text is not trusted: any bytes give a kernel or a message, and sizes are limited before anything is built. */
#include "ir.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_STAGES = 64, MAX_UNROLL = 64, MAX_ARGUMENT = 255 };
#define MAX_EXTENT ((int64_t)1 << 40)

typedef struct Parser {
    const char *at, *end;
    Loc loc; /* this line; its file is the kernel's source */
    Kernel *k;
    Ref *names; /* number in the text -> Ref, 0 when not defined; MAX_INS entries */
    Err *err;
} Parser;

typedef struct Word {
    const char *s;
    size_t len;
} Word;

/* ---- messages and tokens ----------------------------------------------------------------------------------------- */

static bool fail(Parser *p, const char *format, ...) PRINTF(2, 3);
static bool fail(Parser *p, const char *format, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    return err_set(p->err, "%s:%d: %s", p->loc.file, p->loc.line, text);
}

/* Puts this line in front of a builder's message. */
static bool located(Parser *p)
{
    return err_prefix(p->err, "%s:%d", p->loc.file, p->loc.line);
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r'; }

/* The next character on this line after spaces; '\n' at the end of the line or the text. */
static char peek(Parser *p)
{
    while (p->at < p->end && is_space(*p->at))
        p->at++;
    return p->at == p->end || *p->at == ';' ? '\n' : *p->at;
}

/* Fails with what was expected and what stands there. */
static bool expected(Parser *p, const char *what)
{
    char c = peek(p);
    if (c == '\n')
        return fail(p, "expected %s before the end of the line", what);
    if (c > ' ' && c < 127)
        return fail(p, "expected %s, found '%c'", what, c);
    return fail(p, "expected %s, found byte 0x%02x", what, (unsigned char)c);
}

static bool accept(Parser *p, char c)
{
    if (peek(p) != c)
        return false;
    p->at++;
    return true;
}

static bool expect(Parser *p, char c)
{
    char what[] = {'\'', c, '\'', 0};
    return accept(p, c) || expected(p, what);
}

/* A word of letters, digits, '_' and '.'; empty when something else stands there. */
static Word word(Parser *p)
{
    Word w = {p->at, 0};
    if (!is_letter(peek(p)))
        return w;
    w.s = p->at;
    while (p->at < p->end && (is_letter(*p->at) || is_digit(*p->at) || *p->at == '.'))
        p->at++;
    w.len = (size_t)(p->at - w.s);
    return w;
}

static bool is(Word w, const char *text)
{
    return strlen(text) == w.len && !memcmp(w.s, text, w.len);
}

/* Takes the word if it is the next one. */
static bool accept_word(Parser *p, const char *text)
{
    peek(p);
    const char *start = p->at;
    if (is(word(p), text))
        return true;
    p->at = start;
    return false;
}

/* A decimal number lo..hi. */
static bool integer(Parser *p, int64_t lo, int64_t hi, int64_t *out)
{
    if (!is_digit(peek(p)))
        return expected(p, "a number");
    int64_t v = 0;
    while (p->at < p->end && is_digit(*p->at)) {
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *p->at - '0', &v))
            return fail(p, "number too large");
        p->at++;
    }
    if (v < lo || v > hi)
        return fail(p, "%lld is not in %lld..%lld", (long long)v, (long long)lo, (long long)hi);
    *out = v;
    return true;
}

static bool small(Parser *p, int lo, int hi, int *out)
{
    int64_t v;
    if (!integer(p, lo, hi, &v))
        return false;
    *out = (int)v;
    return true;
}

/* The word that follows must be one of names[0..count); *out is its index. */
static bool choice(Parser *p, const char *const *names, int count, const char *what, int *out)
{
    Word w = word(p);
    for (int i = 0; i < count; i++)
        if (is(w, names[i])) {
            *out = i;
            return true;
        }
    char list[256] = "";
    for (int i = 0; i < count; i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), i ? ", %s" : "%s", names[i]);
    return w.len ? fail(p, "unknown %s '%.*s'; one of %s", what, (int)MIN(w.len, 40), w.s, list)
                 : fail(p, "expected a %s: one of %s", what, list);
}

static int hex_digit(char c)
{
    return is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* string = '"' { character | "\" ( '"' | "\" | "x" hex hex ) } '"' */
static bool string(Parser *p, const char **out)
{
    if (!expect(p, '"'))
        return false;
    const char *start = p->at;
    while (p->at < p->end && *p->at != '"' && *p->at != '\n')
        p->at += *p->at == '\\' && p->end - p->at > 1 ? 2 : 1;
    if (p->at >= p->end || *p->at != '"')
        return fail(p, "the string does not end on this line");
    char *text = arena_alloc(p->k->arena, (size_t)(p->at - start) + 1), *to = text;
    for (const char *s = start; s < p->at; s++) {
        char c = *s;
        if (c == '\\' && *++s == 'x') {
            int high = p->at - s > 2 ? hex_digit(s[1]) : -1, low = high >= 0 ? hex_digit(s[2]) : -1;
            if (low < 0)
                return fail(p, "'\\x' needs two hexadecimal digits (lower case)");
            c = (char)(high * 16 + low);
            s += 2;
        } else if (c == '\\' && *s != '"' && *s != '\\') {
            return fail(p, "unknown escape in the string; \\\" \\\\ \\x00 exist");
        } else {
            c = *s;
        }
        if (!c || c == '\n')
            return fail(p, "a name holds no zero byte and no line end");
        *to++ = c;
    }
    p->at++;
    *out = text;
    return true;
}

/* ---- values and types -------------------------------------------------------------------------------------------- */

static bool value_number(Parser *p, int *number)
{
    return expect(p, '%') && small(p, 1, MAX_INS - 1, number);
}

static bool value(Parser *p, Ref *out)
{
    int number;
    if (!value_number(p, &number))
        return false;
    *out = p->names[number];
    return *out || fail(p, "%%%d is used before it is defined", number);
}

/* values = value { "," value } */
static bool values(Parser *p, Ref *out, int max, int *count)
{
    *count = 0;
    do {
        if (*count == max)
            return fail(p, "more than %d operands", max);
        if (!value(p, &out[(*count)++]))
            return false;
    } while (accept(p, ','));
    return true;
}

static bool operands(Parser *p, Ins *i)
{
    return op_info[i->op].max == 0 || values(p, i->arg, op_info[i->op].max, &i->nargs);
}

static bool element(Parser *p, DType *out)
{
    Word w = word(p);
    *out = dtype_parse(w.s, w.len);
    return *out ? true : w.len ? fail(p, "unknown element type '%.*s'", (int)MIN(w.len, 40), w.s)
                               : expected(p, "an element type");
}

/* type = element [ "[" rows "," cols "]" ] */
static bool type(Parser *p, Type *t)
{
    t->rows = t->cols = 1;
    if (!element(p, &t->elem))
        return false;
    if (!accept(p, '['))
        return true;
    return small(p, 1, MAX_TILE, &t->rows) && expect(p, ',') && small(p, 1, MAX_TILE, &t->cols) && expect(p, ']') &&
           ((int64_t)t->rows * t->cols <= MAX_TILE || fail(p, "a tile has at most %d elements", MAX_TILE));
}

/* ---- operations with more than operands -------------------------------------------------------------------------- */

/* const = "const" number ":" element; the number is read once the element type is known. */
static bool const_number(Parser *p, Word *number)
{
    peek(p);
    number->s = p->at;
    while (p->at < p->end && (is_digit(*p->at) || is_letter(*p->at) || memchr("+-.", *p->at, 3)))
        p->at++;
    number->len = (size_t)(p->at - number->s);
    return number->len ? true : expected(p, "a number");
}

static Ref build_const(Parser *p, Word number, Type t)
{
    char text[64], *end = text;
    if (number.len < sizeof text) {
        memcpy(text, number.s, number.len);
        text[number.len] = 0;
    } else {
        return (Ref)fail(p, "number too long");
    }
    errno = 0;
    if (dtype_is_float(t.elem)) {
        double v = strtod(text, &end);
        return *end || end == text ? (Ref)fail(p, "'%s' is not a number", text)
                                   : ir_const_float(p->k, t.elem, v, p->loc);
    }
    long long v = strtoll(text, &end, 10);
    return *end || end == text || errno ? (Ref)fail(p, "'%s' is not an integer of 64 bits", text)
                                        : ir_const_int(p->k, t.elem, v, p->loc);
}

/* dim = int [ "*" size ] | size */
static bool dim(Parser *p, Dim *d)
{
    *d = (Dim){.n = 1, .size = -1};
    if (is_digit(peek(p))) {
        if (!integer(p, 1, MAX_EXTENT, &d->n))
            return false;
        if (!accept(p, '*'))
            return true;
    }
    return choice(p, size_names, SIZE_COUNT, "run-time size", &d->size);
}

/* shape = "[" dim { "," dim } "]" */
static bool shape(Parser *p, Memory *m)
{
    if (!expect(p, '['))
        return false;
    do {
        if (m->rank == MAX_RANK)
            return fail(p, "more than %d dimensions", MAX_RANK);
        if (!dim(p, &m->dim[m->rank++]))
            return false;
    } while (accept(p, ','));
    return expect(p, ']');
}

/* memory = "memory" ( "global" argument ( "in" | "out" | "inout" ) | "shared" ) element name shape
 *          [ "pitch" int ] [ "panel" unit [ "wide" columns ] [ "pairs" ] ] */
static bool memory(Parser *p, Memory *m)
{
    static const char *const spaces[] = {"global", "shared"}, *const accesses[] = {"in", "out", "inout"};
    int space, access = ACCESS_INOUT;
    if (!choice(p, spaces, 2, "memory space", &space))
        return false;
    if (space == SPACE_GLOBAL &&
        !(small(p, 0, MAX_ARGUMENT, &m->index) && choice(p, accesses, 3, "access", &access)))
        return false;
    m->space = (Space)space;
    m->access = (Access)access;
    if (!element(p, &m->elem))
        return false;
    Word w = word(p);
    if (w.len)
        m->name = arena_strndup(p->k->arena, w.s, w.len);
    else if (!string(p, &m->name))
        return false;
    if (!shape(p, m) || (accept_word(p, "pitch") && !integer(p, 1, MAX_EXTENT, &m->pitch)))
        return false;
    if (accept_word(p, "panel")) {
        m->layout = LAYOUT_PANEL;
        if (!small(p, 1, 64, &m->unit))
            return false;
        m->wide = PANEL_COLS;
        if (accept_word(p, "wide") && !small(p, PANEL_COLS, 4096, &m->wide))
            return false;
        m->pairs = accept_word(p, "pairs");
        return true;
    }
    return true;
}

/* loop = "loop" lo "," hi "step" int [ "pipelined" stages ] */
static bool loop(Parser *p, Ins *i)
{
    if (!operands(p, i) || (!accept_word(p, "step") && !expected(p, "'step'")) ||
        !integer(p, 1, MAX_EXTENT, &i->integer))
        return false;
    i->a = accept_word(p, "pipelined") ? LOOP_PIPELINED : LOOP_SERIAL;
    return i->a == LOOP_SERIAL || small(p, 1, MAX_STAGES, &i->b);
}

/* view = "view" base "[" values "]" rows "x" cols [ "transposed" ] [ "inside" ] */
static bool view(Parser *p, Ins *i)
{
    int coords;
    if (!value(p, &i->arg[0]) || !expect(p, '[') || !values(p, i->arg + 1, MAX_RANK, &coords) || !expect(p, ']') ||
        !small(p, 1, MAX_VIEW, &i->type.rows) || !expect(p, 'x') || !small(p, 1, MAX_VIEW, &i->type.cols))
        return false;
    i->nargs = coords + 1;
    i->a = (accept_word(p, "transposed") ? VIEW_TRANSPOSED : 0) | (accept_word(p, "inside") ? VIEW_INSIDE : 0);
    return true;
}

/* slice = "slice" value "[" row "," column "]" : type */
static bool slice(Parser *p, Ins *i)
{
    return operands(p, i) && expect(p, '[') && small(p, 0, MAX_TILE, &i->pos[0]) && expect(p, ',') &&
           small(p, 0, MAX_TILE, &i->pos[1]) && expect(p, ']');
}

/* reduce = "reduce" ( "add" | "max" | "min" ) ( "rows" | "cols" ) [ "tree" width ] value */
static bool reduce(Parser *p, Ins *i)
{
    static const char *const axes[] = {"rows", "cols"};
    return choice(p, reduce_names, REDUCE_KINDS, "reduction", &i->a) && choice(p, axes, 2, "axis", &i->b) &&
           (!accept_word(p, "tree") || small(p, 1, MAX_TILE, &i->c)) && operands(p, i);
}

/* gemm = "gemm" frag "," a "," b [ "," next ] [ "unroll" int ] [ "ahead" lines ] */
static bool gemm(Parser *p, Ins *i)
{
    return operands(p, i) && (!accept_word(p, "unroll") || small(p, 1, MAX_UNROLL, &i->a)) &&
           (!accept_word(p, "ahead") || small(p, 1, MAX_UNROLL, &i->b));
}

/* ---- lines ------------------------------------------------------------------------------------------------------- */

/* What one line says, before it is built. */
typedef struct Line {
    Ins ins;
    Memory memory;
    Word number; /* CONST */
    bool typed;  /* the line ends with a type: */
    Type type;
} Line;

static bool read_line(Parser *p, Line *l)
{
    Ins *i = &l->ins;
    int v = 0;
    bool ok;
    switch (i->op) {
    case OP_CONST: ok = const_number(p, &l->number); break;
    case OP_SIZE: ok = choice(p, size_names, SIZE_COUNT, "run-time size", &v), i->integer = v; break;
    case OP_BLOCK: ok = integer(p, 0, MAX_GRID - 1, &i->integer); break;
    case OP_MEMORY: ok = memory(p, &l->memory); break;
    case OP_FRAG: ok = choice(p, frag_names, FRAG_CLASSES, "fragment class", &i->a); break;
    case OP_LOOP: ok = loop(p, i); break;
    case OP_VIEW: ok = view(p, i); break;
    case OP_SLICE: ok = slice(p, i); break;
    case OP_REDUCE: ok = reduce(p, i); break;
    case OP_GEMM: ok = gemm(p, i); break;
    default: ok = operands(p, i);
    }
    l->typed = ok && accept(p, ':');
    return ok && (!l->typed || type(p, &l->type));
}

static bool needs_type(Op op)
{
    return op == OP_CONST || op == OP_FRAG || op == OP_ROW || op == OP_COL || op == OP_CAST || op == OP_BITCAST ||
           op == OP_SLICE || op == OP_RESHAPE;
}

static Ref build(Parser *p, Line *l)
{
    Kernel *k = p->k;
    Ins *i = &l->ins;
    Ref r;
    switch (i->op) {
    case OP_CONST: return build_const(p, l->number, l->type);
    case OP_MEMORY: return ir_memory(k, &l->memory, p->loc);
    case OP_SIZE:
    case OP_BLOCK: return ir_leaf(k, i->op, (Type){DT_S64, 1, 1}, i->integer, 0, p->loc);
    case OP_FRAG:
    case OP_ROW:
    case OP_COL: return ir_leaf(k, i->op, l->type, 0, i->a, p->loc);
    case OP_VIEW:
        r = ir_view(k, i->arg[0], i->arg + 1, i->nargs - 1, i->type.rows, i->type.cols, i->a, p->loc, p->err);
        break;
    default:
        i->type = needs_type(i->op) ? l->type : (Type){0};
        r = ir_add(k, i, p->err);
    }
    return r ? r : (Ref)located(p);
}

/* The type that the line gives must be the one that the operation has. */
static bool check_type(Parser *p, const Line *l, Ref r)
{
    Type t = type_of(p->k, r);
    if (!l->typed || (t.elem == l->type.elem && t.rows == l->type.rows && t.cols == l->type.cols))
        return true;
    return fail(p, "'%s' gives %s[%d,%d], the line says %s[%d,%d]", op_info[l->ins.op].text, dtype_name(t.elem), t.rows,
                t.cols, dtype_name(l->type.elem), l->type.rows, l->type.cols);
}

static Op find_op(Word w)
{
    for (int op = 1; op < OP_COUNT; op++)
        if (is(w, op_info[op].text))
            return (Op)op;
    return OP_NONE;
}

/* instruction = [ value "=" ] op ... [ ":" type ] */
static bool instruction(Parser *p, Word w, int name)
{
    Line l = {.ins = {.op = find_op(w), .loc = p->loc}};
    if (!l.ins.op)
        return fail(p, "unknown operation '%.*s'", (int)MIN(w.len, 40), w.s);
    if (op_has_result(l.ins.op) != (name > 0))
        return fail(p, name ? "'%s' has no result to name" : "the result of '%s' needs a name: %%1 = ...",
                    op_info[l.ins.op].text);
    if (p->k->ins.len >= MAX_INS)
        return fail(p, "more than %d instructions", MAX_INS - 1);
    if (!read_line(p, &l))
        return false;
    if (needs_type(l.ins.op) && !l.typed)
        return expected(p, "': type'");
    Ref r = build(p, &l);
    if (!r || !check_type(p, &l, r))
        return false;
    p->names[name] = name ? r : 0;
    return true;
}

/* grid = "grid" value { "," value } */
static bool grid(Parser *p)
{
    if (p->k->grid_rank)
        return fail(p, "the grid is given twice");
    return values(p, p->k->grid, MAX_GRID, &p->k->grid_rank);
}

/* flaw = "spills" | "stack" | "notes" */
static bool accepted_flaw(Parser *p)
{
    for (size_t i = 0; i < COUNT(accept_names); i++)
        if (accept_word(p, accept_names[i])) {
            p->k->accepts |= 1u << i;
            return true;
        }
    return expected(p, "what is accepted: spills, stack or notes");
}

/* kernel = "kernel" string [ "numerics" [ "tree" int ] [ "segment" int ] ] { "accepts" flaw } [ "warps" int int ] */
static bool header(Parser *p)
{
    Numerics *n = &p->k->numerics;
    if (!accept_word(p, "kernel"))
        return fail(p, "the text must begin with: kernel \"name\"");
    if (!string(p, &p->k->name))
        return false;
    if (accept_word(p, "numerics") && !((!accept_word(p, "tree") || small(p, 1, MAX_TILE, &n->tree)) &&
                                        (!accept_word(p, "segment") || small(p, 1, MAX_VIEW, &n->segment))))
        return false;
    while (accept_word(p, "accepts"))
        if (!accepted_flaw(p))
            return false;
    return !accept_word(p, "warps") ||
           (small(p, 1, MAX_WARPS, &p->k->warps[0]) && small(p, 1, MAX_WARPS, &p->k->warps[1]));
}

static bool statement(Parser *p)
{
    int name = 0;
    if (peek(p) == '%') {
        if (!value_number(p, &name))
            return false;
        if (p->names[name])
            return fail(p, "%%%d is defined twice", name);
        if (!expect(p, '='))
            return false;
    }
    Word w = word(p);
    if (!w.len)
        return expected(p, "an operation");
    return is(w, "grid") && !name ? grid(p) : instruction(p, w, name);
}

/* Goes past the line; a comment that is `file:line`, without spaces, becomes *loc. */
static void comment(Parser *p, Loc *loc)
{
    const char *s = p->at, *e = p->at;
    while (p->at < p->end && *p->at != '\n')
        p->at++;
    for (s += s < p->at, e = p->at; s < e && is_space(*s); s++)
        ;
    while (e > s && is_space(e[-1]))
        e--;
    const char *digits = e;
    while (digits > s && is_digit(digits[-1]))
        digits--;
    if (e == digits || e - digits > 9 || digits - s < 2 || digits[-1] != ':')
        return;
    for (const char *c = s; c < digits; c++)
        if ((unsigned char)*c <= ' ' || *c == 127)
            return;
    loc->file = arena_strndup(p->k->arena, s, (size_t)(digits - 1 - s));
    loc->line = 0;
    for (; digits < e; digits++)
        loc->line = loc->line * 10 + (*digits - '0');
}

static bool lines(Parser *p)
{
    bool begun = false;
    for (p->loc.line = 1; p->at < p->end; p->loc.line++) {
        size_t before = p->k->ins.len;
        if (peek(p) != '\n') {
            if (!(begun ? statement(p) : header(p)))
                return false;
            if (peek(p) != '\n')
                return expected(p, "the end of the line");
            begun = true;
        }
        Loc ignored, *loc = p->k->ins.len > before ? &ir_at(p->k, (Ref)before)->loc : &ignored;
        comment(p, loc);
        p->at += p->at < p->end;
    }
    return begun || header(p);
}

Kernel *ir_parse(const char *text, size_t len, const char *file, Err *err)
{
    Kernel *k = kernel_new("");
    k->source = arena_strdup(k->arena, file ? file : "text");
    Parser p = {text, text + len, {k->source, 1}, k, xcalloc(MAX_INS, sizeof(Ref)), err};
    bool ok = lines(&p);
    free(p.names);
    if (ok)
        return k;
    kernel_free(k);
    return NULL;
}
