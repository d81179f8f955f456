/*
 * The tables of kernels, one an instruction set. Internal to kernels/: others
 * get theirs from pr_kernels_get().
 */
#ifndef PRECIS_KERNELS_TABLES_H
#define PRECIS_KERNELS_TABLES_H

#include "kernels/kernels.h"

extern const pr_kernels pr__kernels_scalar;
#if defined(__x86_64__)
extern const pr_kernels pr__kernels_avx2;
extern const pr_kernels pr__kernels_avxvnni;
extern const pr_kernels pr__kernels_avx512;
#endif

#endif
