/*
 * Weights of a few layers at a time, for runs of layer ranges (graph/exec_range.h).
 *
 * Vectors (norms, biases) are small and stay; matrices are read when their range comes and given back after it. So a model
 * runs in the memory of its largest layer. The pr_weights is one that was planned (pr_weights_plan) and not loaded;
 * addresses of matrices change, which an executor that was opened on it notices by itself.
 */
#ifndef PRECIS_GRAPH_WEIGHTS_RANGE_H
#define PRECIS_GRAPH_WEIGHTS_RANGE_H

#include "graph/weights.h"

/* Read the vectors; after that an executor can be opened. On failure w is as it was. */
pr_status pr_weights_begin(pr_weights *w, const pr_graph *g, const pr_model_file *file, pr_err *err);

/* From now on exactly the matrices that layers [from, to) read are in memory (none: from == to). On failure some of them
 * are not. */
pr_status pr_weights_hold(pr_weights *w, const pr_graph *g, const pr_model_file *file, pr_team *team, uint32_t from,
                          uint32_t to, pr_err *err);

/* Give everything back; to be called before pr_weights_free(). All-zero weights are allowed. */
void pr_weights_end(pr_weights *w, const pr_graph *g);

#endif
