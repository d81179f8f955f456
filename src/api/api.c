/*
 * Opening and closing a server.
 *
 * The order of closing is the point. HTTP stops first: new requests are refused, those at work go on while the scheduler
 * drains. Streams that outlive the grace are ended by the scheduler, with what they have and a reason, and not by a cut
 * connection; so the scheduler is drained before the connections are. Models are closed when nobody can hold one.
 */
#include "api/api.h"

#include <string.h>
#include <time.h>

#include "api/caches.h"
#include "api/context.h"
#include "base/os.h"

enum { FLUSH_SECONDS = 2 };

static uint32_t on_loading(void *arg, const pr_model *model) {
    const pr_api *api = arg;
    return pr_sched_model_waiting(api->sched, model);
}

static const char *closed_why(const char *why) {
    if (strcmp(why, "evicted") == 0) return "to make room for another model";
    if (strcmp(why, "idle") == 0) return "nobody had asked for it for long";
    return "memory is short: all idle models go";
}

/* A line of the timeline begins or ends. */
static void note_model(pr_api *api, const pr_model *model, pr_timeline_kind kind, const char *reason) {
    pr_elastic_info e;
    pr_engine_info info;
    pr_engine_elastic(pr_model_engine(model), &e);
    pr_engine_describe(pr_model_engine(model), &info);
    pr_level level = e.elastic ? e.level : PR_LEVEL_FP16;
    size_t bytes = e.elastic ? e.bytes : info.weight_bytes;
    bool opens = kind == PR_TIMELINE_LOAD;
    pr_timeline_entry entry = {
        .kind = kind,
        .time = pr_wall_clock(),
        .from = level,
        .to = level,
        .cursor = e.cursor,
        .bytes = opens ? (int64_t)bytes : -(int64_t)bytes,
    };
    snprintf(entry.model, sizeof entry.model, "%.*s", (int)sizeof entry.model - 1, pr_model_name(model));
    snprintf(entry.reason, sizeof entry.reason, "%s%s", reason, e.elastic ? "" : "; it has one precision");
    pr_timeline_append(api->timeline, &entry);
    pr__warden_wake(api);
}

static void on_opened(void *arg, const pr_model *model) {
    pr_api *api = arg;
    note_model(api, model, PR_TIMELINE_LOAD, "loaded");
    pr_sched_model_opened(api->sched, model);
}

static void on_closing(void *arg, const pr_model *model, const char *why) {
    pr_api *api = arg;
    note_model(api, model, PR_TIMELINE_CLOSE, closed_why(why));
    if (api->sched) pr_sched_model_closing(api->sched, model);
}

static void on_moved(void *arg, const pr_timeline_entry *e) {
    pr_api *api = arg;
    pr_str line = {0};
    pr__metrics_moved(api->metrics, e);
    if (pr_log_wants(PR_LOG_INFO)) {
        pr_str_puts(&line, "{\"event\":\"level\",\"model\":");
        pr_str_json(&line, e->model, strlen(e->model));
        pr_str_printf(&line, ",\"from\":\"%s\",\"to\":\"%s\",\"bytes\":%lld,\"seconds\":%.3f,\"reason\":",
                      pr_level_name(e->from), pr_level_name(e->to), (long long)e->bytes, e->seconds);
        pr_str_json(&line, e->reason, strlen(e->reason));
        pr_str_puts(&line, "}");
        if (pr_str_ok(&line)) pr_log(PR_LOG_INFO, "%s", line.data);
        pr_str_free(&line);
    }
    pr__warden_wake(api);
}

static void on_model(void *arg, const char *model, const char *what, double seconds, size_t bytes) {
    const pr_api *api = arg;
    pr_str line = {0};
    if (strcmp(what, "loaded") == 0) pr__metrics_loaded(api->metrics, seconds);
    if (!pr_log_wants(PR_LOG_INFO)) return;
    pr_str_puts(&line, "{\"event\":\"model\",\"model\":");
    pr_str_json(&line, model, strlen(model));
    pr_str_puts(&line, ",\"what\":");
    pr_str_json(&line, what, strlen(what));
    pr_str_printf(&line, ",\"seconds\":%.3f,\"bytes\":%zu}", seconds, bytes);
    if (pr_str_ok(&line)) pr_log(PR_LOG_INFO, "%s", line.data);
    pr_str_free(&line);
}

