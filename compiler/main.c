/* main.c - the bladegen command: build, inspect and compare packs; list operators, show a kernel at any stage, check
 * every schedule. */
#include "bladegen.h"
#include "cases.h"
#include "generator.h"
#include "gpu/emit.h"
#include "inspect.h"
#include "kernel_cache.h"
#include "signature.h"
#include "verify.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
    "bladegen - generates kernels from the operator specs and schedules in templates/ and schedules/\n"
    "\n"
    "  bladegen build MODEL [--target T]... [--weights W] [-o FILE] [--threads N] [--device D] [--kernels DIR]\n"
    "      MODEL is a checkpoint folder or a config.json; writes everything `blade` needs to run it (FILE, default\n"
    "      model.pack). With several targets `blade` takes the best one that its CPU runs\n"
    "  bladegen inspect PACK [--sources]\n"
    "      what a pack was built from, its targets, figures of the plan, every kernel with settings and resources\n"
    "  bladegen diff A.pack B.pack\n"
    "      what changed: sources, settings, code, plan; the exit status is 1 when anything did\n"
    "  bladegen list\n"
    "      operators, their schedules, and the settings of each\n"
    "  bladegen show OPERATOR [--set NAME=VALUE]... [--target T] --stage STAGE\n"
    "      one kernel on its way from Lua to machine code: spec, tile, llvm, asm, for GPUs sass (NVIDIA's where nvdisasm\n"
    "      is found) and resources (registers, shared memory, blocks on a multiprocessor); --set changes parameters and\n"
    "      settings\n"
    "  bladegen check [--target T] [--operator OP] [--quick]\n"
    "      runs every schedule and setting against its reference; ends with `N passed, N failed`\n"
    "  bladegen cases [--target T] [--operator OP,OP] [--quick] -o FILE\n"
    "      the same as a file: kernels, inputs and expected results, for a machine that has the device but no generator\n"
    "  bladegen samples [--target T] [--operator OP,OP] [--quick] -o FILE\n"
    "      kernels of a model of 8 billion parameters to be timed on such a machine (tests/gpu); --quick: tiny shapes\n"
    "\n"
    "  --target T    host (default), x86-64, x86-64-v3, x86-64-v4, x86-64-v4-bf16, aarch64, sm_80, sm_86, sm_89,\n"
    "                sm_90a, sm_100a, gfx90a, gfx942, gfx1100; simt:GPU is the code of a GPU, run by this CPU, for tests\n"
    "  --weights W   auto (as stored, default), f32, bf16, f16, w8, w4, w4a16\n"
    "  --device D    whose tuned settings are used, as `bladetune show` names devices; none: the schedules' defaults\n"
    "                (default: this machine's)\n"
    "  --kernels DIR folder of compiled kernels, to take and to keep: only what changed is compiled (default: none)\n"
    "  --source DIR  folder with compiler/lua, templates and schedules (default: the one bladegen was built from)\n"
    "  --version, --help\n";

typedef struct Options {
    const char *target, *weights, *output, *source, *stage, *op, *device, *kernels;
    Buf targets; /* with commas between */
    const char *set[64];
    int n_set, threads;
    bool quick, sources;
    const char *positional[4];
    int n_positional;
} Options;

static void parse_options(int argc, char **argv, Options *o)
{
    static const struct option longs[] = {
        {"target", 1, 0, 't'}, {"weights", 1, 0, 'w'}, {"output", 1, 0, 'o'}, {"source", 1, 0, 's'}, {"stage", 1, 0, 'g'},
        {"set", 1, 0, 'S'}, {"operator", 1, 0, 'p'}, {"quick", 0, 0, 'q'}, {"threads", 1, 0, 'j'}, {"help", 0, 0, 'h'},
        {"version", 0, 0, 'V'}, {"device", 1, 0, 'd'}, {"kernels", 1, 0, 'k'}, {"sources", 0, 0, 'L'}, {0}};
    static char library[4096], source[4096];
    generator_find(library, sizeof library);
    source_folder(library, source, sizeof source);
    *o = (Options){.target = "host", .weights = "auto", .output = "model.pack", .source = source};
    for (int c; (c = getopt_long(argc, argv, "o:h", longs, NULL)) != -1;) {
        switch (c) {
        case 't':
            buf_printf(&o->targets, "%s%s", o->targets.len ? "," : "", optarg);
            o->target = optarg;
            break;
        case 'k': o->kernels = optarg; break;
        case 'L': o->sources = true; break;
        case 'w': o->weights = optarg; break;
        case 'o': o->output = optarg; break;
        case 's': o->source = optarg; break;
        case 'g': o->stage = optarg; break;
        case 'p': o->op = optarg; break;
        case 'd': o->device = strcmp(optarg, "none") ? optarg : ""; break;
        case 'q': o->quick = true; break;
        case 'j': o->threads = atoi(optarg); break;
        case 'S':
            if (o->n_set == (int)COUNT(o->set))
                die("more than %zu --set", COUNT(o->set));
            o->set[o->n_set++] = optarg;
            break;
        case 'V': puts("bladegen " BLADE_VERSION); exit(0);
        case 'h': fputs(usage, stdout); exit(0);
        default: fputs("try bladegen --help\n", stderr); exit(2);
        }
    }
    for (; optind < argc; optind++)
        if (o->n_positional < (int)COUNT(o->positional))
            o->positional[o->n_positional++] = argv[optind];
}

