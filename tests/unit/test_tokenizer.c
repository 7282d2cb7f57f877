/* Tests of runtime/tokenizer.c and its parts: golden files of the `tokenizers` package (tests/golden/tokenizer),
 * streaming, refusals, the config's rules, threads. */
#include "test.h"

#include <dirent.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer.h"

#define GOLDEN SOURCE_DIR "/tests/golden/tokenizer/"
#define TINYSTORIES SOURCE_DIR "/../shared/models/tinystories-260k"

/* ---- helpers ------------------------------------------------------------------------------------------------- */

static json_t *load(const char *name)
{
    char path[4096];
    json_error_t e;
    snprintf(path, sizeof path, GOLDEN "%s.json", name);
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &e);
    if (!root)
        fail_msg("%s: %s", path, e.text);
    return root;
}

static Tokenizer *parse_or_fail(const json_t *js)
{
    Err err;
    char *text = json_dumps(js, 0);
    Tokenizer *t = tok_parse(text, strlen(text), NULL, 0, &err);
    if (!t)
        fail_msg("%s", err.text);
    free(text);
    return t;
}

/* The base tokenizer with the variant's members put over it. */
static Tokenizer *variant_tokenizer(const json_t *variant)
{
    char base[64];
    snprintf(base, sizeof base, "base-%s", json_string_value(json_object_get(variant, "base")));
    json_t *js = load(base);
    json_object_update(js, json_object_get(variant, "members"));
    json_object_update(json_object_get(js, "model"), json_object_get(variant, "model"));
    Tokenizer *t = parse_or_fail(js);
    json_decref(js);
    return t;
}

static void put_hex(Buf *out, const char *hex)
{
    unsigned byte;
    for (; *hex && sscanf(hex, "%2x", &byte) == 1; hex += 2)
        buf_putc(out, (char)byte);
}

static TokenIds encode(const Tokenizer *t, const Buf *text, bool add_special, bool parse_special)
{
    Err err;
    TokenIds ids = {0};
    if (!tok_encode(t, text->data ? text->data : "", text->len, add_special, parse_special, &ids, &err))
        fail_msg("%s", err.text);
    return ids;
}

static void check_ids(const char *what, size_t which, const TokenIds *got, const json_t *want)
{
    size_t n = json_array_size(want);
    for (size_t i = 0; i < MAX(n, got->len); i++) {
        long g = i < got->len ? (long)got->at[i] : -1;
        long w = i < n ? (long)json_integer_value(json_array_get(want, i)) : -1;
        if (g != w)
            fail_msg("%s, text %zu: %zu ids instead of %zu; id %zu is %ld instead of %ld", what, which, got->len, n, i,
                     g, w);
    }
}

static void check_text(const char *what, size_t which, const Buf *got, const json_t *want)
{
    const char *w = json_string_value(want);
    size_t n = json_string_length(want);
    if (got->len != n || (n && memcmp(got->data, w, n)))
        fail_msg("%s, text %zu: \"%.*s\" instead of \"%s\"", what, which, (int)got->len, got->data ? got->data : "", w);
}

/* Pieces of a stream: each must consist of whole characters. */
static Buf stream(const Tokenizer *t, const uint32_t *ids, size_t n, bool skip_special)
{
    Buf all = {0};
    TokStream *s = tok_stream_new(t, skip_special);
    for (size_t i = 0; i <= n; i++) {
        size_t before = all.len;
        if (i < n)
            tok_stream_push(s, ids[i], &all);
        else
            tok_stream_finish(s, &all);
        for (size_t at = before; at < all.len;) {
            uint32_t cp;
            size_t len = utf8_decode(all.data + at, all.len - at, &cp);
            assert_true(len > 1 || (uint8_t)all.data[at] < 0x80);
            at += len;
        }
    }
    tok_stream_free(s);
    return all;
}

