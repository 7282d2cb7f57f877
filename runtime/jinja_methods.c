/* jinja_methods.c - owns the methods of str, list, tuple and dict, and the lookup of builtins in tables. */
#include "jinja_int.h"

const Builtin *jj_find_builtin(const Builtin *table, size_t n, Text name)
{
    for (size_t i = 0; i < n; i++)
        if (text_is(name, table[i].name))
            return &table[i];
    return NULL;
}

static bool in_words(Text name, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (text_is(name, words[i]))
            return true;
    return false;
}

bool jj_mutates(Value v, Text name)
{
    static const char *const list[] = {"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"};
    static const char *const dict[] = {"clear", "pop", "popitem", "setdefault", "update"};
    return v.kind == V_LIST ? in_words(name, list, COUNT(list)) : v.kind == V_DICT && in_words(name, dict, COUNT(dict));
}

static Value unsupported(Render *r, Value self, const Args *args)
{
    (void)args;
    jj_fail(r, "this method of %s is not supported in chat templates", jj_type(self));
}

/* ---- str: search ------------------------------------------------------------------------------------------------- */

/* self[start:end] from the arguments at `at` and `at + 1`; false when start lies beyond the end of the text. */
static bool window(Render *r, Text t, const Args *args, size_t at, Text *part)
{
    int64_t n = (int64_t)jj_cp_count(t), start = arg_int(r, args, at, 0), end = arg_int(r, args, at + 1, n);
    jj_spend(r, t.n);
    start = start < 0 ? MAX(start + n, 0) : start;
    end = end < 0 ? MAX(end + n, 0) : MIN(end, n);
    if (start > n || start > end)
        return false;
    size_t from = jj_cp_offset(t, (size_t)start);
    *part = (Text){t.s + from, t.n - from};
    part->n = jj_cp_offset(*part, (size_t)(end - start));
    return true;
}

/* Index in code points of args[0] within the window; -1 when it is not there. */
static int64_t search(Render *r, Text t, const Args *args, bool last)
{
    Text part, sub = arg_str(r, args, 0, NULL);
    if (!window(r, t, args, 1, &part))
        return -1;
    size_t at = last ? jj_rfind(r, part, sub) : jj_find(part, sub, 0);
    return at == SIZE_MAX ? -1 : (int64_t)jj_cp_count((Text){t.s, (size_t)(part.s - t.s) + at});
}

static Value str_find(Render *r, Value self, const Args *args)
{
    return v_int(search(r, self.text, args, false));
}

static Value str_rfind(Render *r, Value self, const Args *args)
{
    return v_int(search(r, self.text, args, true));
}

static Value found(Render *r, int64_t at)
{
    if (at < 0)
        jj_fail(r, "substring not found");
    return v_int(at);
}

static Value str_index(Render *r, Value self, const Args *args)
{
    return found(r, search(r, self.text, args, false));
}

static Value str_rindex(Render *r, Value self, const Args *args)
{
    return found(r, search(r, self.text, args, true));
}

static Value str_count(Render *r, Value self, const Args *args)
{
    Text part, sub = arg_str(r, args, 0, NULL);
    if (!window(r, self.text, args, 1, &part))
        return v_int(0);
    if (!sub.n)
        return v_int((int64_t)jj_cp_count(part) + 1);
    int64_t n = 0;
    for (size_t at = 0; (at = jj_find(part, sub, at)) != SIZE_MAX; at += sub.n)
        n++;
    return v_int(n);
}

static bool has_affix(Text t, Text affix, bool at_end)
{
    return affix.n <= t.n && !memcmp(at_end ? t.s + t.n - affix.n : t.s, affix.s, affix.n);
}

