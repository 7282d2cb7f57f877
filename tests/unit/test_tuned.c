/* Tests of tuned settings on their way to the generator (compiler/tuned.c, lib.lua, tune.lua) and of the cost model. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../autotune/cost.h"
#include "cpu.h"
#include "generator.h"
#include "signature.h"
#include "tuned.h"

static char dir[64];

/* ---- files ------------------------------------------------------------------------------------------------------ */

static void names_of_devices(void **state)
{
    (void)state;
    char device[CPU_DEVICE_BYTES], again[CPU_DEVICE_BYTES];
    cpu_device(device);
    cpu_device(again);
    assert_string_equal(device, again);
    assert_int_equal(strspn(device, "abcdefghijklmnopqrstuvwxyz0123456789-"), strlen(device));
    assert_true(strlen(device) > 4 && device[strlen(device) - 1] == 'c');
}

static void names_of_gpus(void **state)
{
    (void)state;
    static const char *const names[][2] = {
        {"NVIDIA H200", "nvidia-h200"}, {"NVIDIA A100-SXM4-80GB", "nvidia-a100-sxm4-80gb"},
        {"AMD Radeon(TM) RX 7900 XTX", "amd-radeon-rx-7900-xtx"}, {"SIMT sm_80", "simt-sm-80"}, {"../x", "x"}, {"", ""}};
    for (size_t i = 0; i < COUNT(names); i++) {
        char name[CPU_DEVICE_BYTES] = "", few[8] = "";
        device_slug(name, sizeof name, names[i][0]);
        assert_string_equal(name, names[i][1]);
        device_slug(few, sizeof few, names[i][0]);
        assert_true(strlen(few) < sizeof few);
    }
}

#define ENTRY(target, extra) \
    "{\"target\": \"" target "\", \"operator\": \"matmul\", \"parameters\": \"k=1\", \"bucket\": 4, \"schedule\": \"d@1\", " \
    "\"settings\": {\"rows\": 4}" extra "}"

static void both_files_are_read(void **state)
{
    (void)state;
    Buf warnings = {0};
    test_write(dir, "autotune/results/dev-1c.json", "{\"format\": 1, \"device\": \"dev-1c\", \"entries\": [" ENTRY("a", ", \"date\": \"x\"")
               "," ENTRY("b", "") "]}");
    test_write(dir, "user/blade/tuned/dev-1c.json", "{\"format\": 1, \"device\": \"dev-1c\", \"entries\": [" ENTRY("a", "") "]}");
    json_t *list = tuned_read(dir, "dev-1c", "a", &warnings);
    assert_int_equal(json_array_size(list), 2);
    assert_int_equal(warnings.len, 0);
    assert_non_null(strstr(json_string_value(json_object_get(json_array_get(list, 0), "file")), "autotune/results"));
    assert_non_null(strstr(json_string_value(json_object_get(json_array_get(list, 1), "file")), "user/blade/tuned"));
    json_decref(list);
    list = tuned_read(dir, "dev-2c", "a", &warnings);
    assert_int_equal(json_array_size(list), 0);
    assert_int_equal(warnings.len, 0);
    json_decref(list);
    list = tuned_read(dir, "../dev-1c", "a", &warnings); /* a name, not a path */
    assert_int_equal(json_array_size(list), 0);
    json_decref(list);
    buf_free(&warnings);
}

static void bad_files_are_left_out_with_a_warning(void **state)
{
    (void)state;
    static const struct { const char *text, *message; } cases[] = {
        {"", "bad-1c.json"}, {"[]", "bad-1c.json"}, {"{\"format\": 1}", "are needed"},
        {"{\"format\": 7, \"device\": \"d\", \"entries\": []}", "format 7"},
        {"{\"format\": 1, \"device\": \"d\", \"entries\": [1]}", "entries[0]: not an object"},
        {"{\"format\": 1, \"device\": \"d\", \"entries\": [{}]}", "\"target\" is not a string"},
        {"{\"format\": 1, \"device\": \"d\", \"entries\": [" ENTRY("a", ", \"bucket\": -1") "]}", "\"bucket\""},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        Buf warnings = {0};
        test_write(dir, "autotune/results/bad-1c.json", cases[i].text);
        json_t *list = tuned_read(dir, "bad-1c", "a", &warnings);
        assert_int_equal(json_array_size(list), 0);
        if (!warnings.data || !strstr(warnings.data, cases[i].message))
            fail_msg("case %zu: %s", i, warnings.data ? warnings.data : "(no warning)");
        json_decref(list);
        buf_free(&warnings);
    }
}

