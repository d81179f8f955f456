/*
 * Policy: the decision.
 *
 * What is used by others (use less this model's weights) does not depend on where the model stands, so neither does the
 * level that table, priority and floor choose: a change never makes the policy want to change back. Around that choice
 * stand the rules of when it is followed: downwards when memory is short, upwards one step after a calm time. Why not act
 * on every difference between choice and level: planes come from disk, and a level that follows the load of a second
 * would spend its time reading.
 *
 * Levels that may be had (the model has them, the device runs them, the cap allows them) are a bit mask, so that "one
 * level up" is the next one that exists.
 */
#include "governor/policy.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "base/str.h"

/* ---- words ------------------------------------------------------------ */

const char *pr_priority_name(pr_priority priority) {
    switch (priority) {
    case PR_PRIORITY_SPEED: return "speed";
    case PR_PRIORITY_QUALITY: return "quality";
    case PR_PRIORITY_BALANCED: break;
    }
    return "balanced";
}

bool pr_priority_by_name(const char *name, pr_priority *out) {
    for (int p = PR_PRIORITY_SPEED; p <= PR_PRIORITY_QUALITY; p++) {
        if (strcmp(name, pr_priority_name((pr_priority)p)) != 0) continue;
        *out = (pr_priority)p;
        return true;
    }
    return false;
}

/* Append to the reason; what is too long is cut. */
static PR_PRINTF(2, 3) void say(pr_gov_decision *d, const char *fmt, ...) {
    size_t len = strlen(d->reason);
    va_list args;
    va_start(args, fmt);
    vsnprintf(d->reason + len, sizeof d->reason - len, fmt, args);
    va_end(args);
}

/* ---- table ------------------------------------------------------------ */

void pr_gov_defaults(pr_gov_settings *out) {
    *out = (pr_gov_settings){.memory_comfortable = .40,
                             .memory_moderate = .60,
                             .memory_tight = .75,
                             .memory_critical = .85,
                             .memory_full = .95,
                             .load_low = 2,
                             .load_moderate = 5,
                             .load_high = 10,
                             .dwell_seconds = 30,
                             .materiality = .01};
}

const char *pr_gov_status(const pr_gov_settings *set, double used) {
    if (used < set->memory_comfortable) return "comfortable";
    if (used < set->memory_moderate) return "moderate";
    return used < set->memory_tight ? "tight" : "critical";
}

pr_level pr_gov_table(const pr_gov_settings *set, double used, uint32_t requests) {
    bool few = requests < set->load_low;
    bool many = requests > set->load_moderate;
    if (used < set->memory_comfortable) return few ? PR_LEVEL_FP16 : many ? PR_LEVEL_INT4 : PR_LEVEL_INT8;
    if (used < set->memory_moderate) return few ? PR_LEVEL_INT8 : PR_LEVEL_INT4;
    if (used < set->memory_tight) return PR_LEVEL_INT4;
    if (used < set->memory_critical) return requests >= set->load_high ? PR_LEVEL_INT2 : PR_LEVEL_INT4;
    return PR_LEVEL_INT2;
}

/* ---- levels that may be had -------------------------------------------- */

/* The question, taken apart once. */
typedef struct pr_case {
    const pr_gov_settings *set;
    const pr_gov_snapshot *snap;
    uint32_t mask;     /* levels that may be had; never 0 */
    uint32_t requests; /* running and queued */
    pr_level level;    /* loaded one, at most the top */
    bool has_floor;
    pr_level floor; /* one of the mask */
    double use;     /* now, without the waiting request */
} pr_case;

