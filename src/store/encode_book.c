/*
 * The book of a tensor: codebooks, factors and the steps of the residuals, from a sample of its rows.
 *
 * Everything that all rows share is settled here, so that afterwards each block of rows goes its own way from start to
 * end, whatever its size and whoever works on it. Up to 128 rows evenly spread, 32 at a time, are encoded with
 * real numbers: feedback, then rounds of descent with the codebooks refitted between them. Then codebooks become
 * integers, and the step of p8 is the one with which feedback ends nearest to the weights. Sums
 * over blocks are taken in their order.
 *
 * Refitting codebooks takes a product for each entry, so it looks at 16 rows of every other block: the 16 numbers sought have
 * a thousand weights each to go by. More rows, rounds and refits were measured (prose-6m): within 2% of this either way.
 */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "store/encode_impl.h"

enum { N4 = 16, N2 = 4, REFIT_EVERY = 2, ROUNDS_MAX = 3, REFITS_MAX = 2 };

/* Steps from what one code stands for to what the next does, and so from its first nibble to the next's: 16 nibbles leave no
 * gap, and with 19 few weights fall between. Where there is p16, 17 steps from nibble to nibble: a weight between is one
 * step away at most then, which p16 carries at k16 = 128 and not at 64. */
enum { GAP_MAX = 19, GAP_MAX_P16 = 17 };

/* In units of a group's deviation: the best nested codebook of normally distributed numbers. */
static const float normal2[N2] = {-1.557f, -0.475f, 0.475f, 1.557f};
static const float normal4[N4] = {-2.7f, -2.03f, -1.57f, -1.2f, -0.89f, -0.63f, -0.37f, -0.12f,
                                  0.12f, 0.37f,  0.63f,  0.89f, 1.2f,   1.57f,  2.03f,  2.7f};

/* Steps of p8, in units of a group's deviation: what codes are held to in the sample, and what it is then taken times. A smaller
 * one halves the error of int8 soon, but codes that must reach the weight with it cost int4 and int2 more and more. */
static const float step_guess = 0.042f;
static const float step_times[] = {0.8f, 0.85f, 0.9f, 0.95f, 1, 1.06f, 1.13f, 1.25f, 1.45f, 1.8f};
enum { N_TIMES = sizeof step_times / sizeof *step_times };

typedef struct equations { /* normal equations of a codebook */
    double a[N4][N4], b[N4];
} equations;

typedef struct maker {
    pr__encoder *e;
    uint32_t n_blocks;
    float *entries;       /* [n_blocks / REFIT_EVERY][16][cols][16] */
    equations *sums;      /* [n_blocks] */
    pr__refined *refined; /* [n_blocks] */
    bool four;            /* which codebook is refitted */
    float k16;
} maker;

/* ---- loops over the sample ---- */

static void start_body(void *ctx, uint32_t block, int thread) {
    (void)thread;
    maker *m = ctx;
    pr__encoder *e = m->e;
    pr__rows *rows = &e->rows[block];
    uint32_t first = block * PR__LANES, n = e->n_sample - first < PR__LANES ? e->n_sample - first : PR__LANES;
    pr__rows_load(rows, e->job->w, e->job->cols, e->sample + first, n, e->unit);
    pr__rows_floor(rows, &e->pass);
    pr__rows_search(rows, &e->pass);
    pr__rows_feedback(rows, &e->pass);
}

static void descend_body(void *ctx, uint32_t block, int thread) {
    (void)thread;
    maker *m = ctx;
    pr__rows_descend(&m->e->rows[block], &m->e->pass);
}

static void floor_body(void *ctx, uint32_t block, int thread) {
    (void)thread;
    maker *m = ctx;
    pr__rows_floor(&m->e->rows[block], &m->e->pass);
}

static void refine_body(void *ctx, uint32_t block, int thread) {
    (void)thread;
    maker *m = ctx;
    pr__rows *rows = &m->e->rows[block];
    for (uint32_t i = 0; i < m->e->job->cols; i++) rows->s8[i] = rows->s4[i] * m->e->book.fine; /* nb * 32 = cols */
    pr__rows_refine(rows, &m->e->pass, m->k16, &m->refined[block]);
}

static void loop(maker *m, void (*body)(void *ctx, uint32_t block, int thread)) {
    pr__encode_loop(m->e->team, m->n_blocks, body, m);
}

/* ---- codebooks ---- */

