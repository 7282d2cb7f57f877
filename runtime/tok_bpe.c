/* tok_bpe.c - byte-pair encoding: a piece of text becomes its characters' tokens, and the pair with the lowest rank
 * is merged until none is left (Sennrich et al., arXiv:1508.07909). See tok.h.
 *
 * Pairs wait in a heap ordered by rank, then position, so a piece of n characters takes O(n log n): models without
 * a pre-tokenizer hand over the whole prompt as one piece. Pieces that come again within a call are copied from
 * where their ids were written first. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "tok.h"

typedef struct Merge {
    uint64_t pair; /* left id << 32 | right id; NO_PAIR when the slot is free */
    uint32_t rank, id;
} Merge;

#define NO_PAIR UINT64_MAX
#define BYTES_PER_ENTRY 20 /* of vocab and merges in the file, roughly */
#define FAST_CHARS 0x800 /* characters whose token is found without hashing */

struct Bpe {
    Vocab *vocab;
    Merge *merges; /* open addressing */
    size_t mask, count;
    uint32_t char_id[FAST_CHARS];
    uint32_t byte_id[256]; /* of <0x00> ... <0xFF> */
    char *unk_token;       /* NULL: unknown characters vanish */
    uint32_t unk;
    bool fuse_unk, byte_fallback, ignore_merges;
};

/* ---- table of merges ----------------------------------------------------------------------------------------- */

static uint64_t make_pair(uint32_t left, uint32_t right)
{
    return (uint64_t)left << 32 | right;
}

static Merge *find_merge(const Bpe *b, uint64_t pair)
{
    uint64_t h = pair * 0x9e3779b97f4a7c15ull;
    for (size_t i = (h ^ h >> 32) & b->mask;; i = (i + 1) & b->mask)
        if (b->merges[i].pair == pair || b->merges[i].pair == NO_PAIR)
            return &b->merges[i];
}

static void resize_merges(Bpe *b, size_t slots)
{
    Merge *old = b->merges;
    size_t n = old ? b->mask + 1 : 0;
    b->merges = xmalloc(slots * sizeof *b->merges);
    memset(b->merges, 0xFF, slots * sizeof *b->merges);
    b->mask = slots - 1;
    for (size_t i = 0; i < n; i++)
        if (old[i].pair != NO_PAIR)
            *find_merge(b, old[i].pair) = old[i];
    free(old);
}

/* Room for `expected` merges, a guess; the table grows when it was wrong. */
static size_t merge_slots(size_t expected)
{
    size_t n = 1024;
    while (n < 2 * expected && n < (1 << 20))
        n *= 2;
    return n;
}

typedef struct MergeReader {
    Bpe *b;
    Buf joined;
    uint32_t rank;
} MergeReader;

static bool not_in_vocab(Span s, Err *err)
{
    return err_set(err, "token \"%.*s\" is not in the vocabulary", (int)MIN(s.len, (size_t)80), s.at);
}

