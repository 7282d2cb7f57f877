/* simt.c - blocks, warps and threads: who runs next, and where threads meet.
 *
 * The threads of a warp run one after the other, each until it ends or has to wait; then what all of them wait for is
 * done, and they go on. A warp runs until it has ended or all of it is at a barrier; when all warps are, the barrier
 * opens. So a thread that reads what another one writes without a barrier between them sees the old value in one of the
 * two orders. */
#include "machine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, SHARED_ALIGN = 128, POISON = 0xFF };

/* ---- errors --------------------------------------------------------------------------------------------------- */

void machine_fail(Machine *m, const Thread *t, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (m->failed)
        return;
    m->failed = true;
    if (t)
        err_set(m->err, "kernel '%s', block %lld, thread %d: %s", m->launch->name, (long long)m->block, t->index, text);
    else
        err_set(m->err, "kernel '%s', block %lld: %s", m->launch->name, (long long)m->block, text);
}

__attribute__((no_sanitize_address)) void machine_leave(Machine *m)
{
    fiber_leave(&m->main);
}

void thread_fail(const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    Thread *t = thread_self();
    machine_fail(t->machine, t, "%s", text);
    machine_leave(t->machine);
}

void thread_check_shared(const void *p, int bytes, int align, const char *what)
{
    const Machine *m = thread_self()->machine;
    uintptr_t at = (uintptr_t)p, begin = (uintptr_t)m->shared, end = begin + (uintptr_t)m->launch->shared;
    if (at < begin || at > end || end - at < (uintptr_t)bytes)
        thread_fail("%s at byte %lld of on-chip memory, which has %lld bytes", what, (long long)(intptr_t)(at - begin),
                    (long long)m->launch->shared);
    if (at % (uintptr_t)align)
        thread_fail("misaligned: %s at byte %lld of on-chip memory, which is not a multiple of %d", what,
                    (long long)(at - begin), align);
}

/* ---- taking turns --------------------------------------------------------------------------------------------- */

/* The next thread of the warp that can run and has not had its turn; NULL when there is none. */
static Thread *next_thread(Machine *m)
{
    if (!m->ready)
        return NULL;
    int lane = m->launch->order == SIMT_REVERSE ? 63 - __builtin_clzll(m->ready) : __builtin_ctzll(m->ready);
    m->ready &= ~(1ull << lane);
    return thread_at(m, m->warp * m->launch->wave + lane);
}

static void pass_on(Thread *t)
{
    Machine *m = t->machine;
    Thread *next = next_thread(m);
    fiber_switch(&t->fiber, next ? &next->fiber : &m->main);
}

static bool same_meeting(const Thread *a, const Thread *b)
{
    return a->site == b->site && a->what == b->what && a->mask == b->mask;
}

void thread_meet(const Collective *what, int site, uint64_t mask, const void *in, void *out)
{
    Thread *t = thread_self();
    if (!(mask >> t->lane & 1))
        thread_fail("%s (call %d) with mask %#llx, which leaves out the calling lane %d", what->name, site,
                    (unsigned long long)mask, t->lane);
    t->what = what;
    t->site = site;
    t->mask = mask;
    t->in = in;
    t->out = out;
    t->state = STATE_MEETING;
    Machine *m = t->machine;
    if (!m->together)
        m->first = t;
    m->together += same_meeting(m->first, t);
    pass_on(t);
}

void simt_barrier(int site)
{
    Thread *t = thread_self();
    t->site = site;
    t->state = STATE_BARRIER;
    pass_on(t);
}

static void call_kernel(const SimtLaunch *l)
{
    typedef void *P;
    typedef void Kernel8(P, P, P, P, P, P, P, P);
    typedef void Kernel32(P, P, P, P, P, P, P, P, P, P, P, P, P, P, P, P, P, P, P, P, P, P, P, P, P, P, P, P, P, P, P,
                          P);
    P a[SIMT_MAX_ARGUMENTS] = {0};
    memcpy(a, l->arguments, sizeof(P) * (size_t)l->count);
    if (l->count <= 8)
        ((Kernel8 *)(uintptr_t)l->entry)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
    else
        ((Kernel32 *)(uintptr_t)l->entry)(
            a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15], a[16],
            a[17], a[18], a[19], a[20], a[21], a[22], a[23], a[24], a[25], a[26], a[27], a[28], a[29], a[30], a[31]);
}

/* A thread runs the kernel once for every block. */
static void thread_main(void)
{
    Thread *t = thread_self();
    fiber_entered(&t->machine->main);
    for (;;) {
        call_kernel(t->machine->launch);
        t->state = STATE_ENDED;
        pass_on(t);
    }
}

