/* Streamed text against a direct search, on a tokenizer whose tokens are the bytes a, b, c, d and a few strings. */
#include <stdlib.h>
#include <string.h>

#include "test.h"
#include "text.h"

/* A byte-level BPE: ids 0..3 are "a".."d", 4 is the first byte of an e with accent, 5 its second, 6..9
 * words of several letters, 10 a special token. */
static const char json[] =
    "{\"model\":{\"type\":\"BPE\",\"merges\":[],"
    "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"d\":3,\"\\u00c3\":4,\"\\u00a9\":5,\"ab\":6,\"ba\":7,\"aab\":8,\"bca\":9}},"
    "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},"
    "\"added_tokens\":[{\"id\":10,\"content\":\"<s>\",\"special\":true,\"normalized\":false,\"lstrip\":false,"
    "\"rstrip\":false,\"single_word\":false}]}";

static Tokenizer *tokenizer(void)
{
    Err err = {0};
    Tokenizer *t = tok_parse(json, sizeof json - 1, NULL, 0, &err);
    if (!t)
        fail_msg("%s", err.text);
    return t;
}

static const char *const words[] = {"a", "b", "c", "d", "", "", "ab", "ba", "aab", "bca"};

typedef struct Expected {
    size_t len, tokens; /* bytes of the text that come out; tokens until it is known that they are all */
    const char *stop;   /* or NULL */
} Expected;

/* What must come out of tokens: the text up to the stop string that is complete first; of several the longest. */
static Expected expected(const uint32_t *tokens, size_t n, const TextOptions *o)
{
    char text[100] = "";
    size_t end = 0;
    for (size_t i = 0; i < n; i++)
        for (const char *c = words[tokens[i]]; *c; c++) {
            Expected e = {0};
            text[end++] = *c;
            for (size_t k = 0; k < o->stops_count && (int64_t)i >= o->min_tokens; k++) {
                size_t len = strlen(o->stops[k]);
                if (len <= end && !memcmp(text + end - len, o->stops[k], len) && (!e.stop || len > strlen(e.stop)))
                    e = (Expected){o->include_stop ? end : end - len, i + 1, o->stops[k]};
            }
            if (e.stop)
                return e;
        }
    return (Expected){end, n, NULL};
}

static void check_text(const Tokenizer *t, const uint32_t *tokens, size_t n, const TextOptions *o)
{
    Expected want = expected(tokens, n, o);
    Buf got = {0}, all = {0};
    buf_reserve(&got, 1);
    buf_reserve(&all, 1);
    TextStream *s = text_new(t, NULL, 0, o);
    bool go_on = true;
    for (size_t i = 0; i < n && go_on; i++) {
        go_on = text_push(s, tokens[i], &got);
        buf_puts(&all, words[tokens[i]]);
        assert_true(got.len <= want.len);
        assert_true(!go_on || got.len + text_held(s) == all.len);
        assert_true(!go_on || o->stops_count || !text_held(s)); /* nothing is held back without a reason */
        assert_int_equal(go_on, !want.stop || i + 1 < want.tokens);
    }
    assert_int_equal(text_finish(s, &got), !want.stop);
    assert_int_equal(got.len, want.len);
    assert_memory_equal(got.data, all.data, want.len);
    assert_int_equal(text_held(s), 0);
    if (want.stop)
        assert_string_equal(text_stop(s), want.stop);
    else
        assert_null(text_stop(s));
    text_free(s);
    buf_free(&got);
    buf_free(&all);
}

static void random_texts(void **state)
{
    (void)state;
    srand(6);
    Tokenizer *t = tokenizer();
    int stopped = 0;
    for (int round = 0; round < 20000; round++) {
        uint32_t tokens[32];
        char stop[3][8] = {{0}};
        const char *stops[3] = {stop[0], stop[1], stop[2]};
        size_t n = (size_t)(rand() % 32);
        TextOptions o = {.stops = stops, .stops_count = (size_t)(rand() % 4), .include_stop = rand() % 2};
        o.min_tokens = rand() % 2 ? 0 : rand() % 20;
        for (size_t i = 0; i < o.stops_count; i++)
            for (int j = 1 + rand() % 6; j > 0; j--)
                stop[i][j - 1] = (char)('a' + rand() % 2);
        for (size_t i = 0; i < n; i++)
            tokens[i] = (uint32_t)(rand() % 3 ? rand() % 2 : rand() % 3 ? 6 + rand() % 4 : 2);
        check_text(t, tokens, n, &o);
        stopped += expected(tokens, n, &o).stop != NULL;
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
    TextStream *s = text_new(t, (uint32_t[]){0, 10}, 2, &(TextOptions){.stops = stops, .stops_count = 2});
    assert_true(text_push(s, 4, &out));
    assert_int_equal(out.len, 0);
    assert_true(text_push(s, 5, &out)); /* may begin the stop string */
    assert_int_equal(out.len, 0);
    assert_true(text_push(s, 1, &out));
    assert_string_equal(out.data, "\xc3\xa9" "b");
    assert_true(text_push(s, 10, &out)); /* special tokens have no text */
    assert_true(text_push(s, 4, &out));
    assert_true(text_push(s, 5, &out));
    assert_false(text_push(s, 0, &out));
    assert_false(text_push(s, 0, &out));
    assert_string_equal(out.data, "\xc3\xa9" "b");
    text_free(s);
    out.len = 0;
    s = text_new(t, NULL, 0, NULL);
    assert_true(text_push(s, 4, &out));
    assert_true(text_finish(s, &out)); /* half a character at the end */
    assert_string_equal(out.data, "\xef\xbf\xbd");
    text_free(s);
    out.len = 0;
    s = text_new(t, NULL, 0, &(TextOptions){.keep_special = true});
    assert_true(text_push(s, 10, &out) && text_push(s, 0, &out) && text_finish(s, &out));
    assert_string_equal(out.data, "<s>a");
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
