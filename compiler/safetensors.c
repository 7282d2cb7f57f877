/* safetensors.c - implementation of safetensors.h; see there. */
#include "safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#define MAX_HEADER 100000000 /* bytes; the limit of the reference implementation */

Quoted quoted(const char *name)
{
    Quoted q = {0};
    size_t n = strlen(name), shown = n <= 100 ? n : utf8_complete(name, 97);
    for (size_t i = 0; i < shown; i++)
        q.text[i] = (unsigned char)name[i] < 0x20 || name[i] == 0x7F || name[i] == '"' ? '?' : name[i];
    if (shown < n)
        memcpy(q.text + shown, "...", 3);
    return q;
}

/* ---- one entry of the header ---------------------------------------------------------------------------------- */

static bool read_shape(const json_t *shape, Tensor *t, Err *err)
{
    if (!json_is_array(shape))
        return err_set(err, "its \"shape\" is not an array");
    size_t rank = json_array_size(shape);
    if (rank > TENSOR_MAX_RANK)
        return err_set(err, "it has %zu dimensions, at most %d are supported", rank, TENSOR_MAX_RANK);
    t->rank = (int)rank;
    for (size_t i = 0; i < rank; i++) {
        const json_t *dim = json_array_get(shape, i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return err_set(err, "dimension %zu of its \"shape\" is not a non-negative integer", i);
        t->shape[i] = json_integer_value(dim);
    }
    return true;
}

static bool read_dtype(const json_t *dtype, Tensor *t, Err *err)
{
    if (!json_is_string(dtype))
        return err_set(err, "its \"dtype\" is not a string");
    const char *name = json_string_value(dtype);
    t->type = dtype_parse_safetensors(name, json_string_length(dtype));
    if (t->type != DT_NONE)
        return true;
    static const char *const names[] = {
#define X(id, ours, bits, st, flt, sgn) st,
        DTYPES(X)
#undef X
    };
    Buf known = {0};
    for (size_t i = 0; i < COUNT(names); i++)
        if (*names[i])
            buf_printf(&known, " %s", names[i]);
    err_set(err, "dtype \"%s\" is not supported; supported are%s", quoted(name).text, known.data);
    buf_free(&known);
    return false;
}

/* Bytes that type and shape ask for. */
static bool size_of(const Tensor *t, uint64_t *bytes)
{
    *bytes = dtype_size(t->type);
    for (int i = 0; i < t->rank; i++)
        if (__builtin_mul_overflow(*bytes, (uint64_t)t->shape[i], bytes))
            return false;
    return *bytes <= INT64_MAX;
}

/* `data` and `size` are the data part of the file. */
static bool read_offsets(const json_t *offsets, const uint8_t *data, size_t size, Tensor *t, Err *err)
{
    const json_t *b = json_array_get(offsets, 0), *e = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(b) || !json_is_integer(e))
        return err_set(err, "its \"data_offsets\" are not two integers");
    int64_t begin = json_integer_value(b), end = json_integer_value(e);
    if (begin < 0 || end < begin)
        return err_set(err, "its \"data_offsets\" [%" PRId64 ", %" PRId64 "] are not a range", begin, end);
    if ((uint64_t)end > size)
        return err_set(err, "its data end at byte %" PRId64 ", but only %zu bytes of data are there: it is truncated",
                       end, size);
    uint64_t bytes;
    if (!size_of(t, &bytes))
        return err_set(err, "its shape is too big");
    if (bytes != (uint64_t)(end - begin))
        return err_set(err, "its \"data_offsets\" span %" PRId64 " bytes, but its dtype and shape make %" PRIu64,
                       end - begin, bytes);
    t->data = data + begin;
    t->bytes = (size_t)bytes;
    return true;
}

static bool read_entry(Arena *a, const char *name, const json_t *entry, const uint8_t *data, size_t size, Tensor *t,
                       Err *err)
{
    t->name = arena_strdup(a, name);
    bool ok = json_is_object(entry) ? read_dtype(json_object_get(entry, "dtype"), t, err) &&
                                          read_shape(json_object_get(entry, "shape"), t, err) &&
                                          read_offsets(json_object_get(entry, "data_offsets"), data, size, t, err)
                                    : err_set(err, "its entry in the header is not an object");
    return ok || err_prefix(err, "tensor \"%s\"", quoted(name).text);
}

