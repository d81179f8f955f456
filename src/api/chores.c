/*
 * The warden: one thread for what must not wait for a request, and must not be done in one.
 *
 * It notes a moment of history every few seconds, looks at memory every ten seconds and whenever the system says that tasks
 * stood still for it, closes models nobody has
 * used for long, and passes decisions on to those who listen. A descriptor wakes it, so all of this is prompt without
 * polling.
 */
#include <malloc.h>
#include <math.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "api/caches.h"
#include "api/context.h"
#include "api/write.h"
#include "base/os.h"
#include "http/sse.h"

static const double guard_seconds = 10, alarmed_seconds = 1; /* while a measure of the guard is in force */

void pr__warden_wake(pr_api *api) {
    uint64_t one = 1;
    if (api->wake_fd >= 0 && write(api->wake_fd, &one, sizeof one) < 0) return; /* full: it is awake already */
}

/* ---- listeners --------------------------------------------------------- */

bool pr__api_can_subscribe(pr_api *api) {
    bool can = false;
    pthread_mutex_lock(&api->lock);
    for (int i = 0; i < PR__SUBSCRIBERS_MAX && !can; i++) can = !api->subscribers[i].req;
    pthread_mutex_unlock(&api->lock);
    return can;
}

bool pr__api_subscribe(pr_api *api, pr_http_req *req, uint64_t seen) {
    bool taken = false;
    pthread_mutex_lock(&api->lock);
    for (int i = 0; i < PR__SUBSCRIBERS_MAX && !taken; i++) {
        pr__subscriber *s = &api->subscribers[i];
        if (s->req) continue;
        pr_http_req_ref(req);
        *s = (pr__subscriber){req, seen};
        taken = true;
    }
    pthread_mutex_unlock(&api->lock);
    pr__warden_wake(api);
    return taken;
}

/* What is new; false when the client has gone or is too slow to be told. */
static bool tell(pr_api *api, pr__subscriber *s) {
    enum { BATCH = 32 };
    pr_timeline_entry entries[BATCH];
    pr_str json = {0}, out = {0};
    size_t n;
    bool ok = !pr_http_req_gone(s->req);
    while (ok && (n = pr_timeline_read(api->timeline, s->seen, entries, BATCH, NULL)) > 0) {
        pr_str_clear(&out);
        for (size_t i = 0; i < n; i++) {
            pr_str_clear(&json);
            pr_write_decision(&json, &entries[i]);
            pr_str_printf(&out, "id: %llu\nevent: decision\n", (unsigned long long)entries[i].seq);
            pr_sse_data(&out, json.data, json.len);
        }
        ok = pr_str_ok(&out) && pr_http_stream_send(s->req, out.data, out.len) == PR_OK;
        s->seen = entries[n - 1].seq;
    }
    pr_str_free(&json);
    pr_str_free(&out);
    return ok;
}

void pr__api_tell(pr_api *api, const char *event, const pr_str *json) {
    pr_str out = {0};
    pr_str_printf(&out, "event: %s\n", event);
    pr_sse_data(&out, json->data, json->len);
    for (int i = 0; pr_str_ok(&out) && i < PR__SUBSCRIBERS_MAX; i++) {
        pthread_mutex_lock(&api->lock);
        pr_http_req *req = api->subscribers[i].req; /* only this thread takes one away */
        pthread_mutex_unlock(&api->lock);
        if (req) (void)pr_http_stream_send(req, out.data, out.len); /* who has gone is found by the next look */
    }
    pr_str_free(&out);
}

static void tell_all(pr_api *api) {
    for (int i = 0; i < PR__SUBSCRIBERS_MAX; i++) {
        pthread_mutex_lock(&api->lock);
        pr__subscriber s = api->subscribers[i];
        pthread_mutex_unlock(&api->lock);
        if (!s.req) continue;
        bool stays = tell(api, &s) && !atomic_load(&api->draining);
        if (!stays) {
            pr_http_stream_end(s.req);
            pr_http_req_unref(s.req);
            s.req = NULL;
        }
        pthread_mutex_lock(&api->lock);
        api->subscribers[i] = s;
        pthread_mutex_unlock(&api->lock);
    }
}

/* ---- caches ------------------------------------------------------------ */

bool pr__api_clear(pr_api *api, pr_http_req *req) {
    pthread_mutex_lock(&api->lock);
    bool taken = api->n_clears < PR__SUBSCRIBERS_MAX;
    if (taken) {
        pr_http_req_ref(req);
        api->clears[api->n_clears++] = req;
    }
    pthread_mutex_unlock(&api->lock);
    pr__warden_wake(api);
    return taken;
}

