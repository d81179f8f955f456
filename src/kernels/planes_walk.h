/*
 * The walk of a product of nested planes, shared by the SIMD bodies: the
 * sister of mm_walk.h for weights that stand in several places. Internal to
 * kernels/.
 *
 * Few tokens: a body decodes weights in registers, tile by tile. Many tokens:
 * a slice of columns is decoded once into a panel that stays in the
 * first-level cache while the tokens pass by. In both cases rows are cut into
 * runs of blocks, sums wait in y between two runs (which changes no bit), and
 * the body gets the run after its own to ask memory for meanwhile: a level has
 * up to five streams, all short, and the hardware does not see them coming.
 * With a panel either half of the work may ask; decoding alone is over soon
 * and then waits for what it asked.
 */
#ifndef PRECIS_KERNELS_PLANES_WALK_H
#define PRECIS_KERNELS_PLANES_WALK_H

#include "kernels/kernels.h"
#include "kernels/mm_walk.h"

enum { PR__PLANE_TILES = 2 /* at most in a span */, PR__PLANE_PANEL_BYTES = 32 << 10 };
/* Bytes of a block in one tile of a plane. */
enum { PR__P2_BLOCK = 128, PR__P4_BLOCK = 128, PR__P8_BLOCK = 256, PR__P16_BLOCK = 512 };

/* A run of blocks of one tile: codes (NULL above the level) and group scales u8 [16], both of its first block. */
typedef struct pr__plane_run {
    const uint8_t *plane[PR_PLANE_COUNT];
    const uint8_t *scales;
} pr__plane_run;

/* The run of one or two tiles, and what follows it: may lie outside of any object. */
typedef struct pr__plane_span {
    const pr_plane_book *book;
    float factor; /* of the level */
    uint32_t n_blocks;
    pr__plane_run at[PR__PLANE_TILES], soon[PR__PLANE_TILES];
    const uint8_t *rows[PR__PLANE_TILES]; /* f16 [16], the scales of the rows */
    const uint8_t *x;                     /* first block of the first token */
    size_t x_stride;                      /* bytes */
    float *y;                             /* [n_tokens][n_tiles * 16] */
    size_t y_stride;                      /* floats */
    bool first, last; /* sums begin at 0, else at what y holds; last: sums over blocks meet row * factor */
} pr__plane_span;

typedef void pr__plane_span_fn(const pr__plane_span *span, uint32_t n_tiles, uint32_t n_tokens);
/* Decode the run of tile i of a span. */
typedef void pr__plane_decode_fn(const pr__plane_span *span, uint32_t i, uint8_t *panel);

/* y = y * (row scale * factor): the end of what a panel summed up over blocks. */
typedef void pr__plane_finish_fn(const pr__plane_span *span, uint32_t n_tiles, uint32_t n_tokens);

typedef struct pr__plane_plan {
    pr_plane level;
    uint32_t x_block;       /* bytes of 32 columns of a token */
    uint32_t tiles, tokens; /* of direct, at most */
    pr__plane_span_fn *direct;
    uint32_t panel_tiles, panel_tokens; /* of span, at most */
    uint32_t panel_block;               /* bytes of a decoded block of one tile */
    pr__plane_decode_fn *decode;
    pr__mm_span_fn *span;        /* over the panel; its units are columns of floats or, with finish, blocks */
    pr__plane_finish_fn *finish; /* where activations are blocks, else NULL */
} pr__plane_plan;

void pr__planes_walk(const pr_plane_args *args, const pr__plane_plan *plan);

#endif
