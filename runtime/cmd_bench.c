/* cmd_bench.c - `blade bench`: tokens per second of prefill and decode at several batch sizes, and their share of
 * what the machine can do: of its read bandwidth, and of the peak of the instruction that the matmuls use. Both
 * limits are measured by generated kernels between the runs, so that they share clocks and neighbours. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "cmd.h"

#define NAME "blade bench"

static const size_t read_bytes = (size_t)5 << 28; /* 1.25 GB */
enum { MOST_TOKENS = 1 << 24, MOST_SEQS = 65536 };   /* that may be asked for */

typedef struct Bench {
    RunOptions run;
    const char *config;
    int64_t prompt, decode;
    OptInts batches;
    bool json, profile, lines;
} Bench;

typedef struct Row {
    int64_t batch;
    double prefill_seconds, prefill_tokens, prefill_operations;
    double step_seconds, step_bytes, step_operations;
} Row;

static int64_t largest(const OptInts *v)
{
    int64_t most = 1;
    for (size_t i = 0; i < v->len; i++)
        most = MAX(most, v->at[i]);
    return most;
}

static Model *load(const Bench *b, const char *model, Err *err)
{
    ModelOptions o = run_options_apply(&b->run, b->config ? b->config : model);
    int64_t most = largest(&b->batches);
    o.random_weights = b->config != NULL;
    o.max_num_seqs = o.max_num_seqs ? o.max_num_seqs : most;
    o.max_num_batched_tokens = o.max_num_batched_tokens ? o.max_num_batched_tokens : MAX(512, most);
    o.max_model_len = o.max_model_len ? o.max_model_len : b->prompt + b->decode + 1;
    Model *m = cmd_load_model(o, err);
    if (!m && !b->run.max_model_len && strstr(err->text, "--max-model-len")) /* which the user did not give */
        err_prefix(err, "for --prompt %lld --decode %lld", (long long)b->prompt, (long long)b->decode);
    return m;
}

/* Prompts that are computed side by side: a step is full of them, more would only repeat it. */
static int64_t prompts_at_once(const Model *m, int64_t batch, int64_t prompt)
{
    return MAX(1, MIN(batch, model_limits(m)->tokens / prompt));
}

/* The faster of two runs, or of one that took long. */
static bool measure_prefill(const Bench *b, Model *m, Row *r, Err *err)
{
    int64_t seqs = prompts_at_once(m, r->batch, b->prompt);
    r->prefill_tokens = (double)(seqs * b->prompt);
    for (int i = 0; i < 2; i++) {
        double seconds, operations;
        if (!bench_prefill(m, seqs, b->prompt, &seconds, &operations, err))
            return false;
        if (i == 0 || seconds < r->prefill_seconds)
            r->prefill_seconds = seconds;
        r->prefill_operations = operations;
        if (seconds > 5)
            break;
    }
    return true;
}

static bool measure_row(const Bench *b, Model *m, BenchLimits *limits, const Row *before, Row *r, Err *err)
{
    bool same = before && prompts_at_once(m, before->batch, b->prompt) == prompts_at_once(m, r->batch, b->prompt);
    bench_limits_measure(limits, m);
    if (same) {
        r->prefill_seconds = before->prefill_seconds;
        r->prefill_tokens = before->prefill_tokens;
        r->prefill_operations = before->prefill_operations;
    } else if (!measure_prefill(b, m, r, err)) {
        return false;
    }
    bench_limits_measure(limits, m);
    if (!bench_decode(m, r->batch, b->prompt, b->decode, &r->step_seconds, err))
        return false;
    r->step_bytes = bench_decode_bytes(m, r->batch, b->prompt + b->decode / 2);
    r->step_operations = bench_decode_operations(m, r->batch);
    bench_limits_measure(limits, m);
    return true;
}

/* ---- output ------------------------------------------------------------------------------------------------------ */

static double share(double amount, double seconds, double limit)
{
    return limit > 0 && seconds > 0 ? amount / seconds / limit : 0;
}

static void print_share(double s)
{
    if (s > 0)
        printf("%7.1f %%", 100 * s);
    else
        printf("%9s", "-");
}

