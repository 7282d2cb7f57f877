/* kv.c - implementation of kv.h; see there. */
#include "kv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NONE (-1)

typedef struct Page {
    int refs;         /* sequences that hold it */
    uint64_t serial;  /* names the published content; 0: not published */
    uint64_t parent;  /* serial of the page before; 0: first page of a sequence */
    uint64_t salt;
    int32_t chain;    /* next page of the same bucket */
    int32_t older, newer; /* list of cached pages: published and held by nobody */
} Page;

struct Kv {
    KvOptions o;
    Page *pages;       /* [o.pages] */
    uint32_t *tokens;  /* [o.pages, o.page_tokens] contents of published pages; NULL without prefix cache */
    int32_t *buckets;  /* [mask + 1] heads of chains */
    uint64_t mask;
    int32_t *free;     /* stack of pages that are neither held nor published */
    int free_count;
    int32_t oldest, newest;
    int cached_count;
    uint64_t last_serial, random;
    VEC(int32_t) fresh;
};

Kv *kv_new(const KvOptions *options)
{
    assert(options->pages > 0 && options->page_tokens > 0);
    Kv *kv = xcalloc(1, sizeof *kv);
    size_t n = (size_t)options->pages;
    kv->o = *options;
    kv->random = options->shuffle;
    kv->oldest = kv->newest = NONE;
    kv->pages = xcalloc(n, sizeof *kv->pages);
    kv->free = xcalloc(n, sizeof *kv->free);
    for (int i = options->pages - 1; i >= 0; i--)
        kv->free[kv->free_count++] = i;
    if (!options->prefix_cache)
        return kv;
    kv->tokens = xcalloc(n * (size_t)options->page_tokens, sizeof *kv->tokens);
    kv->mask = 15;
    while (kv->mask < n)
        kv->mask = kv->mask * 2 + 1;
    kv->buckets = xmalloc((kv->mask + 1) * sizeof *kv->buckets);
    memset(kv->buckets, 0xff, (kv->mask + 1) * sizeof *kv->buckets);
    return kv;
}

void kv_free(Kv *kv)
{
    if (!kv)
        return;
    free(kv->pages);
    free(kv->tokens);
    free(kv->buckets);
    free(kv->free);
    vec_free(&kv->fresh);
    free(kv);
}

int kv_pages_for(const Kv *kv, int tokens)
{
    return (int)(((int64_t)tokens + kv->o.page_tokens - 1) / kv->o.page_tokens);
}

int kv_available(const Kv *kv)
{
    return kv->free_count + kv->cached_count;
}

int kv_total(const Kv *kv)
{
    return kv->o.pages;
}

/* ---- published pages --------------------------------------------------------------------------------------------- */

static uint32_t *page_tokens(const Kv *kv, int32_t page)
{
    return kv->tokens + (size_t)page * (size_t)kv->o.page_tokens;
}

static int32_t *bucket_of(const Kv *kv, uint64_t parent, uint64_t salt, const uint32_t *tokens)
{
    uint64_t key[2] = {parent, salt};
    uint64_t h = hash_bytes(hash_bytes(HASH_SEED, key, sizeof key), tokens, sizeof *tokens * (size_t)kv->o.page_tokens);
    return &kv->buckets[h & kv->mask];
}

static int32_t find(const Kv *kv, uint64_t parent, uint64_t salt, const uint32_t *tokens)
{
    size_t bytes = sizeof *tokens * (size_t)kv->o.page_tokens;
    int32_t i = *bucket_of(kv, parent, salt, tokens);
    while (i != NONE) {
        const Page *p = &kv->pages[i];
        if (p->parent == parent && p->salt == salt && !memcmp(page_tokens(kv, i), tokens, bytes))
            return i;
        i = p->chain;
    }
    return NONE;
}

static void unpublish(Kv *kv, int32_t page)
{
    Page *p = &kv->pages[page];
    int32_t *link = bucket_of(kv, p->parent, p->salt, page_tokens(kv, page));
    while (*link != page)
        link = &kv->pages[*link].chain;
    *link = p->chain;
    p->serial = 0;
}

/* ---- the list of cached pages ------------------------------------------------------------------------------------ */

static void cached_append(Kv *kv, int32_t page)
{
    Page *p = &kv->pages[page];
    p->older = kv->newest;
    p->newer = NONE;
    *(kv->newest == NONE ? &kv->oldest : &kv->pages[kv->newest].newer) = page;
    kv->newest = page;
    kv->cached_count++;
}

static void cached_remove(Kv *kv, int32_t page)
{
    Page *p = &kv->pages[page];
    *(p->older == NONE ? &kv->oldest : &kv->pages[p->older].newer) = p->newer;
    *(p->newer == NONE ? &kv->newest : &kv->pages[p->newer].older) = p->older;
    kv->cached_count--;
}

/* ---- pages of a sequence ----------------------------------------------------------------------------------------- */

static void seq_push(KvSeq *s, int32_t page)
{
    if (s->count == s->cap) {
        s->cap = MAX(8, s->cap * 2);
        s->pages = xrealloc(s->pages, sizeof *s->pages * (size_t)s->cap);
    }
    s->pages[s->count++] = page;
}

