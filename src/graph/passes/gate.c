/*
 * gate: silu(x G) * (x U) in one matmul.
 *
 * One pass over x, one barrier instead of three, and the two products never
 * reach memory: the executor computes the same tiles of both matrices and
 * combines them while they are in cache.
 */
#include "graph/passes.h"

static bool plain_matmul(const pr_graph *g, pr_node_id id, const uint32_t *uses) {
    const pr_node *n = &g->nodes[id];
    return n->op == PR_OP_MATMUL && n->attr.n_mats == 1 && !n->attr.bias && !n->attr.residual && uses[id] == 1;
}

pr_status pr__pass_gate(pr_graph *g, bool exact, pr_err *err) {
    uint32_t *uses = pr_g_uses(g);
    if (!uses) return pr_fail_nomem(err, "graph", 0);
    for (uint32_t i = 0, n = g->n_nodes; i < n; i++) {
        if (g->nodes[i].op != PR_OP_GATE) continue;
        pr_node_id gate = g->nodes[i].in[0], up = g->nodes[i].in[1];
        if (!plain_matmul(g, gate, uses) || !plain_matmul(g, up, uses)) continue;
        const pr_node *a = &g->nodes[gate], *b = &g->nodes[up];
        if (a->in[0] != b->in[0]) continue;
        if (pr_matrix_wants_q8(g->nodes[a->in[1]].tensor, exact) !=
            pr_matrix_wants_q8(g->nodes[b->in[1]].tensor, exact))
            continue;
        pr_node fused = *a;
        fused.n_in = 3;
        fused.in[2] = b->in[1];
        fused.attr.n_mats = 2;
        fused.attr.gated = true;
        pr_node_id id = pr_g_append(g, &fused);
        if (id == PR_NODE_NONE) return pr_fail_nomem(err, "graph", 0);
        pr_g_replace(g, (pr_node_id)i, id);
    }
    return pr_g_sort(g, err);
}
