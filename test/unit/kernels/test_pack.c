/*
 * Packing: what goes in comes out. File blocks are decoded here by their
 * definition, straight from the bytes, and compared with pr_pack_row(); floats
 * that are rounded must come back within the step of their block.
 */
#include "kernels/pack.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { COLS = 96, ROWS_MAX = 16 };

static uint32_t seed = 12345;

static uint32_t next(void) {
    seed = seed * 1664525u + 1013904223u;
    return seed >> 8;
}

static float next_float(void) { return ((float)(next() % 20001) - 10000.0f) / 1000.0f; }

/* A file row of finite numbers, deliberately unaligned. */
static void make_row(pr_dtype src, uint8_t *row) {
    uint64_t bytes = 0;
    assert_true(pr_dtype_row_bytes(src, COLS, &bytes));
    size_t block = pr_dtype_get(src)->block_bytes;
    for (size_t i = 0; i < bytes; i++) row[i] = (uint8_t)next();
    for (size_t at = 0; at < bytes; at += block) { /* no NaN: those do not compare */
        float x = next_float();
        uint16_t h = pr_f32_to_f16(x), b = pr_f32_to_bf16(x);
        if (src == PR_F32) memcpy(row + at, &x, 4);
        else memcpy(row + at, src == PR_BF16 ? &b : &h, 2);
        if (src == PR_Q4_1) memcpy(row + at + 2, &b, 2); /* any finite half */
    }
}

static float half_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, 2);
    return pr_f16_to_f32(h);
}

/* Number c of a file row. */
static float number_at(pr_dtype src, const uint8_t *row, uint32_t c) {
    const uint8_t *block = row + c / pr_dtype_get(src)->block_elems * pr_dtype_get(src)->block_bytes;
    uint32_t i = c % 32, nibble = i < 16 ? 0 : 4;
    float f;
    uint16_t h;
    memcpy(&f, block, 4);
    memcpy(&h, block, 2);
    if (src == PR_F32) return f;
    if (src == PR_F16) return pr_f16_to_f32(h);
    if (src == PR_BF16) return pr_bf16_to_f32(h);
    if (src == PR_Q8_0) return half_at(block) * (float)(int8_t)block[2 + i];
    if (src == PR_Q4_0) return half_at(block) * (float)((block[2 + i % 16] >> nibble & 15) - 8);
    return fmaf(half_at(block), (float)(block[4 + i % 16] >> nibble & 15), half_at(block + 2));
}

static const struct {
    pr_pack pack;
    pr_dtype src;
} exact[] = {{PR_PACK_F32, PR_F32}, {PR_PACK_F16, PR_F16}, {PR_PACK_BF16, PR_BF16},
             {PR_PACK_Q8, PR_Q8_0}, {PR_PACK_Q4, PR_Q4_0}, {PR_PACK_Q4, PR_Q4_1}};

static void test_exact(void **state) {
    (void)state;
    static uint8_t file[ROWS_MAX][COLS * 4 + 1];
    static _Alignas(64) uint8_t tile[COLS * 64];
    for (size_t e = 0; e < sizeof exact / sizeof exact[0]; e++) {
        assert_true(pr_pack_takes(exact[e].pack, exact[e].src));
        for (uint32_t n_rows = 1; n_rows <= ROWS_MAX; n_rows += 5) {
            const void *rows[PR_TILE_ROWS] = {0};
            for (uint32_t r = 0; r < n_rows; r++) {
                make_row(exact[e].src, file[r] + 1);
                rows[r] = file[r] + 1;
            }
            memset(tile, 0xee, sizeof tile);
            pr_pack_tile(exact[e].pack, exact[e].src, rows, n_rows, COLS, tile);
            pr_weight w = {exact[e].pack, ROWS_MAX, COLS, tile};
            for (uint32_t r = 0; r < ROWS_MAX; r++) {
                float out[COLS];
                pr_pack_row(&w, r, out);
                for (uint32_t c = 0; c < COLS; c++) {
                    float want = r < n_rows ? number_at(exact[e].src, file[r] + 1, c) : 0.0f;
                    assert_true(out[c] == want);
                }
            }
        }
    }
}

static void test_takes_nothing_else(void **state) {
    (void)state;
    int n = 0;
    for (int pack = 0; pack < PR_PACK_COUNT; pack++)
        for (int src = 0; src < PR_DTYPE_COUNT; src++) n += pr_pack_takes((pr_pack)pack, (pr_dtype)src);
    assert_int_equal(n, sizeof exact / sizeof exact[0]);
}

static void test_tile_bytes(void **state) {
    (void)state;
    assert_int_equal(pr_pack_tile_bytes(PR_PACK_F32, 7), 7 * 64);
    assert_int_equal(pr_pack_tile_bytes(PR_PACK_F16, 7), 7 * 32);
    assert_int_equal(pr_pack_tile_bytes(PR_PACK_BF16, 7), 7 * 32);
    assert_int_equal(pr_pack_tile_bytes(PR_PACK_Q8, 64), 2 * 544);
    assert_int_equal(pr_pack_tile_bytes(PR_PACK_Q4, 64), 2 * 320);
    assert_int_equal(pr_pack_tiles(1), 1);
    assert_int_equal(pr_pack_tiles(16), 1);
    assert_int_equal(pr_pack_tiles(17), 2);
}

