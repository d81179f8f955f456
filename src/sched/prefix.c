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
    pr_session_close(p->session);
    pr_free(p);
    lane->n_prefixes--;
}

static void drop_oldest(pr__lane *lane) {
    pr__prefix **oldest = &lane->prefixes;
    for (pr__prefix **at = &lane->prefixes; *at; at = &(*at)->next)
        if ((*at)->used < (*oldest)->used) oldest = at;
    drop(lane, oldest);
}

void pr__prefix_drop_all(pr__lane *lane) {
    while (lane->prefixes) drop(lane, &lane->prefixes);
}

static uint32_t common(const pr_session *s, const pr__job *job) {
    const int32_t *held = pr_session_tokens(s);
    uint32_t n = pr_session_length(s), most = (uint32_t)job->n_ids - 1, i = 0;
    if (n < most) most = n;
    while (i < most && held[i] == job->ids[i]) i++;
    return i;
}

pr_session *pr__prefix_take(pr__lane *lane, const pr__job *job, pr_level level, uint32_t *n_cached) {
    pr__prefix *best = NULL;
    pr_session *fork = NULL;
    *n_cached = 0;
    for (pr__prefix *p = lane->prefixes; p; p = p->next) {
        if (p->key != job->key) continue;
        uint32_t n = common(p->session, job);
        if (n <= *n_cached || n < WORTH) continue;
        if (!job->spec.reuse_any && pr_session_level(p->session, n) < (int)level) continue;
        best = p;
        *n_cached = n;
    }
    if (best) best->used = ++lane->prefix_clock;
    if (!best || pr_session_fork(best->session, &fork, NULL) != PR_OK ||
        pr_session_truncate(fork, *n_cached, NULL) != PR_OK) {
        pr_session_close(fork);
        *n_cached = 0;
        return NULL;
    }
    return fork;
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
    lane->prefixes = p;
    if (++lane->n_prefixes > KEEP_MAX) drop_oldest(lane);
}

/* Pages that running jobs may still take. */
static uint32_t outstanding(const pr__lane *lane) {
    uint32_t n = 0;
    for (const pr__job *job = lane->running.first; job; job = job->link) {
        uint32_t held = pr_session_pages(job->session);
        n += job->pages > held ? job->pages - held : 0;
    }
    return n;
}

bool pr__lane_reserve(pr__lane *lane, pr__job *job) {
    enum { COPY = 1 /* a shared last page is copied before it is written */ };
    pr_engine_info info;
    pr_engine_describe(lane->engine, &info);
    uint32_t max = pr_engine_pages_max(lane->engine), per_page = pr_engine_page_tokens();
    uint64_t tokens = job->n_ids + job->n_new;
    if (tokens > info.context_max || job->n_new == 0) tokens = info.context_max;
    uint32_t need = (uint32_t)((tokens + per_page - 1) / per_page) + COPY;
    job->pages = need < max ? need : max;
    uint32_t promised = outstanding(lane);
    for (;;) {
        if (pr_engine_pages_used(lane->engine) + promised + job->pages <= max) return true;
        if (!lane->prefixes) return lane->running.n == 0;
        drop_oldest(lane);
    }
}

size_t pr__prefix_bytes(const pr__lane *lane) {
    size_t pages = 0;
    for (const pr__prefix *p = lane->prefixes; p; p = p->next) pages += pr_session_pages(p->session);
    return pages * pr_engine_page_bytes(lane->engine);
}
