/* inspect.h - what is in a pack, and what changed from one to another, as text for people. */
#ifndef BLADE_INSPECT_H
#define BLADE_INSPECT_H

#include "base.h"

/* Appends header, origin (with the hash of every source file when `sources`), and for each target the plan's figures and
 * all kernels: bytes of object code, bytes of scratch memory a thread, what runs them, parameters and settings. */
bool inspect_pack(const char *path, bool sources, Buf *out, Err *err);

/* Appends what differs between two packs: sources, targets, figures of the plan, kernels by parameters, settings and code.
 * *same is true when nothing does; then nothing is appended. */
bool inspect_diff(const char *a, const char *b, Buf *out, bool *same, Err *err);

#endif
