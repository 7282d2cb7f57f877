/* Fuzzer of runtime/jinja*.c: the input is a template, rendered with fixed variables under tight limits. */
#include <assert.h>
#include <stdlib.h>

#include "jinja.h"

static const char variables_text[] =
    "{\"s\": \"Hello World\", \"u\": \"Gr\\u00fc\\u00dfe \\u4e16 \\ud83c\\udf89 \\u03a3\", \"n\": 7, \"z\": 0,"
    " \"f\": -2.5, \"t\": true, \"nil\": null, \"big\": 9223372036854775807, \"l\": [3, 1, 2],"
    " \"ls\": [\"b\", \"A\", \"c\"], \"d\": {\"a\": 1, \"b\": \"two\", \"c\": [1, [2]]},"
    " \"bos_token\": \"<s>\", \"eos_token\": \"</s>\","
    " \"messages\": [{\"role\": \"system\", \"content\": \" be kind \"}, {\"role\": \"user\", \"content\": \"hi\\n\"},"
    "  {\"role\": \"assistant\", \"content\": null,"
    "   \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": {\"x\": 1}}}]}],"
    " \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"type\": \"object\"}}}],"
    " \"add_generation_prompt\": true}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static json_t *variables;
    const JinjaLimits limits = {.steps = 100000, .depth = 300, .output = 1 << 18, .memory = 8 << 20};
    if (!variables)
        variables = json_loads(variables_text, 0, NULL);
    assert(variables);
    Err err = {0};
    Buf out = {0};
    Jinja *j = jinja_parse((const char *)data, size, &err);
    if (j && jinja_render(j, variables, &limits, &out, &err)) {
        assert(out.len <= limits.output);
        for (size_t i = 0, n; i < out.len; i += n) { /* valid text gives valid text */
            uint32_t cp;
            n = utf8_decode(out.data + i, out.len - i, &cp);
            assert(n > 1 || cp != 0xFFFD);
        }
    } else {
        assert(err.text[0]);
    }
    jinja_free(j);
    buf_free(&out);
    return 0;
}
