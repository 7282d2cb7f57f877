/* jinja_format.c - owns `text % values` and text.format(...). */
#include <math.h>
#include <stdio.h>

#include "jinja_int.h"

#define MAX_WIDTH 100000
#define MAX_PRECISION 300

/* How one value is laid out: [[fill]align][sign][#][0][width][,][.precision][type] */
typedef struct Spec {
    uint32_t fill;
    char align, sign, type; /* 0 when not given */
    bool alternate;
    char grouping;          /* ',' or '_' */
    int64_t width, precision; /* -1 when not given */
} Spec;

/* Writes digits with a separator between groups, counted from the right end of the integer part. */
static void put_grouped(Out *o, const char *digits, size_t n, char grouping, size_t group)
{
    for (size_t i = 0; i < n; i++) {
        if (grouping && i && (n - i) % group == 0)
            out_put(o, &grouping, 1);
        out_put(o, &digits[i], 1);
    }
}

/* Sign, prefix and digits padded to the width; '=' puts the padding after the sign. */
static void put_number(Out *o, const Spec *s, bool negative, const char *prefix, Text body)
{
    char sign[2] = {negative ? '-' : s->sign == '+' || s->sign == ' ' ? s->sign : 0, 0};
    char align = s->align ? s->align : '>';
    Out head = {.r = o->r};
    out_puts(&head, sign);
    out_puts(&head, prefix);
    if (align == '=') {
        out_text(o, out_done(&head));
        out_text(o, jj_pad(o->r, body, s->width - (int64_t)head.n, s->fill, '>'));
        return;
    }
    out_text(&head, body);
    out_text(o, jj_pad(o->r, out_done(&head), s->width, s->fill, align));
}

