/* source.c - see source.h. The compiler runs in the program bladegen-source (source_main.c) beside this library, with a time
 * limit. Only architectures that a compiler is known to compile for are given to it: Debian's HIPRTC 5.2 ends the process for
 * others. */
#include "source.h"
#include "child.h"
#include "gpu/emit.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 4096, OPTION_BYTES = 128, MAX_OPTIONS = 40 };

double source_seconds = 60;

typedef struct Library {
    const char *name;
    const char *targets; /* with blanks around each */
} Library;

#define CUDA_12_8 " sm_80 sm_86 sm_89 sm_90a sm_100a "
static const Library nvrtc[] = {
    {"libnvrtc.so.13", CUDA_12_8}, {"libnvrtc.so.12", CUDA_12_8}, {"libnvrtc.so.11.2", " sm_80 sm_86 "},
    {"libnvrtc.so", CUDA_12_8}, {0}};
static const Library hiprtc[] = {
    {"libhiprtc.so.7", " gfx90a gfx942 gfx1100 "}, {"libhiprtc.so.6", " gfx90a gfx942 gfx1100 "},
    {"libhiprtc.so.5", " gfx90a "}, {"libamdhip64.so.5", " gfx90a "}, {0}};

/* ---- finding ---------------------------------------------------------------------------------------------------------- */

/* The library of that name in the folders of LD_LIBRARY_PATH, or where packages put it. */
static bool find_library(const char *name, char path[PATH_BYTES])
{
    static const char *const folders = "/usr/local/cuda/lib64:/opt/rocm/lib:/usr/lib/x86_64-linux-gnu:"
                                       "/usr/lib/aarch64-linux-gnu:/usr/lib64:/usr/lib";
    const char *lists[] = {getenv("LD_LIBRARY_PATH"), folders};
    for (size_t i = 0; i < COUNT(lists); i++)
        for (const char *p = lists[i] ? lists[i] : ""; *p;) {
            size_t n = strcspn(p, ":");
            if (n && snprintf(path, PATH_BYTES, "%.*s/%s", (int)n, p, name) < PATH_BYTES && file_exists(path))
                return true;
            p += n + (p[n] == ':');
        }
    return false;
}

/* Which compiler, and what it compiles for. */
static const Library *find_compiler(const Target *t, char path[PATH_BYTES])
{
    static const Library named[] = {{"", CUDA_12_8 " gfx90a gfx942 gfx1100 "}};
    const char *given = getenv(t->gpu->nvidia ? "BLADE_NVRTC" : "BLADE_HIPRTC");
    if (given && *given)
        return snprintf(path, PATH_BYTES, "%s", given) < PATH_BYTES && file_exists(path) ? named : NULL;
    for (const Library *l = t->gpu->nvidia ? nvrtc : hiprtc; l->name; l++)
        if (find_library(l->name, path))
            return l;
    return NULL;
}

/* The program beside the file that this code is in: bladegen, libbladegen.so, a test. */
static bool find_program(char path[PATH_BYTES])
{
    static const char here;
    static const char *const places[] = {"bladegen-source", "../bin/bladegen-source"};
    Dl_info info;
    if (!dladdr(&here, &info) || !info.dli_fname)
        return false;
    const char *slash = strrchr(info.dli_fname, '/');
    int folder = slash ? (int)(slash - info.dli_fname) : 0;
    for (size_t i = 0; i < COUNT(places); i++) {
        char beside[PATH_BYTES];
        snprintf(beside, sizeof beside, "%.*s/%s", folder, info.dli_fname, places[i]);
        if (child_find(slash ? beside : places[i], (const char *const[]){NULL}, path, PATH_BYTES))
            return true;
    }
    return false;
}

bool source_compiler_for(const Target *t, Buf *why)
{
    char path[PATH_BYTES], name[64];
    if (!t->gpu || t->simt)
        return false;
    const Library *l = find_compiler(t, path);
    snprintf(name, sizeof name, " %s ", t->name);
    if (l && strstr(l->targets, name) && find_program(path))
        return true;
    if (why && !l)
        buf_printf(why, "no %s is found", t->gpu->nvidia ? "NVRTC (libnvrtc.so)" : "HIPRTC (libhiprtc.so)");
    else if (why && !strstr(l->targets, name))
        buf_printf(why, "%s is not known to compile for %s", l->name, t->name);
    else if (why)
        buf_puts(why, "the program bladegen-source is not beside bladegen");
    return false;
}

