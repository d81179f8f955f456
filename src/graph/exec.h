/*
 * Executor: walks a lowered graph's schedule for one step.
 *
 * Opening resolves every operand to an address and sizes every buffer; a step
 * binds token count, positions and pages, and then all threads of the team
 * walk the flat schedule together. A step allocates nothing and cannot fail.
 *
 * Threads: one step at a time.
 */
#ifndef PRECIS_GRAPH_EXEC_H
#define PRECIS_GRAPH_EXEC_H

#include "base/pool.h"
#include "graph/plan.h"
#include "graph/weights.h"
#include "kernels/kernels.h"
#include "kv/kv.h"

typedef struct pr_exec pr_exec;

typedef struct pr_exec_opts {
    const pr_kernels *kernels;
    int n_threads;
    uint32_t rows_max;    /* tokens in a step */
    uint32_t out_max;     /* wanted rows in a step */
    uint32_t context_max; /* positions a sequence can have */
    bool exact;
} pr_exec_opts;

/* Bytes pr_exec_open() will take for this graph and plan. */
size_t pr_exec_bytes(const pr_graph *g, const pr_plan *plan, const pr_weights *w, const pr_exec_opts *opts);

/* g, plan and w are borrowed and must outlive the executor; w is loaded. */
pr_status pr_exec_open(const pr_graph *g, const pr_plan *plan, const pr_weights *w, const pr_exec_opts *opts,
                       pr_exec **out, pr_err *err);
void pr_exec_close(pr_exec *exec);

/* Consecutive rows of one sequence. Pages for positions pos .. pos+n_rows are reserved. */
typedef struct pr_exec_run {
    const pr_kv_seq *seq;
    uint32_t row; /* first row in the step */
    uint32_t n_rows;
    uint32_t pos; /* position of the first row */
} pr_exec_run;

typedef struct pr_exec_step {
    uint32_t n_tokens;        /* rows, 1 .. rows_max */
    uint32_t n_out;           /* 0 .. out_max */
    const int32_t *tokens;    /* [n_tokens], each a row of the embedding */
    const uint32_t *out_rows; /* [n_out] rows whose logits are wanted */
    const pr_exec_run *runs;  /* [n_runs] in order of row, covering all rows */
    uint32_t n_runs;
    int view; /* PR_VIEW_*: the levels at which nested matrices are read */
} pr_exec_step;

void pr_exec_step_run(pr_exec *exec, pr_team *team, const pr_exec_step *step);

/* Logits of wanted row i of the last step; [cols of the output]. */
const float *pr_exec_output(const pr_exec *exec, uint32_t i);

#endif