/* "a, b" to texts of their own. */
static pr_status split_origins(pr_api *api, pr_err *err) {
    char *save = NULL;
    if (!api->settings.origins[0]) return PR_OK;
    api->origins = pr_strdup(PR_TAG_HTTP, api->settings.origins);
    if (!api->origins) return pr_fail_nomem(err, "origins", strlen(api->settings.origins));
    for (char *at = strtok_r(api->origins, ", ", &save); at; at = strtok_r(NULL, ", ", &save)) {
        if (api->n_origins == PR__ORIGINS_MAX)
            return pr_fail(err, PR_ERR_LIMIT, "origins: more than %d", PR__ORIGINS_MAX);
        api->origin[api->n_origins++] = at;
    }
    return PR_OK;
}

static pr_status open_registry(pr_api *api, const pr_api_opts *opts, pr_err *err) {
    const pr_settings *set = &api->settings;
    pr_registry_opts o = {
        .engine = {.n_threads = opts->n_threads,
                   .cpumask = opts->cpumask,
                   .nice = 1,
                   .context_max = set->context_length,
                   .context_fit = true,
                   .kv_contexts = set->num_parallel,
                   .kv_type = set->kv_cache_type,
                   .chat_template = api->settings.chat_template[0] ? api->settings.chat_template : NULL,
                   .weights_budget = opts->weights_budget},
        .bytes_max = (size_t)pr_settings_cache_bytes(set, api->limit_bytes),
        .keep_alive_seconds = set->keep_alive_seconds < 0 ? 0 : set->keep_alive_seconds,
        .monitor = api->monitor,
        .gov = &api->gov,
        .resolve = opts->models.path,
        .resolve_arg = opts->models.arg,
        .event = on_model,
        .event_arg = api,
    };
    pr_status st = pr_registry_open(&o, &api->registry, err);
    if (!st) pr_registry_watched_by(api->registry, &(pr_registry_watch){on_loading, on_opened, on_closing, api});
    return st;
}

/* A step's texts leave together. */
static void hold(bool on) {
    if (on) pr_http_hold();
    else pr_http_release();
}

static pr_status open_sched(pr_api *api, const pr_api_opts *opts, pr_err *err) {
    pr_sched_opts o = {
        .registry = api->registry,
        .gov = api->gov,
        .monitor = api->monitor,
        .timeline = api->timeline,
        .moved = on_moved,
        .moved_arg = api,
        .hold = hold,
        .queue_max = api->settings.max_queue,
        .parallel = api->settings.num_parallel,
        .drafts = api->settings.drafts,
        .serial = opts->serial,
        .weights_budget = opts->weights_budget,
        .total_seconds = opts->total_seconds,
        .park_seconds = opts->park_seconds,
    };
    return pr_sched_open(&o, &api->sched, err);
}

static pr_status open_http(pr_api *api, pr_err *err) {
    pr_http_opts o = {
        .host = api->settings.host,
        .port = (uint16_t)api->settings.port,
        .routes = api->routes,
        .n_routes = api->n_routes,
        .keys = api->keys,
        .origins = api->origin,
        .n_origins = api->n_origins,
        .connections_max = 4096,
    };
    pr_status st = pr_http_open(&o, &api->http, err);
    atomic_store(&api->serving, st == PR_OK);
    return st;
}

static pr_status open_parts(pr_api *api, const pr_api_opts *opts, pr_err *err) {
    pr_monitor_opts mon = {
        .limit_bytes = api->settings.memory_bytes,
        .memory_source = opts->memory_source,
        .watch_pressure = true,
    };
    pr_sample sample;
    pr_status st = pr_monitor_open(&mon, &api->monitor, err);
    if (st) return st;
    pr_monitor_sample(api->monitor, &sample);
    api->limit_bytes = sample.limit_bytes;
    if ((st = split_origins(api, err))) return st;
    if (api->settings.api_keys_file[0] && (st = pr_keys_load(api->settings.api_keys_file, &api->keys, err))) return st;
    if ((st = pr_timeline_open(PR__TIMELINE_ENTRIES, &api->timeline, err))) return st;
    if ((st = pr__history_open(&api->history, err))) return st;
    if ((st = pr__caches_open(api, err))) return st;
    if ((st = pr__metrics_open(&api->metrics, err))) return st;
    if ((st = pr__alerts_open(api->settings.alerts, &api->alerts, err))) return st;
    if ((st = open_registry(api, opts, err))) return st;
    if ((st = open_sched(api, opts, err))) return st;
    if ((st = pr__warden_open(api, err))) return st;
    pr__api_routes(api);
    return open_http(api, err);
}

