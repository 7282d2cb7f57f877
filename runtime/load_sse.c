/* load_sse.c - event streams and completion chunks; see load_sse.h. */
#include "load_sse.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* ---- events ---------------------------------------------------------------------------------------------------- */

static void dispatch(Sse *s, SseHandler handler, void *context)
{
    if (s->data.len && s->data.len <= SSE_MAX_EVENT) {
        s->data.data[--s->data.len] = 0; /* the line feed behind the last data line */
        handler(context, s->data.data, s->data.len);
    }
    s->data.len = 0;
}

static void end_line(Sse *s, SseHandler handler, void *context)
{
    const char *line = s->line.data;
    size_t n = s->line.len;
    s->line.len = 0;
    if (!n) {
        dispatch(s, handler, context);
        return;
    }
    if (n < 5 || memcmp(line, "data:", 5))
        return; /* comments, and fields that mean nothing here: event, id, retry */
    size_t skip = n > 5 && line[5] == ' ' ? 6 : 5;
    if (s->data.len + n > SSE_MAX_EVENT) {
        s->too_long = true;
        return;
    }
    buf_put(&s->data, line + skip, n - skip);
    buf_putc(&s->data, '\n');
}

/* Adds a piece of a line; what is beyond the limit is dropped. */
static void put_line(Sse *s, const char *bytes, size_t n)
{
    if (s->line.len + n > SSE_MAX_EVENT) {
        s->too_long = true;
        n = 0;
    }
    buf_put(&s->line, bytes, n);
    if (!s->begun && s->line.len >= 3) {
        s->begun = true;
        if (!memcmp(s->line.data, "\xef\xbb\xbf", 3)) {
            s->line.len -= 3;
            memmove(s->line.data, s->line.data + 3, s->line.len);
        }
    }
}

void sse_feed(Sse *s, const char *bytes, size_t n, SseHandler handler, void *context)
{
    const char *end = bytes + n;
    while (bytes < end) {
        if (s->after_cr && *bytes == '\n')
            bytes++;
        s->after_cr = false;
        const char *p = bytes;
        while (p < end && *p != '\n' && *p != '\r')
            p++;
        put_line(s, bytes, (size_t)(p - bytes));
        if (p == end)
            return;
        s->begun = true;
        s->after_cr = *p == '\r';
        end_line(s, handler, context);
        bytes = p + 1;
    }
}

void sse_end(Sse *s, SseHandler handler, void *context)
{
    if (s->line.len)
        end_line(s, handler, context);
    dispatch(s, handler, context);
}

void sse_free(Sse *s)
{
    buf_free(&s->line);
    buf_free(&s->data);
    *s = (Sse){0};
}

/* ---- chunks ---------------------------------------------------------------------------------------------------- */

static bool has_text(const json_t *object, const char *key)
{
    return json_string_length(json_object_get(object, key)) > 0;
}

static bool is_given(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return value && !json_is_null(value);
}

/* Does a chat's delta only say whose turn it is? */
static bool only_role(const json_t *delta)
{
    return json_object_get(delta, "role") && !has_text(delta, "content") && !has_text(delta, "reasoning_content")
        && !has_text(delta, "reasoning") && !json_array_size(json_object_get(delta, "tool_calls"));
}

static bool delta_has_text(const json_t *delta)
{
    return has_text(delta, "content") || has_text(delta, "reasoning_content") || has_text(delta, "reasoning")
        || json_array_size(json_object_get(delta, "tool_calls"));
}

static void read_choice(const json_t *choice, LoadChunk *chunk)
{
    const json_t *delta = json_object_get(choice, "delta");
    bool finish = is_given(choice, "finish_reason"), text = has_text(choice, "text") || delta_has_text(delta);
    chunk->finish |= finish;
    chunk->token |= text || (!finish && !only_role(delta));
}

static int64_t count_of(const json_t *usage, const char *key)
{
    const json_t *value = json_object_get(usage, key);
    return json_is_integer(value) && json_integer_value(value) >= 0 ? json_integer_value(value) : -1;
}

void load_chunk_read(const char *data, size_t len, LoadChunk *chunk)
{
    *chunk = (LoadChunk){.prompt_tokens = -1, .completion_tokens = -1};
    while (len && (data[len - 1] == ' ' || data[len - 1] == '\n'))
        len--;
    if (len == 6 && !memcmp(data, "[DONE]", 6)) {
        chunk->done = true;
        return;
    }
    json_t *root = json_loadb(data, len, JSON_ALLOW_NUL, NULL);
    if (!json_is_object(root)) {
        snprintf(chunk->error, sizeof chunk->error, "an event is no JSON object: %.*s", (int)MIN(len, 80), data);
    } else if (is_given(root, "error")) {
        load_error_text(data, len, chunk->error, sizeof chunk->error);
    } else {
        const json_t *choices = json_object_get(root, "choices"), *usage = json_object_get(root, "usage");
        for (size_t i = 0; i < json_array_size(choices); i++)
            read_choice(json_array_get(choices, i), chunk);
        chunk->prompt_tokens = count_of(usage, "prompt_tokens");
        chunk->completion_tokens = count_of(usage, "completion_tokens");
    }
    json_decref(root);
}

/* ---- error bodies ---------------------------------------------------------------------------------------------- */

static const char *message_in(const json_t *root)
{
    static const char *const keys[] = {"message", "detail", "error"};
    const json_t *error = json_object_get(root, "error");
    const json_t *places[] = {json_is_object(error) ? error : root, root};
    for (size_t p = 0; p < COUNT(places); p++)
        for (size_t i = 0; i < COUNT(keys); i++) {
            const char *text = json_string_value(json_object_get(places[p], keys[i]));
            if (text && *text)
                return text;
        }
    return NULL;
}

/* Makes the text one line of valid UTF-8. */
static void clean_line(char *text)
{
    size_t len = utf8_complete(text, strlen(text));
    text[len] = 0;
    for (size_t i = 0, n; i < len; i += n) {
        uint32_t c;
        n = utf8_decode(text + i, len - i, &c);
        if (c < ' ' || c == 0x7f)
            text[i] = ' ';
        else if (c == 0xfffd && n == 1)
            text[i] = '?';
    }
}

void load_error_text(const char *body, size_t len, char *out, size_t size)
{
    json_t *root = json_loadb(body, len, JSON_ALLOW_NUL, NULL);
    const char *message = message_in(root);
    if (message)
        snprintf(out, size, "%s", message);
    else
        snprintf(out, size, "%.*s", (int)MIN(len, 200), len ? body : "");
    json_decref(root);
    clean_line(out);
}
