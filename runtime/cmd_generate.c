/* cmd_generate.c - `blade generate`: continues one or many prompts, all in one batch, and prints them in order.
 *
 * In text mode the first unfinished prompt is printed as its tokens arrive; later ones are kept until their turn.
 * Without a tokenizer (--config) the bytes of a text are its tokens, and ids are printed for tokens. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chat_template.h"
#include "cmd.h"
#include "text.h"

#define NAME "blade generate"
#define MAX_PROMPTS_FILE ((size_t)1 << 30) /* bytes */

typedef struct Generate Generate;

typedef struct Prompt {
    Generate *owner;
    int index;
    char *where;           /* for messages: "prompt 1", "FILE line 3" */
    Buf text;
    bool rendered;         /* by the chat template, which writes special tokens itself */
    TokenIds ids;
    RequestParams request;
    /* the continuation */
    TextStream *stream;
    Buf out;
    TokenIds tokens;
    json_t *logprobs;
    bool stopped, finished; /* by a stop string; altogether */
    FinishReason reason;
} Prompt;

struct Generate {
    RunOptions run;
    Session session;
    ChatTemplate *chat;
    RequestParams defaults;
    VEC(Prompt *) prompts;
    size_t current;        /* prompt being printed in text mode, or to be printed next as JSON */
    bool begun;            /* its own text has been printed */
    size_t shown;          /* bytes of its continuation that were */
    size_t finished;       /* prompts */
    bool json, terminal;
};

/* ---- prompts ----------------------------------------------------------------------------------------------------- */

static Prompt *add_prompt(Generate *g)
{
    Prompt *p = xcalloc(1, sizeof *p);
    p->owner = g;
    p->index = (int)g->prompts.len;
    p->request = request_params_copy(&g->defaults);
    buf_reserve(&p->text, 1);
    vec_push(&g->prompts, p);
    return p;
}

static void free_prompt(Prompt *p)
{
    free(p->where);
    buf_free(&p->text);
    vec_free(&p->ids);
    request_params_free(&p->request);
    text_free(p->stream);
    buf_free(&p->out);
    vec_free(&p->tokens);
    json_decref(p->logprobs);
    free(p);
}

/* A token as text; its number when there is no tokenizer. */
static void put_token(const Tokenizer *t, uint32_t id, Buf *out)
{
    if (t)
        tok_decode(t, &id, 1, false, out);
    else
        buf_printf(out, " %u", id);
}

static bool tokenize(const Generate *g, Prompt *p, Err *err)
{
    if (p->ids.len)
        return true;
    for (size_t i = 0; !g->session.tokenizer && i < p->text.len; i++)
        vec_push(&p->ids, (uint8_t)p->text.data[i]);
    if (!g->session.tokenizer)
        return true;
    return tok_encode(g->session.tokenizer, p->text.data, p->text.len, !p->rendered, p->rendered, &p->ids, err);
}

/* "prompt" as a list of token ids. */
static bool read_ids(const Generate *g, Prompt *p, const json_t *list, Err *err)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
            return err_set(err, "\"prompt\": a string or a list of token ids was expected");
        vec_push(&p->ids, (uint32_t)json_integer_value(id));
    }
    if (g->session.tokenizer)
        tok_decode(g->session.tokenizer, p->ids.at, p->ids.len, false, &p->text);
    for (size_t i = 0; !g->session.tokenizer && i < p->ids.len; i++)
        put_token(NULL, p->ids.at[i], &p->text);
    return p->ids.len || err_set(err, "\"prompt\" is an empty list");
}

static bool render_chat(Generate *g, Prompt *p, const json_t *line, Err *err)
{
    if (!g->chat && !chat_load(&g->chat, g->session.dir, err))
        return false;
    json_t *request = json_pack("{s:O,s:b}", "messages", json_object_get(line, "messages"), "add_generation_prompt", 1);
    p->rendered = true;
    bool ok = chat_render(g->chat, request, &p->text, err);
    json_decref(request);
    return ok;
}

