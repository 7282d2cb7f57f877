/* http_request.c - reading requests, and the door: what is refused before a handler hears of it. All of it runs on the
 * network thread, as callbacks of libmicrohttpd.
 *
 * Order at the door, once the headers are there: size of the headers, key, path, method, framing, size of the body; a
 * CORS preflight needs none of it. The path that counts is the one on the wire, byte by byte; nothing is decoded or
 * tidied up before the comparison with the table, so no spelling of a path is open unless the table has exactly this
 * spelling. */
#include "http_int.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "json_write.h"

static const struct {
    int status;
    const char *reason, *type, *code, *message;
} refusals[] = {
    [REFUSE_FIELDS] = {431, "Request Header Fields Too Large", "invalid_request_error", NULL,
                       "The headers are larger than 16 KiB."},
    [REFUSE_KEY] = {401, "Unauthorized", "invalid_request_error", "invalid_api_key",
                    "A valid API key is needed, as 'Authorization: Bearer KEY'."},
    [REFUSE_PATH] = {404, "Not Found", "invalid_request_error", NULL, "There is nothing at this path"},
    [REFUSE_METHOD] = {405, "Method Not Allowed", "invalid_request_error", NULL,
                       "This method does not fit the path; the header Allow names those that do."},
    [REFUSE_CLOSING] = {503, "Service Unavailable", "server_error", NULL, "The server is shutting down."},
    [REFUSE_FRAMING] = {400, "Bad Request", "invalid_request_error", NULL,
                        "The body needs one length: Content-Length, or 'Transfer-Encoding: chunked'."},
    [REFUSE_SIZE] = {413, "Content Too Large", "invalid_request_error", NULL,
                     "The body is larger than this server takes"},
    [REFUSE_MEMORY] = {503, "Service Unavailable", "server_error", NULL,
                       "Too many large requests at a time; try again later."},
    [REFUSE_BUSY] = {503, "Service Unavailable", "server_error", NULL, "Too many requests at a time; try again later."},
    [REFUSE_SLOW] = {408, "Request Timeout", "invalid_request_error", NULL, "The request took too long to arrive."},
};

/* ---- refusing ---------------------------------------------------------------------------------------------------- */

static void put_error(Buf *out, const HttpExchange *x, HttpRefusal why)
{
    Buf message = {0};
    buf_puts(&message, refusals[why].message);
    if (why == REFUSE_PATH)
        buf_printf(&message, ": %s %s", x->method, x->target);
    else if (why == REFUSE_SIZE)
        buf_printf(&message, ": %zu bytes.", x->http->o.max_body);
    buf_puts(out, "{\"error\":{\"message\":");
    json_put_text(out, message.data, message.len);
    buf_printf(out, ",\"type\":\"%s\",\"param\":null,\"code\":", refusals[why].type);
    json_put_str(out, refusals[why].code);
    buf_puts(out, "}}\n");
    buf_free(&message);
}

static bool route_fits_path(const HttpRoute *r, const char *target)
{
    size_t len = strlen(r->path);
    if (len > 0 && r->path[len - 1] == '*')
        return !strncmp(r->path, target, len - 1) && target[len - 1];
    return !strcmp(r->path, target);
}

/* "GET, HEAD, POST": the methods that fit the path. */
static void put_methods(Buf *out, const HttpExchange *x)
{
    for (const HttpRoute *r = x->http->o.routes; r->method; r++)
        if (route_fits_path(r, x->target))
            buf_printf(out, "%s%s%s", out->len ? ", " : "", r->method, strcmp(r->method, "GET") ? "" : ", HEAD");
}

