/* Tests of compiler/simt without a compiler: C functions as kernels, shims called by name. Matrix instructions against
 * the tables of tests/golden/simt, which say what lies where. */
#include "test.h"

#include "dtype.h"
#include "simt/guard.h"
#include "simt/simt.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

/* ---- running -------------------------------------------------------------------------------------------------- */

#define SHIM(type, name) ((type *)(uintptr_t)simt_symbol("simt_" name))

typedef int IdShim(void);
typedef void BarrierShim(int site);
typedef void *SharedShim(int64_t bytes);
typedef uint32_t ShuffleShim(int site, uint32_t mask, uint32_t value, uint32_t select, uint32_t control);
typedef uint32_t VoteShim(int site, uint32_t mask, uint32_t predicate);
typedef uint32_t TwoShim(int site, uint32_t a, uint32_t b);
typedef uint32_t OneShim(int site, uint32_t a);
typedef void PackShim(int site, void *out, const void *in);

static int thread_id(void) { return SHIM(IdShim, "thread")(); }
static int block_id(void) { return SHIM(IdShim, "block")(); }
static void barrier(int site) { SHIM(BarrierShim, "barrier")(site); }
static void *shared(int64_t bytes) { return SHIM(SharedShim, "shared")(bytes); }

typedef void Kernel(void *a, void *b);

static bool launch(Kernel *kernel, void *a, void *b, int threads, int wave, int64_t on_chip, SimtOrder order, Err *err)
{
    void *arguments[] = {a, b};
    SimtLaunch l = {.name = "test", .entry = (void *)(uintptr_t)kernel, .arguments = arguments, .count = 2, .blocks = 3,
                    .threads = threads, .wave = wave, .shared = on_chip, .order = order};
    return simt_launch(&l, err);
}

static void run(Kernel *kernel, void *a, void *b, int threads, int wave, SimtOrder order)
{
    Err err = {0};
    if (!launch(kernel, a, b, threads, wave, 16384, order, &err))
        fail_msg("%s", err.text);
}

/* The launch must fail with a message in which all of the words occur. */
static void refused(Kernel *kernel, void *a, int threads, int wave, const char *const *words)
{
    for (int order = SIMT_FORWARD; order <= SIMT_REVERSE; order++) {
        Err err = {0};
        if (launch(kernel, a, NULL, threads, wave, 256, (SimtOrder)order, &err))
            fail_msg("no error '%s'", words[0]);
        for (int i = 0; words[i]; i++)
            if (!strstr(err.text, words[i]))
                fail_msg("'%s' is not in: %s", words[i], err.text);
    }
}
#define REFUSED(kernel, a, threads, wave, ...) \
    refused(kernel, a, threads, wave, (const char *const[]){__VA_ARGS__, NULL})

/* ---- threads, barriers, on-chip memory ------------------------------------------------------------------------ */

/* Every thread writes its neighbour's value, through on-chip memory, twice. */
static void rotate(void *out, void *unused)
{
    (void)unused;
    int t = thread_id(), n = SHIM(IdShim, "threads")();
    int *s = shared(4 * n);
    for (int round = 0; round < 2; round++) {
        s[t] = 100 * round + t;
        barrier(1);
        ((int *)out)[(round * 3 + block_id()) * n + t] = s[(t + 1) % n];
        barrier(2);
    }
}

static void barriers_exchange(void **state)
{
    (void)state;
    static int out[2 * 3 * 1024];
    for (int threads = 64; threads <= 1024; threads *= 4)
        for (int wave = 32; wave <= 64; wave += 32)
            for (int order = SIMT_FORWARD; order <= SIMT_REVERSE; order++) {
                memset(out, 0, sizeof out);
                run(rotate, out, NULL, threads, wave, (SimtOrder)order);
                for (int i = 0; i < 6 * threads; i++)
                    assert_int_equal(out[i], 100 * (i / (3 * threads)) + (i + 1) % threads);
            }
}

/* Without barriers the order shows: a thread sees what those before it wrote, and NaN of the others. */
static void count_written(void *out, void *unused)
{
    (void)unused;
    int t = thread_id(), n = SHIM(IdShim, "threads")(), seen = 0;
    uint32_t *s = shared(4 * n);
    s[t] = 1;
    for (int i = 0; i < n; i++)
        seen += s[i] != 0xFFFFFFFFu;
    ((int *)out)[t] = seen;
}

static void order_and_poison(void **state)
{
    (void)state;
    int out[128];
    run(count_written, out, NULL, 128, 32, SIMT_FORWARD);
    for (int i = 0; i < 128; i++)
        assert_int_equal(out[i], i + 1);
    run(count_written, out, NULL, 128, 32, SIMT_REVERSE);
    for (int i = 0; i < 128; i++)
        assert_int_equal(out[i], 128 - i);
}

