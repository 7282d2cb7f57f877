/* print.c - writes tile IR as text: one instruction a line, indented by region, values named by their index.
 *
 *     kernel "rmsnorm" numerics tree 16
 *     %1 = memory global 0 in f32 x[tokens, 2048]
 *     %2 = size tokens
 *     grid %2
 *     %3 = block 0
 *     %4 = const 0 : s64
 *     %5 = view %1[%3, %4] 1x16                             ; rmsnorm.lua:12
 *     %6 = load %5 : f32[1,16]
 *
 * The grammar stands in parse.c, which reads this back. Any kernel that the builders made can be printed, correct or
 * not. A location in a comment is that of the schedule. */
#include "ir.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INDENT = 2, MAX_INDENT = 32 /* levels shown */, LOC_COLUMN = 56 };

/* The shortest decimal form that reads back as the same double. */
static void put_double(Buf *out, double v)
{
    char text[40] = "nan";
    for (int digits = 1; digits <= 17 && !isnan(v); digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    buf_puts(out, text);
}

static void put_string(Buf *out, const char *s)
{
    buf_putc(out, '"');
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            buf_printf(out, "\\%c", c);
        else if (c < 32 || c == 127)
            buf_printf(out, "\\x%02x", c);
        else
            buf_putc(out, *s);
    }
    buf_putc(out, '"');
}

/* A memory's name: bare when it is a word. */
static void put_name(Buf *out, const char *s)
{
    const char *p = s;
    if (isalpha((unsigned char)*p) || *p == '_')
        while (isalnum((unsigned char)*p) || *p == '_' || *p == '.')
            p++;
    if (p > s && !*p)
        buf_puts(out, s);
    else
        put_string(out, s);
}

static void put_type(Buf *out, Type t)
{
    buf_printf(out, " : %s", dtype_name(t.elem));
    if (!is_scalar(t))
        buf_printf(out, "[%d,%d]", t.rows, t.cols);
}

static void put_dim(Buf *out, Dim d)
{
    if (d.size < 0)
        buf_printf(out, "%lld", (long long)d.n);
    else if (d.n == 1)
        buf_puts(out, size_names[d.size]);
    else
        buf_printf(out, "%lld*%s", (long long)d.n, size_names[d.size]);
}

static void put_memory(Buf *out, const Memory *m)
{
    static const char *const access[] = {"in", "out", "inout"};
    if (m->space == SPACE_GLOBAL)
        buf_printf(out, " global %d %s", m->index, access[m->access]);
    else
        buf_puts(out, " shared");
    buf_printf(out, " %s ", dtype_name(m->elem));
    put_name(out, m->name);
    for (int d = 0; d < m->rank; d++) {
        buf_puts(out, d ? ", " : "[");
        put_dim(out, m->dim[d]);
    }
    buf_putc(out, ']');
    if (m->pitch)
        buf_printf(out, " pitch %lld", (long long)m->pitch);
    if (m->layout == LAYOUT_PANEL) {
        buf_printf(out, " panel %d", m->unit);
        if (m->wide != PANEL_COLS)
            buf_printf(out, " wide %d", m->wide);
        buf_puts(out, m->pairs ? " pairs" : "");
    }
}

static void put_operands(Buf *out, const Ins *i, int from)
{
    for (int n = from; n < i->nargs; n++)
        buf_printf(out, n > from ? ", %%%d" : " %%%d", i->arg[n]);
}

static void put_view(Buf *out, const Ins *i)
{
    buf_printf(out, " %%%d[", i->arg[0]);
    for (int n = 1; n < i->nargs; n++)
        buf_printf(out, n > 1 ? ", %%%d" : "%%%d", i->arg[n]);
    buf_printf(out, "] %dx%d", i->type.rows, i->type.cols);
    if (i->a & VIEW_TRANSPOSED)
        buf_puts(out, " transposed");
    if (i->a & VIEW_INSIDE)
        buf_puts(out, " inside");
}

static void put_reduce(Buf *out, const Ins *i)
{
    buf_printf(out, " %s %s", reduce_names[i->a], i->b ? "cols" : "rows");
    if (i->c)
        buf_printf(out, " tree %d", i->c);
    put_operands(out, i, 0);
}

