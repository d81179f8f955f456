/*
 * The walk of a product of nested planes (planes_walk.h).
 *
 * A walk is a list of steps, a step being some tiles and a run of their
 * blocks. Few tokens take all runs of a tile, then the next tile; many tokens
 * take one run of all tiles, so that the tokens' part of a run stays in the
 * second-level cache. Runs of few tokens are as long as memory is worth asking
 * for ahead: each step asks for the next one.
 */
#include "kernels/planes_walk.h"

#include <assert.h>

enum {
    X_BYTES_FEW = 192 << 10, /* all tokens' rows up to this size: tile by tile */
    AHEAD = 48 << 10         /* bytes of planes in a run of few tokens, over all tiles of a span */
};

typedef struct walk {
    const pr_plane_args *args;
    const pr__plane_plan *plan;
    size_t tile_bytes[PR_PLANE_COUNT];
    uint32_t n_blocks, n_runs;
    uint32_t tiles, n_groups; /* tiles in a step, steps over all tiles */
    bool by_tile;             /* the order of steps */
} walk;

/* First tile and first block of a step; the step after the last is the one after it in memory, as well as may be. */
static void place_of(const walk *k, uint32_t step, uint32_t *tile, uint32_t *run, uint32_t *block) {
    uint32_t group = k->by_tile ? step / k->n_runs : step % k->n_groups;
    *run = k->by_tile ? step % k->n_runs : step / k->n_groups;
    *tile = group * k->tiles;
    *block = (uint32_t)((uint64_t)k->n_blocks * *run / k->n_runs);
}

static pr__plane_run run_at(const walk *k, size_t tile, size_t block) {
    static const size_t block_bytes[PR_PLANE_COUNT] = {PR__P2_BLOCK, PR__P4_BLOCK, PR__P8_BLOCK, PR__P16_BLOCK};
    pr__plane_run run = {0};
    pr_plane level = k->plan->level, scaled = level == PR_PLANE_P2 ? PR_PLANE_P2 : PR_PLANE_P4;
    for (int p = 0; p <= (int)level; p++) {
        run.plane[p] = k->args->plane[p] + tile * k->tile_bytes[p] + block * block_bytes[p];
    }
    run.scales = k->args->plane[scaled] + tile * k->tile_bytes[scaled] + k->n_blocks * block_bytes[scaled] +
                 block * PR_TILE_ROWS;
    return run;
}

/* The beginning of what comes after the call, as far as this level reads. A plane that is not read there is asked for where p2
 * is, which costs next to nothing, while an address that nothing is mapped at would. */
static pr__plane_run run_after(const walk *k, size_t tile) {
    const pr_plane_soon *after = &k->args->after;
    pr__plane_run run = {0};
    pr_plane level = k->plan->level,
             scaled = level == PR_PLANE_P2 || !after->plane[PR_PLANE_P4] ? PR_PLANE_P2 : PR_PLANE_P4;
    for (int p = 0; p <= (int)level; p++) {
        int there = after->plane[p] ? p : PR_PLANE_P2;
        run.plane[p] = after->plane[there] + tile * pr_plane_tile_bytes((pr_plane)there, after->cols);
    }
    run.scales = run.plane[scaled] + after->cols / PR_BLOCK * (size_t)PR__P2_BLOCK; /* p4 blocks are as large */
    return run;
}

static float factor_of(const walk *k) {
    const pr_plane_book *book = k->args->book;
    switch (k->plan->level) {
    case PR_PLANE_P2: return book->f2;
    case PR_PLANE_P4: return book->f4;
    case PR_PLANE_P8: return book->f8;
    case PR_PLANE_P16: return book->f8 / (float)book->k16;
    case PR_PLANE_COUNT: break;
    }
    return 0.0f;
}

