/* Layouts of register tiles: the accumulators of the matrix units against tables written down from the vendors'
 * manuals, and how tiles that lie flat cover every element once. */
#include "test.h"

#include "gpu/gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const Target *target(const char *name)
{
    Err err = {0};
    const Target *t = target_find(name, &err);
    if (!t)
        fail_msg("%s", err.text);
    return t;
}

static Bit place(const Layout *l, int lane, int warp, int reg)
{
    Bit b = layout_reg(l, reg);
    for (int i = 0; i < l->lanes; i++)
        if (lane >> i & 1)
            b = bit_xor(b, l->lane[i]);
    for (int i = 0; i < l->warps; i++)
        if (warp >> i & 1)
            b = bit_xor(b, l->warp[i]);
    return b;
}

/* PTX ISA, mma.m16n8k16, accumulators: c0 c1 in row lane/4, c2 c3 eight below, columns 2 * (lane % 4) and the next. */
static void accumulators_of_mma(void **state)
{
    (void)state;
    Layout l = layout_acc(target("sm_80"), (Shape){5, {0, 0}}, 16, 8);
    assert_int_equal(l.regs, 2);
    for (int lane = 0; lane < 32; lane++)
        for (int c = 0; c < 4; c++) {
            Bit want = {(uint16_t)(lane / 4 + (c < 2 ? 0 : 8)), (uint16_t)(lane % 4 * 2 + c % 2)},
                got = place(&l, lane, 0, c);
            assert_int_equal(got.row, want.row);
            assert_int_equal(got.col, want.col);
        }
}

/* CDNA3 ISA, 16x16 results: lane % 16 is the column of B, rows 4 * (lane / 16) .. + 3. The lowering gives the unit B's
 * columns as rows, so that lane % 16 is a row of the tile and its registers are neighbouring columns. */
static void accumulators_of_mfma(void **state)
{
    (void)state;
    Layout l = layout_acc(target("gfx942"), (Shape){6, {0, 0}}, 16, 16);
    assert_int_equal(l.regs, 2);
    for (int lane = 0; lane < 64; lane++)
        for (int c = 0; c < 4; c++) {
            Bit got = place(&l, lane, 0, c);
            assert_int_equal(got.row, lane % 16);
            assert_int_equal(got.col, 4 * (lane / 16) + c);
        }
}

/* RDNA3 ISA, 16x16 results of WMMA: lane % 16 is the column of B, rows 2 * register + lane / 16; rows of the unit are
 * dealt out so that they are columns 8 * (lane / 16) + register of the tile. */
static void accumulators_of_wmma(void **state)
{
    (void)state;
    Layout l = layout_acc(target("gfx1100"), (Shape){5, {0, 0}}, 16, 16);
    assert_int_equal(l.regs, 3);
    for (int lane = 0; lane < 32; lane++)
        for (int c = 0; c < 8; c++) {
            Bit got = place(&l, lane, 0, c);
            assert_int_equal(got.row, lane % 16);
            assert_int_equal(got.col, 8 * (lane / 16) + c);
        }
}

/* Every element is held, each by as many threads as any other. */
static void expect_cover(const Layout *l, int rows, int cols)
{
    int *held = calloc((size_t)(rows * cols), sizeof *held);
    for (int warp = 0; warp < 1 << l->warps; warp++)
        for (int lane = 0; lane < 1 << l->lanes; lane++)
            for (int reg = 0; reg < reg_count(l); reg++) {
                Bit b = place(l, lane, warp, reg);
                assert_true(b.row < rows && b.col < cols);
                held[b.row * cols + b.col]++;
            }
    for (int i = 0; i < rows * cols; i++)
        assert_int_equal(held[i], held[0]);
    assert_true(held[0] > 0);
    free(held);
}

static void layouts_cover_tiles(void **state)
{
    (void)state;
    static const char *const names[] = {"sm_80", "gfx90a", "gfx1100"};
    for (size_t t = 0; t < COUNT(names); t++)
        for (int w = 0; w < 9; w++) {
            const Target *target_now = target(names[t]);
            Shape s = {log2_up(target_now->gpu->wave), {w % 3, w / 3}};
            for (int rows = 1; rows <= 128; rows *= 2)
                for (int cols = 1; cols <= 128; cols *= 2) {
                    Layout flat = layout_flat(s, rows, cols, 2), acc = layout_acc(target_now, s, rows, cols);
                    expect_cover(&flat, rows, cols);
                    expect_cover(&acc, MAX(rows, 16), MAX(cols, w < 0 ? 1 : target_now->gpu->nvidia ? 8 : 16));
                    Layout sum = layout_slice(&acc, false, true);
                    expect_cover(&sum, MAX(rows, 16), 1);
                }
        }
}

static void layouts_as_text(void **state)
{
    (void)state;
    Buf text = {0};
    Layout l = layout_acc(target("sm_80"), (Shape){5, {1, 1}}, 64, 64);
    layout_print(&l, &text);
    assert_string_equal(text.data, "reg c0 c1 c2 r3 r4; lane c3 c4 r0 r1 r2; warp r5 c5");
    buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(accumulators_of_mma), cmocka_unit_test(accumulators_of_mfma),
                                       cmocka_unit_test(accumulators_of_wmma), cmocka_unit_test(layouts_cover_tiles),
                                       cmocka_unit_test(layouts_as_text)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
