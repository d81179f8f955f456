/*
 * Graph IR: building with shape checks, copying, sorting, printing.
 *
 * Nodes sit in one growing array and refer to each other by index: passes may
 * append while they hold an id, and a copy is a memcpy. The array's order is
 * the order of execution; a pass that appends restores it with pr_g_sort().
 *
 * Why not a general tensor IR (n dimensions, broadcasting): everything a
 * decoder does is a row of numbers a token. Two dimensions, one of them a
 * symbol, keep each pass a page long.
 */
#include "graph/ir.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kernels/kernels.h"

void pr_graph_init(pr_graph *g) {
    *g = (pr_graph){.output = PR_NODE_NONE};
    pr_arena_init(&g->arena, PR_TAG_GRAPH);
}

void pr_graph_free(pr_graph *g) {
    pr_free(g->nodes);
    pr_arena_free(&g->arena);
    *g = (pr_graph){.output = PR_NODE_NONE};
}

pr_status pr_graph_copy(const pr_graph *src, pr_graph *dst, pr_err *err) {
    dst->nodes = pr_calloc(PR_TAG_GRAPH, src->n_nodes ? src->n_nodes : 1, sizeof *dst->nodes);
    if (!dst->nodes) return pr_fail_nomem(err, "graph", src->n_nodes * sizeof *dst->nodes);
    dst->cap_nodes = src->n_nodes;
    dst->output = src->output;
    dst->n_layers = src->n_layers;
    for (uint32_t i = 0; i < src->n_nodes; i++) {
        pr_node n = src->nodes[i];
        if (n.data) {
            float *data = pr_arena_array(&dst->arena, n.cols, sizeof *data);
            if (!data) return pr_fail_nomem(err, "graph constant", n.cols * sizeof *data);
            memcpy(data, n.data, n.cols * sizeof *data);
            n.data = data;
        }
        if (n.name) {
            n.name = pr_arena_strndup(&dst->arena, n.name, strlen(n.name));
            if (!n.name) return pr_fail_nomem(err, "graph name", 0);
        }
        dst->nodes[dst->n_nodes++] = n;
    }
    return PR_OK;
}

pr_status pr_graph_check(const pr_graph *g, pr_err *err) {
    if (g->err.status) {
        if (err) *err = g->err;
        return g->err.status;
    }
    if (g->output == PR_NODE_NONE) return pr_fail(err, PR_ERR_FORMAT, "the model's graph has no output");
    return PR_OK;
}

/* ---- building --------------------------------------------------------- */

/* Keep the first failure. */
static pr_node_id PR_PRINTF(3, 4) graph_fail(pr_graph *g, pr_status status, const char *fmt, ...) {
    if (g->err.status) return PR_NODE_NONE;
    char text[256];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    (void)pr_fail(&g->err, status, "layer %u: %s", g->layer_now, text);
    return PR_NODE_NONE;
}

pr_node *pr_g_node(pr_graph *g, pr_node_id id) { return &g->nodes[id]; }

const pr_node *pr_g_node_const(const pr_graph *g, pr_node_id id) { return &g->nodes[id]; }

pr_node_id pr_g_append(pr_graph *g, const pr_node *node) {
    if (g->n_nodes == g->cap_nodes) {
        uint32_t cap = g->cap_nodes ? g->cap_nodes * 2 : 256;
        pr_node *nodes = pr_realloc_array(PR_TAG_GRAPH, g->nodes, cap, sizeof *nodes);
        if (!nodes) return graph_fail(g, PR_ERR_NOMEM, "out of memory for the graph");
        g->nodes = nodes;
        g->cap_nodes = cap;
    }
    g->nodes[g->n_nodes] = *node;
    return (pr_node_id)g->n_nodes++;
}

/* A node with its inputs in place; rows follow the first input. */
static pr_node node_of(pr_graph *g, pr_op op, uint32_t n_in, const pr_node_id *in) {
    pr_node n = {.op = op, .n_in = n_in, .rows = PR_ROWS_ONE};
    for (uint32_t i = 0; i < n_in; i++) n.in[i] = in[i];
    if (n_in > 0) {
        n.rows = g->nodes[in[0]].rows;
        n.cols = g->nodes[in[0]].cols;
    }
    n.attr.layer = g->layer_now;
    return n;
}

