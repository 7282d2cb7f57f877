/* cost.h - how long a kernel should take, from its tile IR alone: the model that prunes what bladetune measures.
 *
 * The IR is walked for a sample of the grid's blocks. Counted are vector operations, what the register tiles of gemm
 * need (dot products, unpacking, broadcasts, sums that do not fit the registers), bytes by where they come from
 * (memory when first touched, the second cache when touched again), and how much of the reading from memory hides
 * behind arithmetic because the kernel prefetches. Only the order of costs matters; the constants are those of a
 * present-day core, not of this machine.
 *
 * On a GPU (cost_gpu.c) counted are what keeps a multiprocessor's matrix units, lanes and on-chip memory busy, bytes, and
 * turns of the loop that copies ahead; how many blocks a multiprocessor holds follows from warps, on-chip memory and an
 * estimate of registers. The blocks run in waves; the constants are the vendors' for the target's best-known device.
 */
#ifndef BLADE_COST_H
#define BLADE_COST_H

#include "target.h"

enum { COST_ARGS = 64 };

typedef struct CostInput {
    const int64_t *sizes;         /* by SizeId */
    int threads;
    bool cold[COST_ARGS];         /* argument is read from memory: weights, KV pages; others are in a cache */
    int64_t typical[COST_ARGS];   /* what a scalar loaded from an argument is taken to be */
} CostInput;

/* Seconds; above 0. */
double cost_seconds(const Kernel *k, const Target *t, const CostInput *in);

#endif
