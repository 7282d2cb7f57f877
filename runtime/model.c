/* model.c - loading a model and running its steps; see model.h. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "exec.h"
#include "jit.h"
#include "pool.h"
#include "timing.h"
#include "weights.h"

struct Model {
    ModelOptions options;
    char formats[64]; /* asked for, as the generator takes them: "w4", "auto+kv-int8"; "": whatever a pack has */
    Checkpoint *checkpoint;
    Pack pack;
    Plan *plan;
    ModelLimits limits;
    int64_t caps[SIZE_COUNT];
    PlanMemory memory;
    int threads;
    Device *device; /* a GPU from the beginning, the host's when the plan is known */
    Exec *exec;
    void *io[PLAN_INPUT_SETS][IO_COUNT]; /* outputs: in the first */
    void *unread[PLAN_INPUT_SETS][IO_COUNT]; /* inputs that no kernel reads have an array all the same, so that callers need not ask */
    int forced_step;        /* -1: by the number of tokens */
    Buf warning;
};

static double mib(int64_t bytes)
{
    return (double)bytes / 1048576;
}

/* ---- checkpoint and pack -------------------------------------------------------------------------------------- */

/* What the generator is given: with random weights the configuration alone, so that both see the same fingerprint. */
static void model_path(const Model *m, char *out, size_t size)
{
    const ModelOptions *o = &m->options;
    struct stat st;
    if (o->random_weights && stat(o->model, &st) == 0 && S_ISDIR(st.st_mode))
        snprintf(out, size, "%s/config.json", ckpt_dir(m->checkpoint));
    else
        snprintf(out, size, "%s", o->model);
}

static bool open_pack(Model *m, Err *err)
{
    const ModelOptions *o = &m->options;
    uint64_t fingerprint = ckpt_fingerprint(m->checkpoint);
    char path[4096];
    model_path(m, path, sizeof path);
    JitRequest r = {
        .model = path, .fingerprint = fingerprint, .target = m->device ? m->device->target : NULL,
        .name = m->device ? m->device->name : NULL,
        .weights = *m->formats ? m->formats : "auto", .cache = o->cache,
        .generator = o->generator, .threads = m->threads, .progress = o->progress, .context = o->context,
    };
    if (!o->pack)
        return jit_pack(&r, &m->pack, &m->warning, err);
    bool ok = jit_named(&r, o->pack, *m->formats ? m->formats : NULL, &m->pack, &m->warning, err);
    timing_phase("open pack", 0);
    return ok;
}

static bool serves(const Pack *p, const char *device)
{
    for (int i = 0; i < p->parts_count; i++)
        if (device_rank(device, p->parts[i].target) >= 0)
            return true;
    return false;
}

/* Where nobody named a device, a pack that somebody named decides: one for the host alone runs there, GPU or not. */
static void prefer_host(Model *m)
{
    const char *name = m->options.device;
    Pack p;
    if (!m->device || !m->options.pack || (name && strcmp(name, "auto")) || !pack_open(m->options.pack, &p, &(Err){0}))
        return;
    if (!serves(&p, m->device->target) && serves(&p, "")) {
        m->device->ops->close(m->device);
        m->device = NULL;
    }
    pack_close(&p);
}

static bool open_model(Model *m, Err *err)
{
    const ModelOptions *o = &m->options;
    m->checkpoint = o->random_weights ? ckpt_open_config(o->model, err) : ckpt_open(o->model, err);
    if (!m->checkpoint)
        return false;
    if (!o->random_weights && !o->plan_only)
        ckpt_prefetch(m->checkpoint);
    timing_phase("open checkpoint", 0);
    if (!device_gpu_open(o->device, &m->device, err))
        return false;
    prefer_host(m);
    if (m->device)
        timing_phase("open GPU", 0);
    if (!open_pack(m, err))
        return false;
    m->plan = plan_parse(m->pack.plan, m->pack.plan_len, m->pack.code_len, err);
    return m->plan || err_prefix(err, "%s", o->pack ? o->pack : "the pack in the cache folder");
}

/* ---- capacities ----------------------------------------------------------------------------------------------- */

static int64_t ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b > 0);
}

static void set_caps(Model *m)
{
    const ModelLimits *l = &m->limits;
    m->caps[SIZE_TOKENS] = l->tokens;
    m->caps[SIZE_SEQS] = l->seqs;
    m->caps[SIZE_OUTPUTS] = l->outputs;
    m->caps[SIZE_DECODE_TILES] = l->decode_tiles;
    m->caps[SIZE_PREFILL_TILES] = l->prefill_tiles;
    m->caps[SIZE_TABLE_WIDTH] = l->table_width;
    m->caps[SIZE_KV_PAGES] = l->pages;
    m->caps[SIZE_EXTRA] = l->adjustments;
    m->caps[SIZE_HIDDENS] = l->hiddens;
}

