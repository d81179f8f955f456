/*
 * Nested planes: what pr_plane_put_row() writes, pr_plane_row() reads back by
 * the header's formulas, level by level; and the scalar kernels against sums
 * in double of what it reads. Each plane is an allocation of its exact size,
 * and planes above a level are NULL, so reading too much or too high shows.
 */
#include "kernels/planes.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kernels.h"

enum { COLS = 96, GROUPS = COLS / PR_BLOCK, TILES = 2, ROWS = 17, TOKENS = 3 };

static uint32_t seed = 4242;

static uint32_t next(uint32_t below) {
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % below;
}

static float next_float(void) { return ((float)next(20001) - 10000.0f) / 10000.0f; }

static const pr_plane_book book = {
    .c2 = {-16, -5, 5, 16},
    .c4 = {-64, -40, -30, -21, -15, -10, -6, -2, 2, 6, 10, 15, 21, 30, 40, 64},
    .c8 = {-128, -90, -70, -52, -40, -30, -20, -12, -8, -1, 8, 20, 40, 60, 80, 112},
    .k16 = 100,
    .f2 = 0.11f,
    .f4 = 0.027f,
    .f8 = 0.0133f,
};

/* A matrix as codes and as planes. */
typedef struct matrix {
    uint8_t code[ROWS][COLS], n[ROWS][COLS], s2[ROWS][GROUPS], s4[ROWS][GROUPS];
    int8_t b[ROWS][COLS];
    uint16_t row[ROWS];
    uint8_t *plane[PR_PLANE_COUNT];
} matrix;

static void fill(matrix *m) {
    for (int p = 0; p < PR_PLANE_COUNT; p++) {
        m->plane[p] = calloc(TILES, pr_plane_tile_bytes((pr_plane)p, COLS));
        assert_non_null(m->plane[p]);
    }
    for (uint32_t r = 0; r < ROWS; r++) {
        m->row[r] = pr_f32_to_f16(next_float() * 0.01f);
        for (uint32_t c = 0; c < COLS; c++) {
            m->code[r][c] = (uint8_t)next(16);
            m->n[r][c] = (uint8_t)next(16);
            m->b[r][c] = (int8_t)((int)next(256) - 128);
        }
        for (uint32_t g = 0; g < GROUPS; g++) {
            m->s2[r][g] = (uint8_t)next(256);
            m->s4[r][g] = (uint8_t)next(256);
        }
        pr_plane_codes codes = {m->code[r], m->s2[r], m->s4[r], m->row[r], m->n[r], m->b[r]};
        uint8_t *tile[PR_PLANE_COUNT];
        for (int p = 0; p < PR_PLANE_COUNT; p++) {
            tile[p] = m->plane[p] + r / PR_TILE_ROWS * pr_plane_tile_bytes((pr_plane)p, COLS);
        }
        pr_plane_put_row(tile, &codes, COLS, r % PR_TILE_ROWS);
    }
}

static void release(matrix *m) {
    for (int p = 0; p < PR_PLANE_COUNT; p++) free(m->plane[p]);
}

/* Weight c of row r by the formulas at the top of planes.h, rounded as the float path says. */
static float weight_of(const matrix *m, pr_plane level, uint32_t r, uint32_t c) {
    unsigned code = m->code[r][c], g = c / PR_BLOCK;
    int w8 = book.c8[code] + m->n[r][c];
    int integer[] = {book.c2[code / 4], book.c4[code], w8, w8 * book.k16 + m->b[r][c]};
    float f[] = {book.f2, book.f4, book.f8, book.f8 / (float)book.k16};
    float u8 = level == PR_PLANE_P2 ? m->s2[r][g] : m->s4[r][g];
    return (float)integer[level] * (u8 * (pr_f16_to_f32(m->row[r]) * f[level]));
}

/* The planes of a level from tile i on; what is above it is NULL. */
static void planes_of(const matrix *m, pr_plane level, size_t i, const uint8_t *plane[PR_PLANE_COUNT]) {
    for (int p = 0; p < PR_PLANE_COUNT; p++) {
        plane[p] = p <= (int)level ? m->plane[p] + i * pr_plane_tile_bytes((pr_plane)p, COLS) : NULL;
    }
}

