/*
 * The sampler chain.
 *
 * One list of candidates goes through small steps, each a pure function, so
 * that a test can hold every step against a naive one and a reader can see the
 * whole policy in pr_sample(). The list is an array of 12-byte records rather
 * than parallel arrays: after the first cut it holds fifty of them, and moving
 * one record is what the cuts do. Before that cut it is indexed by token id, and
 * so everything that touches single tokens (bias, penalties, bans) costs what
 * its own list is long, never the vocabulary. Nor is the vocabulary written out
 * as records when top_k or the greedy choice drops nearly all of it: the list
 * then holds only what some step touched, and the best of the rest are found in
 * the logits themselves.
 *
 * Every sum is taken in list order in double, exp is our own (softexp.h), and
 * ties go to the lower id: the token is a function of the arguments, bit for
 * bit, on any machine with IEEE arithmetic.
 *
 * There is no sampler object with a random state inside it. A counter-based
 * stream needs none: who knows the seed and how many tokens were drawn can go on
 * from there, after a fork, a truncation or a restart.
 */
#include "sample/sample.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "sample/order.h"
#include "sample/softexp.h"

enum {
    BUCKETS = 1017 /* of top_p: up to and with that of probability 1, 0x3f800000 >> 20 */
};

static float nan_to_banned(float logit) { return isnan(logit) ? -INFINITY : logit; }

/* Whether some x[i] > low. One comparison for all, so that the compiler takes several at a time. */
static bool any_above(const float *x, size_t n, float low) {
    int any = 0;
    for (size_t i = 0; i < n; i++) {
        any |= x[i] > low;
    }
    return any != 0;
}

/* ---- the list --------------------------------------------------------- */

static void fill(pr_cand *data, const float *logits, size_t from, size_t end) {
    for (size_t i = from; i < end; i++) {
        data[i] = (pr_cand){.id = (int32_t)i, .logit = nan_to_banned(logits[i]), .p = 0};
    }
}

pr_cands pr_cands_fill(pr_cand *scratch, const float *logits, size_t n) {
    assert(n <= INT32_MAX);
    fill(scratch, logits, 0, n);
    return (pr_cands){.data = scratch, .n = n, .sorted = false};
}

pr_cands pr_cands_open(const pr_sample_scratch *scratch, const float *logits, size_t n) {
    assert(n <= INT32_MAX);
    return (pr_cands){.data = scratch->cands, .n = n, .logits = logits, .there = scratch->there};
}

static bool is_there(const pr_cands *c, size_t id) { return (c->there[id / 64] >> id % 64 & 1) != 0; }

/* The candidate of id, written when it is not yet. */
static pr_cand *fetch(const pr_cands *c, size_t id) {
    if (!is_there(c, id)) {
        fill(c->data, c->logits, id, id + 1);
        c->there[id / 64] |= UINT64_C(1) << id % 64;
    }
    return &c->data[id];
}

/* From here on the list is what data holds. */
static void close_list(pr_cands *c, size_t n) {
    memset(c->there, 0, pr_sample_words(c->n) * sizeof *c->there);
    c->logits = NULL;
    c->there = NULL;
    c->n = n;
}

static void write_out(pr_cands *c) {
    if (c->logits == NULL) {
        return;
    }
    for (size_t block = 0; block < c->n; block += 64) {
        size_t end = c->n - block < 64 ? c->n : block + 64;
        if (c->there[block / 64] == 0) {
            fill(c->data, c->logits, block, end);
            continue;
        }
        for (size_t id = block; id < end; id++) {
            fetch(c, id);
        }
    }
    close_list(c, c->n);
}

/* The candidate of a token: at its own index while the list is whole, else searched. NULL when it is not there. */
static pr_cand *find(const pr_cands *c, int32_t id) {
    if (id < 0) {
        return NULL;
    }
    if (c->logits != NULL) {
        return (size_t)id < c->n ? fetch(c, (size_t)id) : NULL;
    }
    if ((size_t)id < c->n && c->data[id].id == id) {
        return &c->data[id];
    }
    for (size_t i = 0; i < c->n; i++) {
        if (c->data[i].id == id) {
            return &c->data[i];
        }
    }
    return NULL;
}

/* The first in order; NULL for an empty list. */
static const pr_cand *best(const pr_cands *c) {
    const pr_cand *top = c->n > 0 ? &c->data[0] : NULL;
    for (size_t i = 1; i < c->n && !c->sorted; i++) {
        if (pr__cand_before(&c->data[i], top)) {
            top = &c->data[i];
        }
    }
    return top;
}

