/* sampler.c - implementation of sampler.h; see there. */
#include "sampler.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What is known of a token that may need adjusting. */
typedef struct Entry {
    uint32_t token;
    uint32_t generated; /* times */
    float bias;
    bool in_prompt;
    bool stops;
    bool allowed;       /* with allowed_tokens: is one of them */
    bool used;          /* slot of the table; false: free */
    int64_t banned_at;  /* it would complete a bad word when so many tokens, less one, are generated; 0: never yet */
} Entry;

struct Sampler {
    SamplingParams p;
    int64_t count;
    uint32_t *stops; /* end-of-sequence tokens first */
    int stops_count, eos_count;
    Entry *table;    /* open addressing; NULL when the request adjusts nothing */
    uint32_t mask, entries;
    SamplingTokens output; /* tokens generated so far; with bad words only */
};

SamplingParams sampling_defaults(void)
{
    return (SamplingParams){.top_p = 1, .repetition_penalty = 1, .max_tokens = 16, .logprobs = -1};
}

/* ---- ranges ------------------------------------------------------------------------------------------------------ */

static bool in_range(const char *name, double v, double lo, double hi, Err *err)
{
    if (v >= lo && v <= hi)
        return true;
    return err_set(err, "%s is %g, from %g to %g is allowed", name, v, lo, hi);
}

static bool check_list(const char *name, const SamplingTokens *list, int64_t most, int64_t vocab, Err *err)
{
    if ((int64_t)list->len > most)
        return err_set(err, "%s has %zu entries, at most %" PRId64 " are allowed", name, list->len, most);
    for (size_t i = 0; i < list->len; i++)
        if (list->at[i] >= vocab)
            return err_set(err, "%s: there is no token %" PRIu32, name, list->at[i]);
    return true;
}

static bool check_bias(const SamplingParams *p, int64_t vocab, Err *err)
{
    if (p->logit_bias.len > SAMPLING_MAX_BIAS)
        return err_set(err, "logit_bias has %zu entries, at most %d are allowed", p->logit_bias.len, SAMPLING_MAX_BIAS);
    for (size_t i = 0; i < p->logit_bias.len; i++) {
        if (p->logit_bias.at[i].token >= vocab)
            return err_set(err, "logit_bias: there is no token %" PRIu32, p->logit_bias.at[i].token);
        if (!in_range("logit_bias", p->logit_bias.at[i].bias, -100, 100, err))
            return false;
    }
    return true;
}

static bool check_bad_words(const SamplingTokens *words, int64_t vocab, Err *err)
{
    if (words->len > SAMPLING_MAX_BAD_WORDS)
        return err_set(err, "bad_words are more than %d tokens long", SAMPLING_MAX_BAD_WORDS);
    for (size_t i = 0, n; i < words->len; i += 1 + n) {
        n = words->at[i];
        if (n < 1 || n >= words->len - i)
            return err_set(err, "bad_words: a sequence of %zu tokens is not one", n);
        for (size_t k = i + 1; k <= i + n; k++)
            if (words->at[k] >= vocab)
                return err_set(err, "bad_words: there is no token %" PRIu32, words->at[k]);
    }
    return true;
}

bool sampling_check(const SamplingParams *p, int64_t vocab, Err *err)
{
    if (p->top_k < -1 || p->top_k > INT32_MAX)
        return err_set(err, "top_k is %" PRId64 ", -1 (off) or more is allowed", p->top_k);
    if (p->max_tokens < 0)
        return err_set(err, "max_tokens is %" PRId64 ", 0 or more is allowed", p->max_tokens);
    if (p->min_tokens < 0 || p->min_tokens > p->max_tokens)
        return err_set(err, "min_tokens is %" PRId64 ", from 0 to max_tokens (%" PRId64 ") is allowed", p->min_tokens,
                       p->max_tokens);
    return in_range("temperature", p->temperature, 0, 100, err) && in_range("top_p", p->top_p, 0, 1, err) &&
           in_range("min_p", p->min_p, 0, 1, err) &&
           in_range("repetition_penalty", p->repetition_penalty, 0.01, 100, err) &&
           in_range("presence_penalty", p->presence_penalty, -2, 2, err) &&
           in_range("frequency_penalty", p->frequency_penalty, -2, 2, err) &&
           in_range("logprobs", p->logprobs, -1, SAMPLING_MAX_LOGPROBS, err) && check_bias(p, vocab, err) &&
           check_list("stop_token_ids", &p->stop_tokens, SAMPLING_MAX_BIAS, vocab, err) &&
           check_list("allowed_token_ids", &p->allowed_tokens, vocab, vocab, err) &&
           check_bad_words(&p->bad_words, vocab, err);
}

/* ---- lists ------------------------------------------------------------------------------------------------------- */

static void *copy_of(const void *bytes, size_t n)
{
    return n ? memcpy(xmalloc(n), bytes, n) : NULL;
}

