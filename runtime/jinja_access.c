/* jinja_access.c - owns v.name, v[key] and v[a:b:c], with the lookup order of jinja2: a dot tries the attributes
 * (methods) of an object before its items, brackets the items before the attributes. What is not there is undefined,
 * not an error. */
#include "jinja_int.h"

static Value missing(Value v, Text name)
{
    return (Value){.kind = V_UNDEFINED, .tag = UNDEF_ATTR, .owner = v.kind, .text = name};
}

static Value unsafe(Render *r, Value v, Text name)
{
    const char *hint = arena_printf(r->arena, "access to attribute '%.*s' of '%s' object is unsafe", TEXT_ARG(name),
                                    jj_type(v));
    jj_spend(r, strlen(hint));
    return v_hint(hint);
}

static bool is_dunder(Text name)
{
    return name.n > 4 && !memcmp(name.s, "__", 2) && !memcmp(name.s + name.n - 2, "__", 2);
}

static Value bind(Render *r, Value self, const Builtin *def)
{
    Method *m = jj_alloc(r, sizeof *m);
    *m = (Method){def, self};
    return (Value){.kind = V_METHOD, .method = m};
}

static const Builtin *find_method(Value v, Text name)
{
    switch (v.kind) {
    case V_STR: return jj_str_method(name);
    case V_LIST: case V_TUPLE: return jj_list_method(name);
    case V_DICT: return jj_dict_method(name);
    }
    return NULL;
}

Value jj_own_attr(Render *r, Value v, Text name)
{
    const Value *member;
    const Builtin *method = find_method(v, name);
    if (is_dunder(name) || jj_mutates(v, name))
        return unsafe(r, v, name);
    if (method)
        return bind(r, v, method);
    switch (v.kind) {
    case V_NAMESPACE:
        member = jj_dict_find(r, v.dict, name);
        return member ? *member : v_absent();
    case V_LOOP: return jj_loop_attr(r, v.loop, name);
    case V_MACRO: return text_is(name, "name") ? v_str(v.macro->node->name) : v_absent();
    case V_TUPLE:
        if (v.tag && text_is(name, "grouper"))
            return v.list->at[0];
        if (v.tag && text_is(name, "list"))
            return v.list->at[1];
    }
    return v_absent();
}

Value jj_attr(Render *r, Value v, Text name)
{
    if (v.kind == V_UNDEFINED)
        jj_fail_undefined(r, v);
    Value attr = jj_own_attr(r, v, name);
    if (attr.kind != V_ABSENT)
        return attr;
    const Value *item = v.kind == V_DICT ? jj_dict_find(r, v.dict, name) : NULL;
    return item ? *item : missing(v, name);
}

/* Element `index` of a sequence, counted from the end when negative; V_ABSENT when there is none. */
static Value element(Render *r, Value v, int64_t index)
{
    int64_t n = jj_length(r, v);
    if (index < 0)
        index += n;
    if (index < 0 || index >= n)
        return v_absent();
    if (v.kind == V_RANGE)
        return v_int(v.range->start + index * v.range->step);
    if (v.kind != V_STR)
        return v.list->at[index];
    size_t start = jj_cp_offset(v.text, (size_t)index);
    uint32_t cp;
    return v_str((Text){v.text.s + start, utf8_decode(v.text.s + start, v.text.n - start, &cp)});
}

Value jj_item(Render *r, Value v, Value key)
{
    int64_t index;
    Value item = v_absent();
    bool sequence = v.kind == V_STR || v.kind == V_LIST || v.kind == V_TUPLE || v.kind == V_RANGE;
    if (v.kind == V_UNDEFINED)
        jj_fail_undefined(r, v);
    if (v.kind == V_DICT) {
        const Value *member = jj_hashable(key) ? jj_dict_get(r, v.dict, key) : NULL;
        item = member ? *member : item;
    } else if (sequence && jj_integer(key, &index)) {
        item = element(r, v, index);
    }
    if (item.kind == V_ABSENT && key.kind == V_STR)
        item = jj_own_attr(r, v, key.text);
    if (item.kind != V_ABSENT)
        return item;
    return key.kind == V_STR ? missing(v, key.text) : v_hint("there is no element with this index or key");
}

/* ---- slices ------------------------------------------------------------------------------------------------------ */

static int64_t slice_bound(Render *r, Value v, int64_t n, int64_t step, int64_t otherwise)
{
    int64_t i;
    if (v.kind == V_NONE || v.kind == V_ABSENT)
        return otherwise;
    if (v.kind == V_UNDEFINED)
        jj_fail_undefined(r, v);
    if (!jj_integer(v, &i))
        jj_fail(r, "the bounds of a slice must be integers, not %s", jj_type(v));
    if (i < 0)
        i = i < -n ? -1 : i + n;
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    return i < low ? low : i > high ? high : i;
}

static Value slice_str(Render *r, Text t, int64_t start, int64_t step, size_t count)
{
    if (step == 1) {
        size_t from = jj_cp_offset(t, (size_t)start);
        Text rest = {t.s + from, t.n - from};
        rest.n = jj_cp_offset(rest, count);
        return v_str(rest);
    }
    const List *characters = jj_items(r, v_str(t));
    Out o = {.r = r};
    for (size_t i = 0; i < count; i++)
        out_text(&o, characters->at[start + (int64_t)i * step].text);
    return v_str(out_done(&o));
}

static Value slice_range(Render *r, const Range *range, int64_t start, int64_t stop, int64_t step, size_t count)
{
    Range *part = jj_alloc(r, sizeof *part);
    int64_t unit;
    if (__builtin_mul_overflow(range->step, step, &unit))
        unit = range->step;
    *part = (Range){range->start + start * range->step, range->start + stop * range->step, unit, count};
    return (Value){.kind = V_RANGE, .range = part};
}

Value jj_slice(Render *r, Value v, Value start, Value stop, Value step)
{
    if (v.kind == V_UNDEFINED)
        jj_fail_undefined(r, v);
    if (v.kind != V_STR && v.kind != V_LIST && v.kind != V_TUPLE && v.kind != V_RANGE)
        jj_fail(r, "a %s cannot be sliced", jj_type(v));
    int64_t n = jj_length(r, v), by = 1;
    if (step.kind != V_ABSENT && step.kind != V_NONE) {
        if (step.kind == V_UNDEFINED)
            jj_fail_undefined(r, step);
        if (!jj_integer(step, &by) || by == 0)
            jj_fail(r, "the step of a slice must be an integer other than 0");
    }
    int64_t from = slice_bound(r, start, n, by, by < 0 ? n - 1 : 0);
    int64_t to = slice_bound(r, stop, n, by, by < 0 ? -1 : n);
    size_t count = 0;
    if (by > 0 && from < to)
        count = (size_t)((to - from - 1) / by + 1);
    else if (by < 0 && to < from)
        count = (size_t)((uint64_t)(from - to - 1) / (0 - (uint64_t)by) + 1);
    if (v.kind == V_STR)
        return slice_str(r, v.text, from, by, count);
    if (v.kind == V_RANGE)
        return slice_range(r, v.range, from, to, by, count);
    List *l = jj_list(r, count);
    for (size_t i = 0; i < count; i++)
        l->at[i] = v.list->at[from + (int64_t)i * by];
    return v.kind == V_LIST ? v_list(l) : v_tuple(l);
}
