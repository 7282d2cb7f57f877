/* session.c - implementation of cmd.h: loading for the commands, progress, output. */
#include "cmd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* ---- sampling ---------------------------------------------------------------------------------------------------- */

static void set_real(double *to, double value)
{
    *to = isnan(value) ? *to : value;
}

static uint64_t random_seed(void)
{
    uint64_t seed;
    if (getrandom(&seed, sizeof seed, 0) == sizeof seed)
        return seed;
    return (uint64_t)(now_seconds() * 1e9);
}

RequestParams sampling_flags_apply(const SamplingFlags *f, const SamplingParams *defaults)
{
    RequestParams r = {.params = *defaults};
    SamplingParams *p = &r.params;
    set_real(&p->temperature, f->temperature);
    set_real(&p->top_p, f->top_p);
    set_real(&p->min_p, f->min_p);
    set_real(&p->repetition_penalty, f->repetition);
    set_real(&p->presence_penalty, f->presence);
    set_real(&p->frequency_penalty, f->frequency);
    p->max_tokens = f->max_tokens;
    p->min_tokens = f->min_tokens;
    p->ignore_eos = f->ignore_eos;
    p->logprobs = (int)f->logprobs;
    p->top_k = f->top_k == INT64_MIN ? p->top_k : f->top_k;
    p->seed = f->seed == INT64_MIN ? random_seed() : (uint64_t)f->seed;
    for (size_t i = 0; i < f->stops.len; i++)
        vec_push(&r.stops, xstrdup(f->stops.at[i]));
    return r;
}

/* ---- progress ---------------------------------------------------------------------------------------------------- */

typedef struct Progress {
    bool terminal;
    bool shown;
    double next; /* time of the next update */
} Progress;

static void show_progress(void *context, const char *what, int64_t done, int64_t total)
{
    Progress *p = context;
    double now = now_seconds();
    if (!p->terminal || now < p->next)
        return;
    p->next = now + 0.1;
    p->shown = true;
    if (total > 0)
        fprintf(stderr, "\r\033[K%s %d %%", what, (int)(100 * (double)done / (double)total));
    else
        fprintf(stderr, "\r\033[K%s", what);
    fflush(stderr);
}

static void end_progress(const Progress *p)
{
    if (p->shown)
        fputs("\r\033[K", stderr);
}

/* ---- session ----------------------------------------------------------------------------------------------------- */

ModelOptions run_options_apply(const RunOptions *o, const char *model)
{
    return (ModelOptions){
        .model = model,
        .weights = o->weights,
        .kv = o->kv,
        .pack = o->pack,
        .cache = o->cache,
        .threads = (int)o->threads,
        .device = o->device,
        .no_graphs = o->no_graphs,
        .max_num_batched_tokens = o->max_num_batched_tokens,
        .max_num_seqs = o->max_num_seqs,
        .max_model_len = o->max_model_len,
        .max_outputs = o->max_outputs,
        .kv_cache_memory = o->kv_cache_memory,
        .queue = o->queue,
        .random_weights = o->random_weights,
    };
}

Model *cmd_load_model(ModelOptions o, Err *err)
{
    /* What is soon over needs no line of its own. */
    Progress progress = {.terminal = isatty(STDERR_FILENO), .next = now_seconds() + 0.3};
    o.progress = show_progress;
    o.context = &progress;
    Model *m = model_load(&o, err);
    end_progress(&progress);
    if (m && model_warning(m))
        fprintf(stderr, "blade: warning: %s\n", model_warning(m));
    return m;
}

static bool begin(Session *s, const char *path, bool tokenizer, Err *err)
{
    Checkpoint *c = ckpt_open_config(path, err);
    if (!c)
        return false;
    s->dir = xstrdup(ckpt_dir(c));
    s->tokenizer = tokenizer ? tok_load(s->dir, err) : NULL;
    bool ok = (s->tokenizer || !tokenizer) && generation_read(c, s->tokenizer, &s->generation, err);
    ckpt_close(c);
    if (tokenizer)
        timing_phase("tokenizer", 0);
    return ok;
}

bool session_begin(Session *s, const char *model_dir, Err *err)
{
    return begin(s, model_dir, true, err);
}

bool session_begin_config(Session *s, const char *config, Err *err)
{
    return begin(s, config, false, err);
}

/* Uses one launch list of the plan only, with as many tokens a step as it is for; *tokens is lowered to that. */
static bool force_bucket(Session *s, int64_t bucket, int64_t *tokens, Err *err)
{
    const Plan *plan = model_plan(s->model);
    if (bucket < 0)
        return true;
    if (bucket >= plan->steps_count)
        return err_set(err, "there is no launch list %lld, the plan has %d", (long long)bucket, plan->steps_count);
    int64_t most = plan->steps[bucket].max_tokens;
    if (most && (!*tokens || *tokens > most))
        *tokens = most;
    model_force_step(s->model, (int)bucket);
    return true;
}

bool session_open_engine(Session *s, const char *model_dir, const RunOptions *o, EngineOptions *e, Err *err)
{
    int64_t tokens = o->max_num_batched_tokens;
    s->model = cmd_load_model(run_options_apply(o, model_dir), err);
    if (!s->model || !force_bucket(s, o->bucket, &tokens, err))
        return false;
    e->max_num_seqs = (int)o->max_num_seqs;
    e->max_num_batched_tokens = (int)tokens;
    e->prefix_cache = !o->no_prefix_cache;
    e->shuffle_pages = (uint64_t)o->shuffle_pages;
    e->eos = s->generation.eos.at;
    e->eos_count = (int)s->generation.eos.len;
    s->engine = engine_new(s->model, e, err);
    timing_phase("engine", 0);
    return s->engine != NULL;
}

bool session_open(Session *s, const char *model_dir, const RunOptions *o, Err *err)
{
    EngineOptions options = {0};
    return session_open_engine(s, model_dir, o, &options, err);
}

void session_close(Session *s)
{
    engine_free(s->engine);
    model_free(s->model);
    generation_free(&s->generation);
    tok_free(s->tokenizer);
    free(s->dir);
    *s = (Session){0};
}

bool session_run(Session *s, Err *err)
{
    while (!engine_idle(s->engine))
        if (!engine_step(s->engine, err))
            return false;
    return true;
}

/* ---- output ------------------------------------------------------------------------------------------------------ */

int cmd_fail(const char *name, const Err *err)
{
    fprintf(stderr, "%s: %s\n", name, err->text);
    return 1;
}

bool cmd_flush(Err *err)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return true;
    return err_set(err, "cannot write the output: %s", strerror(errno));
}

void cmd_put_utf8(Buf *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        char bytes[4];
        i += utf8_decode(text + i, len - i, &cp);
        buf_put(out, bytes, utf8_encode(cp, bytes));
    }
}

json_t *cmd_json_text(const char *text, size_t len)
{
    Buf valid = {0};
    buf_reserve(&valid, len);
    cmd_put_utf8(&valid, text, len);
    json_t *value = json_stringn(valid.data, valid.len);
    buf_free(&valid);
    return value;
}

void cmd_print_json(json_t *value)
{
    json_dumpf(value, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(value);
}
