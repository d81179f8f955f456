/*
 * precis bench --switch: what a move does to a stream of tokens, and to memory.
 *
 * Tokens are decoded one a step, without a pause, while a second thread asks for the move at a random moment within a
 * step, as a server does. A lower level must hold from the next step on: the first token at the new level can be expected
 * after the rest of the running step and one whole step, and that is what it is held against. A raise is read from the
 * disk while tokens go on: told are the longest of them, and when the level was reached. Since planes are used as they
 * come, tokens become slower on the way up by themselves; so each is also held against the level in force when it began:
 * the medians at both ends, and by its bits a weight in between.
 *
 * Memory is the resident set before the move and one second after it (or, when reading takes longer, one second after
 * the level was reached), against the bytes that the plan says and the keys and values that came meanwhile.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/os.h"
#include "cmd/bench.h"
#include "cmd/elastic.h"
#include "cmd/progress.h"
#include "cmd/term.h"
#include "cmd/text.h"
#include "sample/sample.h"

enum { STEPS_BEFORE = 33, CONTEXT_MAX = 512, SEED = 1, MARKS_MAX = 1 << 16 };

static const double MOVE_SECONDS = 600, LOOK_SECONDS = 1;

/* Of all repetitions, [repeats] each. */
typedef struct results {
    double *first, *expected; /* seconds: first token at the new level; rest of the running step and one more */
    double *reached;          /* seconds until every plane was in use, or given up */
    double *step, *longest;   /* seconds: median step before, longest token from the request until reached */
    double *slowest;          /* the worst of those tokens against the level in force, as a ratio */
    double *rss_before, *rss_after, *rss_expected;
} results;

typedef struct mark { /* a token of a move, and how many bits a weight had when its step began */
    double seconds, bits;
} mark;

typedef struct bench {
    const pr_bench_job *job;
    pr_place from, to;
    char from_name[32], to_name[32];
    pr_engine *engine;
    pr_engine_info info;
    pr_session *session;
    int32_t tokens[CONTEXT_MAX];
    uint32_t context;
    size_t bytes_from, bytes_to; /* of weights */
    size_t kv_before, kv_after;  /* keys and values of the tokens meanwhile are no matter of the move */
    mark *marks;                 /* [MARKS_MAX]; of one move */
    size_t n_marks;
    results r;
    pr_err err;
} bench;

/* ---- asking, from another thread ---- */

typedef struct asker {
    pthread_t thread;
    bench *b;
    double delay;
    _Atomic uint64_t asked_ns; /* 0: not yet */
    pr_status status;          /* of asking; read after joining */
    pr_err err;
} asker;

static void *ask(void *arg) {
    asker *a = arg;
    struct timespec t = {.tv_nsec = (long)(a->delay * 1e9) % 1000000000, .tv_sec = (time_t)a->delay};
    nanosleep(&t, NULL);
    atomic_store(&a->asked_ns, pr_now_ns());
    a->status = pr__place_move(a->b->engine, &a->b->to, &a->err);
    return NULL;
}

/* ---- one move ---- */

static pr_status step(bench *b, double *seconds) {
    uint32_t at = pr_session_length(b->session);
    pr_status status = PR_OK;
    if (*pr__interrupt()) return pr_fail(&b->err, PR_ERR_CANCELLED, "stopped");
    if (at == b->context) status = pr_session_truncate(b->session, at = 0, &b->err);
    double start = pr_now();
    if (status == PR_OK) status = pr_engine_step(b->engine, &(pr_run){b->session, b->tokens + at, 1, 1}, 1, &b->err);
    *seconds = pr_now() - start;
    return status;
}

static pr_status go_to(bench *b, const pr_place *place, pr_elastic_info *there) {
    pr_status status = pr__place_move(b->engine, place, &b->err);
    if (status == PR_OK) status = pr_engine_settle(b->engine, MOVE_SECONDS, &b->err);
    pr_engine_elastic(b->engine, there);
    return status;
}

/* The median of some tokens now. */
static pr_status measure_step(bench *b, double *seconds) {
    double steps[STEPS_BEFORE];
    pr_status status = PR_OK;
    uint32_t n = 0;
    for (; n < STEPS_BEFORE && status == PR_OK; n++) status = step(b, &steps[n]);
    *seconds = pr__median(steps, n);
    return status;
}