static void one_warp_leaves(void *unused, void *unused2)
{
    (void)unused, (void)unused2;
    if (thread_id() >= 32)
        barrier(7);
}

static void one_lane_leaves(void *unused, void *unused2)
{
    (void)unused, (void)unused2;
    if (thread_id() != 37)
        barrier(7);
}

static void two_barriers(void *unused, void *unused2)
{
    (void)unused, (void)unused2;
    if (thread_id() < 5)
        barrier(7);
    else
        barrier(8);
}

static void vote_or_barrier(void *unused, void *unused2)
{
    (void)unused, (void)unused2;
    if (thread_id() % 32 < 5)
        barrier(7);
    else
        SHIM(VoteShim, "vote_any")(9, UINT32_MAX, 1);
}

static void vote_or_end(void *unused, void *unused2)
{
    (void)unused, (void)unused2;
    if (thread_id() % 32 < 20)
        SHIM(VoteShim, "vote_any")(9, UINT32_MAX, 1);
}

static void two_votes(void *unused, void *unused2)
{
    (void)unused, (void)unused2;
    SHIM(VoteShim, "vote_any")(thread_id() % 2 ? 3 : 4, UINT32_MAX, 1);
}

static void not_in_mask(void *unused, void *unused2)
{
    (void)unused, (void)unused2;
    SHIM(VoteShim, "vote_any")(3, 0xFF, 1);
}

static void divergence_is_told(void **state)
{
    (void)state;
    REFUSED(one_warp_leaves, NULL, 64, 32, "kernel 'test', block 0", "has ended", "waits at a barrier (call 7)",
            "warps");
    REFUSED(one_lane_leaves, NULL, 64, 32, "thread 37 has ended", "waits at a barrier (call 7)");
    REFUSED(two_barriers, NULL, 64, 64, "barrier (call 7)", "barrier (call 8)");
    REFUSED(vote_or_barrier, NULL, 64, 32, "vote.sync.any (call 9)", "barrier (call 7)");
    REFUSED(vote_or_end, NULL, 32, 32, "vote.sync.any (call 9)", "thread 20 has ended");
    REFUSED(two_votes, NULL, 32, 32, "vote.sync.any (call 3)", "vote.sync.any (call 4)");
    REFUSED(not_in_mask, NULL, 32, 32, "leaves out the calling lane");
}

/* ---- faults --------------------------------------------------------------------------------------------------- */

static void read_at(void *a, void *unused)
{
    (void)unused;
    if (thread_id() == 5)
        *(volatile int *)a;
}

static void write_at(void *a, void *unused)
{
    (void)unused;
    if (thread_id() == 5)
        *(volatile int *)a = 1;
}

#if !defined(__SANITIZE_ADDRESS__) /* it would look at the bytes around before the processor does */
static void shared_past_end(void *a, void *unused)
{
    (void)unused;
    char *s = shared(256);
    if (thread_id() == 5)
        *(volatile char *)(s + (intptr_t)a) = 1;
}

static void deep(void *a, void *unused)
{
    volatile char room[4096];
    room[0] = 1;
    if (thread_id() == 5)
        deep(a, unused);
    room[1] = room[0];
}

static void on_chip_bounds(void **state)
{
    (void)state;
    REFUSED(shared_past_end, (void *)(intptr_t)256, 32, 32,
            "thread 5: writes byte 256 of on-chip memory, which has 256");
    REFUSED(shared_past_end, (void *)(intptr_t)-1, 32, 32, "writes on-chip memory beyond its 256 bytes, or before it");
    REFUSED(deep, NULL, 32, 32, "thread 5", "stack");
}
#endif

static void wants_more(void *unused, void *unused2)
{
    (void)unused, (void)unused2;
    shared(512);
}

__attribute__((no_sanitize("undefined"))) static void divides(void *a, void *unused)
{
    (void)unused;
    volatile int *p = a, x = 5;
    p[1] = x / p[0];
}

static void buffers_are_guarded(void **state)
{
    (void)state;
    Err err = {0};
    for (int size = 0; size < 40; size++)
        for (int phase = 0; phase < 16; phase += 4) {
            Guarded g;
            assert_true(guard_alloc(&g, (size_t)size, (size_t)phase, 0xFF, &err));
            assert_int_equal((uintptr_t)g.data % GUARD_ALIGN, phase);
            assert_true(g.data + size <= g.end && g.end - g.data - size < GUARD_ALIGN);
            assert_true(guard_intact(&g));
            memset(g.data, 0, (size_t)size);
            assert_true(guard_intact(&g));
            g.data[-1] = 0;
            assert_false(guard_intact(&g));
            guard_free(&g);
        }
}

