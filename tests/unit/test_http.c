/* The HTTP server over real sockets: what it answers, and what it refuses at the door. */
#include "http_peer.h"

#include <stdio.h>
#include <string.h>

/* ---- whole answers ----------------------------------------------------------------------------------------------- */

static void test_whole(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    Answer a = ask(h, "GET /health" END);
    assert_string_equal(header(&a, "Content-Type"), "text/plain");
    assert_int_equal(strlen(header(&a, "X-Request-Id")), 32);
    assert_answer(&a, 200, "ok");
    a = ask(h, "POST /echo" HOST "Content-Type: x/y\r\nContent-Length: 5\r\n\r\nhello");
    assert_string_equal(header(&a, "Content-Type"), "x/y");
    assert_string_equal(header(&a, "X-Echo"), "yes");
    assert_answer(&a, 201, "hello");
    a = ask(h, "POST /echo" END);
    assert_answer(&a, 201, "");
    a = ask(h, "GET /show/a%20b/c?a=1%2B2&b=&c" HOST "X-Request-Id: Me.1_2-3\r\n\r\n");
    assert_string_equal(header(&a, "X-Request-Id"), "Me.1_2-3");
    assert_answer(&a, 200, "id=Me.1_2-3 path=/show/a b/c a=1+2 b=");
    EVENTUALLY(atomic_load(&records) == 4);
    assert_int_equal(atomic_load(&statuses[200]), 2);
    assert_int_equal(atomic_load(&statuses[201]), 2);
    http_stop(h);
}

