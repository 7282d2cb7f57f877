/* cmd_serve.c - `blade serve`: a model behind OpenAI's API, until a signal ends it.
 *
 * SIGTERM and SIGINT refuse what comes, let what runs finish, at most --shutdown-timeout seconds, and end the process
 * with status 0; a second signal ends it at once. */
#include <errno.h>
#include <inttypes.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "api.h"
#include "cmd.h"
#include "log.h"

#define NAME "blade serve"

typedef struct ServeFlags {
    const char *host, *template, *tools, *reasoning, *log_level, *log_format, *cors, *defaults, *pooling;
    int64_t port, max_queued_requests, max_queued_tokens, max_body;
    double max_queue_time, shutdown_timeout, max_decode_stretch;
    OptStrings keys, names;
    bool request_timing;
} ServeFlags;

typedef struct Serve {
    ServeFlags flags;
    RunOptions run;
    Session session;
    ChatTemplate *chat; /* NULL: none */
    char *name;         /* when no --served-model-name was given */
    char fingerprint[24];
    int64_t vocab;
    SamplingParams defaults;
    Metrics *metrics;
    Service *service;
    Api *api;
    Http *http;
} Serve;

/* ---- flags ------------------------------------------------------------------------------------------------------- */

/* The place of a word in a list; -1 and a message when it is not in it. */
static int choose(const char *flag, const char *word, const char *const *words, int count, Err *err)
{
    Buf known = {0};
    for (int i = 0; i < count; i++) {
        if (!strcmp(words[i], word))
            return buf_free(&known), i;
        buf_printf(&known, "%s%s", i ? ", " : "", words[i]);
    }
    err_set(err, "%s: \"%.60s\" is not one of %s", flag, word, known.data);
    buf_free(&known);
    return -1;
}

static bool set_up_log(const ServeFlags *f, Err *err)
{
    static const char *const formats[] = {"text", "json"};
    int level = choose("--log-level", f->log_level, log_level_names, LOG_LEVELS, err);
    int format = level < 0 ? -1 : choose("--log-format", f->log_format, formats, COUNT(formats), err);
    if (format < 0)
        return false;
    log_setup((LogLevel)level, format == 1);
    return true;
}

/* The name of the model's folder; ORG/NAME for an entry of the Hugging Face cache. */
static char *name_of(const char *model)
{
    char *path = realpath(model, NULL), *name = xstrdup(path ? strrchr(path, '/') + 1 : model);
    char *split = strncmp(name, "models--", 8) ? NULL : strstr(name + 8, "--");
    if (split) {
        *split = '/';
        memmove(split + 1, split + 2, strlen(split + 2) + 1);
        memmove(name, name + 8, strlen(name + 8) + 1);
    }
    free(path);
    return name;
}

static void set_up_names(Serve *s, const char *model)
{
    const char *key = getenv("BLADE_API_KEY");
    if (key && *key)
        vec_push(&s->flags.keys, key);
    vec_push(&s->flags.keys, NULL);
    if (!s->flags.names.len)
        vec_push(&s->flags.names, s->name = name_of(model));
    vec_push(&s->flags.names, NULL);
}

/* ---- loading ----------------------------------------------------------------------------------------------------- */

/* Both on the engine's thread: the model is that thread's. */
static bool open_engine(void *context, EngineOptions *options, Engine **engine, Err *err)
{
    Serve *s = context;
    s->run.max_outputs = (s->run.max_num_seqs ? s->run.max_num_seqs : 64) + 32; /* so that prompt_logprobs advance */
    s->run.queue = true;
    options->max_decode_stretch = s->flags.max_decode_stretch;
    if (!session_open_engine(&s->session, s->session.dir, &s->run, options, err))
        return false;
    *engine = s->session.engine;
    s->vocab = engine_vocab(*engine);
    return true;
}

static void close_engine(void *context)
{
    Serve *s = context;
    engine_free(s->session.engine);
    model_free(s->session.model);
    s->session.engine = NULL;
    s->session.model = NULL;
}

