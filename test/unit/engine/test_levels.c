/*
 * Elastic models: moving between levels while sessions go on, and speculation.
 *
 * Models are tiny and random; what is checked is bits. A level's numbers are known by an engine that was opened at it.
 */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/os.h"
#include "engine/engine_impl.h"
#include "support/elastic.h"
#include "support/sanitized.h"

enum { CONTEXT = 128, N_PROMPT = 24 };

/* Planes up to p16 (an F16 source), or up to p8 (Q8_0). */
static const llama_gguf wide = {
    .dim = 64, .n_layers = 2, .n_ff = 160, .type = PR_F16, .tied = true, .context = CONTEXT};
static const llama_gguf narrow = {
    .dim = 96, .n_layers = 2, .head_dim = 32, .n_heads = 3, .n_kv_heads = 1, .type = PR_Q8_0, .context = CONTEXT};

static const char *path_wide(void) { return elastic_model(&wide, "wide.gguf"); }
static const char *path_narrow(void) { return elastic_model(&narrow, "narrow.gguf"); }

static pr_engine *open_at(const char *path, pr_level level, int threads) {
    return rig_open(path, &(pr_engine_opts){.n_threads = threads,
                                            .batch_max = 64,
                                            .logits_max = 64,
                                            .level_given = true,
                                            .level = level,
                                            .kv_bytes_max = 4 << 20});
}

static void move(pr_engine *e, pr_level level) {
    pr_err err = {0};
    if (pr_engine_set_level(e, level, &err) || pr_engine_settle(e, 30, &err)) fail_msg("%s", err.text);
}

static pr_elastic_info info_of(const pr_engine *e) {
    pr_elastic_info info;
    pr_engine_elastic(e, &info);
    return info;
}

static void assert_same_floats(const float *a, const float *b, size_t n) {
    if (memcmp(a, b, n * sizeof *a) != 0) fail_msg("logits differ");
}

/* ---- levels ------------------------------------------------------------ */

/* Moved to a level, an engine computes what one opened at it computes; back at the top, what it computed before. */
static void levels_are_levels(const char *path, pr_level top) {
    int32_t tokens[N_PROMPT];
    rig_rng rng = {5};
    pr_engine *e = open_at(path, top, 2);
    rig_tokens(&rng, tokens, N_PROMPT, rig_vocab(e));
    size_t n = (size_t)N_PROMPT * rig_vocab(e);
    float *at_top = rig_logits(e, tokens, N_PROMPT);
    for (int l = 0; l <= (int)top; l++) {
        pr_engine *other = open_at(path, (pr_level)l, 1);
        float *want = rig_logits(other, tokens, N_PROMPT);
        move(e, (pr_level)l);
        float *got = rig_logits(e, tokens, N_PROMPT);
        assert_same_floats(got, want, n);
        assert_int_equal(info_of(e).level, info_of(other).level);
        assert_int_equal(info_of(e).bytes, info_of(other).bytes);
        move(e, top);
        float *again = rig_logits(e, tokens, N_PROMPT);
        assert_same_floats(again, at_top, n);
        if (l < (int)top) assert_true(memcmp(want, at_top, n * sizeof *want) != 0);
        pr_free(want);
        pr_free(got);
        pr_free(again);
        pr_engine_close(other);
    }
    pr_free(at_top);
    pr_engine_close(e);
}

static void test_levels_are_levels(void **state) {
    (void)state;
    levels_are_levels(path_wide(), PR_LEVEL_FP16);
    levels_are_levels(path_narrow(), PR_LEVEL_INT8);
}

/* Root of the mean square of a's distance from b, over that of b. */
static double distance(const float *a, const float *b, size_t n) {
    double off = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        off += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(off / size);
}

/* All planes with activations of 13 bits are next to exact: as near as keys and values of 16 bits let them be. */
static void test_the_top_is_next_to_exact(void **state) {
    (void)state;
    int32_t tokens[N_PROMPT];
    rig_rng rng = {8};
    pr_engine *e = open_at(path_wide(), PR_LEVEL_FP16, 1);
    pr_engine *exact = rig_open(
        path_wide(),
        &(pr_engine_opts){.n_threads = 1, .exact = true, .batch_max = 64, .logits_max = 64, .kv_bytes_max = 4 << 20});
    rig_tokens(&rng, tokens, N_PROMPT, rig_vocab(e));
    size_t n = (size_t)N_PROMPT * rig_vocab(e);
    float *want = rig_logits(exact, tokens, N_PROMPT), *top = rig_logits(e, tokens, N_PROMPT);
    move(e, PR_LEVEL_INT8);
    float *int8 = rig_logits(e, tokens, N_PROMPT);
    double of_top = distance(top, want, n), of_int8 = distance(int8, want, n);
    if (!(of_top > 0 && of_top < 1e-3 && of_int8 > 10 * of_top)) fail_msg("%g, int8 %g", of_top, of_int8);
    pr_free(want);
    pr_free(top);
    pr_free(int8);
    pr_engine_close(exact);
    pr_engine_close(e);
}

