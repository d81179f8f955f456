/*
 * The encoder's view of a matrix's inputs: H and its factor.
 *
 * Feedback needs, for each column, what the errors of the columns before it have done to it. GPTQ takes that from a
 * Cholesky factor of H^-1. The same numbers come from H = R R^T with R upper (the factorization that starts at the last
 * column), divided by the diagonal: no inverse, a third of the work, and better numbers. Blocks of 32 columns, from the last to
 * the first: a block's columns get what later ones leave of them by one product, then the 32 x 32 corner is factored in
 * double and its inverse makes the rest.
 *
 * A pivot cannot be below the damping except by rounding, so half of it is a floor that no sound matrix meets.
 */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "store/encode_impl.h"

enum { CHUNK = 64 }; /* rows of a work item */

typedef struct factor {
    pr__hess *hess;
    const pr_kernels *k;
    const float *gram;
    float *line;                        /* [cols] */
    float *later;                       /* [2 tiles][columns after the block][16]: the block's rows there */
    float inverse[PR_BLOCK * PR_BLOCK]; /* of the corner, as 2 tiles */
    double scale;
    uint32_t first; /* column of the block */
} factor;

/* ---- checks and normalisation ---- */

static void scan_body(void *ctx, uint32_t chunk, int thread) {
    (void)thread;
    factor *f = ctx;
    uint32_t cols = f->hess->cols;
    for (uint32_t i = chunk * CHUNK; i < cols && i < (chunk + 1) * CHUNK; i++) {
        const float *row = f->gram + (size_t)i * cols;
        float sum = 0;
        for (uint32_t j = 0; j < cols; j++) sum += row[j] * 0.0f; /* NaN when any is not finite */
        f->line[i] = sum;
    }
}

static pr_status check_gram(factor *f, pr_team *team, pr_err *err) {
    uint32_t cols = f->hess->cols;
    pr__encode_loop(team, (cols + CHUNK - 1) / CHUNK, scan_body, f);
    double sum = 0;
    for (uint32_t i = 0; i < cols; i++) {
        const float *row = f->gram + (size_t)i * cols;
        for (uint32_t j = 0; j < cols && f->line[i] != 0.0f; j++)
            if (!isfinite(row[j])) return pr_fail(err, PR_ERR_FORMAT, "gram [%u, %u] is not a finite number", i, j);
        if (row[i] < 0) return pr_fail(err, PR_ERR_FORMAT, "gram [%u, %u], on the diagonal, is negative", i, i);
        sum += (double)row[i];
    }
    f->scale = sum > 0 ? cols / sum : 0;
    return PR_OK;
}

static pr_status check_diag(factor *f, const float *diag, pr_err *err) {
    double sum = 0;
    for (uint32_t i = 0; i < f->hess->cols; i++) {
        if (!isfinite(diag[i]) || diag[i] < 0)
            return pr_fail(err, PR_ERR_FORMAT, "diag [%u] is not a finite number of 0 or more", i);
        sum += (double)diag[i];
    }
    f->scale = sum > 0 ? f->hess->cols / sum : 0;
    return PR_OK;
}

static void copy_body(void *ctx, uint32_t chunk, int thread) {
    (void)thread;
    factor *f = ctx;
    pr__hess *s = f->hess;
    for (uint32_t i = chunk * CHUNK; i < s->cols && i < (chunk + 1) * CHUNK; i++) {
        const float *row = f->gram + (size_t)i * s->cols;
        float *out = s->h + i * s->stride;
        for (uint32_t j = 0; j < s->cols; j++) out[j] = (float)(row[j] * f->scale);
        out[i] = s->diag[i];
        memcpy(s->n + i * s->stride, out, s->cols * sizeof *out);
    }
}

/* ---- the factor ---- */