static bool add_merge(void *user, Span left, Span right, Err *err)
{
    MergeReader *r = user;
    Bpe *b = r->b;
    r->joined.len = 0;
    buf_put(&r->joined, left.at, left.len);
    buf_put(&r->joined, right.at, right.len);
    uint32_t a = vocab_find(b->vocab, left.at, left.len), c = vocab_find(b->vocab, right.at, right.len);
    uint32_t id = vocab_find(b->vocab, r->joined.data, r->joined.len);
    if (a == TOK_NONE || c == TOK_NONE || id == TOK_NONE)
        return not_in_vocab(a == TOK_NONE ? left : c == TOK_NONE ? right : (Span){r->joined.data, r->joined.len}, err);
    if (2 * b->count >= b->mask)
        resize_merges(b, 4 * (b->mask + 1));
    Merge *m = find_merge(b, make_pair(a, c));
    b->count += m->pair == NO_PAIR;
    *m = (Merge){make_pair(a, c), r->rank++, id}; /* a pair met twice keeps its last rank, as in the package */
    return true;
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

static bool read_options(Bpe *b, const json_t *model, Err *err)
{
    const char *type, *prefix, *suffix, *unk;
    double dropout;
    if (!json_get_str(model, "type", "BPE", &type, err) ||
        !json_get_real(model, "dropout", 0, 1, 0, &dropout, err) ||
        !json_get_str(model, "continuing_subword_prefix", "", &prefix, err) ||
        !json_get_str(model, "end_of_word_suffix", "", &suffix, err) ||
        !json_get_str(model, "unk_token", NULL, &unk, err) ||
        !json_get_bool(model, "fuse_unk", false, &b->fuse_unk, err) ||
        !json_get_bool(model, "byte_fallback", false, &b->byte_fallback, err) ||
        !json_get_bool(model, "ignore_merges", false, &b->ignore_merges, err))
        return false;
    if (strcmp(type, "BPE"))
        return err_set(err, "type \"%s\" is not supported (supported: BPE)", type);
    if (dropout != 0)
        return err_set(err, "dropout %g is not supported: it makes tokens random (supported: null)", dropout);
    if (*prefix || *suffix)
        return err_set(err, "continuing_subword_prefix and end_of_word_suffix are not supported (supported: null)");
    b->unk_token = unk ? xstrdup(unk) : NULL;
    return true;
}

static void fill_tables(Bpe *b)
{
    for (uint32_t cp = 0; cp < FAST_CHARS; cp++) {
        char s[4];
        b->char_id[cp] = vocab_find(b->vocab, s, utf8_encode(cp, s));
    }
    for (unsigned i = 0; i < 256; i++) {
        char s[8];
        int n = snprintf(s, sizeof s, "<0x%02X>", i);
        b->byte_id[i] = vocab_find(b->vocab, s, (size_t)n);
    }
    b->unk = b->unk_token ? vocab_find(b->vocab, b->unk_token, strlen(b->unk_token)) : TOK_NONE;
}

Bpe *bpe_parse(const json_t *model, const ModelText *text, Err *err)
{
    Bpe *b = xcalloc(1, sizeof *b);
    b->vocab = vocab_new(text->vocab.len / BYTES_PER_ENTRY);
    resize_merges(b, merge_slots(text->merges.len / BYTES_PER_ENTRY));
    MergeReader r = {.b = b};
    bool ok = read_options(b, model, err) || err_prefix(err, "model");
    if (ok && (!text->vocab.len || !text->merges.len))
        ok = err_set(err, "model: \"vocab\" (an object) or \"merges\" (an array) is missing");
    ok = ok && model_read_vocab(b->vocab, text->vocab, err) && model_read_merges(text->merges, add_merge, &r, err);
    buf_free(&r.joined);
    if (!ok) {
        bpe_free(b);
        return NULL;
    }
    fill_tables(b);
    return b;
}

void bpe_free(Bpe *b)
{
    if (!b)
        return;
    vocab_free(b->vocab);
    free(b->merges);
    free(b->unk_token);
    free(b);
}

const Vocab *bpe_vocab(const Bpe *b)
{
    return b->vocab;
}

/* ---- one piece ----------------------------------------------------------------------------------------------- */

typedef struct Symbol {
    uint32_t id;         /* TOK_NONE: merged into the symbol before */
    int32_t prev, next;  /* -1 at the ends */
} Symbol;

typedef struct Candidate {
    uint64_t key; /* rank << 32 | position of the left symbol */
    uint32_t id;  /* what the merge gives */
} Candidate;

typedef struct Scratch {
    VEC(Symbol) symbols;
    VEC(Candidate) heap;
} Scratch;

static void heap_push(Scratch *sc, Candidate c)
{
    vec_push(&sc->heap, c);
    Candidate *h = sc->heap.at;
    size_t i = sc->heap.len - 1;
    for (; i && h[(i - 1) / 2].key > c.key; i = (i - 1) / 2)
        h[i] = h[(i - 1) / 2];
    h[i] = c;
}

static Candidate heap_pop(Scratch *sc)
{
    Candidate *h = sc->heap.at, top = h[0], last = h[--sc->heap.len];
    size_t n = sc->heap.len, i = 0;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        child += child + 1 < n && h[child + 1].key < h[child].key;
        if (h[child].key >= last.key)
            break;
        h[i] = h[child];
    }
    h[i] = last;
    return top;
}

static void put_symbol(Scratch *sc, uint32_t id)
{
    int32_t i = (int32_t)sc->symbols.len;
    if (i)
        sc->symbols.at[i - 1].next = i;
    vec_push(&sc->symbols, (Symbol){id, i - 1, -1});
}

/* Byte tokens for one character; false when a byte has none. */
static bool put_bytes(const Bpe *b, Scratch *sc, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (b->byte_id[(uint8_t)s[i]] == TOK_NONE)
            return false;
    for (size_t i = 0; i < n; i++)
        put_symbol(sc, b->byte_id[(uint8_t)s[i]]);
    return true;
}

/* One symbol a character. An unknown one is written when the next known one comes, as in the package. */
static bool put_chars(const Bpe *b, Scratch *sc, const char *s, size_t n, Err *err)
{
    bool unknown = false;
    sc->symbols.len = 0;
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t cp;
        len = utf8_decode(s + i, n - i, &cp);
        uint32_t id = cp < FAST_CHARS ? b->char_id[cp] : vocab_find(b->vocab, s + i, len);
        if (id != TOK_NONE) {
            if (unknown)
                put_symbol(sc, b->unk);
            unknown = false;
            put_symbol(sc, id);
        } else if (!(b->byte_fallback && put_bytes(b, sc, s + i, len)) && b->unk_token) {
            if (b->unk == TOK_NONE)
                return err_set(err, "character U+%04X is not in the vocabulary, and neither is unk_token \"%s\"", cp,
                               b->unk_token);
            if (unknown && !b->fuse_unk)
                put_symbol(sc, b->unk);
            unknown = true;
        }
    }
    if (unknown)
        put_symbol(sc, b->unk);
    return true;
}

