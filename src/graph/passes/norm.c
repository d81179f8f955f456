/*
 * norm: a value that only matmuls of blocks read is written as blocks by
 * whoever makes it.
 *
 * Norm, gate and attention finish a row while it is in cache; rounding it there
 * saves writing and reading it as floats, and a barrier.
 */
#include "graph/passes.h"

#include "kernels/pack.h"

static bool makes_blocks(const pr_node *n) {
    if (n->form != PR_FORM_F32) return false;
    switch (n->op) {
    case PR_OP_NORM:
    case PR_OP_GATE: return true;
    case PR_OP_MATMUL: /* a work item of two tiles is one block */ return n->attr.gated;
    case PR_OP_ATTEND: /* a work item is the heads of one KV head */
        return n->attr.n_heads / n->attr.n_kv_heads * n->attr.head_dim % PR_BLOCK == 0;
    case PR_OP_CONST:
    case PR_OP_WEIGHT:
    case PR_OP_EMBED:
    case PR_OP_ROPE_TABLE:
    case PR_OP_ROPE:
    case PR_OP_KV_WRITE:
    case PR_OP_ADD:
    case PR_OP_DIV:
    case PR_OP_SCALE:
    case PR_OP_ROWS:
    case PR_OP_SLICE:
    case PR_OP_QUANT:
    case PR_OP_COUNT: return false;
    }
    return false;
}

pr_status pr__pass_norm(pr_graph *g, pr_err *err) {
    uint32_t *uses = pr_g_uses(g);
    if (!uses) return pr_fail_nomem(err, "graph", 0);
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        if (g->nodes[i].op != PR_OP_QUANT) continue;
        pr_node_id maker = g->nodes[i].in[0];
        if (uses[maker] != 1 || !makes_blocks(&g->nodes[maker])) continue;
        g->nodes[maker].form = g->nodes[i].form;
        pr_g_replace(g, (pr_node_id)i, maker);
        g->nodes[i].n_in = 0; /* unread: must not read blocks as floats */
        g->nodes[i].dead = true;
    }
    return pr_g_sort(g, err);
}
