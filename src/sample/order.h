/*
 * The order of candidates, and how to have only its beginning.
 */
#ifndef PRECIS_SAMPLE_ORDER_H
#define PRECIS_SAMPLE_ORDER_H

#include "sample/sample.h"

/* True when a stands before b: higher logit, then lower id. Total over distinct ids, as no logit is NaN. */
static inline bool pr__cand_before(const pr_cand *a, const pr_cand *b) {
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

/* Rearrange data[n] so that the k best (k <= n) stand first, in order; the others follow in no particular order. In
 * place; O(n + k log k log(n/k)) on shuffled input, O(n log k) at worst. */
void pr__cands_order(pr_cand *data, size_t n, size_t k);

#endif
