/* api_chat.c - /v1/chat/completions: messages to a prompt, tokens to content, reasoning and tool calls. */
#include <stdio.h>
#include <string.h>

#include "api_int.h"

/* ---- the prompt -------------------------------------------------------------------------------------------------- */

bool chat_prompt(const Api *a, const json_t *body, Buf *prompt, ApiError *e)
{
    Err err;
    return chat_render(a->o.chat, body, prompt, &err) || api_error_set(e, "messages", "%s", err.text);
}

/* Whether the text ends with <think>, or in a message that is continued, has one that was not closed. */
static bool inside_reasoning(const Buf *prompt, const char *continued)
{
    size_t n = prompt->len;
    while (n && strchr(" \t\r\n", prompt->data[n - 1]))
        n--;
    if (n >= 7 && !memcmp(prompt->data + n - 7, "<think>", 7))
        return true;
    const char *begin = continued ? strstr(continued, "<think>") : NULL;
    return begin && !strstr(begin, "</think>");
}

/* The text of the message that the model goes on with; NULL when it begins a new one. */
static const char *continued_text(const json_t *body)
{
    const json_t *messages = json_object_get(body, "messages");
    size_t n = json_array_size(messages);
    if (!n || !json_is_true(json_object_get(body, "continue_final_message")))
        return NULL;
    return json_string_value(json_object_get(json_array_get(messages, n - 1), "content"));
}

static bool prepare(ApiCall *c, ApiError *e)
{
    const Api *a = c->api;
    ApiRequest *r = &c->request;
    Buf prompt = {0};
    TokenIds ids = {0};
    if (!chat_prompt(a, r->body, &prompt, e))
        return false;
    buf_reserve(&prompt, 1);
    bool ok = call_encode(c, prompt.data, prompt.len, &ids, e);
    if (ok) {
        ApiPrompted *p = call_add_prompt(c, &ids);
        buf_puts(&p->echo, r->echo_text ? r->echo_text : "");
        c->reply = (ReplyOptions){
            .style = r->tools ? a->o.tools : REPLY_PLAIN,
            .reasoning = a->o.reasoning,
            .in_reasoning = a->o.reasoning && inside_reasoning(&prompt, continued_text(r->body)),
        };
    }
    vec_free(&ids);
    buf_free(&prompt);
    return ok;
}

/* ---- collecting -------------------------------------------------------------------------------------------------- */

static void on_part(void *context, const ReplyPart *part)
{
    ApiChoice *c = context;
    const ApiRequest *r = &c->prompt->call->request;
    if (part->kind == REPLY_CONTENT) {
        buf_put(&c->text, part->text, part->len);
    } else if (part->kind == REPLY_REASONING) {
        if (r->include_reasoning)
            buf_put(&c->reasoning, part->text, part->len);
    } else if (part->call > 0 && !r->parallel_calls) {
        return;
    } else if (part->kind == REPLY_CALL) {
        vec_push(&c->tools, (ToolCall){0});
        buf_puts(&c->tools.at[part->call].name, part->name);
    } else {
        buf_put(&c->tools.at[part->call].arguments, part->text, part->len);
    }
}

static void chat_delta(ApiChoice *c, const CompletionDelta *d)
{
    const ApiCall *call = c->prompt->call;
    if (c->parser)
        reply_push(c->parser, d->text, d->text_len, on_part, c);
    else
        buf_put(&c->text, d->text, d->text_len);
    for (int i = 0; i < d->tokens_count && call->request.params.params.logprobs >= 0; i++) {
        if (c->logprobs.len)
            buf_putc(&c->logprobs, ',');
        chat_logprob_put(&c->logprobs, &call->style, &d->tokens[i]);
    }
}