static void faults_are_told(void **state)
{
    (void)state;
    Err err = {0};
    Guarded g;
    assert_true(guard_alloc(&g, 64, 0, 0, &err));
    SimtRegion regions[] = {{"weights", g.data, 64}};
    struct {
        Kernel *kernel;
        void *address;
        const char *want;
    } rows[] = {
        {read_at, g.data + 64, "kernel 'test', block 0, thread 5: reads 1 bytes past the end of 'weights' of 64 bytes"},
        {write_at, g.data + 80, "thread 5: writes 17 bytes past the end of 'weights'"},
        {read_at, g.begin - 4, "before 'weights'"},
        {read_at, (void *)16, "reads address 0x10, which is no buffer's"},
        {wants_more, NULL, "needs 512 bytes of on-chip memory, is launched with 0"},
        {divides, g.data, "divides integers by zero"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        void *arguments[] = {rows[i].address, NULL};
        SimtLaunch l = {.name = "test", .entry = (void *)(uintptr_t)rows[i].kernel, .arguments = arguments, .count = 2,
                        .blocks = 1, .threads = 32, .wave = 32, .regions = regions, .region_count = 1};
        assert_false(simt_launch(&l, &err));
        if (!strstr(err.text, rows[i].want))
            fail_msg("'%s' is not in: %s", rows[i].want, err.text);
    }
    guard_read_only(&g);
    void *arguments[] = {g.data, NULL};
    SimtLaunch l = {"test", (void *)(uintptr_t)write_at, arguments, 2, 1, 32, 32, 0, SIMT_FORWARD, regions, 1};
    assert_false(simt_launch(&l, &err));
    assert_non_null(strstr(err.text, "writes byte 0 of 'weights', which it may not"));
    guard_free(&g);
    order_and_poison(NULL); /* the machine goes on as if nothing had been */
}

static void bad_launches(void **state)
{
    (void)state;
    Err err = {0};
    assert_false(launch(wants_more, NULL, NULL, 48, 32, 0, SIMT_FORWARD, &err));
    assert_false(launch(wants_more, NULL, NULL, 2048, 32, 0, SIMT_FORWARD, &err));
    assert_false(launch(wants_more, NULL, NULL, 32, 16, 0, SIMT_FORWARD, &err));
    assert_false(launch(wants_more, NULL, NULL, 32, 32, -1, SIMT_FORWARD, &err));
    assert_null(simt_symbol("system"));
}

static void *in_a_thread(void *failures)
{
    int out[128];
    Err err = {0};
    for (int i = 0; i < 20; i++) {
        if (!launch(count_written, out, NULL, 128, 32, 512, SIMT_FORWARD, &err) || out[127] != 128)
            ++*(int *)failures;
        if (launch(one_lane_leaves, NULL, NULL, 64, 32, 0, SIMT_FORWARD, &err))
            ++*(int *)failures;
        if (launch(read_at, (void *)16, NULL, 64, 32, 0, SIMT_FORWARD, &err))
            ++*(int *)failures;
    }
    return NULL;
}

static void several_threads_launch(void **state)
{
    (void)state;
    pthread_t threads[4];
    int failures[4] = {0};
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, in_a_thread, &failures[i]), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(failures[i], 0);
    }
}

/* ---- collectives ---------------------------------------------------------------------------------------------- */

typedef struct Shuffled {
    const char *name;
    uint32_t select, control;
    int expect[32]; /* the lane that each lane reads */
} Shuffled;

static const Shuffled *shuffled;

static void do_shuffle(void *out, void *unused)
{
    (void)unused;
    int t = thread_id();
    uint32_t v = SHIM(ShuffleShim, "shfl_idx")(1, UINT32_MAX, 7, 0, 31); /* another one in between */
    v += ((ShuffleShim *)(uintptr_t)simt_symbol(shuffled->name))(2, UINT32_MAX, 1000 + (uint32_t)t, shuffled->select,
                                                                shuffled->control);
    ((int *)out)[t] = (int)v - 1007;
}

