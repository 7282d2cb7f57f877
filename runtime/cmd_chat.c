/* cmd_chat.c - `blade chat`: a conversation in the terminal, or with lines from a pipe.
 *
 * The whole conversation is rendered by the chat template for every turn; what was computed before comes from the
 * prefix cache. Ctrl-C ends an answer, not the program. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chat_template.h"
#include "cmd.h"
#include "text.h"

#define NAME "blade chat"

typedef struct Chat {
    Session session;
    ChatTemplate *template;
    RequestParams request;
    const char *system; /* NULL: none */
    json_t *messages;
    bool terminal; /* standard input is one */
    /* the answer */
    TextStream *stream;
    Buf answer;
    FinishReason reason;
} Chat;

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

/* Ctrl-C ends the wait for a line, and with it the conversation; at any other time it only sets the flag. */
static ssize_t read_line(char **line, size_t *cap)
{
    struct sigaction action = {.sa_handler = on_interrupt};
    interrupted = 0;
    sigaction(SIGINT, &action, NULL);
    ssize_t n = getline(line, cap, stdin);
    action.sa_flags = SA_RESTART;
    sigaction(SIGINT, &action, NULL);
    while (n > 0 && ((*line)[n - 1] == '\n' || (*line)[n - 1] == '\r'))
        (*line)[--n] = 0;
    return n;
}

/* ---- conversation ------------------------------------------------------------------------------------------------ */

static void add_message(Chat *c, const char *role, const char *text, size_t len)
{
    json_array_append_new(c->messages, json_pack("{s:s,s:o}", "role", role, "content", cmd_json_text(text, len)));
}

static void reset(Chat *c)
{
    json_decref(c->messages);
    c->messages = json_array();
    if (c->system)
        add_message(c, "system", c->system, strlen(c->system));
}

static bool render(const Chat *c, TokenIds *ids, Err *err)
{
    Buf prompt = {0};
    json_t *request = json_pack("{s:O,s:b}", "messages", c->messages, "add_generation_prompt", 1);
    bool ok = chat_render(c->template, request, &prompt, err) &&
              tok_encode(c->session.tokenizer, prompt.data, prompt.len, false, true, ids, err);
    json_decref(request);
    buf_free(&prompt);
    return ok;
}

/* ---- an answer --------------------------------------------------------------------------------------------------- */

static void print_from(const Chat *c, size_t start)
{
    fwrite(c->answer.data + start, 1, c->answer.len - start, stdout);
    fflush(stdout);
}

static bool on_token(void *context, const EngineToken *t)
{
    Chat *c = context;
    size_t before = c->answer.len;
    bool go_on = text_push(c->stream, t->token, &c->answer);
    print_from(c, before);
    return go_on;
}

static void on_finish(void *context, FinishReason reason)
{
    Chat *c = context;
    if (!c->stream)
        return; /* the engine ends it after a failed step */
    size_t before = c->answer.len;
    text_finish(c->stream, &c->answer);
    print_from(c, before);
    c->reason = reason;
}

static bool generate(Chat *c, const TokenIds *ids, Err *err)
{
    EngineRequest r = {
        .prompt = ids->at,
        .prompt_len = (int)MIN(ids->len, INT32_MAX),
        .sampling = &c->request.params,
        .sink = {.context = c, .token = on_token, .finish = on_finish},
    };
    Request *request = engine_add(c->session.engine, &r, err);
    if (!request)
        return false;
    bool ok = true;
    while (ok && !engine_idle(c->session.engine)) {
        if (interrupted)
            engine_cancel(request);
        ok = engine_step(c->session.engine, err);
    }
    if (ok && c->reason == FINISH_ERROR)
        return err_set(err, "the model's output is not a number; are the weights damaged?");
    return ok;
}

