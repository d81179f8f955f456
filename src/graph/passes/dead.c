/*
 * dead: remove what the output does not need.
 *
 * Passes leave what they replaced in place; this one marks from the output and
 * drops the rest. Inputs come before their readers, so one walk backwards does it.
 */
#include "graph/passes.h"

pr_status pr__pass_dead(pr_graph *g, pr_err *err) {
    bool *live = pr_arena_array(&g->arena, g->n_nodes, sizeof *live);
    if (!live) return pr_fail_nomem(err, "graph", g->n_nodes);
    live[g->output] = true;
    for (pr_node_id i = (pr_node_id)g->n_nodes - 1; i >= 0; i--) {
        pr_node *n = &g->nodes[i];
        if (!live[i]) n->dead = true;
        for (uint32_t j = 0; j < n->n_in && live[i]; j++)
            if (n->in[j] != PR_NODE_NONE) live[n->in[j]] = true;
    }
    return pr_g_sort(g, err);
}
