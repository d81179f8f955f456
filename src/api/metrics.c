/*
 * Metrics: counting, and windows over what was counted.
 *
 * Everything counts from the start of the server and never goes back: that is what Prometheus wants, and a window is then a
 * difference of two states. The states are kept as 32-bit numbers, whose differences are right even when they wrap, so five
 * minutes cost 72 kB. Before there is a state as old as the window, it begins with the server.
 */
#include "api/metrics.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/os.h"

enum { STATES = PR__WINDOW_MAX / PR__WINDOW_STEP + 1 };

typedef struct counter {
    atomic_uint_least64_t n;
} counter;

static void add(counter *c, uint64_t n) { atomic_fetch_add_explicit(&c->n, n, memory_order_relaxed); }
static uint64_t get(const counter *c) { return atomic_load_explicit(&c->n, memory_order_relaxed); }

struct pr__model_metrics {
    char name[PR_TIMELINE_MODEL];
    pr_hist latency[PR__LATENCIES];
    counter outcome[PR__OUTCOMES];
    counter prompt, cached, generated;
};

typedef struct moves {
    counter n, ns, bytes;
} moves;

/* The counts that windows are of, of all models together. */
typedef struct totals {
    pr_hist_view latency[PR__LATENCIES];
    uint64_t answers, failures, prompt, cached, generated, lookups, hits;
} totals;

typedef struct state { /* totals at a moment, modulo 2^32 */
    double at;
    uint32_t count[PR__LATENCIES][PR_HIST_BUCKETS];
    double seconds[PR__LATENCIES];
    uint32_t answers, failures, prompt, cached, generated, lookups, hits;
    uint64_t rss;
} state;

struct pr__metrics {
    double opened_at;
    counter answers, failures;
    counter loads, load_ns, moves_failed, lookups, hits;
    moves down[PR__MOVE_CAUSES], up[PR__MOVE_CAUSES];
    atomic_uint n_models; /* of models[]; grows under the lock, after the name is written */
    pr__model_metrics models[PR__METRIC_MODELS_MAX + 1]; /* the last one: all others */
    pthread_mutex_t lock;
    state ring[STATES]; /* under the lock */
    uint32_t n_states, next;
};

static const char other[] = "other";

pr_status pr__metrics_open(pr__metrics **out, pr_err *err) {
    pr__metrics *m = pr_calloc(PR_TAG_HTTP, 1, sizeof *m);
    *out = m;
    if (!m) return pr_fail_nomem(err, "metrics", sizeof *m);
    pthread_mutex_init(&m->lock, NULL);
    m->opened_at = pr_now();
    return PR_OK;
}

void pr__metrics_close(pr__metrics *m) {
    if (!m) return;
    pthread_mutex_destroy(&m->lock);
    pr_free(m);
}

/* ---- recording --------------------------------------------------------- */

pr__model_metrics *pr__metrics_model(pr__metrics *m, const char *name) {
    pr__model_metrics *found = NULL;
    pthread_mutex_lock(&m->lock);
    unsigned n = atomic_load(&m->n_models);
    for (unsigned i = 0; i < n && !found; i++)
        if (strcmp(m->models[i].name, name) == 0) found = &m->models[i];
    if (!found) {
        bool room = n < PR__METRIC_MODELS_MAX;
        found = &m->models[room ? n : PR__METRIC_MODELS_MAX];
        if (n <= PR__METRIC_MODELS_MAX) {
            snprintf(found->name, sizeof found->name, "%s", room ? name : other);
            atomic_store(&m->n_models, n + 1);
        }
    }
    pthread_mutex_unlock(&m->lock);
    return found;
}

void pr__metrics_latency(pr__model_metrics *model, pr__latency which, double seconds) {
    pr_hist_add(&model->latency[which], seconds);
}

const char *pr__outcome_name(pr__outcome outcome) {
    static const char *const names[] = {"stop", "length", "timeout", "capacity", "cancelled", "error"};
    return names[outcome];
}

