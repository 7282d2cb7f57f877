/* load_main.c - the command `blade load`, a program of its own (blade-load), so that serving links no HTTP client.
 *
 * Checks the server by one request, then for every rate makes new prompts, sends them, reports; at the end a summary,
 * JSON and curves. With --plot it only draws results of earlier runs.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "load.h"
#include "options.h"

#define NAME "blade load"
#define MAX_RESULT (1u << 30) /* bytes of a result to plot */

typedef VEC(double) Rates;

typedef struct Command {
    LoadServer server;
    LoadWorkload workload;
    LoadReport report;
    Rates rates;
    int64_t requests, warmup, concurrency, seed;
    double prefix_share, burstiness, pause;
    bool ignore_eos, no_ignore_eos, details, insecure, plot;
    const char *rate, *prompt_len, *output_len, *dataset, *model, *api_key, *endpoint, *extra_body, *json, *svg, *label;
    const char *ttft_target, *tpot_target, *itl_target, *e2e_target, *timeout, *pause_text;
} Command;

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal)
{
    (void)signal;
    interrupted = 1;
}

/* ---- values of options ----------------------------------------------------------------------------------------- */

/* "250ms", "1.5s", "2m" in seconds; NULL leaves *out as it is. */
static bool read_duration(const char *name, const char *text, double *out, Err *err)
{
    static const struct { const char *unit; double seconds; } units[] = {{"ms", 1e-3}, {"s", 1}, {"m", 60}};
    char *end;
    if (!text)
        return true;
    double v = strtod(text, &end);
    for (size_t i = 0; i < COUNT(units); i++)
        if (end != text && !strcmp(end, units[i].unit) && v >= 0 && v * units[i].seconds <= 1e6) {
            *out = v * units[i].seconds;
            return true;
        }
    return err_set(err, "--%s: \"%.40s\" is no duration; write 250ms, 1.5s or 2m", name, text);
}

static bool read_range(const char *name, const char *text, LoadRange *out, Err *err)
{
    char *end;
    out->lo = out->hi = strtoll(text, &end, 10);
    if (*end == '-' && end[1] >= '0' && end[1] <= '9')
        out->hi = strtoll(end + 1, &end, 10);
    if (end == text || *end || out->lo < 1 || out->hi < out->lo || out->hi > 10000000)
        return err_set(err, "--%s: \"%.40s\" is no length; write 512, or 256-768 for uniform lengths", name, text);
    return true;
}

static bool read_rates(const char *text, Rates *out, Err *err)
{
    for (const char *p = text;; p++) {
        char *end;
        double rate = strtod(p, &end);
        if (end == p || isnan(rate) || rate <= 0 || (*end && *end != ','))
            return err_set(err, "--rate: \"%.60s\" is no list of rates; write 1,2,4.5 requests a second, or inf", text);
        vec_push(out, rate);
        if (!*end)
            return true;
        p = end;
    }
}

static bool read_extra(const char *text, json_t **out, Err *err)
{
    json_error_t where;
    if (!text)
        return true;
    *out = json_loads(text, 0, &where);
    if (!*out)
        return err_set(err, "--extra-body: %s, at column %d", where.text, where.column);
    return json_is_object(*out) || err_set(err, "--extra-body: a JSON object is expected");
}

static bool read_endpoint(Command *c, Err *err)
{
    c->server.chat = !strcmp(c->endpoint, "chat");
    if (c->server.chat || !strcmp(c->endpoint, "completions"))
        return true;
    return err_set(err, "--endpoint: \"%.40s\" is not known; it is chat or completions", c->endpoint);
}

static bool read_values(Command *c, Err *err)
{
    LoadTargets *t = &c->report.targets;
    LoadWorkload *w = &c->workload;
    c->pause = 1;
    c->server.timeout = 600;
    c->server.insecure = c->insecure;
    c->server.api_key = c->api_key ? c->api_key : getenv("OPENAI_API_KEY");
    w->dataset = c->dataset;
    w->prefix_share = c->prefix_share;
    w->seed = (uint64_t)c->seed;
    w->ignore_eos = c->ignore_eos || (!c->dataset && !c->no_ignore_eos);
    return read_endpoint(c, err) && read_rates(c->rate, &c->rates, err)
        && read_range("prompt-len", c->prompt_len, &w->prompt_len, err)
        && read_range("output-len", c->output_len, &w->output_len, err) && read_extra(c->extra_body, &w->extra, err)
        && read_duration("ttft-target", c->ttft_target, &t->ttft, err)
        && read_duration("tpot-target", c->tpot_target, &t->tpot, err)
        && read_duration("itl-target", c->itl_target, &t->itl, err)
        && read_duration("e2e-target", c->e2e_target, &t->latency, err)
        && read_duration("timeout", c->timeout, &c->server.timeout, err)
        && read_duration("pause", c->pause_text, &c->pause, err);
}

