/* Tests of runtime/jit.c with a generator that builds the toy model: hits, stale and corrupt packs, many processes at
 * once, folders that can't be written, a missing or failing generator, packs that the user names, leftovers. */
#include "test.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpoint.h"
#include "cpu.h"
#include "jit.h"
#include "toy.h"

static char model[64], cache[80];
static uint64_t fingerprint;

static void write_file(const char *name, const char *text)
{
    char path[128];
    Err err = {0};
    snprintf(path, sizeof path, "%s/%s", model, name);
    assert_true(file_write_atomic(path, text, strlen(text), &err));
}

static int builds(void)
{
    char path[128];
    Buf b = {0};
    snprintf(path, sizeof path, "%s/log", model);
    file_read(&b, path, 1 << 20, NULL);
    int n = (int)(b.len / strlen("built\n"));
    buf_free(&b);
    return n;
}

static void run(const char *format, const char *a)
{
    char command[256];
    snprintf(command, sizeof command, format, a);
    assert_int_equal(system(command), 0);
}

static int set_up(void **state)
{
    (void)state;
    Err err = {0};
    strcpy(model, "/tmp/blade_jit_XXXXXX");
    assert_non_null(mkdtemp(model));
    snprintf(cache, sizeof cache, "%s/cache", model);
    assert_true(toy_checkpoint(model, &err));
    Checkpoint *c = ckpt_open(model, &err);
    assert_non_null(c);
    fingerprint = ckpt_fingerprint(c);
    ckpt_close(c);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    run("rm -rf %s", model);
    return 0;
}

static JitRequest request(void)
{
    return (JitRequest){.model = model, .fingerprint = fingerprint, .weights = "auto", .cache = cache,
                        .generator = FAKE_PATH};
}

/* Gets the pack; the warning's text is "" without one. */
static bool get(const JitRequest *r, char warning[512], Err *err)
{
    Pack p;
    Buf w = {0};
    bool ok = jit_pack(r, &p, &w, err);
    if (ok) {
        assert_int_equal(p.header.fingerprint, r->fingerprint);
        assert_string_equal(p.header.target, cpu_best());
        pack_close(&p);
    }
    snprintf(warning, 512, "%s", w.data ? w.data : "");
    buf_free(&w);
    return ok;
}

static void expect_builds(const JitRequest *r, int expected)
{
    char warning[512];
    Err err = {0};
    if (!get(r, warning, &err))
        fail_msg("%s", err.text);
    assert_string_equal(warning, "");
    assert_int_equal(builds(), expected);
}

static char *pack_path(void)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%016llx-%s-auto.pack", cache, (unsigned long long)fingerprint, cpu_best());
    return path;
}

static void second_use_is_a_hit(void **state)
{
    (void)state;
    JitRequest r = request();
    expect_builds(&r, 1);
    expect_builds(&r, 1);
    r.weights = "w4"; /* another pack */
    expect_builds(&r, 2);
}

static void stale_and_corrupt_packs_are_rebuilt(void **state)
{
    (void)state;
    JitRequest r = request();
    Err err = {0};
    expect_builds(&r, 1);
    int fd = open(pack_path(), O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "x", 1, 300), 1);
    close(fd);
    expect_builds(&r, 2);
    assert_int_equal(truncate(pack_path(), 100), 0);
    expect_builds(&r, 3);
    assert_true(file_write_atomic(pack_path(), "", 0, &err));
    expect_builds(&r, 4);
    PackHeader stale = {.fingerprint = fingerprint, .signature = 1, .weights = "auto"};
    snprintf(stale.target, sizeof stale.target, "%s", cpu_best());
    assert_true(toy_pack(pack_path(), &stale, &err));
    expect_builds(&r, 5);
    stale.signature = 0, stale.fingerprint++;
    assert_true(toy_pack(pack_path(), &stale, &err));
    expect_builds(&r, 6);
    expect_builds(&r, 6);
}

static void unexpected_signature_is_said(void **state)
{
    (void)state;
    JitRequest r = request();
    char warning[512];
    Err err = {0};
    write_file("behaviour", "unsigned");
    assert_true(get(&r, warning, &err));
    assert_non_null(strstr(warning, "same build"));
}

