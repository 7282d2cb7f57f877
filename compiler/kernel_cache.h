/* kernel_cache.h - compiled kernels kept between builds, so that a kernel that models share, or that an edit left alone,
 * is compiled once.
 *
 * A folder with a file a kernel, in the form of a pack (pack.h): its code, and in place of the plan everything that the
 * code was made from: the generator's build, the target, the vendor's tools, and the kernel's IR with its settings as
 * text. That text is compared, not only its hash, so a wrong hit can't happen; a damaged file is a miss. Files appear
 * whole, so processes may share the folder and die at any time.
 */
#ifndef BLADE_KERNEL_CACHE_H
#define BLADE_KERNEL_CACHE_H

#include "compile.h"

/* Looks the kernel up, else compiles it and keeps it where the folder can be written. `folder` NULL: compiles. A source body
 * (Kernel.external) that can't be compiled gives a warning and the code of the kernel's instructions. Any
 * number of threads may do so at once. */
bool kernel_cache_compile(const char *folder, const Kernel *k, const Target *t, CompiledKernel *out, Err *err);

/* Deletes what was not used for three months, and temporary files that a killed process left behind. */
void kernel_cache_prune(const char *folder);

#endif
