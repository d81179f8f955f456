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
 * with d before it is rounded to a half. A block with an infinity or a NaN gets an
 * infinite or NaN scale in Q8_0; in the other types NaN becomes the lowest code.
 */
#include "store/quantize.h"

#include <math.h>
#include <stdint.h>

enum { BLOCK = 32 };

static void put_half(uint8_t *out, float v) {
    uint16_t h = pr_f32_to_f16(v);
    memcpy(out, &h, sizeof h);
}

/* 1/d, or 0 for a block of zeros (or of numbers too small to divide by). */
static float inverse(float d) {
    float id = 1.0f / d;
    return isfinite(id) ? id : 0.0f;
}

/* Largest whole number below v, as a code of four bits. */
static uint8_t code4(float v) { return v > 0 ? v < 15 ? (uint8_t)v : 15 : 0; }

/* Largest |x| of a block. Floats without sign compare like integers, which compilers turn into SIMD. */
static float top_of(const float *x) {
    int32_t top = 0;
    for (int i = 0; i < BLOCK; i++) {
        int32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= INT32_MAX;
        top = bits > top ? bits : top;
    }
    float v;
    memcpy(&v, &top, sizeof v);
    return v;
}

/* round(x * id), halves away from zero, up to 127. With the float before one half added, cutting off rounds exactly so,
 * and in SIMD; roundf() is a call a number. The products are finite, and below 256: id is 1/d or 0. */
static void codes8(const float *x, float id, uint8_t *out) {
    const float half = 0x1.fffffep-2f;
    for (int i = 0; i < BLOCK; i++) {
        float v = x[i] * id;
        int q = (int)(v + copysignf(half, v));
        q = q < 127 ? q : 127;
        out[i] = (uint8_t)(q > -127 ? q : -127);
    }
}

/* Scale and codes of a block with the largest magnitude top; codes are made for the scale d. */
static void put_q8_0(const float *x, float top, float d, uint8_t *out) {
    put_half(out, d);
    if (isfinite(top)) codes8(x, inverse(d), out + 2);
    else memset(out + 2, 0, BLOCK);
}

static void quantize_q8_0(const float *x, uint8_t *out) {
    float top = top_of(x);
    put_q8_0(x, top, top / 127, out);
}

void pr_quantize_q8_0_near(const float *in, uint64_t n, void *out) {
    uint8_t *at = out;
    for (uint64_t i = 0; i < n; i += BLOCK, at += 2 + BLOCK) {
        float top = top_of(in + i);
        put_q8_0(in + i, top, pr_f16_to_f32(pr_f32_to_f16(top / 127)), at);
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
