/* jinja_value.c - owns the values of a render: memory and limits, construction, dicts, truth, equality, order,
 * iteration. */
#include <math.h>
#include <stdio.h>

#include "jinja_int.h"

/* ---- errors, limits, memory -------------------------------------------------------------------------------------- */

void jj_fail(Render *r, const char *format, ...)
{
    char message[1024];
    va_list ap;
    va_start(ap, format);
    vsnprintf(message, sizeof message, format, ap);
    va_end(ap);
    err_set(r->err, "line %d: %.*s", r->line, (int)utf8_complete(message, strlen(message)), message);
    longjmp(r->escape, 1);
}

void jj_spend(Render *r, size_t bytes)
{
    r->steps -= 1 + (long)(bytes / 64);
    if (r->steps < 0)
        jj_fail(r, "the template takes more than %ld steps (limit `steps`)", r->limits.steps);
}

void *jj_alloc(Render *r, size_t size)
{
    if (size > r->memory)
        jj_fail(r, "the template needs more than %zu bytes of memory (limit `memory`)", r->limits.memory);
    r->memory -= size + MIN(r->memory - size, (size_t)16);
    jj_spend(r, size / 4);
    return arena_alloc(r->arena, size);
}

void jj_enter(Render *r)
{
    if (++r->depth > r->limits.depth)
        jj_fail(r, "the template is nested more than %d deep when it runs (limit `depth`)", r->limits.depth);
}

void out_put(Out *o, const char *s, size_t n)
{
    if (o->cap - o->n < n) {
        if (n > o->r->limits.output - MIN(o->n, o->r->limits.output))
            jj_fail(o->r, "the template writes more than %zu bytes (limit `output`)", o->r->limits.output);
        size_t cap = MAX(o->cap * 2, MAX(o->n + n, (size_t)64));
        char *grown = jj_alloc(o->r, cap);
        if (o->n)
            memcpy(grown, o->s, o->n);
        o->s = grown;
        o->cap = cap;
    }
    if (n)
        memcpy(o->s + o->n, s, n);
    o->n += n;
}

void out_text(Out *o, Text t)
{
    out_put(o, t.s, t.n);
}

void out_puts(Out *o, const char *s)
{
    out_put(o, s, strlen(s));
}

void out_repeat(Out *o, char c, size_t n)
{
    jj_spend(o->r, n);
    while (n-- > 0)
        out_put(o, &c, 1);
}

void out_cp(Out *o, uint32_t cp)
{
    char utf8[4];
    out_put(o, utf8, utf8_encode(cp, utf8));
}

Text out_done(const Out *o)
{
    if (o->n > o->r->limits.output)
        jj_fail(o->r, "the template writes more than %zu bytes (limit `output`)", o->r->limits.output);
    return (Text){o->n ? o->s : "", o->n};
}

/* ---- construction ------------------------------------------------------------------------------------------------ */

List *jj_list(Render *r, size_t n)
{
    if (n > SIZE_MAX / 2 / sizeof(Value))
        jj_fail(r, "the template makes a list that is too long");
    List *l = jj_alloc(r, sizeof *l + n * sizeof(Value));
    l->n = n;
    return l;
}

Value jj_iter(Render *r, const List *l)
{
    Iter *it = jj_alloc(r, sizeof *it);
    it->list = l;
    return (Value){.kind = V_ITER, .iter = it};
}

Value jj_pair(Render *r, Value a, Value b)
{
    List *l = jj_list(r, 2);
    l->at[0] = a;
    l->at[1] = b;
    return v_tuple(l);
}

static Value list_from_json(Render *r, const json_t *json)
{
    List *l = jj_list(r, json_array_size(json));
    for (size_t i = 0; i < l->n; i++)
        l->at[i] = jj_from_json(r, json_array_get(json, i));
    return v_list(l);
}

static Value dict_from_json(Render *r, const json_t *json)
{
    Dict *d = jj_dict(r);
    const char *key;
    json_t *member;
    json_object_foreach((json_t *)json, key, member)
        jj_dict_set(r, d, v_str((Text){key, strlen(key)}), jj_from_json(r, member));
    return v_dict(d);
}

