/*
 * The sampler chain: every step against a naive one on random input, then the
 * chain as a whole.
 *
 * The naive versions are written from the definitions, with full sorts and
 * quadratic loops. Input is random but fixed; logits come from a coarse grid
 * where ties matter.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "sample/sample.h"
#include "sample/softexp.h"

enum { N_MAX = 3000, H_MAX = 200, TRIALS = 300 };

/* ---- helpers ---------------------------------------------------------- */

static uint64_t rng_state = 1;

static uint32_t rnd(uint32_t below) {
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)((rng_state >> 32) % below);
}

static float rnd_float(float low, float high) { return low + (high - low) * ((float)rnd(1u << 24) * 0x1p-24f); }

/* coarse: from a grid of quarters, so with many ties; some banned. */
static void rnd_logits(float *logits, size_t n, bool coarse) {
    for (size_t i = 0; i < n; i++) {
        logits[i] = coarse ? (float)rnd(40) * 0.25f - 5 : rnd_float(-8, 8);
        if (rnd(50) == 0) {
            logits[i] = -INFINITY;
        }
    }
    logits[rnd((uint32_t)n)] = 8.5f; /* never all banned */
}

static void rnd_history(int32_t *history, size_t n, uint32_t n_vocab) {
    for (size_t i = 0; i < n; i++) {
        history[i] = (int32_t)rnd(n_vocab);
    }
}

static void shuffle(pr_cands *c) {
    for (size_t i = c->n; i > 1; i--) {
        size_t j = rnd((uint32_t)i);
        pr_cand x = c->data[i - 1];
        c->data[i - 1] = c->data[j];
        c->data[j] = x;
    }
    c->sorted = false;
}

static int by_logit(const void *a, const void *b) {
    const pr_cand *x = a, *y = b;
    if (x->logit != y->logit) {
        return x->logit > y->logit ? -1 : 1;
    }
    return (x->id > y->id) - (x->id < y->id);
}

static int by_id(const void *a, const void *b) {
    const pr_cand *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static bool same_float(float a, float b) { return memcmp(&a, &b, sizeof a) == 0; }

static void assert_same(const pr_cand *a, const pr_cand *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(a[i].id, b[i].id);
        assert_true(same_float(a[i].logit, b[i].logit));
        assert_true(same_float(a[i].p, b[i].p));
    }
}

static bool near(double a, double b, double tolerance) { return fabs(a - b) <= tolerance; }

static float logits[N_MAX];
static int32_t history[H_MAX];
static pr_cand list[N_MAX], other[N_MAX];
static uint64_t there[(N_MAX + 63) / 64];
static const pr_sample_scratch scratch = {list, there};

/* ---- order and single tokens ------------------------------------------ */

static void fill_turns_nan_into_a_ban(void **state) {
    (void)state;
    const float in[4] = {1, NAN, INFINITY, -NAN};
    pr_cands c = pr_cands_fill(list, in, 4);
    assert_int_equal(c.n, 4);
    assert_false(c.sorted);
    for (int32_t i = 0; i < 4; i++) {
        assert_int_equal(c.data[i].id, i);
        assert_true(c.data[i].p == 0);
    }
    assert_true(list[0].logit == 1 && list[2].logit == INFINITY);
    assert_true(list[1].logit == -INFINITY && list[3].logit == -INFINITY);
}

static void greedy_takes_the_highest(void **state) {
    (void)state;
    assert_int_equal(pr_sample_greedy((float[]){1, 3, 2}, 3), 1);
    assert_int_equal(pr_sample_greedy((float[]){1, 3, 3}, 3), 1);
    assert_int_equal(pr_sample_greedy((float[]){-0.0f, 0.0f}, 2), 0);
    assert_int_equal(pr_sample_greedy((float[]){NAN, -5, NAN}, 3), 1);
    assert_int_equal(pr_sample_greedy((float[]){1, INFINITY, NAN, INFINITY}, 4), 1);
    assert_int_equal(pr_sample_greedy((float[]){-INFINITY, -3e38f}, 2), 1);
    assert_int_equal(pr_sample_greedy((float[]){NAN, -INFINITY, NAN}, 3), 0);
    assert_int_equal(pr_sample_greedy((float[]){7}, 1), 0);
}

static void bias_adds(void **state) {
    (void)state;
    pr_err err = {0};
    const float in[4] = {1, 2, 3, INFINITY};
    const pr_logit_bias bias[] = {{2, 5}, {0, -1}, {2, 0.5f}, {1, -INFINITY}, {3, -INFINITY}};
    pr_cands c = pr_cands_fill(list, in, 4);
    assert_int_equal(pr_sample_bias(&c, bias, 5, &err), PR_OK);
    assert_true(list[0].logit == 0 && list[1].logit == -INFINITY && list[2].logit == 8.5f);
    assert_true(list[3].logit == -INFINITY); /* +inf - inf: a ban, not NaN */

    assert_int_equal(pr_sample_bias(&c, &(pr_logit_bias){4, 1}, 1, &err), PR_ERR_ARG);
    assert_non_null(strstr(err.text, "logit_bias[0]"));
    assert_int_equal(pr_sample_bias(&c, &(pr_logit_bias){-1, 1}, 1, &err), PR_ERR_ARG);
    assert_int_equal(pr_sample_bias(&c, NULL, 0, &err), PR_OK);
}

