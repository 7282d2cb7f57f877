/* kernel_cache.c - see kernel_cache.h. */
#include "kernel_cache.h"
#include "gpu/emit.h"
#include "source.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "pack.h"

enum { PATH_BYTES = 4096, INFO_BYTES = sizeof(KernelInfo), KEEP_SECONDS = 90 * 86400 };

/* Size and time of the file that this code was loaded from: libbladegen.so, or the bladegen command. */
static void put_build(Buf *key)
{
    static const char here;
    Dl_info info;
    struct stat st;
    if (dladdr(&here, &info) && info.dli_fname && stat(info.dli_fname, &st) == 0)
        buf_printf(key, "%lld %lld.%09ld\n", (long long)st.st_size, (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    else
        buf_puts(key, "unknown\n");
}

/* The IR without the comments that say where in a schedule each line comes from: code may move. */
static void put_ir(Buf *key, const Kernel *k)
{
    Buf text = {0};
    ir_print(k, &text);
    for (char *line, *rest = text.data; (line = strsep(&rest, "\n"));) {
        char *comment = NULL;
        for (char *c = line; (c = strstr(c, " ; ")); c++)
            comment = c;
        size_t n = comment ? (size_t)(comment - line) : strlen(line);
        while (n && line[n - 1] == ' ')
            n--;
        buf_put(key, line, n);
        buf_putc(key, '\n');
    }
    buf_free(&text);
}

static void put_key(Buf *key, const Kernel *k, const Target *t, bool source)
{
    buf_printf(key, "generator " BLADE_VERSION " ");
    put_build(key);
    buf_printf(key, "target %s %s %s %s\n", t->name, t->triple, t->cpu, t->features);
    if (t->gpu && !t->simt)
        gpu_tools(t, key);
    if (source)
        source_key(k, t, key);
    put_ir(key, k);
}

/* The code of the file with the KernelInfo in front; true when it was made from this very key. */
static bool look_up(const char *path, const Buf *key, CompiledKernel *out)
{
    Pack p;
    if (!pack_open(path, &p, NULL))
        return false;
    bool same = p.plan_len == key->len && !memcmp(p.plan, key->data, key->len) && p.code_len > INFO_BYTES;
    if (same) {
        memcpy(&out->info, p.code, INFO_BYTES);
        buf_put(&out->code, p.code + INFO_BYTES, p.code_len - INFO_BYTES);
    }
    pack_close(&p);
    return same;
}

/* Where that fails, the next build compiles again. */
static void keep(const char *path, const Target *t, const Buf *key, const CompiledKernel *k)
{
    Buf code = {0}, file = {0};
    buf_put(&code, &k->info, INFO_BYTES);
    buf_put(&code, k->code.data, k->code.len);
    PackPart part = {.plan = key->data, .plan_len = key->len, .code = (uint8_t *)code.data, .code_len = code.len};
    snprintf(part.target, sizeof part.target, "%s", t->name);
    pack_image(&file, &(PackHeader){.weights = "kernel"}, &part, 1, "", 0);
    file_write_quick(path, file.data, file.len, NULL);
    buf_free(&file);
    buf_free(&code);
}

static void warn(CompiledKernel *out, const char *what)
{
    Buf text = {0};
    buf_printf(&text, "%s; the generated kernel is used instead", what);
    out->warning = text.data;
}

/* Is there a source body, and a compiler for it? Without one the kernel is what its instructions say. */
static bool has_source(const Kernel *k, const Target *t, CompiledKernel *out)
{
    Buf why = {0}, text = {0};
    if (!k->external.text || !t->gpu || t->simt)
        return false;
    bool has = source_compiler_for(t, &why);
    if (!has) {
        buf_printf(&text, "%s: %s", k->external.file, why.data);
        warn(out, text.data);
    }
    buf_free(&why);
    buf_free(&text);
    return has;
}

static bool compile(const Kernel *k, const Target *t, bool source, CompiledKernel *out, Err *err)
{
    Err why = {0};
    if (source && source_compile(k, t, &out->code, &out->info, &why))
        return true;
    if (source) {
        warn(out, why.text);
        buf_free(&out->code);
        out->info = (KernelInfo){0};
    }
    bool ok = llvm_compile(k, t, EMIT_OBJECT, &out->code, &out->info, err);
    return ok || (out->warning ? err_prefix(err, "%s, and that fails", out->warning) : false);
}

bool kernel_cache_compile(const char *folder, const Kernel *k, const Target *t, CompiledKernel *out, Err *err)
{
    bool source = has_source(k, t, out);
    if (!folder)
        return compile(k, t, source, out, err);
    Buf key = {0};
    char path[PATH_BYTES];
    put_key(&key, k, t, source);
    int n = snprintf(path, sizeof path, "%s/%016llx.kernel", folder,
                     (unsigned long long)hash_bytes(HASH_SEED, key.data, key.len));
    bool usable = n < (int)sizeof path, ok = usable && look_up(path, &key, out);
    if (ok)
        utimensat(AT_FDCWD, path, NULL, 0); /* it was used */
    else if ((ok = compile(k, t, source, out, err)) && usable && !(source && out->warning)) /* it may work next time */
        keep(path, t, &key, out);
    buf_free(&key);
    return ok;
}

void kernel_cache_prune(const char *folder)
{
    DIR *d = folder ? opendir(folder) : NULL;
    struct stat st;
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        bool ours = strstr(e->d_name, ".kernel") && fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0;
        if (ours && (time(NULL) - st.st_mtim.tv_sec > KEEP_SECONDS || file_is_leftover(e->d_name)))
            unlinkat(dirfd(d), e->d_name, 0);
    }
    closedir(d);
}
