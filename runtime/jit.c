/* jit.c - the cache of packs and the way to the generator; see jit.h. */
#include "jit.h"

#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bladegen.h"
#include "cpu.h"
#include "device.h"
#include "signature.h"
#include "timing.h"

enum { PATH_BYTES = 4096, ROOM_NEEDED = 16 << 20 }; /* bytes that a pack may take while it is written */

typedef struct Jit {
    const JitRequest *r;
    Buf *warning;
    const char *device, *target; /* the device's, "" for the host; that of packs to build */
    char generator[PATH_BYTES], source[PATH_BYTES];
    uint64_t signature; /* 0: the generator's file is not known, any pack is current */
    char folder[PATH_BYTES - 64], pack[PATH_BYTES], lock[PATH_BYTES], kernels[PATH_BYTES];
    bool built; /* by this process */
} Jit;

static void report(const JitRequest *r, const char *what, int64_t done, int64_t total)
{
    if (r->progress)
        r->progress(r->context, what, done, total);
}

/* ---- checking ------------------------------------------------------------------------------------------------- */

/* Of the targets in the pack the best one that the device runs. */
static bool select_best(Pack *p, const char *device, Err *err)
{
    int best = -1;
    for (int i = 0; i < p->parts_count; i++) {
        int rank = device_rank(device, p->parts[i].target);
        if (rank >= 0 && (best < 0 || rank < device_rank(device, p->parts[best].target)))
            best = i;
    }
    if (best >= 0)
        pack_select(p, best);
    return best >= 0 || (*device ? err_set(err, "built for %s; this device runs %s", p->header.target, device)
                                 : cpu_runs(p->header.target, err));
}

static bool fits(Pack *p, const char *path, uint64_t fingerprint, const char *device, const char *weights, Err *err)
{
    if (p->header.fingerprint != fingerprint)
        return err_set(err, "%s: this pack was built for another checkpoint (configuration and tensors differ)", path);
    if (weights && strcmp(p->header.weights, weights))
        return err_set(err, "%s: this pack was built for weights %s, not %s", path, p->header.weights, weights);
    return select_best(p, device, err) || err_prefix(err, "%s", path);
}

bool jit_open(const char *path, uint64_t fingerprint, const char *device, const char *weights, Pack *pack, Err *err)
{
    if (!pack_open(path, pack, err))
        return false;
    if (fits(pack, path, fingerprint, device, weights, err))
        return true;
    pack_close(pack);
    return false;
}

/* A cached pack that may be used as it is. */
static bool open_cached(const Jit *j, Pack *pack, Err *err)
{
    if (!jit_open(j->pack, j->r->fingerprint, j->device, j->r->weights, pack, err))
        return false;
    if (!j->signature || pack->header.signature == j->signature)
        return true;
    pack_close(pack);
    return err_set(err, "%s: built by another version of the generator", j->pack);
}

/* ---- folders -------------------------------------------------------------------------------------------------- */

static bool cache_folder(const JitRequest *r, char *out, size_t size)
{
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = r->cache              ? snprintf(out, size, "%s", r->cache)
            : xdg && xdg[0] == '/' ? snprintf(out, size, "%s/blade", xdg)
            : home && home[0]      ? snprintf(out, size, "%s/.cache/blade", home)
                                   : snprintf(out, size, "%s", "");
    return n < (int)size;
}

/* Whether a pack can be written to the folder, which is created: by taking room for one and giving it back. */
static bool has_room(const char *folder, Err *err)
{
    char path[PATH_BYTES];
    if (!folder[0])
        return err_set(err, "no home folder is set");
    if (!dir_make(folder, err))
        return false;
    snprintf(path, sizeof path, "%s/.room.XXXXXX", folder);
    int fd = mkstemp(path);
    if (fd < 0)
        return err_set(err, "%s: %s", folder, strerror(errno));
    unlink(path);
    int rc = posix_fallocate(fd, 0, ROOM_NEEDED);
    close(fd);
    return !rc || err_set(err, "%s: %s", folder, strerror(rc));
}

/* ---- building ------------------------------------------------------------------------------------------------- */

