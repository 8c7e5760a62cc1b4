// LSQ on bfloat16 values in one pass over memory; arithmetic in float32. See native.py.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "pool.h"

#define CHUNK (1 << 17)

static inline float widen(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// Round half to even; finite values only.
static inline uint16_t narrow(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// y = clamp(rne(x / s), low, high) * s. NaN stays NaN.
static void forward(const uint16_t *restrict x, uint16_t *restrict y, int64_t count, float scale, float low, float high) {
    for (int64_t i = 0; i < count; i++) {
        float value = widen(x[i]);
        float code = __builtin_rintf(value / scale);
        code = code < low ? low : code;
        code = code > high ? high : code;
        uint16_t made = narrow(code * scale);
        y[i] = value != value ? x[i] : made;
    }
}

#pragma clang fp reassociate(on)
// dx = g where low * s < x < high * s, else 0; returns the sum of g * (code - x / s inside, code outside).
static double backward(const uint16_t *restrict g, const uint16_t *restrict x, uint16_t *restrict dx, int64_t count, float scale, float low, float high) {
    double total = 0.0;
    float bottom = low * scale, top = high * scale;
    for (int64_t start = 0; start < count; start += 4096) {
        int64_t end = start + 4096 < count ? start + 4096 : count;
        float part = 0.0f;
        for (int64_t i = start; i < end; i++) {
            float value = widen(x[i]), steps = value / scale;
            float code = __builtin_rintf(steps);
            code = code < low ? low : code;
            code = code > high ? high : code;
            int inside = value > bottom && value < top;
            dx[i] = inside ? g[i] : 0;
            part += widen(g[i]) * (inside ? code - steps : code);
        }
        total += part;
    }
    return total;
}

typedef struct {
    const uint16_t *g, *x;
    uint16_t *out;
    int64_t count;
    float scale, low, high;
    double *parts;
} job_of_lsq_t;

static int64_t length(const job_of_lsq_t *job, int64_t at) { return job->count - at < CHUNK ? job->count - at : CHUNK; }

static void forward_chunk(void *context, int64_t chunk) {
    const job_of_lsq_t *job = context;
    int64_t at = chunk * CHUNK;
    forward(job->x + at, job->out + at, length(job, at), job->scale, job->low, job->high);
}

static void backward_chunk(void *context, int64_t chunk) {
    const job_of_lsq_t *job = context;
    int64_t at = chunk * CHUNK;
    job->parts[chunk] = backward(job->g + at, job->x + at, job->out + at, length(job, at), job->scale, job->low, job->high);
}

void lsq_forward(const uint16_t *x, uint16_t *y, int64_t count, float scale, float low, float high, int threads) {
    job_of_lsq_t job = {.x = x, .out = y, .count = count, .scale = scale, .low = low, .high = high};
    each_chunk(forward_chunk, &job, (count + CHUNK - 1) / CHUNK, threads);
}

double lsq_backward(const uint16_t *g, const uint16_t *x, uint16_t *dx, int64_t count, float scale, float low, float high, int threads) {
    int64_t chunks = (count + CHUNK - 1) / CHUNK;
    job_of_lsq_t job = {.g = g, .x = x, .out = dx, .count = count, .scale = scale, .low = low, .high = high};
    job.parts = malloc(sizeof(double) * (size_t)chunks);
    each_chunk(backward_chunk, &job, chunks, threads);
    double total = 0.0;
    for (int64_t chunk = 0; chunk < chunks; chunk++) total += job.parts[chunk];
    free(job.parts);
    return total;
}
