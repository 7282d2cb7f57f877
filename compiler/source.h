/* source.h - bodies of kernels in CUDA and HIP (External in ir.h; templates/device), compiled by NVRTC or HIPRTC:
 * libraries that are there on some machines, and looked for when they are needed. */
#ifndef BLADE_SOURCE_H
#define BLADE_SOURCE_H

#include "target.h"

/* Is there a compiler for source bodies, and does it know the target? Never for CPUs and simt targets. `why` (may
 * be NULL) says why not; empty where nobody would expect one. */
bool source_compiler_for(const Target *t, Buf *why);

/* Compiles k->external into a cubin or code object that passes the gates. A compiler that is missing, fails, hangs
 * or crashes is a message. */
bool source_compile(const Kernel *k, const Target *t, Buf *out, KernelInfo *info, Err *err);

extern double source_seconds; /* that a compiler may take; tests make it short */

/* What the code of k->external is made from besides the kernel: text, options, compiler; for keys of caches. */
void source_key(const Kernel *k, const Target *t, Buf *out);

#endif
