/*
 * The encoder's work on 32 rows: scales, codes, residuals.
 *
 * Every pass walks blocks of 32 columns, which are the groups of scales, from left to right, and descent the other way as
 * well. What other columns mean for a block is a product with 32 columns of H (or of its factor); inside the block, column
 * by column, plain loops over lanes keep it current. So products do the work that grows with the square of the columns.
 *
 * A round of descent takes a group at a time: first the best scale of each level for the codes as they are, all other
 * groups as they are, then each column's code anew. Solving for all scales of a row at once would need
 * another such round of products and gains nothing that a further round does not.
 *
 * What the errors of a whole row do to a block is a sum of three: of the columns before it, its own, and those after it.
 * Rounds go through the blocks from left to right and from right to left in turn, because then one side needs no product:
 * what the columns before a block do to it was found when the round from the left came there, and they have not moved
 * when the one from the right comes (the observation of Conrad and Wallach for symmetric relaxation, 1979). So all rounds
 * but the first cost half. The loss needs one side only, as H is symmetric, and the last round leaves it.
 *
 * Loops over lanes have constant bounds and no calls, for the sake of the vectorizer.
 */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/clones.h"
#include "store/encode_impl.h"

enum { LANES = PR__LANES, PAIR = PR__PAIR };

/* Weights out of reach of a code's nibbles: what a step too far costs, next to the squares of errors. */
static const float far_cost = 1e4f;

/* Adding and subtracting it rounds to a whole number, to even at ties, up to 2^22. */
static const float whole = 0x1.8p23f;

void pr__encode_product(const pr_kernels *k, const float *tiles, size_t tile_stride, uint32_t n_tiles, uint32_t cols,
                        const float *x, size_t stride, uint32_t n_x, float *y, size_t y_stride) {
    k->mm_f32[PR_PACK_F32](&(pr_mm_args){.tiles = (const uint8_t *)tiles,
                                         .tile_stride = tile_stride * sizeof *tiles,
                                         .n_tiles = n_tiles,
                                         .cols = cols,
                                         .x = x,
                                         .x_stride = stride * sizeof *x,
                                         .n_tokens = n_x,
                                         .y = y,
                                         .y_stride = y_stride});
}

/* ---- memory ---- */

pr_status pr__rows_open(pr__rows *rows, uint32_t cols, pr_err *err) {
    size_t wide = (size_t)cols * LANES, groups = (size_t)cols / PR_BLOCK * LANES;
    size_t floats = 5 * wide + 4 * groups, bytes = 3 * wide + 4 * (size_t)cols;
    *rows = (pr__rows){.bytes = floats * sizeof(float) + bytes};
    rows->memory = pr_map(PR_TAG_MISC, rows->bytes);
    if (!rows->memory) return pr_fail_nomem(err, "rows being encoded", rows->bytes);
    float *at = rows->memory;
    rows->w = at;
    rows->d = at + wide;
    rows->side = at + 3 * wide;
    rows->s2 = at + 5 * wide;
    rows->s4 = rows->s2 + groups;
    rows->s8 = rows->s4 + groups;
    rows->floor4 = rows->s8 + groups;
    rows->code = (uint8_t *)(rows->floor4 + groups);
    rows->n = rows->code + wide;
    rows->b = (int8_t *)(rows->n + wide);
    rows->line = rows->n + 2 * wide;
    return PR_OK;
}

void pr__rows_close(pr__rows *rows) {
    if (rows->memory) pr_unmap(PR_TAG_MISC, rows->memory, rows->bytes);
    *rows = (pr__rows){0};
}

void pr__rows_load(pr__rows *rows, const float *w, uint32_t cols, const uint32_t *index, uint32_t n_rows, float unit) {
    rows->n_rows = n_rows;
    memset(rows->w, 0, (size_t)cols * LANES * sizeof *rows->w);
    for (uint32_t i = 0; i < n_rows; i++) {
        const float *row = w + (size_t)index[i] * cols;
        for (uint32_t c = 0; c < cols; c++) rows->w[(size_t)c * LANES + i] = row[c] * unit;
    }
    memset(rows->quantum2, 0, sizeof rows->quantum2);
    memset(rows->quantum4, 0, sizeof rows->quantum4);
    rows->known = PR__NO_SIDE;
}

