/* load_arrivals.c - random numbers of the load tool and the times at which it sends; see load_stats.h. */
#include <math.h>

#include "load_stats.h"

uint64_t load_random(LoadRng *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

double load_uniform(LoadRng *r)
{
    return (double)(load_random(r) >> 11) * 0x1p-53;
}

int64_t load_between(LoadRng *r, int64_t lo, int64_t hi)
{
    return lo + (int64_t)(load_uniform(r) * ((double)(hi - lo) + 1));
}

/* Box and Muller, the cosine only. */
static double normal(LoadRng *r)
{
    double radius = sqrt(-2 * log(1 - load_uniform(r)));
    return radius * cos(2 * M_PI * load_uniform(r));
}

/* Marsaglia and Tsang, "A simple method for generating gamma variables" (2000), for shape >= 1. */
static double gamma_from_one(LoadRng *r, double shape)
{
    double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = normal(r), v = 1 + c * x;
        if (v <= 0)
            continue;
        v = v * v * v;
        if (log(1 - load_uniform(r)) < 0.5 * x * x + d - d * v + d * log(v))
            return d * v;
    }
}

double load_gamma(LoadRng *r, double shape)
{
    if (shape == 1)
        return -log(1 - load_uniform(r));
    if (shape > 1)
        return gamma_from_one(r, shape);
    double boost = pow(1 - load_uniform(r), 1 / shape); /* the same paper, section 6 */
    return boost * gamma_from_one(r, shape + 1);
}

void load_arrivals(double *times, size_t n, double rate, double burstiness, uint64_t seed)
{
    LoadRng rng = {seed};
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += isinf(rate) ? 0 : isinf(burstiness) ? 1 : load_gamma(&rng, burstiness);
        times[i] = sum;
    }
    double scale = sum > 0 ? (double)n / rate / sum : 0;
    for (size_t i = 0; i < n; i++)
        times[i] *= scale;
}
