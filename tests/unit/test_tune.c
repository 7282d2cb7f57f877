/* Tests of bladetune's parts: statistics, the database and its text, packs of candidates, and the
 * choice of a winner on a device whose kernels take as long as the test says. */
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "stats.h"
#include "tuner.h"

static char dir[64];

static const char *path_of(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

/* ---- statistics ------------------------------------------------------------------------------------------------- */

static void near(double got, double want)
{
    if (fabs(got - want) > 1e-9 * (1 + fabs(want)))
        fail_msg("%.12g, expected %.12g", got, want);
}

static void quantiles(void **state)
{
    (void)state;
    double v[] = {5, 1, 4, 2, 3};
    near(stats_quantile(v, 5, 0.5), 3);
    near(stats_quantile(v, 4, 0.5), 3); /* of 5 1 4 2 */
    near(stats_quantile(v, 5, 0), 1);
    near(stats_quantile(v, 5, 1), 5);
    near(stats_quantile(v, 5, 0.25), 2);
    near(stats_quantile(v, 1, 0.5), 5);
    near(v[0], 5); /* left alone */
}


static void lower_bounds(void **state)
{
    (void)state;
    double v[10] = {10, 9, 8, 7, 6, 5, 4, 3, 2, 1};
    near(stats_lower_bound(v, 10, 0.01), 1);    /* 1/1024 that all lie above the median; 11/1024 that all but one do */
    near(stats_lower_bound(v, 10, 0.02), 2);
    near(stats_lower_bound(v, 10, 0.06), 3);    /* 56/1024 */
    near(stats_lower_bound(v, 4, 0.01), 7);     /* too few: the smallest */
    near(stats_lower_bound(v, 1, 0.01), 10);
    near(v[0], 10);
}

static void rank_correlation(void **state)
{
    (void)state;
    double x[] = {1, 2, 3, 4, 5}, same[] = {10, 20, 30, 40, 1000}, back[] = {5, 4, 3, 2, 1}, flat[] = {7, 7, 7, 7, 7};
    double ties[] = {1, 1, 2, 2, 3};
    near(stats_spearman(x, same, 5), 1);
    near(stats_spearman(x, back, 5), -1);
    near(stats_spearman(x, flat, 5), 0);
    near(stats_spearman(x, ties, 5), 9 / sqrt(10 * 9.0)); /* ranks .5 .5 2.5 2.5 4 */
    near(stats_spearman(x, same, 1), 0);
}

/* ---- database and text ------------------------------------------------------------------------------------------ */

static Record sample(const char *operator, int64_t bucket, double gain)
{
    return (Record){.device = "test-4c", .target = "x86-64-v4", .operator = operator, .parameters = "k=64,n=\"q\"",
                    .driver = "host 6.1", .schedule = "default@1234", .settings = "{\"rows\":6}",
                    .default_settings = "{\"rows\":4}", .limit_name = "read", .build = "00ff", .date = "2026-01-01T00:00:00Z",
                    .details = "[]", .seconds = 1e-5 / gain, .default_seconds = 1e-5, .gain = gain, .share = 0.5,
                    .correlation = 0.9, .bucket = bucket, .cores = 4, .threads = 4, .measured = 16, .combinations = 200};
}

static bool count_rows(void *context, const Record *r, Err *err)
{
    (void)r;
    (void)err;
    ++*(int *)context;
    return true;
}

static int rows_of(Db *db, const char *device)
{
    int n = 0;
    Err err = {0};
    if (!db_each(db, device, count_rows, &n, &err))
        fail_msg("%s", err.text);
    return n;
}

static Db *open_db(const char *name)
{
    Err err = {0};
    Db *db = db_open(path_of(name), &err);
    if (!db)
        fail_msg("%s", err.text);
    return db;
}

static void put(Db *db, Record r)
{
    Err err = {0};
    if (!db_put(db, &r, &err))
        fail_msg("%s", err.text);
}

static bool has(Db *db, Record r)
{
    Err err = {0};
    bool there = false;
    if (!db_has(db, &r, &there, &err))
        fail_msg("%s", err.text);
    return there;
}

static void rows_are_kept_by_identity(void **state)
{
    (void)state;
    Db *db = open_db("a.db");
    put(db, sample("matmul", 4, 1.1));
    put(db, sample("matmul", 8, 1.2));
    put(db, sample("matmul", 4, 1.3)); /* in the place of the first */
    assert_int_equal(rows_of(db, NULL), 2);
    assert_int_equal(rows_of(db, "test-4c"), 2);
    assert_int_equal(rows_of(db, "other"), 0);
    db_close(db);
    db = open_db("a.db");
    assert_int_equal(rows_of(db, NULL), 2);
    assert_true(has(db, sample("matmul", 4, 1)));
    assert_false(has(db, sample("attention", 4, 1)));
    Record r = sample("matmul", 4, 1);
    r.build = "00fe"; /* measured under another generator: to be done again */
    assert_false(has(db, r));
    r = sample("matmul", 4, 1);
    r.schedule = "default@9999";
    assert_false(has(db, r));
    db_close(db);
}

static void known_winners_are_those_in_use(void **state)
{
    (void)state;
    Err err = {0};
    Known known = {0};
    Db *db = open_db("known.db");
    put(db, sample("matmul", 4, 1.1));
    Record r = sample("matmul", 8, 1);
    r.settings = "{ \"rows\": 4 }"; /* the default, spelled otherwise */
    put(db, r);
    r = sample("attention", 0, 1.5);
    r.target = "x86-64-v3";
    put(db, r);
    assert_true(known_read(&known, db, "test-4c", &err));
    assert_int_equal(known.list.len, 3);
    char *text = known_winners(&known, "x86-64-v4");
    json_t *list = json_loads(text, 0, NULL), *one = json_array_get(list, 0);
    assert_int_equal(json_array_size(list), 1);
    assert_int_equal(json_integer_value(json_object_get(one, "bucket")), 4);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(one, "settings"), "rows")), 6);
    json_decref(list);
    free(text);
    known_free(&known);
    assert_true(known_read(&known, NULL, "test-4c", &err));
    assert_int_equal(known.list.len, 0);
    known_free(&known);
    db_close(db);
}

