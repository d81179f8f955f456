/*
 * GET /metrics: everything the server knows of itself, as Prometheus reads it.
 *
 * One function a subject. Values are copies that each part gives of itself, so families of different parts may be apart by
 * the work of a millisecond. Label values are bounded: models of the catalogue that were asked for, routes, tags, names of
 * rules. Beside our own names stand those that OpenTelemetry has for servers of language models; ?names= has vLLM's and llama.cpp's,
 * which hold a colon: Prometheus' own style reserves it, and promtool would object.
 * docs/METRICS.md lists every family; tests hold it against this.
 */
#include <math.h>
#include <string.h>
#include <time.h>

#include "api/caches.h"
#include "api/handlers.h"
#include "api/prometheus.h"
#include "base/os.h"

enum { MODELS = 64 };

#define LABELS(...)                                                                                                    \
    (const pr_prom_label[]){__VA_ARGS__}, sizeof((const pr_prom_label[]){__VA_ARGS__}) / sizeof(pr_prom_label)

typedef struct scrape { /* copies of a moment */
    pr_prom p;
    pr_api *api;
    pr_sample sample;
    pr_sched_stats sched;
    pr_registry_stats registry;
    pr_model_info *models; /* [n_models] */
    size_t n_models;
    pr__process_view process;
    pr__model_view *views; /* [n_views] */
    size_t n_views;
} scrape;

static void one(scrape *s, const char *name, pr_prom_type type, const char *help, double value) {
    pr_prom_one(&s->p, name, type, help, value);
}

/* ---- process and memory ------------------------------------------------ */

static void write_process(scrape *s) {
    struct timespec cpu = {0};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    pr_prom_family(&s->p, "precis_build_info", PR_PROM_GAUGE, "The version that runs; always 1.");
    pr_prom_count(&s->p, LABELS({"version", PRECIS_VERSION}), 1);
    one(s, "process_start_time_seconds", PR_PROM_GAUGE, "When the server started, in seconds since 1970.",
        (double)s->api->opened_time);
    one(s, "process_cpu_seconds_total", PR_PROM_COUNTER, "Processor time of all threads.",
        (double)cpu.tv_sec + (double)cpu.tv_nsec * 1e-9);
    one(s, "process_resident_memory_bytes", PR_PROM_GAUGE, "Resident bytes of the process.",
        (double)s->sample.rss_bytes);
    one(s, "precis_processors", PR_PROM_GAUGE, "Processors this process may use.", s->sample.n_cpus);
}

static void write_memory(scrape *s) {
    static const char *const measures[] = {"alert", "clear_caches", "emergency"};
    unsigned guard = atomic_load(&s->api->guard_in_force);
    pr_prom_family(&s->p, "precis_memory_ledger_bytes", PR_PROM_GAUGE, "Bytes the program holds, by purpose.");
    for (int t = 0; t < PR_TAG_COUNT; t++)
        pr_prom_count(&s->p, LABELS({"tag", pr_tag_name((pr_tag)t)}), s->sample.ledger[t]);
    one(s, "precis_memory_limit_bytes", PR_PROM_GAUGE, "The smallest of memory, control group and setting.",
        (double)s->sample.limit_bytes);
    one(s, "precis_memory_available_bytes", PR_PROM_GAUGE, "What this process can still get.",
        (double)s->sample.available_bytes);
    one(s, "precis_memory_used_ratio", PR_PROM_GAUGE, "Used part of the limit, by everybody, 0 to 1.", s->sample.used);
    one(s, "precis_memory_peak_bytes", PR_PROM_GAUGE, "Highest resident bytes of the process since it started.",
        (double)pr_rss_peak_bytes());
    if (s->sample.pressure >= 0)
        one(s, "precis_memory_pressure_ratio", PR_PROM_GAUGE,
            "Share of the last 10 s in which some task stood still for memory, 0 to 1.", s->sample.pressure);
    pr_prom_family(&s->p, "precis_memory_guard", PR_PROM_GAUGE, "Whether a measure of the memory guard is in force.");
    for (int m = 0; m < 3; m++) pr_prom_count(&s->p, LABELS({"measure", measures[m]}), guard >> m & 1);
}

