/* base.c - implementation of base.h; see there. */
#include "base.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- errors ------------------------------------------------------------------------------------------------ */

bool err_set(Err *err, const char *format, ...)
{
    if (!err)
        return false;
    va_list ap;
    va_start(ap, format);
    char text[sizeof err->text]; /* the message may quote the one that is there */
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    memcpy(err->text, text, sizeof text);
    return false;
}

bool err_prefix(Err *err, const char *format, ...)
{
    if (!err)
        return false;
    char context[512], old[sizeof err->text];
    va_list ap;
    va_start(ap, format);
    vsnprintf(context, sizeof context, format, ap);
    va_end(ap);
    memcpy(old, err->text, sizeof old);
    return err_set(err, "%s: %.1500s", context, old);
}

void die(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fputs("blade: ", stderr);
    vfprintf(stderr, format, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

/* ---- memory ------------------------------------------------------------------------------------------------ */

static void *checked(void *p, size_t size)
{
    if (!p)
        die("out of memory (asked for %zu bytes)", size);
    return p;
}

void *xmalloc(size_t size)
{
    return checked(malloc(size ? size : 1), size);
}

void *xcalloc(size_t count, size_t size)
{
    return checked(calloc(count ? count : 1, size ? size : 1), count * size);
}

void *xrealloc(void *p, size_t size)
{
    return checked(realloc(p, size ? size : 1), size);
}

char *xstrdup(const char *s)
{
    size_t n = strlen(s) + 1;
    return memcpy(xmalloc(n), s, n);
}

typedef struct Chunk Chunk;
struct Chunk {
    Chunk *next;
    size_t used, size;
    _Alignas(16) char data[];
};

struct Arena {
    Chunk *head;
};

Arena *arena_new(void)
{
    return xcalloc(1, sizeof(Arena));
}

void arena_free(Arena *a)
{
    if (!a)
        return;
    for (Chunk *c = a->head, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    free(a);
}

void *arena_alloc(Arena *a, size_t size)
{
    if (size > SIZE_MAX / 2)
        die("out of memory (asked for %zu bytes)", size);
    size = (size + 15) & ~(size_t)15;
    Chunk *c = a->head;
    if (!c || c->size - c->used < size) {
        size_t cap = MAX(size, (size_t)64 << 10);
        c = xcalloc(1, sizeof(Chunk) + cap);
        c->size = cap;
        c->next = a->head;
        a->head = c;
    }
    void *p = c->data + c->used;
    c->used += size;
    return p;
}

char *arena_strndup(Arena *a, const char *s, size_t n)
{
    char *copy = arena_alloc(a, n + 1);
    memcpy(copy, s, n);
    return copy;
}

char *arena_strdup(Arena *a, const char *s)
{
    return arena_strndup(a, s, strlen(s));
}

char *arena_printf(Arena *a, const char *format, ...)
{
    va_list ap, again;
    va_start(ap, format);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, format, ap);
    va_end(ap);
    assert(n >= 0);
    char *s = arena_alloc(a, (size_t)n + 1);
    vsnprintf(s, (size_t)n + 1, format, again);
    va_end(again);
    return s;
}

/* ---- buffers ------------------------------------------------------------------------------------------------ */

void buf_reserve(Buf *b, size_t extra)
{
    if (b->cap - b->len > extra)
        return;
    size_t cap = MAX(b->cap * 2, b->len + extra + 1);
    b->data = xrealloc(b->data, MAX(cap, (size_t)64));
    b->cap = MAX(cap, (size_t)64);
}

void buf_put(Buf *b, const void *bytes, size_t n)
{
    buf_reserve(b, n);
    if (n)
        memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = 0;
}

void buf_puts(Buf *b, const char *s)
{
    buf_put(b, s, strlen(s));
}

void buf_putc(Buf *b, char c)
{
    buf_put(b, &c, 1);
}

void buf_printf(Buf *b, const char *format, ...)
{
    va_list ap, again;
    va_start(ap, format);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, format, ap);
    va_end(ap);
    assert(n >= 0);
    buf_reserve(b, (size_t)n + 1);
    vsnprintf(b->data + b->len, (size_t)n + 1, format, again);
    va_end(again);
    b->len += (size_t)n;
}

void buf_free(Buf *b)
{
    free(b->data);
    *b = (Buf){0};
}

void vec_grow(void **at, size_t *cap, size_t len, size_t elem_size)
{
    if (len < *cap)
        return;
    *cap = MAX(*cap * 2, (size_t)8);
    *at = xrealloc(*at, *cap * elem_size);
}

/* ---- map ---------------------------------------------------------------------------------------------------- */

typedef struct Slot {
    char *key; /* NULL when free */
    size_t len;
    uint64_t hash;
    void *value;
} Slot;

struct Map {
    Slot *slots;
    size_t count, cap; /* cap is a power of two */
};

Map *map_new(void)
{
    Map *m = xcalloc(1, sizeof *m);
    m->cap = 16;
    m->slots = xcalloc(m->cap, sizeof *m->slots);
    return m;
}

void map_free(Map *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->cap; i++)
        free(m->slots[i].key);
    free(m->slots);
    free(m);
}

