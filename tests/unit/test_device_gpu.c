/* Tests of runtime/device_gpu.c with its two drivers, exec.c and model.c on the toy model and the stand-in drivers
 * (tests/standin), which do nothing before somebody waits: steps, graphs, copies, memory, every failure. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "device.h"
#include "model.h"
#include "toy.h"

static char dir[64];
static const char *vendor; /* "cuda" or "hip": every test of models runs with both */

static void stand_in(const char *target, const char *fail, const char *memory)
{
    setenv("BLADE_STANDIN_TARGET", target, 1);
    setenv("BLADE_STANDIN_FAIL", fail, 1);
    setenv("BLADE_STANDIN_MEMORY", memory, 1);
}

static void plain_stand_in(void)
{
    stand_in(strcmp(vendor, "hip") ? "sm_80" : "gfx942", "", "1024");
}

static int set_up(void **state)
{
    vendor = *state;
    Err err = {0};
    strcpy(dir, "/tmp/blade_gpu_XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_true(toy_checkpoint(dir, &err));
    plain_stand_in();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static ModelOptions options(void)
{
    return (ModelOptions){.model = dir, .cache = dir, .generator = FAKE_PATH, .threads = 2, .max_num_seqs = 4,
                          .max_num_batched_tokens = 8, .max_outputs = 8, .device = vendor};
}

static Model *load(const ModelOptions *o)
{
    Err err = {0};
    Model *m = model_load(o, &err);
    if (!m)
        fail_msg("%s", err.text);
    return m;
}

static void expect_text(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("'%s' lacks '%s'", text, part);
}

/* ---- names ----------------------------------------------------------------------------------------------------- */

static void packs_that_a_device_runs(void **state)
{
    (void)state;
    static const struct {
        const char *device, *pack;
        int rank;
    } rows[] = {
        {"sm_80", "sm_80", 0}, {"sm_86", "sm_80", 1}, {"sm_80", "sm_86", -1}, {"sm_90a", "sm_90a", 0},
        {"sm_90a", "sm_80", 3}, {"sm_90a", "sm_100a", -1}, {"sm_100a", "sm_90a", -1}, {"sm_100a", "sm_89", 2},
        {"sm_89", "sm_90a", -1}, {"gfx942", "gfx942", 0}, {"gfx942", "gfx90a", -1}, {"sm_80", "gfx90a", -1},
        {"simt:sm_86", "simt:sm_80", 1}, {"simt:sm_80", "sm_80", -1}, {"sm_80", "simt:sm_80", -1},
        {"simt:gfx1100", "simt:gfx1100", 0}, {"sm_80", "x86-64", -1}, {"", "sm_80", -1}, {"", "simt:sm_80", -1},
        {"gfx1100", "", -1},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        if (device_rank(rows[i].device, rows[i].pack) != rows[i].rank)
            fail_msg("%s on %s: %d", rows[i].pack, rows[i].device, device_rank(rows[i].device, rows[i].pack));
    assert_true(device_rank("", "x86-64") >= 0 || device_rank("", "aarch64") >= 0);
}

static void targets_of_devices(void **state)
{
    (void)state;
    static const struct {
        int major, minor;
        const char *target;
    } nvidia[] = {{8, 0, "sm_80"}, {8, 6, "sm_86"}, {8, 7, "sm_86"}, {8, 9, "sm_89"}, {9, 0, "sm_90a"},
                  {10, 0, "sm_100a"}, {10, 3, "sm_89"}, {12, 0, "sm_89"}};
    char target[DEVICE_TARGET_BYTES];
    Err err = {0};
    for (size_t i = 0; i < COUNT(nvidia); i++) {
        assert_true(device_target_nvidia("NVIDIA X", nvidia[i].major, nvidia[i].minor, target, &err));
        assert_string_equal(target, nvidia[i].target);
    }
    assert_false(device_target_nvidia("Tesla T4", 7, 5, target, &err));
    expect_text(err.text, "Tesla T4 has compute capability 7.5");
    assert_true(device_target_amd("AMD Instinct MI300X", "gfx942:sramecc+:xnack-", target, &err));
    assert_string_equal(target, "gfx942");
    assert_false(device_target_amd("AMD Instinct MI60", "gfx906:sramecc+:xnack-", target, &err));
    expect_text(err.text, "MI60 is gfx906;");
    assert_false(device_target_amd("new", "gfx9", target, &err));
    assert_true(device_target_amd("SIMT gfx90a", "", target, &err));
    assert_string_equal(target, "simt:gfx90a");
}

/* The label of the device that a name opens; "host". */
static const char *opened(const char *name)
{
    static char label[DEVICE_LABEL_BYTES + DEVICE_TARGET_BYTES];
    Device *d;
    Err err = {0};
    if (!device_gpu_open(name, &d, &err))
        fail_msg("%s", err.text);
    snprintf(label, sizeof label, "%s %s", d ? d->label : "host", d ? d->target : "");
    if (d)
        d->ops->close(d);
    return label;
}

static void devices_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *target, *name, *opened, *message;
    } rows[] = {
        {"sm_80", "auto", "cuda:0 (SIMT sm_80) simt:sm_80"},
        {"sm_90a", NULL, "cuda:0 (SIMT sm_90a) simt:sm_90a"},
        {"gfx942", NULL, "hip:0 (SIMT gfx942) simt:gfx942"},
        {"none", NULL, "host "},
        {"sm_80", "host", "host "},
        {"sm_86", "cuda", "cuda:0 (SIMT sm_86) simt:sm_86"},
        {"gfx1100", "hip:0", "hip:0 (SIMT gfx1100) simt:gfx1100"},
        {"sm_80", "cuda:1", NULL, "--device cuda:1: cuda: there is no device 1: the last is 0"},
        {"sm_80", "hip", NULL, "--device hip: hip: there is no device (hipErrorNoDevice)"},
        {"gfx942", "cuda", NULL, "--device cuda: cuda: there is no device (CUDA_ERROR_NO_DEVICE)"},
        {"sm_80", "cuda:", NULL, "--device: \"cuda:\" is not one of auto, host, cuda, cuda:N, hip, hip:N"},
        {"sm_80", "cuda:x", NULL, "is not one of auto, host, cuda, cuda:N"},
        {"sm_80", "cuda:99999999999", NULL, "is not one of auto, host, cuda, cuda:N"},
        {"sm_80", "cudax", NULL, "is not one of auto, host, cuda, cuda:N"},
        {"sm_80", "", NULL, "is not one of auto, host, cuda, cuda:N"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        stand_in(rows[i].target, "", "64");
        Err err = {0};
        Device *d;
        if (rows[i].opened) {
            assert_string_equal(opened(rows[i].name), rows[i].opened);
            continue;
        }
        assert_false(device_gpu_open(rows[i].name, &d, &err));
        assert_null(d);
        expect_text(err.text, rows[i].message);
    }
}

/* ---- memory and copies ----------------------------------------------------------------------------------------- */

static Device *open_device(void)
{
    Device *d;
    Err err = {0};
    if (!device_gpu_open(vendor, &d, &err))
        fail_msg("%s", err.text);
    return d;
}

static int64_t used(Device *d)
{
    int64_t available, total;
    d->ops->memory(d, &available, &total);
    return total - available;
}

static void memory_is_zeroed_and_given_back(void **state)
{
    (void)state;
    enum { N = 100000 };
    Device *d = open_device();
    Err err = {0};
    int64_t before = used(d);
    uint8_t *got = xmalloc(N);
    void *local = d->ops->alloc(d, N, DEVICE_LOCAL, &err), *shared = d->ops->alloc(d, N, DEVICE_SHARED, &err);
    assert_int_equal((uintptr_t)local % 64, 0);
    for (int i = 0; i < 2; i++) {
        memset(got, 1, N);
        d->ops->copy_out(d, got, i ? shared : local, N);
        for (int k = 0; k < N; k++)
            assert_int_equal(got[k], 0);
    }
    assert_int_equal(((uint8_t *)d->ops->mirror(d, (char *)shared + N - 1))[0], 0);
    assert_null(d->ops->borrow(d, got, 1));
    assert_true(used(d) > before);
    d->ops->free(d, local, N);
    d->ops->free(d, shared, N);
    assert_true(d->ops->sync(d, &err));
    assert_int_equal(used(d), before);
    free(got);
    d->ops->close(d);
}

/* More than the stages hold; the host's memory changes as soon as copy_in returns. */
static void copies_of_any_size(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 4096, 8 << 20, (20 << 20) + 3};
    Device *d = open_device();
    Err err = {0};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        size_t n = sizes[i];
        uint8_t *bytes = xmalloc(n), *got = xcalloc(1, n);
        for (size_t k = 0; k < n; k++)
            bytes[k] = (uint8_t)(k * 7 + k / 4096);
        void *p = d->ops->alloc(d, n, DEVICE_LOCAL, &err);
        d->ops->copy_in(d, p, bytes, n);
        memset(bytes, 0, n);
        d->ops->copy_out(d, got, p, n);
        for (size_t k = 0; k < n; k++)
            if (got[k] != (uint8_t)(k * 7 + k / 4096))
                fail_msg("byte %zu of %zu", k, n);
        d->ops->free(d, p, n);
        free(bytes);
        free(got);
    }
    assert_true(d->ops->sync(d, &err));
    d->ops->close(d);
}

