/* The service on the model of paged_model.h: whatever many threads submit and cancel, every completion gets the tokens
 * and the text that it gets alone, or the beginning of them; limits, expiry, draining, failure. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service_client.h"

/* ---- the engine -------------------------------------------------------------------------------------------------- */

typedef struct Toy {
    Model model;
    Engine *engine;
    int tokens, seqs, pages, step_us;
    bool queue, no_cache, refuse, failed;
} Toy;

static bool toy_open(void *context, EngineOptions *o, Engine **engine, Err *err)
{
    Toy *t = context;
    if (t->refuse)
        return err_set(err, "no such model");
    paged_setup(&t->model, t->tokens, t->seqs, t->pages);
    t->model.queue = t->queue;
    t->model.step_us = t->step_us;
    o->prefix_cache = !t->no_cache;
    o->eos = client_eos;
    o->eos_count = 1;
    *engine = t->engine = engine_new(&t->model, o, err);
    return t->engine != NULL;
}

static void toy_close(void *context)
{
    Toy *t = context;
    Err err = {0};
    if (!t->failed && !engine_check(t->engine, &err))
        die("%s", err.text);
    REQUIRE(!engine_idle(t->engine) || engine_stats(t->engine)->pages_used == 0);
    engine_free(t->engine);
    paged_teardown(&t->model);
}

static Service *start(Toy *t, ServiceOptions o)
{
    Err err = {0};
    o.open = toy_open;
    o.close = toy_close;
    o.context = t;
    o.tokenizer = client_tokenizer;
    Service *s = service_new(&o, &err);
    if (!s)
        die("%s", err.text);
    return s;
}

static void wait_until_nothing_waits(const Service *s)
{
    for (int i = 0; i < 60000 && service_stats(s).waiting; i++)
        usleep(1000);
    assert_int_equal(service_stats(s).waiting, 0);
}

/* Nor late tokens behind stop strings. */
static void wait_until_nothing_is_left(Service *s)
{
    assert_true(service_drain(s, 60));
    for (int i = 0; i < 60000 && service_stats(s).pages_used; i++)
        usleep(1000);
    ServiceStats stats = service_stats(s);
    assert_true(!stats.running && !stats.waiting && !stats.waiting_tokens && !stats.pages_used);
}

/* ---- many threads ------------------------------------------------------------------------------------------------ */

enum { THREADS = 4, CLIENTS = 40 };

typedef struct Submitter {
    Service *s;
    uint64_t seed;
    Client clients[CLIENTS];
    bool cancels;
} Submitter;

static void *submit_many(void *context)
{
    Submitter *u = context;
    for (int i = 0; i < CLIENTS; i++) {
        client_random(&u->clients[i], &u->seed);
        client_must_submit(u->s, &u->clients[i]);
        if (client_rnd(&u->seed, 3) == 0)
            usleep((useconds_t)client_rnd(&u->seed, 2000));
        if (u->cancels && client_rnd(&u->seed, 4) == 0)
            service_cancel(u->s, client_rnd(&u->seed, 2) ? u->clients[i].id
                                                         : client_rnd(&u->seed, u->clients[i].id + 2));
        (void)service_stats(u->s);
        (void)service_retry_after(u->s);
    }
    return NULL;
}

static void everyone_gets_his_own(void **state)
{
    (void)state;
    int whole = 0, aborted = 0, stopped = 0;
    for (int round = 0; round < 6; round++) {
        Toy toy = {.tokens = 6 + 10 * round, .seqs = 2 + 3 * round, .pages = 13 + 8 * round, .queue = round % 2};
        toy.no_cache = round == 4;
        Service *s = start(&toy, (ServiceOptions){0});
        Submitter *u = xcalloc(THREADS, sizeof *u);
        pthread_t threads[THREADS];
        for (int i = 0; i < THREADS; i++) {
            u[i].s = s;
            u[i].seed = (uint64_t)(round * THREADS + i);
            u[i].cancels = round != 1;
            assert_int_equal(pthread_create(&threads[i], NULL, submit_many, &u[i]), 0);
        }
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        wait_until_nothing_is_left(s);
        service_free(s);
        for (int i = 0; i < THREADS * CLIENTS; i++) {
            Client *c = &u[i / CLIENTS].clients[i % CLIENTS];
            assert_true(c->done);
            for (int k = 0; k < c->request.choices; k++) {
                client_check(c, k);
                aborted += c->answers[k].end.reason == COMPLETION_ABORT;
                whole += c->answers[k].end.reason != COMPLETION_ABORT;
                stopped += c->answers[k].end.stop_string != NULL;
            }
            client_free(c);
        }
        free(u);
    }
    assert_true(whole > 500 && aborted > 20 && stopped > 100); /* the run reached what it is for */
}

