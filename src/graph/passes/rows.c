/*
 * rows: in the last layer, only rows whose logits are wanted are worth computing.
 *
 * The model selects the wanted rows just before the output matrix. A row-wise
 * operation commutes with that selection, so it moves up: rows(f(a, b)) becomes
 * f(rows(a), rows(b)), as long as nobody else reads f. It stops at attention,
 * which needs its rows where they are. Walking down the node list visits every
 * user of a node before the node itself.
 */
#include "graph/passes.h"

static bool row_wise(pr_op op) {
    switch (op) {
    case PR_OP_NORM:
    case PR_OP_MATMUL:
    case PR_OP_GATE:
    case PR_OP_ADD:
    case PR_OP_SCALE: return true;
    case PR_OP_CONST:
    case PR_OP_WEIGHT:
    case PR_OP_EMBED:
    case PR_OP_ROPE_TABLE:
    case PR_OP_ROPE:
    case PR_OP_KV_WRITE:
    case PR_OP_ATTEND:
    case PR_OP_DIV:
    case PR_OP_ROWS:
    case PR_OP_SLICE:
    case PR_OP_QUANT:
    case PR_OP_COUNT: return false;
    }
    return false;
}

/* The only reader of node id, when that is a ROWS; else PR_NODE_NONE. */
static pr_node_id sole_rows_reader(const pr_graph *g, pr_node_id id) {
    pr_node_id reader = PR_NODE_NONE;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const pr_node *n = &g->nodes[i];
        for (uint32_t j = 0; j < n->n_in; j++) {
            if (n->in[j] != id) continue;
            if (n->op != PR_OP_ROWS || reader != PR_NODE_NONE) return PR_NODE_NONE;
            reader = (pr_node_id)i;
        }
    }
    return g->output == id ? PR_NODE_NONE : reader;
}

/* The node that selects rows of `of` for a node of `layer`: an existing one, or a new one. */
static pr_node_id rows_of(pr_graph *g, pr_node_id of, uint32_t layer) {
    for (uint32_t i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].op == PR_OP_ROWS && g->nodes[i].in[0] == of) return (pr_node_id)i;
    g->layer_now = layer;
    return pr_g_rows(g, of);
}

pr_status pr__pass_rows(pr_graph *g, pr_err *err) {
    for (pr_node_id i = (pr_node_id)g->n_nodes - 1; i >= 0; i--) {
        if (!row_wise(g->nodes[i].op) || g->nodes[i].rows != PR_ROWS_TOKENS) continue;
        pr_node_id reader = sole_rows_reader(g, i);
        if (reader == PR_NODE_NONE) continue;
        for (uint32_t j = 0; j < g->nodes[i].n_in; j++) {
            pr_node_id in = g->nodes[i].in[j];
            if (in == PR_NODE_NONE || g->nodes[in].rows != PR_ROWS_TOKENS) continue;
            pr_node_id selected = rows_of(g, in, g->nodes[i].attr.layer);
            if (selected == PR_NODE_NONE) return pr_fail_nomem(err, "graph", 0);
            g->nodes[i].in[j] = selected;
        }
        g->nodes[i].rows = PR_ROWS_OUT;
        pr_g_replace(g, reader, i);
        g->nodes[reader].n_in = 0; /* unread now, and its input no longer has a row a token */
        g->nodes[reader].dead = true;
    }
    return pr_g_sort(g, err);
}