/* Errors of 16 rows: tile 0, 1 of the first level, 2, 3 of the second. */
static float *error_tile(const pr__rows *rows, uint32_t cols, uint32_t tile) {
    return rows->d + (size_t)tile * cols * PR_TILE_ROWS;
}

static void put_errors(pr__rows *rows, uint32_t cols, uint32_t column, uint32_t tile0, const float *d,
                       uint32_t n_tiles) {
    for (uint32_t t = 0; t < n_tiles; t++)
        memcpy(error_tile(rows, cols, tile0 + t) + (size_t)column * PR_TILE_ROWS, d + (size_t)t * PR_TILE_ROWS,
               PR_TILE_ROWS * sizeof *d);
}

/* 1/s, or 0 for 0: without a branch. */
static inline float inverse_of(float s) { return (s > 0 ? 1.0f : 0.0f) / (s > 0 ? s : 1.0f); }

/* ---- scales ---- */

PR_CLONES void pr__rows_floor(pr__rows *rows, const pr__pass *pass) {
    const pr__book *book = pass->book;
    float top = 0, bottom = 0;
    for (int i = 0; i < 16 && book->reach; i++) {
        top = fmaxf(top, (book->c8[i] + 15.5f) * book->fine);
        bottom = fmaxf(bottom, (0.5f - book->c8[i]) * book->fine);
    }
    float by_top = top > 0 ? 1 / top : 0, by_bottom = bottom > 0 ? 1 / bottom : 0;
    for (uint32_t c = 0; c < pass->hess->cols; c++) {
        const float *w = rows->w + (size_t)c * LANES;
        float *least = rows->floor4 + (size_t)(c / PR_BLOCK) * LANES;
        for (int r = 0; r < LANES; r++) {
            float need = w[r] > 0 ? w[r] * by_top : -w[r] * by_bottom;
            float so_far = c % PR_BLOCK ? least[r] : 0;
            least[r] = need > so_far ? need : so_far;
        }
    }
}

/* Whole numbers 1..255 of the quantum, where there is one and the scale is not 0. */
static inline void round_scales(float *s, const float *quantum, const float *least) {
    for (int r = 0; r < LANES; r++) {
        if (least && s[r] < least[r]) s[r] = least[r];
        if (quantum[r] <= 0 || s[r] <= 0) continue;
        float u = rintf(s[r] / quantum[r]);
        if (least && u * quantum[r] < least[r]) u++;
        s[r] = (u < 1 ? 1 : u > 255 ? 255 : u) * quantum[r];
    }
}

typedef struct grid { /* a codebook in ascending order: where it steps, and how far */
    float first, edge[15], step[15];
} grid;

static grid grid_of(const float *c, int n) {
    float v[16];
    for (int i = 0; i < n; i++) { /* by insertion */
        int at = i;
        for (; at > 0 && v[at - 1] > c[i]; at--) v[at] = v[at - 1];
        v[at] = c[i];
    }
    grid g = {.first = v[0]};
    for (int i = 0; i < 15; i++) {
        g.edge[i] = i + 1 < n ? (v[i] + v[i + 1]) / 2 : INFINITY;
        g.step[i] = i + 1 < n ? v[i + 1] - v[i] : 0;
    }
    return g;
}

/* Weighted squares of what rounding x * inverse to the grid leaves, lane by lane. */
static inline void grid_error_4(const float *x, size_t stride, const float *weight, const grid *g, const float *inverse,
                                float *error) {
    for (uint32_t c = 0; c < PR_BLOCK; c++) {
        const float *col = x + c * stride;
        float dg = weight[c];
        for (int r = 0; r < LANES; r++) {
            float v = col[r] * inverse[r], q = g->first;
            for (int i = 0; i < 15; i++) q += v > g->edge[i] ? g->step[i] : 0.0f;
            error[r] += (v - q) * (v - q) * dg;
        }
    }
}