/* ---- as long as one likes ---------------------------------------------------------------------------------------- */

static double soak_seconds = 1;

typedef struct Stream {
    Service *s;
    uint64_t seed;
    double until;
    int answers, cancelled;
} Stream;

static void *stream_until(void *context)
{
    Stream *t = context;
    Client *c = xmalloc(sizeof *c);
    while (now_seconds() < t->until) {
        client_random(c, &t->seed);
        client_must_submit(t->s, c);
        bool cancel = client_rnd(&t->seed, 10) == 0;
        if (cancel) {
            usleep((useconds_t)client_rnd(&t->seed, 20000));
            service_cancel(t->s, c->id);
        }
        client_wait(c);
        for (int i = 0; i < c->request.choices; i++)
            client_check(c, i);
        t->answers += c->request.choices;
        t->cancelled += cancel;
        client_free(c);
    }
    free(c);
    return NULL;
}

/* 64 streams at once, a tenth of them cancelled at random; pages run out. */
static void soak(void **state)
{
    (void)state;
    enum { STREAMS = 64 };
    Toy toy = {.tokens = 48, .seqs = 24, .pages = 40, .queue = true};
    Service *s = start(&toy, (ServiceOptions){0});
    Stream streams[STREAMS];
    pthread_t threads[STREAMS];
    int answers = 0, cancelled = 0;
    for (int i = 0; i < STREAMS; i++) {
        streams[i] = (Stream){s, (uint64_t)i, now_seconds() + soak_seconds, 0, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, stream_until, &streams[i]), 0);
    }
    for (int i = 0; i < STREAMS; i++) {
        pthread_join(threads[i], NULL);
        answers += streams[i].answers;
        cancelled += streams[i].cancelled;
    }
    wait_until_nothing_is_left(s);
    int64_t preemptions = service_stats(s).engine.preemptions;
    service_free(s); /* checks the pages */
    print_message("%d answers, %d requests cancelled, %lld preemptions\n", answers, cancelled, (long long)preemptions);
    assert_true(answers > 64 && cancelled > 0 && preemptions > 0);
}

/* ---- one thing at a time ----------------------------------------------------------------------------------------- */

/* A client whose every token is "a". */
static void init_monotone(Client *c, int64_t max_tokens, LogitBias *bias)
{
    client_init(c, 20, max_tokens);
    *bias = (LogitBias){.token = 0, .bias = 100};
    c->params.logit_bias.at = bias;
    c->params.logit_bias.len = 1;
}

