/* KV pages: hand-out, sharing by content, eviction order, and random operations against the invariants. */
#include <stdlib.h>
#include <string.h>

#include "kv.h"
#include "test.h"

static void check(const Kv *kv, const KvSeq *const *seqs, int count)
{
    Err err = {0};
    if (!kv_check(kv, seqs, count, &err))
        fail_msg("%s", err.text);
}

static void pages_are_counted(void **state)
{
    (void)state;
    Kv *kv = kv_new(&(KvOptions){.pages = 4, .page_tokens = 8});
    KvSeq a = {0}, b = {0};
    const KvSeq *both[] = {&a, &b};
    assert_true(kv_reserve(kv, &a, 9));
    assert_int_equal(a.count, 2);
    assert_true(kv_reserve(kv, &a, 16)); /* fits the pages that are there */
    assert_int_equal(a.count, 2);
    assert_true(kv_reserve(kv, &b, 1));
    assert_false(kv_reserve(kv, &b, 17));
    assert_int_equal(b.count, 1);
    assert_int_equal(kv_available(kv), 1);
    const int32_t *fresh;
    assert_int_equal(kv_take_fresh(kv, &fresh), 3);
    assert_int_equal(kv_take_fresh(kv, &fresh), 0);
    check(kv, both, 2);
    kv_release(kv, &a);
    kv_release(kv, &b);
    check(kv, both, 2);
    assert_int_equal(kv_available(kv), 4);
    kv_free(kv);
}

static void full_pages_are_shared(void **state)
{
    (void)state;
    Kv *kv = kv_new(&(KvOptions){.pages = 8, .page_tokens = 4, .prefix_cache = true});
    uint32_t text[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    KvSeq a = {0}, b = {0}, c = {0};
    const KvSeq *all[] = {&a, &b, &c};
    assert_int_equal(kv_match(kv, &a, text, 12, 0), 0);
    assert_true(kv_reserve(kv, &a, 12));
    kv_publish(kv, &a, text, 11); /* two full pages */
    assert_int_equal(kv_match(kv, &b, text, 12, 0), 8);
    assert_int_equal(b.pages[1], a.pages[1]);
    assert_int_equal(kv_match(kv, &c, text, 12, 77), 0); /* another salt */
    kv_release(kv, &b);
    assert_int_equal(kv_match(kv, &b, text, 8, 0), 4); /* a token must be left */
    kv_release(kv, &b);
    text[0] = 99; /* the second page has the same tokens, but not the same beginning */
    assert_int_equal(kv_match(kv, &b, text, 12, 0), 0);
    text[0] = 1;
    check(kv, all, 3);
    kv_release(kv, &a);
    check(kv, all, 3);
    assert_int_equal(kv_available(kv), 8);
    assert_int_equal(kv_match(kv, &a, text, 12, 0), 8); /* from the cache, held by nobody */
    assert_true(kv_reserve(kv, &b, 24)); /* all six other pages */
    assert_int_equal(kv_available(kv), 0);
    kv_release(kv, &a);
    assert_true(kv_reserve(kv, &b, 28)); /* evicts the end of the sequence first */
    assert_int_equal(kv_match(kv, &a, text, 12, 0), 4);
    check(kv, all, 3);
    kv_release(kv, &a);
    kv_release(kv, &b);
    kv_free(kv);
}

static void shuffled_pages_are_a_permutation(void **state)
{
    (void)state;
    Kv *kv = kv_new(&(KvOptions){.pages = 100, .page_tokens = 1, .shuffle = 3});
    KvSeq a = {0};
    const KvSeq *one[] = {&a};
    assert_true(kv_reserve(kv, &a, 100));
    int in_order = 0;
    for (int i = 1; i < 100; i++)
        in_order += a.pages[i] == a.pages[i - 1] + 1;
    assert_true(in_order < 10);
    check(kv, one, 1);
    kv_release(kv, &a);
    kv_free(kv);
}

#define SEQS 12

static void random_operations(void **state)
{
    (void)state;
    srand(1);
    for (int round = 0; round < 200; round++) {
        int size = 1 + rand() % 5;
        Kv *kv = kv_new(&(KvOptions){1 + rand() % 40, size, round % 4 != 0, round % 2 ? (uint64_t)round : 0});
        KvSeq seqs[SEQS] = {0};
        const KvSeq *pointers[SEQS];
        uint32_t text[SEQS][64];
        int len[SEQS] = {0};
        for (int i = 0; i < SEQS; i++)
            pointers[i] = &seqs[i];
        for (int step = 0; step < 500; step++) {
            int i = rand() % SEQS;
            if (!len[i]) {
                len[i] = 1 + rand() % 64;
                for (int j = 0; j < 64; j++)
                    text[i][j] = rand() % 8 == 0;
                int matched = kv_match(kv, &seqs[i], text[i], len[i], (uint64_t)(rand() % 2));
                assert_true(matched < len[i] && matched == seqs[i].count * size);
            } else if (rand() % 3) {
                int before = kv_available(kv), held = seqs[i].count, want = kv_pages_for(kv, len[i]);
                bool ok = kv_reserve(kv, &seqs[i], len[i]);
                assert_int_equal(ok, want - held <= before);
                assert_int_equal(seqs[i].count, ok ? MAX(want, held) : held);
                if (ok)
                    kv_publish(kv, &seqs[i], text[i], len[i]);
                len[i] = MIN(64, len[i] + (ok ? rand() % 3 : 0));
            } else {
                kv_release(kv, &seqs[i]);
                len[i] = 0;
            }
            if (step % 10 == 0)
                check(kv, pointers, SEQS);
        }
        for (int i = 0; i < SEQS; i++)
            kv_release(kv, &seqs[i]);
        check(kv, pointers, SEQS);
        assert_int_equal(kv_available(kv), kv_total(kv));
        kv_free(kv);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_are_counted),
        cmocka_unit_test(full_pages_are_shared),
        cmocka_unit_test(shuffled_pages_are_a_permutation),
        cmocka_unit_test(random_operations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
