/* Nested planes: every level with both kinds of activations. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkasm.h"

enum { TILES_MAX = 5, TOKENS_MAX = 30 };

static const char *const level_names[PR_PLANE_COUNT] = {"int2", "int4", "int8", "fp16"};

typedef enum plane_kind { PLANES_PLAIN, PLANES_ZERO, PLANES_LARGE, PLANES_TINY, PLANES_BYTES, PLANE_KINDS } plane_kind;

/* Books at the limits for every other kind, so that integer sums meet their worst case. */
static pr_plane_book random_book(plane_kind kind) {
    pr_plane_book b = {.k16 = kind == PLANES_LARGE  ? 128
                              : kind == PLANES_ZERO ? 1
                                                    : 1 + (int32_t)random_below(128),
                       .f2 = random_float(),
                       .f4 = random_float(),
                       .f8 = random_float()};
    bool extreme = kind == PLANES_LARGE || random_below(4) == 0;
    for (int i = 0; i < 16; i++) {
        int c2 = (int)random_below(33) - 16, c4 = (int)random_below(129) - 64, c8 = (int)random_below(241) - 128;
        b.c2[i % 4] = (int8_t)(extreme ? (random_below(2) ? 16 : -16) : c2);
        b.c4[i] = (int8_t)(extreme ? (random_below(2) ? 64 : -64) : c4);
        b.c8[i] = (int8_t)(extreme ? (random_below(2) ? 112 : -128) : c8);
    }
    return b;
}

static uint16_t random_row_scale(plane_kind kind) {
    switch (kind) {
    case PLANES_PLAIN: return pr_f32_to_f16(random_float() * 0.01f);
    case PLANES_ZERO: return 0;
    case PLANES_LARGE: return random_below(2) ? 0x7bff : 0xfbff;
    case PLANES_TINY: return (uint16_t)(1 + random_below(64));
    case PLANES_BYTES:
    case PLANE_KINDS: break;
    }
    return (uint16_t)random_u32();
}

/* The planes of a level; bytes anywhere, but row scales of the kind and often group scales of 0 and 255. */
static void fill_planes(uint8_t *const plane[PR_PLANE_COUNT], pr_plane level, uint32_t tiles, uint32_t cols,
                        plane_kind kind) {
    size_t codes = (size_t)cols * 4, scales = (size_t)cols / 2;
    for (int p = 0; p <= (int)level; p++) {
        size_t bytes = pr_plane_tile_bytes((pr_plane)p, cols);
        random_bytes(plane[p], tiles * bytes);
        for (uint8_t *t = plane[p]; p < PR_PLANE_P8 && t < plane[p] + tiles * bytes; t += bytes) {
            for (size_t i = 0; kind != PLANES_BYTES && i < scales; i++) {
                uint32_t pick = random_below(kind == PLANES_LARGE ? 2 : 8);
                t[codes + i] = pick == 0 ? 255 : pick == 2 ? 0 : t[codes + i];
            }
            for (size_t r = 0; p == PR_PLANE_P2 && r < PR_TILE_ROWS; r++) {
                uint16_t half = random_row_scale(kind);
                memcpy(t + codes + scales + 2 * r, &half, sizeof half);
            }
        }
    }
}

/* The forms of activations: floats, or the blocks that the level takes. */
static size_t row_bytes_of(pr_plane level, bool blocks, uint32_t cols) {
    if (!blocks) return cols * sizeof(float);
    return cols / PR_BLOCK * (level == PR_PLANE_P16 ? sizeof(pr_qblock13) : sizeof(pr_qblock));
}

/* Fill a row of activations; blocks also come as runs of the largest numbers, the worst case of integer sums. */
static void fill_row(pr_plane level, bool blocks, void *row, uint32_t cols, float_kind kind) {
    if (!blocks) {
        random_floats(row, cols, kind);
        return;
    }
    float *x = malloc(cols * sizeof *x);
    if (x == NULL) {
        exit(2);
    }
    random_floats(x, cols, kind);
    for (uint32_t c = 0; kind == FLOATS_MIXED && c < cols; c++) {
        x[c] = x[c / 32 * 32] < 0 ? -1.0f : 1.0f;
    }
    if (level == PR_PLANE_P16) pr_kernels_of(0)->quant13(x, cols, row);
    else pr_kernels_of(0)->quant(x, cols, row);
    free(x);
}

