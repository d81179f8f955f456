/*
 * KV pages, AVX2. Storing one token scatters its key over head_dim cells, so
 * only the conversion is vectors; loading is wide in both parts.
 *
 * 4 bits: once a group is 32 bytes in a register, its levels are found by
 * comparing with the seven thresholds of a stretch, all 32 at a time.
 */
#include "kernels/avx2/avx2.h"
#include "kernels/avx2/simd.h"
#include "kernels/kv_q4.h"
#include "kernels/scalar/scalar.h"

static uint32_t part_of_8(uint32_t left) { return left < 8 ? left : 8; }

static uint32_t padded(uint32_t head_dim) { return (head_dim + 15) / 16 * 16; }

/* ---- 16 bits ---- */

static void halves_of(const float *x, uint32_t n, uint16_t halves[8]) {
    _mm_storeu_si128((__m128i *)(void *)halves, _mm256_cvtps_ph(_mm256_maskload_ps(x, lanes_mask(n)), 0));
}

void pr__avx2_kv_store_k_f16(void *part, uint32_t head_dim, uint32_t j, const float *x) {
    uint16_t *k = (uint16_t *)part + j;
    for (uint32_t d = 0; d < head_dim; d += 8) {
        uint16_t halves[8];
        halves_of(x + d, part_of_8(head_dim - d), halves);
        for (uint32_t i = 0; i < part_of_8(head_dim - d); i++) {
            k[(size_t)(d + i) * PR_KV_TOKENS] = halves[i];
        }
    }
}

void pr__avx2_kv_store_v_f16(void *part, uint32_t head_dim, uint32_t j, const float *x) {
    uint16_t *v = (uint16_t *)part + (size_t)j * head_dim;
    for (uint32_t d = 0; d < head_dim; d += 8) {
        uint16_t halves[8];
        halves_of(x + d, part_of_8(head_dim - d), halves);
        memcpy(v + d, halves, part_of_8(head_dim - d) * sizeof halves[0]);
    }
}

/* Masks for the four vectors of a row of 32 slots, of which n are there. */
static void slot_masks(uint32_t n, __m256 mask[4]) {
    for (uint32_t i = 0; i < 4; i++) {
        mask[i] = _mm256_castsi256_ps(lanes_mask(n > 8 * i ? part_of_8(n - 8 * i) : 0));
    }
}

void pr__avx2_kv_load_k_f16(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const uint16_t *k = part;
    __m256 mask[4];
    slot_masks(n, mask);
    for (size_t d = 0; d < head_dim; d++) {
        for (size_t i = 0; i < 4; i++) {
            __m256 x = load_f16(k + d * PR_KV_TOKENS + 8 * i);
            _mm256_storeu_ps(out + d * PR_KV_TOKENS + 8 * i, _mm256_and_ps(x, mask[i]));
        }
    }
}

void pr__avx2_kv_load_v_f16(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const uint16_t *v = part;
    for (uint32_t j = 0; j < n; j++, v += head_dim) {
        uint32_t d = 0;
        for (; d + 8 <= head_dim; d += 8, out += 8) {
            _mm256_storeu_ps(out, load_f16(v + d));
        }
        for (; d < padded(head_dim); d += 8, out += 8) {
            uint16_t halves[8] = {0};
            memcpy(halves, v + d, (d < head_dim ? head_dim - d : 0) * sizeof halves[0]);
            _mm256_storeu_ps(out, load_f16(halves));
        }
    }
}

/* ---- 8 bits ---- */

/* The bits of the largest magnitude. */
static int32_t largest(const float *x, uint32_t n) {
    __m256i most = _mm256_setzero_si256();
    for (uint32_t i = 0; i < n; i += 8) {
        most = _mm256_max_epi32(most, magnitude(_mm256_maskload_ps(x + i, lanes_mask(part_of_8(n - i)))));
    }
    return max_of_epi32(most);
}

/* Is the largest magnitude an infinity or a NaN? That is left to the scalar body. */
static bool broken(int32_t bits) { return bits >= 0x7f800000; }

/* The scale for numbers whose largest magnitude has these bits. */
static uint16_t scale_for(int32_t bits) {
    float max;
    memcpy(&max, &bits, sizeof max);
    float d = max / 127.0f;
    return pr_f32_to_f16(d < 65504.0f ? d : 65504.0f);
}

PR_INLINE __m256 inverse(uint16_t half) {
    float d = pr_f16_to_f32(half);
    return _mm256_set1_ps(d == 0.0f ? 0.0f : 1.0f / d);
}

