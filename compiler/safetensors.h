/* safetensors.h - the safetensors file format: from the bytes of one file to checked tensors that point into them.
 *
 * Format (huggingface/safetensors, README "Format"): u64 little-endian N; N bytes of JSON; data. The JSON maps each
 * tensor name to {"dtype", "shape", "data_offsets": [begin, end]}, offsets counted from the start of the data;
 * "__metadata__" maps strings to strings. The tensors cover the data from first to last byte without gap or overlap;
 * they are row-major and little-endian.
 */
#ifndef BLADE_SAFETENSORS_H
#define BLADE_SAFETENSORS_H

#include "base.h"
#include "dtype.h"

#define TENSOR_MAX_RANK 8

typedef struct Tensor {
    const char *name;
    const char *file; /* name of the file in its folder, for messages; set by checkpoint.c */
    DType type;
    int rank;                       /* 0 for a scalar */
    int64_t shape[TENSOR_MAX_RANK]; /* outermost first; a dimension may be 0 */
    const void *data;               /* into the file: NOT aligned beyond a byte, copy elements out with memcpy */
    size_t bytes;                   /* product of the shape times the size of an element */
} Tensor;

/* Reads the header of a file whose `size` bytes are at `file`. The tensors, in the order of their data, and their names
 * come from the arena; the data stay where they are. Whatever the bytes are, no tensor reaches outside of them: header
 * length, offsets, sizes (with overflow), gaps, overlaps, types and repeated names are checked. Messages do not name
 * the file. */
bool safetensors_read(Arena *a, const uint8_t *file, size_t size, Tensor **tensors, size_t *count, Err *err);

/* A name out of an untrusted file made fit for a message: at most 100 bytes, controls and quotes replaced by '?'. */
typedef struct Quoted {
    char text[104];
} Quoted;
Quoted quoted(const char *name);

#endif
