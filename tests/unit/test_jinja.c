/* Tests of runtime/jinja*.c: goldens recorded from jinja2 (tests/golden/jinja), lines of errors, limits. */
#include "test.h"

#include <pthread.h>
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

/* ---- errors ------------------------------------------------------------------------------------------------------ */

/* Renders `template` without variables under `limits` and expects an error that contains `part`. */
static void expect_error(const char *template, const JinjaLimits *limits, const char *part)
{
    Err err = {0};
    json_t *variables = json_pack("{s:s,s:[i,i]}", "s", "text", "l", 1, 2);
    char *text = render(template, strlen(template), variables, limits, &err);
    json_decref(variables);
    if (text || !strstr(err.text, part))
        fail_msg("%.200s\n  expected an error with \"%s\", got %s", template, part, text ? text : err.text);
}

static void errors_name_the_line(void **state)
{
    (void)state;
    expect_error("{{ 1 +", NULL, "line 1:");
    expect_error("a\nb\n{{ x.y }}", NULL, "line 3: 'x' is undefined");
    expect_error("{% if true %}\n\n{{ s.x.y }}\n{% endif %}", NULL, "line 3: 'str' has no attribute 'x'");
    expect_error("{% if true %}\n{# c\nc #}\n{{ raise_exception('stop') }}{% endif %}", NULL, "line 4: stop");
    expect_error("{% macro m() %}\n{{ 1 / 0 }}\n{% endmacro %}\n\n{{ m() }}", NULL, "line 2: division by zero");
    expect_error("{% for x in l %}\n{% endfor %}\n{% endif %}", NULL, "line 3:");
    expect_error("\n{% if s %}", NULL, "line 2: the template ends before 'elif'");
    expect_error("{{ s | nope }}", NULL, "no filter named 'nope'");
    expect_error("{{ s is nope }}", NULL, "no test named 'nope'");
    expect_error("{{ l.append(3) }}", NULL, "'append' of 'list' object is unsafe");
    expect_error("{{ s + 1 }}", NULL, "unsupported operands for +: 'str' and 'int'");
    expect_error("{% for x in l recursive %}{% endfor %}", NULL, "recursive loops are not supported");
    expect_error("{% include 'x' %}", NULL, "'include' is not supported");
    expect_error("{{ s.encode() }}", NULL, "not supported");
    expect_error("{{ l | pprint }}", NULL, "not supported");
    expect_error("a\xc3", NULL, "not valid UTF-8");
}

/* Python goes on with larger integers; here they are refused, never wrong. */
static void big_integers_are_refused(void **state)
{
    (void)state;
    expect_error("{{ 9223372036854775807 + 1 }}", NULL, "64 bits");
    expect_error("{{ 2 ** 63 }}", NULL, "64 bits");
    expect_error("{{ 9223372036854775808 }}", NULL, "64 bits");
    expect_error("{{ (-9223372036854775807 - 1) // -1 }}", NULL, "64 bits");
    expect_error("{{ -(-9223372036854775807 - 1) }}", NULL, "64 bits");
    expect_error("{{ 4611686018427387904 * 2 }}", NULL, "64 bits");
    expect_error("{{ [9223372036854775807, 1] | sum }}", NULL, "64 bits");
    expect_error("{{ '99999999999999999999' | int }}", NULL, "64 bits");
    expect_error("{{ 1e300 | int }}", NULL, "64 bits");
}

/* ---- limits ------------------------------------------------------------------------------------------------------ */

