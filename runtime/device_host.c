/* device_host.c - the CPU as a device: blocks are ranges of a pool's job, memory is mapped with huge pages. */
#include "device.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "object.h"
#include "pool.h"

static const size_t huge_page = (size_t)2 << 20;

typedef struct Host {
    Device base;
    Pool *pool;
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

/* Big blocks begin on a huge page, so that the kernel can use them from the first byte. */
static void *alloc(Device *d, size_t bytes, DeviceMemory kind, Err *err)
{
    (void)d;
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
    if (kind == DEVICE_LOCAL)
        madvise(p, used, MADV_HUGEPAGE); /* a hint: without it things are slower, not wrong */
    return p;
}

static void release(Device *d, void *p, size_t bytes)
{
    (void)d;
    if (p)
        munmap(p, whole_pages(bytes));
}

static void *borrow(Device *d, const void *host, size_t n)
{
    (void)d;
    (void)n;
    return (void *)host;
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
enum { FILL_TILE = 4099 * 64, FILL_BLOCK = 1 << 16 };

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
static void fill_tile(uint8_t *tile, size_t n, const PlanFill *f, uint64_t seed)
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

static void fill(Device *d, void *to, size_t n, const PlanFill *f, uint64_t seed)
{
    uint8_t *tile = f->type == DT_NONE ? NULL : xcalloc(1, FILL_TILE);
    if (tile)
        fill_tile(tile, MIN(n, FILL_TILE), f, seed);
    FillJob job = {to, n, tile};
    pool_run(((Host *)d)->pool, fill_blocks, &job, (int64_t)((n + FILL_BLOCK - 1) / FILL_BLOCK));
    free(tile);
}

/* ---- code ----------------------------------------------------------------------------------------------------- */

static bool load_code(Device *d, const Plan *p, const uint8_t *code, Err *err)
{
    Host *h = (Host *)d;
    size_t n = (size_t)p->kernels_count;
    int64_t scratch = 0;
    ObjectSource *src = xcalloc(n, sizeof *src);
    void **entries = xcalloc(n, sizeof *entries);
    for (size_t i = 0; i < n; i++) {
        const PlanKernel *k = &p->kernels[i];
        src[i] = (ObjectSource){k->name, code + k->offset, (size_t)k->size, k->symbol};
        scratch = MAX(scratch, k->scratch);
    }
    bool ok = object_load(src, n, entries, &h->code, err) && pool_reserve_scratch(h->pool, (size_t)scratch, err);
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

static void launch(Device *d, int kernel, void *const *buffers, const int64_t *sizes, int64_t blocks)
{
    Host *h = (Host *)d;
    LaunchJob job = {h->kernels[kernel], buffers, sizes, h->pool};
    pool_run(h->pool, run_blocks, &job, blocks);
}

static void sync(Device *d)
{
    (void)d; /* launches are done when they return */
}

/* ---- life ----------------------------------------------------------------------------------------------------- */

static int threads(const Device *d)
{
    return pool_threads(((const Host *)d)->pool);
}

static void close_host(Device *d)
{
    Host *h = (Host *)d;
    pool_free(h->pool);
    object_unload(&h->code);
    free(h->kernels);
    free(h);
}

static const DeviceOps host_ops = {
    .name = "host", .close = close_host, .threads = threads, .memory = memory, .alloc = alloc, .free = release,
    .borrow = borrow, .copy_in = copy_in, .copy_out = copy_out, .fill = fill, .load_code = load_code, .launch = launch,
    .sync = sync,
};

Device *device_host_open(int threads_wanted, Err *err)
{
    Pool *pool = pool_new(threads_wanted, err);
    if (!pool)
        return NULL;
    Host *h = xcalloc(1, sizeof *h);
    h->base.ops = &host_ops;
    h->pool = pool;
    return &h->base;
}
