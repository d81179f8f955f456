/*
 * Memory plan: every intermediate value at a fixed place in one arena.
 *
 * Sizes are taken at the largest step (rows_max rows, out_max wanted rows);
 * smaller steps use the same places. Values whose lives overlap never share
 * bytes; a value may take the place of an input that dies where it is made,
 * when the operation works element by element.
 */
#ifndef PRECIS_GRAPH_PLAN_H
#define PRECIS_GRAPH_PLAN_H

#include "graph/ir.h"

typedef struct pr_place {
    bool in_arena; /* else: once values have their own memory, weights and views none */
    size_t offset; /* from the start of the arena (or of the once memory); 64-byte aligned but for slices */
    size_t stride; /* bytes from row to row */
} pr_place;

typedef struct pr_plan {
    pr_place *places; /* [n_nodes], in the graph's arena */
    size_t arena_bytes;
    size_t once_bytes;
    size_t live_bytes_max; /* the bound: the most bytes alive at one node */
} pr_plan;

pr_status pr_plan_make(pr_graph *g, uint32_t rows_max, uint32_t out_max, pr_plan *plan, pr_err *err);

#endif
