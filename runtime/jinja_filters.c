/* jinja_filters.c - owns the filters on numbers and text, and the lookup of all: `value | name(arguments)`. Each takes
 * the value as self; the filters on collections are in jinja_collect.c. */
#include <math.h>

#include "jinja_int.h"

static Value unsupported(Render *r, Value self, const Args *args)
{
    (void)self, (void)args;
    jj_fail(r, "this filter is not supported in chat templates");
}

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

static Value f_abs(Render *r, Value self, const Args *args)
{
    (void)args;
    int64_t i;
    if (jj_integer(self, &i))
        return jj_negate(r, v_int(i), i < 0);
    return self.kind == V_FLOAT ? v_float(fabs(self.f)) : jj_negate(r, self, true);
}

static Value int_from_float(Render *r, double f, Value otherwise, bool strict)
{
    if (isnan(f) || (isinf(f) && !strict))
        return otherwise;
    if (!(fabs(f) < 9223372036854775808.0))
        jj_fail(r, "int: the number does not fit in 64 bits");
    return v_int((int64_t)f);
}

static Value f_int(Render *r, Value self, const Args *args)
{
    int64_t i;
    double f;
    Value otherwise = args->at[0].kind == V_ABSENT ? v_int(0) : args->at[0];
    if (self.kind == V_UNDEFINED)
        jj_fail_undefined(r, self);
    if (jj_integer(self, &i))
        return v_int(i);
    if (self.kind == V_FLOAT)
        return int_from_float(r, self.f, otherwise, true);
    int64_t base = arg_int(r, args, 1, 10);
    if (base != 0 && (base < 2 || base > 36))
        return otherwise;
    if (self.kind == V_STR && jj_parse_int(self.text, (int)base, &i))
        return v_int(i);
    return self.kind == V_STR && jj_parse_float(self.text, &f) ? int_from_float(r, f, otherwise, false) : otherwise;
}

static Value f_float(Render *r, Value self, const Args *args)
{
    double f;
    if (self.kind == V_UNDEFINED)
        jj_fail_undefined(r, self);
    if (jj_number(self, &f) || (self.kind == V_STR && jj_parse_float(self.text, &f)))
        return v_float(f);
    return args->at[0].kind == V_ABSENT ? v_float(0) : args->at[0];
}

