/*
 * log softmax over a row.
 *
 * One pass for the maximum and the best k, one for the sum. k is at most 20, so an insertion into a sorted list beats
 * anything clever: after the first few hundred tokens hardly one gets in.
 */
#include "api/logprob.h"

#include <math.h>

static const float least = -9999.0F;

static void insert(pr_logprob *top, uint32_t *have, uint32_t k, int32_t token, float x) {
    if (*have == k && (k == 0 || !(x > top[k - 1].logprob))) return;
    uint32_t at = *have < k ? (*have)++ : k - 1;
    for (; at > 0 && x > top[at - 1].logprob; at--) top[at] = top[at - 1];
    top[at] = (pr_logprob){token, x};
}

uint32_t pr_logprobs(const float *logits, size_t n, int32_t token, uint32_t k, pr_logprob *chosen, pr_logprob *top) {
    uint32_t have = 0;
    float most = -INFINITY;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        if (logits[i] > most) most = logits[i];
        insert(top, &have, k, (int32_t)i, logits[i]);
    }
    for (size_t i = 0; i < n; i++) sum += (double)expf(logits[i] - most);
    float base = most + (float)log(sum);
    *chosen = (pr_logprob){token, token >= 0 && (size_t)token < n ? logits[token] - base : least};
    if (!(chosen->logprob >= least)) chosen->logprob = least;
    for (uint32_t i = 0; i < have; i++) {
        top[i].logprob -= base;
        if (!(top[i].logprob >= least)) top[i].logprob = least;
    }
    return have;
}
