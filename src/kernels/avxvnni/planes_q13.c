/* Nested planes at fp16 times blocks of 13 bits, AVX-VNNI: vpdpwssd adds both products to the sum at once. */
#include "kernels/avx2/simd.h"
#include "kernels/avxvnni/avxvnni.h"

PR_INLINE __m256i dot(__m256i sum, __m256i w, __m256i x) { return _mm256_dpwssd_avx_epi32(sum, w, x); }

#include "kernels/avx2/planes_q13.inc"

void pr__avxvnni_planes_fp16_q13(const pr_plane_args *args) { planes_fp16(args); }
