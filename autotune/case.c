/* case.c - reading a pack of candidates; see case.h. */
#include "case.h"

#include <stdlib.h>
#include <string.h>

static const int64_t max_bytes = (int64_t)1 << 40;

static bool need_str(const json_t *o, const char *key, const char **out, Err *err)
{
    return json_get_str(o, key, NULL, out, err) && (*out || err_set(err, "\"%s\" is missing", key));
}

static bool get_int(const json_t *o, const char *key, int hi, int *out, Err *err)
{
    int64_t v;
    if (!json_get_int(o, key, 0, hi, 0, &v, err))
        return false;
    *out = (int)v;
    return true;
}

/* An array of 1 to `max` elements. */
static bool need_array(const json_t *o, const char *key, int max, json_t **out, int *count, Err *err)
{
    *out = json_object_get(o, key);
    *count = (int)json_array_size(*out);
    return (json_is_array(*out) && *count >= 1 && *count <= max) ||
           err_set(err, "\"%s\" is not an array of 1 to %d elements", key, max);
}

static bool read_arg(const json_t *o, CaseArg *a, Err *err)
{
    const char *type, *access;
    if (!need_str(o, "name", &a->name, err) || !need_str(o, "type", &type, err) ||
        !need_str(o, "access", &access, err) || !json_get_bool(o, "cold", false, &a->cold, err))
        return false;
    a->type = dtype_parse(type, strlen(type));
    a->read = !strcmp(access, "in") || !strcmp(access, "inout");
    a->written = !strcmp(access, "out") || !strcmp(access, "inout");
    return (a->type != DT_NONE && (a->read || a->written)) || err_set(err, "unknown type or access");
}

static bool read_sizes(const json_t *o, int64_t sizes[SIZE_COUNT], Err *err)
{
    const json_t *list = json_object_get(o, "sizes");
    for (int i = 0; i < SIZE_COUNT; i++)
        if (!json_get_int(list, size_names[i], 0, 1 << 24, 0, &sizes[i], err))
            return false;
    return true;
}

/* Contents of argument `a`, of which the workload uses `bytes`. */
static bool read_data(const json_t *o, const CaseArg *a, int64_t bytes, const json_t **out, Err *err)
{
    const json_t *data = json_object_get(o, a->name);
    size_t i;
    json_t *v;
    *out = data;
    if (!data)
        return true;
    if (!json_is_array(data) || a->type != DT_S32 || a->cold || (int64_t)json_array_size(data) > bytes / 4)
        return err_set(err, "data of \"%s\" is not an array of s32 that fits", a->name);
    json_array_foreach((json_t *)data, i, v)
        if (!json_is_integer(v) || json_integer_value(v) != (int32_t)json_integer_value(v))
            return err_set(err, "data of \"%s\" holds something else than s32", a->name);
    return true;
}

static bool read_workload(const json_t *o, Case *c, CaseWorkload *w, Err *err)
{
    json_t *bytes;
    int count;
    if (!need_str(o, "name", &w->name, err) || !read_sizes(o, w->sizes, err) ||
        !need_array(o, "bytes", CASE_ARGS, &bytes, &count, err) ||
        !json_get_real(o, "read", 0, 1e18, 0, &w->read, err) ||
        !json_get_real(o, "operations", 0, 1e24, 0, &w->operations, err))
        return false;
    if (count != c->args_count)
        return err_set(err, "\"bytes\" has %d elements for %d arguments", count, c->args_count);
    for (int i = 0; i < count; i++) {
        const json_t *v = json_array_get(bytes, (size_t)i);
        int64_t n = json_integer_value(v);
        if (!json_is_integer(v) || n < 0 || n > max_bytes)
            return err_set(err, "bytes[%d] is not a size", i);
        w->bytes[i] = n;
        c->args[i].bytes = MAX(c->args[i].bytes, n);
        if (!read_data(json_object_get(o, "data"), &c->args[i], n, &w->data[i], err))
            return false;
    }
    return true;
}

static int changed_settings(const json_t *settings, const json_t *from)
{
    int n = 0;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)settings, key, value)
        n += !json_equal(value, json_object_get(from, key));
    return n;
}

