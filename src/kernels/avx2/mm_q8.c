/*
 * Pack Q8 times 8-bit blocks, AVX2.
 *
 * maddubs multiplies unsigned by signed bytes, so the weight's sign moves over
 * to the activation: |w| * (x with the sign of w). Two products of up to
 * 128 * 127 just fit 16 bits (32512), so every pair is widened at once by a
 * madd with ones: four instructions for 32 products. Widening the weights to
 * 16 bits beforehand costs the same four, and twice the loads.
 */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"
#include "kernels/mm_walk.h"

enum { TOKENS = 4, SLICE = 24 };

PR_INLINE void span_of(int tokens, const pr__mm_span *s) {
    const __m256i ones = _mm256_set1_epi16(1);
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
            isum[t][0] = isum[t][1] = _mm256_setzero_si256();
        }
        for (int g = 0, groups = tokens > 1 ? opaque(8) : 8; g < groups; g++) {
            __m256i w0 = _mm256_loadu_si256((const __m256i *)(const void *)(w + 32 + 64 * g));
            __m256i w1 = _mm256_loadu_si256((const __m256i *)(const void *)(w + 64 + 64 * g));
            __m256i a0 = _mm256_abs_epi8(w0), a1 = _mm256_abs_epi8(w1); /* 128 stays right as an unsigned byte */
            for (int t = 0; t < tokens; t++) {
                const pr_qblock *x = (const pr_qblock *)(const void *)(s->x + (size_t)t * s->x_stride) + b;
                __m256i xs = broadcast_4(x->q + 4 * g);
                __m256i p0 = _mm256_maddubs_epi16(a0, _mm256_sign_epi8(xs, w0));
                __m256i p1 = _mm256_maddubs_epi16(a1, _mm256_sign_epi8(xs, w1));
                isum[t][0] = _mm256_add_epi32(isum[t][0], _mm256_madd_epi16(p0, ones));
                isum[t][1] = _mm256_add_epi32(isum[t][1], _mm256_madd_epi16(p1, ones));
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

void pr__avx2_mm_q8_q8(const pr_mm_args *args) {
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
