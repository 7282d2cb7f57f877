/* stream.c - streams, events and graphs of the stand-in: commands are kept until somebody waits. */
#include <stdlib.h>
#include <string.h>

#include "cuda_driver.h"
#include "standin.h"

enum { MAX_ARGUMENTS = SIMT_MAX_ARGUMENTS };

typedef enum CommandKind { COMMAND_COPY, COMMAND_SET, COMMAND_LAUNCH, COMMAND_GRAPH, COMMAND_FREE } CommandKind;

typedef VEC(struct Command) Commands;

typedef struct Graph {
    Commands commands;
} Graph;

typedef struct Command {
    CommandKind kind;
    StCopy copy;
    void *to;
    const void *from;
    void *owned; /* a copy of pageable memory that is freed when the command is done */
    size_t n, pitch, rows;
    unsigned byte;
    const StKernel *kernel;
    void *arguments[MAX_ARGUMENTS];
    int count;
    unsigned blocks, threads, shared;
    Graph *graph;
} Command;

typedef struct Stream {
    Commands waiting;
    uint64_t begun, done;
    Graph *capture; /* NULL: commands are begun */
    bool spoilt;    /* something was called that a capture does not allow */
} Stream;

typedef struct Event {
    Stream *stream;
    uint64_t at; /* commands of the stream before it */
} Event;

static Stream *capturing; /* at most one */

/* ---- running -------------------------------------------------------------------------------------------------- */

static int run_launch(const Command *c)
{
    Err err = {0};
    const char *order = getenv("BLADE_STANDIN_ORDER");
    const SimtRegion *regions;
    int count = st_regions(&regions);
    for (int i = 0; i < c->count; i++)
        if (!st_on_device(c->arguments[i], 0))
            return st_break(CUDA_ERROR_ILLEGAL_ADDRESS, "argument %d of a kernel has been freed", i);
    SimtLaunch l = {
        .name = "kernel", .entry = c->kernel->entry, .arguments = c->arguments, .count = c->count, .blocks = c->blocks,
        .threads = (int)c->threads, .wave = st_device()->wave, .shared = c->shared,
        .order = order && !strcmp(order, "reverse") ? SIMT_REVERSE : SIMT_FORWARD, .regions = regions,
        .region_count = count,
    };
    return simt_launch(&l, &err) ? 0 : st_break(CUDA_ERROR_LAUNCH_FAILED, "%s", err.text);
}

static int run_commands(Command *list, size_t count);

static int run_command(Command *c)
{
    switch (c->kind) {
    case COMMAND_COPY:
        memcpy(c->to, c->from, c->n);
        free(c->owned);
        return 0;
    case COMMAND_SET:
        for (size_t i = 0; i < c->rows; i++)
            memset((char *)c->to + i * c->pitch, (int)c->byte, c->n);
        return 0;
    case COMMAND_LAUNCH: return run_launch(c);
    case COMMAND_GRAPH: return run_commands(c->graph->commands.at, c->graph->commands.len);
    default: return st_free(c->to);
    }
}

static int run_commands(Command *list, size_t count)
{
    int error = 0;
    for (size_t i = 0; i < count && !error; i++)
        error = run_command(&list[i]);
    return error;
}

static void run_until(Stream *s, uint64_t end)
{
    size_t count = end > s->done ? (size_t)(end - s->done) : 0;
    if (!count || st_status())
        return;
    st_reachable(true);
    run_commands(s->waiting.at, count);
    st_reachable(false);
    memmove(s->waiting.at, s->waiting.at + count, (s->waiting.len - count) * sizeof *s->waiting.at);
    s->waiting.len -= count;
    s->done = end;
}

/* Whoever waits while commands are captured makes the capture void. */
static int forbidden(void)
{
    if (st_status())
        return st_status();
    if (!capturing)
        return 0;
    capturing->spoilt = true;
    return st_refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "a call that is not allowed while a stream is captured");
}

static int begin(Stream *s, Command c)
{
    if (st_status())
        return st_status();
    if (s->capture) {
        vec_push(&s->capture->commands, c);
        return 0;
    }
    vec_push(&s->waiting, c);
    s->begun++;
    return 0;
}

/* ---- streams and events --------------------------------------------------------------------------------------- */

int st_stream_new(void **stream)
{
    *stream = xcalloc(1, sizeof(Stream));
    return st_status();
}

int st_stream_free(void *stream)
{
    Stream *s = stream;
    run_until(s, s->begun);
    for (size_t i = 0; i < s->waiting.len; i++)
        free(s->waiting.at[i].owned);
    vec_free(&s->waiting);
    free(s);
    return st_status();
}

int st_stream_wait(void *stream)
{
    Stream *s = stream;
    if (forbidden())
        return forbidden();
    if (st_fails("sync"))
        return st_break(CUDA_ERROR_ILLEGAL_ADDRESS, "this wait was told to fail");
    run_until(s, s->begun);
    return st_status();
}

int st_event_new(void **event)
{
    *event = xcalloc(1, sizeof(Event));
    return st_status();
}

int st_event_free(void *event)
{
    free(event);
    return st_status();
}

