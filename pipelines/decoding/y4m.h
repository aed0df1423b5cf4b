/* A YUV4MPEG2 stream of one frame: the planes of luma and chroma of an image, with nothing to decode. The rows that a box shows
 * are read where they lie, and nothing else is. pipelines/datasets/y4m.py reads the same header, and says what is wrong with it.
 */
#include <stdint.h>
#include <string.h>

#include "fast_box.h"

enum { LONGEST_HEADER = 256, LARGEST_SIDE = 65535 };

/* What a header says: the size in pixels, how many of them a pixel of chroma covers, and the bytes before the first plane. */
typedef struct {
    int width, height, across, down;
    enum colours colours;
    uint64_t start;
} picture;

static const char MAGIC[] = "YUV4MPEG2", FRAME[] = "FRAME\n", FULL[] = "XCOLORRANGE=FULL", RANGE[] = "XCOLORRANGE=";

static int is_y4m(const uint8_t *bytes, uint64_t size) { return size >= sizeof MAGIC - 1 && !memcmp(bytes, MAGIC, sizeof MAGIC - 1); }

static int is(const char *word, int length, const char *wanted) {
    return length == (int)strlen(wanted) && !memcmp(word, wanted, length);
}

/* A decimal number from 1 to what a side may have; 0 for all else. */
static int number(const char *digits, int length) {
    int value = 0;
    if (length > 5)
        return 0;
    for (int k = 0; k < length; k++) {
        if (digits[k] < '0' || digits[k] > '9')
            return 0;
        value = 10 * value + digits[k] - '0';
    }
    return value > LARGEST_SIDE ? 0 : value;
}

static int sampling(const char *word, int length, picture *p) {
    p->across = is(word, length, "420jpeg") || is(word, length, "422") ? 2 : 1;
    p->down = is(word, length, "420jpeg") ? 2 : 1;
    p->colours = is(word, length, "mono") ? GRAY : YCBCR;
    return p->across == 2 || p->colours == GRAY || is(word, length, "444");
}

/* A parameter of the header, whose letters have not been seen before; whether it is one that can be read. */
static int take(const char *word, int length, uint32_t *seen, picture *p) {
    uint32_t letter = word[0] >= 'A' && word[0] <= 'Z' ? UINT32_C(1) << (word[0] - 'A') : 0;
    if (length < 2 || !letter || (word[0] != 'X' && *seen & letter))
        return 0;
    *seen |= letter;
    switch (word[0]) {
    case 'W': return (p->width = number(word + 1, length - 1)) > 0;
    case 'H': return (p->height = number(word + 1, length - 1)) > 0;
    case 'C': return sampling(word + 1, length - 1, p);
    case 'I': return length == 2 && (word[1] == 'p' || word[1] == '?');
    case 'X': return length < (int)sizeof RANGE || memcmp(word, RANGE, sizeof RANGE - 1) || is(word, length, FULL);
    default: return word[0] == 'F' || word[0] == 'A';
    }
}

/* Reads the header in the first `size` bytes of a stream; whether it is one that this can do with. */
static int read_header(const uint8_t *bytes, uint64_t size, picture *p) {
    const char *at = (const char *)bytes, *end, *stop = at + (size < LONGEST_HEADER ? size : LONGEST_HEADER);
    uint32_t seen = 0;
    memset(p, 0, sizeof *p);
    p->across = p->down = 2, p->colours = YCBCR; /* what a stream without a C is */
    if (!is_y4m(bytes, size) || !(end = memchr(at, '\n', stop - at)))
        return 0;
    for (at += sizeof MAGIC - 1; at < end;) {
        const char *word = at + 1, *space;
        if (*at != ' ')
            return 0;
        space = memchr(word, ' ', end - word);
        at = space ? space : end;
        if (!take(word, at - word, &seen, p))
            return 0;
    }
    at = end + 1;
    if (!p->width || !p->height || stop - at < (int)sizeof FRAME - 1 || memcmp(at, FRAME, sizeof FRAME - 1))
        return 0;
    p->start = at + sizeof FRAME - 1 - (const char *)bytes;
    return 1;
}