/* Strings stay where jansson has them: `json` must outlive the render. */
Value jj_from_json(Render *r, const json_t *json)
{
    Value v = v_none();
    jj_enter(r);
    switch (json ? json_typeof(json) : JSON_NULL) {
    case JSON_OBJECT: v = dict_from_json(r, json); break;
    case JSON_ARRAY: v = list_from_json(r, json); break;
    case JSON_STRING: v = v_str((Text){json_string_value(json), json_string_length(json)}); break;
    case JSON_INTEGER: v = v_int(json_integer_value(json)); break;
    case JSON_REAL: v = v_float(json_real_value(json)); break;
    case JSON_TRUE: v = v_bool(true); break;
    case JSON_FALSE: v = v_bool(false); break;
    case JSON_NULL: break;
    }
    r->depth--;
    return v;
}

/* ---- dicts ------------------------------------------------------------------------------------------------------- */

bool jj_hashable(Value v)
{
    if (v.kind == V_TUPLE)
        for (size_t i = 0; i < v.list->n; i++)
            if (!jj_hashable(v.list->at[i]))
                return false;
    return v.kind != V_LIST && v.kind != V_DICT && v.kind != V_VIEW;
}

/* Equal values hash alike: 1, 1.0 and true are one key. */
static uint64_t hash_value(Render *r, Value v)
{
    double f;
    uint64_t h = HASH_SEED;
    switch (v.kind) {
    case V_STR: jj_spend(r, v.text.n); return hash_bytes(h, v.text.s, v.text.n);
    case V_BOOL: case V_INT: case V_FLOAT:
        jj_number(v, &f);
        f = f == 0 || f != f ? 0 : f; /* -0.0 equals 0.0 */
        return hash_bytes(h, &f, sizeof f);
    case V_TUPLE:
        jj_enter(r);
        for (size_t i = 0; i < v.list->n; i++)
            h = hash_value(r, v.list->at[i]) * 31 + h;
        r->depth--;
        return h;
    case V_NONE: case V_UNDEFINED: return h + v.kind;
    }
    return hash_bytes(h, &v.list, sizeof v.list); /* by identity */
}

Dict *jj_dict(Render *r)
{
    return jj_alloc(r, sizeof(Dict));
}

/* The slot of `key` in the index: of the key itself or the free one where it belongs. */
static uint32_t *find_slot(Render *r, const Dict *d, Value key)
{
    size_t mask = d->cap * 2 - 1;
    for (size_t i = hash_value(r, key) & mask;; i = (i + 1) & mask) {
        uint32_t *slot = &d->index[i];
        if (!*slot || jj_equal(r, d->keys[*slot - 1], key))
            return slot;
    }
}

const Value *jj_dict_get(Render *r, const Dict *d, Value key)
{
    if (!jj_hashable(key))
        jj_fail(r, "a %s cannot be the key of a dict", jj_type(key));
    if (d->index) {
        uint32_t at = *find_slot(r, d, key);
        return at ? &d->values[at - 1] : NULL;
    }
    for (size_t i = 0; i < d->n; i++)
        if (jj_equal(r, d->keys[i], key))
            return &d->values[i];
    return NULL;
}

const Value *jj_dict_find(Render *r, const Dict *d, Text key)
{
    return jj_dict_get(r, d, v_str(key));
}

static Value *grown(Render *r, const Value *old, size_t n, size_t cap)
{
    Value *at = jj_alloc(r, cap * sizeof *at);
    if (n)
        memcpy(at, old, n * sizeof *at);
    return at;
}

static void dict_grow(Render *r, Dict *d)
{
    size_t cap = d->cap ? d->cap * 2 : 8;
    d->keys = grown(r, d->keys, d->n, cap);
    d->values = grown(r, d->values, d->n, cap);
    d->cap = cap;
    if (cap == 8)
        return;
    d->index = jj_alloc(r, cap * 2 * sizeof *d->index);
    for (size_t i = 0; i < d->n; i++)
        *find_slot(r, d, d->keys[i]) = (uint32_t)i + 1;
}

void jj_dict_set(Render *r, Dict *d, Value key, Value value)
{
    Value *old = (Value *)jj_dict_get(r, d, key);
    if (old) {
        *old = value;
        return;
    }
    if (d->n == d->cap)
        dict_grow(r, d);
    d->keys[d->n] = key;
    d->values[d->n++] = value;
    if (d->index)
        *find_slot(r, d, key) = (uint32_t)d->n;
}

/* ---- what all values can do -------------------------------------------------------------------------------------- */

