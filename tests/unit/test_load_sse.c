/* Event streams cut at every byte, in every form of line end; what each kind of chunk counts as; error bodies. */
#include <stdlib.h>
#include <string.h>

#include "load_sse.h"
#include "test.h"

static void note(void *context, const char *data, size_t len)
{
    assert_int_equal(strlen(data), len);
    buf_put(context, data, len);
    buf_putc(context, '|');
}

/* Feeds the stream in two pieces, cut at `cut`, and byte by byte when cut is past the end. */
static void read_stream(const char *stream, size_t n, size_t cut, Buf *out)
{
    Sse s = {0};
    out->len = 0;
    buf_reserve(out, 1);
    out->data[0] = 0;
    if (cut <= n) {
        sse_feed(&s, stream, cut, note, out);
        sse_feed(&s, stream + cut, n - cut, note, out);
    } else {
        for (size_t i = 0; i < n; i++)
            sse_feed(&s, stream + i, 1, note, out);
    }
    sse_end(&s, note, out);
    assert_false(s.too_long);
    sse_free(&s);
}

static void events(void **state)
{
    (void)state;
    static const struct { const char *stream, *events; } cases[] = {
        {"data: a\n\ndata: b\n\n", "a|b|"},
        {"data: a\r\n\r\ndata: b\r\n\r\n", "a|b|"},
        {"data: a\r\rdata: b\r\r", "a|b|"},
        {"data: a\r\n\ndata: b\n\r\n", "a|b|"},
        {"\xef\xbb\xbf" "data: a\n\n", "a|"},
        {"data: \xef\xbb\xbf" "a\n\n", "\xef\xbb\xbf" "a|"},
        {": ping\n\ndata: a\n: ping\n\n: ping\n\n", "a|"},
        {"event: message\nid: 7\nretry: 10\ndata: a\n\n", "a|"},
        {"data: a\ndata: b\n\n", "a\nb|"},
        {"data:a\n\ndata:  b\n\n", "a| b|"},
        {"data\n\ndatas: x\n\n data: y\n\n", ""},
        {"data:\n\ndata: z\n\n", "|z|"},
        {"\n\n\ndata: a\n\n\n\n", "a|"},
        {"data: a\n\ndata: [DONE]\n", "a|[DONE]|"},
        {"data: a\n\ndata: [DONE]", "a|[DONE]|"},
        {"data: zw\xc3\xb6lf\n\n", "zw\xc3\xb6lf|"},
        {"", ""},
    };
    Buf out = {0};
    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t n = strlen(cases[i].stream);
        for (size_t cut = 0; cut <= n + 1; cut++) {
            read_stream(cases[i].stream, n, cut, &out);
            assert_string_equal(out.data, cases[i].events);
        }
    }
    buf_free(&out);
}

static void too_long(void **state)
{
    (void)state;
    size_t n = SSE_MAX_EVENT + 100;
    char *line = xmalloc(n);
    memset(line, 'x', n);
    memcpy(line, "data: ", 6);
    Sse s = {0};
    Buf out = {0};
    sse_feed(&s, line, n, note, &out);
    assert_true(s.too_long);
    sse_feed(&s, "\n\ndata: a\n\n", 11, note, &out);
    assert_string_equal(out.data, "a|");
    sse_free(&s);
    /* The same in many data lines of one event. */
    for (int i = 0; i < 20; i++) {
        sse_feed(&s, line, SSE_MAX_EVENT / 16, note, &out);
        sse_feed(&s, "\n", 1, note, &out);
    }
    assert_true(s.too_long);
    assert_true(s.data.cap <= 2 * (SSE_MAX_EVENT + 100));
    sse_free(&s);
    buf_free(&out);
    free(line);
}

