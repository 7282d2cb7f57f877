/* Tests of compiler/source.c, its program bladegen-source, and what kernel_cache.c does when a source body can't be
 * had: with fake compilers that work, fail, hang, crash, give nothing or give bad code; and with the real ones
 * where they are. */
#include "test.h"

#include "generator.h"
#include "kernel_cache.h"
#include "source.h"

#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>

static char folder[] = "/tmp/blade-source-XXXXXX";

static Generator *open_generator(const char *target)
{
    Err err = {0};
    const Target *t = target_find(target, &err);
    Generator *g = t ? gen_open(SOURCE_DIR, t, &err) : NULL;
    if (!g)
        fail_msg("%s", err.text);
    return g;
}

static const Kernel *sampler(Generator *g, const char *vocab)
{
    Err err = {0};
    const Kernel *k = gen_show(g, "sample", &vocab, 1, NULL, &err);
    if (!k)
        fail_msg("%s", err.text);
    return k;
}

static int files_in(const char *path)
{
    DIR *d = opendir(path);
    int n = 0;
    for (struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

static void forget_kernels(void)
{
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
}

static void fake(const char *variable, const char *mode)
{
    char path[4096];
    snprintf(path, sizeof path, BUILD_DIR "/lib/libfake_rtc_%s.so", mode);
    setenv(variable, path, 1);
}

static void compile(const char *target, const char *vocab, CompiledKernel *out)
{
    Err err = {0};
    Generator *g = open_generator(target);
    *out = (CompiledKernel){0};
    if (!kernel_cache_compile(folder, sampler(g, vocab), target_find(target, &err), out, &err))
        fail_msg("%s", err.text);
    gen_close(g);
}

static void a_compiler_that_works(void **state)
{
    (void)state;
    CompiledKernel o;
    forget_kernels();
    fake("BLADE_NVRTC", "GOOD");
    for (int i = 0; i < 2; i++) { /* compiled, and taken from the folder */
        compile("sm_80", "vocab=50", &o);
        assert_null(o.warning);
        assert_non_null(strstr(o.code.data, "Used 40 registers"));
        assert_int_equal(o.info.threads, 1024);
        assert_int_equal(o.info.registers, 40);
        assert_int_equal(o.info.occupancy, 1);
        assert_true(o.info.shared >= 29000 && o.info.shared < 49152);
        assert_int_equal(files_in(folder), 1);
        compiled_free(&o);
    }
}

/* The generated kernel, with a warning that says why; not kept where it may work next time. */
static void falls_back(const char *target, const char *why, int kept)
{
    CompiledKernel o;
    forget_kernels();
    compile(target, "vocab=50", &o);
    assert_non_null(o.warning);
    if (!strstr(o.warning, why) || !strstr(o.warning, "sampler.cu") ||
        !strstr(o.warning, "the generated kernel is used"))
        fail_msg("no \"%s\" in: %s", why, o.warning);
    assert_true(o.info.threads >= 32 && o.info.threads <= 1024 && o.code.len > 1000);
    assert_null(memmem(o.code.data, o.code.len, "Used 40", 7));
    assert_int_equal(files_in(folder), kept);
    compiled_free(&o);
}

static void compilers_that_do_not(void **state)
{
    (void)state;
    fake("BLADE_NVRTC", "FAIL");
    falls_back("sm_80", "ended with status 1: sampler.cu(7): error: expected a declaration\nRTC_ERROR_COMPILATION", 0);
    fake("BLADE_NVRTC", "CRASH");
    falls_back("sm_80", "bladegen-source crashed (signal 11", 0);
    fake("BLADE_NVRTC", "EMPTY");
    falls_back("sm_90a", "it gave no code", 0);
    fake("BLADE_NVRTC", "SPILLS");
    falls_back("sm_80", "8 bytes a thread lie in memory of its own", 0);
    double before = source_seconds;
    source_seconds = 0.3;
    fake("BLADE_NVRTC", "HANG");
    falls_back("sm_80", "did not end within 0.3 seconds and was stopped", 0);
    source_seconds = before;
    setenv("BLADE_NVRTC", SOURCE_DIR "/README.md", 1);
    falls_back("sm_80", "README.md: invalid ELF header", 0);
    setenv("BLADE_NVRTC", "/no/such/libnvrtc.so", 1);
    falls_back("sm_80", "no NVRTC (libnvrtc.so) is found", 1);
    fake("BLADE_HIPRTC", "GOOD");
    falls_back("gfx90a", "has no metadata that can be read", 0);
    fake("BLADE_HIPRTC", "CRASH");
    falls_back("gfx1100", "bladegen-source crashed", 0);
}

/* Debian's HIPRTC dies of architectures that it doesn't know: it isn't asked. */
static void architectures_are_known(void **state)
{
    (void)state;
    char path[256], libraries[] = "/tmp/blade-rocm-XXXXXX";
    const char *old = getenv("LD_LIBRARY_PATH");
    char *before = old ? xstrdup(old) : NULL;
    Buf why = {0};
    Err err = {0};
    assert_non_null(mkdtemp(libraries));
    snprintf(path, sizeof path, "%s/libamdhip64.so.5", libraries);
    assert_int_equal(symlink(BUILD_DIR "/lib/libfake_rtc_CRASH.so", path), 0);
    setenv("LD_LIBRARY_PATH", libraries, 1);
    unsetenv("BLADE_HIPRTC");
    if (source_compiler_for(target_find("gfx1100", &err), &why)) /* a newer one is installed */
        assert_true(true);
    else
        assert_non_null(strstr(why.data, "libamdhip64.so.5 is not known to compile for gfx1100"));
    assert_true(source_compiler_for(target_find("gfx90a", &err), NULL));
    assert_false(source_compiler_for(target_find("simt:gfx90a", &err), NULL));
    assert_false(source_compiler_for(target_find("x86-64", &err), NULL));
    buf_free(&why);
    unlink(path);
    rmdir(libraries);
    if (before)
        setenv("LD_LIBRARY_PATH", before, 1);
    else
        unsetenv("LD_LIBRARY_PATH");
    free(before);
}

/* Kernels for the SIMT machine are the generated ones. */
static void simt_targets_are_generated(void **state)
{
    (void)state;
    CompiledKernel o;
    fake("BLADE_NVRTC", "GOOD");
    compile("simt:sm_80", "vocab=50", &o);
    assert_null(o.warning);
    assert_memory_equal(o.code.data, "\177ELF", 4);
    compiled_free(&o);
}

static char *own_nvrtc, *own_hiprtc; /* as the environment had them */

static void real_compilers(void **state)
{
    (void)state;
    static const char *const targets[] = {"sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "gfx90a", "gfx942",
                                          "gfx1100"};
    int seen = 0;
    forget_kernels();
    unsetenv("BLADE_NVRTC");
    unsetenv("BLADE_HIPRTC");
    if (own_nvrtc)
        setenv("BLADE_NVRTC", own_nvrtc, 1);
    if (own_hiprtc)
        setenv("BLADE_HIPRTC", own_hiprtc, 1);
    for (size_t i = 0; i < COUNT(targets); i++) {
        Err err = {0};
        const Target *t = target_find(targets[i], &err);
        if (!source_compiler_for(t, NULL))
            continue;
        Generator *g = open_generator(targets[i]);
        Buf code = {0};
        KernelInfo info;
        for (int large = 0; large < 2; large++) {
            buf_free(&code);
            if (!source_compile(sampler(g, large ? "vocab=151936" : "vocab=50"), t, &code, &info, &err))
                fail_msg("%s: %s", targets[i], err.text);
            assert_memory_equal(code.data, "\177ELF", 4);
            assert_true(info.registers >= 16 && info.registers <= 128 && !info.stack && info.occupancy >= 1);
        }
        printf("%s: %d registers, %lld bytes of shared memory, %zu bytes of code\n", targets[i], info.registers,
               (long long)info.shared, code.len);
        buf_free(&code);
        gen_close(g);
        seen++;
    }
    if (!seen)
        skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_compiler_that_works), cmocka_unit_test(compilers_that_do_not),
        cmocka_unit_test(architectures_are_known), cmocka_unit_test(simt_targets_are_generated),
        cmocka_unit_test(real_compilers)};
    own_nvrtc = getenv("BLADE_NVRTC") ? xstrdup(getenv("BLADE_NVRTC")) : NULL;
    own_hiprtc = getenv("BLADE_HIPRTC") ? xstrdup(getenv("BLADE_HIPRTC")) : NULL;
    if (!mkdtemp(folder))
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    forget_kernels();
    rmdir(folder);
    free(own_nvrtc);
    free(own_hiprtc);
    return failed;
}
