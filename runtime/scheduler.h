/* scheduler.h - which tokens the next step computes.
 *
 * A pure data structure over kv.h: no device, no threads, no clock. The life of a sequence: added to the waiting queue,
 * behind those of its priority; admitted in that order when there is a place and there are pages for all its tokens; in
 * every step it takes part in, a piece of its uncomputed tokens is scheduled: the one new token of a decoding sequence,
 * or a piece of a prompt; when the piece reaches its end, the caller appends the next token. When pages run out, the
 * sequence of the worst priority that was admitted last gives its pages back and waits in front of its equals, to be
 * computed again (preemption by recompute); nothing is dropped, and the first sequence always advances.
 *
 * A step holds at most `max_tokens` tokens: first one for every decoding sequence, the rest for prompt pieces in
 * order of admission, so a long prompt never freezes the others (Sarathi-Serve, arXiv 2403.02310).
 *
 * A step can be planned while the one before it runs: the caller appends a placeholder for the token that is not known
 * yet, and writes the token into its place before the next sched_commit.
 */
#ifndef BLADE_SCHEDULER_H
#define BLADE_SCHEDULER_H

#include "kv.h"

typedef enum SeqState { SEQ_NEW, SEQ_WAITING, SEQ_RUNNING } SeqState;

typedef struct Seq Seq;
struct Seq {
    /* set by the caller before sched_add */
    VEC(uint32_t) tokens; /* prompt and generated tokens; only sched_append adds to it later */
    uint64_t salt;        /* of the prefix cache */
    int priority;         /* lower ones come first */
    int adjustments;      /* logit adjustments that a row of it may need at most */
    bool all_rows;        /* the logits of every token are wanted */
    bool no_rows;         /* no logits are wanted */
    bool no_match;        /* nothing is taken from the prefix cache */
    void *user;
    /* owned by the scheduler */
    SeqState state;
    int computed; /* leading tokens whose K/V are in the pages */
    KvSeq kv;
    int preemptions;
    int matched; /* tokens taken from the prefix cache, all admissions together */
    Seq *prev, *next;
};

/* A piece of a step: tokens first .. first + count - 1 of a sequence. */
typedef struct Piece {
    Seq *seq;
    int first, count;
    int rows; /* its last `rows` tokens give logits: 0; 1 at the end of the tokens; count with all_rows */
} Piece;

typedef struct Batch {
    Piece *pieces; /* those of one token first */
    int count;
    int tokens, rows; /* sums */
} Batch;

typedef struct SchedOptions {
    int max_seqs;   /* sequences that run at once; more than max_tokens makes no sense and is cut to it */
    int max_tokens; /* tokens of a step */
    int max_rows;   /* rows of logits of a step, >= max_seqs; bounds pieces of all_rows sequences */
    int max_adjustments; /* of a step */
} SchedOptions;

typedef struct Scheduler Scheduler;

Scheduler *sched_new(const SchedOptions *options, Kv *kv); /* kv must outlive it */
void sched_free(Scheduler *s);                             /* forgets sequences, frees none; NULL is allowed */

/* Whether a sequence that may grow to so many tokens and needs so many adjustments could ever be finished. */
bool sched_fits(const Scheduler *s, int tokens, int adjustments);

void sched_add(Scheduler *s, Seq *seq); /* requires sched_fits and at least one token */

/* Takes a sequence out, in any state, and releases its pages. */
void sched_remove(Scheduler *s, Seq *seq);

/* Chooses the next step and reserves its pages; sequences without uncomputed tokens are passed over. At most
 * prompt_tokens tokens are of prompt pieces while other sequences decode (and never more than max_tokens in all). Valid
 * until the next call; sched_remove sets the `seq` of a removed sequence's piece to NULL. Calling it again before
 * sched_commit plans the same step anew, with what has come and gone since; what takes time, matching prefixes and finding
 * pages, was done by then. */
const Batch *sched_next(Scheduler *s, int prompt_tokens);

/* Says that the step runs: the tokens of its pieces count as computed. Once a step, before tokens are appended. */
void sched_commit(Scheduler *s);

/* Adds a token to a sequence whose tokens have all been computed. */
void sched_append(Seq *seq, uint32_t token);

int sched_running(const Scheduler *s);
int sched_waiting(const Scheduler *s);
const Seq *sched_first(const Scheduler *s, SeqState state); /* of the list, oldest first; go on with ->next */

#endif
