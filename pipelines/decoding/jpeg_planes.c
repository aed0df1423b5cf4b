/* The planes of luma and chroma of a whole JPEG, as its decoder has them before it enlarges chroma and converts colours: by
 * libjpeg-turbo's accurate integer transform, as in fast_decode.c. Compiled on first use by jpeg_planes.py.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "jpeg_errors.h"

/* Why a JPEG has no planes that give the same pixels as the JPEG itself, whatever box is cut out of it. */
enum { DONE, COLOURS, SAMPLING, WARNINGS, UNFINISHED, UNDECODABLE, NO_MEMORY };

/* What a pixel of chroma covers; whether luma covers one pixel, and both planes of chroma the same. */
static int sampling(const struct jpeg_decompress_struct *jpeg, int32_t covered[2]) {
    const jpeg_component_info *luma = &jpeg->comp_info[0], *cb = &jpeg->comp_info[1], *cr = &jpeg->comp_info[2];
    covered[0] = covered[1] = 0;
    if (luma->h_samp_factor != jpeg->max_h_samp_factor || luma->v_samp_factor != jpeg->max_v_samp_factor)
        return 0;
    if (jpeg->num_components == 1)
        return 1;
    if (cb->h_samp_factor != cr->h_samp_factor || cb->v_samp_factor != cr->v_samp_factor ||
        luma->h_samp_factor % cb->h_samp_factor || luma->v_samp_factor % cb->v_samp_factor)
        return 0;
    covered[0] = luma->h_samp_factor / cb->h_samp_factor;
    covered[1] = luma->v_samp_factor / cb->v_samp_factor;
    return covered[0] <= 2 && covered[1] <= covered[0];
}

static int decode(struct jpeg_decompress_struct *jpeg, const uint8_t *bytes, uint64_t size, int32_t width, int32_t height,
                  uint8_t *volatile *memory, int32_t covered[2], uint8_t *out) {
    JSAMPROW rows[3][4 * DCTSIZE];
    JSAMPARRAY strips[3] = {rows[0], rows[1], rows[2]};
    uint8_t *next = out, *planes[3];
    jpeg_mem_src(jpeg, (unsigned char *)bytes, size);
    jpeg_read_header(jpeg, TRUE);
    if (jpeg->jpeg_color_space != JCS_GRAYSCALE && jpeg->jpeg_color_space != JCS_YCbCr)
        return COLOURS;
    if ((int32_t)jpeg->image_width != width || (int32_t)jpeg->image_height != height)
        return UNDECODABLE;
    if (!sampling(jpeg, covered))
        return SAMPLING;
    jpeg->out_color_space = jpeg->jpeg_color_space;
    jpeg->dct_method = JDCT_ISLOW;
    jpeg->raw_data_out = TRUE;
    jpeg_start_decompress(jpeg);
    if (unfinished(jpeg))
        return UNFINISHED;
    int lines = jpeg->max_v_samp_factor * DCTSIZE;
    size_t room = 0;
    for (int c = 0; c < jpeg->num_components; c++)
        room += (size_t)jpeg->comp_info[c].width_in_blocks * DCTSIZE * jpeg->comp_info[c].v_samp_factor * DCTSIZE;
    if (!(*memory = malloc(room)))
        return NO_MEMORY;
    uint8_t *strip = *memory;
    for (int c = 0; c < jpeg->num_components; c++) {
        const jpeg_component_info *component = &jpeg->comp_info[c];
        for (int k = 0; k < component->v_samp_factor * DCTSIZE; k++, strip += component->width_in_blocks * DCTSIZE)
            rows[c][k] = strip;
        planes[c] = next;
        next += (size_t)component->downsampled_width * component->downsampled_height;
    }
    while (jpeg->output_scanline < jpeg->output_height) {
        int strip_number = jpeg->output_scanline / lines;
        jpeg_read_raw_data(jpeg, strips, lines);
        for (int c = 0; c < jpeg->num_components; c++) {
            const jpeg_component_info *component = &jpeg->comp_info[c];
            int all = component->v_samp_factor * DCTSIZE, left = (int)component->downsampled_height - strip_number * all;
            for (int k = 0; k < (left < all ? left : all); k++, planes[c] += component->downsampled_width)
                memcpy(planes[c], rows[c][k], component->downsampled_width);
        }
    }
    jpeg_finish_decompress(jpeg);
    return jpeg->err->num_warnings ? WARNINGS : DONE;
}

/* Writes the planes of the JPEG of `size` bytes, which is width x height pixels large, to `out`, which has room for three bytes a
 * pixel. covered: the columns and rows that a pixel of chroma covers, 0 where there is no chroma. Returns DONE, or why not. */
int planes_of(const uint8_t *bytes, uint64_t size, int32_t width, int32_t height, int32_t covered[2], uint8_t *out) {
    struct jpeg_decompress_struct jpeg;
    error_state state;
    uint8_t *volatile memory = NULL;
    volatile int status = UNDECODABLE;
    memset(&jpeg, 0, sizeof jpeg);
    jpeg.err = leaving_by(&state);
    if (!setjmp(state.failed)) {
        jpeg_create_decompress(&jpeg);
        status = decode(&jpeg, bytes, size, width, height, &memory, covered, out);
    } else if (state.errors.msg_code == JERR_OUT_OF_MEMORY)
        status = NO_MEMORY;
    jpeg_destroy_decompress(&jpeg);
    free(memory);
    return status;
}
