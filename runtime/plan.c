/* plan.c - from the JSON text of a plan to checked structures; see plan.h. Messages give the path to the mistake:
 * "plan: steps[1]: launches[3]: ...". */
#include "plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

const char *const plan_io_names[IO_COUNT] = {
#define X(id, name, type, columns, rows) name,
    PLAN_IO(X)
#undef X
};

const char *const buffer_kind_names[BUFFER_KINDS] = {
    "weight", "mapped", "constant", "input", "output", "activation", "kv", "temporary",
};

enum { MAX_KERNELS = 1 << 16, MAX_BUFFERS = 1 << 20, MAX_LAUNCHES = 1 << 20, MAX_STEPS = 256, MAX_LIMITS = 16,
       MAX_TERMS = 16, BUFFER_ALIGN = 64, BUFFER_SLACK = 64 };
static const int64_t max_extent = (int64_t)1 << 46; /* bytes or blocks: beyond any machine, far from overflow */

typedef struct Reader {
    Plan *p;
    size_t code_len;
    Err *err;
} Reader;

/* ---- typed access --------------------------------------------------------------------------------------------- */

static bool get_int(Reader *r, const json_t *o, const char *key, int64_t lo, int64_t hi, int64_t dflt, int64_t *out)
{
    return json_get_int(o, key, lo, hi, dflt, out, r->err);
}

static bool get_small(Reader *r, const json_t *o, const char *key, int lo, int hi, int dflt, int *out)
{
    int64_t v;
    if (!get_int(r, o, key, lo, hi, dflt, &v))
        return false;
    *out = (int)v;
    return true;
}

static bool need_int(Reader *r, const json_t *o, const char *key, int64_t lo, int64_t hi, int64_t *out)
{
    if (!json_object_get(o, key))
        return err_set(r->err, "\"%s\" is missing", key);
    return get_int(r, o, key, lo, hi, lo, out);
}

/* A string of the arena; `dflt` when absent. */
static bool get_str(Reader *r, const json_t *o, const char *key, const char *dflt, const char **out)
{
    const char *s;
    if (!json_get_str(o, key, dflt, &s, r->err))
        return false;
    *out = s ? arena_strdup(r->p->arena, s) : NULL;
    return true;
}

static bool need_str(Reader *r, const json_t *o, const char *key, const char **out)
{
    return get_str(r, o, key, NULL, out) && (*out || err_set(r->err, "\"%s\" is missing", key));
}

/* An array of at most `max` elements; an absent one is empty (*out NULL). */
static bool get_array(Reader *r, const json_t *o, const char *key, int max, json_t **out, int *count)
{
    json_t *a = json_object_get(o, key);
    *out = a;
    *count = 0;
    if (!a || json_is_null(a))
        return true;
    if (!json_is_array(a))
        return err_set(r->err, "\"%s\" is not an array", key);
    if (json_array_size(a) > (size_t)max)
        return err_set(r->err, "\"%s\" has %zu elements, more than %d", key, json_array_size(a), max);
    *count = (int)json_array_size(a);
    return true;
}

typedef bool ReadRow(Reader *r, const json_t *o, void *row);

/* Reads an array of objects into an array of `size`-byte rows. */
static bool get_rows(Reader *r, const json_t *o, const char *key, int max, size_t size, ReadRow *read, void **rows,
                     int *count)
{
    json_t *a;
    if (!get_array(r, o, key, max, &a, count))
        return false;
    char *out = arena_alloc(r->p->arena, size * (size_t)*count);
    *rows = out;
    for (int i = 0; i < *count; i++) {
        const json_t *e = json_array_get(a, (size_t)i);
        bool ok = json_is_object(e) ? read(r, e, out + size * (size_t)i) : err_set(r->err, "not an object");
        if (!ok)
            return err_prefix(r->err, "%s[%d]", key, i);
    }
    return true;
}

static bool get_dtype(Reader *r, const json_t *o, const char *key, DType *out)
{
    const char *name;
    *out = DT_NONE;
    if (!json_get_str(o, key, NULL, &name, r->err))
        return false;
    if (name && !(*out = dtype_parse(name, strlen(name))))
        return err_set(r->err, "unknown type \"%.40s\"", name);
    return true;
}

/* ---- extents, kernels ----------------------------------------------------------------------------------------- */

