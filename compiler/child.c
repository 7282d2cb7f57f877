/* child.c - see child.h. posix_spawn, since the callers have threads; a process group, so that a tool that is a script
 * ends whole. */
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LOG_BYTES = 1 << 20, OUTPUT_BYTES = 256 << 20, QUOTED_BYTES = 900, FIRST_FD = 64 };
/* Numbers of the files in the child. */
enum { INPUT_FD = 3, OUTPUT_FD = 4 };

extern char **environ;

typedef struct Files {
    int input, output, null, pipe[2]; /* pipe: the child's words; [0] is ours */
} Files;

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

/* Moves a descriptor out of the way of those that the child gets. */
static int away(int fd)
{
    int high = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, FIRST_FD) : -1;
    if (fd >= 0)
        close(fd);
    return high;
}

static bool fill(int fd, const char *bytes, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = write(fd, bytes + done, n - done);
        if (k < 0 && errno != EINTR)
            return false;
        done += k > 0 ? (size_t)k : 0;
    }
    return lseek(fd, 0, SEEK_SET) == 0;
}

static void files_close(Files *f)
{
    int all[] = {f->input, f->output, f->null, f->pipe[0], f->pipe[1]};
    for (size_t i = 0; i < COUNT(all); i++)
        if (all[i] >= 0)
            close(all[i]);
}

static bool files_open(Files *f, const Child *c, Err *err)
{
    *f = (Files){-1, -1, -1, {-1, -1}};
    int ends[2] = {-1, -1};
    bool ok = pipe2(ends, O_CLOEXEC) == 0;
    f->pipe[0] = ok ? away(ends[0]) : -1;
    f->pipe[1] = ok ? away(ends[1]) : -1;
    f->input = away(memfd_create("input", MFD_CLOEXEC));
    f->output = away(memfd_create("output", MFD_CLOEXEC));
    f->null = away(open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (f->pipe[0] >= 0 && f->pipe[1] >= 0 && f->output >= 0 && f->null >= 0 && f->input >= 0 &&
        fill(f->input, c->input, c->input_len))
        return true;
    err_set(err, "can't run %s: %s", base_name(c->argv[0]), strerror(errno));
    files_close(f);
    return false;
}

static bool read_output(const Files *f, Buf *out, const char *tool, Err *err)
{
    struct stat st;
    if (fstat(f->output, &st) || st.st_size > OUTPUT_BYTES)
        return err_set(err, "%s: its output can't be read, or is too large", tool);
    buf_reserve(out, (size_t)st.st_size + 1);
    for (off_t at = 0; at < st.st_size;) {
        char piece[65536];
        ssize_t n = pread(f->output, piece, sizeof piece, at);
        if (n <= 0)
            return err_set(err, "%s: its output can't be read: %s", tool, strerror(errno));
        buf_put(out, piece, (size_t)n);
        at += n;
    }
    return true;
}

/* ---- the process ------------------------------------------------------------------------------------------------ */

static int spawn(const Child *c, const Files *f, pid_t *pid)
{
    char *argv[CHILD_ARGS] = {0};
    char input[32], output[32];
    snprintf(input, sizeof input, "/proc/self/fd/%d", INPUT_FD);
    snprintf(output, sizeof output, "/proc/self/fd/%d", OUTPUT_FD);
    for (int i = 0; i < CHILD_ARGS - 1 && c->argv[i]; i++)
        argv[i] = !strcmp(c->argv[i], CHILD_INPUT) ? input : !strcmp(c->argv[i], CHILD_OUTPUT) ? output
                                                                                              : (char *)c->argv[i];
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, defaults;
    sigemptyset(&none);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawn_file_actions_adddup2(&actions, f->null, 0);
    posix_spawn_file_actions_adddup2(&actions, c->to_stdout ? f->output : f->pipe[1], 1);
    posix_spawn_file_actions_adddup2(&actions, f->pipe[1], 2);
    posix_spawn_file_actions_adddup2(&actions, f->input, INPUT_FD);
    posix_spawn_file_actions_adddup2(&actions, f->output, OUTPUT_FD);
    int error = posix_spawn(pid, argv[0], &actions, &attributes, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return error;
}

/* Collects what the child says until it closes its end; false when the time is over. */
static bool listen_to(int fd, double until, Buf *log)
{
    char piece[4096];
    for (;;) {
        double left = until - now_seconds();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int ready = left > 0 ? poll(&p, 1, (int)(left * 1000) + 1) : 0;
        if (ready == 0)
            return false;
        ssize_t n = ready > 0 ? read(fd, piece, sizeof piece) : -1;
        if (n == 0 || (n < 0 && errno != EINTR))
            return true;
        if (n > 0)
            buf_put(log, piece, MIN((size_t)n, LOG_BYTES - MIN(log->len, LOG_BYTES)));
    }
}

/* Waits until the process has ended, but leaves it to be reaped; false at the deadline. A tool may have closed its
 * output early, so this looks again and again, more and more seldom. */
static bool ends_by(pid_t pid, double until)
{
    for (int64_t pause_us = 200;; pause_us = MIN(2 * pause_us, 20000)) {
        siginfo_t info = {0};
        if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid)
            return true;
        if (now_seconds() > until)
            return false;
        usleep((useconds_t)pause_us);
    }
}

/* Its status, once it has ended, by itself or (false) by force. What it started ends with it. */
static bool wait_for(pid_t pid, int fd, double until, Buf *log, int *status)
{
    bool in_time = listen_to(fd, until, log) && ends_by(pid, until);
    kill(-pid, SIGKILL);
    *status = 0;
    while (waitpid(pid, status, 0) < 0 && errno == EINTR) {
    }
    return in_time;
}

/* The first lines of what the tool said. */
static void quote(const Buf *log, Err *err)
{
    int n = (int)MIN(log->len, QUOTED_BYTES);
    while (n && (log->data[n - 1] == '\n' || log->data[n - 1] == ' '))
        n--;
    size_t used = strlen(err->text);
    if (n)
        snprintf(err->text + used, sizeof err->text - used, ": %.*s%s", n, log->data,
                 log->len > QUOTED_BYTES ? " ..." : "");
}

static bool judge(const char *tool, bool in_time, double seconds, int status, const Buf *log, Err *err)
{
    Err own = {0};
    if (!in_time)
        err_set(&own, "%s did not end within %g seconds and was stopped", tool, seconds);
    else if (WIFSIGNALED(status))
        err_set(&own, "%s crashed (signal %d, %s)", tool, WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status))
        err_set(&own, "%s ended with status %d", tool, WEXITSTATUS(status));
    else
        return true;
    quote(log, &own);
    return err_set(err, "%s", own.text);
}

