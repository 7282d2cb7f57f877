/* http.c - the server: listening, the network thread with its connections and their deadlines, the worker threads,
 * starting and stopping.
 *
 * libmicrohttpd runs in its external mode: the network thread waits on one epoll set that holds the library's own, an
 * eventfd, and every connection a second time for the events that tell of a client that went away: the library itself
 * does not look at suspended connections. */
#include "http_int.h"

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"

enum { TICK_MS = 200 }; /* how often deadlines are looked at while there are connections */

/* ---- connections ------------------------------------------------------------------------------------------------- */

static bool watch(Http *h, int fd, uint32_t events, void *what)
{
    struct epoll_event event = {.events = events, .data.ptr = what};
    return epoll_ctl(h->epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static enum MHD_Result accept_policy(void *http, const struct sockaddr *address, socklen_t len)
{
    (void)address, (void)len;
    Http *h = http;
    return h->connections_count < h->o.max_connections && !h->closing ? MHD_YES : MHD_NO;
}

static void put_address(char out[INET6_ADDRSTRLEN], const struct sockaddr *address)
{
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
    bool is_v6 = address->sa_family == AF_INET6;
    if (!inet_ntop(address->sa_family, is_v6 ? (const void *)&v6->sin6_addr : &v4->sin_addr, out, INET6_ADDRSTRLEN))
        strcpy(out, "?");
}

static HttpConnection *connection_new(Http *h, struct MHD_Connection *mhd)
{
    HttpConnection *c = xcalloc(1, sizeof *c);
    c->watch = WATCH_CONNECTION;
    c->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    c->since = now_seconds();
    put_address(c->address, MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr);
    c->next = h->connections;
    if (c->next)
        c->next->prev = c;
    h->connections = c;
    h->connections_count++;
    if (!watch(h, c->fd, EPOLLRDHUP | EPOLLET, c))
        shutdown(c->fd, SHUT_RDWR);
    return c;
}

/* A second descriptor keeps the socket open behind the library's back; it has been shut down for writing already. */
static void linger(Http *h, const HttpConnection *c)
{
    HttpLinger *l = xcalloc(1, sizeof *l);
    *l = (HttpLinger){WATCH_LINGER, dup(c->fd), now_seconds() + HTTP_LINGER_SECONDS, h->lingering};
    if (l->fd < 0 || !watch(h, l->fd, EPOLLIN | EPOLLRDHUP, l)) {
        if (l->fd >= 0)
            close(l->fd);
        free(l);
        return;
    }
    h->lingering = l;
}

static void connection_free(Http *h, HttpConnection *c)
{
    epoll_ctl(h->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    if (c->linger && !h->closing)
        linger(h, c);
    *(c->prev ? &c->prev->next : &h->connections) = c->next;
    if (c->next)
        c->next->prev = c->prev;
    h->connections_count--;
    free(c);
}

static void on_connection(void *http, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    if (what == MHD_CONNECTION_NOTIFY_STARTED)
        *context = connection_new(http, mhd);
    else
        connection_free(http, *context);
}

/* ---- the network thread ------------------------------------------------------------------------------------------ */

/* Throws away what the client still sends; true when there will be no more. */
static bool drained(int fd)
{
    static char nowhere[64 << 10];
    for (int i = 0; i < 16; i++) {
        ssize_t n = recv(fd, nowhere, sizeof nowhere, MSG_DONTWAIT);
        if (n <= 0)
            return n == 0 || (errno != EAGAIN && errno != EINTR);
    }
    return false;
}

/* Closes the lingering sockets whose time is over, and the given one (or NULL). */
static void reap(Http *h, const HttpLinger *finished, double now)
{
    for (HttpLinger **at = &h->lingering, *l; (l = *at);) {
        if (l != finished && l->until > now) {
            at = &l->next;
            continue;
        }
        *at = l->next;
        close(l->fd);
        free(l);
    }
}

void http_wake(Http *h)
{
    uint64_t one = 1;
    if (!atomic_exchange(&h->woken, true) && write(h->wake, &one, sizeof one) < 0)
        log_event(LOG_ERROR, "http", "message", "s", strerror(errno), NULL);
}

static void woken(Http *h)
{
    uint64_t count;
    if (read(h->wake, &count, sizeof count) < 0 && errno != EAGAIN)
        log_event(LOG_ERROR, "http", "message", "s", strerror(errno), NULL);
    atomic_store(&h->woken, false); /* before the library looks for what was resumed */
}

static void on_event(Http *h, const struct epoll_event *event)
{
    HttpConnection *c = event->data.ptr;
    HttpLinger *l = event->data.ptr;
    switch (*(HttpWatch *)event->data.ptr) {
    case WATCH_LIBRARY: break; /* it is run in any case */
    case WATCH_WAKE: woken(h); break;
    case WATCH_CONNECTION:
        c->half_closed = true;
        if (c->x && c->x->phase >= PHASE_HANDLER && c->x->active)
            http_exchange_gone(c->x);
        break;
    case WATCH_LINGER:
        if (drained(l->fd))
            reap(h, l, 0);
        break;
    }
}

/* Has the client closed its half, and has everything it sent been read? The library misses an end that comes together
 * with the last bytes. */
static bool is_at_end(const HttpConnection *c)
{
    int unread = 0;
    return c->half_closed && ioctl(c->fd, FIONREAD, &unread) == 0 && unread == 0;
}

/* The inactivity of readers and of idle connections is the library's to see; here is what it does not look at: requests
 * that arrive in drops, whose answer is 408, and those that will never be complete. */
static void check_deadline(const Http *h, const HttpConnection *c, double now)
{
    double limit = h->o.idle_timeout;
    HttpExchange *x = c->x;
    if (x && x->phase >= PHASE_HANDLER)
        return;
    bool slow = x && (now - x->progress >= limit || now - x->began >= 2 * limit);
    if (slow)
        http_request_slow(x);
    if (slow || (!x && now - c->since >= 2 * limit) || is_at_end(c))
        shutdown(c->fd, SHUT_RDWR);
}

static void check_deadlines(Http *h)
{
    double now = now_seconds();
    if (now - h->checked < TICK_MS / 1000.0)
        return;
    h->checked = now;
    for (const HttpConnection *c = h->connections; c; c = c->next)
        check_deadline(h, c, now);
    reap(h, NULL, now);
}

static void close_all(Http *h)
{
    h->closing = true;
    int listener = MHD_quiesce_daemon(h->daemon);
    if (listener >= 0)
        close(listener);
    for (HttpConnection *c = h->connections; c; c = c->next) {
        shutdown(c->fd, SHUT_RDWR);
        if (c->x && c->x->active)
            http_exchange_gone(c->x);
    }
}

static int poll_timeout(const Http *h)
{
    unsigned long long ms;
    if (MHD_get_timeout(h->daemon, &ms) == MHD_YES && ms < TICK_MS)
        return (int)ms;
    return h->connections || h->lingering ? TICK_MS : -1;
}

static void *network_thread(void *http)
{
    Http *h = http;
    struct epoll_event events[64];
    while (!h->closing || h->connections) {
        int n = epoll_wait(h->epoll, events, COUNT(events), poll_timeout(h));
        for (int i = 0; i < n; i++)
            on_event(h, &events[i]);
        if (atomic_load(&h->stopping) && !h->closing)
            close_all(h);
        MHD_run(h->daemon);
        check_deadlines(h);
    }
    reap(h, NULL, INFINITY);
    MHD_stop_daemon(h->daemon);
    return NULL;
}

/* ---- workers ----------------------------------------------------------------------------------------------------- */

void http_enqueue(HttpExchange *x)
{
    Http *h = x->http;
    pthread_mutex_lock(&h->lock);
    *(h->last ? &h->last->next : &h->first) = x;
    h->last = x;
    h->queued++;
    h->active++;
    pthread_cond_signal(&h->work);
    pthread_mutex_unlock(&h->lock);
}

/* Waits; NULL: the server stops. */
static HttpExchange *dequeue(Http *h)
{
    pthread_mutex_lock(&h->lock);
    while (!h->first && !h->quit)
        pthread_cond_wait(&h->work, &h->lock);
    HttpExchange *x = h->first;
    if (x) {
        h->first = x->next;
        if (!h->first)
            h->last = NULL;
        h->queued--;
    }
    pthread_mutex_unlock(&h->lock);
    return x;
}

static void *worker_thread(void *http)
{
    Http *h = http;
    for (HttpExchange *x; (x = dequeue(h));) {
        if (http_closed(x))
            http_reply(x, 499, NULL, NULL, 0); /* nobody is there to read it */
        else
            x->route->handle(h->o.context, x);
    }
    return NULL;
}

/* ---- starting ---------------------------------------------------------------------------------------------------- */

static int listen_at(const struct addrinfo *a)
{
    int one = 1, fd = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static int port_of(int fd)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &len) != 0)
        return 0;
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                               : ((struct sockaddr_in *)&address)->sin_port);
}

