// BatchNorm, addition, ReLU and rounding to grids on bfloat16 values, channels last, in as few passes over memory as there can be.
// Arithmetic is float32, sums over chunks are added in order in double: results do not depend on the number of threads. See native.py.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "pool.h"

#define CHUNK (1 << 17)
#define LANES 256

// ---- one value

enum { NONE, ONE, TWO };

// y = w1 clamp(rne(v i1), l1, h1) [+ w2 clamp(rne(v i2), l2, h2)]; gradients pass where bottom < v < top.
typedef struct {
    int32_t kind, relu;
    float inverse1, low1, high1, weight1, inverse2, low2, high2, weight2, step1, step2, bottom, top;
} grid_t;

static inline float widen(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// Round half to even; NaNs with a payload below the upper half only.
static inline uint16_t narrow(float value) {
#ifdef __AVX512BF16__
    __bf16 half = (__bf16)value;
    uint16_t made;
    memcpy(&made, &half, 2);
    return made;
#endif
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float code(float value, float inverse, float low, float high) {
    float found = __builtin_rintf(value * inverse);
    found = found < low ? low : found;
    return found > high ? high : found;
}

static inline float made(float v, const grid_t *g, int kind, int relu) {
    if (relu) v = v < 0.0f ? 0.0f : v;
    if (kind == NONE) return v;
    float y = code(v, g->inverse1, g->low1, g->high1) * g->weight1;
    return kind == ONE ? y : y + code(v, g->inverse2, g->low2, g->high2) * g->weight2;
}

// The gradient to v; adds to what the sums have: g (y - v) inside, g y outside, g (Q2 - Q1).
static inline float returned(float g, float v, const grid_t *grid, int kind, int relu, float *inside, float *outside, float *difference) {
    if (kind == NONE) return relu && !(v > 0.0f) ? 0.0f : g;
    if (relu) v = v < 0.0f ? 0.0f : v;
    float first = code(v, grid->inverse1, grid->low1, grid->high1), y = first * grid->weight1;
    if (kind == TWO) {
        float second = code(v, grid->inverse2, grid->low2, grid->high2);
        y += second * grid->weight2;
        *difference += g * (second * grid->step2 - first * grid->step1);
    }
    float through = v > grid->bottom && v < grid->top ? g : 0.0f;
    *inside += through * (y - v);
    *outside += (g - through) * y;
    return through;
}

// ---- the loops: `lanes` values at a time, parameters and sums repeated along them

typedef struct {
    const uint16_t *g, *z, *skip;
    uint16_t *out;
    int64_t count, span, channels, lanes;
    const float *a, *b, *mean, *p, *q, *r; // [lanes]
    const grid_t *grid;
    double *parts; // of each chunk
    int64_t width; // of its parts
} pass_t;

#define EACH_BLOCK(pass, chunk) \
    int64_t begin = (chunk) * (pass)->span, end = begin + (pass)->span < (pass)->count ? begin + (pass)->span : (pass)->count; \
    for (int64_t at = begin, n; n = end - at < (pass)->lanes ? end - at : (pass)->lanes, at < end; at += n)

static float *zeros(int64_t count) { return calloc((size_t)count, sizeof(float)); }

static void add_lanes(double *into, const float *lanes, const pass_t *pass) {
    for (int64_t k = 0; k < pass->lanes; k++) into[k % pass->channels] += lanes[k];
}

static double added(const float *lanes, int64_t count) {
    double total = 0.0;
    for (int64_t k = 0; k < count; k++) total += lanes[k];
    return total;
}

#define INLINE static inline __attribute__((always_inline))
#define TOGETHER 4 // blocks that share loads and stores of what goes by lane

INLINE void measure_rows(const uint16_t *restrict z, int64_t n, int64_t lanes, const int rows, float *sums) {
    const float *restrict shift = sums;
    float *restrict first = sums + lanes, *restrict second = sums + 2 * lanes;
    for (int64_t k = 0; k < n; k++) {
        float sum = 0.0f, squares = 0.0f;
        for (int row = 0; row < rows; row++) {
            float value = widen(z[row * lanes + k]) - shift[k];
            sum += value;
            squares += value * value;
        }
        first[k] += sum;
        second[k] += squares;
    }
}

// Mean and sum of squared distances from it of one chunk, around the mean of its first block: no digits cancel.
static void measure(void *context, int64_t chunk) {
    const pass_t *pass = context;
    int64_t lanes = pass->lanes, channels = pass->channels;
    float *shift = zeros(3 * lanes), *first = shift + lanes, *second = first + lanes;
    double *mean = pass->parts + chunk * pass->width, *square = mean + channels;
    int64_t start = chunk * pass->span, left = pass->count - start < pass->span ? pass->count - start : pass->span;
    int64_t some = left < lanes ? left : lanes;
    for (int64_t c = 0; c < channels; c++) {
        float total = 0.0f;
        for (int64_t k = c; k < some; k += channels) total += widen(pass->z[start + k]);
        for (int64_t k = c; k < lanes; k += channels) shift[k] = total / (float)(some / channels);
    }
    int64_t end = start + left, at = start;
    for (; at + TOGETHER * lanes <= end; at += TOGETHER * lanes) measure_rows(pass->z + at, lanes, lanes, TOGETHER, shift);
    for (int64_t n; n = end - at < lanes ? end - at : lanes, at < end; at += n) measure_rows(pass->z + at, n, lanes, 1, shift);
    double rows = (double)(left / channels);
    memset(mean, 0, sizeof(double) * (size_t)(2 * channels));
    add_lanes(mean, first, pass);
    add_lanes(square, second, pass);
    for (int64_t c = 0; c < channels; c++) {
        double moved = mean[c] / rows;
        square[c] = square[c] - rows * moved * moved > 0.0 ? square[c] - rows * moved * moved : 0.0;
        mean[c] = moved + (double)shift[c];
    }
    free(shift);
}

INLINE void normalise(const pass_t *pass, int64_t chunk, int kind, int relu) {
    grid_t grid = *pass->grid;
    EACH_BLOCK(pass, chunk) {
        const uint16_t *restrict z = pass->z + at;
        uint16_t *restrict y = pass->out + at;
        const float *restrict a = pass->a, *restrict b = pass->b;
        for (int64_t k = 0; k < n; k++) y[k] = narrow(made(widen(z[k]) * a[k] + b[k], &grid, kind, relu));
    }
}

INLINE void collect_rows(const pass_t *pass, int64_t at, int64_t n, const int rows, int kind, int relu, float *sums) {
    grid_t grid = *pass->grid;
    int64_t lanes = pass->lanes;
    const uint16_t *restrict z = pass->z + at, *restrict g = pass->g + at;
    const float *restrict a = pass->a, *restrict b = pass->b, *restrict mean = pass->mean;
    float *restrict one = sums, *restrict two = sums + lanes;
    float *restrict in = sums + 2 * lanes, *restrict out = sums + 3 * lanes, *restrict other = sums + 4 * lanes;
    for (int64_t k = 0; k < n; k++) {
        float inside = 0.0f, outside = 0.0f, difference = 0.0f, sum = 0.0f, product = 0.0f;
        for (int row = 0; row < rows; row++) {
            float value = widen(z[row * lanes + k]);
            float dv = returned(widen(g[row * lanes + k]), value * a[k] + b[k], &grid, kind, relu, &inside, &outside, &difference);
            sum += dv;
            product += dv * (value - mean[k]);
        }
        one[k] += sum;
        two[k] += product;
        if (kind != NONE) in[k] += inside, out[k] += outside;
        if (kind == TWO) other[k] += difference;
    }
}

// Sums of dv, dv (z - mean) by channel, and of the grid's gradients.
INLINE void collect(const pass_t *pass, int64_t chunk, int kind, int relu) {
    int64_t lanes = pass->lanes, at = chunk * pass->span, end = at + pass->span < pass->count ? at + pass->span : pass->count;
    float *sums = zeros(5 * lanes);
    for (; at + TOGETHER * lanes <= end; at += TOGETHER * lanes) collect_rows(pass, at, lanes, TOGETHER, kind, relu, sums);
    for (int64_t n; n = end - at < lanes ? end - at : lanes, at < end; at += n) collect_rows(pass, at, n, 1, kind, relu, sums);
    double *part = pass->parts + chunk * pass->width;
    memset(part, 0, sizeof(double) * (size_t)pass->width);
    add_lanes(part, sums, pass);
    add_lanes(part + pass->channels, sums + lanes, pass);
    for (int i = 0; i < 3; i++) part[2 * pass->channels + i] = added(sums + (2 + i) * lanes, lanes);
    free(sums);
}

// dz = p dv + q z + r
INLINE void return_through(const pass_t *pass, int64_t chunk, int kind, int relu) {
    grid_t grid = *pass->grid;
    EACH_BLOCK(pass, chunk) {
        const uint16_t *restrict z = pass->z + at, *restrict g = pass->g + at;
        uint16_t *restrict dz = pass->out + at;
        const float *restrict a = pass->a, *restrict b = pass->b, *restrict p = pass->p, *restrict q = pass->q, *restrict r = pass->r;
        for (int64_t k = 0; k < n; k++) {
            float value = widen(z[k]), ignored = 0.0f;
            float dv = returned(widen(g[k]), value * a[k] + b[k], &grid, kind, relu, &ignored, &ignored, &ignored);
            dz[k] = narrow(p[k] * dv + (q[k] * value + r[k]));
        }
    }
}

INLINE void round_sum(const pass_t *pass, int64_t chunk, int kind, int relu) {
    grid_t grid = *pass->grid;
    EACH_BLOCK(pass, chunk) {
        const uint16_t *restrict z = pass->z + at;
        uint16_t *restrict y = pass->out + at;
        if (pass->skip) {
            const uint16_t *restrict skip = pass->skip + at;
            for (int64_t k = 0; k < n; k++) y[k] = narrow(made(widen(z[k]) + widen(skip[k]), &grid, kind, relu));
        } else {
            for (int64_t k = 0; k < n; k++) y[k] = narrow(made(widen(z[k]), &grid, kind, relu));
        }
    }
}

INLINE void return_sum(const pass_t *pass, int64_t chunk, int kind, int relu) {
    grid_t grid = *pass->grid;
    int64_t lanes = pass->lanes;
    float *sums = zeros(3 * lanes);
    EACH_BLOCK(pass, chunk) {
        const uint16_t *restrict z = pass->z + at, *restrict g = pass->g + at, *restrict skip = pass->skip ? pass->skip + at : 0;
        uint16_t *restrict dz = pass->out + at;
        float *restrict in = sums, *restrict out = sums + lanes, *restrict other = sums + 2 * lanes;
        int adds = skip != 0;
        for (int64_t k = 0; k < n; k++) {
            float value = widen(z[k]), inside = 0.0f, outside = 0.0f, difference = 0.0f;
            if (adds) value += widen(skip[k]);
            dz[k] = narrow(returned(widen(g[k]), value, &grid, kind, relu, &inside, &outside, &difference));
            if (kind != NONE) in[k] += inside, out[k] += outside;
            if (kind == TWO) other[k] += difference;
        }
    }
    for (int i = 0; i < 3; i++) pass->parts[chunk * pass->width + i] = added(sums + i * lanes, lanes);
    free(sums);
}

#define FOR_KINDS(name) \
    static void name##_each(void *context, int64_t chunk) { \
        const pass_t *pass = context; \
        switch (2 * pass->grid->kind + (pass->grid->relu != 0)) { \
        case 0: name(pass, chunk, NONE, 0); return; \
        case 1: name(pass, chunk, NONE, 1); return; \
        case 2: name(pass, chunk, ONE, 0); return; \
        case 3: name(pass, chunk, ONE, 1); return; \
        case 4: name(pass, chunk, TWO, 0); return; \
        default: name(pass, chunk, TWO, 1); \
        } \
    }
FOR_KINDS(normalise)
FOR_KINDS(collect)
FOR_KINDS(return_through)
FOR_KINDS(round_sum)
FOR_KINDS(return_sum)

// ---- what native.py calls

static pass_t begun(int64_t count, int64_t channels, const grid_t *grid) {
    int64_t lanes = (LANES + channels - 1) / channels * channels;
    int64_t blocks = CHUNK / lanes > 0 ? CHUNK / lanes : 1;
    return (pass_t){.count = count, .channels = channels, .lanes = lanes, .span = blocks * lanes, .grid = grid};
}

static int64_t chunks_of(const pass_t *pass) { return (pass->count + pass->span - 1) / pass->span; }

static void repeat(float *lanes, const pass_t *pass) {
    for (int64_t k = pass->channels; k < pass->lanes; k++) lanes[k] = lanes[k - pass->channels];
}

// Mean and biased variance of each channel, in float64.
static void statistics(pass_t *pass, double *mean, double *variance, int threads) {
    int64_t chunks = chunks_of(pass), channels = pass->channels;
    pass->width = 2 * channels;
    pass->parts = malloc(sizeof(double) * (size_t)(chunks * pass->width));
    each_chunk(measure, pass, chunks, threads);
    double seen = 0.0;
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        const double *part = pass->parts + chunk * pass->width;
        int64_t left = pass->count - chunk * pass->span;
        double rows = (double)((left < pass->span ? left : pass->span) / channels);
        for (int64_t c = 0; c < channels; c++) {
            double before = chunk ? mean[c] : 0.0, apart = part[c] - before;
            mean[c] = before + apart * rows / (seen + rows);
            variance[c] = (chunk ? variance[c] : 0.0) + part[channels + c] + apart * apart * seen * rows / (seen + rows);
        }
        seen += rows;
    }
    for (int64_t c = 0; c < channels; c++) variance[c] /= seen;
    free(pass->parts);
}