/* ---- models ------------------------------------------------------------ */

typedef uint64_t (*model_value)(const pr_model_info *m);

static uint64_t held_of(const pr_model_info *m) { return m->n_held; }
static uint64_t bytes_of(const pr_model_info *m) { return m->bytes; }
static uint64_t weights_of(const pr_model_info *m) {
    return m->elastic.elastic ? m->elastic.bytes : m->engine.weight_bytes;
}
static uint64_t cursor_of(const pr_model_info *m) { return m->elastic.cursor; }
static uint64_t increments_of(const pr_model_info *m) { return m->elastic.n_increments; }

static void by_model(scrape *s, const char *name, const char *help, model_value value, bool elastic) {
    pr_prom_family(&s->p, name, PR_PROM_GAUGE, help);
    for (size_t i = 0; i < s->n_models; i++)
        if (s->models[i].state == PR_MODEL_READY && (s->models[i].elastic.elastic || !elastic))
            pr_prom_count(&s->p, LABELS({"model", s->models[i].name}), value(&s->models[i]));
}

static void write_levels(scrape *s) {
    static const char *const planes[] = {"p2", "p4", "p8", "p16"};
    pr_prom_family(&s->p, "precis_model_level", PR_PROM_GAUGE,
                   "1 for the level a resident model stands at, 0 for others.");
    for (size_t i = 0; i < s->n_models; i++) {
        const pr_model_info *m = &s->models[i];
        pr_level at = m->elastic.elastic ? m->elastic.level : PR_LEVEL_FP16;
        for (int l = 0; l < PR_LEVELS && m->state == PR_MODEL_READY; l++)
            pr_prom_count(&s->p, LABELS({"model", m->name}, {"level", pr_level_name((pr_level)l)}), l == (int)at);
    }
    pr_prom_family(&s->p, "precis_model_plane_bytes", PR_PROM_GAUGE, "Bytes in memory of each plane.");
    for (size_t i = 0; i < s->n_models; i++)
        for (int l = 0; l < 4 && s->models[i].elastic.elastic; l++)
            pr_prom_count(&s->p, LABELS({"model", s->models[i].name}, {"plane", planes[l]}),
                          s->models[i].elastic.plane_bytes[l]);
    pr_prom_family(&s->p, "precis_model_bytes_per_weight", PR_PROM_GAUGE, "Bytes a weight in memory.");
    for (size_t i = 0; i < s->n_models; i++)
        if (s->models[i].elastic.elastic)
            pr_prom_number(&s->p, LABELS({"model", s->models[i].name}), s->models[i].elastic.bits_per_weight / 8);
}

static void write_models(scrape *s) {
    static const char *const states[] = {"loading", "ready", "closing"};
    uint64_t n[3] = {0};
    for (size_t i = 0; i < s->n_models; i++) n[s->models[i].state]++;
    pr_prom_family(&s->p, "precis_models", PR_PROM_GAUGE, "Models in memory, by state.");
    for (int st = 0; st < 3; st++) pr_prom_count(&s->p, LABELS({"state", states[st]}), n[st]);
    write_levels(s);
    by_model(s, "precis_model_bytes", "What a resident model counts against the cap.", bytes_of, false);
    by_model(s, "precis_model_weight_bytes", "Bytes of weights in memory.", weights_of, false);
    by_model(s, "precis_model_cursor", "Increments in use.", cursor_of, true);
    by_model(s, "precis_model_increments", "Increments there are.", increments_of, true);
    by_model(s, "precis_model_requests", "Requests that hold the model.", held_of, false);
    one(s, "precis_models_bytes_max", PR_PROM_GAUGE, "Cap on the bytes of resident models.",
        (double)s->registry.bytes_max);
    one(s, "precis_model_loads_total", PR_PROM_COUNTER, "Models loaded.", (double)s->process.loads);
    one(s, "precis_model_load_seconds_total", PR_PROM_COUNTER, "Time it took to load them.", s->process.load_seconds);
    pr_prom_family(&s->p, "precis_model_evictions_total", PR_PROM_COUNTER,
                   "Models closed: for room, after their keep-alive, or because everything was cleared.");
    pr_prom_count(&s->p, LABELS({"reason", "room"}), s->registry.evicted);
    pr_prom_count(&s->p, LABELS({"reason", "idle"}), s->registry.idle);
    pr_prom_count(&s->p, LABELS({"reason", "cleared"}), s->registry.cleared);
}

