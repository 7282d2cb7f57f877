/* The HTTP server and its clients: who is noticed to be gone, what slow and idle ones cost, too many at a time, how it
 * stops; and all of it at once, for ThreadSanitizer. */
#include "http_peer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- clients that go away ---------------------------------------------------------------------------------------- */

static void test_abort_while_waiting(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    for (int how = 0; how < 3; how++) {
        Client c = dial(h);
        assert_true(says(&c, "GET /hold" END));
        HttpExchange *x = take_held();
        assert_false(http_closed(x));
        double t = now_seconds();
        if (how == 0)
            hang_up(&c);
        else if (how == 1)
            reset(&c);
        else
            shutdown(c.fd, SHUT_WR); /* half closed counts as gone */
        EVENTUALLY(atomic_load(&closes) == how + 1);
        assert_true(now_seconds() - t < 1);
        assert_true(http_closed(x));
        EVENTUALLY(atomic_load(&statuses[499]) == how + 1);
        atomic_int again = 0;
        http_on_close(x, count_close, &again); /* at once */
        assert_int_equal(again, 1);
        http_reply(x, 200, "text/plain", "too late", 8);
        if (how == 2) {
            assert_true(closed_within(&c, 5));
            hang_up(&c);
        }
    }
    assert_int_equal(atomic_load(&closes), 3);
    http_stop(h);
}

static void test_abort_in_mid_stream(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    for (int how = 0; how < 2; how++) {
        Client c = dial(h);
        Answer a;
        bool last;
        assert_true(says(&c, "POST /hold" HOST "Content-Length: 1\r\n\r\nx"));
        HttpExchange *x = take_held();
        http_stream_begin(x, 200, "text/plain");
        http_stream_write(x, "first", 5);
        read_head(&c, &a);
        assert_true(read_chunk(&c, &a, &last));
        buf_free(&a.body);
        if (how)
            reset(&c);
        else
            hang_up(&c);
        EVENTUALLY(atomic_load(&closes) == how + 1);
        for (int i = 0; i < 1000; i++)
            http_stream_write(x, "more", 4);
        http_stream_end(x);
        EVENTUALLY(atomic_load(&statuses[200]) == how + 1); /* it had begun */
    }
    http_stop(h);
}

/* Half a request and an end: nothing will come any more, however the bytes fall together. */
static void test_end_in_mid_request(void **state)
{
    (void)state;
    static const char *const halves[] = {"", "GET /hea", "GET /health HTTP/1.1\r\nHost:",
                                         "POST /echo" HOST "Content-Length: 9\r\n\r\nx",
                                         "POST /echo" HOST "Transfer-Encoding: chunked\r\n\r\n5\r\nab"};
    Http *h = start((HttpOptions){0});
    for (int i = 0; i < 60; i++) {
        Client c = dial(h);
        assert_true(says(&c, halves[i % COUNT(halves)]));
        if (i % 3 == 0)
            nap(0.002);
        shutdown(c.fd, SHUT_WR);
        assert_true(closed_within(&c, 5));
        hang_up(&c);
    }
    http_stop(h);
}

static void test_pipelined_bytes_are_no_abort(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    Client c = dial(h);
    assert_true(says(&c, "GET /hold" END));
    HttpExchange *x = take_held();
    assert_true(says(&c, "GET /health" END));
    nap(0.1);
    assert_false(http_closed(x));
    http_reply(x, 200, "text/plain", "first", 5);
    Answer a = read_answer(&c, false);
    assert_answer(&a, 200, "first");
    a = read_answer(&c, false);
    assert_answer(&a, 200, "ok");
    assert_int_equal(atomic_load(&closes), 0);
    hang_up(&c);
    nap(0.1);
    assert_int_equal(atomic_load(&closes), 0); /* it had been ended */
    http_stop(h);
}

static void end_it(void *context)
{
    atomic_fetch_add(&closes, 1);
    http_reply(*(HttpExchange **)context, 200, NULL, "x", 1);
}

static void test_end_within_on_close(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    Client c = dial(h);
    assert_true(says(&c, "GET /hold" END));
    HttpExchange *x = take_held();
    http_on_close(x, end_it, &x);
    hang_up(&c);
    EVENTUALLY(http_drain(h, 0.01));
    assert_int_equal(atomic_load(&closes), 1);
    http_stop(h);
}

/* ---- slow and idle clients --------------------------------------------------------------------------------------- */

