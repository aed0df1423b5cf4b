/* Cuts a JPEG down to what a box shows of it, before any decoder: restart markers (ITU-T T.81, F.1.1.5) let its data be entered
 * where no earlier data is known. What comes out is a smaller valid JPEG: header, the intervals between markers that the box
 * touches, markers numbered anew, width and height changed. Of anything that is not as it should be, nothing is cut.
 */
#include "fast_box.h"

enum { SOF0 = 0xC0, SOF1 = 0xC1, DHT = 0xC4, RST0 = 0xD0, EOI = 0xD9, SOS = 0xDA, DQT = 0xDB, DRI = 0xDD, APP0 = 0xE0,
       APP14 = 0xEE, APP15 = 0xEF, COM = 0xFE };
/* Bytes of zeros behind each interval, as many as a decoder may read ahead; and behind the end, as many as libjpeg-turbo wants
 * to see before it uses its fast way of reading: 512 for each of the blocks that stand together, at most ten. */
enum { READ_AHEAD = 8, BEHIND_END = 5120 };

/* What a JPEG's header says. frame, scan: where the frame header and the entropy-coded data begin. Data comes in units (MCUs)
 * of unit_width x unit_height pixels, `across` in a row, `interval` of them between two markers; a decoder works on pieces of
 * piece_width x piece_height, whole units. */
typedef struct {
    size_t frame, scan;
    int width, height, unit_width, unit_height, piece_width, piece_height, across, down, interval;
} layout;

/* What was cut out: a JPEG of `size` bytes at `bytes`, whose pixel (0, 0) is that at (left, top) of a larger one. */
typedef struct {
    const uint8_t *bytes;
    size_t size, room; /* room: bytes that may be read from `bytes` on, zeros behind the JPEG's end */
    int left, top, whole_width, whole_height;
} part;

static int both(const uint8_t *at) { return at[0] << 8 | at[1]; }

/* Reads a frame header of `length` bytes; whether it is one whose data can be cut. */
static int read_frame(const uint8_t *at, int length, layout *l) {
    int count = length < 8 ? 0 : at[7], widest = 1, highest = 1;
    if (length < 8 || at[2] != 8 || (count != 1 && count != 3) || length != 8 + 3 * count)
        return 0;
    l->height = both(at + 3), l->width = both(at + 5);
    for (int c = 0; c < count; c++) {
        int h = at[9 + 3 * c] >> 4, v = at[9 + 3 * c] & 15;
        if (h < 1 || h > 4 || v < 1 || v > 4)
            return 0;
        widest = h > widest ? h : widest, highest = v > highest ? v : highest;
    }
    l->piece_width = 8 * widest, l->piece_height = 8 * highest;
    l->unit_width = count == 1 ? 8 : l->piece_width, l->unit_height = count == 1 ? 8 : l->piece_height; /* A.2.2 */
    l->across = quotient(l->width, l->unit_width), l->down = quotient(l->height, l->unit_height);
    return l->width > 0 && l->height > 0;
}

/* Follows the segments of a header up to its scan; whether it is a baseline JPEG of one scan with restart markers at the
 * beginning of every row of units, or of every few rows. */
static int read_layout(const uint8_t *bytes, size_t size, layout *l) {
    memset(l, 0, sizeof *l);
    if (size < 4 || size >= UINT32_MAX || bytes[0] != 0xFF || bytes[1] != 0xD8)
        return 0;
    for (size_t at = 2; at + 4 <= size;) {
        int marker = bytes[at + 1], length = both(bytes + at + 2);
        if (bytes[at] != 0xFF || length < 2 || (size_t)length > size - at - 2)
            return 0;
        const uint8_t *segment = bytes + at + 2;
        if (marker == SOF0 || marker == SOF1) {
            if (l->frame || !read_frame(segment, length, l))
                return 0;
            l->frame = at;
        } else if (marker == DRI && length == 4)
            l->interval = both(segment + 2);
        else if (marker == SOS) {
            int count = l->frame ? bytes[l->frame + 9] : 0;
            l->scan = at + 2 + length;
            if (!count || length != 6 + 2 * count || segment[2] != count || segment[3 + 2 * count] != 0 ||
                segment[4 + 2 * count] != 63 || segment[5 + 2 * count] != 0)
                return 0;
            return l->interval > 0 && (l->across % l->interval == 0 || l->interval % l->across == 0);
        } else if (marker != DQT && marker != DHT && marker != COM && (marker < APP0 || marker > APP15))
            return 0;
        at += 2 + length;
    }
    return 0;
}

/* Finds where each of `count` intervals begins, and behind the last one where it would: starts[0..count]. Whether the markers
 * between them are numbered as they should be and end with the image. */
static int find_intervals(const uint8_t *bytes, size_t size, size_t scan, size_t count, uint32_t *starts) {
    const uint8_t *at = bytes + scan, *end = bytes + size;
    starts[0] = scan;
    for (size_t number = 0; (at = memchr(at, 0xFF, end - at)) != NULL && end - at >= 2; at += 2) {
        if (at[1] == 0)
            continue;
        if (number + 1 == count) {
            starts[count] = at + 2 - bytes;
            return at[1] == EOI;
        }
        if (at[1] != RST0 + number % 8)
            return 0;
        starts[++number] = at + 2 - bytes;
    }
    return 0;
}

