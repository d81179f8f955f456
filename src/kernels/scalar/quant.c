/* Activations to 8 bits, scalar (kernels.h has the definition of pr_qblock). */
#include "kernels/scalar/scalar.h"

static void quant_block(const float *src, pr_qblock *out) {
    float x[PR_BLOCK], max = 0.0f;
    for (int i = 0; i < PR_BLOCK; i++) {
        x[i] = pr__mended(src[i]);
        max = fmaxf(max, fabsf(x[i]));
    }
    float d = max / 127.0f;
    if (d < FLT_MIN) {
        *out = (pr_qblock){0};
        return;
    }
    float inv = 1.0f / d;
    int32_t sum = 0;
    for (int i = 0; i < PR_BLOCK; i++) {
        out->q[i] = (int8_t)nearbyintf(x[i] * inv);
        sum += out->q[i];
    }
    out->d = d;
    out->ds = d * (float)sum;
    out->bias64 = -64 * sum;
    out->bias = -128 * sum;
}

void pr__scalar_quant(const float *x, uint32_t n, pr_qblock *out) {
    for (uint32_t b = 0; b < n / PR_BLOCK; b++) {
        quant_block(x + (size_t)b * PR_BLOCK, out + b);
    }
}
