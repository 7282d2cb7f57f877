/* test_load.c - how the weights of each golden checkpoint are planned (compiler/lua/load.lua): formats, sizes and load
 * steps by what config.json and the tensors say, and what is refused with which message. Plans only; no data is read. */
#include "test.h"

#include "checkpoint.h"
#include "generator.h"

#include <stdio.h>
#include <string.h>

#define MODELS SOURCE_DIR "/tests/golden/models/"

/* {config, tensors, weights, random} of a golden checkpoint; a copy of its own. */
static json_t *facts_of(const char *model, const char *weights)
{
    char path[512];
    Err err = {0};
    snprintf(path, sizeof path, MODELS "%s", model);
    Checkpoint *c = ckpt_open(path, &err);
    if (!c)
        fail_msg("%s", err.text);
    json_t *tensors = json_object();
    for (size_t i = 0; i < ckpt_count(c); i++) {
        const Tensor *t = ckpt_at(c, i);
        json_t *shape = json_array();
        for (int d = 0; d < t->rank; d++)
            json_array_append_new(shape, json_integer(t->shape[d]));
        json_object_set_new(tensors, t->name, json_pack("{s:s, s:o}", "dtype", dtype_name(t->type), "shape", shape));
    }
    json_t *facts = json_pack("{s:o, s:o, s:s, s:b}", "config", json_deep_copy(ckpt_config(c)), "tensors", tensors,
                              "weights", weights, "random", 0);
    ckpt_close(c);
    assert_non_null(facts);
    return facts;
}

static Generator *open_generator(void)
{
    Err err = {0};
    const Target *t = target_find("x86-64-v4-bf16", &err);
    Generator *g = t ? gen_open(SOURCE_DIR, t, &err) : NULL;
    if (!g)
        fail_msg("%s", err.text);
    return g;
}

/* The plan as JSON, code left out. */
static json_t *plan_of(const json_t *facts)
{
    Generator *g = open_generator();
    Err err = {0};
    Buf text = {0};
    if (!gen_plan(g, facts, &err))
        fail_msg("%s", err.text);
    json_t *code = json_array();
    for (size_t i = 0; i < gen_kernel_count(g); i++)
        json_array_append_new(code, json_pack("{s:i, s:i, s:i, s:i, s:i}", "offset", 0, "size", 64, "scratch", 0,
                                                "threads", 0, "registers", 0));
    if (!gen_plan_json(g, code, &text, &err))
        fail_msg("%s", err.text);
    json_t *plan = json_loadb(text.data, text.len, 0, NULL);
    assert_non_null(plan);
    json_decref(code);
    buf_free(&text);
    gen_close(g);
    return plan;
}

/* Bytes of the buffer NAME or "NAME PART"; 0 when there is none. */
static int64_t buffer_bytes(const json_t *plan, const char *name, const char *part)
{
    char full[256];
    size_t i;
    const json_t *b;
    snprintf(full, sizeof full, "%s%s%s", name, *part ? " " : "", part);
    json_array_foreach(json_object_get(plan, "buffers"), i, b)
        if (!strcmp(json_string_value(json_object_get(b, "name")), full))
            return json_integer_value(json_object_get(json_array_get(json_object_get(b, "bytes"), 0), "n"));
    return 0;
}

/* Kernels of the load steps that read tensors of the layer, in order, as "pack_gptq unpack". */
static void load_steps(const json_t *plan, const char *layer, Buf *out)
{
    size_t i;
    const json_t *l;
    bool mine = false;
    json_array_foreach(json_object_get(plan, "load"), i, l) {
        const char *tensor = json_string_value(json_object_get(json_array_get(json_object_get(l, "args"), 0), "tensor"));
        mine = tensor ? !strncmp(tensor, layer, strlen(layer)) : mine;
        if (!mine)
            continue;
        const char *builtin = json_string_value(json_object_get(l, "builtin"));
        const json_t *kernel = json_array_get(json_object_get(plan, "kernels"),
                                              (size_t)json_integer_value(json_object_get(l, "kernel")));
        const char *name = builtin ? builtin : json_string_value(json_object_get(kernel, "name"));
        buf_printf(out, "%s%.*s", out->len ? " " : "", (int)strcspn(name, " "), name);
    }
}

