/*
 * The scalar kernels: the definition of every operation, in plain C. Shapes
 * and order of operations stand in kernels/kernels.h; SIMD bodies may call
 * these for the cases that they do not care to make fast.
 */
#ifndef PRECIS_KERNELS_SCALAR_SCALAR_H
#define PRECIS_KERNELS_SCALAR_SCALAR_H

#include <float.h>
#include <math.h>

#include "kernels/kernels.h"

pr_mm_fn pr__scalar_mm_f32, pr__scalar_mm_f16, pr__scalar_mm_bf16, pr__scalar_mm_q8, pr__scalar_mm_q4;
pr_mm_fn pr__scalar_mm_q8_q8, pr__scalar_mm_q4_q8;

pr_plane_fn pr__scalar_planes_int2_q8, pr__scalar_planes_int4_q8, pr__scalar_planes_int8_q8, pr__scalar_planes_fp16_q13;
pr_plane_fn pr__scalar_planes_int2, pr__scalar_planes_int4, pr__scalar_planes_int8, pr__scalar_planes_fp16;

void pr__scalar_quant(const float *x, uint32_t n, pr_qblock *out);
void pr__scalar_quant13(const float *x, uint32_t n, pr_qblock13 *out);
void pr__scalar_rmsnorm(const float *x, const float *w, uint32_t n, float eps, float *y);
void pr__scalar_rope(float *x, const float *cs, uint32_t n_rot, bool neox);
void pr__scalar_silu_mul(const float *g, const float *u, uint32_t n, float *y);
void pr__scalar_add(const float *a, const float *b, uint32_t n, float *y);
void pr__scalar_mul(const float *a, const float *b, uint32_t n, float *y);
void pr__scalar_scale(const float *a, float s, uint32_t n, float *y);
void pr__scalar_softmax(float *x, uint32_t n);

void pr__scalar_hadamard(float *x, uint32_t n);

pr_kv_store_fn pr__scalar_kv_store_k_f16, pr__scalar_kv_store_k_q8, pr__scalar_kv_store_k_q4, pr__scalar_kv_store_k_f32;
pr_kv_store_fn pr__scalar_kv_store_v_f16, pr__scalar_kv_store_v_q8, pr__scalar_kv_store_v_q4, pr__scalar_kv_store_v_f32;
pr_kv_load_fn pr__scalar_kv_load_k_f16, pr__scalar_kv_load_k_q8, pr__scalar_kv_load_k_q4, pr__scalar_kv_load_k_f32;
pr_kv_load_fn pr__scalar_kv_load_v_f16, pr__scalar_kv_load_v_q8, pr__scalar_kv_load_v_q4, pr__scalar_kv_load_v_f32;

void pr__scalar_attend(const float *const *q, pr_attn_state *states, const uint8_t *lo, const uint8_t *hi, uint32_t n_q,
                       uint32_t head_dim, const pr_attn_tile *tile);

/* Bytes between the tiles of a product. */
static inline size_t pr__mm_tile_stride(const pr_mm_args *args, pr_pack pack) {
    return args->tile_stride ? args->tile_stride : pr_pack_tile_bytes(pack, args->cols);
}

/* What quantizers make of x: NaN is 0, infinities are the largest number. */
static inline float pr__mended(float x) {
    if (isnan(x)) {
        return 0.0f;
    }
    return x > FLT_MAX ? FLT_MAX : x < -FLT_MAX ? -FLT_MAX : x;
}

/* Where a pr_qblock13 has column c. */
static inline int pr__at_q13(int c) { return (c & ~3) | (c & 1) << 1 | (c >> 1 & 1); }

/* The largest power of two within n > 0: the next block of a hadamard. */
static inline uint32_t pr__hadamard_size(uint32_t n) {
    while (n & (n - 1)) {
        n &= n - 1;
    }
    return n;
}

/* The tree at the end of a sum16; destroys p. */
static inline float pr__sum16_tree(float p[16]) {
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            p[i] += p[i + half];
        }
    }
    return p[0];
}

#endif
