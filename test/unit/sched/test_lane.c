/*
 * What a step is made of, and what that makes of fairness: real composing, a machine whose steps take a given time.
 *
 * Nothing is computed: a step's runs are taken as done, and time is the model's own. So the promise that a key with a single
 * stream is kept waiting at most twice as long beside 20 streams of another as beside one can be held against the rows that
 * are chosen, on any machine.
 */
#include "sched/lane.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "support/rig.h"

enum { KEYS = 3, STREAMS = 24, SAMPLES = 4096 };

/* ---- a lane on a model that is never stepped ------------------------------------ */

static pr_registry *registry;
static pr_model *model;

static pr_status resolve(void *arg, const char *name, char **path, pr_err *err) {
    (void)arg;
    *path = pr_strdup(PR_TAG_MISC, rig_path(name));
    return *path ? PR_OK : pr_fail_nomem(err, "path", strlen(name));
}

static int setup(void **state) {
    pr_err err = {0};
    const llama_gguf small = {.dim = 32, .n_layers = 1, .n_heads = 2, .n_kv_heads = 1, .n_ff = 64, .context = 2048};
    const pr_registry_opts opts = {
        .engine = {.n_threads = 1, .context_max = 1024, .batch_max = 512}, .bytes_max = 1 << 30, .resolve = resolve};
    if (rig_setup(state)) return -1;
    rig_model(&small, "a.gguf");
    if (pr_registry_open(&opts, &registry, &err)) return -1;
    return pr_registry_acquire(registry, "a.gguf", NULL, &model, &err) ? -1 : 0;
}

static int teardown(void **state) {
    pr_registry_release(model);
    pr_registry_close(registry);
    return rig_teardown(state);
}

static const pr_sched_opts sched_opts = {.parallel = 8, .prefill_chunk = 96};

/* Seconds of a step, by rows, as measured for docs/BENCHMARKS.md; and one where rows are cheap. */
typedef struct machine {
    const char *name;
    double fixed, decoding, prompt;
    double jitter; /* a part of each step, either way; and every fiftieth is interrupted */
} machine;

static const machine machines[] = {
    {"SmolLM2-135M, 2 threads", 2.9e-3, 0.68e-3, 0.52e-3, 0},
    {"SmolLM2-135M, 2 threads, disturbed", 2.9e-3, 0.68e-3, 0.52e-3, 0.2},
    {"1.1B, 2 threads", 17e-3, 3.2e-3, 4e-3, 0},
    {"many threads", 10e-3, 0.2e-3, 0.1e-3, 0},
};
enum { MACHINES = sizeof machines / sizeof *machines };
static const double interruption = 8e-3;

typedef struct stream {
    pr__job *job; /* NULL: its request is on its way */
    int key;
    size_t n_prompt;
    uint32_t n_new, n_seen;
    double pause, begins, sent, last;
    bool watched;
} stream;

typedef struct world {
    const machine *machine;
    pr__lane *lane;
    pr_prefix_counts counts;
    pr__key keys[KEYS];
    stream streams[STREAMS];
    int n;
    pr_job_id next_id;
    double now;
    rig_rng rng;
    pr_run runs[64];
    pr__job *jobs[64];
    pr__step step;
    double first[SAMPLES], between[SAMPLES];
    size_t n_first, n_between;
} world;

static double seconds_of(world *w, uint32_t decoding, uint32_t prompt) {
    const machine *m = w->machine;
    double seconds = m->fixed + m->decoding * decoding + m->prompt * prompt;
    if (m->jitter <= 0) return seconds;
    seconds *= 1 + m->jitter * (rig_below(&w->rng, 2001) / 1000.0 - 1);
    return seconds + (rig_below(&w->rng, 50) == 0 ? interruption : 0);
}

static void enter(world *w, stream *s) {
    const pr_job spec = {.model = "a.gguf"};
    pr__job *j = pr__job_new(&spec, ++w->next_id);
    assert_non_null(j);
    j->key = &w->keys[s->key];
    j->ids = pr_calloc(PR_TAG_SESSION, s->n_prompt, sizeof *j->ids);
    assert_non_null(j->ids);
    j->n_ids = s->n_prompt;
    j->n_new = s->n_new;
    assert_true(pr__lane_enter(w->lane, j));
    s->job = j;
    s->n_seen = 0;
    s->last = 0;
}

static void leave(world *w, stream *s) {
    pr__lane_leave(w->lane, s->job);
    pr__job_free(s->job);
    s->job = NULL;
    s->begins = s->sent = w->now + s->pause;
}

