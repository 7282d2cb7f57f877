/* lua.c - the only user of lua.h: operators, schedules and models are Lua; this file gives them builders of tile IR.
 *
 * A builder validates at once and reports the Lua file and line. Bindings own only userdata and the kernel's arena, since
 * luaL_error jumps. Values carry their kernel; a number meets a value as a constant of the value's element type. */
#include "generator.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct Generator {
    lua_State *L;
    const Target *target;
    VEC(Kernel *) kernels;
    size_t memory; /* bytes that Lua holds */
    int64_t fuel;  /* millions of Lua instructions left before a source counts as endless */
    RunKernel run; /* while gen_check works */
    void *run_context;
};

typedef struct LuaValue {
    Kernel *k;
    Ref ref;
} LuaValue;

#define KERNEL "blade.kernel"
#define VALUE "blade.value"
#define TENSOR "blade.tensor"

static Generator *generator(lua_State *L)
{
    return *(Generator **)lua_getextraspace(L);
}

/* ---- positions and errors --------------------------------------------------------------------------------------- */

/* The innermost Lua line outside lib.lua: what the author of a schedule calls "here". */
static Loc here(lua_State *L, Kernel *k)
{
    lua_Debug ar;
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        size_t n = strlen(ar.short_src);
        if (ar.currentline > 0 && !(n >= 7 && !strcmp(ar.short_src + n - 7, "lib.lua")))
            return (Loc){k ? arena_strdup(k->arena, ar.short_src) : NULL, ar.currentline};
    }
    return (Loc){0};
}

static int fail(lua_State *L, const char *text)
{
    lua_Debug ar;
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        size_t n = strlen(ar.short_src);
        if (ar.currentline > 0 && !(n >= 7 && !strcmp(ar.short_src + n - 7, "lib.lua"))) {
            lua_pushfstring(L, "%s:%d: %s", ar.short_src, ar.currentline, text);
            return lua_error(L);
        }
    }
    lua_pushstring(L, text);
    return lua_error(L);
}

/* ---- values ------------------------------------------------------------------------------------------------------- */

static Kernel *check_kernel(lua_State *L, int i)
{
    return *(Kernel **)luaL_checkudata(L, i, KERNEL);
}

static int push_value(lua_State *L, Kernel *k, Ref r)
{
    LuaValue *v = lua_newuserdatauv(L, sizeof *v, 0);
    *v = (LuaValue){k, r};
    luaL_setmetatable(L, VALUE);
    return 1;
}

/* A value of kernel `k`, or a number as a constant of type `hint`. */
static Ref to_ref(lua_State *L, Kernel *k, int i, DType hint)
{
    LuaValue *v = luaL_testudata(L, i, VALUE);
    if (v) {
        if (v->k != k)
            fail(L, "a value of another kernel");
        return v->ref;
    }
    if (lua_type(L, i) == LUA_TBOOLEAN && hint == DT_PRED)
        return ir_const_int(k, DT_PRED, lua_toboolean(L, i), here(L, k));
    if (lua_type(L, i) != LUA_TNUMBER) {
        lua_pushfstring(L, "expected a value or a number, got %s", luaL_typename(L, i));
        fail(L, lua_tostring(L, -1));
    }
    if (dtype_is_float(hint))
        return ir_const_float(k, hint, lua_tonumber(L, i), here(L, k));
    int exact;
    lua_Integer n = lua_tointegerx(L, i, &exact);
    if (!exact) {
        lua_pushfstring(L, "%f is not an integer, but the other operand is %s", lua_tonumber(L, i), dtype_name(hint));
        fail(L, lua_tostring(L, -1));
    }
    return ir_const_int(k, hint, n, here(L, k));
}

static DType check_dtype(lua_State *L, int i)
{
    size_t n;
    const char *name = luaL_checklstring(L, i, &n);
    DType t = dtype_parse(name, n);
    if (!t) {
        lua_pushfstring(L, "unknown element type '%s'", name);
        fail(L, lua_tostring(L, -1));
    }
    return t;
}

static Ref add(lua_State *L, Kernel *k, Ins ins)
{
    Err err = {0};
    ins.loc = here(L, k);
    Ref r = ir_add(k, &ins, &err);
    if (!r)
        fail(L, err.text);
    return r;
}

/* Integer arithmetic on constants is done at once, so that facts (divisors, bounds) see through it. */
static bool fold(const Kernel *k, Op op, Ref x, Ref y, int64_t *out)
{
    int64_t a, b;
    if (!ir_const_value(k, x, &a) || !ir_const_value(k, y, &b))
        return false;
    switch (op) {
    case OP_ADD: return !__builtin_add_overflow(a, b, out);
    case OP_SUB: return !__builtin_sub_overflow(a, b, out);
    case OP_MUL: return !__builtin_mul_overflow(a, b, out);
    case OP_DIV: return b > 0 && a >= 0 ? (*out = a / b, true) : false;
    case OP_REM: return b > 0 && a >= 0 ? (*out = a % b, true) : false;
    case OP_MIN: return *out = MIN(a, b), true;
    case OP_MAX: return *out = MAX(a, b), true;
    default: return false;
    }
}