/* Decode until a second after the new cursor is in use; fills the results of repetition i, and the marks. */
static pr_status decode_through(bench *b, uint32_t i, const asker *a, const pr_elastic_info *old) {
    results *r = &b->r;
    pr_status status = PR_OK;
    double seconds = 0, reached_at = 0, rest = 0;
    bool looked = false;
    pr_elastic_info e = *old;
    b->n_marks = 0;
    r->longest[i] = 0;
    while (status == PR_OK && !looked) {
        double bits = e.bits_per_weight;
        status = step(b, &seconds);
        double end = pr_now(), asked = (double)atomic_load(&a->asked_ns) * 1e-9;
        if (asked == 0) continue;
        if (end - seconds < asked) rest = end - asked;
        pr_engine_elastic(b->engine, &e);
        bool there = e.cursor == e.target && e.cursor != old->cursor;
        if (there && reached_at == 0) {
            reached_at = end;
            r->first[i] = end - asked;
            r->expected[i] = rest + r->step[i];
            r->reached[i] = end - asked;
        }
        if (!there && e.raise_err.status != PR_OK) return pr_fail(&b->err, e.raise_err.status, "%s", e.raise_err.text);
        if (end - asked > MOVE_SECONDS) return pr_fail(&b->err, PR_ERR_LIMIT, "--switch: the move takes too long");
        if (reached_at == 0 || end - seconds < reached_at) {
            if (seconds > r->longest[i]) r->longest[i] = seconds;
            if (b->n_marks < MARKS_MAX) b->marks[b->n_marks++] = (mark){seconds, bits};
        }
        looked = reached_at > 0 && end >= (r->reached[i] < LOOK_SECONDS ? asked : reached_at) + LOOK_SECONDS;
    }
    pr_engine_elastic(b->engine, &e);
    b->bytes_to = e.bytes;
    r->rss_after[i] = (double)pr_rss_bytes();
    b->kv_after = pr_mem_bytes(PR_TAG_KV);
    return status;
}

/* The worst token of the move against the level in force: seconds at its bits, on the line between both ends. */
static double slowest(const bench *b, double bits_from, double step_from, double bits_to, double step_to) {
    double worst = 0;
    for (size_t i = 0; i < b->n_marks; i++) {
        double part = (b->marks[i].bits - bits_from) / (bits_to - bits_from);
        double ratio = b->marks[i].seconds / (step_from + part * (step_to - step_from));
        if (ratio > worst) worst = ratio;
    }
    return worst;
}

static pr_status one_move(bench *b, uint32_t i) {
    results *r = &b->r;
    pr_elastic_info from, to;
    double after = 0;
    pr_status status = go_to(b, &b->from, &from);
    if (status == PR_OK) status = measure_step(b, &r->step[i]);
    if (status != PR_OK) return status;
    b->bytes_from = from.bytes;
    r->rss_before[i] = (double)pr_rss_bytes();
    b->kv_before = pr_mem_bytes(PR_TAG_KV);
    asker a = {.b = b, .delay = (1 + pr_sample_uniform(SEED, i)) * r->step[i]};
    if (pthread_create(&a.thread, NULL, ask, &a) != 0) return pr_fail(&b->err, PR_ERR_NOMEM, "no thread for --switch");
    status = decode_through(b, i, &a, &from);
    pthread_join(a.thread, NULL);
    if (a.status != PR_OK) b->err = a.err;
    if (status == PR_OK) status = a.status;
    if (status == PR_OK) status = measure_step(b, &after);
    pr_engine_elastic(b->engine, &to);
    r->slowest[i] = slowest(b, from.bits_per_weight, r->step[i], to.bits_per_weight, after);
    r->rss_expected[i] = r->rss_before[i] + (double)b->bytes_to - (double)b->bytes_from;
    r->rss_expected[i] += (double)b->kv_after - (double)b->kv_before;
    return status;
}

/* ---- preparing ---- */

