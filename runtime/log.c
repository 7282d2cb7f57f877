/* log.c - events as lines on standard error. Owns the escaping: whatever a client sent, an event stays one line, shows
 * no control characters to a terminal, and is valid UTF-8. A line is put together first and written at once. */
#include "log.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { VALUE_MAX = 4096 }; /* bytes of a string that are shown; the rest is cut, with a mark */

const char *const log_level_names[LOG_LEVELS] = {"debug", "info", "warning", "error"};

static LogLevel level_shown = LOG_INFO;
static bool as_json;

void log_setup(LogLevel level, bool json)
{
    assert(level >= 0 && level < LOG_LEVELS);
    level_shown = level;
    as_json = json;
}

/* Characters that move the cursor, end a line for somebody, or turn text around. */
static bool is_control(uint32_t cp)
{
    return cp < 0x20 || (cp >= 0x7f && cp < 0xa0) || cp == 0x2028 || cp == 0x2029 || (cp >= 0x202a && cp <= 0x202e) ||
           (cp >= 0x2066 && cp <= 0x2069);
}

static void put_character(Buf *line, uint32_t cp)
{
    char utf8[4];
    switch (cp) {
    case '"': buf_puts(line, "\\\""); return;
    case '\\': buf_puts(line, "\\\\"); return;
    case '\n': buf_puts(line, "\\n"); return;
    case '\r': buf_puts(line, "\\r"); return;
    case '\t': buf_puts(line, "\\t"); return;
    }
    if (is_control(cp))
        buf_printf(line, "\\u%04x", (unsigned)cp);
    else
        buf_put(line, utf8, utf8_encode(cp, utf8));
}

static void put_quoted(Buf *line, const char *s)
{
    size_t len = strnlen(s, VALUE_MAX + 1), shown = len > VALUE_MAX ? utf8_complete(s, VALUE_MAX) : len;
    buf_putc(line, '"');
    for (size_t i = 0; i < shown;) {
        uint32_t cp;
        i += utf8_decode(s + i, shown - i, &cp);
        put_character(line, cp);
    }
    buf_puts(line, shown < len ? "…\"" : "\"");
}

/* Does the value need no quotes in a text line? */
static bool is_plain(const char *s)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+@,*%";
    size_t len = strspn(s, allowed);
    return len > 0 && len <= VALUE_MAX && !s[len];
}

static void put_string(Buf *line, const char *s)
{
    if (!as_json && is_plain(s))
        buf_puts(line, s);
    else
        put_quoted(line, s);
}

static void put_double(Buf *line, double value)
{
    if (as_json && !isfinite(value))
        buf_puts(line, "null");
    else
        buf_printf(line, "%.6g", value);
}

static void put_name(Buf *line, const char *name)
{
    buf_printf(line, as_json ? ",\"%s\":" : " %s=", name);
}

static void put_fields(Buf *line, va_list ap)
{
    for (const char *name; (name = va_arg(ap, const char *));) {
        const char *type = va_arg(ap, const char *);
        const char *s = NULL;
        if (*type == 's' && !(s = va_arg(ap, const char *)))
            continue;
        put_name(line, name);
        switch (*type) {
        case 's': put_string(line, s); break;
        case 'd': buf_printf(line, "%d", va_arg(ap, int)); break;
        case 'l': buf_printf(line, "%lld", (long long)va_arg(ap, int64_t)); break;
        case 'f': put_double(line, va_arg(ap, double)); break;
        default: assert(!"type letter of log_event");
        }
    }
}

static void put_head(Buf *line, LogLevel level, const char *event)
{
    struct timespec now;
    struct tm utc;
    char seconds[32];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(seconds, sizeof seconds, "%Y-%m-%dT%H:%M:%S", &utc);
    const char *format = as_json ? "{\"time\":\"%s.%03ldZ\",\"level\":\"%s\",\"event\":" : "%s.%03ldZ %s ";
    buf_printf(line, format, seconds, now.tv_nsec / 1000000, log_level_names[level]);
    put_string(line, event);
}

/* One write a line; the lock is for long lines into a pipe, which the kernel may take in pieces. */
static void write_line(const Buf *line)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    for (size_t sent = 0; sent < line->len;) {
        ssize_t n = write(STDERR_FILENO, line->data + sent, line->len - sent);
        if (n < 0 && errno != EINTR)
            break; /* nobody reads it: there is no other place to complain */
        sent += n > 0 ? (size_t)n : 0;
    }
    pthread_mutex_unlock(&lock);
}

void log_event(LogLevel level, const char *event, ...)
{
    if (level < level_shown)
        return;
    int error = errno;
    Buf line = {0};
    va_list ap;
    va_start(ap, event);
    put_head(&line, level, event);
    put_fields(&line, ap);
    va_end(ap);
    buf_puts(&line, as_json ? "}\n" : "\n");
    write_line(&line);
    buf_free(&line);
    errno = error;
}