/* What results depend on besides the request: the checkpoint, the formats of weights and KV cache, the code's target. */
static void set_fingerprint(Serve *s)
{
    const Model *m = s->session.model;
    uint64_t hash = hash_str(hash_str(model_fingerprint(m), model_plan(m)->weights), model_target(m));
    snprintf(s->fingerprint, sizeof s->fingerprint, "fp_%012" PRIx64, hash >> 16);
}

static bool load_chat(Serve *s, Err *err)
{
    Err none;
    if (s->flags.template)
        return chat_load_file(&s->chat, s->session.dir, s->flags.template, err);
    if (chat_load(&s->chat, s->session.dir, &none))
        return true;
    s->chat = NULL;
    log_event(LOG_WARNING, "no_chat", "why", "s", none.text, NULL);
    return true;
}

/* Reads --tool-call-parser and --reasoning-parser; "auto" looks at the template. */
static bool choose_parsers(const Serve *s, ReplyStyle *tools, bool *reasoning, Err *err)
{
    static const char *const think[] = {"auto", "none", "think"};
    const char *source = s->chat ? chat_source(s->chat) : "";
    const char *styles[REPLY_STYLES + 1] = {"auto"};
    memcpy(styles + 1, reply_style_names, sizeof reply_style_names[0] * REPLY_STYLES);
    int style = choose("--tool-call-parser", s->flags.tools, styles, COUNT(styles), err);
    int split = style < 0 ? -1 : choose("--reasoning-parser", s->flags.reasoning, think, COUNT(think), err);
    if (split < 0)
        return false;
    *tools = style ? (ReplyStyle)(style - 1) : reply_style_of(source);
    *reasoning = split == 2 || (split == 0 && strstr(source, "<think>"));
    return true;
}

/* Whether generation_config.json decides between sampling and the most likely token. */
static bool says_temperature(const char *dir)
{
    Err none;
    Checkpoint *c = ckpt_open_config(dir, &none);
    const json_t *config = c ? ckpt_generation_config(c) : NULL;
    bool says = json_is_number(json_object_get(config, "temperature")) ||
                json_is_boolean(json_object_get(config, "do_sample"));
    ckpt_close(c);
    return says;
}

/* What nobody says is as in OpenAI's API: temperature 1, everything off. */
static bool choose_defaults(Serve *s, Err *err)
{
    static const char *const sources[] = {"auto", "none"};
    int source = choose("--generation-config", s->flags.defaults, sources, COUNT(sources), err);
    s->defaults = source ? sampling_defaults() : s->session.generation.params;
    if (source || !says_temperature(s->session.dir))
        s->defaults.temperature = 1;
    return source >= 0;
}

static bool choose_pooling(const ServeFlags *f, Pooling *pooling, Err *err)
{
    static const char *const names[] = {"last", "mean"};
    int i = choose("--pooling", f->pooling, names, COUNT(names), err);
    *pooling = i ? POOLING_MEAN : POOLING_LAST;
    return i >= 0;
}

static bool start_service(Serve *s, Err *err)
{
    s->metrics = metrics_new(s->flags.names.at[0]);
    s->service = service_new(&(ServiceOptions){
        .open = open_engine,
        .close = close_engine,
        .context = s,
        .tokenizer = s->session.tokenizer,
        .metrics = s->metrics,
        .max_queued_requests = s->flags.max_queued_requests,
        .max_queued_tokens = s->flags.max_queued_tokens,
        .max_queue_time = s->flags.max_queue_time,
    }, err);
    if (s->service)
        set_fingerprint(s);
    return s->service != NULL;
}

static bool start_api(Serve *s, ApiOptions *o, Err *err)
{
    const ServeFlags *f = &s->flags;
    o->model = (ApiModel){
        .names = f->names.at,
        .tokenizer = s->session.tokenizer,
        .defaults = s->defaults,
        .vocab = s->vocab,
        .max_model_len = service_limits(s->service)->max_model_len,
        .has_template = s->chat != NULL,
    };
    o->service = s->service;
    o->chat = s->chat;
    o->timing = f->request_timing;
    o->metrics = s->metrics;
    o->root = s->session.dir;
    o->fingerprint = s->fingerprint;
    s->api = api_new(o);
    s->http = http_start(&(HttpOptions){
        .host = f->host,
        .port = (int)f->port,
        .keys = f->keys.at[0] ? f->keys.at : NULL,
        .routes = api_routes,
        .context = s->api,
        .record = api_record,
        .max_body = (size_t)f->max_body,
        .cors = f->cors,
    }, err);
    return s->http != NULL;
}

