/*
 * The encoder: a matrix and the Gram matrix of its inputs become planes.
 *
 * Three parts. H is normalised and factored (encode_hess.c). A sample of rows makes the book (encode_book.c). Then every
 * block of 32 rows is encoded from start to end with that book: scales, feedback, rounds of descent, residuals
 * (encode_rows.c), and written. As a block of rows needs nothing of the others, threads share them freely, memory beside
 * H is a few megabytes a thread whatever the number of rows, and nothing depends on how many threads there are.
 *
 * A row's scales are 1..255 of its own unit from the start, so everything later sees the numbers that will be read.
 */
#include "store/encode.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "store/encode_impl.h"

enum { SCAN_ROWS = 64, FACTORS = 16, FACTORS_FAST = 8, SAMPLE_FAST = 64 };

/* ---- loops ---- */

typedef struct team_loop {
    pr_team *team;
    uint32_t n;
    void (*body)(void *ctx, uint32_t chunk, int thread);
    void *ctx;
} team_loop;

static void loop_thread(void *ctx, int thread) {
    team_loop *l = ctx;
    pr_team_for(l->team, thread, l->n, l->body, l->ctx);
}

void pr__encode_loop(pr_team *team, uint32_t n, void (*body)(void *ctx, uint32_t chunk, int thread), void *ctx) {
    if (n == 1) body(ctx, 0, 0);
    else pr_team_run(team, loop_thread, &(team_loop){team, n, body, ctx});
}

/* ---- the matrix ---- */

static void scan_body(void *ctx, uint32_t chunk, int thread) {
    (void)thread;
    pr__encoder *e = ctx;
    const pr_encode_job *job = e->job;
    for (uint32_t i = chunk * SCAN_ROWS; i < job->rows && i < (chunk + 1) * SCAN_ROWS; i++) {
        const float *row = job->w + (size_t)i * job->cols;
        int32_t top = 0; /* floats without sign compare like integers, and NaN above all */
        for (uint32_t c = 0; c < job->cols; c++) {
            int32_t bits;
            memcpy(&bits, &row[c], sizeof bits);
            bits &= INT32_MAX;
            top = bits > top ? bits : top;
        }
        memcpy(&e->top[i], &top, sizeof top);
    }
}

/* Look at every weight: all finite? how large? And choose the sample among rows that are not zeros. */
static pr_status scan(pr__encoder *e, pr_err *err) {
    const pr_encode_job *job = e->job;
    pr__encode_loop(e->team, (job->rows + SCAN_ROWS - 1) / SCAN_ROWS, scan_body, e);
    float top = 0;
    uint32_t n_live = 0, seen = 0;
    for (uint32_t i = 0; i < job->rows; i++) {
        for (uint32_t c = 0; c < job->cols && !isfinite(e->top[i]); c++)
            if (!isfinite(job->w[(size_t)i * job->cols + c]))
                return pr_fail(err, PR_ERR_FORMAT, "weight [%u, %u] is not a finite number", i, c);
        top = fmaxf(top, e->top[i]);
        n_live += e->top[i] > 0;
    }
    int exponent = 0;
    frexpf(top, &exponent);
    e->unit = ldexpf(1, exponent < -120 ? 120 : -exponent);
    uint32_t most = e->opts.fast ? SAMPLE_FAST : PR__SAMPLE_MAX, want = n_live < most ? n_live : most;
    for (uint32_t i = 0; i < job->rows && e->n_sample < want; i++) {
        if (!(e->top[i] > 0)) continue;
        if ((uint64_t)seen * want >= (uint64_t)e->n_sample * n_live) e->sample[e->n_sample++] = i;
        seen++;
    }
    return PR_OK;
}

/* ---- a block of rows ---- */

/* A half that is not below v. */
static uint16_t half_above(float v) {
    uint16_t h = pr_f32_to_f16(v);
    if (pr_f16_to_f32(h) < v) h++;
    return h > 0x7bff ? 0x7bff : h;
}

