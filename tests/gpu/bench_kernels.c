/* bench_kernels.c - times the kernels of a file of `bladegen samples` on a device that is there.
 *
 * usage: bench_kernels [--device D] [--seconds N] [--json FILE] [--smoke] FILE...
 *
 * Limits come first: what a plain copy moves and what the matrix units do, measured in this run. Then for every
 * sample: all candidates leave the same bits as the first, the schedule's default; the default and the fastest
 * are reported. A time is the median over replays of a graph of many launches, which go round copies of the
 * arguments that a model reads from memory, so many that no cache holds them. The share is of the limit that
 * binds: bytes that must move over the copy's rate, or operations over the peak's. --json is written again after
 * every sample, so that a run that is cut short leaves what it had. --smoke: one launch each, for tests. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "case_file.h"

enum { MOST_COPIES = 64, MOST_ROUNDS = 256, MOST_LAUNCHES = 4, REPLAYS = 9, MOST_COMPARED = 64 << 20 };
static const double sample_seconds = 4e-3, limit_seconds = 0.05;
static const int64_t beyond_caches = (int64_t)512 << 20, limit_bytes = (int64_t)2 << 30;

typedef struct Bench {
    Device *d;
    CaseFile file;
    int64_t *sizes; /* device's address */
    bool smoke;
    double end; /* of the time that may be taken */
    json_t *report;
    const char *output;
} Bench;

typedef struct Buffer {
    const char *name;
    DType type;
    int64_t bytes;
    bool cold, written;
    const json_t *data;
} Buffer;

typedef struct Sample {
    const json_t *json;
    const char *name, *peak;
    int64_t sizes[SIZE_COUNT];
    Buffer buffers[PLAN_MAX_ARGS];
    int buffers_count, copies;
    double operations, moved;
    void *address[MOST_COPIES][PLAN_MAX_ARGS]; /* of each copy, by buffer */
} Sample;

/* ---- time ------------------------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct Launch {
    int kernel, args_count;
    int64_t blocks;
    void *args[MOST_COPIES][PLAN_MAX_ARGS];
} Launch;

/* Work to be timed: in each round all launches, on the next of the copies. */
typedef struct Timed {
    Bench *b;
    int copies, launches_count;
    Launch launches[MOST_LAUNCHES];
} Timed;

static void run_rounds(Timed *t, int count)
{
    for (int i = 0; i < count; i++)
        for (int n = 0; n < t->launches_count; n++) {
            Launch *l = &t->launches[n];
            t->b->d->ops->launch(t->b->d, l->kernel, l->args[i % t->copies], l->args_count, t->b->sizes, l->blocks);
        }
}

static double once(Timed *t, void *graph, int count, Err *err)
{
    double start = now_seconds();
    if (graph)
        t->b->d->ops->replay(t->b->d, graph);
    else
        run_rounds(t, count);
    return t->b->d->ops->sync(t->b->d, err) ? now_seconds() - start : -1;
}

/* Seconds of a round; negative and a message when the device fails. */
static double time_round(Timed *t, Err *err)
{
    const DeviceOps *ops = t->b->d->ops;
    double warm = once(t, NULL, 1, err), one = warm < 0 ? -1 : once(t, NULL, 1, err), times[REPLAYS];
    if (one < 0 || t->b->smoke)
        return one;
    int count = (int)MAX(1, MIN(sample_seconds / one, MOST_ROUNDS)), replays = one > 0.1 ? 3 : REPLAYS;
    count = count < t->copies ? count : (count + t->copies - 1) / t->copies * t->copies;
    void *graph = NULL;
    if (ops->record) {
        ops->record(t->b->d);
        run_rounds(t, count);
        graph = ops->recorded(t->b->d);
    }
    bool ok = once(t, graph, count, err) >= 0;
    for (int i = 0; ok && i < replays; i++)
        ok = (times[i] = once(t, graph, count, err)) >= 0;
    if (graph)
        ops->forget(t->b->d, graph);
    if (!ok)
        return -1;
    qsort(times, (size_t)replays, sizeof *times, by_value);
    return times[replays / 2] / count;
}

static void set_sizes(Bench *b, const int64_t sizes[SIZE_COUNT])
{
    memcpy(b->d->ops->mirror(b->d, b->sizes), sizes, SIZE_COUNT * sizeof *sizes);
    if (b->d->ops->push)
        b->d->ops->push(b->d, b->sizes, SIZE_COUNT * sizeof *sizes);
    b->d->ops->sync(b->d, NULL);
}

