/*
 * The cache: a table of slots made once, two lists through it.
 *
 * A slot is in the chain of its bucket and in the list by last use, both linked by numbers of slots; a key is a SHA-256
 * already, so its first bytes choose the bucket. Getting moves a slot to the front of the list, room is made at its back: a true LRU
 * at the price of a few numbers under one lock. Why not an approximation without a lock? What is looked up here saves seconds of
 * computing, and one lock for less than a microsecond is not felt at any rate a server of models will see.
 */
#include "cache/cache.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

/* ---- blobs ------------------------------------------------------------- */

struct pr_blob {
    atomic_uint refs;
    size_t len;
    _Alignas(16) unsigned char data[];
};

pr_blob *pr_blob_new(const void *data, size_t len) {
    size_t bytes;
    if (!pr_size_add(sizeof(pr_blob), len, &bytes)) return NULL;
    pr_blob *b = pr_alloc(PR_TAG_CACHE, bytes);
    if (!b) return NULL;
    atomic_init(&b->refs, 1);
    b->len = len;
    if (len) memcpy(b->data, data, len);
    return b;
}

pr_blob *pr_blob_ref(pr_blob *blob) {
    atomic_fetch_add(&blob->refs, 1);
    return blob;
}

void pr_blob_unref(pr_blob *blob) {
    if (blob && atomic_fetch_sub(&blob->refs, 1) == 1) pr_free(blob);
}

const void *pr_blob_data(const pr_blob *blob, size_t *len) {
    *len = blob->len;
    return blob->data;
}

/* ---- slots ------------------------------------------------------------- */

enum { NONE = UINT32_MAX, ENTRIES_MOST = 1 << 20 };

typedef struct slot {
    pr_cache_key key;
    pr_blob *blob;
    double put_at;
    uint32_t chain;        /* the next of its bucket, or of the free ones */
    uint32_t newer, older; /* by last use */
} slot;

struct pr_cache {
    pr_cache_opts opts;
    pthread_mutex_t lock;
    uint32_t *buckets; /* [mask + 1] */
    uint32_t mask;
    slot *slots; /* [entries_max] */
    uint32_t free, newest, oldest;
    pr_cache_stats stats;
};

static size_t cost_of(const pr_blob *b) { return sizeof(pr_blob) + b->len + sizeof(slot); }

static uint32_t *bucket_of(const pr_cache *c, const pr_cache_key *key) {
    uint32_t n;
    memcpy(&n, key->bytes, sizeof n);
    return &c->buckets[n & c->mask];
}

static uint32_t find(const pr_cache *c, const pr_cache_key *key) {
    if (c->opts.entries_max == 0) return NONE;
    uint32_t at = *bucket_of(c, key);
    while (at != NONE && memcmp(c->slots[at].key.bytes, key->bytes, sizeof key->bytes) != 0) at = c->slots[at].chain;
    return at;
}

static void unlink_use(pr_cache *c, uint32_t at) {
    slot *s = &c->slots[at];
    if (s->newer == NONE) c->newest = s->older;
    else c->slots[s->newer].older = s->older;
    if (s->older == NONE) c->oldest = s->newer;
    else c->slots[s->older].newer = s->newer;
}

static void link_newest(pr_cache *c, uint32_t at) {
    slot *s = &c->slots[at];
    s->newer = NONE;
    s->older = c->newest;
    if (c->newest == NONE) c->oldest = at;
    else c->slots[c->newest].newer = at;
    c->newest = at;
}

static void insert(pr_cache *c, const slot *entry) {
    uint32_t at = c->free, *bucket = bucket_of(c, &entry->key);
    c->free = c->slots[at].chain;
    c->slots[at] = *entry;
    c->slots[at].chain = *bucket;
    *bucket = at;
    link_newest(c, at);
    c->stats.bytes += cost_of(entry->blob);
    c->stats.entries++;
    c->stats.insertions++;
}

static void drop(pr_cache *c, uint32_t at) {
    slot *s = &c->slots[at];
    uint32_t *link = bucket_of(c, &s->key);
    while (*link != at) link = &c->slots[*link].chain;
    *link = s->chain;
    unlink_use(c, at);
    c->stats.bytes -= cost_of(s->blob);
    c->stats.entries--;
    pr_blob_unref(s->blob); /* frees it at most, and that is quick */
    s->blob = NULL;
    s->chain = c->free;
    c->free = at;
}

static bool is_old(const pr_cache *c, const slot *s, double now) { return now - s->put_at >= c->opts.ttl_seconds; }

/* ---- opening ----------------------------------------------------------- */

static void empty(pr_cache *c) {
    for (uint32_t i = 0; i < c->opts.entries_max; i++) c->slots[i].chain = i + 1 < c->opts.entries_max ? i + 1 : NONE;
    for (uint32_t i = 0; c->buckets && i <= c->mask; i++) c->buckets[i] = NONE;
    c->free = c->opts.entries_max ? 0 : NONE;
    c->newest = c->oldest = NONE;
}

