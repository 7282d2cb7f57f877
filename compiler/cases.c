/* cases.c - see cases.h. What is in the file is decided in Lua (compiler/lua/cases.lua, samples.lua); this file
 * compiles the kernels and puts the parts together. */
#include "cases.h"
#include "compile.h"
#include "pack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Work {
    const CasesRequest *r;
    const Target *target;
    Generator *g;
    CompiledKernel *objects; /* by kernel number */
    VEC(size_t) wanted;      /* numbers of the kernels to compile */
    VEC(size_t) compiled;
    int blobs_count;
    json_t *failures;        /* {kernel's number: why} */
    Buf code, plan;
} Work;

/* Calls a function of the file's kind: cases_prepare, samples_json. Takes the argument. */
static bool call(Work *w, const char *function, json_t *argument, Buf *out, Err *err)
{
    char name[64];
    snprintf(name, sizeof name, "%s_%s", w->r->what, function);
    bool ok = gen_call(w->g, name, argument, out, err);
    json_decref(argument);
    return ok;
}

static bool prepare(Work *w, Err *err)
{
    Buf text = {0};
    json_t *options = json_pack("{s:s*, s:b}", "operator", w->r->operator, "quick", w->r->quick), *answer, *number;
    size_t i;
    if (!call(w, "prepare", options, &text, err))
        return false;
    answer = json_loadb(text.data, text.len, 0, NULL);
    json_array_foreach(json_object_get(answer, "kernels"), i, number)
        vec_push(&w->wanted, (size_t)json_integer_value(number));
    w->blobs_count = (int)json_integer_value(json_object_get(answer, "blobs"));
    json_decref(answer);
    buf_free(&text);
    return w->wanted.len || err_set(err, "there are no kernels for %s", w->target->name);
}

static void compile(Work *w)
{
    w->objects = xcalloc(gen_kernel_count(w->g), sizeof *w->objects);
    compile_every_kernel(w->g, w->target, &w->r->build, w->wanted.at, w->wanted.len, w->objects);
    w->failures = json_object();
    for (size_t i = 0; i < w->wanted.len; i++) {
        size_t number = w->wanted.at[i];
        char key[24];
        snprintf(key, sizeof key, "%zu", number);
        if (w->objects[number].failure)
            json_object_set_new(w->failures, key, json_string(w->objects[number].failure));
        else
            vec_push(&w->compiled, number);
    }
}

/* Appends the blobs to the code; their [offset, size]. */
static bool put_blobs(Work *w, json_t *places, Err *err)
{
    for (int i = 0; i < w->blobs_count; i++) {
        while (w->code.len % 64)
            buf_putc(&w->code, 0);
        size_t offset = w->code.len;
        if (!call(w, "blob", json_integer(i), &w->code, err))
            return false;
        json_array_append_new(places, json_pack("[I, I]", (json_int_t)offset, (json_int_t)(w->code.len - offset)));
    }
    return true;
}

static bool describe(Work *w, Err *err)
{
    json_t *layout = compile_layout(w->objects, w->compiled.at, w->compiled.len, &w->code), *places = json_array();
    bool ok = put_blobs(w, places, err);
    json_t *given = json_pack("{s:o, s:o, s:O}", "code", layout, "blobs", places, "failures", w->failures);
    if (ok)
        return call(w, "json", given, &w->plan, err);
    json_decref(given);
    return false;
}

static bool write_file(const Work *w, Err *err)
{
    PackHeader h = {.numerics = 1};
    snprintf(h.target, sizeof h.target, "%s", w->target->name);
    snprintf(h.weights, sizeof h.weights, "%s", w->r->what);
    return pack_write(w->r->output, &h, w->plan.data, w->plan.len, w->code.data, w->code.len, err);
}

bool cases_write(const CasesRequest *r, CasesResult *result, Err *err)
{
    Work w = {.r = r, .target = target_find(r->build.target, err)};
    w.g = w.target ? gen_open(r->build.source, w.target, err) : NULL;
    bool ok = w.g != NULL;
    if (r->build.kernels)
        dir_make(r->build.kernels, NULL); /* without it every kernel is compiled */
    if (ok)
        gen_set_run(w.g, NULL, NULL); /* references may take their time */
    ok = ok && prepare(&w, err);
    if (ok)
        compile(&w);
    ok = ok && describe(&w, err) && write_file(&w, err);
    *result = (CasesResult){(int)w.compiled.len, (int)json_object_size(w.failures), w.plan.len + w.code.len};
    for (size_t i = 0; w.objects && i < w.wanted.len; i++)
        compiled_free(&w.objects[w.wanted.at[i]]);
    free(w.objects);
    vec_free(&w.wanted);
    vec_free(&w.compiled);
    json_decref(w.failures);
    buf_free(&w.code);
    buf_free(&w.plan);
    gen_close(w.g);
    return ok;
}
