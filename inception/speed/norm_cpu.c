// Batch normalisation and ReLU in training on a CPU, for activations whose channels lie next to each other.
//
// Separately they read or write a layer's output thirteen times, with a new tensor in between. Here the output is read
// for both sums at once and read again to normalise and cut off; backwards it and the gradient are read for both sums,
// and again to write the input's gradient: eight times. Where ReLU let through is worked out again, so that its output need
// not be read. Rows are pixels, `channels` values each, `stride` values apart, float or bfloat16.
//
// Sums are taken in float over 64 rows at most and then in double, of values less the first row's, so that a mean far from
// zero costs no digits. Each thread has its rows, and the threads' sums are added in order: the same threads, the same bits.

#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 64 };

typedef uint16_t bf16;

static inline float from_float(float value) { return value; }
static inline float to_float(float value) { return value; }

static inline float from_bf16(bf16 value) {
    uint32_t bits = (uint32_t)value << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

static inline bf16 to_bf16(float value) {  // to the nearest, ties to even; a NaN stays one
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return value != value ? 0x7fc0 : (bf16)rounded;
}

// The rows of one of `threads`.
static inline void share(int64_t rows, int thread, int threads, int64_t *first, int64_t *last) {
    *first = rows * thread / threads;
    *last = rows * (thread + 1) / threads;
}

// Adds the float sums of a block to the double ones and clears them.
static inline void flush(int64_t channels, float *restrict block, double *restrict total) {
    for (int64_t c = 0; c < 2 * channels; c++) {
        total[c] += block[c];
        block[c] = 0;
    }
}

// The threads' sums, in order, in the first one's place.
static inline void gather(int64_t channels, int threads, double *totals) {
    for (int thread = 1; thread < threads; thread++)
        for (int64_t c = 0; c < 2 * channels; c++) totals[c] += totals[thread * 2 * channels + c];
}

#define KERNELS(T, NAME, FROM, TO)                                                                                            \
    /* sums[c], sums[channels + c]: of x - origin and of its square */                                                        \
    static void moments_##NAME(const T *restrict x, int64_t stride, int64_t first, int64_t last, int64_t channels,            \
                               const float *restrict origin, float *restrict block, double *restrict sums) {                 \
        for (int64_t row = first; row < last;) {                                                                              \
            int64_t end = row + BLOCK < last ? row + BLOCK : last;                                                            \
            for (; row < end; row++) {                                                                                        \
                const T *restrict values = x + row * stride;                                                                  \
                float *restrict squares = block + channels;                                                                   \
                for (int64_t c = 0; c < channels; c++) {                                                                      \
                    float centred = FROM(values[c]) - origin[c];                                                              \
                    block[c] += centred;                                                                                      \
                    squares[c] += centred * centred;                                                                          \
                }                                                                                                             \
            }                                                                                                                 \
            flush(channels, block, sums);                                                                                     \
        }                                                                                                                     \
    }                                                                                                                         \
                                                                                                                              \
    static void normalise_##NAME(const T *restrict x, int64_t stride, T *restrict y, int64_t first, int64_t last,             \
                                 int64_t channels, const float *restrict mean, const float *restrict scale,                  \
                                 const float *restrict bias) {                                                                \
        for (int64_t row = first; row < last; row++) {                                                                        \
            const T *restrict values = x + row * stride;                                                                      \
            T *restrict out = y + row * channels;                                                                             \
            for (int64_t c = 0; c < channels; c++) {                                                                          \
                float value = (FROM(values[c]) - mean[c]) * scale[c] + bias[c];                                               \
                out[c] = TO(value < 0 ? 0 : value);                                                                           \
            }                                                                                                                 \
        }                                                                                                                     \
    }                                                                                                                         \
                                                                                                                              \
    /* sums[c], sums[channels + c]: of the gradient where ReLU let through, and of it times x - mean */                       \
    static void products_##NAME(const T *restrict x, int64_t stride, const T *restrict dy, int64_t dy_stride,                 \
                                int64_t first, int64_t last, int64_t channels, const float *restrict mean,                   \
                                const float *restrict scale, const float *restrict bias, float *restrict block,              \
                                double *restrict sums) {                                                                      \
        for (int64_t row = first; row < last;) {                                                                              \
            int64_t end = row + BLOCK < last ? row + BLOCK : last;                                                            \
            for (; row < end; row++) {                                                                                        \
                const T *restrict values = x + row * stride;                                                                  \
                const T *restrict gradients = dy + row * dy_stride;                                                           \
                float *restrict weighted = block + channels;                                                                  \
                for (int64_t c = 0; c < channels; c++) {                                                                      \
                    float centred = FROM(values[c]) - mean[c];                                                                \
                    float gradient = centred * scale[c] + bias[c] <= 0 ? 0 : FROM(gradients[c]);                              \
                    block[c] += gradient;                                                                                     \
                    weighted[c] += gradient * centred;                                                                        \
                }                                                                                                             \
            }                                                                                                                 \
            flush(channels, block, sums);                                                                                     \
        }                                                                                                                     \
    }                                                                                                                         \
                                                                                                                              \
    static void gradient_##NAME(const T *restrict x, int64_t stride, const T *restrict dy, int64_t dy_stride, T *restrict dx, \
                                int64_t first, int64_t last, int64_t channels, const float *restrict mean,                   \
                                const float *restrict scale, const float *restrict bias, const float *restrict slope,        \
                                const float *restrict level) {                                                                \
        for (int64_t row = first; row < last; row++) {                                                                        \
            const T *restrict values = x + row * stride;                                                                      \
            const T *restrict gradients = dy + row * dy_stride;                                                               \
            T *restrict out = dx + row * channels;                                                                            \
            for (int64_t c = 0; c < channels; c++) {                                                                          \
                float centred = FROM(values[c]) - mean[c];                                                                    \
                float gradient = centred * scale[c] + bias[c] <= 0 ? 0 : FROM(gradients[c]);                                  \
                out[c] = TO(gradient * scale[c] - centred * slope[c] - level[c]);                                             \
            }                                                                                                                 \
        }                                                                                                                     \
    }

