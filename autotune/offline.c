/* offline.c - tuning a machine that has no generator: `build` makes a pack of candidates where there is one, `measure`
 * needs this program and the pack only, `import` brings the results back; and `export`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "pool.h"
#include "tuner.h"

static const char weights_name[] = "candidates"; /* in the pack's header: `blade` takes it for no model's pack */

/* ---- build ------------------------------------------------------------------------------------------------------ */

static bool write_candidates(const TunerOptions *o, const Candidates *c, uint64_t build, Err *err)
{
    PackHeader h = {.signature = build, .numerics = 1};
    snprintf(h.target, sizeof h.target, "%s", c->raw.target);
    snprintf(h.weights, sizeof h.weights, "%s", weights_name);
    return pack_write(o->output, &h, c->raw.plan, c->raw.plan_len, c->raw.code, c->raw.code_len, err);
}

/* All cases, or those of one operator; -1 when there are none. */
static int pick_cases(const char *text, const char *operator, int **list, Err *err)
{
    json_t *cases = json_loads(text, 0, NULL), *c;
    size_t i;
    int count = 0;
    *list = xcalloc(json_array_size(cases) + 1, sizeof **list);
    json_array_foreach(cases, i, c)
        if (!operator || !strcmp(operator, json_string_value(json_object_get(c, "operator"))))
            (*list)[count++] = (int)i;
    json_decref(cases);
    if (count)
        return count;
    err_set(err, "nothing to tune%s%s", operator ? " for operator " : "", operator ? operator : "");
    return -1;
}

static bool build(const TunerOptions *o, Err *err)
{
    Library l;
    Candidates c;
    BladegenTuner *t = library_open(&l, err) ? library_tuner(&l, o, NULL, NULL, err) : NULL;
    if (!t)
        return false;
    int *list, count = pick_cases(l.cases(t), o->operator, &list, err);
    bool ok = count > 0 && library_build(&l, t, list, count, &c, err);
    if (ok) {
        ok = write_candidates(o, &c, l.generator(NULL), err);
        if (ok)
            printf("%s: %d cases, %d kernels, %.1f MB\n", o->output, count, c.pack->plan->kernels_count,
                   (double)(c.raw.plan_len + c.raw.code_len) / 1e6);
        candidates_free(&c);
    }
    free(list);
    l.close(t);
    return ok;
}

int tuner_build(const TunerOptions *o)
{
    Err err = {0};
    return build(o, &err) ? 0 : tuner_fail(&err);
}

/* ---- measure ---------------------------------------------------------------------------------------------------- */

typedef struct Offline {
    const TunerOptions *o;
    Arena *arena;
    Machine machine;
    Pack file;
    CasePack *pack;
    Device *device;
    int threads;
    const char *build;
    VEC(Record) rows;
    json_t *before; /* what the results file held when --resume was given */
    Tally tally;
} Offline;

/* The device of --device, or else one for which the candidates were built. */
static bool open_device(Offline *x, Err *err)
{
    const char *target = x->file.header.target, *name = x->o->device;
    if (!device_gpu_open(name ? name : cpu_rank(target) >= 0 ? "host" : "auto", &x->device, err))
        return false;
    if (x->device && device_rank(x->device->target, target) < 0)
        return err_set(err, "built for %s; %s runs %s", target, x->device->label, x->device->target);
    if (!x->device && !cpu_runs(target, err))
        return false;
    machine_read(&x->machine, x->device);
    if (!x->device)
        x->device = device_host_open(x->threads, false, err);
    return x->device != NULL;
}

static bool open_candidates(Offline *x, const char *path, Err *err)
{
    if (!pack_open(path, &x->file, err))
        return false;
    if (strcmp(x->file.header.weights, weights_name))
        return err_set(err, "%s: this is a model's pack; `bladetune build` makes packs of candidates", path);
    if (!open_device(x, err))
        return err_prefix(err, "%s", path);
    x->pack = case_read(x->file.plan, x->file.plan_len, x->file.code_len, err);
    if (!x->pack)
        return err_prefix(err, "%s", path);
    x->build = tuner_build_text(x->arena, x->file.header.signature);
    return x->device->ops->load_code(x->device, x->pack->plan, x->file.code, err);
}

static bool write_results(const Offline *x, Err *err)
{
    Buf text = {0};
    text_from(x->machine.device, x->rows.at, x->rows.len, &text);
    bool ok = file_write_atomic(x->o->output, text.data, text.len, err);
    buf_free(&text);
    return ok;
}

/* With --resume: rows of an earlier run of the same candidates on this machine. */
static bool read_before(Offline *x, Err *err)
{
    Record *rows;
    size_t count;
    if (!x->o->resume || !file_exists(x->o->output))
        return true;
    if (!text_read(x->o->output, x->arena, &x->before, &rows, &count, err))
        return false;
    for (size_t i = 0; i < count; i++)
        if (!strcmp(rows[i].device, x->machine.device) && !strcmp(rows[i].build, x->build))
            vec_push(&x->rows, rows[i]);
    return true;
}