static bool is_matrix(const pr_node *n) { return n->op == PR_OP_WEIGHT && n->mat_rows > 0; }

static const char *name_of(const pr_node *n) { return n->name ? n->name : pr_op_name(n->op); }

static pr_node_id not_a_matrix(pr_graph *g, const pr_node *n) {
    return graph_fail(g, PR_ERR_FORMAT, "tensor %s is not a matrix", name_of(n));
}

/* A vector of n numbers is wanted for `whose`. */
static pr_node_id bad_vector(pr_graph *g, const pr_node *v, const char *whose, uint32_t n) {
    if (is_matrix(v)) return graph_fail(g, PR_ERR_FORMAT, "tensor %s is a matrix", name_of(v));
    return graph_fail(g, PR_ERR_FORMAT, "tensor %s has %u numbers where %s has %u", name_of(v), v->cols, whose, n);
}

pr_node_id pr_g_const(pr_graph *g, const char *name, const float *data, uint32_t n) {
    float *copy = pr_arena_array(&g->arena, n ? n : 1, sizeof *copy);
    if (!copy) return graph_fail(g, PR_ERR_NOMEM, "out of memory for a constant");
    memcpy(copy, data, n * sizeof *copy);
    pr_node node = node_of(g, PR_OP_CONST, 0, NULL);
    node.cols = n;
    node.data = copy;
    node.name = name ? pr_arena_strndup(&g->arena, name, strlen(name)) : NULL;
    return pr_g_append(g, &node);
}

pr_node_id pr_g_weight(pr_graph *g, const pr_tensor_info *t) {
    if (!t) return PR_NODE_NONE;
    if (t->n_dims > 2 || t->dims[0] > INT32_MAX || t->dims[1] > INT32_MAX)
        return graph_fail(g, PR_ERR_UNSUPPORTED, "tensor %s has more than two dimensions or is too large", t->name);
    for (uint32_t i = 0; i < g->n_nodes; i++) /* tied weights are one node */
        if (g->nodes[i].tensor == t) return (pr_node_id)i;
    pr_node node = node_of(g, PR_OP_WEIGHT, 0, NULL);
    node.tensor = t;
    node.cols = (uint32_t)t->dims[0];
    node.mat_rows = t->n_dims == 2 ? (uint32_t)t->dims[1] : 0;
    node.name = t->name;
    return pr_g_append(g, &node);
}

pr_node_id pr_g_embed(pr_graph *g, pr_node_id matrix) {
    if (matrix == PR_NODE_NONE) return matrix;
    if (!is_matrix(&g->nodes[matrix])) return not_a_matrix(g, &g->nodes[matrix]);
    pr_node node = node_of(g, PR_OP_EMBED, 1, &matrix);
    node.rows = PR_ROWS_TOKENS;
    return pr_g_append(g, &node);
}

pr_node_id pr_g_rope_table(pr_graph *g, pr_node_id inv_freq, float factor) {
    if (inv_freq == PR_NODE_NONE) return inv_freq;
    pr_node node = node_of(g, PR_OP_ROPE_TABLE, 1, &inv_freq);
    node.rows = PR_ROWS_TOKENS;
    node.cols *= 2;
    node.attr.factor = factor;
    return pr_g_append(g, &node);
}

pr_node_id pr_g_norm(pr_graph *g, pr_node_id x, pr_node_id weight, float eps) {
    if (x == PR_NODE_NONE || weight == PR_NODE_NONE) return PR_NODE_NONE;
    if (g->nodes[weight].cols != g->nodes[x].cols || is_matrix(&g->nodes[weight]))
        return bad_vector(g, &g->nodes[weight], "its input", g->nodes[x].cols);
    pr_node node = node_of(g, PR_OP_NORM, 2, (pr_node_id[]){x, weight});
    node.attr.eps = eps;
    return pr_g_append(g, &node);
}