/* ---- compiling --------------------------------------------------------------------------------------------------------- */

typedef struct Options {
    char text[MAX_OPTIONS][OPTION_BYTES];
    int count;
} Options;

static void option(Options *o, const char *format, ...) PRINTF(2, 3);
static void option(Options *o, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    if (o->count < MAX_OPTIONS)
        vsnprintf(o->text[o->count++], OPTION_BYTES, format, ap);
    va_end(ap);
}

static void set_options(Options *o, const Kernel *k, const Target *t)
{
    *o = (Options){0};
    if (t->gpu->nvidia) {
        option(o, "--gpu-architecture=%s", t->name);
        option(o, "--fmad=false");
        option(o, "--ptxas-options=-v");
    } else {
        option(o, "--offload-arch=%s", t->name);
        option(o, "-ffp-contract=off");
        option(o, "-O3");
    }
    option(o, "-std=c++17");
    option(o, "-DTHREADS=%d", k->external.threads);
    option(o, "-DSHARED=%lld", (long long)k->external.shared);
    option(o, "-DWAVE=%d", t->gpu->wave);
    for (int i = 0; i < SIZE_COUNT; i++) {
        option(o, "-DSIZE_%s=%d", size_names[i], i);
        for (char *c = o->text[o->count - 1]; *c && *c != '='; c++)
            *c = *c >= 'a' && *c <= 'z' ? (char)(*c - 'a' + 'A') : *c;
    }
    for (const char *d = k->external.defines; d && *d;) {
        size_t n = strcspn(d, " ");
        if (n)
            option(o, "-D%.*s", (int)n, d);
        d += n + (d[n] == ' ');
    }
}

static void set_info(const Kernel *k, KernelInfo *info)
{
    *info = (KernelInfo){.threads = k->external.threads, .shared = k->external.shared};
}

static bool pass_gates(const Kernel *k, const Target *t, const Buf *code, const Buf *log, KernelInfo *info, Err *err)
{
    return t->gpu->nvidia ? gate_nvidia(k, t, log->data ? log->data : "", info, err) : gate_amd(k, t, code, info, err);
}

static bool run(const Kernel *k, const Target *t, const char *program, const char *library, Buf *out, Buf *log, Err *err)
{
    Options o;
    Child c = {.argv = {program, t->gpu->nvidia ? "nvrtc" : "hiprtc", library, CHILD_INPUT, CHILD_OUTPUT, k->external.file},
               .input = k->external.text, .input_len = strlen(k->external.text), .seconds = source_seconds};
    set_options(&o, k, t);
    for (int i = 0; i < o.count && 6 + i < CHILD_ARGS - 1; i++)
        c.argv[6 + i] = o.text[i];
    return child_run(&c, out, log, err) || err_prefix(err, "%s by %s", k->external.file, library);
}

bool source_compile(const Kernel *k, const Target *t, Buf *out, KernelInfo *info, Err *err)
{
    char library[PATH_BYTES], program[PATH_BYTES];
    Buf why = {0}, log = {0};
    if (!source_compiler_for(t, &why)) {
        err_set(err, "%s: %s", k->external.file, why.data ? why.data : "it is for GPUs only");
        buf_free(&why);
        return false;
    }
    find_compiler(t, library);
    find_program(program);
    set_info(k, info);
    bool ok = run(k, t, program, library, out, &log, err) && pass_gates(k, t, out, &log, info, err);
    buf_free(&log);
    return ok;
}

void source_key(const Kernel *k, const Target *t, Buf *out)
{
    char path[PATH_BYTES];
    Options o;
    if (!source_compiler_for(t, NULL)) {
        buf_puts(out, "source none\n");
        return;
    }
    find_compiler(t, path);
    set_options(&o, k, t);
    buf_puts(out, "source by ");
    child_identity(path, out);
    for (int i = 0; i < o.count; i++)
        buf_printf(out, " %s", o.text[i]);
    buf_printf(out, "\n%s\n", k->external.text);
}
