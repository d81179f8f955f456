/*
 * A cache of answers: bytes by the hash of what was asked, bounded by bytes and by entries, for a time.
 *
 * What is kept are blobs: counted, immutable. A cache holds one reference to each of its own, whoever gets one holds another,
 * so an entry may be evicted while it is being sent. When there is no room the entry that was used longest ago goes. An entry
 * is as old as its insertion, used or not, and is never given out at ttl_seconds or older.
 *
 * Threads: everything but open and close from any thread; no call takes longer than freeing what it drops. Each operation
 * takes a constant time beside that, and none but pr_blob_new() and pr_cache_open() allocates.
 */
#ifndef PRECIS_CACHE_CACHE_H
#define PRECIS_CACHE_CACHE_H

#include "base/mem.h"
#include "base/status.h"
#include "cache/key.h"

/* ---- blobs ---- */

typedef struct pr_blob pr_blob;

/* A copy of data, with one reference; NULL: out of memory. Counted in the ledger under PR_TAG_CACHE. */
pr_blob *pr_blob_new(const void *data, size_t len);
pr_blob *pr_blob_ref(pr_blob *blob);
void pr_blob_unref(pr_blob *blob);                          /* NULL allowed */
const void *pr_blob_data(const pr_blob *blob, size_t *len); /* 16-byte aligned */

/* ---- the cache ---- */

typedef struct pr_cache pr_cache;

typedef struct pr_cache_opts {
    size_t bytes_max;     /* of blobs and what the cache needs for each; 0: nothing is ever kept */
    uint32_t entries_max; /* 0: the same */
    double ttl_seconds;   /* over 0 */
} pr_cache_opts;

pr_status pr_cache_open(const pr_cache_opts *opts, pr_cache **out, pr_err *err);
void pr_cache_close(pr_cache *cache); /* NULL allowed */

/* The blob of a key at time `now` (seconds, monotonic), with a reference for the caller, or NULL; *age (may be NULL) is how
 * long ago it was put there. One older than age_max is left where it is and counts as a miss. */
pr_blob *pr_cache_get(pr_cache *cache, const pr_cache_key *key, double now, double age_max, double *age);
/* Keep a blob, with a reference of the cache's own, in the place of what the key had. False when it is too large: more than
 * bytes_max, or than a quarter of it when other entries would have to go. */
bool pr_cache_put(pr_cache *cache, const pr_cache_key *key, pr_blob *blob, double now);
/* Drop everything, or what is too old at `now`; returns how many bytes. */
size_t pr_cache_clear(pr_cache *cache);
size_t pr_cache_sweep(pr_cache *cache, double now);

typedef struct pr_cache_stats {
    uint64_t hits, misses;   /* of pr_cache_get() */
    uint64_t insertions;     /* kept by pr_cache_put(), those that took a key's place included */
    uint64_t evictions;      /* dropped for room */
    uint64_t expired;        /* dropped for their age */
    uint64_t cleared;        /* dropped by pr_cache_clear() */
    uint64_t refused;        /* too large */
    size_t bytes, bytes_max; /* as bytes_max counts them */
    uint32_t entries, entries_max;
    double ttl_seconds;
} pr_cache_stats;
void pr_cache_stats_get(pr_cache *cache, pr_cache_stats *out);

#endif
