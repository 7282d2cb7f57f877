/* checkpoint.c - implementation of checkpoint.h: the files of a folder, what is wrong with them, and their tensors. */
#include "checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define MAX_CONFIG ((size_t)16 << 20) /* bytes */
#define MAX_INDEX ((size_t)100 << 20)
#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"

typedef struct Shard {
    const char *name; /* of the file in the folder */
    FileMap map;
} Shard;

struct Checkpoint {
    Arena *arena;
    const char *dir;
    const char *config_path;
    json_t *config, *generation_config;
    VEC(Shard) shards;
    VEC(Tensor) tensors; /* sorted by name once opened */
};

static const char *path_in(const Checkpoint *c, const char *name)
{
    return arena_printf(c->arena, "%s/%s", c->dir, name);
}

static bool has_suffix(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && !strcmp(s + n - m, suffix);
}

/* ---- the folder ----------------------------------------------------------------------------------------------- */

/* Why a file of this name, offered as weights, is not read; NULL when it may be. */
static const char *refusal(const char *name)
{
    static const struct {
        const char *suffix, *why;
    } foreign[] = {
        {".gguf", "GGUF is not supported: use the safetensors checkpoint it was made from"},
        {".bin", "PyTorch (pickle) files can run code and are not read: only safetensors is supported"},
        {".pt", "PyTorch (pickle) files can run code and are not read: only safetensors is supported"},
        {".pth", "PyTorch (pickle) files can run code and are not read: only safetensors is supported"},
        {".ckpt", "PyTorch (pickle) files can run code and are not read: only safetensors is supported"},
        {".h5", "Keras files are not read: only safetensors is supported"},
        {".msgpack", "Flax files are not read: only safetensors is supported"},
        {".onnx", "ONNX files are not read: only safetensors is supported"},
    };
    for (size_t i = 0; i < COUNT(foreign); i++)
        if (has_suffix(name, foreign[i].suffix))
            return foreign[i].why;
    return NULL;
}

/* Adds to a message about missing files what the folder has instead: other safetensors, else foreign weights. */
static bool explain_missing(const Checkpoint *c, Err *err)
{
    DIR *d = opendir(c->dir);
    if (!d)
        return false;
    char other[256] = "", foreign[256] = "";
    for (struct dirent *e; (e = readdir(d));) {
        if (!*foreign && refusal(e->d_name) && strcmp(e->d_name, "training_args.bin"))
            memcpy(foreign, e->d_name, strlen(e->d_name) + 1);
        if (!*other && has_suffix(e->d_name, ".safetensors"))
            memcpy(other, e->d_name, strlen(e->d_name) + 1);
    }
    closedir(d);
    if (*other)
        return err_set(err, "%s; found \"%s\": is the download complete?", err->text, quoted(other).text);
    if (*foreign)
        return err_set(err, "%s; found \"%s\": %s", err->text, quoted(foreign).text, refusal(foreign));
    return false;
}

/* models--ORG--NAME of the Hugging Face cache: refs/main holds the name of a folder in snapshots/. */
static void enter_snapshot(Checkpoint *c)
{
    Buf ref = {0};
    if (!file_exists(path_in(c, "config.json")) && file_read(&ref, path_in(c, "refs/main"), 256, NULL)) {
        size_t n = strspn(ref.data, "0123456789abcdefABCDEF");
        if (n && strspn(ref.data + n, "\r\n") == ref.len - n)
            c->dir = arena_printf(c->arena, "%s/snapshots/%.*s", c->dir, (int)n, ref.data);
    }
    buf_free(&ref);
}

