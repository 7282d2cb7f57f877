/* paged_model.c - see paged_model.h. */
#include "paged_model.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sampler.h"

enum { STRIDE = 32, HIDDEN_STRIDE = 4, POISON = -7, TABLE_WIDTH = 13 };

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
    return m->io[0][io];
}

void *model_input(Model *m, int set, PlanIo io)
{
    return m->io[set][io];
}

void model_zero_page(Model *m, int64_t page)
{
    memset(m->slots + page * m->limits.page_tokens, 0, sizeof *m->slots * (size_t)m->limits.page_tokens);
}

uint64_t paged_hash(uint64_t h, int32_t token)
{
    return hash_bytes(h, &token, sizeof token);
}

float paged_logit(uint64_t state, int token)
{
    return (float)(hash_bytes(state, &token, sizeof token) % 4096) / 512 - 4;
}

static void write_kv(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    Model *m = context;
    const int32_t *tokens = m->io[m->set][IO_TOKENS], *slot = m->io[m->set][IO_KV_SLOT];
    for (int64_t i = begin; i < end; i++)
        m->slots[slot[i]] = tokens[i];
}

static void attend_tile(Model *m, const int32_t tile[4])
{
    int64_t size = m->limits.page_tokens;
    const int32_t *positions = m->io[m->set][IO_POSITIONS], *table = m->io[m->set][IO_BLOCK_TABLE];
    table += tile[2] * m->step.table_width;
    for (int32_t row = tile[0]; row < tile[0] + tile[1]; row++) {
        uint64_t h = HASH_SEED;
        for (int i = 0; i <= positions[row]; i++)
            h = paged_hash(h, m->slots[table[i / size] * size + i % size]);
        for (int64_t i = 0; i < size; i++) /* a kernel may read the whole last page */
            m->poisoned += m->slots[table[positions[row] / size] * size + i] == POISON;
        m->state[row] = h;
    }
}

static void attend(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    Model *m = context;
    const int32_t(*decode)[4] = m->io[m->set][IO_DECODE_TILES], (*prefill)[4] = m->io[m->set][IO_PREFILL_TILES];
    for (int64_t i = begin; i < end; i++) {
        int64_t j = i - m->step.decode_tiles;
        attend_tile(m, j < 0 ? decode[i] : prefill[j]);
    }
}

int32_t paged_choose(const float logits[PAGED_VOCAB], const float params[8])
{
    if (params[0] > 0)
        return (int32_t)(params[3] * PAGED_VOCAB);
    int best = 0;
    for (int t = 1; t < PAGED_VOCAB; t++)
        best = logits[t] > logits[best] ? t : best;
    return best;
}

static void make_logits(void *context, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    Model *m = context;
    const int32_t *rows = m->io[m->set][IO_OUTPUT_ROWS], *start = m->io[m->set][IO_ADJUST_START], *token = m->io[m->set][IO_ADJUST_TOKEN];
    const float(*value)[2] = m->io[m->set][IO_ADJUST_VALUE], (*params)[8] = m->io[m->set][IO_SAMPLE_PARAMS];
    float(*logits)[STRIDE] = m->io[0][IO_LOGITS], (*logz)[2] = m->io[0][IO_LOGZ], *logprob = m->io[0][IO_SAMPLED_LOGPROB];
    int32_t *sampled = m->io[0][IO_SAMPLED];
    for (int64_t i = begin; i < end; i++) {
        float adjusted[PAGED_VOCAB];
        for (int t = 0; t < PAGED_VOCAB; t++)
            adjusted[t] = logits[i][t] = paged_logit(m->state[rows[i]], t);
        for (int32_t j = start[i]; j < start[i + 1]; j++) {
            float *x = &adjusted[token[j]];
            *x = (*x > 0 ? *x / value[j][0] : *x * value[j][0]) + value[j][1];
        }
        sampled[i] = paged_choose(adjusted, params[i]);
        logz[i][1] = 10;
        logprob[i] = logits[i][sampled[i]] - 10;
    }
}

void paged_hidden(uint64_t state, float out[PAGED_HIDDEN])
{
    for (int i = 0; i < PAGED_HIDDEN; i++)
        out[i] = (float)(state >> 16 * i & 0xffff) - 32768;
}

static void *run_step(void *context)
{
    Model *m = context;
    if (atomic_load(&m->step_us))
        usleep((useconds_t)atomic_load(&m->step_us));
    pool_run(m->pool, write_kv, m, m->step.tokens);
    pool_run(m->pool, attend, m, m->step.decode_tiles + m->step.prefill_tiles);
    pool_run(m->pool, make_logits, m, m->step.outputs);
    const int32_t *rows = m->io[m->set][IO_HIDDEN_ROWS];
    for (int64_t i = 0; i < m->step.hiddens; i++)
        paged_hidden(m->state[rows[i]], (float *)m->io[0][IO_HIDDEN] + i * HIDDEN_STRIDE);
    return NULL;
}

bool model_wait(Model *m, Err *err)
{
    if (m->running)
        pthread_join(m->thread, NULL);
    m->running = false;
    return !atomic_load(&m->lost) || err_set(err, "the device is lost");
}

