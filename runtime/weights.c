/* weights.c - load steps, mapped tensors and random contents; see weights.h. */
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "timing.h"

enum { SLACK = 64, PAGE = 4096 };

/* ---- tensors -------------------------------------------------------------------------------------------------- */

static void describe(char *out, size_t size, DType type, int rank, const int64_t *shape)
{
    int n = snprintf(out, size, "%s [", type == DT_NONE ? "any type" : dtype_name(type));
    for (int i = 0; i < rank && n < (int)size; i++)
        n += snprintf(out + n, size - (size_t)n, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (n < (int)size)
        snprintf(out + n, size - (size_t)n, rank < 0 ? "...]" : "]");
}

/* The tensor of that name, checked against what the plan expects. */
static const Tensor *find_tensor(const Checkpoint *c, const TensorSpec *want, Err *err)
{
    const Tensor *t = ckpt_find(c, want->name);
    if (!t) {
        err_set(err, "%s: tensor '%s' is missing; the pack was made for another checkpoint", ckpt_dir(c),
                quoted(want->name).text);
        return NULL;
    }
    bool same = (want->type == DT_NONE || want->type == t->type) && (want->rank < 0 || want->rank == t->rank);
    for (int i = 0; same && i < want->rank; i++)
        same = want->shape[i] == t->shape[i];
    if (same && (want->bytes < 0 || (size_t)want->bytes == t->bytes))
        return t;
    char is[160], expected[160];
    describe(is, sizeof is, t->type, t->rank, t->shape);
    describe(expected, sizeof expected, want->type, want->rank, want->shape);
    err_set(err, "%s: tensor '%s' is %s of %zu bytes; the pack was made for %s of %lld bytes", t->file,
            quoted(t->name).text, is, t->bytes, expected, (long long)want->bytes);
    return NULL;
}

/* Whether the 64 bytes behind a tensor can be read: the rest of its last page can, and so can what other tensors of the
 * same file lie in. */
static bool has_slack(const Checkpoint *c, const Tensor *t)
{
    uintptr_t end = (uintptr_t)t->data + t->bytes;
    if (end % PAGE && PAGE - end % PAGE >= SLACK)
        return true;
    for (size_t i = 0; i < ckpt_count(c); i++) {
        const Tensor *o = ckpt_at(c, i);
        uintptr_t begin = (uintptr_t)o->data;
        if (!strcmp(o->file, t->file) && begin >= end && begin - end + o->bytes >= SLACK)
            return true;
    }
    return false;
}

static bool usable_in_place(const Checkpoint *c, const Tensor *t, int64_t align)
{
    size_t a = align ? (size_t)align : MAX(dtype_size(t->type), 1);
    return (uintptr_t)t->data % a == 0 && has_slack(c, t);
}

void weights_mapped(const Plan *p, const Checkpoint *c, int64_t *copied, int64_t *in_place)
{
    static const int64_t caps[SIZE_COUNT]; /* sizes of mapped buffers are constant */
    *copied = *in_place = 0;
    for (int i = 0; i < p->buffers_count; i++) {
        const PlanBuffer *b = &p->buffers[i];
        if (b->kind != BUFFER_MAPPED)
            continue;
        const Tensor *t = c ? ckpt_find(c, b->tensor.name) : NULL;
        int64_t bytes = plan_buffer_bytes(p, i, caps);
        if (t && usable_in_place(c, t, b->tensor.align))
            *in_place += bytes;
        else
            *copied += plan_room(bytes);
    }
}

int64_t weights_copied_at_once(const Plan *p, const Checkpoint *c)
{
    int64_t most = 0;
    for (int i = 0; i < p->load_count; i++) {
        int64_t sum = 0;
        for (int k = 0; k < p->load[i].args_count; k++) {
            const TensorSpec *spec = p->load[i].args[k].tensor;
            const Tensor *t = spec && c ? ckpt_find(c, spec->name) : NULL;
            sum += t ? (int64_t)t->bytes + SLACK : 0;
        }
        most = MAX(most, sum);
    }
    return most;
}

static bool map_buffer(Exec *e, const Checkpoint *c, int buffer, Err *err)
{
    const PlanBuffer *b = &exec_plan(e)->buffers[buffer];
    Device *d = exec_device(e);
    const Tensor *t = find_tensor(c, &b->tensor, err);
    if (!t)
        return false;
    void *address = usable_in_place(c, t, b->tensor.align) ? d->ops->borrow(d, t->data, t->bytes) : NULL;
    if (address) {
        exec_set_mapped(e, buffer, address);
        return true;
    }
    if (!exec_own_mapped(e, buffer, err))
        return false;
    d->ops->copy_in(d, exec_buffer(e, buffer), t->data, t->bytes);
    return true;
}

/* ---- load steps ----------------------------------------------------------------------------------------------- */

typedef struct Argument {
    void *address; /* on the device */
    void *copy;    /* to free after the launch, of `room` bytes; NULL when the tensor is used in place */
    size_t room;
    size_t bytes; /* of the tensor, or of the buffer behind the offset */
    const void *host; /* the tensor's data */
} Argument;

static bool tensor_argument(Exec *e, const Checkpoint *c, const TensorSpec *spec, Argument *a, Err *err)
{
    Device *d = exec_device(e);
    const Tensor *t = find_tensor(c, spec, err);
    if (!t)
        return false;
    a->host = t->data;
    a->bytes = t->bytes;
    a->address = usable_in_place(c, t, spec->align) ? d->ops->borrow(d, t->data, t->bytes) : NULL;
    if (a->address)
        return true;
    a->room = t->bytes + SLACK;
    a->copy = a->address = d->ops->alloc(d, a->room, DEVICE_LOCAL, err);
    if (a->copy)
        d->ops->copy_in(d, a->copy, t->data, t->bytes);
    return a->copy != NULL;
}

static bool argument(Exec *e, const Checkpoint *c, const PlanArg *arg, Argument *a, Err *err)
{
    if (arg->tensor)
        return tensor_argument(e, c, arg->tensor, a, err);
    int64_t bytes = exec_buffer_bytes(e, arg->buffer);
    if (arg->offset > bytes)
        return err_set(err, "plan: a load step writes behind the end of buffer \"%s\"",
                       exec_plan(e)->buffers[arg->buffer].name);
    a->address = (char *)exec_buffer(e, arg->buffer) + arg->offset;
    a->bytes = (size_t)(bytes - arg->offset);
    return true;
}

static void release(Exec *e, Argument *args, int count)
{
    Device *d = exec_device(e);
    for (int i = 0; i < count; i++)
        if (args[i].copy)
            d->ops->free(d, args[i].copy, args[i].room);
}

typedef struct Keyed {
    int32_t key, index;
} Keyed;

static int by_key(const void *a, const void *b)
{
    const Keyed *x = a, *y = b;
    return x->key != y->key ? (x->key > y->key) - (x->key < y->key) : (x->index > y->index) - (x->index < y->index);
}

/* out[i] = index of the i-th smallest of s32 values, equal ones in order (GPTQ's desc_act: rows by their group). */
static bool run_argsort(Exec *e, Argument *args, Err *err)
{
    Device *d = exec_device(e);
    size_t n = args[0].bytes / 4;
    if (args[0].bytes % 4 || args[1].bytes < args[0].bytes)
        return err_set(err, "plan: argsort of %zu bytes into %zu", args[0].bytes, args[1].bytes);
    Keyed *k = xcalloc(n, sizeof *k);
    int32_t *values = xcalloc(n, sizeof *values);
    d->ops->copy_out(d, values, args[0].address, n * 4);
    for (size_t i = 0; i < n; i++)
        k[i] = (Keyed){values[i], (int32_t)i};
    qsort(k, n, sizeof *k, by_key);
    for (size_t i = 0; i < n; i++)
        values[i] = k[i].index;
    d->ops->copy_in(d, args[1].address, values, n * 4);
    free(values);
    free(k);
    return true;
}

static bool run_kernel(Exec *e, const PlanLaunch *l, Argument *args, Err *err)
{
    void *buffers[PLAN_MAX_ARGS];
    for (int i = 0; i < l->args_count; i++)
        buffers[i] = args[i].address;
    const PlanKernel *k = &exec_plan(e)->kernels[l->kernel];
    int64_t blocks = plan_blocks(k, l->sizes);
    if (blocks < 0)
        return err_set(err, "plan: the sizes of a load step with kernel '%s' are absurd", k->name);
    return exec_run_once(e, l->kernel, buffers, l->args_count, l->sizes, blocks, err);
}

static bool run_load(Exec *e, const Checkpoint *c, const PlanLaunch *l, int64_t *read, Err *err)
{
    Argument args[PLAN_MAX_ARGS] = {0};
    bool ok = true;
    for (int i = 0; ok && i < l->args_count; i++)
        ok = argument(e, c, &l->args[i], &args[i], err);
    for (int i = 0; ok && i < l->args_count; i++)
        *read += l->args[i].tensor ? (int64_t)args[i].bytes : 0;
    if (ok)
        ok = l->builtin == BUILTIN_ARGSORT ? run_argsort(e, args, err) : run_kernel(e, l, args, err);
    release(e, args, l->args_count);
    return ok;
}

bool weights_load(Exec *e, const Checkpoint *c, WeightsProgress *progress, void *context, Err *err)
{
    const Plan *p = exec_plan(e);
    int64_t read = 0;
    for (int i = 0; i < p->buffers_count; i++)
        if (p->buffers[i].kind == BUFFER_MAPPED && !map_buffer(e, c, i, err))
            return false;
    for (int i = 0; i < p->load_count; i++) {
        if (progress)
            progress(context, "loading weights", i, p->load_count);
        if (!run_load(e, c, &p->load[i], &read, err))
            return false;
    }
    timing_phase("read and repack weights", read);
    if (progress && p->load_count)
        progress(context, "loading weights", p->load_count, p->load_count);
    return exec_ready(e, err);
}

/* ---- random --------------------------------------------------------------------------------------------------- */

bool weights_random(Exec *e, WeightsProgress *progress, void *context, Err *err)
{
    const Plan *p = exec_plan(e);
    Device *d = exec_device(e);
    for (int i = 0; i < p->buffers_count; i++) {
        const PlanBuffer *b = &p->buffers[i];
        if (b->kind == BUFFER_MAPPED && !exec_own_mapped(e, i, err))
            return false;
        if ((b->kind == BUFFER_MAPPED || b->kind == BUFFER_WEIGHT) && b->fill.type != DT_NONE)
            d->ops->fill(d, exec_buffer(e, i), (size_t)exec_buffer_bytes(e, i), &b->fill, (uint64_t)i);
        if (progress)
            progress(context, "random weights", i + 1, p->buffers_count);
    }
    if (!d->ops->sync(d, err))
        return false;
    timing_phase("random weights", 0);
    return exec_ready(e, err);
}
