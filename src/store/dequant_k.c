/*
 * The K types: super-blocks of 256 numbers with two levels of scales.
 *
 * A super-block has one half-precision scale d (and dmin, for types with a
 * minimum); sub-blocks of 16 or 32 numbers have small integer scales relative
 * to it. Codes of two and four bits are interleaved so that a byte holds
 * numbers 32 apart: byte l of a run of 32 holds number l in its lowest bits,
 * number l + 32 in the next, and so on.
 *
 *   Q2_K  u8 sc[16] (low nibble scale, high minimum); u8 q[64]; f16 d, dmin     w = d sc q - dmin m
 *   Q3_K  u8 high[32]; u8 q[64]; u8 sc[12]; f16 d                               w = d (sc - 32) (q - 4)
 *   Q4_K  f16 d, dmin; u8 sc[12]; u8 q[128]                                     w = d sc q - dmin m
 *   Q5_K  f16 d, dmin; u8 sc[12]; u8 high[32]; u8 q[128]                        w = d sc q - dmin m
 *   Q6_K  u8 q[128]; u8 high[64]; s8 sc[16]; f16 d                              w = d sc (q - 32)
 */
#include "store/dequant.h"

#include <string.h>

#include "tensor/dtype.h"

static float half_at(const uint8_t *p) { return pr_f16_to_f32((uint16_t)(p[0] | p[1] << 8)); }

void pr__dequant_q2_k(const uint8_t *src, uint64_t n, float *out) {
    for (; n; n -= 256, src += 84, out += 256) {
        const uint8_t *q = src + 16;
        float d = half_at(src + 80), dmin = half_at(src + 82);
        for (int i = 0; i < 256; i += 16) {
            uint8_t sc = src[i / 16];
            float dl = d * (float)(sc & 15), ml = dmin * (float)(sc >> 4);
            const uint8_t *run = q + i / 128 * 32 + i % 32;
            int shift = i % 128 / 32 * 2;
            for (int l = 0; l < 16; l++) out[i + l] = dl * (float)(run[l] >> shift & 3) - ml;
        }
    }
}

/* Six-bit scale i (0..15) of a Q3_K block: four bits in the nibbles of sc[0..7], two in sc[8..11]. */
static int q3_k_scale(const uint8_t *sc, int i) {
    int low = sc[i % 8] >> i / 8 * 4 & 15;
    int high = sc[8 + i % 4] >> i / 4 * 2 & 3;
    return (low | high << 4) - 32;
}

void pr__dequant_q3_k(const uint8_t *src, uint64_t n, float *out) {
    for (; n; n -= 256, src += 110, out += 256) {
        const uint8_t *high = src, *q = src + 32, *sc = src + 96;
        float d = half_at(src + 108);
        for (int i = 0; i < 256; i += 16) {
            float dl = d * (float)q3_k_scale(sc, i / 16);
            const uint8_t *run = q + i / 128 * 32 + i % 32;
            int shift = i % 128 / 32 * 2;
            for (int l = 0; l < 16; l++) {
                int bit = high[i % 32 + l] >> i / 32 & 1; /* set: nothing is taken away */
                out[i + l] = dl * (float)((run[l] >> shift & 3) - (bit ? 0 : 4));
            }
        }
    }
}

/* Six-bit scale and minimum i (0..7) of a Q4_K or Q5_K block, out of 12 bytes. */
static void q4_k_scale(const uint8_t *sc, int i, int *scale, int *min) {
    if (i < 4) {
        *scale = sc[i] & 63;
        *min = sc[i + 4] & 63;
    } else {
        *scale = (sc[i + 4] & 15) | sc[i - 4] >> 6 << 4;
        *min = sc[i + 4] >> 4 | sc[i] >> 6 << 4;
    }
}

void pr__dequant_q4_k(const uint8_t *src, uint64_t n, float *out) {
    for (; n; n -= 256, src += 144, out += 256) {
        float d = half_at(src), dmin = half_at(src + 2);
        for (int sub = 0; sub < 8; sub++) {
            int scale, min;
            q4_k_scale(src + 4, sub, &scale, &min);
            float dl = d * (float)scale, ml = dmin * (float)min;
            const uint8_t *q = src + 16 + sub / 2 * 32;
            for (int l = 0; l < 32; l++) out[32 * sub + l] = dl * (float)(q[l] >> sub % 2 * 4 & 15) - ml;
        }
    }
}

void pr__dequant_q5_k(const uint8_t *src, uint64_t n, float *out) {
    for (; n; n -= 256, src += 176, out += 256) {
        const uint8_t *high = src + 16;
        float d = half_at(src), dmin = half_at(src + 2);
        for (int sub = 0; sub < 8; sub++) {
            int scale, min;
            q4_k_scale(src + 4, sub, &scale, &min);
            float dl = d * (float)scale, ml = dmin * (float)min;
            const uint8_t *q = src + 48 + sub / 2 * 32;
            for (int l = 0; l < 32; l++) {
                int code = (q[l] >> sub % 2 * 4 & 15) | (high[l] >> sub & 1) << 4;
                out[32 * sub + l] = dl * (float)code - ml;
            }
        }
    }
}

void pr__dequant_q6_k(const uint8_t *src, uint64_t n, float *out) {
    for (; n; n -= 256, src += 210, out += 256) {
        const uint8_t *sc = src + 192;
        float d = half_at(src + 208);
        for (int i = 0; i < 256; i += 16) {
            int part = i % 128 / 32; /* low nibbles of 64 bytes, then the high ones */
            const uint8_t *q = src + i / 128 * 64 + part % 2 * 32 + i % 32;
            const uint8_t *high = src + 128 + i / 128 * 32 + i % 32;
            float dl = d * (float)(int8_t)sc[i / 16];
            for (int l = 0; l < 16; l++) {
                int code = (q[l] >> part / 2 * 4 & 15) | (high[l] >> part * 2 & 3) << 4;
                out[i + l] = dl * (float)(code - 32);
            }
        }
    }
}

void pr__repack_q4_k(const uint8_t *src, uint64_t n, uint8_t *dst) {
    for (; n; n -= 256, src += 144) {
        float d = half_at(src), dmin = half_at(src + 2);
        for (int sub = 0; sub < 8; sub++, dst += 20) {
            int scale, min;
            q4_k_scale(src + 4, sub, &scale, &min);
            uint16_t dm[2] = {pr_f32_to_f16(d * (float)scale), pr_f32_to_f16(-dmin * (float)min)};
            memcpy(dst, dm, sizeof dm);
            const uint8_t *q = src + 16 + sub / 2 * 32;
            int shift = sub % 2 * 4;
            for (int l = 0; l < 16; l++) dst[4 + l] = (uint8_t)((q[l] >> shift & 15) | (q[l + 16] >> shift & 15) << 4);
        }
    }
}
