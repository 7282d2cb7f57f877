/* target.c - the CPU targets: one row each; all targets by name, and which of them this machine runs. */
#include "../target.h"
#include "../cpu.h"
#include "../simt/retarget.h"

#include <string.h>

#define X86(...) .family = "host", .triple = "x86_64-pc-linux-gnu", .x86 = true, .lower = host_lower, __VA_ARGS__

static const Target targets[] = {
    {.name = "x86-64", X86(.cpu = "x86-64", .features = "", .vector_bits = 128, .vector_registers = 16)},
    {.name = "x86-64-v3", X86(.cpu = "x86-64-v3", .features = "", .vector_bits = 256, .vector_registers = 16,
                              .round = true, .fma = true, .f16c = true)},
    {.name = "x86-64-v4", X86(.cpu = "x86-64-v4", .features = "", .vector_bits = 512, .vector_registers = 32,
                              .round = true, .fma = true, .f16c = true)},
    {.name = "x86-64-v4-bf16", X86(.cpu = "znver4", .features = "", .vector_bits = 512, .vector_registers = 32,
                                   .round = true, .fma = true, .f16c = true, .vnni = true, .bf16_dot = true)},
    {.name = "aarch64", .family = "host", .triple = "aarch64-unknown-linux-gnu", .cpu = "generic", .features = "+neon",
     .vector_bits = 128, .vector_registers = 32, .round = true, .fma = true, .f16c = true, .lower = host_lower},
};

const Target *target_at(int i)
{
    return i >= 0 && i < (int)COUNT(targets) ? &targets[i] : gpu_target_at(i - (int)COUNT(targets));
}

bool target_runs_here(const Target *t)
{
    return t->gpu ? t->simt && cpu_runs(SIMT_HOST, NULL) : cpu_runs(t->name, NULL);
}

const Target *target_find(const char *name, Err *err)
{
    if (!strcmp(name, "host"))
        name = cpu_best();
    Buf known = {0};
    const Target *t;
    for (int i = 0; (t = target_at(i)); i++) {
        if (!strcmp(t->name, name))
            break;
        buf_printf(&known, " %s", t->name);
    }
    if (!t)
        err_set(err, "unknown target '%s'; known: host%s", name, known.data);
    buf_free(&known);
    return t;
}