static void naive_penalties(pr_cand *data, size_t n, const int32_t *seen, size_t n_seen, float repetition,
                            float presence, float frequency) {
    for (size_t i = 0; i < n; i++) {
        int count = 0;
        for (size_t j = 0; j < n_seen; j++) {
            count += seen[j] == data[i].id;
        }
        if (count > 0) {
            float x = data[i].logit;
            x = x > 0 ? x / repetition : x * repetition;
            data[i].logit = x - (presence + (float)count * frequency);
        }
    }
}

static void penalties_equal_naive(void **state) {
    (void)state;
    for (int trial = 0; trial < TRIALS; trial++) {
        size_t n = 1 + rnd(60), n_history = rnd(H_MAX);
        float repetition = rnd(3) ? rnd_float(0.5f, 2) : 1;
        float presence = rnd(3) ? rnd_float(-2, 2) : 0, frequency = rnd(3) ? rnd_float(-2, 2) : 0;
        rnd_logits(logits, n, true);
        rnd_history(history, n_history, (uint32_t)n + 5); /* some are not in the list */
        pr_cands want = pr_cands_fill(other, logits, n);
        naive_penalties(want.data, n, history, n_history, repetition, presence, frequency);

        pr_cands c = pr_cands_fill(list, logits, n);
        pr_sample_penalties(&c, history, n_history, repetition, presence, frequency);
        assert_same(list, other, n);

        c = pr_cands_fill(list, logits, n); /* and in any order, with p in use */
        pr_sample_softmax(&c);
        shuffle(&c);
        pr_sample_penalties(&c, history, n_history, repetition, presence, frequency);
        qsort(list, n, sizeof *list, by_id);
        for (size_t i = 0; i < n; i++) {
            assert_true(same_float(list[i].logit, other[i].logit));
        }
    }
}

static void penalties_by_hand(void **state) {
    (void)state;
    const float in[4] = {2, -2, 4, 1};
    const int32_t seen[] = {0, 1, 2, 2, 2, -7, 99};
    pr_cands c = pr_cands_fill(list, in, 4);
    pr_sample_penalties(&c, seen, 7, 2, 0.5f, 0.25f);
    assert_true(list[0].logit == 0.25f);  /* 2/2 - .5 - .25 */
    assert_true(list[1].logit == -4.75f); /* -2*2 - .75 */
    assert_true(list[2].logit == 0.75f);  /* 4/2 - .5 - 3*.25 */
    assert_true(list[3].logit == 1);
    c = pr_cands_fill(list, in, 4);
    pr_sample_penalties(&c, seen, 7, 0, 0, 0); /* off */
    assert_true(list[0].logit == 2 && list[1].logit == -2);
}

static void naive_ngram(pr_cand *data, size_t n, size_t n_history, uint32_t ngram) {
    for (size_t id = 0; id < n; id++) {
        int32_t would[H_MAX + 1];
        memcpy(would, history, n_history * sizeof *would);
        would[n_history] = (int32_t)id;
        for (size_t i = 0; ngram > 0 && i + ngram <= n_history; i++) {
            bool same = true;
            for (size_t j = 0; j < ngram; j++) {
                same = same && history[i + j] == would[n_history + 1 - ngram + j];
            }
            data[id].logit = same ? -INFINITY : data[id].logit;
        }
    }
}

static void ngram_ban_equals_naive(void **state) {
    (void)state;
    size_t banned = 0;
    for (int trial = 0; trial < 2000; trial++) {
        size_t n = 1 + rnd(5), n_history = rnd(40);
        uint32_t ngram = rnd(7);
        for (size_t i = 0; i < n; i++) {
            logits[i] = (float)i;
        }
        rnd_history(history, n_history, (uint32_t)n);
        pr_cands c = pr_cands_fill(list, logits, n);
        pr_cands want = pr_cands_fill(other, logits, n);
        pr_sample_no_repeat_ngram(&c, history, n_history, ngram);
        naive_ngram(want.data, n, n_history, ngram);
        assert_same(list, other, n);
        for (size_t i = 0; i < n; i++) {
            banned += list[i].logit == -INFINITY;
        }
    }
    assert_true(banned > 500); /* the test has something to say */
    pr_cands c = pr_cands_fill(list, logits, 1);
    pr_sample_no_repeat_ngram(&c, NULL, 0, 1);
    pr_sample_no_repeat_ngram(&c, history, 3, UINT32_MAX);
    assert_true(list[0].logit == logits[0]);
}

static void changed_logits_end_the_order(void **state) {
    (void)state;
    const float in[3] = {3, 2, 1};
    const int32_t seen[] = {0};
    pr_cands c = pr_cands_fill(list, in, 3);
    pr_sample_top_k(&c, 2);
    assert_true(c.sorted);
    pr_sample_penalties(&c, seen, 1, 1, 0, 0); /* off: nothing changed */
    assert_true(c.sorted);
    pr_sample_penalties(&c, seen, 1, 1, 2, 0);
    assert_false(c.sorted);
    c.sorted = true;
    pr_sample_no_repeat_ngram(&c, seen, 1, 1);
    assert_false(c.sorted);
    c.sorted = true;
    assert_int_equal(pr_sample_bias(&c, &(pr_logit_bias){1, 1}, 1, NULL), PR_OK);
    assert_false(c.sorted);
}

/* ---- whole list ------------------------------------------------------- */

