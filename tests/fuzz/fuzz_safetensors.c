/* fuzz_safetensors.c - any bytes as a safetensors file. Input that begins with '{' is taken as a header: its true length
 * goes in front and 64 bytes of data behind, so that mutations reach the checks of single entries. Every byte of every
 * tensor that the reader lets through is read. */
#include <stdlib.h>
#include <string.h>

#include "safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sink;

static void read_all(const uint8_t *file, size_t size)
{
    Arena *a = arena_new();
    Err err = {0};
    Tensor *t;
    size_t n;
    if (safetensors_read(a, file, size, &t, &n, &err)) {
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; k < t[i].bytes; k++)
                sink ^= ((const uint8_t *)t[i].data)[k];
    } else if (!*err.text) {
        abort();
    }
    arena_free(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size || data[0] != '{') {
        read_all(data, size);
        return 0;
    }
    uint8_t *file = xcalloc(1, 8 + size + 64);
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)size >> 8 * i);
    memcpy(file + 8, data, size);
    read_all(file, 8 + size + 64);
    free(file);
    return 0;
}
