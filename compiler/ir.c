/* ir.c - construction of tile IR: one builder per kind of instruction, type inference, and integer facts. */
#include "ir.h"

#include <stdlib.h>
#include <string.h>

const OpInfo op_info[OP_COUNT] = {
    {"none", 0, 0, CLASS_NONE},
#define OP(id, text, min, max, class) {text, min, max, CLASS_##class},
#include "ops.h"
};

const char *const frag_names[FRAG_CLASSES] = {"flat", "acc", "a", "b", "rows", "cols"};
const char *const reduce_names[REDUCE_KINDS] = {"add", "max", "min"};
const char *const accept_names[3] = {"spills", "stack", "notes"};

Kernel *kernel_new(const char *name)
{
    Arena *arena = arena_new();
    Kernel *k = arena_alloc(arena, sizeof *k);
    k->arena = arena;
    k->name = arena_strdup(arena, name);
    vec_push(&k->ins, (Ins){0});
    return k;
}

void kernel_free(Kernel *k)
{
    if (!k)
        return;
    vec_free(&k->ins);
    vec_free(&k->mem);
    arena_free(k->arena);
}

bool op_has_result(Op op)
{
    switch (op_info[op].class) {
    case CLASS_LEAF:
    case CLASS_UN:
    case CLASS_BIN:
    case CLASS_CMP:
    case CLASS_TERN:
    case CLASS_SHAPE: return true;
    default: return op == OP_LOOP || op == OP_VIEW || op == OP_LOAD || op == OP_GATHER;
    }
}

static Ref push(Kernel *k, Ins ins)
{
    vec_push(&k->ins, ins);
    return (Ref)k->ins.len - 1;
}

Ref ir_const_int(Kernel *k, DType elem, int64_t v, Loc loc)
{
    return push(k, (Ins){.op = OP_CONST, .type = {elem, 1, 1}, .integer = v, .loc = loc});
}

Ref ir_const_float(Kernel *k, DType elem, double v, Loc loc)
{
    return push(k, (Ins){.op = OP_CONST, .type = {elem, 1, 1}, .number = v, .loc = loc});
}

Ref ir_memory(Kernel *k, const Memory *m, Loc loc)
{
    vec_push(&k->mem, *m);
    Memory *own = &k->mem.at[k->mem.len - 1];
    own->name = arena_strdup(k->arena, m->name);
    return push(k, (Ins){.op = OP_MEMORY, .type = {m->elem, 0, 0}, .integer = (int64_t)k->mem.len - 1, .loc = loc});
}

Ref ir_leaf(Kernel *k, Op op, Type type, int64_t value, int a, Loc loc)
{
    return push(k, (Ins){.op = op, .type = type, .integer = value, .a = a, .loc = loc});
}

static bool one_of(int a, int b, int *out)
{
    *out = a == 1 ? b : a;
    return a == b || a == 1 || b == 1;
}

bool ir_broadcast(Type a, Type b, Type *out)
{
    out->elem = a.elem;
    return one_of(a.rows, b.rows, &out->rows) && one_of(a.cols, b.cols, &out->cols);
}

Ref ir_view(Kernel *k, Ref base, const Ref *coords, int n, int rows, int cols, int flags, Loc loc, Err *err)
{
    Ins ins = {.op = OP_VIEW, .type = {DT_NONE, rows, cols}, .nargs = n + 1, .arg = {base}, .a = flags, .loc = loc};
    if (n < 1 || n > MAX_RANK)
        return (Ref)err_set(err, "a view takes 1 to %d coordinates, not %d", MAX_RANK, n);
    for (int i = 0; i < n; i++)
        ins.arg[i + 1] = coords[i];
    return ir_add(k, &ins, err);
}

/* ---- type inference ------------------------------------------------------------------------------------------ */

