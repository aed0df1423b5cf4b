/* Cuts a box out of each of a few JPEGs and resizes it to a square: decodes only what the box shows, in one call that
 * needs no interpreter. Compiled on first use by fast_decode.py, for the machine it runs on.
 *
 * Decoding is libjpeg-turbo's accurate integer transform. Rows above the box are skipped, columns beside it are not
 * transformed, rows below it are not read. What it gives are planes of luma and chroma, which fast_resize.h makes RGB.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jpeglib.h>
#include <jerror.h>

#include "fast_resize.h"

#ifndef LIBJPEG_TURBO_VERSION
#error "libjpeg-turbo is needed: this libjpeg cannot decode a part of an image"
#endif

#if JPEG_LIB_VERSION >= 70
#define SCALED_WIDTH(component) (component)->DCT_h_scaled_size
#define SCALED_HEIGHT(component) (component)->DCT_v_scaled_size
#define LEAST(jpeg) (jpeg)->min_DCT_h_scaled_size
#else
#define SCALED_WIDTH(component) (component)->DCT_scaled_size
#define SCALED_HEIGHT(component) (component)->DCT_scaled_size
#define LEAST(jpeg) (jpeg)->min_DCT_scaled_size
#endif

enum { DONE = 1, UNREADABLE = 2, UNDECODABLE = 3, NO_MEMORY = 4 }; /* 0: never seen */
enum { MARGIN = 2 }; /* pixels around the box that smooth chroma upsampling looks at */
/* The state of a decompressor that hands out planes, libjpeg's DSTATE_RAW_OK (jpegint.h; the same since 1994). Only one that
 * hands out RGB can be told to leave out rows and columns, and it turns into the other by this number alone. */
enum { HANDS_OUT_PLANES = 206 };

/* One sample: the JPEG of `size` bytes at `bytes`, or else at `place` of an open `file`, or else (file below 0) in the file
 * `path`; a sample to leave out where that is NULL. The file was `modified` at that time (ns since 1970; below 0: whenever), or
 * is not the one that was indexed. The box is in pixels. */
