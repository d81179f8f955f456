/*
 * Matmul: tiles of one or several matrices against all rows of the step.
 *
 * A work item is a range of tiles of one matrix, all rows: the tiles are read
 * from memory once. Its size aims at enough work to hide the cost of claiming
 * it and little enough to share out evenly; it depends on the matrix and the
 * step alone. What follows the product (bias, residual, gating, rounding to
 * blocks) happens on the work item's results while they are in cache.
 */
#include <string.h>

#include "graph/exec_impl.h"

/* Bytes of a tile, to size work by: of planes what int4 reads, so that int2 and int8 are within a factor of two of it. */
static size_t work_bytes(const pr_weight *m) {
    if (m->pack != PR_PACK_PLANES) return pr_pack_tile_bytes(m->pack, m->cols);
    return pr_plane_tile_bytes(PR_PLANE_P2, m->cols) + pr_plane_tile_bytes(PR_PLANE_P4, m->cols);
}

/* Tiles in one work item, for n_rows rows. */
static uint32_t tiles_per_chunk(const pr__instr *in, uint32_t n_rows) {
    const pr_weight *m = in->mats[0];
    size_t tile = work_bytes(m);
    size_t target = in->mat_bytes / 16; /* bytes of weights in a work item when there is one row */
    if (target < 16 << 10) target = 16 << 10;
    if (target > 128 << 10) target = 128 << 10;
    size_t per_row = n_rows < 8 ? 1 : n_rows / 8;
    size_t n = target / (tile * per_row);
    return n < 2 ? 2 : (uint32_t)(n & ~(size_t)1);
}

static uint32_t mats_walked(const pr__instr *in) { return in->attr->gated ? 1 : in->attr->n_mats; }

uint32_t pr__matmul_chunks(const pr__instr *in, uint32_t n_rows) {
    uint32_t per = tiles_per_chunk(in, n_rows), n = 0;
    for (uint32_t m = 0; m < mats_walked(in); m++) n += (pr_pack_tiles(in->mats[m]->rows) + per - 1) / per;
    return n;
}

size_t pr__matmul_scratch(const pr__instr *in, uint32_t rows_max) {
    if (!in->attr->gated && !in->attr->residual) return 0;
    size_t most = 0;
    for (uint32_t n = 1; n <= rows_max; n++) {
        size_t rows = (size_t)tiles_per_chunk(in, n) * PR_TILE_ROWS * n;
        if (rows > most) most = rows;
    }
    return (in->attr->gated ? 2 : 1) * most * sizeof(float);
}

/* A range of tiles of matrix m. */
typedef struct work {
    uint32_t m, tile, n_tiles;
    uint32_t first, n; /* result rows of the matrix: 16 * tile, and how many are real */
    uint32_t column;   /* of the result at which the matrix begins */
} work;

static work find_work(const pr__instr *in, uint32_t chunk, uint32_t n_rows) {
    uint32_t per = tiles_per_chunk(in, n_rows);
    work w = {0};
    for (;; w.m++) {
        uint32_t tiles = pr_pack_tiles(in->mats[w.m]->rows), chunks = (tiles + per - 1) / per;
        if (chunk >= chunks) {
            chunk -= chunks;
            w.column += in->mats[w.m]->rows;
            continue;
        }
        w.tile = chunk * per;
        w.n_tiles = w.tile + per < tiles ? per : tiles - w.tile;
        w.first = w.tile * PR_TILE_ROWS;
        w.n = w.n_tiles * PR_TILE_ROWS;
        if (w.first + w.n > in->mats[w.m]->rows) w.n = in->mats[w.m]->rows - w.first;
        return w;
    }
}

/* The unit that holds a tile. */
static const pr_unit *unit_of(const pr_nested *n, uint32_t tile) {
    uint32_t lo = 0, hi = n->n_units;
    while (hi - lo > 1) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (n->units[mid].tile0 <= tile) lo = mid;
        else hi = mid;
    }
    return &n->units[lo];
}

/* Planes of a unit from one of its tiles on, as far as its level reads them; returns the level. */
static pr_plane planes_at(const pr_exec *e, const pr_unit *u, uint32_t cols, uint32_t tile, const uint8_t **plane) {
    pr_plane level = (pr_plane)u->level[e->step->view];
    for (uint32_t p = 0; p <= (uint32_t)level; p++)
        plane[p] = u->plane[p] + (tile - u->tile0) * pr_plane_tile_bytes((pr_plane)p, cols);
    return level;
}

void pr__planes_row(const pr_exec *e, const pr_weight *m, const pr_nested *nested, uint32_t row, float *out) {
    const uint8_t *plane[PR_PLANE_COUNT] = {0};
    uint32_t tile = row / PR_TILE_ROWS;
    pr_plane level = planes_at(e, unit_of(nested, tile), m->cols, tile, plane);
    pr_plane_row(plane, level, nested->book, m->cols, row % PR_TILE_ROWS, out);
}

/* A tile of a matrix that a thread is about to read; in NULL: not known. */
typedef struct place {
    const pr__instr *in;
    uint32_t mat, tile;
} place;

static pr_plane_soon planes_of(const pr_exec *e, const place *p) {
    pr_plane_soon soon = {0};
    if (!p->in || p->in->mats[p->mat]->pack != PR_PACK_PLANES) return soon;
    soon.cols = p->in->mats[p->mat]->cols;
    planes_at(e, unit_of(p->in->nested[p->mat], p->tile), soon.cols, p->tile, soon.plane);
    return soon;
}

