/* Toy limits: READ adds up 4096 bytes a block, else 1000 multiply-adds on the same 64 bytes. */
#include <stdint.h>

void kernel(void *const *buffers, const int64_t *sizes, int64_t begin, int64_t end, void *scratch);

void kernel(void *const *buffers, const int64_t *sizes, int64_t begin, int64_t end, void *scratch)
{
    const float *in = buffers[0];
    float *out = buffers[1];
    (void)sizes;
    (void)scratch;
    for (int64_t i = begin; i < end; i++) {
        float sum = 0;
#if READ
        for (int k = 0; k < 1024; k++)
            sum += in[1024 * i + k];
#else
        for (int k = 0; k < 1000; k++)
            sum = sum * 0.5f + in[k % 16];
#endif
        out[16 * i] = sum;
    }
}
