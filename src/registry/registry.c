/*
 * Registry of resident models.
 *
 * One list under one lock; everything slow (reading headers, loading, closing) happens outside it, while the entry's state
 * keeps others away: LOADING and CLOSING belong to one thread, READY to everybody. Waiting is for a change of any entry.
 *
 * Room is made in the order that hurts least: models nobody holds, least recently used first; then the new model at
 * fewer bytes, if it is elastic; then by draining: the least recently used model that is held takes no new holders, and
 * the load goes on when its last stream has ended. Lowering the level of models that work is the governor's decision.
 *
 * An entry is unlinked by whoever takes it out, but freed by the last thread that waits for it.
 *
 * Why bytes are asked for anew each time and not kept in sums: elastic models change theirs while they run.
 */
#include "registry/registry.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/os.h"
#include "base/str.h"
#include "engine/serve.h"

enum {
    NAMES_MAX = 16, /* of one file that are known without asking the resolver */
    KNOWN_MAX = 64  /* files whose loadings keep their number */
};

/* A file that was changed so shortly before it was read may have been changed again without another time: clocks of file systems
 * tick in up to two seconds. */
static const double settled_seconds = 3;

struct pr_model {
    pr_registry *registry;
    pr_model *next;
    char *names[NAMES_MAX]; /* [n_names] the first is the model's own */
    uint32_t n_names;
    char *path;
    pr_model_state state;
    bool pinned, failed, draining, gone; /* gone: taken out, to be freed by the last who waits */
    uint32_t n_held, n_waiting;
    uint64_t load; /* once READY */
    uint64_t access_count;
    double used_at; /* last acquired or released */
    pr_engine *engine;
    size_t bytes_claimed; /* while LOADING: what it will take */
    size_t bytes_fixed;   /* without elastic weights, once READY */
    pr_err err;           /* why loading failed */
};

struct pr_registry {
    pr_registry_opts opts; /* engine.texts: this registry's own */
    pr_registry_watch watch;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pr_model *models;
    uint32_t n_short; /* loads that wait for models to drain */
    struct known {
        pr_file_identity file;
        uint64_t load;
    } known[KNOWN_MAX]; /* the latest, a ring */
    uint64_t n_known;
    uint64_t n_numbers; /* of loadings, that were given */
    struct {
        uint64_t hits, loads, evicted, idle, cleared;
    } counts;
};

static size_t bound_of(size_t bytes_max) { return bytes_max ? bytes_max : (size_t)(pr_memory_limit() / 2); }

pr_status pr_registry_open(const pr_registry_opts *opts, pr_registry **out, pr_err *err) {
    *out = NULL;
    pr_registry *r = pr_calloc(PR_TAG_MISC, 1, sizeof *r);
    if (!r) return pr_fail_nomem(err, "registry", sizeof *r);
    r->opts = *opts;
    r->opts.bytes_max = bound_of(opts->bytes_max);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, &attr);
    pthread_condattr_destroy(&attr);
    pr_status st = pr_texts_open(&r->opts.engine.texts, err);
    if (st) pr_registry_close(r);
    else *out = r;
    return st;
}

static void model_free(pr_model *m) {
    if (!m) return;
    pr_engine_close(m->engine);
    for (uint32_t i = 0; i < m->n_names; i++) pr_free(m->names[i]);
    pr_free(m->path);
    pr_free(m);
}

void pr_registry_close(pr_registry *r) {
    if (!r) return;
    while (r->models) {
        pr_model *m = r->models;
        r->models = m->next;
        model_free(m);
    }
    pr_texts_close(r->opts.engine.texts);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
    pr_free(r);
}

/* ---- under the lock --------------------------------------------------- */

static void wait_a_moment(pr_registry *r) {
    enum { TICK_NS = 100000000 };
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += TICK_NS;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(&r->changed, &r->lock, &until);
}

static pr_model *find_path(const pr_registry *r, const char *path) {
    for (pr_model *m = r->models; m; m = m->next)
        if (strcmp(m->path, path) == 0 && !m->failed) return m;
    return NULL;
}

