/*
 * The caches of a server, seen as one.
 *
 * Counts come from where each thing lives: models and their texts from the registry, prefixes from the scheduler, answers from here. They are
 * brought to one form, so that a page, a metric or a test reads them all alike.
 */
#include "api/caches.h"

#include <stdio.h>

#include "api/flight.h"
#include "api/handlers.h"
#include "api/write.h"
#include "base/os.h"

enum { RECENT_BYTES_MAX = 64 << 20 };

pr_status pr__caches_open(pr_api *api, pr_err *err) {
    const pr_settings *s = &api->settings;
    pr_cache_opts responses = {(size_t)s->response_cache_mb * 1000000, s->response_cache_entries,
                               s->response_cache_ttl_seconds};
    pr_cache_opts recent = {RECENT_BYTES_MAX, s->recent_cache, s->recent_cache_ttl_seconds};
    pr_status st = pr_cache_open(&responses, &api->responses, err);
    return st ? st : pr_cache_open(&recent, &api->recent, err);
}

void pr__caches_close(pr_api *api) {
    pr_cache_close(api->responses);
    pr_cache_close(api->recent);
}

size_t pr__caches_clear(pr_api *api) { return pr_cache_clear(api->responses) + pr_cache_clear(api->recent); }

void pr__caches_sweep(pr_api *api) {
    double now = pr_now();
    pr_cache_sweep(api->responses, now);
    pr_cache_sweep(api->recent, now);
}

/* ---- counting ---------------------------------------------------------- */

static pr__cache_info of_models(pr_api *api) {
    pr_registry_stats s;
    pr_registry_stats_get(api->registry, &s);
    return (pr__cache_info){
        "models",
        {.hits = s.hits,
         .misses = s.loads,
         .insertions = s.loads,
         .evictions = s.evicted,
         .expired = s.idle,
         .cleared = s.cleared,
         .bytes = s.bytes,
         .bytes_max = s.bytes_max,
         .entries = s.models,
         .ttl_seconds = api->settings.keep_alive_seconds},
        true,
        false,
        api->settings.keep_alive_seconds > 0,
    };
}

static pr__cache_info of_templates(pr_api *api) {
    pr_texts_stats s;
    pr_texts_stats_get(pr_registry_texts(api->registry), &s);
    return (pr__cache_info){
        "templates",
        {.hits = s.hits,
         .misses = s.misses,
         .insertions = s.insertions,
         .evictions = s.evictions,
         .cleared = s.cleared,
         .refused = s.refused,
         .bytes = s.bytes,
         .bytes_max = s.bytes_max,
         .entries = s.entries,
         .entries_max = s.entries_max},
        true,
        true,
        false,
    };
}

static pr__cache_info of_prefixes(pr_api *api) {
    pr_sched_stats s;
    pr_sched_stats_get(api->sched, &s);
    return (pr__cache_info){
        "prefixes",
        {.hits = s.prefix.hits,
         .misses = s.prefix.misses,
         .insertions = s.prefix.kept,
         .evictions = s.prefix.evicted,
         .cleared = s.prefix.dropped,
         .bytes = s.prefix_bytes,
         .bytes_max = s.kv_bytes_max,
         .entries = s.prefix_pages},
        true,
        false,
        false,
    };
}

static pr__cache_info of_answers(pr_cache *cache, const char *name) {
    pr__cache_info info = {name, {0}, true, true, true};
    pr_cache_stats_get(cache, &info.stats);
    return info;
}

size_t pr__caches_list(pr_api *api, pr__cache_info out[PR__CACHES_MAX]) {
    out[0] = of_models(api);
    out[1] = of_templates(api);
    out[2] = of_prefixes(api);
    out[3] = of_answers(api->responses, "responses");
    out[4] = of_answers(api->recent, "recent");
    return 5;
}

/* ---- telling ----------------------------------------------------------- */

static void write_bound(pr_str *out, const char *key, bool bounded, uint64_t n) {
    pr_write_key(out, key);
    if (bounded) pr_str_printf(out, "%llu", (unsigned long long)n);
    else pr_str_puts(out, "null");
}

static void write_cache(pr_str *out, const pr__cache_info *c) {
    const pr_cache_stats *s = &c->stats;
    uint64_t asked = s->hits + s->misses;
    char rate[16];
    snprintf(rate, sizeof rate, "%.1f%%", asked ? 100.0 * (double)s->hits / (double)asked : 0.0);
    pr_str_puts(out, "{");
    pr_write_text(out, "name", c->name);
    pr_write_u64(out, "entries", s->entries);
    write_bound(out, "entries_max", c->bounded_entries, s->entries_max);
    pr_write_u64(out, "bytes", s->bytes);
    write_bound(out, "bytes_max", c->bounded_bytes, s->bytes_max);
    pr_write_key(out, "ttl_seconds");
    if (c->bounded_time) pr_str_printf(out, "%.6g", s->ttl_seconds);
    else pr_str_puts(out, "null");
    pr_write_u64(out, "hits", s->hits);
    pr_write_u64(out, "misses", s->misses);
    pr_write_text(out, "hit_rate", rate);
    pr_write_u64(out, "insertions", s->insertions);
    pr_write_u64(out, "evictions", s->evictions);
    pr_write_u64(out, "expired", s->expired);
    pr_write_u64(out, "cleared", s->cleared);
    pr_write_u64(out, "refused", s->refused);
    pr_str_puts(out, "}");
}

void pr__caches_write(pr_str *out, pr_api *api) {
    pr__cache_info list[PR__CACHES_MAX];
    size_t n = pr__caches_list(api, list);
    pr_write_key(out, "caches");
    pr_str_puts(out, "[");
    for (size_t i = 0; i < n; i++) {
        if (i) pr_str_puts(out, ",");
        write_cache(out, &list[i]);
    }
    pr_str_puts(out, "]");
}

void pr__caches(pr_http_req *req, void *arg) {
    pr_str out = {0};
    pr__flights flights;
    pr_str_puts(&out, "{");
    pr__caches_write(&out, arg);
    pr__flights_get(arg, &flights);
    pr_write_key(&out, "in_flight");
    pr_str_puts(&out, "{");
    pr_write_u64(&out, "answers", flights.answers);
    pr_write_u64(&out, "clients", flights.clients);
    pr_write_u64(&out, "joined", flights.joined);
    pr_str_puts(&out, "}");
    pr_write_u64(&out, "ledger_bytes", pr_mem_bytes(PR_TAG_CACHE));
    pr_str_puts(&out, "}");
    pr__api_reply(req, &out);
}
