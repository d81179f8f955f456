/*
 * What every instruction set shares: the exponential by its definition, and
 * the size of a KV page.
 */
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#include "kernels/exp.h"

float pr_expf(float x) {
    if (!(x >= PR_EXP_LO)) {
        return 0.0f;
    }
    x = x < PR_EXP_HI ? x : PR_EXP_HI;
    float t = fmaf(x, PR_EXP_LOG2E, PR_EXP_MAGIC);
    float n = t - PR_EXP_MAGIC;
    float r = fmaf(-n, PR_EXP_LN2_HI, x);
    r = fmaf(-n, PR_EXP_LN2_LO, r);
    float p = fmaf(PR_EXP_C6, r, PR_EXP_C5);
    p = fmaf(p, r, PR_EXP_C4);
    p = fmaf(p, r, PR_EXP_C3);
    p = fmaf(p, r, PR_EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    uint32_t bits, exponent;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&exponent, &t, sizeof exponent);
    bits += exponent << 23; /* the result is a normal number for every n that the clamps let through */
    memcpy(&p, &bits, sizeof p);
    return p;
}

size_t pr_kv_tile_bytes(bool q8, uint32_t head_dim) {
    size_t numbers = (size_t)2 * PR_KV_TOKENS * head_dim;
    return q8 ? 2 * PR_KV_TOKENS * sizeof(uint16_t) + numbers : numbers * sizeof(uint16_t);
}
