/*
 * The operating system, behind plain functions: time, files, processors,
 * memory limits. The only folder with an OS #if is base/.
 */
#ifndef PRECIS_BASE_OS_H
#define PRECIS_BASE_OS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

/* ---- time ---- */
double pr_now(void);        /* monotonic seconds */
uint64_t pr_now_ns(void);   /* monotonic nanoseconds */
double pr_wall_clock(void); /* seconds since 1970; may be set back */

/* ---- files ---- */
typedef struct pr_file {
    int fd;           /* -1: closed */
    uint64_t size;    /* at open */
    int64_t mtime_ns; /* at open */
} pr_file;

pr_status pr_file_open(const char *path, pr_file *out, pr_err *err); /* regular files only, read-only */
void pr_file_close(pr_file *file);
/* What an open file is known by: as long as nobody writes to it or touches it, and no other file is it. It has no
 * gaps, so memcmp() compares. False when the system does not say. */
typedef struct pr_file_identity {
    uint64_t device, inode, size;
    int64_t written_ns, changed_ns; /* since 1970; the second rises with every change, and nobody can set it */
} pr_file_identity;
bool pr_file_identify(const pr_file *file, pr_file_identity *out);
/* Read exactly len bytes at offset, retrying short reads. PR_ERR_FORMAT "truncated" at the end of the file. */
pr_status pr_file_read(const pr_file *file, uint64_t offset, void *out, size_t len, pr_err *err);
/* True when somebody wrote to the file or cut it after it was opened (a file put in its place is another one). */
bool pr_file_changed(const pr_file *file);
/* Tell the system the range will be read soon / is not needed in its cache any more. Never fails. */
void pr_file_willneed(const pr_file *file, uint64_t offset, uint64_t len);
void pr_file_dontneed(const pr_file *file, uint64_t offset, uint64_t len);
/* Whole file into a fresh terminated block (pr_free); at most bytes_max. */
pr_status pr_file_slurp(const char *path, size_t bytes_max, char **out, size_t *len, pr_err *err);
bool pr_path_exists(const char *path);
bool pr_path_is_dir(const char *path);
int64_t pr_path_mtime_ns(const char *path); /* when it was last written, in ns since 1970; 0: there is none */
/* mkdir -p. */
pr_status pr_path_mkdirs(const char *path, pr_err *err);
/* Bytes a plain user may still write at path's file system; 0 when unknown. */
uint64_t pr_disk_free(const char *path);

/* Tests: make every pr_file_read deliver at most n bytes a system call, or (n < 0) fail after -n calls with EIO; 0: off. */
void pr_file_fault(int64_t n);

/* Descriptors this process may have open: raised towards `wanted` as far as the system lets a process do that itself, never
 * lowered. Returns the limit then. */
uint64_t pr_files_allow(uint64_t wanted);

/* ---- machine ---- */
uint64_t pr_ram_total(void);
uint64_t pr_ram_available(void);
/* The smaller of RAM and the cgroup's memory limit (v1 or v2; of v2 also memory.high, beyond which it is throttled). */
uint64_t pr_memory_limit(void);
/* What this process can still get: RAM available, or less where a control group leaves less. A group's clean file cache
 * counts as available. */
uint64_t pr_memory_available(void);
uint64_t pr_rss_bytes(void);      /* this process, now */
uint64_t pr_rss_peak_bytes(void); /* highest since the start */
/* Processors this process may use: affinity cut by the cgroup CPU quota, rounded up, at least 1. */
int pr_cpu_allowed(void);
/* Add to the niceness of the calling thread alone, where the system can do that. */
void pr_thread_nice(int more);

/* Ask that the calling thread, which works in short bursts, gets a processor as soon as it wakes, even where threads that compute
 * have them all: a turn of 0.1 ms instead of some milliseconds. Its share does not change. Linux since 6.12; elsewhere nothing. */
void pr_thread_prompt(void);
double pr_cpu_quota(void);     /* CPUs by cgroup quota, 0: none */
double pr_cpu_load(void);      /* processes that run or want to, average of a minute; 0 when unknown */
const char *pr_cpu_name(void); /* "AMD EPYC ..." or "unknown" */

/* Memory pressure: the share of the last 10 s, 0..1, in which some task stood still for want of memory; the highest of the
 * machine's and of the process's control groups. Negative: this system does not tell, which is normal. */
double pr_memory_pressure(void);
/* A descriptor that becomes ready for POLLPRI when tasks have stood still for stall_us within window_us; the caller
 * closes it. The nearest control group that allows it, else the machine; -1: none does, which is normal. */
int pr_memory_pressure_open(uint32_t stall_us, uint32_t window_us);

/* The start of a file of the system ("/proc/...", "/sys/...", "/etc/...") into buf, terminated; false when it cannot be read. */
bool pr_os_text(const char *path, char *buf, size_t buf_len);

/* Tests: look for /proc and /sys/fs/cgroup under this folder; "": the real ones. */
void pr__os_root(const char *root);

#endif