/* Control as compilers give it: clamp 31 (0 for `up`), segment mask 0; the last rows have segments of 8. */
static void shuffles(void **state)
{
    (void)state;
    static const Shuffled rows[] = {
        {"simt_shfl_bfly", 1, 31,
         {1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14,
          17, 16, 19, 18, 21, 20, 23, 22, 25, 24, 27, 26, 29, 28, 31, 30}},
        {"simt_shfl_bfly", 16, 31,
         {16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
          0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}},
        {"simt_shfl_idx", 5, 31,
         {5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5,
          5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5}},
        {"simt_shfl_up", 3, 0,
         {0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
          13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28}},
        {"simt_shfl_down", 30, 31,
         {30, 31, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
          16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31}},
        {"simt_shfl_idx", 2, 31 | 24 << 8,
         {2, 2, 2, 2, 2, 2, 2, 2, 10, 10, 10, 10, 10, 10, 10, 10,
          18, 18, 18, 18, 18, 18, 18, 18, 26, 26, 26, 26, 26, 26, 26, 26}},
        {"simt_shfl_down", 6, 7 | 24 << 8,
         {6, 7, 2, 3, 4, 5, 6, 7, 14, 15, 10, 11, 12, 13, 14, 15,
          22, 23, 18, 19, 20, 21, 22, 23, 30, 31, 26, 27, 28, 29, 30, 31}},
    };
    int out[32];
    for (size_t i = 0; i < COUNT(rows); i++)
        for (int order = SIMT_FORWARD; order <= SIMT_REVERSE; order++) {
            shuffled = &rows[i];
            run(do_shuffle, out, NULL, 32, 32, (SimtOrder)order);
            for (int l = 0; l < 32; l++)
                if (out[l] != rows[i].expect[l])
                    fail_msg("%s %u: lane %d reads %d, not %d", rows[i].name, rows[i].select, l, out[l],
                             rows[i].expect[l]);
        }
}

static void do_votes(void *out, void *unused)
{
    (void)unused;
    int t = thread_id();
    uint32_t *o = (uint32_t *)out + 8 * t, all = UINT32_MAX;
    o[0] = SHIM(VoteShim, "vote_ballot")(1, all, t % 3 == 0);
    o[1] = SHIM(VoteShim, "vote_any")(2, all, t == 9);
    o[2] = SHIM(VoteShim, "vote_all")(3, all, t != 9);
    o[3] = SHIM(VoteShim, "vote_uni")(4, all, 0);
    uint32_t mask = t < 16 ? 0xFFFF : 0xFFFF0000; /* halves of a warp on their own */
    o[4] = SHIM(TwoShim, "redux_add")(t < 16 ? 5 : 6, (uint32_t)t, mask);
    o[5] = SHIM(TwoShim, "redux_min")(7, (uint32_t)(3 - t), all);
    o[6] = SHIM(TwoShim, "redux_umax")(8, (uint32_t)(3 - t), all);
    o[7] = t % 2 ? SHIM(VoteShim, "vote_ballot")(9, 0xAAAAAAAA, 1) : 1;
}

static void votes(void **state)
{
    (void)state;
    uint32_t out[32 * 8];
    run(do_votes, out, NULL, 32, 32, SIMT_REVERSE);
    for (int l = 0; l < 32; l++) {
        const uint32_t *o = &out[8 * l];
        assert_int_equal(o[0], 0x49249249);
        assert_int_equal(o[1], 1);
        assert_int_equal(o[2], 0);
        assert_int_equal(o[3], 1);
        assert_int_equal(o[4], l < 16 ? 120 : 376);
        assert_int_equal((int)o[5], -28);
        assert_int_equal((int)o[6], -1);
        assert_int_equal(o[7], l % 2 ? 0xAAAAAAAA : 1);
    }
}

static const uint32_t *dpp; /* control, row mask, bank mask, bound */

static void do_dpp(void *out, void *unused)
{
    (void)unused;
    uint32_t t = (uint32_t)thread_id(), result;
    SHIM(PackShim, "update_dpp")(1, &result, (uint32_t[]){1000, t, dpp[0], dpp[1], dpp[2], dpp[3]});
    ((uint32_t *)out)[t] = result;
}

/* Expectations of lanes 0..19, written down from the pictures of the ISA documents; 1000 is the old value. */
static void data_parallel_primitives(void **state)
{
    (void)state;
    static const struct {
        uint32_t dpp[4];
        uint32_t expect[20];
    } rows[] = {
        {{0xB1, 15, 15, 0}, /* quad_perm 1,0,3,2 */
         {1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14,
          17, 16, 19, 18}},
        {{0x1B, 15, 15, 0}, /* 3,2,1,0 */
         {3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12,
          19, 18, 17, 16}},
        {{0x101, 15, 15, 0}, /* row_shl:1 */
         {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 1000,
          17, 18, 19, 20}},
        {{0x112, 15, 15, 1}, /* row_shr:2 */
         {0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13,
          0, 0, 16, 17}},
        {{0x124, 15, 15, 0}, /* row_ror:4 */
         {12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
          28, 29, 30, 31}},
        {{0x140, 15, 15, 0}, /* row_mirror */
         {15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0,
          31, 30, 29, 28}},
        {{0x141, 15, 15, 0}, /* half_mirror */
         {7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8,
          23, 22, 21, 20}},
        {{0x142, 14, 15, 0}, /* row_bcast:15 */
         {1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000,
          15, 15, 15, 15}},
        {{0x140, 15, 1, 0}, /* bank 0 only */
         {15, 14, 13, 12, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000,
          31, 30, 29, 28}},
        {{0x161, 15, 15, 0}, /* row_xmask:1 */
         {1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14,
          17, 16, 19, 18}},
        {{0x153, 15, 15, 0}, /* row_share:3 */
         {3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3,
          19, 19, 19, 19}},
    };
    uint32_t out[64];
    for (size_t i = 0; i < COUNT(rows); i++) {
        dpp = rows[i].dpp;
        run(do_dpp, out, NULL, 64, i % 2 ? 32 : 64, SIMT_FORWARD);
        for (int l = 0; l < 20; l++)
            if (out[l] != rows[i].expect[l])
                fail_msg("control %#x: lane %d has %u, not %u", dpp[0], l, out[l], rows[i].expect[l]);
    }
    dpp = (const uint32_t[]){0x100, 15, 15, 0};
    REFUSED(do_dpp, out, 64, 64, "control 0x100");
}