static void print_table(const Bench *b, const Model *m, const BenchLimits *l, const Row *rows, size_t count)
{
    const Plan *p = model_plan(m);
    char where[DEVICE_LABEL_BYTES];
    snprintf(where, sizeof where, "%d threads", model_threads(m));
    printf("%s, %lld layers, weights %s, %s, %s; prompt %lld, %lld steps of decoding\n", p->architecture,
           (long long)p->layers, p->weights, model_target(m), model_on_gpu(m) ? model_device_label(m) : where,
           (long long)b->prompt, (long long)b->decode);
    if (l->read_rate > 0)
        printf("limits measured here: %.1f GB/s read, %.0f G%s/s %s\n", l->read_rate / 1e9, l->peak_rate / 1e9,
               strcmp(p->peak, "int8") ? "FLOP" : "OP", p->peak);
    else
        printf("the pack has no kernels that measure the machine's limits\n");
    printf("\n%6s  %12s %9s  %12s %10s %9s %9s\n", "batch", "prefill", "of", "decode", "step", "of read", "of");
    printf("%6s  %12s %9s  %12s %10s %9s %9s\n", "", "tokens/s", "peak", "tokens/s", "ms", "bandwidth", "peak");
    for (size_t i = 0; i < count; i++) {
        const Row *r = &rows[i];
        printf("%6lld  %12.1f ", (long long)r->batch, r->prefill_tokens / r->prefill_seconds);
        print_share(share(r->prefill_operations, r->prefill_seconds, l->peak_rate));
        printf("  %12.1f %10.3f ", (double)r->batch / r->step_seconds, 1e3 * r->step_seconds);
        print_share(share(r->step_bytes, r->step_seconds, l->read_rate));
        putchar(' ');
        print_share(share(r->step_operations, r->step_seconds, l->peak_rate));
        putchar('\n');
    }
}

static json_t *json_row(const BenchLimits *l, const Row *r)
{
    return json_pack("{s:I,s:f,s:f,s:f,s:f,s:f,s:f}", "batch", (json_int_t)r->batch, "prefill_tokens_per_second",
                     r->prefill_tokens / r->prefill_seconds, "prefill_share_of_peak",
                     share(r->prefill_operations, r->prefill_seconds, l->peak_rate), "decode_tokens_per_second",
                     (double)r->batch / r->step_seconds, "decode_step_seconds", r->step_seconds,
                     "decode_share_of_read", share(r->step_bytes, r->step_seconds, l->read_rate),
                     "decode_share_of_peak", share(r->step_operations, r->step_seconds, l->peak_rate));
}

static void print_json(const Bench *b, const Model *m, const BenchLimits *l, const Row *rows, size_t count, double load)
{
    const Plan *p = model_plan(m);
    json_t *results = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(results, json_row(l, &rows[i]));
    cmd_print_json(json_pack("{s:s,s:s,s:s,s:s,s:i,s:I,s:I,s:f,s:{s:f,s:s,s:f},s:o}", "architecture", p->architecture,
                             "weights", p->weights, "target", model_target(m), "device", model_device_label(m),
                             "threads", model_threads(m), "prompt", (json_int_t)b->prompt, "decode", (json_int_t)b->decode,
                             "load_seconds", load, "limits",
                             "read_bytes_per_second", l->read_rate, "peak", p->peak, "peak_operations_per_second",
                             l->peak_rate, "results", results));
}

/* ---- where the time goes ----------------------------------------------------------------------------------------- */

typedef struct Share {
    const char *kernel;
    double seconds;
} Share;

static int by_seconds(const void *a, const void *b)
{
    double x = ((const Share *)a)->seconds, y = ((const Share *)b)->seconds;
    return (x < y) - (x > y);
}

static void print_profile(const Model *m, const char *what, double *seconds, double runs)
{
    const Plan *p = model_plan(m);
    Share *shares = xcalloc((size_t)p->kernels_count, sizeof *shares);
    double total = 0;
    for (int i = 0; i < p->kernels_count; i++) {
        shares[i] = (Share){p->kernels[i].name, seconds[i]};
        total += seconds[i];
    }
    qsort(shares, (size_t)p->kernels_count, sizeof *shares, by_seconds);
    printf("\n%s: %.3f ms\n", what, 1e3 * total / runs);
    for (int i = 0; i < p->kernels_count && shares[i].seconds > 0.002 * total; i++)
        printf("%9.3f ms %5.1f %%  %s\n", 1e3 * shares[i].seconds / runs, 100 * shares[i].seconds / total, shares[i].kernel);
    free(shares);
}