/* ---- running --------------------------------------------------------------------------------------------------- */

/* Sends n requests and keeps what came of them in *run, whose metrics are of the time that it took. */
static bool send_run(Command *c, LoadPrompts *prompts, double rate, size_t n, uint64_t seed, LoadRun *run, Err *err)
{
    LoadRequests requests = {0};
    double *arrivals = xcalloc(n, sizeof *arrivals), duration;
    *run = (LoadRun){.rate = rate, .n = n, .records = xcalloc(n, sizeof *run->records)};
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r\033[Kmaking %zu prompts", n);
    load_prompts_make(prompts, n, &requests);
    load_arrivals(arrivals, n, rate, c->burstiness, seed);
    LoadSchedule plan = {
        .requests = requests.at, .arrivals = arrivals, .n = n, .concurrency = c->concurrency,
        .progress = isatty(STDERR_FILENO), .stop = &interrupted,
    };
    bool ok = load_send(&c->server, &plan, run->records, &duration, err);
    run->metrics = load_metrics(run->records, n, duration, &c->report.targets);
    load_requests_free(&requests);
    free(arrivals);
    return ok;
}

static void free_run(LoadRun *run)
{
    for (size_t i = 0; i < run->n; i++)
        load_record_free(&run->records[i]);
    free(run->records);
}

/* One request must succeed before many are sent; then those that warm the server up. */
static bool warm_up(Command *c, LoadPrompts *prompts, Err *err)
{
    LoadRun run;
    char name[32];
    bool ok = send_run(c, prompts, INFINITY, 1, 0, &run, err);
    if (ok && run.records->outcome != LOAD_OK && !interrupted)
        ok = err_set(err, "a first request to %s%s failed (%s): %s", c->server.base, load_endpoint_path(&c->server),
                     load_outcome_name(run.records->outcome, run.records->status, name), run.records->error);
    free_run(&run);
    if (!ok || !c->warmup)
        return ok;
    ok = send_run(c, prompts, INFINITY, (size_t)c->warmup, 0, &run, err);
    free_run(&run);
    return ok;
}

static void print(Buf *text)
{
    fputs(text->data, stdout);
    fflush(stdout);
    buf_free(text);
}

static bool to_stdout(const char *path)
{
    return path && !strcmp(path, "-");
}

static void pause_between(const Command *c)
{
    double until = now_seconds() + c->pause;
    while (!interrupted && now_seconds() < until)
        usleep((useconds_t)(1e6 * fmin(until - now_seconds(), 0.1)) + 1);
}

static bool run_rates(Command *c, LoadPrompts *prompts, Err *err)
{
    for (size_t i = 0; i < c->rates.len && !interrupted; i++) {
        LoadRun run;
        if (i)
            pause_between(c);
        bool ok = send_run(c, prompts, c->rates.at[i], (size_t)c->requests, (uint64_t)c->seed * 1009 + i, &run, err);
        vec_push(&c->report.runs, run);
        if (!ok)
            return false;
        Buf text = {0};
        load_report_run(&c->report, &run, &text);
        if (to_stdout(c->json))
            buf_free(&text);
        else
            print(&text);
    }
    return true;
}

/* ---- results --------------------------------------------------------------------------------------------------- */

static bool write_json(const Command *c, const json_t *result, Err *err)
{
    char *text = json_dumps(result, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    bool ok = true;
    if (!text)
        ok = err_set(err, "the result can't be written as JSON");
    else if (to_stdout(c->json))
        puts(text);
    else
        ok = file_write_atomic(c->json, text, strlen(text), err);
    free(text);
    return ok;
}

static bool write_results(const Command *c, Err *err)
{
    const LoadReport *r = &c->report;
    json_t *result = load_report_json(r);
    const char *name = r->label ? r->label : r->server->model;
    if (r->runs.len > 1 && !to_stdout(c->json)) {
        Buf text = {0};
        buf_putc(&text, '\n');
        load_report_sweep(r, &text);
        print(&text);
    }
    if (interrupted)
        fprintf(stderr, "%s: interrupted: requests without an answer are not counted\n", NAME);
    bool ok = !c->json || write_json(c, result, err);
    if (ok && c->svg)
        ok = load_plot(&result, &name, 1, c->svg, err);
    json_decref(result);
    return ok && (!fflush(stdout) || err_set(err, "standard output can't be written"));
}

static bool any_success(const Command *c)
{
    for (size_t i = 0; i < c->report.runs.len; i++)
        if (c->report.runs.at[i].metrics.completed)
            return true;
    return false;
}

static bool load(Command *c, const char *url, Err *err)
{
    LoadPrompts *prompts = NULL;
    bool ok = load_server_open(&c->server, url, c->model, err);
    ok = ok && (prompts = load_prompts_open(&c->workload, &c->server, err));
    if (ok) {
        c->report.server = &c->server;
        c->report.workload = &c->workload;
        c->report.label = c->label;
        c->report.prompts = load_prompts_kind(prompts);
        c->report.burstiness = c->burstiness;
        c->report.concurrency = c->concurrency;
        c->report.details = c->details;
        fprintf(stderr, "%s: %s%s, model %s, %s\n", NAME, c->server.base, load_endpoint_path(&c->server),
                c->server.model, c->report.prompts);
        ok = warm_up(c, prompts, err) && run_rates(c, prompts, err) && write_results(c, err);
    }
    if (ok && !any_success(c))
        ok = err_set(err, "no request succeeded");
    load_prompts_close(prompts);
    load_server_close(&c->server);
    for (size_t i = 0; i < c->report.runs.len; i++)
        free_run(&c->report.runs.at[i]);
    vec_free(&c->report.runs);
    return ok;
}

/* ---- --plot ---------------------------------------------------------------------------------------------------- */

static json_t *read_result(const char *path, Err *err)
{
    Buf text = {0};
    json_error_t where;
    json_t *result = NULL;
    if (file_read(&text, path, MAX_RESULT, err)) {
        result = json_loadb(text.data, text.len, 0, &where);
        if (!result)
            err_set(err, "%s, line %d: %s", path, where.line, where.text);
    }
    buf_free(&text);
    if (result && !json_is_object(result)) {
        json_decref(result);
        err_set(err, "%s: this is no result of a load test", path);
        return NULL;
    }
    return result;
}

/* "results/blade.json" is called "blade". */
static char *name_of(const char *path)
{
    char *name = xstrdup(strrchr(path, '/') ? strrchr(path, '/') + 1 : path);
    size_t n = strlen(name);
    if (n > 5 && !strcmp(name + n - 5, ".json"))
        name[n - 5] = 0;
    return name;
}

static bool plot(const Command *c, const char *const *paths, Err *err)
{
    json_t *results[OPT_MAX_ARGS];
    char *names[OPT_MAX_ARGS];
    size_t n = 0;
    if (!c->svg)
        return err_set(err, "--plot needs --svg PREFIX");
    bool ok = true;
    while (ok && n < OPT_MAX_ARGS && paths[n])
        if ((ok = (results[n] = read_result(paths[n], err)))) {
            names[n] = name_of(paths[n]);
            n++;
        }
    ok = ok && load_plot(results, (const char *const *)names, n, c->svg, err);
    while (n--) {
        json_decref(results[n]);
        free(names[n]);
    }
    return ok;
}

/* ---- the command line ------------------------------------------------------------------------------------------ */

static void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static bool run_command(Command *c, const char *const *args, Err *err)
{
    if (c->plot)
        return plot(c, args, err);
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    raise_file_limit();
    curl_global_init(CURL_GLOBAL_DEFAULT);
    bool ok = load(c, args[0], err);
    curl_global_cleanup();
    return ok;
}

static const char about[] =
    "Sends requests to an OpenAI-compatible server and measures time to first token, inter-token latency, end-to-end\n"
    "latency, throughput and errors, as `vllm bench serve` defines them. Several rates make a sweep. With --plot the\n"
    "arguments are JSON results of earlier runs, which are drawn into one picture. The key of the server may also\n"
    "stand in OPENAI_API_KEY.";

int main(int argc, char **argv)
{
    Command c = {
        .requests = 100, .burstiness = 1, .rate = "inf", .prompt_len = "512", .output_len = "128",
        .endpoint = "completions",
    };
    const OptRow rows[] = {
        {"rate", 'r', OPT_STRING, &c.rate, "R,R,...", "requests a second; inf: all at once (default)"},
        {"requests", 'n', OPT_INT, &c.requests, "N", "requests at each rate (default 100)", 1, 10000000},
        {"concurrency", 'c', OPT_INT, &c.concurrency, "N", "requests in flight at most (default: no limit)", 1, 100000},
        {"burstiness", 0, OPT_REAL, &c.burstiness, "B", "1: Poisson arrivals (default); less: bursts; more: evener;\n"
         "inf: even", 1e-3, INFINITY},
        {"prompt-len", 0, OPT_STRING, &c.prompt_len, "N[-M]", "tokens of a prompt, fixed or uniform (default 512)"},
        {"output-len", 0, OPT_STRING, &c.output_len, "N[-M]", "tokens to generate (default 128)"},
        {"prefix-share", 0, OPT_REAL, &c.prefix_share, "S",
         "share of every prompt that is common to all (default 0)", 0, 1},
        {"dataset", 0, OPT_STRING, &c.dataset, "FILE",
         "prompts from JSON lines: {\"prompt\": ...} or\n{\"messages\": ...}, optionally with \"output_len\"\n"
         "or \"max_tokens\""},
        {"ignore-eos", 0, OPT_FLAG, &c.ignore_eos, NULL, "generate to the full length (default with random prompts;\n"
         "--no-ignore-eos: let the model end)"},
        {"no-ignore-eos", 0, OPT_FLAG, &c.no_ignore_eos, NULL, NULL},
        {"endpoint", 0, OPT_STRING, &c.endpoint, "E", "chat or completions (default)"},
        {"model", 'm', OPT_STRING, &c.model, "NAME", "model to ask for (default: the first the server lists)"},
        {"api-key", 0, OPT_STRING, &c.api_key, "KEY", "key of the server"},
        {"extra-body", 0, OPT_STRING, &c.extra_body, "JSON", "members for every request; null removes one"},
        {"ttft-target", 0, OPT_STRING, &c.ttft_target, "T", "a good request has its first token within T, e.g. 500ms"},
        {"tpot-target", 0, OPT_STRING, &c.tpot_target, "T", "... and this mean time per output token"},
        {"itl-target", 0, OPT_STRING, &c.itl_target, "T", "... and 99 % of its gaps between tokens within T"},
        {"e2e-target", 0, OPT_STRING, &c.e2e_target, "T", "... and is complete within T"},
        {"timeout", 0, OPT_STRING, &c.timeout, "T", "of a request (default 600s)"},
        {"pause", 0, OPT_STRING, &c.pause_text, "T", "between two rates, after the last answer (default 1s)"},
        {"warmup", 0, OPT_INT, &c.warmup, "N", "requests before the measurement, beside a first one that\n"
         "checks the server", 0, 100000},
        {"seed", 0, OPT_INT, &c.seed, "N", "of prompts and arrivals (default 0)", 0, 0x1p53},
        {"insecure", 0, OPT_FLAG, &c.insecure, NULL, "do not check the server's certificate"},
        {"json", 0, OPT_STRING, &c.json, "FILE", "write all figures; -: to standard output instead of the tables"},
        {"details", 0, OPT_FLAG, &c.details, NULL, "put a record of every request into the JSON"},
        {"label", 0, OPT_STRING, &c.label, "TEXT", "name of this result in pictures"},
        {"svg", 0, OPT_STRING, &c.svg, "PREFIX", "draw PREFIX-ttft.svg and PREFIX-itl.svg"},
        {"plot", 0, OPT_FLAG, &c.plot, NULL, "draw the results named as arguments, at most 8, into one picture"},
        {NULL},
    };
    const OptCommand command = {NAME, "URL | --plot RESULT.json ...", about, 1, OPT_MAX_ARGS, rows};
    const char *args[OPT_MAX_ARGS];
    Err err = {0};
    int status = opt_parse(&command, argc, argv, args);
    if (status < 0 && !read_values(&c, &err)) {
        fprintf(stderr, "%s: %s\n", NAME, err.text);
        status = 2;
    } else if (status < 0 && !c.plot && args[1]) {
        fprintf(stderr, "%s: \"%.100s\" is one argument too many; usage: %s URL [options]\n", NAME, args[1], NAME);
        status = 2;
    } else if (status < 0) {
        status = run_command(&c, args, &err) ? 0 : 1;
        if (status)
            fprintf(stderr, "%s: %s\n", NAME, err.text);
    }
    json_decref(c.workload.extra);
    vec_free(&c.rates);
    return status;
}
