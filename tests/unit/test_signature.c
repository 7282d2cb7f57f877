/* Tests of compiler/signature.c and cpu.c: what changes a signature and what does not; which targets run here. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cpu.h"
#include "signature.h"

static char dir[64];

static uint64_t signature(void)
{
    char generator[96];
    snprintf(generator, sizeof generator, "%s/libbladegen.so", dir);
    return source_signature(dir, generator, NULL);
}

static void changes_are_noticed(void **state)
{
    (void)state;
    test_write(dir, "compiler/lua/lib.lua", "lib");
    test_write(dir, "templates/matmul.lua", "a");
    test_write(dir, "schedules/host/matmul.lua", "b");
    test_write(dir, "libbladegen.so", "ELF");
    uint64_t seen[8];
    int n = 0;
    seen[n++] = signature();
    assert_int_equal(signature(), seen[0]);
    static const char *const steps[][2] = {
        {"templates/matmul.lua", "A"},         /* contents */
        {"schedules/host/rmsnorm.lua", ""},    /* another file, even an empty one */
        {"schedules/deep/er/x.lua", "x"},
        {"compiler/lua/lib.lua", "lib2"},
        {"libbladegen.so", "ELF 2"},
    };
    for (size_t i = 0; i < COUNT(steps); i++) {
        test_write(dir, steps[i][0], steps[i][1]);
        seen[n] = signature();
        for (int k = 0; k < n; k++)
            if (seen[n] == seen[k])
                fail_msg("%s was not noticed", steps[i][0]);
        n++;
    }
}

static void other_files_do_not_matter(void **state)
{
    (void)state;
    uint64_t before = signature();
    test_write(dir, "templates/notes.txt", "text");
    test_write(dir, "templates/.hidden.lua", "editor");
    test_write(dir, "tests/x.lua", "not a source");
    assert_int_equal(signature(), before);
    assert_true(source_signature("/no/such/folder", NULL, NULL) != 0);
}

static void sources_are_found_beside_the_generator(void **state)
{
    (void)state;
    char found[4096], expected[256], generator[128];
    snprintf(generator, sizeof generator, "%s/lib/libbladegen.so", dir);
    source_folder(generator, found, sizeof found);
    assert_string_equal(found, SOURCE_DIR);
    test_write(dir, "share/blade/templates/x.lua", "");
    test_write(dir, "lib/libbladegen.so", "");
    source_folder(generator, found, sizeof found);
    snprintf(expected, sizeof expected, "%s/lib/../share/blade", dir);
    assert_string_equal(found, expected);
}

static void targets_that_run_here(void **state)
{
    (void)state;
    Err err = {0};
    if (!cpu_runs(cpu_best(), &err))
        fail_msg("%s", err.text);
#if defined(__x86_64__)
    assert_true(cpu_runs("x86-64", &err));
    assert_false(cpu_runs("aarch64", &err));
#endif
    assert_false(cpu_runs("sm_90a", &err));
    assert_non_null(strstr(err.text, "built for sm_90a; this machine runs"));
    assert_false(cpu_runs("", &err));
}

int main(void)
{
    strcpy(dir, "/tmp/blade_signature_XXXXXX");
    if (!mkdtemp(dir))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(changes_are_noticed),
        cmocka_unit_test(other_files_do_not_matter),
        cmocka_unit_test(sources_are_found_beside_the_generator),
        cmocka_unit_test(targets_that_run_here),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) || failed;
}
