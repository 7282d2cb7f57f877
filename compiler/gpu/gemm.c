/* gemm.c - frag += A x B on GPUs. Where a matrix unit knows the types (matrix.h), A and B are read in runs of
 * neighbouring elements of K straight into its operands, from global or on-chip memory, A from registers too.
 * Everything else is computed element by element with fused multiply-adds. Every accumulator walks K upwards, alone:
 * neither tile sizes nor warps change a bit. */
#include "matrix.h"

#include <stdlib.h>
#include <string.h>

/* ---- which product ------------------------------------------------------------------------------------------ */

static const struct {
    DType a, b, acc;
} products[] = {{DT_BF16, DT_BF16, DT_F32}, {DT_BF16, DT_U4, DT_F32}, {DT_S8, DT_U4, DT_S32}, {DT_S8, DT_U8, DT_S32}};

static const Memory *memory_of(const Lower *l, const Ins *view)
{
    return &l->k->mem.at[ir_at(l->k, view->arg[0])->integer];
}

/* Elements of K that the lanes of a unit take at once; 0 when B does not lie in runs. */
static int chunk_of(const Lower *l, const Unit *u, const Ins *gemm)
{
    const Ins *b = ir_at(l->k, gemm->arg[2]);
    const Memory *m = memory_of(l, b);
    int most = 64 * 8 / dtype_bits(type_of(l->k, gemm->arg[1]).elem);
    if (m->layout == LAYOUT_PANEL)
        return (b->a & VIEW_TRANSPOSED) || m->unit < u->k ? 0 : m->unit;
    while (most > u->k && most > b->type.rows)
        most /= 2;
    return MAX(most, u->k);
}

bool matrix_product(Lower *l, const Ins *gemm)
{
    DType a = type_of(l->k, gemm->arg[1]).elem, b = type_of(l->k, gemm->arg[2]).elem,
          acc = type_of(l->k, gemm->arg[0]).elem;
    for (size_t n = 0; n < COUNT(products); n++)
        if (products[n].a == a && products[n].b == b && products[n].acc == acc) {
            Unit u = unit_of(l->t, acc == DT_S32);
            return chunk_of(l, &u, gemm) > 0;
        }
    return false;
}

/* ---- operands ----------------------------------------------------------------------------------------------- */

/* One factor: where element (x, k) lies, x a row of A or a column of B. */
typedef struct Factor {
    const Ins *view;   /* NULL: A in registers */
    V *reg;            /* then these, in layout_factor */
    Layout layout;
    bool panel;
    Window w;          /* rows */
    int64_t x_stride, k_stride; /* bytes (rows) */
    V x_limit, k_limit; /* i32, or NULL */
    int size_x, size_k, bits, align; /* align: bytes, of every run that begins at a multiple of it */
    int64_t chunk_bytes; /* from chunk to chunk (panel, or K contiguous) */
} Factor;

typedef struct Gemm {
    Lower *l;
    const Ins *ins;
    Unit u;
    int chunk, run;   /* elements of K: of all lanes, of one */
    int tiles;        /* calls dealt out together */
    Factor a, b;
    Layout layout;    /* of the accumulators */
    VEC(int) rows;    /* first row of every tile of 16 that this thread's registers hold */
    VEC(int) cols;    /* first column of every group of `tiles` calls */
    V row, col, k;    /* this thread's own part, i32 */
    V *x_base[2];     /* pointers: of each A tile and half; of each B call, at chunk 0 */
    V *x_inside[2];   /* NULL entries: always */
} Gemm;

