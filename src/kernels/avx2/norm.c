/*
 * RMS norm and softmax, AVX2. Two registers are the 16 partial sums; the
 * numbers of an unfinished last sixteen are loaded under a mask, as zeros.
 */
#include <math.h>

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"

static __m256 load_n(const float *x, uint32_t n) { return _mm256_maskload_ps(x, lanes_mask(n)); }

void pr__avx2_rmsnorm(const float *x, const float *w, uint32_t n, float eps, float *y) {
    __m256 a = _mm256_setzero_ps(), b = a;
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256 x0 = _mm256_loadu_ps(x + i), x1 = _mm256_loadu_ps(x + i + 8);
        a = _mm256_fmadd_ps(x0, x0, a);
        b = _mm256_fmadd_ps(x1, x1, b);
    }
    if (i < n) {
        __m256 x0 = load_n(x + i, n - i), x1 = n - i > 8 ? load_n(x + i + 8, n - i - 8) : _mm256_setzero_ps();
        a = _mm256_fmadd_ps(x0, x0, a);
        b = _mm256_fmadd_ps(x1, x1, b);
    }
    float r = 1.0f / sqrtf(sum16(a, b) / (float)n + eps);
    __m256 rs = _mm256_set1_ps(r);
    for (i = 0; i + 8 <= n; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), rs);
        _mm256_storeu_ps(y + i, w != NULL ? _mm256_mul_ps(v, _mm256_loadu_ps(w + i)) : v);
    }
    if (i < n) {
        __m256 v = _mm256_mul_ps(load_n(x + i, n - i), rs);
        v = w != NULL ? _mm256_mul_ps(v, load_n(w + i, n - i)) : v;
        _mm256_maskstore_ps(y + i, lanes_mask(n - i), v);
    }
}

static float row_max(const float *x, uint32_t n) {
    __m256 max = _mm256_set1_ps(-INFINITY);
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        max = _mm256_max_ps(_mm256_loadu_ps(x + i), max); /* the second operand survives a NaN */
    }
    if (i < n) {
        __m256i mask = lanes_mask(n - i);
        __m256 v = _mm256_blendv_ps(max, _mm256_maskload_ps(x + i, mask), _mm256_castsi256_ps(mask));
        max = _mm256_max_ps(v, max);
    }
    return max_of(max);
}

void pr__avx2_softmax(float *x, uint32_t n) {
    __m256 max = _mm256_set1_ps(row_max(x, n)), sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 p = exp_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i), max));
        _mm256_storeu_ps(x + i, p);
        sum[i / 8 % 2] = _mm256_add_ps(sum[i / 8 % 2], p);
    }
    if (i < n) {
        __m256i mask = lanes_mask(n - i);
        __m256 p = exp_ps(_mm256_sub_ps(_mm256_maskload_ps(x + i, mask), max));
        p = _mm256_and_ps(p, _mm256_castsi256_ps(mask));
        _mm256_maskstore_ps(x + i, mask, p);
        sum[i / 8 % 2] = _mm256_add_ps(sum[i / 8 % 2], p);
    }
    pr__avx2_scale(x, 1.0f / sum16(sum[0], sum[1]), n, x);
}