/* Any elementwise operation; upvalue 1 is the Op. Some operand is a value: it gives kernel and type of the others. */
static int l_elementwise(lua_State *L)
{
    Op op = (Op)lua_tointeger(L, lua_upvalueindex(1));
    int first = luaL_testudata(L, 1, KERNEL) ? 2 : 1, nargs = op_info[op].min;
    LuaValue *any = NULL;
    for (int n = nargs - 1; n >= (op == OP_SELECT); n--) {
        LuaValue *v = luaL_testudata(L, first + n, VALUE);
        any = v ? v : any;
    }
    if (!any) {
        any = luaL_testudata(L, first, VALUE);
        if (!any || op == OP_SELECT)
            return fail(L, "one operand must be a value of the kernel");
    }
    Kernel *k = any->k;
    DType hint = type_of(k, any->ref).elem;
    Ins ins = {.op = op, .nargs = nargs};
    for (int n = 0; n < nargs; n++)
        ins.arg[n] = to_ref(L, k, first + n, op == OP_SELECT && n == 0 ? DT_PRED : hint);
    int64_t c;
    if (nargs == 2 && op_info[op].class == CLASS_BIN && fold(k, op, ins.arg[0], ins.arg[1], &c))
        return push_value(L, k, ir_const_int(k, hint, c, here(L, k)));
    return push_value(L, k, add(L, k, ins));
}

/* v:cast(elem), v:bitcast(elem) */
static int l_convert(lua_State *L)
{
    LuaValue *v = luaL_checkudata(L, 1, VALUE);
    DType to = check_dtype(L, 2);
    Op op = (Op)lua_tointeger(L, lua_upvalueindex(1));
    if (op == OP_CAST && type_of(v->k, v->ref).elem == to)
        return lua_settop(L, 1), 1;
    return push_value(L, v->k, add(L, v->k, (Ins){.op = op, .type = {.elem = to}, .nargs = 1, .arg = {v->ref}}));
}

/* v:slice(row, rows, col, cols) */
static int l_slice(lua_State *L)
{
    LuaValue *v = luaL_checkudata(L, 1, VALUE);
    Ins ins = {.op = OP_SLICE, .nargs = 1, .arg = {v->ref}};
    ins.pos[0] = (int)luaL_checkinteger(L, 2);
    ins.type.rows = (int)luaL_checkinteger(L, 3);
    ins.pos[1] = (int)luaL_checkinteger(L, 4);
    ins.type.cols = (int)luaL_checkinteger(L, 5);
    return push_value(L, v->k, add(L, v->k, ins));
}

static int l_join(lua_State *L)
{
    LuaValue *v = luaL_checkudata(L, 1, VALUE), *w = luaL_checkudata(L, 2, VALUE);
    return push_value(L, v->k, add(L, v->k, (Ins){.op = OP_JOIN, .nargs = 2, .arg = {v->ref, w->ref}}));
}

static int l_transpose(lua_State *L)
{
    LuaValue *v = luaL_checkudata(L, 1, VALUE);
    return push_value(L, v->k, add(L, v->k, (Ins){.op = OP_TRANSPOSE, .nargs = 1, .arg = {v->ref}}));
}

/* v:reduce(kind, axis "cols"|"rows", tree) */
static int l_reduce(lua_State *L)
{
    LuaValue *v = luaL_checkudata(L, 1, VALUE);
    static const char *const axes[] = {"rows", "cols", NULL};
    static const char *const kinds[] = {"add", "max", "min", NULL};
    Ins ins = {.op = OP_REDUCE, .nargs = 1, .arg = {v->ref}, .a = luaL_checkoption(L, 2, NULL, kinds),
               .b = luaL_checkoption(L, 3, "cols", axes), .c = (int)luaL_optinteger(L, 4, 0)};
    return push_value(L, v->k, add(L, v->k, ins));
}

/* frag:set(value) returns the frag */
static int l_set(lua_State *L)
{
    LuaValue *v = luaL_checkudata(L, 1, VALUE);
    Ref value = to_ref(L, v->k, 2, type_of(v->k, v->ref).elem);
    add(L, v->k, (Ins){.op = OP_SET, .nargs = 2, .arg = {v->ref, value}});
    return lua_settop(L, 1), 1;
}

