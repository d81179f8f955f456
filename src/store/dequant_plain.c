/*
 * The types that store numbers one by one, in little-endian order at any
 * alignment. Integers are for tensors that hold positions and the like.
 */
#include "store/dequant.h"

#include <string.h>

#include "tensor/dtype.h"

void pr__dequant_f32(const uint8_t *src, uint64_t n, float *out) { memcpy(out, src, (size_t)n * sizeof *out); }

void pr__dequant_f16(const uint8_t *src, uint64_t n, float *out) {
    for (uint64_t i = 0; i < n; i++) {
        uint16_t v;
        memcpy(&v, src + i * sizeof v, sizeof v);
        out[i] = pr_f16_to_f32(v);
    }
}

void pr__dequant_bf16(const uint8_t *src, uint64_t n, float *out) {
    for (uint64_t i = 0; i < n; i++) {
        uint16_t v;
        memcpy(&v, src + i * sizeof v, sizeof v);
        out[i] = pr_bf16_to_f32(v);
    }
}

void pr__dequant_f64(const uint8_t *src, uint64_t n, float *out) {
    for (uint64_t i = 0; i < n; i++) {
        double v;
        memcpy(&v, src + i * sizeof v, sizeof v);
        out[i] = (float)v;
    }
}

void pr__dequant_i8(const uint8_t *src, uint64_t n, float *out) {
    for (uint64_t i = 0; i < n; i++) out[i] = (int8_t)src[i];
}

void pr__dequant_i16(const uint8_t *src, uint64_t n, float *out) {
    for (uint64_t i = 0; i < n; i++) {
        int16_t v;
        memcpy(&v, src + i * sizeof v, sizeof v);
        out[i] = v;
    }
}

void pr__dequant_i32(const uint8_t *src, uint64_t n, float *out) {
    for (uint64_t i = 0; i < n; i++) {
        int32_t v;
        memcpy(&v, src + i * sizeof v, sizeof v);
        out[i] = (float)v;
    }
}

void pr__dequant_i64(const uint8_t *src, uint64_t n, float *out) {
    for (uint64_t i = 0; i < n; i++) {
        int64_t v;
        memcpy(&v, src + i * sizeof v, sizeof v);
        out[i] = (float)v;
    }
}
