/*
 * Pack Q4 times 8-bit blocks, AVX-512 VNNI: nibbles are unsigned bytes as
 * they stand, so dpbusd takes them after a mask and a shift.
 */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/blocks.h"

enum { W_BLOCK = PR_Q4_BLOCK_BYTES };

PR_INLINE void products(int tiles, int tokens, const pr__mm_span *s, const uint8_t *w, const uint8_t *x,
                        __m512i (*isum)[BLOCK_TOKENS]) {
    const __m512i nibble = _mm512_set1_epi8(15);
    start_zero(tiles, tokens, isum);
    for (int g = 0; g < 4; g++) {
        __m512i lo[2], hi[2];
        for (int i = 0; i < tiles; i++) {
            __m512i both = _mm512_loadu_si512(w + (size_t)i * s->w_stride + 64 + 64 * g);
            lo[i] = _mm512_and_si512(both, nibble);
            hi[i] = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
        }
        for (int t = 0; t < tokens; t++) {
            const pr_qblock *xb = q8_at(x, s->x_stride, t);
            __m512i x_lo = broadcast_4(xb->q + 4 * g), x_hi = broadcast_4(xb->q + 16 + 4 * g);
            for (int i = 0; i < tiles; i++) {
                isum[i][t] = _mm512_dpbusd_epi32(isum[i][t], lo[i], x_lo);
                isum[i][t] = _mm512_dpbusd_epi32(isum[i][t], hi[i], x_hi);
            }
        }
    }
}

PR_INLINE void add(int tiles, int tokens, const pr__mm_span *s, const uint8_t *w, const uint8_t *x,
                   __m512i (*isum)[BLOCK_TOKENS], __m512 (*acc)[BLOCK_TOKENS]) {
    for (int i = 0; i < tiles; i++) {
        __m512 d = load_f16(w + (size_t)i * s->w_stride), m = load_f16(w + (size_t)i * s->w_stride + 32);
        for (int t = 0; t < tokens; t++) {
            const pr_qblock *xb = q8_at(x, s->x_stride, t);
            acc[i][t] = add_scaled(acc[i][t], isum[i][t], d, xb->d);
            acc[i][t] = _mm512_fmadd_ps(m, _mm512_set1_ps(xb->ds), acc[i][t]);
        }
    }
}

#include "kernels/avx512/mm_blocks.inc"

void pr__avx512_mm_q4_q8(const pr_mm_args *args) { multiply(args); }
