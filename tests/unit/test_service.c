/* The service on the model of paged_model.h: whatever many threads submit and cancel, every completion gets the tokens
 * and the text that it gets alone, or the beginning of them; limits, expiry, draining, failure. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "paged_model.h"
#include "service.h"
#include "test.h"
#include "text.h"

/* Sinks run on the service's thread, where cmocka's asserts cannot be used. */
#define REQUIRE(condition) \
    do { \
        if (!(condition)) \
            die("%s:%d: %s", __FILE__, __LINE__, #condition); \
    } while (0)

enum { EOS = 23, MAX_CHOICES = 3 };

static const uint32_t eos[] = {EOS};

/* ---- tokenizer: letters, an e with accent in two tokens, a word, the end of sequence ----------------------------- */

static Tokenizer *tokenizer;

static int make_tokenizer(void **state)
{
    (void)state;
    Buf json = {0};
    Err err = {0};
    buf_puts(&json, "{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
    for (int i = 0; i < 20; i++)
        buf_printf(&json, "\"%c\":%d,", 'a' + i, i);
    buf_printf(&json, "\"\\u00c3\":20,\"\\u00a9\":21,\"the\":22}},\"decoder\":{\"type\":\"ByteLevel\"},"
               "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
               "\"added_tokens\":[{\"id\":%d,\"content\":\"<e>\",\"special\":true,\"normalized\":false,\"lstrip\":false,"
               "\"rstrip\":false,\"single_word\":false}]}", EOS);
    tokenizer = tok_parse(json.data, json.len, NULL, 0, &err);
    buf_free(&json);
    REQUIRE(tokenizer && tok_id(tokenizer, "<e>", 3) == EOS);
    return 0;
}

static int free_tokenizer(void **state)
{
    (void)state;
    tok_free(tokenizer);
    return 0;
}

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
    o->eos = eos;
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
    o.tokenizer = tokenizer;
    Service *s = service_new(&o, &err);
    if (!s)
        die("%s", err.text);
    return s;
}

/* ---- clients ----------------------------------------------------------------------------------------------------- */

typedef struct Answer {
    uint32_t tokens[PAGED_CONTEXT];
    float logprobs[PAGED_CONTEXT];
    int count;
    Buf text;
    bool silent; /* a delta without text came, it must be the last */
    bool finished;
    CompletionEnd end;
    char stop[16], error[200];
} Answer;

typedef struct Client {
    SamplingParams params;
    uint32_t prompt[PAGED_CONTEXT];
    const char *stops[2];
    char stop[2][4];
    PromptToken prompt_tokens[PAGED_CONTEXT];
    float embedding[PAGED_HIDDEN];
    CompletionRequest request;
    uint64_t id;
    Answer answers[MAX_CHOICES];
    int finished;
    bool last;
    atomic_bool done;
} Client;

static void on_delta(void *context, const CompletionDelta *d)
{
    Client *c = context;
    REQUIRE(!c->last && d->choice >= 0 && d->choice < c->request.choices);
    Answer *a = &c->answers[d->choice];
    REQUIRE(!a->finished && !a->silent && (d->text_len || d->tokens_count));
    REQUIRE(utf8_complete(d->text, d->text_len) == d->text_len);
    a->silent = !d->text_len;
    buf_put(&a->text, d->text, d->text_len);
    for (int i = 0; i < d->tokens_count; i++) {
        const CompletionToken *t = &d->tokens[i];
        REQUIRE(t->top_count == MAX(c->params.logprobs, 0));
        for (int k = 1; k < t->top_count; k++)
            REQUIRE(t->top[k - 1].logprob >= t->top[k].logprob);
        REQUIRE(!t->top_count || t->top[0].logprob >= t->logprob);
        a->logprobs[a->count] = t->logprob;
        a->tokens[a->count++] = t->id;
    }
}

static void on_finish(void *context, const CompletionEnd *end)
{
    Client *c = context;
    REQUIRE(!c->last && end->choice >= 0 && end->choice < c->request.choices);
    Answer *a = &c->answers[end->choice];
    REQUIRE(!a->finished && end->completion_tokens == a->count && end->prompt_tokens == c->request.prompt_len);
    REQUIRE((end->error != NULL) == (end->reason == COMPLETION_ERROR || end->reason == COMPLETION_EXPIRED));
    a->finished = true;
    a->end = *end;
    if (end->stop_string)
        a->end.stop_string = strcpy(a->stop, end->stop_string);
    if (end->error)
        a->end.error = strncpy(a->error, end->error, sizeof a->error - 1);
    if (end->prompt)
        a->end.prompt = memcpy(c->prompt_tokens, end->prompt, sizeof *end->prompt * (size_t)end->prompt_tokens);
    if (end->embedding)
        a->end.embedding = memcpy(c->embedding, end->embedding, sizeof *end->embedding * (size_t)end->embedding_len);
    c->finished++;
    c->last = end->last;
    REQUIRE(c->last == (c->finished == c->request.choices));
    if (c->last)
        atomic_store(&c->done, true);
}

static void init_client(Client *c, int prompt_len, int64_t max_tokens)
{
    *c = (Client){.params = sampling_defaults(), .stops = {c->stop[0], c->stop[1]}};
    c->params.max_tokens = max_tokens;
    c->request = (CompletionRequest){
        .prompt = c->prompt,
        .prompt_len = prompt_len,
        .sampling = &c->params,
        .stops = c->stops,
        .prompt_logprobs = -1,
        .choices = 1,
        .sink = {c, on_delta, on_finish},
    };
}

static void free_client(Client *c)
{
    for (int i = 0; i < MAX_CHOICES; i++)
        buf_free(&c->answers[i].text);
}

static SubmitResult submit(Service *s, Client *c, Err *err)
{
    return service_submit(s, &c->request, &c->id, err);
}

static void must_submit(Service *s, Client *c)
{
    Err err = {0};
    if (submit(s, c, &err) != SUBMIT_OK)
        die("%s", err.text);
}

static void wait_for(const Client *c)
{
    for (int i = 0; i < 60000 && !atomic_load(&c->done); i++)
        usleep(1000);
    REQUIRE(atomic_load(&c->done));
}

static void wait_until_nothing_waits(const Service *s)
{
    for (int i = 0; i < 60000 && service_stats(s).waiting; i++)
        usleep(1000);
    assert_int_equal(service_stats(s).waiting, 0);
}

/* ---- what a client must get -------------------------------------------------------------------------------------- */

static uint64_t prompt_state(const Client *c, int n)
{
    uint64_t h = HASH_SEED;
    for (int i = 0; i < n; i++)
        h = paged_hash(h, (int32_t)c->prompt[i]);
    return h;
}

typedef struct Alone {
    uint32_t tokens[PAGED_CONTEXT];
    int count;
    Buf text;
    CompletionReason reason;
    const char *stop; /* points into `copy` */
    char copy[16];
} Alone;

/* One choice, by itself, on one thread. */
static void run_alone(const Client *c, int choice, Alone *a)
{
    *a = (Alone){.reason = COMPLETION_LENGTH};
    SamplingParams p = c->params;
    p.seed += (uint64_t)choice;
    bool stopped;
    int n = paged_alone(&p, c->prompt, c->request.prompt_len, eos, 1, a->tokens, &stopped);
    TextStream *stream = text_new(tokenizer, c->prompt, (size_t)c->request.prompt_len, &(TextOptions){
        .stops = c->stops,
        .stops_count = (size_t)c->request.stops_count,
        .include_stop = c->request.include_stop,
        .keep_special = c->request.keep_special,
        .min_tokens = p.min_tokens,
    });
    buf_reserve(&a->text, 1);
    bool go_on = true;
    while (go_on && a->count < n) {
        bool ends = stopped && a->count == n - 1 && !c->request.include_stop;
        uint32_t token = a->tokens[a->count++];
        go_on = ends || text_push(stream, token, &a->text);
    }
    go_on = go_on && text_finish(stream, &a->text);
    if (!go_on)
        a->stop = strcpy(a->copy, text_stop(stream));
    if (stopped || !go_on)
        a->reason = COMPLETION_STOP;
    text_free(stream);
}

static void check_logprobs(const Client *c, const Answer *a)
{
    uint64_t h = prompt_state(c, c->request.prompt_len);
    for (int i = 0; i < a->count; i++) {
        float want = c->params.logprobs < 0 ? 0 : paged_logit(h, (int)a->tokens[i]) - 10;
        assert_true(a->logprobs[i] == want);
        h = paged_hash(h, (int32_t)a->tokens[i]);
    }
}

static void check_prompt(const Client *c, const PromptToken *p)
{
    assert_true(isnan(p[0].logprob) && !p[0].top_count && p[0].id == c->prompt[0]);
    for (int i = 1; i < c->request.prompt_len; i++) {
        uint64_t h = prompt_state(c, i);
        int rank = 1;
        for (int t = 0; t < PAGED_VOCAB; t++)
            rank += paged_logit(h, t) > paged_logit(h, (int)c->prompt[i]);
        assert_true(p[i].id == c->prompt[i] && p[i].logprob == paged_logit(h, (int)c->prompt[i]) - 10);
        assert_int_equal(p[i].rank, rank);
        assert_int_equal(p[i].top_count, c->request.prompt_logprobs);
        for (int k = 0; k < p[i].top_count; k++)
            assert_true(p[i].top[k].logprob == paged_logit(h, (int)p[i].top[k].token) - 10);
    }
}

static void check_embedding(const Client *c, const Answer *a)
{
    assert_int_equal(a->end.embedding_len, PAGED_HIDDEN);
    bool mean = c->request.pooling == POOLING_MEAN;
    double sum[PAGED_HIDDEN] = {0};
    for (int i = mean ? 1 : c->request.prompt_len; i <= c->request.prompt_len; i++) {
        float state[PAGED_HIDDEN];
        paged_hidden(prompt_state(c, i), state);
        for (int k = 0; k < PAGED_HIDDEN; k++)
            sum[k] += state[k];
    }
    for (int k = 0; k < PAGED_HIDDEN; k++)
        assert_true(a->end.embedding[k] == (float)(sum[k] / (mean ? c->request.prompt_len : 1)));
}

static void check_answer(const Client *c, int choice)
{
    const Answer *a = &c->answers[choice];
    Alone want;
    run_alone(c, choice, &want);
    bool whole = a->end.reason != COMPLETION_ABORT;
    assert_true(a->finished && (whole ? a->count == want.count : a->count <= want.count));
    assert_memory_equal(a->tokens, want.tokens, sizeof *a->tokens * (size_t)a->count);
    assert_true(whole ? a->text.len == want.text.len : true);
    check_logprobs(c, a);
    if (whole) {
        assert_int_equal(a->end.reason, want.reason);
        assert_memory_equal(a->text.len ? a->text.data : "", want.text.data, want.text.len);
        assert_true(!want.stop == !a->end.stop_string);
        if (want.stop)
            assert_string_equal(a->end.stop_string, want.stop);
        assert_true((a->end.prompt != NULL) == (c->request.prompt_logprobs >= 0 && !choice));
        assert_true((a->end.embedding != NULL) == (c->request.pooling && !choice));
        assert_true(isnan(a->end.first_token_seconds) == !a->count);
        assert_true(a->end.total_seconds >= a->end.queue_seconds && a->end.queue_seconds >= 0);
    }
    if (whole && a->end.prompt)
        check_prompt(c, a->end.prompt);
    if (whole && a->end.embedding)
        check_embedding(c, a);
    buf_free(&want.text);
}

/* ---- many threads ------------------------------------------------------------------------------------------------ */

static uint64_t rnd(uint64_t *state, uint64_t n)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return (*state >> 33) % n;
}

