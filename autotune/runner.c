/* runner.c - arguments and launches of a case; see runner.h. */
#include "runner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { MOST_COPIES = 64, SLACK = 256 /* bytes behind an argument that must stay as they are */, TRIES = 4,
       LIMIT_PIECES = 16 };

static const double sample_seconds = 400e-6, patience_seconds = 4e-3, limit_seconds = 0.03;
/* A GPU is waited for after many launches, since waiting takes some microseconds; launches that are shorter than the
 * driver's part in them are recorded. */
static const double gpu_sample_seconds = 1e-3, recorded_seconds = 30e-6;
static const int64_t gpu_cache[] = {128 << 20, 256 << 20}; /* bytes that no NVIDIA's, no AMD's last cache exceeds */
static const int64_t gpu_limit_bytes = (int64_t)2 << 30;
enum { GPU_LIMIT_BLOCKS = 4096, GPU_LIMIT_PIECES = 4, MOST_LAUNCHES = 256 };
static const double all_running = 0.93; /* of the processor time that a sample of the candidate takes at most */
static const int64_t smallest_cache = 16 << 20;

typedef struct Block { /* memory of the device */
    void *memory;
    size_t bytes;
} Block;

struct Runner {
    Device *device;
    const CasePack *pack;
    const Case *c;
    Arena *arena;
    bool gpu, emulated;                           /* a stand-in for a GPU: nobody wants to know how fast it is */
    VEC(Block) blocks;
    int64_t *sizes[CASE_WORKLOADS + 1];           /* the device's; the last: of limits */
    void *recording[CASE_WORKLOADS][CASE_CANDIDATES]; /* of a sample's launches, or NULL */
    int copies, next;                             /* of cold arguments; the one that the next launch takes */
    void **address[CASE_WORKLOADS];               /* [copy * args + arg] */
    uint8_t *expected[CASE_WORKLOADS][CASE_ARGS]; /* what the default wrote */
    uint8_t *got;                                 /* what a candidate wrote, as large as the largest argument */
    int launches[CASE_WORKLOADS];                 /* of a sample; 0: not yet known */
    double running[CASE_WORKLOADS][CASE_CANDIDATES]; /* most processor time seen, as a share of what the threads have */
    bool busy[CASE_WORKLOADS];                    /* neighbours interrupt: processor time is taken */
    bool recorded[CASE_WORKLOADS];                /* a GPU's launches are short */
};

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static void *take(Runner *r, int64_t bytes, Err *err)
{
    Block b = {NULL, (size_t)bytes + SLACK};
    b.memory = r->device->ops->alloc(r->device, b.bytes, DEVICE_LOCAL, err);
    if (b.memory)
        vec_push(&r->blocks, b);
    return b.memory;
}

static PlanFill random_fill(DType type)
{
    return (PlanFill){.type = type, .scale = 0.3};
}

/* s32 arguments without contents of their own are sums of a group of int8: small, so that no bit is hidden by
 * others. */
static void fill_small(Device *d, void *to, int64_t bytes)
{
    int32_t *v = xcalloc((size_t)bytes / 4 + 1, sizeof *v);
    for (int64_t i = 0; i < bytes / 4; i++)
        v[i] = (int32_t)((uint64_t)i * 2654435761u >> 7 & 2047) - 1024;
    d->ops->copy_in(d, to, v, (size_t)bytes);
    free(v);
}

static void fill_arg(Runner *r, const CaseArg *a, void *to, uint64_t seed)
{
    PlanFill f = random_fill(a->type);
    if (a->type == DT_S32 && !a->cold)
        fill_small(r->device, to, a->bytes);
    else
        r->device->ops->fill(r->device, to, (size_t)a->bytes + SLACK, &f, seed);
}

static void *with_data(Runner *r, const json_t *data, Err *err)
{
    size_t n = json_array_size(data);
    int32_t *v = xcalloc(n + 1, sizeof *v);
    for (size_t i = 0; i < n; i++)
        v[i] = (int32_t)json_integer_value(json_array_get(data, i));
    void *to = take(r, (int64_t)n * 4, err);
    if (to)
        r->device->ops->copy_in(r->device, to, v, n * 4);
    free(v);
    return to;
}

