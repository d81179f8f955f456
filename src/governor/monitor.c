/*
 * Monitor: one sample from many small files.
 *
 * It keeps almost nothing between samples: files are opened each time, since a control group may be moved or changed while
 * we run, and twenty opens a second cost less than explaining a stale number. The window of the pressure trigger is 2 s because that
 * is what the kernel allows everybody; shorter ones need a privilege.
 */
#include "governor/monitor.h"

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "base/status.h"
#include "base/str.h"

struct pr_monitor {
    pthread_mutex_t lock; /* of `scripted` */
    uint64_t limit_bytes;
    char *source;    /* NULL: measure */
    double scripted; /* the source's last good number */
    int fd;
    int n_cpus;
};

/* One number, 0 to 1, and nothing else. */
static bool read_source(const char *path, double *out) {
    char text[64];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return false;
    ssize_t len = read(fd, text, sizeof text - 1);
    close(fd);
    while (len > 0 && strchr(" \t\r\n", text[len - 1])) len--;
    if (len <= 0) return false;
    text[len] = '\0';
    double value;
    if (!pr_parse_f64(text, &value) || value < 0 || value > 1) return false;
    *out = value;
    return true;
}

pr_status pr_monitor_open(const pr_monitor_opts *opts, pr_monitor **out, pr_err *err) {
    *out = NULL;
    pr_monitor *m = pr_calloc(PR_TAG_MISC, 1, sizeof *m);
    if (!m) return pr_fail_nomem(err, "monitor", sizeof *m);
    pr_status status = PR_OK;
    pthread_mutex_init(&m->lock, NULL);
    m->fd = -1;
    m->limit_bytes = opts->limit_bytes;
    m->n_cpus = pr_cpu_allowed();
    if (opts->memory_source) {
        m->source = pr_strdup(PR_TAG_MISC, opts->memory_source);
        if (!m->source) {
            status = pr_fail_nomem(err, opts->memory_source, strlen(opts->memory_source) + 1);
            goto fail;
        }
        if (!read_source(m->source, &m->scripted)) {
            status = pr_fail(err, PR_ERR_ARG, "memory source %s: not a file with a fraction such as 0.48", m->source);
            goto fail;
        }
    }
    if (opts->watch_pressure) m->fd = pr_memory_pressure_open(150000, 2000000);
    *out = m;
    return PR_OK;
fail:
    pr_monitor_close(m);
    return status;
}

void pr_monitor_close(pr_monitor *m) {
    if (!m) return;
    if (m->fd >= 0) close(m->fd);
    pthread_mutex_destroy(&m->lock);
    pr_free(m->source);
    pr_free(m);
}

int pr_monitor_fd(const pr_monitor *m) { return m->fd; }

static void sample_memory(pr_monitor *m, pr_sample *s) {
    s->rss_bytes = pr_rss_bytes();
    s->limit_bytes = pr_memory_limit();
    s->available_bytes = pr_memory_available();
    if (m->limit_bytes) {
        uint64_t left = s->rss_bytes < m->limit_bytes ? m->limit_bytes - s->rss_bytes : 0;
        if (left < s->available_bytes) s->available_bytes = left;
        if (m->limit_bytes < s->limit_bytes) s->limit_bytes = m->limit_bytes;
    }
    if (s->available_bytes > s->limit_bytes) s->available_bytes = s->limit_bytes;
}

static void sample_source(pr_monitor *m, pr_sample *s) {
    pthread_mutex_lock(&m->lock);
    double used = m->scripted;
    if (read_source(m->source, &used)) m->scripted = used;
    pthread_mutex_unlock(&m->lock);
    s->scripted = true;
    uint64_t bytes = (uint64_t)llround(used * (double)s->limit_bytes);
    s->available_bytes = bytes < s->limit_bytes ? s->limit_bytes - bytes : 0;
}

void pr_monitor_sample(pr_monitor *m, pr_sample *out) {
    *out = (pr_sample){.time = pr_now(), .n_cpus = m->n_cpus};
    sample_memory(m, out);
    if (m->source) sample_source(m, out);
    out->used_bytes = out->limit_bytes - out->available_bytes;
    out->used = out->limit_bytes ? (double)out->used_bytes / (double)out->limit_bytes : 1;
    out->pressure = pr_memory_pressure();
    out->cpu_load = pr_cpu_load();
    for (int i = 0; i < PR_TAG_COUNT; i++) {
        out->ledger[i] = pr_mem_bytes((pr_tag)i);
        out->ledger_bytes += out->ledger[i];
    }
}
