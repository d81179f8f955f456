/*
 * Writing metrics: Prometheus' text format 0.0.4, or OpenMetrics 1.0.0, from the same calls. Pure.
 *
 * A family is announced once and followed by its samples. Names of counters end in _total, as both formats want them.
 */
#ifndef PRECIS_API_PROMETHEUS_H
#define PRECIS_API_PROMETHEUS_H

#include "base/histogram.h"
#include "base/str.h"

typedef struct pr_prom { /* zero-initialize but for out and open */
    pr_str *out;
    bool open; /* OpenMetrics */
    const char *family;
} pr_prom;

typedef struct pr_prom_label {
    const char *name, *value; /* any value: it is escaped, and what is not UTF-8 becomes U+FFFD */
} pr_prom_label;

typedef enum pr_prom_type { PR_PROM_COUNTER, PR_PROM_GAUGE, PR_PROM_HISTOGRAM } pr_prom_type;

/* name must outlive the family. */
void pr_prom_family(pr_prom *p, const char *name, pr_prom_type type, const char *help);
void pr_prom_number(pr_prom *p, const pr_prom_label *labels, size_t n, double value);
void pr_prom_count(pr_prom *p, const pr_prom_label *labels, size_t n, uint64_t value);
/* Buckets of the coarse histogram, sum and count. */
void pr_prom_histogram(pr_prom *p, const pr_prom_label *labels, size_t n, const pr_hist_view *view);
/* Families of one sample without labels. */
void pr_prom_one(pr_prom *p, const char *name, pr_prom_type type, const char *help, double value);
void pr_prom_end(pr_prom *p);

/* What the client takes: Accept header (may be NULL). */
bool pr_prom_wants_open(const char *accept);
const char *pr_prom_content_type(bool open);

#endif
