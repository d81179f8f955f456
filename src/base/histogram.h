/*
 * Histograms of durations: counted by any thread, read by any other, never locked.
 *
 * Buckets are the same for all: ten a decade (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8) from 100 us to 1000 s, and one for all that is
 * longer, so histograms add up and subtract. A quantile is exact to its bucket, a third of its value at most, half of that
 * on average. Every bound is a decimal number, so a coarser histogram of some of them (pr_hist_coarse) is exact, too.
 *
 * Threads: adding and reading are lock-free and may be at the same time; a reader then sees some of what is being added.
 */
#ifndef PRECIS_BASE_HISTOGRAM_H
#define PRECIS_BASE_HISTOGRAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PR_HIST_BUCKETS = 72 }; /* the last one has no upper bound */

typedef struct pr_hist { /* zero-initialize */
    atomic_uint_least64_t count[PR_HIST_BUCKETS];
    atomic_uint_least64_t sum_ns;
} pr_hist;

/* What is negative or not a number counts as 0; over 290 years is cut. Some 10 ns. */
void pr_hist_add(pr_hist *hist, double seconds);

typedef struct pr_hist_view { /* a histogram as it was at a moment; zero-initialize for an empty one */
    uint64_t count[PR_HIST_BUCKETS];
    uint64_t n;     /* all of them */
    double seconds; /* their sum */
} pr_hist_view;

/* Add what is in hist to *view. */
void pr_hist_gather(const pr_hist *hist, pr_hist_view *view);

/* Upper bound of a bucket in seconds, included in it; infinite for the last one. */
double pr_hist_bound(size_t bucket);

/* The value below which a share q of 0..1 lies, by straight lines within buckets; the last bound for what is longer; not a
 * number when the view is empty. */
double pr_hist_quantile(const pr_hist_view *view, double q);

/* For exposition: bound number i of the coarser histogram of three a decade (1, 2.5, 5), and how many are at most that; the
 * last has an infinite bound and all of them. Returns false past the end. */
bool pr_hist_coarse(const pr_hist_view *view, size_t i, double *bound, uint64_t *at_most);

#endif
