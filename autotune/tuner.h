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
    char driver[128]; /* "host", release of the kernel */
    int cores;
} Machine;
void machine_read(Machine *m);

/* "bladetune: message" on standard error; 1. */
int tuner_fail(const Err *err);

/* The database of --db, or the user's. */
Db *tuner_db(const TunerOptions *o, Err *err);
/* The same for those who only read: *db stays NULL when there is no such file. */
bool tuner_db_if_there(const TunerOptions *o, Db **db, Err *err);

/* "2026-01-31T12:00:00Z" and the build as 16 hexadecimal digits, in the arena. */
const char *tuner_date(Arena *a);
const char *tuner_build_text(Arena *a, uint64_t build);

/* A case's result as a record; texts that are made for it live in the arena. */
Record tuner_record(Arena *a, const Machine *m, const char *target, int threads, const char *build, const Case *c,
                    const CaseResult *r);

/* One line for a finished case, and one for each rejected candidate, on standard output. */
void tuner_print_case(int number, int total, const Case *c, const CaseResult *r);

/* Totals over the cases of a run. */
typedef struct Tally {
    int cases, winners, rejected, correlations;
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

/* Opens a tuner for the model of the options; `only`: see BladegenTuning. */
BladegenTuner *library_tuner(const Library *l, const TunerOptions *o, const char *only, Err *err);

/* Candidates of some cases, parsed; free with candidates_free. */
typedef struct Candidates {
    BladegenCandidates raw;
    CasePack *pack;
} Candidates;
bool library_build(const Library *l, BladegenTuner *t, const int *cases, int count, Candidates *out, Err *err);
void candidates_free(Candidates *c);

#endif