/* Memory for the present limits, with the mapped tensors that must be copied counted among the weights, and those that
 * a GPU has copies of while loading among the temporary. */
static bool measure(Model *m, Err *err)
{
    set_caps(m);
    if (!plan_memory(m->plan, m->caps, m->threads, &m->memory, err))
        return false;
    const Checkpoint *tensors = m->options.random_weights ? NULL : m->checkpoint;
    int64_t copied, loading = m->device ? weights_copied_at_once(m->plan, tensors) : 0;
    weights_mapped(m->plan, m->device ? NULL : tensors, &copied, &m->memory.kind[BUFFER_MAPPED]);
    m->memory.kind[BUFFER_WEIGHT] += copied;
    m->memory.kind[BUFFER_TEMPORARY] += loading;
    m->memory.total += copied;
    m->memory.peak += copied + loading;
    return true;
}

void model_available(const Model *m, int64_t *available, int64_t *total)
{
    if (m->device)
        m->device->ops->memory(m->device, available, total);
    else
        host_memory(available, total);
}

/* Pages of the KV cache: for all sequences, within the memory asked for or 2/5 of what is free; a GPU is there for nothing
 * else, and keeps a tenth. At least one sequence of the length asked for; whether that fits the memory is checked later,
 * with everything else. */
static bool choose_pages(Model *m, int64_t available, Err *err)
{
    ModelLimits *l = &m->limits;
    int64_t page_bytes = MAX(plan_page_bytes(m->plan), 1), asked = m->options.kv_cache_memory;
    int64_t sequence = ceil_div(l->max_model_len, l->page_tokens);
    int64_t room = m->device ? available / 10 * 9 - m->memory.peak : (available - m->memory.peak) / 5 * 2;
    int64_t budget = asked ? asked : MAX(room, 0);
    l->pages = MIN(budget / page_bytes, sequence * l->seqs);
    l->pages = MIN(l->pages, INT32_MAX / l->page_tokens); /* slots are 32-bit */
    bool fixed = m->options.max_model_len || !l->pages;
    if (l->pages < sequence && fixed && !asked)
        l->pages = sequence;
    if (l->pages >= sequence)
        return true;
    if (fixed)
        return err_set(err, "a KV cache of %.3f MiB can't hold one sequence of %lld tokens (%.3f MiB); use a larger "
                       "--kv-cache-memory or a smaller --max-model-len", mib(budget), (long long)l->max_model_len,
                       mib(sequence * page_bytes));
    l->max_model_len = l->pages * l->page_tokens;
    buf_printf(&m->warning, "%sthe KV cache holds %lld tokens; sequences end there, not at the model's context of %lld",
               m->warning.len ? "\n" : "", (long long)l->max_model_len, (long long)m->plan->context);
    return true;
}

static bool set_limits(Model *m, Err *err)
{
    const ModelOptions *o = &m->options;
    const Plan *p = m->plan;
    ModelLimits *l = &m->limits;
    if (o->max_model_len > p->context)
        return err_set(err, "--max-model-len %lld is more than the model's context of %lld tokens",
                       (long long)o->max_model_len, (long long)p->context);
    l->tokens = o->max_num_batched_tokens ? o->max_num_batched_tokens : 512;
    l->seqs = o->max_num_seqs ? o->max_num_seqs : 64;
    l->outputs = o->max_outputs ? o->max_outputs : l->seqs;
    l->adjustments = o->max_adjustments ? o->max_adjustments : 262144;
    l->max_model_len = o->max_model_len ? o->max_model_len : p->context;
    if (l->tokens < 1 || l->seqs < 1 || l->outputs < 1 || l->adjustments < 1 || l->max_model_len < 1 ||
        MAX(MAX(l->tokens, l->seqs), MAX(l->outputs, l->adjustments)) > INT32_MAX / 2)
        return err_set(err, "limits on tokens, sequences and outputs must be from 1 to %d", INT32_MAX / 2);
    l->page_tokens = p->page_tokens;
    l->decode_tiles = l->hiddens = l->tokens;
    l->prefill_tiles = MIN(l->tokens, l->tokens / p->prefill_tile + l->seqs);
    l->table_width = ceil_div(l->max_model_len, l->page_tokens);
    int64_t available, total;
    model_available(m, &available, &total);
    if (!measure(m, err) || !choose_pages(m, available, err))
        return false;
    l->table_width = ceil_div(l->max_model_len, l->page_tokens);
    if (!measure(m, err))
        return false;
    if (m->memory.peak > available && !o->plan_only)
        return err_set(err, "not enough memory%s%s: %.1f MiB are needed (weights %.1f, KV cache %.1f, working memory "
                       "%.1f), %.1f MiB are available; use a smaller --kv-cache-memory or --max-num-seqs, or "
                       "--weights w4", m->device ? " on " : "", m->device ? m->device->label : "",
                       mib(m->memory.peak), mib(m->memory.kind[BUFFER_WEIGHT] + m->memory.kind[BUFFER_TEMPORARY]),
                       mib(m->memory.kind[BUFFER_KV]),
                       mib(m->memory.total - m->memory.kind[BUFFER_WEIGHT] - m->memory.kind[BUFFER_KV]),
                       mib(available));
    return true;
}

