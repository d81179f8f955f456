/*
 * Pack Q8 times 8-bit blocks, AVX-512 VNNI.
 *
 * dpbusd multiplies unsigned by signed bytes and adds four products to a
 * dword, which here is a row. Weights become unsigned by flipping their top
 * bit, that is by adding 128; what this adds to the sum is taken out for free
 * by starting from -128 times the block's sum of activations (x.bias).
 */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/blocks.h"

enum { W_BLOCK = PR_Q8_BLOCK_BYTES };

PR_INLINE void products(int tiles, int tokens, const pr__mm_span *s, const uint8_t *w, const uint8_t *x,
                        __m512i (*isum)[BLOCK_TOKENS]) {
    const __m512i flip = _mm512_set1_epi8(-128);
    start_biased(tiles, tokens, s, x, isum);
    for (int g = 0; g < 8; g++) {
        __m512i wg[2];
        for (int i = 0; i < tiles; i++) {
            wg[i] = _mm512_xor_si512(_mm512_loadu_si512(w + (size_t)i * s->w_stride + 32 + 64 * g), flip);
        }
        add_dots(tiles, tokens, s, x, g, wg, isum);
    }
}

PR_INLINE void add(int tiles, int tokens, const pr__mm_span *s, const uint8_t *w, const uint8_t *x,
                   __m512i (*isum)[BLOCK_TOKENS], __m512 (*acc)[BLOCK_TOKENS]) {
    for (int i = 0; i < tiles; i++) {
        __m512 d = load_f16(w + (size_t)i * s->w_stride);
        for (int t = 0; t < tokens; t++) {
            acc[i][t] = add_scaled(acc[i][t], isum[i][t], d, q8_at(x, s->x_stride, t)->d);
        }
    }
}

#include "kernels/avx512/mm_blocks.inc"

void pr__avx512_mm_q8_q8(const pr_mm_args *args) { multiply(args); }
