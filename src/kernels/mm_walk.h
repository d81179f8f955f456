/*
 * The walk of a matrix product, shared by the SIMD bodies: which tiles,
 * columns and tokens meet in which order. Internal to kernels/.
 *
 * A body multiplies a few tiles by a few tokens over a run of columns, with
 * all sums in registers; the walk cuts the whole call into such spans. With
 * more tokens than one span takes, columns are cut into slices whose weights
 * stay in the first-level cache while the tokens pass by, and the sums wait in
 * y between two slices, which changes no bit.
 */
#ifndef PRECIS_KERNELS_MM_WALK_H
#define PRECIS_KERNELS_MM_WALK_H

#include "kernels/kernels.h"

/* One span. A unit is a column of a float pack or a block of 32 columns. */
typedef struct pr__mm_span {
    const uint8_t *w; /* first unit in the first tile */
    size_t w_stride;  /* bytes from one tile to the next */
    const uint8_t *x; /* first unit of the first token */
    size_t x_stride;  /* bytes */
    float *y;         /* [n_tokens][n_tiles * 16] */
    size_t y_stride;  /* floats */
    uint32_t n_units;
    size_t ahead; /* bytes from a weight to the one worth prefetching when it is used; 0 when it has been asked for */
    bool first;   /* sums begin at 0; else at what y holds */
    const struct pr__plane_run *soon; /* of a panel of planes (planes_walk.h): the run to ask memory for; NULL: none */
} pr__mm_span;

typedef void pr__mm_span_fn(const pr__mm_span *span, uint32_t n_tiles, uint32_t n_tokens);
/* Decode n_units units of one tile at w into columns of 16 floats; prefetch `ahead` bytes further. */
typedef void pr__mm_decode_fn(const uint8_t *w, uint32_t n_units, size_t ahead, float *panel);

typedef struct pr__mm_plan {
    uint32_t unit_cols;      /* columns in a unit: 1 or 32 */
    uint32_t w_unit, x_unit; /* bytes of a unit of a tile, of a token */
    uint32_t slice;          /* units in a slice */
    uint32_t tiles, tokens;  /* at most in a span */
    pr__mm_span_fn *span;
    pr__mm_decode_fn *decode; /* NULL: span reads the tiles themselves; else it gets floats, a unit being a column */
} pr__mm_plan;

/* With decode: slice * unit_cols * tiles * 16 floats must fit this. */
enum { PR__MM_PANEL_FLOATS = 8192 };

void pr__mm_walk(const pr_mm_args *args, const pr__mm_plan *plan);

#endif
