/* The scheduler against a simulated device: pages hold a hash of the tokens up to theirs, every scheduled token checks
 * all slots before it and writes its own, and the "model" samples a function of that hash. So a wrong, stale or shared
 * page, a lost or repeated token, or an output that depends on the schedule shows. */
#include <stdlib.h>
#include <string.h>

#include "scheduler.h"
#include "test.h"

#define PENDING UINT32_MAX

typedef struct Result { /* of a step that runs: the token that follows a sequence */
    Seq *seq;
    uint32_t token;
} Result;

typedef struct World {
    bool ahead; /* steps are planned while the one before runs, with placeholders for its tokens */
    VEC(Result) results;
    Kv *kv;
    Scheduler *sched;
    SchedOptions so;
    KvOptions ko;
    uint64_t *slots; /* [pages, page_tokens] */
    VEC(Seq *) live;
    int priorities; /* that sequences get at random; 0: all the same */
    int finished, preemptions, steps, matched;
} World;

typedef struct Goal {
    int prompt, total; /* lengths in tokens */
} Goal;

static uint64_t hash_next(uint64_t h, uint32_t token)
{
    return hash_bytes(h, &token, sizeof token);
}

static uint32_t model(uint64_t prefix)
{
    return (uint32_t)(prefix >> 7) % 3;
}

static World world_new(SchedOptions so, KvOptions ko)
{
    World w = {.so = so, .ko = ko};
    w.kv = kv_new(&ko);
    w.sched = sched_new(&so, w.kv);
    w.slots = xcalloc((size_t)(ko.pages * ko.page_tokens), sizeof *w.slots);
    return w;
}

static void world_free(World *w)
{
    assert_int_equal(w->live.len, 0);
    assert_int_equal(kv_available(w->kv), kv_total(w->kv));
    sched_free(w->sched);
    kv_free(w->kv);
    free(w->slots);
    vec_free(&w->live);
    vec_free(&w->results);
}

static Seq *add(World *w, int prompt, int total, bool all_rows)
{
    Seq *seq = xcalloc(1, sizeof *seq);
    Goal *goal = xmalloc(sizeof *goal);
    *goal = (Goal){prompt, total};
    seq->user = goal;
    seq->all_rows = seq->no_match = all_rows;
    seq->salt = (uint64_t)(rand() % 2);
    seq->priority = w->priorities ? rand() % w->priorities : 0;
    seq->adjustments = w->so.max_adjustments ? rand() % (w->so.max_adjustments + 1) : 0;
    for (int i = 0; i < prompt; i++)
        vec_push(&seq->tokens, (uint32_t)(rand() % 6 == 0));
    assert_true(sched_fits(w->sched, total, seq->adjustments));
    sched_add(w->sched, seq);
    vec_push(&w->live, seq);
    return seq;
}

/* Removes a sequence; when it is complete, its tokens must be those of the model alone. */
static void drop(World *w, Seq *seq, bool complete)
{
    Goal *goal = seq->user;
    uint64_t h = seq->salt;
    for (size_t i = 0; i < seq->tokens.len; i++) {
        if ((int)i >= goal->prompt && seq->tokens.at[i] != PENDING)
            assert_int_equal(seq->tokens.at[i], model(h));
        h = hash_next(h, seq->tokens.at[i]);
    }
    if (complete)
        assert_int_equal(seq->tokens.len, goal->total);
    w->preemptions += seq->preemptions;
    sched_remove(w->sched, seq);
    for (size_t i = 0; i < w->results.len; i++)
        if (w->results.at[i].seq == seq)
            w->results.at[i].seq = NULL;
    for (size_t i = 0; i < w->live.len; i++)
        if (w->live.at[i] == seq)
            w->live.at[i--] = w->live.at[--w->live.len];
    vec_free(&seq->tokens);
    free(goal);
    free(seq);
}

static uint64_t *slot(World *w, const Seq *seq, int i)
{
    assert_true(i / w->ko.page_tokens < seq->kv.count);
    return &w->slots[seq->kv.pages[i / w->ko.page_tokens] * w->ko.page_tokens + i % w->ko.page_tokens];
}

