/* Cuts a box out of each of a few JPEGs and resizes it to a square: decodes only what the box shows, in one call that
 * needs no interpreter. Compiled on first use by fast_decode.py, for the machine it runs on.
 *
 * Decoding is libjpeg-turbo's accurate integer transform. Rows above the box are skipped, columns beside it are not
 * transformed, rows below it are not read. What it gives are planes of luma and chroma, which fast_resize.h makes RGB. Of
 * planes that are stored as such (y4m.h) the rows that the box shows are read, and nothing is decoded. JPEGs with fitting
 * restart markers are cut down to the box before (fast_cut.h).
 */
#include "fast_cut.h"
#include "fast_stage.h"
#include "jpeg_errors.h"

#if JPEG_LIB_VERSION >= 70
#define SCALED_WIDTH(component) (component)->DCT_h_scaled_size
#define SCALED_HEIGHT(component) (component)->DCT_v_scaled_size
#define LEAST(jpeg) (jpeg)->min_DCT_h_scaled_size
#else
#define SCALED_WIDTH(component) (component)->DCT_scaled_size
#define SCALED_HEIGHT(component) (component)->DCT_scaled_size
#define LEAST(jpeg) (jpeg)->min_DCT_scaled_size
#endif

/* The state of a decompressor that hands out planes, libjpeg's DSTATE_RAW_OK (jpegint.h; the same since 1994). Only one that
 * hands out RGB can be told to leave out rows and columns, and it turns into the other by this number alone. */
enum { HANDS_OUT_PLANES = 206 };

typedef struct {
    buffer file, pixels, tables, square, starts, cut;
} scratch;

/* The largest reduction by the decoder itself that leaves the antialiased resize at least `keep` pixels for each. */
static int reduction(const item *it, int keep) {
    int by = 1;
    while (keep && by < 8 && it->width / (2 * by * keep) >= it->across && it->height / (2 * by * keep) >= it->down)
        by *= 2;
    return by;
}

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

/* Turns a square as displayed out of the stored one (EXIF 2.3, 4.6.4, tag 0x0112), mirrored left to right when `flip`. */
static void turn(const uint8_t *stored, int side, int orientation, int flip, uint8_t *out) {
    int back = mirrored(orientation) != flip, up = upside_down(orientation);
    ptrdiff_t along = 3, down = 3 * (ptrdiff_t)side;
    if (orientation >= 5)
        along = down, down = 3;
    for (int y = 0; y < side; y++) {
        const uint8_t *from = stored + (up ? side - 1 - y : y) * down + (back ? side - 1 : 0) * along;
        for (int x = 0; x < side; x++, from += back ? -along : along, out += 3)
            memcpy(out, from, 3);
    }
}

/* Starts to decode and tells what of the image will come; which planes, of which shape, and the box in them. */
static int begin(struct jpeg_decompress_struct *jpeg, const part *of, const item *shown, item *it, int by, int side,
                 region *out) {
    jpeg_mem_src(jpeg, (unsigned char *)of->bytes, of->room);
    jpeg_read_header(jpeg, TRUE);
    switch (jpeg->jpeg_color_space) {
    case JCS_GRAYSCALE: out->colours = GRAY; break;
    case JCS_RGB: out->colours = RGB; break;
    case JCS_YCbCr: out->colours = YCBCR; break;
    default: return UNDECODABLE;
    }
    if (of->whole_width ? !as_stored(shown, of->whole_width, of->whole_height, side, it)
                        : !as_stored(shown, jpeg->image_width, jpeg->image_height, side, it))
        return UNDECODABLE;
    it->left -= of->left, it->top -= of->top;
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
    if (p[0].across != 1)
        return UNDECODABLE;
    return out->colours == GRAY || (p[1].across == p[2].across && p[1].down == p[2].down) ? DONE : UNDECODABLE;
}