static inline void grid_error_2(const float *x, size_t stride, const float *weight, const grid *g, const float *inverse,
                                float *error) {
    for (uint32_t c = 0; c < PR_BLOCK; c++) {
        const float *col = x + c * stride;
        float dg = weight[c];
        for (int r = 0; r < LANES; r++) {
            float v = col[r] * inverse[r], q = g->first;
            for (int i = 0; i < 3; i++) q += v > g->edge[i] ? g->step[i] : 0.0f;
            error[r] += (v - q) * (v - q) * dg;
        }
    }
}

/* Scales of a group for x[32][stride]: some steps around the deviation, the one with the least error. A scale that is 0,
 * for a group of zeros, stays so. */
PR_CLONES static void search(const pr__pass *pass, const float *x, size_t stride, const float *weight, bool four,
                             const float *quantum, const float *least, float *s) {
    const pr__book *book = pass->book;
    grid g = four ? grid_of(book->c4, 16) : grid_of(book->c2, 4);
    float sigma[LANES] = {0}, best[LANES];
    for (uint32_t c = 0; c < PR_BLOCK; c++)
        for (int r = 0; r < LANES; r++) sigma[r] += x[c * stride + (uint32_t)r] * x[c * stride + (uint32_t)r];
    for (int r = 0; r < LANES; r++) {
        sigma[r] = s[r] == 0 ? 0 : sqrtf(sigma[r] / PR_BLOCK) * (four ? book->sigma4 : book->sigma2);
        best[r] = INFINITY;
        s[r] = sigma[r];
    }
    for (uint32_t f = 0; f < pass->n_factors; f++) {
        float at[LANES], inverse[LANES], error[LANES] = {0};
        for (int r = 0; r < LANES; r++) at[r] = sigma[r] * (0.65f + 0.75f * (float)f / (float)(pass->n_factors - 1));
        round_scales(at, quantum, least);
        for (int r = 0; r < LANES; r++) inverse[r] = inverse_of(at[r]);
        if (four) grid_error_4(x, stride, weight, &g, inverse, error);
        else grid_error_2(x, stride, weight, &g, inverse, error);
        for (int r = 0; r < LANES; r++) {
            float e = error[r] * at[r] * at[r], least_e = best[r], s_e = s[r], s_r = at[r];
            s[r] = e < least_e ? s_r : s_e;
            best[r] = e < least_e ? e : least_e;
        }
    }
}

void pr__rows_round(pr__rows *rows, uint32_t cols) {
    for (uint32_t g = 0; g < cols / PR_BLOCK * LANES; g += LANES) {
        round_scales(rows->s2 + g, rows->quantum2, NULL);
        round_scales(rows->s4 + g, rows->quantum4, rows->floor4 + g);
    }
}

void pr__rows_search(pr__rows *rows, const pr__pass *pass) {
    for (uint32_t first = 0; first < pass->hess->cols; first += PR_BLOCK) {
        const float *x = rows->w + (size_t)first * LANES, *weight = pass->hess->diag + first;
        float *s2 = rows->s2 + first / PR_BLOCK * LANES, *s4 = rows->s4 + first / PR_BLOCK * LANES;
        for (int r = 0; r < LANES; r++) s2[r] = s4[r] = 1;
        search(pass, x, LANES, weight, false, rows->quantum2, NULL, s2);
        search(pass, x, LANES, weight, true, rows->quantum4, rows->floor4 + first / PR_BLOCK * LANES, s4);
    }
}

/* ---- codes ---- */

typedef struct column {   /* one column of a block: what to meet, and what was chosen */
    const float *w;       /* [32] */
    const float *s2, *s4; /* [32] */
    int32_t code[LANES];
    float q[PAIR]; /* decoded */
} column;

