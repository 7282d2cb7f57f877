/* compile.h - private to the generator: compiling many kernels at once, and what a plan may know of a checkpoint. */
#ifndef BLADE_COMPILE_H
#define BLADE_COMPILE_H

#include "bladegen.h"
#include "checkpoint.h"
#include "generator.h"

typedef struct CompiledKernel {
    Buf code; /* an object file; empty until compiled */
    KernelInfo info;
    char *warning; /* something the user should know, or NULL; owned */
    char *failure; /* why compile_every_kernel could not compile it, or NULL; owned */
} CompiledKernel;

void compiled_free(CompiledKernel *k); /* frees and clears what it holds */

/* Compiles the kernels numbered which[0..count) into objects[which[i]], in parallel; those that are there stay. The
 * first failure ends it. */
bool compile_kernels(const Generator *g, const Target *t, const BladegenRequest *r, const size_t *which, size_t count,
                     CompiledKernel *objects, Err *err);

/* The same, each kernel named once; those that can't be compiled say so in `failure`. */
void compile_every_kernel(const Generator *g, const Target *t, const BladegenRequest *r, const size_t *which, size_t count,
                          CompiledKernel *objects);

/* Appends the objects of `which`, each at a multiple of 64, and returns [{offset, size, scratch, threads, ...}] with the
 * fields of KernelInfo by kernel number, as plan_json wants it. */
json_t *compile_layout(const CompiledKernel *objects, const size_t *which, size_t count, Buf *code);

/* What the model's Lua description may know: configuration, weight format asked for, and every tensor. */
json_t *compile_facts(const Checkpoint *c, const BladegenRequest *r);

/* The checkpoint of a request: a folder, or a config.json alone. */
Checkpoint *compile_checkpoint(const BladegenRequest *r, Err *err);

#endif