static pr_status parse(bench *b) {
    const char *text = b->job->moves, *colon = strchr(text, ':');
    pr_status status;
    if (!colon) return pr_fail(&b->err, PR_ERR_ARG, "--switch: \"%.100s\" is not FROM:TO (int8:int2, 90M:60M)", text);
    snprintf(b->from_name, sizeof b->from_name, "%.*s", (int)(colon - text), text);
    snprintf(b->to_name, sizeof b->to_name, "%s", colon + 1);
    status = pr__place_parse(b->from_name, &b->from, &b->err);
    if (status == PR_OK) status = pr__place_parse(b->to_name, &b->to, &b->err);
    if (status != PR_OK) pr_err_context(&b->err, "--switch");
    return status;
}

static pr_status open_model(bench *b) {
    pr_load load = b->job->load;
    pr_engine_opts *o = &load.opts;
    pr_elastic_info e;
    o->level_given = !b->from.by_budget;
    o->level = b->from.level;
    o->weights_budget = b->from.budget;
    pr_status status = pr__bench_context(&load, b->job->path, CONTEXT_MAX, &b->context, &b->err);
    if (status == PR_OK) status = pr__load_open_path(&load, b->job->path, &b->engine, &b->err);
    if (status != PR_OK) return status;
    pr_engine_describe(b->engine, &b->info);
    pr_engine_elastic(b->engine, &e);
    if (b->context > CONTEXT_MAX) b->context = CONTEXT_MAX;
    for (uint32_t i = 0; i < b->context; i++) b->tokens[i] = (int32_t)(pr_sample_uniform(SEED, i) * b->info.n_vocab);
    status = pr_session_open(b->engine, &b->session, &b->err);
    uint32_t cursor = e.cursor;
    if (status == PR_OK && (status = go_to(b, &b->to, &e)) != PR_OK) pr_err_context(&b->err, "--switch");
    if (status == PR_OK && e.cursor == cursor)
        status = pr_fail(&b->err, PR_ERR_ARG, "--switch: %s is the same place of this model's list", b->job->moves);
    return status;
}

static pr_status reserve(bench *b) {
    double **all[] = {&b->r.first,   &b->r.expected,   &b->r.reached,   &b->r.step,        &b->r.longest,
                      &b->r.slowest, &b->r.rss_before, &b->r.rss_after, &b->r.rss_expected};
    b->marks = pr_calloc(PR_TAG_MISC, MARKS_MAX, sizeof *b->marks);
    if (!b->marks) return pr_fail_nomem(&b->err, "a benchmark", MARKS_MAX * sizeof *b->marks);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        *all[i] = pr_calloc(PR_TAG_MISC, b->job->repeats, sizeof **all[i]);
        if (!*all[i]) return pr_fail_nomem(&b->err, "a benchmark", 0);
    }
    return PR_OK;
}

static void close_all(bench *b) {
    double *all[] = {b->r.first,   b->r.expected,   b->r.reached,   b->r.step,        b->r.longest,
                     b->r.slowest, b->r.rss_before, b->r.rss_after, b->r.rss_expected};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) pr_free(all[i]);
    pr_free(b->marks);
    pr_session_close(b->session);
    pr_engine_close(b->engine);
}

/* ---- telling ---- */

typedef struct figures {
    double first, first_worst, expected, over_worst; /* over: first against what was expected for it */
    double step, longest, longest_ratio, slowest, reached, reached_worst;
    double rss_before, rss_after, rss_expected;
} figures;

static figures sum_up(bench *b) {
    results *r = &b->r;
    uint32_t n = b->job->repeats;
    figures f = {0};
    for (uint32_t i = 0; i < n; i++) {
        double ratio = r->longest[i] / r->step[i], over = r->first[i] / r->expected[i];
        if (ratio > f.longest_ratio) f.longest_ratio = ratio;
        if (over > f.over_worst) f.over_worst = over;
        if (r->longest[i] > f.longest) f.longest = r->longest[i];
        if (r->slowest[i] > f.slowest) f.slowest = r->slowest[i];
    }
    f.first = pr__median(r->first, n);
    f.first_worst = r->first[n - 1];
    f.expected = pr__median(r->expected, n);
    f.step = pr__median(r->step, n);
    f.reached = pr__median(r->reached, n);
    f.reached_worst = r->reached[n - 1];
    f.rss_before = pr__median(r->rss_before, n);
    f.rss_after = pr__median(r->rss_after, n);
    f.rss_expected = pr__median(r->rss_expected, n);
    return f;
}

