/*
 * What the scheduler costs, and what it shares: Markdown tables for docs/BENCHMARKS.md.
 *
 *   build/release/bench/sched MODEL [rounds|fair]
 *
 * Throughput: 1 to 16 streams through the scheduler, against the same sessions stepped by hand, with the same sampling, in
 * turns; medians. First token: a prompt of 500 tokens and ten more, and once again with ten others. Fairness: a key
 * that sends one request after the other, with short and long prompts, beside 1 and beside 20 streams of another key
 * that never stop, in turns.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/os.h"
#include "engine/answer.h"
#include "sched/sched.h"

enum {
    STREAMS_MAX = 32,
    N_NEW = 64,
    N_PROMPT = 16,
    N_SHARED = 500,
    ROUNDS_MAX = 99,
    SAMPLES_MAX = 4096,
    N_ASKED = 6,
    FAIR_ROUNDS = 5
};

typedef struct bench bench;

typedef struct stream {
    bench *b;
    pr_job job;
    int32_t ids[N_SHARED + 16];
    size_t n_ids;
    bool again, watched;
    double sent, last;
    bool done;
    pr_job_done how;
} stream;

struct bench {
    const char *path;
    pr_registry *registry;
    pr_monitor *monitor;
    pr_sched *sched;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    stream streams[STREAMS_MAX];
    double first[SAMPLES_MAX], between[SAMPLES_MAX]; /* of watched streams, seconds */
    size_t n_first, n_between;
    uint64_t random;
};

static void stop(const char *what, const pr_err *err) {
    fprintf(stderr, "sched: %s%s%s\n", what, err ? ": " : "", err ? err->text : "");
    exit(1);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double part_of(double *values, size_t n, double part) {
    qsort(values, n, sizeof *values, by_value);
    return n ? values[(size_t)((double)(n - 1) * part)] : 0;
}

static void randomize(bench *b, int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++) {
        b->random = b->random * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (int32_t)(1000 + (b->random >> 40) % 20000);
    }
}

static const pr_engine_opts engine_opts = {.context_max = 1024, .batch_max = 512, .kv_bytes_max = (size_t)1 << 30};

/* ---- scheduler ---------------------------------------------------------------- */

static pr_status resolve(void *arg, const char *name, char **path, pr_err *err) {
    (void)name;
    *path = pr_strdup(PR_TAG_MISC, arg);
    return *path ? PR_OK : pr_fail_nomem(err, "path", strlen(arg));
}

static pr_status prepare(void *arg, const pr_engine *engine, int32_t **ids, size_t *n_ids, pr_err *err) {
    const stream *s = arg;
    (void)engine;
    *ids = pr_alloc(PR_TAG_SESSION, s->n_ids * sizeof **ids);
    if (!*ids) return pr_fail_nomem(err, "prompt", s->n_ids * sizeof **ids);
    memcpy(*ids, s->ids, s->n_ids * sizeof **ids);
    *n_ids = s->n_ids;
    return PR_OK;
}

static void on_token(void *arg, const pr_job_token *token) {
    stream *s = arg;
    double now = pr_now();
    bench *b = s->b;
    if (token->token < 0 || !s->watched) return;
    pthread_mutex_lock(&b->lock);
    if (s->last == 0 && b->n_first < SAMPLES_MAX) b->first[b->n_first++] = now - s->sent;
    if (s->last != 0 && b->n_between < SAMPLES_MAX) b->between[b->n_between++] = now - s->last;
    s->last = now;
    pthread_mutex_unlock(&b->lock);
}

static void submit(stream *s) {
    pr_err err = {0};
    pr_job_id id;
    s->last = 0;
    s->done = false;
    s->sent = pr_now();
    if (pr_sched_submit(s->b->sched, &s->job, &id, &err)) stop("submit", &err);
}

static void on_done(void *arg, const pr_job_done *done) {
    stream *s = arg;
    pthread_mutex_lock(&s->b->lock);
    bool again = s->again;
    s->how = *done;
    s->done = !again;
    pthread_cond_broadcast(&s->b->changed);
    pthread_mutex_unlock(&s->b->lock);
    if (again) submit(s);
}

static void wait_for(stream *s) {
    pthread_mutex_lock(&s->b->lock);
    while (!s->done) pthread_cond_wait(&s->b->changed, &s->b->lock);
    pthread_mutex_unlock(&s->b->lock);
    if (s->how.finish != PR_JOB_LENGTH) stop("a stream", &s->how.err);
}

