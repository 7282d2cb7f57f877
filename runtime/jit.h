/* jit.h - finds the pack of a checkpoint for this machine in the cache folder, or has libbladegen build it.
 *
 * A cached pack is used when it is whole, made for this checkpoint, target and weight format, and (where the
 * generator is installed) under the generator's present signature; else it is rebuilt. One process builds while
 * others wait. When the cache folder can't be written, the pack is built into a temporary file and forgotten.
 * libbladegen is loaded only to build: it brings LLVM along.
 */
#ifndef BLADE_JIT_H
#define BLADE_JIT_H

#include "pack.h"

typedef void JitProgress(void *context, const char *what, int64_t done, int64_t total);

typedef struct JitRequest {
    const char *model;     /* as bladegen takes it: a checkpoint folder or a config.json */
    uint64_t fingerprint;  /* of the checkpoint */
    const char *target;    /* of the device (device.h); NULL or "": the host's, cpu_best() */
    const char *name;      /* of the device, for its tuned settings (device.h); NULL or "": the host's */
    const char *weights;   /* "auto", "w4", ... */
    const char *cache;     /* folder; NULL: $XDG_CACHE_HOME/blade or ~/.cache/blade */
    const char *generator; /* path of libbladegen.so; NULL: generator_find() */
    int threads;
    JitProgress *progress; /* may be NULL */
    void *context;
} JitRequest;

/* Opens the pack. `warning` gets a text when the user should know something (it is left alone otherwise). */
bool jit_pack(const JitRequest *r, Pack *pack, Buf *warning, Err *err);

/* Opens a pack file: it must be for this checkpoint and a target that the device runs (device_rank), the best of
 * which is selected. `weights` NULL takes whatever weight format it has. */
bool jit_open(const char *path, uint64_t fingerprint, const char *device, const char *weights, Pack *pack, Err *err);

/* The same for a pack that the user named. Where it does not fit, the generator is here, and it is known which weight
 * format is meant (`weights`, or the file's), one that fits is found or built as jit_pack does; `warning` says why. */
bool jit_named(const JitRequest *r, const char *path, const char *weights, Pack *pack, Buf *warning, Err *err);

#endif