static bool all_banned(const pr_cands *c) {
    size_t i = 0;
    while (i < c->n && c->data[i].logit == -INFINITY) {
        i++;
    }
    return i == c->n;
}

/* ---- steps on single tokens ------------------------------------------- */

pr_status pr_sample_bias(pr_cands *c, const pr_logit_bias *bias, size_t n_bias, pr_err *err) {
    for (size_t i = 0; i < n_bias; i++) {
        pr_cand *cand = find(c, bias[i].token);
        if (cand == NULL) {
            return pr_fail(err, PR_ERR_ARG, "logit_bias[%zu]: no token %ld among the candidates", i,
                           (long)bias[i].token);
        }
        cand->logit = nan_to_banned(cand->logit + bias[i].bias); /* a ban plus +INFINITY stays a ban */
        c->sorted = false;
    }
    return PR_OK;
}

/* The counts are kept in p, which means nothing before softmax: no table, no allocation, O(history). */
void pr_sample_penalties(pr_cands *c, const int32_t *history, size_t n_history, float repetition, float presence,
                         float frequency) {
    if (repetition == 0) {
        repetition = 1;
    }
    if (repetition == 1 && presence == 0 && frequency == 0) {
        return;
    }
    c->sorted = false;
    pr_cand *cand;
    for (size_t i = 0; i < n_history; i++) {
        if ((cand = find(c, history[i])) != NULL) {
            cand->p = 0;
        }
    }
    for (size_t i = 0; i < n_history; i++) {
        if ((cand = find(c, history[i])) != NULL) {
            cand->p += 1; /* exact up to 2^24, where the penalty has long said all it can */
        }
    }
    for (size_t i = 0; i < n_history; i++) {
        if ((cand = find(c, history[i])) != NULL && cand->p > 0) {
            float x = cand->logit > 0 ? cand->logit / repetition : cand->logit * repetition;
            cand->logit = x - (presence + cand->p * frequency);
            cand->p = 0;
        }
    }
}

void pr_sample_no_repeat_ngram(pr_cands *c, const int32_t *history, size_t n_history, uint32_t ngram) {
    if (ngram == 0 || n_history < ngram) {
        return;
    }
    size_t prefix = ngram - 1;
    const int32_t *tail = history + (n_history - prefix); /* what the next token would complete */
    for (size_t i = 0; i + prefix < n_history; i++) {
        if (prefix > 0 &&
            (history[i + prefix - 1] != tail[prefix - 1] || memcmp(history + i, tail, prefix * sizeof *tail) != 0)) {
            continue;
        }
        pr_cand *cand = find(c, history[i + prefix]);
        if (cand != NULL) {
            cand->logit = -INFINITY;
            c->sorted = false;
        }
    }
}

/* ---- steps on the whole list ------------------------------------------ */

void pr_sample_temperature(pr_cands *c, float temperature) {
    assert(temperature > 0 && temperature < INFINITY);
    write_out(c);
    const pr_cand *top = best(c);
    if (top == NULL || top->logit == -INFINITY) {
        return;
    }
    float max = top->logit;
    for (size_t i = 0; i < c->n; i++) {
        /* Equal is asked first because +INFINITY less itself is NaN. */
        float below = c->data[i].logit == max ? 0 : c->data[i].logit - max;
        c->data[i].logit = below / temperature;
    }
}

/* Those that are there to the front: as ids ascend, none is overwritten before it has moved. */
static void gather(pr_cands *c) {
    size_t n = 0;
    for (size_t word = 0; word < pr_sample_words(c->n); word++) {
        for (uint64_t bits = c->there[word]; bits != 0; bits &= bits - 1) {
            c->data[n++] = c->data[64 * word + (size_t)__builtin_ctzll(bits)];
        }
    }
}

/* The k best of the ids that are not there into kept[room], room > k, of which some are no longer the best; how many.
 * Whoever comes later must be better than the k-th so far, since a tie goes to the lower id. Bans never come. */
static size_t best_of_rest(const pr_cands *c, size_t k, pr_cand *kept, size_t room) {
    float low = -INFINITY;
    size_t n = 0;
    for (size_t block = 0; block < c->n; block += 64) {
        size_t end = c->n - block < 64 ? c->n : block + 64;
        if (!any_above(c->logits + block, end - block, low)) {
            continue;
        }
        for (size_t id = block; id < end; id++) {
            if (!(c->logits[id] > low) || is_there(c, id)) {
                continue;
            }
            kept[n++] = (pr_cand){.id = (int32_t)id, .logit = c->logits[id], .p = 0};
            if (n == room) {
                pr__cands_order(kept, n, k);
                n = k;
                low = kept[k - 1].logit;
            }
        }
    }
    return n;
}

