/* cmd_logits.c - `blade logits`: raw logits as JSON, for tests. Takes token ids, not text, and no tokenizer.
 *
 * One object a sequence: {"index": 0, "token_ids": [generated], "positions": [...], "shape": [rows, vocab],
 * "logits_b64": base64 of little-endian float32}: a row for the last token of the prompt, with --all for every token
 * of it, and one for every generated token but the last. With --all nothing comes from the prefix cache. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"

#define NAME "blade logits"

typedef struct Sequence {
    TokenIds ids, tokens;
    VEC(int) positions;
    Buf rows;
    int64_t vocab;
    bool all;
} Sequence;

static void add_row(Sequence *s, int position, const float *logits)
{
    vec_push(&s->positions, position);
    buf_put(&s->rows, logits, sizeof *logits * (size_t)s->vocab);
}

static void on_row(void *context, int position, const float *logits, float log_sum_exp)
{
    (void)log_sum_exp;
    Sequence *s = context;
    if (s->all || position + 1 == (int)s->ids.len)
        add_row(s, position, logits);
}

static bool on_token(void *context, const EngineToken *t)
{
    Sequence *s = context;
    vec_push(&s->tokens, t->token);
    if (t->index || !s->all)
        add_row(s, (int)s->ids.len + t->index - 1, t->logits);
    return true;
}

static void on_finish(void *context, FinishReason reason)
{
    (void)context;
    (void)reason;
}

static void put_base64(Buf *out, const uint8_t *p, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        size_t left = MIN(n - i, (size_t)3);
        uint32_t v = (uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (left > 2 ? p[i + 2] : 0);
        for (size_t j = 0; j < 4; j++)
            buf_putc(out, j <= left ? digits[v >> (18 - 6 * j) & 63] : '=');
    }
}

static void print_sequence(const Sequence *s, int index)
{
    json_t *tokens = json_array(), *positions = json_array();
    for (size_t i = 0; i < s->tokens.len; i++)
        json_array_append_new(tokens, json_integer(s->tokens.at[i]));
    for (size_t i = 0; i < s->positions.len; i++)
        json_array_append_new(positions, json_integer(s->positions.at[i]));
    Buf base64 = {0};
    buf_reserve(&base64, s->rows.len * 4 / 3 + 4);
    put_base64(&base64, (const uint8_t *)s->rows.data, s->rows.len);
    cmd_print_json(json_pack("{s:i,s:o,s:o,s:[I,I],s:s#}", "index", index, "token_ids", tokens, "positions", positions,
                             "shape", (json_int_t)s->positions.len, (json_int_t)s->vocab, "logits_b64",
                             base64.len ? base64.data : "", (int)base64.len));
    buf_free(&base64);
}

static bool parse_ids(const char *text, TokenIds *out, Err *err)
{
    for (const char *s = text;; s++) {
        char *end;
        unsigned long id = strtoul(s, &end, 10);
        if (*s < '0' || *s > '9' || id > INT32_MAX || (*end && *end != ','))
            return err_set(err, "--ids: \"%.60s\" is not a list of token ids such as 1,2,3", text);
        vec_push(out, (uint32_t)id);
        s = end;
        if (!*s)
            return true;
    }
}

static bool open_engine(Session *s, const char *dir, RunOptions *o, size_t count, Err *err)
{
    o->max_num_seqs = o->max_num_seqs ? o->max_num_seqs : (int64_t)MIN(count, 64);
    o->max_outputs = MAX(o->max_num_seqs, o->max_num_batched_tokens ? o->max_num_batched_tokens : 512);
    return session_open(s, dir, o, err);
}

static void print_stats(const EngineStats *s)
{
    cmd_print_json(json_pack("{s:I,s:I,s:I,s:I}", "steps", (json_int_t)s->steps, "tokens", (json_int_t)s->tokens,
                             "preemptions", (json_int_t)s->preemptions, "cached_tokens",
                             (json_int_t)s->cached_tokens));
}

static bool run(Session *s, Sequence *sequences, size_t count, int64_t n, bool stats, Err *err)
{
    SamplingParams params = sampling_defaults();
    params.max_tokens = n;
    params.ignore_eos = true;
    for (size_t i = 0; i < count; i++) {
        Sequence *q = &sequences[i];
        q->vocab = model_plan(s->model)->vocab;
        EngineRequest r = {
            .prompt = q->ids.at,
            .prompt_len = (int)q->ids.len,
            .sampling = &params,
            .all_rows = q->all || !n,
            .logits = true,
            .sink = {.context = q, .token = on_token, .row = on_row, .finish = on_finish},
        };
        if (!engine_add(s->engine, &r, err))
            return false;
    }
    if (!session_run(s, err) || !engine_check(s->engine, err))
        return false;
    for (size_t i = 0; i < count; i++)
        print_sequence(&sequences[i], (int)i);
    if (stats)
        print_stats(engine_stats(s->engine));
    return cmd_flush(err);
}

int cmd_logits(int argc, char **argv)
{
    RunOptions o = RUN_OPTIONS_DEFAULT;
    OptStrings ids = {0};
    int64_t n = 0;
    bool all = false, stats = false;
    const OptRow rows[] = {
        {"ids", 0, OPT_STRINGS, &ids, "ID,ID", "token ids of a sequence; may be repeated"},
        {"all", 0, OPT_FLAG, &all, NULL, "rows of all prompt tokens, not of the last one only"},
        {"stats", 0, OPT_FLAG, &stats, NULL, "one more object at the end: steps, tokens, preemptions, cached_tokens"},
        {"max-tokens", 'n', OPT_INT, &n, "N", "generate N tokens, greedily", 0, INT32_MAX},
        RUN_OPTION_ROWS(&o),
        {NULL},
    };
    const OptCommand command = {NAME, "MODEL --ids ID,ID", "Prints raw logits as JSON, for tests.", 1, 1, rows};
    const char *args[OPT_MAX_ARGS];
    int status = opt_parse(&command, argc, argv, args);
    if (status >= 0)
        return status;
    Err err = {0};
    Session s = {0};
    Sequence *sequences = xcalloc(ids.len, sizeof *sequences);
    bool ok = ids.len || err_set(&err, "give token ids with --ids 1,2,3");
    for (size_t i = 0; ok && i < ids.len; i++) {
        sequences[i].all = all;
        ok = parse_ids(ids.at[i], &sequences[i].ids, &err);
    }
    ok = ok && open_engine(&s, args[0], &o, ids.len, &err) && run(&s, sequences, ids.len, n, stats, &err);
    session_close(&s);
    for (size_t i = 0; i < ids.len; i++) {
        vec_free(&sequences[i].ids);
        vec_free(&sequences[i].tokens);
        vec_free(&sequences[i].positions);
        buf_free(&sequences[i].rows);
    }
    free(sequences);
    vec_free(&ids);
    return ok ? 0 : cmd_fail(NAME, &err);
}