/* Computes a piece; returns the hash of all tokens up to its end. */
static uint64_t compute(World *w, const Piece *p)
{
    assert_int_equal(p->first, p->seq->computed);
    uint64_t h = p->seq->salt;
    for (int i = 0; i < p->first + p->count; i++) {
        h = hash_next(h, p->seq->tokens.at[i]);
        if (i < p->first && *slot(w, p->seq, i) != h)
            fail_msg("token %d: the K/V in its slot are of other tokens", i);
        if (i >= p->first)
            *slot(w, p->seq, i) = h;
    }
    return h;
}

static void check_batch(World *w, const Batch *b)
{
    int tokens = 0, rows = 0, decoding = 0;
    bool prompts = false;
    for (int i = 0; i < b->count; i++) {
        const Piece *p = &b->pieces[i];
        int left = (int)p->seq->tokens.len - p->first;
        assert_true(p->count > 0 && p->count <= left && p->seq->state == SEQ_RUNNING);
        assert_int_equal(p->rows, p->seq->all_rows ? p->count : p->count == left);
        assert_false(prompts && p->count == 1); /* pieces of one token come first */
        prompts |= p->count > 1;
        tokens += p->count;
        rows += p->rows;
        decoding += left == 1;
    }
    assert_true(tokens == b->tokens && rows == b->rows);
    assert_true(tokens <= w->so.max_tokens && rows <= w->so.max_rows && b->count <= w->so.max_seqs);
    assert_true(b->count > 0 || w->live.len == 0);
    int waiting_for_token = 0, adjustments = 0;
    for (const Seq *s = sched_first(w->sched, SEQ_RUNNING); s; s = s->next) {
        waiting_for_token += (int)s->tokens.len - s->computed == 1;
        adjustments += s->adjustments;
    }
    assert_true(adjustments <= w->so.max_adjustments);
    assert_int_equal(decoding, waiting_for_token); /* no decoding sequence is left out */
    const Seq *first = sched_first(w->sched, SEQ_RUNNING);
    bool advances = !first;
    for (int i = 0; i < b->count; i++)
        advances |= b->pieces[i].seq == first;
    assert_true(advances);
    for (SeqState state = SEQ_WAITING; state <= SEQ_RUNNING; state++)
        for (const Seq *s = sched_first(w->sched, state); s && s->next; s = s->next)
            assert_true(s->priority <= s->next->priority);
}

static void check_world(World *w)
{
    Err err = {0};
    const KvSeq **seqs = xmalloc(sizeof *seqs * (w->live.len + 1));
    for (size_t i = 0; i < w->live.len; i++)
        seqs[i] = &w->live.at[i]->kv;
    if (!kv_check(w->kv, seqs, (int)w->live.len, &err))
        fail_msg("%s", err.text);
    free(seqs);
    assert_int_equal(sched_running(w->sched) + sched_waiting(w->sched), w->live.len);
}

/* The results of the step that ran reach their sequences. */
static void collect(World *w)
{
    for (size_t i = 0; i < w->results.len; i++) {
        Seq *seq = w->results.at[i].seq;
        if (!seq)
            continue;
        int total = ((Goal *)seq->user)->total;
        if ((int)seq->tokens.len == total - 1 && seq->tokens.at[total - 2] != PENDING)
            vec_push(&seq->tokens, w->results.at[i].token); /* the last one: nothing is computed from it */
        else
            seq->tokens.at[seq->tokens.len - 1] = w->results.at[i].token;
        if ((int)seq->tokens.len == total) {
            drop(w, seq, true);
            w->finished++;
        }
    }
    w->results.len = 0;
}

static void run(World *w, const Batch *b)
{
    const int32_t *fresh;
    int n = kv_take_fresh(w->kv, &fresh);
    for (int i = 0; i < n; i++)
        memset(&w->slots[fresh[i] * w->ko.page_tokens], 0, sizeof *w->slots * (size_t)w->ko.page_tokens);
    for (int i = 0; i < b->count; i++) {
        const Piece *p = &b->pieces[i];
        if (p->first && !p->seq->preemptions)
            w->matched++;
        uint64_t h = compute(w, p);
        if (p->first + p->count == (int)p->seq->tokens.len)
            vec_push(&w->results, (Result){p->seq, model(h)});
    }
    sched_commit(w->sched);
    for (size_t i = 0; i < w->results.len; i++) {
        Seq *seq = w->results.at[i].seq;
        if ((int)seq->tokens.len < ((Goal *)seq->user)->total - 1)
            sched_append(seq, PENDING);
    }
}

