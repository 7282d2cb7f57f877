/* api_request.h - the bodies of API requests, read and checked: JSON in, a struct whose every number is in range out,
 * or an error that names the field. Nothing behind this door sees unchecked values.
 *
 * Fields of OpenAI's API (https://platform.openai.com/docs/api-reference) and vLLM's extras. A field nobody knows is an
 * error; one that is known and can't be honoured is an error unless its value asks for nothing. null counts as absent.
 */
#ifndef BLADE_API_REQUEST_H
#define BLADE_API_REQUEST_H

#include <jansson.h>

#include "generation.h"
#include "service.h"

/* An answer other than success, as OpenAI's error object {message, type, param, code}. */
typedef struct ApiError {
    int status;       /* 400, 404, 429, 503, ... */
    const char *type; /* "invalid_request_error", "rate_limit_error", "server_error", ... */
    const char *code; /* "model_not_found", "context_length_exceeded", ...; NULL: null */
    char param[96];   /* the field, "messages[3].content"; "": null */
    Err err;
} ApiError;

/* Fills in a 400 invalid_request_error; returns false. Text and param become valid UTF-8 without control characters. */
bool api_error_set(ApiError *e, const char *param, const char *format, ...) PRINTF(3, 4);

typedef enum ApiKind { API_CHAT, API_COMPLETION, API_EMBEDDING, API_TOKENIZE, API_DETOKENIZE } ApiKind;

/* What requests are checked against; must outlive the requests. */
typedef struct ApiModel {
    const char *const *names; /* served names, NULL-terminated; the first one is in answers */
    const Tokenizer *tokenizer;
    SamplingParams defaults;  /* of the checkpoint */
    int64_t vocab, max_model_len;
    bool has_template;        /* chat is possible */
} ApiModel;

enum { API_MAX_CHOICES = 128, API_MAX_PROMPTS = 2048, API_MAX_STOPS = 16, API_MAX_STOP_BYTES = 1024 };

/* A prompt of /v1/completions, an input of /v1/embeddings: text, or ids when text is NULL. */
typedef struct ApiPrompt {
    const char *text; /* points into the body */
    size_t text_len;
    TokenIds ids;
} ApiPrompt;

typedef struct ApiRequest {
    ApiKind kind;
    /* The whole of it, ready for chat_render: content in parts has become one string, parts joined by a newline;
     * arguments of earlier tool calls have become objects; add_generation_prompt has its default, true unless the last
     * message is continued; reasoning_effort is among chat_template_kwargs; tools are gone with tool_choice "none". */
    json_t *body;
    const char *model; /* the name to put into the answer */
    const char *request_id; /* as asked for in the body: 1..64 letters, digits, '-', '_', '.'; or NULL */
    VEC(ApiPrompt) prompts; /* all kinds but chat and tokenize with messages; detokenize: one with ids, perhaps none */
    RequestParams params;   /* sampling and stop strings; logprobs: -1 none, else that many; max_tokens: as asked, or -1
                               for "what the context has left" */
    bool has_seed;          /* otherwise params.params.seed is random */
    int n;
    int prompt_logprobs;    /* -1: none; also set by echo with logprobs */
    bool stream, include_usage, continuous_usage;
    bool echo, include_stop, keep_special;
    bool return_token_ids, tokens_as_ids; /* return_tokens_as_token_ids: "token_id:123" in place of token texts */
    bool add_special;       /* add BOS and the like to the prompt (chat: false by default, others: true) */
    int64_t truncate;       /* keep this many last tokens of the prompt; -1: off; -2: what the context holds */
    int priority;
    uint64_t salt;          /* hash of cache_salt; 0 without */
    /* chat */
    bool tools;             /* tools are offered and tool_choice is not "none" */
    bool parallel_calls;    /* false: only the first tool call of the answer is wanted */
    bool include_reasoning;
    const char *echo_text;  /* echo together with continue_final_message: the text of the last message; else NULL */
    /* embeddings, tokenize */
    Pooling pooling;        /* POOLING_NONE: the request leaves it to the server */
    bool base64, return_strings;
    int64_t dimensions;     /* 0: all */
} ApiRequest;

/* Reads a body: JSON in UTF-8 of at most 128 levels and a million values, no duplicate keys; takes no ownership of
 * `text`. On failure *error is complete and there is nothing to free. */
bool api_request_read(ApiKind kind, const char *text, size_t len, const ApiModel *m, ApiRequest *out, ApiError *error);
void api_request_free(ApiRequest *r);

#endif
