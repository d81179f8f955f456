/*
 * Timeline: the last decisions, for the dashboard and for whoever listens to events.
 *
 * A ring of fixed size: writing never waits for readers and never fails; a reader that is too slow learns how many entries it
 * has missed. Threads: everything but open and close is thread-safe.
 */
#ifndef PRECIS_GOVERNOR_TIMELINE_H
#define PRECIS_GOVERNOR_TIMELINE_H

#include "governor/policy.h"

enum { PR_TIMELINE_MODEL = 96 };

typedef enum pr_timeline_kind {
    PR_TIMELINE_MOVE,
    PR_TIMELINE_LOAD, /* the model was loaded, at `to` */
    PR_TIMELINE_CLOSE /* it was closed, at `from` */
} pr_timeline_kind;
const char *pr_timeline_kind_name(pr_timeline_kind kind); /* "move", "load", "close" */

typedef struct pr_timeline_entry {
    uint64_t seq; /* from 1, without gaps; given by append */
    pr_timeline_kind kind;
    double time; /* seconds since 1970 */
    char model[PR_TIMELINE_MODEL];
    pr_level from, to;
    pr_gov_cause cause;
    bool failed;     /* it could not be raised: to is where it stands */
    uint32_t cursor; /* increments in use afterwards */
    int64_t bytes;   /* of weights: freed below 0, taken above */
    double seconds;  /* the change took */
    char reason[PR_GOV_REASON];
} pr_timeline_entry;

typedef struct pr_timeline pr_timeline;

/* capacity >= 1 entries, allocated here. */
pr_status pr_timeline_open(uint32_t capacity, pr_timeline **out, pr_err *err);
void pr_timeline_close(pr_timeline *timeline);

/* Copies the entry; texts that are too long are cut at a character. Returns its number. */
uint64_t pr_timeline_append(pr_timeline *timeline, const pr_timeline_entry *entry);
/* The oldest entries after number `after` (0: from the beginning), at most max, in order. Returns how many;
 * *missed (may be NULL): entries after `after` that are no longer held. */
size_t pr_timeline_read(pr_timeline *timeline, uint64_t after, pr_timeline_entry *out, size_t max, uint64_t *missed);
uint64_t pr_timeline_last(pr_timeline *timeline); /* number of the newest; 0: none */

#endif
