/* replay.c - runs one LLVMFuzzerTestOneInput without libFuzzer: first every file of the corpus folder, then N seeded random
 * mutations of them (bit flips, cuts, splices, repeats). A crash or a sanitizer report fails the test.
 * Usage: fuzz_NAME CORPUS_DIR N */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Input {
    uint8_t *data;
    size_t size;
} Input;

static uint64_t state = 0x9e3779b97f4a7c15ull;

static uint64_t rnd(uint64_t n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return n ? state % n : 0;
}

static Input read_input(const char *dir, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    Input in = {0};
    FILE *f = fopen(path, "rb");
    if (!f)
        return in;
    fseek(f, 0, SEEK_END);
    in.size = (size_t)ftell(f);
    rewind(f);
    in.data = malloc(in.size + 1);
    in.size = fread(in.data, 1, in.size, f);
    fclose(f);
    return in;
}

/* An exact-size copy, so that AddressSanitizer sees a read past the end. */
static void run(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);
    memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

static size_t mutate(uint8_t *out, size_t cap, const Input *in, size_t n)
{
    const Input *a = &in[rnd(n)], *b = &in[rnd(n)];
    size_t size = a->size < cap ? a->size : cap;
    memcpy(out, a->data, size);
    for (uint64_t k = 1 + rnd(8); k > 0 && size; k--) {
        size_t at = rnd(size);
        switch (rnd(5)) {
        case 0: out[at] ^= (uint8_t)(1u << rnd(8)); break;
        case 1: out[at] = (uint8_t)rnd(256); break;
        case 2: size = at; break;
        case 3: {
            size_t len = rnd(b->size + 1), from = rnd(b->size - len + 1);
            len = len < cap - at ? len : cap - at;
            memcpy(out + at, b->data + from, len);
            size = size > at + len ? size : at + len;
            break;
        }
        case 4: {
            size_t len = rnd(size - at + 1);
            len = len < cap - size ? len : cap - size;
            memmove(out + at + len, out + at, size - at);
            size += len;
            break;
        }
        }
    }
    return size;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s CORPUS_DIR MUTATIONS\n", argv[0]);
        return 2;
    }
    Input in[4096];
    size_t n = 0;
    DIR *d = opendir(argv[1]);
    if (!d) {
        perror(argv[1]);
        return 2;
    }
    for (struct dirent *e; (e = readdir(d)) && n < sizeof in / sizeof *in;)
        if (e->d_name[0] != '.')
            in[n++] = read_input(argv[1], e->d_name);
    closedir(d);
    if (!n) {
        fprintf(stderr, "%s: empty corpus\n", argv[1]);
        return 2;
    }
    size_t cap = 1 << 20;
    uint8_t *out = malloc(cap);
    for (size_t i = 0; i < n; i++)
        run(in[i].data, in[i].size);
    long mutations = atol(argv[2]);
    for (long i = 0; i < mutations; i++)
        run(out, mutate(out, cap, in, n));
    free(out);
    for (size_t i = 0; i < n; i++)
        free(in[i].data);
    printf("%zu inputs, %ld mutations\n", n, mutations);
    return 0;
}
