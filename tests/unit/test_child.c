/* Tests of compiler/child.c: tools that work, fail, crash, hang, talk too much, or are not there. The tools are shell
 * scripts and programs that every system has. */
#include "test.h"

#include "child.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Runs a line of sh with the input "hello". */
static bool run(const char *line, double seconds, bool to_stdout, Buf *output, Buf *log, Err *err)
{
    Child c = {.argv = {"/bin/sh", "-c", line, "sh", CHILD_INPUT, CHILD_OUTPUT}, .input = "hello", .input_len = 5,
               .to_stdout = to_stdout, .seconds = seconds};
    return child_run(&c, output, log, err);
}

static void input_output_and_words(void **state)
{
    (void)state;
    Buf output = {0}, log = {0};
    Err err = {0};
    assert_true(run("cat $1 $1 > $2; echo said; echo more >&2", 10, false, &output, &log, &err));
    assert_string_equal(output.data, "hellohello");
    assert_string_equal(log.data, "said\nmore\n");
    buf_free(&output);
    buf_free(&log);
    assert_true(run("cat $1; echo more >&2", 10, true, &output, &log, &err));
    assert_string_equal(output.data, "hello");
    assert_string_equal(log.data, "more\n");
    buf_free(&output);
    buf_free(&log);
}

static void large_files(void **state)
{
    (void)state;
    size_t n = 3 << 20;
    char *input = xmalloc(n);
    for (size_t i = 0; i < n; i++)
        input[i] = (char)(i * 7);
    Buf output = {0};
    Err err = {0};
    Child c = {.argv = {"/bin/cat", CHILD_INPUT}, .input = input, .input_len = n, .to_stdout = true};
    assert_true(child_run(&c, &output, NULL, &err));
    assert_int_equal(output.len, n);
    assert_memory_equal(output.data, input, n);
    buf_free(&output);
    free(input);
}

static void failures_have_messages(void **state)
{
    (void)state;
    Err err = {0};
    Buf log = {0};
    assert_false(run("echo line 7: no such register; exit 3", 10, false, NULL, &log, &err));
    assert_string_equal(err.text, "sh ended with status 3: line 7: no such register");
    assert_string_equal(log.data, "line 7: no such register\n");
    buf_free(&log);
    assert_false(run("kill -SEGV $$", 10, false, NULL, NULL, &err));
    assert_non_null(strstr(err.text, "sh crashed (signal 11"));
    Child c = {.argv = {"/no/such/tool"}};
    assert_false(child_run(&c, NULL, NULL, &err));
    assert_string_equal(err.text, "can't run /no/such/tool: No such file or directory");
}

/* What it started dies with it: the process number that the script wrote is gone soon. */
static void hanging_tools_are_stopped(void **state)
{
    (void)state;
    Err err = {0};
    Buf log = {0};
    double start = now_seconds();
    assert_false(run("echo waiting; sleep 1000 & echo $!; wait", 0.3, false, NULL, &log, &err));
    assert_true(now_seconds() - start < 5);
    assert_non_null(strstr(err.text, "sh did not end within 0.3 seconds and was stopped: waiting"));
    pid_t sleeper = (pid_t)atoi(strchr(log.data, '\n') + 1);
    assert_true(sleeper > 1);
    for (int i = 0; i < 200 && kill(sleeper, 0) == 0; i++) { /* until its new parent has reaped it */
        char path[64], line[256];
        snprintf(path, sizeof path, "/proc/%d/stat", (int)sleeper);
        file_first_line(path, line, sizeof line);
        if (strstr(line, ") Z"))
            break;
        usleep(10000);
        assert_true(i < 199);
    }
    buf_free(&log);
    start = now_seconds(); /* closes its output, and goes on */
    assert_false(run("exec >&- 2>&-; sleep 1000", 0.3, false, NULL, NULL, &err));
    assert_true(now_seconds() - start < 5);
}

