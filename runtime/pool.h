/* pool.h - a persistent pool of threads with fork/join over numbered blocks.
 *
 * The caller of pool_run takes part as thread 0. A worker that is late (asleep, descheduled) is not waited for: when
 * all blocks are claimed, the job closes, and only threads that joined in time are. Idle workers spin for a moment
 * and then sleep on a futex; with more threads than cores nobody spins. One thread at a time may use a pool.
 */
#ifndef BLADE_POOL_H
#define BLADE_POOL_H

#include "base.h"

typedef struct Pool Pool;

/* Runs blocks begin .. end-1; `thread` is 0 .. threads-1. */
typedef void PoolFn(void *context, int64_t begin, int64_t end, int thread);

/* Cores that this process may use: its affinity mask, one thread a physical core, at most its cgroup's CPU quota. */
int pool_cores(void);

/* `threads` 0: pool_cores(). When every core gets a thread, each is pinned to its own, the calling thread too (until
 * pool_free, which must be called by the same thread). */
Pool *pool_new(int threads, Err *err);
void pool_free(Pool *p); /* NULL is allowed */
int pool_threads(const Pool *p);

/* Runs all blocks once, in any order and on any thread, in ranges; returns when all are done and visible. */
void pool_run(Pool *p, PoolFn *fn, void *context, int64_t blocks);

/* Scratch memory of each thread: at least `bytes`, 64-byte aligned. Contents are lost when it grows. */
bool pool_reserve_scratch(Pool *p, size_t bytes, Err *err);
void *pool_scratch(const Pool *p, int thread);

#endif