static void test_request_ids(void **state)
{
    (void)state;
    static const char *const bad[] = {"a b", "", "x\"y", "h\xc3\xa9", "a;b",
                                      "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    Http *h = start((HttpOptions){0});
    for (size_t i = 0; i < COUNT(bad); i++) {
        char request[256];
        snprintf(request, sizeof request, "GET /health" HOST "X-Request-Id: %s\r\n\r\n", bad[i]);
        Answer a = ask(h, request);
        assert_string_not_equal(header(&a, "X-Request-Id"), bad[i]);
        assert_int_equal(strlen(header(&a, "X-Request-Id")), 32);
        assert_answer(&a, 200, "ok");
    }
    http_stop(h);
}

static void test_keep_alive_and_pipelines(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    Client c = dial(h);
    for (int i = 0; i < 20; i++) {
        char request[128], body[16];
        snprintf(body, sizeof body, "body %d", i);
        snprintf(request, sizeof request, "POST /echo" HOST "Content-Length: %zu\r\n\r\n%s", strlen(body), body);
        assert_true(says(&c, request));
        Answer a = read_answer(&c, false);
        assert_answer(&a, 201, body);
        assert_true(says(&c, "GET /nowhere" END));
        a = read_answer(&c, false);
        assert_int_equal(a.status, 404);
        buf_free(&a.body);
    }
    Buf many = {0};
    for (int i = 0; i < 50; i++)
        buf_printf(&many, "GET /show?a=%d" HOST "X-Request-Id: r%d\r\n\r\n", i, i);
    assert_true(say(&c, many.data, many.len));
    for (int i = 0; i < 50; i++) {
        char want[64];
        snprintf(want, sizeof want, "id=r%d path=/show a=%d b=-", i, i);
        Answer a = read_answer(&c, false);
        assert_answer(&a, 200, want);
    }
    hang_up(&c);
    buf_free(&many);
    http_stop(h);
}

static void test_head(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    Client c = dial(h);
    assert_true(says(&c, "HEAD /health" HOST "\r\nGET /health" END));
    Answer a = read_answer(&c, true);
    assert_int_equal(a.status, 200);
    assert_string_equal(header(&a, "Content-Length"), "2");
    a = read_answer(&c, false);
    assert_answer(&a, 200, "ok");
    hang_up(&c);
    a = ask(h, "HEAD /echo" END);
    assert_int_equal(a.status, 405);
    assert_string_equal(header(&a, "Allow"), "POST");
    http_stop(h);
}

/* ---- the door ---------------------------------------------------------------------------------------------------- */

static void test_routes(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    static const char *const unknown[] = {"/",       "//health",        "/health/", "/%68ealth", "/HEALTH",
                                          "/show/",  "http://a/health", "*",        "/healthx",  "/healt"};
    for (size_t i = 0; i < COUNT(unknown); i++) {
        char request[256];
        snprintf(request, sizeof request, "GET %s" END, unknown[i]);
        assert_int_equal(status_of(h, request), 404);
    }
    Answer a = ask(h, "DELETE /show" END);
    assert_int_equal(a.status, 405);
    assert_string_equal(header(&a, "Allow"), "GET, HEAD, POST");
    buf_free(&a.body);
    a = ask(h, "GET /a\"\xff" END);
    assert_answer(&a, 404,
                  "{\"error\":{\"message\":\"There is nothing at this path: GET /a\\\"\xef\xbf\xbd\","
                  "\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}\n");
    assert_int_equal(status_of(h, "AVERYLONGMETHODNAMETHATISNONE /health" END), 405);
    assert_int_equal(status_of(h, "OPTIONS /health" END), 405);
    http_stop(h);
}

static void test_keys(void **state)
{
    (void)state;
    const char *const keys[] = {"sk-secret", "another", NULL};
    Http *h = start((HttpOptions){.keys = keys});
    static const char *const wrong[] = {
        "X: y",
        "Authorization: Bearer ",
        "Authorization: Bearer sk-secre",
        "Authorization: Bearer sk-secrets",
        "Authorization: Bearer SK-SECRET",
        "Authorization: Bearer sk-secret another",
        "Authorization: Basic sk-secret",
        "Authorization: sk-secret",
        "Authorization: Bearer s",
        "Authorization: Bearersk-secret",
    };
    static const char *const paths[] = {"/show",   "/nowhere", "//health", "/%68ealth", "/health/", "http://a/health",
                                        "/health/../show", "/health%00/../show", "/show?x=/health", "*"};
    char request[512];
    for (size_t i = 0; i < COUNT(wrong); i++)
        for (size_t k = 0; k < COUNT(paths); k++) {
            snprintf(request, sizeof request, "GET %s" HOST "%s\r\n\r\n", paths[k], wrong[i]);
            assert_int_equal(status_of(h, request), 401);
        }
    for (int i = 0; keys[i]; i++) {
        snprintf(request, sizeof request, "GET /show" HOST "authorization: bearer %s\r\n\r\n", keys[i]);
        assert_int_equal(status_of(h, request), 200);
    }
    Answer a = ask(h, "POST /health" END);
    assert_string_equal(header(&a, "WWW-Authenticate"), "Bearer");
    assert_non_null(strstr(a.body.data, "\"code\":\"invalid_api_key\""));
    assert_int_equal(a.status, 401);
    buf_free(&a.body);
    assert_int_equal(status_of(h, "GET /health" END), 200);
    assert_int_equal(status_of(h, "GET /health?a=b" END), 200);
    http_stop(h);

    Err err = {0};
    const char *const empty[] = {"fine", "", NULL};
    assert_null(http_start(&(HttpOptions){.host = "127.0.0.1", .routes = routes, .keys = empty}, &err));
    assert_non_null(strstr(err.text, "must not be empty"));
}

static void test_cors(void **state)
{
    (void)state;
    const char *const keys[] = {"k", NULL};
    Http *h = start((HttpOptions){.keys = keys, .cors = "https://app.example"});
    Answer a = ask(h, "OPTIONS /show" HOST "Origin: https://app.example\r\nAccess-Control-Request-Method: POST\r\n"
                      "Access-Control-Request-Headers: authorization, x-stainless-os\r\n\r\n");
    assert_int_equal(a.status, 204);
    assert_string_equal(header(&a, "Access-Control-Allow-Origin"), "https://app.example");
    assert_string_equal(header(&a, "Access-Control-Allow-Headers"), "authorization, x-stainless-os");
    buf_free(&a.body);
    a = ask(h, "GET /show" HOST "Origin: https://app.example\r\n\r\n");
    assert_int_equal(a.status, 401);
    assert_string_equal(header(&a, "Access-Control-Allow-Origin"), "https://app.example");
    assert_string_equal(header(&a, "Vary"), "Origin");
    buf_free(&a.body);
    assert_int_equal(status_of(h, "OPTIONS /show" END), 401);
    http_stop(h);
}

/* ---- bodies ------------------------------------------------------------------------------------------------------ */

static void test_bodies(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){.max_body = 100000});
    Buf request = {0};
    buf_puts(&request, "POST /echo" HOST "Content-Length: 100000\r\n\r\n");
    for (int i = 0; i < 100000; i++)
        buf_putc(&request, (char)(i % 251));
    Client c = dial(h);
    assert_true(say(&c, request.data, request.len));
    Answer a = read_answer(&c, false);
    assert_int_equal(a.body.len, 100000);
    assert_memory_equal(a.body.data, request.data + request.len - 100000, 100000);
    buf_free(&a.body);
    hang_up(&c);

    assert_int_equal(status_of(h, "POST /echo" HOST "Content-Length: 100001\r\n\r\n"), 413); /* at once */
    assert_int_equal(status_of(h, "POST /echo" HOST "Content-Length: 99999999999999999999\r\n\r\n"), 413);
    a = ask(h, "POST /echo" HOST "Transfer-Encoding: chunked\r\n\r\n"
               "3\r\nabc\r\nA;ext=1\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n");
    assert_answer(&a, 201, "abc0123456789");
    a = ask(h, "POST /echo" HOST "Content-Length: 2\r\nExpect: 100-continue\r\n\r\nhi");
    assert_answer(&a, 201, "hi");
    buf_free(&request);
    http_stop(h);
}