/* Offers the pair of symbols (left, its next) to the heap if a merge exists. */
static void offer(const Bpe *b, Scratch *sc, int32_t left)
{
    const Symbol *s = sc->symbols.at;
    if (left < 0 || s[left].next < 0)
        return;
    uint64_t pair = make_pair(s[left].id, s[s[left].next].id);
    const Merge *m = find_merge(b, pair);
    if (m->pair == pair)
        heap_push(sc, (Candidate){(uint64_t)m->rank << 32 | (uint32_t)left, m->id});
}

/* Is the pair at `left` still the one that the candidate was made for? */
static bool is_current(const Bpe *b, const Scratch *sc, int32_t left, uint32_t id)
{
    const Symbol *s = sc->symbols.at;
    if (s[left].id == TOK_NONE || s[left].next < 0)
        return false;
    uint64_t pair = make_pair(s[left].id, s[s[left].next].id);
    const Merge *m = find_merge(b, pair);
    return m->pair == pair && m->id == id;
}

static void merge_symbols(const Bpe *b, Scratch *sc)
{
    sc->heap.len = 0;
    for (size_t i = 0; i + 1 < sc->symbols.len; i++)
        offer(b, sc, (int32_t)i);
    while (sc->heap.len) {
        Candidate c = heap_pop(sc);
        int32_t left = (int32_t)(uint32_t)c.key;
        if (!is_current(b, sc, left, c.id))
            continue;
        Symbol *s = sc->symbols.at;
        int32_t right = s[left].next;
        s[left].id = c.id;
        s[left].next = s[right].next;
        s[right].id = TOK_NONE;
        if (s[left].next >= 0)
            s[s[left].next].prev = left;
        offer(b, sc, s[left].prev);
        offer(b, sc, left);
    }
}

static bool encode_piece(const Bpe *b, Scratch *sc, const char *s, size_t n, TokenIds *out, Err *err)
{
    uint32_t whole = b->ignore_merges ? vocab_find(b->vocab, s, n) : TOK_NONE;
    if (whole != TOK_NONE) {
        vec_push(out, whole);
        return true;
    }
    if (!put_chars(b, sc, s, n, err))
        return false;
    merge_symbols(b, sc);
    for (int32_t i = sc->symbols.len ? 0 : -1; i >= 0; i = sc->symbols.at[i].next)
        vec_push(out, sc->symbols.at[i].id);
    return true;
}

/* ---- all pieces ---------------------------------------------------------------------------------------------- */

#define CACHED_LENGTH 64 /* longer pieces hardly ever come again */

typedef struct Seen {
    uint64_t hash;
    size_t at, ids; /* where the piece lies in the text, and its ids in the output */
    uint32_t len, count;
} Seen;

/* Direct mapped: a newcomer takes the slot. */
typedef struct Cache {
    Seen *slots;
    size_t mask;
} Cache;

static Cache cache_new(size_t pieces)
{
    size_t n = 16;
    while (n < pieces && n < (1 << 14))
        n *= 2;
    return (Cache){xcalloc(n, sizeof(Seen)), n - 1};
}

static bool copy_seen(const Seen *seen, const Pieces *pieces, const Piece *p, uint64_t hash, TokenIds *out)
{
    if (seen->hash != hash || seen->len != p->len ||
        memcmp(pieces->text.data + seen->at, pieces->text.data + p->at, p->len))
        return false;
    for (size_t i = 0; i < seen->count; i++) {
        uint32_t id = out->at[seen->ids + i];
        vec_push(out, id);
    }
    return true;
}

static bool encode_cached(const Bpe *b, Scratch *sc, Cache *cache, const Pieces *pieces, const Piece *p, TokenIds *out,
                          Err *err)
{
    const char *s = pieces->text.data + p->at;
    if (p->len > CACHED_LENGTH)
        return encode_piece(b, sc, s, p->len, out, err);
    uint64_t hash = hash_bytes(HASH_SEED, s, p->len);
    Seen *seen = &cache->slots[hash & cache->mask];
    if (copy_seen(seen, pieces, p, hash, out))
        return true;
    size_t ids = out->len;
    if (!encode_piece(b, sc, s, p->len, out, err))
        return false;
    *seen = (Seen){hash, p->at, ids, (uint32_t)p->len, (uint32_t)(out->len - ids)};
    return true;
}

bool bpe_encode(const Bpe *b, const Pieces *pieces, TokenIds *out, Err *err)
{
    Scratch sc = {0};
    Cache cache = cache_new(pieces->list.len);
    bool ok = true;
    for (size_t i = 0; i < pieces->list.len && ok; i++) {
        const Piece *p = &pieces->list.at[i];
        if (p->id != TOK_NONE)
            vec_push(out, p->id);
        else
            ok = encode_cached(b, &sc, &cache, pieces, p, out, err);
    }
    free(cache.slots);
    vec_free(&sc.symbols);
    vec_free(&sc.heap);
    return ok;
}
