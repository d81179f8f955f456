/*
 * Inside the API: what all handlers share.
 *
 * Everything is constant after opening but what is under `lock` or atomic.
 */
#ifndef PRECIS_API_CONTEXT_H
#define PRECIS_API_CONTEXT_H

#include <pthread.h>
#include <stdatomic.h>

#include "api/alerts.h"
#include "api/api.h"
#include "api/history.h"
#include "api/metrics.h"
#include "base/log.h"
#include "base/str.h"
#include "cache/cache.h"
#include "governor/guard.h"
#include "http/server.h"
#include "sched/sched.h"

enum { PR__SUBSCRIBERS_MAX = 64, PR__ORIGINS_MAX = 32, PR__TIMELINE_ENTRIES = 512, PR__ROUTES_MAX = 32 };

/* A client that listens to decisions. */
typedef struct pr__subscriber {
    pr_http_req *req; /* NULL: free */
    uint64_t seen;    /* number of the last entry it got */
} pr__subscriber;

struct pr_api {
    pr_settings settings;
    pr_gov_settings gov;
    pr_api_models models;
    uint64_t limit_bytes;
    double opened_at;
    time_t opened_time;

    pr_monitor *monitor;
    pr_timeline *timeline;
    pr__metrics *metrics;
    pr__alerts *alerts;
    pr__history *history;
    pr_keys *keys;
    pr_registry *registry;
    pr_sched *sched;
    pr_cache *responses, *recent; /* caches.h */
    pr_http_server *http;
    pr_http_route routes[PR__ROUTES_MAX];
    size_t n_routes;
    char *origins; /* one block that origin[] points into */
    const char *origin[PR__ORIGINS_MAX];
    size_t n_origins;

    pthread_t warden; /* chores.c: the thread that looks after memory, idle models and listeners */
    bool warden_runs;
    int wake_fd;
    atomic_bool serving, draining, ends; /* serving: http is there */
    atomic_uint guard_in_force;

    pthread_mutex_t flights_lock; /* flight.c: answers on their way that others may join */
    struct pr__flight *flights;
    uint64_t n_joined;

    pthread_mutex_t lock;
    pr__subscriber subscribers[PR__SUBSCRIBERS_MAX];
    pr_http_req *clears[PR__SUBSCRIBERS_MAX]; /* requests that wait for caches to be cleared */
    uint32_t n_clears;
    /* Counts, for /api/performance: n_hits are those of n_answers that nothing was generated for */
    uint64_t n_answers, n_failures, n_hits;
    double answer_seconds;
};

/* routes.c: fills api->routes. */
void pr__api_routes(pr_api *api);

/* chores.c */
pr_status pr__warden_open(pr_api *api, pr_err *err);
void pr__warden_close(pr_api *api);
void pr__warden_wake(pr_api *api);
/* May one more listen now? */
bool pr__api_can_subscribe(pr_api *api);
/* Listen to decisions after number `seen`; takes a reference. false: too many listen. */
bool pr__api_subscribe(pr_api *api, pr_http_req *req, uint64_t seen);
/* Tell all who listen of something that has no number and is not told again: warden's thread. */
void pr__api_tell(pr_api *api, const char *event, const pr_str *json);
/* Clear caches and answer req then; takes a reference. false: too many wait. */
bool pr__api_clear(pr_api *api, pr_http_req *req);
/* What the memory guard does now: "ok", "alert", "clearing", "emergency". */
const char *pr__guard_name(pr_api *api);
/* Answer with JSON and free it; 503 when out of memory. */
void pr__api_reply(pr_http_req *req, pr_str *json);

#endif
