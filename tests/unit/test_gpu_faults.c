/* The SIMT machine and the checks notice mistakes of a lowering: for each that gpu_lower can be asked to make
 * (GpuFault), the checks of some operator fail, and of none without it. */
#include "test.h"

#include "generator.h"
#include "verify.h"

#include <stdio.h>
#include <string.h>

static CheckResult check(const char *target, GpuFault fault, const char *op)
{
    Err err = {0};
    const Target *t = target_find(target, &err);
    if (!t)
        fail_msg("%s", err.text);
    Target faulty = *t;
    faulty.fault = fault;
    Generator *g = gen_open(BLADE_SOURCE, &faulty, &err);
    CheckResult result = {0};
    if (g && fault)
        gen_call(g, "check_until_failure", json_null(), NULL, &err);
    if (!g || !gen_check(g, op, true, verify_run, &faulty, &result, &err))
        fail_msg("%s", err.text);
    gen_close(g);
    printf("%s, fault %d, %s: %d passed, %d failed\n", target, fault, op, result.passed, result.failed);
    return result;
}

static const char *const targets[] = {"simt:sm_80", "simt:gfx942", "simt:gfx1100"};

static void sound_code_passes(void **state)
{
    (void)state;
    for (size_t t = 0; t < COUNT(targets); t++) {
        CheckResult r = check(targets[t], GPU_FAULT_NONE, "limit_peak");
        assert_true(r.passed > 0 && r.failed == 0);
    }
}

static void expect_noticed(GpuFault fault, const char *op)
{
    for (size_t t = 0; t < COUNT(targets); t++)
        if (fault != GPU_FAULT_WAIT || strstr(targets[t], "sm_"))
            assert_true(check(targets[t], fault, op).failed > 0);
}

static void removed_barriers(void **state) { (void)state, expect_noticed(GPU_FAULT_BARRIER, "attention"); }
static void lax_waits(void **state) { (void)state, expect_noticed(GPU_FAULT_WAIT, "matmul"); }
static void swapped_rows(void **state) { (void)state, expect_noticed(GPU_FAULT_ROWS, "limit_peak"); }
static void missing_masks(void **state) { (void)state, expect_noticed(GPU_FAULT_MASK, "pack_dense"); }
static void unwritten_memory(void **state) { (void)state, expect_noticed(GPU_FAULT_COPY, "matmul"); }
static void reads_past_the_end(void **state) { (void)state, expect_noticed(GPU_FAULT_PAST, "embedding"); }

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sound_code_passes), cmocka_unit_test(removed_barriers),
                                       cmocka_unit_test(lax_waits),         cmocka_unit_test(swapped_rows),
                                       cmocka_unit_test(missing_masks),     cmocka_unit_test(unwritten_memory),
                                       cmocka_unit_test(reads_past_the_end)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
