/*
 * The scheduler: queue, threads, time limits.
 *
 * Three threads. One steps: it alone touches sessions and engines' steps. One prepares requests whose model is resident, one
 * loads models, so that a load of a minute delays only those who wait for that model. A single lock guards lists and
 * counts; no callback is made under it, and nothing slow.
 *
 * A job leaves through one door: it is put on the list `done` in whatever state it was, and the stepping thread delivers
 * what was held back, keeps its session's pages, calls on_done, and lets go of the model. That thread alone frees jobs.
 *
 * The loading thread owns no job: it works for a name, so those who wait for it can leave or run out of time meanwhile.
 *
 * Admission: a job runs when the pages it may take in the end fit the KV pool and the memory of the machine beside what is
 * promised already. When the one whose turn it is must wait, nobody passes it: else small requests would starve a large one.
 */
#include "sched/sched_impl.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "base/os.h"
#include "engine/serve.h"

static const double sample_seconds = 0.2, tell_seconds = 1;

enum { TICK_MS = 50, QUEUE_DEFAULT = 64, PARALLEL_DEFAULT = 8, SESSIONS_DEFAULT = 64, CHUNK_DEFAULT = 96 };

/* ---- keys -------------------------------------------------------------- */

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
    return k;
}

static bool has_pages(const pr_sched *s, const pr__key *key) {
    for (const pr__lane *l = s->lanes; l; l = l->next)
        if (pr_radix_has(l->prefixes, key)) return true;
    return false;
}