/* Each row's unit: what makes the largest scale 230 or so, to leave it room to grow. */
static void set_rows(pr__rows *rows, const pr__encoder *e) {
    const pr_plane_book *book = &e->job->book;
    float f2 = book->f2 * e->unit, f4 = book->f4 * e->unit;
    for (uint32_t r = 0; r < PR__LANES; r++) {
        float top = 0;
        for (uint32_t g = 0; g < e->job->cols / PR_BLOCK; g++)
            top = fmaxf(top, fmaxf(rows->s2[g * PR__LANES + r] / f2, rows->s4[g * PR__LANES + r] / f4));
        rows->row[r] = half_above(top * (1.1f / 255));
        float row = pr_f16_to_f32(rows->row[r]);
        rows->quantum2[r] = row * f2;
        rows->quantum4[r] = row * f4;
    }
}

/* The unit of c8 + n: bit for bit what readers compute. */
static void set_s8(pr__rows *rows, const pr__encoder *e) {
    float f8 = e->job->book.f8 * e->unit;
    for (uint32_t g = 0; g < e->job->cols / PR_BLOCK; g++)
        for (uint32_t r = 0; r < PR__LANES; r++) {
            float q = rows->quantum4[r], s = rows->s4[g * PR__LANES + r];
            rows->s8[g * PR__LANES + r] = q > 0 ? rintf(s / q) * (pr_f16_to_f32(rows->row[r]) * f8) : 0;
        }
}

static void write_row(const pr__rows *rows, const pr__encoder *e, uint32_t lane, uint32_t row) {
    pr_encode_job *job = e->job;
    uint32_t cols = job->cols, nb = cols / PR_BLOCK, tile = row / PR_TILE_ROWS;
    uint8_t *code = rows->line, *n = code + cols, *s2 = n + 2 * (size_t)cols, *s4 = s2 + nb;
    int8_t *b = (int8_t *)(n + cols);
    for (uint32_t c = 0; c < cols; c++) {
        size_t at = (size_t)c * PR__LANES + lane;
        code[c] = rows->code[at];
        n[c] = rows->n[at];
        b[c] = rows->b[at];
    }
    for (uint32_t g = 0; g < nb; g++) {
        float q2 = rows->quantum2[lane], q4 = rows->quantum4[lane];
        s2[g] = (uint8_t)(q2 > 0 ? rintf(rows->s2[g * PR__LANES + lane] / q2) : 0);
        s4[g] = (uint8_t)(q4 > 0 ? rintf(rows->s4[g * PR__LANES + lane] / q4) : 0);
    }
    uint8_t *plane[PR_PLANE_COUNT] = {NULL};
    for (uint32_t p = 0; p < e->opts.n_planes; p++)
        plane[p] = job->plane[p] + tile * pr_plane_tile_bytes((pr_plane)p, cols);
    pr_plane_put_row(plane, &(pr_plane_codes){.code = code, .s2 = s2, .s4 = s4, .row = rows->row[lane], .n = n, .b = b},
                     cols, row % PR_TILE_ROWS);
}

/* Losses of two levels, from what is in rows->d, where they are asked for. */
static void note_loss(const pr__rows *rows, const pr__encoder *e, uint32_t level, uint32_t row) {
    const pr_encode_loss *loss = &e->job->loss;
    bool want[2] = {level < e->opts.n_planes && loss->row[level], level + 1 < e->opts.n_planes && loss->row[level + 1]};
    double sums[2][PR__LANES];
    if (!want[0] && !want[1]) return;
    pr__rows_loss(rows, &e->pass, sums);
    double by = 1 / ((double)e->unit * (double)e->unit * e->job->cols);
    for (uint32_t i = 0; i < 2; i++)
        for (uint32_t r = 0; r < rows->n_rows && want[i]; r++) loss->row[level + i][row + r] = (float)(sums[i][r] * by);
}

static void encode_body(void *ctx, uint32_t block, int thread) {
    pr__encoder *e = ctx;
    pr__rows *rows = &e->rows[thread];
    pr__refined unused;
    uint32_t first = block * PR__LANES, index[PR__LANES];
    uint32_t n = e->job->rows - first < PR__LANES ? e->job->rows - first : PR__LANES;
    for (uint32_t i = 0; i < n; i++) index[i] = first + i;
    pr__rows_load(rows, e->job->w, e->job->cols, index, n, e->unit);
    pr__rows_floor(rows, &e->pass);
    pr__rows_search(rows, &e->pass);
    set_rows(rows, e);
    pr__rows_round(rows, e->job->cols);
    pr__rows_feedback(rows, &e->pass);
    for (uint32_t i = 0; i < e->opts.n_polish; i++) pr__rows_descend(rows, &e->pass);
    note_loss(rows, e, PR_PLANE_P2, first);
    if (e->opts.n_planes > PR_PLANE_P8) {
        set_s8(rows, e);
        pr__rows_refine(rows, &e->pass, (float)e->job->book.k16, &unused);
        note_loss(rows, e, PR_PLANE_P8, first);
    }
    for (uint32_t i = 0; i < n; i++) write_row(rows, e, i, first + i);
}

