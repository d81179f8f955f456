/*
 * Prefixes: finished sessions kept because the next request often begins the same way.
 *
 * A session shares pages with its forks by reference count (kv/kv.h), so keeping one costs only the pages that nobody else
 * has, and taking a prefix is a fork and a truncation. Pages are given back before any request waits for them. The list is short, so
 * the longest match is found by looking at each; a tree over pages would save comparisons that take
 * microseconds against prefills that take seconds.
 */
#include <string.h>

#include "engine/serve.h"
#include "sched/lane.h"

enum { KEEP_MAX = 32, WORTH = 16 /* tokens below which prefill is as quick */ };

static void drop(pr__lane *lane, pr__prefix **at) {
    pr__prefix *p = *at;
    *at = p->next;
    p->key->n_prefixes--;
    pr_session_close(p->session);
    pr_free(p);
    lane->n_prefixes--;
}

/* False when there is none but `spared`. */
static bool drop_oldest(pr__lane *lane, const pr__prefix *spared) {
    pr__prefix **oldest = NULL;
    for (pr__prefix **at = &lane->prefixes; *at; at = &(*at)->next)
        if (*at != spared && (!oldest || (*at)->used < (*oldest)->used)) oldest = at;
    if (!oldest) return false;
    drop(lane, oldest);
    lane->counts->evicted++;
    return true;
}

void pr__prefix_drop_all(pr__lane *lane) {
    for (; lane->prefixes; lane->counts->dropped++) drop(lane, &lane->prefixes);
}

static uint32_t common(const pr_session *s, const pr__job *job) {
    const int32_t *held = pr_session_tokens(s);
    uint32_t n = pr_session_length(s), most = (uint32_t)job->n_ids - 1, i = 0;
    if (n < most) most = n;
    while (i < most && held[i] == job->ids[i]) i++;
    return i;
}

pr__prefix *pr__prefix_find(const pr__lane *lane, const pr__job *job, pr_level level, uint32_t *n_cached) {
    pr__prefix *best = NULL;
    *n_cached = 0;
    for (pr__prefix *p = lane->prefixes; p; p = p->next) {
        if (p->key != job->key) continue;
        uint32_t n = common(p->session, job);
        if (n <= *n_cached || n < WORTH) continue;
        if (!job->spec.reuse_any && pr_session_level(p->session, n) < (int)level) continue;
        best = p;
        *n_cached = n;
    }
    return best;
}

pr_session *pr__prefix_take(pr__lane *lane, pr__prefix *prefix, uint32_t n_cached) {
    pr_session *fork = NULL;
    prefix->used = ++lane->prefix_clock;
    if (pr_session_fork(prefix->session, &fork, NULL) != PR_OK) return NULL;
    if (pr_session_truncate(fork, n_cached, NULL) == PR_OK) return fork;
    pr_session_close(fork);
    return NULL;
}

void pr__prefix_keep(pr__lane *lane, pr__job *job) {
    pr_session *s = job->session;
    pr__prefix *p = NULL;
    job->session = NULL;
    if (s && pr_session_length(s) >= WORTH) p = pr_calloc(PR_TAG_KV, 1, sizeof *p);
    if (!p) {
        pr_session_close(s);
        return;
    }
    *p = (pr__prefix){s, job->key, ++lane->prefix_clock, lane->prefixes};
    job->key->n_prefixes++;
    lane->prefixes = p;
    lane->counts->kept++;
    if (++lane->n_prefixes > KEEP_MAX) drop_oldest(lane, NULL);
}

/* ---- pages ------------------------------------------------------------- */

uint32_t pr__job_pages(const pr__job *job) {
    uint64_t tokens = job->n_ids + job->n_new - 1, per_page = pr_engine_page_tokens(); /* the last one is not fed */
    return (uint32_t)((tokens + per_page - 1) / per_page);
}

uint32_t pr__lane_promised(const pr__lane *lane) {
    uint32_t n = 0, per_page = pr_engine_page_tokens();
    for (const pr__job *job = lane->running.first; job; job = job->link) {
        uint32_t held = pr_session_pages(job->session), cached = job->done.n_cached;
        n += job->pages > held ? job->pages - held : 0;
        n += job->n_fed == cached && cached % per_page != 0; /* a shared page is copied before it is written */
    }
    return n;
}

bool pr__lane_reserve(pr__lane *lane, const pr__job *job, pr__prefix **prefix, uint32_t *n_cached) {
    uint32_t max = pr_engine_pages_max(lane->engine), promised = pr__lane_promised(lane);
    for (;;) {
        uint32_t need = job->pages - *n_cached / pr_engine_page_tokens();
        if ((uint64_t)pr_engine_pages_used(lane->engine) + promised + need <= max) return true;
        if (drop_oldest(lane, *prefix)) continue;
        if (!*prefix) return false;
        *prefix = NULL;
        *n_cached = 0;
    }
}

size_t pr__prefix_bytes(const pr__lane *lane) {
    size_t pages = 0, used = lane->pages_used;
    for (const pr__prefix *p = lane->prefixes; p; p = p->next) pages += pr_session_pages(p->session);
    return (pages < used ? pages : used) * pr_engine_page_bytes(lane->engine); /* some may be shared */
}
