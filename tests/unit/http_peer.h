/* http_peer.h - for tests of the HTTP server: routes with handlers that do what a test wants to see, and a client over
 * real sockets.
 *
 *     GET  /health          open; "ok"
 *     POST /echo            201, the body and its content type
 *     GET, POST /show, /show/...   the id, the path, the arguments a and b
 *     GET, POST /hold       nothing: the exchange is taken with take_held, and the test ends it
 *     GET  /block           "ok" once `gate` is free
 *     POST /stream          "COUNT SIZE SLEEP_US": so many pieces from a thread of its own (put_piece)
 */
#ifndef BLADE_HTTP_PEER_H
#define BLADE_HTTP_PEER_H

#include "test.h"

#include <pthread.h>
#include <stdatomic.h>

#include "http.h"

#define END " HTTP/1.1\r\nHost: a\r\n\r\n"
#define HOST " HTTP/1.1\r\nHost: a\r\n"

#define EVENTUALLY(condition)                                                                                          \
    do {                                                                                                               \
        bool come_true = false;                                                                                        \
        for (double end = now_seconds() + 10; !(come_true = (condition)) && now_seconds() < end;)                      \
            nap(0.002);                                                                                                \
        assert_true(come_true);                                                                                        \
    } while (0)

void nap(double seconds);

/* ---- the server ------------------------------------------------------------------------------------------------ */

/* Since `start`: calls of on_close for /hold, handlers in /block, records, records by status. */
extern atomic_int closes, in_block, records, statuses[600];
extern pthread_mutex_t gate;
extern const HttpRoute routes[];

Http *start(HttpOptions o); /* host and routes are filled in */
HttpExchange *take_held(void);
void count_close(void *counter); /* an atomic_int */
void put_piece(Buf *out, int i, int size);

/* ---- the client ------------------------------------------------------------------------------------------------ */

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

Client dial(Http *h);
Client dial_with(Http *h, int receive_buffer);
void hang_up(Client *c);
void reset(Client *c); /* the other side sees a reset, not an end */

bool say(Client *c, const void *bytes, size_t len); /* false: the connection is gone */
bool says(Client *c, const char *text);
int more(Client *c); /* reads: 1 something, 0 closed, -1 nothing in time */

void read_head(Client *c, Answer *a);
bool read_chunk(Client *c, Answer *a, bool *last);
Answer read_answer(Client *c, bool head_only);
const char *header(const Answer *a, const char *name); /* until the next call on this thread; NULL: not there */

Answer ask(Http *h, const char *request);    /* on a connection of its own */
int status_of(Http *h, const char *request); /* the same; an error must have its JSON body */
void post_stream(Client *c, int count, int size, int sleep_us);

/* Both free the body. */
void assert_answer(Answer *a, int status, const char *body);
void assert_pieces(Answer *a, int count, int size);

/* Does the server close the connection? */
bool closed_within(Client *c, double seconds);

#endif