static void temperature_divides(void **state) {
    (void)state;
    for (int trial = 0; trial < TRIALS; trial++) {
        size_t n = 1 + rnd(100);
        float t = rnd_float(0.05f, 3);
        rnd_logits(logits, n, false);
        double sum = 0;
        for (size_t i = 0; i < n; i++) {
            sum += exp(((double)logits[i] - 8.5) / (double)t);
        }
        pr_cands c = pr_cands_fill(list, logits, n);
        pr_sample_temperature(&c, t);
        pr_sample_softmax(&c);
        for (size_t i = 0; i < n; i++) {
            assert_true(near((double)list[i].p, exp(((double)logits[i] - 8.5) / (double)t) / sum, 1e-5));
        }
    }
}

static void temperature_survives_extremes(void **state) {
    (void)state;
    const float in[3] = {3, 3.5f, -INFINITY};
    pr_cands c = pr_cands_fill(list, in, 3);
    pr_sample_temperature(&c, 1e-45f); /* as greedy, not infinity against infinity */
    pr_sample_softmax(&c);
    assert_true(list[0].p == 0 && list[1].p == 1 && list[2].p == 0);

    const float big[3] = {INFINITY, 2, INFINITY};
    c = pr_cands_fill(list, big, 3);
    pr_sample_temperature(&c, 0.5f);
    pr_sample_softmax(&c);
    assert_true(list[0].p == 0.5f && list[1].p == 0 && list[2].p == 0.5f);

    const float none[2] = {-INFINITY, -INFINITY};
    c = pr_cands_fill(list, none, 2);
    pr_sample_temperature(&c, 0.5f);
    assert_true(list[0].logit == -INFINITY && list[1].logit == -INFINITY);

    c.n = 0;
    pr_sample_temperature(&c, 1);
    pr_sample_softmax(&c);
    assert_int_equal(c.n, 0);
}

static void top_k_equals_a_full_sort(void **state) {
    (void)state;
    for (int trial = 0; trial < TRIALS; trial++) {
        size_t n = 1 + rnd(trial < 250 ? 80 : N_MAX);
        uint32_t k = 1 + rnd((uint32_t)n);
        rnd_logits(logits, n, trial % 2 == 0);
        pr_cands c = pr_cands_fill(list, logits, n);
        pr_cands_fill(other, logits, n);
        qsort(other, n, sizeof *other, by_logit);
        if (trial % 3 == 0) {
            shuffle(&c);
        }
        pr_sample_top_k(&c, k);
        assert_int_equal(c.n, k);
        if (k < n) {
            assert_true(c.sorted);
            assert_same(list, other, k);
            uint32_t fewer = 1 + rnd(k);
            pr_sample_top_k(&c, fewer); /* of a sorted list */
            assert_int_equal(c.n, fewer);
            assert_same(list, other, fewer);
        }
    }
}

/* Bias, penalties, a ban and top_k on a list that is not written out, against the same on one that is. */
static void an_open_list_gives_the_same(void **state) {
    (void)state;
    for (int trial = 0; trial < TRIALS; trial++) {
        size_t n = 1 + rnd(trial % 4 == 0 ? 80 : N_MAX), n_history = rnd(H_MAX);
        uint32_t k = rnd(trial % 3 == 0 ? (uint32_t)n + 2 : 60), ngram = rnd(3);
        rnd_logits(logits, n, trial % 2 == 0);
        for (uint32_t i = rnd(5); i > 0; i--) logits[rnd((uint32_t)n)] = i % 2 ? NAN : INFINITY;
        rnd_history(history, n_history, (uint32_t)n);
        pr_logit_bias bias[2] = {{(int32_t)rnd((uint32_t)n), rnd_float(-9, 9)}, {(int32_t)rnd((uint32_t)n), -INFINITY}};
        pr_cands want = pr_cands_fill(other, logits, n), got = pr_cands_open(&scratch, logits, n);
        for (int i = 0; i < 2; i++) {
            pr_cands *c = i ? &got : &want;
            assert_int_equal(pr_sample_bias(c, bias, 2, NULL), PR_OK);
            pr_sample_penalties(c, history, n_history, 1.3f, 0.1f, 0.2f);
            pr_sample_no_repeat_ngram(c, history, n_history, ngram);
            pr_sample_top_k(c, k);
            pr_sample_softmax(c);
        }
        assert_int_equal(want.sorted, got.sorted);
        assert_true(got.n <= want.n);
        assert_same(other, list, got.n);
        for (size_t i = got.n; i < want.n; i++) assert_true(other[i].logit == -INFINITY && other[i].p == 0);
        for (size_t i = 0; i < sizeof there / sizeof *there; i++) assert_true(there[i] == 0);
    }
}

static void top_k_ends(void **state) {
    (void)state;
    const float in[5] = {1, 5, 5, 5, 2};
    pr_cands c = pr_cands_fill(list, in, 5);
    pr_sample_top_k(&c, 0);
    pr_sample_top_k(&c, 5);
    pr_sample_top_k(&c, UINT32_MAX);
    assert_int_equal(c.n, 5);
    assert_int_equal(list[0].id, 0);
    pr_sample_top_k(&c, 2); /* a tie across the cut goes to the lower ids */
    assert_int_equal(c.n, 2);
    assert_int_equal(list[0].id, 1);
    assert_int_equal(list[1].id, 2);
}