static int l_value_index(lua_State *L)
{
    LuaValue *v = luaL_checkudata(L, 1, VALUE);
    const char *name = luaL_checkstring(L, 2);
    Type t = type_of(v->k, v->ref);
    if (!strcmp(name, "rows"))
        return lua_pushinteger(L, t.rows), 1;
    if (!strcmp(name, "cols"))
        return lua_pushinteger(L, t.cols), 1;
    if (!strcmp(name, "elem"))
        return lua_pushstring(L, dtype_name(t.elem)), 1;
    lua_getmetatable(L, 1);
    lua_pushvalue(L, 2);
    lua_rawget(L, -2);
    if (lua_isnil(L, -1)) {
        lua_pushfstring(L, "a value has no '%s'", name);
        return fail(L, lua_tostring(L, -1));
    }
    return 1;
}

/* ---- kernels ------------------------------------------------------------------------------------------------------ */

static int l_kernel(lua_State *L)
{
    Kernel **k = lua_newuserdatauv(L, sizeof *k, 0);
    *k = kernel_new(luaL_checkstring(L, 1));
    luaL_setmetatable(L, KERNEL);
    vec_push(&generator(L)->kernels, *k); /* owned here, so that errors leak nothing */
    return 1;
}

static int find_size(lua_State *L, const char *name)
{
    for (int i = 0; i < SIZE_COUNT; i++)
        if (!strcmp(size_names[i], name))
            return i;
    lua_pushfstring(L, "unknown size '%s'; sizes are listed in compiler/sizes.h", name);
    return fail(L, lua_tostring(L, -1));
}

/* An extent on top of the stack: 16, "tokens" or {16, "tokens"}; popped. */
static Dim pop_dim(lua_State *L)
{
    Dim d = {.n = 1, .size = -1};
    if (lua_type(L, -1) == LUA_TSTRING)
        d.size = find_size(L, lua_tostring(L, -1));
    else if (lua_istable(L, -1)) {
        lua_rawgeti(L, -1, 1);
        lua_rawgeti(L, -2, 2);
        d.n = luaL_checkinteger(L, -2);
        d.size = find_size(L, luaL_checkstring(L, -1));
        lua_pop(L, 2);
    } else
        d.n = luaL_checkinteger(L, -1);
    lua_pop(L, 1);
    if (d.n < 1)
        fail(L, "an extent must be at least 1");
    return d;
}

static lua_Integer field_integer(lua_State *L, int table, const char *name, lua_Integer otherwise)
{
    lua_getfield(L, table, name);
    lua_Integer v = luaL_optinteger(L, -1, otherwise);
    lua_pop(L, 1);
    return v;
}

static bool field_bool(lua_State *L, int table, const char *name)
{
    lua_getfield(L, table, name);
    bool v = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return v;
}

/* Reads {name=, elem=, dims={}, pitch=, panel=, wide=, pairs=, access=} at stack index `t`. */
static Memory read_memory(lua_State *L, int t, const char *name)
{
    static const char *const access[] = {"in", "out", "inout", NULL};
    Memory m = {.name = name};
    lua_getfield(L, t, "elem");
    m.elem = check_dtype(L, -1);
    lua_getfield(L, t, "access");
    m.access = (Access)luaL_checkoption(L, -1, "in", access);
    lua_getfield(L, t, "dims");
    luaL_checktype(L, -1, LUA_TTABLE);
    m.rank = (int)lua_rawlen(L, -1);
    if (m.rank < 1 || m.rank > MAX_RANK)
        fail(L, "a memory has 1 to 5 dimensions");
    for (int d = 0; d < m.rank; d++) {
        lua_rawgeti(L, -1, d + 1);
        m.dim[d] = pop_dim(L);
    }
    lua_pop(L, 3);
    m.pitch = field_integer(L, t, "pitch", 0);
    m.unit = (int)field_integer(L, t, "panel", 0);
    m.layout = m.unit ? LAYOUT_PANEL : LAYOUT_ROWS;
    m.wide = (int)field_integer(L, t, "wide", PANEL_COLS);
    if (m.wide < PANEL_COLS || m.wide % PANEL_COLS || m.wide > 4096)
        fail(L, "a panel is a multiple of 16 columns wide");
    m.pairs = field_bool(L, t, "pairs");
    if (m.layout == LAYOUT_PANEL && (m.rank < 2 || m.dim[m.rank - 1].size >= 0 || m.dim[m.rank - 2].size >= 0))
        fail(L, "a panel needs two constant last dimensions");
    return m;
}

/* k:arg(index, name, declaration) */
static int l_arg(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    luaL_checktype(L, 4, LUA_TTABLE);
    Memory m = read_memory(L, 4, luaL_checkstring(L, 3));
    m.index = (int)luaL_checkinteger(L, 2);
    return push_value(L, k, ir_memory(k, &m, here(L, k)));
}

