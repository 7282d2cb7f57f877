/* Tests of compiler/simt with code: kernels for NVPTX and AMDGPU as LLVM text, retargeted, loaded and run; and faults
 * put into them, each of which must show. */
#include "test.h"

#include "dtype.h"
#include "object.h"
#include "simt/guard.h"
#include "simt/simt.h"
#include "simt_code.h"

#include <math.h>
#include <stdlib.h>

/* ---- running -------------------------------------------------------------------------------------------------- */

enum { BUFFER_BYTES = 8192 };

typedef struct Case {
    const char *head, *body;
    int threads, wave, blocks;
    int64_t shared;
    size_t in_bytes;
    const void *in; /* first argument; the second one is the output of BUFFER_BYTES, filled with zeros */
} Case;

/* Runs a kernel, perhaps with an edit, in one order. The output is valid until the next call. */
static const void *run(const Case *c, const char *from, const char *to, SimtOrder order, Err *err)
{
    static _Alignas(64) uint8_t out[BUFFER_BYTES];
    Buf object = {0};
    if (!compile(c->head, c->body, from, to, &object, err))
        return NULL;
    ObjectSource source = {"test", (const uint8_t *)object.data, object.len, "kernel"};
    ObjectCode code;
    void *entry;
    Guarded in;
    if (!object_load_with(&source, 1, simt_symbol, &entry, &code, err))
        fail_msg("%s", err->text);
    assert_true(guard_alloc(&in, c->in_bytes, 0, 0xFF, err));
    memcpy(in.data, c->in, c->in_bytes);
    guard_read_only(&in);
    memset(out, 0, sizeof out);
    SimtRegion regions[] = {{"x", in.data, c->in_bytes}, {"y", out, sizeof out}};
    SimtLaunch launch = {"test", entry, (void *[]){in.data, out}, 2, c->blocks, c->threads, c->wave, c->shared, order,
                         regions, 2};
    bool ok = simt_launch(&launch, err);
    object_unload(&code);
    guard_free(&in);
    buf_free(&object);
    return ok ? out : NULL;
}

/* The kernel as it is gives `want` in both orders. */
static void gives(const Case *c, const void *want, size_t bytes)
{
    for (int order = SIMT_FORWARD; order <= SIMT_REVERSE; order++) {
        Err err = {0};
        const void *got = run(c, NULL, NULL, (SimtOrder)order, &err);
        if (!got)
            fail_msg("%s", err.text);
        for (size_t i = 0; i < bytes / 4; i++)
            if (memcmp((const char *)got + 4 * i, (const char *)want + 4 * i, 4))
                fail_msg("word %zu is %#x, not %#x", i, ((const uint32_t *)got)[i], ((const uint32_t *)want)[i]);
    }
}

/* With the edit at least one order gives something else. */
static void shows(const Case *c, const char *from, const char *to, const void *want, size_t bytes)
{
    for (int order = SIMT_FORWARD; order <= SIMT_REVERSE; order++) {
        Err err = {0};
        const void *got = run(c, from, to, (SimtOrder)order, &err);
        if (!got)
            fail_msg("%s", err.text);
        if (memcmp(got, want, bytes))
            return;
    }
    fail_msg("'%s' for '%s' makes no difference", to, from);
}

/* With the edit the launch fails, with these words in the message. */
static void refuses(const Case *c, const char *from, const char *to, const char *words)
{
    for (int order = SIMT_FORWARD; order <= SIMT_REVERSE; order++) {
        Err err = {0};
        if (run(c, from, to, (SimtOrder)order, &err))
            fail_msg("no error '%s'", words);
        if (!strstr(err.text, words))
            fail_msg("'%s' is not in: %s", words, err.text);
    }
}

/* ---- NVIDIA: exchange through on-chip memory ------------------------------------------------------------------ */

