/* case_file.h - reading what `bladegen cases` and `bladegen samples` write (compiler/cases.h), and opening the device
 * it is for; shared by run_cases.c and bench_kernels.c. */
#ifndef BLADE_CASE_FILE_H
#define BLADE_CASE_FILE_H

#include "device.h"
#include "json.h"

typedef struct CaseFile {
    Pack pack;
    Plan *plan;
    json_t *root;        /* of the plan */
    const json_t *cases; /* an array */
} CaseFile;

/* Opens the device that `name` means ("auto", "host", "cuda", "hip:1"); one that is not there is an error. */
Device *case_device(const char *name, Err *err);

/* Of these files, the one that serves the device best; false and a message when none does, or it is no file of this
 * kind ("cases", "samples"). Checked as far as plan_parse does; the rest by whoever reads it. */
bool case_file_open(CaseFile *f, char *const *paths, int count, const char *kind, const Device *d, Err *err);
void case_file_close(CaseFile *f);

/* sizes[]: of a case. Unknown names and negative numbers are errors. */
bool case_sizes(const json_t *c, int64_t sizes[SIZE_COUNT], Err *err);

/* A blob by its number: bytes inside of the pack. */
bool case_blob(const CaseFile *f, int64_t number, const uint8_t **data, size_t *n, Err *err);

#endif