static void open_world(world *w, const machine *m) {
    *w = (world){.machine = m};
    w->lane = pr__lane_new(model, &w->counts);
    assert_non_null(w->lane);
    w->step.runs = w->runs;
    w->step.jobs = w->jobs;
}

static void close_world(world *w) {
    for (int i = 0; i < w->n; i++)
        if (w->streams[i].job) leave(w, &w->streams[i]);
    pr__lane_free(w->lane);
}

static stream *add(world *w, int key, int n, size_t n_prompt, uint32_t n_new) {
    stream *first = &w->streams[w->n];
    while (n-- > 0) w->streams[w->n++] = (stream){.key = key, .n_prompt = n_prompt, .n_new = n_new, .pause = 0.5e-3};
    return first;
}

static stream *stream_of(world *w, const pr__job *j) {
    for (int i = 0; i < w->n; i++)
        if (w->streams[i].job == j) return &w->streams[i];
    return NULL;
}

static void token(world *w, stream *s) {
    if (s->watched && s->last == 0 && w->n_first < SAMPLES) w->first[w->n_first++] = w->now - s->sent;
    if (s->watched && s->last != 0 && w->n_between < SAMPLES) w->between[w->n_between++] = w->now - s->last;
    s->last = w->now;
    if (++s->n_seen == s->n_new) leave(w, s);
}

