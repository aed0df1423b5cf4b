/* The weights by which pixels of a plane make those of a square: bilinear, widened to the reduction when it shrinks, with the
 * smooth upsampling of halved chroma in them where that is wanted.
 */
#include <string.h>

typedef struct {
    int *first;     /* for each output pixel, the first pixel of the plane that it sees */
    float *weights; /* and the weights of `taps` pixels from there on */
    int taps;
} filter;

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
