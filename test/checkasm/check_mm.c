/* Matrix products: every pack with both kinds of activations. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkasm.h"

enum { TILES_MAX = 5, TOKENS_MAX = 30 };

typedef enum weight_kind {
    WEIGHTS_PLAIN,
    WEIGHTS_ZERO,
    WEIGHTS_LARGE,
    WEIGHTS_TINY,
    WEIGHTS_BYTES,
    WEIGHT_KINDS
} weight_kind;

/* A scale as f16. */
static uint16_t random_scale(weight_kind kind) {
    switch (kind) {
    case WEIGHTS_PLAIN: return pr_f32_to_f16(random_float() * 0.01f);
    case WEIGHTS_ZERO: return 0;
    case WEIGHTS_LARGE: return random_below(2) ? 0x7bff : 0xfbff;
    case WEIGHTS_TINY: return (uint16_t)(1 + random_below(64));
    case WEIGHTS_BYTES:
    case WEIGHT_KINDS: break;
    }
    return (uint16_t)random_u32();
}

static void fill_floats(pr_pack pack, uint8_t *w, size_t n, weight_kind kind) {
    for (size_t i = 0; i < n; i++) {
        float x = random_float();
        x = kind == WEIGHTS_ZERO ? 0.0f : kind == WEIGHTS_LARGE ? x * 1e4f : kind == WEIGHTS_TINY ? x * 1e-7f : x;
        if (pack == PR_PACK_F32) {
            memcpy(w + 4 * i, &x, 4);
        } else {
            uint16_t half = pack == PR_PACK_F16 ? pr_f32_to_f16(x) : pr_f32_to_bf16(x);
            memcpy(w + 2 * i, &half, 2);
        }
    }
}

static void fill_blocks(pr_pack pack, uint8_t *w, size_t n_blocks, weight_kind kind) {
    size_t n_scales = pack == PR_PACK_Q8 ? 16 : 32, bytes = pack == PR_PACK_Q8 ? 512 : 256;
    for (size_t b = 0; b < n_blocks; b++) {
        for (size_t i = 0; i < n_scales; i++, w += 2) {
            uint16_t half = random_scale(kind);
            memcpy(w, &half, 2);
        }
        for (size_t i = 0; i < bytes; i++) {
            static const uint8_t extremes[] = {0x80, 0x81, 0x7f, 0xff};
            *w++ = kind == WEIGHTS_LARGE ? extremes[random_below(4)] : (uint8_t)random_u32();
        }
    }
}

static void fill_weights(pr_pack pack, uint8_t *w, uint32_t tiles, uint32_t cols, weight_kind kind) {
    if (kind == WEIGHTS_BYTES) {
        random_bytes(w, tiles * pr_pack_tile_bytes(pack, cols));
    } else if (pack == PR_PACK_Q8 || pack == PR_PACK_Q4) {
        fill_blocks(pack, w, (size_t)tiles * cols / PR_BLOCK, kind);
    } else {
        fill_floats(pack, w, (size_t)tiles * cols * PR_TILE_ROWS, kind);
    }
}

