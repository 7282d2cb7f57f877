/* device.c - what the stand-in pretends to be, the errors it is told to give, and the one lock. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_driver.h"
#include "standin.h"

static struct {
    pthread_mutex_t lock;
    bool ready, here; /* here: the device is of this library's vendor */
    StDevice device;
    int status;
    char what[16]; /* that is to fail */
    long number, seen;
} st = {.lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP};

void st_lock(void) { pthread_mutex_lock(&st.lock); }
void st_unlock(void) { pthread_mutex_unlock(&st.lock); }
const StDevice *st_device(void) { return &st.device; }
int st_status(void) { return st.ready ? st.status : CUDA_ERROR_NOT_INITIALIZED; }

static const char *setting(const char *name, const char *otherwise)
{
    const char *v = getenv(name);
    return v && *v ? v : otherwise;
}

int st_init(bool nvidia, const char *default_target)
{
    StDevice *d = &st.device;
    const char *target = setting("BLADE_STANDIN_TARGET", default_target);
    int number = 0;
    st.here = !strncmp(target, nvidia ? "sm_" : "gfx", 3);
    st.ready = true;
    st.status = 0;
    st.seen = st.number = st.what[0] = 0;
    snprintf(d->target, sizeof d->target, "%s", target);
    snprintf(d->name, sizeof d->name, "SIMT %s", target);
    sscanf(target, "sm_%d", &number);
    d->nvidia = nvidia;
    d->major = number / 10;
    d->minor = number % 10;
    d->wave = strncmp(target, "gfx9", 4) ? 32 : 64;
    d->memory = (int64_t)atol(setting("BLADE_STANDIN_MEMORY", "1024")) << 20;
    sscanf(setting("BLADE_STANDIN_FAIL", ""), "%15[a-z]:%ld", st.what, &st.number);
    return st.here ? 0 : CUDA_ERROR_NO_DEVICE;
}

int st_count(int *count)
{
    *count = st.here;
    return st_status();
}

int st_name(char *name, int size)
{
    snprintf(name, (size_t)size, "%s", st.device.name);
    return st_status();
}

bool st_fails(const char *what)
{
    return !strcmp(st.what, what) && ++st.seen == st.number;
}

static void tell(const char *format, va_list arguments)
{
    fputs("stand-in: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
}

int st_break(int error, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    tell(format, arguments);
    va_end(arguments);
    if (!st.status)
        st.status = error;
    return error;
}

int st_refuse(int error, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    tell(format, arguments);
    va_end(arguments);
    return error;
}
