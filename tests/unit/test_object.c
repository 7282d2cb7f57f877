/* Tests of compiler/object.c on objects that the C compiler made: position-independent and not, several in one mapping,
 * protection of the memory, refusals, and objects cut or changed at random. */
#include "test.h"

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "object.h"
#include "pack.h"

static ObjectSource source(const FileMap *m, const char *name)
{
    return (ObjectSource){name, m->data, m->size, "kernel"};
}

static FileMap map(const char *path)
{
    Err err = {0};
    FileMap m;
    if (!file_map(&m, path, &err))
        fail_msg("%s", err.text);
    return m;
}

static void check_kernel(HostKernel *kernel)
{
    float in[16], out[16] = {0}, scratch[16];
    for (int i = 0; i < 16; i++)
        in[i] = (float)i;
    void *buffers[] = {in, out};
    int64_t sizes[SIZE_COUNT] = {16};
    kernel(buffers, sizes, 0, 5, scratch);
    assert_true(out[5] == 0);
    kernel(buffers, sizes, 5, 16, scratch);
    static const float expect[8] = {0.5f, -8.5f, 6.5f, 3.6f, 8.625f, 87.5f, 9.5f, 14.5f};
    for (int i = 0; i < 8; i++)
        assert_true(out[i] == expect[i]);
    assert_true(out[8] == 24.5f && out[15] == 22.5f);
}

static void objects_run(void **state)
{
    (void)state;
    Err err = {0};
    FileMap pic = map(OBJECT_PIC), abs = map(OBJECT_ABS);
    ObjectSource src[] = {source(&pic, "pic"), source(&abs, "abs"), source(&pic, "again")};
    void *entries[3] = {0};
    ObjectCode code;
    if (!object_load(src, 3, entries, &code, &err))
        fail_msg("%s", err.text);
    assert_ptr_not_equal(entries[0], entries[2]);
    for (int i = 0; i < 3; i++)
        check_kernel((HostKernel *)entries[i]);
    object_unload(&code);
    file_unmap(&pic);
    file_unmap(&abs);
}

/* No page of the mapping is writable, or executable without need. */
static void memory_is_write_xor_execute(void **state)
{
    (void)state;
    Err err = {0};
    FileMap pic = map(OBJECT_PIC);
    ObjectSource src = source(&pic, "pic");
    void *entry;
    ObjectCode code;
    assert_true(object_load(&src, 1, &entry, &code, &err));
    FILE *f = fopen("/proc/self/maps", "r");
    assert_non_null(f);
    char line[512], perms[8];
    unsigned long from, to, lo = (unsigned long)code.memory, hi = lo + code.size;
    int seen_text = 0, seen_data = 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "%lx-%lx %7s", &from, &to, perms) == 3 && from < hi && to > lo) {
            seen_text += !strcmp(perms, "r-xp");
            seen_data += !strncmp(perms, "r--p", 4);
            assert_null(strchr(perms, 'w'));
        }
    fclose(f);
    assert_int_equal(seen_text, 1);
    assert_true(seen_data >= 1);
    object_unload(&code);
    file_unmap(&pic);
}

static void refusals_say_why(void **state)
{
    (void)state;
    FileMap undefined = map(OBJECT_UNDEFINED), writable = map(OBJECT_WRITABLE), pic = map(OBJECT_PIC);
    static uint8_t arm[sizeof(Elf64_Ehdr)];
    memcpy(arm, pic.data, sizeof arm);
    ((Elf64_Ehdr *)arm)->e_machine = EM_AARCH64;
    ObjectSource missing = source(&pic, "m");
    missing.symbol = "kernel2";
    struct {
        ObjectSource src;
        const char *text;
    } rows[] = {
        {source(&undefined, "u"), "object 'u': undefined symbol 'unknown_function'"},
        {source(&writable, "w"), "writable data"},
        {missing, "no function 'kernel2'"},
        {{"t", (const uint8_t *)"text", 4, "kernel"}, "not an ELF object"},
        {{"a", arm, sizeof arm, "kernel"}, "ELF machine 183"},
        {{"cut", pic.data, pic.size - 64, "kernel"}, "outside of the object"},
        {{"empty", pic.data, 0, "kernel"}, "not an ELF object"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        Err err = {0};
        void *entry;
        ObjectCode code;
        assert_false(object_load(&rows[i].src, 1, &entry, &code, &err));
        if (!strstr(err.text, rows[i].text))
            fail_msg("row %zu: '%s' lacks '%s'", i, err.text, rows[i].text);
        assert_int_equal(code.size, 0);
    }
    file_unmap(&undefined);
    file_unmap(&writable);
    file_unmap(&pic);
}

static int add_five(int v)
{
    return v + 5;
}

static void *known(const char *name)
{
    return strcmp(name, "unknown_function") ? NULL : (void *)(uintptr_t)add_five;
}

static void callers_resolve_functions(void **state)
{
    (void)state;
    Err err = {0};
    FileMap undefined = map(OBJECT_UNDEFINED), pic = map(OBJECT_PIC);
    ObjectSource src[] = {source(&undefined, "u"), source(&pic, "p")};
    void *entries[2];
    ObjectCode code;
    if (!object_load_with(src, 2, known, entries, &code, &err))
        fail_msg("%s", err.text);
    int v = 37;
    ((void (*)(int *))(uintptr_t)entries[0])(&v);
    assert_int_equal(v, 42);
    object_unload(&code);
    file_unmap(&undefined);
    file_unmap(&pic);
}

/* Any cut and any changed byte either loads or is refused; the sanitizers see the rest. The code is not run. */
static void damaged_objects_do_no_harm(void **state)
{
    (void)state;
    FileMap pic = map(OBJECT_PIC);
    int refused = 0;
    for (size_t i = 0; i < pic.size; i++) {
        uint8_t *copy = xmalloc(pic.size);
        memcpy(copy, pic.data, pic.size);
        copy[i] ^= (uint8_t)(1u << i % 8);
        ObjectSource src = {"damaged", copy, i % 2 ? pic.size : i, "kernel"};
        void *entry;
        ObjectCode code;
        Err err = {0};
        if (object_load(&src, 1, &entry, &code, &err))
            object_unload(&code);
        else
            refused++;
        free(copy);
    }
    assert_true(refused > (int)pic.size / 2);
    file_unmap(&pic);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(objects_run),
        cmocka_unit_test(memory_is_write_xor_execute),
        cmocka_unit_test(refusals_say_why), cmocka_unit_test(callers_resolve_functions),
        cmocka_unit_test(damaged_objects_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
