/* Decoding KV pages, AVX-512. Storing one token is a scatter, no faster than in AVX2. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"
#include "tensor/dtype.h"

void pr__avx512_kv_load_f16(const void *tile, uint32_t head_dim, uint32_t n, float *k, float *v) {
    const uint16_t *kt = tile, *vt = kt + (size_t)head_dim * PR_KV_TOKENS;
    const __mmask16 slots[2] = {lanes_mask(n), n > 16 ? lanes_mask(n - 16) : 0};
    for (size_t i = 0; i < 2 * (size_t)head_dim; i++) {
        __m256i halves = _mm256_maskz_loadu_epi16(slots[i % 2], kt + 16 * i);
        _mm512_storeu_ps(k + 16 * i, _mm512_cvtph_ps(halves));
    }
    for (uint32_t j = 0; j < n; j++, vt += head_dim) {
        for (uint32_t d = 0; d < head_dim; d += 16, v += 16) {
            __m256i halves = _mm256_maskz_loadu_epi16(lanes_mask(head_dim - d), vt + d);
            _mm512_storeu_ps(v, _mm512_cvtph_ps(halves));
        }
    }
}

/* Absent lanes are +0 whatever the scale is. */
PR_INLINE __m512 load_i8(__mmask16 there, const int8_t *p, __m512 scale) {
    __m512 q = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(there, p)));
    return _mm512_maskz_mul_ps(there, q, scale);
}

void pr__avx512_kv_load_q8(const void *tile, uint32_t head_dim, uint32_t n, float *k, float *v) {
    const uint16_t *kd = tile, *vd = kd + PR_KV_TOKENS;
    const int8_t *kt = (const int8_t *)(vd + PR_KV_TOKENS), *vt = kt + (size_t)head_dim * PR_KV_TOKENS;
    const __mmask16 slots[2] = {lanes_mask(n), n > 16 ? lanes_mask(n - 16) : 0};
    const __m512 scale[2] = {load_f16(kd), load_f16(kd + 16)};
    for (size_t i = 0; i < 2 * (size_t)head_dim; i++) {
        _mm512_storeu_ps(k + 16 * i, load_i8(slots[i % 2], kt + 16 * i, scale[i % 2]));
    }
    for (uint32_t j = 0; j < n; j++, vt += head_dim) {
        __m512 vs = _mm512_set1_ps(pr_f16_to_f32(vd[j]));
        for (uint32_t d = 0; d < head_dim; d += 16, v += 16) {
            _mm512_storeu_ps(v, load_i8(lanes_mask(head_dim - d), vt + d, vs));
        }
    }
}
