/* api_tokens.c - tokens and their log-probabilities as JSON, in the three forms that the API knows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api_int.h"

size_t utf8_count(const char *text, size_t len)
{
    size_t count = 0;
    for (size_t i = 0; i < len; i++)
        count += ((unsigned char)text[i] & 0xC0) != 0x80;
    return count;
}

void token_ids_put(Buf *out, const uint32_t *ids, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (i)
            buf_putc(out, ',');
        json_put_int(out, ids[i]);
    }
}

/* A token's text in quotes. What is no whole character appears as U+FFFD. */
static void put_token(Buf *out, const TokenStyle *style, uint32_t id)
{
    Buf bytes = {0};
    if (style->as_ids)
        buf_printf(&bytes, "token_id:%u", id);
    else
        tok_bytes(style->tokenizer, id, &bytes);
    json_put_text(out, bytes.data ? bytes.data : "", bytes.len);
    buf_free(&bytes);
}

/* As vLLM has it: JSON knows no infinity. */
static void put_logprob(Buf *out, float logprob)
{
    json_put_real(out, isinf(logprob) ? -9999.0 : logprob);
}

/* ---- chat -------------------------------------------------------------------------------------------------------- */

/* Members of one token, without the braces. */
static void put_token_members(Buf *out, const TokenStyle *style, uint32_t id, float logprob)
{
    Buf bytes = {0};
    tok_bytes(style->tokenizer, id, &bytes);
    buf_puts(out, "\"token\":");
    put_token(out, style, id);
    buf_puts(out, ",\"logprob\":");
    put_logprob(out, logprob);
    buf_puts(out, ",\"bytes\":[");
    for (size_t i = 0; i < bytes.len; i++) {
        if (i)
            buf_putc(out, ',');
        json_put_int(out, (unsigned char)bytes.data[i]);
    }
    buf_putc(out, ']');
    buf_free(&bytes);
}

void chat_logprob_put(Buf *out, const TokenStyle *style, const CompletionToken *t)
{
    buf_putc(out, '{');
    put_token_members(out, style, t->id, t->logprob);
    buf_puts(out, ",\"top_logprobs\":[");
    for (int i = 0; i < t->top_count; i++) {
        buf_puts(out, i ? ",{" : "{");
        put_token_members(out, style, t->top[i].token, t->top[i].logprob);
        buf_putc(out, '}');
    }
    buf_puts(out, "]}");
}

/* ---- completions ------------------------------------------------------------------------------------------------- */

void token_lists_free(TokenLists *l)
{
    buf_free(&l->tokens);
    buf_free(&l->logprobs);
    buf_free(&l->top);
    buf_free(&l->offsets);
}

void token_lists_clear(TokenLists *l)
{
    l->tokens.len = l->logprobs.len = l->top.len = l->offsets.len = 0;
}

/* Whether the last of the texts, which begin at starts[0..count], is there already: an object has a key once only. */
static bool repeated(const Buf *texts, const size_t *starts, int count)
{
    const char *last = texts->data + starts[count];
    size_t len = texts->len - starts[count];
    for (int i = 0; i < count; i++)
        if (starts[i + 1] - starts[i] == len && !memcmp(texts->data + starts[i], last, len))
            return true;
    return false;
}

/* {"text": logprob, ...}: the token itself, then the most likely ones; of those with equal text the first one. */
static void put_top_object(Buf *out, const TokenStyle *style, const CompletionToken *t)
{
    Buf texts = {0};
    size_t starts[SAMPLING_MAX_LOGPROBS + 2];
    int count = 0;
    buf_putc(out, '{');
    for (int i = -1; i < t->top_count; i++) {
        starts[count] = texts.len;
        put_token(&texts, style, i < 0 ? t->id : t->top[i].token);
        if (repeated(&texts, starts, count)) {
            texts.len = starts[count];
            continue;
        }
        if (count)
            buf_putc(out, ',');
        buf_put(out, texts.data + starts[count], texts.len - starts[count]);
        buf_putc(out, ':');
        put_logprob(out, i < 0 ? t->logprob : t->top[i].logprob);
        count++;
    }
    buf_putc(out, '}');
    buf_free(&texts);
}

void token_lists_add(TokenLists *l, const TokenStyle *style, const CompletionToken *t, bool silent)
{
    Buf *lists[] = {&l->tokens, &l->logprobs, &l->top, &l->offsets};
    for (size_t i = 0; i < COUNT(lists) && l->tokens.len; i++)
        buf_putc(lists[i], ',');
    put_token(&l->tokens, style, t->id);
    json_put_int(&l->offsets, (int64_t)l->chars);
    if (isnan(t->logprob)) { /* the first token of a prompt */
        buf_puts(&l->logprobs, "null");
        buf_puts(&l->top, "null");
    } else {
        put_logprob(&l->logprobs, t->logprob);
        put_top_object(&l->top, style, t);
    }
    if (silent)
        return;
    Buf bytes = {0};
    tok_bytes(style->tokenizer, t->id, &bytes);
    l->chars += utf8_count(bytes.data, bytes.len);
    buf_free(&bytes);
}

static void put_lists(Buf *out, const char *name, const Buf *first, const Buf *rest)
{
    buf_printf(out, "\"%s\":[", name);
    if (first)
        buf_put(out, first->data, first->len);
    if (first && first->len && rest->len)
        buf_putc(out, ',');
    buf_put(out, rest->data, rest->len);
    buf_putc(out, ']');
}

void token_lists_put(const TokenLists *first, const TokenLists *l, Buf *out)
{
    buf_putc(out, '{');
    put_lists(out, "text_offset", first ? &first->offsets : NULL, &l->offsets);
    buf_putc(out, ',');
    put_lists(out, "token_logprobs", first ? &first->logprobs : NULL, &l->logprobs);
    buf_putc(out, ',');
    put_lists(out, "tokens", first ? &first->tokens : NULL, &l->tokens);
    buf_putc(out, ',');
    put_lists(out, "top_logprobs", first ? &first->top : NULL, &l->top);
    buf_putc(out, '}');
}

/* ---- prompts ----------------------------------------------------------------------------------------------------- */

static void put_ranked(Buf *out, const TokenStyle *style, uint32_t id, float logprob, int rank)
{
    buf_printf(out, "\"%u\":{\"logprob\":", id);
    put_logprob(out, logprob);
    buf_printf(out, ",\"rank\":%d,\"decoded_token\":", rank);
    put_token(out, style, id);
    buf_putc(out, '}');
}

void prompt_logprobs_put(Buf *out, const TokenStyle *style, const PromptToken *t, int count)
{
    buf_putc(out, '[');
    for (int i = 0; i < count; i++) {
        if (i)
            buf_putc(out, ',');
        if (isnan(t[i].logprob)) {
            buf_puts(out, "null");
            continue;
        }
        buf_putc(out, '{');
        put_ranked(out, style, t[i].id, t[i].logprob, t[i].rank);
        for (int k = 0; k < t[i].top_count; k++) {
            if (t[i].top[k].token == t[i].id)
                continue;
            buf_putc(out, ',');
            put_ranked(out, style, t[i].top[k].token, t[i].top[k].logprob, k + 1);
        }
        buf_putc(out, '}');
    }
    buf_putc(out, ']');
}