/* R of the corner a[32][32], upper, in place; and its inverse. */
static void factor_corner(double a[PR_BLOCK][PR_BLOCK], double inverse[PR_BLOCK][PR_BLOCK], double least) {
    for (int j = PR_BLOCK - 1; j >= 0; j--) {
        double sum = a[j][j];
        for (int m = j + 1; m < PR_BLOCK; m++) sum -= a[j][m] * a[j][m];
        a[j][j] = sqrt(sum > least ? sum : least);
        for (int i = 0; i < j; i++) {
            sum = a[i][j];
            for (int m = j + 1; m < PR_BLOCK; m++) sum -= a[i][m] * a[j][m];
            a[i][j] = sum / a[j][j];
        }
    }
    for (int j = 0; j < PR_BLOCK; j++)
        for (int i = PR_BLOCK - 1; i >= 0; i--) {
            double sum = i == j;
            for (int m = i + 1; m <= j; m++) sum -= a[i][m] * inverse[m][j];
            inverse[i][j] = i <= j ? sum / a[i][i] : 0;
        }
}

/* The block's own 32 rows: later columns packed, corner factored. */
static void corner(factor *f) {
    pr__hess *s = f->hess;
    uint32_t first = f->first, next = first + PR_BLOCK, n_later = s->cols - next;
    float sums[PR_BLOCK * PR_BLOCK];
    double a[PR_BLOCK][PR_BLOCK], inverse[PR_BLOCK][PR_BLOCK];
    for (uint32_t i = 0; i < PR_BLOCK; i++) {
        const float *row = s->n + (first + i) * s->stride + next;
        float *out = f->later + (size_t)(i / PR_TILE_ROWS) * n_later * PR_TILE_ROWS + i % PR_TILE_ROWS;
        for (uint32_t j = 0; j < n_later; j++) out[(size_t)j * PR_TILE_ROWS] = row[j];
    }
    memset(sums, 0, sizeof sums);
    if (n_later)
        pr__encode_product(f->k, f->later, 0, 2, n_later, s->n + first * s->stride + next, s->stride, PR_BLOCK, sums,
                           PR_BLOCK);
    for (uint32_t i = 0; i < PR_BLOCK; i++)
        for (uint32_t j = 0; j < PR_BLOCK; j++)
            a[i][j] = (double)s->n[(first + i) * s->stride + first + j] - (double)sums[i * PR_BLOCK + j];
    factor_corner(a, inverse, 0.5 * (double)s->damp);
    for (uint32_t i = 0; i < PR_BLOCK; i++) {
        s->pivot[first + i] = (float)(a[i][i] * a[i][i]);
        for (uint32_t j = 0; j < PR_BLOCK; j++) {
            if (j >= i) s->n[(first + i) * s->stride + first + j] = (float)a[i][j];
            f->inverse[(i / PR_TILE_ROWS * PR_BLOCK + j) * PR_TILE_ROWS + i % PR_TILE_ROWS] = (float)inverse[i][j];
        }
    }
}

/* R of the rows above the block, in its columns. */
static void above_body(void *ctx, uint32_t chunk, int thread) {
    (void)thread;
    factor *f = ctx;
    pr__hess *s = f->hess;
    uint32_t first = f->first, next = first + PR_BLOCK, n_later = s->cols - next;
    uint32_t at = chunk * CHUNK, n = first - at < CHUNK ? first - at : CHUNK;
    float *rows = s->n + at * s->stride, sums[CHUNK * PR_BLOCK];
    memset(sums, 0, sizeof sums);
    if (n_later) pr__encode_product(f->k, f->later, 0, 2, n_later, rows + next, s->stride, n, sums, PR_BLOCK);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < PR_BLOCK; j++)
            sums[i * PR_BLOCK + j] = rows[i * s->stride + first + j] - sums[i * PR_BLOCK + j];
    pr__encode_product(f->k, f->inverse, 0, 2, PR_BLOCK, sums, PR_BLOCK, n, rows + first, s->stride);
}