const char *pr__cause_name(pr_gov_cause cause) {
    static const char *const names[] = {"stay", "load", "memory", "request", "floor", "hand", "calm"};
    return names[cause];
}

_Static_assert(PR__MOVE_CAUSES == PR_GOV_CALM + 1, "a count for each cause");

void pr__metrics_count(pr__model_metrics *model, const pr__counted *choice) {
    add(&model->outcome[choice->outcome], 1);
    add(&model->prompt, choice->prompt);
    add(&model->cached, choice->cached);
    add(&model->generated, choice->generated);
}

void pr__metrics_answered(pr__metrics *m, bool failed) { add(failed ? &m->failures : &m->answers, 1); }

void pr__metrics_moved(pr__metrics *m, const pr_timeline_entry *move) {
    if (move->failed) {
        add(&m->moves_failed, 1);
        return;
    }
    moves *to = move->to < move->from || (move->to == move->from && move->bytes < 0) ? &m->down[move->cause]
                                                                                     : &m->up[move->cause];
    add(&to->n, 1);
    add(&to->ns, move->seconds > 0 ? (uint64_t)(move->seconds * 1e9) : 0);
    add(&to->bytes, (uint64_t)(move->bytes < 0 ? -move->bytes : move->bytes));
}

void pr__metrics_loaded(pr__metrics *m, double seconds) {
    add(&m->loads, 1);
    add(&m->load_ns, seconds > 0 ? (uint64_t)(seconds * 1e9) : 0);
}

void pr__metrics_cached(pr__metrics *m, uint64_t lookups, uint64_t hits) {
    atomic_store_explicit(&m->lookups.n, lookups, memory_order_relaxed);
    atomic_store_explicit(&m->hits.n, hits, memory_order_relaxed);
}

/* ---- windows ----------------------------------------------------------- */

static void gather(const pr__metrics *m, totals *t) {
    *t = (totals){
        .answers = get(&m->answers),
        .failures = get(&m->failures),
        .lookups = get(&m->lookups),
        .hits = get(&m->hits),
    };
    unsigned n = atomic_load(&m->n_models);
    for (unsigned i = 0; i < n; i++) {
        const pr__model_metrics *model = &m->models[i];
        for (int l = 0; l < PR__LATENCIES; l++) pr_hist_gather(&model->latency[l], &t->latency[l]);
        t->prompt += get(&model->prompt);
        t->cached += get(&model->cached);
        t->generated += get(&model->generated);
    }
}

void pr__metrics_tick(pr__metrics *m, double now) {
    totals t;
    pthread_mutex_lock(&m->lock);
    gather(m, &t);
    state *s = &m->ring[m->next];
    for (int l = 0; l < PR__LATENCIES; l++) {
        for (int b = 0; b < PR_HIST_BUCKETS; b++) s->count[l][b] = (uint32_t)t.latency[l].count[b];
        s->seconds[l] = t.latency[l].seconds;
    }
    s->at = now;
    s->answers = (uint32_t)t.answers;
    s->failures = (uint32_t)t.failures;
    s->prompt = (uint32_t)t.prompt;
    s->cached = (uint32_t)t.cached;
    s->generated = (uint32_t)t.generated;
    s->lookups = (uint32_t)t.lookups;
    s->hits = (uint32_t)t.hits;
    s->rss = pr_rss_bytes();
    m->next = (m->next + 1) % STATES;
    if (m->n_states < STATES) m->n_states++;
    pthread_mutex_unlock(&m->lock);
}

/* The newest state that is at least as old as `since`; NULL: the window begins with the server. Under the lock; *peak is
 * raised to the highest resident bytes after it. */
static const state *state_at(const pr__metrics *m, double since, uint64_t *peak) {
    for (uint32_t i = 1; i <= m->n_states; i++) {
        const state *s = &m->ring[(m->next + STATES - i) % STATES];
        if (s->at <= since) return s;
        if (s->rss > *peak) *peak = s->rss;
    }
    return NULL;
}

