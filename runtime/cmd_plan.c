/* cmd_plan.c - `blade plan`: what a model will take of the machine's memory, exactly, before anything is loaded. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cmd.h"

#define NAME "blade plan"

typedef struct Line {
    const char *key, *what;
    int64_t bytes;
    char note[160];
} Line;

enum { WEIGHTS, KV, WORKING, SCRATCH, CODE, TOTAL, TEMPORARY, PEAK, MAPPED, AVAILABLE, LINES };

static void fill_lines(const Model *m, Line lines[LINES])
{
    const PlanMemory *u = model_memory(m);
    const ModelLimits *l = model_limits(m);
    const int64_t *kind = u->kind;
    int64_t working = kind[BUFFER_ACTIVATION] + kind[BUFFER_INPUT] + kind[BUFFER_OUTPUT];
    int64_t available, total, per_token = plan_page_bytes(model_plan(m)) / model_plan(m)->page_tokens;
    model_available(m, &available, &total);
    memcpy(lines, (Line[LINES]){
        [WEIGHTS] = {"weights", "weights", kind[BUFFER_WEIGHT] + kind[BUFFER_CONSTANT], ""},
        [KV] = {"kv_cache", "KV cache", kind[BUFFER_KV], ""},
        [WORKING] = {"working", "working memory", working, ""},
        [SCRATCH] = {"scratch", "scratch of threads", u->scratch, ""},
        [CODE] = {"code", "machine code", u->code, ""},
        [TOTAL] = {"total", "total", u->total, ""},
        [TEMPORARY] = {"temporary", "more while loading", kind[BUFFER_TEMPORARY], ""},
        [PEAK] = {"peak", "at most", u->peak, ""},
        [MAPPED] = {"mapped", "used in the file", kind[BUFFER_MAPPED], "(mapped; the system's page cache holds it)"},
        [AVAILABLE] = {"available", "available now", available, ""},
    }, LINES * sizeof *lines);
    snprintf(lines[KV].note, sizeof lines[KV].note,
             "(%" PRId64 " pages of %" PRId64 " tokens, %" PRId64 " bytes a token)", l->pages, l->page_tokens,
             per_token);
    snprintf(lines[WORKING].note, sizeof lines[WORKING].note, "(steps of %" PRId64 " tokens, %" PRId64 " sequences)",
             l->tokens, l->seqs);
    if (model_on_gpu(m))
        snprintf(lines[AVAILABLE].note, sizeof lines[AVAILABLE].note, "(%s)", model_device_label(m));
    snprintf(lines[SCRATCH].note, sizeof lines[SCRATCH].note, "(%d threads)", model_threads(m));
}

static void print_text(const Model *m, const Line lines[LINES])
{
    const Plan *p = model_plan(m);
    printf("%s, %" PRId64 " layers, weights %s, code for %s; sequences of up to %" PRId64 " tokens\n\n",
           p->architecture, p->layers, p->weights, model_target(m), model_limits(m)->max_model_len);
    for (int i = 0; i < LINES; i++)
        printf("%-20s %14" PRId64 " bytes %10.1f MiB  %s\n", lines[i].what, lines[i].bytes,
               (double)lines[i].bytes / 1048576, lines[i].note);
}

static void print_json(const Model *m, const Line lines[LINES])
{
    const Plan *p = model_plan(m);
    const ModelLimits *l = model_limits(m);
    json_t *bytes = json_object();
    for (int i = 0; i < LINES; i++)
        json_object_set_new(bytes, lines[i].key, json_integer(lines[i].bytes));
    cmd_print_json(json_pack("{s:s,s:s,s:s,s:i,s:I,s:I,s:I,s:I,s:I,s:o}", "architecture", p->architecture, "weights",
                             p->weights, "target", model_target(m), "threads", model_threads(m), "max_model_len",
                             (json_int_t)l->max_model_len, "max_num_seqs", (json_int_t)l->seqs,
                             "max_num_batched_tokens", (json_int_t)l->tokens, "kv_pages", (json_int_t)l->pages,
                             "page_tokens", (json_int_t)l->page_tokens, "bytes", bytes));
}

static bool plan(const ModelOptions *o, bool json, Err *err)
{
    Model *m = cmd_load_model(*o, err);
    if (!m)
        return false;
    Line lines[LINES];
    fill_lines(m, lines);
    if (json)
        print_json(m, lines);
    else
        print_text(m, lines);
    model_free(m);
    if (!cmd_flush(err))
        return false;
    return lines[PEAK].bytes <= lines[AVAILABLE].bytes ||
           err_set(err, "this does not fit: %.1f MiB are needed, %.1f MiB are available; use a smaller "
                   "--kv-cache-memory or --max-num-seqs, or --weights w4", (double)lines[PEAK].bytes / 1048576,
                   (double)lines[AVAILABLE].bytes / 1048576);
}

int cmd_plan(int argc, char **argv)
{
    RunOptions run = RUN_OPTIONS_DEFAULT;
    const char *config = NULL;
    bool json = false;
    const OptRow rows[] = {
        {"config", 0, OPT_STRING, &config, "FILE", "config.json of a model that is not here"},
        {"json", 0, OPT_FLAG, &json, NULL, "print a JSON object, in bytes"},
        RUN_OPTION_ROWS(&run),
        {NULL},
    };
    const OptCommand command = {
        NAME, "MODEL | --config FILE",
        "Prints what a model takes of the machine's memory, exactly, without loading it. The exit status is 1 when\n"
        "it does not fit.", 0, 1, rows,
    };
    const char *args[OPT_MAX_ARGS];
    int status = opt_parse(&command, argc, argv, args);
    if (status >= 0)
        return status;
    if (!args[0] == !config) {
        fprintf(stderr, "%s: give either a MODEL or --config FILE (--help says more)\n", NAME);
        return 2;
    }
    ModelOptions o = run_options_apply(&run, config ? config : args[0]);
    o.random_weights = config != NULL;
    o.plan_only = true;
    Err err = {0};
    return plan(&o, json, &err) ? 0 : cmd_fail(NAME, &err);
}