static pr_plane_fn *function_of(const pr_kernels *k, pr_plane level, bool blocks) {
    return (blocks ? k->planes_q : k->planes_f32)[level];
}

static const char *kind_name(pr_plane level, bool blocks) {
    return !blocks ? "f32" : level == PR_PLANE_P16 ? "q13" : "q8";
}

typedef struct shape {
    pr_plane level;
    bool blocks;
    uint32_t tiles, tokens, cols;
    plane_kind w_kind;
    float_kind x_kind;
} shape;

static void check_shape(const pr_kernels *ref, const pr_kernels *k, const shape *s) {
    size_t row_bytes = row_bytes_of(s->level, s->blocks, s->cols);
    size_t x_stride = row_bytes + 16 * random_below(5), y_stride = (size_t)s->tiles * PR_TILE_ROWS + random_below(9);
    size_t y_floats = (s->tokens - 1) * y_stride + (size_t)s->tiles * PR_TILE_ROWS;
    uint8_t *plane[PR_PLANE_COUNT] = {0}, *x = guard_alloc((s->tokens - 1) * x_stride + row_bytes);
    float *want = guard_alloc(y_floats * sizeof *want), *got = guard_alloc(y_floats * sizeof *got);
    for (int p = 0; p <= (int)s->level; p++) {
        plane[p] = guard_alloc(s->tiles * pr_plane_tile_bytes((pr_plane)p, s->cols));
    }
    pr_plane_book book = random_book(s->w_kind);
    fill_planes(plane, s->level, s->tiles, s->cols, s->w_kind);
    for (uint32_t t = 0; t < s->tokens; t++) {
        fill_row(s->level, s->blocks, x + t * x_stride, s->cols, s->x_kind);
    }
    pr_plane_args args = {.plane = {plane[0], plane[1], plane[2], plane[3]},
                          .book = &book,
                          .n_tiles = s->tiles,
                          .cols = s->cols,
                          .x = x,
                          .x_stride = x_stride,
                          .n_tokens = s->tokens,
                          .y = want,
                          .y_stride = y_stride};
    function_of(ref, s->level, s->blocks)(&args);
    args.y = got;
    function_of(k, s->level, s->blocks)(&args);
    check_floats(want, got, y_floats, "%u tiles, %u tokens, %u cols, weights %d, x %d", s->tiles, s->tokens, s->cols,
                 (int)s->w_kind, (int)s->x_kind);
    guard_free_all();
}

static void check_level(const pr_kernels *ref, const pr_kernels *k, pr_plane level, bool blocks) {
    shape s = {.level = level, .blocks = blocks};
    for (int i = 0; i < 5 * TOKENS_MAX; i++) {
        s.tokens = 1 + (uint32_t)i % TOKENS_MAX;
        s.tiles = 1 + random_below(TILES_MAX);
        s.cols = 32 * (1 + random_below(random_below(8) == 0 ? 60 : 9));
        s.w_kind = i % 3 == 0 ? (plane_kind)random_below(PLANE_KINDS) : PLANES_PLAIN;
        s.x_kind = i % 4 == 0 ? (float_kind)random_below(FLOAT_KINDS) : FLOATS_PLAIN;
        check_shape(ref, k, &s);
    }
    for (uint32_t tiles = 1; tiles <= TILES_MAX; tiles++) { /* decode, all kinds */
        for (int kind = 0; kind < PLANE_KINDS * FLOAT_KINDS; kind++) {
            s.tokens = 1 + random_below(3);
            s.tiles = tiles;
            s.cols = 32 * (1 + random_below(4));
            s.w_kind = (plane_kind)(kind % PLANE_KINDS);
            s.x_kind = (float_kind)(kind / PLANE_KINDS);
            check_shape(ref, k, &s);
        }
    }
    s = (shape){level,   blocks,       3,           70,
                32 * 45, PLANES_LARGE, FLOATS_MIXED}; /* long enough to be cut in both directions */
    check_shape(ref, k, &s);
}

