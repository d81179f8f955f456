/*
 * Nested planes times 8-bit blocks, AVX2.
 *
 * maddubs wants one side unsigned and its sums within 16 bits:
 *   int2   c2 + 16 is 0..32, so four products of pairs sum up (32 * 127 * 2 * 4 = 32512) before one madd
 *   int4   c4 + 64 is 0..128, where one is the limit (128 * 127 * 2 = 32512)
 *   int8   has no room for that, so the sign moves over to the activation, as for pack Q8
 */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/planes.h"

#define PR__PLANE_TOKENS 6

PR_INLINE int more_of(pr_plane level) { return level == PR_PLANE_P2 ? 16 : level == PR_PLANE_P4 ? 64 : 0; }

/* Where the sum of a block begins: -more_of(level) times the sum of its numbers. */
PR_INLINE __m256i start_of(pr_plane level, const pr_qblock *x) {
    if (level == PR_PLANE_P8) {
        return _mm256_setzero_si256();
    }
    __m256i start = _mm256_set1_epi32(x->bias64);
    return level == PR_PLANE_P2 ? _mm256_srai_epi32(start, 2) : start;
}

/* Add 16 columns of 8 rows times each token's numbers q[16] from column `column` of its block. */
PR_INLINE void dot(pr_plane level, int tokens, const __m256i w[4], const uint8_t *x, size_t x_stride, size_t column,
                   __m256i isum[]) {
    const __m256i ones = _mm256_set1_epi16(1);
    if (level == PR_PLANE_P2) {
        for (int t = 0; t < tokens; t++) {
            const int8_t *q = block_of(x, x_stride, t)->q + column;
            __m256i s0 = _mm256_add_epi16(_mm256_maddubs_epi16(w[0], broadcast_4(q)),
                                          _mm256_maddubs_epi16(w[1], broadcast_4(q + 4)));
            __m256i s1 = _mm256_add_epi16(_mm256_maddubs_epi16(w[2], broadcast_4(q + 8)),
                                          _mm256_maddubs_epi16(w[3], broadcast_4(q + 12)));
            isum[t] = _mm256_add_epi32(isum[t], _mm256_madd_epi16(_mm256_add_epi16(s0, s1), ones));
        }
        return;
    }
    for (int f = 0; f < 4; f++) {
        __m256i magnitude = level == PR_PLANE_P4 ? w[f] : _mm256_abs_epi8(w[f]);
        for (int t = 0; t < tokens; t++) {
            __m256i q = broadcast_4(block_of(x, x_stride, t)->q + column + 4 * f);
            q = level == PR_PLANE_P4 ? q : _mm256_sign_epi8(q, w[f]);
            isum[t] = _mm256_add_epi32(isum[t], _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, q), ones));
        }
    }
}

#include "kernels/avx2/planes_q8.inc"

void pr__avx2_planes_int2_q8(const pr_plane_args *args) { planes_int2(args); }
void pr__avx2_planes_int4_q8(const pr_plane_args *args) { planes_int4(args); }
void pr__avx2_planes_int8_q8(const pr_plane_args *args) { planes_int8(args); }