/* *in_time: it ended by itself. */
static bool run_once(const Child *c, Buf *output, Buf *words, bool *in_time, Err *err)
{
    const char *tool = base_name(c->argv[0]);
    double seconds = c->seconds > 0 ? c->seconds : 60;
    Files f;
    pid_t pid;
    *in_time = true;
    if (!files_open(&f, c, err))
        return false;
    int status, error = spawn(c, &f, &pid);
    bool ok = false;
    if (error)
        err_set(err, "can't run %s: %s", c->argv[0], strerror(error));
    else {
        close(f.pipe[1]);
        f.pipe[1] = -1;
        *in_time = wait_for(pid, f.pipe[0], now_seconds() + seconds, words, &status);
        ok = judge(tool, *in_time, seconds, status, words, err) && (!output || read_output(&f, output, tool, err));
    }
    files_close(&f);
    return ok;
}

bool child_run(const Child *c, Buf *output, Buf *log, Err *err)
{
    Buf words = {0};
    bool in_time, ok = run_once(c, output, &words, &in_time, err);
    if (!in_time && c->again) {
        buf_free(&words);
        ok = run_once(c, output, &words, &in_time, err);
    }
    if (log && words.len)
        buf_put(log, words.data, words.len);
    buf_free(&words);
    return ok;
}

/* ---- finding tools ---------------------------------------------------------------------------------------------- */

static bool runnable(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

/* folders: with colons between. */
static bool find_in(const char *folders, const char *name, bool usable(const char *path), char *out, size_t size)
{
    for (const char *p = folders ? folders : ""; *p;) {
        size_t n = strcspn(p, ":");
        if (n && snprintf(out, size, "%.*s/%s", (int)n, p, name) < (int)size && usable(out))
            return true;
        p += n + (p[n] == ':');
    }
    return false;
}

static bool is_at(const char *path, bool usable(const char *path), char *out, size_t size)
{
    return snprintf(out, size, "%s", path) < (int)size && usable(out);
}

bool child_find(const char *variable, const char *const *names, char *out, size_t size)
{
    const char *given = variable ? getenv(variable) : NULL;
    if (given && *given)
        return is_at(given, runnable, out, size);
    for (; *names; names++)
        if (strchr(*names, '/') ? is_at(*names, runnable, out, size)
                                : find_in(getenv("PATH"), *names, runnable, out, size))
            return true;
    return false;
}

int child_find_library(const char *variable, const char *const *names, char *out, size_t size)
{
    static const char places[] = "/usr/local/cuda/lib64:/opt/rocm/lib:/usr/lib/x86_64-linux-gnu:"
                                 "/usr/lib/aarch64-linux-gnu:/usr/lib64:/usr/lib";
    const char *given = variable ? getenv(variable) : NULL;
    if (given && *given)
        return is_at(given, file_exists, out, size) ? -2 : -1;
    for (int i = 0; names[i]; i++)
        if (find_in(getenv("LD_LIBRARY_PATH"), names[i], file_exists, out, size) ||
            find_in(places, names[i], file_exists, out, size))
            return i;
    return -1;
}

void child_identity(const char *path, Buf *out)
{
    struct stat st;
    if (stat(path, &st) == 0)
        buf_printf(out, "%s %lld %lld.%09ld", path, (long long)st.st_size, (long long)st.st_mtim.tv_sec,
                   st.st_mtim.tv_nsec);
    else
        buf_puts(out, "none");
}
