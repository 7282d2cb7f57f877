/* measure.h - finds the fastest candidate of a case that computes the same bits as the default.
 *
 * Samples are taken in rounds, each candidate once a round in a new order, and divided by the default's sample of the
 * same round: what the machine's neighbours do to a round, they do to both. A case passes through
 *   bits      every candidate against the default on the real shapes; who differs is out
 *   sieve     a few rounds of all; who is far behind the best is out
 *   rounds    more of those that are left, always dropping who can't win any more
 *   duel      the best against the default, with fresh samples: it must win by more than the noise (2 % in the mean and
 *             a sign test at 1 %) and lose nowhere, or the default stays
 */
#ifndef BLADE_MEASURE_H
#define BLADE_MEASURE_H

#include <signal.h>

#include "case.h"
#include "device.h"

typedef enum Verdict {
    VERDICT_DEFAULT,  /* the default itself */
    VERDICT_WINNER,
    VERDICT_SLOWER,   /* measured to the end, or out early */
    VERDICT_REJECTED, /* wrong, or other bits */
    VERDICT_COUNT
} Verdict;
extern const char *const verdict_names[VERDICT_COUNT];

typedef struct CandidateResult {
    Verdict verdict;
    char why[256];  /* rejected */
    double seconds; /* geometric mean over the workloads of the medians; 0 when not measured */
    double ratio;   /* to the default's, likewise */
} CandidateResult;

typedef struct CaseResult {
    int winner; /* 0: the default stays */
    double seconds, default_seconds, gain; /* gain = default / winner, from the duel; 1 when the default stays */
    double share;      /* of the machine's limit, of the last workload; 0 unknown */
    const char *limit; /* "read", "int8", ... that share belongs to */
    double correlation; /* Spearman's, of predicted and measured seconds over the measured candidates */
    int measured, rejected;
    CandidateResult candidates[CASE_CANDIDATES];
} CaseResult;

typedef struct MeasureOptions {
    double seconds; /* for this case; what was found by then counts */
    const volatile sig_atomic_t *stop;
    bool keep; /* measure all to the end, whoever is behind: for comparisons */
} MeasureOptions;

/* False when it was stopped or memory is short; err is "" when stopped. */
bool measure_case(Device *d, const CasePack *p, const Case *c, const MeasureOptions *o, CaseResult *out, Err *err);

#endif
