/* http_peer.c - handlers for tests of the HTTP server, and a client that reads answers byte by byte. */
#include "http_peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

void nap(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

/* ---- handlers ---------------------------------------------------------------------------------------------------- */

static HttpExchange *_Atomic held; /* the exchange of /hold: the test ends it */
atomic_int closes, in_block, records, statuses[600];
pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void on_record(void *context, const HttpRecord *r)
{
    (void)context;
    assert_string_equal(r->client, "127.0.0.1");
    atomic_fetch_add(&statuses[r->status], 1);
    atomic_fetch_add(&records, 1);
}

void count_close(void *context)
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

void put_piece(Buf *out, int i, int size)
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

const HttpRoute routes[] = {
    {"GET", "/health", handle_health, true}, {"POST", "/echo", handle_echo, false},
    {"GET", "/show", handle_show, false},    {"POST", "/show", handle_show, false},
    {"GET", "/show/*", handle_show, false},  {"GET", "/hold", handle_hold, false},
    {"POST", "/hold", handle_hold, false},   {"GET", "/block", handle_block, false},
    {"POST", "/stream", handle_stream, false}, {0},
};

Http *start(HttpOptions o)
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

HttpExchange *take_held(void)
{
    HttpExchange *x = NULL;
    EVENTUALLY((x = atomic_exchange(&held, NULL)));
    return x;
}

/* ---- a client ---------------------------------------------------------------------------------------------------- */

Client dial_with(Http *h, int receive_buffer)
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

Client dial(Http *h)
{
    return dial_with(h, 0);
}

void hang_up(Client *c)
{
    close(c->fd);
    buf_free(&c->in);
    c->fd = -1;
    c->at = 0;
}

void reset(Client *c)
{
    struct linger hard = {1, 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    hang_up(c);
}

/* False when the connection is gone. */
bool say(Client *c, const void *bytes, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = send(c->fd, (const char *)bytes + done, len - done, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

bool says(Client *c, const char *text)
{
    return say(c, text, strlen(text));
}

/* 1: more came; 0: closed; -1: time is over */
int more(Client *c)
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

const char *header(const Answer *a, const char *name)
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

bool read_chunk(Client *c, Answer *a, bool *last)
{
    char text[64];
    if (!line(c, text, sizeof text))
        return false;
    size_t size = strtoul(text, NULL, 16);
    *last = size == 0;
    return take(c, size, &a->body) && line(c, text, sizeof text);
}

void read_head(Client *c, Answer *a)
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

Answer read_answer(Client *c, bool head_only)
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
Answer ask(Http *h, const char *request)
{
    Client c = dial(h);
    says(&c, request);
    Answer a = read_answer(&c, !strncmp(request, "HEAD", 4));
    hang_up(&c);
    return a;
}

int status_of(Http *h, const char *request)
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

void assert_answer(Answer *a, int status, const char *body)
{
    assert_int_equal(a->status, status);
    assert_false(a->cut);
    assert_string_equal(a->body.data, body);
    buf_free(&a->body);
}

/* Is the connection closed by the server, within so many seconds? */
bool closed_within(Client *c, double seconds)
{
    struct timeval wait = {(time_t)seconds, (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)};
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    int n;
    while ((n = more(c)) > 0)
        c->at = c->in.len = 0;
    return n == 0;
}

void post_stream(Client *c, int count, int size, int sleep_us)
{
    char body[64], request[256];
    snprintf(body, sizeof body, "%d %d %d", count, size, sleep_us);
    snprintf(request, sizeof request, "POST /stream" HOST "Content-Length: %zu\r\n\r\n%s", strlen(body), body);
    assert_true(says(c, request));
}

void assert_pieces(Answer *a, int count, int size)
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
