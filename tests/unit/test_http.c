/* The HTTP server over real sockets on port 0, with a client written here: what it answers, what it refuses, who is
 * noticed to be gone, what slow and idle clients cost, how it stops. Runs under ThreadSanitizer as well. */
#include "test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "http.h"

static void nap(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

#define EVENTUALLY(condition)                                                                                          \
    do {                                                                                                               \
        bool come_true = false;                                                                                        \
        for (double end = now_seconds() + 10; !(come_true = (condition)) && now_seconds() < end;)                      \
            nap(0.002);                                                                                                \
        assert_true(come_true);                                                                                        \
    } while (0)

/* ---- handlers ------------------------------------------------------------------------------------------------------ */

static HttpExchange *_Atomic held; /* the exchange of /hold: the test ends it */
static atomic_int closes, in_block, records, statuses[600];
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void on_record(void *context, const HttpRecord *r)
{
    (void)context;
    assert_string_equal(r->client, "127.0.0.1");
    atomic_fetch_add(&statuses[r->status], 1);
    atomic_fetch_add(&records, 1);
}

static void count_close(void *context)
{
    atomic_fetch_add((atomic_int *)context, 1);
}

static void handle_health(void *context, HttpExchange *x)
{
    (void)context;
    http_reply(x, 200, "text/plain", "ok", 2);
}

static void handle_echo(void *context, HttpExchange *x)
{
    (void)context;
    size_t len;
    const char *body = http_body(x, &len);
    assert_int_equal(body[len], 0);
    http_set_header(x, "X-Echo", "yes");
    http_reply(x, 201, http_header(x, "content-TYPE"), body, len);
}

static void handle_show(void *context, HttpExchange *x)
{
    (void)context;
    Buf out = {0};
    const char *a = http_query(x, "a"), *b = http_query(x, "b");
    buf_printf(&out, "id=%s path=%s a=%s b=%s", http_id(x), http_path(x), a ? a : "-", b ? b : "-");
    http_reply(x, 200, "text/plain", out.data, out.len);
    buf_free(&out);
}

static void handle_hold(void *context, HttpExchange *x)
{
    (void)context;
    http_on_close(x, count_close, &closes);
    atomic_store(&held, x);
}

static void handle_block(void *context, HttpExchange *x)
{
    atomic_fetch_add(&in_block, 1);
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    handle_health(context, x);
}

/* "COUNT SIZE SLEEP_US": so many pieces, from a thread of its own. */
typedef struct Pieces {
    HttpExchange *x;
    int count, size, sleep_us;
    atomic_bool gone;
} Pieces;

static void pieces_gone(void *context)
{
    atomic_store(&((Pieces *)context)->gone, true);
}

static void put_piece(Buf *out, int i, int size)
{
    char head[16];
    snprintf(head, sizeof head, "%08d", i);
    for (int k = 0; k < size; k++)
        buf_putc(out, k < 8 ? head[k] : (char)('a' + (i + k) % 26));
}

static void *write_pieces(void *arg)
{
    Pieces *p = arg;
    Buf piece = {0};
    http_stream_begin(p->x, 200, "text/event-stream");
    for (int i = 0; i < p->count && !atomic_load(&p->gone); i++) {
        piece.len = 0;
        put_piece(&piece, i, p->size);
        http_stream_write(p->x, piece.data, piece.len);
        if (p->sleep_us)
            nap(p->sleep_us * 1e-6);
    }
    http_stream_end(p->x);
    buf_free(&piece);
    free(p);
    return NULL;
}

static void handle_stream(void *context, HttpExchange *x)
{
    (void)context;
    size_t len;
    Pieces *p = xcalloc(1, sizeof *p);
    pthread_t thread;
    p->x = x;
    assert_int_equal(sscanf(http_body(x, &len), "%d %d %d", &p->count, &p->size, &p->sleep_us), 3);
    http_on_close(x, pieces_gone, p);
    assert_int_equal(pthread_create(&thread, NULL, write_pieces, p), 0);
    pthread_detach(thread);
}

static const HttpRoute routes[] = {
    {"GET", "/health", handle_health, true}, {"POST", "/echo", handle_echo, false},
    {"GET", "/show", handle_show, false},    {"POST", "/show", handle_show, false},
    {"GET", "/show/*", handle_show, false},  {"GET", "/hold", handle_hold, false},
    {"POST", "/hold", handle_hold, false},   {"GET", "/block", handle_block, false},
    {"POST", "/stream", handle_stream, false}, {0},
};

static Http *start(HttpOptions o)
{
    Err err = {0};
    o.host = o.host ? o.host : "127.0.0.1";
    o.routes = routes;
    o.record = on_record;
    atomic_store(&held, NULL);
    atomic_store(&closes, 0);
    atomic_store(&in_block, 0);
    atomic_store(&records, 0);
    for (size_t i = 0; i < COUNT(statuses); i++)
        atomic_store(&statuses[i], 0);
    Http *h = http_start(&o, &err);
    if (!h)
        fail_msg("%s", err.text);
    return h;
}

static HttpExchange *take_held(void)
{
    HttpExchange *x = NULL;
    EVENTUALLY((x = atomic_exchange(&held, NULL)));
    return x;
}

/* ---- a client ------------------------------------------------------------------------------------------------------ */

typedef struct Client {
    int fd;
    Buf in;
    size_t at; /* read so far */
} Client;

typedef struct Answer {
    int status; /* 0: the connection was closed, -1: nothing came in time */
    char head[4096];
    Buf body;
    bool cut; /* the body did not end as it should */
} Answer;

static Client dial_with(Http *h, int receive_buffer)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)http_port(h))};
    struct timeval wait = {20, 0};
    int one = 1;
    Client c = {.fd = socket(AF_INET, SOCK_STREAM, 0)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(c.fd >= 0);
    if (receive_buffer)
        setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    setsockopt(c.fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    setsockopt(c.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    assert_int_equal(connect(c.fd, (struct sockaddr *)&to, sizeof to), 0);
    return c;
}

static Client dial(Http *h)
{
    return dial_with(h, 0);
}

static void hang_up(Client *c)
{
    close(c->fd);
    buf_free(&c->in);
    c->fd = -1;
    c->at = 0;
}

static void reset(Client *c)
{
    struct linger hard = {1, 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    hang_up(c);
}

/* False when the connection is gone. */
static bool say(Client *c, const void *bytes, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = send(c->fd, (const char *)bytes + done, len - done, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

static bool says(Client *c, const char *text)
{
    return say(c, text, strlen(text));
}

/* 1: more came; 0: closed; -1: time is over */
static int more(Client *c)
{
    char bytes[16384];
    ssize_t n = recv(c->fd, bytes, sizeof bytes, 0);
    if (n > 0)
        buf_put(&c->in, bytes, (size_t)n);
    return n > 0 ? 1 : n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? -1 : 0;
}

/* Takes a line with its end; NULL at the end of everything. */
static char *line(Client *c, char *out, size_t size)
{
    char *end;
    while (!(end = c->in.len > c->at ? memchr(c->in.data + c->at, '\n', c->in.len - c->at) : NULL))
        if (more(c) <= 0)
            return NULL;
    size_t len = (size_t)(end + 1 - (c->in.data + c->at));
    snprintf(out, size, "%.*s", (int)len, c->in.data + c->at);
    c->at += len;
    return out;
}

static bool take(Client *c, size_t len, Buf *out)
{
    while (c->in.len - c->at < len)
        if (more(c) <= 0)
            return false;
    if (len)
        buf_put(out, c->in.data + c->at, len);
    c->at += len;
    return true;
}

static const char *header(const Answer *a, const char *name)
{
    static _Thread_local char value[1024];
    size_t len = strlen(name);
    for (const char *p = a->head; (p = strchr(p, '\n')); p++)
        if (!strncasecmp(p + 1, name, len) && p[1 + len] == ':') {
            const char *v = p + 1 + len + 1 + strspn(p + 1 + len + 1, " ");
            snprintf(value, sizeof value, "%.*s", (int)strcspn(v, "\r\n"), v);
            return value;
        }
    return NULL;
}

static bool read_chunk(Client *c, Answer *a, bool *last)
{
    char text[64];
    if (!line(c, text, sizeof text))
        return false;
    size_t size = strtoul(text, NULL, 16);
    *last = size == 0;
    return take(c, size, &a->body) && line(c, text, sizeof text);
}

static void read_head(Client *c, Answer *a)
{
    char text[2048];
    *a = (Answer){0};
    errno = 0;
    while (line(c, text, sizeof text) && strcmp(text, "\r\n"))
        strncat(a->head, text, sizeof a->head - strlen(a->head) - 1);
    if (!strncmp(a->head, "HTTP/1.1 ", 9))
        a->status = atoi(a->head + 9);
    else if (errno == EAGAIN)
        a->status = -1;
}

static Answer read_answer(Client *c, bool head_only)
{
    Answer a;
    bool last = false;
    do
        read_head(c, &a);
    while (a.status == 100);
    const char *length = header(&a, "Content-Length");
    if (a.status <= 0 || head_only)
        return a;
    if (length) {
        a.cut = !take(c, strtoul(length, NULL, 10), &a.body);
    } else if (header(&a, "Transfer-Encoding")) {
        while (!last && !a.cut)
            a.cut = !read_chunk(c, &a, &last);
    }
    buf_puts(&a.body, "");
    return a;
}

/* One request on a connection of its own: status, and what it said. */
static Answer ask(Http *h, const char *request)
{
    Client c = dial(h);
    says(&c, request);
    Answer a = read_answer(&c, !strncmp(request, "HEAD", 4));
    hang_up(&c);
    return a;
}

static int status_of(Http *h, const char *request)
{
    Answer a = ask(h, request);
    if (a.status >= 400 && header(&a, "Content-Type")) {
        assert_string_equal(header(&a, "Content-Type"), "application/json");
        assert_non_null(strstr(a.body.data, "{\"error\":{\"message\":\""));
        assert_non_null(header(&a, "X-Request-Id"));
    }
    buf_free(&a.body);
    return a.status;
}

static void assert_answer(Answer *a, int status, const char *body)
{
    assert_int_equal(a->status, status);
    assert_false(a->cut);
    assert_string_equal(a->body.data, body);
    buf_free(&a->body);
}

/* Is the connection closed by the server, within so many seconds? */
static bool closed_within(Client *c, double seconds)
{
    struct timeval wait = {(time_t)seconds, (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)};
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    int n;
    while ((n = more(c)) > 0)
        c->at = c->in.len = 0;
    return n == 0;
}

/* ---- whole answers ------------------------------------------------------------------------------------------------- */

static void test_whole(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    Answer a = ask(h, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_string_equal(header(&a, "Content-Type"), "text/plain");
    assert_int_equal(strlen(header(&a, "X-Request-Id")), 32);
    assert_answer(&a, 200, "ok");
    a = ask(h, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: x/y\r\nContent-Length: 5\r\n\r\nhello");
    assert_string_equal(header(&a, "Content-Type"), "x/y");
    assert_string_equal(header(&a, "X-Echo"), "yes");
    assert_answer(&a, 201, "hello");
    a = ask(h, "POST /echo HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_answer(&a, 201, "");
    a = ask(h, "GET /show/a%20b/c?a=1%2B2&b=&c HTTP/1.1\r\nHost: a\r\nX-Request-Id: Me.1_2-3\r\n\r\n");
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
        snprintf(request, sizeof request, "GET /health HTTP/1.1\r\nHost: a\r\nX-Request-Id: %s\r\n\r\n", bad[i]);
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
        snprintf(request, sizeof request, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
        assert_true(says(&c, request));
        Answer a = read_answer(&c, false);
        assert_answer(&a, 201, body);
        assert_true(says(&c, "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n"));
        a = read_answer(&c, false);
        assert_int_equal(a.status, 404);
        buf_free(&a.body);
    }
    Buf many = {0};
    for (int i = 0; i < 50; i++)
        buf_printf(&many, "GET /show?a=%d HTTP/1.1\r\nHost: a\r\nX-Request-Id: r%d\r\n\r\n", i, i);
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
    assert_true(says(&c, "HEAD /health HTTP/1.1\r\nHost: a\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n"));
    Answer a = read_answer(&c, true);
    assert_int_equal(a.status, 200);
    assert_string_equal(header(&a, "Content-Length"), "2");
    a = read_answer(&c, false);
    assert_answer(&a, 200, "ok");
    hang_up(&c);
    a = ask(h, "HEAD /echo HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_int_equal(a.status, 405);
    assert_string_equal(header(&a, "Allow"), "POST");
    http_stop(h);
}

/* ---- the door ------------------------------------------------------------------------------------------------------ */

static void test_routes(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    static const char *const unknown[] = {"/", "//health", "/health/", "/%68ealth", "/HEALTH", "http://a/health", "/show/",
                                          "*", "/healthx", "/healt"};
    for (size_t i = 0; i < COUNT(unknown); i++) {
        char request[256];
        snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", unknown[i]);
        assert_int_equal(status_of(h, request), 404);
    }
    Answer a = ask(h, "DELETE /show HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_int_equal(a.status, 405);
    assert_string_equal(header(&a, "Allow"), "GET, HEAD, POST");
    buf_free(&a.body);
    a = ask(h, "GET /a\"\xff HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_answer(&a, 404,
                  "{\"error\":{\"message\":\"There is nothing at this path: GET /a\\\"\xef\xbf\xbd\","
                  "\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}\n");
    assert_int_equal(status_of(h, "AVERYLONGMETHODNAMETHATISNONE /health HTTP/1.1\r\nHost: a\r\n\r\n"), 405);
    assert_int_equal(status_of(h, "OPTIONS /health HTTP/1.1\r\nHost: a\r\n\r\n"), 405);
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
            snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n", paths[k], wrong[i]);
            assert_int_equal(status_of(h, request), 401);
        }
    for (int i = 0; keys[i]; i++) {
        snprintf(request, sizeof request, "GET /show HTTP/1.1\r\nHost: a\r\nauthorization: bearer %s\r\n\r\n", keys[i]);
        assert_int_equal(status_of(h, request), 200);
    }
    Answer a = ask(h, "POST /health HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_string_equal(header(&a, "WWW-Authenticate"), "Bearer");
    assert_non_null(strstr(a.body.data, "\"code\":\"invalid_api_key\""));
    assert_int_equal(a.status, 401);
    buf_free(&a.body);
    assert_int_equal(status_of(h, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"), 200);
    assert_int_equal(status_of(h, "GET /health?a=b HTTP/1.1\r\nHost: a\r\n\r\n"), 200);
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
    Answer a = ask(h, "OPTIONS /show HTTP/1.1\r\nHost: a\r\nOrigin: https://app.example\r\nAccess-Control-Request-Method: POST\r\n"
                      "Access-Control-Request-Headers: authorization, x-stainless-os\r\n\r\n");
    assert_int_equal(a.status, 204);
    assert_string_equal(header(&a, "Access-Control-Allow-Origin"), "https://app.example");
    assert_string_equal(header(&a, "Access-Control-Allow-Headers"), "authorization, x-stainless-os");
    buf_free(&a.body);
    a = ask(h, "GET /show HTTP/1.1\r\nHost: a\r\nOrigin: https://app.example\r\n\r\n");
    assert_int_equal(a.status, 401);
    assert_string_equal(header(&a, "Access-Control-Allow-Origin"), "https://app.example");
    assert_string_equal(header(&a, "Vary"), "Origin");
    buf_free(&a.body);
    assert_int_equal(status_of(h, "OPTIONS /show HTTP/1.1\r\nHost: a\r\n\r\n"), 401);
    http_stop(h);
}

/* ---- bodies -------------------------------------------------------------------------------------------------------- */

static void test_bodies(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){.max_body = 100000});
    Buf request = {0};
    buf_puts(&request, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    for (int i = 0; i < 100000; i++)
        buf_putc(&request, (char)(i % 251));
    Client c = dial(h);
    assert_true(say(&c, request.data, request.len));
    Answer a = read_answer(&c, false);
    assert_int_equal(a.body.len, 100000);
    assert_memory_equal(a.body.data, request.data + request.len - 100000, 100000);
    buf_free(&a.body);
    hang_up(&c);

    assert_int_equal(status_of(h, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\n\r\n"), 413); /* at once */
    assert_int_equal(status_of(h, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n"), 413);
    a = ask(h, "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;ext=1\r\n0123456789\r\n0\r\nT: x\r\n\r\n");
    assert_answer(&a, 201, "abc0123456789");
    a = ask(h, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi");
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
    assert_true(says(&c, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 40000000\r\n\r\n"));
    for (int i = 0; i < 610; i++)
        say(&c, zeros, sizeof zeros);
    Answer a = read_answer(&c, false);
    assert_int_equal(a.status, 413);
    assert_non_null(strstr(a.body.data, "1048576 bytes"));
    buf_free(&a.body);
    hang_up(&c);

    c = dial(h);
    assert_true(says(&c, "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"));
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
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0x10\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
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
        buf_puts(&request, "GET /health HTTP/1.1\r\nHost: a\r\nX-Large: ");
        for (int i = 0; i < size; i++)
            buf_putc(&request, 'x');
        buf_puts(&request, "\r\n\r\n");
        assert_int_equal(status_of(h, request.data), 431);
        buf_free(&request);
    }
    assert_int_equal(status_of(h, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"), 200);
    http_stop(h);
}

/* ---- streams ------------------------------------------------------------------------------------------------------- */

static void post_stream(Client *c, int count, int size, int sleep_us)
{
    char body[64], request[256];
    snprintf(body, sizeof body, "%d %d %d", count, size, sleep_us);
    snprintf(request, sizeof request, "POST /stream HTTP/1.1\r\nHost: a\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
    assert_true(says(c, request));
}

static void assert_pieces(Answer *a, int count, int size)
{
    Buf want = {0};
    buf_puts(&want, "");
    for (int i = 0; i < count; i++)
        put_piece(&want, i, size);
    assert_int_equal(a->status, 200);
    assert_false(a->cut);
    assert_int_equal(a->body.len, want.len);
    assert_memory_equal(a->body.data, want.data, want.len);
    buf_free(&want);
    buf_free(&a->body);
}

static void test_streams(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    Client c = dial(h);
    static const int shapes[][3] = {{0, 0, 0}, {1, 1, 0}, {5000, 37, 0}, {30, 100000, 0}, {50, 64, 1000}, {2, 3000000, 0}};
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
    assert_true(says(&c, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n"));
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

/* ---- clients that go away ------------------------------------------------------------------------------------------ */

static void test_abort_while_waiting(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    for (int how = 0; how < 3; how++) {
        Client c = dial(h);
        assert_true(says(&c, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n"));
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
        assert_true(says(&c, "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"));
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

static void test_pipelined_bytes_are_no_abort(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    Client c = dial(h);
    assert_true(says(&c, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n"));
    HttpExchange *x = take_held();
    assert_true(says(&c, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"));
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
    assert_true(says(&c, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n"));
    HttpExchange *x = take_held();
    http_on_close(x, end_it, &x);
    hang_up(&c);
    EVENTUALLY(http_drain(h, 0.01));
    assert_int_equal(atomic_load(&closes), 1);
    http_stop(h);
}

/* ---- slow and idle clients ----------------------------------------------------------------------------------------- */

static void test_slow_reader(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){.max_unsent = 100000});
    Client c = dial_with(h, 4096);
    char piece[1000] = {0};
    assert_true(says(&c, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n"));
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
    assert_true(says(&c, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n"));
    HttpExchange *x = take_held();
    http_stream_begin(x, 200, "text/plain");
    http_stream_write(x, large.data, large.len);
    EVENTUALLY(atomic_load(&closes) == 1);
    http_stream_end(x);
    hang_up(&c);

    c = dial_with(h, 4096);
    assert_true(says(&c, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n"));
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
    assert_true(says(&no_body, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf"));
    assert_true(says(&no_headers, "GET /health HTTP/1.1\r\nHost: a\r\nX-"));
    assert_true(says(&waiting, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n"));
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
    assert_true(says(&in_headers, "GET /health HTTP/1.1\r\nHost: a\r\nX: "));
    assert_true(says(&in_body, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"));
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
            assert_true(says(&idle[i], "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"));
            a = read_answer(&idle[i], false);
            assert_answer(&a, 200, "ok");
        }
        hang_up(&idle[i]);
    }
    hang_up(&c);
    http_stop(h);
}

/* ---- overload, the end --------------------------------------------------------------------------------------------- */

enum { BURST = 270 };

static void test_queue_is_bounded(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){.workers = 1});
    static Client clients[BURST];
    int refused = 0;
    pthread_mutex_lock(&gate);
    Client first = dial(h);
    assert_true(says(&first, "GET /block HTTP/1.1\r\nHost: a\r\n\r\n"));
    EVENTUALLY(atomic_load(&in_block) == 1);
    for (int i = 0; i < BURST; i++) {
        clients[i] = dial(h);
        assert_true(says(&clients[i], "GET /block HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    EVENTUALLY(atomic_load(&statuses[503]) == BURST - 256);
    Client open = dial(h); /* an open route is not refused: somebody wants to know whether we live */
    assert_true(says(&open, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"));
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
        assert_true(says(&clients[i], "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n"));
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
    assert_int_equal(status_of(h, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"), 201);
    http_stop(h);
}

static void test_refuse_and_drain(void **state)
{
    (void)state;
    Http *h = start((HttpOptions){0});
    Client c = dial(h), half = dial(h);
    assert_true(says(&c, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_true(says(&half, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx"));
    HttpExchange *x = take_held();
    nap(0.05);
    http_refuse(h);
    assert_int_equal(status_of(h, "GET /show HTTP/1.1\r\nHost: a\r\n\r\n"), 503);
    assert_int_equal(status_of(h, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"), 200);
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
    assert_true(says(&waiting, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n"));
    HttpExchange *x = take_held();
    assert_true(says(&streaming, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n"));
    HttpExchange *y = take_held();
    http_stream_begin(y, 200, "text/plain");
    assert_true(says(&reading, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx"));
    pthread_mutex_lock(&gate);
    assert_true(says(&queued, "GET /block HTTP/1.1\r\nHost: a\r\n\r\n"));
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

/* ---- everything at once -------------------------------------------------------------------------------------------- */

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
        assert_true(says(c, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"));
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
        assert_true(says(c, "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"));
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
        cmocka_unit_test(test_abort_while_waiting),
        cmocka_unit_test(test_abort_in_mid_stream),
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