static void drop_kept(pr_api *api) {
    pr_sched_drop_prefixes(api->sched);
    pr__caches_clear(api);
    pr_texts_clear(pr_registry_texts(api->registry));
}

static void clear_caches(pr_api *api) {
    for (;;) {
        pr_str out = {0};
        pthread_mutex_lock(&api->lock);
        pr_http_req *req = api->n_clears ? api->clears[--api->n_clears] : NULL;
        pthread_mutex_unlock(&api->lock);
        if (!req) return;
        drop_kept(api);
        uint32_t n = pr_registry_sweep(api->registry, true);
        malloc_trim(0);
        pr_str_printf(
            &out,
            "{\"status\":\"success\",\"message\":\"answers, templates and prefixes dropped, %u idle model%s closed\","
            "\"models_closed\":%u}",
            n, n == 1 ? "" : "s", n);
        pr__api_reply(req, &out);
        pr_http_req_unref(req);
    }
}

/* ---- memory ------------------------------------------------------------ */

static void look_at_memory(pr_api *api, pr_guard *guard) {
    pr_guard_settings set;
    pr_guard_decision d;
    pr_sample sample;
    pr_guard_defaults(&set);
    pr_monitor_sample(api->monitor, &sample);
    pr_guard_decide(&set, guard, sample.used, &d);
    atomic_store(&api->guard_in_force, d.in_force);
    if (d.started || d.ended)
        pr_log(d.started ? PR_LOG_WARN : PR_LOG_INFO, "{\"event\":\"memory\",\"used\":%.3f,\"reason\":\"%s\"}",
               sample.used, d.reason);
    if (d.due & PR_GUARD_CLEAR_CACHES) drop_kept(api);
    pr__caches_sweep(api);
    pr_sched_emergency(api->sched, d.in_force & PR_GUARD_EMERGENCY);
    if (d.due & PR_GUARD_EMERGENCY) pr_registry_sweep(api->registry, true);
    pr_registry_sweep(api->registry, false);
    malloc_trim(0);
}

/* ---- history ----------------------------------------------------------- */

static void note_moment(pr_api *api) {
    pr_sample sample;
    pr_sched_stats stats;
    pr_monitor_sample(api->monitor, &sample);
    pr_sched_stats_get(api->sched, &stats);
    pr__moment m = {pr_wall_clock(), (float)sample.used, (float)stats.tokens_per_second, stats.n_running,
                    stats.n_queued};
    pr__history_add(api->history, &m);
}

/* ---- the thread -------------------------------------------------------- */

static void *warden(void *arg) {
    pr_api *api = arg;
    pr_guard guard = {0};
    double next = pr_now(), next_step = next;
    while (!atomic_load(&api->ends)) {
        struct pollfd fds[2] = {{api->wake_fd, POLLIN, 0}, {pr_monitor_fd(api->monitor), POLLPRI, 0}};
        double wait = fmin(fmin(next, next_step), pr__alerts_due(api->alerts)) - pr_now();
        poll(fds, fds[1].fd >= 0 ? 2 : 1, wait <= 0 ? 0 : (int)(wait * 1000) + 1);
        uint64_t n;
        if (fds[0].revents && read(api->wake_fd, &n, sizeof n) < 0) continue;
        tell_all(api);
        clear_caches(api);
        if (pr_now() >= next_step) {
            next_step = pr_now() + PR__WINDOW_STEP;
            pr__alerts_note_caches(api);
            pr__metrics_tick(api->metrics, pr_now());
            note_moment(api);
        }
        if (pr_now() >= pr__alerts_due(api->alerts)) pr__alerts_look(api, pr_now());
        bool pressed = fds[1].fd >= 0 && (fds[1].revents & POLLPRI);
        if (!pressed && pr_now() < next) continue;
        look_at_memory(api, &guard);
        next = pr_now() + (guard.in_force ? alarmed_seconds : guard_seconds);
    }
    return NULL;
}

pr_status pr__warden_open(pr_api *api, pr_err *err) {
    api->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (api->wake_fd < 0) return pr_fail_errno(err, "no descriptor for the server");
    if (pthread_create(&api->warden, NULL, warden, api)) return pr_fail(err, PR_ERR_NOMEM, "no thread for the server");
    api->warden_runs = true;
    return PR_OK;
}

void pr__warden_close(pr_api *api) {
    atomic_store(&api->ends, true);
    pr__warden_wake(api);
    if (api->warden_runs) pthread_join(api->warden, NULL);
    for (int i = 0; i < PR__SUBSCRIBERS_MAX; i++) pr_http_req_unref(api->subscribers[i].req);
    while (api->n_clears) pr_http_req_unref(api->clears[--api->n_clears]);
    if (api->wake_fd >= 0) close(api->wake_fd);
    api->wake_fd = -1;
}
