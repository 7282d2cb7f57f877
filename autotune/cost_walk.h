/* cost_walk.h - private to cost.c and cost_gpu.c: a walk over the IR of one block of a kernel, counting. */
#ifndef BLADE_COST_WALK_H
#define BLADE_COST_WALK_H

#include "cost.h"

typedef struct Touch { /* an argument that is read from memory */
    double distinct, total, prefetched; /* bytes of a block: touched once, with repetitions, asked for ahead */
    double argument;                    /* bytes of the whole */
} Touch;

typedef struct GpuCounts { /* sums over the blocks looked at */
    double blocks;
    double matrix, lanes, shared; /* cycles that a multiprocessor's matrix units, lanes, on-chip memory are busy */
    double cold[COST_ARGS];       /* bytes of arguments that come from memory */
    double near;                  /* bytes of others */
    double turns;                 /* of loops that copy to on-chip memory */
    int stages;                   /* of the last of these */
} GpuCounts;

typedef struct Walk {
    const Kernel *k;
    const Target *t;
    const CostInput *in;
    int64_t *value;    /* by Ref: of integer scalars */
    bool *known;
    uint64_t *depends; /* by Ref: a bit for each loop, by depth */
    double trips[MAX_DEPTH + 1], times[MAX_DEPTH + 1];
    int stages[MAX_DEPTH + 1]; /* of the loop around, 1 outside of loops */
    bool copies[MAX_DEPTH + 1]; /* a copy was met in this region */
    int depth;
    double cycles;
    Touch touch[COST_ARGS];
    GpuCounts gpu; /* of a GPU's kernel: of all blocks looked at */
} Walk;

/* Memory that a view is of. */
const Memory *cost_memory(const Walk *w, Ref view);

/* cost_gpu.c: counts an instruction that is met; and the seconds that the counts add up to. */
void cost_gpu_count(Walk *w, Ref r);
double cost_gpu_seconds(const Walk *w, double blocks);

#endif