/* Eight processes ask at once; one builds. */
static void one_process_builds_while_others_wait(void **state)
{
    (void)state;
    JitRequest r = request();
    write_file("behaviour", "slow");
    enum { PROCESSES = 8 };
    pid_t pids[PROCESSES];
    for (int i = 0; i < PROCESSES; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (!pids[i]) {
            Pack p;
            Buf w = {0};
            Err err;
            _exit(jit_pack(&r, &p, &w, &err) && !w.len ? 0 : 1);
        }
    }
    for (int i = 0; i < PROCESSES; i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    assert_int_equal(builds(), 1);
    char lock[256];
    snprintf(lock, sizeof lock, "%.*slock", (int)strlen(pack_path()) - 4, pack_path());
    assert_false(file_exists(lock));
}

/* A process that was killed while it built leaves an unlocked lock file and a temporary file. */
static void leftovers_do_no_harm_and_are_removed(void **state)
{
    (void)state;
    JitRequest r = request();
    Err err = {0};
    char lock[256], temporary[300];
    snprintf(lock, sizeof lock, "%.*slock", (int)strlen(pack_path()) - 4, pack_path());
    snprintf(temporary, sizeof temporary, "%s.tmp.999999999.0", pack_path());
    assert_true(dir_make(cache, &err));
    assert_true(file_write_atomic(lock, "", 0, &err));
    assert_true(file_write_atomic(temporary, "half", 4, &err));
    expect_builds(&r, 1);
    assert_false(file_exists(lock));
    assert_false(file_exists(temporary));
}

static void failures_of_the_generator_are_passed_on(void **state)
{
    (void)state;
    JitRequest r = request();
    char warning[512];
    Err err = {0};
    write_file("behaviour", "fail");
    assert_false(get(&r, warning, &err));
    assert_string_equal(err.text, "schedules/host/matmul.lua:12: no such primitive");
    assert_false(file_exists(pack_path()));
    assert_int_equal(builds(), 1); /* not tried again elsewhere */
}

static void missing_generator_is_explained(void **state)
{
    (void)state;
    JitRequest r = request();
    char warning[512];
    Err err = {0};
    r.generator = "/no/such/libbladegen.so";
    assert_false(get(&r, warning, &err));
    assert_non_null(strstr(err.text, "no pack fits and the generator libbladegen.so is not here"));
    assert_non_null(strstr(err.text, "--pack"));
    r.generator = FAKE_PATH;
    expect_builds(&r, 1);
    r.generator = "/no/such/libbladegen.so"; /* where it is not installed, a pack that is there will do */
    expect_builds(&r, 1);
}

static void temporary_pack(const char *expected)
{
    JitRequest r = request();
    char warning[512];
    Err err = {0};
    if (!get(&r, warning, &err))
        fail_msg("%s", err.text);
    assert_non_null(strstr(warning, "temporary file"));
    if (!strstr(warning, expected))
        fail_msg("'%s' lacks '%s'", warning, expected);
}

static void cache_path_that_is_a_file(void **state)
{
    (void)state;
    write_file("cache", "a file");
    temporary_pack("Not a directory");
}

static void no_home_folder(void **state)
{
    (void)state;
    strcpy(cache, "");
    temporary_pack("no home folder");
}

static void default_folder_is_in_xdg_cache_home(void **state)
{
    (void)state;
    JitRequest r = request();
    char expected[128];
    setenv("XDG_CACHE_HOME", model, 1);
    r.cache = NULL;
    expect_builds(&r, 1);
    unsetenv("XDG_CACHE_HOME");
    snprintf(expected, sizeof expected, "%s/blade", model);
    assert_true(file_exists(expected));
}

/* A small file system mounted in a child process's own namespace: full, then read-only. Skipped without the right. */
static void full_and_read_only_folders(void **state)
{
    (void)state;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        if (mkdir(cache, 0777) < 0 || unshare(CLONE_NEWNS) < 0 ||
            mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount("none", cache, "tmpfs", 0, "size=64k") < 0)
            _exit(77);
        JitRequest r = request();
        Pack p;
        Buf full = {0}, read_only = {0};
        Err err = {0};
        if (!jit_pack(&r, &p, &full, &err) || !full.data || !strstr(full.data, "No space left"))
            _exit(1);
        if (mount("none", cache, NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
            _exit(77);
        if (!jit_pack(&r, &p, &read_only, &err) || !read_only.data || !strstr(read_only.data, "Read-only"))
            _exit(2);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(status, 0);
    assert_int_equal(builds(), 2);
}

static void named_packs_must_fit(void **state)
{
    (void)state;
    char path[128];
    Err err = {0};
    Pack p;
    snprintf(path, sizeof path, "%s/my.pack", model);
    PackHeader h = {.target = "x86-64", .weights = "w4", .fingerprint = fingerprint};
    assert_true(toy_pack(path, &h, &err));
    assert_true(jit_open(path, fingerprint, "", NULL, &p, &err));
    pack_close(&p);
    assert_true(jit_open(path, fingerprint, "", "w4", &p, &err));
    pack_close(&p);
    assert_false(jit_open(path, fingerprint, "", "w8", &p, &err));
    assert_non_null(strstr(err.text, "built for weights w4, not w8"));
    assert_false(jit_open(path, fingerprint + 1, "", NULL, &p, &err));
    assert_non_null(strstr(err.text, "another checkpoint"));
    snprintf(h.target, sizeof h.target, "sm_90a");
    assert_true(toy_pack(path, &h, &err));
    assert_false(jit_open(path, fingerprint, "", NULL, &p, &err));
    assert_non_null(strstr(err.text, "built for sm_90a; this machine runs"));
}

static void get_named(const char *path, const char *weights, const char *why, const char *format)
{
    JitRequest r = request();
    Pack p;
    Buf w = {0};
    Err err = {0};
    if (!jit_named(&r, path, weights, &p, &w, &err))
        fail_msg("%s", err.text);
    assert_string_equal(p.header.weights, format);
    assert_string_equal(p.header.target, cpu_best());
    assert_non_null(strstr(w.data, why));
    assert_non_null(strstr(w.data, "generated instead"));
    pack_close(&p);
    buf_free(&w);
}

static void refuse_named(const JitRequest *r, const char *path, const char *why)
{
    Pack p;
    Buf w = {0};
    Err err = {0};
    assert_false(jit_named(r, path, NULL, &p, &w, &err));
    assert_non_null(strstr(err.text, why));
    assert_int_equal(w.len, 0);
}

static void named_packs_that_do_not_fit_are_replaced(void **state)
{
    (void)state;
    char path[128];
    Err err = {0};
    JitRequest r = request();
    snprintf(path, sizeof path, "%s/my.pack", model);
    PackHeader h = {.target = "sm_90a", .weights = "w4", .fingerprint = fingerprint};
    assert_true(toy_pack(path, &h, &err));
    get_named(path, NULL, "built for sm_90a", "w4");
    get_named(path, "w8", "built for weights w4, not w8", "w8");
    h.fingerprint++;
    assert_true(toy_pack(path, &h, &err));
    get_named(path, NULL, "another checkpoint", "w4");
    assert_int_equal(builds(), 2);
    r.generator = "/no/such/libbladegen.so";
    refuse_named(&r, path, "another checkpoint");
    r.generator = FAKE_PATH;
    assert_int_equal(truncate(path, 100), 0);
    refuse_named(&r, path, "truncated"); /* which weights are meant? */
    get_named(path, "w8", "truncated", "w8");
    refuse_named(&r, "/no/such/pack", "No such file");
}

/* Of several targets the best one that runs here is taken. */
static void best_target_of_a_pack_is_taken(void **state)
{
    (void)state;
    char path[128];
    Err err = {0};
    Buf file = {0};
    Pack p;
    static const char *const targets[] = {"aarch64", "x86-64", "x86-64-v3", "sm_90a"};
    PackPart parts[5] = {0};
    for (int i = 0; i < 5; i++) {
        parts[i] = (PackPart){.plan = "{}", .plan_len = 2, .code = (const uint8_t *)"", .code_len = 0};
        snprintf(parts[i].target, sizeof parts[i].target, "%s", i < 4 ? targets[i] : cpu_best());
    }
    snprintf(path, sizeof path, "%s/my.pack", model);
    for (int count = 5; count >= 4; count--) {
        file.len = 0;
        pack_image(&file, &(PackHeader){.weights = "auto", .fingerprint = fingerprint}, parts, count, "", 0);
        assert_true(file_write_atomic(path, file.data, file.len, &err));
        if (!jit_open(path, fingerprint, "", NULL, &p, &err))
            fail_msg("%s", err.text);
        if (count == 5)
            assert_string_equal(p.header.target, cpu_best());
        else
            assert_true(cpu_rank(p.header.target) >= 0);
        pack_close(&p);
    }
    buf_free(&file);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(second_use_is_a_hit),
        TEST(stale_and_corrupt_packs_are_rebuilt),
        TEST(unexpected_signature_is_said),
        TEST(one_process_builds_while_others_wait),
        TEST(failures_of_the_generator_are_passed_on),
        TEST(missing_generator_is_explained),
        TEST(cache_path_that_is_a_file),
        TEST(no_home_folder),
        TEST(default_folder_is_in_xdg_cache_home),
        TEST(full_and_read_only_folders),
        TEST(named_packs_must_fit),
        TEST(named_packs_that_do_not_fit_are_replaced),
        TEST(best_target_of_a_pack_is_taken),
        TEST(leftovers_do_no_harm_and_are_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