static bool same_elem(const Kernel *k, const Ins *i, int from, Err *err)
{
    DType first = type_of(k, i->arg[from]).elem;
    for (int n = from + 1; n < i->nargs; n++) {
        DType other = type_of(k, i->arg[n]).elem;
        if (other != first)
            return err_set(err, "'%s' mixes %s and %s; cast one of them", op_info[i->op].text, dtype_name(first),
                           dtype_name(other));
    }
    return true;
}

static bool infer_elementwise(const Kernel *k, Ins *i, Err *err)
{
    int from = i->op == OP_SELECT;
    if (!same_elem(k, i, from, err))
        return false;
    i->type = type_of(k, i->arg[from]);
    for (int n = 0; n < i->nargs; n++) {
        Type t = type_of(k, i->arg[n]), merged;
        if (!ir_broadcast(i->type, t, &merged))
            return err_set(err, "'%s' of a %d x %d and a %d x %d tile: shapes must agree or be 1", op_info[i->op].text,
                           i->type.rows, i->type.cols, t.rows, t.cols);
        i->type = merged;
    }
    if (op_info[i->op].class == CLASS_CMP)
        i->type.elem = DT_PRED;
    if (i->op == OP_SELECT && type_of(k, i->arg[0]).elem != DT_PRED)
        return err_set(err, "'select' needs a predicate first, not %s", dtype_name(type_of(k, i->arg[0]).elem));
    return true;
}

static bool is_power(int n) { return n > 0 && (n & (n - 1)) == 0; }

static bool infer_reshape(Type from, Type to, Err *err)
{
    if (!is_power(from.rows) || !is_power(from.cols) || !is_power(to.rows) || !is_power(to.cols) ||
        (int64_t)from.rows * from.cols != (int64_t)to.rows * to.cols)
        return err_set(err, "'reshape' from %d x %d to %d x %d; all four must be powers of two and the elements as many",
                       from.rows, from.cols, to.rows, to.cols);
    return true;
}

static bool infer_shape(const Kernel *k, Ins *i, Err *err)
{
    Type t = type_of(k, i->arg[0]);
    switch (i->op) {
    case OP_CAST:
        i->type = (Type){i->type.elem, t.rows, t.cols};
        return true;
    case OP_BITCAST:
        if (dtype_bits(i->type.elem) != dtype_bits(t.elem))
            return err_set(err, "'bitcast' from %s to %s changes the size", dtype_name(t.elem),
                           dtype_name(i->type.elem));
        i->type = (Type){i->type.elem, t.rows, t.cols};
        return true;
    case OP_SLICE:
        i->type.elem = t.elem;
        if (i->pos[0] < 0 || i->pos[1] < 0 || i->type.rows < 1 || i->type.cols < 1 ||
            i->pos[0] > t.rows - i->type.rows || i->pos[1] > t.cols - i->type.cols)
            return err_set(err, "'slice' of %d x %d at [%d, %d] leaves the %d x %d tile", i->type.rows, i->type.cols,
                           i->pos[0], i->pos[1], t.rows, t.cols);
        return true;
    case OP_JOIN:
        if (!same_elem(k, i, 0, err))
            return false;
        if (type_of(k, i->arg[1]).rows != t.rows)
            return err_set(err, "'join' of %d and %d rows", t.rows, type_of(k, i->arg[1]).rows);
        i->type = (Type){t.elem, t.rows, t.cols + type_of(k, i->arg[1]).cols};
        return true;
    case OP_TRANSPOSE:
        i->type = (Type){t.elem, t.cols, t.rows};
        return true;
    case OP_RESHAPE:
        i->type.elem = t.elem;
        return infer_reshape(t, i->type, err);
    case OP_SCAN:
        i->type = t;
        return is_integer(t.elem) || err_set(err, "'scan' of %s; only sums of integers are the same in any order",
                                             dtype_name(t.elem));
    default: /* REDUCE */
        i->type = i->b == 1 ? (Type){t.elem, t.rows, 1} : (Type){t.elem, 1, t.cols};
        return true;
    }
}

