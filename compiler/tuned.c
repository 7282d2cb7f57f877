/* tuned.c - finding and reading the files of tuned settings; see tuned.h. */
#include "tuned.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 4096, MAX_BYTES = 16 << 20 };

void tuned_user_folder(char *out, size_t size)
{
    const char *xdg = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    int n = xdg && xdg[0] == '/' ? snprintf(out, size, "%s/blade/tuned", xdg)
            : home && home[0]    ? snprintf(out, size, "%s/.local/share/blade/tuned", home)
                                 : snprintf(out, size, "%s", "");
    if (n < 0 || (size_t)n >= size)
        *out = 0;
}

/* The two places, the shipped one first; a path is "" where there is none. */
static void places(const char *source, const char *device, char path[2][PATH_BYTES])
{
    char own[PATH_BYTES / 2];
    tuned_user_folder(own, sizeof own);
    path[0][0] = path[1][0] = 0;
    if (!*device || strpbrk(device, "/\n"))
        return;
    snprintf(path[0], PATH_BYTES, "%s/autotune/results/%s.json", source, device);
    if (*own)
        snprintf(path[1], PATH_BYTES, "%s/%s.json", own, device);
}

uint64_t tuned_signature(uint64_t h, const char *source, const char *device)
{
    char path[2][PATH_BYTES];
    places(source, device, path);
    for (int i = 0; i < 2; i++) {
        Buf text = {0};
        if (*path[i] && file_exists(path[i]) && file_read(&text, path[i], MAX_BYTES, NULL))
            h = hash_bytes(hash_bytes(h, &text.len, sizeof text.len), text.data, text.len);
        buf_free(&text);
    }
    return h;
}

static bool check_entry(const json_t *e, Err *err)
{
    static const char *const texts[] = {"target", "operator", "parameters", "schedule"};
    int64_t bucket;
    if (!json_is_object(e))
        return err_set(err, "not an object");
    for (size_t i = 0; i < COUNT(texts); i++)
        if (!json_is_string(json_object_get(e, texts[i])))
            return err_set(err, "\"%s\" is not a string", texts[i]);
    if (!json_is_object(json_object_get(e, "settings")))
        return err_set(err, "\"settings\" is not an object");
    return json_get_int(e, "bucket", 0, 1 << 30, 0, &bucket, err);
}

json_t *tuned_file(const char *path, Err *err)
{
    json_t *root = json_read(path, MAX_BYTES, err), *entries;
    int64_t format;
    if (!root)
        return NULL;
    entries = json_object_get(root, "entries");
    bool ok = json_get_int(root, "format", 0, INT32_MAX, 0, &format, err);
    if (ok && format != 1)
        ok = err_set(err, "format %lld of tuned settings; this program reads format 1", (long long)format);
    if (ok && (!json_is_string(json_object_get(root, "device")) || !json_is_array(entries)))
        ok = err_set(err, "no tuned settings: \"device\" and \"entries\" are needed");
    for (size_t i = 0; ok && i < json_array_size(entries); i++)
        if (!check_entry(json_array_get(entries, i), err))
            ok = err_prefix(err, "entries[%zu]", i);
    if (ok)
        return root;
    json_decref(root);
    err_prefix(err, "%s", path);
    return NULL;
}

static void append_entries(json_t *list, const char *path, bool shipped, const char *target, Buf *warnings)
{
    Err err = {0};
    json_t *root = tuned_file(path, &err), *e;
    size_t i;
    if (!root) {
        buf_printf(warnings, "%s; the tuned settings in it are not used\n", err.text);
        return;
    }
    json_array_foreach(json_object_get(root, "entries"), i, e) {
        if (strcmp(json_string_value(json_object_get(e, "target")), target))
            continue;
        json_object_set_new(e, "file", json_string(path));
        json_object_set_new(e, "shipped", json_boolean(shipped));
        json_array_append(list, e);
    }
    json_decref(root);
}

json_t *tuned_read(const char *source, const char *device, const char *target, Buf *warnings)
{
    char path[2][PATH_BYTES];
    json_t *list = json_array();
    places(source, device, path);
    for (int i = 0; i < 2; i++)
        if (*path[i] && file_exists(path[i]))
            append_entries(list, path[i], i == 0, target, warnings);
    return list;
}
