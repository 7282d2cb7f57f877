/* tuner.h - what the commands of bladetune share: options, the machine, the way to the generator, results as
 * records. */
#ifndef BLADE_TUNER_H
#define BLADE_TUNER_H

#include <signal.h>

#include "bladegen.h"
#include "cpu.h"
#include "db.h"
#include "measure.h"

typedef struct TunerOptions {
    const char *config, *weights, *target, *operator, *db, *output, *device, *svg, *budget;
    bool resume, fault;
    int64_t threads;
    double seconds;   /* of the budget */
    int64_t most;     /* candidates a case */
    const char *args[8];
} TunerOptions;

/* The commands; each prints its own errors and returns the exit status. */
int tuner_tune(const TunerOptions *o);    /* tune.c */
int tuner_compare(const TunerOptions *o);
int tuner_build(const TunerOptions *o);   /* offline.c */
int tuner_measure(const TunerOptions *o);
int tuner_import(const TunerOptions *o);
int tuner_export(const TunerOptions *o);
int tuner_show(const TunerOptions *o);    /* show.c */

/* ---- session.c -------------------------------------------------------------------------------------------------- */

/* Set by SIGINT and SIGTERM after stop_on_signals; a second signal ends the process at once. */
extern volatile sig_atomic_t tuner_stop;
void tuner_stop_on_signals(void);

typedef struct Machine {
    char device[CPU_DEVICE_BYTES];
    char driver[128]; /* "host" and release of the kernel, "cuda" and version of the driver */
    int cores;
} Machine;
void machine_read(Machine *m, const Device *gpu /* or NULL: the host */);

/* The GPU of --device (device.h); *d is NULL for the host, which is also what is meant when there is no --device. */
bool tuner_gpu(const TunerOptions *o, Device **d, Err *err);
/* Whose results to show or export: --device as a name of results or of a GPU here; this machine's otherwise. */
bool tuner_device(const TunerOptions *o, char out[CPU_DEVICE_BYTES], Err *err);

/* "bladetune: message" on standard error; 1. */
int tuner_fail(const Err *err);

/* The database of --db, or the user's. */
Db *tuner_db(const TunerOptions *o, Err *err);
/* The same for those who only read: *db stays NULL when there is no such file. */
bool tuner_db_if_there(const TunerOptions *o, Db **db, Err *err);

/* "2026-01-31T12:00:00Z" and the build as 16 hexadecimal digits, in the arena. */
const char *tuner_date(Arena *a);
const char *tuner_build_text(Arena *a, uint64_t build);

/* Time for a case: its even share of what is left, a third kept for looks, and doubled, since most take less. */
double tuner_allowance(double seconds, int cases);

/* A case's result as a record; texts that are made for it live in the arena. */
Record tuner_record(Arena *a, const Machine *m, const char *target, int threads, const char *build, const Case *c,
                    const CaseResult *r);

/* One line for a finished case, and one for each rejected candidate, on standard output. */
void tuner_print_case(int number, int total, const Case *c, const CaseResult *r);

/* Totals over the cases of a run; `same`: what was in use before is the winner, or the default, still. */
typedef struct Tally {
    int cases, winners, same, rejected, correlations;
    double log_gain, correlation;
} Tally;
void tally_add(Tally *t, const CaseResult *r);
void tally_print(const Tally *t, double seconds);

/* ---- library.c: libbladegen, loaded when it is needed ----------------------------------------------------------- */

typedef struct Library {
    BladegenTuner *(*open)(const BladegenRequest *, const BladegenTuning *, char *, size_t);
    void (*close)(BladegenTuner *);
    const char *(*cases)(const BladegenTuner *);
    int (*build)(BladegenTuner *, const int *, int, BladegenCandidates *, char *, size_t);
    unsigned long long (*generator)(const char *source);
} Library;
bool library_open(Library *l, Err *err);

/* Opens a tuner for the model of the options; `only`, `known`: see BladegenTuning. */
BladegenTuner *library_tuner(const Library *l, const TunerOptions *o, const char *only, const char *known, Err *err);

/* Candidates of some cases, parsed; free with candidates_free. */
typedef struct Candidates {
    BladegenCandidates raw;
    CasePack *pack;
} Candidates;
bool library_build(const Library *l, BladegenTuner *t, const int *cases, int count, Candidates *out, Err *err);
void candidates_free(Candidates *c); /* zeros are allowed */

/* ---- known.c: what is known of a device: rows of the database, and the shipped ones for cases that it lacks ------- */

typedef struct Known {
    Arena *arena; /* owns the strings */
    VEC(Record) list;
} Known;
bool known_read(Known *k, Db *db /* or NULL */, const char *device, Err *err);
void known_free(Known *k); /* zeros are allowed */

/* The rows for a target that are not defaults, as BladegenTuning wants them: JSON for the caller to free. */
char *known_winners(const Known *k, const char *target);

/* ---- jobs.c: cases between their measurement and their last look --------------------------------------------------- */

typedef struct Job {
    int number;     /* for the printed line */
    Candidates own; /* freed with the job; zeros when the pack is someone else's */
    const CasePack *pack;
    const Case *c;
    CaseResult result;
    double since; /* when it was measured last */
} Job;

/* Looks are some seconds apart, so that no short state of the machine decides. */
typedef struct Jobs {
    bool (*look)(void *context, Job *j, double seconds, Err *err); /* measure_look */
    bool (*finish)(void *context, Job *j, Err *err);               /* it is settled: store, print, ... */
    void *context;
    VEC(Job *) list;
} Jobs;

/* Takes a case that has been measured (the queue owns its copy, `own` included), and finishes it if it is settled. */
bool jobs_add(Jobs *q, const Job *j, Err *err);
/* Takes the looks whose time has come, or all that are left. */
bool jobs_run(Jobs *q, bool all, Err *err);
double jobs_seconds(const Jobs *q); /* what the looks to come will take, about */
void jobs_free(Jobs *q);            /* drops what is not finished */

#endif