static void two_processes_share_a_database(void **state)
{
    (void)state;
    Db *one = open_db("shared.db"), *two = open_db("shared.db");
    for (int i = 0; i < 20; i++) {
        put(one, sample("matmul", i, 1));
        put(two, sample("attention", i, 1));
    }
    assert_int_equal(rows_of(one, NULL), 40);
    db_close(one);
    db_close(two);
}

static void text_survives_the_way_out_and_in(void **state)
{
    (void)state;
    Err err = {0};
    Buf text = {0}, again = {0};
    Db *db = open_db("b.db");
    put(db, sample("matmul", 8, 1.25));
    put(db, sample("matmul", 0, 1));
    put(db, sample("attention", 0, 1.5));
    assert_true(text_put(db, "test-4c", true, &text, &err));
    assert_true(file_write_atomic(path_of("b.json"), text.data, text.len, &err));
    Arena *a = arena_new();
    json_t *root;
    Record *rows;
    size_t count;
    if (!text_read(path_of("b.json"), a, &root, &rows, &count, &err))
        fail_msg("%s", err.text);
    assert_int_equal(count, 3);
    assert_string_equal(rows[0].operator, "attention"); /* sorted */
    assert_string_equal(rows[2].settings, "{\"rows\": 6}");
    assert_int_equal(rows[2].bucket, 8);
    Db *other = open_db("c.db");
    for (size_t i = 0; i < count; i++)
        put(other, rows[i]);
    assert_true(text_put(other, "test-4c", true, &again, &err));
    assert_string_equal(again.data, text.data);
    int lines = 0;
    for (const char *p = text.data; *p; p++)
        lines += *p == '\n';
    assert_int_equal(lines, 3 + 2); /* one a row */
    json_decref(root);
    arena_free(a);
    db_close(db);
    db_close(other);
    buf_free(&text);
    buf_free(&again);
}