/* k:shared(elem, {dims}, {pitch=, panel=, wide=, pairs=}) */
static int l_shared(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    lua_settop(L, 4);
    lua_newtable(L);
    lua_pushvalue(L, 2), lua_setfield(L, 5, "elem");
    lua_pushvalue(L, 3), lua_setfield(L, 5, "dims");
    static const char *const copied[] = {"pitch", "panel", "wide", "pairs"};
    for (size_t i = 0; lua_istable(L, 4) && i < COUNT(copied); i++) {
        lua_getfield(L, 4, copied[i]);
        lua_setfield(L, 5, copied[i]);
    }
    Memory m = read_memory(L, 5, "shared");
    for (int d = 0; d < m.rank; d++)
        if (m.dim[d].size >= 0)
            return fail(L, "a shared tile has constant extents");
    m.space = SPACE_SHARED;
    m.access = ACCESS_INOUT;
    return push_value(L, k, ir_memory(k, &m, here(L, k)));
}

/* k:frag(elem, rows, cols, class) */
static int l_frag(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    static const char *const classes[] = {"flat", "acc", "a", "b", "rows", "cols", NULL};
    Type t = {check_dtype(L, 2), (int)luaL_checkinteger(L, 3), (int)luaL_checkinteger(L, 4)};
    if (t.rows < 1 || t.cols < 1 || (int64_t)t.rows * t.cols > MAX_TILE)
        return fail(L, "a frag of this shape is empty or too large for registers");
    return push_value(L, k, ir_leaf(k, OP_FRAG, t, 0, luaL_checkoption(L, 5, "flat", classes), here(L, k)));
}

static int l_size(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    return push_value(L, k, ir_leaf(k, OP_SIZE, (Type){DT_S64, 1, 1}, find_size(L, luaL_checkstring(L, 2)), 0, here(L, k)));
}

static int l_const(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    return push_value(L, k, to_ref(L, k, 3, check_dtype(L, 2)));
}

/* k:grid(extent, ...): 1 to 3 numbers or s64 scalars; the first varies slowest */
static int l_grid(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    int n = lua_gettop(L) - 1;
    if (n < 1 || n > MAX_GRID || k->grid_rank)
        return fail(L, "grid takes 1 to 3 extents, once");
    for (int d = 0; d < n; d++)
        k->grid[d] = to_ref(L, k, d + 2, DT_S64);
    k->grid_rank = n;
    return 0;
}

static int l_block(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    lua_Integer d = luaL_checkinteger(L, 2);
    if (d < 0 || d >= k->grid_rank)
        return fail(L, "block: no such grid dimension (call k:grid first)");
    return push_value(L, k, ir_leaf(k, OP_BLOCK, (Type){DT_S64, 1, 1}, d, 0, here(L, k)));
}

/* k:row(n), k:col(n): coordinates 0..n-1 */
static int l_coordinates(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    Op op = (Op)lua_tointeger(L, lua_upvalueindex(1));
    int n = (int)luaL_checkinteger(L, 2);
    Type t = op == OP_ROW ? (Type){DT_S32, n, 1} : (Type){DT_S32, 1, n};
    if (n < 1 || n > MAX_TILE)
        return fail(L, "coordinates of an empty or too large tile");
    return push_value(L, k, ir_leaf(k, op, t, 0, 0, here(L, k)));
}

static int l_numerics(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    k->numerics.tree = (int)field_integer(L, 2, "tree", 0);
    k->numerics.segment = (int)field_integer(L, 2, "segment", 0);
    return 0;
}

/* k:range(lo, hi, step, fn [, stages]) */
static int l_range(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    lua_settop(L, 6);
    luaL_checktype(L, 5, LUA_TFUNCTION);
    int stages = (int)luaL_optinteger(L, 6, 0);
    Ins ins = {.op = OP_LOOP, .nargs = 2, .a = stages > 1 ? LOOP_PIPELINED : LOOP_SERIAL, .b = stages > 1 ? stages : 0};
    ins.arg[0] = to_ref(L, k, 2, DT_S64);
    ins.arg[1] = to_ref(L, k, 3, DT_S64);
    ins.integer = luaL_checkinteger(L, 4);
    Ref r = add(L, k, ins);
    lua_pushvalue(L, 5);
    push_value(L, k, r);
    lua_call(L, 1, 0);
    add(L, k, (Ins){.op = OP_END});
    return 0;
}

/* k:when(predicate, fn [, else_fn]) */
static int l_when(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    lua_settop(L, 4);
    luaL_checktype(L, 3, LUA_TFUNCTION);
    add(L, k, (Ins){.op = OP_WHEN, .nargs = 1, .arg = {to_ref(L, k, 2, DT_PRED)}});
    lua_pushvalue(L, 3);
    lua_call(L, 0, 0);
    if (lua_isfunction(L, 4)) {
        add(L, k, (Ins){.op = OP_ELSE});
        lua_pushvalue(L, 4);
        lua_call(L, 0, 0);
    }
    add(L, k, (Ins){.op = OP_END});
    return 0;
}

