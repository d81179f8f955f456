/*
 * Packing: from rows as files hold them to tiles as kernels read them.
 *
 * Nothing here is fast by instruction sets; it is fast enough by moving whole
 * 2- or 4-byte cells and by leaving the disk as the slower side. The layout is
 * written down once more in pr_pack_row(), which reads single elements: that
 * is what the tests hold every other reader of a tile against.
 *
 * Rows past n_rows are zeros in every type, so kernels run whole tiles.
 */
#include "kernels/pack.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

enum { CELL = 4 /* consecutive columns of a row that stay together */ };
_Static_assert(PR_Q8_BLOCK_BYTES == 2 * PR_TILE_ROWS + PR_BLOCK * PR_TILE_ROWS, "scales, then a byte a number");
_Static_assert(PR_Q4_BLOCK_BYTES == 4 * PR_TILE_ROWS + PR_BLOCK / 2 * PR_TILE_ROWS, "scales, minima, half a byte");

const char *pr_pack_name(pr_pack pack) {
    static const char *const names[PR_PACK_COUNT] = {"f32", "f16", "bf16", "q8", "q4", "planes"};
    return names[pack];
}

size_t pr_pack_tile_bytes(pr_pack pack, uint32_t cols) {
    size_t n = cols;
    switch (pack) {
    case PR_PACK_F32: return n * PR_TILE_ROWS * 4;
    case PR_PACK_F16:
    case PR_PACK_BF16: return n * PR_TILE_ROWS * 2;
    case PR_PACK_PLANES:
    case PR_PACK_Q8: return n / PR_BLOCK * PR_Q8_BLOCK_BYTES;
    case PR_PACK_Q4: return n / PR_BLOCK * PR_Q4_BLOCK_BYTES;
    case PR_PACK_COUNT: break;
    }
    return 0;
}

bool pr_pack_takes(pr_pack pack, pr_dtype src) {
    switch (pack) {
    case PR_PACK_F32: return src == PR_F32;
    case PR_PACK_F16: return src == PR_F16;
    case PR_PACK_BF16: return src == PR_BF16;
    case PR_PACK_Q8: return src == PR_Q8_0;
    case PR_PACK_Q4: return src == PR_Q4_1 || src == PR_Q4_0;
    case PR_PACK_PLANES:
    case PR_PACK_COUNT: break;
    }
    return false;
}

static uint16_t load_u16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static void store_u16(uint8_t *p, uint16_t v) { memcpy(p, &v, sizeof v); }

/* Offsets inside a block: the scale and minimum (Q4) of row r, and the byte that holds its column c. Q4 keeps
 * columns c and c + 16 in one byte, so there c < 16. */
static size_t at_scale(uint32_t r) { return 2 * r; }
static size_t at_min(uint32_t r) { return 2 * (PR_TILE_ROWS + r); }
static size_t at_q8(uint32_t c, uint32_t r) {
    return 2 * PR_TILE_ROWS + (c / CELL * PR_TILE_ROWS + r) * CELL + c % CELL;
}
static size_t at_q4(uint32_t c, uint32_t r) {
    return 4 * PR_TILE_ROWS + (c / CELL * PR_TILE_ROWS + r) * CELL + c % CELL;
}

static void pack_2byte(const void *const *rows, uint32_t n_rows, uint32_t cols, uint8_t *tile) {
    if (n_rows < PR_TILE_ROWS) {
        memset(tile, 0, (size_t)cols * PR_TILE_ROWS * 2);
    }
    for (uint32_t r = 0; r < n_rows; r++) {
        const uint8_t *row = rows[r];
        for (size_t c = 0; c < cols; c++) {
            memcpy(tile + (c * PR_TILE_ROWS + r) * 2, row + c * 2, 2);
        }
    }
}

static void pack_4byte(const void *const *rows, uint32_t n_rows, uint32_t cols, uint8_t *tile) {
    if (n_rows < PR_TILE_ROWS) {
        memset(tile, 0, (size_t)cols * PR_TILE_ROWS * 4);
    }
    for (uint32_t r = 0; r < n_rows; r++) {
        const uint8_t *row = rows[r];
        for (size_t c = 0; c < cols; c++) {
            memcpy(tile + (c * PR_TILE_ROWS + r) * 4, row + c * 4, 4);
        }
    }
}

/* Q8_0 block in a file: f16 d, int8 q[32]. */
static void pack_q8_0(const uint8_t *src, uint8_t *block, uint32_t r) {
    memcpy(block + at_scale(r), src, 2);
    for (uint32_t c = 0; c < PR_BLOCK; c += CELL) {
        memcpy(block + at_q8(c, r), src + 2 + c, CELL);
    }
}

