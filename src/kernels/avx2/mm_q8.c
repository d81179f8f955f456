/*
 * Pack Q8 times 8-bit blocks, AVX2.
 *
 * maddubs multiplies unsigned by signed bytes, so the weight's sign moves over
 * to the activation: |w| * (x with the sign of w). Two products of up to
 * 128 * 127 just fit 16 bits (32512), so every pair is widened at once by a
 * madd with ones: four instructions for 32 products. Widening the weights to
 * 16 bits beforehand costs the same four, and twice the loads.
 */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"

typedef struct weights {
    __m256i w, magnitude;
} weights;

PR_INLINE weights weights_at(const uint8_t *p) {
    __m256i w = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return (weights){w, _mm256_abs_epi8(w)}; /* 128 stays right as an unsigned byte */
}

PR_INLINE __m256i start_of(const pr_qblock *x) { return (void)x, _mm256_setzero_si256(); }

PR_INLINE __m256i dot(__m256i sum, const weights *w, __m256i x) {
    __m256i pairs = _mm256_maddubs_epi16(w->magnitude, _mm256_sign_epi8(x, w->w));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#include "kernels/avx2/mm_q8.inc"

void pr__avx2_mm_q8_q8(const pr_mm_args *args) { multiply(args); }
