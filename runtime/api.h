/* api.h - the routes of the server: OpenAI's API, vLLM's additions, health, metrics, the live page.
 *
 *     POST /v1/chat/completions, /v1/completions, /v1/embeddings, /tokenize, /detokenize
 *     GET  /v1/models, /v1/models/NAME, /version, /metrics, /dashboard/data
 *     GET  /health, /ping, /dashboard (the page without its numbers): open, no key is needed
 *
 * Answers have OpenAI's fields and vLLM's extras; errors are {"error": {"message", "type", "param", "code"}}.
 */
#ifndef BLADE_API_H
#define BLADE_API_H

#include "api_request.h"
#include "chat_template.h"
#include "http.h"
#include "reply.h"

typedef struct Api Api;

typedef struct ApiOptions { /* everything must outlive the Api */
    ApiModel model;
    Service *service;
    const ChatTemplate *chat;    /* NULL: the model has none */
    ReplyStyle tools;
    bool reasoning;              /* split off <think> ... </think> */
    bool timing;                 /* answers carry "metrics": times of the request */
    Pooling pooling;             /* of embeddings whose request does not say */
    Metrics *metrics;            /* NULL: none */
    const char *root;            /* what /v1/models says about where the model comes from */
    const char *fingerprint;     /* system_fingerprint: what the results depend on besides the request */
} ApiOptions;

Api *api_new(const ApiOptions *options);
void api_free(Api *a); /* after http_stop; NULL is allowed */

/* Ends every running completion with finish_reason "abort", and answers it. */
void api_abort_all(Api *a);

extern const HttpRoute api_routes[]; /* their context is the Api */

/* For HttpOptions.record: counts the request, and logs what did not go well. `context`: the Api. */
void api_record(void *context, const HttpRecord *r);

#endif
