/*
 * What every instruction set shares: the exponential by its definition and the
 * sizes of KV pages.
 */
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#include "kernels/exp.h"
#include "kernels/kv_q4.h"

float pr_expf(float x) {
    if (!(x >= pr__exp_lo)) {
        return 0.0f;
    }
    x = x < pr__exp_hi ? x : pr__exp_hi;
    float t = fmaf(x, pr__exp_log2e, pr__exp_magic);
    float n = t - pr__exp_magic;
    float r = fmaf(-n, pr__exp_ln2_hi, x);
    r = fmaf(-n, pr__exp_ln2_lo, r);
    float p = fmaf(pr__exp_c6, r, pr__exp_c5);
    p = fmaf(p, r, pr__exp_c4);
    p = fmaf(p, r, pr__exp_c3);
    p = fmaf(p, r, pr__exp_c2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    uint32_t bits, exponent;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&exponent, &t, sizeof exponent);
    bits += exponent << 23; /* the result is a normal number for every n that the clamps let through */
    memcpy(&p, &bits, sizeof p);
    return p;
}

size_t pr_kv_part_bytes(pr_kv_form form, uint32_t head_dim) {
    size_t numbers = (size_t)PR_KV_TOKENS * head_dim;
    switch (form) {
    case PR_KV_FORM_F16: return numbers * sizeof(uint16_t);
    case PR_KV_FORM_Q8: return numbers + PR_KV_TOKENS * sizeof(uint16_t);
    case PR_KV_FORM_Q4: return PR_KV_TOKENS * (pr__q4_pairs(head_dim) + pr__q4_groups(head_dim) * sizeof(uint16_t));
    case PR_KV_FORM_F32: return numbers * sizeof(float);
    }
    return 0;
}
