/* Tests of runtime/model.c with weights.c, exec.c and device_host.c on the toy model: loading, steps, sampling with
 * adjustments, random weights, limits, lies about tensors, memory. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "model.h"
#include "toy.h"

static char dir[64];

static int set_up(void **state)
{
    (void)state;
    Err err = {0};
    strcpy(dir, "/tmp/blade_model_XXXXXX");
    assert_non_null(mkdtemp(dir));
    assert_true(toy_checkpoint(dir, &err));
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
                          .max_num_batched_tokens = 8, .max_outputs = 8};
}

static Model *load(const ModelOptions *o)
{
    Err err = {0};
    Model *m = model_load(o, &err);
    if (!m)
        fail_msg("%s", err.text);
    return m;
}

/* One step of n tokens in slots 0 .. n-1, logits for all of them. */
static void step(Model *m, const int32_t *tokens, int n, int adjustments)
{
    Err err = {0};
    ModelStep s = {.tokens = n, .seqs = 1, .outputs = n, .decode_tiles = n, .adjustments = adjustments};
    int32_t *in = model_io(m, IO_TOKENS), *slot = model_io(m, IO_KV_SLOT), *rows = model_io(m, IO_OUTPUT_ROWS);
    int32_t *start = model_io(m, IO_ADJUST_START);
    for (int i = 0; i < n; i++) {
        in[i] = tokens[i];
        slot[i] = i;
        rows[i] = i;
        start[i] = 0;
    }
    start[n] = adjustments;
    if (!model_run(m, &s, &err))
        fail_msg("%s", err.text);
}

static void steps_give_logits_and_samples(bool queue)
{
    ModelOptions o = options();
    o.queue = queue;
    Model *m = load(&o);
    static const int32_t tokens[5] = {3, 15, 0, 7, 7};
    const float *logits = model_io(m, IO_LOGITS);
    const int32_t *sampled = model_io(m, IO_SAMPLED);
    for (int forced = -1; forced < 2; forced++) {
        model_force_step(m, forced);
        int n = forced == 0 ? 2 : 5;
        step(m, tokens, n, 0);
        for (int i = 0; i < n; i++) {
            int next = (tokens[i] + 1) % 16;
            assert_int_equal(sampled[i], next);
            for (int v = 0; v < 16; v++)
                assert_true(logits[16 * i + v] == (v == next ? 2.0f * (float)(v + 1) : -1.0f));
        }
    }
    assert_null(model_warning(m));
    assert_int_equal(model_threads(m), 2);
    model_free(m);
}

static void steps_run_at_once(void **state)
{
    (void)state;
    steps_give_logits_and_samples(false);
}

static void steps_run_on_the_devices_thread(void **state)
{
    (void)state;
    steps_give_logits_and_samples(true);
}

/* Both sets of inputs in turn, one written while the other may run; the page is zeroed behind the step before. */
static void sets_of_inputs(void **state)
{
    (void)state;
    ModelOptions o = options();
    o.queue = true;
    Model *m = load(&o);
    Err err = {0};
    for (int i = 0; i < 2000; i++) {
        int set = i % 2;
        model_zero_page(m, 0);
        int32_t *tokens = model_input(m, set, IO_TOKENS), *slots = model_input(m, set, IO_KV_SLOT);
        for (int k = 0; k < 3; k++) {
            tokens[k] = (i + 5 * k) % 15;
            slots[k] = k;
            ((int32_t *)model_input(m, set, IO_OUTPUT_ROWS))[k] = k;
            ((int32_t *)model_input(m, set, IO_ADJUST_START))[k + 1] = 0;
        }
        assert_true(model_wait(m, &err));
        for (int k = 0; i && k < 3; k++)
            assert_int_equal(((int32_t *)model_io(m, IO_SAMPLED))[k], (i - 1 + 5 * k) % 15 + 1);
        if (!model_start(m, set, &(ModelStep){.tokens = 3, .seqs = 1, .outputs = 3, .decode_tiles = 3}, &err))
            fail_msg("%s", err.text);
    }
    model_free(m); /* while a step runs */
}

