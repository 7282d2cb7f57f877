/* lower.c - tile IR to LLVM IR for GPUs. */
#include "../target.h"

bool gpu_lower(const Kernel *k, const Target *t, LLVMModuleRef module, KernelInfo *info, Err *err)
{
    (void)k, (void)module, (void)info;
    return err_set(err, "no lowering for %s yet", t->name);
}