static bool read_size_name(Reader *r, const json_t *o, int *size)
{
    const char *name;
    *size = -1;
    if (!json_get_str(o, "size", NULL, &name, r->err))
        return false;
    for (int i = 0; name && i < SIZE_COUNT; i++)
        if (!strcmp(size_names[i], name))
            *size = i;
    return !name || *size >= 0 || err_set(r->err, "unknown size \"%.40s\"", name);
}

static bool read_extent(Reader *r, const json_t *o, void *row)
{
    Extent *e = row;
    return need_int(r, o, "n", 0, max_extent, &e->n) && get_int(r, o, "div", 1, max_extent, 1, &e->div) &&
           read_size_name(r, o, &e->size);
}

static bool read_kernel(Reader *r, const json_t *o, void *row)
{
    PlanKernel *k = row;
    Extent *grid;
    if (!need_str(r, o, "name", &k->name) || !get_str(r, o, "symbol", "kernel", &k->symbol) ||
        !need_int(r, o, "offset", 0, (int64_t)r->code_len, &k->offset) ||
        !need_int(r, o, "size", 1, (int64_t)r->code_len, &k->size) ||
        !get_int(r, o, "scratch", 0, (int64_t)1 << 32, 0, &k->scratch) ||
        !get_small(r, o, "threads", 0, PLAN_MAX_THREADS, 0, &k->threads) ||
        !get_int(r, o, "shared", 0, PLAN_MAX_SHARED, 0, &k->shared) ||
        !get_rows(r, o, "grid", PLAN_MAX_GRID, sizeof *grid, read_extent, (void **)&grid, &k->dims))
        return false;
    if (k->size > (int64_t)r->code_len - k->offset)
        return err_set(r->err, "its code lies outside of the pack (%lld bytes at %lld of %zu)", (long long)k->size,
                       (long long)k->offset, r->code_len);
    memcpy(k->grid, grid, sizeof *grid * (size_t)k->dims);
    return true;
}

/* ---- buffers -------------------------------------------------------------------------------------------------- */

static bool read_shape(Reader *r, const json_t *o, TensorSpec *t)
{
    json_t *shape;
    int rank;
    t->rank = -1;
    if (!get_array(r, o, "shape", (int)COUNT(t->shape), &shape, &rank))
        return false;
    if (!shape || json_is_null(shape))
        return true;
    t->rank = rank;
    for (int i = 0; i < rank; i++) {
        const json_t *d = json_array_get(shape, (size_t)i);
        t->shape[i] = json_integer_value(d);
        if (!json_is_integer(d) || t->shape[i] < 0)
            return err_set(r->err, "shape[%d] is not a count", i);
    }
    return true;
}

/* {"tensor": name, "dtype", "shape", "align"}: all but the name optional. */
static bool read_tensor(Reader *r, const json_t *o, int64_t align, TensorSpec *t)
{
    t->bytes = -1;
    return need_str(r, o, "tensor", &t->name) && get_dtype(r, o, "dtype", &t->type) && read_shape(r, o, t) &&
           get_int(r, o, "align", 1, 4096, align, &t->align);
}

static bool read_fill(Reader *r, const json_t *o, PlanFill *f)
{
    const json_t *fill = json_object_get(o, "fill");
    if (!fill || json_is_null(fill))
        return true;
    if (!json_is_object(fill))
        return err_set(r->err, "\"fill\" is not an object");
    return get_dtype(r, fill, "type", &f->type) && json_get_real(fill, "scale", 0, 1e30, 0, &f->scale, r->err) &&
           json_get_real(fill, "mean", -1e30, 1e30, 0, &f->mean, r->err);
}

static bool read_data(Reader *r, const json_t *o, PlanBuffer *b)
{
    DType type;
    json_t *data;
    int count;
    if (!get_dtype(r, o, "data_type", &type) || !get_array(r, o, "data", 1 << 24, &data, &count))
        return false;
    if (type == DT_NONE || dtype_size(type) == 0 || type == DT_F8_E4M3 || type == DT_F8_E5M2)
        return err_set(r->err, "a constant needs a \"data_type\" of whole bytes");
    b->data_bytes = (int64_t)count * (int64_t)dtype_size(type);
    void *out = arena_alloc(r->p->arena, (size_t)b->data_bytes);
    for (int i = 0; i < count; i++) {
        const json_t *v = json_array_get(data, (size_t)i);
        if (!json_is_number(v))
            return err_set(r->err, "data[%d] is not a number", i);
        dtype_set(type, out, (size_t)i, json_number_value(v));
    }
    b->data = out;
    return true;
}

