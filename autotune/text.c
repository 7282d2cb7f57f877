/* text.c - results as text, one line a row: what is exported, imported, shipped in autotune/results and read by the
 * generator (compiler/tuned.h). */
#include "db.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const size_t max_bytes = (size_t)64 << 20;

static json_t *parsed(const char *text, const char *otherwise)
{
    json_t *v = json_loads(text && *text ? text : otherwise, 0, NULL);
    return v ? v : json_loads(otherwise, 0, NULL);
}

/* Fields whose text is JSON. */
static bool is_tree(const char *name)
{
    return !strcmp(name, "settings") || !strcmp(name, "default_settings") || !strcmp(name, "details");
}

static json_t *record_json(const Record *r, bool details)
{
    json_t *o = json_object();
#define X(name) \
    json_object_set_new(o, #name, is_tree(#name) ? parsed(r->name, "{}") : json_string(r->name ? r->name : ""));
    RECORD_TEXTS(X)
#undef X
#define X(name) json_object_set_new(o, #name, json_real(isfinite(r->name) ? r->name : 0));
    RECORD_REALS(X)
#undef X
#define X(name) json_object_set_new(o, #name, json_integer(r->name));
    RECORD_INTS(X)
#undef X
    json_object_del(o, "device"); /* stands in the head */
    if (!details)
        json_object_del(o, "details");
    return o;
}

typedef struct Writer {
    Buf *out;
    bool details;
    size_t count;
} Writer;

static void begin(Buf *out, const char *device)
{
    json_t *name = json_string(device);
    char *text = json_dumps(name, JSON_ENCODE_ANY);
    buf_printf(out, "{\"format\": 1, \"device\": %s, \"entries\": [", text);
    free(text);
    json_decref(name);
}

static bool put_row(void *context, const Record *r, Err *err)
{
    Writer *w = context;
    (void)err;
    json_t *o = record_json(r, w->details);
    char *line = json_dumps(o, JSON_SORT_KEYS | JSON_REAL_PRECISION(6));
    buf_printf(w->out, "%s\n%s", w->count++ ? "," : "", line);
    free(line);
    json_decref(o);
    return true;
}

bool text_put(Db *db, const char *device, bool details, Buf *out, Err *err)
{
    Writer w = {out, details, 0};
    begin(out, device);
    bool ok = db_each(db, device, put_row, &w, err);
    buf_puts(out, "\n]}\n");
    return ok;
}

void text_from(const char *device, const Record *rows, size_t count, Buf *out)
{
    Writer w = {out, true, 0};
    begin(out, device);
    for (size_t i = 0; i < count; i++)
        put_row(&w, &rows[i], NULL);
    buf_puts(out, "\n]}\n");
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

/* The text of a string, or of a tree as JSON. */
static bool get_text(const json_t *o, const char *key, Arena *a, const char **out, Err *err)
{
    if (!is_tree(key))
        return json_get_str(o, key, "", out, err);
    const json_t *tree = json_object_get(o, key);
    *out = "{}";
    if (!tree || json_is_null(tree))
        return true;
    if (!json_is_object(tree) && !json_is_array(tree))
        return err_set(err, "\"%s\" is neither an object nor an array", key);
    char *text = json_dumps(tree, JSON_SORT_KEYS);
    *out = arena_strdup(a, text);
    free(text);
    return true;
}

static bool read_record(const json_t *o, const char *device, Arena *a, Record *r, Err *err)
{
    if (!json_is_object(o))
        return err_set(err, "not an object");
#define X(name) if (!get_text(o, #name, a, &r->name, err)) return false;
    RECORD_TEXTS(X)
#undef X
#define X(name) if (!json_get_real(o, #name, -1e30, 1e30, 0, &r->name, err)) return false;
    RECORD_REALS(X)
#undef X
#define X(name) if (!json_get_int(o, #name, 0, (int64_t)1 << 40, 0, &r->name, err)) return false;
    RECORD_INTS(X)
#undef X
    r->device = device;
    return (*r->target && *r->operator && *r->schedule) ||
           err_set(err, "\"target\", \"operator\" and \"schedule\" are needed");
}

bool text_read(const char *path, Arena *a, json_t **root, Record **rows, size_t *count, Err *err)
{
    const char *device = "";
    int64_t format = 0;
    *root = json_read(path, max_bytes, err);
    if (!*root)
        return false;
    const json_t *entries = json_object_get(*root, "entries");
    bool ok = json_get_int(*root, "format", 0, INT32_MAX, 0, &format, err) &&
              json_get_str(*root, "device", "", &device, err);
    if (ok && (format != 1 || !json_is_array(entries)))
        ok = err_set(err, "not results of tuning in format 1");
    if (ok && (!*device || strpbrk(device, "/\n")))
        ok = err_set(err, "\"device\" is no name of a device");
    *count = json_array_size(entries);
    *rows = arena_array(a, Record, *count + 1);
    for (size_t i = 0; ok && i < *count; i++)
        if (!read_record(json_array_get(entries, i), device, a, &(*rows)[i], err))
            ok = err_prefix(err, "entries[%zu]", i);
    if (!ok) {
        err_prefix(err, "%s", path);
        json_decref(*root);
        *root = NULL;
    }
    return ok;
}