static void do_permutes(void *out, void *unused)
{
    (void)unused;
    uint32_t t = (uint32_t)thread_id(), *o = (uint32_t *)out + 8 * t;
    o[0] = SHIM(TwoShim, "ds_bpermute")(1, 4 * (63 - t), t);
    o[1] = SHIM(TwoShim, "ds_permute")(2, 4 * ((t + 1) % 64), t);
    o[2] = SHIM(TwoShim, "ds_swizzle")(3, t, 0x041F); /* swap lanes 1 apart */
    o[3] = SHIM(TwoShim, "readlane")(4, t, 40);
    o[4] = SHIM(OneShim, "readfirstlane")(5, t + 9);
    SHIM(PackShim, "permlanex16")(6, &o[5], (uint32_t[]){0, t, 0x76543210, 0xFEDCBA98, 0, 0});
    uint64_t all = ((uint64_t(*)(int, uint32_t))(uintptr_t)simt_symbol("simt_ballot64"))(7, t >= 60);
    o[6] = (uint32_t)(all >> 32);
    o[7] = (uint32_t)((int (*)(uint32_t, int))(uintptr_t)simt_symbol("simt_mbcnt_hi"))(
        UINT32_MAX, ((int (*)(uint32_t, int))(uintptr_t)simt_symbol("simt_mbcnt_lo"))(UINT32_MAX, 0));
}

static void permutes(void **state)
{
    (void)state;
    uint32_t out[64 * 8];
    run(do_permutes, out, NULL, 64, 64, SIMT_FORWARD);
    for (uint32_t l = 0; l < 64; l++) {
        const uint32_t *o = &out[8 * l];
        assert_int_equal(o[0], 63 - l);
        assert_int_equal(o[1], (l + 63) % 64);
        assert_int_equal(o[2], l ^ 1);
        assert_int_equal(o[3], 40);
        assert_int_equal(o[4], 9);
        assert_int_equal(o[5], l ^ 16);
        assert_int_equal(o[6], 0xF0000000);
        assert_int_equal(o[7], l);
    }
}

/* ---- scalar instructions -------------------------------------------------------------------------------------- */

static void scalars(void **state)
{
    (void)state;
    typedef uint32_t Three(uint32_t a, uint32_t b, uint32_t c);
    assert_int_equal(SHIM(Three, "prmt")(0x33221100, 0x77665544, 0x7520), 0x77552200);
    assert_int_equal(SHIM(Three, "prmt")(0x80, 0, 0x8008), 0xFF8080FF);
    assert_int_equal(SHIM(Three, "perm")(0x77665544, 0x33221100, 0x0C070001), 0x00770011);
    assert_int_equal(SHIM(Three, "ubfe")(0xABCD1234, 8, 8), 0x12);
    assert_int_equal(SHIM(Three, "sbfe")(0xABCD1234, 12, 8), 0xFFFFFFD1);
    typedef int32_t Dot(uint32_t a, uint32_t b, int32_t c, uint32_t clamp);
    assert_int_equal(SHIM(Dot, "sdot4")(0x01FF02FE, 0x7F807F80, 10, 0), 10 + 127 + 128 + 254 + 256);
    assert_int_equal(SHIM(Dot, "sdot4")(0x7F7F7F7F, 0x7F7F7F7F, INT32_MAX, 1), INT32_MAX);
    uint16_t pair[2];
    ((void (*)(void *, const void *))(uintptr_t)simt_symbol("simt_ff2bf16x2"))(pair, (float[]){1.0f, -2.0f});
    assert_int_equal(pair[0], 0xC000);
    assert_int_equal(pair[1], 0x3F80);
}

/* ---- matrices ------------------------------------------------------------------------------------------------- */

