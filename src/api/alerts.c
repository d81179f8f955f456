/*
 * Alerts: what they are measured by, and who is told.
 *
 * Everything that any rule may ask for is measured at once, from copies that the parts of the server give of themselves: half
 * a millisecond a second on the warden's thread, and only where there are rules.
 */
#include "api/alerts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/caches.h"
#include "api/handlers.h"
#include "api/parts.h"
#include "api/write.h"
#include "base/os.h"

static const double every_seconds = 1;

struct pr__alerts {
    pthread_mutex_t lock;
    pr_alert alert[PR_ALERTS_MAX]; /* under the lock */
    size_t n;                      /* constant */
    double due;                    /* the warden's */
};

pr_status pr__alerts_open(const char *rules, pr__alerts **out, pr_err *err) {
    pr_alert_rule *parsed = pr_calloc(PR_TAG_HTTP, PR_ALERTS_MAX, sizeof *parsed);
    pr__alerts *a = pr_calloc(PR_TAG_HTTP, 1, sizeof *a);
    *out = NULL;
    pr_status st = parsed && a ? pr_alert_parse(rules, strlen(rules), "alerts", parsed, &a->n, err)
                               : pr_fail_nomem(err, "alerts", sizeof *a);
    if (!st) {
        pthread_mutex_init(&a->lock, NULL);
        for (size_t i = 0; i < a->n; i++)
            a->alert[i] = (pr_alert){.rule = parsed[i], .value = (double)NAN, .since = pr_now()};
        *out = a;
        a = NULL;
    }
    pr_free(parsed);
    pr_free(a);
    return st;
}

void pr__alerts_close(pr__alerts *a) {
    if (!a) return;
    pthread_mutex_destroy(&a->lock);
    pr_free(a);
}

double pr__alerts_due(const pr__alerts *a) { return a->n ? a->due : (double)INFINITY; }

size_t pr__alerts_list(pr__alerts *a, pr_alert out[PR_ALERTS_MAX]) {
    pthread_mutex_lock(&a->lock);
    memcpy(out, a->alert, a->n * sizeof *out);
    pthread_mutex_unlock(&a->lock);
    return a->n;
}

/* ---- measuring --------------------------------------------------------- */

void pr__alerts_note_caches(pr_api *api) {
    pr_cache_stats responses, recent;
    pr_cache_stats_get(api->responses, &responses);
    pr_cache_stats_get(api->recent, &recent);
    uint64_t hits = responses.hits + recent.hits; /* what the first does not have is looked up in the second */
    pr__metrics_cached(api->metrics, hits + recent.misses, hits);
}

static double lowest_level(const pr_api *api) {
    enum { MOST = 64 };
    double lowest = (double)NAN;
    pr_model_info *info = pr_calloc(PR_TAG_HTTP, MOST, sizeof *info);
    size_t n = info ? pr_registry_list(api->registry, info, MOST) : 0;
    for (size_t i = 0; i < n && i < MOST; i++) {
        if (info[i].state != PR_MODEL_READY || !info[i].elastic.elastic) continue;
        lowest = fmin((double)info[i].elastic.level, lowest); /* which takes a number before what is none */
    }
    pr_free(info);
    return lowest;
}

static void measure(pr_api *api, double now, double value[PR_ALERT_METRICS]) {
    static const pr_alert_metric first[] = {PR_ALERT_LATENCY, PR_ALERT_FIRST_TOKEN, PR_ALERT_NEXT_TOKEN,
                                            PR_ALERT_QUEUE_TIME};
    _Static_assert(sizeof first / sizeof *first == PR__LATENCIES, "in the order of pr__latency");
    pr__summary s;
    pr_sample sample;
    pr_sched_stats sched;
    pr_http_stats http = {0};
    pr__alerts_note_caches(api);
    pr__metrics_summary(api->metrics, PR__ALERT_WINDOW, now, &s);
    pr_monitor_sample(api->monitor, &sample);
    pr_sched_stats_get(api->sched, &sched);
    if (atomic_load(&api->serving)) pr_http_stats_get(api->http, &http); /* the warden is there before */
    for (int l = 0; l < PR__LATENCIES; l++) {
        const double p[] = {s.latency[l].p50, s.latency[l].p95, s.latency[l].p99};
        memcpy(&value[first[l]], p, sizeof p);
    }
    value[PR_ALERT_MEMORY_USED] = sample.used;
    value[PR_ALERT_MEMORY_PEAK] = (double)s.rss_peak;
    value[PR_ALERT_MEMORY_RESIDENT] = (double)sample.rss_bytes;
    value[PR_ALERT_MEMORY_PRESSURE] = sample.pressure >= 0 ? sample.pressure : (double)NAN;
    value[PR_ALERT_QUEUE_LENGTH] = sched.n_queued;
    value[PR_ALERT_RUNNING] = sched.n_running;
    value[PR_ALERT_PARKED] = sched.n_parked;
    value[PR_ALERT_CONNECTIONS] = http.connections;
    value[PR_ALERT_ERROR_RATE] = s.error_rate;
    value[PR_ALERT_CACHE_HIT_RATE] = s.cache_hit_rate;
    value[PR_ALERT_PREFIX_HIT_RATE] = s.prefix_hit_rate;
    value[PR_ALERT_KV_USED] = sched.kv_bytes_max ? (double)sched.kv_bytes / (double)sched.kv_bytes_max : (double)NAN;
    value[PR_ALERT_TOKENS_PER_SECOND] = s.answers || s.latency[PR__LATENCY_NEXT_TOKEN].n ? s.tokens_per_second
                                                                                         : (double)NAN;
    value[PR_ALERT_LEVEL] = lowest_level(api);
}

