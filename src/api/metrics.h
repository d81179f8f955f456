/*
 * Metrics: what the server counts beyond what its parts count themselves, and how that was over the last minutes.
 *
 * Durations are kept for each model (MODELS_MAX of them by name, the rest together as "other", so that no client can make
 * series), from the start of the server. A ring of states every few seconds tells windows apart, up to PR__WINDOW_MAX back.
 *
 * Threads: everything but open and close from any thread. Recording is lock-free and allocates nothing: some tens of
 * nanoseconds, for the decode path. Reading takes a lock that recording does not.
 */
#ifndef PRECIS_API_METRICS_H
#define PRECIS_API_METRICS_H

#include "base/histogram.h"
#include "base/status.h"
#include "governor/timeline.h"

typedef struct pr__metrics pr__metrics;
typedef struct pr__model_metrics pr__model_metrics; /* of one model; the metrics' own, never NULL */

enum { PR__METRIC_MODELS_MAX = 32, PR__WINDOW_STEP = 5, PR__WINDOW_MAX = 300 /* seconds */ };

pr_status pr__metrics_open(pr__metrics **out, pr_err *err);
void pr__metrics_close(pr__metrics *m); /* NULL allowed */

/* ---- recording --------------------------------------------------------- */

typedef enum pr__latency {
    PR__LATENCY_END_TO_END,  /* from the arrival of a request to its whole answer; failures are not counted */
    PR__LATENCY_FIRST_TOKEN, /* from its arrival to its first token: queue, loading and prefill in it */
    PR__LATENCY_NEXT_TOKEN,  /* between two tokens of an answer */
    PR__LATENCY_QUEUE,       /* waiting for its turn; loading the model is not in it */
    PR__LATENCIES
} pr__latency;

/* For a name of the catalogue. To be fetched once for a request: it takes the lock. */
pr__model_metrics *pr__metrics_model(pr__metrics *m, const char *name);
void pr__metrics_latency(pr__model_metrics *model, pr__latency which, double seconds);

typedef enum pr__outcome { /* of one choice */
                           PR__OUTCOME_STOP,
                           PR__OUTCOME_LENGTH,
                           PR__OUTCOME_TIMEOUT,
                           PR__OUTCOME_CAPACITY,
                           PR__OUTCOME_CANCELLED,
                           PR__OUTCOME_ERROR,
                           PR__OUTCOMES
} pr__outcome;
const char *pr__outcome_name(pr__outcome outcome); /* "stop", ... */

typedef struct pr__counted { /* one choice that ended */
    pr__outcome outcome;
    uint32_t prompt, cached, generated; /* tokens; cached ones are in prompt */
} pr__counted;
void pr__metrics_count(pr__model_metrics *model, const pr__counted *choice);
/* A request that generates was answered; failed: by the server's fault (5xx, or an error within a stream). */
void pr__metrics_answered(pr__metrics *m, bool failed);
/* A move of a model between levels has ended. */
void pr__metrics_moved(pr__metrics *m, const pr_timeline_entry *move);
/* A model was loaded. */
void pr__metrics_loaded(pr__metrics *m, double seconds);
/* What was looked up in caches of answers since the start, and found: counted there, and noted here for the windows. */
void pr__metrics_cached(pr__metrics *m, uint64_t lookups, uint64_t hits);
/* To be called every PR__WINDOW_STEP seconds or so, now in pr_now() seconds: begins a new step of the windows. */
void pr__metrics_tick(pr__metrics *m, double now);

/* ---- reading ----------------------------------------------------------- */

typedef struct pr__quantiles { /* seconds; not a number when there are none */
    uint64_t n;
    double mean, p50, p95, p99;
} pr__quantiles;

typedef struct pr__summary { /* of all models together, over a window */
    double seconds;          /* how long the window really is: to the nearest step, never longer than the server runs */
    pr__quantiles latency[PR__LATENCIES];
    uint64_t answers, failures;         /* requests */
    uint64_t prompt, cached, generated; /* tokens of choices that ended */
    double tokens_per_second;           /* delivered, over the window */
    /* Shares of 0..1; not a number when there was nothing to share. */
    double error_rate;      /* failures in all requests */
    double cache_hit_rate;  /* of answers looked up in caches */
    double prefix_hit_rate; /* cached in prompt tokens */
    uint64_t rss_peak;      /* bytes of the process: highest at any tick, and now */
} pr__summary;

/* window: seconds before now, at most PR__WINDOW_MAX; 0: since the server started. */
void pr__metrics_summary(pr__metrics *m, double window, double now, pr__summary *out);

/* One model since the start, for exposition. */
typedef struct pr__model_view {
    char name[PR_TIMELINE_MODEL];
    pr_hist_view latency[PR__LATENCIES];
    uint64_t outcome[PR__OUTCOMES];
    uint64_t prompt, cached, generated;
} pr__model_view;
/* Model i of those seen so far; false past the end. */
bool pr__metrics_view(pr__metrics *m, size_t i, pr__model_view *out);

typedef struct pr__move_view { /* moves of one cause and direction */
    uint64_t n;
    double seconds;
    uint64_t bytes; /* freed by moves down, taken by moves up */
} pr__move_view;
enum { PR__MOVE_CAUSES = 7 };                   /* pr_gov_cause */
const char *pr__cause_name(pr_gov_cause cause); /* "memory", ... */
typedef struct pr__process_view {
    uint64_t answers, failures;
    uint64_t loads;
    double load_seconds;
    pr__move_view down[PR__MOVE_CAUSES], up[PR__MOVE_CAUSES];
    uint64_t moves_failed;
} pr__process_view;
void pr__metrics_process(pr__metrics *m, pr__process_view *out);

#endif