/* Decodes the rows and columns that the box needs; errors leave by `fail`. */
static int decode(struct jpeg_decompress_struct *jpeg, const part *of, const item *shown, int by, int side, buffer *pixels,
                  region *out) {
    item stored, *it = &stored;
    int seen[4], status = begin(jpeg, of, shown, it, by, side, out);
    if (status != DONE)
        return status;
    int whole_width = jpeg->output_width, whole_height = jpeg->output_height;
    look(it, by, side, out, seen);
    int x0 = seen[0], y0 = seen[1], x1 = seen[2], y1 = seen[3];
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
    out->x.start -= x0, out->y.start -= y0;
    out->x.end = rounded_up(out->x.start + out->x.length);
    out->y.end = rounded_up(out->y.start + out->y.length);
    if (out->x.end > (int)jpeg->output_width)
        out->x.end = jpeg->output_width;
    if (out->y.end > y1 - y0)
        out->y.end = y1 - y0;

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
        room += p->stride * (rows + room_for(&out->y)) + 64;
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

static int decode_or_fail(struct jpeg_decompress_struct *jpeg, const part *of, const item *it, int by, int side,
                          buffer *pixels, region *out) {
    volatile int status = UNDECODABLE;
    error_state *state = (error_state *)jpeg->err;
    state->strict = of->whole_width > 0; /* what is odd about a cut is judged by the whole */
    if (!setjmp(state->failed))
        status = decode(jpeg, of, it, by, side, pixels, out);
    jpeg_abort_decompress(jpeg); /* also when rows are left unread */
    return status;
}

/* Decodes the part that restart markers let be cut out, or the whole. */
static int decode_a_part(struct jpeg_decompress_struct *jpeg, const uint8_t *bytes, const item *it, int side, int keep,
                         scratch *s, region *out) {
    int by = reduction(it, keep), status;
    part piece;
    if (cut_for(bytes, it, by, side, 1, &s->starts, &s->cut, &piece)) {
        status = decode_or_fail(jpeg, &piece, it, by, side, &s->pixels, out);
        if (status != UNDECODABLE)
            return status;
    }
    piece = (part){.bytes = bytes, .size = it->size, .room = it->size};
    return decode_or_fail(jpeg, &piece, it, by, side, &s->pixels, out);
}

static int carry_out(struct jpeg_decompress_struct *jpeg, const item *it, int side, int keep, scratch *s, uint8_t *out) {
    const uint8_t *bytes = it->bytes;
    region seen;
    int file = bytes ? -1 : opened(it), status = bytes || file >= 0 ? DONE : UNREADABLE;
    if (status == DONE && (it->planes || (bytes && is_y4m(bytes, it->size))))
        status = read_planes(it, file, side, &s->pixels, &seen);
    else if (status == DONE) {
        if (!bytes && (status = read_item(it, file, &s->file)) == DONE)
            bytes = s->file.data;
        if (status == DONE)
            status = decode_a_part(jpeg, bytes, it, side, keep, s, &seen);
    }
    done_with(it, file);
    if (status == DONE && !grow(&s->tables, resize_needs(&seen, side)))
        status = NO_MEMORY;
    if (status == DONE && it->orientation > 1 && !grow(&s->square, 3 * (size_t)side * side))
        status = NO_MEMORY;
    if (status == DONE && it->orientation > 1) {
        resize(&seen, side, 0, s->tables.data, s->square.data);
        turn(s->square.data, side, it->orientation, it->flip != 0, out);
    } else if (status == DONE)
        resize(&seen, side, it->flip, s->tables.data, out);
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
    jpeg.err = leaving_by(&state);
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
    free(s.square.data);
    free(s.starts.data);
    free(s.cut.data);
    return done;
}

/* For another decoder: reads `count` items and puts their bytes one behind another to `out`, which has room for all of them, each
 * cut down to what its square of `side` shows where restart markers let that be; an item's size and box are those of what is left.
 * One that cannot be read gets no size. */
void cut_items(item *items, int count, int side, uint8_t *out) {
    buffer file = {0}, starts = {0}, cut = {0};
    for (item *it = items; it < items + count; it++) {
        int from = opened(it);
        part piece;
        it->status = from < 0 ? UNREADABLE : read_item(it, from, &file);
        done_with(it, from);
        if (it->status != DONE) {
            it->size = 0;
            continue;
        }
        const uint8_t *bytes = file.data;
        if (it->orientation == 1 && cut_for(bytes, it, 1, side, 0, &starts, &cut, &piece) && piece.size < it->size)
            bytes = piece.bytes, it->size = piece.size, it->left -= piece.left, it->top -= piece.top;
        memcpy(out, bytes, it->size);
        out += it->size;
    }
    free(file.data);
    free(starts.data);
    free(cut.data);
}
