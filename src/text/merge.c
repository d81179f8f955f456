/*
 * Merging: the one algorithm behind every tokenizer kind here.
 *
 * Symbols form a doubly linked list in an array. Of all neighbours that merge,
 * the pair with the smallest key goes first, the leftmost of equals; the right
 * symbol disappears into the left one, and the two pairs that this made are
 * considered in turn. The key is the rank of a merge (BPE) or the negated order
 * of a score (SentencePiece): the kinds differ only in look(), below.
 *
 * A binary heap over (key, position) makes it O(n log n), whatever the text:
 * rescanning for the best pair is faster on a five-letter word, but a megabyte
 * without a space would take hours. Entries are never removed from the heap
 * when their pair changes. Instead every symbol remembers the key of its
 * present pair, and an entry whose key is not that any more is stale. Should an
 * old entry happen to carry the present key, it stands exactly where the
 * present one would, so taking it is right, and the other one turns stale.
 *
 * Bound: n - 1 entries at first and at most two more for each of at most n - 1
 * merges, which took one out: 2n entries, allocated before the start. So
 * nothing can fail on the way.
 */
#include <string.h>

#include "text/internal.h"

#define NONE UINT32_MAX

void pr__merger_free(pr__merger *m) {
    pr_free(m->syms);
    pr_free(m->heap);
    m->syms = NULL;
    m->heap = NULL;
    m->n = m->cap = 0;
}

pr_status pr__merger_reset(pr__merger *m, size_t n, pr_err *err) {
    m->n = 0;
    if (n <= m->cap) return PR_OK;
    if (n >= NONE / 4) return pr_fail(err, PR_ERR_LIMIT, "text: a word of %zu bytes is too long", n);
    size_t cap = n < 4096 ? n * 2 + 64 : n; /* 40 bytes each: no room to spare for a long one */
    pr__merger_free(m);                     /* the old symbols are not wanted, so do not copy them */
    m->syms = pr_realloc_array(PR_TAG_VOCAB, NULL, cap, sizeof *m->syms);
    m->heap = pr_realloc_array(PR_TAG_VOCAB, NULL, cap * 2, sizeof *m->heap);
    if (!m->syms || !m->heap) return pr_fail_nomem(err, "the symbols of a word", cap * sizeof *m->syms);
    m->cap = (uint32_t)cap;
    return PR_OK;
}

void pr__merger_push(pr__merger *m, size_t at, int32_t id) {
    uint32_t i = m->n++;
    m->syms[i] = (pr__sym){.prev = i ? i - 1 : NONE, .next = NONE, .at = (uint32_t)at, .id = id, .key = PR__NO_KEY};
    if (i) m->syms[i - 1].next = i;
}

static size_t end_of(const pr__merger *m, uint32_t i) {
    uint32_t next = m->syms[i].next;
    return next == NONE ? m->len : m->syms[next].at;
}

/* Find out what merging symbol i with its right neighbour makes. */
static void look(pr__merger *m, uint32_t i) {
    const pr_vocab *v = m->v;
    pr__sym *s = &m->syms[i];
    s->key = PR__NO_KEY;
    if (s->next == NONE) return;
    if (v->kind != PR_VOCAB_SPM) {
        s->key = pr__vocab_rank(v, s->id, m->syms[s->next].id);
        if (s->key != PR__NO_KEY) s->product = v->products[s->key];
        return;
    }
    size_t len = end_of(m, s->next) - s->at;
    if (len > v->text_max) return;
    int32_t id = pr__vocab_find(v, m->text + s->at, len);
    if (id < 0) return;
    s->key = v->keys[id];
    s->product = id;
}

static void sift_down(uint64_t *heap, size_t n, size_t i) {
    uint64_t item = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (item <= heap[child]) break;
        heap[i] = heap[child];
    }
    heap[i] = item;
}

static void sift_up(uint64_t *heap, size_t i) {
    uint64_t item = heap[i];
    for (size_t parent; i > 0 && item < heap[parent = (i - 1) / 2]; i = parent) heap[i] = heap[parent];
    heap[i] = item;
}

static size_t offer(pr__merger *m, size_t n_heap, uint32_t i) {
    if (i == NONE) return n_heap;
    look(m, i);
    if (m->syms[i].key == PR__NO_KEY) return n_heap;
    m->heap[n_heap] = (uint64_t)m->syms[i].key << 32 | i;
    sift_up(m->heap, n_heap);
    return n_heap + 1;
}

/* Let symbol i swallow its right neighbour. */
static void merge(pr__merger *m, uint32_t i) {
    pr__sym *left = &m->syms[i];
    pr__sym *right = &m->syms[left->next];
    left->id = left->product;
    left->next = right->next;
    if (left->next != NONE) m->syms[left->next].prev = i;
    right->key = PR__NO_KEY; /* so that its entries are stale */
}

void pr__merger_run(pr__merger *m) {
    size_t n_heap = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        look(m, i);
        if (m->syms[i].key != PR__NO_KEY) m->heap[n_heap++] = (uint64_t)m->syms[i].key << 32 | i;
    }
    for (size_t i = n_heap / 2; i-- > 0;) sift_down(m->heap, n_heap, i);
    while (n_heap > 0) {
        uint64_t top = m->heap[0];
        m->heap[0] = m->heap[--n_heap];
        if (n_heap > 0) sift_down(m->heap, n_heap, 0);
        uint32_t i = (uint32_t)top;
        if (m->syms[i].key != (uint32_t)(top >> 32)) continue;
        merge(m, i);
        n_heap = offer(m, n_heap, i);
        n_heap = offer(m, n_heap, m->syms[i].prev);
    }
}