#define DOWN "model.layers.0.mlp.down_proj"
#define QUERY "model.layers.0.self_attn.q_proj" /* its buffers hold q, k and v */
#define GATE "model.layers.0.mlp.gate_proj"

/* Columns of packed weights: whole panels of 64. */
#define P(n) (((n) + 63) / 64 * 64)

static const struct {
    const char *model, *weights, *layer;
    int64_t w, scale, zero, bias, order; /* bytes */
    const char *steps;                   /* those of the first part */
} formats[] = {
    /* hidden 64, intermediate 96 or 64: dense, as stored and rounded */
    {"llama-f32", "auto", DOWN, P(64) * 64 * 4, 0, 0, 0, 0, "pack_dense"},
    {"llama-f32", "bf16", QUERY, (P(64) + 2 * P(32)) * 64 * 2, 0, 0, 0, 0, "pack_dense"},
    {"llama-f32", "w8", DOWN, P(64) * 64, 64 * 4, 0, 0, 0, "pack_quantized"},
    {"llama-f32", "w4", QUERY, (P(64) + 2 * P(32)) * 64 / 2, (P(64) + P(32) + 32) * 2, 0, 0, 0, "pack_quantized"},
    {"llama-f32", "w4a16", DOWN, P(64) * 64 / 2, 64 * 2, 0, 0, 0, "pack_quantized"},
    {"llama-f32", "w4", "model.embed_tokens", P(272) * 64, 272 * 4, 0, 0, 0, "pack_quantized"}, /* the logits stay in w8 */
    {"llama-f32", "w4a16", "model.embed_tokens", P(272) * 64 * 2, 0, 0, 0, 0, "pack_dense"},
    {"llama-bf16-untied", "auto", "lm_head", P(272) * 64 * 2, 0, 0, 0, 0, "pack_dense"},
    {"llama-f16-legacy", "auto", DOWN, P(32) * 64 * 2, 0, 0, 0, 0, "pack_dense"},
    {"llama-odd", "auto", DOWN, P(48) * 112 * 2, 0, 0, 0, 0, "pack_dense"}, /* 40 x 108, padded */
    {"llama-odd", "w4", DOWN, P(48) * 112 / 2, 48 * 2, 0, 0, 0, "pack_quantized"},
    {"llama-bias", "auto", DOWN, P(32) * 64 * 2, 0, 0, 32 * 4, 0, "pack_dense pack_vector"},
    {"qwen2-tied", "auto", QUERY, (P(32) + 2 * P(16)) * 32 * 2, 0, 0, (P(32) + P(16) + 16) * 4, 0, "pack_dense pack_vector"},
    /* GPTQ: symmetric ones need no zero points; desc_act needs the order of inputs, but for merged and paired layers */
    {"llama-gptq4-g128", "auto", DOWN, P(128) * 128 / 2, 128 * 2, 0, 0, 0, "pack_gptq"},
    {"llama-gptq4-g32-asym", "auto", DOWN, P(96) * 160 / 2, 96 * 5 * 2, 96 * 5, 0, 0, "pack_gptq"},
    {"llama-gptq4-v2-g32-asym", "w4a16", DOWN, P(64) * 96 / 2, 64 * 3 * 2, 64 * 3, 0, 0, "pack_gptq"},
    {"llama-gptq4-g32-asym", "f32", DOWN, P(96) * 160 * 4, 0, 0, 0, 0, "pack_gptq unpack"},
    {"llama-gptq4-act", "auto", DOWN, P(96) * 160 / 2, 96 * 5 * 2, 0, 0, 160 * 4, "argsort pack_gptq"},
    {"llama-gptq4-act", "auto", GATE, P(160) * 96 * 2, 0, 0, 0, 0, "argsort pack_gptq argsort unpack"},
    {"llama-gptq4-act", "f32", DOWN, P(96) * 160 * 4, 0, 0, 0, 0, "argsort pack_gptq argsort unpack"},
    {"llama-gptq4-column", "auto", DOWN, P(64) * 96 / 2, 64 * 2, 0, 0, 0, "pack_gptq"},
    {"llama-gptq8-g32", "auto", DOWN, P(64) * 96, 64 * 3 * 2, 0, 0, 0, "pack_gptq"},
    {"qwen2-gptq4-g32", "auto", QUERY, (P(64) + 2 * P(32)) * 64 / 2, (P(64) + P(32) + 32) * 2 * 2, 0, (P(64) + P(32) + 32) * 4, 0, "pack_gptq pack_vector"},
    /* AWQ; modules_to_not_convert */
    {"llama-awq-g32", "auto", DOWN, P(96) * 160 / 2, 96 * 5 * 2, 96 * 5, 0, 0, "pack_awq"},
    {"llama-awq-g32", "bf16", DOWN, P(96) * 160 * 2, 0, 0, 0, 0, "pack_awq unpack"},
    {"qwen3-awq-g64", "auto", GATE, P(128) * 64 / 2, 128 * 2, 128, 0, 0, "pack_awq"},
    {"qwen3-awq-g64", "auto", DOWN, P(64) * 128 * 2, 0, 0, 0, 0, "pack_dense"},
    /* compressed-tensors */
    {"llama-ct-w4-g32", "auto", DOWN, P(64) * 96 / 2, 64 * 3 * 2, 0, 0, 0, "pack_compressed"},
    {"llama-ct-w4-channel", "auto", DOWN, P(80) * 176 / 2, 80 * 4, 0, 0, 0, "pack_compressed"}, /* 72 x 172 */
    {"llama-ct-w4-g32-asym", "auto", DOWN, P(64) * 96 / 2, 64 * 3 * 2, 64 * 3, 0, 0, "pack_compressed"},
    {"llama-ct-w4-act", "auto", DOWN, P(96) * 160 / 2, 96 * 5 * 2, 0, 0, 160 * 4, "argsort pack_compressed"},
    {"llama-ct-w8-channel", "auto", DOWN, P(64) * 96, 64 * 2, 0, 0, 0, "pack_compressed"},
    {"llama-ct-w8a8", "auto", DOWN, P(64) * 96, 64 * 2, 0, 0, 0, "pack_int8"},
    {"qwen2-ct-w8a8", "auto", DOWN, P(64) * 128 * 2, 0, 0, 0, 0, "pack_dense"}, /* ignored in layer 0 */
    {"qwen2-ct-w8a8", "f16", "model.layers.1.mlp.down_proj", P(64) * 128 * 2, 0, 0, 0, 0, "pack_int8 unpack"},
};

