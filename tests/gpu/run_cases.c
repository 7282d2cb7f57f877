/* run_cases.c - runs the operators' test cases on a device that is there: every kernel of a file of `bladegen cases`.
 *
 * usage: run_cases [--device D] [--operator OP] [--from N] [--verbose] FILE...
 *        run_cases [--device D] --list
 *
 * Of several files the one that fits the device best is taken. For each kernel:
 *   - the results are within the operator's tolerance of the reference, where elements count;
 *   - every bit is that of the case's first kernel (the default settings), and stays so when it is run again;
 *   - inputs, and what lies around the buffers, stay as they were.
 * Prints a line for what fails with the first difference, a line an operator, and at the end "N passed, N failed". A
 * kernel after which the device takes no more work is the last one; the line "BROKEN N" has its number, and
 * --from N + 1 goes on behind it. --list prints the device. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "case_file.h"

enum { AROUND = 256 /* bytes behind each buffer that must stay */, RUNS = 3, MOST_BYTES = 1 << 28 };
static const uint8_t around = 0xA5;

typedef struct Arg {
    const char *name;
    DType type;
    bool read_only;
    double tolerance;
    const uint8_t *initial, *expected, *mask;
    size_t bytes, offset; /* in the image */
} Arg;

typedef struct Case {
    const char *operator, *parameters;
    int64_t sizes[SIZE_COUNT];
    Arg args[PLAN_MAX_ARGS];
    int args_count;
    size_t bytes; /* of the image: all arguments with what is around them */
} Case;

typedef struct Work {
    Device *d;
    CaseFile file;
    int64_t *sizes;       /* device's address */
    char *memory;         /* device's address; image_bytes */
    size_t memory_bytes;
    uint8_t *image, *got, *first; /* before a run, after it, after the first of the case */
    bool verbose;
    int from, number; /* kernels before `from` are skipped; the next kernel's */
    int passed, failed;
    int refused; /* settings that the generator's gates did not let through */
} Work;

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static bool read_blob(const CaseFile *f, const json_t *o, const char *key, const uint8_t **data, size_t *n, Err *err)
{
    int64_t number;
    if (!json_get_int(o, key, 0, 1 << 24, -1, &number, err))
        return false;
    return number < 0 || case_blob(f, number, data, n, err);
}

static bool read_arg(const CaseFile *f, const json_t *o, Arg *a, Err *err)
{
    const char *type, *access;
    size_t expected = 0, mask = 0;
    if (!json_get_str(o, "name", "", &a->name, err) || !json_get_str(o, "type", "", &type, err) ||
        !json_get_str(o, "access", "", &access, err) || !json_get_real(o, "tolerance", 0, 1, 0, &a->tolerance, err) ||
        !read_blob(f, o, "initial", &a->initial, &a->bytes, err) ||
        !read_blob(f, o, "expected", &a->expected, &expected, err) || !read_blob(f, o, "mask", &a->mask, &mask, err))
        return false;
    a->type = dtype_parse(type, strlen(type));
    a->read_only = !strcmp(access, "in");
    if (a->type == DT_NONE || !a->initial)
        return err_set(err, "argument \"%s\" has no type or contents", a->name);
    return a->read_only || (expected == a->bytes && mask == a->bytes) ||
           err_set(err, "argument \"%s\" lacks what is expected of it", a->name);
}

static bool read_case(const CaseFile *f, const json_t *o, Case *c, Err *err)
{
    const json_t *list = json_object_get(o, "args");
    *c = (Case){.args_count = (int)json_array_size(list), .bytes = AROUND};
    if (!json_get_str(o, "operator", "", &c->operator, err) ||
        !json_get_str(o, "parameters", "", &c->parameters, err) || !case_sizes(o, c->sizes, err))
        return false;
    if (c->args_count > PLAN_MAX_ARGS)
        return err_set(err, "%d arguments", c->args_count);
    for (int i = 0; i < c->args_count; i++) {
        Arg *a = &c->args[i];
        if (!read_arg(f, json_array_get(list, (size_t)i), a, err))
            return false;
        a->offset = c->bytes;
        c->bytes += (a->bytes + AROUND + AROUND - 1) / AROUND * AROUND;
    }
    return c->bytes <= MOST_BYTES || err_set(err, "its arguments take %zu bytes", c->bytes);
}

/* ---- running ---------------------------------------------------------------------------------------------------- */

static bool make_room(Work *w, size_t bytes, Err *err)
{
    if (bytes <= w->memory_bytes)
        return true;
    if (w->memory)
        w->d->ops->free(w->d, w->memory, w->memory_bytes);
    w->memory_bytes = MAX(bytes, (size_t)1 << 20);
    w->memory = w->d->ops->alloc(w->d, w->memory_bytes, DEVICE_LOCAL, err);
    w->image = xrealloc(w->image, w->memory_bytes);
    w->got = xrealloc(w->got, w->memory_bytes);
    w->first = xrealloc(w->first, w->memory_bytes);
    return w->memory != NULL;
}

