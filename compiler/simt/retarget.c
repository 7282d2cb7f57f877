/* retarget.c - GPU module to CPU module; see retarget.h. Address spaces are part of types, which nothing changes in
 * place: they go in the module's text, which is read back; the rest is done on the new module. */
#include "retarget.h"

#include <llvm-c/Analysis.h>
#include <llvm-c/Core.h>
#include <llvm-c/IRReader.h>
#include <stdlib.h>
#include <string.h>

typedef LLVMValueRef V;

typedef enum Convention { CALL, MEET, PACK, PACK_MEET } Convention; /* machine.h */

typedef struct Shim {
    Convention convention;
    const char *function, *intrinsic;
} Shim;

static const Shim shims[] = {
#define SHIM(convention, function, intrinsic) {convention, "simt_" #function, intrinsic},
#include "shims.inc"
};

/* Intrinsics that order or schedule instructions; nothing is left of them. */
static const char *const dropped[] = {
    "nvvm.membar.cta", "nvvm.membar.gl", "nvvm.membar.sys", "amdgcn.s.waitcnt", "amdgcn.sched.barrier",
    "amdgcn.sched.group.barrier", "amdgcn.s.setprio", "amdgcn.s.sleep", "amdgcn.iglp.opt",
};

enum { MAX_SHARED = 16, SHARED_ALIGN = 128, PACK_BYTES = 256, MAX_OPERANDS_OF_CALL = 16 };

typedef struct Shared { /* variables in on-chip memory */
    char *name;
    uint64_t offset;
} Shared;

typedef struct Retarget {
    LLVMContextRef context;
    LLVMModuleRef module;
    LLVMBuilderRef b, entry; /* where an instruction is rewritten; at the beginning of the function */
    LLVMTargetDataRef layout;
    LLVMTypeRef i8, i32, i64, ptr;
    Shared shared[MAX_SHARED];
    int shared_count, sites;
    uint64_t shared_bytes;
    V on_chip, out, in; /* of the function at hand, NULL until needed */
    Err *err;
} Retarget;

static bool starts(const char *s, const char *prefix)
{
    return !strncmp(s, prefix, strlen(prefix));
}

static V i64_of(const Retarget *r, uint64_t v)
{
    return LLVMConstInt(r->i64, v, false);
}

/* ---- through the text ----------------------------------------------------------------------------------------- */

/* Gives every variable in on-chip memory its place; a dynamic one, [0 x i8], begins after the others. */
static bool place_shared(Retarget *r, LLVMModuleRef module, LLVMTargetDataRef layout)
{
    for (int dynamic = 0; dynamic < 2; dynamic++)
        for (V g = LLVMGetFirstGlobal(module); g; g = LLVMGetNextGlobal(g)) {
            uint64_t size = LLVMABISizeOfType(layout, LLVMGlobalGetValueType(g));
            if (LLVMGetPointerAddressSpace(LLVMTypeOf(g)) != 3 || (size == 0) != dynamic)
                continue;
            if (r->shared_count == MAX_SHARED || LLVMGetAlignment(g) > SHARED_ALIGN)
                return err_set(r->err, "more than %d variables in on-chip memory, or one aligned to more than %d bytes",
                               MAX_SHARED, SHARED_ALIGN);
            uint64_t align = MAX(LLVMGetAlignment(g), 1u), at = (r->shared_bytes + align - 1) / align * align;
            size_t len;
            if (!*LLVMGetValueName2(g, &len))
                LLVMSetValueName2(g, "on_chip", 7);
            r->shared[r->shared_count++] = (Shared){xstrdup(LLVMGetValueName2(g, &len)), at};
            r->shared_bytes = at + size;
        }
    return true;
}

/* Length of `addrspace(N)` with what separates it from what comes before, if s begins with that. */
static size_t address_space(const char *s)
{
    size_t n = starts(s, ", addrspace(") ? 12 : starts(s, " addrspace(") ? 11 : 0;
    size_t digits = n ? strspn(s + n, "0123456789") : 0;
    return digits && s[n + digits] == ')' ? n + digits + 1 : 0;
}

