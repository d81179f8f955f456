/*
 * Pack Q4 times 8-bit blocks, AVX2.
 *
 * A nibble is an unsigned byte of at most 15, so eight products of pairs sum
 * up within 16 bits (15 * 127 * 2 * 8 = 30480): one block of 32 columns takes
 * eight maddubs, seven 16-bit adds and a single madd for each 8 rows.
 */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"

PR_INLINE __m256i dot(__m256i sum, __m256i w, __m256i x) { return _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x)); }

PR_INLINE __m256i total(__m256i sum) { return _mm256_madd_epi16(sum, _mm256_set1_epi16(1)); }

#include "kernels/avx2/mm_q4.inc"

void pr__avx2_mm_q4_q8(const pr_mm_args *args) { multiply(args); }