/* top_k of a list that is not written out, where there is room to do it. */
static bool top_k_of_rest(pr_cands *c, size_t k) {
    size_t touched = 0, room = 2 * k + 64;
    for (size_t word = 0; word < pr_sample_words(c->n); word++) {
        touched += (size_t)__builtin_popcountll(c->there[word]);
    }
    if (touched + room > c->n) {
        return false;
    }
    gather(c);
    size_t n = touched + best_of_rest(c, k, c->data + touched, room);
    close_list(c, n < k ? n : k);
    pr__cands_order(c->data, n, c->n);
    c->sorted = true;
    return true;
}

void pr_sample_top_k(pr_cands *c, uint32_t k) {
    if (k == 0 || k >= c->n) {
        return;
    }
    if (c->logits != NULL && top_k_of_rest(c, k)) {
        return;
    }
    write_out(c);
    if (!c->sorted) {
        pr__cands_order(c->data, c->n, k);
        c->sorted = true;
    }
    c->n = k;
}

void pr_sample_softmax(pr_cands *c) {
    write_out(c);
    const pr_cand *top = best(c);
    if (top == NULL) {
        return;
    }
    float max = top->logit;
    double sum = 0;
    for (size_t i = 0; i < c->n; i++) {
        /* Equal is asked first for infinities: those at the top share evenly, the others get nothing. */
        double e = c->data[i].logit == max ? 1 : pr__softexp((double)c->data[i].logit - (double)max);
        c->data[i].p = (float)e;
        sum += e;
    }
    double scale = 1 / sum;
    for (size_t i = 0; i < c->n; i++) {
        c->data[i].p = (float)(c->data[i].p * scale);
    }
}

/* Where a probability falls among the buckets of top_p: its own exponent and first 3 bits, so higher is never lower. */
static size_t bucket_of(float p) {
    assert(p >= 0 && p <= 1);
    uint32_t bits;
    memcpy(&bits, &p, sizeof bits);
    return bits >> 20;
}

/* How many from the front of data[n] it takes to bring mass up to p. */
static size_t cut_run(const pr_cand *data, size_t n, double mass, double p) {
    size_t kept = 0;
    while (kept < n && mass < p) {
        mass += data[kept++].p;
    }
    return kept;
}

/* Of a list in no order, without sorting it: the mass of each bucket tells in which the cut falls. What is above that
 * bucket stays, what is below goes, and only the bucket itself, a few percent of the list unless the probabilities are
 * all alike, is put in order. The lowest one (p under 2e-39) is never needed: only rounding could ask for it, and it
 * may hold a whole vocabulary of zeros. */
static void cut_buckets(pr_cands *c, double p) {
    double mass[BUCKETS] = {0}, above = 0;
    for (size_t i = 0; i < c->n; i++) {
        mass[bucket_of(c->data[i].p)] += c->data[i].p;
    }
    size_t cut = BUCKETS - 1;
    while (cut > 1 && above + mass[cut] < p) {
        above += mass[cut--];
    }
    size_t over = 0, from = 0; /* data[0..over) is above the cut, data[over..from) in its bucket */
    for (size_t i = 0; i < c->n; i++) {
        pr_cand x = c->data[i];
        size_t bucket = bucket_of(x.p);
        if (bucket < cut) {
            continue;
        }
        size_t to = from++;
        if (bucket > cut) {
            c->data[to] = c->data[over];
            to = over++;
        }
        c->data[to] = x;
    }
    pr__cands_order(c->data + over, from - over, from - over);
    c->n = over + cut_run(c->data + over, from - over, above, p);
}

void pr_sample_top_p(pr_cands *c, float p) {
    if (!(p > 0 && p < 1)) {
        return;
    }
    if (c->sorted) {
        c->n = cut_run(c->data, c->n, 0, p);
    } else {
        cut_buckets(c, p);
    }
}