static void bad_files_are_refused(void **state)
{
    (void)state;
    static const struct { const char *text, *message; } cases[] = {
        {"", "b"}, {"{", "b"}, {"{}", "not results"}, {"{\"format\": 2, \"device\": \"d\", \"entries\": []}", "not results"},
        {"{\"format\": 1, \"entries\": []}", "no name of a device"},
        {"{\"format\": 1, \"device\": \"../x\", \"entries\": []}", "no name of a device"},
        {"{\"format\": 1, \"device\": \"d\", \"entries\": [3]}", "entries[0]"},
        {"{\"format\": 1, \"device\": \"d\", \"entries\": [{}]}", "are needed"},
        {"{\"format\": 1, \"device\": \"d\", \"entries\": [{\"gain\": \"x\"}]}", "\"gain\""},
        {"{\"format\": 1, \"device\": \"d\", \"entries\": [{\"bucket\": -1}]}", "\"bucket\""},
        {"{\"format\": 1, \"device\": \"d\", \"entries\": [{\"settings\": 3}]}", "\"settings\""},
    };
    Arena *a = arena_new();
    for (size_t i = 0; i < COUNT(cases); i++) {
        Err err = {0};
        json_t *root;
        Record *rows;
        size_t count;
        assert_true(file_write_atomic(path_of("bad.json"), cases[i].text, strlen(cases[i].text), &err));
        assert_false(text_read(path_of("bad.json"), a, &root, &rows, &count, &err));
        if (!strstr(err.text, cases[i].message) || !strstr(err.text, "bad.json"))
            fail_msg("case %zu: %s", i, err.text);
    }
    arena_free(a);
    Err err = {0};
    char junk[4096];
    memset(junk, 'x', sizeof junk);
    assert_true(file_write_atomic(path_of("junk.db"), junk, sizeof junk, &err));
    assert_null(db_open(path_of("junk.db"), &err));
    assert_non_null(strstr(err.text, "junk.db"));
    assert_null(db_open("/proc/no/such/place.db", &err));
}

/* ---- packs of candidates ---------------------------------------------------------------------------------------- */

/* Kernels 0 .. 4 of one case; the second workload has twice the rows. */
static const char pack_text[] =
    "{\"format\":2,\"model\":{\"vocab\":1,\"context\":1},\"page_tokens\":1,\"prefill_tile\":1,\"logits_stride\":1,"
    "\"kernels\":[%s],\"steps\":[{\"max_tokens\":0,\"launches\":[]}],"
    "\"cases\":[{\"operator\":\"matmul\",\"parameters\":\"k=1\",\"bucket\":4,\"schedule\":\"default@1\",\"peak\":\"f32\","
    "\"combinations\":9,\"calls\":1,"
    "\"args\":[{\"name\":\"x\",\"type\":\"s32\",\"access\":\"in\"},{\"name\":\"w\",\"type\":\"u8\",\"access\":\"in\",\"cold\":true},"
    "{\"name\":\"y\",\"type\":\"f32\",\"access\":\"inout\"}],"
    "\"workloads\":[{\"name\":\"1 row\",\"sizes\":{\"tokens\":1},\"bytes\":[64,4096,64],\"data\":{\"x\":[1,-2]},\"read\":4096,"
    "\"operations\":10},{\"name\":\"2 rows\",\"sizes\":{\"tokens\":2},\"bytes\":[64,4096,128],\"read\":4096,\"operations\":20}],"
    "\"candidates\":[{\"kernel\":0,\"settings\":{\"rows\":4,\"cols\":2},\"predicted\":4e-4},"
    "{\"kernel\":1,\"settings\":{\"rows\":6,\"cols\":2},\"predicted\":3e-4},"
    "{\"kernel\":2,\"settings\":{\"rows\":6,\"cols\":4},\"predicted\":5e-4},"
    "{\"kernel\":3,\"settings\":{\"rows\":8,\"cols\":2},\"predicted\":1e-4},"
    "{\"kernel\":4,\"settings\":{\"rows\":9,\"cols\":2},\"predicted\":1e-4,\"rejected\":\"wrong: y\"}]}]}";

static CasePack *make_pack(Err *err)
{
    Buf kernels = {0}, text = {0};
    for (int i = 0; i < 5; i++)
        buf_printf(&kernels, "%s{\"name\":\"k%d\",\"offset\":0,\"size\":1,\"grid\":[{\"n\":1,\"size\":\"tokens\"}]}", i ? "," : "", i);
    buf_printf(&text, pack_text, kernels.data);
    CasePack *p = case_read(text.data, text.len, 64, err);
    buf_free(&kernels);
    buf_free(&text);
    return p;
}