bool model_start(Model *m, int set, const ModelStep *step, Err *err)
{
    const ModelLimits *l = &m->limits;
    if (step->tokens > l->tokens || step->seqs > l->seqs || step->outputs > l->outputs ||
        step->decode_tiles > l->decode_tiles || step->prefill_tiles > l->prefill_tiles ||
        step->adjustments > l->adjustments || step->table_width > l->table_width || step->hiddens > l->hiddens)
        return err_set(err, "a size of the step is above its limit");
    if (atomic_load(&m->broken))
        return err_set(err, "the device is gone");
    if (m->running || m->poisoned)
        return err_set(err, m->running ? "a step runs already" : "a page is used that nobody had zeroed");
    m->set = set;
    m->step = *step;
    m->running = m->queue && !pthread_create(&m->thread, NULL, run_step, m);
    if (!m->running)
        run_step(m);
    return true;
}

void paged_setup(Model *m, int tokens, int seqs, int pages)
{
    *m = (Model){.plan = {.vocab = PAGED_VOCAB, .context = PAGED_CONTEXT, .prefill_tile = 4, .logits_stride = STRIDE,
                          .hidden = PAGED_HIDDEN, .hidden_stride = HIDDEN_STRIDE}};
    ModelLimits *l = &m->limits;
    *l = (ModelLimits){.tokens = tokens, .seqs = seqs, .outputs = seqs + 3, .decode_tiles = tokens, .adjustments = 300,
                       .hiddens = tokens, .max_model_len = PAGED_CONTEXT, .page_tokens = 8,
                       .table_width = TABLE_WIDTH, .pages = pages ? pages : TABLE_WIDTH * seqs};
    l->prefill_tiles = MIN(tokens, tokens / 4 + seqs);
    Err err = {0};
    if (!(m->pool = pool_new(3, &err)))
        die("%s", err.text);
    m->slots = xmalloc(sizeof *m->slots * (size_t)(l->pages * 8));
    for (int64_t i = 0; i < l->pages * 8; i++)
        m->slots[i] = POISON;
    m->state = xcalloc((size_t)tokens, sizeof *m->state);
    size_t t = (size_t)tokens, s = (size_t)seqs, o = (size_t)l->outputs;
    size_t bytes[IO_COUNT] = {
        [IO_TOKENS] = t * 4, [IO_POSITIONS] = t * 4, [IO_KV_SLOT] = t * 4, [IO_BLOCK_TABLE] = s * TABLE_WIDTH * 4,
        [IO_DECODE_TILES] = t * 16, [IO_PREFILL_TILES] = (size_t)l->prefill_tiles * 16, [IO_OUTPUT_ROWS] = o * 4,
        [IO_HIDDEN_ROWS] = t * 4, [IO_SAMPLE_PARAMS] = o * 32, [IO_ADJUST_START] = (o + 1) * 4,
        [IO_ADJUST_TOKEN] = 300 * 4, [IO_ADJUST_VALUE] = 300 * 8, [IO_LOGITS] = o * STRIDE * 4, [IO_SAMPLED] = o * 4,
        [IO_SAMPLED_LOGPROB] = o * 4, [IO_LOGZ] = o * 8, [IO_HIDDEN] = t * HIDDEN_STRIDE * 4,
    };
    for (int set = 0; set < PLAN_INPUT_SETS; set++)
        for (int i = 0; i < IO_COUNT; i++)
            m->io[set][i] = xcalloc(1, bytes[i]);
}

void paged_teardown(Model *m)
{
    for (int set = 0; set < PLAN_INPUT_SETS; set++)
        for (int i = 0; i < IO_COUNT; i++)
            free(m->io[set][i]);
    free(m->slots);
    free(m->state);
    pool_free(m->pool);
}

int paged_alone(const SamplingParams *p, const uint32_t *prompt, int n, const uint32_t *eos, int eos_count,
                uint32_t out[PAGED_CONTEXT], bool *stopped)
{
    Sampler *s = sampler_new(p, prompt, n, eos, eos_count);
    uint64_t h = HASH_SEED;
    for (int i = 0; i < n; i++)
        h = paged_hash(h, (int32_t)prompt[i]);
    int count = 0, most = (int)MIN(p->max_tokens, PAGED_CONTEXT - n);
    *stopped = false;
    while (count < most && !*stopped) {
        float logits[PAGED_VOCAB], row[8], values[PAGED_VOCAB][2];
        int32_t ids[PAGED_VOCAB];
        for (int t = 0; t < PAGED_VOCAB; t++)
            logits[t] = paged_logit(h, t);
        for (int i = sampler_adjust(s, ids, values) - 1; i >= 0; i--) {
            float *x = &logits[ids[i]];
            *x = (*x > 0 ? *x / values[i][0] : *x * values[i][0]) + values[i][1];
        }
        sampler_row(s, row);
        uint32_t token = (uint32_t)paged_choose(logits, row);
        out[count++] = token;
        sampler_accept(s, token);
        h = paged_hash(h, (int32_t)token);
        *stopped = sampler_is_stop(s, token);
    }
    sampler_free(s);
    return count;
}
