/*
 * The operating system: clock, files, and what the machine has to give.
 *
 * What this process may use is rarely what the machine has: a container's
 * limits stand in its control group and in every group above it, in two
 * dialects (v1 and v2), so the readers here walk from the process's own group
 * to the root and take the smallest value. All of it is read from files under
 * one overridable root, so the tests bring their own machines. A file that is
 * missing or odd never fails: it just limits nothing.
 */
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/syscall.h>
#endif

#include "base/mem.h"
#include "base/str.h"

/* ---- time ---- */

double pr_wall_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

uint64_t pr_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

double pr_now(void) { return (double)pr_now_ns() * 1e-9; }

/* ---- files ---- */

static atomic_int_least64_t fault_chunk; /* > 0: bytes a call */
static atomic_bool fault_dying;          /* calls fail once fault_calls is used up */
static atomic_int_least64_t fault_calls;

void pr_file_fault(int64_t n) {
    atomic_store(&fault_dying, false);
    atomic_store(&fault_chunk, n > 0 ? n : 0);
    atomic_store(&fault_calls, n < 0 ? -n : 0);
    atomic_store(&fault_dying, n < 0);
}

/* pread() with the injected faults. */
static ssize_t read_some(int fd, void *out, size_t len, off_t offset) {
    int64_t chunk = atomic_load_explicit(&fault_chunk, memory_order_relaxed);
    if (chunk > 0 && len > (uint64_t)chunk) len = (size_t)chunk;
    if (atomic_load_explicit(&fault_dying, memory_order_relaxed) && atomic_fetch_sub(&fault_calls, 1) <= 0) {
        errno = EIO;
        return -1;
    }
    return pread(fd, out, len, offset);
}

static int64_t mtime_ns(const struct stat *st) {
#ifdef __APPLE__
    return (int64_t)st->st_mtimespec.tv_sec * 1000000000 + st->st_mtimespec.tv_nsec;
#else
    return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
#endif
}

pr_status pr_file_open(const char *path, pr_file *out, pr_err *err) {
    *out = (pr_file){.fd = -1};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* a FIFO must not hang us */
    if (fd < 0) return pr_fail_errno(err, "%s", path);
    struct stat st;
    pr_status status = PR_OK;
    if (fstat(fd, &st) != 0) status = pr_fail_errno(err, "%s", path);
    else if (!S_ISREG(st.st_mode)) status = pr_fail(err, PR_ERR_ARG, "%s: not a regular file", path);
    if (status != PR_OK) {
        close(fd);
        return status;
    }
    *out = (pr_file){.fd = fd, .size = (uint64_t)st.st_size, .mtime_ns = mtime_ns(&st)};
    return PR_OK;
}

bool pr_file_identify(const pr_file *file, pr_file_identity *out) {
    struct stat st;
    if (file->fd < 0 || fstat(file->fd, &st) != 0) return false;
    *out = (pr_file_identity){(uint64_t)st.st_dev, (uint64_t)st.st_ino, (uint64_t)st.st_size, mtime_ns(&st),
                              (int64_t)st.st_ctim.tv_sec * 1000000000 + st.st_ctim.tv_nsec};
    return true;
}

void pr_file_close(pr_file *file) {
    if (file->fd >= 0) close(file->fd);
    file->fd = -1;
}

pr_status pr_file_read(const pr_file *file, uint64_t offset, void *out, size_t len, pr_err *err) {
    const size_t call_max = (size_t)1 << 30; /* Linux stops a little under 2 GiB anyway */
    size_t done = 0;
    if (offset > INT64_MAX || len > (uint64_t)INT64_MAX - offset) return pr_fail(err, PR_ERR_FORMAT, "truncated");
    while (done < len) {
        size_t want = len - done < call_max ? len - done : call_max;
        ssize_t n = read_some(file->fd, (char *)out + done, want, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return pr_fail_errno(err, "read of %zu bytes at %llu", len, (unsigned long long)offset);
        if (n == 0) return pr_fail(err, PR_ERR_FORMAT, "truncated");
        done += (size_t)n;
    }
    return PR_OK;
}

bool pr_file_changed(const pr_file *file) {
    struct stat st;
    return fstat(file->fd, &st) != 0 || (uint64_t)st.st_size != file->size || mtime_ns(&st) != file->mtime_ns;
}

void pr_file_willneed(const pr_file *file, uint64_t offset, uint64_t len) {
    (void)posix_fadvise(file->fd, (off_t)offset, (off_t)len, POSIX_FADV_WILLNEED);
}

void pr_file_dontneed(const pr_file *file, uint64_t offset, uint64_t len) {
    /* Whole pages: of one that a range shares with its neighbour the system would keep all. */
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), from = offset / page * page;
    len = pr_align_up(len + (offset - from), page);
    (void)posix_fadvise(file->fd, (off_t)from, (off_t)len, POSIX_FADV_DONTNEED);
}

