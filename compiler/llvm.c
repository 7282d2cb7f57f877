/* llvm.c - from a kernel to LLVM text, assembly or an object: module, verify, optimise, emit. One LLVM context a call,
 * so that many threads compile at once. llvm-c is used here and in target lowerings only. */
#include "target.h"

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
}

static LLVMTargetMachineRef machine_new(const Target *t, Err *err)
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
    return LLVMCreateTargetMachine(target, t->triple, t->cpu, t->features, LLVMCodeGenLevelDefault, LLVMRelocPIC,
                                   LLVMCodeModelSmall);
}

/* Scalar clean-up and register promotion only: the lowering has already chosen vectors and unrolling. */
static bool optimise(LLVMModuleRef module, LLVMTargetMachineRef machine, Err *err)
{
    LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
    LLVMErrorRef e = LLVMRunPasses(module,
        "function(sroa,early-cse<memssa>,instcombine<no-verify-fixpoint>,simplifycfg,"
        "loop-mssa(loop-simplifycfg,licm<allowspeculation>,loop-rotate<header-duplication>,licm<allowspeculation>),"
        "loop(indvars,loop-deletion),gvn,instcombine<no-verify-fixpoint>,adce,simplifycfg)", machine, options);
    LLVMDisposePassBuilderOptions(options);
    if (!e)
        return true;
    char *message = LLVMGetErrorMessage(e);
    err_set(err, "LLVM passes: %s", message);
    LLVMDisposeErrorMessage(message);
    return false;
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
    return optimise(module, machine, err) && emit(module, machine, kind, out, err);
}

bool llvm_compile(const Kernel *k, const Target *t, EmitKind kind, Buf *out, KernelInfo *info, Err *err)
{
    LLVMTargetMachineRef machine = machine_new(t, err);
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
