/* main.c - the bladetune command: finds the fastest settings of a model's kernels on this machine, keeps and shows
 * them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"
#include "tuner.h"

static const char about[] =
    "Finds, for every kernel of a model, the settings that are fastest on this machine; blade uses them from then on.\n"
    "Results never change a bit of what a model computes: settings that do are rejected.\n"
    "\n"
    "  bladetune MODEL                       tunes a checkpoint's kernels, or those of --config FILE\n"
    "  bladetune compare MODEL               measures the stored winners against the defaults again\n"
    "  bladetune show                        what is known of a device, with --svg FILE as a drawing too\n"
    "  bladetune export FILE, import FILE    results as text, one line a case\n"
    "  bladetune build MODEL -o FILE         candidates for a machine that has no generator: there,\n"
    "  bladetune measure FILE -o RESULTS     measures them, and `bladetune import RESULTS` takes them home";

typedef struct Command {
    const char *name;
    int (*run)(const TunerOptions *);
    int args; /* that must follow the name */
    bool model; /* wants a model */
} Command;

static const Command commands[] = {
    {"compare", tuner_compare, 0, true}, {"show", tuner_show, 0, false}, {"export", tuner_export, 1, false},
    {"import", tuner_import, 1, false}, {"build", tuner_build, 0, true}, {"measure", tuner_measure, 1, false},
};

static int usage(const char *message)
{
    fprintf(stderr, "bladetune: %s (--help says more)\n", message);
    return 2;
}

/* "300", "90s", "5m", "1h" */
static bool parse_seconds(const char *text, double *out)
{
    char *end;
    double v = strtod(text, &end);
    double unit = !strcmp(end, "m") ? 60 : !strcmp(end, "h") ? 3600 : !*end || !strcmp(end, "s") ? 1 : 0;
    *out = v * unit;
    return end != text && v > 0 && unit > 0 && *out < 1e7;
}

static int run_command(const Command *c, TunerOptions *o)
{
    if (c->args && !o->args[1])
        return usage("which file?");
    if (c->model) {
        memmove(o->args, o->args + 1, sizeof o->args - sizeof *o->args);
        o->args[7] = NULL;
        if (!o->args[0] == !o->config)
            return usage("give either a MODEL or --config FILE");
    }
    if ((c->run == tuner_build || c->run == tuner_measure) && !o->output)
        return usage("-o FILE is needed");
    return c->run(o);
}

static int dispatch(TunerOptions *o)
{
    if (!parse_seconds(o->budget, &o->seconds))
        return usage("--budget wants a time such as 90s, 5m or 1h");
    for (size_t i = 0; o->args[0] && i < COUNT(commands); i++)
        if (!strcmp(o->args[0], commands[i].name))
            return run_command(&commands[i], o);
    if (o->args[1])
        return usage("one model at a time");
    if (!o->args[0] == !o->config)
        return usage("give either a MODEL or --config FILE");
    if (strcmp(o->target, "host") && o->device && strcmp(o->device, "host"))
        return usage("--target is for the host; a GPU's follows from --device");
    return tuner_tune(o);
}

int main(int argc, char **argv)
{
    TunerOptions o = {.weights = "auto", .target = "host", .budget = "5m", .most = 16};
    const OptRow rows[] = {
        {"config", 0, OPT_STRING, &o.config, "FILE", "config.json of a model, without its weights"},
        {"weights", 0, OPT_STRING, &o.weights, "W", "auto (as stored, default), f32, bf16, f16, w8, w4, w4a16"},
        {"operator", 0, OPT_STRING, &o.operator, "OP", "only this operator (matmul, attention)"},
        {"budget", 0, OPT_STRING, &o.budget, "TIME", "at most so long, e.g. 90s, 5m, 1h (default 5m)"},
        {"resume", 0, OPT_FLAG, &o.resume, NULL, "skip cases that this version of the generator has results for"},
        {"threads", 0, OPT_INT, &o.threads, "N", "threads to measure and compile with (default: one a core)", 0, 1024},
        {"target", 0, OPT_STRING, &o.target, "T", "what to generate code for (default host)"},
        {"output", 'o', OPT_STRING, &o.output, "FILE", "what build and measure write"},
        {"db", 0, OPT_STRING, &o.db, "FILE", "database of results (default ~/.local/share/blade/tune.db); the text\n"
         "that blade reads lies in the folder tuned beside it"},
        {"device", 0, OPT_STRING, &o.device, "D", "what to tune or measure: host (default), cuda, cuda:N, hip, hip:N; show and\n"
         "export take names such as nvidia-h200 too (default: this machine's)"},
        {"candidates", 0, OPT_INT, &o.most, "N", "at most so many a case (default 16)", 1, CASE_CANDIDATES - 2},
        {"svg", 0, OPT_STRING, &o.svg, "FILE", "show: write a drawing"},
        {"inject-faults", 0, OPT_FLAG, &o.fault, NULL, NULL}, /* for tests: see BladegenTuning */
        {NULL},
    };
    const OptCommand command = {"bladetune", "MODEL | COMMAND ...", about, 0, 2, rows};
    if (argc > 1 && !strcmp(argv[1], "--version")) {
        puts("bladetune " BLADE_VERSION);
        return 0;
    }
    int status = opt_parse(&command, argc, argv, o.args);
    return status < 0 ? dispatch(&o) : status;
}
