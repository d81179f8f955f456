/*
 * Rotary position embedding of one head, AVX2: eight pairs at a time when the
 * halves of the head are the pairs, four when neighbours are.
 */
#include <math.h>

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"

static void rotate_one(float *pa, float *pb, const float *cs) {
    float a = *pa, b = *pb;
    *pa = fmaf(a, cs[0], -(b * cs[1]));
    *pb = fmaf(b, cs[0], a * cs[1]);
}

/* Even or odd elements of 16 floats. */
PR_INLINE __m256 every_second(__m256 lo, __m256 hi, bool odd) {
    __m256 mixed = odd ? _mm256_shuffle_ps(lo, hi, 0xdd) : _mm256_shuffle_ps(lo, hi, 0x88);
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8));
}

static void rope_halves(float *x, const float *cs, uint32_t n) {
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 lo = _mm256_loadu_ps(cs + 2 * i), hi = _mm256_loadu_ps(cs + 2 * i + 8);
        __m256 cos = every_second(lo, hi, false), sin = every_second(lo, hi, true);
        __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + n + i);
        _mm256_storeu_ps(x + i, _mm256_fmsub_ps(a, cos, _mm256_mul_ps(b, sin)));
        _mm256_storeu_ps(x + n + i, _mm256_fmadd_ps(b, cos, _mm256_mul_ps(a, sin)));
    }
    for (; i < n; i++) {
        rotate_one(x + i, x + n + i, cs + 2 * i);
    }
}

static void rope_neighbours(float *x, const float *cs, uint32_t n) {
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        __m256 v = _mm256_loadu_ps(x + 2 * i), c = _mm256_loadu_ps(cs + 2 * i);
        __m256 cos = _mm256_moveldup_ps(c), sin = _mm256_movehdup_ps(c);
        __m256 swapped = _mm256_permute_ps(v, 0xb1);
        _mm256_storeu_ps(x + 2 * i, _mm256_fmaddsub_ps(v, cos, _mm256_mul_ps(swapped, sin)));
    }
    for (; i < n; i++) {
        rotate_one(x + 2 * i, x + 2 * i + 1, cs + 2 * i);
    }
}

void pr__avx2_rope(float *x, const float *cs, uint32_t n_rot, bool neox) {
    if (neox) {
        rope_halves(x, cs, n_rot / 2);
    } else {
        rope_neighbours(x, cs, n_rot / 2);
    }
}