/* Queues the answer: as soon as the headers were read, or when all of the request was. */
static enum MHD_Result refuse(HttpExchange *x, HttpRefusal why)
{
    Buf body = {0}, methods = {0};
    put_error(&body, x, why);
    size_t len = body.len;
    x->status = refusals[why].status;
    x->response_bytes = strcmp(x->method, "HEAD") ? len : 0;
    x->connection->linger = x->phase == PHASE_HEADERS; /* closes the connection */
    struct MHD_Response *response = MHD_create_response_from_buffer(len, body.data, MHD_RESPMEM_MUST_FREE);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, "Content-Type", "application/json");
    if (x->status == 401)
        MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    if (x->status == 503)
        MHD_add_response_header(response, "Retry-After", "1");
    if (x->status == 405) {
        put_methods(&methods, x);
        MHD_add_response_header(response, "Allow", methods.data);
        buf_free(&methods);
    }
    return http_exchange_queue(x, x->status, response);
}

/* In the middle of a request the library takes no answer: writes it into the socket. The caller lets it be closed. */
static enum MHD_Result refuse_raw(HttpExchange *x, HttpRefusal why)
{
    Buf head = {0}, body = {0};
    put_error(&body, x, why);
    x->status = refusals[why].status;
    x->response_bytes = body.len;
    x->phase = PHASE_ANSWERED;
    x->connection->linger = true;
    buf_printf(&head, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nX-Request-Id: %s\r\n",
               x->status, refusals[why].reason, body.len, x->id);
    if (x->status == 503)
        buf_puts(&head, "Retry-After: 1\r\n");
    if (x->http->o.cors)
        buf_printf(&head, "Access-Control-Allow-Origin: %s\r\n", x->http->o.cors);
    buf_puts(&head, "Connection: close\r\n\r\n");
    buf_put(&head, body.data, body.len);
    /* a new answer of some hundred bytes fits into any socket that nothing was written to; if not, it is lost */
    ssize_t sent = send(x->connection->fd, head.data, head.len, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)sent;
    buf_free(&head);
    buf_free(&body);
    return MHD_NO;
}

void http_request_slow(HttpExchange *x)
{
    refuse_raw(x, REFUSE_SLOW);
}

/* ---- keys -------------------------------------------------------------------------------------------------------- */

const char *http_keys_fault(const char *const *keys)
{
    for (; keys && *keys; keys++)
        if (!**keys || strpbrk(*keys, " \t\r\n"))
            return "an API key must not be empty or have white space in it";
    return NULL;
}

/* The time depends on the length of what was given, and on nothing else. */
static bool key_equals(const char *key, const char *given)
{
    size_t len = strlen(key), given_len = strlen(given);
    volatile unsigned char differ = len != given_len;
    for (size_t i = 0; i < given_len; i++)
        differ = differ | (unsigned char)(key[i & -(size_t)(i < len)] ^ given[i]);
    return !differ;
}

static bool key_fits(const HttpExchange *x)
{
    const char *const *keys = x->http->o.keys, *given = http_header(x, "Authorization");
    if (!keys || !*keys)
        return true;
    if (!given || strncasecmp(given, "Bearer ", 7))
        return false;
    given += 7 + strspn(given + 7, " ");
    bool fits = false;
    for (; *keys; keys++)
        fits |= key_equals(*keys, given);
    return fits;
}

/* ---- the door ---------------------------------------------------------------------------------------------------- */

/* The route for method and path; *path_known: another method would do. */
static const HttpRoute *find_route(const HttpExchange *x, bool *path_known)
{
    const char *method = strcmp(x->method, "HEAD") ? x->method : "GET";
    *path_known = false;
    for (const HttpRoute *r = x->http->o.routes; r->method; r++) {
        if (!route_fits_path(r, x->target))
            continue;
        *path_known = true;
        if (!strcmp(r->method, method))
            return r;
    }
    return NULL;
}

static bool is_preflight(const HttpExchange *x)
{
    return x->http->o.cors && !strcmp(x->method, "OPTIONS") && http_header(x, "Access-Control-Request-Method");
}

static enum MHD_Result answer_preflight(HttpExchange *x)
{
    const char *headers = http_header(x, "Access-Control-Request-Headers");
    struct MHD_Response *response = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    MHD_add_response_header(response, "Access-Control-Allow-Headers",
                            headers ? headers : "Authorization, Content-Type");
    MHD_add_response_header(response, "Access-Control-Max-Age", "600");
    x->status = 204;
    return http_exchange_queue(x, 204, response);
}