/* ---- limits ----------------------------------------------------------------------------------------------------- */

static double run_limit(Bench *b, const PlanLimit *l, char *in, char *out, int64_t rows, Err *err)
{
    int64_t sizes[SIZE_COUNT] = {[SIZE_ROWS] = rows};
    Timed *t = xcalloc(1, sizeof *t);
    *t = (Timed){.b = b, .copies = 1, .launches_count = 1};
    Launch *work = &t->launches[0];
    *work = (Launch){l->kernel, MAX(l->inputs, 1) + 1, plan_blocks(&b->file.plan->kernels[l->kernel], sizes), {{in}}};
    char *at = in;
    for (int i = 0; i < l->inputs; at += plan_room(l->input_bytes[i++]))
        work->args[0][i] = at;
    work->args[0][MAX(l->inputs, 1)] = out;
    set_sizes(b, sizes);
    double seconds = time_round(t, err);
    free(t);
    return seconds;
}

/* Blocks of a limit that takes no input of its own: as many as take a moment. */
static double peak_rate(Bench *b, const PlanLimit *l, char *in, char *out, int64_t most, Err *err)
{
    for (int64_t rows = MIN(b->smoke ? 2 : 1024, most);; rows *= 2) {
        double seconds = run_limit(b, l, in, out, rows, err);
        if (seconds < 0 || b->smoke || seconds > limit_seconds || rows * 2 > most)
            return seconds <= 0 ? seconds : (double)rows * (double)l->ops_per_block / seconds;
    }
}

/* Bytes or operations a second. */
static double limit_rate(Bench *b, const PlanLimit *l, Err *err)
{
    int64_t available, total, rows = 1 << 16, input = 0;
    b->d->ops->memory(b->d, &available, &total);
    if (l->bytes_per_block)
        rows = MAX(MIN(b->smoke ? 0 : limit_bytes, available / 4) / l->bytes_per_block, 2);
    for (int i = 0; i < l->inputs; i++)
        input += plan_room(l->input_bytes[i]);
    rows = MIN(rows, MAX(available / 4 / MAX(l->output_bytes, 1), 2));
    rows = l->ops_per_block && b->smoke ? 2 : rows;
    size_t in_bytes = (size_t)MAX(input, rows * l->bytes_per_block), out_bytes = (size_t)(rows * l->output_bytes);
    char *in = b->d->ops->alloc(b->d, in_bytes, DEVICE_LOCAL, err);
    char *out = in ? b->d->ops->alloc(b->d, out_bytes, DEVICE_LOCAL, err) : NULL;
    double rate = -1;
    if (out) {
        bool bytes = !strcmp(l->name, "int8"), halves = !strcmp(l->name, "bf16");
        PlanFill fill = {.type = bytes ? DT_U8 : halves ? DT_BF16 : DT_F32, .scale = 1};
        b->d->ops->fill(b->d, in, in_bytes, &fill, 1);
        rate = l->ops_per_block ? peak_rate(b, l, in, out, rows, err) : run_limit(b, l, in, out, rows, err);
        if (rate > 0 && !l->ops_per_block)
            rate = (double)rows * (double)(l->bytes_per_block + l->output_bytes) / rate;
        b->d->ops->free(b->d, out, out_bytes);
    }
    if (in)
        b->d->ops->free(b->d, in, in_bytes);
    return rate;
}

static double known_rate(const Bench *b, const char *name)
{
    return json_number_value(json_object_get(json_object_get(b->report, "limits"), name));
}

static bool measure_limits(Bench *b, Err *err)
{
    json_t *limits = json_object();
    json_object_set_new(b->report, "limits", limits);
    for (int i = 0; i < b->file.plan->limits_count; i++) {
        const PlanLimit *l = &b->file.plan->limits[i];
        double rate = limit_rate(b, l, err);
        if (rate < 0)
            return err_prefix(err, "limit %s", l->name);
        json_object_set_new(limits, l->name, json_real(rate));
        printf("limit: %-5s %10.1f %s\n", l->name, l->ops_per_block ? rate / 1e12 : rate / 1e9,
               l->ops_per_block ? "TFLOP/s (int8: TOP/s)" : "GB/s");
    }
    return true;
}

/* ---- samples ---------------------------------------------------------------------------------------------------- */

