#!/usr/bin/env python3
"""Writes fragments.txt: which lane holds which element of a matrix, in which place of its registers, for every matrix
instruction that the SIMT machine knows. Each rule below is a sentence of the vendor's document, in the direction in
which the document states it; README.md has the sources.

A table begins with `instruction operand rows columns`; then for every row of the matrix its cells, `lane.element`,
where an element counts 16-bit or 8-bit operands, or 32-bit accumulators, from the lowest bits of the first register on.
A cell of WMMA's operands has two lanes, `lane.element+lane.element`.
"""

def by_lane(lanes, elements, row, col):
    """NVIDIA: row and column of element i in lane l -> {(row, col): [(lane, element)]}"""
    cells = {}
    for l in range(lanes):
        for i in range(elements):
            cells.setdefault((row(l >> 2, l % 4, i), col(l >> 2, l % 4, i)), []).append((l, i))
    return cells


def by_place(rows, cols, holders):
    """AMD: the lanes and elements that hold row r, column c."""
    return {(r, c): holders(r, c) for r in range(rows) for c in range(cols)}


MMA_C = by_lane(32, 4, lambda g, t, i: g if i < 2 else g + 8, lambda g, t, i: t * 2 + (i & 1))
MMA_K16_HALF_A = by_lane(32, 8, lambda g, t, i: g if 0 <= i < 2 or 4 <= i < 6 else g + 8,
                         lambda g, t, i: t * 2 + (i & 1) if i < 4 else t * 2 + (i & 1) + 8)
MMA_K16_HALF_B = by_lane(32, 4, lambda g, t, i: t * 2 + (i & 1) if i < 2 else t * 2 + (i & 1) + 8, lambda g, t, i: g)
MMA_K16_BYTE_A = by_lane(32, 8, lambda g, t, i: g if i < 4 else g + 8, lambda g, t, i: t * 4 + (i & 3))
MMA_K16_BYTE_B = by_lane(32, 4, lambda g, t, i: t * 4 + i, lambda g, t, i: g)
MMA_K32_BYTE_A = by_lane(32, 16, lambda g, t, i: g if 0 <= i < 4 or 8 <= i < 12 else g + 8,
                         lambda g, t, i: t * 4 + (i & 3) if i < 8 else t * 4 + (i & 3) + 16)
MMA_K32_BYTE_B = by_lane(32, 8, lambda g, t, i: t * 4 + (i & 3) if i < 4 else t * 4 + (i & 3) + 16, lambda g, t, i: g)


def mfma16(k, each):
    """16 x 16: A[i][k] in lane i + 16 (k / each), B[k][j] in lane j + 16 (k / each); D[i][j] in lane j + 16 (i / 4)."""
    return (by_place(16, k, lambda i, kk: [(i + 16 * (kk // each), kk % each)]),
            by_place(k, 16, lambda kk, j: [(j + 16 * (kk // each), kk % each)]),
            by_place(16, 16, lambda i, j: [(j + 16 * (i // 4), i % 4)]))


def mfma32(k, each):
    """32 x 32: lanes j + 32 (k / each); D[i][j] in lane j + 32 ((i / 4) % 2), register 4 (i / 8) + i % 4."""
    return (by_place(32, k, lambda i, kk: [(i + 32 * (kk // each), kk % each)]),
            by_place(k, 32, lambda kk, j: [(j + 32 * (kk // each), kk % each)]),
            by_place(32, 32, lambda i, j: [(j + 32 * (i // 4 % 2), 4 * (i // 8) + i % 4)]))


WMMA = (by_place(16, 16, lambda i, k: [(i, k), (i + 16, k)]),
        by_place(16, 16, lambda k, j: [(j, k), (j + 16, k)]),
        by_place(16, 16, lambda i, j: [(j + 16 * (i % 2), i // 2)]))

INSTRUCTIONS = {
    "mma_bf16": (MMA_K16_HALF_A, MMA_K16_HALF_B, MMA_C),
    "mma_s8": (MMA_K32_BYTE_A, MMA_K32_BYTE_B, MMA_C),
    "mma_k16_s8": (MMA_K16_BYTE_A, MMA_K16_BYTE_B, MMA_C),
    "mfma_bf16": mfma16(16, 4),
    "mfma_s8": mfma16(16, 4),
    "mfma_k32_s8": mfma16(32, 8),
    "mfma32_bf16": mfma32(8, 4),
    "mfma32_s8": mfma32(8, 4),
    "mfma32_k16_s8": mfma32(16, 8),
    "wmma_bf16": WMMA,
}

for name, operands in INSTRUCTIONS.items():
    for operand, cells in zip("abc", operands):
        rows, cols = max(r for r, _ in cells) + 1, max(c for _, c in cells) + 1
        print(name, operand, rows, cols)
        for r in range(rows):
            print(" ".join("+".join(f"{l}.{e}" for l, e in cells[r, c]) for c in range(cols)))