static pr_level lowest(uint32_t mask) { return (pr_level)__builtin_ctz(mask); }
static pr_level highest(uint32_t mask) { return (pr_level)(31 - __builtin_clz(mask)); }
/* The next one of the mask above / below; the level itself when there is none. */
static pr_level above(uint32_t mask, pr_level level) {
    uint32_t rest = mask & ~((2u << level) - 1);
    return rest ? lowest(rest) : level;
}
static pr_level below(uint32_t mask, pr_level level) {
    uint32_t rest = mask & ((1u << level) - 1);
    return rest ? highest(rest) : level;
}
/* The highest of the mask up to level; its lowest when all are above. */
static pr_level at_most(uint32_t mask, pr_level level) {
    uint32_t rest = mask & ((2u << level) - 1);
    return rest ? highest(rest) : lowest(mask);
}
/* The lowest of the mask from level on; its highest when all are below. */
static pr_level at_least(uint32_t mask, pr_level level) {
    uint32_t rest = mask & ~((1u << level) - 1);
    return rest ? lowest(rest) : highest(mask);
}

static uint32_t levels_to_have(const pr_gov_snapshot *snap) {
    uint32_t all = (1u << PR_LEVELS) - 1, mask = (2u << snap->top) - 1;
    uint32_t able = snap->levels_able & all ? snap->levels_able & all : all;
    mask = mask & able ? mask & able : 1u << snap->top; /* only levels above the top: they mean the top */
    uint32_t capped = 0;
    for (int i = 0; i < PR_LEVELS; i++) {
        bool small = !snap->weight_bytes_max || snap->level_bytes[i] <= snap->weight_bytes_max;
        if (mask & 1u << i && small) capped |= 1u << i;
    }
    return capped ? capped : 1u << lowest(mask);
}

/* ---- use -------------------------------------------------------------- */

static double fraction(const pr_gov_snapshot *snap, double bytes) {
    return snap->limit_bytes ? bytes / (double)snap->limit_bytes : 1;
}

/* Used by everybody but this model's weights. */
static double others(const pr_gov_snapshot *snap) {
    double used = (double)snap->used_bytes, weights = (double)snap->weight_bytes;
    return used > weights ? used - weights : 0;
}

/* Use with so many bytes of weights, and the waiting request. */
static double use_with(const pr_gov_snapshot *snap, uint64_t weight_bytes) {
    double used = snap->projected ? (double)snap->used_bytes : others(snap) + (double)weight_bytes;
    return fraction(snap, used + (double)snap->request_bytes);
}

double pr_gov_projected(const pr_gov_snapshot *snap, pr_level level) {
    return use_with(snap, snap->level_bytes[level]);
}

static double projected(const pr_case *c, pr_level level) { return pr_gov_projected(c->snap, level); }

static bool fits(const pr_case *c, pr_level level) {
    uint64_t max = c->snap->weight_bytes_max;
    return c->mask & 1u << level && projected(c, level) <= c->set->memory_full &&
           (!max || c->snap->level_bytes[level] <= max);
}

/* Room for a wish, as opposed to what one would be lowered for. */
static bool roomy(const pr_case *c, pr_level level) {
    return fits(c, level) && projected(c, level) < c->set->memory_critical;
}

static pr_case case_of(const pr_gov_settings *set, const pr_gov_snapshot *snap) {
    pr_case c = {.set = set, .snap = snap, .mask = levels_to_have(snap)};
    c.requests = snap->running > UINT32_MAX - snap->queued ? UINT32_MAX : snap->running + snap->queued;
    c.level = snap->level < snap->top ? snap->level : snap->top;
    c.use = fraction(snap, (double)snap->used_bytes);
    bool small = snap->n_params > 0 && snap->n_params < 1000000000, own = small || snap->poor_int2;
    c.has_floor = snap->floor_given || own;
    c.floor = at_least(c.mask, snap->floor_given ? snap->floor : own ? PR_LEVEL_INT4 : PR_LEVEL_INT2);
    return c;
}

pr_level pr_gov_allowed(const pr_gov_settings *set, const pr_gov_snapshot *snap) {
    pr_case c = case_of(set, snap);
    pr_level level = highest(c.mask);
    while (!roomy(&c, level) && level != lowest(c.mask)) level = below(c.mask, level);
    return level;
}

/* ---- choice ----------------------------------------------------------- */