static void subtract(totals *t, const state *s) {
    for (int l = 0; l < PR__LATENCIES; l++) {
        pr_hist_view *v = &t->latency[l];
        v->n = 0;
        v->seconds -= s->seconds[l];
        for (int b = 0; b < PR_HIST_BUCKETS; b++) {
            v->count[b] = (uint32_t)v->count[b] - s->count[l][b];
            v->n += v->count[b];
        }
    }
    t->answers = (uint32_t)t->answers - s->answers;
    t->failures = (uint32_t)t->failures - s->failures;
    t->prompt = (uint32_t)t->prompt - s->prompt;
    t->cached = (uint32_t)t->cached - s->cached;
    t->generated = (uint32_t)t->generated - s->generated;
    t->lookups = (uint32_t)t->lookups - s->lookups;
    t->hits = (uint32_t)t->hits - s->hits;
}

static pr__quantiles quantiles_of(const pr_hist_view *v) {
    return (pr__quantiles){
        .n = v->n,
        .mean = v->n ? v->seconds / (double)v->n : (double)NAN,
        .p50 = pr_hist_quantile(v, 0.50),
        .p95 = pr_hist_quantile(v, 0.95),
        .p99 = pr_hist_quantile(v, 0.99),
    };
}

static double share(uint64_t part, uint64_t whole) { return whole ? (double)part / (double)whole : (double)NAN; }

void pr__metrics_summary(pr__metrics *m, double window, double now, pr__summary *out) {
    totals t;
    uint64_t peak = window > 0 ? pr_rss_bytes() : pr_rss_peak_bytes();
    double since = m->opened_at;
    pthread_mutex_lock(&m->lock);
    gather(m, &t);
    const state *s = window > 0 ? state_at(m, now - window, &peak) : NULL;
    if (s) {
        since = s->at;
        subtract(&t, s);
    }
    pthread_mutex_unlock(&m->lock);
    double seconds = now - since;
    uint64_t told = t.latency[PR__LATENCY_FIRST_TOKEN].n + t.latency[PR__LATENCY_NEXT_TOKEN].n; /* also of what runs */
    *out = (pr__summary){
        .seconds = seconds,
        .answers = t.answers,
        .failures = t.failures,
        .prompt = t.prompt,
        .cached = t.cached,
        .generated = t.generated,
        .tokens_per_second = seconds > 0 ? (double)told / seconds : 0,
        .error_rate = share(t.failures, t.answers + t.failures),
        .cache_hit_rate = share(t.hits, t.lookups),
        .prefix_hit_rate = share(t.cached, t.prompt),
        .rss_peak = peak,
    };
    for (int l = 0; l < PR__LATENCIES; l++) out->latency[l] = quantiles_of(&t.latency[l]);
}

/* ---- exposition -------------------------------------------------------- */

bool pr__metrics_view(pr__metrics *m, size_t i, pr__model_view *out) {
    if (i >= atomic_load(&m->n_models)) return false;
    const pr__model_metrics *model = &m->models[i];
    *out = (pr__model_view){0};
    memcpy(out->name, model->name, sizeof out->name);
    for (int l = 0; l < PR__LATENCIES; l++) pr_hist_gather(&model->latency[l], &out->latency[l]);
    for (int o = 0; o < PR__OUTCOMES; o++) out->outcome[o] = get(&model->outcome[o]);
    out->prompt = get(&model->prompt);
    out->cached = get(&model->cached);
    out->generated = get(&model->generated);
    return true;
}

static pr__move_view moves_of(const moves *m) {
    return (pr__move_view){get(&m->n), (double)get(&m->ns) * 1e-9, get(&m->bytes)};
}

void pr__metrics_process(pr__metrics *m, pr__process_view *out) {
    *out = (pr__process_view){
        .answers = get(&m->answers),
        .failures = get(&m->failures),
        .loads = get(&m->loads),
        .load_seconds = (double)get(&m->load_ns) * 1e-9,
        .moves_failed = get(&m->moves_failed),
    };
    for (int c = 0; c < PR__MOVE_CAUSES; c++) {
        out->down[c] = moves_of(&m->down[c]);
        out->up[c] = moves_of(&m->up[c]);
    }
}
