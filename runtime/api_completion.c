/* api_completion.c - /v1/completions: plain prompts, one or many, continued; optionally with the prompt in front. */
#include <string.h>

#include "api_int.h"

/* ---- collecting -------------------------------------------------------------------------------------------------- */

static bool wants_logprobs(const ApiCall *c)
{
    return c->request.params.params.logprobs >= 0;
}

/* Whether a token has no text of its own in the answer. */
static bool is_silent(const ApiCall *c, uint32_t id)
{
    return !c->request.keep_special && tok_is_special(c->style.tokenizer, id);
}

static void completion_delta(ApiChoice *c, const CompletionDelta *d)
{
    const ApiCall *call = c->prompt->call;
    buf_put(&c->text, d->text, d->text_len);
    for (int i = 0; i < d->tokens_count && wants_logprobs(call); i++)
        token_lists_add(&c->lists, &call->style, &d->tokens[i], is_silent(call, d->tokens[i].id));
}

/* With echo the lists begin with the prompt's tokens. */
static void completion_finish(ApiChoice *c, const CompletionEnd *end)
{
    const ApiCall *call = c->prompt->call;
    if (!end->prompt || !call->request.echo || !wants_logprobs(call))
        return;
    for (int i = 0; i < end->prompt_tokens; i++) {
        const PromptToken *p = &end->prompt[i];
        CompletionToken t = {p->id, p->logprob, MIN(p->top_count, call->request.params.params.logprobs), p->top};
        token_lists_add(&c->prompt->lists, &call->style, &t, is_silent(call, p->id));
    }
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

/* Everything of an element of "choices" behind the text. */
static void put_rest(const ApiChoice *c, const TokenLists *prompt, bool last, Buf *out)
{
    static const char *const names[] = {"stop", "length", "abort", "abort", "error"};
    const ApiCall *call = c->prompt->call;
    buf_puts(out, ",\"logprobs\":");
    if (wants_logprobs(call) && (c->lists.tokens.len || !call->request.stream))
        token_lists_put(prompt, &c->lists, out);
    else
        buf_puts(out, "null");
    if (last)
        buf_printf(out, ",\"finish_reason\":\"%s\",\"stop_reason\":", names[c->reason]);
    else
        buf_puts(out, ",\"finish_reason\":null,\"stop_reason\":");
    if (last && c->stop_reason.len)
        buf_put(out, c->stop_reason.data, c->stop_reason.len);
    else
        buf_puts(out, "null");
    if (call->request.return_token_ids) {
        buf_puts(out, ",\"token_ids\":[");
        buf_put(out, c->ids.data, c->ids.len);
        buf_putc(out, ']');
    }
}

static void put_prompt_ids(const ApiChoice *c, Buf *out)
{
    if (!c->prompt->call->request.return_token_ids)
        return;
    buf_puts(out, ",\"prompt_token_ids\":[");
    token_ids_put(out, c->prompt->ids.at, c->prompt->ids.len);
    buf_putc(out, ']');
}

static void put_text(const ApiChoice *c, const Buf *echo, Buf *out)
{
    buf_printf(out, "{\"index\":%d,\"text\":\"", c->index);
    if (echo)
        json_put_chars(out, echo->data, echo->len);
    json_put_chars(out, c->text.data, c->text.len);
    buf_putc(out, '"');
}

/* The prompt, when it is wanted. */
static bool completion_open(ApiChoice *c, Buf *out)
{
    const ApiPrompted *p = c->prompt;
    if (!p->echo.len && !p->call->request.return_token_ids)
        return false;
    buf_printf(out, "{\"index\":%d,\"text\":\"", c->index);
    json_put_chars(out, p->echo.data, p->echo.len);
    buf_puts(out, "\",\"logprobs\":null,\"finish_reason\":null,\"stop_reason\":null");
    put_prompt_ids(c, out);
    buf_putc(out, '}');
    return true;
}

static bool completion_chunk(ApiChoice *c, Buf *out)
{
    if (!c->text.len)
        return false;
    put_text(c, NULL, out);
    put_rest(c, NULL, false, out);
    buf_putc(out, '}');
    c->text.len = c->ids.len = 0;
    token_lists_clear(&c->lists);
    return true;
}

static void completion_last(ApiChoice *c, Buf *out)
{
    put_text(c, NULL, out);
    put_rest(c, NULL, true, out);
    buf_putc(out, '}');
}

static void completion_whole(ApiChoice *c, Buf *out)
{
    const ApiPrompted *p = c->prompt;
    put_text(c, &p->echo, out);
    put_rest(c, &p->lists, true, out);
    if (p->logprobs.len) {
        buf_puts(out, ",\"prompt_logprobs\":");
        buf_put(out, p->logprobs.data, p->logprobs.len);
    }
    put_prompt_ids(c, out);
    buf_putc(out, '}');
}

static const ApiFormat completion_format = {
    "cmpl-", "text_completion", "text_completion", completion_delta, completion_finish, completion_open,
    completion_chunk, completion_last, completion_whole, NULL, NULL,
};

void api_completion(void *context, HttpExchange *x)
{
    ApiCall *c = call_new(context, x, API_COMPLETION, &completion_format);
    if (!c)
        return;
    call_submit_texts(c);
}
