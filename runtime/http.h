/* http.h - the HTTP server below the API: connections, routes, keys, bodies, whole and streamed answers. On top of
 * libmicrohttpd, which no files but http*.c include.
 *
 *     network thread   drives libmicrohttpd: reads requests, writes answers; never parses a body
 *     worker threads   run the handlers: JSON, chat templates, tokenizers
 *     any thread       http_reply, http_stream_*: what is written is buffered and the connection woken up
 *
 * A handler gets an HttpExchange whose body is complete and must end it exactly once, now or later and from any thread:
 * with http_reply, or with http_stream_begin ... http_stream_end. After that the exchange must not be touched. A client
 * that goes away does not end it: on_close is called, writes are dropped, and the exchange still has to be ended.
 *
 * A client that has closed its sending half counts as gone too: it can't be told from one that is.
 *
 * One door: keys are compared (in constant time) before a route is looked for; every path that is not in the table is
 * 404; a wrong method is 405 with Allow. Errors from here have OpenAI's JSON body. Every answer carries X-Request-Id,
 * except the few that libmicrohttpd gives itself, to what is no HTTP: a short HTML page, and the connection is closed.
 */
#ifndef BLADE_HTTP_H
#define BLADE_HTTP_H

#include "base.h"

typedef struct Http Http;
typedef struct HttpExchange HttpExchange;

typedef void HttpHandler(void *context, HttpExchange *x);

typedef struct HttpRoute {
    const char *method; /* "GET", "POST"; GET answers HEAD too; NULL ends the table */
    const char *path;   /* "/v1/models": compared as a whole; "/v1/models/" followed by '*': whatever follows, slashes
                           too, but something */
    HttpHandler *handle;
    bool open;          /* needs no key */
} HttpRoute;

/* What was asked and answered, for logs and metrics; called on any thread after the last byte was written or the client
 * went away. */
typedef struct HttpRecord {
    const char *id, *method, *path; /* path of the route; "" when none fitted */
    const char *client;             /* address */
    int status;                     /* 499 when the client went away before the answer had begun */
    size_t request_bytes, response_bytes;
    double seconds;
} HttpRecord;

typedef struct HttpOptions {
    const char *host;        /* "127.0.0.1", "::1", "0.0.0.0" */
    int port;                /* 0: any free one */
    const char *const *keys; /* "Authorization: Bearer KEY"; NULL-terminated; NULL: no key is needed */
    const HttpRoute *routes; /* all three must outlive the server */
    void *context;           /* of the handlers */
    void (*record)(void *context, const HttpRecord *r); /* may be NULL */
    size_t max_body;         /* bytes; 0: 32 MiB. Larger ones: 413 */
    size_t max_unsent;       /* bytes buffered for a client that reads too slowly, then it is closed; 0: 4 MiB */
    int max_connections;     /* 0: 4096 */
    int idle_timeout;        /* seconds without traffic, then it is closed; a waiting answer does not count; a request
                                must have arrived within twice the time, or gets 408; 0: 60 */
    int workers;             /* threads; 0: 2 */
    const char *cors;        /* Access-Control-Allow-Origin, with preflight answers; NULL: none */
} HttpOptions;

/* Listens and serves; NULL and a message (address in use, permission) on failure. */
Http *http_start(const HttpOptions *options, Err *err);
int http_port(const Http *h);
/* Answers 503 to every request from now on, except GETs of open routes; running exchanges go on. */
void http_refuse(Http *h);
/* Waits until all exchanges have ended and been sent, at most so many seconds; false when some are left. */
bool http_drain(Http *h, double seconds);
/* Closes every connection (on_close is called) and waits until every exchange has been ended. NULL is allowed. */
void http_stop(Http *h);

/* ---- a request, valid until the exchange is ended ---------------------------------------------------------------- */

const char *http_id(const HttpExchange *x);   /* X-Request-Id of the client when it is harmless, else a new one */
const char *http_path(const HttpExchange *x); /* percent-decoded, without query */
const char *http_query(const HttpExchange *x, const char *name);  /* NULL when absent */
const char *http_header(const HttpExchange *x, const char *name); /* case-insensitive; NULL when absent */
const char *http_body(const HttpExchange *x, size_t *len);        /* NUL-terminated; "" without one */

/* Calls fn(context) when the client goes away before the exchange has been ended; at once when it has gone already.
 * Never called after the exchange was ended: an end that another thread begins while fn runs waits for it, so no lock
 * that fn takes may be held there. fn may itself end the exchange; it may run on the network thread, so it must not
 * block. */
void http_on_close(HttpExchange *x, void (*fn)(void *context), void *context);
bool http_closed(const HttpExchange *x);

/* ---- the answer -------------------------------------------------------------------------------------------------- */

void http_set_header(HttpExchange *x, const char *name, const char *value); /* before the answer begins */
/* The whole answer; ends the exchange. `body` is copied. */
void http_reply(HttpExchange *x, int status, const char *content_type, const char *body, size_t len);

/* A streamed answer (chunked transfer). Writes may come from any thread, one at a time; they never block. */
void http_stream_begin(HttpExchange *x, int status, const char *content_type);
void http_stream_write(HttpExchange *x, const void *bytes, size_t len);
void http_stream_end(HttpExchange *x); /* ends the exchange */

#endif
