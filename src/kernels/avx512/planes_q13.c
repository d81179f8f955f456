/*
 * Nested planes at fp16 times blocks of 13 bits, AVX-512 VNNI.
 *
 * The weights' integers have 15 bits and come two columns to a dword, as
 * vpdpwssd wants them: 32 products an instruction, where a float multiply-add
 * does 16. The sum of a block stays within 32 bits (kernels.h). Up to 8 tokens
 * decode in registers; more share a panel of decoded words.
 */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/blocks.h"
#include "kernels/avx512/planes.h"

enum { TOKENS_FEW = 8, TOKENS = 6, W_BLOCK = 64 + 1024, X_BLOCK = sizeof(pr_qblock13) };

PR_INLINE const pr_qblock13 *q13_at(const uint8_t *x, size_t x_stride, int t) {
    return (const pr_qblock13 *)(const void *)(x + (size_t)t * x_stride);
}

PR_INLINE void direct_of(int tokens, const pr__plane_span *s) {
    const plane_tables tables = plane_tables_of(PR_PLANE_P16, s->book, 0);
    const pickers p = pickers_of(s->book);
    const pr__plane_run at = s->at[0], soon = s->soon[0];
    __m512 acc[TOKENS_FEW];
    for (int t = 0; t < tokens; t++) {
        acc[t] = s->first ? _mm512_setzero_ps() : _mm512_loadu_ps(s->y + (size_t)t * s->y_stride);
    }
    const uint8_t *x = s->x;
    for (size_t b = 0; b < s->n_blocks; b++, x += X_BLOCK) {
        __m512i isum[TOKENS_FEW];
        plane_prefetch(PR_PLANE_P16, &soon, b);
        for (int t = 0; t < tokens; t++) {
            isum[t] = _mm512_setzero_si512();
        }
        for (size_t g = 0; g < 2; g++) {
            __m512i bytes[4];
            plane_bytes(PR_PLANE_P16, &tables, &at, b, g, bytes);
            for (size_t f = 0; f < 4; f++) {
                __m512i w[2];
                plane_words(&p, bytes[f], plane_low(&at, b, 4 * g + f), w);
                for (int t = 0; t < tokens; t++) {
                    const int16_t *q = q13_at(x, s->x_stride, t)->q + 16 * g + 4 * f;
                    isum[t] = _mm512_dpwssd_epi32(isum[t], w[0], broadcast_4(q));
                    isum[t] = _mm512_dpwssd_epi32(isum[t], w[1], broadcast_4(q + 2));
                }
            }
        }
        __m512 scales = plane_scales(&at, b);
        for (int t = 0; t < tokens; t++) {
            acc[t] = add_scaled(acc[t], isum[t], scales, q13_at(x, s->x_stride, t)->d);
        }
    }
    __m512 rows = plane_rows(s, 0);
    for (int t = 0; t < tokens; t++) {
        _mm512_storeu_ps(s->y + (size_t)t * s->y_stride, s->last ? _mm512_mul_ps(acc[t], rows) : acc[t]);
    }
}

/* One tile: the plan asks for no more. */
static void direct(const pr__plane_span *s, uint32_t n_tiles, uint32_t n_tokens) {
    (void)n_tiles;
    switch (n_tokens) {
    case 1: direct_of(1, s); break;
    case 2: direct_of(2, s); break;
    case 3: direct_of(3, s); break;
    case 4: direct_of(4, s); break;
    case 5: direct_of(5, s); break;
    case 6: direct_of(6, s); break;
    case 7: direct_of(7, s); break;
    case 8: direct_of(8, s); break;
    }
}

/* ---- by panel: for each block float scales[16], then words [16 pairs of columns][16 rows][2] ---- */

static void decode(const pr__plane_span *s, uint32_t i, uint8_t *panel) {
    const plane_tables tables = plane_tables_of(PR_PLANE_P16, s->book, 0);
    const pickers p = pickers_of(s->book);
    for (size_t b = 0; b < s->n_blocks; b++, panel += W_BLOCK) {
        _mm512_store_ps(panel, plane_scales(&s->at[i], b));
        for (size_t g = 0; g < 2; g++) {
            __m512i bytes[4];
            plane_bytes(PR_PLANE_P16, &tables, &s->at[i], b, g, bytes);
            for (size_t f = 0; f < 4; f++) {
                __m512i w[2];
                uint8_t *out = panel + 64 + 128 * (4 * g + f);
                plane_words(&p, bytes[f], plane_low(&s->at[i], b, 4 * g + f), w);
                _mm512_store_si512(out, w[0]);
                _mm512_store_si512(out + 64, w[1]);
            }
        }
    }
}

PR_INLINE void ask_ahead(int tiles, const pr__mm_span *s, const uint8_t *w, uint32_t b) {
    (void)w;
    for (int i = 0; i < tiles && s->soon; i++) {
        plane_prefetch(PR_PLANE_P16, &s->soon[i], b);
    }
}

PR_INLINE void products(int tiles, int tokens, const pr__mm_span *s, const uint8_t *w, const uint8_t *x,
                        __m512i (*isum)[BLOCK_TOKENS]) {
    start_zero(tiles, tokens, isum);
    for (size_t pair = 0; pair < 16; pair++) {
        __m512i wp[PR__PLANE_TILES];
        for (int i = 0; i < tiles; i++) {
            wp[i] = _mm512_load_si512(w + (size_t)i * s->w_stride + 64 + 64 * pair);
        }
        for (int t = 0; t < tokens; t++) {
            __m512i xp = broadcast_4(q13_at(x, s->x_stride, t)->q + 2 * pair);
            for (int i = 0; i < tiles; i++) {
                isum[i][t] = _mm512_dpwssd_epi32(isum[i][t], wp[i], xp);
            }
        }
    }
}

PR_INLINE void add(int tiles, int tokens, const pr__mm_span *s, const uint8_t *w, const uint8_t *x,
                   __m512i (*isum)[BLOCK_TOKENS], __m512 (*acc)[BLOCK_TOKENS]) {
    for (int i = 0; i < tiles; i++) {
        __m512 scales = _mm512_load_ps(w + (size_t)i * s->w_stride);
        for (int t = 0; t < tokens; t++) {
            acc[i][t] = add_scaled(acc[i][t], isum[i][t], scales, q13_at(x, s->x_stride, t)->d);
        }
    }
}

#include "kernels/avx512/blocks.inc"

void pr__avx512_planes_fp16_q13(const pr_plane_args *args) {
    static const pr__plane_plan plan = {
        .level = PR_PLANE_P16,
        .x_block = X_BLOCK,
        .tiles = 1,
        .tokens = TOKENS_FEW,
        .direct = direct,
        .panel_tiles = 2,
        .panel_tokens = TOKENS,
        .panel_block = W_BLOCK,
        .decode = decode,
        .span = span,
        .finish = plane_finish,
    };
    pr__planes_walk(args, &plan);
}
