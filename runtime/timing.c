/* timing.c - see timing.h. */
#include "timing.h"

#include <stdio.h>

typedef struct Phase {
    const char *name;
    double seconds;
    int64_t bytes;
} Phase;

enum { MAX_PHASES = 32 };

bool timing_wanted;

static struct {
    double begin, last;
    Phase phases[MAX_PHASES];
    int count, printed;
} t;

void timing_begin(void)
{
    t.begin = t.last = now_seconds();
}

void timing_phase(const char *name, int64_t bytes)
{
    if (!timing_wanted || t.count == MAX_PHASES)
        return;
    double now = now_seconds();
    t.phases[t.count++] = (Phase){name, now - t.last, bytes};
    t.last = now;
}

void timing_print(const char *total)
{
    if (!timing_wanted)
        return;
    for (; t.printed < t.count; t.printed++) {
        const Phase *p = &t.phases[t.printed];
        fprintf(stderr, "  %-26s %10.1f ms", p->name, 1e3 * p->seconds);
        if (p->bytes > 0 && p->seconds > 0)
            fprintf(stderr, "  %9.1f MB, %.2f GB/s", (double)p->bytes / 1e6, (double)p->bytes / p->seconds / 1e9);
        fputc('\n', stderr);
    }
    fprintf(stderr, "  %-26s %10.1f ms\n", total, 1e3 * (t.last - t.begin));
}
