/* tok_vocab.c - the vocabulary: text to id through an open-addressing table, id to text through an array. See
 * tok.h. A table of its own, and not base.h's Map, because loading makes about a million look-ups in a table of
 * 128k tokens, and each cache miss counts: a slot has 8 bytes, and a token's id and length lie in front of its
 * text. */
#include <stdlib.h>
#include <string.h>

#include "tok.h"

typedef struct Head { /* followed by the text */
    uint32_t id, len;
} Head;

typedef struct Slot {
    uint32_t at, tag; /* at: of the Head in `heads`, NO_HEAD when free; tag: the hash's upper half */
} Slot;

#define NO_HEAD UINT32_MAX

struct Vocab {
    Buf heads;
    VEC(uint32_t) at; /* by id: of the Head, or NO_HEAD */
    Slot *slots;
    size_t mask, count;
};

static Slot *new_slots(size_t n)
{
    Slot *s = xmalloc(n * sizeof *s);
    memset(s, 0xFF, n * sizeof *s);
    return s;
}

Vocab *vocab_new(size_t expected)
{
    Vocab *v = xcalloc(1, sizeof *v);
    size_t n = 1024;
    while (n < 2 * expected && n < (1 << 20))
        n *= 2;
    v->mask = n - 1;
    v->slots = new_slots(n);
    return v;
}

void vocab_free(Vocab *v)
{
    if (!v)
        return;
    buf_free(&v->heads);
    vec_free(&v->at);
    free(v->slots);
    free(v);
}

static Head head_at(const Vocab *v, uint32_t at)
{
    Head h;
    memcpy(&h, v->heads.data + at, sizeof h);
    return h;
}

static Slot *find_slot(const Vocab *v, const char *s, size_t n, uint64_t hash)
{
    uint32_t tag = (uint32_t)(hash >> 32);
    for (size_t i = hash & v->mask;; i = (i + 1) & v->mask) {
        Slot *slot = &v->slots[i];
        if (slot->at == NO_HEAD)
            return slot;
        if (slot->tag == tag && head_at(v, slot->at).len == n &&
            !memcmp(v->heads.data + slot->at + sizeof(Head), s, n))
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
        if (old[i].at == NO_HEAD)
            continue;
        const char *s = v->heads.data + old[i].at + sizeof(Head);
        size_t len = head_at(v, old[i].at).len;
        *find_slot(v, s, len, hash_bytes(HASH_SEED, s, len)) = old[i];
    }
    free(old);
}

bool vocab_add(Vocab *v, const char *s, size_t n, uint32_t id, Err *err)
{
    if (id > TOK_MAX_ID || v->heads.len + sizeof(Head) + n >= NO_HEAD)
        return err_set(err, "token id %u is beyond the limit of %u", id, TOK_MAX_ID);
    if (2 * v->count >= v->mask)
        grow(v);
    while (v->at.len <= id)
        vec_push(&v->at, NO_HEAD);
    uint64_t hash = hash_bytes(HASH_SEED, s, n);
    Slot *slot = find_slot(v, s, n, hash);
    if (slot->at != NO_HEAD || v->at.at[id] != NO_HEAD)
        return err_set(err, "token \"%.*s\" with id %u: the token or the id is there twice", (int)MIN(n, (size_t)80), s,
                       id);
    Head head = {id, (uint32_t)n};
    *slot = (Slot){(uint32_t)v->heads.len, (uint32_t)(hash >> 32)};
    v->at.at[id] = slot->at;
    buf_put(&v->heads, &head, sizeof head);
    buf_put(&v->heads, s, n);
    v->count++;
    return true;
}

uint32_t vocab_find(const Vocab *v, const char *s, size_t n)
{
    const Slot *slot = find_slot(v, s, n, hash_bytes(HASH_SEED, s, n));
    return slot->at == NO_HEAD ? TOK_NONE : head_at(v, slot->at).id;
}

Span vocab_text(const Vocab *v, uint32_t id)
{
    if (id >= v->at.len || v->at.at[id] == NO_HEAD)
        return (Span){0};
    return (Span){v->heads.data + v->at.at[id] + sizeof(Head), head_at(v, v->at.at[id]).len};
}

size_t vocab_count(const Vocab *v)
{
    return v->count;
}

size_t vocab_limit(const Vocab *v)
{
    return v->at.len;
}
