/*
 * Lowering: rewriting the graph for inference.
 *
 * Each pass keeps the logits bit for bit: it moves, merges or removes work, and
 * never changes the order of a float operation. All can be switched off one by
 * one (--no-pass NAME), which the tests use to prove that.
 */
#ifndef PRECIS_GRAPH_PASSES_H
#define PRECIS_GRAPH_PASSES_H

#include "graph/ir.h"

enum {
    PR_PASS_FOLD = 1,      /* compute once what no step changes; drop scaling by 1 */
    PR_PASS_ROWS = 2,      /* select the wanted rows as early as the last layer allows */
    PR_PASS_QKV = 4,       /* matmuls of one input side by side: q, k, v */
    PR_PASS_GATE = 8,      /* gate, up and their product in one matmul */
    PR_PASS_RESIDUAL = 16, /* the residual addition inside its matmul */
    PR_PASS_LAYOUT = 32,   /* the input of 8-bit matmuls is quantized once, not by each of them */
    PR_PASS_NORM = 64,     /* norm, gate and attention write their matmul's 8-bit input directly */
    PR_PASS_DEAD = 128     /* remove what nobody reads */
};

/* Pass names for --no-pass: "fold, rows, ...". */
const char *pr_pass_names(void);
bool pr_pass_by_name(const char *name, uint32_t *bit);

typedef struct pr_lower_opts {
    uint32_t passes_off; /* PR_PASS_* bits */
    bool exact;          /* float activations: no rows of blocks */
} pr_lower_opts;

/* Rewrite g in place. */
pr_status pr_graph_lower(pr_graph *g, const pr_lower_opts *opts, pr_err *err);

/* True when the matrix is executed with 8-bit activations. */
bool pr_matrix_wants_q8(const pr_tensor_info *t, bool exact);
/* True for a nested matrix whose highest level reads activations of 13 bits, while the others read those of 8. */
bool pr_matrix_wants_both(const pr_tensor_info *t);

/* The passes, one file each in graph/passes/. */
pr_status pr__pass_fold(pr_graph *g, pr_err *err);
pr_status pr__pass_rows(pr_graph *g, pr_err *err);
pr_status pr__pass_qkv(pr_graph *g, bool exact, pr_err *err);
pr_status pr__pass_gate(pr_graph *g, bool exact, pr_err *err);
pr_status pr__pass_residual(pr_graph *g, pr_err *err);
pr_status pr__pass_layout(pr_graph *g, bool exact, pr_err *err);
pr_status pr__pass_norm(pr_graph *g, pr_err *err);
pr_status pr__pass_dead(pr_graph *g, pr_err *err);

#endif
