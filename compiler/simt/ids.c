/* ids.c - shims that tell a thread who it is. */
#include "machine.h"

int simt_thread(void) { return thread_self()->index; }
int simt_threads(void) { return thread_self()->machine->launch->threads; }
int simt_block(void) { return (int)thread_self()->machine->block; }
int simt_blocks(void) { return (int)thread_self()->machine->launch->blocks; }
int simt_lane(void) { return thread_self()->lane; }
int simt_wave(void) { return thread_self()->machine->launch->wave; }
int simt_zero(void) { return 0; }
int simt_one(void) { return 1; }

/* base + how many lanes below this one have their bit set, for bits 0..31 and 32..63 of a mask. */
int simt_mbcnt_lo(uint32_t mask, int base)
{
    int lane = thread_self()->lane;
    return base + __builtin_popcount(lane >= 32 ? mask : mask & ((1u << lane) - 1));
}

int simt_mbcnt_hi(uint32_t mask, int base)
{
    int lane = thread_self()->lane;
    return base + (lane < 32 ? 0 : __builtin_popcount(mask & ((1u << (lane - 32)) - 1)));
}

/* The block's on-chip memory, of which the code uses `bytes` at least. */
void *simt_shared(int64_t bytes)
{
    const Machine *m = thread_self()->machine;
    if (bytes > m->launch->shared)
        thread_fail("needs %lld bytes of on-chip memory, is launched with %lld", (long long)bytes,
                    (long long)m->launch->shared);
    return m->shared;
}
