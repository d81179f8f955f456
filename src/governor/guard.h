/*
 * Memory guard: the last line before the system would kill somebody.
 *
 * Three thresholds of memory used, each with a measure. A measure comes into force above its threshold and goes out of
 * force only well below it, so that a use that trembles around a threshold does not flap. Pure: the caller keeps the
 * state, asks every 10 s and on memory pressure, and carries the measures out.
 */
#ifndef PRECIS_GOVERNOR_GUARD_H
#define PRECIS_GOVERNOR_GUARD_H

#include "precis.h"

enum {
    PR_GUARD_ALERT = 1,        /* > .80: tell people */
    PR_GUARD_CLEAR_CACHES = 2, /* > .90: drop what can be made again */
    PR_GUARD_EMERGENCY = 4     /* > .95: planes to int2, idle models out, freed pages back to the system */
};

typedef struct pr_guard_settings {
    double alert, clear, emergency; /* .80 .90 .95, not falling */
    double margin;                  /* .05: out of force below threshold - margin */
} pr_guard_settings;
void pr_guard_defaults(pr_guard_settings *out);

typedef struct pr_guard {
    unsigned in_force; /* bits; zero-initialize */
} pr_guard;

enum { PR_GUARD_REASON = 128 };

typedef struct pr_guard_decision {
    unsigned in_force; /* measures to hold to */
    unsigned started, ended;
    unsigned due;                 /* to be carried out now: those whose threshold is passed at this moment */
    char reason[PR_GUARD_REASON]; /* never empty */
} pr_guard_decision;

/* used: fraction of the limit. A higher measure in force includes the lower ones. */
void pr_guard_decide(const pr_guard_settings *set, pr_guard *guard, double used, pr_guard_decision *out);

#endif
