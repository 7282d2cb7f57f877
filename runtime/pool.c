/* pool.c - fork/join on a persistent pool of threads; see pool.h.
 *
 * `gate` is the heart: bit 0 says that a job is open, 11 bits count the workers that joined it, the rest is the
 * number of the job. A worker joins by raising the count while the gate is open; the caller closes it when no block
 * is left and learns in the same instruction how many to wait for. So the job's description is stable while anyone
 * may read it, and a worker that comes late finds the gate closed.
 */
#include "pool.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { GATE_OPEN = 1, GATE_JOIN = 2, GATE_COUNT = 2047, GATE_NEXT = 1 << 12, MAX_THREADS = 1024, LINE = 64 };

static const double spin_seconds = 80e-6;

typedef struct Worker {
    Pool *pool;
    int thread;
    pthread_t id;
} Worker;

struct Pool {
    int threads, started;
    bool spin;
    Worker *workers;
    void **scratch;
    size_t scratch_bytes;
    bool pinned;
    cpu_set_t caller_mask; /* to restore when pinned */

    /* The job; written only while the gate is closed and nobody is inside. */
    PoolFn *fn;
    void *context;
    int64_t blocks;

    _Alignas(LINE) _Atomic uint32_t gate;
    _Atomic uint32_t sleepers; /* workers that wait for the gate in the kernel, or are about to */
    _Atomic bool stop;
    _Alignas(LINE) _Atomic int64_t next; /* first block that nobody has claimed */
    _Alignas(LINE) _Atomic uint32_t done; /* workers that left the job */
    _Atomic bool caller_sleeps;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ---- cores --------------------------------------------------------------------------------------------------- */

/* CPUs of the affinity mask, one a physical core; returns their number. */
static int core_list(int cpus[MAX_THREADS])
{
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask) < 0)
        return cpus[0] = 0, 1;
    Map *seen = map_new(); /* the siblings of a core print the same list */
    int n = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE && n < MAX_THREADS; cpu++) {
        if (!CPU_ISSET(cpu, &mask))
            continue;
        char path[96], line[256];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
        file_first_line(path, line, sizeof line);
        if (line[0] && map_get(seen, line, strlen(line)))
            continue;
        map_put(seen, line, strlen(line), cpus);
        cpus[n++] = cpu;
    }
    map_free(seen);
    return MAX(n, 1);
}

/* CPUs that the cgroup grants, rounded up; MAX_THREADS when there is no quota. */
static int cgroup_quota(void)
{
    char line[64];
    long long quota = 0, period = 0;
    file_first_line("/sys/fs/cgroup/cpu.max", line, sizeof line);
    if (sscanf(line, "%lld %lld", &quota, &period) != 2) {
        file_first_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", line, sizeof line);
        quota = atoll(line);
        file_first_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us", line, sizeof line);
        period = atoll(line);
    }
    if (quota <= 0 || period <= 0 || quota / period >= MAX_THREADS)
        return MAX_THREADS;
    return (int)((quota + period - 1) / period);
}

int pool_cores(void)
{
    int cpus[MAX_THREADS], cores = core_list(cpus), quota = cgroup_quota();
    return MIN(cores, quota);
}

/* ---- a job --------------------------------------------------------------------------------------------------- */

/* Takes a range of blocks: a share of what is left, so that ranges are long at first and the end is even. */
static bool claim(Pool *p, int64_t *begin, int64_t *end)
{
    int64_t b = atomic_load_explicit(&p->next, memory_order_relaxed), n;
    do {
        if (b >= p->blocks)
            return false;
        n = MAX((p->blocks - b) / (2 * p->threads), 1);
    } while (!atomic_compare_exchange_weak_explicit(&p->next, &b, b + n, memory_order_relaxed, memory_order_relaxed));
    *begin = b;
    *end = b + n;
    return true;
}

static void work(Pool *p, int thread)
{
    int64_t begin, end;
    while (claim(p, &begin, &end))
        p->fn(p->context, begin, end, thread);
}

static bool may_join(uint32_t gate, uint32_t last)
{
    return (gate & GATE_OPEN) && gate / GATE_NEXT != last;
}

/* Waits for a job other than `last` or for the end; returns the gate as it was. */
static uint32_t wait_for_job(Pool *p, uint32_t last)
{
    double until = p->spin ? now_seconds() + spin_seconds : 0;
    for (unsigned i = 1;; i++) {
        uint32_t gate = atomic_load_explicit(&p->gate, memory_order_acquire);
        if (may_join(gate, last) || atomic_load(&p->stop))
            return gate;
        relax();
        if (i % 64 || now_seconds() < until)
            continue;
        atomic_fetch_add(&p->sleepers, 1);
        gate = atomic_load(&p->gate);
        if (!may_join(gate, last) && !atomic_load(&p->stop))
            futex_wait(&p->gate, gate);
        atomic_fetch_sub(&p->sleepers, 1);
        until = p->spin ? now_seconds() + spin_seconds : 0;
    }
}

static void leave(Pool *p)
{
    atomic_fetch_add(&p->done, 1);
    if (atomic_load(&p->caller_sleeps))
        futex_wake(&p->done, 1);
}

