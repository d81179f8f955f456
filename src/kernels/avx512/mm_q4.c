/*
 * Pack Q4 times 8-bit blocks, AVX-512 VNNI: nibbles are unsigned bytes as
 * they stand, so dpbusd takes them after a mask and a shift.
 */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"
#include "kernels/mm_walk.h"

enum { TOKENS = 6, TOKENS_FEW = 12, SLICE = 32 };

PR_INLINE void span_of(int tiles, int tokens, const pr__mm_span *s) {
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512 acc[2][TOKENS_FEW];
    for (int i = 0; i < tiles; i++) {
        for (int t = 0; t < tokens; t++) {
            const float *y = s->y + (size_t)t * s->y_stride + i * PR_TILE_ROWS;
            acc[i][t] = s->first ? _mm512_setzero_ps() : _mm512_loadu_ps(y);
        }
    }
    const uint8_t *w = s->w, *x = s->x;
    for (uint32_t b = 0; b < s->n_units; b++, w += PR_Q4_BLOCK_BYTES, x += sizeof(pr_qblock)) {
        __m512i isum[2][TOKENS_FEW];
        for (int i = 0; i < tiles; i++) {
            prefetch(w + (size_t)i * s->w_stride + s->ahead, PR_Q4_BLOCK_BYTES);
            for (int t = 0; t < tokens; t++) {
                isum[i][t] = _mm512_setzero_si512();
            }
        }
        for (int g = 0; g < 4; g++) {
            __m512i lo[2], hi[2];
            for (int i = 0; i < tiles; i++) {
                __m512i both = _mm512_loadu_si512(w + (size_t)i * s->w_stride + 64 + 64 * g);
                lo[i] = _mm512_and_si512(both, nibble);
                hi[i] = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
            }
            for (int t = 0; t < tokens; t++) {
                const pr_qblock *xb = (const pr_qblock *)(const void *)(x + (size_t)t * s->x_stride);
                __m512i x_lo = broadcast_4(xb->q + 4 * g), x_hi = broadcast_4(xb->q + 16 + 4 * g);
                for (int i = 0; i < tiles; i++) {
                    isum[i][t] = _mm512_dpbusd_epi32(isum[i][t], lo[i], x_lo);
                    isum[i][t] = _mm512_dpbusd_epi32(isum[i][t], hi[i], x_hi);
                }
            }
        }
        for (int i = 0; i < tiles; i++) {
            __m512 d = load_f16(w + (size_t)i * s->w_stride), m = load_f16(w + (size_t)i * s->w_stride + 32);
            for (int t = 0; t < tokens; t++) {
                const pr_qblock *xb = (const pr_qblock *)(const void *)(x + (size_t)t * s->x_stride);
                __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(xb->d));
                acc[i][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(isum[i][t]), scale, acc[i][t]);
                acc[i][t] = _mm512_fmadd_ps(m, _mm512_set1_ps(xb->ds), acc[i][t]);
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

static void span_q4(const pr__mm_span *span, uint32_t n_tiles, uint32_t n_tokens) {
    if (n_tiles == 2) {
        span_tiles(2, span, n_tokens);
    } else {
        span_tiles(1, span, n_tokens);
    }
}

void pr__avx512_mm_q4_q8(const pr_mm_args *args) {
    pr__mm_plan plan = {
        .unit_cols = PR_BLOCK,
        .w_unit = PR_Q4_BLOCK_BYTES,
        .x_unit = sizeof(pr_qblock),
        .slice = SLICE,
        .tiles = 2,
        .tokens = TOKENS,
        .span = span_q4,
    };
    if (args->n_tokens <= TOKENS_FEW) {
        plan.tiles = 1;
        plan.tokens = TOKENS_FEW;
        plan.span = span_few;
    }
    pr__mm_walk(args, &plan);
}
