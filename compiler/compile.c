/* compile.c - the whole way from a checkpoint to a pack: plan (which traces kernels), compile them all, write. */
#include "compile.h"
#include "cpu.h"
#include "kernel_cache.h"
#include "pack.h"
#include "signature.h"
#include "tuned.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct Work { /* shared by the compile threads */
    const Generator *g;
    const Target *target;
    const BladegenRequest *request;
    const size_t *which;
    CompiledKernel *object;
    size_t count;
    pthread_mutex_t lock;
    size_t next, done;
    bool every; /* failures are kept with their kernels */
    Err err;    /* of the first kernel that failed, which ends the work */
} Work;

void compiled_free(CompiledKernel *k)
{
    buf_free(&k->code);
    free(k->warning);
    free(k->failure);
    k->warning = k->failure = NULL;
}

static bool take(Work *w, size_t *i)
{
    pthread_mutex_lock(&w->lock);
    bool more = w->next < w->count && !w->err.text[0];
    if (more)
        *i = w->which[w->next++];
    pthread_mutex_unlock(&w->lock);
    return more;
}

static void finished(Work *w, size_t i, const Err *err)
{
    pthread_mutex_lock(&w->lock);
    w->done++;
    if (err->text[0] && w->every)
        w->object[i].failure = xstrdup(err->text);
    else if (err->text[0] && !w->err.text[0])
        w->err = *err;
    if (w->object[i].warning && w->request->warning)
        w->request->warning(w->request->context, w->object[i].warning);
    if (w->request->progress)
        w->request->progress(w->request->context, (int)w->done, (int)w->count, gen_kernel(w->g, i)->name);
    pthread_mutex_unlock(&w->lock);
}

static void *compile_worker(void *context)
{
    Work *w = context;
    for (size_t i; take(w, &i);) {
        Err err = {0};
        CompiledKernel *o = &w->object[i];
        kernel_cache_compile(w->request->kernels, gen_kernel(w->g, i), w->target, o, &err);
        finished(w, i, &err);
    }
    return NULL;
}

static bool run_work(Work *w, Err *err)
{
    int threads = w->request->threads > 0 ? w->request->threads : (int)sysconf(_SC_NPROCESSORS_ONLN);
    pthread_t id[64];
    threads = MAX(1, MIN(threads, 64));
    int started = 0;
    while (started < threads - 1 && !pthread_create(&id[started], NULL, compile_worker, w))
        started++;
    compile_worker(w);
    for (int i = 0; i < started; i++)
        pthread_join(id[i], NULL);
    return !w->err.text[0] || err_set(err, "%s", w->err.text);
}

bool compile_kernels(const Generator *g, const Target *t, const BladegenRequest *r, const size_t *which, size_t count,
                     CompiledKernel *objects, Err *err)
{
    VEC(size_t) missing = {0};
    bool *wanted = xcalloc(gen_kernel_count(g), sizeof *wanted);
    for (size_t i = 0; i < count; i++) {
        if (!wanted[which[i]] && !objects[which[i]].code.len)
            vec_push(&missing, which[i]);
        wanted[which[i]] = true;
    }
    Work w = {.g = g, .target = t, .request = r, .which = missing.at, .object = objects, .count = missing.len,
              .lock = PTHREAD_MUTEX_INITIALIZER};
    bool ok = run_work(&w, err);
    free(wanted);
    vec_free(&missing);
    return ok;
}

void compile_every_kernel(const Generator *g, const Target *t, const BladegenRequest *r, const size_t *which, size_t count,
                          CompiledKernel *objects)
{
    Work w = {.g = g, .target = t, .request = r, .which = which, .object = objects, .count = count, .every = true,
              .lock = PTHREAD_MUTEX_INITIALIZER};
    run_work(&w, NULL);
}

static json_t *describe_code(const CompiledKernel *o, size_t offset)
{
    const KernelInfo *info = &o->info;
    return json_pack("{s:I, s:I, s:I, s:i, s:I, s:i, s:i, s:i, s:i}", "offset", (json_int_t)offset, "size",
                     (json_int_t)o->code.len, "scratch", (json_int_t)info->scratch, "threads", info->threads, "shared",
                     (json_int_t)info->shared, "registers", info->registers, "spills", info->spills, "stack",
                     info->stack, "occupancy", info->occupancy);
}