static void put_loop(Buf *out, const Ins *i)
{
    put_operands(out, i, 0);
    buf_printf(out, " step %lld", (long long)i->integer);
    if (i->a == LOOP_PIPELINED)
        buf_printf(out, " pipelined %d", i->b);
}

/* What stands after the name of the operation. */
static void put_body(Buf *out, const Kernel *k, const Ins *i)
{
    switch (i->op) {
    case OP_CONST:
        buf_putc(out, ' ');
        if (dtype_is_float(i->type.elem))
            put_double(out, i->number);
        else
            buf_printf(out, "%lld", (long long)i->integer);
        break;
    case OP_SIZE: buf_printf(out, " %s", size_names[i->integer]); return;
    case OP_BLOCK: buf_printf(out, " %lld", (long long)i->integer); return;
    case OP_MEMORY: put_memory(out, &k->mem.at[i->integer]); return;
    case OP_VIEW: put_view(out, i); return;
    case OP_LOOP: put_loop(out, i); return;
    case OP_FRAG: buf_printf(out, " %s", frag_names[i->a]); break;
    case OP_REDUCE: put_reduce(out, i); break;
    case OP_SLICE: buf_printf(out, " %%%d[%d, %d]", i->arg[0], i->pos[0], i->pos[1]); break;
    default: put_operands(out, i, 0);
    }
    if (i->op == OP_GEMM && i->a)
        buf_printf(out, " unroll %d", i->a);
    if (i->op == OP_GEMM && i->b)
        buf_printf(out, " ahead %d", i->b);
    if (op_has_result(i->op))
        put_type(out, i->type);
}

/* " ; file:line" in a column of its own. A location in the text itself is not shown: the reader sees the line. */
static void put_loc(Buf *out, const Kernel *k, Loc loc, size_t line_start)
{
    if (!loc.file || !*loc.file || loc.line < 1 || loc.file == k->source)
        return;
    size_t width = out->len - line_start;
    buf_printf(out, "%*s ; ", width < LOC_COLUMN ? (int)(LOC_COLUMN - width) : 0, "");
    for (const char *s = loc.file; *s; s++)
        buf_putc(out, isspace((unsigned char)*s) || *s == 127 || (unsigned char)*s < 32 ? '?' : *s);
    buf_printf(out, ":%d", loc.line);
}

static void put_instruction(Buf *out, const Kernel *k, Ref r, int depth)
{
    const Ins *i = ir_at(k, r);
    size_t start = out->len;
    buf_printf(out, "%*s", INDENT * MIN(MAX(depth, 0), MAX_INDENT), "");
    if (op_has_result(i->op))
        buf_printf(out, "%%%d = ", r);
    buf_puts(out, op_info[i->op].text);
    put_body(out, k, i);
    put_loc(out, k, i->loc, start);
    buf_putc(out, '\n');
}

static Ref last_grid_value(const Kernel *k)
{
    Ref last = 0;
    for (int d = 0; d < k->grid_rank; d++)
        last = MAX(last, k->grid[d]);
    return last;
}

static void put_grid(Buf *out, const Kernel *k)
{
    for (int d = 0; d < k->grid_rank; d++)
        buf_printf(out, d ? ", %%%d" : "grid %%%d", k->grid[d]);
    buf_putc(out, '\n');
}

void ir_print(const Kernel *k, Buf *out)
{
    Ref grid = last_grid_value(k);
    int depth = 0;
    buf_puts(out, "kernel ");
    put_string(out, k->name);
    if (k->numerics.tree || k->numerics.segment)
        buf_puts(out, " numerics");
    if (k->numerics.tree)
        buf_printf(out, " tree %d", k->numerics.tree);
    if (k->numerics.segment)
        buf_printf(out, " segment %d", k->numerics.segment);
    for (size_t i = 0; i < COUNT(accept_names); i++)
        if (k->accepts >> i & 1)
            buf_printf(out, " accepts %s", accept_names[i]);
    if (k->warps[0])
        buf_printf(out, " warps %d %d", k->warps[0], k->warps[1]);
    buf_putc(out, '\n');
    for (Ref r = 1; r < (Ref)k->ins.len; r++) {
        Op op = ir_at(k, r)->op;
        put_instruction(out, k, r, depth - (op == OP_END || op == OP_ELSE));
        depth += (op == OP_LOOP || op == OP_WHEN) - (op == OP_END);
        depth = MAX(depth, 0);
        if (r == grid)
            put_grid(out, k);
    }
}
