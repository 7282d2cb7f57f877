/* The engine on a model made for the test: its KV pages hold token ids, and the logits of a row are a function of
 * all ids that its tile finds through the block table. It runs on the real thread pool, so the same test under TSan
 * covers pool and batching. Every request must get what it would get alone, whatever shared its steps. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "pool.h"
#include "test.h"

#define VOCAB 24
#define STRIDE 32
#define POISON (-7)

/* ---- the model --------------------------------------------------------------------------------------------------- */

struct Model {
    Plan plan;
    ModelLimits limits;
    Pool *pool;
    void *io[IO_COUNT];
    int32_t *slots;  /* [pages, page_tokens] token ids */
    uint64_t *state; /* [tokens] hash of the ids up to each row's */
    const ModelStep *step;
    _Atomic int poisoned; /* pages seen that nobody had zeroed */
};

const char *const plan_io_names[IO_COUNT] = {"tokens"};

const Plan *model_plan(const Model *m)
{
    return &m->plan;
}

const ModelLimits *model_limits(const Model *m)
{
    return &m->limits;
}

void *model_io(Model *m, PlanIo io)
{
    return m->io[io];
}

void model_zero_page(Model *m, int64_t page)
{
    memset(m->slots + page * m->limits.page_tokens, 0, sizeof *m->slots * (size_t)m->limits.page_tokens);
}

static uint64_t hash_token(uint64_t h, int32_t token)
{
    return hash_bytes(h, &token, sizeof token);
}

static float logit(uint64_t state, int token)
{
    return (float)(hash_bytes(state, &token, sizeof token) % 4096) / 512 - 4;
}

static void write_kv(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    Model *m = context;
    const int32_t *tokens = m->io[IO_TOKENS], *slot = m->io[IO_KV_SLOT];
    for (int64_t i = begin; i < end; i++)
        m->slots[slot[i]] = tokens[i];
}

static void attend_tile(Model *m, const int32_t tile[4])
{
    int64_t size = m->limits.page_tokens;
    const int32_t *positions = m->io[IO_POSITIONS], *table = m->io[IO_BLOCK_TABLE];
    table += tile[2] * m->step->table_width;
    for (int32_t row = tile[0]; row < tile[0] + tile[1]; row++) {
        uint64_t h = HASH_SEED;
        for (int i = 0; i <= positions[row]; i++)
            h = hash_token(h, m->slots[table[i / size] * size + i % size]);
        for (int64_t i = 0; i < size; i++) /* a kernel may read the whole last page */
            m->poisoned += m->slots[table[positions[row] / size] * size + i] == POISON;
        m->state[row] = h;
    }
}

static void attend(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    Model *m = context;
    const int32_t(*decode)[4] = m->io[IO_DECODE_TILES], (*prefill)[4] = m->io[IO_PREFILL_TILES];
    for (int64_t i = begin; i < end; i++) {
        int64_t j = i - m->step->decode_tiles;
        attend_tile(m, j < 0 ? decode[i] : prefill[j]);
    }
}

/* Adjusted logits; greedy, or token u * VOCAB for any temperature (the rules of real sampling are the kernel's). */
static int32_t choose(float logits[VOCAB], const float params[8])
{
    if (params[0] > 0)
        return (int32_t)(params[3] * VOCAB);
    int best = 0;
    for (int t = 1; t < VOCAB; t++)
        best = logits[t] > logits[best] ? t : best;
    return best;
}

