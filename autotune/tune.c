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
    const TunerOptions *o; /* with the GPU's target */
    TunerOptions options;
    Arena *arena;
    Library library;
    BladegenTuner *tuner;
    Device *gpu; /* NULL: the host. Open to the end, so that others are opened quickly */
    Machine machine;
    const char *build;
    int threads;
    Db *db;
    json_t *cases; /* as bladegen_tuner_cases says */
    int total;     /* of them to be tuned */
    Tally tally;
} Session;

static const char *target_of(const TunerOptions *o)
{
    return strcmp(o->target, "host") ? o->target : cpu_best();
}

/* Candidates are the known winners alone, or these among others. */
static bool open_tuner(Session *s, bool only_known, Err *err)
{
    Known known = {0};
    bool ok = known_read(&known, s->db, s->machine.device, err);
    if (ok) {
        char *winners = known_winners(&known, target_of(s->o));
        s->tuner = library_tuner(&s->library, s->o, only_known ? winners : NULL, only_known ? NULL : winners, err);
        free(winners);
    }
    known_free(&known);
    return s->tuner != NULL;
}

static bool session_open(Session *s, const TunerOptions *o, bool only_known, Err *err)
{
    s->options = *o;
    s->o = &s->options;
    s->arena = arena_new();
    if (!tuner_gpu(o, &s->gpu, err))
        return false;
    if (s->gpu)
        s->options.target = s->gpu->target;
    machine_read(&s->machine, s->gpu);
    s->threads = o->threads ? (int)o->threads : pool_cores();
    if (!library_open(&s->library, err) || !(s->db = tuner_db(o, err)) || !open_tuner(s, only_known, err))
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
    if (s->gpu)
        s->gpu->ops->close(s->gpu);
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

/* Cases of the operator asked for that are not yet done. */
static bool list_cases(const Session *s, int *list, int *count, int *done, Err *err)
{
    for (int i = 0; i < (int)json_array_size(s->cases); i++) {
        Record r = identity(s, i, target_of(s->o));
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

typedef bool MeasureStep(Device *, const CasePack *, const Case *, const MeasureOptions *, CaseResult *, Err *);

static bool measure(const Session *s, MeasureStep *step, const Candidates *c, const MeasureOptions *o, CaseResult *result,
                    Err *err)
{
    Device *d = NULL;
    if (s->gpu ? !tuner_gpu(s->o, &d, err) : !(d = device_host_open(s->threads, false, err)))
        return false;
    bool ok = d->ops->load_code(d, c->pack->plan, (const uint8_t *)c->raw.code, err) &&
              step(d, c->pack, &c->pack->cases[0], o, result, err);
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

static void progress(const Session *s, const char *what, int number, const char *name)
{
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r\033[K[%d/%d] %s %.60s", number, s->total, what, name);
}

static void progress_end(void)
{
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
}

static bool look_again(void *context, Job *j, double seconds, Err *err)
{
    Session *s = context;
    MeasureOptions o = {.seconds = seconds, .stop = &tuner_stop};
    progress(s, "looking again at", j->number, j->c->parameters);
    return measure(s, measure_look, &j->own, &o, &j->result, err);
}

static bool finish(void *context, Job *j, Err *err)
{
    Session *s = context;
    if (!store(s, j->c, j->own.raw.target, &j->result, err))
        return false;
    progress_end();
    tuner_print_case(j->number, s->total, j->c, &j->result);
    tally_add(&s->tally, &j->result);
    return true;
}

static bool tune_case(Session *s, Jobs *q, int index, int number, double seconds, Err *err)
{
    Job j = {.number = number};
    const char *name = identity(s, index, "").parameters;
    double begin = now_seconds();
    progress(s, "building candidates of", number, name);
    if (!library_build(&s->library, s->tuner, &index, 1, &j.own, err))
        return false;
    j.pack = j.own.pack;
    j.c = &j.pack->cases[0];
    MeasureOptions o = {.seconds = MAX(seconds - (now_seconds() - begin), 0.5), .stop = &tuner_stop};
    progress(s, "measuring", number, name);
    if (measure(s, measure_case, &j.own, &o, &j.result, err))
        return jobs_add(q, &j, err) && jobs_run(q, false, err);
    candidates_free(&j.own);
    return false;
}

static bool tune_all(Session *s, const int *list, int count, Err *err)
{
    double begin = now_seconds(), end = begin + 0.95 * s->o->seconds; /* the last case may take longer than its share */
    Jobs q = {.look = look_again, .finish = finish, .context = s};
    bool ok = true;
    s->total = count;
    for (int i = 0; ok && i < count && !tuner_stop; i++) {
        double left = end - now_seconds() - jobs_seconds(&q);
        if (left <= 0)
            break;
        ok = tune_case(s, &q, list[i], i + 1, tuner_allowance(left, count - i), err);
    }
    ok = ok && jobs_run(&q, true, err);
    jobs_free(&q);
    progress_end();
    if (s->tally.cases)
        tally_print(&s->tally, now_seconds() - begin);
    if (s->tally.cases < count && (ok || tuner_stop))
        printf("%d cases are left: %s; --resume goes on from here\n", count - s->tally.cases,
               tuner_stop ? "interrupted" : "the budget is spent");
    return ok || tuner_stop;
}

static bool tune(Session *s, const TunerOptions *o, Err *err)
{
    if (!session_open(s, o, false, err))
        return false;
    int *list = xcalloc(json_array_size(s->cases) + 1, sizeof *list), count = 0, done = 0;
    bool ok = list_cases(s, list, &count, &done, err);
    if (ok && !count && !done)
        ok = err_set(err, "nothing to tune%s%s", o->operator ? " for operator " : "", o->operator ? o->operator : "");
    if (ok) {
        printf("device %s, target %s, %d threads, %d cases", s->machine.device, target_of(s->o), s->threads, count + done);
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

/* Ratios default / tuned, one a case: 1 exactly where the default stays, as it is the same kernel. */
static bool compare_all(Session *s, Err *err)
{
    double sum = 0;
    int cases = (int)json_array_size(s->cases), tuned = 0;
    MeasureOptions o = {.seconds = 20, .stop = &tuner_stop, .keep = true};
    bool ok = true;
    for (int i = 0; ok && i < cases && !tuner_stop; i++) {
        Candidates c;
        CaseResult r;
        if (!library_build(&s->library, s->tuner, &i, 1, &c, err))
            return false;
        const Case *k = &c.pack->cases[0];
        if (k->candidates_count > 1) {
            ok = measure(s, measure_case, &c, &o, &r, err);
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
    Session s = {0};
    tuner_stop_on_signals();
    bool ok = session_open(&s, o, true, &err) && compare_all(&s, &err);
    session_close(&s);
    return tuner_stop ? 130 : ok ? 0 : tuner_fail(&err);
}
