/* case_file.c - see case_file.h. */
#include "case_file.h"

#include <stdlib.h>
#include <string.h>

Device *case_device(const char *name, Err *err)
{
    Device *d = NULL;
    if (!device_gpu_open(name, &d, err))
        return NULL;
    return d ? d : device_host_open(0, false, err);
}

/* How well the first target of a file serves the device; -1 not at all. */
static int rank_of(const char *path, const char *kind, const Device *d, Err *err)
{
    Pack pack;
    if (!pack_open(path, &pack, err))
        return -1;
    int rank = strcmp(pack.header.weights, kind) ? -1 : device_rank(d->target, pack.header.target);
    if (rank < 0)
        err_set(err, "%s: a file of %s for %s; %s wants %s for %s", path, pack.header.weights, pack.header.target,
                d->label, kind, *d->target ? d->target : "this CPU");
    pack_close(&pack);
    return rank;
}

bool case_file_open(CaseFile *f, char *const *paths, int count, const char *kind, const Device *d, Err *err)
{
    int best = -1, rank = 0;
    *f = (CaseFile){0};
    if (!count)
        return err_set(err, "no file of %s is given (bladegen %s makes them)", kind, kind);
    for (int i = 0; i < count; i++) {
        int r = rank_of(paths[i], kind, d, err);
        if (r >= 0 && (best < 0 || r < rank))
            best = i, rank = r;
    }
    if (best < 0 || !pack_open(paths[best], &f->pack, err))
        return false;
    f->plan = plan_parse(f->pack.plan, f->pack.plan_len, f->pack.code_len, err);
    f->root = f->plan ? json_parse(f->pack.plan, f->pack.plan_len, "plan", err) : NULL;
    f->cases = json_object_get(f->root, "cases");
    if (f->root && (json_is_array(f->cases) || err_set(err, "there are no \"cases\"")))
        return true;
    case_file_close(f);
    return err_prefix(err, "%s", paths[best]);
}

void case_file_close(CaseFile *f)
{
    plan_free(f->plan);
    json_decref(f->root);
    pack_close(&f->pack);
}

bool case_sizes(const json_t *c, int64_t sizes[SIZE_COUNT], Err *err)
{
    const json_t *list = json_object_get(c, "sizes");
    for (int i = 0; i < SIZE_COUNT; i++)
        if (!json_get_int(list, size_names[i], 0, 1 << 30, 0, &sizes[i], err))
            return false;
    return true;
}

bool case_blob(const CaseFile *f, int64_t number, const uint8_t **data, size_t *n, Err *err)
{
    const json_t *place = json_array_get(json_object_get(f->root, "blobs"), (size_t)number);
    json_int_t offset = json_integer_value(json_array_get(place, 0));
    json_int_t size = json_integer_value(json_array_get(place, 1));
    if (json_array_size(place) != 2 || offset < 0 || size < 0 || (size_t)offset > f->pack.code_len ||
        (size_t)size > f->pack.code_len - (size_t)offset)
        return err_set(err, "blob %lld lies outside of the file", (long long)number);
    *data = f->pack.code + offset;
    *n = (size_t)size;
    return true;
}