static Factor factor_of(Gemm *g, Ref ref, bool is_a)
{
    Lower *l = g->l;
    const Ins *v = ir_at(l->k, ref);
    Factor f = {.bits = dtype_bits(v->type.elem),
                .size_x = is_a ? v->type.rows : v->type.cols,
                .size_k = is_a ? v->type.cols : v->type.rows};
    if (v->op != OP_VIEW) {
        f.layout = layout_factor(l->t, l->shape, v->type.rows, v->type.cols);
        f.reg = operand_in(l, ref, &f.layout);
        return f;
    }
    f.view = v;
    const Memory *m = memory_of(l, v);
    f.panel = m->layout == LAYOUT_PANEL;
    if (!f.panel) {
        window_of(l, v, &f.w);
        f.x_stride = is_a ? f.w.row_stride : f.w.col_stride;
        f.k_stride = is_a ? f.w.col_stride : f.w.row_stride;
        f.x_limit = is_a ? f.w.row_limit : f.w.col_limit;
        f.k_limit = is_a ? f.w.col_limit : f.w.row_limit;
        f.align = f.w.align;
        f.chunk_bytes = g->chunk * f.k_stride;
        return f;
    }
    int rows_over, cols_over;
    view_needs_mask(l->k, v, &rows_over, &cols_over);
    f.align = 16;
    f.chunk_bytes = (int64_t)m->unit * m->wide * f.bits / 8;
    if (cols_over) {
        V first = scalar(l, v->arg[m->rank]);
        V left = LLVMBuildNSWSub(l->b, c64(l, round_up(m->dim[m->rank - 1].n, m->wide)), first, "");
        left = math_binary(&l->code, OP_MIN, DT_S64, left, c64(l, f.size_x), 1);
        f.x_limit = LLVMBuildTrunc(l->b, left, l->i32, "");
    }
    return f;
}

static bool contiguous(const Factor *f) { return f->panel || f->k_stride == f->bits / 8; }

/* Pointer to (x, this lane's k) in chunk 0, and whether x lies inside. */
static V base_pointer(Gemm *g, const Factor *f, V x, int covered, V *inside)
{
    Lower *l = g->l;
    *inside = NULL;
    if (f->x_limit || covered > f->size_x)
        *inside = LLVMBuildICmp(l->b, LLVMIntSLT, x, f->x_limit ? f->x_limit : c32(l, f->size_x), "");
    if (f->panel) /* a chunk is a unit, so that (x, k) is the start of the column's unit plus k */
        return bytes_at(l, panel_pointer(l, f->view, c32(l, 0), x),
                        LLVMBuildZExt(l->b,
                                      LLVMBuildLShr(l->b, LLVMBuildMul(l->b, g->k, c32(l, f->bits), ""), c32(l, 3), ""),
                                      l->i64, ""));
    V at = LLVMBuildNSWMul(l->b, LLVMBuildZExt(l->b, x, l->i64, ""), c64(l, f->x_stride), "");
    V down = LLVMBuildNSWMul(l->b, LLVMBuildZExt(l->b, g->k, l->i64, ""), c64(l, f->k_stride), "");
    return bytes_at(l, f->w.corner, LLVMBuildNSWAdd(l->b, at, down, ""));
}

static void make_bases(Gemm *g)
{
    Lower *l = g->l;
    int n = 0, halves = g->u.halves;
    g->x_base[0] = arena_array(l->arena, V, (int)g->rows.len * halves);
    g->x_inside[0] = arena_array(l->arena, V, (int)g->rows.len * halves);
    for (size_t r = 0; r < g->rows.len && g->a.view; r++)
        for (int h = 0; h < halves; h++, n++) {
            V x = LLVMBuildAdd(l->b, g->row, c32(l, g->rows.at[r] + 8 * h), "");
            g->x_base[0][n] = base_pointer(g, &g->a, x, layout_span(&g->layout, true), &g->x_inside[0][n]);
        }
    n = 0;
    g->x_base[1] = arena_array(l->arena, V, (int)g->cols.len * g->tiles);
    g->x_inside[1] = arena_array(l->arena, V, (int)g->cols.len * g->tiles);
    for (size_t c = 0; c < g->cols.len; c++)
        for (int j = 0; j < g->tiles; j++, n++) {
            V x = LLVMBuildAdd(l->b, g->col, c32(l, g->cols.at[c] + g->u.each * j), "");
            g->x_base[1][n] = base_pointer(g, &g->b, x, layout_span(&g->layout, false), &g->x_inside[1][n]);
        }
}