typedef enum move_value { MOVE_COUNT, MOVE_SECONDS, MOVE_BYTES } move_value;

static void by_cause(scrape *s, const char *name, const char *help, move_value what) {
    static const char *const directions[] = {"down", "up"};
    pr_prom_family(&s->p, name, PR_PROM_COUNTER, help);
    for (int d = 0; d < 2; d++) {
        for (int c = PR_GOV_MEMORY; c < PR__MOVE_CAUSES; c++) {
            const pr__move_view *m = d ? &s->process.up[c] : &s->process.down[c];
            double value = what == MOVE_COUNT ? (double)m->n : what == MOVE_SECONDS ? m->seconds : (double)m->bytes;
            pr_prom_number(&s->p, LABELS({"direction", directions[d]}, {"cause", pr__cause_name((pr_gov_cause)c)}),
                           value);
        }
    }
}

static void write_moves(scrape *s) {
    by_cause(s, "precis_moves_total", "Moves of models between levels and budgets.", MOVE_COUNT);
    by_cause(s, "precis_move_seconds_total", "Time they took.", MOVE_SECONDS);
    by_cause(s, "precis_move_bytes_total", "Bytes of weights they freed (down) or took (up).", MOVE_BYTES);
    one(s, "precis_moves_failed_total", PR_PROM_COUNTER, "Raises that failed, and left the model where it was.",
        (double)s->process.moves_failed);
}

/* ---- requests ---------------------------------------------------------- */

static void write_sched(scrape *s) {
    const pr_sched_stats *k = &s->sched;
    one(s, "precis_requests_running", PR_PROM_GAUGE, "Answers being generated.", k->n_running);
    one(s, "precis_requests_waiting", PR_PROM_GAUGE, "Answers that wait for a model or for their turn.", k->n_queued);
    one(s, "precis_requests_parked", PR_PROM_GAUGE, "Running ones that wait for a level they insist on.", k->n_parked);
    one(s, "precis_batch_size", PR_PROM_GAUGE, "Answers in the step under way.", k->batch);
    one(s, "precis_draft_tokens_total", PR_PROM_COUNTER, "Tokens drafted from texts, of requests that have ended.",
        (double)k->tokens_drafted);
    one(s, "precis_draft_tokens_accepted_total", PR_PROM_COUNTER, "Of them, those that were right.",
        (double)k->tokens_accepted);
    one(s, "precis_steps_total", PR_PROM_COUNTER, "Forward passes.", (double)k->steps);
    one(s, "precis_step_answers_total", PR_PROM_COUNTER, "Answers in them: by steps, the mean batch.",
        (double)k->stepped);
    one(s, "precis_tokens_per_second", PR_PROM_GAUGE, "Tokens delivered a second, over ten seconds.",
        k->tokens_per_second);
    one(s, "precis_kv_bytes", PR_PROM_GAUGE, "KV pages in use.", (double)k->kv_bytes);
    one(s, "precis_kv_bytes_max", PR_PROM_GAUGE, "KV pages there may be.", (double)k->kv_bytes_max);
    one(s, "precis_kv_used_ratio", PR_PROM_GAUGE, "KV pages in use, 0 to 1.",
        k->kv_bytes_max ? (double)k->kv_bytes / (double)k->kv_bytes_max : 0);
    one(s, "precis_prefix_bytes", PR_PROM_GAUGE, "KV pages kept for requests that begin alike, in use or not.",
        (double)k->prefix_bytes);
}

