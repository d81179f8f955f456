/*
 * Goldens: precis' logits and text against an independent implementation (tools/goldens/ says how they were made).
 *
 * Exact mode is held to 1e-4 of the row's largest logit: fp32 against fp64 differs by 1e-6 in the reference itself, and
 * leaving out any one thing that a variant is about (a bias, the window, the scaling) by more than 0.3. The default path
 * rounds activations to 8 bits, so it is held to a distance from exact mode in distribution (KL) and in logits.
 */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/os.h"
#include "precis.h"
#include "support/synth_model.h"

#define EXACT_BOUND 1e-4
#define GAP_BOUND   1e-3f
#define GOLDENS     "test/goldens/logits/"

/* ---- golden files ------------------------------------------------------ */

enum { ROWS_MAX = 16, GREEDY_MAX = 64, PROMPTS_MAX = 10, LOGITS_MAX = 128 };

typedef struct golden_row {
    unsigned pos, stride, n;
    float max; /* largest |logit| of the whole row */
    float *v;  /* logits of ids 0, stride, ... */
} golden_row;

typedef struct golden {
    int32_t *tokens;
    size_t n_tokens;
    golden_row rows[ROWS_MAX];
    size_t n_rows;
    /* smollm2-greedy.txt */
    char user[128];
    int32_t greedy[GREEDY_MAX];
    float gaps[GREEDY_MAX];
} golden;

static void golden_free(golden *g) {
    pr_free(g->tokens);
    for (size_t i = 0; i < g->n_rows; i++) pr_free(g->rows[i].v);
    *g = (golden){0};
}

static void read_ids(FILE *f, int32_t *out, size_t n) {
    for (size_t i = 0; i < n; i++) assert_int_equal(fscanf(f, "%d", &out[i]), 1);
}

static void read_floats(FILE *f, float *out, size_t n) {
    for (size_t i = 0; i < n; i++) assert_int_equal(fscanf(f, "%f", &out[i]), 1);
}

static void read_tokens(FILE *f, golden *g) {
    assert_int_equal(fscanf(f, "%zu", &g->n_tokens), 1);
    g->tokens = pr_calloc(PR_TAG_MISC, g->n_tokens, sizeof *g->tokens);
    assert_non_null(g->tokens);
    read_ids(f, g->tokens, g->n_tokens);
}

static FILE *golden_open(const char *name) {
    char path[256];
    snprintf(path, sizeof path, GOLDENS "%s.txt", name);
    FILE *f = fopen(path, "r");
    if (!f) fail_msg("%s: %s (tests run in the root of the repository)", path, strerror(errno));
    return f;
}

static void golden_read(const char *name, golden *g) {
    FILE *f = golden_open(name);
    char word[16];
    float max = 0;
    *g = (golden){0};
    while (fscanf(f, "%15s", word) == 1) {
        if (word[0] == '#') {
            assert_int_equal(fscanf(f, "%*[^\n]"), 0);
        } else if (strcmp(word, "tokens") == 0) {
            read_tokens(f, g);
        } else if (strcmp(word, "max") == 0) {
            assert_int_equal(fscanf(f, "%*u %f", &max), 1);
        } else {
            assert_string_equal(word, "row");
            assert_true(g->n_rows < ROWS_MAX);
            golden_row *r = &g->rows[g->n_rows++];
            assert_int_equal(fscanf(f, "%u %u %u", &r->pos, &r->stride, &r->n), 3);
            r->max = max;
            r->v = pr_calloc(PR_TAG_MISC, r->n, sizeof *r->v);
            assert_non_null(r->v);
            read_floats(f, r->v, r->n);
        }
    }
    fclose(f);
    assert_true(g->n_tokens > 0 && g->n_rows > 0);
}