/* x[n], n up to 8, by 1/d as integers. */
PR_INLINE __m256i rounded(const float *x, uint32_t n, __m256 inv) {
    __m256 v = _mm256_mul_ps(_mm256_maskload_ps(x, lanes_mask(n)), inv);
    v = _mm256_min_ps(_mm256_max_ps(v, _mm256_set1_ps(-127.0f)), _mm256_set1_ps(127.0f));
    return _mm256_cvtps_epi32(v);
}

/* Round x[n] by 1/d to bytes `step` apart. */
static void round_q8(const float *x, uint32_t n, uint16_t half, int8_t *q, size_t step) {
    __m256 inv = inverse(half);
    for (uint32_t i = 0; i < n; i += 8) {
        uint32_t m = part_of_8(n - i);
        int32_t ints[8];
        _mm256_storeu_si256((__m256i *)(void *)ints, rounded(x + i, m, inv));
        for (uint32_t r = 0; r < m; r++) {
            q[(i + r) * step] = (int8_t)ints[r];
        }
    }
}

void pr__avx2_kv_store_k_q8(void *part, uint32_t head_dim, uint32_t j, const float *x) {
    int32_t max = largest(x, head_dim);
    if (broken(max)) {
        pr__scalar_kv_store_k_q8(part, head_dim, j, x);
        return;
    }
    uint16_t *scales = part;
    scales[j] = scale_for(max);
    round_q8(x, head_dim, scales[j], (int8_t *)(scales + PR_KV_TOKENS) + j, PR_KV_TOKENS);
}

void pr__avx2_kv_store_v_q8(void *part, uint32_t head_dim, uint32_t j, const float *x) {
    int32_t max = largest(x, head_dim);
    if (broken(max)) {
        pr__scalar_kv_store_v_q8(part, head_dim, j, x);
        return;
    }
    uint16_t *scales = part;
    scales[j] = scale_for(max);
    round_q8(x, head_dim, scales[j], (int8_t *)(scales + PR_KV_TOKENS) + (size_t)j * head_dim, 1);
}

static __m256 load_i8(const void *p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p))); }

/* Of 32 tokens. */
PR_INLINE void load_scales(const uint16_t *scales, __m256 scale[4]) {
    for (size_t i = 0; i < 4; i++) {
        scale[i] = load_f16(scales + 8 * i);
    }
}

void pr__avx2_kv_load_k_q8(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const uint16_t *scales = part;
    const int8_t *k = (const int8_t *)(scales + PR_KV_TOKENS);
    __m256 mask[4], scale[4];
    slot_masks(n, mask);
    load_scales(scales, scale);
    for (size_t d = 0; d < head_dim; d++) {
        for (size_t i = 0; i < 4; i++) {
            __m256 x = _mm256_mul_ps(load_i8(k + d * PR_KV_TOKENS + 8 * i), scale[i]);
            _mm256_storeu_ps(out + d * PR_KV_TOKENS + 8 * i, _mm256_and_ps(x, mask[i]));
        }
    }
}

void pr__avx2_kv_load_v_q8(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const uint16_t *scales = part;
    const int8_t *v = (const int8_t *)(scales + PR_KV_TOKENS);
    for (uint32_t j = 0; j < n; j++, v += head_dim) {
        __m256 scale = _mm256_set1_ps(pr_f16_to_f32(scales[j]));
        uint32_t d = 0;
        for (; d + 8 <= head_dim; d += 8, out += 8) {
            _mm256_storeu_ps(out, _mm256_mul_ps(load_i8(v + d), scale));
        }
        for (; d < padded(head_dim); d += 8, out += 8) {
            uint32_t left = d < head_dim ? head_dim - d : 0;
            int8_t bytes[8] = {0};
            memcpy(bytes, v + d, left);
            __m256 x = _mm256_mul_ps(load_i8(bytes), scale);
            _mm256_storeu_ps(out, _mm256_and_ps(x, _mm256_castsi256_ps(lanes_mask(left))));
        }
    }
}

/* ---- 4 bits: storing ---- */

/* Bytes 0..n-1 set, n in 0..32. */
PR_INLINE __m256i bytes_mask(uint32_t n) {
    const __m256i index = _mm256_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                           22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
    return _mm256_cmpgt_epi8(_mm256_set1_epi8((char)n), index);
}