static void packs_of_candidates_are_read(void **state)
{
    (void)state;
    Err err = {0};
    CasePack *p = make_pack(&err);
    if (!p)
        fail_msg("%s", err.text);
    const Case *c = &p->cases[0];
    assert_int_equal(p->count, 1);
    assert_int_equal(c->args_count, 3);
    assert_int_equal(c->workloads_count, 2);
    assert_int_equal(c->candidates_count, 5);
    assert_true(c->args[1].cold && !c->args[0].cold && c->args[2].written && c->args[2].read);
    assert_int_equal(c->args[2].bytes, 128);
    assert_int_equal(c->workloads[1].sizes[SIZE_TOKENS], 2);
    assert_int_equal(json_array_size(c->workloads[0].data[0]), 2);
    assert_int_equal(c->candidates[1].changed, 1);
    assert_int_equal(c->candidates[2].changed, 2);
    assert_string_equal(c->candidates[4].rejected, "wrong: y");
    case_free(p);
}

/* Any prefix, and any byte replaced, is read or refused, never more. */
static void damaged_packs_do_no_harm(void **state)
{
    (void)state;
    Buf text = {0};
    buf_printf(&text, pack_text, "{\"name\":\"k\",\"offset\":0,\"size\":1,\"grid\":[]}");
    for (size_t i = 0; i < text.len; i++) {
        Err err = {0};
        case_free(case_read(text.data, i, 64, &err));
        for (const char *with = "9-]\"x"; *with; with++) {
            char was = text.data[i];
            text.data[i] = *with;
            case_free(case_read(text.data, text.len, 64, &err));
            text.data[i] = was;
        }
    }
    buf_free(&text);
}

/* ---- a device whose kernels take a known time ------------------------------------------------------------------- */

typedef struct Fake {
    Device base;
    double seconds[5], noise; /* noise: up to this share more, evenly */
    uint64_t random;
    bool other_bit[5];
    const CasePack *pack;
    bool recording; /* of a fake GPU */
    int recordings, replays, launches;
    bool lost; /* does nothing any more */
} Fake;

typedef struct FakeLaunch {
    int kernel, count;
    void *const *buffers;
    const int64_t *sizes;
    int64_t blocks;
} FakeLaunch;
static VEC(FakeLaunch) recorded;

static void *fake_alloc(Device *d, size_t bytes, DeviceMemory kind, Err *err)
{
    (void)d;
    (void)kind;
    (void)err;
    return calloc(1, bytes);
}

static void fake_free(Device *d, void *memory, size_t bytes)
{
    (void)d;
    (void)bytes;
    free(memory);
}

static int fake_threads(const Device *d) /* asked for where a busy machine makes the runner take processor time */
{
    (void)d;
    return 1;
}

static void fake_memory(const Device *d, int64_t *available, int64_t *total)
{
    (void)d;
    *available = *total = (int64_t)1 << 30;
}

static void fake_copy_in(Device *d, void *to, const void *host, size_t n)
{
    (void)d;
    memcpy(to, host, n);
}

static void fake_copy_out(Device *d, void *host, const void *from, size_t n)
{
    (void)d;
    memcpy(host, from, n);
}

static void fake_fill(Device *d, void *to, size_t n, const PlanFill *fill, uint64_t seed)
{
    (void)d;
    memset(to, fill->type ? (int)(seed & 15) : 0, n);
}

static double processor_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Takes its time of the processor, so that neighbours change nothing in who is faster. */
static void fake_launch(Device *d, int kernel, void *const *buffers, int count, const int64_t *sizes, int64_t blocks)
{
    assert_int_equal(count, 3);
    Fake *f = (Fake *)d;
    if (f->recording) {
        FakeLaunch l = {kernel, count, buffers, sizes, blocks};
        vec_push(&recorded, l);
        return;
    }
    f->launches++;
    if (f->lost)
        return;
    assert_int_equal(blocks, sizes[SIZE_TOKENS]);
    uint32_t *y = buffers[2];
    y[0] = 0x3f800000 + (uint32_t)((const int32_t *)buffers[0])[0] + f->other_bit[kernel];
    f->random = f->random * 6364136223846793005u + 1442695040888963407u;
    double noise = f->noise * (double)(f->random >> 40) / (1 << 24);
    for (double end = processor_seconds() + f->seconds[kernel] * (1 + noise); processor_seconds() < end;) {
    }
}

static bool fake_sync(Device *d, Err *err)
{
    return !((Fake *)d)->lost || err_set(err, "lost");
}