static void add_random(World *w)
{
    int total = 2 + rand() % (MIN(w->ko.pages * w->ko.page_tokens, 80) - 1);
    add(w, 1 + rand() % (total - 1), total, rand() % 5 == 0);
}

/* Plans a step; the results of the one before come while it is planned, and so may new sequences; runs it. */
static void step_with(World *w, int prompt_tokens, bool cancel, bool arrive)
{
    sched_next(w->sched, prompt_tokens);
    collect(w);
    if (cancel && w->live.len)
        drop(w, w->live.at[(size_t)rand() % w->live.len], false);
    if (arrive)
        add_random(w);
    const Batch *b = sched_next(w->sched, prompt_tokens);
    check_batch(w, b);
    run(w, b);
    if (!w->ahead)
        collect(w);
    w->steps++;
}

static void step(World *w, bool cancel)
{
    step_with(w, INT32_MAX, cancel, false);
}

static void drain(World *w)
{
    for (int guard = 0; w->live.len; guard++) {
        assert_true(guard < 100000);
        step(w, false);
    }
}

static void random_operations(void **state)
{
    (void)state;
    srand(2);
    int finished = 0, preemptions = 0, matched = 0;
    long operations = 0;
    for (int round = 0; round < 7000; round++) {
        SchedOptions so = {1 + rand() % 12, 1 + rand() % 40, 0, 0};
        so.max_rows = so.max_seqs + rand() % 10;
        so.max_adjustments = rand() % 3 * 10;
        World w = world_new(so, (KvOptions){2 + rand() % 30, 1 + rand() % 6, rand() % 3 > 0, (uint64_t)(rand() % 2)});
        w.ahead = round % 2;
        w.priorities = 1 + round % 3;
        for (int i = 0; i < 300; i++, operations++) {
            if (rand() % 4 == 0 && w.live.len < 40)
                add_random(&w);
            else
                step_with(&w, 1 + rand() % 30, rand() % 20 == 0, rand() % 20 == 0 && w.live.len < 40);
            if (i % 8 == 0)
                check_world(&w);
        }
        drain(&w);
        check_world(&w);
        operations += w.steps;
        finished += w.finished;
        preemptions += w.preemptions;
        matched += w.matched;
        world_free(&w);
    }
    assert_true(operations > 2000000 && finished > 20000); /* the run reached what it is for */
    assert_true(preemptions > 1000 && matched > 1000);
}

static void order_of_arrival(void **state)
{
    (void)state;
    World w = world_new((SchedOptions){2, 16, 2}, (KvOptions){.pages = 100, .page_tokens = 4});
    Seq *a = add(&w, 30, 40, false), *b = add(&w, 3, 5, false), *c = add(&w, 1, 2, false);
    const Batch *batch = sched_next(w.sched, INT32_MAX);
    assert_int_equal(batch->count, 1); /* the first prompt takes the whole step */
    assert_ptr_equal(batch->pieces[0].seq, a);
    assert_int_equal(batch->pieces[0].count, 16);
    assert_true(b->state == SEQ_WAITING && c->state == SEQ_WAITING);
    for (int i = 0; i < batch->count; i++)
        compute(&w, &batch->pieces[i]);
    sched_commit(w.sched);
    batch = sched_next(w.sched, INT32_MAX);
    assert_int_equal(batch->count, 2);
    assert_true(batch->pieces[0].seq == a && batch->pieces[0].count == 14 && batch->pieces[0].rows == 1);
    assert_true(batch->pieces[1].seq == b && batch->pieces[1].count == 2 && batch->pieces[1].rows == 0);
    assert_int_equal(c->state, SEQ_WAITING); /* two sequences at most */
    drop(&w, a, false);
    drop(&w, b, false);
    drop(&w, c, false);
    world_free(&w);
}

