/* Lets system calls of this process fail, preloaded: `fault_arm` says which. A call counts when the path that it is given, or that
 * its descriptor has, holds `part`; from the call number `after` on, `count` of them fail with `number`. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char part[4096];
static int failing, left_before, left;

void fault_arm(const char *of, int number, int after, int count) {
    pthread_mutex_lock(&lock);
    snprintf(part, sizeof part, "%s", of);
    failing = number, left_before = after, left = count;
    pthread_mutex_unlock(&lock);
}

int fault_left(void) {
    return left;
}

static int hit(const char *path) {
    int fails = 0;
    pthread_mutex_lock(&lock);
    if (part[0] && path && strstr(path, part)) {
        if (left_before > 0)
            left_before--;
        else if (left > 0)
            left--, fails = 1;
    }
    pthread_mutex_unlock(&lock);
    if (fails)
        errno = failing;
    return fails;
}

static int hit_file(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return hit(path);
}

#define REAL(name, result, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) \
        real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name, int, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; \
        va_end(rest); \
        return hit(path) ? -1 : real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define STAT(name, kind) \
    int name(const char *path, struct kind *to) { \
        REAL(name, int, const char *, struct kind *); \
        return hit(path) ? -1 : real(path, to); \
    }
STAT(stat, stat)
STAT(stat64, stat64)

DIR *opendir(const char *path) {
    REAL(opendir, DIR *, const char *);
    return hit(path) ? NULL : real(path);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir, int, const char *, mode_t);
    return hit(path) ? -1 : real(path, mode);
}

int rename(const char *from, const char *to) {
    REAL(rename, int, const char *, const char *);
    return hit(from) ? -1 : real(from, to);
}

ssize_t write(int file, const void *data, size_t size) {
    REAL(write, ssize_t, int, const void *, size_t);
    return hit_file(file) ? -1 : real(file, data, size);
}

ssize_t writev(int file, const struct iovec *data, int count) {
    REAL(writev, ssize_t, int, const struct iovec *, int);
    return hit_file(file) ? -1 : real(file, data, count);
}

ssize_t pread64(int file, void *to, size_t size, off64_t at) {
    REAL(pread64, ssize_t, int, void *, size_t, off64_t);
    return hit_file(file) ? -1 : real(file, to, size, at);
}

ssize_t preadv64(int file, const struct iovec *to, int count, off64_t at) {
    REAL(preadv64, ssize_t, int, const struct iovec *, int, off64_t);
    return hit_file(file) ? -1 : real(file, to, count, at);
}

int fsync(int file) {
    REAL(fsync, int, int);
    return hit_file(file) ? -1 : real(file);
}