/* The view {coords} of memory `base`, from stack indices: base, coords; flags from the options table at `opt`. */
static Ref make_view(lua_State *L, Kernel *k, int base, int coords, int rows, int cols, int opt)
{
    LuaValue *m = luaL_checkudata(L, base, VALUE);
    luaL_checktype(L, coords, LUA_TTABLE);
    int n = (int)lua_rawlen(L, coords), flags = 0;
    Ref at[MAX_RANK];
    if (n > MAX_RANK)
        fail(L, "a view has at most 5 coordinates");
    for (int d = 0; d < n; d++) {
        lua_rawgeti(L, coords, d + 1);
        at[d] = to_ref(L, k, lua_gettop(L), DT_S64);
        lua_pop(L, 1);
    }
    if (lua_istable(L, opt))
        flags = (field_bool(L, opt, "transposed") ? VIEW_TRANSPOSED : 0) | (field_bool(L, opt, "inside") ? VIEW_INSIDE : 0);
    Err err = {0};
    Ref r = ir_view(k, m->ref, at, n, rows, cols, flags, here(L, k), &err);
    if (!r)
        fail(L, err.text);
    return r;
}

/* k:view(memory, {coords}, rows, cols, options) */
static int l_view(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    lua_settop(L, 6);
    return push_value(L, k, make_view(L, k, 2, 3, (int)luaL_checkinteger(L, 4), (int)luaL_checkinteger(L, 5), 6));
}

/* k:load(memory, {coords}, rows = 1, cols = 1, options) */
static int l_load(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    lua_settop(L, 6);
    Ref v = make_view(L, k, 2, 3, (int)luaL_optinteger(L, 4, 1), (int)luaL_optinteger(L, 5, 1), 6);
    return push_value(L, k, add(L, k, (Ins){.op = OP_LOAD, .nargs = 1, .arg = {v}}));
}

/* k:store(memory, {coords}, value, options): the extent is the value's, or rows/cols of the options to broadcast */
static int l_store(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    lua_settop(L, 5);
    LuaValue *m = luaL_checkudata(L, 2, VALUE);
    Ref value = to_ref(L, k, 4, type_of(k, m->ref).elem);
    Type t = type_of(k, value);
    if (lua_istable(L, 5)) {
        t.rows = (int)field_integer(L, 5, "rows", t.rows);
        t.cols = (int)field_integer(L, 5, "cols", t.cols);
    }
    Ref v = make_view(L, k, 2, 3, t.rows, t.cols, 5);
    add(L, k, (Ins){.op = OP_STORE, .nargs = 2, .arg = {v, value}});
    return 0;
}

/* k:gather(memory, {coords}, index) */
static int l_gather(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    lua_settop(L, 5);
    LuaValue *index = luaL_checkudata(L, 4, VALUE);
    Ref v = make_view(L, k, 2, 3, 1, 1, 5);
    return push_value(L, k, add(L, k, (Ins){.op = OP_GATHER, .nargs = 2, .arg = {v, index->ref}}));
}

/* k:scatter(memory, {coords}, index, value) */
static int l_scatter(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    lua_settop(L, 6);
    LuaValue *index = luaL_checkudata(L, 4, VALUE), *value = luaL_checkudata(L, 5, VALUE);
    Ref v = make_view(L, k, 2, 3, 1, 1, 6);
    add(L, k, (Ins){.op = OP_SCATTER, .nargs = 3, .arg = {v, index->ref, value->ref}});
    return 0;
}

/* k:gemm(acc, a_view, b_view [, unroll [, next_view, lines]]) */
static int l_gemm(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    LuaValue *acc = luaL_checkudata(L, 2, VALUE), *a = luaL_checkudata(L, 3, VALUE), *b = luaL_checkudata(L, 4, VALUE);
    Ins ins = {.op = OP_GEMM, .nargs = 3, .arg = {acc->ref, a->ref, b->ref}, .a = (int)luaL_optinteger(L, 5, 1)};
    if (lua_toboolean(L, 6)) {
        ins.arg[ins.nargs++] = ((LuaValue *)luaL_checkudata(L, 6, VALUE))->ref;
        ins.b = (int)luaL_checkinteger(L, 7);
        if (ins.b < 1 || ins.b > 16)
            return fail(L, "gemm: 1 to 16 cache lines can be prefetched a line of K");
    }
    add(L, k, ins);
    return 0;
}

static int l_copy(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    LuaValue *to = luaL_checkudata(L, 2, VALUE), *from = luaL_checkudata(L, 3, VALUE);
    add(L, k, (Ins){.op = OP_COPY, .nargs = 2, .arg = {to->ref, from->ref}});
    return 0;
}

static int l_prefetch(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    LuaValue *v = luaL_checkudata(L, 2, VALUE);
    add(L, k, (Ins){.op = OP_PREFETCH, .nargs = 1, .arg = {v->ref}});
    return 0;
}

