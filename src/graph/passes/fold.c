/*
 * fold: what no step changes is computed once, and scaling by 1 goes away.
 *
 * A node whose inputs are all constants or weights (a RoPE frequency divided
 * by a per-dimension factor from the file) is marked `once`: the executor runs
 * it when the model is loaded and never again.
 */
#include "graph/passes.h"

pr_status pr__pass_fold(pr_graph *g, pr_err *err) {
    (void)err;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        pr_node *n = &g->nodes[i];
        if (n->op == PR_OP_SCALE && n->attr.factor == 1.0F) pr_g_replace(g, (pr_node_id)i, n->in[0]);
        if (n->rows == PR_ROWS_ONE && n->n_in > 0) n->once = true;
    }
    return PR_OK;
}