static int find_name(const char *const *names, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (!strcmp(names[i], name))
            return i;
    return -1;
}

/* Inputs and outputs are known by name, each at most once. */
static bool bind_io(Reader *r, PlanBuffer *b, int index)
{
    int io = find_name(plan_io_names, IO_COUNT, b->name);
    if (io < 0 || (io >= IO_FIRST_OUTPUT) != (b->kind == BUFFER_OUTPUT))
        return err_set(r->err, "unknown %s \"%.60s\"", buffer_kind_names[b->kind], b->name);
    if (r->p->io[io] >= 0)
        return err_set(r->err, "there are two buffers \"%s\"", b->name);
    r->p->io[io] = index;
    b->io = io;
    return true;
}

static bool read_buffer(Reader *r, const json_t *o, void *row)
{
    PlanBuffer *b = row;
    const char *kind;
    b->io = -1;
    if (!need_str(r, o, "name", &b->name) || !need_str(r, o, "kind", &kind))
        return false;
    int k = find_name(buffer_kind_names, BUFFER_KINDS, kind);
    if (k < 0)
        return err_set(r->err, "unknown kind \"%.40s\"", kind);
    b->kind = (BufferKind)k;
    if (b->kind == BUFFER_INPUT || b->kind == BUFFER_OUTPUT)
        return bind_io(r, b, (int)(b - r->p->buffers));
    if (b->kind == BUFFER_KV)
        return need_int(r, o, "page_bytes", 1, max_extent, &b->page_bytes);
    if (b->kind == BUFFER_CONSTANT)
        return read_data(r, o, b);
    if (b->kind == BUFFER_MAPPED && !read_tensor(r, o, 64, &b->tensor))
        return false;
    if (!get_rows(r, o, "bytes", MAX_TERMS, sizeof *b->bytes, read_extent, (void **)&b->bytes, &b->terms) ||
        !read_fill(r, o, &b->fill))
        return false;
    for (int i = 0; i < b->terms; i++)
        if (b->kind != BUFFER_ACTIVATION && b->bytes[i].size >= 0)
            return err_set(r->err, "a %s buffer's size must be constant", buffer_kind_names[b->kind]);
    for (int i = 0; i < b->terms && b->kind == BUFFER_MAPPED; i++)
        b->tensor.bytes = MAX(b->tensor.bytes, 0) + b->bytes[i].n;
    return b->terms || err_set(r->err, "\"bytes\" is missing");
}

/* get_rows with the array known before its elements are read, for bind_io. */
static bool read_buffers(Reader *r, const json_t *root)
{
    json_t *a;
    Plan *p = r->p;
    if (!get_array(r, root, "buffers", MAX_BUFFERS, &a, &p->buffers_count))
        return false;
    p->buffers = arena_array(p->arena, PlanBuffer, p->buffers_count);
    for (int i = 0; i < p->buffers_count; i++) {
        const json_t *e = json_array_get(a, (size_t)i);
        if (!(json_is_object(e) ? read_buffer(r, e, &p->buffers[i]) : err_set(r->err, "not an object")))
            return err_prefix(r->err, "buffers[%d]", i);
    }
    return true;
}

/* ---- launches ------------------------------------------------------------------------------------------------- */

static bool check_buffer_arg(Reader *r, const PlanArg *arg, bool loading)
{
    const Plan *p = r->p;
    if (arg->buffer < 0 || arg->buffer >= p->buffers_count)
        return err_set(r->err, "buffer %d of %d", arg->buffer, p->buffers_count);
    const PlanBuffer *b = &p->buffers[arg->buffer];
    bool load_kind = b->kind == BUFFER_WEIGHT || b->kind == BUFFER_TEMPORARY || b->kind == BUFFER_CONSTANT;
    if (loading ? !load_kind : b->kind == BUFFER_TEMPORARY)
        return err_set(r->err, "buffer \"%.60s\" (%s) can't be used %s", b->name, buffer_kind_names[b->kind],
                       loading ? "while loading" : "in a step");
    return true;
}