/* Scales of the weights that have code i, else 0, for the first 16 lanes: out[i][cols][16]. */
static void spread_entries(const pr__rows *rows, uint32_t cols, bool four, float *out) {
    memset(out, 0, (size_t)(four ? N4 : N2) * cols * PR_TILE_ROWS * sizeof *out);
    for (uint32_t c = 0; c < cols; c++)
        for (uint32_t r = 0; r < PR_TILE_ROWS; r++) {
            uint32_t code = (uint32_t)rows->code[(size_t)c * PR__LANES + r] / (four ? 1 : 4);
            const float *s = four ? rows->s4 : rows->s2;
            out[((size_t)code * cols + c) * PR_TILE_ROWS + r] = s[(size_t)(c / PR_BLOCK) * PR__LANES + r];
        }
}

static void equations_body(void *ctx, uint32_t index, int thread) {
    (void)thread;
    maker *m = ctx;
    const pr__hess *h = &m->e->hess;
    uint32_t n = m->four ? N4 : N2, lanes = n * PR_TILE_ROWS;
    const pr__rows *rows = &m->e->rows[index * REFIT_EVERY];
    equations *sums = &m->sums[index];
    float *u = m->entries + (size_t)index * N4 * h->cols * PR_TILE_ROWS, y[PR_BLOCK * N4 * PR_TILE_ROWS];
    const float *s = m->four ? rows->s4 : rows->s2;
    memset(sums, 0, sizeof *sums);
    spread_entries(rows, h->cols, m->four, u);
    for (uint32_t first = 0; first < h->cols; first += PR_BLOCK) {
        pr__encode_product(m->e->k, u, 0, n, h->cols, h->h + first * h->stride, h->stride, PR_BLOCK, y, lanes);
        for (uint32_t c = 0; c < PR_BLOCK; c++)
            for (uint32_t r = 0; r < PR_TILE_ROWS; r++) {
                size_t at = (size_t)(first + c) * PR__LANES + r;
                uint32_t code = (uint32_t)rows->code[at] / (m->four ? 1 : 4);
                double scale = (double)s[(size_t)(first / PR_BLOCK) * PR__LANES + r], w = (double)rows->w[at];
                for (uint32_t i = 0; i < n; i++) {
                    double x = (double)y[c * lanes + i * PR_TILE_ROWS + r];
                    sums->a[i][code] += scale * x;
                    sums->b[i] += w * x;
                }
            }
    }
}

/* Gauss without pivots: a is positive definite by its ridge. The solution ends in b. */
static void solve(equations *q, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = i + 1; k < n; k++) {
            double f = q->a[k][i] / q->a[i][i];
            for (uint32_t j = i; j < n; j++) q->a[k][j] -= f * q->a[i][j];
            q->b[k] -= f * q->b[i];
        }
    for (uint32_t i = n; i-- > 0;) {
        for (uint32_t j = i + 1; j < n; j++) q->b[i] -= q->a[i][j] * q->b[j];
        q->b[i] /= q->a[i][i];
    }
}

static void refit_book(maker *m, bool four) {
    uint32_t n = four ? N4 : N2, parts = (m->n_blocks + REFIT_EVERY - 1) / REFIT_EVERY;
    float *book = four ? m->e->book.c4 : m->e->book.c2;
    m->four = four;
    pr__encode_loop(m->e->team, parts, equations_body, m);
    equations *q = &m->sums[0];
    for (uint32_t p = 1; p < parts; p++)
        for (uint32_t i = 0; i < n; i++) {
            for (uint32_t j = 0; j < n; j++) q->a[i][j] += m->sums[p].a[i][j];
            q->b[i] += m->sums[p].b[i];
        }
    double trace = 0;
    for (uint32_t i = 0; i < n; i++) trace += q->a[i][i];
    if (!(trace > 0)) return;
    for (uint32_t i = 0; i < n; i++) {
        double ridge = 1e-3 * q->a[i][i] + 1e-7 * trace;
        q->a[i][i] += ridge;
        q->b[i] += ridge * (double)book[i];
    }
    solve(q, n);
    for (uint32_t i = 0; i < n; i++) { /* not far from what suits most: a few huge weights may ask for anything */
        double usual = (double)(four ? normal4 : normal2)[i], by = q->b[i] / usual;
        book[i] = (float)(usual * (by > 0.8 ? by < 1.25 ? by : 1.25 : 0.8));
    }
}