void pr_sample_min_p(pr_cands *c, float p) {
    if (!(p > 0)) {
        return;
    }
    float max = 0;
    for (size_t i = 0; i < c->n; i++) {
        max = c->data[i].p > max ? c->data[i].p : max;
    }
    float least = p < 1 ? p * max : max;
    size_t kept = 0;
    for (size_t i = 0; i < c->n; i++) {
        if (c->data[i].p >= least) {
            c->data[kept++] = c->data[i];
        }
    }
    c->n = kept;
}

/* ---- the choice ------------------------------------------------------- */

int32_t pr_sample_draw(const pr_cands *c, double u) {
    if (c->n == 0) {
        return -1;
    }
    double sum = 0;
    for (size_t i = 0; i < c->n; i++) {
        sum += c->data[i].p;
    }
    double target = u * sum, mass = 0;
    int32_t id = c->data[0].id;
    for (size_t i = 0; i < c->n && mass <= target; i++) {
        if (c->data[i].p > 0) {
            mass += c->data[i].p;
            id = c->data[i].id;
        }
    }
    return id;
}

/* A block is looked at closely about ln(n / 64) times. */
int32_t pr_sample_greedy(const float *logits, size_t n) {
    float max = -INFINITY;
    size_t at = 0;
    for (size_t block = 0; block < n; block += 64) {
        size_t end = n - block < 64 ? n : block + 64;
        if (!any_above(logits + block, end - block, max)) {
            continue;
        }
        for (size_t i = block; i < end; i++) {
            if (logits[i] > max) {
                max = logits[i];
                at = i;
            }
        }
    }
    return (int32_t)at;
}

