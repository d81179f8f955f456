/*
 * Packed weights: how a matrix stands in memory for the kernels.
 *
 * A matrix W[rows, cols] is cut into tiles of 16 rows. Inside a tile the 16
 * rows are interleaved, so that one SIMD lane is one row: the sum over columns
 * of a row then never crosses lanes, is taken in ascending column order by
 * every instruction set, and is the same bits for GEMV and GEMM, any batch and
 * any thread. Rows are padded to a multiple of 16 with zeros.
 *
 * A tile holds, one after another:
 *
 *   F32, F16, BF16   for each column: 16 numbers, one a row
 *   Q8   for each block of 32 columns (544 bytes):
 *          f16 d[16]                       scale of each row
 *          int8 q[8][16][4]                4 consecutive columns of each row, 8 times
 *   Q4   for each block of 32 columns (320 bytes):
 *          f16 d[16], f16 m[16]            w = d * q + m, q in 0..15
 *          u8 q[4][16][4]                  byte [g][r][j]: low nibble is column g*4+j of the block,
 *                                          high nibble is column 16+g*4+j
 *
 * Q8 and Q4 want cols to be a multiple of 32.
 */
#ifndef PRECIS_KERNELS_PACK_H
#define PRECIS_KERNELS_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tensor/dtype.h"

enum { PR_TILE_ROWS = 16, PR_BLOCK = 32, PR_Q8_BLOCK_BYTES = 544, PR_Q4_BLOCK_BYTES = 320 };

/* PLANES: nested weights, which have functions of their own (planes.h); here they only have a name and a nominal size. */
typedef enum pr_pack {
    PR_PACK_F32,
    PR_PACK_F16,
    PR_PACK_BF16,
    PR_PACK_Q8,
    PR_PACK_Q4,
    PR_PACK_PLANES,
    PR_PACK_COUNT
} pr_pack;

const char *pr_pack_name(pr_pack pack); /* "f32", "f16", "bf16", "q8", "q4", "planes" */
/* Bytes of one tile of 16 rows; cols must suit the type. PLANES: what they take at 8 bits, to size work by. */
size_t pr_pack_tile_bytes(pr_pack pack, uint32_t cols);
static inline uint32_t pr_pack_tiles(uint32_t rows) { return (rows + PR_TILE_ROWS - 1) / PR_TILE_ROWS; }

/* A packed matrix. data is 64-byte aligned. Borrowed memory. */
typedef struct pr_weight {
    pr_pack pack;
    uint32_t rows, cols;
    const uint8_t *data; /* [pr_pack_tiles(rows)][pr_pack_tile_bytes(pack, cols)]; NULL for PLANES */
} pr_weight;

/*
 * Pack one tile from n_rows (1..16) rows of a source type that needs no
 * change of value: F32, F16, BF16 to themselves, Q8_0 to Q8, Q4_1 to Q4, Q4_0 to Q4
 * (m = -8 d). rows[i] points at row i in file layout, any alignment.
 */
void pr_pack_tile(pr_pack pack, pr_dtype src, const void *const rows[PR_TILE_ROWS], uint32_t n_rows, uint32_t cols,
                  void *tile);
/* True when pr_pack_tile() takes src to pack exactly. */
bool pr_pack_takes(pr_pack pack, pr_dtype src);

/* Round n_rows rows of floats to pack (F16, BF16: nearest even; Q8: d = max|x|/127; Q4: d, m from min and max) and pack them. */
void pr_pack_tile_f32(pr_pack pack, const float *const rows[PR_TILE_ROWS], uint32_t n_rows, uint32_t cols, void *tile);

/* Row `row` of w as floats: out[cols]. The reference meaning of each layout. */
void pr_pack_row(const pr_weight *w, uint32_t row, float *out);

#endif
