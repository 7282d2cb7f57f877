/* stats.c - quantiles, bounds, rank correlation; see stats.h. */
#include "stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double stats_quantile(const double *values, int n, double q)
{
    double *sorted = xmalloc((size_t)n * sizeof *sorted);
    memcpy(sorted, values, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    double at = q * (n - 1);
    int low = (int)floor(at);
    double v = low + 1 < n ? sorted[low] + (at - low) * (sorted[low + 1] - sorted[low]) : sorted[n - 1];
    free(sorted);
    return v;
}

/* Of the sorted values, the one at place k (from 0) lies above the median when at most k of n fair coins come up heads. */
double stats_lower_bound(const double *values, int n, double chance)
{
    double p = exp(-n * log(2));
    int k = 0;
    for (; k < n && p <= chance; k++)
        p += exp(lgamma(n + 1) - lgamma(k + 2) - lgamma(n - k) - n * log(2));
    return stats_quantile(values, n, k > 1 ? (k - 1) / (double)(n - 1) : 0);
}

/* Rank of each value, from 0; equal values share the mean of theirs. */
static void ranks(const double *v, int n, double *rank)
{
    for (int i = 0; i < n; i++) {
        int less = 0, equal = 0;
        for (int j = 0; j < n; j++) {
            less += v[j] < v[i];
            equal += v[j] == v[i];
        }
        rank[i] = less + (equal - 1) / 2.0;
    }
}

double stats_spearman(const double *x, const double *y, int n)
{
    double *a = xcalloc((size_t)MAX(n, 1), sizeof *a), *b = xcalloc((size_t)MAX(n, 1), sizeof *b);
    double mean = (n - 1) / 2.0, ab = 0, aa = 0, bb = 0;
    ranks(x, n, a);
    ranks(y, n, b);
    for (int i = 0; i < n; i++) {
        ab += (a[i] - mean) * (b[i] - mean);
        aa += (a[i] - mean) * (a[i] - mean);
        bb += (b[i] - mean) * (b[i] - mean);
    }
    free(a);
    free(b);
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : 0;
}