static void softmax_equals_naive(void **state) {
    (void)state;
    for (int trial = 0; trial < TRIALS; trial++) {
        size_t n = 1 + rnd(500);
        rnd_logits(logits, n, false);
        double sum = 0, total = 0;
        for (size_t i = 0; i < n; i++) {
            sum += exp((double)logits[i]);
        }
        pr_cands c = pr_cands_fill(list, logits, n);
        pr_sample_softmax(&c);
        for (size_t i = 0; i < n; i++) {
            double want = exp((double)logits[i]) / sum;
            assert_true(near((double)list[i].p, want, 2e-7 * want));
            total += (double)list[i].p;
        }
        assert_true(near(total, 1, 1e-6));
    }
    const float none[4] = {-INFINITY, -INFINITY, NAN, -INFINITY};
    pr_cands c = pr_cands_fill(list, none, 4);
    pr_sample_softmax(&c);
    assert_true(list[0].p == 0.25f && list[2].p == 0.25f);
}

static void softexp_is_exp(void **state) {
    (void)state;
    assert_true(pr__softexp(0) == 1);
    assert_true(pr__softexp(-INFINITY) == 0);
    assert_true(pr__softexp(-1e9) == 0);
    for (int i = 0; i <= 200000; i++) {
        double x = -708.0 * i / 200000;
        assert_true(near(pr__softexp(x) / exp(x), 1, 2e-14));
    }
}

static void top_p_equals_a_full_sort(void **state) {
    (void)state;
    for (int trial = 0; trial < TRIALS; trial++) {
        size_t n = 1 + rnd(trial < 250 ? 80 : N_MAX), want = 0;
        float p = trial % 5 ? rnd_float(0.01f, 0.999f) : 0.999999f;
        rnd_logits(logits, n, trial % 2 == 0);
        pr_cands c = pr_cands_fill(list, logits, n);
        pr_sample_temperature(&c, trial % 7 == 0 ? 100.0f : 0.8f);
        pr_sample_softmax(&c);
        memcpy(other, list, n * sizeof *other);
        qsort(other, n, sizeof *other, by_logit);
        double mass = 0;
        while (want < n && mass < (double)p) {
            mass += (double)other[want++].p;
        }
        bool sorted = trial % 3 == 0;
        if (sorted) {
            memcpy(list, other, n * sizeof *other);
            c.sorted = true;
        }
        pr_sample_top_p(&c, p);
        assert_int_equal(c.n, want);
        assert_true(c.sorted == sorted);
        if (!sorted) {
            qsort(list, c.n, sizeof *list, by_logit);
        }
        assert_same(list, other, want);
    }
}

static void top_p_ends(void **state) {
    (void)state;
    const float in[4] = {0, 0, 0, 0};
    pr_cands c = pr_cands_fill(list, in, 4);
    pr_sample_softmax(&c);
    pr_sample_top_p(&c, 1);
    pr_sample_top_p(&c, 0);
    pr_sample_top_p(&c, NAN);
    assert_int_equal(c.n, 4);
    pr_sample_top_p(&c, 0.5f); /* reached exactly by two; a tie goes to the lower ids */
    assert_int_equal(c.n, 2);
    assert_int_equal(list[0].id + list[1].id, 1);
    pr_sample_top_p(&c, 1e-30f);
    assert_int_equal(c.n, 1);
    assert_int_equal(list[0].id, 0);

    const float peak[3] = {500, -INFINITY, 1}; /* one candidate has everything; p 0 is dropped */
    c = pr_cands_fill(list, peak, 3);
    pr_sample_softmax(&c);
    pr_sample_top_p(&c, 0x1.fffffep-1f);
    assert_int_equal(c.n, 1);
    assert_int_equal(list[0].id, 0);
}

static void min_p_equals_naive(void **state) {
    (void)state;
    for (int trial = 0; trial < TRIALS; trial++) {
        size_t n = 1 + rnd(300), want = 0;
        float p = trial % 10 ? rnd_float(0, 1) : 1;
        rnd_logits(logits, n, trial % 2 == 0);
        pr_cands c = pr_cands_fill(list, logits, n);
        pr_sample_softmax(&c);
        float max = 0;
        for (size_t i = 0; i < n; i++) {
            max = fmaxf(max, list[i].p);
        }
        for (size_t i = 0; i < n; i++) {
            if (list[i].p >= p * max) {
                other[want++] = list[i];
            }
        }
        pr_sample_min_p(&c, p);
        assert_true(want >= 1);
        assert_int_equal(c.n, want);
        assert_same(list, other, want);
    }
    const float in[4] = {1, 3, 3, 2};
    pr_cands c = pr_cands_fill(list, in, 4);
    pr_sample_softmax(&c);
    pr_sample_min_p(&c, 0);
    assert_int_equal(c.n, 4);
    pr_sample_min_p(&c, 1); /* the highest and its ties */
    assert_int_equal(c.n, 2);
    assert_int_equal(list[0].id, 1);
    assert_int_equal(list[1].id, 2);
}

/* ---- the draw --------------------------------------------------------- */

