/* http_int.h - what http.c (sockets, threads), http_request.c (reading, the door) and http_answer.c (exchanges,
 * writing) share.
 *
 * The network thread drives libmicrohttpd and alone touches connections; it frees a Connection, and thereby lets the
 * library close its socket, only while it runs the library. An exchange has two owners: the library, from the request
 * line until the answer is out or the client is gone (`done`), and the handler, until it ends the exchange (`ended`).
 * The last one frees it.
 */
#ifndef BLADE_HTTP_INT_H
#define BLADE_HTTP_INT_H

#include "http.h"

#include <microhttpd.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>

enum {
    HTTP_HEADERS_MAX = 16 << 10, /* bytes of request line and headers; larger ones: 431 */
    HTTP_POOL = 32 << 10,        /* what the library allocates for a connection */
    HTTP_QUEUE_MAX = 256,        /* exchanges that wait for a worker */
    HTTP_BODIES_MAX = 8,         /* x max_body: all bodies that are held at a time */
    HTTP_LINGER_SECONDS = 2,     /* how long a body that nobody wants is read after the answer */
};

/* What an event of the network thread's epoll set belongs to: the first member of the thing its pointer points to. */
typedef enum HttpWatch { WATCH_LIBRARY, WATCH_WAKE, WATCH_CONNECTION, WATCH_LINGER } HttpWatch;

typedef struct HttpConnection {
    HttpWatch watch;
    int fd;
    bool half_closed;         /* the client has sent all that it will ever send */
    bool linger;              /* it was answered before its body was read: that must be read before the socket closes,
                                 or the reset that follows can destroy the answer */
    double since;             /* accepted, or done with the last exchange */
    HttpExchange *x;          /* being read or answered; or NULL */
    struct HttpConnection *prev, *next;
    char address[INET6_ADDRSTRLEN];
} HttpConnection;

typedef struct HttpLinger {
    HttpWatch watch;
    int fd;
    double until;
    struct HttpLinger *next;
} HttpLinger;

struct Http {
    HttpOptions o; /* with the defaults filled in */
    int port;
    struct MHD_Daemon *daemon;
    int epoll, wake; /* what the network thread waits on; an eventfd in it */
    HttpWatch library_watch, wake_watch;
    pthread_t network, *workers;
    int workers_count;
    atomic_bool refusing, stopping;
    atomic_bool woken; /* `wake` was written to and not yet read: once is enough for any number of resumes */
    atomic_size_t body_bytes; /* of all exchanges */

    /* network thread only */
    HttpConnection *connections;
    int connections_count;
    HttpLinger *lingering;
    double checked; /* when the deadlines were last looked at */
    bool closing;   /* stopping has been seen */

    pthread_mutex_t lock; /* of all below */
    pthread_cond_t work, idle;
    HttpExchange *first, *last; /* wait for a worker */
    int queued;
    int active; /* exchanges that a handler got or will get and that are not freed */
    bool quit;
};

/* Why a request goes no further than the door. */
typedef enum HttpRefusal {
    REFUSE_NOTHING,
    REFUSE_FIELDS,
    REFUSE_KEY,
    REFUSE_PATH,
    REFUSE_METHOD,
    REFUSE_CLOSING,
    REFUSE_FRAMING,
    REFUSE_SIZE,
    REFUSE_MEMORY,
    REFUSE_BUSY,
    REFUSE_SLOW,
} HttpRefusal;

typedef enum HttpPhase { PHASE_HEADERS, PHASE_BODY, PHASE_HANDLER, PHASE_ANSWERED } HttpPhase;
typedef enum HttpAnswer { ANSWER_NONE, ANSWER_WHOLE, ANSWER_STREAM } HttpAnswer;

struct HttpExchange {
    Http *http;
    HttpExchange *next; /* in the queue of the workers */

    /* the request: written by the network thread before the handler gets it, then constant */
    const HttpRoute *route; /* NULL: none fits */
    char id[68], method[16];
    char *target; /* path as it was sent, without query */
    char *path;   /* decoded */
    Buf fields;   /* headers 'h' and query arguments 'q': kind, name, NUL, value, NUL */
    Buf body;
    size_t body_bytes; /* as counted in Http.body_bytes */
    bool active;       /* counted in Http.active */

    /* network thread only */
    struct MHD_Connection *mhd; /* others may resume it while `suspended` */
    HttpConnection *connection; /* others may shut it down while not `done` */
    HttpPhase phase;
    HttpRefusal refusal; /* to be given once the request is complete */
    double began, progress; /* request line; last piece of the body */

    pthread_mutex_t lock; /* of all below */
    pthread_cond_t called;
    int refs;
    bool suspended; /* the library waits for a resume */
    bool done;      /* the library is through with it: there is no socket any more */
    bool closed;    /* the client went away before it was ended */
    bool ended;
    bool overflow;  /* too much unsent: the socket was shut down */
    bool calling;   /* on_close is running, on thread `caller` */
    pthread_t caller;
    void (*on_close)(void *context);
    void *on_close_context;
    HttpAnswer answer;
    int status; /* of the answer, once there is one; else 0 */
    char *content_type;
    Buf headers; /* of the answer: name, NUL, value, NUL */
    Buf out;     /* the whole answer, or what of a stream is in memory ... */
    size_t sent; /* ... less these first bytes */
    size_t response_bytes;
};

/* http_request.c: callbacks of the library */
void *http_request_line(void *http, const char *uri, struct MHD_Connection *mhd);
enum MHD_Result http_request_read(void *http, struct MHD_Connection *mhd, const char *url, const char *method,
                                  const char *version, const char *data, size_t *size, void **exchange);
void http_request_done(void *http, struct MHD_Connection *mhd, void **exchange, enum MHD_RequestTerminationCode why);
/* A request that has not arrived in time: 408. The caller closes the connection. */
void http_request_slow(HttpExchange *x);
const char *http_keys_fault(const char *const *keys);

/* http_answer.c */
HttpExchange *http_exchange_new(Http *h, HttpConnection *c, struct MHD_Connection *mhd);
void http_exchange_unref(HttpExchange *x);
/* Network thread: there is no client any more. Calls on_close unless the exchange has been ended. */
void http_exchange_gone(HttpExchange *x);
/* Network thread: gives the library what there is to send, or suspends the connection until there is something. */
enum MHD_Result http_exchange_answer(HttpExchange *x);
/* Adds X-Request-Id and CORS headers, queues and destroys the response. */
enum MHD_Result http_exchange_queue(HttpExchange *x, int status, struct MHD_Response *response);

/* http.c */
void http_enqueue(HttpExchange *x); /* for the workers */
void http_wake(Http *h);            /* the network thread has something to do */

#endif