/* The text without address spaces, layout and triple; the GPU's intrinsics get names that LLVM does not know. */
static void rewrite_text(const char *s, Buf *out)
{
    static const struct {
        const char *from, *to;
    } words[] = {{"addrspacecast", "bitcast"}, {"@llvm.nvvm.", "@gpu.nvvm."}, {"@llvm.amdgcn.", "@gpu.amdgcn."}};
    while (*s) {
        size_t plain = strcspn(s, " ,\na@"), w = 0; /* nothing that is looked for begins otherwise */
        buf_put(out, s, plain);
        s += plain;
        size_t skip = address_space(s);
        bool line = s[0] == '\n' && (starts(s + 1, "target datalayout") || starts(s + 1, "target triple"));
        if (line)
            skip = 1 + strcspn(s + 1, "\n");
        while (!skip && w < COUNT(words) && !starts(s, words[w].from))
            w++;
        if (skip) {
            s += skip;
        } else if (w < COUNT(words)) {
            buf_puts(out, words[w].to);
            s += strlen(words[w].from);
        } else if (*s) {
            buf_putc(out, *s++);
        }
    }
}

static bool read_back(Retarget *r, LLVMModuleRef module, LLVMTargetMachineRef machine)
{
    char *layout = LLVMCopyStringRepOfTargetData(r->layout), *triple = LLVMGetTargetMachineTriple(machine);
    char *before = LLVMPrintModuleToString(module), *message = NULL;
    Buf text = {0};
    buf_printf(&text, "target datalayout = \"%s\"\ntarget triple = \"%s\"\n", layout, triple);
    rewrite_text(before, &text);
    LLVMMemoryBufferRef memory = LLVMCreateMemoryBufferWithMemoryRangeCopy(text.data, text.len, "simt");
    bool ok = !LLVMParseIRInContext(r->context, memory, &r->module, &message);
    if (!ok) {
        err_set(r->err, "internal error, retargeted text: %s", message);
        LLVMDisposeMessage(message);
    }
    buf_free(&text);
    LLVMDisposeMessage(before);
    LLVMDisposeMessage(triple);
    LLVMDisposeMessage(layout);
    return ok;
}

/* ---- functions ------------------------------------------------------------------------------------------------ */

static void drop_attributes(V f, LLVMAttributeIndex at, bool strings_only)
{
    LLVMAttributeRef all[64];
    unsigned n = LLVMGetAttributeCountAtIndex(f, at);
    if (n > COUNT(all))
        return;
    LLVMGetAttributesAtIndex(f, at, all);
    for (unsigned i = 0; i < n; i++) {
        unsigned len;
        if (LLVMIsStringAttribute(all[i])) {
            const char *name = LLVMGetStringAttributeKind(all[i], &len);
            LLVMRemoveStringAttributeAtIndex(f, at, name, len);
        } else if (!strings_only) {
            LLVMRemoveEnumAttributeAtIndex(f, at, LLVMGetEnumAttributeKind(all[i]));
        }
    }
}

/* The CPU's calling convention; no promises about parameters, which code generation would believe; big frames are
 * touched page by page, so that they cannot step over the pages that guard a stack. */
static void plain_function(const Retarget *r, V f)
{
    LLVMSetFunctionCallConv(f, LLVMCCallConv);
    drop_attributes(f, LLVMAttributeFunctionIndex, true);
    if (LLVMGetFirstBasicBlock(f))
        LLVMAddAttributeAtIndex(f, LLVMAttributeFunctionIndex,
                                LLVMCreateStringAttribute(r->context, "probe-stack", 11, "inline-asm", 10));
    for (unsigned i = 0; i <= LLVMCountParams(f) && !LLVMGetIntrinsicID(f); i++)
        drop_attributes(f, i, false);
}

static LLVMAttributeRef attribute(const Retarget *r, const char *name)
{
    return LLVMCreateEnumAttribute(r->context, LLVMGetEnumAttributeKindForName(name, strlen(name)), 0);
}

