/* pipeline.c - loops whose copies run ahead. Every copy into an on-chip tile that stands directly in such a loop, with
 * the scalars it needs, is issued for a later turn than the one that computes:
 *
 *   NVIDIA  asynchronous copies, stages - 1 turns ahead, a slot of memory a stage; a turn waits for its group, and one
 *           barrier makes the copies of all threads visible and the slot that is filled next free.
 *   AMD     one slot; the next turn's data is fetched into registers while this one computes.
 *
 * Values made for a copy belong to the turn it is for; those that the computation uses as well are made again. */
#include "gpu.h"

#include <stdlib.h>
#include <string.h>

typedef struct Pipeline {
    Lower *l;
    Ref loop, end;
    int stages;
    bool *ahead;      /* by Ref: the copies, and what they depend on inside the loop */
    VEC(Ref) copies;
    V lo, hi, slot;   /* slot: which one this turn reads, i64 */
    int64_t step;
    V **fetched;      /* AMD: by copy, allocas */
    int *count;
} Pipeline;

static Ref end_of(const Kernel *k, Ref open)
{
    int depth = 0;
    for (Ref r = open; r < (Ref)k->ins.len; r++) {
        Op op = ir_at(k, r)->op;
        depth += op == OP_LOOP || op == OP_WHEN;
        depth -= op == OP_END;
        if (!depth)
            return r;
    }
    return (Ref)k->ins.len;
}

static int stages_of(const Lower *l, const Ins *loop) { return MAX(1, MIN(loop->b, l->g->stages)); }

/* Copies directly in the loop: not under a condition, not in a loop inside. */
static bool next_copy(const Kernel *k, Ref *r, Ref end)
{
    int depth = 0;
    for (Ref at = *r + 1; at < end; at++) {
        Op op = ir_at(k, at)->op;
        depth += (op == OP_LOOP || op == OP_WHEN) - (op == OP_END);
        if (op == OP_COPY && !depth) {
            *r = at;
            return true;
        }
    }
    return false;
}

static int64_t target_memory(const Kernel *k, const Ins *copy)
{
    return ir_at(k, ir_at(k, copy->arg[0])->arg[0])->integer;
}

int staged_slots(Lower *l, size_t mem, bool *staged)
{
    int most = 1;
    for (Ref r = 1; r < (Ref)l->k->ins.len; r++) {
        const Ins *i = ir_at(l->k, r);
        if (i->op != OP_LOOP || i->a != LOOP_PIPELINED)
            continue;
        for (Ref c = r, end = end_of(l->k, r); next_copy(l->k, &c, end);)
            if (target_memory(l->k, ir_at(l->k, c)) == (int64_t)mem) {
                *staged = true;
                most = MAX(most, stages_of(l, i));
            }
    }
    return most;
}

/* Marks what a value depends on inside the loop; false for what can't be made ahead of its turn. */
static bool mark(Pipeline *p, Ref r)
{
    const Kernel *k = p->l->k;
    const Ins *i = ir_at(k, r);
    if (r <= p->loop || r >= p->end || p->ahead[r])
        return true;
    if (i->op == OP_FRAG || op_info[i->op].class == CLASS_CTRL)
        return ir_error(k, r, p->l->err,
                        "a copy of a pipelined loop depends on it, which changes from turn to turn; compute the "
                        "place from the loop's index");
    const Memory *m =
        i->op == OP_LOAD || i->op == OP_GATHER ? &k->mem.at[ir_at(k, ir_at(k, i->arg[0])->arg[0])->integer] : NULL;
    if (m && (m->space == SPACE_SHARED || m->access != ACCESS_IN))
        return ir_error(k, r, p->l->err, "a copy of a pipelined loop depends on it, but '%s' may change meanwhile",
                        m->name);
    p->ahead[r] = true;
    for (int n = 0; n < i->nargs; n++)
        if (!mark(p, i->arg[n]))
            return false;
    return true;
}

static bool survey(Pipeline *p)
{
    const Kernel *k = p->l->k;
    for (Ref c = p->loop; next_copy(k, &c, p->end);) {
        vec_push(&p->copies, c);
        if (!mark(p, c))
            return false;
    }
    return true;
}