static bool is_named(const pr_model *m, const char *name) {
    bool yes = strcmp(m->path, name) == 0;
    for (uint32_t i = 0; i < m->n_names; i++) yes |= strcmp(m->names[i], name) == 0;
    return yes;
}

static pr_model *find_name(const pr_registry *r, const char *name) {
    for (pr_model *m = r->models; m; m = m->next)
        if (!m->failed && is_named(m, name)) return m;
    return NULL;
}

static bool is_open(const pr_model *m) { return m->state == PR_MODEL_READY && (!m->draining || m->pinned); }

static size_t bytes_of(const pr_model *m) {
    if (m->state != PR_MODEL_READY) return m->bytes_claimed;
    pr_elastic_info elastic;
    pr_engine_elastic(m->engine, &elastic);
    return m->bytes_fixed + elastic.bytes;
}

static size_t bytes_used(const pr_registry *r) {
    size_t sum = 0;
    for (const pr_model *m = r->models; m; m = m->next) sum += bytes_of(m);
    return sum;
}

/* Whoever waits for it frees it instead. */
static void take_out(pr_registry *r, pr_model *model) {
    pr_model **at = &r->models;
    while (*at != model) at = &(*at)->next;
    *at = model->next;
    model->gone = true;
    if (model->n_waiting == 0) model_free(model);
}

static void tell(const pr_registry *r, const pr_model *m, const char *what, double seconds, size_t bytes) {
    if (r->opts.event) r->opts.event(r->opts.event_arg, m->names[0], what, seconds, bytes);
}

/* The least recently used ready model that is not pinned: among those nobody holds, or those that take new holders. */
static pr_model *oldest(const pr_registry *r, bool held) {
    pr_model *best = NULL;
    for (pr_model *m = r->models; m; m = m->next) {
        if (m->pinned || m->state != PR_MODEL_READY || (m->n_held > 0) != held || (held && m->draining)) continue;
        if (!best || m->used_at < best->used_at) best = m;
    }
    return best;
}

/* Close a model that nobody holds. Leaves the lock meanwhile. */
static void evict(pr_registry *r, pr_model *m, const char *why, uint64_t *count) {
    ++*count;
    size_t bytes = bytes_of(m);
    m->state = PR_MODEL_CLOSING;
    m->bytes_claimed = bytes;
    pthread_mutex_unlock(&r->lock);
    double start = pr_now();
    if (r->watch.closing) r->watch.closing(r->watch.arg, m, why);
    pr_engine_close(m->engine);
    m->engine = NULL;
    tell(r, m, why, pr_now() - start, bytes);
    pthread_mutex_lock(&r->lock);
    take_out(r, m);
    pthread_cond_broadcast(&r->changed);
}

/* ---- loading ---------------------------------------------------------- */

/* What a model takes, from its header. */
typedef struct need {
    size_t fixed;            /* KV pool, work space, vocabulary, and weights that are not elastic */
    size_t scratch, at_once; /* at_once: all that is written before the first step, weights at their least */
    uint32_t requests;       /* that wait for it */
    uint64_t n_params;
    size_t least, most;      /* elastic weights; 0 for ordinary models */
    pr_elastic_info elastic; /* nothing but its levels counts */
    pr_sample machine;       /* when it was looked at */
} need;

static pr_status estimate(const pr_registry *r, const char *path, need *out, pr_err *err) {
    pr_estimate *e = NULL;
    pr_engine_info info;
    pr_status st = pr_engine_estimate(path, &r->opts.engine, &e, err);
    if (st) return st;
    pr_estimate_describe(e, &info);
    *out = (need){.scratch = info.scratch_bytes, .n_params = info.n_params};
    pr_estimate_elastic(e, &out->elastic);
    size_t loaded = info.scratch_bytes + info.other_bytes; /* beside weights and keys and values */
    out->fixed = info.kv_bytes_max + loaded + (out->elastic.elastic ? 0 : info.weight_bytes);
    out->least = out->elastic.bytes_min;
    out->most = out->elastic.bytes_max;
    size_t budget = out->elastic.elastic ? r->opts.engine.weights_budget : 0;
    if (budget && budget < out->most) out->most = budget;
    out->at_once = loaded + (out->elastic.elastic ? out->least : info.weight_bytes);
    if (r->opts.monitor) pr_monitor_sample(r->opts.monitor, &out->machine);
    pr_estimate_close(e);
    return PR_OK;
}

