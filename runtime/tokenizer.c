/* tokenizer.c - puts the parts of a tokenizer together: reading its files, the way of a text through encoding,
 * decoding. See tokenizer.h; the parts are in tok_*.c, and tok.h is their table of contents. */
#include "tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "tok.h"

#define MAX_TEXT ((size_t)1 << 30) /* bytes of one text */
#define MAX_CONFIG ((size_t)64 << 20)

struct Tokenizer {
    Bpe *bpe;
    Added *added;
    Normalizer *normalizer;
    Pretokenizer *pretokenizer;
    Decoder *decoder;
    VEC(uint32_t) template_ids; /* those before the text, then those behind it */
    size_t template_before;
    int64_t bos, eos;
};

/* ---- post-processor ------------------------------------------------------------------------------------------ */

static bool put_template_ids(Tokenizer *t, const json_t *tokens, const char *name, Err *err)
{
    const json_t *ids = json_object_get(json_object_get(tokens, name), "ids");
    if (!json_is_array(ids))
        return err_set(err, "post_processor: special_tokens has no \"%s\"", name);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > TOK_MAX_ID)
            return err_set(err, "post_processor: bad id for \"%s\"", name);
        vec_push(&t->template_ids, (uint32_t)json_integer_value(id));
    }
    return true;
}

/* The template for one text; the one for pairs is of no use here. */
static bool read_template(Tokenizer *t, const json_t *json, Err *err)
{
    const json_t *single = json_object_get(json, "single");
    size_t texts = 0;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i), *special = json_object_get(piece, "SpecialToken");
        const char *id;
        if (!json_get_str(special ? special : json_object_get(piece, "Sequence"), "id", "", &id, err))
            return err_prefix(err, "post_processor");
        if (special) {
            if (!put_template_ids(t, json_object_get(json, "special_tokens"), id, err))
                return false;
        } else if (!strcmp(id, "A")) {
            texts++;
            t->template_before = t->template_ids.len;
        }
    }
    return texts == 1 || err_set(err, "post_processor: \"single\" must have the sequence A once");
}

static bool read_post_processor(Tokenizer *t, const json_t *json, int depth, Err *err)
{
    const char *type;
    if (!json || json_is_null(json))
        return true;
    if (!json_get_str(json, "type", "", &type, err))
        return err_prefix(err, "post_processor");
    if (!strcmp(type, "ByteLevel"))
        return true; /* it moves offsets only */
    if (!strcmp(type, "TemplateProcessing"))
        return t->template_ids.len ? err_set(err, "post_processor: more than one TemplateProcessing is not supported")
                                   : read_template(t, json, err);
    if (strcmp(type, "Sequence"))
        return err_set(err, "post_processor: type \"%s\" is not supported (supported: TemplateProcessing ByteLevel "
                            "Sequence)", type);
    if (depth == TOK_MAX_DEPTH)
        return err_set(err, "post_processor: Sequences nested more than %d deep", TOK_MAX_DEPTH);
    const json_t *list = json_object_get(json, "processors");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!read_post_processor(t, json_array_get(list, i), depth + 1, err))
            return false;
    return true;
}

/* ---- tokenizer_config.json ----------------------------------------------------------------------------------- */

/* A token named by the config: its text, or an object with its flags. It is added when nothing has declared it. */
static bool declare(Tokenizer *t, const json_t *token, Err *err)
{
    const json_t *content = json_is_string(token) ? token : json_object_get(token, "content");
    if (!json_is_string(content) ||
        added_by_content(t->added, json_string_value(content), json_string_length(content)))
        return true;
    return added_put(t->added, token, bpe_vocab(t->bpe), t->normalizer, err);
}

static bool declare_all(Tokenizer *t, const json_t *config, Err *err)
{
    static const char *const names[] = {"bos_token", "eos_token",  "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token"};
    static const char *const lists[] = {"additional_special_tokens", "extra_special_tokens"};
    const char *key;
    json_t *value;
    added_batch(t->added, bpe_vocab(t->bpe));
    json_object_foreach(json_object_get(config, "added_tokens_decoder"), key, value)
        if (!added_put(t->added, value, bpe_vocab(t->bpe), t->normalizer, err))
            return false;
    for (size_t i = 0; i < COUNT(names); i++)
        if (!declare(t, json_object_get(config, names[i]), err))
            return false;
    for (size_t i = 0; i < COUNT(lists); i++) {
        const json_t *list = json_object_get(config, lists[i]);
        for (size_t k = 0; k < json_array_size(list); k++)
            if (!declare(t, json_array_get(list, k), err))
                return false;
    }
    return true;
}

static int64_t named_id(const Tokenizer *t, const json_t *config, const char *key)
{
    const json_t *token = json_object_get(config, key);
    const json_t *content = json_is_string(token) ? token : json_object_get(token, "content");
    return json_is_string(content) ? tok_id(t, json_string_value(content), json_string_length(content)) : -1;
}

