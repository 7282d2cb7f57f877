/* tok_decoder.c - the "decoder" of tokenizer.json, as a pipe that text flows through token by token. See tok.h.
 *
 * The package hands a list of strings from decoder to decoder and joins what comes out. Here each stage gets the
 * same list as a stream: text() any number of times for a token, end() behind each token, finish() behind the last.
 * A stage passes on what later tokens cannot change, and holds back the rest; so decoding at once and decoding id
 * by id are the same code. */
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "tok.h"

typedef enum StageKind { DEC_JOIN, DEC_BYTE_LEVEL, DEC_METASPACE, DEC_BYTE_FALLBACK, DEC_FUSE, DEC_STRIP,
                         DEC_REPLACE } StageKind;

typedef struct Stage {
    StageKind kind;
    uint32_t cp;         /* DEC_METASPACE, DEC_STRIP: the character */
    bool drop_first;     /* DEC_METASPACE: the first token's characters vanish */
    size_t start, stop;  /* DEC_STRIP: how many at most */
    TokRegex *pattern;   /* DEC_REPLACE */
    Buf content;
} Stage;

struct Decoder {
    VEC(Stage) stages;
};

typedef struct StageState {
    Buf token;      /* the current token, for stages that need all of it */
    Buf held;       /* DEC_BYTE_LEVEL: an unfinished character; DEC_BYTE_FALLBACK: the current run of bytes */
    size_t tokens;  /* ended so far */
    size_t leading; /* DEC_STRIP: characters cut from the token's beginning */
    size_t pending; /* DEC_STRIP: characters that are cut if the token ends here */
    bool inside;    /* something of the current token has passed */
} StageState;

struct DecoderState {
    const Decoder *decoder;
    StageState *stages;
    Buf *out; /* during a call */
};

/* ---- the stream ---------------------------------------------------------------------------------------------- */

static void text(DecoderState *s, size_t i, const char *at, size_t n);
static void end(DecoderState *s, size_t i);

static void whole_token(DecoderState *s, size_t i, const char *at, size_t n)
{
    text(s, i, at, n);
    end(s, i);
}

static void metaspace_text(DecoderState *s, size_t i, const char *at, size_t n)
{
    const Stage *st = &s->decoder->stages.at[i];
    char meta[4];
    size_t len = utf8_encode(st->cp, meta);
    bool drop = st->drop_first && !s->stages[i].tokens;
    for (const char *p; (p = memmem(at, n, meta, len)); n -= (size_t)(p - at) + len, at = p + len) {
        text(s, i + 1, at, (size_t)(p - at));
        if (!drop)
            text(s, i + 1, " ", 1);
    }
    text(s, i + 1, at, n);
}

static void strip_text(DecoderState *s, size_t i, const char *at, size_t n)
{
    const Stage *st = &s->decoder->stages.at[i];
    StageState *state = &s->stages[i];
    char c[4];
    size_t len = utf8_encode(st->cp, c);
    while (n) {
        if (n >= len && !memcmp(at, c, len)) {
            if (!state->inside && state->leading < st->start)
                state->leading++;
            else if (state->inside = true, state->pending < st->stop)
                state->pending++;
            else
                text(s, i + 1, c, len);
            at += len;
            n -= len;
            continue;
        }
        const char *next = memmem(at, n, c, len);
        size_t plain = next ? (size_t)(next - at) : n;
        state->inside = true;
        for (; state->pending; state->pending--)
            text(s, i + 1, c, len);
        text(s, i + 1, at, plain);
        at += plain;
        n -= plain;
    }
}

