/* measure.c - from candidates to a winner; see measure.h. */
#include "measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"
#include "stats.h"

const char *const verdict_names[VERDICT_COUNT] = {"default", "winner", "slower", "rejected"};

enum { SIEVE_ROUNDS = 5, MORE_ROUNDS = 20, LOOK_ROUNDS = 40, FEWEST_ROUNDS = 12, MAX_ROUNDS = 160 };
static const double cheap_seconds = 0.7; /* rounds beyond those that are needed, up to MAX_ROUNDS, may take so long */

/* Behind the best by that much in three of four rounds, after the sieve and at the end: out. */
static const double hopeless = 1.06, behind = 1.02;
static const double equal = 1.02; /* not clearly slower than the best by this factor: as good */
static const double worse = 1.02; /* what no workload may lose */
static const double doubt = 0.05, chance = 0.01; /* of errors: of the default's and each workload's bounds; of all others */
static const double needed = 1.03, needed_each = 1.025; /* gains: of the median look, of each that counts */
static const double unseat = 1.05; /* gain over an incumbent that is not the default: it was confirmed before */
static const double too_slow = 1.01; /* the incumbent against the default */

typedef struct Contest {
    Runner *r;
    const Case *c;
    const MeasureOptions *o;
    double end;
    uint64_t random;
    bool alive[CASE_CANDIDATES];
    int n[CASE_CANDIDATES]; /* rounds */
    double seconds[CASE_CANDIDATES][CASE_WORKLOADS][MAX_ROUNDS];
} Contest;

static bool stopped(const Contest *x)
{
    return x->o->stop && *x->o->stop;
}

static bool late(const Contest *x)
{
    return stopped(x) || now_seconds() > x->end;
}

/* ---- bits ------------------------------------------------------------------------------------------------------- */

static void check_bits(Contest *x, CaseResult *out)
{
    for (int i = 0; i < x->c->candidates_count; i++) {
        CandidateResult *r = &out->candidates[i];
        bool ok = !x->c->candidates[i].rejected;
        if (!ok)
            snprintf(r->why, sizeof r->why, "%s", x->c->candidates[i].rejected);
        for (int w = 0; ok && w < x->c->workloads_count; w++)
            ok = runner_same_bits(x->r, w, i, r->why, sizeof r->why);
        x->alive[i] = ok;
        r->verdict = !ok ? VERDICT_REJECTED : i ? VERDICT_SLOWER : VERDICT_DEFAULT;
        out->rejected += !ok;
        if (stopped(x))
            return;
    }
}

/* ---- rounds ----------------------------------------------------------------------------------------------------- */

static uint32_t random_below(Contest *x, uint32_t n)
{
    x->random = x->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(x->random >> 33) % n;
}

/* The living in random order, the default among them. */
static int shuffled(Contest *x, int *order)
{
    int n = 0;
    for (int i = 0; i < x->c->candidates_count; i++)
        if (x->alive[i]) {
            int at = (int)random_below(x, (uint32_t)n + 1);
            order[n] = order[at];
            order[at] = i;
            n++;
        }
    return n;
}

static void round_of(Contest *x)
{
    int order[CASE_CANDIDATES], n = 0;
    for (int w = 0; w < x->c->workloads_count; w++) {
        n = shuffled(x, order);
        for (int i = 0; i < n; i++)
            x->seconds[order[i]][w][x->n[order[i]]] = runner_sample(x->r, w, order[i]);
    }
    for (int i = 0; i < n; i++)
        x->n[order[i]]++;
}

/* Ratios a / b of the rounds that both were in, on one workload; how many. */
static int ratios(const Contest *x, int a, int b, int w, double *out)
{
    int n = MIN(x->n[a], x->n[b]);
    for (int i = 0; i < n; i++)
        out[i] = x->seconds[a][w][i] / x->seconds[b][w][i];
    return n;
}

/* The same as geometric means over the workloads. */
static int mean_ratios(const Contest *x, int a, int b, double *out)
{
    int n = MIN(x->n[a], x->n[b]);
    for (int i = 0; i < n; i++) {
        double sum = 0;
        for (int w = 0; w < x->c->workloads_count; w++)
            sum += log(x->seconds[a][w][i] / x->seconds[b][w][i]);
        out[i] = exp(sum / x->c->workloads_count);
    }
    return n;
}

static double mean_quantile(const Contest *x, int a, int b, double q)
{
    double ratio[MAX_ROUNDS];
    int n = mean_ratios(x, a, b, ratio);
    return stats_quantile(ratio, n, q);
}

/* What a candidate takes of the default's time: the geometric mean of the workloads' medians. */
static double score(const Contest *x, int candidate)
{
    double sum = 0, ratio[MAX_ROUNDS];
    for (int w = 0; w < x->c->workloads_count; w++) {
        int n = ratios(x, candidate, 0, w, ratio);
        sum += log(stats_quantile(ratio, n, 0.5));
    }
    return exp(sum / x->c->workloads_count);
}