/* A request whose length two readers could understand differently, or one that says more than we take. */
static HttpRefusal check_body(const HttpExchange *x)
{
    const char *at = x->fields.data, *stop = at + x->fields.len, *coding = NULL, *length = NULL;
    int codings = 0, lengths = 0;
    for (const char *value; at < stop; at = value + strlen(value) + 1) {
        value = at + 1 + strlen(at + 1) + 1;
        if (*at == 'h' && !strcasecmp(at + 1, "Transfer-Encoding"))
            coding = value, codings++;
        if (*at == 'h' && !strcasecmp(at + 1, "Content-Length"))
            length = value, lengths++;
    }
    if (codings + lengths > 1 || (coding && strcasecmp(coding, "chunked")))
        return REFUSE_FRAMING;
    if (length && strtoull(length, NULL, 10) > x->http->o.max_body)
        return REFUSE_SIZE;
    return REFUSE_NOTHING;
}

static bool has_body(const HttpExchange *x)
{
    const char *length = http_header(x, "Content-Length");
    return http_header(x, "Transfer-Encoding") || (length && strcmp(length, "0"));
}

static bool is_refusing(const HttpExchange *x)
{
    return atomic_load(&x->http->refusing) && !(x->route && x->route->open && !strcmp(x->route->method, "GET"));
}

static HttpRefusal check_headers(HttpExchange *x, size_t size)
{
    bool path_known;
    x->route = find_route(x, &path_known);
    if (size > HTTP_HEADERS_MAX)
        return REFUSE_FIELDS;
    if (!(x->route && x->route->open) && !key_fits(x))
        return REFUSE_KEY;
    if (!path_known)
        return REFUSE_PATH;
    if (!x->route)
        return REFUSE_METHOD;
    if (is_refusing(x))
        return REFUSE_CLOSING;
    return check_body(x);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static void make_id(char id[68])
{
    unsigned char random[16];
    if (getrandom(random, sizeof random, 0) != sizeof random)
        die("the system has no random numbers");
    for (size_t i = 0; i < sizeof random; i++) {
        id[2 * i] = "0123456789abcdef"[random[i] >> 4];
        id[2 * i + 1] = "0123456789abcdef"[random[i] & 15];
    }
    id[32] = 0;
}

static void take_client_id(HttpExchange *x)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    const char *id = http_header(x, "X-Request-Id");
    size_t len = id ? strspn(id, allowed) : 0;
    if (len > 0 && len <= 64 && !id[len])
        memcpy(x->id, id, len + 1);
}

/* The request line is complete. libmicrohttpd keeps what this returns as the exchange. */
void *http_request_line(void *http, const char *uri, struct MHD_Connection *mhd)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    HttpConnection *c = info->socket_context;
    HttpExchange *x = http_exchange_new(http, c, mhd);
    size_t len = uri ? strcspn(uri, "?") : 0;
    x->target = xmalloc(len + 1);
    memcpy(x->target, uri ? uri : "", len);
    x->target[len] = 0;
    make_id(x->id);
    c->x = x;
    c->linger = false;
    return x;
}

static enum MHD_Result take_field(void *exchange, enum MHD_ValueKind kind, const char *name, const char *value)
{
    HttpExchange *x = exchange;
    buf_putc(&x->fields, kind == MHD_HEADER_KIND ? 'h' : 'q');
    buf_put(&x->fields, name, strlen(name) + 1);
    buf_put(&x->fields, value ? value : "", value ? strlen(value) + 1 : 1);
    return MHD_YES;
}

