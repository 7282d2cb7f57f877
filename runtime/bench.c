/* bench.c - see bench.h.
 *
 * What the generator ships for the limits (compiler/lua/limits.lua), in the plan:
 *     "limits": [{"name": "read", "kernel": i, "bytes_per_block": N, "output_bytes": M},
 *                {"name": "int8" | "bf16" | "f32", "kernel": j, "ops_per_block": N, "input_bytes": [A, B],
 *                 "output_bytes": M}]
 * Both are ordinary kernels over sizes.rows blocks (grid [{"n": 1, "size": "rows"}]):
 *     read  buffers[0]: rows x bytes_per_block bytes; block i adds up its own piece, contiguous, as wide as it can
 *     peak  a buffer for each of input_bytes, which every block uses over and over from the first cache; a block issues
 *           ops_per_block / (operations of an instruction) of the instruction that the matmuls use, into as many
 *           independent sums as hide its latency. A multiply-add counts as 2.
 *     both  the last buffer: rows x output_bytes (default 64), where block i leaves its result, so that all is needed
 * Blocks should take 10 to 100 microseconds. "peak" of the plan names the limit that the model is held against.
 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

/* ---- limits ----------------------------------------------------------------------------------------------------- */

static const double limit_seconds = 0.05;

static const PlanLimit *find_limit(const Plan *p, const char *name)
{
    for (int i = 0; i < p->limits_count; i++)
        if (!strcmp(p->limits[i].name, name))
            return &p->limits[i];
    return NULL;
}

static size_t input_room(int64_t bytes)
{
    return (size_t)plan_room(bytes);
}

static double run_limit(BenchLimits *l, Model *m, const PlanLimit *limit, int64_t blocks)
{
    void *buffers[PLAN_MAX_INPUTS + 1] = {l->source};
    char *at = l->source;
    int n = 0;
    for (; n < limit->inputs; n++) {
        buffers[n] = at;
        at += input_room(limit->input_bytes[n]);
    }
    buffers[MAX(n, 1)] = l->results;
    double start = now_seconds();
    model_run_limit(m, limit, buffers, blocks);
    return now_seconds() - start;
}

/* Blocks of the peak kernel that take about limit_seconds. */
static int64_t calibrate(BenchLimits *l, Model *m, int64_t most)
{
    for (int64_t n = MIN(64, most);; n *= 2) {
        double seconds = run_limit(l, m, l->peak, n);
        if (seconds > limit_seconds / 4 || n > most / 8)
            return MIN(MAX((int64_t)((double)n * limit_seconds / seconds), 1), most);
    }
}

bool bench_limits_begin(BenchLimits *l, Model *m, size_t read_bytes, Err *err)
{
    const Plan *p = model_plan(m);
    Device *d = model_device(m);
    int64_t available, total;
    d->ops->memory(d, &available, &total);
    *l = (BenchLimits){.read = find_limit(p, "read"), .peak = find_limit(p, p->peak)};
    size_t need = 0;
    for (int i = 0; l->peak && i < l->peak->inputs; i++)
        need += input_room(l->peak->input_bytes[i]);
    if (l->read && l->read->bytes_per_block) {
        l->read_blocks = (int64_t)MIN(read_bytes, (size_t)available / 2) / l->read->bytes_per_block;
        need = MAX(need, (size_t)(l->read_blocks * l->read->bytes_per_block));
    }
    if (!need)
        return true;
    enum { MOST_BLOCKS = 1 << 14 };
    int64_t read = l->read ? l->read->output_bytes * l->read_blocks : 0;
    int64_t peak = l->peak ? l->peak->output_bytes * MOST_BLOCKS : 0;
    l->source_bytes = need + 64;
    l->results_bytes = (size_t)MAX(read, peak) + 64;
    l->source = d->ops->alloc(d, l->source_bytes, DEVICE_LOCAL, err);
    l->results = l->source ? d->ops->alloc(d, l->results_bytes, DEVICE_LOCAL, err) : NULL;
    if (!l->results) {
        bench_limits_end(l, m);
        return false;
    }
    /* Written once, or all pages would be the same page of zeros. Small bytes are fine numbers in every type. */
    d->ops->fill(d, l->source, l->source_bytes, &(PlanFill){DT_F32, 1, 0}, 1);
    d->ops->fill(d, l->results, l->results_bytes, &(PlanFill){DT_NONE}, 0);
    if (l->peak && l->peak->ops_per_block)
        l->peak_blocks = calibrate(l, m, MOST_BLOCKS);
    return true;
}

void bench_limits_measure(BenchLimits *l, Model *m)
{
    for (int i = 0; i < 3; i++) {
        if (l->read_blocks) {
            double bytes = (double)l->read_blocks * (double)l->read->bytes_per_block;
            l->read_rate = MAX(l->read_rate, bytes / run_limit(l, m, l->read, l->read_blocks));
        }
        if (l->peak_blocks) {
            double operations = (double)l->peak_blocks * (double)l->peak->ops_per_block;
            l->peak_rate = MAX(l->peak_rate, operations / run_limit(l, m, l->peak, l->peak_blocks));
        }
    }
}

void bench_limits_end(BenchLimits *l, Model *m)
{
    Device *d = model_device(m);
    if (l->source)
        d->ops->free(d, l->source, l->source_bytes);
    if (l->results)
        d->ops->free(d, l->results, l->results_bytes);
    *l = (BenchLimits){0};
}

/* ---- steps ------------------------------------------------------------------------------------------------------ */

/* Sequence s has pages s * width .. s * width + width - 1, so that every position has its slot at once. */
typedef struct Batch {
    Model *m;
    int64_t width; /* pages a sequence */
    ModelStep step;
} Batch;