/* A listening socket, or -1 and a message. */
static int listener_open(const char *host, int port, Err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list;
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    int fd = -1, failed = getaddrinfo(host, service, &hints, &list);
    if (failed) {
        err_set(err, "can't listen on '%s': %s; give an address of this machine, such as 127.0.0.1 or 0.0.0.0", host,
                gai_strerror(failed));
        return -1;
    }
    for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
        fd = listen_at(a);
    int error = errno;
    freeaddrinfo(list);
    if (fd < 0)
        err_set(err, "can't listen on %s port %d: %s%s", host, port, strerror(error),
                error == EADDRINUSE ? "; choose another port, or stop the program that has it"
                : error == EACCES   ? "; ports below 1024 are reserved, choose another one"
                                    : "");
    return fd;
}

/* Each connection is a file descriptor, and one more while its socket lingers. Takes what the system allows. */
static void allow_files(int *max_connections)
{
    struct rlimit limit;
    rlim_t want = (rlim_t)*max_connections + 256;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= want)
        return;
    limit.rlim_cur = MIN(want, limit.rlim_max);
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur >= want)
        return;
    int possible = (int)MAX(limit.rlim_cur, 512) - 256;
    log_event(LOG_WARNING, "http", "message", "s", "fewer connections than asked for: the limit of open files is low",
              "connections", "d", possible, NULL);
    *max_connections = possible;
}

