/*
 * Activations to 8 and to 13 bits, AVX2.
 *
 * The largest magnitude is found on bit patterns, where infinity and NaN stand
 * above every number: one comparison sends a block that holds any of them to
 * the scalar code, which mends it.
 */
#include <float.h>
#include <stdbool.h>

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"
#include "kernels/scalar/scalar.h"

/* The block's numbers and the largest magnitude; false: one of them is none. */
PR_INLINE bool block_at(const float *x, __m256 v[4], float *max) {
    __m256i most = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        most = _mm256_max_epi32(most, magnitude(v[i]));
    }
    int32_t bits = max_of_epi32(most);
    memcpy(max, &bits, sizeof *max);
    return bits < 0x7f800000;
}

PR_INLINE void to_integers(const __m256 v[4], float d, __m256i q[4]) {
    __m256 inv = _mm256_set1_ps(1.0f / d);
    for (int i = 0; i < 4; i++) {
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inv));
    }
}

static void quant_block(const float *x, pr_qblock *out) {
    __m256 v[4];
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
    __m256i q[4];
    to_integers(v, d, q);
    int32_t sum = sum_of_epi32(_mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3])));
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)); /* packs works in halves */
    out->d = d;
    out->ds = d * (float)sum;
    out->bias64 = -64 * sum;
    out->bias = -128 * sum;
    _mm256_storeu_si256((__m256i *)(void *)out->q, bytes);
}

static void quant13_block(const float *x, pr_qblock13 *out) {
    __m256 v[4];
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
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, /* 0, 2, 1, 3 */
                                           0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    enum { QUARTERS = 0xd8 /* packs works in halves */ };
    __m256i q[4];
    to_integers(v, d, q);
    out->d = d;
    for (int i = 0; i < 2; i++) {
        __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(q[2 * i], q[2 * i + 1]), QUARTERS);
        _mm256_storeu_si256((__m256i *)(void *)(out->q + 16 * i), _mm256_shuffle_epi8(words, order));
    }
}

void pr__avx2_quant(const float *x, uint32_t n, pr_qblock *out) {
    for (uint32_t b = 0; b < n / PR_BLOCK; b++) {
        quant_block(x + (size_t)b * PR_BLOCK, out + b);
    }
}

void pr__avx2_quant13(const float *x, uint32_t n, pr_qblock13 *out) {
    for (uint32_t b = 0; b < n / PR_BLOCK; b++) {
        quant13_block(x + (size_t)b * PR_BLOCK, out + b);
    }
}
