/* device_host.c - the CPU as a device: blocks are ranges of a pool's job, memory is mapped with huge pages; launches
 * run at once or through a queue, on a thread that is the pool's thread 0. */
#include "device.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "object.h"
#include "pool.h"

static const size_t huge_page = (size_t)2 << 20;

typedef struct Command {
    bool is_fill; /* else a launch */
    PlanFill fill;
    void *to;
    size_t n;
    uint64_t seed;
    int kernel;
    void *const *buffers;
    const int64_t *sizes;
    int64_t blocks;
} Command;

enum { QUEUE_SIZE = 1024, SPINS = 2000 };

/* One producer, one consumer: commands begin .. end - 1 (modulo the size) wait or run. */
typedef struct Queue {
    Command commands[QUEUE_SIZE];
    _Atomic uint64_t begin, end;
    atomic_bool sleeping;    /* the device's thread, until `more` */
    _Atomic uint64_t wanted; /* the caller sleeps until `begin` is this, or 0 */
    bool closing;            /* under the mutex, as the two sleeps are */
    pthread_mutex_t mutex;
    pthread_cond_t more, done;
    pthread_t thread;
    int threads; /* wanted */
    bool open;   /* the pool is there, or the error */
    Err *err;
} Queue;

/* Memory whose pages are brought in by a thread of low priority, so that no step waits for them. */
typedef struct Populate {
    char *memory;
    size_t bytes;
    pthread_t thread;
    bool runs;
    atomic_bool stop;
} Populate;

typedef struct Host {
    Device base;
    Pool *pool;
    Queue *queue; /* NULL: everything runs at once */
    Populate populate; /* with a queue */
    ObjectCode code;
    HostKernel **kernels;
} Host;

/* ---- memory --------------------------------------------------------------------------------------------------- */

/* The number behind `key` in a file of the kernel's, or the whole file's when key is ""; -1 when there is none. */
static int64_t kernel_number(const char *path, const char *key)
{
    FILE *f = fopen(path, "r");
    if (!f)
        return -1;
    char line[256];
    long long v = -1;
    while (v < 0 && fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key)) && sscanf(line + strlen(key), "%lld", &v) != 1)
            v = -1;
    fclose(f);
    return v;
}

void host_memory(int64_t *available, int64_t *total)
{
    int64_t kib = kernel_number("/proc/meminfo", "MemAvailable:"), all = kernel_number("/proc/meminfo", "MemTotal:");
    *available = kib < 0 ? INT64_MAX / 4 : kib * 1024;
    *total = all < 0 ? INT64_MAX / 4 : all * 1024;
    int64_t limit = kernel_number("/sys/fs/cgroup/memory.max", "");
    int64_t used = kernel_number("/sys/fs/cgroup/memory.current", "");
    int64_t cache = kernel_number("/sys/fs/cgroup/memory.stat", "file ");
    if (limit < 0 || used < 0)
        return;
    *total = MIN(*total, limit);
    *available = MAX(MIN(*available, limit - used + MAX(cache, 0)), 0);
}

static void memory(const Device *d, int64_t *available, int64_t *total)
{
    (void)d;
    host_memory(available, total);
}

static size_t whole_pages(size_t bytes)
{
    return (bytes + 4095) & ~(size_t)4095;
}

static void *populate_main(void *context)
{
    enum { PIECE = 4 << 20 };
    Populate *p = context;
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19);
    for (size_t at = 0; at < p->bytes && !atomic_load(&p->stop); at += PIECE)
        if (madvise(p->memory + at, MIN(p->bytes - at, PIECE), MADV_POPULATE_WRITE))
            break; /* an older kernel, or no memory: the first touch does it, or fails, as ever */
    return NULL;
}

static void start_populate(Populate *p, void *memory, size_t bytes)
{
    if (p->runs)
        return;
    p->memory = memory;
    p->bytes = bytes;
    p->runs = !pthread_create(&p->thread, NULL, populate_main, p);
}

