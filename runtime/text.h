/* text.h - the text of one completion as its tokens arrive: whole characters only, cut at the first stop string.
 *
 * What comes out, put together, is the text that the tokens add to the prompt, up to the stop string that is complete
 * first, however the text is cut into tokens; text that may be the beginning of a stop string is held back until it is
 * certain.
 */
#ifndef BLADE_TEXT_H
#define BLADE_TEXT_H

#include "tokenizer.h"

typedef struct TextStream TextStream;

typedef struct TextOptions {
    const char *const *stops; /* empty ones are ignored */
    size_t stops_count;
    bool include_stop;  /* the stop string that ends the text is part of it */
    bool keep_special;  /* special tokens have text */
    int64_t min_tokens; /* a stop string that is complete within so many tokens is text as any other */
} TextOptions;

/* `prompt` decides about the first space: tokenizers of the SentencePiece kind drop the one that begins a text. The
 * tokenizer must outlive the stream; all else is copied. `o` may be NULL: no stop strings. */
TextStream *text_new(const Tokenizer *t, const uint32_t *prompt, size_t n, const TextOptions *o);
void text_free(TextStream *s); /* NULL is allowed */

/* Appends the text that is certain after one more token; false when a stop string has come: nothing follows. */
bool text_push(TextStream *s, uint32_t token, Buf *out);

/* Appends what was held back. The same answer as text_push. Nothing may be pushed afterwards. */
bool text_finish(TextStream *s, Buf *out);

size_t text_held(const TextStream *s);      /* bytes of whole characters held back: a stop string may begin there */
const char *text_stop(const TextStream *s); /* the stop string that has come; NULL: none */

#endif