static void make_logits(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    Model *m = context;
    const int32_t *rows = m->io[IO_OUTPUT_ROWS], *start = m->io[IO_ADJUST_START], *token = m->io[IO_ADJUST_TOKEN];
    const float(*value)[2] = m->io[IO_ADJUST_VALUE], (*params)[8] = m->io[IO_SAMPLE_PARAMS];
    float(*logits)[STRIDE] = m->io[IO_LOGITS], (*logz)[2] = m->io[IO_LOGZ], *logprob = m->io[IO_SAMPLED_LOGPROB];
    int32_t *sampled = m->io[IO_SAMPLED];
    for (int64_t i = begin; i < end; i++) {
        float adjusted[VOCAB];
        for (int t = 0; t < VOCAB; t++)
            adjusted[t] = logits[i][t] = logit(m->state[rows[i]], t);
        for (int32_t j = start[i]; j < start[i + 1]; j++) {
            float *x = &adjusted[token[j]];
            *x = (*x > 0 ? *x / value[j][0] : *x * value[j][0]) + value[j][1];
        }
        sampled[i] = choose(adjusted, params[i]);
        logz[i][1] = 10;
        logprob[i] = logits[i][sampled[i]] - 10;
    }
}

bool model_run(Model *m, const ModelStep *step, Err *err)
{
    const ModelLimits *l = &m->limits;
    if (step->tokens > l->tokens || step->seqs > l->seqs || step->outputs > l->outputs ||
        step->decode_tiles > l->decode_tiles || step->prefill_tiles > l->prefill_tiles ||
        step->adjustments > l->adjustments || step->table_width > l->table_width)
        return err_set(err, "a size of the step is above its limit");
    m->step = step;
    pool_run(m->pool, write_kv, m, step->tokens);
    pool_run(m->pool, attend, m, step->decode_tiles + step->prefill_tiles);
    pool_run(m->pool, make_logits, m, step->outputs);
    assert_int_equal(m->poisoned, 0);
    return true;
}

/* `pages` of the KV cache; 0: room for every sequence. */
static void setup(Model *m, int tokens, int seqs, int pages)
{
    *m = (Model){.plan = {.vocab = VOCAB, .context = 100, .prefill_tile = 4, .logits_stride = STRIDE}};
    ModelLimits *l = &m->limits;
    *l = (ModelLimits){.tokens = tokens, .seqs = seqs, .outputs = seqs + 3, .decode_tiles = tokens, .adjustments = 300,
                       .max_model_len = 100, .page_tokens = 8, .table_width = 13, .pages = pages ? pages : 13 * seqs};
    l->prefill_tiles = MIN(tokens, tokens / 4 + seqs);
    Err err = {0};
    if (!(m->pool = pool_new(3, &err)))
        fail_msg("%s", err.text);
    m->slots = xmalloc(sizeof *m->slots * (size_t)(l->pages * 8));
    for (int64_t i = 0; i < l->pages * 8; i++)
        m->slots[i] = POISON;
    m->state = xcalloc((size_t)tokens, sizeof *m->state);
    size_t t = (size_t)tokens, s = (size_t)seqs, o = (size_t)l->outputs;
    size_t bytes[IO_COUNT] = {t * 4, t * 4, t * 4, s * 13 * 4, t * 16, (size_t)l->prefill_tiles * 16, o * 4, o * 32,
                              (o + 1) * 4, 300 * 4, 300 * 8, o * STRIDE * 4, o * 4, o * 4, o * 8};
    for (int i = 0; i < IO_COUNT; i++)
        m->io[i] = xcalloc(1, bytes[i]);
}

