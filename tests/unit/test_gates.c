/* Tests of compiler/gpu/emit.c, gates.c and occupancy.c: kernels written in LLVM IR by hand go through LLVM and the
 * vendors' tools, good ones and ones that spill, have a stack, or are not legal; and what tools said elsewhere,
 * recorded. Tests that need ptxas skip where there is none. */
#include "test.h"

#include "gpu/emit.h"
#include "child.h"
#include "generator.h"

#include <llvm-c/Core.h>
#include <llvm-c/IRReader.h>
#include <llvm-c/Linker.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static Buf ir;      /* the module that `lower` puts in place of a kernel's own */
static int threads; /* that its blocks have */

static bool lower(const Kernel *k, const Target *t, LLVMModuleRef module, KernelInfo *info, Err *err)
{
    (void)k, (void)t;
    LLVMModuleRef parsed;
    char *message = NULL;
    LLVMMemoryBufferRef text = LLVMCreateMemoryBufferWithMemoryRangeCopy(ir.data, ir.len, "ir");
    if (LLVMParseIRInContext(LLVMGetModuleContext(module), text, &parsed, &message))
        return err_set(err, "%s", message);
    LLVMSetTarget(parsed, LLVMGetTarget(module));
    LLVMSetDataLayout(parsed, LLVMGetDataLayout(module));
    *info = (KernelInfo){.threads = threads};
    return !LLVMLinkModules2(module, parsed) || err_set(err, "can't link");
}

static Target target_of(const char *name)
{
    Err err = {0};
    const Target *t = target_find(name, &err);
    if (!t)
        fail_msg("%s", err.text);
    Target copy = *t;
    copy.lower = lower;
    return copy;
}

static void begin(const Target *t, int of_block)
{
    threads = of_block;
    buf_free(&ir);
    buf_puts(&ir, t->gpu->nvidia
        ? "declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()\n"
          "define void @kernel(ptr addrspace(1) %a, ptr addrspace(1) %b) {\n"
          "  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()\n"
        : "declare i32 @llvm.amdgcn.workitem.id.x()\n"
          "define amdgpu_kernel void @kernel(ptr addrspace(1) %a, ptr addrspace(1) %b) #0 {\n"
          "  %t = call i32 @llvm.amdgcn.workitem.id.x()\n");
    buf_puts(&ir, "  %x = getelementptr float, ptr addrspace(1) %a, i32 %t\n"
                  "  %y = getelementptr float, ptr addrspace(1) %b, i32 %t\n");
}

static void end(const Target *t)
{
    buf_puts(&ir, "  ret void\n}\n");
    if (t->gpu->nvidia)
        buf_printf(&ir, "!nvvm.annotations = !{!0, !1}\n!0 = !{ptr @kernel, !\"kernel\", i32 1}\n"
                        "!1 = !{ptr @kernel, !\"maxntidx\", i32 %d}\n", threads);
    else
        buf_printf(&ir, "attributes #0 = { \"amdgpu-flat-work-group-size\"=\"%d,%d\" }\n", threads, threads);
}

/* b[t] = a[t] + 1 */
static void simple(const Target *t)
{
    begin(t, 128);
    buf_puts(&ir, "  %v = load float, ptr addrspace(1) %x\n  %w = fadd float %v, 1.0\n"
                  "  store float %w, ptr addrspace(1) %y\n");
    end(t);
}

/* Reads `count` numbers before it writes the first: as many registers are in use at once. */
static void crowded(const Target *t, int count)
{
    begin(t, 1024);
    for (int i = 0; i < count; i++)
        buf_printf(&ir, "  %%p%d = getelementptr float, ptr addrspace(1) %%x, i32 %d\n"
                        "  %%v%d = load volatile float, ptr addrspace(1) %%p%d\n", i, 1024 * i, i, i);
    for (int i = 0; i < count; i++)
        buf_printf(&ir, "  %%q%d = getelementptr float, ptr addrspace(1) %%y, i32 %d\n"
                        "  store volatile float %%v%d, ptr addrspace(1) %%q%d\n", i, 1024 * i, count - 1 - i, i);
    end(t);
}

