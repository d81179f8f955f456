/* Element by element: the gated activation, sums and products, AVX2. */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"

typedef __m256 both_fn(__m256 a, __m256 b);

/* y = f(a, b) with f inlined. */
PR_INLINE void map(both_fn *f, const float *a, const float *b, uint32_t n, float *y) {
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(y + i, f(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i)));
    }
    if (i < n) {
        __m256i mask = lanes_mask(n - i);
        _mm256_maskstore_ps(y + i, mask, f(_mm256_maskload_ps(a + i, mask), _mm256_maskload_ps(b + i, mask)));
    }
}

PR_INLINE __m256 silu_mul(__m256 g, __m256 u) {
    __m256 e = exp_ps(_mm256_xor_ps(g, _mm256_set1_ps(-0.0f)));
    return _mm256_mul_ps(_mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1.0f), e)), u);
}

PR_INLINE __m256 add(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }

PR_INLINE __m256 mul(__m256 a, __m256 b) { return _mm256_mul_ps(a, b); }

void pr__avx2_silu_mul(const float *g, const float *u, uint32_t n, float *y) { map(silu_mul, g, u, n, y); }

void pr__avx2_add(const float *a, const float *b, uint32_t n, float *y) { map(add, a, b, n, y); }

void pr__avx2_mul(const float *a, const float *b, uint32_t n, float *y) { map(mul, a, b, n, y); }

void pr__avx2_scale(const float *a, float s, uint32_t n, float *y) {
    __m256 f = _mm256_set1_ps(s);
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_loadu_ps(a + i), f));
    }
    if (i < n) {
        __m256i mask = lanes_mask(n - i);
        _mm256_maskstore_ps(y + i, mask, _mm256_mul_ps(_mm256_maskload_ps(a + i, mask), f));
    }
}