static Slot *map_slot(const Map *m, const char *key, size_t len, uint64_t hash)
{
    size_t i = hash & (m->cap - 1);
    for (;; i = (i + 1) & (m->cap - 1)) {
        Slot *s = &m->slots[i];
        if (!s->key || (s->hash == hash && s->len == len && !memcmp(s->key, key, len)))
            return s;
    }
}

static void map_double(Map *m)
{
    Slot *old = m->slots;
    size_t n = m->cap;
    m->cap *= 2;
    m->slots = xcalloc(m->cap, sizeof *m->slots);
    for (size_t i = 0; i < n; i++)
        if (old[i].key)
            *map_slot(m, old[i].key, old[i].len, old[i].hash) = old[i];
    free(old);
}

void map_put(Map *m, const char *key, size_t len, void *value)
{
    if (m->count * 2 >= m->cap)
        map_double(m);
    uint64_t hash = hash_bytes(HASH_SEED, key, len);
    Slot *s = map_slot(m, key, len, hash);
    if (!s->key) {
        s->key = xmalloc(len + 1);
        memcpy(s->key, key, len);
        s->key[len] = 0;
        s->len = len;
        s->hash = hash;
        m->count++;
    }
    s->value = value;
}

void *map_get(const Map *m, const char *key, size_t len)
{
    Slot *s = map_slot(m, key, len, hash_bytes(HASH_SEED, key, len));
    return s->key ? s->value : NULL;
}

size_t map_count(const Map *m)
{
    return m->count;
}

/* ---- hashing ------------------------------------------------------------------------------------------------ */

uint64_t hash_bytes(uint64_t seed, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    uint64_t h = seed;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        h = (h ^ w) * 0x9e3779b97f4a7c15ull;
        h ^= h >> 29;
    }
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3ull;
    h ^= h >> 32;
    h *= 0xd6e8feb86659fd93ull;
    return h ^ h >> 32;
}

uint64_t hash_str(uint64_t seed, const char *s)
{
    return hash_bytes(seed, s, strlen(s) + 1);
}

/* ---- files -------------------------------------------------------------------------------------------------- */

bool file_map(FileMap *m, const char *path, Err *err)
{
    *m = (FileMap){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, "%s: %s", path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(err, "%s: not a regular file", path);
    }
    m->size = (size_t)st.st_size;
    if (!m->size) {
        m->data = (const uint8_t *)"";
        close(fd);
        return true;
    }
    void *p = mmap(NULL, m->size, PROT_READ, MAP_PRIVATE, fd, 0);
    int mmap_errno = errno;
    close(fd);
    if (p == MAP_FAILED)
        return err_set(err, "%s: cannot map: %s", path, strerror(mmap_errno));
    m->data = p;
    return true;
}

void file_unmap(FileMap *m)
{
    if (m->size)
        munmap((void *)m->data, m->size);
    *m = (FileMap){0};
}

bool file_read(Buf *out, const char *path, size_t limit, Err *err)
{
    FileMap m;
    if (!file_map(&m, path, err))
        return false;
    if (m.size > limit) {
        size_t size = m.size;
        file_unmap(&m);
        return err_set(err, "%s: %zu bytes, more than the limit of %zu", path, size, limit);
    }
    buf_put(out, m.data, m.size);
    file_unmap(&m);
    return true;
}

