/* text.h - the text of one completion as its tokens arrive: whole characters only, cut at the first stop string.
 *
 * What comes out, put together, is the text that the tokens add to the prompt, up to a stop string (not included); text
 * that may be the beginning of a stop string is held back until it is certain. Special tokens have no text.
 */
#ifndef BLADE_TEXT_H
#define BLADE_TEXT_H

#include "tokenizer.h"

typedef struct TextStream TextStream;

/* `prompt` decides about the first space: tokenizers of the SentencePiece kind drop the one that begins a text. Empty
 * stop strings are ignored. The tokenizer must outlive the stream; all else is copied. */
TextStream *text_new(const Tokenizer *t, const uint32_t *prompt, size_t n, const char *const *stops,
                     size_t stops_count);
void text_free(TextStream *s); /* NULL is allowed */

/* Appends the text that is certain after one more token; false when a stop string has come: nothing follows. */
bool text_push(TextStream *s, uint32_t token, Buf *out);

/* Appends what was held back. The same answer as text_push. Nothing may be pushed afterwards. */
bool text_finish(TextStream *s, Buf *out);

#endif