static stream *set(bench *b, int i, const char *key, size_t n_ids, uint32_t n_new) {
    stream *s = &b->streams[i];
    *s = (stream){.b = b, .n_ids = n_ids};
    randomize(b, s->ids, n_ids);
    s->job = (pr_job){.model = "model",
                      .key = key,
                      .prepare = prepare,
                      .on_token = on_token,
                      .on_done = on_done,
                      .arg = s,
                      .generate = {.max_tokens = n_new, .ignore_end = true}};
    pr_sample_defaults(&s->job.generate.sample);
    s->job.generate.sample.seed = (uint64_t)i;
    return s;
}

static void open_sched(bench *b, uint32_t parallel) {
    pr_err err = {0};
    const pr_registry_opts r = {.engine = engine_opts,
                                .bytes_max = (size_t)1 << 40,
                                .resolve = resolve,
                                .resolve_arg = (void *)(uintptr_t)b->path};
    pr_sched_opts s = {.parallel = parallel};
    pr_gov_defaults(&s.gov);
    s.gov.memory_full = s.gov.memory_critical = s.gov.memory_tight = s.gov.memory_moderate = 2; /* levels stand still */
    if (pr_monitor_open(&(pr_monitor_opts){0}, &b->monitor, &err) || pr_registry_open(&r, &b->registry, &err))
        stop("opening", &err);
    s.monitor = b->monitor;
    s.registry = b->registry;
    if (pr_sched_open(&s, &b->sched, &err)) stop("opening", &err);
    pr_model *m = NULL;
    if (pr_registry_acquire(b->registry, "model", NULL, &m, &err)) stop("loading", &err);
    pr_registry_release(m);
}

static void close_sched(bench *b) {
    pr_sched_close(b->sched);
    pr_registry_close(b->registry);
    pr_monitor_close(b->monitor);
}

/* ---- by hand ------------------------------------------------------------------ */

/* Seconds for n streams, prompts and all. */
static double by_hand(bench *b, pr_engine *e, int n) {
    pr_session *sessions[STREAMS_MAX];
    pr_answer *answers[STREAMS_MAX];
    pr_generate_stats stats[STREAMS_MAX] = {{0}};
    pr_run runs[STREAMS_MAX];
    int32_t next[STREAMS_MAX];
    pr_err err = {0};
    pr_status st = PR_OK;
    double start = pr_now();
    for (int i = 0; i < n && !st; i++) {
        const stream *s = set(b, i, "", N_PROMPT, N_NEW);
        st = pr_session_open(e, &sessions[i], &err);
        if (!st) st = pr_answer_open(sessions[i], &s->job.generate, &stats[i], &answers[i], &err);
        runs[i] = (pr_run){sessions[i], s->ids, N_PROMPT, 1};
    }
    for (int t = 0; t < N_NEW && !st; t++) {
        st = pr_engine_step(e, runs, (size_t)n, &err);
        if (!st) pr_answers_draw(answers, (size_t)n);
        for (int i = 0; i < n && !st; i++) {
            st = pr_answer_next(answers[i], (size_t)i, pr_session_length(sessions[i]), &next[i], &err);
            runs[i] = (pr_run){sessions[i], &next[i], 1, 1};
        }
    }
    if (st) stop("by hand", &err);
    double seconds = pr_now() - start;
    for (int i = 0; i < n; i++) {
        pr_answer_close(answers[i]);
        pr_session_close(sessions[i]);
    }
    return seconds;
}

static double by_sched(bench *b, int n) {
    double start = pr_now();
    for (int i = 0; i < n; i++) submit(set(b, i, "k", N_PROMPT, N_NEW));
    for (int i = 0; i < n; i++) wait_for(&b->streams[i]);
    return pr_now() - start;
}

static void throughput(bench *b, int rounds) {
    pr_engine *e = NULL;
    pr_err err = {0};
    open_sched(b, 16);
    if (pr_engine_open(b->path, &engine_opts, &e, &err)) stop("opening", &err);
    printf("| streams | by hand, tokens/s | scheduler | overhead |\n|---|---|---|---|\n");
    by_sched(b, 1);
    for (int n = 1; n <= 16; n *= 2) {
        double hand[ROUNDS_MAX], sched[ROUNDS_MAX], over[ROUNDS_MAX];
        for (int r = 0; r < rounds; r++) {
            hand[r] = by_hand(b, e, n);
            sched[r] = by_sched(b, n);
            over[r] = sched[r] / hand[r] - 1;
        }
        double tokens = (double)n * N_NEW;
        printf("| %d | %.1f | %.1f | %.1f%% |\n", n, tokens / part_of(hand, (size_t)rounds, 0.5),
               tokens / part_of(sched, (size_t)rounds, 0.5), 100 * part_of(over, (size_t)rounds, 0.5));
        fflush(stdout);
    }
    pr_engine_close(e);
    close_sched(b);
}