/* y[i] = max(x[mirror of i in its block], x[i]) after a butterfly step that adds the neighbour's. */
static const char mirror[] =
    "@shared = external addrspace(3) global [0 x i8], align 128\n"
    "@scale = internal unnamed_addr addrspace(1) constant [2 x float] [float 1.0, float 1.0], align 4\n"
    "define ptx_kernel void @kernel(ptr addrspace(1) noalias align 16 %x, ptr addrspace(1) %y) #0 {\n"
    "  %t = tail call i32 @llvm.nvvm.read.ptx.sreg.tid.x()\n"
    "  %n = tail call i32 @llvm.nvvm.read.ptx.sreg.ntid.x()\n"
    "  %b = tail call i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()\n"
    "  %base = mul i32 %b, %n\n"
    "  %i = add i32 %base, %t\n"
    "  %px = getelementptr float, ptr addrspace(1) %x, i32 %i\n"
    "  %v = load float, ptr addrspace(1) %px, align 4\n"
    "  %ps = getelementptr float, ptr addrspace(3) getelementptr inbounds (i8, ptr addrspace(3) @shared, i64 256), "
    "i32 %t\n"
    "  store float %v, ptr addrspace(3) %ps, align 4\n"
    "  call void @llvm.nvvm.barrier0()\n"
    "  %last = sub i32 %n, 1\n"
    "  %m = sub i32 %last, %t\n"
    "  %g = addrspacecast ptr addrspace(3) getelementptr inbounds (i8, ptr addrspace(3) @shared, i64 256) to ptr\n"
    "  %pm = getelementptr float, ptr %g, i32 %m\n"
    "  %w = load float, ptr %pm, align 4\n"
    "  %other = call float @llvm.nvvm.shfl.sync.bfly.f32(i32 -1, float %w, i32 1, i32 31)\n"
    "  %s0 = load float, ptr addrspace(1) getelementptr ([2 x float], ptr addrspace(1) @scale, i64 0, i64 1), align 4\n"
    "  %o1 = fmul float %other, %s0\n"
    "  %r = call float @llvm.maxnum.f32(float %w, float %o1)\n"
    "  %py = getelementptr float, ptr addrspace(1) %y, i32 %i\n"
    "  store float %r, ptr addrspace(1) %py, align 4\n"
    "  ret void\n"
    "}\n"
    "declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()\n"
    "declare i32 @llvm.nvvm.read.ptx.sreg.ntid.x()\n"
    "declare i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()\n"
    "declare void @llvm.nvvm.barrier0() convergent\n"
    "declare float @llvm.nvvm.shfl.sync.bfly.f32(i32, float, i32, i32) convergent\n"
    "declare float @llvm.maxnum.f32(float, float)\n"
    "attributes #0 = { convergent nounwind \"target-cpu\"=\"sm_80\" \"target-features\"=\"+ptx71\" }\n"
    "!nvvm.annotations = !{!0}\n"
    "!0 = !{ptr @kernel, !\"maxntidx\", i32 128}\n";

static void nvidia_exchange(void **state)
{
    (void)state;
    static float x[256], want[256];
    for (int i = 0; i < 256; i++)
        x[i] = (float)((i * 37) % 101);
    for (int i = 0; i < 256; i++) {
        int block = i / 128 * 128, m = 127 - i % 128;
        want[i] = fmaxf(x[block + m], x[block + (m ^ 1)]);
    }
    Case c = {nvptx, mirror, 128, 32, 2, 256 + 512, sizeof x, x};
    gives(&c, want, sizeof want);
    shows(&c, "  call void @llvm.nvvm.barrier0()\n", "", want, sizeof want);
    shows(&c, "store float %v, ptr addrspace(3) %ps", "store float %v, ptr addrspace(1) %y", want, sizeof want);
    refuses(&c, "%px = getelementptr float, ptr addrspace(1) %x, i32 %i",
            "%i9 = add i32 %i, 3\n  %px = getelementptr float, ptr addrspace(1) %x, i32 %i9", "past the end of 'x'");
    refuses(&c, "%px = getelementptr float", "%px = getelementptr i8", "misaligned");
}


