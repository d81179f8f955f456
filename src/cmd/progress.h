/*
 * Progress on stderr: on a terminal a bar, at most ten times a second; elsewhere a line a minute, so that a log of what
 * takes hours says how far it is.
 */
#ifndef PRECIS_CMD_PROGRESS_H
#define PRECIS_CMD_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct pr_progress {
    const char *label; /* borrowed */
    bool on;           /* begun and not ended */
    bool terminal;     /* stderr is one */
    bool bytes;        /* amounts are bytes: show them, and the rate */
    bool drawn;
    double started, shown;
    uint64_t from; /* done already when it began: not counted in the rate */
} pr_progress;

/* Nothing is drawn before the work has taken a moment. */
void pr__progress_begin(pr_progress *p, const char *label, bool bytes, uint64_t from);
/* total 0: unknown. */
void pr__progress_update(pr_progress *p, uint64_t done, uint64_t total);
/* Takes the bar away. Call it before anything else is printed; twice is allowed. */
void pr__progress_end(pr_progress *p);
/* For pr_engine_opts.progress: arg is the pr_progress. */
void pr__progress_fraction(void *arg, double fraction);

#endif
