/* Preloaded into a process, counts its operations on the files below one folder and lets one of them fail, once.
 *
 * faults_watch says which folder, which operation (counted from 1; 0: none) and how (an errno). What was counted, and
 * what failed, stands in memory that the caller gives, so that a parent can read it when its child has ended.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct report {
    atomic_long count;
    char failed[4088]; /* "operation path" */
};

static struct report *report;
static char watched[4096];
static long failing;
static int cause;

void faults_watch(const char *folder, long operation, int error, void *memory)
{
    snprintf(watched, sizeof watched, "%s/", folder);
    failing = operation;
    cause = error;
    report = memory;
}

/* Whether this operation is the one to fail; then errno is set. `path` may be relative to the open folder `at`. */
static int fails(const char *operation, int at, const char *path)
{
    char whole[8300], link[64];
    if (report == NULL || path == NULL)
        return 0;
    int kept = errno;
    if (path[0] == '/') {
        snprintf(whole, sizeof whole, "%s", path);
    } else {
        snprintf(link, sizeof link, at == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", at);
        ssize_t length = readlink(link, whole, 4096);
        snprintf(whole + (length > 0 ? length : 0), 4097, path[0] ? "/%s" : "%s", path);
    }
    errno = kept;
    if (strncmp(whole, watched, strlen(watched)) != 0)
        return 0;
    if (atomic_fetch_add(&report->count, 1) + 1 != failing)
        return 0;
    snprintf(report->failed, sizeof report->failed, "%s %.4000s", operation, whole);
    errno = cause;
    return 1;
}

#define NEXT(type, name, ...)                            \
    static type (*next)(__VA_ARGS__);                    \
    if (next == NULL)                                    \
        next = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define MODE(flags, mode)                                \
    mode_t mode = 0;                                     \
    if ((flags) & (O_CREAT | O_TMPFILE)) {               \
        va_list rest;                                    \
        va_start(rest, flags);                           \
        mode = va_arg(rest, mode_t);                     \
        va_end(rest);                                    \
    }

#define OPEN(name)                                       \
    int name(const char *path, int flags, ...)           \
    {                                                    \
        MODE(flags, mode)                                \
        NEXT(int, name, const char *, int, ...);         \
        return fails("open", AT_FDCWD, path) ? -1 : next(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                     \
    int name(int at, const char *path, int flags, ...)   \
    {                                                    \
        MODE(flags, mode)                                \
        NEXT(int, name, int, const char *, int, ...);    \
        return fails("open", at, path) ? -1 : next(at, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

/* The return type, the value that means failure, the name, what it is counted as, and the parameters. */
#define PATH(type, bad, name, as, at, path, parameters, ...) \
    type name parameters                                 \
    {                                                    \
        static type(*next) parameters;                   \
        if (next == NULL)                                \
            next = (type(*) parameters)dlsym(RTLD_NEXT, #name); \
        return fails(as, at, path) ? bad : next(__VA_ARGS__); \
    }
PATH(FILE *, NULL, fopen, "open", AT_FDCWD, p, (const char *p, const char *m), p, m)
PATH(FILE *, NULL, fopen64, "open", AT_FDCWD, p, (const char *p, const char *m), p, m)
PATH(DIR *, NULL, opendir, "open", AT_FDCWD, p, (const char *p), p)
PATH(int, -1, rename, "rename", AT_FDCWD, a, (const char *a, const char *b), a, b)
PATH(int, -1, renameat, "rename", x, a, (int x, const char *a, int y, const char *b), x, a, y, b)
PATH(int, -1, renameat2, "rename", x, a, (int x, const char *a, int y, const char *b, unsigned f), x, a, y, b, f)
PATH(int, -1, link, "link", AT_FDCWD, a, (const char *a, const char *b), a, b)
PATH(int, -1, linkat, "link", x, a, (int x, const char *a, int y, const char *b, int f), x, a, y, b, f)
PATH(int, -1, unlink, "unlink", AT_FDCWD, p, (const char *p), p)
PATH(int, -1, unlinkat, "unlink", x, p, (int x, const char *p, int f), x, p, f)
PATH(int, -1, mkdir, "mkdir", AT_FDCWD, p, (const char *p, mode_t m), p, m)
PATH(int, -1, mkdirat, "mkdir", x, p, (int x, const char *p, mode_t m), x, p, m)
PATH(int, -1, rmdir, "rmdir", AT_FDCWD, p, (const char *p), p)
PATH(int, -1, truncate, "truncate", AT_FDCWD, p, (const char *p, off_t n), p, n)

#define OPENED(type, bad, name, as, file, parameters, ...) PATH(type, bad, name, as, file, file > 2 ? "" : NULL, parameters, __VA_ARGS__)
OPENED(ssize_t, -1, read, "read", f, (int f, void *b, size_t n), f, b, n)
OPENED(ssize_t, -1, pread, "read", f, (int f, void *b, size_t n, off_t o), f, b, n, o)
OPENED(ssize_t, -1, pread64, "read", f, (int f, void *b, size_t n, off_t o), f, b, n, o)
OPENED(ssize_t, -1, readv, "read", f, (int f, const struct iovec *v, int n), f, v, n)
OPENED(ssize_t, -1, preadv, "read", f, (int f, const struct iovec *v, int n, off_t o), f, v, n, o)
OPENED(ssize_t, -1, write, "write", f, (int f, const void *b, size_t n), f, b, n)
OPENED(ssize_t, -1, pwrite, "write", f, (int f, const void *b, size_t n, off_t o), f, b, n, o)
OPENED(ssize_t, -1, pwrite64, "write", f, (int f, const void *b, size_t n, off_t o), f, b, n, o)
OPENED(ssize_t, -1, writev, "write", f, (int f, const struct iovec *v, int n), f, v, n)
OPENED(int, -1, fsync, "fsync", f, (int f), f)
OPENED(int, -1, fdatasync, "fsync", f, (int f), f)
OPENED(int, -1, ftruncate, "truncate", f, (int f, off_t n), f, n)
OPENED(int, -1, ftruncate64, "truncate", f, (int f, off_t n), f, n)
OPENED(void *, MAP_FAILED, mmap, "map", f, (void *a, size_t n, int p, int m, int f, off_t o), a, n, p, m, f, o)
OPENED(void *, MAP_FAILED, mmap64, "map", f, (void *a, size_t n, int p, int m, int f, off_t o), a, n, p, m, f, o)
