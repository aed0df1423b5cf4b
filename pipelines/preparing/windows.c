/* Rewrites a JPEG without loss so that a part of it can be cut out of its bytes: restart markers, optimal Huffman tables, one
 * baseline scan; every marker of its header kept. The coefficients of what was written are read again and compared.
 */
#include <stdint.h>
#include <string.h>

#include "../decoding/jpeg_errors.h"

/* What became of it; of all but REWRITTEN the JPEG stays as it is. */
enum { REWRITTEN = 0, DAMAGED, CMYK, ARITHMETIC, TWELVE_BITS, INCOMPLETE, UNCOMMON, NO_MEMORY };

enum { GOAL = 4 }; /* units (MCUs) between two markers, where a row can be divided so */

static void on_warning(j_common_ptr info, int level) {
    int of_a_marker = info->err->msg_code == JWRN_JFIF_MAJOR || info->err->msg_code == JWRN_ADOBE_XFORM; /* which are kept */
    if (level < 0 && !of_a_marker)
        fail(info);
}

/* Writes to memory of a fixed size: libjpeg's own way loses memory when an error is met. */
static void no_start(j_compress_ptr info) { (void)info; }
static boolean when_full(j_compress_ptr info) {
    fail((j_common_ptr)info);
    return FALSE;
}

static int why_not(const struct jpeg_decompress_struct *jpeg) {
    if (jpeg->num_components == 4)
        return CMYK;
    if (jpeg->arith_code)
        return ARITHMETIC;
    if (jpeg->data_precision != 8)
        return TWELVE_BITS;
    return jpeg->num_components == 1 || jpeg->num_components == 3 ? REWRITTEN : UNCOMMON;
}

/* The divisor of a row's units that is nearest to the goal, by their ratio; the smaller of two. */
static int interval_of(int across) {
    int best = 1;
    for (int k = 2; k <= across && k <= GOAL * GOAL; k++)
        if (across % k == 0 && (k <= GOAL || k * best < GOAL * GOAL))
            best = k;
    return best;
}

static void describe(struct jpeg_decompress_struct *from, struct jpeg_compress_struct *to) {
    jpeg_copy_critical_parameters(from, to);
    to->optimize_coding = TRUE;
    to->write_JFIF_header = to->write_Adobe_marker = FALSE; /* the original ones are copied */
    int widest = 1;
    for (int c = 0; c < to->num_components; c++)
        widest = to->comp_info[c].h_samp_factor > widest ? to->comp_info[c].h_samp_factor : widest;
    int unit = to->num_components == 1 ? DCTSIZE : DCTSIZE * widest;
    to->restart_interval = interval_of(((int)from->image_width + unit - 1) / unit);
}

static void write_markers(struct jpeg_decompress_struct *from, struct jpeg_compress_struct *to) {
    for (jpeg_saved_marker_ptr marker = from->marker_list; marker; marker = marker->next)
        jpeg_write_marker(to, marker->marker, marker->data, marker->data_length);
}

/* Whether two JPEGs have the same coefficients and would be decoded alike. */
static int same(struct jpeg_decompress_struct *one, jvirt_barray_ptr *ones, struct jpeg_decompress_struct *other,
                jvirt_barray_ptr *others) {
    if (one->image_width != other->image_width || one->image_height != other->image_height ||
        one->num_components != other->num_components || one->jpeg_color_space != other->jpeg_color_space)
        return 0;
    for (int c = 0; c < one->num_components; c++) {
        jpeg_component_info *first = &one->comp_info[c], *second = &other->comp_info[c];
        if (first->h_samp_factor != second->h_samp_factor || first->v_samp_factor != second->v_samp_factor ||
            memcmp(first->quant_table->quantval, second->quant_table->quantval, sizeof first->quant_table->quantval))
            return 0;
        for (JDIMENSION row = 0; row < first->height_in_blocks; row++) {
            JBLOCKARRAY a = one->mem->access_virt_barray((j_common_ptr)one, ones[c], row, 1, FALSE);
            JBLOCKARRAY b = other->mem->access_virt_barray((j_common_ptr)other, others[c], row, 1, FALSE);
            if (memcmp(a[0], b[0], first->width_in_blocks * sizeof(JBLOCK)))
                return 0;
        }
    }
    return 1;
}

static int worked(struct jpeg_decompress_struct *from, struct jpeg_compress_struct *to, struct jpeg_decompress_struct *back,
                  const uint8_t *bytes, size_t size, uint8_t *out, size_t *room, volatile int *stage) {
    jpeg_mem_src(from, (unsigned char *)bytes, size);
    for (int k = 0; k < 16; k++)
        jpeg_save_markers(from, JPEG_APP0 + k, 0xFFFF);
    jpeg_save_markers(from, JPEG_COM, 0xFFFF);
    jpeg_read_header(from, TRUE);
    int status = why_not(from);
    if (status != REWRITTEN)
        return status;
    jvirt_barray_ptr *coefficients = jpeg_read_coefficients(from);
    if (unfinished(from)) /* decoders make smoother pixels of it than of a baseline one with the same coefficients */
        return INCOMPLETE;
    *stage = UNCOMMON; /* what cannot be written is no damage */
    describe(from, to);
    struct jpeg_destination_mgr where = {out, *room, no_start, when_full, no_start};
    to->dest = &where;
    jpeg_write_coefficients(to, coefficients);
    write_markers(from, to);
    jpeg_finish_compress(to);
    *room -= where.free_in_buffer;
    jpeg_mem_src(back, out, *room);
    jpeg_read_header(back, TRUE);
    return same(from, coefficients, back, jpeg_read_coefficients(back)) ? REWRITTEN : UNCOMMON;
}

/* Rewrites the JPEG of `size` bytes to `out`, which has room for `room` bytes, and says in `room` how many they are when it is
 * REWRITTEN. */
int rewrite_jpeg(const uint8_t *bytes, size_t size, uint8_t *out, size_t *room) {
    struct jpeg_decompress_struct from, back;
    struct jpeg_compress_struct to;
    error_state state;
    volatile int status = NO_MEMORY, stage = DAMAGED;
    from.err = back.err = to.err = leaving_by(&state);
    state.errors.emit_message = on_warning;
    if (setjmp(state.failed)) /* else this libjpeg is not the one this was compiled for */
        return state.errors.msg_code == JERR_OUT_OF_MEMORY ? NO_MEMORY : UNCOMMON;
    jpeg_create_decompress(&from);
    jpeg_create_decompress(&back);
    jpeg_create_compress(&to);
    if (!setjmp(state.failed))
        status = worked(&from, &to, &back, bytes, size, out, room, &stage);
    else
        status = state.errors.msg_code == JERR_OUT_OF_MEMORY ? NO_MEMORY
                 : state.errors.msg_code == JERR_ARITH_NOTIMPL ? ARITHMETIC
                 : state.errors.msg_code == JERR_BAD_PRECISION ? TWELVE_BITS
                                                              : stage;
    jpeg_destroy_compress(&to);
    jpeg_destroy_decompress(&back);
    jpeg_destroy_decompress(&from);
    return status;
}
