/* load_sse.h - reading an event stream as it comes in, and what a chunk of a streamed completion says.
 *
 * Server-sent events as in the HTML standard, section 9.2: lines end with LF, CRLF or CR, wherever the network cuts
 * them; lines that begin with ":" are comments; several data lines are one event. The events are OpenAI's chunks of
 * /v1/completions and /v1/chat/completions.
 */
#ifndef BLADE_LOAD_SSE_H
#define BLADE_LOAD_SSE_H

#include "base.h"

#define SSE_MAX_EVENT (16u << 20) /* bytes; a longer event is dropped */

typedef struct Sse {
    Buf line, data;
    bool after_cr, begun; /* begun: past the byte order mark that may stand in front */
    bool too_long;        /* an event was dropped */
} Sse; /* all zero at first */

/* `data` is NUL-terminated and valid during the call. */
typedef void (*SseHandler)(void *context, const char *data, size_t len);

void sse_feed(Sse *s, const char *bytes, size_t n, SseHandler handler, void *context);
/* The stream has ended. An event that lacks only its empty line is delivered: servers that close right behind
 * [DONE]. */
void sse_end(Sse *s, SseHandler handler, void *context);
void sse_free(Sse *s); /* all zero afterwards */

typedef struct LoadChunk {
    bool done;                                /* [DONE] */
    bool token;                               /* carries text, or stands for tokens without any */
    bool finish;                              /* has a finish reason */
    int64_t prompt_tokens, completion_tokens; /* of usage; -1: not said */
    char error[256];                          /* "" as a rule */
} LoadChunk;

/* A chunk that only announces the role of a chat, or only gives the finish reason, is no token. What is no JSON object
 * sets `error`. */
void load_chunk_read(const char *data, size_t len, LoadChunk *chunk);

/* Writes the message of an OpenAI error body ({"error": {"message": ...}}, {"message": ...}, {"detail": ...}), or the
 * beginning of the text, on one line. */
void load_error_text(const char *body, size_t len, char *out, size_t size);

#endif
