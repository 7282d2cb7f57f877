/* jinja_collect.c - owns the filters on sequences and dicts: sorting, grouping, choosing, mapping. */
#include "jinja_int.h"

/* ---- looking up attributes of elements: attribute='a.b.0' -------------------------------------------------------- */

static Value path_step(Render *r, Value v, Text part)
{
    int64_t index;
    bool number = jj_is_class(part, "digit") && jj_parse_int(part, 10, &index);
    return jj_item(r, v, number ? v_int(index) : v_str(part));
}

static Value or_default(Value v, Value otherwise)
{
    bool given = otherwise.kind != V_NONE && otherwise.kind != V_ABSENT;
    return v.kind == V_UNDEFINED && given ? otherwise : v;
}

/* `attribute`: None for the element itself, an index, or names and indices joined by dots. */
static Value get_path(Render *r, Value v, Value attribute, Value otherwise)
{
    if (attribute.kind == V_ABSENT || attribute.kind == V_NONE)
        return v;
    if (attribute.kind != V_STR)
        return or_default(jj_item(r, v, attribute), otherwise);
    Text dot = TEXT(".");
    const List *parts = jj_split(r, attribute.text, &dot, -1, false);
    for (size_t i = 0; i < parts->n; i++)
        v = or_default(path_step(r, v, parts->at[i].text), otherwise);
    return v;
}

static Value fold_case(Render *r, Value v, bool case_sensitive)
{
    return v.kind == V_STR && !case_sensitive ? v_str(jj_case(r, v.text, CASE_LOWER)) : v;
}

static Value sort_key(Render *r, Value v, Value attribute, bool case_sensitive)
{
    return fold_case(r, get_path(r, v, attribute, v_absent()), case_sensitive);
}

/* ---- sorting ----------------------------------------------------------------------------------------------------- */

typedef struct Sorter {
    Render *r;
    const List *keys;
    bool reverse;
} Sorter;

/* Must `b`, which comes after `a` in the input, go before it? */
static bool goes_first(const Sorter *s, uint32_t b, uint32_t a)
{
    Value x = s->keys->at[b], y = s->keys->at[a];
    return s->reverse ? jj_ordered(s->r, y, '<', x) : jj_ordered(s->r, x, '<', y);
}

static void merge_sort(const Sorter *s, uint32_t *at, uint32_t *spare, size_t n)
{
    if (n < 2)
        return;
    size_t half = n / 2, i = 0, j = half, k = 0;
    merge_sort(s, at, spare, half);
    merge_sort(s, at + half, spare, n - half);
    while (i < half && j < n)
        spare[k++] = goes_first(s, at[j], at[i]) ? at[j++] : at[i++];
    while (i < half)
        spare[k++] = at[i++];
    memcpy(at, spare, k * sizeof *at);
}

const List *jj_sorted(Render *r, const List *items, const List *keys, bool reverse)
{
    Sorter s = {r, keys ? keys : items, reverse};
    uint32_t *order = jj_alloc(r, items->n * sizeof *order), *spare = jj_alloc(r, items->n * sizeof *spare);
    for (size_t i = 0; i < items->n; i++)
        order[i] = (uint32_t)i;
    merge_sort(&s, order, spare, items->n);
    List *sorted = jj_list(r, items->n);
    for (size_t i = 0; i < items->n; i++)
        sorted->at[i] = items->at[order[i]];
    return sorted;
}

/* The key of `sort`: a list with the value of each attribute in "a,b". */
static Value multi_key(Render *r, Value v, Value attribute, bool case_sensitive)
{
    Text comma = TEXT(",");
    List *one = jj_list(r, 1);
    one->at[0] = attribute;
    const List *names = attribute.kind == V_STR ? jj_split(r, attribute.text, &comma, -1, false) : one;
    List *key = jj_list(r, names->n);
    for (size_t i = 0; i < names->n; i++)
        key->at[i] = sort_key(r, v, names->at[i], case_sensitive);
    return v_list(key);
}

static Value f_sort(Render *r, Value self, const Args *args)
{
    const List *items = jj_items(r, self);
    List *keys = jj_list(r, items->n);
    for (size_t i = 0; i < items->n; i++)
        keys->at[i] = multi_key(r, items->at[i], args->at[2], arg_bool(r, args, 1));
    return v_list(jj_sorted(r, items, keys, arg_bool(r, args, 0)));
}