/* Does this chunk's run of K lie inside? NULL: for sure. */
static V k_inside(Gemm *g, const Factor *f, V first, int plus)
{
    Lower *l = g->l;
    if (f->panel || (!f->k_limit && f->size_k % g->chunk == 0))
        return NULL;
    V k = LLVMBuildAdd(l->b, LLVMBuildAdd(l->b, first, g->k, ""), c32(l, plus), "");
    return LLVMBuildICmp(l->b, LLVMIntSLT, k, f->k_limit ? f->k_limit : c32(l, f->size_k), "");
}

/* Pieces of `bytes` become 32-bit words, in order. */
static int split_words(Lower *l, V piece, int bytes, V *words, int at)
{
    if (bytes < 4) { /* two or four of them a word */
        int per = 4 / bytes;
        V wide = LLVMBuildShl(l->b, LLVMBuildZExt(l->b, piece, l->i32, ""), c32(l, at % per * bytes * 8), "");
        words[at / per] = at % per ? LLVMBuildOr(l->b, words[at / per], wide, "") : wide;
        return at + 1;
    }
    for (int n = 0; n < bytes / 4; n++)
        words[at++] = bytes == 4 ? piece : LLVMBuildExtractElement(l->b, piece, c32(l, n), "");
    return at;
}

/* The lane's run of one chunk, which begins at element `first` of K (i32, and `offset` bytes from chunk 0). */
static void fetch_run(Gemm *g, const Factor *f, V base, V inside, V first, V offset, V *words)
{
    Lower *l = g->l;
    int bytes = g->run * f->bits / 8, each = MIN(16, bytes), at = 0;
    while (each > f->align)
        each /= 2;
    if (!contiguous(f))
        each = f->bits / 8;
    LLVMTypeRef type = each >= 8 ? LLVMVectorType(l->i32, (unsigned)each / 4)
                                 : LLVMIntTypeInContext(l->ctx, (unsigned)each * 8);
    V start = bytes_at(l, base, offset), safe = l->base[ir_at(l->k, f->view->arg[0])->integer];
    for (int done = 0; done < bytes; done += each) {
        int element = done * 8 / f->bits;
        int64_t plus = contiguous(f) ? done : element * f->k_stride;
        V ok = both(l, inside, k_inside(g, f, first, element));
        V p = plus ? bytes_at(l, start, c64(l, plus)) : start;
        at = split_words(l, load_masked(l, type, p, safe, ok, each), each, words, at);
    }
}

/* A in registers: pairs of 16-bit elements, in the order of K. */
static void registers_run(Gemm *g, int row, int chunk, V *words)
{
    Lower *l = g->l;
    for (int w = 0; w < g->run / 2; w++) {
        V half[2];
        for (int n = 0; n < 2; n++) {
            uint16_t k = (uint16_t)(chunk * g->chunk + 2 * w + n);
            int reg = layout_find(&g->a.layout, (Bit){(uint16_t)row, k});
            half[n] = LLVMBuildZExt(l->b, g->a.reg[reg], l->i32, "");
        }
        words[w] = LLVMBuildOr(l->b, half[0], LLVMBuildShl(l->b, half[1], c32(l, 16), ""), "");
    }
}

/* B as A's type wants it. Nibbles: bytes k 0..3 and 4..7 of a word, or pairs 128 + q in bf16. */
static V *unpack(Gemm *g, V *words, int *count)
{
    Lower *l = g->l;
    int have = g->run * g->b.bits / 32;
    if (g->b.bits != 4) {
        *count = have;
        return words;
    }
    int per = g->u.integer ? 2 : 4;
    V *out = arena_array(l->arena, V, have * per);
    for (int n = 0; n < have * per; n++) {
        V w = LLVMBuildLShr(l->b, words[n / per], c32(l, n % per * 4), "");
        out[n] = LLVMBuildAnd(l->b, w, c32(l, g->u.integer ? 0x0F0F0F0F : 0x000F000F), "");
        if (!g->u.integer)
            out[n] = LLVMBuildOr(l->b, out[n], c32(l, 0x43004300), "");
    }
    *count = have * per;
    return out;
}

/* ---- the product -------------------------------------------------------------------------------------------- */