/* ---- slots -------------------------------------------------------------------------------------------------- */

static void use_slot(Pipeline *p, V slot, V *saved)
{
    Lower *l = p->l;
    for (size_t m = 0; m < l->k->mem.len; m++) {
        saved[m] = l->base[m];
        if (l->staged[m] && l->slots[m] > 1)
            l->base[m] = bytes_at(l, l->base[m], LLVMBuildNSWMul(l->b, slot, c64(l, l->bytes[m]), ""));
    }
}

static void restore_slot(Pipeline *p, V *saved) { memcpy(p->l->base, saved, p->l->k->mem.len * sizeof *saved); }

static void fetch(Pipeline *p, size_t n);

/* What stands before the copies of the turn `at`; then `each` for every copy. */
static void run_ahead(Pipeline *p, V at, V slot, void (*each)(Pipeline *p, size_t n))
{
    Lower *l = p->l;
    V *saved = arena_array(l->arena, V, MAX(l->k->mem.len, 1)),
      turn = l->val[p->loop].reg ? l->val[p->loop].reg[0] : NULL;
    Layout one = layout_scalar(l->shape);
    new_value(l, p->loop, &one)[0] = at;
    use_slot(p, slot, saved);
    for (Ref r = p->loop + 1; r < p->end; r++)
        if (p->ahead[r] && ir_at(l->k, r)->op != OP_COPY)
            lower_ins(l, r);
    for (size_t n = 0; n < p->copies.len - (l->t->fault == GPU_FAULT_COPY && each != fetch); n++)
        each(p, n);
    restore_slot(p, saved);
    new_value(l, p->loop, &one)[0] = turn;
}

static void start(Pipeline *p, size_t n) { copy_start(p->l, ir_at(p->l->k, p->copies.at[n])); }

static void fetch(Pipeline *p, size_t n)
{
    Lower *l = p->l;
    int count;
    V *x = copy_fetch(l, ir_at(l->k, p->copies.at[n]), &count);
    for (int i = 0; x && i < count; i++) {
        if (!p->fetched[n])
            p->fetched[n] = arena_array(l->arena, V, count);
        if (!p->fetched[n][i])
            p->fetched[n][i] = LLVMBuildAlloca(l->entry, LLVMTypeOf(x[i]), "");
        LLVMBuildStore(l->b, x[i], p->fetched[n][i]);
        p->count[n] = count;
    }
}

static void drop(Pipeline *p, size_t n)
{
    Lower *l = p->l;
    V *x = arena_array(l->arena, V, MAX(p->count[n], 1));
    for (int at = 0; at < p->count[n]; at++) {
        V slot = p->fetched[n][at];
        x[at] = LLVMBuildLoad2(l->b, LLVMGetAllocatedType(slot), slot, "");
    }
    if (!l->err->text[0])
        copy_drop(l, ir_at(l->k, p->copies.at[n]), x);
}

/* ---- the loop ----------------------------------------------------------------------------------------------- */

static V is_turn(Pipeline *p, V at) { return LLVMBuildICmp(p->l->b, LLVMIntSLT, at, p->hi, ""); }
static V plus(Pipeline *p, V at, int64_t turns) { return LLVMBuildNSWAdd(p->l->b, at, c64(p->l, turns * p->step), ""); }

static void prologue(Pipeline *p)
{
    Lower *l = p->l;
    bool asynchronous = l->g->nvidia;
    for (int s = 0; s < (asynchronous ? p->stages - 1 : 1); s++) {
        V at = plus(p, p->lo, s);
        LLVMBasicBlockRef join = open_if(l, is_turn(p, at));
        run_ahead(p, at, c64(l, s), asynchronous ? start : fetch);
        close_if(l, join);
        copy_commit(l);
    }
}

