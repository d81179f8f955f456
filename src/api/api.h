/*
 * The API: everything a server is, behind one open and one close.
 *
 * Registry, scheduler, monitor, memory guard, keys and HTTP server are opened here in the order in which they need each
 * other, and closed in the opposite one: first nobody can ask any more, then what runs ends, then models are closed.
 *
 * Which models there are is the caller's business; it answers by name.
 */
#ifndef PRECIS_API_API_H
#define PRECIS_API_API_H

#include "base/status.h"
#include "governor/settings.h"

typedef struct pr_api pr_api;

enum { PR_API_MODEL_NAME = 96, PR_API_MODELS_MAX = 256 };

/* The models that may be asked for. Called from any thread; quick. */
typedef struct pr_api_models {
    /* What a client calls a model ("": the default one) to the name it goes by; false: there is none. */
    bool (*find)(void *arg, const char *name, char out[PR_API_MODEL_NAME]);
    /* That name to the path of a file; *path for pr_free(). */
    pr_status (*path)(void *arg, const char *name, char **path, pr_err *err);
    /* All of them; returns how many, at most max. */
    size_t (*list)(void *arg, char (*out)[PR_API_MODEL_NAME], size_t max);
    void *arg;
} pr_api_models;

typedef struct pr_api_opts {
    const pr_settings *settings; /* copied */
    pr_api_models models;
    const char *memory_source; /* a scripted use of memory (governor/monitor.h); NULL: measured */
    int n_threads;             /* 0: what is allowed */
    uint32_t cpumask;          /* ISA bits allowed (kernels.h); 0: all */
    bool serial;               /* one request at a time */
    size_t weights_budget;     /* of an elastic model; 0: what there is */
    double total_seconds;      /* a request may take so long; 0: no limit */
    double park_seconds;       /* and stand still for a level that cannot be had; 0: 30 */
} pr_api_opts;

/* On failure err says what is wrong: an address that is taken, keys that cannot be read, ... */
pr_status pr_api_open(const pr_api_opts *opts, pr_api **out, pr_err *err);
uint16_t pr_api_port(const pr_api *api);
/* Load a model and answer a short prompt with it, so that the first real request does not wait. */
pr_status pr_api_preload(pr_api *api, const char *model, pr_err *err);
/* Read the file of API keys again (http/keys.h). PR_ERR_ARG for a server without one; on any error the keys that were
 * there stay. */
pr_status pr_api_reload(pr_api *api, pr_err *err);
/* Take no more requests and let those at work finish, for at most `seconds`; what is left then ends with what it has. */
void pr_api_stop(pr_api *api, double seconds);
void pr_api_close(pr_api *api); /* stops at once when that was not done; NULL allowed */

#endif