static int64_t last_cache(const Device *d)
{
    if (*d->target)
        return gpu_cache[!strcmp(d->ops->name, "hip")];
    long bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return MAX(bytes, smallest_cache);
}

/* Copies of the cold arguments so that the workload that reads least exceeds the cache, within a quarter of memory. */
static int copies_needed(const Runner *r)
{
    int64_t available, total, bytes = 1, least = INT64_MAX;
    r->device->ops->memory(r->device, &available, &total);
    for (int i = 0; i < r->c->args_count; i++)
        bytes += r->c->args[i].cold ? r->c->args[i].bytes : 0;
    for (int w = 0; w < r->c->workloads_count; w++)
        least = MIN(least, MAX((int64_t)r->c->workloads[w].read, 1));
    int64_t wanted = MIN((2 * last_cache(r->device) + least - 1) / least, MOST_COPIES);
    return (int)MAX(MIN(wanted, available / 4 / bytes), 1);
}

/* Argument `i` for every copy: its own memory when cold, otherwise the same. */
static bool place_arg(Runner *r, int i, Err *err)
{
    const CaseArg *a = &r->c->args[i];
    void *shared = NULL;
    for (int copy = 0; copy < r->copies; copy++) {
        if (a->cold || !shared) {
            shared = take(r, a->bytes, err);
            if (!shared)
                return false;
            fill_arg(r, a, shared, (uint64_t)(i + 1) * 1000 + (uint64_t)copy);
        }
        for (int w = 0; w < r->c->workloads_count; w++)
            r->address[w][copy * r->c->args_count + i] = shared;
    }
    return true;
}

static bool place_data(Runner *r, int w, int i, Err *err)
{
    const json_t *data = r->c->workloads[w].data[i];
    void *to = data ? with_data(r, data, err) : NULL;
    for (int copy = 0; to && copy < r->copies; copy++)
        r->address[w][copy * r->c->args_count + i] = to;
    return !data || to;
}

/* Makes the sizes that the kernels see those given. */
static void set_sizes(Runner *r, int64_t *to, const int64_t sizes[SIZE_COUNT])
{
    size_t n = SIZE_COUNT * sizeof *sizes;
    memcpy(r->gpu ? r->device->ops->mirror(r->device, to) : to, sizes, n);
    if (r->gpu)
        r->device->ops->push(r->device, to, n);
    r->device->ops->sync(r->device, NULL);
}

static bool place_sizes(Runner *r, Err *err)
{
    static const int64_t none[SIZE_COUNT];
    for (int w = 0; w <= CASE_WORKLOADS; w++) {
        Block b = {NULL, SIZE_COUNT * sizeof **r->sizes};
        if (w >= r->c->workloads_count && w < CASE_WORKLOADS)
            continue;
        if (r->gpu && !(b.memory = r->device->ops->alloc(r->device, b.bytes, DEVICE_SHARED, err)))
            return false;
        if (b.memory)
            vec_push(&r->blocks, b);
        r->sizes[w] = b.memory ? b.memory : arena_array(r->arena, int64_t, SIZE_COUNT);
        set_sizes(r, r->sizes[w], w < CASE_WORKLOADS ? r->c->workloads[w].sizes : none);
    }
    return true;
}

static bool place(Runner *r, Err *err)
{
    r->copies = copies_needed(r);
    for (int w = 0; w < r->c->workloads_count; w++)
        r->address[w] = arena_array(r->arena, void *, r->copies * r->c->args_count);
    for (int i = 0; i < r->c->args_count; i++)
        if (!place_arg(r, i, err))
            return false;
    for (int w = 0; w < r->c->workloads_count; w++)
        for (int i = 0; i < r->c->args_count; i++)
            if (!place_data(r, w, i, err))
                return false;
    return place_sizes(r, err);
}

Runner *runner_new(Device *d, const CasePack *p, const Case *c, Err *err)
{
    Runner *r = xcalloc(1, sizeof *r);
    r->device = d;
    r->pack = p;
    r->c = c;
    r->arena = arena_new();
    r->gpu = *d->target != 0;
    r->emulated = !strncmp(d->target, "simt:", 5);
    int64_t most = 0;
    for (int i = 0; i < c->args_count; i++)
        most = MAX(most, c->args[i].written ? c->args[i].bytes : 0);
    r->got = xmalloc((size_t)most + SLACK);
    if (place(r, err))
        return r;
    runner_free(r);
    return NULL;
}