static void latency(scrape *s, const char *name, const char *help, pr__latency which, const char *label) {
    pr_prom_family(&s->p, name, PR_PROM_HISTOGRAM, help);
    for (size_t i = 0; i < s->n_views; i++)
        pr_prom_histogram(&s->p, LABELS({label, s->views[i].name}), &s->views[i].latency[which]);
}

typedef enum token_value { TOKENS_PROMPT, TOKENS_CACHED, TOKENS_GENERATED } token_value;

static void tokens(scrape *s, const char *name, const char *help, token_value which, const char *label) {
    pr_prom_family(&s->p, name, PR_PROM_COUNTER, help);
    for (size_t i = 0; i < s->n_views; i++) {
        const pr__model_view *v = &s->views[i];
        uint64_t n = which == TOKENS_PROMPT ? v->prompt : which == TOKENS_CACHED ? v->cached : v->generated;
        pr_prom_count(&s->p, LABELS({label, v->name}), n);
    }
}

static void write_answers(scrape *s) {
    pr_prom_family(&s->p, "precis_requests_total", PR_PROM_COUNTER,
                   "Requests for answers that were answered, or failed by the server's fault.");
    pr_prom_count(&s->p, LABELS({"result", "answered"}), s->process.answers);
    pr_prom_count(&s->p, LABELS({"result", "failed"}), s->process.failures);
    pr_prom_family(&s->p, "precis_answers_total", PR_PROM_COUNTER, "Answers computed, by how they ended.");
    for (size_t i = 0; i < s->n_views; i++)
        for (int o = 0; o < PR__OUTCOMES; o++)
            pr_prom_count(&s->p, LABELS({"model", s->views[i].name}, {"finish", pr__outcome_name((pr__outcome)o)}),
                          s->views[i].outcome[o]);
    tokens(s, "precis_prompt_tokens_total", "Tokens of prompts, cached ones in them.", TOKENS_PROMPT, "model");
    tokens(s, "precis_cached_tokens_total", "Tokens of prompts taken from kept prefixes.", TOKENS_CACHED, "model");
    tokens(s, "precis_generated_tokens_total", "Tokens generated.", TOKENS_GENERATED, "model");
    latency(s, "precis_request_seconds", "From a request to its whole answer.", PR__LATENCY_END_TO_END, "model");
    latency(s, "precis_time_to_first_token_seconds", "From a request to its first token, waiting and loading in it.",
            PR__LATENCY_FIRST_TOKEN, "model");
    latency(s, "precis_time_between_tokens_seconds", "Between two tokens of an answer.", PR__LATENCY_NEXT_TOKEN,
            "model");
    latency(s, "precis_queue_seconds", "Waiting for its turn, loading the model not in it.", PR__LATENCY_QUEUE,
            "model");
}

/* ---- caches, http, alerts ---------------------------------------------- */

typedef struct cache_family {
    const char *name;
    pr_prom_type type;
    const char *help;
    uint64_t (*value)(const pr_cache_stats *s);
} cache_family;

static uint64_t c_hits(const pr_cache_stats *s) { return s->hits; }
static uint64_t c_misses(const pr_cache_stats *s) { return s->misses; }
static uint64_t c_insertions(const pr_cache_stats *s) { return s->insertions; }
static uint64_t c_bytes(const pr_cache_stats *s) { return s->bytes; }
static uint64_t c_bytes_max(const pr_cache_stats *s) { return s->bytes_max; }
static uint64_t c_entries(const pr_cache_stats *s) { return s->entries; }