/* ---- loading -------------------------------------------------------------------------------------------------- */

static bool bind_input(Model *m, int set, PlanIo io, Err *err)
{
    int buffer = m->plan->io[io];
    int64_t bytes = plan_io_bytes(m->plan, io, m->caps);
    if (bytes < 0)
        return err_set(err, "\"%s\" would take more memory than any machine has", plan_io_names[io]);
    if (buffer < 0)
        m->unread[set][io] = xcalloc((size_t)bytes, 1);
    m->io[set][io] = buffer < 0 ? m->unread[set][io] : exec_host(m->exec, buffer, set);
    return true;
}

static bool bind_io(Model *m, Err *err)
{
    for (int set = 0; set < PLAN_INPUT_SETS; set++)
        for (int i = 0; i < IO_FIRST_OUTPUT; i++)
            if (!bind_input(m, set, (PlanIo)i, err))
                return false;
    for (int i = IO_FIRST_OUTPUT; i < IO_COUNT; i++) {
        int buffer = m->plan->io[i];
        if (buffer < 0 && i != IO_HIDDEN)
            return err_set(err, "plan: there is no output \"%s\"", plan_io_names[i]);
        m->io[0][i] = buffer < 0 ? NULL : exec_host(m->exec, buffer, 0);
    }
    return true;
}

static bool load(Model *m, Err *err)
{
    const ModelOptions *o = &m->options;
    if (!m->device && !(m->device = device_host_open(m->threads, o->queue, err)))
        return false;
    timing_phase("plan, threads", 0);
    m->exec = exec_new(m->plan, m->pack.code, m->device, m->caps, err);
    if (!m->exec)
        return false;
    exec_set_graphs(m->exec, !o->no_graphs);
    bool ok = o->random_weights ? weights_random(m->exec, o->progress, o->context, err)
                                : weights_load(m->exec, m->checkpoint, o->progress, o->context, err);
    return ok && bind_io(m, err);
}

/* What nobody asks for is left to the generator, or to a pack that the user names. */
static void name_formats(Model *m)
{
    const char *weights = m->options.weights ? m->options.weights : "auto", *kv = m->options.kv ? m->options.kv : "auto";
    if (strcmp(kv, "auto"))
        snprintf(m->formats, sizeof m->formats, "%s+kv-%s", weights, kv);
    else if (strcmp(weights, "auto"))
        snprintf(m->formats, sizeof m->formats, "%s", weights);
}

Model *model_load(const ModelOptions *options, Err *err)
{
    Model *m = xcalloc(1, sizeof *m);
    m->options = *options;
    name_formats(m);
    m->threads = options->threads ? options->threads : pool_cores();
    m->forced_step = -1;
    if (open_model(m, err) && set_limits(m, err) && (options->plan_only || load(m, err)))
        return m;
    model_free(m);
    return NULL;
}

void model_free(Model *m)
{
    if (!m)
        return;
    exec_free(m->exec);
    if (m->device)
        m->device->ops->close(m->device);
    for (int set = 0; set < PLAN_INPUT_SETS; set++)
        for (int i = 0; i < IO_COUNT; i++)
            free(m->unread[set][i]);
    plan_free(m->plan);
    pack_close(&m->pack);
    ckpt_close(m->checkpoint);
    buf_free(&m->warning);
    free(m);
}

/* ---- facts ---------------------------------------------------------------------------------------------------- */

