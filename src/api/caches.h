/*
 * The caches of a server: opened, counted and cleared together.
 *
 * docs/CACHES.md tells what each is for. Two keep answers and live here; the others live where their things do and are only
 * counted and cleared here.
 */
#ifndef PRECIS_API_CACHES_H
#define PRECIS_API_CACHES_H

#include "api/context.h"
#include "cache/cache.h"

/* For lists, metrics and people: a cache as it is now. Of a bound that a cache does not have, bounded is false. */
typedef struct pr__cache_info {
    const char *name; /* "models", "templates", "prefixes", "responses", "recent" */
    pr_cache_stats stats;
    bool bounded_bytes, bounded_entries, bounded_time;
} pr__cache_info;
enum { PR__CACHES_MAX = 8 };

/* Fill out; returns how many. Any thread, quick. */
size_t pr__caches_list(pr_api *api, pr__cache_info out[PR__CACHES_MAX]);

pr_status pr__caches_open(pr_api *api, pr_err *err);
void pr__caches_close(pr_api *api);
/* Drop all answers; returns how many bytes. */
size_t pr__caches_clear(pr_api *api);
/* Drop those that are too old. */
void pr__caches_sweep(pr_api *api);

/* "caches":[...] as GET /api/v1/caches and GET /api/performance have it. */
void pr__caches_write(pr_str *out, pr_api *api);

#endif