pr_node_id pr_g_matmul(pr_graph *g, pr_node_id x, pr_node_id matrix, pr_node_id bias) {
    if (x == PR_NODE_NONE || matrix == PR_NODE_NONE) return PR_NODE_NONE;
    const pr_node *w = &g->nodes[matrix];
    if (!is_matrix(w)) return not_a_matrix(g, w);
    if (w->cols != g->nodes[x].cols)
        return graph_fail(g, PR_ERR_FORMAT, "tensor %s has %u columns where its input has %u", name_of(w), w->cols,
                          g->nodes[x].cols);
    if (bias != PR_NODE_NONE && (is_matrix(&g->nodes[bias]) || g->nodes[bias].cols != w->mat_rows))
        return bad_vector(g, &g->nodes[bias], "its matrix", w->mat_rows);
    pr_node node = node_of(g, PR_OP_MATMUL, bias == PR_NODE_NONE ? 2 : 3, (pr_node_id[]){x, matrix, bias});
    node.cols = w->mat_rows;
    node.attr.n_mats = 1;
    node.attr.bias = bias != PR_NODE_NONE;
    return pr_g_append(g, &node);
}

pr_node_id pr_g_rope(pr_graph *g, pr_node_id x, pr_node_id table, uint32_t head_dim, bool neox) {
    if (x == PR_NODE_NONE || table == PR_NODE_NONE) return PR_NODE_NONE;
    uint32_t n_rot = g->nodes[table].cols;
    if (head_dim == 0 || g->nodes[x].cols % head_dim || n_rot > head_dim)
        return graph_fail(g, PR_ERR_FORMAT, "%u rotary dimensions do not fit %u columns in heads of %u", n_rot,
                          g->nodes[x].cols, head_dim);
    pr_node node = node_of(g, PR_OP_ROPE, 2, (pr_node_id[]){x, table});
    node.attr.head_dim = head_dim;
    node.attr.n_heads = node.cols / head_dim;
    node.attr.n_rot = n_rot;
    node.attr.neox = neox;
    return pr_g_append(g, &node);
}

pr_node_id pr_g_kv_write(pr_graph *g, pr_node_id k, pr_node_id v, uint32_t layer, uint32_t head_dim) {
    if (k == PR_NODE_NONE || v == PR_NODE_NONE) return PR_NODE_NONE;
    if (g->nodes[k].cols != g->nodes[v].cols || head_dim == 0 || g->nodes[k].cols % head_dim)
        return graph_fail(g, PR_ERR_FORMAT, "keys of %u and values of %u columns do not have the same heads of %u",
                          g->nodes[k].cols, g->nodes[v].cols, head_dim);
    pr_node node = node_of(g, PR_OP_KV_WRITE, 2, (pr_node_id[]){k, v});
    node.attr.layer = layer;
    node.attr.head_dim = head_dim;
    node.attr.n_kv_heads = node.cols / head_dim;
    node.cols = 0;
    return pr_g_append(g, &node);
}

pr_node_id pr_g_attend(pr_graph *g, pr_node_id q, pr_node_id kv, uint32_t n_heads, float scale, uint32_t window) {
    if (q == PR_NODE_NONE || kv == PR_NODE_NONE) return PR_NODE_NONE;
    const pr_attr *a = &g->nodes[kv].attr;
    if (n_heads % a->n_kv_heads || g->nodes[q].cols != n_heads * a->head_dim)
        return graph_fail(g, PR_ERR_FORMAT, "%u query heads in %u columns do not fit %u key heads of %u", n_heads,
                          g->nodes[q].cols, a->n_kv_heads, a->head_dim);
    pr_node node = node_of(g, PR_OP_ATTEND, 2, (pr_node_id[]){q, kv});
    node.attr.layer = a->layer;
    node.attr.head_dim = a->head_dim;
    node.attr.n_kv_heads = a->n_kv_heads;
    node.attr.n_heads = n_heads;
    node.attr.factor = scale;
    node.attr.window = window;
    return pr_g_append(g, &node);
}

static pr_node_id binary(pr_graph *g, pr_op op, pr_node_id a, pr_node_id b) {
    if (a == PR_NODE_NONE || b == PR_NODE_NONE) return PR_NODE_NONE;
    if (is_matrix(&g->nodes[a])) return bad_vector(g, &g->nodes[a], "", 0);
    if (is_matrix(&g->nodes[b]) || g->nodes[a].cols != g->nodes[b].cols)
        return bad_vector(g, &g->nodes[b], name_of(&g->nodes[a]), g->nodes[a].cols);
    pr_node node = node_of(g, op, 2, (pr_node_id[]){a, b});
    return pr_g_append(g, &node);
}

