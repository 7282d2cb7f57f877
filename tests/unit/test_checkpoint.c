/* Tests of compiler/checkpoint.c: folders as Hugging Face writes them, and folders with something wrong. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint.h"

/* ---- folders to test with --------------------------------------------------------------------------------------- */

#define MAX_FILES 6

/* A file to write: as text, or, when `data` is not negative, as safetensors with this header and that many bytes. */
typedef struct File {
    const char *name, *text;
    int data;
} File;
#define TEXT -1

static char root[64];

static const char *path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", root, name);
    return path;
}

static void write_file(const File *f)
{
    Buf b = {0};
    Err err = {0};
    if (f->data >= 0)
        for (size_t i = 0, n = strlen(f->text); i < 8; i++)
            buf_putc(&b, (char)(n >> 8 * i));
    buf_puts(&b, f->text);
    for (int i = 0; i < f->data; i++)
        buf_putc(&b, (char)i);
    if (!file_write_atomic(path_of(f->name), b.data, b.len, &err))
        fail_msg("%s", err.text);
    buf_free(&b);
}

static void write_files(const File *files)
{
    for (int i = 0; i < MAX_FILES && files[i].name; i++)
        write_file(&files[i]);
}

static int make_root(void **state)
{
    (void)state;
    strcpy(root, "/tmp/blade_checkpoint_XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

static Checkpoint *open_root(void)
{
    Err err = {0};
    Checkpoint *c = ckpt_open(root, &err);
    if (!c)
        fail_msg("%s", err.text);
    return c;
}

#define TWO_TENSORS \
    "{\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}," \
    "\"a\":{\"dtype\":\"F16\",\"shape\":[1,3],\"data_offsets\":[8,14]}}"
#define ONE_TENSOR(name) "{\"" name "\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}"
#define INDEX_OF(map) "{\"metadata\":{\"total_size\":8},\"weight_map\":{" map "}}"

/* ---- good folders ----------------------------------------------------------------------------------------------- */

static void a_single_file_is_read(void **state)
{
    (void)state;
    write_files((File[MAX_FILES]){{"config.json", "{\"hidden_size\": 64, \"torch_dtype\": \"bfloat16\"}", TEXT},
                                  {"generation_config.json", "{\"eos_token_id\": [1, 2]}", TEXT},
                                  {"model.safetensors", TWO_TENSORS, 14}});
    Checkpoint *c = open_root();
    assert_string_equal(ckpt_dir(c), root);
    assert_int_equal(ckpt_count(c), 2);
    assert_string_equal(ckpt_at(c, 0)->name, "a");
    assert_string_equal(ckpt_at(c, 1)->name, "b");
    const Tensor *a = ckpt_find(c, "a");
    assert_ptr_equal(a, ckpt_at(c, 0));
    assert_int_equal(a->type, DT_F16);
    assert_int_equal(a->rank, 2);
    assert_int_equal(((const uint8_t *)a->data)[5], 13);
    assert_string_equal(a->file, "model.safetensors");
    assert_null(ckpt_find(c, "c"));
    assert_null(ckpt_find(c, ""));
    assert_int_equal(json_array_size(json_object_get(ckpt_generation_config(c), "eos_token_id")), 2);
    DType type;
    assert_true(ckpt_dtype(c, &type, NULL));
    assert_int_equal(type, DT_BF16);
    ckpt_prefetch(c);
    ckpt_close(c);
}

static void shards_are_read(void **state)
{
    (void)state;
    write_files((File[MAX_FILES]){{"config.json", "{}", TEXT},
                                  {"model.safetensors.index.json",
                                   INDEX_OF("\"z\":\"model-2.safetensors\",\"y\":\"model-1.safetensors\""), TEXT},
                                  {"model-1.safetensors", ONE_TENSOR("y"), 4},
                                  {"model-2.safetensors", ONE_TENSOR("z"), 4}});
    Checkpoint *c = open_root();
    assert_int_equal(ckpt_count(c), 2);
    assert_string_equal(ckpt_find(c, "y")->file, "model-1.safetensors");
    assert_string_equal(ckpt_find(c, "z")->file, "model-2.safetensors");
    assert_null(ckpt_generation_config(c));
    DType type;
    assert_true(ckpt_dtype(c, &type, NULL));
    assert_int_equal(type, DT_F32); /* no word in the configuration, and no floating-point tensor */
    ckpt_close(c);
}

static void a_cache_entry_is_read(void **state)
{
    (void)state;
    mkdir(path_of("blobs"), 0777);
    mkdir(path_of("refs"), 0777);
    mkdir(path_of("snapshots"), 0777);
    mkdir(path_of("snapshots/0123abcd"), 0777);
    write_files((File[MAX_FILES]){{"refs/main", "0123abcd", TEXT},
                                  {"blobs/1", "{\"dtype\": \"float16\"}", TEXT},
                                  {"blobs/2", ONE_TENSOR("x"), 4}});
    assert_int_equal(symlink("../../blobs/1", path_of("snapshots/0123abcd/config.json")), 0);
    assert_int_equal(symlink("../../blobs/2", path_of("snapshots/0123abcd/model.safetensors")), 0);
    Checkpoint *c = open_root();
    assert_string_equal(ckpt_dir(c), path_of("snapshots/0123abcd"));
    assert_int_equal(ckpt_count(c), 1);
    DType type;
    assert_true(ckpt_dtype(c, &type, NULL));
    assert_int_equal(type, DT_F16);
    ckpt_close(c);
    write_file(&(File){"refs/main", "../../etc", TEXT}); /* leads nowhere */
    Err err = {0};
    assert_null(ckpt_open(root, &err));
    assert_non_null(strstr(err.text, "there is no config.json"));
}

static void the_configuration_opens_alone(void **state)
{
    (void)state;
    write_file(&(File){"config.json", "{\"hidden_size\": 64, \"vocab_size\": 1e300}", TEXT});
    const char *paths[] = {root, path_of("config.json")};
    for (int i = 0; i < 2; i++) {
        Err err = {0};
        int64_t n;
        Checkpoint *c = ckpt_open_config(paths[i], &err);
        assert_non_null(c);
        assert_int_equal(ckpt_count(c), 0);
        assert_string_equal(ckpt_dir(c), root);
        assert_true(ckpt_config_int(c, "hidden_size", 1, 1 << 20, 0, &n, &err));
        assert_int_equal(n, 64);
        assert_false(ckpt_config_int(c, "vocab_size", 1, 1 << 20, 0, &n, &err));
        assert_non_null(strstr(err.text, "/config.json: \"vocab_size\" is 1e+300"));
        ckpt_close(c);
    }
}

static void quantize_config_is_merged(void **state)
{
    (void)state;
    static const struct {
        const char *config, *quantize, *method;
        int bits;
    } cases[] = {
        {"{}", "{\"bits\": 4}", "gptq", 4},
        {"{\"quantization_config\": null}", "{\"bits\": 8, \"quant_method\": \"awq\"}", "awq", 8},
        {"{\"quantization_config\": {\"bits\": 3, \"quant_method\": \"x\"}}", "{\"bits\": 4}", "x", 3},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        write_files((File[MAX_FILES]){{"config.json", cases[i].config, TEXT},
                                      {"quantize_config.json", cases[i].quantize, TEXT}});
        Checkpoint *c = ckpt_open_config(root, NULL);
        assert_non_null(c);
        const json_t *q = json_object_get(ckpt_config(c), "quantization_config");
        assert_string_equal(json_string_value(json_object_get(q, "quant_method")), cases[i].method);
        assert_int_equal(json_integer_value(json_object_get(q, "bits")), cases[i].bits);
        ckpt_close(c);
    }
}

static uint64_t fingerprint(const char *config, const char *header, int data)
{
    write_files((File[MAX_FILES]){{"config.json", config, TEXT}, {"model.safetensors", header, data}});
    Checkpoint *c = open_root();
    uint64_t h = ckpt_fingerprint(c);
    ckpt_close(c);
    return h;
}

static void the_fingerprint_tells_models_apart(void **state)
{
    (void)state;
    const char *config = "{\"a\": 1, \"b\": 2.5}";
    uint64_t h = fingerprint(config, ONE_TENSOR("x"), 4);
    assert_true(h == fingerprint("{\"b\":2.50,\n\"a\":1}", ONE_TENSOR("x"), 4)); /* only formatted otherwise */
    static const struct {
        const char *config, *header;
        int data;
    } others[] = {
        {"{\"a\": 2, \"b\": 2.5}", ONE_TENSOR("x"), 4},
        {"{\"a\": 1, \"c\": 2.5}", ONE_TENSOR("x"), 4},
        {"{\"a\": 1, \"b\": 2.5}", ONE_TENSOR("y"), 4},
        {"{\"a\": 1, \"b\": 2.5}", "{\"x\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4},
        {"{\"a\": 1, \"b\": 2.5}", "{\"x\":{\"dtype\":\"U8\",\"shape\":[4,1],\"data_offsets\":[0,4]}}", 4},
        {"{\"a\": 1, \"b\": 2.5}", "{\"x\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,5]}}", 5},
        {"{\"a\": 1, \"b\": 2.5}", TWO_TENSORS, 14},
    };
    for (size_t i = 0; i < COUNT(others); i++)
        if (h == fingerprint(others[i].config, others[i].header, others[i].data))
            fail_msg("case %zu has the same fingerprint", i);
    /* the data counts of group indices only */
#define SWAPPED(name, at, other) "{\"" name "\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":" at "}," \
                                 "\"z\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":" other "}}"
    uint64_t order = fingerprint(config, SWAPPED("x.g_idx", "[0,4]", "[4,8]"), 8);
    assert_true(order != fingerprint(config, SWAPPED("x.g_idx", "[4,8]", "[0,4]"), 8));
    uint64_t plain = fingerprint(config, SWAPPED("x.scales", "[0,4]", "[4,8]"), 8);
    assert_true(plain == fingerprint(config, SWAPPED("x.scales", "[4,8]", "[0,4]"), 8));
#undef SWAPPED
}

/* ---- folders with something wrong ------------------------------------------------------------------------------- */

#define CONFIG {"config.json", "{}", TEXT}
#define INDEX_FILE(map) {"model.safetensors.index.json", INDEX_OF(map), TEXT}

static const struct {
    const char *fault;
    File files[MAX_FILES];
    const char *message; /* without the folder in front */
} faults[] = {
    {"empty folder", {{0}}, ": there is no config.json, so this is not a Hugging Face checkpoint"},
    {"GGUF folder", {{"llama.gguf", "GGUF", TEXT}}, "found \"llama.gguf\": GGUF is not supported"},
    {"config.json that is not JSON", {{"config.json", "{'a': 1}", TEXT}}, "/config.json: line 1: not valid JSON"},
    {"config.json that is an array", {{"config.json", "[]", TEXT}}, "/config.json: a JSON object {...} was expected"},
    {"empty config.json", {{"config.json", "", TEXT}}, "/config.json: line 1: not valid JSON"},
    {"broken generation_config.json",
     {CONFIG, {"generation_config.json", "{", TEXT}},
     "/generation_config.json: line 1: not valid JSON"},
    {"broken quantize_config.json",
     {CONFIG, {"quantize_config.json", "{", TEXT}},
     "/quantize_config.json: line 1: not valid JSON"},
    {"no weights", {CONFIG}, ": there are no weights: neither model.safetensors nor model.safetensors.index.json"},
    {"pickle weights",
     {CONFIG, {"pytorch_model.bin", "PK", TEXT}},
     "found \"pytorch_model.bin\": PyTorch (pickle) files can run code and are not read: only safetensors"},
    {"GGUF weights", {CONFIG, {"q4.gguf", "GGUF", TEXT}}, "found \"q4.gguf\": GGUF is not supported"},
    {"only a shard",
     {CONFIG, {"model-00001-of-00002.safetensors", ONE_TENSOR("x"), 4}, {"old.bin", "PK", TEXT}},
     "found \"model-00001-of-00002.safetensors\": is the download complete?"},
    {"truncated weights",
     {CONFIG, {"model.safetensors", TWO_TENSORS, 13}},
     "/model.safetensors: tensor \"a\": its data end at byte 14, but only 13 bytes"},
    {"weights that are text", {CONFIG, {"model.safetensors", "text", TEXT}}, "/model.safetensors: 4 bytes are too few"},
    {"index that is not JSON",
     {CONFIG, {"model.safetensors.index.json", "x", TEXT}},
     "/model.safetensors.index.json: line 1: not valid JSON"},
    {"index without a map",
     {CONFIG, {"model.safetensors.index.json", "{}", TEXT}},
     "/model.safetensors.index.json: there is no \"weight_map\" object"},
    {"map that is an array",
     {CONFIG, {"model.safetensors.index.json", "{\"weight_map\": [\"x\"]}", TEXT}},
     "there is no \"weight_map\" object"},
    {"number for a file name", {CONFIG, INDEX_FILE("\"x\":1")}, "the file of tensor \"x\" is not a string"},
    {"number for the second file name",
     {CONFIG, INDEX_FILE("\"x\":\"1.safetensors\",\"y\":{}"), {"1.safetensors", ONE_TENSOR("x"), 4}},
     "the file of tensor \"y\" is not a string"},
    {"absolute path",
     {CONFIG, INDEX_FILE("\"x\":\"/etc/passwd.safetensors\"")},
     "file name \"/etc/passwd.safetensors\" leads out of the folder"},
    {"path with ..",
     {CONFIG, INDEX_FILE("\"x\":\"../x.safetensors\"")},
     "/model.safetensors.index.json: file name \"../x.safetensors\" leads out of the folder"},
    {"folder in a name", {CONFIG, INDEX_FILE("\"x\":\"a/x.safetensors\"")}, "leads out of the folder"},
    {"backslash in a name", {CONFIG, INDEX_FILE("\"x\":\"a\\\\x.safetensors\"")}, "leads out of the folder"},
    {"name that is ..", {CONFIG, INDEX_FILE("\"x\":\"..\"")}, "leads out of the folder"},
    {"empty name", {CONFIG, INDEX_FILE("\"x\":\"\"")}, "file name \"\" does not end in .safetensors"},
    {"index of pickle files",
     {CONFIG, INDEX_FILE("\"x\":\"1.bin\"")},
     "file \"1.bin\": PyTorch (pickle) files can run code"},
    {"missing shard",
     {CONFIG, INDEX_FILE("\"x\":\"1.safetensors\",\"y\":\"2.safetensors\""), {"1.safetensors", ONE_TENSOR("x"), 4}},
     "file \"2.safetensors\" is missing: is the download complete?"},
    {"tensor missing in its shard",
     {CONFIG, INDEX_FILE("\"x\":\"1.safetensors\",\"y\":\"1.safetensors\""), {"1.safetensors", ONE_TENSOR("x"), 4}},
     "/model.safetensors.index.json: tensor \"y\" is not in \"1.safetensors\""},
    {"tensor in another shard",
     {CONFIG,
      INDEX_FILE("\"x\":\"2.safetensors\",\"y\":\"1.safetensors\""),
      {"1.safetensors", ONE_TENSOR("x"), 4},
      {"2.safetensors", ONE_TENSOR("y"), 4}},
     "tensor \"x\" is not in \"2.safetensors\""},
    {"tensor in two shards",
     {CONFIG,
      INDEX_FILE("\"x\":\"1.safetensors\",\"y\":\"2.safetensors\""),
      {"1.safetensors", ONE_TENSOR("x"), 4},
      {"2.safetensors", ONE_TENSOR("x"), 4}},
     ": tensor \"x\" is in both "},
    {"broken shard",
     {CONFIG, INDEX_FILE("\"x\":\"1.safetensors\""), {"1.safetensors", ONE_TENSOR("x"), 5}},
     "/1.safetensors: the last 1 bytes belong to no tensor"},
};

static void faults_are_named(void **state)
{
    for (size_t i = 0; i < COUNT(faults); i++) {
        write_files(faults[i].files);
        Err err = {0};
        if (ckpt_open(root, &err))
            fail_msg("%s: accepted", faults[i].fault);
        if (!strstr(err.text, faults[i].message) || strncmp(err.text, root, strlen(root)))
            fail_msg("%s: \"%s\" does not say \"%s\"", faults[i].fault, err.text, faults[i].message);
        assert_null(ckpt_open(root, NULL));
        remove_root(state);
        mkdir(root, 0777);
    }
}

static void paths_that_are_no_folder_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *name, *message;
    } cases[] = {
        {"absent", "/absent: No such file or directory; give the folder of a downloaded Hugging Face checkpoint"},
        {"m.gguf", "/m.gguf: GGUF is not supported: use the safetensors checkpoint"},
        {"m.pt", "/m.pt: PyTorch (pickle) files can run code and are not read"},
        {"model.safetensors", "/model.safetensors: not a folder; give the folder of a Hugging Face checkpoint"},
    };
    write_files((File[MAX_FILES]){{"m.gguf", "", TEXT}, {"m.pt", "", TEXT}, {"model.safetensors", "", TEXT}});
    for (size_t i = 0; i < COUNT(cases); i++) {
        Err err = {0};
        assert_null(ckpt_open(path_of(cases[i].name), &err));
        if (!strstr(err.text, cases[i].message))
            fail_msg("%s: \"%s\" does not say \"%s\"", cases[i].name, err.text, cases[i].message);
        assert_null(ckpt_open_config(path_of(cases[i].name), &err));
    }
    Err err = {0};
    assert_null(ckpt_open_config(path_of("config.json"), &err));
    assert_non_null(strstr(err.text, "/config.json: No such file"));
}

