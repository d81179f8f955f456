/*
 * Scoring.
 *
 * Logits are floats and sums are doubles: a vocabulary has 50000 terms, and what is looked for are differences of
 * 1e-6. exp is taken in single precision, where its error is far below that of the logits themselves.
 */
#include "cmd/score.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "sample/sample.h"

double pr__log_sum_exp(const float *x, size_t n) {
    float max = x[0];
    double sum = 0;
    for (size_t i = 1; i < n; i++) max = x[i] > max ? x[i] : max;
    for (size_t i = 0; i < n; i++) sum += (double)expf(x[i] - max);
    return (double)max + log(sum);
}

/* Sum of p (log p - log q), p and q being the softmax of the two rows, whose log-sums are given. */
static double divergence(const float *p_logits, double p_log_sum, const float *q_logits, double q_log_sum, size_t n) {
    double sum = 0, shift = q_log_sum - p_log_sum;
    for (size_t i = 0; i < n; i++) {
        double log_p = (double)p_logits[i] - p_log_sum;
        sum += (double)expf((float)log_p) * ((double)p_logits[i] - (double)q_logits[i] + shift);
    }
    return sum > 0 ? sum : 0; /* equal rows differ by rounding */
}

pr_status pr__tally_reserve(pr_tally *t, size_t n_max, pr_err *err) {
    t->kl = pr_calloc(PR_TAG_MISC, n_max ? n_max : 1, sizeof *t->kl);
    return t->kl ? PR_OK : pr_fail_nomem(err, "the divergences", n_max * sizeof *t->kl);
}

void pr__tally_free(pr_tally *t) {
    pr_free(t->kl);
    *t = (pr_tally){0};
}

void pr__tally_add(pr_tally *t, double nll) {
    t->nll += nll;
    t->nll_squares += nll * nll;
    t->n++;
}

pr_row_sum pr__row_sum(const float *row, size_t n) {
    return (pr_row_sum){pr__log_sum_exp(row, n), pr_sample_greedy(row, n)};
}

void pr__tally_compare(pr_tally *t, const float *p, pr_row_sum p_sum, const float *q, pr_row_sum q_sum, size_t n) {
    double kl = divergence(p, p_sum.log_sum, q, q_sum.log_sum, n);
    t->kl[t->n_compared++] = (float)kl;
    t->kl_sum += kl;
    t->n_agree += p_sum.best == q_sum.best;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

pr_figures pr__tally_figures(pr_tally *t) {
    double n = (double)t->n, mean = t->nll / n, variance = t->nll_squares / n - mean * mean;
    pr_figures f = {.nll = mean, .perplexity = exp(mean)};
    f.error = f.perplexity * sqrt((variance > 0 ? variance : 0) / n);
    if (!t->n_compared) return f;
    qsort(t->kl, t->n_compared, sizeof *t->kl, by_value);
    f.kl_mean = t->kl_sum / (double)t->n_compared;
    f.kl_99 = (double)t->kl[(t->n_compared * 99 + 99) / 100 - 1];
    f.agreement = (double)t->n_agree / (double)t->n_compared;
    return f;
}
