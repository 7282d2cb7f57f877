/* jinja_functions.c - owns the functions every template can call: range, dict, namespace, raise_exception,
 * strftime_now. */
#include <time.h>

#include "jinja_int.h"

#define MAX_RANGE 100000 /* as in the sandbox of jinja2 */

/* range(stop) or range(start, stop[, step]) */
static Value range(Render *r, Value self, const Args *args)
{
    (void)self;
    Range *range = jj_alloc(r, sizeof *range);
    bool one = args->at[1].kind == V_ABSENT;
    range->start = one ? 0 : arg_int(r, args, 0, 0);
    range->stop = arg_int(r, args, !one, 0);
    range->step = arg_int(r, args, 2, 1);
    if (range->step == 0)
        jj_fail(r, "range: the step must not be 0");
    uint64_t span = range->step > 0 ? (uint64_t)range->stop - (uint64_t)range->start
                                    : (uint64_t)range->start - (uint64_t)range->stop;
    uint64_t step = range->step > 0 ? (uint64_t)range->step : 0 - (uint64_t)range->step;
    bool empty = range->step > 0 ? range->start >= range->stop : range->start <= range->stop;
    range->n = empty ? 0 : (size_t)((span - 1) / step + 1);
    if (range->n > MAX_RANGE)
        jj_fail(r, "range: more than %d elements", MAX_RANGE);
    return (Value){.kind = V_RANGE, .range = range};
}

static void add_pairs(Render *r, Dict *d, const List *pairs)
{
    for (size_t i = 0; i < pairs->n; i++) {
        const List *pair = jj_items(r, pairs->at[i]);
        if (pair->n != 2)
            jj_fail(r, "dict: element %zu is not a pair", i);
        jj_dict_set(r, d, pair->at[0], pair->at[1]);
    }
}

/* dict([mapping or pairs], name=value...) */
static Dict *make_dict(Render *r, const Args *args)
{
    Dict *d = jj_dict(r);
    if (args->n > 1)
        jj_fail(r, "at most one positional argument is allowed");
    if (args->n && args->at[0].kind == V_DICT) {
        const Dict *from = args->at[0].dict;
        for (size_t i = 0; i < from->n; i++)
            jj_dict_set(r, d, from->keys[i], from->values[i]);
    } else if (args->n) {
        add_pairs(r, d, jj_items(r, args->at[0]));
    }
    for (size_t i = 0; i < args->n_named; i++)
        jj_dict_set(r, d, v_str(args->names[i]), args->named[i]);
    return d;
}

static Value dict(Render *r, Value self, const Args *args)
{
    (void)self;
    return v_dict(make_dict(r, args));
}

static Value namespace(Render *r, Value self, const Args *args)
{
    (void)self;
    Dict *d = make_dict(r, args);
    for (size_t i = 0; i < d->n; i++)
        if (d->keys[i].kind == V_STR && d->keys[i].text.n && d->keys[i].text.s[0] == '_')
            jj_fail(r, "the name of a namespace's attribute must not start with an underscore");
    return (Value){.kind = V_NAMESPACE, .dict = d};
}

static Value raise_exception(Render *r, Value self, const Args *args)
{
    (void)self;
    Text message = jj_str(r, args->at[0]);
    jj_fail(r, "%.*s", (int)utf8_complete(message.s, MIN(message.n, (size_t)900)), message.s);
}

/* The local time in strftime's format, as datetime.now().strftime(format). */
static Value strftime_now(Render *r, Value self, const Args *args)
{
    (void)self;
    Text format = arg_str(r, args, 0, NULL);
    char text[1024], *pattern = arena_strndup(r->arena, format.s, MIN(format.n, (size_t)256));
    time_t now = time(NULL);
    struct tm local;
    if (format.n > 256 || !localtime_r(&now, &local))
        jj_fail(r, "strftime_now: the format is longer than 256 bytes");
    size_t n = strftime(text, sizeof text, pattern, &local);
    for (size_t i = 0, used; i < n; i += used) {
        uint32_t cp;
        used = utf8_decode(text + i, n - i, &cp);
        if (used == 1 && cp == 0xFFFD)
            jj_fail(r, "strftime_now: the result is not UTF-8");
    }
    return v_str((Text){arena_strndup(r->arena, text, n), n});
}

static Value unsupported(Render *r, Value self, const Args *args)
{
    (void)self, (void)args;
    jj_fail(r, "this function is not supported in chat templates");
}

static const Builtin functions[] = {
    {"cycler", unsupported, NULL}, {"dict", dict, NULL}, {"joiner", unsupported, NULL}, {"lipsum", unsupported, NULL},
    {"namespace", namespace, NULL}, {"raise_exception", raise_exception, "message"},
    {"range", range, "start,stop?,step?"}, {"strftime_now", strftime_now, "format"},
};

const Builtin *jj_function(Text name)
{
    return jj_find_builtin(functions, COUNT(functions), name);
}
