/* device_gpu.c - a GPU as a device: one stream that everything goes through in order, memory from the driver's pool,
 * pinned mirrors of what the host shares, modules, and graphs of recorded launches. The drivers behind it:
 * device_cuda.c, device_hip.c.
 *
 * Errors: calls that have an Err give their own; others note the first failure, and the device does nothing from then
 * on.
 */
#include "device_gpu.h"

#include <assert.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpu.h"

enum { STAGES = 2, STAGE_BYTES = 8 << 20, LOADERS = 16, MAX_PITCH = INT32_MAX };

/* Pinned memory that copies of ordinary memory go through: one is filled while the other is read. */
typedef struct Stage {
    char *memory;
    void *event; /* behind the copy that reads it */
} Stage;

typedef struct Shared { /* memory of kind DEVICE_SHARED */
    char *memory, *mirror;
    size_t bytes;
} Shared;

typedef struct GpuKernel {
    const char *name;
    void *module, *function;
    unsigned threads, shared;
} GpuKernel;

typedef struct Gpu {
    Device base;
    const GpuVendor *vendor;
    const GpuCalls *call;
    void *library;
    int index;
    uint64_t serial; /* among the devices of this process */
    void *context, *stream;
    bool pools; /* memory is taken and given back in the order of the stream */
    Stage stages[STAGES];
    int stage; /* the next one */
    VEC(Shared) shared;
    GpuKernel *kernels;
    int kernels_count;
    bool recording;
    bool failed;
    Err failure;
} Gpu;

/* ---- errors --------------------------------------------------------------------------------------------------- */

static bool driver_error(const Gpu *g, int error, const char *doing, Err *err)
{
    const char *name = NULL, *text = NULL;
    g->vendor->describe(error, &name, &text);
    return err_set(err, "%s: %s: %s%s%s", g->base.label, doing, name ? name : "unknown error", text ? ": " : "",
                   text ? text : "");
}

/* Notes a failure of what has no other way to tell. */
static bool note(Gpu *g, int error, const char *doing, const char *what)
{
    if (!error || g->failed)
        return !error;
    char where[256];
    snprintf(where, sizeof where, "%s%s", doing, what);
    driver_error(g, error, where, &g->failure);
    size_t n = strlen(g->failure.text);
    snprintf(g->failure.text + n, sizeof g->failure.text - n, "; this process can't use the device any more: start it "
             "again (the system's log may say more: dmesg)");
    g->failed = true;
    return false;
}

/* The driver keeps the current device for each thread; ours is made current once on each. False when the device has
 * failed. */
static bool enter(Gpu *g)
{
    static _Thread_local uint64_t current;
    if (current != g->serial && note(g, g->vendor->enter(g->index, g->context), "making the device current", ""))
        current = g->serial;
    return !g->failed;
}

/* After a failure too: what was begun before it may still use memory that will be freed. */
static bool sync_gpu(Device *d, Err *err)
{
    Gpu *g = (Gpu *)d;
    enter(g);
    if (g->stream)
        note(g, g->call->stream_wait(g->stream), "waiting for its kernels", "");
    if (g->failed && err)
        *err = g->failure;
    return !g->failed;
}

/* ---- memory --------------------------------------------------------------------------------------------------- */

static int threads(const Device *d)
{
    (void)d;
    return 1;
}

static void memory(const Device *d, int64_t *available, int64_t *total)
{
    Gpu *g = (Gpu *)d;
    size_t a = 0, t = 0;
    if (enter(g))
        note(g, g->call->memory_info(&a, &t), "asking for free memory", "");
    *available = (int64_t)a;
    *total = (int64_t)t;
}

static int take(Gpu *g, void **p, size_t bytes)
{
    int error = GPU_NOT_SUPPORTED;
    if (g->pools)
        error = g->call->alloc_async(p, bytes, g->stream);
    g->pools = g->pools && error != GPU_NOT_SUPPORTED;
    return g->pools ? error : g->call->alloc(p, bytes);
}

static void give_back(Gpu *g, void *p)
{
    note(g, g->pools ? g->call->free_async(p, g->stream) : g->call->free(p), "freeing memory", "");
}

static bool no_memory(Gpu *g, int error, size_t bytes, const char *where, Err *err)
{
    size_t available = 0, total = 0;
    char doing[96];
    snprintf(doing, sizeof doing, "allocating %.1f MiB%s", (double)bytes / 1048576, where);
    driver_error(g, error, doing, err);
    size_t n = strlen(err->text);
    if (error == GPU_OUT_OF_MEMORY && !g->call->memory_info(&available, &total))
        snprintf(err->text + n, sizeof err->text - n, "; %.1f of %.1f MiB are free: use a smaller --kv-cache-memory or "
                 "--max-num-seqs, or --weights w4", (double)available / 1048576, (double)total / 1048576);
    return false;
}

