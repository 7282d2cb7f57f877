/* llvm.c - from a kernel to LLVM text, assembly or an object: module, verify, optimise, emit. One LLVM context a call,
 * so that many threads compile at once. llvm-c is used here and in target lowerings only. */
#include "gpu/emit.h"
#include "simt/retarget.h"

#include <llvm-c/Analysis.h>
#include <llvm-c/Core.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>
#include <llvm-c/Transforms/PassBuilder.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static void init_targets(void)
{
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    LLVMInitializeAArch64TargetInfo();
    LLVMInitializeAArch64Target();
    LLVMInitializeAArch64TargetMC();
    LLVMInitializeAArch64AsmPrinter();
    LLVMInitializeNVPTXTargetInfo();
    LLVMInitializeNVPTXTarget();
    LLVMInitializeNVPTXTargetMC();
    LLVMInitializeNVPTXAsmPrinter();
    LLVMInitializeAMDGPUTargetInfo();
    LLVMInitializeAMDGPUTarget();
    LLVMInitializeAMDGPUTargetMC();
    LLVMInitializeAMDGPUAsmPrinter();
    LLVMInitializeAMDGPUDisassembler();
}

static LLVMTargetMachineRef machine_new(const Target *t, LLVMCodeGenOptLevel level, Err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_targets);
    LLVMTargetRef target;
    char *message = NULL;
    if (LLVMGetTargetFromTriple(t->triple, &target, &message)) {
        err_set(err, "LLVM has no target %s: %s", t->triple, message);
        LLVMDisposeMessage(message);
        return NULL;
    }
    return LLVMCreateTargetMachine(target, t->triple, t->cpu, t->features, level, LLVMRelocPIC, LLVMCodeModelSmall);
}

static bool run_passes(const char *passes, LLVMModuleRef module, LLVMTargetMachineRef machine, Err *err)
{
    LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
    LLVMErrorRef e = LLVMRunPasses(module, passes, machine, options);
    LLVMDisposePassBuilderOptions(options);
    if (!e)
        return true;
    char *message = LLVMGetErrorMessage(e);
    err_set(err, "LLVM passes: %s", message);
    LLVMDisposeErrorMessage(message);
    return false;
}

/* Scalar clean-up and register promotion only: the lowering has already chosen vectors and unrolling. AMD's last pass notes
 * which of the launch's facts a kernel does not use, so that they take no registers. */
static bool optimise(const Target *t, LLVMModuleRef module, LLVMTargetMachineRef machine, Err *err)
{
    return run_passes(
        "function(sroa,early-cse<memssa>,instcombine<no-verify-fixpoint>,simplifycfg,"
        "loop-mssa(loop-simplifycfg,licm<allowspeculation>,loop-rotate<header-duplication>,licm<allowspeculation>),"
        "loop(indvars,loop-deletion),gvn,instcombine<no-verify-fixpoint>,adce,simplifycfg)", module, machine, err) &&
        (!t->gpu || t->gpu->nvidia || run_passes("amdgpu-attributor", module, machine, err));
}

static bool emit(LLVMModuleRef module, LLVMTargetMachineRef machine, EmitKind kind, Buf *out, Err *err)
{
    char *message = NULL;
    if (kind == EMIT_LLVM) {
        char *text = LLVMPrintModuleToString(module);
        buf_puts(out, text);
        LLVMDisposeMessage(text);
        return true;
    }
    LLVMMemoryBufferRef memory;
    if (LLVMTargetMachineEmitToMemoryBuffer(machine, module, kind == EMIT_ASM ? LLVMAssemblyFile : LLVMObjectFile, &message,
                                            &memory)) {
        err_set(err, "LLVM code generation: %s", message);
        LLVMDisposeMessage(message);
        return false;
    }
    buf_put(out, LLVMGetBufferStart(memory), LLVMGetBufferSize(memory));
    LLVMDisposeMemoryBuffer(memory);
    return true;
}

/* For a GPU: PTX under the right header, and what its own tools make of LLVM's output. */
static bool emit_gpu(const Kernel *k, const Target *t, LLVMModuleRef module, LLVMTargetMachineRef machine, EmitKind kind,
                     Buf *out, KernelInfo *info, Err *err)
{
    Buf code = {0};
    bool ok = emit(module, machine, t->gpu->nvidia ? EMIT_ASM : kind, &code, err);
    if (ok && kind == EMIT_OBJECT)
        ok = gpu_emit(k, t, &code, out, info, err);
    else if (ok)
        gpu_patch_header(t, &code, out);
    buf_free(&code);
    return ok;
}

/* For a simt target: the GPU's final module as code for this CPU, quickly made: it runs for as long as it takes threads to
 * meet. */
static bool emit_simt(LLVMModuleRef module, EmitKind kind, Buf *out, Err *err)
{
    const Target *host = target_find(SIMT_HOST, err);
    LLVMTargetMachineRef machine = host ? machine_new(host, LLVMCodeGenLevelNone, err) : NULL;
    LLVMModuleRef native = machine ? simt_retarget(module, machine, err) : NULL;
    bool ok = native && emit(native, machine, kind, out, err);
    if (native)
        LLVMDisposeModule(native);
    if (machine)
        LLVMDisposeTargetMachine(machine);
    return ok;
}

static bool build(const Kernel *k, const Target *t, LLVMModuleRef module, LLVMTargetMachineRef machine, EmitKind kind,
                  Buf *out, KernelInfo *info, Err *err)
{
    LLVMSetTarget(module, t->triple);
    LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(machine);
    LLVMSetModuleDataLayout(module, layout);
    LLVMDisposeTargetData(layout);
    if (!t->lower(k, t, module, info, err))
        return false;
    char *message = NULL;
    if (LLVMVerifyModule(module, LLVMReturnStatusAction, &message)) {
        err_set(err, "internal error, LLVM refuses the module of '%s': %s", k->name, message);
        LLVMDisposeMessage(message);
        return false;
    }
    LLVMDisposeMessage(message);
    if (!optimise(t, module, machine, err))
        return false;
    if (t->simt && kind != EMIT_LLVM)
        return emit_simt(module, kind, out, err);
    return t->gpu && kind != EMIT_LLVM ? emit_gpu(k, t, module, machine, kind, out, info, err)
                                       : emit(module, machine, kind, out, err);
}

bool llvm_compile(const Kernel *k, const Target *t, EmitKind kind, Buf *out, KernelInfo *info, Err *err)
{
    LLVMTargetMachineRef machine = machine_new(t, LLVMCodeGenLevelDefault, err);
    if (!machine)
        return false;
    LLVMContextRef context = LLVMContextCreate();
    LLVMModuleRef module = LLVMModuleCreateWithNameInContext(k->name, context);
    bool ok = build(k, t, module, machine, kind, out, info, err);
    LLVMDisposeModule(module);
    LLVMContextDispose(context);
    LLVMDisposeTargetMachine(machine);
    return ok;
}
