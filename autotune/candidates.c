/* candidates.c - the generator's half of bladetune, part of libbladegen: candidates are enumerated and ranked in Lua
 * (compiler/lua/tune.lua), compiled in parallel, and verified in small against the reference. See bladegen.h. */
#include "../compiler/compile.h"
#include "../compiler/object.h"
#include "../compiler/signature.h"
#include "../compiler/verify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef VEC(size_t) Numbers;

struct BladegenTuner {
    Arena *arena; /* owns the request's strings */
    BladegenRequest request;
    const Target *target;
    const Target *proof; /* what reduced kernels are compiled for to be run here: the target, a GPU's twin; NULL: nothing */
    Generator *g;
    VEC(CompiledKernel) objects, proofs; /* by kernel number */
    Buf cases;
};

static const char *keep(BladegenTuner *t, const char *s)
{
    return s ? arena_strdup(t->arena, s) : NULL;
}

static void copy_request(BladegenTuner *t, const BladegenRequest *r)
{
    char library[4096], source[4096];
    generator_find(library, sizeof library);
    source_folder(library, source, sizeof source);
    t->request = *r;
    t->request.model = keep(t, r->model);
    t->request.weights = keep(t, r->weights);
    t->request.source = keep(t, r->source ? r->source : source);
    t->request.progress = NULL;
}

static bool plan_cases(BladegenTuner *t, const BladegenTuning *tuning, Err *err)
{
    const BladegenRequest *r = &t->request;
    int threads = r->threads > 0 ? r->threads : (int)sysconf(_SC_NPROCESSORS_ONLN);
    Checkpoint *c = compile_checkpoint(r, err);
    if (!c)
        return false;
    json_t *facts = compile_facts(c, r);
    json_t *only = tuning->only ? json_loads(tuning->only, 0, NULL) : NULL;
    json_t *known = tuning->known ? json_loads(tuning->known, 0, NULL) : NULL;
    json_t *options = json_pack("{s:i, s:i, s:b, s:o*, s:o*}", "threads", threads, "most", MAX(tuning->most, 1), "fault",
                                tuning->fault, "only", only, "known", known);
    bool ok = gen_call(t->g, "tune_collect", options, NULL, err) && gen_plan(t->g, facts, err) &&
              gen_call(t->g, "tune_cases", json_null(), &t->cases, err);
    json_decref(options);
    json_decref(facts);
    ckpt_close(c);
    return ok;
}

/* ---- compiled kernels ------------------------------------------------------------------------------------------- */

static void make_room(BladegenTuner *t)
{
    while (t->objects.len < gen_kernel_count(t->g)) {
        vec_push(&t->objects, (CompiledKernel){0});
        vec_push(&t->proofs, (CompiledKernel){0});
    }
}

static void add_number(Numbers *list, size_t n)
{
    for (size_t i = 0; i < list->len; i++)
        if (list->at[i] == n)
            return;
    vec_push(list, n);
}

/* Adds the kernel numbers that a Lua function names in JSON. */
static bool ask_kernels(BladegenTuner *t, const char *function, const json_t *argument, Numbers *out, Err *err)
{
    Buf text = {0};
    bool ok = gen_call(t->g, function, argument, &text, err);
    json_t *list = ok ? json_loadb(text.data, text.len, 0, NULL) : NULL;
    for (size_t i = 0; i < json_array_size(list); i++)
        add_number(out, (size_t)json_integer_value(json_array_get(list, i)));
    json_decref(list);
    buf_free(&text);
    make_room(t);
    return ok;
}

/* A RunKernel: runs what was compiled already. */
static bool run_compiled(void *context, const Kernel *k, void **buffers, const int64_t *sizes, Err *err)
{
    BladegenTuner *t = context;
    size_t n = 0;
    while (n < gen_kernel_count(t->g) && gen_kernel(t->g, n) != k)
        n++;
    if (n >= t->proofs.len || !t->proofs.at[n].code.len)
        return verify_run((void *)t->proof, k, buffers, sizes, err);
    const CompiledKernel *o = &t->proofs.at[n];
    return verify_object(k, t->proof, o->code.data, o->code.len, &o->info, buffers, sizes, err);
}

/* ---- the interface ---------------------------------------------------------------------------------------------- */

void bladegen_tuner_close(BladegenTuner *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->objects.len; i++) {
        compiled_free(&t->objects.at[i]);
        compiled_free(&t->proofs.at[i]);
    }
    vec_free(&t->objects);
    vec_free(&t->proofs);
    gen_close(t->g);
    buf_free(&t->cases);
    arena_free(t->arena);
    free(t);
}

static void report(char *err, size_t size, const Err *e)
{
    size_t n = size ? MIN(strlen(e->text), size - 1) : 0;
    if (size) {
        memcpy(err, e->text, n);
        err[n] = 0;
    }
}

