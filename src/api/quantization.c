/*
 * /api/v1/quantization: where models stand, why, and moving them by hand.
 *
 * Gigabytes and megabytes are decimal. Percentages are text, as people read them; the numbers stand beside.
 */
#include <stdio.h>
#include <string.h>

#include "api/handlers.h"
#include "api/parts.h"
#include "api/reader.h"
#include "api/write.h"
#include "base/os.h"

enum { LISTED_MAX = 64 };

static const double giga = 1e9, mega = 1e6;

static void write_percent(pr_str *out, const char *key, double part) {
    char text[32];
    snprintf(text, sizeof text, "%.1f%%", part * 100);
    pr_write_text(out, key, text);
}

static const char *state_name(pr_model_state state) {
    switch (state) {
    case PR_MODEL_LOADING: return "loading";
    case PR_MODEL_READY: return "ready";
    case PR_MODEL_CLOSING: break;
    }
    return "closing";
}

/* ---- models ------------------------------------------------------------ */

static void write_planes(pr_str *out, const pr_elastic_info *e) {
    static const char *const names[] = {"p2", "p4", "p8", "p16"};
    pr_write_key(out, "plane_bytes");
    pr_str_puts(out, "{");
    for (int i = 0; i < 4; i++) pr_write_u64(out, names[i], e->plane_bytes[i]);
    pr_str_puts(out, "}");
    pr_write_key(out, "level_bytes");
    pr_str_puts(out, "{");
    for (int l = PR_LEVEL_INT2; l <= (int)e->top; l++) pr_write_u64(out, pr_level_name((pr_level)l), e->level_bytes[l]);
    pr_str_puts(out, "}");
}

/* What somebody has set by hand: a level, a budget; null: the governor decides. */
static void write_hand(pr_str *out, const pr_api *api, const char *model) {
    int level;
    size_t budget;
    pr_sched_by_hand(api->sched, model, &level, &budget);
    pr_write_text(out, "by_hand", level < 0 ? NULL : pr_level_name((pr_level)level));
    pr_write_key(out, "weights_budget");
    if (budget) pr_str_printf(out, "%zu", budget);
    else pr_str_puts(out, "null");
}

static void write_model(pr_str *out, const pr_api *api, const pr_model_info *m) {
    const pr_elastic_info *e = &m->elastic;
    pr_str_puts(out, "{");
    pr_write_text(out, "name", m->name);
    pr_write_f64(out, "size_mb", (double)m->bytes / mega);
    pr_write_u64(out, "access_count", m->access_count);
    pr_write_text(out, "status", state_name(m->state));
    pr_write_bool(out, "pinned", m->pinned);
    pr_write_u64(out, "requests", m->n_held);
    pr_write_f64(out, "idle_seconds", m->idle_seconds);
    pr_write_bool(out, "elastic", e->elastic);
    if (m->state == PR_MODEL_READY) {
        pr_write_text(out, "level", pr_level_name(e->elastic ? e->level : PR_LEVEL_FP16));
        pr_write_u64(out, "parameters", m->engine.n_params);
        pr_write_u64(out, "context_length", m->engine.context_max);
        pr_write_u64(out, "weight_bytes", e->elastic ? e->bytes : m->engine.weight_bytes);
    }
    if (e->elastic) {
        pr_write_text(out, "top_level", pr_level_name(e->top));
        pr_write_u64(out, "cursor", e->cursor);
        pr_write_u64(out, "target", e->target);
        pr_write_u64(out, "increments", e->n_increments);
        pr_write_f64(out, "bits_per_weight", e->bits_per_weight);
        pr_write_f64(out, "kl_expected", e->kl);
        pr_write_bool(out, "kl_measured", e->kl_measured);
        pr_write_bool(out, "int2_usable", e->int2_usable);
        pr_write_u64(out, "bytes_min", e->bytes_min);
        pr_write_u64(out, "bytes_max", e->bytes_max);
        write_planes(out, e);
        write_hand(out, api, m->name);
    }
    pr_str_puts(out, "}");
}

size_t pr__write_models(pr_str *out, const char *key, const pr_api *api) {
    pr_model_info *info = pr_calloc(PR_TAG_HTTP, LISTED_MAX, sizeof *info);
    size_t n = info ? pr_registry_list(api->registry, info, LISTED_MAX) : 0;
    out->failed |= !info;
    pr_write_key(out, key);
    pr_str_puts(out, "[");
    for (size_t i = 0; i < n && i < LISTED_MAX; i++) {
        if (i) pr_str_puts(out, ",");
        write_model(out, api, &info[i]);
    }
    pr_str_puts(out, "]");
    pr_free(info);
    return n;
}

/* ---- reading ----------------------------------------------------------- */