static void stop_populate(Populate *p)
{
    atomic_store(&p->stop, true);
    if (p->runs)
        pthread_join(p->thread, NULL);
    p->runs = false;
}

/* Big blocks begin on a huge page, so that the kernel can use them from the first byte. */
static void *alloc(Device *d, size_t bytes, DeviceMemory kind, Err *err)
{
    Host *h = (Host *)d;
    size_t used = whole_pages(bytes), pad = bytes >= huge_page ? huge_page : 0;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *p = mmap(NULL, used + pad, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (p == MAP_FAILED) {
        err_set(err, "cannot allocate %.1f MiB: %s", (double)bytes / 1048576, strerror(errno));
        return NULL;
    }
    if (pad) {
        size_t head = (huge_page - (uintptr_t)p % huge_page) % huge_page;
        if (head)
            munmap(p, head);
        p += head;
        if (pad > head)
            munmap(p + used, pad - head);
    }
    if (kind != DEVICE_SHARED)
        madvise(p, used, MADV_HUGEPAGE); /* a hint: without it things are slower, not wrong */
    if (kind == DEVICE_SLOWLY && h->queue)
        start_populate(&h->populate, p, used);
    return p;
}

static void release(Device *d, void *p, size_t bytes)
{
    Host *h = (Host *)d;
    if (p && p == h->populate.memory)
        stop_populate(&h->populate);
    if (p)
        munmap(p, whole_pages(bytes));
}

static void *borrow(Device *d, const void *host, size_t n)
{
    (void)d;
    (void)n;
    return (void *)host;
}

static void *mirror(Device *d, void *shared)
{
    (void)d;
    return shared;
}

static void copy_in(Device *d, void *to, const void *host, size_t n)
{
    (void)d;
    memcpy(to, host, n);
}

static void copy_out(Device *d, void *host, const void *from, size_t n)
{
    (void)d;
    memcpy(host, from, n);
}

/* ---- random contents ------------------------------------------------------------------------------------------ */

/* Random bytes are made once, for a tile of an odd number of cache lines, and repeated: as fast as memory can be
 * written, and no row of a matrix equals the next. */
enum { FILL_TILE = DEVICE_FILL_TILE, FILL_BLOCK = 1 << 16 };

typedef struct FillJob {
    uint8_t *to;
    size_t n;
    const uint8_t *tile; /* NULL: zeros */
} FillJob;

static uint64_t next_random(uint64_t *s)
{
    uint64_t z = *s += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* Uniform in mean +- scale * sqrt(3), whose standard deviation is the scale; integers get random bits. */
void device_fill_tile(uint8_t *tile, size_t n, const PlanFill *f, uint64_t seed)
{
    static const double sqrt3 = 1.7320508075688772;
    bool real = f->type == DT_F32 || f->type == DT_BF16 || f->type == DT_F16;
    size_t count = real ? n / dtype_size(f->type) : n;
    for (size_t i = 0; i < count; i++) {
        uint64_t bits = next_random(&seed);
        if (real)
            dtype_set(f->type, tile, i, f->mean + f->scale * sqrt3 * ((double)(bits >> 11) * 0x1p-52 - 1));
        else
            tile[i] = (uint8_t)bits;
    }
}

static void fill_blocks(void *context, int64_t begin, int64_t end, int thread)
{
    const FillJob *j = context;
    (void)thread;
    for (size_t at = (size_t)begin * FILL_BLOCK, last = MIN((size_t)end * FILL_BLOCK, j->n); at < last;) {
        size_t from = at % FILL_TILE, n = MIN(last - at, FILL_TILE - from);
        if (j->tile)
            memcpy(j->to + at, j->tile + from, n);
        else
            memset(j->to + at, 0, n);
        at += n;
    }
}

static void run_fill(Host *h, const Command *c)
{
    uint8_t *tile = c->fill.type == DT_NONE ? NULL : xcalloc(1, FILL_TILE);
    if (tile)
        device_fill_tile(tile, MIN(c->n, FILL_TILE), &c->fill, c->seed);
    FillJob job = {c->to, c->n, tile};
    pool_run(h->pool, fill_blocks, &job, (int64_t)((c->n + FILL_BLOCK - 1) / FILL_BLOCK));
    free(tile);
}

/* ---- code ----------------------------------------------------------------------------------------------------- */

static bool load_code(Device *d, const Plan *p, const uint8_t *code, Err *err)
{
    Host *h = (Host *)d;
    size_t n = (size_t)p->kernels_count;
    int64_t scratch = 0;
    bool for_cpu = true;
    ObjectSource *src = xcalloc(n, sizeof *src);
    void **entries = xcalloc(n, sizeof *entries);
    for (size_t i = 0; i < n; i++) {
        const PlanKernel *k = &p->kernels[i];
        for_cpu = for_cpu && !k->threads;
        src[i] = (ObjectSource){k->name, code + k->offset, (size_t)k->size, k->symbol};
        scratch = MAX(scratch, k->scratch);
    }
    bool ok = (for_cpu || err_set(err, "the pack's kernels are for a GPU, not for the host")) &&
              object_load(src, n, entries, &h->code, err) && pool_reserve_scratch(h->pool, (size_t)scratch, err);
    h->kernels = (HostKernel **)entries;
    free(src);
    return ok;
}

typedef struct LaunchJob {
    HostKernel *kernel;
    void *const *buffers;
    const int64_t *sizes;
    const Pool *pool;
} LaunchJob;

static void run_blocks(void *context, int64_t begin, int64_t end, int thread)
{
    const LaunchJob *j = context;
    j->kernel(j->buffers, j->sizes, begin, end, pool_scratch(j->pool, thread));
}

static void run_launch(Host *h, const Command *c)
{
    LaunchJob job = {h->kernels[c->kernel], c->buffers, c->sizes, h->pool};
    pool_run(h->pool, run_blocks, &job, c->blocks);
}

static void run_command(Host *h, const Command *c)
{
    if (c->is_fill)
        run_fill(h, c);
    else
        run_launch(h, c);
}

/* ---- queue ---------------------------------------------------------------------------------------------------- */

static void wake(Queue *q, pthread_cond_t *cond)
{
    pthread_mutex_lock(&q->mutex);
    pthread_cond_signal(cond);
    pthread_mutex_unlock(&q->mutex);
}

/* The device's thread waits for command number `at`: spins for a moment, then sleeps. False when the queue closes. */
static bool wait_command(Queue *q, uint64_t at)
{
    for (int i = 0; i < SPINS; i++)
        if (atomic_load_explicit(&q->end, memory_order_acquire) != at)
            return true;
    pthread_mutex_lock(&q->mutex);
    atomic_store(&q->sleeping, true);
    while (atomic_load(&q->end) == at && !q->closing)
        pthread_cond_wait(&q->more, &q->mutex);
    atomic_store(&q->sleeping, false);
    pthread_mutex_unlock(&q->mutex);
    return atomic_load(&q->end) != at;
}

/* The caller waits until all commands before number `at` are done. It leaves the cores to the pool: no spinning. */
static void wait_done(Queue *q, uint64_t at)
{
    if (atomic_load(&q->begin) >= at)
        return;
    pthread_mutex_lock(&q->mutex);
    atomic_store(&q->wanted, at);
    while (atomic_load(&q->begin) < at)
        pthread_cond_wait(&q->done, &q->mutex);
    atomic_store(&q->wanted, 0);
    pthread_mutex_unlock(&q->mutex);
}

static void *run_queue(void *context)
{
    Host *h = context;
    Queue *q = h->queue;
    Pool *pool = pool_new(q->threads, q->err);
    pthread_mutex_lock(&q->mutex);
    h->pool = pool;
    q->open = true;
    pthread_cond_signal(&q->done);
    pthread_mutex_unlock(&q->mutex);
    if (!pool)
        return NULL;
    for (uint64_t at = 0; wait_command(q, at);) {
        run_command(h, &q->commands[at % QUEUE_SIZE]);
        atomic_store(&q->begin, ++at);
        if (atomic_load(&q->wanted) == at)
            wake(q, &q->done);
    }
    pool_free(pool);
    return NULL;
}

static void submit(Host *h, const Command *c)
{
    Queue *q = h->queue;
    if (!q) {
        run_command(h, c);
        return;
    }
    uint64_t at = atomic_load_explicit(&q->end, memory_order_relaxed);
    if (at >= QUEUE_SIZE)
        wait_done(q, at - QUEUE_SIZE + 1);
    q->commands[at % QUEUE_SIZE] = *c;
    atomic_store(&q->end, at + 1);
    if (atomic_load(&q->sleeping))
        wake(q, &q->more);
}

static void launch(Device *d, int kernel, void *const *buffers, int count, const int64_t *sizes, int64_t blocks)
{
    (void)count;
    submit((Host *)d, &(Command){.kernel = kernel, .buffers = buffers, .sizes = sizes, .blocks = blocks});
}

/* Nothing can fail here but by a signal. */
static bool wait_all(Device *d, Err *err)
{
    (void)err;
    Queue *q = ((Host *)d)->queue;
    if (q)
        wait_done(q, atomic_load_explicit(&q->end, memory_order_relaxed));
    return true;
}

static void fill(Device *d, void *to, size_t n, const PlanFill *f, uint64_t seed)
{
    submit((Host *)d, &(Command){.is_fill = true, .fill = *f, .to = to, .n = n, .seed = seed});
}

/* Starts the device's thread, which makes the pool. */
static bool open_queue(Host *h, int threads_wanted, Err *err)
{
    Queue *q = h->queue = xcalloc(1, sizeof *q);
    q->threads = threads_wanted;
    q->err = err;
    pthread_mutex_init(&q->mutex, NULL);
    pthread_cond_init(&q->more, NULL);
    pthread_cond_init(&q->done, NULL);
    int failure = pthread_create(&q->thread, NULL, run_queue, h);
    if (failure)
        return err_set(err, "cannot start a thread: %s", strerror(failure));
    pthread_mutex_lock(&q->mutex);
    while (!q->open)
        pthread_cond_wait(&q->done, &q->mutex);
    pthread_mutex_unlock(&q->mutex);
    if (!h->pool)
        pthread_join(q->thread, NULL);
    return h->pool != NULL;
}

static void close_queue(Queue *q)
{
    pthread_mutex_lock(&q->mutex);
    q->closing = true;
    pthread_mutex_unlock(&q->mutex);
    wake(q, &q->more);
    pthread_join(q->thread, NULL);
}

static void free_queue(Queue *q)
{
    pthread_mutex_destroy(&q->mutex);
    pthread_cond_destroy(&q->more);
    pthread_cond_destroy(&q->done);
    free(q);
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

static int threads(const Device *d)
{
    return pool_threads(((const Host *)d)->pool);
}

static void close_host(Device *d)
{
    Host *h = (Host *)d;
    wait_all(d, NULL);
    if (h->queue) {
        close_queue(h->queue);
        free_queue(h->queue);
    } else {
        pool_free(h->pool);
    }
    object_unload(&h->code);
    free(h->kernels);
    free(h);
}

static const DeviceOps host_ops = {
    .name = "host", .close = close_host, .threads = threads, .memory = memory, .alloc = alloc, .free = release,
    .borrow = borrow, .copy_in = copy_in, .copy_out = copy_out, .fill = fill, .load_code = load_code, .launch = launch,
    .sync = wait_all, .mirror = mirror,
};

Device *device_host_open(int threads_wanted, bool queue, Err *err)
{
    Host *h = xcalloc(1, sizeof *h);
    h->base.ops = &host_ops;
    snprintf(h->base.label, sizeof h->base.label, "host");
    if (queue ? open_queue(h, threads_wanted, err) : (h->pool = pool_new(threads_wanted, err)) != NULL)
        return &h->base;
    if (h->queue)
        free_queue(h->queue);
    free(h);
    return NULL;
}