/* 5, {"buffer": 5, "offset": 64}, or while loading {"tensor": ...}. */
static bool read_arg(Reader *r, const json_t *e, bool loading, PlanArg *arg)
{
    if (json_is_integer(e)) {
        int64_t v = json_integer_value(e);
        arg->buffer = v < 0 || v > MAX_BUFFERS ? -1 : (int)v;
        return check_buffer_arg(r, arg, loading);
    }
    if (!json_is_object(e))
        return err_set(r->err, "neither a buffer's index nor an object");
    if (loading && json_object_get(e, "tensor")) {
        arg->buffer = -1;
        arg->tensor = arena_alloc(r->p->arena, sizeof *arg->tensor);
        return read_tensor(r, e, 0, arg->tensor) && get_int(r, e, "bytes", 0, max_extent, -1, &arg->tensor->bytes);
    }
    return get_small(r, e, "buffer", 0, MAX_BUFFERS, -1, &arg->buffer) &&
           get_int(r, e, "offset", 0, max_extent, 0, &arg->offset) && check_buffer_arg(r, arg, loading);
}

static bool read_args(Reader *r, const json_t *o, bool loading, PlanLaunch *l)
{
    json_t *args;
    if (!get_array(r, o, "args", PLAN_MAX_ARGS, &args, &l->args_count))
        return false;
    l->args = arena_array(r->p->arena, PlanArg, l->args_count);
    for (int i = 0; i < l->args_count; i++)
        if (!read_arg(r, json_array_get(args, (size_t)i), loading, &l->args[i]))
            return err_prefix(r->err, "args[%d]", i);
    return true;
}

static bool read_launch(Reader *r, const json_t *o, void *row)
{
    PlanLaunch *l = row;
    return get_small(r, o, "kernel", 0, r->p->kernels_count - 1, -1, &l->kernel) &&
           (l->kernel >= 0 || err_set(r->err, "\"kernel\" is missing")) && read_args(r, o, false, l);
}

static bool read_sizes(Reader *r, const json_t *o, PlanLaunch *l)
{
    const json_t *sizes = json_object_get(o, "sizes");
    l->sizes = arena_array(r->p->arena, int64_t, SIZE_COUNT);
    if (sizes && !json_is_object(sizes))
        return err_set(r->err, "\"sizes\" is not an object");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)sizes, key, value)
        if (find_name(size_names, SIZE_COUNT, key) < 0)
            return err_set(r->err, "unknown size \"%.40s\"", key);
    for (int i = 0; i < SIZE_COUNT; i++)
        if (!get_int(r, sizes, size_names[i], 0, max_extent, 0, &l->sizes[i]))
            return false;
    return true;
}

static bool read_load(Reader *r, const json_t *o, void *row)
{
    PlanLaunch *l = row;
    const char *builtin;
    if (!get_small(r, o, "kernel", 0, r->p->kernels_count - 1, -1, &l->kernel) ||
        !json_get_str(o, "builtin", NULL, &builtin, r->err) || !read_args(r, o, true, l) || !read_sizes(r, o, l))
        return false;
    if (l->kernel >= 0)
        return !builtin || err_set(r->err, "both a kernel and a builtin");
    if (!builtin || strcmp(builtin, "argsort"))
        return err_set(r->err, "neither a kernel nor a known builtin");
    l->builtin = BUILTIN_ARGSORT;
    if (l->args_count != 2 || l->args[1].buffer < 0)
        return err_set(r->err, "argsort takes a source and a buffer");
    return true;
}

static bool read_step(Reader *r, const json_t *o, void *row)
{
    PlanStep *s = row;
    return need_int(r, o, "max_tokens", 0, max_extent, &s->max_tokens) &&
           get_rows(r, o, "launches", MAX_LAUNCHES, sizeof *s->launches, read_launch, (void **)&s->launches, &s->count);
}

static bool read_input_bytes(Reader *r, const json_t *o, PlanLimit *l)
{
    json_t *inputs;
    if (!get_array(r, o, "input_bytes", PLAN_MAX_INPUTS, &inputs, &l->inputs))
        return false;
    for (int i = 0; i < l->inputs; i++) {
        const json_t *n = json_array_get(inputs, (size_t)i);
        l->input_bytes[i] = json_integer_value(n);
        if (!json_is_integer(n) || l->input_bytes[i] < 1 || l->input_bytes[i] > 1 << 30)
            return err_set(r->err, "input_bytes[%d] is not a size", i);
    }
    return true;
}