/* At the beginning of a turn: this one's data is there, the one to come is on its way. */
static void advance(Pipeline *p, V turn)
{
    Lower *l = p->l;
    if (!l->g->nvidia) {
        block_barrier(l); /* everyone has done with the last turn's */
        run_ahead(p, turn, c64(l, 0), drop);
        block_barrier(l);
        LLVMBasicBlockRef join = open_if(l, is_turn(p, plus(p, turn, 1)));
        run_ahead(p, plus(p, turn, 1), c64(l, 0), fetch);
        close_if(l, join);
        return;
    }
    if (p->stages == 1) {
        block_barrier(l);
        run_ahead(p, turn, c64(l, 0), start);
        copy_commit(l);
        copy_wait(l, 0);
        block_barrier(l);
        return;
    }
    copy_wait(l, p->stages - 2);
    block_barrier(l);
    V at = plus(p, turn, p->stages - 1), first = LLVMBuildICmp(l->b, LLVMIntEQ, p->slot, c64(l, 0), "");
    V free_slot =
        LLVMBuildSelect(l->b, first, c64(l, p->stages - 1), LLVMBuildNSWSub(l->b, p->slot, c64(l, 1), ""), "");
    LLVMBasicBlockRef join = open_if(l, is_turn(p, at));
    run_ahead(p, at, free_slot, start);
    close_if(l, join);
    copy_commit(l);
}

static V next_slot(Pipeline *p)
{
    Lower *l = p->l;
    V next = LLVMBuildNSWAdd(l->b, p->slot, c64(l, 1), "");
    return LLVMBuildSelect(l->b, LLVMBuildICmp(l->b, LLVMIntEQ, next, c64(l, p->stages), ""), c64(l, 0), next, "");
}

/* The turn's own part: everything but the copies. */
static void compute(Pipeline *p)
{
    Lower *l = p->l;
    V *saved = arena_array(l->arena, V, MAX(l->k->mem.len, 1));
    use_slot(p, p->slot, saved);
    l->in_pipeline = true;
    Ref from = p->loop + 1;
    for (size_t n = 0; n < p->copies.len; n++) {
        lower_range(l, from, p->copies.at[n]);
        from = p->copies.at[n] + 1;
    }
    lower_range(l, from, p->end);
    l->in_pipeline = false;
    restore_slot(p, saved);
}

Ref lower_pipeline(Lower *l, Ref loop)
{
    const Ins *i = ir_at(l->k, loop);
    Pipeline p = {.l = l, .loop = loop, .end = end_of(l->k, loop), .stages = stages_of(l, i), .step = i->integer};
    p.ahead = arena_array(l->arena, bool, l->k->ins.len);
    if (!survey(&p)) {
        vec_free(&p.copies);
        return p.end;
    }
    p.fetched = arena_array(l->arena, V *, (int)p.copies.len + 1);
    p.count = arena_array(l->arena, int, (int)p.copies.len + 1);
    p.lo = scalar(l, i->arg[0]), p.hi = scalar(l, i->arg[1]);
    prologue(&p);

    LLVMBasicBlockRef before = LLVMGetInsertBlock(l->b), test = new_block(l, "loop"), body = new_block(l, "body"),
                      after = new_block(l, "exit");
    LLVMBuildBr(l->b, test);
    LLVMPositionBuilderAtEnd(l->b, test);
    V turn = LLVMBuildPhi(l->b, l->i64, "i"), zero = c64(l, 0);
    p.slot = LLVMBuildPhi(l->b, l->i64, "slot");
    LLVMAddIncoming(turn, &p.lo, &before, 1);
    LLVMAddIncoming(p.slot, &zero, &before, 1);
    LLVMBuildCondBr(l->b, is_turn(&p, turn), body, after);
    LLVMPositionBuilderAtEnd(l->b, body);
    Layout one = layout_scalar(l->shape);
    new_value(l, loop, &one)[0] = turn;
    advance(&p, turn);
    new_value(l, loop, &one)[0] = turn;
    compute(&p);
    V next = plus(&p, turn, 1), slot = next_slot(&p);
    LLVMBasicBlockRef latch = LLVMGetInsertBlock(l->b);
    LLVMAddIncoming(turn, &next, &latch, 1);
    LLVMAddIncoming(p.slot, &slot, &latch, 1);
    LLVMBuildBr(l->b, test);
    LLVMPositionBuilderAtEnd(l->b, after);
    block_barrier(l); /* the tiles may be filled anew */
    vec_free(&p.copies);
    return p.end;
}