static void on_progress(void *context, int done, int total, const char *what)
{
    (void)what;
    report(((const Jit *)context)->r, "generating kernels", done, total);
}

static void on_warning(void *context, const char *text)
{
    Buf *warning = ((const Jit *)context)->warning;
    buf_printf(warning, "%s%s", warning->len ? "\n" : "", text);
}

/* Whose tuned settings count; NULL: this machine's. */
static const char *tuned_name(const Jit *j)
{
    return j->r->name && *j->r->name ? j->r->name : NULL;
}

typedef int BuildFn(const BladegenRequest *, char *, size_t);

static BuildFn *load_generator(const Jit *j, Err *err)
{
    void *lib = dlopen(j->generator, RTLD_NOW | RTLD_LOCAL);
    BuildFn *build = NULL;
    void *symbol = lib ? dlsym(lib, "bladegen_build") : NULL;
    memcpy(&build, &symbol, sizeof build);
    if (!build) {
        const char *why = dlerror();
        err_set(err, "no pack fits and the generator libbladegen.so is not here: build one with `bladegen build %s` "
                "and pass --pack (%s)", j->r->model, why ? why : "no function bladegen_build in it");
    }
    return build; /* the library stays: LLVM does not like to be unloaded */
}

static bool build(Jit *j, const char *output, const char *kernels, Err *err)
{
    BuildFn *fn = load_generator(j, err);
    if (!fn)
        return false;
    j->built = true;
    BladegenRequest q = {
        .model = j->r->model, .target = j->target, .weights = j->r->weights, .output = output,
        .source = j->signature ? j->source : NULL,
        .threads = j->r->threads, .progress = on_progress, .context = (void *)j, .warning = on_warning,
        .kernels = kernels, .device = tuned_name(j),
    };
    char text[1536] = "";
    return fn(&q, text, sizeof text) == 0 || err_set(err, "%s", text[0] ? text : "the generator failed");
}

/* Builds into a folder of temporary files and opens the pack; nothing stays behind but the mapping. */
static bool build_temporary(Jit *j, Pack *pack, Err *err)
{
    const char *places[] = {getenv("TMPDIR"), "/tmp", "/dev/shm"};
    Err why = {0};
    for (size_t i = 0; i < COUNT(places); i++) {
        char folder[512], path[600];
        if (!places[i] || snprintf(folder, sizeof folder, "%s/blade-XXXXXX", places[i]) >= (int)sizeof folder ||
            !has_room(places[i], &why) || !mkdtemp(folder))
            continue;
        snprintf(path, sizeof path, "%s/pack", folder);
        bool ok = build(j, path, NULL, err) && jit_open(path, j->r->fingerprint, j->device, j->r->weights, pack, err);
        unlink(path);
        rmdir(folder);
        return ok;
    }
    return err_set(err, "no room to build a pack in, neither the cache folder nor a temporary one: %s", why.text);
}

static bool fall_back(Jit *j, const Err *why, Pack *pack, Buf *warning, Err *err)
{
    if (!build_temporary(j, pack, err))
        return false;
    buf_printf(warning, "the cache folder can't be used (%s): kernels were generated into a temporary file and will be "
               "again next time; --cache DIR names another folder", why->text);
    return true;
}

/* Whether the open file is still the one of that name. */
static bool is_file(int fd, const char *path)
{
    struct stat a, b;
    return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Takes the lock of this pack, waiting for another process that builds it; -1 when it can't be made. Who holds it
 * deletes its file in the end (drop_lock), so a file that was deleted while we waited is no lock any more. */
static int take_lock(const Jit *j, Err *why)
{
    for (;;) {
        int fd = open(j->lock, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0) {
            err_set(why, "%s: %s", j->lock, strerror(errno));
            return -1;
        }
        if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
            report(j->r, "waiting for another process that generates the same kernels", 0, 0);
            while (flock(fd, LOCK_EX) < 0 && errno == EINTR) {
            }
        }
        if (is_file(fd, j->lock))
            return fd;
        close(fd);
    }
}

static void drop_lock(const Jit *j, int lock)
{
    if (lock < 0)
        return;
    unlink(j->lock);
    close(lock);
}