static V declare(const Retarget *r, const char *name, LLVMTypeRef type)
{
    V f = LLVMGetNamedFunction(r->module, name);
    if (f)
        return f;
    f = LLVMAddFunction(r->module, name, type);
    LLVMAddAttributeAtIndex(f, LLVMAttributeFunctionIndex, attribute(r, "convergent"));
    LLVMAddAttributeAtIndex(f, LLVMAttributeFunctionIndex, attribute(r, "nounwind"));
    return f;
}

static void at_entry(const Retarget *r, V f)
{
    LLVMBasicBlockRef entry = LLVMGetEntryBasicBlock(f);
    LLVMPositionBuilder(r->entry, entry, LLVMGetFirstInstruction(entry));
}

/* ---- on-chip memory ------------------------------------------------------------------------------------------- */

static const Shared *find_shared(const Retarget *r, V v)
{
    size_t len;
    const char *name = LLVMIsAGlobalVariable(v) ? LLVMGetValueName2(v, &len) : NULL;
    for (int i = 0; name && i < r->shared_count; i++)
        if (!strcmp(r->shared[i].name, name))
            return &r->shared[i];
    return NULL;
}

static bool uses_shared(const Retarget *r, V v)
{
    if (find_shared(r, v))
        return true;
    bool any = false;
    for (int i = 0; LLVMIsAConstant(v) && !LLVMIsAGlobalValue(v) && !any && i < LLVMGetNumOperands(v); i++)
        any = uses_shared(r, LLVMGetOperand(v, (unsigned)i));
    return any;
}

static V on_chip(Retarget *r, V function)
{
    if (!r->on_chip) {
        LLVMTypeRef type = LLVMFunctionType(r->ptr, &r->i64, 1, false);
        V bytes = i64_of(r, r->shared_bytes);
        at_entry(r, function);
        r->on_chip = LLVMBuildCall2(r->entry, type, declare(r, "simt_shared", type), &bytes, 1, "");
    }
    return r->on_chip;
}

/* Instructions that compute a constant in which a variable of on-chip memory occurs; NULL and a message otherwise. */
static V expand(Retarget *r, V function, V c)
{
    const Shared *s = find_shared(r, c);
    if (s) {
        V offset = i64_of(r, s->offset);
        return LLVMBuildGEP2(r->b, r->i8, on_chip(r, function), &offset, 1, "");
    }
    if (!uses_shared(r, c))
        return c;
    V operand[MAX_OPERANDS_OF_CALL];
    int n = LLVMIsAConstantExpr(c) ? LLVMGetNumOperands(c) : 0;
    for (int i = 0; i < n && i < (int)COUNT(operand); i++)
        if (!(operand[i] = expand(r, function, LLVMGetOperand(c, (unsigned)i))))
            return NULL;
    if (n && n <= (int)COUNT(operand) && LLVMGetConstOpcode(c) == LLVMGetElementPtr)
        return LLVMBuildGEP2(r->b, LLVMGetGEPSourceElementType(c), operand[0], operand + 1, (unsigned)n - 1, "");
    if (n == 1)
        return LLVMBuildCast(r->b, LLVMGetConstOpcode(c), operand[0], LLVMTypeOf(c), "");
    if (n == 2)
        return LLVMBuildBinOp(r->b, LLVMGetConstOpcode(c), operand[0], operand[1], "");
    err_set(r->err, "the SIMT machine does not know a constant in which on-chip memory occurs");
    return NULL;
}

static bool expand_operands(Retarget *r, V function, V ins)
{
    for (int i = 0; i < LLVMGetNumOperands(ins); i++) {
        V op = LLVMGetOperand(ins, (unsigned)i);
        if (!LLVMIsAConstant(op) || !uses_shared(r, op))
            continue;
        if (LLVMIsAPHINode(ins))
            LLVMPositionBuilderBefore(r->b, LLVMGetBasicBlockTerminator(LLVMGetIncomingBlock(ins, (unsigned)i)));
        else
            LLVMPositionBuilderBefore(r->b, ins);
        V v = expand(r, function, op);
        if (!v)
            return false;
        LLVMSetOperand(ins, (unsigned)i, v);
    }
    return true;
}

/* ---- intrinsics ----------------------------------------------------------------------------------------------- */

