/*
 * Registry: which models are resident.
 *
 * A model is loaded when it is first asked for, by whoever asks first; others who ask meanwhile wait for the same load
 * (single flight). Resident models are bounded by bytes: room is made by closing the least recently used ones that
 * nobody holds and that are not pinned; where that is not enough, an elastic model is loaded at a lower level, and refused
 * with a reason when it fits at none. A model that nobody has held for keep_alive seconds may be closed by
 * pr_registry_sweep(). Whoever holds a model (acquire .. release) can rely on its engine: eviction waits for streams.
 *
 * Threads: everything from any thread. acquire blocks while the model loads: not for threads that answer people.
 * The registry never steps an engine.
 */
#ifndef PRECIS_REGISTRY_REGISTRY_H
#define PRECIS_REGISTRY_REGISTRY_H

#include <stdatomic.h>

#include "governor/monitor.h"
#include "governor/policy.h"

typedef struct pr_registry pr_registry;
typedef struct pr_model pr_model; /* a resident model, held */

typedef struct pr_registry_opts {
    pr_engine_opts
        engine;       /* for every model; level is chosen here, weights_budget is the most for each; texts is ignored */
    size_t bytes_max; /* of resident models: weights at their level, KV pool bound, scratch; 0: half the memory limit */
    double keep_alive_seconds; /* 0: for ever */
    /* With a monitor, a model that the machine has no memory for is refused (PR_ERR_LIMIT). With both, an elastic model begins
     * at the level that the policy chooses for the machine as it is; else at the highest that bytes_max has room for. Borrowed. */
    pr_monitor *monitor;
    const pr_gov_settings *gov;
    /* A name that a client gives, to the path of a file: *path for pr_free(). */
    pr_status (*resolve)(void *arg, const char *name, char **path, pr_err *err);
    void *resolve_arg;
    /* Called with what happens (loaded, evicted, ...), for the log and the timeline; may be NULL. Without the registry's
     * lock, by the thread that did it. */
    void (*event)(void *arg, const char *model, const char *what, double seconds, size_t bytes);
    void *event_arg;
} pr_registry_opts;

pr_status pr_registry_open(const pr_registry_opts *opts, pr_registry **out, pr_err *err);
void pr_registry_close(pr_registry *r); /* nobody holds a model any more */

/* Hold a model, loading it if need be. name is resolved; two names of one file are one model. *cancel, when not NULL and
 * non-zero, ends the wait for room or for another's load (PR_ERR_CANCELLED), not a load. */
pr_status pr_registry_acquire(pr_registry *r, const char *name, const atomic_int *cancel, pr_model **out, pr_err *err);
/* The same if it is resident and ready already, under a name it was acquired by; false otherwise. Never blocks for long. */
bool pr_registry_acquire_ready(pr_registry *r, const char *name, pr_model **out);
/* Whether that would succeed now. Does not count as use. */
bool pr_registry_is_ready(pr_registry *r, const char *name);
void pr_registry_release(pr_model *model);

/* How a request would be computed if its step were the next one. */
typedef struct pr_model_standing {
    uint64_t load;                            /* pr_model_load() */
    bool elastic;                             /* false: the rest is 0 */
    uint32_t cursor, level_cursor[PR_LEVELS]; /* increments in use; those of each level */
} pr_model_standing;
/* Of a resident model, by a name it was acquired by; counts as use for keep-alive. False: it is not resident. */
bool pr_registry_standing(pr_registry *r, const char *name, pr_model_standing *out);

pr_engine *pr_model_engine(const pr_model *model);
/* A number of what was loaded: no other model of this registry has it, but the same GGUF file has it again when it is loaded
 * again and nothing has written to it or touched it since. Never 0. */
uint64_t pr_model_load(const pr_model *model);
const char *pr_model_name(const pr_model *model); /* as first asked for; valid while held */
/* Whether it was acquired by this name, or it is its path. The model exists: it is held, or `closing` has not come yet. */
bool pr_model_named(const pr_model *model, const char *name);

/* A pinned model is not evicted, nor swept when idle. false: no such resident model. */
bool pr_registry_pin(pr_registry *r, const char *name, bool pinned);
/* Close models that nobody holds: the ones idle for longer than keep-alive, or (all) every one. Returns how many. */
uint32_t pr_registry_sweep(pr_registry *r, bool all);
/* Who runs what is resident, and is asked and told without the registry's lock, by the thread that loads or evicts. Set once,
 * before anything is acquired. */
typedef struct pr_registry_watch {
    /* How many requests wait for a model that is about to be loaded: its first level depends on it. May be NULL: one. */
    uint32_t (*waiting)(void *arg, const pr_model *model);
    /* A model has been loaded; nobody can hold it before this returns. May be NULL. */
    void (*opened)(void *arg, const pr_model *model);
    /* It is about to be closed: nobody holds it, and nobody can get it any more. Whoever keeps sessions of it closes them.
     * why: "evicted" for room, "idle" for long, "cleared" with all. May be NULL. */
    void (*closing)(void *arg, const pr_model *model, const char *why);
    void *arg;
} pr_registry_watch;
void pr_registry_watched_by(pr_registry *r, const pr_registry_watch *watch);
/* The bound, changed at run time (0: half the memory limit); the next load acts on it. */
void pr_registry_set_bytes_max(pr_registry *r, size_t bytes);

typedef enum pr_model_state { PR_MODEL_LOADING, PR_MODEL_READY, PR_MODEL_CLOSING } pr_model_state;

typedef struct pr_model_info {
    char name[128];
    pr_model_state state;
    bool pinned;
    uint32_t n_held;
    uint64_t access_count;
    double idle_seconds;   /* since it was last released; 0 while held */
    size_t bytes;          /* what it counts against bytes_max now */
    pr_engine_info engine; /* zero unless ready; strings are not filled in */
    pr_elastic_info elastic;
} pr_model_info;

/* Fill out[max], most recently used first; returns how many models there are. */
size_t pr_registry_list(const pr_registry *r, pr_model_info *out, size_t max);
size_t pr_registry_bytes(const pr_registry *r);

typedef struct pr_registry_stats {
    uint64_t hits, loads;            /* acquired while resident; loaded */
    uint64_t evicted, idle, cleared; /* closed: for room, after keep-alive, because everything was */
    uint32_t models;
    size_t bytes, bytes_max;
} pr_registry_stats;
void pr_registry_stats_get(pr_registry *r, pr_registry_stats *out);
size_t pr_registry_bytes_max(const pr_registry *r);

/* Patterns and templates of models, shared by all that are loaded here: to be counted and cleared. */
pr_texts *pr_registry_texts(pr_registry *r);

#endif