static void random_client(Client *c, uint64_t *seed)
{
    init_client(c, 1 + (int)rnd(seed, 60), (int64_t)rnd(seed, 40));
    for (int i = 0; i < c->request.prompt_len; i++)
        c->prompt[i] = rnd(seed, 20) == 0;
    SamplingParams *p = &c->params;
    p->min_tokens = rnd(seed, 4) ? 0 : p->max_tokens / 2;
    p->temperature = rnd(seed, 2) ? 1 : 0;
    p->seed = rnd(seed, 1000);
    p->repetition_penalty = rnd(seed, 3) ? 1 : 1.5;
    p->presence_penalty = rnd(seed, 3) ? 0 : 1;
    p->ignore_eos = rnd(seed, 2);
    p->logprobs = (int)rnd(seed, 5) - 1;
    c->request.stops_count = (int)rnd(seed, 3);
    for (int i = 0; i < c->request.stops_count; i++)
        for (uint64_t k = 0, n = 1 + rnd(seed, 2); k < n; k++)
            c->stop[i][k] = (char)('a' + rnd(seed, 20));
    c->request.include_stop = rnd(seed, 2);
    c->request.keep_special = rnd(seed, 2);
    c->request.choices = rnd(seed, 3) ? 1 : 1 + (int)rnd(seed, MAX_CHOICES);
    c->request.priority = (int)rnd(seed, 3) - 1;
    c->request.salt = rnd(seed, 3);
    c->request.prompt_logprobs = rnd(seed, 4) ? -1 : (int)rnd(seed, 4);
    if (rnd(seed, 8))
        return;
    p->max_tokens = p->min_tokens = 0;
    c->request.prompt_logprobs = -1;
    c->request.pooling = rnd(seed, 2) ? POOLING_LAST : POOLING_MEAN;
}

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
        random_client(&u->clients[i], &u->seed);
        must_submit(u->s, &u->clients[i]);
        if (rnd(&u->seed, 3) == 0)
            usleep((useconds_t)rnd(&u->seed, 2000));
        if (u->cancels && rnd(&u->seed, 4) == 0)
            service_cancel(u->s, rnd(&u->seed, 2) ? u->clients[i].id : rnd(&u->seed, u->clients[i].id + 2));
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
        assert_true(service_drain(s, 60));
        for (int i = 0; i < 1000 && service_stats(s).pages_used; i++)
            usleep(1000); /* late tokens of stop strings */
        ServiceStats stats = service_stats(s);
        assert_true(!stats.running && !stats.waiting && !stats.waiting_tokens && !stats.pages_used);
        service_free(s);
        for (int i = 0; i < THREADS * CLIENTS; i++) {
            Client *c = &u[i / CLIENTS].clients[i % CLIENTS];
            assert_true(c->done);
            for (int k = 0; k < c->request.choices; k++) {
                check_answer(c, k);
                aborted += c->answers[k].end.reason == COMPLETION_ABORT;
                whole += c->answers[k].end.reason != COMPLETION_ABORT;
                stopped += c->answers[k].end.stop_string != NULL;
            }
            free_client(c);
        }
        free(u);
    }
    assert_true(whole > 500 && aborted > 20 && stopped > 100); /* the run reached what it is for */
}

