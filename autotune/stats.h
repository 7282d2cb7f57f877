/* stats.h - the little statistics of measurements. */
#ifndef BLADE_STATS_H
#define BLADE_STATS_H

#include "base.h"

/* Quantile q (0..1) of n >= 1 values, interpolated between neighbours; 0.5 is the median. The values are left alone. */
double stats_quantile(const double *values, int n, double q);

/* Lower bound of the median of n >= 1 values: the largest of them that the median lies below with at most the
 * probability `chance`; their smallest where n is too small for that. The values are left alone. */
double stats_lower_bound(const double *values, int n, double chance);

/* Spearman's rank correlation of n pairs, ties with their mean rank; 0 when n < 2 or one side is constant. */
double stats_spearman(const double *x, const double *y, int n);

#endif