/* What the table calls for, with memory or, as if there were plenty, by load alone. */
static pr_level by_table(const pr_case *c, bool with_memory) {
    pr_level best = highest(c->mask);
    while (best != lowest(c->mask)) {
        /* A model whose top is int4 is at its best where the table says fp16. */
        if (pr_gov_table(c->set, with_memory ? projected(c, best) : 0, c->requests) >= best) break;
        best = below(c->mask, best);
    }
    return best;
}

/* And priority. */
static pr_level choose(const pr_case *c, bool with_memory) {
    pr_level best = by_table(c, with_memory);
    if (c->snap->priority == PR_PRIORITY_SPEED) return below(c->mask, best);
    if (c->snap->priority == PR_PRIORITY_BALANCED) return best;
    pr_level up = above(c->mask, best);
    return !with_memory || roomy(c, up) ? up : best;
}

static pr_level held_up(const pr_case *c, pr_level level) {
    return c->has_floor && level < c->floor && fits(c, c->floor) ? c->floor : level;
}

/* The choice with floor and materiality, for a change that would begin at `from`. *immaterial: a lower level was not taken
 * because all that the change would save is too little; then the level is the one that load alone calls for, or what fits
 * of it. */
static pr_level target(const pr_case *c, pr_level from, bool *immaterial) {
    pr_level to = choose(c, true), instead = choose(c, false);
    if (!c->snap->loaded || c->level >= c->floor) {
        to = held_up(c, to);
        instead = held_up(c, instead);
    }
    if (instead > from) instead = from;
    while (instead > to && !fits(c, instead)) instead = below(c->mask, instead);
    double saved = (double)c->snap->level_bytes[from] - (double)c->snap->level_bytes[to];
    *immaterial = instead > to && saved < c->set->materiality * (double)c->snap->limit_bytes;
    return *immaterial ? instead : to;
}

/* ---- between the levels ------------------------------------------------ */

/* The use below which the table grants a level with so many requests; 0: never. */
static double line_of(const pr_gov_settings *set, pr_level level, uint32_t requests) {
    const double lines[] = {set->memory_critical, set->memory_tight, set->memory_moderate, set->memory_comfortable};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        if (pr_gov_table(set, nextafter(lines[i], 0), requests) >= level) return lines[i];
    }
    return 0;
}

static uint64_t cap_of(const pr_gov_snapshot *snap) {
    return snap->weight_bytes_max ? snap->weight_bytes_max : UINT64_MAX;
}

/* A level's own bytes. Of int2, what the cap leaves, and the least there is where that does not fit. */
static uint64_t own_bytes(const pr_case *c, pr_level level) {
    const pr_gov_snapshot *snap = c->snap;
    uint64_t own = snap->level_bytes[level], least = snap->weight_bytes_min;
    if (level > PR_LEVEL_INT2 || !least) return own;
    if (!snap->projected && projected(c, level) > c->set->memory_full) return least;
    uint64_t cap = cap_of(snap);
    return own <= cap ? own : cap > least ? cap : least;
}

/* Bytes that the weights may take at a level: its own, or more, below the next level's. */
static uint64_t place(const pr_case *c, pr_level level) {
    const pr_gov_snapshot *snap = c->snap;
    uint64_t own = own_bytes(c, level), cap = cap_of(snap);
    if (level >= snap->top || snap->priority == PR_PRIORITY_SPEED || own < snap->level_bytes[level]) return own;
    bool wish = snap->priority == PR_PRIORITY_QUALITY && level == by_table(c, true);
    double line = wish ? c->set->memory_critical : line_of(c->set, (pr_level)(level + 1), c->requests);
    uint64_t most = snap->level_bytes[level + 1] > own ? snap->level_bytes[level + 1] - 1 : own;
    if (most > cap) most = cap;
    if (snap->projected) return most > own && use_with(snap, 0) < line ? most : own;
    double room = line * (double)snap->limit_bytes - others(snap) - (double)snap->request_bytes;
    if (room <= (double)own || most <= own) return own;
    return room > (double)most ? most : (uint64_t)ceil(room) - 1; /* below the line, not on it */
}

