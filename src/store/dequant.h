/*
 * Decoding, one function a type. Internal to store/: others call
 * pr_dequant() in store/convert.h. src: n / block_elems whole blocks, any
 * alignment. The sum order and the roundings are those of the definition of
 * each format, so the results are the same bits as the reference decoders'.
 */
#ifndef PRECIS_STORE_DEQUANT_H
#define PRECIS_STORE_DEQUANT_H

#include <stdint.h>

/* single numbers */
void pr__dequant_f32(const uint8_t *src, uint64_t n, float *out);
void pr__dequant_f16(const uint8_t *src, uint64_t n, float *out);
void pr__dequant_bf16(const uint8_t *src, uint64_t n, float *out);
void pr__dequant_f64(const uint8_t *src, uint64_t n, float *out);
void pr__dequant_i8(const uint8_t *src, uint64_t n, float *out);
void pr__dequant_i16(const uint8_t *src, uint64_t n, float *out);
void pr__dequant_i32(const uint8_t *src, uint64_t n, float *out);
void pr__dequant_i64(const uint8_t *src, uint64_t n, float *out);
/* 32 numbers a block */
void pr__dequant_q4_0(const uint8_t *src, uint64_t n, float *out);
void pr__dequant_q4_1(const uint8_t *src, uint64_t n, float *out);
void pr__dequant_q5_0(const uint8_t *src, uint64_t n, float *out);
void pr__dequant_q5_1(const uint8_t *src, uint64_t n, float *out);
void pr__dequant_q8_0(const uint8_t *src, uint64_t n, float *out);
void pr__dequant_iq4_nl(const uint8_t *src, uint64_t n, float *out);
/* 256 numbers a block */
void pr__dequant_q2_k(const uint8_t *src, uint64_t n, float *out);
void pr__dequant_q3_k(const uint8_t *src, uint64_t n, float *out);
void pr__dequant_q4_k(const uint8_t *src, uint64_t n, float *out);
void pr__dequant_q5_k(const uint8_t *src, uint64_t n, float *out);
void pr__dequant_q6_k(const uint8_t *src, uint64_t n, float *out);
void pr__dequant_iq4_xs(const uint8_t *src, uint64_t n, float *out);

/*
 * To a simpler block type that the kernels know, keeping the codes: n numbers
 * from src to dst (whole blocks of the target, 32 numbers each).
 *   Q5_0, IQ4_NL -> Q8_0   the same values
 *   IQ4_XS -> Q8_0, Q4_K -> Q4_1   the same codes; the product of block and
 *                          sub-block scale is rounded to a half, 2^-11 relative at most
 */
void pr__repack_q5_0(const uint8_t *src, uint64_t n, uint8_t *dst);
void pr__repack_iq4_nl(const uint8_t *src, uint64_t n, uint8_t *dst);
void pr__repack_iq4_xs(const uint8_t *src, uint64_t n, uint8_t *dst);
void pr__repack_q4_k(const uint8_t *src, uint64_t n, uint8_t *dst);

#endif