enum { MAX_SIDE = 32, MAX_PACK = 128 };

typedef struct Cell {
    int lane[2], element[2], copies;
} Cell;

typedef struct Table {
    char name[32];
    int rows[3], cols[3]; /* of A, B, C */
    Cell cell[3][MAX_SIDE][MAX_SIDE];
} Table;

typedef enum Kind { KIND_BF16, KIND_F16, KIND_S8, KIND_U8 } Kind;

/* An instruction: the table it follows, operand types, where its operands lie in a lane's pack, the pack's size. */
typedef struct Matrix {
    const char *shim, *table;
    Kind a, b;
    int wave, at_a, at_b, at_c;
    uint32_t fixed[4][2]; /* offset and value of other arguments */
    int fixed_count;
} Matrix;

static const Matrix matrices[] = {
    {"mma_bf16", "mma_bf16", KIND_BF16, KIND_BF16, 32, 0, 16, 24, {{0}}, 0},
    {"mma_f16", "mma_bf16", KIND_F16, KIND_F16, 32, 0, 16, 24, {{0}}, 0},
    {"mma_s8", "mma_s8", KIND_S8, KIND_S8, 32, 0, 16, 24, {{0}}, 0},
    {"mma_s8_u8", "mma_s8", KIND_S8, KIND_U8, 32, 0, 16, 24, {{0}}, 0},
    {"mma_u8_s8", "mma_s8", KIND_U8, KIND_S8, 32, 0, 16, 24, {{0}}, 0},
    {"mma_u8", "mma_s8", KIND_U8, KIND_U8, 32, 0, 16, 24, {{0}}, 0},
    {"mma_k16_s8", "mma_k16_s8", KIND_S8, KIND_S8, 32, 0, 8, 12, {{0}}, 0},
    {"mfma_bf16", "mfma_bf16", KIND_BF16, KIND_BF16, 64, 0, 8, 16, {{32, 0}, {36, 0}, {40, 0}}, 3},
    {"mfma_f16", "mfma_bf16", KIND_F16, KIND_F16, 64, 0, 8, 16, {{32, 0}, {36, 0}, {40, 0}}, 3},
    {"mfma_s8", "mfma_s8", KIND_S8, KIND_S8, 64, 0, 4, 8, {{24, 0}, {28, 0}, {32, 0}}, 3},
    {"mfma_k32_s8", "mfma_k32_s8", KIND_S8, KIND_S8, 64, 0, 8, 16, {{32, 0}, {36, 0}, {40, 0}}, 3},
    {"mfma32_bf16", "mfma32_bf16", KIND_BF16, KIND_BF16, 64, 0, 8, 16, {{80, 0}, {84, 0}, {88, 0}}, 3},
    {"mfma32_s8", "mfma32_s8", KIND_S8, KIND_S8, 64, 0, 4, 8, {{72, 0}, {76, 0}, {80, 0}}, 3},
    {"mfma32_k16_s8", "mfma32_k16_s8", KIND_S8, KIND_S8, 64, 0, 8, 16, {{80, 0}, {84, 0}, {88, 0}}, 3},
    {"wmma_bf16", "wmma_bf16", KIND_BF16, KIND_BF16, 32, 0, 32, 64, {{0}}, 0},
    {"wmma_f16", "wmma_bf16", KIND_F16, KIND_F16, 32, 0, 32, 64, {{0}}, 0},
    {"wmma_iu8", "wmma_bf16", KIND_S8, KIND_S8, 32, 4, 24, 40, {{0, 1}, {20, 1}, {72, 0}}, 3},
    {"wmma_iu8", "wmma_bf16", KIND_U8, KIND_S8, 32, 4, 24, 40, {{0, 0}, {20, 1}, {72, 0}}, 3},
};

/* Reads the table of one instruction. */
static void read_table(const char *name, Table *t)
{
    Buf text = {0};
    Err err = {0};
    memset(t, 0, sizeof *t);
    if (!file_read(&text, SOURCE_DIR "/tests/golden/simt/fragments.txt", 1 << 20, &err))
        fail_msg("%s", err.text);
    int found = 0, rows, cols, used;
    char word[32], operand;
    const char *s = text.data;
    while (sscanf(s, "%31s %c %d %d%n", word, &operand, &rows, &cols, &used) == 4) {
        s += used;
        int o = operand - 'a';
        bool ours = !strcmp(word, name);
        assert_true(o >= 0 && o < 3 && rows <= MAX_SIDE && cols <= MAX_SIDE);
        for (int i = 0; i < rows * cols; i++) {
            Cell c = {.copies = 1};
            assert_int_equal(sscanf(s, "%d.%d%n", &c.lane[0], &c.element[0], &used), 2);
            s += used;
            if (*s == '+') {
                assert_int_equal(sscanf(s, "+%d.%d%n", &c.lane[1], &c.element[1], &used), 2);
                s += used;
                c.copies = 2;
            }
            if (ours)
                t->cell[o][i / cols][i % cols] = c;
        }
        if (ours) {
            t->rows[o] = rows;
            t->cols[o] = cols;
            found++;
        }
    }
    buf_free(&text);
    assert_int_equal(found, 3);
}

