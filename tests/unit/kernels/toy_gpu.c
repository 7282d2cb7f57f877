/* The toy model's kernels for a GPU, as code from simt: targets looks: a thread runs this, asks who it is, and surplus
 * blocks return. PART: 1 load, 2 step, 3 sample, 4 read, 5 peak; what they compute is told in toy_*.c. */
#include <stdint.h>
#include <string.h>

int simt_block(void);
int simt_thread(void);

enum { TOKENS, SEQS, OUTPUTS, ROWS = 7 };
enum { VOCAB = 16 };

#if PART == 1
void kernel(const char *tensor, float *weight, const int64_t *sizes);

void kernel(const char *tensor, float *weight, const int64_t *sizes)
{
    int i = simt_block();
    float v;
    if (i >= sizes[ROWS] || simt_thread())
        return;
    memcpy(&v, tensor + 4 * i, 4);
    weight[i] = 2 * v;
}
#elif PART == 2
void kernel(const float *weight, const int32_t *tokens, const int32_t *slots, const int32_t *rows, int32_t *kv,
            float *logits, const int64_t *sizes);

void kernel(const float *weight, const int32_t *tokens, const int32_t *slots, const int32_t *rows, int32_t *kv,
            float *logits, const int64_t *sizes)
{
    int s = simt_block(), v = simt_thread();
    for (int64_t t = 0; s == 0 && v == 0 && t < sizes[TOKENS]; t++)
        kv[slots[t]] += tokens[t] + 1;
    if (s < sizes[OUTPUTS] && v < VOCAB)
        logits[s * VOCAB + v] = v == (tokens[rows[s]] + 1) % VOCAB ? weight[v] : -1;
}
#elif PART == 3
void kernel(const float *logits, const int32_t *start, const int32_t *token, const float *value, int32_t *sampled,
            float *logprob, float *logz, const int64_t *sizes);

void kernel(const float *logits, const int32_t *start, const int32_t *token, const float *value, int32_t *sampled,
            float *logprob, float *logz, const int64_t *sizes)
{
    int s = simt_block();
    if (s >= sizes[OUTPUTS] || simt_thread())
        return;
    float best = -1e30f;
    for (int v = 0; v < VOCAB; v++) {
        float x = logits[s * VOCAB + v];
        for (int32_t k = start[s]; k < start[s + 1]; k++)
            if (token[k] == v)
                x = x * value[2 * k] + value[2 * k + 1];
        if (x > best) {
            best = x;
            sampled[s] = v;
        }
    }
    logprob[s] = 0;
    logz[2 * s] = best;
    logz[2 * s + 1] = 0;
}
#else
void kernel(const float *in, float *out, const int64_t *sizes);

void kernel(const float *in, float *out, const int64_t *sizes)
{
    int64_t i = simt_block();
    if (i >= sizes[ROWS] || simt_thread())
        return;
    float sum = 0;
#if PART == 4
    for (int k = 0; k < 1024; k++)
        sum += in[1024 * i + k];
#else
    for (int k = 0; k < 1000; k++)
        sum = sum * 0.5f + in[k % 16];
#endif
    out[16 * i] = sum;
}
#endif
