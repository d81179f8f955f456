/* Nested planes at fp16 times blocks of 13 bits, AVX-VNNI: vpdpwssd adds both products to the sum at once. */
#include "kernels/avx2/planes_q13.inc"
#include "kernels/avxvnni/avxvnni.h"

void pr__avxvnni_planes_fp16_q13(const pr_plane_args *args) { planes_fp16(args); }