static void check_decode(const Tokenizer *t, const char *what, size_t which, const TokenIds *ids, const json_t *want,
                         bool skip_special)
{
    Buf whole = {0}, pieces = stream(t, ids->at, ids->len, skip_special);
    tok_decode(t, ids->at, ids->len, skip_special, &whole);
    check_text(what, which, &whole, want);
    check_text(what, which, &pieces, want);
    buf_free(&whole);
    buf_free(&pieces);
}

static uint64_t fnv(const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    uint64_t h = 0xCBF29CE484222325ull;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001B3ull;
    return h;
}

/* ---- golden files -------------------------------------------------------------------------------------------- */

static void check_case(const Tokenizer *t, const char *name, size_t which, const char *hex, const json_t *want)
{
    const json_t *plain = json_object_get(want, "plain"), *ids = json_object_get(want, "ids");
    Buf text = {0};
    put_hex(&text, hex);
    TokenIds got = encode(t, &text, false, true), full = encode(t, &text, true, true);
    TokenIds user = encode(t, &text, false, false);
    check_ids(name, which, &got, ids);
    check_ids(name, which, &full, json_object_get(want, "full"));
    check_ids(name, which, &user, json_is_null(plain) ? ids : plain);
    check_decode(t, name, which, &got, json_object_get(want, "text"), false);
    check_decode(t, name, which, &got, json_object_get(want, "skip"), true);
    vec_free(&got);
    vec_free(&full);
    vec_free(&user);
    buf_free(&text);
}

static void check_long(const Tokenizer *t, const char *name, size_t which, const json_t *want)
{
    Buf text = {0}, unit = {0}, back = {0};
    char hash[32];
    put_hex(&unit, json_string_value(json_object_get(want, "unit")));
    for (json_int_t i = json_integer_value(json_object_get(want, "times")); i > 0; i--)
        buf_put(&text, unit.data, unit.len);
    double start = now_seconds();
    TokenIds ids = encode(t, &text, false, true);
    double seconds = now_seconds() - start;
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)fnv(ids.at, ids.len * sizeof *ids.at));
    if ((json_int_t)ids.len != json_integer_value(json_object_get(want, "count")))
        fail_msg("%s, long text %zu: %zu ids", name, which, ids.len);
    if (strcmp(hash, json_string_value(json_object_get(want, "fnv"))))
        fail_msg("%s, long text %zu: ids differ", name, which);
    tok_decode(t, ids.at, ids.len, false, &back);
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)fnv(back.data, back.len));
    if ((json_int_t)back.len != json_integer_value(json_object_get(want, "bytes")) ||
        strcmp(hash, json_string_value(json_object_get(want, "text_fnv"))))
        fail_msg("%s, long text %zu: decodes to %zu other bytes", name, which, back.len);
    if (seconds > 5) /* 0.05 s in a release build; quadratic time would take minutes */
        fail_msg("%s, long text %zu took %.1f s", name, which, seconds);
    vec_free(&ids);
    buf_free(&text);
    buf_free(&unit);
    buf_free(&back);
}

static void check_odd(const Tokenizer *t, const char *name, size_t which, const json_t *want)
{
    TokenIds ids = {0};
    const json_t *list = json_object_get(want, "ids");
    for (size_t i = 0; i < json_array_size(list); i++)
        vec_push(&ids, (uint32_t)json_integer_value(json_array_get(list, i)));
    check_decode(t, name, which, &ids, json_object_get(want, "text"), false);
    check_decode(t, name, which, &ids, json_object_get(want, "skip"), true);
    vec_free(&ids);
}

static void check_golden(const Tokenizer *t, const json_t *variant, const char *name)
{
    json_t *texts = load("texts");
    const json_t *hex = json_object_get(texts, "hex"), *cases = json_object_get(variant, "cases");
    const json_t *longs = json_object_get(variant, "long"), *odd = json_object_get(variant, "decode");
    assert_int_equal(json_array_size(cases), json_array_size(hex));
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_case(t, name, i, json_string_value(json_array_get(hex, i)), json_array_get(cases, i));
    for (size_t i = 0; i < json_array_size(longs); i++)
        check_long(t, name, i, json_array_get(longs, i));
    for (size_t i = 0; i < json_array_size(odd); i++)
        check_odd(t, name, i, json_array_get(odd, i));
    json_decref(texts);
}