void runner_free(Runner *r)
{
    if (!r)
        return;
    for (int w = 0; w < CASE_WORKLOADS; w++)
        for (int i = 0; i < CASE_CANDIDATES; i++)
            if (r->recording[w][i])
                r->device->ops->forget(r->device, r->recording[w][i]);
    for (size_t i = 0; i < r->blocks.len; i++)
        r->device->ops->free(r->device, r->blocks.at[i].memory, r->blocks.at[i].bytes);
    for (int w = 0; w < CASE_WORKLOADS; w++)
        for (int i = 0; i < CASE_ARGS; i++)
            free(r->expected[w][i]);
    free(r->got);
    vec_free(&r->blocks);
    arena_free(r->arena);
    free(r);
}

/* ---- launches --------------------------------------------------------------------------------------------------- */

static void launch(Runner *r, int w, int candidate, int copy)
{
    int kernel = r->c->candidates[candidate].kernel;
    const int64_t *sizes = r->c->workloads[w].sizes;
    r->device->ops->launch(r->device, kernel, r->address[w] + copy * r->c->args_count, r->c->args_count,
                           r->sizes[w], plan_blocks(&r->pack->plan->kernels[kernel], sizes));
}

static bool same_bytes(const CaseArg *a, const CaseWorkload *w, const uint8_t *got, const uint8_t *want, char *why,
                       size_t size)
{
    size_t n = (size_t)a->bytes + SLACK, first = 0, count = 0;
    if (!memcmp(got, want, n))
        return true;
    for (size_t i = 0; i < n; i++)
        if (got[i] != want[i] && count++ == 0)
            first = i;
    snprintf(why, size, "not bit-equal to the default with %s: %zu bytes of %s differ, the first at %zu", w->name,
             count, a->name, first);
    return false;
}

bool runner_same_bits(Runner *r, int w, int candidate, char *why, size_t size)
{
    bool same = true;
    for (int i = 0; i < r->c->args_count; i++)
        if (r->c->args[i].written)
            fill_arg(r, &r->c->args[i], r->address[w][i], (uint64_t)i + 1);
    launch(r, w, candidate, 0);
    Err err = {0};
    if (!r->device->ops->sync(r->device, &err)) {
        snprintf(why, size, "%s", err.text);
        return false;
    }
    for (int i = 0; i < r->c->args_count; i++) {
        size_t n = (size_t)r->c->args[i].bytes + SLACK;
        if (!r->c->args[i].written)
            continue;
        bool first = !r->expected[w][i];
        if (first)
            r->expected[w][i] = xmalloc(n);
        r->device->ops->copy_out(r->device, first ? r->expected[w][i] : r->got, r->address[w][i], n);
        same = same && (first || same_bytes(&r->c->args[i], &r->c->workloads[w], r->got, r->expected[w][i], why, size));
    }
    return same;
}

static long interruptions(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_nivcsw;
}

/* Processor time of this process, shared out over the threads: what a run takes when nobody interrupts it, since idle
 * threads spin until the others are done. */
static double processor_seconds(const Runner *r)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return ((double)t.tv_sec + (double)t.tv_nsec * 1e-9) / r->device->ops->threads(r->device);
}

static double clock_of(const Runner *r, int w)
{
    return r->busy[w] ? processor_seconds(r) : now_seconds();
}

static void launch_many(Runner *r, int w, int candidate, int launches)
{
    for (int i = 0; i < launches; i++) {
        launch(r, w, candidate, r->next);
        r->next = (r->next + 1) % r->copies;
    }
}

static double timed(Runner *r, int w, int candidate, int launches)
{
    double start = clock_of(r, w);
    launch_many(r, w, candidate, launches);
    r->device->ops->sync(r->device, NULL);
    return (clock_of(r, w) - start) / launches;
}

