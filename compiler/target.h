/* target.h - what the passes and the lowering ask of a target: plain data, one const struct each. */
#ifndef BLADE_TARGET_H
#define BLADE_TARGET_H

#include "ir.h"
#include <llvm-c/Types.h>

typedef struct Target Target;
struct Target {
    const char *name;     /* as users write it */
    const char *family;   /* folder of schedules: "host" */
    const char *triple, *cpu, *features; /* for LLVM */
    int vector_bits;      /* width of a vector register */
    int vector_registers;
    bool x86;             /* x86 intrinsics may be used */
    bool fma, f16c;       /* fused multiply-add; half <-> float conversion */
    bool round;           /* rounding to whole numbers is an instruction */
    bool vnni;            /* vpdpbusd on 512 bits */
    bool bf16_dot;        /* vdpbf16ps on 512 bits */
    /* Adds a function `kernel` to the module; *scratch_bytes is what one thread needs. */
    bool (*lower)(const Kernel *k, const Target *t, LLVMModuleRef module, int64_t *scratch_bytes, Err *err);
};

const Target *target_find(const char *name, Err *err); /* "host" means the best one this CPU runs */
const Target *target_at(int i);                        /* NULL after the last */
bool target_runs_here(const Target *t);

/* host/lower.c */
bool host_lower(const Kernel *k, const Target *t, LLVMModuleRef module, int64_t *scratch_bytes, Err *err);

/* llvm.c: verifies, optimises and emits. */
typedef enum EmitKind { EMIT_LLVM, EMIT_ASM, EMIT_OBJECT } EmitKind;
bool llvm_compile(const Kernel *k, const Target *t, EmitKind kind, Buf *out, int64_t *scratch_bytes, Err *err);

#endif