static void check_variant(const char *name)
{
    json_t *variant = load(name);
    Tokenizer *t = variant_tokenizer(variant);
    check_golden(t, variant, name);
    tok_free(t);
    json_decref(variant);
}

static void agrees_with_the_package(void **state)
{
    (void)state;
    DIR *d = opendir(GOLDEN);
    assert_non_null(d);
    int variants = 0;
    for (struct dirent *e; (e = readdir(d));) {
        char name[256];
        if (!strstr(e->d_name, ".json") || sscanf(e->d_name, "%250[^.]", name) != 1)
            continue;
        if (strncmp(name, "base-", 5) && strcmp(name, "texts") && strcmp(name, "tinystories")) {
            check_variant(name);
            variants++;
        }
    }
    closedir(d);
    assert_true(variants >= 29);
}

/* ---- a real checkpoint --------------------------------------------------------------------------------------- */

static void tinystories_is_read(void **state)
{
    (void)state;
    Err err;
    if (!file_exists(TINYSTORIES "/tokenizer.json"))
        skip();
    Tokenizer *t = tok_load(TINYSTORIES, &err);
    if (!t)
        fail_msg("%s", err.text);
    json_t *golden = load("tinystories");
    check_golden(t, golden, "tinystories");
    json_decref(golden);
    assert_int_equal(tok_bos(t), 1);
    assert_int_equal(tok_eos(t), 2);
    assert_int_equal(tok_vocab_size(t), 512);
    assert_true(tok_is_special(t, 2) && !tok_is_special(t, 300));
    tok_free(t);
}

/* ---- small tokenizers written here --------------------------------------------------------------------------- */

#define MODEL "'model':{'type':'BPE','vocab':{'a':0,'b':1,'ab':2,'<s>':3,'</s>':4},'merges':['a b']}"

/* JSON with ' for ", so that it can be read here. */
static Buf unquoted(const char *s)
{
    Buf b = {0};
    buf_puts(&b, s);
    for (size_t i = 0; i < b.len; i++)
        if (b.data[i] == '\'')
            b.data[i] = '"';
    return b;
}

static Tokenizer *parse(const char *json, const char *config, Err *err)
{
    Buf js = unquoted(json), conf = unquoted(config ? config : "");
    Tokenizer *t = tok_parse(js.data, js.len, config ? conf.data : NULL, conf.len, err);
    buf_free(&js);
    buf_free(&conf);
    return t;
}

static void check_encoding(const char *json, const char *config, const char *text, const char *want)
{
    Err err;
    TokenIds ids = {0};
    Buf got = {0};
    Tokenizer *t = parse(json, config, &err);
    if (!t || !tok_encode(t, text, strlen(text), true, true, &ids, &err))
        fail_msg("%s", err.text);
    buf_puts(&got, "");
    for (size_t i = 0; i < ids.len; i++)
        buf_printf(&got, "%s%u", i ? " " : "", ids.at[i]);
    assert_string_equal(got.data, want);
    buf_free(&got);
    vec_free(&ids);
    tok_free(t);
}

static void config_rules(void **state)
{
    (void)state;
    static const char json[] = "{" MODEL "}";
    check_encoding(json, NULL, "aab", "0 2");
    check_encoding(json, "{'bos_token':'<s>','add_bos_token':true}", "ab", "3 2");
    check_encoding(json, "{'bos_token':{'content':'<s>'},'eos_token':'</s>','add_bos_token':true,"
                         "'add_eos_token':true}", "ab", "3 2 4");
    check_encoding(json, "{'bos_token':'<s>'}", "a<s>b", "0 3 1"); /* declared by the config: found in the text */
    check_encoding(json, "{'pad_token':'bb','added_tokens_decoder':{'9':{'content':'aa'}}}", "aabb", "5 6");
    static const char with_bos[] =
        "{" MODEL ",'post_processor':{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'<s>'}},"
        "{'Sequence':{'id':'A'}}],'special_tokens':{'<s>':{'ids':[3]}}}}";
    check_encoding(with_bos, NULL, "ab", "3 2");
    check_encoding(with_bos, "{'add_bos_token':false}", "ab", "2");
    check_encoding(with_bos, "{'add_bos_token':null}", "ab", "3 2");
}

