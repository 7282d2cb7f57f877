/* jinja_print.c - owns values as text: Python's str() and repr(), and json.dumps(). */
#include <math.h>
#include <stdio.h>

#include "jinja_int.h"

/* ---- floats ------------------------------------------------------------------------------------------------------ */

/* The shortest decimal that reads back as `f`: its digits, and the exponent of the first one. */
static int shortest(double f, char digits[20])
{
    char number[40];
    for (int precision = 0; precision < 17; precision++) {
        snprintf(number, sizeof number, "%.*e", precision, f);
        if (strtod(number, NULL) == f)
            break;
    }
    const char *e = strchr(number, 'e');
    size_t n = 0;
    for (const char *c = number; c < e; c++)
        if (*c != '.')
            digits[n++] = *c;
    while (n > 1 && digits[n - 1] == '0')
        n--;
    digits[n] = 0;
    return atoi(e + 1);
}

/* repr(float): positional between 1e-4 and 1e16, with ".0" on whole numbers. */
Text jj_float_repr(double f, char buf[40])
{
    char digits[20];
    if (!isfinite(f)) {
        snprintf(buf, 40, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return (Text){buf, strlen(buf)};
    }
    int exponent = shortest(fabs(f), digits), n = (int)strlen(digits);
    const char *sign = signbit(f) ? "-" : "";
    if (exponent < -4 || exponent >= 16)
        snprintf(buf, 40, "%s%c%s%se%+03d", sign, digits[0], n > 1 ? "." : "", digits + 1, exponent);
    else if (exponent < 0)
        snprintf(buf, 40, "%s0.%.*s%s", sign, -exponent - 1, "0000", digits);
    else if (n <= exponent + 1)
        snprintf(buf, 40, "%s%s%.*s.0", sign, digits, exponent + 1 - n, "0000000000000000");
    else
        snprintf(buf, 40, "%s%.*s.%s", sign, exponent + 1, digits, digits + exponent + 1);
    return (Text){buf, strlen(buf)};
}

/* ---- repr -------------------------------------------------------------------------------------------------------- */

static void put_escaped_cp(Out *o, uint32_t cp)
{
    char escape[12];
    snprintf(escape, sizeof escape, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
    out_puts(o, escape);
}

static void repr_str(Out *o, Text t)
{
    char quote = memchr(t.s, '\'', t.n) && !memchr(t.s, '"', t.n) ? '"' : '\'';
    jj_spend(o->r, t.n);
    out_put(o, &quote, 1);
    for (size_t i = 0, n; i < t.n; i += n) {
        uint32_t cp;
        n = utf8_decode(t.s + i, t.n - i, &cp);
        if (cp == (uint32_t)quote || cp == '\\')
            out_puts(o, "\\");
        if (cp == '\n' || cp == '\r' || cp == '\t')
            out_puts(o, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t");
        else if (jj_is_printable(cp))
            out_put(o, t.s + i, n);
        else
            put_escaped_cp(o, cp);
    }
    out_put(o, &quote, 1);
}

static void repr_list(Out *o, const List *l, const char *open, const char *close)
{
    out_puts(o, open);
    for (size_t i = 0; i < l->n; i++) {
        if (i)
            out_puts(o, ", ");
        jj_repr(o, l->at[i]);
    }
    out_puts(o, close);
}

static void repr_dict(Out *o, const Dict *d)
{
    out_puts(o, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i)
            out_puts(o, ", ");
        jj_repr(o, d->keys[i]);
        out_puts(o, ": ");
        jj_repr(o, d->values[i]);
    }
    out_puts(o, "}");
}

static void print_int(Out *o, int64_t i)
{
    char s[24];
    snprintf(s, sizeof s, "%lld", (long long)i);
    out_puts(o, s);
}

static void repr_range(Out *o, const Range *range)
{
    out_puts(o, "range(");
    print_int(o, range->start);
    out_puts(o, ", ");
    print_int(o, range->stop);
    if (range->step != 1) {
        out_puts(o, ", ");
        print_int(o, range->step);
    }
    out_puts(o, ")");
}

static void repr_view(Out *o, Value v)
{
    out_puts(o, jj_type(v));
    repr_list(o, jj_items(o->r, v), "([", "])");
}

static void repr(Out *o, Value v)
{
    char number[40];
    switch ((Kind)v.kind) {
    case V_ABSENT: case V_UNDEFINED: out_puts(o, "Undefined"); return;
    case V_NONE: out_puts(o, "None"); return;
    case V_BOOL: out_puts(o, v.b ? "True" : "False"); return;
    case V_INT: print_int(o, v.i); return;
    case V_FLOAT: out_text(o, jj_float_repr(v.f, number)); return;
    case V_STR:
        out_puts(o, v.tag ? "Markup(" : "");
        repr_str(o, v.text);
        out_puts(o, v.tag ? ")" : "");
        return;
    case V_LIST: repr_list(o, v.list, "[", "]"); return;
    case V_TUPLE: repr_list(o, v.list, "(", v.list->n == 1 ? ",)" : ")"); return;
    case V_DICT: repr_dict(o, v.dict); return;
    case V_RANGE: repr_range(o, v.range); return;
    case V_VIEW: repr_view(o, v); return;
    case V_NAMESPACE:
        out_puts(o, "<Namespace ");
        repr_dict(o, v.dict);
        out_puts(o, ">");
        return;
    case V_ITER: case V_LOOP: case V_MACRO: case V_FUNC: case V_METHOD:
        out_puts(o, "<");
        out_puts(o, jj_type(v));
        out_puts(o, ">");
        return;
    }
}

void jj_repr(Out *o, Value v)
{
    jj_spend(o->r, 0);
    jj_enter(o->r);
    repr(o, v);
    o->r->depth--;
}

void jj_print(Out *o, Value v)
{
    if (v.kind == V_UNDEFINED)
        return;
    if (v.kind != V_STR) {
        jj_repr(o, v);
        return;
    }
    jj_spend(o->r, v.text.n);
    out_text(o, v.text);
}

Text jj_str(Render *r, Value v)
{
    if (v.kind == V_STR)
        return v.text;
    Out o = {.r = r};
    jj_print(&o, v);
    return out_done(&o);
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static void json_cp(Out *o, uint32_t cp, bool ascii)
{
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    const char *simple = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
    char escape[16];
    if (simple)
        snprintf(escape, sizeof escape, "\\%c", to[simple - from]);
    else if (cp >= 0x10000 && ascii)
        snprintf(escape, sizeof escape, "\\u%04x\\u%04x", 0xD800 + ((cp - 0x10000) >> 10), 0xDC00 + (cp & 0x3FF));
    else if (cp < 0x20 || (cp >= 0x7F && ascii))
        snprintf(escape, sizeof escape, "\\u%04x", cp);
    else {
        out_cp(o, cp);
        return;
    }
    out_puts(o, escape);
}

static void json_str(Out *o, Text t, bool ascii)
{
    jj_spend(o->r, t.n);
    out_puts(o, "\"");
    for (size_t i = 0; i < t.n;) {
        uint32_t cp;
        i += utf8_decode(t.s + i, t.n - i, &cp);
        json_cp(o, cp, ascii);
    }
    out_puts(o, "\"");
}

static void json_float(Out *o, double f)
{
    char number[40];
    if (isfinite(f))
        out_text(o, jj_float_repr(f, number));
    else
        out_puts(o, isnan(f) ? "NaN" : f < 0 ? "-Infinity" : "Infinity");
}

static void json_break(Out *o, const JsonStyle *style, int level)
{
    if (!style->indented)
        return;
    out_puts(o, "\n");
    for (int i = 0; i < level; i++)
        out_text(o, style->indent);
}

/* Keys may be strings, numbers, booleans and None. */
static void json_key(Out *o, Value key, const JsonStyle *style)
{
    if (key.kind == V_STR) {
        json_str(o, key.text, style->ensure_ascii);
        return;
    }
    if (key.kind != V_NONE && key.kind != V_BOOL && key.kind != V_INT && key.kind != V_FLOAT)
        jj_fail(o->r, "tojson: the keys of a dict must be strings or numbers, not %s", jj_type(key));
    out_puts(o, "\"");
    jj_json(o, key, style, 0);
    out_puts(o, "\"");
}

static const Dict *sorted_dict(Render *r, const Dict *d)
{
    const List *order = jj_sorted(r, jj_items(r, v_dict((Dict *)d)), NULL, false);
    Dict *sorted = jj_dict(r);
    for (size_t i = 0; i < order->n; i++)
        jj_dict_set(r, sorted, order->at[i], *jj_dict_get(r, d, order->at[i]));
    return sorted;
}

static void json_dict(Out *o, const Dict *d, const JsonStyle *style, int level)
{
    if (style->sort_keys)
        d = sorted_dict(o->r, d);
    out_puts(o, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i)
            out_text(o, style->item_separator);
        json_break(o, style, level + 1);
        json_key(o, d->keys[i], style);
        out_text(o, style->key_separator);
        jj_json(o, d->values[i], style, level + 1);
    }
    if (d->n)
        json_break(o, style, level);
    out_puts(o, "}");
}

static void json_list(Out *o, const List *l, const JsonStyle *style, int level)
{
    out_puts(o, "[");
    for (size_t i = 0; i < l->n; i++) {
        if (i)
            out_text(o, style->item_separator);
        json_break(o, style, level + 1);
        jj_json(o, l->at[i], style, level + 1);
    }
    if (l->n)
        json_break(o, style, level);
    out_puts(o, "]");
}

void jj_json(Out *o, Value v, const JsonStyle *style, int level)
{
    jj_spend(o->r, 0);
    jj_enter(o->r);
    switch (v.kind) {
    case V_NONE: out_puts(o, "null"); break;
    case V_BOOL: out_puts(o, v.b ? "true" : "false"); break;
    case V_INT: print_int(o, v.i); break;
    case V_FLOAT: json_float(o, v.f); break;
    case V_STR: json_str(o, v.text, style->ensure_ascii); break;
    case V_LIST: case V_TUPLE: json_list(o, v.list, style, level); break;
    case V_DICT: json_dict(o, v.dict, style, level); break;
    case V_UNDEFINED: jj_fail_undefined(o->r, v);
    default: jj_fail(o->r, "tojson: a %s cannot be written as JSON", jj_type(v));
    }
    o->r->depth--;
}