/* Integers up to limit in proportion to the codebook, in the size that suits it best; the ratio is returned. */
static float snap(float *book, int n, float limit, int8_t *out) {
    float top = 0, best = INFINITY, ratio = 1;
    for (int i = 0; i < n; i++) top = fmaxf(top, fabsf(book[i]));
    for (int step = 0; step <= 32; step++) {
        float to = limit * (1 - 0.01f * (float)step) / top, error = 0;
        for (int i = 0; i < n; i++) {
            float e = rintf(book[i] * to) / to - book[i];
            error += e * e;
        }
        if (error >= best) continue;
        best = error;
        ratio = to;
    }
    for (int i = 0; i < n; i++) {
        book[i] = rintf(book[i] * ratio);
        out[i] = (int8_t)book[i];
    }
    return ratio;
}

static void snap_books(maker *m) {
    pr__encoder *e = m->e;
    float by2 = snap(e->book.c2, N2, 16, e->job->book.c2), by4 = snap(e->book.c4, N4, 64, e->job->book.c4);
    e->book.sigma2 /= by2;
    e->book.sigma4 /= by4;
    for (uint32_t b = 0; b < m->n_blocks; b++)
        for (uint32_t i = 0; i < e->job->cols; i++) {
            e->rows[b].s2[i] /= by2;
            e->rows[b].s4[i] /= by4;
        }
}

/* ---- p8 and p16 ---- */

/* Mean of what each code stands for, in units of s4; near the codebook's entry in any case. */
static void means_of_codes(const maker *m, float mean[N4]) {
    const pr__encoder *e = m->e;
    double sum[N4] = {0}, count[N4] = {0};
    for (uint32_t b = 0; b < m->n_blocks; b++)
        for (uint32_t c = 0; c < e->job->cols; c++)
            for (uint32_t r = 0; r < e->rows[b].n_rows; r++) {
                size_t at = (size_t)c * PR__LANES + r;
                float s = e->rows[b].s4[(size_t)(c / PR_BLOCK) * PR__LANES + r];
                if (s <= 0) continue;
                sum[e->rows[b].code[at]] += (double)(e->rows[b].w[at] / s);
                count[e->rows[b].code[at]]++;
            }
    for (int i = 0; i < N4; i++) {
        float own = e->book.c4[i], away = count[i] > 0 ? (float)(sum[i] / count[i]) - own : 0,
              most = 0.3f / e->book.sigma4;
        mean[i] = own + (away < -most ? -most : away > most ? most : away);
    }
}

/* The step, at least fine, and with it c8: each code's nibbles around what it stands for, and hardly a gap between one code's
 * and the next's. */
static void set_step(pr__encoder *e, const float mean[N4], float fine) {
    float *c8 = e->book.c8, gap = e->opts.n_planes > PR_PLANE_P16 ? GAP_MAX_P16 : GAP_MAX;
    for (int i = 1; i < N4; i++) fine = fmaxf(fine, (mean[i] - mean[i - 1]) / GAP_MAX);
    e->book.fine = fine;
    e->book.reach = true;
    for (int i = 0; i < N4; i++) c8[i] = rintf(mean[i] / fine - 7.5f);
    for (int i = N4 / 2; i < N4; i++) c8[i] = fminf(c8[i], c8[i - 1] + gap);
    for (int i = N4 / 2; i-- > 0;) c8[i] = fmaxf(c8[i], c8[i + 1] - gap);
    for (int i = 0; i < N4; i++) {
        c8[i] = c8[i] < -128 ? -128 : c8[i] > 112 ? 112 : c8[i];
        e->job->book.c8[i] = (int8_t)c8[i];
    }
}

static pr__refined refined(maker *m) {
    pr__refined sum = {0};
    loop(m, refine_body);
    for (uint32_t b = 0; b < m->n_blocks; b++) {
        sum.error += m->refined[b].error;
        sum.n += m->refined[b].n;
        for (int i = 0; i < 4; i++) sum.beyond[i] += m->refined[b].beyond[i];
    }
    return sum;
}

/* Codes that reach, with the step so far; then the step that is best for them. */
static void find_step(maker *m) {
    pr__encoder *e = m->e;
    float mean[N4], old = e->book.fine, best_fine = old;
    double best = INFINITY;
    loop(m, floor_body);
    loop(m, descend_body);
    means_of_codes(m, mean);
    for (int i = 0; i < N_TIMES; i++) {
        set_step(e, mean, step_times[i] * old);
        double error = refined(m).error;
        if (error >= best) continue;
        best = error;
        best_fine = e->book.fine;
    }
    set_step(e, mean, best_fine);
}

