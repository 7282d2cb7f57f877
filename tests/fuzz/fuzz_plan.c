/* Fuzzer of the plan reader: whatever is accepted must also survive the sizes and the memory plan. */
#include "plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Err err;
    Plan *p = plan_parse((const char *)data, size, 4096, &err);
    if (!p)
        return 0;
    int64_t caps[SIZE_COUNT];
    static const int64_t values[] = {0, 1, 513, INT64_MAX / 3};
    for (size_t v = 0; v < COUNT(values); v++) {
        PlanMemory m;
        for (int i = 0; i < SIZE_COUNT; i++)
            caps[i] = values[v];
        plan_memory(p, caps, 4, &m, &err);
        plan_step_for(p, values[v]);
        for (int i = 0; i < p->kernels_count; i++)
            plan_blocks(&p->kernels[i], caps);
    }
    plan_free(p);
    return 0;
}
