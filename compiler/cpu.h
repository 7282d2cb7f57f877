/* cpu.h - which of the host targets this machine runs. Targets are named in packs and on command lines; each stands
 * for a set of instructions that the operating system must have enabled as well. */
#ifndef BLADE_CPU_H
#define BLADE_CPU_H

#include "base.h"

/* True when every instruction of the target may be used here; otherwise a message that names what is missing. */
bool cpu_runs(const char *target, Err *err);

/* 0 for the best of all targets, more for others; -1 for one that this machine does not run. */
int cpu_rank(const char *target);

/* The best target that this machine runs: "x86-64-v4-bf16", "x86-64-v4", "x86-64-v3", "x86-64" or "aarch64". */
const char *cpu_best(void);

/* Name of this machine for results of tuning: the processor's model and the number of its cores, rounded up to a power
 * of two; letters, digits and dashes, e.g. "amd-epyc-9354p-f25m17-32c". */
enum { CPU_DEVICE_BYTES = 128 };
void cpu_device(char out[CPU_DEVICE_BYTES]);

/* Appends `text` to such a name of less than `size` bytes: "NVIDIA H200" is "nvidia-h200". */
void device_slug(char *out, size_t size, const char *text);

#endif
