/* exec.c - buffers and launches of a plan; see exec.h.
 *
 * All buffers of a kind share one region of memory, one after the other as plan_room says, so that the memory plan is
 * exact and huge pages are filled.
 */
#include "exec.h"

#include <stdlib.h>
#include <string.h>

#include "timing.h"

typedef struct Launch {
    int kernel;
    void **buffers;
} Launch;

typedef struct LaunchList {
    int count;
    Launch *launches;
} LaunchList;

typedef struct Region {
    char *memory;
    size_t bytes;
} Region;

struct Exec {
    const Plan *plan;
    Device *device;
    Arena *arena;
    void **address; /* of each buffer; inputs: in the first set */
    int64_t *bytes;
    size_t input_bytes; /* of a set */
    Region regions[BUFFER_KINDS];
    VEC(Region) owned; /* mapped tensors that had to be copied */
    LaunchList *steps[PLAN_INPUT_SETS], sample[PLAN_INPUT_SETS];
    int64_t sizes[PLAN_INPUT_SETS][SIZE_COUNT];
    double *profile; /* seconds by kernel, or NULL */
};

static DeviceMemory memory_kind(int kind)
{
    if (kind == BUFFER_KV)
        return DEVICE_SLOWLY;
    return kind == BUFFER_INPUT || kind == BUFFER_OUTPUT ? DEVICE_SHARED : DEVICE_LOCAL;
}

/* Gives every buffer of the kind its place in the kind's region. */
static bool alloc_region(Exec *e, BufferKind kind, Err *err)
{
    const Plan *p = e->plan;
    Region *r = &e->regions[kind];
    for (int i = 0; i < p->buffers_count; i++)
        if (p->buffers[i].kind == kind)
            r->bytes += (size_t)plan_room(e->bytes[i]);
    if (!r->bytes)
        return true;
    if (kind == BUFFER_INPUT) {
        e->input_bytes = r->bytes;
        r->bytes *= PLAN_INPUT_SETS;
    }
    r->memory = e->device->ops->alloc(e->device, r->bytes, memory_kind(kind), err);
    if (!r->memory)
        return err_prefix(err, "%s buffers", buffer_kind_names[kind]);
    size_t at = 0;
    for (int i = 0; i < p->buffers_count; i++)
        if (p->buffers[i].kind == kind) {
            e->address[i] = r->memory + at;
            at += (size_t)plan_room(e->bytes[i]);
        }
    return true;
}

static bool alloc_buffers(Exec *e, const int64_t *caps, Err *err)
{
    const Plan *p = e->plan;
    PlanMemory unused;
    if (!plan_memory(p, caps, 1, &unused, err)) /* absurd sizes */
        return false;
    for (int i = 0; i < p->buffers_count; i++)
        e->bytes[i] = plan_buffer_bytes(p, i, caps);
    for (int k = 0; k < BUFFER_KINDS; k++)
        if (k != BUFFER_MAPPED && !alloc_region(e, (BufferKind)k, err))
            return false;
    for (int i = 0; i < p->buffers_count; i++)
        if (p->buffers[i].kind == BUFFER_CONSTANT)
            e->device->ops->copy_in(e->device, e->address[i], p->buffers[i].data, (size_t)e->bytes[i]);
    return true;
}

Exec *exec_new(const Plan *p, const uint8_t *code, Device *d, const int64_t caps[SIZE_COUNT], Err *err)
{
    Exec *e = xcalloc(1, sizeof *e);
    e->plan = p;
    e->device = d;
    e->arena = arena_new();
    e->address = arena_array(e->arena, void *, p->buffers_count);
    e->bytes = arena_array(e->arena, int64_t, p->buffers_count);
    bool ok = d->ops->load_code(d, p, code, err);
    timing_phase("load code", 0);
    ok = ok && alloc_buffers(e, caps, err);
    timing_phase("allocate", 0);
    if (ok)
        return e;
    exec_free(e);
    return NULL;
}

static void free_region(Exec *e, Region *r)
{
    if (r->memory)
        e->device->ops->free(e->device, r->memory, r->bytes);
    *r = (Region){0};
}

void exec_free(Exec *e)
{
    if (!e)
        return;
    exec_wait(e);
    for (int k = 0; k < BUFFER_KINDS; k++)
        free_region(e, &e->regions[k]);
    for (size_t i = 0; i < e->owned.len; i++)
        free_region(e, &e->owned.at[i]);
    vec_free(&e->owned);
    arena_free(e->arena);
    free(e);
}

const Plan *exec_plan(const Exec *e)
{
    return e->plan;
}

