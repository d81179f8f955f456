/* Nested planes at fp16 times blocks of 13 bits, AVX2. */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"

/* Additions in this order: compilers take the freedom to add up products first, and run out of registers for them. */
PR_INLINE __m256i dot(__m256i sum, __m256i w, __m256i x) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(w, x));
    __asm__("" : "+x"(sum));
    return sum;
}

#include "kernels/avx2/planes_q13.inc"

void pr__avx2_planes_fp16_q13(const pr_plane_args *args) { planes_fp16(args); }
