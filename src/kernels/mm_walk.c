/*
 * The walk of a matrix product (mm_walk.h).
 *
 * Few tokens: tile by tile, so that weights stream from memory in one piece.
 * Many tokens: slice by slice, so that the tokens' part of a slice stays in
 * the second-level cache for all tiles of the call. Either way weights are
 * asked for early: the hardware's own prefetch alone leaves a quarter of the
 * bandwidth unused, and half of it when several tokens share the weights.
 *
 * Tokens are shared out evenly over the spans (13 as 7 + 6, not 12 + 1),
 * because a span of one token runs at the latency of its chain.
 */
#include "kernels/mm_walk.h"

#include <assert.h>

enum {
    X_BYTES_FEW = 192 << 10, /* all tokens' rows up to this size are taken as few tokens */
    AHEAD = 8192             /* bytes of weights between their prefetch and their use, over all tiles of a span */
};

typedef struct walk {
    const pr_mm_args *args;
    const pr__mm_plan *plan;
    size_t tile_stride;
    size_t ahead;
} walk;

/* All tokens against tiles tile .. tile + n_tiles over units unit .. unit + n_units. */
static void slice_of_tiles(const walk *k, uint32_t tile, uint32_t n_tiles, uint32_t unit, uint32_t n_units) {
    const pr_mm_args *a = k->args;
    const pr__mm_plan *plan = k->plan;
    _Alignas(64) float panel[PR__MM_PANEL_FLOATS];
    pr__mm_span span = {
        .w = a->tiles + tile * k->tile_stride + (size_t)unit * plan->w_unit,
        .w_stride = k->tile_stride,
        .x_stride = a->x_stride,
        .y_stride = a->y_stride,
        .n_units = n_units,
        .ahead = k->ahead,
        .first = unit == 0,
    };
    if (plan->decode != NULL) {
        size_t floats = (size_t)n_units * plan->unit_cols * PR_TILE_ROWS;
        assert(floats * n_tiles <= PR__MM_PANEL_FLOATS);
        for (uint32_t i = 0; i < n_tiles; i++) {
            plan->decode(span.w + i * k->tile_stride, n_units, k->ahead, panel + i * floats);
        }
        span.w = (const uint8_t *)panel;
        span.w_stride = floats * sizeof(float);
        span.n_units = n_units * plan->unit_cols;
        span.ahead = 0;
    }
    uint32_t spans = (a->n_tokens + plan->tokens - 1) / plan->tokens;
    for (uint32_t i = 0, t = 0; i < spans; i++) {
        uint32_t n = a->n_tokens / spans + (i < a->n_tokens % spans ? 1 : 0);
        span.x = (const uint8_t *)a->x + t * a->x_stride + (size_t)unit * plan->x_unit;
        span.y = a->y + t * a->y_stride + (size_t)tile * PR_TILE_ROWS;
        plan->span(&span, n_tiles, n);
        span.ahead = 0; /* once is enough */
        t += n;
    }
}

static uint32_t at_most(uint32_t n, uint32_t most) { return n < most ? n : most; }

void pr__mm_walk(const pr_mm_args *args, const pr__mm_plan *plan) {
    uint32_t n_units = args->cols / plan->unit_cols;
    uint32_t slice = args->n_tokens <= plan->tokens && plan->decode == NULL ? n_units : plan->slice;
    bool few = args->n_tokens <= plan->tokens || args->n_tokens * (size_t)n_units * plan->x_unit <= X_BYTES_FEW;
    walk k = {.args = args, .plan = plan, .tile_stride = args->tile_stride};
    if (k.tile_stride == 0) k.tile_stride = (size_t)n_units * plan->w_unit;
    if (few) {
        k.ahead = AHEAD / plan->tiles;
        for (uint32_t t = 0; t < args->n_tiles; t += plan->tiles) {
            for (uint32_t u = 0; u < n_units; u += slice) {
                slice_of_tiles(&k, t, at_most(args->n_tiles - t, plan->tiles), u, at_most(n_units - u, slice));
            }
        }
    } else {
        k.ahead = plan->tiles * k.tile_stride;
        for (uint32_t u = 0; u < n_units; u += slice) {
            for (uint32_t t = 0; t < args->n_tiles; t += plan->tiles) {
                slice_of_tiles(&k, t, at_most(args->n_tiles - t, plan->tiles), u, at_most(n_units - u, slice));
            }
        }
    }
}