static void test_formats(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(formats); i++) {
        const char *layer = formats[i].layer;
        json_t *facts = facts_of(formats[i].model, formats[i].weights), *plan = plan_of(facts);
        print_message("%s %s %s\n", formats[i].model, formats[i].weights, layer);
        Buf steps = {0};
        load_steps(plan, layer, &steps);
        assert_string_equal(steps.data, formats[i].steps);
        assert_int_equal(buffer_bytes(plan, layer, ""), formats[i].w);
        assert_int_equal(buffer_bytes(plan, layer, "scale"), formats[i].scale);
        assert_int_equal(buffer_bytes(plan, layer, "zero"), formats[i].zero);
        assert_int_equal(buffer_bytes(plan, layer, "bias"), formats[i].bias);
        assert_int_equal(buffer_bytes(plan, layer, "order"), formats[i].order);
        buf_free(&steps);
        json_decref(plan);
        json_decref(facts);
    }
}

/* One change to the facts: a tensor's new description (NULL: removed), or a key of quantization_config. */
static const struct {
    const char *model, *weights, *tensor, *description, *key, *value, *message;
} mistakes[] = {
    {"llama-f32", "auto", DOWN ".weight", NULL, NULL, NULL, "no tensor " DOWN ".weight; f32 or f16 or bf16 [64, 64]"},
    {"llama-f32", "auto", DOWN ".weight", "{\"dtype\":\"f32\",\"shape\":[64,32]}", NULL, NULL,
     DOWN ".weight has shape [64, 32], but config.json asks for [64, 64]"},
    {"llama-f32", "auto", DOWN ".weight", "{\"dtype\":\"f8_e4m3\",\"shape\":[64,64]}", NULL, NULL, "is stored as f8_e4m3"},
    {"llama-f32", "auto", "model.norm.weight", "{\"dtype\":\"f32\",\"shape\":[63]}", NULL, NULL, "model.norm.weight has shape [63]"},
    {"llama-bias", "auto", DOWN ".bias", NULL, NULL, NULL, "no tensor " DOWN ".bias"},
    {"llama-f32", "w5", NULL, NULL, NULL, NULL, "--weights w5: unknown format; known: auto, f32"},
    {"llama-gptq4-g128", "w8", NULL, NULL, NULL, NULL, "is already quantized to 4 bits; use auto, f32"},
    {"llama-ct-w8a8", "w4", NULL, NULL, NULL, NULL, "is already quantized to 8 bits"},
    {"llama-gptq4-g128", "auto", NULL, NULL, "bits", "3", "\"bits\": 3; supported: 4, 8"},
    {"llama-gptq4-g128", "auto", NULL, NULL, "quant_method", "\"bitsandbytes\"", "\"bitsandbytes\" is not supported; supported: gptq, awq"},
    {"llama-gptq4-g128", "auto", NULL, NULL, "checkpoint_format", "\"marlin\"", "\"checkpoint_format\": marlin"},
    {"llama-gptq4-g128", "auto", DOWN ".scales", NULL, NULL, NULL, "no tensor " DOWN ".scales"},
    {"llama-gptq4-g128", "auto", DOWN ".scales", "{\"dtype\":\"f16\",\"shape\":[16,128]}", NULL, NULL, "16 groups over 128 inputs; the group size"},
    {"llama-gptq4-g128", "auto", DOWN ".scales", "{\"dtype\":\"f16\",\"shape\":[]}", NULL, NULL, "2 dimensions are needed|has shape []"},
    {"llama-gptq4-g128", "auto", DOWN ".qweight", "{\"dtype\":\"s32\",\"shape\":[12,128]}", NULL, NULL, "holds 12 words for 128 inputs"},
    {"llama-gptq4-g128", "auto", DOWN ".qweight", "{\"dtype\":\"f32\",\"shape\":[16,128]}", NULL, NULL, "qweight is stored as f32"},
    {"llama-gptq4-g32-asym", "auto", DOWN ".qzeros", "{\"dtype\":\"s32\",\"shape\":[5,11]}", NULL, NULL, "qzeros has shape [5, 11]"},
    {"llama-gptq4-act", "auto", DOWN ".g_idx", NULL, NULL, NULL, "no tensor " DOWN ".g_idx"},
    {"llama-awq-g32", "auto", NULL, NULL, "version", "\"gemv\"", "\"version\": gemv; supported: gemm"},
    {"llama-awq-g32", "auto", DOWN ".qzeros", NULL, NULL, NULL, "no tensor " DOWN ".qzeros"},
    {"llama-ct-w4-g32", "auto", NULL, NULL, "format", "\"float-quantized\"", "\"format\": float-quantized; supported: pack-quantized, int-quantized"},
    {"llama-ct-w4-g32", "auto", NULL, NULL, "config_groups", "7", ""},
    {"llama-ct-w4-g32", "auto", DOWN ".weight_scale", "{\"dtype\":\"bf16\",\"shape\":[64]}", NULL, NULL, "weight_scale has shape [64]; 2 dimensions"},
    {"llama-ct-w4-g32-asym", "auto", DOWN ".weight_zero_point", "{\"dtype\":\"s8\",\"shape\":[64,3]}", NULL, NULL, "weight_zero_point is stored as s8"},
    {"llama-ct-w8a8", "auto", DOWN ".weight_scale", "{\"dtype\":\"s8\",\"shape\":[64,1]}", NULL, NULL, "weight_scale is stored as s8"},
};

