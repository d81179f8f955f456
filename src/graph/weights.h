/*
 * Weights of a graph: which tensors it needs, how they are packed, where they stand.
 *
 * One mapping holds everything: matrices as tiles, vectors as floats.
 * Planning needs no file content, so estimates are exact before loading.
 */
#ifndef PRECIS_GRAPH_WEIGHTS_H
#define PRECIS_GRAPH_WEIGHTS_H

#include "base/pool.h"
#include "graph/ir.h"
#include "kernels/pack.h"
#include "store/residency.h"

/* Where a nested matrix stands: units in order of tiles, each at its own level. */
typedef struct pr_nested {
    const pr_unit *units; /* of the residency; NULL until bound */
    uint32_t n_units;
    const pr_plane_book *book;
    bool read; /* whole in each step: not only looked up by row */
} pr_nested;

typedef struct pr_weights {
    pr_weight *mats;    /* [n_nodes]; data is NULL until loaded; rows 0 where the node is no matrix */
    pr_nested *nested;  /* [n_nodes] of matrices of pack PLANES: they are not in the mapping */
    const float **vecs; /* [n_nodes]; NULL where the node is no vector */
    size_t *offsets;    /* [n_nodes] into the mapping */
    uint32_t n_nodes;
    uint8_t *base;
    size_t bytes;      /* of the mapping: without nested matrices, as is read_bytes */
    size_t read_bytes; /* read by one decode step: without what is only looked up by row */
    uint64_t n_params;
} pr_weights;

/* Lay out what the live nodes of g need. Errors name the tensor. */
pr_status pr_weights_plan(const pr_graph *g, bool exact, pr_weights *w, pr_err *err);
void pr_weights_free(pr_weights *w); /* an all-zero struct is allowed */

/* Read and pack everything, in parallel; progress (may be NULL) gets 0..1 from the calling thread. */
pr_status pr_weights_load(pr_weights *w, const pr_graph *g, const pr_model_file *file, pr_team *team,
                          void (*progress)(void *arg, double fraction), void *progress_arg, pr_err *err);

/* Point nested matrices at their units; r is borrowed and must outlive w. */
void pr_weights_bind(pr_weights *w, const pr_graph *g, const pr_plane_set *set, const pr_residency *r);
/* Bytes of planes that one decode step reads with the first n_increments loaded. */
size_t pr_weights_nested_read_bytes(const pr_weights *w, const pr_graph *g, const pr_plane_set *set,
                                    uint32_t n_increments);

/* "q4_1 210, f32 61": tensors of the graph by source type; and what was converted, "" if nothing. */
void pr_weights_types(const pr_graph *g, pr_str *out);
void pr_weights_note(const pr_graph *g, bool exact, pr_str *out);

#endif
