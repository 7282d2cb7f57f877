/* fake_rtc.c - stand-ins for NVRTC and HIPRTC that work, fail, hang, crash, give nothing, or give code that spills:
 * one library for each MODE. For tests of compiler/source.c. */
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GOOD, FAIL, HANG, CRASH, EMPTY, SPILLS };

static char text[256];

static int create(void **program, const char *source, const char *name)
{
    *program = text;
    return !strstr(source, "KERNEL kernel(") || strcmp(name, "templates/device/sampler.cu");
}

static int compile(int count, const char *const *options)
{
    int wanted = 0;
    for (int i = 0; i < count; i++)
        wanted += !strcmp(options[i], "-DVOCAB=50") || !strcmp(options[i], "-DTHREADS=1024") ||
                  !strcmp(options[i], "-DSIZE_OUTPUTS=2") || !strncmp(options[i], "-DSHARED=", 9);
    while (MODE == HANG)
        sleep(1);
    if (MODE == CRASH) {
        signal(SIGSEGV, SIG_DFL); /* a sanitizer's own would end with a status */
        raise(SIGSEGV);
    }
    strcpy(text, MODE == FAIL ? "sampler.cu(7): error: expected a declaration"
                              : "ptxas info    : Used 40 registers, used 1 barriers\n"
                                "    8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n");
    if (MODE != FAIL)
        text[strcspn(text, "8")] = MODE == SPILLS ? '8' : '0';
    return MODE == FAIL || wanted != 4;
}

static int size(size_t *n)
{
    *n = strlen(text) + 1;
    return 0;
}

static int give(char *to)
{
    strcpy(to, text);
    return 0;
}

#define RTC(prefix, code)                                                                                             \
    int prefix##CreateProgram(void **p, const char *source, const char *name, int n, const char *const *headers,      \
                              const char *const *names)                                                               \
    {                                                                                                                 \
        (void)n, (void)headers, (void)names;                                                                          \
        return create(p, source, name);                                                                               \
    }                                                                                                                 \
    int prefix##CompileProgram(void *p, int n, const char *const *options) { return (void)p, compile(n, options); }   \
    int prefix##GetProgramLogSize(void *p, size_t *n) { return (void)p, size(n); }                                    \
    int prefix##GetProgramLog(void *p, char *to) { return (void)p, give(to); }                                        \
    int prefix##code##Size(void *p, size_t *n) { return (void)p, MODE == EMPTY ? 1 : size(n); }                       \
    int prefix##code(void *p, char *to) { return (void)p, give(to); }                                                 \
    const char *prefix##GetErrorString(int e) { return e ? "RTC_ERROR_COMPILATION" : "RTC_SUCCESS"; }

RTC(nvrtc, GetCUBIN)
RTC(hiprtc, GetCode)
