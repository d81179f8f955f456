/*
 * Prefixes: pages of what was computed, kept because the next request often begins the same way.
 *
 * They are in a tree over the lane's pages (kv/radix.h), which shares them with running sessions and holds none twice.
 * They come in twice: a prompt's whole pages as soon as it is fed, so that requests with the same beginning need not wait for
 * the end of the first, and all there is at the end. They are given back before any request waits for pages.
 */
#include "engine/serve.h"
#include "sched/lane.h"

enum { WORTH = 16 /* tokens below which prefill is as quick */ };

void pr__prefix_drop_all(pr__lane *lane) {
    lane->counts->dropped += pr_radix_pages(lane->prefixes);
    pr_radix_clear(lane->prefixes);
}

pr_radix_match pr__prefix_find(const pr__lane *lane, const pr__job *job, pr_level level) {
    uint8_t least = job->spec.reuse_any ? 0 : (uint8_t)level;
    pr_radix_match match = pr_radix_find(lane->prefixes, job->key, job->ids, (uint32_t)job->n_ids - 1, least);
    return match.n_tokens < WORTH ? (pr_radix_match){0} : match;
}

void pr__prefix_take(pr__lane *lane, pr__job *job, const pr_radix_match *match) {
    pr_session_adopt(job->session, lane->prefixes, match, job->ids);
}

static void insert(pr__lane *lane, const pr__job *job, uint32_t n_tokens) {
    const pr_session *s = job->session;
    uint32_t before = pr_radix_pages(lane->prefixes);
    uint32_t added = pr_radix_insert(lane->prefixes, job->key, pr_session_kv(s), pr_session_tokens(s), n_tokens);
    lane->counts->kept += added;
    lane->counts->evicted += before + added - pr_radix_pages(lane->prefixes); /* better ones came in their place */
}

void pr__prefix_share(pr__lane *lane, pr__job *job) {
    if (job->shared || !pr__job_decoding(job)) return;
    job->shared = true;
    insert(lane, job, (uint32_t)job->n_ids / PR_KV_TOKENS * PR_KV_TOKENS); /* the last one is still written */
}

void pr__prefix_keep(pr__lane *lane, const pr__job *job) {
    uint32_t n = pr_session_length(job->session);
    if (n >= WORTH) insert(lane, job, n);
}

/* ---- pages ------------------------------------------------------------- */

uint32_t pr__job_pages(const pr__job *job) {
    uint64_t tokens = job->n_ids + job->n_new - 1; /* the last one is not fed */
    return (uint32_t)((tokens + PR_KV_TOKENS - 1) / PR_KV_TOKENS);
}

uint32_t pr__lane_promised(const pr__lane *lane) {
    uint32_t n = 0;
    for (const pr__job *job = lane->running.first; job; job = job->link) {
        const pr_kv_seq *held = pr_session_kv(job->session);
        n += job->pages > held->n_pages ? job->pages - held->n_pages : 0;
        n += pr_kv_seq_copies(held);
    }
    return n;
}

uint32_t pr__lane_need(const pr__job *job, const pr_radix_match *match) {
    return job->pages - match->n_tokens / PR_KV_TOKENS; /* one that is used in part is copied */
}

uint32_t pr__prefix_yield(pr__lane *lane, uint32_t n_pages, const pr_radix_match *spared) {
    uint32_t before = pr_radix_pages(lane->prefixes);
    uint32_t freed = pr_radix_evict(lane->prefixes, n_pages, spared);
    lane->counts->evicted += before - pr_radix_pages(lane->prefixes);
    return freed;
}

bool pr__lane_reserve(pr__lane *lane, const pr__job *job, pr_radix_match *match) {
    uint32_t max = pr_engine_pages_max(lane->engine), promised = pr__lane_promised(lane);
    for (;;) {
        uint64_t want = (uint64_t)pr_engine_pages_used(lane->engine) + promised + pr__lane_need(job, match);
        if (want <= max) return true;
        if (pr__prefix_yield(lane, (uint32_t)(want - max), match)) continue;
        if (match->n_tokens % PR_KV_TOKENS == 0) return false;
        *match = pr_radix_whole(*match);
    }
}

size_t pr__prefix_bytes(const pr__lane *lane) {
    return pr_radix_pages(lane->prefixes) * pr_engine_page_bytes(lane->engine);
}