static void write_capabilities(pr_str *out, const pr_sample *sample) {
    pr_write_key(out, "capabilities");
    pr_str_puts(out, "{");
    for (int l = PR_LEVELS - 1; l >= 0; l--) pr_write_bool(out, pr_level_name((pr_level)l), true);
    pr_write_u64(out, "cores", (uint64_t)sample->n_cpus);
    pr_str_puts(out, "}");
}

void pr__write_requests(pr_str *out, const pr_sched_stats *s) {
    pr_write_key(out, "requests");
    pr_str_puts(out, "{");
    pr_write_u64(out, "running", s->n_running);
    pr_write_u64(out, "queued", s->n_queued);
    pr_write_u64(out, "parked", s->n_parked);
    pr_write_u64(out, "done", s->n_done);
    pr_write_u64(out, "failed", s->n_failed);
    pr_write_u64(out, "cancelled", s->n_cancelled);
    pr_write_f64(out, "tokens_per_second", s->tokens_per_second);
    pr_str_puts(out, "}");
}

void pr__quant_status(pr_http_req *req, void *arg) {
    pr_api *api = arg;
    pr_sample sample;
    pr_sched_stats stats;
    pr_str out = {0};
    pr_monitor_sample(api->monitor, &sample);
    pr_sched_stats_get(api->sched, &stats);
    uint32_t active = stats.n_running + stats.n_queued;
    pr_str_puts(&out, "{");
    pr_write_text(&out, "device", "cpu");
    pr_write_text(&out, "device_name", pr_cpu_name());
    pr_write_u64(&out, "active_requests", active);
    pr__write_requests(&out, &stats);
    pr_write_key(&out, "memory");
    pr_str_puts(&out, "{");
    pr_write_f64(&out, "total_gb", (double)sample.limit_bytes / giga);
    pr_write_f64(&out, "available_gb", (double)sample.available_bytes / giga);
    write_percent(&out, "used_percent", sample.used);
    pr_write_f64(&out, "process_gb", (double)sample.rss_bytes / giga);
    pr_str_puts(&out, "}");
    write_capabilities(&out, &sample);
    pr_write_text(&out, "recommended_level", pr_level_name(pr_gov_table(&api->gov, sample.used, active)));
    pr__write_models(&out, "current_models", api);
    pr_str_puts(&out, "}");
    pr__api_reply(req, &out);
}

void pr__quant_memory(pr_http_req *req, void *arg) {
    pr_api *api = arg;
    pr_sample sample;
    pr_str out = {0};
    pr_monitor_sample(api->monitor, &sample);
    pr_str_puts(&out, "{");
    pr_write_f64(&out, "total_gb", (double)sample.limit_bytes / giga);
    pr_write_f64(&out, "available_gb", (double)sample.available_bytes / giga);
    pr_write_f64(&out, "used_gb", (double)sample.used_bytes / giga);
    pr_write_f64(&out, "percent_used", sample.used * 100);
    pr_write_f64(&out, "process_memory_gb", (double)sample.rss_bytes / giga);
    pr_write_text(&out, "status", pr_gov_status(&api->gov, sample.used));
    if (sample.pressure >= 0) pr_write_f64(&out, "pressure", sample.pressure);
    pr_write_bool(&out, "scripted", sample.scripted);
    pr_write_key(&out, "ledger_bytes");
    pr_str_puts(&out, "{");
    for (int t = 0; t < PR_TAG_COUNT; t++) pr_write_u64(&out, pr_tag_name((pr_tag)t), sample.ledger[t]);
    pr_str_puts(&out, "}}");
    pr__api_reply(req, &out);
}

void pr__quant_cache(pr_http_req *req, void *arg) {
    pr_api *api = arg;
    pr_sched_stats stats;
    char kv_type[PR_KV_TYPES_TEXT];
    pr_str out = {0};
    size_t now = pr_registry_bytes(api->registry), most = pr_registry_bytes_max(api->registry);
    pr_sched_stats_get(api->sched, &stats);
    pr_str_puts(&out, "{");
    pr_write_f64(&out, "current_size_mb", (double)now / mega);
    pr_write_f64(&out, "max_size_mb", (double)most / mega);
    write_percent(&out, "utilization", most ? (double)now / (double)most : 0);
    size_t n = pr__write_models(&out, "models", api);
    pr_write_u64(&out, "models_cached", n);
    pr_write_u64(&out, "prefix_bytes", stats.prefix_bytes);
    pr_write_text(&out, "kv_type", pr_kv_types_format(api->settings.kv_cache_type, kv_type));
    pr_write_u64(&out, "kv_bytes", stats.kv_bytes);
    pr_write_u64(&out, "kv_bytes_max", stats.kv_bytes_max);
    pr_str_puts(&out, "}");
    pr__api_reply(req, &out);
}