static void write_caches(scrape *s) {
    static const cache_family families[] = {
        {"precis_cache_hits_total", PR_PROM_COUNTER, "What was asked of a cache and found.", c_hits},
        {"precis_cache_misses_total", PR_PROM_COUNTER, "What was asked of a cache and not found.", c_misses},
        {"precis_cache_insertions_total", PR_PROM_COUNTER, "What a cache took in.", c_insertions},
        {"precis_cache_bytes", PR_PROM_GAUGE, "Bytes a cache holds.", c_bytes},
        {"precis_cache_bytes_max", PR_PROM_GAUGE, "Bytes a cache may hold; 0: no bound of its own.", c_bytes_max},
        {"precis_cache_entries", PR_PROM_GAUGE, "Things a cache holds.", c_entries},
    };
    pr__cache_info list[PR__CACHES_MAX];
    size_t n = pr__caches_list(s->api, list);
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        pr_prom_family(&s->p, families[f].name, families[f].type, families[f].help);
        for (size_t i = 0; i < n; i++)
            pr_prom_count(&s->p, LABELS({"cache", list[i].name}), families[f].value(&list[i].stats));
    }
    pr_prom_family(&s->p, "precis_cache_removals_total", PR_PROM_COUNTER, "What left a cache, and why.");
    for (size_t i = 0; i < n; i++) {
        pr_prom_count(&s->p, LABELS({"cache", list[i].name}, {"reason", "room"}), list[i].stats.evictions);
        pr_prom_count(&s->p, LABELS({"cache", list[i].name}, {"reason", "age"}), list[i].stats.expired);
        pr_prom_count(&s->p, LABELS({"cache", list[i].name}, {"reason", "cleared"}), list[i].stats.cleared);
    }
}

typedef enum http_value { HTTP_COUNT, HTTP_SECONDS, HTTP_BYTES } http_value;

static void by_route(scrape *s, const char *name, const char *help, http_value what) {
    const pr_api *api = s->api;
    pr_http_route_stats stats;
    pr_prom_family(&s->p, name, PR_PROM_COUNTER, help);
    for (size_t r = 0; r <= api->n_routes; r++) {
        const char *method = r < api->n_routes ? api->routes[r].method : "",
                   *path = r < api->n_routes ? api->routes[r].path : "none";
        pr_http_route_stats_get(api->http, r, &stats);
        for (size_t c = 0; what == HTTP_COUNT && c < PR_HTTP_STATUSES; c++)
            if (stats.by_status[c])
                pr_prom_count(&s->p, LABELS({"method", method}, {"route", path}, {"status", pr_http_status_name(c)}),
                              stats.by_status[c]);
        if (what == HTTP_SECONDS) pr_prom_number(&s->p, LABELS({"method", method}, {"route", path}), stats.seconds);
        if (what == HTTP_BYTES) pr_prom_count(&s->p, LABELS({"method", method}, {"route", path}), stats.bytes);
    }
}

static void write_http(scrape *s) {
    pr_http_stats stats;
    pr_http_stats_get(s->api->http, &stats);
    one(s, "precis_http_connections", PR_PROM_GAUGE, "Open connections.", stats.connections);
    one(s, "precis_http_requests_active", PR_PROM_GAUGE, "Requests begun and not finished.", stats.active);
    one(s, "precis_http_body_bytes", PR_PROM_GAUGE, "Bytes of request bodies held.", (double)stats.body_bytes);
    by_route(s, "precis_http_requests_total", "Finished requests, by route and status.", HTTP_COUNT);
    by_route(s, "precis_http_request_seconds_total", "Time from their heads to their last bytes.", HTTP_SECONDS);
    by_route(s, "precis_http_sent_bytes_total", "Bytes of bodies sent.", HTTP_BYTES);
}

static void write_alerts(scrape *s) {
    pr_alert list[PR_ALERTS_MAX];
    size_t n = pr__alerts_list(s->api->alerts, list);
    pr_prom_family(&s->p, "precis_alert_firing", PR_PROM_GAUGE, "Whether an alert of the configuration fires.");
    for (size_t i = 0; i < n; i++)
        pr_prom_count(&s->p, LABELS({"alert", list[i].rule.name}), list[i].state == PR_ALERT_FIRING);
    pr_prom_family(&s->p, "precis_alert_value", PR_PROM_GAUGE, "What its rule measured last.");
    for (size_t i = 0; i < n; i++) pr_prom_number(&s->p, LABELS({"alert", list[i].rule.name}), list[i].value);
    pr_prom_family(&s->p, "precis_alerts_fired_total", PR_PROM_COUNTER, "How often it began to fire.");
    for (size_t i = 0; i < n; i++) pr_prom_count(&s->p, LABELS({"alert", list[i].rule.name}), list[i].fired);
}

