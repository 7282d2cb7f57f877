/* measure.c - from candidates to a winner; see measure.h. */
#include "measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"
#include "stats.h"

const char *const verdict_names[VERDICT_COUNT] = {"default", "winner", "slower", "rejected"};

enum { SIEVE_ROUNDS = 5, MORE_ROUNDS = 16, DUEL_ROUNDS = 24, MAX_ROUNDS = SIEVE_ROUNDS + MORE_ROUNDS };

/* A candidate may be this much slower on one workload and win by another; further behind the best it is dropped. */
static const double worse = 1.02, hopeless = 1.08, behind = 1.025;
static const double equal = 1.01; /* candidates this close to the best are as good */
static const double needed = 1.02, chance = 0.01;

typedef struct Series {
    int n;
    double ratio[MAX_ROUNDS], seconds[MAX_ROUNDS];
} Series;

typedef struct Contest {
    Runner *r;
    const Case *c;
    const MeasureOptions *o;
    CaseResult *out;
    double end;
    uint64_t random;
    bool alive[CASE_CANDIDATES];
    Series series[CASE_CANDIDATES][CASE_WORKLOADS];
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

static void check_bits(Contest *x)
{
    for (int i = 0; i < x->c->candidates_count; i++) {
        CandidateResult *r = &x->out->candidates[i];
        bool ok = !x->c->candidates[i].rejected;
        if (!ok)
            snprintf(r->why, sizeof r->why, "%s", x->c->candidates[i].rejected);
        for (int w = 0; ok && w < x->c->workloads_count; w++)
            ok = runner_same_bits(x->r, w, i, r->why, sizeof r->why);
        x->alive[i] = ok;
        r->verdict = !ok ? VERDICT_REJECTED : i ? VERDICT_SLOWER : VERDICT_DEFAULT;
        x->out->rejected += !ok;
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

static void round_of(Contest *x, int w)
{
    int order[CASE_CANDIDATES], n = shuffled(x, order);
    double seconds[CASE_CANDIDATES];
    for (int i = 0; i < n; i++)
        seconds[order[i]] = runner_sample(x->r, w, order[i]);
    for (int i = 0; i < n; i++) {
        Series *s = &x->series[order[i]][w];
        s->seconds[s->n] = seconds[order[i]];
        s->ratio[s->n++] = seconds[order[i]] / seconds[0];
    }
}

static double median_ratio(const Contest *x, int candidate, int w)
{
    const Series *s = &x->series[candidate][w];
    return s->n ? stats_quantile(s->ratio, s->n, 0.5) : 1;
}

/* Geometric mean of the medians, and the worst of them. */
static double score(const Contest *x, int candidate, double *worst)
{
    double sum = 0;
    *worst = 0;
    for (int w = 0; w < x->c->workloads_count; w++) {
        double ratio = median_ratio(x, candidate, w);
        sum += log(ratio);
        *worst = MAX(*worst, ratio);
    }
    return exp(sum / x->c->workloads_count);
}

static double best_score(const Contest *x)
{
    double best = 1, worst;
    for (int i = 1; i < x->c->candidates_count; i++)
        if (x->alive[i])
            best = MIN(best, score(x, i, &worst));
    return best;
}

static int drop(Contest *x, double limit)
{
    double best = best_score(x), worst;
    int left = 0;
    for (int i = 1; i < x->c->candidates_count; i++) {
        if (x->alive[i] && !x->o->keep && score(x, i, &worst) > best * limit)
            x->alive[i] = false;
        left += x->alive[i];
    }
    return left;
}

static void rounds(Contest *x)
{
    for (int i = 0; i < SIEVE_ROUNDS && !(i > 1 && late(x)); i++)
        for (int w = 0; w < x->c->workloads_count; w++)
            round_of(x, w);
    int left = drop(x, hopeless);
    for (int i = 0; i < MORE_ROUNDS && left && !late(x); i++) {
        for (int w = 0; w < x->c->workloads_count; w++)
            round_of(x, w);
        left = drop(x, i < MORE_ROUNDS / 2 ? hopeless - (hopeless - behind) * i / (MORE_ROUNDS / 2) : behind);
    }
}

/* ---- who wins --------------------------------------------------------------------------------------------------- */

/* The best, or among those that are as good the one that changes least: a choice that noise does not turn over. */
static int favourite(const Contest *x)
{
    double best = 1, worst;
    int chosen = 0;
    for (int i = 1; i < x->c->candidates_count; i++)
        if (x->alive[i] && score(x, i, &worst) < best && worst <= worse)
            best = score(x, i, &worst), chosen = i;
    for (int i = 1; chosen && i < x->c->candidates_count; i++)
        if (x->alive[i] && score(x, i, &worst) <= best * equal && worst <= worse &&
            x->c->candidates[i].changed < x->c->candidates[chosen].changed)
            chosen = i;
    return chosen;
}

typedef struct Duel {
    int n, wins;
    double ratio[DUEL_ROUNDS];
} Duel;

static Duel fight(Contest *x, int w, int candidate)
{
    Duel d = {0};
    for (int i = 0; i < DUEL_ROUNDS && !(i >= 8 && late(x)); i++) {
        double a, b;
        if (i % 2) {
            a = runner_sample(x->r, w, 0);
            b = runner_sample(x->r, w, candidate);
        } else {
            b = runner_sample(x->r, w, candidate);
            a = runner_sample(x->r, w, 0);
        }
        d.wins += b < a;
        d.ratio[d.n++] = b / a;
    }
    return d;
}

static bool wins_duel(Contest *x, int candidate, double *ratio)
{
    int n = 0, wins = 0;
    double sum = 0;
    for (int w = 0; w < x->c->workloads_count; w++) {
        Duel d = fight(x, w, candidate);
        double median = stats_quantile(d.ratio, d.n, 0.5);
        if (median > worse || stopped(x))
            return false;
        sum += log(median);
        n += d.n;
        wins += d.wins;
    }
    *ratio = exp(sum / x->c->workloads_count);
    return *ratio * needed <= 1 && wins * 2 > n && stats_sign_test(wins, n) < chance;
}

/* ---- the result ------------------------------------------------------------------------------------------------- */

static double median_seconds(const Contest *x, int candidate)
{
    double sum = 0;
    for (int w = 0; w < x->c->workloads_count; w++) {
        const Series *s = &x->series[candidate][w];
        sum += log(stats_quantile(s->seconds, s->n, 0.5));
    }
    return exp(sum / x->c->workloads_count);
}

static void describe(Contest *x)
{
    double predicted[CASE_CANDIDATES], measured[CASE_CANDIDATES], worst;
    CaseResult *out = x->out;
    for (int i = 0; i < x->c->candidates_count; i++) {
        CandidateResult *r = &out->candidates[i];
        if (r->verdict == VERDICT_REJECTED)
            continue;
        r->seconds = median_seconds(x, i);
        r->ratio = score(x, i, &worst);
        predicted[out->measured] = x->c->candidates[i].predicted;
        measured[out->measured++] = r->ratio;
    }
    out->correlation = stats_spearman(predicted, measured, out->measured);
    out->default_seconds = out->candidates[0].seconds;
}

/* Share of the limit that the last workload comes closest to, with the winner's settings. */
static void find_share(Contest *x)
{
    int w = x->c->workloads_count - 1;
    const CaseWorkload *load = &x->c->workloads[w];
    const Series *s = &x->series[x->out->winner][w];
    double seconds = stats_quantile(s->seconds, s->n, 0.5);
    double read = runner_limit(x->r, "read"), peak = runner_limit(x->r, x->c->peak);
    double of_read = read > 0 ? load->read / seconds / read : 0;
    double of_peak = peak > 0 ? load->operations / seconds / peak : 0;
    x->out->share = MAX(of_read, of_peak);
    x->out->limit = of_read >= of_peak ? "read" : x->c->peak;
}

static void decide(Contest *x)
{
    CaseResult *out = x->out;
    int candidate = favourite(x);
    double ratio = 1;
    describe(x);
    out->gain = 1;
    out->seconds = out->default_seconds;
    if (candidate && wins_duel(x, candidate, &ratio)) {
        out->winner = candidate;
        out->candidates[candidate].verdict = VERDICT_WINNER;
        out->gain = 1 / ratio;
        out->seconds = out->default_seconds * ratio;
    }
    find_share(x);
}

bool measure_case(Device *d, const CasePack *p, const Case *c, const MeasureOptions *o, CaseResult *out, Err *err)
{
    memset(out, 0, sizeof *out);
    Contest *x = xcalloc(1, sizeof *x);
    *x = (Contest){.c = c, .o = o, .out = out, .random = 1};
    x->r = runner_new(d, p, c, err);
    bool ok = x->r != NULL;
    if (ok) {
        check_bits(x);
        x->end = now_seconds() + o->seconds;
        if (!stopped(x))
            rounds(x);
        if (!stopped(x))
            decide(x);
        ok = !stopped(x);
    }
    runner_free(x->r);
    free(x);
    return ok;
}
