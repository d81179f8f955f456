/*
 * KV pages, scalar: one token in, n tokens out.
 *
 * Keys stand transposed, a column of 32 tokens for each dimension, because
 * attention wants a lane to be a token there; values stand row by row, because
 * there a lane is a dimension. Keys and values of a form are the same numbers
 * in another order, so each form has one way to make them.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kv_q4.h"
#include "kernels/scalar/scalar.h"

static size_t padded(uint32_t head_dim) { return (head_dim + 15) / 16 * 16; }

/* ---- rotation ---- */

static void hadamard_block(float *x, uint32_t n) {
    for (uint32_t h = 1; h < n; h *= 2) {
        for (uint32_t i = 0; i < n; i++) {
            if (i & h) continue;
            float a = x[i], b = x[i + h];
            x[i] = a + b;
            x[i + h] = a - b;
        }
    }
    float unit = 1.0f / sqrtf((float)n);
    for (uint32_t i = 0; i < n; i++) {
        x[i] *= unit;
    }
}

void pr__scalar_hadamard(float *x, uint32_t n) {
    for (uint32_t done = 0, size; done < n; done += size) {
        size = pr__hadamard_size(n - done);
        hadamard_block(x + done, size);
    }
}

/* ---- 32 and 16 bits ---- */

void pr__scalar_kv_store_k_f32(void *part, uint32_t head_dim, uint32_t j, const float *x) {
    float *k = part;
    for (size_t d = 0; d < head_dim; d++) {
        k[d * PR_KV_TOKENS + j] = x[d];
    }
}

void pr__scalar_kv_store_v_f32(void *part, uint32_t head_dim, uint32_t j, const float *x) {
    memcpy((float *)part + (size_t)j * head_dim, x, head_dim * sizeof *x);
}

void pr__scalar_kv_load_k_f32(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const float *k = part;
    for (size_t d = 0; d < head_dim; d++, k += PR_KV_TOKENS, out += PR_KV_TOKENS) {
        memcpy(out, k, n * sizeof *k);
        memset(out + n, 0, (PR_KV_TOKENS - n) * sizeof *k);
    }
}

void pr__scalar_kv_load_v_f32(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const float *v = part;
    for (size_t j = 0; j < n; j++, v += head_dim, out += padded(head_dim)) {
        memcpy(out, v, head_dim * sizeof *v);
        memset(out + head_dim, 0, (padded(head_dim) - head_dim) * sizeof *v);
    }
}

void pr__scalar_kv_store_k_f16(void *part, uint32_t head_dim, uint32_t j, const float *x) {
    uint16_t *k = part;
    for (size_t d = 0; d < head_dim; d++) {
        k[d * PR_KV_TOKENS + j] = pr_f32_to_f16(x[d]);
    }
}

void pr__scalar_kv_store_v_f16(void *part, uint32_t head_dim, uint32_t j, const float *x) {
    uint16_t *v = (uint16_t *)part + (size_t)j * head_dim;
    for (size_t d = 0; d < head_dim; d++) {
        v[d] = pr_f32_to_f16(x[d]);
    }
}

void pr__scalar_kv_load_k_f16(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const uint16_t *k = part;
    for (size_t i = 0; i < (size_t)head_dim * PR_KV_TOKENS; i++) {
        out[i] = i % PR_KV_TOKENS < n ? pr_f16_to_f32(k[i]) : 0.0f;
    }
}

void pr__scalar_kv_load_v_f16(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const uint16_t *v = part;
    for (size_t j = 0; j < n; j++, v += head_dim, out += padded(head_dim)) {
        for (size_t d = 0; d < padded(head_dim); d++) {
            out[d] = d < head_dim ? pr_f16_to_f32(v[d]) : 0.0f;
        }
    }
}

/* ---- 8 bits ---- */

/* Round x[n] to 8 bits with one scale, `step` apart; returns the scale. */
static uint16_t round_q8(const float *x, uint32_t n, int8_t *q, size_t step) {
    float max = 0.0f;
    for (uint32_t i = 0; i < n; i++) {
        max = fmaxf(max, fabsf(pr__mended(x[i])));
    }
    uint16_t half = pr_f32_to_f16(fminf(max / 127.0f, 65504.0f));
    float d = pr_f16_to_f32(half);
    float inv = d == 0.0f ? 0.0f : 1.0f / d;
    for (uint32_t i = 0; i < n; i++) {
        q[i * step] = (int8_t)nearbyintf(fminf(fmaxf(pr__mended(x[i]) * inv, -127.0f), 127.0f));
    }
    return half;
}

void pr__scalar_kv_store_k_q8(void *part, uint32_t head_dim, uint32_t j, const float *x) {
    uint16_t *scale = part;
    scale[j] = round_q8(x, head_dim, (int8_t *)(scale + PR_KV_TOKENS) + j, PR_KV_TOKENS);
}

void pr__scalar_kv_store_v_q8(void *part, uint32_t head_dim, uint32_t j, const float *x) {
    uint16_t *scale = part;
    scale[j] = round_q8(x, head_dim, (int8_t *)(scale + PR_KV_TOKENS) + (size_t)j * head_dim, 1);
}

void pr__scalar_kv_load_k_q8(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const uint16_t *scale = part;
    const int8_t *k = (const int8_t *)(scale + PR_KV_TOKENS);
    for (size_t i = 0; i < (size_t)head_dim * PR_KV_TOKENS; i++) {
        size_t j = i % PR_KV_TOKENS;
        out[i] = j < n ? (float)k[i] * pr_f16_to_f32(scale[j]) : 0.0f;
    }
}