static bool read_line(Generate *g, const char *text, size_t len, Prompt *p, Err *err)
{
    json_t *line = json_parse(text, len, p->where, err);
    if (!line)
        return false;
    const json_t *prompt = json_object_get(line, "prompt");
    bool ok = request_params_read(line, g->session.tokenizer, &p->request, err);
    if (ok && json_is_array(json_object_get(line, "messages")))
        ok = render_chat(g, p, line, err);
    else if (ok && json_is_string(prompt))
        buf_put(&p->text, json_string_value(prompt), json_string_length(prompt));
    else if (ok && json_is_array(prompt))
        ok = read_ids(g, p, prompt, err);
    else if (ok)
        ok = err_set(err, "a line needs \"prompt\" (a string or token ids) or \"messages\" (a list)");
    json_decref(line);
    return (ok && tokenize(g, p, err)) || err_prefix(err, "%s", p->where);
}

static bool read_file(Generate *g, const char *path, Err *err)
{
    Buf file = {0};
    if (!file_read(&file, path, MAX_PROMPTS_FILE, err))
        return false;
    bool ok = true;
    int number = 0;
    for (size_t at = 0, n; ok && at < file.len; at += n + 1) {
        const char *line = file.data + at, *end = memchr(line, '\n', file.len - at);
        n = end ? (size_t)(end - line) : file.len - at;
        number++;
        if (strspn(line, " \t\r\n") >= n)
            continue;
        Prompt *p = add_prompt(g);
        char where[512];
        snprintf(where, sizeof where, "%s line %d", path, number);
        p->where = xstrdup(where);
        ok = read_line(g, line, n, p, err);
    }
    buf_free(&file);
    return ok;
}

static bool add_text(Generate *g, const char *text, Err *err)
{
    Prompt *p = add_prompt(g);
    char where[32];
    snprintf(where, sizeof where, "prompt %d", p->index + 1);
    p->where = xstrdup(where);
    buf_puts(&p->text, text);
    return tokenize(g, p, err) || err_prefix(err, "%s", where);
}

/* ---- output ------------------------------------------------------------------------------------------------------ */

static json_t *token_json(const Tokenizer *t, uint32_t id, float logprob)
{
    Buf text = {0};
    buf_reserve(&text, 1);
    put_token(t, id, &text);
    json_t *o = json_pack("{s:i,s:o,s:f}", "token_id", (int)id, "token", cmd_json_text(text.data, text.len), "logprob",
                          (double)logprob);
    buf_free(&text);
    return o;
}

static void note_logprobs(Prompt *p, const EngineToken *t)
{
    const Tokenizer *tokenizer = p->owner->session.tokenizer;
    json_t *entry = token_json(tokenizer, t->token, t->logprob), *top = json_array();
    for (int i = 0; i < t->top_count; i++)
        json_array_append_new(top, token_json(tokenizer, t->top[i].token, t->top[i].logprob));
    json_object_set_new(entry, "top_logprobs", top);
    json_array_append_new(p->logprobs, entry);
}

static void print_result(const Prompt *p)
{
    json_t *ids = json_array();
    for (size_t i = 0; i < p->tokens.len; i++)
        json_array_append_new(ids, json_integer(p->tokens.at[i]));
    json_t *o = json_pack("{s:i,s:o,s:o,s:o,s:s,s:I,s:I}", "index", p->index, "prompt",
                          cmd_json_text(p->text.data, p->text.len), "text", cmd_json_text(p->out.data, p->out.len),
                          "token_ids", ids, "finish_reason", finish_name(p->reason), "prompt_tokens",
                          (json_int_t)p->ids.len, "completion_tokens", (json_int_t)p->tokens.len);
    if (p->logprobs)
        json_object_set(o, "logprobs", p->logprobs);
    cmd_print_json(o);
}

static void print_text(Generate *g, const Prompt *p)
{
    if (!g->begun) {
        Buf prompt = {0};
        buf_puts(&prompt, p->index ? "\n" : "");
        cmd_put_utf8(&prompt, p->text.data, p->text.len);
        fwrite(prompt.data, 1, prompt.len, stdout);
        buf_free(&prompt);
        g->begun = true;
    }
    fwrite(p->out.data + g->shown, 1, p->out.len - g->shown, stdout);
    g->shown = p->out.len;
    if (p->finished)
        putchar('\n');
}