/* One turn; a turn that fails leaves the conversation as it was. */
static bool answer(Chat *c, const char *line, size_t len, Err *err)
{
    TokenIds ids = {0};
    c->answer.len = 0;
    buf_reserve(&c->answer, 1);
    add_message(c, "user", line, len);
    bool ok = render(c, &ids, err);
    if (ok) {
        c->stream = text_new(c->session.tokenizer, ids.at, ids.len, &(TextOptions){
            .stops = (const char *const *)c->request.stops.at,
            .stops_count = c->request.stops.len,
            .min_tokens = c->request.params.min_tokens,
        });
        ok = generate(c, &ids, err);
        text_free(c->stream);
        c->stream = NULL;
    }
    vec_free(&ids);
    if (!ok) {
        json_array_remove(c->messages, json_array_size(c->messages) - 1);
        return false;
    }
    add_message(c, "assistant", c->answer.data, c->answer.len);
    puts(c->reason == FINISH_ABORT ? " [interrupted]" : "");
    return cmd_flush(err);
}

/* Reads lines until the end of input or /exit. Mistakes are reported and the conversation goes on; the result says
 * whether there were any. */
static bool converse(Chat *c)
{
    char *line = NULL;
    size_t cap = 0;
    bool ok = true;
    for (;;) {
        if (c->terminal) {
            fputs("> ", stdout);
            fflush(stdout);
        }
        ssize_t n = read_line(&line, &cap);
        if (n < 0)
            break;
        if (!strcmp(line, "/exit") || !strcmp(line, "/quit"))
            break;
        Err err = {0};
        if (!strcmp(line, "/reset")) {
            reset(c);
        } else if (n && !answer(c, line, (size_t)n, &err)) {
            ok = false;
            cmd_fail(NAME, &err);
            if (json_array_size(c->messages) > 1 && c->terminal)
                fputs("(/reset begins a new conversation)\n", stderr);
        }
    }
    if (c->terminal)
        putchar('\n');
    free(line);
    return ok;
}

static bool chat(Chat *c, const char *model_dir, RunOptions *o, const SamplingFlags *f, Err *err)
{
    if (!session_begin(&c->session, model_dir, err) || !chat_load(&c->template, c->session.dir, err))
        return false;
    c->request = sampling_flags_apply(f, &c->session.generation.params);
    o->max_num_seqs = 1;
    if (!session_open(&c->session, model_dir, o, err))
        return false;
    timing_print("ready");
    c->terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    if (c->terminal)
        puts("/reset begins a new conversation, /exit or Ctrl-D ends; Ctrl-C ends an answer.");
    reset(c);
    bool ok = converse(c);
    return (ok || c->terminal) && cmd_flush(err);
}

int cmd_chat(int argc, char **argv)
{
    RunOptions run = RUN_OPTIONS_DEFAULT;
    SamplingFlags flags = SAMPLING_FLAGS_DEFAULT;
    flags.max_tokens = INT32_MAX;
    Chat c = {0};
    const OptRow rows[] = {
        {"system", 0, OPT_STRING, &c.system, "TEXT", "a system message at the beginning"},
        {"max-tokens", 'n', OPT_INT, &flags.max_tokens, "N", "tokens of an answer at most (default: the context)", 1,
         INT32_MAX},
        SAMPLING_OPTION_ROWS(&flags),
        RUN_OPTION_ROWS(&run),
        {NULL},
    };
    const OptCommand command = {
        NAME, "MODEL",
        "A conversation with a model that has a chat template; every line is a message. /reset begins anew, /exit or\n"
        "the end of input ends it. Works with a pipe, too.", 1, 1, rows,
    };
    const char *args[OPT_MAX_ARGS];
    int status = opt_parse(&command, argc, argv, args);
    if (status < 0) {
        Err err = {0};
        status = chat(&c, args[0], &run, &flags, &err) ? 0 : 1;
        if (*err.text)
            cmd_fail(NAME, &err);
        session_close(&c.session);
        chat_free(c.template);
        request_params_free(&c.request);
        json_decref(c.messages);
        buf_free(&c.answer);
    }
    vec_free(&flags.stops);
    return status;
}
