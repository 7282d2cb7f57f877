/* load.h - the parts of the load tool: the server it talks to, the requests it makes up, sending them, reporting.
 *
 *     load_main.c     the command line; a run for each rate
 *     load_server.c   what the server is: model, tokenizer; single requests
 *     load_prompt.c   prompts of a wanted length, or from a data set; bodies of requests
 *     load_client.c   one thread sends them all on time and takes the time of every token
 *     load_report.c   tables and JSON
 *     load_plot.c     curves from JSON results
 *
 * Any server with OpenAI's /v1/completions or /v1/chat/completions will do. Requests go straight to it over HTTP/1.1:
 * proxies of the environment are not used, they would be measured too.
 */
#ifndef BLADE_LOAD_H
#define BLADE_LOAD_H

#include <curl/curl.h>
#include <jansson.h>
#include <signal.h>

#include "load_stats.h"

/* ---- load_server.c --------------------------------------------------------------------------------------------- */

typedef struct LoadServer {
    const char *api_key;  /* NULL: none */
    bool chat, insecure;  /* insecure: certificates are not checked */
    double timeout;       /* seconds a request may take */
    char *base;           /* "http://127.0.0.1:8000": without /v1 */
    char *model;
    bool tokenizes;       /* /tokenize counts tokens as the endpoint does */
    struct curl_slist *headers;
    CURL *easy;           /* of the single requests */
} LoadServer;

/* Connects to `url` (with or without /v1). `model` NULL: the first one the server lists. False and a message when the
 * server is not there or has no model. Fields that are options are the caller's to set before. */
bool load_server_open(LoadServer *s, const char *url, const char *model, Err *err);
void load_server_close(LoadServer *s); /* all zero is allowed */

/* Tokens of the text as prompt of the endpoint, template and special tokens included; -1 when it cannot be found out.
 * By /tokenize, without it by a request for one token. */
int64_t load_count_tokens(LoadServer *s, const char *text);

/* Appends the token ids of the text, without special tokens; false when the server has no /tokenize. */
typedef VEC(int64_t) LoadIds;
bool load_token_ids(LoadServer *s, const char *text, LoadIds *ids);

/* Does the endpoint take a prompt of token ids? */
bool load_takes_ids(LoadServer *s, const LoadIds *ids);

/* One POST (GET without body) of a path below `base`. False when there is no answer; any status is an answer. */
bool load_call(LoadServer *s, const char *path, const char *body, Buf *answer, long *status, Err *err);

/* Sets what all requests have in common: headers, protocol, limits. */
void load_curl_setup(const LoadServer *s, CURL *easy, const char *path);
const char *load_endpoint_path(const LoadServer *s);

/* ---- load_prompt.c --------------------------------------------------------------------------------------------- */

typedef struct LoadRange {
    int64_t lo, hi;
} LoadRange;

typedef struct LoadWorkload {
    LoadRange prompt_len, output_len; /* tokens, uniform */
    double prefix_share;              /* of every prompt's tokens, the same for all; 0..1 */
    const char *dataset;              /* JSON lines; NULL: prompts of random words */
    uint64_t seed;
    bool ignore_eos;
    json_t *extra;                    /* members put into every body, null removes one; NULL: none */
} LoadWorkload;

typedef struct LoadRequest {
    char *body;
    size_t len;
    int64_t prompt_tokens; /* -1: not known */
} LoadRequest;
typedef VEC(LoadRequest) LoadRequests;

typedef struct LoadPrompts LoadPrompts;

/* Reads the data set, or finds out how the server counts tokens. NULL and a message on failure. */
LoadPrompts *load_prompts_open(const LoadWorkload *w, LoadServer *s, Err *err);
/* Adds n requests that have not been made before (those of a data set come again when it ends). */
void load_prompts_make(LoadPrompts *p, size_t n, LoadRequests *out);
/* How lengths are controlled, for the report: "token ids", "text, counted by /tokenize", ... */
const char *load_prompts_kind(const LoadPrompts *p);
void load_prompts_close(LoadPrompts *p); /* NULL is allowed */
void load_requests_free(LoadRequests *r);

/* ---- load_client.c --------------------------------------------------------------------------------------------- */

typedef struct LoadSchedule {
    const LoadRequest *requests;        /* [n] */
    const double *arrivals;             /* [n] seconds from the beginning, ascending */
    size_t n;
    int64_t concurrency;                /* requests in flight at most; 0: no limit */
    bool progress;                      /* a line on standard error */
    const volatile sig_atomic_t *stop;  /* when it becomes true, what is left ends as LOAD_CANCELLED */
} LoadSchedule;

/* Sends every request when its time has come, or later when too many are in flight, waits for all answers and fills
 * records[n] and *duration (seconds). False only when the client itself fails. */
bool load_send(const LoadServer *s, const LoadSchedule *schedule, LoadRecord *records, double *duration, Err *err);

/* ---- load_report.c --------------------------------------------------------------------------------------------- */

typedef struct LoadRun {
    double rate;
    size_t n;
    LoadRecord *records; /* [n] */
    LoadMetrics metrics;
} LoadRun;
typedef VEC(LoadRun) LoadRuns;

typedef struct LoadReport {
    const LoadServer *server;
    const LoadWorkload *workload;
    const char *label, *prompts; /* prompts: load_prompts_kind */
    double burstiness;
    int64_t concurrency;         /* 0: no limit */
    LoadTargets targets;
    bool details;                /* with a record of every request */
    LoadRuns runs;
} LoadReport;

void load_report_run(const LoadReport *r, const LoadRun *run, Buf *out);  /* the long table of one run */
void load_report_sweep(const LoadReport *r, Buf *out);                    /* a line a run */
json_t *load_report_json(const LoadReport *r);                            /* new reference */

/* ---- load_plot.c ----------------------------------------------------------------------------------------------- */

/* Draws PREFIX-ttft.svg and PREFIX-itl.svg: median and 99th percentile over the request rate, one colour a result.
 * Results are values of load_report_json, or the JSON that `vllm bench serve --save-result` writes; names[i] stands in
 * for a label that is missing. */
bool load_plot(json_t *const *results, const char *const *names, size_t n, const char *prefix, Err *err);

#endif
