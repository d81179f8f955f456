/*
 * Graph IR: what a model computes, as a small static graph.
 *
 * A node makes one value, a matrix of `rows x cols` floats; nodes are stored in
 * the order they are built, which is a valid order of execution. rows is a
 * symbol: nothing of a step's size is known here. Model files build the graph
 * with the pr_g_* calls and compute nothing; passes rewrite it; the planner
 * and the executor read it.
 *
 * Errors while building are kept in the graph (bad shapes, no memory) and come
 * out of pr_graph_check(), so that a model file reads like its paper. A failed
 * call returns PR_NODE_NONE, which every builder accepts and passes on.
 *
 * Ownership: everything lives in the graph's arena. Not thread-safe.
 */
#ifndef PRECIS_GRAPH_IR_H
#define PRECIS_GRAPH_IR_H

#include "base/arena.h"
#include "base/status.h"
#include "base/str.h"
#include "store/model_file.h"

typedef int32_t pr_node_id;
enum { PR_NODE_NONE = -1, PR_INPUTS_MAX = 8 };

typedef enum pr_op {
    PR_OP_CONST,      /* data[cols], known now */
    PR_OP_WEIGHT,     /* a tensor of the model file: a vector [cols], or a matrix */
    PR_OP_EMBED,      /* (matrix): the row of each token */
    PR_OP_ROPE_TABLE, /* (inverse frequencies [n_rot/2]): cos, sin of position * frequency, times attr.factor */
    PR_OP_NORM,       /* (x, weight): RMS norm */
    PR_OP_MATMUL,     /* (x, matrix...; then as flags say): x times each matrix, side by side */
    PR_OP_ROPE,       /* (x, table): rotate every head */
    PR_OP_KV_WRITE,   /* (k, v): store into the session's pages; the value is only an order */
    PR_OP_ATTEND,     /* (q, kv_write): streaming attention over the session's pages */
    PR_OP_GATE,       /* (g, u): silu(g) * u */
    PR_OP_ADD,        /* (a, b): b may be a vector */
    PR_OP_DIV,        /* (a, b): elementwise; vectors */
    PR_OP_SCALE,      /* (a): times attr.factor */
    PR_OP_ROWS,       /* (x): only the rows whose logits are wanted */
    PR_OP_SLICE,      /* (x): columns attr.first .. attr.first + cols, a view */
    PR_OP_QUANT,      /* (x): rows as blocks of the node's form */
    PR_OP_COUNT
} pr_op;

/* How many rows a value has in a step. */
typedef enum pr_rows {
    PR_ROWS_ONE,    /* a vector or matrix that does not change between steps */
    PR_ROWS_TOKENS, /* one a token */
    PR_ROWS_OUT     /* one a wanted row of logits */
} pr_rows;

typedef enum pr_form {
    PR_FORM_F32,
    PR_FORM_Q8,  /* rows of pr_qblock */
    PR_FORM_BOTH /* rows of pr_qblock, and from the next multiple of 64 bytes on the row as pr_qblock13 */
} pr_form;

typedef struct pr_attr {
    uint32_t layer;
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t n_rot;  /* ROPE: numbers rotated at the start of each head */
    bool neox;       /* ROPE: pairs (i, i + n_rot/2), else neighbours */
    uint32_t window; /* ATTEND: tokens seen, this one counted; 0: all */
    float eps;       /* NORM */
    float factor;    /* SCALE, ROPE_TABLE, ATTEND (the score scale) */
    uint32_t first;  /* SLICE */
    /* MATMUL after fusion: */
    uint8_t n_mats; /* matrices, inputs 1 .. n_mats */
    bool bias;      /* n_mats more inputs, PR_NODE_NONE where a matrix has none */
    bool gated;     /* two matrices: the value is silu(first) * second */
    bool residual;  /* the last input is added */
} pr_attr;

