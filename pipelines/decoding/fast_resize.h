/* Resizes a box of a decoded JPEG to a square of RGB pixels, straight from the planes that the decoder keeps its colours in.
 *
 * Bilinear, widened to the reduction when it shrinks (antialiased), in 32-bit floats. Chroma planes of half the size are
 * not enlarged first: libjpeg's smooth upsampling and the resize are both weighted sums, so that one filter does both.
 * Colours are converted last. Eight output rows are made at a time, one in each lane of a vector.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX2__
#include <immintrin.h>
#endif

typedef float floats8 __attribute__((vector_size(32)));
typedef int32_t ints8 __attribute__((vector_size(32)));
typedef uint8_t bytes8 __attribute__((vector_size(8)));

enum { ROWS = 8 };                         /* made at a time */
enum colours { GRAY, RGB, YCBCR };

/* One colour of the part of an image that was decoded. Its pixels cover `across` x `down` of the image's. Bytes behind its
 * rows and its last row are read at weight zero. */
typedef struct {
    const uint8_t *pixels;
    size_t stride;
    int across, down, columns, rows;
} plane;

/* The part, with the box at (left, top) in it, in pixels; columns, rows: whole pixels that the box touches end there. */
typedef struct {
    plane planes[3];
    enum colours colours;
    float left, top, width, height;
    int columns, rows;
} region;

typedef struct {
    int *first;     /* for each output pixel, the first pixel of the plane that it sees */
    float *weights; /* and the weights of `taps` pixels from there on */
    int taps;
} filter;

/* The filters of a plane, and its rows combined: eight floats a column, one for each output row. */
typedef struct {
    filter x, y;
    float *line;
} work;

/* At least as many pixels as one output pixel sees. */
static int room_for(float length, int side) {
    float reduce = length / side;
    return (int)(2 * (reduce > 1 ? reduce : 1)) + 2;
}

/* Adds the weight of an image's pixel to those of a plane of `size` pixels, each as large as `by` of the image's, from
 * `first` on. Halved colours are upsampled smoothly: three quarters of a pixel come from where it lies, one from its
 * neighbour on that side (libjpeg's "fancy upsampling"). */
static inline void share(float *weights, int first, int pixel, float weight, int by, int size) {
    int at = pixel / by;
    if (by == 2) {
        int beside = pixel % 2 ? at + 1 : at - 1;
        beside = beside < 0 || beside >= size ? at : beside;
        weights[beside - first] += 0.25f * weight;
        weight *= 0.75f;
    }
    weights[at - first] += weight;
}

/* A triangle as wide as two output pixels (two source pixels when enlarging), cut off at the box and normalised, as sums of
 * the pixels of a plane of `size`. Output pixel i sees `taps` of them from first[i] on; those of no weight at its end
 * make all equally many. */
static void make_filter(filter *f, float start, float length, int end, int side, int by, int size) {
    float scale = length / side, support = scale > 1 ? scale : 1, triangle[room_for(length, side)];
    int begin = (int)start, room = room_for(length, side), most = 1;
    for (int i = 0; i < side; i++) {
        float centre = start + (i + 0.5f) * scale, sum = 0, *weights = f->weights + (size_t)i * room;
        int low = (int)(centre - support + 0.5f), high = (int)(centre + support + 0.5f);
        low = low < begin ? begin : low;
        high = high > end ? end : high;
        high = high > low + room ? low + room : high;
        for (int k = 0; k < high - low; k++) {
            float distance = (low + k + 0.5f - centre) / support;
            distance = distance < 0 ? -distance : distance;
            sum += triangle[k] = distance < 1 ? 1 - distance : 0;
        }
        int first = by == 2 && low ? (low - 1) / 2 : low / by;
        f->first[i] = first;
        memset(weights, 0, room * sizeof *weights);
        for (int k = 0; k < high - low; k++)
            if (triangle[k] > 0)
                share(weights, first, low + k, triangle[k] / sum, by, size);
        for (int k = most; k < room; k++)
            if (weights[k] > 0)
                most = k + 1;
    }
    f->taps = most;
    for (int i = 1; i < side; i++)
        memmove(f->weights + (size_t)i * most, f->weights + (size_t)i * room, most * sizeof *f->weights);
}

static inline floats8 widened(const uint8_t *bytes) {
#ifdef __AVX2__
    return (floats8)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)bytes)));
#else
    bytes8 loaded;
    memcpy(&loaded, bytes, 8);
    return __builtin_convertvector(__builtin_convertvector(loaded, ints8), floats8);
#endif
}