static void merges_are_read_in_both_spellings(void **state)
{
    (void)state;
    check_encoding("{'model':{'merges':['#version: 0.2','b a','a b'],'vocab':{'a':0,'b':1,'ab':2,'ba':3}}}", NULL,
                   "aba", "0 3");
    check_encoding("{'model':{'merges':[['a','\\u0062'],['\\\\','\\ud83d\\ude00']],'vocab':{'a':0,'b':1,'ab':2,"
                   "'\\\\':3,'\xF0\x9F\x98\x80':4,'\\\\\xF0\x9F\x98\x80':5}}}", NULL, "ab\\\xF0\x9F\x98\x80", "2 5");
}

static void check_refused(const char *json, const char *config, const char *message)
{
    Err err;
    Tokenizer *t = parse(json, config, &err);
    if (t)
        fail_msg("accepted: %s", json);
    if (!strstr(err.text, message))
        fail_msg("\"%s\" does not say \"%s\"", err.text, message);
}

static void refusals_name_what_is_wrong(void **state)
{
    (void)state;
    check_refused("", NULL, "tokenizer.json");
    check_refused("[]", NULL, "object");
    check_refused("{}", NULL, "vocab");
    check_refused("{'model':{'type':'Unigram','vocab':[]}}", NULL, "\"Unigram\" is not supported (supported: BPE)");
    check_refused("{'model':{'dropout':0.1,'vocab':{},'merges':[]}}", NULL, "dropout");
    check_refused("{'model':{'end_of_word_suffix':'</w>','vocab':{},'merges':[]}}", NULL, "end_of_word_suffix");
    check_refused("{'model':{'vocab':{'a':0},'merges':['a b']}}", NULL, "entry 1: token \"b\" is not in the voc");
    check_refused("{'model':{'vocab':{'a':0},'merges':['a']}}", NULL, "one space");
    check_refused("{'model':{'vocab':{'a':0},'merges':[['a']]}}", NULL, "two strings");
    check_refused("{'model':{'vocab':{'a':0,'b':0},'merges':[]}}", NULL, "twice");
    check_refused("{'model':{'vocab':{'a':0,'a':1},'merges':[]}}", NULL, "twice");
    check_refused("{'model':{'vocab':{'a':4294967295},'merges':[]}}", NULL, "beyond the limit");
    check_refused("{'model':{'vocab':{'a':-1},'merges':[]}}", NULL, "no id");
    check_refused("{'model':{'vocab':{'\\ud800':1},'merges':[]}}", NULL, "bad escape");
    check_refused("{'model':{'vocab':{'\xFF':1},'merges':[]}}", NULL, "UTF-8");
    check_refused("{" MODEL ",'normalizer':{'type':'Precompiled'}}", NULL, "\"Precompiled\" is not supported");
    check_refused("{" MODEL ",'normalizer':{'type':'Replace','pattern':{'String':''},'content':''}}", NULL, "empty");
    check_refused("{" MODEL ",'pre_tokenizer':{'type':'UnicodeScripts'}}", NULL, "\"UnicodeScripts\" is not supported");
    check_refused("{" MODEL ",'post_processor':{'type':'BertProcessing'}}", NULL,
                  "\"BertProcessing\" is not supported");
    check_refused("{" MODEL ",'decoder':{'type':'WordPiece'}}", NULL, "\"WordPiece\" is not supported");
    check_refused("{" MODEL ",'added_tokens':[{}]}", NULL, "content");
    check_refused("{" MODEL ",'added_tokens':[{'content':'x','lstrip':1}]}", NULL, "lstrip");
    check_refused("{" MODEL "}", "{'add_bos_token':3}", "tokenizer_config.json");
    check_refused("{" MODEL "}", "{", "tokenizer_config.json");
}

