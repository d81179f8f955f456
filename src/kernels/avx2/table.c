/* The AVX2 table. */
#include "kernels/avx2/avx2.h"
#include "kernels/tables.h"

const pr_kernels pr__kernels_avx2 = {
    .name = "avx2",
    .mm_f32 = {[PR_PACK_F32] = pr__avx2_mm_f32,
               [PR_PACK_F16] = pr__avx2_mm_f16,
               [PR_PACK_BF16] = pr__avx2_mm_bf16,
               [PR_PACK_Q8] = pr__avx2_mm_q8,
               [PR_PACK_Q4] = pr__avx2_mm_q4},
    .mm_q8 = {[PR_PACK_Q8] = pr__avx2_mm_q8_q8, [PR_PACK_Q4] = pr__avx2_mm_q4_q8},
    .planes_q8 = {[PR_PLANE_P2] = pr__avx2_planes_int2_q8,
                  [PR_PLANE_P4] = pr__avx2_planes_int4_q8,
                  [PR_PLANE_P8] = pr__avx2_planes_int8_q8},
    .planes_f32 = {[PR_PLANE_P2] = pr__avx2_planes_int2,
                   [PR_PLANE_P4] = pr__avx2_planes_int4,
                   [PR_PLANE_P8] = pr__avx2_planes_int8,
                   [PR_PLANE_P16] = pr__avx2_planes_fp16},
    .quant = pr__avx2_quant,
    .rmsnorm = pr__avx2_rmsnorm,
    .rope = pr__avx2_rope,
    .silu_mul = pr__avx2_silu_mul,
    .add = pr__avx2_add,
    .mul = pr__avx2_mul,
    .scale = pr__avx2_scale,
    .softmax = pr__avx2_softmax,
    .kv_store_f16 = pr__avx2_kv_store_f16,
    .kv_store_q8 = pr__avx2_kv_store_q8,
    .kv_load_f16 = pr__avx2_kv_load_f16,
    .kv_load_q8 = pr__avx2_kv_load_q8,
    .attend = pr__avx2_attend,
};