/* Fill a row of activations; quantized ones also come as runs of +-127, the worst case of integer sums. */
static void fill_row(const pr_kernels *ref, bool q8, void *row, uint32_t cols, float_kind kind) {
    if (!q8) {
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
    ref->quant(x, cols, row);
    free(x);
}

typedef struct shape {
    pr_pack pack;
    bool q8;
    uint32_t tiles, tokens, cols;
    weight_kind w_kind;
    float_kind x_kind;
} shape;

static void check_shape(const pr_kernels *ref, const pr_kernels *k, const shape *s) {
    size_t row_bytes = s->q8 ? s->cols / PR_BLOCK * sizeof(pr_qblock) : s->cols * sizeof(float);
    size_t x_stride = row_bytes + 16 * random_below(5), y_stride = (size_t)s->tiles * PR_TILE_ROWS + random_below(9);
    size_t tile_bytes = pr_pack_tile_bytes(s->pack, s->cols);
    size_t tile_stride = random_below(2) ? 0 : tile_bytes + 64 * random_below(3); /* 0: one after another */
    size_t w_step = tile_stride ? tile_stride : tile_bytes, w_bytes = (s->tiles - 1) * w_step + tile_bytes;
    size_t y_floats = (s->tokens - 1) * y_stride + (size_t)s->tiles * PR_TILE_ROWS;
    uint8_t *w = guard_alloc(w_bytes), *x = guard_alloc((s->tokens - 1) * x_stride + row_bytes);
    float *want = guard_alloc(y_floats * sizeof *want), *got = guard_alloc(y_floats * sizeof *got);
    for (uint32_t i = 0; i < s->tiles; i++) fill_weights(s->pack, w + i * w_step, 1, s->cols, s->w_kind);
    for (uint32_t t = 0; t < s->tokens; t++) {
        fill_row(ref, s->q8, x + t * x_stride, s->cols, s->x_kind);
    }
    pr_mm_args args = {.tiles = w,
                       .tile_stride = tile_stride,
                       .n_tiles = s->tiles,
                       .cols = s->cols,
                       .x = x,
                       .x_stride = x_stride,
                       .n_tokens = s->tokens,
                       .y = want,
                       .y_stride = y_stride};
    (s->q8 ? ref->mm_q8 : ref->mm_f32)[s->pack](&args);
    args.y = got;
    (s->q8 ? k->mm_q8 : k->mm_f32)[s->pack](&args);
    check_floats(want, got, y_floats, "%u tiles %zu apart, %u tokens, %u cols, weights %d, x %d", s->tiles, w_step,
                 s->tokens, s->cols, (int)s->w_kind, (int)s->x_kind);
    guard_free_all();
}

static uint32_t random_cols(bool blocks) {
    uint32_t n = random_below(8) == 0 ? 300 + random_below(1500) : 1 + random_below(300);
    return blocks ? (n + 31) / 32 * 32 : n;
}

static void check_pack(const pr_kernels *ref, const pr_kernels *k, pr_pack pack, bool q8) {
    shape s = {.pack = pack, .q8 = q8};
    bool blocks = pack == PR_PACK_Q8 || pack == PR_PACK_Q4;
    for (int i = 0; i < 5 * TOKENS_MAX; i++) {
        s.tokens = 1 + (uint32_t)i % TOKENS_MAX;
        s.tiles = 1 + random_below(TILES_MAX);
        s.cols = random_cols(blocks);
        s.w_kind = i % 3 == 0 ? (weight_kind)random_below(WEIGHT_KINDS) : WEIGHTS_PLAIN;
        s.x_kind = i % 4 == 0 ? (float_kind)random_below(FLOAT_KINDS) : FLOATS_PLAIN;
        check_shape(ref, k, &s);
    }
    for (int i = 0; i < 2; i++) { /* slice by slice: the tokens' rows are over 192 KB */
        s = (shape){.pack = pack, .q8 = q8, .tiles = 4, .tokens = 32, .cols = q8 ? 4608 : 2048};
        check_shape(ref, k, &s);
    }
    for (uint32_t tiles = 1; tiles <= TILES_MAX; tiles++) { /* decode, all kinds */
        for (int kind = 0; kind < WEIGHT_KINDS * FLOAT_KINDS; kind++) {
            s.tokens = 1 + random_below(3);
            s.tiles = tiles;
            s.cols = blocks ? 32 * (1 + random_below(4)) : 1 + random_below(40);
            s.w_kind = (weight_kind)(kind % WEIGHT_KINDS);
            s.x_kind = (float_kind)(kind / WEIGHT_KINDS);
            check_shape(ref, k, &s);
        }
    }
}

void check_mm(const pr_kernels *ref, const pr_kernels *k) {
    for (int q8 = 0; q8 < 2; q8++) {
        for (int pack = 0; pack < PR_PACK_PLANES; pack++) {
            if ((q8 ? ref->mm_q8 : ref->mm_f32)[pack] == NULL) {
                continue;
            }
            char name[32];
            snprintf(name, sizeof name, "mm_%s.%s", q8 ? "q8" : "f32", pr_pack_name((pr_pack)pack));
            check_begin(name, k);
            check_pack(ref, k, (pr_pack)pack, q8);
            check_end();
        }
    }
}

/* ---- timing ---- */

enum { COLS = 2048, TOKENS_BENCH = 512 };

typedef struct bench_ctx {
    pr_pack pack;
    bool q8;
    uint8_t *w, *x;
    float *y;
    size_t x_stride;
    uint32_t tiles, per_call, tokens;
} bench_ctx;

/* The whole matrix in calls of a few tiles, as the executor makes them. */
static void run_mm(const pr_kernels *k, void *ctx, uint32_t part) {
    const bench_ctx *b = ctx;
    size_t tile_bytes = pr_pack_tile_bytes(b->pack, COLS);
    for (uint32_t i = 0; i < b->tiles / part; i += b->per_call) {
        pr_mm_args args = {.tiles = b->w + i * tile_bytes,
                           .n_tiles = b->per_call,
                           .cols = COLS,
                           .x = b->x,
                           .x_stride = b->x_stride,
                           .n_tokens = b->tokens,
                           .y = b->y,
                           .y_stride = (size_t)b->per_call * PR_TILE_ROWS};
        (b->q8 ? k->mm_q8 : k->mm_f32)[b->pack](&args);
    }
}

static void bench_pack(pr_pack pack, bool q8) {
    static const uint32_t tokens[] = {1, 2, 4, 8, 16, TOKENS_BENCH};
    size_t row_bytes = q8 ? COLS / PR_BLOCK * sizeof(pr_qblock) : COLS * sizeof(float);
    size_t tile_bytes = pr_pack_tile_bytes(pack, COLS);
    uint32_t all = (uint32_t)((96u << 20) / tile_bytes) / 4 * 4;
    bench_ctx b = {.pack = pack, .q8 = q8, .x_stride = row_bytes + 64};
    b.w = guard_alloc(all * tile_bytes);
    b.x = guard_alloc(TOKENS_BENCH * b.x_stride);
    b.y = guard_alloc((size_t)TOKENS_BENCH * 4 * PR_TILE_ROWS * sizeof(float));
    fill_weights(pack, b.w, 4, COLS, WEIGHTS_PLAIN);
    for (uint32_t i = 4; i < all; i++) {
        memcpy(b.w + i * tile_bytes, b.w + i % 4 * tile_bytes, tile_bytes);
    }
    for (uint32_t t = 0; t < TOKENS_BENCH; t++) {
        fill_row(pr_kernels_of(0), q8, b.x + t * b.x_stride, COLS, FLOATS_PLAIN);
    }
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        char name[48];
        b.tokens = tokens[i];
        b.tiles = b.tokens <= 8 ? all : 64;
        b.per_call = b.tokens <= 16 ? 4 : 2;
        snprintf(name, sizeof name, "mm_%s.%s.%u", q8 ? "q8" : "f32", pr_pack_name(pack), b.tokens);
        double macs = (double)b.tiles * PR_TILE_ROWS * COLS * b.tokens;
        bench_case(name, run_mm, &b, 16, b.tokens <= 16 ? (double)b.tiles * (double)tile_bytes : 0.0, macs);
    }
    guard_free_all();
}

void bench_mm(void) {
    for (int q8 = 1; q8 >= 0; q8--) {
        for (int pack = 0; pack < PR_PACK_PLANES; pack++) {
            if ((q8 ? pr_kernels_of(0)->mm_q8 : pr_kernels_of(0)->mm_f32)[pack] != NULL) {
                bench_pack((pr_pack)pack, q8);
            }
        }
    }
}