/* ---- outcome ---------------------------------------------------------- */

static uint64_t due(const pr_gov_snapshot *snap) {
    return snap->weight_bytes_due ? snap->weight_bytes_due : snap->weight_bytes;
}

/* Stand at a level with so many bytes. */
static void settle_at(const pr_case *c, pr_level level, uint64_t bytes, pr_gov_cause cause, pr_gov_decision *d) {
    const pr_gov_snapshot *snap = c->snap;
    d->level = level;
    d->weight_bytes = bytes;
    d->cause = cause;
    d->changed = !snap->loaded || level != c->level;
    d->moves = d->changed || bytes != due(snap);
    d->direction = 0;
    if (snap->loaded && level != c->level) d->direction = level < c->level ? -1 : 1;
    else if (snap->loaded && d->moves) d->direction = bytes < due(snap) ? -1 : 1;
    if (d->moves && bytes > snap->weight_bytes) d->needed_bytes = bytes - snap->weight_bytes;
    if (d->moves && bytes < snap->weight_bytes) d->freed_bytes = snap->weight_bytes - bytes;
    d->use = use_with(snap, bytes);
    d->floor_met = !c->has_floor || level >= c->floor;
    d->request_fits = fits(c, level);
}

/* With the level's own bytes. */
static void settle(const pr_case *c, pr_level level, pr_gov_cause cause, pr_gov_decision *d) {
    settle_at(c, level, own_bytes(c, level), cause, d);
}

static void settle_placed(const pr_case *c, pr_level level, pr_gov_cause cause, pr_gov_decision *d) {
    settle_at(c, level, place(c, level), cause, d);
}

/* Where it stands, to the byte. */
static void settle_still(const pr_case *c, pr_gov_decision *d) { settle_at(c, c->level, due(c->snap), PR_GOV_STAY, d); }

static void say_head(const pr_case *c, pr_gov_decision *d) {
    const char *to = pr_level_name(d->level);
    if (!c->snap->loaded) say(d, "%s: ", to);
    else if (!d->moves) say(d, "stays at %s: ", to);
    else if (!d->changed) say(d, "%s within %s: ", d->direction < 0 ? "down" : "up", to);
    else say(d, "%s from %s to %s: ", d->direction < 0 ? "down" : "up", pr_level_name(c->level), to);
}

static void say_load(const pr_case *c, pr_gov_decision *d) {
    say(d, "%u request%s", c->requests, c->requests == 1 ? "" : "s");
    if (c->snap->priority != PR_PRIORITY_BALANCED) say(d, ", for %s", pr_priority_name(c->snap->priority));
}

static void say_tail(const pr_case *c, const pr_gov_decision *was, pr_gov_decision *d) {
    if (d->moves && c->snap->loaded) say(d, "; %.0f%% then", was->use * 100);
    if (!d->floor_met) say(d, "; below the floor %s", pr_level_name(c->floor));
    if (!d->request_fits) say(d, d->level == lowest(c->mask) ? "; nothing fits" : "; does not fit");
}

static void say_down(const pr_case *c, pr_gov_decision *d) {
    char bytes[32];
    uint64_t cap = c->snap->weight_bytes_max;
    say_head(c, d);
    if (d->cause == PR_GOV_REQUEST) {
        say(d, "a request of %s would not fit (%.0f%%), ", pr_format_bytes(bytes, sizeof bytes, c->snap->request_bytes),
            use_with(c->snap, due(c->snap)) * 100);
    } else {
        say(d, "memory %.0f%%, ", c->use * 100);
    }
    say_load(c, d);
    if (cap && due(c->snap) > cap) say(d, ", weights may take %s", pr_format_bytes(bytes, sizeof bytes, cap));
    say(d, "; frees %s", pr_format_bytes(bytes, sizeof bytes, d->freed_bytes));
    say_tail(c, d, d);
}

static void say_calm(const pr_case *c, pr_gov_decision *d) {
    say_head(c, d);
    say(d, "memory %.0f%%, ", c->use * 100);
    say_load(c, d);
    say(d, ", calm for %.0f s", c->snap->calm_seconds);
    say_tail(c, d, d);
}

