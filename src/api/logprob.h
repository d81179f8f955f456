/*
 * Log probabilities of tokens, from a row of logits. Pure.
 */
#ifndef PRECIS_API_LOGPROB_H
#define PRECIS_API_LOGPROB_H

#include <stddef.h>
#include <stdint.h>

typedef struct pr_logprob {
    int32_t token;
    float logprob; /* natural */
} pr_logprob;

/* logits: [n]. chosen gets `token`; top[k] the k most likely ones, best first, the lower token first among equals. Returns
 * how many there are: k, or fewer when the row is shorter. Never below -9999: JSON has no infinity. */
uint32_t pr_logprobs(const float *logits, size_t n, int32_t token, uint32_t k, pr_logprob *chosen, pr_logprob *top);

#endif
