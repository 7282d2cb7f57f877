/* Tests of runtime/jinja*.c: goldens recorded from jinja2 (tests/golden/jinja), error lines, limits, threads of control. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "jinja.h"

#define GOLDEN SOURCE_DIR "/tests/golden/jinja/"

static json_t *load(const char *path)
{
    json_error_t error;
    json_t *json = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!json)
        fail_msg("%s:%d: %s", path, error.line, error.text);
    return json;
}

/* Renders `template` with `variables`; NULL with a message in `err` on an error. The caller frees. */
static char *render(const char *template, size_t len, const json_t *variables, const JinjaLimits *limits, Err *err)
{
    Buf out = {0};
    Jinja *j = jinja_parse(template, len, err);
    bool ok = j && jinja_render(j, variables, limits, &out, err);
    jinja_free(j);
    if (!ok)
        buf_free(&out);
    return ok && !out.data ? xstrdup("") : out.data;
}

/* Is the result of a case what jinja2 gave? Prints the difference. */
static bool check(const char *template, size_t len, const json_t *variables, const json_t *expected, const char *label)
{
    Err err = {0};
    char *text = render(template, len, variables, NULL, &err);
    const char *want = json_string_value(expected);
    bool same = text ? want && !strcmp(text, want) : !want;
    if (!same)
        print_message("%s\n  expected: %s\n  got:      %s\n", label, want ? want : "an error", text ? text : err.text);
    if (!text && !strstr(err.text, "line "))
        same = false;
    free(text);
    return same;
}

static void small_templates_match_jinja2(void **state)
{
    (void)state;
    json_t *golden = load(GOLDEN "cases.json"), *item;
    const json_t *variables = json_object_get(golden, "variables");
    size_t i, bad = 0;
    json_array_foreach(json_object_get(golden, "cases"), i, item) {
        const json_t *template = json_object_get(item, "template");
        const char *text = json_string_value(template);
        bad += !check(text, json_string_length(template), variables, json_object_get(item, "output"), text);
    }
    assert_true(i > 500);
    json_decref(golden);
    assert_int_equal(bad, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_templates_match_jinja2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