// y from z [rows, channels]; leaves mean and 1 / deviation in `saved` [2, channels] and moves the running statistics.
void norm_forward(const uint16_t *z, uint16_t *y, int64_t count, int64_t channels, const float *gamma, const float *beta, float epsilon,
                  float momentum, float *running_mean, float *running_variance, float *saved, const grid_t *grid, int threads) {
    pass_t pass = begun(count, channels, grid);
    pass.z = z, pass.out = y;
    double *mean = malloc(sizeof(double) * (size_t)(2 * channels)), *variance = mean + channels;
    statistics(&pass, mean, variance, threads);
    float *a = zeros(2 * pass.lanes), *b = a + pass.lanes;
    double rows = (double)(count / channels), unbiased = rows > 1.0 ? rows / (rows - 1.0) : 1.0;
    for (int64_t c = 0; c < channels; c++) {
        saved[c] = (float)mean[c];
        saved[channels + c] = (float)(1.0 / sqrt(variance[c] + (double)epsilon));
        running_mean[c] = (1.0f - momentum) * running_mean[c] + momentum * (float)mean[c];
        running_variance[c] = (1.0f - momentum) * running_variance[c] + momentum * (float)(variance[c] * unbiased);
        a[c] = gamma[c] * saved[channels + c];
        b[c] = beta[c] - saved[c] * a[c];
    }
    repeat(a, &pass), repeat(b, &pass);
    pass.a = a, pass.b = b;
    each_chunk(normalise_each, &pass, chunks_of(&pass), threads);
    free(a), free(mean);
}

