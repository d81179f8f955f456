/* Pack Q4 times 8-bit blocks, AVX-VNNI: a nibble is an unsigned byte as it stands. */
#include "kernels/avx2/simd.h"
#include "kernels/avxvnni/avxvnni.h"

PR_INLINE __m256i dot(__m256i sum, __m256i w, __m256i x) { return _mm256_dpbusd_avx_epi32(sum, w, x); }

PR_INLINE __m256i total(__m256i sum) { return sum; }

#include "kernels/avx2/mm_q4.inc"

void pr__avxvnni_mm_q4_q8(const pr_mm_args *args) { multiply(args); }