static void test_slow_reader(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){.max_unsent = 100000});
    Client c = dial_with(h, 4096);
    char piece[1000] = {0};
    assert_true(says(&c, "GET /hold" END));
    HttpExchange *x = take_held();
    http_stream_begin(x, 200, "text/plain");
    int written = 0;
    for (; written < 100000 && !http_closed(x); written++) {
        http_stream_write(x, piece, sizeof piece);
        if (written % 100 == 0)
            nap(0.001);
    }
    assert_in_range(written, 100, 20000); /* what the sockets' buffers take, and 100 kB */
    EVENTUALLY(atomic_load(&closes) == 1);
    http_stream_end(x);
    assert_true(closed_within(&c, 5));
    hang_up(&c);
    http_stop(h);
}

/* One that reads nothing of what fits into the buffers is closed for its idleness. */
static void test_idle_reader(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){.idle_timeout = 1, .max_unsent = 64 << 20});
    Buf large = {0};
    buf_reserve(&large, 16 << 20);
    memset(large.data, 'x', large.len = 16 << 20);
    Client c = dial_with(h, 4096);
    assert_true(says(&c, "GET /hold" END));
    HttpExchange *x = take_held();
    http_stream_begin(x, 200, "text/plain");
    http_stream_write(x, large.data, large.len);
    EVENTUALLY(atomic_load(&closes) == 1);
    http_stream_end(x);
    hang_up(&c);

    c = dial_with(h, 4096);
    assert_true(says(&c, "GET /hold" END));
    http_reply(take_held(), 200, "text/plain", large.data, large.len);
    assert_true(!http_drain(h, 0.2));
    assert_true(http_drain(h, 8));
    hang_up(&c);
    buf_free(&large);
    http_stop(h);
}

static void test_slow_requests(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){.idle_timeout = 1});
    Client idle = dial(h), line_only = dial(h), no_body = dial(h), no_headers = dial(h), waiting = dial(h);
    double t = now_seconds();
    assert_true(says(&line_only, "GET /heal"));
    assert_true(says(&no_body, "POST /echo" HOST "Content-Length: 10\r\n\r\nhalf"));
    assert_true(says(&no_headers, "GET /health" HOST "X-"));
    assert_true(says(&waiting, "GET /hold" END));
    HttpExchange *x = take_held();
    Answer a = read_answer(&no_body, false);
    assert_int_equal(a.status, 408);
    assert_non_null(strstr(a.body.data, "too long to arrive"));
    buf_free(&a.body);
    a = read_answer(&no_headers, false);
    assert_int_equal(a.status, 408);
    buf_free(&a.body);
    assert_true(closed_within(&idle, 5) && closed_within(&line_only, 5) && closed_within(&no_body, 5));
    assert_in_range((int)(10 * (now_seconds() - t)), 9, 60);
    while (now_seconds() - t < 3.5)
        nap(0.05);
    assert_int_equal(atomic_load(&closes), 0); /* waiting for an answer is no idleness */
    http_stream_begin(x, 200, "text/plain");
    nap(2.5);
    http_stream_end(x);
    a = read_answer(&waiting, false);
    assert_answer(&a, 200, "");
    Client *all[] = {&idle, &line_only, &no_body, &no_headers, &waiting};
    for (size_t i = 0; i < COUNT(all); i++)
        hang_up(all[i]);
    http_stop(h);
}

/* A byte now and then keeps nothing open. */
static void test_drops(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){.idle_timeout = 1});
    Client in_line = dial(h), in_headers = dial(h), in_body = dial(h);
    assert_true(says(&in_headers, "GET /health" HOST "X: "));
    assert_true(says(&in_body, "POST /echo" HOST "Content-Length: 100\r\n\r\n"));
    double t = now_seconds();
    bool line_open = true, headers_open = true, body_open = true;
    while (now_seconds() - t < 6 && (line_open || headers_open || body_open)) {
        line_open = line_open && says(&in_line, "G");
        headers_open = headers_open && says(&in_headers, "x");
        body_open = body_open && says(&in_body, "x");
        nap(0.3);
    }
    assert_false(line_open || headers_open || body_open);
    assert_int_equal(atomic_load(&statuses[408]), 2);
    hang_up(&in_line);
    hang_up(&in_headers);
    hang_up(&in_body);
    http_stop(h);
}