static bool read_limit(Reader *r, const json_t *o, void *row)
{
    PlanLimit *l = row;
    return need_str(r, o, "name", &l->name) &&
           get_small(r, o, "kernel", 0, r->p->kernels_count - 1, -1, &l->kernel) &&
           (l->kernel >= 0 || err_set(r->err, "\"kernel\" is missing")) &&
           get_int(r, o, "bytes_per_block", 0, max_extent, 0, &l->bytes_per_block) &&
           get_int(r, o, "ops_per_block", 0, max_extent, 0, &l->ops_per_block) &&
           read_input_bytes(r, o, l) &&
           get_int(r, o, "output_bytes", 0, 1 << 20, 64, &l->output_bytes) &&
           (l->bytes_per_block || l->ops_per_block || err_set(r->err, "neither bytes nor operations a block"));
}

/* ---- the whole ------------------------------------------------------------------------------------------------ */

static bool read_model(Reader *r, const json_t *root)
{
    Plan *p = r->p;
    const json_t *m = json_object_get(root, "model");
    if (!json_is_object(m))
        return err_set(r->err, "\"model\" is missing");
    return (get_str(r, m, "architecture", "", &p->architecture) && get_str(r, m, "weights", "", &p->weights) &&
            get_int(r, m, "layers", 0, 1 << 20, 0, &p->layers) &&
            get_int(r, m, "hidden", 0, 1 << 30, 0, &p->hidden) && need_int(r, m, "vocab", 1, 1 << 30, &p->vocab) &&
            need_int(r, m, "context", 1, 1 << 30, &p->context) &&
            get_int(r, m, "kv_heads", 0, 1 << 20, 0, &p->kv_heads) &&
            get_int(r, m, "head_dim", 0, 1 << 20, 0, &p->head_dim)) ||
           err_prefix(r->err, "model");
}

static bool read_root(Reader *r, const json_t *root)
{
    Plan *p = r->p;
    int64_t format;
    if (!get_int(r, root, "format", 0, INT64_MAX, 0, &format))
        return false;
    if (format != 2)
        return err_set(r->err, "format %lld; this program reads format 2", (long long)format);
    return read_model(r, root) && need_int(r, root, "page_tokens", 1, 1 << 20, &p->page_tokens) &&
           need_int(r, root, "prefill_tile", 1, 1 << 20, &p->prefill_tile) &&
           need_int(r, root, "logits_stride", p->vocab, (int64_t)1 << 31, &p->logits_stride) &&
           get_int(r, root, "hidden_stride", 0, (int64_t)1 << 31, 0, &p->hidden_stride) &&
           (!p->hidden_stride || p->hidden_stride >= p->hidden || err_set(r->err, "\"hidden_stride\" is too small")) &&
           json_get_real(root, "flops_per_token", 0, 1e30, 0, &p->flops_per_token, r->err) &&
           json_get_real(root, "flops_per_output", 0, 1e30, 0, &p->flops_per_output, r->err) &&
           json_get_real(root, "weight_bytes_per_step", 0, 1e30, 0, &p->weight_bytes_per_step, r->err) &&
           get_str(r, root, "peak", "f32", &p->peak) &&
           get_rows(r, root, "kernels", MAX_KERNELS, sizeof *p->kernels, read_kernel, (void **)&p->kernels,
                    &p->kernels_count) &&
           read_buffers(r, root) &&
           get_rows(r, root, "load", MAX_LAUNCHES, sizeof *p->load, read_load, (void **)&p->load, &p->load_count) &&
           get_rows(r, root, "steps", MAX_STEPS, sizeof *p->steps, read_step, (void **)&p->steps, &p->steps_count) &&
           get_rows(r, root, "sample", MAX_LAUNCHES, sizeof *p->sample, read_launch, (void **)&p->sample,
                    &p->sample_count) &&
           get_rows(r, root, "limits", MAX_LIMITS, sizeof *p->limits, read_limit, (void **)&p->limits,
                    &p->limits_count) &&
           (p->steps_count || err_set(r->err, "there are no steps"));
}

Plan *plan_parse(const char *text, size_t size, size_t code_len, Err *err)
{
    json_t *root = json_parse(text, size, "plan", err);
    if (!root)
        return NULL;
    Arena *a = arena_new();
    Plan *p = arena_alloc(a, sizeof *p);
    p->arena = a;
    for (int i = 0; i < IO_COUNT; i++)
        p->io[i] = -1;
    Reader r = {p, code_len, err};
    bool ok = read_root(&r, root) || err_prefix(err, "plan");
    json_decref(root);
    if (ok)
        return p;
    plan_free(p);
    return NULL;
}

void plan_free(Plan *p)
{
    if (p)
        arena_free(p->arena);
}

/* ---- sizes ---------------------------------------------------------------------------------------------------- */

