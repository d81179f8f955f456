/*
 * precis bench --speculate: what drafts are worth, on a real text.
 *
 * Generation as users have it, greedy, so that the answer must be the same with speculation and without: that is checked.
 * Both are run in turns, and the ratio is that of neighbours, since a shared machine changes its speed. The first pair
 * is not counted: in it the policy finds out what pays.
 */
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "cmd/bench.h"
#include "cmd/elastic.h"
#include "cmd/models.h"
#include "cmd/progress.h"
#include "cmd/term.h"
#include "cmd/text.h"

enum { TEXT_BYTES_MAX = 1 << 26 };

typedef struct bench {
    const pr_bench_job *job;
    pr_engine *engine;
    int32_t *prompt; /* [n_prompt] */
    size_t n_prompt, prompt_max;
    int32_t *answer; /* of the first run: every other must be the same */
    size_t n_answer;
    bool same;
    double *with, *without, *ratio;              /* [repeats] tokens a second; and with / without */
    uint64_t n_drafted, n_accepted, n_generated; /* of the counted runs with speculation */
    pr_err err;
} bench;

/* ---- preparing ---- */

static pr_status read_prompt(bench *b) {
    char *text = NULL;
    size_t len = 0;
    pr_status status = pr_file_slurp(b->job->text_name, TEXT_BYTES_MAX, &text, &len, &b->err);
    if (status == PR_OK && !(b->prompt = pr_calloc(PR_TAG_MISC, len + 16, sizeof *b->prompt)))
        status = pr_fail_nomem(&b->err, "the prompt", len);
    if (status == PR_OK)
        status = pr_engine_tokenize(b->engine, text, len, PR_TOKENIZE_BOS, b->prompt, len + 16, &b->n_prompt, &b->err);
    pr_free(text);
    if (b->n_prompt > b->prompt_max) b->n_prompt = b->prompt_max;
    if (status == PR_OK && b->n_prompt == 0) status = pr_fail(&b->err, PR_ERR_ARG, "%s is empty", b->job->text_name);
    return status;
}

static pr_status open_model(bench *b) {
    pr_load load = b->job->load;
    uint32_t wanted = b->job->n_prompt + b->job->n_answer + PR_SPECULATE_MAX, context = 0;
    if (b->job->n_prompt == 0 || b->job->n_answer < 2)
        return pr_fail(&b->err, PR_ERR_ARG, "--speculate: a prompt (-p) and an answer (-n) of some tokens are needed");
    pr_status status = pr__bench_context(&load, b->job->path, wanted, &context, &b->err);
    if (status == PR_OK && context <= b->job->n_answer)
        status = pr_fail(&b->err, PR_ERR_ARG, "-n: an answer of %u tokens does not fit a context of %u",
                         b->job->n_answer, context);
    b->prompt_max = context - b->job->n_answer < b->job->n_prompt ? context - b->job->n_answer : b->job->n_prompt;
    if (status == PR_OK) status = pr__load_open_path(&load, b->job->path, &b->engine, &b->err);
    if (status != PR_OK) return status;
    b->answer = pr_calloc(PR_TAG_MISC, b->job->n_answer, sizeof *b->answer);
    b->with = pr_calloc(PR_TAG_MISC, 3 * (size_t)b->job->repeats, sizeof *b->with);
    if (!b->answer || !b->with) return pr_fail_nomem(&b->err, "a benchmark", 0);
    b->without = b->with + b->job->repeats;
    b->ratio = b->without + b->job->repeats;
    return read_prompt(b);
}

/* ---- measuring ---- */

/* The answer of a session is what it holds behind the prompt. */
static void compare(bench *b, const pr_session *session) {
    const int32_t *tokens = pr_session_tokens(session) + b->n_prompt;
    size_t n = pr_session_length(session) - b->n_prompt;
    if (n > b->job->n_answer) n = b->job->n_answer;
    if (b->n_answer == 0) {
        memcpy(b->answer, tokens, n * sizeof *tokens);
        b->n_answer = n;
        b->same = true;
    }
    b->same = b->same && n == b->n_answer && !memcmp(b->answer, tokens, n * sizeof *tokens);
}