static void prompts_do_not_stop_decoding(void **state)
{
    (void)state;
    World w = world_new((SchedOptions){8, 8, 8}, (KvOptions){.pages = 1000, .page_tokens = 4});
    Seq *decoding = add(&w, 1, 50, false);
    step(&w, false);
    add(&w, 500, 501, false);
    for (size_t before = decoding->tokens.len, i = 1; i < 40; i++) {
        step(&w, false);
        assert_int_equal(decoding->tokens.len, before + i);
    }
    drain(&w);
    world_free(&w);
}

static void last_admitted_is_preempted(void **state)
{
    (void)state;
    World w = world_new((SchedOptions){4, 32, 4}, (KvOptions){.pages = 10, .page_tokens = 4});
    Seq *a = add(&w, 12, 40, false), *b = add(&w, 12, 39, false);
    while (!b->preemptions) {
        step(&w, false);
        assert_int_equal(a->preemptions, 0);
    }
    assert_true(b->state == SEQ_WAITING && b->kv.count == 0 && b->tokens.len > 12);
    drain(&w);
    assert_int_equal(w.finished, 2);
    world_free(&w);
}

static void shared_prompt_is_computed_once(void **state)
{
    (void)state;
    World w = world_new((SchedOptions){4, 64, 4}, (KvOptions){.pages = 64, .page_tokens = 4, .prefix_cache = true});
    Seq *a = add(&w, 40, 42, false);
    step(&w, false);
    Seq *b = add(&w, 41, 43, false);
    memcpy(b->tokens.at, a->tokens.at, 40 * sizeof *b->tokens.at);
    b->salt = a->salt;
    const Batch *batch = sched_next(w.sched, INT32_MAX);
    assert_int_equal(batch->tokens, 2); /* the decoded token of a; the last token of b */
    assert_int_equal(b->computed, 40);
    for (int i = 0; i < batch->count; i++)
        compute(&w, &batch->pieces[i]);
    sched_commit(w.sched);
    drop(&w, a, false);
    drop(&w, b, false);
    world_free(&w);
}

static void better_priorities_run_first(void **state)
{
    (void)state;
    World w = world_new((SchedOptions){2, 32, 2}, (KvOptions){.pages = 10, .page_tokens = 4});
    Seq *a = add(&w, 12, 39, false), *b = add(&w, 4, 8, false), *c = add(&w, 12, 38, false);
    a->priority = 1; /* the first in the queue all the same */
    sched_remove(w.sched, c);
    c->priority = -1;
    sched_add(w.sched, c);
    step(&w, false);
    assert_true(c->state == SEQ_RUNNING && a->state == SEQ_RUNNING && b->state == SEQ_WAITING);
    while (!a->preemptions) {
        step(&w, false);
        assert_int_equal(c->preemptions, 0); /* although it was admitted last */
    }
    drain(&w);
    world_free(&w);
}

static void prompts_are_cut_while_others_decode(void **state)
{
    (void)state;
    World w = world_new((SchedOptions){8, 64, 8}, (KvOptions){.pages = 1000, .page_tokens = 4});
    add(&w, 1, 50, false);
    step(&w, false);
    add(&w, 100, 101, false);
    const Batch *batch = sched_next(w.sched, 7);
    assert_true(batch->count == 2 && batch->pieces[1].count == 7);
    step_with(&w, 7, false, false);
    drain(&w);
    Seq *alone = add(&w, 100, 101, false);
    batch = sched_next(w.sched, 7);
    assert_true(batch->count == 1 && batch->pieces[0].seq == alone && batch->pieces[0].count == 64);
    drain(&w);
    world_free(&w);
}

static void too_long_is_known_beforehand(void **state)
{
    (void)state;
    World w = world_new((SchedOptions){4, 32, 4}, (KvOptions){.pages = 10, .page_tokens = 4});
    assert_true(sched_fits(w.sched, 40, 0));
    assert_false(sched_fits(w.sched, 41, 0));
    assert_false(sched_fits(w.sched, 40, 1));
    world_free(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_of_arrival),
        cmocka_unit_test(prompts_do_not_stop_decoding),
        cmocka_unit_test(last_admitted_is_preempted),
        cmocka_unit_test(shared_prompt_is_computed_once),
        cmocka_unit_test(better_priorities_run_first),
        cmocka_unit_test(prompts_are_cut_while_others_decode),
        cmocka_unit_test(too_long_is_known_beforehand),
        cmocka_unit_test(random_operations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
