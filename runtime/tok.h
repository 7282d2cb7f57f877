/* tok.h - what the files of the tokenizer share; users include tokenizer.h. The headings name the files.
 *
 * The life of a text: tok_sanitize -> added tokens that match the raw text -> normalizer -> added tokens that match
 * the normalized text -> pre-tokenizer -> BPE of each piece -> template. Between the steps the text lies in Pieces. */
#ifndef BLADE_TOK_H
#define BLADE_TOK_H

#include <jansson.h>

#include "tokenizer.h"

#define TOK_NONE UINT32_MAX       /* no such token */
#define TOK_MAX_ID 0x3FFFFF       /* larger ids in a file are refused */
#define TOK_MAX_DEPTH 8           /* of Sequences in Sequences */

typedef struct Span {
    const char *at;
    size_t len;
} Span;

/* A part of a text: an added token when it has an id; otherwise still to be processed. */
typedef struct Piece {
    size_t at, len; /* bytes of Pieces.text; len > 0 */
    uint32_t id;    /* or TOK_NONE */
    bool first;     /* begins where the original text begins (Metaspace's prepend_scheme "first" asks) */
} Piece;

typedef struct Pieces {
    Buf text;
    VEC(Piece) list;
} Pieces;

/* ---- tok_text.c: characters and bytes ------------------------------------------------------------------------ */

/* Appends s with each maximal invalid part replaced by U+FFFD. With `tail`, bytes at the end that may yet become a
 * character are left out, and the count of bytes used is returned (always n without it). */
size_t tok_sanitize(Buf *out, const char *s, size_t n, bool tail);
bool tok_is_utf8(const char *s, size_t n);
bool tok_is_space(uint32_t cp); /* Unicode White_Space */
void tok_bytes_to_chars(Buf *out, const char *s, size_t n); /* GPT-2's printable character for each byte */
int tok_char_to_byte(uint32_t cp);                          /* -1 when the character stands for no byte */
void tok_put_char(Buf *out, uint32_t cp);

/* The members of a class: the characters that Rust's \w matches. Unlike Oniguruma's it has the two joiners and not
 * the numbers of Latin-1. */
#define RUST_WORD "\\p{L}\\p{M}\\p{Nl}\\p{Nd}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}" \
                  "\\x{1F170}-\\x{1F189}\\x{200C}\\x{200D}"

/* ---- tok_regex.c: Oniguruma patterns through PCRE2 ----------------------------------------------------------- */

typedef struct TokRegex TokRegex;

/* The pattern as the package's regex engine (Oniguruma, Ruby syntax) understands it; NULL when it cannot be had. */
TokRegex *tok_regex_new(const char *pattern, size_t len, Err *err);
TokRegex *tok_regex_literal(const char *text, size_t len, Err *err);
/* {"String": "..."} or {"Regex": "..."}. */
TokRegex *tok_regex_json(const json_t *pattern, Err *err);
void tok_regex_free(TokRegex *re);

/* Matches of a text from left to right. Zero it but for re, s, n. */
typedef struct TokMatcher {
    const TokRegex *re;
    const char *s;
    size_t n;
    size_t from, to; /* the match found */
    size_t at, last_end;
    bool matched_before;
    void *data;
} TokMatcher;
bool tok_match_next(TokMatcher *m, Err *err); /* false: no more, or failed and err->text says why */
void tok_match_done(TokMatcher *m);

/* ---- tok_normalizer.c ---------------------------------------------------------------------------------------- */

typedef struct Normalizer Normalizer; /* NULL: none */
bool normalizer_parse(Normalizer **out, const json_t *json, Err *err);
void normalizer_free(Normalizer *nz);
/* Replaces the content of *text. *first becomes false when the beginning of the original text was cut off. */
bool normalizer_apply(const Normalizer *nz, Buf *text, bool *first, Err *err);

/* ---- tok_pretokenizer.c -------------------------------------------------------------------------------------- */

typedef struct Pretokenizer Pretokenizer; /* NULL: none */
bool pretokenizer_parse(Pretokenizer **out, const json_t *json, Err *err);
void pretokenizer_free(Pretokenizer *pt);
bool pretokenizer_apply(const Pretokenizer *pt, Pieces *pieces, Err *err);