/* x[n], n up to 32, by 1/d as bytes; 0 behind them. */
static __m256i rounded_32(const float *x, uint32_t n, uint16_t half) {
    __m256 inv = inverse(half);
    __m256i q[4];
    for (uint32_t i = 0; i < 4; i++) {
        q[i] = n > 8 * i ? rounded(x + (size_t)8 * i, part_of_8(n - 8 * i), inv) : _mm256_setzero_si256();
    }
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* Which of the upper half of the levels, stretched, each magnitude is. */
PR_INLINE __m256i levels_of(__m256i magnitudes, int stretch) {
    __m256i level = _mm256_setzero_si256();
    for (int i = 0; i < PR__Q4_HALF - 1; i++) {
        __m256i over = _mm256_set1_epi8((char)pr__q4_over[stretch][i]);
        level = _mm256_sub_epi8(level, _mm256_cmpgt_epi8(magnitudes, over));
    }
    return level;
}

static int best_stretch(__m256i magnitudes, __m256i there) {
    int best = 0, least = INT32_MAX;
    for (int s = 0; s < PR__Q4_STRETCHES; s++) {
        __m256i table = _mm256_broadcastsi128_si256(_mm_loadl_epi64((const void *)pr__q4_stretched[s]));
        __m256i value = _mm256_shuffle_epi8(table, levels_of(magnitudes, s));
        __m256i error = _mm256_or_si256(_mm256_subs_epu8(value, magnitudes), _mm256_subs_epu8(magnitudes, value));
        error = _mm256_and_si256(error, there);
        __m256i squares = _mm256_madd_epi16(_mm256_maddubs_epi16(error, error), _mm256_set1_epi16(1));
        int sum = sum_of_epi32(squares);
        best = sum < least ? s : best;
        least = sum < least ? sum : least;
    }
    return best;
}

/* One group x[n] to 16 bytes of two nibbles; returns the scale. */
static uint16_t round_q4(const float *x, uint32_t n, uint8_t bytes[16]) {
    uint16_t half = scale_for(largest(x, n));
    __m256i q = rounded_32(x, n, half), there = bytes_mask(n), magnitudes = _mm256_abs_epi8(q);
    int s = best_stretch(magnitudes, there);
    __m256i negative = _mm256_cmpgt_epi8(_mm256_setzero_si256(), q);
    __m256i nibbles = _mm256_xor_si256(levels_of(magnitudes, s), negative); /* -1 - level for negative numbers */
    nibbles = _mm256_and_si256(_mm256_add_epi8(nibbles, _mm256_set1_epi8(PR__Q4_HALF)), there);
    __m256i pairs = _mm256_maddubs_epi16(nibbles, _mm256_set1_epi16(0x1001)); /* low + 16 * high */
    __m128i packed = _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    _mm_storeu_si128((__m128i *)(void *)bytes, packed);
    float d = pr_f16_to_f32(half) * pr__q4_stretch(s);
    return pr_f32_to_f16(d < 65504.0f ? d : 65504.0f);
}

static uint32_t part_of_group(uint32_t left) { return left < PR__Q4_GROUP ? left : PR__Q4_GROUP; }

void pr__avx2_kv_store_k_q4(void *part, uint32_t head_dim, uint32_t j, const float *x) {
    if (broken(largest(x, head_dim))) {
        pr__scalar_kv_store_k_q4(part, head_dim, j, x);
        return;
    }
    uint16_t *scale = (uint16_t *)part + j;
    uint8_t *k = (uint8_t *)part + pr__q4_groups(head_dim) * PR_KV_TOKENS * sizeof *scale + j;
    for (uint32_t at = 0; at < head_dim; at += PR__Q4_GROUP, scale += PR_KV_TOKENS) {
        uint8_t bytes[PR__Q4_GROUP / 2];
        uint32_t n = part_of_group(head_dim - at);
        *scale = round_q4(x + at, n, bytes);
        for (uint32_t i = 0; 2 * i < n; i++, k += PR_KV_TOKENS) {
            *k = bytes[i];
        }
    }
}

void pr__avx2_kv_store_v_q4(void *part, uint32_t head_dim, uint32_t j, const float *x) {
    if (broken(largest(x, head_dim))) {
        pr__scalar_kv_store_v_q4(part, head_dim, j, x);
        return;
    }
    size_t groups = pr__q4_groups(head_dim);
    uint16_t *scale = (uint16_t *)part + j * groups;
    uint8_t *v = (uint8_t *)part + groups * PR_KV_TOKENS * sizeof *scale + j * pr__q4_pairs(head_dim);
    for (uint32_t at = 0; at < head_dim; at += PR__Q4_GROUP, scale++, v += PR__Q4_GROUP / 2) {
        uint8_t bytes[PR__Q4_GROUP / 2];
        uint32_t n = part_of_group(head_dim - at);
        *scale = round_q4(x + at, n, bytes);
        memcpy(v, bytes, (n + 1) / 2);
    }
}

/* ---- 4 bits: loading ---- */

/* 8 numbers of a vector of 16 bytes: the lower half, or the upper. */
PR_INLINE __m256 floats_of(__m128i bytes, size_t half) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(half ? _mm_unpackhi_epi64(bytes, bytes) : bytes));
}

