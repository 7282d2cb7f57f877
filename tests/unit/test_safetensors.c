/* Tests of compiler/safetensors.c: what a good file gives, and each kind of lie with its message. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "safetensors.h"

/* A file: length of the header, header, `data` bytes counting up from 0. `claim`, unless negative, is the length. */
static Buf file_of(const char *header, size_t data, int64_t claim)
{
    Buf b = {0};
    uint64_t n = claim < 0 ? strlen(header) : (uint64_t)claim;
    for (int i = 0; i < 8; i++)
        buf_putc(&b, (char)(n >> 8 * i));
    buf_puts(&b, header);
    for (size_t i = 0; i < data; i++)
        buf_putc(&b, (char)i);
    return b;
}

static void good_files_are_read(void **state)
{
    (void)state;
    Buf f = file_of("{\"__metadata__\":{\"format\":\"pt\"},"
                    "\"w\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]},"
                    "\"empty\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[8,8]},"
                    "\"scalar\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},"
                    "\"last\":{\"dtype\":\"F8_E4M3\",\"shape\":[1,1,1,1,1,1,1,1],\"data_offsets\":[20,21]}}   ",
                    21, -1);
    Arena *a = arena_new();
    Err err = {0};
    Tensor *t;
    size_t n;
    if (!safetensors_read(a, (uint8_t *)f.data, f.len, &t, &n, &err))
        fail_msg("%s", err.text);
    assert_int_equal(n, 4); /* in the order of the data; the empty one before the one that starts there */
    assert_string_equal(t[0].name, "scalar");
    assert_int_equal(t[0].rank, 0);
    assert_int_equal(t[0].bytes, 8);
    assert_int_equal(t[0].type, DT_S64);
    assert_string_equal(t[1].name, "empty");
    assert_int_equal(t[1].bytes, 0);
    assert_string_equal(t[2].name, "w");
    assert_int_equal(t[2].type, DT_BF16);
    assert_int_equal(t[2].shape[0], 2);
    assert_int_equal(t[2].shape[1], 3);
    assert_int_equal(t[2].bytes, 12);
    assert_int_equal(*(const uint8_t *)t[2].data, 8);
    assert_int_equal(t[3].rank, 8);
    assert_int_equal(*(const uint8_t *)t[3].data, 20);
    arena_free(a);
    buf_free(&f);
}

static void a_file_without_tensors_is_read(void **state)
{
    (void)state;
    Buf f = file_of("{}", 0, -1);
    Arena *a = arena_new();
    Err err = {0};
    Tensor *t;
    size_t n = 9;
    assert_true(safetensors_read(a, (uint8_t *)f.data, f.len, &t, &n, &err));
    assert_int_equal(n, 0);
    arena_free(a);
    buf_free(&f);
}

#define W(dtype, shape, offsets) "{\"w\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static const struct {
    const char *lie, *header;
    int data; /* bytes */
    int64_t claim;
    const char *message;
} lies[] = {
    {"header longer than the file", "{}", 0, 3, "header length 3, but only 2 bytes follow: it is truncated"},
    {"header of 2^63", "{}", 0, INT64_MAX, "header length 9223372036854775807 exceeds 100000000 bytes"},
    {"header above the limit", "{}", 0, 100000001, "exceeds 100000000 bytes"},
    {"no header", "{}", 0, 0, "does not begin with '{'"},
    {"header that is an array", "[]", 0, -1, "does not begin with '{'"},
    {"spaces before the header", " {}", 0, -1, "does not begin with '{'"},
    {"header cut short", "{\"w\":", 0, 4, "header, byte 4"},
    {"text after the header", "{}{}", 0, -1, "header, byte"},
    {"nesting", "{\"w\":[[[[[[[[]]]]]]]]}", 0, -1, "tensor \"w\": its entry in the header is not an object"},
    {"invalid UTF-8", "{\"\xff\":1}", 0, -1, "unable to decode byte 0xff"},
    {"NUL in a name", "{\"a\\u0000b\":1}", 0, -1, "header, byte"},
    {"metadata that is no object", "{\"__metadata__\":[]}", 0, -1, "\"__metadata__\" is not an object"},
    {"repeated name",
     "{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
     "\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
     1, -1, "duplicate object key"},
    {"no dtype", "{\"w\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, -1,
     "tensor \"w\": its \"dtype\" is not a string"},
    {"dtype that is a number", W("7", "[1]", "[0,1]"), 1, -1, "its \"dtype\" is not a string"},
    {"unknown dtype", W("\"C64\"", "[1]", "[0,8]"), 8, -1,
     "tensor \"w\": dtype \"C64\" is not supported; supported are"},
    {"sub-byte dtype", W("\"F4\"", "[2]", "[0,1]"), 1, -1, "dtype \"F4\" is not supported"},
    {"our own name of a dtype", W("\"f32\"", "[1]", "[0,4]"), 4, -1, "dtype \"f32\" is not supported"},
    {"empty dtype", W("\"\"", "[1]", "[0,4]"), 4, -1, "dtype \"\" is not supported"},
    {"escape sequence in a dtype", W("\"\\u001b[2J\"", "[1]", "[0,4]"), 4, -1, "dtype \"?[2J\" is not supported"},
    {"no shape", "{\"w\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, -1, "its \"shape\" is not an array"},
    {"shape that is a number", W("\"U8\"", "1", "[0,1]"), 1, -1, "its \"shape\" is not an array"},
    {"negative dimension", W("\"U8\"", "[-1,-1]", "[0,1]"), 1, -1, "dimension 0 of its \"shape\""},
    {"real dimension", W("\"U8\"", "[1,1.0]", "[0,1]"), 1, -1, "dimension 1 of its \"shape\""},
    {"nine dimensions", W("\"U8\"", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, -1, "it has 9 dimensions, at most 8"},
    {"shape that overflows", W("\"U8\"", "[4294967296,4294967296]", "[0,0]"), 0, -1, "its shape is too big"},
    {"shape that overflows to 1", W("\"U8\"", "[4294967297,4294967297,0]", "[0,1]"), 1, -1, "its shape is too big"},
    {"size that overflows", W("\"F32\"", "[4611686018427387904]", "[0,0]"), 0, -1, "its shape is too big"},
    {"dimension above int64", W("\"U8\"", "[18446744073709551616]", "[0,0]"), 0, -1, "too big integer"},
    {"no offsets", "{\"w\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, -1, "its \"data_offsets\" are not two integers"},
    {"one offset", W("\"U8\"", "[1]", "[0]"), 1, -1, "its \"data_offsets\" are not two integers"},
    {"three offsets", W("\"U8\"", "[1]", "[0,1,1]"), 1, -1, "its \"data_offsets\" are not two integers"},
    {"real offsets", W("\"U8\"", "[1]", "[0,1.0]"), 1, -1, "its \"data_offsets\" are not two integers"},
    {"negative offset", W("\"U8\"", "[1]", "[-1,0]"), 1, -1, "[-1, 0] are not a range"},
    {"end before begin", W("\"U8\"", "[1]", "[2,1]"), 3, -1, "[2, 1] are not a range"},
    {"end beyond the file", W("\"U8\"", "[4]", "[0,4]"), 3, -1,
     "data end at byte 4, but only 3 bytes of data are there"},
    {"end far beyond the file", W("\"U8\"", "[9223372036854775807]", "[0,9223372036854775807]"), 3, -1,
     "it is truncated"},
    {"fewer bytes than the shape", W("\"F32\"", "[2]", "[0,4]"), 4, -1, "span 4 bytes, but its dtype and shape make 8"},
    {"more bytes than the shape", W("\"F16\"", "[1]", "[0,4]"), 4, -1, "span 4 bytes, but its dtype and shape make 2"},
    {"overlap",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}",
     7, -1, "tensors \"a\" and \"b\" overlap"},
    {"two tensors in one place",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
     4, -1, "overlap"},
    {"gap",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[3,4]}}",
     4, -1, "2 bytes before tensor \"b\" belong to no tensor"},
    {"data after the last tensor", W("\"U8\"", "[1]", "[0,1]"), 6, -1, "the last 5 bytes belong to no tensor"},
};

