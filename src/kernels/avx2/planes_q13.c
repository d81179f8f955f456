/* Nested planes at fp16 times blocks of 13 bits, AVX2. */
#include "kernels/avx2/planes_q13.inc"
#include "kernels/avx2/avx2.h"

void pr__avx2_planes_fp16_q13(const pr_plane_args *args) { planes_fp16(args); }