/* Q4_1 block in a file: f16 d, f16 m, u8 qs[16]; low nibbles are columns 0..15, high ones 16..31, as in a tile. */
static void pack_q4_1(const uint8_t *src, uint8_t *block, uint32_t r) {
    memcpy(block + at_scale(r), src, 2);
    memcpy(block + at_min(r), src + 2, 2);
    for (uint32_t c = 0; c < PR_BLOCK / 2; c += CELL) {
        memcpy(block + at_q4(c, r), src + 4 + c, CELL);
    }
}

/* Q4_0 block in a file: f16 d, u8 qs[16]; w = d * (q - 8). */
static void pack_q4_0(const uint8_t *src, uint8_t *block, uint32_t r) {
    memcpy(block + at_scale(r), src, 2);
    store_u16(block + at_min(r), pr_f32_to_f16(-8.0f * pr_f16_to_f32(load_u16(src))));
    for (uint32_t c = 0; c < PR_BLOCK / 2; c += CELL) {
        memcpy(block + at_q4(c, r), src + 2 + c, CELL);
    }
}

static void pack_blocks(pr_pack pack, pr_dtype src, const void *const *rows, uint32_t n_rows, uint32_t cols,
                        uint8_t *tile) {
    size_t block_bytes = pack == PR_PACK_Q8 ? PR_Q8_BLOCK_BYTES : PR_Q4_BLOCK_BYTES;
    size_t src_bytes = pr_dtype_get(src)->block_bytes;
    if (n_rows < PR_TILE_ROWS) {
        memset(tile, 0, pr_pack_tile_bytes(pack, cols));
    }
    for (size_t b = 0; b < cols / PR_BLOCK; b++) {
        uint8_t *block = tile + b * block_bytes;
        for (uint32_t r = 0; r < n_rows; r++) {
            const uint8_t *from = (const uint8_t *)rows[r] + b * src_bytes;
            if (src == PR_Q8_0) {
                pack_q8_0(from, block, r);
            } else if (src == PR_Q4_1) {
                pack_q4_1(from, block, r);
            } else {
                pack_q4_0(from, block, r);
            }
        }
    }
}

void pr_pack_tile(pr_pack pack, pr_dtype src, const void *const rows[PR_TILE_ROWS], uint32_t n_rows, uint32_t cols,
                  void *tile) {
    assert(pr_pack_takes(pack, src));
    switch (pack) {
    case PR_PACK_F32: pack_4byte(rows, n_rows, cols, tile); break;
    case PR_PACK_F16:
    case PR_PACK_BF16: pack_2byte(rows, n_rows, cols, tile); break;
    case PR_PACK_Q8:
    case PR_PACK_Q4: pack_blocks(pack, src, rows, n_rows, cols, tile); break;
    case PR_PACK_PLANES:
    case PR_PACK_COUNT: break;
    }
}

/* Copy a block, NaN as 0 and infinities as the largest number: a broken weight must not poison its block's scale. */
static void copy_sane(const float *x, float out[PR_BLOCK]) {
    for (int c = 0; c < PR_BLOCK; c++) {
        float v = isnan(x[c]) ? 0.0f : x[c];
        v = v > FLT_MAX ? FLT_MAX : v;
        out[c] = v < -FLT_MAX ? -FLT_MAX : v;
    }
}

/* To half, but finite. */
static uint16_t finite_f16(float x) {
    x = x > 65504.0f ? 65504.0f : x;
    return pr_f32_to_f16(x < -65504.0f ? -65504.0f : x);
}

/* q = (x - m) / d to the nearest integer (even) within [lo, hi]; 0 when d is. */
static void quanta(const float x[PR_BLOCK], float d, float m, float lo, float hi, int32_t q[PR_BLOCK]) {
    const float magic = 0x1.8p23f; /* no room for a fraction: adding it rounds */
    for (int c = 0; c < PR_BLOCK; c++) {
        float v = (x[c] - m) / d;
        v = v > hi ? hi : v;
        v = v < lo ? lo : v;
        q[c] = d == 0.0f ? 0 : (int32_t)((v + magic) - magic);
    }
}

static void round_q8(const float *src, uint8_t *block, uint32_t r) {
    float x[PR_BLOCK], max = 0.0f;
    int32_t q[PR_BLOCK];
    copy_sane(src, x);
    for (int c = 0; c < PR_BLOCK; c++) {
        max = fabsf(x[c]) > max ? fabsf(x[c]) : max;
    }
    uint16_t half = finite_f16(max / 127.0f);
    quanta(x, pr_f16_to_f32(half), 0.0f, -127.0f, 127.0f, q);
    store_u16(block + at_scale(r), half);
    for (uint32_t c = 0; c < PR_BLOCK; c++) {
        block[at_q8(c, r)] = (uint8_t)q[c];
    }
}