static bool need(const Kernel *k, const Ins *i, int n, Op op, const char *what, Err *err)
{
    return ir_at(k, i->arg[n])->op == op ||
           err_set(err, "'%s': operand %d must be %s", op_info[i->op].text, n + 1, what);
}

static bool fits(const Kernel *k, const Ins *i, Type into, Ref value, Err *err)
{
    Type t = type_of(k, value), merged;
    if (t.elem != into.elem)
        return err_set(err, "'%s': %s into %s; cast first", op_info[i->op].text, dtype_name(t.elem),
                       dtype_name(into.elem));
    if (!ir_broadcast(into, t, &merged) || merged.rows != into.rows || merged.cols != into.cols)
        return err_set(err, "'%s': a %d x %d tile into %d x %d", op_info[i->op].text, t.rows, t.cols, into.rows,
                       into.cols);
    return true;
}

static bool infer_gemm(const Kernel *k, Ins *i, Err *err)
{
    if (!need(k, i, 0, OP_FRAG, "a frag", err) || !need(k, i, 2, OP_VIEW, "a view", err))
        return false;
    Type acc = type_of(k, i->arg[0]), a = type_of(k, i->arg[1]), b = type_of(k, i->arg[2]);
    if (a.rows != acc.rows || b.cols != acc.cols || a.cols != b.rows)
        return err_set(err, "'gemm': [%d,%d] += [%d,%d] x [%d,%d] does not fit", acc.rows, acc.cols, a.rows, a.cols,
                       b.rows, b.cols);
    return true;
}

static bool infer_view(const Kernel *k, Ins *i, Err *err)
{
    const Memory *m = &k->mem.at[ir_at(k, i->arg[0])->integer];
    int n = i->nargs - 1, rows = i->type.rows, cols = i->type.cols;
    if (n != m->rank)
        return err_set(err, "'%s' has %d dimensions, the view gives %d coordinates", m->name, m->rank, n);
    if (rows < 1 || cols < 1)
        return err_set(err, "view of '%s': a tile of %d x %d is empty", m->name, rows, cols);
    if (rows > MAX_VIEW || cols > MAX_VIEW)
        return err_set(err, "view of '%s': %d x %d is beyond any memory", m->name, rows, cols);
    if (m->rank < 2 && (rows > 1 || i->a & VIEW_TRANSPOSED))
        return err_set(err, "view of '%s': a one-dimensional memory has no rows", m->name);
    for (int c = 1; c <= n; c++) {
        Type t = type_of(k, i->arg[c]);
        if (!is_scalar(t) || !is_integer(t.elem))
            return err_set(err, "view of '%s': coordinate %d is not an integer scalar", m->name, c);
    }
    i->type.elem = m->elem;
    return true;
}

static bool infer_memory(const Kernel *k, Ins *i, Err *err)
{
    if (i->op == OP_VIEW)
        return infer_view(k, i, err);
    if (i->op == OP_SET)
        return need(k, i, 0, OP_FRAG, "a frag", err) && fits(k, i, type_of(k, i->arg[0]), i->arg[1], err);
    if (!need(k, i, 0, OP_VIEW, "a view", err))
        return false;
    Type v = type_of(k, i->arg[0]);
    const Memory *m = &k->mem.at[ir_at(k, ir_at(k, i->arg[0])->arg[0])->integer];
    bool writes = i->op == OP_STORE || i->op == OP_SCATTER || i->op == OP_COPY;
    if (writes && m->space == SPACE_GLOBAL && m->access == ACCESS_IN)
        return err_set(err, "'%s': '%s' is an input", op_info[i->op].text, m->name);
    switch (i->op) {
    case OP_LOAD:
        i->type = v;
        return true;
    case OP_STORE:
        return fits(k, i, v, i->arg[1], err);
    case OP_GATHER: {
        Type idx = type_of(k, i->arg[1]);
        if (idx.elem != DT_S32)
            return err_set(err, "'gather' needs s32 indices, not %s", dtype_name(idx.elem));
        i->type = (Type){v.elem, MAX(v.rows, idx.rows), idx.cols};
        return true;
    }
    case OP_SCATTER: {
        Type idx = type_of(k, i->arg[1]);
        return idx.elem == DT_S32 ? fits(k, i, (Type){v.elem, MAX(v.rows, idx.rows), idx.cols}, i->arg[2], err)
                                  : err_set(err, "'scatter' needs s32 indices, not %s", dtype_name(idx.elem));
    }
    case OP_COPY:
        return need(k, i, 1, OP_VIEW, "a view", err) && fits(k, i, v, i->arg[1], err);
    default:
        return true;
    }
}