static enum MHD_Result read_headers(HttpExchange *x, const char *path, const char *method)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    size_t len = strlen(method);
    x->path = xstrdup(path);
    memcpy(x->method, method, MIN(len, sizeof x->method - 1)); /* one that is cut fits no route */
    MHD_get_connection_values(x->mhd, MHD_HEADER_KIND, take_field, x);
    MHD_get_connection_values(x->mhd, MHD_GET_ARGUMENT_KIND, take_field, x);
    take_client_id(x);
    x->refusal = check_headers(x, info ? info->header_size : 0);
    if (x->refusal && has_body(x))
        return refuse(x, x->refusal); /* at once; what waits till the end of the request keeps the connection */
    x->phase = PHASE_BODY;
    x->progress = now_seconds();
    return MHD_YES;
}

static enum MHD_Result read_body(HttpExchange *x, const char *data, size_t *size)
{
    Http *h = x->http;
    if (*size > h->o.max_body - x->body.len)
        return refuse_raw(x, REFUSE_SIZE);
    x->body_bytes += *size;
    if (atomic_fetch_add(&h->body_bytes, *size) + *size > HTTP_BODIES_MAX * h->o.max_body)
        return refuse_raw(x, REFUSE_MEMORY);
    buf_put(&x->body, data, *size);
    x->progress = now_seconds();
    *size = 0;
    return MHD_YES;
}

/* The request is complete: it goes to a worker, and the connection sleeps until there is an answer. */
static enum MHD_Result hand_over(HttpExchange *x)
{
    Http *h = x->http;
    if (is_preflight(x))
        return answer_preflight(x);
    if (x->refusal || is_refusing(x))
        return refuse(x, x->refusal ? x->refusal : REFUSE_CLOSING);
    if (x->connection->half_closed)
        return MHD_NO;
    pthread_mutex_lock(&h->lock);
    bool full = h->queued >= HTTP_QUEUE_MAX && !x->route->open;
    pthread_mutex_unlock(&h->lock);
    if (full)
        return refuse(x, REFUSE_BUSY);
    x->phase = PHASE_HANDLER;
    x->active = true;
    pthread_mutex_lock(&x->lock);
    x->refs++;
    x->suspended = true;
    MHD_suspend_connection(x->mhd);
    pthread_mutex_unlock(&x->lock);
    http_enqueue(x);
    return MHD_YES;
}

enum MHD_Result http_request_read(void *http, struct MHD_Connection *mhd, const char *url, const char *method,
                                  const char *version, const char *data, size_t *size, void **exchange)
{
    (void)http, (void)mhd, (void)version;
    HttpExchange *x = *exchange;
    switch (x->phase) {
    case PHASE_HEADERS: return read_headers(x, url, method);
    case PHASE_BODY: return *size ? read_body(x, data, size) : hand_over(x);
    case PHASE_HANDLER: return http_exchange_answer(x);
    default: return MHD_NO;
    }
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

/* What was answered: by us, by the library (a request that is no HTTP), or nothing any more. */
static int final_status(const HttpExchange *x)
{
    if (x->phase == PHASE_ANSWERED)
        return x->status;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->mhd, MHD_CONNECTION_INFO_HTTP_STATUS);
    return info && info->http_status ? (int)info->http_status : 499;
}

static void report(const HttpExchange *x, double now)
{
    const HttpOptions *o = &x->http->o;
    HttpRecord record = {
        .id = x->id,
        .method = x->method,
        .path = x->route ? x->route->path : "",
        .client = x->connection->address,
        .status = final_status(x),
        .request_bytes = x->body.len,
        .response_bytes = x->response_bytes,
        .seconds = now - x->began,
    };
    if (o->record)
        o->record(o->context, &record);
}

void http_request_done(void *http, struct MHD_Connection *mhd, void **exchange, enum MHD_RequestTerminationCode why)
{
    (void)http, (void)mhd, (void)why;
    HttpExchange *x = *exchange;
    if (!x)
        return;
    double now = now_seconds();
    pthread_mutex_lock(&x->lock);
    x->done = true;
    x->suspended = false;
    pthread_mutex_unlock(&x->lock);
    if (x->active)
        http_exchange_gone(x);
    report(x, now);
    x->connection->x = NULL;
    x->connection->since = now;
    *exchange = NULL;
    http_exchange_unref(x);
}
