/* matrix.c - see matrix.h: fragment layouts of the matrix units, and their calls. */
#include "matrix.h"

Unit unit_of(const Target *t, bool integer)
{
    Unit u = {.kind = t->gpu->matrix, .integer = integer, .halves = 1, .columns = 16};
    switch (u.kind) {
    case MATRIX_MMA:
        u.k = integer ? 32 : 16, u.lanes_k = 4, u.words = 2, u.halves = 2, u.columns = 8, u.each = 2, u.tiles = 4;
        break;
    case MATRIX_MFMA:
        u.k = integer ? 4 * t->gpu->k_bytes : 16, u.lanes_k = 4, u.words = integer ? t->gpu->k_bytes / 4 : 2;
        u.each = 4, u.tiles = 2, u.no_unsigned = integer;
        break;
    case MATRIX_WMMA: u.k = 16, u.lanes_k = 1, u.words = integer ? 4 : 8, u.each = 8, u.tiles = 1; break;
    }
    return u;
}

/* ---- layouts ------------------------------------------------------------------------------------------------ */

static Bit row_bit(int n) { return (Bit){.row = (uint16_t)(1u << n)}; }
static Bit col_bit(int n) { return (Bit){.col = (uint16_t)(1u << n)}; }

static int warp_columns(const Unit *u, Shape s, int cols) /* bits of columns that warps share out */
{
    return MAX(0, MIN(s.warps[1], log2_up(cols) - log2_up(u->columns)));
}

int unit_tiles(const Unit *u, Shape s, int cols)
{
    int left = MAX(0, log2_up(cols) - log2_up(u->columns) - warp_columns(u, s, cols));
    return MIN(u->tiles, 1 << left);
}

static void add_reg(Layout *l, Bit b) { l->reg[l->regs++] = b; }

/* What is left of rows and columns goes to registers, then warps. */
static void fill(Layout *l, Shape s, int row, int rows, int col, int cols, int col_warps)
{
    int row_warps = MAX(0, MIN(s.warps[0], rows - row));
    while (col < cols - col_warps)
        add_reg(l, col_bit(col++));
    while (row < rows - row_warps)
        add_reg(l, row_bit(row++));
    for (int i = 0; i < row_warps; i++)
        l->warp[i] = row_bit(row++);
    for (int i = 0; i < col_warps; i++)
        l->warp[s.warps[0] + i] = col_bit(col++);
}

static Layout lanes_of(const Unit *u, Shape s, int tiles, int *row, int *col)
{
    Layout l = layout_scalar(s);
    *col = 0, *row = 4;
    while (1 << *col < u->each * tiles)
        add_reg(&l, col_bit((*col)++));
    switch (u->kind) {
    case MATRIX_MMA: /* lane: 4 * row + column */
        l.lane[0] = col_bit((*col)++), l.lane[1] = col_bit((*col)++);
        for (int i = 0; i < 3; i++)
            l.lane[2 + i] = row_bit(i);
        add_reg(&l, row_bit(3));
        break;
    case MATRIX_MFMA:
        for (int i = 0; i < 4; i++)
            l.lane[i] = row_bit(i);
        l.lane[4] = col_bit((*col)++), l.lane[5] = col_bit((*col)++);
        break;
    case MATRIX_WMMA:
        for (int i = 0; i < 4; i++)
            l.lane[i] = row_bit(i);
        l.lane[4] = col_bit((*col)++);
        break;
    }
    return l;
}

Layout layout_acc(const Target *t, Shape s, int rows, int cols)
{
    Unit u = unit_of(t, false);
    int row, col;
    Layout l = lanes_of(&u, s, unit_tiles(&u, s, cols), &row, &col);
    fill(&l, s, row, MAX(4, log2_up(rows)), col, MAX(log2_up(u.columns), log2_up(cols)), warp_columns(&u, s, cols));
    return l;
}

/* As the accumulators lie, K for columns, but every warp has all of K; WMMA's lanes each hold a whole chunk. */
Layout layout_factor(const Target *t, Shape s, int rows, int k)
{
    Unit u = unit_of(t, false);
    Shape alone = {s.lanes, {s.warps[0], 0}};
    int row, col;
    Layout l = lanes_of(&u, alone, unit_tiles(&u, alone, k), &row, &col);
    if (u.kind == MATRIX_WMMA) {
        l.lane[4] = (Bit){0};
        add_reg(&l, col_bit(col - 1));
    }
    fill(&l, alone, row, MAX(4, log2_up(rows)), col, MAX(log2_up(u.columns), log2_up(k)), 0);
    l.warps = s.warps[0] + s.warps[1];
    return l;
}

/* ---- who reads what ----------------------------------------------------------------------------------------- */

V unit_row(Lower *l, const Unit *u)
{
    V row = u->kind == MATRIX_MMA ? LLVMBuildLShr(l->b, l->lane, c32(l, 2), "")
                                  : LLVMBuildAnd(l->b, l->lane, c32(l, 15), "");
    return l->t->fault == GPU_FAULT_ROWS ? LLVMBuildXor(l->b, row, c32(l, 1), "") : row;
}