/* How far a rounded number may be from x[c], a number of this block. */
static float tolerance(pr_pack pack, const float *block, float x) {
    float min = block[0], max = block[0];
    for (int i = 1; i < PR_BLOCK; i++) {
        min = fminf(min, block[i]);
        max = fmaxf(max, block[i]);
    }
    float most = fmaxf(fabsf(min), fabsf(max));
    switch (pack) {
    case PR_PACK_F32: return 0.0f;
    case PR_PACK_F16: return fabsf(x) * 0x1p-11f + 0x1p-25f;
    case PR_PACK_BF16: return fabsf(x) * 0x1p-8f;
    case PR_PACK_Q8: return most / 127.0f * 0.5f + most * 0x1p-11f; /* half a step, the scale's rounding */
    case PR_PACK_Q4: return (max - min) / 15.0f * 0.51f + (max - min + most) * 0x1p-11f; /* and the minimum's */
    case PR_PACK_PLANES:
    case PR_PACK_COUNT: break;
    }
    return 0.0f;
}

static void pack_floats(pr_pack pack, const float x[ROWS_MAX][COLS], uint32_t n_rows, float out[ROWS_MAX][COLS]) {
    static _Alignas(64) uint8_t tile[COLS * 64];
    const float *rows[PR_TILE_ROWS];
    for (uint32_t r = 0; r < ROWS_MAX; r++) rows[r] = x[r];
    memset(tile, 0xee, sizeof tile);
    pr_pack_tile_f32(pack, rows, n_rows, COLS, tile);
    pr_weight w = {pack, ROWS_MAX, COLS, tile};
    for (uint32_t r = 0; r < ROWS_MAX; r++) pr_pack_row(&w, r, out[r]);
}

static void test_rounding(void **state) {
    (void)state;
    static float x[ROWS_MAX][COLS], out[ROWS_MAX][COLS];
    for (int pack = 0; pack < PR_PACK_PLANES; pack++) {
        for (uint32_t n_rows = 1; n_rows <= ROWS_MAX; n_rows += 3) {
            for (uint32_t r = 0; r < n_rows; r++)
                for (uint32_t c = 0; c < COLS; c++)
                    x[r][c] = next_float() * (c < 32 ? 1.0f : 0.01f) + (r % 2 ? 3.0f : 0.0f);
            pack_floats((pr_pack)pack, x, n_rows, out);
            for (uint32_t r = 0; r < ROWS_MAX; r++) {
                for (uint32_t c = 0; c < COLS; c++) {
                    if (r >= n_rows) assert_true(out[r][c] == 0.0f);
                    else
                        assert_true(fabsf(out[r][c] - x[r][c]) <=
                                    tolerance((pr_pack)pack, x[r] + c / 32 * 32, x[r][c]));
                }
            }
        }
    }
}

/* Constant blocks, zeros, subnormals, and numbers that are none. */
static void test_rounding_extremes(void **state) {
    (void)state;
    static float x[ROWS_MAX][COLS], out[ROWS_MAX][COLS];
    for (int c = 0; c < COLS; c++) {
        x[0][c] = 0.0f;
        x[1][c] = -2.5f;
        x[2][c] = c % 2 ? FLT_MAX : -FLT_MAX;
        x[3][c] = 1e-40f;
        x[4][c] = c == 5 ? NAN : 1.0f;
        x[5][c] = c == 5 ? INFINITY : c == 6 ? -INFINITY : 1.0f;
    }
    pack_floats(PR_PACK_Q8, x, 6, out);
    for (int c = 0; c < COLS; c++) {
        assert_true(out[0][c] == 0.0f);
        assert_true(fabsf(out[1][c] + 2.5f) <= 2.5f / 1024);
        assert_true(fabsf(out[2][c]) == 65504.0f * 127.0f && signbit(out[2][c]) == signbit(x[2][c]));
        assert_true(out[3][c] == 0.0f);
        assert_true(c == 5 ? out[4][c] == 0.0f : fabsf(out[4][c] - 1.0f) < 0.001f);
        assert_true(isfinite(out[5][c]));
    }
    pack_floats(PR_PACK_Q4, x, 6, out);
    for (int c = 0; c < COLS; c++) {
        assert_true(out[0][c] == 0.0f);
        assert_true(out[1][c] == -2.5f);
        assert_true(out[3][c] == 0.0f);
        assert_true(c == 5 ? out[4][c] == 0.0f : fabsf(out[4][c] - 1.0f) < 0.04f);
        assert_true(isfinite(out[2][c]) && isfinite(out[5][c]));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tile_bytes),         cmocka_unit_test(test_exact),
        cmocka_unit_test(test_takes_nothing_else), cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_rounding_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