void pr__scalar_kv_load_v_q8(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const uint16_t *scale = part;
    const int8_t *v = (const int8_t *)(scale + PR_KV_TOKENS);
    for (size_t j = 0; j < n; j++, v += head_dim, out += padded(head_dim)) {
        for (size_t d = 0; d < padded(head_dim); d++) {
            out[d] = d < head_dim ? (float)v[d] * pr_f16_to_f32(scale[j]) : 0.0f;
        }
    }
}

/* ---- 4 bits ---- */

/* Which of the upper half of the levels, stretched, a magnitude is. */
static int level_of(int magnitude, int stretch) {
    int level = 0;
    for (int i = 0; i < PR__Q4_HALF - 1; i++) {
        level += magnitude > pr__q4_over[stretch][i];
    }
    return level;
}

static int best_stretch(const int8_t *q, uint32_t n) {
    int best = 0, least = INT32_MAX;
    for (int s = 0; s < PR__Q4_STRETCHES; s++) {
        int sum = 0;
        for (uint32_t i = 0; i < n; i++) {
            int magnitude = abs(q[i]), error = pr__q4_stretched[s][level_of(magnitude, s)] - magnitude;
            sum += error * error;
        }
        best = sum < least ? s : best;
        least = sum < least ? sum : least;
    }
    return best;
}

/* Round one group x[n] to nibbles 0..15; returns the scale. */
static uint16_t round_q4(const float *x, uint32_t n, uint8_t *nibbles) {
    int8_t q[PR__Q4_GROUP];
    float d = pr_f16_to_f32(round_q8(x, n, q, 1));
    int s = best_stretch(q, n);
    for (uint32_t i = 0; i < n; i++) {
        int level = level_of(abs(q[i]), s);
        nibbles[i] = (uint8_t)(q[i] < 0 ? PR__Q4_HALF - 1 - level : PR__Q4_HALF + level);
    }
    return pr_f32_to_f16(fminf(d * pr__q4_stretch(s), 65504.0f));
}

/* A token's scales `scale_step` apart, its bytes `step` apart. */
static void store_q4(const float *x, uint32_t head_dim, uint16_t *scales, size_t scale_step, uint8_t *bytes,
                     size_t step) {
    for (uint32_t at = 0; at < head_dim; at += PR__Q4_GROUP, scales += scale_step) {
        uint32_t n = head_dim - at < PR__Q4_GROUP ? head_dim - at : PR__Q4_GROUP;
        uint8_t nibbles[PR__Q4_GROUP] = {0};
        *scales = round_q4(x + at, n, nibbles);
        for (uint32_t i = 0; i < n; i += 2, bytes += step) {
            *bytes = (uint8_t)(nibbles[i] | nibbles[i + 1] << 4);
        }
    }
}

void pr__scalar_kv_store_k_q4(void *part, uint32_t head_dim, uint32_t j, const float *x) {
    uint16_t *scales = part;
    uint8_t *bytes = (uint8_t *)(scales + pr__q4_groups(head_dim) * PR_KV_TOKENS);
    store_q4(x, head_dim, scales + j, PR_KV_TOKENS, bytes + j, PR_KV_TOKENS);
}

void pr__scalar_kv_store_v_q4(void *part, uint32_t head_dim, uint32_t j, const float *x) {
    size_t groups = pr__q4_groups(head_dim);
    uint16_t *scales = part;
    uint8_t *bytes = (uint8_t *)(scales + groups * PR_KV_TOKENS);
    store_q4(x, head_dim, scales + j * groups, 1, bytes + j * pr__q4_pairs(head_dim), 1);
}

/* Number d of a byte that holds it. */
static float decoded(uint8_t byte, size_t d, uint16_t scale) {
    return (float)pr__q4_levels[d % 2 ? byte >> 4 : byte & 15] * pr_f16_to_f32(scale);
}

void pr__scalar_kv_load_k_q4(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    const uint16_t *scales = part;
    const uint8_t *bytes = (const uint8_t *)(scales + pr__q4_groups(head_dim) * PR_KV_TOKENS);
    for (size_t d = 0; d < head_dim; d++, out += PR_KV_TOKENS) {
        const uint16_t *scale = scales + d / PR__Q4_GROUP * PR_KV_TOKENS;
        for (size_t j = 0; j < PR_KV_TOKENS; j++) {
            out[j] = j < n ? decoded(bytes[d / 2 * PR_KV_TOKENS + j], d, scale[j]) : 0.0f;
        }
    }
}

void pr__scalar_kv_load_v_q4(const void *part, uint32_t head_dim, uint32_t n, float *out) {
    size_t groups = pr__q4_groups(head_dim), pairs = pr__q4_pairs(head_dim);
    const uint16_t *scale = part;
    const uint8_t *bytes = (const uint8_t *)(scale + groups * PR_KV_TOKENS);
    for (size_t j = 0; j < n; j++, scale += groups, bytes += pairs, out += padded(head_dim)) {
        for (size_t d = 0; d < padded(head_dim); d++) {
            out[d] = d < head_dim ? decoded(bytes[d / 2], d, scale[d / PR__Q4_GROUP]) : 0.0f;
        }
    }
}
