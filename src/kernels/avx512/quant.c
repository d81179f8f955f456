/*
 * Activations to 8 bits, AVX-512: as in AVX2, a block that holds an infinity
 * or a NaN is found by its bit patterns and left to the scalar code.
 */
#include <float.h>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"
#include "kernels/scalar/scalar.h"

static void quant_block(const float *x, pr_qblock *out) {
    const __m512i no_sign = _mm512_set1_epi32(0x7fffffff);
    __m512 v0 = _mm512_loadu_ps(x), v1 = _mm512_loadu_ps(x + 16);
    __m512i most = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(v0), no_sign),
                                    _mm512_and_si512(_mm512_castps_si512(v1), no_sign));
    int32_t bits = _mm512_reduce_max_epi32(most);
    if (bits >= 0x7f800000) {
        pr__scalar_quant(x, PR_BLOCK, out);
        return;
    }
    float max;
    memcpy(&max, &bits, sizeof max);
    float d = max / 127.0f;
    if (d < FLT_MIN) {
        *out = (pr_qblock){0};
        return;
    }
    __m512 inv = _mm512_set1_ps(1.0f / d);
    __m512i q0 = _mm512_cvtps_epi32(_mm512_mul_ps(v0, inv)), q1 = _mm512_cvtps_epi32(_mm512_mul_ps(v1, inv));
    int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(q0, q1));
    out->d = d;
    out->ds = d * (float)sum;
    out->bias64 = -64 * sum;
    out->bias = -128 * sum;
    _mm_storeu_si128((__m128i *)(void *)out->q, _mm512_cvtepi32_epi8(q0));
    _mm_storeu_si128((__m128i *)(void *)(out->q + 16), _mm512_cvtepi32_epi8(q1));
}

void pr__avx512_quant(const float *x, uint32_t n, pr_qblock *out) {
    for (uint32_t b = 0; b < n / PR_BLOCK; b++) {
        quant_block(x + (size_t)b * PR_BLOCK, out + b);
    }
}
