/*
 * What every instruction set shares: the exponential by its definition, the
 * sizes of KV pages, and f32 pages, which are only copied.
 */
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#include "kernels/exp.h"

float pr_expf(float x) {
    if (!(x >= pr__exp_lo)) {
        return 0.0f;
    }
    x = x < pr__exp_hi ? x : pr__exp_hi;
    float t = fmaf(x, pr__exp_log2e, pr__exp_magic);
    float n = t - pr__exp_magic;
    float r = fmaf(-n, pr__exp_ln2_hi, x);
    r = fmaf(-n, pr__exp_ln2_lo, r);
    float p = fmaf(pr__exp_c6, r, pr__exp_c5);
    p = fmaf(p, r, pr__exp_c4);
    p = fmaf(p, r, pr__exp_c3);
    p = fmaf(p, r, pr__exp_c2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    uint32_t bits, exponent;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&exponent, &t, sizeof exponent);
    bits += exponent << 23; /* the result is a normal number for every n that the clamps let through */
    memcpy(&p, &bits, sizeof p);
    return p;
}

size_t pr_kv_tile_bytes(pr_kv_form form, uint32_t head_dim) {
    size_t numbers = 2 * (size_t)PR_KV_TOKENS * head_dim;
    switch (form) {
    case PR_KV_FORM_F16: return numbers * sizeof(uint16_t);
    case PR_KV_FORM_Q8: return numbers + 2 * PR_KV_TOKENS * sizeof(uint16_t);
    case PR_KV_FORM_F32: return numbers * sizeof(float);
    }
    return 0;
}

void pr_kv_store_f32(void *tile, uint32_t head_dim, uint32_t j, const float *k, const float *v) {
    float *kt = tile, *vt = kt + (size_t)head_dim * PR_KV_TOKENS;
    for (size_t d = 0; d < head_dim; d++) kt[d * PR_KV_TOKENS + j] = k[d];
    memcpy(vt + (size_t)j * head_dim, v, head_dim * sizeof *v);
}

void pr_kv_load_f32(const void *tile, uint32_t head_dim, uint32_t n, float *k, float *v) {
    const float *kt = tile, *vt = kt + (size_t)head_dim * PR_KV_TOKENS;
    size_t v_dim = (head_dim + 15) / 16 * 16;
    for (size_t d = 0; d < head_dim; d++) {
        memcpy(k + d * PR_KV_TOKENS, kt + d * PR_KV_TOKENS, n * sizeof *k);
        memset(k + d * PR_KV_TOKENS + n, 0, (PR_KV_TOKENS - n) * sizeof *k);
    }
    for (size_t j = 0; j < n; j++) {
        memcpy(v + j * v_dim, vt + j * head_dim, head_dim * sizeof *v);
        memset(v + j * v_dim + head_dim, 0, (v_dim - head_dim) * sizeof *v);
    }
}