/* Elastic weights to begin with, of `room` bytes: the policy's first choice, or all. */
static size_t first_weights(const pr_registry *r, const need *n, size_t room) {
    size_t weights = room < n->most ? room : n->most;
    if (!r->opts.monitor || !r->opts.gov || !n->elastic.elastic) return weights;
    pr_gov_snapshot snap = {.limit_bytes = n->machine.limit_bytes,
                            .used_bytes = n->machine.used_bytes,
                            .projected = n->machine.scripted,
                            .top = n->elastic.top,
                            .weight_bytes_min = n->least,
                            .weight_bytes_max = weights,
                            .n_params = n->n_params,
                            .poor_int2 = !n->elastic.int2_usable,
                            .queued = n->requests,
                            .request_bytes = n->scratch};
    pr_gov_decision d;
    for (int l = 0; l < PR_LEVELS; l++) snap.level_bytes[l] = n->elastic.level_bytes[l];
    pr_gov_decide(r->opts.gov, &snap, &d);
    return d.weight_bytes < weights ? d.weight_bytes : weights;
}

static pr_status refuse(const pr_registry *r, const pr_model *m, const need *n, pr_err *err) {
    char want[32], most[32];
    return pr_fail(err, PR_ERR_LIMIT, "%s needs at least %s; models may take %s in all (MAX_MODEL_CACHE_MB)",
                   m->names[0], pr_format_bytes(want, sizeof want, n->fixed + n->least),
                   pr_format_bytes(most, sizeof most, r->opts.bytes_max));
}

/* Whether the machine has room for it, too; a scripted source speaks of levels only. */
static bool machine_has(const pr_registry *r, const need *n) {
    return !r->opts.monitor || n->machine.scripted || n->at_once <= n->machine.available_bytes;
}

static pr_status refuse_memory(const pr_model *m, const need *n, pr_err *err) {
    char want[32], have[32];
    return pr_fail(err, PR_ERR_LIMIT, "%s needs at least %s to begin; %s of memory can be had now", m->names[0],
                   pr_format_bytes(want, sizeof want, n->at_once),
                   pr_format_bytes(have, sizeof have, n->machine.available_bytes));
}

/* Let models drain, the least recently used first, until there will be room for `bytes`. */
static void drain_for(const pr_registry *r, size_t bytes) {
    size_t staying = 0;
    for (const pr_model *k = r->models; k; k = k->next)
        if (k->state == PR_MODEL_LOADING || (k->state == PR_MODEL_READY && is_open(k))) staying += bytes_of(k);
    while (staying + bytes > r->opts.bytes_max) {
        pr_model *victim = oldest(r, true);
        if (!victim) return;
        victim->draining = true;
        staying -= bytes_of(victim);
    }
}

/* Make room and claim it: *weights is what elastic weights may take. Called and returns under the lock. */
static pr_status make_room(pr_registry *r, pr_model *m, need *n, const atomic_int *cancel, size_t *weights,
                           pr_err *err) {
    size_t least = n->fixed + n->least;
    while (least <= r->opts.bytes_max) {
        size_t used = bytes_used(r), room = used < r->opts.bytes_max ? r->opts.bytes_max - used : 0;
        bool tight = room < n->fixed + n->most || !machine_has(r, n);
        pr_model *victim = tight ? oldest(r, false) : NULL;
        if (victim) {
            evict(r, victim, "evicted", &r->counts.evicted);
            if (r->opts.monitor) pr_monitor_sample(r->opts.monitor, &n->machine);
            continue;
        }
        if (!machine_has(r, n)) return refuse_memory(m, n, err);
        if (room >= least) {
            *weights = first_weights(r, n, room - n->fixed);
            m->bytes_claimed = n->fixed + *weights;
            return PR_OK;
        }
        if (cancel && atomic_load(cancel))
            return pr_fail(err, PR_ERR_CANCELLED, "cancelled while waiting for room for %s", m->names[0]);
        drain_for(r, least);
        wait_a_moment(r);
    }
    return refuse(r, m, n, err);
}