static const Shim *find_shim(const char *name)
{
    for (size_t i = 0; i < COUNT(shims); i++) {
        size_t n = strlen(shims[i].intrinsic);
        if (starts(name, shims[i].intrinsic) && (!name[n] || !strcmp(name + n, ".p3")))
            return &shims[i];
    }
    return NULL;
}

static bool is_dropped(const char *name)
{
    for (size_t i = 0; i < COUNT(dropped); i++)
        if (!strcmp(dropped[i], name))
            return true;
    return false;
}

static bool narrow(LLVMTypeRef t)
{
    return LLVMGetTypeKind(t) == LLVMIntegerTypeKind && LLVMGetIntTypeWidth(t) < 32;
}

static bool is_scalar_type(LLVMTypeRef t)
{
    LLVMTypeKind k = LLVMGetTypeKind(t);
    return k == LLVMIntegerTypeKind || k == LLVMFloatTypeKind || k == LLVMDoubleTypeKind || k == LLVMPointerTypeKind ||
           k == LLVMVoidTypeKind;
}

static V widened(const Retarget *r, V v)
{
    return narrow(LLVMTypeOf(v)) ? LLVMBuildZExt(r->b, v, r->i32, "") : v;
}

/* Memory for the arguments and the result of calls; one of each a function is enough. */
static V pack_memory(Retarget *r, V function, V *slot)
{
    if (!*slot) {
        at_entry(r, function);
        *slot = LLVMBuildAlloca(r->entry, LLVMArrayType2(r->i8, PACK_BYTES), "");
        LLVMSetAlignment(*slot, 64);
    }
    return *slot;
}

static bool store_pack(Retarget *r, V call, V in)
{
    uint64_t at = 0;
    for (unsigned i = 0; i < LLVMGetNumArgOperands(call); i++) {
        V v = widened(r, LLVMGetOperand(call, i)), offset = i64_of(r, at);
        at += LLVMStoreSizeOfType(r->layout, LLVMTypeOf(v));
        if (at > PACK_BYTES)
            return false;
        LLVMSetAlignment(LLVMBuildStore(r->b, v, LLVMBuildGEP2(r->b, r->i8, in, &offset, 1, "")), 4);
    }
    return true;
}

/* A call by PACK or PACK_MEET; its result. */
static V call_packed(Retarget *r, V function, V call, const Shim *s)
{
    V args[3], result = NULL;
    unsigned n = 0;
    LLVMTypeRef types[3] = {r->i32, r->ptr, r->ptr}, type = LLVMTypeOf(call);
    bool meets = s->convention == PACK_MEET;
    if (meets)
        args[n++] = LLVMConstInt(r->i32, (unsigned)r->sites++, false);
    args[n++] = pack_memory(r, function, &r->out);
    args[n++] = pack_memory(r, function, &r->in);
    if (!store_pack(r, call, args[n - 1]) || LLVMStoreSizeOfType(r->layout, type) > PACK_BYTES)
        return NULL;
    LLVMTypeRef shim = LLVMFunctionType(LLVMVoidTypeInContext(r->context), meets ? types : types + 1, n, false);
    LLVMBuildCall2(r->b, shim, declare(r, s->function, shim), args, n, "");
    result = LLVMBuildLoad2(r->b, type, args[n - 2], "");
    LLVMSetAlignment(result, 4);
    return result;
}

/* A call by CALL or MEET; its result. */
static V call_plain(Retarget *r, V call, const Shim *s)
{
    V args[MAX_OPERANDS_OF_CALL];
    LLVMTypeRef types[MAX_OPERANDS_OF_CALL], type = LLVMTypeOf(call);
    unsigned n = 0, count = LLVMGetNumArgOperands(call);
    if (count + 1 > COUNT(args) || !is_scalar_type(type))
        return NULL;
    if (s->convention == MEET)
        args[n++] = LLVMConstInt(r->i32, (unsigned)r->sites++, false);
    for (unsigned i = 0; i < count; i++) {
        args[n] = widened(r, LLVMGetOperand(call, i));
        if (!is_scalar_type(LLVMTypeOf(args[n++])))
            return NULL;
    }
    for (unsigned i = 0; i < n; i++)
        types[i] = LLVMTypeOf(args[i]);
    LLVMTypeRef shim = LLVMFunctionType(narrow(type) ? r->i32 : type, types, n, false);
    V result = LLVMBuildCall2(r->b, shim, declare(r, s->function, shim), args, n, "");
    return narrow(type) ? LLVMBuildTrunc(r->b, result, type, "") : result;
}

