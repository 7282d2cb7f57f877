/* exec.c - buffers and launches of a plan; see exec.h.
 *
 * All buffers of a kind share one region of memory, one after the other as plan_room says, so that the memory plan is
 * exact and huge pages are filled. The sizes of runs lie in a small region of their own.
 */
#include "exec.h"

#include <stdlib.h>
#include <string.h>

#include "timing.h"

typedef struct Launch {
    int kernel, count;
    void **buffers; /* [count] */
} Launch;

typedef struct LaunchList {
    int count;
    bool by_width; /* some grid follows from the width of the block table */
    Launch *launches;
} LaunchList;

typedef struct Recording { /* of the launches of a step and of sampling, in a set of inputs */
    int set, step;
    int64_t tokens, width; /* for steps of up to so many tokens, and columns of the block table; width 0: any */
    void *what;            /* the device's */
} Recording;

typedef struct Region {
    char *memory, *mirror; /* mirror: the host's side of inputs, outputs and sizes */
    size_t bytes;
} Region;

enum { SIZES_STRIDE = 128, ONCE = PLAN_INPUT_SETS, SIZES_SLOTS };
_Static_assert(SIZE_COUNT * sizeof(int64_t) <= SIZES_STRIDE, "a slot holds all sizes");

struct Exec {
    const Plan *plan;
    Device *device;
    Arena *arena;
    void **address; /* of each buffer; inputs: in the first set */
    int64_t *bytes;
    int *kv, kv_count; /* the kv buffers */
    size_t input_bytes; /* of a set */
    Region regions[BUFFER_KINDS];
    VEC(Region) owned; /* mapped tensors that had to be copied */
    LaunchList *steps[PLAN_INPUT_SETS], sample[PLAN_INPUT_SETS];
    Region sizes; /* a slot for each set, and one for exec_run_once */
    int64_t caps[SIZE_COUNT];
    bool graphs; /* wanted, and the device can */
    VEC(Recording) recordings;
    double *profile; /* seconds by kernel, or NULL */
};

static DeviceMemory memory_kind(int kind)
{
    if (kind == BUFFER_KV)
        return DEVICE_SLOWLY;
    return kind == BUFFER_INPUT || kind == BUFFER_OUTPUT ? DEVICE_SHARED : DEVICE_LOCAL;
}