/* The best of the four codes of cell a for each lane, and its cost. t: targets of both levels. */
static inline void choose_in_cell(const pr__pass *pass, int a, const float *restrict t, const column *restrict col,
                                  float *restrict cost, int32_t *restrict code) {
    const pr__book *book = pass->book;
    const float *restrict s2 = col->s2, *restrict s4 = col->s4, *restrict w = col->w;
    float lambda = pass->lambda, c2 = book->c2[a], c4[4], low[4], high[4];
    for (int k = 0; k < 4; k++) {
        c4[k] = book->c4[4 * a + k];
        low[k] = book->reach ? (book->c8[4 * a + k] - 0.5f) * book->fine : -1e18f;
        high[k] = book->reach ? (book->c8[4 * a + k] + 15.5f) * book->fine : 1e18f;
    }
    for (int r = 0; r < LANES; r++) {
        float e2 = t[r] - s2[r] * c2, s = s4[r], best = INFINITY;
        int32_t best_code = 0;
        for (int k = 0; k < 4; k++) {
            float e4 = t[LANES + r] - s * c4[k], over = w[r] - s * high[k], under = s * low[k] - w[r];
            over = over > 0.0f ? over : 0.0f;
            under = under > 0.0f ? under : 0.0f;
            float c = lambda * e4 * e4 + far_cost * (over * over + under * under);
            best_code = c < best ? 4 * a + k : best_code;
            best = c < best ? c : best;
        }
        cost[r] = best + (1 - lambda) * e2 * e2;
        code[r] = best_code;
    }
}

/* The code of least cost for each lane. First within cells: what is read and written at once keeps loops from being SIMD. */
PR_CLONES static void choose(const pr__pass *pass, const float *t, column *col) {
    const pr__book *book = pass->book;
    float cost[4][LANES];
    int32_t code[4][LANES];
    for (int a = 0; a < 4; a++) choose_in_cell(pass, a, t, col, cost[a], code[a]);
    for (int r = 0; r < LANES; r++) {
        float best = cost[0][r];
        int32_t best_code = code[0][r];
        for (int a = 1; a < 4; a++) {
            float c = cost[a][r];
            int32_t i = code[a][r];
            best_code = c < best ? i : best_code;
            best = c < best ? c : best;
        }
        col->code[r] = best_code;
    }
    for (int r = 0; r < LANES; r++) {
        col->q[r] = col->s2[r] * book->c2[(uint32_t)col->code[r] / 4];
        col->q[LANES + r] = col->s4[r] * book->c4[col->code[r]];
    }
}

/* Take the choice over: code and errors of a column. */
PR_CLONES static void settle(pr__rows *rows, uint32_t cols, uint32_t c, const column *col, float d[PAIR]) {
    uint8_t *code = rows->code + (size_t)c * LANES;
    for (int r = 0; r < LANES; r++) code[r] = (uint8_t)col->code[r];
    for (int r = 0; r < LANES; r++) {
        d[r] = col->q[r] - col->w[r];
        d[LANES + r] = col->q[LANES + r] - col->w[r];
    }
    put_errors(rows, cols, c, 0, d, 2 * PR__TILES);
}

static column column_of(const pr__rows *rows, uint32_t c) {
    size_t g = (size_t)(c / PR_BLOCK) * LANES;
    return (column){.w = rows->w + (size_t)c * LANES, .s2 = rows->s2 + g, .s4 = rows->s4 + g};
}

/* What columns first .. first + 31 have to meet so that the errors of earlier columns are made up for: t[32][lanes]. */
static void targets(const pr__rows *rows, const pr__pass *pass, uint32_t first, uint32_t tiles, float *t) {
    const pr__hess *h = pass->hess;
    uint32_t lanes = tiles * PR_TILE_ROWS;
    memset(t, 0, (size_t)PR_BLOCK * lanes * sizeof *t);
    if (h->n && first)
        pr__encode_product(pass->k, rows->d, (size_t)h->cols * PR_TILE_ROWS, tiles, first, h->n + first * h->stride,
                           h->stride, PR_BLOCK, t, lanes);
    for (uint32_t c = 0; c < PR_BLOCK; c++) {
        const float *w = rows->w + (size_t)(first + c) * LANES;
        for (float *to = t + (size_t)c * lanes, *end = to + lanes; to < end; to += LANES)
            for (int r = 0; r < LANES; r++) to[r] = w[r] - to[r];
    }
}

