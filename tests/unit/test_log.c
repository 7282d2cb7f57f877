/* Log lines: both forms, escaping of what clients send, levels, and lines of several threads. */
#include "test.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

static int saved_stderr = -1;
static char path[64];

/* Standard error goes to a file until the lines are taken. */
static void redirect(void)
{
    strcpy(path, "/tmp/blade-test-log-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    saved_stderr = dup(STDERR_FILENO);
    assert_true(dup2(fd, STDERR_FILENO) >= 0);
    close(fd);
}

static Buf taken(void)
{
    Buf text = {0};
    assert_true(dup2(saved_stderr, STDERR_FILENO) >= 0);
    close(saved_stderr);
    assert_true(file_read(&text, path, 64 << 20, NULL));
    unlink(path);
    if (!text.data)
        buf_puts(&text, "");
    return text;
}

/* The one line that was logged, without its time. */
static void assert_line(const char *want)
{
    Buf text = taken();
    int ms, used = 0;
    char date[32];
    assert_int_equal(sscanf(text.data, "%19[0-9T:-].%3dZ %n", date, &ms, &used), 2);
    assert_int_equal(strlen(date), 19);
    assert_string_equal(text.data + used, want);
    buf_free(&text);
}

static void test_text_line(void **state)
{
    (void)state;
    redirect();
    log_event(LOG_INFO, "request", "id", "s", "req-1", "path", "s", "/v1/models", "missing", "s", (char *)NULL,
              "status", "d", -200, "bytes", "l", INT64_MIN, "seconds", "f", 0.125, "nan", "f", NAN, NULL);
    assert_line("info request id=req-1 path=/v1/models status=-200 bytes=-9223372036854775808 seconds=0.125 nan=nan\n");
}

static void test_text_escapes(void **state)
{
    (void)state;
    redirect();
    log_event(LOG_ERROR, "two words", "a", "s", "", "b", "s", "x\ny=\"1\"\\", "c", "s", "\x1b[2J\x7f\xc2\x9b", "d", "s",
              "a\xff\xc3z\xed\xa0\x80", "e", "s", "h\xc3\xa9\xe2\x80\xa8\xe2\x80\xae", NULL);
    assert_line("error \"two words\" a=\"\" b=\"x\\ny=\\\"1\\\"\\\\\" c=\"\\u001b[2J\\u007f\\u009b\" "
                "d=\"a\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\" e=\"h\xc3\xa9\\u2028\\u202e\"\n");
}

static void test_json_line(void **state)
{
    (void)state;
    log_setup(LOG_INFO, true);
    redirect();
    log_event(LOG_WARNING, "request", "id", "s", "a\"\n\x01\xfe", "status", "d", 404, "total", "l", INT64_MAX,
              "seconds", "f", 0.5, "rate", "f", INFINITY, NULL);
    log_setup(LOG_INFO, false);
    Buf text = taken();
    const char *tail = strchr(text.data, ',');
    assert_non_null(tail);
    assert_int_equal(strncmp(text.data, "{\"time\":\"20", 11), 0);
    assert_string_equal(tail, ",\"level\":\"warning\",\"event\":\"request\",\"id\":\"a\\\"\\n\\u0001\xef\xbf\xbd\","
                              "\"status\":404,\"total\":9223372036854775807,\"seconds\":0.5,\"rate\":null}\n");
    buf_free(&text);
}

static void test_levels(void **state)
{
    (void)state;
    log_setup(LOG_WARNING, false);
    redirect();
    log_event(LOG_DEBUG, "no", NULL);
    log_event(LOG_INFO, "no", NULL);
    log_event(LOG_WARNING, "yes", NULL);
    log_setup(LOG_INFO, false);
    assert_line("warning yes\n");
}

static void test_long_value_is_cut(void **state)
{
    (void)state;
    char *value = xmalloc(1 << 20);
    memset(value, 'a', (1 << 20) - 1);
    memcpy(value + 4095, "\xc3\xa9", 2); /* the cut must not go through it */
    value[(1 << 20) - 1] = 0;
    redirect();
    log_event(LOG_INFO, "long", "v", "s", value, NULL);
    Buf text = taken();
    assert_in_range(text.len, 4095, 4200);
    assert_non_null(strstr(text.data, "aa\xe2\x80\xa6\"\n"));
    buf_free(&text);
    free(value);
}

enum { THREADS = 4, LINES = 2000 };

static void *chatter(void *arg)
{
    char value[200];
    memset(value, *(char *)arg, sizeof value - 1);
    value[sizeof value - 1] = 0;
    for (int i = 0; i < LINES; i++)
        log_event(LOG_INFO, "t", "v", "s", value, NULL);
    return NULL;
}

static void test_threads_do_not_mix(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    char letters[THREADS] = {'a', 'b', 'c', 'd'};
    redirect();
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, chatter, &letters[i]), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    Buf text = taken();
    int lines = 0;
    for (char *line = text.data, *end; (end = strchr(line, '\n')); line = end + 1, lines++) {
        const char *value = strstr(line, " info t v=");
        assert_true(value && value < end && end - value == 10 + 199);
        for (const char *p = value + 10; p < end; p++)
            assert_int_equal(*p, value[10]);
    }
    assert_int_equal(lines, THREADS * LINES);
    buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_line),         cmocka_unit_test(test_text_escapes),
        cmocka_unit_test(test_json_line),         cmocka_unit_test(test_levels),
        cmocka_unit_test(test_long_value_is_cut), cmocka_unit_test(test_threads_do_not_mix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
