/* fuzz_schedule.c - any bytes as a Lua schedule: it is traced, or refused with a message. What passes the verifier is printed
 * and read back, so that nothing the builders accept can break the rest of the generator. */
#include "generator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The operator is the one that the text names first. */
static const char *operator_of(const char *text)
{
    static const char *const names[] = {"rmsnorm", "matmul", "rotary", "attention"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char key[32];
        snprintf(key, sizeof key, "schedule \"%s\"", names[i]);
        if (strstr(text, key))
            return names[i];
    }
    return "embedding";
}

static void round_trip(const Kernel *k)
{
    Buf text = {0}, again = {0};
    Err err = {0};
    ir_print(k, &text);
    Kernel *copy = ir_parse(text.data, text.len, "printed", &err);
    if (!copy) {
        fprintf(stderr, "accepted, printed, not read back: %s\n%s\n", err.text, text.data);
        abort();
    }
    kernel_free(copy);
    buf_free(&text);
    buf_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static Generator *g;
    static int runs;
    Err err = {0};
    if (size > 1 << 16)
        return 0;
    if (runs++ % 200 == 0) { /* kernels pile up in a generator */
        gen_close(g);
        g = gen_open(SOURCE_DIR, target_find("x86-64", &err), &err);
        if (!g) {
            fprintf(stderr, "%s\n", err.text);
            abort();
        }
    }
    char *text = xmalloc(size + 1);
    memcpy(text, data, size);
    text[size] = 0;
    const Kernel *k = gen_try_schedule(g, operator_of(text), text, size, &err);
    if (k)
        round_trip(k);
    else if (!err.text[0])
        abort(); /* a refusal without a reason */
    free(text);
    return 0;
}
