/* RMSNorm and LayerNorm as generated, for every CPU target that runs here, against torch (tests/golden/operators).
 * Prints the observed error. */
#include "test.h"

#include "generator.h"
#include "json.h"
#include "verify.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Norm { /* a case of the file */
    const json_t *golden;
    const char *name, *kind;
    int n, rows;
} Norm;

static const Kernel *trace(Generator *g, const Norm *c)
{
    char n[32], eps[64];
    snprintf(n, sizeof n, "n=%d", c->n);
    snprintf(eps, sizeof eps, "eps=%.17g", json_number_value(json_object_get(c->golden, "eps")));
    const char *set[] = {n, eps, "out=f32", "bias=true"};
    bool bias = json_object_get(c->golden, "bias");
    Err err = {0};
    const Kernel *k = gen_show(g, c->kind, set, bias ? 4 : 3, NULL, &err);
    if (!k)
        fail_msg("%s: %s", c->name, err.text);
    return k;
}

/* An argument's memory for these sizes, zero; a list or a list of lists of numbers in its first rows. */
static float *make_argument(const Memory *m, const int64_t *sizes, const json_t *values)
{
    float *data = calloc(1, (size_t)memory_bytes(m, sizes) + 64);
    int64_t pitch = m->pitch ? m->pitch : m->dim[m->rank - 1].n;
    const json_t *row, *x;
    size_t r, i;
    json_array_foreach((json_t *)values, r, row) {
        if (json_is_number(row))
            data[r] = (float)json_number_value(row);
        json_array_foreach((json_t *)row, i, x)
            data[r * (size_t)pitch + i] = (float)json_number_value(x);
    }
    return data;
}

/* Largest difference to y, relative to its largest element. */
static double compare(const Norm *c, const Memory *m, const float *got)
{
    const json_t *y = json_object_get(c->golden, "y");
    double worst = 0, top = 0;
    for (int r = 0; r < c->rows; r++)
        for (int i = 0; i < c->n; i++) {
            double want = json_number_value(json_array_get(json_array_get(y, (size_t)r), (size_t)i));
            double difference = fabs(want - got[r * m->pitch + i]);
            worst = difference <= worst ? worst : difference; /* a NaN stays */
            top = fmax(top, fabs(want));
        }
    return top > 0 ? worst / top : worst;
}

static double run_case(Generator *g, const Target *t, const Norm *c)
{
    static const char *const names[][2] = {{"x", "x"}, {"w", "weight"}, {"b", "bias"}};
    const Kernel *k = trace(g, c);
    int64_t sizes[SIZE_COUNT] = {[SIZE_TOKENS] = c->rows};
    void *buffers[8];
    const Memory *y = NULL;
    Err err = {0};
    for (size_t n = 0; n < k->mem.len; n++) {
        const Memory *m = &k->mem.at[n];
        const json_t *values = NULL;
        for (size_t i = 0; i < COUNT(names); i++)
            if (!strcmp(m->name, names[i][0]))
                values = json_object_get(c->golden, names[i][1]);
        assert_true(m->space == SPACE_GLOBAL && m->index < (int)COUNT(buffers));
        buffers[m->index] = make_argument(m, sizes, values);
        y = m->access == ACCESS_OUT ? m : y;
    }
    if (!verify_run((void *)(uintptr_t)t, k, buffers, sizes, &err))
        fail_msg("%s: %s", c->name, err.text);
    double difference = compare(c, y, buffers[y->index]);
    for (size_t n = 0; n < k->mem.len; n++)
        free(buffers[k->mem.at[n].index]);
    return difference;
}

/* The mean of numbers around 100 has an error of 4e-6 in f32, torch's as ours. */
static double tolerance_of(const Norm *c)
{
    return !strcmp(c->kind, "layernorm") && !strcmp(c->name, "33 columns around 100") ? 1e-5 : 5e-7;
}

static double run_file(Generator *g, const Target *t)
{
    Err err = {0};
    json_t *file = json_read(SOURCE_DIR "/tests/golden/operators/norms.json", 1 << 20, &err), *golden;
    if (!file)
        fail_msg("%s", err.text);
    double worst = 0;
    size_t i;
    json_array_foreach(json_object_get(file, "cases"), i, golden) {
        const json_t *x = json_object_get(golden, "x");
        Norm c = {golden, json_string_value(json_object_get(golden, "name")),
                  json_string_value(json_object_get(golden, "kind")), (int)json_array_size(json_array_get(x, 0)),
                  (int)json_array_size(x)};
        double difference = run_case(g, t, &c);
        if (!(difference <= tolerance_of(&c)))
            fail_msg("%s %s on %s: differs by %.3g", c.kind, c.name, t->name, difference);
        worst = tolerance_of(&c) < 1e-6 ? fmax(worst, difference) : worst;
    }
    assert_true(i >= 14);
    json_decref(file);
    return worst;
}

static void golden_norms(void **state)
{
    (void)state;
    for (int n = 0; target_at(n); n++) {
        const Target *t = target_at(n);
        Err err = {0};
        if (!target_runs_here(t))
            continue;
        Generator *g = gen_open(SOURCE_DIR, t, &err);
        if (!g)
            fail_msg("%s", err.text);
        print_message("%s: largest difference to torch %.2g\n", t->name, run_file(g, t));
        gen_close(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden_norms)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