static void library_log(void *unused, const char *format, va_list ap)
{
    (void)unused;
    char text[512];
    vsnprintf(text, sizeof text, format, ap);
    text[strcspn(text, "\n")] = 0;
    log_event(LOG_DEBUG, "http", "message", "s", text, NULL);
}

static bool start_library(Http *h, int listener, Err *err)
{
    h->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, accept_policy, h, http_request_read, h,
        MHD_OPTION_EXTERNAL_LOGGER, library_log, NULL, MHD_OPTION_LISTEN_SOCKET, listener, MHD_OPTION_URI_LOG_CALLBACK,
        http_request_line, h, MHD_OPTION_NOTIFY_COMPLETED, http_request_done, h, MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, h, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_POOL, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)h->o.max_connections + 16, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)h->o.idle_timeout + 1,
        MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);
    if (!h->daemon)
        return err_set(err, "libmicrohttpd did not start: %s", strerror(errno));
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    if (!info || !watch(h, info->epoll_fd, EPOLLIN, &h->library_watch))
        return err_set(err, "libmicrohttpd has no epoll; it must be built with it");
    return true;
}

/* Signals are for the program's own threads. */
static bool start_thread(pthread_t *thread, void *(*run)(void *), Http *h)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool ok = pthread_create(thread, NULL, run, h) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ok;
}