static void *worker_main(void *arg)
{
    Worker *w = arg;
    Pool *p = w->pool;
    uint32_t last = UINT32_MAX;
    for (;;) {
        uint32_t gate = wait_for_job(p, last);
        if (atomic_load(&p->stop))
            return NULL;
        while (may_join(gate, last))
            if (atomic_compare_exchange_weak(&p->gate, &gate, gate + GATE_JOIN)) {
                last = gate / GATE_NEXT;
                work(p, w->thread);
                leave(p);
                break;
            }
    }
}

/* Waits until `joined` workers have left the job. */
static void wait_for_workers(Pool *p, uint32_t joined)
{
    double until = p->spin ? now_seconds() + spin_seconds : 0;
    uint32_t done;
    for (unsigned i = 1; (done = atomic_load_explicit(&p->done, memory_order_acquire)) != joined; i++) {
        relax();
        if (i % 64 || now_seconds() < until)
            continue;
        atomic_store(&p->caller_sleeps, true);
        while ((done = atomic_load(&p->done)) != joined)
            futex_wait(&p->done, done);
        atomic_store(&p->caller_sleeps, false);
        return;
    }
}

void pool_run(Pool *p, PoolFn *fn, void *context, int64_t blocks)
{
    if (blocks <= 0)
        return;
    if (blocks == 1 || p->threads == 1) {
        fn(context, 0, blocks, 0);
        return;
    }
    p->fn = fn;
    p->context = context;
    p->blocks = blocks;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    uint32_t job = atomic_load_explicit(&p->gate, memory_order_relaxed) / GATE_NEXT + 1;
    atomic_store(&p->gate, job * GATE_NEXT | GATE_OPEN);
    if (atomic_load(&p->sleepers))
        futex_wake(&p->gate, (int)MIN(blocks - 1, MAX_THREADS));
    work(p, 0);
    uint32_t gate = atomic_fetch_and(&p->gate, ~(uint32_t)GATE_OPEN);
    wait_for_workers(p, gate / GATE_JOIN & GATE_COUNT);
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

static bool pin(pthread_t thread, int cpu)
{
    cpu_set_t mask;
    CPU_ZERO(&mask);
    CPU_SET(cpu, &mask);
    return pthread_setaffinity_np(thread, sizeof mask, &mask) == 0;
}

static bool start_workers(Pool *p, const int *cpus, Err *err)
{
    for (int i = 1; i < p->threads; i++) {
        Worker *w = &p->workers[i];
        *w = (Worker){p, i, 0};
        int rc = pthread_create(&w->id, NULL, worker_main, w);
        if (rc)
            return err_set(err, "cannot start thread %d of %d: %s; use fewer with --threads", i + 1, p->threads,
                           strerror(rc));
        p->started = i;
        if (p->pinned)
            pin(w->id, cpus[i]);
    }
    return true;
}

Pool *pool_new(int threads, Err *err)
{
    int cpus[MAX_THREADS], cores = core_list(cpus), quota = cgroup_quota();
    if (threads == 0)
        threads = MIN(cores, quota);
    if (threads < 0 || threads > MAX_THREADS) {
        err_set(err, "%d threads: use 1 to %d", threads, MAX_THREADS);
        return NULL;
    }
    cpu_set_t mask;
    bool have_mask = sched_getaffinity(0, sizeof mask, &mask) == 0;
    Pool *p = aligned_alloc(LINE, (sizeof *p + LINE - 1) / LINE * LINE);
    if (!p)
        die("out of memory");
    memset(p, 0, sizeof *p);
    p->threads = threads;
    p->spin = threads <= MIN(have_mask ? CPU_COUNT(&mask) : 1, quota);
    p->workers = xcalloc((size_t)threads, sizeof *p->workers);
    p->scratch = xcalloc((size_t)threads, sizeof *p->scratch);
    p->caller_mask = mask;
    p->pinned = have_mask && threads == cores && cores <= quota && pin(pthread_self(), cpus[0]);
    if (!start_workers(p, cpus, err)) {
        pool_free(p);
        return NULL;
    }
    return p;
}

static void free_scratch(Pool *p)
{
    for (int i = 0; i < p->threads; i++)
        if (p->scratch[i])
            munmap(p->scratch[i], p->scratch_bytes);
    memset(p->scratch, 0, (size_t)p->threads * sizeof *p->scratch);
    p->scratch_bytes = 0;
}

void pool_free(Pool *p)
{
    if (!p)
        return;
    atomic_store(&p->stop, true);
    atomic_fetch_add(&p->gate, GATE_NEXT);
    futex_wake(&p->gate, MAX_THREADS);
    for (int i = 1; i <= p->started; i++)
        pthread_join(p->workers[i].id, NULL);
    if (p->pinned)
        pthread_setaffinity_np(pthread_self(), sizeof p->caller_mask, &p->caller_mask);
    free_scratch(p);
    free(p->scratch);
    free(p->workers);
    free(p);
}

int pool_threads(const Pool *p)
{
    return p->threads;
}

bool pool_reserve_scratch(Pool *p, size_t bytes, Err *err)
{
    if (bytes <= p->scratch_bytes)
        return true;
    free_scratch(p);
    p->scratch_bytes = (bytes + 4095) & ~(size_t)4095;
    for (int i = 0; i < p->threads; i++) {
        void *m = mmap(NULL, p->scratch_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (m == MAP_FAILED)
            return err_set(err, "cannot allocate %zu bytes of scratch memory for thread %d: %s", bytes, i,
                           strerror(errno));
        p->scratch[i] = m;
    }
    return true;
}

void *pool_scratch(const Pool *p, int thread)
{
    return p->scratch[thread];
}
