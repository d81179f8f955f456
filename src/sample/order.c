/*
 * The k best of n, by a heap of k.
 *
 * A vocabulary has up to 256k entries, of which a sampler wants fifty, so the
 * list is never sorted as a whole. The first k candidates become a heap with
 * the worst at its root; every later candidate is compared with that root and
 * seldom beats it (k ln(n/k) times on shuffled input), so the pass is one
 * well-predicted branch per candidate. Popping the heap, worst first, to its
 * own end leaves the k best in order.
 *
 * Invariant of the scan: data[0..k) is a heap that holds the k best of
 * data[0..i), and everything else seen so far stands in data[k..i).
 *
 * Quickselect needs two or three passes whose branches cannot be predicted, and
 * a bad pivot makes it quadratic; a radix select pays a histogram pass. Both win
 * only when k is a large part of n, which sampling does not ask for.
 */
#include "sample/order.h"

/* Put x at or below `at` in the heap[n] whose root is the last in order. */
static void sift_down(pr_cand *heap, size_t n, size_t at, pr_cand x) {
    for (size_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && pr__cand_before(&heap[child], &heap[child + 1])) {
            child++;
        }
        if (!pr__cand_before(&x, &heap[child])) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = x;
}

void pr__cands_order(pr_cand *data, size_t n, size_t k) {
    if (k == 0) {
        return;
    }
    for (size_t i = k / 2; i-- > 0;) {
        sift_down(data, k, i, data[i]);
    }
    for (size_t i = k; i < n; i++) {
        if (pr__cand_before(&data[i], &data[0])) {
            pr_cand x = data[i];
            data[i] = data[0];
            sift_down(data, k, 0, x);
        }
    }
    for (size_t end = k - 1; end > 0; end--) {
        pr_cand x = data[end];
        data[end] = data[0];
        sift_down(data, end, 0, x);
    }
}
