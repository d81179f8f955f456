/*
 * Floats to the simple file types: what writers of model files need.
 *
 * Rounding to nearest, as each format's definition has it; no search for better
 * scales. Pure functions.
 */
#ifndef PRECIS_STORE_QUANTIZE_H
#define PRECIS_STORE_QUANTIZE_H

#include "tensor/dtype.h"

/* True for F32, F16, BF16, Q8_0, Q4_0 and Q4_1. */
bool pr_quantize_takes(pr_dtype dtype);

/* Encode in[n] (whole blocks) to out, pr_dtype_row_bytes(dtype, n) bytes, any alignment. dtype must be one that is taken. */
void pr_quantize(pr_dtype dtype, const float *in, uint64_t n, void *out);

/* Q8_0 with codes made for the scale as it is stored: the nearest values, but not the bytes of other writers. */
void pr_quantize_q8_0_near(const float *in, uint64_t n, void *out);

#endif
