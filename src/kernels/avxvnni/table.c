/* The AVX-VNNI table. */
#include "kernels/avx2/avx2.h"
#include "kernels/avxvnni/avxvnni.h"
#include "kernels/scalar/scalar.h"
#include "kernels/tables.h"

const pr_kernels pr__kernels_avxvnni = {
    .name = "avxvnni",
    .mm_q8 = {[PR_PACK_Q8] = pr__avxvnni_mm_q8_q8, [PR_PACK_Q4] = pr__avxvnni_mm_q4_q8},
    .planes_q = {[PR_PLANE_P2] = pr__avxvnni_planes_int2_q8,
                 [PR_PLANE_P4] = pr__avxvnni_planes_int4_q8,
                 [PR_PLANE_P8] = pr__avxvnni_planes_int8_q8,
                 [PR_PLANE_P16] = pr__avxvnni_planes_fp16_q13},
#include "kernels/avx2/table.inc"
};