/* ---- names of others --------------------------------------------------- */

/* OpenTelemetry's conventions for generative AI, metrics of a server, as its exporter for Prometheus spells them. */
static void write_gen_ai(scrape *s) {
    static const char label[] = "gen_ai_request_model";
    latency(s, "gen_ai_server_request_duration_seconds", "precis_request_seconds.", PR__LATENCY_END_TO_END, label);
    latency(s, "gen_ai_server_time_to_first_token_seconds", "precis_time_to_first_token_seconds.",
            PR__LATENCY_FIRST_TOKEN, label);
    latency(s, "gen_ai_server_time_per_output_token_seconds", "precis_time_between_tokens_seconds.",
            PR__LATENCY_NEXT_TOKEN, label);
}

/* A gauge of the whole server, which its dashboards look for under a model's name: that of the only one, else "all". */
static void vllm_gauge(scrape *s, const char *name, const char *help, double value) {
    pr_prom_family(&s->p, name, PR_PROM_GAUGE, help);
    pr_prom_number(&s->p, LABELS({"model_name", s->n_views == 1 ? s->views[0].name : "all"}), value);
}

static void write_vllm(scrape *s) {
    static const char label[] = "model_name";
    const pr_sched_stats *k = &s->sched;
    vllm_gauge(s, "vllm:num_requests_running", "precis_requests_running.", k->n_running);
    vllm_gauge(s, "vllm:num_requests_waiting", "precis_requests_waiting.", k->n_queued);
    vllm_gauge(s, "vllm:kv_cache_usage_perc", "precis_kv_used_ratio.",
               k->kv_bytes_max ? (double)k->kv_bytes / (double)k->kv_bytes_max : 0);
    tokens(s, "vllm:prefix_cache_queries_total", "precis_prompt_tokens_total.", TOKENS_PROMPT, label);
    tokens(s, "vllm:prefix_cache_hits_total", "precis_cached_tokens_total.", TOKENS_CACHED, label);
    tokens(s, "vllm:prompt_tokens_total", "precis_prompt_tokens_total.", TOKENS_PROMPT, label);
    tokens(s, "vllm:generation_tokens_total", "precis_generated_tokens_total.", TOKENS_GENERATED, label);
    pr_prom_family(&s->p, "vllm:request_success_total", PR_PROM_COUNTER,
                   "precis_answers_total, those that ended well.");
    for (size_t i = 0; i < s->n_views; i++)
        for (int o = PR__OUTCOME_STOP; o <= PR__OUTCOME_LENGTH; o++)
            pr_prom_count(&s->p,
                          LABELS({label, s->views[i].name}, {"finished_reason", pr__outcome_name((pr__outcome)o)}),
                          s->views[i].outcome[o]);
    latency(s, "vllm:e2e_request_latency_seconds", "precis_request_seconds.", PR__LATENCY_END_TO_END, label);
    latency(s, "vllm:time_to_first_token_seconds", "precis_time_to_first_token_seconds.", PR__LATENCY_FIRST_TOKEN,
            label);
    latency(s, "vllm:inter_token_latency_seconds", "precis_time_between_tokens_seconds.", PR__LATENCY_NEXT_TOKEN,
            label);
    latency(s, "vllm:request_queue_time_seconds", "precis_queue_seconds.", PR__LATENCY_QUEUE, label);
}