/* The chats of smollm2-greedy.txt; returns how many. */
static size_t greedy_read(golden chats[PROMPTS_MAX]) {
    FILE *f = golden_open("smollm2-greedy");
    char word[16];
    unsigned n_greedy, n_gaps;
    size_t n = 0;
    while (fscanf(f, "%15s", word) == 1) {
        if (word[0] == '#') {
            assert_int_equal(fscanf(f, "%*[^\n]"), 0);
            continue;
        }
        assert_string_equal(word, "user");
        assert_true(n < PROMPTS_MAX);
        golden *g = &chats[n++];
        *g = (golden){0};
        assert_int_equal(fscanf(f, " %127[^\n] tokens", g->user), 1);
        read_tokens(f, g);
        assert_int_equal(fscanf(f, " greedy %u", &n_greedy), 1);
        assert_int_equal(n_greedy, GREEDY_MAX);
        read_ids(f, g->greedy, GREEDY_MAX);
        assert_int_equal(fscanf(f, " gaps %u", &n_gaps), 1);
        assert_int_equal(n_gaps, GREEDY_MAX);
        read_floats(f, g->gaps, GREEDY_MAX);
    }
    fclose(f);
    return n;
}

/* ---- running a model --------------------------------------------------- */

static pr_engine *open_or_fail(const char *path, const pr_engine_opts *opts) {
    pr_err err = {0};
    pr_engine *e = NULL;
    if (pr_engine_open(path, opts, &e, &err) != PR_OK) fail_msg("%s: %s", path, err.text);
    return e;
}

static uint32_t vocab_size(const pr_engine *e) {
    pr_engine_info info;
    pr_engine_describe(e, &info);
    return info.n_vocab;
}

/* Logits [n_tokens][n_vocab] of a fresh session; pr_free them. */
static float *all_logits(pr_engine *e, const int32_t *tokens, size_t n_tokens) {
    const size_t n_vocab = vocab_size(e);
    pr_err err = {0};
    pr_session *s = NULL;
    float *out = pr_calloc(PR_TAG_MISC, n_tokens * n_vocab, sizeof *out);
    assert_non_null(out);
    if (pr_session_open(e, &s, &err) != PR_OK) fail_msg("%s", err.text);
    const pr_run run = {s, tokens, (uint32_t)n_tokens, (uint32_t)n_tokens};
    if (pr_engine_step(e, &run, 1, &err) != PR_OK) fail_msg("%s", err.text);
    for (size_t i = 0; i < n_tokens; i++) memcpy(out + i * n_vocab, pr_engine_logits(e, i), n_vocab * sizeof *out);
    pr_session_close(s);
    return out;
}

/* Largest difference over all golden logits, each against its row's largest logit; huge for a NaN. */
static double worst_difference(const golden *g, const float *logits, size_t n_vocab) {
    double worst = 0;
    for (size_t r = 0; r < g->n_rows; r++) {
        const golden_row *row = &g->rows[r];
        assert_int_equal(row->n, (n_vocab + row->stride - 1) / row->stride);
        for (size_t i = 0; i < row->n; i++) {
            const float got = logits[row->pos * n_vocab + i * row->stride];
            const double d = isfinite(got) ? fabs((double)got - (double)row->v[i]) / (double)row->max : HUGE_VAL;
            if (d > worst) worst = d;
        }
    }
    return worst;
}

/* Says one line about a model file and returns whether it agrees with golden `name`. */
static bool agrees(const char *name, const char *label, const char *path) {
    golden g;
    golden_read(name, &g);
    pr_engine *e = open_or_fail(path, &(pr_engine_opts){.exact = true, .logits_max = LOGITS_MAX});
    float *logits = all_logits(e, g.tokens, g.n_tokens);
    const double worst = worst_difference(&g, logits, vocab_size(e));
    print_message("  %-18s %-16s %.1e%s\n", name, label, worst, worst > EXACT_BOUND ? "  TOO FAR" : "");
    pr_free(logits);
    pr_engine_close(e);
    golden_free(&g);
    return worst <= EXACT_BOUND;
}

