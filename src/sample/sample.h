/*
 * The sampler chain: logits to a token, in pure steps.
 *
 * Order: bias, penalties, n-gram ban, then temperature, top-k, top-p, min-p,
 * draw. Each step works on a candidate list and is a function of its arguments
 * alone. The random stream is counter-based: the n-th draw of a seed is a
 * function of (seed, n), so a text can be replayed from any token.
 *
 * Invariants of a list: no logit is NaN (pr_cands_fill() turns NaN into
 * -INFINITY, and no step makes one); -INFINITY means banned; +INFINITY beats
 * everything finite, and several of them share evenly. Nothing here allocates,
 * keeps state or looks at anything global: all of it is thread-safe.
 */
#ifndef PRECIS_SAMPLE_SAMPLE_H
#define PRECIS_SAMPLE_SAMPLE_H

#include "base/status.h"

enum {
    PR_NGRAM_MAX = 64 /* longest no_repeat_ngram, so that the ban costs at most 64 compares per token of history */
};

typedef struct pr_cand {
    int32_t id;
    float logit; /* after the last step that changed it */
    float p;     /* probability after softmax steps, else 0 */
} pr_cand;

typedef struct pr_cands {
    pr_cand *data; /* [n], owned by the caller */
    size_t n;
    bool sorted; /* by logit, descending, ties by id ascending, as the logits stood when it was sorted */
    /* Of a whole vocabulary not yet written out, else NULL: the logits as given [n], and a bit for each id whose
     * candidate data[id] is. */
    const float *logits;
    uint64_t *there;
} pr_cands;

/* A list over scratch[n]: ids 0..n-1 in order, NaN logits as -INFINITY. */
pr_cands pr_cands_fill(pr_cand *scratch, const float *logits, size_t n);

/* What a chain works in, owned by the caller: cands [n_vocab], and there [pr_sample_words(n_vocab)], zero between calls. */
typedef struct pr_sample_scratch {
    pr_cand *cands;
    uint64_t *there;
} pr_sample_scratch;
static inline size_t pr_sample_words(size_t n_vocab) { return (n_vocab + 63) / 64; }

/* The same list, but candidates are written when a step asks for them: bias, penalties and bans ask for their own, top_k
 * for the k best (those that are banned may be missing then), the others for all. logits must stay until then. */
pr_cands pr_cands_open(const pr_sample_scratch *scratch, const float *logits, size_t n);

/* Each step, in the order of the chain. history is [n_history] token ids, oldest first; ids that are not in the list
 * are passed over. On a list where data[i].id == i, as filled, bias and penalties cost O(their own length); on any
 * other list they give the same result by searching it. */

/* Adds; several entries for one token add up. PR_ERR_ARG when a token is not in the list. */
pr_status pr_sample_bias(pr_cands *c, const pr_logit_bias *bias, size_t n_bias, pr_err *err);
/* For each token that occurs in history, count times: first repetition as in CTRL (Keskar et al. 2019, with the sign
 * fix everybody uses): a positive logit is divided by it, another multiplied; 1 or 0 is off. Then, as the OpenAI API
 * defines them, logit -= presence + count * frequency. Resets p of those tokens to 0. */
void pr_sample_penalties(pr_cands *c, const int32_t *history, size_t n_history, float repetition, float presence,
                         float frequency);
/* Bans every token that would complete an n-gram of this length already in history; 1 bans all of it, 0 is off. */
void pr_sample_no_repeat_ngram(pr_cands *c, const int32_t *history, size_t n_history, uint32_t ngram);
/* logit = (logit - highest) / temperature: the shift changes no probability and cannot overflow upwards, however small
 * the temperature. Keeps the order of the list. */
void pr_sample_temperature(pr_cands *c, float temperature); /* > 0, finite */
/* The k best, sorted. A k of 0, or one that drops nothing, leaves the list as it is. O(n log k) at worst; of a list not
 * written out it reads the logits once and writes little more than it keeps. */
void pr_sample_top_k(pr_cands *c, uint32_t k);
void pr_sample_softmax(pr_cands *c); /* fills p, fixed summation order */
/* The fewest best candidates whose p reach p in sum; 0 and 1 are off. Wants p from pr_sample_softmax() over this very
 * list, and does not scale it up again afterwards. A sorted list stays sorted; any other is never sorted as a whole and
 * ends in an order of no meaning, though always the same. O(n) unless the probabilities are nearly all alike. */
void pr_sample_top_p(pr_cands *c, float p);
/* Those with at least p (0..1; 0 is off) times the highest p, in the order they stand. */
void pr_sample_min_p(pr_cands *c, float p);
/* The p need not sum to 1. Candidates with p 0 are never drawn, except the first when all are; -1 for an empty list. */
int32_t pr_sample_draw(const pr_cands *c, double u); /* u in [0,1) over the p of c */
/* Token 0 when nothing is above -INFINITY. */
int32_t pr_sample_greedy(const float *logits, size_t n); /* highest, ties to the lowest id; NaN never wins */

/* The n-th uniform double in [0,1) of a seed (splitmix64-finalised counter):
 * the top 53 bits of output n, counting from 0, of splitmix64 (Steele et al. 2014) started at seed. */
double pr_sample_uniform(uint64_t seed, uint64_t n);

/* The whole chain. The contents of scratch are lost.
 * draw_index is the number of tokens drawn before with this seed.
 *
 * Temperature 0 ends after the bans with the highest logit and draws nothing. top_k is taken before temperature, which
 * keeps the order and so gives the same candidates for a fraction of the divisions; top_p counts probabilities among
 * those that top_k left. Penalties look at the last repeat_last_n tokens, the n-gram ban at all of history.
 * When every candidate is banned, the n-gram ban is lifted; when they are banned without it too, the result is the
 * greedy choice of the logits as given (token 0 when those hold nothing above -INFINITY). */
pr_status pr_sample(const pr_sample_params *params, const float *logits, size_t n_vocab, const int32_t *history,
                    size_t n_history, uint64_t draw_index, const pr_sample_scratch *scratch, int32_t *token,
                    pr_err *err);

/* PR_ERR_ARG naming the parameter that is out of range. */
pr_status pr_sample_check(const pr_sample_params *params, size_t n_vocab, pr_err *err);

/* log of softmax at token, for logprobs and perplexity; stable, double accumulation in index order. -INFINITY for a
 * token outside 0..n-1 and for a NaN logit. */
double pr_log_softmax_at(const float *logits, size_t n, int32_t token);

typedef struct pr_logprob {
    int32_t id;
    double logprob;
} pr_logprob;

/* The n_top best tokens and their log probabilities, best first, ties to the lowest id. Meant for small n_top:
 * O(n * n_top) at worst, O(n) as a rule. Returns how many were written: the smaller of n and n_top. */
size_t pr_logprobs_top(const float *logits, size_t n, pr_logprob *top, size_t n_top);

#endif
