/*
 * The scheduler: queue, threads, time limits.
 *
 * Three threads. One steps: it alone touches sessions and engines' steps. One prepares requests whose model is resident, one
 * loads models, so that a load of a minute delays only those who wait for that model. A single lock guards lists and
 * counts; no callback but on_queue is made under it, and nothing slow.
 *
 * A job leaves through one door: it is put on the list `done` in whatever state it was, and the stepping thread calls
 * on_done, keeps its session for its prefix if that is whole, and lets go of the model.
 */
#include "sched/sched_impl.h"

#include <string.h>
#include <time.h>

#include "base/os.h"
#include "engine/serve.h"

enum { TICK_MS = 50, QUEUE_DEFAULT = 64, PARALLEL_DEFAULT = 8, SESSIONS_DEFAULT = 64, CHUNK_DEFAULT = 96 };

/* ---- keys -------------------------------------------------------------- */

/* A key that begins starts level with those at work. */
static uint64_t least_served(const pr_sched *s) {
    uint64_t least = UINT64_MAX;
    for (const pr__key *k = s->keys; k; k = k->next)
        if (k->n_jobs && k->served < least) least = k->served;
    return least == UINT64_MAX ? 0 : least;
}

static pr__key *key_of(pr_sched *s, const char *name) {
    pr__key *k = s->keys;
    while (k && strcmp(k->name, name) != 0) k = k->next;
    if (!k) {
        k = pr_calloc(PR_TAG_SESSION, 1, sizeof *k);
        if (!k) return NULL;
        k->name = pr_strdup(PR_TAG_SESSION, name);
        if (!k->name) {
            pr_free(k);
            return NULL;
        }
        k->next = s->keys;
        s->keys = k;
    }
    uint64_t least = least_served(s);
    if (k->n_jobs == 0 && k->served < least) k->served = least;
    return k;
}

/* ---- submitting -------------------------------------------------------- */

static uint32_t n_waiting(const pr_sched *s) { return s->queued.n + s->prepared.n; }

/* Seconds until a request that is n-th in line begins. */
static double estimate_wait(const pr_sched *s, uint32_t n) { return s->mean_seconds * n / s->opts.parallel; }

static uint32_t retry_after(const pr_sched *s) {
    double wait = estimate_wait(s, n_waiting(s) + 1);
    return wait < 1 ? 1 : wait > 60 ? 60 : (uint32_t)wait;
}

static pr_status check_job(const pr_sched *s, const pr_job *job, pr_err *err) {
    if (!job->model || !job->prepare || !job->on_done)
        return pr_fail(err, PR_ERR_ARG, "a job needs model, prepare and on_done");
    if (s->draining) return pr_fail(err, PR_ERR_LIMIT, "the server is shutting down");
    if (n_waiting(s) >= s->opts.queue_max)
        return pr_fail(err, PR_ERR_LIMIT, "the queue is full: %u requests are waiting", n_waiting(s));
    return PR_OK;
}