static int l_atomic_add(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    LuaValue *v = luaL_checkudata(L, 2, VALUE);
    Ref value = to_ref(L, k, 3, type_of(k, v->ref).elem);
    add(L, k, (Ins){.op = OP_ATOMIC_ADD, .nargs = 2, .arg = {v->ref, value}});
    return 0;
}

/* k:finish() runs the verifier; returns the kernel's number. */
static int l_finish(lua_State *L)
{
    Kernel *k = check_kernel(L, 1);
    Err err = {0};
    if (!ir_check(k, &err) || !ir_check_numerics(k, &err)) {
        lua_pushstring(L, err.text);
        return lua_error(L);
    }
    Generator *g = generator(L);
    for (size_t i = 0; i < g->kernels.len; i++)
        if (g->kernels.at[i] == k)
            return lua_pushinteger(L, (lua_Integer)i), 1;
    return fail(L, "kernel is not registered");
}

/* k:text(): the IR, for identity and display */
static int l_text(lua_State *L)
{
    Buf b = {0};
    ir_print(check_kernel(L, 1), &b);
    lua_pushlstring(L, b.data, b.len);
    buf_free(&b);
    return 1;
}

#include "tensor.inc"

/* ---- registration --------------------------------------------------------------------------------------------------- */

static const luaL_Reg kernel_methods[] = {
    {"arg", l_arg}, {"shared", l_shared}, {"frag", l_frag}, {"size", l_size}, {"const", l_const}, {"grid", l_grid},
    {"block", l_block}, {"numerics", l_numerics}, {"range", l_range}, {"when", l_when}, {"view", l_view},
    {"load", l_load}, {"store", l_store}, {"gather", l_gather}, {"scatter", l_scatter}, {"gemm", l_gemm},
    {"copy", l_copy}, {"prefetch", l_prefetch}, {"atomic_add", l_atomic_add}, {"finish", l_finish}, {"text", l_text},
    {NULL, NULL}};

static const luaL_Reg value_methods[] = {
    {"slice", l_slice}, {"join", l_join}, {"transpose", l_transpose}, {"reduce", l_reduce}, {"set", l_set}, {NULL, NULL}};

static const luaL_Reg module[] = {{"kernel", l_kernel}, {"tensor", l_tensor}, {"run", l_run}, {NULL, NULL}};

static void register_op(lua_State *L, const char *name, Op op, lua_CFunction fn)
{
    lua_pushinteger(L, op);
    lua_pushcclosure(L, fn, 1);
    lua_setfield(L, -2, name);
}

/* Elementwise operations expand from ops.h: as methods of values, of kernels (k:select, k:fma) and as operators. */
static void register_elementwise(lua_State *L)
{
    for (int op = 1; op < OP_COUNT; op++) {
        OpClass c = op_info[op].class;
        if (c == CLASS_UN || c == CLASS_BIN || c == CLASS_CMP || c == CLASS_TERN)
            register_op(L, op_info[op].text, (Op)op, l_elementwise);
    }
}

static void register_all(lua_State *L)
{
    static const struct { const char *name; Op op; } operators[] = {
        {"__add", OP_ADD}, {"__sub", OP_SUB}, {"__mul", OP_MUL}, {"__div", OP_DIV}, {"__idiv", OP_DIV}, {"__mod", OP_REM},
        {"__unm", OP_NEG}, {"__band", OP_AND}, {"__bor", OP_OR}, {"__bxor", OP_XOR}, {"__shl", OP_SHL}, {"__shr", OP_SHR},
        {"__bnot", OP_NOT}};
    luaL_newmetatable(L, KERNEL);
    luaL_setfuncs(L, kernel_methods, 0);
    register_elementwise(L);
    register_op(L, "row", OP_ROW, l_coordinates);
    register_op(L, "col", OP_COL, l_coordinates);
    lua_pushvalue(L, -1), lua_setfield(L, -2, "__index");
    lua_setglobal(L, "Kernel"); /* lib.lua adds methods written in Lua */

    luaL_newmetatable(L, VALUE);
    luaL_setfuncs(L, value_methods, 0);
    register_elementwise(L);
    for (size_t i = 0; i < COUNT(operators); i++)
        register_op(L, operators[i].name, operators[i].op, l_elementwise);
    register_op(L, "cast", OP_CAST, l_convert);
    register_op(L, "bitcast", OP_BITCAST, l_convert);
    lua_pushcfunction(L, l_value_index), lua_setfield(L, -2, "__index");
    lua_setglobal(L, "Value");

    luaL_newmetatable(L, TENSOR);
    luaL_setfuncs(L, tensor_methods, 0);
    lua_pushvalue(L, -1), lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
    luaL_newlib(L, module);
    lua_setglobal(L, "blade");
}

