/* RMS norm and softmax, AVX-512: one register is the 16 partial sums, the last numbers go under a mask. */
#include <math.h>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"

void pr__avx512_rmsnorm(const float *x, const float *w, uint32_t n, float eps, float *y) {
    __m512 sum = _mm512_setzero_ps();
    for (uint32_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_maskz_loadu_ps(lanes_mask(n - i), x + i);
        sum = _mm512_fmadd_ps(v, v, sum);
    }
    __m512 r = _mm512_set1_ps(1.0f / sqrtf(sum16(sum) / (float)n + eps));
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 there = lanes_mask(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(there, x + i), r);
        v = w != NULL ? _mm512_mul_ps(v, _mm512_maskz_loadu_ps(there, w + i)) : v;
        _mm512_mask_storeu_ps(y + i, there, v);
    }
}

void pr__avx512_softmax(float *x, uint32_t n) {
    __m512 max = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 there = lanes_mask(n - i);
        max = _mm512_mask_max_ps(max, there, _mm512_maskz_loadu_ps(there, x + i),
                                 max); /* the second operand survives a NaN */
    }
    max = _mm512_set1_ps(max_of(max));
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 there = lanes_mask(n - i);
        __m512 p = exp_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(there, x + i), max));
        _mm512_mask_storeu_ps(x + i, there, p);
        sum = _mm512_mask_add_ps(sum, there, sum, p);
    }
    __m512 inv = _mm512_set1_ps(1.0f / sum16(sum));
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 there = lanes_mask(n - i);
        _mm512_mask_storeu_ps(x + i, there, _mm512_mul_ps(_mm512_maskz_loadu_ps(there, x + i), inv));
    }
}
