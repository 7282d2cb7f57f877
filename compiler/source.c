/* source.c - see source.h. The compiler runs in the program bladegen-source (source_main.c) beside this library,
 * with a time limit. Only architectures that a compiler is known to compile for are given to it: Debian's HIPRTC
 * 5.2 ends the process for others. */
#include "source.h"
#include "child.h"
#include "gpu/emit.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 4096, OPTION_BYTES = 128, MAX_OPTIONS = 40 };

double source_seconds = 60;

/* Libraries by name, the best first, and the targets that each is known to compile for, with blanks around each. */
#define NVIDIA_ALL " sm_80 sm_86 sm_89 sm_90a sm_100a "
#define AMD_ALL " gfx90a gfx942 gfx1100 "
static const char *const nvrtc[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so", NULL};
static const char *const nvrtc_targets[] = {NVIDIA_ALL, NVIDIA_ALL, " sm_80 sm_86 ", NVIDIA_ALL};
static const char *const hiprtc[] = {"libhiprtc.so.7", "libhiprtc.so.6", "libhiprtc.so.5", "libamdhip64.so.5", NULL};
static const char *const hiprtc_targets[] = {AMD_ALL, AMD_ALL, " gfx90a ", " gfx90a "};

/* ---- finding ---------------------------------------------------------------------------------------------------- */

/* The path of the compiler; false when there is none. *targets: what it compiles for. */
static bool find_compiler(const Target *t, char path[PATH_BYTES], const char **targets)
{
    bool nvidia = t->gpu->nvidia;
    int i = child_find_library(nvidia ? "BLADE_NVRTC" : "BLADE_HIPRTC", nvidia ? nvrtc : hiprtc, path, PATH_BYTES);
    if (i == -1)
        return false;
    *targets = i == -2 ? NVIDIA_ALL AMD_ALL : nvidia ? nvrtc_targets[i] : hiprtc_targets[i];
    return true;
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
        if (slash && child_find(NULL, (const char *const[]){beside, NULL}, path, PATH_BYTES))
            return true;
    }
    return false;
}

bool source_compiler_for(const Target *t, Buf *why)
{
    char library[PATH_BYTES], program[PATH_BYTES], name[64];
    const char *targets;
    Buf none = {0}, *out = why ? why : &none;
    if (!t->gpu || t->simt)
        return false;
    snprintf(name, sizeof name, " %s ", t->name);
    bool there = find_compiler(t, library, &targets);
    bool knows = there && strstr(targets, name), ok = knows && find_program(program);
    if (!there)
        buf_printf(out, "no %s is found", t->gpu->nvidia ? "NVRTC (libnvrtc.so)" : "HIPRTC (libhiprtc.so)");
    else if (!knows)
        buf_printf(out, "%s is not known to compile for %s", library, t->name);
    else if (!ok)
        buf_puts(out, "the program bladegen-source is not beside bladegen");
    buf_free(&none);
    return ok;
}

/* ---- compiling -------------------------------------------------------------------------------------------------- */

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

static bool run(const Kernel *k, const Target *t, const char *program, const char *library, Buf *out, Buf *log,
                Err *err)
{
    Options o;
    Child c = {.argv = {program, t->gpu->nvidia ? "nvrtc" : "hiprtc", library, CHILD_INPUT, CHILD_OUTPUT,
                        k->external.file},
               .input = k->external.text, .input_len = strlen(k->external.text), .seconds = source_seconds};
    set_options(&o, k, t);
    for (int i = 0; i < o.count && 6 + i < CHILD_ARGS - 1; i++)
        c.argv[6 + i] = o.text[i];
    return child_run(&c, out, log, err) || err_prefix(err, "%s by %s", k->external.file, library);
}

bool source_compile(const Kernel *k, const Target *t, Buf *out, KernelInfo *info, Err *err)
{
    char library[PATH_BYTES], program[PATH_BYTES];
    const char *targets;
    Buf why = {0}, log = {0};
    if (!source_compiler_for(t, &why)) {
        err_set(err, "%s: %s", k->external.file, why.data ? why.data : "it is for GPUs only");
        buf_free(&why);
        return false;
    }
    find_compiler(t, library, &targets);
    find_program(program);
    set_info(k, info);
    bool ok = run(k, t, program, library, out, &log, err) && pass_gates(k, t, out, &log, info, err);
    buf_free(&log);
    return ok;
}

void source_key(const Kernel *k, const Target *t, Buf *out)
{
    char path[PATH_BYTES];
    const char *targets;
    Options o;
    if (!source_compiler_for(t, NULL)) {
        buf_puts(out, "source none\n");
        return;
    }
    find_compiler(t, path, &targets);
    set_options(&o, k, t);
    buf_puts(out, "source by ");
    child_identity(path, out);
    for (int i = 0; i < o.count; i++)
        buf_printf(out, " %s", o.text[i]);
    buf_printf(out, "\n%s\n", k->external.text);
}
