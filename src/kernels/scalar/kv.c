/*
 * KV pages, scalar: one token in, n tokens out.
 *
 * Keys stand transposed, a column of 32 tokens for each dimension, because
 * attention wants a lane to be a token there; values stand row by row, because
 * there a lane is a dimension.
 */
#include <math.h>

#include "kernels/scalar/scalar.h"

void pr__scalar_kv_store_f16(void *tile, uint32_t head_dim, uint32_t j, const float *k, const float *v) {
    uint16_t *kt = tile, *vt = kt + (size_t)head_dim * PR_KV_TOKENS;
    for (size_t d = 0; d < head_dim; d++) {
        kt[d * PR_KV_TOKENS + j] = pr_f32_to_f16(k[d]);
        vt[(size_t)j * head_dim + d] = pr_f32_to_f16(v[d]);
    }
}

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

void pr__scalar_kv_store_q8(void *tile, uint32_t head_dim, uint32_t j, const float *k, const float *v) {
    uint16_t *kd = tile, *vd = kd + PR_KV_TOKENS;
    int8_t *kt = (int8_t *)(vd + PR_KV_TOKENS), *vt = kt + (size_t)head_dim * PR_KV_TOKENS;
    kd[j] = round_q8(k, head_dim, kt + j, PR_KV_TOKENS);
    vd[j] = round_q8(v, head_dim, vt + (size_t)j * head_dim, 1);
}

void pr__scalar_kv_load_f16(const void *tile, uint32_t head_dim, uint32_t n, float *k, float *v) {
    const uint16_t *kt = tile, *vt = kt + (size_t)head_dim * PR_KV_TOKENS;
    size_t v_dim = (head_dim + 15) / 16 * 16;
    for (size_t d = 0; d < head_dim; d++) {
        for (size_t j = 0; j < PR_KV_TOKENS; j++) {
            k[d * PR_KV_TOKENS + j] = j < n ? pr_f16_to_f32(kt[d * PR_KV_TOKENS + j]) : 0.0f;
        }
    }
    for (size_t j = 0; j < n; j++) {
        for (size_t d = 0; d < v_dim; d++) {
            v[j * v_dim + d] = d < head_dim ? pr_f16_to_f32(vt[j * head_dim + d]) : 0.0f;
        }
    }
}

void pr__scalar_kv_load_q8(const void *tile, uint32_t head_dim, uint32_t n, float *k, float *v) {
    const uint16_t *kd = tile, *vd = kd + PR_KV_TOKENS;
    const int8_t *kt = (const int8_t *)(vd + PR_KV_TOKENS), *vt = kt + (size_t)head_dim * PR_KV_TOKENS;
    size_t v_dim = (head_dim + 15) / 16 * 16;
    for (size_t d = 0; d < head_dim; d++) {
        for (size_t j = 0; j < PR_KV_TOKENS; j++) {
            k[d * PR_KV_TOKENS + j] = j < n ? (float)kt[d * PR_KV_TOKENS + j] * pr_f16_to_f32(kd[j]) : 0.0f;
        }
    }
    for (size_t j = 0; j < n; j++) {
        for (size_t d = 0; d < v_dim; d++) {
            v[j * v_dim + d] = d < head_dim ? (float)vt[j * head_dim + d] * pr_f16_to_f32(vd[j]) : 0.0f;
        }
    }
}
