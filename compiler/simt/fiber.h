/* fiber.h - stacks that take turns on one thread of the operating system. */
#ifndef BLADE_FIBER_H
#define BLADE_FIBER_H

#include "base.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

/* A stack's slot: pages that fault, the stack, and room for its owner's data at the upper end. */
enum { FIBER_SHIFT = 17, FIBER_SLOT = 1 << FIBER_SHIFT, FIBER_GUARD = 32 << 10 };

typedef struct Fiber {
#if defined(__x86_64__)
    void *sp;
#else
    ucontext_t context;
#endif
    const void *bottom; /* of the stack, for the address sanitizer, with `size` and the fake stack */
    size_t size;
    void *fake;
} Fiber;

/* Where an owner's `size` bytes lie in the slot of which `p` is any address. Slots are shifted against each other, else
 * all stacks would compete for the same lines of the cache. */
static inline void *fiber_top(const void *p, size_t size)
{
    uintptr_t slot = (uintptr_t)p >> FIBER_SHIFT;
    return (void *)(((slot + 1) << FIBER_SHIFT) - (slot % 16 + 1) * 256 - (size + 63) / 64 * 64);
}

/* n slots at a multiple of FIBER_SLOT, below 4 GB: 32-bit pointers of GPUs survive. NULL: no room. */
uint8_t *fiber_stacks_new(int n);
void fiber_stacks_free(uint8_t *stacks, int n);

/* Prepares a fiber whose stack ends at `top`, inside of a slot, to run `entry`, which never returns. */
void fiber_init(Fiber *f, void *top, void (*entry)(void));
/* Leaves `from` until somebody switches to it. The first statement of an entry is fiber_entered(main). */
void fiber_switch(Fiber *from, Fiber *to);
void fiber_entered(Fiber *main);
/* Leaves for good: the stack is not used again before fiber_init. */
void fiber_leave(Fiber *to) __attribute__((noreturn));
/* What was left on a slot by whoever left for good counts no more (address sanitizer). */
void fiber_forget(void *slot);

#endif
