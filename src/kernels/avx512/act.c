/* The gated activation, AVX-512. Sums and products wait for memory whatever the width: those are AVX2's. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"

void pr__avx512_silu_mul(const float *g, const float *u, uint32_t n, float *y) {
    const __m512 one = _mm512_set1_ps(1.0f), minus = _mm512_set1_ps(-0.0f);
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 there = lanes_mask(n - i);
        __m512 gi = _mm512_maskz_loadu_ps(there, g + i), ui = _mm512_maskz_loadu_ps(there, u + i);
        __m512 e = exp_ps(_mm512_xor_ps(gi, minus));
        _mm512_mask_storeu_ps(y + i, there, _mm512_mul_ps(_mm512_div_ps(gi, _mm512_add_ps(one, e)), ui));
    }
}