/* Errors d of column j of the block move the later ones, by row j of a triangle of which t[k] sees element k * stride. */
PR_CLONES static void spread(float *restrict t, const float *restrict d, uint32_t j, uint32_t lanes, const float *by,
                             size_t stride, float sign) {
    for (uint32_t k = j + 1; k < PR_BLOCK; k++) {
        float f = sign * by[k * stride];
        float *to = t + (size_t)k * lanes;
        for (size_t r = 0; r < lanes; r++) to[r] += f * d[r];
    }
}

void pr__rows_feedback(pr__rows *rows, const pr__pass *pass) {
    const pr__hess *h = pass->hess;
    float t[PR_BLOCK * PAIR], d[PAIR];
    rows->known = PR__NO_SIDE;
    for (uint32_t first = 0; first < h->cols; first += PR_BLOCK) {
        size_t g = (size_t)first / PR_BLOCK * LANES;
        targets(rows, pass, first, 2 * PR__TILES, t);
        if (h->n && first) {
            search(pass, t, PAIR, h->pivot + first, false, rows->quantum2, NULL, rows->s2 + g);
            search(pass, t + LANES, PAIR, h->pivot + first, true, rows->quantum4, rows->floor4 + g, rows->s4 + g);
        }
        for (uint32_t j = 0; j < PR_BLOCK; j++) {
            column col = column_of(rows, first + j);
            choose(pass, t + (size_t)j * PAIR, &col);
            settle(rows, h->cols, first + j, &col, d);
            if (h->n) spread(t, d, j, PAIR, h->n + first * h->stride + first + j, h->stride, -1);
        }
    }
}

/* ---- descent ---- */

/* g[32][64] = what the errors of columns from .. from + n - 1 do to columns first .. first + 31. */
static void effect(const pr__rows *rows, const pr__pass *pass, uint32_t from, uint32_t n, uint32_t first, float *g) {
    const pr__hess *h = pass->hess;
    size_t tile = (size_t)h->cols * PR_TILE_ROWS;
    if (n == 0) memset(g, 0, PR_BLOCK * PAIR * sizeof *g);
    else
        pr__encode_product(pass->k, rows->d + (size_t)from * PR_TILE_ROWS, tile, 2 * PR__TILES, n,
                           h->h + first * h->stride + from, h->stride, PR_BLOCK, g, PAIR);
}

static void effect_before(const pr__rows *rows, const pr__pass *pass, uint32_t first, float *g) {
    effect(rows, pass, 0, first, first, g);
}

static void effect_after(const pr__rows *rows, const pr__pass *pass, uint32_t first, float *g) {
    uint32_t next = first + PR_BLOCK;
    effect(rows, pass, next, pass->hess->cols - next, first, g);
}

/* What a block's own errors do to it: all there is where only the diagonal counts. */
PR_CLONES static void effect_own(const pr__rows *rows, const pr__pass *pass, uint32_t first, float *g) {
    const pr__hess *h = pass->hess;
    if (pass->full) {
        effect(rows, pass, first, PR_BLOCK, first, g);
        return;
    }
    for (uint32_t i = 0; i < 2 * PR__TILES; i++) {
        const float *d = error_tile(rows, h->cols, i) + (size_t)first * PR_TILE_ROWS;
        for (uint32_t c = 0; c < PR_BLOCK; c++)
            for (uint32_t r = 0; r < PR_TILE_ROWS; r++)
                g[c * PAIR + i * PR_TILE_ROWS + r] = h->diag[first + c] * d[c * PR_TILE_ROWS + r];
    }
}