/* Once more with a clock around every launch: prefill and a decode step of each batch by kernel. */
static bool profile(const Bench *b, Model *m, Err *err)
{
    size_t kernels = (size_t)model_plan(m)->kernels_count;
    double *seconds = xcalloc(kernels, sizeof *seconds), ignored, operations;
    model_set_profile(m, seconds);
    bool ok = bench_prefill(m, 1, b->prompt, &ignored, &operations, err);
    if (ok)
        print_profile(m, "prefill of one prompt", seconds, 1);
    for (size_t i = 0; ok && i < b->batches.len; i++) {
        char what[64];
        snprintf(what, sizeof what, "decode step at batch %lld", (long long)b->batches.at[i]);
        memset(seconds, 0, kernels * sizeof *seconds);
        ok = bench_decode(m, b->batches.at[i], b->prompt, b->decode, &ignored, err);
        if (ok)
            print_profile(m, what, seconds, (double)b->decode + 1);
    }
    model_set_profile(m, NULL);
    free(seconds);
    return ok;
}

/* ---- measurements asked for on standard input -------------------------------------------------------------------- */

/* Seconds by kernel, those that took any. */
static json_t *json_kernels(const Model *m, const double *seconds)
{
    const Plan *p = model_plan(m);
    json_t *kernels = json_object();
    for (int i = 0; i < p->kernels_count; i++) {
        double before = json_real_value(json_object_get(kernels, p->kernels[i].name));
        if (seconds[i] > 0)
            json_object_set_new(kernels, p->kernels[i].name, json_real(before + seconds[i]));
    }
    return kernels;
}

static json_t *answer_limits(Model *m, BenchLimits *l)
{
    l->read_rate = l->peak_rate = 0;
    bench_limits_measure(l, m);
    return json_pack("{s:f,s:f}", "read_bytes_per_second", l->read_rate, "peak_operations_per_second", l->peak_rate);
}

static json_t *answer_prefill(Model *m, int64_t prompt, Err *err)
{
    double seconds, operations;
    if (!bench_prefill(m, 1, prompt, &seconds, &operations, err))
        return NULL;
    return json_pack("{s:I,s:f,s:f}", "tokens", (json_int_t)prompt, "seconds", seconds, "operations", operations);
}

static json_t *answer_decode(Model *m, int64_t batch, int64_t context, int64_t steps, Err *err)
{
    double seconds;
    if (!bench_decode(m, batch, context, steps, &seconds, err))
        return NULL;
    return json_pack("{s:I,s:f,s:f,s:f}", "tokens", (json_int_t)batch, "seconds", seconds, "operations",
                     bench_decode_operations(m, batch), "bytes", bench_decode_bytes(m, batch, context + steps / 2));
}

static json_t *answer(const Bench *b, Model *m, BenchLimits *l, const char *line, Err *err)
{
    long long first, second;
    char more;
    if (!strcmp(line, "limits"))
        return answer_limits(m, l);
    if (sscanf(line, " prefill %lld %c", &first, &more) == 1 && 0 < first && first <= MOST_TOKENS)
        return answer_prefill(m, first, err);
    if (sscanf(line, " decode %lld %lld %c", &first, &second, &more) == 2 && 0 < first && first <= MOST_SEQS &&
        0 < second && second <= MOST_TOKENS)
        return answer_decode(m, first, second, b->decode, err);
    err_set(err, "'%s' on standard input: expected 'limits', 'prefill TOKENS' or 'decode BATCH CONTEXT'", line);
    return NULL;
}

/* A line in, a line out, so that another program can measure something else in between. */
static bool answer_lines(const Bench *b, Model *m, BenchLimits *l, Err *err)
{
    double *seconds = xcalloc((size_t)model_plan(m)->kernels_count, sizeof *seconds);
    char line[256];
    bool ok = true;
    model_set_profile(m, b->profile ? seconds : NULL);
    while (ok && fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        memset(seconds, 0, (size_t)model_plan(m)->kernels_count * sizeof *seconds);
        json_t *out = answer(b, m, l, line, err);
        if (out && b->profile)
            json_object_set_new(out, "kernels", json_kernels(m, seconds));
        if (out)
            cmd_print_json(out);
        ok = out && cmd_flush(err);
    }
    model_set_profile(m, NULL);
    free(seconds);
    return ok;
}

