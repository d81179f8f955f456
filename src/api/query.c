/*
 * Questions and answers without OpenAI's frame, and how the server has been doing.
 */
#include <stdio.h>

#include "api/caches.h"
#include "api/generate.h"
#include "api/handlers.h"
#include "api/parts.h"
#include "api/write.h"
#include "base/os.h"

void pr__query(pr_http_req *req, void *arg) { pr__generate(arg, req, PR_ASK_QUERY, false); }
void pr__query_stream(pr_http_req *req, void *arg) { pr__generate(arg, req, PR_ASK_QUERY, true); }

static void write_latency(pr_str *out, const char *key, const pr__quantiles *q) {
    pr_write_key(out, key);
    pr_str_puts(out, "{");
    pr_write_u64(out, "count", q->n);
    pr_write_f64(out, "mean", q->mean);
    pr_write_f64(out, "p50", q->p50);
    pr_write_f64(out, "p95", q->p95);
    pr_write_f64(out, "p99", q->p99);
    pr_str_puts(out, "}");
}

/* The last five minutes. */
void pr__write_recent(pr_str *out, const pr_api *api) {
    static const char *const names[] = {"end_to_end", "first_token", "next_token", "queue"};
    _Static_assert(sizeof names / sizeof *names == PR__LATENCIES, "a name for each");
    pr__summary s;
    pr__metrics_summary(api->metrics, PR__WINDOW_MAX, pr_now(), &s);
    pr_write_key(out, "recent");
    pr_str_puts(out, "{");
    pr_write_f64(out, "window_seconds", s.seconds);
    pr_write_u64(out, "answers", s.answers);
    pr_write_u64(out, "failures", s.failures);
    pr_write_f64(out, "error_rate", s.error_rate);
    pr_write_f64(out, "tokens_per_second", s.tokens_per_second);
    pr_write_key(out, "latency_seconds");
    pr_str_puts(out, "{");
    for (int l = 0; l < PR__LATENCIES; l++) write_latency(out, names[l], &s.latency[l]);
    pr_str_puts(out, "}}");
}

void pr__performance(pr_http_req *req, void *arg) {
    pr_api *api = arg;
    pr_sched_stats stats;
    pr_cache_stats kept;
    pr_str out = {0};
    char text[32];
    pr_cache_stats_get(api->responses, &kept);
    pr_sched_stats_get(api->sched, &stats);
    pthread_mutex_lock(&api->lock);
    uint64_t n = api->n_answers, hits = api->n_hits;
    double seconds = api->answer_seconds;
    pthread_mutex_unlock(&api->lock);
    pr_str_puts(&out, "{");
    pr_write_u64(&out, "total_queries", n);
    pr_write_u64(&out, "cache_hits", hits);
    snprintf(text, sizeof text, "%.1f%%", n ? 100.0 * (double)hits / (double)n : 0.0);
    pr_write_text(&out, "cache_hit_rate", text);
    snprintf(text, sizeof text, "%.2fs", n ? seconds / (double)n : 0.0);
    pr_write_text(&out, "avg_response_time", text);
    pr_write_bool(&out, "model_loaded", pr_registry_list(api->registry, NULL, 0) > 0);
    pr_write_u64(&out, "cache_size", kept.entries);
    pr_write_u64(&out, "requests_running", stats.n_running);
    pr_write_u64(&out, "requests_waiting", stats.n_queued);
    pr_write_u64(&out, "prompt_tokens", stats.tokens_prompt);
    pr_write_u64(&out, "generated_tokens", stats.tokens_generated);
    pr_write_u64(&out, "cached_tokens", stats.tokens_cached);
    pr_write_f64(&out, "tokens_per_second", stats.tokens_per_second);
    pr__caches_write(&out, api);
    pr__write_recent(&out, api);
    pr_str_puts(&out, "}");
    pr__api_reply(req, &out);
}