static bool check_dir(const char *dir, Err *err)
{
    struct stat st;
    if (stat(dir, &st) < 0)
        return err_set(err, "%s: %s; give the folder of a downloaded Hugging Face checkpoint, which has config.json",
                       dir, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return true;
    if (refusal(dir))
        return err_set(err, "%s: %s", dir, refusal(dir));
    return err_set(err, "%s: not a folder; give the folder of a Hugging Face checkpoint, which has config.json", dir);
}

/* ---- configuration -------------------------------------------------------------------------------------------- */

/* *out stays NULL when there is no such file. */
static bool read_optional(const Checkpoint *c, const char *name, json_t **out, Err *err)
{
    const char *path = path_in(c, name);
    return !file_exists(path) || (*out = json_read(path, MAX_CONFIG, err)) != NULL;
}

static bool merge_quantize_config(Checkpoint *c, Err *err)
{
    json_t *q = json_object_get(c->config, "quantization_config");
    if (q && !json_is_null(q))
        return true;
    q = NULL;
    if (!read_optional(c, "quantize_config.json", &q, err))
        return false;
    if (!q)
        return true;
    if (!json_object_get(q, "quant_method"))
        json_object_set_new(q, "quant_method", json_string("gptq"));
    json_object_set_new(c->config, "quantization_config", q);
    return true;
}

static bool read_config(Checkpoint *c, Err *err)
{
    c->config_path = path_in(c, "config.json");
    if (!file_exists(c->config_path)) {
        err_set(err, "%s: there is no config.json, so this is not a Hugging Face checkpoint", c->dir);
        return explain_missing(c, err);
    }
    c->config = json_read(c->config_path, MAX_CONFIG, err);
    return c->config && merge_quantize_config(c, err) &&
           read_optional(c, "generation_config.json", &c->generation_config, err);
}

/* ---- weights -------------------------------------------------------------------------------------------------- */

static bool add_shard(Checkpoint *c, const char *name, Err *err)
{
    const char *path = path_in(c, name);
    Shard s = {.name = arena_strdup(c->arena, name)};
    if (!file_map(&s.map, path, err))
        return false;
    vec_push(&c->shards, s);
    Tensor *t;
    size_t count;
    if (!safetensors_read(c->arena, s.map.data, s.map.size, &t, &count, err))
        return err_prefix(err, "%s", path);
    for (size_t i = 0; i < count; i++) {
        t[i].file = s.name;
        vec_push(&c->tensors, t[i]);
    }
    return true;
}

/* A shard is a plain name: nothing in an index leads out of the folder. */
static bool check_shard_name(const char *name, Err *err)
{
    if (strchr(name, '/') || strchr(name, '\\') || strstr(name, ".."))
        return err_set(err, "file name \"%s\" leads out of the folder", quoted(name).text);
    if (refusal(name))
        return err_set(err, "file \"%s\": %s", quoted(name).text, refusal(name));
    return has_suffix(name, ".safetensors") ||
           err_set(err, "file name \"%s\" does not end in .safetensors", quoted(name).text);
}

/* Collects the distinct file names of a weight map, in the order in which they first appear. */
static bool list_shards(Checkpoint *c, const json_t *weight_map, Map *seen, Err *err)
{
    const char *tensor;
    json_t *file;
    json_object_foreach((json_t *)weight_map, tensor, file) {
        if (!json_is_string(file))
            return err_set(err, "the file of tensor \"%s\" is not a string", quoted(tensor).text);
        const char *name = json_string_value(file);
        if (map_get(seen, name, strlen(name)))
            continue;
        if (!check_shard_name(name, err))
            return false;
        if (!file_exists(path_in(c, name)))
            return err_set(err, "file \"%s\" is missing: is the download complete?", quoted(name).text);
        map_put(seen, name, strlen(name), file);
    }
    return true;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const Tensor *)a)->name, ((const Tensor *)b)->name);
}

static bool sort_tensors(Checkpoint *c, Err *err)
{
    if (!c->tensors.len)
        return true;
    qsort(c->tensors.at, c->tensors.len, sizeof *c->tensors.at, by_name);
    for (size_t i = 1; i < c->tensors.len; i++) {
        const Tensor *a = &c->tensors.at[i - 1], *b = &c->tensors.at[i];
        if (!strcmp(a->name, b->name))
            return err_set(err, "%s: tensor \"%s\" is in both \"%s\" and \"%s\"", c->dir, quoted(a->name).text,
                           quoted(a->file).text, quoted(b->file).text);
    }
    return true;
}