static bool infer(const Kernel *k, Ins *i, Err *err)
{
    switch (op_info[i->op].class) {
    case CLASS_UN:
        i->type = type_of(k, i->arg[0]);
        return true;
    case CLASS_BIN:
    case CLASS_CMP:
    case CLASS_TERN:
        return infer_elementwise(k, i, err);
    case CLASS_SHAPE:
        return infer_shape(k, i, err);
    case CLASS_MEM:
        return infer_memory(k, i, err);
    case CLASS_ACC:
        return i->op == OP_GEMM ? infer_gemm(k, i, err)
                                : need(k, i, 0, OP_VIEW, "a view", err) &&
                                      fits(k, i, type_of(k, i->arg[0]), i->arg[1], err);
    default:
        break;
    }
    if (i->op == OP_LOOP) {
        i->type = (Type){DT_S64, 1, 1};
        if (i->integer <= 0)
            return err_set(err, "'loop': step %lld must be positive", (long long)i->integer);
        for (int n = 0; n < 2; n++)
            if (!is_scalar(type_of(k, i->arg[n])) || type_of(k, i->arg[n]).elem != DT_S64)
                return err_set(err, "'loop': bounds must be s64 scalars");
    }
    if (i->op == OP_WHEN && !(is_scalar(type_of(k, i->arg[0])) && type_of(k, i->arg[0]).elem == DT_PRED))
        return err_set(err, "'when' needs a scalar predicate");
    return true;
}

static bool check_operand(const Kernel *k, const Ins *i, int n, Err *err)
{
    const OpInfo *o = &op_info[i->op];
    if (i->arg[n] <= 0 || i->arg[n] >= (Ref)k->ins.len)
        return err_set(err, "'%s': operand %d does not exist", o->text, n + 1);
    Op made_by = ir_at(k, i->arg[n])->op;
    if (i->op == OP_VIEW && n == 0)
        return made_by == OP_MEMORY || err_set(err, "a view needs an argument or a shared tile, not the result of '%s'",
                                               op_info[made_by].text);
    bool is_view = made_by == OP_VIEW;
    if (i->op == OP_GEMM && n == 1 && k->warps[0] && !is_view) /* A from registers */
        return type_of(k, i->arg[n]).elem != DT_NONE || err_set(err, "'gemm': operand 2 has no value");
    bool wants_view = (o->class == CLASS_MEM && n == 0 && i->op != OP_SET) || i->op == OP_COPY ||
                      (i->op == OP_GEMM && n > 0) || (i->op == OP_ATOMIC_ADD && n == 0);
    if (is_view != wants_view)
        return err_set(err, is_view ? "'%s': operand %d is a view; load it first" : "'%s': operand %d must be a view",
                       o->text, n + 1);
    if (!is_view && (made_by == OP_MEMORY || type_of(k, i->arg[n]).elem == DT_NONE))
        return err_set(err, "'%s': operand %d ('%s') has no value", o->text, n + 1, op_info[made_by].text);
    return true;
}

