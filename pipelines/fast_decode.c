/* Cuts a box out of each of a few JPEGs and resizes it to a square: decodes only what the box shows, in one call that
 * needs no interpreter. Compiled on first use by fast_decode.py, for the machine it runs on.
 *
 * Decoding is libjpeg-turbo's accurate integer transform with smooth chroma upsampling. Rows above the box are skipped,
 * columns beside it are not transformed, rows below it are not read. Resizing is bilinear, widened to the reduction
 * when it shrinks (antialiased), in 32-bit floats: rows are combined first, then columns, two output rows at a time,
 * so that a line of floats is all that lies between.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include <jpeglib.h>
#include <jerror.h>

#ifndef JCS_EXTENSIONS
#error "libjpeg-turbo is needed: this libjpeg cannot write four bytes a pixel"
#endif

#ifdef __clang__
#define SHUFFLE __builtin_shufflevector
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ints8){__VA_ARGS__})
#endif

typedef float floats8 __attribute__((vector_size(32)));
typedef int32_t ints8 __attribute__((vector_size(32)));
typedef uint8_t bytes8 __attribute__((vector_size(8)));

enum { DONE = 0, UNREADABLE = 1, UNDECODABLE = 2, NO_MEMORY = 3 };
enum { MARGIN = 2 }; /* pixels around the box that smooth chroma upsampling looks at */

/* One sample. bytes: the JPEG of `size` bytes, or NULL to read them from the file `path` (NULL: a sample to leave out).
 * The box is in pixels. */
typedef struct {
    const char *path;
    const uint8_t *bytes;
    uint64_t size;
    int32_t left, top, width, height;
    int32_t flip;
    int32_t status;
} item;

typedef struct {
    uint8_t *data;
    size_t room;
} buffer;

typedef struct {
    struct jpeg_error_mgr errors; /* first, so that a pointer to one is a pointer to the other */
    jmp_buf failed;
} error_state;

/* The part of an image that was decoded: four bytes a pixel, with the box at (left, top) in it. */
typedef struct {
    const uint8_t *pixels;
    size_t stride;
    float left, top, width, height; /* of the box, in pixels of the decoded part */
    int columns, rows;              /* whole pixels that the box touches end at these */
} region;

typedef struct {
    int *first;     /* for each output pixel, the first source pixel it sees */
    float *weights; /* and the weights of `taps` source pixels from there on */
    int taps;
} filter;

typedef struct {
    buffer file, pixels, tables, line;
} scratch;

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

static void fail(j_common_ptr info) { longjmp(((error_state *)info->err)->failed, 1); }

static void on_message(j_common_ptr info, int level) {
    if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF)
        fail(info); /* cut off: what is missing would come out gray */
}

static void no_output(j_common_ptr info) { (void)info; }

static int read_file(const char *path, uint64_t size, buffer *file) {
    int descriptor = path ? open(path, O_RDONLY | O_CLOEXEC) : -1, whole = 0;
    if (descriptor < 0)
        return 0;
    if (grow(file, size + 1)) {
        uint64_t got = 0;
        ssize_t count;
        /* One byte more than expected is asked for: a file that has grown is not the one that was indexed. */
        while (got <= size && (count = pread(descriptor, file->data + got, size + 1 - got, got)) > 0)
            got += count;
        whole = got == size;
    }
    close(descriptor);
    return whole;
}

/* The largest reduction by the decoder itself that leaves the antialiased resize at least `keep` pixels for each. */
static int reduction(const item *it, int side, int keep) {
    int smaller = it->width < it->height ? it->width : it->height, by = 1;
    while (keep && by < 8 && smaller >= 2 * by * keep * side)
        by *= 2;
    return by;
}

