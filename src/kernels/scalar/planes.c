/*
 * Planes times vectors, scalar: every level, with float activations and with
 * blocks of 8 bits (13 bits at fp16).
 *
 * Block by block: the integers of 16 rows by 32 columns are decoded once and
 * meet every token; the chains live in y meanwhile, so any number of tokens
 * takes no scratch memory.
 */
#include <math.h>
#include <string.h>

#include "kernels/scalar/scalar.h"

/* One tile of a call. */
typedef struct tile {
    const uint8_t *plane[PR_PLANE_COUNT]; /* those of the level */
    const uint8_t *scales;                /* [cols/32][16] */
    float row[PR_TILE_ROWS];              /* scale of a row times the level's factor */
    float *y;
} tile;

static tile tile_at(const pr_plane_args *a, pr_plane level, uint32_t i) {
    const pr_plane_book *book = a->book;
    const float factors[PR_PLANE_COUNT] = {book->f2, book->f4, book->f8, book->f8 / (float)book->k16};
    size_t codes = (size_t)a->cols / 4 * PR_TILE_ROWS;
    tile t = {.y = a->y + (size_t)i * PR_TILE_ROWS};
    for (int p = 0; p <= (int)level; p++) {
        t.plane[p] = a->plane[p] + i * pr_plane_tile_bytes((pr_plane)p, a->cols);
    }
    t.scales = t.plane[level == PR_PLANE_P2 ? PR_PLANE_P2 : PR_PLANE_P4] + codes;
    const uint8_t *rows = t.plane[PR_PLANE_P2] + codes + (size_t)a->cols / PR_BLOCK * PR_TILE_ROWS;
    for (size_t r = 0; r < PR_TILE_ROWS; r++) {
        uint16_t half;
        memcpy(&half, rows + r * sizeof half, sizeof half);
        t.row[r] = pr_f16_to_f32(half) * factors[level];
    }
    return t;
}

/* The integers of block b: out[row][column]. */
static void decode(const tile *t, pr_plane level, const pr_plane_book *book, size_t b,
                   int32_t out[PR_TILE_ROWS][PR_BLOCK]) {
    const uint8_t *const *plane = t->plane;
    for (size_t r = 0; r < PR_TILE_ROWS; r++) {
        for (size_t c = 0; c < PR_BLOCK; c++) {
            size_t at = ((2 * b + c / 16) * PR_TILE_ROWS + r) * 4 + c % 4, shift = c / 4 % 4 * 2;
            unsigned cell = plane[PR_PLANE_P2][at] >> shift & 3;
            if (level == PR_PLANE_P2) {
                out[r][c] = (int)book->c2[cell];
                continue;
            }
            unsigned code = 4 * cell + (plane[PR_PLANE_P4][at] >> shift & 3);
            if (level == PR_PLANE_P4) {
                out[r][c] = (int)book->c4[code];
                continue;
            }
            uint8_t both = plane[PR_PLANE_P8][((4 * b + c / 8) * PR_TILE_ROWS + r) * 4 + c % 4];
            out[r][c] = book->c8[code] + (both >> c / 4 % 2 * 4 & 15);
            if (level == PR_PLANE_P16) {
                int8_t low = (int8_t)plane[PR_PLANE_P16][((8 * b + c / 4) * PR_TILE_ROWS + r) * 4 + c % 4];
                out[r][c] = out[r][c] * book->k16 + low;
            }
        }
    }
}

static void block_q8(const tile *t, int32_t w[PR_TILE_ROWS][PR_BLOCK], uint32_t b, const void *x_row, float *y) {
    const pr_qblock *x = (const pr_qblock *)x_row + b;
    for (int r = 0; r < PR_TILE_ROWS; r++) {
        int32_t isum = 0;
        for (int c = 0; c < PR_BLOCK; c++) {
            isum += w[r][c] * x->q[c];
        }
        y[r] = fmaf((float)isum, (float)t->scales[b * PR_TILE_ROWS + (uint32_t)r] * x->d, y[r]);
    }
}

static void block_q13(const tile *t, int32_t w[PR_TILE_ROWS][PR_BLOCK], uint32_t b, const void *x_row, float *y) {
    const pr_qblock13 *x = (const pr_qblock13 *)x_row + b;
    for (int r = 0; r < PR_TILE_ROWS; r++) {
        int32_t isum = 0;
        for (int c = 0; c < PR_BLOCK; c++) {
            isum += w[r][c] * x->q[pr__at_q13(c)];
        }
        y[r] = fmaf((float)isum, (float)t->scales[b * PR_TILE_ROWS + (uint32_t)r] * x->d, y[r]);
    }
}

static void block_float(const tile *t, int32_t w[PR_TILE_ROWS][PR_BLOCK], uint32_t b, const void *x_row, float *y) {
    const float *x = (const float *)x_row + (size_t)b * PR_BLOCK;
    for (int r = 0; r < PR_TILE_ROWS; r++) {
        float scale = (float)t->scales[b * PR_TILE_ROWS + (uint32_t)r] * t->row[r];
        for (int c = 0; c < PR_BLOCK; c++) {
            y[r] = fmaf((float)w[r][c] * scale, x[c], y[r]);
        }
    }
}

typedef void block_fn(const tile *t, int32_t w[PR_TILE_ROWS][PR_BLOCK], uint32_t b, const void *x_row, float *y);

static void planes(const pr_plane_args *a, pr_plane level, block_fn *block) {
    int32_t w[PR_TILE_ROWS][PR_BLOCK];
    for (uint32_t i = 0; i < a->n_tiles; i++) {
        tile t = tile_at(a, level, i);
        for (uint32_t n = 0; n < a->n_tokens; n++) {
            memset(t.y + n * a->y_stride, 0, PR_TILE_ROWS * sizeof(float));
        }
        for (uint32_t b = 0; b < a->cols / PR_BLOCK; b++) {
            decode(&t, level, a->book, b, w);
            for (uint32_t n = 0; n < a->n_tokens; n++) {
                const uint8_t *x = (const uint8_t *)a->x + n * a->x_stride;
                block(&t, w, b, x, t.y + n * a->y_stride);
            }
        }
        for (uint32_t n = 0; block != block_float && n < a->n_tokens; n++) {
            for (int r = 0; r < PR_TILE_ROWS; r++) {
                t.y[n * a->y_stride + (size_t)r] *= t.row[r];
            }
        }
    }
}

void pr__scalar_planes_int2_q8(const pr_plane_args *args) { planes(args, PR_PLANE_P2, block_q8); }

void pr__scalar_planes_int4_q8(const pr_plane_args *args) { planes(args, PR_PLANE_P4, block_q8); }

void pr__scalar_planes_int8_q8(const pr_plane_args *args) { planes(args, PR_PLANE_P8, block_q8); }

void pr__scalar_planes_fp16_q13(const pr_plane_args *args) { planes(args, PR_PLANE_P16, block_q13); }

void pr__scalar_planes_int2(const pr_plane_args *args) { planes(args, PR_PLANE_P2, block_float); }

void pr__scalar_planes_int4(const pr_plane_args *args) { planes(args, PR_PLANE_P4, block_float); }

void pr__scalar_planes_int8(const pr_plane_args *args) { planes(args, PR_PLANE_P8, block_float); }

void pr__scalar_planes_fp16(const pr_plane_args *args) { planes(args, PR_PLANE_P16, block_float); }
