/* Fuzzer of the object loader: loads whatever the bytes are, never runs it. */
#include "object.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ObjectSource src = {"fuzz", data, size, "kernel"};
    void *entry;
    ObjectCode code;
    Err err;
    if (object_load(&src, 1, &entry, &code, &err))
        object_unload(&code);
    return 0;
}
