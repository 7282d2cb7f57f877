/* text.c - implementation of text.h; see there. */
#include "text.h"

#include <stdlib.h>
#include <string.h>

#define PROMPT_TAIL 16 /* tokens of the prompt that the decoder sees */

struct TextStream {
    TokStream *decoder;
    Buf held;           /* decoded, not handed out */
    VEC(char *) stops;
    bool include_stop;
    int64_t min_tokens; /* still to come before stop strings count */
    const char *stop;   /* the one that has come */
};

TextStream *text_new(const Tokenizer *t, const uint32_t *prompt, size_t n, const TextOptions *o)
{
    static const TextOptions none;
    o = o ? o : &none;
    TextStream *s = xcalloc(1, sizeof *s);
    s->decoder = tok_stream_new(t, !o->keep_special);
    for (size_t i = n - MIN(n, PROMPT_TAIL); i < n; i++)
        tok_stream_push(s->decoder, prompt[i], &s->held);
    s->held.len = 0;
    for (size_t i = 0; i < o->stops_count; i++)
        if (*o->stops[i])
            vec_push(&s->stops, xstrdup(o->stops[i]));
    s->include_stop = o->include_stop;
    s->min_tokens = o->min_tokens;
    return s;
}

void text_free(TextStream *s)
{
    if (!s)
        return;
    tok_stream_free(s->decoder);
    buf_free(&s->held);
    for (size_t i = 0; i < s->stops.len; i++)
        free(s->stops.at[i]);
    vec_free(&s->stops);
    free(s);
}

/* The stop string that is complete first among those that end behind the first `known` bytes of the held text; of
 * several the longest one. Its end, and itself in s->stop; 0 when there is none. */
static size_t find_stop(TextStream *s, size_t known)
{
    size_t end = 0;
    for (size_t i = 0; i < s->stops.len; i++) {
        size_t n = strlen(s->stops.at[i]), from = known - MIN(known, n - 1);
        const char *p = memmem(s->held.data + from, s->held.len - from, s->stops.at[i], n);
        size_t this = p ? (size_t)(p - s->held.data) + n : 0;
        if (!p || (end && (this > end || (this == end && n <= strlen(s->stop)))))
            continue;
        end = this;
        s->stop = s->stops.at[i];
    }
    return end;
}

/* Length of the longest end of the held text that a stop string begins with. */
static size_t possible_stop(const TextStream *s)
{
    size_t longest = 0;
    for (size_t i = 0; i < s->stops.len; i++)
        for (size_t n = MIN(strlen(s->stops.at[i]) - 1, s->held.len); n > longest; n--)
            if (!memcmp(s->held.data + s->held.len - n, s->stops.at[i], n))
                longest = n;
    return longest;
}

static void hand_out(TextStream *s, size_t n, Buf *out)
{
    buf_put(out, s->held.data, n);
    memmove(s->held.data, s->held.data + n, s->held.len - n);
    s->held.len -= n;
}

/* Hands out the text up to a stop string; without one, all that cannot become one, and the rest too when it is the
 * last. The first `known` bytes were held before. */
static bool advance(TextStream *s, size_t known, bool last, Buf *out)
{
    if (!s->held.len)
        return true;
    size_t end = s->min_tokens < 0 ? find_stop(s, known) : 0;
    if (end)
        hand_out(s, s->include_stop ? end : end - strlen(s->stop), out);
    else
        hand_out(s, last ? s->held.len : s->held.len - possible_stop(s), out);
    return !s->stop;
}

bool text_push(TextStream *s, uint32_t token, Buf *out)
{
    if (s->stop)
        return false;
    size_t known = s->held.len;
    s->min_tokens -= s->min_tokens >= 0;
    tok_stream_push(s->decoder, token, &s->held);
    return advance(s, known, false, out);
}

bool text_finish(TextStream *s, Buf *out)
{
    if (s->stop)
        return false;
    size_t known = s->held.len;
    tok_stream_finish(s->decoder, &s->held);
    return advance(s, known, true, out);
}

size_t text_held(const TextStream *s)
{
    return s->stop ? 0 : s->held.len;
}

const char *text_stop(const TextStream *s)
{
    return s->stop;
}
