/* cmd_perplexity.c - `blade perplexity`: how well a model predicts a text.
 *
 * The whole file is tokenized at once and cut into windows of `window` tokens that do not overlap. Each begins with BOS
 * if the tokenizer adds one (then it holds one token less of the text); otherwise its first token is not predicted.
 * Perplexity is exp of the mean negative log-likelihood of all predicted tokens; bits per byte divides the sum by the
 * bytes of the text that they stand for. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd.h"

#define NAME "blade perplexity"
#define MAX_TEXT ((size_t)1 << 30)   /* bytes of the file */
#define MAX_LOGITS ((int64_t)64 << 20) /* bytes of logits a step */

typedef struct Score {
    double nll; /* nats */
    int64_t predicted, total;
    int64_t unpredicted_bytes;
    bool bad;
} Score;

typedef struct Window {
    Score *score;
    TokenIds ids;
} Window;

static void on_row(void *context, int position, const float *logits, float log_sum_exp)
{
    Window *w = context;
    if (position + 1 >= (int)w->ids.len)
        return;
    double nll = (double)log_sum_exp - logits[w->ids.at[position + 1]];
    w->score->bad |= isnan(nll);
    w->score->nll += nll;
    w->score->predicted++;
}

static bool no_token(void *context, const EngineToken *t)
{
    (void)context;
    (void)t;
    return false;
}

static void no_finish(void *context, FinishReason reason)
{
    (void)context;
    (void)reason;
}

/* The id that the tokenizer puts in front of every text; false when it puts none. */
static bool leading_token(const Tokenizer *t, uint32_t *bos)
{
    TokenIds with = {0}, without = {0};
    bool found = tok_encode(t, "a", 1, true, false, &with, NULL) &&
                 tok_encode(t, "a", 1, false, false, &without, NULL) &&
                 with.len > without.len && tok_is_special(t, with.at[0]);
    if (found)
        *bos = with.at[0];
    vec_free(&with);
    vec_free(&without);
    return found;
}

static int64_t text_bytes(const Tokenizer *t, uint32_t id)
{
    Buf text = {0};
    tok_decode(t, &id, 1, true, &text);
    int64_t n = (int64_t)text.len;
    buf_free(&text);
    return n;
}

static bool submit(Session *s, Window *w, Err *err)
{
    SamplingParams params = sampling_defaults();
    params.max_tokens = 0;
    EngineRequest r = {
        .prompt = w->ids.at,
        .prompt_len = (int)w->ids.len,
        .sampling = &params,
        .all_rows = true,
        .sink = {.context = w, .token = no_token, .row = on_row, .finish = no_finish},
    };
    return engine_add(s->engine, &r, err) != NULL;
}

static void show_progress(const Score *score, double *next)
{
    if (now_seconds() < *next || !isatty(STDERR_FILENO))
        return;
    *next = now_seconds() + 0.2;
    fprintf(stderr, "\r\033[K%3.0f %%  perplexity so far %.4f", 100 * (double)score->predicted / (double)score->total,
            exp(score->nll / (double)MAX(score->predicted, 1)));
}

static bool run_windows(Session *s, const TokenIds *ids, int64_t window, Score *score, Err *err)
{
    uint32_t bos = 0;
    size_t extra = leading_token(s->tokenizer, &bos), step = (size_t)window - extra;
    size_t count = (ids->len + step - 1) / step;
    Window *windows = xcalloc(count, sizeof *windows);
    bool ok = true;
    for (size_t i = 0; ok && i < count; i++) {
        Window *w = &windows[i];
        w->score = score;
        if (extra)
            vec_push(&w->ids, bos);
        else
            score->unpredicted_bytes += text_bytes(s->tokenizer, ids->at[i * step]);
        for (size_t j = i * step; j < MIN((i + 1) * step, ids->len); j++)
            vec_push(&w->ids, ids->at[j]);
        score->total += (int64_t)w->ids.len - 1;
        ok = submit(s, w, err);
    }
    double next = now_seconds() + 0.5;
    while (ok && !engine_idle(s->engine)) {
        ok = engine_step(s->engine, err);
        show_progress(score, &next);
    }
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
    engine_free(s->engine); /* its requests point to the windows */
    s->engine = NULL;
    for (size_t i = 0; i < count; i++)
        vec_free(&windows[i].ids);
    free(windows);
    return ok;
}

