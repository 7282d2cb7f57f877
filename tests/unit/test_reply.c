/* Answers taken apart: examples with what must come out, each in every cut into two pieces and in random ones; random
 * texts of tags and JSON, whole against cut. What came out is written down as
 *     content:TEXT|reasoning:TEXT|call0:NAME|args0:TEXT|... */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reply.h"
#include "test.h"

typedef struct Seen {
    Buf text;
    ReplyKind last;
    int last_call;
    bool any;
} Seen;

static void note(void *context, const ReplyPart *p)
{
    Seen *s = context;
    bool same = s->any && p->kind == s->last && p->kind != REPLY_CALL;
    if (p->kind == REPLY_CALL) {
        assert_true(p->name && *p->name);
        assert_int_equal(p->len, 0);
        assert_int_equal(p->call, s->last_call + 1);
        s->last_call = p->call;
        buf_printf(&s->text, "%scall%d:%s", s->any ? "|" : "", p->call, p->name);
    } else {
        assert_true(p->len > 0);
        if (!same)
            buf_puts(&s->text, s->any ? "|" : "");
        if (!same && p->kind == REPLY_ARGUMENTS)
            buf_printf(&s->text, "args%d:", p->call);
        else if (!same)
            buf_puts(&s->text, p->kind == REPLY_CONTENT ? "content:" : "reasoning:");
        if (p->kind == REPLY_ARGUMENTS) {
            assert_int_equal(p->call, s->last_call);
            assert_true(same || *p->text == '{');
        }
        buf_put(&s->text, p->text, p->len);
    }
    s->any = true;
    s->last = p->kind;
}

/* What comes out of text[0..n) in pieces that end at the `cuts`. */
static char *taken_apart(const ReplyOptions *o, const char *text, size_t n, const size_t *cuts, size_t count)
{
    Seen s = {.last_call = -1};
    buf_puts(&s.text, "");
    ReplyParser *r = reply_new(o);
    size_t at = 0;
    for (size_t i = 0; i <= count; i++) {
        size_t end = i < count ? cuts[i] : n;
        char *piece = memcpy(xmalloc(end - at + 1), text + at, end - at); /* exact size: AddressSanitizer looks on */
        reply_push(r, piece, end - at, note, &s);
        free(piece);
        at = end;
    }
    reply_finish(r, note, &s);
    assert_int_equal(reply_calls(r), s.last_call + 1);
    reply_free(r);
    return s.text.data;
}

static void check_cuts(const ReplyOptions *o, const char *text, size_t n, const char *want)
{
    size_t *cuts = xmalloc(sizeof *cuts * (n + 1));
    for (size_t i = 0; i <= n; i++)
        for (int way = 0; way < 3; way++) { /* in two; single bytes up to there; random */
            size_t count = 0;
            if (way == 0)
                cuts[count++] = i;
            else
                for (size_t at = 1; at < (way == 1 ? i : n); at += way == 1 ? 1 : 1 + (size_t)rand() % (i + 1))
                    cuts[count++] = at;
            char *got = taken_apart(o, text, n, cuts, count);
            assert_string_equal(got, want);
            free(got);
        }
    free(cuts);
}

static void check_style(ReplyOptions o, const char *text, const char *want)
{
    char *whole = taken_apart(&o, text, strlen(text), NULL, 0);
    assert_string_equal(whole, want);
    free(whole);
    check_cuts(&o, text, strlen(text), want);
}

static void hermes(const char *text, const char *want)
{
    check_style((ReplyOptions){.style = REPLY_HERMES}, text, want);
}

static void llama3(const char *text, const char *want)
{
    check_style((ReplyOptions){.style = REPLY_LLAMA3}, text, want);
}

static void think(bool in_reasoning, const char *text, const char *want)
{
    check_style((ReplyOptions){.reasoning = true, .in_reasoning = in_reasoning}, text, want);
}

#define CALL(json) "<tool_call>\n" json "\n</tool_call>"

