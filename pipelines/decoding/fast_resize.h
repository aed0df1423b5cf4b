/* Resizes a box of a decoded JPEG to a square of RGB pixels, straight from the planes that the decoder keeps its colours in.
 *
 * Bilinear or bicubic, widened to the reduction when it shrinks (antialiased), in 32-bit floats. Rows are combined first. Chroma planes
 * of half the height are not enlarged before: libjpeg's smooth upsampling and the resize are both weighted sums, so that
 * one filter does both. Colours are converted, and cut off at what RGB can show, between rows and columns: columns are not
 * to mix what no screen shows. Eight output rows are made at a time, one in each lane of a vector.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "fast_filter.h"

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

/* The part, and how its columns (x) and rows (y) become those of the square. */
typedef struct {
    plane planes[3];
    enum colours colours;
    axis x, y;
} region;

/* A plane's filter for rows, and those combined: eight floats a column, one for each output row, from column `from` to `to`. */
typedef struct {
    filter y;
    float *line;
    int from, to;
} work;

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
    for (int x = w->from; x < w->to; x += 8) {
        floats8 sums[ROWS];
        for (int r = 0; r < ROWS; r++) {
            sums[r] = weights[r][0] * widened(sources[r] + x);
            for (int k = 1; k < taps; k++)
                sums[r] += weights[r][k] * widened(sources[r] + k * p->stride + x);
        }
        store_transposed(w->line + 8 * (size_t)x, sums);
    }
}

static inline floats8 column(const float *line, int x) {
    floats8 pixels;
    memcpy(&pixels, line + 8 * (size_t)x, 32);
    return pixels;
}

/* A plane's pixel of each row in column x of the image: its neighbour's share comes from smooth upsampling, as in `share`. */
static inline __attribute__((always_inline)) floats8 enlarged(const work *w, const plane *p, int x, int across) {
    int at = x / across;
    if (across != 2)
        return column(w->line, at);
    int beside = x % 2 ? at + 1 : at - 1;
    beside = beside < 0 || beside >= p->columns ? at : beside;
    return 0.75f * column(w->line, at) + 0.25f * column(w->line, beside);
}

static inline floats8 shown(floats8 colour) {
#ifdef __AVX2__
    return (floats8)_mm256_min_ps(_mm256_max_ps((__m256)colour, _mm256_setzero_ps()), _mm256_set1_ps(255));
#else
    for (int row = 0; row < ROWS; row++)
        colour[row] = colour[row] < 0 ? 0 : colour[row] > 255 ? 255 : colour[row];
    return colour;
#endif
}

/* Makes red, green and blue of the combined rows of three planes: lines of the image's columns, the first one in place. */
static inline __attribute__((always_inline)) void convert(const work w[3], const plane planes[3], enum colours colours,
                                                          int across, float *green, float *blue) {
    for (int x = w[0].from; x < w[0].to; x++) {
        floats8 one = column(w[0].line, x), two = enlarged(&w[1], &planes[1], x, across),
                three = enlarged(&w[2], &planes[2], x, across);
        if (colours == YCBCR) { /* JFIF 1.02: ITU-R BT.601 over the full range */
            floats8 luma = one, cb = two - 128.0f, cr = three - 128.0f;
            one = luma + 1.402f * cr;
            two = luma - 0.344136f * cb - 0.714136f * cr;
            three = luma + 1.772f * cb;
        }
        one = shown(one), two = shown(two), three = shown(three);
        memcpy(w[0].line + 8 * (size_t)x, &one, 32);
        memcpy(green + 8 * (size_t)x, &two, 32);
        memcpy(blue + 8 * (size_t)x, &three, 32);
    }
}

static void convert_colours(const work w[3], const region *r, float *green, float *blue) {
    if (r->colours == YCBCR && r->planes[1].across == 2) /* most photos */
        convert(w, r->planes, YCBCR, 2, green, blue);
    else
        convert(w, r->planes, r->colours, r->planes[1].across, green, blue);
}

static void cut_off(const work *w) {
    for (int x = w->from; x < w->to; x++) {
        floats8 gray = shown(column(w->line, x));
        memcpy(w->line + 8 * (size_t)x, &gray, 32);
    }
}

