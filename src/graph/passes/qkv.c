/*
 * qkv: matmuls that read the same x become one, their results side by side.
 *
 * One walk over x and one barrier instead of three; the readers get slices,
 * which are views and cost nothing. The matrices stay separate in memory, so
 * each keeps its own type (and, later, its own precision level). All but the
 * last must end on a whole tile, or the next one would start inside it.
 */
#include "graph/passes.h"

#include "kernels/pack.h"

enum { GROUP_MAX = 3 };

static bool same_activations(const pr_graph *g, const pr_node *a, const pr_node *b, bool exact) {
    return pr_matrix_wants_q8(g->nodes[a->in[1]].tensor, exact) == pr_matrix_wants_q8(g->nodes[b->in[1]].tensor, exact);
}

/* Collect up to GROUP_MAX matmuls of x from node `first` on; returns how many. */
static uint32_t collect(const pr_graph *g, uint32_t first, uint32_t n_nodes, bool exact, pr_node_id *group) {
    const pr_node *head = &g->nodes[first];
    uint32_t n = 0;
    for (uint32_t i = first; i < n_nodes && n < GROUP_MAX; i++) {
        const pr_node *m = &g->nodes[i];
        if (m->op != PR_OP_MATMUL || m->in[0] != head->in[0] || m->attr.n_mats != 1 || m->attr.residual) continue;
        if (n > 0 && g->nodes[group[n - 1]].cols % PR_TILE_ROWS) break;
        if (!same_activations(g, head, m, exact)) break;
        group[n++] = (pr_node_id)i;
    }
    return n;
}

static pr_status merge(pr_graph *g, const pr_node_id *group, uint32_t n, pr_err *err) {
    pr_node fused = g->nodes[group[0]];
    fused.n_in = 1 + n;
    fused.cols = 0;
    fused.name = NULL;
    fused.attr.n_mats = (uint8_t)n;
    fused.attr.bias = false;
    for (uint32_t k = 0; k < n; k++) {
        const pr_node *m = &g->nodes[group[k]];
        fused.in[1 + k] = m->in[1];
        fused.in[1 + n + k] = m->attr.bias ? m->in[2] : PR_NODE_NONE;
        if (m->attr.bias) fused.attr.bias = true;
        fused.cols += m->cols;
    }
    if (fused.attr.bias) fused.n_in += n;
    pr_node_id id = pr_g_append(g, &fused);
    uint32_t first = 0;
    for (uint32_t k = 0; k < n && id != PR_NODE_NONE; k++) {
        pr_node slice = {.op = PR_OP_SLICE, .rows = fused.rows, .n_in = 1, .in = {id}, .attr = fused.attr};
        slice.cols = g->nodes[group[k]].cols;
        slice.attr.first = first;
        first += slice.cols;
        pr_node_id view = pr_g_append(g, &slice);
        if (view == PR_NODE_NONE) return pr_fail_nomem(err, "graph", 0);
        pr_g_replace(g, group[k], view);
    }
    return id == PR_NODE_NONE ? pr_fail_nomem(err, "graph", 0) : PR_OK;
}

pr_status pr__pass_qkv(pr_graph *g, bool exact, pr_err *err) {
    uint32_t *uses = pr_g_uses(g);
    if (!uses) return pr_fail_nomem(err, "graph", 0);
    for (uint32_t i = 0, n_nodes = g->n_nodes; i < n_nodes; i++) {
        if (g->nodes[i].op != PR_OP_MATMUL || !uses[i] || g->nodes[i].attr.n_mats != 1) continue;
        pr_node_id group[GROUP_MAX];
        uint32_t n = collect(g, i, n_nodes, exact, group);
        if (n < 2) continue;
        pr_status st = merge(g, group, n, err);
        if (st) return st;
        for (uint32_t k = 0; k < n; k++) uses[group[k]] = 0;
    }
    return pr_g_sort(g, err);
}
