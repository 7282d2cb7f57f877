/* cpu.h - which of the host targets this machine runs. Targets are named in packs and on command lines; each stands
 * for a set of instructions that the operating system must have enabled as well. */
#ifndef BLADE_CPU_H
#define BLADE_CPU_H

#include "base.h"

/* True when every instruction of the target may be used here; otherwise a message that names what is missing. */
bool cpu_runs(const char *target, Err *err);

/* The best target that this machine runs: "x86-64-v4-bf16", "x86-64-v4", "x86-64-v3", "x86-64" or "aarch64". */
const char *cpu_best(void);

#endif
