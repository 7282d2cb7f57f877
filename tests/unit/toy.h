/* toy.h - a toy model for the tests: kernels from the C compiler, a plan by hand, a checkpoint of one tensor.
 * The vocabulary has 16 tokens; the most likely token after t is (t + 1) % 16. */
#ifndef BLADE_TOY_H
#define BLADE_TOY_H

#include "pack.h"

/* Writes dir/config.json and dir/model.safetensors (one tensor "w" of 16 floats: w[i] = i + 1). */
bool toy_checkpoint(const char *dir, Err *err);

/* The plan's JSON; object sizes are those of the compiled-in objects. */
void toy_plan(Buf *out);

/* Writes a pack of the toy model, for the host or for a stand-in (target "simt:..."). */
bool toy_pack(const char *path, const PackHeader *header, Err *err);

#endif