static double random_value(Kind kind)
{
    int v = rand();
    return kind == KIND_S8 ? (int8_t)v : kind == KIND_U8 ? (uint8_t)v : (v % 255 - 127) / 16.0; /* exact in 8 bits */
}

static void put_operand(uint8_t *at, Kind kind, int element, double v)
{
    static const DType types[] = {DT_BF16, DT_F16, DT_S8, DT_U8};
    dtype_set(types[kind], at, (size_t)element, v);
}

typedef struct Lanes {
    const char *shim;
    uint8_t in[64][MAX_PACK], out[64][MAX_PACK];
} Lanes;

static void do_matrix(void *lanes, void *unused)
{
    (void)unused;
    Lanes *l = lanes;
    char name[64];
    int t = thread_id();
    snprintf(name, sizeof name, "simt_%s", l->shim);
    ((PackShim *)(uintptr_t)simt_symbol(name))(1, l->out[t], l->in[t]);
}

typedef struct Numbers {
    double a[MAX_SIDE][MAX_SIDE], b[MAX_SIDE][MAX_SIDE], c[MAX_SIDE][MAX_SIDE];
} Numbers;

static void place(const Matrix *m, const Table *t, const Numbers *n, Lanes *l)
{
    const double(*values[3])[MAX_SIDE] = {n->a, n->b, n->c};
    int at[3] = {m->at_a, m->at_b, m->at_c};
    for (int lane = 0; lane < 64; lane++)
        for (int i = 0; i < m->fixed_count; i++)
            memcpy(&l->in[lane][m->fixed[i][0]], &m->fixed[i][1], 4);
    for (int o = 0; o < 3; o++)
        for (int r = 0; r < t->rows[o]; r++)
            for (int c = 0; c < t->cols[o]; c++)
                for (int i = 0; i < t->cell[o][r][c].copies; i++) {
                    uint8_t *to = &l->in[t->cell[o][r][c].lane[i]][at[o]];
                    int e = t->cell[o][r][c].element[i];
                    if (o < 2)
                        put_operand(to, o == 0 ? m->a : m->b, e, values[o][r][c]);
                    else
                        dtype_set(m->a >= KIND_S8 ? DT_S32 : DT_F32, to, (size_t)e, values[o][r][c]);
                }
}

static void products_follow_the_tables(void **state)
{
    (void)state;
    srand(1);
    static Table t;
    static Lanes l;
    static Numbers n;
    for (size_t i = 0; i < COUNT(matrices); i++) {
        const Matrix *m = &matrices[i];
        read_table(m->table, &t);
        bool integer = m->a >= KIND_S8;
        for (int r = 0; r < MAX_SIDE; r++)
            for (int c = 0; c < MAX_SIDE; c++) {
                n.a[r][c] = random_value(m->a);
                n.b[r][c] = random_value(m->b);
                n.c[r][c] = rand() % 1000 - 500;
            }
        memset(&l, 0x55, sizeof l);
        l.shim = m->shim;
        place(m, &t, &n, &l);
        run(do_matrix, &l, NULL, m->wave, m->wave, i % 2 ? SIMT_REVERSE : SIMT_FORWARD);
        for (int r = 0; r < t.rows[2]; r++)
            for (int c = 0; c < t.cols[2]; c++) {
                double want = n.c[r][c];
                for (int k = 0; k < t.cols[0]; k++)
                    want += n.a[r][k] * n.b[k][c];
                Cell cell = t.cell[2][r][c];
                double got = dtype_get(integer ? DT_S32 : DT_F32, l.out[cell.lane[0]], (size_t)cell.element[0]);
                if (got != (integer ? want : (double)(float)want)) /* the terms are exact, so is their sum */
                    fail_msg("%s: row %d, column %d is %g, not %g", m->shim, r, c, got, want);
            }
    }
}

static void wmma_wants_both_halves(void **state)
{
    (void)state;
    static Lanes l;
    l.shim = "wmma_bf16";
    l.in[17][3] = 1;
    REFUSED(do_matrix, &l, 32, 32, "lanes 1 and 17 hold different operands");
    REFUSED(do_matrix, &l, 64, 64, "wavefronts of 64 lanes, not 32");
    l.shim = "mfma_bf16";
    REFUSED(do_matrix, &l, 32, 32, "wavefronts of 32 lanes, not 64");
}