static bool take(Exec *e, Region *r, DeviceMemory kind, Err *err)
{
    r->memory = e->device->ops->alloc(e->device, r->bytes, kind, err);
    if (r->memory && kind == DEVICE_SHARED)
        r->mirror = e->device->ops->mirror(e->device, r->memory);
    return r->memory != NULL;
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
    if (!take(e, r, memory_kind(kind), err))
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
    e->sizes.bytes = SIZES_SLOTS * SIZES_STRIDE;
    if (!take(e, &e->sizes, DEVICE_SHARED, err))
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
    memcpy(e->caps, caps, sizeof e->caps);
    e->address = arena_array(e->arena, void *, p->buffers_count);
    e->bytes = arena_array(e->arena, int64_t, p->buffers_count);
    e->kv = arena_array(e->arena, int, p->buffers_count);
    for (int i = 0; i < p->buffers_count; i++)
        if (p->buffers[i].kind == BUFFER_KV)
            e->kv[e->kv_count++] = i;
    bool ok = d->ops->load_code(d, p, code, err);
    timing_phase("load code", 0);
    ok = ok && alloc_buffers(e, caps, err);
    exec_set_graphs(e, true);
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
    exec_wait(e, NULL);
    for (size_t i = 0; i < e->recordings.len; i++)
        e->device->ops->forget(e->device, e->recordings.at[i].what);
    vec_free(&e->recordings);
    for (int k = 0; k < BUFFER_KINDS; k++)
        free_region(e, &e->regions[k]);
    free_region(e, &e->sizes);
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

void *exec_host(const Exec *e, int buffer, int set)
{
    const Region *r = &e->regions[e->plan->buffers[buffer].kind];
    return r->mirror + ((char *)exec_input(e, buffer, set) - r->memory);
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
    Region r = {.bytes = (size_t)plan_room(e->bytes[buffer])};
    if (!take(e, &r, DEVICE_LOCAL, err))
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
        out->by_width = out->by_width || plan_grid_has(&e->plan->kernels[l->kernel], SIZE_TABLE_WIDTH);
        l->count = src[i].args_count;
        l->buffers = arena_array(e->arena, void *, l->count);
        for (int k = 0; k < l->count; k++) {
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
    if (!exec_wait(e, err))
        return false;
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

/* Launches with grids for `sizes`; kernels see those in memory at `seen`. */
static void start_list(Exec *e, const LaunchList *list, const int64_t *sizes, const int64_t *seen)
{
    const DeviceOps *ops = e->device->ops;
    for (int i = 0; i < list->count; i++) {
        const Launch *l = &list->launches[i];
        int64_t blocks = plan_blocks(&e->plan->kernels[l->kernel], sizes);
        double start = e->profile ? now_seconds() : 0;
        if (blocks)
            ops->launch(e->device, l->kernel, l->buffers, l->count, seen, blocks);
        if (e->profile) {
            ops->sync(e->device, NULL);
            e->profile[l->kernel] += now_seconds() - start;
        }
    }
}

void exec_set_profile(Exec *e, double *seconds)
{
    e->profile = seconds;
}

/* Puts the sizes where kernels read them. */
static const int64_t *put_sizes(Exec *e, int slot, const int64_t sizes[SIZE_COUNT])
{
    size_t at = (size_t)slot * SIZES_STRIDE, n = SIZE_COUNT * sizeof *sizes;
    memcpy(e->sizes.mirror + at, sizes, n);
    if (e->device->ops->push)
        e->device->ops->push(e->device, e->sizes.memory + at, n);
    return (const int64_t *)(e->sizes.memory + at);
}

/* ---- inputs and outputs of a device with a memory of its own -------------------------------------------------- */

static bool moves(const PlanBuffer *b, const ExecRun *run)
{
    switch (b->io) {
    case IO_LOGITS: return run->step >= 0 && run->logits;
    case IO_HIDDEN: return run->step >= 0;
    default: return b->kind == BUFFER_INPUT || run->sample;
    }
}

/* Copies what the step uses of all inputs or outputs; those that lie close together in one go. */
static void move(Exec *e, BufferKind kind, const ExecRun *run, const int64_t *sizes)
{
    enum { CLOSE = 16 << 10 };
    const Plan *p = e->plan;
    const DeviceOps *ops = e->device->ops;
    void (*copy)(Device *, void *, size_t) = kind == BUFFER_INPUT ? ops->push : ops->pull;
    char *begin = NULL, *end = NULL;
    for (int i = 0; copy && i < p->buffers_count; i++) {
        int64_t n = p->buffers[i].kind == kind && moves(&p->buffers[i], run)
                        ? plan_io_bytes(p, (PlanIo)p->buffers[i].io, sizes) : 0;
        if (!n)
            continue;
        char *at = exec_input(e, i, run->set);
        if (begin && at - end > CLOSE) {
            copy(e->device, begin, (size_t)(end - begin));
            begin = NULL;
        }
        begin = begin ? begin : at;
        end = at + n;
    }
    if (begin)
        copy(e->device, begin, (size_t)(end - begin));
}

/* ---- recordings ----------------------------------------------------------------------------------------------- */

void exec_set_graphs(Exec *e, bool wanted)
{
    e->graphs = wanted && e->device->ops->record;
}

/* The least power of two that is not below n. */
static int64_t round_up_power(int64_t n)
{
    int64_t power = 1;
    while (power < n)
        power *= 2;
    return power;
}

static int64_t bucket_of(const PlanStep *step, int64_t tokens)
{
    return step->max_tokens ? step->max_tokens : round_up_power(tokens);
}

/* The largest sizes of the steps that a recording serves; they only decode, and nobody wants hidden states. */
static void largest_sizes(const Exec *e, const Recording *r, int64_t most[SIZE_COUNT])
{
    static const SizeId by_tokens[] = {SIZE_TOKENS, SIZE_SEQS, SIZE_OUTPUTS, SIZE_DECODE_TILES};
    memcpy(most, e->caps, sizeof e->caps);
    for (size_t i = 0; i < COUNT(by_tokens); i++)
        most[by_tokens[i]] = MIN(most[by_tokens[i]], r->tokens);
    most[SIZE_PREFILL_TILES] = most[SIZE_HIDDENS] = 0;
    if (r->width)
        most[SIZE_TABLE_WIDTH] = MIN(most[SIZE_TABLE_WIDTH], r->width);
}

static void *record(Exec *e, Recording *r, const int64_t *most, const int64_t *seen)
{
    e->device->ops->record(e->device);
    start_list(e, &e->steps[r->set][r->step], most, seen);
    start_list(e, &e->sample[r->set], most, seen);
    r->what = e->device->ops->recorded(e->device);
    if (r->what)
        vec_push(&e->recordings, *r);
    return r->what;
}

static void *find_recording(const Exec *e, const Recording *r)
{
    for (size_t i = 0; i < e->recordings.len; i++) {
        const Recording *x = &e->recordings.at[i];
        if (x->set == r->set && x->step == r->step && x->tokens == r->tokens && x->width == r->width)
            return x->what;
    }
    return NULL;
}

/* Replays the step, recording it when it is the first of its kind. False when it must be launched one by one. */
static bool replay(Exec *e, const ExecRun *run, const int64_t *sizes, const int64_t *seen)
{
    if (!e->graphs || e->profile || run->step < 0 || !run->sample)
        return false;
    Recording r = {.set = run->set, .step = run->step};
    r.tokens = bucket_of(&e->plan->steps[run->step], sizes[SIZE_TOKENS]);
    r.width = e->steps[run->set][run->step].by_width ? round_up_power(sizes[SIZE_TABLE_WIDTH]) : 0;
    int64_t most[SIZE_COUNT];
    largest_sizes(e, &r, most);
    for (int i = 0; i < SIZE_COUNT; i++)
        if (sizes[i] > most[i])
            return false;
    void *what = find_recording(e, &r);
    if (what || (what = record(e, &r, most, seen)))
        e->device->ops->replay(e->device, what);
    return true;
}

/* ---- runs ----------------------------------------------------------------------------------------------------- */

void exec_start(Exec *e, const ExecRun *run, const int64_t sizes[SIZE_COUNT])
{
    const int64_t *seen = put_sizes(e, run->set, sizes);
    move(e, BUFFER_INPUT, run, sizes);
    if (!replay(e, run, sizes, seen)) {
        if (run->step >= 0)
            start_list(e, &e->steps[run->set][run->step], sizes, seen);
        if (run->sample)
            start_list(e, &e->sample[run->set], sizes, seen);
    }
    move(e, BUFFER_OUTPUT, run, sizes);
}

bool exec_wait(Exec *e, Err *err)
{
    return e->device->ops->sync(e->device, err);
}

bool exec_run_once(Exec *e, int kernel, void *const *buffers, int count, const int64_t sizes[SIZE_COUNT],
                   int64_t blocks, Err *err)
{
    e->device->ops->launch(e->device, kernel, buffers, count, put_sizes(e, ONCE, sizes), blocks);
    return exec_wait(e, err);
}

/* ---- pages ---------------------------------------------------------------------------------------------------- */

/* How many kv buffers from the n-th on lie at equal distances with pages of equal size. */
static int alike(const Exec *e, int n)
{
    int first = e->kv[n], count = 1;
    ptrdiff_t pitch = plan_room(e->bytes[first]);
    while (n + count < e->kv_count &&
           e->plan->buffers[e->kv[n + count]].page_bytes == e->plan->buffers[first].page_bytes &&
           (char *)e->address[e->kv[n + count]] - (char *)e->address[first] == count * pitch)
        count++;
    return count;
}

void exec_zero_page(Exec *e, int64_t page)
{
    static const PlanFill zeros = {0};
    const DeviceOps *ops = e->device->ops;
    for (int i = 0, n; i < e->kv_count; i += n) {
        size_t bytes = (size_t)e->plan->buffers[e->kv[i]].page_bytes;
        char *at = (char *)e->address[e->kv[i]] + page * (int64_t)bytes;
        n = ops->zero_rows ? alike(e, i) : 1;
        if (ops->zero_rows)
            ops->zero_rows(e->device, at, bytes, (size_t)plan_room(e->bytes[e->kv[i]]), (size_t)n);
        else
            ops->fill(e->device, at, bytes, &zeros, 0);
    }
}
