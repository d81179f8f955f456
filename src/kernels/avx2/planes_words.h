/*
 * Panels of 16-bit words times blocks of tokens, AVX2 and AVX-VNNI: for
 * weights of fp16, and with AVX2 for those of int8. Internal to
 * kernels/avx2/ and kernels/avxvnni/.
 *
 * A panel is, for each block, float scales[16], then words [16 pairs of
 * columns][16 rows][2]. A multiply-add of words does 16 products, where one of
 * floats does 8; nothing is made a float but a sum a block.
 */
#ifndef PRECIS_KERNELS_AVX2_PLANES_WORDS_H
#define PRECIS_KERNELS_AVX2_PLANES_WORDS_H

#include "kernels/avx2/planes.h"

enum { WORDS_TOKENS = 5, WORDS_BLOCK = 64 + 1024, WORDS_TILES = 2 };

/* sum + w * x: two products a dword. */
PR_INLINE __m256i dot_words(__m256i sum, __m256i w, __m256i x) {
#if defined(__AVXVNNI__)
    return _mm256_dpwssd_avx_epi32(sum, w, x);
#else
    return in_order(_mm256_add_epi32(sum, _mm256_madd_epi16(w, x)));
#endif
}

PR_INLINE const pr_qblock13 *q13_of(const uint8_t *x, size_t x_stride, int t) {
    return (const pr_qblock13 *)(const void *)(x + (size_t)t * x_stride);
}

/* A pair of columns, 16 rows, times all tokens; column: of the first of both, as blocks order them. */
PR_INLINE void dot_tokens(int tokens, __m256i w0, __m256i w1, const uint8_t *x, size_t x_stride, size_t column,
                          __m256i isum[][2]) {
    for (int t = 0; t < tokens; t++) {
        __m256i q = broadcast_4(q13_of(x, x_stride, t)->q + column);
        isum[t][0] = dot_words(isum[t][0], w0, q);
        isum[t][1] = dot_words(isum[t][1], w1, q);
    }
}

/* Sums of a block onto sums of rows. */
PR_INLINE void add_words(int tokens, __m256 scales0, __m256 scales1, const uint8_t *x, size_t x_stride,
                         __m256i isum[][2], __m256 acc[][2]) {
    for (int t = 0; t < tokens; t++) {
        __m256 d = _mm256_broadcast_ss(&q13_of(x, x_stride, t)->d);
        acc[t][0] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum[t][0]), _mm256_mul_ps(scales0, d), acc[t][0]);
        acc[t][1] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum[t][1]), _mm256_mul_ps(scales1, d), acc[t][1]);
    }
}

PR_INLINE void start_words(int tokens, bool first, const float *y, size_t y_stride, __m256 acc[][2]) {
    for (int t = 0; t < tokens; t++, y += y_stride) {
        acc[t][0] = first ? _mm256_setzero_ps() : _mm256_loadu_ps(y);
        acc[t][1] = first ? _mm256_setzero_ps() : _mm256_loadu_ps(y + 8);
    }
}

PR_INLINE void span_words_of(pr_plane level, int tokens, const pr__mm_span *s, uint32_t tile) {
    __m256 acc[WORDS_TOKENS][2];
    float *y = s->y + (size_t)tile * PR_TILE_ROWS;
    start_words(tokens, s->first, y, s->y_stride, acc);
    const uint8_t *panel = s->w + tile * s->w_stride, *x = s->x;
    for (uint32_t b = 0; b < s->n_units; b++, panel += WORDS_BLOCK, x += sizeof(pr_qblock13)) {
        if (s->soon) plane_prefetch(level, &s->soon[tile], b);
        __m256i isum[WORDS_TOKENS][2];
        for (int t = 0; t < tokens; t++) {
            isum[t][0] = isum[t][1] = _mm256_setzero_si256();
        }
        for (size_t g = 0, groups = (size_t)opaque(4); g < groups; g++) {
            const uint8_t *w = panel + 64 + 256 * g;
            for (size_t i = 0; i < 4; i++, w += 64) {
                dot_tokens(tokens, load_bytes(w), load_bytes(w + 32), x, s->x_stride, 8 * g + 2 * i, isum);
            }
        }
        const float *scales = (const float *)(const void *)panel;
        add_words(tokens, _mm256_load_ps(scales), _mm256_load_ps(scales + 8), x, s->x_stride, isum, acc);
    }
    for (int t = 0; t < tokens; t++, y += s->y_stride) {
        _mm256_storeu_ps(y, acc[t][0]);
        _mm256_storeu_ps(y + 8, acc[t][1]);
    }
}

/* Of pr_qblock13, whatever the order of their columns. Two tiles one after the other: the tokens' part of a run is fetched
 * once for both, which many tokens keep in the third-level cache. */
PR_INLINE void span_words(pr_plane level, const pr__mm_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    for (uint32_t tile = 0; tile < n_tiles; tile++) {
        switch (n_tokens) {
        case 1: span_words_of(level, 1, s, tile); break;
        case 2: span_words_of(level, 2, s, tile); break;
        case 3: span_words_of(level, 3, s, tile); break;
        case 4: span_words_of(level, 4, s, tile); break;
        case 5: span_words_of(level, 5, s, tile); break;
        }
    }
}

#endif