static void draw_follows_the_masses(void **state) {
    (void)state;
    pr_cand in[] = {{7, 0, 0}, {3, 0, 0.125f}, {9, 0, 0}, {1, 0, 0.25f}, {4, 0, 0.125f}, {8, 0, 0}};
    pr_cands c = {.data = in, .n = 6}; /* sums to one half: u runs over that */
    assert_int_equal(pr_sample_draw(&c, 0), 3);
    assert_int_equal(pr_sample_draw(&c, 0.2499), 3);
    assert_int_equal(pr_sample_draw(&c, 0.25), 1);
    assert_int_equal(pr_sample_draw(&c, 0.7499), 1);
    assert_int_equal(pr_sample_draw(&c, 0.75), 4);
    assert_int_equal(pr_sample_draw(&c, 0x1.fffffffffffffp-1), 4);
    c.n = 1; /* only a zero */
    assert_int_equal(pr_sample_draw(&c, 0.5), 7);
    c.n = 0;
    assert_int_equal(pr_sample_draw(&c, 0.5), -1);
}

static void uniform_is_splitmix64(void **state) {
    (void)state;
    /* The published first outputs of splitmix64 for these seeds. */
    const uint64_t want[5] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u, 4593380528125082431u,
                              16408922859458223821u};
    for (uint64_t n = 0; n < 5; n++) {
        assert_true(pr_sample_uniform(1234567, n) == (double)(want[n] >> 11) / 9007199254740992.0);
    }
    assert_true(pr_sample_uniform(0, 0) == (double)(0xe220a8397b1dcdafu >> 11) / 9007199254740992.0);

    double sum = 0, square = 0;
    for (uint64_t n = 0; n < 100000; n++) {
        double u = pr_sample_uniform(42, n);
        assert_true(u >= 0 && u < 1);
        sum += u;
        square += u * u;
    }
    assert_true(near(sum / 100000, 1.0 / 2, 0.005));
    assert_true(near(square / 100000, 1.0 / 3, 0.005));
    assert_true(pr_sample_uniform(1, UINT64_MAX) < 1); /* the counter may wrap */
}

/* Chi-square of counts against probabilities p (sum 1), n_draws in all. */
static double chi_square(const uint32_t *counts, const double *p, size_t n, double n_draws) {
    double x2 = 0;
    for (size_t i = 0; i < n; i++) {
        double want = p[i] * n_draws, d = counts[i] - want;
        x2 += d * d / want;
    }
    return x2;
}

static void draws_have_the_distribution(void **state) {
    (void)state;
    enum { N = 10, DRAWS = 100000 };
    pr_cand in[N];
    double p[N], wrong[N], sum = 0;
    uint32_t counts[N] = {0};
    for (int32_t i = 0; i < N; i++) {
        in[i] = (pr_cand){.id = i, .p = (float)(i + 1) / 55};
        p[i] = (double)in[i].p;
        sum += p[i];
    }
    for (int i = 0; i < N; i++) {
        p[i] /= sum;
        wrong[i] = 0.95 * p[i] + 0.05 / N;
    }
    pr_cands c = {.data = in, .n = N};
    for (uint64_t i = 0; i < DRAWS; i++) {
        counts[pr_sample_draw(&c, pr_sample_uniform(2024, i))]++;
    }
    assert_true(chi_square(counts, p, N, DRAWS) < 27.88);     /* 9 degrees of freedom, 0.1% */
    assert_true(chi_square(counts, wrong, N, DRAWS) > 27.88); /* and it would see 5% of noise */
}

/* ---- the chain -------------------------------------------------------- */

static pr_sample_params off(void) { return (pr_sample_params){.temperature = 1}; }

static int32_t sample(const pr_sample_params *params, const float *in, size_t n, const int32_t *seen, size_t n_seen,
                      uint64_t draw) {
    int32_t token = -1;
    pr_err err = {0};
    assert_int_equal(pr_sample(params, in, n, seen, n_seen, draw, &scratch, &token, &err), PR_OK);
    assert_in_range(token, 0, n - 1);
    return token;
}

static pr_sample_params rnd_params(pr_logit_bias *bias, size_t n_bias, size_t n) {
    for (size_t i = 0; i < n_bias; i++) {
        bias[i] = (pr_logit_bias){(int32_t)rnd((uint32_t)n), rnd(4) ? rnd_float(-3, 3) : -INFINITY};
    }
    return (pr_sample_params){
        .temperature = rnd_float(0.2f, 2),
        .top_k = rnd(2) ? rnd((uint32_t)n + 3) : 0,
        .top_p = rnd(2) ? rnd_float(0.1f, 1) : 0,
        .min_p = rnd(2) ? rnd_float(0, 0.3f) : 0,
        .repetition_penalty = rnd(2) ? rnd_float(0.8f, 1.5f) : 0,
        .presence_penalty = rnd(2) ? rnd_float(-1, 1) : 0,
        .frequency_penalty = rnd(2) ? rnd_float(-1, 1) : 0,
        .repeat_last_n = rnd(2) ? rnd(60) : 0,
        .no_repeat_ngram = rnd(4),
        .seed = rnd(1000),
        .bias = bias,
        .n_bias = n_bias,
    };
}

/* The chain by definition, in double: other[] best first with p summing to 1, how many; 0 when a cut is too close to
 * call in float. */
