/*
 * Applying the governor: a snapshot of the machine and of each model, a decision, a move; and what becomes of it.
 *
 * The machine is sampled a few times a second, and decisions are made then or when the number of requests has changed: both
 * are cheap beside a step. A move is asked for and runs by itself (store/residency.h); when it is finished it is
 * written to the timeline with what it freed and how long it took. One that failed is tried again after 1 s, 2 s and so on up to
 * 64 s: a file that was cut or replaced fails each time.
 */
#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "engine/serve.h"
#include "sched/sched_impl.h"

pr__lane *pr__sched_lane(pr_sched *s, const pr_model *model) {
    pr__lane *l = s->lanes;
    while (l && l->model != model) l = l->next;
    if (l) return l;
    l = pr__lane_new(model, &s->prefix);
    if (!l) return NULL;
    l->budget = s->opts.weights_budget;
    l->next = s->lanes;
    s->lanes = l;
    s->sampled_at = 0; /* what was seen of the machine may not have its bytes, or half of them */
    return l;
}

size_t pr__sched_promised(const pr_sched *s) {
    size_t bytes = 0;
    for (const pr__lane *l = s->lanes; l; l = l->next) bytes += pr__lane_promised(l) * pr_engine_page_bytes(l->engine);
    return bytes;
}

static uint32_t waiting_for(const pr_sched *s, const pr_model *model) {
    uint32_t n = 0;
    const pr__jobs *lists[] = {&s->queued, &s->preparing, &s->prepared};
    for (int l = 0; l < 3; l++)
        for (const pr__job *j = lists[l]->first; j; j = j->link) n += pr_model_named(model, j->spec.model);
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

/* The floor of all: the highest that a running job asks for and has, or may have. One job's floor of int2 does not take away the
 * small model's own floor of int4 from those who state none. */
static void set_floor(const pr__lane *lane, pr_gov_snapshot *snap) {
    bool all_state = true, given = false;
    pr_level floor = PR_LEVEL_INT2;
    for (const pr__job *j = lane->running.first; j; j = j->link) {
        bool states = j->spec.floor_given || j->spec.force_given;
        pr_level level = j->spec.force_given ? j->spec.force : j->spec.floor;
        all_state &= j->spec.floor_given && !j->spec.force_given;
        if (!states || (level > lane->levels.allowed && level > lane->levels.level)) continue;
        given = true;
        if (level > floor) floor = level;
    }
    snap->floor_given = given && (all_state || floor >= PR_LEVEL_INT4);
    snap->floor = floor;
}

/* Memory used by everybody, with the moves since the sample: this lane's as far as they have come, the others' as if they
 * were through, so that two models neither go down for the same bytes nor both go up into them. */
static uint64_t used_by_all(const pr_sched *s, const pr__lane *lane) {
    double used = (double)s->sample.used_bytes;
    if (s->sample.scripted) return s->sample.used_bytes;
    for (const pr__lane *l = s->lanes; l; l = l->next)
        used += (double)(l == lane ? l->weights : l->weights_due) - (double)l->weights_sampled;
    return used > 0 ? (uint64_t)used : 0;
}

static pr_gov_snapshot snapshot_of(const pr_sched *s, const pr__lane *lane, const pr_elastic_info *e) {
    size_t most = pr_registry_bytes_max(s->opts.registry), all = pr_registry_bytes(s->opts.registry);
    size_t others = all > e->bytes ? all - e->bytes : 0, room = most > others ? most - others : 1;
    pr_gov_snapshot snap = {
        .limit_bytes = s->sample.limit_bytes,
        .used_bytes = used_by_all(s, lane),
        .projected = s->sample.scripted,
        .loaded = true,
        .level = lane->levels.level,
        .top = e->top,
        .weight_bytes = e->bytes,
        .weight_bytes_due = lane->weights_due,
        .weight_bytes_min = e->bytes_min,
        .weight_bytes_max = lane->budget && lane->budget < room ? lane->budget : room,
        .n_params = lane->info.n_params,
        .poor_int2 = e->elastic && !e->int2_usable,
        .running = lane->running.n,
        .queued = waiting_for(s, lane->model),
        .request_bytes = pr__sched_promised(s) + lane->wanted_bytes,
        .priority = priority_of(lane),
        .force_given = lane->hand.on,
        .force = lane->hand.level,
        .cap_given = lane->hand.fresh && lane->budget,
        .emergency = s->emergency,
    };
    for (int l = 0; l < PR_LEVELS; l++) snap.level_bytes[l] = e->level_bytes[l];
    set_floor(lane, &snap);
    return snap;
}

/* ---- moves -------------------------------------------------------------- */

/* What raising needs, memory or the file as it was, may stay away: ask more and more seldom. */
static void put_off(pr__lane *lane) {
    double seconds = 1u << (lane->refused.n < 6 ? lane->refused.n : 6);
    lane->refused.n++;
    lane->refused.until = pr_now() + seconds;
}

/* Tell of a move that is through, has failed, or is overtaken by the next one. */
static void end_move(pr_sched *s, pr__lane *lane, const pr_elastic_info *e, bool overtaken) {
    bool failed = !overtaken && lane->move.up && e->raise_err.status != PR_OK;
    pr_timeline_entry entry = {
        .time = pr_wall_clock(),
        .from = lane->move.from,
        .to = failed ? e->level : lane->move.to,
        .cause = lane->move.cause,
        .failed = failed,
        .cursor = e->cursor,
        .bytes = (int64_t)e->bytes - (int64_t)lane->move.bytes_before,
        .seconds = failed || overtaken ? pr_now() - lane->move.began
                   : lane->move.up     ? e->raise_seconds
                                       : e->drop_seconds,
    };
    snprintf(entry.model, sizeof entry.model, "%.*s", (int)sizeof entry.model - 1, lane->name);
    if (failed) snprintf(entry.reason, sizeof entry.reason, "not raised: %.180s", e->raise_err.text);
    else snprintf(entry.reason, sizeof entry.reason, "%.180s%s", lane->move.reason, overtaken ? "; overtaken" : "");
    lane->move.on = false;
    if (failed) lane->levels.level = e->level, lane->weights_due = e->bytes;
    if (failed) put_off(lane);
    else if (lane->move.up && !overtaken) lane->refused.n = 0, lane->refused.until = 0;
    if (s->opts.timeline) entry.seq = pr_timeline_append(s->opts.timeline, &entry);
    if (s->opts.moved && s->n_news < PR__NEWS_MAX) s->news[s->n_news++] = entry;
}

static void begin_move(pr__lane *lane, const pr_elastic_info *e, const pr_gov_decision *d) {
    lane->move.on = true;
    lane->move.up = d->weight_bytes > lane->weights_due;
    lane->move.from = lane->levels.level;
    lane->move.to = d->level;
    lane->move.cause = d->cause;
    lane->move.bytes_before = e->bytes;
    lane->move.began = pr_now();
    snprintf(lane->move.reason, sizeof lane->move.reason, "%s", d->reason);
}

static void carry_out(pr_sched *s, pr__lane *lane, const pr_elastic_info *e, const pr_gov_decision *d, double now) {
    bool told = lane->hand.fresh, up = d->weight_bytes > lane->weights_due;
    lane->hand.fresh = false;
    if (!d->moves || (up && !told && now < lane->refused.until)) return;
    bool exact = d->weight_bytes == e->level_bytes[d->level];
    pr_status st = exact ? pr_engine_set_level(lane->engine, d->level, NULL)
                         : pr_engine_set_weights_budget(lane->engine, d->weight_bytes, NULL);
    if (st) return;
    if (lane->move.on) end_move(s, lane, e, true);
    begin_move(lane, e, d);
    lane->levels.level = d->level;
    lane->weights_due = d->weight_bytes;
    pr_gov_clock_decided(&lane->clock, now, d);
}

static void govern_lane(pr_sched *s, pr__lane *lane) {
    pr_elastic_info e;
    pr_gov_decision d;
    double now = pr_now();
    bool moving = pr_engine_moving(lane->engine); /* asked before: what it has done is in what comes next */
    pr_engine_elastic(lane->engine, &e);
    lane->weights = e.bytes;
    if (lane->move.on && !moving) end_move(s, lane, &e, false);
    pr_gov_snapshot snap = snapshot_of(s, lane, &e);
    pr_gov_clock_read(&lane->clock, &s->opts.gov, now, &snap);
    lane->levels.allowed = pr_gov_allowed(&s->opts.gov, &snap);
    pr_gov_decide(&s->opts.gov, &snap, &d);
    carry_out(s, lane, &e, &d, now);
}

/* Idle models first: what they give back, those at work need not. */
void pr__govern(pr_sched *s, bool fresh) {
    if (s->sampled_at == 0) return;
    for (int at_work = 0; at_work < 2; at_work++) {
        for (pr__lane *l = s->lanes; l; l = l->next) {
            uint32_t requests = l->running.n + waiting_for(s, l->model);
            if (!l->elastic || (requests > 0) != at_work) continue;
            if (!fresh && requests == l->requests && !l->hand.fresh) continue;
            l->requests = requests;
            govern_lane(s, l);
        }
    }
}

/* The machine has just been sampled. */
void pr__govern_sampled(pr_sched *s) {
    pr_elastic_info e;
    for (pr__lane *l = s->lanes; l; l = l->next) {
        pr_engine_elastic(l->engine, &e);
        l->weights = l->weights_sampled = e.bytes;
    }
}

/* ---- by hand ----------------------------------------------------------- */

static pr_status find_resident(pr_sched *s, const char *model, pr__lane **out, pr_err *err) {
    pr__lane *lane = s->lanes;
    while (lane && !pr_model_named(lane->model, model)) lane = lane->next;
    *out = lane;
    return lane ? PR_OK : pr_fail(err, PR_ERR_NOTFOUND, "model: \"%.100s\" is not loaded", model);
}

static pr_status set_hand(const pr_sched *s, pr__lane *lane, pr_level level, size_t budget, pr_err *err) {
    pr_elastic_info e;
    char want[32], least[32];
    pr_engine_elastic(lane->engine, &e);
    if (!e.elastic)
        return pr_fail(err, PR_ERR_UNSUPPORTED, "%s has one precision only; `precis pack` makes an elastic model of it",
                       lane->name);
    if (budget && budget < e.bytes_min)
        return pr_fail(err, PR_ERR_LIMIT, "a weights budget of %s is too small: %s takes at least %s",
                       pr_format_bytes(want, sizeof want, budget), lane->name,
                       pr_format_bytes(least, sizeof least, e.bytes_min));
    lane->hand.on = budget == 0;
    lane->hand.fresh = true;
    lane->hand.level = level < e.top ? level : e.top;
    lane->budget = budget ? budget : s->opts.weights_budget;
    return PR_OK;
}

pr_status pr_sched_move(pr_sched *s, const char *model, pr_level level, size_t budget, pr_err *err) {
    pr__lane *lane;
    pthread_mutex_lock(&s->lock);
    pr_status st = find_resident(s, model, &lane, err);
    if (!st) st = set_hand(s, lane, level, budget, err);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return st;
}

void pr_sched_by_hand(pr_sched *s, const char *model, int *level, size_t *budget) {
    *level = -1;
    *budget = 0;
    pthread_mutex_lock(&s->lock);
    for (const pr__lane *l = s->lanes; l; l = l->next) {
        if (!pr_model_named(l->model, model)) continue;
        if (l->hand.on) *level = (int)l->hand.level;
        *budget = l->budget;
        break;
    }
    pthread_mutex_unlock(&s->lock);
}

pr_status pr_sched_auto(pr_sched *s, const char *model, pr_err *err) {
    pr__lane *lane;
    pthread_mutex_lock(&s->lock);
    pr_status st = find_resident(s, model, &lane, err);
    if (!st) {
        lane->hand.on = false;
        lane->hand.fresh = true;
        lane->budget = s->opts.weights_budget;
    }
    pthread_mutex_unlock(&s->lock);
    return st;
}

void pr_sched_emergency(pr_sched *s, bool on) {
    pthread_mutex_lock(&s->lock);
    if (on != s->emergency) s->sampled_at = 0; /* decide now */
    s->emergency = on;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/* ---- the registry's watch ------------------------------------------------ */

uint32_t pr_sched_model_waiting(pr_sched *s, const pr_model *model) {
    pthread_mutex_lock(&s->lock);
    uint32_t n = waiting_for(s, model);
    pthread_mutex_unlock(&s->lock);
    return n;
}

void pr_sched_model_opened(pr_sched *s, const pr_model *model) {
    pthread_mutex_lock(&s->lock);
    pr__sched_lane(s, model); /* without memory for it now, its first job tries again */
    pthread_mutex_unlock(&s->lock);
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
        .tokens_drafted = s->tokens_drafted,
        .tokens_accepted = s->tokens_accepted,
        .steps = s->n_steps,
        .stepped = s->n_stepped,
        .batch = s->batch,
        .prefix = s->prefix,
        .tokens_per_second = (double)tokens / PR__RATE_SECONDS,
    };
    for (const pr__lane *l = s->lanes; l; l = l->next) {
        out->n_running += l->running.n;
        for (const pr__job *j = l->running.first; j; j = j->link) out->n_parked += j->parked_at != 0;
        out->prefix_bytes += pr__prefix_bytes(l);
        out->prefix_pages += pr_radix_pages(l->prefixes);
        out->kv_bytes += l->pages_used * pr_engine_page_bytes(l->engine);
        out->kv_bytes_max += pr_engine_pages_max(l->engine) * pr_engine_page_bytes(l->engine);
    }
    pthread_mutex_unlock(&s->lock);
}