/* A sample on a GPU. The launches of a recording begin at the first copy. */
static double timed_on_gpu(Runner *r, int w, int candidate)
{
    const DeviceOps *ops = r->device->ops;
    void **recording = &r->recording[w][candidate];
    if (!r->recorded[w])
        return timed(r, w, candidate, r->launches[w]);
    if (!*recording) {
        r->next = 0;
        ops->record(r->device);
        launch_many(r, w, candidate, r->launches[w]);
        *recording = ops->recorded(r->device);
        if (!*recording)
            return 1; /* sync tells why */
        ops->replay(r->device, *recording);
        ops->sync(r->device, NULL);
    }
    double start = now_seconds();
    ops->replay(r->device, *recording);
    ops->sync(r->device, NULL);
    return (now_seconds() - start) / r->launches[w];
}

/* As many launches as take a millisecond; where they are short, all copies are used equally often. */
static void calibrate_gpu(Runner *r, int w)
{
    timed(r, w, 0, 1);
    double one = timed(r, w, 0, 1);
    if (one < gpu_sample_seconds) /* most of it may have been waiting */
        one = timed(r, w, 0, MOST_LAUNCHES / 8);
    int n = (int)MAX(1, MIN(gpu_sample_seconds / MAX(one, 1e-7), MOST_LAUNCHES));
    r->recorded[w] = one < recorded_seconds && r->device->ops->record;
    r->launches[w] = r->recorded[w] ? (n + r->copies - 1) / r->copies * r->copies : n;
}

/* A sample by the clock on the wall; false when a neighbour took a core meanwhile: this process was interrupted, or had
 * less processor time than this candidate was seen to use. */
static bool undisturbed(Runner *r, int w, int candidate, double *seconds)
{
    long before = interruptions();
    double start = processor_seconds(r);
    *seconds = timed(r, w, candidate, r->launches[w]);
    double share = (processor_seconds(r) - start) / (*seconds * r->launches[w]);
    r->running[w][candidate] = MAX(r->running[w][candidate], share);
    return interruptions() == before && share >= all_running * r->running[w][candidate];
}

/* Tries until nobody disturbs, for a while; the best of them otherwise, and false. */
static bool quiet_sample(Runner *r, int w, int candidate, double *seconds)
{
    double begin = now_seconds(), one;
    *seconds = 0;
    for (int i = 0; i < TRIES || now_seconds() - begin < patience_seconds; i++) {
        bool quiet = undisturbed(r, w, candidate, &one);
        if (quiet || i == 0 || one < *seconds)
            *seconds = one;
        if (quiet)
            return true;
    }
    return false;
}

/* How many launches make a sample, and whether they can be timed by the clock on the wall. */
static void calibrate(Runner *r, int w)
{
    timed(r, w, 0, 1);
    double one = MIN(timed(r, w, 0, 1), timed(r, w, 0, 1));
    int disturbed = 0, looks = 5;
    r->launches[w] = (int)MAX(1, MIN(sample_seconds / MAX(one, 1e-7), 256));
    for (int i = 0; i < looks; i++)
        disturbed += !quiet_sample(r, w, 0, &one);
    r->busy[w] = disturbed > looks / 2;
}

double runner_sample(Runner *r, int w, int candidate)
{
    double seconds;
    if (!r->launches[w])
        (r->gpu ? calibrate_gpu : calibrate)(r, w);
    if (r->gpu)
        return timed_on_gpu(r, w, candidate);
    if (r->busy[w])
        return timed(r, w, candidate, r->launches[w]);
    quiet_sample(r, w, candidate, &seconds);
    return seconds;
}

/* ---- limits ----------------------------------------------------------------------------------------------------- */

static const PlanLimit *find_limit(const Plan *p, const char *name)
{
    for (int i = 0; i < p->limits_count; i++)
        if (!strcmp(p->limits[i].name, name))
            return &p->limits[i];
    return NULL;
}

/* Best of several runs of `rows` blocks, in rows a second; more of them while the process is being interrupted. Runs
 * that read take one piece of the source after the other. */
static double limit_rate(Runner *r, const PlanLimit *l, void **buffers, int64_t rows)
{
    int64_t sizes[SIZE_COUNT] = {[SIZE_ROWS] = rows};
    char *source = buffers[0];
    int w = r->c->workloads_count - 1; /* by the clock that its samples were taken by */
    set_sizes(r, r->sizes[CASE_WORKLOADS], sizes);
    double best = 0, begin = now_seconds(), spent = 0;
    for (int clean = 0, turn = 0; (clean < 3 || spent < limit_seconds) && spent < 10 * limit_seconds; turn++) {
        long before = interruptions();
        buffers[0] = source + turn % LIMIT_PIECES * rows * l->bytes_per_block;
        double t = clock_of(r, w);
        r->device->ops->launch(r->device, l->kernel, buffers, MAX(l->inputs, 1) + 1,
                               r->sizes[CASE_WORKLOADS], rows);
        r->device->ops->sync(r->device, NULL);
        best = MAX(best, (double)rows / (clock_of(r, w) - t));
        clean += interruptions() == before;
        spent = now_seconds() - begin;
    }
    return best;
}

