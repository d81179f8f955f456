/*
 * Pack Q4 times 8-bit blocks with 8 lanes: what the AVX2 and the AVX-VNNI body
 * share. Internal to kernels/.
 *
 * The includer defines before: dot(sum, w, x), which adds products of nibbles
 * and activations, and total(sum), the dwords of a block's sum.
 */
#ifndef PRECIS_KERNELS_AVX2_MM_Q4_H
#define PRECIS_KERNELS_AVX2_MM_Q4_H

#include "kernels/mm_walk.h"

enum { TOKENS = 4, SLICE = 32 };

PR_INLINE void span_of(int tokens, const pr__mm_span *s) {
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256 acc[TOKENS][2];
    for (int t = 0; t < tokens; t++) {
        const float *y = s->y + (size_t)t * s->y_stride;
        acc[t][0] = s->first ? _mm256_setzero_ps() : _mm256_loadu_ps(y);
        acc[t][1] = s->first ? _mm256_setzero_ps() : _mm256_loadu_ps(y + 8);
    }
    const uint8_t *w = s->w;
    for (size_t b = 0; b < s->n_units; b++, w += PR_Q4_BLOCK_BYTES) {
        prefetch(w + s->ahead, PR_Q4_BLOCK_BYTES);
        __m256i sum[TOKENS][2];
        for (int t = 0; t < tokens; t++) {
            sum[t][0] = sum[t][1] = _mm256_setzero_si256();
        }
        for (int g = 0, groups = tokens > 1 ? opaque(4) : 4; g < groups; g++) {
            __m256i w0 = _mm256_loadu_si256((const __m256i *)(const void *)(w + 64 + 64 * g));
            __m256i w1 = _mm256_loadu_si256((const __m256i *)(const void *)(w + 96 + 64 * g));
            __m256i lo0 = _mm256_and_si256(w0, nibble), hi0 = _mm256_and_si256(_mm256_srli_epi16(w0, 4), nibble);
            __m256i lo1 = _mm256_and_si256(w1, nibble), hi1 = _mm256_and_si256(_mm256_srli_epi16(w1, 4), nibble);
            for (int t = 0; t < tokens; t++) {
                const pr_qblock *x = (const pr_qblock *)(const void *)(s->x + (size_t)t * s->x_stride) + b;
                __m256i xlo = broadcast_4(x->q + 4 * g), xhi = broadcast_4(x->q + 16 + 4 * g);
                sum[t][0] = dot(sum[t][0], lo0, xlo);
                sum[t][1] = dot(sum[t][1], lo1, xlo);
                sum[t][0] = dot(sum[t][0], hi0, xhi);
                sum[t][1] = dot(sum[t][1], hi1, xhi);
            }
        }
        __m256 d0 = load_f16(w), d1 = load_f16(w + 16), m0 = load_f16(w + 32), m1 = load_f16(w + 48);
        for (int t = 0; t < tokens; t++) {
            const pr_qblock *x = (const pr_qblock *)(const void *)(s->x + (size_t)t * s->x_stride) + b;
            __m256 xd = _mm256_broadcast_ss(&x->d), ds = _mm256_broadcast_ss(&x->ds);
            __m256 i0 = _mm256_cvtepi32_ps(total(sum[t][0]));
            __m256 i1 = _mm256_cvtepi32_ps(total(sum[t][1]));
            acc[t][0] = _mm256_fmadd_ps(m0, ds, _mm256_fmadd_ps(i0, _mm256_mul_ps(d0, xd), acc[t][0]));
            acc[t][1] = _mm256_fmadd_ps(m1, ds, _mm256_fmadd_ps(i1, _mm256_mul_ps(d1, xd), acc[t][1]));
        }
    }
    for (int t = 0; t < tokens; t++) {
        float *y = s->y + (size_t)t * s->y_stride;
        _mm256_storeu_ps(y, acc[t][0]);
        _mm256_storeu_ps(y + 8, acc[t][1]);
    }
}

static void span_q4(const pr__mm_span *span, uint32_t n_tiles, uint32_t n_tokens) {
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
        .w_unit = PR_Q4_BLOCK_BYTES,
        .x_unit = sizeof(pr_qblock),
        .slice = SLICE,
        .tiles = 1,
        .tokens = TOKENS,
        .span = span_q4,
    };
    pr__mm_walk(args, &plan);
}

#endif
