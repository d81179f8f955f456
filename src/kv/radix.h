/*
 * A radix tree over KV pages: what was computed once, found again by its tokens.
 *
 * A node stands for a page of the pool: its tokens, and a hold on the page. A path from a root down is the beginning of a
 * timeline, so sequences that begin alike share nodes. Only the last page of a timeline may hold fewer than 32 tokens;
 * it has no children. Each owner (an API key) has a root of its own and never meets another's pages.
 *
 * Levels: a page counts as made at the lowest level of the pages it rests on and its own. One with the same tokens and a
 * higher level takes the place of a lower one; one that begins another and has no higher level is covered by that.
 *
 * Bounds: no page is held twice, so there are never more nodes than the pool has pages. Every call leaves the tree
 * whole, also when memory for nodes is refused: less is kept then.
 *
 * Threads: one at a time, the pool's.
 */
#ifndef PRECIS_KV_RADIX_H
#define PRECIS_KV_RADIX_H

#include "kv/kv.h"

typedef struct pr_radix pr_radix;

/* The beginning of a prompt, as far as the tree has it; valid until the tree changes otherwise than by a take. */
typedef struct pr_radix_match {
    uint32_t n_tokens;         /* 0: nothing */
    struct pr_radix_node *end; /* holds the last of them */
} pr_radix_match;

pr_status pr_radix_open(pr_kv_pool *pool, pr_radix **out, pr_err *err);
void pr_radix_close(pr_radix *tree); /* gives all pages back; NULL allowed */
uint32_t pr_radix_pages(const pr_radix *tree);
bool pr_radix_has(const pr_radix *tree, const void *owner); /* whether it holds any of this owner's pages */

/* The longest beginning of tokens[n_tokens] in pages not below `level`: whole pages, then as much as agrees of one more. */
pr_radix_match pr_radix_find(const pr_radix *tree, const void *owner, const int32_t *tokens, uint32_t n_tokens,
                             uint8_t level);
/* The same without the page that is used in part. */
pr_radix_match pr_radix_whole(pr_radix_match match);
/* seq (empty, of the same pool and with room) becomes a view of the match's tokens. Cannot fail. */
void pr_radix_take(pr_radix *tree, const pr_radix_match *match, pr_kv_seq *seq);

/* Keep the pages of seq's first n_tokens tokens, which are `tokens`. A last page that is not full is shared from now on: its
 * sequence would copy it before writing. Returns how many pages were new to the tree. */
uint32_t pr_radix_insert(pr_radix *tree, const void *owner, const pr_kv_seq *seq, const int32_t *tokens,
                         uint32_t n_tokens);

/* Let go of pages, least recently used first and never one before those that rest on it, until n_pages of the pool are free that
 * were not. What others use as well is let go only for pages beneath it. spared (may be NULL): its pages stay. Returns how
 * many became free: fewer than n_pages only if there are no more. */
uint32_t pr_radix_evict(pr_radix *tree, uint32_t n_pages, const pr_radix_match *spared);
void pr_radix_clear(pr_radix *tree);

#endif