static void chunks(void **state)
{
    (void)state;
    static const struct {
        const char *data;
        bool done, token, finish;
        int64_t prompt, completion;
        const char *error;
    } cases[] = {
        {"[DONE]", true, false, false, -1, -1, ""},
        {"[DONE] \n", true, false, false, -1, -1, ""},
        {"{\"choices\":[{\"text\":\"a\",\"finish_reason\":null}]}", false, true, false, -1, -1, ""},
        {"{\"choices\":[{\"text\":\"\",\"finish_reason\":null}]}", false, true, false, -1, -1, ""}, /* no text */
        {"{\"choices\":[{\"text\":\"a\",\"finish_reason\":\"stop\"}]}", false, true, true, -1, -1, ""},
        {"{\"choices\":[{\"text\":\"\",\"finish_reason\":\"stop\"}]}", false, false, true, -1, -1, ""},
        {"{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}", false, false, false, -1, -1, ""},
        {"{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}", false, false, false, -1, -1, ""},
        {"{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"a\"}}]}", false, true, false, -1, -1, ""},
        {"{\"choices\":[{\"delta\":{\"content\":\"a\"}}]}", false, true, false, -1, -1, ""},
        {"{\"choices\":[{\"delta\":{\"content\":\"\"}}]}", false, true, false, -1, -1, ""},
        {"{\"choices\":[{\"delta\":{\"reasoning_content\":\"a\"}}]}", false, true, false, -1, -1, ""},
        {"{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"tool_calls\":[{}]}}]}", false, true, false, -1, -1, ""},
        {"{\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}", false, false, true, -1, -1, ""},
        {"{\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7}}", false, false, false, 5, 7, ""},
        {"{\"choices\":[{\"text\":\"a\"}],\"usage\":null}", false, true, false, -1, -1, ""},
        {"{\"choices\":[{\"text\":\"a\"}],\"usage\":{\"prompt_tokens\":-5,\"completion_tokens\":\"7\"}}", false, true,
         false, -1, -1, ""},
        {"{\"error\":{\"message\":\"no\\nmemory\"}}", false, false, false, -1, -1, "no memory"},
        {"{\"choices\":[{\"text\":\"a\"}],\"error\":null}", false, true, false, -1, -1, ""},
        {"{\"error\":\"plain\"}", false, false, false, -1, -1, "plain"},
        {"{\"choices\":3}", false, false, false, -1, -1, ""},
        {"{}", false, false, false, -1, -1, ""},
        {"[1]", false, false, false, -1, -1, "an event is no JSON object: [1]"},
        {"{\"choices\":[{", false, false, false, -1, -1, "an event is no JSON object: {\"choices\":[{"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        LoadChunk c;
        load_chunk_read(cases[i].data, strlen(cases[i].data), &c);
        assert_string_equal(c.error, cases[i].error);
        assert_int_equal(c.done, cases[i].done);
        assert_int_equal(c.token, cases[i].token);
        assert_int_equal(c.finish, cases[i].finish);
        assert_int_equal(c.prompt_tokens, cases[i].prompt);
        assert_int_equal(c.completion_tokens, cases[i].completion);
    }
}

static void error_bodies(void **state)
{
    (void)state;
    static const struct { const char *body, *text; } cases[] = {
        {"{\"error\":{\"message\":\"full\",\"code\":429}}", "full"},
        {"{\"object\":\"error\",\"message\":\"full\"}", "full"},
        {"{\"detail\":\"Not Found\"}", "Not Found"},
        {"{\"error\":{\"code\":1},\"message\":\"outer\"}", "outer"},
        {"<html>\nbad\tgateway\x7f</html>", "<html> bad gateway </html>"},
        {"a\xff" "b\xc3", "a?b"},
        {"", ""},
    };
    char text[64];
    for (size_t i = 0; i < COUNT(cases); i++) {
        load_error_text(cases[i].body, strlen(cases[i].body), text, sizeof text);
        assert_string_equal(text, cases[i].text);
    }
    load_error_text(NULL, 0, text, sizeof text);
    assert_string_equal(text, "");
    load_error_text("{\"error\":\"zw\xc3\xb6lf\"}", 18, text, 4); /* cut within a character */
    assert_string_equal(text, "zw");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events), cmocka_unit_test(too_long), cmocka_unit_test(chunks), cmocka_unit_test(error_bodies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
