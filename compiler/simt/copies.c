/* copies.c - asynchronous copies from global to on-chip memory (NVIDIA cp.async). From its issue to its wait the
 * destination is undefined: it becomes NaN at once, so that neither who still reads the old bytes nor who reads the new
 * ones too early gets away with it; the bytes are fetched at the wait.
 * Source: PTX ISA, "Data Movement and Conversion Instructions: Non-bulk copy". */
#include "machine.h"

#include <stdlib.h>
#include <string.h>

void copies_clear(Machine *m)
{
    for (int i = 0; i < SIMT_MAX_THREADS && m->copying; i++)
        m->copies[i].list.len = m->copies[i].groups.len = 0;
    m->copying = false;
}

void copies_free(Machine *m)
{
    for (int i = 0; i < SIMT_MAX_THREADS; i++) {
        vec_free(&m->copies[i].list);
        vec_free(&m->copies[i].groups);
    }
}

static Copies *own_copies(void)
{
    Thread *t = thread_self();
    t->machine->copying = true;
    return &t->machine->copies[t->index];
}

static void issue(uint8_t *to, const uint8_t *from, int bytes, int from_bytes)
{
    thread_check_shared(to, bytes, bytes, "asynchronous copy");
    if ((uintptr_t)from % (uintptr_t)bytes)
        thread_fail("misaligned: asynchronous copy of %d bytes from %p", bytes, (const void *)from);
    if (from_bytes < 0 || from_bytes > bytes)
        thread_fail("asynchronous copy of %d bytes with a source size of %d", bytes, from_bytes);
    memset(to, 0xFF, (size_t)bytes);
    vec_push(&own_copies()->list, (Copy){to, from, bytes, from_bytes});
}

void simt_cp_async_4(uint8_t *to, const uint8_t *from) { issue(to, from, 4, 4); }
void simt_cp_async_8(uint8_t *to, const uint8_t *from) { issue(to, from, 8, 8); }
void simt_cp_async_16(uint8_t *to, const uint8_t *from) { issue(to, from, 16, 16); }
void simt_cp_async_4_s(uint8_t *to, const uint8_t *from, int size) { issue(to, from, 4, size); }
void simt_cp_async_8_s(uint8_t *to, const uint8_t *from, int size) { issue(to, from, 8, size); }
void simt_cp_async_16_s(uint8_t *to, const uint8_t *from, int size) { issue(to, from, 16, size); }

void simt_cp_async_commit(void)
{
    Copies *c = own_copies();
    vec_push(&c->groups, c->list.len);
}

/* Does the oldest `groups` groups. */
static void finish(Copies *c, size_t groups)
{
    size_t count = groups ? c->groups.at[groups - 1] : 0;
    for (size_t i = 0; i < count; i++) {
        const Copy *p = &c->list.at[i];
        memcpy(p->to, p->from, (size_t)p->from_bytes);
        memset(p->to + p->from_bytes, 0, (size_t)(p->bytes - p->from_bytes));
    }
    c->list.len -= count;
    c->groups.len -= groups;
    if (c->list.len)
        memmove(c->list.at, c->list.at + count, c->list.len * sizeof *c->list.at);
    for (size_t i = 0; i < c->groups.len; i++)
        c->groups.at[i] = c->groups.at[i + groups] - count;
}

/* Until at most `pending` of the youngest groups are under way. */
void simt_cp_async_wait(int pending)
{
    Copies *c = own_copies();
    if (c->groups.len > (size_t)pending)
        finish(c, c->groups.len - (size_t)pending);
}

void simt_cp_async_wait_all(void)
{
    simt_cp_async_commit();
    simt_cp_async_wait(0);
}
