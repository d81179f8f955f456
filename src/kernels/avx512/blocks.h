/*
 * Parts of integer products over blocks of 32 columns, AVX-512. Internal to
 * kernels/avx512/.
 */
#ifndef PRECIS_KERNELS_AVX512_BLOCKS_H
#define PRECIS_KERNELS_AVX512_BLOCKS_H

#include "kernels/avx512/simd.h"
#include "kernels/mm_walk.h"

enum { BLOCK_TOKENS = 12 }; /* at most in a span */

/* The block of token t that x is for token 0. */
PR_INLINE const pr_qblock *q8_at(const uint8_t *x, size_t x_stride, int t) {
    return (const pr_qblock *)(const void *)(x + (size_t)t * x_stride);
}

/* acc + sums * (scales * d). */
PR_INLINE __m512 add_scaled(__m512 acc, __m512i sums, __m512 scales, float d) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), _mm512_mul_ps(scales, _mm512_set1_ps(d)), acc);
}

PR_INLINE void start_zero(int tiles, int tokens, __m512i (*isum)[BLOCK_TOKENS]) {
    for (int i = 0; i < tiles; i++) {
        for (int t = 0; t < tokens; t++) {
            isum[i][t] = _mm512_setzero_si512();
        }
    }
}

/* For weights that are 128 too large. */
PR_INLINE void start_biased(int tiles, int tokens, const pr__mm_span *s, const uint8_t *x,
                            __m512i (*isum)[BLOCK_TOKENS]) {
    for (int t = 0; t < tokens; t++) {
        for (int i = 0; i < tiles; i++) {
            isum[i][t] = _mm512_set1_epi32(q8_at(x, s->x_stride, t)->bias);
        }
    }
}

/* Columns 4g .. 4g + 3 of the block, w[tiles] being unsigned bytes. */
PR_INLINE void add_dots(int tiles, int tokens, const pr__mm_span *s, const uint8_t *x, int g, const __m512i *w,
                        __m512i (*isum)[BLOCK_TOKENS]) {
    for (int t = 0; t < tokens; t++) {
        __m512i xg = broadcast_4(q8_at(x, s->x_stride, t)->q + 4 * g);
        for (int i = 0; i < tiles; i++) {
            isum[i][t] = _mm512_dpbusd_epi32(isum[i][t], w[i], xg);
        }
    }
}

#endif