static void present_sums(Gemm *g, int row, int col, V *slot, V *acc)
{
    Lower *l = g->l;
    int n = 0;
    LLVMTypeRef type = g->u.integer ? l->i32 : l->f32;
    for (int h = 0; h < g->u.halves; h++)
        for (int e = 0; e < g->u.each; e++, n++) {
            int reg = layout_find(&g->layout, (Bit){(uint16_t)(row + 8 * h), (uint16_t)(col + e)});
            slot[n] = l->val[g->ins->arg[0]].reg[reg];
            acc[n] = LLVMBuildLoad2(l->b, type, slot[n], "");
        }
}

/* Words w of A's run with these of B: one call of the unit. */
static void multiply_words(Gemm *g, int row, int col, V *const *a, V *b, int w)
{
    Lower *l = g->l;
    V slot[8], acc[8], *part[2] = {a[0] + w, g->u.halves > 1 ? a[1] + w : NULL};
    present_sums(g, row, col, slot, acc);
    unit_multiply(l, &g->u, acc, part, b);
    for (int n = 0; n < g->u.halves * g->u.each; n++)
        LLVMBuildStore(l->b, acc[n], slot[n]);
}

/* Units without unsigned factors see q - 128, and 128 times the sum of A's row is added: as a product with 64, twice.
 */
static V *signed_words(Gemm *g, V *b, int words)
{
    Lower *l = g->l;
    V *out = arena_array(l->arena, V, words);
    for (int n = 0; n < words; n++)
        out[n] = LLVMBuildXor(l->b, b[n], c32(l, (int32_t)0x80808080), "");
    return out;
}

static void add_offset(Gemm *g, int row, int col, V *const *a, int w)
{
    V sixty_four[8];
    for (int n = 0; n < g->u.words; n++)
        sixty_four[n] = c32(g->l, 0x40404040);
    for (int twice = 0; twice < 2; twice++)
        multiply_words(g, row, col, a, sixty_four, w);
}

/* One chunk of K: `turn` (i64) counts chunks, `number` is its constant part for A in registers. */
static void multiply_chunk(Gemm *g, V turn, int number)
{
    Lower *l = g->l;
    int a_words = g->run * g->a.bits / 32, tiles = (int)g->rows.len * g->u.halves;
    V first = LLVMBuildTrunc(l->b, LLVMBuildMul(l->b, turn, c64(l, g->chunk), ""), l->i32, "");
    V **a = arena_array(l->arena, V *, tiles);
    for (int n = 0; n < tiles; n++) {
        a[n] = arena_array(l->arena, V, a_words);
        int row = g->rows.at[n / g->u.halves] + 8 * (n % g->u.halves);
        if (g->a.view)
            fetch_run(g, &g->a, g->x_base[0][n], g->x_inside[0][n], first,
                      LLVMBuildMul(l->b, turn, c64(l, g->a.chunk_bytes), ""), a[n]);
        else
            registers_run(g, row, number, a[n]);
    }
    bool shifted = g->u.no_unsigned && g->b.bits == 8;
    for (int n = 0; n < (int)g->cols.len * g->tiles; n++) {
        int col = g->cols.at[n / g->tiles] + g->u.each * (n % g->tiles), words;
        V *raw = arena_array(l->arena, V, MAX(g->run * g->b.bits / 32, 1));
        fetch_run(g, &g->b, g->x_base[1][n], g->x_inside[1][n], first,
                  LLVMBuildMul(l->b, turn, c64(l, g->b.chunk_bytes), ""), raw);
        V *b = unpack(g, raw, &words);
        b = shifted ? signed_words(g, b, words) : b;
        for (int w = 0; w < words; w += g->u.words) /* rows inside: calls side by side have sums of their own */
            for (size_t r = 0; r < g->rows.len; r++) {
                multiply_words(g, g->rows.at[r], col, a + r * (size_t)g->u.halves, b + w, w);
                if (shifted)
                    add_offset(g, g->rows.at[r], col, a + r * (size_t)g->u.halves, w);
            }
    }
}

/* What the registers' bits beyond one group of calls stand for. */
static void list_tiles(Gemm *g)
{
    int inner = g->u.each * g->tiles;
    for (int reg = 0; reg < reg_count(&g->layout); reg++) {
        Bit b = layout_reg(&g->layout, reg);
        if (b.row % 16 == 0 && b.col == 0 && b.row < layout_span(&g->layout, true))
            vec_push(&g->rows, b.row);
        if (b.row == 0 && b.col % inner == 0 && b.col < g->b.size_x)
            vec_push(&g->cols, b.col);
    }
}

