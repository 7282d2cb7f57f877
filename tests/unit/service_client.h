/* service_client.h - clients of a service for its test: what they ask, what they got, and what they should have got. */
#ifndef BLADE_SERVICE_CLIENT_H
#define BLADE_SERVICE_CLIENT_H

#include <stdatomic.h>

#include "paged_model.h"
#include "service.h"
#include "test.h"

/* In place of cmocka's asserts, which cannot be used on other threads. */
#define REQUIRE(condition) \
    do { \
        if (!(condition)) \
            die("%s:%d: %s", __FILE__, __LINE__, #condition); \
    } while (0)

enum { CLIENT_EOS = 23, CLIENT_MAX_CHOICES = 3 };

extern const uint32_t client_eos[1];

/* Letters a..t, an e with accent in two tokens (20, 21), the word "the", the end of sequence: a fixture of cmocka. */
extern Tokenizer *client_tokenizer;
int client_make_tokenizer(void **state);
int client_free_tokenizer(void **state);

typedef struct Answer {
    uint32_t tokens[PAGED_CONTEXT];
    float logprobs[PAGED_CONTEXT];
    int count;
    Buf text;
    bool silent; /* a delta without text came, it must be the last */
    bool finished;
    CompletionEnd end;
    char stop[16], error[200];
    size_t marks[PAGED_CONTEXT + 1]; /* bytes of text that had come with so many tokens, at the end of a delta */
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
    Answer answers[CLIENT_MAX_CHOICES];
    int finished;
    bool last;
    atomic_bool done;
} Client;

/* A prompt of so many tokens 0, greedy. */
void client_init(Client *c, int prompt_len, int64_t max_tokens);
void client_free(Client *c);
SubmitResult client_submit(Service *s, Client *c, Err *err);
void client_must_submit(Service *s, Client *c);
void client_wait(const Client *c); /* the last finish; at most a minute */

/* Checks everything that a choice got against the same request alone; of a cancelled one, the beginning. */
void client_check(const Client *c, int choice);

uint64_t client_rnd(uint64_t *state, uint64_t n); /* below n */
void client_random(Client *c, uint64_t *seed);

#endif
