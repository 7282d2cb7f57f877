/* api.h - the routes of the server: OpenAI's API, vLLM's additions, health, metrics, the live page. */
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
    Metrics *metrics;
    const char *root;            /* what /v1/models says about where the model comes from */
} ApiOptions;

Api *api_new(const ApiOptions *options);
void api_free(Api *a); /* after http_stop; NULL is allowed */

extern const HttpRoute api_routes[]; /* their context is the Api */

#endif
