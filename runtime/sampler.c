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
    bool used; /* slot of the table; false: free */
} Entry;

struct Sampler {
    SamplingParams p;
    int64_t count;
    uint32_t *stops; /* end-of-sequence tokens first */
    int stops_count, eos_count;
    Entry *table;    /* open addressing; NULL when the request adjusts nothing */
    uint32_t mask, entries;
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

static bool check_tokens(const SamplingParams *p, int64_t vocab, Err *err)
{
    for (size_t i = 0; i < p->logit_bias.len; i++) {
        if (p->logit_bias.at[i].token >= vocab)
            return err_set(err, "logit_bias: there is no token %" PRIu32, p->logit_bias.at[i].token);
        if (!in_range("logit_bias", p->logit_bias.at[i].bias, -100, 100, err))
            return false;
    }
    for (size_t i = 0; i < p->stop_tokens.len; i++)
        if (p->stop_tokens.at[i] >= vocab)
            return err_set(err, "stop token: there is no token %" PRIu32, p->stop_tokens.at[i]);
    return true;
}

bool sampling_check(const SamplingParams *p, int64_t vocab, Err *err)
{
    if (p->top_k < -1 || p->top_k > INT32_MAX)
        return err_set(err, "top_k is %" PRId64 ", -1 (off) or more is allowed", p->top_k);
    if (p->max_tokens < 0 || p->min_tokens < 0 || p->min_tokens > p->max_tokens)
        return err_set(err, "min_tokens is %" PRId64 ", from 0 to max_tokens (%" PRId64 ") is allowed", p->min_tokens,
                       p->max_tokens);
    if (p->logit_bias.len > SAMPLING_MAX_BIAS || p->stop_tokens.len > SAMPLING_MAX_BIAS)
        return err_set(err, "logit_bias and stop tokens: at most %d entries are allowed", SAMPLING_MAX_BIAS);
    return in_range("temperature", p->temperature, 0, 100, err) && in_range("top_p", p->top_p, 0, 1, err) &&
           in_range("min_p", p->min_p, 0, 1, err) &&
           in_range("repetition_penalty", p->repetition_penalty, 0.01, 100, err) &&
           in_range("presence_penalty", p->presence_penalty, -2, 2, err) &&
           in_range("frequency_penalty", p->frequency_penalty, -2, 2, err) &&
           in_range("logprobs", p->logprobs, -1, SAMPLING_MAX_LOGPROBS, err) && check_tokens(p, vocab, err);
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

Sampler *sampler_new(const SamplingParams *p, const uint32_t *prompt, int n, const uint32_t *eos, int eos_count)
{
    Sampler *s = xcalloc(1, sizeof *s);
    s->p = *p;
    s->p.logit_bias.at = NULL;
    s->p.stop_tokens.at = NULL;
    s->eos_count = eos_count;
    s->stops_count = eos_count + (int)p->stop_tokens.len;
    s->stops = xmalloc(sizeof *s->stops * (size_t)s->stops_count);
    for (int i = 0; i < s->stops_count; i++)
        s->stops[i] = i < eos_count ? eos[i] : p->stop_tokens.at[i - eos_count];
    if (!counts_tokens(p) && !p->logit_bias.len && !p->min_tokens)
        return s;
    s->mask = 63;
    s->table = xcalloc((size_t)s->mask + 1, sizeof *s->table);
    for (size_t i = 0; i < p->logit_bias.len; i++)
        entry_of(s, p->logit_bias.at[i].token)->bias += p->logit_bias.at[i].bias;
    for (int i = 0; p->min_tokens && i < s->stops_count; i++)
        entry_of(s, s->stops[i]);
    for (int i = 0; p->repetition_penalty != 1 && i < n; i++)
        entry_of(s, prompt[i])->in_prompt = true;
    return s;
}

void sampler_free(Sampler *s)
{
    if (!s)
        return;
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

static bool is_in(const uint32_t *tokens, int n, uint32_t token)
{
    for (int i = 0; i < n; i++)
        if (tokens[i] == token)
            return true;
    return false;
}

int sampler_adjust(const Sampler *s, int32_t *tokens, float (*values)[2])
{
    int n = 0;
    bool forbid_stops = s->count < s->p.min_tokens;
    for (uint32_t i = 0; s->table && i <= s->mask; i++) {
        const Entry *e = &s->table[i];
        if (!e->used)
            continue;
        float r = e->in_prompt || e->generated ? (float)s->p.repetition_penalty : 1;
        double presence = e->generated ? s->p.presence_penalty : 0;
        float a = e->bias - (float)(s->p.frequency_penalty * e->generated + presence);
        if (forbid_stops && is_in(s->stops, s->stops_count, e->token))
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
}

int64_t sampler_count(const Sampler *s)
{
    return s->count;
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