static void test_names(void **state) {
    (void)state;
    static const char *const want[] = {"p2", "p4", "p8", "p16"};
    for (int p = 0; p < PR_PLANE_COUNT; p++) assert_string_equal(pr_plane_name((pr_plane)p), want[p]);
}

static void test_tile_bytes(void **state) {
    (void)state;
    assert_int_equal(pr_plane_tile_bytes(PR_PLANE_P2, 32), 192); /* 128 + 16 + 32 */
    assert_int_equal(pr_plane_tile_bytes(PR_PLANE_P4, 32), 192); /* 128 + 16 */
    assert_int_equal(pr_plane_tile_bytes(PR_PLANE_P8, 32), 256);
    assert_int_equal(pr_plane_tile_bytes(PR_PLANE_P16, 32), 512);
    assert_int_equal(pr_plane_tile_bytes(PR_PLANE_P2, 64), 320); /* 256 + 32 + 32, in full */
    for (uint32_t nb = 1; nb < 40; nb++) {
        assert_int_equal(pr_plane_tile_bytes(PR_PLANE_P2, 32 * nb), (nb * 144 + 32 + 63) / 64 * 64);
        assert_int_equal(pr_plane_tile_bytes(PR_PLANE_P4, 32 * nb), (nb * 144 + 63) / 64 * 64);
    }
    assert_true(pr_plane_tile_bytes(PR_PLANE_P16, 1u << 30) == (size_t)16 << 30); /* no 32-bit arithmetic */
}

static void test_book(void **state) {
    (void)state;
    assert_true(pr_plane_book_ok(&book));
    pr_plane_book b = book;
    b.c2[3] = 17, assert_false(pr_plane_book_ok(&b)), b.c2[3] = -17, assert_false(pr_plane_book_ok(&b));
    b = book, b.c4[15] = 65, assert_false(pr_plane_book_ok(&b)), b.c4[0] = -65, assert_false(pr_plane_book_ok(&b));
    b = book, b.c8[15] = 113, assert_false(pr_plane_book_ok(&b));
    b = book, b.k16 = 0, assert_false(pr_plane_book_ok(&b)), b.k16 = 129, assert_false(pr_plane_book_ok(&b));
    b = book, b.k16 = 128, assert_true(pr_plane_book_ok(&b)), b.k16 = 1, assert_true(pr_plane_book_ok(&b));
    b = book, b.f2 = NAN, assert_false(pr_plane_book_ok(&b));
    b = book, b.f4 = INFINITY, assert_false(pr_plane_book_ok(&b));
    b = book, b.f8 = -INFINITY, assert_false(pr_plane_book_ok(&b));
}

static void test_round_trip(void **state) {
    (void)state;
    matrix m;
    fill(&m);
    for (pr_plane level = PR_PLANE_P2; level < PR_PLANE_COUNT; level++) {
        for (uint32_t r = 0; r < TILES * PR_TILE_ROWS; r++) {
            const uint8_t *plane[PR_PLANE_COUNT];
            float out[COLS];
            planes_of(&m, level, r / PR_TILE_ROWS, plane);
            pr_plane_row(plane, level, &book, COLS, r % PR_TILE_ROWS, out);
            for (uint32_t c = 0; c < COLS; c++) {
                assert_true(out[c] == (r < ROWS ? weight_of(&m, level, r, c) : 0.0f)); /* padding rows are zeros */
            }
        }
    }
    release(&m);
}