typedef struct pr_node {
    pr_op op;
    pr_rows rows;
    pr_form form;
    uint32_t cols;
    uint32_t n_in;
    pr_node_id in[PR_INPUTS_MAX];
    pr_attr attr;
    const float *data;            /* CONST */
    const pr_tensor_info *tensor; /* WEIGHT */
    uint32_t mat_rows;            /* WEIGHT: 0 for a vector; cols is the matrix's columns */
    const char *name;
    bool once; /* computed when the model is loaded, not in each step */
    bool dead; /* removed by a pass */
} pr_node;

typedef struct pr_graph {
    pr_arena arena;
    pr_node *nodes;
    uint32_t n_nodes, cap_nodes;
    pr_node_id output; /* the logits */
    uint32_t n_layers;
    uint32_t layer_now; /* given to every node built, for names and for cutting */
    pr_err err;         /* first failure while building */
} pr_graph;

void pr_graph_init(pr_graph *g);
void pr_graph_free(pr_graph *g);
/* dst (initialized) becomes a copy; tensors stay borrowed. */
pr_status pr_graph_copy(const pr_graph *src, pr_graph *dst, pr_err *err);
pr_status pr_graph_check(const pr_graph *g, pr_err *err);

/* ---- building: shapes are checked, names may be NULL ---- */
pr_node_id pr_g_const(pr_graph *g, const char *name, const float *data, uint32_t n); /* copies data */
pr_node_id pr_g_weight(pr_graph *g, const pr_tensor_info *t);
pr_node_id pr_g_embed(pr_graph *g, pr_node_id matrix);
pr_node_id pr_g_rope_table(pr_graph *g, pr_node_id inv_freq, float factor);
pr_node_id pr_g_norm(pr_graph *g, pr_node_id x, pr_node_id weight, float eps);
/* bias may be PR_NODE_NONE. */
pr_node_id pr_g_matmul(pr_graph *g, pr_node_id x, pr_node_id matrix, pr_node_id bias);
pr_node_id pr_g_rope(pr_graph *g, pr_node_id x, pr_node_id table, uint32_t head_dim, bool neox);
pr_node_id pr_g_kv_write(pr_graph *g, pr_node_id k, pr_node_id v, uint32_t layer, uint32_t head_dim);
pr_node_id pr_g_attend(pr_graph *g, pr_node_id q, pr_node_id kv, uint32_t n_heads, float scale, uint32_t window);
pr_node_id pr_g_gate(pr_graph *g, pr_node_id gate, pr_node_id up);
pr_node_id pr_g_add(pr_graph *g, pr_node_id a, pr_node_id b);
pr_node_id pr_g_div(pr_graph *g, pr_node_id a, pr_node_id b);
pr_node_id pr_g_scale(pr_graph *g, pr_node_id a, float factor);
pr_node_id pr_g_rows(pr_graph *g, pr_node_id x);
void pr_g_output(pr_graph *g, pr_node_id logits);

/* ---- for passes and the planner ---- */
pr_node *pr_g_node(pr_graph *g, pr_node_id id);
const pr_node *pr_g_node_const(const pr_graph *g, pr_node_id id);
/* Append a node without shape inference; PR_NODE_NONE when out of memory. */
pr_node_id pr_g_append(pr_graph *g, const pr_node *node);
/* Uses of each node as an input (and as the output): counts[n_nodes], in the graph's arena; NULL when out of memory. */
uint32_t *pr_g_uses(pr_graph *g);
/* Every use of `from` becomes a use of `to`. */
void pr_g_replace(pr_graph *g, pr_node_id from, pr_node_id to);
/* Put the nodes into an order of execution again after passes appended or rewired, and drop dead ones. */
pr_status pr_g_sort(pr_graph *g, pr_err *err);

const char *pr_op_name(pr_op op);
/* In a row of form BOTH: bytes of its blocks of 8 bits, with padding, which is where those of 13 bits begin. */
size_t pr_form_blocks_bytes(uint32_t cols);
/* Bytes of one row of the value; one whole vector for PR_ROWS_ONE. Row strides are padded: see the planner. */
size_t pr_node_row_bytes(const pr_node *node);
/* One line a node: "%12 matmul[tokens x 576] %10, blk.0.attn_q.weight(q4_1 576x576) ..." */
void pr_graph_dump(const pr_graph *g, pr_str *out);

#endif