static void fills_are_those_of_the_host(void **state)
{
    (void)state;
    enum { N = 3 * DEVICE_FILL_TILE + 1000 };
    static const PlanFill fills[] = {{DT_BF16, 0.5, 1}, {DT_S8, 1, 0}, {DT_NONE, 0, 0}};
    Device *gpu = open_device();
    Err err = {0};
    Device *host = device_host_open(1, false, &err);
    uint8_t *a = xmalloc(N), *b = xmalloc(N);
    void *on_gpu = gpu->ops->alloc(gpu, N, DEVICE_LOCAL, &err);
    void *on_host = host->ops->alloc(host, N, DEVICE_LOCAL, &err);
    for (size_t i = 0; i < COUNT(fills); i++) {
        size_t n = i == 1 ? 1000 : N;
        gpu->ops->fill(gpu, on_gpu, n, &fills[i], 7 + i);
        host->ops->fill(host, on_host, n, &fills[i], 7 + i);
        gpu->ops->copy_out(gpu, a, on_gpu, N);
        host->ops->copy_out(host, b, on_host, N);
        assert_memory_equal(a, b, N);
    }
    free(a);
    free(b);
    gpu->ops->free(gpu, on_gpu, N);
    host->ops->free(host, on_host, N);
    gpu->ops->close(gpu);
    host->ops->close(host);
}

