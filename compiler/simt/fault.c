/* fault.c - what the processor refuses while a kernel runs becomes a message: the handler sends the thread to a stack
 * of its own, where it says what was wrong and leaves. Signals that no kernel caused go to who had them before. */
#include "machine.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

enum { ALT_STACK = 64 << 10, NEAR = 16 << 20 /* bytes from a region that still count as meant for it */ };

static const int caught[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
static struct sigaction before[COUNT(caught)];

typedef struct Fault {
    int signal;
    bool kernel, write; /* not about an address: misaligned or not canonical */
    uintptr_t address;
    Thread *thread;
} Fault;

static _Thread_local Machine *running;
static _Thread_local Fault fault;

/* ---- messages ------------------------------------------------------------------------------------------------- */

/* Bytes between an address and a region; 0 inside. */
static uintptr_t distance(const SimtRegion *r, uintptr_t at)
{
    uintptr_t begin = (uintptr_t)r->at, end = begin + r->size;
    return at < begin ? begin - at : at >= end ? at - end + 1 : 0;
}

static const SimtRegion *nearest(const SimtLaunch *l, uintptr_t at)
{
    const SimtRegion *best = NULL;
    for (int i = 0; i < l->region_count; i++)
        if (distance(&l->regions[i], at) <= NEAR && (!best || distance(&l->regions[i], at) < distance(best, at)))
            best = &l->regions[i];
    return best;
}

static void tell_address(Machine *m, const Fault *f)
{
    const char *verb = f->write ? "writes" : "reads";
    const SimtRegion *r = nearest(m->launch, f->address);
    uintptr_t at = f->address, stacks = (uintptr_t)m->stacks, on_chip = (uintptr_t)m->on_chip;
    if (at >= stacks && at < stacks + (uintptr_t)(m->capacity + 1) * FIBER_SLOT)
        machine_fail(m, f->thread, "needs more than the %d bytes of a thread's stack", FIBER_SLOT - FIBER_GUARD);
    else if (at >= on_chip && at < on_chip + m->on_chip_size)
        machine_fail(m, f->thread, "%s byte %lld of on-chip memory, which has %lld bytes", verb,
                     (long long)(intptr_t)(at - (uintptr_t)m->shared), (long long)m->launch->shared);
    else if (!r)
        machine_fail(m, f->thread, "%s address %#llx, which is no buffer's", verb, (unsigned long long)at);
    else if (!distance(r, at))
        machine_fail(m, f->thread, "%s byte %lld of '%s', which it may not", verb,
                     (long long)(at - (uintptr_t)r->at), r->name);
    else
        machine_fail(m, f->thread, "%s %lld bytes %s '%s' of %zu bytes", verb, (long long)distance(r, at),
                     at < (uintptr_t)r->at ? "before" : "past the end of", r->name, r->size);
}

/* Runs on the emergency stack in place of what faulted; the address sanitizer does not know that stack. */
__attribute__((no_sanitize_address)) static void landed(void)
{
    Machine *m = running;
    switch (fault.signal) {
    case SIGFPE: machine_fail(m, fault.thread, "divides integers by zero"); break;
    case SIGILL: machine_fail(m, fault.thread, "comes to an instruction that stops it (trap or unreachable)"); break;
    default:
        if (fault.kernel)
            machine_fail(m, fault.thread, "misaligned: an access at an address that is not a multiple of what the code "
                                          "declares, or an address that cannot be");
        else
            tell_address(m, &fault);
    }
    machine_leave(m);
}

/* ---- signals -------------------------------------------------------------------------------------------------- */

static void hand_on(int signal, siginfo_t *info, void *context)
{
    for (size_t i = 0; i < COUNT(caught); i++) {
        if (caught[i] != signal)
            continue;
        if (before[i].sa_flags & SA_SIGINFO)
            before[i].sa_sigaction(signal, info, context);
        else if (before[i].sa_handler == SIG_DFL || before[i].sa_handler == SIG_IGN)
            sigaction(signal, &before[i], NULL); /* it happens again at once, for good */
        else
            before[i].sa_handler(signal);
        return;
    }
}

#if defined(__x86_64__)
static void handler(int signal, siginfo_t *info, void *context)
{
    ucontext_t *u = context;
    greg_t *r = u->uc_mcontext.gregs;
    Machine *m = running;
    uintptr_t sp = (uintptr_t)r[REG_RSP];
    if (!m || sp - (uintptr_t)m->stacks >= (uintptr_t)m->capacity * FIBER_SLOT) {
        hand_on(signal, info, context);
        return;
    }
    fault = (Fault){.signal = signal, .address = (uintptr_t)info->si_addr};
    fault.thread = fiber_top((void *)sp, sizeof(Thread));
    fault.kernel = info->si_code == SI_KERNEL || (signal == SIGBUS && info->si_code == BUS_ADRALN);
    fault.write = r[REG_ERR] & 2;
    uint8_t *top = m->stacks + (size_t)(m->capacity + 1) * FIBER_SLOT - 4096;
    r[REG_RSP] = (greg_t)(uintptr_t)(top - 8); /* as after a call */
    r[REG_RIP] = (greg_t)(uintptr_t)landed;
    r[REG_EFL] &= ~(greg_t)0x400; /* direction */
}
#else
static void handler(int signal, siginfo_t *info, void *context)
{
    (void)landed;
    hand_on(signal, info, context);
}
#endif

/* Again at every launch: others may have set handlers of their own since. */
static void install(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct sigaction ours = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK}, now;
    sigemptyset(&ours.sa_mask);
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < COUNT(caught); i++) {
        sigaction(caught[i], NULL, &now);
        if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == handler)
            continue;
        before[i] = now;
        sigaction(caught[i], &ours, NULL);
    }
    pthread_mutex_unlock(&lock);
}

/* A thread's own stack for signals, for as long as it lives. */
static pthread_key_t alt_key;

static void alt_free(void *p)
{
    stack_t off = {.ss_flags = SS_DISABLE};
    sigaltstack(&off, NULL);
    free(p);
}

static void make_key(void)
{
    pthread_key_create(&alt_key, alt_free);
}

static bool alt_stack(Err *err)
{
    stack_t now, ours = {.ss_size = ALT_STACK};
    if (!sigaltstack(NULL, &now) && !(now.ss_flags & SS_DISABLE))
        return true;
    ours.ss_sp = xmalloc(ALT_STACK);
    if (sigaltstack(&ours, NULL) < 0) {
        free(ours.ss_sp);
        return err_set(err, "cannot set a stack for signals: %s", strerror(errno));
    }
    pthread_setspecific(alt_key, ours.ss_sp);
    return true;
}

bool fault_begin(Machine *m, Err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_key);
    if (!alt_stack(err))
        return false;
    install();
    fiber_forget(m->stacks + (size_t)m->capacity * FIBER_SLOT);
    running = m;
    return true;
}

void fault_end(void)
{
    running = NULL;
}