static bool add_mirror(Gpu *g, char *p, size_t bytes, Err *err)
{
    void *mirror;
    int error = g->call->host_alloc(&mirror, bytes, GPU_HOST_PORTABLE);
    if (error)
        return no_memory(g, error, bytes, " of pinned memory on the host", err);
    memset(mirror, 0, bytes);
    vec_push(&g->shared, (Shared){p, mirror, bytes});
    return true;
}

static void *alloc(Device *d, size_t bytes, DeviceMemory kind, Err *err)
{
    Gpu *g = (Gpu *)d;
    void *p = NULL;
    if (!enter(g)) {
        *err = g->failure;
        return NULL;
    }
    int error = take(g, &p, bytes);
    if (error) {
        no_memory(g, error, bytes, "", err);
        return NULL;
    }
    note(g, g->call->set(p, 0, bytes, g->stream), "zeroing memory", "");
    if (kind != DEVICE_SHARED || add_mirror(g, p, bytes, err))
        return p;
    give_back(g, p);
    return NULL;
}

static void release(Device *d, void *p, size_t bytes)
{
    Gpu *g = (Gpu *)d;
    (void)bytes;
    enter(g);
    for (size_t i = 0; i < g->shared.len; i++)
        if (g->shared.at[i].memory == p) {
            g->call->host_free(g->shared.at[i].mirror);
            g->shared.at[i] = g->shared.at[--g->shared.len];
            break;
        }
    if (p)
        give_back(g, p);
}

static void *mirror(Device *d, void *shared)
{
    Gpu *g = (Gpu *)d;
    for (size_t i = 0; i < g->shared.len; i++) {
        const Shared *s = &g->shared.at[i];
        if ((char *)shared >= s->memory && (char *)shared < s->memory + s->bytes)
            return s->mirror + ((char *)shared - s->memory);
    }
    assert(!"shared memory");
    return NULL;
}

static void *borrow(Device *d, const void *host, size_t n)
{
    (void)d;
    (void)host;
    (void)n;
    return NULL;
}

/* ---- copies --------------------------------------------------------------------------------------------------- */

static void push(Device *d, void *shared, size_t n)
{
    Gpu *g = (Gpu *)d;
    if (enter(g))
        note(g, g->call->copy_in(shared, mirror(d, shared), n, g->stream), "copying inputs", "");
}

static void pull(Device *d, void *shared, size_t n)
{
    Gpu *g = (Gpu *)d;
    if (enter(g))
        note(g, g->call->copy_out(mirror(d, shared), shared, n, g->stream), "copying outputs", "");
}

static bool open_stage(Gpu *g, Stage *s)
{
    void *p;
    if (s->memory)
        return note(g, g->call->event_wait(s->event), "copying to the device", "");
    if (!note(g, g->call->host_alloc(&p, STAGE_BYTES, GPU_HOST_PORTABLE), "allocating pinned memory", ""))
        return false;
    s->memory = p;
    return note(g, g->call->event_new(&s->event, GPU_EVENT_NO_TIMING), "creating an event", "");
}

/* The next stage, no longer in use; NULL when the device has failed. */
static Stage *next_stage(Gpu *g)
{
    Stage *s = &g->stages[g->stage];
    g->stage = (g->stage + 1) % STAGES;
    return enter(g) && open_stage(g, s) ? s : NULL;
}

static void copy_in(Device *d, void *to, const void *host, size_t n)
{
    Gpu *g = (Gpu *)d;
    Stage *s;
    for (size_t at = 0; at < n && (s = next_stage(g)); at += STAGE_BYTES) {
        size_t piece = MIN(n - at, STAGE_BYTES);
        memcpy(s->memory, (const char *)host + at, piece);
        note(g, g->call->copy_in((char *)to + at, s->memory, piece, g->stream), "copying to the device", "");
        note(g, g->call->event_record(s->event, g->stream), "recording an event", "");
    }
}

