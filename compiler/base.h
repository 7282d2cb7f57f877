/* base.h - the only helpers of the repository: errors, arena, growable buffer, string map, hashing, files.
 *
 * Conventions used everywhere:
 *   - A function that can fail for a reason the user should read returns bool (or NULL) and takes `Err *err` last.
 *     `return err_set(err, "...")` is the idiom: err_set always returns false.
 *   - Running out of memory ends the process with a message (xmalloc); a broken invariant is an assert.
 *   - An Arena owns everything allocated from it; it is freed whole.
 */
#ifndef BLADE_BASE_H
#define BLADE_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define PRINTF(f, a) __attribute__((format(printf, f, a)))

/* ---- errors ------------------------------------------------------------------------------------------------ */

typedef struct Err {
    char text[2048]; /* one message for the user: where, what, what to do; "" when nothing failed */
} Err;

/* Writes the message (truncated to fit) and returns false. `err` may be NULL. */
bool err_set(Err *err, const char *format, ...) PRINTF(2, 3);
/* Puts "context: " in front of the message that is already there; returns false. */
bool err_prefix(Err *err, const char *format, ...) PRINTF(2, 3);

/* Prints "blade: message" to standard error and exits with status 1. For command lines only. */
void die(const char *format, ...) PRINTF(1, 2) __attribute__((noreturn));

/* ---- memory ------------------------------------------------------------------------------------------------ */

void *xmalloc(size_t size);                /* uninitialised */
void *xcalloc(size_t count, size_t size);  /* zeroed; dies on overflow */
void *xrealloc(void *p, size_t size);
char *xstrdup(const char *s);

/* A bump allocator; allocations are 16-byte aligned and zeroed. arena_new() ... arena_free() frees all of it. */
typedef struct Arena Arena;
Arena *arena_new(void);
void arena_free(Arena *a); /* NULL is allowed */
void *arena_alloc(Arena *a, size_t size);
char *arena_strdup(Arena *a, const char *s);
char *arena_strndup(Arena *a, const char *s, size_t n);
char *arena_printf(Arena *a, const char *format, ...) PRINTF(2, 3);
#define arena_array(a, type, n) ((type *)arena_alloc((a), sizeof(type) * (size_t)(n)))

/* ---- growable byte buffer; data is always NUL-terminated once something was put ------------------------------ */

typedef struct Buf {
    char *data;
    size_t len, cap;
} Buf;
void buf_reserve(Buf *b, size_t extra);
void buf_put(Buf *b, const void *bytes, size_t n);
void buf_puts(Buf *b, const char *s);
void buf_putc(Buf *b, char c);
void buf_printf(Buf *b, const char *format, ...) PRINTF(2, 3);
void buf_free(Buf *b); /* frees and clears */

/* Growable array of any element type: VEC(int) v = {0}; vec_push(&v, 3); v.at[0]; v.len; vec_free(&v). */
#define VEC(type) struct { type *at; size_t len, cap; }
#define vec_push(v, ...) \
    (vec_grow((void **)&(v)->at, &(v)->cap, (v)->len, sizeof *(v)->at), (v)->at[(v)->len++] = (__VA_ARGS__))
#define vec_free(v) (free((v)->at), (v)->at = NULL, (v)->len = (v)->cap = 0)
void vec_grow(void **at, size_t *cap, size_t len, size_t elem_size);

/* ---- string -> pointer map (open addressing; keys are copied) ------------------------------------------------ */

typedef struct Map Map;
Map *map_new(void);
void map_free(Map *m); /* NULL is allowed; values belong to the caller */
void map_put(Map *m, const char *key, size_t len, void *value);
void *map_get(const Map *m, const char *key, size_t len); /* NULL when absent */
size_t map_count(const Map *m);

/* ---- hashing (FNV-1a folded through a 64-bit finaliser; not cryptographic) ------------------------------------ */

#define HASH_SEED 0xcbf29ce484222325ull
uint64_t hash_bytes(uint64_t seed, const void *bytes, size_t n);
uint64_t hash_str(uint64_t seed, const char *s); /* includes the final NUL, so that "a","b" differs from "ab","" */

/* ---- files -------------------------------------------------------------------------------------------------- */

typedef struct FileMap {
    const uint8_t *data;
    size_t size;
} FileMap;
bool file_map(FileMap *m, const char *path, Err *err); /* read-only; an empty file maps to size 0, data non-NULL */
void file_unmap(FileMap *m);
bool file_read(Buf *out, const char *path, size_t limit, Err *err); /* whole file; error when larger than `limit` */
/* Writes path.tmp.PID.N, syncs, renames; on any failure (full disk, read-only folder) removes it and reports. Removes
 * such files of this path that processes left behind which are no more. */
bool file_write_atomic(const char *path, const void *data, size_t size, Err *err);
/* The same without syncing and tidying, for files that are checked when read and can be made again. */
bool file_write_quick(const char *path, const void *data, size_t size, Err *err);
bool file_is_leftover(const char *name); /* named so by a process that is no more on this machine */
/* The first line of a small file, of the kernel's above all; cut to fit, "" when it can't be read. */
void file_first_line(const char *path, char *line, int size);
bool file_exists(const char *path);
bool dir_make(const char *path, Err *err); /* like mkdir -p */

/* ---- time --------------------------------------------------------------------------------------------------- */

double now_seconds(void); /* monotonic */

/* ---- text ---------------------------------------------------------------------------------------------------- */

/* Length in bytes of the longest prefix of s[0..n) that does not end inside a UTF-8 character. */
size_t utf8_complete(const char *s, size_t n);
/* Decodes one code point; returns bytes used (1..4). Invalid input gives *cp = 0xFFFD and 1. Requires n >= 1. */
size_t utf8_decode(const char *s, size_t n, uint32_t *cp);
size_t utf8_encode(uint32_t cp, char out[4]); /* bytes written, 1..4 */

#endif