pr_status pr_sched_submit(pr_sched *s, const pr_job *job, pr_job_id *id, pr_err *err) {
    pthread_mutex_lock(&s->lock);
    pr_status st = check_job(s, job, err);
    pr__job *own = st ? NULL : pr__job_new(job, s->next_id);
    if (own) own->key = key_of(s, job->key ? job->key : "");
    if (!st && (!own || !own->key)) {
        pr__job_free(own);
        st = pr_fail_nomem(err, "job", sizeof *own);
    }
    if (!st) {
        *id = s->next_id++;
        own->key->n_jobs++;
        pr__jobs_append(&s->queued, own);
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return st;
}

static pr__job *find_in(const pr__jobs *list, pr_job_id id) {
    for (pr__job *j = list->first; j; j = j->link)
        if (j->id == id) return j;
    return NULL;
}

static pr__job *find_job(const pr_sched *s, pr_job_id id) {
    pr__job *j = find_in(&s->queued, id);
    if (!j) j = find_in(&s->preparing, id);
    if (!j) j = find_in(&s->prepared, id);
    for (const pr__lane *l = s->lanes; l && !j; l = l->next) j = find_in(&l->running, id);
    return j;
}

void pr_sched_cancel(pr_sched *s, pr_job_id id) {
    pthread_mutex_lock(&s->lock);
    pr__job *j = find_job(s, id);
    if (j) j->cancel = 1;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/* ---- preparing --------------------------------------------------------- */

/* The next job for a preparing thread, with its model held when that is resident; NULL: none. The loader takes those whose
 * model is not. */
static pr__job *next_to_prepare(pr_sched *s, bool loader) {
    for (pr__job *j = s->queued.first; j; j = j->link) {
        if (j->cancel) continue;
        bool ready = pr_registry_acquire_ready(s->opts.registry, j->spec.model, &j->model);
        if (ready != loader) return j;
        if (ready) { /* not for the loader: it would release it at once, which takes the registry's lock only */
            pr_registry_release(j->model);
            j->model = NULL;
        }
    }
    return NULL;
}

static pr_status prepare(pr__job *j, pr_err *err) {
    pr_engine *engine = pr_model_engine(j->model);
    pr_engine_info info;
    pr_engine_describe(engine, &info);
    pr_status st = j->spec.prepare(j->spec.arg, engine, &j->ids, &j->n_ids, err);
    if (st) return st;
    if (j->n_ids == 0) return pr_fail(err, PR_ERR_ARG, "the prompt is empty");
    if (j->n_ids >= info.context_max)
        return pr_fail(err, PR_ERR_ARG, "the prompt of %zu tokens leaves no room in a context of %u", j->n_ids,
                       info.context_max);
    uint32_t room = info.context_max - (uint32_t)j->n_ids, asked = j->spec.generate.max_tokens;
    j->n_new = asked && asked < room ? asked : room;
    return PR_OK;
}

static void prepare_one(pr_sched *s, pr__job *j) {
    pr_err err = {0};
    double start = pr_now();
    pr_status st = PR_OK;
    if (!j->model) st = pr_registry_acquire(s->opts.registry, j->spec.model, &j->cancel, &j->model, &err);
    j->done.load_seconds = pr_now() - start;
    if (!st) st = prepare(j, &err);
    pthread_mutex_lock(&s->lock);
    pr__jobs_remove(&s->preparing, j);
    j->prepared_at = pr_now();
    if (st && j->timed_out) pr_fail(&err, PR_ERR_LIMIT, "%s was not loaded within the time limit", j->spec.model);
    if (st) {
        pr__job_fail(j, &err, j->timed_out || st == PR_ERR_LIMIT ? retry_after(s) : 0);
        pr__jobs_append(&s->done, j);
    } else {
        j->state = PR__JOB_PREPARED;
        pr__jobs_append(&s->prepared, j);
    }
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void *preparer(pr_sched *s, bool loader) {
    pthread_mutex_lock(&s->lock);
    while (!s->stopping) {
        pr__job *j = next_to_prepare(s, loader);
        if (!j) {
            pr__sched_wait(s, TICK_MS);
            continue;
        }
        pr__jobs_remove(&s->queued, j);
        pr__jobs_append(&s->preparing, j);
        j->state = PR__JOB_PREPARING;
        pthread_mutex_unlock(&s->lock);
        prepare_one(s, j);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void *prepare_thread(void *arg) { return preparer(arg, false); }

static void *load_thread(void *arg) { return preparer(arg, true); }

/* ---- time and leaving -------------------------------------------------- */

static void leave(pr_sched *s, pr__jobs *list, pr__job *j) {
    pr__jobs_remove(list, j);
    pr__jobs_append(&s->done, j);
}

/* Jobs that wait: gone, or waiting too long. */
static void tend_waiting(pr_sched *s, pr__jobs *list, double now) {
    for (pr__job *j = list->first, *next; j; j = next) {
        pr_err err = {0};
        next = j->link;
        if (j->cancel) {
            pr__job_end(j, PR_JOB_CANCELLED);
        } else if (now - j->queued_at - j->done.load_seconds > s->opts.queue_seconds) {
            pr_fail(&err, PR_ERR_LIMIT, "the request waited for %.0f seconds without its turn", s->opts.queue_seconds);
            pr__job_fail(j, &err, retry_after(s));
        } else {
            continue;
        }
        leave(s, list, j);
    }
}

static bool is_late(const pr_sched *s, const pr__job *j, double now) {
    const pr_sched_opts *o = &s->opts;
    if (j->parked_at != 0) return false;
    if (o->total_seconds > 0 && now - j->queued_at > o->total_seconds) return true;
    if (j->stats.n_generated == 0) return pr__job_decoding(j) && now - j->progress_at > o->first_token_seconds;
    return now - j->progress_at > o->stall_seconds;
}

/* Running jobs: done, gone, parked or running too long. */
static void tend_running(pr_sched *s, pr__lane *lane, double now) {
    for (pr__job *j = lane->running.first, *next; j; j = next) {
        next = j->link;
        if (j->state != PR__JOB_DONE && j->cancel) pr__job_end(j, PR_JOB_CANCELLED);
        if (j->state != PR__JOB_DONE && j->parked_at != 0 && now - j->parked_at > s->opts.park_seconds)
            pr__job_end(j, PR_JOB_CAPACITY);
        if (j->state != PR__JOB_DONE && is_late(s, j, now)) pr__job_end(j, PR_JOB_TIMEOUT);
        if (j->state != PR__JOB_DONE) continue;
        j->key->n_running--;
        leave(s, &lane->running, j);
    }
}

/* A load that takes too long is given up by those who wait for it. */
static void tend_preparing(const pr_sched *s, double now) {
    for (pr__job *j = s->preparing.first; j; j = j->link) {
        if (j->model || now - j->queued_at <= s->opts.load_seconds) continue;
        j->timed_out = true;
        j->cancel = 1;
    }
}

static void tell_positions(pr_sched *s) {
    uint32_t at = 0;
    const pr__jobs *lists[] = {&s->prepared, &s->queued};
    for (int l = 0; l < 2; l++) {
        for (pr__job *j = lists[l]->first; j; j = j->link) {
            if (++at == j->position || !j->spec.on_queue) continue;
            j->position = at;
            j->spec.on_queue(j->spec.arg, at, estimate_wait(s, at));
        }
    }
}

/* ---- admitting --------------------------------------------------------- */

static pr__lane *lane_of(pr_sched *s, const pr_model *model) {
    pr__lane *l = s->lanes;
    while (l && l->model != model) l = l->next;
    if (l) return l;
    l = pr__lane_new(model);
    if (!l) return NULL;
    l->next = s->lanes;
    s->lanes = l;
    return l;
}

static uint32_t n_running(const pr_sched *s) {
    uint32_t n = 0;
    for (const pr__lane *l = s->lanes; l; l = l->next) n += l->running.n;
    return n;
}

/* The prepared job whose key has the fewest running ones; the oldest of those. */
static pr__job *next_to_admit(const pr_sched *s) {
    pr__job *best = NULL;
    for (pr__job *j = s->prepared.first; j; j = j->link)
        if (!j->tried && (!best || j->key->n_running < best->key->n_running)) best = j;
    return best;
}

static void admit_one(pr_sched *s, pr__lane *lane, pr__job *j) {
    pr_err err = {0};
    char reason[PR_GOV_REASON];
    pr_gov_session wish = {j->spec.floor_given, j->spec.force_given, j->spec.floor, j->spec.force};
    pr_session *session = NULL;
    uint32_t n_cached = 0;
    pr_status st = PR_OK;
    if (!pr_gov_admits(&lane->levels, &wish, reason)) st = pr_fail(&err, PR_ERR_LIMIT, "%s", reason);
    pr_level level = j->spec.force_given ? j->spec.force : lane->levels.level;
    if (j->spec.floor_given && j->spec.floor > level) level = j->spec.floor;
    if (level > lane->levels.top) level = lane->levels.top;
    if (!st && !s->opts.prefix_off) session = pr__prefix_take(lane, j, level, &n_cached);
    if (!st) st = pr__job_start(j, session, n_cached, &err);
    if (st) {
        pr__job_fail(j, &err, st == PR_ERR_LIMIT ? retry_after(s) : 0);
        leave(s, &s->prepared, j);
        return;
    }
    j->admitted_at = j->progress_at = pr_now();
    j->done.queue_seconds = j->admitted_at - j->queued_at - j->done.load_seconds;
    j->state = PR__JOB_RUNNING;
    j->key->n_running++;
    pr__jobs_remove(&s->prepared, j);
    pr__jobs_append(&lane->running, j);
    s->tokens_cached += n_cached;
}

static void admit(pr_sched *s) {
    uint32_t most = s->opts.serial ? 1 : s->opts.sessions_max;
    for (pr__job *j = s->prepared.first; j; j = j->link) j->tried = false;
    for (pr__job *j; n_running(s) < most && (j = next_to_admit(s));) {
        pr__lane *lane = lane_of(s, j->model);
        j->tried = true;
        if (lane && pr__lane_reserve(lane, j)) admit_one(s, lane, j);
    }
}

/* ---- the stepping thread ----------------------------------------------- */

/* Call on_done for everything on the list; without the lock. */
static void bury(pr_sched *s) {
    pthread_mutex_lock(&s->lock);
    pr__job *first = s->done.first;
    s->done = (pr__jobs){0};
    for (pr__job *j = first; j; j = j->link) {
        double took = j->done.total_seconds;
        pr__lane *lane = s->lanes;
        while (lane && lane->model != j->model) lane = lane->next;
        s->n_done += j->done.finish != PR_JOB_ERROR && j->done.finish != PR_JOB_CANCELLED;
        s->n_failed += j->done.finish == PR_JOB_ERROR;
        s->n_cancelled += j->done.finish == PR_JOB_CANCELLED;
        s->tokens_prompt += j->n_fed - j->done.n_cached;
        s->tokens_generated += j->stats.n_generated;
        if (j->admitted_at != 0) s->mean_seconds += (took - s->mean_seconds) * (s->mean_seconds > 0 ? 0.1 : 1);
        if (lane && j->session && !s->opts.prefix_off && j->done.finish != PR_JOB_ERROR) pr__prefix_keep(lane, j);
        j->key->n_jobs--;
    }
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    for (pr__job *j = first, *next; j; j = next) {
        next = j->link;
        pr_model *model = j->model;
        j->spec.on_done(j->spec.arg, &j->done);
        pr__job_free(j);
        pr_registry_release(model);
    }
}

/* The next lane after the last one that has something to run. */
static pr__lane *compose(pr_sched *s, pr__step *step) {
    pr__lane *lane = s->last && s->last->next ? s->last->next : s->lanes;
    for (pr__lane *begin = lane; lane;) {
        if (lane->running.n && pr__lane_compose(lane, &s->opts, step)) return s->last = lane;
        lane = lane->next ? lane->next : s->lanes;
        if (lane == begin) break;
    }
    return NULL;
}

static void tend(pr_sched *s) {
    double now = pr_now();
    tend_waiting(s, &s->queued, now);
    tend_waiting(s, &s->prepared, now);
    tend_preparing(s, now);
    for (pr__lane *l = s->lanes; l; l = l->next) tend_running(s, l, now);
    if (s->drop_prefixes)
        for (pr__lane *l = s->lanes; l; l = l->next) pr__prefix_drop_all(l);
    s->drop_prefixes = false;
    admit(s);
    tell_positions(s);
}

static void *step_thread(void *arg) {
    pr_sched *s = arg;
    pr__step step = {.runs = s->runs, .jobs = s->run_jobs};
    pthread_mutex_lock(&s->lock);
    while (!s->stopping) {
        tend(s);
        if (s->done.n) {
            pthread_mutex_unlock(&s->lock);
            bury(s);
            pthread_mutex_lock(&s->lock);
            continue;
        }
        pr__govern(s);
        if (s->let_go) {
            pr_model *model = s->let_go;
            s->let_go = NULL;
            pthread_mutex_unlock(&s->lock);
            pr_registry_release(model);
            pthread_mutex_lock(&s->lock);
            continue;
        }
        pr__lane *lane = compose(s, &step);
        if (!lane) {
            pr__sched_wait(s, TICK_MS);
            continue;
        }
        pthread_mutex_unlock(&s->lock);
        uint32_t decoded = pr__lane_step(lane, &step);
        pthread_mutex_lock(&s->lock);
        s->n_steps++;
        lane->pages_used = pr_engine_pages_used(lane->engine);
        pr__sched_count(s, decoded);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- opening and closing ----------------------------------------------- */

void pr__sched_wait(pr_sched *s, int ms) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)ms * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&s->changed, &s->lock, &until);
}

static void fill(pr_sched_opts *o) {
    if (!o->queue_max) o->queue_max = QUEUE_DEFAULT;
    if (!o->parallel) o->parallel = PARALLEL_DEFAULT;
    if (!o->sessions_max) o->sessions_max = SESSIONS_DEFAULT;
    if (o->sessions_max > PR__SESSIONS_MAX) o->sessions_max = PR__SESSIONS_MAX;
    if (!o->prefill_chunk) o->prefill_chunk = CHUNK_DEFAULT;
    if (o->queue_seconds <= 0) o->queue_seconds = 30;
    if (o->load_seconds <= 0) o->load_seconds = 120;
    if (o->first_token_seconds <= 0) o->first_token_seconds = 30;
    if (o->stall_seconds <= 0) o->stall_seconds = 30;
    if (o->park_seconds <= 0) o->park_seconds = 30;
}

pr_status pr_sched_open(const pr_sched_opts *opts, pr_sched **out, pr_err *err) {
    static void *(*const bodies[PR__SCHED_THREADS])(void *) = {step_thread, prepare_thread, load_thread};
    *out = NULL;
    pr_sched *s = pr_calloc(PR_TAG_SESSION, 1, sizeof *s);
    if (!s) return pr_fail_nomem(err, "scheduler", sizeof *s);
    s->opts = *opts;
    s->next_id = 1;
    fill(&s->opts);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, &attr);
    pthread_condattr_destroy(&attr);
    s->runs = pr_calloc(PR_TAG_SESSION, PR__SESSIONS_MAX, sizeof *s->runs);
    s->run_jobs = pr_calloc(PR_TAG_SESSION, PR__SESSIONS_MAX, sizeof *s->run_jobs);
    pr_status st = s->runs && s->run_jobs ? PR_OK : pr_fail_nomem(err, "scheduler", sizeof *s->runs * PR__SESSIONS_MAX);
    for (; !st && s->n_threads < PR__SCHED_THREADS; s->n_threads++)
        if (pthread_create(&s->threads[s->n_threads], NULL, bodies[s->n_threads], s))
            st = pr_fail(err, PR_ERR_NOMEM, "no thread for the scheduler");
    if (st) pr_sched_close(s);
    else *out = s;
    return st;
}

static bool idle(const pr_sched *s) {
    return s->queued.n + s->preparing.n + s->prepared.n + s->done.n + n_running(s) == 0;
}

static void cancel_all(pr_sched *s) {
    pr__jobs *lists[] = {&s->queued, &s->preparing, &s->prepared};
    for (int l = 0; l < 3; l++)
        for (pr__job *j = lists[l]->first; j; j = j->link) j->cancel = 1;
    for (pr__lane *lane = s->lanes; lane; lane = lane->next)
        for (pr__job *j = lane->running.first; j; j = j->link) j->cancel = 1;
}

void pr_sched_drain(pr_sched *s, double seconds) {
    double until = pr_now() + seconds;
    pthread_mutex_lock(&s->lock);
    s->draining = true;
    while (s->n_threads == PR__SCHED_THREADS && !idle(s)) {
        if (pr_now() >= until) cancel_all(s);
        pr__sched_wait(s, TICK_MS);
    }
    pthread_mutex_unlock(&s->lock);
}

void pr_sched_close(pr_sched *s) {
    if (!s) return;
    pr_sched_drain(s, 0);
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < s->n_threads; i++) pthread_join(s->threads[i], NULL);
    if (s->done.n) bury(s);
    while (s->lanes) {
        pr__lane *l = s->lanes;
        s->lanes = l->next;
        pr__lane_free(l);
    }
    while (s->keys) {
        pr__key *k = s->keys;
        s->keys = k->next;
        pr_free(k->name);
        pr_free(k);
    }
    pr_free(s->runs);
    pr_free(s->run_jobs);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    pr_free(s);
}
