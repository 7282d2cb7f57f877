/* Tests of runtime/chat_template.c: prompts recorded from transformers (tests/golden/chat), where templates are found,
 * and requests that are refused. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chat_template.h"

#define GOLDEN SOURCE_DIR "/tests/golden/chat/"

static json_t *load(const char *path)
{
    json_error_t error;
    json_t *json = json_load_file(path, 0, &error);
    if (!json)
        fail_msg("%s:%d: %s", path, error.line, error.text);
    return json;
}

/* Does one model make the recorded prompt of each request? Prints differences, returns their number. */
static size_t compare(const char *model, const json_t *prompts, json_t *requests)
{
    char dir[4096];
    Err err = {0};
    ChatTemplate *c = NULL;
    const char *name;
    json_t *request;
    size_t bad = 0;
    snprintf(dir, sizeof dir, GOLDEN "models/%s", model);
    if (!chat_load(&c, dir, &err))
        fail_msg("%s", err.text);
    json_object_foreach(requests, name, request) {
        Buf out = {0};
        const char *want = json_string_value(json_object_get(prompts, name));
        buf_puts(&out, "before|");
        bool ok = chat_render(c, request, &out, &err);
        if (ok ? !want || strcmp(out.data + 7, want) : want || strcmp(out.data, "before|") || !err.text[0]) {
            print_message("%s, %s\n  expected: %s\n  got:      %s\n", model, name, want ? want : "an error",
                          ok ? out.data + 7 : err.text);
            bad++;
        }
        buf_free(&out);
    }
    chat_free(c);
    return bad;
}

static void prompts_match_transformers(void **state)
{
    (void)state;
    json_t *golden = load(GOLDEN "prompts.json"), *requests = load(GOLDEN "requests.json"), *prompts;
    const char *model;
    size_t models = 0, bad = 0;
    json_object_foreach(json_object_get(golden, "prompts"), model, prompts) {
        assert_int_equal(json_object_size(prompts), json_object_size(requests));
        bad += compare(model, prompts, requests);
        models++;
    }
    json_decref(golden);
    json_decref(requests);
    assert_true(models >= 12);
    assert_int_equal(bad, 0);
}

/* ---- where templates are found ----------------------------------------------------------------------------------- */

/* A folder with the files given as name, text, name, text..., NULL. */
static void make_model(char dir[32], const char *const *files)
{
    strcpy(dir, "/tmp/blade_chat_XXXXXX");
    assert_non_null(mkdtemp(dir));
    for (; *files; files += 2) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", dir, files[0]);
        char *slash = strrchr(path, '/');
        *slash = 0;
        mkdir(path, 0777);
        *slash = '/';
        Err err;
        if (!file_write_atomic(path, files[1], strlen(files[1]), &err))
            fail_msg("%s", err.text);
    }
}

