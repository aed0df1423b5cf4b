/* What there is to do with a sample, and where its bytes come from: memory, a file of its own, or a place in an open file. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DONE = 1, UNREADABLE = 2, UNDECODABLE = 3, NO_MEMORY = 4 }; /* 0: never seen */

/* One sample: the JPEG, or the `planes` of one (y4m.h), of `size` bytes at `bytes`, or else at `place` of an open `file`, or else (file below 0) in the file
 * `path`; a sample to leave out where that is NULL. The file was `modified` at that time (ns since 1970; below 0: whenever), or
 * is not the one that was indexed. The box is in pixels as displayed, that is once the stored ones are turned by the EXIF
 * `orientation` (1 to 8); it is resized to `across` x `down`, of which the square at (x, y) is wanted. */
typedef struct {
    const char *path;
    const uint8_t *bytes;
    uint64_t place, size;
    int64_t modified;
    int32_t file;
    int32_t left, top, width, height;
    int32_t across, down, x, y;
    int32_t bicubic, flip, orientation, planes;
    int32_t status;
} item;

typedef struct {
    uint8_t *data;
    size_t room;
} buffer;

static int grow(buffer *b, size_t bytes) {
    if (bytes <= b->room)
        return 1;
    free(b->data);
    b->room = bytes + bytes / 4;
    b->data = aligned_alloc(64, (b->room + 63) / 64 * 64);
    if (!b->data)
        b->room = 0;
    return b->data != NULL;
}

static int read_all(int file, uint64_t place, uint64_t size, uint8_t *to) {
    uint64_t got = 0;
    ssize_t count;
    while (got < size && (count = pread(file, to + got, size - got, place + got)) > 0)
        got += count;
    return got == size;
}

static int is_as_indexed(const item *it, const struct stat *now) {
    uint64_t size = now->st_size;
    int64_t modified = now->st_mtim.tv_sec * INT64_C(1000000000) + now->st_mtim.tv_nsec;
    if (it->modified >= 0 && modified != it->modified)
        return 0;
    return it->file >= 0 ? it->place <= size && it->size <= size - it->place : it->size == size;
}

/* The file that an item's bytes lie in, if it is the one that was indexed; else -1. */
static int opened(const item *it) {
    struct stat now;
    int file = it->file >= 0 ? it->file : it->path ? open(it->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    if (file < 0 || (fstat(file, &now) == 0 && is_as_indexed(it, &now)))
        return file;
    if (it->file < 0)
        close(file);
    return -1;
}

static void done_with(const item *it, int file) {
    if (it->file < 0 && file >= 0)
        close(file);
}

/* Reads an item's bytes. */
static int read_item(const item *it, int file, buffer *to) {
    return !grow(to, it->size) ? NO_MEMORY : read_all(file, it->place, it->size, to->data) ? DONE : UNREADABLE;
}
