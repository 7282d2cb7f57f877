/* scheduler.c - implementation of scheduler.h; see there. */
#include "scheduler.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

typedef struct List {
    Seq *first, *last;
    int count;
} List;

/* Room that is left in the step being planned. */
typedef struct Room {
    int prompt;   /* tokens for prompt pieces; one a decoding sequence is set aside already */
    int all_rows; /* rows of logits for all_rows sequences; one a sequence is set aside already */
    int preempted;
} Room;

struct Scheduler {
    SchedOptions o;
    Kv *kv;
    List waiting, running; /* each by priority; waiting: then by arrival, running: then by admission */
    int adjustments;       /* of the running sequences, at most */
    Room room;
    Batch batch;
    Piece *pieces, *sorted; /* [max_seqs] */
};

Scheduler *sched_new(const SchedOptions *options, Kv *kv)
{
    Scheduler *s = xcalloc(1, sizeof *s);
    s->o = *options;
    s->o.max_seqs = MIN(options->max_seqs, options->max_tokens);
    assert(s->o.max_seqs > 0 && s->o.max_rows >= s->o.max_seqs);
    s->kv = kv;
    s->pieces = xcalloc((size_t)s->o.max_seqs, sizeof *s->pieces);
    s->sorted = xcalloc((size_t)s->o.max_seqs, sizeof *s->sorted);
    return s;
}

void sched_free(Scheduler *s)
{
    if (!s)
        return;
    free(s->pieces);
    free(s->sorted);
    free(s);
}

/* ---- lists ------------------------------------------------------------------------------------------------------- */

/* Inserts behind `after`; NULL: at the front. */
static void list_insert(List *l, Seq *after, Seq *seq)
{
    Seq *next = after ? after->next : l->first;
    seq->prev = after;
    seq->next = next;
    *(after ? &after->next : &l->first) = seq;
    *(next ? &next->prev : &l->last) = seq;
    l->count++;
}

static void list_remove(List *l, Seq *seq)
{
    *(seq->prev ? &seq->prev->next : &l->first) = seq->next;
    *(seq->next ? &seq->next->prev : &l->last) = seq->prev;
    seq->prev = seq->next = NULL;
    l->count--;
}

int sched_running(const Scheduler *s)
{
    return s->running.count;
}

int sched_waiting(const Scheduler *s)
{
    return s->waiting.count;
}

const Seq *sched_first(const Scheduler *s, SeqState state)
{
    return state == SEQ_RUNNING ? s->running.first : state == SEQ_WAITING ? s->waiting.first : NULL;
}

/* ---- sequences come and go --------------------------------------------------------------------------------------- */

static int uncomputed(const Seq *seq)
{
    return (int)seq->tokens.len - seq->computed;
}

bool sched_fits(const Scheduler *s, int tokens, int adjustments)
{
    return kv_pages_for(s->kv, tokens) <= kv_total(s->kv) && adjustments <= s->o.max_adjustments;
}

/* Inserts behind the last one of its priority or a better one. */
static void list_insert_last(List *l, Seq *seq)
{
    Seq *after = l->last;
    while (after && after->priority > seq->priority)
        after = after->prev;
    list_insert(l, after, seq);
}

/* Inserts in front of those of its priority. */
static void list_insert_first(List *l, Seq *seq)
{
    Seq *before = l->first;
    while (before && before->priority < seq->priority)
        before = before->next;
    list_insert(l, before ? before->prev : l->last, seq);
}

void sched_add(Scheduler *s, Seq *seq)
{
    assert(seq->state == SEQ_NEW && seq->tokens.len > 0);
    seq->state = SEQ_WAITING;
    list_insert_last(&s->waiting, seq);
}

static void stop_running(Scheduler *s, Seq *seq)
{
    list_remove(&s->running, seq);
    kv_release(s->kv, &seq->kv);
    s->adjustments -= seq->adjustments;
    seq->computed = 0;
}

void sched_remove(Scheduler *s, Seq *seq)
{
    if (seq->state == SEQ_NEW)
        return;
    if (seq->state == SEQ_RUNNING)
        stop_running(s, seq);
    else
        list_remove(&s->waiting, seq);
    seq->state = SEQ_NEW;
    for (int i = 0; i < s->batch.count; i++)
        if (s->batch.pieces[i].seq == seq)
            s->batch.pieces[i].seq = NULL;
}