/* ---- one thing at a time ----------------------------------------------------------------------------------------- */

/* A client whose every token is "a". */
static void init_monotone(Client *c, int64_t max_tokens, LogitBias *bias)
{
    init_client(c, 20, max_tokens);
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
        must_submit(s, &c);
        wait_for(&c);
        const Answer *a = &c.answers[0];
        assert_int_equal(a->end.reason, COMPLETION_STOP);
        assert_string_equal(a->end.stop_string, "aaa");
        assert_true(a->end.stop_token == -1 && a->count == cases[i].tokens);
        assert_int_equal(a->text.len, strlen(cases[i].text));
        assert_memory_equal(a->text.len ? a->text.data : "", cases[i].text, a->text.len);
        free_client(&c);
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
        must_submit(s, &c);
        wait_for(&c);
        const Answer *a = &c.answers[0];
        assert_true(a->end.reason == COMPLETION_STOP && a->end.stop_token == 0 && !a->end.stop_string);
        assert_int_equal(a->count, 1);
        assert_int_equal(a->text.len, include); /* the text ends before the token */
        free_client(&c);
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
        init_client(&c, 50, max_tokens);
        c.prompt[0] = (uint32_t)max_tokens; /* not in the cache */
        c.params.temperature = 1;
        c.params.ignore_eos = true;
        c.request.choices = 3;
        must_submit(s, &c);
        wait_for(&c);
        for (int i = 0; i < 3; i++) {
            check_answer(&c, i);
            assert_int_equal(c.answers[i].end.cached_tokens, i && max_tokens ? 48 : 0);
        }
        assert_true(max_tokens < 8 || memcmp(c.answers[0].tokens, c.answers[1].tokens, 32));
        free_client(&c);
    }
    service_free(s);
}