pr_status pr_file_slurp(const char *path, size_t bytes_max, char **out, size_t *len, pr_err *err) {
    *out = NULL;
    *len = 0;
    pr_file file;
    pr_status status = pr_file_open(path, &file, err);
    if (status != PR_OK) return status;
    char *text = NULL;
    if (file.size > bytes_max || file.size == SIZE_MAX) {
        status = pr_fail(err, PR_ERR_LIMIT, "%s: %llu bytes, over the limit of %zu", path,
                         (unsigned long long)file.size, bytes_max);
        goto fail;
    }
    text = pr_alloc(PR_TAG_FILE, (size_t)file.size + 1);
    if (!text) {
        status = pr_fail_nomem(err, path, (size_t)file.size + 1);
        goto fail;
    }
    status = pr_file_read(&file, 0, text, (size_t)file.size, err);
    if (status != PR_OK) {
        pr_err_context(err, "%s", path);
        goto fail;
    }
    text[file.size] = '\0';
    *out = text;
    *len = (size_t)file.size;
    pr_file_close(&file);
    return PR_OK;
fail:
    pr_free(text);
    pr_file_close(&file);
    return status;
}

bool pr_path_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

bool pr_path_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int64_t pr_path_mtime_ns(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 ? mtime_ns(&st) : 0;
}

pr_status pr_path_mkdirs(const char *path, pr_err *err) {
    if (!*path) return pr_fail(err, PR_ERR_ARG, "empty path");
    char *copy = pr_strdup(PR_TAG_MISC, path);
    if (!copy) return pr_fail_nomem(err, path, strlen(path) + 1);
    pr_status status = PR_OK;
    for (char *at = copy + 1; status == PR_OK; at++) {
        if (*at != '/' && *at != '\0') continue;
        char end = *at;
        *at = '\0';
        int why = mkdir(copy, 0777) == 0 ? 0 : errno;
        if (why && !pr_path_is_dir(copy)) {
            errno = why; /* looking has changed it */
            status = pr_fail_errno(err, "%s", copy);
        }
        *at = end;
        if (!end) break;
    }
    pr_free(copy);
    return status;
}

uint64_t pr_disk_free(const char *path) {
    struct statvfs fs;
    if (statvfs(path, &fs) != 0) return 0;
    return (uint64_t)fs.f_bavail * fs.f_frsize;
}

/* ---- the system's files ---- */

static char os_root[256];

void pr__os_root(const char *root) { snprintf(os_root, sizeof os_root, "%s", root); }

bool pr_os_text(const char *path, char *buf, size_t buf_len) {
    char whole[4096];
    int n = snprintf(whole, sizeof whole, "%s%s", os_root, path);
    if (n < 0 || (size_t)n >= sizeof whole) return false;
    int fd = open(whole, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    size_t len = 0;
    ssize_t got = 0;
    while (len < buf_len - 1 && (got = read(fd, buf + len, buf_len - 1 - len)) > 0) len += (size_t)got;
    close(fd);
    buf[len] = '\0';
    return got >= 0;
}

/* The text after "key" and ':' and blanks on its line, or NULL. */
static char *field(char *text, const char *key) {
    size_t n = strlen(key);
    for (char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, key, n) != 0) continue;
        char *at = line + n + strspn(line + n, " \t");
        if (*at == ':') return at + 1 + strspn(at + 1, " \t");
    }
    return NULL;
}

/* "MemTotal:  16318480 kB" of a /proc file in bytes; 0 when absent. */
static uint64_t read_kb(const char *path, const char *key) {
    char text[8192];
    char *at = pr_os_text(path, text, sizeof text) ? field(text, key) : NULL;
    return at ? (uint64_t)strtoull(at, NULL, 10) * 1024 : 0;
}

/* ---- control groups ---- */

/*
 * Calls visit(arg, folder) for this process's group and every one above it.
 * /proc/self/cgroup has a line "0::/path" for v2 and "4:cpu,cpuacct:/path" for
 * each v1 controller. Inside a container the path may not exist under the mount
 * (which then shows the container's own group as its root): walking up ends at
 * the mount, so that is found too.
 */
