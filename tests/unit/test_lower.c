/* Tests of compiler/host for what no schedule uses yet: `copy`, with the source repeated along rows and columns. */
#include "test.h"

#include "verify.h"

#include <string.h>

static const char copies[] =
    "kernel \"copies\"\n"
    "%1 = memory global 0 in f32 x[4, 16]\n"
    "%2 = memory global 1 out f32 y[12, 16]\n"
    "%3 = const 1 : s64\n"
    "grid %3\n"
    "%4 = const 0 : s64\n"
    "%5 = const 4 : s64\n"
    "%6 = const 8 : s64\n"
    "%7 = view %1[%4, %4] 4x16\n"
    "%8 = view %1[%4, %4] 1x16\n"
    "%9 = view %1[%4, %4] 4x1\n"
    "%10 = view %2[%4, %4] 4x16\n"
    "%11 = view %2[%5, %4] 4x16\n"
    "%12 = view %2[%6, %4] 4x16\n"
    "copy %10, %7\n"
    "copy %11, %8\n"
    "copy %12, %9\n";

static void copy_repeats_rows_and_columns(void **state)
{
    (void)state;
    Err err = {0};
    Kernel *k = ir_parse(copies, strlen(copies), "copies", &err);
    if (!k || !ir_check(k, &err))
        fail_msg("%s", err.text);
    float x[4][16], y[12][16];
    for (int r = 0; r < 4; r++)
        for (int c = 0; c < 16; c++)
            x[r][c] = (float)(100 * r + c);
    for (int t = 0; target_at(t); t++) {
        if (!target_runs_here(target_at(t)))
            continue;
        memset(y, 0xff, sizeof y);
        if (!verify_run((void *)target_at(t), k, (void *[]){x, y}, (int64_t[SIZE_COUNT]){0}, &err))
            fail_msg("%s: %s", target_at(t)->name, err.text);
        for (int r = 0; r < 4; r++)
            for (int c = 0; c < 16; c++) {
                assert_true(y[r][c] == x[r][c]);
                assert_true(y[4 + r][c] == x[0][c]);
                assert_true(y[8 + r][c] == x[r][0]);
            }
    }
    kernel_free(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(copy_repeats_rows_and_columns)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