/* Whether a is slower than b by more than `factor`, beyond doubt, in the mean; or on one workload at least. */
static bool clearly_slower(const Contest *x, int a, int b, double factor, double p)
{
    double ratio[MAX_ROUNDS];
    int n = mean_ratios(x, a, b, ratio);
    return n > 1 && stats_lower_bound(ratio, n, p) > factor;
}

static bool loses_somewhere(const Contest *x, int a, int b)
{
    double ratio[MAX_ROUNDS];
    for (int w = 0; w < x->c->workloads_count; w++) {
        int n = ratios(x, a, b, w, ratio);
        if (n > 1 && stats_lower_bound(ratio, n, doubt) > worse)
            return true;
    }
    return false;
}

static int best_of(const Contest *x)
{
    int best = 0;
    for (int i = 1; i < x->c->candidates_count; i++)
        if (x->alive[i] && score(x, i) < score(x, best))
            best = i;
    return best;
}

/* Drops who is behind the best; the default and the incumbent stay to the end. How many are left besides the default. */
static int drop(Contest *x, int incumbent, double limit)
{
    int best = best_of(x), left = 0;
    for (int i = 1; i < x->c->candidates_count; i++) {
        if (x->alive[i] && i != incumbent && !x->o->keep && mean_quantile(x, i, best, 0.25) > limit)
            x->alive[i] = false;
        left += x->alive[i];
    }
    return left;
}

static void rounds(Contest *x, int incumbent)
{
    double cheap = now_seconds() + cheap_seconds;
    for (int i = 0; i < SIEVE_ROUNDS && !(i > 1 && late(x)); i++)
        round_of(x);
    int left = drop(x, incumbent, hopeless), more = x->o->keep ? 2 * MORE_ROUNDS : MORE_ROUNDS;
    for (int i = 0; left && x->n[0] < MAX_ROUNDS && (i < more || now_seconds() < cheap) && !late(x); i++) {
        round_of(x);
        left = drop(x, incumbent, MAX(hopeless - (hopeless - behind) * i / (MORE_ROUNDS / 2), behind));
    }
}

/* ---- choice ----------------------------------------------------------------------------------------------------- */

static bool as_good(const Contest *x, int candidate, int best, double p)
{
    return candidate == best || !clearly_slower(x, candidate, best, equal, p);
}

/* A choice that noise does not turn over: see the head of measure.h. */
static int choice(const Contest *x, int incumbent)
{
    bool fits[CASE_CANDIDATES] = {true};
    int best = 0, chosen = -1;
    for (int i = 1; i < x->c->candidates_count; i++) {
        fits[i] = x->alive[i] && !loses_somewhere(x, i, 0) && (i == incumbent || !loses_somewhere(x, i, incumbent));
        if (fits[i] && score(x, i) < score(x, best))
            best = i;
    }
    if (fits[incumbent] && as_good(x, incumbent, best, incumbent ? chance : doubt))
        return incumbent;
    if (as_good(x, 0, best, doubt))
        return 0;
    for (int i = 1; i < x->c->candidates_count; i++)
        if (fits[i] && as_good(x, i, best, chance) &&
            (chosen < 0 || x->c->candidates[i].changed < x->c->candidates[chosen].changed))
            chosen = i;
    return chosen;
}

/* ---- the result ------------------------------------------------------------------------------------------------- */

static double median_seconds(const Contest *x, int candidate)
{
    double sum = 0;
    for (int w = 0; w < x->c->workloads_count; w++)
        sum += log(stats_quantile(x->seconds[candidate][w], x->n[candidate], 0.5));
    return exp(sum / x->c->workloads_count);
}

static void describe(const Contest *x, CaseResult *out)
{
    double predicted[CASE_CANDIDATES], measured[CASE_CANDIDATES];
    for (int i = 0; i < x->c->candidates_count; i++) {
        CandidateResult *r = &out->candidates[i];
        if (r->verdict == VERDICT_REJECTED)
            continue;
        r->seconds = median_seconds(x, i);
        r->ratio = score(x, i);
        predicted[out->measured] = x->c->candidates[i].predicted;
        measured[out->measured++] = r->ratio;
    }
    out->correlation = stats_spearman(predicted, measured, out->measured);
    out->default_seconds = out->candidates[0].seconds;
}

/* Share of the limit that the last workload comes closest to, with the winner's settings. */
static void find_share(Contest *x, CaseResult *out)
{
    int w = x->c->workloads_count - 1;
    const CaseWorkload *load = &x->c->workloads[w];
    double seconds = stats_quantile(x->seconds[out->winner][w], x->n[out->winner], 0.5);
    double read = runner_limit(x->r, "read"), peak = runner_limit(x->r, x->c->peak);
    double of_read = read > 0 ? load->read / seconds / read : 0;
    double of_peak = peak > 0 ? load->operations / seconds / peak : 0;
    out->share = MAX(of_read, of_peak);
    out->limit = of_read >= of_peak ? "read" : x->c->peak;
}

