/*
 * The ledger of memory.
 *
 * Every heap block has a 16-byte header {size, tag, magic} in front of it, so
 * that pr_free() needs no size and the counters by tag are exact. Mappings have
 * no header (it would spoil their alignment); their owner hands the size back.
 * The counters are relaxed atomics: each is right by itself, and nobody needs
 * two of them to agree at one instant.
 *
 * Why not wrap malloc at link time or use malloc_usable_size()? Because what
 * the governor plans with is what was asked for and why, and only the caller
 * knows why. Why not trust the system's accounting? It cannot fail the n-th
 * request on purpose, which is how every error path here is tested.
 */
#include "base/mem.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_BYTES ((size_t)2 << 20)
#define MAGIC_LIVE 0x70726d65u
#define MAGIC_DEAD 0xdeadb10cu

typedef struct block {
    size_t size;
    uint32_t tag;
    uint32_t magic;
} block;

_Static_assert(sizeof(block) == 16, "the header keeps 16-byte alignment");
_Static_assert(_Alignof(max_align_t) >= 16, "malloc must align to 16 bytes");

static atomic_size_t tag_bytes[PR_TAG_COUNT];
static atomic_size_t total_bytes;
static atomic_size_t peak_bytes;
static atomic_uint_least64_t n_requests;

static atomic_int_least64_t fail_left = -1;
static atomic_bool fail_sticky;
static atomic_bool fail_happened;

const char *pr_tag_name(pr_tag tag) {
    switch (tag) {
    case PR_TAG_MISC: return "misc";
    case PR_TAG_WEIGHTS: return "weights";
    case PR_TAG_KV: return "kv";
    case PR_TAG_SCRATCH: return "scratch";
    case PR_TAG_GRAPH: return "graph";
    case PR_TAG_VOCAB: return "vocab";
    case PR_TAG_SESSION: return "session";
    case PR_TAG_FILE: return "file";
    case PR_TAG_JSON: return "json";
    case PR_TAG_HTTP: return "http";
    case PR_TAG_CACHE: return "cache";
    case PR_TAG_COUNT: break;
    }
    return "unknown";
}

/* ---- fault injection ---- */

void pr_mem_fail_after(int64_t after, bool sticky) {
    atomic_store(&fail_left, -1); /* off while the rest changes */
    atomic_store(&fail_sticky, sticky);
    atomic_store(&fail_happened, false);
    atomic_store(&fail_left, after < 0 ? -1 : after);
}

bool pr_mem_failed(void) { return atomic_load(&fail_happened); }

/* True when injection says that this request has to fail. */
static bool injection_fails(void) {
    int_least64_t left = atomic_load_explicit(&fail_left, memory_order_relaxed);
    int_least64_t next;
    do {
        if (left < 0) return false;
        next = left > 0 ? left - 1 : atomic_load(&fail_sticky) ? 0 : -1;
    } while (!atomic_compare_exchange_weak(&fail_left, &left, next));
    if (left == 0) atomic_store(&fail_happened, true);
    return left == 0;
}

/* Count one request; true when it is one that has to fail. */
static bool request_fails(void) {
    atomic_fetch_add_explicit(&n_requests, 1, memory_order_relaxed);
    return injection_fails();
}

/* ---- counters ---- */

static void ledger_add(uint32_t tag, size_t bytes) {
    atomic_fetch_add_explicit(&tag_bytes[tag], bytes, memory_order_relaxed);
    size_t total = atomic_fetch_add_explicit(&total_bytes, bytes, memory_order_relaxed) + bytes;
    size_t peak = atomic_load_explicit(&peak_bytes, memory_order_relaxed);
    while (total > peak && !atomic_compare_exchange_weak(&peak_bytes, &peak, total)) {
    }
}

static void ledger_sub(uint32_t tag, size_t bytes) {
    atomic_fetch_sub_explicit(&tag_bytes[tag], bytes, memory_order_relaxed);
    atomic_fetch_sub_explicit(&total_bytes, bytes, memory_order_relaxed);
}

size_t pr_mem_bytes(pr_tag tag) { return atomic_load_explicit(&tag_bytes[tag], memory_order_relaxed); }
size_t pr_mem_total(void) { return atomic_load_explicit(&total_bytes, memory_order_relaxed); }
size_t pr_mem_peak(void) { return atomic_load_explicit(&peak_bytes, memory_order_relaxed); }
void pr_mem_peak_reset(void) { atomic_store(&peak_bytes, pr_mem_total()); }
uint64_t pr_mem_count(void) { return atomic_load_explicit(&n_requests, memory_order_relaxed); }

/* ---- heap ---- */

static block *block_of(void *p) {
    block *b = (block *)p - 1;
    assert(b->magic == MAGIC_LIVE && "not a live block of base/mem");
    return b;
}

static void *block_open(block *b, pr_tag tag, size_t bytes) {
    *b = (block){.size = bytes, .tag = (uint32_t)tag, .magic = MAGIC_LIVE};
    ledger_add((uint32_t)tag, bytes);
    return b + 1;
}

void *pr_alloc(pr_tag tag, size_t bytes) {
    assert(tag < PR_TAG_COUNT);
    size_t whole;
    if (request_fails() || !pr_size_add(bytes, sizeof(block), &whole)) return NULL;
    block *b = malloc(whole);
    return b ? block_open(b, tag, bytes) : NULL;
}

