/*
 * A job: one request on its way through the scheduler. Internal to sched/.
 *
 * Owners, one at a time: the queue (QUEUED, PREPARED), a preparing thread (PREPARING), the stepping thread (RUNNING, and
 * DONE until on_done has come). Only `cancel` is written by others, and while a job's place is being told (`telling`) no
 * preparing thread takes it.
 */
#ifndef PRECIS_SCHED_JOB_H
#define PRECIS_SCHED_JOB_H

#include "base/str.h"
#include "engine/answer.h"
#include "sched/sched.h"

typedef enum pr__job_state {
    PR__JOB_QUEUED,
    PR__JOB_PREPARING,
    PR__JOB_PREPARED,
    PR__JOB_RUNNING,
    PR__JOB_DONE
} pr__job_state;

/* Who asks: one for each key that has jobs or kept pages. */
typedef struct pr__key {
    char *name;
    uint32_t n_jobs, n_running;
    struct pr__key *next;
} pr__key;

typedef struct pr__party pr__party; /* a key at work in a lane: lane.h */

typedef struct pr__job {
    pr_job_id id;
    pr_job spec; /* strings are own copies */
    pr__job_state state;
    atomic_int cancel;
    pr__key *key;
    pr_model *model; /* held, from when it is ready for it */
    /* Prepared: */
    int32_t *ids; /* [n_ids] the prompt */
    size_t n_ids;
    uint32_t n_new; /* tokens it may add */
    uint32_t pages; /* it may hold in the end */
    /* Running: */
    pr_session *session;
    pr_answer *answer;
    pr__party *party;
    pr_generate_stats stats;
    pr_str text;      /* of the token being delivered */
    uint32_t n_fed;   /* prompt tokens in the session */
    bool shared;      /* its prompt's pages are there for others */
    int32_t next;     /* token to be fed, once the prompt is */
    uint64_t turn_at; /* step in which it last decoded */
    pr_gov_verdict verdict;
    double queued_at, load_at, admitted_at, progress_at, parked_at; /* 0: not yet */
    uint32_t position;                                              /* in the queue, last told */
    double told_at, fed_at;                                         /* fed_at: its first prompt tokens */
    bool telling;
    bool tried; /* looked at in this round of admissions */
    pr_job_done done;
    struct pr__job *link; /* of the list that holds it */
} pr__job;

/* A copy of spec; NULL when out of memory. key stays the caller's. */
pr__job *pr__job_new(const pr_job *spec, pr_job_id id);
/* Frees everything but the model's hold. */
void pr__job_free(pr__job *job);

/* Its answer, in job->session, which holds the first tokens of the prompt or none. */
pr_status pr__job_start(pr__job *job, pr_err *err);
static inline bool pr__job_decoding(const pr__job *job) { return job->n_fed == job->n_ids; }
/* Sample and deliver the token that follows the first n_history of the session, from logits row `row` of the last step. True when
 * it was the last, or failed: done is set then. */
bool pr__job_advance(pr__job *job, size_t row, uint32_t n_history);
/* It is done; calls nobody. pr__job_flush() delivers what was held back, before on_done. */
void pr__job_end(pr__job *job, pr_job_finish finish);
void pr__job_flush(pr__job *job);
void pr__job_fail(pr__job *job, const pr_err *err, uint32_t retry_after);

/* Lists, linked by job->link. */
typedef struct pr__jobs {
    pr__job *first;
    uint32_t n;
} pr__jobs;
void pr__jobs_append(pr__jobs *list, pr__job *job);
void pr__jobs_remove(pr__jobs *list, pr__job *job);

#endif