/* Decodes the rows and columns that the box needs; errors leave by `fail`. */
static int decode(struct jpeg_decompress_struct *jpeg, const uint8_t *bytes, const item *it, int by, buffer *pixels,
                  region *out) {
    jpeg_mem_src(jpeg, (unsigned char *)bytes, it->size);
    jpeg_read_header(jpeg, TRUE);
    if (jpeg->num_components != 1 && jpeg->num_components != 3)
        return UNDECODABLE;
    if (it->left < 0 || it->top < 0 || it->width < 1 || it->height < 1 ||
        (int64_t)it->left + it->width > jpeg->image_width || (int64_t)it->top + it->height > jpeg->image_height)
        return UNDECODABLE;
    jpeg->out_color_space = JCS_EXT_RGBX;
    jpeg->dct_method = JDCT_ISLOW;
    jpeg->do_fancy_upsampling = TRUE;
    jpeg->scale_num = 8 / by;
    jpeg->scale_denom = 8;
    jpeg_start_decompress(jpeg);

    int x0 = it->left / by - MARGIN, x1 = (it->left + it->width + by - 1) / by + MARGIN;
    int y0 = it->top / by - MARGIN, y1 = (it->top + it->height + by - 1) / by + MARGIN;
    x0 = x0 < 0 ? 0 : x0;
    y0 = y0 < 0 ? 0 : y0;
    x1 = x1 > (int)jpeg->output_width ? (int)jpeg->output_width : x1;
    y1 = y1 > (int)jpeg->output_height ? (int)jpeg->output_height : y1;
    if (x0 > 0 || x1 < (int)jpeg->output_width) {
        JDIMENSION left = x0, width = x1 - x0;
        jpeg_crop_scanline(jpeg, &left, &width);
        x0 = left;
    }
    size_t stride = (size_t)jpeg->output_width * 4;
    /* The resize reads pixels in pairs, the last of which may end beyond the last row. */
    if (!grow(pixels, stride * (y1 - y0) + 8))
        return NO_MEMORY;
    if (y0 > 0)
        jpeg_skip_scanlines(jpeg, y0);
    for (int row = 0; row < y1 - y0;) {
        JSAMPROW rows[4];
        int wanted = y1 - y0 - row < 4 ? y1 - y0 - row : 4;
        for (int k = 0; k < wanted; k++)
            rows[k] = pixels->data + (row + k) * stride;
        row += jpeg_read_scanlines(jpeg, rows, wanted);
    }
    float f = 1.0f / by;
    *out = (region){pixels->data, stride, it->left * f - x0, it->top * f - y0, it->width * f, it->height * f, 0, 0};
    out->columns = (int)(out->left + out->width + 0.999f);
    out->rows = (int)(out->top + out->height + 0.999f);
    if (out->columns > (int)jpeg->output_width)
        out->columns = jpeg->output_width;
    if (out->rows > y1 - y0)
        out->rows = y1 - y0;
    return DONE;
}

/* At least as many source pixels as one output pixel sees. */
static int room_for(float length, int side) {
    float reduce = length / side;
    return (int)(2 * (reduce > 1 ? reduce : 1)) + 2;
}

/* A triangle as wide as two output pixels (two source pixels when enlarging), cut off at the box and normalised. Output
 * pixel i sees `taps` source pixels from first[i] on; those of no weight at its end make all equally many. */