static void stop_strings_across_tokens(void **state)
{
    (void)state;
    Toy toy = {.tokens = 32, .seqs = 4, .queue = true};
    Service *s = start(&toy, (ServiceOptions){0});
    static const struct {
        bool include;
        int64_t min_tokens;
        int tokens;
        const char *text;
    } cases[] = {{false, 0, 3, ""}, {true, 0, 3, "aaa"}, {false, 5, 6, "aaa"}, {true, 5, 6, "aaaaaa"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        Client c;
        LogitBias bias;
        init_monotone(&c, 50, &bias);
        strcpy(c.stop[0], "aaa");
        c.request.stops_count = 1;
        c.request.include_stop = cases[i].include;
        c.params.min_tokens = cases[i].min_tokens;
        client_must_submit(s, &c);
        client_wait(&c);
        const Answer *a = &c.answers[0];
        assert_int_equal(a->end.reason, COMPLETION_STOP);
        assert_string_equal(a->end.stop_string, "aaa");
        assert_true(a->end.stop_token == -1 && a->count == cases[i].tokens);
        assert_int_equal(a->text.len, strlen(cases[i].text));
        assert_memory_equal(a->text.len ? a->text.data : "", cases[i].text, a->text.len);
        client_free(&c);
    }
    service_free(s);
}

static void stop_tokens(void **state)
{
    (void)state;
    Toy toy = {.tokens = 32, .seqs = 4};
    Service *s = start(&toy, (ServiceOptions){0});
    for (int include = 0; include < 2; include++) {
        Client c;
        LogitBias bias;
        uint32_t stop = 0;
        init_monotone(&c, 50, &bias);
        c.params.stop_tokens.at = &stop;
        c.params.stop_tokens.len = 1;
        c.request.include_stop = include;
        client_must_submit(s, &c);
        client_wait(&c);
        const Answer *a = &c.answers[0];
        assert_true(a->end.reason == COMPLETION_STOP && a->end.stop_token == 0 && !a->end.stop_string);
        assert_int_equal(a->count, 1);
        assert_int_equal(a->text.len, include); /* the text ends before the token */
        client_free(&c);
    }
    service_free(s);
}

static void choices_share_the_prompt(void **state)
{
    (void)state;
    Toy toy = {.tokens = 32, .seqs = 4};
    Service *s = start(&toy, (ServiceOptions){0});
    for (int max_tokens = 0; max_tokens < 12; max_tokens++) {
        Client c;
        client_init(&c, 50, max_tokens);
        c.prompt[0] = (uint32_t)max_tokens; /* not in the cache */
        c.params.temperature = 1;
        c.params.ignore_eos = true;
        c.request.choices = 3;
        client_must_submit(s, &c);
        client_wait(&c);
        for (int i = 0; i < 3; i++) {
            client_check(&c, i);
            assert_int_equal(c.answers[i].end.cached_tokens, i && max_tokens ? 48 : 0);
        }
        assert_true(max_tokens < 8 || memcmp(c.answers[0].tokens, c.answers[1].tokens, 32));
        client_free(&c);
    }
    service_free(s);
}

static void admission(void **state)
{
    (void)state;
    for (int by_tokens = 0; by_tokens < 2; by_tokens++) {
        Toy toy = {.tokens = 64, .seqs = 1, .step_us = 20000};
        Metrics *metrics = metrics_new("toy");
        ServiceOptions o = {.max_queued_requests = by_tokens ? 0 : 2, .max_queued_tokens = by_tokens ? 45 : 0};
        o.metrics = metrics;
        Service *s = start(&toy, o);
        Client c[5];
        LogitBias bias;
        Err err = {0};
        for (int i = 0; i < 5; i++)
            init_monotone(&c[i], 79, &bias);
        client_must_submit(s, &c[0]);
        wait_until_nothing_waits(s);
        c[1].request.choices = 3; /* nothing waits: it is taken, whatever it asks for */
        client_must_submit(s, &c[1]);
        assert_int_equal(client_submit(s, &c[2], &err), SUBMIT_FULL);
        assert_string_equal(err.text, "the server is busy: 3 requests with 60 prompt tokens wait; try again later");
        assert_true(service_stats(s).waiting == 3 && service_stats(s).waiting_tokens == 60);
        assert_in_range(service_retry_after(s), 1, 60);
        service_cancel(s, c[1].id);
        client_wait(&c[1]);
        for (int i = 2; i < 4; i++)
            client_must_submit(s, &c[i]);
        assert_int_equal(client_submit(s, &c[4], &err), SUBMIT_FULL);
        assert_true(metrics_counter(metrics, METRIC_REJECTIONS) == 2);
        service_free(s);
        for (int i = 0; i < 4; i++) {
            assert_true(c[i].done && c[i].answers[0].end.reason == COMPLETION_ABORT);
            client_free(&c[i]);
        }
        metrics_free(metrics);
    }
}

/* As many as the engine has places for are no queue, however fast they come. */
static void free_places_are_no_queue(void **state)
{
    (void)state;
    Toy toy = {.tokens = 64, .seqs = 3, .step_us = 20000};
    Service *s = start(&toy, (ServiceOptions){.max_queued_requests = 2});
    Client c[7];
    LogitBias bias;
    Err err = {0};
    for (int i = 0; i < 7; i++)
        init_monotone(&c[i], 79, &bias);
    for (int i = 0; i < 5; i++)
        client_must_submit(s, &c[i]);
    assert_int_equal(client_submit(s, &c[5], &err), SUBMIT_FULL);
    service_cancel(s, c[0].id);
    client_wait(&c[0]);
    client_must_submit(s, &c[5]);
    assert_int_equal(client_submit(s, &c[6], &err), SUBMIT_FULL);
    service_free(s);
    for (int i = 0; i < 6; i++)
        client_free(&c[i]);
}

static void expiry(void **state)
{
    (void)state;
    Toy toy = {.tokens = 64, .seqs = 1, .step_us = 10000};
    Service *s = start(&toy, (ServiceOptions){.max_queue_time = 0.05});
    Client a, b;
    LogitBias bias;
    init_monotone(&a, 79, &bias);
    init_monotone(&b, 79, &bias);
    b.request.choices = 2;
    client_must_submit(s, &a);
    wait_until_nothing_waits(s);
    client_must_submit(s, &b);
    client_wait(&b);
    assert_false(a.done);
    client_wait(&a);
    assert_int_equal(a.answers[0].end.reason, COMPLETION_LENGTH);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(b.answers[i].end.reason, COMPLETION_EXPIRED);
        assert_string_equal(b.answers[i].end.error,
                            "the request waited longer than 0.05 seconds for its turn; try again later");
        assert_true(b.answers[i].end.queue_seconds > 0.05 && !b.answers[i].count);
    }
    service_free(s);
    client_free(&a);
    client_free(&b);
}

