/*
 * Pack Q8 times 8-bit blocks with 8 lanes: what the AVX2 and the AVX-VNNI body
 * share. Internal to kernels/.
 *
 * The includer defines before: the type weights, 4 columns of 8 rows as its
 * instructions want them, weights_at(p); start_of(x), where the sum of a block
 * begins; and dot(sum, weights, x), which adds their products.
 */
#ifndef PRECIS_KERNELS_AVX2_MM_Q8_H
#define PRECIS_KERNELS_AVX2_MM_Q8_H

#include "kernels/mm_walk.h"

enum { TOKENS = 4, SLICE = 24 };

PR_INLINE void span_of(int tokens, const pr__mm_span *s) {
    __m256 acc[TOKENS][2];
    for (int t = 0; t < tokens; t++) {
        const float *y = s->y + (size_t)t * s->y_stride;
        acc[t][0] = s->first ? _mm256_setzero_ps() : _mm256_loadu_ps(y);
        acc[t][1] = s->first ? _mm256_setzero_ps() : _mm256_loadu_ps(y + 8);
    }
    const uint8_t *w = s->w;
    for (size_t b = 0; b < s->n_units; b++, w += PR_Q8_BLOCK_BYTES) {
        prefetch(w + s->ahead, PR_Q8_BLOCK_BYTES);
        __m256i isum[TOKENS][2];
        for (int t = 0; t < tokens; t++) {
            const pr_qblock *x = (const pr_qblock *)(const void *)(s->x + (size_t)t * s->x_stride) + b;
            isum[t][0] = isum[t][1] = start_of(x);
        }
        for (int g = 0, groups = tokens > 1 ? opaque(8) : 8; g < groups; g++) {
            weights w0 = weights_at(w + 32 + 64 * g), w1 = weights_at(w + 64 + 64 * g);
            for (int t = 0; t < tokens; t++) {
                const pr_qblock *x = (const pr_qblock *)(const void *)(s->x + (size_t)t * s->x_stride) + b;
                __m256i xs = broadcast_4(x->q + 4 * g);
                isum[t][0] = dot(isum[t][0], &w0, xs);
                isum[t][1] = dot(isum[t][1], &w1, xs);
            }
        }
        __m256 d0 = load_f16(w), d1 = load_f16(w + 16);
        for (int t = 0; t < tokens; t++) {
            const pr_qblock *x = (const pr_qblock *)(const void *)(s->x + (size_t)t * s->x_stride) + b;
            __m256 xd = _mm256_broadcast_ss(&x->d);
            acc[t][0] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum[t][0]), _mm256_mul_ps(d0, xd), acc[t][0]);
            acc[t][1] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum[t][1]), _mm256_mul_ps(d1, xd), acc[t][1]);
        }
    }
    for (int t = 0; t < tokens; t++) {
        float *y = s->y + (size_t)t * s->y_stride;
        _mm256_storeu_ps(y, acc[t][0]);
        _mm256_storeu_ps(y + 8, acc[t][1]);
    }
}

static void span_q8(const pr__mm_span *span, uint32_t n_tiles, uint32_t n_tokens) {
    (void)n_tiles; /* the plan asks for one */
    switch (n_tokens) {
    case 1: span_of(1, span); break;
    case 2: span_of(2, span); break;
    case 3: span_of(3, span); break;
    case 4: span_of(4, span); break;
    }
}

static void multiply(const pr_mm_args *args) {
    static const pr__mm_plan plan = {
        .unit_cols = PR_BLOCK,
        .w_unit = PR_Q8_BLOCK_BYTES,
        .x_unit = sizeof(pr_qblock),
        .slice = SLICE,
        .tiles = 1,
        .tokens = TOKENS,
        .span = span_q8,
    };
    pr__mm_walk(args, &plan);
}

#endif