static void settle(Contest *x, CaseResult *out, int winner, double gain)
{
    out->settled = true;
    out->winner = winner;
    out->gain = winner ? gain : 1;
    out->seconds = out->default_seconds / out->gain;
    if (winner)
        out->candidates[winner].verdict = VERDICT_WINNER;
    find_share(x, out);
}

static void decide(Contest *x, CaseResult *out)
{
    describe(x, out);
    int chosen = x->o->keep ? 0 : choice(x, out->incumbent);
    if (chosen == out->incumbent || x->o->keep) {
        settle(x, out, chosen, 1 / out->candidates[chosen].ratio);
        return;
    }
    out->challenger = chosen;
}

/* ---- looks ------------------------------------------------------------------------------------------------------ */

/* How many times as fast as b candidate a was; *clear becomes false unless that is beyond doubt and at least `least`. */
static double gain_over(const Contest *x, int a, int b, double least, bool *clear)
{
    double gain = mean_quantile(x, b, a, 0.5);
    *clear = *clear && gain >= least && clearly_slower(x, b, a, 1, chance);
    return gain;
}

/* Two looks that agree decide, or two of three. */
static bool undecided(int votes, int looks)
{
    return votes < 2 && looks - votes < 2;
}

static void judge(Contest *x, CaseResult *out)
{
    int c = out->challenger, i = out->incumbent, n = out->looks++;
    bool wins = !loses_somewhere(x, c, i) && !loses_somewhere(x, c, 0), drops = true;
    out->over_incumbent[n] = gain_over(x, c, i, needed_each, &wins);
    out->over_default[n] = gain_over(x, c, 0, needed_each, &wins);
    out->lost[n] = gain_over(x, 0, i, too_slow, &drops);
    out->wins += wins;
    out->drops += drops;
    if (undecided(out->wins, out->looks) || undecided(out->drops, out->looks))
        return;
    double over_incumbent = stats_quantile(out->over_incumbent, out->looks, 0.5);
    double over_default = stats_quantile(out->over_default, out->looks, 0.5);
    if (out->wins >= 2 && over_incumbent >= (i ? unseat : needed) && over_default >= needed)
        settle(x, out, c, over_default);
    else
        settle(x, out, out->drops >= 2 ? 0 : i, 1 / stats_quantile(out->lost, out->looks, 0.5));
}

static bool look(Contest *x, CaseResult *out)
{
    x->alive[0] = x->alive[out->incumbent] = x->alive[out->challenger] = true;
    round_of(x); /* warms up */
    memset(x->n, 0, sizeof x->n);
    double cheap = now_seconds() + cheap_seconds;
    for (int i = 0; i < MAX_ROUNDS && !stopped(x) && !(i >= FEWEST_ROUNDS && late(x)); i++) {
        if (i >= LOOK_ROUNDS && now_seconds() > cheap)
            break;
        round_of(x);
    }
    if (stopped(x))
        return false;
    judge(x, out);
    return true;
}

/* ---- the interface ---------------------------------------------------------------------------------------------- */

static Contest *contest_new(Device *d, const CasePack *p, const Case *c, const MeasureOptions *o, uint64_t seed, Err *err)
{
    Contest *x = xcalloc(1, sizeof *x);
    x->c = c;
    x->o = o;
    x->random = seed;
    x->r = runner_new(d, p, c, err);
    if (x->r)
        return x;
    free(x);
    return NULL;
}

static void contest_free(Contest *x)
{
    runner_free(x->r);
    free(x);
}

/* A GPU that has failed does nothing any more, in no time. */
static bool alive(Device *d, const Case *c, Err *err)
{
    return d->ops->sync(d, err) || err_prefix(err, "%s %s", c->operator, c->parameters);
}

bool measure_case(Device *d, const CasePack *p, const Case *c, const MeasureOptions *o, CaseResult *out, Err *err)
{
    memset(out, 0, sizeof *out);
    Contest *x = contest_new(d, p, c, o, 1, err);
    if (!x)
        return false;
    check_bits(x, out);
    bool ok = alive(d, c, err);
    out->incumbent = x->alive[c->incumbent] ? c->incumbent : 0;
    x->end = now_seconds() + o->seconds;
    if (ok && !stopped(x))
        rounds(x, out->incumbent);
    if (ok && !stopped(x))
        decide(x, out);
    ok = ok && !stopped(x) && alive(d, c, err);
    contest_free(x);
    return ok;
}

bool measure_look(Device *d, const CasePack *p, const Case *c, const MeasureOptions *o, CaseResult *out, Err *err)
{
    Contest *x = contest_new(d, p, c, o, 2 + (uint64_t)out->looks, err);
    if (!x)
        return false;
    x->end = now_seconds() + o->seconds;
    CaseResult before = *out;
    bool ok = look(x, out) && alive(d, c, err);
    if (!ok)
        *out = before;
    contest_free(x);
    return ok;
}