static void rows_are_zeroed_and_nothing_else(void **state)
{
    (void)state;
    enum { N = 4096 };
    static const struct {
        size_t at, width, pitch, rows;
    } cases[] = {{0, 16, 16, 1}, {100, 7, 300, 5}, {64, 64, 64, 10}, {4095, 1, 1, 1}, {0, 4096, 4096, 1}, {5, 3, 9, 0}};
    Device *d = open_device();
    Err err = {0};
    uint8_t bytes[N], got[N];
    memset(bytes, 0xA5, N);
    void *p = d->ops->alloc(d, N, DEVICE_LOCAL, &err);
    for (size_t i = 0; i < COUNT(cases); i++) {
        d->ops->copy_in(d, p, bytes, N);
        d->ops->zero_rows(d, (char *)p + cases[i].at, cases[i].width, cases[i].pitch, cases[i].rows);
        d->ops->copy_out(d, got, p, N);
        for (size_t k = 0; k < N; k++) {
            size_t from = k - cases[i].at, row = from / cases[i].pitch;
            bool zero = k >= cases[i].at && row < cases[i].rows && from % cases[i].pitch < cases[i].width;
            assert_int_equal(got[k], zero ? 0 : 0xA5);
        }
    }
    d->ops->free(d, p, N);
    d->ops->close(d);
}