static void check_pattern_refused(const char *pattern, const char *message)
{
    char json[1024];
    snprintf(json, sizeof json, "{" MODEL ",'pre_tokenizer':{'type':'Split','behavior':'Isolated','pattern':"
             "{'Regex':'%s'}}}", pattern);
    check_refused(json, NULL, message);
}

static void patterns_that_pcre_would_misread_are_refused(void **state)
{
    (void)state;
    check_pattern_refused("[a-z&&[^b]]", "&&");
    check_pattern_refused("[a[bc]]", "a class in a class");
    check_pattern_refused("[[:alpha:]]", "a class in a class");
    check_pattern_refused("a{1,3}+", "{n,m}+");
    check_pattern_refused("a{,3}", "{,n}");
    check_pattern_refused("\\\\h+", "this escape");
    check_pattern_refused("(a)\\\\1", "this escape");
    check_pattern_refused("a(?m)b", "this kind of group");
    check_pattern_refused("(?<n>a)", "this kind of group");
    check_pattern_refused("[a", "without end");
    check_pattern_refused("a)", "pattern a): ");
    check_pattern_refused("\\\\p{Klingon}", "pattern");
    check_pattern_refused("\\\\xE9", "single byte");
}

static void hostile_patterns_give_up(void **state)
{
    (void)state;
    Err err;
    TokenIds ids = {0};
    Tokenizer *t = parse("{" MODEL ",'pre_tokenizer':{'type':'Split','behavior':'Isolated','pattern':"
                         "{'Regex':'(a+)+$|(a|aa)+b'}}}", NULL, &err);
    assert_non_null(t);
    char text[4001];
    memset(text, 'a', 4000);
    text[4000] = 'c';
    double start = now_seconds();
    assert_false(tok_encode(t, text, sizeof text, false, false, &ids, &err));
    assert_non_null(strstr(err.text, "pattern"));
    assert_true(now_seconds() - start < 20);
    vec_free(&ids);
    tok_free(t);
}

static void unknown_characters_need_a_token(void **state)
{
    (void)state;
    Err err;
    TokenIds ids = {0};
    Tokenizer *t = parse("{'model':{'vocab':{'a':0},'merges':[],'unk_token':'<unk>'}}", NULL, &err);
    assert_non_null(t);
    assert_true(tok_encode(t, "aa", 2, true, true, &ids, &err));
    assert_false(tok_encode(t, "ab", 2, true, true, &ids, &err));
    assert_non_null(strstr(err.text, "U+0062"));
    vec_free(&ids);
    tok_free(t);
}

/* A run of fallback bytes is held until it ends; everything else comes at once. */
static void stream_holds_back_no_more_than_needed(void **state)
{
    (void)state;
    Err err;
    Tokenizer *t = parse("{'model':{'vocab':{'<0xC3>':0,'<0xA9>':1,'x':2,'_y':3},'merges':[],'byte_fallback':true},"
                         "'decoder':{'type':'Sequence','decoders':[{'type':'Replace','pattern':{'String':'_'},"
                         "'content':' '},{'type':'ByteFallback'},{'type':'Fuse'},{'type':'Strip','content':' ',"
                         "'start':1,'stop':0}]}}", NULL, &err);
    if (!t)
        fail_msg("%s", err.text);
    static const struct {
        uint32_t id;
        const char *so_far;
    } steps[] = {
        {3, "y"}, {2, "yx"}, {3, "yx y"}, {0, "yx y"}, {1, "yx y"}, {2, "yx y\xC3\xA9x"}, {0, "yx y\xC3\xA9x"},
    };
    TokStream *s = tok_stream_new(t, true);
    Buf out = {0};
    for (size_t i = 0; i < COUNT(steps); i++) {
        tok_stream_push(s, steps[i].id, &out);
        assert_string_equal(out.data, steps[i].so_far);
    }
    tok_stream_finish(s, &out);
    assert_string_equal(out.data, "yx y\xC3\xA9x\xEF\xBF\xBD");
    tok_stream_free(s);
    buf_free(&out);
    tok_free(t);
}

