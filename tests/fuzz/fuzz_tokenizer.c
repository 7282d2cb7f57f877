/* fuzz_tokenizer.c - bytes that begin with '{' are a tokenizer.json (behind a NUL may follow a
 * tokenizer_config.json): what is accepted must encode and decode. Other bytes are a text, and ids, for two fixed
 * tokenizers: byte-level encoding must give the text back, and a stream must give what decoding at once gives, in
 * whole characters. */
#include <stdlib.h>
#include <string.h>

#include "tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok)
{
    if (!ok)
        abort();
}

/* Every byte, the merges of the ASCII pairs "ab" "cd" " a", the token <s>. */
static Tokenizer *byte_level(void)
{
    Buf js = {0}, alphabet = {0};
    Err err;
    for (int b = 0; b < 256; b++)
        tok_bytes_to_chars(&alphabet, &(char){(char)b}, 1);
    buf_puts(&js, "{\"added_tokens\":[{\"content\":\"<s>\",\"special\":true}],\"decoder\":{\"type\":\"ByteLevel\"},"
                  "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"model\":{\"vocab\":{");
    for (size_t i = 0, id = 0, len; i < alphabet.len; i += len, id++) {
        uint32_t cp;
        len = utf8_decode(alphabet.data + i, alphabet.len - i, &cp);
        bool quoted = cp == '"' || cp == '\\';
        buf_printf(&js, "\"%s%.*s\":%zu,", quoted ? "\\" : "", (int)len, alphabet.data + i, id);
    }
    buf_puts(&js, "\"ab\":256,\"cd\":257,\"\\u0120a\":258},\"merges\":[\"a b\",[\"c\",\"d\"],\"\\u0120 a\"]}}");
    Tokenizer *t = tok_parse(js.data, js.len, NULL, 0, &err);
    require(t != NULL);
    buf_free(&js);
    buf_free(&alphabet);
    return t;
}

/* A few bytes with fallback, every decoder that holds text back, added tokens with every flag. */
static Tokenizer *fallback(void)
{
    static const char text[] =
        "{'normalizer':{'type':'Sequence','normalizers':[{'type':'NFKC'},{'type':'Lowercase'},"
        "{'type':'Prepend','prepend':'_'},{'type':'Replace','pattern':{'String':' '},'content':'_'}]},"
        "'pre_tokenizer':{'type':'Split','behavior':'MergedWithPrevious','pattern':{'Regex':'\\\\w+|\\\\s'}},"
        "'decoder':{'type':'Sequence','decoders':[{'type':'Replace','pattern':{'String':'_'},'content':' '},"
        "{'type':'ByteFallback'},{'type':'Fuse'},{'type':'Strip','content':' ','start':1,'stop':2}]},"
        "'added_tokens':[{'content':'<s>','lstrip':true,'special':true},"
        "{'content':'</s>','rstrip':true,'special':true},{'content':'ab','single_word':true},"
        "{'content':'abc','lstrip':true,'rstrip':true,'normalized':false}],"
        "'model':{'unk_token':'<unk>','byte_fallback':true,'fuse_unk':true,'vocab':{'<unk>':0,'<0xC3>':1,'<0xA9>':2,"
        "'_':3,'a':4,'b':5,'_a':6,'<0x0A>':7,'_ab':8},'merges':['_ a','_a b']}}";
    char js[sizeof text];
    Err err;
    for (size_t i = 0; i < sizeof text; i++)
        js[i] = text[i] == '\'' ? '"' : text[i];
    Tokenizer *t = tok_parse(js, strlen(js), NULL, 0, &err);
    require(t != NULL);
    return t;
}

static void check_decode(const Tokenizer *t, const uint32_t *ids, size_t n)
{
    Buf whole = {0}, pieces = {0};
    TokStream *s = tok_stream_new(t, false);
    for (size_t i = 0; i < n; i++) {
        tok_stream_push(s, ids[i], &pieces);
        require(tok_is_utf8(pieces.data ? pieces.data : "", pieces.len));
    }
    tok_stream_finish(s, &pieces);
    tok_stream_free(s);
    tok_decode(t, ids, n, false, &whole);
    require(whole.len == pieces.len && (!whole.len || !memcmp(whole.data, pieces.data, whole.len)));
    buf_free(&whole);
    buf_free(&pieces);
}

static void check_text(const Tokenizer *t, const char *text, size_t n, bool round_trip)
{
    Err err;
    TokenIds ids = {0};
    Buf back = {0}, want = {0};
    if (!tok_encode(t, text, n, true, true, &ids, &err))
        require(*err.text);
    else
        check_decode(t, ids.at, ids.len);
    if (round_trip) {
        tok_sanitize(&want, text, n, false);
        tok_decode(t, ids.at, ids.len, false, &back);
        require(back.len == want.len && (!back.len || !memcmp(back.data, want.data, back.len)));
    }
    vec_free(&ids);
    buf_free(&back);
    buf_free(&want);
}

static void check_ids(const Tokenizer *t, const uint8_t *data, size_t size)
{
    TokenIds ids = {0};
    size_t n = tok_vocab_size(t) + 1;
    for (size_t i = 0; i < size; i++)
        vec_push(&ids, (uint32_t)(data[i] * 31u % n));
    check_decode(t, ids.at, ids.len);
    vec_free(&ids);
}

static void check_json(const char *json, size_t size)
{
    Err err;
    const char *nul = memchr(json, 0, size);
    size_t len = nul ? (size_t)(nul - json) : size;
    Tokenizer *t = tok_parse(json, len, nul ? nul + 1 : NULL, nul ? size - len - 1 : 0, &err);
    if (!t) {
        require(*err.text);
        return;
    }
    static const char text[] = "<s>ab  a\xCC\x81_Abc\n12 \xFF\xE4\xBD\xA0 solo</s>";
    check_text(t, text, strlen(text), false);
    check_text(t, json, MIN(len, (size_t)64), false);
    check_ids(t, (const uint8_t *)json, MIN(len, (size_t)64));
    tok_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static Tokenizer *fixed[2];
    if (!fixed[0]) {
        fixed[0] = byte_level();
        fixed[1] = fallback();
    }
    if (size && data[0] == '{') {
        check_json((const char *)data, size);
        return 0;
    }
    for (size_t i = 0; i < COUNT(fixed); i++) {
        check_text(fixed[i], (const char *)data, size, i == 0);
        check_ids(fixed[i], data, size);
    }
    return 0;
}
