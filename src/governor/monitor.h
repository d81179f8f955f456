/*
 * Monitor: what the machine has, and how it is doing.
 *
 * Limit: the smallest of RAM, the control groups' limits and the configured one. Available: what this process can still get
 * before the first of these limits stands in its way; against the configured one its own resident bytes count. Used is
 * the limit less what is available, so it is a fraction of the limit whoever uses the memory.
 *
 * Everything is read from files under pr__os_root(), so tests bring their own machines; what is missing or odd is as if
 * it were not there. A memory source is a file with one number, the used fraction, that goes over all that is measured:
 * for scripted squeezes. A moment in which it cannot be read or makes no sense keeps the last number.
 *
 * Threads: sampling is thread-safe and allocates nothing. It opens some twenty small files: a quarter of a millisecond, so
 * once or a few times a second is its pace.
 */
#ifndef PRECIS_GOVERNOR_MONITOR_H
#define PRECIS_GOVERNOR_MONITOR_H

#include "base/mem.h"
#include "precis.h"

/* Zero-initialize for defaults. */
typedef struct pr_monitor_opts {
    uint64_t limit_bytes;      /* configured limit; 0: none */
    const char *memory_source; /* path, copied; NULL: measure */
    bool watch_pressure;       /* open a descriptor for memory pressure */
} pr_monitor_opts;

typedef struct pr_sample {
    double time;                                       /* pr_now() */
    uint64_t limit_bytes, available_bytes, used_bytes; /* available + used = limit */
    double used;                                       /* used_bytes / limit_bytes; 1 when the limit is 0 */
    bool scripted;                                     /* by the memory source */
    double pressure;                                   /* share of the last 10 s stalled; negative: unknown */
    uint64_t rss_bytes;
    size_t ledger[PR_TAG_COUNT]; /* bytes by purpose */
    size_t ledger_bytes;         /* all of them */
    double cpu_load;             /* processes wanting to run */
    int n_cpus;                  /* that this process may use, when the monitor was opened */
} pr_sample;

typedef struct pr_monitor pr_monitor;

/* An unusable memory source is an error here that names it. */
pr_status pr_monitor_open(const pr_monitor_opts *opts, pr_monitor **out, pr_err *err);
void pr_monitor_close(pr_monitor *monitor);
void pr_monitor_sample(pr_monitor *monitor, pr_sample *out);
/* Ready for POLLPRI when tasks stood still for want of memory for 150 ms within 2 s; -1: not told here, which is normal.
 * The monitor's own. */
int pr_monitor_fd(const pr_monitor *monitor);

#endif