const char *jj_type(Value v)
{
    switch ((Kind)v.kind) {
    case V_ABSENT: case V_UNDEFINED: return "Undefined";
    case V_NONE: return "NoneType";
    case V_BOOL: return "bool";
    case V_INT: return "int";
    case V_FLOAT: return "float";
    case V_STR: return "str";
    case V_LIST: return "list";
    case V_TUPLE: return "tuple";
    case V_DICT: return "dict";
    case V_RANGE: return "range";
    case V_VIEW: return v.tag == VIEW_KEYS ? "dict_keys" : v.tag == VIEW_VALUES ? "dict_values" : "dict_items";
    case V_ITER: return "generator";
    case V_NAMESPACE: return "Namespace";
    case V_LOOP: return "LoopContext";
    case V_MACRO: return "Macro";
    case V_FUNC: case V_METHOD: return "function";
    }
    return "object";
}

void jj_fail_undefined(Render *r, Value v)
{
    if (v.tag == UNDEF_NAME)
        jj_fail(r, "'%.*s' is undefined", TEXT_ARG(v.text));
    if (v.tag == UNDEF_ATTR)
        jj_fail(r, "'%s' has no attribute '%.*s'", jj_type((Value){.kind = v.owner}), TEXT_ARG(v.text));
    jj_fail(r, "%.*s", TEXT_ARG(v.text));
}

bool jj_truth(Render *r, Value v)
{
    switch ((Kind)v.kind) {
    case V_ABSENT: case V_UNDEFINED: case V_NONE: return false;
    case V_BOOL: return v.b;
    case V_INT: return v.i != 0;
    case V_FLOAT: return v.f != 0;
    case V_STR: return v.text.n != 0;
    case V_LIST: case V_TUPLE: case V_DICT: case V_RANGE: case V_VIEW: case V_LOOP: return jj_length(r, v) != 0;
    case V_ITER: case V_NAMESPACE: case V_MACRO: case V_FUNC: case V_METHOD: return true;
    }
    return true;
}

bool jj_integer(Value v, int64_t *i)
{
    *i = v.kind == V_INT ? v.i : v.kind == V_BOOL ? v.b : 0;
    return v.kind == V_INT || v.kind == V_BOOL;
}

bool jj_number(Value v, double *f)
{
    int64_t i;
    bool whole = jj_integer(v, &i);
    *f = whole ? (double)i : v.kind == V_FLOAT ? v.f : 0;
    return whole || v.kind == V_FLOAT;
}

/* Exact comparison of an integer with a float. */
static int compare_int_float(int64_t i, double f)
{
    if (f != f)
        return 2;
    if (f >= 9223372036854775808.0)
        return -1;
    if (f < -9223372036854775808.0)
        return 1;
    int64_t whole = (int64_t)f;
    double rest = f - (double)whole;
    return i != whole ? (i < whole ? -1 : 1) : rest > 0 ? -1 : rest < 0 ? 1 : 0;
}

static int compare_numbers(Value a, Value b)
{
    int64_t i, j;
    bool ai = jj_integer(a, &i), bi = jj_integer(b, &j);
    if (ai && bi)
        return i < j ? -1 : i > j;
    if (ai)
        return compare_int_float(i, b.f);
    if (bi) {
        int c = compare_int_float(j, a.f);
        return c == 2 ? 2 : -c;
    }
    return a.f < b.f ? -1 : a.f > b.f ? 1 : a.f == b.f ? 0 : 2;
}

static bool lists_equal(Render *r, const List *a, const List *b)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++)
        if (!jj_same(a->at[i], b->at[i]) && !jj_equal(r, a->at[i], b->at[i]))
            return false;
    return true;
}

static bool dicts_equal(Render *r, const Dict *a, const Dict *b)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++) {
        const Value *other = jj_dict_get(r, b, a->keys[i]);
        if (!other || !jj_equal(r, a->values[i], *other))
            return false;
    }
    return true;
}

static bool ranges_equal(const Range *a, const Range *b)
{
    return a->n == b->n && (!a->n || (a->start == b->start && (a->n == 1 || a->step == b->step)));
}

static bool views_equal(Render *r, Value a, Value b)
{
    if (a.tag != b.tag || a.tag == VIEW_VALUES || a.dict->n != b.dict->n)
        return a.tag == b.tag && a.dict == b.dict;
    for (size_t i = 0; i < a.dict->n; i++) {
        const Value *other = jj_dict_get(r, b.dict, a.dict->keys[i]);
        if (!other || (a.tag == VIEW_ITEMS && !jj_equal(r, a.dict->values[i], *other)))
            return false;
    }
    return true;
}

