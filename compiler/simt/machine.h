/* machine.h - private to simt/: fibers, warps, and what the functions that kernels call (shims) may ask of them.
 *
 * Conventions of shims, one row of shims.inc each:
 *   CALL       R simt_x(arguments...)
 *   MEET       R simt_x(int site, arguments...)         a collective; `site` numbers the calls of a kernel
 *   PACK       void simt_x(void *out, const void *in)   arguments and result in memory, one after the other
 *   PACK_MEET  void simt_x(int site, void *out, const void *in)
 * Integers narrower than 32 bits are widened with zeros; in packs everything lies at multiples of 4 bytes.
 */
#ifndef BLADE_SIMT_MACHINE_H
#define BLADE_SIMT_MACHINE_H

#include "simt.h"

#include "fiber.h"

typedef struct Machine Machine;
typedef struct Warp Warp;

/* What threads of a warp do together once all of them are there. */
typedef struct Collective {
    const char *name;
    void (*run)(const Warp *w);
} Collective;

typedef enum State { STATE_READY, STATE_MEETING, STATE_BARRIER, STATE_ENDED } State;

/* A thread of a block. It lives at the upper end of its stack, where thread_self finds it. */
typedef struct Thread {
    Fiber fiber;
    Machine *machine;
    int index, lane, warp;
    State state;
    int site;               /* MEETING, BARRIER: of the call */
    const Collective *what; /* MEETING */
    uint64_t mask;          /* MEETING: the lanes that take part */
    const void *in;
    void *out;
} Thread;

struct Warp {
    Machine *machine;
    int lanes, first; /* threads a warp; index of lane 0 */
    uint64_t mask;    /* lanes that take part */
};

typedef struct Copy {
    uint8_t *to;
    const uint8_t *from;
    int bytes, from_bytes; /* the rest becomes zeros */
} Copy;

typedef struct Copies { /* asynchronous copies of a thread that have not been waited for */
    VEC(Copy) list;
    VEC(size_t) groups; /* end of each committed group in the list */
} Copies;

struct Machine {
    const SimtLaunch *launch;
    Err *err;
    bool failed;
    Fiber main;
    uint8_t *stacks; /* `capacity` slots, one more for emergencies */
    int capacity;
    bool copying;    /* this block has issued asynchronous copies */
    int64_t block;
    int warp;        /* whose turn it is, */
    uint64_t ready;  /* and the lanes of it that can run and did not yet */
    const Thread *first; /* lane that has come to a collective before the others, */
    int together;        /* and how many have come to the same */
    uint8_t *on_chip, *shared, *on_chip_end; /* mapping; this launch's part of it; end of the accessible part */
    size_t on_chip_size;
    Copies copies[SIMT_MAX_THREADS];
};

/* The calling thread of a block; only on its own stack. */
static inline Thread *thread_self(void)
{
    return fiber_top(__builtin_frame_address(0), sizeof(Thread));
}

static inline Thread *thread_at(const Machine *m, int index)
{
    return fiber_top(m->stacks + (size_t)index * FIBER_SLOT, sizeof(Thread));
}

/* All lanes of a warp, as a mask. */
static inline uint64_t warp_all(const Machine *m)
{
    return m->launch->wave == 64 ? UINT64_MAX : UINT32_MAX;
}

static inline Thread *warp_lane(const Warp *w, int lane)
{
    return thread_at(w->machine, w->first + lane);
}

static inline bool warp_has(const Warp *w, int lane)
{
    return w->mask >> lane & 1;
}

/* simt.c */
/* Waits until the lanes of `mask` have called this with the same collective, site and mask, and it has been run. */
void thread_meet(const Collective *what, int site, uint64_t mask, const void *in, void *out);
/* Ends the launch with a message that begins with kernel, block and thread. `t` may be NULL. */
void machine_fail(Machine *m, const Thread *t, const char *format, ...) PRINTF(3, 4);
/* The same from a thread's own stack; does not return. */
void thread_fail(const char *format, ...) PRINTF(1, 2) __attribute__((noreturn));
/* Bytes at p must be on-chip memory of this launch, at a multiple of `align`. */
void thread_check_shared(const void *p, int bytes, int align, const char *what);
void machine_leave(Machine *m) __attribute__((noreturn)); /* gives up the running thread, goes back to simt_launch */

/* fault.c */
bool fault_begin(Machine *m, Err *err); /* signals of this thread belong to m until fault_end */
void fault_end(void);

/* copies.c */
void copies_clear(Machine *m);
void copies_free(Machine *m);

#endif