/* ---- NVIDIA: a pipeline of asynchronous copies ---------------------------------------------------------------- */

/* Sums 4 tiles of 32 words, two of them on their way at a time, the last one only 8 bytes a lane of 16. A lane reads
 * what its neighbour's copy brought, so the wait alone does not do. */
static const char pipeline[] =
    "@shared = external addrspace(3) global [0 x i8], align 128\n"
    "define ptx_kernel void @kernel(ptr addrspace(1) %x, ptr addrspace(1) %y) {\n"
    "entry:\n"
    "  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()\n"
    "  %o = shl i32 %t, 4\n"
    "  %n0 = xor i32 %t, 1\n"
    "  %n = shl i32 %n0, 4\n"
    "  %a0 = getelementptr i8, ptr addrspace(3) @shared, i32 %o\n"
    "  %g0 = getelementptr i8, ptr addrspace(1) %x, i32 %o\n"
    "  call void @llvm.nvvm.cp.async.cg.shared.global.16(ptr addrspace(3) %a0, ptr addrspace(1) %g0)\n"
    "  call void @llvm.nvvm.cp.async.commit.group()\n"
    "  br label %loop\n"
    "loop:\n"
    "  %i = phi i32 [ 0, %entry ], [ %next, %join ]\n"
    "  %sum = phi i32 [ 0, %entry ], [ %sum2, %join ]\n"
    "  %next = add i32 %i, 1\n"
    "  %more = icmp slt i32 %next, 4\n"
    "  br i1 %more, label %fetch, label %join\n"
    "fetch:\n"
    "  %stage = and i32 %next, 1\n"
    "  %so = shl i32 %stage, 9\n"
    "  %a1 = getelementptr i8, ptr addrspace(3) %a0, i32 %so\n"
    "  %go = shl i32 %next, 9\n"
    "  %g1 = getelementptr i8, ptr addrspace(1) %g0, i32 %go\n"
    "  %is3 = icmp eq i32 %next, 3\n"
    "  %bytes = select i1 %is3, i32 8, i32 16\n"
    "  call void @llvm.nvvm.cp.async.cg.shared.global.16.s(ptr addrspace(3) %a1, ptr addrspace(1) %g1, i32 %bytes)\n"
    "  br label %join\n"
    "join:\n"
    "  call void @llvm.nvvm.cp.async.commit.group()\n"
    "  call void @llvm.nvvm.cp.async.wait.group(i32 1)\n"
    "  call void @llvm.nvvm.bar.warp.sync(i32 -1)\n"
    "  %rs = and i32 %i, 1\n"
    "  %ro = shl i32 %rs, 9\n"
    "  %r0 = getelementptr i8, ptr addrspace(3) @shared, i32 %ro\n"
    "  %r1 = getelementptr i8, ptr addrspace(3) %r0, i32 %n\n"
    "  %v = load <4 x i32>, ptr addrspace(3) %r1, align 16\n"
    "  %part = call i32 @llvm.vector.reduce.add.v4i32(<4 x i32> %v)\n"
    "  %sum2 = add i32 %sum, %part\n"
    "  call void @llvm.nvvm.barrier0()\n"
    "  br i1 %more, label %loop, label %done\n"
    "done:\n"
    "  %py = getelementptr i32, ptr addrspace(1) %y, i32 %t\n"
    "  store i32 %sum2, ptr addrspace(1) %py, align 4\n"
    "  ret void\n"
    "}\n"
    "declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()\n"
    "declare void @llvm.nvvm.barrier0() convergent\n"
    "declare void @llvm.nvvm.bar.warp.sync(i32) convergent\n"
    "declare void @llvm.nvvm.cp.async.cg.shared.global.16(ptr addrspace(3), ptr addrspace(1))\n"
    "declare void @llvm.nvvm.cp.async.cg.shared.global.16.s(ptr addrspace(3), ptr addrspace(1), i32)\n"
    "declare void @llvm.nvvm.cp.async.commit.group()\n"
    "declare void @llvm.nvvm.cp.async.wait.group(i32)\n"
    "declare i32 @llvm.vector.reduce.add.v4i32(<4 x i32>)\n";