static void put(uint8_t **to, const void *from, size_t size) {
    memcpy(*to, from, size);
    *to += size;
}

/* Copies what a decoder needs of the header, with another size: no comments, EXIF blocks, profiles. */
static void put_header(uint8_t **to, const uint8_t *bytes, const layout *l, int width, int height) {
    put(to, bytes, 2);
    for (size_t at = 2; at < l->scan; at += 2 + both(bytes + at + 2)) {
        int marker = bytes[at + 1];
        if (marker == COM || (marker > APP0 && marker < APP14) || marker == APP15)
            continue;
        uint8_t *segment = *to;
        put(to, bytes + at, 2 + both(bytes + at + 2));
        if (at == l->frame)
            segment[5] = height >> 8, segment[6] = height & 255, segment[7] = width >> 8, segment[8] = width & 255;
    }
}

/* Begins and ends a range at whole multiples, within 0 to `whole`. */
static void widen(int64_t *from, int64_t *to, int multiple, int whole) {
    *from = *from < 0 ? 0 : *from / multiple * multiple;
    *to = (*to + multiple - 1) / multiple * multiple;
    *to = *to > whole ? whole : *to;
}

static int common_multiple(int first, int second) {
    int multiple = first;
    while (multiple % second)
        multiple += first;
    return multiple;
}

/* Cuts the JPEG of `size` bytes, whose layout was read, down to the pixels from (x0, y0) to before (x1, y1), as stored, or a few more. generous: leave
 * zeros behind intervals and end, which libjpeg-turbo passes over and reads faster with; others get a JPEG to the letter. Whether
 * anything was cut: `out` then lies in `memory`, and `starts` is another buffer to work in. */
static int cut(const uint8_t *bytes, size_t size, const layout *header, int64_t x0, int64_t y0, int64_t x1, int64_t y1, int generous,
               buffer *starts, buffer *memory, part *out) {
    layout l = *header;
    int rows = l.interval > l.across ? l.interval / l.across : 1; /* of units that an interval spans */
    int a_row = l.interval > l.across ? 1 : l.across / l.interval; /* intervals in those rows */
    int step = common_multiple(rows * l.unit_height, l.piece_height);
    widen(&y0, &y1, step, l.height);
    if (a_row == 1)
        x0 = 0, x1 = l.width;
    else
        widen(&x0, &x1, common_multiple(l.interval * l.unit_width, l.piece_width), l.width);
    if (x0 >= x1 || y0 >= y1 || (x1 - x0 == l.width && y1 - y0 == l.height))
        return 0;
    size_t count = (size_t)a_row * quotient(l.down, rows);
    if (count > size / 2 || !grow(starts, (count + 1) * sizeof(uint32_t)))
        return 0;
    uint32_t *start = (uint32_t *)starts->data;
    if (!find_intervals(bytes, size, l.scan, count, start))
        return 0;
    int wide = l.interval * l.unit_width, high = rows * l.unit_height;
    int first = x0 / wide, last = a_row == 1 ? 1 : quotient(x1, wide), top = y0 / high, bottom = quotient(y1, high);
    size_t kept = (size_t)(last - first) * (bottom - top), needed = l.scan + 2;
    for (int row = top; row < bottom; row++)
        needed += start[(size_t)row * a_row + last] - start[(size_t)row * a_row + first];
    needed += generous ? kept * READ_AHEAD + BEHIND_END : 0;
    if (!grow(memory, needed))
        return 0;
    uint8_t *to = memory->data;
    put_header(&to, bytes, &l, x1 - x0, y1 - y0);
    size_t number = 0;
    for (int row = top; row < bottom; row++)
        for (int k = first; k < last; k++) {
            const uint32_t *place = start + (size_t)row * a_row + k;
            put(&to, bytes + place[0], place[1] - 2 - place[0]);
            if (generous)
                memset(to, 0, READ_AHEAD), to += READ_AHEAD;
            *to++ = 0xFF, *to++ = number + 1 == kept ? EOI : RST0 + number % 8;
            number++;
        }
    out->bytes = memory->data, out->size = to - memory->data;
    if (generous)
        memset(to, 0, BEHIND_END);
    out->room = out->size + (generous ? BEHIND_END : 0);
    out->left = x0, out->top = y0, out->whole_width = l.width, out->whole_height = l.height;
    return 1;
}

/* Cuts out what an item's square sees of its JPEG once the decoder has made it smaller `by` times. */
static int cut_for(const uint8_t *bytes, const item *shown, int by, int side, int generous, buffer *starts, buffer *memory,
                   part *out) {
    layout l;
    item it;
    region unused;
    int seen[4];
    if (!read_layout(bytes, shown->size, &l) || !as_stored(shown, l.width, l.height, side, &it))
        return 0;
    look(&it, by, side, &unused, seen);
    return cut(bytes, shown->size, &l, (int64_t)seen[0] * by, (int64_t)seen[1] * by, (int64_t)seen[2] * by,
               (int64_t)seen[3] * by, generous, starts, memory, out);
}