/* Keys that nothing refers to any more, so that they do not pile up. */
static void forget_keys(pr_sched *s) {
    for (pr__key **at = &s->keys; *at;) {
        pr__key *k = *at;
        if (k->n_jobs || has_pages(s, k)) {
            at = &k->next;
            continue;
        }
        *at = k->next;
        pr_free(k->name);
        pr_free(k);
    }
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
        if (!pr_registry_is_ready(s->opts.registry, job->model)) own->load_at = own->queued_at;
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
    if (j) atomic_store(&j->cancel, 1);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/* ---- preparing --------------------------------------------------------- */

/* The next job whose model is resident, with that held; NULL: none. */
static pr__job *next_to_prepare(pr_sched *s) {
    for (pr__job *j = s->queued.first; j; j = j->link) {
        if (atomic_load(&j->cancel) || j->telling) continue;
        if (j->model || pr_registry_acquire_ready(s->opts.registry, j->spec.model, &j->model)) return j;
    }
    return NULL;
}

static pr_status prepare(pr__job *j, pr_err *err) {
    pr_engine *engine = pr_model_engine(j->model);
    pr_engine_info info;
    j->done.load = pr_model_load(j->model);
    pr_engine_describe(engine, &info);
    pr_status st = j->spec.prepare(j->spec.arg, engine, &j->ids, &j->n_ids, err);
    if (st) return st;
    if (j->n_ids == 0) return pr_fail(err, PR_ERR_ARG, "the prompt is empty");
    if (j->n_ids >= info.context_max)
        return pr_fail(err, PR_ERR_ARG, "the prompt of %zu tokens leaves no room in a context of %u", j->n_ids,
                       info.context_max);
    uint32_t asked = j->spec.generate.max_tokens, pages = pr_engine_pages_max(engine);
    uint64_t tokens = (uint64_t)pages * PR_KV_TOKENS; /* that may be fed; the last of an answer is not */
    if (tokens > info.context_max) tokens = info.context_max;
    if (j->n_ids > tokens)
        return pr_fail(err, PR_ERR_ARG, "the prompt of %zu tokens is longer than KV memory: %u pages", j->n_ids, pages);
    uint32_t room = (uint32_t)(tokens - j->n_ids) + 1;
    j->n_new = asked && asked < room ? asked : room;
    j->pages = pr__job_pages(j);
    return PR_OK;
}

static void prepare_one(pr_sched *s, pr__job *j) {
    pr_err err = {0};
    pr_status st = prepare(j, &err);
    pthread_mutex_lock(&s->lock);
    pr__jobs_remove(&s->preparing, j);
    if (st) {
        pr__job_fail(j, &err, st == PR_ERR_LIMIT ? retry_after(s) : 0);
        pr__jobs_append(&s->done, j);
    } else {
        j->state = PR__JOB_PREPARED;
        pr__jobs_append(&s->prepared, j);
    }
    pthread_cond_broadcast(&s->changed);
}

static void *prepare_thread(void *arg) {
    pr_sched *s = arg;
    pthread_mutex_lock(&s->lock);
    while (!s->stopping) {
        pr__job *j = next_to_prepare(s);
        if (!j) {
            pr__sched_wait(s, TICK_MS);
            continue;
        }
        if (j->load_at != 0) j->done.load_seconds = pr_now() - j->load_at;
        pr__jobs_remove(&s->queued, j);
        pr__jobs_append(&s->preparing, j);
        j->state = PR__JOB_PREPARING;
        pthread_mutex_unlock(&s->lock);
        prepare_one(s, j);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- loading ------------------------------------------------------------ */

/* The first job whose model is not resident. */
static pr__job *next_to_load(const pr_sched *s) {
    for (pr__job *j = s->queued.first; j; j = j->link)
        if (!atomic_load(&j->cancel) && !j->model && !pr_registry_is_ready(s->opts.registry, j->spec.model)) return j;
    return NULL;
}

static pr__job *next_named(const pr_sched *s, const char *name) {
    for (pr__job *j = s->queued.first; j; j = j->link)
        if (!j->model && !atomic_load(&j->cancel) && strcmp(j->spec.model, name) == 0) return j;
    return NULL;
}

static void leave(pr_sched *s, pr__jobs *list, pr__job *j) {
    pr__jobs_remove(list, j);
    pr__jobs_append(&s->done, j);
}

/* A failed load is told to everybody who waits for it; the next request tries again. */
static void fail_load(pr_sched *s, const char *name, const pr_err *err) {
    for (pr__job *j; (j = next_named(s, name)) != NULL;) {
        j->done.load_seconds = pr_now() - j->load_at;
        pr__job_fail(j, err, err->status == PR_ERR_LIMIT ? retry_after(s) : 0);
        leave(s, &s->queued, j);
    }
}

/* Called and returns under the lock. */
static void load_one(pr_sched *s, char *name) {
    pr_err err = {0};
    pr_model *model = NULL;
    s->loading.name = name;
    atomic_store(&s->loading.cancel, 0);
    pthread_mutex_unlock(&s->lock);
    pr_status st = pr_registry_acquire(s->opts.registry, name, &s->loading.cancel, &model, &err);
    pthread_mutex_lock(&s->lock);
    pr__job *j = st ? NULL : next_named(s, name);
    if (j) { /* its turn to hold it, before it can be evicted */
        j->model = model;
        model = NULL;
    }
    if (st && st != PR_ERR_CANCELLED) fail_load(s, name, &err);
    s->loading.name = NULL;
    pthread_cond_broadcast(&s->changed);
    pr_registry_release(model);
    pr_free(name);
}

static void *load_thread(void *arg) {
    pr_sched *s = arg;
    pthread_mutex_lock(&s->lock);
    while (!s->stopping) {
        pr__job *j = next_to_load(s);
        if (!j) {
            pr__sched_wait(s, TICK_MS);
            continue;
        }
        pr_err err = {0};
        char *name = pr_strdup(PR_TAG_SESSION, j->spec.model);
        if (j->load_at == 0) j->load_at = pr_now();
        if (name) {
            load_one(s, name);
            continue;
        }
        pr_fail_nomem(&err, "name of a model", strlen(j->spec.model) + 1);
        fail_load(s, j->spec.model, &err);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- time and leaving -------------------------------------------------- */

/* Jobs that wait: gone, or waiting too long. */
static void tend_waiting(pr_sched *s, pr__jobs *list, double now) {
    const pr_sched_opts *o = &s->opts;
    for (pr__job *j = list->first, *next; j; j = next) {
        pr_err err = {0};
        next = j->link;
        bool loading = j->state == PR__JOB_QUEUED && j->load_at != 0 && !j->model;
        if (atomic_load(&j->cancel)) {
            pr__job_end(j, PR_JOB_CANCELLED);
        } else if (loading ? now - j->load_at > o->load_seconds
                           : now - j->queued_at - j->done.load_seconds > o->queue_seconds) {
            if (loading) pr_fail(&err, PR_ERR_LIMIT, "%s was not loaded within the time limit", j->spec.model);
            else pr_fail(&err, PR_ERR_LIMIT, "the request waited for %.0f seconds without its turn", o->queue_seconds);
            pr__job_fail(j, &err, retry_after(s));
        } else {
            continue;
        }
        leave(s, list, j);
    }
}

static bool is_late(const pr_sched *s, const pr__job *j, double now) {
    const pr_sched_opts *o = &s->opts;
    if (o->total_seconds > 0 && now - j->queued_at > o->total_seconds) return true;
    if (j->parked_at != 0) return false;
    if (j->stats.n_generated == 0 && j->fed_at == 0) /* its turn has not come, behind others of its key */
        return now - j->admitted_at > o->first_token_seconds + o->queue_seconds;
    if (j->stats.n_generated == 0) return now - j->fed_at > o->first_token_seconds;
    return now - j->progress_at > o->stall_seconds;
}

/* Running jobs: done, gone, parked or running too long. */
static void tend_running(pr_sched *s, pr__lane *lane, double now) {
    for (pr__job *j = lane->running.first, *next; j; j = next) {
        next = j->link;
        if (atomic_load(&j->cancel)) pr__job_end(j, PR_JOB_CANCELLED); /* nothing when it is done */
        if (j->parked_at != 0 && now - j->parked_at > s->opts.park_seconds) pr__job_end(j, PR_JOB_CAPACITY);
        if (is_late(s, j, now)) pr__job_end(j, PR_JOB_TIMEOUT);
        if (j->state != PR__JOB_DONE) continue;
        pr__lane_leave(lane, j);
        pr__jobs_append(&s->done, j);
    }
}

/* Places in the queue that have changed, and now and then those that have not (the estimate has), told without the lock; jobs stay, since only this thread frees them. */
static void tell_positions(pr_sched *s, double now) {
    uint32_t at = 0, n = 0;
    const pr__jobs *lists[] = {&s->prepared, &s->queued};
    for (int l = 0; l < 2; l++) {
        for (pr__job *j = lists[l]->first; j && n < s->told_max; j = j->link) {
            at++;
            if (!j->spec.on_queue || (at == j->position && now - j->told_at < tell_seconds)) continue;
            j->position = at;
            j->told_at = now;
            j->telling = true;
            s->told[n++] = (pr__told){j, at, estimate_wait(s, at)};
        }
    }
    if (n == 0) return;
    pthread_mutex_unlock(&s->lock);
    for (uint32_t i = 0; i < n; i++) {
        pr__job *j = s->told[i].job;
        j->spec.on_queue(j->spec.arg, s->told[i].at, s->told[i].seconds);
    }
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < n; i++) s->told[i].job->telling = false;
    pthread_cond_broadcast(&s->changed);
}

/* ---- admitting --------------------------------------------------------- */

static uint32_t n_running(const pr_sched *s) {
    uint32_t n = 0;
    for (const pr__lane *l = s->lanes; l; l = l->next) n += l->running.n;
    return n;
}

/* The prepared job whose key has the fewest running ones; the oldest of those. The last eighth of the places is for keys that
 * have none yet, so that a greedy one cannot make others wait for the end of its streams. */
static pr__job *next_to_admit(const pr_sched *s, uint32_t left, uint32_t most) {
    pr__job *best = NULL;
    bool few = left <= most / 8;
    for (pr__job *j = s->prepared.first; j; j = j->link)
        if (!j->tried && !(few && j->key->n_running) && (!best || j->key->n_running < best->key->n_running)) best = j;
    return best;
}

static void refuse(pr_sched *s, pr__job *j, const pr_err *err) {
    pr__job_fail(j, err, err->status == PR_ERR_LIMIT ? retry_after(s) : 0);
    leave(s, &s->prepared, j);
}

/* Beside what is used and promised. Kept prefixes of all models give way, but for the match. */
static bool memory_allows(pr_sched *s, const pr__lane *lane, const pr_radix_match *match, size_t bytes) {
    double limit = (double)s->sample.limit_bytes;
    if (limit <= 0) return true; /* unknown */
    double use = (double)s->sample.used_bytes + (double)pr__sched_promised(s) + (double)bytes;
    double over = use - limit * s->opts.gov.memory_full;
    for (pr__lane *l = s->lanes; l && over > 0; l = l->next) {
        double page = (double)pr_engine_page_bytes(l->engine), pages = ceil(over / page);
        uint32_t most = pages < UINT32_MAX ? (uint32_t)pages : UINT32_MAX;
        size_t freed = (size_t)pr__prefix_yield(l, most, l == lane ? match : NULL) * (size_t)page;
        s->sample.used_bytes -= freed < s->sample.used_bytes ? freed : s->sample.used_bytes; /* until the next sample */
        over -= (double)freed;
    }
    return over <= 0;
}

/* The level it will run at. */
static pr_level level_for(const pr__lane *lane, const pr__job *j) {
    pr_level level = j->spec.force_given ? j->spec.force : lane->levels.level;
    if (!lane->elastic) level = PR_LEVEL_FP16;
    else if (!j->spec.force_given && j->spec.floor_given && j->spec.floor > level) level = j->spec.floor;
    return level < lane->levels.top ? level : lane->levels.top;
}

static void start(pr_sched *s, pr__lane *lane, pr__job *j, const pr_radix_match *match) {
    pr_err err = {0};
    pr_status st = pr_session_open(lane->engine, &j->session, &err);
    if (!st) pr__prefix_take(lane, j, match);
    if (!st) st = pr__job_start(j, &err);
    pr__jobs_remove(&s->prepared, j);
    if (!st && !pr__lane_enter(lane, j)) st = pr_fail_nomem(&err, "place in a lane", sizeof *lane->parties);
    if (st) {
        pr__job_fail(j, &err, st == PR_ERR_LIMIT ? retry_after(s) : 0);
        pr__jobs_append(&s->done, j);
        return;
    }
    j->admitted_at = j->progress_at = pr_now();
    j->done.queue_seconds = j->admitted_at - j->queued_at - j->done.load_seconds;
    j->state = PR__JOB_RUNNING;
    s->tokens_cached += j->done.n_cached;
    if (j->done.n_cached) s->prefix.hits++;
    else s->prefix.misses++;
}

static void admit_one(pr_sched *s, pr__lane *lane, pr__job *j) {
    pr_err err = {0};
    char reason[PR_GOV_REASON];
    pr_gov_session wish = {j->spec.floor_given, j->spec.force_given, j->spec.floor, j->spec.force};
    pr_radix_match match = {0};
    lane->levels.resident = pr_engine_level(lane->engine);
    if (lane->elastic && !pr_gov_admits(&lane->levels, &wish, reason)) {
        pr_fail(&err, PR_ERR_LIMIT, "%s", reason);
        refuse(s, j, &err);
        return;
    }
    if (!s->opts.prefix_off) match = pr__prefix_find(lane, j, level_for(lane, j));
    bool pages = pr__lane_reserve(lane, j, &match);
    size_t bytes = pr__lane_need(j, &match) * pr_engine_page_bytes(lane->engine);
    if (pages && !memory_allows(s, lane, &match, bytes)) lane->wanted_bytes = bytes;
    if (pages && lane->wanted_bytes == 0) start(s, lane, j, &match);
    else lane->blocked = true;
}

static void admit(pr_sched *s) {
    uint32_t most = s->opts.serial ? 1 : s->opts.sessions_max;
    for (pr__lane *l = s->lanes; l; l = l->next) {
        l->blocked = false;
        l->wanted_bytes = 0;
    }
    for (pr__job *j = s->prepared.first; j; j = j->link) j->tried = false;
    for (;;) {
        uint32_t running = n_running(s);
        pr__job *j = running < most ? next_to_admit(s, most - running, most) : NULL;
        if (!j) break;
        pr__lane *lane = pr__sched_lane(s, j->model);
        j->tried = true;
        if (lane) {
            if (!lane->blocked) admit_one(s, lane, j);
            continue;
        }
        pr_err err = {0};
        pr_fail_nomem(&err, "lane", sizeof *lane);
        refuse(s, j, &err);
    }
}

/* ---- the stepping thread ----------------------------------------------- */

static void count_done(pr_sched *s, const pr__job *j) {
    s->n_done += j->done.finish != PR_JOB_ERROR && j->done.finish != PR_JOB_CANCELLED;
    s->n_failed += j->done.finish == PR_JOB_ERROR;
    s->n_cancelled += j->done.finish == PR_JOB_CANCELLED;
    s->tokens_prompt += j->n_fed - j->done.n_cached;
    s->tokens_generated += j->stats.n_generated;
    s->tokens_drafted += j->stats.n_drafted;
    s->tokens_accepted += j->stats.n_accepted;
    double apart = j->done.total_seconds - s->mean_seconds;
    if (j->admitted_at != 0) s->mean_seconds += apart * (s->mean_seconds > 0 ? 0.1 : 1);
}

/* Deliver the rest and call on_done for everything on the list. Called and returns under the lock, and leaves it. */
static void bury(pr_sched *s) {
    pr__job *first = s->done.first;
    s->n_burying = s->done.n;
    s->done = (pr__jobs){0};
    pthread_mutex_unlock(&s->lock);
    for (pr__job *j = first; j; j = j->link) pr__job_flush(j);
    pthread_mutex_lock(&s->lock);
    for (pr__job *j = first; j; j = j->link) {
        pr__lane *lane = s->lanes;
        while (lane && lane->model != j->model) lane = lane->next;
        count_done(s, j);
        if (lane && j->session && !s->opts.prefix_off && j->done.finish != PR_JOB_ERROR) pr__prefix_keep(lane, j);
    }
    pthread_mutex_unlock(&s->lock);
    for (pr__job *j = first; j; j = j->link) {
        j->spec.on_done(j->spec.arg, &j->done);
        pr_session_close(j->session);
        j->session = NULL;
        pr_registry_release(j->model);
    }
    pthread_mutex_lock(&s->lock);
    for (pr__job *j = first, *next; j; j = next) {
        next = j->link;
        j->key->n_jobs--;
        pr__job_free(j);
    }
    forget_keys(s);
    s->n_burying = 0;
    pthread_cond_broadcast(&s->changed);
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
    if (s->loading.name && !next_named(s, s->loading.name)) atomic_store(&s->loading.cancel, 1);
    for (pr__lane *l = s->lanes; l; l = l->next) tend_running(s, l, now);
    if (s->drop_prefixes)
        for (pr__lane *l = s->lanes; l; l = l->next) pr__prefix_drop_all(l);
    s->drop_prefixes = false;
    admit(s);
    tell_positions(s, now);
}

/* Look at the machine, now and then. True when it was done. */
static bool sample(pr_sched *s) {
    double now = pr_now();
    if (s->sampled_at != 0 && now - s->sampled_at < sample_seconds) return false;
    pr_sample fresh; /* some twenty small files: not under the lock */
    pthread_mutex_unlock(&s->lock);
    pr_monitor_sample(s->opts.monitor, &fresh);
    pthread_mutex_lock(&s->lock);
    s->sample = fresh;
    s->sampled_at = now;
    pr__govern_sampled(s);
    return true;
}

static void tell_moves(pr_sched *s) {
    pr_timeline_entry news[PR__NEWS_MAX];
    uint32_t n = s->n_news;
    if (n == 0) return;
    memcpy(news, s->news, n * sizeof *news);
    s->n_news = 0;
    pthread_mutex_unlock(&s->lock);
    for (uint32_t i = 0; i < n; i++) s->opts.moved(s->opts.moved_arg, &news[i]);
    pthread_mutex_lock(&s->lock);
}

static void count_pages(const pr_sched *s) {
    for (pr__lane *l = s->lanes; l; l = l->next) l->pages_used = pr_engine_pages_used(l->engine);
}

static void share_prompts(pr__lane *lane, const pr__step *step) {
    for (size_t i = 0; i < step->n; i++)
        if (step->jobs[i]->state == PR__JOB_RUNNING) pr__prefix_share(lane, step->jobs[i]);
}

static void *step_thread(void *arg) {
    pr_sched *s = arg;
    pr__step step = {.runs = s->runs, .jobs = s->run_jobs};
    pthread_mutex_lock(&s->lock);
    while (!s->stopping) {
        bool fresh = sample(s);
        tend(s);
        if (s->done.n) bury(s);
        count_pages(s);
        pr__govern(s, fresh);
        tell_moves(s);
        pr__lane *lane = compose(s, &step);
        s->batch = lane ? (uint32_t)step.n : 0;
        if (!lane) {
            if (s->done.n == 0) pr__sched_wait(s, TICK_MS);
            continue;
        }
        pthread_mutex_unlock(&s->lock);
        if (s->opts.hold) s->opts.hold(true);
        uint32_t tokens = pr__lane_step(lane, &step);
        if (s->opts.hold) s->opts.hold(false);
        pthread_mutex_lock(&s->lock);
        if (!s->opts.prefix_off) share_prompts(lane, &step);
        count_pages(s);
        s->n_steps++;
        s->n_stepped += step.n;
        pr__sched_count(s, tokens);
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
    s->told_max = s->opts.queue_max + 4; /* a preparing one may come on top */
    s->told = pr_calloc(PR_TAG_SESSION, s->told_max, sizeof *s->told);
    s->runs = pr_calloc(PR_TAG_SESSION, PR__SESSIONS_MAX, sizeof *s->runs);
    s->run_jobs = pr_calloc(PR_TAG_SESSION, PR__SESSIONS_MAX, sizeof *s->run_jobs);
    pr_status st = s->told && s->runs && s->run_jobs
                       ? PR_OK
                       : pr_fail_nomem(err, "scheduler", sizeof *s->runs * PR__SESSIONS_MAX);
    for (; !st && s->n_threads < PR__SCHED_THREADS; s->n_threads++)
        if (pthread_create(&s->threads[s->n_threads], NULL, bodies[s->n_threads], s))
            st = pr_fail(err, PR_ERR_NOMEM, "no thread for the scheduler");
    if (st) pr_sched_close(s);
    else *out = s;
    return st;
}

static bool idle(const pr_sched *s) {
    return s->queued.n + s->preparing.n + s->prepared.n + s->done.n + s->n_burying + n_running(s) == 0;
}

static void cancel_all(pr_sched *s) {
    pr__jobs *lists[] = {&s->queued, &s->preparing, &s->prepared};
    for (int l = 0; l < 3; l++)
        for (pr__job *j = lists[l]->first; j; j = j->link) atomic_store(&j->cancel, 1);
    for (pr__lane *lane = s->lanes; lane; lane = lane->next)
        for (pr__job *j = lane->running.first; j; j = j->link) atomic_store(&j->cancel, 1);
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
    while (s->lanes) {
        pr__lane *l = s->lanes;
        s->lanes = l->next;
        pr__lane_free(l);
    }
    forget_keys(s);
    pr_free(s->told);
    pr_free(s->runs);
    pr_free(s->run_jobs);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    pr_free(s);
}
