/* device.h - what the executor asks of a device: memory, code, launches. device_host.c is the CPU; device_gpu.c serves
 * every GPU, over the drivers of device_cuda.c and device_hip.c. Addresses are the device's own and never dereferenced
 * by the callers.
 *
 * What is begun (launches, copies, fills) runs in the order in which it was begun, perhaps later: the device's queue.
 * When something fails there, the device remembers the first failure, does nothing from then on, and says so in sync.
 * One thread at a time may use a device.
 */
#ifndef BLADE_DEVICE_H
#define BLADE_DEVICE_H

#include "plan.h"

typedef enum DeviceMemory {
    DEVICE_LOCAL,  /* big and fast: weights, KV pages, activations; huge pages on the host */
    DEVICE_SHARED, /* the host reads and writes it too, through its mirror: inputs, outputs, sizes */
    DEVICE_SLOWLY, /* DEVICE_LOCAL that is filled little by little: KV pages; made ready in the background */
} DeviceMemory;

typedef struct Device Device;

typedef struct DeviceOps {
    const char *name; /* "host", "cuda", "hip" */
    void (*close)(Device *d);
    int (*threads)(const Device *d); /* that scratch memory is counted for; 1 on a GPU */
    /* Free and total memory in bytes. */
    void (*memory)(const Device *d, int64_t *available, int64_t *total);
    /* Zeroed (behind what was begun), 64-byte aligned. */
    void *(*alloc)(Device *d, size_t bytes, DeviceMemory kind, Err *err);
    void (*free)(Device *d, void *memory, size_t bytes); /* nothing that was begun uses it */
    /* An address at which kernels may read n bytes of host memory that lives on; NULL when they must be copied. */
    void *(*borrow)(Device *d, const void *host, size_t n);
    /* Behind what was begun on a GPU, at once on the host. The host's memory may change when copy_in returns, and is
     * there when copy_out returns. */
    void (*copy_in)(Device *d, void *to, const void *host, size_t n);
    void (*copy_out)(Device *d, void *host, const void *from, size_t n);
    /* Random contents, the same for the same seed; zeros when fill->type is DT_NONE. */
    void (*fill)(Device *d, void *to, size_t n, const PlanFill *fill, uint64_t seed);
    /* Loads the plan's kernels; once. */
    bool (*load_code)(Device *d, const Plan *p, const uint8_t *code, Err *err);
    /* Runs a kernel's blocks. `sizes` must be readable by kernels: memory of kind DEVICE_SHARED, on the host any. The
     * arrays must live until sync. */
    void (*launch)(Device *d, int kernel, void *const *buffers, int count, const int64_t *sizes, int64_t blocks);
    /* Waits until all of it is done; false and a message when something has failed. */
    bool (*sync)(Device *d, Err *err);
    /* The host's side of an address in memory of kind DEVICE_SHARED: the address itself on the host. */
    void *(*mirror)(Device *d, void *shared);

    /* For devices with a memory of their own; NULL on the host. */
    void (*push)(Device *d, void *shared, size_t n); /* from the mirror, which must not change until sync */
    void (*pull)(Device *d, void *shared, size_t n); /* to the mirror, where it is after sync */
    /* Zeroes `rows` pieces of `width` bytes, `pitch` bytes apart. */
    void (*zero_rows)(Device *d, void *to, size_t width, size_t pitch, size_t rows);
    /* Launches between record and recorded are kept, not run; replay begins all of them again, with the contents that
     * buffers and sizes have then. NULL after a failure, which sync tells. */
    void (*record)(Device *d);
    void *(*recorded)(Device *d);
    void (*replay)(Device *d, void *recording);
    void (*forget)(Device *d, void *recording);
} DeviceOps;

enum { DEVICE_TARGET_BYTES = 32, DEVICE_LABEL_BYTES = 96, DEVICE_NAME_BYTES = 96 };

struct Device {
    const DeviceOps *ops;
    char target[DEVICE_TARGET_BYTES]; /* of packs that are built for it: "sm_90a"; "": the host's, see cpu.h */
    char label[DEVICE_LABEL_BYTES];   /* for users: "cuda:0 (NVIDIA H200)" */
    char name[DEVICE_NAME_BYTES];     /* of its results of tuning: "nvidia-h200"; "": the host's, see cpu_device */
};

/* device_host.c. `threads` as in pool_new. With a queue a thread of the device's own runs launches and fills one after
 * the other while the caller goes on; otherwise they are done when they return, and the calling thread must be the one
 * that launches, since it takes part. */
Device *device_host_open(int threads, bool queue, Err *err);

/* Memory that new allocations of this process may take, in bytes: what the kernel calls available, within the limit of
 * the cgroup; and the machine's. */
void host_memory(int64_t *available, int64_t *total);

/* What DeviceOps.fill repeats: DEVICE_FILL_TILE random bytes, or the first n of them. */
enum { DEVICE_FILL_TILE = 4099 * 64 };
void device_fill_tile(uint8_t *tile, size_t n, const PlanFill *fill, uint64_t seed);

/* device_gpu.c. Opens the GPU that `name` means: "auto" (NULL), "host", "cuda", "cuda:1", "hip", "hip:0". *d is NULL
 * for the host, which is also what "auto" means where no GPU is usable. One that was asked for and is not there is an
 * error. */
bool device_gpu_open(const char *name, Device **d, Err *err);
bool device_name_valid(const char *name, Err *err); /* whether it is such a name; NULL is */

/* device_target.c. How well a pack for `target` serves a device whose own target is `device` ("": the host): 0 best,
 * more is worse, -1 not at all. */
int device_rank(const char *device, const char *target);
/* The target of an NVIDIA GPU by its compute capability, of an AMD GPU by the name of its architecture
 * ("gfx90a:sramecc+"), of a stand-in by its name "SIMT sm_80" ("simt:sm_80"); false and a message when there is none.
 */
bool device_target_nvidia(const char *name, int major, int minor, char target[DEVICE_TARGET_BYTES], Err *err);
bool device_target_amd(const char *name, const char *arch, char target[DEVICE_TARGET_BYTES], Err *err);

#endif
