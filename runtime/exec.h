/* exec.h - a plan at work on a device: its buffers, its code, and the runs of its launch lists.
 *
 * On a device with a memory of its own, inputs and outputs have a mirror in the host's memory: a run copies what the
 * step uses of the inputs first, and what the caller will read of the outputs last. Steps that only decode are
 * recorded once for each bucket of token counts and replayed: with grids for the most that the bucket allows, since
 * kernels take the real sizes from memory and blocks beyond them return at once.
 */
#ifndef BLADE_EXEC_H
#define BLADE_EXEC_H

#include "device.h"

typedef struct Exec Exec;

/* Loads the code and allocates every buffer for these capacities, mapped tensors excepted. The plan
 * and the device must outlive it; the code is copied. */
Exec *exec_new(const Plan *p, const uint8_t *code, Device *d, const int64_t caps[SIZE_COUNT], Err *err);
void exec_free(Exec *e); /* NULL is allowed */

const Plan *exec_plan(const Exec *e);
Device *exec_device(const Exec *e);

void *exec_buffer(const Exec *e, int buffer); /* its address on the device; NULL for a mapped one without address */
void *exec_input(const Exec *e, int buffer, int set); /* of an input in this set (plan.h); of others as above */
void *exec_host(const Exec *e, int buffer, int set);  /* where the host writes that input, or reads that output */
int64_t exec_buffer_bytes(const Exec *e, int buffer);
void exec_set_mapped(Exec *e, int buffer, void *address); /* gives a mapped buffer its address */
bool exec_own_mapped(Exec *e, int buffer, Err *err);      /* allocates it instead */

/* Ends loading: frees the temporaries and resolves all launches. Every mapped buffer has an address by now. */
bool exec_ready(Exec *e, Err *err);

typedef struct ExecRun {
    int set;     /* of inputs */
    int step;    /* launch list among the plan's steps; -1: none */
    bool sample; /* then run sampling */
    bool logits; /* the host will read them */
} ExecRun;

/* Begins to run with sizes none of which is above its capacity. What was begun runs in order; the sizes are copied;
 * no allocation, no system call but to wake a thread and what a GPU's driver makes. A set may be used again after
 * exec_wait. */
void exec_start(Exec *e, const ExecRun *run, const int64_t sizes[SIZE_COUNT]);
/* Until all is done; false and a message when the device has failed, now or before: then outputs mean nothing. */
bool exec_wait(Exec *e, Err *err);

/* One launch with `count` explicit arguments, finished on return: load steps, limit kernels. */
bool exec_run_once(Exec *e, int kernel, void *const *buffers, int count, const int64_t sizes[SIZE_COUNT],
                   int64_t blocks, Err *err);

void exec_set_graphs(Exec *e, bool wanted); /* false: steps are never recorded */

/* From now on the runs add the seconds of each launch to seconds[kernel]; NULL ends it. Waits after every launch. */
void exec_set_profile(Exec *e, double *seconds);

void exec_zero_page(Exec *e, int64_t page); /* in every kv buffer */

#endif
