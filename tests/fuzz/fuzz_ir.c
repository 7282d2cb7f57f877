/* Tile IR text: any bytes give a kernel or a message. A kernel prints to a text that reads back and prints the same,
 * and verifying it ends with a verdict. */
#include "ir.h"

#include <stdlib.h>
#include <string.h>

static void round_trip(const Kernel *k)
{
    Buf first = {0}, second = {0};
    Err err = {0};
    ir_print(k, &first);
    Kernel *again = ir_parse(first.data, first.len, "printed", &err);
    if (!again)
        abort();
    ir_print(again, &second);
    if (first.len != second.len || memcmp(first.data, second.data, first.len))
        abort();
    kernel_free(again);
    buf_free(&first);
    buf_free(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Err err = {0};
    Kernel *k = ir_parse((const char *)data, size, "fuzz", &err);
    if (!k) {
        if (!err.text[0])
            abort();
        return 0;
    }
    round_trip(k);
    bool ok = ir_check(k, &err) && ir_check_numerics(k, &err);
    if (!ok && !err.text[0])
        abort();
    kernel_free(k);
    return 0;
}
