/* Toy model: the logits of row s are weight[v] at the token that follows (token + 1) and -1 elsewhere; every token leaves
 * a trace in the KV cache. One block an output row. */
#include <stdint.h>

enum { TOKENS, SEQS, OUTPUTS };
enum { VOCAB = 16 };

void kernel(void *const *buffers, const int64_t *sizes, int64_t begin, int64_t end, void *scratch);

void kernel(void *const *buffers, const int64_t *sizes, int64_t begin, int64_t end, void *scratch)
{
    const float *weight = buffers[0];
    const int32_t *tokens = buffers[1], *slots = buffers[2], *rows = buffers[3];
    int32_t *kv = buffers[4];
    float *logits = buffers[5];
    (void)scratch;
    for (int64_t t = 0; begin == 0 && t < sizes[TOKENS]; t++)
        kv[slots[t]] += tokens[t] + 1;
    for (int64_t s = begin; s < end; s++)
        for (int v = 0; v < VOCAB; v++)
            logits[s * VOCAB + v] = v == (tokens[rows[s]] + 1) % VOCAB ? weight[v] : -1;
}
