/* bladegen.h - the public interface of libbladegen: a checkpoint and a target in, a pack out. The runtime finds these
 * functions with dlopen when no pack fits; everything else of the generator is private. */
#ifndef BLADEGEN_H
#define BLADEGEN_H

#include <stdbool.h>
#include <stddef.h>

typedef struct BladegenRequest {
    const char *model;   /* checkpoint folder, or a config.json for random weights */
    const char *target;  /* "host", "x86-64", "x86-64-v3", "x86-64-v4", "x86-64-v4-bf16", "aarch64"; several for one
                          * pack with commas between */
    const char *weights; /* "auto" (as stored), "f32", "bf16", "f16", "w8", "w4", "w4a16" */
    const char *output;  /* path of the pack; written whole or not at all */
    const char *source;  /* folder that holds templates/ and schedules/; NULL: the one this library was built for */
    int threads;         /* compile threads; 0: one a core */
    void (*progress)(void *context, int done, int total, const char *what); /* may be NULL */
    void *context;
    const char *device;  /* whose tuned settings to use (tuned.h); NULL: this CPU's; "": none */
    void (*warning)(void *context, const char *text); /* something the user should know; may be NULL */
    const char *kernels; /* folder of kernels compiled before (kernel_cache.h), made if need be; NULL: none */
} BladegenRequest;

/* Builds the pack; 0 on success, else 1 and a message for the user in err. */
int bladegen_build(const BladegenRequest *request, char *err, size_t err_size);

/* Identifies generator and Lua sources: two packs of one checkpoint, target and weight format built under the same
 * signature are the same. `source` as above. */
unsigned long long bladegen_signature(const char *source);

/* ---- tuning: the generator's half of bladetune (autotune/) --------------------------------------------------------- */

typedef struct BladegenTuner BladegenTuner;

typedef struct BladegenTuning {
    int most;   /* candidates a case that the cost model may leave */
    bool fault; /* for tests: adds a candidate that is wrong and one that differs in the last bit */
    const char *only; /* JSON [{operator, parameters, bucket, schedule, settings}]: these besides the defaults,
                         * nothing else; or NULL */
    const char *known; /* the same form: the settings in use so far, which become candidates too; or NULL */
} BladegenTuning;

/* Plans the model of the request (`output` is not used) with the schedules' defaults and collects the kernels that can
 * be tuned. NULL and a message on failure. */
BladegenTuner *bladegen_tuner_open(const BladegenRequest *request, const BladegenTuning *tuning, char *err,
                                   size_t err_size);
void bladegen_tuner_close(BladegenTuner *t); /* NULL is allowed */

/* What there is to tune: [{operator, parameters, bucket, schedule, calls}] as JSON; lives as long as the tuner. */
const char *bladegen_tuner_cases(const BladegenTuner *t);

/* Candidates of some cases, ready for measurement, as the two parts of a pack file (pack.h); see autotune/case.h. */
typedef struct BladegenCandidates {
    char *plan, *code; /* the caller frees both */
    size_t plan_len, code_len;
    const char *target; /* of the pack */
} BladegenCandidates;

/* Enumerates the settings of the cases (numbers from 0), keeps the best by cost, compiles them in parallel, and verifies
 * each on a reduced shape where this machine runs the target. 0 on success, else 1 and a message. */
int bladegen_tuner_build(BladegenTuner *t, const int *cases, int count, BladegenCandidates *out, char *err,
                         size_t err_size);

/* bladegen_signature without the tuned settings: what results of tuning were measured under. */
unsigned long long bladegen_generator(const char *source);

#endif