static int32_t take_free(Kv *kv)
{
    int32_t *top = &kv->free[--kv->free_count];
    if (kv->o.shuffle) {
        kv->random = kv->random * 6364136223846793005ull + 1442695040888963407ull;
        int32_t *other = &kv->free[(kv->random >> 33) % (uint64_t)(kv->free_count + 1)];
        int32_t page = *other;
        *other = *top;
        return page;
    }
    return *top;
}

static int32_t take_page(Kv *kv)
{
    if (kv->free_count)
        return take_free(kv);
    int32_t page = kv->oldest;
    cached_remove(kv, page);
    unpublish(kv, page);
    return page;
}

bool kv_reserve(Kv *kv, KvSeq *s, int tokens)
{
    int missing = kv_pages_for(kv, tokens) - s->count;
    if (missing > kv_available(kv))
        return false;
    for (; missing > 0; missing--) {
        int32_t page = take_page(kv);
        kv->pages[page].refs = 1;
        seq_push(s, page);
        vec_push(&kv->fresh, page);
    }
    return true;
}

int kv_match(Kv *kv, KvSeq *s, const uint32_t *tokens, int n, uint64_t salt)
{
    assert(!s->count && !s->published);
    s->salt = salt;
    s->parent = 0;
    if (!kv->tokens)
        return 0;
    int size = kv->o.page_tokens;
    for (int at = 0; at + size < n; at += size) {
        int32_t page = find(kv, s->parent, salt, tokens + at);
        if (page == NONE)
            break;
        if (!kv->pages[page].refs++)
            cached_remove(kv, page);
        seq_push(s, page);
        s->parent = kv->pages[page].serial;
    }
    s->published = s->count;
    return s->count * size;
}

void kv_publish(Kv *kv, KvSeq *s, const uint32_t *tokens, int n)
{
    if (!kv->tokens)
        return;
    int size = kv->o.page_tokens;
    for (; s->published < n / size; s->published++) {
        const uint32_t *own = tokens + s->published * size;
        int32_t page = find(kv, s->parent, s->salt, own); /* another sequence may have published the same content */
        if (page == NONE) {
            page = s->pages[s->published];
            int32_t *bucket = bucket_of(kv, s->parent, s->salt, own);
            Page *p = &kv->pages[page];
            *p = (Page){p->refs, ++kv->last_serial, s->parent, s->salt, *bucket, NONE, NONE};
            memcpy(page_tokens(kv, page), own, sizeof *own * (size_t)size);
            *bucket = page;
        }
        s->parent = kv->pages[page].serial;
    }
}

void kv_release(Kv *kv, KvSeq *s)
{
    for (int i = s->count - 1; i >= 0; i--) { /* the end first: it becomes the older one */
        Page *p = &kv->pages[s->pages[i]];
        assert(p->refs > 0);
        if (--p->refs)
            continue;
        if (p->serial)
            cached_append(kv, s->pages[i]);
        else
            kv->free[kv->free_count++] = s->pages[i];
    }
    free(s->pages);
    *s = (KvSeq){0};
}

int kv_take_fresh(Kv *kv, const int32_t **pages)
{
    int n = (int)kv->fresh.len;
    *pages = kv->fresh.at;
    kv->fresh.len = 0;
    return n;
}

/* ---- invariants -------------------------------------------------------------------------------------------------- */

/* seen[page] counts who has the page: sequences by 1, the free stack and the cached list by `other`. */
static bool count_owners(const Kv *kv, const KvSeq *const *seqs, int count, int *seen, int other, Err *err)
{
    for (int i = 0; i < count; i++)
        for (int j = 0; j < seqs[i]->count; j++) {
            int32_t page = seqs[i]->pages[j];
            if (page < 0 || page >= kv->o.pages)
                return err_set(err, "sequence %d holds page %d of %d", i, page, kv->o.pages);
            seen[page]++;
        }
    for (int i = 0; i < kv->free_count; i++)
        seen[kv->free[i]] += other;
    int cached = 0;
    for (int32_t i = kv->oldest; i != NONE && cached <= kv->o.pages; i = kv->pages[i].newer, cached++) {
        if (!kv->pages[i].serial)
            return err_set(err, "page %d is cached but not published", i);
        seen[i] += other;
    }
    if (cached != kv->cached_count)
        return err_set(err, "%d pages are in the list of cached pages, %d were counted", cached, kv->cached_count);
    return true;
}

bool kv_check(const Kv *kv, const KvSeq *const *seqs, int count, Err *err)
{
    int other = count + 1;
    int *seen = xcalloc((size_t)kv->o.pages, sizeof *seen);
    bool ok = count_owners(kv, seqs, count, seen, other, err);
    for (int i = 0; ok && i < kv->o.pages; i++) {
        const Page *p = &kv->pages[i];
        int expected = p->refs ? p->refs : other;
        if (seen[i] != expected)
            ok = err_set(err, "page %d: %d references, but %d holders (%d: free or cached)", i, p->refs, seen[i],
                         other);
        else if (p->serial && find(kv, p->parent, p->salt, page_tokens(kv, i)) != i)
            ok = err_set(err, "page %d is published but not found under its content", i);
    }
    free(seen);
    return ok;
}
