/*
 * Walsh-Hadamard transform, AVX2: the three stages within a vector by swaps
 * and signs, the others between vectors of the row, which stays in the
 * first-level cache. Blocks below one vector are the scalar body's.
 */
#include <math.h>

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"
#include "kernels/scalar/scalar.h"

/* Lanes in the second place of a pair change their sign; `other` is x with the places swapped. */
PR_INLINE __m256 sum_and_difference(__m256 x, __m256 other, __m256 second) {
    return _mm256_add_ps(other, _mm256_xor_ps(x, second));
}

PR_INLINE __m256 within(__m256 x) {
    const float n = -0.0f;
    x = sum_and_difference(x, _mm256_permute_ps(x, 0xb1), _mm256_setr_ps(0, n, 0, n, 0, n, 0, n));
    x = sum_and_difference(x, _mm256_permute_ps(x, 0x4e), _mm256_setr_ps(0, 0, n, n, 0, 0, n, n));
    return sum_and_difference(x, _mm256_permute2f128_ps(x, x, 1), _mm256_setr_ps(0, 0, 0, 0, n, n, n, n));
}

static void block(float *x, uint32_t n) {
    for (uint32_t i = 0; i < n; i += 8) {
        _mm256_storeu_ps(x + i, within(_mm256_loadu_ps(x + i)));
    }
    for (uint32_t h = 8; h < n; h *= 2) {
        for (uint32_t i = 0; i < n; i += (i + 8) & h ? 8 + h : 8) {
            __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + h);
            _mm256_storeu_ps(x + i, _mm256_add_ps(a, b));
            _mm256_storeu_ps(x + i + h, _mm256_sub_ps(a, b));
        }
    }
    __m256 unit = _mm256_set1_ps(1.0f / sqrtf((float)n));
    for (uint32_t i = 0; i < n; i += 8) {
        _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), unit));
    }
}

void pr__avx2_hadamard(float *x, uint32_t n) {
    for (uint32_t size; n > 0; n -= size, x += size) {
        size = pr__hadamard_size(n);
        if (size < 8) {
            pr__scalar_hadamard(x, size);
        } else {
            block(x, size);
        }
    }
}