static void change(json_t *facts, size_t i)
{
    json_t *tensors = json_object_get(facts, "tensors");
    json_t *quant = json_object_get(json_object_get(facts, "config"), "quantization_config");
    if (mistakes[i].tensor && !mistakes[i].description)
        assert_int_equal(json_object_del(tensors, mistakes[i].tensor), 0);
    else if (mistakes[i].tensor)
        json_object_set_new(tensors, mistakes[i].tensor, json_loads(mistakes[i].description, 0, NULL));
    if (mistakes[i].key)
        json_object_set_new(quant, mistakes[i].key, json_loads(mistakes[i].value, JSON_DECODE_ANY, NULL));
}

/* Any of the alternatives between bars. */
static bool contains_one(const char *text, const char *alternatives)
{
    char copy[256];
    snprintf(copy, sizeof copy, "%s", alternatives);
    for (char *save, *s = strtok_r(copy, "|", &save); s; s = strtok_r(NULL, "|", &save))
        if (strstr(text, s))
            return true;
    return false;
}

static void test_mistakes(void **state)
{
    (void)state;
    Generator *g = open_generator();
    for (size_t i = 0; i < COUNT(mistakes); i++) {
        json_t *facts = facts_of(mistakes[i].model, mistakes[i].weights);
        change(facts, i);
        Err err = {0};
        bool ok = gen_plan(g, facts, &err), wanted = *mistakes[i].message;
        if (ok != !wanted || (wanted && !contains_one(err.text, mistakes[i].message)))
            fail_msg("row %zu: %s; expected: %s", i, ok ? "planned" : err.text, mistakes[i].message);
        json_decref(facts);
    }
    gen_close(g);
}

