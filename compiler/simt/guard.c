/* guard.c - memory between pages that fault; see guard.h. */
#include "guard.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, FENCE = 16 << 20 /* bytes that fault on either side */ };

bool guard_alloc(Guarded *g, size_t size, size_t phase, uint8_t poison, Err *err)
{
    *g = (Guarded){0};
    if (size > SIZE_MAX / 2)
        return err_set(err, "cannot map %zu bytes between guard pages", size);
    size_t inside = (size + GUARD_ALIGN + PAGE - 1) / PAGE * PAGE, all = inside + 2 * (size_t)FENCE;
    uint8_t *map = mmap(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return err_set(err, "cannot map %zu bytes between guard pages: %s", size, strerror(errno));
    *g = (Guarded){.size = size, .poison = poison, .map = map, .map_size = all};
    g->begin = map + FENCE;
    g->end = g->begin + inside;
    if (mprotect(g->begin, inside, PROT_READ | PROT_WRITE) < 0) {
        guard_free(g);
        return err_set(err, "cannot use %zu bytes between guard pages: %s", size, strerror(errno));
    }
    size_t slack = ((uintptr_t)g->end - size - phase) % GUARD_ALIGN;
    g->data = g->end - size - slack;
    memset(g->begin, poison, inside);
    return true;
}

static bool filled(const uint8_t *from, const uint8_t *to, uint8_t byte)
{
    for (; from < to; from++)
        if (*from != byte)
            return false;
    return true;
}

bool guard_intact(const Guarded *g)
{
    return filled(g->begin, g->data, g->poison) && filled(g->data + g->size, g->end, g->poison);
}

void guard_read_only(Guarded *g)
{
    mprotect(g->begin, (size_t)(g->end - g->begin), PROT_READ);
}

void guard_free(Guarded *g)
{
    if (g->map_size)
        munmap(g->map, g->map_size);
    *g = (Guarded){0};
}
