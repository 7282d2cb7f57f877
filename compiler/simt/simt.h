/* simt.h - the SIMT machine: runs GPU kernels, retargeted to this CPU, as a GPU would run them.
 *
 * A block's threads are fibers that meet at barriers and in the collectives of a warp; on-chip memory starts as NaN; an
 * asynchronous copy takes effect only when it is waited for. A collective that some threads of its warp do not reach,
 * a barrier that some warps do not reach, and on-chip memory out of bounds are errors that say where. No LLVM here: the
 * stand-in drivers of the tests link it too. retarget.h is the compiler's half.
 */
#ifndef BLADE_SIMT_H
#define BLADE_SIMT_H

#include "base.h"

typedef enum SimtOrder { SIMT_FORWARD, SIMT_REVERSE } SimtOrder; /* in which warps, and lanes in a warp, take turns */

typedef struct SimtLaunch {
    const char *name;       /* for messages */
    const void *entry;      /* the symbol "kernel" of an object from retargeted code */
    void *const *arguments; /* values of its pointer parameters, `count` of them */
    int count;
    int64_t blocks;
    int threads, wave;      /* of a block (a multiple of wave, <= 1024); of a warp */
    int64_t shared;         /* bytes of on-chip memory */
    SimtOrder order;
} SimtLaunch;

/* Runs all blocks, one after the other, in the calling thread; several threads may call it at a time. False and a
 * message when the kernel broke a rule; then outputs are unspecified. */
bool simt_launch(const SimtLaunch *launch, Err *err);

/* Address of a function that retargeted code calls ("simt_mma_m16n8k16_bf16"), for the object loader; NULL when there is none. */
void *simt_symbol(const char *name);

#endif
