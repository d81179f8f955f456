/*
 * The AVX-512 kernels (F, BW, VL, DQ, VNNI). Contracts stand in
 * kernels/kernels.h. What is missing here is not slower in AVX2.
 */
#ifndef PRECIS_KERNELS_AVX512_AVX512_H
#define PRECIS_KERNELS_AVX512_AVX512_H

#include "kernels/kernels.h"
#include "kernels/mm_walk.h"

pr_mm_fn pr__avx512_mm_f32, pr__avx512_mm_f16, pr__avx512_mm_bf16, pr__avx512_mm_q8, pr__avx512_mm_q4;
pr_mm_fn pr__avx512_mm_q8_q8, pr__avx512_mm_q4_q8;

pr_plane_fn pr__avx512_planes_int2_q8, pr__avx512_planes_int4_q8, pr__avx512_planes_int8_q8, pr__avx512_planes_fp16_q13;
pr_plane_fn pr__avx512_planes_int2, pr__avx512_planes_int4, pr__avx512_planes_int8, pr__avx512_planes_fp16;

pr__mm_span_fn pr__avx512_span_f32; /* pack F32, a span of the walk: for floats decoded from anything */

void pr__avx512_quant(const float *x, uint32_t n, pr_qblock *out);
void pr__avx512_quant13(const float *x, uint32_t n, pr_qblock13 *out);
void pr__avx512_rmsnorm(const float *x, const float *w, uint32_t n, float eps, float *y);
void pr__avx512_silu_mul(const float *g, const float *u, uint32_t n, float *y);
void pr__avx512_softmax(float *x, uint32_t n);

pr_kv_load_fn pr__avx512_kv_load_k_f16, pr__avx512_kv_load_k_q8, pr__avx512_kv_load_k_q4;
pr_kv_load_fn pr__avx512_kv_load_v_f16, pr__avx512_kv_load_v_q8, pr__avx512_kv_load_v_q4;
void pr__avx512_attend(const float *const *q, pr_attn_state *states, const uint8_t *lo, const uint8_t *hi, uint32_t n_q,
                       uint32_t head_dim, const pr_attn_tile *tile);

#endif
