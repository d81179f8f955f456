/*
 * Small vector helpers of the AVX-512 bodies. Internal to kernels/avx512/.
 *
 * As in AVX2, bodies are functions with constant parameters, forced inline
 * into a switch of literals.
 */
#ifndef PRECIS_KERNELS_AVX512_SIMD_H
#define PRECIS_KERNELS_AVX512_SIMD_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/exp.h"

#define PR_INLINE static inline __attribute__((always_inline))

/* Ask for the cache lines of n bytes at p. p may lie outside of any object. */
PR_INLINE void prefetch(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i += 64) {
        _mm_prefetch((const char *)p + i, _MM_HINT_T0);
    }
}

/* Lanes 0..n-1, for n up to 16 and above. */
PR_INLINE __mmask16 lanes_mask(uint32_t n) { return (__mmask16)(n < 16 ? (1u << n) - 1 : 0xffffu); }

PR_INLINE __m512 load_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }

PR_INLINE __m512 load_bf16(const void *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}

/* 4 bytes to all dword lanes. */
PR_INLINE __m512i broadcast_4(const void *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}

/* pr_expf() of each lane. */
PR_INLINE __m512 exp_ps(__m512 x) {
    const __m512 lo = _mm512_set1_ps(pr__exp_lo), magic = _mm512_set1_ps(pr__exp_magic);
    __mmask16 in_range = _mm512_cmp_ps_mask(x, lo, _CMP_GE_OQ);
    x = _mm512_min_ps(_mm512_max_ps(x, lo), _mm512_set1_ps(pr__exp_hi)); /* a NaN becomes lo, and is masked below */
    __m512 t = _mm512_fmadd_ps(x, _mm512_set1_ps(pr__exp_log2e), magic);
    __m512 n = _mm512_sub_ps(t, magic);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(pr__exp_ln2_hi), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(pr__exp_ln2_lo), r);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(pr__exp_c6), r, _mm512_set1_ps(pr__exp_c5));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(pr__exp_c4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(pr__exp_c3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(pr__exp_c2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
    return _mm512_castsi512_ps(_mm512_maskz_add_epi32(in_range, _mm512_castps_si512(p), exponent));
}

/* The tree of a sum16. */
PR_INLINE float sum16(__m512 v) {
    __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

PR_INLINE float max_of(__m512 v) {
    __m256 m8 = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps(m8, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

#endif
