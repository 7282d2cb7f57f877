/* signature.c - see signature.h. */
#include "signature.h"
#include "cpu.h"
#include "tuned.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef BLADE_SOURCE_DIR
#define BLADE_SOURCE_DIR "."
#endif

enum { MAX_DEPTH = 16, MAX_SOURCE_BYTES = 16 << 20 };

typedef VEC(char *) Names;

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Adds the paths (relative to `root`) of the .lua and .cu files below root/dir. */
static void list_files(Arena *a, const char *root, const char *dir, int depth, Names *out)
{
    DIR *d = opendir(arena_printf(a, "%s/%s", root, dir));
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        char *path = arena_printf(a, "%s/%s", dir, e->d_name);
        size_t len = strlen(path);
        struct stat st;
        if (stat(arena_printf(a, "%s/%s", root, path), &st) < 0)
            continue;
        if (S_ISDIR(st.st_mode) && depth < MAX_DEPTH)
            list_files(a, root, path, depth + 1, out);
        else if (S_ISREG(st.st_mode) && len > 4 && (!strcmp(path + len - 4, ".lua") || !strcmp(path + len - 3, ".cu")))
            vec_push(out, path);
    }
    closedir(d);
}

static uint64_t hash_file(uint64_t h, const char *path)
{
    Buf text = {0};
    if (file_read(&text, path, MAX_SOURCE_BYTES, NULL))
        h = hash_bytes(h, &text.len, sizeof text.len), h = hash_bytes(h, text.data, text.len);
    buf_free(&text);
    return h;
}

/* All Lua files and source bodies of the source folder, by name. */
static void list_sources(Arena *a, const char *source, Names *names)
{
    static const char *const folders[] = {"compiler/lua", "templates", "schedules"};
    for (size_t i = 0; i < COUNT(folders); i++)
        list_files(a, source, folders[i], 0, names);
    if (names->len)
        qsort(names->at, names->len, sizeof *names->at, by_name);
}

static uint64_t hash_generator(uint64_t h, const char *path)
{
    struct stat st;
    if (!path || stat(path, &st) < 0)
        return h;
    int64_t facts[] = {st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
    return hash_bytes(h, facts, sizeof facts);
}

uint64_t generator_signature(const char *source, const char *generator_path)
{
    Arena *a = arena_new();
    Names names = {0};
    list_sources(a, source, &names);
    uint64_t h = hash_str(HASH_SEED, BLADE_VERSION);
    for (size_t i = 0; i < names.len; i++)
        h = hash_file(hash_str(h, names.at[i]), arena_printf(a, "%s/%s", source, names.at[i]));
    h = hash_generator(h, generator_path);
    vec_free(&names);
    arena_free(a);
    return h ? h : 1;
}

static json_t *hash_text(uint64_t h)
{
    char text[24];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)h);
    return json_string(text);
}

json_t *source_origin(const char *source, const char *generator_path, const char *device)
{
    Arena *a = arena_new();
    Names names = {0};
    json_t *sources = json_object();
    list_sources(a, source, &names);
    for (size_t i = 0; i < names.len; i++)
        json_object_set_new(sources, names.at[i],
                            hash_text(hash_file(HASH_SEED, arena_printf(a, "%s/%s", source, names.at[i]))));
    json_t *origin = json_pack("{s:s, s:o, s:s, s:o, s:o}", "version", BLADE_VERSION, "generator",
                               hash_text(hash_generator(HASH_SEED, generator_path)), "device", device, "tuned",
                               hash_text(tuned_signature(HASH_SEED, source, device)), "sources", sources);
    vec_free(&names);
    arena_free(a);
    return origin;
}

uint64_t source_signature(const char *source, const char *generator_path, const char *device)
{
    char own[CPU_DEVICE_BYTES];
    cpu_device(own);
    uint64_t h = tuned_signature(generator_signature(source, generator_path), source, device ? device : own);
    return h ? h : 1;
}

void source_folder(const char *generator_path, char *out, size_t size)
{
    char path[4096];
    snprintf(path, sizeof path, "%s", generator_path ? generator_path : "");
    char *slash = strrchr(path, '/');
    if (slash) {
        *slash = 0;
        snprintf(out, size, "%s/../share/blade", path);
        if (file_exists(out))
            return;
    }
    snprintf(out, size, "%s", BLADE_SOURCE_DIR);
}

bool generator_find(char *out, size_t size)
{
    static const char *const places[] = {"../lib/libbladegen.so", "libbladegen.so"};
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[MAX(n, 0)] = 0;
    char *slash = strrchr(exe, '/');
    for (size_t i = 0; slash && i < COUNT(places); i++) {
        *slash = 0;
        if (snprintf(out, size, "%s/%s", exe, places[i]) < (int)size && file_exists(out))
            return true;
    }
    snprintf(out, size, "libbladegen.so");
    return false;
}