static size_t naive_chain(const pr_sample_params *s, size_t n, size_t n_history) {
    pr_cands_fill(other, logits, n);
    for (size_t i = 0; i < s->n_bias; i++) {
        other[s->bias[i].token].logit += s->bias[i].bias;
    }
    size_t window = s->repeat_last_n && s->repeat_last_n < n_history ? s->repeat_last_n : n_history;
    naive_penalties(other, n, history + n_history - window, window,
                    s->repetition_penalty != 0 ? s->repetition_penalty : 1, s->presence_penalty, s->frequency_penalty);
    naive_ngram(other, n, n_history, s->no_repeat_ngram);
    qsort(other, n, sizeof *other, by_logit);
    if (other[0].logit == -INFINITY) {
        return 0;
    }
    n = s->top_k && s->top_k < n ? s->top_k : n;
    double p[N_MAX], sum = 0, mass = 0;
    for (size_t i = 0; i < n; i++) {
        sum += p[i] = exp(((double)other[i].logit - (double)other[0].logit) / (double)s->temperature);
    }
    size_t nucleus = 0;
    while (nucleus < n && (s->top_p == 0 || nucleus == 0 || mass < (double)s->top_p)) {
        mass += p[nucleus++] / sum;
        if (s->top_p > 0 && fabs(mass - (double)s->top_p) < 1e-5) {
            return 0;
        }
    }
    size_t end = 0;
    while (end < nucleus && p[end] >= (double)s->min_p) {
        end++;
    }
    if (end < nucleus && fabs(p[end] - (double)s->min_p) < 1e-5) {
        return 0;
    }
    sum = 0;
    for (size_t i = 0; i < end; i++) {
        sum += p[i];
    }
    for (size_t i = 0; i < end; i++) {
        other[i].p = (float)(p[i] / sum);
    }
    return end;
}

/* Whatever order the chain left its candidates in, all tokens drawn belong to the naive set, and their frequencies are
 * its probabilities. */
static void chain_equals_naive(void **state) {
    (void)state;
    enum { DRAWS = 2000 };
    int compared = 0, biased = 0;
    for (int trial = 0; trial < 200; trial++) {
        pr_logit_bias bias[3];
        size_t n = 2 + rnd(12), n_history = rnd(30);
        rnd_logits(logits, n, trial % 2 == 0);
        rnd_history(history, n_history, (uint32_t)n);
        pr_sample_params s = rnd_params(bias, rnd(4), n);
        size_t end = naive_chain(&s, n, n_history);
        if (end == 0) {
            continue;
        }
        uint32_t counts[16] = {0};
        for (uint64_t draw = 0; draw < DRAWS; draw++) {
            counts[sample(&s, logits, n, history, n_history, draw)]++;
        }
        double x2 = 0;
        uint32_t drawn = 0;
        for (size_t i = 0; i < end; i++) {
            double want = (double)other[i].p * DRAWS, d = counts[other[i].id] - want;
            x2 += want > 0 ? d * d / (want + 1) : 0; /* + 1: rare ones may come once */
            drawn += counts[other[i].id];
        }
        assert_int_equal(drawn, DRAWS);
        assert_true(x2 < 45); /* 13 degrees of freedom at most; 0.003% each */
        compared++;
        biased += end > 1;
    }
    assert_true(compared > 100 && biased > 50);
}

static void greedy_chain_applies_every_ban(void **state) {
    (void)state;
    const float in[4] = {1, 5, 4, 3};
    pr_sample_params s = {0};
    assert_int_equal(sample(&s, in, 4, NULL, 0, 0), 1);

    const pr_logit_bias bias = {0, 10};
    s = (pr_sample_params){.bias = &bias, .n_bias = 1};
    assert_int_equal(sample(&s, in, 4, NULL, 0, 0), 0);

    const int32_t seen[] = {2, 1, 3, 1};
    s = (pr_sample_params){.repetition_penalty = 2};
    assert_int_equal(sample(&s, in, 4, seen, 4, 0), 1); /* all halved but id 0 */
    s = (pr_sample_params){.frequency_penalty = 1};
    assert_int_equal(sample(&s, in, 4, seen, 4, 0), 1); /* 3 3 2: a tie to the lower id */
    s = (pr_sample_params){.presence_penalty = 1.5f, .repeat_last_n = 1};
    assert_int_equal(sample(&s, in, 4, seen, 4, 0), 2); /* the window holds id 1 only */
    s = (pr_sample_params){.no_repeat_ngram = 2};
    assert_int_equal(sample(&s, in, 4, seen, 4, 0), 1); /* only 1,3 would repeat */
    s = (pr_sample_params){.no_repeat_ngram = 1};
    assert_int_equal(sample(&s, in, 4, seen, 4, 0), 0);
}

static void bias_comes_before_penalties(void **state) {
    (void)state;
    const pr_logit_bias bias = {0, 4};
    const int32_t seen[] = {0};
    pr_sample_params s = {.repetition_penalty = 2, .bias = &bias, .n_bias = 1};
    /* (1 + 4) / 2 = 2.5 loses to 3; 1 / 2 + 4 would win. */
    assert_int_equal(sample(&s, (float[]){1, 3}, 2, seen, 1, 0), 1);
    /* And the ban after both: no bias lifts it. */
    const pr_logit_bias lift = {0, INFINITY};
    s = (pr_sample_params){.no_repeat_ngram = 1, .bias = &lift, .n_bias = 1};
    assert_int_equal(sample(&s, (float[]){1, 3}, 2, seen, 1, 0), 1);
}