void *pr_calloc(pr_tag tag, size_t count, size_t size) {
    assert(tag < PR_TAG_COUNT);
    size_t bytes, whole;
    if (request_fails() || !pr_size_mul(count, size, &bytes) || !pr_size_add(bytes, sizeof(block), &whole)) return NULL;
    block *b = calloc(1, whole);
    return b ? block_open(b, tag, bytes) : NULL;
}

void *pr_realloc(pr_tag tag, void *p, size_t bytes) {
    if (!p) return pr_alloc(tag, bytes);
    block *b = block_of(p);
    size_t whole;
    if (request_fails() || !pr_size_add(bytes, sizeof(block), &whole)) return NULL;
    size_t old = b->size;
    b = realloc(b, whole);
    if (!b) return NULL;
    b->size = bytes;
    if (bytes > old) ledger_add(b->tag, bytes - old);
    else ledger_sub(b->tag, old - bytes);
    return b + 1;
}

void *pr_realloc_array(pr_tag tag, void *p, size_t count, size_t size) {
    size_t bytes;
    return pr_size_mul(count, size, &bytes) ? pr_realloc(tag, p, bytes) : NULL;
}

void pr_free(void *p) {
    if (!p) return;
    block *b = block_of(p);
    ledger_sub(b->tag, b->size);
    b->magic = MAGIC_DEAD;
    free(b);
}

char *pr_strndup(pr_tag tag, const char *text, size_t len) {
    size_t whole;
    if (!pr_size_add(len, 1, &whole)) return NULL;
    char *copy = pr_alloc(tag, whole);
    if (!copy) return NULL;
    if (len) memcpy(copy, text, len);
    copy[len] = '\0';
    return copy;
}

char *pr_strdup(pr_tag tag, const char *text) { return pr_strndup(tag, text, strlen(text)); }

/* ---- mappings ---- */

static size_t page_bytes(void) {
    long page = sysconf(_SC_PAGESIZE);
    return page > 0 ? (size_t)page : 4096;
}

/* bytes in whole pages, at least one; false when that overflows. */
static bool round_pages(size_t bytes, size_t *out) {
    size_t page = page_bytes(), slack;
    if (bytes == 0) bytes = 1;
    if (!pr_size_add(bytes, page - 1, &slack)) return false;
    *out = slack / page * page;
    return true;
}

/* mmap promises only page alignment: map 2 MiB more and give back both ends. Advised huge. */
static void *map_aligned(size_t bytes, int flags) {
    size_t whole;
    if (!pr_size_add(bytes, HUGE_BYTES, &whole)) return NULL;
    char *p = mmap(NULL, whole, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (p == MAP_FAILED) return NULL;
    size_t head = (size_t)(-(uintptr_t)p) & (HUGE_BYTES - 1);
    size_t tail = HUGE_BYTES - head;
    if (head) munmap(p, head);
    if (tail) munmap(p + head + bytes, tail);
#ifdef MADV_HUGEPAGE
    madvise(p + head, bytes, MADV_HUGEPAGE); /* advice: a refusal costs speed only */
#endif
    return p + head;
}

/* Whole pages; aligned and advised huge when large enough for it. */
static void *map(size_t bytes, int flags) {
    if (bytes >= HUGE_BYTES) return map_aligned(bytes, flags);
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void *pr_map(pr_tag tag, size_t bytes) {
    assert(tag < PR_TAG_COUNT);
    if (request_fails() || !round_pages(bytes, &bytes)) return NULL;
    void *p = map(bytes, MAP_PRIVATE | MAP_ANONYMOUS);
    if (!p) return NULL;
    ledger_add((uint32_t)tag, bytes);
    return p;
}

void pr_unmap(pr_tag tag, void *p, size_t bytes) {
    if (!p || !round_pages(bytes, &bytes)) return;
    int rc = munmap(p, bytes);
    assert(rc == 0);
    (void)rc;
    ledger_sub((uint32_t)tag, bytes);
}

void pr_map_release(void *p, size_t bytes) {
    size_t page = page_bytes();
    uintptr_t from = ((uintptr_t)p + page - 1) / page * page;
    uintptr_t to = ((uintptr_t)p + bytes) / page * page;
    if (from >= to) return;
    char *start = (char *)p + (from - (uintptr_t)p);
#ifdef __linux__
    madvise(start, to - from, MADV_DONTNEED); /* zeroes private anonymous pages here, and here only */
#else
    mmap(start, to - from, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
#endif
}

#ifdef MAP_NORESERVE
enum { RESERVE = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE };
#else
enum { RESERVE = MAP_PRIVATE | MAP_ANONYMOUS };
#endif

void *pr_reserve(size_t bytes) {
    if (request_fails() || !round_pages(bytes, &bytes)) return NULL;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, RESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void *pr_reserve_huge(size_t bytes) {
    if (request_fails() || !round_pages(bytes, &bytes)) return NULL;
    return map(bytes, RESERVE);
}

void pr_unreserve(void *p, size_t bytes) {
    if (p && round_pages(bytes, &bytes)) munmap(p, bytes);
}

bool pr_commit(pr_tag tag, size_t bytes) {
    if (injection_fails()) return false;
    ledger_add((uint32_t)tag, bytes);
    return true;
}

void pr_decommit(pr_tag tag, void *p, size_t bytes) {
    pr_map_release(p, bytes);
    ledger_sub((uint32_t)tag, bytes);
}

/* ---- size arithmetic ---- */

bool pr_size_mul(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
bool pr_size_add(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }
