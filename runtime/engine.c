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
    int max_new;      /* tokens */
    EngineHidden hidden;
    int rows_done;    /* positions given to sink.row or sink.hidden */
    bool logits;      /* the sink wants them */
    bool started;     /* sink.start was called */
    bool placeholder; /* the last token of seq stands for one that the running step will give */
    atomic_bool cancelled;
    Engine *engine;
    Request *prev, *next; /* all requests of the engine */
};

/* The model's inputs in one set, or its outputs; shapes as in plan.h. */
typedef struct StepInputs {
    int32_t *tokens, *positions, *kv_slot; /* (T) */
    int32_t *block_table;                  /* (B, table_width) */
    int32_t (*decode_tiles)[4], (*prefill_tiles)[4];
    int32_t *output_rows;                  /* (S) */
    int32_t *hidden_rows;                  /* (H) */
    float (*sample_params)[8];             /* (S, 8) */
    int32_t *adjust_start, *adjust_token;  /* (S + 1), (extra) */
    float (*adjust_value)[2];              /* (extra, 2) */
} StepInputs;

typedef struct StepOutputs {
    const float *logits;          /* (S, logits_stride) */
    const int32_t *sampled;       /* (S) */
    const float *sampled_logprob; /* (S) */
    const float (*logz)[2];       /* (S, 2) max, log-sum-exp */
    const float *hidden;          /* (H, hidden_stride); NULL: the plan has none */
} StepOutputs;

/* A piece of the step that runs; request NULL: it has ended meanwhile. */
typedef struct Running {
    Request *request;
    int first, count, rows, hiddens;
    bool samples; /* its last row gives the next token */
} Running;

struct Engine {
    Model *model;
    const Plan *plan;
    const ModelLimits *limits;
    StepInputs in[2];
    StepOutputs out;
    Kv *kv;
    Scheduler *sched;
    bool *unzeroed; /* [pages] handed out, but their memory is as its last owner left it */
    void (*arrivals)(void *context);
    void *arrivals_context;
    Request *first;
    atomic_bool cancelled; /* some request is */
    VEC(uint32_t) eos;
    /* the step that runs */
    Running *running; /* [running_count] */
    int running_count, running_tokens, running_prompt;
    double started;
    int set; /* of inputs, for the next step */
    /* what steps cost, to cut prompts so that decoding goes on */
    double max_stretch;
    double decode_seconds; /* of a step that only decodes; 0: not known yet */
    double prompt_seconds; /* a prompt token adds to a step; 0: not known yet */
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
    return e->out.hidden ? (int)e->plan->hidden : 0;
}

bool engine_idle(const Engine *e)
{
    return !e->first;
}

/* ---- begin and end ----------------------------------------------------------------------------------------------- */

static bool find_arrays(Engine *e, Err *err)
{
    for (int i = 0; i < IO_COUNT; i++)
        if (i != IO_HIDDEN && !model_io(e->model, (PlanIo)i))
            return err_set(err, "the plan has no buffer \"%s\": this pack cannot generate text", plan_io_names[i]);
    for (int set = 0; set < 2; set++) {
        void *at[IO_COUNT];
        for (int i = 0; i < IO_FIRST_OUTPUT; i++)
            at[i] = model_input(e->model, set, (PlanIo)i);
        e->in[set] = (StepInputs){
            at[IO_TOKENS],        at[IO_POSITIONS],   at[IO_KV_SLOT],     at[IO_BLOCK_TABLE],   at[IO_DECODE_TILES],
            at[IO_PREFILL_TILES], at[IO_OUTPUT_ROWS], at[IO_HIDDEN_ROWS], at[IO_SAMPLE_PARAMS], at[IO_ADJUST_START],
            at[IO_ADJUST_TOKEN],  at[IO_ADJUST_VALUE],
        };
    }
    Model *m = e->model;
    e->out = (StepOutputs){model_io(m, IO_LOGITS), model_io(m, IO_SAMPLED), model_io(m, IO_SAMPLED_LOGPROB),
                           model_io(m, IO_LOGZ), model_io(m, IO_HIDDEN)};
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
    e->running = xcalloc((size_t)max_seqs, sizeof *e->running);
    e->unzeroed = xcalloc((size_t)kv_total(e->kv), sizeof *e->unzeroed);
    e->arrivals = o->arrivals;
    e->arrivals_context = o->context;
    e->max_stretch = o->max_decode_stretch;
    e->stats.pages = kv_total(e->kv);
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
    for (int i = 0; i < e->running_count; i++)
        if (e->running[i].request == r)
            e->running[i].request = NULL;
    r->sink.finish(r->sink.context, reason);
    sampler_free(r->sampler);
    vec_free(&r->seq.tokens);
    free(r);
}

void engine_free(Engine *e)
{
    if (!e)
        return;
    model_wait(e->model, NULL);
    while (e->first)
        end_request(e, e->first, FINISH_ABORT);
    free(e->running);
    free(e->unzeroed);
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
    if (r->hidden && !e->out.hidden)
        return err_set(err, "this pack gives no hidden states; build it again with this version");
    if (r->hidden && (room || r->all_rows))
        return err_set(err, "hidden states are given for prompts only: max_tokens 0, no logits");
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
    r->hidden = o->hidden;
    r->logits = o->logits;
    r->seq.priority = o->priority;
    r->seq.all_rows = o->all_rows;
    r->seq.no_rows = o->hidden != HIDDEN_NONE;
    r->seq.no_match = o->all_rows || o->hidden == HIDDEN_ALL;
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

static void fill_tokens(const Engine *e, const StepInputs *in, const Piece *p, int row)
{
    int page_tokens = (int)e->limits->page_tokens;
    for (int i = 0; i < p->count; i++) {
        int position = p->first + i;
        in->tokens[row + i] = (int32_t)p->seq->tokens.at[position];
        in->positions[row + i] = position;
        in->kv_slot[row + i] = p->seq->kv.pages[position / page_tokens] * page_tokens + position % page_tokens;
    }
}

static void fill_tiles(const Engine *e, const StepInputs *in, const Piece *p, ModelStep *step)
{
    int32_t row = (int32_t)step->tokens, seq = (int32_t)step->seqs, size = (int32_t)e->plan->prefill_tile;
    if (p->count == 1) {
        memcpy(in->decode_tiles[step->decode_tiles++], (int32_t[4]){row, 1, seq, 0}, 16);
        return;
    }
    for (int32_t i = 0; i < p->count; i += size)
        memcpy(in->prefill_tiles[step->prefill_tiles++], (int32_t[4]){row + i, MIN(size, p->count - i), seq, 0}, 16);
}

/* The rows of logits of a piece; only the last token of a sequence is sampled, others get greedy defaults. */
static void fill_outputs(const StepInputs *in, const Piece *p, ModelStep *step)
{
    const Request *r = p->seq->user;
    for (int i = p->count - p->rows; i < p->count; i++) {
        int64_t out = step->outputs++;
        in->output_rows[out] = (int32_t)(step->tokens + i);
        in->adjust_start[out] = (int32_t)step->adjustments;
        memcpy(in->sample_params[out], (float[8]){0, 1}, sizeof *in->sample_params);
        if (p->first + i + 1 < (int)p->seq->tokens.len)
            continue;
        sampler_row(r->sampler, in->sample_params[out]);
        int64_t at = step->adjustments;
        step->adjustments += sampler_adjust(r->sampler, in->adjust_token + at, in->adjust_value + at);
    }
    in->adjust_start[step->outputs] = (int32_t)step->adjustments;
}

static int hiddens_of(const Piece *p)
{
    const Request *r = p->seq->user;
    bool end = p->first + p->count == (int)p->seq->tokens.len;
    return r->hidden == HIDDEN_ALL ? p->count : r->hidden == HIDDEN_LAST && end;
}

static void fill_hiddens(const StepInputs *in, const Piece *p, ModelStep *step)
{
    for (int i = p->count - hiddens_of(p); i < p->count; i++)
        in->hidden_rows[step->hiddens++] = (int32_t)(step->tokens + i);
}

static void fill_block_table(const StepInputs *in, const Batch *b, ModelStep *step)
{
    int width = 1;
    for (int i = 0; i < b->count; i++)
        width = MAX(width, b->pieces[i].seq->kv.count);
    for (int i = 0; i < b->count; i++) {
        const KvSeq *kv = &b->pieces[i].seq->kv;
        int32_t *row = in->block_table + (size_t)i * (size_t)width;
        memcpy(row, kv->pages, sizeof *row * (size_t)kv->count);
        memset(row + kv->count, 0, sizeof *row * (size_t)(width - kv->count));
    }
    step->table_width = width;
}

/* Whether the host looks at rows of logits, and not only at the token that is sampled from them. */
static bool reads_logits(const Request *r)
{
    return r->logits || r->seq.all_rows || sampler_params(r->sampler)->logprobs > 0;
}

static ModelStep fill_inputs(const Engine *e, const StepInputs *in, const Batch *b)
{
    ModelStep step = {.logits_unread = true};
    for (int i = 0; i < b->count; i++) {
        const Piece *p = &b->pieces[i];
        step.logits_unread &= !reads_logits(p->seq->user);
        fill_tokens(e, in, p, (int)step.tokens);
        fill_tiles(e, in, p, &step);
        fill_outputs(in, p, &step);
        fill_hiddens(in, p, &step);
        step.tokens += p->count;
        step.seqs++;
    }
    fill_block_table(in, b, &step);
    return step;
}

/* A prompt gets its pages at once; each is zeroed when the first piece reaches it, as zeroing all of a long prompt would
 * hold the others up. */
static void zero_fresh_pages(Engine *e, const Batch *b)
{
    const int32_t *fresh;
    int n = kv_take_fresh(e->kv, &fresh), size = (int)e->limits->page_tokens;
    for (int i = 0; i < n; i++)
        e->unzeroed[fresh[i]] = true;
    for (const Piece *p = b->pieces; p < b->pieces + b->count; p++)
        for (int at = p->first / size; at <= (p->first + p->count - 1) / size; at++) {
            int32_t page = p->seq->kv.pages[at];
            if (e->unzeroed[page])
                model_zero_page(e->model, page);
            e->unzeroed[page] = false;
        }
}

/* ---- outputs of a step ------------------------------------------------------------------------------------------- */

static const float *logits_at(const Engine *e, int row)
{
    return e->out.logits + (size_t)row * (size_t)e->plan->logits_stride;
}

/* Gives the token to the sequence; where another step was planned meanwhile, in place of the placeholder. */
static void put_token(Request *r, uint32_t token)
{
    if (r->placeholder)
        r->seq.tokens.at[r->seq.tokens.len - 1] = token;
    else
        vec_push(&r->seq.tokens, token);
    r->placeholder = false;
    sampler_accept(r->sampler, token);
}

/* Hands out the token sampled in this row and ends the request when it was the last. */
static void publish_token(Engine *e, Request *r, int row)
{
    const SamplingParams *p = sampler_params(r->sampler);
    int32_t sampled = e->out.sampled[row];
    if (sampled < 0 || sampled >= e->plan->vocab || isnan(e->out.sampled_logprob[row])) {
        end_request(e, r, FINISH_ERROR);
        return;
    }
    TopLogprob top[SAMPLING_MAX_LOGPROBS];
    EngineToken t = {
        .token = (uint32_t)sampled,
        .index = (int)sampler_count(r->sampler),
        .logprob = e->out.sampled_logprob[row],
        .top = top,
        .logits = r->logits ? logits_at(e, row) : NULL,
    };
    if (p->logprobs > 0)
        t.top_count = sampling_top(logits_at(e, row), e->plan->vocab, e->out.logz[row][1], p->logprobs, top);
    put_token(r, t.token);
    e->stats.generated_tokens++;
    bool go_on = r->sink.token(r->sink.context, &t);
    if (!go_on || sampler_is_stop(r->sampler, t.token))
        end_request(e, r, FINISH_STOP);
    else if (sampler_count(r->sampler) >= r->max_new)
        end_request(e, r, FINISH_LENGTH);
}

/* The last `n` positions of a piece have a row of logits, or a hidden state. Those computed again after a preemption, and
 * those that are not of the prompt, are not handed out. */
static void publish_rows(Engine *e, const Running *p, int n, int row)
{
    Request *r = p->request;
    int end = p->first + p->count;
    for (int i = end - n; i < end; i++, row++) {
        if (i < r->rows_done || i >= r->prompt_len)
            continue;
        r->rows_done = i + 1;
        if (r->hidden && r->sink.hidden)
            r->sink.hidden(r->sink.context, i, e->out.hidden + (size_t)row * (size_t)e->plan->hidden_stride);
        else if (!r->hidden && r->sink.row)
            r->sink.row(r->sink.context, i, logits_at(e, row), e->out.logz[row][1]);
    }
}

static void publish_piece(Engine *e, const Running *p, int row, int hidden_row)
{
    Request *r = p->request;
    if (r->hidden)
        publish_rows(e, p, p->hiddens, hidden_row);
    else if (r->seq.all_rows)
        publish_rows(e, p, p->rows, row);
    if (p->samples)
        publish_token(e, r, row + p->rows - 1);
    else if (!r->max_new && p->first + p->count == r->prompt_len)
        end_request(e, r, FINISH_LENGTH);
}

static void publish(Engine *e)
{
    for (int i = 0, row = 0, hidden_row = 0; i < e->running_count; i++) {
        Running p = e->running[i]; /* a copy: the request may end */
        if (p.request)
            publish_piece(e, &p, row, hidden_row);
        row += p.rows;
        hidden_row += p.hiddens;
    }
}

/* ---- what steps cost --------------------------------------------------------------------------------------------- */

/* A running mean. One step that other programs delayed must not be taken for the usual: a value counts as at most one and
 * a half times the mean. */
static void learn(double *mean, double value)
{
    *mean = *mean > 0 ? *mean + 0.2 * (MIN(value, 1.5 * *mean) - *mean) : value;
}

static void learn_costs(Engine *e, double seconds)
{
    if (!e->running_prompt)
        learn(&e->decode_seconds, seconds);
    else if (e->running_prompt == e->running_tokens)
        learn(&e->prompt_seconds, seconds / e->running_prompt);
    else
        learn(&e->prompt_seconds, MAX(seconds - e->decode_seconds, 0.05 * seconds) / e->running_prompt);
}

/* Tokens of prompts that a step may hold beside decoding sequences. */
static int prompt_budget(const Engine *e)
{
    if (!(e->max_stretch > 0) || !(e->prompt_seconds > 0) || !(e->decode_seconds > 0))
        return INT32_MAX;
    double tokens = (e->max_stretch - 1) * e->decode_seconds / e->prompt_seconds;
    return (int)MAX(MIN(tokens, INT32_MAX), e->plan->prefill_tile);
}

/* ---- a step ------------------------------------------------------------------------------------------------------ */

/* Waits for the step that runs and hands out what it gave. */
static bool collect(Engine *e, Err *err)
{
    if (!e->running_count)
        return true;
    if (!model_wait(e->model, err))
        return false;
    double seconds = now_seconds() - e->started;
    learn_costs(e, seconds);
    e->stats.steps++;
    e->stats.tokens += e->running_tokens;
    e->stats.step_tokens = e->running_tokens;
    e->stats.step_seconds = seconds;
    publish(e);
    e->running_count = 0;
    return true;
}

/* Notes a piece of the step that begins; its sequence gets a placeholder where one more token will be computed. */
static Running note_piece(Engine *e, const Piece *p)
{
    Request *r = p->seq->user;
    bool end = p->first + p->count == (int)p->seq->tokens.len;
    if (!r->started && r->sink.start)
        r->sink.start(r->sink.context, p->seq->matched);
    r->started = true;
    e->running_prompt += p->count > 1 || p->first < r->prompt_len ? p->count : 0;
    return (Running){r, p->first, p->count, p->rows, hiddens_of(p), end && r->max_new};
}

static bool start(Engine *e, const Batch *b, Err *err)
{
    if (!b->count)
        return true;
    zero_fresh_pages(e, b);
    ModelStep step = fill_inputs(e, &e->in[e->set], b);
    e->started = now_seconds();
    e->running_prompt = 0;
    for (int i = 0; i < b->count; i++)
        e->running[i] = note_piece(e, &b->pieces[i]);
    e->running_count = b->count;
    e->running_tokens = (int)step.tokens;
    if (!model_start(e->model, e->set, &step, err))
        return false;
    e->set = !e->set;
    sched_commit(e->sched);
    for (int i = 0; i < e->running_count; i++) {
        Request *r = e->running[i].request;
        if (e->running[i].samples && sampler_count(r->sampler) + 1 < r->max_new) {
            sched_append(&r->seq, 0);
            r->placeholder = true;
        }
    }
    return true;
}

static void count_sequences(Engine *e)
{
    e->stats.running = sched_running(e->sched);
    e->stats.waiting = sched_waiting(e->sched);
    e->stats.pages_used = e->stats.pages - kv_available(e->kv);
}

bool engine_step(Engine *e, Err *err)
{
    end_cancelled(e);
    sched_next(e->sched, prompt_budget(e)); /* while the device runs the step before */
    if (!collect(e, err))
        return false;
    if (e->arrivals)
        e->arrivals(e->arrivals_context);
    end_cancelled(e);
    bool ok = start(e, sched_next(e->sched, prompt_budget(e)), err);
    count_sequences(e);
    return ok;
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