static void push_target(lua_State *L, const Target *t)
{
    lua_newtable(L);
    lua_pushstring(L, t->name), lua_setfield(L, -2, "name");
    lua_pushstring(L, t->family), lua_setfield(L, -2, "family");
    lua_pushinteger(L, t->vector_bits), lua_setfield(L, -2, "vector_bits");
    lua_pushinteger(L, t->vector_registers), lua_setfield(L, -2, "vector_registers");
    lua_pushboolean(L, t->vnni), lua_setfield(L, -2, "vnni");
    lua_pushboolean(L, t->bf16_dot), lua_setfield(L, -2, "bf16_dot");
    lua_pushboolean(L, t->f16c), lua_setfield(L, -2, "f16c");
    lua_setglobal(L, "target");
}

/* ---- loading the sources ------------------------------------------------------------------------------------------------ */

static bool protected_call(Generator *g, int nargs, int nresults, Err *err)
{
    if (lua_pcall(g->L, nargs, nresults, 0) == LUA_OK)
        return true;
    const char *text = lua_tostring(g->L, -1);
    err_set(err, "%s", text ? text : "Lua error without a message");
    lua_pop(g->L, 1);
    return false;
}

enum { MEMORY_LIMIT = 1 << 30 };

/* Lua's allocator: a source that builds an endless string runs into "not enough memory", a Lua error like any other. */
static void *limited_alloc(void *context, void *p, size_t old_size, size_t new_size)
{
    Generator *g = context;
    old_size = p ? old_size : 0; /* for new objects Lua passes their kind */
    if (new_size > old_size && g->memory + (new_size - old_size) > MEMORY_LIMIT)
        return NULL;
    void *q = NULL;
    if (new_size) {
        q = realloc(p, new_size);
        if (!q)
            return NULL;
    } else
        free(p);
    g->memory = g->memory - old_size + new_size;
    return q;
}

enum { LOAD_FUEL = 200, TRACE_FUEL = 50000, FUEL_UNIT = 1000000 };

static void burn(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    if (--generator(L)->fuel < 0)
        fail(L, "gave up after too many instructions; is there an endless loop?");
}

static bool run_text(Generator *g, const char *text, size_t len, const char *name, Err *err)
{
    char chunk[512];
    snprintf(chunk, sizeof chunk, "@%s", name);
    if (luaL_loadbufferx(g->L, text, len, chunk, "t") != LUA_OK) {
        err_set(err, "%s", lua_tostring(g->L, -1));
        lua_pop(g->L, 1);
        return false;
    }
    return protected_call(g, 0, 0, err);
}

static bool run_file(Generator *g, const char *source, const char *name, Err *err)
{
    Buf text = {0};
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", source, name);
    bool ok = file_read(&text, path, 4 << 20, err) && run_text(g, text.data ? text.data : "", text.len, name, err);
    buf_free(&text);
    return ok;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static bool run_folder(Generator *g, const char *source, const char *folder, Err *err)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", source, folder);
    struct dirent **entry;
    int n = scandir(path, &entry, NULL, by_name);
    if (n < 0)
        return err_set(err, "%s: no such folder; the source folder holds compiler/lua, templates and schedules", path);
    bool ok = true;
    for (int i = 0; i < n; i++) {
        size_t len = strlen(entry[i]->d_name);
        char name[512];
        snprintf(name, sizeof name, "%s/%s", folder, entry[i]->d_name);
        if (ok && len > 4 && !strcmp(entry[i]->d_name + len - 4, ".lua") && strcmp(name, "compiler/lua/lib.lua"))
            ok = run_file(g, source, name, err);
        free(entry[i]);
    }
    free(entry);
    return ok;
}

Generator *gen_open(const char *source, const Target *t, Err *err)
{
    Generator *g = xcalloc(1, sizeof *g);
    g->target = t;
    g->L = lua_newstate(limited_alloc, g);
    if (!g->L)
        die("out of memory (Lua)");
    *(Generator **)lua_getextraspace(g->L) = g;
    g->fuel = LOAD_FUEL;
    lua_sethook(g->L, burn, LUA_MASKCOUNT, FUEL_UNIT);
    static const luaL_Reg libraries[] = {{LUA_GNAME, luaopen_base}, {LUA_TABLIBNAME, luaopen_table},
                                         {LUA_STRLIBNAME, luaopen_string}, {LUA_MATHLIBNAME, luaopen_math}};
    for (size_t i = 0; i < COUNT(libraries); i++) {
        luaL_requiref(g->L, libraries[i].name, libraries[i].func, 1);
        lua_pop(g->L, 1);
    }
    register_all(g->L);
    push_target(g->L, t);
    char schedules[128];
    snprintf(schedules, sizeof schedules, "schedules/%s", t->family);
    if (run_file(g, source, "compiler/lua/lib.lua", err) && run_folder(g, source, "compiler/lua", err) &&
        run_folder(g, source, "templates", err) &&
        run_folder(g, source, "templates/models", err) && run_folder(g, source, schedules, err)) {
        g->fuel = TRACE_FUEL;
        return g;
    }
    gen_close(g);
    return NULL;
}