bool jj_same(Value a, Value b)
{
    if (a.kind != b.kind)
        return false;
    switch ((Kind)a.kind) {
    case V_ABSENT: case V_NONE: return true;
    case V_UNDEFINED: return false;
    case V_BOOL: return a.b == b.b;
    case V_INT: return a.i == b.i;
    case V_FLOAT: return false;
    case V_STR: return a.text.s == b.text.s && a.text.n == b.text.n;
    case V_METHOD: return false;
    default: return a.list == b.list && a.tag == b.tag;
    }
}

static bool equal(Render *r, Value a, Value b)
{
    double f;
    if (jj_number(a, &f) && jj_number(b, &f))
        return compare_numbers(a, b) == 0;
    if (a.kind != b.kind)
        return false;
    switch (a.kind) {
    case V_UNDEFINED: return true;
    case V_STR: jj_spend(r, a.text.n); return text_eq(a.text, b.text);
    case V_LIST: case V_TUPLE: return lists_equal(r, a.list, b.list);
    case V_DICT: return dicts_equal(r, a.dict, b.dict);
    case V_RANGE: return ranges_equal(a.range, b.range);
    case V_VIEW: return views_equal(r, a, b);
    }
    return jj_same(a, b);
}

bool jj_equal(Render *r, Value a, Value b)
{
    jj_spend(r, 0);
    jj_enter(r);
    bool yes = equal(r, a, b);
    r->depth--;
    return yes;
}

static int compare_text(Render *r, Text a, Text b)
{
    jj_spend(r, MIN(a.n, b.n));
    int c = memcmp(a.s, b.s, MIN(a.n, b.n)); /* UTF-8 sorts like its code points */
    return c ? (c < 0 ? -1 : 1) : a.n < b.n ? -1 : a.n > b.n;
}

/* <0, 0, >0, or 2 for unordered; fails on types that have no order. */
static int compare(Render *r, Value a, Value b, const char *op)
{
    double f;
    if (a.kind == V_UNDEFINED || b.kind == V_UNDEFINED)
        jj_fail_undefined(r, a.kind == V_UNDEFINED ? a : b);
    if (jj_number(a, &f) && jj_number(b, &f))
        return compare_numbers(a, b);
    if (a.kind == V_STR && b.kind == V_STR)
        return compare_text(r, a.text, b.text);
    if (a.kind != b.kind || (a.kind != V_LIST && a.kind != V_TUPLE))
        jj_fail(r, "'%s' not supported between '%s' and '%s'", op, jj_type(a), jj_type(b));
    size_t i = 0, n = MIN(a.list->n, b.list->n);
    while (i < n && jj_equal(r, a.list->at[i], b.list->at[i]))
        i++;
    if (i == n)
        return a.list->n < b.list->n ? -1 : a.list->n > b.list->n;
    jj_enter(r);
    int c = compare(r, a.list->at[i], b.list->at[i], op);
    r->depth--;
    return c;
}

bool jj_ordered(Render *r, Value a, int op, Value b)
{
    int c = compare(r, a, b, op == '<' ? "<" : op == '>' ? ">" : op == OP_LE ? "<=" : ">=");
    switch (op) {
    case '<': return c < 0;
    case '>': return c == 1;
    case OP_LE: return c <= 0;
    }
    return c == 0 || c == 1;
}

bool jj_contains(Render *r, Value item, Value container)
{
    if (container.kind == V_STR) {
        if (item.kind == V_UNDEFINED)
            jj_fail_undefined(r, item);
        if (item.kind != V_STR)
            jj_fail(r, "'in <string>' needs a string on the left, not %s", jj_type(item));
        jj_spend(r, container.text.n);
        return jj_find(container.text, item.text, 0) != SIZE_MAX;
    }
    if (container.kind == V_DICT || (container.kind == V_VIEW && container.tag == VIEW_KEYS))
        return jj_dict_get(r, container.dict, item) != NULL;
    if (!jj_iterable(container))
        jj_fail(r, "argument of type '%s' is not iterable", jj_type(container));
    const List *l = jj_items(r, container);
    for (size_t i = 0; i < l->n; i++)
        if (jj_same(l->at[i], item) || jj_equal(r, l->at[i], item))
            return true;
    return false;
}