/* Numbers in memory of the thread, addressed by what the thread reads. */
static void with_stack(const Target *t)
{
    int space = t->gpu->nvidia ? 0 : 5;
    begin(t, 128);
    buf_printf(&ir, "  %%s = alloca [64 x float], addrspace(%d)\n", space);
    for (int i = 0; i < 64; i++)
        buf_printf(&ir, "  %%p%d = getelementptr float, ptr addrspace(1) %%x, i32 %d\n"
                        "  %%v%d = load float, ptr addrspace(1) %%p%d\n"
                        "  %%q%d = getelementptr float, ptr addrspace(%d) %%s, i32 %d\n"
                        "  store volatile float %%v%d, ptr addrspace(%d) %%q%d\n",
                   i, 128 * i, i, i, i, space, i, i, space, i);
    buf_printf(&ir, "  %%i = load i32, ptr addrspace(1) %%y\n  %%j = and i32 %%i, 63\n"
                    "  %%q = getelementptr float, ptr addrspace(%d) %%s, i32 %%j\n"
                    "  %%r = load volatile float, ptr addrspace(%d) %%q\n"
                    "  store float %%r, ptr addrspace(1) %%y\n", space, space);
    end(t);
}

static bool compile(const Target *t, unsigned accepts, EmitKind kind, Buf *out, KernelInfo *info, Err *err)
{
    Kernel *k = kernel_new("copy n=64 rows=8,warps=4");
    k->accepts = accepts;
    bool ok = llvm_compile(k, t, kind, out, info, err);
    kernel_free(k);
    return ok;
}

static bool has_tool(const Target *t)
{
    static const char *const ptxas[] = {"ptxas", "/usr/local/cuda/bin/ptxas", NULL};
    static const char *const lld[] = {"ld.lld-19", "/usr/lib/llvm-19/bin/ld.lld", "ld.lld", NULL};
    char path[4096];
    return child_find(t->gpu->nvidia ? "BLADE_PTXAS" : "BLADE_LLD", t->gpu->nvidia ? ptxas : lld, path, sizeof path);
}

