/* source_main.c - the program bladegen-source: compiles one source body with a vendor's library. It is a program of
 * its own since such a library may crash or hang: the generator (source.c) starts it with a time limit.
 *
 *     bladegen-source nvrtc|hiprtc LIBRARY SOURCE OUTPUT NAME OPTION...
 *
 * Writes a cubin or code object; what the compiler says goes to standard output. NVRTC's interface and HIPRTC's
 * differ in their prefix, and in the name of the function that gives the code. */
#include <dlfcn.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *Program;

typedef struct Compiler {
    int (*create)(Program *, const char *source, const char *name, int headers, const char *const *,
                  const char *const *);
    int (*compile)(Program, int count, const char *const *options);
    int (*log_size)(Program, size_t *);
    int (*log)(Program, char *);
    int (*code_size)(Program, size_t *);
    int (*code)(Program, char *);
    const char *(*error)(int);
} Compiler;

static void *function(void *library, const char *prefix, const char *name)
{
    char full[64];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    void *f = dlsym(library, full);
    if (!f)
        printf("it has no function %s\n", full);
    return f;
}

/* The compilers load the headers that they bring along by name: from beside them is right, but not where the system
 * looks. */
static void load_builtins(const char *prefix, const char *path)
{
    char pattern[4096];
    const char *slash = strrchr(path, '/');
    glob_t found;
    snprintf(pattern, sizeof pattern, "%.*s/lib%s-builtins.so*", slash ? (int)(slash - path) : 1, slash ? path : ".",
             prefix);
    if (glob(pattern, 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc; i++)
            dlopen(found.gl_pathv[i], RTLD_NOW | RTLD_LOCAL);
        globfree(&found);
    }
}

static int load(Compiler *c, const char *prefix, const char *path)
{
    int nvidia = !strcmp(prefix, "nvrtc");
    load_builtins(prefix, path);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        printf("%s\n", dlerror());
        return 0;
    }
    struct { const char *name; void *to; } all[] = {
        {"CreateProgram", &c->create}, {"CompileProgram", &c->compile}, {"GetProgramLogSize", &c->log_size},
        {"GetProgramLog", &c->log}, {nvidia ? "GetCUBINSize" : "GetCodeSize", &c->code_size},
        {nvidia ? "GetCUBIN" : "GetCode", &c->code}, {"GetErrorString", &c->error}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        void *f = function(library, prefix, all[i].name);
        memcpy(all[i].to, &f, sizeof f);
        if (!f)
            return 0;
    }
    return 1;
}

static char *read_all(const char *path)
{
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    size_t len = 0, n = 0;
    do {
        char *more = realloc(text, len + 65537);
        if (!more || !f) {
            free(more);
            printf("the source can't be read\n");
            return NULL;
        }
        text = more;
        n = fread(text + len, 1, 65536, f);
        len += n;
    } while (n);
    text[len] = 0;
    fclose(f);
    return text;
}

static void print_log(const Compiler *c, Program p)
{
    size_t n = 0;
    char *log = c->log_size(p, &n) == 0 && n > 1 ? calloc(n + 1, 1) : NULL;
    if (log && c->log(p, log) == 0)
        puts(log);
    free(log);
}

static int write_code(const Compiler *c, Program p, const char *path)
{
    size_t n = 0;
    char *code = c->code_size(p, &n) == 0 && n > 0 ? malloc(n) : NULL;
    FILE *f = code && c->code(p, code) == 0 ? fopen(path, "wb") : NULL;
    int ok = f && fwrite(code, 1, n, f) == n;
    if (f && fclose(f))
        ok = 0;
    if (!ok)
        printf("it gave no code\n");
    free(code);
    return ok;
}

int main(int argc, char **argv)
{
    Compiler c;
    if (argc < 6) {
        fputs("bladegen-source is started by bladegen\n", stderr);
        return 2;
    }
    char *source = load(&c, argv[1], argv[2]) ? read_all(argv[3]) : NULL;
    Program p;
    int error = source ? c.create(&p, source, argv[5], 0, NULL, NULL) : 1;
    if (source && !error) {
        error = c.compile(p, argc - 6, (const char *const *)(argv + 6));
        print_log(&c, p);
    }
    if (source && error)
        printf("%s\n", c.error(error));
    int ok = !error && write_code(&c, p, argv[4]);
    fflush(stdout);
    _Exit(!ok); /* such libraries have crashed in their destructors */
}
