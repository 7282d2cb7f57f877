/* measure.h - finds the fastest candidate of a case that computes the same bits as the default.
 *
 * Samples are taken in rounds, each candidate once a round in a new order, and compared within the round: what the
 * machine's neighbours do to a round, they do to both. The incumbent, what was found best before or else the default, is
 * the one to beat. A case passes through
 *   bits      every candidate against the default on the real shapes; who differs is out
 *   sieve     a few rounds of all; who is far behind the best is out
 *   rounds    more of those that are left, always dropping who can't win any more
 *   choice    of those that are not clearly slower than the best: the incumbent, else the default, else the one that
 *             changes least. When that is the incumbent, the case is settled; otherwise it is the challenger
 *   looks     two, or three when they disagree, best some seconds apart: rounds of incumbent, default and challenger alone
 *             in fresh memory. The challenger must be clearly faster than both in two looks, and in the median of
 *             all by 3 %, or by 5 % when the incumbent was tuned already. An incumbent that is clearly slower than the default in two looks gives way to it
 * Clearly: the lower bound of the median of the rounds' ratios is above 1 (99 %).
 */
#ifndef BLADE_MEASURE_H
#define BLADE_MEASURE_H

#include <signal.h>

#include "case.h"
#include "device.h"

enum { MEASURE_LOOKS = 3 /* at most */ };

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
    bool settled;   /* no: measure_look comes next */
    int incumbent;  /* 0: the default, also where the case's own was rejected */
    int winner;     /* of settled cases; 0: the default stays */
    int challenger; /* of the others; 0: the default, against an incumbent */
    int looks;      /* taken */
    int wins, drops; /* of the looks: for the challenger, for the default against the incumbent */
    double over_incumbent[MEASURE_LOOKS], over_default[MEASURE_LOOKS], lost[MEASURE_LOOKS]; /* gains of the challenger, and
                                                                         * of the default over the incumbent */
    double seconds, default_seconds, gain; /* gain = default / winner; 1 when the default stays */
    double share;      /* of the machine's limit, of the last workload; 0 unknown */
    const char *limit; /* "read", "int8", ... that share belongs to */
    double correlation; /* Spearman's, of predicted and measured seconds over the measured candidates */
    int measured, rejected;
    CandidateResult candidates[CASE_CANDIDATES];
} CaseResult;

typedef struct MeasureOptions {
    double seconds; /* for this call; what was found by then counts */
    const volatile sig_atomic_t *stop;
    bool keep; /* measure all to the end, whoever is behind, and settle for the default: for comparisons */
} MeasureOptions;

/* Up to the choice. False when it was stopped or memory is short; err is "" when stopped. */
bool measure_case(Device *d, const CasePack *p, const Case *c, const MeasureOptions *o, CaseResult *out, Err *err);

/* One look at a case that is not settled; it is after the last one, often earlier. False as above: the result is as it was. */
bool measure_look(Device *d, const CasePack *p, const Case *c, const MeasureOptions *o, CaseResult *out, Err *err);

#endif