/* Mean over rows of KL(p || q) in nats, and the largest |p - q| logit difference relative to p's largest logit. */
static double mean_kl(const float *p, const float *q, size_t n_rows, size_t n_vocab, double *worst) {
    double sum = 0;
    *worst = 0;
    for (size_t r = 0; r < n_rows; r++, p += n_vocab, q += n_vocab) {
        double pmax = -HUGE_VAL, qmax = -HUGE_VAL, psum = 0, qsum = 0, kl = 0, far = 0, largest = 0;
        for (size_t i = 0; i < n_vocab; i++) {
            pmax = fmax(pmax, (double)p[i]);
            qmax = fmax(qmax, (double)q[i]);
            largest = fmax(largest, fabs((double)p[i]));
            far = fmax(far, fabs((double)p[i] - (double)q[i]));
        }
        for (size_t i = 0; i < n_vocab; i++) {
            psum += exp((double)p[i] - pmax);
            qsum += exp((double)q[i] - qmax);
        }
        for (size_t i = 0; i < n_vocab; i++) {
            const double lp = (double)p[i] - pmax - log(psum), lq = (double)q[i] - qmax - log(qsum);
            kl += exp(lp) * (lp - lq);
        }
        sum += kl;
        *worst = fmax(*worst, far / largest);
    }
    return sum / (double)n_rows;
}

/* The default path against the exact one on a golden's tokens. */
static void check_default_path(const char *name, const char *path, double kl_bound, double logit_bound) {
    golden g;
    golden_read(name, &g);
    pr_engine *exact = open_or_fail(path, &(pr_engine_opts){.exact = true, .logits_max = LOGITS_MAX});
    float *p = all_logits(exact, g.tokens, g.n_tokens);
    const uint32_t n_vocab = vocab_size(exact);
    pr_engine_close(exact);
    pr_engine *fast = open_or_fail(path, &(pr_engine_opts){.logits_max = LOGITS_MAX});
    float *q = all_logits(fast, g.tokens, g.n_tokens);
    pr_engine_close(fast);
    double worst;
    const double kl = mean_kl(p, q, g.n_tokens, n_vocab, &worst);
    print_message("  %-18s default path: KL %.2e, logits %.2e\n", name, kl, worst);
    assert_true(kl >= -1e-9 && kl < kl_bound);
    assert_true(worst < logit_bound);
    pr_free(p);
    pr_free(q);
    golden_free(&g);
}

/* ---- synthetic models -------------------------------------------------- */

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/precis-golden-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    static const char *const files[] = {"model.gguf", "config.json", "tokenizer.json", "model.safetensors"};
    char path[128];
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        unlink(path);
    }
    return rmdir(folder);
}

static bool gguf_agrees(const pr_tiny_spec *spec, pr_dtype dtype) {
    pr_err err = {0};
    char path[128], label[32];
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    snprintf(label, sizeof label, "gguf %s", pr_dtype_get(dtype)->name);
    if (pr_tiny_write_gguf(spec, dtype, path, &err) != PR_OK) fail_msg("%s", err.text);
    return agrees(spec->name, label, path);
}

static bool safetensors_agrees(const pr_tiny_spec *spec, pr_dtype dtype) {
    pr_err err = {0};
    char label[32];
    snprintf(label, sizeof label, "safetensors %s", pr_dtype_get(dtype)->name);
    if (pr_tiny_write_safetensors(spec, dtype, folder, &err) != PR_OK) fail_msg("%s", err.text);
    return agrees(spec->name, label, folder);
}

static void every_variant_as_gguf(void **state) {
    (void)state;
    bool good = true;
    for (size_t i = 0; i < pr_tiny_n_specs; i++) good &= gguf_agrees(&pr_tiny_specs[i], PR_F32);
    assert_true(good);
}

static void every_variant_as_safetensors(void **state) {
    (void)state;
    bool good = true;
    for (size_t i = 0; i < pr_tiny_n_specs; i++) good &= safetensors_agrees(&pr_tiny_specs[i], PR_F32);
    assert_true(good);
}

