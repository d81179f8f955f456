/*
 * Scheduler: many answers at once, fairly, within the memory there is.
 *
 * One thread steps all engines; one more prepares requests (holding the model, which may mean loading it, and turning text
 * into tokens). A request goes: queued -> preparing -> running (prefill in chunks, then decoding) -> done. A step takes
 * one token of each chosen running session and a bounded chunk of prefill; who is chosen is decided anew for each step, by
 * turns between keys, then between a key's sessions, so a greedy client cannot slow down another beyond its share.
 * Between steps the governor's decisions are applied, sessions that may not run at the level are parked, time limits
 * are looked at, and cancelled sessions leave.
 *
 * Threads: everything but open and close from any thread; callbacks come from the scheduler's threads, one at a
 * time for a request, without its lock; they must not block, and may submit and cancel. They may come before pr_sched_submit()
 * has returned. on_done comes exactly once for every submitted request, also at close.
 */
#ifndef PRECIS_SCHED_SCHED_H
#define PRECIS_SCHED_SCHED_H

#include "governor/monitor.h"
#include "governor/timeline.h"
#include "registry/registry.h"

typedef struct pr_sched pr_sched;
typedef uint64_t pr_job_id; /* never 0 */

typedef enum pr_job_finish {
    PR_JOB_STOP,
    PR_JOB_LENGTH,
    PR_JOB_CANCELLED, /* by the caller: gone, or asked to stop */
    PR_JOB_CAPACITY,  /* parked too long: its floor could not be met any more */
    PR_JOB_TIMEOUT,   /* a time limit; what there is has been delivered */
    PR_JOB_ERROR      /* done.err says why; nothing, or not all, has been delivered */
} pr_job_finish;

typedef struct pr_job_done pr_job_done;

typedef struct pr_job_token { /* one delivered token */
    const char *text;         /* may be empty: held back, or a control token */
    size_t len;
    int32_t token;
    pr_level level;      /* of the step that made it */
    const float *logits; /* the row it was drawn from, for log probabilities; valid in the callback only */
    size_t n_vocab;
    const pr_job_done *so_far; /* how it was computed until now; valid in the callback only */
} pr_job_token;

struct pr_job_done {
    pr_job_finish finish;
    pr_err err; /* PR_JOB_ERROR */
    uint32_t
        retry_after; /* seconds, when err is PR_ERR_LIMIT: timed out waiting, no room, a floor that cannot be met */
    uint32_t n_prompt, n_cached, n_generated;
    uint32_t levels_used; /* a bit for each pr_level it was computed at */
    pr_level level;       /* of the last step */
    uint64_t load;        /* pr_model_load() of its model; 0: it has met none */
    uint32_t cursor;      /* increments in use in the last step; 0 for ordinary models */
    bool steady;          /* every step had that cursor */
    double queue_seconds, load_seconds, total_seconds;
    double first_token_seconds; /* from when it began to run */
};

typedef struct pr_job {
    const char *model; /* copied */
    const char *key;   /* who asks: fairness and prefix isolation; copied; NULL: "" */
    /* Turn the request into tokens with the model at hand (chat template, tokenizer): *ids for pr_free(). Preparing thread. */
    pr_status (*prepare)(void *arg, const pr_engine *engine, int32_t **ids, size_t *n_ids, pr_err *err);
    pr_generate_opts
        generate; /* on_text, arg, cancel are the scheduler's own; stop strings and bias are copied; max_tokens
                                * 0: until the context is full */
    pr_priority priority;
    bool floor_given, force_given;
    pr_level floor, force; /* min_quantization, force_quantization */
    bool reuse_any;        /* take prefix pages of any level */
    bool want_logits;      /* fill pr_job_token.logits */
    void (*on_token)(void *arg, const pr_job_token *token);
    void (*on_done)(void *arg, const pr_job_done *done);
    void (*on_queue)(
        void *arg, uint32_t position,
        double estimate_seconds); /* its place in the queue: when it changes, and each second; NULL: not told */
    void *arg;
} pr_job;

