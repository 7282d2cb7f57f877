/* api_embedding.c - /v1/embeddings: a vector of length 1 for each input, pooled from the model's last hidden states. */
#include <math.h>
#include <string.h>

#include "api_int.h"

static void no_delta(ApiChoice *c, const CompletionDelta *d)
{
    (void)c;
    (void)d;
}

static void put_base64(Buf *out, const void *bytes, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *p = bytes;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < n ? p[i + 1] : 0u) << 8 | (i + 2 < n ? p[i + 2] : 0u);
        for (int k = 0; k < 4; k++)
            buf_putc(out, i + (size_t)k > n ? '=' : digits[v >> (18 - 6 * k) & 63]);
    }
}

/* The value of "embedding": the first `n` elements, scaled to length 1. */
static void put_vector(Buf *out, const float *v, size_t n, bool base64)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)v[i] * v[i];
    double scale = sum > 0 ? 1 / sqrt(sum) : 0;
    Buf bytes = {0};
    buf_putc(out, base64 ? '"' : '[');
    for (size_t i = 0; i < n; i++) {
        float x = (float)(v[i] * scale);
        if (base64) {
            buf_put(&bytes, &x, sizeof x);
            continue;
        }
        if (i)
            buf_putc(out, ',');
        json_put_real(out, x);
    }
    put_base64(out, bytes.data, bytes.len);
    buf_putc(out, base64 ? '"' : ']');
    buf_free(&bytes);
}

static void keep_embedding(ApiChoice *c, const CompletionEnd *end)
{
    ApiCall *call = c->prompt->call;
    const ApiRequest *r = &call->request;
    ApiError e = {.status = 500, .type = "server_error"};
    if (!end->embedding) {
        err_set(&e.err, "the request was aborted before its embedding was there");
        call_fail(call, &e);
    } else if (r->dimensions > end->embedding_len) {
        api_error_set(&e, "dimensions", "this model's embeddings have %d dimensions, %lld were asked for",
                      end->embedding_len, (long long)r->dimensions);
        call_fail(call, &e);
    } else {
        put_vector(&c->text, end->embedding, (size_t)(r->dimensions ? r->dimensions : end->embedding_len), r->base64);
    }
}

static void embedding_answer(ApiCall *c, Buf *out)
{
    int64_t tokens = 0;
    buf_puts(out, "{\"id\":");
    json_put_str(out, c->id);
    buf_puts(out, ",\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < c->prompts.len; i++) {
        buf_printf(out, "%s{\"object\":\"embedding\",\"index\":%zu,\"embedding\":", i ? "," : "", i);
        buf_put(out, c->choices[i].text.data, c->choices[i].text.len);
        buf_putc(out, '}');
        tokens += (int64_t)c->prompts.at[i].ids.len;
    }
    buf_puts(out, "],\"model\":");
    json_put_str(out, c->request.model);
    buf_printf(out, ",\"usage\":{\"prompt_tokens\":%lld,\"total_tokens\":%lld}}", (long long)tokens, (long long)tokens);
}

static const ApiFormat embedding_format = {
    "embd-", "list", "list", no_delta, keep_embedding, NULL, NULL, NULL, NULL, NULL, embedding_answer,
};

void api_embedding(void *context, HttpExchange *x)
{
    ApiCall *c = call_new(context, x, API_EMBEDDING, &embedding_format);
    if (!c)
        return;
    SamplingParams *s = &c->request.params.params;
    s->max_tokens = s->min_tokens = 0;
    s->logprobs = -1;
    c->request.stream = c->request.echo = false;
    if (c->request.pooling == POOLING_NONE)
        c->request.pooling = c->api->o.pooling;
    call_submit_texts(c);
}