static void hermes_calls(void **state)
{
    (void)state;
    hermes(CALL("{\"name\": \"f\", \"arguments\": {\"a\": 1}}"), "call0:f|args0:{\"a\": 1}");
    hermes(CALL("{\"arguments\": {\"a\": 1}, \"name\": \"f\"}"), "call0:f|args0:{\"a\": 1}");
    hermes("<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>", "call0:f|args0:{}");
    hermes(CALL("{\"name\": \"f\"}"), "call0:f|args0:{}");
    hermes(CALL("{\"type\": \"function\", \"n\": [1, {\"}\": 2}], \"x\": -1.5e3, \"y\": null, \"name\": \"f\", "
                "\"arguments\": {\"a\": 1}, \"id\": \"z\"}"),
           "call0:f|args0:{\"a\": 1}");
    hermes(CALL("{\"name\": \"gr\\u00fc\\\"\\n\", \"arguments\": {}}"), "call0:gr\xc3\xbc\"\n|args0:{}");
    hermes(CALL("{ \"name\" : \"f\" ,\n \"arguments\" : { \"a\" : [ ] } }"), "call0:f|args0:{ \"a\" : [ ] }");
}

static void hermes_text_around(void **state)
{
    (void)state;
    hermes("", "");
    hermes(" \n", "content: \n");
    hermes("a < b <tool_cal<tool> </tool_call>", "content:a < b <tool_cal<tool> </tool_call>");
    hermes("I look.\n\n" CALL("{\"name\": \"f\", \"arguments\": {}}") "\n"
           CALL("{\"name\": \"g\", \"arguments\": {\"b\": \"\xc3\xa9\"}}") "\n\nDone. \n",
           "content:I look.|call0:f|args0:{}|call1:g|args1:{\"b\": \"\xc3\xa9\"}|content:Done. \n");
    hermes(CALL("{\"name\": \"f\", \"arguments\": {}}") "x <" CALL("{\"name\": \"g\", \"arguments\": {}}"),
           "call0:f|args0:{}|content:x <|call1:g|args1:{}");
}

static void hermes_nesting(void **state)
{
    (void)state;
    const char *arguments[] = {
        "{\"a\": {\"b\": [{\"c\": {}}]}}", "{\"code\": \"if (x) { y(\\\"</tool_call>\\\"); }\"}",
        "{\"tag\": \"<tool_call>{\\\"name\\\"}</tool_call>\\\\\"}", "{\"}\": \"{\", \"]\": [\"\\\\\", \"\\\"}\"]}",
        "{\n  \"think\": \"<think>no</think>\"\n}", "{\"name\": \"other\", \"arguments\": {}}",
    };
    for (size_t i = 0; i < COUNT(arguments); i++) {
        char text[512], want[512];
        snprintf(text, sizeof text, "<tool_call>\n{\"name\": \"f\", \"arguments\": %s}\n</tool_call>", arguments[i]);
        snprintf(want, sizeof want, "call0:f|args0:%s", arguments[i]);
        hermes(text, want);
        snprintf(text, sizeof text, "<tool_call>\n{\"arguments\": %s, \"name\": \"f\"}\n</tool_call>", arguments[i]);
        hermes(text, want);
    }
}

/* What is no call is content, to the last byte. */
static void hermes_malformed(void **state)
{
    (void)state;
    const char *texts[] = {
        "<tool_call></tool_call>", "a \n<tool_call>\nf(x)\n</tool_call>", CALL("[1]"), CALL("{}"),
        CALL("{\"name\": 1}"),
        CALL("{\"name\": \"\", \"arguments\": {}}"), CALL("{\"name\": \"a\\q\", \"arguments\": {}}"),
        CALL("{\"name\": \"f\", \"name\": \"g\", \"arguments\": {}}"), CALL("{\"name\": \"f\", \"arguments\": \"x\"}"),
        CALL("{\"name\": \"f\", \"arguments\": null}"), CALL("{\"arguments\": {\"a\": 1}}"), CALL("{name: \"f\"}"),
        CALL("{\"arguments\": {}, \"arguments\": {}, \"name\": \"f\"}"),
        CALL("{\"name\": \"a\nb\", \"arguments\": {}}"),
        CALL("{\"name\" \"f\"}"), CALL("{\"x\": @}"), CALL("{\"x\": 1 2}"), CALL("{\"name\": \"f\";}"),
        "<tool_call>\n{\"name\": \"f", "<tool_call>{\"name\": \"f\", \"arguments\": ", "text <tool_call>", "x <tool_",
        "<tool_call>{\"arguments\": {\"a\": {}",
    };
    for (size_t i = 0; i < COUNT(texts); i++) {
        char want[512];
        snprintf(want, sizeof want, "content:%s", texts[i]);
        hermes(texts[i], want);
    }
    hermes("<tool_call>{x}</tool_call>\n" CALL("{\"name\": \"f\", \"arguments\": {}}"),
           "content:<tool_call>{x}</tool_call>|call0:f|args0:{}");
    hermes("<tool_call><tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
           "content:<tool_call>|call0:f|args0:{}");
}

