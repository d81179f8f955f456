/*
 * layout: the form in which a value is stored.
 *
 * A matmul over 8-bit weights wants its input as 8-bit blocks. Left alone it
 * converts the input itself, each time; this pass makes the conversion a node
 * of its own, shared by every matmul of the same input. A nested matrix with a
 * p16 plane wants blocks of 13 bits at its highest level and of 8 below, and its
 * level moves while the model runs: its input is kept in both forms.
 */
#include "graph/passes.h"

static pr_node_id quant_of(pr_graph *g, pr_node_id of, uint32_t from) {
    for (uint32_t i = from; i < g->n_nodes; i++)
        if (g->nodes[i].op == PR_OP_QUANT && g->nodes[i].in[0] == of) return (pr_node_id)i;
    pr_node n = {.op = PR_OP_QUANT, .rows = g->nodes[of].rows, .form = PR_FORM_Q8, .cols = g->nodes[of].cols};
    n.n_in = 1;
    n.in[0] = of;
    n.attr.layer = g->nodes[of].attr.layer;
    return pr_g_append(g, &n);
}

pr_status pr__pass_layout(pr_graph *g, bool exact, pr_err *err) {
    for (uint32_t i = 0, n = g->n_nodes; i < n; i++) {
        if (g->nodes[i].op != PR_OP_MATMUL || !pr_matrix_wants_q8(g->nodes[g->nodes[i].in[1]].tensor, exact)) continue;
        pr_node_id q = quant_of(g, g->nodes[i].in[0], n);
        if (q == PR_NODE_NONE) return pr_fail_nomem(err, "graph", 0);
        g->nodes[i].in[0] = q;
        for (uint32_t m = 1; m <= g->nodes[i].attr.n_mats; m++)
            if (pr_matrix_wants_both(g->nodes[g->nodes[i].in[m]].tensor)) g->nodes[q].form = PR_FORM_BOTH;
    }
    return pr_g_sort(g, err);
}
