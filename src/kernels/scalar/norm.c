/* RMS norm and softmax, scalar: the two operations that reduce a whole row, by sum16. */
#include <math.h>

#include "kernels/scalar/scalar.h"

void pr__scalar_rmsnorm(const float *x, const float *w, uint32_t n, float eps, float *y) {
    float p[16] = {0};
    for (uint32_t i = 0; i < n; i++) {
        p[i % 16] = fmaf(x[i], x[i], p[i % 16]);
    }
    float r = 1.0f / sqrtf(pr__sum16_tree(p) / (float)n + eps);
    for (uint32_t i = 0; i < n; i++) {
        y[i] = w != NULL ? x[i] * r * w[i] : x[i] * r;
    }
}

void pr__scalar_softmax(float *x, uint32_t n) {
    float max = -INFINITY, p[16] = {0};
    for (uint32_t i = 0; i < n; i++) {
        max = x[i] > max ? x[i] : max;
    }
    for (uint32_t i = 0; i < n; i++) {
        x[i] = pr_expf(x[i] - max);
        p[i % 16] += x[i];
    }
    float inv = 1.0f / pr__sum16_tree(p);
    for (uint32_t i = 0; i < n; i++) {
        x[i] *= inv;
    }
}