/* Reads part of an item's bytes. */
static int read_part(const item *it, int file, uint64_t from, uint64_t size, uint8_t *to) {
    if (!it->bytes)
        return read_all(file, it->place + from, size, to);
    memcpy(to, it->bytes + from, size);
    return 1;
}

/* The rows of a plane that a box shows: where they begin in the stream, bytes of a row, how many they are. */
typedef struct {
    uint64_t from;
    size_t stride;
    int rows;
} strip;

/* What of a picture a box shows, whole pixels of chroma: columns from x0, rows from y0 to before y1, those of each plane, and
 * where the stream must end. */
typedef struct {
    int planes, x0, y0, y1;
    strip strips[3];
    uint64_t end;
} view;

/* Tells what an item's square sees of a picture, and how a side of the box becomes one of the square; whether the box lies in it. */
static int see(const picture *p, const item *shown, int side, region *out, view *v) {
    item it;
    int seen[4];
    if (!as_stored(shown, p->width, p->height, side, &it))
        return 0;
    look(&it, 1, side, out, seen);
    out->colours = p->colours;
    v->planes = p->colours == GRAY ? 1 : 3;
    v->x0 = seen[0] < 0 ? 0 : seen[0] / p->across * p->across;
    v->y0 = seen[1] < 0 ? 0 : seen[1] / p->down * p->down;
    v->y1 = seen[3] > p->height ? p->height : seen[3];
    v->end = p->start;
    for (int c = 0; c < v->planes; c++) {
        int across = c ? p->across : 1, down = c ? p->down : 1;
        strip *s = &v->strips[c];
        s->stride = quotient(p->width, across);
        s->rows = quotient(v->y1, down) - v->y0 / down;
        s->from = v->end + s->stride * (v->y0 / down);
        v->end += s->stride * quotient(p->height, down);
    }
    return v->y0 < v->y1;
}

/* The same of the picture whose header is read first. */
static int read_view(const item *shown, int file, int side, picture *p, region *out, view *v) {
    uint8_t head[LONGEST_HEADER];
    uint64_t size = shown->size < LONGEST_HEADER ? shown->size : LONGEST_HEADER;
    if (!read_part(shown, file, 0, size, head))
        return UNREADABLE;
    return read_header(head, size, p) && see(p, shown, side, out, v) && v->end == shown->size ? DONE : UNDECODABLE;
}

/* Reads the rows of each plane that a box shows, and tells which they are, and the box in them. */
static int read_planes(const item *shown, int file, int side, buffer *pixels, region *out) {
    picture p;
    view v;
    int status = read_view(shown, file, side, &p, out, &v);
    if (status != DONE)
        return status;
    out->x.start -= v.x0, out->y.start -= v.y0;
    out->x.end = rounded_up(out->x.start + out->x.length);
    out->y.end = rounded_up(out->y.start + out->y.length);
    out->y.end = out->y.end > v.y1 - v.y0 ? v.y1 - v.y0 : out->y.end;

    size_t starts[3], room = 0;
    for (int c = 0; c < v.planes; c++) {
        plane *q = &out->planes[c];
        q->across = c ? p.across : 1, q->down = c ? p.down : 1;
        q->stride = v.strips[c].stride;
        q->columns = (int)q->stride - v.x0 / q->across;
        q->rows = v.strips[c].rows;
        starts[c] = room;
        room += q->stride * (q->rows + room_for(&out->y)) + 64;
    }
    if (!grow(pixels, room))
        return NO_MEMORY;
    for (int c = 0; c < v.planes; c++) {
        plane *q = &out->planes[c];
        if (!read_part(shown, file, v.strips[c].from, q->stride * q->rows, pixels->data + starts[c]))
            return UNREADABLE;
        q->pixels = pixels->data + starts[c] + v.x0 / q->across;
    }
    return DONE;
}
