/*
 * Applying the governor: a snapshot of the machine and of each model, a decision, a move; and what becomes of it.
 *
 * The machine is sampled a few times a second, and decisions are made then or when the number of requests has changed: both
 * are cheap beside a step. A move is asked for and runs by itself (store/residency.h); when it is finished it is
 * written to the timeline with what it freed and how long it took.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/os.h"
#include "engine/serve.h"
#include "sched/sched_impl.h"

static const double sample_seconds = 0.2;

pr__lane *pr__sched_lane(const pr_sched *s, const char *model) {
    for (pr__lane *l = s->lanes; l; l = l->next)
        if (strcmp(l->name, model) == 0) return l;
    return NULL;
}

static uint32_t waiting_for(const pr_sched *s, const pr__lane *lane) {
    uint32_t n = 0;
    const pr__jobs *lists[] = {&s->queued, &s->preparing, &s->prepared};
    for (int l = 0; l < 3; l++)
        for (const pr__job *j = lists[l]->first; j; j = j->link) n += strcmp(j->spec.model, lane->name) == 0;
    return n;
}

/* One request that wants quality is worth it for all; speed only when all want it. */
static pr_priority priority_of(const pr__lane *lane) {
    bool all_speed = lane->running.n > 0;
    for (const pr__job *j = lane->running.first; j; j = j->link) {
        if (j->spec.priority == PR_PRIORITY_QUALITY) return PR_PRIORITY_QUALITY;
        all_speed &= j->spec.priority == PR_PRIORITY_SPEED;
    }
    return all_speed ? PR_PRIORITY_SPEED : PR_PRIORITY_BALANCED;
}

static pr_gov_snapshot snapshot_of(const pr_sched *s, pr__lane *lane, const pr_elastic_info *e) {
    pr_engine_info info;
    pr_engine_describe(lane->engine, &info);
    pr_gov_snapshot snap = {
        .limit_bytes = s->sample.limit_bytes,
        .used_bytes = s->sample.used_bytes,
        .projected = s->sample.scripted,
        .loaded = true,
        .level = lane->levels.level,
        .top = e->top,
        .weight_bytes = e->bytes,
        .n_params = info.n_params,
        .running = lane->running.n,
        .queued = waiting_for(s, lane),
        .priority = priority_of(lane),
        .floor_given = lane->plan.raise,
        .floor = lane->plan.raise_to,
    };
    for (int l = 0; l < PR_LEVELS; l++) snap.level_bytes[l] = e->level_bytes[l];
    return snap;
}

static void begin_move(pr__lane *lane, const pr_elastic_info *e, pr_level to, const char *reason) {
    lane->move.on = true;
    lane->move.from = lane->levels.level;
    lane->move.to = to;
    lane->move.bytes_before = e->bytes;
    lane->move.moves = e->moves_down + e->moves_up;
    lane->move.began = pr_now();
    snprintf(lane->move.reason, sizeof lane->move.reason, "%s", reason);
}

/* Tell of a move once it is through, or has failed. */
static void end_move(const pr_sched *s, pr__lane *lane, const pr_elastic_info *e) {
    bool failed = e->raise_err.status != PR_OK && e->target == e->cursor && lane->move.to > lane->move.from;
    if (!lane->move.on || (e->moves_down + e->moves_up == lane->move.moves && !failed)) return;
    pr_timeline_entry entry = {
        .time = (double)time(NULL),
        .from = lane->move.from,
        .to = failed ? e->level : lane->move.to,
        .cursor = e->cursor,
        .bytes = (int64_t)e->bytes - (int64_t)lane->move.bytes_before,
        .seconds = pr_now() - lane->move.began,
    };
    snprintf(entry.model, sizeof entry.model, "%.*s", (int)sizeof entry.model - 1, lane->name);
    if (failed) snprintf(entry.reason, sizeof entry.reason, "not raised: %.180s", e->raise_err.text);
    else snprintf(entry.reason, sizeof entry.reason, "%s", lane->move.reason);
    lane->move.on = false;
    if (failed) lane->levels.level = e->level;
    if (s->opts.timeline) entry.seq = pr_timeline_append(s->opts.timeline, &entry);
    if (s->opts.moved) s->opts.moved(s->opts.moved_arg, &entry);
}

static void govern_lane(pr_sched *s, pr__lane *lane, double now) {
    pr_elastic_info e;
    pr_gov_decision d;
    pr_engine_elastic(lane->engine, &e);
    if (!e.elastic) return;
    end_move(s, lane, &e);
    pr_gov_snapshot snap = snapshot_of(s, lane, &e);
    pr_gov_clock_read(&lane->clock, &s->opts.gov, now, &snap);
    lane->levels.allowed = pr_gov_allowed(&s->opts.gov, &snap);
    if (lane->by_hand && lane->levels.level <= lane->levels.allowed) return;
    pr_gov_decide(&s->opts.gov, &snap, &d);
    lane->by_hand = false;
    if (!d.changed) return;
    if (pr_engine_set_level(lane->engine, d.level, NULL) != PR_OK) return;
    begin_move(lane, &e, d.level, d.reason);
    lane->levels.level = d.level;
    pr_gov_clock_decided(&lane->clock, now, &d);
}