static const char *const names[] = {"sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "gfx90a", "gfx942", "gfx1100"};

static void every_target_gives_code(void **state)
{
    (void)state;
    int seen = 0;
    for (size_t i = 0; i < COUNT(names); i++) {
        Target t = target_of(names[i]);
        Buf code = {0}, text = {0};
        KernelInfo info = {0};
        Err err = {0};
        if (!has_tool(&t))
            continue;
        simple(&t);
        if (!compile(&t, 0, EMIT_OBJECT, &code, &info, &err))
            fail_msg("%s", err.text);
        assert_memory_equal(code.data, "\177ELF", 4);
        assert_true(info.registers > 0 && info.registers < 40);
        assert_true(info.spills == 0 && info.stack == 0 && info.threads == 128);
        assert_true(info.occupancy >= 8);
        if (!t.gpu->nvidia) {
            assert_true(gpu_disassemble(&t, &code, &text, &err));
            assert_non_null(strstr(text.data, "v_add_f32"));
            assert_non_null(strstr(text.data, "s_endpgm"));
        }
        buf_free(&code);
        buf_free(&text);
        seen++;
    }
    if (!seen)
        skip();
}

static void assembly_has_the_header(void **state)
{
    (void)state;
    static const struct { const char *name, *lines; } heads[] = {
        {"sm_80", "\n.version 7.1\n.target sm_80\n"}, {"sm_90a", "\n.version 8.0\n.target sm_90a\n"},
        {"sm_100a", "\n.version 8.6\n.target sm_100a\n"}, {"gfx942", ".amdgcn_target \"amdgcn-amd-amdhsa--gfx942\""}};
    for (size_t i = 0; i < COUNT(heads); i++) {
        Target t = target_of(heads[i].name);
        Buf text = {0};
        KernelInfo info = {0};
        Err err = {0};
        simple(&t);
        if (!compile(&t, 0, EMIT_ASM, &text, &info, &err))
            fail_msg("%s", err.text);
        if (!strstr(text.data, heads[i].lines))
            fail_msg("%s: no %s in %.400s", heads[i].name, heads[i].lines, text.data);
        buf_free(&text);
    }
}

static void fails(const Target *t, unsigned accepts, const char *what, const char *accept)
{
    Buf code = {0};
    KernelInfo info = {0};
    Err err = {0};
    if (compile(t, accepts, EMIT_OBJECT, &code, &info, &err))
        fail_msg("%s: accepted with %d registers, %d spills, %d stack", t->name, info.registers, info.spills,
                 info.stack);
    const char *wanted[] = {"'copy n=64 rows=8,warps=4'", t->name, what, "settings now: rows=8,warps=4", accept};
    for (size_t i = 0; i < COUNT(wanted); i++)
        if (!strstr(err.text, wanted[i]))
            fail_msg("no \"%s\" in: %s", wanted[i], err.text);
    buf_free(&code);
}

static void passes(const Target *t, unsigned accepts, KernelInfo *info)
{
    Buf code = {0};
    Err err = {0};
    *info = (KernelInfo){0};
    if (!compile(t, accepts, EMIT_OBJECT, &code, info, &err))
        fail_msg("%s", err.text);
    buf_free(&code);
}

static void spills_fail_unless_accepted(void **state)
{
    (void)state;
    int seen = 0;
    for (size_t i = 0; i < COUNT(names); i++) {
        Target t = target_of(names[i]);
        KernelInfo info;
        bool slow = !strcmp(t.name, "gfx942") || !strcmp(t.name, "gfx1100"); /* LLVM takes seconds; gfx90a will do */
        if (slow || !has_tool(&t))
            continue;
        crowded(&t, 30);
        passes(&t, 0, &info);
        crowded(&t, t.gpu->nvidia ? 300 : 150);
        fails(&t, 0, "bytes of registers a thread are spilled", "accepts = { \"spills\" }");
        passes(&t, ACCEPT_SPILLS, &info);
        assert_true(info.spills > 0 && info.stack > 0 && info.registers >= 64);
        seen++;
    }
    if (!seen)
        skip();
}

static void stacks_fail_unless_accepted(void **state)
{
    (void)state;
    int seen = 0;
    for (size_t i = 0; i < COUNT(names); i++) {
        Target t = target_of(names[i]);
        KernelInfo info;
        if (!has_tool(&t))
            continue;
        with_stack(&t);
        fails(&t, ACCEPT_SPILLS, "bytes a thread lie in memory of its own (a stack)", "accepts = { \"stack\" }");
        passes(&t, ACCEPT_STACK, &info);
        assert_true(info.stack >= 256 && info.spills == 0);
        seen++;
    }
    if (!seen)
        skip();
}

static void stacks_show_in_ptx(void **state)
{
    (void)state;
    Target t = target_of("sm_90a");
    KernelInfo info;
    setenv("BLADE_PTXAS", "/no/such/ptxas", 1);
    with_stack(&t);
    fails(&t, 0, "256 bytes a thread lie in memory of its own (a stack)", "accepts = { \"stack\" }");
    passes(&t, ACCEPT_STACK, &info);
    assert_int_equal(info.stack, 256);
    unsetenv("BLADE_PTXAS");
}

/* Without ptxas, or with one that is too old, a pack holds PTX; one that fails is an error with its words. */
static void without_ptxas(void **state)
{
    (void)state;
    char script[] = "/tmp/blade-ptxas-XXXXXX", text[256];
    Target t = target_of("sm_100a");
    const char *old = getenv("BLADE_PTXAS");
    char *before = old ? xstrdup(old) : NULL;
    static const char *const words[] = {"ptxas fatal   : Value 'sm_100a' is not defined for option 'gpu-name'",
                                        "ptxas in, line 5; fatal   : Unsupported .version 8.6; current one is 8.2"};
    close(mkstemp(script));
    for (int i = 0; i < 4; i++) {
        Buf code = {0}, tools = {0};
        KernelInfo info = {0};
        Err err = {0};
        setenv("BLADE_PTXAS", i == 3 ? "/no/such/ptxas" : script, 1);
        snprintf(text, sizeof text, "#!/bin/sh\necho \"%s\"\nexit 255\n",
                 i < 2 ? words[i] : "fatal: register r1 is round");
        assert_true(file_write_atomic(script, text, strlen(text), NULL));
        chmod(script, 0755);
        simple(&t);
        bool ok = compile(&t, 0, EMIT_OBJECT, &code, &info, &err);
        assert_int_equal(ok, i != 2);
        if (ok) {
            assert_non_null(strstr(code.data, ".target sm_100a"));
            assert_int_equal(code.data[code.len - 1], 0);
            assert_int_equal(info.registers, 0);
        } else
            assert_non_null(strstr(err.text, "kernel 'copy n=64 rows=8,warps=4' for sm_100a: blade-ptxas-"));
        if (!ok)
            assert_non_null(strstr(err.text, "ended with status 255: fatal: register r1 is round"));
        gpu_tools(&t, &tools);
        assert_int_equal(strstr(tools.data, "ptxas none") != NULL, i == 3);
        buf_free(&tools);
        buf_free(&code);
    }
    unlink(script);
    if (before)
        setenv("BLADE_PTXAS", before, 1);
    else
        unsetenv("BLADE_PTXAS");
    free(before);
}

static void without_lld(void **state)
{
    (void)state;
    Target t = target_of("gfx942");
    Buf code = {0};
    KernelInfo info = {0};
    Err err = {0};
    setenv("BLADE_LLD", "/no/such/lld", 1);
    simple(&t);
    assert_false(compile(&t, 0, EMIT_OBJECT, &code, &info, &err));
    assert_non_null(strstr(err.text, "install lld-19"));
    unsetenv("BLADE_LLD");
}

/* ---- recorded --------------------------------------------------------------------------------------------------- */

typedef struct Recorded {
    const char *log;
    unsigned accepts;
    int registers, spills, stack;
    const char *message; /* NULL: passes */
} Recorded;

#define HEAD "ptxas info    : 0 bytes gmem\nptxas info    : Compiling entry function 'kernel' for 'sm_90a'\n" \
             "ptxas info    : Function properties for kernel\n"

static const Recorded recorded[] = {
    {HEAD "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
     "ptxas info    : Used 90 registers, used 1 barriers, 49152 bytes smem, 536 bytes cmem[0]\n"
     "ptxas info    : Compile time = 28.654 ms\n", 0, 90, 0, 0, NULL},
    {HEAD "    176 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
     "ptxas info    : Used 24 registers, 480 bytes cmem[0]\n", ACCEPT_SPILLS, 24, 0, 176,
     "176 bytes a thread lie in memory"},
    {HEAD "    96 bytes stack frame, 88 bytes spill stores, 100 bytes spill loads\n"
     "ptxas info    : Used 255 registers, used 1 barriers\n", ACCEPT_STACK, 255, 100, 96,
     "100 bytes of registers a thread are spilled (it has 255 registers)"},
    {HEAD "    96 bytes stack frame, 88 bytes spill stores, 100 bytes spill loads\n"
     "ptxas info    : Used 255 registers, used 1 barriers\n", ACCEPT_SPILLS, 255, 100, 96, NULL},
    {"ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to the "
     "presence of Extern calls in the function 'kernel'\n" HEAD
     "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
     "ptxas info    : Used 168 registers\n", ACCEPT_SPILLS | ACCEPT_STACK, 168, 0, 0,
     "(C7510) Potential Performance Loss"},
    {"ptxas info    : (C7519) Potential Performance Loss: wgmma.mma_async\n" HEAD
     "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\nptxas info    : Used 168 registers\n",
     ACCEPT_NOTES, 168, 0, 0, NULL},
    {HEAD "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\nptxas info    : Used 255 registers\n",
     0, 255, 0, 0, "does not fit on a multiprocessor (too much: registers)"},
    {"", 0, 0, 0, 0, "did not say how many registers"},
    {"ptxas info    : Used many registers\nUsed 7", 0, 0, 0, 0, "did not say how many registers"},
    {"ptxas info    : Used 99999999999999999999 registers\n", 0, 0, 0, 0, "did not say how many registers"},
};

static void what_ptxas_said(void **state)
{
    (void)state;
    Target t = target_of("sm_90a");
    for (size_t i = 0; i < COUNT(recorded); i++) {
        Kernel *k = kernel_new("matmul n=64");
        KernelInfo info = {.threads = strstr(recorded[i].message ? recorded[i].message : "", "not fit") ? 512 : 256,
                           .shared = 49152};
        Err err = {0};
        k->accepts = recorded[i].accepts;
        assert_int_equal(gate_nvidia(k, &t, recorded[i].log, &info, &err), recorded[i].message == NULL);
        if (recorded[i].message && !strstr(err.text, recorded[i].message))
            fail_msg("%zu: %s", i, err.text);
        assert_int_equal(info.registers, recorded[i].registers);
        assert_int_equal(info.spills, recorded[i].spills);
        assert_int_equal(info.stack, recorded[i].stack);
        kernel_free(k);
    }
}

/* Blocks on a multiprocessor, as NVIDIA's occupancy calculator and LLVM ("; Occupancy:") give them. */
static void occupancy_is_that_of_the_vendors(void **state)
{
    (void)state;
    static const struct { const char *name; int threads, registers, shared, blocks; const char *limit; } rows[] = {
        {"sm_80", 128, 32, 0, 16, "threads"}, {"sm_80", 256, 128, 0, 2, "registers"},
        {"sm_80", 256, 255, 0, 1, "registers"}, {"sm_80", 128, 40, 48 << 10, 3, "shared"},
        {"sm_80", 32, 16, 0, 32, "blocks"}, {"sm_86", 256, 40, 0, 6, "threads"}, {"sm_86", 32, 32, 0, 16, "blocks"},
        {"sm_90a", 128, 168, 227 << 10, 1, "shared"}, {"sm_90a", 384, 168, 100 << 10, 1, "registers"},
        {"gfx90a", 256, 128, 0, 4, "registers"}, {"gfx90a", 256, 64, 0, 8, "threads"},
        {"gfx942", 512, 256, 64 << 10, 1, "registers"}, {"gfx942", 256, 64, 20 << 10, 3, "shared"},
        {"gfx1100", 128, 96, 0, 16, "threads"}, {"gfx1100", 128, 256, 0, 5, "registers"},
        {"sm_80", 1024, 80, 0, 0, "registers"}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        Target t = target_of(rows[i].name);
        KernelInfo info = {.threads = rows[i].threads, .registers = rows[i].registers, .shared = rows[i].shared};
        const char *limit;
        int blocks = gpu_occupancy(&t, &info, &limit);
        if (blocks != rows[i].blocks || strcmp(limit, rows[i].limit))
            fail_msg("row %zu, %s: %d blocks by %s", i, rows[i].name, blocks, limit);
    }
}

static void copies_are_waited_for(void **state)
{
    (void)state;
    Err err = {0};
    assert_true(gate_amd_waits("  0\ts_barrier\n", &err));
    assert_true(gate_amd_waits("\tbuffer_load_dword v0, s[4:7], 0 offen lds\n\ts_waitcnt vmcnt(0)\n\ts_barrier\n",
                               &err));
    assert_true(gate_amd_waits("\tglobal_load_lds_dword v[0:1], off\n\ts_waitcnt vmcnt(2) lgkmcnt(0)\n\ts_barrier",
                               &err));
    assert_true(gate_amd_waits("\tbuffer_load_dword v0, s[4:7], 0 offen\n\ts_barrier\n", &err));
    assert_false(gate_amd_waits("\tbuffer_load_dword v0, s[4:7], 0 offen lds\n\ts_barrier\n\ts_waitcnt vmcnt(0)\n",
                                &err));
    assert_non_null(strstr(err.text, "a barrier stands before the wait for the copy 'buffer_load_dword v0"));
    assert_false(gate_amd_waits("\ts_waitcnt vmcnt(0)\n\tglobal_load_lds_dword v[0:1], off\n\ts_waitcnt lgkmcnt(0)\n"
                                "\ts_barrier\n", &err));
}

/* A schedule's `accepts` reaches the kernel, and its text form. */
static void what_a_schedule_accepts(void **state)
{
    (void)state;
    static const char text[] = "return schedule \"quantize\" { accepts = { \"notes\", \"spills\" } } (function(k)\n"
                               "  k:tiles(\"tokens\")\nend)";
    static const char wrong[] = "return schedule \"quantize\" { accepts = { \"heat\" } } (function(k) k:tiles(1) end)";
    Err err = {0};
    Generator *g = gen_open(SOURCE_DIR, target_find("sm_80", &err), &err);
    assert_non_null(g);
    gen_try_schedule(g, "quantize", wrong, strlen(wrong), &err);
    assert_non_null(strstr(err.text, "accepts: 'heat' is none of spills, stack, notes"));
    Buf printed = {0};
    const Kernel *k = gen_try_schedule(g, "quantize", text, strlen(text), &err);
    if (!k)
        fail_msg("%s", err.text);
    assert_int_equal(k->accepts, ACCEPT_SPILLS | ACCEPT_NOTES);
    ir_print(k, &printed);
    assert_non_null(strstr(printed.data, " accepts spills accepts notes"));
    Kernel *read = ir_parse(printed.data, printed.len, "text", &err);
    assert_non_null(read);
    assert_int_equal(read->accepts, k->accepts);
    assert_null(ir_parse("kernel \"k\" accepts heat\n", 24, "text", &err));
    assert_non_null(strstr(err.text, "spills, stack or notes"));
    kernel_free(read);
    buf_free(&printed);
    gen_close(g);
}

/* Any prefix of a code object, and any byte of its metadata changed, gives figures or a message. */
static void broken_code_objects(void **state)
{
    (void)state;
    Target t = target_of("gfx90a");
    Buf code = {0};
    KernelInfo info = {0};
    Err err = {0};
    if (!has_tool(&t))
        skip();
    simple(&t);
    assert_true(compile(&t, 0, EMIT_OBJECT, &code, &info, &err));
    Kernel *k = kernel_new("copy n=64");
    k->accepts = ~0u;
    int refused = 0;
    for (size_t n = 0; n < code.len; n += 7) {
        Buf part = {0};
        buf_put(&part, code.data, n);
        refused += !gate_amd(k, &t, &part, &info, &err);
        buf_free(&part);
    }
    assert_true(refused > 10);
    for (size_t i = 0; i < MIN(code.len, 2500); i++) {
        char was = code.data[i];
        for (int value = 0x7f; value < 0x100; value += 0x20) {
            code.data[i] = (char)value;
            gate_amd(k, &t, &code, &info, &err);
        }
        code.data[i] = was;
    }
    assert_true(gate_amd(k, &t, &code, &info, &err));
    kernel_free(k);
    buf_free(&code);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_target_gives_code), cmocka_unit_test(assembly_has_the_header),
        cmocka_unit_test(spills_fail_unless_accepted), cmocka_unit_test(stacks_fail_unless_accepted),
        cmocka_unit_test(without_ptxas), cmocka_unit_test(stacks_show_in_ptx), cmocka_unit_test(without_lld),
        cmocka_unit_test(what_ptxas_said),
        cmocka_unit_test(occupancy_is_that_of_the_vendors), cmocka_unit_test(copies_are_waited_for),
        cmocka_unit_test(what_a_schedule_accepts), cmocka_unit_test(broken_code_objects)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    buf_free(&ir);
    return failed;
}