static void asynchronous_copies(void **state)
{
    (void)state;
    static uint32_t x[512], want[32];
    for (uint32_t i = 0; i < 512; i++)
        x[i] = i * i;
    for (uint32_t l = 0; l < 32; l++)
        for (uint32_t i = 0; i < 4; i++)
            for (uint32_t w = 0; w < (i < 3 ? 4 : 2); w++)
                want[l] += x[128 * i + 4 * (l ^ 1) + w];
    Case c = {nvptx, pipeline, 32, 32, 1, 1024, sizeof x, x};
    gives(&c, want, sizeof want);
    shows(&c, "wait.group(i32 1)", "wait.group(i32 2)", want, sizeof want); /* too lax */
    shows(&c, "  call void @llvm.nvvm.bar.warp.sync(i32 -1)\n", "", want, sizeof want); /* only one's own copy */
    shows(&c, "  call void @llvm.nvvm.barrier0()\n", "", want, sizeof want); /* overwritten while read */
    shows(&c, "select i1 %is3, i32 8, i32 16", "select i1 %is3, i32 16, i32 16", want, sizeof want); /* no edge mask */
    refuses(&c, "shl i32 %stage, 9", "shl i32 %next, 9", "on-chip memory, which has 1024 bytes");
    refuses(&c, "%g0 = getelementptr i8, ptr addrspace(1) %x, i32 %o",
            "%o4 = or i32 %o, 4\n  %g0 = getelementptr i8, ptr addrspace(1) %x, i32 %o4",
            "misaligned: asynchronous copy");
    refuses(&c, "icmp slt i32 %next, 4", "icmp slt i32 %next, 9", "past the end of 'x'");
}

/* ---- NVIDIA: matrices ----------------------------------------------------------------------------------------- */

/* y[16][8] = A[16][16] B[16][8], both bf16, B stored by columns: one mma, its operands loaded as the PTX ISA has
 * them. */
static const char matrix[] =
    "define ptx_kernel void @kernel(ptr addrspace(1) %x, ptr addrspace(1) %y) {\n"
    "  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()\n"
    "  %g = lshr i32 %t, 2\n"
    "  %l = and i32 %t, 3\n"
    "  %row = shl i32 %g, 5\n"
    "  %col = shl i32 %l, 2\n"
    "  %o = or i32 %row, %col\n"
    "  %p0 = getelementptr i8, ptr addrspace(1) %x, i32 %o\n"
    "  %p1 = getelementptr i8, ptr addrspace(1) %p0, i32 256\n"
    "  %p2 = getelementptr i8, ptr addrspace(1) %p0, i32 16\n"
    "  %p3 = getelementptr i8, ptr addrspace(1) %p0, i32 272\n"
    "  %q0 = getelementptr i8, ptr addrspace(1) %p0, i32 512\n"
    "  %q1 = getelementptr i8, ptr addrspace(1) %p0, i32 528\n"
    "  %a0 = load i32, ptr addrspace(1) %p0, align 4\n"
    "  %a1 = load i32, ptr addrspace(1) %p1, align 4\n"
    "  %a2 = load i32, ptr addrspace(1) %p2, align 4\n"
    "  %a3 = load i32, ptr addrspace(1) %p3, align 4\n"
    "  %b0 = load i32, ptr addrspace(1) %q0, align 4\n"
    "  %b1 = load i32, ptr addrspace(1) %q1, align 4\n"
    "  %d = call { float, float, float, float } @llvm.nvvm.mma.m16n8k16.row.col.bf16(i32 %a0, i32 %a1, i32 %a2, "
    "i32 %a3, i32 %b0, i32 %b1, float 0.0, float 0.0, float 0.0, float 1.0)\n"
    "  %d0 = extractvalue { float, float, float, float } %d, 0\n"
    "  %d1 = extractvalue { float, float, float, float } %d, 1\n"
    "  %d2 = extractvalue { float, float, float, float } %d, 2\n"
    "  %d3 = extractvalue { float, float, float, float } %d, 3\n"
    "  %lo0 = insertelement <2 x float> poison, float %d0, i32 0\n"
    "  %lo = insertelement <2 x float> %lo0, float %d1, i32 1\n"
    "  %hi0 = insertelement <2 x float> poison, float %d2, i32 0\n"
    "  %hi = insertelement <2 x float> %hi0, float %d3, i32 1\n"
    "  %yo = shl i32 %t, 3\n"
    "  %y0 = getelementptr i8, ptr addrspace(1) %y, i32 %yo\n"
    "  %y1 = getelementptr i8, ptr addrspace(1) %y0, i32 256\n"
    "  store <2 x float> %lo, ptr addrspace(1) %y0, align 8\n"
    "  store <2 x float> %hi, ptr addrspace(1) %y1, align 8\n"
    "  ret void\n"
    "}\n"
    "declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()\n"
    "declare { float, float, float, float } @llvm.nvvm.mma.m16n8k16.row.col.bf16(i32, i32, i32, i32, i32, i32, "
    "float, float, float, float)\n";