static pr_status find_room(pr_registry *r, pr_model *m, need *n, const atomic_int *cancel, size_t *weights,
                           pr_err *err) {
    r->n_short++;
    pr_status st = make_room(r, m, n, cancel, weights, err);
    if (--r->n_short == 0)
        for (pr_model *k = r->models; k; k = k->next) k->draining = false;
    return st;
}

/* The number of a loading that began at `start` (wall clock): that of the last one of the same, unchanged file, else a new one.
 * Looked at after loading, so a change meanwhile counts. Under the lock. */
static uint64_t number_of(pr_registry *r, const pr_engine *engine, double start) {
    pr_file_identity file;
    bool sure = pr_engine_file(engine, &file) && (double)file.changed_ns * 1e-9 < start - settled_seconds;
    for (size_t i = 0; sure && i < KNOWN_MAX && i < r->n_known; i++)
        if (memcmp(&r->known[i].file, &file, sizeof file) == 0) return r->known[i].load;
    uint64_t number = ++r->n_numbers;
    if (sure) r->known[r->n_known++ % KNOWN_MAX] = (struct known){file, number};
    return number;
}

/* The thread that found no entry loads; others wait for its state. Called and returns under the lock, and leaves it. */
static void load(pr_registry *r, pr_model *m, const atomic_int *cancel) {
    need n = {0};
    size_t weights = 0;
    pr_engine *engine = NULL;
    pr_engine_opts opts = r->opts.engine;
    double start = pr_now(), began = pr_wall_clock();
    pthread_mutex_unlock(&r->lock);
    pr_status st = estimate(r, m->path, &n, &m->err);
    n.requests = r->watch.waiting ? r->watch.waiting(r->watch.arg, m) : 1;
    pthread_mutex_lock(&r->lock);
    if (!st) st = find_room(r, m, &n, cancel, &weights, &m->err);
    pthread_mutex_unlock(&r->lock);
    opts.level_given = false;
    opts.weights_budget = weights;
    if (!st) st = pr_engine_open(m->path, &opts, &engine, &m->err);
    if (!st) tell(r, m, "loaded", pr_now() - start, n.fixed + weights);
    m->engine = engine; /* nobody looks at it before it is READY */
    if (!st && r->watch.opened) r->watch.opened(r->watch.arg, m);
    pthread_mutex_lock(&r->lock);
    m->failed = st != PR_OK;
    m->bytes_claimed = 0;
    m->bytes_fixed = st ? 0 : n.fixed;
    if (!st) m->load = number_of(r, engine, began);
    r->counts.loads += !st;
    if (!st) m->state = PR_MODEL_READY;
    pthread_cond_broadcast(&r->changed);
}

/* ---- acquiring -------------------------------------------------------- */

/* Another name of the model; one too many, or one for which there is no memory, is resolved each time. */
static bool add_name(pr_model *m, const char *name) {
    if (m->n_names == NAMES_MAX || is_named(m, name)) return false;
    m->names[m->n_names] = pr_strdup(PR_TAG_MISC, name);
    m->n_names += m->names[m->n_names] != NULL;
    return true;
}

static pr_model *entry_new(pr_registry *r, const char *name, const char *path) {
    pr_model *m = pr_calloc(PR_TAG_MISC, 1, sizeof *m);
    if (!m) return NULL;
    *m = (pr_model){.registry = r, .path = pr_strdup(PR_TAG_MISC, path), .state = PR_MODEL_LOADING};
    m->names[0] = pr_strdup(PR_TAG_MISC, name);
    m->n_names = m->names[0] != NULL;
    if (!m->n_names || !m->path) {
        model_free(m);
        return NULL;
    }
    m->next = r->models;
    r->models = m;
    return m;
}

static pr_model *hold(pr_model *m) {
    m->n_held++;
    m->access_count++;
    m->used_at = pr_now();
    return m;
}

/* Wait for what another thread does with the entry. PR_OK: look again; else its load has failed. That the other gave up
 * waiting is no failure: then somebody else loads. */
