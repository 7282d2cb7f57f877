/* Command line parsing: every form, every type, every mistake. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"
#include "test.h"

typedef struct Values {
    bool json, color;
    int64_t n, bytes;
    double temperature;
    const char *weights;
    OptStrings prompts;
    OptInts batch;
    const char *args[OPT_MAX_ARGS];
    bool help;
    Err err;
} Values;

static bool parse(Values *v, char *line)
{
    OptRow rows[] = {
        {"json", 0, OPT_FLAG, &v->json, NULL, "print JSON"},
        {"color", 0, OPT_FLAG, &v->color, NULL, "use colors"},
        {"max-tokens", 'n', OPT_INT, &v->n, "N", "at most N new tokens", 1, 1000},
        {"kv-cache-memory", 0, OPT_BYTES, &v->bytes, "SIZE", "memory of the cache", 1024, 0x1p62},
        {"temperature", 0, OPT_REAL, &v->temperature, "T", "0 means greedy\n(the default is the model's)", 0, 100},
        {"weights", 0, OPT_STRING, &v->weights, "W", "weight format"},
        {"prompt", 'p', OPT_STRINGS, &v->prompts, "TEXT", "a prompt"},
        {"batch", 0, OPT_INTS, &v->batch, "N,N", "batch sizes", 1, 64},
        {"secret", 0, OPT_FLAG, &v->json, NULL, NULL},
        {NULL},
    };
    OptCommand c = {"blade test", "MODEL [FILE]", "Tests.", 1, 2, rows};
    *v = (Values){.n = 7, .temperature = 0.5, .color = true};
    char *argv[32] = {"test"};
    int argc = 1;
    for (char *word = strtok(line, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    bool ok = opt_read(&c, argc, argv, v->args, &v->help, &v->err);
    if (v->help) {
        Buf text = {0};
        opt_help(&c, &text);
        assert_non_null(strstr(text.data, "usage: blade test MODEL [FILE] [options]"));
        assert_non_null(strstr(text.data, "  -n, --max-tokens N"));
        assert_non_null(strstr(text.data, "\n                              (the default"));
        assert_null(strstr(text.data, "secret"));
        buf_free(&text);
    }
    return ok;
}

static void done(Values *v)
{
    vec_free(&v->prompts);
    vec_free(&v->batch);
}

static void accepts(void **state)
{
    (void)state;
    Values v;
    char line[] = "m --json -n 5 --temperature=0.25 -pab --prompt cd --weights w4 --batch 1,2,64 --no-color -- -f";
    assert_true(parse(&v, line));
    assert_string_equal(v.args[0], "m");
    assert_string_equal(v.args[1], "-f");
    assert_true(v.json && !v.color && v.n == 5 && v.temperature == 0.25);
    assert_string_equal(v.weights, "w4");
    assert_int_equal(v.prompts.len, 2);
    assert_string_equal(v.prompts.at[1], "cd");
    assert_int_equal(v.batch.len, 3);
    assert_int_equal(v.batch.at[2], 64);
    done(&v);
    char defaults[] = "-";
    assert_true(parse(&v, defaults));
    assert_string_equal(v.args[0], "-");
    assert_true(v.n == 7 && v.temperature == 0.5 && !v.json && v.color && !v.weights && !v.args[1]);
    char again[] = "m --batch 1,2 --batch 3";
    assert_true(parse(&v, again));
    assert_int_equal(v.batch.len, 1);
    done(&v);
    char help[] = "-h --nonsense";
    assert_true(parse(&v, help) && v.help);
}

static void sizes(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        int64_t bytes; /* -1: refused */
    } cases[] = {
        {"m --kv-cache-memory 4096", 4096},        {"m --kv-cache-memory 1.5K", 1536},
        {"m --kv-cache-memory 2GiB", 2ll << 30},   {"m --kv-cache-memory 3mb", -1},
        {"m --kv-cache-memory 3MB", 3 << 20},      {"m --kv-cache-memory 1t", 1ll << 40},
        {"m --kv-cache-memory 12", -1},            {"m --kv-cache-memory -5G", -1},
        {"m --kv-cache-memory 99999999999T", -1},  {"m --kv-cache-memory G", -1},
        {"m --kv-cache-memory 4X", -1},            {"m --kv-cache-memory nan", -1},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        Values v;
        char line[64];
        strcpy(line, cases[i].line);
        bool ok = parse(&v, line);
        assert_int_equal(ok, cases[i].bytes >= 0);
        if (ok)
            assert_int_equal(v.bytes, cases[i].bytes);
        else
            assert_non_null(strstr(v.err.text, "--kv-cache-memory"));
    }
}

static void refuses(void **state)
{
    (void)state;
    static const struct {
        const char *line, *message;
    } cases[] = {
        {"", "argument is missing; usage: blade test MODEL"},
        {"a b c", "\"c\" is one argument too many"},
        {"m --what", "unknown option --what; see blade test --help"},
        {"m -q", "unknown option -q"},
        {"m --no-weights", "unknown option --no-weights"},
        {"m -n", "-n needs a value: N"},
        {"m -n 0", "-n: 0 is out of range: 1 to 1000"},
        {"m -n 5x", "\"5x\" is not an integer"},
        {"m -n 99999999999999999999", "is not an integer"},
        {"m --max-tokens=", "\"\" is not an integer"},
        {"m --temperature warm", "--temperature: \"warm\" is not a number"},
        {"m --temperature nan", "is not a number"},
        {"m --temperature -1", "-1 is out of range: 0 to 100"},
        {"m --batch 1,,2", "--batch: \"\" is not an integer"},
        {"m --batch 1,65", "65 is out of range: 1 to 64"},
        {"m --json=yes", "--json takes no value"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        Values v;
        char line[64];
        strcpy(line, cases[i].line);
        assert_false(parse(&v, line));
        if (!strstr(v.err.text, cases[i].message))
            fail_msg("\"%s\" gave \"%s\", expected \"%s\"", cases[i].line, v.err.text, cases[i].message);
        done(&v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts),
        cmocka_unit_test(sizes),
        cmocka_unit_test(refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