static void make_filter(filter *f, float start, float length, int end, int side) {
    float scale = length / side, support = scale > 1 ? scale : 1;
    int begin = (int)start, room = room_for(length, side), most = 1;
    for (int i = 0; i < side; i++) {
        float centre = start + (i + 0.5f) * scale, sum = 0, *weights = f->weights + (size_t)i * room;
        int low = (int)(centre - support + 0.5f), high = (int)(centre + support + 0.5f);
        low = low < begin ? begin : low;
        high = high > end ? end : high;
        high = high > low + room ? low + room : high;
        memset(weights, 0, room * sizeof *weights);
        for (int k = 0; k < high - low; k++) {
            float distance = (low + k + 0.5f - centre) / support;
            distance = distance < 0 ? -distance : distance;
            sum += weights[k] = distance < 1 ? 1 - distance : 0;
        }
        for (int k = 0; k < high - low; k++) {
            weights[k] /= sum;
            if (weights[k] > 0 && k >= most)
                most = k + 1;
        }
        f->first[i] = low;
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

/* Two pixels, one of either output row, rounded to bytes. */
static inline void put(uint8_t *upper, uint8_t *lower, floats8 pixels, size_t bytes) {
    ints8 whole = __builtin_convertvector(pixels + 0.5f, ints8);
#ifdef __AVX2__
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128((__m256i)whole), _mm256_extracti128_si256((__m256i)whole, 1));
    uint64_t both = _mm_cvtsi128_si64(_mm_packus_epi16(words, words));
    uint32_t one = both, two = both >> 32;
#else
    bytes8 both = __builtin_convertvector(whole, bytes8);
    uint32_t one, two;
    memcpy(&one, &both, 4);
    memcpy(&two, (uint8_t *)&both + 4, 4);
#endif
    memcpy(upper, &one, bytes);
    memcpy(lower, &two, bytes);
}

/* Weighted sums of source rows for two output rows, from the box's first column on. line: eight floats a column, four of
 * the upper row and four of the lower. */
static void combine_rows(float *restrict line, const region *r, const filter *f, int upper, int lower, int columns) {
    const uint8_t *one = r->pixels + (size_t)f->first[upper] * r->stride, *two = r->pixels + (size_t)f->first[lower] * r->stride;
    const float *first = f->weights + (size_t)upper * f->taps, *second = f->weights + (size_t)lower * f->taps;
    int ones = f->taps, twos = f->taps;
    while (ones > 1 && first[ones - 1] == 0)
        ones--; /* rows of no weight may lie beyond the region */
    while (twos > 1 && second[twos - 1] == 0)
        twos--;
    for (int x = (int)r->left; x < columns; x += 2) {
        floats8 a = {0}, b = {0};
        for (int k = 0; k < ones; k++)
            a += first[k] * widened(one + k * r->stride + 4 * x);
        for (int k = 0; k < twos; k++)
            b += second[k] * widened(two + k * r->stride + 4 * x);
        floats8 left = SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
        floats8 right = SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
        memcpy(line + 8 * x, &left, 32);
        memcpy(line + 8 * x + 8, &right, 32);
    }
}

static inline __attribute__((always_inline)) floats8 weighted(const float *restrict line, const filter *f, int i, int taps) {
    const float *weights = f->weights + (size_t)i * taps, *source = line + 8 * (size_t)f->first[i];
    floats8 sum = {0};
    for (int k = 0; k < taps; k++) {
        floats8 pixels;
        memcpy(&pixels, source + 8 * k, 32);
        sum += weights[k] * pixels;
    }
    return sum;
}

static inline __attribute__((always_inline)) void combine_columns(uint8_t *restrict upper, uint8_t *restrict lower,
                                                                  const float *restrict line, const filter *f, int side,
                                                                  int flip, int taps) {
    /* Four bytes are written for each pixel; the next one overwrites the fourth. */
    for (int i = 0; i < side - 1; i++)
        put(upper + 3 * i, lower + 3 * i, weighted(line, f, flip ? side - 1 - i : i, taps), 4);
    put(upper + 3 * (side - 1), lower + 3 * (side - 1), weighted(line, f, flip ? 0 : side - 1, taps), 3);
}

static int resize(const region *r, int side, int flip, scratch *s, uint8_t *out) {
    size_t across = room_for(r->width, side), down = room_for(r->height, side);
    size_t columns = (size_t)r->columns + across + 2;
    if (!grow(&s->tables, side * ((across + down) * sizeof(float) + 2 * sizeof(int))) ||
        !grow(&s->line, 8 * columns * sizeof(float)))
        return NO_MEMORY;
    filter x = {.weights = (float *)s->tables.data}, y = {.weights = x.weights + side * across};
    x.first = (int *)(y.weights + side * down);
    y.first = x.first + side;
    make_filter(&x, r->left, r->width, r->columns, side);
    make_filter(&y, r->top, r->height, r->rows, side);
    float *line = (float *)s->line.data;
    memset(line, 0, 8 * columns * sizeof(float)); /* columns of no weight are multiplied too: they must be numbers */
    for (int i = 0; i < side; i += 2) {
        int below = i + 1 < side ? i + 1 : i;
        uint8_t *upper = out + (size_t)i * side * 3, *lower = out + (size_t)below * side * 3;
        combine_rows(line, r, &y, i, below, r->columns);
        switch (x.taps) { /* loops of known length */
        case 2: combine_columns(upper, lower, line, &x, side, flip, 2); break;
        case 3: combine_columns(upper, lower, line, &x, side, flip, 3); break;
        case 4: combine_columns(upper, lower, line, &x, side, flip, 4); break;
        default: combine_columns(upper, lower, line, &x, side, flip, x.taps);
        }
    }
    return DONE;
}

static int decode_or_fail(struct jpeg_decompress_struct *jpeg, const uint8_t *bytes, const item *it, int by,
                          buffer *pixels, region *out) {
    volatile int status = UNDECODABLE;
    if (!setjmp(((error_state *)jpeg->err)->failed))
        status = decode(jpeg, bytes, it, by, pixels, out);
    jpeg_abort_decompress(jpeg); /* also when rows are left unread */
    return status;
}

static int carry_out(struct jpeg_decompress_struct *jpeg, const item *it, int side, int keep, scratch *s, uint8_t *out) {
    const uint8_t *bytes = it->bytes;
    region part;
    if (!bytes) {
        if (!read_file(it->path, it->size, &s->file))
            return UNREADABLE;
        bytes = s->file.data;
    }
    int status = decode_or_fail(jpeg, bytes, it, reduction(it, side, keep), &s->pixels, &part);
    return status == DONE ? resize(&part, side, it->flip, s, out) : status;
}

/* Carries out `count` items: out is uint8 (count, side, side, 3). Each item's status says whether it is DONE; whatever
 * is not is left to a decoder that can say why. keep: source pixels for each output pixel that reductions by the decoder
 * itself must leave; 0 forbids them. Returns how many are done. */
int carry_out_items(item *items, int count, int side, int keep, uint8_t *out) {
    struct jpeg_decompress_struct jpeg;
    error_state state;
    scratch s;
    volatile int done = 0;
    memset(&s, 0, sizeof s);
    jpeg.err = jpeg_std_error(&state.errors);
    state.errors.error_exit = fail;
    state.errors.emit_message = on_message;
    state.errors.output_message = no_output;
    if (setjmp(state.failed))
        return 0; /* this libjpeg is not the one this was compiled for */
    jpeg_create_decompress(&jpeg);
    for (int i = 0; i < count; i++) {
        items[i].status = carry_out(&jpeg, &items[i], side, keep, &s, out + (size_t)i * side * side * 3);
        done += items[i].status == DONE;
    }
    jpeg_destroy_decompress(&jpeg);
    free(s.file.data);
    free(s.pixels.data);
    free(s.tables.data);
    free(s.line.data);
    return done;
}
