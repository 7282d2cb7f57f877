/* The engine on a model made for the test (paged_model.h); on the real thread pool, so the same test under TSan covers
 * pool and batching. Every request must get what it would get alone, whatever shared its steps. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "paged_model.h"
#include "test.h"

/* ---- requests ---------------------------------------------------------------------------------------------------- */

typedef struct Client {
    SamplingParams params;
    uint32_t prompt[100], out[100];
    int starts, prompt_len, out_len, rows, stop_at; /* stop_at: the sink stops after so many tokens; 0: never */
    bool all_rows, finished;
    EngineHidden hidden;
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
        h = paged_hash(h, (int32_t)c->prompt[i]);
    for (int t = 0; t < PAGED_VOCAB; t++)
        assert_true(logits[t] == paged_logit(h, t));
    assert_true(log_sum_exp == 10);
}

static void on_hidden(void *context, int position, const float *state)
{
    Client *c = context;
    assert_int_equal(position, c->hidden == HIDDEN_LAST ? c->prompt_len - 1 : c->rows);
    c->rows++;
    uint64_t h = HASH_SEED;
    for (int i = 0; i <= position; i++)
        h = paged_hash(h, (int32_t)c->prompt[i]);
    float want[PAGED_HIDDEN];
    paged_hidden(h, want);
    assert_memory_equal(state, want, sizeof want);
}

static void on_start(void *context, int cached_tokens)
{
    Client *c = context;
    assert_true(cached_tokens >= 0 && cached_tokens < c->prompt_len);
    assert_int_equal(c->starts++, 0);
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
    uint32_t want[PAGED_CONTEXT];
    bool stopped;
    int n = paged_alone(&c->params, c->prompt, c->prompt_len, eos, 1, want, &stopped);
    assert_true(c->finished);
    if (c->stop_at && c->stop_at <= n) {
        n = c->stop_at;
        stopped = true;
    }
    if (c->reason == FINISH_ABORT) {
        assert_true(c->out_len <= n);
    } else {
        assert_int_equal(c->out_len, n);
        assert_int_equal(c->reason, stopped ? FINISH_STOP : FINISH_LENGTH);
        assert_int_equal(c->rows, c->all_rows || c->hidden == HIDDEN_ALL ? c->prompt_len : c->hidden == HIDDEN_LAST);
        assert_int_equal(c->starts, 1);
    }
    assert_memory_equal(c->out, want, sizeof *want * (size_t)c->out_len);
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
    c->hidden = rand() % 4 ? HIDDEN_NONE : 1 + (EngineHidden)(rand() % 2);
    c->all_rows = !c->hidden && rand() % 4 == 0;
    if (c->hidden)
        c->params.max_tokens = c->params.min_tokens = 0;
    c->stop_at = rand() % 4 ? 0 : 1 + rand() % 30;
}

static Request *add(Engine *e, Client *c, Err *err)
{
    EngineRequest r = {
        .prompt = c->prompt,
        .prompt_len = c->prompt_len,
        .sampling = &c->params,
        .all_rows = c->all_rows,
        .logits = true,
        .hidden = c->hidden,
        .priority = rand() % 3,
        .sink = {.context = c, .start = on_start, .token = on_token, .row = on_row, .hidden = on_hidden,
                 .finish = on_finish},
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
        paged_setup(&m, 1 + rand() % 50, 1 + rand() % 12, 13 + rand() % 20);
        m.queue = round % 4 > 1;
        EngineOptions o = {.prefix_cache = round % 2, .shuffle_pages = (uint64_t)(round % 3),
                           .max_decode_stretch = round % 3 ? 0 : 1.5};
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
        paged_teardown(&m);
    }
    assert_true(preemptions > 50 && cached > 1000); /* the run reached what it is for */
}

static void cancel_frees_within_a_step(void **state)
{
    (void)state;
    Model m;
    paged_setup(&m, 8, 4, 0);
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
    paged_teardown(&m);
}

static void refusals(void **state)
{
    (void)state;
    Model m;
    paged_setup(&m, 8, 4, 0);
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
    c.prompt[2] = PAGED_VOCAB;
    assert_null(add(e, &c, &err));
    assert_non_null(strstr(err.text, "token 24 of the prompt is beyond the model's vocabulary of 24"));
    c.prompt[2] = 0;
    c.params.top_p = 2;
    assert_null(add(e, &c, &err));
    assert_string_equal(err.text, "top_p is 2, from 0 to 1 is allowed");
    assert_true(engine_idle(e));
    engine_free(e);
    void *tokens = m.io[0][IO_TOKENS];
    m.io[0][IO_TOKENS] = NULL;
    assert_null(engine_new(&m, &(EngineOptions){0}, &err));
    assert_non_null(strstr(err.text, "no buffer \"tokens\""));
    m.io[0][IO_TOKENS] = tokens;
    paged_teardown(&m);
}

static void numbers_that_are_none(void **state)
{
    (void)state;
    Model m;
    paged_setup(&m, 8, 4, 0);
    m.plan.vocab = 1; /* most sampled tokens lie beyond it */
    Err err = {0};
    Engine *e = engine_new(&m, &(EngineOptions){0}, &err);
    Client c = {.params = sampling_defaults(), .prompt_len = 2};
    add(e, &c, &err);
    while (!engine_idle(e))
        step(e);
    assert_int_equal(c.reason, FINISH_ERROR);
    engine_free(e);
    paged_teardown(&m);
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
