/* api_int.h - what the files of the API share; nobody else includes it.
 *
 *     api.c            routes, errors, what is not about completions
 *     api_call.c       the life of a call: from a request, through the service, to the end of its answer
 *     api_chat.c  api_completion.c  api_embedding.c    what goes in, and how the answers look
 *     api_tokens.c     tokens and log-probabilities as JSON
 *
 * A call is one HTTP request: one or several prompts, each a completion of the service with n choices. It is written to
 * by the handler's thread while it submits, by the service's output thread, and by whichever thread sees the client go
 * away; the last one to let go frees it.
 */
#ifndef BLADE_API_INT_H
#define BLADE_API_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "api.h"
#include "json_write.h"

typedef struct ApiCall ApiCall;

struct Api {
    ApiOptions o;
    int64_t started; /* seconds since 1970 */
    size_t longest_token; /* of the vocabulary, in bytes as it is spelt; at least 1 */
    pthread_mutex_t lock;
    ApiCall *calls;  /* all that are there */
};

/* ---- tokens as JSON: api_tokens.c -------------------------------------------------------------------------------- */

/* How tokens are shown. */
typedef struct TokenStyle {
    const Tokenizer *tokenizer;
    bool as_ids; /* "token_id:123" */
} TokenStyle;

/* The members of the "logprobs" of /v1/completions, list elements with commas between. */
typedef struct TokenLists {
    Buf tokens, logprobs, top, offsets;
    size_t chars; /* characters of the text so far, where the next token begins */
} TokenLists;

void token_lists_free(TokenLists *l);
void token_lists_clear(TokenLists *l);  /* but not `chars` */
/* `silent`: the token adds nothing to the text. */
void token_lists_add(TokenLists *l, const TokenStyle *style, const CompletionToken *t, bool silent);
/* {"text_offset": [...], ...} of both, `first` (may be NULL) in front. */
void token_lists_put(const TokenLists *first, const TokenLists *l, Buf *out);

/* Appends an element of choices[].logprobs.content. */
void chat_logprob_put(Buf *out, const TokenStyle *style, const CompletionToken *t);
/* Appends vLLM's prompt_logprobs: a list with null or {"ID": {"logprob", "rank", "decoded_token"}} a token. */
void prompt_logprobs_put(Buf *out, const TokenStyle *style, const PromptToken *t, int count);
/* Appends the elements of a list of ids. */
void token_ids_put(Buf *out, const uint32_t *ids, size_t count);
size_t utf8_count(const char *text, size_t len); /* characters: bytes that do not continue one */

/* ---- a call ------------------------------------------------------------------------------------------------------ */

typedef struct ToolCall {
    Buf name, arguments;
    bool announced; /* its name was sent */
} ToolCall;

typedef struct ApiPrompted ApiPrompted;

/* What came of one choice and was not sent yet; without streaming nothing is sent before the end. */
typedef struct ApiChoice {
    ApiPrompted *prompt;
    int index;             /* in the answer */
    ReplyParser *parser;   /* chat; NULL: everything is content */
    Buf text, reasoning;
    VEC(ToolCall) tools;
    Buf logprobs;          /* chat: elements of the list */
    TokenLists lists;      /* completions */
    Buf ids;               /* return_token_ids: elements of the list */
    int tokens;            /* generated so far */
    CompletionReason reason;
    Buf stop_reason;       /* JSON; empty: null */
} ApiChoice;

/* One prompt: one completion of the service. */
struct ApiPrompted {
    ApiCall *call;
    int number;
    TokenIds ids;
    Buf echo;              /* text in front of every choice's */
    uint64_t completion;   /* valid for numbers below ApiCall.submitted */
    Buf logprobs;          /* prompt_logprobs, JSON; empty: not there */
    TokenLists lists;      /* completions with echo and logprobs: those of the prompt */
    int cached;
};

/* How the answers of an endpoint look. Elements of "choices" are written without comma. */
typedef struct ApiFormat {
    const char *id_prefix, *object, *chunk_object; /* "chatcmpl-", "chat.completion", "chat.completion.chunk" */
    void (*delta)(ApiChoice *c, const CompletionDelta *d);   /* collects */
    void (*finish)(ApiChoice *c, const CompletionEnd *end);  /* the same at the end */
    /* Streams. The first chunk of a choice; false: there is none. Further ones: false when nothing is to be shown. */
    bool (*open)(ApiChoice *c, Buf *out);
    bool (*chunk)(ApiChoice *c, Buf *out);
    void (*last)(ApiChoice *c, Buf *out);
    void (*whole)(ApiChoice *c, Buf *out);
    /* Members besides "choices", each beginning with a comma; of a stream in its first chunks. NULL: none. */
    void (*extras)(const ApiCall *call, Buf *out);
    void (*answer)(ApiCall *call, Buf *out); /* the whole body instead of the above; or NULL */
} ApiFormat;

struct ApiCall {
    Api *api;
    const ApiFormat *format;
    HttpExchange *exchange; /* until `ended` */
    ApiRequest request;
    ReplyOptions reply;     /* chat */
    TokenStyle style;
    char id[96];
    int64_t created;
    Buf head;               /* {"id":...,"choices":[ of a chunk */
    VEC(ApiPrompted) prompts; /* not moved after call_submit */
    ApiChoice *choices;     /* [prompts][n] */
    ApiCall *prev, *next;   /* Api.calls */

    atomic_int references;
    atomic_bool unwanted;   /* the client has gone, or it had its error: cancel what runs */
    atomic_size_t submitted;

    pthread_mutex_t lock;   /* of what follows, and of the choices */
    bool begun, ended;      /* the stream has begun; the exchange was ended */
    int unfinished;         /* choices */
    Buf out;                /* what is written next */
    CompletionEnd first;    /* times of the first choice that ended; pointers in it are not valid */
    const char *reason;     /* how that one ended; for the log */
};

/* Reads the request. NULL when it was refused: then it has been answered. */
ApiCall *call_new(Api *a, HttpExchange *x, ApiKind kind, const ApiFormat *format);
/* Appends the tokens of a prompt's text; refuses what can't fit the context without looking at all of it. */
bool call_encode(const ApiCall *c, const char *text, size_t len, TokenIds *ids, ApiError *e);
/* Adds a prompt: `ids` are taken over, and cut as the request wishes. */
ApiPrompted *call_add_prompt(ApiCall *c, TokenIds *ids);
/* Adds all of request.prompts, tokenized, and submits or refuses the call. */
void call_submit_texts(ApiCall *c);
/* Gives all prompts to the service; the answer comes when it comes. The caller lets go of the call. */
void call_submit(ApiCall *c);
/* Answers with an error instead. */
void call_refuse(ApiCall *c, const ApiError *e);
/* Ends the call with an error while it runs; call with its lock held. */
void call_fail(ApiCall *c, const ApiError *e);

/* ---- api.c ------------------------------------------------------------------------------------------------------- */

void reply_json(HttpExchange *x, int status, const Buf *body);
void reply_error(HttpExchange *x, const Api *a, const ApiError *e); /* with Retry-After where it helps */
void error_put(Buf *out, const ApiError *e);                        /* {"error": {...}} */

HttpHandler api_chat, api_completion, api_embedding, api_tokenize, api_detokenize;

/* Appends the text of the prompt for a body with messages. */
bool chat_prompt(const Api *a, const json_t *body, Buf *prompt, ApiError *e);

#endif
