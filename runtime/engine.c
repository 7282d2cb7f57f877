/* engine.c - implementation of engine.h; see there. engine_step is the whole of it in a few lines. */
#include "engine.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler.h"

struct Request {
    Seq seq;
    Sampler *sampler;
    EngineSink sink;
    int prompt_len;
    int max_new;   /* tokens */
    int rows_done; /* positions given to sink.row */
    atomic_bool cancelled;
    Engine *engine;
    Request *prev, *next; /* all requests of the engine */
};

/* The model's input and output arrays; shapes as in plan.h. */
typedef struct StepArrays {
    int32_t *tokens, *positions, *kv_slot; /* (T) */
    int32_t *block_table;                  /* (B, table_width) */
    int32_t (*decode_tiles)[4], (*prefill_tiles)[4];
    int32_t *output_rows;                  /* (S) */
    float (*sample_params)[8];             /* (S, 8) */
    int32_t *adjust_start, *adjust_token;  /* (S + 1), (extra) */
    float (*adjust_value)[2];              /* (extra, 2) */
    const float *logits;                   /* (S, logits_stride) */
    const int32_t *sampled;                /* (S) */
    const float *sampled_logprob;          /* (S) */
    const float (*logz)[2];                /* (S, 2) max, log-sum-exp */
} StepArrays;

struct Engine {
    Model *model;
    const Plan *plan;
    const ModelLimits *limits;
    StepArrays io;
    Kv *kv;
    Scheduler *sched;
    Request *first;
    atomic_bool cancelled; /* some request is */
    VEC(uint32_t) eos;
    EngineStats stats;
};

const char *finish_name(FinishReason r)
{
    static const char *const names[] = {"stop", "length", "abort", "error"};
    return names[r];
}

const EngineStats *engine_stats(const Engine *e)
{
    return &e->stats;
}

const ModelLimits *engine_limits(const Engine *e)
{
    return e->limits;
}

int64_t engine_vocab(const Engine *e)
{
    return e->plan->vocab;
}

int engine_hidden_size(const Engine *e)
{
    (void)e;
    return 0;
}

bool engine_idle(const Engine *e)
{
    return !e->first;
}

/* ---- begin and end ----------------------------------------------------------------------------------------------- */

static bool find_arrays(Engine *e, Err *err)
{
    void *at[IO_COUNT];
    for (int i = 0; i < IO_COUNT; i++)
        if (!(at[i] = model_io(e->model, (PlanIo)i)))
            return err_set(err, "the plan has no buffer \"%s\": this pack cannot generate text", plan_io_names[i]);
    e->io = (StepArrays){
        at[IO_TOKENS],       at[IO_POSITIONS],     at[IO_KV_SLOT],     at[IO_BLOCK_TABLE],  at[IO_DECODE_TILES],
        at[IO_PREFILL_TILES], at[IO_OUTPUT_ROWS],  at[IO_SAMPLE_PARAMS], at[IO_ADJUST_START], at[IO_ADJUST_TOKEN],
        at[IO_ADJUST_VALUE], at[IO_LOGITS],        at[IO_SAMPLED],     at[IO_SAMPLED_LOGPROB], at[IO_LOGZ],
    };
    return true;
}

static int least(int wanted, int64_t limit)
{
    return (int)(wanted > 0 && wanted < limit ? wanted : MIN(limit, INT32_MAX));
}