/* The same numbers in another type are the same model. */
static void every_lossless_type(void **state) {
    (void)state;
    bool good = true;
    for (size_t i = 0; i < 2; i++) {
        good &= gguf_agrees(&pr_tiny_specs[i], PR_F16);
        good &= gguf_agrees(&pr_tiny_specs[i], PR_BF16);
        good &= gguf_agrees(&pr_tiny_specs[i], PR_Q8_0);
        good &= safetensors_agrees(&pr_tiny_specs[i], PR_F16);
        good &= safetensors_agrees(&pr_tiny_specs[i], PR_BF16);
    }
    assert_true(good);
}

static void default_path_of_a_synthetic_model(void **state) {
    (void)state;
    pr_err err = {0};
    char path[128];
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    if (pr_tiny_write_gguf(&pr_tiny_specs[0], PR_Q8_0, path, &err) != PR_OK) fail_msg("%s", err.text);
    check_default_path(pr_tiny_specs[0].name, path, 2e-3, 5e-2);
}

/* ---- trained models ---------------------------------------------------- */

/* Path of a file of the shared test data; false (having said so) when it is not there. */
static bool have_data(const char *file, char path[512]) {
    const char *root = getenv("PRECIS_TEST_DATA");
    snprintf(path, 512, "%s/%s", root ? root : "../shared/data", file);
    if (pr_path_exists(path)) return true;
    print_message("SKIPPED no %s (set PRECIS_TEST_DATA)\n", path);
    return false;
}

static void trained_model(const char *name, const char *const *files, size_t n) {
    char path[512];
    bool good = true;
    for (size_t i = 0; i < n; i++) {
        if (!have_data(files[i], path)) skip();
        good &= agrees(name, strrchr(files[i], '.') ? strrchr(files[i], '.') + 1 : "safetensors", path);
    }
    assert_true(good);
}

static void stories260k(void **state) {
    (void)state;
    trained_model("stories260K", (const char *[]){"models/stories260K/stories260K-f32.gguf"}, 1);
}

static void tinystories(void **state) {
    (void)state;
    trained_model("tinystories-656k",
                  (const char *[]){"models/tinystories-656k", "models/tinystories-656k/tinystories-656k-f32.gguf"}, 2);
}

static void prose(void **state) {
    (void)state;
    trained_model("prose-6m", (const char *[]){"models/prose-6m/prose-6m-f16.gguf"}, 1);
}

/* ---- the default model ------------------------------------------------- */

static const char *default_model(void) {
    const char *path = getenv("PRECIS_TEST_MODEL");
    if (path && pr_path_exists(path)) return path;
    print_message("SKIPPED no default model (set PRECIS_TEST_MODEL to SmolLM2-135M-Instruct.Q4_1.gguf)\n");
    return NULL;
}

static void smollm2_logits(void **state) {
    (void)state;
    const char *path = default_model();
    if (!path) skip();
    assert_true(agrees("smollm2", "gguf q4_1", path));
}

static void smollm2_default_path(void **state) {
    (void)state;
    const char *path = default_model();
    if (!path) skip();
    check_default_path("smollm2", path, 5e-3, 0.15);
}

static int32_t best_token(const float *logits, uint32_t n_vocab) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n_vocab; i++) {
        if (logits[i] > logits[best]) best = i;
    }
    return (int32_t)best;
}

/* The chat as this model's template and tokenizer make it is the reference's prompt. */
static void check_prompt(const pr_engine *e, const golden *g) {
    pr_err err = {0};
    char *text = NULL;
    int32_t ids[256];
    size_t n = 0;
    const pr_message message = {"user", g->user};
    if (pr_engine_chat(e, NULL, &message, 1, true, &text, &err) != PR_OK) fail_msg("%s", err.text);
    if (pr_engine_tokenize(e, text, strlen(text), PR_TOKENIZE_SPECIAL, ids, 256, &n, &err) != PR_OK)
        fail_msg("%s", err.text);
    pr_text_free(text);
    assert_int_equal(n, g->n_tokens);
    assert_memory_equal(ids, g->tokens, n * sizeof ids[0]);
}

