/*
 * precis eval: perplexity of a text, and distance from a reference.
 *
 * The text is cut into chunks as cmd/eval.h says; perplexity is exp of the mean
 * of -log p(token) over the scored positions. The last chunk may be shorter; one
 * token alone is dropped.
 *
 * Against a reference both models see the same tokens, and at each scored
 * position KL(reference || model) is taken over the whole vocabulary, in nats.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "cmd/commands.h"
#include "cmd/elastic.h"
#include "cmd/eval.h"
#include "cmd/models.h"
#include "cmd/progress.h"
#include "cmd/term.h"
#include "cmd/text.h"

enum { TEXT_BYTES_MAX = 1 << 30, WINDOW_DEFAULT = 512 };

/* ---- chunks ---- */

size_t pr__eval_chunk(pr_eval *e, size_t *at) {
    size_t body = e->window - e->n_bos, n = e->n_ids - *at < body ? e->n_ids - *at : body;
    if (n == 0) return 0;
    memcpy(e->chunk, e->bos, e->n_bos * sizeof *e->chunk);
    memcpy(e->chunk + e->n_bos, e->ids + *at, n * sizeof *e->chunk);
    *at += n;
    return e->n_bos + n;
}

size_t pr__eval_scored_max(const pr_eval *e) {
    return e->n_ids + (e->n_ids / (e->window - e->n_bos) + 1) * e->n_bos; /* all fed tokens */
}

pr_status pr__eval_feed(const pr_eval_model *m, const int32_t *ids, uint32_t n, pr_err *err) {
    if (!m->engine) return PR_OK;
    if (*pr__interrupt()) return pr_fail(err, PR_ERR_CANCELLED, "stopped");
    return pr_engine_step(m->engine, &(pr_run){m->session, ids, n, n}, 1, err);
}

pr_status pr__eval_restart(const pr_eval_model *m, pr_err *err) {
    return m->engine ? pr_session_truncate(m->session, 0, err) : PR_OK;
}

/* ---- one model, perhaps against another ---- */

static void score(pr_eval *e, size_t row, int32_t next) {
    size_t n = e->under_test.info.n_vocab;
    const float *q = pr_engine_logits(e->under_test.engine, row);
    pr_row_sum q_sum = pr__row_sum(q, n);
    pr__tally_add(&e->under_test.tally, q_sum.log_sum - (double)q[next]);
    if (!e->reference.engine) return;
    const float *p = pr_engine_logits(e->reference.engine, row);
    pr_row_sum p_sum = pr__row_sum(p, n);
    pr__tally_add(&e->reference.tally, p_sum.log_sum - (double)p[next]);
    pr__tally_compare(&e->under_test.tally, p, p_sum, q, q_sum, n);
}

static pr_status feed_chunk(pr_eval *e, size_t n) {
    pr_status status = pr__eval_restart(&e->under_test, &e->err);
    if (status == PR_OK) status = pr__eval_restart(&e->reference, &e->err);
    for (size_t at = 0; at + 1 < n && status == PR_OK; at += PR_EVAL_ROWS) { /* the last token predicts nothing */
        uint32_t rows = n - 1 - at < PR_EVAL_ROWS ? (uint32_t)(n - 1 - at) : PR_EVAL_ROWS;
        status = pr__eval_feed(&e->under_test, e->chunk + at, rows, &e->err);
        if (status == PR_OK) status = pr__eval_feed(&e->reference, e->chunk + at, rows, &e->err);
        for (uint32_t r = 0; r < rows && status == PR_OK; r++) score(e, r, e->chunk[at + r + 1]);
        if (status == PR_OK && !(isfinite(e->under_test.tally.nll) && isfinite(e->reference.tally.nll)))
            return pr_fail(&e->err, PR_ERR_FORMAT,
                           "the logits are not finite numbers: the model's weights are damaged");
    }
    return status;
}

