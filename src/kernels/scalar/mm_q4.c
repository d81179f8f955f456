/*
 * Matrix times vectors, scalar: pack Q4, with float and with 8-bit
 * activations. A block holds f16 d[16], f16 m[16], then u8 q[4][16][4]: column c
 * in the low nibble, column 16 + c in the high one.
 */
#include <math.h>
#include <string.h>

#include "kernels/scalar/scalar.h"

/* i is the row for its scale, 16 + the row for its minimum. */
static float half_of(const uint8_t *block, uint32_t i) {
    uint16_t h;
    memcpy(&h, block + 2 * i, sizeof h);
    return pr_f16_to_f32(h);
}

static int weight_of(const uint8_t *block, uint32_t r, uint32_t c) {
    uint32_t i = c % 16;
    int both = block[4 * PR_TILE_ROWS + (i / 4 * PR_TILE_ROWS + r) * 4 + i % 4];
    return c < 16 ? both & 15 : both >> 4;
}

/* One row of one tile, one token. */
typedef float row_fn(const uint8_t *tile, uint32_t r, uint32_t cols, const void *x_row);

static float row_float(const uint8_t *tile, uint32_t r, uint32_t cols, const void *x_row) {
    const float *x = x_row;
    float acc = 0.0f;
    for (uint32_t c = 0; c < cols; c++) {
        const uint8_t *block = tile + (size_t)(c / PR_BLOCK) * PR_Q4_BLOCK_BYTES;
        float q = (float)weight_of(block, r, c % PR_BLOCK);
        acc = fmaf(fmaf(half_of(block, r), q, half_of(block, PR_TILE_ROWS + r)), x[c], acc);
    }
    return acc;
}

static float row_q8(const uint8_t *tile, uint32_t r, uint32_t cols, const void *x_row) {
    const pr_qblock *x = x_row;
    float acc = 0.0f;
    for (uint32_t b = 0; b < cols / PR_BLOCK; b++) {
        const uint8_t *block = tile + (size_t)b * PR_Q4_BLOCK_BYTES;
        int32_t isum = 0;
        for (uint32_t c = 0; c < PR_BLOCK; c++) {
            isum += weight_of(block, r, c) * x[b].q[c];
        }
        acc = fmaf((float)isum, half_of(block, r) * x[b].d, acc);
        acc = fmaf(half_of(block, PR_TILE_ROWS + r), x[b].ds, acc);
    }
    return acc;
}

static void mm(const pr_mm_args *args, row_fn *row) {
    for (size_t i = 0; i < args->n_tiles; i++) {
        const uint8_t *tile = args->tiles + i * pr__mm_tile_stride(args, PR_PACK_Q4);
        for (size_t t = 0; t < args->n_tokens; t++) {
            const uint8_t *x = (const uint8_t *)args->x + t * args->x_stride;
            for (uint32_t r = 0; r < PR_TILE_ROWS; r++) {
                args->y[t * args->y_stride + i * PR_TILE_ROWS + r] = row(tile, r, args->cols, x);
            }
        }
    }
}

void pr__scalar_mm_q4(const pr_mm_args *args) { mm(args, row_float); }

void pr__scalar_mm_q4_q8(const pr_mm_args *args) { mm(args, row_q8); }
