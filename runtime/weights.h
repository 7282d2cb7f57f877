/* weights.h - fills the weights of an executor: by the plan's load steps from a checkpoint, or with random numbers. */
#ifndef BLADE_WEIGHTS_H
#define BLADE_WEIGHTS_H

#include "checkpoint.h"
#include "exec.h"

typedef void WeightsProgress(void *context, const char *what, int64_t done, int64_t total);

/* Points mapped buffers into the checkpoint (which must outlive the executor), runs the load steps in order, and makes
 * the executor ready. A tensor that is missing, or is not of the type, shape or size that the plan was made for, is an
 * error that names it. `progress` may be NULL. */
bool weights_load(Exec *e, const Checkpoint *c, WeightsProgress *progress, void *context, Err *err);

/* Fills weights and mapped buffers with random numbers as the plan's "fill" says; the same for the same plan. */
bool weights_random(Exec *e, WeightsProgress *progress, void *context, Err *err);

/* Bytes of mapped buffers that weights_load allocates and copies, because a tensor lies unaligned in its file, and of
 * those it uses in place. With a NULL checkpoint: what weights_random allocates, which is all of them. */
void weights_mapped(const Plan *p, const Checkpoint *c, int64_t *copied, int64_t *in_place);

/* Bytes of the checkpoint that a device with a memory of its own holds at a time while loading, beside the plan's
 * buffers: the tensors of one load step. */
int64_t weights_copied_at_once(const Plan *p, const Checkpoint *c);

#endif