static void copy_out(Device *d, void *host, const void *from, size_t n)
{
    Gpu *g = (Gpu *)d;
    Stage *s;
    for (size_t at = 0; at < n && (s = next_stage(g)); at += STAGE_BYTES) {
        size_t piece = MIN(n - at, STAGE_BYTES);
        note(g, g->call->copy_out(s->memory, (const char *)from + at, piece, g->stream), "copying from the device", "");
        note(g, g->call->event_record(s->event, g->stream), "recording an event", "");
        if (sync_gpu(d, NULL))
            memcpy((char *)host + at, s->memory, piece);
    }
}

/* The tile is copied in, then what is there is doubled. */
static void fill(Device *d, void *to, size_t n, const PlanFill *f, uint64_t seed)
{
    Gpu *g = (Gpu *)d;
    if (!enter(g) || !n)
        return;
    if (f->type == DT_NONE) {
        note(g, g->call->set(to, 0, n, g->stream), "zeroing memory", "");
        return;
    }
    uint8_t *tile = xcalloc(1, DEVICE_FILL_TILE);
    size_t done = MIN(n, DEVICE_FILL_TILE);
    device_fill_tile(tile, done, f, seed);
    copy_in(d, to, tile, done);
    free(tile);
    for (; done < n && !g->failed; done = MIN(n, 2 * done))
        note(g, g->call->copy((char *)to + done, to, MIN(done, n - done), g->stream), "filling memory", "");
}

static void zero_rows(Device *d, void *to, size_t width, size_t pitch, size_t rows)
{
    Gpu *g = (Gpu *)d;
    if (!enter(g))
        return;
    if (rows > 1 && pitch <= MAX_PITCH) {
        note(g, g->call->set_rows(to, pitch, 0, width, rows, g->stream), "zeroing memory", "");
        return;
    }
    for (size_t i = 0; i < rows; i++)
        note(g, g->call->set((char *)to + i * pitch, 0, width, g->stream), "zeroing memory", "");
}

/* ---- code ----------------------------------------------------------------------------------------------------- */

typedef struct Loading { /* shared by the threads that load modules: the driver compiles PTX meanwhile */
    Gpu *g;
    const Plan *plan;
    const uint8_t *code;
    atomic_int next;
    atomic_bool failed;
    pthread_mutex_t lock;
    Err *err;
} Loading;

static bool check_kernel(const Gpu *g, const PlanKernel *k, Err *err)
{
    return k->threads ? true : err_set(err, "%s: kernel '%s' of the pack is for a CPU", g->base.label, k->name);
}

static bool load_image(Gpu *g, const PlanKernel *k, const uint8_t *code, GpuKernel *out, Err *err)
{
    enum { LOG_BYTES = 1024 };
    char doing[256], log[LOG_BYTES] = "", *image = xmalloc((size_t)k->size + 1);
    memcpy(image, code + k->offset, (size_t)k->size);
    image[k->size] = 0; /* PTX is a text */
    int error = g->vendor->load(&out->module, image, log, LOG_BYTES);
    free(image);
    snprintf(doing, sizeof doing, "loading kernel '%.200s'", k->name);
    if (error) {
        out->module = NULL;
        driver_error(g, error, doing, err);
        size_t n = strlen(err->text);
        snprintf(err->text + n, sizeof err->text - n, "%s%.*s", *log ? "\n" : "", LOG_BYTES, log);
        return false;
    }
    error = g->call->module_function(&out->function, out->module, k->symbol);
    if (!error)
        error = g->vendor->prepare(out->function, k->threads, (int)k->shared);
    return !error || driver_error(g, error, doing, err);
}

static void load_failed(Loading *l, const Err *why)
{
    pthread_mutex_lock(&l->lock);
    if (!atomic_exchange(&l->failed, true))
        *l->err = *why;
    pthread_mutex_unlock(&l->lock);
}

static void *load_main(void *context)
{
    Loading *l = context;
    Gpu *g = l->g;
    Err err = {0};
    int error = g->vendor->enter(g->index, g->context);
    if (error) {
        driver_error(g, error, "making the device current", &err);
        load_failed(l, &err);
    }
    for (int i; !atomic_load(&l->failed) && (i = atomic_fetch_add(&l->next, 1)) < g->kernels_count;) {
        const PlanKernel *k = &l->plan->kernels[i];
        g->kernels[i] = (GpuKernel){.name = k->name, .threads = (unsigned)k->threads,
                                    .shared = g->vendor->dynamic_shared ? (unsigned)k->shared : 0};
        if (!check_kernel(g, k, &err) || !load_image(g, k, l->code, &g->kernels[i], &err))
            load_failed(l, &err);
    }
    return NULL;
}

