/* target.h - what the passes and the lowering ask of a target: plain data, one const struct each. */
#ifndef BLADE_TARGET_H
#define BLADE_TARGET_H

#include "ir.h"
#include <llvm-c/Types.h>

/* What is known of a kernel besides its code. */
typedef struct KernelInfo {
    int64_t scratch; /* CPU: bytes of memory that a thread needs */
    int threads;     /* GPU: of a block; 0 on a CPU */
    int64_t shared;  /* GPU: bytes of on-chip memory of a block */
    /* What the GPU's own tools say (gpu/gates.c); 0 where they weren't asked: on CPUs, for simt targets, PTX without ptxas */
    int registers;   /* of a thread, accumulation registers included */
    int spills;      /* bytes of registers that a thread stores elsewhere */
    int stack;       /* bytes of memory of its own that a thread has, spills included */
    int occupancy;   /* blocks that a multiprocessor (compute unit) holds at once */
} KernelInfo;

/* Instructions that multiply matrices, by family; gemm.c of gpu/ knows their shapes. */
typedef enum MatrixUnit {
    MATRIX_MMA,  /* NVIDIA mma.sync m16n8k16 bf16, m16n8k32 s8 (sm_80 and up) */
    MATRIX_MFMA, /* AMD 16x16x16 bf16_1k; s8 16x16x16, from gfx942 on 16x16x32 (CDNA, 64 threads a wave) */
    MATRIX_WMMA, /* AMD 16x16x16 bf16 and iu8 (RDNA3, 32 threads a wave) */
} MatrixUnit;

typedef struct Gpu {
    bool nvidia;
    MatrixUnit matrix;
    int wave;       /* threads of a warp */
    int max_warps;  /* of a block */
    int shared;     /* most bytes of on-chip memory that a block may have */
    int stages;     /* pipelined loops: copies may run so many stages ahead; 1: staged through registers */
    int k_bytes;    /* MFMA of 8-bit integers: bytes of K that a thread holds, 4 or 8 */
    const char *header; /* NVIDIA, where LLVM 19 knows no such CPU: replaces the .target line; else NULL */
} Gpu;

/* Mistakes that tests ask the lowering to make, to see that the SIMT machine notices each. */
typedef enum GpuFault {
    GPU_FAULT_NONE,
    GPU_FAULT_BARRIER, /* no barrier anywhere */
    GPU_FAULT_WAIT,    /* a wait that lets one group of copies more be under way */
    GPU_FAULT_ROWS,    /* neighbouring rows of A change places in a matrix unit's fragment */
    GPU_FAULT_MASK,    /* loads without a mask at the edge */
    GPU_FAULT_COPY,    /* the last copy of a turn is left out: on-chip memory is read that nothing wrote */
    GPU_FAULT_PAST,    /* loads from global memory reach a row too far */
    GPU_FAULTS
} GpuFault;

typedef struct Target Target;
struct Target {
    const char *name;     /* as users write it */
    const char *family;   /* folder of schedules: "host", "gpu" */
    const char *triple, *cpu, *features; /* for LLVM */
    const Gpu *gpu;       /* NULL for a CPU; then what follows counts */
    bool simt;            /* a GPU's code, run by this CPU (simt/) */
    GpuFault fault;       /* for tests */
    int vector_bits;      /* width of a vector register */
    int vector_registers;
    bool x86;             /* x86 intrinsics may be used */
    bool fma, f16c;       /* fused multiply-add; half <-> float conversion */
    bool round;           /* rounding to whole numbers is an instruction */
    bool vnni;            /* vpdpbusd on 512 bits */
    bool bf16_dot;        /* vdpbf16ps on 512 bits */
    /* Adds a function `kernel` to the module. */
    bool (*lower)(const Kernel *k, const Target *t, LLVMModuleRef module, KernelInfo *info, Err *err);
};

const Target *target_find(const char *name, Err *err); /* "host" means the best one this CPU runs */
const Target *target_at(int i);                        /* NULL after the last */
bool target_runs_here(const Target *t);

/* host/lower.c: void kernel(void **buffers, int64 *sizes, int64 begin, int64 end, void *scratch), see pack.h. */
bool host_lower(const Kernel *k, const Target *t, LLVMModuleRef module, KernelInfo *info, Err *err);
/* gpu/lower.c: void kernel(T *buffer0, ..., T *bufferN, const int64 *sizes), all of them in the device's memory, at
 * multiples of 16 bytes but for tensors of a checkpoint. Launched as a line of blocks of info->threads threads; blocks beyond
 * the grid that follows from the sizes return at once, so that a captured launch may have too many. */
bool gpu_lower(const Kernel *k, const Target *t, LLVMModuleRef module, KernelInfo *info, Err *err);
const Target *gpu_target_at(int i); /* gpu/target.c; NULL after the last */

/* llvm.c: verifies, optimises and emits. EMIT_OBJECT is what a pack holds: an ELF object for a CPU and for simt targets, PTX or a
 * cubin for NVIDIA, a code object for AMD. */
typedef enum EmitKind { EMIT_LLVM, EMIT_ASM, EMIT_OBJECT } EmitKind;
bool llvm_compile(const Kernel *k, const Target *t, EmitKind kind, Buf *out, KernelInfo *info, Err *err);

#endif
