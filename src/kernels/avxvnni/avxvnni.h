/* The AVX-VNNI kernels (AVX2 and vpdpbusd of 8 lanes). Contracts stand in kernels/kernels.h; the rest is AVX2's. */
#ifndef PRECIS_KERNELS_AVXVNNI_AVXVNNI_H
#define PRECIS_KERNELS_AVXVNNI_AVXVNNI_H

#include "kernels/kernels.h"

pr_mm_fn pr__avxvnni_mm_q8_q8, pr__avxvnni_mm_q4_q8;
pr_plane_fn pr__avxvnni_planes_int2_q8, pr__avxvnni_planes_int4_q8, pr__avxvnni_planes_int8_q8,
    pr__avxvnni_planes_fp16_q13;

#endif
