/*
 * Encoding of simple block types.
 *
 * The formulas are those that the formats were introduced with, down to the
 * order of operations, so files come out byte for byte as from other writers:
 *
 *   Q8_0   d = max|x| / 127            q = round(x / d), halves away from zero
 *   Q4_0   d = x_max / -8              q = floor(x / d + 8.5) up to 15, where x_max has the largest |x|
 *   Q4_1   d = (max - min) / 15        q = floor((x - min) / d + 0.5) up to 15
 *
 * Division is by multiplying with 1/d in single precision, and codes are made
 * with d before it is rounded to a half. NaN becomes the lowest code.
 */
#include "store/quantize.h"

#include <math.h>

enum { BLOCK = 32 };

static void put_half(uint8_t *out, float v) {
    uint16_t h = pr_f32_to_f16(v);
    memcpy(out, &h, sizeof h);
}

/* 1/d, or 0 for a block of zeros. */
static float inverse(float d) { return d != 0 ? 1.0f / d : 0.0f; }

/* Largest whole number below v, as a code of four bits. */
static uint8_t code4(float v) { return v > 0 ? v < 15 ? (uint8_t)v : 15 : 0; }

static void quantize_q8_0(const float *x, uint8_t *out) {
    float top = 0;
    for (int i = 0; i < BLOCK; i++) top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
    float d = top / 127, id = inverse(d);
    put_half(out, d);
    for (int i = 0; i < BLOCK; i++) {
        float q = roundf(x[i] * id);
        out[2 + i] = (uint8_t)(int8_t)(q > -127 ? q < 127 ? (int)q : 127 : -127);
    }
}

static void put_codes4(const uint8_t code[BLOCK], uint8_t *out) {
    for (int i = 0; i < BLOCK / 2; i++) out[i] = (uint8_t)(code[i] | code[i + BLOCK / 2] << 4);
}

static void quantize_q4_0(const float *x, uint8_t *out) {
    float top = x[0];
    for (int i = 1; i < BLOCK; i++) top = fabsf(x[i]) > fabsf(top) ? x[i] : top;
    float d = top / -8, id = inverse(d);
    uint8_t code[BLOCK];
    for (int i = 0; i < BLOCK; i++) code[i] = code4(x[i] * id + 8.5f);
    put_half(out, d);
    put_codes4(code, out + 2);
}

static void quantize_q4_1(const float *x, uint8_t *out) {
    float low = x[0], high = x[0];
    for (int i = 1; i < BLOCK; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    float d = (high - low) / 15, id = inverse(d);
    uint8_t code[BLOCK];
    for (int i = 0; i < BLOCK; i++) code[i] = code4((x[i] - low) * id + 0.5f);
    put_half(out, d);
    put_half(out + 2, low);
    put_codes4(code, out + 4);
}

bool pr_quantize_takes(pr_dtype dtype) {
    return dtype == PR_F32 || dtype == PR_F16 || dtype == PR_BF16 || dtype == PR_Q8_0 || dtype == PR_Q4_0 ||
           dtype == PR_Q4_1;
}

void pr_quantize(pr_dtype dtype, const float *in, uint64_t n, void *out) {
    const pr_dtype_info *type = pr_dtype_get(dtype);
    uint8_t *at = out;
    if (dtype == PR_F32) {
        memcpy(out, in, (size_t)n * sizeof *in);
        return;
    }
    for (uint64_t i = 0; i < n; i += type->block_elems, at += type->block_bytes) {
        if (dtype == PR_Q8_0) quantize_q8_0(in + i, at);
        else if (dtype == PR_Q4_0) quantize_q4_0(in + i, at);
        else if (dtype == PR_Q4_1) quantize_q4_1(in + i, at);
        else {
            uint16_t h = dtype == PR_F16 ? pr_f32_to_f16(in[i]) : pr_f32_to_bf16(in[i]);
            memcpy(at, &h, sizeof h);
        }
    }
}