/* One token's bytes: those of half characters, and spaces that a decoder cuts at the beginning of a text. */
static void bytes_of_single_tokens(void **state)
{
    (void)state;
    static const char fallback[] =
        "{'model':{'vocab':{'<0xC3>':0,'<0xA9>':1,'x':2,'_y_':3},'merges':[],'byte_fallback':true},"
        "'decoder':{'type':'Sequence','decoders':[{'type':'Replace','pattern':{'String':'_'},"
        "'content':' '},{'type':'ByteFallback'},{'type':'Fuse'},{'type':'Strip','content':' ',"
        "'start':1,'stop':0}]}}";
    static const char byte_level[] =
        "{'model':{'vocab':{'\\u00c3':0,'\\u00a9':1,'\\u0120x':2,'y':3},'merges':[]},"
        "'decoder':{'type':'ByteLevel'},'added_tokens':[{'id':4,'content':'<s> \\u00e9','special':true}]}";
    static const char metaspace[] =
        "{'model':{'vocab':{'\\u2581x':0,'y\\u2581':1},'merges':[]},'decoder':{'type':'Metaspace'}}";
    static const struct { const char *json; uint32_t id; const char *bytes; } cases[] = {
        {fallback, 0, "\xC3"}, {fallback, 1, "\xA9"}, {fallback, 2, "x"}, {fallback, 3, " y "}, {fallback, 9, ""},
        {byte_level, 0, "\xC3"}, {byte_level, 1, "\xA9"}, {byte_level, 2, " x"}, {byte_level, 3, "y"},
        {byte_level, 4, "<s> \xC3\xA9"}, {metaspace, 0, " x"}, {metaspace, 1, "y "},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        Err err;
        Buf out = {0};
        Tokenizer *t = parse(cases[i].json, NULL, &err);
        if (!t)
            fail_msg("%s", err.text);
        buf_puts(&out, "");
        tok_bytes(t, cases[i].id, &out);
        assert_string_equal(out.data, cases[i].bytes);
        buf_free(&out);
        tok_free(t);
    }
}

/* ---- threads ------------------------------------------------------------------------------------------------- */

static void *encode_often(void *arg)
{
    Err err;
    const Tokenizer *t = arg;
    static const char text[] = "First Citizen: <|im_start|> solo 123 \xE4\xBD\xA0\xE5\xA5\xBD";
    TokenIds first = {0};
    tok_encode(t, text, strlen(text), true, true, &first, &err);
    for (int i = 0; i < 200; i++) {
        TokenIds ids = {0};
        Buf out = {0};
        bool ok = tok_encode(t, text, strlen(text), true, true, &ids, &err);
        tok_decode(t, ids.at, ids.len, false, &out);
        ok = ok && ids.len == first.len && !memcmp(ids.at, first.at, ids.len * sizeof *ids.at);
        vec_free(&ids);
        buf_free(&out);
        if (!ok)
            return NULL;
    }
    vec_free(&first);
    return arg;
}

static void threads_share_a_tokenizer(void **state)
{
    (void)state;
    json_t *variant = load("llama3");
    Tokenizer *t = variant_tokenizer(variant);
    pthread_t threads[4];
    for (size_t i = 0; i < COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, t), 0);
    for (size_t i = 0; i < COUNT(threads); i++) {
        void *ok;
        pthread_join(threads[i], &ok);
        assert_non_null(ok);
    }
    tok_free(t);
    json_decref(variant);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_package),
        cmocka_unit_test(tinystories_is_read),
        cmocka_unit_test(config_rules),
        cmocka_unit_test(merges_are_read_in_both_spellings),
        cmocka_unit_test(refusals_name_what_is_wrong),
        cmocka_unit_test(patterns_that_pcre_would_misread_are_refused),
        cmocka_unit_test(hostile_patterns_give_up),
        cmocka_unit_test(unknown_characters_need_a_token),
        cmocka_unit_test(stream_holds_back_no_more_than_needed),
        cmocka_unit_test(bytes_of_single_tokens),
        cmocka_unit_test(threads_share_a_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
