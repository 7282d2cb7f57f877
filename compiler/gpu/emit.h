/* emit.h - from what LLVM makes of a GPU's kernel to what a pack holds, with the vendor's tools in child processes, and
 * the gates: figures of the code and what it must not do. */
#ifndef BLADE_GPU_EMIT_H
#define BLADE_GPU_EMIT_H

#include "../target.h"
#include <elf.h>

/* ---- emit.c ----------------------------------------------------------------------------------------------------- */

/* NVIDIA: PTX -> a cubin by ptxas; where there is no ptxas that knows the target, the PTX itself with a NUL behind
 * it, for the driver to compile. AMD: an object -> a code object by ld.lld. Sets the figures in `info` and passes
 * the gates. */
bool gpu_emit(const Kernel *k, const Target *t, const Buf *from, Buf *out, KernelInfo *info, Err *err);

/* PTX for t->gpu->header instead of the processor that LLVM took it for; unchanged where there is no header. */
void gpu_patch_header(const Target *t, const Buf *ptx, Buf *out);

/* The instructions of what gpu_emit made, as text: SASS by nvdisasm, GCN by LLVM. */
bool gpu_disassemble(const Target *t, const Buf *code, Buf *out, Err *err);

/* What identifies the tools that gpu_emit would use, for keys of caches. */
void gpu_tools(const Target *t, Buf *out);

/* ---- gates.c ---------------------------------------------------------------------------------------------------- */

/* Reads what `ptxas -v` said of the one kernel of a cubin, or the metadata of AMD's code object; then refuses
 * spills, memory on a stack, and code that is known to be slow or wrong, unless the schedule accepts it
 * (Kernel.accepts). Messages name kernel and settings. */
bool gate_nvidia(const Kernel *k, const Target *t, const char *log, KernelInfo *info, Err *err);
bool gate_ptx(const Kernel *k, const Target *t, const char *ptx, KernelInfo *info, Err *err); /* stacks only */
bool gate_amd(const Kernel *k, const Target *t, const Buf *code, KernelInfo *info, Err *err);

/* The first section of an ELF file from number *at on whose contents lie inside the file; *at moves behind it. False when
 * there is none, or for other files. */
bool code_section(const Buf *code, int *at, Elf64_Shdr *s);

/* Refuses a disassembly in which a barrier comes before the wait for copies into on-chip memory. */
bool gate_amd_waits(const char *assembly, Err *err);

/* ---- occupancy.c ------------------------------------------------------------------------------------------------ */

/* Blocks that a multiprocessor holds, and by what that is limited: "threads", "registers", "shared", "blocks"; 0
 * and "" when the registers are not known. */
int gpu_occupancy(const Target *t, const KernelInfo *info, const char **limit);

/* One row of `bladegen show --stage resources`, with its heading. */
void gpu_resources(const Kernel *k, const Target *t, const KernelInfo *info, size_t bytes, Buf *out);

#endif
