/* library.c - libbladegen at arm's length: only what needs the generator loads it, and LLVM with it. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "signature.h"
#include "tuner.h"

static bool find(void *lib, const char *name, void *out, Err *err)
{
    void *symbol = lib ? dlsym(lib, name) : NULL;
    memcpy(out, &symbol, sizeof symbol);
    const char *why = symbol ? NULL : dlerror();
    return symbol || err_set(err, "the generator libbladegen.so is needed here and can't be used (%s); `bladetune "
                             "measure` and `bladetune show` do without", why ? why : name);
}

bool library_open(Library *l, Err *err)
{
    char path[4096];
    generator_find(path, sizeof path);
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* stays: LLVM does not like to be unloaded */
    return find(lib, "bladegen_tuner_open", &l->open, err) && find(lib, "bladegen_tuner_close", &l->close, err) &&
           find(lib, "bladegen_tuner_cases", &l->cases, err) && find(lib, "bladegen_tuner_build", &l->build, err) &&
           find(lib, "bladegen_generator", &l->generator, err);
}

BladegenTuner *library_tuner(const Library *l, const TunerOptions *o, const char *only, const char *known, Err *err)
{
    char text[1900] = "";
    BladegenRequest r = {.model = o->config ? o->config : o->args[0], .target = o->target, .weights = o->weights,
                         .threads = (int)o->threads, .device = ""};
    BladegenTuning t = {.most = (int)o->most, .fault = o->fault, .only = only, .known = known};
    BladegenTuner *tuner = l->open(&r, &t, text, sizeof text);
    if (!tuner)
        err_set(err, "%s", text);
    return tuner;
}

bool library_build(const Library *l, BladegenTuner *t, const int *cases, int count, Candidates *out, Err *err)
{
    char text[1900] = "";
    *out = (Candidates){0};
    if (l->build(t, cases, count, &out->raw, text, sizeof text))
        return err_set(err, "%s", text);
    out->pack = case_read(out->raw.plan, out->raw.plan_len, out->raw.code_len, err);
    if (!out->pack)
        candidates_free(out);
    return out->pack != NULL;
}

void candidates_free(Candidates *c)
{
    case_free(c->pack);
    free(c->raw.plan);
    free(c->raw.code);
    *c = (Candidates){0};
}
