/*
 * precis eval: perplexity of a text, and distance from a reference.
 *
 * The definition. The text is tokenized once, as text (special tokens written in
 * it are not recognised), and cut to its first N tokens. It is fed in chunks of
 * `window` tokens, each to an empty session; a model that wants a token at the
 * start of a text gets it in every chunk, as one of the `window`. Every position
 * of a chunk but its first is scored: perplexity is exp of the mean of
 * -log p(token). The last chunk may be shorter; one token alone is dropped.
 *
 * Against a reference both models see the same tokens, and at each scored
 * position KL(reference || model) is taken over the whole vocabulary, in nats.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "cmd/commands.h"
#include "cmd/load.h"
#include "cmd/models.h"
#include "cmd/progress.h"
#include "cmd/term.h"
#include "cmd/text.h"
#include "sample/sample.h"

enum { TEXT_BYTES_MAX = 1 << 30, WINDOW_DEFAULT = 512, STEP_ROWS = 64, BOS_MAX = 8 };

typedef struct model {
    pr_engine *engine;
    pr_engine_info info;
    pr_session *session;
    double nll, nll_squares; /* sums over the scored positions */
} model;

typedef struct eval {
    pr_load load;
    const char *text_name, *reference_name;
    bool reference_exact, window_given, json;
    uint32_t n_tokens_max, window;
    model under_test, reference; /* reference.engine is NULL when there is none */
    int32_t bos[BOS_MAX];
    size_t n_bos;
    int32_t *ids;
    size_t n_ids;
    uint64_t n_scored, n_agree, n_chunks;
    float *kl; /* of the scored positions */
    double kl_sum;
    pr_err err;
} eval;

/* ---- arithmetic ---- */

