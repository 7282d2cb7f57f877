/* layout.c - layouts of register tiles as bit matrices: construction, slices, comparison, text. */
#include "gpu.h"

/* A run of bits handed out one after the other, rows or columns. */
typedef struct Axis {
    int next, end; /* bit numbers */
    bool rows;
} Axis;

static bool take(Axis *a, Bit *out)
{
    if (a->next >= a->end)
        return false;
    uint16_t bit = (uint16_t)(1u << a->next++);
    *out = a->rows ? (Bit){.row = bit} : (Bit){.col = bit};
    return true;
}

Layout layout_scalar(Shape s) { return (Layout){.lanes = s.lanes, .warps = s.warps[0] + s.warps[1]}; }

Layout layout_flat(Shape s, int rows, int cols, int side)
{
    Layout l = layout_scalar(s);
    Axis c = {.end = log2_up(cols)}, r = {.end = log2_up(rows), .rows = true};
    Bit b;
    while (l.regs < side && take(&c, &b))
        l.reg[l.regs++] = b;
    for (int i = 0; i < l.lanes; i++)
        if (!take(&c, &l.lane[i]))
            take(&r, &l.lane[i]);
    for (int i = 0; i < l.warps; i++)
        if (!take(i < s.warps[0] ? &r : &c, &l.warp[i]))
            take(i < s.warps[0] ? &c : &r, &l.warp[i]);
    while (l.regs < REG_BITS && (take(&c, &b) || take(&r, &b)))
        l.reg[l.regs++] = b;
    return l;
}

Layout layout_slice(const Layout *l, bool rows, bool cols)
{
    Layout out = {.lanes = l->lanes, .warps = l->warps};
    for (int i = 0; i < l->regs; i++) {
        Bit b = {rows ? 0 : l->reg[i].row, cols ? 0 : l->reg[i].col};
        if (b.row || b.col)
            out.reg[out.regs++] = b;
    }
    for (int i = 0; i < l->lanes; i++)
        out.lane[i] = (Bit){rows ? 0 : l->lane[i].row, cols ? 0 : l->lane[i].col};
    for (int i = 0; i < l->warps; i++)
        out.warp[i] = (Bit){rows ? 0 : l->warp[i].row, cols ? 0 : l->warp[i].col};
    return out;
}

Layout layout_turned(Layout l)
{
    Bit *all[] = {l.reg, l.lane, l.warp};
    int n[] = {l.regs, l.lanes, l.warps};
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < n[k]; i++)
            all[k][i] = (Bit){all[k][i].col, all[k][i].row};
    return l;
}

static bool same_bits(const Bit *a, const Bit *b, int n)
{
    for (int i = 0; i < n; i++)
        if (a[i].row != b[i].row || a[i].col != b[i].col)
            return false;
    return true;
}

bool layout_same_threads(const Layout *a, const Layout *b)
{
    return a->lanes == b->lanes && a->warps == b->warps && same_bits(a->lane, b->lane, a->lanes) &&
           same_bits(a->warp, b->warp, a->warps);
}

Layout layout_reshaped(const Layout *l, Type from, Type to)
{
    Layout out = *l;
    Bit *all[] = {out.reg, out.lane, out.warp};
    int n[] = {out.regs, out.lanes, out.warps};
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < n[k]; i++) {
            int at = all[k][i].row * from.cols + all[k][i].col;
            all[k][i] = (Bit){(uint16_t)(at / to.cols), (uint16_t)(at % to.cols)};
        }
    return out;
}

bool layout_same(const Layout *a, const Layout *b)
{
    return a->regs == b->regs && same_bits(a->reg, b->reg, a->regs) && layout_same_threads(a, b);
}

bool layout_replicated(const Layout *l)
{
    for (int i = 0; i < l->lanes; i++)
        if (!l->lane[i].row && !l->lane[i].col)
            return true;
    for (int i = 0; i < l->warps; i++)
        if (!l->warp[i].row && !l->warp[i].col)
            return true;
    return false;
}

Bit layout_reg(const Layout *l, int reg)
{
    Bit b = {0};
    for (int i = 0; i < l->regs; i++)
        if (reg >> i & 1)
            b = bit_xor(b, l->reg[i]);
    return b;
}

int layout_find(const Layout *l, Bit want)
{
    for (int reg = 0; reg < reg_count(l); reg++) {
        Bit b = layout_reg(l, reg);
        if (b.row == want.row && b.col == want.col)
            return reg;
    }
    return -1;
}

int layout_span(const Layout *l, bool rows)
{
    int all = 0;
    for (int i = 0; i < l->regs; i++)
        all |= rows ? l->reg[i].row : l->reg[i].col;
    for (int i = 0; i < l->lanes; i++)
        all |= rows ? l->lane[i].row : l->lane[i].col;
    for (int i = 0; i < l->warps; i++)
        all |= rows ? l->warp[i].row : l->warp[i].col;
    return all + 1;
}

static void print_bits(Buf *out, const char *what, const Bit *b, int n)
{
    buf_printf(out, "%s", what);
    if (!n)
        buf_puts(out, " -");
    for (int i = 0; i < n; i++) {
        buf_putc(out, ' ');
        for (int at = 0; at < 16; at++)
            if (b[i].row >> at & 1)
                buf_printf(out, "r%d", at);
        for (int at = 0; at < 16; at++)
            if (b[i].col >> at & 1)
                buf_printf(out, "c%d", at);
        if (!b[i].row && !b[i].col)
            buf_putc(out, '=');
    }
}

void layout_print(const Layout *l, Buf *out)
{
    print_bits(out, "reg", l->reg, l->regs);
    print_bits(out, "; lane", l->lane, l->lanes);
    print_bits(out, "; warp", l->warp, l->warps);
}
