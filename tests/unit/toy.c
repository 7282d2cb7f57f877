/* toy.c - see toy.h. TOY_LOAD and the like are the paths of the objects; TOY_GPU_LOAD and the like of those for GPUs. */
#include "toy.h"

#include <stdio.h>
#include <string.h>

enum { OBJECTS = 5, GPU_THREADS = 64 };

static const char *const objects[2][OBJECTS] = {
    {TOY_LOAD, TOY_STEP, TOY_SAMPLE, TOY_READ, TOY_PEAK},
    {TOY_GPU_LOAD, TOY_GPU_STEP, TOY_GPU_SAMPLE, TOY_GPU_READ, TOY_GPU_PEAK},
};

bool toy_checkpoint(const char *dir, Err *err)
{
    static const char config[] = "{\"architectures\": [\"ToyForCausalLM\"], \"torch_dtype\": \"float32\"}";
    static const char header[] = "{\"w\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[0,64]}}";
    char path[4096];
    Buf file = {0};
    uint64_t n = sizeof header - 1;
    buf_put(&file, &n, 8);
    buf_put(&file, header, n);
    for (int i = 0; i < 16; i++) {
        float v = (float)(i + 1);
        buf_put(&file, &v, 4);
    }
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    bool ok = file_write_atomic(path, file.data, file.len, err);
    snprintf(path, sizeof path, "%s/config.json", dir);
    ok = ok && file_write_atomic(path, config, sizeof config - 1, err);
    buf_free(&file);
    return ok;
}

/* Appends the objects, 64-byte aligned; offsets and sizes go to the arrays. */
static bool toy_code(bool gpu, Buf *code, size_t offset[OBJECTS], size_t size[OBJECTS], Err *err)
{
    for (int i = 0; i < OBJECTS; i++) {
        while (code->len % 64)
            buf_putc(code, 0);
        offset[i] = code->len;
        if (!file_read(code, objects[gpu][i], 1 << 20, err))
            return false;
        size[i] = code->len - offset[i];
    }
    return true;
}

static const char buffers[] =
    "[{\"name\":\"w2\",\"kind\":\"weight\",\"bytes\":[{\"n\":64}],"
    "\"fill\":{\"type\":\"f32\",\"scale\":0.5,\"mean\":9}},"
    "{\"name\":\"tokens\",\"kind\":\"input\"},{\"name\":\"kv_slot\",\"kind\":\"input\"},"
    "{\"name\":\"output_rows\",\"kind\":\"input\"},{\"name\":\"kv\",\"kind\":\"kv\",\"page_bytes\":16},"
    "{\"name\":\"logits\",\"kind\":\"output\"},{\"name\":\"adjust_start\",\"kind\":\"input\"},"
    "{\"name\":\"adjust_token\",\"kind\":\"input\"},{\"name\":\"adjust_value\",\"kind\":\"input\"},"
    "{\"name\":\"sampled\",\"kind\":\"output\"},{\"name\":\"sampled_logprob\",\"kind\":\"output\"},"
    "{\"name\":\"logz\",\"kind\":\"output\"},"
    "{\"name\":\"raw\",\"kind\":\"mapped\",\"tensor\":\"w\",\"dtype\":\"f32\",\"shape\":[16],\"bytes\":[{\"n\":64}],"
    "\"fill\":{\"type\":\"f32\",\"scale\":1}},"
    "{\"name\":\"copy\",\"kind\":\"temporary\",\"bytes\":[{\"n\":64}]},"
    "{\"name\":\"work\",\"kind\":\"activation\",\"bytes\":[{\"n\":100,\"size\":\"tokens\"},{\"n\":7}]},"
    "{\"name\":\"k\",\"kind\":\"constant\",\"data_type\":\"s32\",\"data\":[3,1,2,1]}]";

static void write_plan(bool gpu, Buf *out)
{
    Buf code = {0};
    size_t offset[OBJECTS], size[OBJECTS];
    Err err = {0};
    if (!toy_code(gpu, &code, offset, size, &err))
        die("%s", err.text);
    static const char *const grids[OBJECTS] = {"rows", "outputs", "outputs", "rows", "rows"};
    buf_puts(out, "{\"format\":2,\"model\":{\"architecture\":\"ToyForCausalLM\",\"layers\":1,\"hidden\":16,"
                  "\"vocab\":16,\"context\":64,\"kv_heads\":1,\"head_dim\":1,\"weights\":\"f32\"},\"page_tokens\":4,"
                  "\"prefill_tile\":4,\"logits_stride\":16,\"flops_per_token\":32,\"flops_per_output\":8,"
                  "\"weight_bytes_per_step\":64,"
                  "\"peak\":\"f32\",\"kernels\":[");
    for (int i = 0; i < OBJECTS; i++)
        buf_printf(out, "%s{\"name\":\"toy %d\",\"offset\":%zu,\"size\":%zu,\"symbol\":\"kernel\",\"scratch\":%d,"
                   "\"threads\":%d,\"grid\":[{\"n\":1,\"size\":\"%s\"}]}", i ? "," : "", i, offset[i], size[i], gpu ? 0 : 100 * i,
                   gpu ? GPU_THREADS : 0, grids[i]);
    buf_printf(out, "],\"buffers\":%s,\"load\":[{\"kernel\":0,\"args\":[{\"tensor\":\"w\",\"dtype\":\"f32\","
               "\"shape\":[16],\"bytes\":64},{\"buffer\":0,\"offset\":0}],\"sizes\":{\"rows\":16}},"
               "{\"builtin\":\"argsort\",\"args\":[{\"buffer\":15},{\"buffer\":13}]}],", buffers);
    buf_puts(out, "\"steps\":[{\"max_tokens\":2,\"launches\":[{\"kernel\":1,\"args\":[0,1,2,3,4,5]}]},"
                  "{\"max_tokens\":0,\"launches\":[{\"kernel\":1,\"args\":[{\"buffer\":0,\"offset\":0},1,2,3,4,5]}]}],"
                  "\"sample\":[{\"kernel\":2,\"args\":[5,6,7,8,9,10,11]}],"
                  "\"limits\":[{\"name\":\"read\",\"kernel\":3,\"bytes_per_block\":4096},"
                  "{\"name\":\"f32\",\"kernel\":4,\"ops_per_block\":2000,\"input_bytes\":[64]}]}");
    buf_free(&code);
}

void toy_plan(Buf *out)
{
    write_plan(false, out);
}

bool toy_pack(const char *path, const PackHeader *header, Err *err)
{
    Buf code = {0}, plan = {0};
    size_t offset[OBJECTS], size[OBJECTS];
    bool gpu = !strncmp(header->target, "simt:", 5), ok = toy_code(gpu, &code, offset, size, err);
    if (ok) {
        write_plan(gpu, &plan);
        ok = pack_write(path, header, plan.data, plan.len, code.data, code.len, err);
    }
    buf_free(&code);
    buf_free(&plan);
    return ok;
}
