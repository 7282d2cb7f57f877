/* Fuzzer of runtime/reply.c: the first byte chooses the options, the second how the rest is cut. What comes out of the
 * text whole and in pieces must be the same; calls are numbered and their arguments begin with a brace. */
#include <stdlib.h>
#include <string.h>

#include "reply.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Seen {
    Buf text; /* parts put together: a byte of their kind in front, the name of a call and a newline behind it */
    int kind, calls;
} Seen;

static void require(bool good)
{
    if (!good)
        abort();
}

static void note(void *context, const ReplyPart *p)
{
    Seen *s = context;
    bool begins = p->kind == REPLY_CALL || s->kind != (int)p->kind;
    if (begins)
        buf_putc(&s->text, (char)p->kind);
    if (p->kind == REPLY_CALL) {
        require(p->call == s->calls++ && p->name[0] && !p->len);
        buf_printf(&s->text, "%s\n", p->name);
    } else {
        require(p->len > 0);
        require(p->kind != REPLY_ARGUMENTS || (p->call == s->calls - 1 && (!begins || p->text[0] == '{')));
        buf_put(&s->text, p->text, p->len);
    }
    s->kind = (int)p->kind;
}

static Seen take_apart(const ReplyOptions *o, const char *text, size_t size, size_t piece)
{
    Seen s = {.kind = -1};
    buf_puts(&s.text, "");
    ReplyParser *r = reply_new(o);
    for (size_t at = 0; at < size; at += MIN(piece, size - at))
        reply_push(r, text + at, MIN(piece, size - at), note, &s);
    reply_finish(r, note, &s);
    require(reply_calls(r) == s.calls);
    reply_free(r);
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    ReplyOptions o = {.style = (ReplyStyle)(data[0] % REPLY_STYLES), .reasoning = data[0] & 16,
                      .in_reasoning = data[0] & 32};
    const char *text = (const char *)data + 2;
    size -= 2;
    Seen whole = take_apart(&o, text, size, size), cut = take_apart(&o, text, size, 1 + data[1] % 16);
    require(whole.calls == cut.calls && whole.text.len == cut.text.len);
    require(!memcmp(whole.text.data, cut.text.data, cut.text.len));
    if (o.style == REPLY_PLAIN && !o.reasoning && !o.in_reasoning && size)
        require(whole.text.len == size + 1 && !memcmp(whole.text.data + 1, text, size));
    buf_free(&whole.text);
    buf_free(&cut.text);
    return 0;
}
