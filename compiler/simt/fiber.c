/* fiber.c - switching between stacks: by a few instructions on x86-64, with ucontext elsewhere. The sanitizer for
 * addresses is told about every switch; that for threads must not see this folder's code (see CMakeLists.txt). */
#include "fiber.h"

#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define LEAVING(fake, to) __sanitizer_start_switch_fiber(fake, (to)->bottom, (to)->size)
#define BACK(fake, bottom, size) __sanitizer_finish_switch_fiber(fake, bottom, size)
#define FORGET(p, n) __asan_unpoison_memory_region(p, n)
#else
#define LEAVING(fake, to) ((void)(fake), (void)(to))
#define BACK(fake, bottom, size) ((void)(fake), (void)(bottom), (void)(size))
#define FORGET(p, n) ((void)(p), (void)(n))
#endif

/* ---- stacks --------------------------------------------------------------------------------------------------- */

uint8_t *fiber_stacks_new(int n)
{
    size_t size = ((size_t)n + 1) * FIBER_SLOT; /* one more, for the alignment */
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
#ifdef MAP_32BIT
    flags |= MAP_32BIT;
#endif
    uint8_t *map = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (map == MAP_FAILED)
        return NULL;
    uint8_t *stacks = map + (-(uintptr_t)map & (FIBER_SLOT - 1));
    if (stacks > map)
        munmap(map, (size_t)(stacks - map));
    munmap(stacks + (size_t)n * FIBER_SLOT, (size_t)(map + size - stacks) - (size_t)n * FIBER_SLOT);
    for (int i = 0; i < n; i++)
        mprotect(stacks + (size_t)i * FIBER_SLOT, FIBER_GUARD, PROT_NONE);
    return stacks;
}

void fiber_stacks_free(uint8_t *stacks, int n)
{
    if (!stacks)
        return;
    FORGET(stacks, (size_t)n * FIBER_SLOT);
    munmap(stacks, (size_t)n * FIBER_SLOT);
}

/* ---- switching ------------------------------------------------------------------------------------------------ */

#if defined(__x86_64__)

/* Saves what a call must preserve on the stack and takes the other one's from its stack. A jump, not a return: the
 * processor would predict the returns wrong. */
void fiber_swap(void **save, void *sp);
__asm__(".pushsection .text\n"
        ".hidden fiber_swap\n"
        ".globl fiber_swap\n"
        ".type fiber_swap, @function\n"
        ".p2align 4\n"
        "fiber_swap:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    popq %rcx\n"
        "    jmpq *%rcx\n"
        ".size fiber_swap, . - fiber_swap\n"
        ".popsection\n");

static void prepare(Fiber *f, uint8_t *low, uint8_t *top, void (*entry)(void))
{
    (void)low;
    void **sp = (void **)((uintptr_t)top & ~(uintptr_t)15);
    *--sp = NULL; /* the return address of `entry`, which also aligns the stack as after a call */
    *--sp = (void *)(uintptr_t)entry;
    for (int saved = 0; saved < 6; saved++)
        *--sp = NULL;
    f->sp = sp;
}

static void swap(Fiber *from, Fiber *to)
{
    fiber_swap(&from->sp, to->sp);
}

#else

static void prepare(Fiber *f, uint8_t *low, uint8_t *top, void (*entry)(void))
{
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = low;
    f->context.uc_stack.ss_size = (size_t)(top - low);
    f->context.uc_link = NULL;
    makecontext(&f->context, entry, 0);
}

static void swap(Fiber *from, Fiber *to)
{
    swapcontext(&from->context, &to->context);
}

#endif

void fiber_forget(void *slot)
{
    FORGET((uint8_t *)slot + FIBER_GUARD, FIBER_SLOT - FIBER_GUARD);
}

void fiber_init(Fiber *f, void *top, void (*entry)(void))
{
    uint8_t *slot = (uint8_t *)((uintptr_t)top >> FIBER_SHIFT << FIBER_SHIFT), *low = slot + FIBER_GUARD;
    FORGET(low, (size_t)((uint8_t *)top - low));
    memset(f, 0, sizeof *f);
    f->bottom = low;
    f->size = (size_t)((uint8_t *)top - low);
    prepare(f, low, top, entry);
}

void fiber_switch(Fiber *from, Fiber *to)
{
    LEAVING(&from->fake, to);
    swap(from, to);
    BACK(from->fake, NULL, NULL);
}

void fiber_entered(Fiber *main)
{
    const void *bottom = NULL;
    size_t size = 0;
    BACK(NULL, &bottom, &size);
    if (!main->bottom) {
        main->bottom = bottom;
        main->size = size;
    }
}

void fiber_leave(Fiber *to)
{
    Fiber dead;
    LEAVING(NULL, to);
    swap(&dead, to);
    __builtin_unreachable();
}
