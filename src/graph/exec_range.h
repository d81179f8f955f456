/*
 * A step a few layers at a time.
 *
 * A lowered graph can be cut between layers: one value with a row a token, the residual stream, is all that the later
 * layers know of the earlier ones. Running layer ranges one after another over the same step gives the bits of the whole
 * step, and lets somebody who has all tokens beforehand (calibration) hold the weights of one range at a time
 * (graph/weights_range.h) while only the stream of every token waits.
 *
 * The embedding belongs to layer 0, the final norm and the output matrix to the last layer; what depends on positions
 * alone (the rope table) is computed in every range.
 */
#ifndef PRECIS_GRAPH_EXEC_RANGE_H
#define PRECIS_GRAPH_EXEC_RANGE_H

#include "graph/exec.h"

/* True when node id is computed in a run of layers [from, to). */
bool pr_graph_in_range(const pr_graph *g, pr_node_id id, uint32_t from, uint32_t to);

/* The value that layers from `layer` (1 .. n_layers-1) on read of those before. PR_ERR_UNSUPPORTED when it is not exactly
 * one, of floats, with a row a token. */
pr_status pr_graph_boundary(const pr_graph *g, uint32_t layer, pr_node_id *out, pr_err *err);

/* Whoever wants to see what matrices are multiplied with: called with the input of each MATMUL node of floats before it
 * runs. Its work is cut into items that the threads of the team claim. */
typedef struct pr_exec_tap {
    void *arg;
    /* Work items for this node, 0: not wanted. Asked by every thread: the answer must not change during a run. */
    uint32_t (*n_chunks)(void *arg, pr_node_id matmul);
    /* x: [n_rows][columns of the input], rows `stride` floats apart. */
    void (*body)(void *arg, pr_node_id matmul, uint32_t chunk, const float *x, size_t stride, uint32_t n_rows,
                 int thread);
} pr_exec_tap;

typedef struct pr_exec_range {
    uint32_t from, to;      /* layers; from < to <= n_layers */
    float *hidden;          /* [n_tokens][cols of the boundary]: read when from > 0, written when to < n_layers */
    const pr_exec_tap *tap; /* or NULL */
} pr_exec_range;

/* As pr_exec_step_run() for these layers; allocates nothing. Logits are there after the last range. */
pr_status pr_exec_range_run(pr_exec *exec, pr_team *team, const pr_exec_step *step, const pr_exec_range *range,
                            pr_err *err);

#endif