/* ---- asking ------------------------------------------------------------ */

/* Parse the body into an object; NULL when the request has been refused. An empty body is an empty object. */
static json_t *parse(pr_http_req *req, pr_reader *r, char param[PR_PARAM_NAME], pr_err *err) {
    size_t len;
    const char *body = pr_http_req_body(req, &len);
    json_t *doc = NULL;
    pr_status st = pr_json_parse(len ? body : "{}", len ? len : 2, "the body", &doc, err);
    if (st == PR_ERR_NOMEM) pr_http_error(req, 503, "out_of_memory", NULL, 1, "%s", err->text);
    else if (st) pr_http_error(req, 400, "invalid_json", NULL, 0, "%s", err->text);
    else if (!json_is_object(doc)) pr_http_error(req, 400, "invalid_value", NULL, 0, "the body must be a JSON object");
    if (json_is_object(doc)) {
        param[0] = '\0';
        *r = (pr_reader){doc, param, PR_PARAM_NAME, err, PR_OK};
        return doc;
    }
    json_decref(doc);
    return NULL;
}

static void refuse(pr_http_req *req, const pr_reader *r) {
    pr_http_error(req, 400, "invalid_value", r->param, 0, "%s", r->err->text);
}

static void write_config(pr_str *out, pr_level level, double n_params) {
    static const double bits[] = {2.25, 4.5, 8.75, 16.75};
    pr_write_key(out, "config");
    pr_str_puts(out, "{");
    pr_write_f64(out, "bits_per_weight", bits[level]);
    pr_write_u64(out, "group_size", 32);
    pr_write_bool(out, "nested_planes", true);
    pr_write_key(out, "bytes");
    pr_str_puts(out, "{");
    for (int l = PR_LEVELS - 1; l >= 0; l--)
        pr_write_u64(out, pr_level_name((pr_level)l), pr_gov_params_bytes((uint64_t)n_params, (pr_level)l));
    pr_str_puts(out, "}}");
}

void pr__quant_calculate(pr_http_req *req, void *arg) {
    pr_api *api = arg;
    char param[PR_PARAM_NAME];
    pr_err err = {0};
    pr_reader r;
    json_t *doc = parse(req, &r, param, &err);
    if (!doc) return;
    double n_params = 0;
    const char *text = NULL;
    pr_priority priority = PR_PRIORITY_BALANCED;
    pr_reader_f64(&r, "model_size_params", 1, 1e14, &n_params);
    if (!r.status && n_params == 0) pr_reader_refuse(&r, "model_size_params", "is needed: a number of parameters");
    pr_reader_text(&r, "task_priority", &text);
    if (!r.status && text && !pr_priority_by_name(text, &priority))
        pr_reader_refuse(&r, "task_priority", "must be \"quality\", \"balanced\" or \"speed\"");
    json_decref(doc);
    if (r.status) {
        refuse(req, &r);
        return;
    }
    pr_sample sample;
    pr_sched_stats stats;
    pr_gov_estimate e;
    pr_str out = {0};
    pr_monitor_sample(api->monitor, &sample);
    pr_sched_stats_get(api->sched, &stats);
    pr_gov_snapshot machine = {
        .limit_bytes = sample.limit_bytes,
        .used_bytes = sample.used_bytes,
        .projected = sample.scripted,
        .running = stats.n_running,
        .queued = stats.n_queued,
    };
    pr_gov_calculate(&api->gov, &machine, (uint64_t)n_params, priority, &e);
    pr_str_puts(&out, "{");
    pr_write_text(&out, "level", pr_level_name(e.level));
    pr_write_text(&out, "precision", e.precision);
    pr_write_text(&out, "compression_ratio", e.compression_ratio);
    pr_write_f64(&out, "estimated_memory_gb", e.estimated_memory_gb);
    write_config(&out, e.level, n_params);
    pr_write_text(&out, "reason", e.reason);
    pr_str_puts(&out, "}");
    pr__api_reply(req, &out);
}

/* ---- changing ---------------------------------------------------------- */

void pr__quant_clear(pr_http_req *req, void *arg) {
    if (!pr__api_clear(arg, req)) pr_http_error(req, 503, "overloaded", NULL, 1, "caches are being cleared already");
}

typedef struct move {
    char model[PR_API_MODEL_NAME];
    bool automatic;
    pr_level level;
    size_t budget;
} move;

