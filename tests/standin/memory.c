/* memory.c - the stand-in's memory: each allocation ends where a page begins that faults, and none is ever used
 * twice, so that late uses fault as well. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cuda_driver.h"
#include "standin.h"

enum { PAGE = 4096, ALIGN = 256, POISON = 0xFF };
static const size_t range_bytes = (size_t)1 << 40;

typedef struct Block {
    char *data;
    size_t size;       /* asked for */
    char *pages;       /* with the whole pages in front of its end */
    size_t page_bytes;
} Block;

static VEC(Block) device_blocks, pinned_blocks;
static VEC(SimtRegion) regions;
static char *range; /* of addresses, nothing but the device's memory */
static size_t range_used;
static bool reachable;

static size_t round_up(size_t n, size_t a)
{
    return (n + a - 1) / a * a;
}

static int protection(void)
{
    return reachable ? PROT_READ | PROT_WRITE : PROT_NONE;
}

int st_memory(size_t *available, size_t *total)
{
    const StDevice *d = st_device();
    *total = (size_t)d->memory;
    *available = (size_t)(d->memory - d->used);
    return st_status();
}

int st_alloc(void **p, size_t n)
{
    if (st_status())
        return st_status();
    StDevice *d = (StDevice *)st_device();
    if (st_fails("alloc") || !n || (int64_t)n > d->memory - d->used)
        return CUDA_ERROR_OUT_OF_MEMORY;
    void *none = NULL;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (!range && (none = mmap(NULL, range_bytes, PROT_NONE, flags, -1, 0)) == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    range = range ? range : none;
    size_t bytes = round_up(n, PAGE);
    Block b = {.size = n, .pages = range + range_used + PAGE, .page_bytes = bytes};
    if (range_used + bytes + 2 * PAGE > range_bytes || mprotect(b.pages, bytes, PROT_READ | PROT_WRITE))
        return CUDA_ERROR_OUT_OF_MEMORY;
    range_used += bytes + PAGE; /* one page between two blocks */
    b.data = b.pages + bytes - round_up(n, ALIGN);
    memset(b.pages, POISON, bytes);
    mprotect(b.pages, bytes, protection());
    vec_push(&device_blocks, b);
    d->used += (int64_t)bytes;
    *p = b.data;
    return 0;
}

int st_free(void *p)
{
    for (size_t i = 0; i < device_blocks.len; i++) {
        Block b = device_blocks.at[i];
        if (b.data != p)
            continue;
        madvise(b.pages, b.page_bytes, MADV_DONTNEED);
        mprotect(b.pages, b.page_bytes, PROT_NONE);
        ((StDevice *)st_device())->used -= (int64_t)b.page_bytes;
        device_blocks.at[i] = device_blocks.at[--device_blocks.len];
        return st_status();
    }
    return st_refuse(CUDA_ERROR_INVALID_VALUE, "%p is freed, which was not allocated", p);
}

int st_host_alloc(void **p, size_t n)
{
    if (st_status())
        return st_status();
    Block b = {.size = n, .page_bytes = round_up(n, PAGE)};
    b.pages = b.data = mmap(NULL, b.page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b.pages == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memset(b.pages, POISON, b.page_bytes);
    vec_push(&pinned_blocks, b);
    *p = b.data;
    return 0;
}

int st_host_free(void *p)
{
    for (size_t i = 0; i < pinned_blocks.len; i++)
        if (pinned_blocks.at[i].data == p) {
            munmap(p, pinned_blocks.at[i].page_bytes);
            pinned_blocks.at[i] = pinned_blocks.at[--pinned_blocks.len];
            return st_status();
        }
    return st_refuse(CUDA_ERROR_INVALID_VALUE, "%p is freed, which is no pinned memory", p);
}

static bool inside(const Block *b, const char *p, size_t n)
{
    return p >= b->data && p <= b->data + b->size && n <= (size_t)(b->data + b->size - p);
}

bool st_on_device(const void *p, size_t n)
{
    for (size_t i = 0; i < device_blocks.len; i++)
        if (inside(&device_blocks.at[i], p, n))
            return true;
    return false;
}

bool st_is_pinned(const void *p, size_t n)
{
    for (size_t i = 0; i < pinned_blocks.len; i++)
        if (inside(&pinned_blocks.at[i], p, n))
            return true;
    return false;
}

bool st_is_device(const void *p)
{
    return range && (const char *)p >= range && (const char *)p < range + range_bytes;
}

void st_reachable(bool yes)
{
    reachable = yes;
    for (size_t i = 0; i < device_blocks.len; i++)
        mprotect(device_blocks.at[i].pages, device_blocks.at[i].page_bytes, protection());
}

int st_regions(const SimtRegion **out)
{
    regions.len = 0;
    for (size_t i = 0; i < device_blocks.len; i++)
        vec_push(&regions, (SimtRegion){"an allocation", device_blocks.at[i].data, device_blocks.at[i].size});
    *out = regions.at;
    return (int)regions.len;
}
