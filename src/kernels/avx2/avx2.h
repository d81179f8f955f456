/* The AVX2 kernels (AVX2, FMA, F16C). Contracts stand in kernels/kernels.h. */
#ifndef PRECIS_KERNELS_AVX2_AVX2_H
#define PRECIS_KERNELS_AVX2_AVX2_H

#include "kernels/kernels.h"
#include "kernels/mm_walk.h"

pr_mm_fn pr__avx2_mm_f32, pr__avx2_mm_f16, pr__avx2_mm_bf16, pr__avx2_mm_q8, pr__avx2_mm_q4;
pr_mm_fn pr__avx2_mm_q8_q8, pr__avx2_mm_q4_q8;

pr_plane_fn pr__avx2_planes_int2_q8, pr__avx2_planes_int4_q8, pr__avx2_planes_int8_q8, pr__avx2_planes_fp16_q13;
pr_plane_fn pr__avx2_planes_int2, pr__avx2_planes_int4, pr__avx2_planes_int8, pr__avx2_planes_fp16;

pr__mm_span_fn pr__avx2_span_f32; /* pack F32, a span of the walk: for floats decoded from anything */

void pr__avx2_quant(const float *x, uint32_t n, pr_qblock *out);
void pr__avx2_quant13(const float *x, uint32_t n, pr_qblock13 *out);
void pr__avx2_rmsnorm(const float *x, const float *w, uint32_t n, float eps, float *y);
void pr__avx2_rope(float *x, const float *cs, uint32_t n_rot, bool neox);
void pr__avx2_silu_mul(const float *g, const float *u, uint32_t n, float *y);
void pr__avx2_add(const float *a, const float *b, uint32_t n, float *y);
void pr__avx2_mul(const float *a, const float *b, uint32_t n, float *y);
void pr__avx2_scale(const float *a, float s, uint32_t n, float *y);
void pr__avx2_softmax(float *x, uint32_t n);

void pr__avx2_hadamard(float *x, uint32_t n);

pr_kv_store_fn pr__avx2_kv_store_k_f16, pr__avx2_kv_store_k_q8, pr__avx2_kv_store_k_q4;
pr_kv_store_fn pr__avx2_kv_store_v_f16, pr__avx2_kv_store_v_q8, pr__avx2_kv_store_v_q4;
pr_kv_load_fn pr__avx2_kv_load_k_f16, pr__avx2_kv_load_k_q8, pr__avx2_kv_load_k_q4;
pr_kv_load_fn pr__avx2_kv_load_v_f16, pr__avx2_kv_load_v_q8, pr__avx2_kv_load_v_q4;
void pr__avx2_attend(const float *const *q, pr_attn_state *states, const uint8_t *lo, const uint8_t *hi, uint32_t n_q,
                     uint32_t head_dim, const pr_attn_tile *tile);

#endif