static void stop_workers(Http *h)
{
    pthread_mutex_lock(&h->lock);
    h->quit = true;
    pthread_cond_broadcast(&h->work);
    pthread_mutex_unlock(&h->lock);
    for (int i = 0; i < h->workers_count; i++)
        pthread_join(h->workers[i], NULL);
}

static void http_free(Http *h)
{
    stop_workers(h);
    if (h->wake >= 0)
        close(h->wake);
    if (h->epoll >= 0)
        close(h->epoll);
    pthread_cond_destroy(&h->work);
    pthread_cond_destroy(&h->idle);
    pthread_mutex_destroy(&h->lock);
    free(h->workers);
    free(h);
}

static bool start_threads(Http *h, Err *err)
{
    h->workers = xcalloc((size_t)h->o.workers, sizeof *h->workers);
    for (; h->workers_count < h->o.workers; h->workers_count++)
        if (!start_thread(&h->workers[h->workers_count], worker_thread, h))
            return err_set(err, "can't start a thread: %s", strerror(errno));
    return start_thread(&h->network, network_thread, h) || err_set(err, "can't start a thread: %s", strerror(errno));
}

static Http *http_new(const HttpOptions *options)
{
    Http *h = xcalloc(1, sizeof *h);
    pthread_condattr_t monotonic;
    h->o = *options;
    h->o.max_body = h->o.max_body ? h->o.max_body : 32 << 20;
    h->o.max_unsent = h->o.max_unsent ? h->o.max_unsent : 4 << 20;
    h->o.max_connections = h->o.max_connections ? h->o.max_connections : 4096;
    h->o.idle_timeout = h->o.idle_timeout ? h->o.idle_timeout : 60;
    h->o.workers = h->o.workers ? h->o.workers : 2;
    h->library_watch = WATCH_LIBRARY;
    h->wake_watch = WATCH_WAKE;
    h->epoll = epoll_create1(EPOLL_CLOEXEC);
    h->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->work, NULL);
    pthread_cond_init(&h->idle, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return h;
}

Http *http_start(const HttpOptions *options, Err *err)
{
    const char *fault = http_keys_fault(options->keys);
    if (fault) {
        err_set(err, "%s", fault);
        return NULL;
    }
    int listener = listener_open(options->host, options->port, err);
    if (listener < 0)
        return NULL;
    Http *h = http_new(options);
    h->port = port_of(listener);
    allow_files(&h->o.max_connections);
    bool ok = (h->epoll >= 0 && h->wake >= 0 && watch(h, h->wake, EPOLLIN, &h->wake_watch)) ||
              err_set(err, "can't watch sockets: %s", strerror(errno));
    if (ok && start_library(h, listener, err) && start_threads(h, err))
        return h;
    if (h->daemon)
        MHD_stop_daemon(h->daemon); /* closes the listener */
    else
        close(listener);
    http_free(h);
    return NULL;
}

int http_port(const Http *h)
{
    return h->port;
}

/* ---- stopping ---------------------------------------------------------------------------------------------------- */

void http_refuse(Http *h)
{
    atomic_store(&h->refusing, true);
}

bool http_drain(Http *h, double seconds)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    double end = (double)until.tv_sec + (double)until.tv_nsec * 1e-9 + MIN(MAX(seconds, 0), 1e9);
    until.tv_sec = (time_t)end;
    until.tv_nsec = (long)((end - (double)until.tv_sec) * 1e9);
    pthread_mutex_lock(&h->lock);
    while (h->active && pthread_cond_timedwait(&h->idle, &h->lock, &until) != ETIMEDOUT) {
    }
    bool none = h->active == 0;
    pthread_mutex_unlock(&h->lock);
    return none;
}

void http_stop(Http *h)
{
    if (!h)
        return;
    http_refuse(h);
    atomic_store(&h->stopping, true);
    http_wake(h);
    pthread_join(h->network, NULL);
    pthread_mutex_lock(&h->lock);
    while (h->active)
        pthread_cond_wait(&h->idle, &h->lock);
    pthread_mutex_unlock(&h->lock);
    http_free(h);
}