static const DeviceOps fake_ops = {.name = "fake", .threads = fake_threads, .memory = fake_memory,
                                   .alloc = fake_alloc, .free = fake_free, .copy_in = fake_copy_in,
                                   .copy_out = fake_copy_out, .fill = fake_fill, .launch = fake_launch,
                                   .sync = fake_sync};

static void *fake_mirror(Device *d, void *shared)
{
    (void)d;
    return shared;
}

static void fake_push(Device *d, void *shared, size_t n)
{
    (void)d;
    (void)shared;
    (void)n;
}

static void fake_record(Device *d)
{
    ((Fake *)d)->recording = true;
    recorded.len = 0;
}

/* A recording: its length, then the launches. */
static void *fake_recorded(Device *d)
{
    FakeLaunch *list = calloc(recorded.len + 1, sizeof *list);
    list[0].count = (int)recorded.len;
    memcpy(list + 1, recorded.at, recorded.len * sizeof *list);
    ((Fake *)d)->recording = false;
    ((Fake *)d)->recordings++;
    return list;
}

static void fake_replay(Device *d, void *recording)
{
    const FakeLaunch *list = recording;
    ((Fake *)d)->replays++;
    for (int i = 1; i <= list[0].count; i++)
        fake_launch(d, list[i].kernel, list[i].buffers, list[i].count, list[i].sizes, list[i].blocks);
}

static void fake_forget(Device *d, void *recording)
{
    ((Fake *)d)->recordings--;
    free(recording);
}

static const DeviceOps fake_gpu = {.name = "cuda", .memory = fake_memory, .alloc = fake_alloc, .free = fake_free,
                                   .copy_in = fake_copy_in, .copy_out = fake_copy_out, .fill = fake_fill,
                                   .launch = fake_launch, .sync = fake_sync, .mirror = fake_mirror, .push = fake_push,
                                   .record = fake_record, .recorded = fake_recorded, .replay = fake_replay,
                                   .forget = fake_forget};

/* Measures the case of make_pack, then looks again until it is settled; `between` may change the device before a look. */
static CaseResult measure_fake(Fake *f, int incumbent, void (*between)(Fake *f, int looks))
{
    Err err = {0};
    CasePack *p = make_pack(&err);
    CaseResult r;
    MeasureOptions o = {.seconds = 60};
    f->base.ops = *f->base.target ? &fake_gpu : &fake_ops;
    assert_non_null(p);
    p->cases[0].incumbent = incumbent;
    if (!measure_case(&f->base, p, &p->cases[0], &o, &r, &err))
        fail_msg("%s", err.text);
    while (!r.settled) {
        assert_true(r.looks < MEASURE_LOOKS);
        if (between)
            between(f, r.looks);
        if (!measure_look(&f->base, p, &p->cases[0], &o, &r, &err))
            fail_msg("%s", err.text);
    }
    case_free(p);
    return r;
}

static void the_fastest_that_is_right_wins(void **state)
{
    (void)state;
    Fake f = {.seconds = {500e-6, 350e-6, 800e-6, 100e-6, 100e-6}, .other_bit = {[3] = true}};
    CaseResult r = measure_fake(&f, 0, NULL);
    assert_int_equal(r.winner, 1);
    assert_int_equal(r.looks, 2);
    assert_true(r.gain > 1.2 && r.gain < 1.7);
    assert_int_equal(r.candidates[0].verdict, VERDICT_DEFAULT);
    assert_int_equal(r.candidates[1].verdict, VERDICT_WINNER);
    assert_int_equal(r.candidates[2].verdict, VERDICT_SLOWER);
    assert_int_equal(r.candidates[3].verdict, VERDICT_REJECTED);
    assert_non_null(strstr(r.candidates[3].why, "not bit-equal to the default with 1 row: 1 bytes of y differ"));
    assert_int_equal(r.candidates[4].verdict, VERDICT_REJECTED);
    assert_string_equal(r.candidates[4].why, "wrong: y");
    assert_int_equal(r.rejected, 2);
    assert_int_equal(r.measured, 3);
    near(r.correlation, 1); /* 4 3 5 predicted, 5 3.5 8 measured */
}