/* startswith, endswith: one affix or a tuple of them. */
static Value affix_test(Render *r, Value self, const Args *args, bool at_end)
{
    Text part;
    List *single = jj_list(r, 1);
    single->at[0] = args->at[0];
    const List *affixes = args->at[0].kind == V_TUPLE ? args->at[0].list : single;
    bool inside = window(r, self.text, args, 1, &part), yes = false;
    for (size_t i = 0; i < affixes->n; i++) {
        if (affixes->at[i].kind == V_UNDEFINED)
            jj_fail_undefined(r, affixes->at[i]);
        if (affixes->at[i].kind != V_STR)
            jj_fail(r, "%s needs a string or a tuple of strings, not %s", at_end ? "endswith" : "startswith",
                    jj_type(affixes->at[i]));
        yes = yes || (inside && has_affix(part, affixes->at[i].text, at_end));
    }
    return v_bool(yes);
}

static Value str_startswith(Render *r, Value self, const Args *args)
{
    return affix_test(r, self, args, false);
}

static Value str_endswith(Render *r, Value self, const Args *args)
{
    return affix_test(r, self, args, true);
}

/* ---- str: cutting ------------------------------------------------------------------------------------------------ */

static Value strip(Render *r, Value self, const Args *args, bool left, bool right)
{
    if (!arg_given(args, 0) && args->at[0].kind != V_UNDEFINED)
        return v_str(jj_strip(self.text, NULL, left, right));
    Text chars = arg_str(r, args, 0, NULL);
    jj_spend(r, self.text.n * MAX(chars.n, (size_t)1));
    return v_str(jj_strip(self.text, &chars, left, right));
}

static Value str_strip(Render *r, Value self, const Args *args)
{
    return strip(r, self, args, true, true);
}

static Value str_lstrip(Render *r, Value self, const Args *args)
{
    return strip(r, self, args, true, false);
}

static Value str_rstrip(Render *r, Value self, const Args *args)
{
    return strip(r, self, args, false, true);
}

static Text separator(Render *r, const Args *args)
{
    Text sep = arg_str(r, args, 0, NULL);
    if (!sep.n)
        jj_fail(r, "empty separator");
    return sep;
}

static Value split(Render *r, Value self, const Args *args, bool from_right)
{
    int64_t max = arg_int(r, args, 1, -1);
    if (!arg_given(args, 0) && args->at[0].kind != V_UNDEFINED)
        return v_list(jj_split(r, self.text, NULL, max, from_right));
    Text sep = separator(r, args);
    return v_list(jj_split(r, self.text, &sep, max, from_right));
}

static Value str_split(Render *r, Value self, const Args *args)
{
    return split(r, self, args, false);
}

static Value str_rsplit(Render *r, Value self, const Args *args)
{
    return split(r, self, args, true);
}

static Value str_splitlines(Render *r, Value self, const Args *args)
{
    return v_list(jj_splitlines(r, self.text, arg_bool(r, args, 0)));
}

static Value triple(Render *r, Text a, Text b, Text c)
{
    List *l = jj_list(r, 3);
    l->at[0] = v_str(a);
    l->at[1] = v_str(b);
    l->at[2] = v_str(c);
    return v_tuple(l);
}

static Value str_partition(Render *r, Value self, const Args *args)
{
    Text t = self.text, sep = separator(r, args);
    size_t at = jj_find(t, sep, 0);
    jj_spend(r, t.n);
    if (at == SIZE_MAX)
        return triple(r, t, TEXT(""), TEXT(""));
    return triple(r, (Text){t.s, at}, sep, (Text){t.s + at + sep.n, t.n - at - sep.n});
}

static Value str_rpartition(Render *r, Value self, const Args *args)
{
    Text t = self.text, sep = separator(r, args);
    size_t at = jj_rfind(r, t, sep);
    if (at == SIZE_MAX)
        return triple(r, TEXT(""), TEXT(""), t);
    return triple(r, (Text){t.s, at}, sep, (Text){t.s + at + sep.n, t.n - at - sep.n});
}

static Value str_removeprefix(Render *r, Value self, const Args *args)
{
    Text t = self.text, affix = arg_str(r, args, 0, NULL);
    return v_str(has_affix(t, affix, false) ? (Text){t.s + affix.n, t.n - affix.n} : t);
}

static Value str_removesuffix(Render *r, Value self, const Args *args)
{
    Text t = self.text, affix = arg_str(r, args, 0, NULL);
    return v_str(has_affix(t, affix, true) ? (Text){t.s, t.n - affix.n} : t);
}

