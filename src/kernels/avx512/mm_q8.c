/*
 * Pack Q8 times 8-bit blocks, AVX-512 VNNI.
 *
 * dpbusd multiplies unsigned by signed bytes and adds four products to a
 * dword, which here is a row. Weights become unsigned by flipping their top
 * bit, that is by adding 128; what this adds to the sum is taken out for free
 * by starting from -128 times the block's sum of activations (x.bias).
 */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"
#include "kernels/mm_walk.h"

enum { TOKENS = 6, TOKENS_FEW = 12, SLICE = 32 };

PR_INLINE void span_of(int tiles, int tokens, const pr__mm_span *s) {
    const __m512i flip = _mm512_set1_epi8(-128);
    __m512 acc[2][TOKENS_FEW];
    for (int i = 0; i < tiles; i++) {
        for (int t = 0; t < tokens; t++) {
            const float *y = s->y + (size_t)t * s->y_stride + i * PR_TILE_ROWS;
            acc[i][t] = s->first ? _mm512_setzero_ps() : _mm512_loadu_ps(y);
        }
    }
    const uint8_t *w = s->w, *x = s->x;
    for (uint32_t b = 0; b < s->n_units; b++, w += PR_Q8_BLOCK_BYTES, x += sizeof(pr_qblock)) {
        __m512i isum[2][TOKENS_FEW];
        for (int t = 0; t < tokens; t++) {
            const pr_qblock *xb = (const pr_qblock *)(const void *)(x + (size_t)t * s->x_stride);
            for (int i = 0; i < tiles; i++) {
                isum[i][t] = _mm512_set1_epi32(xb->bias);
            }
        }
        for (int i = 0; i < tiles; i++) {
            prefetch(w + (size_t)i * s->w_stride + s->ahead, PR_Q8_BLOCK_BYTES);
        }
        for (int g = 0; g < 8; g++) {
            __m512i wg[2];
            for (int i = 0; i < tiles; i++) {
                wg[i] = _mm512_xor_si512(_mm512_loadu_si512(w + (size_t)i * s->w_stride + 32 + 64 * g), flip);
            }
            for (int t = 0; t < tokens; t++) {
                const pr_qblock *xb = (const pr_qblock *)(const void *)(x + (size_t)t * s->x_stride);
                __m512i xg = broadcast_4(xb->q + 4 * g);
                for (int i = 0; i < tiles; i++) {
                    isum[i][t] = _mm512_dpbusd_epi32(isum[i][t], wg[i], xg);
                }
            }
        }
        for (int i = 0; i < tiles; i++) {
            __m512 d = load_f16(w + (size_t)i * s->w_stride);
            for (int t = 0; t < tokens; t++) {
                const pr_qblock *xb = (const pr_qblock *)(const void *)(x + (size_t)t * s->x_stride);
                __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(xb->d));
                acc[i][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(isum[i][t]), scale, acc[i][t]);
            }
        }
    }
    for (int i = 0; i < tiles; i++) {
        for (int t = 0; t < tokens; t++) {
            _mm512_storeu_ps(s->y + (size_t)t * s->y_stride + i * PR_TILE_ROWS, acc[i][t]);
        }
    }
}

PR_INLINE void span_tiles(int tiles, const pr__mm_span *s, uint32_t n_tokens) {
    switch (n_tokens) {
    case 1: span_of(tiles, 1, s); break;
    case 2: span_of(tiles, 2, s); break;
    case 3: span_of(tiles, 3, s); break;
    case 4: span_of(tiles, 4, s); break;
    case 5: span_of(tiles, 5, s); break;
    case 6: span_of(tiles, 6, s); break;
    }
}

static void span_few(const pr__mm_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    (void)n_tiles; /* the plan asks for one */
    switch (n_tokens) {
    case 7: span_of(1, 7, s); break;
    case 8: span_of(1, 8, s); break;
    case 9: span_of(1, 9, s); break;
    case 10: span_of(1, 10, s); break;
    case 11: span_of(1, 11, s); break;
    case 12: span_of(1, 12, s); break;
    default: span_tiles(1, s, n_tokens); break;
    }
}

static void span_q8(const pr__mm_span *span, uint32_t n_tiles, uint32_t n_tokens) {
    if (n_tiles == 2) {
        span_tiles(2, span, n_tokens);
    } else {
        span_tiles(1, span, n_tokens);
    }
}

void pr__avx512_mm_q8_q8(const pr_mm_args *args) {
    pr__mm_plan plan = {
        .unit_cols = PR_BLOCK,
        .w_unit = PR_Q8_BLOCK_BYTES,
        .x_unit = sizeof(pr_qblock),
        .slice = SLICE,
        .tiles = 2,
        .tokens = TOKENS,
        .span = span_q8,
    };
    if (args->n_tokens <= TOKENS_FEW) {
        plan.tiles = 1;
        plan.tokens = TOKENS_FEW;
        plan.span = span_few;
    }
    pr__mm_walk(args, &plan);
}