/* ---- prefixes ----------------------------------------------------------------- */

static void first_token(bench *b, int rounds) {
    double first[ROUNDS_MAX], second[ROUNDS_MAX];
    open_sched(b, 8);
    for (int r = 0; r < rounds; r++) {
        for (int twice = 0; twice < 2; twice++) {
            stream *s = set(b, 1 - twice, "k", N_SHARED + 10, 4);
            if (twice) memcpy(s->ids, b->streams[1].ids, N_SHARED * sizeof *s->ids);
            s->watched = true;
            b->n_first = 0;
            submit(s);
            wait_for(s);
            if (twice) second[r] = b->first[0];
            else first[r] = b->first[0];
        }
    }
    double a = part_of(first, (size_t)rounds, 0.5), c = part_of(second, (size_t)rounds, 0.5);
    printf("\n| prompt of %d tokens | to the first token |\n|---|---|\n| first time | %.1f ms |\n"
           "| again, but for the last 10 | %.1f ms (%.1f%%) |\n",
           N_SHARED + 10, a * 1e3, c * 1e3, 100 * c / a);
    close_sched(b);
}

/* ---- fairness ----------------------------------------------------------------- */

typedef struct sharing { /* beside 1 stream, and beside 20 */
    double first[2][SAMPLES_MAX], between[2][SAMPLES_MAX];
    size_t n_first[2], n_between[2];
} sharing;

static void collect(double *to, size_t *n, const double *from, size_t more) {
    for (size_t i = 0; i < more && *n < SAMPLES_MAX; i++) to[(*n)++] = from[i];
}

static void ask_beside(bench *b, int n, size_t n_prompt, sharing *out) {
    int many = n > 1;
    for (int i = 0; i < n; i++) {
        set(b, i, "greedy", 64, 128)->again = true;
        submit(&b->streams[i]);
    }
    b->n_first = b->n_between = 0;
    for (int i = 0; i < N_ASKED; i++) {
        stream *s = set(b, STREAMS_MAX - 1, "modest", n_prompt, 48);
        s->watched = true;
        submit(s);
        wait_for(s);
    }
    pthread_mutex_lock(&b->lock);
    for (int i = 0; i < n; i++) b->streams[i].again = false;
    pthread_mutex_unlock(&b->lock);
    for (int i = 0; i < n; i++) wait_for(&b->streams[i]);
    collect(out->first[many], &out->n_first[many], b->first, b->n_first);
    collect(out->between[many], &out->n_between[many], b->between, b->n_between);
}

static void fairness(bench *b) {
    static sharing s;
    static const size_t prompts[] = {20, 64, N_SHARED};
    printf("\n| its prompts | p95 to the first token beside 1, 20 streams of another key | p95 between tokens | median "
           "between |\n|---|---|---|---|\n");
    open_sched(b, 8);
    for (size_t p = 0; p < sizeof prompts / sizeof *prompts; p++) {
        memset(&s, 0, sizeof s);
        for (int r = 0; r < FAIR_ROUNDS; r++) {
            ask_beside(b, 1, prompts[p], &s);
            ask_beside(b, 20, prompts[p], &s);
        }
        double first[2], between[2], median[2];
        for (int many = 0; many < 2; many++) {
            first[many] = 1e3 * part_of(s.first[many], s.n_first[many], 0.95);
            between[many] = 1e3 * part_of(s.between[many], s.n_between[many], 0.95);
            median[many] = 1e3 * part_of(s.between[many], s.n_between[many], 0.5);
        }
        printf("| %zu tokens | %.1f, %.1f ms: %.2fx | %.1f, %.1f ms: %.2fx | %.1f, %.1f ms: %.2fx |\n", prompts[p],
               first[0], first[1], first[1] / first[0], between[0], between[1], between[1] / between[0], median[0],
               median[1], median[1] / median[0]);
        fflush(stdout);
    }
    close_sched(b);
}

int main(int argc, char **argv) {
    static bench b;
    bool only_fair = argc > 2 && strcmp(argv[2], "fair") == 0;
    long rounds = argc > 2 && !only_fair ? strtol(argv[2], NULL, 10) : 5;
    if (argc < 2 || rounds < 1 || rounds > ROUNDS_MAX) stop("usage: sched MODEL [rounds|fair]", NULL);
    b.path = argv[1];
    b.random = 1;
    pthread_mutex_init(&b.lock, NULL);
    pthread_cond_init(&b.changed, NULL);
    if (!only_fair) {
        throughput(&b, (int)rounds);
        first_token(&b, (int)rounds);
    }
    fairness(&b);
    return 0;
}
