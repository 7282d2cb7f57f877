/* text.c - implementation of text.h; see there. */
#include "text.h"

#include <stdlib.h>
#include <string.h>

#define PROMPT_TAIL 16 /* tokens of the prompt that the decoder sees */

struct TextStream {
    TokStream *decoder;
    Buf held;           /* decoded, not handed out */
    VEC(char *) stops;
    bool stopped;
};

TextStream *text_new(const Tokenizer *t, const uint32_t *prompt, size_t n, const char *const *stops, size_t stops_count)
{
    TextStream *s = xcalloc(1, sizeof *s);
    s->decoder = tok_stream_new(t, true);
    for (size_t i = n - MIN(n, PROMPT_TAIL); i < n; i++)
        tok_stream_push(s->decoder, prompt[i], &s->held);
    s->held.len = 0;
    for (size_t i = 0; i < stops_count; i++)
        if (*stops[i])
            vec_push(&s->stops, xstrdup(stops[i]));
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

/* Where the first stop string begins in the text that is held; its length when there is none. */
static size_t find_stop(const TextStream *s)
{
    size_t first = s->held.len;
    for (size_t i = 0; i < s->stops.len; i++) {
        const char *p = memmem(s->held.data, s->held.len, s->stops.at[i], strlen(s->stops.at[i]));
        if (p)
            first = MIN(first, (size_t)(p - s->held.data));
    }
    return first;
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

/* Hands out the text before a stop string; without one, all that cannot become one, and the rest too when it is the
 * last. */
static bool advance(TextStream *s, bool last, Buf *out)
{
    if (!s->held.len)
        return true;
    size_t stop = find_stop(s);
    s->stopped = stop < s->held.len;
    hand_out(s, s->stopped || last ? stop : s->held.len - possible_stop(s), out);
    return !s->stopped;
}

bool text_push(TextStream *s, uint32_t token, Buf *out)
{
    if (s->stopped)
        return false;
    tok_stream_push(s->decoder, token, &s->held);
    return advance(s, false, out);
}

bool text_finish(TextStream *s, Buf *out)
{
    if (s->stopped)
        return false;
    tok_stream_finish(s->decoder, &s->held);
    return advance(s, true, out);
}
