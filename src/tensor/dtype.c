/*
 * Data types: the table of what model files may hold, and half precision.
 *
 * The table is indexed by pr_dtype and carries the GGUF number of each type,
 * so that no other file knows those numbers. Types of GGUF that are missing
 * here (the i-quants below four bits, the retired layouts) are refused at the
 * look-up, by name, and nowhere else.
 *
 * Half precision is converted in integers, not by compiler types: _Float16 is
 * missing or slow on half of the compilers we build with, and the bits must be
 * those of the F16C instructions on every machine: nearest even, subnormals
 * kept, a signalling NaN made quiet with its payload.
 */
#include "tensor/dtype.h"

static const pr_dtype_info infos[PR_DTYPE_COUNT] = {
    [PR_F32] = {"f32", 1, 4, 0},          [PR_F16] = {"f16", 1, 2, 1},
    [PR_BF16] = {"bf16", 1, 2, 30},       [PR_F64] = {"f64", 1, 8, 28},
    [PR_I8] = {"i8", 1, 1, 24},           [PR_I16] = {"i16", 1, 2, 25},
    [PR_I32] = {"i32", 1, 4, 26},         [PR_I64] = {"i64", 1, 8, 27},
    [PR_Q4_0] = {"q4_0", 32, 18, 2},      [PR_Q4_1] = {"q4_1", 32, 20, 3},
    [PR_Q5_0] = {"q5_0", 32, 22, 6},      [PR_Q5_1] = {"q5_1", 32, 24, 7},
    [PR_Q8_0] = {"q8_0", 32, 34, 8},      [PR_Q2_K] = {"q2_k", 256, 84, 10},
    [PR_Q3_K] = {"q3_k", 256, 110, 11},   [PR_Q4_K] = {"q4_k", 256, 144, 12},
    [PR_Q5_K] = {"q5_k", 256, 176, 13},   [PR_Q6_K] = {"q6_k", 256, 210, 14},
    [PR_IQ4_NL] = {"iq4_nl", 32, 18, 20}, [PR_IQ4_XS] = {"iq4_xs", 256, 136, 23},
    [PR_PLANES] = {"planes", 32, 34, -1}, /* bytes: of the int8 level; the planes themselves are I8 tensors */
};

const pr_dtype_info *pr_dtype_get(pr_dtype dtype) { return &infos[dtype]; }

bool pr_dtype_by_name(const char *name, pr_dtype *out) {
    for (int i = 0; i < PR_DTYPE_COUNT; i++) {
        if (strcmp(infos[i].name, name) == 0) {
            *out = (pr_dtype)i;
            return true;
        }
    }
    return false;
}

bool pr_dtype_by_ggml(uint32_t ggml_id, pr_dtype *out) {
    for (int i = 0; i < PR_DTYPE_COUNT; i++) {
        if (infos[i].ggml_id >= 0 && (uint32_t)infos[i].ggml_id == ggml_id) {
            *out = (pr_dtype)i;
            return true;
        }
    }
    return false;
}

bool pr_dtype_row_bytes(pr_dtype dtype, uint64_t n, uint64_t *out) {
    const pr_dtype_info *info = &infos[dtype];
    if (n % info->block_elems != 0) {
        return false;
    }
    uint64_t blocks = n / info->block_elems;
    if (blocks > UINT64_MAX / info->block_bytes) {
        return false;
    }
    *out = blocks * info->block_bytes;
    return true;
}

static uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

float pr_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t rest = (uint32_t)(h & 0x7fff) << 13;
    if (rest >= 0x0f800000) { /* exponent 31: infinity or NaN, made quiet */
        uint32_t quiet = (rest & 0x007fffff) != 0 ? 0x00400000 : 0;
        return float_of(sign | 0x7f800000 | (rest & 0x007fffff) | quiet);
    }
    /* Read with a float's bias the number is 2^112 too small; the product is exact, subnormals included. */
    return float_of(sign | bits_of(float_of(rest) * 0x1p112f));
}

uint16_t pr_f32_to_f16(float f) {
    uint32_t u = bits_of(f);
    uint32_t sign = (u >> 16) & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000) {
        return (uint16_t)(sign | 0x7e00 | ((u >> 13) & 0x03ff));
    }
    if (u >= 0x477ff000) { /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00);
    }
    if (u < 0x38800000) { /* below 2^-14 the result is subnormal: let an addition align and round it */
        return (uint16_t)(sign | (bits_of(float_of(u) + 0.5f) - bits_of(0.5f)));
    }
    uint32_t odd = (u >> 13) & 1;
    return (uint16_t)(sign | ((u - 0x38000000 + 0x0fff + odd) >> 13));
}

uint16_t pr_f32_to_bf16(float f) {
    uint32_t u = bits_of(f);
    if ((u & 0x7fffffff) > 0x7f800000) {
        return (uint16_t)((u >> 16) | 0x0040);
    }
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