/* Stores eight rows of eight columns as eight columns of eight rows. */
static inline void store_transposed(float *to, const floats8 rows[8]) {
#ifdef __AVX2__
    __m256 pairs[8], quads[8];
    for (int k = 0; k < 8; k += 2) {
        pairs[k] = _mm256_unpacklo_ps((__m256)rows[k], (__m256)rows[k + 1]);
        pairs[k + 1] = _mm256_unpackhi_ps((__m256)rows[k], (__m256)rows[k + 1]);
    }
    for (int k = 0; k < 8; k += 4)
        for (int half = 0; half < 2; half++) {
            quads[k + 2 * half] = _mm256_shuffle_ps(pairs[k + half], pairs[k + 2 + half], 0x44);
            quads[k + 2 * half + 1] = _mm256_shuffle_ps(pairs[k + half], pairs[k + 2 + half], 0xEE);
        }
    for (int k = 0; k < 4; k++) {
        _mm256_storeu_ps(to + 8 * k, _mm256_permute2f128_ps(quads[k], quads[k + 4], 0x20));
        _mm256_storeu_ps(to + 8 * (k + 4), _mm256_permute2f128_ps(quads[k], quads[k + 4], 0x31));
    }
#else
    for (int column = 0; column < 8; column++)
        for (int row = 0; row < 8; row++)
            to[8 * column + row] = rows[row][column];
#endif
}

/* Weighted sums of a plane's rows for the eight output rows from `row` on, the last one again where there are no more. */
static inline __attribute__((always_inline)) void combine_rows(const work *w, const plane *p, int row, int side, int taps) {
    const uint8_t *sources[ROWS];
    const float *weights[ROWS];
    for (int r = 0; r < ROWS; r++) {
        int i = row + r < side ? row + r : side - 1;
        sources[r] = p->pixels + (size_t)w->y.first[i] * p->stride;
        weights[r] = w->y.weights + (size_t)i * w->y.taps;
    }
    int one = w->x.first[0], other = w->x.first[side - 1] + w->x.taps;
    for (int x = one; x < other; x += 8) {
        floats8 sums[ROWS];
        for (int r = 0; r < ROWS; r++) {
            sums[r] = weights[r][0] * widened(sources[r] + x);
            for (int k = 1; k < taps; k++)
                sums[r] += weights[r][k] * widened(sources[r] + k * p->stride + x);
        }
        store_transposed(w->line + 8 * (size_t)x, sums);
    }
}

static inline __attribute__((always_inline)) floats8 weighted(const work *w, const float *line, int i, int taps) {
    const float *weights = w->x.weights + (size_t)i * w->x.taps, *source = line + 8 * (size_t)w->x.first[i];
    floats8 sum = {0};
    for (int k = 0; k < taps; k++) {
        floats8 pixels;
        memcpy(&pixels, source + 8 * k, 32);
        sum += weights[k] * pixels;
    }
    return sum;
}

/* A pixel of each row, rounded to bytes: eight times red, green, blue and nothing. */
static inline __attribute__((always_inline)) floats8 packed(floats8 red, floats8 green, floats8 blue) {
    ints8 r = __builtin_convertvector(red + 0.5f, ints8), g = __builtin_convertvector(green + 0.5f, ints8),
          b = __builtin_convertvector(blue + 0.5f, ints8);
#ifdef __AVX2__
    const __m256i order = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8, 12, 1, 5, 9, 13,
                                           2, 6, 10, 14, 3, 7, 11, 15);
    __m256i words = _mm256_packus_epi32((__m256i)r, (__m256i)g), more = _mm256_packus_epi32((__m256i)b, (__m256i)b);
    return (floats8)_mm256_shuffle_epi8(_mm256_packus_epi16(words, more), order);
#else
    ints8 channels[3] = {r, g, b}, pixels = {0};
    for (int c = 0; c < 3; c++)
        for (int row = 0; row < ROWS; row++) {
            int32_t value = channels[c][row];
            pixels[row] |= (value < 0 ? 0 : value > 255 ? 255 : value) << 8 * c;
        }
    return (floats8)pixels;
#endif
}

static inline __attribute__((always_inline)) floats8 make_pixels(const work *w, int i, enum colours colours, int taps,
                                                                 int chroma_taps) {
    floats8 luma = weighted(&w[0], w[0].line, i, taps);
    if (colours == GRAY)
        return packed(luma, luma, luma);
    floats8 cb = weighted(&w[1], w[1].line, i, chroma_taps), cr = weighted(&w[1], w[2].line, i, chroma_taps);
    if (colours == RGB)
        return packed(luma, cb, cr);
    cb -= 128.0f; /* JFIF 1.02: ITU-R BT.601 over the full range */
    cr -= 128.0f;
    return packed(luma + 1.402f * cr, luma - 0.344136f * cb - 0.714136f * cr, luma + 1.772f * cb);
}