static bool read_buffer(const json_t *o, Buffer *a, Err *err)
{
    const char *type;
    if (!json_get_str(o, "name", "", &a->name, err) || !json_get_str(o, "type", "", &type, err) ||
        !json_get_bool(o, "written", false, &a->written, err) || !json_get_bool(o, "cold", false, &a->cold, err) ||
        !json_get_int(o, "bytes", 0, (int64_t)1 << 38, 0, &a->bytes, err))
        return false;
    a->type = dtype_parse(type, strlen(type));
    a->data = json_object_get(o, "data");
    if (a->data && (a->type != DT_S32 || (int64_t)json_array_size(a->data) * 4 > a->bytes))
        return err_set(err, "data of %s do not fit it", a->name);
    return a->type != DT_NONE || err_set(err, "%s has no type", a->name);
}

static bool read_sample(const json_t *o, Sample *s, Err *err)
{
    const json_t *buffers = json_object_get(o, "buffers");
    *s = (Sample){.json = o, .buffers_count = (int)json_array_size(buffers), .copies = 1};
    if (!json_get_str(o, "name", "", &s->name, err) || !json_get_str(o, "peak", "f32", &s->peak, err) ||
        !json_get_real(o, "operations", 0, 1e24, 0, &s->operations, err) ||
        !json_get_real(o, "moved", 0, 1e18, 0, &s->moved, err) || !case_sizes(o, s->sizes, err))
        return false;
    if (s->buffers_count > PLAN_MAX_ARGS)
        return err_set(err, "%d buffers", s->buffers_count);
    for (int i = 0; i < s->buffers_count; i++)
        if (!read_buffer(json_array_get(buffers, (size_t)i), &s->buffers[i], err))
            return false;
    return true;
}

/* Integers that are sums of groups stay small; everything else is random. */
static void fill_buffer(Bench *b, const Buffer *a, void *to, uint64_t seed)
{
    if (a->data || a->type == DT_S32) {
        int32_t *v = xcalloc((size_t)a->bytes / 4 + 1, sizeof *v);
        for (int64_t i = 0; i < a->bytes / 4; i++)
            v[i] = a->data ? (int32_t)json_integer_value(json_array_get(a->data, (size_t)i))
                           : (int32_t)((uint64_t)i * 2654435761u >> 7 & 2047) - 1024;
        b->d->ops->copy_in(b->d, to, v, (size_t)a->bytes);
        free(v);
        return;
    }
    PlanFill fill = {.type = a->type, .scale = 0.3};
    b->d->ops->fill(b->d, to, (size_t)a->bytes, &fill, seed);
}

static int copies_needed(const Bench *b, const Sample *s)
{
    int64_t available, total, cold = 0;
    b->d->ops->memory(b->d, &available, &total);
    for (int i = 0; i < s->buffers_count; i++)
        cold += s->buffers[i].cold ? s->buffers[i].bytes : 0;
    int64_t wanted = cold ? (beyond_caches + cold - 1) / cold : 1;
    return b->smoke ? 1 : (int)MAX(MIN(MIN(wanted, MOST_COPIES), available / 3 / MAX(cold, 1)), 1);
}

static bool place(Bench *b, Sample *s, Err *err)
{
    s->copies = copies_needed(b, s);
    for (int i = 0; i < s->buffers_count; i++)
        for (int c = 0; c < s->copies; c++) {
            const Buffer *a = &s->buffers[i];
            void *shared = c && !a->cold ? s->address[0][i] : NULL;
            s->address[c][i] = shared ? shared : b->d->ops->alloc(b->d, (size_t)a->bytes + 64, DEVICE_LOCAL, err);
            if (!s->address[c][i])
                return false;
            if (!shared)
                fill_buffer(b, a, s->address[c][i], (uint64_t)(i * MOST_COPIES + c + 1));
        }
    return b->d->ops->sync(b->d, err);
}

static void release(Bench *b, Sample *s)
{
    for (int i = 0; i < s->buffers_count; i++)
        for (int c = 0; c < s->copies; c++)
            if (s->address[c][i] && (!c || s->buffers[i].cold))
                b->d->ops->free(b->d, s->address[c][i], (size_t)s->buffers[i].bytes + 64);
}