static void priorities(void **state)
{
    (void)state;
    Toy toy = {.tokens = 64, .seqs = 1, .step_us = 5000};
    Service *s = start(&toy, (ServiceOptions){0});
    Client c[3];
    LogitBias bias;
    for (int i = 0; i < 3; i++) {
        init_monotone(&c[i], 40, &bias);
        c[i].request.priority = i == 2 ? -1 : 0;
        client_must_submit(s, &c[i]);
        if (!i)
            wait_until_nothing_waits(s);
    }
    for (int i = 0; i < 3; i++) {
        client_wait(&c[i]);
        client_check(&c[i], 0);
    }
    assert_true(c[2].answers[0].end.queue_seconds < c[1].answers[0].end.queue_seconds);
    service_free(s);
    for (int i = 0; i < 3; i++)
        client_free(&c[i]);
}

static void draining(void **state)
{
    (void)state;
    Toy toy = {.tokens = 64, .seqs = 1, .step_us = 5000};
    Service *s = start(&toy, (ServiceOptions){0});
    Client a, b;
    LogitBias bias;
    Err err = {0};
    init_monotone(&a, 79, &bias);
    init_monotone(&b, 79, &bias);
    client_must_submit(s, &a);
    assert_false(service_drain(s, 0.005));
    assert_int_equal(client_submit(s, &b, &err), SUBMIT_CLOSING);
    assert_string_equal(err.text, "the server is shutting down");
    assert_true(service_drain(s, 60));
    assert_true(a.done && a.answers[0].end.reason == COMPLETION_LENGTH);
    service_free(s);
    client_free(&a);
}

static void refusals(void **state)
{
    (void)state;
    Toy toy = {.tokens = 64, .seqs = 1};
    Service *s = start(&toy, (ServiceOptions){0});
    Client c;
    Err err = {0};
    client_init(&c, 100, 1);
    assert_int_equal(client_submit(s, &c, &err), SUBMIT_INVALID);
    assert_non_null(strstr(err.text, "the prompt has 100 tokens and needs room for one more"));
    client_init(&c, 10, 1);
    c.request.choices = 0;
    assert_int_equal(client_submit(s, &c, &err), SUBMIT_INVALID);
    assert_non_null(strstr(err.text, "n is 0"));
    c.request.choices = 1;
    c.request.prompt_logprobs = 21;
    assert_int_equal(client_submit(s, &c, &err), SUBMIT_INVALID);
    c.request.prompt_logprobs = -1;
    c.request.pooling = POOLING_MEAN; /* and a token */
    assert_int_equal(client_submit(s, &c, &err), SUBMIT_INVALID);
    c.request.pooling = POOLING_NONE;
    c.params.top_p = 2;
    assert_int_equal(client_submit(s, &c, &err), SUBMIT_INVALID);
    assert_non_null(strstr(err.text, "top_p"));
    service_cancel(s, 0);
    service_cancel(s, 77);
    assert_true(service_drain(s, 60) && !service_failure(s));
    assert_int_equal(service_limits(s)->max_model_len, PAGED_CONTEXT);
    service_free(s);
    service_free(NULL);
}

/* ---- failure ----------------------------------------------------------------------------------------------------- */

static void open_fails(void **state)
{
    (void)state;
    Toy toy = {.refuse = true};
    ServiceOptions o = {.open = toy_open, .close = toy_close, .context = &toy, .tokenizer = client_tokenizer};
    Err err = {0};
    assert_null(service_new(&o, &err));
    assert_string_equal(err.text, "no such model");
}

static void *submit_until_it_fails(void *context)
{
    Submitter *u = context;
    for (int i = 0; i < CLIENTS; i++) {
        Err err = {0};
        client_random(&u->clients[i], &u->seed);
        SubmitResult result = client_submit(u->s, &u->clients[i], &err);
        REQUIRE(result == SUBMIT_OK || (result == SUBMIT_CLOSING && strstr(err.text, "the device is ")));
        if (result == SUBMIT_CLOSING)
            u->clients[i].request.choices = 0; /* nothing will come */
        usleep(500);
    }
    return NULL;
}