static bool report(const Score *s, int64_t bytes, size_t tokens, int64_t window, bool json, Err *err)
{
    if (!s->predicted)
        return err_set(err, "the text is too short: there is no token to predict");
    if (s->bad)
        return err_set(err, "the model's output is not a number; are the weights damaged?");
    double mean = s->nll / (double)s->predicted;
    double bits = s->nll / log(2) / (double)MAX(bytes - s->unpredicted_bytes, 1);
    if (json) {
        cmd_print_json(json_pack("{s:f,s:f,s:f,s:I,s:I,s:I,s:I}", "perplexity", exp(mean), "nll_per_token", mean,
                                 "bits_per_byte", bits, "tokens", (json_int_t)tokens, "predicted_tokens",
                                 (json_int_t)s->predicted, "bytes", (json_int_t)bytes, "window", (json_int_t)window));
    } else {
        printf("perplexity %.4f per token (%.6f nats), %.4f bits per byte\n", exp(mean), mean, bits);
        printf("%" PRId64 " of %zu tokens predicted, %" PRId64 " bytes, windows of %" PRId64 " tokens\n", s->predicted,
               tokens, bytes, window);
    }
    return cmd_flush(err);
}

/* Tokens of a step such that their rows of logits stay small: the vocabulary is known before the model is loaded. */
static int64_t rows_a_step(const Tokenizer *t)
{
    int64_t rows = MAX_LOGITS / (4 * (int64_t)MAX(tok_vocab_size(t), 1));
    return MAX(16, MIN(rows, 512));
}

static bool perplexity(Session *s, RunOptions *o, const char **args, int64_t window, bool json, Err *err)
{
    if (!session_begin(s, args[0], err))
        return false;
    Buf text = {0};
    TokenIds ids = {0};
    o->max_outputs = rows_a_step(s->tokenizer);
    o->max_num_batched_tokens = o->max_num_batched_tokens ? o->max_num_batched_tokens : o->max_outputs;
    o->max_num_seqs = o->max_num_seqs ? o->max_num_seqs : 4;
    o->no_prefix_cache = true;
    o->max_outputs = MAX(o->max_outputs, o->max_num_seqs);
    bool ok = file_read(&text, args[1], MAX_TEXT, err) &&
              (text.len || err_set(err, "%s: the file is empty", args[1])) &&
              tok_encode(s->tokenizer, text.data, text.len, false, false, &ids, err) &&
              session_open(s, args[0], o, err);
    if (ok) {
        Score score = {0};
        int64_t limit = model_limits(s->model)->max_model_len;
        window = window ? window : limit;
        if (window > limit)
            ok = err_set(err, "--window: %" PRId64 " tokens are more than the context of %" PRId64, window, limit);
        ok = ok && run_windows(s, &ids, window, &score, err) &&
             report(&score, (int64_t)text.len, ids.len, window, json, err);
    }
    buf_free(&text);
    vec_free(&ids);
    return ok;
}

int cmd_perplexity(int argc, char **argv)
{
    RunOptions run = RUN_OPTIONS_DEFAULT;
    int64_t window = 0;
    bool json = false;
    const OptRow rows[] = {
        {"window", 0, OPT_INT, &window, "N", "tokens of a window (default: the context)", 2, INT32_MAX},
        {"json", 0, OPT_FLAG, &json, NULL, "print a JSON object"},
        RUN_OPTION_ROWS(&run),
        {NULL},
    };
    const OptCommand command = {
        NAME, "MODEL FILE",
        "Measures how well a model predicts a text: tokenizes the whole file, cuts it into windows that do not\n"
        "overlap (each begins with BOS if the tokenizer adds one), and prints perplexity and bits per byte.",
        2, 2, rows,
    };
    const char *args[OPT_MAX_ARGS];
    int status = opt_parse(&command, argc, argv, args);
    if (status >= 0)
        return status;
    Err err = {0};
    Session s = {0};
    bool ok = perplexity(&s, &run, args, window, json, &err);
    session_close(&s);
    return ok ? 0 : cmd_fail(NAME, &err);
}
