/*
 * Inside the executor: shared by exec.c and the operations (op_*.c).
 */
#ifndef PRECIS_GRAPH_EXEC_IMPL_H
#define PRECIS_GRAPH_EXEC_IMPL_H

#include "graph/exec.h"

enum { PR__MATS_MAX = 3 };

/* An operand or result: rows at base + i * stride; stride 0 repeats one row. */
typedef struct pr__rows {
    uint8_t *base;
    size_t stride;
} pr__rows;

/* One entry of the schedule. */
typedef struct pr__instr {
    pr_op op;
    pr_rows rows;  /* which count the operation walks over */
    pr_form form;  /* of the result */
    uint32_t cols; /* of the result */
    const pr_attr *attr;
    pr_node_id node; /* that it belongs to */
    pr__rows in[2], out;
    uint32_t in_cols;
    /* MATMUL */
    const pr_weight *mats[PR__MATS_MAX];
    const pr_nested *nested[PR__MATS_MAX]; /* of matrices that are planes */
    const float *bias[PR__MATS_MAX];
    pr__rows residual;
    bool q8;    /* the input is 8-bit blocks (and 13-bit ones behind them, where a matrix has p16) */
    bool merge; /* ATTEND: the second half, when spans were work items */
    size_t mat_bytes;
} pr__instr;

/* Query rows of one run that one attention work item takes. */
typedef struct pr__qrows {
    const pr_exec_run *run;
    uint32_t first, n_rows; /* within the run */
} pr__qrows;

struct pr_exec {
    const pr_graph *g;
    const pr_plan *plan;
    const pr_weights *w;
    const pr_kernels *k;
    pr_exec_opts opts;
    uint8_t *memory; /* arena, once values, own inputs in blocks, scratch of each thread */
    size_t memory_bytes;
    uint8_t *scratch;
    size_t scratch_bytes; /* a thread */
    pr__instr *instrs;
    uint32_t n_instrs;
    uint32_t *n_chunks;         /* [n_instrs] work items in this step */
    uint32_t *positions;        /* [rows_max] */
    const pr_exec_run **run_of; /* [rows_max] */
    pr__qrows *qrows;           /* [rows_max] */
    uint32_t n_qrows;
    bool split;   /* attention's work items are spans of the context in this step */
    float *parts; /* what they leave for merging */
    const pr_exec_step *step;
    pr_team *team;
    pr__rows output;
};

static inline uint32_t pr__row_count(const pr_exec *e, const pr__instr *in) {
    return in->rows == PR_ROWS_TOKENS ? e->step->n_tokens : in->rows == PR_ROWS_OUT ? e->step->n_out : 1;
}

static inline float *pr__row(const pr__rows *r, uint32_t i) { return (float *)(void *)(r->base + i * r->stride); }

static inline uint8_t *pr__scratch(const pr_exec *e, int thread) {
    return e->scratch + (size_t)thread * e->scratch_bytes;
}

enum {
    PR__ROWS_PER_CHUNK = 4,   /* rows in one work item of the row-wise operations */
    PR__SPAN_TOKENS = 512,    /* attention: tokens with a softmax state of their own; whole pages */
    PR__SPLIT_ITEMS_MAX = 16, /* attention splits only when there are so few items (rows x KV heads) */
    PR__SPLIT_ROWS_MAX = 4    /* of so few rows each */
};

/* Parts of a step: bind its rows, count the work items of an instruction, do one. */
void pr__exec_bind(pr_exec *e, pr_team *team, const pr_exec_step *step);
uint32_t pr__exec_count(pr_exec *e, const pr__instr *in);
void pr__exec_chunk(const pr_exec *e, const pr__instr *in, uint32_t chunk, int thread);

/* Work item `chunk` of each kind of operation. */
void pr__op_rows(const pr_exec *e, const pr__instr *in, uint32_t chunk, int thread);
void pr__op_matmul(const pr_exec *e, const pr__instr *in, uint32_t chunk, int thread);
void pr__op_attend(const pr_exec *e, const pr__instr *in, uint32_t chunk, int thread);

/* A result in blocks: columns first .. first + n of a row, multiples of 32, from floats. */
void pr__put_blocks(const pr_exec *e, const pr__instr *in, uint32_t row, uint32_t first, const float *x, uint32_t n);

/* Row `row` of a nested matrix as floats, at its level in this step: out[cols]. */
void pr__planes_row(const pr_exec *e, const pr_weight *m, const pr_nested *nested, uint32_t row, float *out);

/* Work items of a step, and the scratch a thread needs. */
uint32_t pr__matmul_chunks(const pr__instr *in, uint32_t n_rows);
size_t pr__matmul_scratch(const pr__instr *in, uint32_t rows_max);
/* Query rows that fit one attention work item; at least 1. */
uint32_t pr__attend_rows(const pr_attr *attr);
size_t pr__attend_scratch(const pr_attr *attr);
/* Does this step's attention take spans of the context as work items? */
bool pr__attend_splits(const pr_exec *e, const pr__instr *in);
uint32_t pr__attend_chunks(const pr_exec *e, const pr__instr *in);
size_t pr__attend_parts(const pr_attr *attr, uint32_t context_max); /* floats */
void pr__op_merge(const pr_exec *e, const pr__instr *in, uint32_t chunk, int thread);

#endif