static pr_status feed_all(pr_eval *e, uint64_t *n_chunks) {
    pr_progress bar;
    pr_status status = PR_OK;
    size_t at = 0, n;
    if (e->reference.engine) status = pr__tally_reserve(&e->under_test.tally, pr__eval_scored_max(e), &e->err);
    pr__progress_begin(&bar, "evaluating", false, 0);
    while (status == PR_OK && (n = pr__eval_chunk(e, &at)) > 0) {
        status = feed_chunk(e, n);
        *n_chunks += n > 1;
        pr__progress_update(&bar, at, e->n_ids);
    }
    pr__progress_end(&bar);
    return status;
}

/* ---- preparing ---- */

/* The reference keeps keys and values at full length, so that --kv q8 can be held against it. */
static pr_status open_one(pr_eval *e, const char *name, bool is_reference, pr_eval_model *m) {
    pr_load load = e->load;
    if (is_reference) {
        load.opts.kv_type = (pr_kv_types){PR_KV_F16, PR_KV_F16};
        load.opts.level_given = false;
        load.opts.weights_budget = 0;
        load.memory = 0;
    }
    if (is_reference && e->reference_exact) load.opts.exact = true;
    pr_status status = pr__load_open(&load, name, &m->engine, &e->err);
    if (status == PR_OK) pr_engine_describe(m->engine, &m->info);
    return status == PR_OK ? pr_session_open(m->engine, &m->session, &e->err) : status;
}

/* The window is the context; without --window it is at most what the model was made for. */
static pr_status choose_window(pr_eval *e, const char *name) {
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
    e->load.opts.batch_max = e->load.opts.logits_max = PR_EVAL_ROWS;
    pr_estimate_close(estimate);
    pr_free(path);
    return status;
}

