/* bladegen.h - the public interface of libbladegen: a checkpoint and a target in, a pack out. The runtime finds these
 * functions with dlopen when no pack fits; everything else of the generator is private. */
#ifndef BLADEGEN_H
#define BLADEGEN_H

#include <stddef.h>

typedef struct BladegenRequest {
    const char *model;   /* checkpoint folder, or a config.json for random weights */
    const char *target;  /* "host", "x86-64", "x86-64-v3", "x86-64-v4", "x86-64-v4-bf16", "aarch64" */
    const char *weights; /* "auto" (as stored), "f32", "bf16", "f16", "w8", "w4", "w4a16" */
    const char *output;  /* path of the pack; written whole or not at all */
    const char *source;  /* folder that holds templates/ and schedules/; NULL: the one this library was built for */
    int threads;         /* compile threads; 0: one a core */
    void (*progress)(void *context, int done, int total, const char *what); /* may be NULL */
    void *context;
    const char *device;  /* whose tuned settings to use (tuned.h); NULL: this machine's; "": none */
    void (*warning)(void *context, const char *text); /* something the user should know; may be NULL */
} BladegenRequest;

/* Builds the pack; 0 on success, else 1 and a message for the user in err. */
int bladegen_build(const BladegenRequest *request, char *err, size_t err_size);

/* Identifies generator and Lua sources: two packs of one checkpoint, target and weight format built under the same
 * signature are the same. `source` as above. */
unsigned long long bladegen_signature(const char *source);

#endif