static void read_move(pr_reader *r, const pr_api *api, move *m) {
    const char *model = NULL, *level = NULL;
    double budget_mb = 0;
    pr_reader_text(r, "model", &model);
    pr_reader_text(r, "level", &level);
    pr_reader_f64(r, "weights_budget_mb", 0.001, 1e9, &budget_mb);
    if (r->status) return;
    if (!level == (budget_mb == 0)) {
        pr_reader_refuse(r, "level", "give either a level or weights_budget_mb");
        return;
    }
    m->budget = (size_t)(budget_mb * mega);
    m->automatic = level && strcmp(level, "auto") == 0;
    if (level && !m->automatic && !pr_level_by_name(level, &m->level))
        pr_reader_refuse(r, "level", "must be \"fp16\", \"int8\", \"int4\", \"int2\" or \"auto\"");
    if (!r->status && !api->models.find(api->models.arg, model ? model : "", m->model)) m->model[0] = '\0';
}

static void reply_move(pr_http_req *req, const move *m) {
    pr_str out = {0};
    pr_str_puts(&out, "{");
    pr_write_text(&out, "status", "success");
    pr_write_text(&out, "model", m->model);
    if (m->budget) pr_write_f64(&out, "weights_budget_mb", (double)m->budget / mega);
    else pr_write_text(&out, "level", m->automatic ? "auto" : pr_level_name(m->level));
    pr_str_puts(&out, "}");
    pr__api_reply(req, &out);
}

void pr__quant_level(pr_http_req *req, void *arg) {
    pr_api *api = arg;
    char param[PR_PARAM_NAME];
    pr_err err = {0};
    pr_reader r;
    move m = {0};
    json_t *doc = parse(req, &r, param, &err);
    if (!doc) return;
    read_move(&r, api, &m);
    json_decref(doc);
    if (r.status) {
        refuse(req, &r);
        return;
    }
    if (!m.model[0]) {
        pr_http_error(req, 404, "model_not_found", "model", 0, "there is no such model");
        return;
    }
    pr_status st = m.automatic ? pr_sched_auto(api->sched, m.model, &err)
                               : pr_sched_move(api->sched, m.model, m.level, m.budget, &err);
    if (st == PR_OK) reply_move(req, &m);
    else if (st == PR_ERR_NOTFOUND) pr_http_error(req, 404, "model_not_loaded", "model", 0, "%s", err.text);
    else pr_http_error(req, 400, "invalid_value", m.budget ? "weights_budget_mb" : "level", 0, "%s", err.text);
}

void pr__quant_pin(pr_http_req *req, void *arg) {
    const pr_api *api = arg;
    char param[PR_PARAM_NAME], name[PR_API_MODEL_NAME];
    const char *model = NULL;
    bool pinned = true;
    pr_err err = {0};
    pr_str out = {0};
    pr_reader r;
    json_t *doc = parse(req, &r, param, &err);
    if (!doc) return;
    pr_reader_text(&r, "model", &model);
    pr_reader_bool(&r, "pinned", &pinned);
    bool found = !r.status && api->models.find(api->models.arg, model ? model : "", name);
    json_decref(doc);
    if (r.status) {
        refuse(req, &r);
    } else if (!found) {
        pr_http_error(req, 404, "model_not_found", "model", 0, "there is no such model");
    } else if (!pr_registry_pin(api->registry, name, pinned)) {
        pr_http_error(req, 404, "model_not_loaded", "model", 0, "model: \"%.100s\" is not loaded", name);
    } else {
        pr_str_puts(&out, "{");
        pr_write_text(&out, "status", "success");
        pr_write_text(&out, "model", name);
        pr_write_bool(&out, "pinned", pinned);
        pr_str_puts(&out, "}");
        pr__api_reply(req, &out);
    }
}

/* ---- listening --------------------------------------------------------- */

void pr__quant_events(pr_http_req *req, void *arg) {
    pr_api *api = arg;
    uint64_t seen = 0;
    const char *last = pr_http_req_header(req, "Last-Event-ID");
    const char *after = pr_http_req_query(req, "after");
    const char *from = last ? last : after;
    if (from && !pr_reader_count(from, &seen)) {
        pr_http_error(req, 400, "invalid_value", last ? "Last-Event-ID" : "after", 0, "must be the number of an event");
        return;
    }
    if (atomic_load(&api->draining)) {
        pr_http_error(req, 503, "shutting_down", NULL, 5, "the server is shutting down");
        return;
    }
    if (!pr__api_can_subscribe(api)) {
        pr_http_error(req, 503, "busy", NULL, 5, "%d clients listen already", PR__SUBSCRIBERS_MAX);
        return;
    }
    pr_http_req_ref(req);
    pr_http_stream_begin(req, "text/event-stream", NULL, 0);
    pr_http_stream_send(req, ": decisions\n\n", 13);
    if (!pr__api_subscribe(api, req, seen)) pr_http_stream_end(req);
    pr_http_req_unref(req);
}
