/* session.c - what the commands share: signals, the machine, records, printed lines; see tuner.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "tuner.h"

volatile sig_atomic_t tuner_stop;

static void on_signal(int number)
{
    tuner_stop = 1;
    signal(number, SIG_DFL);
}

void tuner_stop_on_signals(void)
{
    struct sigaction a = {.sa_handler = on_signal};
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}

/* The version of a GPU's driver, where the kernel tells. */
static void read_driver(const char *name, char *out, size_t size)
{
    char version[48] = "";
    FILE *f = fopen(strcmp(name, "cuda") ? "/sys/module/amdgpu/version" : "/sys/module/nvidia/version", "r");
    if (f && !fgets(version, sizeof version, f))
        *version = 0;
    if (f)
        fclose(f);
    version[strcspn(version, "\n")] = 0;
    snprintf(out, size, "%s%s%s", name, *version ? " " : "", version);
}

void machine_read(Machine *m, const Device *gpu)
{
    struct utsname u;
    bool known = uname(&u) == 0;
    m->cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (gpu) {
        snprintf(m->device, sizeof m->device, "%s", gpu->name);
        read_driver(gpu->ops->name, m->driver, sizeof m->driver);
        return;
    }
    cpu_device(m->device);
    snprintf(m->driver, sizeof m->driver, "host %.*s", known ? (int)strspn(u.release, "0123456789.") : 0, u.release);
}

bool tuner_gpu(const TunerOptions *o, Device **d, Err *err)
{
    return device_gpu_open(o->device ? o->device : "host", d, err);
}

bool tuner_device(const TunerOptions *o, char out[CPU_DEVICE_BYTES], Err *err)
{
    Device *d = NULL;
    Machine m;
    if (o->device && !device_name_valid(o->device, NULL)) {
        snprintf(out, CPU_DEVICE_BYTES, "%s", o->device);
        return true;
    }
    if (!tuner_gpu(o, &d, err))
        return false;
    machine_read(&m, d);
    snprintf(out, CPU_DEVICE_BYTES, "%s", m.device);
    if (d)
        d->ops->close(d);
    return true;
}

int tuner_fail(const Err *err)
{
    fflush(stdout);
    fprintf(stderr, "bladetune: %s\n", err->text);
    return 1;
}

static bool db_path(const TunerOptions *o, char *path, size_t size, Err *err)
{
    if (!o->db)
        return db_default_path(path, size, err);
    return snprintf(path, size, "%s", o->db) < (int)size || err_set(err, "--db: the path is too long");
}

Db *tuner_db(const TunerOptions *o, Err *err)
{
    char path[4096];
    return db_path(o, path, sizeof path, err) ? db_open(path, err) : NULL;
}

bool tuner_db_if_there(const TunerOptions *o, Db **db, Err *err)
{
    char path[4096];
    *db = NULL;
    return db_path(o, path, sizeof path, err) && (!file_exists(path) || (*db = db_open(path, err)));
}

const char *tuner_date(Arena *a)
{
    char text[32];
    time_t now = time(NULL);
    struct tm tm;
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    return arena_strdup(a, text);
}

const char *tuner_build_text(Arena *a, uint64_t build)
{
    return arena_printf(a, "%016llx", (unsigned long long)build);
}

double tuner_allowance(double seconds, int cases)
{
    return MAX(4 * seconds / (3 * MAX(cases, 1)), 0.5);
}

/* ---- records ---------------------------------------------------------------------------------------------------- */

static const char *json_text(Arena *a, const json_t *v)
{
    char *text = json_dumps(v, JSON_SORT_KEYS | JSON_COMPACT);
    const char *kept = arena_strdup(a, text ? text : "{}");
    free(text);
    return kept;
}

