/*
 * Matrix times float vectors, scalar: packs F32, F16 and BF16.
 *
 * Column by column: decode the 16 numbers of the tile's column, then one fma
 * into each row's sum for every token. The sums live in y, so any number of
 * tokens takes no scratch memory and a decoded column is used for all of them.
 */
#include <math.h>
#include <string.h>

#include "kernels/scalar/scalar.h"

typedef void column_fn(const uint8_t *tile, size_t c, float w[PR_TILE_ROWS]);

static void column_f32(const uint8_t *tile, size_t c, float w[PR_TILE_ROWS]) {
    memcpy(w, tile + c * PR_TILE_ROWS * 4, PR_TILE_ROWS * 4);
}

static void column_f16(const uint8_t *tile, size_t c, float w[PR_TILE_ROWS]) {
    uint16_t h[PR_TILE_ROWS];
    memcpy(h, tile + c * sizeof h, sizeof h);
    for (int r = 0; r < PR_TILE_ROWS; r++) {
        w[r] = pr_f16_to_f32(h[r]);
    }
}

static void column_bf16(const uint8_t *tile, size_t c, float w[PR_TILE_ROWS]) {
    uint16_t h[PR_TILE_ROWS];
    memcpy(h, tile + c * sizeof h, sizeof h);
    for (int r = 0; r < PR_TILE_ROWS; r++) {
        w[r] = pr_bf16_to_f32(h[r]);
    }
}

static void mm_float(const pr_mm_args *a, pr_pack pack, column_fn *column) {
    float w[PR_TILE_ROWS];
    for (size_t i = 0; i < a->n_tiles; i++) {
        const uint8_t *tile = a->tiles + i * pr__mm_tile_stride(a, pack);
        for (size_t t = 0; t < a->n_tokens; t++) {
            memset(a->y + t * a->y_stride + i * PR_TILE_ROWS, 0, sizeof w);
        }
        for (size_t c = 0; c < a->cols; c++) {
            column(tile, c, w);
            for (size_t t = 0; t < a->n_tokens; t++) {
                float x = ((const float *)((const uint8_t *)a->x + t * a->x_stride))[c];
                float *y = a->y + t * a->y_stride + i * PR_TILE_ROWS;
                for (int r = 0; r < PR_TILE_ROWS; r++) {
                    y[r] = fmaf(w[r], x, y[r]);
                }
            }
        }
    }
}

void pr__scalar_mm_f32(const pr_mm_args *args) { mm_float(args, PR_PACK_F32, column_f32); }

void pr__scalar_mm_f16(const pr_mm_args *args) { mm_float(args, PR_PACK_F16, column_f16); }

void pr__scalar_mm_bf16(const pr_mm_args *args) { mm_float(args, PR_PACK_BF16, column_bf16); }
