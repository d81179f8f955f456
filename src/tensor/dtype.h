/*
 * Data types as model files name them, and half-precision conversion.
 *
 * A dtype says how a row of numbers is stored in a FILE. How weights stand in
 * memory for the kernels is another matter: see kernels/pack.h.
 */
#ifndef PRECIS_TENSOR_DTYPE_H
#define PRECIS_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum pr_dtype {
    PR_F32,
    PR_F16,
    PR_BF16,
    PR_F64,
    PR_I8,
    PR_I16,
    PR_I32,
    PR_I64,
    PR_Q4_0,
    PR_Q4_1,
    PR_Q5_0,
    PR_Q5_1,
    PR_Q8_0,
    PR_Q2_K,
    PR_Q3_K,
    PR_Q4_K,
    PR_Q5_K,
    PR_Q6_K,
    PR_IQ4_NL,
    PR_IQ4_XS,
    PR_PLANES, /* nested planes (store/planes.h): several tensors of a file stand for one matrix */
    PR_DTYPE_COUNT
} pr_dtype;

typedef struct pr_dtype_info {
    const char *name;     /* lower case: "q4_1" */
    uint16_t block_elems; /* numbers in one block: 1, 32 or 256 */
    uint16_t block_bytes;
    int16_t ggml_id; /* type number in GGUF, -1: none */
} pr_dtype_info;

const pr_dtype_info *pr_dtype_get(pr_dtype dtype);
bool pr_dtype_by_name(const char *name, pr_dtype *out);
bool pr_dtype_by_ggml(uint32_t ggml_id, pr_dtype *out);
/* Bytes of a row of n numbers; false when n is not whole blocks or the size overflows. */
bool pr_dtype_row_bytes(pr_dtype dtype, uint64_t n, uint64_t *out);

/* IEEE half <-> single. To half rounds to nearest even; overflow gives infinity. */
float pr_f16_to_f32(uint16_t h);
uint16_t pr_f32_to_f16(float f);
static inline float pr_bf16_to_f32(uint16_t b) {
    uint32_t u = (uint32_t)b << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
uint16_t pr_f32_to_bf16(float f); /* round to nearest even, NaN stays NaN */

#endif
