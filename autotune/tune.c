/* tune.c - `bladetune MODEL`: every case of a model is built, measured and stored, one after the other; and
 * `bladetune compare`, which measures the stored winners against the defaults once more. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pool.h"
#include "tuner.h"

typedef struct Session {
    const TunerOptions *o;
    Arena *arena;
    Library library;
    BladegenTuner *tuner;
    Machine machine;
    const char *build;
    int threads;
    Db *db;
    json_t *cases; /* as bladegen_tuner_cases says */
} Session;

static bool session_open(Session *s, const TunerOptions *o, const char *only, Err *err)
{
    s->o = o;
    machine_read(&s->machine);
    s->threads = o->threads ? (int)o->threads : pool_cores();
    s->tuner = library_tuner(&s->library, o, only, err);
    if (!s->tuner)
        return false;
    s->cases = json_loads(s->library.cases(s->tuner), 0, NULL);
    s->build = tuner_build_text(s->arena, s->library.generator(NULL));
    return json_is_array(s->cases) || err_set(err, "the generator does not say what there is to tune");
}

static void session_close(Session *s)
{
    json_decref(s->cases);
    if (s->tuner)
        s->library.close(s->tuner);
    db_close(s->db);
    arena_free(s->arena);
}

/* What the generator says of case `i`, as far as it identifies a row. */
static Record identity(const Session *s, int i, const char *target)
{
    const json_t *c = json_array_get(s->cases, (size_t)i);
    return (Record){
        .device = s->machine.device, .target = target, .build = s->build,
        .operator = json_string_value(json_object_get(c, "operator")),
        .parameters = json_string_value(json_object_get(c, "parameters")),
        .schedule = json_string_value(json_object_get(c, "schedule")),
        .bucket = json_integer_value(json_object_get(c, "bucket")),
    };
}

static const char *target_of(const Session *s)
{
    return strcmp(s->o->target, "host") ? s->o->target : cpu_best();
}

/* Cases of the operator asked for that are not yet done. */
static bool list_cases(const Session *s, int *list, int *count, int *done, Err *err)
{
    for (int i = 0; i < (int)json_array_size(s->cases); i++) {
        Record r = identity(s, i, target_of(s));
        bool there = false;
        if (s->o->operator && strcmp(s->o->operator, r.operator))
            continue;
        if (s->o->resume && !db_has(s->db, &r, &there, err))
            return false;
        if (there)
            ++*done;
        else
            list[(*count)++] = i;
    }
    return true;
}

static bool measure(const Session *s, Candidates *c, double seconds, bool keep, CaseResult *result, Err *err)
{
    MeasureOptions m = {.seconds = seconds, .stop = &tuner_stop, .keep = keep};
    Device *d = device_host_open(s->threads, false, err);
    bool ok = d && d->ops->load_code(d, c->pack->plan, (const uint8_t *)c->raw.code, err) &&
              measure_case(d, c->pack, &c->pack->cases[0], &m, result, err);
    if (d)
        d->ops->close(d);
    return ok;
}

static bool store(Session *s, const Case *c, const char *target, const CaseResult *result, Err *err)
{
    Arena *a = arena_new();
    Record r = tuner_record(a, &s->machine, target, s->threads, s->build, c, result);
    bool ok = db_put(s->db, &r, err) && db_write_text(s->db, s->machine.device, err);
    arena_free(a);
    return ok;
}