/* Rows of N^T from columns of R: the upper triangle is only read, the lower one only written. */
static void transpose_body(void *ctx, uint32_t block, int thread) {
    (void)thread;
    factor *f = ctx;
    pr__hess *s = f->hess;
    uint32_t first = block * PR_BLOCK;
    float scale[PR_BLOCK];
    for (uint32_t k = 0; k < PR_BLOCK; k++) scale[k] = 1 / s->n[(first + k) * s->stride + first + k];
    for (uint32_t j = 0; j < first + PR_BLOCK; j++)
        for (uint32_t k = j < first ? 0 : j - first + 1; k < PR_BLOCK; k++)
            s->n[(first + k) * s->stride + j] = s->n[j * s->stride + first + k] * scale[k];
}

static void factorize(factor *f, pr_team *team) {
    uint32_t cols = f->hess->cols;
    for (uint32_t first = cols; first > 0;) {
        first -= PR_BLOCK;
        f->first = first;
        corner(f);
        pr__encode_loop(team, (first + CHUNK - 1) / CHUNK, above_body, f);
    }
    pr__encode_loop(team, cols / PR_BLOCK, transpose_body, f);
}

/* ---- opening ---- */

static pr_status reserve(factor *f, bool full, pr_err *err) {
    pr__hess *s = f->hess;
    size_t cells;
    s->stride = s->cols % 1024 ? s->cols
                               : s->cols + 16; /* rows a multiple of 4096 bytes apart fall on each other in caches */
    s->diag = pr_calloc(PR_TAG_MISC, s->cols, 2 * sizeof *s->diag);
    f->line = pr_calloc(PR_TAG_MISC, s->cols, sizeof *f->line);
    if (!s->diag || !f->line) return pr_fail_nomem(err, "the inputs' diagonal", s->cols * 3 * sizeof *s->diag);
    s->pivot = s->diag + s->cols;
    if (!pr_size_mul(s->cols, s->stride, &cells) || !pr_size_mul(cells, sizeof *s->h, &s->bytes))
        return pr_fail(err, PR_ERR_LIMIT, "%u columns are too many", s->cols);
    if (!full) return PR_OK;
    s->h = pr_map(PR_TAG_MISC, s->bytes);
    if (!s->h) return pr_fail_nomem(err, "the inputs' matrix", s->bytes);
    s->n = pr_map(PR_TAG_MISC, s->bytes);
    f->later = pr_alloc(PR_TAG_MISC, (size_t)s->cols * PR_BLOCK * sizeof *f->later);
    return s->n && f->later ? PR_OK : pr_fail_nomem(err, "the inputs' factor", s->bytes);
}

pr_status pr__hess_open(pr__hess *hess, const float *gram, const float *diag, uint32_t cols, float damp, bool full,
                        const pr_kernels *k, pr_team *team, pr_err *err) {
    *hess = (pr__hess){.cols = cols, .damp = damp};
    factor f = {.hess = hess, .k = k, .gram = gram};
    pr_status st = reserve(&f, gram && full, err);
    if (!st && gram) st = check_gram(&f, team, err);
    else if (!st && diag) st = check_diag(&f, diag, err);
    if (!st) {
        const float *at = gram ? gram : diag;
        size_t step = gram ? (size_t)cols + 1 : 1;
        for (uint32_t i = 0; i < cols; i++) {
            float own = at ? (float)(at[i * step] * f.scale) : 1.0f;
            hess->diag[i] = hess->pivot[i] = own + damp;
        }
        if (hess->h) pr__encode_loop(team, (cols + CHUNK - 1) / CHUNK, copy_body, &f);
        if (hess->n) factorize(&f, team);
    }
    pr_free(f.line);
    pr_free(f.later);
    if (st) pr__hess_close(hess);
    return st;
}

void pr__hess_close(pr__hess *hess) {
    if (hess->h) pr_unmap(PR_TAG_MISC, hess->h, hess->bytes);
    if (hess->n) pr_unmap(PR_TAG_MISC, hess->n, hess->bytes);
    pr_free(hess->diag);
    *hess = (pr__hess){0};
}
