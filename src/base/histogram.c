/*
 * Histograms of durations.
 *
 * Fixed buckets instead of a sketch that adapts: two atomic additions a value, no lock, no memory, and histograms of threads,
 * models and moments can be added and subtracted. The price is resolution, and ten buckets a decade are finer than any
 * dashboard shows.
 */
#include "base/histogram.h"

#include <math.h>

#define DECADE(unit)                                                                                                   \
    1 * (unit), 1.2 * (unit), 1.5 * (unit), 2 * (unit), 2.5 * (unit), 3 * (unit), 4 * (unit), 5 * (unit), 6 * (unit),  \
        8 * (unit)

enum { FINITE = PR_HIST_BUCKETS - 1, A_DECADE = 10, COARSE_A_DECADE = 3 };

static const double bounds[FINITE] = {
    DECADE(1e-4), DECADE(1e-3), DECADE(1e-2), DECADE(1e-1), DECADE(1e0), DECADE(1e1), DECADE(1e2), 1e3,
};

double pr_hist_bound(size_t bucket) { return bucket < FINITE ? bounds[bucket] : (double)INFINITY; }

/* The first bucket whose bound is not below. */
static size_t bucket_of(double seconds) {
    size_t low = 0, high = FINITE;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (seconds <= bounds[mid]) high = mid;
        else low = mid + 1;
    }
    return low;
}

void pr_hist_add(pr_hist *hist, double seconds) {
    const double most = 9e9;
    if (!(seconds > 0)) seconds = 0;
    if (seconds > most) seconds = most;
    atomic_fetch_add_explicit(&hist->count[bucket_of(seconds)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&hist->sum_ns, (uint64_t)(seconds * 1e9), memory_order_relaxed);
}

void pr_hist_gather(const pr_hist *hist, pr_hist_view *view) {
    for (size_t i = 0; i < PR_HIST_BUCKETS; i++) {
        uint64_t n = atomic_load_explicit(&hist->count[i], memory_order_relaxed);
        view->count[i] += n;
        view->n += n;
    }
    view->seconds += (double)atomic_load_explicit(&hist->sum_ns, memory_order_relaxed) * 1e-9;
}

double pr_hist_quantile(const pr_hist_view *view, double q) {
    double rank = q * (double)view->n, before = 0;
    if (view->n == 0) return (double)NAN;
    for (size_t i = 0; i < FINITE; i++) {
        double here = (double)view->count[i], low = i ? bounds[i - 1] : 0;
        if (here > 0 && before + here >= rank) {
            double part = rank > before ? (rank - before) / here : 0;
            return low + (bounds[i] - low) * part;
        }
        before += here;
    }
    return bounds[FINITE - 1];
}

bool pr_hist_coarse(const pr_hist_view *view, size_t i, double *bound, uint64_t *at_most) {
    static const size_t taken[COARSE_A_DECADE] = {0, 4, 7}; /* 1, 2.5, 5 */
    size_t last = i / COARSE_A_DECADE * A_DECADE + taken[i % COARSE_A_DECADE];
    if (last > FINITE + taken[1]) return false;
    if (last > FINITE) last = FINITE; /* what would follow 1000 s */
    *bound = pr_hist_bound(last);
    *at_most = 0;
    for (size_t b = 0; b <= last; b++) *at_most += view->count[b];
    return true;
}