static void lies_are_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(lies); i++) {
        Buf f = file_of(lies[i].header, (size_t)lies[i].data, lies[i].claim);
        Arena *a = arena_new();
        Err err = {0};
        Tensor *t;
        size_t n;
        if (safetensors_read(a, (uint8_t *)f.data, f.len, &t, &n, &err))
            fail_msg("%s: accepted", lies[i].lie);
        if (!strstr(err.text, lies[i].message))
            fail_msg("%s: \"%s\" does not say \"%s\"", lies[i].lie, err.text, lies[i].message);
        arena_free(a);
        buf_free(&f);
    }
}

static void foreign_files_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        const char *message;
    } cases[] = {
        {"", 0, "0 bytes are too few"},
        {"\x02\0\0\0\0\0\0", 7, "7 bytes are too few"},
        {"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", 56, "a Git LFS pointer"},
        {"GGUF\3\0\0\0\0\0\0\0", 12, "a GGUF file, which is not supported"},
        {"PK\3\4\0\0\0\0\0\0", 10, "only safetensors is supported"},
        {"<!DOCTYPE html><html></html>", 28, "the download failed"},
        {"\x80\x02}q\0(X\0\0\0", 10, "exceeds 100000000 bytes"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        Err err = {0};
        Tensor *t;
        size_t n;
        assert_false(safetensors_read(NULL, (const uint8_t *)cases[i].bytes, cases[i].size, &t, &n, &err));
        if (!strstr(err.text, cases[i].message))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, err.text, cases[i].message);
    }
}

/* Whatever the length, a cut file is refused and nothing past its end is read (AddressSanitizer sees to the second). */
static void every_truncation_is_refused(void **state)
{
    (void)state;
    Buf f = file_of("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                    "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[8,9]}}",
                    9, -1);
    for (size_t size = 0; size < f.len; size++) {
        uint8_t *cut = xmalloc(size);
        memcpy(cut, f.data, size);
        Arena *a = arena_new();
        Err err = {0};
        Tensor *t;
        size_t n;
        assert_false(safetensors_read(a, cut, size, &t, &n, &err));
        assert_true(*err.text);
        arena_free(a);
        free(cut);
    }
    buf_free(&f);
}

static void names_are_made_fit_for_messages(void **state)
{
    (void)state;
    assert_string_equal(quoted("model.norm.weight").text, "model.norm.weight");
    assert_string_equal(quoted("a\"b\nc\x1b[0m").text, "a?b?c?[0m");
    char name[301];
    for (int i = 0; i < 100; i++)
        memcpy(name + 3 * i, "\xe4\xb8\xad", 3);
    name[300] = 0;
    Quoted q = quoted(name);
    assert_int_equal(strlen(q.text), 96 + 3); /* whole characters, then "..." */
    assert_string_equal(q.text + 96, "...");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_files_are_read),         cmocka_unit_test(a_file_without_tensors_is_read),
        cmocka_unit_test(lies_are_named),              cmocka_unit_test(foreign_files_are_named),
        cmocka_unit_test(every_truncation_is_refused), cmocka_unit_test(names_are_made_fit_for_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
