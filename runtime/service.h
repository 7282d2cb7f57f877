/* service.h - one engine for many threads: requests in from any thread, results out on a thread of the service's own.
 *
 *     client threads   parse, tokenize, service_submit: checks the request and puts it into the queue
 *     engine thread    owns model and engine: takes requests over, steps, puts what comes out into the output queue;
 *                      never touches text or a socket
 *     output thread    turns tokens into text, finds stop strings, calls the sinks
 *
 * The life of a completion: submitted; queued until the engine runs it (admission limits: what can't be queued is refused,
 * what waits too long ends with COMPLETION_EXPIRED); its deltas; one finish per choice, always, however it ends. With n
 * choices the first one computes the prompt; the others begin at its first token and find the prompt in the prefix
 * cache.
 */
#ifndef BLADE_SERVICE_H
#define BLADE_SERVICE_H

#include "engine.h"
#include "metrics.h"
#include "tokenizer.h"

typedef struct Service Service;

typedef struct ServiceOptions {
    /* Called on the engine thread: load the model and make the engine; free both. *options comes with the service's own
     * `arrivals` and its context; all else in it is for `open` to fill in before engine_new. When `open` fails, `close`
     * is not called. */
    bool (*open)(void *context, EngineOptions *options, Engine **engine, Err *err);
    void (*close)(void *context);
    void *context;
    const Tokenizer *tokenizer;   /* must outlive the service */
    Metrics *metrics;             /* likewise; NULL: none */
    int64_t max_queued_requests;  /* choices that wait, beyond the places free in the engine; 0: no limit */
    int64_t max_queued_tokens;    /* prompt tokens of all that wait; 0: no limit */
    double max_queue_time;        /* seconds a request may wait before its first step; 0: no limit */
} ServiceOptions;

/* Starts the threads and returns when `open` is done; NULL and its message when that failed. */
Service *service_new(const ServiceOptions *options, Err *err);
/* Cancels what is left, waits for the threads, closes the engine. NULL is allowed. */
void service_free(Service *s);

typedef enum CompletionReason {
    COMPLETION_STOP,    /* a stop token, an end-of-sequence token, a stop string */
    COMPLETION_LENGTH,  /* max_tokens, or the context is full */
    COMPLETION_ABORT,   /* service_cancel, or the service closes */
    COMPLETION_EXPIRED, /* it waited longer than max_queue_time */
    COMPLETION_ERROR,   /* see CompletionEnd.error */
} CompletionReason;

typedef struct CompletionToken {
    uint32_t id;
    float logprob;         /* under the raw logits; 0 unless log-probabilities were asked for */
    int top_count;
    const TopLogprob *top; /* [top_count], most likely first */
} CompletionToken;

/* New tokens of one choice and the text that has become certain. While text is held back (half a character, perhaps the
 * beginning of a stop string) its tokens are held back too, so text and tokens of all deltas put together belong
 * together; the last delta of a choice may have an empty text. Tokens of a found stop string are in it, tokens behind
 * it are not. */
typedef struct CompletionDelta {
    int choice;
    const char *text; /* valid UTF-8 */
    size_t text_len;
    const CompletionToken *tokens;
    int tokens_count;
} CompletionDelta;

/* A prompt token under the model; the first one of a prompt has none (top_count 0, logprob NaN). */
typedef struct PromptToken {
    uint32_t id;
    int rank;      /* 1: the most likely one */
    float logprob;
    int top_count;
    TopLogprob top[SAMPLING_MAX_LOGPROBS];
} PromptToken;

typedef struct CompletionEnd {
    int choice;
    bool last;                /* no other choice of this completion is left: the sink is called no more */
    CompletionReason reason;
    const char *stop_string;  /* the one found, or NULL */
    int64_t stop_token;       /* the one of SamplingParams.stop_tokens that ended it, or -1 */
    const char *error;        /* COMPLETION_ERROR, COMPLETION_EXPIRED: one line for the user; else NULL */
    int prompt_tokens, completion_tokens; /* the latter of this choice, tokens behind a stop string not counted */
    int cached_tokens;        /* of the prompt, taken from the prefix cache */
    double queue_seconds, first_token_seconds, total_seconds; /* since service_submit; first_token: NAN without one */
    const PromptToken *prompt; /* [prompt_tokens] with prompt_logprobs >= 0, on the first choice; else NULL */
    const float *embedding;   /* [embedding_len] with pooling, on the first choice; else NULL */
    int embedding_len;
} CompletionEnd;

/* Called on the output thread, one call at a time; must not block. What the arguments point to is gone afterwards. */
typedef struct CompletionSink {
    void *context;
    void (*delta)(void *context, const CompletionDelta *d);
    void (*finish)(void *context, const CompletionEnd *end);
} CompletionSink;

typedef enum Pooling { POOLING_NONE, POOLING_LAST, POOLING_MEAN } Pooling;

typedef struct CompletionRequest {
    const uint32_t *prompt; /* all of it is copied */
    int prompt_len;
    const SamplingParams *sampling; /* choice i draws with seed + i; max_tokens 0: the prompt only */
    const char *const *stops;       /* stop strings */
    int stops_count;
    bool include_stop;    /* a stop string that ends the text stays in it */
    bool keep_special;    /* special tokens appear in the text */
    int prompt_logprobs;  /* tokens to report for each prompt token, 0..20; -1: none */
    Pooling pooling;      /* of the hidden states behind the final norm; with max_tokens 0 */
    int choices;          /* n, >= 1 */
    int priority;         /* lower ones run first; 0 is ordinary */
    uint64_t salt;        /* prefix cache: equal prompts of different salt share nothing */
    CompletionSink sink;
} CompletionRequest;

typedef enum SubmitResult {
    SUBMIT_OK,
    SUBMIT_INVALID, /* this request can never be served */
    SUBMIT_FULL,    /* max_queued_requests or max_queued_tokens: try again later */
    SUBMIT_CLOSING, /* service_drain was called, or the engine has failed */
} SubmitResult;

/* From any thread. With SUBMIT_OK the sink may be called before this returns; *id names the completion. Otherwise the
 * sink is never called and err says why. */
SubmitResult service_submit(Service *s, const CompletionRequest *r, uint64_t *id, Err *err);

/* From any thread, at any time: ends all choices soon with COMPLETION_ABORT; an unknown or finished id is ignored. */
void service_cancel(Service *s, uint64_t id);

/* Refuses new completions from now on and waits until those that are there have finished, at most so many seconds; false
 * when some were left (service_free cancels them). */
bool service_drain(Service *s, double seconds);

/* A fatal error of the engine (then every completion has ended with COMPLETION_ERROR); NULL while it is well. */
const char *service_failure(const Service *s);

/* What is going on now. */
typedef struct ServiceStats {
    int running, waiting;        /* sequences; those queued here count as waiting */
    int64_t waiting_tokens;      /* prompt tokens of the waiting ones */
    int64_t pages, pages_used;   /* of the KV cache: all; held by sequences */
    EngineStats engine;
} ServiceStats;
ServiceStats service_stats(const Service *s);

/* Seconds until a refused client should try again, from the present rate of finishing; 1..60. */
int service_retry_after(const Service *s);

const ModelLimits *service_limits(const Service *s);

#endif