Device *exec_device(const Exec *e)
{
    return e->device;
}

void *exec_buffer(const Exec *e, int buffer)
{
    return e->address[buffer];
}

void *exec_input(const Exec *e, int buffer, int set)
{
    size_t ahead = e->plan->buffers[buffer].kind == BUFFER_INPUT ? e->input_bytes * (size_t)set : 0;
    return (char *)e->address[buffer] + ahead;
}

int64_t exec_buffer_bytes(const Exec *e, int buffer)
{
    return e->bytes[buffer];
}

void exec_set_mapped(Exec *e, int buffer, void *address)
{
    e->address[buffer] = address;
}

bool exec_own_mapped(Exec *e, int buffer, Err *err)
{
    Region r = {NULL, (size_t)plan_room(e->bytes[buffer])};
    r.memory = e->device->ops->alloc(e->device, r.bytes, DEVICE_LOCAL, err);
    if (!r.memory)
        return err_prefix(err, "buffer \"%s\"", e->plan->buffers[buffer].name);
    vec_push(&e->owned, r);
    e->address[buffer] = r.memory;
    return true;
}

/* ---- launches ------------------------------------------------------------------------------------------------- */

static bool resolve(Exec *e, int set, const PlanLaunch *src, int count, LaunchList *out, Err *err)
{
    out->count = count;
    out->launches = arena_array(e->arena, Launch, count);
    for (int i = 0; i < count; i++) {
        Launch *l = &out->launches[i];
        l->kernel = src[i].kernel;
        l->buffers = arena_array(e->arena, void *, src[i].args_count);
        for (int k = 0; k < src[i].args_count; k++) {
            const PlanArg *arg = &src[i].args[k];
            if (arg->offset > e->bytes[arg->buffer])
                return err_set(err, "plan: an argument of '%s' lies behind the end of buffer \"%s\"",
                               e->plan->kernels[l->kernel].name, e->plan->buffers[arg->buffer].name);
            l->buffers[k] = (char *)exec_input(e, arg->buffer, set) + arg->offset;
        }
    }
    return true;
}

bool exec_ready(Exec *e, Err *err)
{
    const Plan *p = e->plan;
    e->device->ops->sync(e->device);
    free_region(e, &e->regions[BUFFER_TEMPORARY]);
    for (int set = 0; set < PLAN_INPUT_SETS; set++) {
        e->steps[set] = arena_array(e->arena, LaunchList, p->steps_count);
        for (int i = 0; i < p->steps_count; i++)
            if (!resolve(e, set, p->steps[i].launches, p->steps[i].count, &e->steps[set][i], err))
                return false;
        if (!resolve(e, set, p->sample, p->sample_count, &e->sample[set], err))
            return false;
    }
    return true;
}

static void start_list(Exec *e, const LaunchList *list, const int64_t *sizes)
{
    const DeviceOps *ops = e->device->ops;
    for (int i = 0; i < list->count; i++) {
        const Launch *l = &list->launches[i];
        int64_t blocks = plan_blocks(&e->plan->kernels[l->kernel], sizes);
        double start = e->profile ? now_seconds() : 0;
        if (blocks)
            ops->launch(e->device, l->kernel, l->buffers, sizes, blocks);
        if (e->profile) {
            ops->sync(e->device);
            e->profile[l->kernel] += now_seconds() - start;
        }
    }
}

void exec_set_profile(Exec *e, double *seconds)
{
    e->profile = seconds;
}

void exec_start(Exec *e, int set, int step, bool sample, const int64_t sizes[SIZE_COUNT])
{
    int64_t *copy = memcpy(e->sizes[set], sizes, sizeof e->sizes[set]);
    if (step >= 0)
        start_list(e, &e->steps[set][step], copy);
    if (sample)
        start_list(e, &e->sample[set], copy);
}

void exec_wait(Exec *e)
{
    e->device->ops->sync(e->device);
}

void exec_run_once(Exec *e, int kernel, void *const *buffers, const int64_t sizes[SIZE_COUNT], int64_t blocks)
{
    e->device->ops->launch(e->device, kernel, buffers, sizes, blocks);
    e->device->ops->sync(e->device);
}

void exec_zero_page(Exec *e, int64_t page)
{
    static const PlanFill zeros = {0};
    for (int i = 0; i < e->plan->buffers_count; i++) {
        int64_t n = e->plan->buffers[i].page_bytes;
        if (n)
            e->device->ops->fill(e->device, (char *)e->address[i] + page * n, (size_t)n, &zeros, 0);
    }
}