static pr_status wait_for(pr_registry *r, pr_model *m, pr_err *err) {
    m->n_waiting++;
    wait_a_moment(r);
    m->n_waiting--;
    pr_status st = m->failed && m->err.status != PR_ERR_CANCELLED ? m->err.status : PR_OK;
    if (st && err) *err = m->err;
    if (m->gone && m->n_waiting == 0) model_free(m);
    return st;
}

static pr_status load_new(pr_registry *r, const char *name, const char *path, const atomic_int *cancel, pr_model **out,
                          pr_err *err) {
    pr_model *m = entry_new(r, name, path);
    if (!m) return pr_fail_nomem(err, "registry entry", sizeof *m);
    load(r, m, cancel);
    if (!m->failed) {
        *out = hold(m);
        return PR_OK;
    }
    pr_status st = m->err.status;
    if (err) *err = m->err;
    take_out(r, m);
    return st;
}

/* Under the lock; path is the file. */
static pr_status acquire_path(pr_registry *r, const char *name, const char *path, const atomic_int *cancel,
                              pr_model **out, pr_err *err) {
    for (;;) {
        if (cancel && atomic_load(cancel)) return pr_fail(err, PR_ERR_CANCELLED, "cancelled: waiting for %s", name);
        pr_model *m = find_path(r, path);
        if (!m) return load_new(r, name, path, cancel, out, err);
        if (is_open(m)) {
            add_name(m, name);
            r->counts.hits++;
            *out = hold(m);
            return PR_OK;
        }
        pr_status st = wait_for(r, m, err); /* loading, closing, or to be closed when its streams have ended */
        if (st) return st;
    }
}

pr_status pr_registry_acquire(pr_registry *r, const char *name, const atomic_int *cancel, pr_model **out, pr_err *err) {
    char *path = NULL;
    char real[PATH_MAX];
    *out = NULL;
    pr_status st = r->opts.resolve(r->opts.resolve_arg, name, &path, err);
    if (st) return st;
    const char *key = realpath(path, real) ? real : path;
    pthread_mutex_lock(&r->lock);
    st = acquire_path(r, name, key, cancel, out, err);
    pthread_mutex_unlock(&r->lock);
    pr_free(path);
    return st;
}

bool pr_registry_acquire_ready(pr_registry *r, const char *name, pr_model **out) {
    pthread_mutex_lock(&r->lock);
    pr_model *m = find_name(r, name);
    *out = m && is_open(m) ? hold(m) : NULL;
    r->counts.hits += *out != NULL;
    pthread_mutex_unlock(&r->lock);
    return *out != NULL;
}

bool pr_registry_is_ready(pr_registry *r, const char *name) {
    pthread_mutex_lock(&r->lock);
    const pr_model *m = find_name(r, name);
    bool ready = m && is_open(m);
    pthread_mutex_unlock(&r->lock);
    return ready;
}

bool pr_registry_standing(pr_registry *r, const char *name, pr_model_standing *out) {
    *out = (pr_model_standing){0};
    pthread_mutex_lock(&r->lock);
    pr_model *m = find_name(r, name);
    bool ready = m && is_open(m);
    if (ready) {
        m->used_at = pr_now();
        out->load = m->load;
        out->elastic = pr_engine_cursors(m->engine, &out->cursor, out->level_cursor);
    }
    pthread_mutex_unlock(&r->lock);
    return ready;
}

