/* case.h - a pack of candidates: what bladetune measures, built by the generator (candidates.c), on this machine or on
 * another. It is a pack file whose plan has kernels and limits as any plan, no steps worth running, and
 *
 *     "cases": [{"operator", "parameters", "bucket", "schedule", "calls", "combinations", "peak": "int8",
 *                "args": [{"name", "type", "access": "in" | "out" | "inout", "cold": bool}],
 *                "workloads": [{"name", "sizes": {size: n}, "bytes": [a number an argument], "data": {argument: [n]},
 *                               "read": bytes, "operations": n}],
 *                "candidates": [{"kernel": i, "settings": {}, "predicted": seconds, "rejected": reason or absent,
 *                                "incumbent": true or absent}]}]
 *
 * The first candidate is the default; the incumbent is what was found best before, where that is not the default.
 * "cold" arguments come from memory; "data" are the contents of s32 arguments that can't be random. The bytes are untrusted as far as the format goes.
 */
#ifndef BLADE_CASE_H
#define BLADE_CASE_H

#include "json.h"
#include "plan.h"

enum { CASE_ARGS = PLAN_MAX_ARGS, CASE_WORKLOADS = 8, CASE_CANDIDATES = 64 };

typedef struct CaseArg {
    const char *name;
    DType type;
    bool read, written, cold;
    int64_t bytes; /* the most that a workload needs */
} CaseArg;

typedef struct CaseWorkload {
    const char *name;
    int64_t sizes[SIZE_COUNT];
    int64_t bytes[CASE_ARGS];      /* of each argument */
    const json_t *data[CASE_ARGS]; /* array of integers, or NULL */
    double read, operations;
} CaseWorkload;

typedef struct CaseCandidate {
    int kernel; /* of the plan */
    const json_t *settings;
    double predicted;     /* seconds */
    const char *rejected; /* why the generator found it wrong; NULL when it did not */
    int changed;          /* settings that differ from the default's */
} CaseCandidate;

typedef struct Case {
    const char *operator, *parameters, *schedule, *peak;
    int bucket, calls, combinations;
    int args_count, workloads_count, candidates_count;
    int incumbent; /* index of a candidate; 0: the default */
    CaseArg args[CASE_ARGS];
    CaseWorkload workloads[CASE_WORKLOADS];
    CaseCandidate candidates[CASE_CANDIDATES];
} Case;

typedef struct CasePack {
    Plan *plan;
    json_t *root; /* owns all strings and trees */
    int count;
    Case *cases;
} CasePack;

/* Reads the plan of a pack of candidates whose code has code_len bytes; NULL and a message on any mistake. */
CasePack *case_read(const char *plan, size_t len, size_t code_len, Err *err);
void case_free(CasePack *p); /* NULL is allowed */

#endif