/* One dimension of 32 tokens. */
PR_INLINE void put_tokens(__m256i bytes, const __m256 scale[4], const __m256 mask[4], float *out) {
    for (size_t i = 0; i < 4; i++) {
        __m128i half = i < 2 ? _mm256_castsi256_si128(bytes) : _mm256_extracti128_si256(bytes, 1);
        __m256 x = _mm256_mul_ps(floats_of(half, i % 2), scale[i]);
        _mm256_storeu_ps(out + 8 * i, _mm256_and_ps(x, mask[i]));
    }
}

void pr__avx2_kv_load_k_q4(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const uint16_t *scales = part;
    const uint8_t *k = (const uint8_t *)(scales + pr__q4_groups(head_dim) * PR_KV_TOKENS);
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)pr__q4_levels));
    __m256 mask[4], scale[4];
    slot_masks(n, mask);
    load_scales(scales, scale);
    for (uint32_t d = 0; d < head_dim; d += 2, k += PR_KV_TOKENS, out += (size_t)2 * PR_KV_TOKENS) {
        if (d > 0 && d % PR__Q4_GROUP == 0) {
            scales += PR_KV_TOKENS;
            load_scales(scales, scale);
        }
        __m256i bytes = _mm256_loadu_si256((const __m256i *)(const void *)k);
        __m256i high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
        put_tokens(_mm256_shuffle_epi8(table, _mm256_and_si256(bytes, nibble)), scale, mask, out);
        if (d + 1 < head_dim) {
            put_tokens(_mm256_shuffle_epi8(table, high), scale, mask, out + PR_KV_TOKENS);
        }
    }
}

/* 16 bytes are 32 numbers of a group, in order. */
PR_INLINE void unpack_32(__m128i bytes, __m128i out[2]) {
    const __m128i nibble = _mm_set1_epi8(15), table = _mm_loadu_si128((const void *)pr__q4_levels);
    __m128i low = _mm_shuffle_epi8(table, _mm_and_si128(bytes, nibble));
    __m128i high = _mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble));
    out[0] = _mm_unpacklo_epi8(low, high);
    out[1] = _mm_unpackhi_epi8(low, high);
}

/* The last group of a token, of n < 32 numbers: 16 or 32 floats with zeros behind. */
static void put_rest(const uint8_t *v, uint32_t n, uint16_t half, float *out) {
    uint8_t copy[16] = {0};
    __m128i numbers[2];
    __m256 scale = _mm256_set1_ps(pr_f16_to_f32(half));
    memcpy(copy, v, (n + 1) / 2);
    unpack_32(_mm_loadu_si128((const void *)copy), numbers);
    for (uint32_t at = 0; at < padded(n); at += 8, out += 8) {
        __m256 x = _mm256_mul_ps(floats_of(numbers[at / 16], at / 8 % 2), scale);
        __m256i there = lanes_mask(at < n ? part_of_8(n - at) : 0);
        _mm256_storeu_ps(out, _mm256_and_ps(x, _mm256_castsi256_ps(there)));
    }
}

void pr__avx2_kv_load_v_q4(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const uint16_t *scales = part;
    size_t groups = pr__q4_groups(head_dim), pairs = pr__q4_pairs(head_dim);
    const uint8_t *v = (const uint8_t *)(scales + groups * PR_KV_TOKENS);
    for (uint32_t j = 0; j < n; j++, v += pairs, scales += groups, out += padded(head_dim)) {
        uint32_t g = 0;
        for (; (g + 1) * PR__Q4_GROUP <= head_dim; g++) {
            __m128i numbers[2];
            __m256 scale = _mm256_set1_ps(pr_f16_to_f32(scales[g]));
            unpack_32(_mm_loadu_si128((const void *)(v + (size_t)16 * g)), numbers);
            for (size_t i = 0; i < 4; i++) {
                float *to = out + (size_t)PR__Q4_GROUP * g + 8 * i;
                _mm256_storeu_ps(to, _mm256_mul_ps(floats_of(numbers[i / 2], i % 2), scale));
            }
        }
        if (g < groups) {
            put_rest(v + (size_t)16 * g, head_dim % PR__Q4_GROUP, scales[g], out + (size_t)PR__Q4_GROUP * g);
        }
    }
}
