/*
 * Gram matrices by the engine's own matrix product.
 *
 * mm_f32 multiplies packed rows by vectors, both along the same dimension. Here that dimension is the batch: the packed
 * rows are features (a tile of 16 is 16 transposed columns of X, interleaved) and so are the vectors. A work item is a
 * strip of STRIP features against all features up to its own end, because the other triangle is the same numbers; long
 * strips come first, so that the threads end together. Strips are packed by the work item: it is one of many products
 * that it is then used for.
 */
#include "compress/gram.h"

#include <string.h>

#include "base/mem.h"

enum { STRIP = 128, TILES = STRIP / PR_TILE_ROWS, TAKE_COLS = 64, ALIGN = 64 };

pr_status pr_gram_init(pr_gram *gram, uint32_t cols, uint32_t rows_max, bool diagonal, pr_err *err) {
    size_t padded = pr_align_up(cols, PR_TILE_ROWS), sum_bytes, columns_bytes;
    *gram = (pr_gram){.cols = cols, .rows_max = rows_max};
    if (diagonal) {
        gram->sum = pr_calloc(PR_TAG_SCRATCH, cols, sizeof *gram->sum);
        return gram->sum ? PR_OK : pr_fail_nomem(err, "a diagonal", cols * sizeof *gram->sum);
    }
    gram->stride = pr_align_up(rows_max, PR_TILE_ROWS) + PR_TILE_ROWS; /* not a power of two apart */
    if (!pr_size_mul(cols, cols * sizeof(float), &sum_bytes) ||
        !pr_size_mul(padded, gram->stride * sizeof(float), &columns_bytes))
        return pr_fail(err, PR_ERR_LIMIT, "a matrix of %u columns is too wide to calibrate", cols);
    gram->sum = pr_calloc(PR_TAG_SCRATCH, 1, sum_bytes);
    gram->columns = pr_calloc(PR_TAG_SCRATCH, 1, columns_bytes);
    if (gram->sum && gram->columns) return PR_OK;
    pr_gram_free(gram);
    return pr_fail_nomem(err, "a Gram matrix", sum_bytes + columns_bytes);
}

void pr_gram_free(pr_gram *gram) {
    pr_free(gram->sum);
    pr_free(gram->columns);
    *gram = (pr_gram){0};
}

void pr_gram_clear(pr_gram *gram) {
    memset(gram->sum, 0, (gram->columns ? (size_t)gram->cols : 1) * gram->cols * sizeof *gram->sum);
    gram->n_rows = 0;
    gram->n_total = 0;
}

/* ---- taking a batch ------------------------------------------------------ */

uint32_t pr_gram_take_chunks(const pr_gram *gram) { return (gram->cols + TAKE_COLS - 1) / TAKE_COLS; }

static void add_squares(float *sum, uint32_t n_cols, const float *x, size_t x_stride, uint32_t n_rows) {
    for (uint32_t r = 0; r < n_rows; r++)
        for (uint32_t c = 0; c < n_cols; c++) sum[c] += x[r * x_stride + c] * x[r * x_stride + c];
}

void pr_gram_take(pr_gram *gram, uint32_t chunk, const float *x, size_t x_stride, uint32_t n_rows) {
    uint32_t first = chunk * TAKE_COLS, end = first + TAKE_COLS < gram->cols ? first + TAKE_COLS : gram->cols;
    if (!gram->columns) add_squares(gram->sum + first, end - first, x + first, x_stride, n_rows);
    for (uint32_t r0 = 0; r0 < n_rows && gram->columns; r0 += PR_TILE_ROWS) { /* a few rows at a time stay in cache */
        uint32_t r1 = r0 + PR_TILE_ROWS < n_rows ? r0 + PR_TILE_ROWS : n_rows;
        for (uint32_t c = first; c < end; c++) {
            float *out = gram->columns + c * gram->stride;
            for (uint32_t r = r0; r < r1; r++) out[r] = x[r * x_stride + c];
        }
    }
    if (chunk == 0) gram->n_rows = n_rows;
}

/* ---- multiplying ---------------------------------------------------------- */