static void everything_banned_falls_back(void **state) {
    (void)state;
    const float in[3] = {1, 3, 2};
    const int32_t seen[] = {0, 1, 2};
    const pr_logit_bias no_1 = {1, -INFINITY};
    const pr_logit_bias none[3] = {{0, -INFINITY}, {1, -INFINITY}, {2, -INFINITY}};
    for (int greedy = 0; greedy < 2; greedy++) {
        pr_sample_params s = {.temperature = greedy ? 0 : 1e-6f, .no_repeat_ngram = 1};
        assert_int_equal(sample(&s, in, 3, seen, 3, 0), 1); /* the n-gram ban is lifted */
        s.bias = &no_1;
        s.n_bias = 1;
        assert_int_equal(sample(&s, in, 3, seen, 3, 0), 2); /* but no other */
        s.bias = none;
        s.n_bias = 3;
        assert_int_equal(sample(&s, in, 3, seen, 3, 0), 1); /* unless that leaves nothing */
        assert_int_equal(sample(&s, (float[]){NAN, -INFINITY, NAN}, 3, seen, 3, 0), 0);
    }
}

static void odd_logits_are_survived(void **state) {
    (void)state;
    pr_sample_params s;
    pr_sample_defaults(&s);
    for (uint64_t draw = 0; draw < 200; draw++) {
        assert_int_equal(sample(&s, (float[]){NAN, 1, NAN, -INFINITY}, 4, NULL, 0, draw), 1);
        assert_int_equal(sample(&s, (float[]){1, 3e38f, INFINITY, NAN}, 4, NULL, 0, draw), 2);
        assert_int_equal(sample(&s, (float[]){0.5f}, 1, NULL, 0, draw), 0);
        assert_in_range(sample(&s, (float[]){INFINITY, 9, INFINITY}, 3, NULL, 0, draw) % 2, 0, 0);
        assert_int_equal(sample(&s, (float[]){-3e38f, 3e38f}, 2, NULL, 0, draw), 1);
    }
    s.min_p = 1;
    assert_int_equal(sample(&s, (float[]){1, 2, 1.99f}, 3, NULL, 0, 7), 1);
}

/* The replay contract: a change of these numbers changes what every stored seed says. They come from a separate
 * implementation in double, not from this one. */
static void same_seed_same_tokens(void **state) {
    (void)state;
    static const int32_t want[12] = {671, 227, 906, 968, 539, 6, 69, 47, 32, 355, 563, 733};
    for (size_t i = 0; i < 1000; i++) {
        logits[i] = (float)(8 * pr_sample_uniform(5, i));
    }
    pr_sample_params s;
    pr_sample_defaults(&s);
    s.seed = 12345;
    for (size_t i = 0; i < 12; i++) {
        history[i] = sample(&s, logits, 1000, history, i, i);
        assert_int_equal(history[i], want[i]);
    }
    uint64_t before = pr_mem_count();
    assert_int_equal(sample(&s, logits, 1000, history, 5, 5), want[5]); /* from any token on */
    assert_int_equal(pr_mem_count(), before);
    int differ = 0;
    for (uint64_t i = 0; i < 12; i++) {
        s.seed = 12346;
        differ += sample(&s, logits, 1000, history, i, i) != want[i];
    }
    assert_true(differ > 6);
}

static void defaults_are_the_documented_ones(void **state) {
    (void)state;
    pr_sample_params s;
    memset(&s, 0xff, sizeof s);
    pr_sample_defaults(&s);
    assert_true(s.temperature == 0.7f && s.top_p == 0.9f && s.top_k == 50 && s.repetition_penalty == 1.1f);
    assert_true(s.min_p == 0 && s.presence_penalty == 0 && s.frequency_penalty == 0);
    assert_true(s.repeat_last_n == 0 && s.no_repeat_ngram == 0 && s.seed == 0 && s.bias == NULL && s.n_bias == 0);
    assert_int_equal(pr_sample_check(&s, 10, NULL), PR_OK);
}

static void refused(const pr_sample_params *s, const char *name) {
    pr_err err = {0};
    int32_t token = -5;
    const float in[4] = {1, 2, 3, 4};
    assert_int_equal(pr_sample_check(s, 4, &err), PR_ERR_ARG);
    assert_non_null(strstr(err.text, name));
    assert_int_equal(pr_sample(s, in, 4, NULL, 0, 0, &scratch, &token, NULL), PR_ERR_ARG);
    assert_int_equal(token, -5);
}

static void check_names_the_parameter(void **state) {
    (void)state;
    const float bad_unit[] = {-0.001f, 1.001f, NAN, INFINITY};
    const float bad_positive[] = {-0.001f, NAN, INFINITY, -INFINITY};
    const float bad_two[] = {-2.01f, 2.01f, NAN, -INFINITY};
    pr_sample_params s;
    for (int i = 0; i < 4; i++) {
        s = off(), s.temperature = bad_positive[i], refused(&s, "temperature");
        s = off(), s.repetition_penalty = bad_positive[i], refused(&s, "repetition_penalty");
        s = off(), s.top_p = bad_unit[i], refused(&s, "top_p");
        s = off(), s.min_p = bad_unit[i], refused(&s, "min_p");
        s = off(), s.presence_penalty = bad_two[i], refused(&s, "presence_penalty");
        s = off(), s.frequency_penalty = bad_two[i], refused(&s, "frequency_penalty");
    }
    s = off(), s.no_repeat_ngram = PR_NGRAM_MAX + 1, refused(&s, "no_repeat_ngram");
    s = off(), s.n_bias = 1, refused(&s, "logit_bias");
    const pr_logit_bias bad[] = {{4, 1}, {-1, 1}, {0, NAN}};
    for (int i = 0; i < 3; i++) {
        const pr_logit_bias two[2] = {{0, 1}, bad[i]};
        s = off(), s.bias = two, s.n_bias = 2, refused(&s, "logit_bias[1]");
    }
    pr_err err = {0};
    s = off();
    assert_int_equal(pr_sample_check(&s, 0, &err), PR_ERR_ARG);
    assert_int_equal(pr_sample_check(&s, (size_t)INT32_MAX + 1, &err), PR_ERR_ARG);

    const pr_logit_bias good[] = {{0, -100}, {3, 100}, {1, -INFINITY}};
    s = (pr_sample_params){.temperature = 2,
                           .top_p = 1,
                           .min_p = 1,
                           .repetition_penalty = 0.01f,
                           .presence_penalty = -2,
                           .frequency_penalty = 2,
                           .no_repeat_ngram = PR_NGRAM_MAX,
                           .bias = good,
                           .n_bias = 3};
    assert_int_equal(pr_sample_check(&s, 4, &err), PR_OK);
}

