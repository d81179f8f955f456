/*
 * A lane: what the scheduler keeps for one resident model. Internal to sched/.
 *
 * It holds running jobs, sessions kept for their prefixes, and the governor's view of the model. Sessions are touched
 * by the stepping thread only; the lists also under the scheduler's lock, since others count them. The hold on the model is
 * the jobs': a lane without jobs lives until the registry closes the model and says so (pr__lane_free).
 */
#ifndef PRECIS_SCHED_LANE_H
#define PRECIS_SCHED_LANE_H

#include "sched/job.h"

typedef struct pr__prefix { /* a finished session whose pages may serve again */
    pr_session *session;
    const pr__key *key;
    uint64_t used; /* a count that grows: the least is evicted first */
    struct pr__prefix *next;
} pr__prefix;

typedef struct pr__lane {
    const pr_model *model; /* identity; held by the jobs */
    pr_engine *engine;
    char *name;
    pr__jobs running;
    pr__prefix *prefixes;
    uint32_t n_prefixes;
    uint64_t prefix_clock;
    bool decode_turn; /* forced levels and the model's own take turns */
    /* Governing: */
    pr_gov_clock clock;
    uint32_t requests;   /* when it was last decided */
    uint32_t pages_used; /* after the last step, for who counts */
    pr_gov_levels levels;
    pr_gov_plan plan; /* of the last judgement: whether somebody waits for a higher level */
    bool by_hand;     /* the level, or a budget, was set by somebody */
    struct {          /* a move under way */
        bool on;
        pr_level from, to;
        size_t bytes_before;
        uint64_t moves;
        double began;
        char reason[PR_GOV_REASON];
    } move;
    struct pr__lane *next;
} pr__lane;

pr__lane *pr__lane_new(const pr_model *model); /* NULL: out of memory */
void pr__lane_free(pr__lane *lane);            /* no jobs run */

/* ---- pages and prefixes (prefix.c) ---- */

/* A session with the longest kept beginning of the job's prompt (never all of it), *n_cached tokens; NULL when there is none
 * worth it. level: what the job will run at. */
pr_session *pr__prefix_take(pr__lane *lane, const pr__job *job, pr_level level, uint32_t *n_cached);
/* Keep the session of a job that is done, as long as there is room; takes job->session. */
void pr__prefix_keep(pr__lane *lane, pr__job *job);
void pr__prefix_drop_all(pr__lane *lane);
/* Room for the job's pages beside those reserved for running ones, kept prefixes giving way; false: it must wait. */
bool pr__lane_reserve(pr__lane *lane, pr__job *job);
size_t pr__prefix_bytes(const pr__lane *lane);

/* ---- steps (lane.c) ---- */

typedef struct pr__step { /* what one step will do */
    pr_run *runs;         /* [n] */
    pr__job **jobs;       /* [n] */
    size_t n;
    pr_level level;
} pr__step;

/* Choose; false when nothing can run. Under the scheduler's lock. step's arrays have room for sessions_max. */
bool pr__lane_compose(pr__lane *lane, const pr_sched_opts *opts, pr__step *step);
/* Run it and deliver; jobs that end are DONE afterwards. Without the lock. Returns rows of decoding. */
uint32_t pr__lane_step(pr__lane *lane, const pr__step *step);

#endif
