/* verify.c - runs one kernel on the host for `bladegen check`: compile, load, all blocks in order. */
#include "verify.h"
#include "object.h"

#include <stdlib.h>
#include <string.h>

int64_t ir_eval(const Kernel *k, Ref r, const int64_t *sizes)
{
    const Ins *i = ir_at(k, r);
    int64_t x = i->nargs > 0 ? ir_eval(k, i->arg[0], sizes) : 0, y = i->nargs > 1 ? ir_eval(k, i->arg[1], sizes) : 0;
    switch (i->op) {
    case OP_CONST: return i->integer;
    case OP_SIZE: return sizes[i->integer];
    case OP_ADD: return x + y;
    case OP_SUB: return x - y;
    case OP_MUL: return x * y;
    case OP_DIV: return y > 0 ? x / y : 0;
    case OP_MIN: return MIN(x, y);
    case OP_MAX: return MAX(x, y);
    default: return 0;
    }
}

int64_t kernel_blocks(const Kernel *k, const int64_t *sizes)
{
    int64_t n = 1;
    for (int d = 0; d < k->grid_rank; d++)
        n *= ir_eval(k, k->grid[d], sizes);
    return n;
}

bool verify_object(const Kernel *k, const Target *t, const void *object, size_t size, const KernelInfo *info,
                   void **buffers, const int64_t *sizes, Err *err)
{
    if (t->gpu)
        return err_set(err, "this machine can't run code for %s", t->name);
    ObjectSource source = {k->name, object, size, "kernel"};
    ObjectCode code;
    void *entry = NULL;
    if (!object_load(&source, 1, &entry, &code, err))
        return false;
    void *scratch = aligned_alloc(64, (size_t)(info->scratch + 127) / 64 * 64);
    memset(scratch, 0x7f, (size_t)(info->scratch + 127) / 64 * 64); /* whoever reads before writing sees 3e38 */
    ((HostKernel *)(uintptr_t)entry)((void *const *)buffers, sizes, 0, kernel_blocks(k, sizes), scratch);
    free(scratch);
    object_unload(&code);
    return true;
}

bool verify_run(void *context, const Kernel *k, void **buffers, const int64_t *sizes, Err *err)
{
    const Target *t = context;
    Buf object = {0};
    KernelInfo info = {0};
    if (!target_runs_here(t))
        return err_set(err, "this CPU does not run code for %s", t->name);
    bool ok = llvm_compile(k, t, EMIT_OBJECT, &object, &info, err) &&
              verify_object(k, t, object.data, object.len, &info, buffers, sizes, err);
    buf_free(&object);
    return ok;
}
