/* cases.h - kernels with what they need to be run, as a file, for machines that have the device but no generator:
 * `bladegen cases` (every operator's test cases, with expected results) and `bladegen samples` (kernels to be timed).
 *
 * The file is a pack (pack.h) that no model fits: its weight format is "cases" or "samples", its plan lists kernels as
 * any plan does, and besides "cases" and "blobs" as compiler/lua/cases.lua and samples.lua describe them; blobs are
 * pieces of the pack's code section, at multiples of 64. tests/gpu/ reads them. */
#ifndef BLADE_CASES_H
#define BLADE_CASES_H

#include "bladegen.h"
#include "base.h"

typedef struct CasesRequest {
    const char *what;      /* "cases" or "samples" */
    const char *operator;  /* of these only, with commas between; NULL: all */
    bool quick;
    const char *output;    /* path */
    BladegenRequest build; /* target (one), source, threads, kernels, progress, warning count */
} CasesRequest;

typedef struct CasesResult {
    int kernels, failed; /* kernels that can't be compiled are in the file as failures */
    size_t bytes;
} CasesResult;

bool cases_write(const CasesRequest *r, CasesResult *result, Err *err);

#endif