bool ir_infer(const Kernel *k, Ins *ins, Err *err)
{
    const OpInfo *o = &op_info[ins->op];
    if (ins->nargs < o->min || ins->nargs > o->max)
        return err_set(err, "'%s' takes %d operands, not %d", o->text, o->min, ins->nargs);
    for (int n = 0; n < ins->nargs; n++)
        if (!check_operand(k, ins, n, err))
            return false;
    if (!infer(k, ins, err))
        return false;
    Type t = ins->op == OP_STORE || ins->op == OP_SCATTER ? type_of(k, ins->arg[0]) : ins->type;
    if (ins->op != OP_VIEW && (int64_t)t.rows * t.cols > MAX_TILE)
        return err_set(err, "'%s': a tile of %d x %d has more than %d elements; use smaller tiles", o->text, t.rows,
                       t.cols, MAX_TILE);
    return true;
}

Ref ir_add(Kernel *k, const Ins *template, Err *err)
{
    Ins ins = *template;
    return ir_infer(k, &ins, err) ? push(k, ins) : 0;
}

/* ---- facts ---------------------------------------------------------------------------------------------------- */

bool ir_const_value(const Kernel *k, Ref r, int64_t *v)
{
    const Ins *i = ir_at(k, r);
    if (i->op != OP_CONST || !is_integer(i->type.elem))
        return false;
    *v = i->integer;
    return true;
}

static int64_t gcd(int64_t a, int64_t b)
{
    while (b) {
        int64_t t = a % b;
        a = b;
        b = t;
    }
    return a < 0 ? -a : a;
}

/* A fact looks at no more than this many instructions, so that a long chain of shared operands costs nothing. */
enum { FACT_FUEL = 256 };

static int64_t divisor(const Kernel *k, Ref r, int *fuel)
{
    if (--*fuel < 0)
        return 1;
    const Ins *i = ir_at(k, r);
    switch (i->op) {
    case OP_CONST: return i->integer == INT64_MIN ? 1 : i->integer < 0 ? -i->integer : i->integer;
    case OP_ADD:
    case OP_SUB:
    case OP_MIN:
    case OP_MAX: return gcd(divisor(k, i->arg[0], fuel), divisor(k, i->arg[1], fuel));
    case OP_MUL: {
        int64_t a = divisor(k, i->arg[0], fuel), b = divisor(k, i->arg[1], fuel), p;
        return __builtin_mul_overflow(a, b, &p) ? MAX(a, b) : p;
    }
    case OP_SHL: {
        int64_t s, p, a = divisor(k, i->arg[0], fuel);
        bool known = ir_const_value(k, i->arg[1], &s) && s >= 0 && s < 32;
        return known && !__builtin_mul_overflow(a, (int64_t)1 << s, &p) ? p : 1;
    }
    case OP_LOOP: return gcd(divisor(k, i->arg[0], fuel), i->integer);
    case OP_CAST: return is_integer(type_of(k, i->arg[0]).elem) ? divisor(k, i->arg[0], fuel) : 1;
    default: return 1;
    }
}

int64_t ir_divisor(const Kernel *k, Ref r)
{
    int fuel = FACT_FUEL;
    return divisor(k, r, &fuel);
}

static int64_t upper(const Kernel *k, Ref r, int *fuel);

static int64_t upper_loop(const Kernel *k, const Ins *i, int *fuel)
{
    int64_t lo, span, hi = upper(k, i->arg[1], fuel);
    if (hi == INT64_MAX)
        return hi;
    hi = MAX(hi, 1) - 1;
    if (!ir_const_value(k, i->arg[0], &lo) || lo < 0)
        return hi;
    span = MAX(hi - lo, 0);
    return lo + span / i->integer * i->integer;
}

static int64_t upper_product(int64_t a, int64_t b)
{
    int64_t p;
    return a < 0 || b < 0 || a == INT64_MAX || b == INT64_MAX || __builtin_mul_overflow(a, b, &p) ? INT64_MAX : p;
}