static void write_llamacpp(scrape *s) {
    const pr_sched_stats *k = &s->sched;
    uint64_t prompt = 0, generated = 0;
    for (size_t i = 0; i < s->n_views; i++) {
        prompt += s->views[i].prompt - s->views[i].cached;
        generated += s->views[i].generated;
    }
    one(s, "llamacpp:prompt_tokens_total", PR_PROM_COUNTER, "Tokens of prompts, without those cached.", (double)prompt);
    one(s, "llamacpp:tokens_predicted_total", PR_PROM_COUNTER, "precis_generated_tokens_total.", (double)generated);
    one(s, "llamacpp:predicted_tokens_seconds", PR_PROM_GAUGE, "precis_tokens_per_second.", k->tokens_per_second);
    one(s, "llamacpp:requests_processing", PR_PROM_GAUGE, "precis_requests_running.", k->n_running);
    one(s, "llamacpp:requests_deferred", PR_PROM_GAUGE, "precis_requests_waiting.", k->n_queued);
    one(s, "llamacpp:n_decode_total", PR_PROM_COUNTER, "precis_steps_total.", (double)k->steps);
    one(s, "llamacpp:n_busy_slots_per_decode", PR_PROM_GAUGE,
        "Mean batch: precis_step_answers_total by precis_steps_total.",
        k->steps ? (double)k->stepped / (double)k->steps : 0);
    one(s, "llamacpp:kv_cache_usage_ratio", PR_PROM_GAUGE, "precis_kv_used_ratio.",
        k->kv_bytes_max ? (double)k->kv_bytes / (double)k->kv_bytes_max : 0);
}

/* ---- together ---------------------------------------------------------- */

/* Copies of everything; false: out of memory. */
static bool look(scrape *s, pr_api *api) {
    s->api = api;
    s->models = pr_calloc(PR_TAG_HTTP, MODELS, sizeof *s->models);
    s->views = pr_calloc(PR_TAG_HTTP, PR__METRIC_MODELS_MAX + 1, sizeof *s->views);
    if (!s->models || !s->views) return false;
    pr_monitor_sample(api->monitor, &s->sample);
    pr_sched_stats_get(api->sched, &s->sched);
    pr_registry_stats_get(api->registry, &s->registry);
    pr__metrics_process(api->metrics, &s->process);
    size_t n = pr_registry_list(api->registry, s->models, MODELS);
    s->n_models = n < MODELS ? n : MODELS;
    while (s->n_views <= PR__METRIC_MODELS_MAX && pr__metrics_view(api->metrics, s->n_views, &s->views[s->n_views]))
        s->n_views++;
    return true;
}

static void write_all(scrape *s, const char *names) {
    bool all = strcmp(names, "all") == 0;
    write_process(s);
    write_memory(s);
    write_models(s);
    write_moves(s);
    write_sched(s);
    write_answers(s);
    write_caches(s);
    write_http(s);
    write_alerts(s);
    if (all || strcmp(names, "gen_ai") == 0) write_gen_ai(s);
    if (all || strcmp(names, "vllm") == 0) write_vllm(s);
    if (all || strcmp(names, "llamacpp") == 0) write_llamacpp(s);
    pr_prom_end(&s->p);
}

void pr__metrics_get(pr_http_req *req, void *arg) {
    static const char *const known[] = {"own", "gen_ai", "vllm", "llamacpp", "all"};
    const size_t n_known = sizeof known / sizeof *known;
    const char *given = pr_http_req_query(req, "names"), *names = given ? given : "gen_ai";
    size_t i = 0;
    while (i < n_known && strcmp(known[i], names) != 0) i++;
    if (i == n_known) {
        pr_http_error(req, 400, "invalid_value", "names", 0, "must be own, gen_ai, vllm, llamacpp or all");
        return;
    }
    pr_str out = {0};
    scrape s = {.p = {.out = &out, .open = pr_prom_wants_open(pr_http_req_header(req, "Accept"))}};
    if (look(&s, arg)) write_all(&s, names);
    else out.failed = true;
    pr_free(s.models);
    pr_free(s.views);
    size_t len = out.len;
    char *body = pr_str_take(&out);
    if (body) pr_http_reply_owned(req, 200, pr_prom_content_type(s.p.open), NULL, 0, body, len);
    else pr_http_error(req, 503, "out_of_memory", NULL, 1, "out of memory: the metrics");
}