/* add_bos_token and add_eos_token, when the config has either, replace the post-processor, as in transformers 5. */
static bool apply_config(Tokenizer *t, const json_t *config, Err *err)
{
    bool bos, eos;
    if (!declare_all(t, config, err) || !json_get_bool(config, "add_bos_token", false, &bos, err) ||
        !json_get_bool(config, "add_eos_token", false, &eos, err))
        return false;
    t->bos = named_id(t, config, "bos_token");
    t->eos = named_id(t, config, "eos_token");
    if (!json_is_boolean(json_object_get(config, "add_bos_token")) &&
        !json_is_boolean(json_object_get(config, "add_eos_token")))
        return true;
    t->template_ids.len = 0;
    if (bos && t->bos >= 0)
        vec_push(&t->template_ids, (uint32_t)t->bos);
    t->template_before = t->template_ids.len;
    if (eos && t->eos >= 0)
        vec_push(&t->template_ids, (uint32_t)t->eos);
    return true;
}

/* ---- loading ------------------------------------------------------------------------------------------------- */

static bool read_added(Tokenizer *t, const json_t *list, Err *err)
{
    added_batch(t->added, bpe_vocab(t->bpe));
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!added_put(t->added, json_array_get(list, i), bpe_vocab(t->bpe), t->normalizer, err))
            return false;
    return true;
}

static bool read_parts(Tokenizer *t, const json_t *root, const ModelText *text, const json_t *config, Err *err)
{
    t->bpe = bpe_parse(json_object_get(root, "model"), text, err);
    if (!t->bpe || !normalizer_parse(&t->normalizer, json_object_get(root, "normalizer"), err) ||
        !pretokenizer_parse(&t->pretokenizer, json_object_get(root, "pre_tokenizer"), err) ||
        !decoder_parse(&t->decoder, json_object_get(root, "decoder"), err) ||
        !read_post_processor(t, json_object_get(root, "post_processor"), 0, err) ||
        !read_added(t, json_object_get(root, "added_tokens"), err))
        return false;
    bool ok = !config || apply_config(t, config, err) || err_prefix(err, "tokenizer_config.json");
    added_finish(t->added);
    return ok;
}

Tokenizer *tok_parse(const char *json, size_t len, const char *config, size_t config_len, Err *err)
{
    Err local;
    err = err ? err : &local;
    ModelText text;
    model_cut(&text, json, len);
    json_t *root = json_parse(text.rest.data ? text.rest.data : "", text.rest.len, "tokenizer.json", err), *conf = NULL;
    bool ok = root && (!config || (conf = json_parse(config, config_len, "tokenizer_config.json", err)));
    Tokenizer *t = xcalloc(1, sizeof *t);
    t->bos = t->eos = -1;
    t->added = added_new();
    if (ok && !read_parts(t, root, &text, conf, err))
        ok = err_prefix(err, "tokenizer.json");
    json_decref(root);
    json_decref(conf);
    buf_free(&text.rest);
    if (ok)
        return t;
    tok_free(t);
    return NULL;
}

Tokenizer *tok_load(const char *model_dir, Err *err)
{
    char path[4096], config_path[4096];
    snprintf(path, sizeof path, "%s/tokenizer.json", model_dir);
    snprintf(config_path, sizeof config_path, "%s/tokenizer_config.json", model_dir);
    FileMap m;
    Buf config = {0};
    if (!file_exists(path)) {
        err_set(err, "%s: missing; it is the only tokenizer file supported (not tokenizer.model, vocab.json)", path);
        return NULL;
    }
    if (!file_map(&m, path, err))
        return NULL;
    Tokenizer *t = NULL;
    if (!file_exists(config_path) || file_read(&config, config_path, MAX_CONFIG, err)) {
        t = tok_parse((const char *)m.data, m.size, config.data, config.len, err);
        if (!t)
            err_prefix(err, "%s", model_dir);
    }
    buf_free(&config);
    file_unmap(&m);
    return t;
}

void tok_free(Tokenizer *t)
{
    if (!t)
        return;
    bpe_free(t->bpe);
    added_free(t->added);
    normalizer_free(t->normalizer);
    pretokenizer_free(t->pretokenizer);
    decoder_free(t->decoder);
    vec_free(&t->template_ids);
    free(t);
}

/* ---- encoding ------------------------------------------------------------------------------------------------ */

/* Normalizes each piece that is not an added token yet into a fresh text. */
static bool normalize(const Normalizer *nz, Pieces *pieces, Err *err)
{
    Buf out = {0}, text = {0};
    bool ok = true;
    if (!nz)
        return true;
    for (size_t i = 0; i < pieces->list.len && ok; i++) {
        Piece *p = &pieces->list.at[i];
        if (p->id != TOK_NONE)
            continue;
        text.len = 0;
        buf_put(&text, pieces->text.data + p->at, p->len);
        ok = normalizer_apply(nz, &text, &p->first, err);
        p->at = out.len;
        p->len = text.len;
        buf_put(&out, text.data, text.len);
    }
    buf_free(&text);
    buf_free(&pieces->text);
    pieces->text = out;
    return ok;
}