/* Drops the fourth byte of each of `count` pixels and writes them to `out`. */
static inline void put_row(uint8_t *out, const float *pixels, int count) {
#ifdef __AVX2__
    if (count == 8) {
        const __m256i order = _mm256_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1, 0, 1, 2, 4, 5, 6, 8, 9,
                                               10, 12, 13, 14, -1, -1, -1, -1);
        const __m256i close_up = _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 7, 7);
        __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(_mm256_loadu_si256((const __m256i *)pixels), order),
                                                    close_up);
        _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(bytes));
        _mm_storel_epi64((__m128i *)(out + 16), _mm256_extracti128_si256(bytes, 1));
        return;
    }
#endif
    for (int k = 0; k < count; k++)
        memcpy(out + 3 * k, pixels + k, 3);
}

static inline __attribute__((always_inline)) void combine_columns(uint8_t *const out[ROWS], const work *w, int side,
                                                                  int flip, enum colours colours, int taps,
                                                                  int chroma_taps) {
    for (int start = 0; start < side; start += 8) {
        int count = side - start < 8 ? side - start : 8;
        floats8 columns[8] = {0};
        float rows[8 * ROWS];
        for (int k = 0; k < count; k++)
            columns[k] = make_pixels(w, flip ? side - 1 - start - k : start + k, colours, taps, chroma_taps);
        store_transposed(rows, columns);
        for (int row = 0; row < ROWS; row++)
            put_row(out[row] + 3 * (size_t)start, rows + 8 * row, count);
    }
}

static void combine_a_plane(const work *w, const plane *p, int row, int side) {
    switch (w->y.taps) { /* loops of known length */
    case 2: combine_rows(w, p, row, side, 2); break;
    case 3: combine_rows(w, p, row, side, 3); break;
    case 4: combine_rows(w, p, row, side, 4); break;
    default: combine_rows(w, p, row, side, w->y.taps);
    }
}

/* Bytes that `resize` works in. */
static size_t resize_needs(const region *r, int side) {
    size_t across = room_for(r->width, side), down = room_for(r->height, side);
    return 2 * side * ((across + down) * sizeof(float) + 2 * sizeof(int)) +
           3 * ROWS * (r->columns + across + 8) * sizeof(float) + 64;
}

/* Makes the box a square of `side` x `side` RGB pixels at `out`, mirrored left to right when `flip`. */
static void resize(const region *r, int side, int flip, void *memory, uint8_t *out) {
    size_t across = room_for(r->width, side), down = room_for(r->height, side), columns = r->columns + across + 8;
    int count = r->colours == GRAY ? 1 : 3;
    work w[3];
    float *next = memory;
    for (int c = 0; c < count; c++, next += ROWS * columns)
        w[c].line = next;
    memset(memory, 0, (next - (float *)memory) * sizeof *next); /* no weight times what is no number would be none */
    for (int c = 0; c < count && c < 2; c++) {
        const plane *p = &r->planes[c];
        w[c].x.weights = next, w[c].y.weights = next + side * across;
        w[c].x.first = (int *)(next + side * (across + down)), w[c].y.first = w[c].x.first + side;
        make_filter(&w[c].x, r->left, r->width, r->columns, side, p->across, p->columns);
        make_filter(&w[c].y, r->top, r->height, r->rows, side, p->down, p->rows);
        next += side * (across + down + 2);
    }
    w[2].x = w[1].x, w[2].y = w[1].y; /* both chroma planes are alike */
    for (int row = 0; row < side; row += ROWS) {
        uint8_t *rows[ROWS];
        for (int k = 0; k < ROWS; k++)
            rows[k] = out + 3 * (size_t)side * (row + k < side ? row + k : side - 1);
        for (int c = 0; c < count; c++)
            combine_a_plane(&w[c], &r->planes[c], row, side);
        if (r->colours == GRAY)
            combine_columns(rows, w, side, flip, GRAY, w[0].x.taps, 0);
        else if (r->colours == RGB)
            combine_columns(rows, w, side, flip, RGB, w[0].x.taps, w[1].x.taps);
        else if (w[0].x.taps == 2 && w[1].x.taps == 3) /* halved colours, enlarged: loops of known length again */
            combine_columns(rows, w, side, flip, YCBCR, 2, 3);
        else
            combine_columns(rows, w, side, flip, YCBCR, w[0].x.taps, w[1].x.taps);
    }
}