/* The work of a candidate; NULL and a message when it names what is not there. The caller frees it. */
static Timed *timed(Bench *b, const Sample *s, const json_t *candidate, Err *err)
{
    const json_t *list = json_object_get(candidate, "launches"), *o;
    Timed *t = xcalloc(1, sizeof *t);
    *t = (Timed){.b = b, .copies = s->copies, .launches_count = (int)json_array_size(list)};
    bool ok = t->launches_count >= 1 && t->launches_count <= MOST_LAUNCHES;
    size_t i;
    json_array_foreach((json_t *)list, i, o) {
        const json_t *args = json_object_get(o, "buffers");
        Launch *l = ok ? &t->launches[i] : NULL;
        int64_t kernel = json_integer_value(json_object_get(o, "kernel"));
        ok = ok && kernel >= 0 && kernel < b->file.plan->kernels_count && json_array_size(args) <= PLAN_MAX_ARGS;
        if (!ok)
            break;
        *l = (Launch){.kernel = (int)kernel, .args_count = (int)json_array_size(args),
                      .blocks = plan_blocks(&b->file.plan->kernels[kernel], s->sizes)};
        for (int n = 0; ok && n < l->args_count; n++) {
            int64_t at = json_integer_value(json_array_get(args, (size_t)n));
            ok = at >= 0 && at < s->buffers_count;
            for (int c = 0; ok && c < s->copies; c++)
                l->args[c][n] = s->address[c][at];
        }
        ok = ok && l->blocks >= 0;
    }
    if (ok)
        return t;
    free(t);
    err_set(err, "a launch names what is not there");
    return NULL;
}

/* Hash of what a candidate writes when its outputs were the same before; 0 where they are too big to look at. */
static bool bits_of(Bench *b, Sample *s, Timed *t, uint64_t *hash, Err *err)
{
    int64_t bytes = 0;
    *hash = 0;
    for (int i = 0; i < s->buffers_count; i++)
        bytes += s->buffers[i].written ? s->buffers[i].bytes : 0;
    if (bytes > MOST_COMPARED)
        return true;
    for (int i = 0; i < s->buffers_count; i++)
        if (s->buffers[i].written)
            fill_buffer(b, &s->buffers[i], s->address[0][i], (uint64_t)i + 1);
    if (once(t, NULL, 1, err) < 0)
        return false;
    *hash = HASH_SEED;
    for (int i = 0; i < s->buffers_count; i++) {
        if (!s->buffers[i].written)
            continue;
        uint8_t *got = xmalloc((size_t)s->buffers[i].bytes + 1);
        b->d->ops->copy_out(b->d, got, s->address[0][i], (size_t)s->buffers[i].bytes);
        *hash = hash_bytes(*hash, got, (size_t)s->buffers[i].bytes);
        free(got);
    }
    return b->d->ops->sync(b->d, err);
}

/* The limit that binds, and the seconds that it allows. */
static double floor_seconds(const Bench *b, const Sample *s, const char **limit)
{
    double copy = known_rate(b, "copy"), peak = known_rate(b, s->peak);
    double move = copy > 0 ? s->moved / copy : 0, compute = peak > 0 ? s->operations / peak : 0;
    *limit = move >= compute ? "copy" : s->peak;
    return MAX(move, compute);
}

/* The candidates of a sample so far. */
typedef struct Contest {
    double first, best; /* seconds of the default, 0 where it was not measured, and of the fastest */
    const char *settings;
    uint64_t bits;
    int measured, differ;
} Contest;

static json_t *result_of(const Bench *b, const Sample *s, const Contest *c)
{
    const char *limit;
    double share = floor_seconds(b, s, &limit) / c->best;
    printf("| %s | %.2f | %.2f | %.0f | %.1f | %.0f %% %s | %s |\n", s->name, c->first * 1e6, c->best * 1e6,
           s->moved / c->best / 1e9, s->operations / c->best / 1e12, 100 * share, limit, c->settings);
    json_t *r = json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:s, s:s, s:s, s:i, s:i}", "name", s->name, "default_seconds",
                          c->first, "seconds", c->best, "moved", s->moved, "operations", s->operations, "share", share,
                          "limit", limit, "peak", s->peak, "settings", c->settings, "candidates", c->measured,
                          "other_bits", c->differ);
    json_object_set(r, "peer", json_object_get(s->json, "peer"));
    json_object_set(r, "unbuilt", json_object_get(s->json, "unbuilt"));
    return r;
}

static bool measure_candidate(Bench *b, Sample *s, const json_t *candidate, Contest *c, Err *err)
{
    const char *settings = json_string_value(json_object_get(candidate, "settings"));
    Timed *t = timed(b, s, candidate, err);
    uint64_t bits;
    bool ok = t && bits_of(b, s, t, &bits, err), same = ok && (!c->measured || bits == c->bits);
    double seconds = same ? time_round(t, err) : 0;
    free(t);
    if (!ok || seconds < 0)
        return err_prefix(err, "settings %s", settings ? settings : "");
    if (!same) {
        printf("| %s | other bits than the default: %s |\n", s->name, settings);
        c->differ++;
        return true;
    }
    c->bits = c->measured++ ? c->bits : bits;
    c->first = json_is_true(json_object_get(candidate, "default")) ? seconds : c->first;
    if (c->measured == 1 || seconds < c->best) {
        c->best = seconds;
        c->settings = settings ? settings : "";
    }
    return true;
}

