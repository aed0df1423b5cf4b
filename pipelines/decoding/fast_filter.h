/* The weights by which pixels of a plane make those of a square: bilinear or bicubic, widened to the reduction when it shrinks,
 * with the smooth upsampling of halved chroma in them where that is wanted.
 */
#include <string.h>

enum { BILINEAR = 1, BICUBIC = 2 }; /* the pixels that a filter reaches to each side when it enlarges */

/* How a side of the box becomes one of the square. The box, `length` pixels of what was decoded from `start` on, is resized to
 * `whole` pixels, of which those from `offset` on are wanted. What was decoded, and may be seen, ends at `end`. */
typedef struct {
    float start, length;
    int end, whole, offset, reach;
} axis;

static inline int rounded_up(float number) { return (int)number + (number > (int)number); }
static inline int rounded_down(float number) { return (int)number - (number < (int)number); }

typedef struct {
    int *first;     /* for each output pixel, the first pixel of the plane that it sees */
    float *weights; /* and the weights of `taps` pixels from there on */
    int taps;
} filter;

static inline float reduced(const axis *a) { return a->length > a->whole ? a->length / a->whole : 1; }

/* At least as many pixels as one output pixel sees. */
static int room_for(const axis *a) { return (int)(2 * a->reach * reduced(a)) + 2; }

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

/* A triangle, or Keys' cubic convolution with a = -1/2 (1981), at a distance in output pixels, or source pixels when enlarging:
 * Pillow's filters. */
static inline float kernel(float d, int reach) {
    d = d < 0 ? -d : d;
    if (reach == BILINEAR)
        return d < 1 ? 1 - d : 0;
    return d < 1 ? (1.5f * d - 2.5f) * d * d + 1 : d < 2 ? ((2.5f - 0.5f * d) * d - 4) * d + 2 : 0;
}

/* The kernel around each output pixel, cut off at the box and normalised, as sums of the pixels of a plane of `size`. Output
 * pixel i sees `taps` of them from first[i] on; those of no weight at its end make all equally many. Places are counted from
 * the pixel in which the box begins, so that the weights are the same however much of the image was decoded before it. */
static void make_filter(filter *f, const axis *a, int side, int by, int size) {
    int begin = rounded_down(a->start), least = begin < 0 ? -begin : 0, length = a->end - begin, room = room_for(a), most = 1;
    float within = a->start - begin, scale = a->length / a->whole, wide = reduced(a), support = a->reach * wide, values[room];
    for (int i = 0; i < side; i++) {
        float centre = within + (a->offset + i + 0.5f) * scale, sum = 0, *weights = f->weights + (size_t)i * room;
        int low = (int)(centre - support + 0.5f), high = (int)(centre + support + 0.5f);
        low = low < least ? least : low;
        high = high > length ? length : high;
        high = high > low + room ? low + room : high;
        for (int k = 0; k < high - low; k++)
            sum += values[k] = kernel((low + k + 0.5f - centre) / wide, a->reach);
        low += begin, high += begin;
        int first = by == 2 && low ? (low - 1) / 2 : low / by;
        f->first[i] = first;
        memset(weights, 0, room * sizeof *weights);
        for (int k = 0; k < high - low; k++)
            if (values[k] != 0)
                share(weights, first, low + k, values[k] / sum, by, size);
        for (int k = most; k < room; k++)
            if (weights[k] != 0)
                most = k + 1;
    }
    f->taps = most;
    for (int i = 1; i < side; i++)
        memmove(f->weights + (size_t)i * most, f->weights + (size_t)i * room, most * sizeof *f->weights);
}