/* A client that sends all before it reads gets the answer, whole, although nobody wanted its body. */
static void test_large_bodies_are_answered(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){.max_body = 1 << 20});
    static char zeros[1 << 16];
    Client c = dial(h);
    assert_true(says(&c, "POST /echo" HOST "Content-Length: 40000000\r\n\r\n"));
    for (int i = 0; i < 610; i++)
        say(&c, zeros, sizeof zeros);
    Answer a = read_answer(&c, false);
    assert_int_equal(a.status, 413);
    assert_non_null(strstr(a.body.data, "1048576 bytes"));
    buf_free(&a.body);
    hang_up(&c);

    c = dial(h);
    assert_true(says(&c, "POST /echo" HOST "Transfer-Encoding: chunked\r\n\r\n"));
    for (int i = 0; i < 100; i++)
        if (!says(&c, "10000\r\n") || !say(&c, zeros, sizeof zeros) || !says(&c, "\r\n"))
            break;
    a = read_answer(&c, false);
    assert_int_equal(a.status, 413);
    buf_free(&a.body);
    assert_true(closed_within(&c, 5));
    hang_up(&c);
    http_stop(h);
}

static void test_malformed(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    static const char *const bad[] = {
        "POST /echo" HOST "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /echo" HOST "Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        "POST /echo" HOST "Transfer-Encoding: gzip\r\n\r\nabc",
        "POST /echo" HOST "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "POST /echo" HOST "Content-Length: -1\r\n\r\n",
        "POST /echo" HOST "Content-Length: 0x10\r\n\r\n",
        "POST /echo" HOST "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        "GET /health HTTP/1.1\r\n\r\n", /* no Host */
        "GET /health HTTP/1.1\r\nno colon\r\nHost: a\r\n\r\n",
        "\x16\x03\x01\x02\x01\x01\x01\x01\xfc\x03\x03\r\n\r\n", /* TLS */
        "GET\r\n\r\n",
        "GET / FTP/1.1\r\n\r\n",
        "GET /health HTTP/9.9\r\nHost: a\r\n\r\n",
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        int status = status_of(h, bad[i]);
        if (status != 0 && status != 400 && status != 505)
            fail_msg("request %zu: status %d", i, status);
    }
    for (int size = 20000; size <= 200000; size *= 10) {
        Buf request = {0};
        buf_puts(&request, "GET /health" HOST "X-Large: ");
        for (int i = 0; i < size; i++)
            buf_putc(&request, 'x');
        buf_puts(&request, "\r\n\r\n");
        assert_int_equal(status_of(h, request.data), 431);
        buf_free(&request);
    }
    assert_int_equal(status_of(h, "GET /health" END), 200);
    http_stop(h);
}

/* ---- streams ----------------------------------------------------------------------------------------------------- */

static void test_streams(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    Client c = dial(h);
    static const int shapes[][3] = {{0, 0, 0}, {1, 1, 0}, {5000, 37, 0}, {30, 100000, 0}, {50, 64, 1000},
                                    {2, 3000000, 0}};
    for (size_t i = 0; i < COUNT(shapes); i++) {
        post_stream(&c, shapes[i][0], shapes[i][1], shapes[i][2]);
        Answer a = read_answer(&c, false);
        assert_string_equal(header(&a, "Content-Type"), "text/event-stream");
        assert_pieces(&a, shapes[i][0], shapes[i][1]);
    }
    hang_up(&c);
    http_stop(h);
}

/* What is written arrives at once: the headers before anything is written, then each piece on its own. */
static void test_latency(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    Client c = dial(h);
    Answer a;
    bool last;
    double worst = 0, sum = 0;
    assert_true(says(&c, "GET /hold" END));
    HttpExchange *x = take_held();
    http_stream_begin(x, 200, "text/plain");
    read_head(&c, &a);
    assert_int_equal(a.status, 200);
    for (int i = 0; i < 100; i++) {
        double t = now_seconds();
        http_stream_write(x, "piece", 5);
        a.body.len = 0;
        assert_true(read_chunk(&c, &a, &last));
        assert_int_equal(a.body.len, 5);
        t = now_seconds() - t;
        worst = MAX(worst, t);
        sum += t;
        nap(0.001);
    }
    print_message("write to receipt: mean %.0f us, worst %.0f us\n", sum * 1e4, worst * 1e6);
    assert_true(sum / 100 < 0.020); /* Nagle's algorithm against delayed acknowledgements would take 0.040 */
    http_stream_end(x);
    assert_true(read_chunk(&c, &a, &last) && last);
    buf_free(&a.body);
    hang_up(&c);
    http_stop(h);
}

static void test_http_1_0(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    Client c = dial(h);
    Buf all = {0}, want = {0};
    assert_true(says(&c, "POST /stream HTTP/1.0\r\nContent-Length: 8\r\n\r\n3 1000 0"));
    while (more(&c) > 0) {
    }
    for (int i = 0; i < 3; i++)
        put_piece(&want, i, 1000);
    buf_put(&all, c.in.data, c.in.len);
    assert_true(all.len > want.len);
    assert_memory_equal(all.data + all.len - want.len, want.data, want.len);
    buf_free(&all);
    buf_free(&want);
    hang_up(&c);
    http_stop(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_request_ids),
        cmocka_unit_test(test_keep_alive_and_pipelines),
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_routes),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_cors),
        cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_large_bodies_are_answered),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_latency),
        cmocka_unit_test(test_http_1_0),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