static bool start(Serve *s, const char *model, Err *err)
{
    ApiOptions o = {0};
    if (!set_up_log(&s->flags, err) || !device_name_valid(s->run.device, err) ||
        !choose_pooling(&s->flags, &o.pooling, err) ||
        !session_begin(&s->session, model, err) || !choose_defaults(s, err) || !load_chat(s, err) ||
        !choose_parsers(s, &o.tools, &o.reasoning, err))
        return false;
    set_up_names(s, model);
    return start_service(s, err) && start_api(s, &o, err);
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static sem_t signalled;
static volatile sig_atomic_t signals;

static void on_signal(int number)
{
    if (signals++)
        _exit(128 + number);
    sem_post(&signalled);
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sem_init(&signalled, 0, 0);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
}

static void announce(const Serve *s)
{
    const ModelLimits *l = service_limits(s->service);
    char address[256];
    bool v6 = strchr(s->flags.host, ':');
    snprintf(address, sizeof address, "http://%s%s%s:%d", v6 ? "[" : "", s->flags.host, v6 ? "]" : "",
             http_port(s->http));
    log_event(LOG_INFO, "start", "version", "s", BLADE_VERSION, "model", "s", s->flags.names.at[0], "folder", "s",
              s->session.dir, "address", "s", address, "keys", "d", (int)s->flags.keys.len - 1, "device", "s",
              model_device_label(s->session.model), "target", "s", model_target(s->session.model), "threads", "d",
              model_threads(s->session.model), "max_num_seqs", "l", l->seqs, "max_num_batched_tokens", "l", l->tokens,
              "max_model_len", "l", l->max_model_len, "kv_cache_tokens", "l", l->pages * l->page_tokens, NULL);
    printf("blade: serving %s on %s (%" PRId64 " sequences of at most %" PRId64 " tokens, KV cache of %" PRId64
           " tokens, %s)\n", s->flags.names.at[0], address, l->seqs, l->max_model_len, l->pages * l->page_tokens,
           model_target(s->session.model));
    fflush(stdout);
}

/* Waits for a signal; tells of a failure of the engine once. */
static void wait_for_end(const Serve *s)
{
    bool told = false;
    for (;;) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec++;
        if (sem_timedwait(&signalled, &until) == 0)
            return;
        const char *failure = told ? NULL : service_failure(s->service);
        if (failure) {
            log_event(LOG_ERROR, "engine_failed", "why", "s", failure, NULL);
            told = true;
        }
    }
}

/* New requests are refused, those that run finish; what is left after the limit ends with "abort". */
static void drain(const Serve *s)
{
    double begin = now_seconds(), limit = s->flags.shutdown_timeout;
    log_event(LOG_INFO, "shutdown", "limit_seconds", "f", limit, NULL);
    http_refuse(s->http);
    bool whole = service_drain(s->service, limit);
    if (!whole) {
        api_abort_all(s->api);
        service_drain(s->service, 5);
    }
    http_drain(s->http, MAX(limit - (now_seconds() - begin), 2));
    log_event(LOG_INFO, "stopped", "aborted", "s", whole ? "no" : "yes", "seconds", "f", now_seconds() - begin, NULL);
}

static void cleanup(Serve *s)
{
    http_stop(s->http);
    api_free(s->api);
    service_free(s->service);
    metrics_free(s->metrics);
    chat_free(s->chat);
    session_close(&s->session);
    vec_free(&s->flags.keys);
    vec_free(&s->flags.names);
    free(s->name);
}

static bool serve(Serve *s, const char *model, Err *err)
{
    if (!start(s, model, err))
        return false;
    timing_phase("listen", 0);
    timing_print("ready");
    catch_signals();
    announce(s);
    wait_for_end(s);
    drain(s);
    return true;
}