/* Prints what is ready, in the order of the prompts. */
static void print_ready(Generate *g)
{
    for (; g->current < g->prompts.len; g->current++) {
        const Prompt *p = g->prompts.at[g->current];
        if (!g->json)
            print_text(g, p);
        else if (p->finished)
            print_result(p);
        if (!p->finished)
            break;
        g->begun = false;
        g->shown = 0;
    }
    if (g->terminal)
        fflush(stdout);
}

static bool on_token(void *context, const EngineToken *t)
{
    Prompt *p = context;
    vec_push(&p->tokens, t->token);
    if (p->logprobs)
        note_logprobs(p, t);
    if (p->stream)
        p->stopped = !text_push(p->stream, t->token, &p->out);
    else
        put_token(NULL, t->token, &p->out);
    return !p->stopped;
}

static void on_finish(void *context, FinishReason reason)
{
    Prompt *p = context;
    bool whole = !p->stream || text_finish(p->stream, &p->out);
    p->reason = whole || reason == FINISH_ERROR ? reason : FINISH_STOP;
    p->finished = true;
    p->owner->finished++;
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static bool submit(Generate *g, Err *err)
{
    for (size_t i = 0; i < g->prompts.len; i++) {
        Prompt *p = g->prompts.at[i];
        if (p->request.params.logprobs >= 0)
            p->logprobs = json_array();
        buf_reserve(&p->out, 1);
        if (p->request.stops.len && !g->session.tokenizer)
            return err_set(err, "%s: stop strings need a tokenizer", p->where);
        if (g->session.tokenizer)
            p->stream = text_new(g->session.tokenizer, p->ids.at, p->ids.len, &(TextOptions){
                .stops = (const char *const *)p->request.stops.at,
                .stops_count = p->request.stops.len,
                .min_tokens = p->request.params.min_tokens,
            });
        EngineRequest r = {
            .prompt = p->ids.at,
            .prompt_len = (int)MIN(p->ids.len, INT32_MAX),
            .sampling = &p->request.params,
            .sink = {.context = p, .token = on_token, .finish = on_finish},
        };
        if (!engine_add(g->session.engine, &r, err))
            return err_prefix(err, "%s", p->where);
    }
    return true;
}

/* Counts prompts on a terminal when the output goes elsewhere; `next` is the time of the next update. */
static void show_progress(const Generate *g, double *next)
{
    if (g->terminal || now_seconds() < *next || !isatty(STDERR_FILENO))
        return;
    *next = now_seconds() + 0.2;
    fprintf(stderr, "\r\033[K%zu of %zu prompts, %lld tokens", g->finished, g->prompts.len,
            (long long)engine_stats(g->session.engine)->generated_tokens);
}

static bool run(Generate *g, Err *err)
{
    g->terminal = isatty(STDOUT_FILENO);
    double start = now_seconds() + 0.5, next = start;
    bool first = false; /* token of all */
    while (!engine_idle(g->session.engine)) {
        print_ready(g);
        show_progress(g, &next);
        if (!engine_step(g->session.engine, err))
            return false;
        if (!first && engine_stats(g->session.engine)->generated_tokens) {
            timing_phase("first token", 0);
            timing_print("since the start");
            first = true;
        }
    }
    if (next > start)
        fputs("\r\033[K", stderr);
    print_ready(g);
    for (size_t i = 0; i < g->prompts.len; i++)
        if (g->prompts.at[i]->reason == FINISH_ERROR)
            return err_set(err, "%s: the model's output is not a number; are the weights damaged?",
                           g->prompts.at[i]->where);
    return cmd_flush(err);
}

/* What the command line says besides sampling. */
typedef struct Flags {
    SamplingFlags sampling;
    OptStrings prompts;
    const char *file, *config;
} Flags;

static bool generate(Generate *g, const Flags *f, const char *model_dir, Err *err)
{
    g->run.random_weights = f->config != NULL;
    model_dir = f->config ? f->config : model_dir;
    if (!(f->config ? session_begin_config : session_begin)(&g->session, model_dir, err))
        return false;
    g->defaults = sampling_flags_apply(&f->sampling, &g->session.generation.params);
    for (size_t i = 0; i < f->prompts.len; i++)
        if (!add_text(g, f->prompts.at[i], err))
            return false;
    if (f->file && !read_file(g, f->file, err))
        return false;
    if (!g->prompts.len)
        return err_set(err, "%s: there is no prompt in it", f->file);
    if (!g->run.max_num_seqs)
        g->run.max_num_seqs = MIN((int64_t)g->prompts.len, 64);
    if (!session_open(&g->session, model_dir, &g->run, err))
        return false;
    timing_print("ready");
    return submit(g, err) && run(g, err);
}

static void cleanup(Generate *g, Flags *f)
{
    engine_free(g->session.engine); /* ends requests: their prompts must still be there */
    g->session.engine = NULL;
    for (size_t i = 0; i < g->prompts.len; i++)
        free_prompt(g->prompts.at[i]);
    vec_free(&g->prompts);
    session_close(&g->session);
    request_params_free(&g->defaults);
    chat_free(g->chat);
    vec_free(&f->prompts);
    vec_free(&f->sampling.stops);
}

int cmd_generate(int argc, char **argv)
{
    Generate g = {.run = RUN_OPTIONS_DEFAULT};
    Flags f = {.sampling = SAMPLING_FLAGS_DEFAULT};
    f.sampling.max_tokens = 128;
    const OptRow rows[] = {
        {"prompt", 'p', OPT_STRINGS, &f.prompts, "TEXT", "a prompt; may be repeated"},
        {"prompts", 0, OPT_STRING, &f.file, "FILE",
         "prompts, one JSON object a line: {\"prompt\": TEXT or IDS}\n"
         "or {\"messages\": [...]}, and optionally its own\n"
         "max_tokens, temperature, top_p, stop, seed, ..."},
        {"config", 0, OPT_STRING, &f.config, "FILE",
         "config.json of a model, whose weights are then random:\ntokens are numbers, those of a text its bytes"},
        {"max-tokens", 'n', OPT_INT, &f.sampling.max_tokens, "N", "new tokens at most (default 128)", 1, INT32_MAX},
        SAMPLING_OPTION_ROWS(&f.sampling),
        {"min-tokens", 0, OPT_INT, &f.sampling.min_tokens, "N", "new tokens at least", 0, INT32_MAX},
        {"ignore-eos", 0, OPT_FLAG, &f.sampling.ignore_eos, NULL, "go on after an end-of-sequence token"},
        {"logprobs", 0, OPT_INT, &f.sampling.logprobs, "N",
         "with --json: log-probabilities, and of the N best tokens", 0, 20},
        {"json", 0, OPT_FLAG, &g.json, NULL, "print one JSON object a prompt"},
        RUN_OPTION_ROWS(&g.run),
        {NULL},
    };
    const OptCommand command = {
        NAME, "MODEL | --config FILE -p PROMPT",
        "Continues prompts. All prompts run in one batch; what a prompt gives does not depend on the others.",
        0, 1, rows,
    };
    const char *args[OPT_MAX_ARGS];
    int status = opt_parse(&command, argc, argv, args);
    Err err = {0};
    if (status < 0 && !args[0] == !f.config) {
        fprintf(stderr, NAME ": give either a MODEL or --config FILE (--help says more)\n");
        status = 2;
    }
    if (status < 0 && !f.prompts.len && !f.file) {
        fprintf(stderr, NAME ": there is no prompt: give one with -p TEXT, or a file of them with --prompts\n");
        status = 2;
    }
    if (status < 0)
        status = generate(&g, &f, args[0], &err) ? 0 : cmd_fail(NAME, &err);
    cleanup(&g, &f);
    return status;
}
