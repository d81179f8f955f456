/*
 * residual: x + (y W) in one matmul.
 *
 * The matmul adds the residual stream as it stores each tile. The sum is the
 * same two floats added, so the bits are the same; the planner then lets the
 * result take the place of x, and the residual stream never moves.
 */
#include "graph/passes.h"

pr_status pr__pass_residual(pr_graph *g, pr_err *err) {
    uint32_t *uses = pr_g_uses(g);
    if (!uses) return pr_fail_nomem(err, "graph", 0);
    for (uint32_t i = 0, n = g->n_nodes; i < n; i++) {
        if (g->nodes[i].op != PR_OP_ADD) continue;
        for (uint32_t side = 0; side < 2; side++) {
            pr_node_id product = g->nodes[i].in[1 - side], stream = g->nodes[i].in[side];
            const pr_node *m = &g->nodes[product];
            if (m->op != PR_OP_MATMUL || m->attr.n_mats != 1 || m->attr.residual || uses[product] != 1) continue;
            if (g->nodes[stream].rows != m->rows) continue;
            pr_node fused = *m;
            fused.in[fused.n_in++] = stream;
            fused.attr.residual = true;
            pr_node_id id = pr_g_append(g, &fused);
            if (id == PR_NODE_NONE) return pr_fail_nomem(err, "graph", 0);
            pr_g_replace(g, (pr_node_id)i, id);
            break;
        }
    }
    return pr_g_sort(g, err);
}