/* ---- str: building ----------------------------------------------------------------------------------------------- */

static Value str_replace(Render *r, Value self, const Args *args)
{
    Text old = arg_str(r, args, 0, NULL), new = arg_str(r, args, 1, NULL);
    return v_str(jj_replace(r, self.text, old, new, arg_int(r, args, 2, -1)));
}

static Value str_join(Render *r, Value self, const Args *args)
{
    return v_str(jj_join(r, self.text, jj_items(r, args->at[0]), true));
}

static Value str_format(Render *r, Value self, const Args *args)
{
    return v_str(jj_format_braces(r, self.text, args));
}

static Value pad(Render *r, Value self, const Args *args, char align)
{
    Text fill = arg_str(r, args, 1, " ");
    uint32_t cp = ' ';
    if (!fill.n || utf8_decode(fill.s, fill.n, &cp) != fill.n)
        jj_fail(r, "the fill character must be exactly one character");
    return v_str(jj_pad(r, self.text, arg_int(r, args, 0, 0), cp, align));
}

static Value str_ljust(Render *r, Value self, const Args *args)
{
    return pad(r, self, args, '<');
}

static Value str_rjust(Render *r, Value self, const Args *args)
{
    return pad(r, self, args, '>');
}

static Value str_center(Render *r, Value self, const Args *args)
{
    return pad(r, self, args, '^');
}

static Value str_zfill(Render *r, Value self, const Args *args)
{
    Text t = self.text, sign = {t.s, t.n && (t.s[0] == '+' || t.s[0] == '-')};
    Text digits = {t.s + sign.n, t.n - sign.n};
    Out o = {.r = r};
    out_text(&o, sign);
    out_text(&o, jj_pad(r, digits, arg_int(r, args, 0, 0) - (int64_t)sign.n, '0', '>'));
    return v_str(out_done(&o));
}

#define CASE_METHOD(name, to)                                              \
    static Value str_##name(Render *r, Value self, const Args *args)       \
    {                                                                      \
        (void)args;                                                        \
        return v_str(jj_case(r, self.text, to));                           \
    }
CASE_METHOD(upper, CASE_UPPER)
CASE_METHOD(lower, CASE_LOWER)
CASE_METHOD(casefold, CASE_FOLD)
CASE_METHOD(title, CASE_TITLE)
CASE_METHOD(capitalize, CASE_CAPITALIZE)
CASE_METHOD(swapcase, CASE_SWAP)

