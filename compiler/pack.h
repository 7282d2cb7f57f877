/* pack.h - the pack file: plan and machine code of one checkpoint for one target or several, in one checksummed file.
 *
 * Layout, little-endian; every byte is covered by the magic, the version, the size or the checksum:
 *      0  char[8]   "BLADEPK\1"
 *      8  u32       format version, PACK_VERSION
 *     12  u32       number of targets, 1 .. PACK_MAX_TARGETS
 *     16  u64       size of the file
 *     24  u64       checksum: hash_bytes over bytes 8 .. 15, continued over 32 .. end
 *     32  u64       signature of the generator and its Lua sources (signature.h); 0: unknown
 *     40  u64       fingerprint of the checkpoint (ckpt_fingerprint)
 *     48  char[16]  weight format asked for; NUL-padded
 *     64  u64[2]    origin: offset, length (JSON text: what the pack was built from, see signature.h; may be empty)
 *     80  zeros to 128
 *    128  a row of 128 bytes for each target:
 *          0  char[32]  target, as in cpu.h; NUL-padded
 *         32  u32       numerics id: packs with different ids may differ in the last bits of their results
 *         36  u32       zero
 *         40  u64[2]    plan: offset, length (JSON text)
 *         56  u64[2]    code: offset, length (concatenated objects; the offset is a multiple of 64)
 *         72  zeros to 128
 */
#ifndef BLADE_PACK_H
#define BLADE_PACK_H

#include "base.h"

/* The run-time sizes, ids of kernels' `sizes` array. */
typedef enum SizeId {
#define SIZE(id, name, meaning) SIZE_##id,
#include "sizes.h"
    SIZE_COUNT
} SizeId;
extern const char *const size_names[SIZE_COUNT];

/* Signature of every kernel in a host pack: runs blocks begin .. end-1 of the launch's grid. `buffers` in the order of
 * the launch's arguments, `sizes` indexed by SizeId, `scratch` private to the calling thread (64-byte aligned). */
typedef void HostKernel(void *const *buffers, const int64_t *sizes, int64_t begin, int64_t end, void *scratch);

enum { PACK_VERSION = 2, PACK_HEADER_BYTES = 128, PACK_ROW_BYTES = 128, PACK_MAX_TARGETS = 16 };

typedef struct PackHeader {
    char target[32];      /* "x86-64-v4"; at most 31 bytes */
    char weights[16];     /* "auto", "w4"; at most 15 bytes */
    uint64_t signature;   /* 0: unknown */
    uint64_t fingerprint; /* of the checkpoint */
    uint32_t numerics;
} PackHeader;

typedef struct PackPart { /* what a pack has for one target */
    char target[32];
    uint32_t numerics;
    const char *plan; /* JSON, plan_len bytes, not NUL-terminated */
    size_t plan_len;
    const uint8_t *code; /* code_len bytes; in an open pack 64-byte aligned */
    size_t code_len;
} PackPart;

typedef struct Pack {
    PackHeader header; /* target and numerics: of the part that is selected, at first parts[0] */
    const char *plan;  /* of that part, as the next three */
    size_t plan_len;
    const uint8_t *code;
    size_t code_len;
    PackPart parts[PACK_MAX_TARGETS];
    int parts_count;
    const char *origin; /* JSON, origin_len bytes, not NUL-terminated */
    size_t origin_len;
    uint64_t checksum;
    FileMap file;
} Pack;

/* Appends the bytes of a pack file to an empty `file`. Target and numerics of the header are not used. */
void pack_image(Buf *file, const PackHeader *header, const PackPart *parts, int count, const char *origin,
                size_t origin_len);
/* Writes a pack for one target, that of the header, without an origin: the whole file or none of it. */
bool pack_write(const char *path, const PackHeader *header, const char *plan, size_t plan_len, const void *code,
                size_t code_len, Err *err);

/* Maps and verifies a pack. A missing, truncated, foreign or corrupt file is an error that says which. */
bool pack_open(const char *path, Pack *pack, Err *err);
/* The same for bytes in memory that outlive the pack (64-byte aligned); `where` begins messages. */
bool pack_parse(const uint8_t *bytes, size_t size, const char *where, Pack *pack, Err *err);
void pack_select(Pack *pack, int part);
void pack_close(Pack *pack);

#endif