static long resident_kib(void)
{
    long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%ld %ld", &pages, &resident), 2);
    fclose(f);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

enum { IDLE = 1000 };

static void test_many_idle_connections(void **state)
{
    (void)state;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = MIN(files.rlim_max, 4096);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
    Http *h = start((HttpOptions){.max_connections = IDLE + 1});
    static Client idle[IDLE];
    Client c = dial(h);
    post_stream(&c, 300, 100, 3000);
    long before = resident_kib();
    for (int i = 0; i < IDLE; i++)
        idle[i] = dial(h);
    Answer a = read_answer(&c, false);
    assert_pieces(&a, 300, 100);
    print_message("an idle connection: %.1f KiB\n", (double)(resident_kib() - before) / IDLE);
    Client extra = dial(h); /* beyond max_connections: closed at once */
    assert_true(closed_within(&extra, 5));
    hang_up(&extra);
    post_stream(&c, 10, 100, 0);
    a = read_answer(&c, false);
    assert_pieces(&a, 10, 100);
    for (int i = 0; i < IDLE; i++) {
        if (i % 100 == 0) { /* they are alive */
            assert_true(says(&idle[i], "GET /health" END));
            a = read_answer(&idle[i], false);
            assert_answer(&a, 200, "ok");
        }
        hang_up(&idle[i]);
    }
    hang_up(&c);
    http_stop(h);
}

/* ---- overload, the end ------------------------------------------------------------------------------------------- */

enum { BURST = 270 };

static void test_queue_is_bounded(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){.workers = 1});
    static Client clients[BURST];
    int refused = 0;
    pthread_mutex_lock(&gate);
    Client first = dial(h);
    assert_true(says(&first, "GET /block" END));
    EVENTUALLY(atomic_load(&in_block) == 1);
    for (int i = 0; i < BURST; i++) {
        clients[i] = dial(h);
        assert_true(says(&clients[i], "GET /block" END));
    }
    EVENTUALLY(atomic_load(&statuses[503]) == BURST - 256);
    Client open = dial(h); /* an open route is not refused: somebody wants to know whether we live */
    assert_true(says(&open, "GET /health" END));
    nap(0.05);
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < BURST; i++) {
        Answer a = read_answer(&clients[i], false);
        refused += a.status == 503;
        if (a.status == 503)
            assert_string_equal(header(&a, "Retry-After"), "1");
        else
            assert_int_equal(a.status, 200);
        buf_free(&a.body);
        hang_up(&clients[i]);
    }
    assert_int_equal(refused, BURST - 256);
    Answer a = read_answer(&open, false);
    assert_answer(&a, 200, "ok");
    a = read_answer(&first, false);
    assert_answer(&a, 200, "ok");
    hang_up(&first);
    hang_up(&open);
    http_stop(h);
}

static void test_bodies_are_bounded_together(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){.max_body = 10000});
    static char body[10000];
    Client clients[9];
    for (int i = 0; i < 9; i++) {
        clients[i] = dial(h);
        assert_true(says(&clients[i], "POST /echo" HOST "Content-Length: 10000\r\n\r\n"));
        assert_true(say(&clients[i], body, 9999));
        nap(0.02);
    }
    Answer a = read_answer(&clients[8], false);
    assert_int_equal(a.status, 503);
    buf_free(&a.body);
    hang_up(&clients[8]);
    for (int i = 0; i < 8; i++) {
        assert_true(say(&clients[i], "x", 1));
        a = read_answer(&clients[i], false);
        assert_int_equal(a.status, 201);
        assert_int_equal(a.body.len, 10000);
        buf_free(&a.body);
        hang_up(&clients[i]);
    }
    assert_int_equal(status_of(h, "POST /echo" HOST "Content-Length: 1\r\n\r\nx"), 201);
    http_stop(h);
}

static void test_refuse_and_drain(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    Client c = dial(h), half = dial(h);
    assert_true(says(&c, "GET /hold" END));
    assert_true(says(&half, "POST /echo" HOST "Content-Length: 2\r\n\r\nx"));
    HttpExchange *x = take_held();
    nap(0.05);
    http_refuse(h);
    assert_int_equal(status_of(h, "GET /show" END), 503);
    assert_int_equal(status_of(h, "GET /health" END), 200);
    assert_true(says(&half, "y"));
    Answer a = read_answer(&half, false);
    assert_int_equal(a.status, 503);
    buf_free(&a.body);
    assert_false(http_drain(h, 0.1));
    http_reply(x, 200, "text/plain", "late", 4);
    assert_true(http_drain(h, 5));
    a = read_answer(&c, false);
    assert_answer(&a, 200, "late");
    hang_up(&c);
    hang_up(&half);
    http_stop(h);
}

static void *stop_thread(void *h)
{
    http_stop(h);
    return NULL;
}