void gen_close(Generator *g)
{
    if (!g)
        return;
    lua_close(g->L);
    for (size_t i = 0; i < g->kernels.len; i++)
        kernel_free(g->kernels.at[i]);
    vec_free(&g->kernels);
    free(g);
}

size_t gen_kernel_count(const Generator *g) { return g->kernels.len; }
const Kernel *gen_kernel(const Generator *g, size_t i) { return g->kernels.at[i]; }

/* ---- calls from C ---------------------------------------------------------------------------------------------------------- */

static void push_json(lua_State *L, const json_t *j)
{
    const char *key;
    json_t *value;
    size_t i;
    luaL_checkstack(L, 4, "JSON nested too deep");
    switch (json_typeof(j)) {
    case JSON_OBJECT:
        lua_newtable(L);
        json_object_foreach((json_t *)j, key, value) {
            push_json(L, value);
            lua_setfield(L, -2, key);
        }
        break;
    case JSON_ARRAY:
        lua_newtable(L);
        json_array_foreach(j, i, value) {
            push_json(L, value);
            lua_rawseti(L, -2, (lua_Integer)i + 1);
        }
        break;
    case JSON_STRING: lua_pushlstring(L, json_string_value(j), json_string_length(j)); break;
    case JSON_INTEGER: lua_pushinteger(L, json_integer_value(j)); break;
    case JSON_REAL: lua_pushnumber(L, json_real_value(j)); break;
    case JSON_NULL: lua_pushnil(L); break;
    default: lua_pushboolean(L, json_is_true(j));
    }
}

/* Upvalue-free bridge: pushing JSON may raise an error, so it happens inside a protected call. */
static int l_call_with_json(lua_State *L)
{
    lua_getglobal(L, lua_tostring(L, 1));
    push_json(L, lua_touserdata(L, 2));
    lua_call(L, 1, 1);
    return 1;
}

static bool call_with_json(Generator *g, const char *function, const json_t *argument, Err *err)
{
    lua_pushcfunction(g->L, l_call_with_json);
    lua_pushstring(g->L, function);
    lua_pushlightuserdata(g->L, (void *)argument);
    return protected_call(g, 2, 1, err);
}

bool gen_plan(Generator *g, const json_t *facts, Err *err)
{
    if (!call_with_json(g, "plan_model", facts, err))
        return false;
    lua_pop(g->L, 1);
    return true;
}

static bool take_string(Generator *g, Buf *out)
{
    size_t n;
    const char *text = lua_tolstring(g->L, -1, &n);
    if (text && out)
        buf_put(out, text, n);
    lua_pop(g->L, 1);
    return true;
}

bool gen_call(Generator *g, const char *function, const json_t *argument, Buf *out, Err *err)
{
    return call_with_json(g, function, argument, err) && take_string(g, out);
}

bool gen_plan_json(Generator *g, const json_t *code, Buf *out, Err *err)
{
    return gen_call(g, "plan_json", code, out, err);
}

bool gen_list(Generator *g, Buf *out, Err *err)
{
    lua_getglobal(g->L, "list_operators");
    return protected_call(g, 0, 1, err) && take_string(g, out);
}

const Kernel *gen_show(Generator *g, const char *op, const char *const *set, int n_set, Buf *doc, Err *err)
{
    lua_getglobal(g->L, "show_operator");
    lua_pushstring(g->L, op);
    lua_newtable(g->L);
    for (int i = 0; i < n_set; i++) {
        lua_pushstring(g->L, set[i]);
        lua_rawseti(g->L, -2, i + 1);
    }
    if (!protected_call(g, 2, 2, err))
        return NULL;
    take_string(g, doc);
    size_t index = (size_t)lua_tointeger(g->L, -1);
    lua_pop(g->L, 1);
    return g->kernels.at[index];
}

const Kernel *gen_try_schedule(Generator *g, const char *op, const char *text, size_t len, Err *err)
{
    g->fuel = LOAD_FUEL;
    lua_getglobal(g->L, "forget_schedules");
    lua_pushstring(g->L, op);
    if (!protected_call(g, 1, 0, err) || !run_text(g, text, len, "schedule.lua", err))
        return NULL;
    return gen_show(g, op, NULL, 0, NULL, err);
}

bool gen_check(Generator *g, const char *op, bool quick, RunKernel run, void *context, CheckResult *result, Err *err)
{
    g->run = run;
    g->run_context = context;
    lua_sethook(g->L, NULL, 0, 0); /* references may take their time */
    lua_getglobal(g->L, "check_operators");
    if (op)
        lua_pushstring(g->L, op);
    else
        lua_pushnil(g->L);
    lua_pushboolean(g->L, quick);
    if (!protected_call(g, 2, 2, err))
        return false;
    result->passed = (int)lua_tointeger(g->L, -2);
    result->failed = (int)lua_tointeger(g->L, -1);
    lua_pop(g->L, 2);
    return true;
}