Engine *engine_new(Model *model, const EngineOptions *o, Err *err)
{
    Engine *e = xcalloc(1, sizeof *e);
    e->model = model;
    e->plan = model_plan(model);
    e->limits = model_limits(model);
    if (!find_arrays(e, err)) {
        free(e);
        return NULL;
    }
    e->kv = kv_new(&(KvOptions){
        .pages = least(0, e->limits->pages),
        .page_tokens = (int)e->limits->page_tokens,
        .prefix_cache = o->prefix_cache,
        .shuffle = o->shuffle_pages,
    });
    int max_seqs = least(o->max_num_seqs, MIN(e->limits->seqs, e->limits->outputs));
    e->sched = sched_new(&(SchedOptions){
        .max_seqs = max_seqs,
        .max_tokens = least(o->max_num_batched_tokens, e->limits->tokens),
        .max_rows = least(0, e->limits->outputs),
        .max_adjustments = least(0, e->limits->adjustments),
    }, e->kv);
    for (int i = 0; i < o->eos_count; i++)
        vec_push(&e->eos, o->eos[i]);
    return e;
}

static void end_request(Engine *e, Request *r, FinishReason reason)
{
    e->stats.preemptions += r->seq.preemptions;
    e->stats.cached_tokens += r->seq.matched;
    sched_remove(e->sched, &r->seq);
    *(r->prev ? &r->prev->next : &e->first) = r->next;
    if (r->next)
        r->next->prev = r->prev;
    r->sink.finish(r->sink.context, reason);
    sampler_free(r->sampler);
    vec_free(&r->seq.tokens);
    free(r);
}

