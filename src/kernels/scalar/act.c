/* Element by element: the gated activation, sums and products, scalar. */
#include "kernels/scalar/scalar.h"

void pr__scalar_silu_mul(const float *g, const float *u, uint32_t n, float *y) {
    for (uint32_t i = 0; i < n; i++) {
        y[i] = g[i] / (1.0f + pr_expf(-g[i])) * u[i];
    }
}

void pr__scalar_add(const float *a, const float *b, uint32_t n, float *y) {
    for (uint32_t i = 0; i < n; i++) {
        y[i] = a[i] + b[i];
    }
}

void pr__scalar_mul(const float *a, const float *b, uint32_t n, float *y) {
    for (uint32_t i = 0; i < n; i++) {
        y[i] = a[i] * b[i];
    }
}

void pr__scalar_scale(const float *a, float s, uint32_t n, float *y) {
    for (uint32_t i = 0; i < n; i++) {
        y[i] = a[i] * s;
    }
}