static int64_t upper(const Kernel *k, Ref r, int *fuel)
{
    if (--*fuel < 0)
        return INT64_MAX;
    const Ins *i = ir_at(k, r);
    int64_t a, b, sum;
    switch (i->op) {
    case OP_CONST: return i->integer;
    case OP_LOOP: return upper_loop(k, i, fuel);
    case OP_BLOCK:
        a = k->grid[i->integer] ? upper(k, k->grid[i->integer], fuel) : INT64_MAX;
        return a == INT64_MAX ? a : MAX(a, 1) - 1;
    case OP_MIN: a = upper(k, i->arg[0], fuel), b = upper(k, i->arg[1], fuel); return MIN(a, b);
    case OP_MAX: a = upper(k, i->arg[0], fuel), b = upper(k, i->arg[1], fuel); return MAX(a, b);
    case OP_ADD:
        a = upper(k, i->arg[0], fuel), b = upper(k, i->arg[1], fuel);
        return a == INT64_MAX || b == INT64_MAX || __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
    case OP_MUL: a = upper(k, i->arg[0], fuel), b = upper(k, i->arg[1], fuel); return upper_product(a, b);
    case OP_DIV:
        a = upper(k, i->arg[0], fuel);
        return a != INT64_MAX && ir_const_value(k, i->arg[1], &b) && b > 0 ? a / b : INT64_MAX;
    case OP_REM: return ir_const_value(k, i->arg[1], &b) && b > 0 ? b - 1 : INT64_MAX;
    case OP_CAST: return is_integer(type_of(k, i->arg[0]).elem) ? upper(k, i->arg[0], fuel) : INT64_MAX;
    default: return INT64_MAX;
    }
}

int64_t ir_upper(const Kernel *k, Ref r)
{
    int fuel = FACT_FUEL;
    return upper(k, r, &fuel);
}

/* Does a tile of `extent` elements from coordinate `at` possibly pass the end of `dim`? */
static bool may_pass(const Kernel *k, Ref at, Dim dim, int extent)
{
    if (extent == 1)
        return false; /* single elements are the schedule's duty; grids and loops keep them inside */
    if (dim.size >= 0)
        return true;
    if (dim.n % extent == 0 && ir_divisor(k, at) % extent == 0)
        return false;
    int64_t top = ir_upper(k, at);
    return top == INT64_MAX || top > dim.n - extent;
}

bool view_needs_mask(const Kernel *k, const Ins *view, int *rows, int *cols)
{
    const Memory *m = &k->mem.at[ir_at(k, view->arg[0])->integer];
    int last = m->rank - 1, col = last, row = last - 1;
    if (view->a & VIEW_TRANSPOSED)
        col = last - 1, row = last;
    *rows = *cols = 0;
    if (view->a & VIEW_INSIDE)
        return false;
    *cols = may_pass(k, view->arg[col + 1], m->dim[col], view->type.cols);
    if (view->type.rows > 1)
        *rows = may_pass(k, view->arg[row + 1], m->dim[row], view->type.rows);
    return *rows || *cols;
}

int64_t memory_bytes(const Memory *m, const int64_t *sizes)
{
    int64_t n = 1;
    for (int d = 0; d < m->rank; d++) {
        int64_t extent = m->dim[d].n * (m->dim[d].size >= 0 ? sizes[m->dim[d].size] : 1);
        if (m->layout == LAYOUT_PANEL && d == m->rank - 1)
            extent = round_up(extent, m->wide);
        else if (m->layout == LAYOUT_PANEL && d == m->rank - 2)
            extent = round_up(extent, m->unit);
        else if (m->layout == LAYOUT_ROWS && d == m->rank - 1 && m->pitch)
            extent = m->pitch;
        n *= extent;
    }
    return (n * dtype_bits(m->elem) + 7) / 8;
}
