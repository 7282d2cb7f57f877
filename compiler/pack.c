/* pack.c - writing and verifying the pack file; layout in pack.h. */
#include "pack.h"

#include <assert.h>
#include <string.h>

const char *const size_names[SIZE_COUNT] = {
#define SIZE(id, name, meaning) name,
#include "sizes.h"
};

static const char magic[8] = "BLADEPK\1";

enum { AT_VERSION = 8, AT_COUNT = 12, AT_SIZE = 16, AT_CHECKSUM = 24, AT_SIGNATURE = 32, AT_FINGERPRINT = 40,
       AT_WEIGHTS = 48, AT_ORIGIN = 64 };
enum { ROW_TARGET = 0, ROW_NUMERICS = 32, ROW_PLAN = 40, ROW_CODE = 56 }; /* in a target's row */

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

static uint64_t checksum(const uint8_t *bytes, size_t size)
{
    uint64_t h = hash_bytes(HASH_SEED, bytes + AT_VERSION, AT_SIZE - AT_VERSION);
    return hash_bytes(h, bytes + AT_SIGNATURE, size - AT_SIGNATURE);
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

/* Appends a section and notes its place in the header. */
static void put_section(Buf *file, size_t at, const void *data, size_t len)
{
    put((uint8_t *)file->data + at, 8, file->len);
    put((uint8_t *)file->data + at + 8, 8, len);
    buf_put(file, data, len);
}

static void pad64(Buf *file)
{
    while (file->len % 64)
        buf_putc(file, 0);
}

static void put_part(Buf *file, int index, const PackPart *p)
{
    size_t row = PACK_HEADER_BYTES + (size_t)index * PACK_ROW_BYTES;
    memcpy(file->data + row + ROW_TARGET, p->target, strnlen(p->target, sizeof p->target - 1));
    put((uint8_t *)file->data + row + ROW_NUMERICS, 4, p->numerics);
    put_section(file, row + ROW_PLAN, p->plan, p->plan_len);
    pad64(file);
    put_section(file, row + ROW_CODE, p->code, p->code_len);
}

void pack_image(Buf *file, const PackHeader *h, const PackPart *parts, int count, const char *origin, size_t origin_len)
{
    size_t head = PACK_HEADER_BYTES + (size_t)count * PACK_ROW_BYTES;
    assert(count >= 1 && count <= PACK_MAX_TARGETS && !file->len);
    buf_reserve(file, head);
    memset(file->data, 0, head);
    file->len = head;
    memcpy(file->data, magic, sizeof magic);
    put_section(file, AT_ORIGIN, origin, origin_len);
    for (int i = 0; i < count; i++)
        put_part(file, i, &parts[i]);
    uint8_t *bytes = (uint8_t *)file->data;
    put(bytes + AT_VERSION, 4, PACK_VERSION);
    put(bytes + AT_COUNT, 4, (uint64_t)count);
    put(bytes + AT_SIZE, 8, file->len);
    put(bytes + AT_SIGNATURE, 8, h->signature);
    put(bytes + AT_FINGERPRINT, 8, h->fingerprint);
    memcpy(bytes + AT_WEIGHTS, h->weights, strnlen(h->weights, sizeof h->weights - 1));
    put(bytes + AT_CHECKSUM, 8, checksum(bytes, file->len));
}

bool pack_write(const char *path, const PackHeader *h, const char *plan, size_t plan_len, const void *code,
                size_t code_len, Err *err)
{
    PackPart part = {.numerics = h->numerics, .plan = plan, .plan_len = plan_len, .code = code, .code_len = code_len};
    memcpy(part.target, h->target, sizeof part.target);
    Buf file = {0};
    pack_image(&file, h, &part, 1, "", 0);
    bool ok = file_write_atomic(path, file.data, file.len, err);
    buf_free(&file);
    return ok;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

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

/* Magic, version, size and checksum. */
static bool check_file(const uint8_t *bytes, size_t size, const char *where, Err *err)
{
    if (size < sizeof magic || memcmp(bytes, magic, sizeof magic))
        return err_set(err, "%s: not a pack file (it does not begin with BLADEPK)", where);
    if (size < PACK_HEADER_BYTES)
        return err_set(err, "%s: truncated pack (%zu bytes, less than its header)", where, size);
    uint64_t version = get(bytes + AT_VERSION, 4), stated = get(bytes + AT_SIZE, 8);
    if (version != PACK_VERSION)
        return err_set(err, "%s: pack format version %llu; this program reads version %d", where,
                       (unsigned long long)version, PACK_VERSION);
    if (stated != size)
        return err_set(err, "%s: truncated pack (%zu bytes, its header says %llu)", where, size,
                       (unsigned long long)stated);
    if (get(bytes + AT_CHECKSUM, 8) != checksum(bytes, size))
        return err_set(err, "%s: corrupt pack (checksum does not match)", where);
    return true;
}

static bool read_part(const uint8_t *bytes, size_t size, int index, PackPart *p)
{
    size_t row = PACK_HEADER_BYTES + (size_t)index * PACK_ROW_BYTES;
    const uint8_t *plan;
    if (!section(bytes, size, row + ROW_PLAN, &plan, &p->plan_len) ||
        !section(bytes, size, row + ROW_CODE, &p->code, &p->code_len) || (p->code - bytes) % 64)
        return false;
    p->plan = (const char *)plan;
    memcpy(p->target, bytes + row + ROW_TARGET, sizeof p->target - 1);
    p->numerics = (uint32_t)get(bytes + row + ROW_NUMERICS, 4);
    return true;
}

static bool read_parts(const uint8_t *bytes, size_t size, Pack *pack)
{
    uint64_t count = get(bytes + AT_COUNT, 4);
    if (count < 1 || count > PACK_MAX_TARGETS || PACK_HEADER_BYTES + count * PACK_ROW_BYTES > size)
        return false;
    for (; pack->parts_count < (int)count; pack->parts_count++)
        if (!read_part(bytes, size, pack->parts_count, &pack->parts[pack->parts_count]))
            return false;
    return true;
}

bool pack_parse(const uint8_t *bytes, size_t size, const char *where, Pack *pack, Err *err)
{
    *pack = (Pack){0};
    if (!check_file(bytes, size, where, err))
        return false;
    const uint8_t *origin;
    if (!section(bytes, size, AT_ORIGIN, &origin, &pack->origin_len) || !read_parts(bytes, size, pack))
        return err_set(err, "%s: corrupt pack (a section lies outside of the file)", where);
    PackHeader *h = &pack->header;
    pack->origin = (const char *)origin;
    memcpy(h->weights, bytes + AT_WEIGHTS, sizeof h->weights - 1);
    h->signature = get(bytes + AT_SIGNATURE, 8);
    h->fingerprint = get(bytes + AT_FINGERPRINT, 8);
    pack->checksum = get(bytes + AT_CHECKSUM, 8);
    pack_select(pack, 0);
    return true;
}

void pack_select(Pack *pack, int part)
{
    const PackPart *p = &pack->parts[part];
    memcpy(pack->header.target, p->target, sizeof p->target);
    pack->header.numerics = p->numerics;
    pack->plan = p->plan;
    pack->plan_len = p->plan_len;
    pack->code = p->code;
    pack->code_len = p->code_len;
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
