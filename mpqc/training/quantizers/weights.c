// LSQ of float32 weights with one step a row, and what is known of their codes. Rows are output channels. See native_weights.py.
#include <stdint.h>

// `odd`: the nearest odd number, as the half-integer grid has them.
static inline float rounded(float steps, int odd) { return odd ? __builtin_rintf((steps - 1.0f) * 0.5f) * 2.0f + 1.0f : __builtin_rintf(steps); }

static inline float code_of(float value, float scale, float low, float high, int odd) {
    float code = rounded(value / scale, odd);
    code = code < low ? low : code;
    return code > high ? high : code;
}

void weights_forward(const float *x, float *y, int64_t rows, int64_t inner, const float *scale, float low, float high, int odd) {
    for (int64_t row = 0; row < rows; row++) {
        const float *restrict from = x + row * inner;
        float *restrict to = y + row * inner, step = scale[row];
        for (int64_t i = 0; i < inner; i++) to[i] = code_of(from[i], step, low, high, odd) * step;
    }
}

#pragma clang fp reassociate(on)
// Gradients pass between (low - margin) s and (high + margin) s; those of each step are summed over its row, times slope.
void weights_backward(const float *g, const float *x, float *dx, float *for_scale, int64_t rows, int64_t inner, const float *scale, float low,
                      float high, float margin, int odd, float slope) {
    for (int64_t row = 0; row < rows; row++) {
        const float *restrict gradient = g + row * inner, *restrict from = x + row * inner;
        float *restrict to = dx + row * inner, step = scale[row], total = 0.0f;
        float bottom = (low - margin) * step, top = (high + margin) * step;
        for (int64_t i = 0; i < inner; i++) {
            float through = from[i] > bottom && from[i] < top ? 1.0f : 0.0f;
            float y = code_of(from[i], step, low, high, odd) * step;
            to[i] = gradient[i] * through;
            total += gradient[i] * (y - through * from[i]);
        }
        for_scale[row] = total * (slope / step);
    }
}

// oscillation.py's record of a weight after a step, and the weight itself where it is frozen.
void weights_watch(float *weight, float *codes, float *direction, float *frequency, float *average, uint8_t *frozen, float *kept, int64_t rows,
                   int64_t inner, const float *scale, float low, float high, int odd, float momentum, float threshold) {
    for (int64_t row = 0; row < rows; row++) {
        float step = scale[row];
        for (int64_t i = row * inner; i < (row + 1) * inner; i++) {
            float code = code_of(weight[i], step, low, high, odd), moved = code - codes[i];
            float change = moved > 0.0f ? 1.0f : moved < 0.0f ? -1.0f : 0.0f;
            float turned = change * direction[i] < 0.0f ? 1.0f : 0.0f;
            float often = frequency[i] + momentum * (turned - frequency[i]), mean = average[i] + momentum * (code - average[i]);
            int newly = often > threshold && !frozen[i];
            float fixed = newly ? rounded(mean, odd) : kept[i];
            int held = frozen[i] || newly;
            frequency[i] = often;
            average[i] = mean;
            direction[i] = change != 0.0f ? change : direction[i];
            codes[i] = code;
            kept[i] = fixed;
            frozen[i] = (uint8_t)held;
            weight[i] = held ? fixed * step : weight[i];
        }
    }
}