/* What happened to every candidate, for those who want to know later. */
static json_t *details_of(const Case *c, const CaseResult *r)
{
    json_t *list = json_array();
    for (int i = 0; i < c->candidates_count; i++) {
        const CandidateResult *x = &r->candidates[i];
        json_t *o = json_pack("{s:O, s:s, s:f, s:f}", "settings", c->candidates[i].settings, "verdict",
                              verdict_names[x->verdict], "predicted", c->candidates[i].predicted, "ratio", x->ratio);
        if (x->why[0])
            json_object_set_new(o, "why", json_string(x->why));
        json_array_append_new(list, o);
    }
    return list;
}

Record tuner_record(Arena *a, const Machine *m, const char *target, int threads, const char *build, const Case *c,
                    const CaseResult *r)
{
    json_t *details = details_of(c, r);
    Record rec = {
        .device = m->device, .target = arena_strdup(a, target), .operator = arena_strdup(a, c->operator),
        .parameters = arena_strdup(a, c->parameters), .driver = m->driver, .schedule = arena_strdup(a, c->schedule),
        .settings = json_text(a, c->candidates[r->winner].settings),
        .default_settings = json_text(a, c->candidates[0].settings), .limit_name = arena_strdup(a, r->limit),
        .build = build, .date = tuner_date(a), .details = json_text(a, details), .seconds = r->seconds,
        .default_seconds = r->default_seconds, .gain = r->gain, .share = r->share, .correlation = r->correlation,
        .bucket = c->bucket, .cores = m->cores, .threads = threads, .measured = r->measured, .rejected = r->rejected,
        .combinations = c->combinations,
    };
    json_decref(details);
    return rec;
}

/* ---- lines ------------------------------------------------------------------------------------------------------ */

/* The settings that the winner changes: "rows=6 cols=2". */
static void changes(const Case *c, int winner, Buf *out)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)c->candidates[winner].settings, key, value) {
        if (json_equal(value, json_object_get(c->candidates[0].settings, key)))
            continue;
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        buf_printf(out, " %s=%s", key, text);
        free(text);
    }
}

void tuner_print_case(int number, int total, const Case *c, const CaseResult *r)
{
    Buf text = {0};
    buf_printf(&text, "[%d/%d] %s %s", number, total, c->operator, c->parameters);
    if (c->bucket)
        buf_printf(&text, ", up to %d tokens", c->bucket);
    buf_printf(&text, ": %.1f us, %.0f %% of %s, ", 1e6 * r->seconds, 100 * r->share, r->limit);
    if (r->winner) {
        buf_printf(&text, "%.3f x the default with", r->gain);
        changes(c, r->winner, &text);
        buf_puts(&text, r->winner == r->incumbent ? ", as before" : "");
    } else if (r->incumbent) {
        buf_puts(&text, "the default instead of");
        changes(c, r->incumbent, &text);
    } else {
        buf_puts(&text, "the default stays");
    }
    buf_printf(&text, " (%d of %d measured, rank correlation %.2f)\n", r->measured, c->combinations, r->correlation);
    for (int i = 0; i < c->candidates_count; i++) {
        if (r->candidates[i].verdict != VERDICT_REJECTED)
            continue;
        char *settings = json_dumps(c->candidates[i].settings, JSON_SORT_KEYS | JSON_COMPACT);
        buf_printf(&text, "    rejected %s: %s\n", settings, r->candidates[i].why);
        free(settings);
    }
    fputs(text.data, stdout);
    fflush(stdout);
    buf_free(&text);
}

void tally_add(Tally *t, const CaseResult *r)
{
    t->cases++;
    t->winners += r->winner > 0;
    t->same += r->winner == r->incumbent;
    t->rejected += r->rejected;
    t->log_gain += log(r->gain);
    if (r->measured > 2) {
        t->correlation += r->correlation;
        t->correlations++;
    }
}

void tally_print(const Tally *t, double seconds)
{
    printf("%d cases in %.0f s: %d winners, %d of %d as before, geometric mean %.3f x the defaults, mean rank correlation "
           "of the cost model %.2f, %d candidates rejected\n", t->cases, seconds, t->winners, t->same, t->cases,
           t->cases ? exp(t->log_gain / t->cases) : 1.0, t->correlations ? t->correlation / t->correlations : 0.0,
           t->rejected);
}
