/* kv.h - pages of the KV cache: who holds which page, and which full pages can be shared.
 *
 * A pure data structure: it hands out page numbers and never touches the memory behind them. A page holds the keys and
 * values of `page_tokens` consecutive tokens of a sequence in every layer. A sequence (KvSeq) is a list of pages, its
 * row of the block table. A page is free, held by one or more sequences, or cached.
 *
 * Prefix cache: the K/V of a page depend only on the tokens up to its end (numerics contract), so a full page can be
 * used by every sequence that begins with the same tokens. A full page is published under its parent page, its salt and
 * its own tokens, which are compared, not only hashed; parents are named by a serial number that is never used again.
 * Pages that nobody holds stay published until their memory is needed, least recently used first, ends of sequences
 * before their beginnings. Source of the idea: vLLM, "Efficient Memory Management for Large Language Model Serving with
 * PagedAttention" (SOSP 2023).
 */
#ifndef BLADE_KV_H
#define BLADE_KV_H

#include "base.h"

typedef struct Kv Kv;

typedef struct KvOptions {
    int pages;         /* > 0 */
    int page_tokens;   /* > 0 */
    bool prefix_cache; /* share full pages of equal content */
    uint64_t shuffle;  /* 0: pages are handed out in order; otherwise the seed of a random order, for tests */
} KvOptions;

/* The pages of one sequence; all zero is the empty one. Only kv_* functions change it. */
typedef struct KvSeq {
    int32_t *pages;        /* page of tokens i * page_tokens ... */
    int count, cap;        /* pages held */
    int published;         /* leading pages that kv_publish is done with */
    uint64_t parent, salt; /* serial of the last of them; of the sequence */
} KvSeq;

Kv *kv_new(const KvOptions *options);
void kv_free(Kv *kv); /* NULL is allowed */

int kv_pages_for(const Kv *kv, int tokens); /* pages that hold so many tokens */
int kv_available(const Kv *kv);             /* pages that can be handed out: free ones and cached ones */
int kv_total(const Kv *kv);

/* Gives an empty sequence the longest cached beginning of tokens[0..n), whole pages and at most n - 1 tokens, so
 * that there is a token left to compute logits from. Returns the tokens covered. Sequences of different salt share
 * nothing. */
int kv_match(Kv *kv, KvSeq *s, const uint32_t *tokens, int n, uint64_t salt);

/* Makes room for `tokens` tokens in all; false, and nothing changed, when there are not enough pages. */
bool kv_reserve(Kv *kv, KvSeq *s, int tokens);

/* Says that the K/V of tokens[0..n) of this sequence have been written: its full pages may be shared from now on. */
void kv_publish(Kv *kv, KvSeq *s, const uint32_t *tokens, int n);

/* Gives all pages back and leaves the sequence empty. */
void kv_release(Kv *kv, KvSeq *s);

/* Pages handed out since the last call: their memory must be zeroed before the next step writes into them. The array
 * is valid until the next kv_reserve. */
int kv_take_fresh(Kv *kv, const int32_t **pages);

/* Checks every invariant, given all sequences that hold pages; false and a message when one is broken. */
bool kv_check(const Kv *kv, const KvSeq *const *seqs, int count, Err *err);

#endif
