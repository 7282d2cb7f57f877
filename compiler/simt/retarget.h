/* retarget.h - makes an optimised module for a GPU into one for this CPU, for the SIMT machine (simt.h). */
#ifndef BLADE_RETARGET_H
#define BLADE_RETARGET_H

#include "../target.h"

/* Changes triple, data layout, address spaces and calling convention; every intrinsic of the GPU becomes a call of a simt_
 * function. The function "kernel" keeps its parameters, pointers all. No optimisation may run on the module afterwards. An
 * intrinsic that simt/ does not know is an error that names it. `machine` is the host's. */
bool simt_retarget(LLVMModuleRef module, const Target *t, Err *err);

#endif