/* Threads take turns at work items, so the one that a thread will get next is most likely as many on as there are threads: of
 * this product or, at its end, of the next one. Without being told, the first of an item's few tiles comes at half the speed. */
static place next_place(const pr_exec *e, const pr__instr *in, uint32_t chunk) {
    uint32_t next = chunk + (uint32_t)pr_team_size(e->team), n = pr__matmul_chunks(in, pr__row_count(e, in));
    const pr__instr *end = e->instrs + e->n_instrs, *from = in;
    if (next >= n) {
        next -= n;
        for (in++; in < end && in->op != PR_OP_MATMUL;) in++;
    }
    uint32_t n_rows = in < end ? pr__row_count(e, in) : 0;
    if (n_rows == 0 || (in != from && next >= pr__matmul_chunks(in, n_rows))) return (place){0};
    work w = find_work(in, next, n_rows);
    return (place){in, w.m, w.tile};
}

/* A nested matrix: each unit of the range at its own level. */
static void multiply_planes(const pr_exec *e, const pr__instr *in, uint32_t mat, const work *w, const place *next,
                            uint32_t n_rows, float *y, size_t y_stride) {
    const pr_nested *nested = in->nested[mat];
    uint32_t cols = in->mats[mat]->cols, end = w->tile + w->n_tiles;
    const pr_unit *u = unit_of(nested, w->tile);
    for (uint32_t tile = w->tile; tile < end; u++) {
        uint32_t stop = u->tile0 + u->n_tiles < end ? u->tile0 + u->n_tiles : end;
        pr_plane_args args = {
            .book = nested->book,
            .n_tiles = stop - tile,
            .cols = cols,
            .x = in->in[0].base,
            .x_stride = in->in[0].stride,
            .n_tokens = n_rows,
            .y = y + (size_t)(tile - w->tile) * PR_TILE_ROWS,
            .y_stride = y_stride,
            .after = planes_of(e, stop < end ? &(place){in, mat, stop} : next),
        };
        pr_plane level = planes_at(e, u, cols, tile, args.plane);
        if (in->q8 && level == PR_PLANE_P16) args.x = in->in[0].base + pr_form_blocks_bytes(cols);
        (in->q8 ? e->k->planes_q : e->k->planes_f32)[level](&args);
        tile = stop;
    }
}

static void multiply(const pr_exec *e, const pr__instr *in, uint32_t mat, const work *w, const place *next,
                     uint32_t n_rows, float *y, size_t y_stride) {
    const pr_weight *m = in->mats[mat];
    if (m->pack == PR_PACK_PLANES) {
        multiply_planes(e, in, mat, w, next, n_rows, y, y_stride);
        return;
    }
    pr_mm_args args = {
        .tiles = m->data + w->tile * pr_pack_tile_bytes(m->pack, m->cols),
        .n_tiles = w->n_tiles,
        .cols = m->cols,
        .x = in->in[0].base,
        .x_stride = in->in[0].stride,
        .n_tokens = n_rows,
        .y = y,
        .y_stride = y_stride,
    };
    (in->q8 ? e->k->mm_q8 : e->k->mm_f32)[m->pack](&args);
}

static void add_bias(const pr_exec *e, const float *bias, const work *w, uint32_t n_rows, float *y, size_t y_stride) {
    if (!bias) return;
    for (uint32_t r = 0; r < n_rows; r++) e->k->add(y + r * y_stride, bias + w->first, w->n, y + r * y_stride);
}

static void gated(const pr_exec *e, const pr__instr *in, const work *w, const place *next, uint32_t n_rows,
                  float *tmp) {
    size_t width = (size_t)w->n_tiles * PR_TILE_ROWS;
    float *g = tmp, *u = tmp + width * n_rows;
    multiply(e, in, 0, w, &(place){in, 1, w->tile}, n_rows, g, width);
    multiply(e, in, 1, w, next, n_rows, u, width);
    for (uint32_t r = 0; r < n_rows; r++) {
        bool blocks = in->form != PR_FORM_F32;
        float *row = blocks ? g + r * width : pr__row(&in->out, r) + w->first;
        e->k->silu_mul(g + r * width, u + r * width, w->n, row);
        if (blocks) pr__put_blocks(e, in, r, w->first, row, w->n);
    }
}

static void onto_residual(const pr_exec *e, const pr__instr *in, const work *w, const place *next, uint32_t n_rows,
                          float *tmp) {
    size_t width = (size_t)w->n_tiles * PR_TILE_ROWS;
    multiply(e, in, 0, w, next, n_rows, tmp, width);
    add_bias(e, in->bias[0], w, n_rows, tmp, width);
    for (uint32_t r = 0; r < n_rows; r++)
        e->k->add(tmp + r * width, pr__row(&in->residual, r) + w->first, w->n, pr__row(&in->out, r) + w->first);
}

void pr__op_matmul(const pr_exec *e, const pr__instr *in, uint32_t chunk, int thread) {
    uint32_t n_rows = pr__row_count(e, in);
    work w = find_work(in, chunk, n_rows);
    place next = next_place(e, in, chunk);
    float *tmp = (float *)(void *)pr__scratch(e, thread);
    if (in->attr->gated) {
        gated(e, in, &w, &next, n_rows, tmp);
    } else if (in->attr->residual) {
        onto_residual(e, in, &w, &next, n_rows, tmp);
    } else {
        float *y = pr__row(&in->out, 0) + w.column + w.first;
        size_t y_stride = in->out.stride / sizeof(float);
        multiply(e, in, w.m, &w, &next, n_rows, y, y_stride);
        add_bias(e, in->bias[w.m], &w, n_rows, y, y_stride);
    }
}