pr_status pr_api_open(const pr_api_opts *opts, pr_api **out, pr_err *err) {
    *out = NULL;
    pr_api *api = pr_calloc(PR_TAG_HTTP, 1, sizeof *api);
    if (!api) return pr_fail_nomem(err, "server", sizeof *api);
    pthread_mutex_init(&api->lock, NULL);
    pthread_mutex_init(&api->flights_lock, NULL);
    api->settings = *opts->settings;
    api->models = opts->models;
    api->wake_fd = -1;
    api->opened_at = pr_now();
    api->opened_time = time(NULL);
    pr_settings_governor(&api->settings, &api->gov);
    pr_status st = open_parts(api, opts, err);
    if (st) pr_api_close(api);
    else *out = api;
    return st;
}

uint16_t pr_api_port(const pr_api *api) { return pr_http_port(api->http); }

/* ---- warming up -------------------------------------------------------- */

typedef struct warmup {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    pr_job_done end;
} warmup;

static pr_status warm_prompt(void *arg, const pr_engine *engine, int32_t **ids, size_t *n_ids, pr_err *err) {
    enum { SOME = 16 };
    (void)arg;
    *ids = pr_calloc(PR_TAG_SESSION, SOME, sizeof **ids);
    if (!*ids) return pr_fail_nomem(err, "tokens", SOME * sizeof **ids);
    return pr_engine_tokenize(engine, "Hello", 5, PR_TOKENIZE_BOS, *ids, SOME, n_ids, err);
}

static void warm_done(void *arg, const pr_job_done *end) {
    warmup *w = arg;
    pthread_mutex_lock(&w->lock);
    w->end = *end;
    w->done = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

pr_status pr_api_preload(pr_api *api, const char *model, pr_err *err) {
    warmup w = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    char name[PR_API_MODEL_NAME];
    pr_job_id id;
    if (!api->models.find(api->models.arg, model, name))
        return pr_fail(err, PR_ERR_NOTFOUND, "there is no model \"%.100s\"", model);
    pr_job job = {.model = name, .prepare = warm_prompt, .on_done = warm_done, .arg = &w};
    job.generate.max_tokens = 2;
    pr_status st = pr_sched_submit(api->sched, &job, &id, err);
    if (st) return st;
    pthread_mutex_lock(&w.lock);
    while (!w.done) pthread_cond_wait(&w.changed, &w.lock);
    pthread_mutex_unlock(&w.lock);
    if (w.end.finish != PR_JOB_ERROR) return PR_OK;
    if (err) *err = w.end.err;
    return w.end.err.status;
}

/* ---- reloading --------------------------------------------------------- */

pr_status pr_api_reload(pr_api *api, pr_err *err) {
    if (!api->keys)
        return pr_fail(err, PR_ERR_ARG, "this server has no file of API keys, and nothing else is read again");
    pr_status st = pr_keys_reload(api->keys, api->settings.api_keys_file, err);
    if (st) return st;
    pr_log(PR_LOG_INFO, "API keys: %zu", pr_keys_count(api->keys));
    /* Answers and prefixes are told apart by a key's name, which may be another client's from now on. */
    pr__caches_clear(api);
    pr_sched_drop_prefixes(api->sched);
    return PR_OK;
}

/* ---- closing ----------------------------------------------------------- */

void pr_api_stop(pr_api *api, double seconds) {
    atomic_store(&api->draining, true);
    pr__warden_wake(api); /* listeners are let go */
    if (api->sched) pr_sched_drain(api->sched, seconds);
    if (api->http) pr_http_stop(api->http, FLUSH_SECONDS);
}

void pr_api_close(pr_api *api) {
    if (!api) return;
    if (!atomic_load(&api->draining)) pr_api_stop(api, 0);
    pr_http_close(api->http);
    pr__warden_close(api);
    pr_sched_close(api->sched);
    api->sched = NULL;
    pr_registry_close(api->registry);
    pr__caches_close(api);
    pr_timeline_close(api->timeline);
    pr__alerts_close(api->alerts);
    pr__metrics_close(api->metrics);
    pr__history_close(api->history);
    pr_monitor_close(api->monitor);
    pr_keys_close(api->keys);
    pthread_mutex_destroy(&api->lock);
    pthread_mutex_destroy(&api->flights_lock);
    pr_free(api->origins);
    pr_free(api);
}
