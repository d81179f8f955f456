/* Loading KV pages, AVX-512: as in AVX2, with twice the lanes and masks for ends. Storing is no faster than in AVX2. */
#include "kernels/avx512/avx512.h"
#include "kernels/avx512/simd.h"
#include "kernels/kv_q4.h"
#include "tensor/dtype.h"

/* Slots 0..n-1 of 32, by halves. */
typedef struct slots {
    __mmask16 half[2];
} slots;

PR_INLINE slots slots_of(uint32_t n) { return (slots){{lanes_mask(n), n > 16 ? lanes_mask(n - 16) : 0}}; }

void pr__avx512_kv_load_k_f16(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const uint16_t *k = part;
    const slots there = slots_of(n);
    for (size_t i = 0; i < 2 * (size_t)head_dim; i++) {
        __m256i halves = _mm256_maskz_loadu_epi16(there.half[i % 2], k + 16 * i);
        _mm512_storeu_ps(out + 16 * i, _mm512_cvtph_ps(halves));
    }
}

void pr__avx512_kv_load_v_f16(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const uint16_t *v = part;
    for (uint32_t j = 0; j < n; j++, v += head_dim) {
        for (uint32_t d = 0; d < head_dim; d += 16, out += 16) {
            __m256i halves = _mm256_maskz_loadu_epi16(lanes_mask(head_dim - d), v + d);
            _mm512_storeu_ps(out, _mm512_cvtph_ps(halves));
        }
    }
}

/* Absent lanes are +0 whatever the scale is. */
PR_INLINE __m512 floats_of(__mmask16 there, __m128i bytes, __m512 scale) {
    return _mm512_maskz_mul_ps(there, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)), scale);
}

void pr__avx512_kv_load_k_q8(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const uint16_t *scales = part;
    const int8_t *k = (const int8_t *)(scales + PR_KV_TOKENS);
    const slots there = slots_of(n);
    const __m512 scale[2] = {load_f16(scales), load_f16(scales + 16)};
    for (size_t i = 0; i < 2 * (size_t)head_dim; i++) {
        __m128i bytes = _mm_maskz_loadu_epi8(there.half[i % 2], k + 16 * i);
        _mm512_storeu_ps(out + 16 * i, floats_of(there.half[i % 2], bytes, scale[i % 2]));
    }
}

void pr__avx512_kv_load_v_q8(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const uint16_t *scales = part;
    const int8_t *v = (const int8_t *)(scales + PR_KV_TOKENS);
    for (uint32_t j = 0; j < n; j++, v += head_dim) {
        __m512 scale = _mm512_set1_ps(pr_f16_to_f32(scales[j]));
        for (uint32_t d = 0; d < head_dim; d += 16, out += 16) {
            __mmask16 there = lanes_mask(head_dim - d);
            _mm512_storeu_ps(out, floats_of(there, _mm_maskz_loadu_epi8(there, v + d), scale));
        }
    }
}

/* One dimension of 32 tokens. */
PR_INLINE void put_tokens(__m256i bytes, const __m512 scale[2], const slots *there, float *out) {
    _mm512_storeu_ps(out, floats_of(there->half[0], _mm256_castsi256_si128(bytes), scale[0]));
    _mm512_storeu_ps(out + 16, floats_of(there->half[1], _mm256_extracti128_si256(bytes, 1), scale[1]));
}

void pr__avx512_kv_load_k_q4(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const uint16_t *scales = part;
    const uint8_t *k = (const uint8_t *)(scales + pr__q4_groups(head_dim) * PR_KV_TOKENS);
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)pr__q4_levels));
    const slots there = slots_of(n);
    __m512 scale[2] = {load_f16(scales), load_f16(scales + 16)};
    for (uint32_t d = 0; d < head_dim; d += 2, k += PR_KV_TOKENS, out += (size_t)2 * PR_KV_TOKENS) {
        if (d > 0 && d % PR__Q4_GROUP == 0) {
            scales += PR_KV_TOKENS;
            scale[0] = load_f16(scales);
            scale[1] = load_f16(scales + 16);
        }
        __m256i bytes = _mm256_loadu_si256((const __m256i *)(const void *)k);
        __m256i high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
        put_tokens(_mm256_shuffle_epi8(table, _mm256_and_si256(bytes, nibble)), scale, &there, out);
        if (d + 1 < head_dim) {
            put_tokens(_mm256_shuffle_epi8(table, high), scale, &there, out + PR_KV_TOKENS);
        }
    }
}

void pr__avx512_kv_load_v_q4(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const uint16_t *scales = part;
    size_t groups = pr__q4_groups(head_dim), pairs = pr__q4_pairs(head_dim);
    const uint8_t *v = (const uint8_t *)(scales + groups * PR_KV_TOKENS);
    const __m128i nibble = _mm_set1_epi8(15), table = _mm_loadu_si128((const void *)pr__q4_levels);
    for (uint32_t j = 0; j < n; j++, v += pairs, scales += groups) {
        for (uint32_t d = 0; d < head_dim; d += PR__Q4_GROUP) {
            __m512 scale = _mm512_set1_ps(pr_f16_to_f32(scales[d / PR__Q4_GROUP]));
            uint32_t left = head_dim - d;
            __m128i bytes = _mm_maskz_loadu_epi8(lanes_mask((left + 1) / 2), v + d / 2);
            __m128i low = _mm_shuffle_epi8(table, _mm_and_si128(bytes, nibble));
            __m128i high = _mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble));
            _mm512_storeu_ps(out, floats_of(lanes_mask(left), _mm_unpacklo_epi8(low, high), scale));
            out += 16;
            if (left > 16) {
                _mm512_storeu_ps(out, floats_of(lanes_mask(left - 16), _mm_unpackhi_epi8(low, high), scale));
                out += 16;
            }
        }
    }
}