static float small(uint32_t i)
{
    return (float)(i * 7 % 31) - 15;
}

static void nvidia_matrices(void **state)
{
    (void)state;
    static uint16_t x[16 * 16 + 8 * 16];
    static float want[16 * 8];
    for (uint32_t i = 0; i < COUNT(x); i++)
        x[i] = f32_to_bf16(small(i));
    for (uint32_t r = 0; r < 16; r++)
        for (uint32_t c = 0; c < 8; c++) {
            want[8 * r + c] = r >= 8 && c % 2 ? 1 : 0;
            for (uint32_t k = 0; k < 16; k++)
                want[8 * r + c] += small(16 * r + k) * small(256 + 16 * c + k);
        }
    Case c = {nvptx, matrix, 32, 32, 1, 0, sizeof x, x};
    gives(&c, want, sizeof want);
    shows(&c, "i32 %a1, i32 %a2,", "i32 %a2, i32 %a1,", want, sizeof want); /* swapped fragment rows */
}

/* ---- AMD ------------------------------------------------------------------------------------------------------ */

/* 64 lanes: a butterfly by ds_bpermute, a row mirror by dpp; through on-chip memory whose address goes through 32 bits,
 * and a private array. */
static const char wave[] =
    "@shared = internal addrspace(3) global [512 x i8] poison, align 128\n"
    "define amdgpu_kernel void @kernel(ptr addrspace(1) inreg noalias %x, ptr addrspace(1) inreg %y) #0 {\n"
    "  %a = alloca [4 x i32], align 4, addrspace(5)\n"
    "  %t = call i32 @llvm.amdgcn.workitem.id.x()\n"
    "  %b = call i32 @llvm.amdgcn.workgroup.id.x()\n"
    "  %bo = shl i32 %b, 6\n"
    "  %i = add i32 %bo, %t\n"
    "  %px = getelementptr i32, ptr addrspace(1) %x, i32 %i\n"
    "  %v = load i32, ptr addrspace(1) %px, align 4, !amdgpu.noclobber !0\n"
    "  %other = xor i32 %t, 32\n"
    "  %at = shl i32 %other, 2\n"
    "  %w = call i32 @llvm.amdgcn.ds.bpermute(i32 %at, i32 %v)\n"
    "  %m = call i32 @llvm.amdgcn.update.dpp.i32(i32 0, i32 %w, i32 320, i32 15, i32 15, i1 true)\n"
    "  %s32 = ptrtoint ptr addrspace(3) @shared to i32\n"
    "  %so = shl i32 %t, 3\n"
    "  %sa = add i32 %s32, %so\n"
    "  %sp = inttoptr i32 %sa to ptr addrspace(3)\n"
    "  store i32 %m, ptr addrspace(3) %sp, align 8\n"
    "  fence syncscope(\"workgroup\") release\n"
    "  call void @llvm.amdgcn.s.barrier()\n"
    "  fence syncscope(\"workgroup\") acquire\n"
    "  %ro = sub i32 512, %so\n"
    "  %rp = getelementptr i8, ptr addrspace(3) getelementptr inbounds (i8, ptr addrspace(3) @shared, i32 -8), "
    "i32 %ro\n"
    "  %r = load i32, ptr addrspace(3) %rp, align 8\n"
    "  %e = and i32 %t, 3\n"
    "  %pa = getelementptr i32, ptr addrspace(5) %a, i32 %e\n"
    "  store i32 %r, ptr addrspace(5) %pa, align 4\n"
    "  %r2 = load i32, ptr addrspace(5) %pa, align 4\n"
    "  %py = getelementptr i32, ptr addrspace(1) %y, i32 %i\n"
    "  store i32 %r2, ptr addrspace(1) %py, align 4\n"
    "  ret void\n"
    "}\n"
    "declare i32 @llvm.amdgcn.workitem.id.x()\n"
    "declare i32 @llvm.amdgcn.workgroup.id.x()\n"
    "declare i32 @llvm.amdgcn.ds.bpermute(i32, i32) convergent\n"
    "declare i32 @llvm.amdgcn.update.dpp.i32(i32, i32, i32 immarg, i32 immarg, i32 immarg, i1 immarg) convergent\n"
    "declare void @llvm.amdgcn.s.barrier() convergent\n"
    "attributes #0 = { \"amdgpu-flat-work-group-size\"=\"64,64\" \"target-cpu\"=\"gfx90a\" }\n"
    "!0 = !{}\n";

