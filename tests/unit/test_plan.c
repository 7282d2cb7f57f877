/* Tests of runtime/plan.c: the toy plan read back, sizes, the memory plan, and a table of mistakes with their
 * messages. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plan.h"
#include "toy.h"

static Plan *parse(const char *text, Err *err)
{
    return plan_parse(text, strlen(text), 1 << 20, err);
}

static Plan *parse_toy(void)
{
    Buf text = {0};
    Err err = {0};
    toy_plan(&text);
    Plan *p = parse(text.data, &err);
    if (!p)
        fail_msg("%s", err.text);
    buf_free(&text);
    return p;
}

static void toy_plan_is_read(void **state)
{
    (void)state;
    Plan *p = parse_toy();
    assert_string_equal(p->architecture, "ToyForCausalLM");
    assert_string_equal(p->peak, "f32");
    assert_int_equal(p->vocab, 16);
    assert_int_equal(p->kernels_count, 5);
    assert_int_equal(p->kernels[2].scratch, 200);
    assert_int_equal(p->kernels[2].threads, 0);
    assert_true(plan_grid_has(&p->kernels[0], SIZE_ROWS) && !plan_grid_has(&p->kernels[0], SIZE_TOKENS));
    assert_int_equal(p->buffers[0].kind, BUFFER_WEIGHT);
    assert_int_equal(p->buffers[0].fill.type, DT_F32);
    assert_true(p->buffers[0].fill.mean == 9);
    assert_int_equal(p->io[IO_LOGITS], 5);
    assert_int_equal(p->io[IO_POSITIONS], -1);
    assert_string_equal(p->buffers[12].tensor.name, "w");
    assert_int_equal(p->buffers[12].tensor.bytes, 64);
    assert_int_equal(p->buffers[15].data_bytes, 16);
    assert_int_equal(((const int32_t *)p->buffers[15].data)[2], 2);
    assert_int_equal(p->load[0].sizes[SIZE_ROWS], 16);
    assert_string_equal(p->load[0].args[0].tensor->name, "w");
    assert_int_equal(p->load[1].builtin, BUILTIN_ARGSORT);
    assert_int_equal(p->steps[0].launches[0].args[5].buffer, 5);
    assert_int_equal(p->limits[1].input_bytes[0], 64);
    assert_int_equal(p->limits[1].output_bytes, 64);
    assert_ptr_equal(plan_step_for(p, 2), &p->steps[0]);
    assert_ptr_equal(plan_step_for(p, 3), &p->steps[1]);
    plan_free(p);
}

static void sizes_and_memory_add_up(void **state)
{
    (void)state;
    Plan *p = parse_toy();
    Err err = {0};
    int64_t caps[SIZE_COUNT] = {0};
    caps[SIZE_TOKENS] = 10;
    caps[SIZE_OUTPUTS] = 3;
    caps[SIZE_KV_PAGES] = 5;
    caps[SIZE_EXTRA] = 4;
    assert_int_equal(plan_buffer_bytes(p, 14, caps), 1007);
    assert_int_equal(plan_buffer_bytes(p, 4, caps), 80);
    assert_int_equal(plan_buffer_bytes(p, 5, caps), 3 * 16 * 4);
    assert_int_equal(plan_buffer_bytes(p, 6, caps), 4 * 4); /* adjust_start: one more than outputs */
    assert_int_equal(plan_page_bytes(p), 16);
    PlanMemory m;
    assert_true(plan_memory(p, caps, 2, &m, &err));
    assert_int_equal(m.kind[BUFFER_WEIGHT], 128);     /* 64 + at least 64 of slack */
    assert_int_equal(m.kind[BUFFER_KV], 192);         /* 80 + 64 -> 192 */
    assert_int_equal(m.kind[BUFFER_ACTIVATION], 1088); /* 1007 + 64 -> 1088 */
    assert_int_equal(m.kind[BUFFER_MAPPED], 64);
    assert_int_equal(m.kind[BUFFER_TEMPORARY], 128);
    assert_int_equal(m.scratch, 2 * 4096);
    assert_int_equal(m.peak, m.total + 128);
    caps[SIZE_KV_PAGES] = INT64_MAX / 2;
    assert_false(plan_memory(p, caps, 2, &m, &err));
    assert_non_null(strstr(err.text, "\"kv\""));
    plan_free(p);
}

static void grids_round_up_and_never_overflow(void **state)
{
    (void)state;
    int64_t sizes[SIZE_COUNT] = {0};
    sizes[SIZE_TOKENS] = 25;
    PlanKernel k = {.dims = 2, .grid = {{.n = 48, .div = 1, .size = -1}, {.n = 1, .div = 12, .size = SIZE_TOKENS}}};
    assert_int_equal(plan_blocks(&k, sizes), 48 * 3);
    sizes[SIZE_TOKENS] = 0;
    assert_int_equal(plan_blocks(&k, sizes), 0);
    sizes[SIZE_TOKENS] = INT64_MAX;
    assert_int_equal(plan_blocks(&k, sizes), -1);
    k.grid[1] = (Extent){INT64_MAX / 4, 1, SIZE_SEQS};
    sizes[SIZE_SEQS] = 1000;
    assert_int_equal(plan_blocks(&k, sizes), -1);
}