const Plan *model_plan(const Model *m) { return m->plan; }
const ModelLimits *model_limits(const Model *m) { return &m->limits; }
const PlanMemory *model_memory(const Model *m) { return &m->memory; }
int model_threads(const Model *m) { return m->threads; }
const char *model_target(const Model *m) { return m->pack.header.target; }
bool model_on_gpu(const Model *m) { return m->device && *m->device->target; }
const char *model_device_label(const Model *m) { return m->device ? m->device->label : "host"; }
uint64_t model_fingerprint(const Model *m) { return m->pack.header.fingerprint; }
const char *model_warning(const Model *m) { return m->warning.len ? m->warning.data : NULL; }
void *model_io(Model *m, PlanIo io) { return m->io[0][io]; }
void *model_input(Model *m, int set, PlanIo io) { return m->io[set][io]; }
Device *model_device(Model *m) { return m->device; }

/* ---- running -------------------------------------------------------------------------------------------------- */

static bool step_sizes(const Model *m, const ModelStep *s, int64_t sizes[SIZE_COUNT], Err *err)
{
    const ModelLimits *l = &m->limits;
    int64_t width = s->table_width ? s->table_width : l->table_width;
    const struct {
        SizeId id;
        int64_t value, limit;
    } rows[] = {
        {SIZE_TOKENS, s->tokens, l->tokens},
        {SIZE_SEQS, s->seqs, l->seqs},
        {SIZE_OUTPUTS, s->outputs, l->outputs},
        {SIZE_DECODE_TILES, s->decode_tiles, l->decode_tiles},
        {SIZE_PREFILL_TILES, s->prefill_tiles, l->prefill_tiles},
        {SIZE_TABLE_WIDTH, width, l->table_width},
        {SIZE_KV_PAGES, l->pages, l->pages},
        {SIZE_ROWS, 0, 0},
        {SIZE_EXTRA, s->adjustments, l->adjustments},
        {SIZE_HIDDENS, s->hiddens, l->hiddens},
    };
    _Static_assert(COUNT(rows) == SIZE_COUNT, "a row for each size");
    for (size_t i = 0; i < COUNT(rows); i++) {
        if (rows[i].value < 0 || rows[i].value > rows[i].limit)
            return err_set(err, "a step with %lld %s; the model was loaded for %lld", (long long)rows[i].value,
                           size_names[rows[i].id], (long long)rows[i].limit);
        sizes[rows[i].id] = rows[i].value;
    }
    return true;
}

enum { RUN_LOGITS = 1, RUN_SAMPLE = 2 };

static bool start(Model *m, int set, const ModelStep *step, int what, Err *err)
{
    int64_t sizes[SIZE_COUNT];
    if (!step_sizes(m, step, sizes, err))
        return false;
    const PlanStep *list = m->forced_step >= 0 ? &m->plan->steps[m->forced_step] : plan_step_for(m->plan, step->tokens);
    if (!list || (list->max_tokens && list->max_tokens < step->tokens))
        return err_set(err, "the plan has no launch list for %lld tokens", (long long)step->tokens);
    ExecRun r = {.set = set, .step = what & RUN_LOGITS ? (int)(list - m->plan->steps) : -1, .sample = what & RUN_SAMPLE,
                 .logits = !step->logits_unread};
    exec_start(m->exec, &r, sizes);
    return true;
}

bool model_wait(Model *m, Err *err)
{
    return exec_wait(m->exec, err);
}

bool model_start(Model *m, int set, const ModelStep *step, Err *err)
{
    return start(m, set, step, RUN_LOGITS | RUN_SAMPLE, err);
}

static bool run(Model *m, const ModelStep *step, int what, Err *err)
{
    return start(m, 0, step, what, err) && model_wait(m, err);
}

bool model_run(Model *m, const ModelStep *step, Err *err)
{
    return run(m, step, RUN_LOGITS | RUN_SAMPLE, err);
}

bool model_run_logits(Model *m, const ModelStep *step, Err *err)
{
    return run(m, step, RUN_LOGITS, err);
}

bool model_run_sample(Model *m, const ModelStep *step, Err *err)
{
    return run(m, step, RUN_SAMPLE, err);
}

void model_zero_page(Model *m, int64_t page)
{
    exec_zero_page(m->exec, page);
}

void model_force_step(Model *m, int step)
{
    m->forced_step = step < m->plan->steps_count ? step : -1;
}

void model_run_limit(Model *m, const PlanLimit *limit, void *const *buffers, int64_t blocks)
{
    int64_t sizes[SIZE_COUNT] = {0};
    sizes[SIZE_ROWS] = blocks;
    exec_run_once(m->exec, limit->kernel, buffers, MAX(limit->inputs, 1) + 1, sizes, blocks, NULL);
}

void model_set_profile(Model *m, double *seconds)
{
    exec_set_profile(m->exec, seconds);
}