/* ---- steps ------------------------------------------------------------------------------------------------------ */

/* One step of n tokens in slots 0 .. n-1, logits for all of them. */
static ModelStep prepare(Model *m, int set, const int32_t *tokens, int n)
{
    for (int i = 0; i < n; i++) {
        ((int32_t *)model_input(m, set, IO_TOKENS))[i] = tokens[i];
        ((int32_t *)model_input(m, set, IO_KV_SLOT))[i] = i;
        ((int32_t *)model_input(m, set, IO_OUTPUT_ROWS))[i] = i;
        ((int32_t *)model_input(m, set, IO_ADJUST_START))[i] = 0;
    }
    ((int32_t *)model_input(m, set, IO_ADJUST_START))[n] = 0;
    return (ModelStep){.tokens = n, .seqs = 1, .outputs = n, .decode_tiles = n};
}

static void run_step(Model *m, const int32_t *tokens, int n)
{
    Err err = {0};
    ModelStep s = prepare(m, 0, tokens, n);
    if (!model_run(m, &s, &err))
        fail_msg("%s", err.text);
}

static void expect_next(const Model *m, const int32_t *tokens, int n)
{
    const float *logits = model_io((Model *)m, IO_LOGITS);
    const int32_t *sampled = model_io((Model *)m, IO_SAMPLED);
    for (int i = 0; i < n; i++) {
        int next = (tokens[i] + 1) % 16;
        assert_int_equal(sampled[i], next);
        for (int v = 0; v < 16; v++)
            assert_true(logits[16 * i + v] == (v == next ? 2.0f * (float)(v + 1) : -1.0f));
    }
}

/* Every bucket, and every number of tokens in it: recordings are made for the most and used for less. */
static void steps_of_all_sizes(bool no_graphs)
{
    static const int32_t tokens[8] = {3, 15, 0, 7, 7, 1, 2, 14};
    ModelOptions o = options();
    o.no_graphs = no_graphs;
    Model *m = load(&o);
    assert_true(model_on_gpu(m));
    expect_text(model_device_label(m), "SIMT");
    expect_text(model_target(m), "simt:");
    for (int round = 0; round < 2; round++)
        for (int forced = -1; forced < 2; forced++)
            for (int n = forced == 0 ? 2 : 8; n >= 1; n--) {
                model_force_step(m, forced);
                run_step(m, tokens + round, n - round * (n == 8));
                expect_next(m, tokens + round, n - round * (n == 8));
            }
    assert_null(model_warning(m));
    model_free(m);
}

static void steps_with_graphs(void **state)
{
    (void)state;
    steps_of_all_sizes(false);
}

static void steps_without_graphs(void **state)
{
    (void)state;
    steps_of_all_sizes(true);
}

static void warps_in_reverse(void **state)
{
    (void)state;
    setenv("BLADE_STANDIN_ORDER", "reverse", 1);
    steps_of_all_sizes(false);
    unsetenv("BLADE_STANDIN_ORDER");
}