/* The same on a GPU: many runs in a row, as many as take some milliseconds. */
static double gpu_limit_rate(Runner *r, const PlanLimit *l, void **buffers, int64_t rows)
{
    const DeviceOps *ops = r->device->ops;
    int64_t sizes[SIZE_COUNT] = {[SIZE_ROWS] = rows};
    char *source = buffers[0];
    double best = 0, begin = now_seconds(), spent = 0;
    set_sizes(r, r->sizes[CASE_WORKLOADS], sizes);
    for (int runs = 1, turn = 0; spent < 2 * limit_seconds; spent = now_seconds() - begin) {
        double start = now_seconds();
        for (int i = 0; i < runs; i++, turn++) {
            buffers[0] = source + turn % GPU_LIMIT_PIECES * rows * l->bytes_per_block;
            ops->launch(r->device, l->kernel, buffers, MAX(l->inputs, 1) + 1, r->sizes[CASE_WORKLOADS], rows);
        }
        ops->sync(r->device, NULL);
        double seconds = now_seconds() - start;
        best = MAX(best, (double)rows * runs / seconds);
        runs = seconds < 4 * gpu_sample_seconds ? MIN(2 * runs, MOST_LAUNCHES) : runs;
    }
    return best;
}

/* Blocks of a run that measures a limit, and how many runs in a row read other memory. */
static int64_t limit_blocks(const Runner *r, const PlanLimit *l, int *pieces)
{
    int64_t available, total;
    *pieces = r->gpu ? GPU_LIMIT_PIECES : LIMIT_PIECES;
    if (!r->gpu)
        return l->bytes_per_block ? MAX(2 * last_cache(r->device) / l->bytes_per_block / LIMIT_PIECES, 1) : 64;
    if (r->emulated)
        return 1;
    r->device->ops->memory(r->device, &available, &total);
    if (l->bytes_per_block)
        return MAX(MIN(gpu_limit_bytes, available / 4) / l->bytes_per_block / GPU_LIMIT_PIECES, 1);
    return MAX(MIN(GPU_LIMIT_BLOCKS, available / 8 / MAX(l->output_bytes, 1)), 1);
}

double runner_limit(Runner *r, const char *name)
{
    const PlanLimit *l = find_limit(r->pack->plan, name);
    if (!l || (r->emulated && !l->bytes_per_block)) /* a block of arithmetic would take seconds */
        return 0;
    int pieces;
    int64_t rows = limit_blocks(r, l, &pieces), input = 0;
    for (int i = 0; i < l->inputs; i++)
        input += plan_room(l->input_bytes[i]);
    input = MAX(input, pieces * rows * l->bytes_per_block);
    size_t held = r->blocks.len;
    Err none;
    char *in = take(r, input, &none), *out = in ? take(r, rows * l->output_bytes, &none) : NULL;
    double rate = 0;
    if (out) {
        void *buffers[PLAN_MAX_INPUTS + 1] = {in};
        int n = 0;
        PlanFill ones = {.type = DT_F32, .scale = 1};
        r->device->ops->fill(r->device, in, (size_t)input, &ones, 1);
        for (int64_t at = 0; n < l->inputs; at += plan_room(l->input_bytes[n++]))
            buffers[n] = in + at;
        buffers[MAX(n, 1)] = out;
        rate = (r->gpu ? gpu_limit_rate : limit_rate)(r, l, buffers, rows) * (double)(l->bytes_per_block ? l->bytes_per_block : l->ops_per_block);
    }
    for (; r->blocks.len > held; r->blocks.len--)
        r->device->ops->free(r->device, r->blocks.at[r->blocks.len - 1].memory, r->blocks.at[r->blocks.len - 1].bytes);
    return rate;
}