static void a_change_of_either_file_changes_the_signature(void **state)
{
    (void)state;
    char device[CPU_DEVICE_BYTES], shipped[256], own[256];
    cpu_device(device);
    snprintf(shipped, sizeof shipped, "autotune/results/%s.json", device);
    snprintf(own, sizeof own, "user/blade/tuned/%s.json", device);
    uint64_t seen[4] = {source_signature(dir, NULL, NULL)}, plain = generator_signature(dir, NULL);
    test_write(dir, shipped, "1");
    seen[1] = source_signature(dir, NULL, NULL);
    test_write(dir, own, "1");
    seen[2] = source_signature(dir, NULL, NULL);
    test_write(dir, own, "2");
    seen[3] = source_signature(dir, NULL, NULL);
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < i; k++)
            assert_true(seen[i] != seen[k]);
    assert_true(generator_signature(dir, NULL) == plain);
}

/* ---- in the generator ------------------------------------------------------------------------------------------- */

static const char config[] =
    "{\"config\": {\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 128, \"intermediate_size\": 256, "
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"vocab_size\": 256, "
    "\"max_position_embeddings\": 256, \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"hidden_act\": \"silu\", "
    "\"torch_dtype\": \"float32\", \"tie_word_embeddings\": false}, \"tensors\": {}, \"weights\": \"f32\", \"random\": true}";

static json_t *tree(const char *text)
{
    json_t *v = json_loads(text, 0, NULL);
    assert_non_null(v);
    return v;
}

static void call(Generator *g, const char *function, const char *argument, Buf *out)
{
    Err err = {0};
    json_t *v = argument ? json_loads(argument, JSON_DECODE_ANY, NULL) : json_null();
    if (!gen_call(g, function, v, out, &err))
        fail_msg("%s: %s", function, err.text);
    json_decref(v);
}

static Generator *open_generator(void)
{
    Err err = {0};
    Generator *g = gen_open(SOURCE_DIR, target_find("x86-64-v3", &err), &err);
    if (!g)
        fail_msg("%s", err.text);
    return g;
}

static void plan(Generator *g)
{
    Err err = {0};
    json_t *facts = tree(config);
    if (!gen_plan(g, facts, &err))
        fail_msg("%s", err.text);
    json_decref(facts);
}

static bool has_kernel(const Generator *g, const char *part, const char *settings)
{
    for (size_t i = 0; i < gen_kernel_count(g); i++)
        if (strstr(gen_kernel(g, i)->name, part) && strstr(gen_kernel(g, i)->name, settings))
            return true;
    return false;
}

/* The tag of the matmul schedule, as an entry must name it. */
static void schedule_tag(char out[64])
{
    Generator *g = open_generator();
    Buf cases = {0};
    call(g, "tune_collect", "{\"threads\": 1, \"most\": 4}", NULL);
    plan(g);
    call(g, "tune_cases", NULL, &cases);
    json_t *list = tree(cases.data);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "operator")), "matmul");
    snprintf(out, 64, "%s", json_string_value(json_object_get(json_array_get(list, 0), "schedule")));
    json_decref(list);
    buf_free(&cases);
    gen_close(g);
}

static const char shape[] = "act=silu_mul,k=128,n=256,w=f32";

static Generator *plan_with(const char *tag, const char *settings, Buf *warnings)
{
    Generator *g = open_generator();
    Buf entries = {0};
    buf_printf(&entries, "[{\"operator\": \"matmul\", \"parameters\": \"%s\", \"bucket\": 4, \"schedule\": \"%s\", "
               "\"settings\": %s, \"file\": \"F\"}]", shape, tag, settings);
    call(g, "use_tuned", entries.data, NULL);
    plan(g);
    call(g, "tuned_warnings", NULL, warnings);
    buf_free(&entries);
    return g;
}

static void tuned_settings_are_used(void **state)
{
    (void)state;
    char tag[64];
    Buf warnings = {0};
    schedule_tag(tag);
    Generator *g = plan_with(tag, "{\"rows\": 3, \"chunk\": 8}", &warnings);
    assert_true(has_kernel(g, shape, "chunk=8,cols=1,rows=3"));
    assert_false(has_kernel(g, "n=512", "chunk=8")); /* another shape */
    assert_true(!warnings.data || !*warnings.data);
    buf_free(&warnings);
    gen_close(g);
}

