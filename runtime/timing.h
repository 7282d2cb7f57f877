/* timing.h - where the time of a start goes, for --timing: phases of this process, one after the other.
 *
 * A process starts once, so there is one clock. Unless timing_wanted is set nothing is noted; then the phases must not
 * end in two threads at once. */
#ifndef BLADE_TIMING_H
#define BLADE_TIMING_H

#include "base.h"

extern bool timing_wanted; /* the flag --timing; set before the first phase ends */

void timing_begin(void); /* main has been entered */

/* Ends a phase, which began when the one before ended. `bytes`: what it read, 0 when that means nothing. `name` lives
 * on. */
void timing_phase(const char *name, int64_t bytes);

/* Prints the phases that ended since the last call, one line each, and the time since timing_begin as `total`, to
 * standard error; in milliseconds. */
void timing_print(const char *total);

#endif
