/* cpu.c - host targets and the CPU features they need; see cpu.h.
 *
 * A row lists what the code generator may use, not only what our kernels ask for: a target compiled for a model of
 * processor (znver4) may get any of its vector instructions.
 */
#include "cpu.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)

/* __builtin_cpu_supports wants literals, and sees to the state that the system saves. */
#define V3(X) X("avx2") X("fma") X("bmi") X("bmi2") X("f16c") X("lzcnt") X("movbe") X("popcnt")
#define V4(X) V3(X) X("avx512f") X("avx512bw") X("avx512cd") X("avx512dq") X("avx512vl")
#define BF16(X)                                                                                        \
    V4(X) X("avx512vnni") X("avx512bf16") X("avx512ifma") X("avx512vbmi") X("avx512vbmi2")             \
    X("avx512bitalg") X("avx512vpopcntdq") X("gfni") X("vaes") X("vpclmulqdq")

#define MISSING(feature) \
    if (!__builtin_cpu_supports(feature)) \
        return feature;

static const char *missing_none(void)
{
    return NULL;
}

static const char *missing_v3(void)
{
    V3(MISSING)
    return NULL;
}

static const char *missing_v4(void)
{
    V4(MISSING)
    return NULL;
}

static const char *missing_bf16(void)
{
    BF16(MISSING)
    return NULL;
}

static const struct {
    const char *target;
    const char *(*missing)(void); /* a feature that is not there; NULL when all are */
} rows[] = {
    {"x86-64-v4-bf16", missing_bf16},
    {"x86-64-v4", missing_v4},
    {"x86-64-v3", missing_v3},
    {"x86-64", missing_none},
};

#else

static const char *missing_none(void)
{
    return NULL;
}

static const struct {
    const char *target;
    const char *(*missing)(void);
} rows[] = {
    {"aarch64", missing_none},
};

#endif

bool cpu_runs(const char *target, Err *err)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    for (size_t i = 0; i < COUNT(rows); i++) {
        if (strcmp(rows[i].target, target))
            continue;
        const char *missing = rows[i].missing();
        return !missing || err_set(err, "built for %s, but this processor lacks %s; it runs %s", target, missing,
                                   cpu_best());
    }
    return err_set(err, "built for %s; this machine runs %s", target, cpu_best());
}

int cpu_rank(const char *target)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    for (size_t i = 0; i < COUNT(rows); i++)
        if (!strcmp(rows[i].target, target) && !rows[i].missing())
            return (int)i;
    return -1;
}

const char *cpu_best(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    for (size_t i = 0; i < COUNT(rows) - 1; i++)
        if (!rows[i].missing())
            return rows[i].target;
    return rows[COUNT(rows) - 1].target;
}

/* ---- the machine's name ------------------------------------------------------------------------------------------ */

/* The value of the first line of /proc/cpuinfo that begins with `key`, "" when there is none. */
static void cpu_info(const char *key, char *out, size_t size)
{
    char line[512];
    FILE *f = fopen("/proc/cpuinfo", "r");
    *out = 0;
    while (f && !*out && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        size_t n = strlen(key);
        if (colon && !strncmp(line, key, n) && isspace((unsigned char)line[n]))
            snprintf(out, size, "%s", colon + 1 + strspn(colon + 1, " \t"));
    }
    if (f)
        fclose(f);
    out[strcspn(out, "\n")] = 0;
}

/* Appends `text` in lower case with a dash for every run of other characters; "(R)" and what follows an @ are
 * dropped. */
void device_slug(char *out, size_t size, const char *text)
{
    size_t n = strlen(out);
    bool dash = n > 0;
    for (; *text && *text != '@'; text++) {
        if (*text == '(' && strchr(text, ')'))
            text = strchr(text, ')');
        else if (!isalnum((unsigned char)*text))
            dash = n > 0;
        else if (n + 2 < size) {
            if (dash)
                out[n++] = '-';
            dash = false;
            out[n++] = (char)tolower((unsigned char)*text);
        }
    }
    out[n] = 0;
}

void cpu_device(char out[CPU_DEVICE_BYTES])
{
    char model[256], family[32], number[32], tail[96];
    long cores = sysconf(_SC_NPROCESSORS_ONLN), class = 1;
    while (class < cores)
        class *= 2;
    cpu_info("model name", model, sizeof model);
    cpu_info("cpu family", family, sizeof family);
    cpu_info("model", number, sizeof number);
    snprintf(tail, sizeof tail, "f%.20sm%.20s", family, number);
    if (!*model) { /* AArch64 names implementer and part only */
        cpu_info("CPU implementer", family, sizeof family);
        cpu_info("CPU part", number, sizeof number);
        snprintf(tail, sizeof tail, "cpu-%.20s-%.20s", family, number);
    }
    *out = 0;
    device_slug(out, CPU_DEVICE_BYTES - 16, model);
    device_slug(out, CPU_DEVICE_BYTES - 16, tail);
    size_t n = strlen(out);
    snprintf(out + n, CPU_DEVICE_BYTES - n, "-%ldc", class);
}
