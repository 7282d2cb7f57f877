/* simt_code.h - for tests of the SIMT machine: kernels for GPUs as LLVM text become objects for this CPU. */
#ifndef BLADE_SIMT_CODE_H
#define BLADE_SIMT_CODE_H

#include "simt/retarget.h"

#include <llvm-c/Core.h>
#include <llvm-c/IRReader.h>
#include <llvm-c/Target.h>

static const char *const nvptx =
    "target datalayout = \"e-i64:64-i128:128-v16:16-v32:32-n16:32:64\"\n"
    "target triple = \"nvptx64-nvidia-cuda\"\n";
static const char *const amdgcn =
    "target datalayout = \"e-p:64:64-p1:64:64-p2:32:32-p3:32:32-p4:64:64-p5:32:32-p6:32:32-p7:160:256:256:32-"
    "p8:128:128-p9:192:256:256:32-i64:64-v16:16-v24:32-v32:32-v48:64-v96:128-v192:256-v256:256-v512:512-v1024:1024-"
    "v2048:2048-n32:64-S32-A5-G1-ni:7:8:9\"\n"
    "target triple = \"amdgcn-amd-amdhsa\"\n";

static inline LLVMTargetMachineRef host_machine(void)
{
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    LLVMTargetRef target;
    char *message = NULL;
    if (LLVMGetTargetFromTriple("x86_64-pc-linux-gnu", &target, &message))
        fail_msg("%s", message);
    return LLVMCreateTargetMachine(target, "x86_64-pc-linux-gnu", SIMT_HOST, "", LLVMCodeGenLevelDefault, LLVMRelocPIC,
                                   LLVMCodeModelSmall);
}

/* An ELF object of a kernel's text; with an edit: the one occurrence of `from` replaced by `to`. */
static inline bool compile(const char *head, const char *body, const char *from, const char *to, Buf *object, Err *err)
{
    Buf text = {0};
    const char *at = from ? strstr(body, from) : NULL;
    assert_true(!from || (at && !strstr(at + 1, from)));
    buf_puts(&text, head);
    buf_put(&text, body, at ? (size_t)(at - body) : strlen(body));
    if (at)
        buf_printf(&text, "%s%s", to, at + strlen(from));
    LLVMContextRef context = LLVMContextCreate();
    LLVMMemoryBufferRef memory = LLVMCreateMemoryBufferWithMemoryRangeCopy(text.data, text.len, "test");
    LLVMModuleRef module;
    char *message = NULL;
    if (LLVMParseIRInContext(context, memory, &module, &message))
        fail_msg("%s", message);
    LLVMTargetMachineRef machine = host_machine();
    LLVMModuleRef native = simt_retarget(module, machine, err);
    if (native) {
        if (LLVMTargetMachineEmitToMemoryBuffer(machine, native, LLVMObjectFile, &message, &memory))
            fail_msg("%s", message);
        buf_put(object, LLVMGetBufferStart(memory), LLVMGetBufferSize(memory));
        LLVMDisposeMemoryBuffer(memory);
        LLVMDisposeModule(native);
    }
    LLVMDisposeTargetMachine(machine);
    LLVMDisposeModule(module);
    LLVMContextDispose(context);
    buf_free(&text);
    return native != NULL;
}
#endif