/* The finest k16 with which p8 seldom has to give way so that p16 can carry the rest, and with which it then can. Where there
 * is no p16, p8 need not give way at all. */
static void find_k16(maker *m) {
    pr__book *book = &m->e->book;
    loop(m, floor_body);
    loop(m, descend_body);
    if (m->e->opts.n_planes <= PR_PLANE_P16) return;
    pr__refined r = refined(m);
    int at = 0;
    for (;; at++) {
        book->rest_max = 127.0f / (float)(128 >> at);
        if (at == 3) break;
        if ((double)r.beyond[at] <= 1e-3 * (double)r.n && (double)refined(m).beyond[at] <= 1e-4 * (double)r.n) break;
    }
    m->e->job->book.k16 = 128 >> at;
}

/* ---- factors ---- */

static float median(float *v, uint32_t n) {
    for (uint32_t i = 1; i < n; i++) /* sorted by insertion */
        for (uint32_t at = i; at > 0 && v[at - 1] > v[at]; at--) {
            float x = v[at];
            v[at] = v[at - 1];
            v[at - 1] = x;
        }
    return n ? v[n / 2] : 0;
}

/* A factor that makes row scales about 1: the sample's median of a row's largest scale, over 255. No row of the tensor
 * needs more than a half can hold, as no |w| is over 1 here. */
static float factor(const maker *m, bool four) {
    float top[PR__SAMPLE_MAX];
    const pr__encoder *e = m->e;
    for (uint32_t i = 0; i < e->n_sample; i++) {
        const pr__rows *rows = &e->rows[i / PR__LANES];
        const float *s = four ? rows->s4 : rows->s2;
        top[i] = 0;
        for (uint32_t g = 0; g < e->job->cols / PR_BLOCK; g++) top[i] = fmaxf(top[i], s[g * PR__LANES + i % PR__LANES]);
    }
    float least = 2 * (four ? e->book.sigma4 : e->book.sigma2) / 30000;
    return fmaxf(median(top, e->n_sample), least) / 255;
}

/* ---- all of it ---- */

static pr_status reserve(maker *m, pr_err *err) {
    const pr__encoder *e = m->e;
    uint32_t parts = (m->n_blocks + REFIT_EVERY - 1) / REFIT_EVERY;
    size_t floats = e->pass.full ? (size_t)parts * N4 * e->job->cols * PR_TILE_ROWS : 0;
    m->sums = pr_calloc(PR_TAG_MISC, m->n_blocks + 1, sizeof *m->sums);
    m->refined = pr_calloc(PR_TAG_MISC, m->n_blocks + 1, sizeof *m->refined);
    m->entries = pr_alloc(PR_TAG_MISC, floats * sizeof *m->entries);
    if (!m->sums || !m->refined || !m->entries) return pr_fail_nomem(err, "the sample", floats * sizeof *m->entries);
    return PR_OK;
}

static void make(maker *m) {
    pr__encoder *e = m->e;
    loop(m, start_body);
    for (uint32_t i = 0; i < e->opts.n_polish && i < ROUNDS_MAX; i++) {
        if (e->pass.full && i < REFITS_MAX) {
            refit_book(m, false);
            refit_book(m, true);
        }
        loop(m, descend_body);
    }
    snap_books(m);
    e->job->book.f2 = factor(m, false) / e->unit;
    if (e->opts.n_planes > PR_PLANE_P8) {
        float mean[N4];
        means_of_codes(m, mean);
        set_step(e, mean, step_guess / e->book.sigma4);
        find_step(m);
        find_k16(m);
    }
    float f4 = factor(m, true);
    e->job->book.f4 = f4 / e->unit;
    e->job->book.f8 = f4 * e->book.fine / e->unit;
}

pr_status pr__book_make(pr__encoder *e, pr_err *err) {
    maker m = {.e = e, .n_blocks = (e->n_sample + PR__LANES - 1) / PR__LANES, .k16 = 1};
    e->book = (pr__book){.sigma2 = 1, .sigma4 = 1, .fine = 1, .rest_max = 1e6f};
    memcpy(e->book.c2, normal2, sizeof normal2);
    memcpy(e->book.c4, normal4, sizeof normal4);
    e->job->book = (pr_plane_book){.k16 = 1};
    pr_status st = reserve(&m, err);
    if (!st) make(&m);
    pr_free(m.sums);
    pr_free(m.refined);
    pr_free(m.entries);
    return st;
}
