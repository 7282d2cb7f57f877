/* permutes.c - exchanges between the lanes of AMD's wavefronts. All lanes take part: what hardware does with lanes that
 * are switched off is not something that generated code may rely on.
 * Source: AMD "RDNA3" and "CDNA3 Instruction Set Architecture", DPP, DS_PERMUTE, DS_SWIZZLE, V_PERMLANE; LLVM's
 * "User Guide for AMDGPU Backend". */
#include "machine.h"

typedef struct Lane {
    uint32_t value;
    union {
        uint32_t address, lane;
    };
} Lane;

typedef struct Dpp {
    uint32_t old, value, control, row_mask, bank_mask, bound_zero;
} Dpp;

typedef struct Permlane {
    uint32_t old, value, low, high, fetch_inactive, bound_zero;
} Permlane;

static uint64_t everyone(void)
{
    return warp_all(thread_self()->machine);
}

static uint32_t value_of(const Warp *w, int lane) { return ((const Lane *)warp_lane(w, lane)->in)->value; }
static uint32_t other_of(const Warp *w, int lane) { return ((const Lane *)warp_lane(w, lane)->in)->lane; }
static void give(const Warp *w, int lane, uint32_t v) { *(uint32_t *)warp_lane(w, lane)->out = v; }

#define EXCHANGE(id)                                                      \
    static const Collective id = {#id, run_##id};                         \
    uint32_t simt_##id(int site, uint32_t a, uint32_t b)                  \
    {                                                                     \
        uint32_t out = 0;                                                 \
        thread_meet(&id, site, everyone(), &(Lane){a, {b}}, &out);        \
        return out;                                                       \
    }

/* ---- by computed lane ----------------------------------------------------------------------------------------- */

/* The intrinsics of ds have (address, value): address / 4 is a lane. */
static void run_ds_bpermute(const Warp *w)
{
    for (int l = 0; l < w->lanes; l++)
        give(w, l, other_of(w, (int)(value_of(w, l) / 4 % (uint32_t)w->lanes)));
}
EXCHANGE(ds_bpermute)

static void run_ds_permute(const Warp *w)
{
    for (int l = 0; l < w->lanes; l++)
        give(w, (int)(value_of(w, l) / 4 % (uint32_t)w->lanes), other_of(w, l));
}
EXCHANGE(ds_permute)

/* (value, pattern): bit 15 set: the four 2-bit selectors of a quad; else and, or, xor masks of 5 bits. */
static void run_ds_swizzle(const Warp *w)
{
    for (int l = 0; l < w->lanes; l++) {
        uint32_t p = other_of(w, l);
        int in = p >> 15 & 1 ? (l & ~3) | (int)(p >> 2 * (l & 3) & 3)
                             : (l & ~31) | (int)((((unsigned)l & 31 & p) | (p >> 5 & 31)) ^ (p >> 10 & 31));
        give(w, l, value_of(w, in));
    }
}
EXCHANGE(ds_swizzle)

/* (value, lane); the lane is uniform. */
static void run_readlane(const Warp *w)
{
    for (int l = 0; l < w->lanes; l++) {
        if (other_of(w, l) != other_of(w, 0)) {
            machine_fail(w->machine, warp_lane(w, l), "readlane of lane %u, while thread %d reads lane %u",
                         other_of(w, l), warp_lane(w, 0)->index, other_of(w, 0));
            return;
        }
        give(w, l, value_of(w, (int)(other_of(w, 0) % (uint32_t)w->lanes)));
    }
}
EXCHANGE(readlane)

static void run_readfirstlane(const Warp *w)
{
    for (int l = 0; l < w->lanes; l++)
        give(w, l, value_of(w, 0));
}

static void run_permlane64(const Warp *w)
{
    for (int l = 0; l < w->lanes; l++)
        give(w, l, value_of(w, w->lanes == 64 ? l ^ 32 : l));
}

static void run_ballot(const Warp *w)
{
    uint64_t bits = 0;
    for (int l = 0; l < w->lanes; l++)
        bits |= (uint64_t)(value_of(w, l) & 1) << l;
    for (int l = 0; l < w->lanes; l++)
        *(uint64_t *)warp_lane(w, l)->out = bits;
}

static const Collective readfirstlane = {"readfirstlane", run_readfirstlane};
static const Collective permlane64 = {"permlane64", run_permlane64};
static const Collective ballot = {"ballot", run_ballot};

uint32_t simt_readfirstlane(int site, uint32_t value)
{
    uint32_t out = 0;
    thread_meet(&readfirstlane, site, everyone(), &(Lane){.value = value}, &out);
    return out;
}

uint32_t simt_permlane64(int site, uint32_t value)
{
    uint32_t out = 0;
    thread_meet(&permlane64, site, everyone(), &(Lane){.value = value}, &out);
    return out;
}

uint64_t simt_ballot64(int site, uint32_t predicate)
{
    uint64_t out = 0;
    thread_meet(&ballot, site, everyone(), &(Lane){.value = predicate}, &out);
    return out;
}

uint32_t simt_ballot32(int site, uint32_t predicate)
{
    return (uint32_t)simt_ballot64(site, predicate);
}

/* ---- data-parallel primitives --------------------------------------------------------------------------------- */

/* The lane that `lane` reads under a DPP control; -1: outside, -2: no such control. Rows have 16 lanes. */
static int dpp_source(int lane, uint32_t control, int lanes)
{
    int row = lane & ~15, in = lane & 15, n = (int)(control & 15);
    if (control <= 0xFF)
        return (lane & ~3) | (int)(control >> 2 * (lane & 3) & 3);
    switch (control >> 4) {
    case 0x10: return n && in + n < 16 ? lane + n : n ? -1 : -2; /* row_shl */
    case 0x11: return n && in - n >= 0 ? lane - n : n ? -1 : -2; /* row_shr */
    case 0x12: return n ? row | ((in - n) & 15) : -2;           /* row_ror */
    case 0x15: return row | n;                                  /* row_share */
    case 0x16: return row | (in ^ n);                           /* row_xmask */
    }
    switch (control) {
    case 0x130: return lane + 1 < lanes ? lane + 1 : -1;  /* wave_shl:1 */
    case 0x134: return (lane + 1) % lanes;                /* wave_rol:1 */
    case 0x138: return lane - 1;                          /* wave_shr:1 */
    case 0x13C: return (lane + lanes - 1) % lanes;        /* wave_ror:1 */
    case 0x140: return row | (15 - in);                   /* row_mirror */
    case 0x141: return (lane & ~7) | (7 - (lane & 7));    /* row_half_mirror */
    case 0x142: return row ? row - 1 : -1;                /* row_bcast:15 */
    case 0x143: return lane >= 32 ? 31 : -1;              /* row_bcast:31 */
    }
    return -2;
}

static void run_update_dpp(const Warp *w)
{
    for (int l = 0; l < w->lanes; l++) {
        const Dpp *d = warp_lane(w, l)->in;
        int from = dpp_source(l, d->control, w->lanes);
        bool enabled = d->row_mask >> (l / 16 & 3) & 1 && d->bank_mask >> (l / 4 & 3) & 1;
        if (from == -2) {
            machine_fail(w->machine, warp_lane(w, l), "update.dpp with control %#x, which is none", d->control);
            return;
        }
        if (!enabled)
            give(w, l, d->old);
        else if (from == -1)
            give(w, l, d->bound_zero ? 0 : d->old);
        else
            give(w, l, ((const Dpp *)warp_lane(w, from)->in)->value);
    }
}

/* A selector of 4 bits for each lane of a row: a lane of the same row (flip 0) or of the neighbour (flip 16). */
static void permlane(const Warp *w, int flip)
{
    for (int l = 0; l < w->lanes; l++) {
        const Permlane *p = warp_lane(w, l)->in;
        int in = l & 15, select = (int)((in < 8 ? p->low >> 4 * in : p->high >> 4 * (in - 8)) & 15);
        give(w, l, ((const Permlane *)warp_lane(w, ((l & ~15) ^ flip) | select)->in)->value);
    }
}

static void run_permlane16(const Warp *w) { permlane(w, 0); }
static void run_permlanex16(const Warp *w) { permlane(w, 16); }

static const Collective update_dpp = {"update.dpp", run_update_dpp};
static const Collective permlane16 = {"permlane16", run_permlane16};
static const Collective permlanex16 = {"permlanex16", run_permlanex16};

void simt_update_dpp(int site, void *out, const void *in) { thread_meet(&update_dpp, site, everyone(), in, out); }
void simt_permlane16(int site, void *out, const void *in) { thread_meet(&permlane16, site, everyone(), in, out); }
void simt_permlanex16(int site, void *out, const void *in) { thread_meet(&permlanex16, site, everyone(), in, out); }
