/* Activations to 8 and to 13 bits, scalar (kernels.h has the definitions of pr_qblock and pr_qblock13). */
#include "kernels/scalar/scalar.h"

/* x mended, and the step that takes its largest to `most`; 0: all of it is nothing. */
static float step_of(const float *src, float most, float x[PR_BLOCK]) {
    float max = 0.0f;
    for (int i = 0; i < PR_BLOCK; i++) {
        x[i] = pr__mended(src[i]);
        max = fmaxf(max, fabsf(x[i]));
    }
    float d = max / most;
    return d < FLT_MIN ? 0.0f : d;
}

static void quant_block(const float *src, pr_qblock *out) {
    float x[PR_BLOCK], d = step_of(src, 127.0f, x);
    *out = (pr_qblock){.d = d};
    if (d == 0.0f) {
        return;
    }
    float inv = 1.0f / d;
    int32_t sum = 0;
    for (int i = 0; i < PR_BLOCK; i++) {
        out->q[i] = (int8_t)nearbyintf(x[i] * inv);
        sum += out->q[i];
    }
    out->ds = d * (float)sum;
    out->bias64 = -64 * sum;
    out->bias = -128 * sum;
}

static void quant13_block(const float *src, pr_qblock13 *out) {
    float x[PR_BLOCK], d = step_of(src, (float)PR_Q13_MAX, x);
    *out = (pr_qblock13){.d = d};
    if (d == 0.0f) {
        return;
    }
    float inv = 1.0f / d;
    for (int i = 0; i < PR_BLOCK; i++) {
        out->q[pr__at_q13(i)] = (int16_t)nearbyintf(x[i] * inv);
    }
}

void pr__scalar_quant(const float *x, uint32_t n, pr_qblock *out) {
    for (uint32_t b = 0; b < n / PR_BLOCK; b++) {
        quant_block(x + (size_t)b * PR_BLOCK, out + b);
    }
}

void pr__scalar_quant13(const float *x, uint32_t n, pr_qblock13 *out) {
    for (uint32_t b = 0; b < n / PR_BLOCK; b++) {
        quant13_block(x + (size_t)b * PR_BLOCK, out + b);
    }
}