static bool lower_intrinsic(Retarget *r, V function, V call, const char *name)
{
    const Shim *s = find_shim(name);
    if (!s && !is_dropped(name))
        return err_set(r->err, "the SIMT machine does not know the intrinsic llvm.%s", name);
    LLVMPositionBuilderBefore(r->b, call);
    if (s) {
        bool packed = s->convention == PACK || s->convention == PACK_MEET;
        V result = packed ? call_packed(r, function, call, s) : call_plain(r, call, s);
        if (!result)
            return err_set(r->err, "internal error, arguments of llvm.%s don't suit %s", name, s->function);
        if (LLVMGetTypeKind(LLVMTypeOf(call)) != LLVMVoidTypeKind)
            LLVMReplaceAllUsesWith(call, result);
    }
    LLVMInstructionEraseFromParent(call);
    return true;
}

/* Of two zeros GPUs' max gives +0 and min -0; x86's the second operand. Where both are equal their bits are the same
 * but for the signs of zeros, which `and` and `or` choose. */
static void symmetric_zeros(const Retarget *r, V call, bool max)
{
    V a = LLVMGetOperand(call, 0), b = LLVMGetOperand(call, 1);
    LLVMTypeRef type = LLVMTypeOf(call), scalar = type;
    bool vector = LLVMGetTypeKind(type) == LLVMVectorTypeKind;
    if (vector)
        scalar = LLVMGetElementType(type);
    LLVMTypeRef bits = LLVMIntTypeInContext(r->context, (unsigned)LLVMSizeOfTypeInBits(r->layout, scalar));
    if (vector)
        bits = LLVMVectorType(bits, LLVMGetVectorSize(type));
    LLVMPositionBuilderBefore(r->b, LLVMGetNextInstruction(call));
    V equal = LLVMBuildFCmp(r->b, LLVMRealOEQ, a, b, "");
    V x = LLVMBuildBitCast(r->b, a, bits, ""), y = LLVMBuildBitCast(r->b, b, bits, "");
    V both = LLVMBuildBitCast(r->b, max ? LLVMBuildAnd(r->b, x, y, "") : LLVMBuildOr(r->b, x, y, ""), type, "");
    V hole = LLVMGetPoison(type), fixed = LLVMBuildSelect(r->b, equal, both, hole, "");
    LLVMReplaceAllUsesWith(call, fixed);
    LLVMSetOperand(fixed, 2, call);
}

static bool rewrite_call(Retarget *r, V function, V call)
{
    V callee = LLVMGetCalledValue(call);
    size_t len;
    if (LLVMIsAInlineAsm(callee))
        return err_set(r->err, "the SIMT machine cannot run inline assembly");
    const char *name = LLVMGetValueName2(callee, &len);
    if (starts(name, "gpu."))
        return lower_intrinsic(r, function, call, name + 4);
    if (starts(name, "llvm.maxnum.") || starts(name, "llvm.minnum."))
        symmetric_zeros(r, call, starts(name, "llvm.maxnum."));
    return true;
}

/* ---- alignment ------------------------------------------------------------------------------------------------ */

/* The operand that is the address of a load, a store or an atomic operation, or -1. */
static int address_operand(V ins)
{
    switch (LLVMGetInstructionOpcode(ins)) {
    case LLVMLoad:
    case LLVMAtomicRMW:
    case LLVMAtomicCmpXchg: return 0;
    case LLVMStore: return 1;
    default: return -1;
    }
}

/* GPUs refuse misaligned addresses, x86 mostly does not: adds the bits that should be zero to the address, where no
 * address can have any. */