static int32_t *ints(Model *m, PlanIo io)
{
    return model_io(m, io);
}

static bool batch_begin(Batch *b, Model *m, int64_t seqs, int64_t tokens_each, Err *err)
{
    const ModelLimits *l = model_limits(m);
    int64_t width = (tokens_each + l->page_tokens - 1) / l->page_tokens;
    if (width > l->table_width || width * seqs > l->pages || seqs > l->seqs)
        return err_set(err, "%lld sequences of %lld tokens do not fit the KV cache of %lld pages of %lld tokens; use a "
                       "larger --kv-cache-memory", (long long)seqs, (long long)tokens_each, (long long)l->pages,
                       (long long)l->page_tokens);
    *b = (Batch){m, width, {0}};
    for (int64_t page = 0; page < width * seqs; page++)
        model_zero_page(m, page);
    return true;
}

static void begin_step(Batch *b, int64_t seqs)
{
    b->step = (ModelStep){.seqs = seqs, .table_width = b->width, .logits_unread = true};
    ints(b->m, IO_ADJUST_START)[0] = 0;
    for (int64_t i = 0; i < seqs * b->width; i++)
        ints(b->m, IO_BLOCK_TABLE)[i] = (int32_t)i;
}

static void add_token(Batch *b, int64_t seq, int64_t position)
{
    int64_t row = b->step.tokens++;
    int64_t vocab = model_plan(b->m)->vocab;
    ints(b->m, IO_TOKENS)[row] = (int32_t)((seq * 7919 + position * 104729 + 1) % vocab);
    ints(b->m, IO_POSITIONS)[row] = (int32_t)position;
    ints(b->m, IO_KV_SLOT)[row] = (int32_t)(seq * b->width * model_limits(b->m)->page_tokens + position);
}

static void add_tile(int32_t *tiles, int64_t *count, int64_t row, int64_t rows, int64_t seq)
{
    int32_t *t = tiles + 4 * (*count)++;
    t[0] = (int32_t)row;
    t[1] = (int32_t)rows;
    t[2] = (int32_t)seq;
    t[3] = 0;
}

/* Logits of the last token added, sampled greedily. */
static void add_output(Batch *b)
{
    int64_t s = b->step.outputs++;
    float *params = (float *)model_io(b->m, IO_SAMPLE_PARAMS) + 8 * s;
    ints(b->m, IO_OUTPUT_ROWS)[s] = (int32_t)(b->step.tokens - 1);
    memset(params, 0, 8 * sizeof *params);
    params[1] = 1;
    ints(b->m, IO_ADJUST_START)[s + 1] = 0;
}

/* The next piece of a prompt, at most `room` tokens of it; returns how many. */
static int64_t add_piece(Batch *b, int64_t seq, int64_t from, int64_t prompt, int64_t room)
{
    int64_t n = MIN(prompt - from, room), tile = model_plan(b->m)->prefill_tile, first = b->step.tokens;
    for (int64_t i = 0; i < n; i++)
        add_token(b, seq, from + i);
    for (int64_t i = 0; i < n; i += tile)
        add_tile(ints(b->m, IO_PREFILL_TILES), &b->step.prefill_tiles, first + i, MIN(tile, n - i), seq);
    if (from + n == prompt)
        add_output(b);
    return n;
}

bool bench_prefill(Model *m, int64_t seqs, int64_t prompt, double *seconds, double *operations, Err *err)
{
    const Plan *p = model_plan(m);
    const ModelLimits *l = model_limits(m);
    Batch b;
    if (!batch_begin(&b, m, seqs, prompt, err))
        return false;
    *seconds = *operations = 0;
    for (int64_t seq = 0, from = 0; seq < seqs;) {
        begin_step(&b, seqs);
        while (seq < seqs && b.step.tokens < l->tokens && b.step.outputs < l->outputs) {
            from += add_piece(&b, seq, from, prompt, l->tokens - b.step.tokens);
            if (from < prompt)
                break;
            from = 0;
            seq++;
        }
        double start = now_seconds();
        if (!model_run(m, &b.step, err))
            return false;
        *seconds += now_seconds() - start;
        *operations += p->flops_per_token * (double)b.step.tokens + p->flops_per_output * (double)b.step.outputs;
    }
    return true;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

bool bench_decode(Model *m, int64_t batch, int64_t context, int64_t steps, double *seconds, Err *err)
{
    Batch b;
    if (!batch_begin(&b, m, batch, context + steps + 1, err))
        return false;
    double *times = xcalloc((size_t)steps, sizeof *times);
    bool ok = true;
    for (int64_t i = -1; ok && i < steps; i++) { /* the first one warms up */
        begin_step(&b, batch);
        for (int64_t seq = 0; seq < batch; seq++) {
            add_tile(ints(m, IO_DECODE_TILES), &b.step.decode_tiles, b.step.tokens, 1, seq);
            add_token(&b, seq, context + i + 1);
            add_output(&b);
        }
        double start = now_seconds();
        ok = model_run(m, &b.step, err);
        if (i >= 0)
            times[i] = now_seconds() - start;
    }
    qsort(times, (size_t)steps, sizeof *times, by_value);
    *seconds = times[steps / 2];
    free(times);
    return ok;
}

double bench_decode_bytes(const Model *m, int64_t batch, int64_t context)
{
    const Plan *p = model_plan(m);
    double kv = (double)plan_page_bytes(p) / (double)p->page_tokens;
    return p->weight_bytes_per_step + kv * (double)context * (double)batch;
}

double bench_decode_operations(const Model *m, int64_t batch)
{
    const Plan *p = model_plan(m);
    return (p->flops_per_token + p->flops_per_output) * (double)batch;
}