static bool load_code(Device *d, const Plan *p, const uint8_t *code, Err *err)
{
    Gpu *g = (Gpu *)d;
    Loading l = {.g = g, .plan = p, .code = code, .err = err, .lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t others[LOADERS];
    int count = 0, most = MIN(LOADERS, (int)sysconf(_SC_NPROCESSORS_ONLN) - 1);
    g->kernels = xcalloc((size_t)p->kernels_count, sizeof *g->kernels);
    g->kernels_count = p->kernels_count;
    while (count < MIN(most, p->kernels_count - 1) && !pthread_create(&others[count], NULL, load_main, &l))
        count++;
    load_main(&l);
    for (int i = 0; i < count; i++)
        pthread_join(others[i], NULL);
    return !atomic_load(&l.failed);
}

/* The array of parameters ends with NULL: drivers know from the code how many there are, the stand-ins of the tests
 * count. */
static void launch(Device *d, int kernel, void *const *buffers, int count, const int64_t *sizes, int64_t blocks)
{
    Gpu *g = (Gpu *)d;
    const GpuKernel *k = &g->kernels[kernel];
    void *parameters[PLAN_MAX_ARGS + 2];
    assert(count <= PLAN_MAX_ARGS);
    if (!enter(g) || !blocks)
        return;
    for (int i = 0; i < count; i++)
        parameters[i] = (void *)&buffers[i];
    parameters[count] = (void *)&sizes;
    parameters[count + 1] = NULL;
    if (blocks > INT32_MAX) {
        g->failed = true;
        err_set(&g->failure, "%s: kernel '%s' would need %lld blocks; lower the limits on tokens and sequences",
                g->base.label, k->name, (long long)blocks);
        return;
    }
    int error = g->call->launch(k->function, (unsigned)blocks, 1, 1, k->threads, 1, 1, k->shared, g->stream, parameters,
                                NULL);
    note(g, error, "launching kernel ", k->name);
}

/* ---- graphs --------------------------------------------------------------------------------------------------- */

static const char graph_hint[] = " (--no-graphs does without)";

static void record(Device *d)
{
    Gpu *g = (Gpu *)d;
    g->recording = enter(g) && note(g, g->call->capture_begin(g->stream, GPU_CAPTURE_THREAD_LOCAL), "beginning a graph",
                                    graph_hint);
}

static void *recorded(Device *d)
{
    Gpu *g = (Gpu *)d;
    void *graph = NULL, *executable = NULL;
    if (!g->recording || !note(g, g->call->capture_end(g->stream, &graph), "ending a graph", graph_hint) || !graph)
        return NULL;
    if (g->failed || !note(g, g->call->graph_make(&executable, graph, 0), "building a graph", graph_hint))
        executable = NULL;
    note(g, g->call->graph_free(graph), "freeing a graph", "");
    return executable;
}

static void replay(Device *d, void *recording)
{
    Gpu *g = (Gpu *)d;
    if (enter(g))
        note(g, g->call->graph_launch(recording, g->stream), "launching a graph", graph_hint);
}

static void forget(Device *d, void *recording)
{
    Gpu *g = (Gpu *)d;
    enter(g);
    note(g, g->call->executable_free(recording), "freeing a graph", "");
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

/* What the driver refuses to free belongs to a device that is gone. */
static void close_gpu(Device *d)
{
    Gpu *g = (Gpu *)d;
    sync_gpu(d, NULL);
    for (int i = 0; i < g->kernels_count; i++)
        if (g->kernels[i].module)
            g->call->module_free(g->kernels[i].module);
    for (int i = 0; i < STAGES; i++) {
        if (g->stages[i].event)
            g->call->event_free(g->stages[i].event);
        if (g->stages[i].memory)
            g->call->host_free(g->stages[i].memory);
    }
    if (g->stream)
        g->call->stream_free(g->stream);
    g->vendor->close(g->index, g->context);
    vec_free(&g->shared);
    free(g->kernels);
    free(g); /* the library stays: drivers do not like to be unloaded */
}

static const DeviceOps gpu_ops[] = {
#define OPS(vendor)                                                                                                   \
    {.name = vendor, .close = close_gpu, .threads = threads, .memory = memory, .alloc = alloc, .free = release,       \
     .borrow = borrow, .copy_in = copy_in, .copy_out = copy_out, .fill = fill, .load_code = load_code,                \
     .launch = launch, .sync = sync_gpu, .mirror = mirror, .push = push, .pull = pull, .zero_rows = zero_rows,        \
     .record = record, .recorded = recorded, .replay = replay, .forget = forget}
    OPS("cuda"), OPS("hip"),
#undef OPS
};

static const GpuVendor *const vendors[] = {&gpu_cuda, &gpu_hip};

static bool load_library(const GpuVendor *v, Err *err)
{
    void *library = NULL;
    for (size_t i = 0; !library && i < COUNT(v->libraries) && v->libraries[i]; i++)
        if (!(library = dlopen(v->libraries[i], RTLD_NOW | RTLD_LOCAL)) && !i)
            err_set(err, "%s can't be loaded (%s): is %s installed?", v->libraries[0], dlerror(), v->install);
    if (!library)
        return false;
    for (size_t i = 0; i < v->symbols_count; i++) {
        void *f = dlsym(library, v->symbols[i].name);
        if (!f && !v->symbols[i].optional)
            return err_set(err, "%s lacks %s: a newer version of %s is needed", v->libraries[0], v->symbols[i].name,
                           v->install);
        memcpy(v->symbols[i].address, &f, sizeof f);
    }
    return true;
}

static bool find_device(const GpuVendor *v, int index, char *name, int size, Err *err)
{
    int count = 0, error = v->calls->init(0);
    const char *why = NULL, *text;
    if (!error)
        error = v->calls->device_count(&count);
    if (error)
        v->describe(error, &why, &text);
    if (error || !count)
        return err_set(err, "there is no device%s%s%s", why ? " (" : "", why ? why : "", why ? ")" : "");
    if (index >= count)
        return err_set(err, "there is no device %d: the last is %d", index, count - 1);
    error = v->calls->device_name(name, size, index);
    return !error || err_set(err, "asking for the device's name: error %d", error);
}

static bool open_gpu(int vendor, int index, Device **d, Err *err)
{
    static atomic_uint_fast64_t serial;
    const GpuVendor *v = vendors[vendor];
    char name[64] = "";
    if (!load_library(v, err) || !find_device(v, index, name, sizeof name, err))
        return err_prefix(err, "%s", v->name);
    Gpu *g = xcalloc(1, sizeof *g);
    *g = (Gpu){.base.ops = &gpu_ops[vendor], .vendor = v, .call = v->calls, .index = index,
               .pools = v->calls->alloc_async && v->calls->free_async, .serial = 1 + atomic_fetch_add(&serial, 1)};
    snprintf(g->base.label, sizeof g->base.label, "%s:%d (%s)", v->name, index, name);
    device_slug(g->base.name, sizeof g->base.name, name);
    if (!v->open(index, name, g->base.target, &g->context, err)) {
        free(g);
        return err_prefix(err, "%s:%d", v->name, index);
    }
    if (enter(g))
        note(g, g->call->stream_new(&g->stream, GPU_STREAM_NON_BLOCKING), "creating a stream", "");
    *d = &g->base;
    if (!g->failed)
        return true;
    *err = g->failure;
    close_gpu(*d);
    *d = NULL;
    return false;
}

/* "cuda" or "cuda:1": the vendor and the device's number. */
static bool parse_name(const char *name, int *vendor, int *index)
{
    for (*vendor = 0; *vendor < (int)COUNT(vendors); ++*vendor) {
        size_t n = strlen(vendors[*vendor]->name);
        if (strncmp(name, vendors[*vendor]->name, n) || (name[n] && name[n] != ':'))
            continue;
        const char *digits = name + n + (name[n] == ':');
        *index = 0;
        if (name[n] && (!*digits || strspn(digits, "0123456789") != strlen(digits) || strlen(digits) > 3))
            return false;
        *index = atoi(digits);
        return true;
    }
    return false;
}

bool device_name_valid(const char *name, Err *err)
{
    int vendor, index;
    return !name || !strcmp(name, "auto") || !strcmp(name, "host") || parse_name(name, &vendor, &index) ||
           err_set(err, "--device: \"%.40s\" is not one of auto, host, cuda, cuda:N, hip, hip:N", name);
}

bool device_gpu_open(const char *name, Device **d, Err *err)
{
    int vendor, index;
    *d = NULL;
    if (!device_name_valid(name, err))
        return false;
    if (name && !strcmp(name, "host"))
        return true;
    if (!name || !strcmp(name, "auto")) {
        for (int i = 0; i < (int)COUNT(vendors) && !*d; i++)
            open_gpu(i, 0, d, &(Err){0});
        return true;
    }
    parse_name(name, &vendor, &index);
    return open_gpu(vendor, index, d, err) || err_prefix(err, "--device %s", name);
}