static void adjustments_change_the_sample(void **state)
{
    (void)state;
    ModelOptions o = options();
    Model *m = load(&o);
    ((int32_t *)model_io(m, IO_ADJUST_TOKEN))[0] = 5;
    ((float *)model_io(m, IO_ADJUST_VALUE))[0] = 1;
    ((float *)model_io(m, IO_ADJUST_VALUE))[1] = 1000;
    step(m, (int32_t[]){9}, 1, 1);
    assert_int_equal(((int32_t *)model_io(m, IO_SAMPLED))[0], 5);
    step(m, (int32_t[]){9}, 1, 0);
    assert_int_equal(((int32_t *)model_io(m, IO_SAMPLED))[0], 10);
    model_free(m);
}

/* The toy adds token + 1 to the slot: visible through a second run on the same page, gone after model_zero_page. */
static void pages_are_zeroed(void **state)
{
    (void)state;
    ModelOptions o = options();
    Model *m = load(&o);
    const ModelLimits *l = model_limits(m);
    assert_int_equal(l->page_tokens, 4);
    assert_int_equal(l->table_width, 16);
    assert_int_equal(l->pages, 4 * 16);
    for (int64_t page = 0; page < l->pages; page++)
        model_zero_page(m, page);
    step(m, (int32_t[]){1}, 1, 0);
    model_zero_page(m, 0);
    step(m, (int32_t[]){1}, 1, 0);
    model_free(m);
}

static void random_weights_need_no_checkpoint(void **state)
{
    (void)state;
    char file[128];
    snprintf(file, sizeof file, "%s/model.safetensors", dir);
    remove(file);
    float first[16];
    for (int run = 0; run < 3; run++) { /* folder, file, folder: the same numbers */
        ModelOptions o = options();
        char config[128];
        snprintf(config, sizeof config, "%s/config.json", dir);
        o.random_weights = true;
        o.model = run == 1 ? config : dir;
        Model *m = load(&o);
        step(m, (int32_t[]){0, 1, 2, 3, 4, 5, 6, 7}, 8, 0);
        const float *logits = model_io(m, IO_LOGITS);
        for (int i = 0; i < 8; i++) {
            float w = logits[16 * i + i + 1];
            assert_true(w > 9 - 0.5f * 1.8f && w < 9 + 0.5f * 1.8f);
            assert_true(run == 0 || w == first[i]);
            first[i] = w;
        }
        assert_true(first[0] != first[1]);
        model_free(m);
    }
}