static void test_stop_with_exchanges_in_flight(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){.workers = 1});
    Client waiting = dial(h), streaming = dial(h), reading = dial(h), idle = dial(h), queued = dial(h);
    assert_true(says(&waiting, "GET /hold" END));
    HttpExchange *x = take_held();
    assert_true(says(&streaming, "GET /hold" END));
    HttpExchange *y = take_held();
    http_stream_begin(y, 200, "text/plain");
    assert_true(says(&reading, "POST /echo" HOST "Content-Length: 2\r\n\r\nx"));
    pthread_mutex_lock(&gate);
    assert_true(says(&queued, "GET /block" END));
    EVENTUALLY(atomic_load(&in_block) == 1);
    pthread_t stopper;
    assert_int_equal(pthread_create(&stopper, NULL, stop_thread, h), 0);
    EVENTUALLY(atomic_load(&closes) == 2);
    assert_true(http_closed(x) && http_closed(y));
    assert_true(closed_within(&waiting, 5) && closed_within(&reading, 5) && closed_within(&idle, 5));
    pthread_mutex_unlock(&gate);
    http_reply(x, 200, "text/plain", "x", 1);
    nap(0.05); /* http_stop waits for this one */
    http_stream_write(y, "y", 1);
    http_stream_end(y);
    pthread_join(stopper, NULL);
    Client *all[] = {&waiting, &streaming, &reading, &idle, &queued};
    for (size_t i = 0; i < COUNT(all); i++)
        hang_up(all[i]);
    http_stop(NULL);
}

static void test_start_fails(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    Err err = {0};
    HttpOptions same = {.host = "127.0.0.1", .port = http_port(h), .routes = routes};
    assert_null(http_start(&same, &err));
    assert_non_null(strstr(err.text, "Address already in use"));
    http_stop(h);
    HttpOptions nowhere = {.host = "192.0.2.1", .routes = routes};
    assert_null(http_start(&nowhere, &err));
    assert_non_null(strstr(err.text, "can't listen on 192.0.2.1"));
    HttpOptions no_name = {.host = "no such host", .routes = routes};
    assert_null(http_start(&no_name, &err));
    assert_non_null(strstr(err.text, "can't listen on 'no such host'"));
}

/* ---- everything at once ------------------------------------------------------------------------------------------ */

typedef struct Stress {
    Http *h;
    unsigned seed;
    int rounds;
} Stress;

static void one_round(Stress *s, Client *c)
{
    Answer a;
    int count = rand_r(&s->seed) % 50, size = rand_r(&s->seed) % 3000, pause = rand_r(&s->seed) % 3 * 100;
    switch (rand_r(&s->seed) % 6) {
    case 0:
        assert_true(says(c, "GET /health" END));
        a = read_answer(c, false);
        assert_answer(&a, 200, "ok");
        break;
    case 1: /* leave before the answer */
        post_stream(c, count, size, pause);
        if (count % 2)
            nap(0.0005 * (count % 7));
        if (count % 3)
            hang_up(c);
        else
            reset(c);
        *c = dial(s->h);
        break;
    case 2:
        assert_true(says(c, "POST /echo" HOST "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"));
        a = read_answer(c, false);
        assert_answer(&a, 201, "abcd");
        break;
    default:
        post_stream(c, count, size, pause);
        a = read_answer(c, false);
        assert_pieces(&a, count, size);
    }
}

static void *stress(void *arg)
{
    Stress *s = arg;
    Client c = dial(s->h);
    for (int i = 0; i < s->rounds; i++)
        one_round(s, &c);
    hang_up(&c);
    return NULL;
}

static void test_stress(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){.workers = 3});
    pthread_t threads[8];
    Stress s[COUNT(threads)];
    for (size_t i = 0; i < COUNT(threads); i++) {
        s[i] = (Stress){h, (unsigned)i + 1, 150};
        assert_int_equal(pthread_create(&threads[i], NULL, stress, &s[i]), 0);
    }
    for (size_t i = 0; i < COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    assert_true(http_drain(h, 10));
    http_stop(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_abort_while_waiting),
        cmocka_unit_test(test_abort_in_mid_stream),
        cmocka_unit_test(test_end_in_mid_request),
        cmocka_unit_test(test_pipelined_bytes_are_no_abort),
        cmocka_unit_test(test_end_within_on_close),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_idle_reader),
        cmocka_unit_test(test_slow_requests),
        cmocka_unit_test(test_drops),
        cmocka_unit_test(test_many_idle_connections),
        cmocka_unit_test(test_queue_is_bounded),
        cmocka_unit_test(test_bodies_are_bounded_together),
        cmocka_unit_test(test_refuse_and_drain),
        cmocka_unit_test(test_stop_with_exchanges_in_flight),
        cmocka_unit_test(test_start_fails),
        cmocka_unit_test(test_stress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