static void print_text(const bench *b, const figures *f, pr_str *s) {
    char before[32], after[32], third[32];
    bool up = b->bytes_to > b->bytes_from;
    pr_str_printf(s, "switch   %s to %s, %u time%s: %s -> %s of weights\n", b->from_name, b->to_name, b->job->repeats,
                  b->job->repeats == 1 ? "" : "s", pr_format_bytes(before, sizeof before, b->bytes_from),
                  pr_format_bytes(after, sizeof after, b->bytes_to));
    if (up) {
        pr_str_printf(s, "reached  after %.3f s (%.3f at most)\n", f->reached, f->reached_worst);
    } else {
        pr_str_printf(
            s,
            "first    token at %s after %.1f ms (%.1f at most); rest of a step and one more: %.1f ms (%.2fx at "
            "worst)\n",
            b->to_name, f->first * 1e3, f->first_worst * 1e3, f->expected * 1e3, f->over_worst);
    }
    pr_str_printf(
        s, "tokens   %.1f ms before; the longest while moving %.1f ms (%.2fx at worst; %.2fx the level in force)\n",
        f->step * 1e3, f->longest * 1e3, f->longest_ratio, f->slowest);
    pr_str_printf(s, "memory   %s resident before, %s a second later; predicted %s (%+.1f%%)\n",
                  pr_format_bytes(before, sizeof before, (uint64_t)f->rss_before),
                  pr_format_bytes(after, sizeof after, (uint64_t)f->rss_after),
                  pr_format_bytes(third, sizeof third, (uint64_t)f->rss_expected),
                  (f->rss_after / f->rss_expected - 1) * 100);
}

static void print_json(const bench *b, const figures *f, pr_str *s) {
    pr__json_open(s);
    pr__json_text(s, "path", b->info.path);
    pr__json_text(s, "from", b->from_name);
    pr__json_text(s, "to", b->to_name);
    pr__json_u64(s, "repeats", b->job->repeats);
    pr__json_u64(s, "threads", (uint64_t)b->info.n_threads);
    pr__json_u64(s, "weight_bytes_before", b->bytes_from);
    pr__json_u64(s, "weight_bytes_after", b->bytes_to);
    pr__json_f64(s, "first_token_seconds", f->first);
    pr__json_f64(s, "first_token_seconds_worst", f->first_worst);
    pr__json_f64(s, "expected_seconds", f->expected);
    pr__json_f64(s, "first_over_expected_worst", f->over_worst);
    pr__json_f64(s, "step_seconds", f->step);
    pr__json_f64(s, "longest_token_seconds", f->longest);
    pr__json_f64(s, "longest_over_median_worst", f->longest_ratio);
    pr__json_f64(s, "longest_over_level_worst", f->slowest);
    pr__json_f64(s, "reached_seconds", f->reached);
    pr__json_f64(s, "reached_seconds_worst", f->reached_worst);
    pr__json_u64(s, "rss_before_bytes", (uint64_t)f->rss_before);
    pr__json_u64(s, "rss_after_bytes", (uint64_t)f->rss_after);
    pr__json_u64(s, "rss_predicted_bytes", (uint64_t)f->rss_expected);
    pr__json_close(s);
    pr_str_puts(s, "\n");
}

pr_status pr__bench_switch(const pr_bench_job *job, pr_str *out, pr_err *err) {
    bench b = {.job = job};
    pr_progress bar;
    pr_status status = parse(&b);
    if (status == PR_OK) status = reserve(&b);
    if (status == PR_OK) status = open_model(&b);
    pr__progress_begin(&bar, "moving", false, 0);
    for (uint32_t i = 0; i < job->repeats && status == PR_OK; i++) {
        pr__progress_update(&bar, i, job->repeats);
        status = one_move(&b, i);
    }
    pr__progress_end(&bar);
    if (status == PR_OK) {
        figures f = sum_up(&b);
        if (job->json) print_json(&b, &f, out);
        else print_text(&b, &f, out);
    } else {
        *err = b.err;
    }
    close_all(&b);
    return status;
}
