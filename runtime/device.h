/* device.h - what the executor asks of a device: memory, code, launches. device_host.c is the CPU; a GPU is another
 * const struct of the same functions. Addresses are the device's own and never dereferenced by the callers, but for
 * memory of kind DEVICE_SHARED.
 */
#ifndef BLADE_DEVICE_H
#define BLADE_DEVICE_H

#include "plan.h"

typedef enum DeviceMemory {
    DEVICE_LOCAL,  /* big and fast: weights, KV pages, activations; huge pages on the host */
    DEVICE_SHARED, /* the host reads and writes it too: inputs, outputs */
    DEVICE_SLOWLY, /* DEVICE_LOCAL that is filled little by little: KV pages; made ready in the background */
} DeviceMemory;

typedef struct Device Device;

typedef struct DeviceOps {
    const char *name; /* "host" */
    void (*close)(Device *d);
    int (*threads)(const Device *d); /* that scratch memory is counted for; 1 on a GPU */
    /* Free and total memory in bytes. */
    void (*memory)(const Device *d, int64_t *available, int64_t *total);
    /* Zeroed, 64-byte aligned. */
    void *(*alloc)(Device *d, size_t bytes, DeviceMemory kind, Err *err);
    void (*free)(Device *d, void *memory, size_t bytes);
    /* An address at which kernels may read n bytes of host memory that lives on; NULL when they must be copied. */
    void *(*borrow)(Device *d, const void *host, size_t n);
    void (*copy_in)(Device *d, void *to, const void *host, size_t n);
    void (*copy_out)(Device *d, void *host, const void *from, size_t n);
    /* Random contents, the same for the same seed; zeros when fill->type is DT_NONE. After all launches before it. */
    void (*fill)(Device *d, void *to, size_t n, const PlanFill *fill, uint64_t seed);
    /* Loads the plan's kernels; once. */
    bool (*load_code)(Device *d, const Plan *p, const uint8_t *code, Err *err);
    /* Runs a kernel's blocks after all launches and fills before it, perhaps later. The arrays must live until sync. */
    void (*launch)(Device *d, int kernel, void *const *buffers, const int64_t *sizes, int64_t blocks);
    void (*sync)(Device *d); /* waits until all of them are done */
} DeviceOps;

struct Device {
    const DeviceOps *ops;
};

/* device_host.c. `threads` as in pool_new. With a queue a thread of the device's own runs launches and fills one after
 * the other while the caller goes on; otherwise they are done when they return, and the calling thread must be the one
 * that launches, since it takes part. */
Device *device_host_open(int threads, bool queue, Err *err);

/* Memory that new allocations of this process may take, in bytes: what the kernel calls available, within the limit of
 * the cgroup; and the machine's. */
void host_memory(int64_t *available, int64_t *total);

#endif