/* Launches that are shorter than what the driver does for them are recorded; longer ones are not. */
static void on_a_gpu_short_launches_are_recorded(void **state)
{
    (void)state;
    Fake f = {.base.target = "sm_80", .seconds = {10e-6, 6e-6, 15e-6, 1e-6, 1e-6}, .other_bit = {[3] = true}};
    CaseResult r = measure_fake(&f, 0, NULL);
    assert_int_equal(r.winner, 1);
    assert_true(r.gain > 1.2);
    assert_true(f.replays > 100);
    assert_true(f.launches > 50 * f.replays);
    assert_int_equal(f.recordings, 0); /* all were forgotten */
    Fake slow = {.base.target = "sm_80", .seconds = {300e-6, 200e-6, 400e-6, 100e-6, 100e-6}};
    r = measure_fake(&slow, 0, NULL);
    assert_int_equal(r.winner, 3);
    assert_int_equal(slow.replays, 0);
    vec_free(&recorded);
}

/* A device that is lost answers at once, and nothing that it says counts. */
static void a_lost_gpu_is_an_error(void **state)
{
    (void)state;
    Err err = {0};
    CasePack *p = make_pack(&err);
    CaseResult r;
    MeasureOptions o = {.seconds = 60};
    Fake f = {.base = {.ops = &fake_gpu, .target = "sm_80"}, .lost = true};
    assert_false(measure_case(&f.base, p, &p->cases[0], &o, &r, &err));
    assert_non_null(strstr(err.text, "lost"));
    assert_non_null(strstr(err.text, p->cases[0].operator));
    case_free(p);
}

static void a_hair_is_not_enough(void **state)
{
    (void)state;
    Fake f = {.seconds = {400e-6, 398e-6, 600e-6, 399e-6, 0}, .noise = 0.05};
    CaseResult r = measure_fake(&f, 0, NULL);
    assert_int_equal(r.winner, 0);
    near(r.gain, 1);
    near(r.seconds, r.default_seconds);
}

/* Candidate 2 changes two settings, candidates 1 and 3 one: among equals the first that changes least. */
static void equals_do_not_flip(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        Fake f = {.seconds = {500e-6, 402e-6, 398e-6, 400e-6, 0}, .noise = 0.04, .random = seed};
        assert_int_equal(measure_fake(&f, 0, NULL).winner, 1);
    }
}

static void the_incumbent_stays_among_equals(void **state)
{
    (void)state;
    Fake better = {.seconds = {500e-6, 398e-6, 402e-6, 400e-6, 0}, .noise = 0.04};
    CaseResult r = measure_fake(&better, 2, NULL);
    assert_int_equal(r.winner, 2);
    assert_int_equal(r.incumbent, 2);
    assert_int_equal(r.looks, 0);
    assert_true(r.gain > 1.1 && r.gain < 1.4);
    Fake same = {.seconds = {400e-6, 450e-6, 400e-6, 400e-6, 0}, .noise = 0.04};
    assert_int_equal(measure_fake(&same, 2, NULL).winner, 2);
}

static void the_incumbent_gives_way(void **state)
{
    (void)state;
    Fake beaten = {.seconds = {600e-6, 420e-6, 500e-6, 600e-6, 0}, .noise = 0.04};
    CaseResult r = measure_fake(&beaten, 2, NULL);
    assert_int_equal(r.winner, 1);
    assert_true(r.gain > 1.2);
    Fake slow = {.seconds = {400e-6, 450e-6, 460e-6, 400e-6, 0}, .noise = 0.04};
    r = measure_fake(&slow, 2, NULL);
    assert_int_equal(r.winner, 0);
    assert_int_equal(r.incumbent, 2);
    near(r.gain, 1);
    Fake wrong = {.seconds = {400e-6, 450e-6, 100e-6, 450e-6, 0}, .other_bit = {[2] = true}};
    r = measure_fake(&wrong, 2, NULL);
    assert_int_equal(r.winner, 0);
    assert_int_equal(r.incumbent, 0); /* the default is the one to beat */
}

static void slow_down_for_ever(Fake *f, int looks)
{
    (void)looks;
    f->seconds[1] = f->seconds[0];
}

static void slow_down_once(Fake *f, int looks)
{
    f->seconds[1] = looks ? 300e-6 : 420e-6;
}