/* Replaces the first `from` in the toy plan by `to`, and expects the message. */
static void mistakes_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *message;
    } rows[] = {
        {"\"format\":2", "\"format\":1", "plan: format 1; this program reads format 2"},
        {"\"format\":2", "\"format\":2,,", "plan"},
        {"\"vocab\":16", "\"vocab\":0", "plan: model: \"vocab\""},
        {"\"context\":64,", "", "model: \"context\" is missing"},
        {"\"page_tokens\":4", "\"page_tokens\":0", "\"page_tokens\""},
        {"\"logits_stride\":16", "\"logits_stride\":15", "\"logits_stride\""},
        {"\"offset\":0", "\"offset\":-1", "kernels[0]: \"offset\""},
        {"\"threads\":0", "\"threads\":1025", "kernels[0]: \"threads\""},
        {"\"threads\":0", "\"threads\":-32", "kernels[0]: \"threads\""},
        {"\"threads\":0", "\"shared\":1048577", "kernels[0]: \"shared\""},
        {"\"size\":\"rows\"", "\"size\":\"row\"", "kernels[0]: grid[0]: unknown size \"row\""},
        {"\"n\":1,", "\"n\":1,\"div\":0,", "\"div\""},
        {"\"kind\":\"weight\"", "\"kind\":\"weights\"", "buffers[0]: unknown kind \"weights\""},
        {"\"type\":\"f32\"", "\"type\":\"f31\"", "unknown type \"f31\""},
        {"\"name\":\"tokens\"", "\"name\":\"token\"", "unknown input \"token\""},
        {"\"name\":\"kv_slot\"", "\"name\":\"tokens\"", "two buffers \"tokens\""},
        {"\"kind\":\"output\"", "\"kind\":\"input\"", "unknown input \"logits\""},
        {"\"page_bytes\":16", "\"page_bytes\":0", "\"page_bytes\""},
        {"\"bytes\":[{\"n\":64}]", "\"bytes\":[]", "buffers[0]: \"bytes\" is missing"},
        {"\"bytes\":[{\"n\":64}]", "\"bytes\":[{\"n\":64,\"size\":\"tokens\"}]", "must be constant"},
        {"\"shape\":[16]", "\"shape\":[-16]", "shape[0]"},
        {"\"data\":[3", "\"data\":[\"3\"", "data[0] is not a number"},
        {"\"buffer\":0,\"offset\":0", "\"buffer\":99,\"offset\":0", "load[0]: args[1]: buffer 99 of 16"},
        {"\"buffer\":0,\"offset\":0", "\"buffer\":4,\"offset\":0", "can't be used while loading"},
        {"\"sizes\":{\"rows\"", "\"sizes\":{\"raws\"", "unknown size \"raws\""},
        {"argsort", "quicksort", "known builtin"},
        {"\"max_tokens\":2,", "", "steps[0]: \"max_tokens\" is missing"},
        {"{\"kernel\":1,", "{\"kernel\":5,", "steps[0]: launches[0]: \"kernel\""},
        {"\"args\":[0,1,2,3,4,5]", "\"args\":[0,1,2,3,4,16]", "args[5]: buffer"},
        {"\"args\":[0,1,2,3,4,5]", "\"args\":[13]", "can't be used in a step"},
        {"\"args\":[0,1,2,3,4,5]", "\"args\":[-1]", "args[0]: buffer"},
        {"\"args\":[0,1,2,3,4,5]", "\"args\":[\"0\"]", "args[0]: neither"},
        {"\"args\":[0,1,2,3,4,5]", "\"args\":7", "\"args\" is not an array"},
        {"\"steps\":", "\"steppes\":", "there are no steps"},
        {"\"bytes_per_block\":4096", "\"bytes_per_block\":0", "limits[0]: neither bytes nor operations"},
        {"\"input_bytes\":[64]", "\"input_bytes\":[0]", "limits[1]: input_bytes[0] is not a size"},
        {"\"sample\":[", "\"sample\":[7,", "sample[0]: not an object"},
    };
    Buf text = {0};
    toy_plan(&text);
    for (size_t i = 0; i < COUNT(rows); i++) {
        Buf changed = {0};
        Err err = {0};
        const char *at = strstr(text.data, rows[i].from);
        if (!at)
            fail_msg("row %zu: the toy plan lacks %s", i, rows[i].from);
        buf_put(&changed, text.data, (size_t)(at - text.data));
        buf_puts(&changed, rows[i].to);
        buf_puts(&changed, at + strlen(rows[i].from));
        Plan *p = parse(changed.data, &err);
        if (p)
            fail_msg("row %zu: %s was accepted", i, rows[i].to);
        if (!strstr(err.text, rows[i].message))
            fail_msg("row %zu: '%s' lacks '%s'", i, err.text, rows[i].message);
        buf_free(&changed);
    }
    Err err = {0};
    assert_null(plan_parse(text.data, text.len, 100, &err)); /* code that is not in the pack */
    assert_non_null(strstr(err.text, "kernels[0]"));
    buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(toy_plan_is_read),
        cmocka_unit_test(sizes_and_memory_add_up),
        cmocka_unit_test(grids_round_up_and_never_overflow),
        cmocka_unit_test(mistakes_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