PR_CLONES static void add_block(float *restrict g, const float *restrict by) {
    for (uint32_t i = 0; i < PR_BLOCK * PAIR; i++) g[i] += by[i];
}

/* g[32][64] = d H: what the errors of all columns do to a block, in a round that comes from the left or else the right. */
static void gradient(pr__rows *rows, const pr__pass *pass, uint32_t first, bool from_left, float *g) {
    effect_own(rows, pass, first, g);
    if (!pass->full) return;
    float *side = rows->side + (size_t)first * PAIR;
    if (rows->known == PR__NO_SIDE) effect_after(rows, pass, first, side);
    add_block(g, side);
    (from_left ? effect_before : effect_after)(rows, pass, first, side); /* for the next round */
    add_block(g, side);
}

/* Entries of the codebooks that a block's codes stand for: v[32][64]. */
PR_CLONES static void entries(const pr__rows *rows, const pr__book *book, uint32_t first, float *v) {
    for (uint32_t c = 0; c < PR_BLOCK; c++) {
        const uint8_t *code = rows->code + (size_t)(first + c) * LANES;
        for (uint32_t r = 0; r < LANES; r++) {
            v[c * PAIR + r] = book->c2[code[r] / 4];
            v[c * PAIR + LANES + r] = book->c4[code[r]];
        }
    }
}

/* hv[32][64] = v times the block's corner of H. */
static void times_corner(const pr__pass *pass, uint32_t first, const float *v, float *hv) {
    const pr__hess *h = pass->hess;
    if (!pass->full) {
        for (uint32_t c = 0; c < PR_BLOCK; c++)
            for (uint32_t r = 0; r < PAIR; r++) hv[c * PAIR + r] = h->diag[first + c] * v[c * PAIR + r];
        return;
    }
    float tiles[PR_BLOCK * PAIR];
    for (uint32_t i = 0; i < 2 * PR__TILES; i++)
        for (uint32_t c = 0; c < PR_BLOCK; c++)
            memcpy(tiles + (i * PR_BLOCK + c) * PR_TILE_ROWS, v + c * PAIR + i * PR_TILE_ROWS,
                   PR_TILE_ROWS * sizeof *v);
    pr__encode_product(pass->k, tiles, 0, 2 * PR__TILES, PR_BLOCK, h->h + first * h->stride + first, h->stride,
                       PR_BLOCK, hv, PAIR);
}

/* New scales s of 32 lanes given v, hv and the gradient: the least squares of this group alone. moved: by how much. */
PR_CLONES static void refit(float *s, const float *quantum, const float *least, const float *v, const float *hv,
                            const float *g, float *moved) {
    float up[LANES] = {0}, down[LANES] = {0}, to[LANES];
    for (size_t c = 0; c < PR_BLOCK; c++)
        for (size_t r = 0; r < LANES; r++) {
            up[r] += v[c * PAIR + r] * g[c * PAIR + r];
            down[r] += v[c * PAIR + r] * hv[c * PAIR + r];
        }
    for (int r = 0; r < LANES; r++) {
        float at = s[r] - up[r] * inverse_of(down[r]);
        to[r] = at > 0.3f * s[r] && at < 3 * s[r] ? at : s[r];
    }
    round_scales(to, quantum, least);
    for (int r = 0; r < LANES; r++) {
        moved[r] = to[r] - s[r];
        s[r] = to[r];
    }
}