static pr_status generate(bench *b, int speculate, double *rate, pr_generate_stats *stats) {
    pr_session *session = NULL;
    pr_generate_opts o = {
        .max_tokens = b->job->n_answer, .ignore_end = true, .speculate = speculate, .cancel = pr__interrupt()};
    pr_status status = pr_session_open(b->engine, &session, &b->err);
    if (status == PR_OK) status = pr_session_generate(session, b->prompt, b->n_prompt, &o, stats, &b->err);
    if (status == PR_OK && stats->finish == PR_FINISH_CANCELLED) status = pr_fail(&b->err, PR_ERR_CANCELLED, "stopped");
    if (status == PR_OK) compare(b, session);
    if (status == PR_OK) *rate = (stats->n_generated - 1) / stats->decode_seconds;
    pr_session_close(session);
    return status;
}

static pr_status measure(bench *b) {
    pr_generate_stats stats;
    pr_progress bar;
    double ignored;
    pr_status status = generate(b, 0, &ignored, &stats);
    if (status == PR_OK) status = generate(b, b->job->speculate, &ignored, &stats);
    pr__progress_begin(&bar, "measuring", false, 0);
    for (uint32_t i = 0; i < b->job->repeats && status == PR_OK; i++) {
        pr__progress_update(&bar, i, b->job->repeats);
        status = generate(b, 0, &b->without[i], &stats);
        if (status == PR_OK) status = generate(b, b->job->speculate, &b->with[i], &stats);
        b->ratio[i] = b->with[i] / b->without[i];
        b->n_drafted += stats.n_drafted;
        b->n_accepted += stats.n_accepted;
        b->n_generated += stats.n_generated;
    }
    pr__progress_end(&bar);
    return status;
}

/* ---- telling ---- */

static void tell(bench *b, pr_str *s) {
    pr_engine_info info;
    char mode[16] = "auto";
    uint32_t n = b->job->repeats;
    double with = pr__median(b->with, n), without = pr__median(b->without, n), ratio = pr__median(b->ratio, n);
    double acceptance = b->n_drafted ? (double)b->n_accepted / (double)b->n_drafted : 0;
    pr_engine_describe(b->engine, &info);
    if (b->job->speculate > 0) snprintf(mode, sizeof mode, "%d", b->job->speculate);
    if (b->job->json) {
        pr__json_open(s);
        pr__json_text(s, "path", info.path);
        pr__json_text(s, "speculate", mode);
        pr__elastic_engine_json(s, b->engine);
        pr__json_u64(s, "repeats", n);
        pr__json_u64(s, "threads", (uint64_t)info.n_threads);
        pr__json_u64(s, "prompt_tokens", b->n_prompt);
        pr__json_u64(s, "answer_tokens", b->job->n_answer);
        pr__json_f64(s, "tokens_per_second", with);
        pr__json_f64(s, "tokens_per_second_off", without);
        pr__json_f64(s, "ratio", ratio);
        pr__json_f64(s, "ratio_worst", b->ratio[0]);
        pr__json_f64(s, "ratio_best", b->ratio[n - 1]);
        pr__json_u64(s, "drafted_tokens", b->n_drafted);
        pr__json_u64(s, "accepted_tokens", b->n_accepted);
        pr__json_f64(s, "acceptance", acceptance);
        pr__json_bool(s, "same", b->same);
        pr__json_close(s);
        pr_str_puts(s, "\n");
        return;
    }
    char brief[160];
    pr_str_line(s, "model    %s: %s", pr__models_title(&info), pr__elastic_brief(b->engine, NULL, brief, sizeof brief));
    pr_str_printf(s, "answer   %u tokens after %zu of %s, greedy, %u times each\n", b->job->n_answer, b->n_prompt,
                  b->job->text_name, n);
    pr_str_printf(s, "speed    %.1f tokens/s with drafts (%s), %.1f without: %.2fx (%.2f to %.2f)\n", with, mode,
                  without, ratio, b->ratio[0], b->ratio[n - 1]);
    pr_str_printf(s, "drafts   %llu for %llu tokens, %.0f%% accepted; the answers are %s\n",
                  (unsigned long long)b->n_drafted, (unsigned long long)b->n_generated, acceptance * 100,
                  b->same ? "the same" : "NOT THE SAME");
}

pr_status pr__bench_speculate(const pr_bench_job *job, pr_str *out, pr_err *err) {
    bench b = {.job = job};
    pr_status status = open_model(&b);
    if (status == PR_OK) status = measure(&b);
    if (status == PR_OK) tell(&b, out);
    else *err = b.err;
    pr_free(b.prompt);
    pr_free(b.answer);
    pr_free(b.with);
    pr_engine_close(b.engine);
    return status;
}
