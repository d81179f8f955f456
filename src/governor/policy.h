/*
 * Policy: at which level a model should stand, and why, in words.
 *
 * Everything here is a pure function of its arguments: no clock, no file, no allocation. docs/GOVERNOR.md has the table
 * and the rules in plain words. What the rules leave open is settled so:
 *
 *  - Two lines bound what bytes allow. *Critical* (.85): a wish (priority quality, raising to a floor) goes no further.
 *    *Full* (.95, where the memory guard's emergency begins): a demand (a floor, a level set by hand, what is loaded
 *    already) is held no further. A level fits when its projected use is at most full and its bytes are within the cap.
 *  - The columns of the table are whole numbers of requests: < low, low to moderate (both counted), more; >= high.
 *  - "Use passes .60" is use >= .60: bands are half-open everywhere.
 *  - Materiality: a change for the sake of memory that would free less than 1% of the limit as a whole is not made, at
 *    load (from the best level there is) as later (from the loaded one). The level is then the one that load alone calls
 *    for, or the highest below it that fits.
 *  - A floor at which the model stands is held as long as it fits, default floors too; past full nothing is held. A loaded
 *    model below its floor is raised to it at once, where projected use stays below critical, but not within a dwell
 *    time of a downgrade; until then the table goes on deciding.
 *  - A level set by hand goes over table, load, priority and floor; only bytes stop it, and after they have lowered it the
 *    dwell time passes before it is raised again.
 *  - Between the levels: a level's own bytes are the least. Where bytes alone keep the next level away (the table grants it for so
 *    many requests at less use), the weights may take what keeps use below the line where it would be granted. They are
 *    given that at load and when they go down, and taken up to it after a calm time like a level; they give way at once when use
 *    reaches .60 or something does not fit. Differences under the materiality are not followed. For priority speed, for
 *    a level set by hand, and for a floor that holds the model above the table's choice it is the level's own bytes. Where int2 itself
 *    does not fit, the least there is.
 *  - A cap set by hand is followed at once, up or down, as if the model were loaded anew; after that like any other.
 *  - Load alone never lowers a loaded model: it decides how far memory lowers it.
 *  - No raise comes within a dwell time of a downgrade that was not made by hand. A downgrade may follow a raise at
 *    once: waiting would be a gamble with the machine. It takes more memory used by others, or more requests, to cause it,
 *    since nothing is raised to a level that the policy would not choose.
 */
#ifndef PRECIS_GOVERNOR_POLICY_H
#define PRECIS_GOVERNOR_POLICY_H

#include "precis.h"

typedef enum pr_priority { PR_PRIORITY_SPEED = -1, PR_PRIORITY_BALANCED = 0, PR_PRIORITY_QUALITY = 1 } pr_priority;
const char *pr_priority_name(pr_priority priority); /* "speed", "balanced", "quality" */
bool pr_priority_by_name(const char *name, pr_priority *out);

typedef struct pr_gov_settings {
    double memory_comfortable, memory_moderate, memory_tight, memory_critical; /* .40 .60 .75 .85 of the limit */
    double memory_full;                                                        /* .95 */
    uint32_t load_low, load_moderate, load_high;                               /* 2 5 10 requests */
    double dwell_seconds;                                                      /* 30 */
    double materiality;                                                        /* .01 of the limit */
} pr_gov_settings;

void pr_gov_defaults(pr_gov_settings *out);

/* Where memory stands, for people: "comfortable" < .40, "moderate" < .60, "tight" < .75, else "critical". */
const char *pr_gov_status(const pr_gov_settings *set, double used);

/* The table. used: fraction of the limit, any number (not a number counts as full). */
pr_level pr_gov_table(const pr_gov_settings *set, double used, uint32_t requests);

/* The world as the policy sees it. Zero-initialize: nothing loaded, no floor, nothing forced, balanced. */
typedef struct pr_gov_snapshot {
    uint64_t limit_bytes; /* 0 counts as full */
    uint64_t used_bytes;  /* of the limit, by everybody, this model's weights included */
    bool projected;       /* used_bytes is what would be used at any level: a scripted memory source */

    bool loaded;
    pr_level level;                  /* of the loaded model; above the top means its top */
    pr_level top;                    /* highest level it has */
    uint64_t weight_bytes;           /* in memory now; 0 when not loaded */
    uint64_t weight_bytes_due;       /* where they were last told to stand; 0: weight_bytes */
    uint64_t level_bytes[PR_LEVELS]; /* at each level, not falling; above the top they repeat */
    uint64_t weight_bytes_min;       /* the least there is; 0: level_bytes[PR_LEVEL_INT2] */
    uint64_t weight_bytes_max;       /* cap on them (MAX_MODEL_CACHE_MB, a budget by hand); 0: none */
    uint64_t n_params;               /* 0: unknown */
    bool poor_int2;                  /* int2 was never measured, or found to be of no use */
    uint32_t levels_able;            /* bit 1 << level: the device can run it; 0: all */

    uint32_t running, queued;
    uint64_t request_bytes; /* what the next request needs besides weights (KV, scratch); 0: none waits */
    pr_priority priority;
    bool cap_given; /* weight_bytes_max was set by hand just now: take what it and the table allow at once */
    bool emergency; /* the memory guard's: the lowest level at once, whatever else is asked */
    bool floor_given, force_given;
    pr_level floor; /* min_quantization; without one a model under 1e9 parameters has int4, and one of poor int2 */
    pr_level force;

    double calm_seconds; /* how long use < comfortable and requests < low have held, and nothing was changed */
    double down_seconds; /* since the last downgrade that was not made by hand */
} pr_gov_snapshot;