/* Who was fast at first and is not when looked at again does not win; one bad look does not decide. */
static void looks_decide(void **state)
{
    (void)state;
    Fake spurious = {.seconds = {400e-6, 300e-6, 500e-6, 500e-6, 0}};
    CaseResult r = measure_fake(&spurious, 0, slow_down_for_ever);
    assert_int_equal(r.challenger, 1);
    assert_int_equal(r.looks, 2);
    assert_int_equal(r.winner, 0);
    Fake disturbed = {.seconds = {400e-6, 300e-6, 500e-6, 500e-6, 0}};
    r = measure_fake(&disturbed, 0, slow_down_once);
    assert_int_equal(r.looks, 3);
    assert_int_equal(r.winner, 1);
    assert_true(r.gain > 1.2 && r.gain < 1.5);
}

static void a_stop_leaves_no_result(void **state)
{
    (void)state;
    static const volatile sig_atomic_t stop = 1;
    Fake f = {.base = {&fake_ops}, .seconds = {1e-5, 1e-5, 1e-5, 1e-5, 1e-5}};
    Err err = {0};
    CasePack *p = make_pack(&err);
    CaseResult r;
    MeasureOptions o = {.seconds = 60, .stop = &stop};
    assert_false(measure_case(&f.base, p, &p->cases[0], &o, &r, &err));
    assert_string_equal(err.text, "");
    case_free(p);
}

/* ---- cases between measurement and looks ------------------------------------------------------------------------ */

typedef struct Log {
    int looks, finished[4], count;
    bool fail;
} Log;

/* Case n is settled by its n-th look. */
static bool log_look(void *context, Job *j, double seconds, Err *err)
{
    Log *log = context;
    assert_true(seconds > 0);
    log->looks++;
    j->result.settled = ++j->result.looks == j->number;
    return !log->fail || err_set(err, "out of memory");
}

static bool log_finish(void *context, Job *j, Err *err)
{
    Log *log = context;
    (void)err;
    log->finished[log->count++] = j->number;
    return true;
}

static void cases_wait_for_their_looks(void **state)
{
    (void)state;
    Err err = {0};
    Log log = {0};
    Jobs q = {.look = log_look, .finish = log_finish, .context = &log};
    assert_true(jobs_add(&q, &(Job){.number = 2}, &err));
    assert_true(jobs_add(&q, &(Job){.number = 3, .result.settled = true}, &err)); /* needs none */
    assert_true(jobs_add(&q, &(Job){.number = 1}, &err));
    assert_int_equal(log.count, 1);
    assert_true(jobs_seconds(&q) > 0);
    assert_true(jobs_run(&q, false, &err)); /* too early */
    assert_int_equal(log.looks, 0);
    assert_true(jobs_run(&q, true, &err));
    assert_int_equal(log.looks, 3);
    assert_int_equal(log.count, 3);
    assert_int_equal(log.finished[0], 3);
    assert_int_equal(log.finished[1], 1);
    assert_int_equal(log.finished[2], 2);
    log.fail = true;
    assert_true(jobs_add(&q, &(Job){.number = 2}, &err));
    assert_false(jobs_run(&q, true, &err));
    assert_string_equal(err.text, "out of memory");
    assert_int_equal(log.count, 3);
    jobs_free(&q);
}

int main(void)
{
    strcpy(dir, "/tmp/blade_tune_XXXXXX");
    if (!mkdtemp(dir))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantiles),
        cmocka_unit_test(lower_bounds),
        cmocka_unit_test(rank_correlation),
        cmocka_unit_test(rows_are_kept_by_identity),
        cmocka_unit_test(known_winners_are_those_in_use),
        cmocka_unit_test(two_processes_share_a_database),
        cmocka_unit_test(text_survives_the_way_out_and_in),
        cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(packs_of_candidates_are_read),
        cmocka_unit_test(damaged_packs_do_no_harm),
        cmocka_unit_test(the_fastest_that_is_right_wins),
        cmocka_unit_test(a_hair_is_not_enough),
        cmocka_unit_test(equals_do_not_flip),
        cmocka_unit_test(the_incumbent_stays_among_equals),
        cmocka_unit_test(the_incumbent_gives_way),
        cmocka_unit_test(on_a_gpu_short_launches_are_recorded),
        cmocka_unit_test(a_lost_gpu_is_an_error),
        cmocka_unit_test(looks_decide),
        cmocka_unit_test(cases_wait_for_their_looks),
        cmocka_unit_test(a_stop_leaves_no_result),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) || failed;
}