/* Decoding, prefill, chunks, threads and fused passes: the same bits at every level, mixes included. */
static void test_same_bits_at_every_level(void **state) {
    (void)state;
    int32_t tokens[N_PROMPT];
    rig_rng rng = {6};
    const char *path = path_wide();
    pr_engine *a = open_at(path, PR_LEVEL_FP16, 1), *b = open_at(path, PR_LEVEL_FP16, 3);
    pr_engine *c = rig_open(
        path, &(pr_engine_opts){
                  .n_threads = 1, .batch_max = 64, .logits_max = 64, .passes_off = ~0u, .kv_bytes_max = 4 << 20});
    size_t n_vocab = rig_vocab(a);
    rig_tokens(&rng, tokens, N_PROMPT, (uint32_t)n_vocab);
    pr_elastic_info info = info_of(a);
    for (uint32_t cut = 0; cut <= info.n_increments; cut += info.n_increments / 7) {
        size_t bytes, peak;
        double kl;
        pr_estimate *estimate;
        pr_err err = {0};
        assert_int_equal(pr_engine_estimate(path, NULL, &estimate, &err), PR_OK);
        assert_true(pr_estimate_increment(estimate, cut, &bytes, &peak, &kl));
        pr_estimate_close(estimate);
        pr_engine_info there;
        assert_int_equal(pr_engine_estimate(path, &(pr_engine_opts){.weights_budget = bytes}, &estimate, &err), PR_OK);
        pr_estimate_describe(estimate, &there);
        pr_estimate_close(estimate);
        assert_int_equal(there.peak_bytes, peak);
        assert_int_equal(there.weight_bytes, bytes);
        pr_engine *all[] = {a, b, c};
        for (int i = 0; i < 3; i++) {
            assert_int_equal(pr_engine_set_weights_budget(all[i], bytes, &err), PR_OK);
            assert_int_equal(pr_engine_settle(all[i], 30, &err), PR_OK);
        }
        float *want = rig_logits(a, tokens, N_PROMPT), *other = rig_logits(c, tokens, N_PROMPT);
        assert_same_floats(other, want, N_PROMPT * n_vocab);
        pr_session *s = rig_session(b);
        for (uint32_t at = 0; at < N_PROMPT;) { /* 1, 2, 3, ... tokens a step */
            uint32_t n = 1 + at % 5 < N_PROMPT - at ? 1 + at % 5 : N_PROMPT - at;
            rig_feed(b, s, tokens + at, n, n);
            for (uint32_t i = 0; i < n; i++)
                assert_same_floats(pr_engine_logits(b, i), want + (at + i) * n_vocab, n_vocab);
            at += n;
        }
        pr_session_close(s);
        pr_free(want);
        pr_free(other);
    }
    pr_engine_close(a);
    pr_engine_close(b);
    pr_engine_close(c);
}

/* ---- text across a switch ---------------------------------------------- */

/* Greedy continuation of a session through one view; tokens are fed, the last one too. */
static void continue_greedy(pr_engine *e, pr_session *s, int32_t first, int view, int32_t *out, uint32_t n) {
    pr_err err = {0};
    int32_t token = first;
    for (uint32_t i = 0; i < n; i++) {
        if (pr__engine_step(e, &(pr_run){s, &token, 1, 1}, 1, view, 0, &err)) fail_msg("%s", err.text);
        const float *logits = pr_engine_logits(e, 0);
        token = 0;
        for (uint32_t v = 1; v < rig_vocab(e); v++) token = logits[v] > logits[token] ? (int32_t)v : token;
        out[i] = token;
    }
}