/* Text of the current token reaches stage i; behind the last stage lies the output. */
static void text(DecoderState *s, size_t i, const char *at, size_t n)
{
    if (!n)
        return;
    if (i == s->decoder->stages.len) {
        buf_put(s->out, at, n);
        return;
    }
    switch (s->decoder->stages.at[i].kind) {
    case DEC_FUSE:
    case DEC_JOIN: text(s, i + 1, at, n); break;
    case DEC_METASPACE: metaspace_text(s, i, at, n); break;
    case DEC_STRIP: strip_text(s, i, at, n); break;
    case DEC_BYTE_LEVEL:
    case DEC_BYTE_FALLBACK:
    case DEC_REPLACE: buf_put(&s->stages[i].token, at, n); break;
    }
}

/* Appends the bytes that the token's characters stand for, or the token itself if one of them stands for none. */
static void put_token_bytes(Buf *out, const Buf *token)
{
    size_t before = out->len;
    for (size_t i = 0; i < token->len;) {
        uint32_t cp;
        i += utf8_decode(token->data + i, token->len - i, &cp);
        int byte = tok_char_to_byte(cp);
        if (byte < 0) {
            out->len = before;
            buf_put(out, token->data, token->len);
            return;
        }
        buf_putc(out, (char)byte);
    }
}

static void byte_level_end(DecoderState *s, size_t i)
{
    StageState *state = &s->stages[i];
    Buf good = {0};
    put_token_bytes(&state->held, &state->token);
    size_t used = tok_sanitize(&good, state->held.data ? state->held.data : "", state->held.len, true);
    text(s, i + 1, good.data, good.len);
    if (used)
        memmove(state->held.data, state->held.data + used, state->held.len - used);
    state->held.len -= used;
    buf_free(&good);
}