static void check_alignment(const Retarget *r, V ins)
{
    int at = address_operand(ins);
    unsigned align = at < 0 ? 0 : MIN(LLVMGetAlignment(ins), 128);
    V p = at < 0 ? NULL : LLVMGetOperand(ins, (unsigned)at);
    if (align < 2 || LLVMIsAAllocaInst(p) || LLVMIsAConstant(p))
        return;
    LLVMPositionBuilderBefore(r->b, ins);
    V low = LLVMBuildAnd(r->b, LLVMBuildPtrToInt(r->b, p, r->i64, ""), i64_of(r, align - 1), "");
    V offset = LLVMBuildShl(r->b, low, i64_of(r, 57), "");
    LLVMSetOperand(ins, (unsigned)at, LLVMBuildGEP2(r->b, r->i8, p, &offset, 1, ""));
}

/* ---- the whole ------------------------------------------------------------------------------------------------ */

static bool rewrite_instruction(Retarget *r, V function, V ins)
{
    if (!expand_operands(r, function, ins))
        return false;
    switch (LLVMGetInstructionOpcode(ins)) {
    case LLVMCall: return rewrite_call(r, function, ins);
    case LLVMFence: LLVMInstructionEraseFromParent(ins); return true; /* threads take turns */
    default: check_alignment(r, ins); return true;
    }
}

static bool rewrite_function(Retarget *r, V function)
{
    r->on_chip = r->out = r->in = NULL;
    for (LLVMBasicBlockRef b = LLVMGetFirstBasicBlock(function); b; b = LLVMGetNextBasicBlock(b))
        for (V ins = LLVMGetFirstInstruction(b), next; ins; ins = next) {
            next = LLVMGetNextInstruction(ins);
            if (!rewrite_instruction(r, function, ins))
                return false;
        }
    return true;
}

/* The variables, which nothing uses any more, and the declarations of intrinsics. */
static void remove_leftovers(const Retarget *r)
{
    for (int i = 0; i < r->shared_count; i++) {
        V g = LLVMGetNamedGlobal(r->module, r->shared[i].name);
        if (!g)
            continue;
        LLVMReplaceAllUsesWith(g, LLVMGetPoison(LLVMTypeOf(g))); /* constants that no instruction has any more */
        LLVMDeleteGlobal(g);
    }
    for (V f = LLVMGetFirstFunction(r->module), next; f; f = next) {
        size_t len;
        next = LLVMGetNextFunction(f);
        if (starts(LLVMGetValueName2(f, &len), "gpu.") && !LLVMGetFirstUse(f))
            LLVMDeleteFunction(f);
    }
}

static bool rewrite_module(Retarget *r)
{
    for (V f = LLVMGetFirstFunction(r->module); f; f = LLVMGetNextFunction(f)) {
        plain_function(r, f);
        if (LLVMGetFirstBasicBlock(f) && !rewrite_function(r, f))
            return false;
    }
    remove_leftovers(r);
    char *message = NULL;
    bool ok = !LLVMVerifyModule(r->module, LLVMReturnStatusAction, &message);
    if (!ok)
        err_set(r->err, "internal error, LLVM refuses the retargeted module: %s", message);
    LLVMDisposeMessage(message);
    return ok;
}

LLVMModuleRef simt_retarget(LLVMModuleRef module, LLVMTargetMachineRef machine, Err *err)
{
    Retarget r = {.context = LLVMGetModuleContext(module), .err = err, .layout = LLVMCreateTargetDataLayout(machine)};
    r.i8 = LLVMInt8TypeInContext(r.context);
    r.i32 = LLVMInt32TypeInContext(r.context);
    r.i64 = LLVMInt64TypeInContext(r.context);
    r.ptr = LLVMPointerTypeInContext(r.context, 0);
    r.b = LLVMCreateBuilderInContext(r.context);
    r.entry = LLVMCreateBuilderInContext(r.context);
    bool ok = place_shared(&r, module, r.layout) && read_back(&r, module, machine) && rewrite_module(&r);
    if (!ok && r.module)
        LLVMDisposeModule(r.module);
    for (int i = 0; i < r.shared_count; i++)
        free(r.shared[i].name);
    LLVMDisposeBuilder(r.b);
    LLVMDisposeBuilder(r.entry);
    LLVMDisposeTargetData(r.layout);
    return ok ? r.module : NULL;
}