static Value f_round(Render *r, Value self, const Args *args)
{
    int64_t digits = arg_int(r, args, 0, 0);
    Text method = arg_str(r, args, 1, "common");
    double f;
    if (text_is(method, "common"))
        return jj_round(r, self, digits);
    if (!text_is(method, "ceil") && !text_is(method, "floor"))
        jj_fail(r, "round: method must be common, ceil or floor");
    if (!jj_number(self, &f) || digits < -300 || digits > 300)
        jj_fail(r, "round: the value must be a number, and the precision small");
    double unit = pow(10, (double)digits), scaled = f * unit;
    return v_float((text_is(method, "ceil") ? ceil(scaled) : floor(scaled)) / unit);
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

/* Keeps the mark of `safe` on what stays text. */
static Value like(Value self, Text t)
{
    Value v = v_str(t);
    v.tag = self.kind == V_STR ? self.tag : 0;
    return v;
}

static Value f_string(Render *r, Value self, const Args *args)
{
    (void)args;
    return like(self, jj_str(r, self));
}

static Value f_safe(Render *r, Value self, const Args *args)
{
    (void)args;
    Value v = v_str(jj_str(r, self));
    v.tag = 1;
    return v;
}

static Value f_forceescape(Render *r, Value self, const Args *args)
{
    (void)args;
    return f_safe(r, v_str(jj_escape_html(r, jj_str(r, self))), args);
}

static Value f_escape(Render *r, Value self, const Args *args)
{
    return self.kind == V_STR && self.tag ? self : f_forceescape(r, self, args);
}

static Value f_upper(Render *r, Value self, const Args *args)
{
    (void)args;
    return like(self, jj_case(r, jj_str(r, self), CASE_UPPER));
}

static Value f_lower(Render *r, Value self, const Args *args)
{
    (void)args;
    return like(self, jj_case(r, jj_str(r, self), CASE_LOWER));
}

static Value f_capitalize(Render *r, Value self, const Args *args)
{
    (void)args;
    return like(self, jj_case(r, jj_str(r, self), CASE_CAPITALIZE));
}

static bool separates_words(uint32_t cp)
{
    return jj_is_space(cp) || cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<';
}

/* Unlike str.title(): words are what stands between white space and opening brackets. */
static Value f_title(Render *r, Value self, const Args *args)
{
    (void)args;
    Text t = jj_str(r, self);
    Out o = {.r = r};
    for (size_t i = 0, n; i < t.n; i += n) {
        uint32_t cp;
        n = utf8_decode(t.s + i, t.n - i, &cp);
        out_text(&o, jj_case(r, (Text){t.s + i, n}, CASE_UPPER));
        if (separates_words(cp))
            continue;
        size_t start = i + n, end = start, step;
        for (; end < t.n; end += step) {
            step = utf8_decode(t.s + end, t.n - end, &cp);
            if (separates_words(cp))
                break;
        }
        out_text(&o, jj_case(r, (Text){t.s + start, end - start}, CASE_LOWER));
        n = end - i;
    }
    return like(self, out_done(&o));
}

static Value f_trim(Render *r, Value self, const Args *args)
{
    Text t = jj_str(r, self), chars;
    if (!arg_given(args, 0))
        return like(self, jj_strip(t, NULL, true, true));
    chars = arg_str(r, args, 0, NULL);
    jj_spend(r, t.n * MAX(chars.n, (size_t)1));
    return like(self, jj_strip(t, &chars, true, true));
}

static Value f_replace(Render *r, Value self, const Args *args)
{
    Text old = jj_str(r, args->at[0]), new = jj_str(r, args->at[1]);
    return v_str(jj_replace(r, jj_str(r, self), old, new, arg_int(r, args, 2, -1)));
}

static Text need_str(Render *r, Value v)
{
    if (v.kind == V_UNDEFINED)
        jj_fail_undefined(r, v);
    if (v.kind != V_STR)
        jj_fail(r, "expected a string, not %s", jj_type(v));
    return v.text;
}

static Text indentation(Render *r, Value width, int64_t otherwise)
{
    int64_t n = otherwise;
    if (width.kind == V_STR)
        return width.text;
    if (width.kind != V_ABSENT && !jj_integer(width, &n))
        jj_fail(r, "the width of an indentation must be an integer or a string, not %s", jj_type(width));
    Out o = {.r = r};
    out_repeat(&o, ' ', (size_t)MAX(n, 0));
    return out_done(&o);
}

static Value f_indent(Render *r, Value self, const Args *args)
{
    Text indent = indentation(r, args->at[0], 4);
    bool first = arg_bool(r, args, 1), blank = arg_bool(r, args, 2);
    Out closed = {.r = r}, o = {.r = r}; /* a newline more, so that an empty last line counts */
    out_text(&closed, need_str(r, self));
    out_puts(&closed, "\n");
    const List *lines = jj_splitlines(r, out_done(&closed), false);
    for (size_t i = 0; i < lines->n; i++) {
        Text line = lines->at[i].text;
        if (i)
            out_puts(&o, "\n");
        if (i ? blank || line.n : first)
            out_text(&o, indent);
        out_text(&o, line);
    }
    return v_str(out_done(&o));
}

static Value f_truncate(Render *r, Value self, const Args *args)
{
    Text end = arg_str(r, args, 2, "..."), space = TEXT(" ");
    int64_t length = arg_int(r, args, 0, 255), leeway = arg_int(r, args, 3, 5);
    int64_t room = length - (int64_t)jj_cp_count(end);
    if (room < 0 || leeway < 0)
        jj_fail(r, "truncate: the length must hold the end, and the leeway must not be negative");
    if (jj_length(r, self) - leeway <= length) /* of anything that has a length */
        return self;
    Text t = need_str(r, self);
    t.n = jj_cp_offset(t, (size_t)room);
    if (!arg_bool(r, args, 1))
        t = jj_split(r, t, &space, 1, true)->at[0].text;
    Out o = {.r = r};
    out_text(&o, t);
    out_text(&o, end);
    return v_str(out_done(&o));
}

static Value f_center(Render *r, Value self, const Args *args)
{
    return v_str(jj_pad(r, jj_str(r, self), arg_int(r, args, 0, 80), ' ', '^'));
}

static Value f_wordcount(Render *r, Value self, const Args *args)
{
    (void)args;
    Text t = jj_str(r, self);
    int64_t words = 0;
    bool inside = false;
    jj_spend(r, t.n);
    for (size_t i = 0; i < t.n;) {
        uint32_t cp;
        i += utf8_decode(t.s + i, t.n - i, &cp);
        words += !inside && jj_is_word(cp);
        inside = jj_is_word(cp);
    }
    return v_int(words);
}

static Value f_urlencode(Render *r, Value self, const Args *args)
{
    (void)args;
    if (self.kind != V_STR && self.kind != V_UNDEFINED && jj_iterable(self))
        jj_fail(r, "urlencode is supported for strings only");
    Text t = jj_str(r, self);
    Out o = {.r = r};
    for (size_t i = 0; i < t.n; i++) {
        unsigned char c = (unsigned char)t.s[i];
        char escape[4] = {'%', "0123456789ABCDEF"[c >> 4], "0123456789ABCDEF"[c & 15], 0};
        bool plain = c < 0x80 && (jj_is_word(c) || strchr("-.~/", c)) && c;
        out_put(&o, plain ? &t.s[i] : escape, plain ? 1 : 3);
    }
    return v_str(out_done(&o));
}

static Value f_format(Render *r, Value self, const Args *args)
{
    if (args->n && args->n_named)
        jj_fail(r, "format cannot take positional and keyword arguments at once");
    Value values;
    if (args->n_named) {
        Dict *d = jj_dict(r);
        for (size_t i = 0; i < args->n_named; i++)
            jj_dict_set(r, d, v_str(args->names[i]), args->named[i]);
        values = v_dict(d);
    } else {
        List *l = jj_list(r, args->n);
        if (l->n)
            memcpy(l->at, args->at, l->n * sizeof *l->at);
        values = v_tuple(l);
    }
    return v_str(jj_format_percent(r, jj_str(r, self), values));
}

static Value f_default(Render *r, Value self, const Args *args)
{
    if (self.kind != V_UNDEFINED && !(arg_bool(r, args, 1) && !jj_truth(r, self)))
        return self;
    return args->at[0].kind == V_ABSENT ? v_str(TEXT("")) : args->at[0];
}

static Value f_attr(Render *r, Value self, const Args *args)
{
    Text name = arg_str(r, args, 0, NULL);
    if (self.kind == V_UNDEFINED)
        jj_fail_undefined(r, self);
    Value v = jj_own_attr(r, self, name);
    return v.kind != V_ABSENT ? v : (Value){.kind = V_UNDEFINED, .tag = UNDEF_ATTR, .owner = self.kind, .text = name};
}

/* As transformers defines it: json.dumps(value, ensure_ascii, indent, separators, sort_keys). */
static Value f_tojson(Render *r, Value self, const Args *args)
{
    JsonStyle style = {.ensure_ascii = arg_bool(r, args, 0), .indented = arg_given(args, 1),
                       .sort_keys = arg_bool(r, args, 3), .key_separator = TEXT(": ")};
    style.item_separator = style.indented ? TEXT(",") : TEXT(", ");
    if (style.indented)
        style.indent = indentation(r, args->at[1], 0);
    if (arg_given(args, 2)) {
        const List *pair = jj_items(r, args->at[2]);
        if (pair->n != 2)
            jj_fail(r, "tojson: separators must be a pair of strings");
        style.item_separator = need_str(r, pair->at[0]);
        style.key_separator = need_str(r, pair->at[1]);
    }
    Out o = {.r = r};
    jj_json(&o, self, &style, 0);
    return v_str(out_done(&o));
}

static const Builtin filters[] = {
    {"abs", f_abs, ""}, {"attr", f_attr, "name"}, {"capitalize", f_capitalize, ""}, {"center", f_center, "width?"},
    {"d", f_default, "default_value?,boolean?"}, {"default", f_default, "default_value?,boolean?"},
    {"e", f_escape, ""}, {"escape", f_escape, ""}, {"filesizeformat", unsupported, NULL},
    {"float", f_float, "default?"}, {"forceescape", f_forceescape, ""}, {"format", f_format, NULL},
    {"indent", f_indent, "width?,first?,blank?"}, {"int", f_int, "default?,base?"}, {"lower", f_lower, ""},
    {"pprint", unsupported, NULL}, {"random", unsupported, NULL}, {"replace", f_replace, "old,new,count?"},
    {"round", f_round, "precision?,method?"}, {"safe", f_safe, ""}, {"string", f_string, ""},
    {"striptags", unsupported, NULL}, {"title", f_title, ""},
    {"tojson", f_tojson, "ensure_ascii?,indent?,separators?,sort_keys?"}, {"trim", f_trim, "chars?"},
    {"truncate", f_truncate, "length?,killwords?,end?,leeway?"}, {"upper", f_upper, ""},
    {"urlencode", f_urlencode, ""}, {"urlize", unsupported, NULL}, {"wordcount", f_wordcount, ""},
    {"wordwrap", unsupported, NULL}, {"xmlattr", unsupported, NULL},
};

const Builtin *jj_filter(Text name)
{
    const Builtin *filter = jj_find_builtin(filters, COUNT(filters), name);
    return filter ? filter : jj_collection_filter(name);
}
