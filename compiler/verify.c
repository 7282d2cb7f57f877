/* verify.c - runs one kernel on the host for `bladegen check`: compile, load, all blocks in order. A simt target's
 * kernel runs twice, with warps and lanes in either order, on buffers between guard pages. */
#include "verify.h"
#include "object.h"
#include "simt/guard.h"
#include "simt/simt.h"

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

/* ---- on the SIMT machine --------------------------------------------------------------------------------------- */

/* Copies of a kernel's buffers, the sizes last, for one run. */
typedef struct Copies {
    Guarded memory[SIMT_MAX_ARGUMENTS];
    void *argument[SIMT_MAX_ARGUMENTS];
    SimtRegion region[SIMT_MAX_ARGUMENTS];
    int count;
} Copies;

static void copies_free(Copies *c)
{
    for (int i = 0; i < c->count; i++)
        guard_free(&c->memory[i]);
}

static bool copy_one(Copies *c, int i, const char *name, const void *from, int64_t bytes, bool read_only,
                     uint8_t poison, Err *err)
{
    if (!guard_alloc(&c->memory[i], (size_t)bytes, (uintptr_t)from % GUARD_ALIGN, poison, err))
        return false;
    c->argument[i] = c->memory[i].data;
    c->region[i] = (SimtRegion){name, c->memory[i].data, (size_t)bytes};
    if (bytes)
        memcpy(c->memory[i].data, from, (size_t)bytes);
    if (read_only)
        guard_read_only(&c->memory[i]);
    return true;
}

/* What lies around the buffers differs between the orders, so that results that depend on it do. */
static bool copies_new(Copies *c, const Kernel *k, void *const *buffers, const int64_t *sizes, SimtOrder order,
                       Err *err)
{
    uint8_t poison = order == SIMT_REVERSE ? 0x7F : 0xFF;
    for (size_t i = 0; i < k->mem.len; i++) {
        const Memory *m = &k->mem.at[i];
        if (m->space != SPACE_GLOBAL)
            continue;
        if (m->index + 1 >= SIMT_MAX_ARGUMENTS)
            return err_set(err, "more than %d buffers", SIMT_MAX_ARGUMENTS - 1);
        c->count = MAX(c->count, m->index + 1);
        if (!copy_one(c, m->index, m->name, buffers[m->index], memory_bytes(m, sizes), m->access == ACCESS_IN, poison,
                      err))
            return false;
    }
    return copy_one(c, c->count++, "sizes", sizes, SIZE_COUNT * (int64_t)sizeof *sizes, true, poison, err);
}

static bool run_copies(const Kernel *k, const Target *t, const void *entry, const KernelInfo *info,
                       const int64_t *sizes, SimtOrder order, Copies *c, Err *err)
{
    SimtLaunch launch = {k->name, entry, c->argument, c->count, kernel_blocks(k, sizes), info->threads, t->gpu->wave,
                         info->shared, order, c->region, c->count};
    if (!simt_launch(&launch, err))
        return false;
    for (int i = 0; i < c->count; i++)
        if (c->memory[i].data && !guard_intact(&c->memory[i]))
            return err_set(err, "kernel '%s': writes around '%s', outside of its %zu bytes", k->name, c->region[i].name,
                           c->region[i].size);
    return true;
}

/* Both runs must agree bit for bit; then the caller gets the results. */
static bool compare(const Kernel *k, const Copies *forward, const Copies *reverse, void **buffers, Err *err)
{
    for (size_t i = 0; i < k->mem.len; i++) {
        const Memory *m = &k->mem.at[i];
        if (m->space != SPACE_GLOBAL || m->access == ACCESS_IN)
            continue;
        const Guarded *a = &forward->memory[m->index], *b = &reverse->memory[m->index];
        for (size_t at = 0; at < a->size; at++)
            if (a->data[at] != b->data[at])
                return err_set(err, "kernel '%s': a race, or a read outside of a buffer: byte %zu of '%s' depends on "
                               "the order in which threads run", k->name, at, m->name);
    }
    for (size_t i = 0; i < k->mem.len; i++) {
        const Memory *m = &k->mem.at[i];
        const Guarded *a = &forward->memory[m->index];
        if (m->space == SPACE_GLOBAL && m->access != ACCESS_IN && a->size)
            memcpy(buffers[m->index], a->data, a->size);
    }
    return true;
}

static bool verify_simt(const Kernel *k, const Target *t, const void *entry, const KernelInfo *info, void **buffers,
                        const int64_t *sizes, Err *err)
{
    Copies run[2] = {0};
    bool ok = true;
    for (int order = SIMT_FORWARD; ok && order <= SIMT_REVERSE; order++)
        ok = copies_new(&run[order], k, buffers, sizes, (SimtOrder)order, err) &&
             run_copies(k, t, entry, info, sizes, (SimtOrder)order, &run[order], err);
    ok = ok && compare(k, &run[SIMT_FORWARD], &run[SIMT_REVERSE], buffers, err);
    copies_free(&run[SIMT_FORWARD]);
    copies_free(&run[SIMT_REVERSE]);
    return ok;
}

/* ---- the whole ------------------------------------------------------------------------------------------------- */

bool verify_object(const Kernel *k, const Target *t, const void *object, size_t size, const KernelInfo *info,
                   void **buffers, const int64_t *sizes, Err *err)
{
    if (t->gpu && !t->simt)
        return err_set(err, "this machine can't run code for %s", t->name);
    ObjectSource source = {k->name, object, size, "kernel"};
    ObjectCode code;
    void *entry = NULL;
    if (!object_load_with(&source, 1, t->simt ? simt_symbol : NULL, &entry, &code, err))
        return false;
    if (t->simt) {
        bool ok = verify_simt(k, t, entry, info, buffers, sizes, err);
        object_unload(&code);
        return ok;
    }
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