void engine_free(Engine *e)
{
    if (!e)
        return;
    while (e->first)
        end_request(e, e->first, FINISH_ABORT);
    sched_free(e->sched);
    kv_free(e->kv);
    vec_free(&e->eos);
    free(e);
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static bool check_request(const Engine *e, const EngineRequest *r, Err *err)
{
    int64_t max_len = e->limits->max_model_len, room = r->sampling->max_tokens > 0;
    if (r->prompt_len <= 0)
        return err_set(err, "the prompt is empty: there is no token to start from");
    if (r->prompt_len + room > max_len)
        return err_set(err, "the prompt has %d tokens%s, but the context holds %" PRId64 " tokens%s", r->prompt_len,
                       room ? " and needs room for one more" : "", max_len,
                       max_len < e->plan->context ? " (see --max-model-len and --kv-cache-memory)" : "");
    for (int i = 0; i < r->prompt_len; i++)
        if (r->prompt[i] >= e->plan->vocab)
            return err_set(err, "token %" PRIu32 " of the prompt is beyond the model's vocabulary of %" PRId64
                           ": do tokenizer and model belong together?", r->prompt[i], e->plan->vocab);
    return sampling_check(r->sampling, e->plan->vocab, err);
}

static int max_new_tokens(const Engine *e, const EngineRequest *o)
{
    return (int)MIN(o->sampling->max_tokens, e->limits->max_model_len - o->prompt_len);
}

static int adjustments_of(const Engine *e, const Sampler *s, int tokens)
{
    return (int)MIN(sampler_max_adjustments(s, tokens, e->plan->vocab), INT32_MAX);
}

bool engine_accepts(const Engine *e, const EngineRequest *o, Err *err)
{
    if (!check_request(e, o, err))
        return false;
    Sampler *s = sampler_new(o->sampling, o->prompt, o->prompt_len, e->eos.at, (int)e->eos.len);
    int total = o->prompt_len + max_new_tokens(e, o), adjustments = adjustments_of(e, s, total);
    sampler_free(s);
    return sched_fits(e->sched, total, adjustments) ||
           err_set(err, "a sequence of %d tokens with %d logit adjustments does not fit the KV cache of %" PRId64
                   " tokens and %" PRId64 " adjustments", total, adjustments,
                   e->limits->pages * e->limits->page_tokens, e->limits->adjustments);
}

Request *engine_add(Engine *e, const EngineRequest *o, Err *err)
{
    if (!engine_accepts(e, o, err))
        return NULL;
    Request *r = xcalloc(1, sizeof *r);
    r->sampler = sampler_new(o->sampling, o->prompt, o->prompt_len, e->eos.at, (int)e->eos.len);
    r->sink = o->sink;
    r->engine = e;
    r->prompt_len = o->prompt_len;
    r->max_new = max_new_tokens(e, o);
    r->seq.user = r;
    r->seq.salt = o->salt;
    r->seq.all_rows = o->all_rows;
    r->seq.adjustments = adjustments_of(e, r->sampler, o->prompt_len + r->max_new);
    for (int i = 0; i < o->prompt_len; i++)
        vec_push(&r->seq.tokens, o->prompt[i]);
    r->next = e->first;
    if (e->first)
        e->first->prev = r;
    e->first = r;
    sched_add(e->sched, &r->seq);
    e->stats.prompt_tokens += o->prompt_len;
    return r;
}

void engine_cancel(Request *r)
{
    atomic_store(&r->cancelled, true);
    atomic_store(&r->engine->cancelled, true);
}

static void end_cancelled(Engine *e)
{
    if (!atomic_exchange(&e->cancelled, false))
        return;
    for (Request *r = e->first, *next; r; r = next) {
        next = r->next;
        if (atomic_load(&r->cancelled))
            end_request(e, r, FINISH_ABORT);
    }
}

/* ---- inputs of a step -------------------------------------------------------------------------------------------- */

static void fill_tokens(Engine *e, const Piece *p, int row)
{
    int page_tokens = (int)e->limits->page_tokens;
    for (int i = 0; i < p->count; i++) {
        int position = p->first + i;
        e->io.tokens[row + i] = (int32_t)p->seq->tokens.at[position];
        e->io.positions[row + i] = position;
        e->io.kv_slot[row + i] = p->seq->kv.pages[position / page_tokens] * page_tokens + position % page_tokens;
    }
}

static void fill_tiles(Engine *e, const Piece *p, ModelStep *step)
{
    int32_t row = (int32_t)step->tokens, seq = (int32_t)step->seqs, size = (int32_t)e->plan->prefill_tile;
    if (p->count == 1) {
        memcpy(e->io.decode_tiles[step->decode_tiles++], (int32_t[4]){row, 1, seq, 0}, 16);
        return;
    }
    for (int32_t i = 0; i < p->count; i += size)
        memcpy(e->io.prefill_tiles[step->prefill_tiles++], (int32_t[4]){row + i, MIN(size, p->count - i), seq, 0}, 16);
}

/* The rows of logits of a piece; only the last token of a sequence is sampled, others get greedy defaults. */
static void fill_outputs(Engine *e, const Piece *p, ModelStep *step)
{
    const Request *r = p->seq->user;
    for (int i = p->count - p->rows; i < p->count; i++) {
        int64_t out = step->outputs++;
        e->io.output_rows[out] = (int32_t)(step->tokens + i);
        e->io.adjust_start[out] = (int32_t)step->adjustments;
        memcpy(e->io.sample_params[out], (float[8]){0, 1}, sizeof *e->io.sample_params);
        if (p->first + i + 1 < (int)p->seq->tokens.len)
            continue;
        sampler_row(r->sampler, e->io.sample_params[out]);
        int64_t at = step->adjustments;
        step->adjustments += sampler_adjust(r->sampler, e->io.adjust_token + at, e->io.adjust_value + at);
    }
    e->io.adjust_start[step->outputs] = (int32_t)step->adjustments;
}

static void fill_block_table(Engine *e, const Batch *b, ModelStep *step)
{
    int width = 1;
    for (int i = 0; i < b->count; i++)
        width = MAX(width, b->pieces[i].seq->kv.count);
    for (int i = 0; i < b->count; i++) {
        const KvSeq *kv = &b->pieces[i].seq->kv;
        int32_t *row = e->io.block_table + (size_t)i * (size_t)width;
        memcpy(row, kv->pages, sizeof *row * (size_t)kv->count);
        memset(row + kv->count, 0, sizeof *row * (size_t)(width - kv->count));
    }
    step->table_width = width;
}

static ModelStep fill_inputs(Engine *e, const Batch *b)
{
    ModelStep step = {0};
    for (int i = 0; i < b->count; i++) {
        const Piece *p = &b->pieces[i];
        fill_tokens(e, p, (int)step.tokens);
        fill_tiles(e, p, &step);
        fill_outputs(e, p, &step);
        step.tokens += p->count;
        step.seqs++;
    }
    fill_block_table(e, b, &step);
    return step;
}

static void zero_fresh_pages(Engine *e)
{
    const int32_t *fresh;
    int n = kv_take_fresh(e->kv, &fresh);
    for (int i = 0; i < n; i++)
        model_zero_page(e->model, fresh[i]);
}

/* ---- outputs of a step ------------------------------------------------------------------------------------------- */

static const float *logits_at(const Engine *e, int row)
{
    return e->io.logits + (size_t)row * (size_t)e->plan->logits_stride;
}

/* Hands out the token sampled in this row and ends the request when it was the last. */
static void publish_token(Engine *e, Request *r, int row)
{
    const SamplingParams *p = sampler_params(r->sampler);
    int32_t sampled = e->io.sampled[row];
    if (sampled < 0 || sampled >= e->plan->vocab || isnan(e->io.sampled_logprob[row])) {
        end_request(e, r, FINISH_ERROR);
        return;
    }
    TopLogprob top[SAMPLING_MAX_LOGPROBS];
    EngineToken t = {
        .token = (uint32_t)sampled,
        .index = (int)sampler_count(r->sampler),
        .logprob = e->io.sampled_logprob[row],
        .top = top,
        .logits = logits_at(e, row),
    };
    if (p->logprobs > 0)
        t.top_count = sampling_top(t.logits, e->plan->vocab, e->io.logz[row][1], p->logprobs, top);
    sched_append(&r->seq, t.token);
    sampler_accept(r->sampler, t.token);
    e->stats.generated_tokens++;
    bool go_on = r->sink.token(r->sink.context, &t);
    if (!go_on || sampler_is_stop(r->sampler, t.token))
        end_request(e, r, FINISH_STOP);
    else if (sampler_count(r->sampler) >= r->max_new)
        end_request(e, r, FINISH_LENGTH);
}

static void publish_piece(Engine *e, const Piece *p, int row)
{
    Request *r = p->seq->user;
    int end = p->first + p->count;
    for (int i = end - p->rows; i < end && p->seq->all_rows; i++, row++) {
        if (i < r->rows_done || i >= r->prompt_len)
            continue; /* computed again after a preemption, or not of the prompt */
        r->rows_done = i + 1;
        if (r->sink.row)
            r->sink.row(r->sink.context, i, logits_at(e, row), e->io.logz[row][1]);
    }
    if (end < (int)p->seq->tokens.len)
        return;
    if (r->max_new)
        publish_token(e, r, p->seq->all_rows ? row - 1 : row);
    else
        end_request(e, r, FINISH_LENGTH);
}

static void publish(Engine *e, const Batch *b)
{
    for (int i = 0, row = 0; i < b->count; i++) {
        const Piece *p = &b->pieces[i];
        int rows = p->rows;
        publish_piece(e, p, row); /* may end the request */
        row += rows;
    }
}

bool engine_step(Engine *e, Err *err)
{
    end_cancelled(e);
    const Batch *batch = sched_next(e->sched);
    if (!batch->count)
        return true;
    zero_fresh_pages(e);
    ModelStep step = fill_inputs(e, batch);
    if (!model_run(e->model, &step, err))
        return false;
    e->stats.steps++;
    e->stats.tokens += step.tokens;
    sched_commit(e->sched);
    publish(e, batch);
    return true;
}

bool engine_check(const Engine *e, Err *err)
{
    VEC(const KvSeq *) seqs = {0};
    for (const Request *r = e->first; r; r = r->next)
        vec_push(&seqs, &r->seq.kv);
    bool ok = kv_check(e->kv, seqs.at, (int)seqs.len, err);
    vec_free(&seqs);
    return ok;
}