static inline __attribute__((always_inline)) floats8 weighted(const filter *f, const float *line, int i, int taps) {
    const float *weights = f->weights + (size_t)i * f->taps;
    floats8 sum = {0};
    for (int k = 0; k < taps; k++)
        sum += weights[k] * column(line, f->first[i] + k);
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

static inline __attribute__((always_inline)) floats8 make_pixels(const filter *f, float *const lines[3], int i, int taps) {
    floats8 red = weighted(f, lines[0], i, taps);
    if (lines[1] == lines[0]) /* gray */
        return packed(red, red, red);
    return packed(red, weighted(f, lines[1], i, taps), weighted(f, lines[2], i, taps));
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

static inline __attribute__((always_inline)) void combine_columns(uint8_t *const out[ROWS], const filter *f,
                                                                  float *const lines[3], int side, int flip, int taps) {
    for (int start = 0; start < side; start += 8) {
        int count = side - start < 8 ? side - start : 8;
        floats8 columns[8] = {0};
        float rows[8 * ROWS];
        for (int k = 0; k < count; k++)
            columns[k] = make_pixels(f, lines, flip ? side - 1 - start - k : start + k, taps);
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
    size_t across = room_for(&r->x), down = room_for(&r->y);
    return side * ((across + 2 * down) * sizeof(float) + 3 * sizeof(int)) +
           5 * ROWS * (r->x.end + across + 8) * sizeof(float) + 64;
}

/* Makes the box a square of `side` x `side` RGB pixels at `out`, mirrored left to right when `flip`. */
static void resize(const region *r, int side, int flip, void *memory, uint8_t *out) {
    size_t across = room_for(&r->x), down = room_for(&r->y), columns = r->x.end + across + 8;
    int count = r->colours == GRAY ? 1 : 3;
    work w[3];
    filter x;
    float *next = memory, *lines[3];
    for (int c = 0; c < 3; c++, next += ROWS * columns)
        w[c].line = next;
    lines[0] = w[0].line;
    for (int c = 1; c < 3; c++, next += ROWS * columns)
        lines[c] = count == 1 ? lines[0] : next;
    memset(memory, 0, (next - (float *)memory) * sizeof *next); /* no weight times what is no number would be none */
    x.weights = next, next += side * across;
    x.first = (int *)next, next += side;
    make_filter(&x, &r->x, side, 1, r->x.end);
    w[0].from = x.first[0], w[0].to = x.first[side - 1] + x.taps;
    for (int c = 0; c < count && c < 2; c++) {
        const plane *p = &r->planes[c];
        w[c].y.weights = next, next += side * down;
        w[c].y.first = (int *)next, next += side;
        make_filter(&w[c].y, &r->y, side, p->down, p->rows);
    }
    if (count == 3) { /* both chroma planes are alike */
        const plane *p = &r->planes[1];
        w[1].from = w[0].from / p->across - 1, w[1].to = (w[0].to - 1) / p->across + 2;
        w[1].from = w[1].from < 0 ? 0 : w[1].from;
        w[1].to = w[1].to > p->columns ? p->columns : w[1].to;
        w[2].y = w[1].y, w[2].from = w[1].from, w[2].to = w[1].to;
    }
    for (int row = 0; row < side; row += ROWS) {
        uint8_t *rows[ROWS];
        for (int k = 0; k < ROWS; k++)
            rows[k] = out + 3 * (size_t)side * (row + k < side ? row + k : side - 1);
        for (int c = 0; c < count; c++)
            combine_a_plane(&w[c], &r->planes[c], row, side);
        if (count == 3)
            convert_colours(w, r, lines[1], lines[2]);
        else if (r->x.reach == BICUBIC) /* which overshoots */
            cut_off(w);
        switch (x.taps) { /* loops of known length */
        case 2: combine_columns(rows, &x, lines, side, flip, 2); break;
        case 3: combine_columns(rows, &x, lines, side, flip, 3); break;
        case 4: combine_columns(rows, &x, lines, side, flip, 4); break;
        default: combine_columns(rows, &x, lines, side, flip, x.taps);
        }
    }
}