static bool check_weight_map(const Checkpoint *c, const json_t *weight_map, Err *err)
{
    const char *name;
    json_t *file;
    json_object_foreach((json_t *)weight_map, name, file) {
        const Tensor *t = ckpt_find(c, name);
        if (!t || strcmp(t->file, json_string_value(file)))
            return err_set(err, "tensor \"%s\" is not in \"%s\"", quoted(name).text,
                           quoted(json_string_value(file)).text);
    }
    return true;
}

static bool read_indexed(Checkpoint *c, const json_t *index, const char *path, Err *err)
{
    const json_t *weight_map = json_object_get(index, "weight_map");
    if (!json_is_object(weight_map))
        return err_set(err, "%s: there is no \"weight_map\" object", path);
    Map *seen = map_new();
    bool ok = list_shards(c, weight_map, seen, err) || err_prefix(err, "%s", path);
    const char *tensor;
    json_t *file;
    json_object_foreach((json_t *)weight_map, tensor, file) {
        const char *name = json_string_value(file);
        if (ok && map_get(seen, name, strlen(name)) == file) /* its first mention */
            ok = add_shard(c, name, err);
    }
    map_free(seen);
    return ok && sort_tensors(c, err) && (check_weight_map(c, weight_map, err) || err_prefix(err, "%s", path));
}

static bool read_weights(Checkpoint *c, Err *err)
{
    if (file_exists(path_in(c, SINGLE)))
        return add_shard(c, SINGLE, err) && sort_tensors(c, err);
    const char *path = path_in(c, INDEX);
    if (!file_exists(path)) {
        err_set(err, "%s: there are no weights: neither " SINGLE " nor " INDEX, c->dir);
        return explain_missing(c, err);
    }
    json_t *index = json_read(path, MAX_INDEX, err);
    bool ok = index && read_indexed(c, index, path, err);
    json_decref(index);
    return ok;
}

/* ---- opening and closing -------------------------------------------------------------------------------------- */

static Checkpoint *new_checkpoint(const char *dir)
{
    Checkpoint *c = xcalloc(1, sizeof *c);
    c->arena = arena_new();
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    c->dir = arena_strndup(c->arena, dir, n);
    return c;
}

static Checkpoint *finish(Checkpoint *c, bool ok)
{
    if (ok)
        return c;
    ckpt_close(c);
    return NULL;
}

Checkpoint *ckpt_open(const char *dir, Err *err)
{
    Err unwanted;
    err = err ? err : &unwanted;
    if (!check_dir(dir, err))
        return NULL;
    Checkpoint *c = new_checkpoint(dir);
    enter_snapshot(c);
    return finish(c, read_config(c, err) && read_weights(c, err));
}

Checkpoint *ckpt_open_config(const char *dir_or_file, Err *err)
{
    Err unwanted;
    err = err ? err : &unwanted;
    if (!has_suffix(dir_or_file, ".json")) {
        if (!check_dir(dir_or_file, err))
            return NULL;
        Checkpoint *c = new_checkpoint(dir_or_file);
        enter_snapshot(c);
        return finish(c, read_config(c, err));
    }
    const char *slash = strrchr(dir_or_file, '/');
    Checkpoint *c = new_checkpoint(".");
    if (slash)
        c->dir = slash == dir_or_file ? "/" : arena_strndup(c->arena, dir_or_file, (size_t)(slash - dir_or_file));
    c->config_path = arena_strdup(c->arena, dir_or_file);
    c->config = json_read(c->config_path, MAX_CONFIG, err);
    return finish(c, c->config != NULL);
}