static void steps_beyond_the_limits_are_refused(void **state)
{
    (void)state;
    ModelOptions o = options();
    Model *m = load(&o);
    static const struct {
        ModelStep step;
        const char *message;
    } rows[] = {
        {{.tokens = 9}, "9 tokens"},
        {{.tokens = 1, .seqs = 5}, "5 seqs"},
        {{.tokens = 1, .outputs = -1}, "-1 outputs"},
        {{.tokens = 1, .table_width = 17}, "17 table_width"},
        {{.tokens = 1, .adjustments = 1 << 20}, "1048576 extra"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        Err err = {0};
        assert_false(model_run(m, &rows[i].step, &err));
        if (!strstr(err.text, rows[i].message))
            fail_msg("row %zu: '%s' lacks '%s'", i, err.text, rows[i].message);
    }
    model_force_step(m, 0);
    Err err = {0};
    assert_false(model_run(m, &(ModelStep){.tokens = 3}, &err));
    assert_non_null(strstr(err.text, "no launch list for 3 tokens"));
    model_free(m);
}

static void options_are_checked(void **state)
{
    (void)state;
    static const struct {
        ModelOptions o; /* on top of options() */
        const char *message;
    } rows[] = {
        {{.max_model_len = 65}, "more than the model's context of 64"},
        {{.kv_cache_memory = 16 * 8, .max_model_len = 64}, "can't hold one sequence of 64 tokens"},
        {{.kv_cache_memory = (int64_t)-5}, "can't hold one sequence of 64 tokens"},
        {{.kv_cache_memory = 1}, "can't hold one sequence"},
        {{.max_num_batched_tokens = (int64_t)1 << 40}, "limits on tokens"},
        {{.threads = -3}, "threads"},
        {{.model = "/no/such/model"}, "/no/such/model"},
        {{.pack = "/no/such/pack"}, "/no/such/pack"},
        {{.weights = "../w"}, "unknown weight format '../w'"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        ModelOptions o = options();
        const ModelOptions *r = &rows[i].o;
        o.max_model_len = r->max_model_len;
        o.kv_cache_memory = r->kv_cache_memory;
        o.max_num_batched_tokens = r->max_num_batched_tokens;
        o.threads = r->threads ? r->threads : o.threads;
        o.model = r->model ? r->model : o.model;
        o.pack = r->pack;
        o.weights = r->weights;
        Err err = {0};
        Model *m = model_load(&o, &err);
        if (m)
            fail_msg("row %zu was accepted", i);
        if (!strstr(err.text, rows[i].message))
            fail_msg("row %zu: '%s' lacks '%s'", i, err.text, rows[i].message);
    }
}

/* A KV cache smaller than the context shortens sequences, and says so. */
static void small_cache_shortens_sequences(void **state)
{
    (void)state;
    ModelOptions o = options();
    o.kv_cache_memory = 16 * 3;
    Model *m = load(&o);
    assert_int_equal(model_limits(m)->pages, 3);
    assert_int_equal(model_limits(m)->max_model_len, 12);
    assert_non_null(strstr(model_warning(m), "12 tokens"));
    model_free(m);
}

static void memory_is_planned_before_loading(void **state)
{
    (void)state;
    int64_t available, total;
    host_memory(&available, &total);
    assert_true(available > 0 && available <= total);
    ModelOptions o = options();
    o.max_num_batched_tokens = total / 200 > (1 << 29) ? (1 << 29) : total / 50; /* > 100 bytes of work a token */
    o.plan_only = true;
    Model *m = load(&o);
    assert_true(model_memory(m)->kind[BUFFER_ACTIVATION] > 100 * o.max_num_batched_tokens);
    bool too_much = model_memory(m)->peak > available;
    model_free(m);
    if (!too_much)
        skip();
    o.plan_only = false;
    Err err = {0};
    assert_null(model_load(&o, &err));
    assert_non_null(strstr(err.text, "not enough memory"));
}

/* Writes the toy checkpoint with another header of the same length, keeping config.json. */
static void tensors_must_be_what_the_pack_expects(void **state)
{
    (void)state;
    static const struct {
        const char *header, *message;
    } rows[] = {
        {"{\"v\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[0,64]}}", "tensor 'w' is missing"},
        {"{\"w\":{\"dtype\":\"I32\",\"shape\":[16],\"data_offsets\":[0,64]}}", "tensor 'w' is s32 [16]"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[4,4],\"data_offsets\":[0,64]}}", "made for f32 [16]"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char path[128];
        Err err = {0};
        Buf file = {0};
        uint64_t n = strlen(rows[i].header);
        static const char data[64];
        buf_put(&file, &n, 8);
        buf_puts(&file, rows[i].header);
        buf_put(&file, data, 64);
        snprintf(path, sizeof path, "%s/model.safetensors", dir);
        assert_true(file_write_atomic(path, file.data, file.len, &err));
        buf_free(&file);
        ModelOptions o = options();
        Model *m = model_load(&o, &err);
        assert_null(m);
        if (!strstr(err.text, rows[i].message))
            fail_msg("row %zu: '%s' lacks '%s'", i, err.text, rows[i].message);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(steps_run_at_once),
        TEST(steps_run_on_the_devices_thread),
        TEST(sets_of_inputs),
        TEST(adjustments_change_the_sample),
        TEST(pages_are_zeroed),
        TEST(random_weights_need_no_checkpoint),
        TEST(steps_beyond_the_limits_are_refused),
        TEST(options_are_checked),
        TEST(small_cache_shortens_sequences),
        TEST(memory_is_planned_before_loading),
        TEST(tensors_must_be_what_the_pack_expects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