/* The target that shows on this machine whether a kernel for `t` is right; NULL when there is none. */
static const Target *proof_of(const Target *t)
{
    char name[64];
    snprintf(name, sizeof name, "simt:%s", t->name);
    const Target *twin = t->gpu && !t->simt ? target_find(name, &(Err){0}) : t;
    return twin && target_runs_here(twin) ? twin : NULL;
}

BladegenTuner *bladegen_tuner_open(const BladegenRequest *request, const BladegenTuning *tuning, char *err,
                                   size_t err_size)
{
    Err e = {0};
    BladegenTuner *t = xcalloc(1, sizeof *t);
    t->arena = arena_new();
    copy_request(t, request);
    t->target = target_find(request->target, &e);
    t->proof = t->target ? proof_of(t->target) : NULL;
    t->g = t->target ? gen_open(t->request.source, t->target, &e) : NULL;
    if (t->g && plan_cases(t, tuning, &e)) {
        gen_set_run(t->g, run_compiled, t);
        return t;
    }
    report(err, err_size, &e);
    bladegen_tuner_close(t);
    return NULL;
}

const char *bladegen_tuner_cases(const BladegenTuner *t)
{
    return t->cases.data;
}

/* Tells Lua which kernels could not be compiled; an error where nothing can be measured without one. */
static bool tell_failures(BladegenTuner *t, const Numbers *kernels, const CompiledKernel *compiled, Err *err)
{
    bool ok = true;
    for (size_t i = 0; ok && i < kernels->len; i++) {
        const char *why = compiled[kernels->at[i]].failure;
        if (!why)
            continue;
        json_t *given = json_pack("{s:I, s:s}", "kernel", (json_int_t)kernels->at[i], "why", why);
        ok = gen_call(t->g, "tune_failed", given, NULL, err);
        json_decref(given);
    }
    return ok;
}

/* Compiles those that are not yet there. */
static bool compile_all(BladegenTuner *t, const Target *target, const Numbers *kernels, CompiledKernel *compiled, Err *err)
{
    Numbers todo = {0};
    for (size_t i = 0; i < kernels->len; i++)
        if (!compiled[kernels->at[i]].code.len && !compiled[kernels->at[i]].failure)
            vec_push(&todo, kernels->at[i]);
    compile_every_kernel(t->g, target, &t->request, todo.at, todo.len, compiled);
    vec_free(&todo);
    return tell_failures(t, kernels, compiled, err);
}

static bool prepare(BladegenTuner *t, const int *cases, int count, Numbers *kernels, Err *err)
{
    Numbers reduced = {0};
    bool ok = ask_kernels(t, "tune_limits", json_null(), kernels, err);
    for (int i = 0; ok && i < count; i++) {
        json_t *number = json_integer(cases[i] + 1);
        ok = ask_kernels(t, "tune_prepare", number, kernels, err) && ask_kernels(t, "tune_reduced", number, &reduced, err);
        json_decref(number);
    }
    ok = ok && compile_all(t, t->target, kernels, t->objects.at, err) &&
         (!t->proof || compile_all(t, t->proof, &reduced, t->proofs.at, err));
    vec_free(&reduced);
    return ok;
}

static bool verify(BladegenTuner *t, const int *cases, int count, Err *err)
{
    bool ok = true;
    for (int i = 0; ok && i < count && t->proof; i++) {
        json_t *number = json_integer(cases[i] + 1);
        ok = gen_call(t->g, "tune_verify", number, NULL, err);
        json_decref(number);
    }
    return ok;
}

/* The plan decides which kernels are in it: layout and plan agree because both follow the kernels' numbers. */
static bool write_parts(BladegenTuner *t, const int *cases, int count, const Numbers *kernels, BladegenCandidates *out,
                        Err *err)
{
    Buf code = {0}, plan = {0};
    json_t *layout = compile_layout(t->objects.at, kernels->at, kernels->len, &code), *numbers = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(numbers, json_integer(cases[i] + 1));
    json_t *given = json_pack("{s:o, s:o}", "cases", numbers, "code", layout);
    bool ok = gen_call(t->g, "tune_json", given, &plan, err);
    json_decref(given);
    *out = (BladegenCandidates){plan.data, code.data, plan.len, code.len, t->target->name};
    if (!ok) {
        buf_free(&plan);
        buf_free(&code);
        *out = (BladegenCandidates){0};
    }
    return ok;
}

int bladegen_tuner_build(BladegenTuner *t, const int *cases, int count, BladegenCandidates *out, char *err,
                         size_t err_size)
{
    Err e = {0};
    Numbers kernels = {0};
    bool ok = prepare(t, cases, count, &kernels, &e) && verify(t, cases, count, &e) &&
              write_parts(t, cases, count, &kernels, out, &e);
    vec_free(&kernels);
    report(err, err_size, &e);
    return ok ? 0 : 1;
}