/* ---- rules ------------------------------------------------------------ */

/* Set by hand: as near to it as bytes allow. */
static void decide_forced(const pr_case *c, pr_gov_decision *d) {
    pr_level want = at_most(c->mask, c->snap->force), level = want;
    while (!fits(c, level) && level != lowest(c->mask)) level = below(c->mask, level);
    bool wait = c->snap->loaded && level > c->level && c->snap->down_seconds < c->set->dwell_seconds;
    if (wait) settle_still(c, d);
    else settle(c, level, PR_GOV_FORCE, d);
    if (!d->moves) d->cause = PR_GOV_STAY;
    if (d->level < want && d->direction < 0) d->cause = PR_GOV_MEMORY; /* not by hand: it counts as a downgrade */
    say_head(c, d);
    say(d, "%s set by hand", pr_level_name(c->snap->force));
    if (d->level != c->snap->force && want != c->snap->force) say(d, ", which there is not");
    if (wait) say(d, ", but not so soon after a downgrade");
    else if (d->level < want) say(d, ", memory would be %.0f%%", projected(c, want) * 100);
    say_tail(c, d, d);
}

static void decide_cap(const pr_case *c, pr_gov_decision *d) {
    char bytes[32];
    settle_placed(c, held_up(c, choose(c, true)), PR_GOV_FORCE, d);
    if (!d->moves) d->cause = PR_GOV_STAY;
    say_head(c, d);
    say(d, "weights may take %s by hand, memory %.0f%%, ",
        pr_format_bytes(bytes, sizeof bytes, c->snap->weight_bytes_max), c->use * 100);
    say_load(c, d);
    say_tail(c, d, d);
}

static void decide_emergency(const pr_case *c, pr_gov_decision *d) {
    char bytes[32];
    settle(c, lowest(c->mask), PR_GOV_MEMORY, d);
    if (!d->moves) d->cause = PR_GOV_STAY;
    say_head(c, d);
    say(d, "memory %.0f%%, emergency", c->use * 100);
    if (d->freed_bytes) say(d, "; frees %s", pr_format_bytes(bytes, sizeof bytes, d->freed_bytes));
    say_tail(c, d, d);
}

static void decide_first(const pr_case *c, pr_gov_decision *d) {
    bool immaterial;
    pr_case idle = *c; /* where the change would begin: what it would be with neither load nor want of memory */
    idle.requests = 0;
    pr_level level = target(c, held_up(c, choose(&idle, false)), &immaterial);
    settle_placed(c, level, PR_GOV_LOAD, d);
    say_head(c, d);
    say(d, "memory %.0f%% with it, ", d->use * 100);
    say_load(c, d);
    if (c->has_floor && level == c->floor && choose(c, true) < level && !immaterial) say(d, "; that is the floor");
    if (immaterial) say(d, "; less would save under %.0f%% of memory", c->set->materiality * 100);
    say_tail(c, d, d);
}

/* Downwards, when memory is short. False when nothing is to be done. */
static bool decide_down(const pr_case *c, pr_gov_decision *d, bool *immaterial) {
    const pr_gov_snapshot *snap = c->snap;
    bool tight = c->use >= c->set->memory_moderate || !(c->mask & 1u << c->level);
    bool waiting = snap->request_bytes > 0 && projected(c, c->level) >= c->set->memory_critical;
    if (!tight && !waiting && fits(c, c->level)) return false;
    pr_level level = target(c, c->level, immaterial);
    if (level >= c->level) return false;
    settle_placed(c, level, tight || !waiting ? PR_GOV_MEMORY : PR_GOV_REQUEST, d);
    say_down(c, d);
    return true;
}

/* Time to raise something. */
static bool is_calm(const pr_case *c) {
    const pr_gov_snapshot *snap = c->snap;
    double dwell = c->set->dwell_seconds;
    return c->use < c->set->memory_comfortable && c->requests < c->set->load_low && snap->calm_seconds >= dwell &&
           snap->down_seconds >= dwell;
}

