/* Tests of verify.c on simt targets: what `bladegen check` says of kernels that break rules, and what it leaves in the
 * caller's buffers. The tile IR only declares the buffers; the code is written by hand. */
#include "test.h"

#include "simt_code.h"
#include "verify.h"

#include <stdlib.h>

static const char declarations[] =
    "kernel \"halves\"\n"
    "%1 = memory global 0 in s32 x[tokens]\n"
    "%2 = memory global 1 out s32 y[tokens]\n"
    "%3 = const 2 : s64\n"
    "grid %3\n";

/* y[i] = x[i] / 2 for 64 elements a block of 64 threads; surplus ones, by the tokens in the sizes, do nothing. */
static const char code[] =
    "define amdgpu_kernel void @kernel(ptr addrspace(1) %x, ptr addrspace(1) %y, ptr addrspace(1) %sizes) {\n"
    "  %t = call i32 @llvm.amdgcn.workitem.id.x()\n"
    "  %b = call i32 @llvm.amdgcn.workgroup.id.x()\n"
    "  %b64 = shl i32 %b, 6\n"
    "  %i = or i32 %b64, %t\n"
    "  %pn = getelementptr i64, ptr addrspace(1) %sizes, i64 TOKENS\n"
    "  %n = load i64, ptr addrspace(1) %pn, align 8\n"
    "  %wide = zext i32 %i to i64\n"
    "  %inside = icmp ult i64 %wide, %n\n"
    "  br i1 %inside, label %work, label %done\n"
    "work:\n"
    "  %px = getelementptr i32, ptr addrspace(1) %x, i32 %i\n"
    "  %v = load i32, ptr addrspace(1) %px, align 4\n"
    "  %h = lshr i32 %v, 1\n"
    "  %py = getelementptr i32, ptr addrspace(1) %y, i32 %i\n"
    "  store i32 %h, ptr addrspace(1) %py, align 4\n"
    "  br label %done\n"
    "done:\n"
    "  ret void\n"
    "}\n"
    "declare i32 @llvm.amdgcn.workitem.id.x()\n"
    "declare i32 @llvm.amdgcn.workgroup.id.x()\n";

enum { TOKENS = 100 };

/* Verifies the code with an edit; y as the caller then has it. */
static bool verify(const char *from, const char *to, int32_t y[TOKENS], Err *err)
{
    Kernel *k = ir_parse(declarations, strlen(declarations), "declarations", err);
    if (!k)
        fail_msg("%s", err->text);
    Buf text = {0}, object = {0};
    const char *at = strstr(code, "TOKENS");
    buf_put(&text, code, (size_t)(at - code));
    buf_printf(&text, "%d%s", SIZE_TOKENS, at + strlen("TOKENS"));
    if (!compile(amdgcn, text.data, from, to, &object, err))
        fail_msg("%s", err->text);
    int32_t *x = aligned_alloc(16, 4 * TOKENS);
    int64_t sizes[SIZE_COUNT] = {0};
    sizes[SIZE_TOKENS] = TOKENS;
    for (int i = 0; i < TOKENS; i++) {
        x[i] = 10 * i;
        y[i] = -1;
    }
    KernelInfo info = {.threads = 64, .shared = 64};
    const Target *t = target_find("simt:gfx942", err);
    bool ok = verify_object(k, t, object.data, object.len, &info, (void *[]){x, y}, sizes, err);
    for (int i = 0; i < TOKENS; i++)
        assert_int_equal(x[i], 10 * i);
    free(x);
    buf_free(&text);
    buf_free(&object);
    kernel_free(k);
    return ok;
}

static void results_arrive(void **state)
{
    (void)state;
    _Alignas(16) int32_t y[TOKENS];
    Err err = {0};
    if (!verify(NULL, NULL, y, &err))
        fail_msg("%s", err.text);
    for (int i = 0; i < TOKENS; i++)
        assert_int_equal(y[i], 5 * i);
}

static void broken_rules_are_told(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *want;
    } rows[] = {
        {"icmp ult i64 %wide, %n", "icmp ule i64 %wide, %n",
         "kernel 'halves', block 1, thread 36: reads 1 bytes past the end of 'x' of 400 bytes"},
        {"%py = getelementptr i32, ptr addrspace(1) %y, i32 %i", "%py = getelementptr i32, ptr addrspace(1) %y, i32 %b",
         "kernel 'halves': a race, or a read outside of a buffer: byte 0 of 'y' depends on the order"},
        {"ptr addrspace(1) %y, i32 %i", "ptr addrspace(1) %x, i32 %i",
         "thread 0: writes byte 0 of 'x', which it may not"},
        {"%v = load i32, ptr addrspace(1) %px, align 4", "%v = load i32, ptr addrspace(1) %px, align 8",
         "thread 1: misaligned"},
        {"store i32 %h, ptr addrspace(1) %py, align 4",
         "%pm = getelementptr i8, ptr addrspace(1) %py, i32 -4\n  store i32 %h, ptr addrspace(1) %pm, align 4",
         "writes around 'y', outside of its 400 bytes"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        _Alignas(16) int32_t y[TOKENS];
        Err err = {0};
        if (verify(rows[i].from, rows[i].to, y, &err))
            fail_msg("no error '%s'", rows[i].want);
        if (!strstr(err.text, rows[i].want))
            fail_msg("'%s' is not in: %s", rows[i].want, err.text);
        for (int k = 0; k < TOKENS; k++)
            assert_int_equal(y[k], -1); /* the caller's buffers are as they were */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(results_arrive), cmocka_unit_test(broken_rules_are_told)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