/* A call that was announced stays one. */
static void hermes_broken_off(void **state)
{
    (void)state;
    hermes("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"b\\", "call0:f|args0:{\"a\": \"b\\");
    hermes("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}", "call0:f|args0:{\"a\": 1}");
    hermes("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"i", "call0:f|args0:{\"a\": 1}");
    hermes("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool", "call0:f|args0:{\"a\": 1}");
    hermes(CALL("{\"name\": \"f\", \"arguments\": {\"a\": oh, 1]}"), "call0:f|args0:{\"a\": oh, 1]");
}

static void hermes_careless(void **state)
{
    (void)state;
    hermes(CALL("{\"name\": \"f\", \"arguments\": {\"a\": 1}") "\n" CALL("{\"name\": \"g\", \"arguments\": {}}}"),
           "call0:f|args0:{\"a\": 1}|call1:g|args1:{}");
    hermes("<tool_call>{\"name\": \"f\", \"arguments\": {}}\n<tool_call>{\"name\": \"g\", \"arguments\": {}} and so on",
           "call0:f|args0:{}|call1:g|args1:{}|content:and so on");
    hermes("<tool_call>{\"name\": \"f\", \"arguments\": {}} </tool <b>", "call0:f|args0:{}|content:</tool <b>");
    hermes("<tool_call>{\"name\": \"f\", \"arguments\": {}, oops", "call0:f|args0:{}|content:oops");
}

#define TAG "<|python_tag|>"

static void llama3_calls(void **state)
{
    (void)state;
    llama3("{\"name\": \"f\", \"parameters\": {\"a\": {\"b\": \"}\"}}}", "call0:f|args0:{\"a\": {\"b\": \"}\"}}");
    llama3("\n {\"name\": \"f\", \"arguments\": {}}\n", "call0:f|args0:{}");
    llama3("{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}", "call0:f|args0:{}");
    llama3(TAG "{\"name\": \"f\", \"parameters\": {\"a\": 1}}", "call0:f|args0:{\"a\": 1}");
    llama3(TAG "\n{\"name\": \"f\", \"parameters\": {}}; {\"parameters\": {\"x\": [1]}, \"name\": \"g\"}",
           "call0:f|args0:{}|call1:g|args1:{\"x\": [1]}");
    llama3("{\"name\": \"f\", \"parameters\": {}};{\"name\": \"g\", \"parameters\": {}} ;\n{\"name\": \"h\", "
           "\"parameters\": {}};", "call0:f|args0:{}|call1:g|args1:{}|call2:h|args2:{}");
    llama3("{\"name\": \"f\", \"parameters\": {\"a\": 1", "call0:f|args0:{\"a\": 1");
    llama3("{\"name\": \"f\", \"parameters\": {}} is what I call", "call0:f|args0:{}|content:is what I call");
    llama3("{\"name\": \"f\", \"parameters\": {}}; then", "call0:f|args0:{}|content:; then");
    llama3("{\"name\": \"f\", \"parameters\": {}}; {\"x\": 1}", "call0:f|args0:{}|content:; {\"x\": 1}");
}

static void llama3_text(void **state)
{
    (void)state;
    const char *texts[] = {
        "Hello {\"name\": \"f\", \"parameters\": {}}", " hi", "{", "{}", "{\"city\": \"Paris\", \"name\": \"f\"}",
        "{\"name\": \"John\", \"age\": 3}", "{\"name\": \"John\"}", "{ x } is a set", TAG "print(1)", TAG, "<|python_t",
        TAG "<|python{\"name\": \"f\"}", "<|python{\"name\": \"f\", \"parameters\": {}}",
        "<|py {\"name\": \"f\", \"parameters\": {}}", "\n\n", "<tool_call>{}", "{\"name\": \"f\", \"parameters\": [1]}",
        "{\"name\": \"f\"; \"parameters\": {}}", "{\"name\": \"f\", \"parameters\"",
    };
    for (size_t i = 0; i < COUNT(texts); i++) {
        char want[512];
        snprintf(want, sizeof want, "content:%s", texts[i]);
        llama3(texts[i], want);
    }
}

static void reasoning(void **state)
{
    (void)state;
    think(false, "<think>\nHm <b>?\n\n</b>\n</think>\n\nYes.\n", "reasoning:Hm <b>?\n\n</b>|content:Yes.\n");
    think(false, "\n<think>a</think>b<think>c</think>", "reasoning:a|content:b<think>c</think>");
    think(false, "No <think>a</think>", "content:No <think>a</think>");
    think(false, "\n\n<thin", "content:\n\n<thin");
    think(false, " <thing", "content: <thing");
    think(false, "<think>\n\n</think>\n\nhello", "content:hello");
    think(false, "<think></think>", "");
    think(false, "<think>", "");
    think(false, "<think>on and on\n</thi", "reasoning:on and on\n</thi");
    think(true, "so\n</think>\n\nYes", "reasoning:so|content:Yes");
    think(true, "\n<think>\nso</think>Yes", "reasoning:so|content:Yes");
    think(true, "<thinso", "reasoning:<thinso");
    think(true, "<thi", "reasoning:<thi");
    think(true, "on and on", "reasoning:on and on");
    think(true, "</think>x", "content:x");
    think(true, "a</think</think>x", "reasoning:a</think|content:x");
    check_style((ReplyOptions){0}, "<think>a</think> <tool_call>{\"name\": \"f\"}</tool_call>",
                "content:<think>a</think> <tool_call>{\"name\": \"f\"}</tool_call>");
    check_style((ReplyOptions){.in_reasoning = true}, "a</think>b", "reasoning:a|content:b");
}

static void reasoning_and_calls(void **state)
{
    (void)state;
    check_style((ReplyOptions){.style = REPLY_HERMES, .reasoning = true},
                "<think>\nf? <tool_call>{\"name\": \"g\"}</tool_call>\n</think>\n\n"
                CALL("{\"name\": \"f\", \"arguments\": {\"a\": \"</think>\"}}"),
                "reasoning:f? <tool_call>{\"name\": \"g\"}</tool_call>|call0:f|args0:{\"a\": \"</think>\"}");
    check_style((ReplyOptions){.style = REPLY_LLAMA3, .reasoning = true},
                "<think>f</think>\n{\"name\": \"f\", \"parameters\": {}}", "reasoning:f|call0:f|args0:{}");
    check_style((ReplyOptions){.style = REPLY_LLAMA3, .reasoning = true},
                " {\"name\": \"f\", \"parameters\": {}}", "call0:f|args0:{}");
    check_style((ReplyOptions){.style = REPLY_HERMES, .reasoning = true}, " \n" CALL("{\"name\": \"f\"}"),
                "call0:f|args0:{}");
}

/* Arguments and text are handed out at once, but for what may become a tag. */
static void nothing_waits_without_reason(void **state)
{
    (void)state;
    const struct { const char *piece, *seen; } pieces[] = {
        {"Wait", "content:Wait"}, {"a <", "content:Waita"}, {"b", "content:Waita <b"},
        {"\n<tool_call>{\"name\": \"f\", \"argu", "content:Waita <b"},
        {"ments\": {", "content:Waita <b|call0:f|args0:{"},
        {"\"a\": \"x", "content:Waita <b|call0:f|args0:{\"a\": \"x"},
        {" y\"}", "content:Waita <b|call0:f|args0:{\"a\": \"x y\"}"},
    };
    Seen s = {.last_call = -1};
    ReplyParser *r = reply_new(&(ReplyOptions){.style = REPLY_HERMES});
    for (size_t i = 0; i < COUNT(pieces); i++) {
        reply_push(r, pieces[i].piece, strlen(pieces[i].piece), note, &s);
        assert_string_equal(s.text.data, pieces[i].seen);
    }
    reply_free(r);
    buf_free(&s.text);
}

/* Texts put together from the words of the grammars, so that every state is met. */
static void random_texts(void **state)
{
    (void)state;
    static const char *const words[] = {
        "<think>", "</think>", "<tool_call>", "</tool_call>", TAG, "{", "}", "[", "]", "\"", ":",
        ",", ";", "\\", " ", "\n", "<", "x", "1", "<think>\n",
        "<tool_call>{\"name\": \"f\", \"arguments\": {", "\"name\": \"g\"",
        "\"parameters\": {\"a\": 1}", "{\"name\": \"f\", \"parameters\": {}}", "}\n</tool_call>", "\xc3\xa9"};
    srand(4);
    int calls = 0, thoughts = 0;
    for (int round = 0; round < 30000; round++) {
        ReplyOptions o = {.style = (ReplyStyle)(rand() % REPLY_STYLES), .reasoning = rand() % 2};
        o.in_reasoning = o.reasoning && rand() % 4 == 0;
        Buf text = {0};
        buf_puts(&text, "");
        for (int n = rand() % 16; n > 0; n--)
            buf_puts(&text, words[(size_t)rand() % COUNT(words)]);
        char *whole = taken_apart(&o, text.data, text.len, NULL, 0);
        size_t cuts[64], count = 0;
        for (size_t at = 0; at < text.len && count < COUNT(cuts); at += (size_t)rand() % 9)
            cuts[count++] = at;
        char *cut = taken_apart(&o, text.data, text.len, cuts, count);
        assert_string_equal(cut, whole);
        if (o.style == REPLY_PLAIN && !o.reasoning && text.len) {
            assert_memory_equal(whole, "content:", 8);
            assert_string_equal(whole + 8, text.data);
        }
        calls += strstr(whole, "call0:") != NULL;
        thoughts += !strncmp(whole, "reasoning:", 10);
        free(whole);
        free(cut);
        buf_free(&text);
    }
    assert_true(calls > 1000 && thoughts > 500);
}

/* Long answers take time in proportion to their length, whatever they look like. */
static void long_texts(void **state)
{
    (void)state;
    static const char *const unit[] = {"<tool_call>{\"x\":[", "<tool_call>{\"arguments\":{", " ", "<tool_call>",
        "<tool_call>{\"name\":\"f\",\"arguments\":{},\"x\":[", "{\"parameters\":[", "<think>"};
    for (size_t i = 0; i < COUNT(unit); i++)
        for (int style = REPLY_HERMES; style < REPLY_STYLES; style++) {
            Buf text = {0};
            while (text.len < 1 << 20)
                buf_puts(&text, unit[i]);
            ReplyOptions o = {.style = (ReplyStyle)style, .reasoning = true};
            free(taken_apart(&o, text.data, text.len, NULL, 0));
            buf_free(&text);
        }
}

static void styles(void **state)
{
    (void)state;
    const struct { const char *model; ReplyStyle style; } models[] = {
        {"qwen2", REPLY_HERMES}, {"qwen3", REPLY_HERMES}, {"llama3", REPLY_LLAMA3}, {"gemma", REPLY_PLAIN}};
    for (size_t i = 0; i < COUNT(models); i++) {
        char path[512];
        snprintf(path, sizeof path, SOURCE_DIR "/tests/golden/chat/models/%s/chat_template.jinja", models[i].model);
        Buf text = {0};
        Err err = {0};
        if (!file_read(&text, path, 1 << 20, &err))
            fail_msg("%s", err.text);
        assert_int_equal(reply_style_of(text.data), models[i].style);
        buf_free(&text);
    }
    assert_int_equal(reply_style_of(NULL), REPLY_PLAIN);
    assert_int_equal(reply_style_of("<tool_call>\n<function=name>\n<parameter=arguments>"), REPLY_PLAIN);
    assert_string_equal(reply_style_names[REPLY_HERMES], "hermes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hermes_calls),
        cmocka_unit_test(hermes_text_around),
        cmocka_unit_test(hermes_nesting),
        cmocka_unit_test(hermes_malformed),
        cmocka_unit_test(hermes_broken_off),
        cmocka_unit_test(hermes_careless),
        cmocka_unit_test(llama3_calls),
        cmocka_unit_test(llama3_text),
        cmocka_unit_test(reasoning),
        cmocka_unit_test(reasoning_and_calls),
        cmocka_unit_test(nothing_waits_without_reason),
        cmocka_unit_test(random_texts),
        cmocka_unit_test(long_texts),
        cmocka_unit_test(styles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