/* ---- meeting -------------------------------------------------------------------------------------------------- */

static void describe(const Thread *t, char out[160])
{
    switch (t->state) {
    case STATE_MEETING:
        snprintf(out, 160, "thread %d waits at %s (call %d)", t->index, t->what->name, t->site);
        break;
    case STATE_BARRIER: snprintf(out, 160, "thread %d waits at a barrier (call %d)", t->index, t->site); break;
    default: snprintf(out, 160, "thread %d has ended", t->index);
    }
}

/* False with a message that names both. */
static bool diverged(const Thread *a, const Thread *b, const char *rule)
{
    char first[160], second[160];
    describe(a, first);
    describe(b, second);
    machine_fail(a->machine, NULL, "%s, while %s: %s", first, second, rule);
    return false;
}

/* The first lane of t's mask that does not wait for the same; NULL when all are there. */
static const Thread *missing(const Warp *w, const Thread *t)
{
    for (int l = 0; l < w->lanes; l++) {
        const Thread *o = warp_lane(w, l);
        if (t->mask >> l & 1 && (o->state != STATE_MEETING || !same_meeting(o, t)))
            return o;
    }
    return NULL;
}

/* Runs the collective that t waits for. */
static bool run_collective(Warp *w, const Thread *t)
{
    w->mask = t->mask;
    t->what->run(w);
    for (int l = 0; l < w->lanes; l++)
        if (warp_has(w, l))
            warp_lane(w, l)->state = STATE_READY;
    w->machine->ready |= w->mask;
    return !w->machine->failed;
}

/* Runs the collectives whose lanes are all there; false when no thread can go on. Mostly all lanes have come to the
 * same. */
static bool meet(Warp *w)
{
    Machine *m = w->machine;
    bool all = m->together == w->lanes && m->first->mask == warp_all(m);
    if (all && !run_collective(w, m->first))
        return false;
    for (int l = 0; l < w->lanes && !all; l++) {
        const Thread *t = warp_lane(w, l);
        if (t->state == STATE_MEETING && !missing(w, t) && !run_collective(w, t))
            return false;
    }
    m->together = 0;
    return m->ready;
}

/* No thread of the warp can go on: it is at a barrier or has ended, all of it. */
static bool check_stop(const Warp *w)
{
    const Thread *first = warp_lane(w, 0);
    for (int l = 0; l < w->lanes; l++) {
        const Thread *t = warp_lane(w, l);
        if (t->state == STATE_MEETING)
            return diverged(t, missing(w, t), "all lanes of the mask must come to the same call");
    }
    for (int l = 1; l < w->lanes; l++) {
        const Thread *t = warp_lane(w, l);
        if (t->state != first->state || (t->state == STATE_BARRIER && t->site != first->site))
            return diverged(first, t, "all threads of a warp must come to the same barrier");
    }
    return true;
}

static bool run_warp(Machine *m, int warp)
{
    Warp w = {.machine = m, .lanes = m->launch->wave, .first = warp * m->launch->wave};
    m->warp = warp;
    m->ready = warp_all(m); /* whoever stopped before has been let through the barrier */
    m->together = 0;
    do
        for (Thread *t; !m->failed && (t = next_thread(m));)
            fiber_switch(&m->main, &t->fiber);
    while (!m->failed && meet(&w));
    return !m->failed && check_stop(&w);
}

/* ---- blocks --------------------------------------------------------------------------------------------------- */

static void threads_init(Machine *m)
{
    for (int i = 0; i < m->launch->threads; i++) {
        Thread *t = thread_at(m, i);
        *t = (Thread){.machine = m, .index = i, .lane = i % m->launch->wave, .warp = i / m->launch->wave};
        fiber_init(&t->fiber, t, thread_main);
    }
}

/* All threads have stopped: opens the barrier, or sees that the block is done. */
static bool open_barrier(Machine *m, bool *done)
{
    const Thread *first = thread_at(m, 0);
    for (int i = m->launch->wave; i < m->launch->threads; i += m->launch->wave)
        if (thread_at(m, i)->state != first->state)
            return diverged(first, thread_at(m, i), "all warps of a block must come to the barrier");
    *done = first->state == STATE_ENDED;
    for (int i = 0; i < m->launch->threads; i++)
        thread_at(m, i)->state = STATE_READY;
    return true;
}

/* The bytes right before and after on-chip memory that no page guards. */
static bool shared_intact(const Machine *m)
{
    const uint8_t *end = m->shared + m->launch->shared;
    for (int i = 1; i <= SHARED_ALIGN; i++)
        if (m->shared[-i] != POISON)
            return false;
    for (; end < m->on_chip_end; end++)
        if (*end != POISON)
            return false;
    return true;
}