typedef struct {
    const char *path;
    const uint8_t *bytes;
    uint64_t place, size;
    int64_t modified;
    int32_t file;
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

typedef struct {
    buffer file, pixels, tables;
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

/* Reads an item's bytes from the file that was indexed. */
static int read_item(const item *it, buffer *to) {
    struct stat now;
    int file = it->file >= 0 ? it->file : it->path ? open(it->path, O_RDONLY | O_CLOEXEC) : -1, status = UNREADABLE;
    if (file < 0)
        return UNREADABLE;
    if (fstat(file, &now) == 0 && is_as_indexed(it, &now))
        status = !grow(to, it->size) ? NO_MEMORY : read_all(file, it->place, it->size, to->data) ? DONE : UNREADABLE;
    if (it->file < 0)
        close(file);
    return status;
}

/* The largest reduction by the decoder itself that leaves the antialiased resize at least `keep` pixels for each. */
static int reduction(const item *it, int side, int keep) {
    int smaller = it->width < it->height ? it->width : it->height, by = 1;
    while (keep && by < 8 && smaller >= 2 * by * keep * side)
        by *= 2;
    return by;
}

static int quotient(int number, int by) { return (number + by - 1) / by; }

/* What a plane covers of the image; whether `resize` can do with it. */
static int shape(struct jpeg_decompress_struct *jpeg, int c, plane *p) {
    const jpeg_component_info *component = &jpeg->comp_info[c];
    int width = component->h_samp_factor * SCALED_WIDTH(component), across = jpeg->max_h_samp_factor * LEAST(jpeg);
    int height = component->v_samp_factor * SCALED_HEIGHT(component), down = jpeg->max_v_samp_factor * LEAST(jpeg);
    if (across % width || down % height)
        return 0;
    p->across = across / width;
    p->down = down / height;
    return 1;
}

/* Starts to decode and tells what of the image will come; which planes, of which shape, and the box in them. */
static int begin(struct jpeg_decompress_struct *jpeg, const uint8_t *bytes, const item *it, int by, region *out) {
    jpeg_mem_src(jpeg, (unsigned char *)bytes, it->size);
    jpeg_read_header(jpeg, TRUE);
    switch (jpeg->jpeg_color_space) {
    case JCS_GRAYSCALE: out->colours = GRAY; break;
    case JCS_RGB: out->colours = RGB; break;
    case JCS_YCbCr: out->colours = YCBCR; break;
    default: return UNDECODABLE;
    }
    if (it->left < 0 || it->top < 0 || it->width < 1 || it->height < 1 ||
        (int64_t)it->left + it->width > jpeg->image_width || (int64_t)it->top + it->height > jpeg->image_height)
        return UNDECODABLE;
    jpeg->out_color_space = jpeg->jpeg_color_space;
    jpeg->dct_method = JDCT_ISLOW;
    jpeg->do_fancy_upsampling = FALSE; /* nothing is upsampled here; rows can be skipped by blocks */
    jpeg->scale_num = 8 / by;
    jpeg->scale_denom = 8;
    jpeg_start_decompress(jpeg);
    for (int c = 0; c < jpeg->num_components; c++)
        if (!shape(jpeg, c, &out->planes[c]))
            return UNDECODABLE;
    const plane *p = out->planes;
    return out->colours == GRAY || (p[1].across == p[2].across && p[1].down == p[2].down) ? DONE : UNDECODABLE;
}

/* Decodes the rows and columns that the box needs; errors leave by `fail`. */
static int decode(struct jpeg_decompress_struct *jpeg, const uint8_t *bytes, const item *it, int by, int side,
                  buffer *pixels, region *out) {
    int status = begin(jpeg, bytes, it, by, out);
    if (status != DONE)
        return status;
    int whole_width = jpeg->output_width, whole_height = jpeg->output_height;
    int x0 = it->left / by - MARGIN, x1 = (it->left + it->width + by - 1) / by + MARGIN;
    int y0 = it->top / by - MARGIN, y1 = (it->top + it->height + by - 1) / by + MARGIN;
    int lines = jpeg->max_v_samp_factor * LEAST(jpeg); /* of a row of blocks */
    x0 = x0 < 0 ? 0 : x0;
    y0 = y0 < 0 ? 0 : y0 / lines * lines;
    x1 = x1 > whole_width ? whole_width : x1;
    y1 = y1 > whole_height ? whole_height : y1;
    if (x0 > 0 || x1 < whole_width) {
        JDIMENSION left = x0, width = x1 - x0;
        jpeg_crop_scanline(jpeg, &left, &width);
        x0 = left;
    }
    if (y0 > 0)
        jpeg_skip_scanlines(jpeg, y0);
    float f = 1.0f / by;
    out->left = it->left * f - x0, out->top = it->top * f - y0;
    out->width = it->width * f, out->height = it->height * f;
    out->columns = (int)(out->left + out->width + 0.999f);
    out->rows = (int)(out->top + out->height + 0.999f);
    if (out->columns > (int)jpeg->output_width)
        out->columns = jpeg->output_width;
    if (out->rows > y1 - y0)
        out->rows = y1 - y0;

    size_t starts[3], room = 0;
    int strips = quotient(y1 - y0, lines);
    for (int c = 0; c < jpeg->num_components; c++) {
        plane *p = &out->planes[c];
        int rows = strips * lines / p->down;
        p->columns = quotient(x0 + jpeg->output_width, p->across) - x0 / p->across;
        p->rows = quotient(whole_height, p->down) - y0 / p->down;
        p->rows = p->rows > rows ? rows : p->rows;
        p->stride = (p->columns + 127) / 64 * 64; /* whole blocks, and a vector more */
        starts[c] = room;
        room += p->stride * (rows + room_for(out->height, side)) + 64;
    }
    if (!grow(pixels, room))
        return NO_MEMORY;
    jpeg->global_state = HANDS_OUT_PLANES;
    for (int strip = 0; strip < strips; strip++) {
        JSAMPROW rows[3][4 * DCTSIZE];
        JSAMPARRAY planes[3] = {rows[0], rows[1], rows[2]};
        for (int c = 0; c < jpeg->num_components; c++) {
            const plane *p = &out->planes[c];
            for (int k = 0; k < lines / p->down; k++)
                rows[c][k] = pixels->data + starts[c] + (strip * (lines / p->down) + k) * p->stride;
        }
        jpeg_read_raw_data(jpeg, planes, lines);
    }
    for (int c = 0; c < jpeg->num_components; c++)
        out->planes[c].pixels = pixels->data + starts[c];
    return DONE;
}

static int decode_or_fail(struct jpeg_decompress_struct *jpeg, const uint8_t *bytes, const item *it, int by, int side,
                          buffer *pixels, region *out) {
    volatile int status = UNDECODABLE;
    if (!setjmp(((error_state *)jpeg->err)->failed))
        status = decode(jpeg, bytes, it, by, side, pixels, out);
    jpeg_abort_decompress(jpeg); /* also when rows are left unread */
    return status;
}

static int carry_out(struct jpeg_decompress_struct *jpeg, const item *it, int side, int keep, scratch *s, uint8_t *out) {
    const uint8_t *bytes = it->bytes;
    region part;
    int status = bytes ? DONE : read_item(it, &s->file);
    if (status != DONE)
        return status;
    if (!bytes)
        bytes = s->file.data;
    status = decode_or_fail(jpeg, bytes, it, reduction(it, side, keep), side, &s->pixels, &part);
    if (status == DONE && !grow(&s->tables, resize_needs(&part, side)))
        status = NO_MEMORY;
    if (status == DONE)
        resize(&part, side, it->flip, s->tables.data, out);
    return status;
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
    return done;
}
