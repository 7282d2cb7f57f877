/* Tests of the lowerings for what no schedule uses in every form: `copy`, with the source repeated along rows and columns;
 * `reshape` and `scan`, however a tile lies in threads. */
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

static const char moves[] =
    "kernel \"moves\"\n"
    "%1 = memory global 0 in s32 x[8, 32]\n"
    "%2 = memory global 1 out s32 y[2, 128]\n"
    "%3 = memory global 2 out s32 z[8, 32]\n"
    "%4 = memory global 3 out s32 sums[1, 256]\n"
    "%5 = const 1 : s64\n"
    "grid %5\n"
    "%6 = const 0 : s64\n"
    "%7 = view %1[%6, %6] 8x32\n"
    "%8 = load %7\n"
    "%9 = reshape %8 : s32[2,128]\n"
    "%10 = view %2[%6, %6] 2x128\n"
    "store %10, %9\n"
    "%11 = scan %8\n"
    "%12 = view %3[%6, %6] 8x32\n"
    "store %12, %11\n"
    "%13 = reshape %8 : s32[1,256]\n"
    "%14 = scan %13\n"
    "%15 = view %4[%6, %6] 1x256\n"
    "store %15, %14\n";

static void check_moves(Kernel *k, const Target *t)
{
    static int32_t x[256], y[256], z[256], sums[256];
    Err err = {0};
    for (int i = 0; i < 256; i++)
        x[i] = i * 7919 % 1000 - 300;
    memset(y, 0xff, sizeof y);
    if (!verify_run((void *)t, k, (void *[]){x, y, z, sums}, (int64_t[SIZE_COUNT]){0}, &err))
        fail_msg("%s, %d x %d warps: %s", t->name, k->warps[0], k->warps[1], err.text);
    int32_t row = 0, all = 0;
    for (int i = 0; i < 256; i++) {
        row = i % 32 ? row + x[i] : x[i];
        all += x[i];
        if (y[i] != x[i] || z[i] != row || sums[i] != all)
            fail_msg("%s, %d x %d warps: element %d is %d %d %d, expected %d %d %d", t->name, k->warps[0], k->warps[1], i,
                     y[i], z[i], sums[i], x[i], row, all);
    }
}

static void reshape_and_scan(void **state)
{
    (void)state;
    static const char *const gpus[] = {"simt:sm_80", "simt:gfx90a", "simt:gfx1100"};
    static const int warps[][2] = {{1, 1}, {1, 4}, {4, 1}, {2, 2}, {8, 1}, {1, 8}, {4, 4}};
    Err err = {0};
    Kernel *k = ir_parse(moves, strlen(moves), "moves", &err);
    if (!k || !ir_check(k, &err))
        fail_msg("%s", err.text);
    for (int t = 0; target_at(t); t++)
        if (target_runs_here(target_at(t)))
            check_moves(k, target_at(t));
    for (size_t g = 0; g < COUNT(gpus); g++)
        for (size_t w = 0; w < COUNT(warps); w++) {
            k->warps[0] = warps[w][0], k->warps[1] = warps[w][1];
            check_moves(k, target_find(gpus[g], &err));
        }
    kernel_free(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(copy_repeats_rows_and_columns), cmocka_unit_test(reshape_and_scan)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
