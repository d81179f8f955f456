/*
 * Small vector helpers of the AVX2 bodies. Internal to kernels/avx2/.
 *
 * Bodies are functions with constant parameters, forced inline into a switch
 * of literals, so that the compiler unrolls them and keeps their arrays in
 * registers: templates without macros.
 */
#ifndef PRECIS_KERNELS_AVX2_SIMD_H
#define PRECIS_KERNELS_AVX2_SIMD_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/exp.h"

#define PR_INLINE static inline __attribute__((always_inline))

/* n, but the compiler does not know it: a loop to here is not unrolled. Whole blocks in one piece overflow the 16
 * registers, and the compilers then spill in the middle of the inner loop. */
PR_INLINE int opaque(int n) {
    __asm__("" : "+r"(n));
    return n;
}

/* p; an analyzer that forgets how far what it points at was filled sees no further. */
PR_INLINE const uint8_t *opaque_at(const void *p) {
    __asm__("" : "+r"(p));
    return p;
}

/* Here both are in registers, whatever else the compiler would rather keep there. */
PR_INLINE void in_registers(__m256 *a, __m256 *b) { __asm__("" : "+x"(*a), "+x"(*b)); }

/* An integer sum as it stands: compilers are free to add up products first, and run out of registers for them. */
PR_INLINE __m256i in_order(__m256i sum) {
    __asm__("" : "+x"(sum));
    return sum;
}

/* Ask for the cache lines of n bytes at p. p may lie outside of any object. */
PR_INLINE void prefetch(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i += 64) {
        _mm_prefetch((const char *)p + i, _MM_HINT_T0);
    }
}

/* Lanes 0..n-1 set, n in 0..8. */
PR_INLINE __m256i lanes_mask(uint32_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

PR_INLINE __m256 load_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }

PR_INLINE __m256 load_bf16(const void *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}

/* 4 bytes to all dword lanes. */
PR_INLINE __m256i broadcast_4(const void *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

/* pr_expf() of each lane. */
PR_INLINE __m256 exp_ps(__m256 x) {
    const __m256 lo = _mm256_set1_ps(pr__exp_lo), magic = _mm256_set1_ps(pr__exp_magic);
    __m256 in_range = _mm256_cmp_ps(x, lo, _CMP_GE_OQ);
    x = _mm256_min_ps(_mm256_max_ps(x, lo), _mm256_set1_ps(pr__exp_hi)); /* a NaN becomes lo, and is masked below */
    __m256 t = _mm256_fmadd_ps(x, _mm256_set1_ps(pr__exp_log2e), magic);
    __m256 n = _mm256_sub_ps(t, magic);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(pr__exp_ln2_hi), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(pr__exp_ln2_lo), r);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(pr__exp_c6), r, _mm256_set1_ps(pr__exp_c5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(pr__exp_c4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(pr__exp_c3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(pr__exp_c2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    __m256i bits = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(t), 23));
    return _mm256_and_ps(_mm256_castsi256_ps(bits), in_range);
}

/* The tree of a sum16: lanes of a are partials 0..7, of b 8..15. */
PR_INLINE float sum16(__m256 a, __m256 b) {
    __m256 s8 = _mm256_add_ps(a, b);
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

PR_INLINE float max_of(__m256 v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

/* Largest dword, as signed. */
PR_INLINE int32_t max_of_epi32(__m256i v) {
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
}

PR_INLINE int32_t sum_of_epi32(__m256i v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* Bits of |x|: they order as the numbers do, infinity and NaN on top. */
PR_INLINE __m256i magnitude(__m256 x) {
    return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
}

#endif
