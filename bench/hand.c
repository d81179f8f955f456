/*
 * The bare engine: batches of answers stepped by hand, for bench/server.py to hold a server against.
 *
 *   build/release/bench/hand MODEL LEVEL THREADS CPUMASK [TOKEN...]
 *
 * CPUMASK is a number, the bits of kernels/kernels.h; 0 allows all.
 *
 * A line on stdin is a batch: how many tokens, and after a tab each the prompts; a line on stdout is what it took:
 * seconds, prompts and all. Tokens are the most likely ones but those that are named, which end an answer: every stream has the
 * length asked for, and is sampled as a request with logit_bias is. Between batches its threads sleep, so that it can take turns with a server that holds the same model.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "engine/answer.h"

enum { BIAS_MAX = 8, STREAMS_MAX = 32, TOKENS_MAX = 1024, LINE_MAX_BYTES = 1 << 20 };

typedef struct stream {
    pr_session *session;
    pr_answer *answer;
    pr_generate_stats stats;
    int32_t ids[TOKENS_MAX], next;
    size_t n_ids;
} stream;

static stream streams[STREAMS_MAX];
static pr_logit_bias bias[BIAS_MAX];
static size_t n_bias;

static void stop(const char *what, const pr_err *err) {
    fprintf(stderr, "hand: %s%s%s\n", what, err ? ": " : "", err ? err->text : "");
    exit(1);
}

/* The prompts' tokens; returns how many prompts. */
static size_t read_prompts(const pr_engine *e, char *text) {
    pr_err err = {0};
    size_t n = 0;
    for (char *save, *at = strtok_r(text, "\t\n", &save); at; at = strtok_r(NULL, "\t\n", &save)) {
        if (n == STREAMS_MAX) stop("too many prompts", NULL);
        stream *s = &streams[n++];
        if (pr_engine_tokenize(e, at, strlen(at), PR_TOKENIZE_BOS, s->ids, TOKENS_MAX, &s->n_ids, &err))
            stop("tokens", &err);
    }
    return n;
}

/* Seconds. */
static double run(pr_engine *e, char *text, uint32_t n_new) {
    pr_run runs[STREAMS_MAX];
    pr_answer *answers[STREAMS_MAX];
    pr_err err = {0};
    pr_generate_opts opts = {.max_tokens = n_new, .ignore_end = true};
    pr_sample_defaults(&opts.sample);
    opts.sample.temperature = 0;
    opts.sample.repetition_penalty = 1;
    opts.sample.bias = bias;
    opts.sample.n_bias = n_bias;
    double start = pr_now();
    size_t n = read_prompts(e, text);
    pr_status st = PR_OK;
    for (size_t i = 0; i < n && !st; i++) {
        stream *s = &streams[i];
        st = pr_session_open(e, &s->session, &err);
        if (!st) st = pr_answer_open(s->session, &opts, &s->stats, &s->answer, &err);
        answers[i] = s->answer;
        runs[i] = (pr_run){s->session, s->ids, (uint32_t)s->n_ids, 1};
    }
    for (uint32_t t = 0; t < n_new && !st; t++) {
        st = pr_engine_step(e, runs, n, &err);
        if (!st) pr_answers_draw(answers, n);
        for (size_t i = 0; i < n && !st; i++) {
            stream *s = &streams[i];
            st = pr_answer_next(s->answer, i, pr_session_length(s->session), &s->next, &err);
            runs[i] = (pr_run){s->session, &s->next, 1, 1};
        }
    }
    if (st) stop("a step", &err);
    double seconds = pr_now() - start;
    for (size_t i = 0; i < n; i++) {
        pr_answer_close(streams[i].answer);
        pr_session_close(streams[i].session);
    }
    return seconds;
}

int main(int argc, char **argv) {
    static char line[LINE_MAX_BYTES];
    pr_engine_opts opts = {.context_max = 2048, .kv_contexts = 8};
    pr_engine *e = NULL;
    pr_err err = {0};
    if (argc < 5 || argc > 5 + BIAS_MAX) stop("usage: hand MODEL LEVEL THREADS CPUMASK [TOKEN...]", NULL);
    opts.level_given = pr_level_by_name(argv[2], &opts.level);
    if (!opts.level_given) stop("no such level", NULL);
    opts.n_threads = (int)strtol(argv[3], NULL, 10);
    opts.cpumask = (uint32_t)strtoul(argv[4], NULL, 10);
    for (int i = 5; i < argc; i++) bias[n_bias++] = (pr_logit_bias){(int32_t)strtol(argv[i], NULL, 10), -100};
    if (pr_engine_open(argv[1], &opts, &e, &err)) stop("opening", &err);
    while (fgets(line, sizeof line, stdin)) {
        char *prompts;
        unsigned long n_new = strtoul(line, &prompts, 10);
        if (n_new < 1 || n_new > TOKENS_MAX) stop("a line: TOKENS, a tab, prompts with tabs between", NULL);
        printf("%.6f\n", run(e, prompts, (uint32_t)n_new));
        fflush(stdout);
    }
    pr_engine_close(e);
    return 0;
}