static void amd_exchange(void **state)
{
    (void)state;
    static uint32_t x[128], want[128];
    for (uint32_t i = 0; i < 128; i++)
        x[i] = i * i + 5;
    for (uint32_t i = 0; i < 128; i++) {
        uint32_t lane = 63 - i % 64, mirrored = lane ^ 15;
        want[i] = x[(i & 64) | (mirrored ^ 32)];
    }
    Case c = {amdgcn, wave, 64, 64, 2, 512, sizeof x, x};
    gives(&c, want, sizeof want);
    shows(&c, "  call void @llvm.amdgcn.s.barrier()\n", "", want, sizeof want);
    c.shared = 256;
    refuses(&c, NULL, NULL, "needs 512 bytes of on-chip memory");
    c.shared = 512;
}

/* One wmma: A[16][16] and B by columns, each lane a row or column of 32 bytes, in both halves. */
static const char wmma[] =
    "define amdgpu_kernel void @kernel(ptr addrspace(1) %x, ptr addrspace(1) %y) {\n"
    "  %t = call i32 @llvm.amdgcn.workitem.id.x()\n"
    "  %r = and i32 %t, 15\n"
    "  %o = shl i32 %r, 5\n"
    "  %pa = getelementptr i8, ptr addrspace(1) %x, i32 %o\n"
    "  %pb = getelementptr i8, ptr addrspace(1) %pa, i32 512\n"
    "  %a = load <16 x i16>, ptr addrspace(1) %pa, align 16\n"
    "  %b = load <16 x i16>, ptr addrspace(1) %pb, align 16\n"
    "  %d = call <8 x float> @llvm.amdgcn.wmma.f32.16x16x16.bf16.v8f32.v16i16(<16 x i16> %a, <16 x i16> %b, "
    "<8 x float> zeroinitializer)\n"
    "  %d2 = call <8 x float> @llvm.maxnum.v8f32(<8 x float> %d, <8 x float> splat (float -50.0))\n"
    "  %yo = shl i32 %t, 5\n"
    "  %py = getelementptr i8, ptr addrspace(1) %y, i32 %yo\n"
    "  store <8 x float> %d2, ptr addrspace(1) %py, align 32\n"
    "  ret void\n"
    "}\n"
    "declare i32 @llvm.amdgcn.workitem.id.x()\n"
    "declare <8 x float> @llvm.amdgcn.wmma.f32.16x16x16.bf16.v8f32.v16i16(<16 x i16>, <16 x i16>, <8 x float>) "
    "convergent\n"
    "declare <8 x float> @llvm.maxnum.v8f32(<8 x float>, <8 x float>)\n";