/* Where single bits stand, by the words of planes.h and not by the code. */
static void test_places(void **state) {
    (void)state;
    static uint8_t code[64], n[64], scales[2];
    static int8_t b[64];
    uint8_t *plane[PR_PLANE_COUNT];
    for (int p = 0; p < PR_PLANE_COUNT; p++) plane[p] = calloc(1, pr_plane_tile_bytes((pr_plane)p, 64));
    code[32 + 16 + 2 * 4 + 3] = 13, n[32 + 3 * 8 + 4 + 1] = 9, b[32 + 5 * 4 + 2] = -3, scales[1] = 77;
    pr_plane_codes codes = {code, scales, scales, 0x1234, n, b};
    pr_plane_put_row(plane, &codes, 64, 6);
    assert_int_equal(plane[0][128 + 64 + 6 * 4 + 3], 3 << 4);
    assert_int_equal(plane[1][128 + 64 + 6 * 4 + 3], 1 << 4);
    assert_int_equal(plane[2][256 + 3 * 64 + 6 * 4 + 1], 9 << 4);
    assert_int_equal(plane[3][512 + 5 * 64 + 6 * 4 + 2], 253);
    assert_int_equal(plane[0][256 + 16 + 6], 77);
    assert_int_equal(plane[1][256 + 16 + 6], 77);
    assert_int_equal(plane[0][256 + 32 + 2 * 6], 0x34);
    assert_int_equal(plane[0][256 + 32 + 2 * 6 + 1], 0x12);
    for (int p = 0; p < PR_PLANE_COUNT; p++) {
        static const int ones[] = {4, 2, 1, 1}; /* bytes that are not zero, and no others */
        int count = 0;
        for (size_t i = 0; i < pr_plane_tile_bytes((pr_plane)p, 64); i++) count += plane[p][i] != 0;
        assert_int_equal(count, ones[p]);
        free(plane[p]);
    }
}

/* Planes and parts of codes may be left out when writing. */
static void test_put_some(void **state) {
    (void)state;
    matrix m;
    fill(&m);
    for (int last = 0; last < PR_PLANE_COUNT; last++) {
        uint8_t *plane[PR_PLANE_COUNT] = {0};
        for (int p = 0; p <= last; p++) plane[p] = calloc(1, pr_plane_tile_bytes((pr_plane)p, COLS));
        for (uint32_t r = 0; r < PR_TILE_ROWS; r++) {
            pr_plane_codes codes = {
                m.code[r], m.s2[r], m.s4[r], m.row[r], last >= 2 ? m.n[r] : NULL, last >= 3 ? m.b[r] : NULL};
            pr_plane_put_row(plane, &codes, COLS, r);
        }
        for (int p = 0; p <= last; p++) {
            assert_memory_equal(plane[p], m.plane[p], pr_plane_tile_bytes((pr_plane)p, COLS));
            free(plane[p]);
        }
    }
    release(&m);
}

static void assert_near(double want, double got, double tolerance) {
    if (!(fabs(want - got) <= tolerance)) {
        print_error("want %.9g, got %.9g\n", want, got);
        fail();
    }
}

/* Tokens in the three forms that products take. */
static struct {
    float f32[TOKENS][COLS];
    pr_qblock q8[TOKENS][GROUPS];
    pr_qblock13 q13[TOKENS][GROUPS];
} x;

/* Column c of token t as a level's product with blocks or floats meets it. */
static double x_of(pr_plane level, bool blocks, uint32_t t, uint32_t c) {
    static const uint32_t order[4] = {0, 2, 1, 3};
    const pr_qblock *q8 = &x.q8[t][c / 32];
    const pr_qblock13 *q13 = &x.q13[t][c / 32];
    if (!blocks) return (double)x.f32[t][c];
    if (level < PR_PLANE_P16) return (double)q8->d * q8->q[c % 32];
    return (double)q13->d * q13->q[c % 32 / 4 * 4 + order[c % 4]];
}

