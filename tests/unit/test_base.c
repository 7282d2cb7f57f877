/* Tests of compiler/base.c: arena, buffers, map, UTF-8, atomic files. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void map_holds_many_keys(void **state)
{
    (void)state;
    Map *m = map_new();
    char key[32];
    for (intptr_t i = 1; i <= 10000; i++) {
        int n = snprintf(key, sizeof key, "k%ld", (long)i);
        map_put(m, key, (size_t)n, (void *)i);
    }
    assert_int_equal(map_count(m), 10000);
    for (intptr_t i = 1; i <= 10000; i++) {
        int n = snprintf(key, sizeof key, "k%ld", (long)i);
        assert_ptr_equal(map_get(m, key, (size_t)n), (void *)i);
    }
    assert_null(map_get(m, "absent", 6));
    map_free(m);
}

static void utf8_round_trips(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
        if (cp >= 0xD800 && cp < 0xE000)
            continue;
        char out[4];
        size_t n = utf8_encode(cp, out);
        uint32_t back;
        assert_int_equal(utf8_decode(out, n, &back), n);
        assert_int_equal(back, cp);
        assert_int_equal(utf8_complete(out, n), n);
        if (n > 1)
            assert_int_equal(utf8_complete(out, n - 1), 0);
    }
    uint32_t cp;
    assert_int_equal(utf8_decode("\xC0\x80", 2, &cp), 1); /* overlong */
    assert_int_equal(cp, 0xFFFD);
    assert_int_equal(utf8_decode("\xED\xA0\x80", 3, &cp), 1); /* surrogate */
    assert_int_equal(cp, 0xFFFD);
}

static void files_are_written_whole_or_not_at_all(void **state)
{
    (void)state;
    Err err = {0};
    char path[] = "/tmp/blade_base_XXXXXX";
    assert_non_null(mkdtemp(path));
    char file[64], bad[96];
    snprintf(file, sizeof file, "%s/f", path);
    assert_true(file_write_atomic(file, "hello", 5, &err));
    Buf b = {0};
    assert_true(file_read(&b, file, 100, &err));
    assert_string_equal(b.data, "hello");
    assert_false(file_read(&b, file, 2, &err));
    assert_non_null(strstr(err.text, "limit"));
    snprintf(bad, sizeof bad, "%s/no/such/f", path);
    assert_false(file_write_atomic(bad, "x", 1, &err));
    assert_non_null(strstr(err.text, "No such file"));
    buf_free(&b);
    remove(file);
    remove(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(map_holds_many_keys),
        cmocka_unit_test(utf8_round_trips),
        cmocka_unit_test(files_are_written_whole_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