static void entries_that_do_not_fit_are_reported(void **state)
{
    (void)state;
    char tag[64];
    schedule_tag(tag);
    static const struct { const char *settings, *message; bool stale; } cases[] = {
        {"{\"rows\": 3}", "the schedule has changed", true},
        {"{\"rowz\": 3}", "unknown setting 'rowz'", false},
        {"{\"rows\": 7}", "'rows' can't be 7", false},
        {"{\"rows\": \"3\"}", "'rows' can't be 3", false},
        {"{\"rows\": 3.0}", "'rows' can't be 3", false},
        {"{\"rows\": {}}", "'rows' can't be", false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        Buf warnings = {0};
        Generator *g = plan_with(cases[i].stale ? "default@0" : tag, cases[i].settings, &warnings);
        if (!warnings.data || !strstr(warnings.data, cases[i].message) || !strstr(warnings.data, "F: "))
            fail_msg("%s: %s", cases[i].settings, warnings.data ? warnings.data : "(no warning)");
        assert_false(has_kernel(g, shape, "rows=3"));
        buf_free(&warnings);
        gen_close(g);
    }
}

static const char *hash_of(Generator *g, const char *text)
{
    static char name[128];
    Err err = {0};
    if (!gen_try_schedule(g, "embedding", text, strlen(text), &err))
        fail_msg("%s", err.text);
    Buf out = {0};
    call(g, "schedule_tag", "\"embedding\"", &out);
    snprintf(name, sizeof name, "%s", out.data);
    buf_free(&out);
    return name;
}

static void comments_do_not_make_a_schedule_another(void **state)
{
    (void)state;
    static const char body[] = "return schedule 'embedding' {} (function(k, a, p)\n  k:tiles('tokens')\n"
        "  local id = k:load(a.tokens, {k:block(0)})\n  k:store(a.y, {k:block(0), 0}, k:load(a.table, {id, 0}, 1, 16):f32())\nend)";
    Generator *g = open_generator();
    char text[1024], first[128];
    snprintf(first, sizeof first, "%s", hash_of(g, body));
    snprintf(text, sizeof text, "-- a comment\n\n%s  -- and 'another\n", body);
    assert_string_equal(hash_of(g, text), first);
    snprintf(text, sizeof text, "local x = 1\n%s", body);
    assert_string_not_equal(hash_of(g, text), first);
    gen_close(g);
}

/* ---- the cost model --------------------------------------------------------------------------------------------- */

static double cost(Generator *g, const char *const *set, int n, int64_t tokens, bool cold)
{
    Err err = {0};
    int64_t sizes[SIZE_COUNT] = {[SIZE_TOKENS] = tokens};
    CostInput in = {.sizes = sizes, .threads = 2};
    in.cold[1] = cold; /* x, w, y */
    const Kernel *k = gen_show(g, "matmul", set, n, NULL, &err);
    if (!k)
        fail_msg("%s", err.text);
    return cost_seconds(k, target_find("x86-64-v4", &err), &in);
}

static void costs_are_in_order(void **state)
{
    (void)state;
    Err err = {0};
    Generator *g = gen_open(SOURCE_DIR, target_find("x86-64-v4", &err), &err);
    assert_non_null(g);
    const char *const base[] = {"w=f32", "n=2048", "k=2048"};
    const char *const fat[] = {"w=f32", "n=2048", "k=2048", "rows=12", "cols=4"};
    const char *const thin[] = {"w=f32", "n=2048", "k=2048", "rows=1", "cols=4", "chunk=1"};
    const char *const ahead[] = {"w=f32", "n=2048", "k=2048", "ahead=4"};
    const char *const blind[] = {"w=f32", "n=2048", "k=2048", "ahead=0"};
    double usual = cost(g, base, 3, 256, true);
    assert_true(usual > 0);
    assert_true(cost(g, base, 3, 512, true) > 1.5 * usual);     /* twice the work */
    assert_true(cost(g, base, 3, 256, false) <= usual);         /* from the cache */
    assert_true(cost(g, fat, 5, 256, true) > 1.2 * usual);      /* sums do not fit the registers */
    assert_true(cost(g, thin, 6, 256, true) > 1.2 * usual);     /* unpacks and loads for one row each */
    assert_true(cost(g, ahead, 4, 16, true) < cost(g, blind, 4, 16, true)); /* reading hides behind arithmetic */
    gen_close(g);
}

int main(void)
{
    strcpy(dir, "/tmp/blade_tuned_XXXXXX");
    if (!mkdtemp(dir))
        return 1;
    char data[128];
    snprintf(data, sizeof data, "%s/user", dir);
    setenv("XDG_DATA_HOME", data, 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_devices),
        cmocka_unit_test(names_of_gpus),
        cmocka_unit_test(both_files_are_read),
        cmocka_unit_test(bad_files_are_left_out_with_a_warning),
        cmocka_unit_test(a_change_of_either_file_changes_the_signature),
        cmocka_unit_test(tuned_settings_are_used),
        cmocka_unit_test(entries_that_do_not_fit_are_reported),
        cmocka_unit_test(comments_do_not_make_a_schedule_another),
        cmocka_unit_test(costs_are_in_order),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) || failed;
}
