/* retarget.h - makes an optimised module for a GPU into one for this CPU, for the SIMT machine (simt.h). */
#ifndef BLADE_RETARGET_H
#define BLADE_RETARGET_H

#include "../target.h"
#include <llvm-c/TargetMachine.h>

/* The host target whose instructions the SIMT machine's code uses: fused multiply-add and half floats; any PC since
 * 2013. */
#define SIMT_HOST "x86-64-v3"

/* A new module, in the same context, for `machine`: other triple and data layout, one address space; every intrinsic of
 * the GPU becomes a call of a simt_ function, on-chip memory a pointer that simt_shared gives, and an access at an
 * address that is not a multiple of its declared alignment faults. The function "kernel" keeps its parameters, pointers
 * all. No optimisation may run on the result: calls that threads must make together could part. NULL and a message for
 * inline assembly and intrinsics that simt/ does not know. `module` is unchanged but for names. */
LLVMModuleRef simt_retarget(LLVMModuleRef module, LLVMTargetMachineRef machine, Err *err);

#endif