pr_node_id pr_g_gate(pr_graph *g, pr_node_id gate, pr_node_id up) { return binary(g, PR_OP_GATE, gate, up); }

pr_node_id pr_g_add(pr_graph *g, pr_node_id a, pr_node_id b) { return binary(g, PR_OP_ADD, a, b); }

pr_node_id pr_g_div(pr_graph *g, pr_node_id a, pr_node_id b) { return binary(g, PR_OP_DIV, a, b); }

pr_node_id pr_g_scale(pr_graph *g, pr_node_id a, float factor) {
    if (a == PR_NODE_NONE) return a;
    pr_node node = node_of(g, PR_OP_SCALE, 1, &a);
    node.attr.factor = factor;
    return pr_g_append(g, &node);
}

pr_node_id pr_g_rows(pr_graph *g, pr_node_id x) {
    if (x == PR_NODE_NONE) return x;
    pr_node node = node_of(g, PR_OP_ROWS, 1, &x);
    node.rows = PR_ROWS_OUT;
    return pr_g_append(g, &node);
}

void pr_g_output(pr_graph *g, pr_node_id logits) { g->output = logits; }

/* ---- for passes ------------------------------------------------------- */

uint32_t *pr_g_uses(pr_graph *g) {
    uint32_t *uses = pr_arena_array(&g->arena, g->n_nodes, sizeof *uses);
    if (!uses) return NULL;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const pr_node *n = &g->nodes[i];
        if (n->dead) continue;
        for (uint32_t j = 0; j < n->n_in; j++)
            if (n->in[j] != PR_NODE_NONE) uses[n->in[j]]++;
    }
    if (g->output != PR_NODE_NONE) uses[g->output]++;
    return uses;
}

void pr_g_replace(pr_graph *g, pr_node_id from, pr_node_id to) {
    for (uint32_t i = 0; i < g->n_nodes; i++)
        for (uint32_t j = 0; j < g->nodes[i].n_in; j++)
            if (g->nodes[i].in[j] == from && (pr_node_id)i != to) g->nodes[i].in[j] = to;
    if (g->output == from) g->output = to;
}

/* Depth-first placement of id behind its inputs; done[id] is its new place + 1. Depth is bounded by an own stack. */
static void place(const pr_graph *g, pr_node_id id, uint32_t *done, pr_node_id *stack, pr_node_id *order, uint32_t *n) {
    uint32_t top = 0;
    stack[top++] = id;
    while (top > 0) {
        pr_node_id at = stack[top - 1];
        const pr_node *node = &g->nodes[at];
        pr_node_id next = PR_NODE_NONE;
        for (uint32_t j = 0; j < node->n_in && next == PR_NODE_NONE; j++)
            if (node->in[j] != PR_NODE_NONE && !done[node->in[j]]) next = node->in[j];
        if (next != PR_NODE_NONE) {
            stack[top++] = next;
            continue;
        }
        top--;
        if (!done[at]) {
            order[*n] = at;
            done[at] = ++*n;
        }
    }
}

pr_status pr_g_sort(pr_graph *g, pr_err *err) {
    uint32_t n = 0;
    uint32_t *done = pr_arena_array(&g->arena, g->n_nodes, sizeof *done);
    pr_node_id *order = pr_arena_array(&g->arena, g->n_nodes, sizeof *order);
    pr_node_id *stack = pr_arena_array(&g->arena, g->n_nodes, sizeof *stack);
    pr_node *nodes = pr_calloc(PR_TAG_GRAPH, g->n_nodes ? g->n_nodes : 1, sizeof *nodes);
    if (!done || !order || !stack || !nodes) {
        pr_free(nodes);
        return pr_fail_nomem(err, "graph", g->n_nodes * sizeof *nodes);
    }
    for (uint32_t i = 0; i < g->n_nodes; i++)
        if (!g->nodes[i].dead && !done[i]) place(g, (pr_node_id)i, done, stack, order, &n);
    for (uint32_t i = 0; i < n; i++) {
        pr_node node = g->nodes[order[i]];
        for (uint32_t j = 0; j < node.n_in; j++)
            if (node.in[j] != PR_NODE_NONE) node.in[j] = (pr_node_id)done[node.in[j]] - 1;
        nodes[i] = node;
    }
    g->output = (pr_node_id)done[g->output] - 1;
    pr_free(g->nodes);
    g->nodes = nodes;
    g->cap_nodes = g->n_nodes;
    g->n_nodes = n;
    return PR_OK;
}

