/* tokenizer.h - text to token ids and back, exactly as Hugging Face's `tokenizers` package does it from
 * tokenizer.json.
 *
 * Supported: model BPE (byte-level; with byte_fallback; ignore_merges; fuse_unk), added tokens with all their
 * flags, normalizers NFC NFD NFKC NFKD Lowercase Prepend Replace Strip Sequence, pre-tokenizers ByteLevel Split
 * Metaspace Digits Punctuation Whitespace WhitespaceSplit Sequence, post-processors TemplateProcessing ByteLevel
 * Sequence, decoders ByteLevel Metaspace ByteFallback Fuse Strip Replace Sequence. Anything else is refused by
 * name. "truncation" and "padding" are ignored: the engine decides about lengths.
 *
 * A Tokenizer does not change after loading: any number of threads may use it at the same time.
 * Format: https://huggingface.co/docs/tokenizers. Merging: Sennrich et al., arXiv:1508.07909. */
#ifndef BLADE_TOKENIZER_H
#define BLADE_TOKENIZER_H

#include "base.h"

typedef struct Tokenizer Tokenizer;
typedef VEC(uint32_t) TokenIds;

/* Reads MODEL_DIR/tokenizer.json, and tokenizer_config.json when it is there: bos_token and eos_token;
 * add_bos_token and add_eos_token, which replace the post-processor when either is present; tokens that only the
 * config declares. NULL on failure. */
Tokenizer *tok_load(const char *model_dir, Err *err);
/* The same from memory: the text of tokenizer.json, and that of tokenizer_config.json or NULL. */
Tokenizer *tok_parse(const char *json, size_t len, const char *config, size_t config_len, Err *err);
void tok_free(Tokenizer *t); /* NULL is allowed */

/* Appends the ids of text[0..len) to *out. Invalid UTF-8 counts as U+FFFD, as Python's errors="replace" has it.
 * add_special: applies the post-processor (BOS and the like).
 * parse_special: special added tokens written in the text become their ids (rendered chat templates: yes; what a
 * user typed: no). Added tokens that are not special always become their ids.
 * False when a pattern gives up on this text, or a character is unknown and unk_token is missing from the
 * vocabulary; what *out got by then stays. */
bool tok_encode(const Tokenizer *t, const char *text, size_t len, bool add_special, bool parse_special, TokenIds *out,
                Err *err);

/* Appends the text of the ids to *out; it is valid UTF-8. Ids without a token are skipped, special tokens on
 * request. */
void tok_decode(const Tokenizer *t, const uint32_t *ids, size_t n, bool skip_special, Buf *out);

/* Decoding one id at a time. Each push appends what is certain by now, whole characters only; all pieces and what
 * finish appends, put together, equal tok_decode of all the ids. A run of byte-fallback tokens appears when the run
 * ends, because one wrong byte turns all of it into U+FFFD. */
typedef struct TokStream TokStream;
TokStream *tok_stream_new(const Tokenizer *t, bool skip_special); /* the tokenizer must outlive it */
void tok_stream_push(TokStream *s, uint32_t id, Buf *out);
void tok_stream_finish(TokStream *s, Buf *out); /* nothing may be pushed afterwards */
void tok_stream_free(TokStream *s);             /* NULL is allowed */

/* Appends the bytes that a token stands for in the middle of a text, special or not: perhaps a part of a character only,
 * and with the space that decoding drops at the beginning of a text. Nothing for an id without a token. */
void tok_bytes(const Tokenizer *t, uint32_t id, Buf *out);

size_t tok_vocab_size(const Tokenizer *t);                           /* largest id + 1 */
int64_t tok_id(const Tokenizer *t, const char *token, size_t len);   /* -1 when there is no such token */
const char *tok_text(const Tokenizer *t, uint32_t id, size_t *len);  /* as the vocabulary spells it, or NULL */
bool tok_is_special(const Tokenizer *t, uint32_t id);
int64_t tok_bos(const Tokenizer *t); /* from tokenizer_config.json; -1 when it names none */
int64_t tok_eos(const Tokenizer *t);

#endif