/* ---- the whole ---- */

static pr_status check_args(const pr_encode_job *job, pr_err *err) {
    const pr_encode_opts *o = &job->opts;
    if (!job->rows || !job->cols || job->cols % PR_BLOCK)
        return pr_fail(err, PR_ERR_ARG, "%u rows of %u columns cannot be encoded", job->rows, job->cols);
    if (o->n_planes < 1 || o->n_planes > PR_PLANE_COUNT)
        return pr_fail(err, PR_ERR_ARG, "n_planes: %u is not in 1..4", o->n_planes);
    if (!(o->lambda >= 0 && o->lambda <= 1))
        return pr_fail(err, PR_ERR_ARG, "lambda: %g is not in 0..1", (double)o->lambda);
    if (!(o->damp >= 0) || !isfinite(o->damp))
        return pr_fail(err, PR_ERR_ARG, "damp: %g is not 0 or more", (double)o->damp);
    return PR_OK;
}

static pr_status reserve(pr__encoder *e, pr_err *err) {
    const pr_encode_job *job = e->job;
    uint32_t threads = (uint32_t)pr_team_size(e->team), blocks = (e->n_sample + PR__LANES - 1) / PR__LANES;
    e->n_rows = threads > blocks ? threads : blocks;
    e->rows = pr_calloc(PR_TAG_MISC, e->n_rows, sizeof *e->rows);
    if (!e->rows) return pr_fail_nomem(err, "rows being encoded", e->n_rows * sizeof *e->rows);
    for (uint32_t i = 0; i < e->n_rows; i++) {
        pr_status st = pr__rows_open(&e->rows[i], job->cols, err);
        if (st) return st;
    }
    return PR_OK;
}

static pr_status encode(pr__encoder *e, pr_err *err) {
    pr_encode_job *job = e->job;
    bool fast = e->opts.fast;
    for (uint32_t p = 0; p < e->opts.n_planes; p++)
        memset(job->plane[p], 0, pr_pack_tiles(job->rows) * pr_plane_tile_bytes((pr_plane)p, job->cols));
    e->top = pr_alloc(PR_TAG_MISC, job->rows * sizeof *e->top);
    e->sample = pr_alloc(PR_TAG_MISC, PR__SAMPLE_MAX * sizeof *e->sample);
    if (!e->top || !e->sample) return pr_fail_nomem(err, "rows to encode", job->rows * sizeof *e->top);
    pr_status st = scan(e, err);
    if (!st) st = pr__hess_open(&e->hess, job->gram, job->diag, job->cols, e->opts.damp, !fast, e->k, e->team, err);
    e->pass.full = e->hess.h != NULL;
    if (!st) st = reserve(e, err);
    if (!st) st = pr__book_make(e, err);
    if (!st) pr__encode_loop(e->team, (job->rows + PR__LANES - 1) / PR__LANES, encode_body, e);
    return st;
}

pr_status pr_encode(pr_encode_job *job, const pr_kernels *k, pr_team *team, pr_err *err) {
    pr_status st = check_args(job, err);
    if (st) return st;
    pr__encoder e = {.job = job, .k = k, .team = team, .opts = job->opts};
    if (e.opts.lambda == 0) e.opts.lambda = 0.95f;
    if (e.opts.damp == 0) e.opts.damp = 0.1f;
    if (e.opts.fast) e.opts.n_polish = 1;
    e.pass = (pr__pass){.k = k,
                        .hess = &e.hess,
                        .book = &e.book,
                        .lambda = e.opts.n_planes == 1 ? 0 : e.opts.lambda,
                        .n_factors = e.opts.fast ? FACTORS_FAST : FACTORS};
    st = encode(&e, err);
    for (uint32_t i = 0; i < e.n_rows && e.rows; i++) pr__rows_close(&e.rows[i]);
    pr_free(e.rows);
    pr_free(e.top);
    pr_free(e.sample);
    pr__hess_close(&e.hess);
    return st;
}