static void step_by_panel(const walk *k, const pr__plane_span *s, uint32_t n_tiles) {
    const pr__plane_plan *plan = k->plan;
    _Alignas(64) uint8_t panel[PR__PLANE_PANEL_BYTES];
    size_t bytes = (size_t)s->n_blocks * plan->panel_block;
    uint32_t n_tokens = k->args->n_tokens, spans = (n_tokens + plan->panel_tokens - 1) / plan->panel_tokens;
    assert(bytes * n_tiles <= sizeof panel);
    for (uint32_t i = 0; i < n_tiles; i++) {
        plan->decode(s, i, panel + i * bytes);
    }
    pr__mm_span span = {.w = panel,
                        .w_stride = bytes,
                        .x = s->x,
                        .x_stride = s->x_stride,
                        .y = s->y,
                        .y_stride = s->y_stride,
                        .n_units = plan->finish ? s->n_blocks : s->n_blocks * PR_BLOCK,
                        .first = s->first,
                        .soon = s->soon};
    for (uint32_t i = 0; i < spans; i++) { /* tokens shared out evenly, as in mm_walk.c */
        uint32_t n = n_tokens / spans + (i < n_tokens % spans ? 1 : 0);
        plan->span(&span, n_tiles, n);
        span.soon = NULL;
        span.x += n * s->x_stride;
        span.y += n * s->y_stride;
    }
    if (plan->finish && s->last) {
        plan->finish(s, n_tiles, n_tokens);
    }
}

static void take_step(const walk *k, uint32_t step, bool direct) {
    const pr_plane_args *a = k->args;
    uint32_t tile, run, block, next_tile, next_run, next_block;
    place_of(k, step, &tile, &run, &block);
    place_of(k, step + 1, &next_tile, &next_run, &next_block);
    bool leaves = step + 1 == k->n_groups * k->n_runs && a->after.plane[PR_PLANE_P2];
    uint32_t end = (uint32_t)((uint64_t)k->n_blocks * (run + 1) / k->n_runs);
    uint32_t n_tiles = a->n_tiles - tile < k->tiles ? a->n_tiles - tile : k->tiles;
    pr__plane_span s = {.book = a->book,
                        .factor = factor_of(k),
                        .n_blocks = end - block,
                        .x = (const uint8_t *)a->x + (size_t)block * k->plan->x_block,
                        .x_stride = a->x_stride,
                        .y = a->y + (size_t)tile * PR_TILE_ROWS,
                        .y_stride = a->y_stride,
                        .first = run == 0,
                        .last = end == k->n_blocks};
    for (uint32_t i = 0; i < n_tiles; i++) {
        s.at[i] = run_at(k, tile + i, block);
        s.soon[i] = leaves ? run_after(k, i) : run_at(k, next_tile + i, next_block);
        s.rows[i] = a->plane[PR_PLANE_P2] + (tile + i) * k->tile_bytes[PR_PLANE_P2] +
                    (size_t)k->n_blocks * (PR__P2_BLOCK + PR_TILE_ROWS);
    }
    if (direct) {
        k->plan->direct(&s, n_tiles, a->n_tokens);
    } else {
        step_by_panel(k, &s, n_tiles);
    }
}

void pr__planes_walk(const pr_plane_args *args, const pr__plane_plan *plan) {
    static const uint32_t level_bytes[PR_PLANE_COUNT] = {144, 272, 528, 1040}; /* of a block of a tile */
    walk k = {.args = args, .plan = plan, .n_blocks = args->cols / PR_BLOCK};
    bool direct = args->n_tokens <= plan->tokens;
    size_t x_bytes = args->n_tokens * (size_t)k.n_blocks * plan->x_block;
    k.by_tile = direct || x_bytes <= X_BYTES_FEW;
    k.tiles = direct ? plan->tiles : plan->panel_tiles;
    k.n_groups = (args->n_tiles + k.tiles - 1) / k.tiles;
    uint32_t most = (direct ? AHEAD / level_bytes[plan->level] : PR__PLANE_PANEL_BYTES / plan->panel_block) / k.tiles;
    k.n_runs = (k.n_blocks + most - 1) / most;
    for (int p = 0; p <= (int)plan->level; p++) {
        k.tile_bytes[p] = pr_plane_tile_bytes((pr_plane)p, args->cols);
    }
    for (uint32_t step = 0; step < k.n_groups * k.n_runs; step++) {
        take_step(&k, step, direct);
    }
}