/* ceil(n * size / div), -1 when it is beyond max_extent. */
static int64_t extent_value(const Extent *e, const int64_t *sizes)
{
    int64_t v = e->n;
    if (e->size >= 0 && (__builtin_mul_overflow(v, sizes[e->size], &v) || v > INT64_MAX - e->div))
        return -1;
    v = v / e->div + (v % e->div > 0);
    return v > max_extent ? -1 : v;
}

int64_t plan_blocks(const PlanKernel *k, const int64_t sizes[SIZE_COUNT])
{
    int64_t blocks = 1;
    for (int i = 0; i < k->dims; i++) {
        int64_t v = extent_value(&k->grid[i], sizes);
        if (v < 0 || __builtin_mul_overflow(blocks, v, &blocks) || blocks > max_extent)
            return -1;
    }
    return blocks;
}

bool plan_grid_has(const PlanKernel *k, SizeId size)
{
    for (int i = 0; i < k->dims; i++)
        if (k->grid[i].size == (int)size)
            return true;
    return false;
}

int64_t plan_io_bytes(const Plan *p, PlanIo io, const int64_t s[SIZE_COUNT])
{
    int64_t rows = 0, columns = 0, bytes;
    DType type = DT_NONE;
    switch ((int)io) {
#define X(id, name, t, c, n) case IO_##id: type = DT_##t, columns = (c), rows = (n); break;
        PLAN_IO(X)
#undef X
    }
    if (__builtin_mul_overflow(rows, columns, &bytes) || bytes > max_extent)
        return -1;
    return bytes * (int64_t)dtype_size(type);
}

int64_t plan_buffer_bytes(const Plan *p, int buffer, const int64_t caps[SIZE_COUNT])
{
    const PlanBuffer *b = &p->buffers[buffer];
    int64_t total = 0;
    if (b->io >= 0)
        return plan_io_bytes(p, (PlanIo)b->io, caps);
    if (b->kind == BUFFER_CONSTANT)
        return b->data_bytes;
    if (b->kind == BUFFER_KV)
        return __builtin_mul_overflow(b->page_bytes, caps[SIZE_KV_PAGES], &total) || total > max_extent ? -1 : total;
    for (int i = 0; i < b->terms; i++) {
        int64_t v = extent_value(&b->bytes[i], caps);
        if (v < 0)
            return -1;
        total += v;
    }
    return total > max_extent ? -1 : total;
}

int64_t plan_page_bytes(const Plan *p)
{
    int64_t total = 0;
    for (int i = 0; i < p->buffers_count; i++)
        total += p->buffers[i].page_bytes;
    return total;
}

const PlanStep *plan_step_for(const Plan *p, int64_t tokens)
{
    for (int i = 0; i < p->steps_count; i++)
        if (!p->steps[i].max_tokens || p->steps[i].max_tokens >= tokens)
            return &p->steps[i];
    return NULL;
}

int64_t plan_room(int64_t bytes)
{
    return (bytes + BUFFER_SLACK + BUFFER_ALIGN - 1) / BUFFER_ALIGN * BUFFER_ALIGN;
}

bool plan_memory(const Plan *p, const int64_t caps[SIZE_COUNT], int threads, PlanMemory *m, Err *err)
{
    *m = (PlanMemory){0};
    for (int i = 0; i < p->buffers_count; i++) {
        int64_t bytes = plan_buffer_bytes(p, i, caps), *sum = &m->kind[p->buffers[i].kind];
        if (bytes < 0 || *sum > INT64_MAX / 16)
            return err_set(err, "buffer \"%s\" would take more memory than any machine has; lower the limits on "
                           "tokens and sequences", p->buffers[i].name);
        *sum += p->buffers[i].kind == BUFFER_MAPPED ? bytes : plan_room(bytes);
    }
    for (int i = 0; i < p->kernels_count; i++) {
        m->scratch = MAX(m->scratch, (p->kernels[i].scratch + 4095) / 4096 * 4096 * threads);
        m->code += p->kernels[i].size;
    }
    m->kind[BUFFER_INPUT] *= PLAN_INPUT_SETS;
    m->total = m->scratch + m->code;
    for (int k = 0; k < BUFFER_KINDS; k++)
        if (k != BUFFER_MAPPED && k != BUFFER_TEMPORARY)
            m->total += m->kind[k];
    m->peak = m->total + m->kind[BUFFER_TEMPORARY];
    return true;
}