static const Dict *need_dict(Render *r, Value v)
{
    if (v.kind == V_UNDEFINED)
        jj_fail_undefined(r, v);
    if (v.kind != V_DICT)
        jj_fail(r, "expected a dict, not %s", jj_type(v));
    return v.dict;
}

static const List *dict_pairs(Render *r, const Dict *d)
{
    return jj_items(r, (Value){.kind = V_VIEW, .tag = VIEW_ITEMS, .dict = (Dict *)d});
}

static Value f_dictsort(Render *r, Value self, const Args *args)
{
    Text by = arg_str(r, args, 1, "key");
    if (!text_is(by, "key") && !text_is(by, "value"))
        jj_fail(r, "dictsort: by must be 'key' or 'value'");
    const List *pairs = dict_pairs(r, need_dict(r, self));
    List *keys = jj_list(r, pairs->n);
    for (size_t i = 0; i < pairs->n; i++)
        keys->at[i] = fold_case(r, pairs->at[i].list->at[text_is(by, "value")], arg_bool(r, args, 0));
    return v_list(jj_sorted(r, pairs, keys, arg_bool(r, args, 2)));
}

static Value group(Render *r, const List *sorted, size_t from, size_t to, const Args *args)
{
    List *members = jj_list(r, to - from);
    memcpy(members->at, sorted->at + from, (to - from) * sizeof *members->at);
    Value pair = jj_pair(r, get_path(r, members->at[0], args->at[0], args->at[1]), v_list(members));
    pair.tag = 1;
    return pair;
}

static Value f_groupby(Render *r, Value self, const Args *args)
{
    const List *items = jj_items(r, self);
    List *keys = jj_list(r, items->n), *groups = jj_list(r, items->n);
    for (size_t i = 0; i < items->n; i++)
        keys->at[i] = fold_case(r, get_path(r, items->at[i], args->at[0], args->at[1]), arg_bool(r, args, 2));
    const List *sorted = jj_sorted(r, items, keys, false), *sorted_keys = jj_sorted(r, keys, NULL, false);
    groups->n = 0;
    for (size_t i = 0, end; i < sorted->n; i = end) {
        for (end = i + 1; end < sorted->n && jj_equal(r, sorted_keys->at[i], sorted_keys->at[end]); end++)
            ;
        groups->at[groups->n++] = group(r, sorted, i, end, args);
    }
    return v_list(groups);
}

/* ---- sequences --------------------------------------------------------------------------------------------------- */

static Value f_length(Render *r, Value self, const Args *args)
{
    (void)args;
    return v_int(jj_length(r, self));
}

static Value f_list(Render *r, Value self, const Args *args)
{
    (void)args;
    return v_list(jj_items(r, self));
}

static Value f_first(Render *r, Value self, const Args *args)
{
    (void)args;
    if (self.kind == V_ITER && self.iter->pos < self.iter->list->n)
        return self.iter->list->at[self.iter->pos++];
    const List *l = jj_items(r, self);
    return l->n ? l->at[0] : v_hint("no first item, the sequence was empty");
}

static Value f_last(Render *r, Value self, const Args *args)
{
    (void)args;
    if (self.kind == V_ITER)
        jj_fail(r, "last: a generator cannot be reversed; turn it into a list first");
    const List *l = jj_items(r, self);
    return l->n ? l->at[l->n - 1] : v_hint("no last item, the sequence was empty");
}

static Value f_reverse(Render *r, Value self, const Args *args)
{
    (void)args;
    if (self.kind == V_STR)
        return v_str(jj_reverse(r, self.text));
    const List *l = jj_items(r, self);
    List *back = jj_list(r, l->n);
    for (size_t i = 0; i < l->n; i++)
        back->at[i] = l->at[l->n - 1 - i];
    return self.kind == V_ITER ? v_list(back) : jj_iter(r, back);
}