/* ---- tok_vocab.c: the model's vocabulary --------------------------------------------------------------------- */

typedef struct Vocab Vocab;
Vocab *vocab_new(size_t expected); /* tokens, a guess */
void vocab_free(Vocab *v);
bool vocab_add(Vocab *v, const char *s, size_t n, uint32_t id, Err *err); /* a token or id met twice is an error */
uint32_t vocab_find(const Vocab *v, const char *s, size_t n);             /* id or TOK_NONE */
Span vocab_text(const Vocab *v, uint32_t id);                             /* .at is NULL without a token */
size_t vocab_count(const Vocab *v);                                       /* tokens */
size_t vocab_limit(const Vocab *v);                                       /* largest id + 1 */

/* ---- tok_model.c: the big members of tokenizer.json ---------------------------------------------------------- */

/* tokenizer.json without the two members that make up nearly all of it: jansson gets `rest`, where they are null. */
typedef struct ModelText {
    Buf rest;
    Span vocab, merges; /* the values' text inside the file; empty when absent */
} ModelText;
void model_cut(ModelText *m, const char *json, size_t len);
bool model_read_vocab(Vocab *v, Span text, Err *err);
/* Calls `merge` with the two halves of each merge in order of rank; both spellings, "a b" and ["a","b"]. */
bool model_read_merges(Span text, bool (*merge)(void *user, Span a, Span b, Err *err), void *user, Err *err);

/* ---- tok_bpe.c ----------------------------------------------------------------------------------------------- */

typedef struct Bpe Bpe;
/* `model` is the "model" object; vocabulary and merges come from `text`. */
Bpe *bpe_parse(const json_t *model, const ModelText *text, Err *err);
void bpe_free(Bpe *b);
const Vocab *bpe_vocab(const Bpe *b);
/* Appends the ids of all pieces. */
bool bpe_encode(const Bpe *b, const Pieces *pieces, TokenIds *out, Err *err);

/* ---- tok_added.c: added tokens ------------------------------------------------------------------------------- */

typedef struct AddedToken {
    Buf content;    /* as declared */
    Buf normalized; /* what to look for in the text, and what decoding gives */
    uint32_t id;
    bool single_word, lstrip, rstrip, special;
    bool match_normalized; /* look for it behind the normalizer; otherwise `normalized` equals `content` */
    bool skipped;          /* by decoding without special tokens */
} AddedToken;

typedef struct Added Added;
Added *added_new(void);
void added_free(Added *a);
/* Begins a list of tokens: those that the vocabulary lacks get the ids behind what is there, whatever the file
 * says. */
void added_batch(Added *a, const Vocab *v);
/* One element of "added_tokens", or just a string: a special token without flags. */
bool added_put(Added *a, const json_t *token, const Vocab *v, const Normalizer *nz, Err *err);
void added_finish(Added *a); /* after the last put, before the first use */
const AddedToken *added_by_id(const Added *a, uint32_t id);
const AddedToken *added_by_content(const Added *a, const char *s, size_t n);
size_t added_limit(const Added *a); /* largest id + 1, 0 without tokens */
/* Splits the pieces without id at the added tokens in them: those matched against normalized text, or the others. */
void added_split(const Added *a, bool normalized, bool parse_special, Pieces *pieces);

/* ---- tok_decoder.c: tokens to text, streaming ---------------------------------------------------------------- */

typedef struct Decoder Decoder;
bool decoder_parse(Decoder **out, const json_t *json, Err *err); /* json null: tokens joined with spaces */
void decoder_free(Decoder *d);

typedef struct DecoderState DecoderState;
DecoderState *decoder_start(const Decoder *d);
void decoder_push(DecoderState *s, const char *token, size_t n, Buf *out); /* one token's text */
void decoder_finish(DecoderState *s, Buf *out);
void decoder_stop(DecoderState *s); /* frees it */
/* Appends the bytes that one token stands for in the middle of a text. */
void decoder_bytes(const Decoder *d, const char *token, size_t n, Buf *out);

#endif
