/*
 * KV pages: slots in one reserved mapping, a free list, reference counts.
 *
 * Why pages for all layers at once, and not one page a layer: forking,
 * truncating and evicting act on tokens, never on layers, so one count and one
 * table entry serve them all; the tile of a layer is an address computation.
 * Why one mapping: the pool's bound is the governor's to set, the system
 * touches memory only when a page is first written, and a freed page is given
 * back with one madvise.
 *
 * Invariants: ref[slot] is the number of tables and other holders that name the slot; a slot
 * with ref 0 is in the free list and holds no memory that the ledger counts;
 * only a slot with ref 1 is written.
 */
#include "kv/kv.h"

#include <assert.h>
#include <string.h>

struct pr_kv_pool {
    pr_kv_shape shape;
    size_t k_bytes, tile_bytes, page_bytes; /* of one layer and head: keys, both */
    uint8_t *base;
    uint32_t n_pages, n_used;
    uint32_t *ref;  /* [n_pages] */
    uint32_t *free; /* [n_pages - n_used] a stack; the lowest slot on top at first */
    uint8_t *level; /* [n_pages] lowest level written */
};

static size_t tile_bytes(const pr_kv_shape *shape) {
    return pr_kv_part_bytes(shape->k_form, shape->head_dim) + pr_kv_part_bytes(shape->v_form, shape->head_dim);
}

size_t pr_kv_page_bytes(const pr_kv_shape *shape) {
    return pr_align_up((size_t)shape->n_layers * shape->n_kv_heads * tile_bytes(shape), 4096);
}

pr_status pr_kv_pool_open(const pr_kv_shape *shape, size_t bytes_max, pr_kv_pool **out, pr_err *err) {
    *out = NULL;
    pr_kv_pool *pool = pr_calloc(PR_TAG_KV, 1, sizeof *pool);
    if (!pool) return pr_fail_nomem(err, "KV pool", sizeof *pool);
    pool->shape = *shape;
    pool->k_bytes = pr_kv_part_bytes(shape->k_form, shape->head_dim);
    pool->tile_bytes = tile_bytes(shape);
    pool->page_bytes = pr_kv_page_bytes(shape);
    size_t n = bytes_max / pool->page_bytes;
    pool->n_pages = n < 1 ? 1 : n > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)n;
    pool->ref = pr_calloc(PR_TAG_KV, pool->n_pages, sizeof *pool->ref);
    pool->free = pr_calloc(PR_TAG_KV, pool->n_pages, sizeof *pool->free);
    pool->level = pr_calloc(PR_TAG_KV, pool->n_pages, 1);
    size_t bytes = 0;
    if (pr_size_mul(pool->n_pages, pool->page_bytes, &bytes)) pool->base = pr_reserve(bytes);
    if (!pool->ref || !pool->free || !pool->level || !pool->base) {
        pr_kv_pool_close(pool);
        return pr_fail_nomem(err, "KV pool", bytes);
    }
    for (uint32_t i = 0; i < pool->n_pages; i++) pool->free[i] = pool->n_pages - 1 - i;
    *out = pool;
    return PR_OK;
}

void pr_kv_pool_close(pr_kv_pool *pool) {
    if (!pool) return;
    assert(pool->n_used == 0);
    if (pool->base) pr_unreserve(pool->base, (size_t)pool->n_pages * pool->page_bytes);
    pr_free(pool->ref);
    pr_free(pool->free);
    pr_free(pool->level);
    pr_free(pool);
}

uint32_t pr_kv_pool_pages(const pr_kv_pool *pool) { return pool->n_pages; }

uint32_t pr_kv_pool_pages_used(const pr_kv_pool *pool) { return pool->n_used; }

static uint8_t *page_data(const pr_kv_pool *pool, uint32_t slot) { return pool->base + slot * pool->page_bytes; }

static pr_status page_take(pr_kv_pool *pool, uint32_t *slot, pr_err *err) {
    if (pool->n_used == pool->n_pages)
        return pr_fail(err, PR_ERR_LIMIT, "KV memory is full: %u pages of %d tokens", pool->n_pages, PR_KV_TOKENS);
    uint32_t s = pool->free[pool->n_pages - pool->n_used - 1];
    if (!pr_commit(PR_TAG_KV, pool->page_bytes)) return pr_fail_nomem(err, "KV page", pool->page_bytes);
    pool->n_used++;
    pool->ref[s] = 1;
    pool->level[s] = UINT8_MAX;
    *slot = s;
    return PR_OK;
}

void pr_kv_page_drop(pr_kv_pool *pool, uint32_t slot) {
    assert(pool->ref[slot] > 0);
    if (--pool->ref[slot] > 0) return;
    pr_decommit(PR_TAG_KV, page_data(pool, slot), pool->page_bytes);
    pool->free[pool->n_pages - pool->n_used] = slot;
    pool->n_used--;
}

void pr_kv_page_hold(pr_kv_pool *pool, uint32_t slot) {
    assert(pool->ref[slot] > 0);
    pool->ref[slot]++;
}

