/*
 * Inside the scheduler: shared by sched.c and govern.c. Everything is guarded by `lock` unless it says otherwise.
 */
#ifndef PRECIS_SCHED_SCHED_IMPL_H
#define PRECIS_SCHED_SCHED_IMPL_H

#include <pthread.h>

#include "sched/lane.h"

enum { PR__SCHED_THREADS = 3, PR__SESSIONS_MAX = 256, PR__RATE_SECONDS = 10 };

struct pr_sched {
    pr_sched_opts opts; /* constant */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t threads[PR__SCHED_THREADS];
    int n_threads;
    bool stopping, draining, drop_prefixes;
    pr_job_id next_id;
    pr__jobs queued, preparing, prepared, done; /* running ones are in their lane */
    pr__key *keys;
    pr__lane *lanes, *last; /* last: stepped last */
    double mean_seconds;    /* of a request, queue and all */
    pr_run *runs;           /* [PR__SESSIONS_MAX] the stepping thread's own */
    pr__job **run_jobs;     /* the same */
    /* Governing: */
    pr_sample sample;
    double sampled_at;
    pr_model *let_go; /* held for a decision, to be released without the lock */
    /* Counts: */
    uint64_t n_done, n_failed, n_cancelled, tokens_prompt, tokens_generated, tokens_cached, n_steps;
    uint32_t rate[PR__RATE_SECONDS]; /* tokens of each of the last seconds */
    uint64_t rate_second;            /* the one that is being counted */
};

/* Wait for a change, at most ms. */
void pr__sched_wait(pr_sched *s, int ms);
/* Count tokens for the rate. */
void pr__sched_count(pr_sched *s, uint32_t tokens);
/* Decide about every lane, now and then; stepping thread. */
void pr__govern(pr_sched *s);
pr__lane *pr__sched_lane(const pr_sched *s, const char *model); /* NULL: none of that name */

#endif
