/* child.h - runs a tool (assembler, linker, vendor compiler) as a child process: no shell, a time limit, files in
 * memory, and every way to fail as a message. Any number of threads may do so at once. */
#ifndef BLADE_CHILD_H
#define BLADE_CHILD_H

#include "base.h"

enum { CHILD_ARGS = 64 };

/* Stands in argv where the tool wants the path of its input or output: a file in memory (/proc/self/fd/N). */
#define CHILD_INPUT "{input}"
#define CHILD_OUTPUT "{output}"

typedef struct Child {
    const char *argv[CHILD_ARGS]; /* argv[0]: path of the tool; NULL behind the last */
    const void *input;            /* contents of CHILD_INPUT */
    size_t input_len;
    bool to_stdout;               /* the tool writes its output there; CHILD_OUTPUT isn't used */
    double seconds;               /* then it is killed, with all that it started; 0: a minute */
    bool again;                   /* is tried once more after that (ptxas has been seen to hang at its end) */
} Child;

/* True when the tool ended with status 0. Then `output` (may be NULL) has what it wrote to CHILD_OUTPUT, and `log`
 * (may be NULL) its messages, standard output (unless to_stdout) and error, cut after a mebibyte. Otherwise a
 * message with the tool's name, how it ended and the start of what it said; `log` is filled as well. */
bool child_run(const Child *c, Buf *output, Buf *log, Err *err);

/* The path of a program: what the environment's `variable` (may be NULL) says when it is set, and then nothing
 * else; else the first of `names` that is found, a path or a name to look for in PATH. False when there is none. */
bool child_find(const char *variable, const char *const *names, char *out, size_t size);

/* The same for a shared library, looked for in LD_LIBRARY_PATH and where packages put them. The index in `names`,
 * or -1; -2 where the variable gave the path. */
int child_find_library(const char *variable, const char *const *names, char *out, size_t size);

/* What identifies a tool's file: path, size and time, for keys of caches; "none" for a file that can't be read. */
void child_identity(const char *path, Buf *out);

#endif