/* One set of inputs is written while the step of the other has been begun, and the page zeroed behind it. */
static void sets_of_inputs(void **state)
{
    (void)state;
    ModelOptions o = options();
    Model *m = load(&o);
    Err err = {0};
    for (int i = 0; i < 300; i++) {
        int n = 1 + i % 3;
        int32_t tokens[3];
        model_zero_page(m, 0);
        for (int k = 0; k < n; k++)
            tokens[k] = (i + 5 * k) % 15;
        ModelStep s = prepare(m, i % 2, tokens, n);
        assert_true(model_wait(m, &err));
        for (int k = 0; i && k < 1 + (i - 1) % 3; k++)
            assert_int_equal(((int32_t *)model_io(m, IO_SAMPLED))[k], (i - 1 + 5 * k) % 15 + 1);
        if (!model_start(m, i % 2, &s, &err))
            fail_msg("%s", err.text);
    }
    model_free(m); /* while a step runs */
}

static void adjustments_change_the_sample(void **state)
{
    (void)state;
    ModelOptions o = options();
    Model *m = load(&o);
    Err err = {0};
    ModelStep s = prepare(m, 0, (int32_t[]){9}, 1);
    s.adjustments = 1;
    ((int32_t *)model_io(m, IO_ADJUST_START))[1] = 1;
    ((int32_t *)model_io(m, IO_ADJUST_TOKEN))[0] = 5;
    ((float *)model_io(m, IO_ADJUST_VALUE))[0] = 1;
    ((float *)model_io(m, IO_ADJUST_VALUE))[1] = 1000;
    assert_true(model_run(m, &s, &err));
    assert_int_equal(((int32_t *)model_io(m, IO_SAMPLED))[0], 5);
    s.adjustments = ((int32_t *)model_io(m, IO_ADJUST_START))[1] = 0;
    assert_true(model_run_sample(m, &s, &err)); /* on the logits that are there */
    assert_int_equal(((int32_t *)model_io(m, IO_SAMPLED))[0], 10);
    model_free(m);
}

static void unread_logits_stay_on_the_device(void **state)
{
    (void)state;
    ModelOptions o = options();
    Model *m = load(&o);
    Err err = {0};
    ModelStep s = prepare(m, 0, (int32_t[]){4}, 1);
    float *logits = model_io(m, IO_LOGITS);
    logits[5] = 77;
    s.logits_unread = true;
    assert_true(model_run(m, &s, &err));
    assert_int_equal(((int32_t *)model_io(m, IO_SAMPLED))[0], 5);
    s.logits_unread = false;
    float unread = logits[5];
    assert_true(model_run(m, &s, &err));
    assert_true(logits[5] == 12);
    assert_true(unread == 77 || unread == 12); /* close to what is read it may come along */
    model_free(m);
}

static void profile_and_limits(void **state)
{
    (void)state;
    ModelOptions o = options();
    Model *m = load(&o);
    double seconds[16] = {0};
    model_set_profile(m, seconds);
    run_step(m, (int32_t[]){1}, 1);
    assert_true(seconds[1] > 0 && seconds[2] > 0);
    model_set_profile(m, NULL);
    BenchLimits l;
    Err err = {0};
    if (!bench_limits_begin(&l, m, 1 << 16, &err))
        fail_msg("%s", err.text);
    bench_limits_measure(&l, m);
    assert_true(l.read_rate > 0 && l.peak_rate > 0);
    bench_limits_end(&l, m);
    assert_true(model_wait(m, &err));
    model_free(m);
}

static void random_weights(void **state)
{
    (void)state;
    char config[96];
    snprintf(config, sizeof config, "%s/config.json", dir);
    float rows[2][16];
    for (int i = 0; i < 2; i++) {
        ModelOptions o = options();
        o.model = config;
        o.random_weights = true;
        o.device = i ? vendor : "host";
        Model *m = load(&o);
        run_step(m, (int32_t[]){3}, 1);
        memcpy(rows[i], model_io(m, IO_LOGITS), sizeof rows[i]);
        model_free(m);
    }
    assert_memory_equal(rows[0], rows[1], sizeof rows[0]);
}

