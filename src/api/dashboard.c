/*
 * GET /api/v1/dashboard: everything the dashboard shows, in one reply.
 *
 * One route instead of five, so that what stands side by side was read at one time, and a page that polls costs one request a
 * second. What only grows is sent once: decisions after number ?after=, moments of the history later than ?since=.
 */
#include "api/caches.h"
#include "api/handlers.h"
#include "api/history.h"
#include "api/parts.h"
#include "api/reader.h"
#include "api/write.h"
#include "base/os.h"

static void write_time(pr_str *out, const char *key, double time) {
    pr_write_key(out, key);
    pr_str_printf(out, "%.3f", time);
}

static void write_lines(pr_str *out, const pr_api *api) {
    pr_guard_settings guard;
    const pr_gov_settings *g = &api->gov;
    pr_guard_defaults(&guard);
    pr_write_key(out, "bands");
    pr_str_puts(out, "{");
    pr_write_f64(out, "comfortable", g->memory_comfortable);
    pr_write_f64(out, "moderate", g->memory_moderate);
    pr_write_f64(out, "tight", g->memory_tight);
    pr_write_f64(out, "critical", g->memory_critical);
    pr_str_puts(out, "}");
    pr_write_key(out, "guard");
    pr_str_puts(out, "{");
    pr_write_f64(out, "alert", guard.alert);
    pr_write_f64(out, "clear", guard.clear);
    pr_write_f64(out, "emergency", guard.emergency);
    pr_str_puts(out, "}");
}

static void write_memory(pr_str *out, pr_api *api, const pr_sample *s) {
    pr_write_key(out, "memory");
    pr_str_puts(out, "{");
    pr_write_u64(out, "limit_bytes", s->limit_bytes);
    pr_write_u64(out, "used_bytes", s->used_bytes);
    pr_write_f64(out, "used", s->used);
    pr_write_u64(out, "rss_bytes", s->rss_bytes);
    pr_write_text(out, "status", pr_gov_status(&api->gov, s->used));
    pr_write_text(out, "guard", pr__guard_name(api));
    pr_write_bool(out, "scripted", s->scripted);
    if (s->pressure >= 0) pr_write_f64(out, "pressure", s->pressure);
    pr_write_key(out, "ledger_bytes");
    pr_str_puts(out, "{");
    for (int t = 0; t < PR_TAG_COUNT; t++) pr_write_u64(out, pr_tag_name((pr_tag)t), s->ledger[t]);
    pr_str_puts(out, "}}");
}

static void write_work(pr_str *out, const pr_sched_stats *s) {
    pr__write_requests(out, s);
    pr_write_key(out, "tokens");
    pr_str_puts(out, "{");
    pr_write_u64(out, "prompt", s->tokens_prompt);
    pr_write_u64(out, "generated", s->tokens_generated);
    pr_write_u64(out, "cached", s->tokens_cached);
    pr_str_puts(out, "}");
    pr_write_key(out, "kv");
    pr_str_puts(out, "{");
    pr_write_u64(out, "bytes", s->kv_bytes);
    pr_write_u64(out, "bytes_max", s->kv_bytes_max);
    pr_write_u64(out, "prefix_bytes", s->prefix_bytes);
    pr_str_puts(out, "}");
}

static void write_history(pr_str *out, const pr_api *api, double since) {
    pr__moment *m = pr_calloc(PR_TAG_HTTP, PR__HISTORY_MAX, sizeof *m);
    size_t n = m ? pr__history_read(api->history, since, m) : 0;
    out->failed |= !m;
    pr_write_key(out, "history");
    pr_str_puts(out, "[");
    for (size_t i = 0; i < n; i++)
        pr_str_printf(out, "%s[%.1f,%.4g,%u,%u,%.4g]", i ? "," : "", m[i].time, (double)m[i].used, m[i].running,
                      m[i].queued, (double)m[i].tokens_per_second);
    pr_str_puts(out, "]");
    pr_free(m);
}

static void write_timeline(pr_str *out, const pr_api *api, uint64_t after) {
    pr_timeline_entry *e = pr_calloc(PR_TAG_HTTP, PR__TIMELINE_ENTRIES, sizeof *e);
    size_t n = e ? pr_timeline_read(api->timeline, after, e, PR__TIMELINE_ENTRIES, NULL) : 0;
    out->failed |= !e;
    pr_write_key(out, "timeline");
    pr_str_puts(out, "[");
    for (size_t i = 0; i < n; i++) {
        if (i) pr_str_puts(out, ",");
        pr_write_decision(out, &e[i]);
    }
    pr_str_puts(out, "]");
    pr_free(e);
}

void pr__dashboard(pr_http_req *req, void *arg) {
    pr_api *api = arg;
    uint64_t after = 0;
    double since = 0;
    const char *after_text = pr_http_req_query(req, "after"), *since_text = pr_http_req_query(req, "since");
    if (after_text && !pr_reader_count(after_text, &after)) {
        pr_http_error(req, 400, "invalid_value", "after", 0, "after must be the number of an event");
        return;
    }
    if (since_text && !pr_parse_f64(since_text, &since)) {
        pr_http_error(req, 400, "invalid_value", "since", 0, "since must be a time in seconds");
        return;
    }
    pr_sample sample;
    pr_sched_stats stats;
    pr_str out = {0};
    pr_monitor_sample(api->monitor, &sample);
    pr_sched_stats_get(api->sched, &stats);
    pr_str_puts(&out, "{");
    write_time(&out, "time", pr_wall_clock());
    pr_write_text(&out, "version", PRECIS_VERSION);
    pr_write_u64(&out, "uptime_seconds", (uint64_t)(pr_now() - api->opened_at));
    pr_write_u64(&out, "cores", (uint64_t)sample.n_cpus);
    write_lines(&out, api);
    write_memory(&out, api, &sample);
    write_work(&out, &stats);
    pr__write_recent(&out, api);
    pr__write_models(&out, "models", api);
    pr__caches_write(&out, api);
    pr__write_alerts(&out, api);
    write_history(&out, api, since);
    write_timeline(&out, api, after);
    pr_str_puts(&out, "}");
    pr__api_reply(req, &out);
}