static bool measure(Bench *b, Sample *s, json_t **result, Err *err)
{
    const json_t *list = json_object_get(s->json, "candidates"), *o;
    Contest c = {0};
    size_t i;
    bool ok = true;
    set_sizes(b, s->sizes);
    json_array_foreach((json_t *)list, i, o)
        if (ok && !(c.measured && now_seconds() > b->end))
            ok = measure_candidate(b, s, o, &c, err);
    if (c.measured)
        *result = result_of(b, s, &c);
    return ok;
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

static bool write_report(const Bench *b, Err *err)
{
    if (!b->output)
        return true;
    char *text = json_dumps(b->report, JSON_INDENT(1) | JSON_SORT_KEYS);
    bool ok = file_write_quick(b->output, text, strlen(text), err);
    free(text);
    return ok;
}

/* Memory that is short ends a sample, not the run. */
static bool run_sample(Bench *b, const json_t *o, json_t *results, Err *err)
{
    Sample *s = xcalloc(1, sizeof *s);
    json_t *result = NULL;
    Err why = {0};
    bool ok = read_sample(o, s, &why) && place(b, s, &why) && measure(b, s, &result, &why);
    release(b, s);
    if (result)
        json_array_append_new(results, result);
    if (!ok) {
        printf("| %s | %s |\n", s->name ? s->name : "?", why.text);
        json_array_append_new(results, json_pack("{s:s, s:s}", "name", s->name ? s->name : "?", "failure", why.text));
    }
    free(s);
    return b->d->ops->sync(b->d, err) && write_report(b, err);
}

static bool run_all(Bench *b, Err *err)
{
    json_t *results = json_array();
    const json_t *o;
    size_t i;
    b->report = json_pack("{s:s, s:s, s:o}", "device", b->d->label, "target", b->file.pack.header.target, "samples",
                          results);
    if (!measure_limits(b, err) || !write_report(b, err))
        return false;
    puts("| kernel | default us | best us | GB/s | TFLOP/s | share of the limit | settings |\n"
         "|---|--:|--:|--:|--:|--:|---|");
    json_array_foreach((json_t *)b->file.cases, i, o) {
        if (now_seconds() > b->end) {
            printf("out of time: %zu of %zu samples were measured\n", i, json_array_size(b->file.cases));
            break;
        }
        if (!run_sample(b, o, results, err))
            return false;
    }
    return json_array_size(results) > 0 || err_set(err, "nothing was measured");
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {{"device", 1, 0, 'd'}, {"seconds", 1, 0, 's'}, {"json", 1, 0, 'j'},
                                          {"smoke", 0, 0, 'k'}, {0}};
    const char *device = "auto";
    double seconds = 240;
    Bench b = {0};
    Err err = {0};
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;)
        switch (c) {
        case 'd': device = optarg; break;
        case 's': seconds = atof(optarg); break;
        case 'j': b.output = optarg; break;
        case 'k': b.smoke = true; break;
        default:
            fputs("usage: bench_kernels [--device D] [--seconds N] [--json FILE] [--smoke] FILE...\n", stderr);
            return 2;
        }
    setvbuf(stdout, NULL, _IOLBF, 0);
    b.end = now_seconds() + seconds;
    b.d = case_device(device, &err);
    bool ok = b.d && case_file_open(&b.file, argv + optind, argc - optind, "samples", b.d, &err);
    b.sizes = ok ? b.d->ops->alloc(b.d, SIZE_COUNT * sizeof *b.sizes, DEVICE_SHARED, &err) : NULL;
    ok = b.sizes && b.d->ops->load_code(b.d, b.file.plan, b.file.pack.code, &err) && run_all(&b, &err);
    if (!ok)
        printf("FAIL  %s\n", err.text);
    if (b.sizes)
        b.d->ops->free(b.d, b.sizes, SIZE_COUNT * sizeof *b.sizes);
    if (b.d)
        b.d->ops->close(b.d);
    json_decref(b.report);
    case_file_close(&b.file);
    return !ok;
}