json_t *compile_layout(const CompiledKernel *objects, const size_t *which, size_t count, Buf *code)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        const CompiledKernel *o = &objects[which[i]];
        while (json_array_size(list) <= which[i])
            json_array_append_new(list, json_null());
        if (!json_is_null(json_array_get(list, which[i])))
            continue;
        while (code->len % 64)
            buf_putc(code, 0);
        json_array_set_new(list, which[i], describe_code(o, code->len));
        buf_put(code, o->code.data, o->code.len);
    }
    return list;
}

/* {dtype, shape}, and for group indices a hash of the data. */
static json_t *describe_tensor(const Tensor *t)
{
    json_t *shape = json_array(), *tensor;
    for (int d = 0; d < t->rank; d++)
        json_array_append_new(shape, json_integer(t->shape[d]));
    tensor = json_pack("{s:s, s:o}", "dtype", dtype_name(t->type), "shape", shape);
    if (ckpt_is_group_index(t)) {
        char hash[24];
        snprintf(hash, sizeof hash, "%016llx", (unsigned long long)hash_bytes(HASH_SEED, t->data, t->bytes));
        json_object_set_new(tensor, "hash", json_string(hash));
    }
    return tensor;
}

json_t *compile_facts(const Checkpoint *c, const BladegenRequest *r)
{
    json_t *tensors = json_object();
    for (size_t i = 0; i < ckpt_count(c); i++)
        json_object_set_new(tensors, ckpt_at(c, i)->name, describe_tensor(ckpt_at(c, i)));
    return json_pack("{s:O, s:o, s:s, s:b}", "config", ckpt_config(c), "tensors", tensors, "weights", r->weights,
                     "random", ckpt_count(c) == 0);
}

typedef struct Built { /* the part of the pack for one target */
    Buf plan, code;
    const Target *target;
} Built;

/* The code of all that the generator has traced, and the plan. */
static bool compile_part(Generator *g, const BladegenRequest *r, Built *b, Err *err)
{
    size_t count = gen_kernel_count(g), *all = xcalloc(count, sizeof *all);
    CompiledKernel *objects = xcalloc(count, sizeof *objects);
    for (size_t i = 0; i < count; i++)
        all[i] = i;
    bool ok = compile_kernels(g, b->target, r, all, count, objects, err);
    if (ok) {
        json_t *list = compile_layout(objects, all, count, &b->code);
        ok = gen_plan_json(g, list, &b->plan, err);
        json_decref(list);
    }
    for (size_t i = 0; i < count; i++)
        compiled_free(&objects[i]);
    free(objects);
    free(all);
    return ok;
}

static bool plan_part(Generator *g, const Checkpoint *c, const BladegenRequest *r, Err *err)
{
    json_t *facts = compile_facts(c, r);
    bool ok = gen_plan(g, facts, err);
    json_decref(facts);
    return ok;
}

/* Whose tuned settings a request wants. */
static void device_of(const BladegenRequest *r, char out[CPU_DEVICE_BYTES])
{
    cpu_device(out);
    if (r->device)
        snprintf(out, CPU_DEVICE_BYTES, "%s", r->device);
}

/* Hands the generator the tuned settings of the device; text for the user about files that can't be read. */
static bool use_tuned(Generator *g, const Target *t, const BladegenRequest *r, Buf *warnings, Err *err)
{
    char device[CPU_DEVICE_BYTES];
    device_of(r, device);
    json_t *entries = tuned_read(r->source, device, t->name, warnings);
    bool ok = gen_call(g, "use_tuned", entries, NULL, err);
    json_decref(entries);
    return ok;
}

static bool build_part(const Checkpoint *c, const BladegenRequest *r, Built *b, Err *err)
{
    Generator *g = gen_open(r->source, b->target, err);
    Buf warnings = {0};
    bool ok = g && use_tuned(g, b->target, r, &warnings, err) && plan_part(g, c, r, err) &&
              compile_part(g, r, b, err) && gen_call(g, "tuned_warnings", json_null(), &warnings, err);
    char *line, *rest = warnings.data;
    while (ok && r->warning && rest && (line = strsep(&rest, "\n")) && *line)
        r->warning(r->context, line);
    buf_free(&warnings);
    gen_close(g);
    return ok;
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && !strcmp(s + n - m, tail);
}