static void round_q4(const float *src, uint8_t *block, uint32_t r) {
    float x[PR_BLOCK];
    int32_t q[PR_BLOCK];
    copy_sane(src, x);
    float min = x[0], max = x[0];
    for (int c = 1; c < PR_BLOCK; c++) {
        min = x[c] < min ? x[c] : min;
        max = x[c] > max ? x[c] : max;
    }
    uint16_t half_d = finite_f16(max / 15.0f - min / 15.0f), half_m = finite_f16(min);
    quanta(x, pr_f16_to_f32(half_d), pr_f16_to_f32(half_m), 0.0f, 15.0f, q);
    store_u16(block + at_scale(r), half_d);
    store_u16(block + at_min(r), half_m);
    for (uint32_t c = 0; c < PR_BLOCK / 2; c++) {
        block[at_q4(c, r)] = (uint8_t)(q[c] | q[c + PR_BLOCK / 2] << 4);
    }
}

void pr_pack_tile_f32(pr_pack pack, const float *const rows[PR_TILE_ROWS], uint32_t n_rows, uint32_t cols, void *tile) {
    uint8_t *out = tile;
    if (n_rows < PR_TILE_ROWS) {
        memset(out, 0, pr_pack_tile_bytes(pack, cols));
    }
    for (uint32_t r = 0; r < n_rows; r++) {
        const float *x = rows[r];
        switch (pack) {
        case PR_PACK_F32:
            for (size_t c = 0; c < cols; c++) {
                memcpy(out + (c * PR_TILE_ROWS + r) * 4, x + c, 4);
            }
            break;
        case PR_PACK_F16:
            for (size_t c = 0; c < cols; c++) {
                store_u16(out + (c * PR_TILE_ROWS + r) * 2, pr_f32_to_f16(x[c]));
            }
            break;
        case PR_PACK_BF16:
            for (size_t c = 0; c < cols; c++) {
                store_u16(out + (c * PR_TILE_ROWS + r) * 2, pr_f32_to_bf16(x[c]));
            }
            break;
        case PR_PACK_Q8:
            for (size_t b = 0; b < cols / PR_BLOCK; b++) {
                round_q8(x + b * PR_BLOCK, out + b * PR_Q8_BLOCK_BYTES, r);
            }
            break;
        case PR_PACK_Q4:
            for (size_t b = 0; b < cols / PR_BLOCK; b++) {
                round_q4(x + b * PR_BLOCK, out + b * PR_Q4_BLOCK_BYTES, r);
            }
            break;
        case PR_PACK_PLANES:
        case PR_PACK_COUNT: break;
        }
    }
}

static float row_q8(const uint8_t *tile, uint32_t r, uint32_t c) {
    const uint8_t *block = tile + (size_t)(c / PR_BLOCK) * PR_Q8_BLOCK_BYTES;
    return pr_f16_to_f32(load_u16(block + at_scale(r))) * (float)(int8_t)block[at_q8(c % PR_BLOCK, r)];
}

static float row_q4(const uint8_t *tile, uint32_t r, uint32_t c) {
    const uint8_t *block = tile + (size_t)(c / PR_BLOCK) * PR_Q4_BLOCK_BYTES;
    unsigned both = block[at_q4(c % (PR_BLOCK / 2), r)];
    unsigned q = c % PR_BLOCK < PR_BLOCK / 2 ? both & 15 : both >> 4;
    return fmaf(pr_f16_to_f32(load_u16(block + at_scale(r))), (float)q, pr_f16_to_f32(load_u16(block + at_min(r))));
}

void pr_pack_row(const pr_weight *w, uint32_t row, float *out) {
    const uint8_t *tile = w->data + row / PR_TILE_ROWS * pr_pack_tile_bytes(w->pack, w->cols);
    uint32_t r = row % PR_TILE_ROWS;
    for (uint32_t c = 0; c < w->cols; c++) {
        size_t i = (size_t)c * PR_TILE_ROWS + r;
        switch (w->pack) {
        case PR_PACK_F32: memcpy(out + c, tile + i * 4, 4); break;
        case PR_PACK_F16: out[c] = pr_f16_to_f32(load_u16(tile + i * 2)); break;
        case PR_PACK_BF16: out[c] = pr_bf16_to_f32(load_u16(tile + i * 2)); break;
        case PR_PACK_Q8: out[c] = row_q8(tile, r, c); break;
        case PR_PACK_Q4: out[c] = row_q4(tile, r, c); break;
        case PR_PACK_PLANES:
        case PR_PACK_COUNT: break;
        }
    }
}