KERNELS(float, float, from_float, to_float)
KERNELS(bf16, bf16, from_bf16, to_bf16)

// Room for two double and two float sums of each channel for each thread, and for four floats of each channel besides.
static double *workspace(int64_t channels, int threads) {
    return calloc((size_t)channels * (3 * threads + 2), sizeof(double) + 2 * sizeof(float));
}

// y = ReLU((x - mean) * scale + bias), where scale = weight * deviation and deviation = 1 / sqrt(variance + eps); mean and
// deviation of the batch are for the backward pass. The running statistics move by `momentum`, the variance as of a sample.
// Returns 0, or 1 without memory.
int norm_relu_forward(const void *x, int64_t stride, void *y, int64_t rows, int64_t channels, int narrow, int threads,
                      const float *weight, const float *bias, float *running_mean, float *running_variance, float momentum,
                      double eps, float *mean, float *deviation) {
    double *sums = workspace(channels, threads);
    if (!sums) return 1;
    float *blocks = (float *)(sums + 2 * channels * threads), *origin = blocks + 2 * channels * threads;
    float *scale = origin + channels;
    for (int64_t c = 0; c < channels; c++) origin[c] = narrow ? from_bf16(((const bf16 *)x)[c]) : ((const float *)x)[c];

#pragma omp parallel num_threads(threads)
    {
        int thread = omp_get_thread_num(), present = omp_get_num_threads();
        int64_t first, last;
        share(rows, thread, present, &first, &last);
        float *block = blocks + 2 * channels * thread;
        double *own = sums + 2 * channels * thread;
        if (narrow) moments_bf16(x, stride, first, last, channels, origin, block, own);
        else moments_float(x, stride, first, last, channels, origin, block, own);
#pragma omp barrier
#pragma omp single
        {
            gather(channels, present, sums);
            for (int64_t c = 0; c < channels; c++) {
                double centre = sums[c] / rows, variance = sums[channels + c] / rows - centre * centre;
                variance = variance < 0 ? 0 : variance;
                mean[c] = (float)(origin[c] + centre);
                deviation[c] = (float)(1 / __builtin_sqrt(variance + eps));
                scale[c] = weight[c] * deviation[c];
                running_mean[c] += momentum * (mean[c] - running_mean[c]);
                running_variance[c] += momentum * ((float)(variance * rows / (rows - 1)) - running_variance[c]);
            }
        }
        if (narrow) normalise_bf16(x, stride, y, first, last, channels, mean, scale, bias);
        else normalise_float(x, stride, y, first, last, channels, mean, scale, bias);
    }
    free(sums);
    return 0;
}

// The gradients of x, weight and bias for the gradient dy of y. Returns 0, or 1 without memory.
int norm_relu_backward(const void *x, int64_t stride, const void *dy, int64_t dy_stride, void *dx, int64_t rows,
                       int64_t channels, int narrow, int threads, const float *weight, const float *bias, const float *mean,
                       const float *deviation, float *dweight, float *dbias) {
    double *sums = workspace(channels, threads);
    if (!sums) return 1;
    float *blocks = (float *)(sums + 2 * channels * threads), *slope = blocks + 2 * channels * threads;
    float *level = slope + channels, *scale = level + channels;
    for (int64_t c = 0; c < channels; c++) scale[c] = weight[c] * deviation[c];

#pragma omp parallel num_threads(threads)
    {
        int thread = omp_get_thread_num(), present = omp_get_num_threads();
        int64_t first, last;
        share(rows, thread, present, &first, &last);
        float *block = blocks + 2 * channels * thread;
        double *own = sums + 2 * channels * thread;
        if (narrow) products_bf16(x, stride, dy, dy_stride, first, last, channels, mean, scale, bias, block, own);
        else products_float(x, stride, dy, dy_stride, first, last, channels, mean, scale, bias, block, own);
#pragma omp barrier
#pragma omp single
        {
            gather(channels, present, sums);
            for (int64_t c = 0; c < channels; c++) {
                dbias[c] = (float)sums[c];
                dweight[c] = (float)(sums[channels + c] * deviation[c]);
                slope[c] = (float)((double)scale[c] * deviation[c] * deviation[c] * sums[channels + c] / rows);
                level[c] = (float)(scale[c] * sums[c] / rows);
            }
        }
        if (narrow) gradient_bf16(x, stride, dy, dy_stride, dx, first, last, channels, mean, scale, bias, slope, level);
        else gradient_float(x, stride, dy, dy_stride, dx, first, last, channels, mean, scale, bias, slope, level);
    }
    free(sums);
    return 0;
}