/* ---- the command ------------------------------------------------------------------------------------------------- */

/* Every batch size of the options, as a table or JSON. */
static bool measure(const Bench *b, Model *m, BenchLimits *limits, double load_seconds, Err *err)
{
    Row *rows = xcalloc(b->batches.len, sizeof *rows);
    bool ok = true, progress = isatty(STDERR_FILENO);
    for (size_t i = 0; ok && i < b->batches.len; i++) {
        if (progress)
            fprintf(stderr, "\r\033[Kbatch %lld", (long long)b->batches.at[i]);
        rows[i].batch = b->batches.at[i];
        ok = measure_row(b, m, limits, i ? &rows[i - 1] : NULL, &rows[i], err);
    }
    if (progress)
        fputs("\r\033[K", stderr);
    if (ok && b->json)
        print_json(b, m, limits, rows, b->batches.len, load_seconds);
    else if (ok)
        print_table(b, m, limits, rows, b->batches.len);
    if (ok && b->profile)
        ok = profile(b, m, err);
    free(rows);
    return ok;
}

static bool bench(const Bench *b, const char *model, Err *err)
{
    double start = now_seconds();
    Model *m = load(b, model, err);
    if (!m)
        return false;
    double load_seconds = now_seconds() - start;
    timing_print("ready");
    BenchLimits limits;
    if (!bench_limits_begin(&limits, m, model_on_gpu(m) ? 4 * read_bytes : read_bytes, err)) {
        model_free(m);
        return false;
    }
    bool ok = b->lines ? answer_lines(b, m, &limits, err) : measure(b, m, &limits, load_seconds, err);
    bench_limits_end(&limits, m);
    model_free(m);
    return ok && cmd_flush(err);
}

int cmd_bench(int argc, char **argv)
{
    static const int64_t usual[] = {1, 2, 4, 8, 16, 32};
    Bench b = {.run = RUN_OPTIONS_DEFAULT, .prompt = 512, .decode = 32};
    const OptRow rows[] = {
        {"config", 0, OPT_STRING, &b.config, "FILE", "config.json of a model, whose weights are then random"},
        {"prompt", 0, OPT_INT, &b.prompt, "N", "tokens of a prompt, and of the context (default 512)", 1, MOST_TOKENS},
        {"decode", 0, OPT_INT, &b.decode, "N", "steps of decoding to take the median of (default 32)", 1, 1 << 20},
        {"batch", 0, OPT_INTS, &b.batches, "N,N,...", "sequences at once (default 1,2,4,8,16,32)", 1, MOST_SEQS},
        {"json", 0, OPT_FLAG, &b.json, NULL, "print a JSON object"},
        {"profile", 0, OPT_FLAG, &b.profile, NULL, "also print the time of every kernel"},
        {"stdin", 0, OPT_FLAG, &b.lines, NULL,
         "measure what lines on standard input say, 'limits',\n'prefill TOKENS' or 'decode BATCH CONTEXT', and answer\n"
         "each at once with a line of JSON"},
        RUN_OPTION_ROWS(&b.run),
        {NULL},
    };
    const OptCommand command = {
        NAME, "MODEL | --config FILE",
        "Measures prefill and decode in tokens per second at several batch sizes, each with its share of the\n"
        "machine's limit: read bandwidth, and the peak of the instruction used, measured in the same run.", 0, 1, rows,
    };
    const char *args[OPT_MAX_ARGS];
    int status = opt_parse(&command, argc, argv, args);
    if (status < 0 && !args[0] == !b.config) {
        fprintf(stderr, "%s: give either a MODEL or --config FILE (--help says more)\n", NAME);
        status = 2;
    }
    for (size_t i = 0; status < 0 && !b.batches.len && i < COUNT(usual); i++)
        vec_push(&b.batches, usual[i]);
    Err err = {0};
    if (status < 0)
        status = bench(&b, args[0], &err) ? 0 : cmd_fail(NAME, &err);
    vec_free(&b.batches);
    return status;
}