/* Scales of a block's groups, and with them the gradient; q: what is decoded then. */
static void refit_block(pr__rows *rows, const pr__pass *pass, uint32_t first, float *g, float *q) {
    float v[PR_BLOCK * PAIR], hv[PR_BLOCK * PAIR], moved[PAIR], s[PAIR];
    float *s2 = rows->s2 + first / PR_BLOCK * LANES, *s4 = rows->s4 + first / PR_BLOCK * LANES;
    entries(rows, pass->book, first, v);
    times_corner(pass, first, v, hv);
    refit(s2, rows->quantum2, NULL, v, hv, g, moved);
    refit(s4, rows->quantum4, rows->floor4 + first / PR_BLOCK * LANES, v + LANES, hv + LANES, g + LANES, moved + LANES);
    memcpy(s, s2, LANES * sizeof *s);
    memcpy(s + LANES, s4, LANES * sizeof *s);
    for (size_t c = 0; c < PR_BLOCK; c++)
        for (size_t r = 0; r < PAIR; r++) {
            g[c * PAIR + r] += moved[r] * hv[c * PAIR + r];
            q[c * PAIR + r] = s[r] * v[c * PAIR + r];
        }
}

void pr__rows_descend(pr__rows *rows, const pr__pass *pass) {
    const pr__hess *h = pass->hess;
    float g[PR_BLOCK * PAIR], q[PR_BLOCK * PAIR], t[PAIR], d[PAIR];
    bool from_left = rows->known != PR__BEFORE;
    for (uint32_t at = 0; at < h->cols; at += PR_BLOCK) {
        uint32_t first = from_left ? at : h->cols - PR_BLOCK - at;
        gradient(rows, pass, first, from_left, g);
        refit_block(rows, pass, first, g, q);
        for (uint32_t j = 0; j < PR_BLOCK; j++) {
            column col = column_of(rows, first + j);
            const float *was = q + (size_t)j * PAIR;
            float by = 1 / h->diag[first + j];
            for (int r = 0; r < PAIR; r++) t[r] = was[r] - by * g[j * PAIR + (uint32_t)r];
            choose(pass, t, &col);
            settle(rows, h->cols, first + j, &col, d);
            for (int r = 0; r < PAIR; r++) d[r] = col.q[r] - was[r];
            if (pass->full) spread(g, d, j, PAIR, h->h + (first + j) * h->stride + first, 1, 1);
        }
    }
    if (pass->full) rows->known = from_left ? PR__BEFORE : PR__AFTER;
}

/* ---- p8 and p16 ---- */

typedef struct left { /* one column of p8 and p16 */
    float n[LANES], b[LANES], d[PAIR];
    float beyond[LANES]; /* what p8 leaves, in its steps */
} left;

/* Whole n near the target, but such that p16 can carry what w then lacks. */
PR_CLONES static void refine_column(const float *restrict t, const float *restrict w, const float *restrict s,
                                    const float *restrict c8, float rest_max, float k16, left *restrict out) {
    float slack = rest_max - 0.5f;
    for (int r = 0; r < LANES; r++) {
        float by = inverse_of(s[r]);
        float x = w[r] * by - c8[r], y = t[r] * by - c8[r];
        y = y < x - slack ? x - slack : y;
        y = y > x + slack ? x + slack : y;
        y = y < 0 ? 0 : y;
        y = y > 15 ? 15 : y;
        float n = y + whole - whole;
        float left_over = x - n, b = left_over * k16;
        b = b < -128 ? -128 : b;
        b = b > 127 ? 127 : b;
        b = b + whole - whole;
        out->n[r] = n;
        out->b[r] = b;
        out->beyond[r] = left_over;
        out->d[r] = s[r] * (c8[r] + n) - w[r];
        out->d[LANES + r] = (s[r] / k16) * ((c8[r] + n) * k16 + b) - w[r];
    }
}

/* What columns leave, lane by lane. */
typedef struct tally {
    float live[LANES]; /* 1, or 0: no row, or a group that its floor holds up */
    double error[LANES];
    float n[LANES], beyond[4][LANES]; /* whole numbers: up to 2^24 columns */
} tally;

static void tally_group(const pr__rows *rows, uint32_t first, tally *t) {
    size_t g = (size_t)(first / PR_BLOCK) * LANES;
    for (uint32_t r = 0; r < LANES; r++)
        t->live[r] = r < rows->n_rows && rows->s4[g + r] > 1.001f * rows->floor4[g + r] ? 1 : 0;
}