static void amd_wmma(void **state)
{
    (void)state;
    static uint16_t x[4 * 256]; /* two more that only a wrong kernel reads */
    static float want[32 * 8];
    for (uint32_t i = 0; i < COUNT(x); i++)
        x[i] = f32_to_bf16(small(i));
    for (uint32_t lane = 0; lane < 32; lane++)
        for (uint32_t v = 0; v < 8; v++) {
            float sum = 0;
            for (uint32_t k = 0; k < 16; k++)
                sum += small(16 * (2 * v + lane / 16) + k) * small(256 + 16 * (lane % 16) + k);
            want[8 * lane + v] = fmaxf(sum, -50);
        }
    Case c = {amdgcn, wmma, 32, 32, 1, 0, sizeof x, x};
    gives(&c, want, sizeof want);
    refuses(&c, "and i32 %t, 15", "and i32 %t, 31", "lanes 0 and 16 hold different operands");
}

/* ---- divergence, zeros, what is not known --------------------------------------------------------------------- */

static const char branch[] =
    "define ptx_kernel void @kernel(ptr addrspace(1) %x, ptr addrspace(1) %y) {\n"
    "  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()\n"
    "  %low = icmp ult i32 %t, 16\n"
    "  br i1 %low, label %some, label %rest\n"
    "some:\n"
    "  %v = call i32 @llvm.nvvm.shfl.sync.idx.i32(i32 65535, i32 %t, i32 3, i32 31)\n"
    "  %py = getelementptr i32, ptr addrspace(1) %y, i32 %t\n"
    "  store i32 %v, ptr addrspace(1) %py, align 4\n"
    "  br label %rest\n"
    "rest:\n"
    "  call void @llvm.nvvm.barrier0()\n"
    "  ret void\n"
    "}\n"
    "declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()\n"
    "declare i32 @llvm.nvvm.read.ptx.sreg.clock()\n"
    "declare void @llvm.nvvm.barrier0() convergent\n"
    "declare i32 @llvm.nvvm.shfl.sync.idx.i32(i32, i32, i32, i32) convergent\n";

static void divergence(void **state)
{
    (void)state;
    static const uint32_t x[1] = {0};
    uint32_t want[16];
    for (int i = 0; i < 16; i++)
        want[i] = 3;
    Case c = {nvptx, branch, 64, 32, 1, 0, sizeof x, x};
    gives(&c, want, sizeof want);
    refuses(&c, "i32 65535", "i32 -1", "shfl.sync.idx (call 0)");
    refuses(&c, "i32 65535", "i32 -1", "waits at a barrier (call 1)");
    refuses(&c, "label %some, label %rest", "label %some, label %end\nend:\n  ret void", "has ended");
}

/* y = max and min of zeros with both signs, both ways round, and of NaN. */
static const char zeros[] =
    "define ptx_kernel void @kernel(ptr addrspace(1) %x, ptr addrspace(1) %y) {\n"
    "  %a = load volatile <4 x float>, ptr addrspace(1) %x, align 16\n"
    "  %q = getelementptr i8, ptr addrspace(1) %x, i32 16\n"
    "  %b = load volatile <4 x float>, ptr addrspace(1) %q, align 16\n"
    "  %max = call <4 x float> @llvm.maxnum.v4f32(<4 x float> %a, <4 x float> %b)\n"
    "  %min = call <4 x float> @llvm.minnum.v4f32(<4 x float> %a, <4 x float> %b)\n"
    "  store <4 x float> %max, ptr addrspace(1) %y, align 16\n"
    "  %y1 = getelementptr i8, ptr addrspace(1) %y, i32 16\n"
    "  store <4 x float> %min, ptr addrspace(1) %y1, align 16\n"
    "  ret void\n"
    "}\n"
    "declare <4 x float> @llvm.maxnum.v4f32(<4 x float>, <4 x float>)\n"
    "declare <4 x float> @llvm.minnum.v4f32(<4 x float>, <4 x float>)\n";

