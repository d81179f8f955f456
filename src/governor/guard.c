/*
 * Memory guard: three thresholds with a margin.
 *
 * A number that is not one counts as full: a guard that cannot see must not be calm.
 */
#include "governor/guard.h"

#include <math.h>
#include <stdio.h>

void pr_guard_defaults(pr_guard_settings *out) {
    *out = (pr_guard_settings){.alert = .80, .clear = .90, .emergency = .95, .margin = .05};
}

/* Bits of the thresholds that `used` is above, each lowered by margin. */
static unsigned passed(const pr_guard_settings *set, double used, double margin) {
    unsigned bits = 0;
    if (used > set->alert - margin) bits |= PR_GUARD_ALERT;
    if (used > set->clear - margin) bits |= PR_GUARD_CLEAR_CACHES;
    if (used > set->emergency - margin) bits |= PR_GUARD_EMERGENCY;
    return bits;
}

static const char *measure(unsigned bits) {
    if (bits & PR_GUARD_EMERGENCY) return "emergency";
    if (bits & PR_GUARD_CLEAR_CACHES) return "caches cleared";
    return bits ? "alert" : "all clear";
}

void pr_guard_decide(const pr_guard_settings *set, pr_guard *guard, double used, pr_guard_decision *out) {
    if (isnan(used)) used = 1;
    unsigned was = guard->in_force, due = passed(set, used, 0), now = due | (was & passed(set, used, set->margin));
    *out = (pr_guard_decision){.in_force = now, .started = now & ~was, .ended = was & ~now, .due = due};
    guard->in_force = now;
    const char *how = out->started || now == was || !now ? "" : "down to ";
    snprintf(out->reason, sizeof out->reason, "%s%s: memory %.1f%%", how, measure(now), used * 100);
}