static void progress(const char *what, int number, int total, const char *name)
{
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r\033[K[%d/%d] %s %.60s", number, total, what, name);
}

static void progress_end(void)
{
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
}

/* Time for a case: its even share of what is left, doubled, since most take less. */
static double allowance(double end, int left)
{
    return MAX(2 * (end - now_seconds()) / MAX(left, 1), 0.5);
}

static bool tune_case(Session *s, int index, int number, int total, double end, Tally *tally, Err *err)
{
    Candidates c;
    CaseResult result;
    const char *name = identity(s, index, "").parameters;
    double begin = now_seconds(), seconds = allowance(end, total - number + 1);
    progress("building candidates of", number, total, name);
    if (!library_build(&s->library, s->tuner, &index, 1, &c, err))
        return false;
    progress("measuring", number, total, name);
    bool ok = measure(s, &c, MAX(seconds - (now_seconds() - begin), 0.5), false, &result, err) &&
              store(s, &c.pack->cases[0], c.raw.target, &result, err);
    progress_end();
    if (ok) {
        tuner_print_case(number, total, &c.pack->cases[0], &result);
        tally_add(tally, &result);
    }
    candidates_free(&c);
    return ok;
}

static bool tune_all(Session *s, const int *list, int count, Err *err)
{
    double begin = now_seconds(), end = begin + 0.95 * s->o->seconds; /* the last case may take longer than its share */
    Tally tally = {0};
    int i = 0;
    bool ok = true;
    for (; ok && i < count && !tuner_stop && now_seconds() < end; i++)
        ok = tune_case(s, list[i], i + 1, count, end, &tally, err);
    if (tally.cases)
        tally_print(&tally, now_seconds() - begin);
    if (tally.cases < count && (ok || tuner_stop))
        printf("%d cases are left: %s; --resume goes on from here\n", count - tally.cases,
               tuner_stop ? "interrupted" : "the budget is spent");
    return ok || tuner_stop;
}

static bool tune(Session *s, const TunerOptions *o, Err *err)
{
    s->arena = arena_new();
    if (!library_open(&s->library, err) || !(s->db = tuner_db(o, err)) || !session_open(s, o, NULL, err))
        return false;
    int *list = xcalloc(json_array_size(s->cases) + 1, sizeof *list), count = 0, done = 0;
    bool ok = list_cases(s, list, &count, &done, err);
    if (ok && !count && !done)
        ok = err_set(err, "nothing to tune%s%s", o->operator ? " for operator " : "", o->operator ? o->operator : "");
    if (ok) {
        printf("device %s, target %s, %d threads, %d cases", s->machine.device, target_of(s), s->threads, count + done);
        printf(done ? ", %d of them finished already\n" : "\n", done);
        ok = tune_all(s, list, count, err) && db_write_text(s->db, s->machine.device, err);
    }
    free(list);
    return ok;
}

int tuner_tune(const TunerOptions *o)
{
    Err err = {0};
    Session s = {0};
    tuner_stop_on_signals();
    bool ok = tune(&s, o, &err);
    progress_end();
    session_close(&s);
    return ok ? (tuner_stop ? 130 : 0) : tuner_fail(&err);
}

/* ---- compare ---------------------------------------------------------------------------------------------------- */

typedef struct Winners {
    json_t *list; /* as BladegenTuning.only */
    const char *target;
} Winners;

static bool add_winner(void *context, const Record *r, Err *err)
{
    Winners *w = context;
    (void)err;
    if (strcmp(r->target, w->target) || !strcmp(r->settings, r->default_settings))
        return true;
    json_array_append_new(w->list, json_pack("{s:s, s:s, s:s, s:I, s:o}", "operator", r->operator, "parameters",
                                             r->parameters, "schedule", r->schedule, "bucket", (json_int_t)r->bucket,
                                             "settings", json_loads(r->settings, 0, NULL)));
    return true;
}

/* Ratios default / tuned, one a case: 1 exactly where the default stays, as it is the same kernel. */
static bool compare_all(Session *s, Err *err)
{
    double sum = 0;
    int cases = (int)json_array_size(s->cases), tuned = 0;
    bool ok = true;
    for (int i = 0; ok && i < cases && !tuner_stop; i++) {
        Candidates c;
        CaseResult r;
        if (!library_build(&s->library, s->tuner, &i, 1, &c, err))
            return false;
        const Case *k = &c.pack->cases[0];
        if (k->candidates_count > 1) {
            ok = measure(s, &c, 20, true, &r, err);
            if (ok && r.candidates[1].verdict == VERDICT_REJECTED)
                ok = err_set(err, "the stored settings of %s %s are rejected: %s", k->operator, k->parameters,
                             r.candidates[1].why);
            if (ok) {
                printf("%.3f  %s %s @%d\n", 1 / r.candidates[1].ratio, k->operator, k->parameters, k->bucket);
                sum -= log(r.candidates[1].ratio);
                tuned++;
            }
        }
        candidates_free(&c);
    }
    if (ok && !tuner_stop)
        printf("%d cases, %d of them tuned: geometric mean of default / tuned %.3f, over the tuned ones %.3f\n", cases,
               tuned, exp(sum / MAX(cases, 1)), exp(sum / MAX(tuned, 1)));
    return ok;
}

int tuner_compare(const TunerOptions *o)
{
    Err err = {0};
    Session s = {.arena = arena_new(), .o = o};
    Winners w = {json_array(), target_of(&s)};
    tuner_stop_on_signals();
    machine_read(&s.machine);
    bool ok = library_open(&s.library, &err) && (s.db = tuner_db(o, &err)) &&
              db_each(s.db, s.machine.device, add_winner, &w, &err);
    char *only = ok ? json_dumps(w.list, JSON_COMPACT) : NULL;
    ok = ok && session_open(&s, o, only, &err) && compare_all(&s, &err);
    free(only);
    json_decref(w.list);
    session_close(&s);
    return ok ? (tuner_stop ? 130 : 0) : tuner_fail(&err);
}
