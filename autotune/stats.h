/* stats.h - the little statistics of measurements. */
#ifndef BLADE_STATS_H
#define BLADE_STATS_H

#include "base.h"

/* Quantile q (0..1) of n >= 1 values, interpolated between neighbours; 0.5 is the median. The values are left alone. */
double stats_quantile(const double *values, int n, double q);

/* Two-sided sign test: the probability that `wins` of n fair coins, or a split at least as uneven, come up by
 * chance. */
double stats_sign_test(int wins, int n);

/* Spearman's rank correlation of n pairs, ties with their mean rank; 0 when n < 2 or one side is constant. */
double stats_spearman(const double *x, const double *y, int n);

#endif