size_t pr_gram_scratch(uint32_t rows_max) {
    size_t strip = (size_t)STRIP * rows_max * sizeof(float), result = (size_t)STRIP * STRIP * sizeof(float);
    return pr_align_up(strip, ALIGN) + result;
}

typedef struct adder {
    pr_gram *grams;
    size_t n;
    const pr_kernels *k;
    pr_team *team;
    uint8_t *scratch;
    size_t scratch_bytes; /* a thread */
    uint32_t n_chunks;
} adder;

static uint32_t strips(const pr_gram *g) { return g->columns && g->n_rows ? (g->cols + STRIP - 1) / STRIP : 0; }

/* Features first .. first + 16 * n_tiles as tiles whose columns are the rows of the batch. */
static void pack_strip(const pr_gram *g, uint32_t first, uint32_t n_tiles, float *out) {
    for (uint32_t t = 0; t < n_tiles; t++) {
        const float *from = g->columns + (size_t)(first + t * PR_TILE_ROWS) * g->stride;
        float *tile = out + (size_t)t * PR_TILE_ROWS * g->n_rows;
        for (uint32_t r = 0; r < g->n_rows; r++)
            for (uint32_t f = 0; f < PR_TILE_ROWS; f++) tile[r * PR_TILE_ROWS + f] = from[f * g->stride + r];
    }
}

/* sum[t][r] for the features r of the strip and t up to its end. */
static void multiply_strip(const adder *a, pr_gram *g, uint32_t strip, int thread) {
    float *tiles = (float *)(void *)(a->scratch + (size_t)thread * a->scratch_bytes);
    float *y = tiles + pr_align_up((size_t)STRIP * g->rows_max, ALIGN / sizeof(float));
    uint32_t first = strip * STRIP, left = g->cols - first, n = left < STRIP ? left : STRIP;
    uint32_t n_tiles = pr_pack_tiles(n);
    pack_strip(g, first, n_tiles, tiles);
    for (uint32_t t0 = 0; t0 < first + n; t0 += STRIP) {
        uint32_t n_t = first + n - t0 < STRIP ? first + n - t0 : STRIP;
        pr_mm_args args = {
            .tiles = (const uint8_t *)tiles,
            .n_tiles = n_tiles,
            .cols = g->n_rows,
            .x = g->columns + t0 * g->stride,
            .x_stride = g->stride * sizeof(float),
            .n_tokens = n_t,
            .y = y,
            .y_stride = STRIP,
        };
        a->k->mm_f32[PR_PACK_F32](&args);
        for (uint32_t t = 0; t < n_t; t++) {
            float *sum = g->sum + (size_t)(t0 + t) * g->cols + first; /* the strip's columns of row t */
            a->k->add(sum, y + (size_t)t * STRIP, n, sum);
        }
    }
}

static void body(void *ctx, uint32_t chunk, int thread) {
    const adder *a = ctx;
    for (size_t i = 0; i < a->n; i++) {
        uint32_t n = strips(&a->grams[i]);
        if (chunk < n) {
            multiply_strip(a, &a->grams[i], n - 1 - chunk, thread);
            return;
        }
        chunk -= n;
    }
}

static void run(void *ctx, int thread) {
    adder *a = ctx;
    pr_team_for(a->team, thread, a->n_chunks, body, a);
}

void pr_gram_add(pr_gram *grams, size_t n, const pr_kernels *k, pr_team *team, uint8_t *scratch) {
    adder a = {.grams = grams, .n = n, .k = k, .team = team, .scratch = scratch};
    uint32_t rows_max = 0;
    for (size_t i = 0; i < n; i++) {
        a.n_chunks += strips(&grams[i]);
        if (grams[i].rows_max > rows_max) rows_max = grams[i].rows_max;
    }
    a.scratch_bytes = pr_gram_scratch(rows_max);
    if (a.n_chunks) pr_team_run(team, run, &a);
    for (size_t i = 0; i < n; i++) {
        grams[i].n_total += grams[i].n_rows;
        grams[i].n_rows = 0;
    }
}

void pr_gram_finish(pr_gram *gram) {
    for (size_t i = 0; i < gram->cols && gram->columns; i++)
        for (size_t j = 0; j < i; j++) gram->sum[i * gram->cols + j] = gram->sum[j * gram->cols + i];
}
