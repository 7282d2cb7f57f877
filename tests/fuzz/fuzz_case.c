/* fuzz_case.c - the plan of a pack of candidates (autotune/case.c): any bytes are read or refused. */
#include <stddef.h>
#include <stdint.h>

#include "case.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Err err = {0};
    case_free(case_read((const char *)data, size, 1 << 16, &err));
    return 0;
}
