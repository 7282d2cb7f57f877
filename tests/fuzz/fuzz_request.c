/* Sampling parameters of JSON requests: any bytes as a request body, then everything a sequence does with what they
 * say. */
#include <stdlib.h>

#include "generation.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void generate(const SamplingParams *p)
{
    enum { VOCAB = 2048 };
    static int32_t tokens[VOCAB];
    static float values[VOCAB][2];
    const uint32_t prompt[] = {1, 2, 3}, eos[] = {0};
    Sampler *s = sampler_new(p, prompt, 3, eos, 1);
    for (uint32_t i = 0; i < 20; i++) {
        float row[8];
        sampler_row(s, row);
        int n = sampler_adjust(s, tokens, values);
        if (n > sampler_max_adjustments(s, 3 + i, VOCAB) || row[3] < 0 || row[3] >= 1)
            abort();
        sampler_accept(s, i * 7 % VOCAB);
    }
    sampler_free(s);
}

static Tokenizer *tokenizer(void)
{
    static const char json[] = "{\"model\":{\"type\":\"BPE\",\"merges\":[\"a b\"],\"vocab\":{\"a\":0,\"b\":1,"
                               "\"\\u0120\":2,\"ab\":3}},\"pre_tokenizer\":{\"type\":\"ByteLevel\"},"
                               "\"decoder\":{\"type\":\"ByteLevel\"}}";
    Err err;
    return tok_parse(json, sizeof json - 1, NULL, 0, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static Tokenizer *words;
    Err err = {0};
    if (!words && !(words = tokenizer()))
        abort();
    json_t *request = json_parse((const char *)data, size, "request", &err);
    if (!request)
        return 0;
    RequestParams p = {.params = sampling_defaults()};
    if (request_params_read(request, words, &p, &err) && sampling_check(&p.params, 2048, &err))
        generate(&p.params);
    request_params_free(&p);
    json_decref(request);
    return 0;
}
