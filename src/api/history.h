/*
 * History: how memory and load were over the last hour, a moment every few seconds, for the dashboard's timeline.
 *
 * A ring of fixed size. Threads: everything but open and close is thread-safe.
 */
#ifndef PRECIS_API_HISTORY_H
#define PRECIS_API_HISTORY_H

#include "base/status.h"

enum { PR__HISTORY_STEP = 5 /* seconds: at every PR__WINDOW_STEP (api/metrics.h) */, PR__HISTORY_MAX = 720 };

typedef struct pr__moment {
    double time; /* seconds since 1970 */
    float used;  /* of the memory limit */
    float tokens_per_second;
    uint32_t running, queued; /* requests */
} pr__moment;

typedef struct pr__history pr__history;

pr_status pr__history_open(pr__history **out, pr_err *err);
void pr__history_close(pr__history *h); /* NULL allowed */
void pr__history_add(pr__history *h, const pr__moment *moment);
/* Moments later than `after`, in order, into out[PR__HISTORY_MAX]; returns how many. */
size_t pr__history_read(pr__history *h, double after, pr__moment *out);

#endif
