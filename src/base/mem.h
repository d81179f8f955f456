/*
 * Tagged memory: every allocation and mapping in the program passes here.
 *
 * Each block carries a tag, so the ledger knows at any moment how many bytes
 * each purpose holds; the governor plans with it, tests check it for leaks, and
 * fault injection fails the n-th request. Heap blocks carry a 16-byte header;
 * mappings do not, so their owner keeps the size.
 *
 * Threads: everything here is thread-safe.
 */
#ifndef PRECIS_BASE_MEM_H
#define PRECIS_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum pr_tag {
    PR_TAG_MISC,
    PR_TAG_WEIGHTS, /* packed tensors */
    PR_TAG_KV,      /* KV pages and page tables */
    PR_TAG_SCRATCH, /* activation arena, per-thread scratch, logits */
    PR_TAG_GRAPH,   /* IR, plan, schedule */
    PR_TAG_VOCAB,   /* tokenizer tables */
    PR_TAG_SESSION,
    PR_TAG_FILE, /* file metadata, read buffers */
    PR_TAG_JSON,
    PR_TAG_HTTP,  /* requests: bodies, streams, what is known of a connection */
    PR_TAG_CACHE, /* answers kept for who asks again */
    PR_TAG_COUNT
} pr_tag;

const char *pr_tag_name(pr_tag tag);

/* Uninitialized / zeroed heap memory, 16-byte aligned; NULL when there is none.
 * A size of 0 gives a unique block. pr_calloc checks count*size for overflow. */
void *pr_alloc(pr_tag tag, size_t bytes);
void *pr_calloc(pr_tag tag, size_t count, size_t size);
/* Grow or shrink; p may be NULL; on failure p is untouched. The tag of an existing block is kept. */
void *pr_realloc(pr_tag tag, void *p, size_t bytes);
/* count*size checked for overflow. */
void *pr_realloc_array(pr_tag tag, void *p, size_t count, size_t size);
void pr_free(void *p);

char *pr_strdup(pr_tag tag, const char *text);
char *pr_strndup(pr_tag tag, const char *text, size_t len);

/* Zeroed pages, 2 MiB aligned and advised huge when bytes >= 2 MiB; NULL when
 * there is none. bytes is rounded up to pages; pass the same number to unmap. */
void *pr_map(pr_tag tag, size_t bytes);
void pr_unmap(pr_tag tag, void *p, size_t bytes);
/* Give the pages inside [p, p+bytes) back to the system; they read as zero
 * afterwards and count as held (address space stays). */
void pr_map_release(void *p, size_t bytes);

/* Address space that the system fills page by page when it is first written, and that the ledger does not count:
 * for pools that hand out parts of a large bound. NULL when there is none. Give back with the same number. */
void *pr_reserve(size_t bytes);
/* The same, 2 MiB aligned and advised huge: for a pool that is filled from front to back. Up to one huge page more than
 * what is committed may then be held. */
void *pr_reserve_huge(size_t bytes);
void pr_unreserve(void *p, size_t bytes);
/* Count bytes of a reserve as held (false: out of memory, by injection only) / give them back to the system, uncounted.
 * No system call on commit; not an allocation in pr_mem_count(). */
bool pr_commit(pr_tag tag, size_t bytes);
void pr_decommit(pr_tag tag, void *p, size_t bytes);

/* The ledger: bytes asked for and not yet freed. */
size_t pr_mem_bytes(pr_tag tag);
size_t pr_mem_total(void);
size_t pr_mem_peak(void); /* highest pr_mem_total() since the start or the last reset */
void pr_mem_peak_reset(void);
uint64_t pr_mem_count(void); /* allocations and mappings made so far: tests that a step makes none */

/* Tests: let `after` further requests through, fail the next one and then all (sticky) or only it.
 * A negative value switches injection off. */
void pr_mem_fail_after(int64_t after, bool sticky);
/* True when an injected failure has happened since the last pr_mem_fail_after(). */
bool pr_mem_failed(void);

/* a*b and a+b with overflow checks: false when it would not fit. */
bool pr_size_mul(size_t a, size_t b, size_t *out);
bool pr_size_add(size_t a, size_t b, size_t *out);
static inline size_t pr_align_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

#endif
