/* service_int.h - private to service*.c: a completion, and what the engine thread tells the output thread about it.
 *
 * Who may touch what: everything in a Completion is fixed when it is submitted, but for the parts that the comments give
 * to one of the two threads. The engine thread knows a choice until it has told its end with `gone`; the output thread
 * frees a completion when all its choices are gone. So neither can hold a pointer that has become stale, and everyone else
 * names completions by id.
 */
#ifndef BLADE_SERVICE_INT_H
#define BLADE_SERVICE_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "service.h"
#include "text.h"

typedef struct Completion Completion;

typedef enum ChoiceState {
    CHOICE_HELD,   /* until the first choice has its first token */
    CHOICE_ENGINE, /* the engine has it */
    CHOICE_GONE,
} ChoiceState;

typedef struct Choice {
    Completion *completion;
    int index;
    /* engine thread */
    ChoiceState state;
    Request *request;
    bool queued;          /* counts as waiting */
    /* written by the engine thread until it tells the end */
    char *error;
    PromptToken *prompt;  /* [prompt_len] */
    int rows;             /* of it */
    double *hidden;       /* [hidden size] last state, or sum of the states */
    /* output thread */
    TextStream *stream;
    Buf text;             /* certain, not delivered */
    VEC(CompletionToken) tokens; /* not delivered; their `top` is set at delivery */
    VEC(uint64_t) ends;   /* where the text of each of them ends, in bytes of the whole text */
    VEC(TopLogprob) tops; /* of all of them, one after another */
    uint64_t delivered;   /* bytes of text */
    int count;            /* tokens so far */
    uint32_t last_token;
    int cached;
    bool finished, touched;
    double start_time, first_time, last_time; /* NAN: not yet; last: of the last token */
} Choice;

struct Completion {
    uint64_t id;
    uint32_t *prompt;
    int prompt_len;
    SamplingParams sampling; /* lists of its own */
    bool include_stop;
    int prompt_logprobs;
    Pooling pooling;
    int priority;
    uint64_t salt;
    CompletionSink sink;
    double submitted;
    /* engine thread */
    Service *service;
    Completion *next;           /* of its bucket */
    Completion *older, *newer;  /* of those whose first choice waits */
    bool waits, released, expired; /* released: the choices behind the first one go to the engine */
    int known;                  /* choices that are not gone */
    /* output thread */
    int unfinished, remaining;  /* choices whose finish was not called; that are not gone */
    int n;
    Choice choices[];
};

typedef enum RecordKind { RECORD_START, RECORD_TOKEN, RECORD_END } RecordKind;

typedef struct Record {
    Choice *choice;
    double time;
    RecordKind kind;
    union {
        int cached; /* RECORD_START */
        struct {    /* RECORD_TOKEN */
            uint32_t id;
            float logprob;
            int top_count;
            bool stops; /* it ends the sequence */
        } token;
        struct {    /* RECORD_END */
            CompletionReason reason;
            bool gone;
        } end;
    };
} Record;

/* Records in order, and the top log-probabilities of all their tokens, one after another. */
typedef struct Records {
    VEC(Record) list;
    VEC(TopLogprob) tops;
} Records;

/* A new completion, or a cancellation. */
typedef struct Command {
    Completion *add; /* NULL: cancel */
    uint64_t id;
    int choice;      /* -1: all */
} Command;

typedef struct Commands {
    VEC(Command) list;
} Commands;

typedef enum ServiceState { SERVICE_OPENING, SERVICE_OPEN, SERVICE_FAILED } ServiceState;

struct Service {
    ServiceOptions o;
    pthread_t engine_thread, output_thread;
    double born;

    pthread_mutex_t lock;   /* of this paragraph */
    pthread_cond_t work;    /* engine thread: the inbox has something, or stop */
    pthread_cond_t changed; /* state; unfinished */
    ServiceState state;
    Err failure;            /* fixed once the state is SERVICE_FAILED */
    bool closing, stop;
    uint64_t last_id;
    int unfinished;         /* completions */
    Commands inbox;

    /* fixed once the state is SERVICE_OPEN */
    Engine *engine;
    ModelLimits limits;
    int64_t vocab;
    int hidden_size;

    atomic_llong waiting, waiting_tokens; /* choices that have not started; their prompts */
    atomic_llong live;                    /* choices that the engine thread has not told the end of */

    /* engine thread */
    Commands taken;              /* the inbox, swapped */
    Completion *buckets[256];    /* all it knows, by id */
    Completion *oldest, *newest; /* those whose first choice waits */
    VEC(Completion *) ready;     /* released, not yet added */
    Records told;                /* for the output thread, not yet handed over */
    int64_t steps, preemptions;  /* that the metrics have seen */

    pthread_mutex_t out_lock; /* of this paragraph */
    pthread_cond_t out_ready;
    Records pending;
    bool out_stop;

    /* output thread */
    Records records;         /* being worked on */
    VEC(Choice *) touched;   /* that may have something to deliver */
    VEC(Completion *) gone;  /* to be freed behind the records */
    double next_tick;

    pthread_mutex_t stats_lock; /* of this paragraph */
    EngineStats stats;
    double finishes, finishes_time; /* choices that have finished, older ones counting less; when that was */
};

/* service.c */
void service_cancel_choice(Service *s, uint64_t id, int choice);
void service_note_finish(Service *s, bool last); /* of a choice; the last one of its completion */

/* service_engine.c: the engine thread, from open to close */
void *service_engine_main(void *service);
EngineHidden completion_hidden(Pooling p); /* the hidden states it needs */

/* service_output.c */
void *service_output_main(void *service); /* the output thread: until out_stop is set and all records are done */
void completion_free(Completion *m);

#endif
