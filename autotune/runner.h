/* runner.h - runs the candidates of one case on a device: memory, launches, comparison of bits, and the clock. */
#ifndef BLADE_RUNNER_H
#define BLADE_RUNNER_H

#include "case.h"
#include "device.h"

typedef struct Runner Runner;

/* Allocates and fills the arguments; cold ones as often as it takes to exceed the last-level cache twice, and launches
 * walk through the copies. The device has loaded the pack's code and outlives the runner, as does the case. */
Runner *runner_new(Device *d, const CasePack *p, const Case *c, Err *err);
void runner_free(Runner *r); /* NULL is allowed */

/* Whether a candidate leaves the same bytes as the default in everything it may write, padding and what lies behind it
 * included; otherwise `why` says where they differ first. Serves as warm-up too. */
bool runner_same_bits(Runner *r, int workload, int candidate, char *why, size_t size);

/* Seconds of a launch, the mean of as many as take a fraction of a millisecond. A sample during which this process was
 * interrupted, or had less processor time than usual, is taken again, for some milliseconds at most; where most of a workload's
 * samples would be disturbed all the same, processor time divided by the number of threads is taken instead. */
double runner_sample(Runner *r, int workload, int candidate);

/* A limit of the machine by its name in the plan ("read": bytes, others: operations, a second); 0 when the pack has no
 * kernel for it. About 0.1 s. */
double runner_limit(Runner *r, const char *name);

#endif