/* ---- the whole file ------------------------------------------------------------------------------------------- */

/* Orders by place; empty tensors come before the one that starts where they are. */
static int by_place(const void *x, const void *y)
{
    const Tensor *a = x, *b = y;
    uintptr_t p = (uintptr_t)a->data, q = (uintptr_t)b->data;
    if (p != q)
        return p < q ? -1 : 1;
    return (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

/* The tensors, in order, must cover the data exactly. */
static bool check_cover(const Tensor *t, size_t count, const uint8_t *data, size_t size, Err *err)
{
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        size_t begin = (size_t)((const uint8_t *)t[i].data - data);
        if (begin < at)
            return err_set(err, "tensors \"%s\" and \"%s\" overlap", quoted(t[i - 1].name).text,
                           quoted(t[i].name).text);
        if (begin > at)
            return err_set(err, "%zu bytes before tensor \"%s\" belong to no tensor", begin - at,
                           quoted(t[i].name).text);
        at = begin + t[i].bytes;
    }
    return at == size || err_set(err, "the last %zu bytes belong to no tensor", size - at);
}

/* What people find under the name of a safetensors file instead of one. */
static bool check_magic(const uint8_t *file, size_t size, Err *err)
{
    static const struct {
        const char *magic, *what;
    } foreign[] = {
        {"version https://git-lfs", "a Git LFS pointer, not the file itself: fetch it with \"git lfs pull\""},
        {"GGUF", "a GGUF file, which is not supported: use the safetensors checkpoint it was made from"},
        {"PK\x03\x04", "a PyTorch (pickle) file, which can run code and is not read: only safetensors is supported"},
        {"<!DOCTYPE", "a web page, not a safetensors file: the download failed"},
    };
    for (size_t i = 0; i < COUNT(foreign); i++) {
        size_t n = strlen(foreign[i].magic);
        if (size >= n && !memcmp(file, foreign[i].magic, n))
            return err_set(err, "this is %s", foreign[i].what);
    }
    return true;
}

static bool header_length(const uint8_t *file, size_t size, size_t *length, Err *err)
{
    uint64_t n = 0;
    if (!check_magic(file, size, err))
        return false;
    if (size < 8)
        return err_set(err, "%zu bytes are too few for a safetensors file", size);
    for (int i = 7; i >= 0; i--)
        n = n << 8 | file[i];
    if (n > MAX_HEADER)
        return err_set(err, "not a safetensors file: header length %" PRIu64 " exceeds %d bytes", n, MAX_HEADER);
    if (n > size - 8)
        return err_set(err, "header length %" PRIu64 ", but only %zu bytes follow: it is truncated", n, size - 8);
    if (!n || file[8] != '{')
        return err_set(err, "not a safetensors file: the header does not begin with '{'");
    *length = (size_t)n;
    return true;
}

static bool read_entries(Arena *a, const json_t *header, const uint8_t *data, size_t size, Tensor **tensors,
                         size_t *count, Err *err)
{
    Tensor *t = arena_array(a, Tensor, json_object_size(header));
    size_t n = 0;
    const char *name;
    json_t *entry;
    json_object_foreach((json_t *)header, name, entry) {
        if (!strcmp(name, "__metadata__")) {
            if (!json_is_object(entry))
                return err_set(err, "\"__metadata__\" is not an object");
        } else if (!read_entry(a, name, entry, data, size, &t[n++], err)) {
            return false;
        }
    }
    if (n)
        qsort(t, n, sizeof *t, by_place);
    *tensors = t;
    *count = n;
    return check_cover(t, n, data, size, err);
}

bool safetensors_read(Arena *a, const uint8_t *file, size_t size, Tensor **tensors, size_t *count, Err *err)
{
    size_t length = 0;
    if (!header_length(file, size, &length, err))
        return false;
    json_error_t e;
    json_t *header = json_loadb((const char *)file + 8, length, JSON_REJECT_DUPLICATES, &e);
    if (!header)
        return err_set(err, "header, byte %d: %s", e.position, quoted(e.text).text);
    const uint8_t *data = file + 8 + length; /* the header began with '{', so it is an object */
    bool ok = read_entries(a, header, data, size - 8 - length, tensors, count, err);
    json_decref(header);
    return ok;
}
