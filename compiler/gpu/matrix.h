/* matrix.h - the matrix units as gemm.c sees them.
 *
 * All of them multiply 16 rows of A by some columns of B. The order of K within one call is free as long as A and B
 * agree, so every lane takes a run of neighbouring elements of K, up to 16 bytes at once, from both: `lanes_k` lanes
 * side by side share a chunk of K. The order of columns is free too: they are dealt out so that a lane's accumulators
 * are neighbours, and can be stored, or used as A of a second product, as they lie. AMD's units take B's columns as
 * their rows for that. Sources: PTX ISA, "Matrix fragments for mma.m16n8k16" and ".m16n8k32"; AMD CDNA2 and CDNA3 ISA,
 * MFMA; RDNA3 ISA, WMMA. */
#ifndef BLADE_MATRIX_H
#define BLADE_MATRIX_H

#include "gpu.h"

typedef struct Unit {
    MatrixUnit kind;
    bool integer;
    int k;         /* elements of K of one call */
    int lanes_k;   /* lanes that share a chunk */
    int words;     /* 32-bit words of a lane's run that one call takes */
    int halves;    /* groups of rows of a tile of 16 that a lane holds: 2 (rows g and g + 8) or 1 */
    int columns;   /* of one call: 8 or 16 */
    int each;      /* neighbouring columns that a lane accumulates in one call */
    int tiles;     /* calls whose columns are dealt out together, at most */
    bool no_unsigned; /* 8-bit integers are signed in both factors */
} Unit;

Unit unit_of(const Target *t, bool integer);
int unit_tiles(const Unit *u, Shape s, int cols);  /* how many of `tiles` a tile of so many columns has */
V unit_row(Lower *l, const Unit *u);               /* row of A, 0..15 (first half), that this lane reads; i32 */
V unit_k(Lower *l, const Unit *u, int run);        /* first element of K in a chunk */
V unit_column(Lower *l, const Unit *u, int tiles); /* column of B, in call 0 of `tiles` */
/* acc[halves * each] += a[halves][words] x b[words]; the accumulators go half by half. */
void unit_multiply(Lower *l, const Unit *u, V *acc, V *const *a, V *b);

#endif