uint32_t pr_kv_page_holders(const pr_kv_pool *pool, uint32_t slot) { return pool->ref[slot]; }

uint8_t pr_kv_page_level(const pr_kv_pool *pool, uint32_t slot) { return pool->level[slot]; }

void pr_kv_page_lower(pr_kv_pool *pool, uint32_t slot, uint8_t level) {
    if (level < pool->level[slot]) pool->level[slot] = level;
}

static uint32_t pages_for(uint64_t n_tokens) { return (uint32_t)((n_tokens + PR_KV_TOKENS - 1) / PR_KV_TOKENS); }

pr_status pr_kv_seq_init(pr_kv_seq *seq, pr_kv_pool *pool, uint32_t tokens_max, pr_err *err) {
    *seq = (pr_kv_seq){.pool = pool, .pages_max = pages_for(tokens_max)};
    seq->pages = pr_calloc(PR_TAG_KV, seq->pages_max, sizeof *seq->pages);
    return seq->pages ? PR_OK : pr_fail_nomem(err, "KV page table", seq->pages_max * sizeof *seq->pages);
}

static void seq_shrink(pr_kv_seq *seq, uint32_t n_pages) {
    while (seq->n_pages > n_pages) pr_kv_page_drop(seq->pool, seq->pages[--seq->n_pages]);
}

void pr_kv_seq_free(pr_kv_seq *seq) {
    if (!seq->pool) return;
    seq_shrink(seq, 0);
    pr_free(seq->pages);
    *seq = (pr_kv_seq){0};
}

/* Only the page that is partly filled can be shared and about to be written. */
bool pr_kv_seq_copies(const pr_kv_seq *seq) {
    uint32_t last = seq->n_tokens / PR_KV_TOKENS;
    return last < seq->n_pages && seq->pool->ref[seq->pages[last]] > 1;
}

pr_status pr_kv_seq_reserve(pr_kv_seq *seq, uint32_t n_new, pr_err *err) {
    uint32_t n_old_pages = seq->n_pages, want = pages_for((uint64_t)seq->n_tokens + n_new);
    bool copies = n_new > 0 && pr_kv_seq_copies(seq);
    if (want > seq->pages_max)
        return pr_fail(err, PR_ERR_LIMIT, "the session is full: %u tokens", seq->pages_max * PR_KV_TOKENS);
    while (seq->n_pages < want) {
        pr_status st = page_take(seq->pool, &seq->pages[seq->n_pages], err);
        if (st) {
            seq_shrink(seq, n_old_pages);
            return st;
        }
        seq->n_pages++;
    }
    if (copies) {
        uint32_t copy = 0, last = seq->n_tokens / PR_KV_TOKENS;
        pr_status st = page_take(seq->pool, &copy, err);
        if (st) {
            seq_shrink(seq, n_old_pages);
            return st;
        }
        memcpy(page_data(seq->pool, copy), page_data(seq->pool, seq->pages[last]), seq->pool->page_bytes);
        seq->pool->level[copy] = seq->pool->level[seq->pages[last]];
        pr_kv_page_drop(seq->pool, seq->pages[last]);
        seq->pages[last] = copy;
    }
    return PR_OK;
}

void pr_kv_seq_commit(pr_kv_seq *seq, uint32_t n_new, uint8_t level) {
    uint32_t end = seq->n_tokens + n_new;
    assert(pages_for(end) <= seq->n_pages);
    for (uint32_t p = seq->n_tokens / PR_KV_TOKENS; p < pages_for(end); p++) {
        uint8_t *tag = &seq->pool->level[seq->pages[p]];
        if (level < *tag) *tag = level;
    }
    seq->n_tokens = end;
}

void pr_kv_seq_truncate(pr_kv_seq *seq, uint32_t n_tokens) {
    if (n_tokens < seq->n_tokens) seq->n_tokens = n_tokens;
    seq_shrink(seq, pages_for(seq->n_tokens));
}

void pr_kv_seq_fork(const pr_kv_seq *src, pr_kv_seq *dst) {
    uint32_t n = pages_for(src->n_tokens);
    assert(dst->n_pages == 0 && dst->pool == src->pool && dst->pages_max >= n);
    for (uint32_t i = 0; i < n; i++) {
        dst->pages[i] = src->pages[i];
        pr_kv_page_hold(src->pool, src->pages[i]);
    }
    dst->n_pages = n;
    dst->n_tokens = src->n_tokens;
}

const pr_kv_shape *pr_kv_seq_shape(const pr_kv_seq *seq) { return &seq->pool->shape; }

pr_kv_tile pr_kv_tile_at(const pr_kv_seq *seq, uint32_t pos, uint32_t layer, uint32_t kv_head) {
    const pr_kv_pool *pool = seq->pool;
    size_t tile = (size_t)layer * pool->shape.n_kv_heads + kv_head;
    uint8_t *k = page_data(pool, seq->pages[pos / PR_KV_TOKENS]) + tile * pool->tile_bytes;
    return (pr_kv_tile){k, k + pool->k_bytes};
}