/* The weights within their level: give way at once when memory is short, take what there is after a calm time. */
static bool decide_within(const pr_case *c, pr_gov_decision *d) {
    const pr_gov_snapshot *snap = c->snap;
    uint64_t now = due(snap), to = place(c, c->level), cap = snap->weight_bytes_max;
    bool over = (cap && now > cap && to < now) || use_with(snap, now) > c->set->memory_full;
    double apart = fabs((double)to - (double)now);
    if (to == now || (!over && apart < c->set->materiality * (double)snap->limit_bytes)) return false;
    if (to > now && !is_calm(c)) return false;
    bool waiting = snap->request_bytes > 0 && use_with(snap, now) >= c->set->memory_critical;
    if (to < now && !over && !waiting && c->use < c->set->memory_moderate) return false;
    settle_at(c, c->level, to, to > now ? PR_GOV_CALM : waiting ? PR_GOV_REQUEST : PR_GOV_MEMORY, d);
    if (to < now) say_down(c, d);
    else say_calm(c, d);
    return true;
}

/* Upwards, to the floor or after a calm time. */
static bool decide_up(const pr_case *c, pr_gov_decision *d) {
    const pr_gov_snapshot *snap = c->snap;
    if (snap->down_seconds < c->set->dwell_seconds) return false;
    if (c->has_floor && c->level < c->floor && roomy(c, c->floor)) {
        settle(c, c->floor, PR_GOV_FLOOR, d);
        say_head(c, d);
        say(d, "the floor is %s, memory %.0f%%", pr_level_name(c->floor), c->use * 100);
        say_tail(c, d, d);
        return true;
    }
    pr_level up = above(c->mask, c->level);
    if (!is_calm(c) || up == c->level || choose(c, true) < up) return false;
    settle(c, up, PR_GOV_CALM, d);
    say_calm(c, d);
    return true;
}

void pr_gov_decide(const pr_gov_settings *set, const pr_gov_snapshot *snap, pr_gov_decision *out) {
    assert((unsigned)snap->top < PR_LEVELS && (unsigned)snap->level < PR_LEVELS);
    assert((unsigned)snap->floor < PR_LEVELS && (unsigned)snap->force < PR_LEVELS);
    pr_case c = case_of(set, snap);
    bool immaterial = false;
    *out = (pr_gov_decision){.cause = PR_GOV_STAY};
    if (snap->emergency) {
        decide_emergency(&c, out);
    } else if (snap->force_given) {
        decide_forced(&c, out);
    } else if (!snap->loaded) {
        decide_first(&c, out);
    } else if (snap->cap_given) {
        decide_cap(&c, out);
    } else if (!decide_down(&c, out, &immaterial) && !decide_up(&c, out) && !decide_within(&c, out)) {
        settle_still(&c, out);
        say_head(&c, out);
        say(out, "memory %.0f%%, ", c.use * 100);
        say_load(&c, out);
        if (immaterial) say(out, "; less would save under %.0f%% of memory", set->materiality * 100);
        say_tail(&c, out, out);
    }
}

/* ---- time ------------------------------------------------------------- */

void pr_gov_clock_read(pr_gov_clock *clock, const pr_gov_settings *set, double now, pr_gov_snapshot *snap) {
    pr_case c = case_of(set, snap);
    bool calm = c.use < set->memory_comfortable && c.requests < set->load_low;
    if (calm && !clock->calm) clock->calm_since = now;
    clock->calm = calm;
    snap->calm_seconds = calm ? now - clock->calm_since : 0;
    snap->down_seconds = clock->was_down ? now - clock->down_at : 1e9; /* never: longer than any dwell time */
}

void pr_gov_clock_decided(pr_gov_clock *clock, double now, const pr_gov_decision *decision) {
    if (!decision->moves) return;
    clock->calm_since = now;
    if (decision->direction >= 0 || decision->cause == PR_GOV_FORCE) return;
    clock->down_at = now;
    clock->was_down = true;
}
