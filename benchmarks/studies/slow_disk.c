/* Preloaded into a process, makes its positional reads as slow as those of a disk that gives DISK_BYTES_PER_SECOND to all threads
 * together. What is read comes from wherever it is; only the time is the disk's. Compiled by stores.py.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef ssize_t reading(int, void *, size_t, off_t);

static _Atomic int64_t free_at; /* ns: when the disk has done what was asked of it before */

static void wait_for(ssize_t bytes) {
    const char *rate = getenv("DISK_BYTES_PER_SECOND");
    struct timespec now;
    if (bytes <= 0 || !rate)
        return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t present = now.tv_sec * INT64_C(1000000000) + now.tv_nsec, taken = (int64_t)(bytes * 1e9 / atof(rate));
    int64_t before = atomic_load(&free_at), after;
    do
        after = (before > present ? before : present) + taken;
    while (!atomic_compare_exchange_weak(&free_at, &before, after));
    struct timespec until = {after / 1000000000, after % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL))
        ;
}

static ssize_t slow(const char *name, int file, void *to, size_t count, off_t place) {
    ssize_t got = ((reading *)dlsym(RTLD_NEXT, name))(file, to, count, place);
    wait_for(got);
    return got;
}

ssize_t pread(int file, void *to, size_t count, off_t place) { return slow("pread", file, to, count, place); }
ssize_t pread64(int file, void *to, size_t count, off_t place) { return slow("pread64", file, to, count, place); }
