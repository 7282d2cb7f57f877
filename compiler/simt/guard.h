/* guard.h - memory between pages that fault, for buffers of kernels under test. */
#ifndef BLADE_GUARD_H
#define BLADE_GUARD_H

#include "base.h"

enum { GUARD_ALIGN = 16 };

/* `size` bytes that end where a faulting page begins, but for up to 15 bytes that keep the alignment. What remains of
 * the pages on both sides is filled with `poison`. */
typedef struct Guarded {
    uint8_t *data;
    size_t size;
    uint8_t poison;
    uint8_t *map, *begin, *end; /* all of the mapping; its accessible part */
    size_t map_size;
} Guarded;

/* `phase` is the address of the data modulo GUARD_ALIGN. The contents are `poison`. */
bool guard_alloc(Guarded *g, size_t size, size_t phase, uint8_t poison, Err *err);
bool guard_intact(const Guarded *g); /* is the filling around the data as it was? */
void guard_read_only(Guarded *g);
void guard_free(Guarded *g); /* cleared memory is allowed */

#endif