static V warp_part(Lower *l, const Layout *layout, bool rows)
{
    Layout warps = *layout;
    memset(warps.lane, 0, sizeof warps.lane);
    return thread_part(l, &warps, rows);
}

static void gemm_units(Lower *l, const Ins *i)
{
    enum { UNROLL = 4 };
    Gemm g = {.l = l,
              .ins = i,
              .u = unit_of(l->t, type_of(l->k, i->arg[0]).elem == DT_S32),
              .layout = l->val[i->arg[0]].layout};
    Type acc = type_of(l->k, i->arg[0]);
    g.chunk = chunk_of(l, &g.u, i);
    if (ir_at(l->k, i->arg[1])->op != OP_VIEW && g.chunk > 32)
        g.chunk = 32;
    g.run = g.chunk / g.u.lanes_k;
    g.tiles = unit_tiles(&g.u, l->shape, acc.cols);
    g.k = unit_k(l, &g.u, g.run);
    g.a = factor_of(&g, i->arg[1], true);
    g.b = factor_of(&g, i->arg[2], false);
    list_tiles(&g);
    g.row = LLVMBuildAdd(l->b, unit_row(l, &g.u), warp_part(l, &g.layout, true), "");
    g.col = LLVMBuildAdd(l->b, unit_column(l, &g.u, g.tiles), warp_part(l, &g.layout, false), "");
    make_bases(&g);
    int chunks = (g.b.size_k + g.chunk - 1) / g.chunk, turns = g.a.view && chunks > UNROLL ? chunks / UNROLL : 0;
    if (turns > 1) {
        LLVMBasicBlockRef from = LLVMGetInsertBlock(l->b), body = new_block(l, "k"), after = new_block(l, "k.end");
        LLVMBuildBr(l->b, body);
        LLVMPositionBuilderAtEnd(l->b, body);
        V turn = LLVMBuildPhi(l->b, l->i64, "chunk"), zero = c64(l, 0);
        LLVMAddIncoming(turn, &zero, &from, 1);
        for (int u = 0; u < UNROLL; u++)
            multiply_chunk(&g, LLVMBuildNSWAdd(l->b, turn, c64(l, u), ""), 0);
        V next = LLVMBuildNSWAdd(l->b, turn, c64(l, UNROLL), "");
        LLVMBasicBlockRef latch = LLVMGetInsertBlock(l->b);
        LLVMAddIncoming(turn, &next, &latch, 1);
        LLVMBuildCondBr(l->b, LLVMBuildICmp(l->b, LLVMIntSLT, next, c64(l, turns * UNROLL), ""), body, after);
        LLVMPositionBuilderAtEnd(l->b, after);
    } else
        turns = 0;
    for (int at = turns * UNROLL; at < chunks; at++)
        multiply_chunk(&g, c64(l, at), at);
    vec_free(&g.rows);
    vec_free(&g.cols);
}

/* ---- without a unit ----------------------------------------------------------------------------------------- */

static V load_plain(Lower *l, const Ins *view, const Window *w, bool panel, V x, V k, bool is_a, V inside)
{
    const Memory *m = memory_of(l, view);
    V p, safe = l->base[ir_at(l->k, view->arg[0])->integer];
    if (panel)
        p = panel_pointer(l, view, k, x);
    else {
        V row = LLVMBuildZExt(l->b, is_a ? x : k, l->i64, ""), col = LLVMBuildZExt(l->b, is_a ? k : x, l->i64, "");
        V at = LLVMBuildNSWMul(l->b, row, c64(l, w->row_stride), "");
        p = bytes_at(l, w->corner,
                     LLVMBuildNSWAdd(l->b, at, LLVMBuildNSWMul(l->b, col, c64(l, w->col_stride), ""), ""));
    }
    return load_masked(l, elem_type(&l->code, m->elem), p, safe, inside, dtype_bits(m->elem) / 8);
}