static bool run_block(Machine *m)
{
    int warps = m->launch->threads / m->launch->wave;
    memset(m->shared - SHARED_ALIGN, POISON, (size_t)(m->on_chip_end - m->shared) + SHARED_ALIGN);
    copies_clear(m);
    for (bool done = false; !done;) {
        for (int i = 0; i < warps; i++)
            if (!run_warp(m, m->launch->order == SIMT_REVERSE ? warps - 1 - i : i))
                return false;
        if (!open_barrier(m, &done))
            return false;
    }
    if (!shared_intact(m))
        machine_fail(m, NULL, "writes on-chip memory beyond its %lld bytes, or before it",
                     (long long)m->launch->shared);
    return !m->failed;
}

/* ---- the machine of a thread ---------------------------------------------------------------------------------- */

static _Thread_local Machine *own;
static pthread_key_t key;

static void machine_free(void *p)
{
    Machine *m = p;
    fiber_stacks_free(m->stacks, m->capacity + 1);
    if (m->on_chip)
        munmap(m->on_chip, m->on_chip_size);
    copies_free(m);
    free(m);
}

static void make_key(void)
{
    pthread_key_create(&key, machine_free);
}

static Machine *machine_own(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_key);
    if (!own) {
        own = xcalloc(1, sizeof *own);
        pthread_setspecific(key, own);
    }
    return own;
}

static bool reserve_stacks(Machine *m, int threads, Err *err)
{
    if (threads <= m->capacity)
        return true;
    fiber_stacks_free(m->stacks, m->capacity + 1);
    m->capacity = 0;
    m->stacks = fiber_stacks_new(threads + 1);
    if (!m->stacks)
        return err_set(err, "no room for the stacks of %d threads below 4 GB of the address space", threads);
    m->capacity = threads;
    return true;
}

/* On-chip memory ends at a page that faults; below 4 GB, since AMD's pointers to it have 32 bits. */
static bool reserve_shared(Machine *m, int64_t bytes, Err *err)
{
    size_t rounded = ((size_t)bytes + SHARED_ALIGN - 1) / SHARED_ALIGN * SHARED_ALIGN;
    size_t inside = (rounded + SHARED_ALIGN + PAGE - 1) / PAGE * PAGE;
    if (inside + 2 * PAGE > m->on_chip_size) {
        if (m->on_chip)
            munmap(m->on_chip, m->on_chip_size);
        m->on_chip_size = inside + 2 * PAGE;
        int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_32BIT
        flags |= MAP_32BIT;
#endif
        m->on_chip = mmap(NULL, m->on_chip_size, PROT_NONE, flags, -1, 0);
        if (m->on_chip == MAP_FAILED || mprotect(m->on_chip + PAGE, inside, PROT_READ | PROT_WRITE) < 0) {
            m->on_chip = NULL;
            m->on_chip_size = 0;
            return err_set(err, "no room for %lld bytes of on-chip memory below 4 GB of the address space",
                           (long long)bytes);
        }
    }
    m->on_chip_end = m->on_chip + m->on_chip_size - PAGE;
    m->shared = m->on_chip_end - rounded;
    return true;
}

static bool check_launch(const SimtLaunch *l, Err *err)
{
    bool waves = l->wave == 32 || l->wave == 64;
    if (!waves || l->threads < l->wave || l->threads > SIMT_MAX_THREADS || l->threads % l->wave)
        return err_set(err, "kernel '%s': %d threads a block in warps of %d", l->name, l->threads, l->wave);
    if (l->count < 0 || l->count > SIMT_MAX_ARGUMENTS)
        return err_set(err, "kernel '%s': %d arguments, more than %d", l->name, l->count, SIMT_MAX_ARGUMENTS);
    if (l->shared < 0 || l->shared > 1 << 20)
        return err_set(err, "kernel '%s': %lld bytes of on-chip memory", l->name, (long long)l->shared);
    return true;
}

bool simt_launch(const SimtLaunch *launch, Err *err)
{
    Machine *m = machine_own();
    if (!check_launch(launch, err) || !reserve_stacks(m, launch->threads, err) ||
        !reserve_shared(m, launch->shared, err))
        return false;
    m->launch = launch;
    m->err = err;
    m->failed = false;
    threads_init(m);
    if (!fault_begin(m, err))
        return false;
    for (m->block = 0; m->block < launch->blocks && run_block(m);)
        m->block++;
    fault_end();
    return !m->failed;
}