static void teardown(Model *m)
{
    for (int i = 0; i < IO_COUNT; i++)
        free(m->io[i]);
    free(m->slots);
    free(m->state);
    pool_free(m->pool);
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

typedef struct Client {
    SamplingParams params;
    uint32_t prompt[100], out[100];
    int prompt_len, out_len, rows, stop_at; /* stop_at: the sink stops after so many tokens; 0: never */
    bool all_rows, finished;
    FinishReason reason;
    Request *request;
} Client;

static bool on_token(void *context, const EngineToken *t)
{
    Client *c = context;
    assert_int_equal(t->index, c->out_len);
    assert_true(t->logprob == t->logits[t->token] - 10);
    assert_int_equal(t->top_count, MAX(c->params.logprobs, 0));
    for (int i = 1; i < t->top_count; i++)
        assert_true(t->top[i - 1].logprob >= t->top[i].logprob);
    c->out[c->out_len++] = t->token;
    return c->out_len != c->stop_at;
}

static void on_row(void *context, int position, const float *logits, float log_sum_exp)
{
    Client *c = context;
    assert_int_equal(position, c->rows++);
    uint64_t h = HASH_SEED;
    for (int i = 0; i <= position; i++)
        h = hash_token(h, (int32_t)c->prompt[i]);
    for (int t = 0; t < VOCAB; t++)
        assert_true(logits[t] == logit(h, t));
    assert_true(log_sum_exp == 10);
}

static void on_finish(void *context, FinishReason reason)
{
    Client *c = context;
    assert_false(c->finished);
    c->finished = true;
    c->reason = reason;
}

static const uint32_t eos[] = {5};

/* What the client must get, computed directly. */
static void check_result(const Client *c)
{
    assert_true(c->finished);
    Sampler *s = sampler_new(&c->params, c->prompt, c->prompt_len, eos, 1);
    uint64_t h = HASH_SEED;
    for (int i = 0; i < c->prompt_len; i++)
        h = hash_token(h, (int32_t)c->prompt[i]);
    FinishReason reason = FINISH_LENGTH;
    int n = 0, room = 100 - c->prompt_len;
    int most = c->reason == FINISH_ABORT ? c->out_len : (int)MIN(c->params.max_tokens, room);
    while (n < most && reason == FINISH_LENGTH) {
        float logits[VOCAB], row[8], values[VOCAB][2];
        int32_t ids[VOCAB];
        for (int t = 0; t < VOCAB; t++)
            logits[t] = logit(h, t);
        for (int i = sampler_adjust(s, ids, values) - 1; i >= 0; i--) {
            float *x = &logits[ids[i]];
            *x = (*x > 0 ? *x / values[i][0] : *x * values[i][0]) + values[i][1];
        }
        sampler_row(s, row);
        uint32_t token = (uint32_t)choose(logits, row);
        assert_true(n < c->out_len);
        assert_int_equal(c->out[n], token);
        n++;
        sampler_accept(s, token);
        h = hash_token(h, (int32_t)token);
        if (sampler_is_stop(s, token) || n == c->stop_at)
            reason = FINISH_STOP;
    }
    assert_int_equal(c->out_len, n);
    if (c->reason != FINISH_ABORT) {
        assert_int_equal(c->reason, reason);
        assert_int_equal(c->rows, c->all_rows ? c->prompt_len : 0);
    }
    sampler_free(s);
}

static void random_client(Client *c)
{
    *c = (Client){.params = sampling_defaults()};
    c->prompt_len = 1 + rand() % 60;
    for (int i = 0; i < c->prompt_len; i++)
        c->prompt[i] = rand() % 20 == 0;
    c->params.max_tokens = rand() % 60;
    c->params.min_tokens = rand() % 3 ? 0 : c->params.max_tokens / 2;
    c->params.temperature = rand() % 3 == 0;
    c->params.seed = (uint64_t)rand();
    c->params.repetition_penalty = rand() % 3 ? 1 : 1.5;
    c->params.presence_penalty = rand() % 3 ? 0 : 1;
    c->params.ignore_eos = rand() % 2;
    c->params.logprobs = rand() % 5 - 1;
    c->all_rows = rand() % 4 == 0;
    c->stop_at = rand() % 4 ? 0 : 1 + rand() % 30;
}

static Request *add(Engine *e, Client *c, Err *err)
{
    EngineRequest r = {
        .prompt = c->prompt,
        .prompt_len = c->prompt_len,
        .sampling = &c->params,
        .all_rows = c->all_rows,
        .sink = {.context = c, .token = on_token, .row = on_row, .finish = on_finish},
    };
    return engine_add(e, &r, err);
}

static void step(Engine *e)
{
    Err err = {0};
    if (!engine_step(e, &err) || !engine_check(e, &err))
        fail_msg("%s", err.text);
}

#define CLIENTS 40

static void everyone_gets_his_own(void **state)
{
    (void)state;
    srand(5);
    int64_t preemptions = 0, cached = 0;
    for (int round = 0; round < 40; round++) {
        Model m;
        setup(&m, 1 + rand() % 50, 1 + rand() % 12, 13 + rand() % 20);
        EngineOptions o = {.prefix_cache = round % 2, .shuffle_pages = (uint64_t)(round % 3)};
        o.eos = eos;
        o.eos_count = 1;
        Err err = {0};
        Engine *e = engine_new(&m, &o, &err);
        Client *clients = xcalloc(CLIENTS, sizeof *clients);
        for (int i = 0; i < CLIENTS; i++) {
            random_client(&clients[i]);
            if (!(clients[i].request = add(e, &clients[i], &err)))
                fail_msg("%s", err.text);
            if (rand() % 2)
                step(e);
            if (rand() % 16 == 0 && !clients[i].finished)
                engine_cancel(clients[i].request);
        }
        while (!engine_idle(e))
            step(e);
        for (int i = 0; i < CLIENTS; i++)
            check_result(&clients[i]);
        preemptions += engine_stats(e)->preemptions;
        cached += engine_stats(e)->cached_tokens;
        engine_free(e);
        free(clients);
        teardown(&m);
    }
    assert_true(preemptions > 50 && cached > 1000); /* the run reached what it is for */
}

static void cancel_frees_within_a_step(void **state)
{
    (void)state;
    Model m;
    setup(&m, 8, 4, 0);
    Err err = {0};
    Engine *e = engine_new(&m, &(EngineOptions){0}, &err);
    Client a = {.params = sampling_defaults(), .prompt_len = 50};
    Request *r = add(e, &a, &err);
    step(e);
    engine_cancel(r);
    step(e);
    assert_true(a.finished && a.reason == FINISH_ABORT && engine_idle(e));
    add(e, &a, &err); /* unfinished requests end with the engine */
    a.finished = false;
    engine_free(e);
    assert_true(a.finished);
    teardown(&m);
}

static void refusals(void **state)
{
    (void)state;
    Model m;
    setup(&m, 8, 4, 0);
    Err err = {0};
    Engine *e = engine_new(&m, &(EngineOptions){0}, &err);
    Client c = {.params = sampling_defaults()};
    assert_null(add(e, &c, &err));
    assert_non_null(strstr(err.text, "the prompt is empty"));
    c.prompt_len = 100;
    assert_null(add(e, &c, &err));
    assert_string_equal(err.text, "the prompt has 100 tokens and needs room for one more, "
                                  "but the context holds 100 tokens");
    c.prompt_len = 3;
    c.prompt[2] = VOCAB;
    assert_null(add(e, &c, &err));
    assert_non_null(strstr(err.text, "token 24 of the prompt is beyond the model's vocabulary of 24"));
    c.prompt[2] = 0;
    c.params.top_p = 2;
    assert_null(add(e, &c, &err));
    assert_string_equal(err.text, "top_p is 2, from 0 to 1 is allowed");
    assert_true(engine_idle(e));
    engine_free(e);
    void *logits = m.io[IO_TOKENS];
    m.io[IO_TOKENS] = NULL;
    assert_null(engine_new(&m, &(EngineOptions){0}, &err));
    assert_non_null(strstr(err.text, "no buffer \"tokens\""));
    m.io[IO_TOKENS] = logits;
    teardown(&m);
}

static void numbers_that_are_none(void **state)
{
    (void)state;
    Model m;
    setup(&m, 8, 4, 0);
    m.plan.vocab = 1; /* most sampled tokens lie beyond it */
    Err err = {0};
    Engine *e = engine_new(&m, &(EngineOptions){0}, &err);
    Client c = {.params = sampling_defaults(), .prompt_len = 2};
    add(e, &c, &err);
    while (!engine_idle(e))
        step(e);
    assert_int_equal(c.reason, FINISH_ERROR);
    engine_free(e);
    teardown(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everyone_gets_his_own),
        cmocka_unit_test(cancel_frees_within_a_step),
        cmocka_unit_test(refusals),
        cmocka_unit_test(numbers_that_are_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