static void one_step(world *w) {
    for (int i = 0; i < w->n; i++)
        if (!w->streams[i].job && w->streams[i].begins <= w->now) enter(w, &w->streams[i]);
    if (!pr__lane_compose(w->lane, &sched_opts, &w->step)) {
        w->now += 1e-4;
        return;
    }
    double took = seconds_of(w, w->step.decoding, w->step.prompt);
    pr__pace_note(&w->lane->pace, w->step.decoding, w->step.prompt, took);
    w->now += took;
    for (size_t i = 0; i < w->step.n; i++) {
        pr__job *j = w->step.jobs[i];
        if (!pr__job_decoding(j)) j->n_fed += w->step.runs[i].n_tokens;
        if (w->step.runs[i].n_logits) token(w, stream_of(w, j));
    }
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double part_of(double *values, size_t n, double part) {
    qsort(values, n, sizeof *values, by_value);
    return n ? values[(size_t)((double)(n - 1) * part)] : 0;
}

/* ---- rows ------------------------------------------------------------------------ */

static const machine *const smol = &machines[0];

/* n streams of a key that decode, and the machine's pace is known. */
static void decode_with(world *w, int n) {
    open_world(w, smol);
    add(w, 0, n, 64, 100000);
    one_step(w);
    pr__pace_note(&w->lane->pace, 1, 0, seconds_of(w, 1, 0));
    for (int i = 0; i < 2000; i++) { /* of all kinds */
        uint32_t d = 1 + (uint32_t)i % 8, p = i % 3 ? 0 : (uint32_t)i % 50;
        pr__pace_note(&w->lane->pace, d, p, seconds_of(w, d, p));
    }
    while (w->streams[n - 1].n_seen == 0) one_step(w);
}

static const pr__step *compose(world *w) {
    for (int i = 0; i < w->n; i++)
        if (!w->streams[i].job && w->streams[i].begins <= w->now) enter(w, &w->streams[i]);
    assert_true(pr__lane_compose(w->lane, &sched_opts, &w->step));
    return &w->step;
}

/* Rows of a step that are a key's, of prompts or decoding. */
static uint32_t rows_of(const world *w, int key, bool decoding) {
    uint32_t rows = 0;
    for (size_t i = 0; i < w->step.n; i++)
        if (w->step.jobs[i]->key == &w->keys[key] && pr__job_decoding(w->step.jobs[i]) == decoding)
            rows += w->step.runs[i].n_tokens;
    return rows;
}

static void near(double is, double wanted, double by) {
    if (is < wanted - by || is > wanted + by) fail_msg("%g, not %g", is, wanted);
}

static void a_key_alone_is_not_bounded(void **state) {
    (void)state;
    world *w = calloc(1, sizeof *w);
    decode_with(w, 8);
    add(w, 0, 2, 500, 10);
    compose(w);
    assert_int_equal(w->step.decoding, 8);
    assert_int_equal(w->step.prompt, 96);
    close_world(w);
    free(w);
}

/* Decoding within 1.75 of what two rows take; a new key's prompt first and for twice as long; four rows for the others'. */
static void a_fresh_prompt_goes_first(void **state) {
    (void)state;
    world *w = calloc(1, sizeof *w);
    decode_with(w, 18);
    add(w, 0, 2, 500, 10);
    for (int i = 0; i < 2; i++) one_step(w); /* the greedy key's prompts are older */
    add(w, 1, 1, 500, 10);
    compose(w);
    double two = seconds_of(w, 2, 0), now = seconds_of(w, w->step.decoding, 0);
    assert_true(w->step.decoding >= 3 && now + 4 * smol->prompt <= 1.8 * two);
    assert_int_equal(rows_of(w, 0, true), w->step.decoding);
    near(rows_of(w, 1, false), 2 * now / smol->prompt, 3);
    assert_int_equal(rows_of(w, 0, false), 4);
    close_world(w);
    free(w);
}

/* Who decodes does not wait for a greedy key's prompts: decoding rows make room for them. */
static void a_greedy_keys_prompts_hurt_nobody(void **state) {
    (void)state;
    world *w = calloc(1, sizeof *w);
    decode_with(w, 18);
    add(w, 1, 1, 20, 10000);
    while (w->streams[18].n_seen < 20) one_step(w);
    compose(w);
    uint32_t without = w->step.decoding;
    near(seconds_of(w, without, 0), 1.75 * seconds_of(w, 2, 0), smol->decoding * 1.5);
    add(w, 0, 2, 500, 10);
    compose(w);
    assert_int_equal(rows_of(w, 1, true), 1);
    assert_true(w->step.prompt >= 4 && w->step.decoding < without);
    assert_true(seconds_of(w, w->step.decoding, w->step.prompt) <= 1.85 * seconds_of(w, 2, 0));
    close_world(w);
    free(w);
}

/* Who comes back soon does not find a step that is full of prompts; all rows decode meanwhile. */
static void a_key_that_left_may_be_back(void **state) {
    (void)state;
    world *w = calloc(1, sizeof *w);
    decode_with(w, 18);
    stream *s = add(w, 1, 1, 20, 10);
    s->pause = 1e9;
    do one_step(w);
    while (s->job);
    add(w, 0, 1, 500, 10);
    compose(w);
    assert_int_equal(w->step.decoding, 8);
    near(w->step.prompt, 0.5 * seconds_of(w, 8, 0) / smol->prompt, 2);
    for (int i = 0; i < 260; i++) one_step(w);
    add(w, 0, 1, 500, 10);
    compose(w);
    assert_int_equal(w->step.prompt, 96);
    close_world(w);
    free(w);
}

/* ---- the promise ------------------------------------------------------------------ */

typedef struct seen {
    double first, between; /* p95 */
} seen;

/* Of a key that sends one request after the other, beside n streams of another that never stop; or of a third key's stream
 * that decodes meanwhile. */
static seen look(const machine *m, int n, size_t greedy_prompt, size_t prompt, bool third) {
    world *w = malloc(sizeof *w);
    seen s;
    assert_non_null(w);
    open_world(w, m);
    add(w, 0, n, greedy_prompt, 128);
    for (int i = 0; i < 400; i++) one_step(w);
    stream *modest = add(w, 1, 1, prompt, 48);
    modest->sent = w->now;
    modest->watched = !third;
    if (third) add(w, 2, 1, 20, 480)->watched = true;
    for (double end = w->now + 6000 * m->fixed; w->now < end;) one_step(w);
    s.between = part_of(w->between, w->n_between, 0.95);
    s.first = part_of(w->first, w->n_first, 0.95);
    assert_true(w->n_between > 500 && (third || w->n_first > 15));
    close_world(w);
    free(w);
    return s;
}

static void beside_twenty_at_most_twice_as_long(void **state) {
    (void)state;
    const size_t prompts[] = {20, 64, 500}, greedy[] = {64, 500};
    for (size_t m = 0; m < MACHINES; m++) {
        for (size_t i = 0; i < 3 * 2 * 2; i++) {
            bool third = i & 1;
            size_t g = greedy[i / 2 % 2], p = prompts[i / 4];
            seen few = look(&machines[m], 1, g, p, third), many = look(&machines[m], 20, g, p, third);
            double first = third ? 1 : many.first / few.first, between = many.between / few.between;
            print_message("%s, prompts of %zu beside %zu%s: first %.1f ms, %.2fx, between %.1f ms, %.2fx\n",
                          machines[m].name, p, g, third ? ", a third key" : "", many.first * 1e3, first,
                          many.between * 1e3, between);
            if (first > 2 || between > 2) fail();
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_alone_is_not_bounded),          cmocka_unit_test(a_fresh_prompt_goes_first),
        cmocka_unit_test(a_greedy_keys_prompts_hurt_nobody),   cmocka_unit_test(a_key_that_left_may_be_back),
        cmocka_unit_test(beside_twenty_at_most_twice_as_long),
    };
    return cmocka_run_group_tests_name("lane", tests, setup, teardown);
}