static void signs_of_zeros(void **state)
{
    (void)state;
    const float x[8] = {0.0f, -0.0f, NAN, 2.0f, -0.0f, 0.0f, 3.0f, 2.0f};
    const float want[8] = {0.0f, 0.0f, 3.0f, 2.0f, -0.0f, -0.0f, 3.0f, 2.0f};
    Case c = {nvptx, zeros, 32, 32, 1, 0, sizeof x, x};
    gives(&c, want, sizeof want);
}

/* Of a vector that reaches over the end of the buffer only what is inside is read; a copy into on-chip memory. */
static const char edges[] =
    "@shared = external addrspace(3) global [0 x i8], align 128\n"
    "define ptx_kernel void @kernel(ptr addrspace(1) %x, ptr addrspace(1) %y) {\n"
    "  %v = call <4 x i32> @llvm.masked.load.v4i32.p1(ptr addrspace(1) %x, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, "
    "<4 x i32> zeroinitializer)\n"
    "  call void @llvm.masked.store.v4i32.p1(<4 x i32> %v, ptr addrspace(1) %y, i32 4, "
    "<4 x i1> <i1 1, i1 1, i1 1, i1 1>)\n"
    "  call void @llvm.memcpy.p3.p1.i64(ptr addrspace(3) @shared, ptr addrspace(1) %x, i64 12, i1 false)\n"
    "  %p = getelementptr i8, ptr addrspace(3) @shared, i32 8\n"
    "  %w = load i32, ptr addrspace(3) %p, align 4\n"
    "  %y4 = getelementptr i32, ptr addrspace(1) %y, i32 4\n"
    "  store i32 %w, ptr addrspace(1) %y4, align 4\n"
    "  ret void\n"
    "}\n"
    "declare <4 x i32> @llvm.masked.load.v4i32.p1(ptr addrspace(1), i32, <4 x i1>, <4 x i32>)\n"
    "declare void @llvm.masked.store.v4i32.p1(<4 x i32>, ptr addrspace(1), i32, <4 x i1>)\n"
    "declare void @llvm.memcpy.p3.p1.i64(ptr addrspace(3), ptr addrspace(1), i64, i1)\n";

static void masked_edges(void **state)
{
    (void)state;
    _Alignas(16) static const uint32_t x[4] = {5, 6, 7, 0}, want[5] = {5, 6, 7, 0, 7};
    Case c = {nvptx, edges, 32, 32, 1, 256, 12, x};
    gives(&c, want, sizeof want);
    shows(&c, "%x, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>", "%x, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 1>", want,
          sizeof want);
}

static void unknown_instructions(void **state)
{
    (void)state;
    static const uint32_t x[1] = {0};
    Case c = {nvptx, branch, 32, 32, 1, 0, sizeof x, x};
    refuses(&c, "  call void @llvm.nvvm.barrier0()\n", "  %u = call i32 @llvm.nvvm.read.ptx.sreg.clock()\n",
            "does not know the intrinsic llvm.nvvm.read.ptx.sreg.clock");
    refuses(&c, "  call void @llvm.nvvm.barrier0()\n", "  call void asm sideeffect \"bar.sync 0;\", \"\"()\n",
            "cannot run inline assembly");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nvidia_exchange), cmocka_unit_test(asynchronous_copies), cmocka_unit_test(nvidia_matrices),
        cmocka_unit_test(amd_exchange),    cmocka_unit_test(amd_wmma),            cmocka_unit_test(divergence),
        cmocka_unit_test(signs_of_zeros),  cmocka_unit_test(masked_edges),
        cmocka_unit_test(unknown_instructions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