void pr__govern(pr_sched *s) {
    double now = pr_now();
    bool fresh = now - s->sampled_at >= sample_seconds;
    if (fresh) {
        pr_monitor_sample(s->opts.monitor, &s->sample);
        s->sampled_at = now;
    }
    for (pr__lane *l = s->lanes; l; l = l->next) {
        uint32_t requests = l->running.n + waiting_for(s, l);
        pr_model *held = NULL;
        if (!fresh && requests == l->requests) continue;
        l->requests = requests;
        if (l->running.n == 0 && !pr_registry_acquire_ready(s->opts.registry, l->name, &held)) continue;
        govern_lane(s, l, now);
        s->let_go = held ? held : s->let_go;
        if (held) break; /* released without the lock, by the caller; the rest has its turn next time */
    }
}

/* ---- by hand ----------------------------------------------------------- */

static pr_status find_resident(const pr_sched *s, const char *model, pr__lane **lane, pr_model **held, pr_err *err) {
    *held = NULL;
    *lane = pr_registry_acquire_ready(s->opts.registry, model, held) ? s->lanes : NULL;
    while (*lane && (*lane)->model != *held) *lane = (*lane)->next;
    return *lane ? PR_OK : pr_fail(err, PR_ERR_NOTFOUND, "model: \"%.100s\" is not loaded", model);
}

pr_status pr_sched_move(pr_sched *s, const char *model, pr_level level, size_t budget, pr_err *err) {
    pr__lane *lane;
    pr_model *held;
    pr_elastic_info e;
    pthread_mutex_lock(&s->lock);
    pr_status st = find_resident(s, model, &lane, &held, err);
    if (!st) {
        pr_engine_elastic(lane->engine, &e);
        if (level > e.top) level = e.top;
        if (budget)
            for (level = e.top; level > PR_LEVEL_INT2 && e.level_bytes[level] > budget;) level--;
        st = budget ? pr_engine_set_weights_budget(lane->engine, budget, err)
                    : pr_engine_set_level(lane->engine, level, err);
    }
    if (!st) {
        begin_move(lane, &e, level, budget ? "a budget set by hand" : "a level set by hand");
        lane->levels.level = level;
        lane->by_hand = true;
    }
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    pr_registry_release(held);
    return st;
}

pr_status pr_sched_auto(pr_sched *s, const char *model, pr_err *err) {
    pr__lane *lane;
    pr_model *held;
    pthread_mutex_lock(&s->lock);
    pr_status st = find_resident(s, model, &lane, &held, err);
    if (!st) lane->by_hand = false;
    pthread_mutex_unlock(&s->lock);
    pr_registry_release(held);
    return st;
}

void pr_sched_model_closing(pr_sched *s, const pr_model *model) {
    pthread_mutex_lock(&s->lock);
    for (pr__lane **at = &s->lanes; *at; at = &(*at)->next) {
        pr__lane *lane = *at;
        if (lane->model != model) continue;
        *at = lane->next;
        if (s->last == lane) s->last = NULL;
        pr__lane_free(lane);
        break;
    }
    pthread_mutex_unlock(&s->lock);
}

/* ---- counts ------------------------------------------------------------ */

void pr__sched_count(pr_sched *s, uint32_t tokens) {
    uint64_t now = (uint64_t)pr_now();
    for (; s->rate_second < now; s->rate_second++) {
        if (now - s->rate_second > PR__RATE_SECONDS) s->rate_second = now - PR__RATE_SECONDS;
        s->rate[(s->rate_second + 1) % PR__RATE_SECONDS] = 0;
    }
    s->rate[now % PR__RATE_SECONDS] += tokens;
}

void pr_sched_drop_prefixes(pr_sched *s) {
    pthread_mutex_lock(&s->lock);
    s->drop_prefixes = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

void pr_sched_stats_get(pr_sched *s, pr_sched_stats *out) {
    pthread_mutex_lock(&s->lock);
    pr__sched_count(s, 0);
    uint64_t tokens = 0;
    for (int i = 0; i < PR__RATE_SECONDS; i++) tokens += s->rate[i];
    *out = (pr_sched_stats){
        .n_queued = s->queued.n + s->preparing.n + s->prepared.n,
        .n_done = s->n_done,
        .n_failed = s->n_failed,
        .n_cancelled = s->n_cancelled,
        .tokens_prompt = s->tokens_prompt,
        .tokens_generated = s->tokens_generated,
        .tokens_cached = s->tokens_cached,
        .steps = s->n_steps,
        .tokens_per_second = (double)tokens / PR__RATE_SECONDS,
    };
    for (const pr__lane *l = s->lanes; l; l = l->next) {
        out->n_running += l->running.n;
        for (const pr__job *j = l->running.first; j; j = j->link) out->n_parked += j->parked_at != 0;
        out->prefix_bytes += pr__prefix_bytes(l);
        out->kv_bytes += l->pages_used * pr_engine_page_bytes(l->engine);
        out->kv_bytes_max += pr_engine_pages_max(l->engine) * pr_engine_page_bytes(l->engine);
    }
    pthread_mutex_unlock(&s->lock);
}
