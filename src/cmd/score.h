/*
 * Scoring rows of logits: likelihood of a text, and distance from a reference.
 *
 * Where a reference is compared, p is its row and q the model's; KL(p || q) is in nats over the whole vocabulary.
 */
#ifndef PRECIS_CMD_SCORE_H
#define PRECIS_CMD_SCORE_H

#include "base/status.h"

/* log of the sum of exp(x[i]). */
double pr__log_sum_exp(const float *x, size_t n);

/* What has been scored so far. Zero-initialize; pr__tally_free(). */
typedef struct pr_tally {
    uint64_t n; /* positions */
    double nll, nll_squares;
    float *kl; /* [n_max] once pr__tally_reserve() was called */
    uint64_t n_compared, n_agree;
    double kl_sum;
} pr_tally;

/* Room for the divergences of n_max positions; only where a reference is compared. */
pr_status pr__tally_reserve(pr_tally *t, size_t n_max, pr_err *err);
void pr__tally_free(pr_tally *t);

/* One position: -log of the probability of what came next. */
void pr__tally_add(pr_tally *t, double nll);

/* A row of the reference, summed up: its log-sum and its most likely token. */
typedef struct pr_row_sum {
    double log_sum;
    int32_t best;
} pr_row_sum;
pr_row_sum pr__row_sum(const float *row, size_t n);
/* The same position of reference and model. */
void pr__tally_compare(pr_tally *t, const float *p, pr_row_sum p_sum, const float *q, pr_row_sum q_sum, size_t n);

typedef struct pr_figures {
    double nll, perplexity, error;    /* error: one standard error of the perplexity */
    double kl_mean, kl_99, agreement; /* 0 when nothing was compared; kl_99: what 99 of 100 positions do not exceed */
} pr_figures;
/* Sorts the divergences. */
pr_figures pr__tally_figures(pr_tally *t);

#endif