/* Under the lock: another process may have built it meanwhile. */
static bool build_cached(Jit *j, Pack *pack, Buf *warning, Err *err)
{
    Err why = {0};
    if (open_cached(j, pack, &why))
        return true;
    if (!build(j, j->pack, j->kernels, err)) {
        Err full = {0};
        return !has_room(j->folder, &full) && fall_back(j, &full, pack, warning, err);
    }
    if (!jit_open(j->pack, j->r->fingerprint, j->device, j->r->weights, pack, err))
        return false;
    if (j->signature && pack->header.signature != j->signature)
        buf_printf(warning, "%s: the generator signed the pack in another way than this program expects; it will be "
                   "built again next time. Do blade and libbladegen come from the same build?", j->pack);
    return true;
}

/* ---- the whole ------------------------------------------------------------------------------------------------ */

static bool prepare(Jit *j, const JitRequest *r, Err *err)
{
    j->r = r;
    j->device = r->target ? r->target : "";
    j->target = *j->device ? j->device : cpu_best();
    bool found = r->generator || generator_find(j->generator, sizeof j->generator);
    if (r->generator)
        snprintf(j->generator, sizeof j->generator, "%s", r->generator);
    source_folder(j->generator, j->source, sizeof j->source);
    if (found && file_exists(j->generator))
        j->signature = source_signature(j->source, j->generator, tuned_name(j));
    for (const char *s = r->weights; *s; s++)
        if (!isalnum((unsigned char)*s) && *s != '+' && *s != '-')
            return err_set(err, "unknown weight format '%s'", r->weights);
    if (strlen(r->weights) >= sizeof ((PackHeader *)0)->weights)
        return err_set(err, "unknown weight format '%s'", r->weights);
    if (!cache_folder(r, j->folder, sizeof j->folder))
        return err_set(err, "the path of the cache folder is too long");
    char name[128];
    snprintf(name, sizeof name, "%016llx-%.31s-%.15s", (unsigned long long)r->fingerprint, j->target, r->weights);
    if (snprintf(j->pack, sizeof j->pack, "%s/%s.pack", j->folder, name) >= (int)sizeof j->pack ||
        snprintf(j->lock, sizeof j->lock, "%s/%s.lock", j->folder, name) >= (int)sizeof j->lock ||
        snprintf(j->kernels, sizeof j->kernels, "%s/kernels", j->folder) >= (int)sizeof j->kernels)
        return err_set(err, "the path of the cache folder is too long");
    return true;
}

bool jit_pack(const JitRequest *r, Pack *pack, Buf *warning, Err *err)
{
    Jit *j = xcalloc(1, sizeof *j);
    j->warning = warning;
    Err why = {0};
    int lock = -1;
    bool ok = prepare(j, r, err), found = ok && open_cached(j, pack, &why);
    if (ok && !found) {
        if (!has_room(j->folder, &why) || (lock = take_lock(j, &why)) < 0)
            ok = fall_back(j, &why, pack, warning, err);
        else
            ok = build_cached(j, pack, warning, err);
    }
    drop_lock(j, lock);
    bool built = j->built;
    free(j);
    timing_phase(built ? "build pack" : found ? "find pack" : "wait for another's pack", 0);
    return ok;
}

bool jit_named(const JitRequest *r, const char *path, const char *weights, Pack *pack, Buf *warning, Err *err)
{
    char format[16] = "", generator[PATH_BYTES];
    JitRequest instead = *r;
    instead.weights = weights;
    if (pack_open(path, pack, err)) {
        if (fits(pack, path, r->fingerprint, r->target ? r->target : "", weights, err))
            return true;
        snprintf(format, sizeof format, "%s", pack->header.weights);
        instead.weights = weights ? weights : format;
        pack_close(pack);
    }
    bool here = r->generator ? file_exists(r->generator) : generator_find(generator, sizeof generator);
    if (!instead.weights || !file_exists(path) || !here)
        return false;
    buf_printf(warning, "%s; kernels were generated instead", err->text);
    *err = (Err){0};
    return jit_pack(&instead, pack, warning, err);
}