typedef struct chat {
    pr_session *session;
    int32_t next;  /* greedy choice to be fed */
    size_t n_same; /* tokens that equal the reference's */
    bool parted;
} chat;

/* Take up the greedy choice of a row; a choice other than the reference's ends the chat and must have been a near tie. */
static void take(chat *c, const golden *g, const float *logits, uint32_t n_vocab) {
    c->next = best_token(logits, n_vocab);
    if (c->next == g->greedy[c->n_same]) {
        c->n_same++;
        return;
    }
    c->parted = true;
    const float gap = g->gaps[c->n_same];
    if (gap >= GAP_BOUND) {
        fail_msg("\"%s\": token %zu is %d, the reference has %d, best by %g", g->user, c->n_same, c->next,
                 g->greedy[c->n_same], (double)gap);
    }
}

/* One step for all chats that still follow the reference; false when there is none. */
static bool step_chats(pr_engine *e, chat *chats, const golden *goldens, size_t n, uint32_t n_vocab) {
    pr_run runs[PROMPTS_MAX];
    size_t who[PROMPTS_MAX], n_runs = 0;
    pr_err err = {0};
    for (size_t i = 0; i < n; i++) {
        if (chats[i].parted || chats[i].n_same == GREEDY_MAX) continue;
        who[n_runs] = i;
        runs[n_runs++] = (pr_run){chats[i].session, &chats[i].next, 1, 1};
    }
    if (n_runs == 0) return false;
    if (pr_engine_step(e, runs, n_runs, &err) != PR_OK) fail_msg("%s", err.text);
    for (size_t i = 0; i < n_runs; i++) take(&chats[who[i]], &goldens[who[i]], pr_engine_logits(e, i), n_vocab);
    return true;
}

static void smollm2_greedy_text(void **state) {
    (void)state;
    const char *path = default_model();
    if (!path) skip();
    static golden goldens[PROMPTS_MAX];
    chat chats[PROMPTS_MAX] = {0};
    pr_err err = {0};
    const size_t n = greedy_read(goldens);
    assert_int_equal(n, PROMPTS_MAX);
    pr_engine *e = open_or_fail(
        path, &(pr_engine_opts){.exact = true, .context_max = 256, .kv_bytes_max = (size_t)256 << 20});
    const uint32_t n_vocab = vocab_size(e);
    for (size_t i = 0; i < n; i++) {
        check_prompt(e, &goldens[i]);
        if (pr_session_open(e, &chats[i].session, &err) != PR_OK) fail_msg("%s", err.text);
        if (pr_session_prefill(chats[i].session, goldens[i].tokens, goldens[i].n_tokens, NULL, &err) != PR_OK) {
            fail_msg("%s", err.text);
        }
        take(&chats[i], &goldens[i], pr_engine_logits(e, 0), n_vocab);
    }
    while (step_chats(e, chats, goldens, n, n_vocab)) {
    }
    size_t n_same = 0;
    for (size_t i = 0; i < n; i++) {
        n_same += chats[i].n_same;
        pr_session_close(chats[i].session);
        golden_free(&goldens[i]);
    }
    print_message("  %zu of %zu greedy tokens equal\n", n_same, n * GREEDY_MAX);
    pr_engine_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_variant_as_gguf),
        cmocka_unit_test(every_variant_as_safetensors),
        cmocka_unit_test(every_lossless_type),
        cmocka_unit_test(default_path_of_a_synthetic_model),
        cmocka_unit_test(stories260k),
        cmocka_unit_test(tinystories),
        cmocka_unit_test(prose),
        cmocka_unit_test(smollm2_logits),
        cmocka_unit_test(smollm2_default_path),
        cmocka_unit_test(smollm2_greedy_text),
    };
    return cmocka_run_group_tests_name("golden", tests, make_folder, remove_folder);
}
