/* tok_vocab.c - the vocabulary: text to id through an open-addressing table, id to text through an array. See tok.h.
 * A table of its own, and not base.h's Map, because loading makes about a million look-ups in a table of 128k tokens:
 * a slot here has 8 bytes and the texts lie side by side. */
#include <stdlib.h>
#include <string.h>

#include "tok.h"

typedef struct Entry {
    uint32_t at, len; /* of Vocab.text; at is TOK_NONE without a token */
} Entry;

typedef struct Slot {
    uint32_t id, tag; /* tag: the hash's upper half; id is TOK_NONE when free */
} Slot;

struct Vocab {
    Buf text;
    VEC(Entry) entries; /* by id */
    Slot *slots;
    size_t mask, count;
};

static Slot *new_slots(size_t n)
{
    Slot *s = xmalloc(n * sizeof *s);
    memset(s, 0xFF, n * sizeof *s);
    return s;
}

Vocab *vocab_new(void)
{
    Vocab *v = xcalloc(1, sizeof *v);
    v->mask = 1023;
    v->slots = new_slots(v->mask + 1);
    return v;
}

void vocab_free(Vocab *v)
{
    if (!v)
        return;
    buf_free(&v->text);
    vec_free(&v->entries);
    free(v->slots);
    free(v);
}

static Slot *find_slot(const Vocab *v, const char *s, size_t n, uint64_t hash)
{
    uint32_t tag = (uint32_t)(hash >> 32);
    for (size_t i = hash & v->mask;; i = (i + 1) & v->mask) {
        Slot *slot = &v->slots[i];
        if (slot->id == TOK_NONE)
            return slot;
        const Entry *e = &v->entries.at[slot->id];
        if (slot->tag == tag && e->len == n && !memcmp(v->text.data + e->at, s, n))
            return slot;
    }
}

static void grow(Vocab *v)
{
    Slot *old = v->slots;
    size_t n = v->mask + 1;
    v->mask = 4 * n - 1;
    v->slots = new_slots(4 * n);
    for (size_t i = 0; i < n; i++) {
        if (old[i].id == TOK_NONE)
            continue;
        const Entry *e = &v->entries.at[old[i].id];
        const char *s = v->text.data + e->at;
        *find_slot(v, s, e->len, hash_bytes(HASH_SEED, s, e->len)) = old[i];
    }
    free(old);
}

bool vocab_add(Vocab *v, const char *s, size_t n, uint32_t id, Err *err)
{
    if (id > TOK_MAX_ID || v->text.len + n >= TOK_NONE)
        return err_set(err, "token id %u is beyond the limit of %u", id, TOK_MAX_ID);
    if (2 * v->count >= v->mask)
        grow(v);
    while (v->entries.len <= id)
        vec_push(&v->entries, (Entry){TOK_NONE, 0});
    uint64_t hash = hash_bytes(HASH_SEED, s, n);
    Slot *slot = find_slot(v, s, n, hash);
    if (slot->id != TOK_NONE || v->entries.at[id].at != TOK_NONE)
        return err_set(err, "token \"%.*s\" with id %u: the token or the id is there twice", (int)MIN(n, (size_t)80), s,
                       id);
    v->entries.at[id] = (Entry){(uint32_t)v->text.len, (uint32_t)n};
    buf_put(&v->text, s, n);
    *slot = (Slot){id, (uint32_t)(hash >> 32)};
    v->count++;
    return true;
}

uint32_t vocab_find(const Vocab *v, const char *s, size_t n)
{
    return find_slot(v, s, n, hash_bytes(HASH_SEED, s, n))->id;
}

Span vocab_text(const Vocab *v, uint32_t id)
{
    if (id >= v->entries.len || v->entries.at[id].at == TOK_NONE)
        return (Span){0};
    return (Span){v->text.data + v->entries.at[id].at, v->entries.at[id].len};
}

size_t vocab_count(const Vocab *v)
{
    return v->count;
}

size_t vocab_limit(const Vocab *v)
{
    return v->entries.len;
}
