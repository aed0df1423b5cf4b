/* Where the box of an item lies in the pixels as they are stored, and what of them its square sees. */
#pragma once
#include "fast_item.h"
#include "fast_resize.h"

enum { MARGIN = 2 }; /* pixels around the box that smooth chroma upsampling looks at */

static int quotient(int number, int by) { return (number + by - 1) / by; }

/* Whether displayed columns, or rows, run against the stored ones (for orientations from 5 on, rows and columns). */
static int mirrored(int orientation) { return orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7; }
static int upside_down(int orientation) { return orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8; }

/* Gives an item's box and square in the pixels as they are stored, of an image of that size; whether they lie in it. */
static int as_stored(const item *it, int64_t width, int64_t height, int side, item *stored) {
    int o = it->orientation, on_its_side = o >= 5;
    int64_t right = (on_its_side ? height : width) - it->left - it->width;
    int64_t below = (on_its_side ? width : height) - it->top - it->height;
    int64_t right_of_square = (int64_t)it->across - it->x - side, below_square = (int64_t)it->down - it->y - side;
    if (it->left < 0 || it->top < 0 || it->width < 1 || it->height < 1 || right < 0 || below < 0)
        return 0;
    if (it->x < 0 || it->y < 0 || right_of_square < 0 || below_square < 0)
        return 0;
    int32_t left = mirrored(o) ? right : it->left, top = upside_down(o) ? below : it->top;
    int32_t x = mirrored(o) ? right_of_square : it->x, y = upside_down(o) ? below_square : it->y;
    *stored = *it;
    if (on_its_side) {
        stored->left = top, stored->top = left, stored->width = it->height, stored->height = it->width;
        stored->x = y, stored->y = x, stored->across = it->down, stored->down = it->across;
    } else
        stored->left = left, stored->top = top, stored->x = x, stored->y = y;
    return 1;
}

/* A side of the box, in pixels of an image that the decoder makes smaller `by` times, as far as the square of it is told. */
static axis side_of(int start, int length, int whole, int offset, int bicubic, int by) {
    axis a = {.start = (float)start / by, .length = (float)length / by, .whole = whole, .offset = offset};
    a.reach = bicubic ? BICUBIC : BILINEAR;
    return a;
}

/* Where what the square sees of a side of `size` pixels, and of a box in it, begins; and where it ends. */
static int first_seen(const axis *a) {
    float low = a->offset * (a->length / a->whole) - a->reach * reduced(a);
    return (int)(a->start + (low > 0 ? low : 0)) - MARGIN;
}
static int last_seen(const axis *a, int side) {
    float high = (a->offset + side) * (a->length / a->whole) + a->reach * reduced(a);
    return (int)(a->start + (high < a->length ? high : a->length) + 0.999f) + MARGIN;
}

/* The sides of a stored box once the decoder has made the image smaller `by` times, and what the square sees of them: columns
 * from seen[0] to before seen[2], rows from seen[1] to before seen[3], where the image may begin later or end before. */
static void look(const item *it, int by, int side, region *out, int seen[4]) {
    out->x = side_of(it->left, it->width, it->across, it->x, it->bicubic, by);
    out->y = side_of(it->top, it->height, it->down, it->y, it->bicubic, by);
    seen[0] = first_seen(&out->x), seen[1] = first_seen(&out->y);
    seen[2] = last_seen(&out->x, side), seen[3] = last_seen(&out->y, side);
}