static bool prepare(Work *w, const Case *c, Err *err)
{
    if (!make_room(w, c->bytes, err))
        return false;
    memset(w->image, around, c->bytes);
    for (int i = 0; i < c->args_count; i++)
        if (c->args[i].bytes)
            memcpy(w->image + c->args[i].offset, c->args[i].initial, c->args[i].bytes);
    memcpy(w->d->ops->mirror(w->d, w->sizes), c->sizes, sizeof c->sizes);
    if (w->d->ops->push)
        w->d->ops->push(w->d, w->sizes, sizeof c->sizes);
    return true;
}

static bool run(Work *w, const Case *c, int kernel, Err *err)
{
    void *buffers[PLAN_MAX_ARGS];
    for (int i = 0; i < c->args_count; i++)
        buffers[i] = w->memory + c->args[i].offset;
    int64_t blocks = plan_blocks(&w->file.plan->kernels[kernel], c->sizes);
    if (blocks < 0)
        return err_set(err, "its grid is absurd");
    w->d->ops->copy_in(w->d, w->memory, w->image, c->bytes);
    w->d->ops->launch(w->d, kernel, buffers, c->args_count, w->sizes, blocks);
    w->d->ops->copy_out(w->d, w->got, w->memory, c->bytes);
    return w->d->ops->sync(w->d, err);
}

/* ---- comparing -------------------------------------------------------------------------------------------------- */

static double distance(double got, double want)
{
    if (got == want || (isnan(got) && isnan(want)))
        return 0;
    double d = fabs(got - want);
    return isnan(d) ? INFINITY : d;
}

/* Within tolerance of the largest magnitude that is expected. */
static bool within(const Arg *a, const uint8_t *got, double *error, Err *err)
{
    size_t count = a->bytes * 8 / (size_t)dtype_bits(a->type), worst_at = 0;
    double worst = 0, top = 1e-30;
    for (size_t i = 0; i < count; i++) {
        if (dtype_get(a->type, a->mask, i) == 0)
            continue;
        double want = dtype_get(a->type, a->expected, i), d = distance(dtype_get(a->type, got, i), want);
        if (isfinite(want))
            top = MAX(top, fabs(want));
        if (d > worst)
            worst = d, worst_at = i;
    }
    *error = MAX(*error, worst / top);
    return worst / top <= a->tolerance ||
           err_set(err, "element %zu of %s is %.9g, reference %.9g (relative error %.3g, tolerance %.3g)", worst_at,
                   a->name, dtype_get(a->type, got, worst_at), dtype_get(a->type, a->expected, worst_at), worst / top,
                   a->tolerance);
}

static bool same_bytes(const uint8_t *got, const uint8_t *want, size_t from, size_t to, const char *what,
                       const char *name, Err *err)
{
    for (size_t i = from; i < to; i++)
        if (got[i] != want[i])
            return err_set(err, "%s '%s': byte %zu is %02x, was %02x", what, name, i - from, got[i], want[i]);
    return true;
}

/* Inputs and surroundings. */
static bool untouched(const Work *w, const Case *c, Err *err)
{
    size_t at = 0;
    const char *name = "the first buffer";
    for (int i = 0; i <= c->args_count; i++) {
        const Arg *a = i < c->args_count ? &c->args[i] : NULL;
        size_t next = a ? a->offset : c->bytes;
        if (!same_bytes(w->got, w->image, at, next, "writes outside of its buffers: behind", name, err))
            return false;
        if (!a)
            break;
        at = a->offset + a->bytes;
        name = a->name;
        if (a->read_only && !same_bytes(w->got, w->image, a->offset, at, "writes to an input,", name, err))
            return false;
    }
    return true;
}

static bool same_bits(const Work *w, const Case *c, const char *what, Err *err)
{
    for (int i = 0; i < c->args_count; i++) {
        const Arg *a = &c->args[i];
        if (!same_bytes(w->got, w->first, a->offset, a->offset + a->bytes, what, a->name, err))
            return false;
    }
    return true;
}