/* Layers of one input with equal group indices stay in 4 bits and share one order. */
static void test_shared_order(void **state)
{
    (void)state;
    static const char *const layers[] = {"self_attn.q", "self_attn.k", "self_attn.v", "mlp.gate", "mlp.up"};
    json_t *facts = facts_of("llama-gptq4-act", "auto"), *tensors = json_object_get(facts, "tensors");
    for (size_t i = 0; i < COUNT(layers); i++) {
        char name[128];
        snprintf(name, sizeof name, "model.layers.0.%s_proj.g_idx", layers[i]);
        json_object_set_new(json_object_get(tensors, name), "hash", json_string(i < 3 ? "attention" : "mlp"));
    }
    json_t *plan = plan_of(facts);
    Buf first = {0}, second = {0}, third = {0}, paired = {0};
    load_steps(plan, QUERY, &first);
    load_steps(plan, "model.layers.0.self_attn.k_proj", &second);
    load_steps(plan, GATE, &third);
    load_steps(plan, "model.layers.0.mlp.up_proj", &paired);
    assert_string_equal(first.data, "argsort pack_gptq");
    assert_string_equal(second.data, "pack_gptq");
    assert_string_equal(third.data, "argsort pack_gptq");
    assert_string_equal(paired.data, "pack_gptq");
    assert_int_equal(buffer_bytes(plan, QUERY, ""), (P(96) + 2 * P(32)) * 96 / 2);
    assert_int_equal(buffer_bytes(plan, QUERY, "order"), 96 * 4);
    assert_int_equal(buffer_bytes(plan, "model.layers.0.mlp.up_proj", "order"), 0);
    Buf *all[] = {&first, &second, &third, &paired};
    for (size_t i = 0; i < COUNT(all); i++)
        buf_free(all[i]);
    json_decref(plan);
    json_decref(facts);
}

/* Without a checkpoint every weight has contents to be made up, and nothing is loaded. */
static void test_random(void **state)
{
    (void)state;
    static const char *const choices[] = {"auto", "f32", "f16", "bf16", "w8", "w4", "w4a16"};
    for (size_t i = 0; i < COUNT(choices); i++) {
        json_t *facts = facts_of("llama-bf16-untied", choices[i]), *b;
        size_t n;
        json_object_clear(json_object_get(facts, "tensors"));
        json_object_set_new(facts, "random", json_true());
        json_t *plan = plan_of(facts);
        assert_int_equal(json_array_size(json_object_get(plan, "load")), 0);
        json_array_foreach(json_object_get(plan, "buffers"), n, b)
            if (!strcmp(json_string_value(json_object_get(b, "kind")), "weight"))
                assert_non_null(json_object_get(json_object_get(b, "fill"), "type"));
        assert_true(buffer_bytes(plan, DOWN, "") > 0);
        json_decref(plan);
        json_decref(facts);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formats), cmocka_unit_test(test_mistakes),
                                       cmocka_unit_test(test_shared_order), cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
