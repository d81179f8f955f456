/*
 * KV pages, AVX2. Storing one token scatters its key over head_dim cells, so
 * only the conversion is vectors; loading is wide in both parts.
 */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"
#include "kernels/scalar/scalar.h"

static uint32_t part_of_8(uint32_t left) { return left < 8 ? left : 8; }

void pr__avx2_kv_store_f16(void *tile, uint32_t head_dim, uint32_t j, const float *k, const float *v) {
    uint16_t *kt = (uint16_t *)tile + j, *vt = (uint16_t *)tile + (size_t)head_dim * (PR_KV_TOKENS + j);
    for (uint32_t d = 0; d < head_dim; d += 8) {
        uint32_t n = part_of_8(head_dim - d);
        __m256i mask = lanes_mask(n);
        uint16_t halves[8];
        _mm_storeu_si128((__m128i *)(void *)halves, _mm256_cvtps_ph(_mm256_maskload_ps(k + d, mask), 0));
        for (uint32_t i = 0; i < n; i++) {
            kt[(size_t)(d + i) * PR_KV_TOKENS] = halves[i];
        }
        _mm_storeu_si128((__m128i *)(void *)halves, _mm256_cvtps_ph(_mm256_maskload_ps(v + d, mask), 0));
        memcpy(vt + d, halves, n * sizeof halves[0]);
    }
}

static int32_t largest(const float *x, uint32_t n) {
    __m256i most = _mm256_setzero_si256();
    for (uint32_t i = 0; i < n; i += 8) {
        most = _mm256_max_epi32(most, magnitude(_mm256_maskload_ps(x + i, lanes_mask(part_of_8(n - i)))));
    }
    return max_of_epi32(most);
}

/* The scale for numbers whose largest magnitude has these bits. */
static uint16_t scale_for(int32_t bits) {
    float max;
    memcpy(&max, &bits, sizeof max);
    float d = max / 127.0f;
    return pr_f32_to_f16(d < 65504.0f ? d : 65504.0f);
}

/* Round x[n] by 1/d to bytes `step` apart. */
static void round_q8(const float *x, uint32_t n, uint16_t half, int8_t *q, size_t step) {
    float d = pr_f16_to_f32(half);
    __m256 inv = _mm256_set1_ps(d == 0.0f ? 0.0f : 1.0f / d);
    const __m256 lo = _mm256_set1_ps(-127.0f), hi = _mm256_set1_ps(127.0f);
    for (uint32_t i = 0; i < n; i += 8) {
        uint32_t m = part_of_8(n - i);
        __m256 v = _mm256_mul_ps(_mm256_maskload_ps(x + i, lanes_mask(m)), inv);
        int32_t ints[8];
        _mm256_storeu_si256((__m256i *)(void *)ints, _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(v, lo), hi)));
        for (uint32_t r = 0; r < m; r++) {
            q[(i + r) * step] = (int8_t)ints[r];
        }
    }
}

void pr__avx2_kv_store_q8(void *tile, uint32_t head_dim, uint32_t j, const float *k, const float *v) {
    int32_t k_max = largest(k, head_dim), v_max = largest(v, head_dim);
    if (k_max >= 0x7f800000 || v_max >= 0x7f800000) { /* an infinity or a NaN */
        pr__scalar_kv_store_q8(tile, head_dim, j, k, v);
        return;
    }
    uint16_t *kd = tile, *vd = kd + PR_KV_TOKENS;
    int8_t *kt = (int8_t *)(vd + PR_KV_TOKENS), *vt = kt + (size_t)head_dim * PR_KV_TOKENS;
    kd[j] = scale_for(k_max);
    vd[j] = scale_for(v_max);
    round_q8(k, head_dim, kd[j], kt + j, PR_KV_TOKENS);
    round_q8(v, head_dim, vd[j], vt + (size_t)j * head_dim, 1);
}

/* Masks for the four vectors of a row of 32 slots, of which n are there. */
static void slot_masks(uint32_t n, __m256 mask[4]) {
    for (uint32_t i = 0; i < 4; i++) {
        mask[i] = _mm256_castsi256_ps(lanes_mask(n > 8 * i ? part_of_8(n - 8 * i) : 0));
    }
}

void pr__avx2_kv_load_f16(const void *tile, uint32_t head_dim, uint32_t n, float *k, float *v) {
    const uint16_t *kt = tile, *vt = kt + (size_t)head_dim * PR_KV_TOKENS;
    const uint32_t v_dim = (head_dim + 15) / 16 * 16;
    __m256 mask[4];
    slot_masks(n, mask);
    for (size_t d = 0; d < head_dim; d++) {
        for (size_t i = 0; i < 4; i++) {
            __m256 x = load_f16(kt + d * PR_KV_TOKENS + 8 * i);
            _mm256_storeu_ps(k + d * PR_KV_TOKENS + 8 * i, _mm256_and_ps(x, mask[i]));
        }
    }
    for (uint32_t j = 0; j < n; j++, vt += head_dim) {
        uint32_t d = 0;
        for (; d + 8 <= head_dim; d += 8, v += 8) {
            _mm256_storeu_ps(v, load_f16(vt + d));
        }
        for (; d < v_dim; d += 8, v += 8) {
            uint16_t halves[8] = {0};
            memcpy(halves, vt + d, (d < head_dim ? head_dim - d : 0) * sizeof halves[0]);
            _mm256_storeu_ps(v, load_f16(halves));
        }
    }
}

static __m256 load_i8(const void *p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p))); }

void pr__avx2_kv_load_q8(const void *tile, uint32_t head_dim, uint32_t n, float *k, float *v) {
    const uint16_t *kd = tile, *vd = kd + PR_KV_TOKENS;
    const int8_t *kt = (const int8_t *)(vd + PR_KV_TOKENS), *vt = kt + (size_t)head_dim * PR_KV_TOKENS;
    const uint32_t v_dim = (head_dim + 15) / 16 * 16;
    __m256 mask[4], scale[4];
    slot_masks(n, mask);
    for (size_t i = 0; i < 4; i++) {
        scale[i] = load_f16(kd + 8 * i);
    }
    for (size_t d = 0; d < head_dim; d++) {
        for (size_t i = 0; i < 4; i++) {
            __m256 x = _mm256_mul_ps(load_i8(kt + d * PR_KV_TOKENS + 8 * i), scale[i]);
            _mm256_storeu_ps(k + d * PR_KV_TOKENS + 8 * i, _mm256_and_ps(x, mask[i]));
        }
    }
    for (uint32_t j = 0; j < n; j++, vt += head_dim) {
        __m256 vs = _mm256_set1_ps(pr_f16_to_f32(vd[j]));
        uint32_t d = 0;
        for (; d + 8 <= head_dim; d += 8, v += 8) {
            _mm256_storeu_ps(v, _mm256_mul_ps(load_i8(vt + d), vs));
        }
        for (; d < v_dim; d += 8, v += 8) {
            uint32_t left = d < head_dim ? head_dim - d : 0;
            int8_t bytes[8] = {0};
            memcpy(bytes, vt + d, left);
            __m256 x = _mm256_mul_ps(load_i8(bytes), vs);
            _mm256_storeu_ps(v, _mm256_and_ps(x, _mm256_castsi256_ps(lanes_mask(left))));
        }
    }
}
