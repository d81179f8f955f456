/*
 * Lists of weights budgets.
 *
 * A bare small number is a count: nobody has a budget of 20 bytes.
 */
#include "cmd/budgets.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cmd/elastic.h"

pr_status pr__budgets_parse(void *out, const char *value, pr_err *err) {
    pr_budgets *b = out;
    char item[64];
    *b = (pr_budgets){0};
    if (pr_parse_u32(value, &b->n_steps) && b->n_steps <= PR_BUDGETS_MAX) {
        if (b->n_steps >= 2) return PR_OK;
        return pr_fail(err, PR_ERR_ARG, "\"%.100s\": between 2 and %d steps", value, PR_BUDGETS_MAX);
    }
    b->n_steps = 0;
    for (const char *at = value; *at;) {
        int len = (int)strcspn(at, ",");
        snprintf(item, sizeof item, "%.*s", len, at);
        if (b->n == PR_BUDGETS_MAX) return pr_fail(err, PR_ERR_ARG, "more than %d sizes", PR_BUDGETS_MAX);
        pr_status status = pr__parse_size(&b->bytes[b->n++], item, err);
        if (status != PR_OK) return status;
        at += len + (at[len] == ',');
    }
    return b->n ? PR_OK : pr_fail(err, PR_ERR_ARG, "the list is empty");
}

pr_status pr__budgets_fit(pr_budgets *b, size_t least, size_t most, pr_err *err) {
    char a[32], c[32];
    for (uint32_t i = 0; i < b->n_steps; i++) b->bytes[i] = least + (most - least) / (b->n_steps - 1) * i;
    if (b->n_steps) {
        b->n = b->n_steps;
        b->bytes[b->n - 1] = most;
    }
    for (uint32_t i = 0; i < b->n; i++) {
        if (b->bytes[i] >= least) continue;
        return pr_fail(err, PR_ERR_LIMIT, "--budgets: %s is too small: this model's weights take at least %s",
                       pr_format_bytes(a, sizeof a, b->bytes[i]), pr_format_bytes(c, sizeof c, least));
    }
    return PR_OK;
}