void ckpt_close(Checkpoint *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->shards.len; i++)
        file_unmap(&c->shards.at[i].map);
    vec_free(&c->shards);
    vec_free(&c->tensors);
    json_decref(c->config);
    json_decref(c->generation_config);
    arena_free(c->arena);
    free(c);
}

/* ---- access --------------------------------------------------------------------------------------------------- */

const char *ckpt_dir(const Checkpoint *c)
{
    return c->dir;
}

json_t *ckpt_config(const Checkpoint *c)
{
    return c->config;
}

json_t *ckpt_generation_config(const Checkpoint *c)
{
    return c->generation_config;
}

bool ckpt_config_int(const Checkpoint *c, const char *key, int64_t lo, int64_t hi, int64_t dflt, int64_t *out,
                     Err *err)
{
    return json_get_int(c->config, key, lo, hi, dflt, out, err) || err_prefix(err, "%s", c->config_path);
}

static DType first_float(const Checkpoint *c)
{
    for (size_t i = 0; i < c->tensors.len; i++)
        if (dtype_is_float(c->tensors.at[i].type))
            return c->tensors.at[i].type;
    return DT_F32;
}

bool ckpt_dtype(const Checkpoint *c, DType *type, Err *err)
{
    static const struct {
        const char *name;
        DType type;
    } known[] = {{"float32", DT_F32}, {"float16", DT_F16}, {"bfloat16", DT_BF16}, {"float64", DT_F64}};
    const char *name, *key = json_object_get(c->config, "dtype") ? "dtype" : "torch_dtype";
    if (!json_get_str(c->config, key, NULL, &name, err))
        return err_prefix(err, "%s", c->config_path);
    if (!name) {
        *type = first_float(c);
        return true;
    }
    for (size_t i = 0; i < COUNT(known); i++)
        if (!strcmp(name, known[i].name)) {
            *type = known[i].type;
            return true;
        }
    return err_set(err, "%s: \"%s\" is \"%s\"; supported are float32, float16, bfloat16 and float64", c->config_path,
                   key, quoted(name).text);
}

size_t ckpt_count(const Checkpoint *c)
{
    return c->tensors.len;
}

const Tensor *ckpt_at(const Checkpoint *c, size_t i)
{
    return &c->tensors.at[i];
}

const Tensor *ckpt_find(const Checkpoint *c, const char *name)
{
    Tensor key = {.name = name};
    return c->tensors.len ? bsearch(&key, c->tensors.at, c->tensors.len, sizeof key, by_name) : NULL;
}

bool ckpt_is_group_index(const Tensor *t)
{
    size_t n = strlen(t->name);
    return t->type == DT_S32 && n >= 5 && !strcmp(t->name + n - 5, "g_idx");
}

uint64_t ckpt_fingerprint(const Checkpoint *c)
{
    char *config = json_dumps(c->config, JSON_COMPACT | JSON_SORT_KEYS);
    if (!config)
        die("out of memory");
    uint64_t h = hash_str(HASH_SEED, config);
    free(config);
    for (size_t i = 0; i < c->tensors.len; i++) {
        const Tensor *t = &c->tensors.at[i];
        h = hash_str(h, t->name);
        h = hash_str(h, dtype_name(t->type));
        h = hash_bytes(h, &t->rank, sizeof t->rank);
        h = hash_bytes(h, t->shape, sizeof *t->shape * (size_t)t->rank);
        if (ckpt_is_group_index(t))
            h = hash_bytes(h, t->data, t->bytes);
    }
    return h;
}

/* Not MADV_SEQUENTIAL: it lets the kernel drop pages behind the reader, and the host computes from these very pages. */
void ckpt_prefetch(const Checkpoint *c)
{
    for (size_t i = 0; i < c->shards.len; i++)
        if (c->shards.at[i].map.size)
            madvise((void *)c->shards.at[i].map.data, c->shards.at[i].map.size, MADV_WILLNEED);
}