/* A template that would take for ever, or fill the memory, stops at the limit that it names, and soon. */
static void limits_stop_bombs(void **state)
{
    (void)state;
    static const struct { const char *template, *part; } bombs[] = {
        {"{{ 'a' * 1000000000 }}", "memory"},
        {"{{ [0] * 1000000000 }}", "memory"},
        {"{{ 'a' * 9223372036854775807 }}", "memory"},
        {"{% set x = 'ab' %}{% set ns = namespace(x=x) %}{% for i in range(60) %}"
         "{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "limit"},
        {"{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "limit"},
        {"{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(9) %}"
         "{% endfor %}{% endfor %}{% endfor %}", "limit"},
        {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "depth"},
        {"{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}", "depth"},
        {"{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}", "limit"},
        {"{% set ns = namespace(x=1) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}"
         "{% endfor %}{{ ns.x }}", "depth"},
        {"{% set ns = namespace(x=1) %}{% for i in range(5000) %}{% set ns.x = {1: ns.x} %}"
         "{% endfor %}{{ ns.x | tojson }}", "depth"},
        {"{% set ns = namespace(x=1) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}"
         "{% endfor %}{{ ns.x == [ns.x] }}", "depth"},
        {"{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", "depth"},
        {"{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}", "limit"},
        {"{{ 'x'.ljust(10000000000) }}", "limit"},
        {"{{ '%100000d' % 5 }}{{ '%999999999d' % 5 }}", "larger than"},
        {"{{ '{:999999999}'.format(5) }}", "larger than"},
        {"{{ 'x' | indent(10000000000) }}", "limit"},
        {"{{ [1] | tojson(indent=10000000000) }}", "limit"},
        {"{{ range(100000) | map('string') | join(',') | replace('', 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx') }"
         "}", "limit"},
        {"{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{{ 'b' in s }}{% endfor %}", "steps"},
        {"{% set s = 'a' * 1000000 %}{% set t = 'b' * 1000000 ~ 'a' %}{{ s.strip(t) }}", "steps"},
        {"{% set l = range(100000) | list %}{% for x in l %}{{ -1 in l }}{% endfor %}", "steps"},
        {"{% set s = 'a' * 100000 %}"
         "{% for i in range(100000) %}{{ s.rfind('b') }}{{ s.upper() | length }}{% endfor %}", "limit"},
        {"{{ range(1000000) }}", "100000 elements"},
        {"{{ ('a,' * 4000000).split(',') | length }}", "memory"},
        {"{{ dict([(1, 2)] * 100000000) }}", "memory"},
        {"{{ range(3) | batch(9999999999, 'x') | list }}", "100000"},
    };
    const JinjaLimits limits = {.steps = 3000000, .depth = 400, .output = 1 << 20, .memory = 32 << 20};
    for (size_t i = 0; i < COUNT(bombs); i++) {
        double start = now_seconds();
        expect_error(bombs[i].template, &limits, bombs[i].part);
        if (now_seconds() - start > 20) /* generous: sanitizers, a busy machine */
            fail_msg("%s took %.1f s", bombs[i].template, now_seconds() - start);
    }
}

static char *repeated(const char *head, const char *unit, size_t n, const char *tail)
{
    Buf b = {0};
    buf_puts(&b, head);
    for (size_t i = 0; i < n; i++)
        buf_puts(&b, unit);
    buf_puts(&b, tail);
    return b.data;
}

static void deep_templates_are_refused(void **state)
{
    (void)state;
    static const struct { const char *head, *unit, *tail; } deep[] = {
        {"{{ ", "(", ""}, {"{{ ", "[", ""}, {"{{ ", "{1:", ""}, {"{{ ", "not ", "s }}"}, {"{{ ", "-", "1 }}"},
        {"{{ 1", " + 1", " }}"}, {"{{ s", ".x", " }}"}, {"{{ s", "[0]", " }}"}, {"{{ s", "()", " }}"},
        {"{{ s", "|upper", " }}"}, {"{{ 1", " if 1 else 1", " }}"}, {"{{ 1", " and 1", " }}"}, {"{{ 1", " ** 1", " }}"},
        {"", "{% if s %}", ""}, {"", "{% for x in l %}", ""}, {"", "{% macro m() %}", ""}, {"", "{% set x %}", ""},
        {"", "{% filter upper %}", ""}, {"{% for ", "(", ""}, {"{{ f(", "f(", ""}, {"{{ s is in ", "(", ""},
    };
    for (size_t i = 0; i < COUNT(deep); i++) {
        char *template = repeated(deep[i].head, deep[i].unit, 100000, deep[i].tail);
        expect_error(template, NULL, "more than 200");
        free(template);
    }
    char *wide = repeated("{{ s", " ~ s", 100000, " }}");
    Err err = {0};
    json_t *variables = json_pack("{s:s}", "s", "x");
    char *text = render(wide, strlen(wide), variables, NULL, &err);
    assert_non_null(text);
    assert_int_equal(strlen(text), 100001);
    json_decref(variables);
    free(text);
    free(wide);
}

static void deep_variables_are_refused(void **state)
{
    (void)state;
    json_t *deep = json_array();
    for (int i = 0; i < 1900; i++)
        deep = json_pack("[o]", deep);
    json_t *variables = json_pack("{s:o}", "deep", deep);
    Err err = {0};
    assert_null(render("x", 1, variables, NULL, &err));
    assert_non_null(strstr(err.text, "depth"));
    json_decref(variables);
}

/* ---- the rest ---------------------------------------------------------------------------------------------------- */

static void a_failed_render_leaves_the_buffer(void **state)
{
    (void)state;
    Err err = {0};
    Buf out = {0};
    const char *text = "abc{{ 1 / 0 }}";
    Jinja *j = jinja_parse(text, strlen(text), &err);
    assert_non_null(j);
    buf_puts(&out, "before");
    assert_false(jinja_render(j, NULL, NULL, &out, &err));
    assert_string_equal(out.data, "before");
    jinja_free(j);
    buf_free(&out);
}

static void one_template_renders_many_times(void **state)
{
    (void)state;
    Err err = {0};
    const char *text = "{% set ns = namespace(n=n) %}"
                       "{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}";
    Jinja *j = jinja_parse(text, strlen(text), &err);
    assert_non_null(j);
    for (int i = 0; i < 100; i++) {
        char want[16];
        Buf out = {0};
        json_t *variables = json_pack("{s:i}", "n", i);
        snprintf(want, sizeof want, "%d", i + 3);
        assert_true(jinja_render(j, variables, NULL, &out, &err));
        assert_string_equal(out.data, want);
        json_decref(variables);
        buf_free(&out);
    }
    jinja_free(j);
}

typedef struct Job {
    const Jinja *template;
    int n;
    bool ok;
} Job;

static void *render_often(void *arg)
{
    Job *job = arg;
    json_t *variables = json_pack("{s:i}", "n", job->n);
    char want[64];
    snprintf(want, sizeof want, "%d-%d", job->n, job->n);
    job->ok = true;
    for (int i = 0; i < 200 && job->ok; i++) {
        Err err = {0};
        Buf out = {0};
        job->ok = jinja_render(job->template, variables, NULL, &out, &err) && !strcmp(out.data, want);
        buf_free(&out);
    }
    json_decref(variables);
    return NULL;
}

static void threads_share_a_template(void **state)
{
    (void)state;
    Err err = {0};
    const char *text = "{% macro m(x=n) %}{{ [x, n] | join('-') }}{% endmacro %}{{ m() }}";
    Jinja *j = jinja_parse(text, strlen(text), &err);
    pthread_t threads[4];
    Job jobs[4];
    assert_non_null(j);
    for (int i = 0; i < 4; i++) {
        jobs[i] = (Job){.template = j, .n = i};
        assert_int_equal(pthread_create(&threads[i], NULL, render_often, &jobs[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_true(jobs[i].ok);
    }
    jinja_free(j);
}

static void strftime_now_gives_the_local_time(void **state)
{
    (void)state;
    const char *template = "{{ strftime_now('%d %b %Y, %%') }}";
    for (int attempt = 0; attempt < 2; attempt++) { /* midnight may pass once */
        char want[64];
        Err err = {0};
        time_t now = time(NULL);
        struct tm local;
        localtime_r(&now, &local);
        strftime(want, sizeof want, "%d %b %Y, %%", &local);
        char *text = render(template, strlen(template), NULL, NULL, &err);
        assert_non_null(text);
        bool same = !strcmp(text, want);
        free(text);
        if (same)
            return;
    }
    fail_msg("strftime_now does not give the date of today");
}

static void embedded_zero_bytes_are_text(void **state)
{
    (void)state;
    Err err = {0};
    Buf out = {0};
    const char text[] = "a\0b{{ 'x\0y' | length }}";
    Jinja *j = jinja_parse(text, sizeof text - 1, &err);
    assert_non_null(j);
    assert_true(jinja_render(j, NULL, NULL, &out, &err));
    assert_int_equal(out.len, 4);
    assert_memory_equal(out.data, "a\0b3", 4);
    jinja_free(j);
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_templates_match_jinja2),
        cmocka_unit_test(errors_name_the_line),
        cmocka_unit_test(big_integers_are_refused),
        cmocka_unit_test(limits_stop_bombs),
        cmocka_unit_test(deep_templates_are_refused),
        cmocka_unit_test(deep_variables_are_refused),
        cmocka_unit_test(a_failed_render_leaves_the_buffer),
        cmocka_unit_test(one_template_renders_many_times),
        cmocka_unit_test(threads_share_a_template),
        cmocka_unit_test(strftime_now_gives_the_local_time),
        cmocka_unit_test(embedded_zero_bytes_are_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