static void everything_is_given_back(void **state)
{
    (void)state;
    Device *d = open_device();
    int64_t before = used(d);
    d->ops->close(d);
    for (int i = 0; i < 3; i++) {
        ModelOptions o = options();
        Model *m = load(&o);
        run_step(m, (int32_t[]){3}, 1);
        model_free(m);
    }
    d = open_device();
    assert_int_equal(used(d), before);
    d->ops->close(d);
}

/* ---- what does not fit ------------------------------------------------------------------------------------------ */

static void packs_for_other_devices(void **state)
{
    (void)state;
    static const char *const targets[] = {"x86-64", "simt:sm_90a", "sm_80"};
    ModelOptions o = options();
    Model *m = load(&o);
    PackHeader h = {.weights = "auto", .fingerprint = model_fingerprint(m)};
    model_free(m);
    char path[96], part[96];
    snprintf(path, sizeof path, "%s/my.pack", dir);
    for (size_t i = 0; i < COUNT(targets); i++) {
        Err err = {0};
        snprintf(h.target, sizeof h.target, "%s", targets[i]);
        assert_true(toy_pack(path, &h, &err));
        o.pack = path;
        o.generator = "/nowhere.so";
        assert_null(model_load(&o, &err));
        snprintf(part, sizeof part, "built for %s; this device runs simt:", targets[i]);
        expect_text(err.text, part);
    }
}

/* Where nobody says --device, a pack for the host runs on the host, and one for both on the GPU. */
static void named_packs_choose_the_device(void **state)
{
    (void)state;
    static const char *const targets[] = {"x86-64", "aarch64"};
    ModelOptions o = options();
    Model *m = load(&o);
    PackHeader h = {.weights = "auto", .fingerprint = model_fingerprint(m)};
    char path[96], here[DEVICE_TARGET_BYTES];
    snprintf(here, sizeof here, "%s", model_target(m));
    model_free(m);
    snprintf(path, sizeof path, "%s/my.pack", dir);
    o.pack = path;
    o.generator = "/nowhere.so";
    Err err = {0};
    const char *host = targets[device_rank("", targets[0]) < 0];
    for (int on_gpu = 0; on_gpu < 2; on_gpu++) {
        snprintf(h.target, sizeof h.target, "%s", on_gpu ? here : host);
        assert_true(toy_pack(path, &h, &err));
        for (int automatic = 0; automatic < 2; automatic++) {
            o.device = automatic ? "auto" : NULL;
            m = load(&o);
            assert_int_equal(model_on_gpu(m), on_gpu);
            run_step(m, (int32_t[]){3}, 1);
            expect_next(m, (int32_t[]){3}, 1);
            model_free(m);
        }
    }
}

/* Kernels for the host under the name of a GPU's target, and the other way round. */
static void kernels_for_another_kind_of_device(void **state)
{
    (void)state;
    Err err = {0};
    Plan *p;
    Buf text = {0};
    toy_plan(&text);
    assert_non_null(p = plan_parse(text.data, text.len, 1 << 20, &err));
    Device *d = open_device();
    static const uint8_t code[1 << 16];
    assert_false(d->ops->load_code(d, p, code, &err));
    expect_text(err.text, "of the pack is for a CPU");
    d->ops->close(d);
    d = open_device();
    for (int i = 0; i < p->kernels_count; i++)
        p->kernels[i].threads = 32;
    err = (Err){0};
    assert_false(d->ops->load_code(d, p, code, &err));
    /* with the compiler's log where there is one */
    expect_text(err.text, strcmp(vendor, "cuda") ? "hipErrorInvalidImage" : "no object for this CPU");
    d->ops->close(d);
    d = device_host_open(1, false, &err);
    err = (Err){0};
    assert_false(d->ops->load_code(d, p, code, &err));
    expect_text(err.text, "for a GPU");
    d->ops->close(d);
    plan_free(p);
    buf_free(&text);
}

/* ---- failures --------------------------------------------------------------------------------------------------- */

static void expect_error(const char *text, const char *const *parts)
{
    for (; *parts; parts++)
        expect_text(text, *parts);
}