static double log_sum_exp(const float *x, size_t n) {
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

static void add_score(model *m, double nll) {
    m->nll += nll;
    m->nll_squares += nll * nll;
}

static void score(eval *e, size_t row, int32_t next) {
    size_t n = e->under_test.info.n_vocab;
    const float *q = pr_engine_logits(e->under_test.engine, row);
    double q_sum = log_sum_exp(q, n);
    add_score(&e->under_test, q_sum - (double)q[next]);
    if (e->reference.engine) {
        const float *p = pr_engine_logits(e->reference.engine, row);
        double p_sum = log_sum_exp(p, n), kl = divergence(p, p_sum, q, q_sum, n);
        add_score(&e->reference, p_sum - (double)p[next]);
        e->kl[e->n_scored] = (float)kl;
        e->kl_sum += kl;
        e->n_agree += pr_sample_greedy(p, n) == pr_sample_greedy(q, n);
    }
    e->n_scored++;
}

/* ---- feeding ---- */

static pr_status feed(model *m, const int32_t *ids, uint32_t n, pr_err *err) {
    if (!m->engine) return PR_OK;
    return pr_engine_step(m->engine, &(pr_run){m->session, ids, n, n}, 1, err);
}

static pr_status restart(const model *m, pr_err *err) {
    return m->engine ? pr_session_truncate(m->session, 0, err) : PR_OK;
}

/* One chunk: ids[n], beginning with what the model wants there. */
static pr_status feed_chunk(eval *e, const int32_t *ids, size_t n) {
    pr_status status = restart(&e->under_test, &e->err);
    if (status == PR_OK) status = restart(&e->reference, &e->err);
    for (size_t at = 0; at + 1 < n && status == PR_OK; at += STEP_ROWS) { /* the last token predicts nothing */
        uint32_t rows = n - 1 - at < STEP_ROWS ? (uint32_t)(n - 1 - at) : STEP_ROWS;
        if (*pr__interrupt()) return pr_fail(&e->err, PR_ERR_CANCELLED, "stopped");
        status = feed(&e->under_test, ids + at, rows, &e->err);
        if (status == PR_OK) status = feed(&e->reference, ids + at, rows, &e->err);
        for (uint32_t r = 0; r < rows && status == PR_OK; r++) score(e, r, ids[at + r + 1]);
        if (status == PR_OK && !(isfinite(e->under_test.nll) && isfinite(e->reference.nll)))
            return pr_fail(&e->err, PR_ERR_FORMAT,
                           "the logits are not finite numbers: the model's weights are damaged");
    }
    return status;
}

static pr_status feed_all(eval *e) {
    pr_progress bar;
    pr_status status = PR_OK;
    size_t body = e->window - e->n_bos;
    int32_t *chunk = pr_calloc(PR_TAG_MISC, e->window, sizeof *chunk);
    if (!chunk) return pr_fail_nomem(&e->err, "a chunk", e->window * sizeof *chunk);
    memcpy(chunk, e->bos, e->n_bos * sizeof *chunk);
    pr__progress_begin(&bar, "evaluating", false, 0);
    for (size_t at = 0; at < e->n_ids && status == PR_OK; at += body) {
        size_t n = e->n_ids - at < body ? e->n_ids - at : body;
        memcpy(chunk + e->n_bos, e->ids + at, n * sizeof *chunk);
        status = feed_chunk(e, chunk, e->n_bos + n);
        e->n_chunks += e->n_bos + n > 1;
        pr__progress_update(&bar, at + n, e->n_ids);
    }
    pr__progress_end(&bar);
    pr_free(chunk);
    return status;
}

/* ---- preparing ---- */

/* The reference keeps keys and values at full length, so that --kv q8 can be held against it. */
static pr_status open_one(eval *e, const char *name, bool is_reference, model *m) {
    pr_load load = e->load;
    if (is_reference) load.opts.kv_type = PR_KV_F16;
    if (is_reference && e->reference_exact) load.opts.exact = true;
    pr_status status = pr__load_open(&load, name, &m->engine, &e->err);
    if (status == PR_OK) pr_engine_describe(m->engine, &m->info);
    return status == PR_OK ? pr_session_open(m->engine, &m->session, &e->err) : status;
}

/* The window is the context; without --window it is at most what the model was made for. */
static pr_status choose_window(eval *e, const char *name) {
    char *path = NULL;
    pr_estimate *estimate = NULL;
    pr_engine_info info;
    pr_status status = pr__load_check(&e->load, &e->err);
    if (status == PR_OK) status = pr__models_resolve(name, &path, &e->err);
    if (status == PR_OK) status = pr_engine_estimate(path, &e->load.opts, &estimate, &e->err);
    if (status == PR_OK) {
        pr_estimate_describe(estimate, &info);
        if (!e->window_given && e->window > info.context_train) e->window = info.context_train;
        if (e->window < 2) status = pr_fail(&e->err, PR_ERR_ARG, "--window: at least 2 tokens");
        if (e->window > info.context_train) {
            status = pr_fail(&e->err, PR_ERR_ARG, "--window: %u is more than the %u tokens this model was made for",
                             e->window, info.context_train);
        }
    }
    e->load.opts.context_max = e->window;
    e->load.opts.batch_max = e->load.opts.logits_max = STEP_ROWS;
    pr_estimate_close(estimate);
    pr_free(path);
    return status;
}

static pr_status open_models(eval *e, const char *name) {
    bool reference = e->reference_name || e->reference_exact;
    pr_status status = choose_window(e, name);
    if (status == PR_OK) status = open_one(e, name, false, &e->under_test);
    if (status == PR_OK && reference) {
        status = open_one(e, e->reference_name ? e->reference_name : name, true, &e->reference);
    }
    if (status == PR_OK && reference && e->reference.info.n_vocab != e->under_test.info.n_vocab) {
        status = pr_fail(&e->err, PR_ERR_ARG,
                         "--reference has a vocabulary of %u tokens, the model one of %u: they cannot be compared",
                         e->reference.info.n_vocab, e->under_test.info.n_vocab);
    }
    return status;
}

static pr_status read_tokens(eval *e) {
    char *text = NULL;
    size_t len = 0;
    pr_status status = pr_file_slurp(e->text_name, TEXT_BYTES_MAX, &text, &len, &e->err);
    if (status == PR_OK)
        status = pr_engine_tokenize(e->under_test.engine, "", 0, PR_TOKENIZE_BOS, e->bos, BOS_MAX, &e->n_bos, &e->err);
    if (status == PR_OK && !(e->ids = pr_calloc(PR_TAG_MISC, len + 16, sizeof *e->ids)))
        status = pr_fail_nomem(&e->err, "the tokens", len);
    if (status == PR_OK)
        status = pr_engine_tokenize(e->under_test.engine, text, len, 0, e->ids, len + 16, &e->n_ids, &e->err);
    pr_free(text);
    if (status != PR_OK) return status;
    if (e->n_tokens_max && e->n_ids > e->n_tokens_max) e->n_ids = e->n_tokens_max;
    if (e->n_ids < 2) return pr_fail(&e->err, PR_ERR_ARG, "%s: less than two tokens of text", e->text_name);
    if (e->window <= e->n_bos) return pr_fail(&e->err, PR_ERR_ARG, "--window: at least %zu tokens", e->n_bos + 1);
    if (!e->reference.engine) return PR_OK;
    size_t n_max = e->n_ids + (e->n_ids / (e->window - e->n_bos) + 1) * e->n_bos; /* all fed tokens */
    e->kl = pr_calloc(PR_TAG_MISC, n_max, sizeof *e->kl);
    return e->kl ? PR_OK : pr_fail_nomem(&e->err, "the divergences", n_max * sizeof *e->kl);
}

/* ---- telling ---- */

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

typedef struct figures {
    double nll, perplexity, error; /* error: one standard error of the perplexity */
} figures;

static figures sum_up(const model *m, uint64_t n_scored) {
    double n = (double)n_scored, mean = m->nll / n, variance = m->nll_squares / n - mean * mean;
    figures f = {.nll = mean, .perplexity = exp(mean)};
    f.error = f.perplexity * sqrt((variance > 0 ? variance : 0) / n);
    return f;
}

/* The value that 99 of 100 positions do not exceed; sorts kl. */
static double percentile_99(eval *e) {
    qsort(e->kl, e->n_scored, sizeof *e->kl, by_value);
    return (double)e->kl[(e->n_scored * 99 + 99) / 100 - 1];
}

static void print_text(eval *e, pr_str *s) {
    figures f = sum_up(&e->under_test, e->n_scored);
    pr_str_printf(s, "text        %s: %zu tokens in %llu chunk%s of %u%s\n", e->text_name, e->n_ids,
                  (unsigned long long)e->n_chunks, e->n_chunks == 1 ? "" : "s", e->window,
                  e->n_bos ? ", each with the start token" : "");
    pr_str_printf(s, "perplexity  %.4f +- %.4f over %llu tokens\n", f.perplexity, f.error,
                  (unsigned long long)e->n_scored);
    if (!e->reference.engine) return;
    figures r = sum_up(&e->reference, e->n_scored);
    double n = (double)e->n_scored;
    pr_str_printf(s, "reference   %.4f +- %.4f: %s%s\n", r.perplexity, r.error, e->reference.info.path,
                  e->reference_exact ? ", exact" : "");
    pr_str_printf(s, "ratio       %.5f\n", f.perplexity / r.perplexity);
    pr_str_printf(s, "KL          mean %.6f, 99th percentile %.6f\n", e->kl_sum / n, percentile_99(e));
    pr_str_printf(s, "agreement   %.2f%% of the most likely tokens are the same\n", 100 * (double)e->n_agree / n);
}

static void print_json(eval *e, pr_str *s) {
    figures f = sum_up(&e->under_test, e->n_scored);
    pr__json_open(s);
    pr__json_text(s, "path", e->under_test.info.path);
    pr__json_text(s, "text", e->text_name);
    pr__json_u64(s, "tokens", e->n_ids);
    pr__json_u64(s, "window", e->window);
    pr__json_u64(s, "chunks", e->n_chunks);
    pr__json_u64(s, "scored", e->n_scored);
    pr__json_f64(s, "nll", f.nll);
    pr__json_f64(s, "perplexity", f.perplexity);
    pr__json_f64(s, "perplexity_error", f.error);
    if (e->reference.engine) {
        figures r = sum_up(&e->reference, e->n_scored);
        double n = (double)e->n_scored;
        pr__json_text(s, "reference", e->reference.info.path);
        pr__json_f64(s, "reference_perplexity", r.perplexity);
        pr__json_f64(s, "kl_mean", e->kl_sum / n);
        pr__json_f64(s, "kl_99", percentile_99(e));
        pr__json_f64(s, "top1_agreement", (double)e->n_agree / n);
    }
    pr__json_close(s);
    pr_str_puts(s, "\n");
}

/* ---- the command ---- */

static void close_all(eval *e) {
    pr_session_close(e->under_test.session);
    pr_session_close(e->reference.session);
    pr_engine_close(e->under_test.engine);
    pr_engine_close(e->reference.engine);
    pr_free(e->ids);
    pr_free(e->kl);
}

int pr__cmd_eval(int argc, const char **argv) {
    eval e = {.window = WINDOW_DEFAULT};
    pr_str out = {0};
    pr_args args;
    int code;
    const pr_flag flags[] = {
        {"text", 0, PR_FLAG_TEXT, "FILE", "the text", &e.text_name, NULL, NULL},
        {"tokens", 0, PR_FLAG_U32, "N", "only its first N tokens", &e.n_tokens_max, NULL, NULL},
        {"window", 0, PR_FLAG_U32, "N", "tokens of a chunk (512)", &e.window, NULL, &e.window_given},
        {"reference", 0, PR_FLAG_TEXT, "MODEL", "compare with another model of the same vocabulary", &e.reference_name,
         NULL, NULL},
        {"reference-exact", 0, PR_FLAG_BOOL, NULL, "the reference (else this model) runs with --exact",
         &e.reference_exact, NULL, NULL},
        {"json", 0, PR_FLAG_BOOL, NULL, "for scripts", &e.json, NULL, NULL},
    };
    const pr_flag_group groups[] = {{NULL, flags, sizeof flags / sizeof *flags, false}, pr__load_flags(&e.load)};
    const pr_usage usage = {
        "eval",
        "MODEL --text FILE",
        "Perplexity of a text: it is cut into chunks of a window, each fed afresh (with\n"
        "the model's start token if it wants one), and every token of a chunk but the\n"
        "first is scored. With a reference: mean and 99th percentile of\n"
        "KL(reference || model) in nats, and how often the most likely token is the same.\n",
        groups,
        2,
        1,
        1,
    };
    if (!pr__cmd_begin(&usage, argc, argv, &args, &code)) return code;
    pr_status status = e.text_name ? PR_OK : pr_fail(&e.err, PR_ERR_ARG, "--text FILE is missing");
    if (status == PR_OK) status = open_models(&e, args.arg[0]);
    if (status == PR_OK) status = read_tokens(&e);
    if (status == PR_OK) status = feed_all(&e);
    if (status != PR_OK) code = pr__cmd_fail(&e.err);
    else if (e.json) print_json(&e, &out);
    else print_text(&e, &out);
    if (status == PR_OK) code = pr__cmd_print(&out);
    close_all(&e);
    return code;
}
