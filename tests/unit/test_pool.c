/* Tests of runtime/pool.c: every block once, ranges, visibility of results, sleeping, scratch, many short jobs. */
#include "test.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "pool.h"

typedef struct Count {
    int64_t *hits; /* plain memory: the pool must order it */
    int64_t blocks;
    _Atomic int bad;
    int threads;
} Count;

static void count_blocks(void *context, int64_t begin, int64_t end, int thread)
{
    Count *c = context;
    if (begin < 0 || begin >= end || end > c->blocks || thread < 0 || thread >= c->threads)
        atomic_fetch_add(&c->bad, 1);
    for (int64_t i = begin; i < end; i++)
        c->hits[i]++;
}

/* Jobs of every size, one after the other on the same memory: each block runs once a job. */
static void each_block_runs_once(void **state)
{
    (void)state;
    static const int threads[] = {1, 2, 3, 8};
    static int64_t hits[300];
    for (size_t t = 0; t < COUNT(threads); t++) {
        Err err = {0};
        Pool *p = pool_new(threads[t], &err);
        assert_non_null(p);
        assert_int_equal(pool_threads(p), threads[t]);
        memset(hits, 0, sizeof hits);
        Count c = {.hits = hits, .threads = threads[t]};
        int64_t jobs = 0;
        for (c.blocks = 0; c.blocks <= 300; c.blocks += 1 + c.blocks / 8, jobs++)
            pool_run(p, count_blocks, &c, c.blocks);
        assert_int_equal(c.bad, 0);
        int64_t expect = 0;
        for (int64_t n = 0; n <= 300; n += 1 + n / 8)
            expect += n > 0;
        assert_int_equal(hits[0], expect);
        pool_free(p);
    }
}

static void many_short_jobs(void **state)
{
    (void)state;
    Err err = {0};
    Pool *p = pool_new(2, &err);
    assert_non_null(p);
    static int64_t hits[4];
    memset(hits, 0, sizeof hits);
    Count c = {.hits = hits, .blocks = 4, .threads = 2};
    enum { JOBS = 20000 };
    double start = now_seconds();
    for (int i = 0; i < JOBS; i++)
        pool_run(p, count_blocks, &c, 4);
    printf("fork/join of 4 blocks on 2 threads: %.2f us\n", (now_seconds() - start) / JOBS * 1e6);
    for (int i = 0; i < 4; i++)
        assert_int_equal(hits[i], JOBS);
    pool_free(p);
}

static void workers_wake_after_sleeping(void **state)
{
    (void)state;
    Err err = {0};
    Pool *p = pool_new(4, &err);
    assert_non_null(p);
    static int64_t hits[64];
    memset(hits, 0, sizeof hits);
    Count c = {.hits = hits, .blocks = 64, .threads = 4};
    for (int i = 0; i < 20; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL); /* far longer than they spin */
        pool_run(p, count_blocks, &c, 64);
    }
    for (int i = 0; i < 64; i++)
        assert_int_equal(hits[i], 20);
    pool_free(p);
}

/* An idle pool must not burn CPU: threads sleep soon after the last job. */
static void idle_threads_sleep(void **state)
{
    (void)state;
    Err err = {0};
    Pool *p = pool_new(2, &err);
    assert_non_null(p);
    static int64_t hits[8];
    Count c = {.hits = hits, .blocks = 8, .threads = 2};
    pool_run(p, count_blocks, &c, 8);
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    struct timespec a, b;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    double used = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
    assert_true(used < 0.05);
    pool_free(p);
}

typedef struct Chain {
    int64_t a[1000], b[1000];
} Chain;

static void step_a(void *context, int64_t begin, int64_t end, int thread)
{
    Chain *c = context;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        c->a[i] = c->b[999 - i] + 1;
}

static void step_b(void *context, int64_t begin, int64_t end, int thread)
{
    Chain *c = context;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        c->b[i] = c->a[(i * 7) % 1000];
}

/* Each job reads what other threads wrote in the job before. */
static void results_are_visible_to_the_next_job(void **state)
{
    (void)state;
    Err err = {0};
    Pool *p = pool_new(3, &err);
    assert_non_null(p);
    static Chain c;
    for (int round = 1; round <= 200; round++) {
        pool_run(p, step_a, &c, 1000);
        pool_run(p, step_b, &c, 1000);
        for (int i = 0; i < 1000; i++)
            assert_int_equal(c.b[i], round);
    }
    pool_free(p);
}

static _Atomic int misaligned;

static void touch_scratch(void *context, int64_t begin, int64_t end, int thread)
{
    Pool *p = context;
    for (int64_t i = begin; i < end; i++) {
        memset(pool_scratch(p, thread), (int)i, 10000);
        misaligned += (uintptr_t)pool_scratch(p, thread) % 64 != 0;
    }
}

static void scratch_is_private_and_grows(void **state)
{
    (void)state;
    Err err = {0};
    Pool *p = pool_new(3, &err);
    assert_non_null(p);
    assert_true(pool_reserve_scratch(p, 100, &err));
    assert_true(pool_reserve_scratch(p, 10000, &err));
    assert_ptr_not_equal(pool_scratch(p, 0), pool_scratch(p, 1));
    pool_run(p, touch_scratch, p, 100);
    assert_int_equal(misaligned, 0);
    assert_false(pool_reserve_scratch(p, (size_t)1 << 60, &err));
    assert_non_null(strstr(err.text, "scratch"));
    pool_free(p);
}

static void affinity_is_restored(void **state)
{
    (void)state;
    cpu_set_t before, after;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    Err err = {0};
    int cores = pool_cores(); /* before the pool pins this thread to one of them */
    Pool *p = pool_new(0, &err);
    assert_non_null(p);
    assert_int_equal(pool_threads(p), cores);
    pool_free(p);
    assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
    assert_true(CPU_EQUAL(&before, &after));
}

static void thread_counts_are_checked(void **state)
{
    (void)state;
    Err err = {0};
    assert_null(pool_new(-1, &err));
    assert_null(pool_new(100000, &err));
    assert_non_null(strstr(err.text, "100000 threads"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_block_runs_once),
        cmocka_unit_test(many_short_jobs),
        cmocka_unit_test(workers_wake_after_sleeping),
        cmocka_unit_test(idle_threads_sleep),
        cmocka_unit_test(results_are_visible_to_the_next_job),
        cmocka_unit_test(scratch_is_private_and_grows),
        cmocka_unit_test(affinity_is_restored),
        cmocka_unit_test(thread_counts_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
