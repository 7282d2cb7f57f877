/* A kernel for the tests of the loader and the executor: buffers[1][i] = table[i & 7] + mix(buffers[0][i]) for block i,
 * with what loading must get right: float constants, a constant array, a jump table, a call of memcpy. */
#include <stdint.h>
#include <string.h>

static const float table[8] = {0.5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f, 6.5f, 7.5f};

static float mix(int64_t way, float v)
{
    switch (way) {
    case 0: return v * 3.0f;
    case 1: return v - 11.0f;
    case 2: return v * v;
    case 3: return 1.0f / (v + 7.0f);
    case 4: return v + 0.125f;
    case 5: return v * 17.0f - 3.0f;
    case 6: return 9.0f - v;
    default: return v;
    }
}

void kernel(void *const *buffers, const int64_t *sizes, int64_t begin, int64_t end, void *scratch);

void kernel(void *const *buffers, const int64_t *sizes, int64_t begin, int64_t end, void *scratch)
{
    const float *in = buffers[0];
    float *out = buffers[1], *copy = scratch;
    memcpy(copy, in, (size_t)sizes[0] * sizeof *copy);
    for (int64_t i = begin; i < end; i++)
        out[i] = table[i & 7] + mix(i % 8, copy[i]);
}