double pr_sample_uniform(uint64_t seed, uint64_t n) {
    uint64_t x = seed + (n + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    return (double)(x >> 11) * 0x1p-53;
}

/* ---- the chain -------------------------------------------------------- */

void pr_sample_defaults(pr_sample_params *params) {
    *params = (pr_sample_params){
        .temperature = 0.7f,
        .top_p = 0.9f,
        .top_k = 50,
        .repetition_penalty = 1.1f,
    };
}

/* One line of pr_sample_check(). Written so that NaN is outside every range. */
static bool within(const char *name, float value, float low, float high, pr_err *err) {
    if (value >= low && value <= high) {
        return true;
    }
    pr_fail(err, PR_ERR_ARG, "%s is %g, must be between %g and %g", name, (double)value, (double)low, (double)high);
    return false;
}

pr_status pr_sample_check(const pr_sample_params *params, size_t n_vocab, pr_err *err) {
    const pr_sample_params *s = params;
    if (n_vocab == 0 || n_vocab > INT32_MAX) {
        return pr_fail(err, PR_ERR_ARG, "n_vocab is %zu, not the size of a vocabulary", n_vocab);
    }
    /* A million stands for "finite": no one goes there, and past it the arithmetic would overflow. */
    if (!within("temperature", s->temperature, 0, 1e6f, err) || !within("top_p", s->top_p, 0, 1, err) ||
        !within("min_p", s->min_p, 0, 1, err) || !within("repetition_penalty", s->repetition_penalty, 0, 1e6f, err) ||
        !within("presence_penalty", s->presence_penalty, -2, 2, err) ||
        !within("frequency_penalty", s->frequency_penalty, -2, 2, err)) {
        return PR_ERR_ARG;
    }
    if (s->no_repeat_ngram > PR_NGRAM_MAX) {
        return pr_fail(err, PR_ERR_ARG, "no_repeat_ngram is %lu, must be at most %d", (unsigned long)s->no_repeat_ngram,
                       PR_NGRAM_MAX);
    }
    if (s->n_bias > 0 && s->bias == NULL) {
        return pr_fail(err, PR_ERR_ARG, "logit_bias is missing, but n_bias is %zu", s->n_bias);
    }
    for (size_t i = 0; i < s->n_bias; i++) {
        if (s->bias[i].token < 0 || (size_t)s->bias[i].token >= n_vocab) {
            return pr_fail(err, PR_ERR_ARG, "logit_bias[%zu]: token %ld is outside the vocabulary of %zu", i,
                           (long)s->bias[i].token, n_vocab);
        }
        if (isnan(s->bias[i].bias)) {
            return pr_fail(err, PR_ERR_ARG, "logit_bias[%zu]: the bias of token %ld is not a number", i,
                           (long)s->bias[i].token);
        }
    }
    return PR_OK;
}

/* True when the logits do not go to the choice as they are. */
static bool shapes(const pr_sample_params *s) {
    return s->n_bias > 0 || (s->repetition_penalty != 0 && s->repetition_penalty != 1) || s->presence_penalty != 0 ||
           s->frequency_penalty != 0 || s->no_repeat_ngram != 0;
}

/* The steps up to top_k, the n-gram ban with `ngram`; the greedy choice is a top_k of 1. */
static pr_status shape(const pr_sample_params *s, const int32_t *history, size_t n_history, uint32_t ngram, pr_cands *c,
                       pr_err *err) {
    pr_status status = pr_sample_bias(c, s->bias, s->n_bias, err);
    if (status != PR_OK) {
        close_list(c, 0);
        return status;
    }
    size_t window = s->repeat_last_n > 0 && s->repeat_last_n < n_history ? s->repeat_last_n : n_history;
    if (window > 0) {
        pr_sample_penalties(c, history + (n_history - window), window, s->repetition_penalty, s->presence_penalty,
                            s->frequency_penalty);
    }
    pr_sample_no_repeat_ngram(c, history, n_history, ngram);
    pr_sample_top_k(c, s->temperature == 0 ? 1 : s->top_k);
    write_out(c);
    return PR_OK;
}

pr_status pr_sample(const pr_sample_params *params, const float *logits, size_t n_vocab, const int32_t *history,
                    size_t n_history, uint64_t draw_index, const pr_sample_scratch *scratch, int32_t *token,
                    pr_err *err) {
    pr_status status = pr_sample_check(params, n_vocab, err);
    if (status != PR_OK) {
        return status;
    }
    if (params->temperature == 0 && !shapes(params)) {
        *token = pr_sample_greedy(logits, n_vocab);
        return PR_OK;
    }
    pr_cands c = pr_cands_open(scratch, logits, n_vocab);
    status = shape(params, history, n_history, params->no_repeat_ngram, &c, err);
    if (status == PR_OK && params->no_repeat_ngram > 0 && all_banned(&c)) {
        c = pr_cands_open(scratch, logits, n_vocab);
        status = shape(params, history, n_history, 0, &c, err);
    }
    if (status != PR_OK) {
        return status;
    }
    if (all_banned(&c)) {
        *token = pr_sample_greedy(logits, n_vocab);
        return PR_OK;
    }
    if (params->temperature == 0) {
        *token = c.data[0].id;
        return PR_OK;
    }
    pr_sample_temperature(&c, params->temperature);
    pr_sample_softmax(&c);
    pr_sample_top_p(&c, params->top_p);
    pr_sample_min_p(&c, params->min_p);
    *token = pr_sample_draw(&c, pr_sample_uniform(params->seed, draw_index));
    return PR_OK;
}

/* ---- log probabilities ------------------------------------------------ */

/* What turns a logit into a log probability: log(softmax(x)) = x - max - log_sum. */
typedef struct log_norm {
    float max;
    double log_sum;
} log_norm;

static log_norm log_norm_of(const float *logits, size_t n) {
    float max = nan_to_banned(logits[pr_sample_greedy(logits, n)]);
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        float x = nan_to_banned(logits[i]);
        sum += x == max ? 1 : pr__softexp((double)x - (double)max);
    }
    return (log_norm){.max = max, .log_sum = log(sum)};
}

static double logprob_of(float logit, const log_norm *norm) {
    return logit == norm->max ? -norm->log_sum : (double)logit - (double)norm->max - norm->log_sum;
}

double pr_log_softmax_at(const float *logits, size_t n, int32_t token) {
    if (token < 0 || (size_t)token >= n || isnan(logits[token])) {
        return -INFINITY;
    }
    log_norm norm = log_norm_of(logits, n);
    return logprob_of(logits[token], &norm);
}

size_t pr_logprobs_top(const float *logits, size_t n, pr_logprob *top, size_t n_top) {
    if (n == 0 || n_top == 0) {
        return 0;
    }
    size_t held = 0;
    for (size_t i = 0; i < n; i++) {
        double x = (double)nan_to_banned(logits[i]);
        if (held == n_top && !(x > top[held - 1].logprob)) {
            continue; /* a tie goes to the lower id, which is there already */
        }
        size_t at = held < n_top ? held++ : held - 1;
        for (; at > 0 && x > top[at - 1].logprob; at--) {
            top[at] = top[at - 1];
        }
        top[at] = (pr_logprob){.id = (int32_t)i, .logprob = x};
    }
    log_norm norm = log_norm_of(logits, n);
    for (size_t i = 0; i < held; i++) {
        top[i].logprob = logprob_of((float)top[i].logprob, &norm);
    }
    return held;
}