static Value f_unique(Render *r, Value self, const Args *args)
{
    const List *items = jj_items(r, self);
    List *kept = jj_list(r, items->n);
    Dict *seen = jj_dict(r);
    kept->n = 0;
    for (size_t i = 0; i < items->n; i++) {
        Value key = sort_key(r, items->at[i], args->at[1], arg_bool(r, args, 0));
        if (jj_dict_get(r, seen, key))
            continue;
        jj_dict_set(r, seen, key, v_none());
        kept->at[kept->n++] = items->at[i];
    }
    return jj_iter(r, kept);
}

static Value extreme(Render *r, Value self, const Args *args, int op)
{
    const List *items = jj_items(r, self);
    if (!items->n)
        return v_hint("no aggregated item, the sequence was empty");
    Value best = items->at[0], best_key = sort_key(r, best, args->at[1], arg_bool(r, args, 0));
    for (size_t i = 1; i < items->n; i++) {
        Value key = sort_key(r, items->at[i], args->at[1], arg_bool(r, args, 0));
        if (!jj_ordered(r, key, op, best_key))
            continue;
        best = items->at[i];
        best_key = key;
    }
    return best;
}

static Value f_min(Render *r, Value self, const Args *args)
{
    return extreme(r, self, args, '<');
}

static Value f_max(Render *r, Value self, const Args *args)
{
    return extreme(r, self, args, '>');
}

static Value f_sum(Render *r, Value self, const Args *args)
{
    const List *items = jj_items(r, self);
    Value total = args->at[1].kind == V_ABSENT ? v_int(0) : args->at[1];
    if (total.kind == V_STR)
        jj_fail(r, "sum: strings cannot be summed, use join");
    for (size_t i = 0; i < items->n; i++)
        total = jj_binary(r, '+', total, get_path(r, items->at[i], args->at[0], v_absent()));
    return total;
}

static Value sublist(Render *r, const List *l, size_t from, size_t n, size_t total, Value fill)
{
    List *part = jj_list(r, MAX(n, total));
    for (size_t i = 0; i < part->n; i++)
        part->at[i] = i < n ? l->at[from + i] : fill;
    return v_list(part);
}

static size_t positive(Render *r, const Args *args, size_t i)
{
    int64_t n = arg_int(r, args, i, 0);
    if (n < 1 || n > 100000)
        jj_fail(r, "argument %zu must be between 1 and 100000", i + 1);
    return (size_t)n;
}

static Value f_batch(Render *r, Value self, const Args *args)
{
    const List *l = jj_items(r, self);
    size_t size = positive(r, args, 0), n = (l->n + size - 1) / size;
    List *batches = jj_list(r, n);
    for (size_t i = 0; i < n; i++) {
        size_t from = i * size, count = MIN(size, l->n - from);
        batches->at[i] = sublist(r, l, from, count, arg_given(args, 1) ? size : count, args->at[1]);
    }
    return jj_iter(r, batches);
}

static Value f_slice(Render *r, Value self, const Args *args)
{
    const List *l = jj_items(r, self);
    size_t n = positive(r, args, 0), each = l->n / n, extra = l->n % n, from = 0;
    List *slices = jj_list(r, n);
    for (size_t i = 0; i < n; i++) {
        size_t count = each + (i < extra);
        slices->at[i] = sublist(r, l, from, count, each + (i < extra || arg_given(args, 1)), args->at[1]);
        from += count;
    }
    return jj_iter(r, slices);
}

static Value f_items(Render *r, Value self, const Args *args)
{
    (void)args;
    return jj_iter(r, self.kind == V_UNDEFINED ? jj_list(r, 0) : dict_pairs(r, need_dict(r, self)));
}

static Value f_join(Render *r, Value self, const Args *args)
{
    const List *items = jj_items(r, self);
    if (arg_given(args, 1)) {
        List *members = jj_list(r, items->n);
        for (size_t i = 0; i < items->n; i++)
            members->at[i] = get_path(r, items->at[i], args->at[1], v_absent());
        items = members;
    }
    Text sep = args->at[0].kind == V_ABSENT ? TEXT("") : jj_str(r, args->at[0]);
    return v_str(jj_join(r, sep, items, false));
}

/* ---- filters over elements: map, select, reject ------------------------------------------------------------------ */

/* The arguments after the first `n`. */
static Args rest(const Args *args, size_t n)
{
    Args tail = *args;
    tail.at += n;
    tail.n -= n;
    return tail;
}

