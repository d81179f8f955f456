/*
 * The block types of 32 numbers.
 *
 * All of them are one or two half-precision numbers for the block, then codes.
 * Four-bit codes stand in pairs: byte j holds number j in its low and number
 * j + 16 in its high nibble; a fifth bit, if any, is bit j of a 32-bit word.
 *
 *   Q4_0    f16 d; u8 q[16]                       w = d (q - 8)
 *   Q4_1    f16 d, m; u8 q[16]                    w = d q + m
 *   Q5_0    f16 d; u32 high; u8 q[16]             w = d (q - 16)
 *   Q5_1    f16 d, m; u32 high; u8 q[16]          w = d q + m
 *   Q8_0    f16 d; s8 q[32]                       w = d q
 *   IQ4_NL  f16 d; u8 q[16]                       w = d table[q]
 *
 * Bytes are picked from a plain byte pointer: rows in a file are unaligned, and
 * a packed struct would only hide that.
 */
#include "store/dequant.h"

#include <string.h>

#include "tensor/dtype.h"

/* The IQ4 code book: 16 levels, denser around zero. */
static const int8_t iq4_table[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static float half_at(const uint8_t *p) { return pr_f16_to_f32((uint16_t)(p[0] | p[1] << 8)); }

static uint32_t word_at(const uint8_t *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

void pr__dequant_q4_0(const uint8_t *src, uint64_t n, float *out) {
    for (; n; n -= 32, src += 18, out += 32) {
        float d = half_at(src);
        for (int j = 0; j < 16; j++) {
            out[j] = d * (float)((src[2 + j] & 15) - 8);
            out[j + 16] = d * (float)((src[2 + j] >> 4) - 8);
        }
    }
}

void pr__dequant_q4_1(const uint8_t *src, uint64_t n, float *out) {
    for (; n; n -= 32, src += 20, out += 32) {
        float d = half_at(src), m = half_at(src + 2);
        for (int j = 0; j < 16; j++) {
            out[j] = d * (float)(src[4 + j] & 15) + m;
            out[j + 16] = d * (float)(src[4 + j] >> 4) + m;
        }
    }
}

/* The five-bit codes of a block: four bits from q, the fifth from high. */
static void five_bits(const uint8_t *high, const uint8_t *q, uint8_t code[32]) {
    uint32_t h = word_at(high);
    for (int j = 0; j < 16; j++) {
        code[j] = (uint8_t)((q[j] & 15) | (h >> j & 1) << 4);
        code[j + 16] = (uint8_t)(q[j] >> 4 | (h >> (j + 16) & 1) << 4);
    }
}

void pr__dequant_q5_0(const uint8_t *src, uint64_t n, float *out) {
    for (; n; n -= 32, src += 22, out += 32) {
        float d = half_at(src);
        uint8_t code[32];
        five_bits(src + 2, src + 6, code);
        for (int j = 0; j < 32; j++) out[j] = d * (float)(code[j] - 16);
    }
}

void pr__dequant_q5_1(const uint8_t *src, uint64_t n, float *out) {
    for (; n; n -= 32, src += 24, out += 32) {
        float d = half_at(src), m = half_at(src + 2);
        uint8_t code[32];
        five_bits(src + 4, src + 8, code);
        for (int j = 0; j < 32; j++) out[j] = d * (float)code[j] + m;
    }
}

void pr__dequant_q8_0(const uint8_t *src, uint64_t n, float *out) {
    for (; n; n -= 32, src += 34, out += 32) {
        float d = half_at(src);
        for (int j = 0; j < 32; j++) out[j] = (float)(int8_t)src[2 + j] * d;
    }
}

/* 16 bytes of IQ4 codes to 32 signed bytes. */
static void iq4_codes(const uint8_t *q, int8_t code[32]) {
    for (int j = 0; j < 16; j++) {
        code[j] = iq4_table[q[j] & 15];
        code[j + 16] = iq4_table[q[j] >> 4];
    }
}

void pr__dequant_iq4_nl(const uint8_t *src, uint64_t n, float *out) {
    for (; n; n -= 32, src += 18, out += 32) {
        float d = half_at(src);
        int8_t code[32];
        iq4_codes(src + 2, code);
        for (int j = 0; j < 32; j++) out[j] = d * (float)code[j];
    }
}

/* IQ4_XS is eight IQ4 sub-blocks: f16 d; u16 scales_h; u8 scales_l[4]; u8 q[8][16]. A sub-block's scale has
 * six bits, four in scales_l (low nibble first), two in scales_h. */
static float iq4_xs_scale(const uint8_t *src, int sub) {
    int low = src[4 + sub / 2] >> 4 * (sub % 2) & 15;
    int high = (src[2] | src[3] << 8) >> 2 * sub & 3;
    return half_at(src) * (float)((low | high << 4) - 32);
}

void pr__dequant_iq4_xs(const uint8_t *src, uint64_t n, float *out) {
    for (; n; n -= 256, src += 136) {
        for (int sub = 0; sub < 8; sub++, out += 32) {
            float d = iq4_xs_scale(src, sub);
            int8_t code[32];
            iq4_codes(src + 8 + 16 * sub, code);
            for (int j = 0; j < 32; j++) out[j] = d * (float)code[j];
        }
    }
}

void pr__repack_q5_0(const uint8_t *src, uint64_t n, uint8_t *dst) {
    for (; n; n -= 32, src += 22, dst += 34) {
        uint8_t code[32];
        five_bits(src + 2, src + 6, code);
        memcpy(dst, src, 2);
        for (int j = 0; j < 32; j++) dst[2 + j] = (uint8_t)(code[j] - 16);
    }
}

void pr__repack_iq4_nl(const uint8_t *src, uint64_t n, uint8_t *dst) {
    for (; n; n -= 32, src += 18, dst += 34) {
        int8_t code[32];
        iq4_codes(src + 2, code);
        memcpy(dst, src, 2);
        memcpy(dst + 2, code, 32);
    }
}

void pr__repack_iq4_xs(const uint8_t *src, uint64_t n, uint8_t *dst) {
    for (; n; n -= 256, src += 136) {
        for (int sub = 0; sub < 8; sub++, dst += 34) {
            uint16_t d = pr_f32_to_f16(iq4_xs_scale(src, sub));
            int8_t code[32];
            iq4_codes(src + 8 + 16 * sub, code);
            memcpy(dst, &d, 2);
            memcpy(dst + 2, code, 32);
        }
    }
}