static void engine_fails(void **state)
{
    (void)state;
    for (int round = 0; round < 4; round++) {
        Toy toy = {.tokens = 32, .seqs = 4, .failed = true, .queue = round % 2, .step_us = 2000};
        Service *s = start(&toy, (ServiceOptions){0});
        Submitter *u = xcalloc(2, sizeof *u);
        pthread_t threads[2];
        for (int i = 0; i < 2; i++) {
            u[i].s = s;
            u[i].seed = (uint64_t)(round * 2 + i);
            pthread_create(&threads[i], NULL, submit_until_it_fails, &u[i]);
        }
        usleep(8000);
        assert_null(service_failure(s));
        bool lost = round / 2; /* while a step runs; else before it begins */
        const char *failure = lost ? "the device is lost" : "the device is gone";
        atomic_store(lost ? &toy.model.lost : &toy.model.broken, true);
        for (int i = 0; i < 2; i++)
            pthread_join(threads[i], NULL);
        assert_true(service_drain(s, 60)); /* everyone has been told, before anything is freed */
        assert_string_equal(service_failure(s), failure);
        service_cancel(s, 1);
        service_free(s);
        int failed = 0;
        for (int i = 0; i < 2 * CLIENTS; i++) {
            Client *c = &u[i / CLIENTS].clients[i % CLIENTS];
            for (int k = 0; k < c->request.choices; k++) {
                if (c->answers[k].end.reason != COMPLETION_ERROR) {
                    client_check(c, k);
                    continue;
                }
                assert_string_equal(c->answers[k].end.error, failure);
                failed++;
            }
            client_free(c);
        }
        assert_true(failed > 0);
        free(u);
    }
}

/* ---- metrics ----------------------------------------------------------------------------------------------------- */

static void measured(void **state)
{
    (void)state;
    Toy toy = {.tokens = 64, .seqs = 4};
    Metrics *m = metrics_new("toy");
    Service *s = start(&toy, (ServiceOptions){.metrics = m});
    int generated = 0;
    for (int i = 0; i < 8; i++) {
        Client c;
        client_init(&c, 33, 5 + i);
        c.params.ignore_eos = true;
        client_must_submit(s, &c);
        client_wait(&c);
        generated += c.answers[0].count;
        client_free(&c);
    }
    service_free(s);
    assert_true(metrics_counter(m, METRIC_PROMPT_TOKENS) == 8 * 33);
    assert_true(metrics_counter(m, METRIC_GENERATION_TOKENS) == generated);
    assert_true(metrics_counter(m, METRIC_PREFIX_QUERIES) == 8 * 33);
    assert_true(metrics_counter(m, METRIC_PREFIX_HITS) == 7 * 32);
    assert_true(metrics_counter(m, METRIC_STEPS) >= generated);
    assert_true(metrics_gauge(m, METRIC_RUNNING) == 0 && metrics_gauge(m, METRIC_WAITING) == 0);
    assert_true(metrics_gauge(m, METRIC_KV_USAGE) == 0);
    Buf out = {0};
    metrics_render(m, &out);
    static const char *const lines[] = {
        "vllm:request_success_total{model_name=\"toy\",engine=\"0\",finished_reason=\"length\"} 8\n",
        "vllm:time_to_first_token_seconds_count{model_name=\"toy\",engine=\"0\"} 8\n",
        "vllm:e2e_request_latency_seconds_count{model_name=\"toy\",engine=\"0\"} 8\n",
        "vllm:request_queue_time_seconds_count{model_name=\"toy\",engine=\"0\"} 8\n",
        "vllm:request_params_n_count{model_name=\"toy\",engine=\"0\"} 8\n",
    };
    for (size_t i = 0; i < COUNT(lines); i++)
        if (!strstr(out.data, lines[i]))
            fail_msg("%s is not in\n%s", lines[i], out.data);
    buf_free(&out);
    metrics_free(m);
}

/* With an argument only the soak, for so many seconds. */
int main(int argc, char **argv)
{
    const struct CMUnitTest long_tests[] = {cmocka_unit_test(soak)};
    if (argc > 1) {
        soak_seconds = atof(argv[1]);
        return cmocka_run_group_tests(long_tests, client_make_tokenizer, client_free_tokenizer);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everyone_gets_his_own), cmocka_unit_test(stop_strings_across_tokens),
        cmocka_unit_test(stop_tokens),           cmocka_unit_test(choices_share_the_prompt),
        cmocka_unit_test(admission),             cmocka_unit_test(free_places_are_no_queue),
        cmocka_unit_test(expiry),                cmocka_unit_test(priorities),
        cmocka_unit_test(draining),              cmocka_unit_test(refusals),
        cmocka_unit_test(open_fails),            cmocka_unit_test(engine_fails),
        cmocka_unit_test(measured),              cmocka_unit_test(soak),
    };
    return cmocka_run_group_tests(tests, client_make_tokenizer, client_free_tokenizer);
}