/* What comes after a drop is what that level says over the same KV pages, which a view of fewer planes computes without one. */
static void test_switch_over_the_same_pages(void **state) {
    (void)state;
    enum { BEFORE = 20, AFTER = 30 };
    const char *path = path_wide();
    for (int l = PR_LEVEL_INT2; l < PR_LEVEL_FP16; l++) {
        pr_engine *e = open_at(path, PR_LEVEL_FP16, 2);
        int32_t before[BEFORE], after[AFTER], want[AFTER];
        pr_session *s = rig_session(e);
        continue_greedy(e, s, 1, PR_VIEW_MAIN, before, BEFORE);
        pr_session *fork = rig_fork(s);
        pr__engine_draft(e, pr__levels_cursor(&e->blue, (pr_level)l));
        continue_greedy(e, fork, before[BEFORE - 1], PR_VIEW_DRAFT, want, AFTER);
        pr_err err = {0};
        assert_int_equal(pr_engine_set_level(e, (pr_level)l, &err),
                         PR_OK); /* not waited for: it holds from the next step */
        continue_greedy(e, s, before[BEFORE - 1], PR_VIEW_MAIN, after, AFTER);
        assert_memory_equal(after, want, sizeof want);
        pr_session_close(fork);
        pr_session_close(s);
        pr_engine_close(e);
    }
}

/* ---- moves from another thread ----------------------------------------- */

typedef struct mover {
    pr_engine *engine;
    _Atomic int stop;
    uint32_t n_moves;
} mover;

static void *move_about(void *arg) {
    mover *m = arg;
    rig_rng rng = {99};
    pr_elastic_info info = info_of(m->engine);
    for (; m->n_moves < 1000 || !m->stop; m->n_moves++) {
        pr_err err = {0};
        pr_status st;
        if (rig_below(&rng, 2)) {
            st = pr_engine_set_level(m->engine, (pr_level)rig_below(&rng, PR_LEVELS), &err);
        } else {
            uint32_t span = (uint32_t)(info.bytes_max - info.bytes_min);
            st = pr_engine_set_weights_budget(m->engine, info.bytes_min + rig_below(&rng, span + 1), &err);
        }
        if (st) return "a move was refused";
        if (rig_below(&rng, 4) == 0) usleep(rig_below(&rng, 300));
        if (m->stop && m->n_moves >= 1000) break;
    }
    return NULL;
}

/* Eight sessions decode while a thread asks for a thousand moves: nothing is lost, every row is finite, lengths are right. */
static void test_a_thousand_moves(void **state) {
    (void)state;
    enum { SESSIONS = 8 };
    pr_engine *e = open_at(path_wide(), PR_LEVEL_INT8, 2);
    pr_session *s[SESSIONS];
    pr_run runs[SESSIONS];
    int32_t tokens[SESSIONS];
    rig_rng rng = {4};
    rig_tokens(&rng, tokens, SESSIONS, rig_vocab(e));
    for (int i = 0; i < SESSIONS; i++) s[i] = rig_session(e);
    mover m = {.engine = e};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, move_about, &m), 0);
    for (int step = 0; step < 600; step++) {
        pr_err err = {0};
        for (int i = 0; i < SESSIONS; i++) {
            if (pr_session_length(s[i]) + 1 >= CONTEXT) assert_int_equal(pr_session_truncate(s[i], 3, &err), PR_OK);
            runs[i] = (pr_run){s[i], &tokens[i], 1, 1};
        }
        if (pr_engine_step(e, runs, SESSIONS, &err)) fail_msg("%s", err.text);
        for (int i = 0; i < SESSIONS; i++) {
            const float *logits = pr_engine_logits(e, (size_t)i);
            int32_t best = 0;
            for (uint32_t v = 0; v < rig_vocab(e); v++) {
                if (!(logits[v] > -1e30f && logits[v] < 1e30f)) fail_msg("a logit is %g", (double)logits[v]);
                best = logits[v] > logits[best] ? (int32_t)v : best;
            }
            tokens[i] = best;
        }
    }
    m.stop = 1;
    void *failure;
    pthread_join(thread, &failure);
    if (failure) fail_msg("%s", (const char *)failure);
    assert_true(m.n_moves >= 1000);
    move(e, PR_LEVEL_INT4);
    assert_int_equal(info_of(e).bytes, info_of(e).level_bytes[PR_LEVEL_INT4]);
    assert_int_equal(info_of(e).raise_err.status, PR_OK);
    for (int i = 0; i < SESSIONS; i++) pr_session_close(s[i]);
    pr_engine_close(e);
}

/* ---- budgets ----------------------------------------------------------- */

