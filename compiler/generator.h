/* generator.h - what lua.c offers to the rest of the generator: load the Lua sources, trace kernels, plan a model.
 *
 * A Generator holds one Lua state with the operators, schedules and models of one source folder. Tracing is done in one
 * thread; the kernels that come out are plain IR and are compiled in many. */
#ifndef BLADE_GENERATOR_H
#define BLADE_GENERATOR_H

#include "ir.h"
#include "target.h"

#include <jansson.h>

typedef struct Generator Generator;

/* `source`: folder with compiler/lua, templates and schedules. Loads compiler/lua/lib.lua first, then every file. */
Generator *gen_open(const char *source, const Target *t, Err *err);
void gen_close(Generator *g);

/* Kernels traced so far, in order; they belong to the generator. */
size_t gen_kernel_count(const Generator *g);
const Kernel *gen_kernel(const Generator *g, size_t i);

/* Plans a model: `facts` is {config, tensors: {name: {dtype, shape}}, weights, random}. Traces every kernel it
 * needs. */
bool gen_plan(Generator *g, const json_t *facts, Err *err);

/* After compilation: the plan as JSON text. `code` is [{offset, size, and KernelInfo}] a kernel. */
bool gen_plan_json(Generator *g, const json_t *code, Buf *out, Err *err);

/* Calls a global Lua function with one value and takes the text it returns; for tests. */
bool gen_call(Generator *g, const char *function, const json_t *argument, Buf *out, Err *err);

/* Names of operators with their schedules, one line each, into `out`. */
bool gen_list(Generator *g, Buf *out, Err *err);

/* Traces one operator with parameters from its first test case and settings given as "name=value"; the spec's
 * documentation goes to `doc` (may be NULL). */
const Kernel *gen_show(Generator *g, const char *op, const char *const *set, int n_set, Buf *doc, Err *err);

/* Traces `op` by a schedule given as text instead of the one in schedules/; the text may be anything. */
const Kernel *gen_try_schedule(Generator *g, const char *op, const char *text, size_t len, Err *err);

/* How Lua's tests run a kernel (verify.c); from now on they may, and Lua may take its time. */
typedef bool (*RunKernel)(void *context, const Kernel *k, void **buffers, const int64_t *sizes, Err *err);
void gen_set_run(Generator *g, RunKernel run, void *context);

/* Runs test cases: fills inputs, the kernels' outputs are compared with the reference. */
typedef struct CheckResult {
    int passed, failed;
} CheckResult;
bool gen_check(Generator *g, const char *op, bool quick, RunKernel run, void *context, CheckResult *result, Err *err);

#endif
