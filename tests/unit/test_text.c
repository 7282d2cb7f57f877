/* Streamed text against a direct search, on a tokenizer whose tokens are the bytes a, b, c, d and a few strings. */
#include <stdlib.h>
#include <string.h>

#include "test.h"
#include "text.h"

/* A byte-level BPE: ids 0..3 are "a".."d", 4 is the first byte of an e with accent, 5 its second, 6 a special token. */
static const char json[] =
    "{\"model\":{\"type\":\"BPE\",\"merges\":[],"
    "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"d\":3,\"\\u00c3\":4,\"\\u00a9\":5}},"
    "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},"
    "\"added_tokens\":[{\"id\":6,\"content\":\"<s>\",\"special\":true,\"normalized\":false,\"lstrip\":false,"
    "\"rstrip\":false,\"single_word\":false}]}";

static Tokenizer *tokenizer(void)
{
    Err err = {0};
    Tokenizer *t = tok_parse(json, sizeof json - 1, NULL, 0, &err);
    if (!t)
        fail_msg("%s", err.text);
    return t;
}

/* What must come out in all: the text up to the stop string that is complete first. */
static void expected(const char *text, const char *const *stops, int count, Buf *out)
{
    size_t n = strlen(text);
    for (size_t end = 1; end <= n; end++) {
        size_t start = n;
        for (int i = 0; i < count; i++) {
            size_t len = strlen(stops[i]);
            if (len <= end && !memcmp(text + end - len, stops[i], len))
                start = MIN(start, end - len);
        }
        if (start < n) {
            buf_put(out, text, start);
            return;
        }
    }
    buf_put(out, text, n);
}

static void random_texts(void **state)
{
    (void)state;
    srand(6);
    Tokenizer *t = tokenizer();
    int stopped = 0;
    for (int round = 0; round < 20000; round++) {
        char text[33] = {0}, stop[3][8] = {{0}};
        const char *stops[3] = {stop[0], stop[1], stop[2]};
        int n = rand() % 32, count = rand() % 4;
        for (int i = 0; i < count; i++)
            for (int j = 1 + rand() % 6; j > 0; j--)
                stop[i][j - 1] = (char)('a' + rand() % 2);
        for (int i = 0; i < n; i++)
            text[i] = (char)('a' + (rand() % 12 ? rand() % 2 : 2));
        Buf want = {0}, got = {0};
        buf_reserve(&got, 1);
        expected(text, stops, count, &want);
        TextStream *s = text_new(t, NULL, 0, stops, (size_t)count);
        bool go_on = true;
        for (int i = 0; i < n && go_on; i++) {
            size_t before = got.len;
            go_on = text_push(s, (uint32_t)(text[i] - 'a'), &got);
            assert_true(got.len <= want.len && got.len >= before);
            assert_true(count || got.len == before + 1); /* nothing is held back without a reason */
        }
        bool finished = text_finish(s, &got);
        assert_int_equal(finished, go_on);
        assert_int_equal(!go_on, want.len < (size_t)n);
        assert_int_equal(got.len, want.len);
        assert_memory_equal(got.data, want.len ? want.data : "", want.len);
        stopped += !go_on;
        text_free(s);
        buf_free(&want);
        buf_free(&got);
    }
    assert_true(stopped > 2000);
    tok_free(t);
}

static void characters_are_whole(void **state)
{
    (void)state;
    Tokenizer *t = tokenizer();
    Buf out = {0};
    const char *stops[] = {"", "\xc3\xa9" "a"};
    TextStream *s = text_new(t, (uint32_t[]){0, 6}, 2, stops, 2);
    assert_true(text_push(s, 4, &out));
    assert_int_equal(out.len, 0);
    assert_true(text_push(s, 5, &out)); /* may begin the stop string */
    assert_int_equal(out.len, 0);
    assert_true(text_push(s, 1, &out));
    assert_string_equal(out.data, "\xc3\xa9" "b");
    assert_true(text_push(s, 6, &out)); /* special tokens have no text */
    assert_true(text_push(s, 4, &out));
    assert_true(text_push(s, 5, &out));
    assert_false(text_push(s, 0, &out));
    assert_false(text_push(s, 0, &out));
    assert_string_equal(out.data, "\xc3\xa9" "b");
    text_free(s);
    out.len = 0;
    s = text_new(t, NULL, 0, NULL, 0);
    assert_true(text_push(s, 4, &out));
    assert_true(text_finish(s, &out)); /* half a character at the end */
    assert_string_equal(out.data, "\xef\xbf\xbd");
    text_free(s);
    buf_free(&out);
    tok_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_texts),
        cmocka_unit_test(characters_are_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