/* ---- iteration --------------------------------------------------------------------------------------------------- */

bool jj_iterable(Value v)
{
    switch (v.kind) {
    case V_UNDEFINED: case V_STR: case V_LIST: case V_TUPLE: case V_DICT: case V_RANGE: case V_VIEW: case V_ITER:
        return true;
    }
    return false;
}

static const List *characters(Render *r, Text t)
{
    List *l = jj_list(r, jj_cp_count(t));
    for (size_t i = 0, at = 0; i < l->n; i++) {
        uint32_t cp;
        size_t n = utf8_decode(t.s + at, t.n - at, &cp);
        l->at[i] = v_str((Text){t.s + at, n});
        at += n;
    }
    return l;
}

static const List *view_items(Render *r, const Dict *d, int what)
{
    List *l = jj_list(r, d->n);
    for (size_t i = 0; i < d->n; i++)
        l->at[i] = what == VIEW_KEYS ? d->keys[i] : what == VIEW_VALUES ? d->values[i]
                                                                       : jj_pair(r, d->keys[i], d->values[i]);
    return l;
}

static const List *range_items(Render *r, const Range *range)
{
    List *l = jj_list(r, range->n);
    for (size_t i = 0; i < l->n; i++)
        l->at[i] = v_int(range->start + (int64_t)i * range->step);
    return l;
}

static const List *remaining(Render *r, Iter *it)
{
    List *l = jj_list(r, it->list->n - it->pos);
    if (l->n)
        memcpy(l->at, it->list->at + it->pos, l->n * sizeof *l->at);
    it->pos = it->list->n;
    return l;
}

const List *jj_items(Render *r, Value v)
{
    jj_spend(r, 0);
    switch (v.kind) {
    case V_UNDEFINED: return jj_list(r, 0);
    case V_STR: return characters(r, v.text);
    case V_LIST: case V_TUPLE: return v.list;
    case V_DICT: return view_items(r, v.dict, VIEW_KEYS);
    case V_VIEW: return view_items(r, v.dict, v.tag);
    case V_RANGE: return range_items(r, v.range);
    case V_ITER: return remaining(r, v.iter);
    }
    jj_fail(r, "'%s' is not iterable", jj_type(v));
}

bool jj_has_length(Value v)
{
    return jj_iterable(v) && v.kind != V_ITER;
}

int64_t jj_length(Render *r, Value v)
{
    switch (v.kind) {
    case V_UNDEFINED: return 0;
    case V_STR: jj_spend(r, v.text.n); return (int64_t)jj_cp_count(v.text);
    case V_LIST: case V_TUPLE: return (int64_t)v.list->n;
    case V_DICT: case V_VIEW: return (int64_t)v.dict->n;
    case V_RANGE: return (int64_t)v.range->n;
    case V_LOOP: return jj_loop_attr(r, v.loop, TEXT("length")).i;
    }
    jj_fail(r, "'%s' has no length", jj_type(v));
}

/* ---- arguments of builtins --------------------------------------------------------------------------------------- */

bool arg_given(const Args *a, size_t i)
{
    return a->at[i].kind != V_ABSENT && a->at[i].kind != V_NONE;
}

int64_t arg_int(Render *r, const Args *a, size_t i, int64_t otherwise)
{
    int64_t value;
    if (!arg_given(a, i))
        return otherwise;
    if (a->at[i].kind == V_UNDEFINED)
        jj_fail_undefined(r, a->at[i]);
    if (!jj_integer(a->at[i], &value))
        jj_fail(r, "argument %zu must be an integer, not %s", i + 1, jj_type(a->at[i]));
    return value;
}

bool arg_bool(Render *r, const Args *a, size_t i)
{
    return jj_truth(r, a->at[i]);
}

/* Strings only, as the methods of str demand. */
Text arg_str(Render *r, const Args *a, size_t i, const char *otherwise)
{
    if (!arg_given(a, i) && otherwise)
        return (Text){otherwise, strlen(otherwise)};
    if (a->at[i].kind == V_UNDEFINED)
        jj_fail_undefined(r, a->at[i]);
    if (a->at[i].kind != V_STR)
        jj_fail(r, "argument %zu must be a string, not %s", i + 1, jj_type(a->at[i]));
    return a->at[i].text;
}