void pr_registry_release(pr_model *model) {
    if (!model) return;
    pr_registry *r = model->registry;
    pthread_mutex_lock(&r->lock);
    model->n_held--;
    model->used_at = pr_now();
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

pr_engine *pr_model_engine(const pr_model *model) { return model->engine; }

uint64_t pr_model_load(const pr_model *model) { return model->load; }

const char *pr_model_name(const pr_model *model) { return model->names[0]; }

bool pr_model_named(const pr_model *model, const char *name) {
    pthread_mutex_lock(&model->registry->lock);
    bool yes = is_named(model, name);
    pthread_mutex_unlock(&model->registry->lock);
    return yes;
}

/* ---- looking and tidying ---------------------------------------------- */

bool pr_registry_pin(pr_registry *r, const char *name, bool pinned) {
    pthread_mutex_lock(&r->lock);
    pr_model *m = find_name(r, name);
    if (m) m->pinned = pinned;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    return m != NULL;
}

static bool is_stale(const pr_registry *r, const pr_model *m, bool all) {
    if (m->state != PR_MODEL_READY || m->n_held > 0 || (m->pinned && !all)) return false;
    return all || (r->opts.keep_alive_seconds > 0 && pr_now() - m->used_at > r->opts.keep_alive_seconds);
}

uint32_t pr_registry_sweep(pr_registry *r, bool all) {
    uint32_t n = 0;
    pthread_mutex_lock(&r->lock);
    for (pr_model *m = r->models; m;) {
        if (!is_stale(r, m, all)) {
            m = m->next;
            continue;
        }
        evict(r, m, all ? "cleared" : "idle", all ? &r->counts.cleared : &r->counts.idle);
        m = r->models; /* the list may have changed meanwhile */
        n++;
    }
    pthread_mutex_unlock(&r->lock);
    return n;
}

void pr_registry_watched_by(pr_registry *r, const pr_registry_watch *watch) { r->watch = *watch; }

void pr_registry_set_bytes_max(pr_registry *r, size_t bytes) {
    pthread_mutex_lock(&r->lock);
    r->opts.bytes_max = bound_of(bytes);
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static void describe(const pr_model *m, pr_model_info *out) {
    *out = (pr_model_info){
        .state = m->state,
        .pinned = m->pinned,
        .n_held = m->n_held,
        .access_count = m->access_count,
        .idle_seconds = m->n_held || m->state != PR_MODEL_READY ? 0 : pr_now() - m->used_at,
        .bytes = bytes_of(m),
    };
    size_t len = strlen(m->names[0]), most = sizeof out->name - 1;
    memcpy(out->name, m->names[0], len <= most ? len : pr_utf8_complete(m->names[0], most));
    if (m->state != PR_MODEL_READY) return;
    pr_engine_describe(m->engine, &out->engine);
    pr_engine_elastic(m->engine, &out->elastic);
    out->engine.path = out->engine.arch = out->engine.name = out->engine.weight_types = out->engine.note = NULL;
    out->engine.isa = out->engine.chat_template = NULL;
}

size_t pr_registry_list(const pr_registry *r, pr_model_info *out, size_t max) {
    pr_registry *own = (pr_registry *)(uintptr_t)r; /* the lock is no part of what is const */
    size_t n = 0, held = 0;
    pthread_mutex_lock(&own->lock);
    for (const pr_model *m = r->models; m; m = m->next) {
        if (m->failed) continue;
        n++;
        pr_model_info info;
        describe(m, &info);
        size_t at = held;
        while (at > 0 && out[at - 1].idle_seconds > info.idle_seconds) at--;
        if (at >= max) continue;
        size_t last = held < max ? held++ : max - 1;
        memmove(out + at + 1, out + at, (last - at) * sizeof *out);
        out[at] = info;
    }
    pthread_mutex_unlock(&own->lock);
    return n;
}

size_t pr_registry_bytes(const pr_registry *r) {
    pr_registry *own = (pr_registry *)(uintptr_t)r;
    pthread_mutex_lock(&own->lock);
    size_t bytes = bytes_used(r);
    pthread_mutex_unlock(&own->lock);
    return bytes;
}

size_t pr_registry_bytes_max(const pr_registry *r) {
    pr_registry *own = (pr_registry *)(uintptr_t)r;
    pthread_mutex_lock(&own->lock);
    size_t bytes = r->opts.bytes_max;
    pthread_mutex_unlock(&own->lock);
    return bytes;
}

void pr_registry_stats_get(pr_registry *r, pr_registry_stats *out) {
    pthread_mutex_lock(&r->lock);
    *out = (pr_registry_stats){
        .hits = r->counts.hits,
        .loads = r->counts.loads,
        .evicted = r->counts.evicted,
        .idle = r->counts.idle,
        .cleared = r->counts.cleared,
        .bytes = bytes_used(r),
        .bytes_max = r->opts.bytes_max,
    };
    for (const pr_model *m = r->models; m; m = m->next) out->models += !m->failed;
    pthread_mutex_unlock(&r->lock);
}

pr_texts *pr_registry_texts(pr_registry *r) { return r->opts.engine.texts; }