static const Builtin *by_name(Render *r, const Args *args, size_t i, bool filter)
{
    Text name = arg_str(r, args, i, NULL);
    const Builtin *b = filter ? jj_filter(name) : jj_test(name);
    if (!b)
        jj_fail(r, "no %s named '%.*s'", filter ? "filter" : "test", TEXT_ARG(name));
    return b;
}

static Value f_map(Render *r, Value self, const Args *args)
{
    if (!jj_truth(r, self))
        return jj_iter(r, jj_list(r, 0));
    const List *items = jj_items(r, self);
    List *mapped = jj_list(r, items->n);
    const Value *attribute = jj_named_arg(args, "attribute"), *otherwise = jj_named_arg(args, "default");
    bool by_attribute = !args->n && attribute;
    if (by_attribute && args->n_named != 1 + (otherwise != NULL))
        jj_fail(r, "map: unexpected keyword argument");
    if (!by_attribute && !args->n)
        jj_fail(r, "map needs the name of a filter or attribute=...");
    const Builtin *filter = by_attribute ? NULL : by_name(r, args, 0, true);
    Args tail = by_attribute ? *args : rest(args, 1);
    for (size_t i = 0; i < items->n; i++)
        mapped->at[i] = by_attribute ? get_path(r, items->at[i], *attribute, otherwise ? *otherwise : v_none())
                                     : jj_call_builtin(r, filter, items->at[i], &tail);
    return jj_iter(r, mapped);
}

/* Keeps the elements for which the test says `wanted`; with `by_attribute` the test sees the attribute named first. */
static Value choose(Render *r, Value self, const Args *args, bool wanted, bool by_attribute)
{
    if (!jj_truth(r, self))
        return jj_iter(r, jj_list(r, 0));
    const List *items = jj_items(r, self);
    List *kept = jj_list(r, items->n);
    if (by_attribute && !args->n)
        jj_fail(r, "the name of an attribute is missing");
    const Builtin *test = args->n > by_attribute ? by_name(r, args, by_attribute, false) : NULL;
    Args tail = rest(args, MIN(args->n, by_attribute + 1u));
    kept->n = 0;
    for (size_t i = 0; i < items->n; i++) {
        Value v = by_attribute ? get_path(r, items->at[i], args->at[0], v_absent()) : items->at[i];
        if (jj_truth(r, test ? jj_call_builtin(r, test, v, &tail) : v) == wanted)
            kept->at[kept->n++] = items->at[i];
    }
    return jj_iter(r, kept);
}

static Value f_select(Render *r, Value self, const Args *args)
{
    return choose(r, self, args, true, false);
}

static Value f_reject(Render *r, Value self, const Args *args)
{
    return choose(r, self, args, false, false);
}

static Value f_selectattr(Render *r, Value self, const Args *args)
{
    return choose(r, self, args, true, true);
}

static Value f_rejectattr(Render *r, Value self, const Args *args)
{
    return choose(r, self, args, false, true);
}

static const Builtin filters[] = {
    {"batch", f_batch, "linecount,fill_with?"}, {"count", f_length, ""},
    {"dictsort", f_dictsort, "case_sensitive?,by?,reverse?"}, {"first", f_first, ""},
    {"groupby", f_groupby, "attribute,default?,case_sensitive?"}, {"items", f_items, ""},
    {"join", f_join, "d?,attribute?"}, {"last", f_last, ""}, {"length", f_length, ""}, {"list", f_list, ""},
    {"map", f_map, NULL}, {"max", f_max, "case_sensitive?,attribute?"}, {"min", f_min, "case_sensitive?,attribute?"},
    {"reject", f_reject, NULL}, {"rejectattr", f_rejectattr, NULL}, {"reverse", f_reverse, ""},
    {"select", f_select, NULL}, {"selectattr", f_selectattr, NULL}, {"slice", f_slice, "slices,fill_with?"},
    {"sort", f_sort, "reverse?,case_sensitive?,attribute?"}, {"sum", f_sum, "attribute?,start?"},
    {"unique", f_unique, "case_sensitive?,attribute?"},
};

const Builtin *jj_collection_filter(Text name)
{
    return jj_find_builtin(filters, COUNT(filters), name);
}