/* ---- telling ----------------------------------------------------------- */

/* A level is written by its name. */
static void write_value(pr_str *out, const char *key, const pr_alert_rule *rule, double value) {
    if (pr_alert_metric_unit(rule->metric) != PR_ALERT_LEVELS || isnan(value)) pr_write_f64(out, key, value);
    else pr_write_text(out, key, pr_level_name((pr_level)value));
}

static void write_alert(pr_str *out, const pr_alert *a, double now) {
    pr_write_text(out, "name", a->rule.name);
    pr_write_text(out, "state", pr_alert_state_name(a->state));
    pr_write_text(out, "rule", a->rule.text);
    pr_write_text(out, "metric", pr_alert_metric_name(a->rule.metric));
    pr_write_text(out, "unit", pr_alert_unit_name(pr_alert_metric_unit(a->rule.metric)));
    write_value(out, "value", &a->rule, a->value);
    write_value(out, "threshold", &a->rule, a->rule.threshold);
    pr_write_f64(out, "for_seconds", a->rule.hold);
    pr_write_f64(out, "state_seconds", now - a->since);
    pr_write_u64(out, "fired", a->fired);
}

static void tell(pr_api *api, const pr_alert *a, double now) {
    pr_str json = {0};
    pr_log_level level = a->state == PR_ALERT_FIRING ? PR_LOG_WARN : PR_LOG_INFO;
    pr_str_puts(&json, "{");
    write_alert(&json, a, now);
    pr_str_puts(&json, "}");
    if (pr_str_ok(&json)) {
        pr_log(level, "{\"event\":\"alert\",%s", json.data + 1);
        pr__api_tell(api, "alert", &json);
    }
    pr_str_free(&json);
}

void pr__alerts_look(pr_api *api, double now) {
    pr__alerts *a = api->alerts;
    double value[PR_ALERT_METRICS];
    a->due = now + every_seconds;
    measure(api, now, value);
    for (size_t i = 0; i < a->n; i++) {
        pthread_mutex_lock(&a->lock);
        bool changed = pr_alert_step(&a->alert[i], value[a->alert[i].rule.metric], now);
        pr_alert copy = a->alert[i];
        pthread_mutex_unlock(&a->lock);
        if (changed) tell(api, &copy, now);
    }
}

static uint64_t write_alerts(pr_str *out, const pr_api *api) {
    pr_alert list[PR_ALERTS_MAX];
    uint64_t firing = 0;
    size_t n = pr__alerts_list(api->alerts, list);
    double now = pr_now();
    pr_write_key(out, "alerts");
    pr_str_puts(out, "[");
    for (size_t i = 0; i < n; i++) {
        firing += list[i].state == PR_ALERT_FIRING;
        pr_str_puts(out, i ? ",{" : "{");
        write_alert(out, &list[i], now);
        pr_str_puts(out, "}");
    }
    pr_str_puts(out, "]");
    return firing;
}

void pr__write_alerts(pr_str *out, const pr_api *api) { (void)write_alerts(out, api); }

void pr__alerts_get(pr_http_req *req, void *arg) {
    pr_str out = {0};
    pr_str_puts(&out, "{");
    uint64_t firing = write_alerts(&out, arg);
    pr_write_u64(&out, "firing", firing);
    pr_write_u64(&out, "window_seconds", PR__ALERT_WINDOW);
    pr_str_puts(&out, "}");
    pr__api_reply(req, &out);
}