static Generator *open_generator(const Options *o, const Target **t)
{
    Err err = {0};
    *t = target_find(o->target, &err);
    Generator *g = *t ? gen_open(o->source, *t, &err) : NULL;
    if (!g)
        die("%s", err.text);
    return g;
}

static void print_progress(void *context, int done, int total, const char *what)
{
    (void)context;
    if (isatty(2))
        fprintf(stderr, done == total ? "\r\033[K" : "\r\033[Kbuilding kernels %d/%d %.60s", done, total, what);
}

static void print_warning(void *context, const char *text)
{
    (void)context;
    fprintf(stderr, "bladegen: warning: %s\n", text);
}

static int cmd_build(const Options *o)
{
    if (o->n_positional < 2)
        die("build: which model? (a checkpoint folder or a config.json)");
    char err[2048];
    BladegenRequest request = {.model = o->positional[1], .target = o->targets.len ? o->targets.data : o->target,
                               .weights = o->weights, .output = o->output, .kernels = o->kernels,
                               .source = o->source, .threads = o->threads, .progress = print_progress,
                               .device = o->device, .warning = print_warning};
    if (bladegen_build(&request, err, sizeof err)) {
        fprintf(stderr, "bladegen: %s\n", err);
        return 1;
    }
    printf("%s\n", o->output);
    return 0;
}

static int print_out(Buf *text, bool ok, const Err *err)
{
    fwrite(text->data, 1, text->len, stdout);
    buf_free(text);
    if (!ok)
        fprintf(stderr, "bladegen: %s\n", err->text);
    return ok ? 0 : 2;
}

static int cmd_inspect(const Options *o)
{
    if (o->n_positional < 2)
        die("inspect: which pack?");
    Buf text = {0};
    Err err = {0};
    bool ok = inspect_pack(o->positional[1], o->sources, &text, &err);
    return print_out(&text, ok, &err);
}

static int cmd_diff(const Options *o)
{
    if (o->n_positional < 3)
        die("diff: which packs? two are needed");
    Buf text = {0};
    Err err = {0};
    bool same, ok = inspect_diff(o->positional[1], o->positional[2], &text, &same, &err);
    int status = print_out(&text, ok, &err);
    return status ? status : !same;
}

static void list_for(const Options *o)
{
    const Target *t;
    Generator *g = open_generator(o, &t);
    Err err = {0};
    Buf out = {0};
    if (!gen_list(g, &out, &err))
        die("%s", err.text);
    fwrite(out.data, 1, out.len, stdout);
    buf_free(&out);
    gen_close(g);
}

/* Of one target; or, when none is named, of the host's family and of GPUs', and the targets of both. */
static int cmd_list(const Options *o)
{
    Options of = *o;
    printf("%-18s %-7s %-8s %-30s %s\n", "operator", "target", "schedule", "", "settings");
    list_for(&of);
    if (o->targets.len)
        return 0;
    of.target = "sm_90a";
    list_for(&of);
    const Target *t;
    for (int gpus = 0; gpus < 2; gpus++) {
        printf(gpus ? "\ngpu:  " : "\nhost: ");
        for (int i = 0; (t = target_at(i)); i++)
            if ((t->gpu != NULL) == gpus && !t->simt)
                printf(" %s", t->name);
    }
    printf("\nsimt:TARGET is code for a GPU that this CPU runs, for tests\n");
    return 0;
}

