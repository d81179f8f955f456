/*
 * Lists of weights budgets on a command line.
 */
#ifndef PRECIS_CMD_BUDGETS_H
#define PRECIS_CMD_BUDGETS_H

#include "base/status.h"

enum { PR_BUDGETS_MAX = 256 };

/* --budgets: either sizes, "60M,80M,1.2G", or a count of steps between the least and the most, "20". */
typedef struct pr_budgets {
    size_t bytes[PR_BUDGETS_MAX];
    uint32_t n;
    uint32_t n_steps; /* where a count was written; 0: none */
} pr_budgets;

/* For PR_FLAG_CALL: out is a pr_budgets. */
pr_status pr__budgets_parse(void *out, const char *value, pr_err *err);

/* A count becomes sizes, evenly from least to most. PR_ERR_LIMIT names a size below the least. */
pr_status pr__budgets_fit(pr_budgets *b, size_t least, size_t most, pr_err *err);

#endif