static bool write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t w = write(fd, p, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0) {
            if (!w)
                errno = ENOSPC;
            return false;
        }
        p += w;
        n -= (size_t)w;
    }
    return true;
}

static bool write_file(const char *path, const void *data, size_t size, bool sync, Err *err)
{
    static _Atomic unsigned serial;
    char tmp[4096];
    if (snprintf(tmp, sizeof tmp, "%s.tmp.%ld.%u", path, (long)getpid(), serial++) >= (int)sizeof tmp)
        return err_set(err, "%s: path too long", path);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_set(err, "%s: cannot write: %s", path, strerror(errno));
    bool ok = write_all(fd, data, size) && (!sync || fsync(fd) == 0);
    int saved = errno;
    if (close(fd) < 0 && ok) {
        ok = false;
        saved = errno;
    }
    if (ok && rename(tmp, path) < 0) {
        ok = false;
        saved = errno;
    }
    if (!ok) {
        unlink(tmp);
        return err_set(err, "%s: cannot write: %s", path, strerror(saved));
    }
    return true;
}

bool file_is_leftover(const char *name)
{
    const char *tail = strstr(name, ".tmp.");
    long pid;
    unsigned serial;
    int used = 0;
    if (!tail || sscanf(tail, ".tmp.%ld.%u%n", &pid, &serial, &used) != 2 || tail[used] || pid <= 0)
        return false;
    return kill((pid_t)pid, 0) < 0 && errno == ESRCH;
}

static void remove_leftovers(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char folder[4096];
    snprintf(folder, sizeof folder, "%.*s", slash ? MAX((int)(slash - path), 1) : 1, slash ? path : ".");
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        if (!strncmp(e->d_name, name, strlen(name)) && !strncmp(e->d_name + strlen(name), ".tmp.", 5) &&
            file_is_leftover(e->d_name))
            unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
}

bool file_write_atomic(const char *path, const void *data, size_t size, Err *err)
{
    remove_leftovers(path);
    return write_file(path, data, size, true, err);
}

bool file_write_quick(const char *path, const void *data, size_t size, Err *err)
{
    return write_file(path, data, size, false, err);
}

void file_first_line(const char *path, char *line, int size)
{
    line[0] = 0;
    FILE *f = fopen(path, "r");
    if (!f)
        return;
    if (!fgets(line, size, f))
        line[0] = 0;
    fclose(f);
}

bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

bool dir_make(const char *path, Err *err)
{
    char p[4096];
    if (snprintf(p, sizeof p, "%s", path) >= (int)sizeof p)
        return err_set(err, "%s: path too long", path);
    for (char *s = p + 1;; s++) {
        if (*s != '/' && *s)
            continue;
        char c = *s;
        *s = 0;
        if (mkdir(p, 0777) < 0 && errno != EEXIST)
            return err_set(err, "%s: cannot create folder: %s", p, strerror(errno));
        *s = c;
        if (!c)
            return true;
    }
}

/* ---- time and text ------------------------------------------------------------------------------------------ */

double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Bytes that the lead byte announces; 0 for a byte that cannot lead. */
static size_t utf8_length(uint8_t lead)
{
    return lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
}

size_t utf8_complete(const char *s, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        uint8_t c = (uint8_t)s[n - back];
        if ((c & 0xC0) == 0x80)
            continue;
        return utf8_length(c) > back ? n - back : n;
    }
    return n;
}

size_t utf8_decode(const char *s, size_t n, uint32_t *cp)
{
    const uint8_t *p = (const uint8_t *)s;
    size_t len = utf8_length(p[0]);
    *cp = 0xFFFD;
    if (!len || len > n)
        return 1;
    if (len == 1) {
        *cp = p[0];
        return 1;
    }
    uint32_t c = p[0] & (0x7Fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return 1;
        c = c << 6 | (p[i] & 0x3F);
    }
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (c < least[len] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
        return 1;
    *cp = c;
    return len;
}

size_t utf8_encode(uint32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, cp >>= 6)
        out[i] = (char)(0x80 | (cp & 0x3F));
    static const uint8_t lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    out[0] = (char)(lead[n] | cp);
    return n;
}