static void admission(void **state)
{
    (void)state;
    for (int by_tokens = 0; by_tokens < 2; by_tokens++) {
        Toy toy = {.tokens = 64, .seqs = 1, .step_us = 2000};
        Metrics *metrics = metrics_new("toy");
        ServiceOptions o = {.max_queued_requests = by_tokens ? 0 : 2, .max_queued_tokens = by_tokens ? 45 : 0};
        o.metrics = metrics;
        Service *s = start(&toy, o);
        Client c[5];
        LogitBias bias;
        Err err = {0};
        for (int i = 0; i < 5; i++)
            init_monotone(&c[i], 79, &bias);
        must_submit(s, &c[0]);
        wait_until_nothing_waits(s);
        c[1].request.choices = 3; /* nothing waits: it is taken, whatever it asks for */
        must_submit(s, &c[1]);
        assert_int_equal(submit(s, &c[2], &err), SUBMIT_FULL);
        assert_string_equal(err.text, by_tokens
                            ? "the server is busy: 60 prompt tokens wait, at most 45 may; try again later"
                            : "the server is busy: 3 requests wait, at most 2 may; try again later");
        assert_true(service_stats(s).waiting == 3 && service_stats(s).waiting_tokens == 60);
        assert_in_range(service_retry_after(s), 1, 60);
        service_cancel(s, c[1].id);
        wait_for(&c[1]);
        for (int i = 2; i < 4; i++)
            must_submit(s, &c[i]);
        assert_int_equal(submit(s, &c[4], &err), SUBMIT_FULL);
        assert_true(metrics_counter(metrics, METRIC_REJECTIONS) == 2);
        service_free(s);
        for (int i = 0; i < 4; i++) {
            assert_true(c[i].done && c[i].answers[0].end.reason == COMPLETION_ABORT);
            free_client(&c[i]);
        }
        metrics_free(metrics);
    }
}