/* The stages that need the finished code. */
static bool show_code(const Kernel *k, const Target *t, bool resources, Buf *text, Err *err)
{
    CompiledKernel o = {0};
    bool ok = kernel_cache_compile(NULL, k, t, &o, err);
    if (ok && o.warning)
        fprintf(stderr, "bladegen: warning: %s\n", o.warning);
    if (ok && !resources)
        ok = t->gpu && !t->simt ? gpu_disassemble(t, &o.code, text, err)
                                : err_set(err, "show: stage sass is for GPUs; asm shows the code for %s", t->name);
    else if (ok && t->gpu)
        gpu_resources(k, t, &o.info, o.code.len, text);
    else if (ok)
        buf_printf(text, "%8s %8s  %s\n%8zu %8lld  %s\n", "bytes", "scratch", "kernel", o.code.len,
                   (long long)o.info.scratch, k->name);
    compiled_free(&o);
    return ok;
}

static bool show_stage(const Kernel *k, const Target *t, const char *stage, Buf *text, Err *err)
{
    KernelInfo info;
    if (!strcmp(stage, "resources") || !strcmp(stage, "sass"))
        return show_code(k, t, *stage == 'r', text, err);
    if (strcmp(stage, "llvm") && strcmp(stage, "asm"))
        return err_set(err, "show: unknown stage '%s'; stages are spec, tile, llvm, asm, sass, resources", stage);
    return llvm_compile(k, t, *stage == 'a' ? EMIT_ASM : EMIT_LLVM, text, &info, err);
}

static int cmd_show(const Options *o)
{
    if (o->n_positional < 2)
        die("show: which operator? `bladegen list` names them");
    const char *stage = o->stage ? o->stage : "tile";
    const Target *t;
    Generator *g = open_generator(o, &t);
    Err err = {0};
    Buf doc = {0}, text = {0};
    const Kernel *k = gen_show(g, o->positional[1], o->set, o->n_set, &doc, &err);
    if (!k)
        die("%s", err.text);
    if (!strcmp(stage, "spec"))
        buf_puts(&text, doc.data);
    else if (!strcmp(stage, "tile"))
        ir_print(k, &text);
    else if (!show_stage(k, t, stage, &text, &err))
        die("%s", err.text);
    fwrite(text.data, 1, text.len, stdout);
    buf_free(&doc);
    buf_free(&text);
    gen_close(g);
    return 0;
}

static int cmd_check(const Options *o)
{
    const Target *t;
    Generator *g = open_generator(o, &t);
    if (!target_runs_here(t)) {
        printf("this CPU does not run code for %s\n0 passed, 0 failed\n", t->name);
        gen_close(g);
        return 77;
    }
    Err err = {0};
    CheckResult result = {0};
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!gen_check(g, o->op, o->quick, verify_run, (void *)t, &result, &err))
        die("%s", err.text);
    printf("%d passed, %d failed\n", result.passed, result.failed);
    gen_close(g);
    return result.failed != 0 || result.passed == 0;
}

/* `bladegen cases`, `bladegen samples`. */
static int cmd_cases(const Options *o)
{
    Err err = {0};
    CasesRequest r = {.what = o->positional[0], .operator = o->op, .quick = o->quick, .output = o->output,
                      .build = {.target = o->target, .source = o->source, .threads = o->threads, .kernels = o->kernels,
                                .progress = print_progress, .warning = print_warning}};
    CasesResult result;
    if (!cases_write(&r, &result, &err))
        die("%s", err.text);
    printf("%s: %d kernels, %d can't be compiled, %.1f MB\n", o->output, result.kernels, result.failed,
           (double)result.bytes / 1e6);
    return 0;
}

int main(int argc, char **argv)
{
    Options o;
    parse_options(argc, argv, &o);
    const char *command = o.n_positional ? o.positional[0] : "";
    static const struct { const char *name; int (*run)(const Options *); } commands[] = {
        {"build", cmd_build}, {"inspect", cmd_inspect}, {"diff", cmd_diff}, {"list", cmd_list}, {"show", cmd_show},
        {"check", cmd_check}, {"cases", cmd_cases}, {"samples", cmd_cases}};
    for (size_t i = 0; i < COUNT(commands); i++)
        if (!strcmp(command, commands[i].name)) {
            int status = commands[i].run(&o);
            buf_free(&o.targets);
            return status;
        }
    if (*command)
        fprintf(stderr, "bladegen: unknown command '%s'\n", command);
    fputs(usage, stderr);
    return 2;
}