static void test_budgets(void **state) {
    (void)state;
    pr_err err = {0};
    pr_engine *e = open_at(path_narrow(), PR_LEVEL_INT8, 1);
    pr_elastic_info info = info_of(e);
    assert_true(info.elastic);
    assert_int_equal(info.top, PR_LEVEL_INT8);
    assert_int_equal(info.level_bytes[PR_LEVEL_FP16], info.bytes_max);
    double kl = 1e30;
    for (int i = 0; i <= 20; i++) {
        size_t budget = info.bytes_min + (info.bytes_max - info.bytes_min) * (size_t)i / 20;
        assert_int_equal(pr_engine_set_weights_budget(e, budget, &err), PR_OK);
        assert_int_equal(pr_engine_settle(e, 30, &err), PR_OK);
        pr_elastic_info now = info_of(e);
        assert_true(now.bytes <= budget);
        assert_true(now.kl <= kl);
        kl = now.kl;
    }
    assert_int_equal(pr_engine_set_weights_budget(e, info.bytes_min - 1, &err), PR_ERR_LIMIT);
    assert_non_null(strstr(err.text, "budget"));
    pr_engine_close(e);
    pr_engine *plain = rig_open(rig_model(&narrow, "plain.gguf"), NULL);
    assert_false(info_of(plain).elastic);
    assert_int_equal(pr_engine_set_level(plain, PR_LEVEL_INT2, &err), PR_ERR_UNSUPPORTED);
    assert_int_equal(pr_engine_settle(plain, 1, &err), PR_ERR_UNSUPPORTED);
    pr_engine_close(plain);
    rig_refuses(path_narrow(), &(pr_engine_opts){.weights_budget = 1000}, PR_ERR_LIMIT, "at least");
}

/* ---- speculation ------------------------------------------------------- */

typedef struct text {
    char data[8192];
    size_t len;
} text;

static bool take(void *arg, const char *piece, size_t len) {
    text *t = arg;
    if (t->len + len < sizeof t->data) memcpy(t->data + t->len, piece, len);
    t->len += len;
    return true;
}

/* The answer to a prompt, tokens in the session. */
static void answer(pr_engine *e, const pr_sample_params *sample, int speculate, uint32_t max, const char *stop,
                   text *out, pr_session **session, pr_generate_stats *stats) {
    static const int32_t prompt[] = {1, 40, 70, 261, 275};
    pr_err err = {0};
    *out = (text){.len = 0};
    const pr_generate_opts opts = {.sample = *sample,
                                   .max_tokens = max,
                                   .stop = &stop,
                                   .n_stop = stop != NULL,
                                   .ignore_end = true,
                                   .speculate = speculate,
                                   .on_text = take,
                                   .arg = out};
    *session = rig_session(e);
    if (pr_session_generate(*session, prompt, 5, &opts, stats, &err)) fail_msg("%s", err.text);
}

static void assert_same_answer(pr_engine *e, const pr_sample_params *sample, int speculate, uint32_t max,
                               const char *stop) {
    text want, got;
    pr_session *a, *b;
    pr_generate_stats plain, drafted;
    answer(e, sample, 0, max, stop, &want, &a, &plain);
    answer(e, sample, speculate, max, stop, &got, &b, &drafted);
    assert_int_equal(plain.n_drafted, 0);
    assert_int_equal(got.len, want.len);
    assert_memory_equal(got.data, want.data, want.len);
    assert_int_equal(drafted.finish, plain.finish);
    assert_int_equal(drafted.n_generated, plain.n_generated);
    assert_int_equal(pr_session_length(b), pr_session_length(a));
    assert_memory_equal(pr_session_tokens(b), pr_session_tokens(a), pr_session_length(a) * sizeof(int32_t));
    if (speculate > 0 && max > 4) assert_true(drafted.n_drafted > 0);
    assert_true(drafted.n_accepted <= drafted.n_drafted);
    pr_session_close(a);
    pr_session_close(b);
}

