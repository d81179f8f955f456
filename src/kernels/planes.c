/*
 * Planes: where each bit of a weight stands, one element at a time.
 *
 * The layout is written down here once, in the at_... functions, for reading
 * (pr_plane_row) and for writing (pr_plane_put_row). Kernels read whole
 * registers of it and never call this file; tests hold them against it.
 */
#include "kernels/planes.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "tensor/dtype.h"

enum { CELL = 4 /* consecutive columns of a row that stay together */, LINE = 64 };

const char *pr_plane_name(pr_plane plane) {
    static const char *const names[PR_PLANE_COUNT] = {"p2", "p4", "p8", "p16"};
    return names[plane];
}

static size_t to_line(size_t bytes) { return (bytes + LINE - 1) / LINE * LINE; }

size_t pr_plane_tile_bytes(pr_plane plane, uint32_t cols) {
    size_t codes = (size_t)cols / 4 * PR_TILE_ROWS, scales = (size_t)cols / PR_BLOCK * PR_TILE_ROWS;
    switch (plane) {
    case PR_PLANE_P2: return to_line(codes + scales + PR_TILE_ROWS * sizeof(uint16_t));
    case PR_PLANE_P4: return to_line(codes + scales);
    case PR_PLANE_P8: return (size_t)cols / 2 * PR_TILE_ROWS;
    case PR_PLANE_P16: return (size_t)cols * PR_TILE_ROWS;
    case PR_PLANE_COUNT: break;
    }
    return 0;
}

static bool all_within(const int8_t *v, int n, int lo, int hi) {
    for (int i = 0; i < n; i++) {
        if (v[i] < lo || v[i] > hi) {
            return false;
        }
    }
    return true;
}

bool pr_plane_book_ok(const pr_plane_book *book) {
    return all_within(book->c2, 4, -16, 16) && all_within(book->c4, 16, -64, 64) &&
           all_within(book->c8, 16, -128, 112) && book->k16 >= 1 && book->k16 <= 128 && isfinite(book->f2) &&
           isfinite(book->f4) && isfinite(book->f8);
}

/* Offsets in a tile, of column c of row r: the byte and the shift of its 2 bits (p2, p4), its group's scale (p2, p4),
 * the row's scale (p2), the byte and the shift of its nibble (p8), its byte (p16). */
static size_t at_code(uint32_t c, uint32_t r) {
    return ((size_t)(c / PR_TILE_ROWS) * PR_TILE_ROWS + r) * CELL + c % CELL;
}
static unsigned shift_of_code(uint32_t c) { return c / CELL % 4 * 2; }
static size_t at_scale(uint32_t cols, uint32_t c, uint32_t r) {
    return (size_t)cols / 4 * PR_TILE_ROWS + (size_t)(c / PR_BLOCK) * PR_TILE_ROWS + r;
}
static size_t at_row(uint32_t cols, uint32_t r) { return at_scale(cols, cols, 0) + r * sizeof(uint16_t); }
static size_t at_nibble(uint32_t c, uint32_t r) {
    return ((size_t)(c / (2 * CELL)) * PR_TILE_ROWS + r) * CELL + c % CELL;
}
static unsigned shift_of_nibble(uint32_t c) { return c / CELL % 2 * 4; }
static size_t at_byte(uint32_t c, uint32_t r) { return ((size_t)(c / CELL) * PR_TILE_ROWS + r) * CELL + c % CELL; }

/* The integer of a level's formula. */
static int32_t integer_of(const uint8_t *const plane[PR_PLANE_COUNT], pr_plane level, const pr_plane_book *book,
                          uint32_t c, uint32_t r) {
    unsigned a = plane[PR_PLANE_P2][at_code(c, r)] >> shift_of_code(c) & 3;
    if (level == PR_PLANE_P2) {
        return book->c2[a];
    }
    unsigned code = 4 * a + (plane[PR_PLANE_P4][at_code(c, r)] >> shift_of_code(c) & 3);
    if (level == PR_PLANE_P4) {
        return book->c4[code];
    }
    int32_t w8 = book->c8[code] + (plane[PR_PLANE_P8][at_nibble(c, r)] >> shift_of_nibble(c) & 15);
    return level == PR_PLANE_P8 ? w8 : w8 * book->k16 + (int8_t)plane[PR_PLANE_P16][at_byte(c, r)];
}

static float factor_of(pr_plane level, const pr_plane_book *book) {
    switch (level) {
    case PR_PLANE_P2: return book->f2;
    case PR_PLANE_P4: return book->f4;
    case PR_PLANE_P8: return book->f8;
    case PR_PLANE_P16: return book->f8 / (float)book->k16;
    case PR_PLANE_COUNT: break;
    }
    return 0.0f;
}

void pr_plane_row(const uint8_t *const plane[PR_PLANE_COUNT], pr_plane level, const pr_plane_book *book, uint32_t cols,
                  uint32_t r, float *out) {
    uint16_t half;
    memcpy(&half, plane[PR_PLANE_P2] + at_row(cols, r), sizeof half);
    float row = pr_f16_to_f32(half) * factor_of(level, book);
    const uint8_t *scales = plane[level == PR_PLANE_P2 ? PR_PLANE_P2 : PR_PLANE_P4];
    for (uint32_t c = 0; c < cols; c++) {
        float scale = (float)scales[at_scale(cols, c, r)] * row;
        out[c] = (float)integer_of(plane, level, book, c, r) * scale;
    }
}

static void put_codes(uint8_t *tile, const uint8_t *code, unsigned drop, const uint8_t *scales, uint32_t cols,
                      uint32_t r) {
    for (uint32_t c = 0; c < cols; c++) {
        uint8_t *at = tile + at_code(c, r);
        *at = (uint8_t)(*at | (code[c] >> drop & 3) << shift_of_code(c));
    }
    for (uint32_t c = 0; c < cols; c += PR_BLOCK) {
        tile[at_scale(cols, c, r)] = scales[c / PR_BLOCK];
    }
}

void pr_plane_put_row(uint8_t *const plane[PR_PLANE_COUNT], const pr_plane_codes *codes, uint32_t cols, uint32_t r) {
    assert(cols % PR_BLOCK == 0 && r < PR_TILE_ROWS);
    if (plane[PR_PLANE_P2] != NULL) {
        put_codes(plane[PR_PLANE_P2], codes->code, 2, codes->s2, cols, r);
        memcpy(plane[PR_PLANE_P2] + at_row(cols, r), &codes->row, sizeof codes->row);
    }
    if (plane[PR_PLANE_P4] != NULL) {
        put_codes(plane[PR_PLANE_P4], codes->code, 0, codes->s4, cols, r);
    }
    for (uint32_t c = 0; plane[PR_PLANE_P8] != NULL && codes->n != NULL && c < cols; c++) {
        uint8_t *at = plane[PR_PLANE_P8] + at_nibble(c, r);
        *at = (uint8_t)(*at | codes->n[c] << shift_of_nibble(c));
    }
    for (uint32_t c = 0; plane[PR_PLANE_P16] != NULL && codes->b != NULL && c < cols; c++) {
        plane[PR_PLANE_P16][at_byte(c, r)] = (uint8_t)codes->b[c];
    }
}