pr_status pr_cache_open(const pr_cache_opts *opts, pr_cache **out, pr_err *err) {
    *out = NULL;
    pr_cache *c = pr_calloc(PR_TAG_CACHE, 1, sizeof *c);
    if (!c) return pr_fail_nomem(err, "cache", sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    c->opts = *opts;
    if (c->opts.bytes_max == 0 || c->opts.entries_max == 0) c->opts.bytes_max = c->opts.entries_max = 0;
    uint32_t n = c->opts.entries_max, buckets = 1;
    if (n > ENTRIES_MOST) {
        pr_cache_close(c);
        return pr_fail(err, PR_ERR_LIMIT, "a cache of more than %d entries", ENTRIES_MOST);
    }
    while (buckets < n) buckets *= 2;
    c->mask = buckets - 1;
    c->stats = (pr_cache_stats){.bytes_max = c->opts.bytes_max, .entries_max = n, .ttl_seconds = c->opts.ttl_seconds};
    if (n) {
        c->slots = pr_calloc(PR_TAG_CACHE, n, sizeof *c->slots);
        c->buckets = pr_calloc(PR_TAG_CACHE, buckets, sizeof *c->buckets);
        if (!c->slots || !c->buckets) {
            pr_cache_close(c);
            return pr_fail_nomem(err, "cache", n * sizeof *c->slots);
        }
    }
    empty(c);
    *out = c;
    return PR_OK;
}

void pr_cache_close(pr_cache *c) {
    if (!c) return;
    for (uint32_t i = 0; c->slots && i < c->opts.entries_max; i++) pr_blob_unref(c->slots[i].blob);
    pthread_mutex_destroy(&c->lock);
    pr_free(c->slots);
    pr_free(c->buckets);
    pr_free(c);
}

/* ---- getting and putting ------------------------------------------------ */

pr_blob *pr_cache_get(pr_cache *c, const pr_cache_key *key, double now, double age_max, double *age) {
    pr_blob *found = NULL;
    pthread_mutex_lock(&c->lock);
    uint32_t at = find(c, key);
    if (at != NONE && is_old(c, &c->slots[at], now)) {
        drop(c, at);
        c->stats.expired++;
        at = NONE;
    }
    if (at != NONE && now - c->slots[at].put_at <= age_max) {
        if (age) *age = now > c->slots[at].put_at ? now - c->slots[at].put_at : 0;
        unlink_use(c, at);
        link_newest(c, at);
        found = pr_blob_ref(c->slots[at].blob);
    }
    if (found) c->stats.hits++;
    else c->stats.misses++;
    pthread_mutex_unlock(&c->lock);
    return found;
}

/* Under the lock. One answer must not empty the cache of all others. */
static bool fits(const pr_cache *c, size_t cost) {
    if (cost > c->opts.bytes_max) return false;
    return cost <= c->opts.bytes_max / 4 || cost <= c->opts.bytes_max - c->stats.bytes;
}

bool pr_cache_put(pr_cache *c, const pr_cache_key *key, pr_blob *blob, double now) {
    size_t cost = cost_of(blob);
    pthread_mutex_lock(&c->lock);
    uint32_t at = find(c, key);
    if (at != NONE) drop(c, at); /* also when the new one is refused: it is out of date */
    bool kept = fits(c, cost);
    for (; kept && (c->free == NONE || c->stats.bytes > c->opts.bytes_max - cost); c->stats.evictions++)
        drop(c, c->oldest);
    if (kept) insert(c, &(slot){.key = *key, .blob = pr_blob_ref(blob), .put_at = now});
    else c->stats.refused++;
    pthread_mutex_unlock(&c->lock);
    return kept;
}

/* ---- dropping ----------------------------------------------------------- */

/* All, or those that are too old at *now. */
static size_t drop_all(pr_cache *c, const double *now) {
    size_t bytes = 0;
    pthread_mutex_lock(&c->lock);
    for (uint32_t at = c->oldest; at != NONE;) {
        slot *s = &c->slots[at];
        uint32_t next = s->newer;
        if (!now || is_old(c, s, *now)) {
            bytes += cost_of(s->blob);
            if (now) c->stats.expired++;
            else c->stats.cleared++;
            drop(c, at);
        }
        at = next;
    }
    pthread_mutex_unlock(&c->lock);
    return bytes;
}

size_t pr_cache_clear(pr_cache *c) { return drop_all(c, NULL); }

size_t pr_cache_sweep(pr_cache *c, double now) { return drop_all(c, &now); }

void pr_cache_stats_get(pr_cache *c, pr_cache_stats *out) {
    pthread_mutex_lock(&c->lock);
    *out = c->stats;
    pthread_mutex_unlock(&c->lock);
}
