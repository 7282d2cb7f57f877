/* collectives.c - shuffles, votes and reductions of NVIDIA's warps.
 * Source: PTX ISA, "shfl.sync", "vote.sync", "redux.sync", "bar.warp.sync". */
#include "machine.h"

#include <string.h>

/* Arguments of any of these: a value a lane, and what the instruction wants besides. */
typedef struct Lane {
    uint32_t value, select, control;
} Lane;

static const Lane *lane_in(const Warp *w, int lane) { return warp_lane(w, lane)->in; }
static uint32_t *lane_out(const Warp *w, int lane) { return warp_lane(w, lane)->out; }

static uint32_t meet(const Collective *c, int site, uint32_t mask, Lane in)
{
    uint32_t out = 0;
    thread_meet(c, site, mask, &in, &out);
    return out;
}

/* ---- barrier -------------------------------------------------------------------------------------------------- */

static void nothing(const Warp *w) { (void)w; }
static const Collective warp_barrier = {"bar.warp.sync", nothing};
static const Collective wave_barrier = {"wave.barrier", nothing};

void simt_warp_barrier(int site, uint32_t mask) { thread_meet(&warp_barrier, site, mask, NULL, NULL); }

void simt_wave_barrier(int site)
{
    thread_meet(&wave_barrier, site, warp_all(thread_self()->machine), NULL, NULL);
}

/* ---- shuffles ------------------------------------------------------------------------------------------------- */

typedef enum Shuffle { SHUFFLE_IDX, SHUFFLE_BFLY, SHUFFLE_UP, SHUFFLE_DOWN } Shuffle;

/* The lane that `lane` reads from: within segments that `control` describes (bits 0..4 the clamp, 8..12 the segment);
 * outside of its segment a lane reads itself. */
static int source(Shuffle kind, int lane, uint32_t select, uint32_t control)
{
    int clamp = (int)(control & 31), segment = (int)(control >> 8 & 31), b = (int)(select & 31);
    int last = (lane & segment) | (clamp & ~segment), first = lane & segment, j = 0;
    switch (kind) {
    case SHUFFLE_IDX: j = first | (b & ~segment); break;
    case SHUFFLE_BFLY: j = lane ^ b; break;
    case SHUFFLE_UP: return lane - b >= last ? lane - b : lane;
    case SHUFFLE_DOWN: j = lane + b; break;
    }
    return j <= last ? j : lane;
}

static void shuffle(const Warp *w, Shuffle kind)
{
    for (int l = 0; l < w->lanes; l++) {
        if (!warp_has(w, l))
            continue;
        int from = source(kind, l, lane_in(w, l)->select, lane_in(w, l)->control);
        if (!warp_has(w, from)) {
            machine_fail(w->machine, warp_lane(w, l), "shfl.sync reads lane %d, which does not take part", from);
            return;
        }
        *lane_out(w, l) = lane_in(w, from)->value;
    }
}

#define SHUFFLE(id, kind)                                                                            \
    static void run_##id(const Warp *w) { shuffle(w, kind); }                                        \
    static const Collective shfl_##id = {"shfl.sync." #id, run_##id};                                \
    uint32_t simt_shfl_##id(int site, uint32_t mask, uint32_t value, uint32_t select, uint32_t control) \
    {                                                                                                \
        return meet(&shfl_##id, site, mask, (Lane){value, select, control});                         \
    }                                                                                                \
    float simt_shfl_##id##_f32(int site, uint32_t mask, float value, uint32_t select, uint32_t control) \
    {                                                                                                \
        uint32_t bits;                                                                               \
        memcpy(&bits, &value, 4);                                                                    \
        bits = meet(&shfl_##id, site, mask, (Lane){bits, select, control});                          \
        memcpy(&value, &bits, 4);                                                                    \
        return value;                                                                                \
    }
SHUFFLE(idx, SHUFFLE_IDX)
SHUFFLE(bfly, SHUFFLE_BFLY)
SHUFFLE(up, SHUFFLE_UP)
SHUFFLE(down, SHUFFLE_DOWN)

/* ---- votes and reductions ------------------------------------------------------------------------------------- */

typedef uint32_t Fold(uint32_t a, uint32_t b);

static void give_all(const Warp *w, uint32_t v)
{
    for (int l = 0; l < w->lanes; l++)
        if (warp_has(w, l))
            *lane_out(w, l) = v;
}

static uint32_t ballot(const Warp *w)
{
    uint32_t bits = 0;
    for (int l = 0; l < w->lanes; l++)
        bits |= (warp_has(w, l) && lane_in(w, l)->value & 1 ? 1u : 0u) << l;
    return bits;
}

static void run_ballot(const Warp *w) { give_all(w, ballot(w)); }
static void run_all(const Warp *w) { give_all(w, ballot(w) == (uint32_t)w->mask); }
static void run_any(const Warp *w) { give_all(w, ballot(w) != 0); }
static void run_uni(const Warp *w) { give_all(w, ballot(w) == 0 || ballot(w) == (uint32_t)w->mask); }

#define VOTE(id)                                                             \
    static const Collective vote_##id = {"vote.sync." #id, run_##id};        \
    uint32_t simt_vote_##id(int site, uint32_t mask, uint32_t predicate)     \
    {                                                                        \
        return meet(&vote_##id, site, mask, (Lane){.value = predicate});     \
    }
VOTE(ballot)
VOTE(all)
VOTE(any)
VOTE(uni)

static void fold(const Warp *w, Fold *f)
{
    int first = __builtin_ctzll(w->mask);
    uint32_t v = lane_in(w, first)->value;
    for (int l = first + 1; l < w->lanes; l++)
        if (warp_has(w, l))
            v = f(v, lane_in(w, l)->value);
    give_all(w, v);
}

/* The intrinsics have the value first, then the mask. */
#define REDUX(id, expression)                                                        \
    static uint32_t fold_##id(uint32_t a, uint32_t b) { return (expression); }       \
    static void run_##id(const Warp *w) { fold(w, fold_##id); }                      \
    static const Collective redux_##id = {"redux.sync." #id, run_##id};              \
    uint32_t simt_redux_##id(int site, uint32_t value, uint32_t mask)                \
    {                                                                                \
        return meet(&redux_##id, site, mask, (Lane){.value = value});                \
    }
REDUX(add, a + b)
REDUX(min, (int32_t)a < (int32_t)b ? a : b)
REDUX(max, (int32_t)a > (int32_t)b ? a : b)
REDUX(umin, MIN(a, b))
REDUX(umax, MAX(a, b))
REDUX(and, a &b)
REDUX(or, a | b)
REDUX(xor, a ^ b)
