/* What libjpeg's errors do: they leave what was begun by a jump and print nothing. And whether a progressive JPEG came whole. */
#include <setjmp.h>
#include <stdio.h>

#include <jpeglib.h>
#include <jerror.h>

#ifndef LIBJPEG_TURBO_VERSION
#error "libjpeg-turbo is needed: this libjpeg cannot decode a part of an image"
#endif

typedef struct {
    struct jpeg_error_mgr errors; /* first, so that a pointer to one is a pointer to the other */
    jmp_buf failed;
    int strict; /* any warning is an error, but of bytes before a marker */
} error_state;

static void fail(j_common_ptr info) { longjmp(((error_state *)info->err)->failed, 1); }

static void on_message(j_common_ptr info, int level) {
    if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF)
        fail(info); /* cut off: what is missing would come out gray */
    if (level < 0 && ((error_state *)info->err)->strict && info->err->msg_code != JWRN_EXTRANEOUS_DATA)
        fail(info);
    info->err->num_warnings += level < 0;
}

static void no_output(j_common_ptr info) { (void)info; }

static struct jpeg_error_mgr *leaving_by(error_state *state) {
    jpeg_std_error(&state->errors);
    state->strict = 0;
    state->errors.error_exit = fail;
    state->errors.emit_message = on_message;
    state->errors.output_message = no_output;
    return &state->errors;
}

/* Whether scans are missing that would make coefficients exact: libjpeg then smooths blocks by their neighbours. */
static inline int unfinished(const struct jpeg_decompress_struct *jpeg) {
    for (int c = 0; jpeg->progressive_mode && jpeg->coef_bits && c < jpeg->num_components; c++)
        for (int k = 0; k < DCTSIZE2; k++)
            if (jpeg->coef_bits[c][k] != 0)
                return 1;
    return 0;
}