static void do_ldmatrix(void *out, void *unused)
{
    (void)unused;
    int t = thread_id();
    uint16_t *s = shared(512);
    for (int i = t; i < 256; i += 32)
        s[i] = (uint16_t)i;
    barrier(1);
    const uint16_t *row = s + 8 * t;
    SHIM(PackShim, "ldmatrix_x4")(2, (uint32_t *)out + 8 * t, &row);
    SHIM(PackShim, "ldmatrix_x4_trans")(3, (uint32_t *)out + 8 * t + 4, &row);
}

/* "each thread receives the elements 2 (lane % 4) and + 1 of row lane / 4"; rows of 8 numbers i = 8 row + column. */
static void ldmatrix(void **state)
{
    (void)state;
    uint32_t out[32 * 8];
    run(do_ldmatrix, out, NULL, 32, 32, SIMT_FORWARD);
    for (uint32_t l = 0; l < 32; l++)
        for (uint32_t j = 0; j < 4; j++) {
            uint32_t first = 64 * j + 2 * l, across = 64 * j + 16 * (l % 4) + l / 4;
            assert_int_equal(out[8 * l + j], first | (first + 1) << 16);
            assert_int_equal(out[8 * l + 4 + j], across | (across + 8) << 16);
        }
}

/* ---- asynchronous copies -------------------------------------------------------------------------------------- */

typedef void CopyShim(void *to, const void *from);
typedef void CopySizeShim(void *to, const void *from, int size);
typedef void WaitShim(int pending);

/* Three groups of one copy each; after every wait, what is there of each. */
static void do_copies(void *out, void *in)
{
    int t = thread_id();
    uint32_t *o = (uint32_t *)out + 12 * t, *s = (uint32_t *)shared(48 * 32) + 12 * t;
    for (int i = 0; i < 12; i++)
        s[i] = 7;
    SHIM(CopyShim, "cp_async_16")(s, in);
    SHIM(IdShim, "cp_async_commit")();
    SHIM(CopySizeShim, "cp_async_16_s")(s + 4, in, 4);
    SHIM(IdShim, "cp_async_commit")();
    SHIM(CopyShim, "cp_async_8")(s + 8, (char *)in + 8);
    SHIM(IdShim, "cp_async_commit")();
    for (int step = 0; step < 4; step++) {
        o[3 * step] = s[3];
        o[3 * step + 1] = s[7];
        o[3 * step + 2] = s[9];
        SHIM(WaitShim, "cp_async_wait")(2 - step < 0 ? 0 : 2 - step);
    }
}

static void copies_wait(void **state)
{
    (void)state;
    _Alignas(16) uint32_t in[4] = {10, 11, 12, 13}, out[32 * 12];
    static const uint32_t nan = 0xFFFFFFFF;
    const uint32_t want[12] = {nan, nan, nan, 13, nan, nan, 13, 0, nan, 13, 0, 13};
    run(do_copies, out, in, 32, 32, SIMT_FORWARD);
    for (int i = 0; i < 32 * 12; i++)
        assert_int_equal(out[i], want[i % 12]);
}

static void misaligned_copy(void *in, void *unused)
{
    (void)unused;
    SHIM(CopyShim, "cp_async_16")(shared(256), (char *)in + 8);
}

static void copy_outside(void *in, void *unused)
{
    (void)unused;
    SHIM(CopyShim, "cp_async_16")((char *)shared(256) + 248, in);
}

static void copies_are_checked(void **state)
{
    (void)state;
    _Alignas(16) uint32_t in[8] = {0};
    REFUSED(misaligned_copy, in, 32, 32, "thread", "misaligned: asynchronous copy");
    REFUSED(copy_outside, in, 32, 32, "asynchronous copy at byte 248 of on-chip memory, which has 256 bytes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(barriers_exchange),     cmocka_unit_test(order_and_poison),
        cmocka_unit_test(divergence_is_told),    cmocka_unit_test(buffers_are_guarded),
#if !defined(__SANITIZE_ADDRESS__)
        cmocka_unit_test(on_chip_bounds),
#endif
        cmocka_unit_test(faults_are_told),       cmocka_unit_test(bad_launches),
        cmocka_unit_test(several_threads_launch), cmocka_unit_test(shuffles),
        cmocka_unit_test(votes),                 cmocka_unit_test(data_parallel_primitives),
        cmocka_unit_test(permutes),              cmocka_unit_test(scalars),
        cmocka_unit_test(products_follow_the_tables), cmocka_unit_test(wmma_wants_both_halves),
        cmocka_unit_test(ldmatrix),              cmocka_unit_test(copies_wait),
        cmocka_unit_test(copies_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
