/*
 * Activations to 8 and to 13 bits, AVX-512: as in AVX2, a block that holds an infinity
 * or a NaN is found by its bit patterns and left to the scalar code.
 */
#include <float.h>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"
#include "kernels/scalar/scalar.h"

/* The block's numbers and the largest magnitude; false: one of them is none. */
PR_INLINE bool block_at(const float *x, __m512 v[2], float *max) {
    const __m512i no_sign = _mm512_set1_epi32(0x7fffffff);
    v[0] = _mm512_loadu_ps(x);
    v[1] = _mm512_loadu_ps(x + 16);
    __m512i most = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(v[0]), no_sign),
                                    _mm512_and_si512(_mm512_castps_si512(v[1]), no_sign));
    int32_t bits = _mm512_reduce_max_epi32(most);
    memcpy(max, &bits, sizeof *max);
    return bits < 0x7f800000;
}

PR_INLINE __m512i to_integers(__m512 v, float inv) { return _mm512_cvtps_epi32(_mm512_mul_ps(v, _mm512_set1_ps(inv))); }

static void quant_block(const float *x, pr_qblock *out) {
    __m512 v[2];
    float max;
    if (!block_at(x, v, &max)) {
        pr__scalar_quant(x, PR_BLOCK, out);
        return;
    }
    float d = max / 127.0f;
    if (d < FLT_MIN) {
        *out = (pr_qblock){0};
        return;
    }
    __m512i q0 = to_integers(v[0], 1.0f / d), q1 = to_integers(v[1], 1.0f / d);
    int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(q0, q1));
    out->d = d;
    out->ds = d * (float)sum;
    out->bias64 = -64 * sum;
    out->bias = -128 * sum;
    _mm_storeu_si128((__m128i *)(void *)out->q, _mm512_cvtepi32_epi8(q0));
    _mm_storeu_si128((__m128i *)(void *)(out->q + 16), _mm512_cvtepi32_epi8(q1));
}

static void quant13_block(const float *x, pr_qblock13 *out) {
    __m512 v[2];
    float max;
    if (!block_at(x, v, &max)) {
        pr__scalar_quant13(x, PR_BLOCK, out);
        return;
    }
    float d = max / (float)PR_Q13_MAX;
    if (d < FLT_MIN) {
        *out = (pr_qblock13){0};
        return;
    }
    enum { ORDER = 0xd8 /* of four dwords: 0, 2, 1, 3 */ };
    out->d = d;
    for (int i = 0; i < 2; i++) {
        __m512i q = _mm512_shuffle_epi32(to_integers(v[i], 1.0f / d), (_MM_PERM_ENUM)ORDER);
        _mm256_storeu_si256((__m256i *)(void *)(out->q + 16 * i), _mm512_cvtepi32_epi16(q));
    }
}

void pr__avx512_quant(const float *x, uint32_t n, pr_qblock *out) {
    for (uint32_t b = 0; b < n / PR_BLOCK; b++) {
        quant_block(x + (size_t)b * PR_BLOCK, out + b);
    }
}

void pr__avx512_quant13(const float *x, uint32_t n, pr_qblock13 *out) {
    for (uint32_t b = 0; b < n / PR_BLOCK; b++) {
        quant13_block(x + (size_t)b * PR_BLOCK, out + b);
    }
}
