/* Tests of compiler/pack.c: round trip, several targets, every flipped bit, every truncation, foreign files. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pack.h"

static char path[] = "/tmp/blade_pack_XXXXXX";

static const PackHeader header = {.target = "x86-64-v3", .weights = "w4", .signature = 7, .fingerprint = 11,
                                  .numerics = 13};

static void write_sample(void)
{
    Err err = {0};
    static const char plan[] = "{\"format\": 1}", code[100] = "machine code";
    if (!pack_write(path, &header, plan, sizeof plan - 1, code, sizeof code, &err))
        fail_msg("%s", err.text);
}

static void packs_round_trip(void **state)
{
    (void)state;
    Err err = {0};
    Pack p;
    write_sample();
    if (!pack_open(path, &p, &err))
        fail_msg("%s", err.text);
    assert_string_equal(p.header.target, "x86-64-v3");
    assert_string_equal(p.header.weights, "w4");
    assert_int_equal(p.header.signature, 7);
    assert_int_equal(p.header.fingerprint, 11);
    assert_int_equal(p.header.numerics, 13);
    assert_int_equal(p.plan_len, 13);
    assert_memory_equal(p.plan, "{\"format\": 1}", 13);
    assert_int_equal(p.code_len, 100);
    assert_string_equal((const char *)p.code, "machine code");
    assert_int_equal((uintptr_t)p.code % 64, 0);
    pack_close(&p);
    assert_true(pack_write(path, &header, "", 0, "", 0, &err)); /* nothing inside is still a pack */
    assert_true(pack_open(path, &p, &err));
    assert_int_equal(p.code_len, 0);
    pack_close(&p);
}

static const PackPart parts[] = {
    {.target = "aarch64", .numerics = 1, .plan = "{}", .plan_len = 2, .code = (const uint8_t *)"arm", .code_len = 3},
    {.target = "x86-64", .numerics = 2, .plan = "{\"a\": 1}", .plan_len = 8, .code = (const uint8_t *)"x86 code",
     .code_len = 8},
};

static void packs_hold_several_targets(void **state)
{
    (void)state;
    Err err = {0};
    Pack p;
    Buf file = {0};
    pack_image(&file, &header, parts, 2, "{\"version\":\"0\"}", 15);
    assert_true(file_write_atomic(path, file.data, file.len, &err));
    assert_true(pack_open(path, &p, &err));
    assert_int_equal(p.parts_count, 2);
    assert_string_equal(p.header.target, "aarch64");
    assert_int_equal(p.origin_len, 15);
    assert_memory_equal(p.origin, "{\"version\":\"0\"}", 15);
    for (int i = 1; i >= 0; i--) {
        pack_select(&p, i);
        assert_string_equal(p.header.target, parts[i].target);
        assert_int_equal(p.header.numerics, parts[i].numerics);
        assert_int_equal(p.plan_len, parts[i].plan_len);
        assert_memory_equal(p.plan, parts[i].plan, p.plan_len);
        assert_int_equal(p.code_len, parts[i].code_len);
        assert_memory_equal(p.code, parts[i].code, p.code_len);
        assert_int_equal((uintptr_t)p.code % 64, 0);
    }
    pack_close(&p);
    buf_free(&file);
}

static uint8_t *aligned_copy(const Buf *b, size_t size)
{
    uint8_t *copy = aligned_alloc(64, (size + 127) / 64 * 64);
    assert_non_null(copy);
    memcpy(copy, b->data, size);
    return copy;
}

static void every_flipped_bit_is_found(void **state)
{
    (void)state;
    Err err = {0};
    Buf file = {0};
    Pack p;
    pack_image(&file, &header, parts, 2, "{}", 2);
    for (size_t i = 0; i < file.len * 8; i++) {
        uint8_t *copy = aligned_copy(&file, file.len);
        copy[i / 8] ^= (uint8_t)(1u << i % 8);
        err.text[0] = 0;
        if (pack_parse(copy, file.len, "p", &p, &err))
            fail_msg("bit %zu of byte %zu was not noticed", i % 8, i / 8);
        assert_true(strlen(err.text) > 10);
        free(copy);
    }
    buf_free(&file);
}

static void truncations_and_additions_are_found(void **state)
{
    (void)state;
    Err err = {0};
    Buf file = {0};
    Pack p;
    write_sample();
    assert_true(file_read(&file, path, 1 << 20, &err));
    size_t size = file.len;
    buf_puts(&file, "more");
    for (size_t n = 0; n < size + 4; n++) {
        uint8_t *copy = aligned_copy(&file, n);
        assert_int_equal(pack_parse(copy, n, "p", &p, &err), n == size);
        free(copy);
    }
    buf_free(&file);
}

static void messages_say_what_is_wrong(void **state)
{
    (void)state;
    Err err = {0};
    Pack p;
    assert_false(pack_open("/tmp/blade_no_such_pack", &p, &err));
    assert_non_null(strstr(err.text, "No such file"));
    assert_true(file_write_atomic(path, "GGUF and so on", 14, &err));
    assert_false(pack_open(path, &p, &err));
    assert_non_null(strstr(err.text, "not a pack file"));
    assert_false(pack_write("/tmp/no/such/folder/p", &header, "", 0, "", 0, &err));
    assert_non_null(strstr(err.text, "No such file"));
}

int main(void)
{
    close(mkstemp(path));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packs_round_trip),
        cmocka_unit_test(packs_hold_several_targets),
        cmocka_unit_test(every_flipped_bit_is_found),
        cmocka_unit_test(truncations_and_additions_are_found),
        cmocka_unit_test(messages_say_what_is_wrong),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