/* "<0x41>" is byte 0x41; -1 for any other token. */
static int fallback_byte(const Buf *token)
{
    if (token->len != 6 || memcmp(token->data, "<0x", 3) || token->data[5] != '>')
        return -1;
    int v = 0;
    for (int i = 3; i < 5; i++) {
        char c = (char)(token->data[i] | 32);
        if (!(c >= '0' && c <= '9' && token->data[i] == c) && !(c >= 'a' && c <= 'f'))
            return -1;
        v = v << 4 | (c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return v;
}

/* A run of bytes is over: a character string, or a U+FFFD for each byte. */
static void flush_run(DecoderState *s, size_t i)
{
    Buf *run = &s->stages[i].held;
    if (run->len && tok_is_utf8(run->data, run->len))
        whole_token(s, i + 1, run->data, run->len);
    else
        for (size_t k = 0; k < run->len; k++)
            whole_token(s, i + 1, "\xEF\xBF\xBD", 3);
    run->len = 0;
}

static void byte_fallback_end(DecoderState *s, size_t i)
{
    StageState *state = &s->stages[i];
    int byte = fallback_byte(&state->token);
    if (byte >= 0) {
        buf_putc(&state->held, (char)byte);
        return;
    }
    flush_run(s, i);
    whole_token(s, i + 1, state->token.data, state->token.len);
}

static void replace_end(DecoderState *s, size_t i)
{
    const Stage *st = &s->decoder->stages.at[i];
    Buf *token = &s->stages[i].token;
    Err err; /* a pattern that gives up leaves the rest as it is */
    TokMatcher m = {.re = st->pattern, .s = token->data ? token->data : "", .n = token->len};
    size_t done = 0;
    while (tok_match_next(&m, &err)) {
        text(s, i + 1, m.s + done, m.from - done);
        text(s, i + 1, st->content.data, st->content.len);
        done = m.to;
    }
    tok_match_done(&m);
    text(s, i + 1, m.s + done, m.n - done);
    end(s, i + 1);
}

/* The current token of stage i ends. */
static void end(DecoderState *s, size_t i)
{
    if (i == s->decoder->stages.len)
        return;
    StageState *state = &s->stages[i];
    switch (s->decoder->stages.at[i].kind) {
    case DEC_FUSE: break;
    case DEC_JOIN:
    case DEC_METASPACE:
    case DEC_STRIP: end(s, i + 1); break;
    case DEC_BYTE_LEVEL: byte_level_end(s, i); break;
    case DEC_BYTE_FALLBACK: byte_fallback_end(s, i); break;
    case DEC_REPLACE: replace_end(s, i); break;
    }
    state->token.len = state->leading = state->pending = 0;
    state->inside = false;
    state->tokens++;
}

static void finish(DecoderState *s, size_t i)
{
    if (i == s->decoder->stages.len)
        return;
    StageKind kind = s->decoder->stages.at[i].kind;
    if (kind == DEC_BYTE_LEVEL && s->stages[i].held.len)
        text(s, i + 1, "\xEF\xBF\xBD", 3);
    if (kind == DEC_BYTE_LEVEL || kind == DEC_FUSE)
        end(s, i + 1); /* these two make one token of all */
    if (kind == DEC_BYTE_FALLBACK)
        flush_run(s, i);
    finish(s, i + 1);
}

DecoderState *decoder_start(const Decoder *d)
{
    DecoderState *s = xcalloc(1, sizeof *s);
    s->decoder = d;
    s->stages = xcalloc(d->stages.len, sizeof *s->stages);
    return s;
}

void decoder_push(DecoderState *s, const char *token, size_t n, Buf *out)
{
    s->out = out;
    const Stage *first = s->decoder->stages.at; /* NULL: an empty Sequence, tokens follow each other */
    if (first && first->kind == DEC_JOIN && s->stages[0].tokens)
        text(s, 1, " ", 1);
    whole_token(s, 0, token, n);
}

void decoder_finish(DecoderState *s, Buf *out)
{
    s->out = out;
    finish(s, 0);
}

void decoder_stop(DecoderState *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->decoder->stages.len; i++) {
        buf_free(&s->stages[i].token);
        buf_free(&s->stages[i].held);
    }
    free(s->stages);
    free(s);
}

/* ---- bytes of one token -------------------------------------------------------------------------------------- */

static void replace_all(const Stage *st, const Buf *text, Buf *out)
{
    Err err;
    TokMatcher m = {.re = st->pattern, .s = text->data ? text->data : "", .n = text->len};
    size_t done = 0;
    while (tok_match_next(&m, &err)) {
        buf_put(out, m.s + done, m.from - done);
        buf_put(out, st->content.data, st->content.len);
        done = m.to;
    }
    tok_match_done(&m);
    buf_put(out, m.s + done, m.n - done);
}

/* Spaces for the characters that stand for them. */
static void replace_meta(const Stage *st, const Buf *text, Buf *out)
{
    char meta[4];
    size_t len = utf8_encode(st->cp, meta), n = text->len;
    const char *at = text->data ? text->data : "";
    for (const char *p; (p = memmem(at, n, meta, len)); n -= (size_t)(p - at) + len, at = p + len) {
        buf_put(out, at, (size_t)(p - at));
        buf_putc(out, ' ');
    }
    buf_put(out, at, n);
}

void decoder_bytes(const Decoder *d, const char *token, size_t n, Buf *out)
{
    Buf from = {0}, to = {0};
    buf_put(&from, token, n);
    for (size_t i = 0; i < d->stages.len; i++) {
        const Stage *st = &d->stages.at[i];
        int byte = st->kind == DEC_BYTE_FALLBACK ? fallback_byte(&from) : -1;
        if (st->kind == DEC_BYTE_LEVEL)
            put_token_bytes(&to, &from);
        else if (st->kind == DEC_METASPACE)
            replace_meta(st, &from, &to);
        else if (st->kind == DEC_REPLACE)
            replace_all(st, &from, &to);
        else if (byte >= 0)
            buf_putc(&to, (char)byte);
        else
            continue; /* joining, and cutting spaces at the ends of a text */
        Buf swap = from;
        from = to;
        to = swap;
        to.len = 0;
    }
    buf_put(out, from.data, from.len);
    buf_free(&from);
    buf_free(&to);
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

static bool read_char(uint32_t *cp, const json_t *json, const char *key, const char *dflt, Err *err)
{
    const char *s;
    if (!json_get_str(json, key, dflt, &s, err))
        return false;
    size_t n = strlen(s);
    return (n && utf8_decode(s, n, cp) == n) || err_set(err, "\"%s\" must be one character", key);
}

static bool read_metaspace(Stage *st, const json_t *json, Err *err)
{
    const char *scheme;
    bool space;
    st->kind = DEC_METASPACE;
    if (!read_char(&st->cp, json, "replacement", "\xE2\x96\x81", err) ||
        !json_get_str(json, "prepend_scheme", "always", &scheme, err) ||
        !json_get_bool(json, "add_prefix_space", true, &space, err))
        return false;
    st->drop_first = space && strcmp(scheme, "never");
    return true;
}

static bool read_strip(Stage *st, const json_t *json, Err *err)
{
    int64_t start, stop;
    st->kind = DEC_STRIP;
    if (!read_char(&st->cp, json, "content", " ", err) ||
        !json_get_int(json, "start", 0, 1 << 20, 0, &start, err) ||
        !json_get_int(json, "stop", 0, 1 << 20, 0, &stop, err))
        return false;
    st->start = (size_t)start;
    st->stop = (size_t)stop;
    return true;
}

static bool read_replace(Stage *st, const json_t *json, Err *err)
{
    const char *content;
    st->kind = DEC_REPLACE;
    if (!json_get_str(json, "content", "", &content, err))
        return false;
    buf_puts(&st->content, content);
    st->pattern = tok_regex_json(json_object_get(json, "pattern"), err);
    return st->pattern != NULL;
}

static bool read_stage(Stage *st, const json_t *json, const char *type, Err *err)
{
    if (!strcmp(type, "Metaspace"))
        return read_metaspace(st, json, err);
    if (!strcmp(type, "Strip"))
        return read_strip(st, json, err);
    if (!strcmp(type, "Replace"))
        return read_replace(st, json, err);
    st->kind = !strcmp(type, "ByteLevel")      ? DEC_BYTE_LEVEL
               : !strcmp(type, "ByteFallback") ? DEC_BYTE_FALLBACK
               : !strcmp(type, "Fuse")         ? DEC_FUSE
                                               : DEC_JOIN;
    return st->kind != DEC_JOIN || err_set(err, "type \"%s\" is not supported (supported: ByteLevel Metaspace "
                                                "ByteFallback Fuse Strip Replace Sequence)", type);
}

static bool read_any(Decoder *d, const json_t *json, int depth, Err *err)
{
    const char *type;
    if (!json_get_str(json, "type", "", &type, err))
        return false;
    if (strcmp(type, "Sequence")) {
        vec_push(&d->stages, (Stage){0});
        return read_stage(&d->stages.at[d->stages.len - 1], json, type, err) || err_prefix(err, "decoder");
    }
    const json_t *list = json_object_get(json, "decoders");
    if (depth == TOK_MAX_DEPTH || d->stages.len + json_array_size(list) > 32)
        return err_set(err, "decoder: more than 32 decoders, or Sequences nested more than %d deep", TOK_MAX_DEPTH);
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!read_any(d, json_array_get(list, i), depth + 1, err))
            return false;
    return true;
}

bool decoder_parse(Decoder **out, const json_t *json, Err *err)
{
    *out = xcalloc(1, sizeof **out);
    if (json && !json_is_null(json))
        return read_any(*out, json, 0, err);
    vec_push(&(*out)->stages, (Stage){.kind = DEC_JOIN});
    return true;
}

void decoder_free(Decoder *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < d->stages.len; i++) {
        buf_free(&d->stages.at[i].content);
        tok_regex_free(d->stages.at[i].pattern);
    }
    vec_free(&d->stages);
    free(d);
}