typedef enum pr_gov_cause {
    PR_GOV_STAY,
    PR_GOV_LOAD,    /* first choice for a model that is not loaded */
    PR_GOV_MEMORY,  /* use passed .60, or the level fits no more */
    PR_GOV_REQUEST, /* a request would not fit */
    PR_GOV_FLOOR,
    PR_GOV_FORCE,
    PR_GOV_CALM /* memory and load have been low for a dwell time */
} pr_gov_cause;

enum { PR_GOV_REASON = 201 };

typedef struct pr_gov_decision {
    pr_level level;
    pr_gov_cause cause;
    uint64_t weight_bytes; /* where weights should stand: the level's own bytes, or more up to the next's */
    bool changed;          /* not the loaded level; always true for a first choice */
    bool moves;            /* changed, or the weights are to stand elsewhere at the same level */
    int direction;         /* of the move: -1 down, 0 stays or first choice, 1 up */
    uint64_t freed_bytes, needed_bytes; /* of weights, by this change; one of them is 0 */
    double use;                         /* projected, with the waiting request */
    bool floor_met;                     /* the floor holds at this level; true when there is none */
    bool request_fits;                  /* the level, and the waiting request with it, fit */
    char reason[PR_GOV_REASON];
} pr_gov_decision;

void pr_gov_decide(const pr_gov_settings *set, const pr_gov_snapshot *snapshot, pr_gov_decision *out);

/* Use at a level, as a fraction of the limit: (used - weights now + weights at the level + waiting request) / limit. */
double pr_gov_projected(const pr_gov_snapshot *snapshot, pr_level level);
/* The highest level that a floor may raise the model to: projected use below critical. The lowest there is when none. */
pr_level pr_gov_allowed(const pr_gov_settings *set, const pr_gov_snapshot *snapshot);

/* ---- time ------------------------------------------------------------- */

/* The two durations of a snapshot, kept by the caller for each model. Times are seconds of any one clock. */
typedef struct pr_gov_clock {
    double calm_since, down_at;
    bool calm, was_down;
} pr_gov_clock; /* zero-initialize */

/* Before deciding: fill the snapshot's durations. */
void pr_gov_clock_read(pr_gov_clock *clock, const pr_gov_settings *set, double now, pr_gov_snapshot *snapshot);
/* After a decision that was carried out. */
void pr_gov_clock_decided(pr_gov_clock *clock, double now, const pr_gov_decision *decision);

/* ---- requests against the model's level -------------------------------- */

typedef struct pr_gov_session {
    bool floor_given, force_given; /* force goes over floor */
    pr_level floor, force;
} pr_gov_session;

/* Where the model stands. Above `top` everywhere means the top. */
typedef struct pr_gov_levels {
    pr_level level;    /* the decided one */
    pr_level resident; /* highest whose planes are all in memory: not below level but while it is being raised */
    pr_level allowed;  /* pr_gov_allowed(): where a raise may go */
    pr_level top;
} pr_gov_levels;

typedef enum pr_gov_verdict_kind {
    PR_GOV_RUN,
    PR_GOV_WAIT, /* its planes are not in memory but may be had: raise the model, leave the session out until then */
    PR_GOV_PARK  /* its floor or forced level cannot be had now: keep its KV, leave it out, 30 s at most */
} pr_gov_verdict_kind;

typedef struct pr_gov_verdict {
    pr_gov_verdict_kind kind;
    pr_level level; /* the level it runs at, or waits for */
} pr_gov_verdict;

typedef struct pr_gov_plan {
    pr_level step; /* of the step that sessions without a forced level share */
    bool raise;    /* some session waits for a higher level: decide again with this floor */
    pr_level raise_to;
} pr_gov_plan;

/* The shared step is at the model's level (what is resident of it), raised to the highest floor of those that can run.
 * Forced sessions run at exactly their level; those of one level form a batch. verdicts: [n], n may be 0. */
void pr_gov_plan_step(const pr_gov_levels *levels, const pr_gov_session *sessions, size_t n, pr_gov_verdict *verdicts,
                      pr_gov_plan *out);

/* Whether a new request may be taken; if not, why, for the 503. */
bool pr_gov_admits(const pr_gov_levels *levels, const pr_gov_session *session, char reason[PR_GOV_REASON]);

/* ---- calculate --------------------------------------------------------- */

/* For a model of which only the number of parameters is known. */
typedef struct pr_gov_estimate {
    pr_level level;
    const char *precision;      /* "4-bit" */
    char compression_ratio[16]; /* against 16 bits: "3.6x" */
    double estimated_memory_gb; /* 1e9 bytes of weights */
    char reason[PR_GOV_REASON];
} pr_gov_estimate;

/* Weights of n_params at a level: 16.75, 8.75, 4.5, 2.25 bits each. */
uint64_t pr_gov_params_bytes(uint64_t n_params, pr_level level);
/* machine: its memory, requests and capabilities; what it says of a model is ignored. */
void pr_gov_calculate(const pr_gov_settings *set, const pr_gov_snapshot *machine, uint64_t n_params,
                      pr_priority priority, pr_gov_estimate *out);

#endif