/* Hangs the first time, and works when it is tried again. */
static void a_second_try(void **state)
{
    (void)state;
    char folder[] = "/tmp/blade-child-XXXXXX", file[64];
    assert_non_null(mkdtemp(folder));
    snprintf(file, sizeof file, "%s/seen", folder);
    for (int again = 0; again < 2; again++) {
        Child c = {.argv = {"/bin/sh", "-c", "if [ -e $1 ]; then echo hello; else echo no; touch $1; sleep 1000; fi",
                            "sh", file},
                   .seconds = 0.3, .again = again};
        Err err = {0};
        Buf log = {0};
        assert_int_equal(child_run(&c, NULL, &log, &err), again);
        assert_string_equal(log.data, again ? "hello\n" : "no\n");
        buf_free(&log);
        unlink(file);
    }
    rmdir(folder);
}

static void endless_words_are_cut(void **state)
{
    (void)state;
    Err err = {0};
    Buf log = {0};
    assert_true(run("head -c 5000000 /dev/zero | tr '\\0' x", 30, false, NULL, &log, &err));
    assert_int_equal(log.len, 1 << 20);
    buf_free(&log);
    assert_false(run("head -c 5000000 /dev/zero | tr '\\0' x; exit 1", 30, false, NULL, NULL, &err));
    assert_true(strlen(err.text) < 1200);
    assert_non_null(strstr(err.text, "xxx ..."));
}

/* Files of children that other threads start stay closed in the child. */
static void *many(void *context)
{
    bool *ok = context;
    for (int i = 0; i < 30 && *ok; i++) {
        Buf output = {0};
        *ok = run("ls -l /proc/self/fd | grep -c memfd > $2", 20, false, &output, NULL, NULL) && output.len &&
              atoi(output.data) == 2; /* its own input and output */
        buf_free(&output);
    }
    return NULL;
}

static void threads_do_not_meet(void **state)
{
    (void)state;
    pthread_t thread[4];
    bool ok[4] = {true, true, true, true};
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, many, &ok[i]), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < 4; i++)
        assert_true(ok[i]);
}

static void tools_are_found(void **state)
{
    (void)state;
    char path[4096], folder[] = "/tmp/blade-child-XXXXXX", file[64];
    assert_non_null(mkdtemp(folder));
    snprintf(file, sizeof file, "%s/sometool", folder);
    assert_true(child_find(NULL, (const char *const[]){"no-such-tool", "/no/such", "sh", NULL}, path, sizeof path));
    assert_non_null(strstr(path, "/sh"));
    assert_false(child_find(NULL, (const char *const[]){"no-such-tool", folder, NULL}, path, sizeof path));
    setenv("BLADE_TEST_TOOL", "/no/such", 1);
    assert_false(child_find("BLADE_TEST_TOOL", (const char *const[]){"sh", NULL}, path, sizeof path));
    setenv("BLADE_TEST_TOOL", file, 1);
    assert_false(child_find("BLADE_TEST_TOOL", (const char *const[]){NULL}, path, sizeof path));
    int fd = open(file, O_CREAT | O_WRONLY, 0644);
    assert_true(fd >= 0);
    assert_false(child_find("BLADE_TEST_TOOL", (const char *const[]){NULL}, path, sizeof path)); /* no program */
    fchmod(fd, 0755);
    close(fd);
    assert_true(child_find("BLADE_TEST_TOOL", (const char *const[]){NULL}, path, sizeof path));
    assert_int_equal(child_find_library("BLADE_TEST_TOOL", (const char *const[]){NULL}, path, sizeof path), -2);
    unsetenv("BLADE_TEST_TOOL");
    const char *libraries[] = {"no-such.so", "libc.so.6", NULL};
    assert_true(child_find_library(NULL, libraries, path, sizeof path) == 1 ||
                !file_exists("/usr/lib/x86_64-linux-gnu"));
    Buf a = {0}, b = {0};
    child_identity(file, &a);
    child_identity("/no/such", &b);
    assert_non_null(strstr(a.data, file));
    assert_string_equal(b.data, "none");
    buf_free(&a);
    buf_free(&b);
    unlink(file);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(input_output_and_words), cmocka_unit_test(large_files),
        cmocka_unit_test(failures_have_messages), cmocka_unit_test(hanging_tools_are_stopped),
        cmocka_unit_test(a_second_try), cmocka_unit_test(endless_words_are_cut), cmocka_unit_test(threads_do_not_meet),
        cmocka_unit_test(tools_are_found)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