/* Greedy and sampled, with penalties and stops, whatever is drafted: the very same answer, and session. */
static void test_speculation_is_exact(void **state) {
    (void)state;
    pr_engine *e = open_at(path_wide(), PR_LEVEL_FP16, 2);
    const pr_sample_params greedy = {0};
    for (int k = -1; k <= PR_SPECULATE_MAX; k += k < 4 ? 1 : 6) assert_same_answer(e, &greedy, k, 60, NULL);
    for (uint64_t seed = 0; seed < (TEST_SANITIZED ? 4 : 40); seed++) {
        pr_sample_params sample;
        pr_sample_defaults(&sample);
        sample.seed = seed;
        sample.no_repeat_ngram = seed % 3 == 0 ? 3 : 0;
        assert_same_answer(e, &sample, 1 + (int)(seed % 7), 40, seed % 2 ? "e" : NULL);
    }
    assert_same_answer(e, &greedy, 5, 0, NULL); /* until the context is full */
    assert_same_answer(e, &greedy, 16, 1, NULL);
    pr_engine_close(e);
}

/* Drafts are rolled back by truncation, also when two numbers share a byte. */
static void test_speculation_over_narrow_pages(void **state) {
    (void)state;
    static const pr_kv_types types[] = {{PR_KV_Q4, PR_KV_Q4}, {PR_KV_Q8, PR_KV_Q4}};
    const pr_sample_params greedy = {0};
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        const pr_engine_opts opts = {
            .n_threads = 2, .level_given = true, .level = PR_LEVEL_FP16, .kv_bytes_max = 4 << 20, .kv_type = types[t]};
        pr_engine *e = rig_open(path_wide(), &opts);
        for (int k = 1; k <= 7; k += 3) assert_same_answer(e, &greedy, k, 60, NULL);
        pr_engine_close(e);
    }
}

/* The first token of many seeds follows the model's distribution with speculation as without: they are equal, so counting
 * both and comparing with the softmax is one test. Chi-square over the likeliest tokens, 99.99%. */
static void test_speculation_keeps_the_distribution(void **state) {
    (void)state;
    enum { DRAWS = 2000, KINDS = 6 };
    pr_engine *e = open_at(path_narrow(), PR_LEVEL_INT8, 1);
    size_t n_vocab = rig_vocab(e);
    static const int32_t prompt[] = {1, 40, 70};
    pr_session *s = rig_session(e), *f;
    rig_feed(e, s, prompt, 3, 1);
    pr_sample_params sample = {.temperature = 1, .top_k = KINDS};
    uint32_t counts[2][512] = {{0}};
    int n = TEST_SANITIZED ? 200 : DRAWS;
    for (int i = 0; i < n; i++) {
        for (int speculate = 0; speculate < 2; speculate++) { /* the second token: drafted, or not */
            pr_err err = {0};
            sample.seed = (uint64_t)i;
            const pr_generate_opts opts = {
                .sample = sample, .max_tokens = 2, .ignore_end = true, .speculate = speculate};
            f = rig_fork(s);
            if (pr_session_generate(f, prompt, 1, &opts, NULL, &err)) fail_msg("%s", err.text);
            counts[speculate][pr_session_tokens(f)[pr_session_length(f) - 1]]++;
            pr_session_close(f);
        }
    }
    assert_memory_equal(counts[0], counts[1], n_vocab * sizeof counts[0][0]);
    int kinds = 0;
    for (size_t v = 0; v < n_vocab; v++) kinds += counts[1][v] > 0;
    assert_true(kinds > 1); /* it does draw */
    pr_session_close(s);
    pr_engine_close(e);
}

static void test_speculation_leaves_no_mark(void **state) {
    (void)state;
    pr_engine *e = open_at(path_wide(), PR_LEVEL_FP16, 1);
    text t;
    pr_session *s;
    pr_generate_stats stats;
    answer(e, &(pr_sample_params){0}, 4, 50, NULL, &t, &s, &stats);
    for (uint32_t p = 0; p < s->kv.n_pages; p++)
        assert_int_equal(pr_kv_page_level(s->kv.pool, s->kv.pages[p]), PR_LEVEL_FP16);
    pr_session_close(s);
    assert_int_equal(pr_kv_pool_pages_used(e->kv), 0);
    pr_engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels_are_levels),
        cmocka_unit_test(test_the_top_is_next_to_exact),
        cmocka_unit_test(test_same_bits_at_every_level),
        cmocka_unit_test(test_switch_over_the_same_pages),
        cmocka_unit_test(test_a_thousand_moves),
        cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_speculation_is_exact),
        cmocka_unit_test(test_speculation_over_narrow_pages),
        cmocka_unit_test(test_speculation_keeps_the_distribution),
        cmocka_unit_test(test_speculation_leaves_no_mark),
    };
    return cmocka_run_group_tests_name("levels", tests, rig_setup, rig_teardown);
}