static pr_status open_models(pr_eval *e, const char *name) {
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

static pr_status read_tokens(pr_eval *e) {
    char *text = NULL;
    size_t len = 0, max = 0;
    pr_status status = pr_file_slurp(e->text_name, TEXT_BYTES_MAX, &text, &len, &e->err);
    max = 3 * len + 16; /* a space may become U+2581, and that three byte tokens */
    if (status == PR_OK)
        status = pr_engine_tokenize(e->under_test.engine, "", 0, PR_TOKENIZE_BOS, e->bos, PR_EVAL_BOS_MAX, &e->n_bos,
                                    &e->err);
    if (status == PR_OK && !(e->ids = pr_calloc(PR_TAG_MISC, max, sizeof *e->ids)))
        status = pr_fail_nomem(&e->err, "the tokens", len);
    if (status == PR_OK)
        status = pr_engine_tokenize(e->under_test.engine, text, len, 0, e->ids, max, &e->n_ids, &e->err);
    pr_free(text);
    if (status != PR_OK) return status;
    if (e->n_tokens_max && e->n_ids > e->n_tokens_max) e->n_ids = e->n_tokens_max;
    if (e->n_ids < 2) return pr_fail(&e->err, PR_ERR_ARG, "%s: less than two tokens of text", e->text_name);
    if (e->window <= e->n_bos) return pr_fail(&e->err, PR_ERR_ARG, "--window: at least %zu tokens", e->n_bos + 1);
    e->chunk = pr_calloc(PR_TAG_MISC, e->window, sizeof *e->chunk);
    return e->chunk ? PR_OK : pr_fail_nomem(&e->err, "a chunk", e->window * sizeof *e->chunk);
}

/* ---- telling ---- */

static void print_text(pr_eval *e, uint64_t n_chunks, pr_str *s) {
    pr_figures f = pr__tally_figures(&e->under_test.tally);
    pr_str_line(s, "text        %s: %zu tokens in %llu chunk%s of %u%s", e->text_name, e->n_ids,
                (unsigned long long)n_chunks, n_chunks == 1 ? "" : "s", e->window,
                e->n_bos ? ", each with the start token" : "");
    pr_str_printf(s, "perplexity  %.4f +- %.4f over %llu tokens\n", f.perplexity, f.error,
                  (unsigned long long)e->under_test.tally.n);
    if (!e->reference.engine) return;
    pr_figures r = pr__tally_figures(&e->reference.tally);
    pr_str_line(s, "reference   %.4f +- %.4f: %s%s", r.perplexity, r.error, e->reference.info.path,
                e->reference_exact ? ", exact" : "");
    pr_str_printf(s, "ratio       %.5f\n", f.perplexity / r.perplexity);
    pr_str_printf(s, "KL          mean %.6f, 99th percentile %.6f\n", f.kl_mean, f.kl_99);
    pr_str_printf(s, "agreement   %.2f%% of the most likely tokens are the same\n", 100 * f.agreement);
}

static void print_json(pr_eval *e, uint64_t n_chunks, pr_str *s) {
    pr_figures f = pr__tally_figures(&e->under_test.tally);
    pr__json_open(s);
    pr__json_text(s, "path", e->under_test.info.path);
    pr__json_text(s, "text", e->text_name);
    pr__json_u64(s, "tokens", e->n_ids);
    pr__json_u64(s, "window", e->window);
    pr__json_u64(s, "chunks", n_chunks);
    pr__json_u64(s, "scored", e->under_test.tally.n);
    pr__json_f64(s, "nll", f.nll);
    pr__json_f64(s, "perplexity", f.perplexity);
    pr__json_f64(s, "perplexity_error", f.error);
    pr__elastic_engine_json(s, e->under_test.engine);
    if (e->reference.engine) {
        pr_figures r = pr__tally_figures(&e->reference.tally);
        pr__json_text(s, "reference", e->reference.info.path);
        pr__json_f64(s, "reference_perplexity", r.perplexity);
        pr__json_f64(s, "kl_mean", f.kl_mean);
        pr__json_f64(s, "kl_99", f.kl_99);
        pr__json_f64(s, "top1_agreement", f.agreement);
    }
    pr__json_close(s);
    pr_str_puts(s, "\n");
}

/* ---- the command ---- */

static void close_all(pr_eval *e) {
    pr_eval_model *models[] = {&e->under_test, &e->reference};
    for (size_t i = 0; i < 2; i++) {
        pr_session_close(models[i]->session);
        pr_engine_close(models[i]->engine);
        pr__tally_free(&models[i]->tally);
    }
    pr_free(e->ids);
    pr_free(e->chunk);
}

static pr_status check(pr_eval *e) {
    if (!e->text_name) return pr_fail(&e->err, PR_ERR_ARG, "--text FILE is missing");
    e->levels = e->levels || e->budgets_given;
    if (e->svg_name && !e->levels) return pr_fail(&e->err, PR_ERR_ARG, "--svg draws what --levels measures");
    if (!e->levels || !pr__load_wants_elastic(&e->load)) return PR_OK;
    return pr_fail(&e->err, PR_ERR_ARG, "--levels and --budgets go through all of them: no --%s",
                   e->load.opts.level_given ? "level"
                   : e->load.memory         ? "memory"
                                            : "weights-budget");
}

static pr_status evaluate(pr_eval *e, const char *name, pr_str *out) {
    uint64_t n_chunks = 0;
    pr_status status = check(e);
    if (status == PR_OK) status = open_models(e, name);
    if (status == PR_OK) status = read_tokens(e);
    if (status != PR_OK) return status;
    if (e->levels) return pr__eval_levels(e, out);
    status = feed_all(e, &n_chunks);
    if (status == PR_OK && e->json) print_json(e, n_chunks, out);
    else if (status == PR_OK) print_text(e, n_chunks, out);
    return status;
}

int pr__cmd_eval(int argc, const char **argv) {
    pr_eval e = {.window = WINDOW_DEFAULT};
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
        {"levels", 0, PR_FLAG_BOOL, NULL, "an elastic model at all its levels, against its top", &e.levels, NULL, NULL},
        {"budgets", 0, PR_FLAG_CALL, "LIST", "and at budgets (60M,80M), or so many steps (20)", &e.budgets,
         pr__budgets_parse, &e.budgets_given},
        {"svg", 0, PR_FLAG_TEXT, "FILE", "draw that: KL over bytes", &e.svg_name, NULL, NULL},
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
    pr_status status = evaluate(&e, args.arg[0], &out);
    code = status == PR_OK ? pr__cmd_print(&out) : pr__cmd_fail(&e.err);
    pr_str_free(&out);
    close_all(&e);
    return code;
}