typedef struct pr_sched_opts {
    pr_registry *registry; /* borrowed */
    pr_gov_settings gov;
    pr_monitor *monitor;                                      /* borrowed */
    pr_timeline *timeline;                                    /* borrowed; decisions go there; may be NULL */
    void (*moved)(void *arg, const pr_timeline_entry *entry); /* the same, as it happens: for the log; may be NULL */
    void *moved_arg;
    void (*hold)(bool on);  /* on the stepping thread, around on_token of all of a step; may be NULL */
    uint32_t queue_max;     /* 0: 64 */
    uint32_t parallel;      /* sessions in one step at most; 0: 8 */
    uint32_t sessions_max;  /* running sessions with pages; 0: 64 */
    uint32_t prefill_chunk; /* prompt tokens in a step beside decoding sessions; 0: 96 */
    uint32_t
        drafts; /* from its text that a session running alone may feed at once, at most PR_SPECULATE_MAX; 0: none */
    bool serial;
    size_t weights_budget; /* bytes that the weights of an elastic model may take; 0: what there is */
    bool prefix_off;       /* no reuse of prefixes between requests */
    double queue_seconds, load_seconds, first_token_seconds, stall_seconds, park_seconds; /* 0: 30, 120, 30, 30, 30 */
    double total_seconds;                                                                 /* 0: no limit */
} pr_sched_opts;

pr_status pr_sched_open(const pr_sched_opts *opts, pr_sched **out, pr_err *err);
/* Take no more; wait at most `seconds` for what runs, then cancel the rest; on_done has come for all when it returns. */
void pr_sched_drain(pr_sched *s, double seconds);
void pr_sched_close(pr_sched *s); /* drains at once; NULL allowed */

/* PR_ERR_LIMIT: the queue is full (on_done does not come then), or draining. */
pr_status pr_sched_submit(pr_sched *s, const pr_job *job, pr_job_id *id, pr_err *err);
/* Its slot is free within a step; on_done comes with PR_JOB_CANCELLED unless it was done. Unknown ids are ignored. */
void pr_sched_cancel(pr_sched *s, pr_job_id id);

/* By hand: move a resident model to a level, before the next step, as near to it as bytes allow then, and kept to until
 * pr_sched_auto(). Or (budget not 0) leave its level to the governor, but never let its weights take more than so many bytes; it
 * moves to what they and the policy allow at once, either way. PR_ERR_NOTFOUND: the model is not resident; PR_ERR_UNSUPPORTED: it has
 * one precision only; PR_ERR_LIMIT: the budget is less than the least. */
pr_status pr_sched_move(pr_sched *s, const char *model, pr_level level, size_t budget, pr_err *err);
/* What was set so: a level (-1: none), a budget (0: none). */
void pr_sched_by_hand(pr_sched *s, const char *model, int *level, size_t *budget);
/* Leave the model to the governor again, with the budget it had at first. */
pr_status pr_sched_auto(pr_sched *s, const char *model, pr_err *err);
/* The memory guard's emergency: while it is on, every model stands at int2, whatever was set by hand or asked for. */
void pr_sched_emergency(pr_sched *s, bool on);

/* For the registry's watch (registry.h). From when a model is opened until it is closed the governor decides about it, whether
 * it has requests or not. */
uint32_t pr_sched_model_waiting(pr_sched *s, const pr_model *model);
void pr_sched_model_opened(pr_sched *s, const pr_model *model);
void pr_sched_model_closing(pr_sched *s, const pr_model *model);

typedef struct pr_prefix_counts {
    uint64_t hits, misses; /* requests that began with a kept prefix, or without */
    uint64_t kept, evicted,
        dropped; /* pages. evicted: for room, or for one that serves more; dropped: for memory, by hand,
                                      * or with their model */
} pr_prefix_counts;

typedef struct pr_sched_stats {
    uint32_t n_queued, n_running, n_parked;
    uint64_t n_done, n_failed, n_cancelled;
    uint64_t tokens_prompt, tokens_generated, tokens_cached;
    uint64_t tokens_drafted, tokens_accepted; /* of drafts from texts, of requests that have ended */
    uint64_t steps, stepped;                  /* and sessions in them, all together */
    uint32_t batch;                           /* sessions in the last step; 0 when nothing runs */
    double tokens_per_second;                 /* over the last ten seconds */
    size_t prefix_bytes; /* KV pages kept for reuse, in kv_bytes; running requests may use them as well */
    uint32_t prefix_pages;
    pr_prefix_counts prefix;
    size_t kv_bytes, kv_bytes_max;
} pr_sched_stats;
void pr_sched_stats_get(pr_sched *s, pr_sched_stats *out);
/* Drop pages kept for reuse (memory guard, cache/clear); between two steps. */
void pr_sched_drop_prefixes(pr_sched *s);

#endif