static void chat_finish(ApiChoice *c, const CompletionEnd *end)
{
    (void)end;
    if (c->parser)
        reply_finish(c->parser, on_part, c);
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

static void put_buf_text(Buf *out, const Buf *text)
{
    json_put_text(out, text->data ? text->data : "", text->len);
}

/* Members "logprobs" and "token_ids" of a choice, each with a comma in front. */
static void put_tokens(const ApiChoice *c, Buf *out)
{
    const ApiRequest *r = &c->prompt->call->request;
    buf_puts(out, ",\"logprobs\":");
    if (r->params.params.logprobs >= 0 && (c->logprobs.len || !r->stream)) {
        buf_puts(out, "{\"content\":[");
        buf_put(out, c->logprobs.data, c->logprobs.len);
        buf_puts(out, "],\"refusal\":null}");
    } else {
        buf_puts(out, "null");
    }
    if (r->return_token_ids) {
        buf_puts(out, ",\"token_ids\":[");
        buf_put(out, c->ids.data, c->ids.len);
        buf_putc(out, ']');
    }
}

static void put_reason(const ApiChoice *c, Buf *out)
{
    static const char *const names[] = {"stop", "length", "abort", "abort", "error"};
    bool calls = c->reason == COMPLETION_STOP && c->tools.len;
    buf_printf(out, ",\"finish_reason\":\"%s\",\"stop_reason\":", calls ? "tool_calls" : names[c->reason]);
    if (c->stop_reason.len)
        buf_put(out, c->stop_reason.data, c->stop_reason.len);
    else
        buf_puts(out, "null");
}

/* The same id whenever it is asked for. */
static void put_call_id(const ApiChoice *c, size_t call, Buf *out)
{
    uint64_t hash = hash_str(HASH_SEED, c->prompt->call->id);
    uint64_t part[2] = {(uint64_t)c->index, call};
    buf_printf(out, "\"call_%016llx%04zx\"", (unsigned long long)hash_bytes(hash, part, sizeof part), call);
}

static void put_reasoning(const ApiChoice *c, Buf *out)
{
    buf_puts(out, "\"reasoning_content\":");
    put_buf_text(out, &c->reasoning);
    buf_puts(out, ",\"reasoning\":");
    put_buf_text(out, &c->reasoning);
}

static bool chat_open(ApiChoice *c, Buf *out)
{
    buf_printf(out, "{\"index\":%d,\"delta\":{\"role\":\"assistant\",\"content\":", c->index);
    put_buf_text(out, &c->prompt->echo);
    buf_puts(out, "},\"logprobs\":null,\"finish_reason\":null}");
    return true;
}

/* The tool calls that have something new: with id and name when they have just begun. */
static void put_call_deltas(ApiChoice *c, Buf *out)
{
    bool any = false;
    for (size_t i = 0; i < c->tools.len; i++) {
        ToolCall *t = &c->tools.at[i];
        if (t->announced && !t->arguments.len)
            continue;
        buf_printf(out, "%s{\"index\":%zu", any ? "," : "\"tool_calls\":[", i);
        any = true;
        if (!t->announced) {
            buf_puts(out, ",\"id\":");
            put_call_id(c, i, out);
            buf_puts(out, ",\"type\":\"function\"");
        }
        buf_puts(out, ",\"function\":{");
        if (!t->announced) {
            buf_puts(out, "\"name\":");
            put_buf_text(out, &t->name);
            buf_putc(out, ',');
        }
        buf_puts(out, "\"arguments\":");
        put_buf_text(out, &t->arguments);
        buf_puts(out, "}}");
        t->announced = true;
        t->arguments.len = 0;
    }
    if (any)
        buf_putc(out, ']');
}

/* The members of "delta"; false when there are none. */
static bool put_delta(ApiChoice *c, Buf *out)
{
    size_t from = out->len;
    if (c->reasoning.len)
        put_reasoning(c, out);
    if (c->text.len) {
        buf_puts(out, out->len > from ? ",\"content\":" : "\"content\":");
        put_buf_text(out, &c->text);
    }
    size_t before = out->len;
    if (before > from)
        buf_putc(out, ',');
    size_t calls = out->len;
    put_call_deltas(c, out);
    if (out->len == calls)
        out->len = before;
    c->reasoning.len = c->text.len = 0;
    return out->len > from;
}

static bool chat_chunk(ApiChoice *c, Buf *out)
{
    buf_printf(out, "{\"index\":%d,\"delta\":{", c->index);
    if (!put_delta(c, out))
        return false;
    buf_putc(out, '}');
    put_tokens(c, out);
    buf_puts(out, ",\"finish_reason\":null}");
    c->logprobs.len = c->ids.len = 0;
    return true;
}

static void chat_last(ApiChoice *c, Buf *out)
{
    buf_printf(out, "{\"index\":%d,\"delta\":{", c->index);
    put_delta(c, out);
    buf_putc(out, '}');
    put_tokens(c, out);
    put_reason(c, out);
    buf_putc(out, '}');
}

static void put_calls(const ApiChoice *c, Buf *out)
{
    buf_puts(out, ",\"tool_calls\":[");
    for (size_t i = 0; i < c->tools.len; i++) {
        buf_puts(out, i ? ",{\"id\":" : "{\"id\":");
        put_call_id(c, i, out);
        buf_puts(out, ",\"type\":\"function\",\"function\":{\"name\":");
        put_buf_text(out, &c->tools.at[i].name);
        buf_puts(out, ",\"arguments\":");
        put_buf_text(out, &c->tools.at[i].arguments);
        buf_puts(out, "}}");
    }
    buf_putc(out, ']');
}

static void chat_whole(ApiChoice *c, Buf *out)
{
    const Buf *echo = &c->prompt->echo;
    buf_printf(out, "{\"index\":%d,\"message\":{\"role\":\"assistant\",\"content\":", c->index);
    if (!c->text.len && !echo->len && (c->tools.len || c->reasoning.len)) {
        buf_puts(out, "null");
    } else {
        buf_putc(out, '"');
        json_put_chars(out, echo->data, echo->len);
        json_put_chars(out, c->text.data, c->text.len);
        buf_putc(out, '"');
    }
    buf_puts(out, ",\"refusal\":null");
    if (c->reasoning.len) {
        buf_putc(out, ',');
        put_reasoning(c, out);
    }
    if (c->tools.len)
        put_calls(c, out);
    buf_putc(out, '}');
    put_tokens(c, out);
    put_reason(c, out);
    buf_putc(out, '}');
}

static void chat_extras(const ApiCall *c, Buf *out)
{
    const ApiPrompted *p = &c->prompts.at[0];
    if (p->logprobs.len) {
        buf_puts(out, ",\"prompt_logprobs\":");
        buf_put(out, p->logprobs.data, p->logprobs.len);
    }
    if (c->request.return_token_ids) {
        buf_puts(out, ",\"prompt_token_ids\":[");
        token_ids_put(out, p->ids.at, p->ids.len);
        buf_putc(out, ']');
    }
}

static const ApiFormat chat_format = {
    "chatcmpl-", "chat.completion", "chat.completion.chunk", chat_delta, chat_finish, chat_open, chat_chunk, chat_last,
    chat_whole, chat_extras, NULL,
};

void api_chat(void *context, HttpExchange *x)
{
    ApiError e = {0};
    ApiCall *c = call_new(context, x, API_CHAT, &chat_format);
    if (!c)
        return;
    if (prepare(c, &e))
        call_submit(c);
    else
        call_refuse(c, &e);
}