static void remove_model(const char *dir, const char *const *files)
{
    char path[128];
    for (; *files; files += 2) {
        snprintf(path, sizeof path, "%s/%s", dir, files[0]);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/additional_chat_templates", dir);
    rmdir(path);
    assert_int_equal(rmdir(dir), 0);
}

/* Loads such a folder and renders a request; the text, or the error after "error: ". The caller frees. */
static char *with_model(const char *const *files, const char *request_text)
{
    char dir[32];
    Err err = {0};
    Buf out = {0};
    ChatTemplate *c = NULL;
    json_t *request = json_loads(request_text, 0, NULL);
    assert_non_null(request);
    make_model(dir, files);
    if (!chat_load(&c, dir, &err) || !chat_render(c, request, &out, &err)) {
        buf_puts(&out, "error: ");
        buf_puts(&out, err.text);
    }
    chat_free(c);
    json_decref(request);
    remove_model(dir, files);
    return out.data;
}

#define EXPECT(expected, request, ...)                                                       \
    do {                                                                                     \
        char *text_ = with_model((const char *const[]){__VA_ARGS__, NULL, NULL}, request);   \
        assert_string_equal(text_, expected);                                                \
        free(text_);                                                                         \
    } while (0)

#define EXPECT_ERROR(part, request, ...)                                                     \
    do {                                                                                     \
        char *text_ = with_model((const char *const[]){__VA_ARGS__, NULL, NULL}, request);   \
        if (strncmp(text_, "error: ", 7) || !strstr(text_, part))                            \
            fail_msg("expected an error with \"%s\", got: %s", part, text_);                 \
        free(text_);                                                                         \
    } while (0)

#define HI "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}"
#define HI_TOOLS "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}], \"tools\": [{\"type\": \"function\"}]}"

static void templates_are_found_in_order(void **state)
{
    (void)state;
    EXPECT("file", HI, "chat_template.jinja", "file", "tokenizer_config.json", "{\"chat_template\": \"config\"}",
           "chat_template.json", "{\"chat_template\": \"legacy\"}");
    EXPECT("config", HI, "tokenizer_config.json", "{\"chat_template\": \"config\"}", "chat_template.json",
           "{\"chat_template\": \"legacy\"}");
    EXPECT("legacy", HI, "tokenizer_config.json", "{\"chat_template\": null}", "chat_template.json",
           "{\"chat_template\": \"legacy\"}");
    EXPECT("legacy", HI, "chat_template.json", "{\"chat_template\": \"legacy\"}");
    EXPECT("main", HI, "chat_template.jinja", "main", "additional_chat_templates/tool_use.jinja", "tools");
    EXPECT("tools", HI_TOOLS, "chat_template.jinja", "main", "additional_chat_templates/tool_use.jinja", "tools");
    EXPECT("", HI, "chat_template.jinja", "");
}

static void special_tokens_are_variables(void **state)
{
    (void)state;
    const char *template = "{{ bos_token }}|{{ eos_token }}|{{ image_token }}|{{ pad_token is defined }}|"
                           "{{ add_bos_token }}";
    EXPECT("<s>|</s>|<i>|False|", HI, "chat_template.jinja", template, "tokenizer_config.json",
           "{\"bos_token\": \"<s>\", \"pad_token\": null, \"add_bos_token\": true, "
           "\"image_token\": {\"content\": \"<i>\"}}",
           "special_tokens_map.json", "{\"bos_token\": \"other\", \"eos_token\": {\"content\": \"</s>\"}}");
    EXPECT("||||", HI, "chat_template.jinja", "{{ bos_token }}||{{ eos_token }}||");
}

static void bad_models_are_refused(void **state)
{
    (void)state;
    EXPECT_ERROR("no chat template", HI, "config.json", "{}");
    EXPECT_ERROR("no chat template", HI, "tokenizer_config.json", "{}");
    EXPECT_ERROR("chat_template.jinja: line 2", HI, "chat_template.jinja", "a\n{% if %}");
    EXPECT_ERROR("tokenizer_config.json: chat_template: line 1", HI, "tokenizer_config.json",
                 "{\"chat_template\": \"{{ \"}");
    EXPECT_ERROR("tokenizer_config.json", HI, "tokenizer_config.json", "{\"chat_template\": ");
    EXPECT_ERROR("must be a string", HI, "tokenizer_config.json", "{\"chat_template\": 5}");
    EXPECT_ERROR("\"default\"", HI, "tokenizer_config.json",
                 "{\"chat_template\": [{\"name\": \"x\", \"template\": \"y\"}]}");
    EXPECT_ERROR("element 0", HI, "tokenizer_config.json", "{\"chat_template\": [{\"name\": \"x\"}]}");
    EXPECT_ERROR("second template", HI, "tokenizer_config.json",
                 "{\"chat_template\": [{\"name\": \"default\", \"template\": \"y\"}, "
                 "{\"name\": \"default\", \"template\": \"z\"}]}");
    EXPECT_ERROR("not valid UTF-8", HI, "chat_template.jinja", "a\xff");
    EXPECT_ERROR("line 1: only user", HI, "chat_template.jinja", "{{ raise_exception('only user') }}");
}

static void bad_requests_are_refused(void **state)
{
    (void)state;
    const char *template[] = {"chat_template.jinja", "{{ messages[-1].content }}"};
#define REFUSED(part, request) EXPECT_ERROR(part, request, template[0], template[1])
    REFUSED("\"messages\"", "{}");
    REFUSED("\"messages\"", "{\"messages\": {}}");
    REFUSED("messages[0]", "{\"messages\": [5]}");
    REFUSED("messages[1]", "{\"messages\": [{\"role\": \"user\"}, {\"role\": 1}]}");
    REFUSED("tools", "{\"messages\": [{\"role\": \"user\"}], \"tools\": {}}");
    REFUSED("tools[0]", "{\"messages\": [{\"role\": \"user\"}], \"tools\": [1]}");
    REFUSED("documents", "{\"messages\": [{\"role\": \"user\"}], \"documents\": \"x\"}");
    REFUSED("add_generation_prompt", "{\"messages\": [{\"role\": \"user\"}], \"add_generation_prompt\": \"yes\"}");
    REFUSED("continue_final_message", "{\"messages\": [{\"role\": \"user\"}], \"continue_final_message\": 1}");
    REFUSED("chat_template_kwargs", "{\"messages\": [{\"role\": \"user\"}], \"chat_template_kwargs\": []}");
    REFUSED("\"messages\" cannot",
            "{\"messages\": [{\"role\": \"user\"}], \"chat_template_kwargs\": {\"messages\": []}}");
    REFUSED("does not use \"story\"",
            "{\"messages\": [{\"role\": \"user\", \"story\": \"x\"}], \"continue_final_message\": \"story\"}");
    EXPECT_ERROR("does not write the last message",
                 "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"continue_final_message\": true}",
                 "chat_template.jinja", "{{ messages[-1].content[:3] }}");
}

/* A user who writes the tag that marks the end of the last message does not move it. */
static void tags_in_content_do_not_confuse(void **state)
{
    (void)state;
    EXPECT("go on |CONTINUE_FINAL_MESSAGE_0 CONTINUE_FINAL_MESSAGE_1 x",
           "{\"messages\": [{\"role\": \"user\", \"content\": \"go on \"}, {\"role\": \"assistant\", "
           "\"content\": \"CONTINUE_FINAL_MESSAGE_0 CONTINUE_FINAL_MESSAGE_1 x\"}], \"continue_final_message\": true}",
           "chat_template.jinja", "{{ messages | map(attribute='content') | join('|') }} the end");
}

static void a_request_is_left_as_it_was(void **state)
{
    (void)state;
    const char *text = "{\"messages\": [{\"role\": \"user\", \"content\": [{\"text\": \"x\"}], \"name\": null, "
                       "\"reasoning\": \"r\"}], \"continue_final_message\": true}";
    const char *const files[] = {"chat_template.jinja", "{{ messages[-1].content[0].text }}!", NULL};
    char dir[32];
    Err err = {0};
    Buf out = {0};
    ChatTemplate *c = NULL;
    json_t *request = json_loads(text, 0, NULL), *before = json_deep_copy(request);
    make_model(dir, files);
    assert_true(chat_load(&c, dir, &err));
    for (int i = 0; i < 2; i++)
        assert_true(chat_render(c, request, &out, &err));
    assert_string_equal(out.data, "xx");
    assert_true(json_equal(request, before));
    chat_free(c);
    buf_free(&out);
    json_decref(request);
    json_decref(before);
    remove_model(dir, files);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_match_transformers),
        cmocka_unit_test(templates_are_found_in_order),
        cmocka_unit_test(special_tokens_are_variables),
        cmocka_unit_test(bad_models_are_refused),
        cmocka_unit_test(bad_requests_are_refused),
        cmocka_unit_test(tags_in_content_do_not_confuse),
        cmocka_unit_test(a_request_is_left_as_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