static void expiry(void **state)
{
    (void)state;
    Toy toy = {.tokens = 64, .seqs = 1, .step_us = 5000};
    Service *s = start(&toy, (ServiceOptions){.max_queue_time = 0.05});
    Client a, b;
    LogitBias bias;
    init_monotone(&a, 79, &bias);
    init_monotone(&b, 79, &bias);
    b.request.choices = 2;
    must_submit(s, &a);
    wait_until_nothing_waits(s);
    must_submit(s, &b);
    wait_for(&b);
    assert_false(a.done);
    wait_for(&a);
    assert_int_equal(a.answers[0].end.reason, COMPLETION_LENGTH);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(b.answers[i].end.reason, COMPLETION_EXPIRED);
        assert_string_equal(b.answers[i].end.error,
                            "the request waited longer than 0.05 seconds for its turn; try again later");
        assert_true(b.answers[i].end.queue_seconds > 0.05 && !b.answers[i].count);
    }
    service_free(s);
    free_client(&a);
    free_client(&b);
}

static void priorities(void **state)
{
    (void)state;
    Toy toy = {.tokens = 64, .seqs = 1, .step_us = 1000};
    Service *s = start(&toy, (ServiceOptions){0});
    Client c[3];
    LogitBias bias;
    for (int i = 0; i < 3; i++) {
        init_monotone(&c[i], 40, &bias);
        c[i].request.priority = i == 2 ? -1 : 0;
        must_submit(s, &c[i]);
        if (!i)
            wait_until_nothing_waits(s);
    }
    for (int i = 0; i < 3; i++) {
        wait_for(&c[i]);
        check_answer(&c[i], 0);
    }
    assert_true(c[2].answers[0].end.queue_seconds < c[1].answers[0].end.queue_seconds);
    service_free(s);
    for (int i = 0; i < 3; i++)
        free_client(&c[i]);
}

