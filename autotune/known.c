/* known.c - what is known of a device: results of the database, and those that ship with the sources for cases that it
 * lacks; see tuner.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "signature.h"
#include "tuner.h"

static bool same_case(const Record *a, const Record *b)
{
    return !strcmp(a->target, b->target) && !strcmp(a->operator, b->operator) && a->bucket == b->bucket &&
           !strcmp(a->parameters, b->parameters);
}

static bool add_row(void *context, const Record *r, Err *err)
{
    Known *k = context;
    Record copy = *r;
    (void)err;
#define X(name) copy.name = arena_strdup(k->arena, r->name);
    RECORD_TEXTS(X)
#undef X
    for (size_t i = 0; i < k->list.len; i++)
        if (same_case(&k->list.at[i], r))
            return true;
    vec_push(&k->list, copy);
    return true;
}

static bool add_shipped(Known *k, const char *device, Err *err)
{
    char library[4096], source[4096], path[4400];
    generator_find(library, sizeof library);
    source_folder(library, source, sizeof source);
    snprintf(path, sizeof path, "%s/autotune/results/%.200s.json", source, device);
    json_t *root;
    Record *shipped;
    size_t count;
    if (!file_exists(path))
        return true;
    if (!text_read(path, k->arena, &root, &shipped, &count, err))
        return false;
    for (size_t i = 0; i < count; i++)
        add_row(k, &shipped[i], err);
    json_decref(root);
    return true;
}

bool known_read(Known *k, Db *db, const char *device, Err *err)
{
    k->arena = arena_new();
    return (!db || db_each(db, device, add_row, k, err)) && add_shipped(k, device, err);
}

void known_free(Known *k)
{
    vec_free(&k->list);
    if (k->arena)
        arena_free(k->arena);
    *k = (Known){0};
}

/* Settings are compared as trees: a row that was imported has its keys in another order, or spaces. */
static bool is_default(const Record *r, const json_t *settings)
{
    json_t *other = json_loads(r->default_settings, 0, NULL);
    bool same = json_equal(settings, other);
    json_decref(other);
    return same;
}

char *known_winners(const Known *k, const char *target)
{
    json_t *list = json_array();
    for (size_t i = 0; i < k->list.len; i++) {
        const Record *r = &k->list.at[i];
        json_t *settings = strcmp(r->target, target) ? NULL : json_loads(r->settings, 0, NULL);
        if (settings && !is_default(r, settings))
            json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:I, s:O}", "operator", r->operator, "parameters",
                                                  r->parameters, "schedule", r->schedule, "bucket",
                                                  (json_int_t)r->bucket, "settings", settings));
        json_decref(settings);
    }
    char *text = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    return text;
}