static SamplingTokens tokens_copy(const SamplingTokens *t)
{
    return (SamplingTokens){copy_of(t->at, t->len * sizeof *t->at), t->len, t->len};
}

SamplingParams sampling_copy(const SamplingParams *p)
{
    SamplingParams copy = *p;
    copy.logit_bias.at = copy_of(p->logit_bias.at, p->logit_bias.len * sizeof *p->logit_bias.at);
    copy.logit_bias.cap = p->logit_bias.len;
    copy.stop_tokens = tokens_copy(&p->stop_tokens);
    copy.allowed_tokens = tokens_copy(&p->allowed_tokens);
    copy.bad_words = tokens_copy(&p->bad_words);
    return copy;
}

void sampling_free(SamplingParams *p)
{
    vec_free(&p->logit_bias);
    vec_free(&p->stop_tokens);
    vec_free(&p->allowed_tokens);
    vec_free(&p->bad_words);
}

/* ---- table of tokens --------------------------------------------------------------------------------------------- */

static Entry *slot_of(Entry *table, uint32_t mask, uint32_t token)
{
    uint32_t i = (token * 2654435761u) & mask;
    while (table[i].used && table[i].token != token)
        i = (i + 1) & mask;
    return &table[i];
}

static void table_double(Sampler *s)
{
    uint32_t mask = s->mask * 2 + 1;
    Entry *table = xcalloc((size_t)mask + 1, sizeof *table);
    for (uint32_t i = 0; i <= s->mask; i++)
        if (s->table[i].used)
            *slot_of(table, mask, s->table[i].token) = s->table[i];
    free(s->table);
    s->table = table;
    s->mask = mask;
}

static Entry *entry_of(Sampler *s, uint32_t token)
{
    if (s->entries * 2 > s->mask)
        table_double(s);
    Entry *e = slot_of(s->table, s->mask, token);
    if (!e->used) {
        *e = (Entry){.token = token, .used = true};
        s->entries++;
    }
    return e;
}

static bool counts_tokens(const SamplingParams *p)
{
    return p->repetition_penalty != 1 || p->presence_penalty != 0 || p->frequency_penalty != 0;
}

/* Marks the tokens that would complete a bad word now. */
static void ban_words(Sampler *s)
{
    const SamplingTokens *words = &s->p.bad_words;
    for (size_t i = 0, n; i < words->len; i += 1 + n) {
        n = words->at[i];
        const uint32_t *word = words->at + i + 1;
        size_t before = n - 1;
        if (before > s->output.len)
            continue;
        if (before && memcmp(word, s->output.at + s->output.len - before, before * sizeof *word) != 0)
            continue;
        entry_of(s, word[before])->banned_at = s->count + 1;
    }
}

/* Puts the tokens that are known to need adjusting at some time into the table. */
static void fill_table(Sampler *s, const uint32_t *prompt, int n)
{
    const SamplingParams *p = &s->p;
    s->mask = 63;
    s->table = xcalloc((size_t)s->mask + 1, sizeof *s->table);
    for (size_t i = 0; i < p->logit_bias.len; i++)
        entry_of(s, p->logit_bias.at[i].token)->bias += p->logit_bias.at[i].bias;
    for (int i = 0; p->min_tokens && i < s->stops_count; i++)
        entry_of(s, s->stops[i])->stops = true;
    for (int i = 0; p->repetition_penalty != 1 && i < n; i++)
        entry_of(s, prompt[i])->in_prompt = true;
    for (size_t i = 0; i < p->allowed_tokens.len; i++)
        entry_of(s, p->allowed_tokens.at[i])->allowed = true;
    for (size_t i = 0; i < p->bad_words.len; i += 1 + p->bad_words.at[i])
        entry_of(s, p->bad_words.at[i + p->bad_words.at[i]]);
    ban_words(s);
}

Sampler *sampler_new(const SamplingParams *p, const uint32_t *prompt, int n, const uint32_t *eos, int eos_count)
{
    Sampler *s = xcalloc(1, sizeof *s);
    s->p = sampling_copy(p);
    s->eos_count = eos_count;
    s->stops_count = eos_count + (int)p->stop_tokens.len;
    s->stops = xmalloc(sizeof *s->stops * (size_t)s->stops_count);
    for (int i = 0; i < s->stops_count; i++)
        s->stops[i] = i < eos_count ? eos[i] : p->stop_tokens.at[i - eos_count];
    if (counts_tokens(p) || p->logit_bias.len || p->min_tokens || p->allowed_tokens.len || p->bad_words.len)
        fill_table(s, prompt, n);
    return s;
}

void sampler_free(Sampler *s)
{
    if (!s)
        return;
    sampling_free(&s->p);
    vec_free(&s->output);
    free(s->stops);
    free(s->table);
    free(s);
}

const SamplingParams *sampler_params(const Sampler *s)
{
    return &s->p;
}