/* ---- log probabilities ------------------------------------------------ */

static void log_softmax_equals_naive(void **state) {
    (void)state;
    for (int trial = 0; trial < 50; trial++) {
        size_t n = 1 + rnd(N_MAX - 1);
        rnd_logits(logits, n, trial % 2 == 0);
        long double sum = 0;
        for (size_t i = 0; i < n; i++) {
            sum += expl((long double)logits[i]);
        }
        for (int j = 0; j < 20; j++) {
            int32_t token = (int32_t)rnd((uint32_t)n);
            double got = pr_log_softmax_at(logits, n, token);
            if (logits[token] == -INFINITY) {
                assert_true(got == -INFINITY);
            } else {
                assert_true(near(got, (double)((long double)logits[token] - logl(sum)), 1e-11));
            }
        }
    }
    assert_true(near(pr_log_softmax_at((float[]){3e38f, 3e38f}, 2, 0), log(0.5), 1e-15)); /* stable */
}

static void log_softmax_survives_extremes(void **state) {
    (void)state;
    const float in[4] = {INFINITY, 2, NAN, INFINITY};
    assert_true(near(pr_log_softmax_at(in, 4, 0), log(0.5), 1e-15));
    assert_true(pr_log_softmax_at(in, 4, 1) == -INFINITY);
    assert_true(pr_log_softmax_at(in, 4, 2) == -INFINITY);
    assert_true(pr_log_softmax_at(in, 4, 4) == -INFINITY);
    assert_true(pr_log_softmax_at(in, 4, -1) == -INFINITY);
    assert_true(pr_log_softmax_at(in + 1, 2, 0) == 0);
    assert_true(pr_log_softmax_at(in + 1, 1, 0) == 0);
}

static void logprobs_top_equals_a_full_sort(void **state) {
    (void)state;
    pr_logprob top[40];
    for (int trial = 0; trial < TRIALS; trial++) {
        size_t n = 1 + rnd(100), n_top = rnd(40);
        rnd_logits(logits, n, trial % 2 == 0);
        logits[rnd((uint32_t)n)] = NAN;
        pr_cands_fill(other, logits, n);
        qsort(other, n, sizeof *other, by_logit);
        size_t got = pr_logprobs_top(logits, n, top, n_top);
        assert_int_equal(got, n < n_top ? n : n_top);
        for (size_t i = 0; i < got; i++) {
            assert_int_equal(top[i].id, other[i].id);
            if (!isnan(logits[top[i].id])) {
                assert_true(top[i].logprob == pr_log_softmax_at(logits, n, top[i].id));
            }
        }
    }
    assert_int_equal(pr_logprobs_top(logits, 0, top, 3), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fill_turns_nan_into_a_ban),
        cmocka_unit_test(greedy_takes_the_highest),
        cmocka_unit_test(bias_adds),
        cmocka_unit_test(penalties_equal_naive),
        cmocka_unit_test(penalties_by_hand),
        cmocka_unit_test(ngram_ban_equals_naive),
        cmocka_unit_test(changed_logits_end_the_order),
        cmocka_unit_test(temperature_divides),
        cmocka_unit_test(temperature_survives_extremes),
        cmocka_unit_test(top_k_equals_a_full_sort),
        cmocka_unit_test(an_open_list_gives_the_same),
        cmocka_unit_test(top_k_ends),
        cmocka_unit_test(softmax_equals_naive),
        cmocka_unit_test(softexp_is_exp),
        cmocka_unit_test(top_p_equals_a_full_sort),
        cmocka_unit_test(top_p_ends),
        cmocka_unit_test(min_p_equals_naive),
        cmocka_unit_test(draw_follows_the_masses),
        cmocka_unit_test(uniform_is_splitmix64),
        cmocka_unit_test(draws_have_the_distribution),
        cmocka_unit_test(chain_equals_naive),
        cmocka_unit_test(greedy_chain_applies_every_ban),
        cmocka_unit_test(bias_comes_before_penalties),
        cmocka_unit_test(everything_banned_falls_back),
        cmocka_unit_test(odd_logits_are_survived),
        cmocka_unit_test(same_seed_same_tokens),
        cmocka_unit_test(defaults_are_the_documented_ones),
        cmocka_unit_test(check_names_the_parameter),
        cmocka_unit_test(log_softmax_equals_naive),
        cmocka_unit_test(log_softmax_survives_extremes),
        cmocka_unit_test(logprobs_top_equals_a_full_sort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
