/* pack.c - writing and verifying the pack file; layout in pack.h. */
#include "pack.h"

#include <stdlib.h>
#include <string.h>

const char *const size_names[SIZE_COUNT] = {
#define SIZE(id, name, meaning) name,
#include "sizes.h"
};

static const char magic[8] = "BLADEPK\1";

enum { AT_VERSION = 8, AT_SIZE = 16, AT_CHECKSUM = 24, AT_SIGNATURE = 32, AT_FINGERPRINT = 40, AT_NUMERICS = 48,
       AT_TARGET = 56, AT_WEIGHTS = 88, AT_PLAN = 104, AT_CODE = 120 };

static uint64_t get(const uint8_t *p, int bytes)
{
    uint64_t v = 0;
    for (int i = bytes - 1; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

static void put(uint8_t *p, int bytes, uint64_t v)
{
    for (int i = 0; i < bytes; i++, v >>= 8)
        p[i] = (uint8_t)v;
}

static size_t align64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

bool pack_write(const char *path, const PackHeader *h, const char *plan, size_t plan_len, const void *code,
                size_t code_len, Err *err)
{
    size_t code_at = align64(PACK_HEADER_BYTES + plan_len), size = code_at + code_len;
    uint8_t *file = xcalloc(1, size);
    memcpy(file, magic, sizeof magic);
    put(file + AT_VERSION, 4, PACK_VERSION);
    put(file + AT_SIZE, 8, size);
    put(file + AT_SIGNATURE, 8, h->signature);
    put(file + AT_FINGERPRINT, 8, h->fingerprint);
    put(file + AT_NUMERICS, 4, h->numerics);
    memcpy(file + AT_TARGET, h->target, strnlen(h->target, sizeof h->target - 1));
    memcpy(file + AT_WEIGHTS, h->weights, strnlen(h->weights, sizeof h->weights - 1));
    put(file + AT_PLAN, 8, PACK_HEADER_BYTES);
    put(file + AT_PLAN + 8, 8, plan_len);
    put(file + AT_CODE, 8, code_at);
    put(file + AT_CODE + 8, 8, code_len);
    if (plan_len)
        memcpy(file + PACK_HEADER_BYTES, plan, plan_len);
    if (code_len)
        memcpy(file + code_at, code, code_len);
    put(file + AT_CHECKSUM, 8, hash_bytes(HASH_SEED, file + AT_SIGNATURE, size - AT_SIGNATURE));
    bool ok = file_write_atomic(path, file, size, err);
    free(file);
    return ok;
}

/* A section from the header: inside of the file, behind the header. */
static bool section(const uint8_t *bytes, size_t size, size_t at, const uint8_t **data, size_t *len)
{
    uint64_t offset = get(bytes + at, 8), n = get(bytes + at + 8, 8);
    if (offset < PACK_HEADER_BYTES || offset > size || n > size - offset)
        return false;
    *data = bytes + offset;
    *len = (size_t)n;
    return true;
}

bool pack_parse(const uint8_t *bytes, size_t size, const char *where, Pack *pack, Err *err)
{
    *pack = (Pack){0};
    if (size < sizeof magic || memcmp(bytes, magic, sizeof magic))
        return err_set(err, "%s: not a pack file (it does not begin with BLADEPK)", where);
    if (size < PACK_HEADER_BYTES)
        return err_set(err, "%s: truncated pack (%zu bytes, less than its header)", where, size);
    uint64_t version = get(bytes + AT_VERSION, 8);
    if (version != PACK_VERSION)
        return err_set(err, "%s: pack format version %llu; this program reads version %d", where,
                       (unsigned long long)version, PACK_VERSION);
    if (get(bytes + AT_SIZE, 8) != size)
        return err_set(err, "%s: truncated pack (%zu bytes, its header says %llu)", where, size,
                       (unsigned long long)get(bytes + AT_SIZE, 8));
    if (get(bytes + AT_CHECKSUM, 8) != hash_bytes(HASH_SEED, bytes + AT_SIGNATURE, size - AT_SIGNATURE))
        return err_set(err, "%s: corrupt pack (checksum does not match)", where);
    const uint8_t *plan;
    if (!section(bytes, size, AT_PLAN, &plan, &pack->plan_len) ||
        !section(bytes, size, AT_CODE, &pack->code, &pack->code_len) || (pack->code - bytes) % 64)
        return err_set(err, "%s: corrupt pack (a section lies outside of the file)", where);
    pack->plan = (const char *)plan;
    PackHeader *h = &pack->header;
    memcpy(h->target, bytes + AT_TARGET, sizeof h->target - 1);
    memcpy(h->weights, bytes + AT_WEIGHTS, sizeof h->weights - 1);
    h->signature = get(bytes + AT_SIGNATURE, 8);
    h->fingerprint = get(bytes + AT_FINGERPRINT, 8);
    h->numerics = (uint32_t)get(bytes + AT_NUMERICS, 4);
    return true;
}

bool pack_open(const char *path, Pack *pack, Err *err)
{
    FileMap file;
    *pack = (Pack){0};
    if (!file_map(&file, path, err))
        return false;
    if (!pack_parse(file.data, file.size, path, pack, err)) {
        file_unmap(&file);
        *pack = (Pack){0};
        return false;
    }
    pack->file = file;
    return true;
}

void pack_close(Pack *pack)
{
    file_unmap(&pack->file);
    *pack = (Pack){0};
}
