/* service_client.c - see service_client.h. */
#include "service_client.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "text.h"

const uint32_t client_eos[] = {CLIENT_EOS};

/* ---- tokenizer --------------------------------------------------------------------------------------------------- */

Tokenizer *client_tokenizer;

int client_make_tokenizer(void **state)
{
    (void)state;
    Buf json = {0};
    Err err = {0};
    buf_puts(&json, "{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
    for (int i = 0; i < 20; i++)
        buf_printf(&json, "\"%c\":%d,", 'a' + i, i);
    buf_printf(&json, "\"\\u00c3\":20,\"\\u00a9\":21,\"the\":22}},\"decoder\":{\"type\":\"ByteLevel\"},"
               "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
               "\"added_tokens\":[{\"id\":%d,\"content\":\"<e>\",\"special\":true,\"normalized\":false,"
               "\"lstrip\":false,\"rstrip\":false,\"single_word\":false}]}", CLIENT_EOS);
    client_tokenizer = tok_parse(json.data, json.len, NULL, 0, &err);
    buf_free(&json);
    REQUIRE(client_tokenizer && tok_id(client_tokenizer, "<e>", 3) == CLIENT_EOS);
    return 0;
}

int client_free_tokenizer(void **state)
{
    (void)state;
    tok_free(client_tokenizer);
    return 0;
}

/* ---- clients ----------------------------------------------------------------------------------------------------- */

static void on_delta(void *context, const CompletionDelta *d)
{
    Client *c = context;
    REQUIRE(!c->last && d->choice >= 0 && d->choice < c->request.choices);
    Answer *a = &c->answers[d->choice];
    REQUIRE(!a->finished && !a->silent && (d->text_len || d->tokens_count));
    REQUIRE(utf8_complete(d->text, d->text_len) == d->text_len);
    a->silent = !d->text_len;
    if (a->count)
        a->marks[a->count] = a->text.len; /* another one follows */
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

void client_init(Client *c, int prompt_len, int64_t max_tokens)
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

void client_free(Client *c)
{
    for (int i = 0; i < CLIENT_MAX_CHOICES; i++)
        buf_free(&c->answers[i].text);
}

SubmitResult client_submit(Service *s, Client *c, Err *err)
{
    return service_submit(s, &c->request, &c->id, err);
}

void client_must_submit(Service *s, Client *c)
{
    Err err = {0};
    if (client_submit(s, c, &err) != SUBMIT_OK)
        die("%s", err.text);
}

void client_wait(const Client *c)
{
    for (int i = 0; i < 60000 && !atomic_load(&c->done); i++)
        usleep(1000);
    REQUIRE(atomic_load(&c->done));
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
    size_t ends[PAGED_CONTEXT + 1]; /* bytes of text, after so many tokens */
} Alone;

/* One choice, by itself, on one thread. */
static void run_alone(const Client *c, int choice, Alone *a)
{
    *a = (Alone){.reason = COMPLETION_LENGTH};
    SamplingParams p = c->params;
    p.seed += (uint64_t)choice;
    bool stopped;
    int n = paged_alone(&p, c->prompt, c->request.prompt_len, client_eos, 1, a->tokens, &stopped);
    TextStream *stream = text_new(client_tokenizer, c->prompt, (size_t)c->request.prompt_len, &(TextOptions){
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
        a->ends[a->count] = a->text.len + text_held(stream);
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
        REQUIRE(a->logprobs[i] == want);
        h = paged_hash(h, (int32_t)a->tokens[i]);
    }
}

static void check_prompt(const Client *c, const PromptToken *p)
{
    REQUIRE(isnan(p[0].logprob) && !p[0].top_count && p[0].id == c->prompt[0]);
    for (int i = 1; i < c->request.prompt_len; i++) {
        uint64_t h = prompt_state(c, i);
        int rank = 1;
        for (int t = 0; t < PAGED_VOCAB; t++)
            rank += paged_logit(h, t) > paged_logit(h, (int)c->prompt[i]);
        REQUIRE(p[i].id == c->prompt[i] && p[i].logprob == paged_logit(h, (int)c->prompt[i]) - 10);
        REQUIRE(p[i].rank == rank);
        REQUIRE(p[i].top_count == c->request.prompt_logprobs);
        for (int k = 0; k < p[i].top_count; k++)
            REQUIRE(p[i].top[k].logprob == paged_logit(h, (int)p[i].top[k].token) - 10);
    }
}

static void check_embedding(const Client *c, const Answer *a)
{
    REQUIRE(a->end.embedding_len == PAGED_HIDDEN);
    bool mean = c->request.pooling == POOLING_MEAN;
    double sum[PAGED_HIDDEN] = {0};
    for (int i = mean ? 1 : c->request.prompt_len; i <= c->request.prompt_len; i++) {
        float state[PAGED_HIDDEN];
        paged_hidden(prompt_state(c, i), state);
        for (int k = 0; k < PAGED_HIDDEN; k++)
            sum[k] += state[k];
    }
    for (int k = 0; k < PAGED_HIDDEN; k++)
        REQUIRE(a->end.embedding[k] == (float)(sum[k] / (mean ? c->request.prompt_len : 1)));
}

void client_check(const Client *c, int choice)
{
    const Answer *a = &c->answers[choice];
    Alone want;
    run_alone(c, choice, &want);
    bool whole = a->end.reason != COMPLETION_ABORT;
    REQUIRE(a->finished && (whole ? a->count == want.count : a->count <= want.count));
    REQUIRE(!memcmp(a->tokens, want.tokens, sizeof *a->tokens * (size_t)a->count));
    check_logprobs(c, a);
    for (int i = 1; i < a->count; i++)
        REQUIRE(!a->marks[i] || a->marks[i] == want.ends[i]); /* text and tokens of a delta belong together */
    if (whole) {
        REQUIRE(a->end.reason == want.reason);
        REQUIRE(a->text.len == want.text.len);
        REQUIRE(!a->text.len || !memcmp(a->text.data, want.text.data, want.text.len));
        REQUIRE(!want.stop == !a->end.stop_string);
        if (want.stop)
            REQUIRE(!strcmp(a->end.stop_string, want.stop));
        REQUIRE((a->end.prompt != NULL) == (c->request.prompt_logprobs >= 0 && !choice));
        REQUIRE((a->end.embedding != NULL) == (c->request.pooling && !choice));
        REQUIRE(isnan(a->end.first_token_seconds) == !a->count);
        REQUIRE(a->end.total_seconds >= a->end.queue_seconds && a->end.queue_seconds >= 0);
    }
    if (whole && a->end.prompt)
        check_prompt(c, a->end.prompt);
    if (whole && a->end.embedding)
        check_embedding(c, a);
    buf_free(&want.text);
}

/* ---- random ones ------------------------------------------------------------------------------------------------- */

uint64_t client_rnd(uint64_t *state, uint64_t n)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return (*state >> 33) % n;
}

void client_random(Client *c, uint64_t *seed)
{
    client_init(c, 1 + (int)client_rnd(seed, 60), (int64_t)client_rnd(seed, 40));
    for (int i = 0; i < c->request.prompt_len; i++)
        c->prompt[i] = client_rnd(seed, 20) == 0;
    SamplingParams *p = &c->params;
    p->min_tokens = client_rnd(seed, 4) ? 0 : p->max_tokens / 2;
    p->temperature = client_rnd(seed, 2) ? 1 : 0;
    p->seed = client_rnd(seed, 1000);
    p->repetition_penalty = client_rnd(seed, 3) ? 1 : 1.5;
    p->presence_penalty = client_rnd(seed, 3) ? 0 : 1;
    p->ignore_eos = client_rnd(seed, 2);
    p->logprobs = (int)client_rnd(seed, 5) - 1;
    c->request.stops_count = (int)client_rnd(seed, 3);
    for (int i = 0; i < c->request.stops_count; i++)
        for (uint64_t k = 0, n = 1 + client_rnd(seed, 2); k < n; k++)
            c->stop[i][k] = (char)('a' + client_rnd(seed, 20));
    c->request.include_stop = client_rnd(seed, 2);
    c->request.keep_special = client_rnd(seed, 2);
    c->request.choices = client_rnd(seed, 3) ? 1 : 1 + (int)client_rnd(seed, CLIENT_MAX_CHOICES);
    c->request.priority = (int)client_rnd(seed, 3) - 1;
    c->request.salt = client_rnd(seed, 3);
    c->request.prompt_logprobs = client_rnd(seed, 4) ? -1 : (int)client_rnd(seed, 4);
    if (client_rnd(seed, 8))
        return;
    p->max_tokens = p->min_tokens = 0;
    c->request.prompt_logprobs = -1;
    c->request.pooling = client_rnd(seed, 2) ? POOLING_LAST : POOLING_MEAN;
}
