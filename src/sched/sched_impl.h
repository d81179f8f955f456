/*
 * Inside the scheduler: shared by sched.c and govern.c. Everything is guarded by `lock` unless it says otherwise.
 */
#ifndef PRECIS_SCHED_SCHED_IMPL_H
#define PRECIS_SCHED_SCHED_IMPL_H

#include <pthread.h>

#include "sched/lane.h"

enum { PR__SCHED_THREADS = 3, PR__SESSIONS_MAX = 256, PR__RATE_SECONDS = 10, PR__NEWS_MAX = 8 };

typedef struct pr__told { /* a place in the queue to be told */
    pr__job *job;
    uint32_t at;
    double seconds;
} pr__told;

struct pr_sched {
    pr_sched_opts opts; /* constant */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t threads[PR__SCHED_THREADS];
    int n_threads;
    bool stopping, draining, drop_prefixes;
    uint32_t n_burying; /* jobs whose on_done is being called */
    pr_job_id next_id;
    pr__jobs queued, preparing, prepared, done; /* running ones are in their lane */
    pr__key *keys;
    pr__lane *lanes, *last; /* last: stepped last */
    double mean_seconds;    /* of a request, queue and all */
    pr_run *runs;           /* [PR__SESSIONS_MAX] the stepping thread's own */
    pr__job **run_jobs;     /* the same */
    pr__told *told;         /* the same: [told_max] */
    uint32_t told_max;
    struct {        /* what the loading thread waits for */
        char *name; /* NULL: nothing */
        atomic_int cancel;
    } loading;
    /* Governing: */
    pr_sample sample;
    double sampled_at; /* 0: never, or again before anything is decided */
    bool emergency;
    pr_timeline_entry news[PR__NEWS_MAX]; /* to be told without the lock */
    uint32_t n_news;
    /* Counts: */
    uint64_t n_done, n_failed, n_cancelled, tokens_prompt, tokens_generated, tokens_cached, tokens_drafted,
        tokens_accepted, n_steps, n_stepped;
    uint32_t batch;
    pr_prefix_counts prefix;
    uint32_t rate[PR__RATE_SECONDS]; /* tokens of each of the last seconds */
    uint64_t rate_second;            /* the one that is being counted */
};

/* Wait for a change, at most ms. */
void pr__sched_wait(pr_sched *s, int ms);
/* Count tokens for the rate. */
void pr__sched_count(pr_sched *s, uint32_t tokens);
/* The lane of a model, made if need be; NULL: out of memory. Somebody holds the model, or the lane is there already. */
pr__lane *pr__sched_lane(pr_sched *s, const pr_model *model);
/* KV bytes that running requests of all models may still take. */
size_t pr__sched_promised(const pr_sched *s);
/* Decide about every lane when something has changed, or (fresh) with a new sample of the machine. An engine lives as long as
 * its lane is on the list. */
void pr__govern(pr_sched *s, bool fresh);
void pr__govern_sampled(pr_sched *s);

#endif