static bool read_candidate(const json_t *o, const Plan *plan, const Case *c, CaseCandidate *out, bool *incumbent,
                           Err *err)
{
    if (!json_get_bool(o, "incumbent", false, incumbent, err) ||
        !get_int(o, "kernel", plan->kernels_count - 1, &out->kernel, err) ||
        !json_get_real(o, "predicted", 0, 1e9, 0, &out->predicted, err) ||
        !json_get_str(o, "rejected", NULL, &out->rejected, err))
        return false;
    out->settings = json_object_get(o, "settings");
    if (!json_is_object(out->settings))
        return err_set(err, "\"settings\" is not an object");
    for (int w = 0; w < c->workloads_count; w++)
        if (plan_blocks(&plan->kernels[out->kernel], c->workloads[w].sizes) < 1)
            return err_set(err, "the kernel's grid is absurd");
    return true;
}

static bool read_lists(const json_t *o, const Plan *plan, Case *c, Err *err)
{
    json_t *list;
    if (!need_array(o, "args", CASE_ARGS, &list, &c->args_count, err))
        return false;
    for (int i = 0; i < c->args_count; i++)
        if (!read_arg(json_array_get(list, (size_t)i), &c->args[i], err))
            return err_prefix(err, "args[%d]", i);
    if (!need_array(o, "workloads", CASE_WORKLOADS, &list, &c->workloads_count, err))
        return false;
    for (int i = 0; i < c->workloads_count; i++)
        if (!read_workload(json_array_get(list, (size_t)i), c, &c->workloads[i], err))
            return err_prefix(err, "workloads[%d]", i);
    if (!need_array(o, "candidates", CASE_CANDIDATES, &list, &c->candidates_count, err))
        return false;
    for (int i = 0; i < c->candidates_count; i++) {
        bool incumbent;
        if (!read_candidate(json_array_get(list, (size_t)i), plan, c, &c->candidates[i], &incumbent, err))
            return err_prefix(err, "candidates[%d]", i);
        c->incumbent = incumbent && !c->candidates[i].rejected ? i : c->incumbent;
        c->candidates[i].changed = changed_settings(c->candidates[i].settings, c->candidates[0].settings);
    }
    return !c->candidates[0].rejected || err_set(err, "the default is wrong: %s", c->candidates[0].rejected);
}

static bool read_case(const json_t *o, const Plan *plan, Case *c, Err *err)
{
    return need_str(o, "operator", &c->operator, err) && need_str(o, "parameters", &c->parameters, err) &&
           need_str(o, "schedule", &c->schedule, err) && json_get_str(o, "peak", "f32", &c->peak, err) &&
           get_int(o, "bucket", 1 << 24, &c->bucket, err) && get_int(o, "calls", 1 << 24, &c->calls, err) &&
           get_int(o, "combinations", 1 << 30, &c->combinations, err) && read_lists(o, plan, c, err);
}

static bool read_cases(CasePack *p, Err *err)
{
    json_t *list = json_object_get(p->root, "cases");
    if (!json_is_array(list))
        return err_set(err, "there are no \"cases\": this is not a pack of candidates (bladetune build makes one)");
    p->count = (int)MIN(json_array_size(list), 1 << 16);
    p->cases = xcalloc((size_t)MAX(p->count, 1), sizeof *p->cases);
    for (int i = 0; i < p->count; i++)
        if (!read_case(json_array_get(list, (size_t)i), p->plan, &p->cases[i], err))
            return err_prefix(err, "cases[%d]", i);
    return true;
}

CasePack *case_read(const char *plan, size_t len, size_t code_len, Err *err)
{
    CasePack *p = xcalloc(1, sizeof *p);
    p->plan = plan_parse(plan, len, code_len, err);
    p->root = p->plan ? json_parse(plan, len, "plan", err) : NULL;
    if (p->root && read_cases(p, err))
        return p;
    case_free(p);
    return NULL;
}

void case_free(CasePack *p)
{
    if (!p)
        return;
    plan_free(p->plan);
    json_decref(p->root);
    free(p->cases);
    free(p);
}