static void groups_walk(const char *controller, void (*visit)(void *arg, const char *folder), void *arg) {
    char text[8192];
    if (!pr_os_text("/proc/self/cgroup", text, sizeof text)) return;
    char *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *names = strchr(line, ':');
        char *path = names ? strchr(names + 1, ':') : NULL;
        if (!path) continue;
        *path++ = '\0';
        names++;
        char folder[4096], listed[256], wanted[64];
        snprintf(listed, sizeof listed, ",%s,", names);
        snprintf(wanted, sizeof wanted, ",%s,", controller);
        if (*names && !strstr(listed, wanted)) continue;
        const char *mount = *names ? controller : "";
        const char *slash = *names ? "/" : "";
        size_t base = (size_t)snprintf(folder, sizeof folder, "/sys/fs/cgroup%s%s", slash, mount);
        int n = snprintf(folder + base, sizeof folder - base, "%s", path);
        if (n < 0 || (size_t)n >= sizeof folder - base) continue;
        for (;;) {
            char *last = strrchr(folder + base, '/');
            if (last && !last[1]) *last = '\0'; /* "/" is the mount itself */
            visit(arg, folder);
            last = strrchr(folder + base, '/');
            if (!last) break;
            *last = '\0';
        }
    }
}

static bool read_group(const char *folder, const char *name, char *buf, size_t buf_len) {
    char path[4096 + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return pr_os_text(path, buf, buf_len);
}

static void visit_memory(void *arg, const char *folder) {
    uint64_t *limit = arg;
    static const char *const names[] = {"memory.max", "memory.high",
                                        "memory.limit_in_bytes"}; /* over high: throttled */
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char text[64];
        if (!read_group(folder, names[i], text, sizeof text)) continue;
        uint64_t value = 0;
        text[strcspn(text, "\n")] = '\0';
        if (pr_parse_u64(text, &value) && value < *limit) *limit = value; /* "max" is no number */
    }
}

/* "key 123" of a group's memory.stat in bytes; 0 when absent. */
static uint64_t group_stat(const char *folder, const char *key) {
    char text[8192];
    size_t n = strlen(key);
    if (!read_group(folder, "memory.stat", text, sizeof text)) return 0;
    for (char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, key, n) == 0 && line[n] == ' ') return strtoull(line + n + 1, NULL, 10);
    }
    return 0;
}

/* What a limited group leaves: its limit, less what it holds that cannot be dropped. */
static void visit_available(void *arg, const char *folder) {
    static const char *const usages[] = {"memory.current", "memory.usage_in_bytes"};
    static const char *const caches[] = {"inactive_file", "total_inactive_file"}; /* v1 adds up its children's so */
    uint64_t *available = arg, limit = UINT64_MAX, used = 0;
    visit_memory(&limit, folder);
    if (limit == UINT64_MAX) return;
    for (size_t i = 0; i < 2; i++) {
        char text[64];
        if (!read_group(folder, usages[i], text, sizeof text)) continue;
        text[strcspn(text, "\n")] = '\0';
        if (!pr_parse_u64(text, &used)) continue;
        uint64_t cache = group_stat(folder, caches[i]);
        used -= cache < used ? cache : used;
        break;
    }
    uint64_t left = used < limit ? limit - used : 0;
    if (left < *available) *available = left;
}

static void visit_cpu(void *arg, const char *folder) {
    double *quota = arg;
    char text[64];
    double cpus = 0, used = -1, period = 0;
    if (read_group(folder, "cpu.max", text, sizeof text)) {
        char *end;
        used = strtod(text, &end); /* "max 100000" gives 0 */
        period = strtod(end, NULL);
    } else if (read_group(folder, "cpu.cfs_quota_us", text, sizeof text)) {
        used = strtod(text, NULL); /* -1: none */
        if (read_group(folder, "cpu.cfs_period_us", text, sizeof text)) period = strtod(text, NULL);
    }
    if (used > 0 && period > 0) cpus = used / period;
    if (cpus > 0 && (*quota <= 0 || cpus < *quota)) *quota = cpus;
}

uint64_t pr_files_allow(uint64_t wanted) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted; /* no limit that could be told */
    struct rlimit higher = limit;
    if (limit.rlim_cur < wanted) higher.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
    if (higher.rlim_cur != limit.rlim_cur && setrlimit(RLIMIT_NOFILE, &higher) == 0) limit = higher;
    return limit.rlim_cur;
}

/* ---- machine ---- */

uint64_t pr_ram_total(void) {
    uint64_t bytes = read_kb("/proc/meminfo", "MemTotal");
    if (bytes) return bytes;
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
}

uint64_t pr_ram_available(void) {
    uint64_t bytes = read_kb("/proc/meminfo", "MemAvailable");
    return bytes ? bytes : pr_ram_total();
}

uint64_t pr_memory_limit(void) {
    uint64_t limit = pr_ram_total();
    groups_walk("memory", visit_memory, &limit);
    return limit;
}

uint64_t pr_memory_available(void) {
    uint64_t available = pr_ram_available();
    groups_walk("memory", visit_available, &available);
    return available;
}