static void format_int(Render *r, Out *o, const Spec *s, int64_t i)
{
    char digits[72];
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    unsigned base = s->type == 'x' || s->type == 'X' ? 16 : s->type == 'o' ? 8 : s->type == 'b' ? 2 : 10;
    size_t n = sizeof digits;
    do
        digits[--n] = (s->type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[u % base];
    while (u /= base);
    char prefix[3] = {'0', s->type, 0};
    int64_t zeros = s->precision - (int64_t)(sizeof digits - n);
    Out body = {.r = r};
    out_repeat(&body, '0', (size_t)MAX(zeros, 0));
    put_grouped(&body, digits + n, sizeof digits - n, s->grouping, base == 10 ? 3 : 4);
    put_number(o, s, i < 0, s->alternate && base != 10 ? prefix : "", out_done(&body));
}

static void format_float(Render *r, Out *o, const Spec *s, double f)
{
    char number[700], format[8] = {'%', '.', '*', s->type == '%' ? 'f' : s->type, 0};
    int precision = s->precision < 0 ? 6 : (int)s->precision;
    if (!isfinite(f))
        snprintf(number, sizeof number, "%s", isnan(f) ? "nan" : "inf");
    else if (!s->type && s->precision < 0)
        jj_float_repr(fabs(f), number);
    else {
        if (!s->type)
            format[3] = 'g';
        snprintf(number, sizeof number, format, precision, fabs(s->type == '%' ? f * 100 : f));
    }
    size_t whole = strspn(number, "0123456789");
    Out body = {.r = r};
    put_grouped(&body, number, whole, s->grouping, 3);
    out_puts(&body, number + whole);
    out_puts(&body, s->type == '%' ? "%" : "");
    put_number(o, s, signbit(f) && !isnan(f), "", out_done(&body));
}

static void format_text(Render *r, Out *o, const Spec *s, Text t)
{
    if (s->precision >= 0)
        t.n = jj_cp_offset(t, (size_t)s->precision);
    out_text(o, jj_pad(r, t, s->width, s->fill, s->align ? s->align : '<'));
}

/* format(v, spec) */
static void format_value(Render *r, Out *o, const Spec *s, Value v)
{
    int64_t i;
    double f;
    bool number = jj_number(v, &f), whole = jj_integer(v, &i);
    if (s->type && strchr("bcdoxX", s->type)) {
        if (!whole)
            jj_fail(r, "format code '%c' needs an integer, not %s", s->type, jj_type(v));
        if (s->type == 'c')
            jj_fail(r, "format code 'c' is not supported");
        format_int(r, o, s, i);
    } else if (s->type && strchr("eEfFgG%", s->type)) {
        if (!number)
            jj_fail(r, "format code '%c' needs a number, not %s", s->type, jj_type(v));
        format_float(r, o, s, f);
    } else if (s->type && s->type != 's') {
        jj_fail(r, "unknown format code '%c'", s->type);
    } else if (v.kind == V_INT && s->type != 's') {
        format_int(r, o, s, i);
    } else if (v.kind == V_FLOAT && s->type != 's') {
        format_float(r, o, s, f);
    } else {
        format_text(r, o, s, jj_str(r, v));
    }
}

static bool take_char(Text *t, char c)
{
    bool yes = t->n && t->s[0] == c;
    if (yes)
        *t = (Text){t->s + 1, t->n - 1};
    return yes;
}

static int64_t take_number(Render *r, Text *t, int64_t limit)
{
    int64_t n = 0;
    for (; t->n && t->s[0] >= '0' && t->s[0] <= '9'; *t = (Text){t->s + 1, t->n - 1})
        if ((n = n * 10 + (t->s[0] - '0')) > limit)
            jj_fail(r, "a width or precision in a format is larger than %lld", (long long)limit);
    return n;
}

static bool is_digit(Text t)
{
    return t.n && t.s[0] >= '0' && t.s[0] <= '9';
}

/* ---- text % values ----------------------------------------------------------------------------------------------- */

typedef struct Percent {
    Render *r;
    Text rest;       /* of the format */
    Value values;    /* right of % */
    const List *list;
    size_t used;
    bool by_name;
} Percent;

static Value next_value(Percent *p)
{
    if (p->used >= p->list->n)
        jj_fail(p->r, "not enough arguments for a format");
    return p->list->at[p->used++];
}

/* The value for %(name)s. */
static Value named_value(Percent *p)
{
    size_t n = jj_find(p->rest, TEXT(")"), 0);
    if (p->values.kind != V_DICT || n == SIZE_MAX)
        jj_fail(p->r, "a format with names needs a dict and a closing parenthesis");
    const Value *v = jj_dict_find(p->r, p->values.dict, (Text){p->rest.s, n});
    if (!v)
        jj_fail(p->r, "the format names '%.*s', which is not given", TEXT_ARG(((Text){p->rest.s, n})));
    p->rest = (Text){p->rest.s + n + 1, p->rest.n - n - 1};
    p->by_name = true;
    return *v;
}

static int64_t percent_number(Percent *p, int64_t limit)
{
    int64_t n;
    if (!take_char(&p->rest, '*'))
        return take_number(p->r, &p->rest, limit);
    if (!jj_integer(next_value(p), &n) || n < -limit || n > limit)
        jj_fail(p->r, "* in a format needs an integer of at most %lld", (long long)limit);
    return n;
}

static Spec percent_spec(Percent *p)
{
    Spec s = {.fill = ' ', .precision = -1, .align = '>'};
    for (bool flag = true; flag && p->rest.n;) {
        char c = p->rest.s[0];
        flag = c && strchr("-+ #0", c);
        if (!flag)
            break;
        take_char(&p->rest, c);
        if (c == '-')
            s.align = '<';
        else if (c == '0' && s.align != '<')
            s.fill = '0', s.align = '=';
        else if (c == '#')
            s.alternate = true;
        else if (c == '+' || (c == ' ' && !s.sign))
            s.sign = c;
    }
    s.width = percent_number(p, MAX_WIDTH);
    if (s.width < 0) {
        s.align = '<';
        s.width = -s.width;
    }
    if (s.align == '<')
        s.fill = ' ';
    if (take_char(&p->rest, '.')) {
        s.precision = percent_number(p, MAX_PRECISION);
        s.precision = MAX(s.precision, 0);
    }
    return s;
}

/* %d of a float drops its fraction. */
static Value as_integer(Percent *p, Value v, char type)
{
    int64_t i;
    if (jj_integer(v, &i))
        return v_int(i);
    if (v.kind != V_FLOAT || type != 'd' || !(fabs(v.f) < 9.2e18))
        jj_fail(p->r, "%%%c needs a number, not %s", type, jj_type(v));
    return v_int((int64_t)v.f);
}

static void percent_one(Percent *p, Out *o)
{
    bool has_name = take_char(&p->rest, '(');
    Value v = has_name ? named_value(p) : v_absent();
    Spec s = percent_spec(p);
    while (take_char(&p->rest, 'l') || take_char(&p->rest, 'h') || take_char(&p->rest, 'L'))
        ;
    char type = p->rest.n ? p->rest.s[0] : 0;
    if (!type || !take_char(&p->rest, type))
        jj_fail(p->r, "incomplete format");
    if (type == '%') {
        out_puts(o, "%");
        return;
    }
    if (v.kind == V_ABSENT)
        v = next_value(p);
    s.type = type == 'i' || type == 'u' ? 'd' : type;
    if (type == 'r' || type == 's' || type == 'a') {
        Out text = {.r = p->r};
        (type == 's' ? jj_print : jj_repr)(&text, v);
        s.align = s.align == '=' ? '>' : s.align;
        s.fill = ' ';
        format_text(p->r, o, &s, out_done(&text));
    } else if (strchr("dxXo", s.type)) {
        format_int(p->r, o, &s, as_integer(p, v, s.type).i);
    } else if (strchr("eEfFgG", type)) {
        format_value(p->r, o, &s, v);
    } else {
        jj_fail(p->r, "unsupported format character '%c'", type > ' ' && type < 127 ? type : '?');
    }
}

Text jj_format_percent(Render *r, Text format, Value values)
{
    Out o = {.r = r};
    Percent p = {.r = r, .rest = format, .values = values};
    List *single = jj_list(r, 1);
    single->at[0] = values;
    p.list = values.kind == V_TUPLE ? values.list : single;
    jj_spend(r, format.n);
    while (p.rest.n) {
        size_t n = jj_find(p.rest, TEXT("%"), 0);
        out_put(&o, p.rest.s, MIN(n, p.rest.n));
        if (n == SIZE_MAX)
            break;
        p.rest = (Text){p.rest.s + n + 1, p.rest.n - n - 1};
        percent_one(&p, &o);
    }
    bool need_all = !p.by_name && values.kind != V_DICT && values.kind != V_LIST && values.kind != V_UNDEFINED;
    if (p.used < p.list->n && need_all)
        jj_fail(r, "not all arguments of a format were used");
    return out_done(&o);
}

/* ---- text.format(...) -------------------------------------------------------------------------------------------- */

typedef struct Braces {
    Render *r;
    const Args *args;
    size_t used;         /* automatic numbers given out */
    bool automatic, manual;
} Braces;

static Value argument(Braces *b, Text name)
{
    int64_t i;
    if (name.n && !is_digit(name)) {
        for (size_t k = 0; k < b->args->n_named; k++)
            if (text_eq(b->args->names[k], name))
                return b->args->named[k];
        jj_fail(b->r, "format() was not given '%.*s'", TEXT_ARG(name));
    }
    *(name.n ? &b->manual : &b->automatic) = true;
    if (b->manual && b->automatic)
        jj_fail(b->r, "format() cannot mix numbered and automatic fields");
    if (!name.n)
        i = (int64_t)b->used++;
    else if (!jj_parse_int(name, 10, &i))
        i = INT64_MAX;
    if (i >= (int64_t)b->args->n)
        jj_fail(b->r, "format() needs more arguments than the %zu that are given", b->args->n);
    return b->args->at[i];
}

/* field = name { "." name | "[" key "]" } */
static Value field_value(Braces *b, Text field)
{
    size_t n = 0;
    while (n < field.n && field.s[n] != '.' && field.s[n] != '[')
        n++;
    if (!n && field.n)
        jj_fail(b->r, "a field of format() starts with '%c'", field.s[0]);
    Value v = argument(b, (Text){field.s, n});
    while (n < field.n) {
        bool bracket = field.s[n++] == '[';
        size_t start = n;
        while (n < field.n && (bracket ? field.s[n] != ']' : field.s[n] != '.' && field.s[n] != '['))
            n++;
        Text part = {field.s + start, n - start};
        int64_t index;
        if (!part.n || (bracket && n++ >= field.n))
            jj_fail(b->r, "malformed field in format()");
        bool number = bracket && is_digit(part) && jj_parse_int(part, 10, &index);
        v = !bracket ? jj_attr(b->r, v, part) : jj_item(b->r, v, number ? v_int(index) : v_str(part));
    }
    return v;
}

static Spec brace_spec(Render *r, Text t)
{
    Spec s = {.fill = ' ', .precision = -1};
    uint32_t cp = 0;
    size_t n = t.n ? utf8_decode(t.s, t.n, &cp) : 0;
    if (n && n < t.n && strchr("<>^=", t.s[n])) {
        s.fill = cp;
        s.align = t.s[n];
        t = (Text){t.s + n + 1, t.n - n - 1};
    } else if (n && cp < 0x80 && cp && strchr("<>^=", (int)cp)) {
        s.align = (char)cp;
        t = (Text){t.s + 1, t.n - 1};
    }
    if (t.n && t.s[0] && strchr("+- ", t.s[0])) {
        s.sign = t.s[0];
        take_char(&t, t.s[0]);
    }
    s.alternate = take_char(&t, '#');
    if (take_char(&t, '0') && !s.align) {
        s.fill = '0';
        s.align = '=';
    }
    s.width = take_number(r, &t, MAX_WIDTH);
    s.grouping = take_char(&t, ',') ? ',' : take_char(&t, '_') ? '_' : 0;
    if (take_char(&t, '.')) {
        if (!is_digit(t))
            jj_fail(r, "a format has no digits after '.'");
        s.precision = take_number(r, &t, MAX_PRECISION);
    }
    s.type = t.n ? t.s[0] : 0;
    if (t.n > 1 || (t.n == 1 && !s.type))
        jj_fail(r, "invalid format specification");
    return s;
}

/* replacement = [ field ] [ "!" ("r" | "s") ] [ ":" spec ] */
static void put_replacement(Braces *b, Out *o, Text t)
{
    size_t colon = jj_find(t, TEXT(":"), 0), bang = jj_find(t, TEXT("!"), 0);
    Text field = {t.s, MIN(MIN(colon, bang), t.n)};
    Text spec = colon < t.n ? (Text){t.s + colon + 1, t.n - colon - 1} : TEXT("");
    if (memchr(spec.s, '{', spec.n))
        jj_fail(b->r, "format() does not support fields inside a specification");
    Value v = field_value(b, field);
    if (bang < MIN(colon, t.n)) {
        char conversion = bang + 1 < t.n ? t.s[bang + 1] : 0;
        if ((conversion != 'r' && conversion != 's') || bang + 2 != MIN(colon, t.n))
            jj_fail(b->r, "format() knows the conversions !r and !s");
        Out text = {.r = b->r};
        (conversion == 'r' ? jj_repr : jj_print)(&text, v);
        v = v_str(out_done(&text));
    }
    Spec s = brace_spec(b->r, spec);
    bool plain = v.kind == V_NONE || v.kind == V_LIST || v.kind == V_TUPLE || v.kind == V_DICT;
    if (spec.n && plain)
        jj_fail(b->r, "a format specification cannot be used with %s", jj_type(v));
    bool unknown_type = v.kind == V_STR ? s.type && s.type != 's' : s.type == 's' && spec.n;
    if (unknown_type || (v.kind == V_STR && s.align == '=' && s.fill != '0'))
        jj_fail(b->r, "invalid format specification for %s", jj_type(v));
    if (v.kind == V_STR && s.align == '=')
        s.align = '<';
    if (v.kind == V_BOOL && spec.n)
        v = v_int(v.b);
    format_value(b->r, o, &s, v);
}

Text jj_format_braces(Render *r, Text format, const Args *args)
{
    Out o = {.r = r};
    Braces b = {.r = r, .args = args};
    jj_spend(r, format.n);
    for (size_t i = 0; i < format.n; i++) {
        char c = format.s[i];
        bool doubled = i + 1 < format.n && format.s[i + 1] == c;
        if ((c != '{' && c != '}') || doubled) {
            out_put(&o, &c, 1);
            i += c == '{' || c == '}';
            continue;
        }
        size_t end = c == '{' ? jj_find(format, TEXT("}"), i) : SIZE_MAX;
        if (end == SIZE_MAX)
            jj_fail(r, "single '%c' in format()", c);
        put_replacement(&b, &o, (Text){format.s + i + 1, end - i - 1});
        i = end;
    }
    return out_done(&o);
}
