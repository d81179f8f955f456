/*
 * A lane: what the scheduler keeps for one resident model. Internal to sched/.
 *
 * It holds running jobs, the pages kept for prompts that begin alike, and the governor's view of the model. Sessions and
 * pages are touched by the stepping thread only; lists and the tree also under the scheduler's lock, since others count them. The hold on the model is
 * the jobs': a lane without jobs lives until the registry closes the model and says so (pr__lane_free).
 */
#ifndef PRECIS_SCHED_LANE_H
#define PRECIS_SCHED_LANE_H

#include "engine/speculate.h"
#include "kv/radix.h"
#include "sched/fair.h"
#include "sched/job.h"
#include "sched/pace.h"

_Static_assert((int)PR__BATCHES == (int)PR_LEVELS + 1, "a batch for each forced level, and the model's own");

/* What turns are taken for, each in a queue of its own. */
typedef enum pr__want { PR__DECODE, PR__FRESH_PROMPT, PR__PROMPT, PR__WANTS } pr__want;

struct pr__party { /* one for each key with jobs in the lane */
    pr__key *key;
    uint32_t n_jobs;
    uint32_t batches;                         /* of this step: a bit each it has jobs in */
    bool decodes;                             /* it has a job that does, in this step's batch */
    pr__share shares[PR__WANTS][PR__BATCHES]; /* fair.h */
    struct pr__party *next;
};

/* Drafts for a job that runs alone. */
typedef struct pr__drafts {
    pr__spec spec;
    pr__lookup found; /* for the text of the step's job */
    pr__spec_choice choice;
    int32_t tokens[PR__SPEC_MAX + 1]; /* its next token, then the drafts */
} pr__drafts;

typedef struct pr__lane {
    const pr_model *model; /* identity; held by the jobs */
    pr_engine *engine;
    char *name;
    pr_engine_info info; /* its strings are the engine's */
    bool elastic;
    pr__jobs running;
    pr__party *parties;
    pr__fair queues[PR__WANTS][PR__BATCHES];
    pr__stride stride;
    uint64_t n_steps, shared_until; /* of them: until then it counts as shared by several keys */
    pr__pace pace;
    pr__drafts drafts;
    pr_radix *prefixes;       /* owners: keys */
    pr_prefix_counts *counts; /* of all lanes */
    /* Governing: */
    pr_gov_clock clock;
    size_t weights, weights_sampled,
        weights_due;     /* elastic ones: now; when the machine was sampled; after the last move */
    uint32_t requests;   /* when it was last decided */
    bool blocked;        /* the next request for it waits for room */
    size_t wanted_bytes; /* by that request: KV; 0: none waits */
    uint32_t pages_used; /* now or before the step, for who counts */
    pr_gov_levels levels;
    pr_gov_plan plan; /* of the last judgement: whether somebody waits for a higher level */
    size_t budget;    /* what weights may take at most; 0: what there is */
    struct {          /* a level was set by somebody, who said something just now (fresh) */
        bool on, fresh;
        pr_level level;
    } hand;
    struct { /* raising has failed so many times in a row: not again before then, unless somebody says so */
        uint32_t n;
        double until;
    } refused;
    struct { /* a move under way */
        bool on, up;
        pr_level from, to;
        pr_gov_cause cause;
        size_t bytes_before;
        double began;
        char reason[PR_GOV_REASON];
    } move;
    struct pr__lane *next;
} pr__lane;

pr__lane *pr__lane_new(const pr_model *model, pr_prefix_counts *counts); /* NULL: out of memory */
void pr__lane_free(pr__lane *lane);                                      /* no jobs run */

/* ---- pages and prefixes (prefix.c) ---- */

/* The longest beginning of the job's prompt that is kept for its key, never all of it; nothing when that is not worth it. level: what
 * the job will run at. */
pr_radix_match pr__prefix_find(const pr__lane *lane, const pr__job *job, pr_level level);
/* The job's session, which is empty, begins with it. */
void pr__prefix_take(pr__lane *lane, pr__job *job, const pr_radix_match *match);
/* Keep the whole pages of the job's prompt once it is fed: for requests that come while it runs. Does so once. */
void pr__prefix_share(pr__lane *lane, pr__job *job);
/* Keep what the session of a job that is done holds. */
void pr__prefix_keep(pr__lane *lane, const pr__job *job);
void pr__prefix_drop_all(pr__lane *lane);
/* Pages for all the tokens of a job. */
uint32_t pr__job_pages(const pr__job *job);
/* Pages that running jobs may still take. */
uint32_t pr__lane_promised(const pr__lane *lane);
/* Let go of kept pages until so many are free that were not, least recently used first; spared (may be NULL) stays. How many
 * became free. */
uint32_t pr__prefix_yield(pr__lane *lane, uint32_t n_pages, const pr_radix_match *spared);
/* Room for the job's pages beside those promised to running ones, kept pages giving way, of the match only a page that it
 * would have to copy. False: the job must wait. */
bool pr__lane_reserve(pr__lane *lane, const pr__job *job, pr_radix_match *match);
/* Pages that the job would take beside the whole ones of a match. */
uint32_t pr__lane_need(const pr__job *job, const pr_radix_match *match);
size_t pr__prefix_bytes(const pr__lane *lane);

/* ---- drafts (draft.c) ---- */

struct pr__step;
/* A step with one job that decodes and nothing else: let it feed drafts from its text too, at most so many, where that pays. */
void pr__draft_add(pr__lane *lane, struct pr__step *step, uint32_t most);
/* The step goes without. */
void pr__draft_drop(struct pr__step *step);
/* It has run, for so long: sample and deliver as many tokens as come out right, and one more; forget the others. Returns how many. */
uint32_t pr__draft_deliver(pr__lane *lane, const struct pr__step *step, double seconds);

/* ---- steps (lane.c) ---- */

typedef struct pr__step { /* what one step will do */
    pr_run *runs;         /* [n] */
    pr__job **jobs;       /* [n] */
    size_t n;
    uint32_t decoding, prompt; /* rows */
    int batch;                 /* pr_level when forced, PR__OWN */
    bool alone;                /* a job that decodes, at the model's level; its drafts are in the lane */
} pr__step;
enum { PR__OWN = PR_LEVELS };

/* A job begins / has ended; false: no memory. */
bool pr__lane_enter(pr__lane *lane, pr__job *job);
void pr__lane_leave(pr__lane *lane, pr__job *job);

/* Choose; false when nothing can run. Under the scheduler's lock. step's arrays have room for sessions_max. */
bool pr__lane_compose(pr__lane *lane, const pr_sched_opts *opts, pr__step *step);
/* Run it and deliver; jobs that end are DONE afterwards. Without the lock. Returns tokens that were delivered. */
uint32_t pr__lane_step(pr__lane *lane, pr__step *step);

#endif
