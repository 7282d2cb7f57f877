/* device_host.h - put in front of a source body of templates/device (gcc -include) so that a C compiler takes it: what CUDA
 * and HIP give to a kernel, by the functions of the SIMT machine (compiler/simt). */
#ifndef DEVICE_HOST_H
#define DEVICE_HOST_H

#include <math.h>
#include <stdint.h>

int simt_thread(void), simt_block(void), simt_lane(void);
void *simt_shared(int64_t bytes);
void simt_barrier(int site);
uint32_t simt_ds_bpermute(int site, uint32_t address, uint32_t value);

#define DEVICE static inline
#define KERNEL void
#define ROW simt_block()
#define THREAD simt_thread()
#define SHARED_MEMORY(bytes) unsigned char *memory = simt_shared((int64_t)(bytes))
#define WARP_XOR(value, mask) warp_xor(value, mask)
#define __syncthreads() simt_barrier(__LINE__)

/* Threads are fibers: nothing comes between. */
#define atomicAdd(to, value) (*(to) += (value))
#define atomicMax(to, value) (*(to) = *(to) > (value) ? *(to) : (value))
#define atomicMin(to, value) (*(to) = *(to) < (value) ? *(to) : (value))

static inline uint64_t warp_xor(uint64_t value, int mask)
{
    uint32_t from = 4 * (uint32_t)(simt_lane() ^ mask);
    uint64_t low = simt_ds_bpermute(1, from, (uint32_t)value);
    return low | (uint64_t)simt_ds_bpermute(2, from, (uint32_t)(value >> 32)) << 32;
}

#endif