// The gradients to z, gamma and beta, and the three sums of the grid.
void norm_backward(const uint16_t *g, const uint16_t *z, uint16_t *dz, int64_t count, int64_t channels, const float *gamma, const float *beta,
                   const float *saved, float *for_gamma, float *for_beta, double *sums, const grid_t *grid, int threads) {
    pass_t pass = begun(count, channels, grid);
    pass.g = g, pass.z = z, pass.out = dz;
    float *a = zeros(6 * pass.lanes), *b = a + pass.lanes, *mean = b + pass.lanes, *p = mean + pass.lanes, *q = p + pass.lanes, *r = q + pass.lanes;
    for (int64_t c = 0; c < channels; c++) {
        a[c] = gamma[c] * saved[channels + c];
        b[c] = beta[c] - saved[c] * a[c];
        mean[c] = saved[c];
    }
    repeat(a, &pass), repeat(b, &pass), repeat(mean, &pass);
    pass.a = a, pass.b = b, pass.mean = mean, pass.p = p, pass.q = q, pass.r = r;
    int64_t chunks = chunks_of(&pass);
    pass.width = 2 * channels + 3;
    pass.parts = malloc(sizeof(double) * (size_t)(chunks * pass.width));
    each_chunk(collect_each, &pass, chunks, threads);
    double *total = calloc((size_t)pass.width, sizeof(double)), rows = (double)(count / channels);
    for (int64_t chunk = 0; chunk < chunks; chunk++)
        for (int64_t k = 0; k < pass.width; k++) total[k] += pass.parts[chunk * pass.width + k];
    for (int64_t c = 0; c < channels; c++) {
        double inverse = saved[channels + c], slope = total[channels + c] * inverse * inverse / rows;
        for_beta[c] = (float)total[c];
        for_gamma[c] = (float)(total[channels + c] * inverse);
        p[c] = a[c];
        q[c] = (float)(-(double)a[c] * slope);
        r[c] = (float)((double)a[c] * (slope * (double)mean[c] - total[c] / rows));
    }
    repeat(p, &pass), repeat(q, &pass), repeat(r, &pass);
    memcpy(sums, total + 2 * channels, 3 * sizeof(double));
    each_chunk(return_through_each, &pass, chunks, threads);
    free(total), free(pass.parts), free(a);
}

// y from z, or from z + skip.
void round_forward(const uint16_t *z, const uint16_t *skip, uint16_t *y, int64_t count, const grid_t *grid, int threads) {
    pass_t pass = begun(count, 1, grid);
    pass.z = z, pass.skip = skip, pass.out = y;
    each_chunk(round_sum_each, &pass, chunks_of(&pass), threads);
}

// The gradient to z (and to skip), and the three sums of the grid.
void round_backward(const uint16_t *g, const uint16_t *z, const uint16_t *skip, uint16_t *dz, int64_t count, double *sums, const grid_t *grid,
                    int threads) {
    pass_t pass = begun(count, 1, grid);
    pass.g = g, pass.z = z, pass.skip = skip, pass.out = dz, pass.width = 3;
    int64_t chunks = chunks_of(&pass);
    pass.parts = malloc(sizeof(double) * (size_t)(3 * chunks));
    each_chunk(return_sum_each, &pass, chunks, threads);
    memset(sums, 0, 3 * sizeof(double));
    for (int64_t k = 0; k < 3 * chunks; k++) sums[k % 3] += pass.parts[k];
    free(pass.parts);
}
