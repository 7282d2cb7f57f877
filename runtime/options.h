/* options.h - the command line: a table of options a command, parsing with range checks, help made from the table.
 *
 * Accepted forms: --name VALUE, --name=VALUE, -x VALUE, -xVALUE, --flag, --no-flag; `--` ends the options; "-" is an
 * ordinary argument. Every command has -h and --help. An option that is not given leaves its variable as it was, so
 * the variable's first value is the default.
 */
#ifndef BLADE_OPTIONS_H
#define BLADE_OPTIONS_H

#include "base.h"

typedef VEC(const char *) OptStrings;
typedef VEC(int64_t) OptInts;

typedef enum OptType {
    OPT_FLAG,    /* bool: true; --no-NAME makes it false */
    OPT_INT,     /* int64_t in lo..hi */
    OPT_REAL,    /* double in lo..hi; "nan" is refused */
    OPT_BYTES,   /* int64_t in lo..hi bytes; K, M, G, T (or KiB, MB, ...) mean powers of 1024; 1.5G is allowed */
    OPT_STRING,  /* const char * (points into argv) */
    OPT_STRINGS, /* OptStrings: every use adds one */
    OPT_INTS,    /* OptInts: comma-separated integers in lo..hi; a new use begins a new list */
} OptType;

typedef struct OptRow {
    const char *name; /* without dashes; NULL ends the table */
    char letter;      /* 0: no short form */
    OptType type;
    void *out;         /* a variable of the type above */
    const char *value; /* what --help calls the value, e.g. "N"; NULL for flags */
    const char *help;  /* may contain \n; NULL hides the option from --help */
    double lo, hi;     /* both 0: no limit (integers: any int64) */
} OptRow;

typedef struct OptCommand {
    const char *name;  /* "blade generate" */
    const char *args;  /* usage of the positional arguments, e.g. "MODEL [TEXT]" */
    const char *about; /* one paragraph for --help */
    int min_args, max_args;
    const OptRow *rows;
} OptCommand;

#define OPT_MAX_ARGS 8

/* Parses argv[1] .. argv[argc-1]; positional arguments go to args[0..max_args), NULL where absent.
 * Returns -1 to go on, otherwise the exit status to end with: 0 after --help, 2 after a mistake (message printed). */
int opt_parse(const OptCommand *c, int argc, char **argv, const char *args[OPT_MAX_ARGS]);

/* The same without printing or exit codes: false and a message for the user, or *help set when help was asked for. */
bool opt_read(const OptCommand *c, int argc, char **argv, const char *args[OPT_MAX_ARGS], bool *help, Err *err);

/* Appends the text of --help. */
void opt_help(const OptCommand *c, Buf *out);

#endif