static void preempt(Scheduler *s, Seq *seq)
{
    stop_running(s, seq);
    seq->state = SEQ_WAITING;
    seq->preemptions++;
    list_insert_first(&s->waiting, seq);
}

void sched_append(Seq *seq, uint32_t token)
{
    assert(uncomputed(seq) == 0);
    vec_push(&seq->tokens, token);
}

/* ---- the next step ----------------------------------------------------------------------------------------------- */

/* Reserves pages for a running sequence up to `tokens` tokens, at the cost of those behind it in the list, none of which
 * has a piece yet; when it is the last itself, it is preempted and the answer is false. */
static bool reserve(Scheduler *s, Seq *seq, int tokens)
{
    while (!kv_reserve(s->kv, &seq->kv, tokens)) {
        Seq *last = s->running.last;
        s->room.preempted++;
        preempt(s, last);
        if (last == seq)
            return false;
    }
    return true;
}

static void schedule(Scheduler *s, Seq *seq)
{
    Room *room = &s->room;
    int left = uncomputed(seq), count = 1;
    if (left > 1) {
        count = MIN(left, room->prompt);
        if (seq->all_rows)
            count = MIN(count, room->all_rows + 1);
    }
    if (count <= 0 || !reserve(s, seq, seq->computed + count))
        return;
    if (left > 1)
        room->prompt -= count;
    if (seq->all_rows)
        room->all_rows -= count - 1;
    int rows = seq->all_rows ? count : !seq->no_rows && count == left;
    s->pieces[s->batch.count++] = (Piece){seq, seq->computed, count, rows};
    s->batch.tokens += count;
    s->batch.rows += rows;
}

/* Moves the head of the queue to the running sequences when there is room for all its tokens, and a page more for each
 * running one: admitting what will be preempted at once would only waste work. */
static Seq *admit(Scheduler *s)
{
    Seq *seq = s->waiting.first;
    if (!seq || s->room.preempted || s->room.prompt <= 0 || s->running.count >= s->o.max_seqs)
        return NULL;
    if (s->adjustments + seq->adjustments > s->o.max_adjustments)
        return NULL;
    int n = (int)seq->tokens.len;
    seq->computed = kv_match(s->kv, &seq->kv, seq->tokens.at, seq->no_match ? 0 : n, seq->salt);
    if (kv_pages_for(s->kv, n) - seq->kv.count + s->running.count > kv_available(s->kv)) {
        kv_release(s->kv, &seq->kv);
        seq->computed = 0;
        return NULL;
    }
    list_remove(&s->waiting, seq);
    list_insert_last(&s->running, seq);
    s->adjustments += seq->adjustments;
    seq->matched += seq->computed;
    seq->state = SEQ_RUNNING;
    return seq;
}

/* Pieces of one token come first; the order is kept otherwise. */
static void sort_pieces(Scheduler *s)
{
    int n = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < s->batch.count; i++)
            if ((s->pieces[i].count > 1) == pass)
                s->sorted[n++] = s->pieces[i];
    s->batch.pieces = s->sorted;
}

static void admit_all(Scheduler *s)
{
    for (Seq *seq; (seq = admit(s));) {
        if (uncomputed(seq) == 1)
            s->room.prompt--;
        schedule(s, seq);
    }
}

const Batch *sched_next(Scheduler *s, int prompt_tokens)
{
    s->batch = (Batch){0};
    int decoding = 0;
    for (Seq *seq = s->running.first; seq; seq = seq->next)
        decoding += uncomputed(seq) == 1;
    int prompt = s->o.max_tokens - decoding;
    s->room = (Room){decoding ? MIN(prompt, prompt_tokens) : prompt, s->o.max_rows - s->o.max_seqs, 0};
    for (Seq *seq = s->running.first, *next; seq; seq = next) {
        if (uncomputed(seq))
            schedule(s, seq);
        next = seq->state == SEQ_RUNNING ? seq->next : NULL; /* only the last one preempts itself */
    }
    admit_all(s);
    sort_pieces(s);
    return &s->batch;
}

void sched_commit(Scheduler *s)
{
    for (int i = 0; i < s->batch.count; i++) {
        const Piece *p = &s->batch.pieces[i];
        if (!p->seq)
            continue;
        p->seq->computed = p->first + p->count;
        kv_publish(s->kv, &p->seq->kv, p->seq->tokens.at, p->seq->computed);
    }
}