void check_planes(const pr_kernels *ref, const pr_kernels *k) {
    for (int blocks = 0; blocks < 2; blocks++) {
        for (pr_plane level = PR_PLANE_P2; level < PR_PLANE_COUNT; level++) {
            char name[32];
            snprintf(name, sizeof name, "planes_%s.%s", kind_name(level, blocks), level_names[level]);
            check_begin(name, k);
            check_level(ref, k, level, blocks);
            check_end();
        }
    }
}

/* ---- timing ---- */

enum { COLS = 2048, TOKENS_BENCH = 512, PER_CALL = 4 };

typedef struct bench_ctx {
    pr_plane level;
    bool blocks;
    uint8_t *plane[PR_PLANE_COUNT], *x;
    pr_plane_book book;
    float *y;
    size_t x_stride;
    uint32_t tiles, tokens;
} bench_ctx;

/* The whole matrix in calls of a few tiles, as the executor makes them. */
static void run_planes(const pr_kernels *k, void *ctx, uint32_t part) {
    const bench_ctx *b = ctx;
    for (uint32_t i = 0; i < b->tiles / part; i += PER_CALL) {
        pr_plane_args args = {.book = &b->book,
                              .n_tiles = PER_CALL,
                              .cols = COLS,
                              .x = b->x,
                              .x_stride = b->x_stride,
                              .n_tokens = b->tokens,
                              .y = b->y,
                              .y_stride = (size_t)PER_CALL * PR_TILE_ROWS};
        for (int p = 0; p <= (int)b->level; p++) {
            args.plane[p] = b->plane[p] + i * pr_plane_tile_bytes((pr_plane)p, COLS);
        }
        function_of(k, b->level, b->blocks)(&args);
    }
}

/* Bytes that a level reads of a tile: all but the group scales of p2 above int2. */
static size_t bytes_read(pr_plane level) {
    size_t bytes = 0;
    for (int p = 0; p <= (int)level; p++) {
        bytes += pr_plane_tile_bytes((pr_plane)p, COLS);
    }
    return bytes - (level > PR_PLANE_P2 ? COLS / PR_BLOCK * PR_TILE_ROWS : 0);
}

static void bench_level(pr_plane level, bool blocks) {
    static const uint32_t tokens[] = {1, 2, 4, 8, 16, TOKENS_BENCH};
    size_t row_bytes = row_bytes_of(level, blocks, COLS);
    uint32_t all = (uint32_t)((96u << 20) / bytes_read(level)) / PER_CALL * PER_CALL;
    bench_ctx b = {.level = level, .blocks = blocks, .book = random_book(PLANES_PLAIN), .x_stride = row_bytes + 64};
    for (int p = 0; p <= (int)level; p++) {
        b.plane[p] = guard_alloc(all * pr_plane_tile_bytes((pr_plane)p, COLS));
    }
    b.x = guard_alloc(TOKENS_BENCH * b.x_stride);
    b.y = guard_alloc((size_t)TOKENS_BENCH * PER_CALL * PR_TILE_ROWS * sizeof(float));
    fill_planes(b.plane, level, PER_CALL, COLS, PLANES_PLAIN);
    for (int p = 0; p <= (int)level; p++) {
        size_t bytes = PER_CALL * pr_plane_tile_bytes((pr_plane)p, COLS);
        for (size_t i = 1; i < all / PER_CALL; i++) {
            memcpy(b.plane[p] + i * bytes, b.plane[p], bytes);
        }
    }
    for (uint32_t t = 0; t < TOKENS_BENCH; t++) {
        fill_row(level, blocks, b.x + t * b.x_stride, COLS, FLOATS_PLAIN);
    }
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        char name[48];
        b.tokens = tokens[i];
        b.tiles = b.tokens <= 8 ? all : 64;
        snprintf(name, sizeof name, "planes_%s.%s.%u", kind_name(level, blocks), level_names[level], b.tokens);
        double macs = (double)b.tiles * PR_TILE_ROWS * COLS * b.tokens;
        bench_case(name, run_planes, &b, 16, b.tokens <= 16 ? (double)b.tiles * (double)bytes_read(level) : 0.0, macs);
    }
    guard_free_all();
}

void bench_planes(void) {
    for (int blocks = 1; blocks >= 0; blocks--) {
        for (pr_plane level = PR_PLANE_P2; level < PR_PLANE_COUNT; level++) {
            bench_level(level, blocks);
        }
    }
}