/* ---- description ------------------------------------------------------ */

const char *pr_op_name(pr_op op) {
    static const char *const names[PR_OP_COUNT] = {
        [PR_OP_CONST] = "const",   [PR_OP_WEIGHT] = "weight",
        [PR_OP_EMBED] = "embed",   [PR_OP_ROPE_TABLE] = "rope_table",
        [PR_OP_NORM] = "norm",     [PR_OP_MATMUL] = "matmul",
        [PR_OP_ROPE] = "rope",     [PR_OP_KV_WRITE] = "kv_write",
        [PR_OP_ATTEND] = "attend", [PR_OP_GATE] = "gate",
        [PR_OP_ADD] = "add",       [PR_OP_DIV] = "div",
        [PR_OP_SCALE] = "scale",   [PR_OP_ROWS] = "rows",
        [PR_OP_SLICE] = "slice",   [PR_OP_QUANT] = "quant",
    };
    return names[op];
}

size_t pr_form_blocks_bytes(uint32_t cols) { return pr_align_up(cols / PR_BLOCK * sizeof(pr_qblock), 64); }

size_t pr_node_row_bytes(const pr_node *node) {
    switch (node->form) {
    case PR_FORM_F32: break;
    case PR_FORM_Q8: return node->cols / PR_BLOCK * sizeof(pr_qblock);
    case PR_FORM_BOTH: return pr_form_blocks_bytes(node->cols) + node->cols / PR_BLOCK * sizeof(pr_qblock13);
    }
    return (size_t)node->cols * sizeof(float);
}

static void dump_input(const pr_graph *g, pr_node_id id, pr_str *out) {
    if (id == PR_NODE_NONE) {
        pr_str_puts(out, " -");
        return;
    }
    const pr_node *n = &g->nodes[id];
    if (n->op == PR_OP_WEIGHT && n->mat_rows)
        pr_str_printf(out, " %s(%s %ux%u, %" PRIu64 " B)", n->name, pr_dtype_get(n->tensor->dtype)->name, n->mat_rows,
                      n->cols, n->tensor->bytes);
    else if (n->op == PR_OP_WEIGHT) pr_str_printf(out, " %s", n->name);
    else pr_str_printf(out, " %%%d", id);
}

void pr_graph_dump(const pr_graph *g, pr_str *out) {
    static const char *const rows[] = {[PR_ROWS_ONE] = "1", [PR_ROWS_TOKENS] = "tokens", [PR_ROWS_OUT] = "wanted"};
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const pr_node *n = &g->nodes[i];
        if (n->dead || n->op == PR_OP_WEIGHT) continue;
        pr_str_printf(out, "%%%-4u %s[%s x %u%s]", i, pr_op_name(n->op), rows[n->rows], n->cols,
                      n->form == PR_FORM_Q8     ? " q8"
                      : n->form == PR_FORM_BOTH ? " q8+q13"
                                                : "");
        if (n->name) pr_str_printf(out, " %s", n->name);
        for (uint32_t j = 0; j < n->n_in; j++) dump_input(g, n->in[j], out);
        if (n->attr.gated) pr_str_puts(out, " gated");
        if (n->attr.residual) pr_str_puts(out, " +residual");
        if (n->once) pr_str_puts(out, " once");
        if (n->op == PR_OP_SCALE) pr_str_printf(out, " by %g", (double)n->attr.factor);
        if (n->op == PR_OP_SLICE) pr_str_printf(out, " from %u", n->attr.first);
        pr_str_printf(out, "  ; %zu B a row\n", pr_node_row_bytes(n));
    }
}