#define CLASS_METHOD(name)                                                 \
    static Value str_is##name(Render *r, Value self, const Args *args)     \
    {                                                                      \
        (void)args;                                                        \
        jj_spend(r, self.text.n);                                          \
        return v_bool(jj_is_class(self.text, #name));                      \
    }
CLASS_METHOD(alpha)
CLASS_METHOD(digit)
CLASS_METHOD(alnum)
CLASS_METHOD(space)
CLASS_METHOD(decimal)
CLASS_METHOD(numeric)
CLASS_METHOD(ascii)
CLASS_METHOD(printable)
CLASS_METHOD(upper)
CLASS_METHOD(lower)
CLASS_METHOD(title)

static const Builtin str_methods[] = {
    {"capitalize", str_capitalize, ""}, {"casefold", str_casefold, ""}, {"center", str_center, "width,fillchar?"},
    {"count", str_count, "sub,start?,end?"}, {"encode", unsupported, NULL},
    {"endswith", str_endswith, "suffix,start?,end?"}, {"expandtabs", unsupported, NULL},
    {"find", str_find, "sub,start?,end?"}, {"format", str_format, NULL}, {"format_map", unsupported, NULL},
    {"index", str_index, "sub,start?,end?"}, {"isalnum", str_isalnum, ""}, {"isalpha", str_isalpha, ""},
    {"isascii", str_isascii, ""}, {"isdecimal", str_isdecimal, ""}, {"isdigit", str_isdigit, ""},
    {"isidentifier", unsupported, NULL}, {"islower", str_islower, ""}, {"isnumeric", str_isnumeric, ""},
    {"isprintable", str_isprintable, ""}, {"isspace", str_isspace, ""}, {"istitle", str_istitle, ""},
    {"isupper", str_isupper, ""}, {"join", str_join, "iterable"}, {"ljust", str_ljust, "width,fillchar?"},
    {"lower", str_lower, ""}, {"lstrip", str_lstrip, "chars?"}, {"maketrans", unsupported, NULL},
    {"partition", str_partition, "sep"}, {"removeprefix", str_removeprefix, "prefix"},
    {"removesuffix", str_removesuffix, "suffix"}, {"replace", str_replace, "old,new,count?"},
    {"rfind", str_rfind, "sub,start?,end?"}, {"rindex", str_rindex, "sub,start?,end?"},
    {"rjust", str_rjust, "width,fillchar?"}, {"rpartition", str_rpartition, "sep"},
    {"rsplit", str_rsplit, "sep?,maxsplit?"}, {"rstrip", str_rstrip, "chars?"}, {"split", str_split, "sep?,maxsplit?"},
    {"splitlines", str_splitlines, "keepends?"}, {"startswith", str_startswith, "prefix,start?,end?"},
    {"strip", str_strip, "chars?"}, {"swapcase", str_swapcase, ""}, {"title", str_title, ""},
    {"translate", unsupported, NULL}, {"upper", str_upper, ""}, {"zfill", str_zfill, "width"},
};

const Builtin *jj_str_method(Text name)
{
    return jj_find_builtin(str_methods, COUNT(str_methods), name);
}

/* ---- list, tuple ------------------------------------------------------------------------------------------------- */

static Value list_count(Render *r, Value self, const Args *args)
{
    int64_t n = 0;
    for (size_t i = 0; i < self.list->n; i++)
        n += jj_equal(r, self.list->at[i], args->at[0]);
    return v_int(n);
}

static Value list_index(Render *r, Value self, const Args *args)
{
    int64_t n = (int64_t)self.list->n, start = arg_int(r, args, 1, 0), end = arg_int(r, args, 2, n);
    start = start < 0 ? MAX(start + n, 0) : start;
    end = end < 0 ? end + n : MIN(end, n);
    for (int64_t i = start; i < end; i++)
        if (jj_equal(r, self.list->at[i], args->at[0]))
            return v_int(i);
    jj_fail(r, "index(): the value is not in the %s", jj_type(self));
}

static Value copy(Render *r, Value self, const Args *args)
{
    (void)r, (void)args; /* values are immutable */
    return self;
}

static const Builtin list_methods[] = {
    {"count", list_count, "value"}, {"index", list_index, "value,start?,stop?"}, {"copy", copy, ""}};

const Builtin *jj_list_method(Text name)
{
    return jj_find_builtin(list_methods, COUNT(list_methods), name);
}

/* ---- dict -------------------------------------------------------------------------------------------------------- */

static Value dict_get(Render *r, Value self, const Args *args)
{
    const Value *v = jj_dict_get(r, self.dict, args->at[0]);
    return v ? *v : args->at[1].kind == V_ABSENT ? v_none() : args->at[1];
}

static Value view(Value self, uint8_t what)
{
    return (Value){.kind = V_VIEW, .tag = what, .dict = self.dict};
}

static Value dict_keys(Render *r, Value self, const Args *args)
{
    (void)r, (void)args;
    return view(self, VIEW_KEYS);
}

static Value dict_values(Render *r, Value self, const Args *args)
{
    (void)r, (void)args;
    return view(self, VIEW_VALUES);
}

static Value dict_items(Render *r, Value self, const Args *args)
{
    (void)r, (void)args;
    return view(self, VIEW_ITEMS);
}

static const Builtin dict_methods[] = {
    {"copy", copy, ""}, {"fromkeys", unsupported, NULL}, {"get", dict_get, "key,default?"},
    {"items", dict_items, ""}, {"keys", dict_keys, ""}, {"values", dict_values, ""}};

const Builtin *jj_dict_method(Text name)
{
    return jj_find_builtin(dict_methods, COUNT(dict_methods), name);
}