int st_event_record(void *event, void *stream)
{
    Event *e = event;
    *e = (Event){stream, ((Stream *)stream)->begun};
    return forbidden();
}

int st_event_wait(void *event)
{
    Event *e = event;
    if (forbidden())
        return forbidden();
    if (e->stream)
        run_until(e->stream, e->at);
    return st_status();
}

/* ---- commands ------------------------------------------------------------------------------------------------- */

int st_free_later(void *p, void *stream)
{
    if (!st_on_device(p, 0))
        return st_refuse(CUDA_ERROR_INVALID_VALUE, "%p is freed, which was not allocated", p);
    return forbidden() ? forbidden() : begin(stream, (Command){.kind = COMMAND_FREE, .to = p});
}

/* Pageable memory is read at once and written before the call returns, as drivers do. */
int st_copy(StCopy kind, void *to, const void *from, size_t n, void *stream)
{
    bool in = kind == ST_IN, out = kind == ST_OUT;
    Command c = {.kind = COMMAND_COPY, .copy = kind, .to = to, .from = from, .n = n};
    if ((out ? st_is_device(to) : !st_on_device(to, n)) || (in ? st_is_device(from) : !st_on_device(from, n)))
        return st_refuse(CUDA_ERROR_INVALID_VALUE, "a copy of %zu bytes from %p to %p leaves the device's memory", n,
                         from, to);
    if (in && !st_is_pinned(from, n)) {
        if (forbidden())
            return forbidden();
        c.from = c.owned = memcpy(xmalloc(n), from, n);
    }
    int error = begin(stream, c);
    return error || !out || st_is_pinned(to, n) ? error : st_stream_wait(stream);
}

int st_set(void *to, size_t pitch, unsigned byte, size_t width, size_t rows, void *stream)
{
    for (size_t i = 0; i < rows; i++)
        if (!st_on_device((char *)to + i * pitch, width))
            return st_refuse(CUDA_ERROR_INVALID_VALUE, "%zu bytes at %p are set outside of the device's memory", width,
                             to);
    Command c = {.kind = COMMAND_SET, .to = to, .pitch = pitch, .byte = byte, .n = width, .rows = rows};
    return begin(stream, c);
}

static int launch_fails(bool graph)
{
    if (st_status())
        return st_status();
    if (st_fails("lost") || (graph && st_fails("graph")))
        return st_break(CUDA_ERROR_UNKNOWN, "the device was told to be lost");
    return st_fails("launch") ? CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES : 0;
}

int st_launch(void *function, unsigned blocks, unsigned threads, unsigned shared, void *stream, void **parameters)
{
    Command c = {.kind = COMMAND_LAUNCH, .kernel = function, .blocks = blocks, .threads = threads, .shared = shared};
    int error = launch_fails(false);
    if (error)
        return error;
    if (!blocks || !threads || threads > SIMT_MAX_THREADS || shared > MAX(c.kernel->shared_allowed, 48 << 10))
        return st_refuse(CUDA_ERROR_INVALID_VALUE, "a launch of %u blocks of %u threads with %u bytes of shared memory",
                         blocks, threads, shared);
    for (; parameters[c.count]; c.count++) {
        if (c.count == MAX_ARGUMENTS)
            return st_refuse(CUDA_ERROR_INVALID_VALUE, "a launch with more than %d arguments", MAX_ARGUMENTS);
        c.arguments[c.count] = *(void **)parameters[c.count];
        if (!st_on_device(c.arguments[c.count], 0))
            return st_refuse(CUDA_ERROR_INVALID_VALUE, "argument %d of a launch is %p: not the device's memory",
                             c.count,
                             c.arguments[c.count]);
    }
    if (!st_device()->nvidia)
        c.shared = 64 << 10; /* the code has its on-chip memory itself */
    return begin(stream, c);
}

/* ---- graphs --------------------------------------------------------------------------------------------------- */

int st_capture_begin(void *stream)
{
    Stream *s = stream;
    if (forbidden())
        return forbidden();
    s->capture = xcalloc(1, sizeof *s->capture);
    s->spoilt = false;
    capturing = s;
    return 0;
}

int st_capture_end(void *stream, void **graph)
{
    Stream *s = stream;
    *graph = s->capture;
    s->capture = NULL;
    capturing = NULL;
    if (!*graph || st_status() || s->spoilt) {
        if (*graph)
            st_graph_free(*graph);
        *graph = NULL;
        return st_status() ? st_status() : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return 0;
}

int st_graph_make(void **executable, void *graph)
{
    Graph *g = graph, *copy = xcalloc(1, sizeof *copy);
    for (size_t i = 0; i < g->commands.len; i++)
        vec_push(&copy->commands, g->commands.at[i]);
    *executable = copy;
    return st_status();
}

int st_graph_free(void *graph)
{
    Graph *g = graph;
    vec_free(&g->commands);
    free(g);
    return st_status();
}

int st_graph_launch(void *executable, void *stream)
{
    int error = launch_fails(true);
    return error ? error : begin(stream, (Command){.kind = COMMAND_GRAPH, .graph = executable});
}

/* Nobody waits for a graph that is freed: it may still be waiting, and then this is a mistake of the caller. */
int st_executable_free(void *executable)
{
    return st_graph_free(executable);
}