int64_t sampler_max_adjustments(const Sampler *s, int64_t tokens, int64_t vocab)
{
    if (!s->table)
        return 0;
    return MIN(vocab, (int64_t)s->entries + (counts_tokens(&s->p) ? tokens : 0));
}

/* ---- the next token ---------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x) /* splitmix64's finaliser (Steele, Lea, Flood 2014) */
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

float sampling_draw(uint64_t seed, uint64_t position)
{
    uint64_t h = mix(mix(seed + 0x9e3779b97f4a7c15ull) ^ (position + 1) * 0x9e3779b97f4a7c15ull);
    return (float)(h >> 40) * 0x1p-24f;
}

void sampler_row(const Sampler *s, float row[8])
{
    const SamplingParams *p = &s->p;
    bool greedy = p->temperature < 1e-5; /* its inverse would only overflow */
    memset(row, 0, 8 * sizeof *row);
    row[0] = greedy ? 0 : (float)(1 / p->temperature);
    row[1] = (float)p->top_p;
    row[2] = (float)p->min_p;
    row[3] = sampling_draw(p->seed, (uint64_t)s->count);
    row[4] = p->top_k > 0 ? (float)MIN(p->top_k, 1 << 24) : 0;
}

static bool forbidden(const Sampler *s, const Entry *e)
{
    return (e->stops && s->count < s->p.min_tokens) || e->banned_at == s->count + 1;
}

/* What is added to the logit of a token that may come. */
static float addend(const Sampler *s, const Entry *e)
{
    double presence = e->generated ? s->p.presence_penalty : 0;
    return e->bias - (float)(s->p.frequency_penalty * e->generated + presence);
}

/* What is added to allowed tokens besides, so that nothing else comes: it takes the best of them far above all others,
 * and the kernel drops weights below 2^-36, that is logits 25 temperatures below the best one. With T the temperature
 * and R the repetition penalty, neither below 1, logits up to 243 in size need 243 (1 + R) + 25 T < 512 T R. So only
 * allowed tokens are adjusted, not the vocabulary, and rounded to 2^-14 at most while T R = 1. *obey: some allowed
 * tokens are not forbidden. */
static float lift(const Sampler *s, bool *obey)
{
    float best = -INFINITY, best_free = -INFINITY;
    for (uint32_t i = 0; i <= s->mask; i++) {
        const Entry *e = &s->table[i];
        if (!e->used || !e->allowed)
            continue;
        float a = addend(s, e);
        best = MAX(best, a);
        if (!forbidden(s, e))
            best_free = MAX(best_free, a);
    }
    *obey = best_free > -INFINITY;
    return (float)(512 * MAX(1, s->p.temperature) * MAX(1, s->p.repetition_penalty)) - (*obey ? best_free : best);
}

int sampler_adjust(const Sampler *s, int32_t *tokens, float (*values)[2])
{
    int n = 0;
    bool limited = s->p.allowed_tokens.len, obey = true;
    float more = limited ? lift(s, &obey) : 0;
    for (uint32_t i = 0; s->table && i <= s->mask; i++) {
        const Entry *e = &s->table[i];
        if (!e->used)
            continue;
        float r = e->in_prompt || e->generated ? (float)s->p.repetition_penalty : 1;
        float a = addend(s, e) + more;
        if ((obey && forbidden(s, e)) || (limited && !e->allowed))
            a = -INFINITY;
        if (r == 1 && a == 0)
            continue;
        tokens[n] = (int32_t)e->token;
        values[n][0] = r;
        values[n++][1] = a;
    }
    return n;
}

void sampler_accept(Sampler *s, uint32_t token)
{
    s->count++;
    if (counts_tokens(&s->p))
        entry_of(s, token)->generated++;
    if (!s->p.bad_words.len)
        return;
    vec_push(&s->output, token);
    ban_words(s);
}

int64_t sampler_count(const Sampler *s)
{
    return s->count;
}

static bool is_in(const uint32_t *tokens, int n, uint32_t token)
{
    for (int i = 0; i < n; i++)
        if (tokens[i] == token)
            return true;
    return false;
}

bool sampler_is_stop(const Sampler *s, uint32_t token)
{
    int first = s->p.ignore_eos ? s->eos_count : 0;
    return is_in(s->stops + first, s->stops_count - first, token);
}

/* ---- log-probabilities ------------------------------------------------------------------------------------------- */

int sampling_top(const float *logits, int64_t vocab, float log_sum_exp, int n, TopLogprob *out)
{
    int count = 0;
    for (int64_t t = 0; t < vocab; t++) {
        if (count == n && (n == 0 || !(logits[t] > out[n - 1].logprob)))
            continue;
        int i = count < n ? count++ : n - 1;
        for (; i > 0 && logits[t] > out[i - 1].logprob; i--)
            out[i] = out[i - 1];
        out[i] = (TopLogprob){(uint32_t)t, logits[t]}; /* the logit, until all are known */
    }
    for (int i = 0; i < count; i++)
        out[i].logprob -= log_sum_exp;
    return count;
}
