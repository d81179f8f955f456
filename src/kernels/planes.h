/*
 * Planes: nested weights, how they stand in memory, and what a level computes.
 *
 * A matrix W[rows, cols], cols a multiple of 32, is held as up to four planes.
 * Each plane adds bits to the same weights; a level reads a plane and all below it:
 *
 *   int2   p2                  w = s2 * f2 * c2[a]                        2.25 bits a weight, and 16 bits a row
 *   int4   p2 p4               w = s4 * f4 * c4[code]                     4.5
 *   int8   p2 p4 p8            w = s4 * f8 * (c8[code] + n)               8.5
 *   fp16   p2 p4 p8 p16        w = s4 * f8/k16 * ((c8[code] + n) * k16 + b)   16.5
 *
 * with a = the weight's 2-bit cell (p2), code = 4 * a + its 2 bits in p4, n = its nibble in p8 (0..15; the table c8 has -8
 * in it), b = its byte in p16 (signed). s2 and s4 are the scales of a group, which is a block of 32 columns of a row:
 * s = u8 * (the row's f16 scale). The tables and factors belong to the tensor (pr_plane_book).
 *
 * As everywhere (pack.h) 16 rows make a tile and a 32-bit lane is a row. nb = cols / 32. A tile of a plane is:
 *
 *   p2    u8 q[nb][2][16][4], u8 s2[nb][16], f16 row[16], zeros to a multiple of 64 bytes
 *   p4    u8 q[nb][2][16][4], u8 s4[nb][16],              zeros to a multiple of 64 bytes
 *   p8    u8 n[nb][4][16][4]
 *   p16   s8 b[nb][8][16][4]
 *
 * In p2 and p4, byte [g][r][j] of a block has four fields of 2 bits: field f (bits 2f, 2f+1) is column 16g + 4f + j of
 * row r. So a 64-byte load, shifted by 2f, gives each dword lane 4 consecutive columns of its row. In p8, byte [h][r][j]
 * has column 8h + j in its low nibble and column 8h + 4 + j in the high one. In p16, byte [k][r][j] is column 4k + j.
 * Rows past the end of the matrix are zeros in every plane, which makes their scales and results 0.
 */
#ifndef PRECIS_KERNELS_PLANES_H
#define PRECIS_KERNELS_PLANES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/pack.h"

typedef enum pr_plane { PR_PLANE_P2, PR_PLANE_P4, PR_PLANE_P8, PR_PLANE_P16, PR_PLANE_COUNT } pr_plane;

/* "p2", "p4", "p8", "p16": also the ending of the tensor that holds the plane in a file. */
const char *pr_plane_name(pr_plane plane);

/* Bytes of one tile of one plane; cols is a multiple of 32. */
size_t pr_plane_tile_bytes(pr_plane plane, uint32_t cols);

/*
 * What a tensor's codes mean. Limits, which kernels rely on and readers check (pr_plane_book_ok):
 * |c2| <= 16, |c4| <= 64, c8 in -128..112 (so that c8 + n fits a signed byte), k16 in 1..128, factors finite.
 */
typedef struct pr_plane_book {
    int8_t c2[4], c4[16], c8[16];
    int32_t k16;
    float f2, f4, f8;
} pr_plane_book;
bool pr_plane_book_ok(const pr_plane_book *book);

/*
 * Matrix times vectors over whole tiles, as pr_mm_args (kernels.h) but for the weights. A level L (a pr_plane: the
 * highest one read) uses plane[0] .. plane[L]; the others may be NULL.
 *
 *   blocks x (pr_qblock; at level p16 pr_qblock13):
 *                     acc = 0; for blocks ascending: acc = fma((float)isum, (float)u8 * x.d, acc)
 *                     y = acc * (row * f)
 *   float x:          acc = 0; for columns ascending: acc = fma(w, x, acc); y = acc
 *                     w = (float)integer * ((float)u8 * (row * f)), each product rounded
 *
 * with the integer of the level's formula, isum = the sum over the block of x.q * integer, u8 = the group's s2 (level p2) or
 * s4, row the f16 as float, f being f2, f4, f8 or f8 / (float)k16.
 */
/* A tile that will be read soon: planes as far as they will be, NULL above, p2 NULL: not known. */
typedef struct pr_plane_soon {
    const uint8_t *plane[PR_PLANE_COUNT];
    uint32_t cols;
} pr_plane_soon;

typedef struct pr_plane_args {
    const uint8_t *plane[PR_PLANE_COUNT]; /* first tile of the call */
    pr_plane_soon after; /* what the thread is likely to read after the call, to ask memory for; a guess */
    const pr_plane_book *book;
    uint32_t n_tiles;
    uint32_t cols;
    const void *x;
    size_t x_stride; /* bytes */
    uint32_t n_tokens;
    float *y;        /* rows have room for whole tiles */
    size_t y_stride; /* floats */
} pr_plane_args;
typedef void pr_plane_fn(const pr_plane_args *args);

/* Row r (0..15) of one tile as floats, w as in the float formula above: out[cols]. plane[] points at the tile. */
void pr_plane_row(const uint8_t *const plane[PR_PLANE_COUNT], pr_plane level, const pr_plane_book *book, uint32_t cols,
                  uint32_t r, float *out);

/*
 * Writing tiles, one row at a time into zeroed memory: code[cols] 0..15, s2 and s4 [cols/32], n[cols] 0..15 or NULL,
 * b[cols] or NULL; planes whose pointer is NULL are left out.
 */
typedef struct pr_plane_codes {
    const uint8_t *code;
    const uint8_t *s2, *s4;
    uint16_t row; /* f16 */
    const uint8_t *n;
    const int8_t *b;
} pr_plane_codes;
void pr_plane_put_row(uint8_t *const plane[PR_PLANE_COUNT], const pr_plane_codes *codes, uint32_t cols, uint32_t r);

#endif