static void draining(void **state)
{
    (void)state;
    Toy toy = {.tokens = 64, .seqs = 1, .step_us = 1000};
    Service *s = start(&toy, (ServiceOptions){0});
    Client a, b;
    LogitBias bias;
    Err err = {0};
    init_monotone(&a, 79, &bias);
    init_monotone(&b, 79, &bias);
    must_submit(s, &a);
    assert_false(service_drain(s, 0.005));
    assert_int_equal(submit(s, &b, &err), SUBMIT_CLOSING);
    assert_string_equal(err.text, "the server is shutting down");
    assert_true(service_drain(s, 60));
    assert_true(a.done && a.answers[0].end.reason == COMPLETION_LENGTH);
    service_free(s);
    free_client(&a);
}

static void refusals(void **state)
{
    (void)state;
    Toy toy = {.tokens = 64, .seqs = 1};
    Service *s = start(&toy, (ServiceOptions){0});
    Client c;
    Err err = {0};
    init_client(&c, 100, 1);
    assert_int_equal(submit(s, &c, &err), SUBMIT_INVALID);
    assert_non_null(strstr(err.text, "the prompt has 100 tokens and needs room for one more"));
    init_client(&c, 10, 1);
    c.request.choices = 0;
    assert_int_equal(submit(s, &c, &err), SUBMIT_INVALID);
    assert_non_null(strstr(err.text, "n is 0"));
    c.request.choices = 1;
    c.request.prompt_logprobs = 21;
    assert_int_equal(submit(s, &c, &err), SUBMIT_INVALID);
    c.request.prompt_logprobs = -1;
    c.request.pooling = POOLING_MEAN; /* and a token */
    assert_int_equal(submit(s, &c, &err), SUBMIT_INVALID);
    c.request.pooling = POOLING_NONE;
    c.params.top_p = 2;
    assert_int_equal(submit(s, &c, &err), SUBMIT_INVALID);
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
    ServiceOptions o = {.open = toy_open, .close = toy_close, .context = &toy, .tokenizer = tokenizer};
    Err err = {0};
    assert_null(service_new(&o, &err));
    assert_string_equal(err.text, "no such model");
}

static void *submit_until_it_fails(void *context)
{
    Submitter *u = context;
    for (int i = 0; i < CLIENTS; i++) {
        Err err = {0};
        random_client(&u->clients[i], &u->seed);
        SubmitResult result = submit(u->s, &u->clients[i], &err);
        REQUIRE(result == SUBMIT_OK || (result == SUBMIT_CLOSING && strstr(err.text, "the device is gone")));
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
        Toy toy = {.tokens = 32, .seqs = 4, .failed = true, .queue = round % 2, .step_us = 500};
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
        atomic_store(&toy.model.broken, true);
        for (int i = 0; i < 2; i++)
            pthread_join(threads[i], NULL);
        assert_true(service_drain(s, 60)); /* everyone has been told, before anything is freed */
        assert_string_equal(service_failure(s), "the device is gone");
        service_cancel(s, 1);
        service_free(s);
        int failed = 0;
        for (int i = 0; i < 2 * CLIENTS; i++) {
            Client *c = &u[i / CLIENTS].clients[i % CLIENTS];
            for (int k = 0; k < c->request.choices; k++) {
                if (c->answers[k].end.reason != COMPLETION_ERROR) {
                    check_answer(c, k);
                    continue;
                }
                assert_string_equal(c->answers[k].end.error, "the device is gone");
                failed++;
            }
            free_client(c);
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
        init_client(&c, 33, 5 + i);
        c.params.ignore_eos = true;
        must_submit(s, &c);
        wait_for(&c);
        generated += c.answers[0].count;
        free_client(&c);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everyone_gets_his_own), cmocka_unit_test(stop_strings_across_tokens),
        cmocka_unit_test(stop_tokens),           cmocka_unit_test(choices_share_the_prompt),
        cmocka_unit_test(admission),             cmocka_unit_test(expiry),
        cmocka_unit_test(priorities),            cmocka_unit_test(draining),
        cmocka_unit_test(refusals),              cmocka_unit_test(open_fails),
        cmocka_unit_test(engine_fails),          cmocka_unit_test(measured),
    };
    return cmocka_run_group_tests(tests, make_tokenizer, free_tokenizer);
}
