/*
 * Alerts: rules of an operator, read from text, and how they stand.
 *
 *     rules  = rule { "," rule }
 *     rule   = [ name ":" ] metric ( ">" | ">=" | "<" | "<=" ) value [ "for" duration ]
 *
 * as in "slow: latency_p95 > 50ms for 30s, memory_peak > 100MB, level < int4". The metric decides what a value looks like:
 * a time ("50ms", "2s", "5m"; a bare number is seconds), a size ("100MB"), a share ("90%" or 0.9), a number, or a level.
 * A rule without a name has the metric's, with a number behind it when that is taken.
 *
 * Pure: the caller keeps the alerts, knows the time, and says what each metric is. docs/METRICS.md lists the metrics.
 */
#ifndef PRECIS_GOVERNOR_ALERT_H
#define PRECIS_GOVERNOR_ALERT_H

#include "precis.h"

enum { PR_ALERTS_MAX = 32, PR_ALERT_NAME = 64, PR_ALERT_TEXT = 160 };

typedef enum pr_alert_metric { /* latencies: three in a row, p50 p95 p99, in the order of api/metrics.h */
                               PR_ALERT_LATENCY,
                               PR_ALERT_FIRST_TOKEN = 3,
                               PR_ALERT_NEXT_TOKEN = 6,
                               PR_ALERT_QUEUE_TIME = 9,
                               PR_ALERT_MEMORY_USED = 12, /* share of the limit */
                               PR_ALERT_MEMORY_PEAK,      /* resident bytes of the process, highest in the window */
                               PR_ALERT_MEMORY_RESIDENT,
                               PR_ALERT_MEMORY_PRESSURE,
                               PR_ALERT_QUEUE_LENGTH,
                               PR_ALERT_RUNNING,
                               PR_ALERT_PARKED,
                               PR_ALERT_CONNECTIONS,
                               PR_ALERT_ERROR_RATE,
                               PR_ALERT_CACHE_HIT_RATE,
                               PR_ALERT_PREFIX_HIT_RATE,
                               PR_ALERT_KV_USED,
                               PR_ALERT_TOKENS_PER_SECOND,
                               PR_ALERT_LEVEL, /* the lowest of the resident models: a pr_level as a number */
                               PR_ALERT_METRICS
} pr_alert_metric;

typedef enum pr_alert_unit {
    PR_ALERT_SECONDS,
    PR_ALERT_BYTES,
    PR_ALERT_SHARE,
    PR_ALERT_NUMBER,
    PR_ALERT_LEVELS
} pr_alert_unit;

const char *pr_alert_metric_name(pr_alert_metric metric);
pr_alert_unit pr_alert_metric_unit(pr_alert_metric metric);
const char *pr_alert_unit_name(pr_alert_unit unit); /* "seconds", "bytes", "ratio", "count", "level" */

typedef struct pr_alert_rule {
    char name[PR_ALERT_NAME + 1]; /* letters, digits, '_', '.', '-' */
    char text[PR_ALERT_TEXT];     /* without the name, as it was written but for spaces */
    pr_alert_metric metric;
    bool below, equal; /* < instead of >; with the threshold itself */
    double threshold;  /* in the metric's unit */
    double hold;       /* seconds it must be true before it fires, and false before it ends */
} pr_alert_rule;

/* Parse text[len]; *n rules of out[PR_ALERTS_MAX]. PR_ERR_ARG names what, the rule by its number and the column at fault. */
pr_status pr_alert_parse(const char *text, size_t len, const char *what, pr_alert_rule *out, size_t *n, pr_err *err);

typedef enum pr_alert_state {
    PR_ALERT_INACTIVE,
    PR_ALERT_PENDING, /* true, not for long enough */
    PR_ALERT_FIRING,
    PR_ALERT_RESOLVED /* fired within the last PR_ALERT_REMEMBERED seconds */
} pr_alert_state;
enum { PR_ALERT_REMEMBERED = 300 };
const char *pr_alert_state_name(pr_alert_state state); /* "inactive", ... */

typedef struct pr_alert { /* zero-initialize but for rule */
    pr_alert_rule rule;
    pr_alert_state state;
    double value;     /* last given; not a number: there was nothing to measure */
    double since;     /* of the state */
    double turned_at; /* when the value last crossed over; only while that waits for hold */
    bool turning;
    uint64_t fired; /* how often */
} pr_alert;

/* Look at a value at time `now` (seconds of any one clock). Returns true when the state has changed. A firing alert ends only
 * when the value is on the good side by 5% of the threshold (levels: at all), for as long as the rule holds; a value that
 * is not a number is on the good side. */
bool pr_alert_step(pr_alert *alert, double value, double now);

#endif