/* Normalizing may leave nothing of a piece. */
static void drop_empty(Pieces *pieces)
{
    size_t n = 0;
    for (size_t i = 0; i < pieces->list.len; i++)
        if (pieces->list.at[i].len)
            pieces->list.at[n++] = pieces->list.at[i];
    pieces->list.len = n;
}

static bool encode_text(const Tokenizer *t, const char *text, size_t len, bool parse_special, TokenIds *out, Err *err)
{
    Pieces pieces = {0};
    tok_sanitize(&pieces.text, text, len, false);
    if (pieces.text.len)
        vec_push(&pieces.list, (Piece){0, pieces.text.len, TOK_NONE, true});
    added_split(t->added, false, parse_special, &pieces);
    bool ok = normalize(t->normalizer, &pieces, err);
    drop_empty(&pieces);
    added_split(t->added, true, parse_special, &pieces);
    ok = ok && pretokenizer_apply(t->pretokenizer, &pieces, err) && bpe_encode(t->bpe, &pieces, out, err);
    buf_free(&pieces.text);
    vec_free(&pieces.list);
    return ok;
}

bool tok_encode(const Tokenizer *t, const char *text, size_t len, bool add_special, bool parse_special, TokenIds *out,
                Err *err)
{
    Err local;
    size_t before = add_special ? t->template_before : 0, all = add_special ? t->template_ids.len : 0;
    if (len > MAX_TEXT)
        return err_set(err, "a text of %zu bytes is longer than the limit of %zu", len, MAX_TEXT);
    for (size_t i = 0; i < before; i++)
        vec_push(out, t->template_ids.at[i]);
    if (!encode_text(t, text, len, parse_special, out, err ? err : &local))
        return false;
    for (size_t i = before; i < all; i++)
        vec_push(out, t->template_ids.at[i]);
    return true;
}

/* ---- decoding ------------------------------------------------------------------------------------------------ */

struct TokStream {
    const Tokenizer *tokenizer;
    DecoderState *decoder;
    bool skip_special;
};

TokStream *tok_stream_new(const Tokenizer *t, bool skip_special)
{
    TokStream *s = xmalloc(sizeof *s);
    *s = (TokStream){t, decoder_start(t->decoder), skip_special};
    return s;
}

void tok_stream_push(TokStream *s, uint32_t id, Buf *out)
{
    const AddedToken *added = added_by_id(s->tokenizer->added, id);
    if (added) {
        if (!added->skipped || !s->skip_special)
            decoder_push(s->decoder, added->normalized.data, added->normalized.len, out);
        return;
    }
    Span token = vocab_text(bpe_vocab(s->tokenizer->bpe), id);
    if (token.at)
        decoder_push(s->decoder, token.at, token.len, out);
}

void tok_stream_finish(TokStream *s, Buf *out)
{
    decoder_finish(s->decoder, out);
}

void tok_stream_free(TokStream *s)
{
    if (!s)
        return;
    decoder_stop(s->decoder);
    free(s);
}

void tok_decode(const Tokenizer *t, const uint32_t *ids, size_t n, bool skip_special, Buf *out)
{
    TokStream *s = tok_stream_new(t, skip_special);
    for (size_t i = 0; i < n; i++)
        tok_stream_push(s, ids[i], out);
    tok_stream_finish(s, out);
    tok_stream_free(s);
}

void tok_bytes(const Tokenizer *t, uint32_t id, Buf *out)
{
    const AddedToken *added = added_by_id(t->added, id);
    Span token = added ? (Span){added->normalized.data, added->normalized.len} : vocab_text(bpe_vocab(t->bpe), id);
    if (token.at)
        decoder_bytes(t->decoder, token.at, token.len, out);
}

/* ---- the vocabulary ------------------------------------------------------------------------------------------ */

size_t tok_vocab_size(const Tokenizer *t)
{
    return MAX(vocab_limit(bpe_vocab(t->bpe)), added_limit(t->added));
}

int64_t tok_id(const Tokenizer *t, const char *token, size_t len)
{
    const AddedToken *added = added_by_content(t->added, token, len);
    uint32_t id = added ? added->id : vocab_find(bpe_vocab(t->bpe), token, len);
    return id == TOK_NONE ? -1 : (int64_t)id;
}

const char *tok_text(const Tokenizer *t, uint32_t id, size_t *len)
{
    const AddedToken *added = added_by_id(t->added, id);
    Span s = added ? (Span){added->content.data, added->content.len} : vocab_text(bpe_vocab(t->bpe), id);
    *len = s.len;
    return s.at;
}

bool tok_is_special(const Tokenizer *t, uint32_t id)
{
    const AddedToken *added = added_by_id(t->added, id);
    return added && added->special;
}

int64_t tok_bos(const Tokenizer *t)
{
    return t->bos;
}

int64_t tok_eos(const Tokenizer *t)
{
    return t->eos;
}
