/* verify.h - executing a kernel on this machine, for `bladegen check`. */
#ifndef BLADE_VERIFY_H
#define BLADE_VERIFY_H

#include "target.h"

/* Value of a scalar built from constants and sizes. */
int64_t ir_eval(const Kernel *k, Ref r, const int64_t *sizes);
int64_t kernel_blocks(const Kernel *k, const int64_t *sizes);

/* Runs all blocks of a kernel from its object file, in one thread; a simt target's on the SIMT machine. */
bool verify_object(const Kernel *k, const Target *t, const void *object, size_t size, const KernelInfo *info,
                   void **buffers, const int64_t *sizes, Err *err);

/* A RunKernel (generator.h); `context` is the Target. */
bool verify_run(void *context, const Kernel *k, void **buffers, const int64_t *sizes, Err *err);

#endif