/* `first`: held against the reference; its bits are what the case's other kernels must give. */
static bool check_kernel(Work *w, const Case *c, int kernel, bool first, double *error, Err *err)
{
    for (int i = 0; i < RUNS; i++) {
        if (!run(w, c, kernel, err) || !untouched(w, c, err))
            return false;
        for (int n = 0; first && i == 0 && n < c->args_count; n++)
            if (!c->args[n].read_only && !within(&c->args[n], w->got + c->args[n].offset, error, err))
                return false;
        if (first && i == 0)
            memcpy(w->first, w->got, c->bytes);
        if (!same_bits(w, c, i ? "differs when run again: a race?" : "not bit-equal to the default settings:", err))
            return false;
    }
    return true;
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

static void report_unbuilt(Work *w, const json_t *o)
{
    size_t i;
    const json_t *u;
    json_array_foreach(json_object_get(o, "unbuilt"), i, u) {
        bool refused = json_is_true(json_object_get(u, "refused"));
        const char *label = json_string_value(json_object_get(u, "label"));
        const char *why = json_string_value(json_object_get(u, "why"));
        w->refused += refused;
        w->failed += !refused;
        if (!refused || w->verbose)
            printf("%s  %s: was not compiled: %s\n", refused ? "ok  " : "FAIL", label ? label : "?", why ? why : "?");
    }
}

/* False when the case can't be run at all. */
static bool run_case(Work *w, const json_t *o, const Case *c, Err *err)
{
    const json_t *list = json_object_get(o, "kernels"), *number;
    bool first = true;
    size_t i;
    if (json_array_size(list) && !prepare(w, c, err))
        return false;
    json_array_foreach((json_t *)list, i, number) {
        int kernel = (int)json_integer_value(number);
        Err why = {0};
        double error = 0;
        if (kernel < 0 || kernel >= w->file.plan->kernels_count)
            return err_set(err, "kernel %d is not in the file", kernel);
        if (w->number++ < w->from)
            continue;
        const char *name = w->file.plan->kernels[kernel].name;
        bool ok = check_kernel(w, c, kernel, first, &error, &why);
        w->passed += ok;
        w->failed += !ok;
        if (!ok)
            printf("FAIL  %s: %s\n", name, why.text);
        else if (w->verbose)
            printf("ok    %s%s%.2g\n", name, first ? ": error " : ", same bits ", error);
        if (!ok && !w->d->ops->sync(w->d, err)) {
            printf("BROKEN %d\n", w->number - 1);
            return true;
        }
        first = first && !ok;
    }
    return true;
}

static void print_operator(const Work *w, const char *operator, int passed, int failed)
{
    if (operator && w->passed - passed + w->failed - failed)
        printf("%-16s %4d passed, %d failed\n", operator, w->passed - passed, w->failed - failed);
}

static bool run_all(Work *w, const char *only, Err *err)
{
    const char *operator = NULL;
    int passed = 0, failed = 0;
    const json_t *o;
    size_t i;
    json_array_foreach((json_t *)w->file.cases, i, o) {
        Case c;
        if (!read_case(&w->file, o, &c, err))
            return err_prefix(err, "case %zu", i);
        if (only && strcmp(only, c.operator))
            continue;
        if (!operator || strcmp(operator, c.operator)) {
            print_operator(w, operator, passed, failed);
            operator = c.operator;
            passed = w->passed;
            failed = w->failed;
        }
        if (w->number >= w->from)
            report_unbuilt(w, o);
        if (!run_case(w, o, &c, err))
            return false;
        if (!w->d->ops->sync(w->d, NULL))
            break;
    }
    print_operator(w, operator, passed, failed);
    return true;
}

static bool open_work(Work *w, const char *device, char *const *paths, int count, Err *err)
{
    w->d = case_device(device, err);
    if (!w->d || !case_file_open(&w->file, paths, count, "cases", w->d, err))
        return false;
    printf("%s: code for %s, %d kernels\n", w->d->label, w->file.pack.header.target, w->file.plan->kernels_count);
    w->sizes = w->d->ops->alloc(w->d, SIZE_COUNT * sizeof *w->sizes, DEVICE_SHARED, err);
    return w->sizes && w->d->ops->load_code(w->d, w->file.plan, w->file.pack.code, err);
}

static int list_device(const char *name)
{
    Err err = {0};
    Device *d = case_device(name, &err);
    if (!d) {
        printf("%s\n", err.text);
        return 1;
    }
    printf("%s\n", d->label);
    d->ops->close(d);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"device", 1, 0, 'd'}, {"operator", 1, 0, 'o'}, {"from", 1, 0, 'f'}, {"verbose", 0, 0, 'v'},
        {"list", 0, 0, 'l'}, {0}};
    const char *device = "auto", *only = NULL;
    bool list = false;
    Work w = {0};
    Err err = {0};
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;)
        switch (c) {
        case 'd': device = optarg; break;
        case 'o': only = optarg; break;
        case 'f': w.from = atoi(optarg); break;
        case 'v': w.verbose = true; break;
        case 'l': list = true; break;
        default:
            fputs("usage: run_cases [--device D] [--operator OP] [--from N] [--verbose] FILE... | --list\n", stderr);
            return 2;
        }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (list)
        return list_device(device);
    bool ok = open_work(&w, device, argv + optind, argc - optind, &err) && run_all(&w, only, &err);
    if (!ok) {
        printf("FAIL  %s\n", err.text);
        w.failed++;
    }
    if (w.refused)
        printf("%d settings are refused by the gates of the generator (registers spilled, or the like)\n", w.refused);
    printf("%d passed, %d failed\n", w.passed, w.failed);
    if (w.memory)
        w.d->ops->free(w.d, w.memory, w.memory_bytes);
    if (w.sizes)
        w.d->ops->free(w.d, w.sizes, SIZE_COUNT * sizeof *w.sizes);
    if (w.d)
        w.d->ops->close(w.d);
    case_file_close(&w.file);
    free(w.image);
    free(w.got);
    free(w.first);
    return w.failed || !w.passed;
}
