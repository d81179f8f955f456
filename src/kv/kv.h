/*
 * KV pages: the memory of sessions.
 *
 * A page holds the keys and values of 32 consecutive tokens for every layer
 * and KV head, each in a form of its own (layout: kernels/kernels.h). A sequence is a table of
 * pages; forks share pages by reference count and a writer copies a shared
 * page first. Pages may be held for later sequences as well (radix.h). The pool reserves address space for its bound once and hands
 * out page slots in it, so taking a page never calls the system allocator.
 *
 * Every page is tagged with the precision level that made it: a page may be
 * reused by a request only when its level is not below the request's.
 *
 * Threads: a pool and its sequences belong to one thread at a time.
 */
#ifndef PRECIS_KV_KV_H
#define PRECIS_KV_KV_H

#include "base/mem.h"
#include "base/status.h"
#include "kernels/kernels.h"

typedef struct pr_kv_shape {
    uint32_t n_layers, n_kv_heads, head_dim;
    pr_kv_form k_form, v_form;
} pr_kv_shape;

typedef struct pr_kv_pool pr_kv_pool;

/* Bytes of one page. */
size_t pr_kv_page_bytes(const pr_kv_shape *shape);

/* A pool of as many pages as fit bytes_max, at least 1. */
pr_status pr_kv_pool_open(const pr_kv_shape *shape, size_t bytes_max, pr_kv_pool **out, pr_err *err);
void pr_kv_pool_close(pr_kv_pool *pool); /* every sequence must be freed before */
uint32_t pr_kv_pool_pages(const pr_kv_pool *pool);
uint32_t pr_kv_pool_pages_used(const pr_kv_pool *pool);

/* One timeline. Pages [0, n_tokens / 32] are in use. */
typedef struct pr_kv_seq {
    pr_kv_pool *pool;
    uint32_t *pages; /* [n_pages] slot numbers; room for pages_max */
    uint32_t n_pages, pages_max;
    uint32_t n_tokens; /* committed */
} pr_kv_seq;

/* An empty sequence that can hold tokens_max tokens; nothing of it is allocated later but pages of the pool. */
pr_status pr_kv_seq_init(pr_kv_seq *seq, pr_kv_pool *pool, uint32_t tokens_max, pr_err *err);
void pr_kv_seq_free(pr_kv_seq *seq); /* an all-zero struct is allowed */

/* Make positions n_tokens .. n_tokens+n_new writable, by this sequence alone:
 * takes pages and copies a shared last page. PR_ERR_LIMIT when the pool or the
 * sequence is full. What the sequence holds is unchanged, whatever happens. */
pr_status pr_kv_seq_reserve(pr_kv_seq *seq, uint32_t n_new, pr_err *err);

/* Count n_new tokens, written since the reserve, as held; tags their pages. */
void pr_kv_seq_commit(pr_kv_seq *seq, uint32_t n_new, uint8_t level);

/* Forget tokens from position n_tokens on; pages that become empty are freed. */
void pr_kv_seq_truncate(pr_kv_seq *seq, uint32_t n_tokens);

/* dst (initialized, empty, of the same pool and with room for them) becomes a second view of src's tokens. */
void pr_kv_seq_fork(const pr_kv_seq *src, pr_kv_seq *dst);

/* Whether the next token makes a copy of a shared last page. */
bool pr_kv_seq_copies(const pr_kv_seq *seq);

/* For who shares pages with sequences (radix.h), by slot number: one more holder, one less (the last one frees the page). */
void pr_kv_page_hold(pr_kv_pool *pool, uint32_t slot);
void pr_kv_page_drop(pr_kv_pool *pool, uint32_t slot);
uint32_t pr_kv_page_holders(const pr_kv_pool *pool, uint32_t slot);
/* The lowest level that made any of its tokens; 255: none yet. */
uint8_t pr_kv_page_level(const pr_kv_pool *pool, uint32_t slot);
/* Its level is at most this one. */
void pr_kv_page_lower(pr_kv_pool *pool, uint32_t slot, uint8_t level);

const pr_kv_shape *pr_kv_seq_shape(const pr_kv_seq *seq);

/* Keys and values of one layer and head in the page that holds position pos. */
typedef struct pr_kv_tile {
    void *k, *v;
} pr_kv_tile;
pr_kv_tile pr_kv_tile_at(const pr_kv_seq *seq, uint32_t pos, uint32_t layer, uint32_t kv_head);

#endif