int cmd_serve(int argc, char **argv)
{
    Serve s = {
        .run = RUN_OPTIONS_DEFAULT,
        .flags = {.host = "127.0.0.1", .port = 8000, .tools = "auto", .reasoning = "auto",
                  .log_level = "info", .log_format = "text", .defaults = "auto", .pooling = "mean",
                  .max_queued_requests = 1024, .shutdown_timeout = 30, .max_decode_stretch = 2},
    };
    ServeFlags *f = &s.flags;
    const OptRow rows[] = {
        {"host", 0, OPT_STRING, &f->host, "ADDRESS", "listen there (default 127.0.0.1: this machine only)"},
        {"port", 'p', OPT_INT, &f->port, "N", "(default 8000; 0: any free one)", 0, 65535},
        {"api-key", 0, OPT_STRINGS, &f->keys, "KEY",
         "clients need it; may be repeated. Better in the\nenvironment, BLADE_API_KEY, where ps does not show it"},
        {"served-model-name", 0, OPT_STRINGS, &f->names, "NAME",
         "what clients call the model (default: its folder);\nmay be repeated"},
        RUN_OPTION_ROWS(&s.run),
        {"max-queued-requests", 0, OPT_INT, &f->max_queued_requests, "N",
         "that wait for the engine; more are refused with 429\n(default 1024; 0: no limit)", 0, 1 << 30},
        {"max-queued-tokens", 0, OPT_INT, &f->max_queued_tokens, "N", "the same for their prompt tokens", 0, 0x1p62},
        {"max-queue-time", 0, OPT_REAL, &f->max_queue_time, "SECONDS", "requests that wait longer get 503", 0, 1e9},
        {"max-decode-stretch", 0, OPT_REAL, &f->max_decode_stretch, "X",
         "prompts are computed in pieces that make a step at\nmost about X times as long as one that only decodes\n"
         "(default 2; 0: no limit)", 0, 1e9},
        {"shutdown-timeout", 0, OPT_REAL, &f->shutdown_timeout, "SECONDS",
         "how long running requests may go on after SIGTERM\n(default 30)", 0, 1e9},
        {"chat-template", 0, OPT_STRING, &f->template, "FILE", "a Jinja template in place of the model's"},
        {"tool-call-parser", 0, OPT_STRING, &f->tools, "P",
         "auto (from the chat template), none, hermes, llama3_json"},
        {"reasoning-parser", 0, OPT_STRING, &f->reasoning, "P",
         "auto (from the chat template), none, think:\n<think> ... </think> becomes reasoning_content"},
        {"generation-config", 0, OPT_STRING, &f->defaults, "C",
         "auto: the model's generation_config.json has the\ndefaults of sampling; none: temperature 1, all else off"},
        {"pooling", 0, OPT_STRING, &f->pooling, "P", "of embeddings: mean or last (default mean)"},
        {"log-level", 0, OPT_STRING, &f->log_level, "L", "debug, info, warning or error (default info)"},
        {"log-format", 0, OPT_STRING, &f->log_format, "F", "text or json (default text)"},
        {"cors", 0, OPT_STRING, &f->cors, "ORIGIN", "web pages from there may call the server; * for all"},
        {"max-body", 0, OPT_BYTES, &f->max_body, "SIZE", "of a request (default 32M)", 1, 0x1p31},
        {"request-timing", 0, OPT_FLAG, &f->request_timing, NULL, "answers say how long they waited and took"},
        {NULL},
    };
    const OptCommand command = {
        NAME, "MODEL",
        "Serves a model over HTTP with OpenAI's API: /v1/chat/completions, /v1/completions, /v1/embeddings,\n"
        "/v1/models; besides /tokenize, /detokenize, /health, /metrics, /version, and a live page at /dashboard.", 1, 1,
        rows,
    };
    const char *args[OPT_MAX_ARGS];
    Err err = {0};
    int status = opt_parse(&command, argc, argv, args);
    if (status < 0)
        status = serve(&s, args[0], &err) ? 0 : cmd_fail(NAME, &err);
    cleanup(&s);
    return status;
}