static bool is_done(const Offline *x, const Case *c)
{
    for (size_t i = 0; i < x->rows.len; i++) {
        const Record *r = &x->rows.at[i];
        if (!strcmp(r->operator, c->operator) && !strcmp(r->parameters, c->parameters) && r->bucket == c->bucket &&
            !strcmp(r->schedule, c->schedule))
            return true;
    }
    return false;
}

static bool look_again(void *context, Job *j, double seconds, Err *err)
{
    Offline *x = context;
    MeasureOptions m = {.seconds = seconds, .stop = &tuner_stop};
    return measure_look(x->device, j->pack, j->c, &m, &j->result, err);
}

static bool finish(void *context, Job *j, Err *err)
{
    Offline *x = context;
    vec_push(&x->rows, tuner_record(x->arena, &x->machine, x->file.header.target, x->threads, x->build, j->c, &j->result));
    tuner_print_case(j->number, x->pack->count, j->c, &j->result);
    tally_add(&x->tally, &j->result);
    return write_results(x, err);
}

static bool measure_one(Offline *x, Jobs *q, int i, double seconds, Err *err)
{
    Job j = {.number = i + 1, .pack = x->pack, .c = &x->pack->cases[i]};
    MeasureOptions m = {.seconds = seconds, .stop = &tuner_stop};
    if (!measure_case(x->device, j.pack, j.c, &m, &j.result, err))
        return tuner_stop;
    return jobs_add(q, &j, err) && jobs_run(q, false, err);
}

static bool measure_all(Offline *x, Err *err)
{
    double begin = now_seconds(), end = begin + x->o->seconds;
    Jobs q = {.look = look_again, .finish = finish, .context = x};
    bool ok = write_results(x, err); /* tells at once when it can't be written */
    int todo = 0;
    for (int i = 0; ok && i < x->pack->count; i++) {
        if (is_done(x, &x->pack->cases[i]))
            continue;
        todo++;
        double left = end - now_seconds() - jobs_seconds(&q);
        if (!tuner_stop && left > 0)
            ok = measure_one(x, &q, i, tuner_allowance(left, x->pack->count - i), err);
    }
    ok = ok && jobs_run(&q, true, err);
    jobs_free(&q);
    tally_print(&x->tally, now_seconds() - begin);
    if (ok && todo > x->tally.cases)
        printf("%d cases are left; --resume goes on from here\n", todo - x->tally.cases);
    return ok;
}

int tuner_measure(const TunerOptions *o)
{
    Err err = {0};
    Offline x = {.o = o, .arena = arena_new(), .threads = o->threads ? (int)o->threads : pool_cores()};
    tuner_stop_on_signals();
    bool ok = open_candidates(&x, o->args[1], &err) && read_before(&x, &err) && measure_all(&x, &err);
    if (x.device)
        x.device->ops->close(x.device);
    case_free(x.pack);
    pack_close(&x.file);
    json_decref(x.before);
    vec_free(&x.rows);
    arena_free(x.arena);
    return ok ? (tuner_stop ? 130 : 0) : tuner_fail(&err);
}

/* ---- import, export --------------------------------------------------------------------------------------------- */

static bool import(const TunerOptions *o, Arena *a, Err *err)
{
    json_t *root;
    Record *rows;
    size_t count;
    if (!text_read(o->args[1], a, &root, &rows, &count, err))
        return false;
    Db *db = tuner_db(o, err);
    bool ok = db != NULL;
    for (size_t i = 0; ok && i < count; i++)
        ok = db_put(db, &rows[i], err);
    if (ok && count)
        ok = db_write_text(db, rows[0].device, err);
    if (ok)
        printf("%zu results of %s\n", count, count ? rows[0].device : "no device");
    db_close(db);
    json_decref(root);
    return ok;
}

int tuner_import(const TunerOptions *o)
{
    Err err = {0};
    Arena *a = arena_new();
    bool ok = import(o, a, &err);
    arena_free(a);
    return ok ? 0 : tuner_fail(&err);
}

int tuner_export(const TunerOptions *o)
{
    Err err = {0};
    Buf text = {0};
    char device[CPU_DEVICE_BYTES];
    Db *db = NULL;
    bool ok = tuner_device(o, device, &err) && tuner_db_if_there(o, &db, &err);
    if (ok && db)
        ok = text_put(db, device, false, &text, &err);
    else if (ok)
        text_from(device, NULL, 0, &text);
    ok = ok && file_write_atomic(o->args[1], text.data, text.len, &err);
    db_close(db);
    buf_free(&text);
    return ok ? 0 : tuner_fail(&err);
}