/* The factors of one k, by row and column constants of the registers, each loaded once. */
static void plain_step(Lower *l, const Ins *i, const Layout *layout, V k, V row, V col)
{
    const Ins *a = ir_at(l->k, i->arg[1]), *b = ir_at(l->k, i->arg[2]);
    Window wa, wb;
    Type acc = type_of(l->k, i->arg[0]);
    window_of(l, a, &wa);
    bool panel = !window_of(l, b, &wb);
    int rows = layout_span(layout, true), cols = layout_span(layout, false);
    V *as = arena_array(l->arena, V, rows), *bs = arena_array(l->arena, V, cols);
    LLVMTypeRef type = elem_type(&l->code, acc.elem);
    for (int reg = 0; reg < reg_count(layout); reg++) {
        Bit at = layout_reg(layout, reg);
        if (!as[at.row]) {
            V x = LLVMBuildAdd(l->b, row, c32(l, at.row), ""), most = wa.row_limit ? wa.row_limit : c32(l, acc.rows);
            V in = wa.row_limit || rows > acc.rows ? LLVMBuildICmp(l->b, LLVMIntSLT, x, most, "") : NULL;
            as[at.row] = math_cast(&l->code, load_plain(l, a, &wa, false, x, k, true, in), a->type.elem, acc.elem, 1);
        }
        if (!bs[at.col]) {
            V x = LLVMBuildAdd(l->b, col, c32(l, at.col), ""),
              most = !panel && wb.col_limit ? wb.col_limit : c32(l, acc.cols);
            V in = (!panel && wb.col_limit) || cols > acc.cols ? LLVMBuildICmp(l->b, LLVMIntSLT, x, most, "") : NULL;
            bs[at.col] = math_cast(&l->code, load_plain(l, b, &wb, panel, x, k, false, in), b->type.elem, acc.elem, 1);
        }
        V slot = l->val[i->arg[0]].reg[reg], sum = LLVMBuildLoad2(l->b, type, slot, ""), x = as[at.row], y = bs[at.col];
        sum = acc.elem == DT_F32 ? math_fma(&l->code, x, y, sum, 1)
                                 : LLVMBuildAdd(l->b, sum, LLVMBuildMul(l->b, x, y, ""), "");
        LLVMBuildStore(l->b, sum, slot);
    }
}

static void gemm_plain(Lower *l, const Ins *i)
{
    const Ins *a = ir_at(l->k, i->arg[1]), *b = ir_at(l->k, i->arg[2]);
    if (a->op != OP_VIEW || dtype_bits(b->type.elem) < 8) {
        err_set(l->err,
                "%s:%d: gemm: %s has no unit for %s x %s with B in units of %d; use the layout of schedules/gpu",
                i->loc.file ? i->loc.file : "?", i->loc.line, l->t->name, dtype_name(a->type.elem),
                dtype_name(b->type.elem), memory_of(l, b)->unit);
        return;
    }
    const Layout *layout = &l->val[i->arg[0]].layout;
    V row = thread_part(l, layout, true), col = thread_part(l, layout, false);
    LLVMBasicBlockRef from = LLVMGetInsertBlock(l->b), body = new_block(l, "k"), after = new_block(l, "k.end");
    LLVMBuildBr(l->b, body);
    LLVMPositionBuilderAtEnd(l->b, body);
    V k = LLVMBuildPhi(l->b, l->i32, "k"), zero = c32(l, 0);
    LLVMAddIncoming(k, &zero, &from, 1);
    plain_step(l, i, layout, k, row, col);
    V next = LLVMBuildNSWAdd(l->b, k, c32(l, 1), "");
    LLVMBasicBlockRef latch = LLVMGetInsertBlock(l->b);
    LLVMAddIncoming(k, &next, &latch, 1);
    LLVMBuildCondBr(l->b, LLVMBuildICmp(l->b, LLVMIntSLT, next, c32(l, b->type.rows), ""), body, after);
    LLVMPositionBuilderAtEnd(l->b, after);
}

void multiply(Lower *l, const Ins *i)
{
    if (matrix_product(l, i))
        gemm_units(l, i);
    else
        gemm_plain(l, i);
}