PR_CLONES static void tally_column(tally *restrict to, const float *restrict w, const float *restrict t,
                                   const left *restrict l, float pivot) {
    for (int r = 0; r < LANES; r++) {
        float live = to->live[r], e = l->d[r] + w[r] - t[r];
        to->error[r] += (double)(live * pivot * e * e);
        to->n[r] += live;
    }
    for (int i = 0; i < 4; i++)
        for (int r = 0; r < LANES; r++)
            to->beyond[i][r] += fabsf(l->beyond[r]) > 129.0f / (float)(128 >> i) ? to->live[r] : 0.0f;
}

static pr__refined tally_sum(const tally *t) {
    pr__refined sum = {0};
    for (int r = 0; r < LANES; r++) {
        sum.error += t->error[r];
        sum.n += (uint64_t)t->n[r];
        for (int i = 0; i < 4; i++) sum.beyond[i] += (uint64_t)t->beyond[i][r];
    }
    return sum;
}

void pr__rows_refine(pr__rows *rows, const pr__pass *pass, float k16, pr__refined *out) {
    const pr__hess *h = pass->hess;
    const pr__book *book = pass->book;
    float t[PR_BLOCK * LANES], c8[LANES];
    left l;
    tally sums = {0};
    rows->known = PR__NO_SIDE;
    for (uint32_t first = 0; first < h->cols; first += PR_BLOCK) {
        targets(rows, pass, first, PR__TILES, t);
        tally_group(rows, first, &sums);
        for (uint32_t j = 0; j < PR_BLOCK; j++) {
            uint32_t c = first + j;
            size_t at = (size_t)c * LANES;
            for (int r = 0; r < LANES; r++) c8[r] = book->c8[rows->code[at + (size_t)r]];
            refine_column(t + (size_t)j * LANES, rows->w + at, rows->s8 + (size_t)first / PR_BLOCK * LANES, c8,
                          book->rest_max, k16, &l);
            for (int r = 0; r < LANES; r++) {
                rows->n[at + (size_t)r] = (uint8_t)l.n[r];
                rows->b[at + (size_t)r] = (int8_t)l.b[r];
            }
            put_errors(rows, h->cols, c, 0, l.d, 2 * PR__TILES);
            if (h->n) spread(t, l.d, j, LANES, h->n + first * h->stride + first + j, h->stride, -1);
            tally_column(&sums, rows->w + at, t + (size_t)j * LANES, &l, h->pivot[c]);
        }
    }
    *out = tally_sum(&sums);
}

/* ---- what was lost ---- */

PR_CLONES void pr__rows_loss(const pr__rows *rows, const pr__pass *pass, double out[2][PR__LANES]) {
    const pr__hess *h = pass->hess;
    float g[PR_BLOCK * PAIR], before[PR_BLOCK * PAIR] = {0};
    double sums[PAIR] = {0};
    for (uint32_t first = 0; first < h->cols; first += PR_BLOCK) {
        const float *side = rows->known == PR__NO_SIDE ? before : rows->side + (size_t)first * PAIR;
        effect_own(rows, pass, first, g);
        if (pass->full && side == before) effect_before(rows, pass, first, before);
        for (uint32_t i = 0; i < 2 * PR__TILES; i++) {
            const float *d = error_tile(rows, h->cols, i) + (size_t)first * PR_TILE_ROWS;
            for (uint32_t c = 0; c < PR_BLOCK; c++)
                for (uint32_t r = 0; r < PR_TILE_ROWS; r++) {
                    size_t at = c * PAIR + i * PR_TILE_ROWS + r;
                    double e = (double)d[c * PR_TILE_ROWS + r], by = (double)g[at] + 2 * (double)side[at];
                    sums[i * PR_TILE_ROWS + r] += e * (by - (double)h->damp * e);
                }
        }
    }
    for (int r = 0; r < LANES; r++) {
        out[0][r] = sums[r] > 0 ? sums[r] : 0;
        out[1][r] = sums[LANES + r] > 0 ? sums[LANES + r] : 0;
    }
}