static void unknown_types_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *config, *message;
    } cases[] = {
        {"{\"dtype\": \"int4\"}", "/config.json: \"dtype\" is \"int4\"; supported are float32"},
        {"{\"torch_dtype\": 16}", "/config.json: \"torch_dtype\" is 16, a string was expected"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        Err err = {0};
        DType type;
        write_file(&(File){"config.json", cases[i].config, TEXT});
        Checkpoint *c = ckpt_open_config(root, &err);
        assert_non_null(c);
        assert_false(ckpt_dtype(c, &type, &err));
        if (!strstr(err.text, cases[i].message))
            fail_msg("\"%s\" does not say \"%s\"", err.text, cases[i].message);
        ckpt_close(c);
    }
}

/* The trained model that lies beside the repository on the machines of its developers. */
static void a_real_model_is_read(void **state)
{
    (void)state;
    const char *dir = SOURCE_DIR "/../shared/models/tinystories-260k";
    if (!file_exists(dir))
        skip();
    Err err = {0};
    Checkpoint *c = ckpt_open(dir, &err);
    if (!c)
        fail_msg("%s", err.text);
    const Tensor *t = ckpt_find(c, "model.embed_tokens.weight");
    assert_non_null(t);
    assert_int_equal(t->shape[0], 512);
    assert_int_equal(t->shape[1], 64);
    assert_int_equal(t->type, DT_F32);
    ckpt_close(c);
}

#define IN_FOLDER(f) cmocka_unit_test_setup_teardown(f, make_root, remove_root)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(a_single_file_is_read),
        IN_FOLDER(shards_are_read),
        IN_FOLDER(a_cache_entry_is_read),
        IN_FOLDER(the_configuration_opens_alone),
        IN_FOLDER(quantize_config_is_merged),
        IN_FOLDER(the_fingerprint_tells_models_apart),
        IN_FOLDER(faults_are_named),
        IN_FOLDER(paths_that_are_no_folder_are_named),
        IN_FOLDER(unknown_types_are_named),
        cmocka_unit_test(a_real_model_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