Checkpoint *compile_checkpoint(const BladegenRequest *r, Err *err)
{
    return ends_with(r->model, ".json") ? ckpt_open_config(r->model, err) : ckpt_open(r->model, err);
}

/* The targets of a request, each once; -1 and a message for one that is unknown. */
static int list_targets(const BladegenRequest *r, Built built[PACK_MAX_TARGETS], Err *err)
{
    char *names = xstrdup(r->target), *rest = names, *name;
    int count = 0;
    while (count >= 0 && (name = strsep(&rest, ","))) {
        const Target *t = target_find(name, err);
        bool seen = false;
        for (int i = 0; i < count; i++)
            seen |= built[i].target == t;
        if (!t || (!seen && count == PACK_MAX_TARGETS))
            count = -1;
        else if (!seen)
            built[count++] = (Built){.target = t};
    }
    free(names);
    return count;
}

/* The folder of Lua sources that belongs to this library, and the library itself. */
static void own_places(char *library, char *source, size_t size)
{
    generator_find(library, size);
    source_folder(library, source, size);
}

static bool write_pack(const Built *built, int count, const Checkpoint *c, const BladegenRequest *r, uint64_t signature,
                       const json_t *origin, Err *err)
{
    PackPart parts[PACK_MAX_TARGETS] = {0};
    PackHeader h = {.fingerprint = ckpt_fingerprint(c), .signature = signature};
    snprintf(h.weights, sizeof h.weights, "%s", r->weights);
    for (int i = 0; i < count; i++) {
        const Built *b = &built[i];
        parts[i] = (PackPart){.numerics = 1, .plan = b->plan.data, .plan_len = b->plan.len,
                              .code = (const uint8_t *)b->code.data, .code_len = b->code.len};
        snprintf(parts[i].target, sizeof parts[i].target, "%s", b->target->name);
    }
    Buf file = {0};
    char *text = json_dumps(origin, JSON_COMPACT | JSON_SORT_KEYS);
    pack_image(&file, &h, parts, count, text, strlen(text));
    bool ok = file_write_atomic(r->output, file.data, file.len, err);
    buf_free(&file);
    free(text);
    return ok;
}

static bool build_parts(const BladegenRequest *r, const Checkpoint *c, Built *built, int count, Err *err)
{
    if (r->kernels && dir_make(r->kernels, NULL)) /* without it every kernel is compiled */
        kernel_cache_prune(r->kernels);
    for (int i = 0; i < count; i++)
        if (!build_part(c, r, &built[i], err))
            return false;
    return true;
}

/* Signature and origin are taken before the sources are read: what changes meanwhile makes the pack stale, not
 * wrong. */
static bool generate(const BladegenRequest *r, Err *err)
{
    Built built[PACK_MAX_TARGETS] = {0};
    char library[4096], own[4096], device[CPU_DEVICE_BYTES];
    int count = list_targets(r, built, err);
    Checkpoint *c = count > 0 ? compile_checkpoint(r, err) : NULL;
    if (!c)
        return false;
    own_places(library, own, sizeof own);
    device_of(r, device);
    json_t *origin = source_origin(r->source, library, device);
    uint64_t signature = source_signature(r->source, library, r->device);
    bool ok = build_parts(r, c, built, count, err) && write_pack(built, count, c, r, signature, origin, err);
    for (int i = 0; i < count; i++) {
        buf_free(&built[i].plan);
        buf_free(&built[i].code);
    }
    json_decref(origin);
    ckpt_close(c);
    return ok;
}

int bladegen_build(const BladegenRequest *request, char *err, size_t err_size)
{
    BladegenRequest r = *request;
    Err e = {0};
    char library[4096], own[4096];
    own_places(library, own, sizeof own);
    r.source = r.source ? r.source : own;
    bool ok = generate(&r, &e);
    snprintf(err, err_size, "%s", e.text);
    return ok ? 0 : 1;
}

unsigned long long bladegen_generator(const char *source)
{
    char library[4096], own[4096];
    own_places(library, own, sizeof own);
    return generator_signature(source ? source : own, library);
}

unsigned long long bladegen_signature(const char *source)
{
    char library[4096], own[4096];
    own_places(library, own, sizeof own);
    return source_signature(source ? source : own, library, NULL);
}
