/* simt.h - the SIMT machine: runs GPU kernels, retargeted to this CPU, as a GPU would run them.
 *
 * A block's threads are fibers that meet at barriers and in the collectives of a warp; on-chip memory starts as NaN; an
 * asynchronous copy takes effect only when it is waited for. A collective that some threads of its warp do not reach,
 * a barrier that some warps do not reach, on-chip memory out of bounds, and memory that faults are errors that say
 * where. No LLVM here: the stand-in drivers of the tests link it too. retarget.h is the compiler's half.
 */
#ifndef BLADE_SIMT_H
#define BLADE_SIMT_H

#include "base.h"

enum { SIMT_MAX_THREADS = 1024, SIMT_MAX_ARGUMENTS = 32 };

typedef enum SimtOrder { SIMT_FORWARD, SIMT_REVERSE } SimtOrder; /* in which warps, and lanes in a warp, take turns */

typedef struct SimtRegion { /* memory that has a name in messages */
    const char *name;
    const void *at;
    size_t size; /* bytes */
} SimtRegion;

typedef struct SimtLaunch {
    const char *name;       /* for messages */
    const void *entry;      /* the symbol "kernel" of an object from retargeted code */
    void *const *arguments; /* values of its pointer parameters, `count` of them */
    int count;
    int64_t blocks;
    int threads, wave;      /* of a block (a multiple of wave, <= 1024); of a warp, 32 or 64 */
    int64_t shared;         /* bytes of on-chip memory */
    SimtOrder order;
    const SimtRegion *regions; /* may be NULL; an access that faults is told relative to the nearest one */
    int region_count;
} SimtLaunch;

/* Runs all blocks, one after the other, in the calling thread; several threads may call it at a time. False and a
 * message when the kernel broke a rule; then outputs are unspecified. Takes over SIGSEGV, SIGBUS, SIGFPE and SIGILL,
 * and hands on what does not come from a kernel. */
bool simt_launch(const SimtLaunch *launch, Err *err);

/* Address of a function that retargeted code calls ("simt_mma_bf16"), for the object loader; NULL: there is none. */
void *simt_symbol(const char *name);

#endif
