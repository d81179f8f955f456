/*
 * Pack Q8 times 8-bit blocks, AVX-VNNI.
 *
 * vpdpbusd wants unsigned weights: 128 is added to each, and sums start from
 * x.bias.
 */
#include "kernels/avx2/simd.h"
#include "kernels/avxvnni/avxvnni.h"

typedef struct weights {
    __m256i plus_128;
} weights;

PR_INLINE weights weights_at(const uint8_t *p) {
    __m256i w = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return (weights){_mm256_xor_si256(w, _mm256_set1_epi8(-128))};
}

PR_INLINE __m256i start_of(const pr_qblock *x) { return _mm256_set1_epi32(x->bias); }

PR_INLINE __m256i dot(__m256i sum, const weights *w, __m256i x) { return _mm256_dpbusd_avx_epi32(sum, w->plus_128, x); }

#include "kernels/avx2/mm_q8.inc"

void pr__avxvnni_mm_q8_q8(const pr_mm_args *args) { multiply(args); }
