/* lua.c - the only user of lua.h: operators, schedules and models are Lua; this file gives them builders of tile IR.
 *
 * A builder validates at once and reports the Lua file and line. Bindings own only userdata and the kernel's arena,
 * since luaL_error jumps. Values carry their kernel; a number meets a value as a constant of the value's element
 * type. */
#include "generator.h"
#include "../autotune/cost.h"

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
    char *source;  /* the source folder */
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

#include "builders.inc"
#include "tensor.inc"
#include "tuning.inc"

/* ---- registration ------------------------------------------------------------------------------------------------ */

static const luaL_Reg kernel_methods[] = {
    {"arg", l_arg}, {"shared", l_shared}, {"frag", l_frag}, {"size", l_size}, {"const", l_const}, {"grid", l_grid},
    {"block", l_block}, {"numerics", l_numerics}, {"accepts", l_accepts}, {"external", l_external},
    {"warps", l_warps}, {"range", l_range}, {"when", l_when}, {"view", l_view},
    {"load", l_load}, {"store", l_store}, {"gather", l_gather}, {"scatter", l_scatter}, {"gemm", l_gemm},
    {"copy", l_copy}, {"prefetch", l_prefetch}, {"atomic_add", l_atomic_add}, {"finish", l_finish}, {"text", l_text},
    {NULL, NULL}};

static const luaL_Reg value_methods[] = {
    {"slice", l_slice}, {"join", l_join}, {"transpose", l_transpose}, {"reshape", l_reshape},
    {"scan", l_scan}, {"reduce", l_reduce}, {"set", l_set}, {NULL, NULL}};

static const luaL_Reg module[] = {{"kernel", l_kernel}, {"tensor", l_tensor}, {"run", l_run},
                                  {"bytes", l_bytes}, {"cost", l_cost}, {NULL, NULL}};

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
    if (t->gpu) { /* target.gpu, nil on a CPU */
        static const char *const units[] = {"mma", "mfma", "wmma"};
        lua_newtable(L);
        lua_pushboolean(L, t->gpu->nvidia), lua_setfield(L, -2, "nvidia");
        lua_pushstring(L, units[t->gpu->matrix]), lua_setfield(L, -2, "matrix");
        lua_pushinteger(L, t->gpu->wave), lua_setfield(L, -2, "wave");
        lua_pushinteger(L, t->gpu->max_warps), lua_setfield(L, -2, "max_warps");
        lua_pushinteger(L, t->gpu->shared), lua_setfield(L, -2, "shared");
        lua_pushinteger(L, t->gpu->stages), lua_setfield(L, -2, "stages");
        lua_setfield(L, -2, "gpu");
    }
    lua_setglobal(L, "target");
}

/* ---- loading the sources ----------------------------------------------------------------------------------------- */

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

/* Hash of a source's code: the same when only comments and white space differ. */
static uint32_t code_hash(const char *text, size_t len)
{
    Buf code = {0};
    char quote = 0;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (!quote && c == '-' && i + 1 < len && text[i + 1] == '-') {
            while (i + 1 < len && text[i + 1] != '\n')
                i++;
            continue;
        }
        if (quote ? c == quote && text[i - 1] != '\\' : c == '"' || c == '\'')
            quote = quote ? 0 : c;
        if (quote || !strchr(" \t\r\n", c))
            buf_putc(&code, c);
    }
    uint32_t hash = (uint32_t)hash_bytes(HASH_SEED, code.data, code.len);
    buf_free(&code);
    return hash;
}

static bool run_text(Generator *g, const char *text, size_t len, const char *name, Err *err)
{
    char chunk[512], hash[16];
    snprintf(hash, sizeof hash, "%08x", code_hash(text, len));
    lua_pushstring(g->L, hash);
    lua_setglobal(g->L, "source_hash"); /* lib.lua: which version of a schedule settings were tuned for */
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

/* The host's schedules serve every target; those of the target's own family come before them. */
static bool run_own_schedules(Generator *g, const char *source, const Target *t, Err *err)
{
    char folder[128];
    if (!strcmp(t->family, "host"))
        return true;
    snprintf(folder, sizeof folder, "schedules/%s", t->family);
    lua_pushboolean(g->L, true), lua_setglobal(g->L, "own_schedules");
    return run_folder(g, source, folder, err);
}

Generator *gen_open(const char *source, const Target *t, Err *err)
{
    Generator *g = xcalloc(1, sizeof *g);
    g->target = t;
    g->source = xstrdup(source);
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
    if (run_file(g, source, "compiler/lua/lib.lua", err) && run_folder(g, source, "compiler/lua", err) &&
        run_folder(g, source, "templates", err) &&
        run_folder(g, source, "templates/models", err) && run_folder(g, source, "schedules/host", err) &&
        run_own_schedules(g, source, t, err)) {
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
    free(g->source);
    free(g);
}

size_t gen_kernel_count(const Generator *g) { return g->kernels.len; }
const Kernel *gen_kernel(const Generator *g, size_t i) { return g->kernels.at[i]; }

/* ---- calls from C ------------------------------------------------------------------------------------------------ */

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

void gen_set_run(Generator *g, RunKernel run, void *context)
{
    g->run = run;
    g->run_context = context;
    lua_sethook(g->L, NULL, 0, 0); /* references may take their time */
}

bool gen_check(Generator *g, const char *op, bool quick, RunKernel run, void *context, CheckResult *result, Err *err)
{
    gen_set_run(g, run, context);
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