uint64_t pr_rss_bytes(void) { return read_kb("/proc/self/status", "VmRSS"); }
uint64_t pr_rss_peak_bytes(void) { return read_kb("/proc/self/status", "VmHWM"); }

double pr_cpu_quota(void) {
    double quota = 0;
    groups_walk("cpu", visit_cpu, &quota);
    return quota;
}

double pr_cpu_load(void) {
    char text[128];
    double load = pr_os_text("/proc/loadavg", text, sizeof text) ? strtod(text, NULL) : 0;
    return load > 0 && load < 1e6 ? load : 0;
}

/* Processors in the affinity mask. */
static int affinity_count(void) {
#ifdef __linux__
    cpu_set_t set[16]; /* 16384 processors; one cpu_set_t holds 1024 and the kernel refuses a set that is too small */
    if (sched_getaffinity(0, sizeof set, set) == 0) return CPU_COUNT_S(sizeof set, set);
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 && n < 1 << 20 ? (int)n : 1;
}

int pr_cpu_allowed(void) {
    int n = affinity_count();
    double quota = pr_cpu_quota();
    if (quota > 0 && ceil(quota) < n) n = (int)ceil(quota);
    return n < 1 ? 1 : n;
}

#ifdef __linux__
void pr_thread_nice(int more) {
    id_t thread = (id_t)syscall(SYS_gettid);
    setpriority(PRIO_PROCESS, thread, getpriority(PRIO_PROCESS, thread) + more);
}

/* A waking thread preempts one whose turn is longer than its own, if its share allows (EEVDF). Older systems and those that refuse
 * have it wait for the end of the other's turn. */
void pr_thread_prompt(void) {
    enum { TURN_NS = 100000 };
    id_t thread = (id_t)syscall(SYS_gettid);
    struct { /* sched_attr, its first version: not every C library has it */
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attr = {.size = sizeof attr, .nice = getpriority(PRIO_PROCESS, thread), .runtime = TURN_NS};
    _Static_assert(sizeof attr == 48, "SCHED_ATTR_SIZE_VER0");
    (void)syscall(SYS_sched_setattr, thread, &attr, 0);
}
#else
void pr_thread_nice(int more) { (void)more; }
void pr_thread_prompt(void) {}
#endif

static char cpu_name[128] = "unknown";

static void cpu_name_read(void) {
    char text[8192];
    char *name = pr_os_text("/proc/cpuinfo", text, sizeof text) ? field(text, "model name") : NULL;
    if (!name) return;
    name[strcspn(name, "\n")] = '\0';
    if (*name) snprintf(cpu_name, sizeof cpu_name, "%s", name);
}

const char *pr_cpu_name(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, cpu_name_read);
    return cpu_name;
}

/* ---- memory pressure --------------------------------------------------- */

/* "some avg10=1.23 avg60=..." as a fraction; negative when it says nothing of the kind. */
static double some_avg10(const char *text) {
    const char *at = strstr(text, "some avg10=");
    if (!at) return -1;
    char *end;
    double percent = strtod(at + strlen("some avg10="), &end);
    return end > at + strlen("some avg10=") && percent >= 0 && percent <= 100 ? percent / 100 : -1;
}

static void visit_pressure(void *arg, const char *folder) {
    double *most = arg;
    char text[512];
    double share = read_group(folder, "memory.pressure", text, sizeof text) ? some_avg10(text) : -1;
    if (share > *most) *most = share;
}

double pr_memory_pressure(void) {
    char text[512];
    double most = pr_os_text("/proc/pressure/memory", text, sizeof text) ? some_avg10(text) : -1;
    groups_walk("memory", visit_pressure, &most);
    return most;
}

typedef struct pr_trigger {
    char order[64]; /* what is written to arm it */
    int fd;         /* -1 until one was armed */
} pr_trigger;

static void trigger_arm(pr_trigger *trigger, const char *path) {
    char whole[4096 + 320];
    if (trigger->fd >= 0) return;
    snprintf(whole, sizeof whole, "%s%s", os_root, path);
    int fd = open(whole, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return;
    size_t len = strlen(trigger->order) + 1; /* the kernel wants the terminator, too */
    if (write(fd, trigger->order, len) == (ssize_t)len) trigger->fd = fd;
    else close(fd);
}

static void visit_trigger(void *arg, const char *folder) {
    char path[4096 + 64];
    snprintf(path, sizeof path, "%s/memory.pressure", folder);
    trigger_arm(arg, path);
}

int pr_memory_pressure_open(uint32_t stall_us, uint32_t window_us) {
    pr_trigger trigger = {.fd = -1};
    snprintf(trigger.order, sizeof trigger.order, "some %u %u", stall_us, window_us);
    groups_walk("memory", visit_trigger, &trigger);
    trigger_arm(&trigger, "/proc/pressure/memory");
    return trigger.fd;
}
