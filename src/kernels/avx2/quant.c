/*
 * Activations to 8 bits, AVX2.
 *
 * The largest magnitude is found on bit patterns, where infinity and NaN stand
 * above every number: one comparison sends a block that holds any of them to
 * the scalar code, which mends it.
 */
#include <float.h>

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"
#include "kernels/scalar/scalar.h"

static void quant_block(const float *x, pr_qblock *out) {
    __m256 v[4];
    __m256i most = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        most = _mm256_max_epi32(most, magnitude(v[i]));
    }
    int32_t bits = max_of_epi32(most);
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
    __m256 inv = _mm256_set1_ps(1.0f / d);
    __m256i q[4];
    for (int i = 0; i < 4; i++) {
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inv));
    }
    int32_t sum = sum_of_epi32(_mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3])));
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)); /* packs works in halves */
    out->d = d;
    out->ds = d * (float)sum;
    out->bias64 = -64 * sum;
    out->bias = -128 * sum;
    _mm256_storeu_si256((__m256i *)(void *)out->q, bytes);
}

void pr__avx2_quant(const float *x, uint32_t n, pr_qblock *out) {
    for (uint32_t b = 0; b < n / PR_BLOCK; b++) {
        quant_block(x + (size_t)b * PR_BLOCK, out + b);
    }
}