V unit_k(Lower *l, const Unit *u, int run)
{
    if (u->kind == MATRIX_WMMA)
        return c32(l, 0);
    V group = u->kind == MATRIX_MMA ? LLVMBuildAnd(l->b, l->lane, c32(l, 3), "")
                                    : LLVMBuildLShr(l->b, l->lane, c32(l, 4), "");
    return LLVMBuildMul(l->b, group, c32(l, run), "");
}

/* Accumulator e of call j lies in column (lane's group) * each * tiles + each * j + e; the unit's own column numbers
 * are (group) * each + e, but for WMMA, whose are 2 * e + group. */
V unit_column(Lower *l, const Unit *u, int tiles)
{
    V own = u->kind == MATRIX_MMA ? LLVMBuildLShr(l->b, l->lane, c32(l, 2), "")
                                  : LLVMBuildAnd(l->b, l->lane, c32(l, 15), "");
    V group = LLVMBuildLShr(l->b, own, c32(l, log2_up(u->each)), ""),
      e = LLVMBuildAnd(l->b, own, c32(l, u->each - 1), "");
    if (u->kind == MATRIX_WMMA)
        group = LLVMBuildAnd(l->b, own, c32(l, 1), ""), e = LLVMBuildLShr(l->b, own, c32(l, 1), "");
    return LLVMBuildAdd(l->b, LLVMBuildMul(l->b, group, c32(l, u->each * tiles), ""), e, "");
}

/* ---- calls -------------------------------------------------------------------------------------------------- */

static V vector_of(Lower *l, V *x, int n)
{
    V v = LLVMGetPoison(LLVMVectorType(LLVMTypeOf(x[0]), (unsigned)n));
    for (int i = 0; i < n; i++)
        v = LLVMBuildInsertElement(l->b, v, x[i], c32(l, i), "");
    return v;
}

static void scatter_vector(Lower *l, V v, V *x, int n)
{
    for (int i = 0; i < n; i++)
        x[i] = LLVMBuildExtractElement(l->b, v, c32(l, i), "");
}

static V words_as(Lower *l, V *words, int n, LLVMTypeRef type)
{
    return LLVMBuildBitCast(l->b, n == 1 ? words[0] : vector_of(l, words, n), type, "");
}

static void multiply_mma(Lower *l, const Unit *u, V *acc, V *const *a, V *b)
{
    V args[] = {a[0][0], a[1][0], a[0][1], a[1][1], b[0], b[1], acc[0], acc[1], acc[2], acc[3]};
    V out = call(&l->code, u->integer ? "llvm.nvvm.mma.m16n8k32.row.col.s8.u8" : "llvm.nvvm.mma.m16n8k16.row.col.bf16",
                 NULL, 0, args, COUNT(args));
    for (unsigned i = 0; i < 4; i++)
        acc[i] = LLVMBuildExtractValue(l->b, out, i, "");
}

static void multiply_mfma(Lower *l, const Unit *u, V *acc, V *const *a, V *b)
{
    V zero = c32(l, 0), sum = vector_of(l, acc, 4);
    const char *name = !u->integer     ? "llvm.amdgcn.mfma.f32.16x16x16bf16.1k"
                       : u->words == 1 ? "llvm.amdgcn.mfma.i32.16x16x16i8"
                                       : "llvm.amdgcn.mfma.i32.16x16x32.i8";
    LLVMTypeRef type = !u->integer ? LLVMVectorType(l->i16, 4) : u->words == 1 ? l->i32 : l->i64;
    V args[] = {words_as(l, b, u->words, type), words_as(l, a[0], u->words, type), sum, zero, zero, zero};
    scatter_vector(l, call(&l->code, name, NULL, 0, args, COUNT(args)), acc, 4);
}

static void multiply_wmma(Lower *l, const Unit *u, V *acc, V *const *a, V *b)
{
    V sum = vector_of(l, acc, 8), yes = LLVMConstInt(l->i1, 1, false), no = LLVMConstInt(l->i1, 0, false);
    LLVMTypeRef types[] = {LLVMTypeOf(sum), LLVMVectorType(u->integer ? l->i32 : l->i16, u->integer ? 4 : 16)};
    V x = words_as(l, b, u->words, types[1]), y = words_as(l, a[0], u->words, types[1]), out;
    if (u->integer)
        out = call(&l->code, "llvm.amdgcn.wmma.i32.16x16x16.iu8", types, 2, (V[]){no, x, yes, y, sum, no}, 6);
    else
        out = call(&l->code, "llvm.amdgcn.wmma.f32.16x16x16.bf16", types, 2, (V[]){x, y, sum}, 3);
    scatter_vector(l, out, acc, 8);
}

void unit_multiply(Lower *l, const Unit *u, V *acc, V *const *a, V *b)
{
    switch (u->kind) {
    case MATRIX_MMA: multiply_mma(l, u, acc, a, b); break;
    case MATRIX_MFMA: multiply_mfma(l, u, acc, a, b); break;
    case MATRIX_WMMA: multiply_wmma(l, u, acc, a, b); break;
    }
}