/* Loads and runs steps until something fails; the message. "" when nothing did. Everything is freed without a hang. */
static Err until_failure(int steps)
{
    Err err = {0}, again = {0};
    ModelOptions o = options();
    Model *m = model_load(&o, &err);
    if (!m)
        return err;
    ModelStep s = prepare(m, 0, (int32_t[]){3, 4}, 2);
    bool ok = true;
    for (int i = 0; ok && i < steps; i++)
        ok = model_run(m, &s, &err);
    if (!ok) {
        model_zero_page(m, 0);
        assert_false(model_run(m, &s, &again)); /* it stays so */
        assert_string_equal(again.text, err.text);
    }
    model_free(m);
    return err;
}

static void every_failure_is_told(void **state)
{
    (void)state;
    const char *prefix = strcmp(vendor, "hip") ? "CUDA_ERROR_" : "hipError";
    static const struct {
        const char *what, *parts[4];
    } rows[] = {
        {"alloc", {"allocating", "MiB", "--kv-cache-memory"}},
        {"launch", {"(SIMT", "launching ", "start it again"}},
        {"sync", {"(SIMT", "waiting for its kernels", "start it again"}},
        {"graph", {"(SIMT", "launching a graph", "start it again"}},
        {"lost", {"(SIMT", "launching ", "start it again"}},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        int failed = 0, n = 1;
        for (;; n++) {
            char fail[32];
            snprintf(fail, sizeof fail, "%s:%d", rows[i].what, n);
            stand_in(strcmp(vendor, "hip") ? "sm_80" : "gfx942", fail, "1024");
            Err err = until_failure(5);
            if (!err.text[0])
                break; /* more than there are */
            failed++;
            expect_error(err.text, rows[i].parts);
            expect_text(err.text, prefix);
        }
        assert_int_equal(failed, n - 1);
        assert_true(failed >= (i ? 5 : 3));
    }
}

static void too_little_memory_is_seen_before(void **state)
{
    (void)state;
    stand_in(strcmp(vendor, "hip") ? "sm_80" : "gfx942", "", "2");
    Err err = {0};
    ModelOptions o = options();
    o.max_num_seqs = 4096;
    o.max_num_batched_tokens = 4096;
    assert_null(model_load(&o, &err));
    expect_text(err.text, "not enough memory on ");
    expect_text(err.text, "SIMT");
    expect_text(err.text, "--kv-cache-memory");
}

#define TEST(f)                                                                             \
    {#f ": cuda", f, set_up, tear_down, (void *)"cuda"}, {#f ": hip", f, set_up, tear_down, (void *)"hip"}

int main(int argc, char **argv)
{
    (void)argc;
    const char *path = getenv("LD_LIBRARY_PATH");
    if (!path || !strstr(path, STANDIN_DIR)) { /* the loader reads it once, at the start */
        setenv("LD_LIBRARY_PATH", STANDIN_DIR, 1);
        execv("/proc/self/exe", argv);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packs_that_a_device_runs),
        cmocka_unit_test(targets_of_devices),
        cmocka_unit_test(devices_by_name),
        TEST(memory_is_zeroed_and_given_back),
        TEST(copies_of_any_size),
        TEST(fills_are_those_of_the_host),
        TEST(rows_are_zeroed_and_nothing_else),
        TEST(steps_with_graphs),
        TEST(steps_without_graphs),
        TEST(warps_in_reverse),
        TEST(sets_of_inputs),
        TEST(adjustments_change_the_sample),
        TEST(unread_logits_stay_on_the_device),
        TEST(profile_and_limits),
        TEST(random_weights),
        TEST(everything_is_given_back),
        TEST(packs_for_other_devices),
        TEST(named_packs_choose_the_device),
        TEST(kernels_for_another_kind_of_device),
        TEST(every_failure_is_told),
        TEST(too_little_memory_is_seen_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