static void check_products(const matrix *m, pr_plane level, bool blocks) {
    static float y[TOKENS][40];
    const pr_kernels *k = pr_kernels_of(0);
    for (int t = 0; t < TOKENS; t++) {
        for (int c = 0; c < COLS; c++) x.f32[t][c] = next_float();
        k->quant(x.f32[t], COLS, x.q8[t]);
        k->quant13(x.f32[t], COLS, x.q13[t]);
    }
    const void *const forms[] = {x.f32, x.q8, x.q13};
    const size_t strides[] = {sizeof x.f32[0], sizeof x.q8[0], sizeof x.q13[0]};
    int form = !blocks ? 0 : level < PR_PLANE_P16 ? 1 : 2;
    memset(y, 0xff, sizeof y);
    pr_plane_args args = {.book = &book,
                          .n_tiles = TILES,
                          .cols = COLS,
                          .x = forms[form],
                          .x_stride = strides[form],
                          .n_tokens = TOKENS,
                          .y = y[0],
                          .y_stride = 40};
    planes_of(m, level, 0, args.plane);
    (blocks ? k->planes_q : k->planes_f32)[level](&args);
    for (uint32_t t = 0; t < TOKENS; t++) {
        for (uint32_t r = 0; r < TILES * PR_TILE_ROWS; r++) {
            double sum = 0, size = 0;
            for (uint32_t c = 0; r < ROWS && c < COLS; c++) {
                double xc = x_of(level, blocks, t, c);
                sum += (double)weight_of(m, level, r, c) * xc;
                size += fabs((double)weight_of(m, level, r, c) * xc);
            }
            assert_near(sum, (double)y[t][r], size * 1e-6);
        }
        assert_true(isnan(y[t][TILES * PR_TILE_ROWS])); /* nothing past the tiles */
    }
}

static void test_products(void **state) {
    (void)state;
    matrix m;
    fill(&m);
    for (pr_plane level = PR_PLANE_P2; level < PR_PLANE_COUNT; level++) {
        check_products(&m, level, false);
        check_products(&m, level, true);
    }
    release(&m);
}

/* The largest integers of both signs meet: a block's sum comes within 32 bits, of every instruction set. */
static void test_largest_sums(void **state) {
    (void)state;
    enum { WORST = 128 * 128 + 128, TOKENS_MOST = 14 };
    const pr_plane_book least = {.c8 = {-128}, .k16 = 128, .f8 = 128};
    uint8_t code[PR_BLOCK] = {0}, n[PR_BLOCK] = {0}, s4 = 1;
    int8_t b[PR_BLOCK];
    float ones[PR_BLOCK];
    pr_qblock13 q;
    memset(b, -128, sizeof b);
    uint8_t *plane[PR_PLANE_COUNT];
    for (int p = 0; p < PR_PLANE_COUNT; p++) plane[p] = calloc(1, pr_plane_tile_bytes((pr_plane)p, PR_BLOCK));
    const pr_plane_codes codes = {code, &s4, &s4, pr_f32_to_f16(1), n, b};
    for (uint32_t r = 0; r < PR_TILE_ROWS; r++) pr_plane_put_row(plane, &codes, PR_BLOCK, r);
    for (int sign = -1; sign <= 1; sign += 2) {
        for (int c = 0; c < PR_BLOCK; c++) ones[c] = (float)sign;
        pr_kernels_of(0)->quant13(ones, PR_BLOCK, &q);
        assert_int_equal(q.q[0], sign * PR_Q13_MAX);
        for (uint32_t isa = 0; isa <= PR_CPU_AVXVNNI; isa = isa ? 2 * isa : 1) {
            if (!pr_kernels_of(isa)) continue;
            for (uint32_t tokens = 1; tokens <= TOKENS_MOST; tokens++) { /* decoded in registers, and by panel */
                float y[TOKENS_MOST * PR_TILE_ROWS];
                pr_plane_args args = {.plane = {plane[0], plane[1], plane[2], plane[3]},
                                      .book = &least,
                                      .n_tiles = 1,
                                      .cols = PR_BLOCK,
                                      .x = &q,
                                      .n_tokens = tokens,
                                      .y = y,
                                      .y_stride = PR_TILE_ROWS};
                pr_kernels_of(isa)->planes_q[PR_PLANE_P16](&args);
                for (uint32_t i = 0; i < tokens * PR_TILE_ROWS; i++)
                    assert_near(-sign * 32.0 * WORST, (double)y[i], 32.0 * WORST * 1e-6);
            }
        }
    }
    for (int p = 0; p < PR_PLANE_COUNT; p++) free(plane[p]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),      cmocka_unit_test(test_tile_bytes),   cmocka_unit_test(test_book),
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_places),       cmocka_unit_test(test_put_some),
        cmocka_unit_test(test_products),   cmocka_unit_test(test_largest_sums),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
